"""Claim: a declared array costs little more than reading it once, and far less than the checks people write or import.

Dtype, shape, finiteness and range are everybody's duty: numpydantic and jaxtyping check dtype and shape, so that their
contestants check the values by hand as their users would.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import pydantic
from beartype import beartype
from jaxtyping import Float32, jaxtyped
from numpydantic import NDArray, Shape

from benchmarks.case import OURS, Budget, Case
from mlguard import Array, guarded

__all__ = ["cases"]

Features = npt.NDArray[np.float32]
ONE_PASS, BY_HAND = "one pass of x.min()", "by hand: shape, isfinite, min and max"
REDUCTIONS = "by hand: shape, two reductions"
NUMPYDANTIC, JAXTYPING = "numpydantic, values by hand", "jaxtyping with beartype, values by hand"
SIZES = {"row": (1, "one row"), "batch": (32, "32 rows"), "32mb": (1_000_000, "a million rows")}


def checked(x: Annotated[Features, Array("rows", 8, finite=True, ge=-10, le=10)]) -> None:
    """Takes finite values from -10 to 10."""


def shaped(x: Annotated[Features, Array("rows", 8)]) -> None:
    """Takes eight columns."""


def columned(x: Annotated[Features, Array("rows", 8, ge=[-10] * 8, le=[10] * 8)]) -> None:
    """Takes values from -10 to 10, said of each column."""


def one_pass(x: Features) -> None:
    """Reads every value once."""
    x.min()


def by_hand(x: Features) -> None:
    """The check as it is mostly written."""
    if x.dtype != np.float32 or x.ndim != 2 or x.shape[1] != 8:
        raise ValueError("not float32 with eight columns")
    if not np.isfinite(x).all() or x.min() < -10 or x.max() > 10:
        raise ValueError("not finite, or not from -10 to 10")


def two_reductions(x: Features) -> None:
    """The check without a temporary: NaN propagates through both reductions."""
    if x.dtype != np.float32 or x.ndim != 2 or x.shape[1] != 8:
        raise ValueError("not float32 with eight columns")
    if not (np.minimum.reduce(x, axis=None) >= -10 and np.maximum.reduce(x, axis=None) <= 10):
        raise ValueError("not finite, or not from -10 to 10")


def values_by_hand(x: Features) -> None:
    """What a body does whose decorator has checked dtype and shape."""
    if not np.isfinite(x).all() or x.min() < -10 or x.max() > 10:
        raise ValueError("not finite, or not from -10 to 10")


def nothing(x: Features) -> None:
    """A body whose decorator does all there is to do."""


def by_numpydantic(body: Callable[[Any], None]) -> Callable[[Any], None]:
    """Dtype and shape as pydantic's validate_call has them through numpydantic."""

    def function(x: Any) -> None:
        body(x)

    function.__annotations__["x"] = NDArray[Shape[Any, Literal[8]], np.float32]
    return pydantic.validate_call(function)


def by_jaxtyping(body: Callable[[Any], None]) -> Callable[[Any], None]:
    """Dtype and shape as jaxtyping has them, with beartype as the checker."""

    def function(x: Any) -> None:
        body(x)

    function.__annotations__["x"] = Float32[np.ndarray, "rows 8"]
    decorated: Callable[[Any], None] = jaxtyped(typechecker=beartype)(function)
    return decorated


def cases() -> list[Case]:
    """One row and a small batch, where the fixed cost decides, and a large array, where memory bandwidth does."""
    generator = np.random.default_rng(7)
    contestants: dict[str, Callable[[Features], None]] = {
        OURS: guarded()(checked),
        ONE_PASS: one_pass,
        REDUCTIONS: two_reductions,
        BY_HAND: by_hand,
        NUMPYDANTIC: by_numpydantic(values_by_hand),
        JAXTYPING: by_jaxtyping(values_by_hand),
    }
    budgets = {
        "row": (Budget(BY_HAND, 1.0), Budget(NUMPYDANTIC, 1.0), Budget(JAXTYPING, 1.0)),
        "batch": (Budget(BY_HAND, 1.0), Budget(NUMPYDANTIC, 1.0), Budget(JAXTYPING, 1.0)),
        "32mb": (Budget(ONE_PASS, 1.15),),
    }
    arrays = {name: generator.uniform(-9, 9, size=(rows, 8)).astype(np.float32) for name, (rows, _) in SIZES.items()}
    full = [
        Case(
            name=f"arrays-{name}",
            claim=f"{what} of 8 float32: dtype, shape, finite and range",
            arguments=(arrays[name],),
            contestants=contestants,
            budgets=budgets[name],
        )
        for name, (_, what) in SIZES.items()
    ]
    shape_only = Case(
        name="arrays-shape",
        claim="32 rows of 8 float32: dtype and shape only",
        arguments=(arrays["batch"],),
        contestants={
            OURS: guarded()(shaped),
            "numpydantic": by_numpydantic(nothing),
            "jaxtyping with beartype": by_jaxtyping(nothing),
        },
        budgets=(Budget("numpydantic", 1.0), Budget("jaxtyping with beartype", 1.0)),
    )
    columns = Case(
        name="arrays-columns",
        claim="a million rows of 8 float32: a range for each column",
        arguments=(arrays["32mb"],),
        contestants={OURS: guarded()(columned), ONE_PASS: one_pass, "x.min(axis=0) and x.max(axis=0)": _both_axes},
    )
    return [*full, shape_only, columns]


def _both_axes(x: Features) -> None:
    if (x.min(axis=0) < -10).any() or (x.max(axis=0) > 10).any():
        raise ValueError("not from -10 to 10")
