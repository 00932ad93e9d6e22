"""An event is one line of valid JSON, whatever is in it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlguard.record.lines import LONGEST, line_of
from tests.record.calls import event

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.characters(categories=["Cs", "Cc"])
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)


def read(line: bytes) -> dict[str, Any]:
    """Strict: no NaN, and bytes that are UTF-8."""

    def refuse(name: str) -> None:
        raise AssertionError(name)

    return json.loads(line.decode("utf-8"), parse_constant=refuse)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text(), values))
def test_any_event_is_one_line(event) -> None:
    """NaN, lone surrogates, line ends and control characters make no other line and no invalid one."""
    line = line_of(event, 1_800_000_000.0)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert read(line).keys() >= {key.encode("utf-8", "replace").decode() for key in event}


def test_the_time_comes_first() -> None:
    """An event without a time gets the one at which it was put, in UTC to the microsecond."""
    assert line_of({"a": 1}, 1_800_000_000.25) == b'{"timestamp":"2027-01-15T08:00:00.250000Z","a":1}\n'


def test_what_json_has_no_words_for() -> None:
    """Objects become their class, NaN its name; a circle comes to an end."""
    circle: list[Any] = []
    circle.append(circle)
    found = read(line_of({"x": object(), "nan": float("nan"), "deep": circle, 1: (2, {3})}, 0.0))
    assert found["x"] == "object"
    assert found["nan"] == "nan"
    assert found["1"] == [2, "set"]
    assert str(found["deep"]).count("[") == 49


@pytest.mark.parametrize("long", ["x" * 70_000, ["x" * 900] * 80, {"k": "ü" * 40_000}])
def test_an_event_that_is_too_long_loses_its_longest_fields(long) -> None:
    """A line stays within its bound; what is left out is named, and the rest is there."""
    line = line_of(event(3, note__long=long), 0.0)
    assert len(line) <= LONGEST
    found = read(line)
    assert found["mlguard.call_id"] == "id000003"
    assert found["mlguard.record.left_out"] == ["note.long"]


def test_too_many_fields_are_too_long_as_well() -> None:
    """Thousands of short fields are cut like one long one."""
    line = line_of(event(**{f"f{number}": "x" * 500 for number in range(1_000)}), 0.0)
    assert len(line) <= LONGEST
    assert read(line)["mlguard.call_id"] == "id000000"
    assert len(read(line)["mlguard.record.left_out"]) == 100
