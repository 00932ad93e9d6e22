"""A batch's result taken apart into rows, and put together again from rows of several batches.

A form says what the rows of one result have in common: kind, dtype, shape of a row, names. Rows of equal forms make a
result again, exactly as the function would have returned it. A row is kept as bytes or values of its own: it never
holds on to the batch it came from.
"""

from __future__ import annotations

import copy
import functools
import sys
from collections.abc import Sequence
from typing import Any, Final, Protocol, cast

import numpy as np

from mlguard.cache.copies import Kept, Uncopyable, keep

__all__ = ["Form", "WrongRowsError", "form_of"]


class WrongRowsError(Exception):
    """A result has another number of rows than its batch."""


class Form(Protocol):
    """What the rows of one result have in common; equal forms are one object."""

    def cut(self, result: Any) -> list[Any]:
        """The rows of a result of this form, each as something that can be kept."""
        ...

    def size(self, row: Any) -> int:
        """Estimated bytes of a kept row."""
        ...

    def build(self, rows: Sequence[Any]) -> Any:
        """A result of kept rows."""
        ...


def form_of(result: Any, size: int, *, writable: bool) -> Form:
    """The form of a result with so many rows.

    Args:
        result: What the function returned.
        size: The rows of its batch.
        writable: Whether arrays are built anew for every caller, instead of on memory that nobody can write.

    Raises:
        WrongRowsError: It has another number of rows, or none that could be counted.
        Uncopyable: Nobody knows how to keep rows of such a result.
    """
    kind: Any = type(result)
    if kind is np.ndarray:
        _same_size(size, result.shape[0] if result.ndim else None, "an array")
        dtype = result.dtype
        if dtype.hasobject or dtype.kind in "OT":
            raise Uncopyable(f"array of dtype {dtype}")
        return _array_form(dtype, dtype.str if dtype.names is None else repr(dtype), result.shape[1:], writable)
    if kind is list:
        _same_size(size, len(result), "a list")
        return _LIST
    if kind is tuple or (isinstance(result, tuple) and hasattr(result, "_fields")):
        return _tuple_form(kind, tuple(form_of(part, size, writable=writable) for part in result))
    if kind is dict:
        columns = cast(dict[Any, Any], result)
        parts = tuple(form_of(part, size, writable=writable) for part in columns.values())
        return _dict_form(tuple(columns), tuple(map(type, columns)), parts)
    package = kind.__module__.partition(".")[0]
    found = _ELSEWHERE[package](result, size) if package in _ELSEWHERE else None
    if found is not None:
        return found
    if kind in (int, float, str, bool, type(None)) or isinstance(result, np.generic):
        _same_size(size, None, f"a single {kind.__name__}")
    raise Uncopyable(kind.__qualname__)


def _same_size(size: int, found: int | None, what: str) -> None:
    if found != size:
        has = "" if found is None else f" of {found:,} row{'s' if found != 1 else ''}"
        raise WrongRowsError(f"{what}{has} for a batch of {size:,}")


class _ArrayForm:
    def __init__(self, dtype: np.dtype[Any], shape: tuple[int, ...], writable: bool) -> None:
        self._dtype = copy.deepcopy(dtype)
        self._shape = shape
        self._width = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        self._writable = writable

    def cut(self, result: Any) -> list[Any]:
        if not self._width:
            return [b""] * len(result)
        flat = np.ascontiguousarray(result).reshape(-1).view(np.uint8)
        return flat.view(f"V{self._width}").tolist()

    def size(self, row: Any) -> int:
        return sys.getsizeof(row)

    def build(self, rows: Sequence[Any]) -> Any:
        # The fields of a structured dtype can be renamed in place, so each array gets a dtype of its own.
        dtype = self._dtype if self._dtype.names is None else copy.deepcopy(self._dtype)
        array = np.ndarray((len(rows), *self._shape), dtype, b"".join(rows))
        return array.copy() if self._writable else array


@functools.lru_cache(1024)
def _array_form(dtype: np.dtype[Any], spelt: str, shape: tuple[int, ...], writable: bool) -> _ArrayForm:
    # `spelt`, because dtypes that differ in byte order, padding or unit may still be equal to numpy.
    return _ArrayForm(dtype, shape, writable)


class _ListForm:
    def cut(self, result: Any) -> list[Any]:
        return [keep(row, sys.maxsize, writable=True) for row in result]

    def size(self, row: Kept) -> int:
        return row.size + sys.getsizeof(row) + sys.getsizeof(row.size)

    def build(self, rows: Sequence[Kept]) -> Any:
        return [row.fresh() for row in rows]


_LIST: Final = _ListForm()


class _TupleForm:
    def __init__(self, kind: type, parts: tuple[Form, ...]) -> None:
        self._kind = kind
        self._parts = parts

    def cut(self, result: Any) -> list[Any]:
        return list(zip(*(part.cut(each) for part, each in zip(self._parts, result, strict=True)), strict=True))

    def size(self, row: Any) -> int:
        return sys.getsizeof(row) + sum(part.size(each) for part, each in zip(self._parts, row, strict=True))

    def build(self, rows: Sequence[Any]) -> Any:
        columns = zip(*rows, strict=True)
        return tuple.__new__(
            self._kind, [part.build(column) for part, column in zip(self._parts, columns, strict=True)]
        )


@functools.lru_cache(256)
def _tuple_form(kind: type, parts: tuple[Form, ...]) -> _TupleForm:
    if not parts:
        raise WrongRowsError("an empty tuple")
    return _TupleForm(kind, parts)


class _DictForm:
    def __init__(self, names: tuple[Any, ...], parts: tuple[Form, ...]) -> None:
        self._names = names
        self._columns = _TupleForm(tuple, parts)
        self.size = self._columns.size

    def cut(self, result: Any) -> list[Any]:
        return self._columns.cut(tuple(result.values()))

    def build(self, rows: Sequence[Any]) -> Any:
        return dict(zip(self._names, self._columns.build(rows), strict=True))


@functools.lru_cache(256)
def _dict_form(names: tuple[Any, ...], _: tuple[type, ...], parts: tuple[Form, ...]) -> _DictForm:
    # With the types of the names, because 1, 1.0 and True are equal to Python.
    if not parts:
        raise WrongRowsError("an empty dict")
    return _DictForm(names, parts)


# Tables of other libraries


class _FrameForm:
    """Columns of numpy, and how to make a table of them."""

    def __init__(self, columns: tuple[Form, ...], take_apart: Any, put_together: Any) -> None:
        self._columns = _TupleForm(tuple, columns)
        self._take_apart = take_apart
        self._put_together = put_together
        self.size = self._columns.size

    def cut(self, result: Any) -> list[Any]:
        return self._columns.cut(self._take_apart(result))

    def build(self, rows: Sequence[Any]) -> Any:
        return self._put_together(self._columns.build(rows))


def _pandas(result: Any, size: int) -> Form | None:
    pandas = sys.modules["pandas"]
    if type(result) not in (pandas.Series, pandas.DataFrame):
        return None
    _same_size(size, len(result), f"a {type(result).__name__}")
    index = result.index
    if type(index) is not pandas.RangeIndex or (index.start, index.step, index.name) != (0, 1, None) or result.attrs:
        raise Uncopyable("a frame with an index of its own")
    series = type(result) is pandas.Series
    dtypes = (result.dtype,) if series else tuple(result.dtypes)
    if not all(isinstance(dtype, np.dtype) and dtype.kind in "biufcmM" for dtype in dtypes):
        raise Uncopyable("a frame with columns that are no numbers or dates")
    forms = tuple(_array_form(dtype, dtype.str, (), True) for dtype in dtypes)
    if series:
        name = result.name
        if not isinstance(name, str | int | None):
            raise Uncopyable("a series whose name is no text")
        return _series_form(name, forms[0])
    labels = tuple(result.columns)
    if len(set(labels)) != len(labels) or result.columns.nlevels > 1 or not all(isinstance(x, str) for x in labels):
        raise Uncopyable("a frame whose columns are not named by texts")
    if result.columns.name is not None:
        raise Uncopyable("a frame whose columns have a name in common")
    return _pandas_form(labels, forms)


@functools.lru_cache(256, typed=True)
def _series_form(name: Any, form: Form) -> _FrameForm:
    return _FrameForm((form,), _series_apart, functools.partial(_series_together, name))


@functools.lru_cache(256)
def _pandas_form(labels: tuple[str, ...], forms: tuple[Form, ...]) -> _FrameForm:
    return _FrameForm(forms, _frame_apart, functools.partial(_frame_together, labels))


def _series_apart(series: Any) -> tuple[Any, ...]:
    return (series.to_numpy(),)


def _series_together(name: Any, columns: Any) -> Any:
    return sys.modules["pandas"].Series(columns[0], name=name)


def _frame_apart(frame: Any) -> tuple[Any, ...]:
    return tuple(frame.iloc[:, place].to_numpy() for place in range(frame.shape[1]))


def _frame_together(labels: tuple[str, ...], columns: Any) -> Any:
    return sys.modules["pandas"].DataFrame(dict(zip(labels, columns, strict=True)))


def _polars(result: Any, size: int) -> Form | None:
    polars = sys.modules["polars"]
    if type(result) not in (polars.Series, polars.DataFrame):
        return None
    _same_size(size, len(result), f"a polars {type(result).__name__}")
    series = type(result) is polars.Series
    columns = (result,) if series else tuple(result.get_columns())
    if not all(_simple(polars, column.dtype) and not column.null_count() for column in columns):
        raise Uncopyable("a polars table with nulls, or columns that are no numbers, truth values or texts")
    names = tuple(column.name for column in columns)
    dtypes = tuple(column.dtype for column in columns)
    return _polars_form(series, names, dtypes)


def _simple(polars: Any, dtype: Any) -> bool:
    return bool((dtype.is_numeric() and not dtype.is_decimal()) or dtype in (polars.Boolean, polars.String))


@functools.lru_cache(256)
def _polars_form(series: bool, names: tuple[str, ...], dtypes: tuple[Any, ...]) -> _FrameForm:
    return _FrameForm(
        tuple(_LIST for _ in names), _polars_apart, functools.partial(_polars_together, series, names, dtypes)
    )


def _polars_apart(table: Any) -> tuple[Any, ...]:
    columns = [table] if type(table) is sys.modules["polars"].Series else table.get_columns()
    return tuple(column.to_list() for column in columns)


def _polars_together(series: bool, names: tuple[str, ...], dtypes: tuple[Any, ...], columns: Any) -> Any:
    polars = sys.modules["polars"]
    made = [
        polars.Series(name, values, dtype=dtype, strict=True)
        for name, dtype, values in zip(names, dtypes, columns, strict=True)
    ]
    return made[0] if series else polars.DataFrame(made)


def _pyarrow(result: Any, size: int) -> Form | None:
    arrow = sys.modules["pyarrow"]
    if type(result) is not arrow.Table:
        return None
    _same_size(size, len(result), "an arrow Table")
    if any(column.null_count for column in result.columns):
        raise Uncopyable("an arrow table with nulls")
    plain = (
        arrow.types.is_integer,
        arrow.types.is_float32,
        arrow.types.is_float64,
        arrow.types.is_boolean,
        arrow.types.is_string,
    )
    if not all(any(test(field.type) for test in plain) for field in result.schema):
        raise Uncopyable("an arrow table with columns that are no numbers, truth values or texts")
    return _arrow_form(result.schema, result.schema.serialize().to_pybytes())


@functools.lru_cache(256)
def _arrow_form(schema: Any, spelt: bytes) -> _FrameForm:  # schemas are equal whatever their metadata
    return _FrameForm(tuple(_LIST for _ in schema), _arrow_apart, functools.partial(_arrow_together, schema))


def _arrow_apart(table: Any) -> tuple[Any, ...]:
    return tuple(column.to_pylist() for column in table.columns)


def _arrow_together(schema: Any, columns: Any) -> Any:
    arrow = sys.modules["pyarrow"]
    arrays = [arrow.array(values, type=field.type) for values, field in zip(columns, schema, strict=True)]
    return arrow.Table.from_arrays(arrays, schema=schema)


_ELSEWHERE: Final = {"pandas": _pandas, "polars": _polars, "pyarrow": _pyarrow}
