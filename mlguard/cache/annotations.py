"""What an annotation says about caching before any value is there: which values it can't key or copy, ever.

An annotation that leaves room for a value that works (`Any`, a protocol, an abstract class, a union with one good
member) passes; its values are looked at when they come.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import inspect
import io
import types
import typing
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import typing_extensions
from pydantic import BaseModel

from mlguard.cache.copies import copyable
from mlguard.cache.keys import KEYABLE, is_marked, keyed_fields, offers_identity
from mlguard.target import spelt_out

__all__ = ["MisplacedMark", "never_copied", "never_keyed", "plain_types"]

_PLAIN: Final = (int, float, bool, str, type(None))
_ONE_SHOT: Final = (
    collections.abc.Iterator,
    collections.abc.AsyncIterator,
    collections.abc.AsyncIterable,
    collections.abc.Awaitable,
)
_CALLABLE: Final[Any] = collections.abc.Callable
_BOXES: Final = (typing.Required, typing.NotRequired, typing.Final)


class MisplacedMark(Exception):  # noqa: N818 - an answer to `function_key.py`, which words it
    """`NotKeyed` stands where it can't be honoured."""


def never_keyed(annotation: Any) -> str | None:
    """Why no value of this annotation can be part of a key, as "Lock" or "field 'lock' of Job: Lock"; None: some can.

    Raises:
        MisplacedMark: NotKeyed marks something that is neither a parameter nor a field.
    """
    return _never(annotation, _unkeyable, marks=True, seen=())


def never_copied(annotation: Any) -> str | None:
    """Why no value of this annotation can be kept as a copy, in the words of `never_keyed`; None: some can."""
    return _never(annotation, _uncopyable, marks=False, seen=())


def plain_types(annotation: Any) -> frozenset[type]:
    """The scalar types that may stand in a key as they are, without ever being equal to one another."""
    annotation = _unboxed(annotation)
    origin = typing.get_origin(annotation)
    if annotation in _PLAIN or annotation is None:
        return frozenset({type(None) if annotation is None else annotation})
    if origin is typing.Literal:
        found = {type(value) for value in typing.get_args(annotation)} & set(_PLAIN)
    elif origin in (typing.Union, types.UnionType):
        found = set().union(*map(plain_types, typing.get_args(annotation)))
    elif annotation is Any or annotation is object or annotation is inspect.Parameter.empty:
        found = {int, str}
    else:
        return frozenset()
    numbers = [cls for cls in (float, int, bool) if cls in found]  # 1 == 1.0 == True: one of them may stay plain
    return frozenset(found - set(numbers[1:]))


def _unboxed(annotation: Any) -> Any:
    while True:
        origin = typing.get_origin(annotation)
        if origin is typing.Annotated or origin in _BOXES:
            annotation = typing.get_args(annotation)[0]
        elif isinstance(annotation, typing.NewType):
            annotation = annotation.__supertype__
        elif (meant := spelt_out(annotation)) is not annotation:
            annotation = meant
        else:
            return annotation


def _never(annotation: Any, refused: Callable[[type], bool], *, marks: bool, seen: tuple[Any, ...]) -> str | None:
    annotation = _unboxed(annotation)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)

    def inside(part: Any) -> str | None:
        if marks and typing.get_origin(part) is typing.Annotated and is_marked(part.__metadata__):
            raise MisplacedMark
        return _never(part, refused, marks=marks, seen=seen)

    if origin in (typing.Union, types.UnionType):
        reasons = [inside(part) for part in arguments]
        return None if None in reasons else " | ".join(filter(None, reasons))
    if origin is typing.Literal:
        return None
    cls = origin or annotation
    if not isinstance(cls, type) or cls in seen:
        return None
    if issubclass(cls, np.ndarray):
        return _array_reason(cls, arguments)
    if refused(cls):
        return _shown(annotation)
    if cls.__module__ in ("builtins", "collections", "collections.abc", "typing"):
        parts = arguments if cls is not type else ()
        return next(filter(None, (inside(part) for part in parts if part is not ...)), None)
    return _fields_reason(cls, refused, marks=marks, seen=(*seen, cls))


def _fields_reason(cls: type, refused: Callable[[type], bool], *, marks: bool, seen: tuple[Any, ...]) -> str | None:
    for name, annotation in _fields(cls, keyed_only=marks):
        reason = _never(annotation, refused, marks=marks, seen=seen)
        if reason:
            return f"field '{name}' of {cls.__qualname__}: {reason}"
    return None


def _fields(cls: type, *, keyed_only: bool) -> list[tuple[str, Any]]:
    if hasattr(cls, "__mlguard_key__"):
        return []
    if issubclass(cls, BaseModel):
        every = {name: field.annotation for name, field in cls.model_fields.items()}
    elif dataclasses.is_dataclass(cls) or (issubclass(cls, tuple) and hasattr(cls, "_fields")):
        hints = typing.get_type_hints(cls, include_extras=True)
        of_data = [field.name for field in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else None
        fields: Any = getattr(cls, "_fields", ()) if of_data is None else of_data
        every = {name: hints.get(name, Any) for name in fields}
    elif typing_extensions.is_typeddict(cls):
        every = typing.get_type_hints(cls, include_extras=True)
        for annotation in every.values():
            if keyed_only and is_marked(getattr(annotation, "__metadata__", ())):
                raise MisplacedMark
        return list(every.items())
    else:
        return []
    return [(name, every[name]) for name in (keyed_fields(cls) if keyed_only else every)]


def _array_reason(cls: type, arguments: tuple[Any, ...]) -> str | None:
    if cls not in (np.ndarray, np.memmap):
        return _shown(cls)
    scalar = next(iter(typing.get_args(arguments[1])), None) if len(arguments) > 1 else None
    return "array of dtype object" if scalar is np.object_ else None


def _unkeyable(cls: type) -> bool:
    return _refused(cls, lambda: typing_extensions.is_typeddict(cls) or offers_identity(cls))


def _uncopyable(cls: type) -> bool:
    return _refused(cls, lambda: typing_extensions.is_typeddict(cls) or copyable(cls))


def _refused(cls: type, works: Callable[[], bool]) -> bool:
    if hasattr(cls, "__mlguard_key__"):
        return not works()
    if cls is _CALLABLE or issubclass(cls, (*_ONE_SHOT, io.IOBase, typing.IO)):
        return True
    return not (works() or _leaves_room(cls))


def _leaves_room(cls: type) -> bool:
    """Whether a class is a promise that values of many types keep, some of them well known here."""
    if inspect.isabstract(cls) or getattr(cls, "_is_protocol", False) or cls.__module__ in ("typing", "numbers"):
        return True
    return any(issubclass(known, cls) for known in KEYABLE)


def _shown(annotation: Any) -> str:
    return annotation.__qualname__ if isinstance(annotation, type) else str(annotation)
