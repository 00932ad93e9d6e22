from __future__ import annotations

import json
import pickle
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
from pydantic import BaseModel, Field

from mlguard.errors import InvalidInputError, InvalidOutputError
from mlguard.validation import Array


def refused(guard: Any, *args: Any, **kwargs: Any) -> InvalidInputError:
    with pytest.raises(InvalidInputError) as caught:
        guard(*args, **kwargs)
    return caught.value


def test_the_text_people_read(bound: Any) -> None:
    """What happened with a count, then a line a violation with figures, and the fix."""

    def predict(
        x: Annotated[npt.NDArray[np.float32], Array("batch", 2, ge=0, finite=True)],
        y: Annotated[npt.NDArray[np.float32], Array("batch")],
        age: Annotated[int, Field(ge=0)],
    ) -> None: ...

    predict.__qualname__ = "predict"
    error = refused(bound(predict), np.array([[1, -3]], np.float32), np.zeros(1), age=-1)
    assert str(error) == (
        "predict() was not called, its input is invalid (3 violations):\n"
        "  x: must be >= 0: 1 of 2 values are not, the first at [0, 1]; min -3.0, max 1.0\n"
        "  y: must have dtype float32, got float64\n"
        "    fix: cast it where that is meant, with .astype('float32')\n"
        "  age: must be greater than or equal to 0, got -1"
    )


def test_an_output_says_that_it_was_not_handed_on(bound: Any) -> None:
    """The reader learns that the function did run."""

    def predict() -> float:
        return "x"  # type: ignore[return-value]

    with pytest.raises(InvalidOutputError, match="returned an invalid output, which was not handed on"):
        bound(predict)()


def test_no_value_of_the_callers_is_shown(bound: Any) -> None:
    """Not in the text, not in errors(), not in JSON, not in the pickle."""

    class Cat(BaseModel):
        kind: Literal["cat"]

    class Dog(BaseModel):
        kind: Literal["dog"]

    class Model(BaseModel):
        a: int
        b: Literal["x"]
        pet: Annotated[Cat | Dog, Field(discriminator="kind")]
        short: Annotated[str, Field(max_length=3)]
        code: Annotated[str, Field(pattern="^[0-9]+$")]

    def f(model: Model, n: int, x: Annotated[npt.NDArray[np.float64], Array()]) -> None: ...

    secret = "secret-value"
    model = {"a": secret, "b": secret, "pet": {"kind": secret}, "short": secret, "code": secret}
    for given in (model, json.dumps(model)):
        error = refused(bound(f), given, secret, [secret])
        assert len(error.errors()) == 7
        for text in (str(error), repr(error), str(error.errors()), error.json(), repr(pickle.dumps(error))):
            assert secret not in text
    assert "got 12" in str(error)


def test_errors_are_bounded(bound: Any) -> None:
    """A request of a hundred thousand bad values gets twenty lines and a count; long keys and numbers are cut."""

    def f(xs: list[int], table: dict[str, Any], n: Annotated[int, Field(ge=0)]) -> None: ...

    error = refused(bound(f), ["x"] * 100_000, {}, 1)
    assert 2 <= len(error.errors()) <= 21
    assert "100000 violations" in str(error)
    assert "more are not listed" in str(error)
    few = refused(bound(f), ["x"] * 500, {}, 1)
    assert len(few.errors()) == 21
    assert "480 more are not listed" in str(few)
    assert len(error.json()) < 5000

    def g(table: dict[str, int], n: Annotated[int, Field(ge=0)]) -> None: ...

    error = refused(bound(g), {"k" * 10_000: "x"}, -(10**1000))
    assert len(str(error)) < 400
    assert "a very large number" in str(error)

    Deep = Any
    for _ in range(12):
        Deep = dict[str, Deep] if Deep is not Any else dict[str, int]

    def h(deep) -> None: ...

    h.__annotations__["deep"] = Deep
    value: Any = "x"
    for _ in range(12):
        value = {"a": value}
    assert len(refused(bound(h), value).errors()[0]["loc"]) == 8


def test_errors_are_json_even_with_nan_and_pickle(bound: Any) -> None:
    """A body refused for NaN must not become an error 500; process pools need the pickle."""

    def f(
        p: Annotated[float, Field(ge=0, allow_inf_nan=False)], x: Annotated[npt.NDArray[np.float64], Array(le=1)]
    ) -> None: ...

    error = refused(bound(f), float("nan"), np.array([np.inf]))
    shown = json.loads(error.json())
    assert [entry["loc"] for entry in shown] == [["p"], ["x"]]
    json.dumps(error.errors(), allow_nan=False)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.errors(), str(again)) == (type(error), error.errors(), str(error))


def test_braces_in_a_message_are_only_braces(bound: Any) -> None:
    """Words of a user's validator are not a template."""
    from pydantic import AfterValidator

    def shout(value: str) -> str:
        raise ValueError("use {name} and " + "x" * 1000)

    def f(x: Annotated[str, AfterValidator(shout)]) -> None: ...

    error = refused(bound(f), "a")
    assert "use {name} and x" in str(error)
    assert len(str(error)) < 500


def test_a_violation_of_the_whole_call_has_no_path(bound: Any) -> None:
    """A validator across fields speaks for itself."""
    from pydantic import model_validator

    class Both(BaseModel):
        a: int

        @model_validator(mode="after")
        def never(self) -> Both:
            raise ValueError("a can't be")

    def f(a): ...

    assert "\n  a can't be" in str(refused(bound(f, schema=Both), 1))
