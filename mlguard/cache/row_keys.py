"""The rows of a batch as bytes: two rows share them exactly when they have the same types and the same content.

Columns of one width (numbers, dates, fixed-width text) are copied side by side into one block, which is then cut into
rows by numpy; what has no fixed width is written value by value, as in `keys.py`. What all rows have in common (kinds,
dtypes, names, the other arguments) goes into a head, of which every key holds the hash.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import numpy as np

from mlguard.cache.keys import Dialect, Unkeyable

__all__ = ["row_keys", "table_key"]

_LONGEST: Final = 1024  # bytes of a row that are compared as they are; a longer one is hashed
_length: Final = struct.Struct("<Q").pack


def row_keys(
    common: Sequence[bytes],
    tables: Sequence[tuple[Any, int]],
    size: int,
    dialect: Dialect,
    digest: Callable[[bytes], bytes] | None,
) -> list[bytes]:
    """One key for each row.

    Args:
        common: What tells calls apart beside their rows.
        tables: The tables of the batch, each with the axis of its rows; all have `size` rows.
        size: How many.
        dialect: How single values are written.
        digest: What makes 32 bytes of a key, for stores that need it; None: only long keys are hashed.

    Raises:
        Unkeyable: Rows of such a table have no identity that bytes could hold.
    """
    rows = _Rows(size, dialect)
    for table, axis in tables:
        rows.add(table, axis)
    head = dialect.hash(b"".join([_length(len(part)) + part for part in (*common, *rows.head)]))
    return rows.keys(head, digest)


def table_key(dialect: Dialect, table: Any) -> bytes:
    """A whole data frame or series: its kind, names, types, index and content.

    Raises:
        Unkeyable: It is of another kind, or holds values that have no identity.
    """
    rows = _Rows(len(table), dialect, alone=False)
    rows.add(table)
    return rows.whole()


class _Rows:
    """The columns met so far.

    Args:
        size: How many rows they all have.
        dialect: How single values are written.
        alone: Whether rows are looked at one by one, so that their places do not count.
    """

    def __init__(self, size: int, dialect: Dialect, *, alone: bool = True) -> None:
        self.size = size
        self.dialect = dialect
        self.alone = alone
        self.head: list[bytes] = []
        self._blocks: list[np.ndarray[Any, Any]] = []
        self._loose: list[list[bytes]] = []

    def add(self, table: Any, axis: int = 0) -> None:
        kind = type(table)
        if kind is np.ndarray or kind is np.memmap:
            self.head.append(b"array %d" % axis)
            self.array(table, axis)
        elif kind is list:
            self.head.append(b"list")
            self.values(table)
        elif kind is dict:
            self.head.append(b"dict" + self.dialect.encode(list(table)))
            for column in table.values():
                self.add(column)
        elif kind is tuple:
            self.head.append(b"tuple %d" % len(table))
            for part in table:
                self.add(part, axis)
        else:
            package = kind.__module__.partition(".")[0]
            add = _ELSEWHERE.get(package)
            if add is None or not add(self, table):
                raise Unkeyable(f"rows of {kind.__qualname__}")

    def array(self, array: np.ndarray[Any, Any], axis: int = 0) -> None:
        dtype = array.dtype
        if dtype.hasobject or dtype.kind in "OT":
            raise Unkeyable(f"array of dtype {dtype}")  # its bytes are pointers
        self.head.append(self.dialect.dtype(dtype))
        rows = np.moveaxis(array, axis, 0) if axis else array
        self.head.append(repr(rows.shape[1:]).encode())
        if dtype.names is not None:  # field by field: the padding between fields is noise
            for name in dtype.names:
                self.array(np.asarray(rows[name]))
            return
        rows = np.ascontiguousarray(rows)
        width = rows.nbytes // self.size if self.size else 0
        block = rows.reshape(-1).view(np.uint8) if width else np.empty(0, np.uint8)
        self._blocks.append(block.reshape(self.size, width))

    def values(self, values: Sequence[Any]) -> None:
        slot = self.dialect.slot
        slots = [slot(value) for value in values]
        self._loose.append([bytes((len(each),)) + each for each in slots])

    def keys(self, head: bytes, digest: Callable[[bytes], bytes] | None) -> list[bytes]:
        width = sum(block.shape[1] for block in self._blocks)
        if not self._loose and width > _LONGEST and digest is None:
            return self._hashed(head)
        block = np.empty((self.size, len(head) + width), np.uint8)
        block[:, : len(head)] = np.frombuffer(head, np.uint8)
        at = len(head)
        for part in self._blocks:
            block[:, at : at + part.shape[1]] = part
            at += part.shape[1]
        keys: list[bytes] = block.view(f"V{at}").ravel().tolist()
        if self._loose:
            keys = [b"".join(parts) for parts in zip(keys, *self._loose, strict=True)]
            if digest is None:
                hashed = self.dialect.hash
                keys = [key if len(key) <= _LONGEST else hashed(key) for key in keys]
        return keys if digest is None else [digest(key) for key in keys]

    def whole(self) -> bytes:
        state = self.dialect.hasher(_length(self.size))
        for part in self.head:
            state.update(_length(len(part)) + part)
        for block in self._blocks:
            state.update(block.data)
        for column in self._loose:
            state.update(b"".join(column))
        return state.digest()  # type: ignore[no-any-return]

    def _hashed(self, head: bytes) -> list[bytes]:
        """Long rows are hashed where they lie, without a copy."""
        keys = []
        for number in range(self.size):
            state = self.dialect.hasher(head)
            for block in self._blocks:
                state.update(block[number].data)
            keys.append(state.digest())
        return keys


# Tables of other libraries, which exist only where those are imported already


def _pandas(rows: _Rows, table: Any) -> bool:
    pandas = sys.modules["pandas"]
    if type(table) is pandas.Series:
        rows.head.append(b"Series" + rows.dialect.encode(table.name))
        _pandas_column(rows, table)
    elif type(table) is pandas.DataFrame:
        labels = table.columns
        rows.head.append(b"DataFrame" + rows.dialect.encode([_index_kind(labels), *labels, *labels.names]))
        dtypes = set(table.dtypes)
        if len(dtypes) == 1 and isinstance(only := next(iter(dtypes)), np.dtype) and only.kind != "O":
            rows.array(table.to_numpy())
        else:
            for place in range(table.shape[1]):
                _pandas_column(rows, table.iloc[:, place])
    else:
        return False
    if table.attrs:
        rows.head.append(b"attrs" + rows.dialect.encode(table.attrs))
    index = table.index
    if type(index) is pandas.RangeIndex:  # where a row stands in its batch is no property of the row
        rows.head.append(b"range" + (b"" if rows.alone else rows.dialect.encode((index.start, index.step, index.name))))
    else:
        rows.head.append(b"index" + rows.dialect.encode([_index_kind(index), *index.names]))
        for level in range(index.nlevels):
            _pandas_column(rows, index.get_level_values(level).to_series())
    return True


def _categories(dialect: Dialect, dtype: Any) -> bytes:
    return dialect.encode([dtype.ordered, str(dtype.categories.dtype), *dtype.categories.tolist()])


def _index_kind(index: Any) -> tuple[str, ...]:
    dtypes = [str(level.dtype) for level in index.levels] if index.nlevels > 1 else [str(index.dtype)]
    return type(index).__name__, *dtypes, str(getattr(index, "freqstr", None))


def _pandas_column(rows: _Rows, column: Any) -> None:
    pandas: Any = sys.modules["pandas"]
    dtype: Any = column.dtype
    plain: bool = isinstance(dtype, np.dtype)
    rows.head.append(f"{type(dtype).__name__} {dtype}".encode())
    if plain and dtype.kind != "O":
        rows.array(column.to_numpy())
    elif type(dtype) is pandas.CategoricalDtype:
        categories = cast(Any, dtype)
        rows.head.append(_categories(rows.dialect, categories))
        rows.array(column.cat.codes.to_numpy())
    elif type(dtype) is pandas.DatetimeTZDtype:
        rows.array(column.dt.tz_convert(None).to_numpy())
    elif getattr(numbers := getattr(dtype, "numpy_dtype", None), "kind", "O") in "iufb":
        rows.array(column.isna().to_numpy())
        rows.array(column.to_numpy(dtype=numbers, na_value=cast(Any, numbers).type(0)))
    else:
        values = column.tolist()
        rows.array(np.fromiter((value is pandas.NA for value in values), bool, len(values)))
        rows.values([None if value is pandas.NA else value for value in values])


def _polars(rows: _Rows, table: Any) -> bool:
    polars = sys.modules["polars"]
    if type(table) is polars.DataFrame:
        columns = table.get_columns()
        rows.head.append(b"polars %d" % len(columns))
    elif type(table) is polars.Series:
        columns = [table]
        rows.head.append(b"polars series")
    else:
        return False
    for column in columns:
        dtype = column.dtype
        rows.head.append(f"{column.name}\0{dtype!r}".encode())
        if (dtype.is_numeric() and not dtype.is_decimal()) or dtype.is_temporal() or dtype == polars.Boolean:
            rows.array(column.is_null().to_numpy())
            rows.array(column.to_physical().fill_null(False if dtype == polars.Boolean else 0).to_numpy())
        else:
            rows.values(column.to_list())
    return True


def _pyarrow(rows: _Rows, table: Any) -> bool:
    arrow, types = sys.modules["pyarrow"], sys.modules["pyarrow"].types
    if isinstance(table, arrow.Table | arrow.RecordBatch):
        rows.head.append(table.schema.serialize().to_pybytes())  # nullability and metadata, too
        columns = list(zip(table.schema.names, table.columns, strict=True))
    elif isinstance(table, arrow.ChunkedArray | arrow.Array):
        columns = [("", table)]
    else:
        return False
    rows.head.append(f"arrow {type(table).__name__} {len(columns)}".encode())
    for name, column in columns:
        rows.head.append(f"{name}\0{column.type}".encode())
        if types.is_integer(column.type) or types.is_float32(column.type) or types.is_float64(column.type):
            rows.array(column.is_null().to_numpy(**_copying(column)))
            rows.array(column.fill_null(0).to_numpy(**_copying(column)))
        else:
            rows.values(column.to_pylist())
    return True


def _copying(column: Any) -> dict[str, bool]:
    return {} if hasattr(column, "chunks") else {"zero_copy_only": False}


_ELSEWHERE: Final[dict[str, Callable[[_Rows, Any], bool]]] = {"pandas": _pandas, "polars": _polars, "pyarrow": _pyarrow}
