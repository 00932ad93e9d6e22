"""Counting on the path every call takes: one step in C, no lock, no lost step under threads."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    _Count = itertools.count[int]
else:
    _Count = itertools.count

__all__ = ["Steps"]


class Steps(_Count):
    """A counter whose ``__next__`` is the step: 20 ns, and atomic, because it never enters Python.

    A count can't be read without stepping it, so `read` remembers how often it did.

    Args:
        owner: The object it counts for; a copy in another process is that object's own counter, at 0.
    """

    def __init__(self, owner: Any) -> None:
        self._owner = owner
        self._reads = 0

    def __new__(cls, owner: Any) -> Self:
        steps: Self = super().__new__(cls)  # type: ignore[assignment]  # typeshed gives the class's own name
        return steps

    def read(self) -> int:
        """The steps so far. Not atomic: call it under the owner's lock."""
        steps = next(self) - self._reads
        self._reads += 1
        return steps

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _steps_of, (self._owner,)


def _steps_of(owner: Any) -> Any:
    return owner.steps
