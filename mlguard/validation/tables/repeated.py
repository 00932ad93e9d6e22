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
        wanted = self._dtype if like is None else like.dtype
        one = _as(value, wanted, declared=self._dtype is not None, single=like is not None and like.ndim == 1)
        if like is not None and one.shape != like.shape[1:]:
            one = np.broadcast_to(one, like.shape[1:])
        return np.repeat(one[np.newaxis], rows, axis=0)


def _as(value: Any, wanted: np.dtype[Any] | None, *, declared: bool, single: bool) -> Any:
    """The value as an array of this dtype, where it is the same then; else of its own, or refused if one is declared.

    Joining takes care of a wider dtype: 0.5 beside whole numbers makes them floats, and is not cut to 0.
    """
    if wanted is None:
        return np.asarray(value)
    if wanted.kind == "O":
        if not single:
            return np.asarray(value, dtype=object)
        one = np.empty((), dtype=object)
        one[()] = value
        return one
    own = np.asarray(value)
    if wanted.kind in "US":  # of any length
        same = own.dtype.kind == wanted.kind
        one = own
    elif wanted.kind in "mM":
        one, same = np.asarray(value, dtype=wanted), True
    else:
        whole = own.dtype.kind in "iu" and wanted.kind in "iu"
        try:  # of a whole number that does not fit, asarray of NumPy 1 warns, where that of NumPy 2 raises
            one = own.astype(wanted) if whole else np.asarray(value, dtype=wanted)
        except OverflowError:
            one, same = own, False
        else:
            same = one.dtype.kind in "fc" and (own.dtype.kind in "fc" or value is None)  # rounding is no loss
            same = same or bool(np.all(one == own))
    numbers = own.dtype.kind in "biufc" and wanted.kind in "biufc"
    if not same and (declared or not numbers):
        raise PolicyError(f"no {wanted} is the same as {value!r:.60}")
    return one if same else own


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
    pandas = sys.modules["pandas"]
    if like is None:
        return pandas.DataFrame([_row(value)] * rows, columns=list(value))
    if set(_row(value)) != set(like.columns):
        raise PolicyError(f"has the columns {list(value)}, the function's result {list(like.columns)}")
    if not len(like.columns):
        return pandas.DataFrame(index=range(rows))
    columns = [_pandas_series(value[name], rows, like[name]) for name in like.columns]
    return pandas.concat(columns, axis=1)


def _pandas_series(value: Any, rows: int, like: Any) -> Any:
    series = sys.modules["pandas"].Series([value] * rows, name=None if like is None else like.name)
    if like is None or not rows:
        return series
    if value is None and like.dtype.kind in "iuf":
        return series.astype(float)  # a missing number, as pandas spells it
    if value not in getattr(like.dtype, "categories", [value]):
        return series
    try:
        made = series.astype(like.dtype)
    except (TypeError, ValueError, OverflowError):
        return series
    rounded = made.dtype.kind == "f" and isinstance(value, float)
    return made if rounded or made.iloc[:1].tolist() in ([value], [None]) or value != value else series


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
