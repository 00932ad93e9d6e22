"""Ways out of memory pressure that cost time, kept from becoming a load of their own.

Shrinking caches, collecting garbage and trimming the heaps each take part in at most 5 % of the time of the process; a
collection that found nothing is not repeated soon.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

from mlguard import clock
from mlguard.forks import renew_in_children
from mlguard.memory import allocator

__all__ = ["Collector", "Throttled", "of_this_process"]

SHARE_OF_TIME = 0.05
"""A full collection takes about 67 ms per million tracked objects, during which no thread runs Python."""

LONGEST_PAUSE = 60.0
"""Seconds after which even work that has been useless so far is tried again."""

WORTHWHILE = 8
"""Caches that hold less than this part of what is missing are left alone: without them hits would be lost, and the call
could not start all the same."""


class Throttled:
    """Work that runs in one thread at a time, and for at most 5 % of the time.

    Args:
        work: Returns how much it achieved; after 0 the pause until the next time doubles, each time.
    """

    _running: bool
    _next: float
    _in_vain: int

    def __init__(self, work: Callable[..., int]) -> None:
        self._work = work
        self.after_fork()
        renew_in_children(self)

    def __call__(self, *args: Any) -> int | None:
        """What it achieved; None where it is running, or was run too recently."""
        started = clock.now()
        if self._running or started < self._next:
            return None
        self._running = True  # a flag and no lock: destructors, which are user code, run in here
        achieved = 0
        try:
            achieved = self._work(*args)
        finally:
            ended = clock.now()
            self._in_vain = 0 if achieved else min(self._in_vain + 1, 16)
            pause = (ended - started) * (1 / SHARE_OF_TIME - 1)
            self._next = ended + min(pause * 2 ** max(0, self._in_vain - 1), max(pause, LONGEST_PAUSE))
            self._running = False
        return achieved

    def after_fork(self) -> None:
        """As if it had never run: the child may lack the thread that ran it."""
        self._running = False
        self._next = float("-inf")
        self._in_vain = 0


def _shrink(wanted: int) -> int:
    from mlguard import cache  # here, because most policies need one of the two rooms only

    return cache.shrink(wanted) if cache.held() * WORTHWHILE >= wanted else 0


def _collect() -> int:
    return gc.collect()


def _trim() -> int:
    allocator.of_this_process().trim()
    return 1  # whether it helped shows in the next reading only


class Collector:
    """The three ways out, each at its own pace."""

    def __init__(self) -> None:
        self.shrink = Throttled(_shrink)
        """Makes mlguard's own caches in this process give up that many bytes; the bytes they gave up."""
        self.collect = Throttled(_collect)
        """Runs the garbage collector; the number of objects it found."""
        self.hand_back = Throttled(_trim)
        """Has the allocator hand back what was freed; 1 once it did."""


of_this_process = Collector()
"""Shared by every guard of the process, as the heap is."""
