"""What an `Array` declares, made sure of: declarations that nothing could meet are refused where they are written."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from types import EllipsisType, UnionType
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, Union, get_args, get_origin

import numpy as np

from mlguard import clock
from mlguard.errors import PolicyError
from mlguard.section import nearest, shown
from mlguard.target import spelt_out
from mlguard.validation import convert
from mlguard.validation.columns import of_each
from mlguard.validation.dimensions import Dimension, Span, shape_text
from mlguard.validation.values import ORDERS

if TYPE_CHECKING:
    from mlguard.validation.array import Array

__all__ = [
    "BOUNDS", "OPEN", "Entry", "declared_dtype", "distinct", "dtype_text", "has_bound", "per_column", "plain",
    "refuse_impossible", "spans",
]  # fmt: skip

Entry: TypeAlias = int | str | EllipsisType | tuple[int | None, int | None] | tuple[str, int | None, int | None]
"""One dimension as a user writes it: a size, a name, ``...``, ``(1, 512)`` or ``("tokens", 1, 512)``."""
BOUNDS = ("ge", "gt", "le", "lt")


def spans(shape: tuple[Entry, ...]) -> tuple[Dimension, ...]:
    """The dimensions, with ranges as `Span`."""
    return tuple(_span(entry) if isinstance(entry, tuple | range | slice) else entry for entry in shape)


def plain(shape: tuple[Entry, ...]) -> tuple[Entry, ...]:
    """NumPy's sizes as Python's."""
    return tuple(int(entry) if isinstance(entry, np.integer) else entry for entry in shape)


def _span(entry: Any) -> Span:
    if isinstance(entry, tuple) and len(entry) in (2, 3):
        name, low, high = (None, *entry) if len(entry) == 2 else entry
        named = name is None if len(entry) == 2 else isinstance(name, str) and name.isidentifier()
        low, top = 0 if low is None else low, math.inf if high is None else high
        if named and _is_size(low) and (high is None or _is_size(high)) and low <= top:
            return Span(name, low, top)
    raise PolicyError(
        f"Array: {shown(entry)} is no range of sizes. "
        'Fix: (1, 512) for 1 to 512 entries, (1, None) for 1 at least, ("tokens", 1, 512) with a name.'
    )


def _is_size(entry: Any) -> bool:
    return isinstance(entry, int) and not isinstance(entry, bool) and entry >= 0


def refuse_impossible(array: Array) -> None:
    """Everything that the declaration alone shows to be wrong.

    Raises:
        PolicyError: It names the setting, its value and the fix.
    """
    if array.dtype is not None:
        normal(array.dtype)
    for name in ("finite", "allow_nan", "unique", "strict"):
        if not isinstance(getattr(array, name), bool):
            raise PolicyError(f"Array: {name} = {shown(getattr(array, name))} must be True or False.")
    _refuse_shape(array)
    _refuse_columns(array)
    _refuse_bounds(array)
    _refuse_values(array)


def has_bound(array: Array) -> bool:
    """Some bound is declared."""
    return any(getattr(array, name) is not None for name in BOUNDS)


def per_column(array: Array) -> bool:
    """Some bound is one a column."""
    return any(isinstance(getattr(array, name), tuple | Mapping) for name in BOUNDS)


def _refuse_shape(array: Array) -> None:
    for entry in array.dimensions:
        named = isinstance(entry, str) and entry.isidentifier()
        if not (named or _is_size(entry) or entry is ... or isinstance(entry, Span)):
            raise PolicyError(
                f"Array: {shown(entry)} is no dimension. Fix: a size, a range such as (1, 512), "
                'a name such as "batch", or ... for any number of them.'
            )
    if array.dimensions.count(...) > 1:
        raise PolicyError(
            f"Array: {shape_text(array.dimensions)} has two ellipses. Fix: keep one, the other is ambiguous."
        )


def _refuse_columns(array: Array) -> None:
    last = array.dimensions[-1] if array.dimensions else None
    if array.columns is not None:
        names = array.columns
        texts = isinstance(names, tuple) and all(isinstance(name, str) for name in names)
        if not texts or len(set(names)) < len(names):
            raise PolicyError(f"{array!r}: columns must be different names. Fix: columns=('age', 'income').")
        if last != len(names):
            raise PolicyError(
                f"{array!r}: columns has {len(names)} names, but the last dimension is {shape_text((last,))}. "
                f'Fix: declare it, such as Array("batch", {len(names)}, columns=...).'
            )
    for name in BOUNDS:
        bound = getattr(array, name)
        if isinstance(bound, Mapping):
            if array.columns is None:
                raise PolicyError(f"{array!r}: {name} names columns. Fix: say which they are, with columns=(...).")
            for key in bound:
                if key not in array.columns:
                    hint = nearest(str(key), array.columns)
                    raise PolicyError(f"{array!r}: {name} has no column {shown(key)}.{hint}")
        elif isinstance(bound, tuple) and last != len(bound):
            raise PolicyError(
                f"{array!r}: {name} has {len(bound)} bounds, but the last dimension is {shape_text((last,))}. "
                "Fix: one bound a column of a last dimension that is a number; None for a column without."
            )


def _refuse_bounds(array: Array) -> None:
    for name in BOUNDS:
        bound = getattr(array, name)
        if isinstance(bound, Mapping):
            bounds = list(bound.values())
        else:
            bounds = [each for each in bound if each is not None] if isinstance(bound, tuple) else [bound]
        if bound is not None and not all(map(_is_number, bounds)):
            raise PolicyError(f"Array: {name} = {shown(bound)} must be a number, or one a column.")
    for one, other in (("ge", "gt"), ("le", "lt")):
        if getattr(array, one) is not None and getattr(array, other) is not None:
            raise PolicyError(f"Array: {one} and {other} are both given. Fix: keep one of them.")
    if array.allow_nan and (array.finite or not (has_bound(array) or array.categories is not None)):
        why = "finite=True refuses NaN" if array.finite else "there is no bound that NaN could pass"
        raise PolicyError(f"{array!r}: allow_nan=True, but {why}. Fix: drop one of them.")
    count = len(array.columns or ()) if per_column(array) and array.columns else 1
    for name in BOUNDS:
        if isinstance(getattr(array, name), tuple):
            count = len(getattr(array, name))
    ge, gt, le, lt = (of_each(getattr(array, name), count, array.columns) for name in BOUNDS)
    for number in range(count):
        low = ge[number] if ge[number] is not None else gt[number]
        high = le[number] if le[number] is not None else lt[number]
        is_open = (gt[number], lt[number]) != (None, None)
        if low is not None and high is not None and (low > high or (low == high and is_open)):
            raise PolicyError(f"{array!r}: no value lies in this range. Fix: swap the bounds or widen them.")


def _is_number(bound: Any) -> bool:
    number = isinstance(bound, int | float | np.integer | np.floating) and not isinstance(bound, bool)
    try:
        return number and not math.isnan(bound)
    except OverflowError:  # 10**400 is nothing that any dtype holds
        return False


def _refuse_values(array: Array) -> None:
    if array.categories is not None:
        sorts = {type(each) if isinstance(each, str | bytes) else float for each in array.categories}
        numbers = all(_is_number(each) for each in array.categories if not isinstance(each, str | bytes))
        if len(sorts) != 1 or not numbers:
            raise PolicyError(
                f"Array: categories = {shown(array.categories)} must be numbers or texts, one at least. "
                "Fix: categories=('EUR', 'USD'); NaN is let pass by allow_nan=True."
            )
        if has_bound(array):
            raise PolicyError(f"{array!r}: categories and bounds are both given. Fix: keep the categories within them.")
    if array.monotonic is not None and array.monotonic not in ORDERS:
        raise PolicyError(
            f"Array: monotonic = {shown(array.monotonic)} is no order.{nearest(str(array.monotonic), ORDERS)} "
            f"Fix: one of {', '.join(ORDERS)}."
        )
    if array.check not in (None, "full", "sample", "metadata"):
        raise PolicyError(f"Array: check = {shown(array.check)} must be 'full', 'sample' or 'metadata'.")
    if array.max_bytes is not None:
        try:
            clock.bytes_of(array.max_bytes)
        except (TypeError, ValueError) as error:
            raise PolicyError(f"Array: max_bytes = {shown(array.max_bytes)}: {error}") from None


def declared_dtype(array: Array, source: Any) -> Any:
    """A dtype, or an abstract type such as np.floating that covers several."""
    given = _dtype_of(source)
    if array.dtype is not None and given is not np.generic and given != normal(array.dtype):
        raise PolicyError(
            f"{array!r}: dtype = {dtype_text(array.dtype)}, but the annotation says {dtype_text(given)}. "
            "Fix: leave out dtype, or annotate a plain np.ndarray."
        )
    expected = given if array.dtype is None else normal(array.dtype)
    kind = _kind_of(expected)
    if kind and kind not in convert.KINDS:
        raise PolicyError(
            f"{array!r}: dtype = {dtype_text(expected)} can't be checked. "
            "Fix: declare a boolean, number, text or time dtype; a structured array as a model with one array a column."
        )
    if kind in ("b", "c", "S", "U", "M", "m") and has_bound(array):
        raise PolicyError(f"{array!r}: {dtype_text(expected)} has no range. Fix: drop ge, gt, le and lt.")
    if kind == "c" and array.monotonic is not None:
        raise PolicyError(f"{array!r}: {dtype_text(expected)} has no order. Fix: drop monotonic.")
    if kind and array.categories is not None:
        first = next(iter(array.categories))
        kinds = "U" if isinstance(first, str) else "S" if isinstance(first, bytes) else "biuf"
        if kind not in kinds:
            raise PolicyError(
                f"{array!r}: categories of type {type(first).__name__} don't fit {dtype_text(expected)}. "
                "Fix: write them as the dtype holds them."
            )
    return expected


def _kind_of(expected: Any) -> str:
    if not isinstance(expected, type):
        return str(expected.kind)
    flexible = {np.str_: "U", np.bytes_: "S", np.datetime64: "M", np.timedelta64: "m", np.complexfloating: "c"}
    return flexible.get(expected, "")


def _dtype_of(source: Any) -> Any:
    source = spelt_out(source)
    if source is np.ndarray:
        return np.generic
    if get_origin(source) is not np.ndarray:
        raise PolicyError(
            f"Array is for NumPy arrays and for sequences, but it annotates {source!r}. "
            'Fix: write Annotated[npt.NDArray[np.float32], Array("batch", 30)] or Annotated[list[str], Array("batch")] '
            "(put `| None` outside of Annotated)."
        )
    given = spelt_out(get_args(source)[1])
    inner = get_args(given)
    if not inner and isinstance(given, type) and issubclass(given, np.generic):
        raise PolicyError(f"Array annotates {source!r}, whose dtype is none. Fix: npt.NDArray[np.{given.__name__}].")
    return normal(inner[0]) if inner else np.generic


def normal(dtype: Any) -> Any:
    """np.float32 as a dtype; abstract types, text of any length and times of any unit stay types.

    Raises:
        PolicyError: It is no dtype, or more than one.
    """
    dtype = spelt_out(dtype)
    if isinstance(dtype, TypeVar):
        if dtype.__constraints__:
            raise _several(dtype)
        return normal(dtype.__bound__ or Any)
    if dtype is Any:
        return np.generic
    origin = get_origin(dtype)
    if origin is Union or isinstance(dtype, UnionType):
        raise _several(dtype)
    if isinstance(origin, type) and issubclass(origin, np.generic):  # np.floating[Any]
        dtype = origin
    if isinstance(dtype, type) and issubclass(dtype, np.generic):
        return dtype if dtype in OPEN or dtype in _ABSTRACT else np.dtype(dtype)
    try:
        found: Any = np.dtype(dtype)
    except (TypeError, ValueError):
        if isinstance(dtype, tuple | list | set | frozenset):
            raise _several(dtype) from None
        raise PolicyError(
            f"Array: dtype = {shown(dtype)} is no NumPy dtype. Fix: such as np.float32 or 'float32'."
        ) from None
    is_open = found.itemsize == 0 or (found.kind in "mM" and np.datetime_data(found)[0] == "generic")
    return found.type if is_open and found.type in OPEN else found  # str, "U" and "M8" say no length and no unit


def _several(dtype: Any) -> PolicyError:
    return PolicyError(
        f"Array: dtype = {shown(dtype)} is more than one. Fix: an abstract one such as np.floating, "
        "or a union of two annotations with an Array each."
    )


def dtype_text(dtype: Any) -> str:
    """A dtype as a message writes it."""
    dtype = normal(dtype)
    if dtype is np.generic:
        return "any dtype"
    if isinstance(dtype, type):
        return str(dtype.__name__)
    if not dtype.isnative or dtype.kind in "OV":
        return str(dtype)
    return str(dtype.name) if dtype.kind not in "US" else str(dtype.str[1:])  # NumPy can't read its own "str96"


def distinct(categories: Collection[Any] | None) -> tuple[Any, ...] | None:
    """The categories as a tuple, each once; a single text is one category, not its letters."""
    if categories is None:
        return None
    if isinstance(categories, str | bytes):
        return (categories,)
    try:
        return tuple(dict.fromkeys(each.item() if isinstance(each, np.generic) else each for each in categories))
    except TypeError:
        raise PolicyError(
            f"Array: categories = {shown(categories)} must be numbers or texts. Fix: categories=('EUR', 'USD')."
        ) from None


_ABSTRACT = (
    np.generic, np.number, np.integer, np.signedinteger, np.unsignedinteger,
    np.inexact, np.floating, np.complexfloating, np.flexible, np.character,
)  # fmt: skip
OPEN = (np.str_, np.bytes_, np.datetime64, np.timedelta64)
"""What has a length or a unit that a declaration may leave open."""
