"""Claim: that every value of an array is finite and in range costs little more than reading the array once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import numpy as np
import numpy.typing as npt

from benchmarks.case import OURS, Budget, Case
from mlguard import Array, guarded

__all__ = ["cases"]

Features = npt.NDArray[np.float32]


def checked(x: Annotated[Features, Array("rows", 8, finite=True, ge=-10, le=10)]) -> None:
    """Takes finite values from -10 to 10."""


def one_pass(x: Features) -> None:
    """Reads every value once."""
    x.min()


def by_hand(x: Features) -> None:
    """The check as it is mostly written."""
    if not np.isfinite(x).all() or x.min() < -10 or x.max() > 10:
        raise ValueError("not finite, or not from -10 to 10")


def two_reductions(x: Features) -> None:
    """The check without a temporary: NaN propagates through both reductions."""
    if not (np.minimum.reduce(x, axis=None) >= -10 and np.maximum.reduce(x, axis=None) <= 10):
        raise ValueError("not finite, or not from -10 to 10")


def cases() -> list[Case]:
    """A large array, where memory bandwidth decides, and a single row, where the fixed cost does."""
    generator = np.random.default_rng(7)
    contestants: dict[str, Callable[[Features], None]] = {
        OURS: guarded()(checked),
        "one pass of x.min()": one_pass,
        "min and max, two reductions": two_reductions,
        "isfinite, min and max": by_hand,
    }
    return [
        Case(
            name="arrays-32mb",
            claim="a million rows of 8 float32: dtype, shape, finite and range",
            arguments=(generator.uniform(-9, 9, size=(1_000_000, 8)).astype(np.float32),),
            contestants=contestants,
            budgets=(Budget("one pass of x.min()", 1.15),),
        ),
        Case(
            name="arrays-row",
            claim="one row of 8 float32: the same",
            arguments=(generator.uniform(-9, 9, size=(1, 8)).astype(np.float32),),
            contestants=contestants,
        ),
    ]
