"""How thoroughly the values of arrays are looked at: all of them, a bounded sample, or none.

A policy's choice holds for one call and travels in a context variable, because the schema of a model belongs to the
model and is shared by every policy. What a field says for itself (``Array(check=...)``) goes before it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Literal, TypeAlias

import numpy as np

__all__ = ["SAMPLE", "Depth", "at_depth", "current", "sample_of"]

Depth: TypeAlias = Literal["full", "sample", "metadata"]
SAMPLE = 2**14
"""The most values a sample looks at."""

current: ContextVar[Depth] = ContextVar("mlguard_check", default="full")
"""What the policy of the running check says."""


class at_depth:  # noqa: N801 - reads as a function, is a class so that it pickles
    """A validator that runs at a depth."""

    def __init__(self, depth: Depth, validate: Callable[..., Any]) -> None:
        self._depth: Depth = depth
        self._validate = validate

    def __call__(self, values: Any, **options: Any) -> Any:
        token = current.set(self._depth)
        try:
            return self._validate(values, **options)
        finally:
            current.reset(token)


def sample_of(x: np.ndarray[Any, Any], *, whole_rows: bool = False) -> np.ndarray[Any, Any]:
    """A view of at most `SAMPLE` values, evenly spread: every so many rows; where one row has more, a part of it.

    Args:
        x: An array of one dimension or more.
        whole_rows: Leave the last dimension whole, because its entries mean different things.
    """
    steps = []
    size = x.size
    for length in x.shape[:-1] if whole_rows else x.shape:
        rest = size // max(1, length)  # values to each entry of this dimension, so that so many entries fit:
        most = max(1, SAMPLE // max(1, rest))
        step = max(1, -(-length // most))
        steps.append(slice(None, None, step))
        size = rest * -(-length // step)
    return x[tuple(steps)]
