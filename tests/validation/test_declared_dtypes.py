"""What an annotation may say of a dtype: the spellings people use, none of which may mean "anything" by accident."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import numpy as np
import numpy.typing as npt
import pytest
from pydantic import TypeAdapter, ValidationError

from mlguard import Array, PolicyError

Bound = TypeVar("Bound", bound=np.floating)
Free = TypeVar("Free")
Several = TypeVar("Several", np.float32, np.float64)
TEXTS = np.array(["a", "b"])


def taken(annotation: Any, value: Any) -> Any:
    return TypeAdapter(annotation).validate_python(value)


@pytest.mark.parametrize("dtype", [np.floating, np.floating[Any], Bound])
def test_an_abstract_dtype_is_held_to_however_it_is_spelt(dtype: Any) -> None:
    """`np.floating[Any]`, which type checkers ask for, and a bounded type variable are no "any dtype"."""
    annotation = Annotated[npt.NDArray[dtype], Array("n")]
    x = np.zeros(2, np.float16)
    assert taken(annotation, x) is x
    assert taken(annotation, [1]).dtype == np.float64
    for bad in (TEXTS, np.zeros(2, int)):
        with pytest.raises(ValidationError, match=r"must have dtype floating"):
            taken(annotation, bad)


@pytest.mark.parametrize(
    "annotation",
    [
        npt.NDArray[Any],
        npt.NDArray[Free],
        np.ndarray,
    ],
)
def test_what_says_no_dtype_takes_any(annotation: Any) -> None:
    """But no objects."""
    made = Annotated[annotation, Array("n")]
    assert taken(made, TEXTS) is TEXTS
    with pytest.raises(ValidationError, match="boolean, number, text or time, got object"):
        taken(made, np.array([None]))


@pytest.mark.parametrize("dtype", [np.float32 | np.float64, (np.float32, np.float64), ["f4", "f8"], Several])
def test_several_dtypes_are_refused_with_what_to_write_instead(dtype: Any) -> None:
    """They never mean "any"."""
    with pytest.raises(PolicyError, match=r"is more than one\. Fix: an abstract one such as np\.floating"):
        Array("n", dtype=dtype)
    if not isinstance(dtype, tuple | list):
        with pytest.raises(PolicyError, match="is more than one"):
            TypeAdapter(Annotated[npt.NDArray[dtype], Array("n")])


@pytest.mark.parametrize("dtype", ["nope", 5, ("f4", (3,)), [("a", "f4")], object, "V5"])
def test_what_is_no_dtype_of_values_is_refused(dtype: Any) -> None:
    """Misspelt, of several numbers, structured and of objects alike."""
    with pytest.raises(PolicyError, match=r"dtype = .*Fix: "):
        TypeAdapter(Annotated[np.ndarray, Array("n", dtype=dtype)])


def test_an_array_annotated_without_a_dtype_class_is_refused() -> None:
    """`np.ndarray[Any, np.float64]` is a mistake that used to let everything pass."""
    with pytest.raises(PolicyError, match=r"Fix: npt\.NDArray\[np\.float64\]"):
        TypeAdapter(Annotated[np.ndarray[Any, np.float64], Array("n")])


@pytest.mark.parametrize("dtype", [str, "U", np.str_])
def test_text_without_a_length_is_text_of_any_length(dtype: Any) -> None:
    """As an array and as a list."""
    annotation = Annotated[np.ndarray, Array("n", dtype=dtype)]
    assert taken(annotation, TEXTS) is TEXTS
    assert taken(annotation, ["a", "bcd"]).tolist() == ["a", "bcd"]
    with pytest.raises(ValidationError, match="must have dtype str_, got float64"):
        taken(annotation, np.zeros(2))


def test_times_without_a_unit_are_times_of_any_unit() -> None:
    """ "M8" is what `np.datetime64` is."""
    x = np.array(["2020-01-01"], "M8[s]")
    assert taken(Annotated[np.ndarray, Array("n", dtype="M8")], x) is x


def test_one_kind_of_text_never_becomes_another() -> None:
    """NumPy calls bytes and whole numbers safe to cast to text; here they are refused, and no byte is shown."""
    annotation = Annotated[np.ndarray, Array("n", dtype="U30")]
    for bad in (np.array([b"\xff"]), np.array([b"a"]), np.array([5]), np.array([True])):
        with pytest.raises(ValidationError) as caught:
            taken(annotation, bad)
        assert [each["type"] for each in caught.value.errors()] == ["array_dtype"]
        assert "must have dtype U30, got " in str(caught.value)
    assert taken(annotation, np.array(["a"])).dtype == "U30"


@pytest.mark.parametrize(("dtype", "value"), [(np.str_, "a\0"), (np.bytes_, b"a\0"), ("U5", "\0")])
def test_a_text_that_numpy_would_cut_is_refused(dtype: Any, value: Any) -> None:
    """NumPy drops NULs at the end, so a list of such texts would come out changed."""
    annotation = Annotated[np.ndarray, Array("n", dtype=dtype)]
    with pytest.raises(ValidationError, match="ends with NUL"):
        taken(annotation, [value])
    inside = value[:0].join([value, value[:1] if value[:1].strip() else value])
    assert taken(annotation, [inside.strip(value[-1:])]) is not None


def test_a_fix_names_a_dtype_that_numpy_knows() -> None:
    """What an error tells to write can be written."""
    for dtype in (np.floating, np.integer, np.number, np.str_, "U3", np.float32, np.datetime64):
        with pytest.raises(ValidationError) as caught:
            taken(Annotated[np.ndarray, Array("n", dtype=dtype)], np.array([b"abc"]))
        fix = caught.value.errors()[0]["ctx"]["fix"]
        assert np.dtype(fix.split("'")[1]) is not None
