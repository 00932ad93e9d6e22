"""Cached functions that call each other in a circle, at the same time: nobody waits for ever."""

from __future__ import annotations

import asyncio
import threading
from typing import Annotated

from mlguard import Cache, NotKeyed, guarded


async def test_two_tasks_that_ask_for_each_others_key() -> None:
    """Each of two leading tasks calls the other's key; one of them computes it alone, and both return."""

    @guarded(cache=Cache(ttl=10))
    async def f(x: int, depth: Annotated[int, NotKeyed]) -> int:
        if depth:
            return depth
        await asyncio.sleep(0.05)
        return await f(1 - x, 1)

    assert await asyncio.wait_for(asyncio.gather(f(0, 0), f(1, 0)), 5) == [1, 1]
    assert f.guard.stats()["cache"]["bypassed"]["reentrant"] >= 1


async def test_a_circle_through_three_functions() -> None:
    """The circle may go through other cached functions, and through tasks that a leader started."""

    @guarded(cache=Cache(ttl=10))
    async def a(x: int, first: Annotated[bool, NotKeyed] = True) -> int:
        await asyncio.sleep(0.02)
        return await asyncio.create_task(b(x, False)) if first else 1

    @guarded(cache=Cache(ttl=10))
    async def b(x: int, first: Annotated[bool, NotKeyed] = True) -> int:
        await asyncio.sleep(0.02)
        return await c(x, False) if first else 2

    @guarded(cache=Cache(ttl=10))
    async def c(x: int, first: Annotated[bool, NotKeyed] = True) -> int:
        await asyncio.sleep(0.02)
        return (await asyncio.gather(a(x, False)))[0] if first else 3

    assert len(await asyncio.wait_for(asyncio.gather(a(0), b(0), c(0)), 5)) == 3


def test_two_threads_that_ask_for_each_others_key() -> None:
    """The same for threads."""
    both = threading.Barrier(2)

    @guarded(cache=Cache(ttl=10))
    def f(x: int, depth: Annotated[int, NotKeyed]) -> int:
        if depth:
            return depth
        both.wait(5)
        return f(1 - x, 1)

    results: list[int] = []
    threads = [threading.Thread(target=lambda x=x: results.append(f(x, 0)), daemon=True) for x in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert results == [1, 1]
