"""The breaker: when it opens, whom it lets probe, and that no permit is ever lost."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import pickle
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cloudpickle
import httpx
import pytest
import structlog

from mlguard import Concurrency, Monitor, guarded, note, testing
from mlguard.errors import CircuitOpenError, ConcurrencyLimitError, InvalidInputError, InvalidOutputError, PolicyError
from mlguard.resilience import Breaker, CircuitBreaker, Fallback, Retry, Timeout
from mlguard.target import Target

VIOLATION = [{"type": "missing", "loc": ("x",), "msg": "Field required"}]


def fail(breaker: CircuitBreaker, times: int = 1, error: BaseException | None = None) -> None:
    for _ in range(times):
        breaker.failed(breaker.enter(), error or ConnectionError())


def succeed(breaker: CircuitBreaker, times: int = 1) -> None:
    for _ in range(times):
        breaker.succeeded(breaker.enter())


@pytest.fixture
def breaker(target: Target, time: Any) -> CircuitBreaker:
    return CircuitBreaker(target, Breaker())


@pytest.fixture
def half_open(breaker: CircuitBreaker, time: Any) -> CircuitBreaker:
    fail(breaker, 20)
    time.time += 30
    return breaker


def not_found() -> httpx.HTTPStatusError:
    request = httpx.Request("GET", "http://x")
    return httpx.HTTPStatusError("no", request=request, response=httpx.Response(404, request=request))


class TestOpening:
    def test_opens_at_the_threshold(self, breaker: CircuitBreaker) -> None:
        """Half of at least twenty calls in the window have to fail, no sooner."""
        succeed(breaker, 10)
        fail(breaker, 9)
        assert breaker.state == "closed"
        fail(breaker)
        assert breaker.state == "open"

    def test_needs_enough_calls(self, breaker: CircuitBreaker) -> None:
        """Nineteen failures alone do not open it."""
        fail(breaker, 19)
        assert breaker.state == "closed"
        fail(breaker)
        assert breaker.state == "open"

    def test_the_window_forgets(self, breaker: CircuitBreaker, time: Any) -> None:
        """What is older than the window counts neither for nor against."""
        succeed(breaker, 1000)
        time.time += 34
        fail(breaker, 19)
        assert breaker.state == "closed"
        time.time += 34
        fail(breaker, 19)
        assert breaker.stats()["failures"] == 19
        fail(breaker)
        assert breaker.state == "open"

    def test_a_busy_hour_after_a_quiet_night(self, breaker: CircuitBreaker, time: Any) -> None:
        """Calls after a long pause all count, so that a few failures among many do not open it."""
        time.time += 36_000
        succeed(breaker, 1000)
        fail(breaker, 30)
        assert breaker.state == "closed"
        assert breaker.stats()["calls"] == 1030

    def test_a_sliding_window(self, breaker: CircuitBreaker, time: Any) -> None:
        """With steady traffic the window holds its length, to a tenth."""
        for _ in range(100):
            succeed(breaker, 10)
            time.time += 1
        assert breaker.stats()["calls"] == pytest.approx(300, abs=40)
        time.time += 100
        assert breaker.stats()["calls"] == 0

    @pytest.mark.parametrize(
        "error",
        [
            InvalidInputError.of("f", VIOLATION),
            ConcurrencyLimitError("full"),
            asyncio.CancelledError(),
            KeyboardInterrupt(),
            not_found(),
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_what_does_not_count(self, breaker: CircuitBreaker, error: BaseException) -> None:
        """Wrong input, local refusals, cancellation and a callee that says 4xx are no failures of the callee."""
        fail(breaker, 50, error)
        assert breaker.stats()["calls"] == 0

    @pytest.mark.parametrize(
        "error",
        [ValueError(), TimeoutError(), InvalidOutputError.of("f", VIOLATION)],
        ids=lambda error: type(error).__name__,
    )
    def test_what_counts(self, breaker: CircuitBreaker, error: BaseException) -> None:
        """The function's own exceptions, timeouts, and results that break their schema count."""
        fail(breaker, 20, error)
        assert breaker.state == "open"

    def test_slow_calls(self, target: Target, time: Any) -> None:
        """A call as slow as slow_call counts as a failure; its permit carries when it started."""
        breaker = CircuitBreaker(target, Breaker(slow_call=2, minimum_calls=3))
        names = breaker.names(asynchronous=False)
        for pause in (1.9, 2.0, 2.1):
            permit = names["breaker_enter"]()
            time.time += pause
            names["breaker_succeeded"](permit)
        assert breaker.state == "open"
        names["breaker_failed"](None, ConnectionError())
        breaker.reset()
        names["breaker_failed"](names["breaker_enter"](), ConnectionError())
        assert breaker.stats()["failures"] == 1


class TestOpen:
    def test_refuses_with_figures(self, breaker: CircuitBreaker, time: Any) -> None:
        """The refusal says since when, and when the next probe is allowed; it pickles."""
        fail(breaker, 20)
        time.time += 10
        with pytest.raises(
            CircuitOpenError, match=r"predict: not called.*opened 10s ago, at 50%.*again in 20s. Fix"
        ) as caught:
            breaker.enter()
        assert caught.value.retry_after == 20
        assert pickle.loads(pickle.dumps(caught.value)).retry_after == 20
        assert breaker.stats() == {**breaker.stats(), "state": "open", "opened": 1, "refused": 1}
        assert breaker.facts() == {"mlguard.breaker.state": "open"}

    def test_results_from_before_do_not_count(self, breaker: CircuitBreaker, time: Any) -> None:
        """A call that was let in before the circuit opened neither closes it nor keeps it open."""
        early = [breaker.enter() for _ in range(3)]
        fail(breaker, 20)
        time.time += 30
        probe = breaker.enter()
        breaker.succeeded(early[0])
        breaker.failed(early[1], ConnectionError())
        breaker.failed(early[2], asyncio.CancelledError())
        assert breaker.state == "half_open"
        breaker.succeeded(probe)
        assert breaker.state == "closed"
        breaker.failed(early[1], ConnectionError())
        assert breaker.stats()["failures"] == 0


class TestHalfOpen:
    def test_one_probe_closes_it(self, half_open: CircuitBreaker) -> None:
        """A probe that succeeds closes the circuit and forgets the failures."""
        assert half_open.state == "half_open"
        succeed(half_open)
        assert half_open.state == "closed"
        assert half_open.stats()["failures"] == 0

    def test_a_failed_probe_opens_it_again(self, half_open: CircuitBreaker, time: Any) -> None:
        """A probe that fails opens it for as long again."""
        fail(half_open)
        assert half_open.state == "open"
        time.time += 29
        assert half_open.state == "open"
        assert half_open.stats()["opened"] == 2

    def test_fifty_threads_one_probe(self, half_open: CircuitBreaker) -> None:
        """Of fifty threads that come at once, one gets through."""
        barrier = threading.Barrier(50)

        def enter() -> int | None:
            barrier.wait()
            try:
                return half_open.enter()
            except CircuitOpenError:
                return None

        with ThreadPoolExecutor(50) as pool:
            permits = [future.result() for future in [pool.submit(enter) for _ in range(50)]]
        assert len([permit for permit in permits if permit]) == 1
        with pytest.raises(CircuitOpenError, match="probed after failures") as caught:
            half_open.enter()
        assert caught.value.retry_after == 1.0

    def test_every_probe_must_succeed(self, target: Target, time: Any) -> None:
        """With three probes, three at most run at once, and all three have to succeed."""
        breaker = CircuitBreaker(target, Breaker(half_open_calls=3))
        fail(breaker, 20)
        time.time += 30
        probes = [breaker.enter() for _ in range(3)]
        with pytest.raises(CircuitOpenError):
            breaker.enter()
        breaker.succeeded(probes[0])
        breaker.succeeded(probes[1])
        with pytest.raises(CircuitOpenError):
            breaker.enter()
        assert breaker.state == "half_open"
        breaker.succeeded(probes[2])
        assert breaker.state == "closed"

    @pytest.mark.parametrize("error", [asyncio.CancelledError(), ConcurrencyLimitError("full"), not_found()])
    def test_a_probe_that_tells_nothing_gives_its_permit_back(
        self, half_open: CircuitBreaker, error: BaseException
    ) -> None:
        """After a cancelled or locally refused probe, the next call may probe."""
        fail(half_open, 1, error)
        assert half_open.state == "half_open"
        succeed(half_open)
        assert half_open.state == "closed"

    def test_a_probe_that_never_returns(self, half_open: CircuitBreaker, time: Any) -> None:
        """A probe that hangs keeps the circuit open no longer than open_for."""
        hung = half_open.enter()
        time.time += 29
        with pytest.raises(CircuitOpenError):
            half_open.enter()
        time.time += 1
        probe = half_open.enter()
        half_open.succeeded(hung)
        assert half_open.state == "half_open"
        half_open.succeeded(probe)
        assert half_open.state == "closed"

    def test_reset(self, half_open: CircuitBreaker) -> None:
        """A reset closes it, and probes on their way no longer matter."""
        probe = half_open.enter()
        half_open.reset()
        assert half_open.state == "closed"
        half_open.failed(probe, ConnectionError())
        assert half_open.stats() == {
            "state": "closed", "calls": 0, "failures": 0, "failure_rate": 0.0, "opened": 0, "half_opened": 0,
            "closed": 0, "refused": 0, "last_failure": None, "seconds_in_state": 0.0, "log_failures": 0,
        }  # fmt: skip


class TestInTheCallPath:
    def test_an_opening_circuit_ends_the_retries(self, guard: Any, time: Any) -> None:
        """Each attempt counts, and an open circuit is not retried."""
        calls = []

        def predict() -> None:
            calls.append(1)
            raise ConnectionError

        call = guard(predict, Retry(max_retries=50, budget=None, initial_delay=0), Breaker(minimum_calls=5))
        with pytest.raises(CircuitOpenError):
            call()
        assert len(calls) == 5

    def test_with_fallback(self, guard: Any, time: Any) -> None:
        """A fallback answers for an open circuit."""
        call = guard(lambda: 1 / 0, Breaker(minimum_calls=1), Fallback(value=0.5))
        assert [call(), call()] == [0.5, 0.5]
        assert call.rooms.breaker.stats()["refused"] == 1

    async def test_a_cancelled_probe(self, guard: Any) -> None:
        """A probe that is cancelled at any await leaves the way free for the next."""
        hang = True

        async def predict() -> str:
            if hang:
                await asyncio.sleep(10)
            return "done"

        call = guard(predict, Breaker(minimum_calls=1, open_for=0.01), Timeout(attempt=0.01))
        with pytest.raises(TimeoutError):
            await call()
        await asyncio.sleep(0.02)
        assert call.rooms.breaker.state == "half_open"
        call2 = asyncio.ensure_future(call())
        await asyncio.sleep(0)
        call2.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call2
        hang = False
        assert await call() == "done"
        assert call.rooms.breaker.state == "closed"

    def test_a_stream_that_is_dropped(self, guard: Any, time: Any) -> None:
        """A generator that is dropped half-way, even by the garbage collector, gives its permit back."""

        def items() -> Iterator[int]:
            yield 1
            yield 2

        call = guard(items, Breaker())
        breaker = call.rooms.breaker
        fail(breaker, 20)
        time.time += 30
        ring: list[Any] = [call()]
        next(ring[0])
        ring.append(ring)  # only the garbage collector can free it
        del ring
        gc.collect()
        assert list(call()) == [1, 2]
        assert breaker.state == "closed"

    def test_sixty_four_threads(self, guard: Any) -> None:
        """Threads that fail and succeed at random lose no permit and no count."""
        call = guard(lambda fine: fine or 1 / 0, Breaker(failure_rate_threshold=1), record=False)

        def work(seed: int) -> None:
            for number in range(200):
                with contextlib.suppress(ZeroDivisionError):
                    call((seed + number) % 2)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        stats = call.rooms.breaker.stats()
        assert stats["failures"] == 6400
        assert stats["calls"] == pytest.approx(12_800, abs=64)

    async def test_a_thousand_tasks(self, guard: Any) -> None:
        """A thousand tasks on a circuit that opens and closes all the time leave no probe stuck."""
        number = 0

        async def predict() -> str:
            nonlocal number
            number += 1
            mine = number
            await asyncio.sleep(0.001 * (mine % 7))
            if mine % 3:
                raise ConnectionError
            return "done"

        call = guard(predict, Breaker(minimum_calls=2, open_for=0.002, half_open_calls=2))

        async def one(pause: float) -> None:
            await asyncio.sleep(pause)
            with contextlib.suppress(ConnectionError, CircuitOpenError, TimeoutError):
                async with asyncio.timeout(0.004 if pause * 1000 % 5 < 1 else 10):
                    await call()

        await asyncio.gather(*(one(number / 5000) for number in range(1000)))
        await asyncio.sleep(0.01)
        breaker = call.rooms.breaker
        assert breaker.stats()["opened"] > 3
        if breaker.state != "closed":
            succeed(breaker, 2)
        assert breaker.state == "closed"
        assert not breaker._probes


class TestRuntime:
    @pytest.mark.parametrize(
        ("settings", "field"),
        [
            ({"failure_rate_threshold": 0}, "failure_rate_threshold = 0: must be greater than 0"),
            ({"window": 0}, "window = 0: must be more than 0"),
            ({"half_open_calls": 0}, "half_open_calls = 0"),
            ({"tresh": 1}, "no setting 'tresh'"),
        ],
    )
    def test_settings(self, settings: dict[str, Any], field: str) -> None:
        """Impossible values are refused with the field's name."""
        with pytest.raises(PolicyError, match=field):
            Breaker(**settings)

    def test_slow_call_of_a_stream(self) -> None:
        """slow_call is refused for a stream, with the fix."""

        def items() -> Iterator[int]:
            yield 1

        with pytest.raises(PolicyError, match=r"slow_call can't be honoured for a generator.*Fix: Timeout"):
            CircuitBreaker(Target(items), Breaker(slow_call=1))

    def test_explains_itself(self, target: Target) -> None:
        """Every number in force is in the text."""
        said = CircuitBreaker(target, Breaker(slow_call=2)).explain()[0]
        for part in ("30s", "50%", "20 calls", "2s and more", "one probe"):
            assert part in said
        assert "3 probes" in CircuitBreaker(target, Breaker(half_open_calls=3)).explain()[0]

    def test_travels(self, target: Target) -> None:
        """A pickled breaker arrives closed, with the same settings."""
        breaker = CircuitBreaker(target, Breaker(minimum_calls=1))
        fail(breaker)
        there = cloudpickle.loads(cloudpickle.dumps(breaker.names(asynchronous=False)))["breaker_enter"].__self__
        assert breaker.state == "open"
        assert there.state == "closed"
        assert there.explain() == breaker.explain()

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
    @pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
    def test_fork_while_another_thread_holds_the_lock(self, target: Target) -> None:
        """A child that is forked at the worst moment can use the breaker."""
        breaker = CircuitBreaker(target, Breaker())
        held, done = threading.Event(), threading.Event()

        def hold() -> None:
            with breaker._lock:
                held.set()
                done.wait(10)

        thread = threading.Thread(target=hold)
        thread.start()
        held.wait(10)
        child = os.fork()
        if child == 0:
            fail(breaker, 20)
            os._exit(0 if breaker.state == "open" else 1)
        done.set()
        thread.join()
        assert os.waitpid(child, 0)[1] == 0

    def test_a_busy_mark_is_left_to_the_other(self, breaker: CircuitBreaker, time: Any) -> None:
        """A success never waits for a lock."""
        time.time += 5
        with breaker._lock:
            thread = threading.Thread(target=succeed, args=(breaker, 3))
            thread.start()
            thread.join(5)
            assert not thread.is_alive()
        assert breaker.stats()["calls"] == 3


class TestObservable:
    def test_each_change_is_logged_once(self, time: Any) -> None:
        """Opening, probing and closing are three named events with their figures, however many calls see them."""
        broken = [True]

        @guarded(breaker=Breaker(minimum_calls=2, open_for="10s", scope="observed"))
        def work() -> None:
            if broken[0]:
                raise ConnectionError

        def call() -> None:
            with contextlib.suppress(ConnectionError, CircuitOpenError):
                work()

        with testing.capture_events() as events:
            for _ in range(5):
                call()
            time.time += 10
            call()
            call()
            broken[0] = False
            time.time += 10
            for _ in range(3):
                call()
        told = [(event["event"].removeprefix("mlguard.breaker."), event["log_level"]) for event in events]
        assert told == [
            ("opened", "warning"),
            ("half_opened", "info"),
            ("opened", "warning"),
            ("half_opened", "info"),
            ("closed", "info"),
        ]
        assert events[0]["code.function.name"].endswith("work")
        expected = {"calls": 2, "failures": 2, "last_failure": "ConnectionError", "open_for": 10, "scope": "observed"}
        assert events[0] | {f"mlguard.breaker.{key}": value for key, value in expected.items()} == events[0]
        assert (events[2]["mlguard.breaker.probe"], events[4]["mlguard.breaker.lasted"]) == (True, 0)
        assert all("." in key for event in events for key in event if key not in ("event", "log_level"))
        stats = work.guard.stats()["breaker"]
        assert (stats["opened"], stats["half_opened"], stats["closed"]) == (2, 2, 1)
        assert stats["last_failure"] == "ConnectionError"

    def test_a_log_that_fails_is_counted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A processor that raises fails no call, and can call the function itself: no lock is held."""

        @guarded(breaker=Breaker(minimum_calls=1))
        def work() -> None:
            raise ConnectionError

        def processor(logger: Any, method: str, event: Any) -> Any:
            with contextlib.suppress(CircuitOpenError):
                work()
            raise RuntimeError

        processors = structlog.get_config()["processors"]
        processors.insert(0, processor)
        try:
            with pytest.raises(ConnectionError):
                work()
        finally:
            processors.remove(processor)
        assert work.guard.stats()["breaker"]["log_failures"] == 1

    def test_a_reset_closes_it(self) -> None:
        """`f.guard.reset()` lets calls through again, and forgets."""

        @guarded(breaker=Breaker(minimum_calls=1))
        def work(fails: bool) -> int:
            if fails:
                raise ConnectionError
            return 1

        with pytest.raises(ConnectionError):
            work(True)
        with pytest.raises(CircuitOpenError):
            work(False)
        work.guard.reset()
        assert work(False) == 1
        assert work.guard.stats()["breaker"]["opened"] == 0

    def test_warm_is_outside(self) -> None:
        """`f.guard.warm` neither counts nor is refused."""

        @guarded(breaker=Breaker(minimum_calls=1), retry=Retry(), monitor=Monitor())
        def work(x: int) -> int:
            if x < 0:
                raise ConnectionError
            return x

        with testing.capture_events() as events:
            assert work.guard.warm(1) == 1
            for _ in range(2):
                with pytest.raises(ConnectionError):
                    work.guard.warm(-1)
        assert events == []
        stats = work.guard.stats()
        assert stats["breaker"]["calls"] == stats["retry"]["calls"] == 0
        assert stats["monitor"]["calls"] == {}

    def test_outcome_and_event(self) -> None:
        """What a call met is in its Outcome: attempts, waits, why it stopped, the breaker's state."""

        @guarded(
            breaker=Breaker(minimum_calls=3), retry=Retry(max_retries=2, initial_delay=1, jitter=False),
            fallback=0, concurrency=Concurrency(max_concurrent=1), monitor=Monitor(),
        )  # fmt: skip
        def work() -> int:
            raise ConnectionError

        with testing.FakeClock(), testing.capture_events() as events:
            outcome = work.guard.call()
        assert (outcome.attempts, outcome.waited, outcome.queued, outcome.late) == (3, 3, 0, False)
        assert (outcome.stopped, outcome.breaker, outcome.degraded) == ("max_retries", "open", True)
        event = events[-1]
        assert event["mlguard.retry.stopped"] == "max_retries"
        assert event["mlguard.retry.waited"] == event["mlguard.waited"] == 3
        assert event["mlguard.breaker.state"] == "open"
        assert work.guard.stats()["retry"]["waited_seconds"] == 3


def test_what_a_guard_further_in_refused_is_a_failure_here() -> None:
    """The inner call was refused, the outer one failed, and its event says with what."""

    @guarded(breaker=Breaker(minimum_calls=1), monitor=Monitor())
    def inner(x: int) -> None:
        raise ConnectionError

    @guarded(monitor=Monitor())
    def outer(x: Any) -> None:
        inner(x)

    with pytest.raises(ConnectionError):
        outer(1)
    with testing.capture_events() as events:
        with pytest.raises(CircuitOpenError):
            outer(1)
        with pytest.raises(InvalidInputError):
            outer("text")
    assert [event["mlguard.disposition"] for event in events] == [
        "rejected_breaker", "failed", "rejected_validation", "failed",
    ]  # fmt: skip
    assert events[1]["error.type"] == "mlguard.errors.CircuitOpenError"


def test_notes_of_a_fallback() -> None:
    """`note()` inside a fallback reaches the event, and a guarded fallback's own event names its parent."""

    @guarded(monitor=Monitor())
    def smaller() -> int:
        note(model="small")
        return 1

    def fallback() -> int:
        note(fell_back=True)
        return smaller()

    @guarded(fallback=fallback, monitor=Monitor())
    def work() -> int:
        raise ConnectionError

    with testing.capture_events() as events:
        assert work() == 1
    assert events[1]["fell_back"] is True
    assert events[0]["mlguard.parent_call_id"] == events[1]["mlguard.call_id"]
