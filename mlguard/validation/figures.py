"""Are all values finite and in range? Two reductions with no temporary; a thorough look only after a failure.

NaN propagates through np.minimum and np.maximum, so that one comparison with each bound finds it; np.fmin and np.fmax
pass over it where it is allowed. Large arrays are looked at in blocks that stay in the cache: one pass over memory, and
an early end. Blocks of floats are first compared as the integers their bits spell, which is faster: those of positive
floats are in the floats' order, infinity and NaN above them, and a sign makes a signed integer negative and an unsigned
one large. What that does not settle (a NaN that is allowed, -0.0 at a bound of 0) the floats themselves do.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from pydantic_core import PydanticCustomError

__all__ = ["Bounds", "first_of"]

_BLOCK = 5 * 2**17
"""Bytes per block: fits the 1 MiB level 2 cache of common servers, and outweighs the fixed cost of NumPy's calls."""
_SMALL = 2**15
"""Up to so many values, argmin and argmax beat the reductions, whose fixed cost is higher."""


class Bounds:
    """Raises ``array_not_finite``, ``array_nan`` or ``array_range`` where an array has values out of bounds."""

    def __init__(
        self,
        ge: float | None,
        gt: float | None,
        le: float | None,
        lt: float | None,
        *,
        finite: bool,
        allow_nan: bool = False,
    ) -> None:
        self.finite = finite
        self.allow_nan = allow_nan
        self._low = ge if ge is not None else gt
        self._high = le if le is not None else lt
        self._open = (gt is not None, lt is not None)
        self._ends: dict[np.dtype[Any], tuple[Any, Any]] = {}
        """The least and greatest value allowed, by dtype; what is compared is then always closed."""
        self._latest: tuple[Any, Any, Any] = (None, None, None)
        """The dtype that came last and its ends: most arrays are of one, and a dtype's hash takes its time."""

    def __call__(self, x: np.ndarray[Any, Any]) -> None:
        size = x.size
        if not size:
            return
        dtype, low, high = self._latest
        if x.dtype is not dtype:
            dtype = x.dtype
            low, high = self._ends.get(dtype) or self.ends_of(dtype)
            self._latest = dtype, low, high
        if size <= _SMALL and not self.allow_nan and dtype.kind in "fiub":
            # where the least and the greatest are, argmin and argmax know at a fraction of a reduction's fixed cost
            good = low <= x.item(_argmin(x)) and x.item(_argmax(x)) <= high
        elif dtype.kind in "iu" and self._low is None and self._high is None:
            return
        elif dtype.kind in "fiub":
            good = _within(x, low, high, finite=not self.allow_nan)
        else:
            good = False  # complex numbers, times and text: the thorough look is the only one
        if not good:
            self._refuse(x, low, high)

    def ends_of(self, dtype: np.dtype[Any]) -> tuple[Any, Any]:
        """The least and the greatest value allowed, as the dtype compares them."""
        if dtype.kind not in "fiub":
            if (self._low, self._high) != (None, None):
                raise PydanticCustomError("array_dtype", "must be a number, got {received}", {"received": dtype.name})
            ends: tuple[Any, Any] = (None, None)
        else:
            ends = (_end(self._low, dtype, -math.inf, self._open[0]), _end(self._high, dtype, math.inf, self._open[1]))
            if self.finite and dtype.kind == "f":
                largest = float(np.finfo(dtype).max)
                ends = (max(ends[0], -largest), min(ends[1], largest))
        self._ends[dtype] = ends
        return ends

    def _refuse(self, x: np.ndarray[Any, Any], low: Any, high: Any) -> None:
        if self.finite and x.dtype.kind in "fcMm":
            bad = ~np.isfinite(x)
            if bad.any():
                raise PydanticCustomError(
                    "array_not_finite",
                    "must be finite: {count} of {size} values are not, the first at {first}",
                    {"count": int(bad.sum()), "size": x.size, "first": first_of(bad)},
                )
        if low is None:
            return
        if x.dtype.kind == "f" and not self.allow_nan and (bad := np.isnan(x)).any():
            raise PydanticCustomError(
                "array_nan",
                "must be {expected}: {count} of {size} values are NaN, the first at {first}",
                {
                    "expected": self._text(),
                    "count": int(bad.sum()),
                    "size": x.size,
                    "first": first_of(bad),
                    "fix": "fill them in, or declare allow_nan=True where NaN spells a missing value",
                },
            )
        bad = (x < low) | (x > high)
        if not bad.any():
            return  # NaN, where it is allowed
        values = x[~np.isnan(x)] if x.dtype.kind == "f" else x
        raise PydanticCustomError(
            "array_range",
            "must be {expected}: {count} of {size} values are not, the first at {first}; min {min}, max {max}",
            {
                "expected": self._text(),
                "count": int(bad.sum()),
                "size": x.size,
                "first": first_of(bad),
                "min": _figure(values.min()),
                "max": _figure(values.max()),
            },
        )

    def _text(self) -> str:
        low = None if self._low is None else f"{'>' if self._open[0] else '>='} {self._low}"
        high = None if self._high is None else f"{'<' if self._open[1] else '<='} {self._high}"
        return " and ".join(part for part in (low, high) if part)


def _end(bound: float | None, dtype: np.dtype[Any], otherwise: float, exclusive: bool) -> Any:
    """A bound as the dtype compares it: rounded for floats, as NumPy does; the nearest inside where it is open."""
    if bound is None:
        return otherwise
    if dtype.kind != "f":
        if math.isinf(bound):
            return bound
        if otherwise < 0:
            return math.floor(bound) + 1 if exclusive else math.ceil(bound)
        return math.ceil(bound) - 1 if exclusive else math.floor(bound)
    with np.errstate(over="ignore"):
        rounded = dtype.type(bound)
    if np.isinf(rounded) and not math.isinf(bound):
        largest = float(np.finfo(dtype).max)  # beyond the dtype: at most infinities lie on the other side
        return (math.inf if bound > 0 else -largest) if otherwise < 0 else (largest if bound > 0 else -math.inf)
    inside = np.nextafter(rounded, dtype.type(-otherwise)) if exclusive else rounded
    return inside if dtype.itemsize > 8 else float(inside)


def _within(x: np.ndarray[Any, Any], low: Any, high: Any, *, finite: bool) -> bool:
    least, greatest = (np.minimum.reduce, np.maximum.reduce) if finite else (np.fmin.reduce, np.fmax.reduce)
    if x.nbytes <= _BLOCK:
        return bool(low <= least(x, axis=None).item() and greatest(x, axis=None).item() <= high)
    if x.flags.f_contiguous:
        x = x.T
    if x.flags.c_contiguous:
        x = x.reshape(-1)
    step = max(1, _BLOCK * len(x) // x.nbytes)
    bits = _bits_of(x, low, high) if x.dtype.kind == "f" and x.ndim == 1 else None
    for start in range(0, len(x), step):
        if bits is not None and all(_greatest(ints[start : start + step]) <= most for ints, most in bits):
            continue
        part = x[start : start + step]
        if not (low <= least(part, axis=None).item() and greatest(part, axis=None).item() <= high):
            return False
    return True


def _bits_of(x: np.ndarray[Any, Any], low: Any, high: Any) -> list[tuple[np.ndarray[Any, Any], int]] | None:
    """The floats as the integers their bits spell, and the greatest of those within a range around 0."""
    if not (low <= 0 <= high and x.dtype.isnative and x.dtype.itemsize <= 8 and x.flags.c_contiguous):
        return None
    size = x.dtype.itemsize
    signed, unsigned = x.view(f"i{size}"), x.view(f"u{size}")
    largest = float(np.finfo(x.dtype).max)
    highest = int(x.dtype.type(high if high <= largest else np.inf).view(f"i{size}"))
    if low == 0:
        return [(unsigned, highest)]
    lowest = int(x.dtype.type(low if low >= -largest else -np.inf).view(f"u{size}"))
    return [(signed, highest), (unsigned, lowest)]


_argmin, _argmax, _greatest = np.ndarray.argmin, np.ndarray.argmax, np.maximum.reduce


def first_of(bad: np.ndarray[Any, Any]) -> str:
    """The index of the first True, as Python writes it."""
    index = np.unravel_index(int(bad.argmax()), bad.shape)
    return str([int(part) for part in index])


def _figure(value: Any) -> Any:
    number = value.item()
    return number if isinstance(number, int) or math.isfinite(number) else str(number)
