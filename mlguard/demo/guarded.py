"""The dozen lines that make the difference. `mlguard demo` prints `build` from here."""

from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mlguard import Array, Cache, Memory, Monitor, Retry, guarded
from mlguard.demo.model import Model
from mlguard.demo.service import FeatureClient

__all__ = ["build"]

Row = NDArray[np.float64]


def build(features: FeatureClient, model: Model, ceiling: float) -> Callable[..., Any]:
    """The prediction function, guarded."""

    @guarded(retry=Retry(initial_delay="10ms", on_invalid_output=True))
    def row(patient: int) -> Annotated[Row, Array(20, ge=0, le=5000, finite=True)]:
        return features.stored(patient)

    @guarded(
        cache=Cache(ttl="10m"),
        memory=Memory(threshold=ceiling, max_wait=0),
        monitor=Monitor(),
    )
    def malignant(
        patient: Annotated[int, Field(ge=0)],
        measured: Annotated[Row, Array(10, ge=0, le=5000, finite=True)],
    ) -> Annotated[float, Field(ge=0, le=1)]:
        return model.malignant(measured, row(patient))

    return malignant
