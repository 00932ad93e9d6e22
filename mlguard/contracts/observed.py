"""What a column of data turned out to hold, taken in piece by piece in bounded memory."""

from __future__ import annotations

import datetime
import math
import re
from collections import Counter
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

import numpy as np

__all__ = ["MISSING_TEXTS", "Column", "Table", "columns_differ", "finite", "is_text", "limits"]

MISSING_TEXTS = frozenset({"", "NA", "N/A", "n/a", "#N/A", "NaN", "nan", "NULL", "null", "None"})
"""Cells of a CSV file that stand for nothing: what pandas takes for it."""
_MOST_COLUMNS = 32
"""Up to as many columns of an array get a range each, where their ranges differ"""
_DIFFERENT = 10
"""so much in width, or do not meet, in"""
_ENOUGH_ROWS = 10
"""at least so many rows."""
_MOST_DISTINCT = 64
"""Up to as many distinct texts are kept; beyond it nobody would list them."""
_CELL = re.compile(
    r"(?P<int>[+-]?(?:0|[1-9]\d{0,17}))"
    r"|(?P<str>[+-]?\d{19,}|[+-]?0\d+)"  # an id, or a code with leading zeros
    r"|(?P<float>[+-]?(?:(?:0|[1-9]\d*)(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,4})?|[+-]?inf(?:inity)?)"
    r"|(?P<bool>true|false)"
    r"|(?P<date>\d{4}-\d\d-\d\d)"
    r"|(?P<datetime>\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d{1,6})?(?:Z|[+-]\d\d:\d\d)?)",
    re.ASCII | re.IGNORECASE,
)
_STRANGE_SPACE = re.compile("[\x1c-\x1f]")
"""Space to Python, not to pydantic."""
_KINDS: tuple[tuple[type, str], ...] = (
    (bool, "bool"),
    (int, "int"),
    (float, "float"),
    (Decimal, "Decimal"),
    (datetime.datetime, "datetime"),
    (datetime.date, "date"),
    (datetime.time, "time"),
    (datetime.timedelta, "timedelta"),
    (bytes, "bytes"),
)


class Column:
    """One column, field or list of items: kinds of values, ends of ranges, what is missing."""

    def __init__(self) -> None:
        self.missing = 0
        self.kinds: Counter[str] = Counter()
        self.low: Any = None
        self.high: Any = None
        self.nan = 0
        self.infinite = 0
        self.lengths: tuple[int, int] | None = None
        """The least and greatest length of texts, bytes or lists."""
        self.distinct: Counter[str] | None = Counter()
        """Texts and how often each came; None: too many."""
        self.fields: Table | None = None
        self.items: Column | None = None
        self.from_cells = False
        """They were text in a file, so that text covers whatever they are."""

    @property
    def count(self) -> int:
        """Values that were there."""
        return sum(self.kinds.values())

    def add(self, values: Iterable[Any]) -> None:
        """Takes in Python values; None is missing."""
        for value in values:
            self._one(value)

    def add_cells(self, cells: Iterable[str]) -> None:
        """Takes in cells of a text file, whose types have to be guessed."""
        self.from_cells = True
        for cell in cells:
            text = cell.strip()
            if text in MISSING_TEXTS:
                self.missing += 1
                continue
            self._text(cell)
            found = _CELL.fullmatch(text)
            kind = "str" if found is None else found.lastgroup or "str"
            if cell != text and (kind not in ("int", "float") or _STRANGE_SPACE.search(cell)):
                kind = "str"  # pydantic takes spaces around numbers only
            if kind in ("int", "float"):
                self._number(int(text) if kind == "int" else float(text))
            elif kind in ("date", "datetime"):
                kind = self._time(text, kind)
            self.kinds[kind] += 1

    def add_array(self, array: np.ndarray[Any, Any], *, nan_is_missing: bool) -> None:
        """Takes in numbers, booleans or times at once."""
        if array.dtype.kind not in "biufM" or array.ndim != 1 or array.dtype.itemsize > 8:
            self.add(array.tolist())
            return
        if array.dtype.kind == "M":
            there = array[~np.isnat(array)].astype("M8[us]")
            self.missing += len(array) - len(there)
            self.kinds["datetime"] += len(there)
            if len(there):
                self._range(there.min().item(), there.max().item())
            return
        if array.dtype.kind == "f":
            nan = np.isnan(array)
            lost = int(nan.sum())
            if lost:
                self.missing += lost if nan_is_missing else 0
                self.nan += 0 if nan_is_missing else lost
                array = array[~nan]
            if lost and not nan_is_missing:
                self.kinds["float"] += lost
            finite = array[np.isfinite(array)]
            self.infinite += len(array) - len(finite)
        else:
            finite = array
        self.kinds[{"b": "bool", "f": "float"}.get(array.dtype.kind, "int")] += len(array)
        if len(finite) and array.dtype.kind != "b":
            self._range(finite.min().item(), finite.max().item())

    def _one(self, value: Any) -> None:
        if isinstance(value, np.generic):
            value = value.item()
        if value is None:
            self.missing += 1
        elif isinstance(value, str):
            self.kinds[self._text_kind(value)] += 1
        elif isinstance(value, dict):
            self.kinds["dict"] += 1
            self.fields = self.fields or Table()
            self.fields.add_records([value])
        elif isinstance(value, list | tuple | np.ndarray):
            self.kinds["list"] += 1
            self._length(len(value))
            self.items = self.items or Column()
            self.items.add(value)
        else:
            kind = next((kind for each, kind in _KINDS if isinstance(value, each)), "other")
            self.kinds[kind] += 1
            if kind in ("int", "float"):
                self._number(value)
            elif kind in ("datetime", "date", "Decimal"):
                self._range_if_alike(value)
            elif kind == "bytes":
                self._length(len(value))

    def _text_kind(self, value: str) -> str:
        if not (value.isascii() or is_text(value)):
            return "other"
        self._text(value)
        if value[:1].isdigit():
            found = _CELL.fullmatch(value)
            if found is not None and found.lastgroup in ("date", "datetime"):
                kind = self._time(value, found.lastgroup)
                return kind if kind == "str" else f"{kind} text"
        return "str"

    def _number(self, value: float) -> None:
        if isinstance(value, int) or math.isfinite(value):
            self._range(value, value)
        elif math.isnan(value):
            self.nan += 1
        else:
            self.infinite += 1

    def _time(self, text: str, kind: str) -> str:
        try:
            value = (datetime.date if kind == "date" else datetime.datetime).fromisoformat(text)
        except ValueError:
            return "str"
        self._range_if_alike(value)
        return kind

    def _range_if_alike(self, value: Any) -> None:
        """Dates beside times, and times of several zones, have no order."""
        zoned = getattr(value, "tzinfo", None) is not None
        if isinstance(value, Decimal) and not value.is_finite():
            self.infinite += 1
            return
        before = self.low
        alike = type(value) is type(before) and zoned == (getattr(before, "tzinfo", None) is not None)
        if before is None or alike:
            self._range(value, value)

    def _range(self, low: Any, high: Any) -> None:
        if self.low is None:
            self.low, self.high = low, high
        elif type(low) is type(self.low) or (isinstance(low, int | float) and isinstance(self.low, int | float)):
            self.low, self.high = min(self.low, low), max(self.high, high)

    def _text(self, text: str) -> None:
        self._length(len(text))
        if self.distinct is not None:
            self.distinct[text] += 1
            if len(self.distinct) > _MOST_DISTINCT:
                self.distinct = None

    def _length(self, length: int) -> None:
        least, most = self.lengths or (length, length)
        self.lengths = min(least, length), max(most, length)


def is_text(value: str) -> bool:
    """Half of a surrogate pair, which JSON can spell, is no text to pydantic."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


class Table:
    """Columns by name. One that comes late was missing before, one that stops coming is missing from then on."""

    def __init__(self) -> None:
        self.rows = 0
        self.columns: dict[str, Column] = {}

    def column(self, name: str) -> Column:
        """The column of this name, made if it is new."""
        if name not in self.columns:
            self.columns[name] = Column()
            self.columns[name].missing = self.rows
        return self.columns[name]

    def add_records(self, records: list[dict[str, Any]]) -> None:
        """Takes in rows as dicts."""
        for record in records:
            for name, value in record.items():
                self.column(name).add((value,))
            self.rows += 1
            for name, column in self.columns.items():
                if name not in record:
                    column.missing += 1


def finite(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The numbers that are neither NaN nor infinite."""
    return array[np.isfinite(array)] if array.dtype.kind == "f" else array


def limits(dtype: np.dtype[Any]) -> tuple[Any, Any]:
    """The least and the greatest number that a dtype holds."""
    if dtype.kind == "f":
        largest = float(np.finfo(dtype).max)
        return -largest, largest
    return int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)


def columns_differ(array: np.ndarray[Any, Any]) -> bool:
    """One range for all columns would say little: some are far wider than others, or do not meet them."""
    if array.ndim != 2 or len(array) < _ENOUGH_ROWS or not 2 <= array.shape[1] <= _MOST_COLUMNS:
        return False
    parts = [there for there in (finite(array[:, number]) for number in range(array.shape[1])) if there.size]
    lows, highs = [part.min().item() for part in parts], [part.max().item() for part in parts]
    widths = [high - low for low, high in zip(lows, highs, strict=True)]
    return bool(max(lows) > min(highs) or max(widths) >= _DIFFERENT * min(widths))
