"""Counts at run time: one field's, or those of all columns of an array at once.

There is no lock around the counts of a single field: CPython switches threads only at calls and backward jumps, and no
statement that changes a count contains either. Those of an array are NumPy's, which have one.
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import numpy as np

from mlguard.drift.columns import series
from mlguard.drift.reference import FieldReference

__all__ = ["Look", "Matrix", "Tally", "in_words", "spread"]

MOST_VALUES: Final = 8_192
"""Values of one array that a call's look costs at most: about a fifth of a millisecond."""

_FEW: Final = 320  # values up to which Python's own bisect beats the fixed costs of numpy
_UNUSUAL: Final = 0.01
"""The share of missing values from which a single one is nothing unusual."""


Look: TypeAlias = list[tuple[FieldReference, int, int, int]]
"""What one call's values had in them that training never saw: field, cell, how many rows, of how many."""


def in_words(odd: tuple[FieldReference, int, int, int]) -> str:
    """For the event: never with a value of the call."""
    field, cell, number, rows = odd
    label = field.bins.labels[cell]
    length = " by its length" if field.kind == "length" and cell < len(field.counts) - 2 else ""
    where = "" if rows == 1 else f" in {number:,} of {rows:,} rows"
    gone = cell == len(field.counts) - 1
    usual = f" (training: {field.missing:.2%})" if gone and field.missing else ""
    return f"{field.name} {label}{length}{where}{usual}"


class Tally:
    """One field."""

    __slots__ = ("counts", "field", "missing", "odd", "quick")

    def __init__(self, field: FieldReference) -> None:
        self.field = field
        self.quick = field.bins.quick
        self.missing = len(field.counts) - 1
        self.odd = (*field.bins.odd[:-1], field.missing <= _UNUSUAL)
        self.reset()

    def reset(self) -> None:
        self.counts = [0] * len(self.field.counts)

    def one(self, value: Any, look: Look) -> None:
        cell = self.field.bins.cell(value)
        self.counts[cell] += 1
        if self.odd[cell]:
            look.append((self.field, cell, 1, 1))

    def many(self, values: Any, look: Look) -> None:
        """One value a row; those to look at, no more."""
        there = series(values)
        found = self.field.bins.count(there)
        counts = self.counts
        for cell, number in enumerate(found):
            if number:
                counts[cell] += number
        _note_odd(self.field, found, len(there), look)

    def none(self, rows: int, look: Look) -> None:
        """Rows that lack the field."""
        self.counts[self.missing] += rows
        if _too_many(rows, rows, self.field.missing):
            look.append((self.field, self.missing, rows, rows))


class Matrix:
    """Columns of numbers of one array, in order."""

    def __init__(self, fields: Sequence[FieldReference]) -> None:
        self.fields = tuple(fields)
        sizes = [len(field.counts) for field in fields]
        starts = np.cumsum([0, *sizes])
        self._starts, self._sizes = starts[:-1], sizes
        self._missing = np.array([size - 1 for size in sizes])
        ladders: list[list[float]] = [field.bins.edges for field in fields]  # type: ignore[attr-defined]
        self._few = [*zip(self._starts.tolist(), ladders, strict=True)]
        steps = max(map(len, ladders))
        padded = [[*edges, *(math.inf for _ in range(steps - len(edges)))] for edges in ladders]
        self._edges = np.array(padded).T.copy()
        self._odd = np.concatenate([[*field.bins.odd[:-1], True] for field in fields])
        self._lock = threading.RLock()  # a signal handler may make a guarded call
        self.reset()

    def reset(self) -> None:
        self._flat = np.zeros(sum(self._sizes), dtype=np.int64)

    def tables(self) -> list[list[int]]:
        """The counts of each field."""
        flat = self._flat.tolist()
        return [flat[start : start + size] for start, size in zip(self._starts.tolist(), self._sizes, strict=True)]

    def many(self, rows: np.ndarray[Any, Any], look: Look) -> None:
        """Rows of numbers, those to look at, no more."""
        nan = np.isnan(rows) if rows.dtype.kind == "f" else None
        nan = nan if nan is not None and nan.any() else None
        if rows.size <= _FEW and nan is None:
            flat: Any = [
                start + bisect_left(edges, value)
                for row in rows.tolist()
                for (start, edges), value in zip(self._few, row, strict=True)
            ]
        else:
            cells = np.zeros(rows.shape, dtype=np.int64)
            for edges in self._edges:
                cells += rows > edges
            if nan is not None:
                cells = np.where(nan, self._missing, cells)
            flat = (cells + self._starts).ravel()
        found = np.bincount(flat, minlength=len(self._flat))
        with self._lock:
            self._flat += found
        if (found[self._odd] > 0).any():
            for field, start, size in zip(self.fields, self._starts.tolist(), self._sizes, strict=True):
                _note_odd(field, found[start : start + size].tolist(), len(rows), look)


def spread(values: Any, rows: int, most: int) -> Any:
    """At most so many rows, evenly spread over the batch; a view where slices are views."""
    step = -(-rows // most)
    return values if step <= 1 else values[::step]


def _note_odd(field: FieldReference, found: Sequence[int], rows: int, look: Look) -> None:
    for cell, odd in enumerate(field.bins.odd):
        if odd and found[cell]:
            look.append((field, cell, found[cell], rows))
    if found[-1] and _too_many(found[-1], rows, field.missing):
        look.append((field, len(found) - 1, found[-1], rows))


def _too_many(missing: int, rows: int, share: float) -> bool:
    """More than four standard deviations of a Poisson variable above what training leads one to expect."""
    expected = rows * share
    return missing > expected + 4 * math.sqrt(expected) + (share > _UNUSUAL)
