"""Coroutine functions that return an async iterator: guarded as the streams they are."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import pickle
import weakref
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterator
from typing import Annotated, Any

import cloudpickle
import pytest
from pydantic import Field

from mlguard import (
    Breaker,
    CircuitOpenError,
    Concurrency,
    ConcurrencyLimitError,
    DeadlineExceededError,
    InvalidInputError,
    InvalidOutputError,
    Memory,
    Monitor,
    PolicyError,
    Retry,
    Timeout,
    guarded,
    testing,
)


class Client:
    """A client of a language model whose answers fail as told."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.requests = 0
        self.closed = 0

    async def stream(self, text: str) -> AsyncIterator[str]:
        self.requests += 1
        if self.errors:
            raise self.errors.pop(0)
        try:
            for word in text.split():
                await asyncio.sleep(0)
                yield word
        finally:
            self.closed += 1


def chat_of(client: Client, **sections: Any) -> Any:
    @guarded(**sections)
    async def chat(prompt: str) -> AsyncIterator[str]:
        return client.stream(prompt)

    return chat


async def test_it_stays_a_coroutine_function_whose_slot_is_held_to_the_last_item() -> None:
    """Awaited, it returns an async iterator, and its slot comes back with the last item."""
    chat = chat_of(Client(), concurrency=Concurrency(max_concurrent=1, max_waiting=0))
    assert inspect.iscoroutinefunction(chat)
    items = await chat("a b c")
    assert isinstance(items, AsyncGenerator)
    assert chat.guard.stats()["concurrency"]["in_use"] == 1
    with pytest.raises(ConcurrencyLimitError):
        await chat("x")
    assert [item async for item in items] == ["a", "b", "c"]
    assert chat.guard.stats()["concurrency"]["in_use"] == 0
    assert [item async for item in await chat("")] == []


async def test_memory_is_held_too() -> None:
    """What was reserved is given back with the last item."""
    chat = chat_of(Client(), memory=Memory(need="200MiB", threshold=1.0))
    items = await chat("a b")
    assert chat.guard.stats()["memory"]["reserved"] >= 200 * 2**20
    before = chat.guard.stats()["memory"]["reserved"]
    await items.aclose()
    assert chat.guard.stats()["memory"]["reserved"] == before - 200 * 2**20


async def test_retried_until_the_first_item() -> None:
    """A request that fails before its first item is made again; input is checked before any."""
    client = Client(ConnectionError(), TimeoutError())
    chat = chat_of(client, retry=Retry(max_retries=3))
    with testing.instant():
        assert [item async for item in await chat("a b")] == ["a", "b"]
    assert client.requests == 3
    with pytest.raises(InvalidInputError):
        await chat(object())
    assert client.requests == 3


async def test_closing_it_closes_the_clients_stream() -> None:
    """Whoever stops reading early closes it, or drops it, and slot and connection come back."""
    client = Client()
    chat = chat_of(client, concurrency=Concurrency(max_concurrent=1, max_waiting=0))
    items = await chat("a b c")
    assert await anext(items) == "a"
    await items.aclose()
    assert client.closed == 1
    items = await chat("a b c")
    del items
    gc.collect()
    for _ in range(10):
        await asyncio.sleep(0)
    assert client.closed == 2
    assert chat.guard.stats()["concurrency"]["in_use"] == 0
    items = await chat("a b c")
    with pytest.raises(KeyError):
        await items.athrow(KeyError())
    assert chat.guard.stats()["concurrency"]["in_use"] == 0


async def test_timed_to_the_end() -> None:
    """The limits for the first item and between items hold; the event comes at the end and counts the items."""

    @guarded(timeout=Timeout(first_item="50ms", idle="50ms"), monitor=Monitor())
    async def chat(prompt: str) -> AsyncIterator[str]:
        async def words() -> AsyncIterator[str]:
            for word in prompt.split():
                await asyncio.sleep(1 if word == "slow" else 0)
                yield word

        return words()

    with testing.capture_events() as events:
        with pytest.raises(DeadlineExceededError, match=r"timeout.first_item"):
            await chat("slow")
        items = await chat("a slow")
        assert await anext(items) == "a"
        with pytest.raises(DeadlineExceededError, match=r"no item came within timeout\.idle"):
            await anext(items)
        assert [item async for item in await chat("a b")] == ["a", "b"]
    assert [event.get("mlguard.items") for event in events] == [None, 1, 2]


async def test_every_item_is_checked() -> None:
    """The annotation says what the items are; something else than an async iterator is refused."""

    @guarded
    async def numbers(until: int) -> AsyncIterable[Annotated[int, Field(lt=2)]]:
        async def counted() -> AsyncIterator[int]:
            for number in range(until):
                yield number

        return counted() if until else [1]  # type: ignore[return-value]

    items = await numbers(3)
    assert await anext(items) == 0  # type: ignore[call-overload]
    with pytest.raises(InvalidOutputError):
        [item async for item in items]
    with pytest.raises(InvalidOutputError, match="must be an async iterator, not list"):
        await numbers(0)


async def test_breaker_and_outcome() -> None:
    """Streams that fail count for the breaker; acall says to iterate; guards off give the client's own object."""
    chat = chat_of(Client(*[ConnectionError() for _ in range(9)]), breaker=Breaker(minimum_calls=2))
    for _ in range(2):
        with pytest.raises(ConnectionError):
            await chat("a")
    with pytest.raises(CircuitOpenError):
        await chat("a")
    with pytest.raises(PolicyError, match="iterate it"):
        await chat.guard.acall("a")
    with testing.disabled():
        assert not hasattr(await chat_of(Client())("a"), "_first")
    assert "async def stream" in chat.guard.source


async def test_chaos_strikes_its_items() -> None:
    """Faults meet the request, or an item of it."""
    chat = chat_of(Client(), retry=Retry(max_retries=1))
    with testing.instant(), testing.chaos(testing.fails(TimeoutError, calls={1}), on=chat) as chaos:
        assert [item async for item in await chat("a b")] == ["a", "b"]
        assert chaos.attempts.total() == 2
    upper = testing.changes(lambda item, chance: item.upper(), after=1)
    with testing.chaos(upper, on=chat):
        assert [item async for item in await chat("a b c")] == ["a", "B", "c"]
    with testing.chaos(testing.fails(TimeoutError, after=1), on=chat):
        items = await chat("a b")
        assert await anext(items) == "a"
        with pytest.raises(TimeoutError):
            await anext(items)


@guarded(concurrency=Concurrency(max_concurrent=2), retry=Retry())
async def echo(prompt: str) -> AsyncIterator[str]:
    async def words() -> AsyncIterator[str]:
        for word in prompt.split():
            yield word

    return words()


def test_it_pickles() -> None:
    """By reference and by value."""

    async def read(function: Any) -> list[str]:
        return [item async for item in await function("a b")]

    assert pickle.loads(pickle.dumps(echo)) is echo
    assert asyncio.run(read(cloudpickle.loads(cloudpickle.dumps(chat_of(Client(), retry=Retry()))))) == ["a", "b"]
    assert asyncio.run(read(echo)) == ["a", "b"]


class TestWithoutAnAnnotation:
    async def test_refused_at_run_time(self) -> None:
        """What nobody declared can't give its slot back early in silence; the error says what to write."""

        @guarded(concurrency=Concurrency(max_concurrent=1, max_waiting=0))
        async def chat(prompt):  # type: ignore[no-untyped-def]
            return Client().stream(prompt)

        @guarded(timeout=Timeout(total=1))
        def rows(count):  # type: ignore[no-untyped-def]
            return (row for row in range(count))

        @guarded(timeout=Timeout(total=1))
        def later() -> Any:
            return asyncio.sleep(0)

        @guarded(timeout=Timeout(total=1))
        def source() -> Any:
            return Client().stream("a")

        for _ in range(2):
            with pytest.raises(PolicyError, match=r"returned a async_generator.*-> AsyncIterator\[...\]"):
                await chat("a b")
        assert chat.guard.stats()["concurrency"]["in_use"] == 0
        with pytest.raises(PolicyError, match="or return a list"):
            rows(3)
        with pytest.raises(PolicyError, match="await it"):
            later()
        with pytest.raises(PolicyError, match="make it an async generator"):
            source()

    def test_what_is_finished_passes(self, tmp_path: Any) -> None:
        """Lists, open files and the rest pass, and a function that holds nothing may return what it likes."""
        (tmp_path / "a").write_text("a")

        @guarded(timeout=Timeout(total=1))
        def read(what):  # type: ignore[no-untyped-def]
            return [1] if what == "list" else open(tmp_path / "a")

        @guarded(retry=Retry())
        def rows():  # type: ignore[no-untyped-def]
            return iter([1])

        assert read("list") == read("list") == [1]
        read("file").close()
        assert list(rows()) == [1]

    def test_concrete_classes_are_refused(self) -> None:
        """A client's own stream class can't be replaced, so it is refused where something is held."""

        class Stream(AsyncIterator[str]):
            async def __anext__(self) -> str:
                raise StopAsyncIteration

        with pytest.raises(PolicyError, match="returns an iterator"):

            @guarded(concurrency=Concurrency(max_concurrent=1))
            async def chat(prompt: str) -> Stream:
                return Stream()

    def test_plain_iterators_are_refused_at_decoration(self) -> None:
        """A plain function that returns an iterator is to be made a generator."""
        with pytest.raises(PolicyError, match="make it a generator"):

            @guarded(concurrency=Concurrency(max_concurrent=1))
            def words() -> Iterator[str]:
                return iter("ab")


async def test_what_is_thrown_in_is_not_kept() -> None:
    """An exception that the consumer throws into a stream is free once it is dropped, and the arguments with it."""

    class Batch: ...

    @guarded
    async def chat(batch: Batch) -> AsyncIterator[int]:
        async def items() -> AsyncIterator[int]:
            yield len(repr(batch))

        return items()

    batch = Batch()
    kept = weakref.ref(batch)
    gc.disable()
    try:
        stream: Any = await chat(batch)
        with contextlib.suppress(KeyError):
            await stream.athrow(KeyError())
        del batch, stream
        assert kept() is None
    finally:
        gc.enable()


class TestFallbackStreams:
    @pytest.mark.parametrize("kind", ["guarded", "client"])
    async def test_streams_of_other_kinds(self, kind: str) -> None:
        """A fallback may be a guarded function of the same shape, or a client's own stream, which is closed."""
        closed = []

        class Client:
            def __init__(self) -> None:
                self.items = [1, 2]

            def __aiter__(self) -> Client:
                return self

            async def __anext__(self) -> int:
                if not self.items:
                    raise StopAsyncIteration
                return self.items.pop(0)

            async def close(self) -> None:
                closed.append(kind)

        @guarded
        async def small() -> AsyncIterator[int]:
            return Client()

        @guarded(fallback=small if kind == "guarded" else Client)
        async def large() -> AsyncIterator[int]:
            raise ConnectionError

        assert [item async for item in await large()] == [1, 2]
        assert closed == [kind]
