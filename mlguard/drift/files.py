"""Training data from files, read as `mlguard.contracts.sources` reads them, with every value kept in its row."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from mlguard.contracts import ContractError, load
from mlguard.contracts.observed import MISSING_TEXTS, Column, Table
from mlguard.contracts.sources import SUFFIXES, observe_file
from mlguard.drift.errors import ProfileError

__all__ = ["data_of"]


def data_of(
    source: str, progress: Callable[[int], None], *, encoding: str = "utf-8-sig", delimiter: str | None = None
) -> Any:
    """What a person names on the command line: a file, or MODULE:NAME of data or of a function that gives it.

    Raises:
        ProfileError: It can't be read; the message names the line.
    """
    path = Path(source)
    try:
        if ":" in source and path.suffix.lower() not in SUFFIXES and not path.exists():
            found = load(source)
            return found() if callable(found) and not hasattr(found, "shape") else found
        if path.suffix.lower() == ".parquet" and path.is_file():
            return _parquet(path)
        table = observe_file(path, progress, encoding=encoding, delimiter=delimiter, into=_Kept)
    except ContractError as error:
        raise ProfileError(str(error)) from None
    if isinstance(table, np.ndarray):
        return table
    return {name: column.finished() for name, column in table.columns.items() if isinstance(column, _KeptColumn)}


def _parquet(path: Path) -> Any:
    """A frame, by whichever library is there: pieces would lose in which row a value is missing."""
    try:
        try:
            import pyarrow.parquet
        except ImportError:
            import polars

            return polars.read_parquet(path)
        return pyarrow.parquet.read_table(path)
    except ImportError:
        raise ProfileError(f"{path}: Parquet needs pyarrow or polars. Fix: pip install pyarrow.") from None
    except Exception as error:  # each library has its own
        raise ProfileError(f"{path} can't be read: {str(error)[:200]}. Fix: check that it is whole.") from None


class _KeptColumn(Column):
    """A column that remembers its values in order, None where one is missing."""

    def __init__(self, before: int) -> None:
        self.values: list[Any] = [None] * before
        super().__init__()

    def add(self, values: Iterable[Any]) -> None:
        self.values.extend(values)

    def add_cells(self, cells: Iterable[str]) -> None:
        self.from_cells = True
        self.values.extend(cells)

    def finished(self) -> Any:
        """Numbers and booleans where all texts of a file spell one, otherwise what was there."""
        if not self.from_cells:
            return self.values
        texts = [None if text is None or text.strip() in MISSING_TEXTS else text.strip() for text in self.values]
        there = {text for text in texts if text is not None}
        if there and {text.lower() for text in there} <= {"true", "false"}:
            return [None if text is None else text.lower() == "true" for text in texts]
        numbers = {text: _number(text) for text in there}
        if None in numbers.values():
            return texts
        return np.array([math.nan if text is None else numbers[text] for text in texts], dtype=float)


class _Kept(Table):
    def column(self, name: str) -> Column:
        if name not in self.columns:
            self.columns[name] = _KeptColumn(self.rows)
        return self.columns[name]

    def add_records(self, records: list[dict[str, Any]]) -> None:
        for record in records:
            for name, value in record.items():
                self.column(name).add((value,))
            self.rows += 1
            for name, column in self.columns.items():
                if name not in record:
                    column.add((None,))


def _number(text: str) -> float | None:
    """A code with leading zeros is none, nor is what Python alone would read, such as 1_000."""
    if "_" in text or (text.lstrip("+-")[:1] == "0" and text.lstrip("+-")[1:2].isdigit()):
        return None
    try:
        return float(text)
    except ValueError:
        return None
