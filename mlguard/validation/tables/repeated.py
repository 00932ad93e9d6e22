"""A fixed value, once for each of so many rows, in the form that a function's return annotation gives its result."""

from __future__ import annotations

import collections.abc
import copy
import sys
import types
import typing
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from mlguard.errors import PolicyError
from mlguard.target import spelt_out

__all__ = ["Repeat", "repeat_of"]

Repeat: TypeAlias = Callable[[Any, int, Any], Any]
"""``repeat(value, rows, like)``: `like` is a result of the function, whose dtypes to use, or None."""


def repeat_of(annotation: Any) -> Repeat | None:
    """What repeats a value in the form of an annotation; None where that is no table."""
    annotation = spelt_out(annotation)
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return repeat_of(parts[0])
    if origin in (typing.Union, types.UnionType):
        found = [each for each in map(repeat_of, parts) if each is not None]
        return found[0] if len(found) == 1 else None
    kind = origin or annotation
    if not isinstance(kind, type):
        return None
    if issubclass(kind, np.ndarray):
        inner = typing.get_args(parts[1]) if len(parts) > 1 else ()
        return _Arrays(inner[0] if inner else None)
    if kind in (list, collections.abc.Sequence, collections.abc.MutableSequence):
        return _in_a_list
    if kind is tuple and parts and ... not in parts:
        inside = [repeat_of(part) for part in parts]
        return None if None in inside else _Tuples(typing.cast(list[Repeat], inside))
    if kind in (dict, collections.abc.Mapping) and len(parts) == 2:
        column = repeat_of(parts[1])
        return None if column is None else _Columns(column)
    for base in kind.__mro__:
        found_frame = _FRAMES.get((base.__module__.partition(".")[0], base.__name__))
        if found_frame is not None:
            return found_frame
    return None


class _Arrays:
    def __init__(self, dtype: Any) -> None:
        concrete = isinstance(dtype, type) and issubclass(dtype, np.generic) and dtype is not np.generic
        try:
            self._dtype = np.dtype(dtype) if concrete else None
        except TypeError:  # an abstract type, such as np.floating
            self._dtype = None

    def __call__(self, value: Any, rows: int, like: Any) -> Any:
        one = np.asarray(value, dtype=self._dtype if like is None else like.dtype)
        if like is not None and one.shape != like.shape[1:]:
            one = np.broadcast_to(one, like.shape[1:])
        return np.repeat(one[np.newaxis], rows, axis=0)


class _Tuples:
    def __init__(self, inside: list[Repeat]) -> None:
        self._inside = inside

    def __call__(self, value: Any, rows: int, like: Any) -> Any:
        if not isinstance(value, tuple) or len(value) != len(self._inside):
            raise PolicyError(f"must be a tuple of {len(self._inside)} values, one for each part of the result")
        likes = like if like is not None else [None] * len(value)
        each = zip(self._inside, value, likes, strict=True)
        return tuple(repeat(part, rows, known) for repeat, part, known in each)


class _Columns:
    def __init__(self, column: Repeat) -> None:
        self._column = column

    def __call__(self, value: Any, rows: int, like: Any) -> Any:
        if not isinstance(value, dict):
            raise PolicyError("must be a dict of one row, such as {'score': 0.5}")
        return {name: self._column(part, rows, like and like.get(name)) for name, part in value.items()}


def _in_a_list(value: Any, rows: int, like: Any) -> Any:
    return [copy.deepcopy(value) for _ in range(rows)]


def _row(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise PolicyError("must be a dict of one row, such as {'score': 0.5}")
    return value


def _pandas_frame(value: Any, rows: int, like: Any) -> Any:
    frame = sys.modules["pandas"].DataFrame([_row(value)] * rows, columns=list(value))
    return frame if like is None else frame[list(like.columns)].astype(like.dtypes.to_dict())


def _pandas_series(value: Any, rows: int, like: Any) -> Any:
    series = sys.modules["pandas"].Series([value] * rows, name=None if like is None else like.name)
    return series if like is None else series.astype(like.dtype)


def _polars_frame(value: Any, rows: int, like: Any) -> Any:
    schema = dict.fromkeys(_row(value)) if like is None else like.schema
    return sys.modules["polars"].DataFrame([value] * rows, schema=schema, orient="row")


def _polars_series(value: Any, rows: int, like: Any) -> Any:
    name, dtype = ("", None) if like is None else (like.name, like.dtype)
    return sys.modules["polars"].Series(name, [value] * rows, dtype=dtype)


def _arrow_table(value: Any, rows: int, like: Any) -> Any:
    arrow = sys.modules["pyarrow"]
    columns = {name: arrow.array([part] * rows) for name, part in _row(value).items()}
    table = arrow.table(columns)
    return table if like is None else table.select(like.schema.names).cast(like.schema)


_FRAMES: dict[tuple[str, str], Repeat] = {
    ("pandas", "DataFrame"): _pandas_frame,
    ("pandas", "Series"): _pandas_series,
    ("polars", "DataFrame"): _polars_frame,
    ("polars", "Series"): _polars_series,
    ("pyarrow", "Table"): _arrow_table,
}
