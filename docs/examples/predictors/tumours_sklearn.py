"""scikit-learn: a pipeline that is given a table with named columns."""

import os
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import joblib
import numpy as np
import numpy.typing as npt
import pandas as pd
from features import fetch
from pydantic import BaseModel, Field

from mlguard import Array, Rows, guarded


class Tumour(BaseModel):
    """One row; without NaN, which the pipeline does not take."""

    radius: Annotated[float, Field(alias="mean radius", gt=0, le=100, allow_inf_nan=False)]
    texture: Annotated[float, Field(alias="mean texture", gt=0, le=100, allow_inf_nan=False)]
    smoothness: Annotated[float, Field(alias="mean smoothness", gt=0, lt=1, allow_inf_nan=False)]


@cache
def model() -> Any:
    """The artifact, loaded at the first call."""
    return joblib.load(Path(os.environ["ARTIFACTS"], "tumours.joblib"))


@guarded("predictor", model_version="tumours-1")
def risk(
    tumours: Annotated[pd.DataFrame, Rows(Tumour, "n", max_rows=10_000)],
) -> Annotated[npt.NDArray[np.float64], Array("n", ge=0, le=1)]:
    """How likely each tumour is malignant."""
    return model().predict_proba(tumours[list(model().feature_names_in_)])[:, 1]


def risk_of(patient: str) -> float:
    """The same for a patient whom the feature service knows."""
    return float(risk(pd.DataFrame([fetch(f"patients/{patient}")]))[0])
