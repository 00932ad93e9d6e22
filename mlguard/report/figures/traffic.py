"""Calls over time, by how they ended."""

# ruff: noqa: S608 - the SQL is put together from this package's own names; values are bound or quoted

from __future__ import annotations

from dataclasses import dataclass

from mlguard.outcome import Disposition
from mlguard.report.figures.facts import Facts
from mlguard.report.figures.frame import Frame

__all__ = ["Ending", "Traffic", "traffic_of"]


@dataclass(frozen=True)
class Ending:
    """One way in which calls ended."""

    disposition: str
    calls: float
    """Weighed with the inverse of the sample rate, and with those of an overload that have no record."""
    steps: tuple[float, ...]
    """By step of the frame."""


@dataclass(frozen=True)
class Traffic:
    """Every call of the record."""

    endings: tuple[Ending, ...]
    """In the order of `Disposition`, those that happened."""

    def calls(self, *dispositions: str) -> float:
        """How many ended like this; without any given, all."""
        return sum(one.calls for one in self.endings if not dispositions or one.disposition in dispositions)


def traffic_of(facts: Facts, frame: Frame) -> Traffic:
    """Counted in the table `facts`."""
    found: dict[str, list[float]] = {}
    totals: dict[str, float] = {}
    rows = facts.ask(f"SELECT disposition, {frame.sql} AS step, sum(calls) FROM facts GROUP BY ALL")
    for disposition, step, calls in rows:
        steps = found.setdefault(disposition, [0.0] * frame.steps)
        totals[disposition] = totals.get(disposition, 0.0) + calls
        if step is not None and 0 <= step < frame.steps:
            steps[step] += calls
    known = [*map(str, Disposition)]
    ordered = sorted(found, key=lambda name: (known.index(name) if name in known else len(known), name))
    return Traffic(tuple(Ending(name, totals[name], tuple(found[name])) for name in ordered))
