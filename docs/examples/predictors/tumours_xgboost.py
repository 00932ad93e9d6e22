"""XGBoost: an array in which NaN is a missing value, and infinity is not."""

import os
from functools import cache
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
from features import fetch
from xgboost import XGBClassifier

from mlguard import Array, guarded

Measurements = Annotated[
    npt.NDArray[np.float32], Array("batch", 30, ge=0, le=10_000, allow_nan=True, max_bytes="16MiB")
]
Risks = Annotated[npt.NDArray[np.float32], Array("batch", ge=0, le=1)]


@cache
def model() -> XGBClassifier:
    """The artifact, loaded at the first call."""
    booster = XGBClassifier(n_jobs=1)
    booster.load_model(Path(os.environ["ARTIFACTS"], "tumours.ubj"))
    return booster


@guarded("predictor", model_version="boosted-1")
def risk(measurements: Measurements) -> Risks:
    """How likely each tumour is malignant."""
    return model().predict_proba(measurements)[:, 1]


def risk_of(patient: str) -> float:
    """The same for a patient whom the feature service knows; null is a missing value."""
    known = fetch(f"measurements/{patient}")
    return float(risk(np.array([[np.nan if value is None else value for value in known]], dtype=np.float32))[0])
