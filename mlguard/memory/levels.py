"""What would be used without the calls in flight: the base of each level, onto which their promises are added.

A promise counts until its call ends, but from the moment its call has allocated it is also in what is read as used. So
the promises are added to a base rather than to that: to what was used while nothing was promised anywhere.
"""

from __future__ import annotations

import functools
import hashlib
from typing import NamedTuple

from mlguard.memory.probe import Reading

__all__ = ["FORGET_AFTER", "Level", "Levels"]

FORGET_AFTER = 60.0
"""Seconds for which a base stays raised by what was seen used beyond all promises. Memory that went up for good is seen
again whenever the calls have allocated what they were promised; what was passing must not stay in the way of a service
that has always something in flight."""


class Level(NamedTuple):
    """The base of one limit."""

    idle: int
    """Used when nothing was promised, or less since."""
    risen: int = 0
    """The most that was used beyond all promises since then; a later and lower one after a minute."""
    risen_at: float = 0.0


class Levels(dict[int, Level]):
    """The bases by level."""

    def base(self, reading: Reading, promised: int, now: float) -> int:
        """Bytes that would be used without the calls in flight; the reading is taken into account."""
        key = _key(reading.source)
        level = self.get(key)
        if not promised:
            level = Level(reading.used)
        else:
            beyond = max(0, reading.used - promised)
            idle, risen, risen_at = level or Level(beyond)
            if beyond >= risen or now - risen_at > FORGET_AFTER:
                risen, risen_at = beyond, now
            level = Level(min(idle, reading.used), min(risen, reading.used), risen_at)  # it is a part of what is used
        self[key] = level
        return max(level.idle, level.risen)


@functools.lru_cache(64)
def _key(source: str) -> int:
    """The same in every process; never 0."""
    return int.from_bytes(hashlib.blake2b(source.encode(), digest_size=8).digest(), "little") | 1
