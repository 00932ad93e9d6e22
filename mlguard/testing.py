"""The public test mode: switch guards off, skip waits, capture events, stand in for the clock.

Each is a context manager; nothing here changes anything before it is entered, and leaving it puts everything back.
They act on the whole process: don't use them in a service.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog

from mlguard import clock
from mlguard.resilience import retry
from mlguard.wrapper import switch_off

__all__ = ["FakeClock", "capture_events", "disabled", "instant"]


@contextmanager
def disabled() -> Iterator[None]:
    """Every guarded function behaves as if it had never been guarded, also one that is decorated meanwhile.

    Calls in flight finish as they began. It may be nested: guards are back once the outermost is left.
    """
    switch_off(True)
    try:
        yield
    finally:
        switch_off(False)


@contextmanager
def instant(max_retries: int | None = None) -> Iterator[None]:
    """Nothing sleeps: pauses between attempts and waits for memory pass at once.

    Args:
        max_retries: Caps the retries of every policy while it lasts. None: each policy's own number.
    """
    previous = clock.sleep, clock.sleep_async, retry.cap
    clock.sleep, clock.sleep_async = _no_sleep, _no_sleep_async
    retry.cap = max_retries
    try:
        yield
    finally:
        clock.sleep, clock.sleep_async, retry.cap = previous


@contextmanager
def capture_events() -> Iterator[list[dict[str, Any]]]:
    """Collects what mlguard logs, as dictionaries with ``event`` and ``log_level``, the moment it is logged.

    It stands before the processors of the structlog configuration in force: mlguard's events go no further, what the
    application itself logs passes as before. Levels that the configuration filters out are not seen.
    """
    events: list[dict[str, Any]] = []

    def capture(logger: Any, method: str, event: Any) -> Any:
        if not str(event.get("event", "")).startswith("mlguard."):
            return event
        events.append({**event, "log_level": method})
        raise structlog.DropEvent

    processors = structlog.get_config()["processors"]
    processors.insert(0, capture)  # in place, as structlog's own capture_logs does: bound loggers share the list
    try:
        yield events
    finally:
        processors.remove(capture)


class FakeClock:
    """A clock that moves only when told, in place of `mlguard.clock` while it is entered.

    Time-to-live, breaker windows, deadlines and pauses follow it; sleeping moves it forward at once, and is recorded.

        with FakeClock() as time:
            predict(patient)
            time.advance(31)
            predict(patient)  # the cached answer has expired
    """

    def __init__(self, start: float = 1_000.0) -> None:
        self._now = start
        self._lock = threading.Lock()
        self._previous: list[Any] = []
        self.sleeps: list[float] = []
        """The pauses asked for so far, in seconds and in order."""

    def now(self) -> float:
        """Seconds on this clock."""
        return self._now

    def advance(self, duration: float | str) -> None:
        """Moves the clock forward by seconds, or by text such as ``"5m"``."""
        with self._lock:
            self._now += clock.seconds(duration)

    def __enter__(self) -> FakeClock:
        self._previous.append((clock.now, clock.sleep, clock.sleep_async))
        clock.now, clock.sleep, clock.sleep_async = self.now, self._sleep, self._sleep_async
        return self

    def __exit__(self, *exception: object) -> None:
        clock.now, clock.sleep, clock.sleep_async = self._previous.pop()

    def _sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.advance(seconds)

    async def _sleep_async(self, seconds: float) -> None:
        self._sleep(seconds)
        await asyncio.sleep(0)


def _no_sleep(seconds: float) -> None:
    pass


async def _no_sleep_async(seconds: float) -> None:
    await asyncio.sleep(0)
