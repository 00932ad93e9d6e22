"""Training data as columns: whatever a person has it in, read once, in the order of its rows.

The order matters: from it the profile learns how alike neighbouring rows are. Frames are recognised by the module of
their class; pandas, polars and pyarrow are never imported for it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import BaseModel

from mlguard.drift.errors import ProfileError

__all__ = ["Column", "columns_of", "series"]

MOST: int = 2_000
"""Columns of one profile: enough for an embedding, and still under 100 ms and 2 MB to evaluate and to keep."""


@dataclass(frozen=True)
class Column:
    """One column: where it comes from, and its values by row."""

    path: str
    """The column's name, or the argument's; empty for a table or array that has no name of its own."""
    index: int | None
    """Its position in an array of several columns; None: it is alone."""
    values: Any
    """A one-dimensional array or list."""
    label: str | None = None
    """What a person calls it, where the data does not."""
    width: int | None = None
    """How many columns that array has."""

    @property
    def name(self) -> str:
        if self.label is not None:
            return self.label
        return self.path if self.index is None else f"{self.path}[{self.index}]"


def columns_of(data: Any, what: str, names: Sequence[str] | None = None) -> list[Column]:
    """The columns of a table or array.

    Args:
        data: A two-dimensional array, a structured array, a frame of pandas, polars or pyarrow, a dict of columns, or
            a list of dicts, models or dataclasses, one a row. A column may be an array of several columns itself.
        what: What messages call the data.
        names: Names for the columns of an array that has none.

    Raises:
        ProfileError: It is none of these, is empty, or its columns differ in length.
    """
    columns = _columns(data, what, names)
    lengths = {column.name: len(column.values) for column in columns}
    if not lengths or not max(lengths.values()):
        raise ProfileError(f"{what} has no rows. Fix: give the training data.")
    if len(set(lengths.values())) > 1:
        least, most = min(lengths, key=lengths.__getitem__), max(lengths, key=lengths.__getitem__)
        raise ProfileError(
            f"{what}: the columns differ in length: {least!r} has {lengths[least]:,} values, {most!r} "
            f"{lengths[most]:,}. Fix: give one value a row, None where there is none."
        )
    if len(columns) > MOST:
        raise ProfileError(
            f"{what} has {len(columns):,} columns, a profile at most {MOST:,}. Fix: profile those that matter, or "
            "figures of them such as a norm."
        )
    if len(lengths) < len(columns):
        names = [column.name for column in columns]
        again = next(name for name in names if names.count(name) > 1)
        raise ProfileError(f"{what}: two columns are called {again!r}. Fix: rename one.")
    return columns


def series(column: Any) -> Any:
    """One column as an array or a list: numbers as they are, missing ones among them as NaN, everything else listed."""
    kind = type(column).__module__.partition(".")[0]
    if isinstance(column, np.ma.MaskedArray):
        return np.ma.filled(column.astype(np.float64), np.nan) if column.dtype.kind in "biuf" else column.tolist()
    if isinstance(column, np.ndarray):
        return column
    if kind == "pandas":
        numeric = getattr(column.dtype, "kind", "O") in "biuf"
        if numeric and not column.isna().any():
            return column.to_numpy()
        if numeric and column.dtype.kind != "b":
            return column.to_numpy(dtype="float64", na_value=np.nan)
        return [None if gone else value for value, gone in zip(column.tolist(), column.isna().tolist(), strict=True)]
    if kind == "polars":
        return column.to_numpy() if column.dtype.is_numeric() else column.to_list()
    if kind == "pyarrow":
        numeric = str(column.type).startswith(("int", "uint", "float", "double", "halffloat"))
        return column.to_numpy(zero_copy_only=False) if numeric and _chunk(column) else column.to_pylist()
    if hasattr(column, "__array__") and hasattr(column, "shape"):
        return np.asarray(column)
    return list(column)


def _chunk(column: Any) -> bool:
    """to_numpy of a chunked array takes the same keyword since pyarrow 13; an older one is read value by value."""
    return bool(column.num_chunks) if hasattr(column, "num_chunks") else True


def _columns(data: Any, what: str, names: Sequence[str] | None) -> list[Column]:
    kind = type(data).__module__.partition(".")[0]
    fields = getattr(getattr(data, "dtype", None), "names", None)
    if fields:
        return _table({name: data[name] for name in fields}, what)
    if isinstance(data, Mapping):
        return _table({str(name): column for name, column in data.items()}, what)
    if kind == "pandas" and hasattr(data, "columns"):
        return [Column(str(name), None, series(data.iloc[:, place])) for place, name in enumerate(data.columns)]
    if kind == "polars" and hasattr(data, "get_columns"):
        return [Column(one.name, None, series(one)) for one in data.get_columns()]
    if kind == "pyarrow" and hasattr(data, "column_names"):
        return [Column(name, None, series(data.column(name))) for name in data.column_names]
    if isinstance(data, list | tuple) and data and all(_is_record(row) for row in data):
        return _records(data)
    if hasattr(data, "__array__") or isinstance(data, list | tuple):
        return _of_array("", data, what, names)
    raise ProfileError(
        f"{what} is a {type(data).__name__}, which has no columns. Fix: give a NumPy array, a dict of columns, a list "
        "of dicts, or a frame of pandas, polars or pyarrow."
    )


def _table(columns: Mapping[str, Any], what: str) -> list[Column]:
    found: list[Column] = []
    for name, column in columns.items():
        if isinstance(column, str | bytes | Mapping) or not hasattr(column, "__len__"):
            raise ProfileError(
                f"{what}: column {name!r} is a {type(column).__name__}, not the values of the rows. "
                "Fix: give a list or an array with one value a row."
            )
        found.extend(_of_array(name, column, what, None))
    return found


def _of_array(path: str, column: Any, what: str, names: Sequence[str] | None) -> list[Column]:
    """One column, or the columns of an array of two dimensions."""
    name = f"{what}: column {path!r}" if path else what
    values = series(column)
    if isinstance(values, list) and values and isinstance(values[0], list | tuple | np.ndarray):
        try:
            values = np.asarray(values, dtype=float)
        except (TypeError, ValueError):
            raise ProfileError(
                f"{name} holds lists that are no rows of equally many numbers. Fix: give a two-dimensional array."
            ) from None
    if not isinstance(values, np.ndarray) or values.ndim == 1:
        _refuse_names(names, 1, what)
        return [Column(path, None, values, names[0] if names else None)]
    if values.ndim != 2:
        raise ProfileError(
            f"{name} has {values.ndim} dimensions, a table has two: rows and columns. "
            "Fix: reshape it, or profile figures of it, such as the mean of each image."
        )
    if values.dtype.kind not in "biuf":
        raise ProfileError(
            f"{name} is an array of {values.dtype}, not of numbers. Fix: give its columns by name, as a dict or frame."
        )
    _refuse_names(names, values.shape[1], what)
    return [
        Column(path, place, values[:, place], names[place] if names else None, values.shape[1])
        for place in range(values.shape[1])
    ]


def _refuse_names(names: Sequence[str] | None, columns: int, what: str) -> None:
    if names is not None and (len(names) != columns or len(set(names)) != columns):
        raise ProfileError(
            f"{what} has {columns} columns, and {len(names)} names ({len(set(names))} of them different) were given. "
            "Fix: one name a column."
        )


def _is_record(row: Any) -> bool:
    return isinstance(row, Mapping | BaseModel) or (dataclasses.is_dataclass(row) and not isinstance(row, type))


def _records(rows: Sequence[Any]) -> list[Column]:
    tables = [row if isinstance(row, Mapping) else vars(row) for row in rows]
    names = dict.fromkeys(str(name) for table in tables for name in table)
    return [
        column for name in names for column in _of_array(name, [table.get(name) for table in tables], "the rows", None)
    ]
