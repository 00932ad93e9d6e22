"""How thoroughly values are looked at: `Validation.check` of a policy, `Array(check=...)` of a field."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import cloudpickle
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter, ValidationError

from mlguard import Array, InvalidInputError, InvalidOutputError, Monitor, Policy, PolicyError, Validation, guarded
from mlguard.testing import capture_events
from mlguard.validation.depth import SAMPLE, current, sample_of

Floats = npt.NDArray[np.float64]
Finite = Annotated[Floats, Array("n", finite=True)]


def checked(check: Any, **options: Any) -> Callable[..., Any]:
    @guarded(Policy(validation=Validation(check=check), **options))
    def f(x: Finite, n: int = 0) -> Finite:
        return x

    return f


def with_nan(size: int, *places: int) -> Floats:
    x = np.zeros(size)
    x[list(places)] = np.nan
    return x


def test_a_sample_sees_what_it_looks_at_and_no_more() -> None:
    """Of a large array, evenly spread values are looked at: what is bad between them passes, and is meant to."""
    f = checked("sample")
    size = 4 * SAMPLE
    assert f(with_nan(size, 1)) is not None
    with pytest.raises(InvalidInputError) as caught:
        f(with_nan(size, 1, 4, 8))
    assert caught.value.errors()[0]["ctx"] == {"count": 3, "size": size, "first": "[1]"}  # once bad, all are counted


@pytest.mark.parametrize("size", [1, 8, SAMPLE])
def test_a_small_array_is_looked_at_whole(size: int) -> None:
    """The sample is bounded, and what fits into it is all there is."""
    with pytest.raises(InvalidInputError):
        checked("sample")(with_nan(size, size - 1))


def test_metadata_looks_at_no_value() -> None:
    """But class, dtype and shape are always checked, and so is all that is no array."""
    f = checked("metadata")
    f(with_nan(3, 0))
    for bad in (np.zeros((1, 1)), np.ma.masked_array([1.0]), np.array(["a"])):
        with pytest.raises(InvalidInputError):
            f(bad)
    with pytest.raises(InvalidInputError):
        f(np.zeros(1), "x")


def test_a_field_goes_before_the_policy() -> None:
    """Either way: more where it must be, less where it may be."""

    @guarded(validation=Validation(check="metadata"))
    def f(x: Annotated[Floats, Array("n", finite=True, check="full")], y: Finite) -> None: ...

    f(np.zeros(1), with_nan(1, 0))
    with pytest.raises(InvalidInputError):
        f(with_nan(1, 0), np.zeros(1))

    @guarded
    def g(x: Annotated[Floats, Array("n", finite=True, check="metadata")]) -> None: ...

    g(with_nan(1, 0))


def test_results_and_models_are_sampled_alike() -> None:
    """The policy's choice reaches the arrays of models, and holds for the result too."""

    class Model(BaseModel):
        x: Finite

    @guarded(validation=Validation(check="metadata"))
    def f(model: Model, n: int) -> Finite:
        return with_nan(n, 0)

    f({"x": [np.nan]}, 1)  # type: ignore[arg-type]
    with pytest.raises(ValidationError):
        Model(x=[np.nan])  # type: ignore[arg-type]
    assert current.get() == "full"
    with pytest.raises(InvalidOutputError):
        guarded(output=Finite)(lambda: with_nan(1, 0))()


def test_the_event_says_so() -> None:
    """Every event of a function whose values were not all looked at, by policy or by field."""

    @guarded(Policy(monitor=Monitor()))
    def by_field(x: Annotated[Floats, Array("n", finite=True, check="sample")]) -> None: ...

    with capture_events() as events:
        checked("sample", monitor=Monitor())(np.zeros(1))
        checked("metadata", monitor=Monitor())(np.zeros(1))
        checked("full", monitor=Monitor())(np.zeros(1))
        by_field(np.zeros(1))
    assert [event.get("mlguard.validation.check") for event in events] == ["sample", "metadata", None, "sample"]


def test_explain_says_so() -> None:
    """With the number."""
    assert "Of an array at most 16,384 values are looked at" in checked("sample").guard.explain()
    assert "and no values" in checked("metadata").guard.explain()


def test_the_mode_is_forgotten_when_a_check_fails() -> None:
    """The next function in the same thread has its own."""
    with pytest.raises(InvalidInputError):
        checked("metadata")("x")
    assert current.get() == "full"
    with pytest.raises(InvalidInputError):
        checked("full")(with_nan(1, 0))


def test_columns_stay_columns_in_a_sample() -> None:
    """Each keeps its own bounds."""
    x = np.zeros((SAMPLE, 2))
    x[:, 1] = 5
    adapter = TypeAdapter(Annotated[Floats, Array("n", 2, le=[0, 5], check="sample")])
    assert adapter.validate_python(x) is x
    x[0, 0] = 1
    with pytest.raises(ValidationError):
        adapter.validate_python(x)


def test_an_unknown_mode_is_refused() -> None:
    """With the modes there are."""
    with pytest.raises(PolicyError, match="check"):
        Validation(check="some")  # type: ignore[arg-type]
    with pytest.raises(PolicyError, match="'full', 'sample' or 'metadata'"):
        Array(check="some")  # type: ignore[arg-type]


def test_a_sampled_function_can_be_shipped() -> None:
    """The wrapper pickles with its mode."""
    again = cloudpickle.loads(cloudpickle.dumps(checked("metadata")))
    again(with_nan(3, 0))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=4), st.booleans())
@example([163, 300], True)
@example([253, 255, 257], True)
def test_a_sample_is_bounded_and_a_view(shape: list[int], whole_rows: bool) -> None:
    """Whatever the shape; with whole rows, as far as a single row allows."""
    x = np.lib.stride_tricks.as_strided(np.zeros(1), shape, [0] * len(shape))
    sample = sample_of(x, whole_rows=whole_rows)
    assert sample.size <= max(SAMPLE, shape[-1] if whole_rows else 0)
    assert sample.base is not None
    assert sample.size >= min(x.size, SAMPLE // 2 ** (len(shape) + 1))
    assert sample.ndim == x.ndim
    if whole_rows:
        assert sample.shape[-1] == shape[-1]
