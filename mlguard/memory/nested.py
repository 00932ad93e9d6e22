"""Guarded calls inside guarded calls: what the inner one needs comes out of what the outer one was promised.

Otherwise the same bytes were promised twice, and a call that runs alone, as nobody knows yet what it needs, would wait
for itself. "Inside" is what a context variable says: tasks that a call starts are inside, and so is what it runs by
`asyncio.to_thread`; threads of a pool are not.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlguard.memory.ledger import Claim

__all__ = ["Share", "enter", "leave", "share"]

_within: ContextVar[Claim | None] = ContextVar("mlguard_memory_within", default=None)


class Share:
    """What a call inside another one uses of its promise."""

    __slots__ = ("_outer", "need")

    def __init__(self, outer: Claim, need: int) -> None:
        self._outer = outer
        self.need = need
        """Bytes."""

    def release(self) -> None:
        """Gives them back to the outer call."""
        self._outer.give_back(self.need)

    def detach(self) -> None:
        """Nothing to do: it is nothing that other calls could be inside of."""


def share(need: int | None) -> Share | bool | None:
    """What a call may run under that is part of another one: True where there is nothing to give back.

    None where it is part of none, or where too little of that one's promise is left for it.

    Args:
        need: Bytes; None: nobody knows, but then the outer one's promise is all there can be.
    """
    outer = _within.get()
    while outer is not None and not outer.held:
        outer = outer.outer  # it ended where this context could not hear of it
    if outer is None:
        return None
    if not need:
        return True
    return Share(outer, need) if outer.lend(need) else None


def enter(claim: Claim) -> None:
    """What the calling context starts from now on is inside the call that this was promised to."""
    claim.outer = _within.get()
    _within.set(claim)


def leave(claim: Claim) -> None:
    """What it starts from now on is not: the call has ended, or goes on in a thread of its own."""
    if _within.get() is claim:
        _within.set(claim.outer)
