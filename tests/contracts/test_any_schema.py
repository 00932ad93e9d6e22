"""Random pairs of JSON Schemas, as nobody would write them: none is called compatible wrongly, or an error."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlguard.contracts import compare

VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 5, 10, 1.5, -0.5, "", "a", "ab", "abc", "é", "1", [], [1], [1, 1], ["a"]),
    *([1, 2, 3], {}, {"a": 1}, {"a": "x"}, {"b": 1}, {"a": 1, "b": 2}, {"a": None}, {"c": 1, "a": 5}, {"a": [1]}),
]


def maybe(**keywords: list[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional={name: st.sampled_from(values) for name, values in keywords.items()})


def typed(name: str, **keywords: list[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return maybe(**keywords).map(lambda rest: {"type": name, **rest})


SCALARS = st.one_of(
    typed("integer", minimum=[-1, 0, 1.5], exclusiveMaximum=[1, 6], multipleOf=[2, 5, 0.5]),
    typed("number", minimum=[-1, 0, 1], maximum=[1, 2, 6]),
    typed("string", maxLength=[0, 1, 2], minLength=[1], pattern=["^a", "^[a-z]*$"]),
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"const": 1}, {"const": "a"}, {}, True, {"not": {}}]),
    st.sampled_from([{"type": ["integer", "null"]}, {"type": ["string", "number"], "minimum": 1}]),
    st.lists(st.sampled_from([0, 1, 2, "a", "ab", None, True]), min_size=1, max_size=3).map(
        lambda each: {"enum": each}
    ),
)


def _nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    required = st.lists(st.sampled_from("abc"), unique=True, max_size=2)
    objects = st.fixed_dictionaries(
        {"type": st.just("object"), "properties": st.dictionaries(st.sampled_from("abc"), inner, max_size=2)},
        optional={"required": required, "additionalProperties": st.booleans() | inner},
    )
    lists = st.tuples(typed("array", maxItems=[1, 2], minItems=[1], uniqueItems=[True]), inner).map(
        lambda both: {**both[0], "items": both[1]}
    )
    return objects | lists | st.lists(inner, min_size=1, max_size=2).map(lambda each: {"anyOf": each})


SCHEMAS = st.recursive(SCALARS, _nested, max_leaves=5).filter(lambda schema: isinstance(schema, dict))


def closed(schema: Any) -> Any:
    """What data made for it holds: an object that says nothing of further keys has those it names."""
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(part) for key, part in schema.items()}
    if made.get("type") == "object":
        named = dict.fromkeys(made.get("required", []), True)
        made["properties"] = {**named, **{key: closed(part) for key, part in made["properties"].items()}}
        made.setdefault("additionalProperties", False)
    if "anyOf" in made:
        made["anyOf"] = [closed(part) for part in made["anyOf"]]
    return made


@pytest.mark.parametrize("beside", [False, True], ids=["two schemas", "one and more of it"])
@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_what_is_called_compatible_has_no_witness(beside: bool, data: st.DataObject) -> None:
    """No value that the old schema accepts is refused by a new one that is called compatible."""
    old, new = data.draw(SCHEMAS), data.draw(SCHEMAS)
    new = {**old, **new} if beside else new
    if compare(old, new).verdict != "compatible":
        return
    makes, takes = (jsonschema.Draft202012Validator(schema) for schema in (closed(old), new))
    for value in VALUES:
        assert takes.is_valid(value) or not makes.is_valid(value)
