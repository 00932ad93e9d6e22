"""The ladder: windows of several lengths over one stream, so that a large change shows soon and a small one at all.

Counts only ever grow; a window is the difference between the counts now and those at its start. So nothing that a
thread adds while a window ends is lost, and the counts themselves are what workers add up (`fleet.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

__all__ = ["Counts", "Ladder", "Window"]

Counts: TypeAlias = list[list[int]]
"""By field, by cell."""


@dataclass(slots=True)
class Window:
    """A window that came to its end."""

    rung: int
    """Its place in the ladder, the shortest first."""
    counts: Counts
    """What fell into each field's cells."""


@dataclass(slots=True)
class _Rung:
    length: int
    started: int = 0
    counts: Counts = field(default_factory=list)


class Ladder:
    """Consecutive windows of each length.

    Args:
        lengths: Rows of a window, ascending. A window ends with the call that fills it, so that it may be longer.
    """

    def __init__(self, lengths: Sequence[int]) -> None:
        self.lengths = tuple(lengths)
        self._rungs = [_Rung(length) for length in lengths]
        self.next = self.lengths[0]
        """The row count at which a window will have ended."""

    def ended(self, rows: int, counts: Counts) -> list[Window]:
        """The windows that end now, with so many rows counted in all; the next ones start here."""
        found = []
        for place, rung in enumerate(self._rungs):
            if rows - rung.started >= rung.length:
                found.append(Window(place, since(rung.counts, counts)))
                rung.started, rung.counts = rows, counts
        self.next = min(rung.started + rung.length for rung in self._rungs)
        return found


def since(before: Counts, now: Counts) -> Counts:
    """What came between two moments."""
    if not before:
        return now
    return [[new - old for old, new in zip(*pair, strict=True)] for pair in zip(before, now, strict=True)]
