"""Rows of numbers, rows of a table, and single records."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from mlguard import Array, NotKeyed

__all__ = ["Flower", "Patient", "Transaction"]


class Patient(BaseModel):
    """One or more patients: thirty measurements each, none of them negative; NaN where one was not taken."""

    features: Annotated[npt.NDArray[np.float64], Array("batch", 30, ge=0)]
    request_id: Annotated[str, NotKeyed, Field(max_length=64)] = ""


class Flower(BaseModel):
    """One row of the iris table, by the names its columns have in scikit-learn; lengths in centimetres."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)

    sepal_length: Annotated[float, Field(alias="sepal length (cm)", gt=0, le=10)]
    sepal_width: Annotated[float, Field(alias="sepal width (cm)", gt=0, le=10)]
    petal_length: Annotated[float, Field(alias="petal length (cm)", gt=0, le=10)]
    petal_width: Annotated[float, Field(alias="petal width (cm)", gt=0, le=10)]
    species: Literal["setosa", "versicolor", "virginica"] | None = None


class Transaction(BaseModel):
    """A card payment, whose fields belong together."""

    model_config = ConfigDict(extra="forbid")

    amount: Annotated[float, Field(gt=0, le=1_000_000)]
    currency: Literal["EUR", "USD", "GBP"]
    hour: Annotated[int, Field(ge=0, lt=24)]
    refund_of: str | None = None
    kind: Literal["payment", "refund"] = "payment"

    @model_validator(mode="after")
    def _refund_names_its_payment(self) -> Transaction:
        if self.kind == "refund" and not self.refund_of:
            raise ValueError("a refund must say which payment it is of, in refund_of")
        return self
