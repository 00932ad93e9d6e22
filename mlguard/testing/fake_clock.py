"""A clock that moves only when told."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

from mlguard import clock
from mlguard.resilience import alarms

__all__ = ["FakeClock"]

_GLANCE = 0.001  # seconds, real ones, between two looks of a thread that waits for somebody else


class FakeClock:
    """Stands in for `mlguard.clock` while it is entered.

    Everything that mlguard times follows it: time-to-live, breaker and budget windows, pauses, deadlines, the limits of
    waits for a slot or for memory, and the timeouts of running coroutines and threads. Sleeping moves it forward at
    once, and is recorded. It reaches mlguard alone: ``asyncio.sleep()`` in a function still takes its real time.

        with FakeClock() as time:
            predict(patient)
            time.advance(31)
            predict(patient)  # the cached answer has expired

    Args:
        start: Where it starts, in seconds. None: at the next whole second of the real one, so that what began before
            goes on: a circuit that is open has about as long to go as it had.
    """

    def __init__(self, start: float | None = None) -> None:
        self._now = float(math.ceil(clock.now())) if start is None else start
        self._lock = threading.Lock()
        self._previous: list[Any] = []
        self._alarms: list[tuple[float, int, _Alarm]] = []
        self._numbers = itertools.count()
        self.sleeps: list[float] = []
        """The pauses asked for so far, in seconds and in order."""

    def now(self) -> float:
        """Seconds on this clock."""
        return self._now

    def advance(self, duration: float | str) -> None:
        """Moves the clock forward by seconds, or by text such as ``"5m"``; what is due on the way happens in order."""
        until = self._now + clock.seconds(duration)
        while self._step(until):
            pass

    def __enter__(self) -> FakeClock:
        self._previous.append(
            (clock.now, clock.sleep, clock.sleep_async, alarms.acquire, alarms.call_later, alarms.timeout)
        )
        clock.now, clock.sleep, clock.sleep_async = self.now, self._sleep, self._sleep_async
        alarms.acquire, alarms.call_later, alarms.timeout = self._acquire, self._call_later, self._timeout
        return self

    def __exit__(self, *exception: object) -> None:
        (clock.now, clock.sleep, clock.sleep_async, alarms.acquire, alarms.call_later, alarms.timeout) = (
            self._previous.pop()
        )

    def _step(self, until: float) -> bool:
        """Moves to the next alarm, or else to the end; True: an alarm rang."""
        with self._lock:
            while self._alarms and self._alarms[0][2].cancelled:
                heapq.heappop(self._alarms)
            if not self._alarms or self._alarms[0][0] > until:
                self._now = max(self._now, until)
                return False
            when, _, alarm = heapq.heappop(self._alarms)
            self._now = max(self._now, when)
        alarm.ring()
        return True

    def _sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.advance(seconds)

    async def _sleep_async(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        until = self._now + seconds
        while self._step(until):
            await asyncio.sleep(0)  # where the alarm cancels this very task, the clock stands at that moment
        await asyncio.sleep(0)

    def _acquire(self, lock: Any, seconds: float) -> bool:
        until = self._now + seconds
        while not lock.acquire(timeout=_GLANCE):
            if self._now >= until:
                return False
        return True

    def _call_later(self, loop: asyncio.AbstractEventLoop, seconds: float, ring: Callable[[], None]) -> _Alarm:
        alarm = _Alarm(loop, ring)
        if seconds <= 0:
            loop.call_soon(alarm.ring)
        else:
            with self._lock:
                heapq.heappush(self._alarms, (self._now + seconds, next(self._numbers), alarm))
        return alarm

    def _timeout(self, seconds: float) -> _Timeout:
        return _Timeout(self._call_later, seconds)


class _Alarm:
    """What happens on an event loop when the clock gets there."""

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], None]) -> None:
        self._loop = loop
        self._ring = ring
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True

    def ring(self) -> None:
        """From whatever thread moves the clock; on the loop's own at once, before its next task goes on."""
        if self.cancelled or self._loop.is_closed():
            return
        if _running_loop() is self._loop:
            self._ring()
        else:
            self._loop.call_soon_threadsafe(self.ring)


class _Timeout:
    """`asyncio.timeout` by this clock."""

    def __init__(self, call_later: Callable[..., _Alarm], seconds: float) -> None:
        self._call_later = call_later
        self._seconds = seconds
        self._timer = asyncio.timeout(None)

    async def __aenter__(self) -> None:
        await self._timer.__aenter__()
        self._alarm = self._call_later(asyncio.get_running_loop(), self._seconds, self._expire)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> bool | None:
        self._alarm.cancel()
        return bool(await self._timer.__aexit__(kind, error, frames))  # type: ignore[func-returns-value]

    def _expire(self) -> None:
        self._timer.reschedule(asyncio.get_running_loop().time())


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
