"""mlguard.testing: each switch does what it says and leaves everything as it was."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
import structlog

from mlguard import Breaker, Cache, CircuitOpenError, InvalidInputError, Monitor, Retry, clock, guarded, testing


@guarded(cache=Cache(ttl=30), retry=Retry(max_retries=3, initial_delay=5, jitter=False), monitor=Monitor())
def half(x: int, fail: bool = False) -> float:
    if fail:
        raise ConnectionError
    return x / 2


def test_disabled() -> None:
    """Inside `disabled()` a guarded function behaves as if it had never been guarded."""
    with testing.capture_events() as events:
        with testing.disabled():
            with pytest.raises(TypeError):
                half("x")  # type: ignore[arg-type]
            assert half(3) == 1.5
        assert events == []
        with pytest.raises(InvalidInputError):
            half("x")  # type: ignore[arg-type]


def test_disabled_while_calls_run() -> None:
    """A call that started before the switch finishes as it began, under the guard it began with."""
    started, go = threading.Event(), threading.Event()

    @guarded(cache=Cache(ttl=30))
    def slow(x: int) -> int:
        started.set()
        go.wait(10)
        return x

    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(slow(1)))
    thread.start()
    started.wait(10)
    with testing.disabled():
        go.set()
        thread.join(10)
    assert results == [1]
    assert slow.guard.cache_info().entries == 1


def test_disabled_nests_and_reaches_everything() -> None:
    """Inside, nothing is guarded: not after an inner block ended, not what is decorated there, not `guard.call`."""

    @guarded
    def before(x: int) -> int:
        return x

    with testing.disabled():
        with testing.disabled():
            pass

        @guarded
        def inside(x: int) -> int:
            return x

        assert (before("3"), inside("3"), before.guard.call("3").value) == ("3", "3", "3")  # type: ignore[arg-type]
    assert (before("3"), inside("3"), before.guard.call("3").value) == (3, 3, 3)  # type: ignore[arg-type]


def test_fake_clock_entered_twice() -> None:
    """Entering the same fake clock again, as a fixture and in a test, leaves the real one in place at the end."""
    real = clock.now
    time = testing.FakeClock()
    with time, time:
        assert clock.now() == time.now()
    assert clock.now is real


def test_disabled_before_the_first_call() -> None:
    """A function whose annotations can't be resolved yet is switched off, and on again, like any other."""
    module: dict[str, Any] = {"__name__": "early"}
    exec("from mlguard import guarded\n@guarded\ndef f(x: 'Later'): return x\n", module)
    with testing.disabled():
        assert module["f"]("x") == "x"
        module["Later"] = int
        module["f"].guard.explain()  # resolves the annotations
        assert module["f"]("x") == "x"
    with pytest.raises(InvalidInputError):
        module["f"]("x")


def test_instant() -> None:
    """Inside `instant()` pauses pass at once, and attempts can be capped."""
    calls = []

    @guarded(retry=Retry(max_retries=3, initial_delay=60, max_delay=60))
    def broken() -> None:
        calls.append(1)
        raise ConnectionError

    with testing.instant(), pytest.raises(ConnectionError):
        broken()
    assert len(calls) == 4
    with testing.instant(max_retries=1), pytest.raises(ConnectionError):
        broken()
    assert len(calls) == 6
    assert clock.sleep is not None


async def test_instant_async() -> None:
    """The same for coroutine functions."""

    @guarded(retry=Retry(max_retries=2, initial_delay=60, max_delay=60))
    async def broken() -> None:
        raise ConnectionError

    with testing.instant(), pytest.raises(ConnectionError):
        await broken()


def test_capture_events_lets_the_applications_logs_pass() -> None:
    """Only mlguard's events are held back, and they can be read while they come."""
    seen: list[Any] = []
    before = structlog.get_config()["processors"]
    structlog.configure(
        processors=[lambda logger, method, event: seen.append(event) or event, structlog.processors.JSONRenderer()]
    )
    try:
        with testing.capture_events() as events:
            structlog.get_logger().info("mine")
            half(8)
            assert events[0]["event"] == "mlguard.call"
            assert events[0]["log_level"] == "info"
        assert [event["event"] for event in seen] == ["mine"]
    finally:
        structlog.reset_defaults()
    assert structlog.get_config()["processors"] == before


def test_fake_clock() -> None:
    """Time-to-live and pauses follow the fake clock; sleeping moves it and is recorded."""
    half.guard.reset()
    with testing.capture_events(), testing.FakeClock() as time:
        half(10)
        assert half.guard.call(10).cached
        time.advance("1m")
        assert not half.guard.call(10).cached
        start = time.now()
        with pytest.raises(ConnectionError):
            half(10, fail=True)
        assert time.sleeps == [5, 10, 10]  # doubled, and capped by max_delay
        assert time.now() == start + 25
    assert asyncio.run(_now_async()) != time.now()


async def _now_async() -> float:
    await clock.sleep_async(0)
    return clock.now()


def test_a_fake_clock_goes_on_from_the_real_one() -> None:
    """What began before a FakeClock goes on under it and after it: an open circuit closes in its time, not in hours."""
    working = [False]

    @guarded(breaker=Breaker(minimum_calls=1, open_for="5m"))
    def shaky() -> int:
        if not working[0]:
            raise ConnectionError
        return 1

    with pytest.raises(ConnectionError):
        shaky()
    working[0] = True
    with testing.FakeClock() as time:
        assert time.now() == int(time.now())
        with pytest.raises(CircuitOpenError) as refused:
            shaky()
        assert 290 < (refused.value.retry_after or 0) <= 300
        time.advance("5m")
        assert shaky() == 1
    assert shaky() == 1
