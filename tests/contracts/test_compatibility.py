"""Verdicts on two versions of a contract, held against what the classes themselves accept and refuse."""

# ruff: noqa: E501 - tables read better with a case a line

from __future__ import annotations

from typing import Annotated, Any, Literal

import jsonschema
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import AfterValidator, AliasChoices, BaseModel, ConfigDict, Field, ValidationError, create_model

from mlguard import Array, Rows, guarded
from mlguard.contracts import ContractError, compare, json_schema

QUICK = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def model(extra: str = "ignore", **fields: Any) -> type[BaseModel]:
    return create_model("Model", __config__=ConfigDict(extra=extra), **fields)


def verdict(old: Any, new: Any, mode: Any = "backward") -> tuple[str, list[tuple[str, str, str]]]:
    found = compare(json_schema(old), json_schema(new), mode)
    counted = [each.finding for each in found.judgements]
    return found.verdict, [(each.path, each.verdict, each.rule) for each in counted if each.verdict != "note"]


def array(dtype: Any, *shape: Any, **rules: Any) -> Any:
    return Annotated[npt.NDArray[dtype], Array(*shape, **rules)]


def text_array(dtype: str) -> Any:
    return Annotated[np.ndarray, Array("n", dtype=dtype)]


GOOD: tuple[str, list[Any]] = ("compatible", [])


def bad(rule: str, path: str = "a") -> tuple[str, list[tuple[str, str, str]]]:
    return "incompatible", [(path, "incompatible", rule)]


def unsure(rule: str, path: str = "a") -> tuple[str, list[tuple[str, str, str]]]:
    return "unknown", [(path, "unknown", rule)]


def between(**bounds: Any) -> Any:
    return Annotated[float, Field(**bounds)]


def checked(value: int) -> int:
    return value


class Tree(BaseModel):
    leaf: int
    below: list[Tree] = []


class WiderTree(BaseModel):
    leaf: float
    below: list[WiderTree] = []


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]


BACKWARD = [
    # fields
    (model(a=(int, ...)), model(a=(int, ...), b=(int, 1)), GOOD),
    (model(a=(int, ...)), model(a=(int, ...), b=(int, ...)), bad("field-added-required", "b")),
    (model(a=(int, ...), b=(int, ...)), model(a=(int, ...)), GOOD),
    (model(a=(int, ...), b=(int, 1)), model("forbid", a=(int, ...)), ("incompatible", [("b", "incompatible", "field-removed"), ("", "incompatible", "extra")])),
    (model(a=(int, 1)), model(a=(int, ...)), bad("became-required")),
    (model(a=(int, ...)), model(a=(int, 1)), GOOD),
    # further keys
    (model(a=(int, ...)), model("forbid", a=(int, ...)), bad("extra", "")),
    (model("forbid", a=(int, ...)), model(a=(int, ...)), GOOD),
    (model("allow", a=(int, ...)), model(a=(int, ...)), GOOD),
    (model("allow", a=(int, ...)), model("allow", a=(int, ...), b=(int, 1)), bad("type", "b")),
    (model("allow", a=(int, ...)), model("allow", a=(int, ...), b=(Any, 1)), GOOD),
    (model(a=(dict[str, int], ...)), model(a=(dict[str, float], ...)), GOOD),
    (model(a=(dict[str, float], ...)), model(a=(dict[str, int], ...)), bad("type", "a.*")),
    # types
    (model(a=(int, ...)), model(a=(float, ...)), GOOD),
    (model(a=(float, ...)), model(a=(int, ...)), bad("type")),
    (model(a=(int, ...)), model(a=(str, ...)), bad("type")),
    (model(a=(int, ...)), model(a=(int | str, ...)), GOOD),
    (model(a=(int | str, ...)), model(a=(int, ...)), bad("type")),
    (model(a=(bool, ...)), model(a=(int, ...)), bad("type")),
    (model(a=(int, ...)), model(a=(Any, ...)), GOOD),
    (model(a=(Any, ...)), model(a=(int, ...)), bad("type")),
    (model(a=(list[int], ...)), model(a=(list[float], ...)), GOOD),
    (model(a=(tuple[int, str], ...)), model(a=(tuple[float, str], ...)), GOOD),
    (model(a=(tuple[int, str], ...)), model(a=(tuple[int, int], ...)), bad("type", "a[1]")),
    (model(a=(tuple[int, int], ...)), model(a=(list[int], ...)), GOOD),
    (model(a=(list[int], ...)), model(a=(set[int], ...)), bad("unique")),
    (Tree, WiderTree, GOOD),
    (WiderTree, Tree, ("incompatible", [("leaf", "incompatible", "type"), ("below[].leaf", "incompatible", "type")])),
    (Tree, Tree, GOOD),
    # nullability
    (model(a=(int, ...)), model(a=(int | None, ...)), GOOD),
    (model(a=(int | None, ...)), model(a=(int, ...)), bad("nullability")),
    # bounds and sizes
    (model(a=(between(ge=0), ...)), model(a=(between(ge=-1), ...)), GOOD),
    (model(a=(between(ge=0), ...)), model(a=(between(gt=0), ...)), bad("bounds")),
    (model(a=(between(gt=0), ...)), model(a=(between(ge=0), ...)), GOOD),
    (model(a=(between(), ...)), model(a=(between(le=9), ...)), bad("bounds")),
    (model(a=(Annotated[int, Field(gt=0)], ...)), model(a=(Annotated[int, Field(ge=1)], ...)), GOOD),
    (model(a=(Annotated[int, Field(lt=5)], ...)), model(a=(Annotated[int, Field(le=4)], ...)), GOOD),
    (model(a=(Annotated[int, Field(multiple_of=4)], ...)), model(a=(Annotated[int, Field(multiple_of=2)], ...)), GOOD),
    (model(a=(int, ...)), model(a=(Annotated[int, Field(multiple_of=2)], ...)), bad("bounds")),
    (model(a=(Annotated[str, Field(max_length=9)], ...)), model(a=(Annotated[str, Field(max_length=8)], ...)), bad("size")),
    (model(a=(Annotated[list[int], Field(min_length=2)], ...)), model(a=(Annotated[list[int], Field(min_length=1)], ...)), GOOD),
    (model(a=(list[int], ...)), model(a=(Annotated[list[int], Field(min_length=1)], ...)), bad("size")),
    # categories
    (model(a=(Literal["x"], ...)), model(a=(Literal["x", "y"], ...)), GOOD),
    (model(a=(Literal["x", "y"], ...)), model(a=(Literal["x"], ...)), bad("categories")),
    (model(a=(Literal["x"], ...)), model(a=(str, ...)), GOOD),
    (model(a=(Literal["x"], ...)), model(a=(Annotated[str, Field(min_length=2)], ...)), bad("categories")),
    (model(a=(str, ...)), model(a=(Literal["x"], ...)), bad("categories")),
    (model(a=(Literal[1, 2], ...)), model(a=(between(ge=1), ...)), GOOD),
    (model(a=(Annotated[int, Field(ge=1, le=2)], ...)), model(a=(Literal[1, 2, 3], ...)), GOOD),
    (model(a=(Annotated[int, Field(ge=0, le=2)], ...)), model(a=(Literal[1, 2, 3], ...)), bad("categories")),
    (model(a=(bool, ...)), model(a=(Literal[True, False], ...)), GOOD),
    # patterns and formats
    (model(a=(Annotated[str, Field(pattern="^[a-z]+$")], ...)), model(a=(str, ...)), GOOD),
    (model(a=(str, ...)), model(a=(Annotated[str, Field(pattern="^[a-z]+$")], ...)), bad("pattern")),
    (model(a=(Annotated[str, Field(pattern="^[a-f]+$")], ...)), model(a=(Annotated[str, Field(pattern="^[a-z]+$")], ...)), unsure("pattern")),
    (model(a=(Annotated[str, Field(pattern="^[A-Z]+$")], ...)), model(a=(Annotated[str, Field(pattern="^[a-z]+$")], ...)), bad("pattern")),
    # unions
    (model(a=(Cat | Dog, ...)), model(a=(Cat | Dog | int, ...)), GOOD),
    (model(a=(Annotated[Cat | Dog, Field(discriminator="kind")], ...)), model(a=(Cat | Dog, ...)), GOOD),
    (model(a=(Annotated[int, Field(ge=0, le=9)], ...)), model(a=(Annotated[int, Field(ge=0, le=5)] | Annotated[int, Field(ge=5)], ...)), unsure("union")),
    # what no schema says
    (model(a=(int, ...)), model(a=(Annotated[int, AfterValidator(checked)], ...)), unsure("validator")),
    (model(a=(Annotated[int, AfterValidator(checked)], ...)), model(a=(int, ...)), GOOD),
    (model(a=(Annotated[int, AfterValidator(checked)], ...)), model(a=(Annotated[int, AfterValidator(checked)], ...)), GOOD),
    # names
    (model(a=(int, ...)), model(b=(Annotated[int, Field(validation_alias=AliasChoices("b", "a"))], ...)), GOOD),
    # arrays
    (model(a=(array(np.float32, "n", 3), ...)), model(a=(array(np.float64, "n", 3), ...)), GOOD),
    (model(a=(array(np.float64, "n", 3), ...)), model(a=(array(np.float32, "n", 3), ...)), bad("dtype")),
    (model(a=(array(np.uint8, "n"), ...)), model(a=(array(np.float32, "n"), ...)), GOOD),
    (model(a=(array(np.int64, "n"), ...)), model(a=(array(np.float64, "n"), ...)), bad("dtype")),
    (model(a=(array(np.int64, "n", ge=0, le=2**40), ...)), model(a=(array(np.float64, "n"), ...)), GOOD),
    (model(a=(array(np.float32, "n"), ...)), model(a=(array(np.floating, "n"), ...)), GOOD),
    (model(a=(array(np.floating, "n"), ...)), model(a=(array(np.float64, "n"), ...)), bad("dtype")),
    (model(a=(array(np.bool_, "n"), ...)), model(a=(array(np.int8, "n", ge=0), ...)), GOOD),
    (model(a=(array(np.bool_, "n"), ...)), model(a=(array(np.int8, "n", ge=1), ...)), bad("bounds")),
    (model(a=(array(np.float32, "n"), ...)), model(a=(array(np.float32, "n", strict=True), ...)), bad("dtype")),
    (model(a=(array(np.float64, 4, 3), ...)), model(a=(array(np.float64, "n", 3), ...)), GOOD),
    (model(a=(array(np.float64, "n", 3), ...)), model(a=(array(np.float64, 4, 3), ...)), bad("shape")),
    (model(a=(array(np.float64, "n", 3), ...)), model(a=(array(np.float64, ..., 3), ...)), GOOD),
    (model(a=(array(np.float64, ..., 3), ...)), model(a=(array(np.float64, "n", 3), ...)), bad("shape")),
    (model(a=(array(np.float64, "n", (1, 9)), ...)), model(a=(array(np.float64, "n", ("m", 1, 10)), ...)), GOOD),
    (model(a=(array(np.float64, "n", (0, 9)), ...)), model(a=(array(np.float64, "n", (1, 9)), ...)), bad("shape")),
    (model(a=(array(np.float64, "n"), ...)), model(a=(array(np.float64, "n", finite=True), ...)), bad("nan")),
    (model(a=(array(np.float64, "n", ge=0, le=1), ...)), model(a=(array(np.float64, "n", finite=True), ...)), GOOD),
    (model(a=(array(np.float64, "n", ge=0, allow_nan=True), ...)), model(a=(array(np.float64, "n", ge=0), ...)), bad("nan")),
    (model(a=(array(np.float64, "n", ge=0, le=1), ...)), model(a=(array(np.float64, "n", ge=0, le=0.5), ...)), bad("bounds")),
    (model(a=(array(np.float32, "n", ge=0, le=0.1), ...)), model(a=(array(np.float64, "n", ge=0, le=0.1), ...)), bad("bounds")),
    (model(a=(array(np.float64, "n", 2, ge=[0, 1], le=[5, 5]), ...)), model(a=(array(np.float64, "n", 2, ge=0, le=5), ...)), GOOD),
    (model(a=(array(np.float64, "n", 2, ge=0, le=5), ...)), model(a=(array(np.float64, "n", 2, ge=[0, 1], le=[5, 5]), ...)), bad("bounds", "a[1]")),
    (model(a=(array(np.int64, "n", categories=[1, 2]), ...)), model(a=(array(np.int64, "n", categories=[1, 2, 3]), ...)), GOOD),
    (model(a=(array(np.int64, "n", categories=[1, 2]), ...)), model(a=(array(np.int64, "n", categories=[1]), ...)), bad("categories")),
    (model(a=(array(np.int64, "n"), ...)), model(a=(array(np.int64, "n", categories=[1]), ...)), bad("categories")),
    (model(a=(array(np.int64, "n", monotonic="strictly_increasing"), ...)), model(a=(array(np.int64, "n", monotonic="increasing"), ...)), GOOD),
    (model(a=(array(np.int64, "n"), ...)), model(a=(array(np.int64, "n", monotonic="increasing"), ...)), bad("order")),
    (model(a=(array(np.int64, "n"), ...)), model(a=(array(np.int64, "n", unique=True), ...)), bad("unique")),
    (model(a=(array(np.int64, "n"), ...)), model(a=(array(np.int64, "n", max_bytes=800), ...)), bad("size")),
    (model(a=(array(np.int64, "n"), ...)), model(a=(array(np.int64, "n") | None, ...)), GOOD),
    (model(a=(array(np.int64, "n") | None, ...)), model(a=(array(np.int64, "n"), ...)), bad("nullability")),
    (model(a=(array(np.int64, "n"), ...)), model(a=(list[int], ...)), bad("type")),
    (model(a=(list[Annotated[int, Field(ge=0, le=9)]], ...)), model(a=(array(np.int64, "n"), ...)), unsure("type")),
    (model(a=(list[str], ...)), model(a=(array(np.int64, "n"), ...)), ("incompatible", [("a", "unknown", "type"), ("a[]", "incompatible", "type")])),
    (model(a=(str, ...)), model(a=(array(np.int64, "n"), ...)), bad("type")),
    (model(a=(text_array("U3"), ...)), model(a=(text_array("U4"), ...)), GOOD),
    (model(a=(text_array("U4"), ...)), model(a=(text_array("U3"), ...)), bad("dtype")),
    # sizes tied by a name
    (model(a=(array(np.int64, "n"), ...), b=(array(np.int64, "n"), ...)), model(a=(array(np.int64, "n"), ...), b=(array(np.int64, "m"), ...)), GOOD),
    (model(a=(array(np.int64, "n"), ...), b=(array(np.int64, "m"), ...)), model(a=(array(np.int64, "n"), ...), b=(array(np.int64, "n"), ...)), bad("dimension-names")),
    (model(a=(array(np.int64, 3), ...), b=(array(np.int64, 3), ...)), model(a=(array(np.int64, "n"), ...), b=(array(np.int64, "n"), ...)), GOOD),
    (model(a=(list[array(np.int64, (0, None))], ...)), model(a=(list[array(np.int64, "n")], ...)), bad("dimension-names", "a[]")),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "expected"), BACKWARD, ids=range(len(BACKWARD)))
def test_each_rule_of_the_docs_gives_its_verdict(old, new, expected):
    """Backward: does the new schema take what was made for the old one?"""
    assert verdict(old, new) == expected


@pytest.mark.parametrize(("old", "new", "expected"), BACKWARD, ids=range(len(BACKWARD)))
def test_forward_is_backward_the_other_way_round(old, new, expected):
    """Forward asks of the old schema what backward asks of the new one."""
    assert verdict(new, old, "forward") == expected


def test_full_wants_both_ways():
    """Full is compatible only where both ways are."""
    old, new = model(a=(int, ...)), model(a=(float, ...))
    assert verdict(old, new, "full") == ("incompatible", [("a", "incompatible", "type")])
    assert verdict(old, model(a=(int, ...), b=(int, 1)), "full") == GOOD


def test_a_result_is_compared_the_other_way_round():
    """A service may promise more than before, never less: its callers read the result."""

    @guarded
    def old(a: int) -> Annotated[float, Field(ge=0, le=1)]:
        return a / 2

    @guarded
    def narrower(a: float) -> Annotated[float, Field(ge=0, le=0.5)]:
        return a / 2

    assert verdict(old, narrower) == GOOD
    assert verdict(narrower, old) == (
        "incompatible",
        [("a", "incompatible", "type"), ("return", "incompatible", "bounds")],
    )
    assert verdict(narrower, old, "forward") == GOOD


def test_a_result_tied_to_an_argument_stays_tied():
    """Callers may count on as many results as rows."""

    @guarded
    def tied(x: array(np.float64, "n", 2)) -> array(np.float64, "n"):
        return x[:, 0]

    @guarded
    def loose(x: array(np.float64, "n", 2)) -> array(np.float64, "k"):
        return x[:, 0]

    assert verdict(tied, loose) == ("incompatible", [("x", "incompatible", "dimension-names")])
    assert verdict(loose, tied) == GOOD


class Sample(BaseModel):
    age: int


@pytest.mark.parametrize("kind", [list[dict[str, Any]], dict[str, npt.NDArray[Any]]])
def test_the_length_of_a_table_is_tied_like_that_of_an_array(kind):
    """A name that a table shares with an array, an argument or the result, is compared like any other."""

    @guarded
    def tied(rows: Annotated[kind, Rows(Sample, "n")], w: array(np.float64, "n")) -> array(np.float64, "n"):
        return w

    @guarded
    def loose(rows: Annotated[kind, Rows(Sample)], w: array(np.float64, "n")) -> array(np.float64, "k"):
        return w

    @guarded
    def other(rows: Annotated[kind, Rows(Sample, "m")], w: array(np.float64, "n")) -> array(np.float64, "n"):
        return w

    assert json_schema(tied)["properties"]["rows"]["shape"] == ["n"]
    for untied in (loose, other):
        assert verdict(untied, tied)[0] == "incompatible"
        assert "dimension-names" in [rule for _, _, rule in verdict(untied, tied)[1]]
    assert verdict(tied, loose)[0] == "incompatible"  # the result has any size
    assert verdict(tied, other) == verdict(tied, tied, "full") == GOOD


def test_arguments_tied_to_each_other_and_to_the_result():
    """A result of that name hides no tie among arguments; where callers send equal sizes, one of them is enough."""

    @guarded
    def tied(x: array(np.float64, "n"), y: array(np.float64, "n")) -> array(np.float64, "n"):
        return x

    @guarded
    def free(x: array(np.float64, "n"), y: array(np.float64, "m")) -> array(np.float64, "n"):
        return x

    assert verdict(free, tied) == ("incompatible", [("x", "incompatible", "dimension-names")])
    assert verdict(tied, free) == GOOD


def test_a_stream_is_no_single_result():
    """Items in place of a result break those who read it."""

    @guarded
    def single(a: int) -> int:
        return a

    @guarded
    def stream(a: int) -> Any:
        yield a

    assert ("return", "incompatible", "type") in verdict(single, stream)[1]


def test_a_rename_is_pointed_out_with_the_alias_that_bridges_it():
    """Removed and added alike is probably a rename, and the finding says how to keep both names."""
    found = compare(json_schema(model(age_years=(int, ...))), json_schema(model(age=(int, ...))))
    hints = [each.finding.reason for each in found.judgements if each.finding.rule == "rename"]
    assert hints == [
        "looks like a rename of 'age_years' to 'age'. Fix: validation_alias=AliasChoices('age', 'age_years') reads both"
    ]


def test_a_changed_default_is_noted_and_breaks_nothing():
    """Who leaves the field out gets something else, which nobody refuses."""
    found = compare(json_schema(model(a=(int, 1))), json_schema(model(a=(int, 2))))
    assert found.verdict == "compatible"
    assert [each.finding.rule for each in found.judgements] == ["default"]


def test_a_keyword_nobody_knows_is_not_judged_silently():
    """A schema written elsewhere may say what this does not know: unknown, never a silent yes."""
    old = {"type": "object", "properties": {"a": {"type": "string"}}}
    new = {"type": "object", "properties": {"a": {"type": "string", "contentEncoding": "base64"}}}
    assert compare(old, new).verdict == "unknown"
    assert compare(new, old).verdict == "compatible"
    elsewhere = {"type": "object", "properties": {"a": {"$ref": "https://example.org/a.json"}}}
    assert compare(old, elsewhere).verdict == "unknown"
    assert compare(elsewhere, elsewhere).verdict == "compatible"


DOCUMENTS: list[tuple[Any, Any, str]] = [
    ({"allOf": [{"type": "integer"}]}, {"minimum": 0}, "unknown"),
    ({"allOf": [{"type": "integer"}]}, {"allOf": [{"type": "integer"}]}, "compatible"),
    ({"type": "integer"}, {"anyOf": [{"type": "integer"}, {"type": "null"}], "maxLength": 3}, "unknown"),
    ({"type": ["integer", "null"]}, {"type": ["number", "null"]}, "compatible"),
    ({"type": ["integer", "null"]}, {"type": "number"}, "incompatible"),
    ({"enum": [1, "a"]}, {"type": ["integer", "string"]}, "compatible"),
    ({"enum": [[1]]}, {"type": "array"}, "unknown"),
    ({"const": 1.0}, {"type": "integer"}, "compatible"),
    ({"const": 3}, {"type": "integer", "multipleOf": 2}, "incompatible"),
    ({"const": 3}, {"const": 3, "not": {}}, "incompatible"),
    ({}, {"anyOf": [{"type": "integer"}, True]}, "compatible"),
    ({"anyOf": [True, {"type": "null"}]}, {"anyOf": [{"type": "integer"}, False]}, "incompatible"),
    ({"type": "null"}, {"anyOf": [{"type": "integer"}, False]}, "incompatible"),
    ({"const": 3}, {"not": {"type": "string"}}, "unknown"),
    ({"const": 3}, {"anyOf": [{"type": "integer"}], "enum": ["a"]}, "incompatible"),
    ({"type": "integer"}, {"anyOf": [{"type": ["string", "number"], "minimum": 1}]}, "incompatible"),
    ({"type": "integer"}, {"anyOf": [{"type": ["string", "number"]}, {"type": "null"}]}, "compatible"),
    ({"type": "object"}, {"type": "object", "required": ["a"]}, "incompatible"),
    ({"type": "object", "required": ["a"]}, {"type": "object", "required": ["a"]}, "compatible"),
    ({"type": "object", "required": ["a"]}, {"type": "object", "properties": {"a": {"type": "integer"}}}, "incompatible"),
    ({"type": "object", "required": ["a"]}, {"type": "object", "properties": {"b": {}}}, "compatible"),
    ({"const": 0.75}, {"type": "number", "multipleOf": 0.5}, "unknown"),
    ({"const": 5}, {"type": "number", "exclusiveMaximum": 5}, "incompatible"),
    ({"const": 5}, {"type": "number", "exclusiveMinimum": 5}, "incompatible"),
    ({"const": "2024-01-01"}, {"type": "string", "format": "date"}, "unknown"),
    ({"const": "a"}, {"type": "string", "pattern": "("}, "unknown"),
    ({"const": "a"}, {"const": "b"}, "incompatible"),
    ({"const": True}, {"const": 1}, "incompatible"),
    ({"type": "string"}, {"type": "string", "pattern": "("}, "unknown"),
    ({"type": "string"}, {"type": "string", "format": "date"}, "incompatible"),
    ({"type": "string", "format": "date"}, {"type": "string", "format": "date-time"}, "unknown"),
    ({"type": "string", "pattern": "x"}, {"enum": ["x"]}, "unknown"),
    ({"type": "integer", "multipleOf": 2}, {"type": "number", "multipleOf": 0.4}, "unknown"),
    ({"type": "number", "multipleOf": 2}, {"type": "integer"}, "compatible"),
    ({"type": "integer"}, {"enum": list(range(9))}, "incompatible"),
    ({"type": "object"}, {"type": "object", "minProperties": 1}, "incompatible"),
    ({"type": "object"}, {"type": "object", "propertyNames": {"pattern": "^a"}}, "unknown"),
    ({"type": "object", "additionalProperties": False}, {"type": "object"}, "compatible"),
    ({"type": "object", "properties": {"a": True}}, {"type": "object", "additionalProperties": {"type": "integer"}}, "incompatible"),
    ({"type": "object", "properties": {"a": False}}, {"type": "object", "properties": {"a": {"type": "string"}}}, "compatible"),
    ({"type": "object", "properties": {"a": {"type": "string"}}}, {"type": "object", "properties": {"a": True}}, "compatible"),
    ({"oneOf": [{"type": "integer"}, {"type": "string"}]}, {"type": ["integer", "string"]}, "unknown"),
    ({"type": "array", "dtype": "float64", "shape": ["n"]}, {"type": "array", "dtype": "float65", "shape": ["n"]}, "unknown"),
    ({"type": "array", "dtype": "float64", "shape": ["n"]}, {"type": "array", "dtype": "float64", "shape": ["n"], "sparse": True}, "unknown"),
    ({"type": "array", "dtype": "float64"}, {"type": "array", "dtype": "float64", "shape": [2]}, "incompatible"),
    ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}, {"type": "integer"}, "unknown"),
    ({"type": "object", "result": {"type": "integer"}}, {"type": "object"}, "unknown"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "expected"), DOCUMENTS, ids=range(len(DOCUMENTS)))
def test_schemas_written_elsewhere_are_judged_with_the_same_care(old, new, expected):
    """Where a keyword is met that is not judged, the verdict is unknown, never a silent yes."""
    assert compare(old, new).verdict == expected


def test_columns_by_name_and_arrays_in_unions():
    """Columns in another order can't be told apart by bounds; one fitting array of a union is enough."""
    named = model(a=(array(np.float64, "n", 2, columns=["age", "bmi"], ge={"age": 0}), ...))
    other = model(a=(array(np.float64, "n", 2, columns=["bmi", "age"], ge={"age": 0}), ...))
    assert verdict(named, other)[0] == "incompatible"
    assert ("a", "unknown", "columns") in verdict(named, other)[1]
    three = model(a=(array(np.float64, "n", 3, ge=[0, 0, 1]), ...))
    two = model(a=(array(np.float64, "n", 2, ge=[0, 1]), ...))
    assert ("a", "incompatible", "shape") in verdict(three, two)[1]
    union = model(a=(array(np.float32, "n") | array(np.float64, "n", 2) | None, ...))
    assert verdict(model(a=(array(np.float32, "m", 2), ...)), union) == GOOD
    assert verdict(model(a=(array(np.float64, "m"), ...)), union) == unsure("union")


def test_schemas_without_end_are_an_error():
    """A union that is only itself is told, not a traceback."""
    endless = {"anyOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, {"type": "null"}]}}}
    with pytest.raises(ContractError, match="without end"):
        compare({"const": 1}, endless)


numbers = st.sampled_from([-3, 0, 1, 2, 7])
kinds = st.deferred(
    lambda: st.one_of(
        st.just(bool),
        st.builds(_bounded, st.sampled_from([int, float]), numbers | st.none(), numbers | st.none(), st.booleans()),
        st.builds(lambda least, most: Annotated[str, Field(min_length=least, max_length=least + most)], st.integers(0, 3), st.integers(0, 3)),
        st.just(str),
        st.sampled_from(["^[a-z]+$", "^[A-Z]"]).map(lambda pattern: Annotated[str, Field(pattern=pattern)]),
        st.sets(st.sampled_from(["x", "y", "zebra", 1, 2]), min_size=1).map(lambda found: Literal[tuple(sorted(found, key=str))]),
        st.builds(lambda inner, least, most: Annotated[list[inner], Field(min_length=least, max_length=least + most)], simple, st.integers(0, 2), st.integers(0, 3)),
        st.lists(simple, min_size=2, max_size=2).map(lambda pair: pair[0] | pair[1] if pair[0] is not pair[1] else pair[0]),
        simple.map(lambda kind: kind | None),
        models,
    )
)  # fmt: skip
simple = st.deferred(lambda: st.one_of(st.just(bool), st.just(str), st.builds(_bounded, st.sampled_from([int, float]), numbers | st.none(), st.none(), st.booleans())))  # fmt: skip
models = st.deferred(
    lambda: st.builds(
        lambda fields, extra: model(extra, **fields),
        st.dictionaries(
            st.sampled_from(["a", "b", "c"]),
            kinds.flatmap(lambda kind: st.sampled_from([(kind, ...), (kind | None, None)])),
            min_size=1,
        ),
        st.sampled_from(["ignore", "forbid", "allow"]),
    )
)


def _bounded(kind: Any, low: float | None, high: float | None, opened: bool) -> Any:
    bounds: dict[str, Any] = {} if low is None else {"gt" if opened else "ge": low}
    if high is not None:
        bounds["le"] = high if low is None else low + abs(high) + 1
    return Annotated[kind, Field(**bounds)] if bounds else kind


@st.composite
def versions(draw):
    """Two models: the second a change of the first, or another one altogether."""
    old = draw(models)
    if draw(st.booleans()):
        return old, draw(models)
    fields = {name: (field.annotation, field) for name, field in old.model_fields.items()}
    changed = draw(st.sampled_from(sorted(fields)))
    kind = draw(kinds)
    fields[changed] = (kind, ...) if draw(st.booleans()) else (kind | None, None)
    return old, model(draw(st.sampled_from(["ignore", "forbid", "allow"])), **fields)


def accepted(model: type[BaseModel], value: Any) -> bool:
    try:
        model.model_validate(value)
    except ValidationError:
        return False
    return True


@QUICK
@given(versions())
def test_what_is_called_compatible_accepts_every_instance_and_what_is_not_has_a_witness(corners, pair):
    """No verdict by rule of thumb: instances at the corners of the old schema decide."""
    old, new = pair
    before, after = json_schema(old), json_schema(new)
    found = compare(before, after)
    validator = jsonschema.Draft202012Validator
    instances = [each for each in corners(before) if validator(before).is_valid(each) and accepted(old, each)]
    if found.verdict == "compatible":
        declared = [each for each in instances if "never_declared" not in each or before.get("additionalProperties")]
        for each in declared:
            assert validator(after).is_valid(each), each
            assert accepted(new, each), each
    elif found.verdict == "incompatible":
        assert any(not validator(after).is_valid(each) for each in instances), (before, after)


def _arrays(dtype: str, shape: list[Any], low: int | None, high: int | None, allow_nan: bool, finite: bool) -> Any:
    bounds = {name: bound for name, bound in (("ge", low), ("le", high)) if bound is not None}
    if dtype in ("bool",):
        bounds = {}
    nan = {"allow_nan": True} if allow_nan and bounds and not finite else {}
    return model(a=(Annotated[np.ndarray, Array(*shape, dtype=dtype, finite=finite, **bounds, **nan)], ...))


dtypes = st.sampled_from(["bool", "int8", "uint8", "int32", "float32", "float64", "int64"])
shapes = (
    st.lists(st.sampled_from([2, "n", (1, 2), (0, None)]), min_size=1, max_size=2) | st.just([..., 2]) | st.just([...])
)
arrays = st.builds(
    _arrays, dtypes, shapes, st.sampled_from([None, 0, -1]), st.sampled_from([None, 1, 3]), st.booleans(), st.booleans()
)


def _instances(model: type[BaseModel]):
    """Arrays of the declared dtype at every corner, that the model takes."""
    declared = next(each for each in model.model_fields["a"].metadata if isinstance(each, Array))
    dtype = np.dtype(declared.dtype)
    values = [0, 1, -1, -2, 3, 4]
    if dtype.kind == "f":
        values += [np.nan, np.inf, -np.inf, np.finfo(dtype).max, -np.finfo(dtype).max]
    if dtype.kind in "iu":
        values += [np.iinfo(dtype).min, np.iinfo(dtype).min + 1, np.iinfo(dtype).max]
    for shape in [(2,), (1,), (0,), (3,), (2, 2), (1, 2), (2, 1), (0, 2), (3, 2), (2, 3), (3, 3), (2, 2, 2)]:
        for value in values:
            if dtype.kind in "iu" and not np.iinfo(dtype).min <= value <= np.iinfo(dtype).max:
                continue
            each = np.full(shape, value).astype(dtype) if dtype.kind != "f" else np.full(shape, value, dtype)
            if accepted(model, {"a": each}):
                yield {"a": each}


@QUICK
@given(arrays, arrays)
def test_verdicts_on_arrays_hold_for_arrays(old, new):
    """The same for arrays in memory: dtypes, shapes, bounds, NaN and infinities at their corners."""
    found = compare(json_schema(old), json_schema(new))
    refused = [each for each in _instances(old) if not accepted(new, each)]
    if found.verdict == "compatible":
        assert not refused, refused[0]
    elif found.verdict == "incompatible":
        assert refused, [each.finding for each in found.judgements]
