"""The gate: when a difference between the reference and a window of traffic counts as drift.

A difference must be **real** (a two-sample chi-square test says p < 1e-4) and **large** (the population stability
index, less what chance adds, exceeds 0.02). Either alone fails: with many rows any trifle is significant, with few rows
chance alone makes a large index. Both sides of the test are divided by the field's design effect, because traffic
comes in runs (`correlation.py`), and over the fields of a function the p-values go through Benjamini and Hochberg, so
that a model of 500 inputs raises no more false alarms than one of five.

A chi-square test needs five expected rows a cell. Cells with fewer (outside the trained range, an unseen category) are
put together; where even together they are too few, an exact test asks whether there are more of them than there were,
which is how five rows of a hundred outside the trained range show at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mlguard.drift.chances import chi_square_beyond, chi_square_limit, more_than_expected
from mlguard.drift.effects import jensen_shannon, population_stability, wasserstein
from mlguard.drift.reference import FieldReference

__all__ = ["Difference", "difference", "rejected", "suspicious"]

EXPECTED: Final = 5.0
"""Rows that a cell must lead one to expect in the window for the chi-square approximation to hold (Cochran 1954)."""


@dataclass(frozen=True, slots=True)
class Difference:
    """How one field of a window compares with the reference."""

    field: str
    rows: int
    """Rows of the window."""
    p_value: float
    """How likely a difference as large is without drift."""
    psi: float
    """Population stability index, less its bias: 0.02 is a small change, 0.1 a clear one, 0.25 another world."""
    jensen_shannon: float
    """Distance from 0, the same, to 1, nothing in common."""
    wasserstein: float | None
    """How far values moved, in standard deviations of the reference, as bins can tell; None for categories."""
    reference: tuple[float, ...]
    """Share of the training data by cell."""
    current: tuple[float, ...]
    """Share of the window by cell."""

    def as_dict(self) -> dict[str, Any]:
        """Plain data, rounded for reading."""
        return {
            "rows": self.rows,
            "p_value": float(f"{self.p_value:.3g}"),
            "psi": round(self.psi, 4),
            "jensen_shannon": round(self.jensen_shannon, 4),
            "wasserstein": None if self.wasserstein is None else round(self.wasserstein, 4),
        }


def suspicious(field: FieldReference, counts: Sequence[int], p_value: float, design_effect: float) -> bool:
    """False where the difference can't be significant: quick, because it is asked of every field and window."""
    rows = sum(counts)
    if not rows:
        return False
    statistic, freedom, rare = _statistic(field.counts, counts, rows)
    if freedom and statistic / design_effect > chi_square_limit(p_value, freedom):
        return True
    if rare is None:
        return False
    share = rows / (rows + field.rows)
    return rare[1] / design_effect * -math.log(share) > -math.log(p_value)  # share ** seen is the least p there is


def difference(field: FieldReference, counts: Sequence[int], design_effect: float) -> Difference:
    """All figures of one field and one window."""
    rows, before = sum(counts), field.rows
    ends = None
    if field.ordered:  # values of a wrong kind and missing ones lie nowhere
        centres = (field.edges[0], *field.centres, field.edges[-1])
        ends = wasserstein(centres, field.counts[:-2], counts[:-2], field.spread or 0.0)
    return Difference(
        field=field.name,
        rows=rows,
        p_value=_p_value(field.counts, counts, rows, design_effect),
        psi=population_stability(*_merged(field.counts, counts, rows), design_effect=design_effect),
        jensen_shannon=jensen_shannon(field.counts, counts),
        wasserstein=ends,
        reference=tuple(count / before for count in field.counts),
        current=tuple(count / rows for count in counts) if rows else (),
    )


def rejected(p_values: Mapping[str, float], p_value: float, fields: int) -> set[str]:
    """The names that Benjamini and Hochberg (1995) reject at this rate of false discoveries.

    Args:
        p_values: By name; those above `p_value` may be missing, as they can't be rejected.
        p_value: The rate.
        fields: How many were tested in all.
    """
    ranked = sorted(p_values, key=p_values.__getitem__)
    last = 0
    for rank, name in enumerate(ranked, start=1):
        if p_values[name] <= p_value * rank / fields:
            last = rank
    return set(ranked[:last])


def _p_value(before: Sequence[int], now: Sequence[int], rows: int, design_effect: float) -> float:
    if not rows:
        return 1.0
    statistic, freedom, rare = _statistic(before, now, rows)
    chances = []
    if freedom:
        chances.append(chi_square_beyond(statistic / design_effect, freedom))
    if rare is not None:
        share = rows / (rows + sum(before))
        chances.append(more_than_expected(rare[1] / design_effect, rare[0] / design_effect, share))
    return min(1.0, len(chances) * min(chances)) if chances else 1.0  # two tests, two chances to be wrong


def _statistic(before: Sequence[int], now: Sequence[int], rows: int) -> tuple[float, int, tuple[int, int] | None]:
    """Pearson's two-sample statistic over the cells that are large enough, its degrees of freedom, and the rest.

    The rest is (rows before, rows now) of the small cells together, where they are too few to be a cell.
    """
    total = sum(before)
    share = rows / (rows + total)
    enough = EXPECTED / share
    small_before = small_now = cells = 0
    statistic = 0.0
    left, right = math.sqrt(rows / total), math.sqrt(total / rows)
    for old, new in zip(before, now, strict=True):
        both = old + new
        if both >= enough:
            cells += 1
            gap = new * right - old * left
            statistic += gap * gap / both
        else:
            small_before += old
            small_now += new
    rare = None
    both = small_before + small_now
    if both >= enough:
        cells += 1
        gap = small_now * right - small_before * left
        statistic += gap * gap / both
    elif both:
        rare = (small_before, small_now)
    return statistic, max(cells - 1, 0), rare


def _merged(before: Sequence[int], now: Sequence[int], rows: int) -> tuple[list[int], list[int]]:
    """The counts with the small cells put together, so that empty ones add no noise to the index."""
    enough = EXPECTED * (rows + sum(before)) / rows if rows else math.inf
    kept = [(old, new) for old, new in zip(before, now, strict=True) if old + new >= enough]
    olds, news = [old for old, _ in kept], [new for _, new in kept]
    old, new = sum(before) - sum(olds), sum(now) - sum(news)
    return ([*olds, old], [*news, new]) if old or new else (olds, news)
