"""Annotations as people write them: `Self` made the class it means, the items of a stream, and a text to show."""

from __future__ import annotations

import collections.abc
import inspect
import sys
import types
import typing
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from mlguard.target import Target, spelt_out
from mlguard.validation.array import Array, array_checks
from mlguard.validation.tables.marks import TableMark

__all__ = ["returned", "tables_explained", "type_text", "without_self"]


def returned(target: Target) -> Any:
    """What the return annotation says of the result, or of each item of a stream; empty where there is none."""
    annotation = without_self(target.hints.get("return", inspect.Parameter.empty), target)
    if not target.kind.stream:
        return annotation
    inner = annotation
    if typing.get_origin(inner) is typing.Annotated:
        inner = typing.get_args(inner)[0]
    items = typing.get_args(inner)
    return items[0] if typing.get_origin(inner) in _STREAMS and items else Any


def without_self(annotation: Any, target: Target) -> Any:
    """`typing.Self` replaced by the class that holds the method."""
    if annotation is typing.Self:
        return _owner_of(target)
    if _waits(annotation):
        return _bound_of(annotation, target)
    parts = typing.get_args(annotation)
    if not any(_mentions_self(part) for part in parts):
        return annotation
    origin = typing.get_origin(annotation)
    parts = tuple(without_self(part, target) for part in parts)
    if origin in (types.UnionType, typing.Union):
        return typing.Union[parts]  # noqa: UP007 - parts are known at run time only
    return typing.Annotated[parts] if origin is typing.Annotated else origin[parts]


def _mentions_self(annotation: Any) -> bool:
    return (
        annotation is typing.Self
        or _waits(annotation)
        or any(_mentions_self(part) for part in typing.get_args(annotation))
    )


def _waits(annotation: Any) -> bool:
    """A type variable whose bound is written as text."""
    return isinstance(annotation, typing.TypeVar) and isinstance(annotation.__bound__, typing.ForwardRef)


def _bound_of(variable: typing.TypeVar, target: Target) -> Any:
    holder = types.new_class("bound", exec_body=lambda names: names.update(__annotations__={"x": variable.__bound__}))
    names = getattr(inspect.unwrap(target.function), "__globals__", {})
    return typing.get_type_hints(holder, globalns=names, include_extras=True)["x"]


def _owner_of(target: Target) -> Any:
    """The class of a method, once it is there; one defined inside of a function can't be found, and anything passes."""
    path = target.qualname.split(".")[:-1]
    if "<locals>" in path or not path:
        return Any
    owner: Any = sys.modules.get(target.function.__module__)
    for name in path:
        owner = getattr(owner, name, None)
    if owner is None:
        raise NameError(f"name '{path[-1]}' is not defined", name=path[-1])
    return owner


def type_text(annotation: Any) -> str:
    """An annotation as `explain` shows it."""
    if annotation is None or annotation is type(None):
        return "None"
    if typing.get_origin(annotation) is typing.Annotated:
        inner, *marks = typing.get_args(annotation)
        if any(isinstance(mark, Array) for mark in marks):  # with what pydantic's own constraints beside it add
            checks = array_checks(TypeAdapter(annotation).core_schema)
            return f"{type_text(inner)} as {checks[0].array!r}" if checks else type_text(inner)
        table = next((mark for mark in marks if isinstance(mark, TableMark)), None)
        return type_text(inner) if table is None else f"{type_text(inner)} of {table!r}"
    if isinstance(annotation, type) and typing.get_origin(annotation) is None:
        return annotation.__qualname__
    array = spelt_out(annotation)
    if typing.get_origin(array) is np.ndarray:
        dtype = typing.get_args(typing.get_args(array)[1])
        return f"ndarray of {getattr(dtype[0], '__name__', 'any dtype')}" if dtype else "ndarray"
    return str(annotation).replace("typing.", "")


def tables_explained(annotation: Any) -> list[str]:
    """What of the tables in an annotation is not looked at as whole columns."""
    marks = getattr(annotation, "__metadata__", ())
    parts = typing.get_args(annotation)
    said = [line for mark in marks if isinstance(mark, TableMark) for line in mark.check_of(parts[0]).explain()]
    return said + [line for part in parts if part not in marks for line in tables_explained(part)]


_STREAMS: tuple[Any, ...] = (
    collections.abc.Iterator,
    collections.abc.Iterable,
    collections.abc.Generator,
    collections.abc.AsyncIterator,
    collections.abc.AsyncIterable,
    collections.abc.AsyncGenerator,
)
