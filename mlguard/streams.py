"""Generators, opened: the first item is there, the rest is to come, and what the call holds is held to the end.

`produce` in `call.py` awaits one result; for a generator that result is an `Opened`. Everything about delivering the
items is in `stream` in `call.py`. Coroutine functions that return an async iterator are in `awaited_streams.py`.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from typing import Any

__all__ = [
    "END",
    "AsyncOpened",
    "Opened",
    "Opener",
    "end",
    "first_checked",
    "opened_fallback",
    "opened_fallback_async",
]


class _End:
    """Stands for the end of a stream: one object, also after pickling."""

    def __reduce__(self) -> str:
        return "END"

    def __repr__(self) -> str:
        return "END"


END = _End()


class _Lease:
    """What a stream holds until its last item, and how far it has come."""

    def __init__(self, item: Any, value: Any = None) -> None:
        self.permit: Any = None
        self.slot: Any = None
        self.claim: Any = True
        self.value = value
        """The generator's return value, once it ended."""
        self.count = 0
        """Items that the generator made so far."""
        self._item = item
        self._thrown_in = False

    def hold(self, permit: Any, slot: Any, claim: Any) -> None:
        self.permit, self.slot, self.claim = permit, slot, claim

    def blamed(self, error: BaseException) -> BaseException:
        """What the breaker is told in place of an error: one that the consumer threw in is not the function's."""
        return GeneratorExit() if self._thrown_in else error

    def peek(self) -> Any:
        return self._item

    def first(self) -> Any:
        """The first item, or END; kept no longer than until it is asked for."""
        item, self._item = self._item, None
        self.count += item is not END
        return item


class Opened(_Lease):
    """A plain generator whose first item is there."""

    def __init__(self, items: Generator[Any, Any, Any] | None, item: Any, value: Any = None) -> None:
        super().__init__(item, value)
        self._items = items

    def next(self, sent: Any, thrown: BaseException | None) -> Any:
        """The next item, or END; hands on what the consumer sent or threw."""
        if self._items is None:
            return END
        try:
            item = self._items.throw(thrown) if thrown is not None else self._items.send(sent)
        except StopIteration as end:
            self.value = end.value
            return END
        except BaseException as error:
            self._thrown_in = error is thrown
            raise
        finally:
            thrown = None  # its traceback holds this frame
        self.count += 1
        return item

    def close(self) -> None:
        if self._items is not None:
            self._items.close()


class AsyncOpened(_Lease):
    """An async generator whose first item is there."""

    def __init__(self, items: AsyncGenerator[Any, Any] | None, item: Any) -> None:
        super().__init__(item)
        self._items = items

    async def next(self, sent: Any, thrown: BaseException | None) -> Any:
        """The next item, or END; hands on what the consumer sent or threw."""
        if self._items is None:
            return END
        try:
            item = await (self._items.athrow(thrown) if thrown is not None else self._items.asend(sent))
        except StopAsyncIteration:
            return END
        except BaseException as error:
            self._thrown_in = error is thrown
            raise
        finally:
            thrown = None  # its traceback holds this frame
        self.count += 1
        return item

    async def close(self) -> None:
        # An event loop that ends closes every generator that was left open, this one and the one around it, at once.
        if self._items is not None and not getattr(self._items, "ag_running", False):
            await self._items.aclose()


class Opener:
    """Calls a generator function and waits for its first item: an attempt can fail before anything is delivered."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def open(self, *args: Any, **kwargs: Any) -> Opened:
        items = self._function(*args, **kwargs)
        try:
            return Opened(items, next(items))
        except StopIteration as end:
            return Opened(None, END, end.value)

    async def open_async(self, *args: Any, **kwargs: Any) -> AsyncOpened:
        items = self._function(*args, **kwargs)
        try:
            return AsyncOpened(items, await anext(items))
        except StopAsyncIteration:
            return AsyncOpened(None, END)
        except BaseException:
            await items.aclose()
            raise


async def end(items: Any) -> None:
    """Closes what was iterated with ``async for``, where it can be closed: clients name it differently."""
    close = getattr(items, "aclose", None) or getattr(items, "close", None)
    closed = close() if close is not None else None
    if inspect.isawaitable(closed):
        await closed


class first_checked:  # noqa: N801 - reads as a function, is a class so that it pickles
    """The output check of `produce` for a stream: its first item, where it has one."""

    def __init__(self, check_item: Callable[[Any, Any, Any], None]) -> None:
        self._check_item = check_item

    def __call__(self, this: Any, opened: _Lease, dims: Any) -> None:
        if opened.peek() is not END:
            self._check_item(this, opened.peek(), dims)


def opened_fallback(value: Any) -> Opened:
    """A fallback as a stream: the items of a generator or iterator, or any other value as the only item."""
    items = value if inspect.isgenerator(value) else _each(value) if isinstance(value, Iterator) else _only(value)
    return Opener(lambda: items).open()


async def opened_fallback_async(value: Any) -> AsyncOpened:
    """The same for an async generator, of whatever can be iterated with ``async for``."""
    if not isinstance(value, AsyncGenerator):  # a client's own stream, or a value
        value = _each_async(value) if hasattr(type(value), "__aiter__") else _only_async(value)
    return await Opener(lambda: value).open_async()


def _each(items: Iterator[Any]) -> Generator[Any, Any, None]:
    yield from items


async def _each_async(items: Any) -> AsyncGenerator[Any, Any]:
    try:
        async for item in items:
            yield item
    finally:
        await end(items)


def _only(value: Any) -> Generator[Any, Any, None]:
    yield value


async def _only_async(value: Any) -> AsyncGenerator[Any, Any]:
    yield value
