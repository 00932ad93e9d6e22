"""Who waits for memory in this process: threads and tasks in one line, first come, first served.

Nothing is handed over: whoever may look for memory looks itself, so that a wait that is cancelled loses nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time

from mlguard import clock

__all__ = ["MOST_WAITING", "STALE", "Line", "TaskWaiter", "ThreadWaiter", "Waiter"]

MOST_WAITING = 1000
"""Calls that wait in one process; more are refused at once, as those that wait keep their inputs in memory."""

STALE = 0.5
"""Seconds after which a call that has shown no sign of life is passed by: its event loop is busy, or it is stopped."""

FIRST_PAUSE, LONGEST_PAUSE = 0.001, 0.01
"""Seconds between two looks of the first in line; they grow by half each time. A call that ends in this process rings;
the pauses are for what ends elsewhere."""

_OTHERS_PAUSE = 0.25
_RUNG_AT_ONCE = 8


class Waiter:
    """A call that waits.

    Args:
        need: What it needs, in bytes.
        share: Up to which share of the limit it may start.
    """

    def __init__(self, need: int, share: float) -> None:
        self.need = need
        self.share = share
        self.since = self.looked = clock.now()
        self.rung = False
        self._pause = FIRST_PAUSE

    @property
    def gone(self) -> bool:
        """True where it can never look again."""
        return False

    def ring(self) -> None:
        """Ends its pause: a look may be worth it."""
        raise NotImplementedError

    def awake(self) -> bool:
        """Called after each pause; True where it was rung for."""
        rung, self.rung = self.rung, False
        self.looked = clock.now()
        return rung

    def step(self, first: bool) -> float:
        """Seconds until its next look, unless it is rung for."""
        if not first:
            return _OTHERS_PAUSE
        pause, self._pause = self._pause, min(self._pause * 1.5, LONGEST_PAUSE)
        return pause


class ThreadWaiter(Waiter):
    """A thread that waits."""

    def __init__(self, need: int, share: float) -> None:
        super().__init__(need, share)
        self._bell = threading.Event()

    def ring(self) -> None:
        self.rung = True
        self._bell.set()

    def awake(self) -> bool:
        self._bell.clear()
        return super().awake()

    def pause(self, seconds: float) -> None:
        """Waits that long, or until it is rung for. Where a test replaced the clock, that decides."""
        if clock.sleep is time.sleep:
            self._bell.wait(seconds)
        else:
            clock.sleep(seconds)


class TaskWaiter(Waiter):
    """A task that waits, on whatever event loop it runs."""

    def __init__(self, need: int, share: float) -> None:
        super().__init__(need, share)
        self._loop = asyncio.get_running_loop()
        self._woken: asyncio.Future[None] | None = None

    @property
    def gone(self) -> bool:
        return self._loop.is_closed()

    def ring(self) -> None:
        self.rung = True
        with contextlib.suppress(RuntimeError):  # its loop was closed: the line will find out
            self._loop.call_soon_threadsafe(self._wake)

    async def pause(self, seconds: float) -> None:
        """Waits that long, or until it is rung for. Where a test replaced the clock, that decides."""
        if clock.sleep_async is not asyncio.sleep:
            await clock.sleep_async(seconds)
            return
        self._woken = self._loop.create_future()
        alarm = self._loop.call_later(0 if self.rung else seconds, self._wake)
        try:
            await self._woken
        finally:
            alarm.cancel()
            self._woken = None

    def _wake(self) -> None:
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)


class Line:
    """Those who wait, in the order they came."""

    def __init__(self) -> None:
        # Reentrant, as a destructor may run a guarded function while it is held.
        self._lock = threading.RLock()
        self._waiters: dict[Waiter, None] = {}

    def __len__(self) -> int:
        return len(self._waiters)

    def join(self, waiter: Waiter) -> bool:
        """False where the line is full."""
        with self._lock:
            if len(self._waiters) >= MOST_WAITING:
                return False
            self._waiters[waiter] = None
            return True

    def leave(self, waiter: Waiter) -> None:
        """Whoever is first now is rung for."""
        with self._lock:
            self._waiters.pop(waiter, None)
        self.ring()

    def first(self, share: float = 0.0) -> Waiter | None:
        """Who comes next; None where nobody waits. Those without a sign of life are passed by.

        Args:
            share: Of a call that may fill the limit that far; it need not wait for those that may not.
        """
        if not self._waiters:
            return None
        long_ago = clock.now() - STALE
        with self._lock:
            for one in list(self._waiters):
                if one.gone:
                    del self._waiters[one]
                elif one.share >= share and one.looked >= long_ago:
                    return one
        return None

    def ring(self) -> None:
        """Memory may be free: the first in line is told, and the first of those that may fill it further."""
        share = 0.0
        while (first := self.first(share)) is not None:
            first.ring()
            share = math.nextafter(first.share, 2)

    def ring_those_within(self, room: int) -> None:
        """Tells a few of those behind the first that what it can't use is enough for them."""
        with self._lock:
            waiters = list(self._waiters)[1:]
        rung = 0
        for waiter in waiters:
            if waiter.need <= room:
                waiter.ring()
                room -= waiter.need
                rung += 1
                if rung == _RUNG_AT_ONCE:
                    return
