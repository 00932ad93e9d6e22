"""The call in progress: notes, deadlines and ids."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest

from mlguard import Monitor, Timeout, guarded, note, testing, time_left
from mlguard.context import Call


def test_note_adds_to_the_event() -> None:
    """`note()` adds fields to the event of the call in progress; outside a call it does nothing."""

    @guarded(monitor=Monitor())
    def f(x: int) -> int:
        note(tokens=x)
        note(tokens=x + 1, model="small")
        return x

    note(lost=True)
    with testing.capture_events() as events:
        f(1)
    assert events[0]["tokens"] == 2
    assert events[0]["model"] == "small"
    assert "lost" not in events[0]


async def test_notes_of_concurrent_calls_stay_apart() -> None:
    """Each task's notes reach its own event."""

    @guarded(monitor=Monitor())
    async def f(x: int) -> int:
        await asyncio.sleep(0.001 * (3 - x))
        note(mine=x)
        return x

    with testing.capture_events() as events:
        await asyncio.gather(*(f(x) for x in range(3)))
    assert sorted(event["mine"] for event in events) == [0, 1, 2]


def test_nested_calls_know_their_parent() -> None:
    """A guarded function called by another one names it in its event."""

    @guarded(monitor=Monitor())
    def inner(x: int) -> int:
        return x

    @guarded(monitor=Monitor())
    def outer(x: int) -> int:
        return inner(x)

    with testing.capture_events() as events:
        outer(1)
    child, parent = events
    assert child["mlguard.parent_call_id"] == parent["mlguard.call_id"]
    assert "mlguard.parent_call_id" not in parent


def test_time_left() -> None:
    """The earliest deadline around the running code is what is left, also for guards without one of their own."""
    seen: list[Any] = []

    @guarded(monitor=Monitor(log=False))
    def callee() -> None:
        seen.append(time_left())

    @guarded(timeout=Timeout(total=100))
    def inner() -> None:
        callee()

    @guarded(timeout=Timeout(total=10))
    def outer() -> None:
        inner()

    assert time_left() is None
    with testing.FakeClock():
        outer()
    assert seen == [10]
    assert time_left() is None


def test_ids_differ_across_forks() -> None:
    """Two workers of one parent never make the same call id."""
    Call().id  # noqa: B018
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(write, Call().id.encode())
        os._exit(0)
    os.waitpid(pid, 0)
    child = os.read(read, 100).decode()
    assert child[:12] != Call().id[:12]


@pytest.mark.parametrize("count", [1000])
def test_ids_are_unique(count: int) -> None:
    """No two calls share an id."""
    assert len({Call().id for _ in range(count)}) == count
