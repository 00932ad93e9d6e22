"""pydantic's own constraints beside an `Array` mean what the arguments of `Array` mean."""

from __future__ import annotations

import pickle
from typing import Annotated, Any

import annotated_types
import cloudpickle
import numpy as np
import numpy.typing as npt
import pytest
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from pydantic.json_schema import PydanticJsonSchemaWarning

from mlguard import Array, InvalidInputError, InvalidOutputError, PolicyError, guarded

Floats = npt.NDArray[np.float64]


def declared(*marks: Any) -> Array:
    """What the marks come to, as the core schema has it."""
    from mlguard.validation.array import array_checks

    (check,) = array_checks(TypeAdapter(Annotated[(Floats, *marks)]).core_schema)
    return check.array


@pytest.mark.parametrize(
    ("mark", "meant"),
    [
        (Field(ge=0), Array("n", ge=0)),
        (Field(gt=0, le=5), Array("n", gt=0, le=5)),
        (Field(lt=1.5), Array("n", lt=1.5)),
        (Field(allow_inf_nan=False), Array("n", finite=True)),
        (Field(strict=True), Array("n", strict=True)),
        (Field(description="words"), Array("n")),
        (Field(min_length=1), Array(("n", 1, None))),
        (Field(max_length=9), Array(("n", 0, 9))),
        (annotated_types.Ge(0), Array("n", ge=0)),
        (annotated_types.Interval(gt=0, le=5), Array("n", gt=0, le=5)),
        (annotated_types.Len(1, 9), Array(("n", 1, 9))),
        (annotated_types.MinLen(2), Array(("n", 2, None))),
        ("a note", Array("n")),
    ],
)
def test_a_constraint_means_the_same_before_and_behind(mark: Any, meant: Array) -> None:
    """In either order, and on a field of a model as on an argument."""
    assert declared(Array("n"), mark) == meant
    assert declared(mark, Array("n")) == meant


def test_length_is_the_first_dimension() -> None:
    """What len() of the array is."""
    assert declared(Array(), annotated_types.MinLen(1)) == Array((1, None), ...)
    assert declared(Array(3, "n"), annotated_types.MaxLen(3)) == Array(3, "n")
    assert declared(Array((2, 9)), annotated_types.MaxLen(5)) == Array((2, 5))


class Model(BaseModel):
    x: Annotated[Floats, Array("n"), Field(ge=0, le=10, description="between")]
    y: Annotated[Floats, Array("n")] = Field(np.ones(1), gt=0)
    z: Annotated[Floats, Array("n"), annotated_types.Ge(1)] | None = None
    several: list[Annotated[Floats, Array(2), annotated_types.Lt(9)]] = []


@dataclass
class Point:
    x: Annotated[Floats, Field(ge=0), Array("n")]


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"x": [-1]}, "must be >= 0 and <= 10"),
        ({"x": [1], "y": [0]}, "must be > 0"),
        ({"x": [1], "z": [0.5]}, "must be >= 1"),
        ({"x": [1], "several": [[1, 1], [9, 1]]}, "must be < 9"),
    ],
)
def test_fields_of_models_built_anywhere(bad: dict[str, Any], words: str) -> None:
    """In a plain model, in a guarded call, from JSON: one meaning."""

    @guarded
    def f(model: Model) -> int:
        return 1

    assert f({"x": [1]}) == 1  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match=words):
        Model(**bad)
    with pytest.raises(ValidationError, match=words):
        Model.model_validate_json(__import__("json").dumps(bad))
    with pytest.raises(InvalidInputError, match=words):
        f(bad)  # type: ignore[arg-type]


def test_dataclasses_arguments_and_results() -> None:
    """Wherever an annotation stands."""

    @guarded
    def f(
        point: Point,
        w: Annotated[Floats, Array("n"), Field(le=1)] = Field(np.zeros(1), ge=0),  # noqa: B008
    ) -> Annotated[Floats, Array("n"), Field(ge=0)]:
        return point.x - w

    assert f(Point(x=np.ones(1))).tolist() == [1]
    with pytest.raises(ValidationError, match="must be >= 0"):
        Point(x=[-1])  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="w: must be >= 0 and <= 1"):
        f(Point(x=np.ones(1)), [-1])  # type: ignore[arg-type]
    with pytest.raises(InvalidOutputError, match="return: must be >= 0"):
        f(Point(x=np.zeros(1)), [1])  # type: ignore[arg-type]


def test_the_description_shows_what_is_in_force() -> None:
    """`explain` and the JSON Schema have the bounds that stand beside."""

    @guarded
    def f(x: Annotated[Floats, Array("n"), Field(ge=0)]) -> None: ...

    assert "Argument x must be ndarray of float64 as Array('n', ge=0)." in f.guard.explain()
    with pytest.warns(PydanticJsonSchemaWarning):  # of y, whose default is no JSON
        described = Model.model_json_schema()["properties"]["x"]
    assert described["items"] == {"type": "number", "minimum": 0, "maximum": 10}
    assert described["description"] == "between"


@pytest.mark.parametrize(
    ("marks", "message"),
    [
        ((Array(ge=0), Field(ge=1)), "ge = 0, but beside it stands ge = 1. Fix: drop one"),
        ((Array(ge=0), annotated_types.Gt(0)), "ge and gt are both given"),
        ((Array(), Field(ge=1), Field(le=0)), "no value lies in this range"),
        ((Array(), Field(multiple_of=2)), "multiple_of = 2 can't be read as a constraint of arrays"),
        ((Array(), Field(pattern="a")), "can't be read as a constraint"),
        ((Array(), annotated_types.Predicate(np.all)), "can't be read as a constraint"),
        ((Array(3), annotated_types.MinLen(4)), "leaves no size"),
        ((Array(..., 3), annotated_types.MinLen(4)), "min_length needs a first dimension"),
        ((Array(allow_nan=True, ge=0), Field(allow_inf_nan=False)), "finite=True refuses NaN"),
    ],
)
def test_contradictions_are_refused_when_declared(marks: Any, message: str) -> None:
    """Both given and different, or no constraint of arrays at all: the error names the fix."""
    with pytest.raises(PolicyError, match=message):
        declared(*marks)


def test_the_same_twice_is_no_contradiction() -> None:
    """Saying it in both places changes nothing."""
    assert declared(Array(ge=0), Field(ge=0)) == Array(ge=0)


def test_validators_beside_an_array_run_in_their_order() -> None:
    """BeforeValidator sees what came, AfterValidator the array, on whichever side of Array they stand."""

    class Doubled(BaseModel):
        x: Annotated[Floats, BeforeValidator(lambda value: [2 * each for each in value]), Array("n", le=4)]
        y: Annotated[Floats, Array("n", le=4), AfterValidator(lambda value: value + 1)]

    model = Doubled(x=[1, 2], y=[4])
    assert (model.x.tolist(), model.y.tolist()) == ([2, 4], [5])
    with pytest.raises(ValidationError, match="must be <= 4"):
        Doubled(x=[3], y=[1])


def test_a_model_with_such_a_field_can_be_shipped() -> None:
    """Its schema pickles as plain data."""
    again = pickle.loads(cloudpickle.dumps(TypeAdapter(Annotated[Floats, Array("n"), Field(ge=0)]).validator))
    assert again.validate_python([1.0]).tolist() == [1.0]
    with pytest.raises(ValidationError):
        again.validate_python([-1.0])


def test_a_generic_model_and_a_subclass_keep_the_bounds() -> None:
    """pydantic builds their schemas anew."""

    class Wider(Model):
        more: int = 1

    with pytest.raises(ValidationError, match="must be >= 0 and <= 10"):
        Wider(x=[-1])  # type: ignore[arg-type]
    assert Wider.model_rebuild(force=True)
    with pytest.raises(ValidationError, match="must be >= 0 and <= 10"):
        Wider(x=[-1])  # type: ignore[arg-type]
