"""The results as JSON, for machines: times in seconds per call."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from benchmarks.machine import machine, versions
from benchmarks.measure import Effort
from benchmarks.verdicts import Comparison, Result

__all__ = ["FORMAT", "record"]

FORMAT = 1
"""Raised when a key changes its meaning or goes."""


def record(results: Iterable[Result], effort: Effort, not_built: Iterable[str]) -> dict[str, Any]:
    """A run: the machine, the versions, and every case with its times, ratios, budgets and verdicts."""
    return {
        "format": FORMAT,
        "machine": machine(),
        "versions": versions(),
        "effort": asdict(effort),
        "cases": [
            {
                "name": result.case.name,
                "claim": result.case.claim,
                "rounds": result.rounds,
                "seconds": {name: asdict(seconds) for name, seconds in result.seconds.items()},
                "ratios": [_ratio(comparison) for comparison in result.comparisons],
            }
            for result in results
        ],
        "not_built": list(not_built),
    }


def _ratio(comparison: Comparison) -> dict[str, Any]:
    verdict = None if comparison.at_most is None else "missed" if comparison.missed else "kept"
    return {**asdict(comparison), "verdict": verdict}
