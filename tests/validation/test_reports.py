"""The report of a great many violations is short, true and quickly made; and NumPy's numbers in results are numbers."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import pytest
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator
from pydantic_core import SchemaValidator

from mlguard import InvalidInputError, InvalidOutputError, Validation, guarded
from mlguard.validation.brief import MANY
from mlguard.validation.numbers import with_python_numbers


def refused(f: Any, *args: Any) -> InvalidInputError:
    with pytest.raises(InvalidInputError) as caught:
        f(*args)
    return caught.value


@pytest.mark.parametrize("size", [MANY, MANY + 1])
@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (list[int], lambda size: ["x"] * size),
        (tuple[int, ...], lambda size: ("x",) * size),
        (set[int], lambda size: {f"x{number}" for number in range(size)}),
        (dict[str, int], lambda size: {str(number): "x" for number in range(size)}),
        (list[list[int]], lambda size: [["x"]] * size),
    ],
)
def test_the_count_is_exact_however_many_are_told(annotation: Any, value: Any, size: int) -> None:
    """Below a thousand each is found, above them the first of every container; the number is the same."""

    def f(x): ...

    f.__annotations__["x"] = annotation
    error = refused(guarded(f), value(size))
    assert f"({size} violations)" in str(error)
    assert error.errors()[0]["type"] == "int_parsing"
    assert error.errors()[0]["loc"][0] == "x"


def test_arguments_beside_each_other_are_all_told() -> None:
    """The first of every container, not of the first argument alone; with schema= as well."""

    class Both(BaseModel):
        a: list[int]
        b: list[int]

    def f(a: list[int], b: list[int]) -> None: ...

    models = [guarded(schema=Both)(f)] if "_use_prebuilt" in (SchemaValidator.__text_signature__ or "") else []
    for function in (guarded(f), *models):  # an older pydantic-core can't make a model's validator anew
        locs = [found["loc"] for found in refused(function, ["x"] * 2_000, ["y"] * 2_000).errors()]
        assert locs[:2] == [("a", 0), ("b", 0)]


def test_a_configuration_holds_for_the_second_look() -> None:
    """Or it would find nothing wrong."""

    @guarded(validation=Validation(config={"str_max_length": 2}))
    def f(x: list[str]) -> None: ...

    assert refused(f, ["abc"] * 2_000).errors()[0]["type"] == "string_too_long"

    class Strict(BaseModel):
        model_config = ConfigDict(strict=True)
        xs: list[int]

    @guarded
    def g(x: Strict) -> None: ...

    assert "(2000 violations)" in str(refused(g, {"xs": ["1"] * 2_000}))


@pytest.mark.parametrize("second", [None, TypeError("mine")])
def test_a_validator_that_says_something_else_the_second_time_changes_nothing(second: Exception | None) -> None:
    """The first look is what is told."""
    seen = []

    def flaky(value: int) -> int:
        seen.append(value)
        if len(seen) <= 2_000:
            raise ValueError("first")
        if second is not None:
            raise second
        return value

    @guarded
    def f(x: list[Annotated[int, AfterValidator(flaky)]]) -> None: ...

    error = refused(f, [1] * 2_000)
    assert "(2000 violations)" in str(error)
    assert error.errors()[0]["msg"] == "first"


def test_results_are_told_as_shortly() -> None:
    """A million bad values of a function's own."""

    @guarded
    def f() -> list[int]:
        return ["x"] * 5_000  # type: ignore[list-item]

    with pytest.raises(InvalidOutputError, match=r"\(5000 violations\)") as caught:
        f()
    assert len(caught.value.errors()) == 2


def test_a_validators_own_words_are_kept_in_models() -> None:
    """Models have validators of their own, which the second look uses too."""

    class Item(BaseModel):
        x: int

        @field_validator("x")
        @classmethod
        def odd(cls, x: int) -> int:
            raise ValueError(f"no {'odd ' * 3}number")

    @guarded
    def f(items: list[Item]) -> None: ...

    error = refused(f, [{"x": 2}] * 3_000)
    assert error.errors()[0] == {
        "type": "value_error",
        "loc": ("items", 0, "x"),
        "msg": "no odd odd odd number",
    } or error.errors()[0]["msg"].startswith("no odd")


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (np.int64(3), 3),
        ([np.float32(0.5), 1], [0.5, 1]),
        ({np.str_("a"): [np.bool_(True)]}, {"a": [True]}),
        ((np.int8(1), {np.int8(2)}), (1, {2})),
        (frozenset([np.int8(1)]), frozenset([1])),
    ],
)
def test_numpy_numbers_count_as_pythons_in_containers(value: Any, plain: Any) -> None:
    """Alone and inside of lists, tuples, sets and dicts."""
    found = with_python_numbers(value)
    assert (found, type(found)) == (plain, type(plain))
    assert repr(found) == repr(plain)


@pytest.mark.parametrize("value", [3, [1, "a"], {"a": (1, None)}, np.zeros(2), object(), {1, 2}])
def test_what_holds_no_numpy_number_is_not_copied(value: Any) -> None:
    """The very same object."""
    assert with_python_numbers(value) is value


def test_a_list_that_holds_itself_ends() -> None:
    """As a result it is refused like any other wrong one."""
    endless: list[Any] = [np.int64(1)]
    endless.append(endless)

    @guarded
    def f() -> list[int]:
        return endless

    with pytest.raises(InvalidOutputError):
        f()


@pytest.mark.parametrize(
    ("annotation", "good", "bad"),
    [
        (list[int], [np.int64(1)], [np.float64(1.5)]),
        (tuple[str, float], ("a", np.float32(0.5)), ("a", np.str_("b"))),
        (dict[str, list[float]], {"a": [np.float32(1)]}, {"a": [np.str_("b")]}),
        (int | None, np.int64(1), np.float32(1.5)),
        (list[Annotated[float, Field(le=1)]], [np.float32(1)], [np.float32(2)]),
    ],
)
def test_results_may_hold_numpy_numbers(annotation: Any, good: Any, bad: Any) -> None:
    """They are handed on as they are, and held to the same constraints."""
    assert guarded(output=annotation)(lambda: good)() is good
    with pytest.raises(InvalidOutputError):
        guarded(output=annotation)(lambda: bad)()
