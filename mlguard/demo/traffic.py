"""The calls: which patient is asked about, and what the caller got wrong. All of it follows from the seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mlguard.demo.model import MEASURED, Model

__all__ = ["MISTAKES", "Call", "traffic"]

MISTAKES: Final[dict[str, float]] = {
    "NaN": 0.01,
    "9 values": 0.0075,
    "text": 0.0075,
    "-1": 0.0075,
    "units x 1000": 0.005,
    "no such patient": 0.005,
}
"""The share of calls in which the caller makes each mistake."""


@dataclass(frozen=True)
class Call:
    """One call, as it is sent, and the answer that the model gives on the uncorrupted row."""

    number: int
    patient: Any
    measured: Any
    mistake: str | None
    truth: float
    visit: int
    """Calls of one visit are about the same patient and measurements."""


def traffic(model: Model, calls: int, seed: int) -> Iterator[Call]:
    """Some visits are asked about often and most rarely (Zipf), as when a result is looked up again and again.

    A visit is a held-out patient measured anew: the ten values that the caller sends vary by 2 %, as a second
    measurement would. There are half as many visits as calls.
    """
    chance = random.Random(f"{seed}/traffic")  # noqa: S311 - a reproducible plan, not a secret
    visits = [_measured_anew(model, chance) for _ in range(calls // 2)]
    truth = [model.malignant(measured, model.patients[patient, MEASURED:]) for patient, measured in visits]
    order = range(len(visits))
    popularity = list(accumulate((rank + 1) ** -0.8 for rank in order))
    mistakes = [None, *MISTAKES]
    shares = [1 - sum(MISTAKES.values()), *MISTAKES.values()]
    for number in range(calls):
        (visit,) = chance.choices(order, cum_weights=popularity)
        (mistake,) = chance.choices(mistakes, shares)
        patient, measured = visits[visit]
        sent = _sent(patient, measured.copy(), mistake, chance.randrange(MEASURED))
        yield Call(number, *sent, mistake, truth[visit], visit)


def _measured_anew(model: Model, chance: random.Random) -> tuple[int, npt.NDArray[np.float64]]:
    patient = chance.randrange(len(model.patients))
    error = [chance.gauss(1, 0.02) for _ in range(MEASURED)]
    return patient, model.patients[patient, :MEASURED] * error


def _sent(patient: int, measured: npt.NDArray[np.float64], mistake: str | None, where: int) -> tuple[Any, Any]:
    match mistake:
        case "NaN":
            measured[where] = np.nan
        case "-1":
            measured[where] = -1.0
        case "units x 1000":
            measured *= 1000
        case "9 values":
            return patient, np.delete(measured, where)
        case "text":
            return patient, ["n/a" if index == where else str(value) for index, value in enumerate(measured)]
        case "no such patient":
            return f"p-{patient}", measured
    return patient, measured
