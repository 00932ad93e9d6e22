"""From samples to numbers a person can judge: medians, quartiles, ratios paired per round, and the verdict."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median, quantiles

from benchmarks.case import OURS, Case
from benchmarks.measure import Samples

__all__ = ["Comparison", "Result", "Spread", "judge", "spread"]


@dataclass(frozen=True, slots=True)
class Spread:
    """How a contestant's rounds, or the ratios of two contestants, are spread."""

    median: float
    minimum: float
    lower_quartile: float
    upper_quartile: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """(of - minus) / peer, and whether it keeps its budget."""

    of: str
    peer: str
    minus: str | None
    ratio: Spread
    at_most: float | None
    """The budget; None: shown for information."""

    @property
    def missed(self) -> bool:
        return self.at_most is not None and self.ratio.median > self.at_most


@dataclass(frozen=True, slots=True)
class Result:
    """A measured case."""

    case: Case
    rounds: int
    seconds: dict[str, Spread]
    comparisons: list[Comparison]


def judge(case: Case, samples: Samples) -> Result:
    """Every budget of the case, and ours against every contestant that has none."""
    budgets = [_compare(samples, b.of, b.peer, b.minus, b.at_most) for b in case.budgets]
    judged = {budget.peer for budget in case.budgets if budget.of == OURS and budget.minus is None}
    others = [
        _compare(samples, OURS, peer, minus=None, at_most=None)
        for peer in case.contestants
        if OURS in case.contestants and peer != OURS and peer not in judged
    ]
    rounds = len(next(iter(samples.values())))
    return Result(case, rounds, {name: spread(values) for name, values in samples.items()}, budgets + others)


def spread(values: list[float]) -> Spread:
    """Median, minimum and quartiles; the quartiles of a single value are that value."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0], values[0])
    lower, _, upper = quantiles(values, n=4, method="inclusive")
    return Spread(median(values), min(values), lower, upper)


def _compare(samples: Samples, of: str, peer: str, minus: str | None, at_most: float | None) -> Comparison:
    base = samples[minus] if minus else [0.0] * len(samples[of])
    ratios = [(ours - less) / its for ours, less, its in zip(samples[of], base, samples[peer], strict=True)]
    return Comparison(of, peer, minus, spread(ratios), at_most)
