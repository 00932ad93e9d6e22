"""Guarded generators: what is held to the last item, retried until the first, and timed between."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from mlguard import Breaker, Concurrency, InvalidOutputError, Monitor, Retry, Timeout, guarded, testing, time_left
from mlguard.errors import ConcurrencyLimitError, DeadlineExceededError
from mlguard.streams import Opener


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


def test_a_deadline_around_a_stream_does_not_move() -> None:
    """A stream's own deadline waits for its consumer; that of the guarded call around both does not."""
    with testing.FakeClock() as time:

        @guarded(timeout=Timeout(idle=100))
        def inner() -> Iterator[float | None]:
            for _ in range(5):
                yield time_left()

        @guarded(timeout=Timeout(total=10))
        def outer() -> list[float | None]:
            seen = []
            for left in inner():
                seen.append(left)
                time.advance(6)
            return seen

        with pytest.raises(DeadlineExceededError):
            outer()


class Big:
    """Something weakly referable that stands for a batch of gigabytes."""


@pytest.fixture
def no_garbage_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def test_throwing_into_a_stream_keeps_nothing_alive(no_garbage_collector: None) -> None:
    """An exception thrown into a stream frees its arguments once it is dropped, with gc switched off."""

    @guarded(monitor=Monitor(log=False))
    def items(big: Big) -> Iterator[int]:
        yield 1
        yield 2

    def throw(big: Big) -> None:
        stream = items(big)
        next(stream)
        stream.throw(KeyError())  # type: ignore[attr-defined]

    big = Big()
    alive = weakref.ref(big)
    with contextlib.suppress(KeyError):
        throw(big)
    del big
    assert alive() is None


async def test_throwing_into_an_async_stream_keeps_nothing_alive(no_garbage_collector: None) -> None:
    """The same for an async stream."""

    @guarded(monitor=Monitor(log=False))
    async def items(big: Big) -> AsyncIterator[int]:
        yield 1
        yield 2

    async def throw(big: Big) -> None:
        stream = items(big)
        await anext(stream)
        await stream.athrow(KeyError())  # type: ignore[attr-defined]

    big = Big()
    alive = weakref.ref(big)
    try:
        await throw(big)
    except KeyError:
        del big
    await asyncio.sleep(0)
    assert alive() is None


def test_a_failed_probe_is_counted_also_where_its_cleanup_fails() -> None:
    """A stream that breaks its schema and then fails to clean up gives its probe back to the breaker."""
    failing = [True]
    with testing.FakeClock() as time:

        @guarded(breaker=Breaker(minimum_calls=1, open_for=10))
        def items() -> Iterator[int]:
            if failing[0]:
                raise ConnectionError
            try:
                yield "no number"  # type: ignore[misc]
            except GeneratorExit:
                raise RuntimeError("cleanup") from None

        with pytest.raises(ConnectionError):
            list(items())
        failing[0] = False
        time.advance(11)
        with pytest.raises(RuntimeError, match="cleanup"):
            list(items())
        assert items.guard.stats()["breaker"]["state"] == "open"


def test_a_task_destroyed_with_its_loop_gives_its_slot_back() -> None:
    """GeneratorExit in a context that is not the task's own is no reason to keep the slot, or to fall back."""
    fell_back = []

    @guarded(
        concurrency=Concurrency(max_concurrent=1), monitor=Monitor(log=False), fallback=lambda: fell_back.append(1)
    )
    async def hang() -> None:
        await asyncio.sleep(60)

    loop = asyncio.new_event_loop()

    async def start() -> None:
        task = asyncio.ensure_future(hang())
        await asyncio.sleep(0)
        task._log_destroy_pending = False  # type: ignore[attr-defined]

    loop.run_until_complete(start())
    loop.close()
    gc.collect()
    assert hang.guard.stats()["concurrency"]["in_use"] == 0
    assert fell_back == []


def test_what_the_consumer_throws_in_is_no_failure_of_the_function() -> None:
    """The breaker does not count it; what the generator makes of it, it does."""

    @guarded(breaker=Breaker(minimum_calls=2))
    def items(turns: bool) -> Iterator[int]:
        try:
            yield 1
            yield 2
        except KeyError as error:
            if turns:
                raise ConnectionError from error
            raise

    def throw(turns: bool, expected: type[Exception]) -> None:
        stream = items(turns)
        next(stream)
        with pytest.raises(expected):
            stream.throw(KeyError())  # type: ignore[attr-defined]

    for _ in range(4):
        throw(turns=False, expected=KeyError)
    assert items.guard.stats()["breaker"]["failures"] == 0
    for _ in range(2):
        throw(turns=True, expected=ConnectionError)
    assert items.guard.stats()["breaker"]["state"] == "open"


async def test_what_the_consumer_throws_into_an_async_stream() -> None:
    """For async streams alike."""

    @guarded(breaker=Breaker(minimum_calls=1))
    async def items() -> AsyncIterator[int]:
        yield 1
        yield 2

    stream = items()
    await anext(stream)
    with pytest.raises(KeyError):
        await stream.athrow(KeyError())  # type: ignore[attr-defined]
    assert items.guard.stats()["breaker"]["state"] == "closed"


def test_a_fallback_whose_first_item_is_refused_is_closed() -> None:
    """Its cleanup runs at once, not when the garbage collector comes."""
    closed = []

    def bad() -> Iterator[int]:
        try:
            yield "text"  # type: ignore[misc]
        finally:
            closed.append(1)

    @guarded(fallback=bad)
    def items() -> Iterator[int]:
        raise ConnectionError
        yield 1

    gc.disable()
    try:
        with pytest.raises(InvalidOutputError) as caught:
            next(items())
        assert closed == [1]
        del caught
    finally:
        gc.enable()


async def test_an_async_fallback_whose_first_item_is_refused_is_closed() -> None:
    """For async streams alike."""
    closed = []

    async def bad() -> AsyncIterator[int]:
        try:
            yield "text"  # type: ignore[misc]
        finally:
            await asyncio.sleep(0)
            closed.append(1)

    @guarded(fallback=bad)
    async def items() -> AsyncIterator[int]:
        raise ConnectionError
        yield 1

    with pytest.raises(InvalidOutputError):
        await anext(items())
    assert closed == [1]


def test_the_event_of_a_stream_that_fails_counts_its_items() -> None:
    """How far it had come is in the event, also where it was closed early."""

    @guarded(monitor=Monitor())
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise ConnectionError

    with testing.capture_events() as events:
        with pytest.raises(ConnectionError):
            list(items())
        stream = items()
        next(stream)
        stream.close()  # type: ignore[attr-defined]
    assert [(event["mlguard.disposition"], event["mlguard.items"]) for event in events] == [
        ("failed", 2),
        ("cancelled", 1),
    ]


def test_a_fallback_that_gives_an_iterator() -> None:
    """A plain iterator as a stream's fallback gives its items, like a generator."""

    @guarded(fallback=lambda: iter([1, 2]))
    def items() -> Iterator[int]:
        raise ConnectionError
        yield 0

    assert list(items()) == [1, 2]


async def test_closed_by_others_as_well() -> None:
    """A generator that is being closed by somebody else, as by an event loop that ends, is no failure of the stream."""
    closing = asyncio.Event()

    async def inner() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            await closing.wait()

    items: Any = inner()

    def give() -> Any:
        return items

    opened = await Opener(give).open_async()
    other = asyncio.create_task(items.aclose())
    await asyncio.sleep(0)
    await opened.close()
    closing.set()
    await other
