"""Arrays of every odd sort are accepted as they are, or refused with an error that can be sent: never anything else."""

from __future__ import annotations

import json
import math
import pickle
import warnings
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import BaseModel, Field, TypeAdapter

from mlguard import Array, InvalidInputError, InvalidOutputError, guarded

Floats = npt.NDArray[np.float64]
Anything = Annotated[np.ndarray, Array()]


def sent(error: InvalidInputError | InvalidOutputError) -> None:
    """An error that can be sent: as JSON, by pickle, as a text of bounded size."""
    shown = error.errors()
    assert json.loads(json.dumps(shown, allow_nan=False)) == json.loads(error.json())
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.errors(), str(again)) == (type(error), shown, str(error))
    assert len(str(error)) < 12_000
    assert len(error.json()) < 25_000


def ways(annotation: Any) -> Any:
    def same(x):
        return x

    same.__annotations__ = {"x": annotation}
    return guarded(same)


def put(f: Any, value: Any) -> Any:
    try:
        return f(value)
    except InvalidInputError as error:
        sent(error)
        return None


@pytest.mark.parametrize(
    ("value", "kind", "fix"),
    [
        (np.ma.masked_array([1.0, 2.0], mask=[True, False]), "array_type", ".filled(...)"),
        (np.ma.masked_array([1.0, 2.0]), "array_type", ".filled(...)"),
        (np.array([1, None], dtype=object), "array_dtype", ".astype("),
        (np.zeros(2, dtype=[("a", "f4"), ("b", "i4")]), "array_dtype", "one array a column"),
        (np.zeros(2, dtype="V3"), "array_dtype", ".astype("),
        (np.rec.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f4")]), "array_dtype", "one array a column"),
        (memoryview(b"ab"), "array_type", "np.asarray"),
        ("ab", "array_type", "np.asarray"),
        (np.float64(1), "array_type", "np.asarray"),
    ],
)
@pytest.mark.parametrize("annotation", [Anything, Annotated[Floats, Array("n")]])
def test_what_can_not_be_checked_is_refused_with_a_fix(annotation: Any, value: Any, kind: str, fix: str) -> None:
    """Masked, object, structured and void arrays, and what is no array."""
    with pytest.raises(InvalidInputError) as caught:
        ways(annotation)(value)
    (found,) = caught.value.errors()
    assert found["type"] == kind
    assert fix in found["ctx"]["fix"]
    sent(caught.value)


@pytest.mark.skipif(not hasattr(np.dtypes, "StringDType"), reason="StringDType is new in NumPy 2")
def test_texts_of_any_length_are_refused_with_a_fix() -> None:
    """NumPy's StringDType has no fixed size, and no room in a cache key."""
    with pytest.raises(InvalidInputError) as caught:
        ways(Anything)(np.array(["a", "bc"], dtype=np.dtypes.StringDType()))
    (found,) = caught.value.errors()
    assert (found["type"], found["ctx"]["fix"]) == ("array_dtype", "cast it, with .astype('U')")


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (0, 0)])
def test_arrays_of_size_zero_pass_where_the_shape_does(shape: Any) -> None:
    """No value is bad where there is none, whatever is asked of values."""
    x = np.zeros(shape)
    strict = Array(
        ..., finite=True, ge=0, le=1, monotonic="increasing", unique=True,
    )  # fmt: skip
    for array in (Array(), Array(..., categories=[1]), strict):
        assert ways(Annotated[Floats, array])(x) is x
    with pytest.raises(InvalidInputError, match="must have shape"):
        ways(Annotated[Floats, Array((1, None), ...)])(np.zeros((0, 3)))


def test_an_array_without_dimensions_is_a_value() -> None:
    """It passes where any shape does; as an empty list of dimensions can't be declared, a scalar is the type for it."""
    x = np.array(5.0)
    assert ways(Annotated[Floats, Array(ge=0, finite=True, categories=None)])(x) is x
    assert ways(Annotated[Floats, Array(...)])(x) is x
    with pytest.raises(InvalidInputError) as caught:
        ways(Annotated[Floats, Array(ge=6)])(x)
    assert caught.value.errors()[0]["ctx"]["first"] == "[]"
    with pytest.raises(InvalidInputError):
        ways(Annotated[Floats, Array("n")])(x)


def test_bytes_in_the_other_order_are_converted() -> None:
    """A big-endian array becomes a native one of the same values; strict refuses it."""
    x = np.arange(3, dtype=">f8")
    got = ways(Annotated[Floats, Array("n", ge=0)])(x)
    assert got.dtype == np.float64
    assert got.tolist() == [0, 1, 2]
    with pytest.raises(InvalidInputError, match="must have dtype float64, got >f8"):
        ways(Annotated[Floats, Array("n", strict=True)])(x)
    assert ways(Annotated[np.ndarray, Array("n", dtype=">f8", ge=0)])(x) is x


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x[::2],
        lambda x: x.T,
        lambda x: x[:, ::-1],
        lambda x: np.broadcast_to(x[0], (3, 8)),
        lambda x: np.lib.stride_tricks.sliding_window_view(x, 3, axis=1),
        lambda x: np.asfortranarray(x),
    ],
)
@pytest.mark.parametrize("rows", [6, 20_000])
def test_arrays_in_any_layout_are_looked_at_and_not_copied(view: Any, rows: int) -> None:
    """Views, transposed, reversed, broadcast, overlapping: the same object comes back, and bad values are found."""
    x = np.ones((rows, 8))
    f = ways(Annotated[Floats, Array(..., ge=0, le=2, finite=True)])
    seen = view(x)
    assert f(seen) is seen
    x[0, 0] = 3
    with pytest.raises(InvalidInputError):
        f(view(x))


def test_read_only_arrays_and_memory_maps_pass(tmp_path: Any) -> None:
    """They are arrays like any other."""
    x = np.ones(5)
    x.flags.writeable = False
    f = ways(Annotated[Floats, Array("n", ge=0, unique=False)])
    assert f(x) is x
    mapped = np.memmap(tmp_path / "x", np.float64, "w+", shape=(5,))
    assert f(mapped) is mapped


def test_a_subclass_with_answers_of_its_own_is_not_asked() -> None:
    """Its values are what NumPy says they are."""

    class Liar(np.ndarray):
        def argmin(self, *args: Any, **kwargs: Any) -> Any:
            return 0

        def ravel(self, *args: Any, **kwargs: Any) -> Any:
            return np.zeros(1)

    x = np.array([0.0, -5.0]).view(Liar)
    with pytest.raises(InvalidInputError):
        ways(Annotated[Floats, Array("n", ge=0)])(x)


dtypes = st.sampled_from(
    ["f2", "f4", "f8", ">f4", ">i2", "i1", "i8", "u1", "u8", "?", "c8", "U3", "S2", "M8[s]", "m8[ms]", "O", "V4"]
)
declared = st.builds(
    dict,
    finite=st.booleans(),
    ge=st.none() | st.floats(-3, 0) | st.integers(-3, 0),
    le=st.none() | st.floats(1, 300),
    monotonic=st.sampled_from([None, "increasing", "strictly_decreasing"]),
    unique=st.booleans(),
    check=st.sampled_from([None, "sample", "metadata"]),
    max_bytes=st.sampled_from([None, 64]),
)


@st.composite
def odd_arrays(draw: Any) -> Any:
    """Any dtype, any shape, any strides, masked or not."""
    dtype = np.dtype(draw(dtypes))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5))
    if dtype.kind == "O":
        x = draw(hnp.arrays(object, shape, elements=st.none() | st.integers() | st.text(max_size=2)))
    elif dtype.kind == "V":
        x = np.zeros(shape, dtype)
    else:
        x = draw(hnp.arrays(dtype, shape))
    for axis in range(x.ndim):
        x = x[(slice(None),) * axis + (slice(None, None, draw(st.sampled_from([1, 2, -1]))),)]
    if draw(st.booleans()) and x.ndim > 1:
        x = x.T
    return np.ma.masked_array(x) if draw(st.integers(0, 9)) == 0 else x


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(odd_arrays(), st.sampled_from([np.float32, np.float64, np.int64, np.uint8, np.bool_]), declared)
def test_any_array_is_accepted_equal_or_refused_with_an_error_that_can_be_sent(
    x: Any, dtype: Any, options: Any
) -> None:
    """Whatever its dtype, shape, strides and mask, and whatever is declared."""
    if dtype is np.bool_:
        options = {name: value for name, value in options.items() if name not in ("ge", "le")}
    f = ways(Annotated[npt.NDArray[dtype], Array(..., **options)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = put(f, x)
    if got is None:
        return
    assert not isinstance(x, np.ma.MaskedArray)
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, x)
    if x.dtype == dtype:
        assert got is x
    if options["check"] is None and x.size:
        values = got.ravel().tolist()
        least = options.get("ge") if dtype is np.uint8 else options.get("ge") and dtype(options["ge"])
        assert not options["finite"] or all(math.isfinite(value) for value in values)
        assert options.get("ge") is None or all(value >= least for value in values)
        assert not options["unique"] or len(set(values)) == len(values)


leaves = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), st.binary(max_size=2),
    st.complex_numbers(),
    st.builds(np.float32, st.floats(width=32)), st.builds(dict), st.builds(np.array, st.just([1.0])),
    st.sampled_from([np.int8(3), np.bool_(True), np.str_("a"), np.datetime64("2020"), 10**400, object, b"", 2**63]),
)  # fmt: skip
nested = st.recursive(leaves, lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner), max_leaves=16)
targets = st.sampled_from(
    [np.float16, np.float32, np.float64, np.int8, np.int64, np.uint64, np.bool_, np.str_, np.bytes_, np.complex64,
     np.floating, np.integer, np.number, np.generic, "U2", "M8[s]"]
)  # fmt: skip


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(nested, targets)
def test_any_nested_list_is_accepted_equal_or_refused_with_an_error_that_can_be_sent(value: Any, target: Any) -> None:
    """In a guarded call, with every odd leaf."""
    array = Array(dtype=None if target is np.generic else target)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = put(ways(Annotated[np.ndarray, array]), value)
    if got is None:
        return
    flat: Any = [value] if not isinstance(value, list | tuple) else value
    while any(isinstance(item, list | tuple) for item in flat):
        flat = [leaf for item in flat for leaf in item]
    assert got.size == len(flat)
    for leaf, kept in zip(flat, got.ravel(), strict=True):
        assert kept == leaf or kept == got.dtype.type(leaf) or (kept != kept and leaf != leaf)


class Inner(BaseModel):
    x: Annotated[Floats, Array("n", 2, columns=("a", "b"), ge={"a": 0})]
    names: Annotated[list[str], Array("n")] = []
    number: Annotated[int, Field(ge=0)] = 0


class Outer(BaseModel, extra="forbid"):
    inner: Inner
    more: dict[str, Inner | list[int]] = {}


anything = st.recursive(
    leaves | odd_arrays(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["inner", "x", "names", "number", "more", "\ud800", "k" * 500]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(anything)
def test_any_input_of_a_model_is_accepted_or_refused_with_an_error_that_can_be_sent(value: Any) -> None:
    """Dicts, keys that are no Unicode, arrays in the wrong place, whatever a caller may send."""

    @guarded
    def f(outer: Outer) -> Annotated[Floats, Array("n", 2)]:
        return outer.inner.x

    for given_value in (value, {"inner": value}, {"inner": {"x": value}}):
        try:
            f(given_value)
        except InvalidInputError as error:
            sent(error)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(anything)
def test_any_result_is_handed_on_or_refused_with_an_error_that_can_be_sent(value: Any) -> None:
    """Whatever a function may return."""
    for annotation in (Annotated[Floats, Array("n", ge=0)], list[float] | Outer, dict[str, int], TypeAdapter, float):
        f = guarded(output=annotation)(lambda: value)
        try:
            assert f() is value
        except InvalidOutputError as error:
            sent(error)


def test_the_names_of_thousands_of_unknown_keys_are_not_told() -> None:
    """An error is bounded, whatever the caller makes up."""

    @guarded
    def f(outer: Outer) -> None: ...

    for keys in (5, 900, 50_000):
        with pytest.raises(InvalidInputError) as caught:
            f({"inner": {"x": [[1, 2]]}} | {f"{'key' * 100}{number}": 1 for number in range(keys)})  # type: ignore[arg-type]
        sent(caught.value)
        assert f"({keys} violation" in str(caught.value)
