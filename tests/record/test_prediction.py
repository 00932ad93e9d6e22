"""What a record says of a prediction: JSON, bounded, and honest about what was left out."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import json
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, SecretStr

from mlguard import Redacted
from mlguard.record import outputs
from mlguard.record.prediction import TEXT, VALUES


class Colour(enum.Enum):
    RED = "red"


class Inner(BaseModel):
    score: float
    ssn: Annotated[str, Redacted] = "123-45-6789"
    token: SecretStr = SecretStr("hunter2")
    quiet: str = Field(default="psst", repr=False)


@dataclasses.dataclass
class Answer:
    label: str
    inner: Inner


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (1, 1),
        (True, True),
        (None, None),
        (0.25, 0.25),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        (2**64, str(2**64)),
        (10**400, "an integer of 1329 bits"),
        ("cat", "cat"),
        (Colour.RED, "red"),
        (b"abc", {"type": "bytes", "length": 3}),
        ([1, [2, {"a": None}]], [1, [2, {"a": None}]]),
        ((1, 2), [1, 2]),
        ({1: "x"}, {"1": "x"}),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.array(2.5), 2.5),
        (np.arange(4).reshape(2, 2), [[0, 1], [2, 3]]),
        (np.array([0.5, np.nan, np.inf]), [0.5, "nan", "inf"]),
        (np.array([[True], [False]]), [[True], [False]]),
        (np.array(["a", "b"]), ["a", "b"]),
        (np.array(["2026-01-01"], dtype="M8[D]"), ["2026-01-01"]),
        (np.datetime64("2026-01-01"), "2026-01-01"),
        (np.array([1.5], dtype=np.longdouble), [1.5]),
        (np.zeros((0, 3)), []),
        (np.array([1 + 2j]), {"type": "numpy.ndarray", "shape": [1], "dtype": "complex128"}),
        (np.array([object()]), {"type": "numpy.ndarray", "shape": [1], "dtype": "object"}),
        (pd.Series([1.0, 2.0]), [1.0, 2.0]),
        (pl.Series([1, None]), [1, None]),
        (pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}), {"a": [1, 2], "b": ["x", "y"]}),
        (pl.DataFrame({"a": [1, 2]}), {"a": [1, 2]}),
        (pa.table({"a": [1, 2]}), {"a": [1, 2]}),
        (pd.DataFrame(), {}),
        (decimal.Decimal("1.5"), {"type": "decimal.Decimal"}),
        (object(), {"type": "object"}),
        ({datetime.date(2026, 1, 1): 1}, {"*": 1}),
        (
            Answer("cat", Inner(score=0.5)),
            {
                "label": "cat",
                "inner": {"score": 0.5, "ssn": "[redacted]", "token": "[redacted]", "quiet": "[redacted]"},
            },
        ),
        (SecretStr("hunter2"), "[redacted]"),
    ],
)
def test_values_as_json_has_them(value: Any, said: Any) -> None:
    """Predictions of every usual kind stand in the record as JSON; hidden fields do not."""
    assert outputs(value) == said
    assert json.loads(json.dumps(outputs(value), allow_nan=False)) == said


def test_what_is_cut_says_so() -> None:
    """Beyond its bound a value becomes its beginning, with how much there was."""
    assert outputs("x" * 5_000) == {"first": "x" * TEXT, "of": 5_000}
    assert outputs(list(range(1_000))) == {"first": list(range(VALUES)), "of": 1_000}
    assert outputs(np.zeros((1_000, 10))) == {"first": [[0.0] * 10] * 25, "of": [1_000, 10]}
    assert outputs(np.zeros((2, 10_000))) == {"first": [0.0] * VALUES, "of": [2, 10_000]}
    assert outputs(pd.DataFrame({"a": range(1_000)})) == {"first": {"a": list(range(VALUES))}, "of": [1_000, 1]}
    assert outputs(pd.Series(range(1_000))) == {"first": list(range(VALUES)), "of": 1_000}
    assert outputs({str(number): number for number in range(500)})["of"] == 500
    assert outputs([np.zeros(200), np.zeros(200)]) == [[0.0] * 200, {"first": [0.0] * 56, "of": [200]}]
    deep: list[Any] = []
    for _ in range(20):
        deep = [deep]
    assert outputs(deep) == [[[[[[{"type": "list"}]]]]]]


class Broken(Mapping[str, int]):
    """A container that fails when it is looked through."""

    def __getitem__(self, key: str) -> int:
        raise OSError("gone")

    def __iter__(self) -> Any:
        return iter(["a"])

    def __len__(self) -> int:
        return 1


class Tensor:
    """What tensors of torch, JAX and the like have in common; its values may lie on a device."""

    shape = (2, 3)
    dtype = "float32"
    device = "cuda:0"

    def detach(self) -> Any:
        raise AssertionError("moved off its device")


class OnCpu(Tensor):
    device = "cpu"

    def detach(self) -> Any:
        return self

    def numpy(self) -> Any:
        return np.zeros((2, 3))


def test_what_is_not_looked_into() -> None:
    """A tensor on a device stays there, one in memory is read; what fails is named by its class."""
    assert outputs(Tensor())["shape"] == [2, 3]
    assert outputs(OnCpu()) == [[0.0] * 3] * 2
    assert outputs(Broken())["type"].endswith("Broken")


kinds = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
nested = st.recursive(kinds, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=40)


@settings(max_examples=60, deadline=None)
@given(nested)
def test_always_json(value: Any) -> None:
    """Whatever a function returns, the record can hold it."""
    json.dumps(outputs(value), allow_nan=False)


@pytest.mark.parametrize(
    "value",
    [
        [["x" * 2_000] * 100] * 100,
        {"k" * 5_000 + str(number): "v" * 5_000 for number in range(1_000)},
        np.array(["x" * 10_000] * 300),
        pd.DataFrame({"c" * 3_000 + str(number): ["y" * 2_000] for number in range(2_000)}),
        [[[[[list(range(50))] * 50] * 50] * 50] * 50],
        [10**300] * 10_000,
        [0.1234567890123456789] * 10_000,
    ],
)
def test_never_large(value: Any) -> None:
    """A prediction takes 16 KB of a line at most, however large it is."""
    assert len(json.dumps(outputs(value))) <= 16_384
