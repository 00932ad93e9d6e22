"""From lists, or from another dtype, to an array of the declared dtype, where nothing is lost.

`np.asarray(list, dtype=...)` turns None into nan, "1.5" into 1.5 and 1.7 into 1 without a word; here the leaves are
looked at first, and every conversion that could lose something is checked afterwards.
"""

from __future__ import annotations

import math
from itertools import chain
from typing import Any

import numpy as np
from pydantic_core import PydanticCustomError

from mlguard.clock import size_text
from mlguard.validation.limits import too_large

__all__ = ["KINDS", "cast", "from_lists", "is_safe", "probe"]

KINDS = "biufcUSMm"
"""The kinds of dtype an Array may have: no objects, no structures."""

_INT64 = np.dtype(np.int64)
_DEEPEST = 32  # NumPy 1 has no more dimensions
_LARGE = 2**26
_SPARSE = 16
"""Texts whose array would take more than 64 MiB, and 16 times what they take, are refused."""
_LEAVES: dict[str, set[type]] = {
    "b": {bool},
    "i": {bool, int, float},
    "u": {bool, int, float},
    "f": {bool, int, float},
    "c": {bool, int, float, complex},
    "U": {str},
    "S": {bytes},
}


def is_safe(source: np.dtype[Any], target: np.dtype[Any]) -> bool:
    """NumPy's own rule; objects and structures never."""
    if target.kind in "mM" and source.kind != target.kind:  # the least int64 would become NaT
        return False
    if target.kind in "US" and source.kind != target.kind:  # NumPy would write numbers out, and decode bytes
        return False
    return source.kind in KINDS and np.can_cast(source, target, "safe")


def cast(value: np.ndarray[Any, Any], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """A safe cast, refused where it is not: NumPy calls int64 to float64 safe, but 2**53 + 1 does not survive it.

    Nor does the year 9999 survive M8[s] to M8[ns], which only newer versions of NumPy refuse, with an OverflowError.
    """
    if dtype.kind in "mM":
        return _times(value, dtype)
    array = value.astype(dtype)
    if value.dtype.kind in "iu" and value.dtype.itemsize == 8 and dtype.kind in "fc" and value.size:
        _refuse_lost(value, array)
    return array


def _times(value: np.ndarray[Any, Any], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    try:
        array = value.astype(dtype)
        back = array.astype(value.dtype)
    except OverflowError:
        raise _too_large(dtype) from None
    if not np.all((back == value) | (np.isnat(array) & np.isnat(value))):
        raise _too_large(dtype)
    return array


def probe(value: Any) -> tuple[int, ...]:
    """The shape that nested lists seem to have, by their first elements: cheap, before anything is converted."""
    shape: list[int] = []
    while isinstance(value, list | tuple):
        shape.append(len(value))
        if len(shape) > _DEEPEST:
            raise PydanticCustomError("array_depth", "must be nested at most {limit} deep", {"limit": _DEEPEST})
        if not value:
            break
        value = value[0]
    return tuple(shape)


def from_lists(
    value: Any,
    shape: tuple[int, ...],
    dtype: np.dtype[Any] | None,
    *,
    whole: np.dtype[Any] = _INT64,
    most: int | None = None,
) -> np.ndarray[Any, Any]:
    """The array that nested lists of this shape spell.

    Args:
        value: The lists.
        shape: As `probe` found it.
        dtype: What the elements shall be; None: what NumPy infers, or `whole` of integers.
        whole: See `dtype`.
        most: The most bytes that an array of texts may take.
    """
    leaves = _flat(value, shape)
    types = set(map(type, leaves))
    if any(issubclass(kind, np.generic) for kind in types):
        leaves = [leaf.item() if isinstance(leaf, np.generic) else leaf for leaf in leaves]
        types = set(map(type, leaves))
    allowed = _LEAVES.get(dtype.kind, set()) if dtype is not None else _same_sort(types)
    if not types <= allowed:
        raise _wrong_leaf(leaves, allowed, dtype)
    if leaves and types <= {str, bytes}:
        _refuse_long(leaves, dtype, most)
    if dtype is None and not leaves:
        dtype = np.dtype(np.float64)
    return _built(leaves, types, dtype, whole).reshape(shape)


def _flat(value: Any, shape: tuple[int, ...]) -> list[Any]:
    level = value
    for depth, size in enumerate(shape):
        if depth == 0:
            level = list(value)
            continue
        for number, item in enumerate(level):
            if not isinstance(item, list | tuple) or len(item) != size:
                came = f"{len(item)} values" if isinstance(item, list | tuple) else type(item).__qualname__
                raise PydanticCustomError(
                    "array_ragged",
                    "must be nested lists of equal length: list {number} at depth {depth} should have {expected} "
                    "values, got {received}",
                    {"number": number, "depth": depth, "expected": size, "received": came},
                )
        level = list(chain.from_iterable(level))
    return level  # type: ignore[no-any-return]


def _refuse_long(leaves: list[Any], dtype: np.dtype[Any] | None, most: int | None) -> None:
    """NumPy gives every text the room of the longest, so that one long text makes gigabytes of a small request."""
    letter = 4 if isinstance(leaves[0], str) else 1
    longest = max(map(len, leaves))
    nul: Any
    nothing: Any
    nul, nothing = ("\0", "") if letter == 4 else (b"\0", b"")
    if nul in nothing.join(leaves) and any(leaf.endswith(nul) for leaf in leaves):
        raise PydanticCustomError("array_value", "holds a text that ends with NUL, which NumPy drops")
    if dtype is not None and longest * letter > dtype.itemsize:
        raise PydanticCustomError("array_value", "holds text longer than {dtype} keeps", {"dtype": str(dtype)})
    size = longest * letter * len(leaves)
    if most is not None and size > most:
        raise too_large(most, "send fewer rows a call, or raise Array(max_bytes=...)")
    if size > _LARGE and size > _SPARSE * letter * sum(map(len, leaves)):
        raise PydanticCustomError(
            "array_value",
            "would take {bytes} as an array, because every text takes the room of the longest",
            {"bytes": size_text(size), "fix": "declare list[str], or send texts of about one length"},
        )


def _same_sort(types: set[type]) -> set[type]:
    """Without a declared dtype, all leaves must be of one sort, and JSON's numbers are one."""
    sorts: tuple[set[type], ...] = ({bool}, {int, float}, {int, float, complex}, {str}, {bytes})
    for sort in sorts:
        if types <= sort:
            return sort
    return {int, float}


def _built(
    leaves: list[Any], types: set[type], dtype: np.dtype[Any] | None, whole_dtype: np.dtype[Any] = _INT64
) -> np.ndarray[Any, Any]:
    if dtype is None:
        return _inferred(leaves, types, whole_dtype)
    if dtype.kind in "bUS":
        return np.array(leaves, dtype=dtype)
    if dtype.kind in "iu":
        return _integers(leaves, types, dtype)
    whole = [leaf for leaf in leaves if type(leaf) is int] if int in types else []
    with np.errstate(over="ignore"):
        try:
            array = np.array(leaves, dtype=dtype)
        except OverflowError:
            raise _too_large(dtype) from None
    _refuse_overflow(leaves, array, dtype)
    if whole:
        limit = 2 ** (np.finfo(dtype).nmant + 1)
        if max(whole) > limit or min(whole) < -limit:
            _refuse_rounded(leaves, array, dtype)
    return array


def _inferred(leaves: list[Any], types: set[type], whole: np.dtype[Any]) -> np.ndarray[Any, Any]:
    if float in types or complex in types:
        return _built(leaves, types, np.dtype(np.complex128 if complex in types or whole.kind == "c" else np.float64))
    if types == {int}:
        return _built(leaves, types, whole)
    return np.array(leaves)


def _integers(leaves: list[Any], types: set[type], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    if float in types:
        for number, leaf in enumerate(leaves):
            if type(leaf) is float and not leaf.is_integer():
                raise PydanticCustomError(
                    "array_value",
                    "value {number} is no whole number, but the dtype is {dtype}",
                    {"number": number, "dtype": dtype.name},
                )
        leaves = [int(leaf) for leaf in leaves]
    limits = np.iinfo(dtype)
    if leaves and (max(leaves) > limits.max or min(leaves) < limits.min):
        raise _too_large(dtype)
    return np.array(leaves, dtype=dtype)


def _refuse_overflow(leaves: list[Any], array: np.ndarray[Any, Any], dtype: np.dtype[Any]) -> None:
    """An infinity is fine where the list had it."""
    if dtype.itemsize < (16 if dtype.kind == "c" else 8):
        lost = np.flatnonzero(np.isinf(array))
        for index in lost:
            leaf, kept = complex(leaves[index]), complex(array[index])
            if abs(leaf.real) != abs(kept.real) == math.inf or abs(leaf.imag) != abs(kept.imag) == math.inf:
                raise _too_large(dtype)


def _refuse_rounded(leaves: list[Any], array: np.ndarray[Any, Any], dtype: np.dtype[Any]) -> None:
    for number, (leaf, kept) in enumerate(zip(leaves, array.tolist(), strict=True)):
        if type(leaf) is int and kept != leaf:
            raise PydanticCustomError(
                "array_value",
                "value {number} is a whole number that {dtype} can't hold exactly",
                {"number": number, "dtype": dtype.name, "fix": "declare float64 or int64"},
            )


def _refuse_lost(value: np.ndarray[Any, Any], array: np.ndarray[Any, Any]) -> None:
    limit = 2**53
    if int(value.max()) <= limit and int(value.min()) >= -limit:
        return
    pairs = zip(value.ravel().tolist(), array.ravel().tolist(), strict=True)
    lost = sum(int(kept.real) != whole for whole, kept in pairs)
    if lost:
        raise PydanticCustomError(
            "array_value",
            "holds {count} whole numbers of dtype {received} that {dtype} can't hold exactly",
            {
                "count": lost,
                "received": value.dtype.name,
                "dtype": array.dtype.name,
                "fix": "declare int64, or cast it where rounding is meant",
            },
        )


def _wrong_leaf(leaves: list[Any], allowed: set[type], dtype: np.dtype[Any] | None) -> PydanticCustomError:
    number, leaf = next((number, leaf) for number, leaf in enumerate(leaves) if type(leaf) not in allowed)
    fix = "stack the arrays first, with np.stack(...)" if isinstance(leaf, np.ndarray) else None
    if leaf is None:
        fix = "write a missing value as NaN where the schema allows it"
    wanted = dtype.name if dtype is not None else "one sort"
    figures = {"dtype": wanted, "number": number, "received": type(leaf).__qualname__}
    text = "must hold values of {dtype}; value {number} is a {received}"
    return PydanticCustomError("array_value", text, {**figures, "fix": fix} if fix else figures)


def _too_large(dtype: np.dtype[Any]) -> PydanticCustomError:
    return PydanticCustomError("array_value", "holds a number beyond the range of {dtype}", {"dtype": dtype.name})
