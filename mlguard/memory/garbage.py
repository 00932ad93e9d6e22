"""Two ways out of memory pressure, kept from becoming a load of their own: collecting garbage, and trimming the heap.

glibc keeps much of what a program has freed: with nothing in flight a process can stay near its limit for ever, and a
guard that looks only at numbers would stay shut with it. So freed memory is handed back before a call is refused.
"""

from __future__ import annotations

import ctypes
import functools
import gc
from collections.abc import Callable

from mlguard import clock

__all__ = ["Collector", "of_this_process"]

SHARE_OF_TIME = 0.05
"""A full collection takes about 67 ms per million tracked objects, during which no thread runs Python."""


class Collector:
    """Collects garbage and hands freed memory back, each for at most 5 % of the time."""

    def __init__(self) -> None:
        self.collect = _Throttled(_collect)
        """Collects, hands back, and returns True; False where that is running, or was run too recently."""
        self.hand_back = _Throttled(_hand_back)
        """Hands back what was freed meanwhile, as `collect` does at its end."""


class _Throttled:
    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._running = False
        self._next = float("-inf")

    def __call__(self) -> bool:
        started = clock.now()
        if self._running or started < self._next:
            return False
        self._running = True  # a flag and no lock: destructors, which are user code, run in here
        try:
            self._work()
        finally:
            ended = clock.now()
            self._next = ended + (ended - started) * (1 / SHARE_OF_TIME - 1)
            self._running = False
        return True


def _collect() -> None:
    gc.collect()
    _hand_back()


def _hand_back() -> None:
    trim = _malloc_trim()
    if trim is not None:
        trim(0)  # lets other threads run meanwhile, as every call through ctypes


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    """The C library's malloc_trim, which is glibc's; None with other C libraries, most of which keep less."""
    try:
        trim: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
    return trim


of_this_process = Collector()
"""Shared by every guard of the process, as the heap is."""
