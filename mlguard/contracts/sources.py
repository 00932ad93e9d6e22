"""Where data to learn a class from comes from: CSV, JSON lines, Parquet, NumPy files, and tables or arrays in memory.

Files are read in pieces, so that their size does not matter. CSV is read with Python's own csv module: what a cell
means is decided in `observed.py`, the same on every machine, whichever table library is installed there.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mlguard.contracts.observed import Table
from mlguard.contracts.subject import ContractError

__all__ = ["observe", "observe_file"]

Progress = Callable[[int], None]
_PIECE = 10_000
"""Rows between two reports of progress."""
_LONGEST_LINE = 16 * 2**20
SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".npy")


def observe_file(
    path: Path,
    progress: Progress,
    *,
    encoding: str = "utf-8-sig",
    delimiter: str | None = None,
    into: Callable[[], Table] = Table,
) -> Table | np.ndarray[Any, Any]:
    """What a file holds: columns, or the array of an ``.npy`` file.

    Args:
        path: The file.
        progress: Told the number of rows so far.
        encoding: How a text file is written.
        delimiter: What stands between the cells of a CSV file; None: what its first line suggests.
        into: Makes the table that takes the columns in.

    Raises:
        ContractError: It can't be read, is empty, or is not what its name says; the message names the line.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        known = ", ".join(SUFFIXES)
        raise ContractError(f"{path}: {suffix or 'a name without ending'} is not known. Fix: name a file of {known}.")
    if path.is_dir():
        raise ContractError(f"{path} is a folder. Fix: name a file in it.")
    try:
        if path.stat().st_size == 0:
            raise ContractError(f"{path} is empty. Fix: name a file with data.")
        if suffix == ".npy":
            return np.load(path, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]
        if suffix == ".parquet":
            table = _parquet(path, into(), progress)
        else:
            with path.open(encoding=encoding, newline="") as file:
                if suffix in (".csv", ".tsv"):
                    table = _csv(file, path, into(), delimiter or ("\t" if suffix == ".tsv" else None), progress)
                else:
                    table = _json_lines(file, path, into(), progress)
    except UnicodeDecodeError as error:
        raise ContractError(f"{path}: {error}. Fix: say how it is written, such as --encoding latin-1.") from None
    except LookupError:
        raise ContractError(f"{encoding!r} is no encoding. Fix: such as utf-8 or latin-1.") from None
    except OSError as error:
        raise ContractError(f"{path} can't be read: {error.strerror or error}. Fix: check the name.") from None
    except ValueError as error:
        if isinstance(error, ContractError):
            raise
        raise ContractError(f"{path} can't be read: {error}. Fix: check that it is whole.") from None
    if not table.rows:
        raise ContractError(f"{path} has no rows. Fix: name a file with data.")
    return table


def observe(data: Any, name: str) -> Table | np.ndarray[Any, Any]:
    """What an object holds: a table of pandas, polars or pyarrow, a dict of columns, a list of dicts, or an array.

    Raises:
        ContractError: It is none of these.
    """
    kind = type(data).__module__.partition(".")[0]
    table = Table()
    if isinstance(data, np.ndarray):
        if data.dtype.names is None:
            return data
        _columns(table, {field: data[field] for field in data.dtype.names})
    elif kind == "pandas" and hasattr(data, "columns"):
        _pandas(table, data)
    elif kind == "polars" and hasattr(data, "get_columns"):
        for series in data.get_columns():
            _arrow_like(table, series.name, series, series.null_count(), _is_numeric(series.dtype))
        table.rows = data.height
    elif kind == "pyarrow" and hasattr(data, "column_names"):
        _batch(table, data)
    elif isinstance(data, dict) and data and all(hasattr(column, "__len__") for column in data.values()):
        _columns(table, data)
    elif isinstance(data, list) and data and all(isinstance(row, dict) for row in data):
        table.add_records([{str(key): value for key, value in row.items()} for row in data])
    else:
        raise ContractError(
            f"{name} is a {type(data).__name__}, from which no class can be learnt. Fix: name a NumPy array, a table "
            "of pandas, polars or pyarrow, a dict of columns or a list of dicts."
        )
    if not table.rows:
        raise ContractError(f"{name} has no rows. Fix: name data with some.")
    return table


def _csv(file: Any, path: Path, table: Table, delimiter: str | None, progress: Progress) -> Table:
    first = file.readline(_LONGEST_LINE)
    file.seek(0)
    if delimiter is None:
        delimiter = max(",;\t|", key=first.count)  # of equally many, the comma
    before = csv.field_size_limit(_LONGEST_LINE)
    rows = csv.reader(file, delimiter=delimiter, strict=True)
    try:
        header = next(rows, [])
        again = sorted({name for name in header if header.count(name) > 1})
        if again:
            raise ContractError(f"{path}: the column {again[0]!r} is there twice. Fix: rename one in the header.")
        columns = [table.column(name) for name in header]
        for number, row in enumerate(rows, start=1):
            if not row:
                continue  # an empty line
            if len(row) != len(header):
                raise ContractError(
                    f"{path}, line {rows.line_num}: {len(row)} cells, but the header has {len(header)}. "
                    "Fix: repair the line, or say --delimiter."
                )
            for column, cell in zip(columns, row, strict=True):
                column.add_cells((cell,))
            table.rows += 1
            if number % _PIECE == 0:
                progress(number)
    except csv.Error as error:
        raise ContractError(f"{path}, line {rows.line_num}: {error}. Fix: repair the line.") from None
    finally:
        csv.field_size_limit(before)
    return table


def _json_lines(file: Any, path: Path, table: Table, progress: Progress) -> Table:
    number = 0
    while line := file.readline(_LONGEST_LINE + 1):
        number += 1
        if len(line) > _LONGEST_LINE:
            raise ContractError(f"{path}, line {number}: longer than 16 MiB. Fix: write one object a line.")
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise ContractError(f"{path}, line {number}: no JSON: {error}. Fix: write one object a line.") from None
        except RecursionError:
            raise ContractError(f"{path}, line {number}: nested too deeply. Fix: flatten it.") from None
        if not isinstance(record, dict):
            kind = type(record).__name__
            raise ContractError(f"{path}, line {number}: a {kind}, not an object. Fix: write one object a line.")
        table.add_records([record])
        if number % _PIECE == 0:
            progress(number)
    return table


def _parquet(path: Path, table: Table, progress: Progress) -> Table:
    try:
        import pyarrow.parquet
    except ImportError:
        _parquet_by_polars(path, table, progress)
        return table
    for batch in pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=_PIECE):
        _batch(table, batch)
        progress(table.rows)
    return table


def _parquet_by_polars(path: Path, table: Table, progress: Progress) -> None:
    try:
        import polars
    except ImportError:
        raise ContractError(f"{path}: Parquet needs pyarrow or polars. Fix: pip install pyarrow.") from None
    try:
        frame = polars.scan_parquet(path)
        rows = frame.select(polars.len()).collect().item()
        for start in range(0, rows, _PIECE):
            for series in frame.slice(start, _PIECE).collect().get_columns():
                _arrow_like(table, series.name, series, series.null_count(), _is_numeric(series.dtype))
            table.rows = min(start + _PIECE, rows)
            progress(table.rows)
    except polars.exceptions.PolarsError as error:
        raise ContractError(f"{path} can't be read: {error}. Fix: check that it is whole.") from None


def _is_numeric(dtype: Any) -> bool:
    """NumPy has it too."""
    return dtype.is_numeric() and "128" not in str(dtype)


def _batch(table: Table, batch: Any) -> None:
    """Columns of pyarrow: numbers at once, everything else value by value."""
    types = sys.modules["pyarrow"].types
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        numeric = types.is_integer(column.type) or types.is_floating(column.type) or types.is_boolean(column.type)
        _arrow_like(table, name, column, column.null_count, numeric)
    table.rows += batch.num_rows


def _arrow_like(table: Table, name: str, column: Any, nulls: int, numeric: bool) -> None:
    """A column of pyarrow or polars, which tell a missing value from NaN."""
    observed = table.column(name)
    if not numeric:
        try:
            values = column.to_pylist() if hasattr(column, "to_pylist") else column.to_list()
        except (OverflowError, ValueError) as error:
            raise ContractError(
                f"the column {name!r} holds what Python can't: {error}. Fix: leave the column out, or cast it."
            ) from None
        observed.add(values)
        return
    there = column
    if nulls:
        there = column.drop_null() if hasattr(column, "drop_null") else column.drop_nulls()
    observed.missing += nulls
    observed.add_array(np.asarray(there), nan_is_missing=False)


def _pandas(table: Table, frame: Any) -> None:
    names = [str(name) for name in frame.columns]
    again = sorted({name for name in names if names.count(name) > 1})
    if again:
        raise ContractError(f"the column {again[0]!r} is there twice. Fix: rename one.")
    for number, name in enumerate(names):
        series = frame.iloc[:, number]
        if isinstance(series.dtype, np.dtype) and series.dtype.kind in "biufM":
            table.column(name).add_array(series.to_numpy(), nan_is_missing=True)
        else:
            gone = series.isna().tolist()
            values = series.tolist()
            table.column(name).add([None if lost else value for value, lost in zip(values, gone, strict=True)])
    table.rows = len(frame)


def _columns(table: Table, columns: dict[Any, Any]) -> None:
    lengths = {str(name): len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ContractError(f"the columns have different lengths: {lengths}. Fix: as many values in each.")
    for name, column in columns.items():
        if isinstance(column, np.ndarray) and column.ndim == 1 and column.dtype.kind in "biufM":
            table.column(str(name)).add_array(column, nan_is_missing=False)
        else:
            table.column(str(name)).add(column)
    table.rows = next(iter(lengths.values()))
