from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic_core import PydanticCustomError

from mlguard.validation.figures import Bounds

LARGE = 2**18


def violation(bounds: Bounds, x: Any) -> dict[str, Any]:
    with pytest.raises(PydanticCustomError) as caught:
        bounds(x)
    return {"type": caught.value.type, **(caught.value.context or {})}


@pytest.mark.parametrize("size", [1, 8, 100, LARGE])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble, np.int32, np.uint8])
def test_one_bad_value_is_found_wherever_it_is(size: int, dtype: Any) -> None:
    """The first, the last and a value in the middle are found, in small arrays and in large ones, in any layout."""
    bounds = Bounds(0, None, 10, None, finite=True)
    for index in {0, size // 2, size - 1}:
        x = np.ones(size, dtype)
        bounds(x)
        x[index] = 11
        assert violation(bounds, x) == {
            "type": "array_range",
            "expected": ">= 0 and <= 10",
            "count": 1,
            "size": size,
            "first": f"[{index}]",
            "min": 1 if size > 1 else 11,
            "max": 11,
        }
        for layout in (np.stack([x, x], axis=1), np.stack([x, x], axis=1).T, np.stack([x, x], axis=1)[:, ::2]):
            assert violation(bounds, layout)["type"] == "array_range"


@pytest.mark.parametrize("size", [1, 8, 100, LARGE])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("limits", [(None, None), (0, None), (-5, 5), (0, 5), (1, 5)])
def test_what_is_not_finite_is_found_and_counted(size: int, bad: float, limits: Any) -> None:
    """NaN and infinities are told apart from values out of range."""
    bounds = Bounds(limits[0], None, limits[1], None, finite=True)
    x = np.ones(size, np.float32)
    bounds(x)
    x[size // 2 :] = bad
    found = violation(bounds, x)
    assert (found["type"], found["count"]) == ("array_not_finite", size - size // 2)


@pytest.mark.parametrize("size", [4, 100, LARGE])
def test_nan_is_not_compared_where_it_is_allowed(size: int) -> None:
    """NaN spells a missing value; the values beside it are checked all the same."""
    bounds = Bounds(0, None, None, None, finite=False, allow_nan=True)
    x = np.full(size, np.nan)
    bounds(x)
    x[0] = 1
    bounds(x)
    x[0] = -1
    assert violation(bounds, x)["min"] == -1


@pytest.mark.parametrize("size", [4, 100, LARGE])
@pytest.mark.parametrize("limits", [(0, None, None, None), (None, None, None, 5), (None, -1, 5, None)])
def test_a_bound_refuses_nan(size: int, limits: Any) -> None:
    """NaN is within no range, as pydantic's own bounds have it; an infinity is, where nothing bounds that side."""
    bounds = Bounds(*limits, finite=False)
    x = np.ones(size)
    x[size // 2] = np.inf if limits[2:] == (None, None) else -np.inf if limits[1] is None else 0
    bounds(x)
    x[-1] = np.nan
    found = violation(bounds, x)
    assert (found["type"], found["count"], found["first"]) == ("array_nan", 1, str([size - 1]))


def test_an_infinite_figure_is_a_word() -> None:
    """Figures of an error are JSON."""
    assert violation(Bounds(0, None, 1, None, finite=False), np.array([np.inf]))["max"] == "inf"


@pytest.mark.parametrize("size", [2, LARGE])
def test_minus_zero_is_zero(size: int) -> None:
    """-0.0 lies within ge=0."""
    Bounds(0, None, 1, None, finite=True)(np.full(size, -0.0, np.float32))
    assert violation(Bounds(None, 0, 1, None, finite=True), np.full(size, -0.0, np.float32))["count"] == size


@pytest.mark.parametrize("size", [2, LARGE])
def test_open_bounds_exclude_themselves(size: int) -> None:
    """gt and lt are strict, for integers and floats."""
    floats, whole = Bounds(None, 0.5, None, 1.5, finite=False), Bounds(None, 0.5, None, 2.5, finite=False)
    floats(np.ones(size))
    whole(np.full(size, 2))
    assert violation(floats, np.full(size, 0.5))["expected"] == "> 0.5 and < 1.5"
    assert violation(floats, np.full(size, 1.5))["count"] == size
    assert violation(whole, np.full(size, 3))["count"] == size
    assert violation(Bounds(None, 2, None, None, finite=False), np.full(size, 2))["count"] == size


def test_bounds_are_compared_as_numpy_does() -> None:
    """The float32 nearest to 0.1 is not above 0.1, but 2**53 + 1 is above 2**53."""
    Bounds(None, None, 0.1, None, finite=False)(np.array([0.1], np.float32))
    assert violation(Bounds(None, None, 2.0**53, None, finite=False), np.array([2**53 + 1]))["count"] == 1
    Bounds(None, None, 1e300, None, finite=False)(np.array([3e38], np.float32))
    assert violation(Bounds(None, None, 1e300, None, finite=False), np.array([np.inf], np.float32))["count"] == 1


def test_empty_arrays_and_dtypes_without_range() -> None:
    """Nothing to look at is nothing wrong; a range of text or complex numbers is a wrong dtype."""
    bounds = Bounds(0, None, None, None, finite=True)
    bounds(np.zeros((0, 3)))
    Bounds(None, None, None, None, finite=True)(np.arange(3))
    Bounds(None, None, None, None, finite=True)(np.array(["a"]))
    Bounds(None, None, None, None, finite=True)(np.array([True]))
    assert violation(bounds, np.array([1j]))["type"] == "array_dtype"
    assert violation(Bounds(None, None, None, None, finite=True), np.array([complex(np.nan, 0)]))["count"] == 1
    assert violation(Bounds(None, None, None, None, finite=True), np.array(["NaT"], "M8[s]"))["count"] == 1
