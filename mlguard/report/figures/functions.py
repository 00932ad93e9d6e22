"""The functions of the record, the busiest first."""

# ruff: noqa: S608 - the SQL is put together from this package's own names; values are bound or quoted

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mlguard.report.figures.facts import ANSWERED, RAN, REFUSED, Facts
from mlguard.report.figures.latency import CELL, percentiles

__all__ = ["MOST", "Function", "functions_of"]

MOST: Final = 500
"""Functions that are told one by one; the others are added up."""


@dataclass(frozen=True)
class Function:
    """One guarded function, or the rest of them."""

    name: str
    calls: float
    answered: float
    refused: float
    failed: float
    cached: float
    """Answered by the cache."""
    percentiles: tuple[float, float, float] | None
    """Seconds of the calls at work; None: it never ran, or this is the rest."""
    policies: tuple[str, ...]
    """Names of the policies it ran under, three at most."""
    versions: tuple[str, ...]
    """Model versions, three at most."""
    others: int = 0
    """How many functions this stands for, where it is the rest."""


def functions_of(facts: Facts) -> tuple[Function, ...]:
    """Counted in the table `facts`."""
    rows = facts.ask(
        "SELECT function, sum(calls) AS calls, "
        f"coalesce(sum(calls) FILTER (disposition IN {ANSWERED}), 0), "
        f"coalesce(sum(calls) FILTER (disposition IN {REFUSED}), 0), "
        "coalesce(sum(calls) FILTER (disposition = 'failed'), 0), "
        "coalesce(sum(calls) FILTER (disposition IN ('cache_hit', 'coalesced')), 0), "
        "list(DISTINCT policy) FILTER (policy IS NOT NULL), "
        "list(DISTINCT model_version) FILTER (model_version IS NOT NULL) "
        "FROM facts GROUP BY function ORDER BY calls DESC, function"
    )
    cells: dict[str, list[tuple[int, float]]] = {}
    for name, cell, weight in facts.ask(
        f"SELECT function, {CELL} AS cell, sum(weight) FROM facts "
        f"WHERE duration IS NOT NULL AND disposition IN {RAN} GROUP BY ALL ORDER BY ALL"
    ):
        cells.setdefault(name, []).append((cell, weight))
    shown = [
        Function(
            name,
            calls,
            answered,
            refused,
            failed,
            cached,
            percentiles(cells[name]) if name in cells else None,
            tuple(sorted(policies or ())[:3]),
            tuple(sorted(versions or ())[:3]),
        )
        for name, calls, answered, refused, failed, cached, policies, versions in rows[:MOST]
    ]
    rest = rows[MOST:]
    if rest:
        calls, answered, refused, failed, cached = (sum(row[place] for row in rest) for place in range(1, 6))
        shown.append(Function("", calls, answered, refused, failed, cached, None, (), (), len(rest)))
    return tuple(shown)
