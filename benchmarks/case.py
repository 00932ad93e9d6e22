"""What is measured: contestants that do the same work, the call that is timed, and the budget as data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["OURS", "Budget", "Case"]

OURS = "mlguard"
"""The contestant that every ratio is about, unless its budget says otherwise."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How slow `of` may be against `peer`: (of - minus) / peer <= at_most, paired per round."""

    peer: str
    at_most: float | None
    """None: shown for information."""
    of: str = OURS
    minus: str | None = None
    """A contestant whose time is taken off first, where the claim is about what a feature adds to a call."""


@dataclass(frozen=True, slots=True)
class Case:
    """Contestants timed on the same call, interleaved, in one process."""

    name: str
    claim: str
    """One sentence: what is called, and what everybody's duties are."""
    contestants: Mapping[str, Callable[..., Any]]
    arguments: tuple[Any, ...] = ()
    budgets: tuple[Budget, ...] = ()
    asynchronous: bool = False
    """The contestants are coroutine functions, awaited in one running loop."""
    self_timed: bool = False
    """The contestants return the seconds they took themselves, such as a subprocess that times its own import."""
    most_rounds: int | None = None
    """Bounds the rounds where a single call takes a noticeable time."""
    least_sample: float = 0.0
    """Seconds a sample lasts at least, where what is claimed of a call only shows over a time."""

    def __post_init__(self) -> None:
        for budget in self.budgets:
            for name in (budget.of, budget.peer, budget.minus):
                if name is not None and name not in self.contestants:
                    raise ValueError(
                        f"{self.name}: the budget names {name!r}, but the contestants are {list(self.contestants)}"
                    )
