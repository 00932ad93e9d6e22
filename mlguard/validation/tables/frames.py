"""The columns of pandas, polars and Arrow. None of them is imported here: a column brings its library along."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from mlguard.validation.tables.columns import BEYOND, Array, Column, NumpyColumn, distinct_numbers, is_null, plain

__all__ = ["ArrowColumn", "PandasColumn", "PolarsColumn", "pandas_column"]


_FEW = 32
"""Up to as many values, Python's own min and max beat the way to NumPy."""
_MOST_PARTS = 64
"""Columns in more pieces than that are joined, because each piece has a fixed cost."""


def pandas_column(values: Any) -> Column:
    """The column of what pandas keeps for it: a NumPy array, or an extension array."""
    if type(values) is np.ndarray:
        return NumpyColumn(values)
    dtype = values.dtype
    if isinstance(dtype, np.dtype):  # times without a zone are wrapped as well
        return NumpyColumn(np.asarray(values))
    if hasattr(values, "sp_values"):  # sparse
        return NumpyColumn(np.asarray(values))
    if hasattr(values, "__arrow_array__") and (getattr(dtype, "pyarrow_dtype", None) or _is_arrow_text(dtype)):
        arrow = values.__arrow_array__()
        return ArrowColumn(arrow, nan_is_null=True, dtype=str(dtype))
    return PandasColumn(values)


def _is_arrow_text(dtype: Any) -> bool:
    return getattr(dtype, "storage", None) in ("pyarrow", "pyarrow_numpy")


_PANDAS = {"b": "bool", "i": "int", "u": "int", "f": "float", "M": "datetime", "m": "duration"}


class PandasColumn(Column):
    """An extension array of pandas: nullable numbers, categories, times with a zone, text kept as Python objects."""

    __slots__ = ("_values", "family", "nan_is_null")

    def __init__(self, values: Any) -> None:
        self._values = values
        self.nan_is_null = True
        if hasattr(values, "categories"):
            self.family = "category"
        elif hasattr(values.dtype, "storage"):
            self.family = "text"
        else:
            kind = getattr(values.dtype, "kind", "O")
            self.family = _PANDAS.get(kind, "object") if kind != "M" or hasattr(values.dtype, "tz") else "object"

    def __len__(self) -> int:
        return len(self._values)

    @property
    def dtype(self) -> str:
        return str(self._values.dtype)

    @property
    def nulls(self) -> int:
        return int(np.count_nonzero(self._values.isna()))

    def null_mask(self) -> Array:
        mask = np.asarray(self._values.isna(), bool)
        if self.family == "float":  # NaN may stand beside NA
            mask = mask | np.isnan(self.numbers())
        return mask

    def present(self) -> Array:
        mask = np.asarray(self._values.isna(), bool)
        values = self._values[~mask] if mask.any() else self._values
        return np.asarray(values.to_numpy(self._values.dtype.numpy_dtype))

    def numbers(self) -> Array:
        return np.asarray(self._values.to_numpy(self._values.dtype.numpy_dtype, na_value=0))

    def extremes(self) -> tuple[Any, Any] | None:
        values = self._values[~self.null_mask()]
        return (plain(values.min()), plain(values.max())) if len(values) else None

    def distinct(self) -> list[Any]:
        if self.family == "category":
            codes = np.asarray(self._values.codes)
            used = distinct_numbers(codes) if len(codes) else []
            categories = self._values.categories
            return [plain(categories[code]) for code in used if code >= 0]
        return [plain(value) for value in self._values.unique() if not is_null(value)]

    def lengths(self) -> tuple[int, int] | None:
        lengths = [len(value) for value in self.objects() if value is not None]
        return (min(lengths), max(lengths)) if lengths else None

    def objects(self) -> list[Any]:
        return [None if is_null(value) else plain(value) for value in self._values]


class PolarsColumn(Column):
    """A series of polars."""

    __slots__ = ("_nulls", "_series", "family", "nan_is_null")

    def __init__(self, series: Any) -> None:
        self._series = series
        self._nulls: int = series.null_count()
        self.nan_is_null = False
        self.family = _family_of_polars(series.dtype)

    def __len__(self) -> int:
        return len(self._series)

    @property
    def dtype(self) -> str:
        return str(self._series.dtype)

    @property
    def nulls(self) -> int:
        return self._nulls

    def null_mask(self) -> Array:
        return np.asarray(self._series.is_null().to_numpy(), bool)

    def present(self) -> Array:
        series = self._series
        return (series.drop_nulls() if self._nulls else series).to_numpy()  # type: ignore[no-any-return]

    def parts(self) -> list[Array]:
        if 1 < self._series.n_chunks() <= _MOST_PARTS:
            return [type(self)(chunk).present() for chunk in self._series.get_chunks()]
        return [self.present()]

    def few(self) -> list[Any] | None:
        series = self._series
        return None if self._nulls or len(series) > _FEW else series.to_list()

    def numbers(self) -> Array:
        series = self._series
        if self._nulls:
            series = series.fill_null(False if self.family == "bool" else 0)
        return np.asarray(series.to_numpy())

    def extremes(self) -> tuple[Any, Any] | None:
        least = self._series.min()
        return None if least is None else (least, self._series.max())

    def distinct(self) -> list[Any]:
        return [value for value in self._series.unique().to_list() if value is not None]

    def lengths(self) -> tuple[int, int] | None:
        lengths = self._series.str.len_chars()
        least = lengths.min()
        return None if least is None else (least, lengths.max())

    def objects(self) -> list[Any]:
        return self._series.to_list()  # type: ignore[no-any-return]

    def matches(self, pattern: str) -> bool | None:
        try:
            return bool(self._series.str.contains(pattern).all())
        except Exception:  # a pattern that its regular expressions don't know
            return None


_polars_families: dict[Any, str] = {}


def _family_of_polars(dtype: Any) -> str:
    kind = type(dtype)
    known = _polars_families.get(kind)
    if known is None:
        known = _polars_families[kind] = _look_up_polars(dtype)
    return known


def _look_up_polars(dtype: Any) -> str:
    if dtype.is_integer():
        return "object" if "128" in str(dtype) else "int"  # NumPy has no whole numbers of that size
    if dtype.is_float():
        return "float"
    names = {
        "Boolean": "bool", "String": "text", "Date": "date", "Datetime": "datetime", "Time": "time",
        "Duration": "duration", "Decimal": "decimal", "Categorical": "category", "Enum": "category", "Null": "null",
    }  # fmt: skip
    return names.get(type(dtype).__name__, "object")


class ArrowColumn(Column):
    """A chunked array of Arrow."""

    __slots__ = ("_dtype", "_values", "family", "nan_is_null")

    def __init__(self, values: Any, *, nan_is_null: bool = False, dtype: str | None = None) -> None:
        self._values = values
        self.nan_is_null = nan_is_null
        self._dtype = dtype
        self.family = _family_of_arrow(values.type)

    def __len__(self) -> int:
        return len(self._values)

    @property
    def dtype(self) -> str:
        return self._dtype or str(self._values.type)

    @property
    def nulls(self) -> int:
        if self.family == "category":  # a null may stand in the dictionary as well
            return int(self._decoded().null_count)
        return int(self._values.null_count)

    def null_mask(self) -> Array:
        mask = self._decoded().is_null(nan_is_null=self.nan_is_null and self.family == "float")
        return np.asarray(mask.to_numpy(zero_copy_only=False), bool)

    def present(self) -> Array:
        values = self._values.drop_null() if self._values.null_count else self._values
        return np.asarray(values.to_numpy(zero_copy_only=False))

    def parts(self) -> list[Array]:
        if 1 < getattr(self._values, "num_chunks", 1) <= _MOST_PARTS:
            return [ArrowColumn(chunk).present() for chunk in self._values.chunks]
        return [self.present()]

    def numbers(self) -> Array:
        values = self._values
        if values.null_count:
            values = values.fill_null(False if self.family == "bool" else 0)
        return np.asarray(values.to_numpy(zero_copy_only=False))

    def extremes(self) -> tuple[Any, Any] | None:
        try:
            found = _compute().min_max(_of_python(self._values)).as_py()
        except NotImplementedError:  # Arrow has no order for durations
            values = self.distinct()
            return (min(values), max(values)) if values else None
        except (OverflowError, ValueError):  # a time that Python does not have
            return BEYOND, BEYOND
        return None if found["min"] is None else (found["min"], found["max"])

    def distinct(self) -> list[Any]:
        found = _to_list(_compute().unique(self._decoded()))
        if self.nan_is_null and self.family == "float":
            return [value for value in found if not is_null(value)]
        return [value for value in found if value is not None]

    def lengths(self) -> tuple[int, int] | None:
        compute = _compute()
        values = self._values
        if str(values.type) == "string_view":
            values = values.cast("string")
        found = compute.min_max(compute.utf8_length(values)).as_py()
        return None if found["min"] is None else (found["min"], found["max"])

    def objects(self) -> list[Any]:
        values = _to_list(self._decoded())
        if self.nan_is_null and self.family == "float":
            return [None if is_null(value) else value for value in values]
        return values

    def _decoded(self) -> Any:
        if self.family != "category":
            return self._values
        return _compute().dictionary_decode(self._values)


def _to_list(values: Any) -> list[Any]:
    values = _of_python(values)
    try:
        return values.to_pylist()  # type: ignore[no-any-return]
    except (OverflowError, ValueError):
        return [_one(value) for value in values]


def _one(value: Any) -> Any:
    try:
        return value.as_py()
    except (OverflowError, ValueError):
        return BEYOND


def _of_python(values: Any) -> Any:
    """The same, with times of at most microseconds: Python has no finer ones."""
    kind = values.type
    if getattr(kind, "unit", None) != "ns":
        return values
    return values.cast(str(kind).replace("ns", "us", 1) if not hasattr(kind, "tz") else _microseconds(kind), safe=False)


def _microseconds(kind: Any) -> Any:
    return sys.modules["pyarrow"].timestamp("us", kind.tz)


def _compute() -> Any:
    import pyarrow.compute  # there is a column of its library already

    return pyarrow.compute


_arrow_families: dict[int, str] = {}


def _family_of_arrow(kind: Any) -> str:
    known = _arrow_families.get(kind.id)
    if known is None:
        known = _arrow_families[kind.id] = _look_up_arrow(kind)
    return known


def _look_up_arrow(kind: Any) -> str:
    types = sys.modules["pyarrow"].types
    tests = {
        "is_boolean": "bool", "is_integer": "int", "is_floating": "float", "is_decimal": "decimal",
        "is_string": "text", "is_large_string": "text", "is_string_view": "text", "is_date": "date",
        "is_timestamp": "datetime", "is_time": "time", "is_duration": "duration", "is_dictionary": "category",
        "is_null": "null",
    }  # fmt: skip
    return next((family for test, family in tests.items() if getattr(types, test, _never)(kind)), "object")


def _never(kind: Any) -> bool:
    return False
