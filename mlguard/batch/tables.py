"""Tables of every kind as one: counted, cut and joined along their rows.

A table is an array, a list, a data frame or series of pandas, polars or pyarrow, a sparse matrix of SciPy, a dict of
columns, or several tables side by side: a tuple, a model or a dataclass. Which arguments of a function are tables is
decided in `arguments.py`.
"""

from __future__ import annotations

import copy
import dataclasses
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from pydantic import BaseModel

__all__ = ["Rows", "join", "length_of", "scatter", "take"]

Rows: TypeAlias = "slice | np.ndarray[Any, Any]"
"""Which rows: a slice, or their numbers in the wanted order."""


def length_of(table: Any, axis: int = 0) -> int:
    """How many rows a table has.

    Raises:
        TypeError: It is no table.
        ValueError: Its parts have different numbers of rows.
    """
    return _kind_of(table).length(table, axis)


def take(table: Any, rows: Rows, axis: int = 0) -> Any:
    """Some rows of a table, as a table of the same kind; a slice of an array is a view.

    Raises:
        TypeError: It is no table.
    """
    return _kind_of(table).take(table, rows, axis)


def join(tables: Sequence[Any]) -> Any:
    """The rows of several tables of one kind, in order, as one table.

    In models and dataclasses, fields that are no tables must be equal everywhere.

    Raises:
        TypeError: One of them is no table, or they are of different kinds.
        ValueError: There are none, or their parts do not fit together.
    """
    if not tables:
        raise ValueError("there are no tables to join")
    kind = _kind_of(tables[0])
    for table in tables[1:]:
        if _kind_of(table).name != kind.name:
            raise TypeError(f"can't join {_name(tables[0])} and {_name(table)}")
    return kind.join(tables) if len(tables) > 1 else tables[0]


def scatter(size: int, parts: Sequence[tuple[np.ndarray[Any, Any], Any]]) -> Any:
    """The table whose rows are those of the parts, each at its number.

    Args:
        size: The rows of the whole.
        parts: For each part the numbers of its rows in the whole, and the part. Together they name each row once.

    Raises:
        TypeError: A part is no table, or they are of different kinds.
        ValueError: A part has another number of rows than numbers, or the numbers do not name each row once.
    """
    for numbers, part in parts:
        if length_of(part) != len(numbers):
            raise ValueError(f"{_name(part)} has {length_of(part):,} rows where {len(numbers):,} are wanted")
    order = np.concatenate([numbers for numbers, _ in parts])
    if len(order) != size or not _each_once(order, size):
        raise ValueError(f"the parts do not name each of the {size:,} rows once")
    whole = join([part for _, part in parts])
    return whole if _ascending(order) else take(whole, np.argsort(order))


def _each_once(order: np.ndarray[Any, Any], size: int) -> bool:
    return bool(np.array_equal(np.sort(order), np.arange(size)))


def _ascending(order: np.ndarray[Any, Any]) -> bool:
    return bool((order[1:] > order[:-1]).all())


class _Kind(NamedTuple):
    name: str
    length: Callable[[Any, int], int]
    take: Callable[[Any, Rows, int], Any]
    join: Callable[[Sequence[Any]], Any]


def _kind_of(table: Any) -> _Kind:
    if isinstance(table, np.ndarray):
        return _ARRAY
    if isinstance(table, list):
        return _LIST
    if isinstance(table, dict):
        return _COLUMNS
    if isinstance(table, tuple):
        return _TUPLE
    if isinstance(table, BaseModel):
        return _MODEL
    package = type(table).__module__.partition(".")[0]
    found = _ELSEWHERE.get(package)
    if found is not None and (kind := found(table)) is not None:
        return kind
    if dataclasses.is_dataclass(table) and not isinstance(table, type):
        return _DATACLASS
    raise TypeError(f"{_name(table)} has no rows that could be taken apart: use an array, a list or a data frame")


def _name(table: Any) -> str:
    return f"an object of {type(table).__module__}.{type(table).__qualname__}"


# Arrays and lists


def _array_length(table: Any, axis: int) -> int:
    if table.ndim <= axis:
        raise TypeError(f"an array of shape {table.shape} has no axis {axis} whose rows could be counted")
    return int(table.shape[axis])


def _array_take(table: Any, rows: Rows, axis: int) -> Any:
    return table[(slice(None),) * axis + (rows,)]


def _array_join(tables: Sequence[Any]) -> Any:
    if any(isinstance(table, np.ma.MaskedArray) for table in tables):
        return np.ma.concatenate(tables)  # type: ignore[no-untyped-call]
    return np.concatenate(tables)


def _list_take(table: Any, rows: Rows, _: int) -> Any:
    return table[rows] if isinstance(rows, slice) else [table[row] for row in rows.tolist()]


def _list_join(tables: Sequence[Any]) -> Any:
    return [row for table in tables for row in table]


_ARRAY = _Kind("array", _array_length, _array_take, _array_join)
_LIST = _Kind("list", lambda table, _: len(table), _list_take, _list_join)


# Several tables side by side


def _common_length(tables: Iterable[Any], axis: int, what: str) -> int:
    lengths = {length_of(table, axis) for table in tables}
    if not lengths:
        raise TypeError(f"{what} holds no table whose rows could be counted")
    if len(lengths) > 1:
        raise ValueError(f"{what} holds tables of {' and '.join(f'{length:,}' for length in sorted(lengths))} rows")
    return lengths.pop()


def _same_keys(tables: Sequence[dict[Any, Any]]) -> None:
    for table in tables[1:]:
        if table.keys() != tables[0].keys():
            raise ValueError(f"can't join dicts of the columns {list(tables[0])} and {list(table)}")


def _columns_join(tables: Sequence[Any]) -> Any:
    _same_keys(tables)
    return {key: join([table[key] for table in tables]) for key in tables[0]}


def _tuple_of(like: Any, items: list[Any]) -> Any:
    return type(like)(*items) if hasattr(like, "_fields") else tuple(items)


def _tuple_join(tables: Sequence[Any]) -> Any:
    if len({len(table) for table in tables}) > 1:
        raise ValueError("can't join tuples of different lengths")
    return _tuple_of(tables[0], [join(items) for items in zip(*tables, strict=True)])


def _with(table: Any, fields: dict[str, Any]) -> Any:
    """A copy of a model or dataclass with other tables."""
    if isinstance(table, BaseModel):
        return table.model_copy(update=fields)
    changed = copy.copy(table)
    for name, value in fields.items():
        object.__setattr__(changed, name, value)  # frozen ones are changed before anybody sees them
    return changed


def _tables_in(table: Any) -> dict[str, Any]:
    names = type(table).model_fields if isinstance(table, BaseModel) else [f.name for f in dataclasses.fields(table)]
    return {name: value for name in names if _is_table(value := getattr(table, name))}


def _is_table(value: Any) -> bool:
    try:
        length_of(value)
    except (TypeError, ValueError):
        return False
    return True


def _fields_join(tables: Sequence[Any]) -> Any:
    inside = [_tables_in(table) for table in tables]
    _same_keys(inside)
    for table in tables[1:]:
        for name in _names_of(table):
            if name not in inside[0] and getattr(table, name) != getattr(tables[0], name):
                raise ValueError(f"can't join {_name(table)}: the parts disagree about '{name}', which has no rows")
    return _with(tables[0], _columns_join(inside))


def _names_of(table: Any) -> list[str]:
    if isinstance(table, BaseModel):
        return list(type(table).model_fields)
    return [field.name for field in dataclasses.fields(table)]


def _fields(name: str) -> _Kind:
    return _Kind(
        name,
        lambda table, axis: _common_length(_tables_in(table).values(), axis, _name(table)),
        lambda table, rows, axis: _with(
            table, {name: take(column, rows, axis) for name, column in _tables_in(table).items()}
        ),
        _fields_join,
    )


_COLUMNS = _Kind(
    "dict",
    lambda table, axis: _common_length(table.values(), axis, "a dict"),
    lambda table, rows, axis: {key: take(column, rows, axis) for key, column in table.items()},
    _columns_join,
)
_TUPLE = _Kind(
    "tuple",
    lambda table, axis: _common_length(table, axis, "a tuple"),
    lambda table, rows, axis: _tuple_of(table, [take(item, rows, axis) for item in table]),
    _tuple_join,
)
_MODEL = _fields("model")
_DATACLASS = _fields("dataclass")


# Other libraries: a table of theirs exists only where they are imported already


def _pandas(table: Any) -> _Kind | None:
    pandas = sys.modules["pandas"]
    if isinstance(table, pandas.DataFrame | pandas.Series):
        return _Kind(
            f"pandas {type(table).__name__}",
            lambda table, _: len(table),
            lambda table, rows, _: table.iloc[rows],
            _pandas_join,
        )
    return None


def _pandas_join(tables: Sequence[Any]) -> Any:
    """Where each of them numbers its own rows from 0, so does the whole; any other index is kept as it is."""
    pandas = sys.modules["pandas"]
    numbered = all(
        isinstance(table.index, pandas.RangeIndex) and (table.index.start, table.index.step) == (0, 1)
        for table in tables
    )
    return pandas.concat(tables, ignore_index=numbered)


def _polars(table: Any) -> _Kind | None:
    polars = sys.modules["polars"]
    if isinstance(table, polars.DataFrame | polars.Series):
        return _Kind(
            f"polars {type(table).__name__}",
            lambda table, _: len(table),
            lambda table, rows, _: table[rows],
            polars.concat,
        )
    return None


def _pyarrow(table: Any) -> _Kind | None:
    arrow = sys.modules["pyarrow"]

    def cut(table: Any, rows: Rows, _: int) -> Any:
        if isinstance(rows, slice):
            start, stop, step = rows.indices(len(table))
            if step == 1:
                return table.slice(start, max(0, stop - start))
            rows = np.arange(start, stop, step)
        return table.take(arrow.array(rows))

    joins = {
        "Table": arrow.concat_tables,
        "RecordBatch": getattr(arrow, "concat_batches", None) or _one_batch,
        "ChunkedArray": lambda tables: arrow.chunked_array([chunk for table in tables for chunk in table.chunks]),
    }
    if isinstance(table, arrow.Table | arrow.RecordBatch | arrow.ChunkedArray):
        name = type(table).__name__
        return _Kind(f"pyarrow {name}", lambda table, _: len(table), cut, joins[name])
    if isinstance(table, arrow.Array):
        return _Kind("pyarrow Array", lambda table, _: len(table), cut, arrow.concat_arrays)
    return None


def _one_batch(batches: list[Any]) -> Any:
    """What pyarrow before 19 has no function for."""
    joined = sys.modules["pyarrow"].Table.from_batches(batches).combine_chunks().to_batches()
    return joined[0] if joined else batches[0]


def _scipy(table: Any) -> _Kind | None:
    sparse = sys.modules["scipy.sparse"]
    if not sparse.issparse(table):
        return None
    return _Kind(
        "sparse matrix",
        lambda table, axis: int(table.shape[axis]),
        lambda table, rows, axis: (table.tocsr()[rows] if axis == 0 else table.tocsc()[:, rows]).asformat(table.format),
        lambda tables: sparse.vstack(tables, format=tables[0].format),
    )


_ELSEWHERE: dict[str, Callable[[Any], _Kind | None]] = {
    "pandas": _pandas,
    "polars": _polars,
    "pyarrow": _pyarrow,
    "scipy": _scipy,
}
