"""The two functions without guards: what `guarded.py` is without its decorators, line for line."""

from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mlguard import Array
from mlguard.demo.model import Model
from mlguard.demo.service import FeatureClient

__all__ = ["build"]

Row = NDArray[np.float64]


def build(features: FeatureClient, model: Model) -> Callable[..., Any]:
    """The prediction function, unguarded; its annotations are promises that nobody keeps."""

    def row(patient: int) -> Annotated[Row, Array(20, ge=0, le=5000, finite=True)]:
        return features.stored(patient)

    def malignant(
        patient: Annotated[int, Field(ge=0)],
        measured: Annotated[Row, Array(10, ge=0, le=5000, finite=True)],
    ) -> Annotated[float, Field(ge=0, le=1)]:
        return model.malignant(measured, row(patient))

    return malignant
