"""What type checkers see of a table that `Rows` declares: the plain frame, and the result beside it."""

from __future__ import annotations

from typing import Annotated, Any, assert_type

import numpy as np
import numpy.typing as npt
import pandas as pd
import polars as pl
from pydantic import BaseModel

import mlguard
from mlguard import Array, Rows, Validation, guarded


class Patient(BaseModel):
    age: int


@guarded(validation=Validation(on_invalid="quarantine"), fallback=0.0)
def predict(patients: Annotated[pl.DataFrame, Rows(Patient, "n")]) -> Annotated[npt.NDArray[np.float64], Array("n")]:
    assert_type(patients, pl.DataFrame)
    return patients["age"].to_numpy()


@guarded
def count(
    patients: Annotated[dict[str, npt.NDArray[Any]], Rows(Patient)], frame: Annotated[pd.DataFrame, Rows(Patient)]
) -> int:
    assert_type(patients, dict[str, npt.NDArray[Any]])
    assert_type(frame, pd.DataFrame)
    return len(patients["age"])


def checked() -> None:
    """Never called: only type checkers look at it."""
    assert_type(predict(pl.DataFrame()), npt.NDArray[np.float64])
    assert_type(predict.guard.call(pl.DataFrame()).rejected, tuple[dict[str, Any], ...])
    assert_type(count({}, pd.DataFrame()), int)
    predict(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Rows(int)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert_type(mlguard.Rows(Patient), Rows)
