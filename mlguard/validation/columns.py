"""Bounds of each column on its own: of the entries along the last dimension, by number or by name.

One reduction along the other dimensions gives the least and the greatest of every column at once; a column that is out
of its bounds is then looked at alone, as `figures.py` does it, and has a violation of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import le
from typing import Any, TypeAlias

import numpy as np
from pydantic_core import InitErrorDetails, PydanticCustomError, ValidationError

from mlguard.validation.figures import Bounds

__all__ = ["Bound", "Columns", "Named", "of_each"]

Bound: TypeAlias = float | Sequence[float | None] | Mapping[str, float] | None
"""One for all values, one a column in their order (None: none for this one), or some by the columns' names."""
_LONG = 2**12
"""So many values make a row that is long enough for NumPy."""
_MOST = 20
"""So many columns are told, the rest is counted."""


def of_each(bound: Bound, count: int, names: Sequence[str] | None) -> list[Any]:
    """The bound of every column, None where it has none."""
    if isinstance(bound, Mapping):
        return [bound.get(name) for name in names or ()]
    return list(bound) if isinstance(bound, tuple) else [bound] * count


class Columns:
    """Raises one violation a column that is out of its bounds.

    Args:
        bounds: The bounds of each column; None: anything goes, NaN too.
        names: What an error calls the columns; None: their numbers.
    """

    def __init__(self, bounds: Sequence[Bounds | None], names: Sequence[str] | None) -> None:
        self._bounds = [(number, each) for number, each in enumerate(bounds) if each is not None]
        self._names = names or [f"column {number}" for number in range(len(bounds))]
        numbers = [number for number, _ in self._bounds]
        self._picked: Any = None if len(numbers) == len(bounds) else numbers
        nan_passes = any(each.allow_nan for _, each in self._bounds)
        self._least: np.ufunc = np.fmin if nan_passes else np.minimum
        self._most: np.ufunc = np.fmax if nan_passes else np.maximum
        self._ends: dict[np.dtype[Any], tuple[list[Any], list[Any]]] = {}

    def __call__(self, x: np.ndarray[Any, Any]) -> None:
        if not x.size:
            return
        if x.dtype.kind in "fiub":
            lows, highs = self._ends.get(x.dtype) or self._ends_of(x.dtype)
            rows = x.reshape(-1, x.shape[-1])
            if self._picked is not None:
                rows = rows[:, self._picked]
            if len(rows) == 1:
                least = most = rows[0].tolist()
            else:
                least, most = _of_columns(self._least, rows), _of_columns(self._most, rows)
            if all(map(le, lows, least)) and all(map(le, most, highs)):
                return
        self._refuse(x)

    def _ends_of(self, dtype: np.dtype[Any]) -> tuple[list[Any], list[Any]]:
        ends = [bounds.ends_of(dtype) for _, bounds in self._bounds]
        self._ends[dtype] = found = ([low for low, _ in ends], [high for _, high in ends])
        return found

    def _refuse(self, x: np.ndarray[Any, Any]) -> None:
        found: list[InitErrorDetails] = []
        more = 0
        for number, bounds in self._bounds:
            try:
                bounds(x[..., number])
            except PydanticCustomError as error:
                if len(found) == _MOST:
                    more += 1
                else:
                    found.append({"type": _placed(error, number), "loc": (self._names[number],), "input": None})
        if more:
            rest = PydanticCustomError("array_columns", "{count} more columns are out of their bounds", {"count": more})
            found.append({"type": rest, "loc": (), "input": None})
        if found:
            raise ValidationError.from_exception_data("array", found, hide_input=True)


class Named:
    """One bound for all values of columns with names: judged all at once, and told column by column.

    Args:
        bounds: What all values must meet.
        columns: The same, of each column.
    """

    def __init__(self, bounds: Bounds, columns: Columns) -> None:
        self._bounds = bounds
        self._columns = columns

    def __call__(self, x: np.ndarray[Any, Any]) -> None:
        try:
            self._bounds(x)
        except PydanticCustomError:
            self._columns(x)
            raise


def _of_columns(what: np.ufunc, rows: np.ndarray[Any, Any]) -> list[Any]:
    """A reduction of every column. NumPy is slow where rows are short, so that many are taken as one long row first."""
    count, width = rows.shape
    together = min(count // 8, _LONG // max(1, width))
    if together > 1 and rows.flags.c_contiguous:
        whole = count - count % together
        many = what.reduce(rows[:whole].reshape(-1, together * width), axis=0).reshape(together, width)
        rows = np.concatenate([many, rows[whole:]])
    return what.reduce(rows, axis=0).tolist()  # type: ignore[no-any-return]


def _placed(error: PydanticCustomError, number: int) -> PydanticCustomError:
    """The same error with the place of its first value in the whole array."""
    context: dict[str, Any] = dict(error.context or {})
    if "first" in context:
        rest = context["first"][1:-1]
        context["first"] = f"[{rest}, {number}]" if rest else f"[{number}]"
    kind: Any = error.type
    template: Any = error.message_template
    return PydanticCustomError(kind, template, context)
