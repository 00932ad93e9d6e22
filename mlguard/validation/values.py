"""What the values of an array must be: within bounds, of given categories, in order, each there once.

Each check is a callable that raises pydantic's custom error; on a good array it does the least that settles it, and
looks for counts and places only after a failure. Bounds have their own files, `figures.py` and `columns.py`; how many
of the values are looked at is decided in `depth.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
from pydantic_core import PydanticCustomError, ValidationError

from mlguard.validation.depth import SAMPLE, Depth, current, sample_of
from mlguard.validation.figures import first_of

__all__ = ["ORDERS", "Categories", "Monotonic", "Unique", "Values"]

_Check = Callable[[np.ndarray[Any, Any]], None]
_FEW = 256
"""Up to so many values, Python's sets beat the fixed cost of NumPy's sorting."""
_SHOWN = 10
ORDERS: dict[str, Any] = {
    "increasing": np.greater_equal,
    "strictly_increasing": np.greater,
    "decreasing": np.less_equal,
    "strictly_decreasing": np.less,
}
"""What each value must be to the one before it."""


class Values:
    """All checks of the values of one array.

    Args:
        checks: In the order they are made.
        depth: What the field says; None: what the policy says.
        whole_rows: The last dimension stays whole in a sample.
    """

    def __init__(self, checks: Sequence[_Check], depth: Depth | None, *, whole_rows: bool = False) -> None:
        self._first, self._rest = checks[0], tuple(checks[1:])
        self._depth = depth
        self._whole_rows = whole_rows

    def __call__(self, x: np.ndarray[Any, Any]) -> None:
        if type(x) is not np.ndarray:
            x = np.asarray(x)  # a subclass may have answers of its own to min() and the rest
        depth = self._depth or current.get()
        if depth != "full":
            if depth == "metadata":
                return
            if x.size > SAMPLE and self._fit(sample_of(x, whole_rows=self._whole_rows)):
                return
        self._first(x)
        for check in self._rest:
            check(x)

    def _fit(self, sample: np.ndarray[Any, Any]) -> bool:
        """Where a value of the sample is bad, the whole array is looked at, for the counts and places of the error."""
        try:
            self._first(sample)
            for check in self._rest:
                check(sample)
        except (PydanticCustomError, ValidationError):
            return False
        return True


class Categories:
    """Raises ``array_category`` where a value is none of those allowed."""

    def __init__(self, allowed: Collection[Any], *, allow_nan: bool) -> None:
        self._allowed = tuple(allowed)
        self._allow_nan = allow_nan
        self._text = isinstance(self._allowed[0], str | bytes)
        self._by_dtype: dict[np.dtype[Any], tuple[np.ndarray[Any, Any], frozenset[Any]]] = {}

    def __call__(self, x: np.ndarray[Any, Any]) -> None:
        if not x.size:
            return
        array, values = self._by_dtype.get(x.dtype) or self._of(x.dtype)
        if x.size <= _FEW or self._text:
            if set(x.ravel().tolist()) <= values:
                return
            bad = ~np.isin(x, array)
        else:
            bad = ~np.isin(x, array)
        if self._allow_nan and x.dtype.kind == "f":
            bad &= ~np.isnan(x)
        if bad.any():
            raise PydanticCustomError(
                "array_category",
                "must be {expected}: {count} of {size} values are not, the first at {first}",
                {"expected": self._words(), "count": int(bad.sum()), "size": x.size, "first": first_of(bad)},
            )

    def _of(self, dtype: np.dtype[Any]) -> tuple[np.ndarray[Any, Any], frozenset[Any]]:
        """What is allowed, as the dtype spells it: 0.1 is the float32 nearest to it, 300 is no uint8."""
        kinds = ("S" if isinstance(self._allowed[0], bytes) else "U") if self._text else "biuf"
        if dtype.kind not in kinds:
            wanted = "text" if self._text else "numbers"
            raise PydanticCustomError(
                "array_dtype", "must hold {expected}, got {received}", {"expected": wanted, "received": dtype.name}
            )
        kept: list[Any] = list(self._allowed)
        if dtype.kind in "iu":
            limits = np.iinfo(dtype)
            kept = [int(each) for each in kept if limits.min <= each <= limits.max and each == math.floor(each)]
        elif dtype.kind == "b":
            kept = [bool(each) for each in kept if each in (0, 1)]
        elif dtype.kind == "f":  # 1e6 is no float16, and least of all its infinity
            largest = float(np.finfo(dtype).max)
            kept = [each for each in kept if abs(each) <= largest or math.isinf(each)]
        array = np.array(kept, dtype=dtype.kind if self._text else dtype)
        self._by_dtype[dtype] = found = (array, frozenset(array.tolist()))
        return found

    def _words(self) -> str:
        shown = ", ".join(repr(each) for each in self._allowed[:_SHOWN])
        more = len(self._allowed) - _SHOWN
        return f"one of {shown}" + (f" and {more} more" if more > 0 else "")


class Monotonic:
    """Raises ``array_order`` where a value does not follow the one before it, along the last dimension."""

    def __init__(self, order: str) -> None:
        self._order = order

    def __call__(self, x: np.ndarray[Any, Any]) -> None:
        if x.ndim == 0 or x.shape[-1] < 2:
            return
        good = ORDERS[self._order](x[..., 1:], x[..., :-1])
        if not good.all():
            bad = np.zeros(x.shape, bool)
            bad[..., 1:] = ~good
            raise PydanticCustomError(
                "array_order",
                "must be {expected} along its last dimension: {count} of {size} values break the order, "
                "the first at {first}",
                {
                    "expected": self._order.replace("_", " "),
                    "count": int(bad.sum()),
                    "size": x.size,
                    "first": first_of(bad),
                },
            )


class Unique:
    """Raises ``array_duplicate`` where a value is there twice; NaN counts as one value."""

    def __call__(self, x: np.ndarray[Any, Any]) -> None:
        if x.size < 2 or self._all_differ(x):
            return
        flat = x.ravel()
        order = np.argsort(flat, kind="stable")
        again = np.zeros(flat.shape, bool)
        ordered = flat[order]
        same = ordered[1:] == ordered[:-1]
        if flat.dtype.kind in "fcMm":
            same |= _missing(ordered[1:]) & _missing(ordered[:-1])
        again[order[1:]] = same
        bad = again.reshape(x.shape)
        raise PydanticCustomError(
            "array_duplicate",
            "must hold no value twice: {count} of {size} values were there before, the first at {first}",
            {"count": int(bad.sum()), "size": x.size, "first": first_of(bad)},
        )

    def _all_differ(self, x: np.ndarray[Any, Any]) -> bool:
        kind = x.dtype.kind
        if kind in "fcMm":
            missing = _missing(x)
            count = int(missing.sum())
            if count > 1:
                return False
            if count:
                x = x[~missing]
        if x.size <= _FEW or kind in "US":
            return len(set(x.ravel().tolist())) == x.size
        ordered = np.sort(x, axis=None)
        return not (ordered[1:] == ordered[:-1]).any()


def _missing(x: np.ndarray[Any, Any]) -> Any:
    return np.isnat(x) if x.dtype.kind in "Mm" else np.isnan(x)
