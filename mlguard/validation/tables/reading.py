"""Tables of every kind as one: a number of rows, names of columns, and a column by name.

What a `Rows` annotates decides which kind is read; a table of another kind is refused, never converted. pandas, polars
and Arrow are known by the class in the annotation, so none of them is imported to look.
"""

from __future__ import annotations

import collections.abc
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from pydantic_core import PydanticCustomError

from mlguard.errors import PolicyError
from mlguard.target import spelt_out
from mlguard.validation.tables.columns import MISSING, Array, Column, ListColumn, NumpyColumn
from mlguard.validation.tables.frames import ArrowColumn, PolarsColumn, pandas_column

__all__ = ["Reader", "Table", "reader_of"]


class Table:
    """A table as the checks see it.

    Args:
        size: The number of its rows.
        names: Its columns, in order; each once.
        column: What gives a column by its place in `names`.
        holes: Some row lacks a column.
        having: Where each row has keys of its own, as dicts do, the rows that have one of these.
    """

    __slots__ = ("_column", "having", "holes", "names", "places", "ragged", "size")

    def __init__(
        self,
        size: int,
        names: list[Any],
        column: Callable[[int], Column],
        *,
        holes: bool = False,
        having: Callable[[set[Any]], Array] | None = None,
    ) -> None:
        self.size = size
        self.names = names
        self.ragged = having is not None
        """Each row has keys of its own, and may lack a column."""
        self.having = having
        self.holes = holes
        self.places = dict(zip(names, range(len(names)), strict=True))
        if len(self.places) != len(names):
            raise _twice(names)
        self._column = column

    def column(self, place: int) -> Column:
        return self._column(place)


class Reader(typing.NamedTuple):
    """What reads the tables of one annotation."""

    named: str
    """What the annotation calls them."""
    accepts: tuple[type, ...]
    read: Callable[[Any], Table]
    by_rows: bool
    """JSON spells such a table as a list of rows; else as an object of columns."""

    def __call__(self, value: Any) -> Table:
        """Reads a table.

        Raises:
            PydanticCustomError: It is none of this kind, or none that has rows and columns.
        """
        if not isinstance(value, self.accepts):
            raise PydanticCustomError(
                "table_type", "must be a {expected}, got {received}",
                {"expected": self.named, "received": _class_of(value), "fix": _fix(self, value)},
            )  # fmt: skip
        return self.read(value)


def reader_of(source: Any) -> Reader:
    """The reader of an annotation.

    Raises:
        PolicyError: It is no table.
    """
    source = spelt_out(source)
    origin = typing.get_origin(source)
    if origin in (typing.Union, types.UnionType):
        return _one_of([reader_of(part) for part in typing.get_args(source)])
    if origin is typing.Annotated:
        return reader_of(typing.get_args(source)[0])
    kind = origin or source
    if not isinstance(kind, type):
        raise _no_table(source)
    if issubclass(kind, np.ndarray):
        return Reader("structured NumPy array", (kind,), _structured, by_rows=True)
    if kind is dict or kind in (collections.abc.Mapping, collections.abc.MutableMapping):
        return Reader("dict of columns", (kind,), _columns, by_rows=False)
    if kind in (list, collections.abc.Sequence, collections.abc.MutableSequence):
        parts = typing.get_args(source)
        row = typing.get_origin(parts[0]) or parts[0] if parts else dict
        if isinstance(row, type) and issubclass(row, collections.abc.Mapping):
            return Reader("list of dicts", (list,), _dicts, by_rows=True)
        raise _no_table(source)
    for base in kind.__mro__:
        found = _FRAMES.get((base.__module__.partition(".")[0], base.__name__))
        if found is not None:
            named, read = found
            return Reader(named, (kind,), read, by_rows=True)
    raise _no_table(source)


def _one_of(readers: list[Reader]) -> Reader:
    def read(value: Any) -> Table:
        return next(reader for reader in readers if isinstance(value, reader.accepts)).read(value)

    accepts = tuple(kind for reader in readers for kind in reader.accepts)
    by_rows = all(reader.by_rows for reader in readers)
    return Reader(" or ".join(reader.named for reader in readers), accepts, read, by_rows)


def _no_table(source: Any) -> PolicyError:
    text = getattr(source, "__qualname__", None) or str(source).replace("typing.", "")
    fix = "a pandas, polars or Arrow frame, dict[str, np.ndarray], a structured np.ndarray, or list[dict]"
    if text == "LazyFrame":
        fix = "annotate a pl.DataFrame and .collect() before the call; a lazy frame has no rows yet"
    return PolicyError(f"Rows is for tables, but it annotates {text}. Fix: {fix} (put `| None` outside of Annotated).")


def _class_of(value: Any) -> str:
    package = type(value).__module__.partition(".")[0]
    name = type(value).__qualname__
    return name if package in ("builtins", "__main__") else f"{package} {name}"


def _fix(reader: Reader, value: Any) -> str:
    if type(value).__name__ == "LazyFrame":
        return ".collect() it before the call"
    if isinstance(value, list | dict) and reader.by_rows and reader.read is not _dicts:
        return f"make it one before the call; a {type(value).__name__} is not converted"
    return f"pass a {reader.named}"


def _wrong(kind: str, words: str, fix: str, **figures: Any) -> PydanticCustomError:
    return PydanticCustomError(typing.cast(Any, kind), typing.cast(Any, words), {**figures, "fix": fix})


def _twice(names: list[Any]) -> PydanticCustomError:
    twice = sorted({str(name) for name in names if names.count(name) > 1}) if len(names) < 2_000 else []
    fix = "give each column a name of its own"
    return _wrong(
        "table_columns", "has columns of the same name: {columns}", fix, columns=", ".join(twice[:5]) or "some"
    )


# NumPy and Python


def _structured(value: Any) -> Table:
    if isinstance(value, np.ma.MaskedArray):
        raise _wrong("table_type", "must have no mask", "fill the masked values first, with .filled(...)")
    names = value.dtype.names
    if names is None:
        words = "must be a structured array, which has columns by name; got dtype {received}"
        raise _wrong("table_type", words, "a dict of columns, or a structured dtype", received=str(value.dtype))
    if value.ndim != 1:
        words = "must have one dimension, its rows; got {received}"
        raise _wrong("table_type", words, "one record a row", received=str(value.shape))
    return Table(len(value), list(names), lambda place: NumpyColumn(value[names[place]]))


def _columns(value: Mapping[Any, Any]) -> Table:
    columns = list(value.values())
    size = None
    for name, column in value.items():
        if not isinstance(column, np.ndarray | list) or isinstance(column, np.ma.MaskedArray):
            words = "column {column} must be a NumPy array or a list, got {received}"
            fix = "pass np.asarray(...) of it, masked values filled"
            raise _wrong("table_type", words, fix, column=_name(name), received=type(column).__qualname__)
        if isinstance(column, np.ndarray) and not column.ndim:
            raise _wrong("table_type", "column {column} is a single value", "one value a row", column=_name(name))
        length = len(column)
        if size is None:
            size = length
        elif length != size:
            words = "must have columns of one length: '{first}' has {size} rows, '{column}' has {length}"
            figures = {"first": _name(next(iter(value))), "size": size, "column": _name(name), "length": length}
            raise _wrong("table_ragged", words, "one value a row in every column", **figures)

    def column_at(place: int) -> Column:
        column = columns[place]
        return NumpyColumn(column) if isinstance(column, np.ndarray) else ListColumn(column)

    return Table(size or 0, list(value), column_at)


def _dicts(value: Sequence[Any]) -> Table:
    names: dict[Any, None] = {}
    holes = False
    for row, entry in enumerate(value):
        if type(entry) is not dict and not isinstance(entry, Mapping):
            words = "row {row} must be a dict, got {received}"
            raise _wrong("table_type", words, "one dict a row", row=row, received=type(entry).__qualname__)
        if entry.keys() != names.keys():
            holes = holes or row > 0
            names.update(dict.fromkeys(entry))
    known = list(names)

    def column_at(place: int) -> Column:
        name = known[place]
        return ListColumn([row.get(name, MISSING) for row in value] if holes else [row[name] for row in value])

    def having(columns: set[Any]) -> Array:
        return np.flatnonzero(np.fromiter((not columns.isdisjoint(row) for row in value), bool, len(value)))

    return Table(len(value), known, column_at, holes=holes, having=having)


def _name(name: Any) -> str:
    return str(name)[:40]


# Frames


def _pandas(value: Any) -> Table:
    columns = value.columns
    if columns.nlevels != 1:
        words = "must have columns with one name each, got {levels} levels of names"
        raise _wrong(
            "table_columns", words, "df.columns = ['_'.join(name) for name in df.columns]", levels=columns.nlevels
        )
    # pandas takes 7 us to look a column up by name; what it does so by place with is as old as 1.2, but has no name of
    # its public interface.
    array_at = getattr(value, "_get_column_array", None) or (lambda place: value.iloc[:, place].array)
    return Table(len(value), columns.tolist(), lambda place: pandas_column(array_at(place)))


def _polars(value: Any) -> Table:
    return Table(value.height, value.columns, lambda place: PolarsColumn(value.to_series(place)))


def _arrow(value: Any) -> Table:
    return Table(value.num_rows, value.schema.names, lambda place: ArrowColumn(value.column(place)))


_FRAMES: dict[tuple[str, str], tuple[str, Callable[[Any], Table]]] = {
    ("pandas", "DataFrame"): ("pandas DataFrame", _pandas),
    ("polars", "DataFrame"): ("polars DataFrame", _polars),
    ("pyarrow", "Table"): ("Arrow table", _arrow),
    ("pyarrow", "RecordBatch"): ("Arrow record batch", _arrow),
}
