from __future__ import annotations

import json
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import BaseModel, TypeAdapter, ValidationError

from mlguard.errors import PolicyError
from mlguard.validation import Array


def of(dtype: Any, *shape: Any, **options: Any) -> TypeAdapter[Any]:
    return TypeAdapter(Annotated[npt.NDArray[dtype], Array(*shape, **options)])


def refused(adapter: TypeAdapter[Any], value: Any, kind: str) -> dict[str, Any]:
    with pytest.raises(ValidationError) as caught:
        adapter.validate_python(value)
    details = caught.value.errors(include_input=False)[0]
    assert details["type"] == kind
    json.dumps(details["ctx"], allow_nan=False)
    return {**details["ctx"], "msg": details["msg"]}


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.uint8, np.bool_, np.complex64, np.str_])
def test_an_array_that_fits_is_the_very_same_object(dtype: Any) -> None:
    """What needs no conversion is not copied."""
    x = np.ones((3, 2)).astype(dtype)
    assert of(dtype, 3, 2).validate_python(x) is x
    assert of(dtype, "n", 2).validate_python(x) is x
    assert of(dtype).validate_python(x) is x


@pytest.mark.parametrize(
    ("shape", "fits", "breaks"),
    [
        ((2, 3), (2, 3), (3, 2)),
        ((2, 3), (2, 3), (6,)),
        (("a", "a"), (4, 4), (4, 5)),
        ((..., 3), (1, 2, 3), (3, 1)),
        ((2, ...), (2,), (1, 2)),
        ((2, ..., 3), (2, 9, 9, 3), (2,)),
        (("a", ..., "a"), (2, 9, 2), (2, 9, 3)),
    ],
)
def test_shapes(shape: Any, fits: Any, breaks: Any) -> None:
    """Sizes, names and an ellipsis mean what they say; an array of another shape is never reshaped."""
    adapter = of(np.float64, *shape)
    assert adapter.validate_python(np.zeros(fits)).shape == fits
    refused(adapter, np.zeros(breaks), "array_dimension" if shape in (("a", "a"), ("a", ..., "a")) else "array_shape")


def test_a_shape_error_shows_both_shapes() -> None:
    """The message says what was expected and what came."""
    context = refused(of(np.float64, "batch", 30), np.zeros((4, 29)), "array_shape")
    assert context["msg"] == "must have shape (batch, 30), got (4, 29)"


@pytest.mark.parametrize(
    ("dtype", "given"),
    [
        (np.float32, [None]),
        (np.float64, [None, 1.0]),
        (np.float64, ["1.5"]),
        (np.int64, [1.7]),
        (np.int64, ["1"]),
        (np.int64, [float("nan")]),
        (np.int64, [2**63]),
        (np.uint8, [256]),
        (np.uint8, [-1]),
        (np.float32, [1e39]),
        (np.float16, [70000.0]),
        (np.float16, [10**400]),
        (np.float64, [10**400]),
        (np.float64, [2**53 + 1]),
        (np.float64, [2**53 + 1, 0.5]),
        (np.float32, [16777217]),
        (np.bool_, [1]),
        (np.bool_, [0.0]),
        (np.str_, [1]),
        (np.dtype("U2"), ["abc"]),
        (np.float64, [{}]),
        (np.float64, [1j]),
        (np.float64, [np.longdouble(1)]),
        (np.datetime64, ["2020-01-01"]),
        (np.generic, [1, "a"]),
        (np.generic, [None]),
        (np.float64, [[1.0], np.array([2.0])]),
    ],
)
def test_lists_that_would_lose_something_are_refused(dtype: Any, given: Any) -> None:
    """No value changes on the way from a list to an array without a word."""
    adapter = TypeAdapter(Annotated[np.ndarray, Array(dtype=None if dtype is np.generic else dtype)])
    with pytest.raises(ValidationError) as caught:
        adapter.validate_python(given)
    assert caught.value.errors()[0]["type"] in ("array_value", "array_ragged", "array_dtype")


@pytest.mark.parametrize(
    ("dtype", "given", "expected"),
    [
        (np.float32, [[1, 2], [0.5, -3]], [[1, 2], [0.5, -3]]),
        (np.float32, (True, 2), [1, 2]),
        (np.int64, [1, 2.0, True], [1, 2, 1]),
        (np.int8, [-128, 127], [-128, 127]),
        (np.uint64, [2**64 - 1], [2**64 - 1]),
        (np.bool_, [True, False], [True, False]),
        (np.str_, ["a", "long"], ["a", "long"]),
        (np.dtype("U3"), ["ab"], ["ab"]),
        (np.bytes_, [b"a"], [b"a"]),
        (np.float32, [float("inf"), 0.1], [np.inf, np.float32(0.1)]),
        (np.complex64, [1, 2j], [1, 2j]),
        (np.float64, [2**53, 2**60], [2**53, 2**60]),
        (np.float32, [np.float32(0.1), np.int64(3)], [np.float32(0.1), 3]),
        (np.float64, [], []),
    ],
)
def test_lists_become_arrays_where_nothing_is_lost(dtype: Any, given: Any, expected: Any) -> None:
    """JSON has no arrays but lists."""
    array = TypeAdapter(Annotated[np.ndarray, Array(dtype=dtype)]).validate_python(given)
    assert array.tolist() == np.array(expected, dtype=dtype).tolist()
    assert np.issubdtype(array.dtype, dtype)


@pytest.mark.parametrize(
    ("given", "dtype"),
    [
        ([1, 2], np.int64),
        ([1, 2.5], np.float64),
        ([True], np.bool_),
        (["a"], np.str_),
        ([1j, 1], np.complex128),
        ([], np.float64),
    ],
)
def test_without_a_dtype_lists_get_the_one_they_spell(given: Any, dtype: Any) -> None:
    """np.ndarray alone takes any boolean, number or text."""
    assert np.issubdtype(TypeAdapter(Annotated[np.ndarray, Array()]).validate_python(given).dtype, dtype)


def test_an_abstract_dtype_covers_its_family() -> None:
    """npt.NDArray[np.floating] takes every floating dtype, untouched, and no other."""
    adapter = of(np.floating)
    x = np.zeros(2, np.float16)
    assert adapter.validate_python(x) is x
    assert adapter.validate_python([1.5]).dtype == np.float64
    refused(adapter, np.zeros(2, np.int8), "array_dtype")
    refused(adapter, ["a"], "array_dtype")


@pytest.mark.parametrize("given", [[[1, 2], [3]], [[1], 2], [[1, 2], "ab"], [1, [2]]])
def test_ragged_lists_are_refused(given: Any) -> None:
    """Lists of unequal length are no array."""
    with pytest.raises(ValidationError, match=r"array_ragged|array_value"):
        of(np.float64).validate_python(given)


def test_a_list_that_contains_itself_is_refused() -> None:
    """Endless nesting ends with an error."""
    endless: list[Any] = []
    endless.append(endless)
    refused(of(np.float64), endless, "array_depth")


def test_the_shape_is_looked_at_before_a_list_is_converted() -> None:
    """A list of the wrong shape is refused without its values being looked at."""
    refused(of(np.float64, 2, 2), [[None] * 3] * 2, "array_shape")


def test_zero_rows_survive_json() -> None:
    """An empty batch is [] in JSON and comes back with its columns."""
    adapter = of(np.float32, "batch", 3, ge=0, finite=True)
    empty = np.zeros((0, 3), np.float32)
    assert adapter.validate_python(empty) is empty
    assert adapter.validate_json(adapter.dump_json(empty)).shape == (0, 3)
    refused(of(np.float32, "batch", "n"), [], "array_shape")
    refused(of(np.float32, 2, 3), [], "array_shape")


@pytest.mark.parametrize(
    ("source", "target", "good"),
    [
        (np.float32, np.float64, True),
        (np.int32, np.float64, True),
        (np.bool_, np.float32, True),
        (">f4", np.float32, True),
        (np.float64, np.float32, False),
        (np.int64, np.int32, False),
        (np.int64, np.float32, False),
        (np.complex64, np.float64, False),
        (np.float64, np.int64, False),
        (object, np.float64, False),
    ],
)
def test_dtypes_are_cast_only_where_it_is_safe(source: Any, target: Any, good: bool) -> None:
    """NumPy's safe casts are made; for the others the error has the line that makes them."""
    x = np.array([1, 0], dtype=source)
    if good:
        cast = of(target).validate_python(x)
        assert cast.dtype == np.dtype(target)
        assert cast.tolist() == x.tolist()
        if np.dtype(source) != np.dtype(target):
            refused(of(target, strict=True), x, "array_dtype")
    else:
        context = refused(of(target), x, "array_dtype")
        assert ".astype(" in context["fix"]


def test_a_safe_cast_that_would_round_is_refused() -> None:
    """NumPy calls int64 to float64 safe, but not every int64 survives it."""
    good = np.array([2**60, -(2**53)])
    assert of(np.float64).validate_python(good).tolist() == good.tolist()
    assert refused(of(np.float64), np.array([2**53 + 1, 1]), "array_value")["count"] == 1


@pytest.mark.parametrize(
    "value",
    [
        np.ma.masked_array([1.0, 2.0], mask=[True, False]),
        "abc",
        b"12",
        1.0,
        np.float64(1),
        None,
        {"a": 1},
        {1.0},
        memoryview(b"abc"),
        {"numpy": "os.system"},
        "numpy.zeros",
    ],
)
def test_what_is_no_array_is_refused(value: Any) -> None:
    """Masked arrays, scalars and anything that merely could become an array are refused, and named by their type."""
    context = refused(of(np.float64), value, "array_type")
    assert context["received"] == type(value).__qualname__


def test_structured_and_object_arrays_are_refused() -> None:
    """Arrays whose elements are Python objects or records can't be checked, declared or not."""
    anything = TypeAdapter(Annotated[np.ndarray, Array()])
    refused(anything, np.array([1, None], dtype=object), "array_dtype")
    refused(anything, np.zeros(2, dtype=[("a", "f4")]), "array_dtype")
    with pytest.raises(PolicyError, match="structured array as a model"):
        of(np.object_)


def test_subclasses_that_hide_nothing_pass(tmp_path: Any) -> None:
    """A memory map is an array like another."""
    x = np.memmap(tmp_path / "x", dtype=np.float32, shape=(4,), mode="w+")
    assert of(np.float32, 4, ge=0).validate_python(x) is x
    assert of(np.float32, 4, strict=True).validate_python(x) is x


def test_strict_takes_nothing_but_the_dtype() -> None:
    """strict=True refuses lists and other dtypes, but JSON has only lists."""
    adapter = of(np.float32, 2, strict=True)
    assert refused(adapter, [1.0, 2.0], "array_type")["fix"].startswith("pass np.array")
    refused(adapter, np.ma.masked_array([1.0]), "array_type")
    refused(adapter, np.zeros(2), "array_dtype")
    assert adapter.validate_json(b"[1, 2]").tolist() == [1.0, 2.0]


def test_pydantics_strict_mode_means_the_same() -> None:
    """A model configured strict, or validated strictly, takes exact arrays only."""
    adapter = of(np.float32, "n")
    with pytest.raises(ValidationError, match="array_type"):
        adapter.validate_python([1.0], strict=True)
    assert adapter.validate_json(b"[1]", strict=True).tolist() == [1.0]


def test_json_takes_lists_only() -> None:
    """A JSON text or number is no array."""
    with pytest.raises(ValidationError, match="array_type"):
        of(np.float32).validate_json(b'"abc"')


def test_models_with_arrays_go_through_json_and_back() -> None:
    """An array is nested lists in JSON and comes back equal."""

    class Model(BaseModel):
        x: Annotated[npt.NDArray[np.float32], Array("n", 2)]
        y: Annotated[npt.NDArray[np.int64], Array()] | None = None

    model = Model(x=np.array([[0.1, 2]], np.float32), y=[1])  # type: ignore[arg-type]
    again = Model.model_validate_json(model.model_dump_json())
    assert again.x.tolist() == model.x.tolist()
    assert isinstance(model.model_dump()["x"], np.ndarray)
    assert model.model_dump(mode="json") == {"x": model.x.tolist(), "y": [1]}


def test_json_schema() -> None:
    """The JSON Schema says nesting, sizes and bounds, and names dtype and dimensions."""
    assert of(np.float32, "batch", 3, ge=0, lt=1).json_schema() == {
        "type": "array",
        "items": {
            "type": "array",
            "items": {"type": "number", "minimum": 0, "exclusiveMaximum": 1},
            "minItems": 3,
            "maxItems": 3,
        },
        "dtype": "float32",
        "shape": ["batch", 3],
    }
    assert of(np.uint8, ..., 3).json_schema() | {"values": None} == {
        "type": "array",
        "dtype": "uint8",
        "shape": ["...", 3],
        "values": None,
    }
    assert TypeAdapter(Annotated[np.ndarray, Array()]).json_schema()["dtype"] == "any dtype"
    assert of(np.integer, 2, gt=1).json_schema()["dtype"] == "integer"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ge": 1, "gt": 1}, "ge and gt are both given"),
        ({"ge": 2, "le": 1}, "no value lies in this range"),
        ({"ge": 1, "lt": 1}, "no value lies in this range"),
        ({"ge": "1"}, "must be a number"),
        ({"le": float("nan")}, "must be a number"),
        ({"ge": 0, "finite": True, "allow_nan": True}, "finite=True refuses NaN"),
        ({"allow_nan": True}, "no bound that NaN could pass"),
    ],
)
def test_impossible_bounds_are_refused_at_once(options: Any, message: str) -> None:
    """A declaration that nothing could meet is an error where it is written."""
    with pytest.raises(PolicyError, match=message):
        Array("n", **options)


@pytest.mark.parametrize("shape", [(-1,), (True,), (1.5,), ("a b",), (..., 1, ...), (None,)])
def test_impossible_shapes_are_refused_at_once(shape: Any) -> None:
    """So is a shape that is none."""
    with pytest.raises(PolicyError, match="Array"):
        Array(*shape)


def test_declarations_that_contradict_their_annotation_are_refused() -> None:
    """dtype given twice, a range of text, a dtype that is none, and Array on what is no array name their fix."""
    with pytest.raises(PolicyError, match="leave out dtype"):
        TypeAdapter(Annotated[npt.NDArray[np.float32], Array(dtype=np.float64)])
    with pytest.raises(PolicyError, match="has no range"):
        of(np.str_, dtype=np.dtype("U3"), ge=0) if False else TypeAdapter(
            Annotated[np.ndarray, Array(dtype="U3", ge=0)]
        )
    with pytest.raises(PolicyError, match=r"no dtype of NumPy|no NumPy dtype"):
        TypeAdapter(Annotated[np.ndarray, Array(dtype="float33")])
    with pytest.raises(PolicyError, match="Array is for NumPy arrays"):
        TypeAdapter(Annotated[dict[str, float], Array("n")])


def test_an_array_declaration_reads_as_it_was_written() -> None:
    """The repr is what a user would write, and equal declarations are equal."""
    array = Array("batch", ..., 3, dtype=np.float32, finite=True, ge=0)
    assert repr(array) == "Array('batch', ..., 3, dtype=float32, finite=True, ge=0)"
    assert array == Array("batch", ..., 3, dtype=np.float32, finite=True, ge=0)
    assert hash(array) == hash(Array("batch", ..., 3, dtype=np.float32, finite=True, ge=0))
    assert array != Array("batch")


leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-300, 300),
    st.floats(),
    st.floats(width=16),
    st.text(max_size=3),
)
nested = st.recursive(leaves, lambda inner: st.lists(inner, max_size=4), max_leaves=12)
dtypes = st.sampled_from(
    [np.float16, np.float32, np.float64, np.int8, np.int64, np.uint16, np.bool_, np.str_, np.complex64]
)


@settings(max_examples=400, deadline=None)
@given(nested, dtypes, st.booleans())
def test_any_nested_list_is_accepted_equal_or_refused_with_a_json_error(value: Any, dtype: Any, finite: bool) -> None:
    """No list, however odd, is changed or breaks the validator."""
    adapter = of(dtype, finite=finite) if dtype is not np.str_ else of(dtype)
    try:
        array = adapter.validate_python(value)
    except ValidationError as error:
        json.loads(error.json(include_input=False, include_url=False))
        return
    assert isinstance(value, list)
    flat = value
    while any(isinstance(item, list) for item in flat):
        flat = [leaf for item in flat for leaf in item]
    assert len(flat) == array.size
    for leaf, kept in zip(flat, array.ravel(), strict=True):
        if isinstance(leaf, float) and np.issubdtype(dtype, np.inexact):
            assert kept == dtype(leaf) or (np.isnan(leaf) and np.isnan(kept))
        else:
            assert kept.item() == leaf


@settings(max_examples=300, deadline=None)
@given(hnp.arrays(hnp.scalar_dtypes(), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)), dtypes)
def test_any_array_is_accepted_equal_or_refused_with_a_json_error(value: Any, dtype: Any) -> None:
    """No array, of whatever dtype and shape, is changed or breaks the validator."""
    try:
        array = of(dtype).validate_python(value)
    except ValidationError as error:
        json.loads(error.json(include_input=False, include_url=False))
        return
    np.testing.assert_array_equal(array, value)
    assert np.issubdtype(array.dtype, dtype)


@settings(max_examples=300, deadline=None)
@given(
    hnp.arrays(st.sampled_from(["f2", "f4", "f8", "i1", "u8", "i8"]), hnp.array_shapes(max_dims=2, max_side=12)),
    st.floats(-100, 100),
    st.floats(0, 100),
    st.booleans(),
    st.booleans(),
)
def test_ranges_mean_what_numpy_compares(x: Any, low: float, width: float, finite: bool, exclusive: bool) -> None:
    """An array passes exactly where NumPy's own comparison of every value does."""
    high = low + width + 1
    names = ("gt", "lt") if exclusive else ("ge", "le")
    adapter = of(x.dtype.type, finite=finite, **dict(zip(names, (low, high), strict=True)))
    floating = x.dtype.kind == "f"
    lower, upper = (x.dtype.type(low), x.dtype.type(high)) if floating else (low, high)
    with np.errstate(invalid="ignore"):
        bad = (x <= lower) | (x >= upper) if exclusive else (x < lower) | (x > upper)
    if floating:
        bad |= ~np.isfinite(x) if finite else np.isnan(x)
    try:
        assert adapter.validate_python(x) is x
        assert not bad.any()
    except ValidationError as error:
        assert bad.any()
        json.loads(error.json(include_input=False))


def test_times_are_refused_where_the_unit_cannot_hold_them() -> None:
    """A finer unit reaches less far: what would wrap around is refused, NaT stays NaT."""
    times = TypeAdapter(Annotated[np.ndarray, Array("n", dtype="M8[ns]")])
    spans = TypeAdapter(Annotated[np.ndarray, Array("n", dtype="m8[ns]")])
    good = np.array(["2020-01-01", "NaT"], "M8[s]")
    assert times.validate_python(good).astype("M8[s]")[0] == good[0]
    assert np.isnat(times.validate_python(good)[1])
    refused(times, np.array(["9999-12-31"], "M8[s]"), "array_value")
    refused(spans, np.array([2**62], "m8[s]"), "array_value")


def test_numbers_are_no_times() -> None:
    """The least int64 would become NaT, so no number is converted."""
    spans = TypeAdapter(Annotated[np.ndarray, Array("n", dtype="m8[s]")])
    for numbers in (np.array([-(2**63)]), np.array([1], np.uint8), np.array([True])):
        refused(spans, numbers, "array_dtype")


@pytest.mark.parametrize(
    ("dtype", "found"),
    [
        (np.floating, np.float64),
        (np.inexact, np.float64),
        (np.complexfloating, np.complex128),
        (np.unsignedinteger, np.uint64),
        (np.integer, np.int64),
        (np.number, np.int64),
    ],
)
def test_whole_numbers_become_what_an_abstract_dtype_covers(dtype: Any, found: Any) -> None:
    """[1, 2] is as good as [1.0, 2] where the dtype is any float."""
    array = of(dtype).validate_python([1, 2])
    assert (array.dtype, array.tolist()) == (found, [1, 2])
    assert of(dtype).validate_json("[1, 2]").dtype == found
