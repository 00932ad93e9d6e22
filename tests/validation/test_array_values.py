"""What `Array` says of values beyond one range: columns, categories, order, uniqueness; and sizes that are ranges."""

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

from mlguard import Array, InvalidInputError, PolicyError, guarded
from mlguard.validation.array_check import ArrayCheck

Floats = npt.NDArray[np.float64]
COLUMNS = ("age", "income", "debt")
LARGE = 2**16


def of(dtype: Any, *shape: Any, **options: Any) -> TypeAdapter[Any]:
    return TypeAdapter(Annotated[npt.NDArray[dtype], Array(*shape, **options)])


def violations(adapter: TypeAdapter[Any], value: Any) -> list[dict[str, Any]]:
    with pytest.raises(ValidationError) as caught:
        adapter.validate_python(value)
    found = caught.value.errors(include_input=False, include_url=False)
    json.dumps(found, allow_nan=False)
    return found  # type: ignore[return-value]


def passes(adapter: TypeAdapter[Any], value: Any) -> bool:
    try:
        adapter.validate_python(value)
    except ValidationError:
        return False
    return True


# sizes


@pytest.mark.parametrize(
    ("entry", "good", "bad", "text"),
    [
        ((1, 3), (1, 3), (0, 4), "1..3"),
        ((2, None), (2, 1000), (1,), ">=2"),
        ((None, 2), (0, 2), (3,), "<=2"),
        (("n", 1, 3), (1, 3), (0, 4), "n: 1..3"),
    ],
)
def test_a_dimension_may_be_a_range_with_both_ends(entry: Any, good: Any, bad: Any, text: str) -> None:
    """(1, 3) is 1, 2 or 3; None is no end; a name in front binds the size."""
    adapter = of(np.float64, entry, 2)
    for size in good:
        x = np.zeros((size, 2))
        assert adapter.validate_python(x) is x
    for size in bad:
        (found,) = violations(adapter, np.zeros((size, 2)))
        assert found["msg"] == f"must have shape ({text}, 2), got ({size}, 2)"


def test_a_range_with_a_name_is_one_size_in_a_call() -> None:
    """It is bound like a plain name, and shared with it."""

    @guarded
    def f(x: Annotated[Floats, Array(("n", 1, 3))], y: Annotated[Floats, Array("n")]) -> None: ...

    f(np.zeros(2), np.zeros(2))
    with pytest.raises(InvalidInputError, match="same size 'n' as elsewhere in this call, which is 2; got 3"):
        f(np.zeros(2), np.zeros(3))
    with pytest.raises(InvalidInputError, match=r"must have shape \(n: 1..3,\), got \(4,\)"):
        f(np.zeros(4), np.zeros(4))


@pytest.mark.parametrize(
    "entry", [(3, 1), (-1, 2), (1.5, 2), ("a b", 1, 2), (1,), (1, 2, 3, 4), (True, 2), range(1, 4), ()]
)
def test_a_range_that_is_none_is_refused_with_the_spelling(entry: Any) -> None:
    """So is Python's range, whose end is excluded."""
    with pytest.raises(PolicyError, match=r"is no range of sizes. Fix: \(1, 512\) for 1 to 512 entries"):
        Array(entry)


# columns


@pytest.mark.parametrize("rows", [1, 3, LARGE])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64, np.uint8])
def test_each_column_has_bounds_of_its_own(rows: int, dtype: Any) -> None:
    """By name or in order; every bad column has a violation with its name, counts and the place in the whole array."""
    by_name = of(dtype, "n", 3, columns=COLUMNS, ge={"age": 18}, lt={"age": 120, "debt": 50})
    in_order = of(dtype, "n", 3, columns=COLUMNS, ge=[18, None, None], lt=np.array([120, 250, 50]))
    x = np.full((rows, 3), 30, dtype)
    for adapter in (by_name, in_order):
        assert adapter.validate_python(x) is x
    x[-1] = [7, 200, 50]
    for adapter in (by_name, in_order):
        age, debt = violations(adapter, x)
        assert (age["loc"], debt["loc"]) == (("age",), ("debt",))
        assert age["ctx"]["first"] == f"[{rows - 1}, 0]"
        assert age["ctx"] | {"first": ""} == {
            "expected": ">= 18 and < 120",
            "count": 1,
            "size": rows,
            "first": "",
            "min": 7,
            "max": 30 if rows > 1 else 7,
        }
        assert debt["msg"].startswith(f"must be < 50: 1 of {rows} values are not, the first at [{rows - 1}, 2]")


def test_columns_have_no_names_where_none_are_given() -> None:
    """The violation then says which column by number."""

    @guarded
    def f(x: Annotated[Floats, Array("n", 2, ge=[0, None])]) -> None: ...

    f([[0, -5]])  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError) as caught:
        f([[-1, 0]])  # type: ignore[arg-type]
    assert caught.value.errors()[0]["loc"] == ("x", "column 0")
    one = of(np.float64, 2, le=[1, 2])
    assert violations(one, np.array([2, 2]))[0]["ctx"]["first"] == "[0]"


def test_nan_passes_only_in_columns_without_bounds() -> None:
    """A bound refuses NaN in its column; finite refuses it everywhere; allow_nan nowhere."""
    x = np.array([[1, np.nan, 1], [1, 1, 1]])
    assert passes(of(np.float64, "n", 3, columns=COLUMNS, ge={"age": 0}), x)
    assert [each["loc"] for each in violations(of(np.float64, "n", 3, columns=COLUMNS, ge={"income": 0}), x)] == [
        ("income",)
    ]
    (found,) = violations(of(np.float64, "n", 3, columns=COLUMNS, ge={"age": 0}, finite=True), x)
    assert (found["loc"], found["type"], found["ctx"]["first"]) == (("income",), "array_not_finite", "[0, 1]")
    assert passes(of(np.float64, "n", 3, columns=COLUMNS, ge={"income": 0}, allow_nan=True), x)
    assert not passes(of(np.float64, "n", 3, columns=COLUMNS, ge={"income": 2}, allow_nan=True), x)


def test_many_bad_columns_are_counted() -> None:
    """Twenty are told, as of any other violations."""
    found = violations(of(np.float64, 2, 100, ge=[0] * 100), np.full((2, 100), -1))
    assert len(found) == 21
    assert found[-1]["msg"] == "80 more columns are out of their bounds"

    @guarded
    def f(x: Annotated[Floats, Array(2, 100, ge=[0] * 100)]) -> None: ...

    with pytest.raises(InvalidInputError) as caught:
        f(np.full((2, 100), -1.0))
    assert len(caught.value.errors()) <= 21


def test_the_columns_of_no_rows_are_fine() -> None:
    """Nothing to look at is nothing wrong."""
    assert passes(of(np.float64, "n", 2, ge=[0, 1]), np.zeros((0, 2)))


@settings(max_examples=150, deadline=None)
@given(hnp.arrays(st.sampled_from(["f4", "f8", "i8", "u1"]), st.tuples(st.integers(0, 5), st.just(3))), st.data())
def test_column_bounds_mean_what_numpy_compares(x: Any, data: Any) -> None:
    """An array passes exactly where each column, on its own, would."""
    some = st.lists(st.none() | st.floats(-1e6, 1e6) | st.integers(-300, 300), min_size=3, max_size=3)
    low, wide = data.draw(some), data.draw(st.integers(1, 1000))
    high = [None if each is None else each + wide for each in low]
    alone = [of(x.dtype.type, "n", ge=least, le=most) for least, most in zip(low, high, strict=True)]
    together = of(x.dtype.type, "n", 3, ge=low, le=high)
    assert passes(together, x) == all(passes(adapter, x[:, number]) for number, adapter in enumerate(alone))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": ("a",)}, "columns has 1 names, but the last dimension is"),
        ({"columns": ("a", "a")}, "must be different names"),
        ({"columns": "ab"}, "must be different names"),
        ({"ge": {"a": 1}}, "ge names columns. Fix: say which they are"),
        ({"columns": ("a", "b"), "ge": {"c": 1}}, "ge has no column 'c'"),
        ({"ge": [1]}, "ge has 1 bounds, but the last dimension is"),
        ({"ge": [1, "x"]}, "must be a number, or one a column"),
        ({"ge": [1, 5], "le": [2, 4]}, "no value lies in this range"),
        ({"ge": [1, None], "gt": [None, 1]}, "ge and gt are both given"),
    ],
)
def test_columns_that_do_not_fit_are_refused_at_once(options: Any, message: str) -> None:
    """The declaration itself says what is wrong."""
    with pytest.raises(PolicyError, match=message):
        Array("n", 2, **options)


# categories


@pytest.mark.parametrize("size", [3, 1000])
@pytest.mark.parametrize(
    ("dtype", "allowed", "good", "bad"),
    [
        (np.int64, [0, 1, 5], 5, 2),
        (np.uint8, [0, 300, 7], 7, 44),
        (np.float64, [0.5, 1], 1, 1.5),
        (np.float32, [0.1, 0.2], 0.1, 0.3),
        (np.bool_, [1], True, False),
        (np.str_, ["EUR", "USD"], "EUR", "GBP"),
        (np.bytes_, [b"a", b"b"], b"a", b"c"),
        (np.integer, [1, 2], 1, 3),
    ],
)
def test_categories(size: int, dtype: Any, allowed: Any, good: Any, bad: Any) -> None:
    """Only the values listed pass, compared as the dtype spells them; the error counts and never shows a value."""
    adapter = of(dtype, "n", categories=allowed)
    x = np.full(size, good)
    if not isinstance(good, str | bytes) and dtype is not np.integer:
        x = x.astype(dtype)
    assert adapter.validate_python(x) is x
    x = x.copy()
    x[2] = bad
    (found,) = violations(adapter, x)
    assert (found["type"], found["ctx"]["count"], found["ctx"]["first"]) == ("array_category", 1, "[2]")
    assert found["msg"].startswith(f"must be one of {allowed[0]!r}")
    assert passes(adapter, np.array([], dtype=x.dtype))


def test_categories_and_nan() -> None:
    """NaN is no category, unless it is let pass."""
    x = np.array([0, np.nan])
    assert not passes(of(np.float64, "n", categories=[0]), x)
    assert passes(of(np.float64, "n", categories=[0], allow_nan=True), x)
    assert not passes(of(np.float64, "n", categories=[1], allow_nan=True), x)


def test_many_categories_are_not_all_shown() -> None:
    """An error is bounded, whatever was declared."""
    (found,) = violations(of(np.int64, "n", categories=range(1000)), np.array([-1]))
    assert found["ctx"]["expected"] == "one of 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 990 more"


@pytest.mark.parametrize("categories", [[], [None], ["a", 1], [True], [float("nan")], [["a"]], 5])
def test_impossible_categories_are_refused_at_once(categories: Any) -> None:
    """They must be numbers or texts, and one at least."""
    with pytest.raises(PolicyError, match="must be numbers or texts"):
        Array(categories=categories)


def test_categories_of_another_sort_than_the_dtype() -> None:
    """Refused where they are declared; where any dtype may come, the array is."""
    with pytest.raises(PolicyError, match="categories of type str don't fit float64"):
        of(np.float64, categories=["a"])
    anything = TypeAdapter(Annotated[np.ndarray, Array(categories=["a"])])
    assert violations(anything, np.zeros(3))[0]["type"] == "array_dtype"
    with pytest.raises(PolicyError, match="categories and bounds are both given"):
        Array(categories=[1], ge=0)


# order and uniqueness


@pytest.mark.parametrize("size", [3, 1000])
@pytest.mark.parametrize(
    ("order", "good", "bad"),
    [
        ("increasing", [0, 0, 1], [0, 1, 0]),
        ("strictly_increasing", [0, 1, 2], [0, 1, 1]),
        ("decreasing", [2, 1, 1], [2, 1, 2]),
        ("strictly_decreasing", [2, 1, 0], [2, 1, 1]),
    ],
)
def test_order_along_the_last_dimension(size: int, order: Any, good: Any, bad: Any) -> None:
    """Every row is in order by itself; NaN is in no order."""
    adapter = of(np.float64, ..., monotonic=order)
    step = 1 if "increasing" in order else -1
    tail = [good[2] + step * number for number in range(1, size - 2)]
    x = np.array([[*good, *tail]] * 2, float)
    assert adapter.validate_python(x) is x
    x = x.copy()
    x[1, :3] = bad
    if size > 3:
        x[1, 3:] = bad[2] + step * np.arange(1, size - 2)
    (found,) = violations(adapter, x)
    assert (found["type"], found["ctx"]["count"], found["ctx"]["first"]) == ("array_order", 1, "[1, 2]")
    x[1, 2] = np.nan
    assert not passes(adapter, x)
    for small in (np.zeros((2, 1)), np.zeros((0, 3)), np.array(1.0)):
        assert passes(adapter, small)


@pytest.mark.parametrize("dtype", [np.int64, np.float32, np.str_, np.bool_, "M8[s]"])
def test_times_and_texts_have_an_order_too(dtype: Any) -> None:
    """What NumPy can compare is compared."""
    adapter = TypeAdapter(Annotated[np.ndarray, Array("n", dtype=dtype, monotonic="increasing")])
    x = np.array([0, 1, 1]).astype(dtype)
    assert adapter.validate_python(x) is x
    assert not passes(adapter, x[::-1])


@pytest.mark.parametrize("size", [4, 1000])
@pytest.mark.parametrize("dtype", [np.int64, np.float64, np.str_, "M8[s]", np.complex128])
def test_unique(size: int, dtype: Any) -> None:
    """No value twice, in the whole array; the error says which place repeats an earlier one."""
    adapter = TypeAdapter(Annotated[np.ndarray, Array(2, size // 2, dtype=dtype, unique=True)])
    x = np.arange(size).astype(dtype).reshape(2, -1)
    assert adapter.validate_python(x) is x
    x[1, 0] = x[0, 0]
    (found,) = violations(adapter, x)
    assert (found["type"], found["ctx"]["count"], found["ctx"]["first"]) == ("array_duplicate", 1, "[1, 0]")


@pytest.mark.parametrize("size", [4, 1000])
def test_nan_counts_as_one_value(size: int) -> None:
    """One missing value is unique, two are the same."""
    adapter = of(np.float64, "n", unique=True)
    x = np.arange(float(size))
    x[1] = np.nan
    assert adapter.validate_python(x) is x
    x[3] = np.nan
    assert violations(adapter, x)[0]["ctx"]["first"] == "[3]"
    assert passes(adapter, np.array([]))


def test_impossible_orders_are_refused_at_once() -> None:
    """With the names there are; and for a dtype without order."""
    with pytest.raises(PolicyError, match="monotonic = 'ascending' is no order"):
        Array(monotonic="ascending")  # type: ignore[arg-type]
    with pytest.raises(PolicyError, match="complex64 has no order"):
        of(np.complex64, monotonic="increasing")


# size in bytes


def test_max_bytes_is_looked_at_before_anything_is_converted() -> None:
    """An array by its bytes, or what it would take; lists by what the array would take; text by its length."""
    adapter = of(np.float64, ..., max_bytes=800)
    assert passes(adapter, np.zeros(100))
    assert passes(adapter, [[0.0] * 10] * 10)
    for value in (np.zeros(101), np.zeros(101, np.float32), [0.0] * 101, [[None] * 11] * 11):
        (found,) = violations(adapter, value)
        assert found["type"] == "too_large"
        assert found["msg"] == "must take at most 800B"
        assert "Array(max_bytes=...)" in found["ctx"]["fix"]
    texts = of(np.str_, "n", max_bytes="1KiB")
    assert passes(texts, ["a"] * 256)
    assert violations(texts, ["a"] * 10 + ["a" * 100])[0]["type"] == "too_large"
    strict = of(np.float64, max_bytes=8, strict=True)
    assert not passes(strict, np.zeros(2))
    with pytest.raises(PolicyError, match="max_bytes = 'much'"):
        Array(max_bytes="much")


def test_one_long_text_among_many_is_no_bomb() -> None:
    """NumPy gives every text the room of the longest: a small request must not become gigabytes."""
    (found,) = violations(of(np.str_, "n"), ["a"] * 100_000 + ["a" * 100_000])
    assert found["type"] == "array_value"
    assert "as an array" in found["msg"]
    assert violations(TypeAdapter(Annotated[np.ndarray, Array(dtype="U3")]), ["a"] * 9 + ["a" * 10**7])


# the declaration


def test_a_declaration_shows_and_compares_all_it_says() -> None:
    """The repr is what a user would write, and everything in it counts."""
    array = Array(
        ("n", 1, None), 2, columns=["a", "b"], ge=[0, None], monotonic="increasing", unique=True, max_bytes="1MiB",
        check="sample",
    )  # fmt: skip
    assert repr(array) == (
        "Array(('n', 1, None), 2, columns=('a', 'b'), ge=(0, None), monotonic='increasing', unique=True, "
        "max_bytes='1MiB', check='sample')"
    )
    assert array.but(check=None) != array
    assert array.but() == array
    assert hash(array.but()) == hash(array)
    assert eval(repr(array)) == array


def test_a_declaration_keeps_what_it_was_given() -> None:
    """Changing the list afterwards changes nothing."""
    bounds, allowed = [0, 0], ["a"]
    array = Array("n", 2, ge=bounds)
    other = Array(categories=allowed)
    bounds[0] = 9
    allowed.append("b")
    assert (array.ge, other.categories) == ((0, 0), ("a",))


class Table(BaseModel):
    x: Annotated[Floats, Array("n", 2, columns=("a", "b"), ge={"a": 0})]


def test_columns_of_a_models_field_are_named_in_the_path() -> None:
    """Parameter, field, column."""

    @guarded
    def f(table: Table) -> None: ...

    with pytest.raises(InvalidInputError) as caught:
        f({"x": [[-1, 0]]})  # type: ignore[arg-type]
    assert caught.value.errors()[0]["loc"] == ("table", "x", "a")
    assert "table.x.a: must be >= 0: 1 of 1 values are not, the first at [0, 0]" in str(caught.value)


def test_what_is_not_asked_for_is_not_made() -> None:
    """A declaration of dtype and shape has nothing that looks at values."""
    assert ArrayCheck(Array("n"), np.dtype(np.float64))._values is None
