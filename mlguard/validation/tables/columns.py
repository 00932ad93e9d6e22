"""One column of a table, whatever holds it: its family, its values as NumPy or Python has them, and its nulls.

The columns of NumPy and of Python lists are here, those of pandas, polars and Arrow in `frames.py`. Nothing is computed
before it is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import numpy as np

__all__ = [
    "BEYOND",
    "MISSING",
    "Array",
    "Column",
    "ListColumn",
    "NumpyColumn",
    "distinct_numbers",
    "is_null",
    "plain",
    "times",
]

Array: TypeAlias = np.ndarray[Any, Any]


class _Missing:
    def __repr__(self) -> str:
        return "MISSING"


class TimeBeyondPython:
    def __repr__(self) -> str:
        return "BEYOND"


BEYOND: Final = TimeBeyondPython()
"""Stands for a time that Python can't hold, such as one after the year 9999; no field takes it."""
MISSING: Final = _Missing()
"""Stands in a list of dicts for a key that a row does not have."""


class Column:
    """What a check may ask of a column.

    Attributes:
        family: "bool", "int", "float", "decimal", "text", "date", "datetime", "time", "duration": every value is one or
            a null. "category": values repeat. "null": there are only nulls. "object": anything.
        nan_is_null: NaN and NaT stand for a missing value, as pandas and NumPy have it; else NaN is a number.
    """

    __slots__ = ()

    family: str
    nan_is_null: bool

    def __len__(self) -> int:
        raise NotImplementedError

    @property
    def dtype(self) -> str:
        """What the library calls the type."""
        raise NotImplementedError

    @property
    def nulls(self) -> int:
        """How many nulls there are, NaN not counted."""
        raise NotImplementedError

    def null_mask(self) -> Array:
        """Where the nulls are, NaN and NaT among them where they are nulls."""
        raise NotImplementedError

    def present(self) -> Array:
        """The values that are no nulls, as a NumPy array of numbers; NaN may be among them."""
        raise NotImplementedError

    def parts(self) -> list[Array]:
        """What `present` gives, in as many pieces as it is kept in."""
        return [self.present()]

    def few(self) -> list[Any] | None:
        """All values as Python has them, where there are few, no nulls, and this is faster than `parts`."""
        return None

    def numbers(self) -> Array:
        """All values as a NumPy array of numbers; what stands for a null is undefined."""
        raise NotImplementedError

    def extremes(self) -> tuple[Any, Any] | None:
        """The least and the greatest value as Python has them; None: there are only nulls."""
        raise NotImplementedError

    def distinct(self) -> list[Any]:
        """Each value once, as Python has it, without nulls."""
        raise NotImplementedError

    def lengths(self) -> tuple[int, int] | None:
        """The least and the greatest length of the texts; None: there are only nulls."""
        raise NotImplementedError

    def objects(self) -> list[Any]:
        """All values as Python has them; None for a null."""
        raise NotImplementedError

    def matches(self, pattern: str) -> bool | None:
        """Whether every text surely holds the pattern, as Rust's regular expressions read it; None: can't tell."""
        return None


_FAMILIES = {
    "b": "bool",
    "i": "int",
    "u": "int",
    "f": "float",
    "M": "datetime",
    "m": "duration",
    "U": "text",
    "T": "text",
}
_DATES = frozenset({"D", "W", "M", "Y"})
_WITHOUT_NULLS = frozenset({"bool", "int", "float", "text"})


class NumpyColumn(Column):
    """A column that is a NumPy array of one dimension; of more, its rows are lists."""

    __slots__ = ("_values", "family", "nan_is_null")

    def __init__(self, values: Array, *, nan_is_null: bool = True) -> None:
        self._values = values
        self.nan_is_null = nan_is_null
        family = _FAMILIES.get(values.dtype.kind, "object")
        if family == "text" and hasattr(values.dtype, "na_object"):
            family = "object"
        if family == "datetime" and np.datetime_data(values.dtype)[0] in _DATES:
            family = "date"
        self.family = family if values.ndim == 1 else "object"

    def __len__(self) -> int:
        return len(self._values)

    @property
    def dtype(self) -> str:
        return str(self._values.dtype)

    @property
    def nulls(self) -> int:
        if self.family in _WITHOUT_NULLS:
            return 0
        if self.family in ("datetime", "date", "duration"):
            return int(np.count_nonzero(np.isnat(self._values)))
        return sum(value is None for value in self.objects())

    def null_mask(self) -> Array:
        if self.family in ("datetime", "date", "duration"):
            return np.isnat(self._values)
        if self.family == "float" and self.nan_is_null:
            return np.isnan(self._values)
        if self.family == "object":
            return np.fromiter((value is None for value in self.objects()), bool, len(self))
        return np.zeros(len(self), bool)

    def present(self) -> Array:
        return self._values

    def parts(self) -> list[Array]:
        return [self._values]

    def numbers(self) -> Array:
        return self._values

    def extremes(self) -> tuple[Any, Any] | None:
        values = self._values[~self.null_mask()]
        if not len(values):
            return None
        return _item(values.min()), _item(values.max())

    def distinct(self) -> list[Any]:
        if self.family in ("bool", "int"):
            return distinct_numbers(self._values)
        if self.family == "float":
            found: list[Any] = np.unique(self._values[~self.null_mask()]).tolist()
            return found
        values = self.objects()
        try:
            return list(set(values) - {None})
        except TypeError:  # lists and the like
            return [value for value in values if value is not None]

    def lengths(self) -> tuple[int, int] | None:
        if not len(self):
            return None
        # numpy.char does not know text of any length, and NumPy 1 neither that nor numpy.strings.
        module: Any = np.strings if self._values.dtype.kind == "T" else np.char
        lengths = module.str_len(self._values)
        return int(lengths.min()), int(lengths.max())

    def objects(self) -> list[Any]:
        values = _listed(self._values)
        if self.family == "object" and self._values.ndim == 1:
            return [None if is_null(value) else _item(value) for value in values]
        if self.family == "float" and self.nan_is_null:
            return [None if value != value else value for value in values]
        return values


class ListColumn(Column):
    """A column that is a list of Python's; NaN in it is a number, as pydantic has it, and only None is a null."""

    __slots__ = ("_values", "family", "nan_is_null")

    def __init__(self, values: Sequence[Any]) -> None:
        self._values = values
        self.family = "object"
        self.nan_is_null = False

    def __len__(self) -> int:
        return len(self._values)

    @property
    def dtype(self) -> str:
        return "list"

    @property
    def nulls(self) -> int:
        return sum(value is None for value in self._values)

    def null_mask(self) -> Array:
        return np.fromiter((value is None for value in self._values), bool, len(self))

    def objects(self) -> list[Any]:
        return self._values if type(self._values) is list else list(self._values)


def plain(value: Any) -> Any:
    """A scalar of NumPy's as Python has it."""
    return value.item() if isinstance(value, np.generic) else value


def times(values: Array) -> Array:
    """The same, with times in units that Python has: microseconds, or days."""
    if values.dtype.kind in "mM":
        unit: Any = np.datetime_data(values.dtype)[0]
        wanted: Any = "D" if values.dtype.kind == "M" and unit in _DATES else "us"
        if unit != wanted:
            as_wanted = f"{values.dtype.kind}8[{wanted}]"
            try:
                return values.astype(as_wanted)
            except OverflowError:  # NumPy 2.5 and later; earlier ones let such a time run into another year
                most = np.iinfo(np.int64).max // int(np.timedelta64(1, unit) / np.timedelta64(1, wanted))
                fits = np.abs(values.view(np.int64).astype(np.float64)) < most
                return np.where(fits, values, np.array("NaT", values.dtype)).astype(as_wanted)
    return values


def _listed(values: Array) -> list[Any]:
    """All values as Python has them."""
    converted = times(values)
    listed: list[Any] = converted.tolist()
    if converted.dtype.kind not in "mM":
        return listed
    coarse = np.datetime_data(values.dtype)[0] in ("h", "m", "s", "ms")  # their years may not fit into microseconds
    lost = (converted.astype(values.dtype) != values) & ~np.isnat(values) if coarse else np.zeros(values.shape, bool)
    if converted.ndim != 1:
        return listed
    return [BEYOND if gone or type(value) is int else value for value, gone in zip(listed, lost.tolist(), strict=True)]


def distinct_numbers(values: Array) -> list[Any]:
    """Each whole number or truth value once."""
    if len(values) > 1_000 and values.dtype.kind in "iu":
        low, high = int(values.min()), int(values.max())
        if high - low < 65_536:
            seen = np.bincount((values - values.dtype.type(low)).astype(np.int64, copy=False))
            return (np.flatnonzero(seen) + low).tolist()
    return np.unique(values).tolist()  # type: ignore[no-any-return]


_NULLS = frozenset({"NAType", "NaTType"})


def is_null(value: Any) -> bool:
    """None, NaN, NaT and pandas' NA among Python objects."""
    if value is None:
        return True
    if isinstance(value, float | np.floating):
        return bool(value != value)
    if isinstance(value, np.datetime64 | np.timedelta64):
        return bool(np.isnat(value))
    return type(value).__name__ in _NULLS


def _item(value: Any) -> Any:
    if isinstance(value, np.datetime64 | np.timedelta64):
        return _listed(np.asarray([value]))[0]
    return value.item() if isinstance(value, np.generic) else value
