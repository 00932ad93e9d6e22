"""Every wait, window and time-to-live passes on a FakeClock, without a second of real time."""

from __future__ import annotations

import asyncio
import threading
import time as real
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from mlguard import (
    Breaker,
    Cache,
    Concurrency,
    ConcurrencyLimitError,
    DeadlineExceededError,
    Memory,
    MemoryPressureError,
    Retry,
    Timeout,
    guarded,
    testing,
)


@pytest.fixture
def time() -> Iterator[testing.FakeClock]:
    started = real.monotonic()
    with testing.FakeClock(start=1_000) as clock:
        yield clock
    assert real.monotonic() - started < 20


def test_pauses_between_attempts(time: testing.FakeClock) -> None:
    """Backoff moves the clock and is recorded."""

    @guarded(retry=Retry(max_retries=3, initial_delay=1, jitter=False))
    def fail() -> None:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        fail()
    assert time.sleeps == [1, 2, 4]
    assert time.now() == 1007


def test_the_budgets_window(time: testing.FakeClock) -> None:
    """Retries of ten seconds ago are forgotten."""

    @guarded(retry=Retry(max_retries=1, initial_delay=0, budget=0))
    def fail() -> None:
        raise ConnectionError

    def retries() -> int:
        before = fail.guard.stats()["retry"]["retries"]
        for _ in range(30):
            with pytest.raises(ConnectionError):
                fail()
        return int(fail.guard.stats()["retry"]["retries"] - before)

    assert retries() == 10
    assert retries() == 0
    time.advance("12s")
    assert retries() == 10


def test_the_breakers_windows(time: testing.FakeClock) -> None:
    """Open for half a minute, and failures of an hour ago don't count."""
    broken = [True]

    @guarded(breaker=Breaker(minimum_calls=2))
    def work() -> None:
        if broken[0]:
            raise ConnectionError

    def fail() -> None:
        with pytest.raises(ConnectionError):
            work()

    fail()
    time.advance("1h")
    fail()
    assert work.guard.stats()["breaker"]["state"] == "closed"
    fail()
    assert work.guard.stats()["breaker"]["state"] == "open"
    broken[0] = False
    time.advance("30s")
    work()
    assert work.guard.stats()["breaker"]["state"] == "closed"


def test_cooperative_deadlines(time: testing.FakeClock) -> None:
    """A late result is late by this clock."""

    @guarded(timeout=Timeout(total="1s"))
    def work() -> int:
        time.advance("2s")
        return 1

    assert work.guard.call().late


async def test_timeouts_of_coroutines(time: testing.FakeClock) -> None:
    """A running coroutine is cancelled when the clock passes its limit, by whoever moves it."""

    @guarded(timeout=Timeout(attempt="10s"))
    async def hang() -> None:
        await asyncio.Event().wait()

    @guarded(timeout=Timeout(attempt="10s"))
    async def moves_it() -> int:
        time.advance("11s")
        await asyncio.sleep(0)
        return 1

    task = asyncio.create_task(hang())
    await asyncio.sleep(0)
    time.advance("9s")
    await asyncio.sleep(0.01)
    assert not task.done()
    await asyncio.to_thread(time.advance, "2s")
    with pytest.raises(DeadlineExceededError, match="attempt = 10s"):
        await task
    with pytest.raises(DeadlineExceededError):
        await moves_it()
    assert hang.guard.stats()["timeout"]["cancelled"] == 1


async def test_limits_of_streams(time: testing.FakeClock) -> None:
    """First item and idle likewise; the consumer's own time does not count."""

    @guarded(timeout=Timeout(total="20s", idle="5s"))
    async def items() -> AsyncIterator[int]:
        yield 1
        yield 2
        await asyncio.Event().wait()

    stream = items()
    assert await anext(stream) == 1
    time.advance("1h")
    assert await anext(stream) == 2
    task = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    time.advance("6s")
    with pytest.raises(DeadlineExceededError, match="idle"):
        await task


def test_threads_left_behind(time: testing.FakeClock) -> None:
    """An attempt in a thread is left behind when the clock passes its limit."""
    go = threading.Event()

    @guarded(timeout=Timeout(attempt="1h", sync_mode="thread"))
    def hang() -> None:
        time.advance("2h")
        go.wait(5)

    with pytest.raises(DeadlineExceededError):
        hang()
    go.set()


def test_the_wait_for_a_slot_of_a_thread(time: testing.FakeClock) -> None:
    """The line ends when the clock says so."""
    inside, go = threading.Event(), threading.Event()

    @guarded(concurrency=Concurrency(max_concurrent=1, max_wait="1m"))
    def work(hold: bool) -> None:
        inside.set()
        if hold:
            go.wait(5)

    holder = threading.Thread(target=work, args=(True,))
    holder.start()
    inside.wait(5)
    timer = threading.Timer(0.05, time.advance, ["61s"])
    timer.start()
    with pytest.raises(ConcurrencyLimitError, match="within 1m"):
        work(False)
    go.set()
    holder.join()
    timer.join()


async def test_the_wait_for_a_slot_of_a_task(time: testing.FakeClock) -> None:
    """For tasks too."""
    go = asyncio.Event()

    @guarded(concurrency=Concurrency(max_concurrent=1, max_wait="1m"))
    async def work() -> None:
        await go.wait()

    holder = asyncio.create_task(work())
    await asyncio.sleep(0)
    waiter = asyncio.create_task(work())
    await asyncio.sleep(0)
    time.advance("61s")
    with pytest.raises(ConcurrencyLimitError):
        await waiter
    go.set()
    await holder


def test_time_to_live(time: testing.FakeClock) -> None:
    """A cached result expires."""
    runs: list[int] = []

    @guarded(cache=Cache(ttl="1h", jitter=0))
    def work(x: int) -> int:
        runs.append(x)
        return x

    work(1)
    time.advance("59m")
    work(1)
    assert runs == [1]
    time.advance("2m")
    work(1)
    assert runs == [1, 1]


@pytest.mark.parametrize("clock", ["fake", "instant"])
def test_the_wait_for_memory(clock: str) -> None:
    """A call that never gets its memory is refused after its wait, which takes no real time."""

    @guarded(memory=Memory(need=2**40, threshold=1.0, max_wait="1m", collect_garbage=False))
    def work() -> None: ...

    @guarded(memory=Memory(threshold=0.000001, max_wait="1m", collect_garbage=False))
    def never() -> None: ...

    started = real.monotonic()
    with testing.FakeClock() if clock == "fake" else testing.instant() as time:
        for function in (work, never):
            with pytest.raises(MemoryPressureError):
                function()
        if time is not None:
            assert sum(time.sleeps) >= 59
    assert real.monotonic() - started < 20


async def test_sleeping_past_a_timeout_stops_there(time: testing.FakeClock) -> None:
    """A pause that a timeout ends leaves the clock where the timeout was, so that what follows sees the right time."""
    from mlguard import clock

    @guarded(timeout=Timeout(attempt="10s"))
    async def hang() -> Any:
        await clock.sleep_async(3600)

    with pytest.raises(DeadlineExceededError):
        await hang()
    assert time.now() == 1010


def test_two_loops_and_alarms_that_are_gone(time: testing.FakeClock) -> None:
    """A timeout of a loop that has been closed disturbs nobody."""

    @guarded(timeout=Timeout(attempt="10s"))
    async def quick() -> int:
        return 1

    assert asyncio.run(quick()) == asyncio.run(quick()) == 1
    loop = asyncio.new_event_loop()
    from mlguard.resilience import alarms

    rung: list[int] = []
    alarms.call_later(loop, 5, lambda: rung.append(1))
    alarms.call_later(loop, 0, lambda: rung.append(0))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    time.advance(10)
    assert rung == [0]
