"""Input and declarations made to slip through, to crash the check, or to make an error tell too much."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable
from typing import Annotated, Any
from uuid import UUID

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import typing_extensions
from pydantic import BaseModel, TypeAdapter, ValidationError

from mlguard import Array, InvalidInputError, InvalidOutputError, PolicyError, Redacted, Validation, guarded

Floats = npt.NDArray[np.float64]
Named = Annotated[Floats, Array("n", ge=0)]
Two = Annotated[Floats, Array("n", 2, columns=("age", "debt"), ge=0, finite=True)]


class Kept(np.ndarray[Any, Any]):
    """An array that a weak reference can watch."""


class Tagged(list[Any]):
    """A list that a weak reference can watch."""


def taken(annotation: Any, value: Any) -> Any:
    return TypeAdapter(annotation).validate_python(value)


def refused(annotation: Any, value: Any) -> list[Any]:
    @guarded
    def f(x: annotation) -> None: ...

    with pytest.raises(InvalidInputError) as caught:
        f(value)
    return [(".".join(map(str, each["loc"])), each["type"]) for each in caught.value.errors()]


@pytest.mark.parametrize(
    ("annotation", "make"),
    [
        (Named, lambda: np.full(3, -1.0).view(Kept)),
        (Two, lambda: np.full((3, 2), -1.0).view(Kept)),
        (Annotated[Floats, Array(3, 2, ge=(0, 0), check="sample")], lambda: np.full((3, 2), -1.0).view(Kept)),
        (list[int], lambda: Tagged(["a"])),
        (list[int], lambda: Tagged(["a"] * 2000)),
        (Named | list[str], lambda: np.full(3, -1.0).view(Kept)),
    ],
)
def test_a_refused_value_is_not_kept(annotation: Any, make: Callable[[], Any]) -> None:
    """Neither an argument nor a result outlives its refusal, with the garbage collector off too."""

    @guarded
    def takes(x: annotation) -> None: ...

    @guarded
    async def takes_later(x: annotation) -> None: ...

    gives = guarded(output=annotation)(lambda x: x)

    async def later(x: Any) -> None:
        await takes_later(x)

    async def watched(function: Any) -> bool:
        value = make()
        watch = weakref.ref(value)
        refusals = 0
        try:
            result = function(value)
            if result is not None:
                await result
        except (InvalidInputError, InvalidOutputError) as error:
            refusals = len(error.errors())
        del value
        return refusals > 0 and watch() is None

    async def all_of_them() -> list[bool]:
        return [await watched(each) for each in (takes, gives, later)]

    gc.collect()
    gc.disable()
    try:
        assert asyncio.run(all_of_them()) == [True, True, True]
    finally:
        gc.enable()


class Arrays(typing_extensions.TypedDict):
    a: Named
    b: typing_extensions.NotRequired[Named]


@pytest.mark.parametrize("validation", [Validation(), Validation(max_bytes="1MiB")])
def test_an_unknown_keyword_is_refused_beside_arrays_too(validation: Validation) -> None:
    """Under `Unpack[TypedDict]` no typo is dropped, whatever the TypedDict holds."""

    @guarded(validation=validation)
    def f(**arrays: typing_extensions.Unpack[Arrays]) -> int:
        return len(arrays)

    assert f(a=np.ones(2), b=np.ones(2)) == 2
    with pytest.raises(InvalidInputError) as caught:
        f(a=np.ones(2), bb=np.ones(2))  # type: ignore[call-arg]
    assert caught.value.errors()[0]["loc"] == ("bb",)
    with pytest.raises(InvalidInputError, match="must have the same size 'n'"):
        f(a=np.ones(2), b=np.ones(3))


class Loud(np.ndarray[Any, Any]):
    """Breaks on every ufunc."""

    def __array_ufunc__(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("not for you")


class Liar(np.ndarray[Any, Any]):
    """Shows zeros, whatever it holds."""

    def __getitem__(self, index: Any) -> Any:
        return np.zeros(2)


@pytest.mark.parametrize("kind", [Loud, Liar])
@pytest.mark.parametrize("check", ["full", "sample"])
def test_a_sample_of_a_subclass_is_taken_by_numpy(kind: Any, check: Any) -> None:
    """What a subclass says of its own elements is not asked, in full and in a sample."""
    annotation = Annotated[Floats, Array("n", ge=0, check=check)]
    good = np.ones(100_000).view(kind)
    assert taken(annotation, good) is good
    with pytest.raises(ValidationError, match="100000 of 100000 values"):
        taken(annotation, np.full(100_000, -1.0).view(kind))


def test_a_category_that_a_dtype_has_not_is_none() -> None:
    """An infinite category is no whole number, and one beyond a dtype is not that dtype's infinity."""
    whole = Annotated[npt.NDArray[np.int64], Array("n", categories=(1, float("inf")))]
    assert taken(whole, [1]).tolist() == [1]
    half = Annotated[npt.NDArray[np.float16], Array("n", categories=(1, 1e6))]
    assert taken(half, [1]).tolist() == [1]
    for annotation, bad in ((whole, [2]), (half, [float("inf")])):
        with pytest.raises(ValidationError, match="must be one of 1"):
            taken(annotation, bad)
    assert taken(Annotated[Floats, Array("n", categories=(float("inf"),))], [float("inf")]) is not None


@pytest.mark.parametrize("flag", ["finite", "allow_nan", "unique", "strict"])
def test_a_flag_is_true_or_false(flag: str) -> None:
    """Text such as "no" would have meant yes."""
    with pytest.raises(PolicyError, match=f"{flag} = 'no' must be True or False"):
        Array("n", ge=0, **{flag: "no"})  # type: ignore[arg-type]


def test_numbers_no_dtype_holds_are_refused() -> None:
    """Bounds and categories that nothing could be compared with."""
    with pytest.raises(PolicyError, match="must be a number"):
        Array(le=10**400)
    with pytest.raises(PolicyError, match="must be numbers or texts"):
        Array(categories=(1, 10**400))


def test_names_and_sizes_may_come_from_numpy_and_pandas() -> None:
    """They are read as what they hold."""
    frame = pd.DataFrame({"b": [1.0], "a": [5.0]})
    two: Any = np.int64(2)
    columns: Any
    for columns in (frame.columns, np.array(["b", "a"]), (name for name in "ba")):
        made = Array("n", two, columns=columns)
        assert repr(made) == "Array('n', 2, columns=('b', 'a'))"
    with pytest.raises(PolicyError, match="columns must be different names"):
        Array("n", 2, columns=5)  # type: ignore[arg-type]


def test_bounds_from_a_series_go_by_its_names() -> None:
    """Whatever the order of the columns: a bound never moves to its neighbour."""
    least: Any = pd.DataFrame({"a": [5.0], "b": [1.0]}).min()
    made = Array("n", 2, columns=("b", "a"), ge=least)
    assert taken(Annotated[Floats, made], [[1, 5]]).tolist() == [[1, 5]]
    with pytest.raises(ValidationError, match="first at \\[0, 1\\]"):
        taken(Annotated[Floats, made], [[5, 1]])
    unnamed: Any = pd.Series([1, 2])
    assert Array("n", 2, ge=unnamed).ge == (1, 2)
    with pytest.raises(PolicyError, match="ge names columns"):
        Array("n", 2, ge=least)


def test_two_arrays_beside_one_type_are_refused() -> None:
    """One of them would be ignored; the error says what to do."""
    twice: list[Any] = [Annotated[Floats, Array("n"), Array(ge=0)], Annotated[Annotated[Floats, Array()], Array("n")]]
    for annotation in twice:
        with pytest.raises(PolicyError, match="another Array stands beside the same type"):
            TypeAdapter(annotation)


def test_an_error_under_a_bound_for_all_names_the_columns() -> None:
    """Where the columns have names, people look for them."""
    assert refused(Two, [[0, -1], [-1, 0]]) == [("x.age", "array_range"), ("x.debt", "array_range")]
    assert refused(Two, [[0, np.inf]]) == [("x.debt", "array_not_finite")]
    wide = tuple(f"c{number}" for number in range(40_000))
    x = np.zeros((2, 40_000))
    x[:, -1] = -1
    sampled = Annotated[Floats, Array(2, 40_000, columns=wide, ge=0, check="sample")]
    assert refused(sampled, x) == [("x.c39999", "array_range")]


class Either(BaseModel):
    a: Annotated[Floats, Array(3)] | Annotated[npt.NDArray[np.int64], Array(2)]
    b: Named | list[str]
    c: Annotated[Floats, Array(1, ge=0), Redacted] | None = None


def test_a_branch_of_a_union_has_no_name_that_nobody_wrote() -> None:
    """The path is that of the fields; pydantic's own names of our functions are not in it."""
    assert refused(Either, {"a": "x", "b": 5}) == [
        *[("x.a", "array_type")] * 2,
        ("x.b", "array_type"),
        ("x.b.list[str]", "list_type"),
    ]
    assert refused(Named | Annotated[list[str], Array("n")], 5) == [("x", "array_type"), ("x", "list_type")]


def test_a_branch_that_is_hidden_stays_hidden() -> None:
    """With its path made shorter."""

    @guarded
    def f(x: Annotated[Floats, Array(1, ge=0), Redacted] | int, model: Either | None = None) -> None: ...

    with pytest.raises(InvalidInputError) as caught:
        f(np.array([-77.0]), Either.model_construct())
    assert "77" not in str(caught.value)
    with pytest.raises(InvalidInputError) as caught:
        f(1, {"a": [1, 2, 3], "b": ["a"], "c": [-77.0]})  # type: ignore[arg-type]
    assert "77" not in str(caught.value)


def test_no_letter_of_a_uuid_is_told() -> None:
    """pydantic shows the one it stumbled at."""

    @guarded
    def f(x: UUID) -> None: ...

    with pytest.raises(InvalidInputError) as caught:
        f("zebra")  # type: ignore[arg-type]
    assert caught.value.errors()[0]["msg"] == "must be a valid UUID, got str"
    assert "z" not in caught.value.json().replace('"loc"', "")


def test_no_part_of_a_complex_number_becomes_infinite() -> None:
    """Each part of its own: an infinity beside it is no excuse."""
    annotation = Annotated[npt.NDArray[np.complex64], Array("n")]
    assert taken(annotation, [complex(1, float("inf"))]).tolist() == [complex(1, float("inf"))]
    for bad in (complex(3.5e38, float("inf")), complex(float("-inf"), 1e39), complex(1e39, 0)):
        with pytest.raises(ValidationError, match="beyond the range of complex64"):
            taken(annotation, [bad])
