"""An `Array` and the dtype of its annotation, as the functions that pydantic calls.

An array that fits goes through with a look at its class, dtype and shape, and what `values.py` is asked for.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationInfo
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from mlguard import clock
from mlguard.validation import convert
from mlguard.validation.columns import Columns, Named, of_each
from mlguard.validation.declared import BOUNDS, OPEN, dtype_text, has_bound, per_column
from mlguard.validation.dimensions import Dims, dims_of, fit, names_of
from mlguard.validation.figures import Bounds
from mlguard.validation.limits import too_large
from mlguard.validation.values import Categories, Monotonic, Unique, Values

if TYPE_CHECKING:
    from mlguard.validation.array import Array

__all__ = ["ArrayCheck", "function_of"]


class ArrayCheck:
    """What one declared array must meet."""

    def __init__(self, array: Array, expected: Any) -> None:
        self.array = array
        self.expected = expected
        self.dtype: np.dtype[Any] | None = None if isinstance(expected, type) else expected
        """The one dtype that fits; None: any that `expected`, an abstract type such as np.floating, covers."""
        self.shape = array.dimensions
        self.names = names_of(self.shape)
        self.whole = next((each for each in _WHOLE if self.fits(each)), _WHOLE[0])
        """What a list of whole numbers becomes where no dtype is declared."""
        self._plain_shape = bool(self.shape) and all(isinstance(entry, int) for entry in self.shape)
        self._one_name = _one_name(self.shape)
        self._values = _values(array)
        self._most = None if array.max_bytes is None else clock.bytes_of(array.max_bytes)

    def exact(self, value: Any) -> Any:
        """Only an array of exactly this dtype."""
        return self._look(self._exactly(value), None)

    def accept(self, value: Any) -> Any:
        """The very same array where it fits; otherwise what it can be converted to without loss."""
        return self._look(self._converted(value), None)

    def accept_json(self, value: Any) -> Any:
        return self._look(self._from_lists(value), None)

    def exact_named(self, value: Any, info: ValidationInfo) -> Any:
        return self._look(self._exactly(value), dims_of(info))

    def accept_named(self, value: Any, info: ValidationInfo) -> Any:
        return self._look(self._converted(value), dims_of(info))

    def accept_json_named(self, value: Any, info: ValidationInfo) -> Any:
        return self._look(self._from_lists(value), dims_of(info))

    def bind(self, value: Any, dims: Dims) -> bool:
        """Binds the names to the sizes of an array; False where the value is none of this dtype."""
        if not isinstance(value, np.ndarray) or not self.fits(value.dtype):
            return False
        if self.shape:
            fit(self.shape, value.shape, dims)
        return True

    def fits(self, dtype: np.dtype[Any]) -> bool:
        """An array of this dtype needs no conversion."""
        if self.dtype is not None:
            return dtype == self.dtype
        return dtype.kind in convert.KINDS and np.issubdtype(dtype, self.expected)

    def _look(self, value: np.ndarray[Any, Any], dims: Dims | None) -> np.ndarray[Any, Any]:
        shape = self.shape
        if self._one_name is not None and dims is not None:  # what `fit` does, for the declaration most arrays have
            name, rest = self._one_name
            came = value.shape
            if came[1:] != rest or not came or dims.setdefault(name, came[0]) != came[0]:
                fit(shape, came, dims)
        elif self._plain_shape:
            if value.shape != shape:
                fit(shape, value.shape, {})
        elif shape:
            fit(shape, value.shape, {} if dims is None else dims)
        if self._values is not None:
            self._values(value)
        return value

    def _exactly(self, value: Any) -> np.ndarray[Any, Any]:
        if not isinstance(value, np.ndarray) or isinstance(value, np.ma.MaskedArray):
            raise self._wrong_type(value)
        if not self.fits(value.dtype):
            raise self._wrong_dtype(value.dtype)
        if self._most is not None:
            self._refuse_large(value.nbytes)
        return value

    def _converted(self, value: Any) -> np.ndarray[Any, Any]:
        if not isinstance(value, np.ndarray):
            if not isinstance(value, list | tuple):
                raise self._wrong_type(value)
            return self._from_lists(value)
        if type(value) is not np.ndarray and isinstance(value, np.ma.MaskedArray):
            raise self._wrong_type(value)
        if self._most is not None:
            self._refuse_large(value.size * max(value.itemsize, self.dtype.itemsize if self.dtype is not None else 0))
        if value.dtype is self.dtype or self.fits(value.dtype):
            return value
        if self.dtype is None or not convert.is_safe(value.dtype, self.dtype):
            raise self._wrong_dtype(value.dtype)
        return convert.cast(value, self.dtype)

    def _from_lists(self, value: Any) -> np.ndarray[Any, Any]:
        if not isinstance(value, list | tuple):
            raise self._wrong_type(value)
        shape = convert.probe(value)
        sizes = [entry for entry in self.shape[1:] if isinstance(entry, int)]
        if not value and sizes and len(sizes) == len(self.shape) - 1:
            shape = (0, *sizes)  # what zero rows look like as a list
        if self.shape:
            fit(self.shape, shape, {})
        if self._most is not None:
            self._refuse_large(math.prod(shape) * (self.dtype.itemsize if self.dtype is not None else 1))
        array = convert.from_lists(value, shape, self.dtype, whole=self.whole, most=self._most)
        if self._most is not None:
            self._refuse_large(array.nbytes)
        if not self.fits(array.dtype):
            raise self._wrong_dtype(array.dtype)
        return array

    def _refuse_large(self, size: int) -> None:
        if self._most is not None and size > self._most:
            raise too_large(self._most, "send fewer rows a call, or raise Array(max_bytes=...)")

    def _wrong_type(self, value: Any) -> PydanticCustomError:
        fix = "pass np.asarray(...) of it"
        if isinstance(value, np.ma.MaskedArray):
            fix = "fill the masked values first, with .filled(...)"
        elif isinstance(value, list | tuple):
            fix = f"pass np.array(..., dtype={dtype_text(self.expected)}); strict takes no lists"
        return PydanticCustomError(
            "array_type",
            "must be a NumPy array of {dtype} or nested lists of its values, got {received}",
            {"dtype": dtype_text(self.expected), "received": type(value).__qualname__, "fix": fix},
        )

    def _wrong_dtype(self, dtype: np.dtype[Any]) -> PydanticCustomError:
        expected = dtype_text(self.expected)
        to = expected if self.dtype is not None or self.expected in OPEN else self.whole.name
        fix = f"cast it where that is meant, with .astype({to!r})"
        if self.expected is np.generic:
            expected = "boolean, number, text or time"
        if dtype.kind == "V" and dtype.names:
            fix = "declare a model with one array a column, and pass x['name'] of each"
        elif dtype.kind == "T":
            fix = "cast it, with .astype('U')"
        return PydanticCustomError(
            "array_dtype",
            "must have dtype {expected}, got {received}",
            {"expected": expected, "received": dtype_text(dtype), "fix": fix},
        )


def _one_name(shape: tuple[Any, ...]) -> tuple[str, tuple[int, ...]] | None:
    """The name of the first dimension and the sizes of the others, where that is what is declared."""
    if shape and isinstance(shape[0], str) and all(isinstance(entry, int) for entry in shape[1:]):
        return shape[0], shape[1:]
    return None


def _values(array: Array) -> Values | None:
    checks: list[Any] = []
    columns = per_column(array)
    if columns:
        checks.append(_columns(array))
    elif array.finite or has_bound(array):
        given: Any = (getattr(array, name) for name in ("ge", "gt", "le", "lt"))
        bounds = Bounds(*given, finite=array.finite, allow_nan=array.allow_nan)
        checks.append(bounds if array.columns is None else Named(bounds, _columns(array)))
    if array.categories is not None:
        checks.append(Categories(array.categories, allow_nan=array.allow_nan))
    if array.monotonic is not None:
        checks.append(Monotonic(array.monotonic))
    if array.unique:
        checks.append(Unique())
    return Values(checks, array.check, whole_rows=columns or array.columns is not None) if checks else None


def _columns(array: Array) -> Columns:
    count: Any = array.dimensions[-1]
    given = {name: of_each(getattr(array, name), count, array.columns) for name in BOUNDS}
    bounds = []
    for number in range(count):
        ge, gt, le, lt = (given[name][number] for name in ("ge", "gt", "le", "lt"))
        free = (ge, gt, le, lt) == (None,) * 4 and not array.finite
        bounds.append(None if free else Bounds(ge, gt, le, lt, finite=array.finite, allow_nan=array.allow_nan))
    return Columns(bounds, array.columns)


def function_of(plain: Any, named: Any, names: tuple[str, ...]) -> CoreSchema:
    """A validator that asks for pydantic's context where dimensions have names, because that costs time."""
    if names:
        return core_schema.with_info_plain_validator_function(named)
    return core_schema.no_info_plain_validator_function(plain)


_WHOLE = tuple(map(np.dtype, (np.int64, np.uint64, np.float64, np.complex128)))
"""What a list of whole numbers becomes: the first that an abstract dtype covers."""
