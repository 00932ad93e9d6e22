"""Guarded generators: what is held to the last item, retried until the first, and timed between."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator

import pytest

from mlguard import Concurrency, InvalidOutputError, Monitor, Retry, Timeout, guarded, testing
from mlguard.errors import ConcurrencyLimitError, DeadlineExceededError


def test_the_slot_is_held_to_the_last_item() -> None:
    """A second stream is refused while the first is being read, and welcome once it ended or was closed."""

    @guarded(concurrency=Concurrency(max_concurrent=1, max_waiting=0))
    def items() -> Iterator[int]:
        yield 1
        yield 2

    first = items()
    assert next(first) == 1
    with pytest.raises(ConcurrencyLimitError):
        next(items())
    first.close()
    assert list(items()) == [1, 2]
    assert list(items()) == [1, 2]
    assert items.guard.stats()["concurrency"]["in_use"] == 0


async def test_an_async_stream_gives_its_slot_back_when_closed() -> None:
    """Breaking out of an async stream gives the slot back as soon as it is closed."""

    @guarded(concurrency=Concurrency(max_concurrent=1, max_waiting=0))
    async def items() -> AsyncIterator[int]:
        yield 1
        yield 2

    stream = items()
    assert await anext(stream) == 1
    await stream.aclose()  # type: ignore[attr-defined]
    assert [item async for item in items()] == [1, 2]


def test_retried_until_the_first_item_only() -> None:
    """A stream that fails before its first item starts again; once an item was delivered it fails for good."""
    starts = []

    @guarded(retry=Retry(max_retries=5, initial_delay=0))
    def items() -> Iterator[int]:
        starts.append(1)
        if len(starts) < 3:
            raise ConnectionError
        yield 1
        raise ConnectionError("midway")

    stream = items()
    assert next(stream) == 1
    assert len(starts) == 3
    with pytest.raises(ConnectionError, match="midway"):
        next(stream)
    assert len(starts) == 3


def test_every_item_is_checked() -> None:
    """Each item of Iterator[int] must be an int; a bad first item ends the attempt, a bad later one the stream."""
    closed = []

    @guarded
    def items(bad_at: int) -> Iterator[int]:
        try:
            for number in range(3):
                yield "bad" if number == bad_at else number  # type: ignore[misc]
        finally:
            closed.append(bad_at)

    assert list(items(9)) == [0, 1, 2]
    with pytest.raises(InvalidOutputError):
        next(items(0))
    stream = items(1)
    assert next(stream) == 0
    with pytest.raises(InvalidOutputError):
        next(stream)
    assert closed == [9, 0, 1]


def test_fallback_before_the_first_item() -> None:
    """A fallback value becomes the only item; after the first item there is no fallback."""

    @guarded(fallback=-1)
    def items(fail_at: int) -> Iterator[int]:
        for number in range(3):
            if number == fail_at:
                raise ConnectionError
            yield number

    assert list(items(0)) == [-1]
    stream = items(1)
    assert next(stream) == 0
    with pytest.raises(ConnectionError):
        next(stream)


async def test_fallback_stream() -> None:
    """An async generator may fall back to another one."""

    async def spare(x: int) -> AsyncIterator[int]:
        yield x
        yield x + 1

    @guarded(fallback=spare)
    async def items(x: int) -> AsyncIterator[int]:
        raise ConnectionError
        yield 0

    assert [item async for item in items(7)] == [7, 8]


async def test_limits_of_an_async_stream() -> None:
    """The first item has its own limit, the time between items another, and both cancel what hangs."""
    ended = []

    @guarded(timeout=Timeout(first_item=0.05, idle=0.05))
    async def items(hang_at: int) -> AsyncIterator[int]:
        try:
            for number in range(3):
                if number == hang_at:
                    await asyncio.sleep(60)
                yield number
        finally:
            ended.append(hang_at)

    with pytest.raises(DeadlineExceededError):
        await anext(items(0))
    stream = items(1)
    assert await anext(stream) == 0
    with pytest.raises(DeadlineExceededError):
        await anext(stream)
    gc.collect()
    assert ended == [0, 1]


def test_the_consumers_own_time_never_counts() -> None:
    """A consumer that takes its time between two items does not use up the deadline of the stream."""
    with testing.FakeClock() as time:

        @guarded(timeout=Timeout(total=10))
        def items() -> Iterator[int]:
            for number in range(3):
                time.advance(2)
                yield number

        got = []
        for item in items():
            got.append(item)
            time.advance(100)
        assert got == [0, 1, 2]


def test_the_event_counts_items() -> None:
    """The event of a stream comes at its end and says how many items it had and when the first was there."""

    @guarded(monitor=Monitor())
    def items() -> Iterator[int]:
        yield 1
        yield 2

    with testing.capture_events() as events:
        stream = items()
        assert next(stream) == 1
        assert events == []
        assert list(stream) == [2]
    assert events[0]["mlguard.items"] == 2
    assert events[0]["mlguard.first_item"] >= 0


def test_a_closed_stream_says_cancelled() -> None:
    """A consumer that stops early is a cancellation, not a failure."""

    @guarded(monitor=Monitor())
    def items() -> Iterator[int]:
        yield 1
        yield 2

    with testing.capture_events() as events:
        stream = items()
        next(stream)
        stream.close()
    assert events[0]["mlguard.disposition"] == "cancelled"


def test_an_empty_stream() -> None:
    """A generator without items is a stream without items."""

    @guarded(monitor=Monitor(log=False), retry=Retry())
    def nothing() -> Iterator[int]:
        return
        yield 1

    assert list(nothing()) == []
