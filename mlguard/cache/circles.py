"""Who waits for whom: calls that would wait for themselves are told so, instead of waiting for ever.

A leading thread is known by its number, a leading task by a `Leader` in its context. What either has begun is seen from
a thread or task that runs in a copy of its context, as `asyncio.to_thread` and web frameworks arrange it.
"""

from __future__ import annotations

import asyncio
from contextvars import Context, ContextVar, copy_context
from functools import partial
from typing import Any, Protocol

from mlguard import clock
from mlguard.context import current
from mlguard.resilience import alarms

__all__ = [
    "Leader", "detached_context", "flown", "led", "opened", "over", "task_waits_for_itself",
    "thread_waits", "thread_waits_for_itself",
]  # fmt: skip


class Flight(Protocol):
    """A computation in progress."""

    leader: Any
    """The number of the thread that leads, or the `Leader` that the context of the leading task carries."""
    latch: Any
    """What opens when it is over."""


class Leader:
    """A task that leads, and what it and the tasks it started wait for."""

    __slots__ = ("waits",)

    def __init__(self) -> None:
        self.waits: list[Any] = []


def opened(latch: Any, until: float | None) -> bool:
    """Takes a latch as soon as it opens; False: it was too late first, on `clock.now`."""
    return bool(latch.acquire()) if until is None else alarms.acquire(latch, until - clock.now())


async def over(work: asyncio.Future[Any], until: float | None) -> None:
    """Waits for a task or future, or until it is too late, and says nothing of what became of it."""
    if until is None:
        await asyncio.wait((work,))
        return
    loop = asyncio.get_running_loop()
    bell: asyncio.Future[None] = loop.create_future()
    alarm = alarms.call_later(loop, max(0.0, until - clock.now()), partial(_ring, bell))
    try:
        await asyncio.wait((work, bell), return_when=asyncio.FIRST_COMPLETED)
    finally:
        alarm.cancel()
        bell.cancel()


def _ring(bell: asyncio.Future[None]) -> None:
    if not bell.done():
        bell.set_result(None)


led: ContextVar[tuple[Leader, ...]] = ContextVar("mlguard_led", default=())
"""What the running task leads, and what those lead that it runs for."""
thread_waits: dict[int, Any] = {}
"""What each thread waits for."""


flown: ContextVar[tuple[Any, ...]] = ContextVar("mlguard_flown", default=())
"""The latches of what the running thread leads, and of what those lead that handed it their context."""


def detached_context() -> Context:
    """A copy of the caller's context for work that is no part of the caller's call."""
    own = copy_context()
    own.run(current.set, None)
    own.run(led.set, ())
    own.run(flown.set, ())
    return own


def thread_waits_for_itself(me: int, flown: tuple[Any, ...]) -> bool:
    """Whether what a thread is about to wait for waits for that thread."""
    # Entered before it is asked: of two threads that close a circle at the same moment, at least one sees it.
    flight: Flight | None = thread_waits[me]
    seen = set()
    while flight is not None and flight.leader not in seen:
        if flight.leader == me or flight.latch in flown:
            return True
        seen.add(flight.leader)
        flight = thread_waits.get(flight.leader)
    return False


def task_waits_for_itself(flight: Flight) -> bool:
    """Whether what the running task is about to wait for waits for that task."""
    mine = led.get()
    seen: set[object] = set()
    ahead: list[Any] = [flight.leader]
    while ahead:
        leader = ahead.pop()
        if leader in mine:
            return True
        if leader not in seen:
            seen.add(leader)
            ahead.extend(next_flight.leader for next_flight in leader.waits)
    return False
