"""Cancelled at the n-th step, for every n: nothing is left of the call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Generator
from typing import Any

import pytest

from mlguard import Breaker, Cache, Concurrency, Fallback, Memory, Monitor, Retry, Timeout, guarded

NEED = 80 * 2**20


class Steps:
    """Awaits something, and throws CancelledError into it when it has waited n times."""

    def __init__(self, awaitable: Any, cancel_at: int) -> None:
        self._awaitable = awaitable
        self._cancel_at = cancel_at
        self.steps = 0

    def __await__(self) -> Generator[Any, Any, Any]:
        inner = self._awaitable.__await__()
        try:
            waited_for = next(inner)
            while True:
                self.steps += 1
                if self.steps == self._cancel_at:
                    if asyncio.isfuture(waited_for):
                        waited_for.cancel()
                        waited_for._asyncio_future_blocking = False
                    waited_for = inner.throw(asyncio.CancelledError())
                    continue
                try:
                    sent = yield waited_for
                except BaseException as error:
                    waited_for = inner.throw(error)
                else:
                    waited_for = inner.send(sent)
        except StopIteration as end:
            return end.value


def sections(cached: bool) -> dict[str, Any]:
    more = {"cache": Cache(ttl=60)} if cached else {}
    return {
        "timeout": Timeout(total=30, attempt=10),
        "retry": Retry(max_retries=2, initial_delay="2ms", jitter=False, budget=None),
        "breaker": Breaker(minimum_calls=1000),
        "concurrency": Concurrency(max_concurrent=1, max_waiting=5, max_wait=10),
        "memory": Memory(need=NEED, threshold=1.0),
        "monitor": Monitor(log=False),
        "fallback": Fallback(value=-1),
        **more,
    }


def assert_nothing_is_left(function: Any, reserved: int, *, cached: bool = False) -> None:
    stats = function.guard.stats()
    assert stats["concurrency"]["in_use"] == 0
    assert stats["concurrency"]["waiting"] == 0
    assert stats["memory"]["reserved"] == reserved
    breaker = function.guard._wrapper.rooms["breaker"]
    assert not breaker._probes
    if cached:
        tasks = function.guard._wrapper.rooms["cache"].tasks
        assert not any(table for table in tasks.tables.values())


async def hold_the_slot(function: Any, freed: asyncio.Event) -> None:
    """Takes the only slot, so that the call under test has to wait for it."""
    slots = function.guard._wrapper.rooms["concurrency"]
    token = slots.slot_enter()
    await freed.wait()
    slots.slot_exit(token)


async def until_the_end(make: Any, cancel_at: int, function: Any) -> tuple[bool, int]:
    """One call that is cancelled at a step; whether it was, and how many steps there were."""
    freed = asyncio.Event()
    holder = asyncio.create_task(hold_the_slot(function, freed))
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_later(0.004, freed.set)
    steps = Steps(make(), cancel_at)

    async def run() -> Any:
        return await steps

    try:
        await asyncio.create_task(run())
    except asyncio.CancelledError:
        cancelled = True
    else:
        cancelled = False
    freed.set()
    await holder
    for _ in range(4):
        await asyncio.sleep(0)
    return cancelled, steps.steps


@pytest.mark.parametrize("cached", [False, True])
async def test_a_coroutine(cached: bool) -> None:
    """Slots, permits, reservations and flights are back wherever a coroutine is cancelled."""
    attempts = [0]

    @guarded(**sections(cached))
    async def work(x: int) -> int:
        await asyncio.sleep(0)
        attempts[0] += 1
        if attempts[0] % 3:
            await asyncio.sleep(0)
            raise ConnectionError
        await asyncio.sleep(0.001)
        return x

    reserved = work.guard.stats()["memory"]["reserved"]
    cancelled_at = []
    for cancel_at in range(1, 60):
        attempts[0] = 0
        cancelled, _ = await until_the_end(lambda n=cancel_at: work(n), cancel_at, work)
        assert_nothing_is_left(work, reserved, cached=cached)
        if not cancelled:
            break
        cancelled_at.append(cancel_at)
    assert not cancelled
    assert len(cancelled_at) >= (1 if cached else 7)
    assert await work(1000) == 1000


async def test_an_async_generator() -> None:
    """So they are wherever the reader of an async generator is cancelled, its cleanup included."""
    attempts = [0]
    cleaned = [0]

    @guarded(**sections(cached=False))
    async def items(x: int) -> AsyncIterator[int]:
        attempts[0] += 1
        try:
            await asyncio.sleep(0)
            if attempts[0] % 3:
                raise ConnectionError
            yield x
            await asyncio.sleep(0.001)
            yield x
        finally:
            await asyncio.sleep(0)
            cleaned[0] += 1

    async def read(n: int) -> list[int]:
        stream = items(n)
        try:
            return [item async for item in stream]
        finally:
            await stream.aclose()  # type: ignore[attr-defined]

    reserved = items.guard.stats()["memory"]["reserved"]
    for cancel_at in range(1, 80):
        attempts[0] = cleaned[0] = 0
        cancelled, _ = await until_the_end(lambda n=cancel_at: read(n), cancel_at, items)
        assert_nothing_is_left(items, reserved)
        assert cleaned[0] >= attempts[0] - 1
        if not cancelled:
            break
    assert not cancelled
    assert cancel_at > 8
    assert await read(1) == [1, 1]
