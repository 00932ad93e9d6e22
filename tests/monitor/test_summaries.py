"""What an event may say of a value: figures that are right, bounded and JSON, never content."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import json
import math
from fractions import Fraction
from typing import Annotated, Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import BaseModel

from mlguard import Redacted
from mlguard.monitor.summaries import LEAVES, SAMPLE, plain, summarise


def of(value: Any) -> dict[str, Any]:
    event: dict[str, Any] = {}
    summarise(event, "v", value)
    json.dumps(event, allow_nan=False)
    return {key.removeprefix("v").removeprefix("."): item for key, item in event.items()}


class Level(enum.Enum):
    LOW = 1
    WORD = "word"


class Number(enum.IntEnum):
    ONE = 1


Point = collections.namedtuple("Point", "x y")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1.5, {"": 1.5}),
        (True, {"": True}),
        (None, {"": None}),
        (7, {"": 7}),
        (math.nan, {"": "nan"}),
        (-math.inf, {"": "-inf"}),
        (2**80, {"bits": 81}),
        ("some text", {"length": 9}),
        (b"bytes", {"length": 5}),
        (bytearray(3), {"length": 3}),
        ([1, 3], {"count": 2, "nulls": 0.0, "min": 1.0, "mean": 2.0, "max": 3.0, "std": 1.0}),
        ((0.5,), {"count": 1, "nulls": 0.0, "min": 0.5, "mean": 0.5, "max": 0.5, "std": 0.0}),
        ([], {"count": 0}),
        ([1, "two"], {"count": 2}),
        ([True, False], {"count": 2}),
        ([10**400], {"count": 1}),
        ({"key": "value"}, {"count": 1}),
        ({1, 2}, {"count": 2}),
        (collections.deque([1]), {"type": "collections.deque"}),
        (Point(1, 2), {"count": 2}),
        (Level.LOW, {"": 1}),
        (Level.WORD, {"length": 4}),
        (Number.ONE, {"": 1}),
        (np.float32(0.5), {"": 0.5}),
        (np.float64("nan"), {"": "nan"}),
        (np.int64(3), {"": 3}),
        (np.bool_(True), {"": True}),
        (np.str_("abc"), {"length": 3}),
        (np.longdouble(1), {"type": "numpy.longdouble"}),
        (decimal.Decimal("1.5"), {"": 1.5}),
        (decimal.Decimal("nan"), {"": "nan"}),
        (Fraction(1, 2), {"": 0.5}),
        (Fraction(10**400), {"type": "fractions.Fraction"}),
        (1j, {"type": "complex"}),
        (datetime.date(2026, 1, 1), {"type": "datetime.date"}),
        (object(), {"type": "object"}),
    ],
)
def test_values(value: Any, expected: dict[str, Any]) -> None:
    """Numbers by value, text by length, containers by count, the rest by class."""
    assert of(value) == expected


def test_a_long_list_is_sampled() -> None:
    """Of a long list of numbers a bounded, evenly spread part is looked at, and the record says so."""
    found = of([float(number) for number in range(10_000)] + [math.nan])
    assert (found["count"], found["sampled"]) == (10_001, True)
    assert found["mean"] == pytest.approx(4_950, abs=100)


def test_fields_of_a_named_tuple_stay_hidden() -> None:
    """A named tuple is counted only: its fields have a schema, which may hide them."""

    class Patient(NamedTuple):
        age: Annotated[int, Redacted]
        weight: int

    assert of(Patient(61, 70)) == {"count": 2}


def test_a_small_array() -> None:
    """A few elements are summarised exactly."""
    found = of(np.array([[1.0, 2.0], [3.0, np.nan], [np.inf, 6.0]]))
    assert found == {
        "shape": [3, 2],
        "dtype": "float64",
        "bytes": 48,
        "nulls": 1 / 6,
        "infinite": 1 / 6,
        "min": 1.0,
        "mean": 3.0,
        "max": 6.0,
        "std": pytest.approx(np.std([1, 2, 3, 6])),
    }
    assert of(np.array([True, False]))["mean"] == 0.5
    assert of(np.array([True, False]))["max"] == 1


@pytest.mark.parametrize("size", [4, 400])
def test_arrays_without_a_finite_value(size: int) -> None:
    """Where nothing is finite, shares are said and no statistics."""
    found = of(np.full(size, np.nan))
    assert found["nulls"] == 1.0
    assert "mean" not in found


@pytest.mark.parametrize("size", [4, 400])
def test_sums_that_overflow(size: int) -> None:
    """Values whose sum is beyond floats still give a record without infinities."""
    found = of(np.full(size, 1.7e308))
    assert found["min"] == 1.7e308
    assert found["nulls"] == 0.0


@pytest.mark.parametrize("array", [np.array(["text"]), np.array([object()]), np.array([1j]), np.zeros((0, 3))])
def test_arrays_without_numbers(array: Any) -> None:
    """Other arrays have a shape, a type and a size."""
    assert set(of(array)) == {"shape", "dtype", "bytes"}


@pytest.mark.parametrize("size", [4, 400])
def test_wide_floats(size: int) -> None:
    """Floats wider than a double are judged as doubles."""
    assert of(np.ones(size, dtype=np.longdouble))["mean"] == 1.0


def test_subclasses_of_arrays_are_not_read(tmp_path: Any) -> None:
    """A memory-mapped array would be read from disk, a masked one misread: cheap facts only."""
    mapped = np.memmap(tmp_path / "a", dtype="f4", mode="w+", shape=(200,))
    assert set(of(mapped)) == {"shape", "dtype", "bytes"}
    assert set(of(np.ma.masked_array([1.0, 2.0], [0, 1]))) == {"shape", "dtype", "bytes"}


@given(
    hnp.arrays(
        st.sampled_from([np.float32, np.float64, np.int64, np.uint8, np.bool_]),
        hnp.array_shapes(max_dims=3, max_side=12),
    )
)
@settings(max_examples=150)
def test_statistics_agree_with_numpy(array: Any) -> None:
    """Whatever the numbers, shares, extremes and mean are those of the finite values, and the record is JSON."""
    found = of(array)
    values = array.astype(np.float64).ravel()
    finite = values[np.isfinite(values)]
    assert found["nulls"] == pytest.approx(np.isnan(values).mean())
    assert found.get("infinite", 0.0) == pytest.approx(np.isinf(values).mean())
    if finite.size:
        assert found["min"] == finite.min()
        assert found["max"] == finite.max()
        if abs(finite).max() < 1e150:
            assert found["mean"] == pytest.approx(finite.mean(), rel=1e-6, abs=1e-9 * abs(finite).max())
            if abs(finite).max() > 1e-150 or not finite.any():  # below, the squares in NumPy's own std underflow to 0
                assert found["std"] == pytest.approx(finite.std(), rel=1e-4, abs=1e-6 * abs(finite).max())


@pytest.mark.parametrize("order", ["C", "F", "sliced", "transposed 3d"])
def test_a_large_array_is_sampled_over_all_its_columns(order: str) -> None:
    """At most 4,096 values are looked at, from every column alike, whatever the memory layout; the record says so."""
    table = np.tile(np.arange(64.0), (20_000, 1))
    if order == "F":
        table = np.asfortranarray(table)
    elif order == "sliced":
        table = np.repeat(table, 2, axis=1)[:, ::2]
    elif order == "transposed 3d":
        table = table.reshape(200, 100, 64).transpose(1, 2, 0)
    found = of(table)
    assert found["sampled"] is True
    assert (found["min"], found["max"]) == (0.0, 63.0)
    assert found["mean"] == pytest.approx(31.5, abs=0.5)
    assert found["std"] == pytest.approx(np.arange(64).std(), rel=0.05)
    assert "sampled" not in of(np.zeros(SAMPLE))


def test_nan_in_a_sampled_array() -> None:
    """The share of nulls is estimated from the sample."""
    array = np.zeros(1_000_003)
    array[::4] = np.nan
    assert of(array)["nulls"] == pytest.approx(0.25, abs=0.03)


class Inner(BaseModel):
    score: float
    name: str


class Outer(BaseModel):
    inner: Inner
    maybe: Inner | None = None
    vector: Any = None

    @property
    def costly(self) -> float:
        raise AssertionError("a property of the user's must not run")


@dataclasses.dataclass
class Plain:
    x: float
    inner: Inner


@dataclasses.dataclass(slots=True)
class Slotted:
    x: float


class Node(BaseModel):
    value: int
    next: Any = None


def test_models_by_their_leaves() -> None:
    """Numeric leaves of models and dataclasses are named by their dotted path; properties never run."""
    outer = Outer(inner=Inner(score=0.5, name="abc"), vector=np.array([1.0, 3.0]))
    found = of(outer)
    assert found["inner.score"] == 0.5
    assert found["inner.name.length"] == 3
    assert found["maybe"] is None
    assert found["vector.mean"] == 2.0
    assert of(Plain(1.0, Inner(score=2.0, name=""))) == {"x": 1.0, "inner.score": 2.0, "inner.name.length": 0}
    assert of(Slotted(4.0)) == {"x": 4.0}


def test_leaves_are_bounded() -> None:
    """A wide model, or one that contains itself, adds a bounded number of fields and says how many are left out."""
    from pydantic import create_model

    wide = create_model("Wide", **{f"f{number}": (int, number) for number in range(50)})  # type: ignore[call-overload]
    found = of(wide())
    assert len(found) == LEAVES + 1
    assert found["omitted"] == 50 - LEAVES
    node = Node(value=1)
    node.next = node
    assert len(of(node)) < LEAVES
    assert of(node)["next." * 9 + "count"] == 2


def test_notes_are_made_plain() -> None:
    """Notes and facts keep numbers and short text, in flat lists; objects become their class name."""
    assert plain(np.float32(0.5)) == 0.5
    assert plain(np.longdouble(1)) == "numpy.longdouble"
    assert plain((1, "a", object())) == [1, "a", "object"]
    assert len(plain(list(range(100)))) == 20
    assert plain({"a": 1}) == "dict"
    assert plain(False) is False


class Tensor:
    """What PyTorch and JAX arrays have in common with each other, on a machine that has neither."""

    shape = (2, 3)
    dtype = "device.float16"
    nbytes = 12


def test_tensors_give_cheap_facts() -> None:
    """An array that may live on a device is never copied from there."""
    assert of(Tensor()) == {"shape": [2, 3], "dtype": "device.float16", "bytes": 12}


def test_pandas_frames() -> None:
    """A frame has rows, columns and the share of nulls, sampled where it is large."""
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pandas.DataFrame({"a": [1.0, None], "b": ["x", "y"]})
    assert of(frame) == {"rows": 2, "columns": 2, "nulls": 0.25}
    large = of(pandas.DataFrame(np.zeros((50_000, 3))))
    assert (large["rows"], large["nulls"], large["sampled"]) == (50_000, 0.0, True)
    assert of(pandas.DataFrame()) == {"rows": 0, "columns": 0}
    assert of(pandas.Series([1, 2]))["shape"] == [2]
    assert set(of(pandas.DataFrame(np.zeros((1, 5_000))))) == {"rows", "columns"}


def test_polars_frames() -> None:
    """The same for polars."""
    polars = pytest.importorskip("polars", reason="polars is not installed")
    assert of(polars.DataFrame({"a": [1.0, None], "b": ["x", "y"]})) == {"rows": 2, "columns": 2, "nulls": 0.25}
    assert of(polars.DataFrame({"a": range(50_000)}))["sampled"] is True


def test_arrow_tables() -> None:
    """And for pyarrow, which counts its nulls itself."""
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    assert of(pyarrow.table({"a": [1.0, None], "b": ["x", "y"]})) == {"rows": 2, "columns": 2, "nulls": 0.25}
