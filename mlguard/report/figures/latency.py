"""How long calls took: as a distribution, and over time.

Durations are counted in cells of which each is 1 % longer than the one before, with the weight of their record, so that
one pass is enough whatever the length of the record. A percentile is the middle of its cell: it is right to 0.5 %.
"""

# ruff: noqa: S608 - the SQL is put together from this package's own names; values are bound or quoted

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from mlguard.report.figures.facts import RAN, REFUSED, Facts
from mlguard.report.figures.frame import Frame

__all__ = ["CELL", "PERCENTILES", "Latency", "Population", "Spent", "latency_of", "percentiles"]

GROWTH: Final = 1.01
LEAST: Final = 1e-7
"""Seconds: below that, events round to zero."""

CELL: Final = f"CAST(floor(ln(greatest(duration, {LEAST})) / {math.log(GROWTH)!r}) AS INTEGER)"
"""The SQL of the cell of a duration."""

PERCENTILES: Final = (0.5, 0.9, 0.99)
BARS: Final = 10
"""Bars of the histogram for each factor of ten."""

_GROUPS: Final = (("ran", RAN), ("cache", ("cache_hit", "coalesced")), ("refused", REFUSED))


@dataclass(frozen=True)
class Population:
    """Calls whose durations belong together."""

    name: str
    """`ran`: the function was at work; `cache`: the cache answered; `refused`: it was not run."""
    calls: float
    total: float
    """Seconds, of all calls together."""
    longest: float
    percentiles: tuple[float, float, float]
    """Seconds below which half, 90 % and 99 % of the calls stay."""
    bars: dict[int, float]
    """Calls by bar: bar number n holds from 10 ** (n / `BARS`) seconds to the next."""


@dataclass(frozen=True)
class Spent:
    """Where the time of calls at work went. Streams are left out: a part of theirs is their consumer's."""

    calls: float
    """Those whose record says how long the function ran."""
    inside: float
    """Seconds in the function, all attempts and all calls together."""
    waiting: float
    """Seconds of waiting for a slot, for memory, or between attempts."""
    around: float
    """The other seconds: validation, cache, and the guard itself."""


@dataclass(frozen=True)
class Latency:
    """How long calls took."""

    populations: tuple[Population, ...]
    """Those that there are."""
    over_time: tuple[tuple[float, float, float] | None, ...]
    """Percentiles of the calls at work by step of the frame; None where there was none."""
    spent: Spent | None = None
    """None where no record tells."""

    def of(self, name: str) -> Population | None:
        return next((one for one in self.populations if one.name == name), None)


def latency_of(facts: Facts, frame: Frame) -> Latency:
    """Counted in the table `facts`."""
    rows = facts.ask(
        f"SELECT disposition, {CELL} AS cell, sum(weight), sum(weight * duration), max(duration) "
        "FROM facts WHERE duration IS NOT NULL GROUP BY ALL ORDER BY cell"
    )
    populations = [_population(name, [row for row in rows if row[0] in members]) for name, members in _GROUPS]
    by_step: dict[int, list[tuple[int, float]]] = {}
    for step, cell, weight in facts.ask(
        f"SELECT {frame.sql} AS step, {CELL} AS cell, sum(weight) FROM facts "
        f"WHERE duration IS NOT NULL AND disposition IN {RAN} GROUP BY ALL ORDER BY ALL"
    ):
        if step is not None and 0 <= step < frame.steps:
            by_step.setdefault(step, []).append((cell, weight))
    over_time = tuple(percentiles(by_step[step]) if step in by_step else None for step in range(frame.steps))
    return Latency(tuple(one for one in populations if one is not None), over_time, _spent(facts))


def _spent(facts: Facts) -> Spent | None:
    ((calls, total, inside, waiting),) = facts.ask(
        "SELECT sum(weight), sum(weight * duration), sum(weight * inside), sum(weight * coalesce(waited, 0)) "
        f"FROM facts WHERE disposition IN {RAN} AND duration IS NOT NULL AND inside IS NOT NULL AND items IS NULL"
    )
    return Spent(calls, inside, waiting, max(total - inside - waiting, 0.0)) if calls else None


def percentiles(cells: Sequence[tuple[int, float]], longest: float = math.inf) -> tuple[float, float, float]:
    """The percentiles of weighted cells, ascending."""
    total = sum(weight for _, weight in cells)
    found: list[float] = []
    reached = 0.0
    for cell, weight in cells:
        reached += weight
        while len(found) < len(PERCENTILES) and reached >= PERCENTILES[len(found)] * total * (1 - 1e-12):
            found.append(min(middle(cell), longest))
    p50, p90, p99 = found
    return p50, p90, p99


def middle(cell: int) -> float:
    """Seconds in the middle of a cell; what events round to zero is zero."""
    seconds = GROWTH ** (cell + 0.5)
    return 0.0 if seconds < 2 * LEAST else seconds


def _population(name: str, rows: Iterable[tuple[str, int, float, float, float]]) -> Population | None:
    cells: dict[int, float] = {}
    bars: dict[int, float] = {}
    calls = total = longest = 0.0
    for _, cell, weight, seconds, most in rows:
        cells[cell] = cells.get(cell, 0.0) + weight
        bar = math.floor((cell + 0.5) * math.log10(GROWTH) * BARS)
        bars[bar] = bars.get(bar, 0.0) + weight
        calls, total, longest = calls + weight, total + seconds, max(longest, most)
    if not cells:
        return None
    return Population(
        name, calls, total, longest, percentiles(sorted(cells.items()), longest), dict(sorted(bars.items()))
    )
