"""Slots: never more than allowed, first come first served, and none is ever lost."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import threading
import time as real_time
from collections.abc import Iterator
from typing import Any

import cloudpickle
import pytest

from mlguard.context import Call
from mlguard.errors import ConcurrencyLimitError, PolicyError
from mlguard.resilience import Concurrency, Retry, Slots
from mlguard.resilience.concurrency import _Task
from mlguard.target import Target


def slots_of(target: Target, **settings: Any) -> Slots:
    return Slots(target, Concurrency(**{"max_concurrent": 1, **settings}))


def taken(slots: Slots) -> int:
    token = slots.slot_enter()
    assert token is not None
    return token


async def until(condition: Any) -> None:
    while not condition():
        await asyncio.sleep(0.001)


class TestThreads:
    def test_never_more_than_allowed(self, guard: Any) -> None:
        """Sixty-four threads share three slots, and all come back."""
        running, most = [], []

        def predict() -> None:
            running.append(1)
            most.append(len(running))
            real_time.sleep(0.001)
            running.pop()

        call = guard(predict, Concurrency(max_concurrent=3, max_waiting=64, max_wait=30))
        threads = [threading.Thread(target=lambda: [call() for _ in range(5)]) for _ in range(64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert max(most) == 3
        assert call.rooms.concurrency.stats() == {**call.rooms.concurrency.stats(), "in_use": 0, "waiting": 0}
        assert len(most) == 320

    def test_first_come_first_served(self, target: Target) -> None:
        """Waiting threads are served in the order in which they came."""
        slots = slots_of(target, max_waiting=8, max_wait=30)
        token = taken(slots)
        order: list[int] = []

        def wait(number: int) -> None:
            mine = slots.slot_wait(None, None)
            order.append(number)
            slots.slot_exit(mine)

        threads = []
        for number in range(8):
            threads.append(threading.Thread(target=wait, args=(number,)))
            threads[-1].start()
            while slots.waiting <= number:
                real_time.sleep(0.001)
        assert slots.slot_enter() is None
        slots.slot_exit(token)
        for thread in threads:
            thread.join()
        assert order == list(range(8))

    def test_nobody_jumps_the_queue(self, target: Target) -> None:
        """While somebody waits, a free slot is not for those who just came."""
        slots = slots_of(target)
        slots._waiting.append(object())  # type: ignore[arg-type]
        assert slots.slot_enter() is None

    def test_waits_no_longer_than_max_wait(self, target: Target) -> None:
        """After max_wait the call is refused, with figures, and the line is as it was."""
        slots = slots_of(target, max_wait="50ms")
        token = taken(slots)
        this = Call()
        with pytest.raises(
            ConcurrencyLimitError, match=r"all 1 slots.*none came back within 50ms \(max_wait\). Fix"
        ) as caught:
            slots.slot_wait(this, None)
        assert caught.value.retry_after == 0.05
        assert this.waited >= 0.05
        assert slots.waiting == 0
        slots.slot_exit(token)
        stats = slots.stats()
        assert 0.05 <= stats.pop("waited_seconds") < 1
        assert this.facts == {"mlguard.concurrency.waited": this.waited}
        assert stats == {
            "in_use": 0,
            "waiting": 0,
            "waited": 1,
            "refused_queue_full": 0,
            "refused_after_wait": 1,
        }
        slots.reset()
        assert slots.stats()["waited"] == 0

    def test_a_full_line(self, target: Target) -> None:
        """Who finds the line full is refused at once."""
        slots = slots_of(target, max_waiting=0, max_wait=30)
        taken(slots)
        started = real_time.monotonic()
        with pytest.raises(ConcurrencyLimitError, match="all 1 slots are taken and 0 calls wait already"):
            slots.slot_wait(None, None)
        assert real_time.monotonic() - started < 5

    def test_a_deadline_that_has_passed(self, target: Target, time: Any) -> None:
        """Nobody waits past a deadline."""
        slots = slots_of(target)
        taken(slots)
        with pytest.raises(ConcurrencyLimitError, match="its deadline left no more"):
            slots.slot_wait(None, time.now() - 1)

    def test_an_interrupted_wait(self, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
        """Ctrl-C while waiting passes through, and a slot that was just handed over goes on to the next."""
        slots = slots_of(target)
        token = taken(slots)

        def interrupted(waiter: Any, limit: float) -> None:
            slots.slot_exit(token)
            raise KeyboardInterrupt

        monkeypatch.setattr("mlguard.resilience.concurrency._Thread.wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            slots.slot_wait(None, None)
        assert slots.stats() == {**slots.stats(), "in_use": 0, "waiting": 0}

    def test_slots_are_free_between_attempts(self, guard: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """During a pause before the next attempt no slot is held."""
        in_use = []
        calls = []

        def predict() -> None:
            calls.append(1)
            if len(calls) == 1:
                raise ConnectionError

        call = guard(predict, Concurrency(max_concurrent=1), Retry())
        monkeypatch.setattr("mlguard.clock.sleep", lambda seconds: in_use.append(call.rooms.concurrency.in_use))
        call()
        assert in_use == [0]


class TestTasks:
    async def test_a_thousand_tasks(self, guard: Any) -> None:
        """A thousand tasks, many of them cancelled, never exceed five slots and return them all."""
        running, most = [], []

        async def predict() -> None:
            running.append(1)
            most.append(len(running))
            try:
                await asyncio.sleep(0.001)
            finally:
                running.pop()

        call = guard(predict, Concurrency(max_concurrent=5, max_waiting=2000, max_wait=30))
        tasks = [asyncio.ensure_future(call()) for _ in range(1000)]
        chance = random.Random(7)
        while not all(task.done() for task in tasks):
            await asyncio.sleep(0.003)
            chance.choice(tasks).cancel()
        done = [task for task in tasks if not task.cancelled()]
        assert [task.exception() for task in done] == [None] * len(done)
        assert len(done) < 1000
        assert max(most) == 5
        assert call.rooms.concurrency.stats() == {**call.rooms.concurrency.stats(), "in_use": 0, "waiting": 0}

    @pytest.mark.parametrize("handed_over_at", [2, 3])
    @pytest.mark.parametrize("cancelled_at", range(7))
    async def test_cancelled_at_every_step(self, target: Target, cancelled_at: int, handed_over_at: int) -> None:
        """Wherever a waiting task is cancelled, before, while or after it is handed a slot, the slot goes on."""
        slots = slots_of(target, max_wait=30)
        token = taken(slots)
        tasks = [asyncio.ensure_future(slots.slot_wait_async(None, None)) for _ in range(2)]
        for half_step in range(8):
            if half_step == 2 * handed_over_at - 2:
                slots.slot_exit(token)
            if half_step == cancelled_at:
                tasks[0].cancel()
            if half_step % 2:
                await asyncio.sleep(0)
        for task in tasks:
            try:
                slots.slot_exit(await task)
            except asyncio.CancelledError:
                assert task is tasks[0]
        assert slots.stats() == {**slots.stats(), "in_use": 0, "waiting": 0}

    async def test_waits_no_longer_than_max_wait(self, target: Target) -> None:
        """After max_wait a task is refused, and the event loop went on meanwhile."""
        slots = slots_of(target, max_wait=0.05)
        taken(slots)
        this = Call()
        other = asyncio.ensure_future(asyncio.sleep(0.01, "went on"))
        with pytest.raises(ConcurrencyLimitError):
            await slots.slot_wait_async(this, None)
        assert other.done()
        assert this.waited >= 0.05

    async def test_threads_and_tasks_share_one_line(self, target: Target) -> None:
        """A slot that a thread gives back wakes a task, and the other way round."""
        slots = slots_of(target, max_wait=30)
        token = taken(slots)
        task = asyncio.ensure_future(slots.slot_wait_async(None, None))
        await until(lambda: slots.waiting == 1)
        thread = asyncio.ensure_future(asyncio.to_thread(slots.slot_wait, None, None))
        await until(lambda: slots.waiting == 2)
        await asyncio.to_thread(slots.slot_exit, token)
        slots.slot_exit(await task)
        slots.slot_exit(await thread)
        assert slots.in_use == 0

    def test_an_event_loop_that_is_gone(self, target: Target) -> None:
        """A slot is not handed to a task whose event loop was closed; it stays free."""
        slots = slots_of(target)
        token = taken(slots)

        async def line_up() -> None:
            slots._line_up(_Task(), 30)

        asyncio.run(line_up())
        slots.slot_exit(token)
        assert slots.stats() == {**slots.stats(), "in_use": 0, "waiting": 0}

    def test_two_event_loops_at_once(self, guard: Any) -> None:
        """Event loops in two threads share the same slots."""
        running, most = [], []

        async def predict() -> None:
            running.append(1)
            most.append(len(running))
            await asyncio.sleep(0.001)
            running.pop()

        call = guard(predict, Concurrency(max_concurrent=2, max_waiting=100, max_wait=30))

        async def many() -> None:
            await asyncio.gather(*(call() for _ in range(40)))

        threads = [threading.Thread(target=asyncio.run, args=(many(),)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(most) == 80
        assert max(most) <= 2


class TestStreams:
    def test_held_to_the_end(self, guard: Any) -> None:
        """A stream holds its slot until it is exhausted, closed, or collected."""

        def items() -> Iterator[int]:
            yield 1
            yield 2

        call = guard(items, Concurrency(max_concurrent=1))
        slots = call.rooms.concurrency
        stream = call()
        next(stream)
        assert slots.in_use == 1
        stream.close()
        assert slots.in_use == 0
        assert list(call()) == [1, 2]
        assert slots.in_use == 0
        ring: list[Any] = [call()]
        next(ring[0])
        ring.append(ring)
        del ring
        gc.collect()
        assert slots.in_use == 0


class TestRuntime:
    def test_settings(self) -> None:
        """The number of slots has no default, and none is impossible."""
        with pytest.raises(PolicyError, match=r"Concurrency.max_concurrent: is required"):
            Concurrency()  # type: ignore[call-arg]
        with pytest.raises(PolicyError, match=r"Concurrency.max_concurrent = 0: must be greater"):
            Concurrency(max_concurrent=0)

    def test_explains_itself(self, target: Target) -> None:
        """Every number in force is in the text and in the event."""
        slots = slots_of(target, max_concurrent=4)
        assert slots.explain() == [
            "At most 4 run at once in each process; up to 8 more wait, first come, first served, for at most 1s; "
            "the rest are refused."
        ]
        taken(slots)
        assert slots.facts() == {"mlguard.concurrency.in_use": 1, "mlguard.concurrency.waiting": 0}

    def test_travels(self, target: Target) -> None:
        """Pickled slots arrive free."""
        slots = slots_of(target, max_concurrent=4)
        taken(slots)
        there = cloudpickle.loads(cloudpickle.dumps(slots.names(asynchronous=True)))["slot_enter"].__self__
        assert there.in_use == 0
        assert there.explain() == slots.explain()

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
    @pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
    def test_fork(self, target: Target) -> None:
        """A forked child has all its slots, and one taken before the fork does not become one more."""
        slots = slots_of(target)
        token = taken(slots)
        slots._waiting.append(object())  # type: ignore[arg-type]
        child = os.fork()
        if child == 0:
            slots.slot_exit(token)
            fine = taken(slots) and slots.slot_enter() is None
            os._exit(0 if fine else 1)
        assert os.waitpid(child, 0)[1] == 0
