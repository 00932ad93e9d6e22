"""Deadlines: cooperative for plain code, cancelling for async code, and nobody else's timeouts touched."""

from __future__ import annotations

import asyncio
import time as real_time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import cloudpickle
import pytest

from mlguard.context import ambient_deadline, current, time_left
from mlguard.errors import ConcurrencyLimitError, DeadlineExceededError, PolicyError
from mlguard.outcome import Failure, classify
from mlguard.resilience import Concurrency, Deadlines, Retry, Timeout
from mlguard.target import Target


class TestPlain:
    def test_the_function_sees_its_deadline(self, guard: Any, time: Any) -> None:
        """`time_left()` is the shorter of the whole call's limit and the attempt's."""
        assert guard(time_left, Timeout(total=5))() == pytest.approx(5)
        assert guard(time_left, Timeout(total=5, attempt=2))() == pytest.approx(2)
        assert guard(time_left, Timeout(total=1, attempt=2))() == pytest.approx(1)

    def test_late_results_are_used(self, guard: Any, time: Any) -> None:
        """A plain attempt that ends late returns its result, and the event says late."""

        def predict() -> str:
            time.time += 3
            return "done"

        call = guard(predict, Timeout(attempt=2))
        assert call() == "done"
        assert call.state.last.late
        assert call.rooms.timeout.stats() == {"cancelled": 0, "late": 1, "not_started": 0}
        call.rooms.timeout.reset()
        assert call.rooms.timeout.stats()["late"] == 0

    def test_in_time(self, guard: Any, time: Any) -> None:
        """A result in time is not late, and afterwards no deadline is left."""
        call = guard(lambda: "done", Timeout(total=2))
        assert call() == "done"
        assert not call.state.last.late
        assert call.state.last.deadline is None
        assert ambient_deadline() is None

    def test_no_attempt_starts_after_the_deadline(self, guard: Any, time: Any) -> None:
        """After the total, a failed attempt is not followed by another."""
        calls = []

        def predict() -> None:
            calls.append(1)
            time.time += 3
            raise ConnectionError

        with pytest.raises(ConnectionError):
            guard(predict, Timeout(total=2), Retry())()
        assert len(calls) == 1

    def test_nested_guards_share_the_outer_deadline(self, guard: Any, time: Any) -> None:
        """An inner guard with a longer limit, or none in all, is bound by the outer one."""
        for inner in (Timeout(total=60), Timeout(attempt=60)):
            assert guard(guard(time_left, inner), Timeout(total=5))() == pytest.approx(5)
        assert guard(guard(time_left, Timeout(total=1)), Timeout(total=5))() == pytest.approx(1)

    def test_not_started_when_the_time_is_up(self, guard: Any, time: Any) -> None:
        """An inner call after the outer deadline is refused before its function runs, which is no failure of it."""

        def outer() -> None:
            time.time += 6
            inner()

        inner = guard(lambda: pytest.fail("ran"), Timeout(total=60))
        with pytest.raises(
            DeadlineExceededError, match="not started, because the deadline of the guarded call"
        ) as caught:
            guard(outer, Timeout(total=5))()
        assert classify(caught.value) is Failure.REJECTED
        assert inner.rooms.timeout.stats()["not_started"] == 1

    def test_waiting_for_a_slot_ends_in_time(self, guard: Any) -> None:
        """A wait for a slot is no longer than the call may take."""
        call = guard(lambda: "done", Concurrency(max_concurrent=1, max_wait=30), Timeout(total=0.05))
        token = call.rooms.concurrency.slot_enter()
        started = real_time.monotonic()
        with pytest.raises(ConcurrencyLimitError, match="its deadline left no more"):
            call()
        assert real_time.monotonic() - started < 5
        call.rooms.concurrency.slot_exit(token)
        assert call() == "done"

    def test_own_time_spent_before_the_start(self, guard: Any, time: Any) -> None:
        """Where the call itself spent its time before the attempt, the message says so."""
        deadlines = Deadlines(Target(time_left), Timeout(total=5))
        call = guard(time_left, Timeout(total=5))
        call()
        this = call.state.last
        deadline = deadlines.deadline_from(this)
        time.time += 6
        with pytest.raises(DeadlineExceededError, match=r"limit of the whole call \(timeout.total = 5s\) passed"):
            deadlines.attempt_limit(this, deadline).__enter__()


class TestAsync:
    async def test_cancels(self, guard: Any) -> None:
        """An async attempt that takes too long is cancelled, and the error names the limit."""
        cancelled = []

        async def predict() -> None:
            try:
                await asyncio.sleep(10)
            except asyncio.CancelledError:
                cancelled.append(True)
                raise

        for timeout, limit in (
            (Timeout(attempt="20ms"), "timeout.attempt = 20ms"),
            (Timeout(total=0.02), "timeout.total"),
        ):
            call = guard(predict, timeout)
            with pytest.raises(DeadlineExceededError, match=limit) as caught:
                await call()
            assert isinstance(caught.value, TimeoutError)
            assert classify(caught.value) is Failure.TRANSIENT
            assert call.rooms.timeout.stats()["cancelled"] == 1
        assert cancelled == [True, True]
        await asyncio.sleep(0)  # the task is not left cancelled

    async def test_an_attempt_that_was_cancelled_is_retried(self, guard: Any) -> None:
        """An attempt's own expiry is transient: the next one may be quicker."""
        calls = []

        async def predict() -> str:
            calls.append(1)
            if len(calls) == 1:
                await asyncio.sleep(10)
            return "done"

        assert await guard(predict, Timeout(attempt=0.02), Retry(initial_delay=0))() == "done"

    async def test_someone_elses_timeout_passes(self, guard: Any) -> None:
        """A TimeoutError of the function's own is not relabelled."""
        mine = TimeoutError("mine")

        async def predict() -> None:
            raise mine

        with pytest.raises(TimeoutError) as caught:
            await guard(predict, Timeout(total=5))()
        assert caught.value is mine

    async def test_an_inner_asyncio_timeout_passes(self, guard: Any) -> None:
        """Nor is that of asyncio.timeout inside, or around."""

        async def predict() -> None:
            async with asyncio.timeout(0.01):
                await asyncio.sleep(10)

        with pytest.raises(TimeoutError) as caught:
            await guard(predict, Timeout(total=5))()
        assert not isinstance(caught.value, DeadlineExceededError)

        async def sleepy() -> None:
            await asyncio.sleep(10)

        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(0.01):
                await guard(sleepy, Timeout(total=5), Retry())()
        assert not isinstance(caught.value, DeadlineExceededError)

    async def test_the_callers_cancellation_passes(self, guard: Any) -> None:
        """A caller that cancels sees CancelledError, also at the moment the limit expires."""

        async def predict() -> None:
            await asyncio.sleep(10)

        for pause in (0.0, 0.02):
            task = asyncio.ensure_future(guard(predict, Timeout(total=0.02), Retry())())
            await asyncio.sleep(0)
            real_time.sleep(pause)  # the limit expires while the loop can't run
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    async def test_the_outer_deadline_of_nested_guards(self, guard: Any) -> None:
        """Where the outer limit ends an inner call, the error names that limit, whichever of the two guards says it."""

        async def predict() -> None:
            await asyncio.sleep(10)

        with pytest.raises(DeadlineExceededError, match=r"guarded call around it passed|timeout.total = 20ms"):
            await guard(guard(predict, Timeout(total=60)), Timeout(total=0.02))()

    async def test_a_swallowed_cancellation_is_late(self, guard: Any) -> None:
        """A function that swallows the cancellation and returns has its result used, and is late."""

        async def predict() -> str:
            try:
                await asyncio.sleep(10)
            except asyncio.CancelledError:
                return "anyway"
            return "never"

        call = guard(predict, Timeout(total=0.02))
        assert await call() == "anyway"
        assert call.state.last.late

    async def test_quick_enough(self, guard: Any) -> None:
        """A call in time leaves no timer behind."""

        async def predict() -> str:
            return "done"

        call = guard(predict, Timeout(total=5, attempt=5))
        assert await call() == "done"
        assert not call.state.last.late

    async def test_without_a_limit_of_its_own(self, guard: Any) -> None:
        """With neither a limit for the next item nor one around, nothing is timed."""

        async def items() -> AsyncIterator[int]:
            yield 1
            yield 2

        assert [item async for item in guard(items, Timeout(first_item=5))()] == [1, 2]

    def test_two_event_loops(self, guard: Any) -> None:
        """Two asyncio.run in a row work."""

        async def predict() -> str:
            return "done"

        call = guard(predict, Timeout(total=5), Retry(), Concurrency(max_concurrent=1))
        assert [asyncio.run(call()) for _ in range(2)] == ["done", "done"]


class TestStreams:
    async def test_first_item_and_idle(self, guard: Any) -> None:
        """The first item has its limit, each further one another, and the consumer's time does not count."""

        async def items(first: float, then: float) -> AsyncIterator[int]:
            await asyncio.sleep(first)
            yield 1
            await asyncio.sleep(then)
            yield 2

        call = guard(items, Timeout(first_item=0.05, idle=0.1, total=0.3))
        received = []
        async for item in call(0, 0):
            received.append(item)
            await asyncio.sleep(0.2)  # the consumer: more than idle, and together more than total
        assert received == [1, 2]
        with pytest.raises(DeadlineExceededError, match=r"timeout.first_item = 50ms"):
            _ = [item async for item in call(10, 0)]
        with pytest.raises(DeadlineExceededError, match=r"no item came within timeout.idle = 100ms"):
            _ = [item async for item in call(0, 10)]

    async def test_total_of_a_stream(self, guard: Any) -> None:
        """The producer's own time is held to the total."""

        async def items() -> AsyncIterator[int]:
            while True:
                await asyncio.sleep(0.02)
                yield 1

        with pytest.raises(DeadlineExceededError, match=r"timeout.total = 100ms"):
            _ = [item async for item in guard(items, Timeout(total=0.1))()]

    def test_the_shorter_of_attempt_and_first_item(self) -> None:
        """Where both are set, the shorter holds and is named."""

        def items() -> Iterator[int]:
            yield 1

        said = " ".join(Deadlines(Target(items), Timeout(attempt=1, first_item=2, idle=3, total=9)).explain())
        assert "1s to its first item (attempt)" in said
        assert "9s in all" in said
        assert "next item must come within 3s" in said
        assert "not interrupted" in said
        assert "2s to its first item (first_item)" in Deadlines(Target(items), Timeout(first_item=2)).explain()[0]

    def test_late_items_of_a_generator(self, guard: Any, time: Any) -> None:
        """A plain generator's late item is delivered, and the event says late."""

        def items() -> Iterator[int]:
            yield 1
            time.time += 3
            yield 2

        call = guard(items, Timeout(idle=1))
        assert list(call()) == [1, 2]
        assert call.state.last.late

    def test_the_consumer_sees_no_deadline(self, guard: Any, time: Any) -> None:
        """Between items, nothing of the stream's limits binds its consumer."""

        def items() -> Iterator[Any]:
            yield time_left()

        seen = [(inside, time_left(), current.get()) for inside in guard(items, Timeout(total=5))()]
        assert seen == [(pytest.approx(5), None, None)]


class TestSettings:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({}, "must set a limit: total, attempt, first_item or idle. Fix"),
            ({"total": 0}, "Timeout.total = 0: must be more than 0"),
            ({"attempt": "0s"}, "Timeout.attempt = '0s': must be more than 0"),
            ({"total": 1, "sync_mode": "kill"}, "Timeout.sync_mode = 'kill': must be 'cooperative' or 'thread'"),
        ],
    )
    def test_refused(self, settings: dict[str, Any], message: str) -> None:
        """Limits that can't be honoured are refused with the field and the fix."""
        with pytest.raises(PolicyError, match=message):
            Timeout(**settings)

    def test_item_limits_need_items(self) -> None:
        """first_item and idle are refused for a function that has no items."""
        with pytest.raises(PolicyError, match=r"Timeout.first_item and Timeout.idle can't be honoured.*Fix"):
            Deadlines(Target(time_left), Timeout(first_item=1, idle=1))

    def test_travels(self) -> None:
        """A runtime object that was pickled says the same there."""
        deadlines = Deadlines(Target(time_left), Timeout(total=5))
        assert cloudpickle.loads(cloudpickle.dumps(deadlines)).explain() == deadlines.explain()
