"""Guarded functions that call guarded functions: no byte is promised twice, and no call waits for itself."""

from __future__ import annotations

import asyncio
import os
import threading
import time

import numpy as np
import pytest

from mlguard import Concurrency, Memory, Retry, Timeout, guarded
from mlguard.errors import DeadlineExceededError, MemoryPressureError
from mlguard.memory import container, gauge, meter, nested

MIB = 1 << 20


@pytest.fixture
def room():
    """Bytes that the guards of this machine may use now."""
    return gauge.read().room(0.85)


@pytest.fixture(autouse=True)
def nothing_left():
    yield
    assert container.of_this_container.reserved_here == 0
    assert nested._within.get() is None


def promised():
    return container.of_this_container.reserved_here


@pytest.mark.skipif(meter.of_this_process.why_not is not None, reason="peaks can't be measured here")
def test_learned_calls_inside_a_learned_call():
    """A call that runs alone, as its need is not known yet, lets the guarded calls inside it run, and is learned."""

    @guarded(memory=Memory(need="learned", max_wait="5s"))
    def embed(batch):
        return batch * 2

    @guarded(memory=Memory(need="learned", max_wait="5s"))
    def predict(batch):
        return embed(batch) + 1

    started = time.monotonic()
    for _ in range(4):
        predict(np.ones(500_000))
    assert time.monotonic() - started < 4
    assert predict.guard.stats()["memory"]["need"]["learned"]


@pytest.mark.skipif(meter.of_this_process.why_not is not None, reason="peaks can't be measured here")
async def test_learned_calls_inside_a_learned_coroutine():
    """The same for coroutines, and for the tasks and threads that one starts and waits for."""

    @guarded(memory=Memory(need="learned", max_wait="5s"))
    async def embed(batch):
        return batch * 2

    @guarded(memory=Memory(need="learned", max_wait="5s"))
    def norm(batch):
        return batch / 2

    @guarded(memory=Memory(need="learned", max_wait="5s"))
    async def predict(batch):
        one, two = await asyncio.gather(embed(batch), embed(batch))
        return one + two + await asyncio.to_thread(norm, batch)

    started = time.monotonic()
    await predict(np.ones(500_000))
    assert time.monotonic() - started < 4


def test_the_inner_call_uses_the_outer_promise(room):
    """What fits into the outer call's promise is promised once, and given back to it when the inner call ends."""
    seen = []

    @guarded(memory=Memory(max_wait=0), need=room // 2)
    def inner():
        seen.append(promised())

    @guarded(memory=Memory(max_wait=0), need=int(room * 0.8))
    def outer():
        inner()
        inner()

    outer()
    assert seen == [int(room * 0.8)] * 2


def test_more_than_the_outer_promise_is_promised_anew(room):
    """An inner call that needs more than is left of the outer promise is admitted like any other."""
    seen = []

    @guarded(memory=Memory(max_wait=0), need=12 * MIB)
    def inner(further=0):
        seen.append(promised() // MIB)
        if further:
            inner(further - 1)

    @guarded(memory=Memory(max_wait=0), need=40 * MIB)
    def outer():
        inner(4)

    outer()
    # three fit into the 40, the fourth is promised its own 12, which the fifth, inside it, may use
    assert seen == [40, 40, 40, 52, 52]


def test_calls_one_after_the_other_are_not_inside_each_other(room):
    """A promise that was given back, by success or failure, covers nothing any more."""

    @guarded(memory=Memory(max_wait=0), need=int(room * 0.8))
    def fails():
        raise KeyError

    @guarded(memory=Memory(max_wait=0), need=20 * MIB)
    def other():
        return promised() // MIB

    for _ in range(2):
        with pytest.raises(KeyError):
            fails()
        assert other() == 20


def test_what_runs_between_two_items_of_a_stream_is_not_inside_it():
    """The caller's own calls are promised their own bytes while a stream is open."""

    @guarded(memory=Memory(max_wait=0), need=40 * MIB)
    def stream():
        yield from range(2)

    @guarded(memory=Memory(max_wait=0), need=20 * MIB)
    def other():
        return promised() // MIB

    assert [other() for _ in stream()] == [60, 60]


def test_a_thread_left_behind_keeps_its_promise_to_itself():
    """After a timeout the thread goes on with what it was promised; the caller's next calls are not inside it."""
    seen, done = [], threading.Event()

    @guarded(memory=Memory(max_wait=0), need=40 * MIB, timeout=Timeout(attempt="50ms", total="5s", sync_mode="thread"))
    def hangs():
        done.wait(5)

    @guarded(memory=Memory(max_wait=0), need=20 * MIB)
    def other():
        seen.append(promised() // MIB)

    with pytest.raises(DeadlineExceededError):
        hangs()
    other()
    done.set()
    until = time.monotonic() + 5
    while promised() and time.monotonic() < until:
        time.sleep(0.005)
    assert seen == [60]


def test_a_thread_with_a_time_limit_is_inside():
    """A function that runs in a thread for its time limit's sake is inside its call all the same."""
    seen = []

    @guarded(memory=Memory(max_wait=0), need=20 * MIB)
    def inner():
        seen.append(promised() // MIB)

    @guarded(memory=Memory(max_wait=0), need=40 * MIB, timeout=Timeout(attempt="5s", sync_mode="thread"))
    def outer():
        inner()

    outer()
    assert seen == [40]


def test_a_child_forked_inside_a_call_has_no_part_in_its_promise():
    """What the parent was promised is the parent's; guarded calls of the child are promised their own bytes."""

    @guarded(memory=Memory(max_wait=0), need=20 * MIB)
    def inner():
        return promised() // MIB

    @guarded(memory=Memory(max_wait=0), need=40 * MIB)
    def outer():
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                code = 0 if inner() == 20 else 2
            finally:
                os._exit(code)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert outer() == 0


def test_an_inner_call_that_is_refused_leaves_the_outer_promise_whole(room):
    """A refusal inside passes through the outer call, and nothing stays lent or promised."""

    @guarded(memory=Memory(max_wait=0), need=room * 2)
    def never():
        raise AssertionError

    @guarded(memory=Memory(max_wait=0), need=40 * MIB, retry=Retry(max_retries=1, initial_delay=0))
    def outer():
        never()

    with pytest.raises(MemoryPressureError, match="never was not run"):
        outer()


async def test_cancelled_inner_calls_give_back(room):
    """Inner calls that are cancelled leave the outer promise free for the next."""
    seen = []

    @guarded(memory=Memory(max_wait=0), need=30 * MIB, concurrency=Concurrency(max_concurrent=4))
    async def inner():
        seen.append(promised() // MIB)
        await asyncio.sleep(5)

    @guarded(memory=Memory(max_wait=0), need=40 * MIB)
    async def outer():
        for _ in range(3):
            task = asyncio.create_task(inner())
            await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    await outer()
    assert seen == [40, 40, 40]


async def test_an_inner_call_that_outlives_the_outer_one_keeps_its_part():
    """A task that goes on after the call that started it keeps what it was lent, and gives it back at its own end."""
    go, tasks = asyncio.Event(), []

    @guarded(memory=Memory(max_wait=0), need=30 * MIB)
    async def inner():
        await go.wait()

    @guarded(memory=Memory(max_wait=0), need=40 * MIB)
    async def outer():
        tasks.append(asyncio.create_task(inner()))
        await asyncio.sleep(0)

    await outer()
    assert promised() == 30 * MIB
    go.set()
    await asyncio.gather(*tasks)
