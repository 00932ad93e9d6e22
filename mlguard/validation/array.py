"""`Array`: dtype, shape, finiteness and range of a NumPy array, in one declaration beside its type.

Type checkers see a plain array; pydantic sees the checks. How lists become arrays is in `convert.py`, how the values
are looked at is in `figures.py`, how dimension names are shared is in `dimensions.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import EllipsisType
from typing import Any, cast, get_args, get_origin

import numpy as np
from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from mlguard.errors import PolicyError
from mlguard.target import spelt_out
from mlguard.validation import convert
from mlguard.validation.dimensions import Dims, dims_of, fit, shape_text
from mlguard.validation.figures import Bounds

__all__ = ["Array", "ArrayCheck", "array_checks", "declared_dtype"]


class Array:
    """What an array must look like: metadata for ``Annotated[npt.NDArray[np.float32], Array("batch", 30, ge=0)]``.

    An array that fits is handed on as the very same object. Nested lists (and JSON arrays) become arrays where nothing
    is lost: ``None``, ``"1.5"``, 1.7 for an integer and 1e39 for a float32 are refused; a float is rounded to the
    nearest that the dtype has. Another dtype is converted where NumPy calls the cast safe and every value survives.
    Masked arrays, arrays of objects and structured arrays are refused; a size of zero is fine where the shape is.

    Args:
        *shape: One entry a dimension: a number, a name that means the same size in all arguments, model fields and the
            result of one call, or once ``...`` for any dimensions. No entry at all: any shape.
        dtype: What the elements are. Default: the dtype of the annotation, such as float32 in
            ``npt.NDArray[np.float32]``; where that names none, any boolean, number, text or time.
        finite: Refuse NaN, infinities and NaT. Default False, because NaN is how many models spell a missing value.
        allow_nan: Let NaN pass the bounds. Default False: NaN is neither above nor below anything, so that a bound
            refuses it, as pydantic's own ``Field(ge=0)`` does. Without bounds, only `finite` refuses NaN.
        ge: Least value allowed. Compared as NumPy compares: the bound is rounded to a floating dtype first.
        gt: Every value must be greater.
        le: Greatest value allowed.
        lt: Every value must be less.
        strict: Refuse what is not an array of exactly this dtype. Default False: convert where nothing is lost. JSON
            has nothing but lists, so there a list is what strict expects.

    Raises:
        PolicyError: A declaration that no array could meet, or that does not fit the annotation.
    """

    def __init__(
        self,
        *shape: int | str | EllipsisType,
        dtype: Any = None,
        finite: bool = False,
        allow_nan: bool = False,
        ge: float | None = None,
        gt: float | None = None,
        le: float | None = None,
        lt: float | None = None,
        strict: bool = False,
    ) -> None:
        self.shape = shape
        self.dtype = dtype
        self.finite = finite
        self.allow_nan = allow_nan
        self.ge, self.gt, self.le, self.lt = ge, gt, le, lt
        self.strict = strict
        _refuse_shape(self)
        _refuse_bounds(self)

    def __repr__(self) -> str:
        given = [repr(entry) if entry is not ... else "..." for entry in self.shape]
        given += [f"dtype={_dtype_text(self.dtype)}"] if self.dtype is not None else []
        given += [f"{name}=True" for name in ("finite", "allow_nan", "strict") if getattr(self, name)]
        bounds = {name: getattr(self, name) for name in _JSON_BOUNDS}
        given += [f"{name}={bound}" for name, bound in bounds.items() if bound is not None]
        return f"Array({', '.join(given)})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Array) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        check = ArrayCheck(self, declared_dtype(self, source))
        lists = core_schema.plain_serializer_function_ser_schema(_as_lists, when_used="json")
        exact = _function(check.exact, check.exact_named, check.names)
        accept = exact if self.strict else _function(check.accept, check.accept_named, check.names)
        return core_schema.json_or_python_schema(
            _function(check.accept_json, check.accept_json_named, check.names),
            accept if self.strict else core_schema.lax_or_strict_schema(accept, exact),
            serialization=lists,
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        check = next(found for found in array_checks(schema))
        described: dict[str, Any] = dict(_JSON_TYPES.get(check.dtype.kind if check.dtype else "", {}))
        for name, keyword in _JSON_BOUNDS.items():
            if getattr(self, name) is not None:
                described[keyword] = getattr(self, name)
        if not self.shape or ... in self.shape:
            described = {"type": "array"}
        else:
            for entry in reversed(self.shape):
                sizes = {"minItems": entry, "maxItems": entry} if isinstance(entry, int) else {}
                described = {"type": "array", "items": described, **sizes}
        shape = ["..." if entry is ... else entry for entry in self.shape or (...,)]
        return {**described, "dtype": _dtype_text(check.expected), "shape": shape}


class ArrayCheck:
    """An `Array` and the dtype of its annotation: the functions pydantic calls."""

    def __init__(self, array: Array, expected: Any) -> None:
        self.array = array
        self.expected = expected
        self.dtype: np.dtype[Any] | None = None if isinstance(expected, type) else expected
        """The one dtype that fits; None: any that `expected`, an abstract type such as np.floating, covers."""
        self.shape = array.shape
        self.names = tuple(dict.fromkeys(entry for entry in array.shape if isinstance(entry, str)))
        self._whole = next((each for each in _WHOLE if self.fits(each)), _WHOLE[0])
        bounded = array.finite or _has_bound(array)
        self._plain_shape = bool(array.shape) and all(isinstance(entry, int) for entry in array.shape)
        self._bounds: Callable[[np.ndarray[Any, Any]], None] | None = (
            Bounds(array.ge, array.gt, array.le, array.lt, finite=array.finite, allow_nan=array.allow_nan)
            if bounded
            else None
        )

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

    def _look(self, value: np.ndarray[Any, Any], dims: Dims | None) -> np.ndarray[Any, Any]:
        shape = self.shape
        if self._plain_shape:
            if value.shape != shape:
                fit(shape, value.shape, {})
        elif shape:
            fit(shape, value.shape, {} if dims is None else dims)
        if self._bounds is not None:
            self._bounds(value)
        return value

    def _exactly(self, value: Any) -> np.ndarray[Any, Any]:
        if not isinstance(value, np.ndarray) or isinstance(value, np.ma.MaskedArray):
            raise self._wrong_type(value)
        if not self.fits(value.dtype):
            raise self._wrong_dtype(value.dtype)
        return value

    def _converted(self, value: Any) -> np.ndarray[Any, Any]:
        if not isinstance(value, np.ndarray):
            if not isinstance(value, list | tuple):
                raise self._wrong_type(value)
            return self._from_lists(value)
        if type(value) is not np.ndarray and isinstance(value, np.ma.MaskedArray):
            raise self._wrong_type(value)
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
        array = convert.from_lists(value, shape, self.dtype, whole=self._whole)
        if not self.fits(array.dtype):
            raise self._wrong_dtype(array.dtype)
        return array

    def fits(self, dtype: np.dtype[Any]) -> bool:
        """An array of this dtype needs no conversion."""
        if self.dtype is not None:
            return dtype == self.dtype
        return dtype.kind in convert.KINDS and np.issubdtype(dtype, self.expected)

    def _wrong_type(self, value: Any) -> PydanticCustomError:
        fix = "pass np.asarray(...) of it"
        if isinstance(value, np.ma.MaskedArray):
            fix = "fill the masked values first, with .filled(...)"
        elif isinstance(value, list | tuple):
            fix = f"pass np.array(..., dtype={_dtype_text(self.expected)}); strict takes no lists"
        return PydanticCustomError(
            "array_type",
            "must be a NumPy array of {dtype} or nested lists of its values, got {received}",
            {"dtype": _dtype_text(self.expected), "received": type(value).__qualname__, "fix": fix},
        )

    def _wrong_dtype(self, dtype: np.dtype[Any]) -> PydanticCustomError:
        expected = _dtype_text(self.expected)
        fix = f"cast it where that is meant, with .astype({expected!r})"
        return PydanticCustomError(
            "array_dtype",
            "must have dtype {expected}, got {received}",
            {"expected": expected, "received": _dtype_text(dtype), "fix": fix},
        )


def array_checks(schema: Any, handler: GetCoreSchemaHandler | None = None) -> list[ArrayCheck]:
    """Every array a core schema checks, each once a place.

    Args:
        schema: A finished core schema, or one in the making.
        handler: For one in the making: what finds the models that it only refers to yet.
    """
    found: list[ArrayCheck] = []
    seen: set[str] = set()
    rest = [schema]
    while rest:
        node = rest.pop()
        if isinstance(node, dict):
            if node.get("type") == "definition-ref" and handler is not None:
                if node["schema_ref"] not in seen:
                    seen.add(node["schema_ref"])
                    rest.append(handler.resolve_ref_schema(cast(CoreSchema, node)))
                continue
            if node.get("type") == "json-or-python":  # an array has up to three functions, and counts once
                owner = getattr(node["json_schema"].get("function", {}).get("function"), "__self__", None)
                if isinstance(owner, ArrayCheck):
                    found.append(owner)
                    continue
            rest.extend(part for key, part in node.items() if key not in ("metadata", "serialization"))
        elif isinstance(node, list | tuple):
            rest.extend(node)
    return found


def _function(plain: Any, named: Any, names: tuple[str, ...]) -> CoreSchema:
    if names:
        return core_schema.with_info_plain_validator_function(named)
    return core_schema.no_info_plain_validator_function(plain)


def _as_lists(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


def declared_dtype(array: Array, source: Any) -> Any:
    """A dtype, or an abstract type such as np.floating that covers several."""
    given = _dtype_of(source)
    if array.dtype is not None and given is not np.generic and given != _normal(array.dtype):
        raise PolicyError(
            f"{array!r}: dtype = {_dtype_text(array.dtype)}, but the annotation says {_dtype_text(given)}. "
            "Fix: leave out dtype, or annotate a plain np.ndarray."
        )
    expected = given if array.dtype is None else _normal(array.dtype)
    kind = "" if isinstance(expected, type) else expected.kind
    if kind and kind not in convert.KINDS:
        raise PolicyError(
            f"{array!r}: dtype = {_dtype_text(expected)} can't be checked. "
            "Fix: declare a boolean, number, text or time dtype; a structured array as a model with one array a column."
        )
    if kind in ("b", "c", "S", "U") and _has_bound(array):
        raise PolicyError(f"{array!r}: {_dtype_text(expected)} has no range. Fix: drop ge, gt, le and lt.")
    return expected


def _dtype_of(source: Any) -> Any:
    source = spelt_out(source)
    if source is np.ndarray:
        return np.generic
    if get_origin(source) is not np.ndarray:
        raise PolicyError(
            f"Array is for NumPy arrays, but it annotates {source!r}. "
            'Fix: write Annotated[npt.NDArray[np.float32], Array("batch", 30)] (put `| None` outside of Annotated).'
        )
    inner = get_args(get_args(source)[1])
    return _normal(inner[0]) if inner else np.generic


def _normal(dtype: Any) -> Any:
    """np.float32 as a dtype; abstract types, text of any length and times of any unit stay types."""
    if dtype is Any or not isinstance(dtype, type | str | np.dtype):
        return np.generic
    if isinstance(dtype, type) and issubclass(dtype, np.generic):
        flexible = dtype in (np.str_, np.bytes_, np.datetime64, np.timedelta64)
        abstract = dtype.__module__ == "numpy" and dtype in _ABSTRACT
        return dtype if flexible or abstract else np.dtype(dtype)
    try:
        return np.dtype(dtype)
    except TypeError:
        raise PolicyError(
            f"Array: dtype = {dtype!r} is no NumPy dtype. Fix: such as np.float32 or 'float32'."
        ) from None


def _dtype_text(dtype: Any) -> str:
    if dtype is np.generic:
        return "any dtype"
    if isinstance(dtype, type):
        return dtype.__name__
    found = np.dtype(dtype)
    return found.name if found.isnative and found.kind not in "OV" else str(found)


def _refuse_shape(array: Array) -> None:
    for entry in array.shape:
        named = isinstance(entry, str) and entry.isidentifier()
        sized = isinstance(entry, int) and not isinstance(entry, bool) and entry >= 0
        if not (named or sized or entry is ...):
            raise PolicyError(
                f'Array: {entry!r} is no dimension. Fix: a size, a name such as "batch", or ... for any number of them.'
            )
    if array.shape.count(...) > 1:
        raise PolicyError(f"Array: {shape_text(array.shape)} has two ellipses. Fix: keep one, the other is ambiguous.")


def _has_bound(array: Array) -> bool:
    return any(bound is not None for bound in (array.ge, array.gt, array.le, array.lt))


def _refuse_bounds(array: Array) -> None:
    for name in ("ge", "gt", "le", "lt"):
        bound = getattr(array, name)
        if bound is not None and (isinstance(bound, bool) or not isinstance(bound, int | float) or math.isnan(bound)):
            raise PolicyError(f"Array: {name} = {bound!r} must be a number.")
    for one, other in (("ge", "gt"), ("le", "lt")):
        if getattr(array, one) is not None and getattr(array, other) is not None:
            raise PolicyError(f"Array: {one} and {other} are both given. Fix: keep one of them.")
    if array.allow_nan and (array.finite or not _has_bound(array)):
        why = "finite=True refuses NaN" if array.finite else "there is no bound that NaN could pass"
        raise PolicyError(f"{array!r}: allow_nan=True, but {why}. Fix: drop one of them.")
    low = array.ge if array.ge is not None else array.gt
    high = array.le if array.le is not None else array.lt
    if low is not None and high is not None and (low > high or (low == high and (array.gt, array.lt) != (None, None))):
        raise PolicyError(f"{array!r}: no value lies in this range. Fix: swap the bounds or widen them.")


_ABSTRACT = (
    np.generic, np.number, np.integer, np.signedinteger, np.unsignedinteger,
    np.inexact, np.floating, np.complexfloating, np.flexible, np.character,
)  # fmt: skip
_WHOLE = tuple(map(np.dtype, (np.int64, np.uint64, np.float64, np.complex128)))
"""What a list of whole numbers becomes: the first that an abstract dtype covers."""
_JSON_TYPES: dict[str, dict[str, Any]] = {
    "b": {"type": "boolean"},
    "i": {"type": "integer"},
    "u": {"type": "integer", "minimum": 0},
    "f": {"type": "number"},
    "U": {"type": "string"},
}
_JSON_BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
