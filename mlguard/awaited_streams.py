"""Coroutine functions that return an async iterator, as clients of language models do: guarded as streams.

With ``async def chat(...) -> AsyncIterator[str]`` the work is done after the function has returned, while its items are
read. So it is guarded as the stream it is, by `stream` in `call.py`: awaiting it brings the first item, and what the
call holds is held to the last one. It stays a coroutine function. Where no annotation tells, `Finished` refuses at run
time what would give a slot back too early.
"""

from __future__ import annotations

import builtins
import functools
import inspect
import io
from collections import abc
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from types import FunctionType
from typing import Any, Final, get_origin

import mlguard.call
from mlguard.errors import InvalidOutputError, PolicyError
from mlguard.specialise import readable, specialise
from mlguard.streams import END, end
from mlguard.target import Kind, Target, spelt_out

__all__ = ["AwaitedStream", "Finished", "Started", "gives_stream"]

_ABSTRACT: Final = (abc.AsyncIterator, abc.AsyncIterable, abc.AsyncGenerator)
_MOST_TYPES: Final = 1_000


def gives_stream(annotation: Any) -> bool:
    """Whether a return annotation is one of the abstract async iterators; a client's own class stays what it is."""
    while hasattr(annotation, "__metadata__"):
        annotation = annotation.__origin__
    annotation = spelt_out(annotation)
    return (get_origin(annotation) or annotation) in _ABSTRACT


class AwaitedStream(Target):
    """Such a function as the async generator that it amounts to."""

    def __init__(self, target: Target) -> None:
        self.function = _Items(target)
        self.kind = Kind.ASYNC_GENERATOR
        self.signature = target.signature
        self.inside = None
        self.script = target.script
        self._target = target
        self._hints = None

    @property
    def resolved(self) -> bool:
        return self._target.resolved

    @property
    def hints(self) -> dict[str, Any]:
        return self._target.hints

    def __reduce__(self) -> tuple[Any, ...]:
        return AwaitedStream, (self._target,)


class _Items:
    """The items of what such a function returns. Only the items: nothing is sent or thrown into it."""

    def __init__(self, target: Target) -> None:
        self._target = target
        functools.update_wrapper(self, target.function)

    async def __call__(self, *args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
        items = await (self._target.inside or self._target.function)(*args, **kwargs)
        if not hasattr(items, "__aiter__"):
            raise InvalidOutputError.of(
                f"{self._target.label}()",
                [
                    {
                        "type": "async_iterator",
                        "loc": (),
                        "msg": f"must be an async iterator, not {type(items).__name__}",
                    }
                ],
            )
        try:
            async for item in items:
                yield item
        finally:
            await end(items)


class Started:
    """Begins the guarded stream of such a function.

    Args:
        flags: Those of the stream.
        names: What its code looks up.
    """

    def __init__(self, flags: Mapping[str, bool], names: Mapping[str, Any]) -> None:
        self._made_of = flags, names
        namespace = {
            "__name__": mlguard.call.__name__,
            "__loader__": mlguard.call.__loader__,
            "__builtins__": builtins,
            **names,
        }
        self._stream: Callable[..., Any] = FunctionType(specialise(Kind.ASYNC_GENERATOR, flags)["call"], namespace)

    @property
    def source(self) -> str:
        """The stream as Python text."""
        return "\n\n" + readable(Kind.ASYNC_GENERATOR, self._made_of[0], "stream")

    async def __call__(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        """The stream, once its first item is there."""
        items = self._stream(*args, **kwargs)
        try:
            first = await anext(items)
        except StopAsyncIteration:
            first = END
        return _Begun(items, first)

    def __reduce__(self) -> tuple[Any, ...]:
        return Started, self._made_of


class _Begun(AsyncGenerator[Any, Any]):
    """A stream whose first item is there already."""

    def __init__(self, items: AsyncGenerator[Any, Any], first: Any) -> None:
        self._items = items
        self._first = [] if first is END else [first]

    async def __anext__(self) -> Any:
        return self._first.pop() if self._first else await anext(self._items)

    async def asend(self, value: Any) -> Any:
        return self._first.pop() if self._first else await self._items.asend(value)

    async def athrow(self, *error: Any) -> Any:
        self._first.clear()
        try:
            return await self._items.athrow(*error)
        finally:
            del error  # its traceback holds this frame

    async def aclose(self) -> None:
        self._first.clear()
        await self._items.aclose()


class Finished:
    """Refuses a result whose work is still to be done, where a slot or memory is given back when the call returns.

    Args:
        target: The function, whose annotations don't say what it returns.
        held: The sections that would end too early.
    """

    def __init__(self, target: Target, held: list[str]) -> None:
        self._target = target
        self._held = held
        self._fine: set[type] = set()

    def __call__(self, this: Any, result: Any, dims: Any) -> None:
        kind = type(result)
        if kind in self._fine:
            return
        if not _is_lazy(kind):
            if len(self._fine) < _MOST_TYPES:
                self._fine.add(kind)
            return
        if inspect.iscoroutine(result) or inspect.isgenerator(result):
            result.close()
        asynchronous = hasattr(kind, "__anext__")
        fix = (
            "annotate what it returns, -> AsyncIterator[...], so that it is guarded as a stream"
            if asynchronous and self._target.kind is Kind.COROUTINE
            else "make it an async generator that yields the items"
            if asynchronous
            else "await it in an 'async def'"
            if hasattr(kind, "__await__")
            else "make it a generator that yields the items, or return a list"
        )
        raise PolicyError(
            f"{self._target.name}: it returned a {kind.__qualname__}, whose work is still to be done, so "
            f"{' and '.join(self._held)} would end too early. Fix: {fix}."
        )


def _is_lazy(kind: type) -> bool:
    lazy = any(hasattr(kind, name) for name in ("__anext__", "__next__", "__await__"))
    return lazy and not issubclass(kind, io.IOBase)
