"""What schemas hide stays hidden in guarded calls: declared at the decorator, quoted by validators, in containers."""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

import cloudpickle
import numpy as np
import numpy.typing as npt
import pytest
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator
from typing_extensions import TypedDict, Unpack

from mlguard import Array, InvalidInputError, Monitor, Redacted, guarded
from mlguard.target import Target

SSN = "987-65-4321"
NUMBER = 987654321


class Request(BaseModel):
    ssn: Annotated[str, Redacted] = Field(alias="SSN")
    weight: float = Field(repr=False)
    age: int


class Patient(BaseModel):
    ssn: Annotated[str, Redacted]
    age: int = 0

    @field_validator("age")
    @classmethod
    def _grown_up(cls, age: int, info: Any) -> int:
        if age < 0:
            raise ValueError(f"age of {info.data['ssn']}")
        return age

    @model_validator(mode="after")
    def _never_valid(self) -> Patient:
        raise ValueError(f"ssn {self.ssn}")


class Options(TypedDict):
    password: Annotated[str, Redacted]
    seed: int


class Pair(NamedTuple):
    account: Annotated[int, Redacted, Field(ge=0)]
    seed: int


def test_marks_of_schema_and_output_hide(lines) -> None:
    """Fields of `schema=` hide the parameters of their names, and a marked `output=` hides the result."""

    @guarded(monitor=Monitor(), schema=Request, output=Annotated[int, Redacted])
    def predict(ssn, weight, age):
        if age == 13:
            raise LookupError(f"nothing for {ssn} of {weight}")
        return NUMBER

    assert predict(SSN, 71.25, 4) == NUMBER
    event = lines.last
    assert event["mlguard.input.ssn"] == event["mlguard.input.weight"] == event["mlguard.output"] == "[redacted]"
    assert event["mlguard.input.age"] == 4
    with pytest.raises(LookupError):
        predict(SSN, 71.25, 13)
    assert lines.last["exception.message"] == "nothing for [redacted] of [redacted]"
    for value in (SSN, str(NUMBER), "71.25"):
        assert value not in lines.text


def test_a_schema_adds_marks_and_takes_none_away(lines) -> None:
    """A parameter that its own annotation hides stays hidden where the schema or `output=` says nothing of it."""

    class Plain(BaseModel):
        ssn: str

    @guarded(monitor=Monitor(), schema=Plain, output=str)
    def predict(ssn: Annotated[str, Redacted] | None) -> Annotated[str, Redacted]:
        return ssn or ""

    predict(SSN)
    assert lines.last["mlguard.input.ssn"] == lines.last["mlguard.output"] == "[redacted]"


def plain(ssn: str, weight: float, age: int) -> int:
    return age


def test_declared_annotations_travel_and_resolve_late() -> None:
    """Hints in force survive pickling, and what is defined later raises NameError until it is there."""
    target = Target(plain)
    assert target.declared(None, None) is target
    again = cloudpickle.loads(cloudpickle.dumps(target.declared(Request, Annotated[int, Redacted])))
    assert Redacted in again.hints["ssn"].__metadata__
    assert Redacted in again.hints["return"].__metadata__
    assert again.resolved

    def early(x: Later) -> int:  # type: ignore[name-defined]  # noqa: F821
        return 1

    class Waiting(BaseModel):
        x: Later  # type: ignore[name-defined]  # noqa: F821

    assert not Target(early).declared(None, int).resolved
    for late in (Target(early).declared(None, int), Target(plain).declared(Waiting, None)):
        with pytest.raises(NameError):
            _ = late.hints
    assert Target(plain).declared("no model", None).hints == Target(plain).hints  # type: ignore[arg-type]


@pytest.mark.parametrize("age", [1, -1])
def test_a_validator_that_quotes_a_hidden_value(lines, age) -> None:
    """A validator's words are not shown where anything is hidden: it sees the fields beside and below its own."""

    @guarded(monitor=Monitor())
    def predict(patient: Patient) -> None: ...

    with pytest.raises(InvalidInputError):
        predict({"ssn": SSN, "age": age})
    assert lines.last["mlguard.violations"][0]["msg"] == "[redacted]"
    assert SSN not in lines.text


def test_errors_of_foreign_schemas_show_their_type_only(lines) -> None:
    """Of a nested guard's refusal, or a model that the signature does not name, an event tells place and type."""

    @guarded(validation=True)
    def inner(account: Annotated[int, Redacted, Field(ge=0)]) -> None: ...

    @guarded(monitor=Monitor())
    def outer(account: int) -> None:
        inner(-account)

    @guarded(monitor=Monitor())
    def body(row: dict[str, str]) -> None:
        Patient(ssn=row["number"])

    with pytest.raises(InvalidInputError):
        outer(5)
    assert "-5" not in lines.last["exception.message"]
    assert "greater_than_equal" in lines.last["exception.message"]
    with pytest.raises(ValidationError):
        body({"number": SSN})
    assert lines.last["exception.message"] == "value: value_error"
    assert SSN not in lines.text


def test_hidden_values_in_typed_containers(lines) -> None:
    """Typed dicts, named tuples and unpacked keywords give up their hidden values to the scrubbing of messages."""

    @guarded(monitor=Monitor())
    def predict(options: Options, pair: Pair, **more: Unpack[Options]) -> None:
        raise LookupError(f"{options['password']}, {pair.account}, {more['password']} of {more['seed']}")

    with pytest.raises(LookupError):
        predict({"password": SSN, "seed": 1}, Pair(NUMBER, 2), password="open sesame", seed=3)
    assert lines.last["exception.message"] == "[redacted], [redacted], [redacted] of 3"
    with pytest.raises(InvalidInputError):
        predict({"password": SSN, "seed": 1}, (-NUMBER, 2), password="open sesame", seed="open")
    assert lines.last["mlguard.violations"][-1]["msg"].startswith("must be a valid integer")
    for value in (SSN, str(NUMBER), "open sesame"):
        assert value not in lines.text


def test_a_keyword_named_as_a_positional_only_parameter(lines) -> None:
    """It belongs to the hidden **keywords, in summaries and in violations."""

    @guarded(monitor=Monitor())
    def predict(a: int, /, **more: Annotated[int, Redacted, Field(ge=0)]) -> None: ...

    predict(1, a=NUMBER)
    assert lines.last["mlguard.input.a"] == 1
    assert lines.last["mlguard.input.more"] == "[redacted]"
    with pytest.raises(InvalidInputError):
        predict(1, a=-NUMBER)
    assert str(NUMBER) not in lines.text


@pytest.mark.parametrize(
    ("array", "given"),
    [
        (Array("n", categories=(1.0, 2.0)), [1.0, 3.0]),
        (Array("n", monotonic="increasing"), [2.0, 1.0]),
        (Array("n", unique=True), [1.0, 1.0]),
        (Array("n", le=1), [1.0, 3.0]),
        (Array("n", finite=True), [1.0, np.inf]),
        (Array(3), [1.0, 2.0]),
    ],
    ids=["category", "order", "duplicate", "range", "finite", "shape"],
)
def test_what_an_array_breaks_is_told_beside_hidden_fields(lines, array: Array, given: list[float]) -> None:
    """mlguard's own words quote no value, so that a hidden argument does not take them away."""

    @guarded(monitor=Monitor())
    def predict(ssn: Annotated[str, Redacted], x: Annotated[npt.NDArray[np.float64], array]) -> int:
        return 1

    with pytest.raises(InvalidInputError):
        predict(SSN, np.array(given))
    (violation,) = lines.last["mlguard.violations"]
    assert violation["msg"].startswith("must ")
