"""Bins: which cell of a field's table of counts a value belongs to. Fixed at training, the same ever after.

A field of numbers has the cells ``below, in 1 ... in B, above, wrong, missing``, where *below* and *above* lie outside
the trained range and *wrong* is a value of another kind. A field of categories has
``category 1 ... category K, rare, unseen, missing``: the most frequent ones, the others known, and the rest. What
counts is only ever the cell, so that a value is forgotten the moment it is seen.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Final, Literal, Protocol

import numpy as np

__all__ = ["Bins", "Categories", "Lengths", "Numbers", "absent", "kind_of", "number_edges"]

DISTINCT: Final = 20
"""Up to as many different numbers each have a cell of their own: counts, ratings, pixels of few levels."""


class Bins(Protocol):
    """The cells of one field. The last cell is always for what is missing."""

    labels: tuple[str, ...]
    """What a person calls each cell."""
    odd: tuple[bool, ...]
    """True for the cells in which a value is an anomaly by itself."""
    quick: Callable[[Any], int | None]
    """The cell of an ordinary value, in half the time. Where it says None, an odd cell or raises, ask `cell`."""

    def cell(self, value: Any) -> int:
        """The cell of one value, whatever it is."""
        ...

    def count(self, values: Sequence[Any]) -> list[int]:
        """How many of the values fall into each cell."""
        ...


class Numbers:
    """Cells between edges; each holds its upper edge, and the first its lower one as well.

    Args:
        edges: Ascending, from the least trained value to the greatest. The least may stand there twice: then it has a
            cell of its own.
    """

    def __init__(self, edges: Sequence[float]) -> None:
        # One step below the least value, so that it belongs to the first cell like the other ends to theirs.
        self.edges = [math.nextafter(edges[0], -math.inf), *edges[1:]]
        self._array = np.array(self.edges)
        self.quick: Callable[[Any], int | None] = partial(bisect_left, self.edges)  # NaN looks as if it were below
        self.wrong = len(self.edges) + 1
        self.missing = self.wrong + 1
        self.labels = _number_labels(edges)
        self.odd = (True, *(False for _ in self.edges[1:]), True, True, False)

    def cell(self, value: Any) -> int:
        try:
            return bisect_left(self.edges, value) if value == value else self.missing
        except Exception:  # the value's own comparison, which can do anything
            return self.missing if absent(value) else self.wrong

    def count(self, values: Sequence[Any]) -> list[int]:
        found = [0] * (self.missing + 1)
        if isinstance(values, np.ndarray) and values.dtype.kind in "biuf":
            cells = self._array.searchsorted(values.ravel(), side="left")
            if values.dtype.kind == "f":
                cells[np.isnan(values.ravel())] = self.missing
            return [int(number) for number in np.bincount(cells, minlength=len(found))]
        for value in _plain(values):
            found[self.cell(value)] += 1
        return found


class Lengths(Numbers):
    """Cells of texts by how long they are."""

    def __init__(self, edges: Sequence[float]) -> None:
        super().__init__(edges)
        self.quick = self.cell

    def cell(self, value: Any) -> int:
        return super().cell(len(value)) if isinstance(value, str) else self.missing if absent(value) else self.wrong

    def count(self, values: Sequence[Any]) -> list[int]:
        found = [0] * (self.missing + 1)
        for value in _plain(values):
            found[self.cell(value)] += 1
        return found


class Categories:
    """A cell for each of the categories, one for the other known ones, one for those nobody has seen.

    Args:
        categories: Those with a cell of their own.
        rare: Those known beside them.
        open_ended: New ones are to be expected (there were too many to list), so that they count as rare.
    """

    def __init__(self, categories: Sequence[Any], rare: Iterable[Any] = (), *, open_ended: bool = False) -> None:
        others = len(categories)
        self.unseen = others if open_ended else others + 1
        self.missing = others + 2
        self._cells = {value: number for number, value in enumerate(categories)} | dict.fromkeys(rare, others)
        self.quick: Callable[[Any], int | None] = self._cells.get
        self.labels = (*(_short(value) for value in categories), "rare", "unseen", "missing")
        self.odd = (*(False for _ in categories), False, not open_ended, False)

    def cell(self, value: Any) -> int:
        try:
            cell = self._cells.get(value)
        except TypeError:  # a list, which is in no way one of the categories
            return self.unseen
        if cell is not None:
            return cell
        if absent(value):
            return self.missing
        inner = getattr(value, "value", None)  # a member of an Enum stands for its value
        return self._cells.get(inner, self.unseen) if isinstance(inner, str | int | float) else self.unseen

    def count(self, values: Sequence[Any]) -> list[int]:
        found = [0] * (self.missing + 1)
        for value in _plain(values):
            found[self.cell(value)] += 1
        return found


def number_edges(values: np.ndarray[Any, Any], bins: int) -> list[float]:
    """Edges for numbers without NaN or infinities: each value's own where they are few, otherwise quantiles.

    Quantiles, because bins of equal width put a long tail into one bin and everything else into another, and then see
    nothing (a lognormal variable scaled by 1.5 has a PSI of 0.07 over ten equal bins and over 0.1 over ten quantiles).
    """
    distinct = np.unique(values)
    if len(distinct) <= DISTINCT:
        edges, own = distinct, True
    else:
        quantiles = np.quantile(values, np.linspace(0, 1, bins + 1), method="inverted_cdf")
        edges, own = np.unique(quantiles), bool(quantiles[0] == quantiles[1])
    least = [float(edges[0])] if own else []
    return [*least, *(float(edge) for edge in edges)]


def absent(value: Any) -> bool:
    """None, NaN, and the marks of pandas for the same; recognised without importing it."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    try:
        return bool(value != value)
    except Exception:  # the value's own comparison
        return False


def kind_of(value: Any) -> Literal["number", "text", "category", "other"] | None:
    """What a single value is by itself; None: it is absent."""
    if isinstance(value, str):  # half of a surrogate pair can't be saved
        return "text" if value.isascii() or value.encode("utf-8", "ignore").decode() == value else "other"
    if isinstance(value, bool | np.bool_):
        return "category"
    if absent(value):
        return None
    if isinstance(value, int | float | np.integer | np.floating):
        return "number"
    inner = getattr(value, "value", None)
    return "category" if isinstance(inner, str | int) and hasattr(type(value), "__members__") else "other"


def _plain(values: Sequence[Any]) -> Iterable[Any]:
    return values.tolist() if isinstance(values, np.ndarray) else values


def _number_labels(edges: Sequence[float]) -> tuple[str, ...]:
    steps = edges[0] == edges[1] and all(after - before == 1 for before, after in pairwise(edges[1:]))
    between = []
    for number, (low, high) in enumerate(pairwise(edges)):
        if low == high or steps:
            between.append(f"{high:.6g}")
        else:
            between.append(f"{'(' if number else '['}{low:.4g}, {high:.4g}]")
    return (f"below {edges[0]:.6g}", *between, f"above {edges[-1]:.6g}", "wrong kind", "missing")


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:39] + "…"
