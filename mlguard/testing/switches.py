"""Guards off, waits skipped, events captured. A clock to move by hand is in `fake_clock.py`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog

from mlguard import clock
from mlguard.monitor.sink import flush
from mlguard.resilience import retry
from mlguard.wrapper import switch_off

__all__ = ["capture_events", "disabled", "instant"]


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

    What waits for somebody else, a call for a slot or a caller for a running function, still waits; `FakeClock` lets
    the limits of such waits pass as well.

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

    What is logged in the background is there when the block is left.

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
        flush()
        processors.remove(capture)


def _no_sleep(seconds: float) -> None:
    pass


async def _no_sleep_async(seconds: float) -> None:
    await asyncio.sleep(0)
