"""A value that a schema hides is shown in no error that mlguard raises, whatever its figures would tell."""

from __future__ import annotations

import pickle
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pytest
from pydantic import BaseModel, Field, model_validator

from mlguard import Array, InvalidInputError, InvalidOutputError, Redacted, guarded

SECRET = 987654321


class Person(BaseModel):
    number: Annotated[int, Field(ge=0), Redacted]
    age: Annotated[int, Field(ge=0)] = 1

    @model_validator(mode="after")
    def _known(self) -> Person:
        if self.number == SECRET:
            raise ValueError(f"{self.number} is unknown")
        return self


@guarded
def plain(number: Annotated[int, Field(ge=0), Redacted], age: Annotated[int, Field(ge=0)] = 1) -> int:
    return 1


@guarded
def model(person: Person) -> int:
    return 1


@guarded(schema=Person)
def by_schema(number: Any, age: Any = 1) -> int:
    return 1


@guarded
def array(x: Annotated[npt.NDArray[np.float64], Array(le=1), Redacted]) -> int:
    return 1


@guarded(output=Annotated[int, Field(ge=0), Redacted])
def result() -> Any:
    return -SECRET


@pytest.mark.parametrize(
    "call",
    [
        lambda: plain(-SECRET),
        lambda: model({"number": -SECRET}),  # type: ignore[arg-type]
        lambda: model({"number": SECRET}),  # type: ignore[arg-type]
        lambda: by_schema(-SECRET),
        lambda: array([float(SECRET)]),  # type: ignore[arg-type]
        lambda: result(),
    ],
    ids=["argument", "field", "validator", "schema", "array", "output"],
)
def test_no_error_tells_a_hidden_value(call: Any) -> None:
    """Neither the text, nor errors(), nor the JSON, nor the pickle of an error holds it; the place and type stay."""
    with pytest.raises((InvalidInputError, InvalidOutputError)) as caught:
        call()
    error = caught.value
    for told in (str(error), repr(error.errors()), error.json(), repr(pickle.dumps(error))):
        assert str(SECRET) not in told
    assert error.errors()[0]["loc"]
    assert "hidden" in str(error)


def test_what_is_not_hidden_is_told_as_ever() -> None:
    """A field beside the hidden one keeps its figures."""
    with pytest.raises(InvalidInputError, match="age: must be greater than or equal to 0, got -3"):
        plain(1, age=-3)
