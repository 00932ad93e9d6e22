"""JSON Schemas of classes and guarded functions: what they accept and refuse is what the class accepts and refuses."""

# ruff: noqa: E501 - tables read better with a case a line

from __future__ import annotations

import datetime
import functools
import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal, NotRequired, Self

import jsonschema
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    field_validator,
)
from typing_extensions import TypedDict, Unpack

from mlguard import Array, guarded
from mlguard.contracts import ContractError, json_schema


class Arrays(BaseModel):
    matrix: Annotated[npt.NDArray[np.float32], Array("n", 2, ge=0, lt=9)]
    pixels: Annotated[npt.NDArray[np.uint8], Array(2)] = np.zeros(2, np.uint8)
    flags: Annotated[npt.NDArray[np.bool_], Array((1, 3))] | None = None
    words: Annotated[np.ndarray, Array("k", dtype="U3")] | None = None
    deep: Annotated[npt.NDArray[np.float64], Array(..., 2)] | None = None
    codes: Annotated[npt.NDArray[np.int64], Array("c", categories=[1, 2])] | None = None
    columns: (
        Annotated[npt.NDArray[np.float64], Array("r", 2, columns=["age", "bmi"], ge={"age": 0}, le={"bmi": 99})] | None
    ) = None
    whole: Annotated[npt.NDArray[np.integer], Array("w", ge=-3)] | None = None
    some: Annotated[np.ndarray, Array()] | None = None


ARRAYS = [
    ({"matrix": [[0, 8.5]]}, True),
    ({"matrix": []}, True),
    ({"matrix": [[0, 9]]}, False),
    ({"matrix": [[-0.5, 1]]}, False),
    ({"matrix": [[1, 2, 3]]}, False),
    ({"matrix": [1, 2]}, False),
    ({"matrix": "text"}, False),
    ({"matrix": [["1", 2]]}, False),
    ({"matrix": [[None, 2]]}, False),
    ({"matrix": None}, False),
    ({}, False),
    ({"pixels": [0, 255]}, True),
    ({"pixels": [0, 256]}, False),
    ({"pixels": [0, -1]}, False),
    ({"pixels": [0, 1.5]}, False),
    ({"pixels": [0, 1.0]}, True),
    ({"pixels": [0]}, False),
    ({"flags": None}, True),
    ({"flags": [True, False, True]}, True),
    ({"flags": []}, False),
    ({"flags": [True] * 4}, False),
    ({"flags": [1]}, False),
    ({"words": ["abc"]}, True),
    ({"words": ["abcd"]}, False),
    ({"words": [1]}, False),
    ({"deep": [1, 2]}, True),
    ({"deep": [[1, 2], [3, 4]]}, True),
    ({"deep": [[[1, 2]]]}, True),
    ({"deep": [1, 2, 3]}, False),
    ({"deep": [[1], [3]]}, False),
    ({"deep": 1}, False),
    ({"codes": [1, 2, 1]}, True),
    ({"codes": [1, 3]}, False),
    ({"columns": [[0, 99]]}, True),
    ({"columns": [[-1, 5]]}, False),
    ({"columns": [[5, 100]]}, False),
    ({"columns": [[5]]}, False),
    ({"whole": [-3, 2**63 - 1]}, True),
    ({"whole": [-4]}, False),
    ({"whole": [2**63]}, False),
    ({"some": [[["x"]]]}, True),
    ({"some": [1.5]}, True),
    ({"some": 3}, False),
    ({"some": [None]}, False),
]

MORE_THAN_THE_SCHEMA = {
    "a boolean where a number is due": {"matrix": [[True, 1]]},
    "a bound as the dtype rounds it": {"matrix": [[-1e-60, 1]]},
}
LESS_THAN_THE_SCHEMA = {
    "lists of unequal length": {"deep": [[[1, 2]], [[1, 2], [3, 4]]]},
    "lists of unequal depth": {"deep": [[1, 2], [[1, 2]]]},
    "no rows of an array whose other sizes are free": {"some": [[], [[]]]},
    "a number too large for the dtype": {"wide": [1e39]},
    "a whole number that the dtype can't hold exactly": {"wide": [2**24 + 1]},
    "texts and numbers in one array": {"some": ["x", 1]},
}


class Wide(Arrays):
    wide: Annotated[npt.NDArray[np.float32], Array("v")] | None = None


@functools.cache
def of(model: type[BaseModel]) -> jsonschema.Draft202012Validator:
    document = json_schema(model)
    jsonschema.Draft202012Validator.check_schema(document)
    json.dumps(document, allow_nan=False)
    return jsonschema.Draft202012Validator(document)


def taken(model: type[BaseModel], value: Any) -> bool:
    try:
        model.model_validate_json(json.dumps(value))
    except ValidationError:
        return False
    return True


@pytest.mark.parametrize(("value", "good"), ARRAYS)
def test_schema_and_class_agree_on_arrays(value, good):
    """What an array's declaration says, its schema says: nesting, sizes, bounds, categories, columns."""
    value = {"matrix": [[1, 1]], **value} if value else value
    assert taken(Arrays, value) == good
    assert of(Arrays).is_valid(value) == good


@pytest.mark.parametrize("value", MORE_THAN_THE_SCHEMA.values(), ids=MORE_THAN_THE_SCHEMA)
def test_where_the_class_takes_more_than_its_schema(value):
    """The differences that docs/contracts.md lists: a caller who keeps to the schema is always on the safe side."""
    assert taken(Wide, {"matrix": [[1, 1]], **value})
    assert not of(Wide).is_valid({"matrix": [[1, 1]], **value})


@pytest.mark.parametrize("value", LESS_THAN_THE_SCHEMA.values(), ids=LESS_THAN_THE_SCHEMA)
def test_where_the_class_takes_less_than_its_schema(value):
    """The differences that docs/contracts.md lists: what JSON Schema has no words for."""
    assert not taken(Wide, {"matrix": [[1, 1]], **value})
    assert of(Wide).is_valid({"matrix": [[1, 1]], **value})


class Fields(BaseModel):
    model_config = ConfigDict(extra="forbid")

    age: Annotated[int, Field(ge=0, le=150)] = 0
    rate: Annotated[float, Field(gt=0, lt=1)] = 0.5
    name: Annotated[str, Field(min_length=1, max_length=3, pattern="^[a-z]+$")] = "a"
    kind: Literal["x", "y", 3] = "x"
    tags: Annotated[list[str], Field(max_length=2)] = []
    day: datetime.date | None = None
    pair: tuple[int, str] = (1, "a")
    counts: dict[Annotated[str, Field(pattern="^n_")], int] = {}


values = st.recursive(
    st.none() | st.integers(-2, 200) | st.floats(-1, 2) | st.sampled_from(["", "a", "abc", "abcd", "A", "x", "y", "n_1", "2024-02-29"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["n_a", "b"]), inner, max_size=2),
    max_leaves=4,
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from([*Fields.model_fields, "other"]), values, max_size=3))
def test_what_the_schema_accepts_the_class_accepts(value):
    """Any value the schema lets through is one the class takes; the class takes more only where it converts."""
    if of(Fields).is_valid(value):
        assert taken(Fields, value) or "day" in value  # formats are annotations to JSON Schema
    else:
        strict = {name: part for name, part in value.items() if name != "day"}
        try:
            Fields.model_validate_json(json.dumps(strict), strict=True)
        except ValidationError:
            return
        assert "day" in value or of(Fields).is_valid(strict)


class Extra(TypedDict):
    unit: str
    scale: NotRequired[float]


class Loan(BaseModel):
    income: Annotated[float, Field(ge=0, alias="Income")]
    debt: float = 3.0


@guarded
def everything(patient: Arrays, /, steps: Annotated[int, Field(ge=1)] = 3, *more: int, seed: int, **rest: float) -> Annotated[npt.NDArray[np.float64], Array("n", ge=0, le=1)]:  # fmt: skip
    """Does it all."""
    return patient.matrix[:, 0] / 9


@guarded
def unpacked(a: int, **rest: Unpack[Extra]) -> None: ...


@guarded(schema=Loan, output=float)
def loan(income, debt=0.0):
    return income - debt


@guarded
def items(limit: int) -> Iterator[Annotated[int, Field(ge=0)]]:
    yield limit


@guarded
def untyped(a, b=None):
    return a


class Service(BaseModel):
    scale: float = 1.0

    @guarded
    def predict(self, x: int) -> float:
        return x / 2

    @guarded
    def itself(self) -> Self:
        return self

    @guarded
    @staticmethod
    def odd(_x: int, model_config: str, copy: bool = False) -> Extra: ...


class ByChoice(BaseModel):
    model_config = ConfigDict(validate_by_name=True)
    a: Annotated[int, Field(validation_alias=AliasChoices("a", "b"))]


@guarded(schema=ByChoice)
def chosen(a):
    return a


CALLS = [
    (Service.odd, {"_x": 1, "model_config": "a"}, True),
    (Service.odd, {"_x": 1, "model_config": 3}, False),
    (chosen, {"a": 1}, True),
    (chosen, {"a": "x"}, False),
    (everything, {"patient": {"matrix": []}, "seed": 1}, True),
    (everything, {"patient": {"matrix": []}, "seed": 1, "steps": 0}, False),
    (everything, {"patient": {"matrix": []}}, False),
    (everything, {"patient": {"matrix": []}, "seed": 1, "more": [1, 2], "bonus": 1.5}, True),
    (everything, {"patient": {"matrix": []}, "seed": 1, "bonus": "x"}, False),
    (unpacked, {"a": 1, "unit": "kg"}, True),
    (unpacked, {"a": 1}, False),
    (unpacked, {"a": 1, "unit": "kg", "other": 1}, False),
    (loan, {"income": 1}, True),
    (loan, {"income": -1}, False),
    (loan, {"debt": 1}, False),
    (items, {"limit": 1}, True),
    (items, {"limit": "x"}, False),
    (untyped, {"a": {"any": "thing"}}, True),
    (untyped, {"b": 1}, False),
    (untyped, {"a": 1, "c": 1}, False),
    (Service.predict, {"x": 1}, True),
    (Service.predict, {"x": "a"}, False),
]


@pytest.mark.parametrize(("function", "arguments", "good"), CALLS)
def test_a_guarded_function_is_described_by_its_arguments(function, arguments, good):
    """One object with a key an argument, whatever way Python takes it."""
    document = json_schema(function)
    jsonschema.Draft202012Validator.check_schema(document)
    assert jsonschema.Draft202012Validator(document).is_valid(arguments) == good


def test_a_result_is_described_beside_the_arguments():
    """`result` says what the caller gets; of a stream, each item."""
    assert json_schema(everything)["result"]["shape"] == ["n"]
    assert json_schema(everything)["description"] == "Does it all."
    assert json_schema(loan)["result"] == {"type": "number"}
    assert json_schema(loan)["properties"]["debt"]["default"] == 0.0
    assert json_schema(items)["result"] == {"type": "integer", "minimum": 0}
    assert json_schema(items)["items_of"] == "stream"
    assert json_schema(untyped)["result"] == {}


def test_what_json_schema_has_no_word_for_is_said_beside_it():
    """dtype, shape and the rest of an array's declaration are keywords of their own."""

    class Rich(BaseModel):
        a: Annotated[
            npt.NDArray[np.float64],
            Array("n", ("m", 1, None), finite=True, monotonic="increasing", unique=True, max_bytes="1KiB", strict=True),
        ]
        names: Annotated[list[str], Array("n", unique=True)]

    properties = json_schema(Rich)["properties"]
    assert properties["a"] == {
        "title": "A",
        "type": "array",
        "items": {"type": "array", "minItems": 1, "items": {"type": "number"}},
        "dtype": "float64",
        "shape": ["n", ["m", 1, None]],
        "finite": True,
        "strict": True,
        "unique": True,
        "monotonic": "increasing",
        "max_bytes": 1024,
    }
    assert properties["names"]["shape"] == ["n"]
    assert properties["names"]["uniqueItems"]


def test_validators_are_listed_because_no_schema_can_say_what_they_do():
    """Who reads the schema knows that the class refuses more."""

    class Checked(BaseModel):
        a: Annotated[int, AfterValidator(lambda value: value)]
        b: Annotated[int, PlainValidator(int)]
        c: int
        d: int

        @field_validator("c")
        @classmethod
        def even(cls, value: int) -> int:
            return value

        @field_validator("c", mode="before")
        @classmethod
        def before(cls, value: int) -> int:
            return value

        @field_validator("d", mode="wrap")
        @classmethod
        def around(cls, value: int, handler: Any) -> int:
            return handler(value)

    properties = json_schema(Checked)["properties"]
    assert properties["a"]["validators"] == ["<lambda>"]
    assert properties["b"]["validators"] == ["int"]
    assert sorted(properties["c"]["validators"]) == ["Checked.before", "Checked.even"]
    assert properties["d"]["validators"] == ["Checked.around"]


def test_further_names_of_a_field_are_listed():
    """A field read by several names has them all in its schema."""

    class Renamed(BaseModel):
        age: Annotated[int, Field(validation_alias=AliasChoices("age", "age_years"))]

    assert json_schema(Renamed)["properties"]["age"]["aliases"] == ["age_years"]


def test_a_default_that_json_can_not_hold_is_left_out():
    """NaN and infinities never reach a JSON document."""

    class Defaults(BaseModel):
        a: float = float("nan")
        b: list[float] = [float("inf")]
        c: Annotated[npt.NDArray[np.float64], Array("n", le=float("inf"))] = np.array([np.nan])

    properties = json_schema(Defaults)["properties"]
    json.dumps(properties, allow_nan=False)
    assert "default" not in properties["a"] | properties["b"] | properties["c"]


class Opaque: ...


@guarded
def opaque(model: Opaque, x: int) -> int:
    return x


class HoldsOpaque(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    inner: dict[str, Opaque]


def test_what_is_not_defined_yet_is_said():
    """An annotation that names nothing is an error of the contract."""

    class Open(BaseModel):
        later: NeverDefined  # noqa: F821

    @guarded
    def open_function(a: NeverDefined) -> int: ...  # noqa: F821

    with pytest.raises(ContractError, match="Fix: make it usable in Python first"):
        json_schema(Open)
    with pytest.raises(ContractError, match="NeverDefined"):
        json_schema(open_function)


def test_a_method_that_returns_its_own_class():
    """Self is the class that holds the method."""
    document = json_schema(Service.itself)
    assert document["result"] == {"$ref": "#/$defs/Service"}
    assert document["properties"] == {}


def test_defaults_and_containers_of_arguments():
    """A Field as default, **rest of one type, and a type alias as subject."""

    @guarded
    def call(a: int = Field(3, ge=0), **rest: Any) -> None: ...

    assert json_schema(call)["properties"]["a"] == {"type": "integer", "minimum": 0, "default": 3}
    assert json_schema(call)["additionalProperties"] is True
    assert json_schema(Extra)["required"] == ["unit"]
    assert json_schema(list[Loan])["items"] == {"$ref": "#/$defs/Loan"}


@pytest.mark.parametrize(
    ("subject", "words"),
    [
        (3, ["an object of type int", "Fix: name a class"]),
        (json, ["an object of type module"]),
        (json.dumps, ["the function dumps", "Fix: decorate it with @guarded"]),
        (opaque, ["opaque.arguments.model", "IsInstance", "WithJsonSchema"]),
        (HoldsOpaque, ["HoldsOpaque.inner", "WithJsonSchema"]),
        (Opaque, ["Opaque", "Fix:"]),
    ],
)
def test_what_has_no_schema_is_refused_with_its_place(subject, words):
    """The error names the field and the fix."""
    with pytest.raises(ContractError) as raised:
        json_schema(subject)
    for word in words:
        assert word in str(raised.value)
