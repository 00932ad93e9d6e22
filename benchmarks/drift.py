"""Claim: watching a call for drift costs at most half a microsecond a value: between river's ADWIN and Page-Hinkley.

Everybody takes two inputs and a prediction of one call. mlguard's call ends windows as they come, and pays for their
comparison with the reference; river's ADWIN and Page-Hinkley get one detector a value, which is how they are used. What
the alarms are worth is another question: ``python -m benchmarks.drift_table`` prints it.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle
from typing import Any

import numpy as np
from river.drift import ADWIN, PageHinkley

from benchmarks.case import OURS, Budget, Case
from mlguard.drift import Drift, profile
from mlguard.drift.detector import Detector
from mlguard.target import Target

__all__ = ["cases"]

VALUES = 3


def predict(age: float, income: float) -> float:
    """Never called: only its calls are counted."""
    raise NotImplementedError


def cases() -> list[Case]:
    """One call with two numbers and a prediction, and one with a batch."""
    random = np.random.default_rng(7)
    rows = [
        ((float(age), float(income)), float(said))
        for age, income, said in zip(
            random.normal(50, 10, 10_000), random.lognormal(10, 1, 10_000), random.random(10_000), strict=True
        )
    ]
    return [
        Case(
            name="drift-scalars",
            claim="Count two numbers and a prediction, windows and their comparison included.",
            contestants={
                OURS: _ours(random, rows),
                "river ADWIN, one a value": _river(ADWIN, rows),
                "river PageHinkley, one a value": _river(PageHinkley, rows),
            },
            budgets=(
                Budget(peer="river ADWIN, one a value", at_most=None),
                Budget(peer="river PageHinkley, one a value", at_most=None),
            ),
        ),
        Case(
            name="drift-batch",
            claim="Count a batch of 256 rows of 30 numbers, against reading it into quantile bins column by column.",
            contestants={OURS: _ours_batch(random), "numpy by hand, without windows": _batch_by_hand(random)},
            budgets=(Budget(peer="numpy by hand, without windows", at_most=2.0),),
        ),
    ]


def _ours(random: np.random.Generator, rows: list[Any]) -> Callable[[], Any]:
    reference = profile(
        {"age": random.normal(50, 10, 5_000), "income": random.lognormal(10, 1, 5_000)}, random.random(5_000)
    )
    observe = Detector(Target(predict), Drift(profile="-"), reference).observe
    following = cycle(rows).__next__

    def call() -> Any:
        args, said = following()
        return observe(args, {}, said)

    return call


def _river(kind: Any, rows: list[Any]) -> Callable[[], Any]:
    first, second, third = (kind().update for _ in range(VALUES))
    following = cycle(rows).__next__

    def call() -> None:
        (age, income), said = following()
        first((age - 50) / 10)
        second(income / 1e5)
        third(said)

    return call


def _batch(random: np.random.Generator) -> Any:
    return random.normal(size=(256, 30))


def _ours_batch(random: np.random.Generator) -> Callable[[], Any]:
    def judge(rows: Any) -> float:
        raise NotImplementedError

    reference = profile(random.normal(size=(5_000, 30)))
    observe = Detector(Target(judge), Drift(profile="-"), reference).observe
    following = cycle([_batch(random) for _ in range(100)]).__next__
    return lambda: observe((following(),), {}, None, has_result=False)


def _batch_by_hand(random: np.random.Generator) -> Callable[[], Any]:
    edges = np.quantile(random.normal(size=(5_000, 30)), np.linspace(0, 1, 11), axis=0).T.copy()
    counts = np.zeros((30, 12), dtype=int)
    following = cycle([_batch(random) for _ in range(100)]).__next__

    def call() -> None:
        rows = following()
        for column in range(30):
            counts[column] += np.bincount(edges[column].searchsorted(rows[:, column]), minlength=12)

    return call
