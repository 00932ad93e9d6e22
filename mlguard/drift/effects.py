"""How far two distributions over the same cells are apart: the figures a person reads beside a p-value.

A p-value says whether a difference is real, these say whether it is large. All take counts, reference first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

__all__ = ["SMOOTH", "jensen_shannon", "population_stability", "shares_of", "wasserstein"]

SMOOTH: Final = 0.5
"""Added to every count, so that an empty cell has a logarithm: Jeffreys' prior for a multinomial distribution."""


def population_stability(reference: Sequence[float], current: Sequence[float], *, design_effect: float = 1.0) -> float:
    """The population stability index, less what chance alone adds to it; at least 0.

    The index is the sum of (q - p) ln(q / p). Under no drift it is near a chi-square variable divided by the sample
    sizes, whose mean is (cells - 1)(1/n + 1/m) (Yurdakul 2018, "Statistical properties of population stability index"),
    and correlated rows raise that by the design effect. Without the correction a hundred rows in ten cells read 0.09.
    """
    rows, seen = sum(reference), sum(current)
    if not rows or not seen:
        return 0.0
    before, now = shares_of(reference), shares_of(current)
    raw = sum((q - p) * math.log(q / p) for p, q in zip(before, now, strict=True))
    return max(0.0, raw - (len(before) - 1) * (1 / rows + 1 / seen) * design_effect)


def jensen_shannon(reference: Sequence[float], current: Sequence[float]) -> float:
    """The Jensen-Shannon distance, base 2: 0 for equal distributions, 1 for disjoint ones (Endres, Schindelin 2003)."""
    rows, seen = sum(reference), sum(current)
    if not rows or not seen:
        return 0.0
    total = 0.0
    for before, now in zip(reference, current, strict=True):
        p, q = before / rows, now / seen
        middle = (p + q) / 2
        total += p * math.log2(p / middle) if p else 0.0
        total += q * math.log2(q / middle) if q else 0.0
    return math.sqrt(max(0.0, total / 2))


def wasserstein(
    centres: Sequence[float], reference: Sequence[float], current: Sequence[float], spread: float
) -> float | None:
    """The first Wasserstein distance as far as bins can tell, in standard deviations of the reference.

    It is the area between the two distribution functions (Vallender 1973), with all values of a cell taken to lie at
    its centre. That understates a shift of a normal variable by a twentieth, and one beyond the trained range by what
    lies beyond.

    Args:
        centres: Where the values of each cell lie, ascending.
        reference: Counts by cell.
        current: The same of the other side.
        spread: The reference's standard deviation; 0: there is no unit to measure in, so the answer is None.
    """
    rows, seen = sum(reference), sum(current)
    if not rows or not seen or spread <= 0:
        return None
    area = before = now = 0.0
    for (here, there), p, q in zip(pairwise(centres), reference[:-1], current[:-1], strict=True):
        before, now = before + p / rows, now + q / seen
        area += abs(before - now) * (there - here)
    return area / spread


def shares_of(counts: Sequence[float]) -> list[float]:
    """The share of each cell, none of them 0."""
    total = sum(counts) + SMOOTH * len(counts)
    return [(count + SMOOTH) / total for count in counts]
