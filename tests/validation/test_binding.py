from __future__ import annotations

import contextlib
import gc
import inspect
import json
import pickle
import subprocess
import sys
import textwrap
import typing
import weakref
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated, Any, Self, Unpack

import cloudpickle
import numpy as np
import numpy.typing as npt
import pydantic
import pytest
from pydantic import AliasPath, BaseModel, ConfigDict, Field, field_validator, model_validator
from typing_extensions import TypedDict

from mlguard.errors import InvalidInputError, InvalidOutputError, PolicyError
from mlguard.streams import END
from mlguard.target import Target
from mlguard.validation import Array, Binding, Validation
from schemas import Patient, Photo, Transaction

Vector = Annotated[npt.NDArray[np.float64], Array("batch")]


def fields(error: InvalidInputError | InvalidOutputError) -> dict[str, str]:
    return {".".join(map(str, entry["loc"])): entry["type"] for entry in error.errors()}


def test_every_kind_of_parameter_is_bound_and_checked(bound: Any) -> None:
    """Positional-only, keyword-only, variable and defaulted arguments arrive converted, under whatever names."""

    def f(self: int, /, args: int, kwargs: float = 2.0, *context: int, values: str = "v", **shape: int) -> None: ...

    guard = bound(f)
    assert guard.arguments("1", "2") == ((1, 2, 2.0), {"values": "v"})
    assert guard.arguments("1", "2", "3", "4", values="w", bind="5") == ((1, 2, 3.0, 4), {"values": "w", "bind": 5})
    assert guard.arguments(1, kwargs=3, args=2, self="6") == ((1, 2, 3.0), {"values": "v", "self": 6})


def test_all_violations_are_told_at_once_by_name(bound: Any) -> None:
    """Paths are names, never positions, however the argument was passed."""

    def f(a: int, b: Patient, *more: int, c: float = 0.0, **rest: int) -> None: ...

    with pytest.raises(InvalidInputError) as caught:
        bound(f)("x", {"features": [[1.0]]}, 1, "y", c="z", other="w")
    assert fields(caught.value) == {
        "a": "int_parsing",
        "b.features": "array_shape",
        "more.1": "int_parsing",
        "c": "float_parsing",
        "other": "int_parsing",
    }


def test_arguments_that_do_not_fit_the_signature_are_told_with_the_rest(bound: Any) -> None:
    """Missing, unknown, doubled and surplus arguments are violations like others, with a hint where a name is close."""

    def f(first: int, second: int, /, third: int, *, fourth: int) -> None: ...

    guard = bound(f)
    with pytest.raises(InvalidInputError) as caught:
        guard("x", third=2, forth=3)
    assert fields(caught.value) == {
        "first": "int_parsing",
        "second": "missing_positional_only_argument",
        "fourth": "missing_keyword_only_argument",
        "forth": "unexpected_keyword_argument",
    }
    assert "did you mean 'fourth'?" in str(caught.value)
    with pytest.raises(InvalidInputError) as caught:
        guard(1, 2, 3, 4, third=3, fourth=4)
    assert fields(caught.value) == {"third": "multiple_argument_values", "argument 4": "unexpected_positional_argument"}


def test_a_type_error_of_the_users_validator_is_his_own(bound: Any) -> None:
    """It is raised as it is, not taken for arguments that don't fit."""

    class Picky(BaseModel):
        x: int

        @field_validator("x")
        @classmethod
        def check(cls, value: int) -> int:
            raise TypeError("mine")

    def f(picky: Picky) -> None: ...

    with pytest.raises(TypeError, match="mine"):
        bound(f)({"x": 1})


def test_a_type_error_that_does_not_come_again_is_raised_as_it_was(bound: Any) -> None:
    """A validator that failed once is not forgiven by looking twice."""
    times = []

    class Flaky(BaseModel):
        x: int

        @field_validator("x")
        @classmethod
        def check(cls, value: int) -> int:
            times.append(value)
            if len(times) == 1:
                raise TypeError("once")
            return value

    def f(flaky: Flaky) -> None: ...

    with pytest.raises(TypeError, match="once"):
        bound(f)({"x": 1})


def test_the_bodys_own_validation_error_is_not_bad_input(bound: Any) -> None:
    """The body runs outside of validation."""
    from pydantic import ValidationError

    def f(x: int) -> None:
        Patient.model_validate({"features": 1})

    with pytest.raises(ValidationError) as caught:
        bound(f)(1)
    assert type(caught.value) is ValidationError


@pytest.mark.parametrize("form", ["dict", "str", "bytes", "bytearray"])
def test_a_model_comes_as_instance_dict_or_json(bound: Any, form: str) -> None:
    """Whatever way it comes, the body gets the model."""

    def f(payment: Transaction) -> None: ...

    def written(payment: dict[str, Any]) -> Any:
        text = json.dumps(payment)
        return {"dict": payment, "str": text, "bytes": text.encode(), "bytearray": bytearray(text.encode())}[form]

    payment = Transaction(amount=5, currency="EUR", hour=3)
    guard = bound(f)
    assert guard.arguments(payment)[0][0] is payment
    assert guard.arguments(written(payment.model_dump()))[0][0] == payment
    with pytest.raises(InvalidInputError) as caught:
        guard(written(payment.model_dump() | {"hour": 24}))
    assert fields(caught.value) == {"payment.hour": "less_than"}
    assert "got 24" in str(caught.value)


def test_json_that_is_none(bound: Any) -> None:
    """Broken JSON says where it breaks; what is neither text nor model says what a model may come as."""

    def f(payment: Transaction) -> None: ...

    with pytest.raises(InvalidInputError) as caught:
        bound(f)("{")
    assert fields(caught.value) == {"payment": "json_invalid"}
    with pytest.raises(InvalidInputError) as caught:
        bound(f)(3)
    assert fields(caught.value) == {"payment": "model_type"}


def test_dimension_names_are_shared_by_arguments_fields_and_result(bound: Any) -> None:
    """One name is one size in a call, whether a model comes built or not."""

    def f(patient: Patient, weights: Vector, *, cut: bool = False) -> Vector:
        return patient.features[: 1 if cut else None, 0]

    guard = bound(f)
    features = np.ones((2, 30))
    for patient in (Patient(features=features), {"features": features}, Patient(features=features).model_dump_json()):
        assert guard(patient, np.ones(2)).shape == (2,)
        with pytest.raises(InvalidInputError) as caught:
            guard(patient, np.ones(3))
        assert fields(caught.value) == {"weights": "array_dimension"}
        assert "same size 'batch' as elsewhere in this call, which is 2; got 3" in str(caught.value)
        with pytest.raises(InvalidOutputError) as refused:
            guard(patient, np.ones(2), cut=True)
        assert fields(refused.value) == {"return": "array_dimension"}


def test_dimension_names_are_bound_in_models_within_models(bound: Any) -> None:
    """Instances in lists, dicts and other models count too, and the path leads to the array."""

    class Album(BaseModel):
        photos: list[Photo]
        by_name: dict[str, Photo] = {}

    def f(weights: Annotated[npt.NDArray[np.float64], Array("height")], album: Album) -> None: ...

    def g(weights: Annotated[npt.NDArray[np.float64], Array("height")], photos: list[Photo]) -> None: ...

    def photo(height: int) -> Photo:
        return Photo(pixels=np.zeros((1, height, 4, 3), np.uint8))

    bound(f)(np.ones(4), Album(photos=[photo(4)], by_name={"a": photo(4)}))
    with pytest.raises(InvalidInputError) as caught:
        bound(f)(np.ones(4), Album(photos=[photo(4), photo(5)]))
    assert fields(caught.value) == {"album.photos.1.pixels": "array_dimension"}
    with pytest.raises(InvalidInputError) as caught:
        bound(f)(np.ones(4), Album(photos=[], by_name={"a": photo(5)}))
    assert fields(caught.value) == {"album.by_name.a.pixels": "array_dimension"}
    with pytest.raises(InvalidInputError) as caught:
        bound(g)(np.ones(4), [photo(5)])
    assert list(fields(caught.value).values()) == ["array_dimension"]


def test_the_users_own_context_is_left_alone() -> None:
    """Outside of a guarded call a pydantic context belongs to the user: nothing is written into it."""
    mine: dict[str, Any] = {}
    Patient.model_validate({"features": np.ones((1, 30))}, context=mine)
    Patient.model_validate({"features": np.ones((2, 30))}, context=mine)
    Patient.model_validate({"features": np.ones((2, 30))}, context=object())
    assert mine == {}


def test_defaults_are_checked_and_converted_once(bound: Any) -> None:
    """A default arrives as if it had been passed; mutable ones are one object, as in Python."""
    array = np.ones(3)

    def f(path: Path = "a/b", x: Vector = array, y: Vector = array, n: int = Field(3, ge=0)) -> None: ...

    guard = bound(f)
    args, _ = guard.arguments()
    assert args[0] == Path("a/b")
    assert args[1] is array
    assert args[3] == 3
    with pytest.raises(InvalidInputError):
        guard(n=-1)
    with pytest.raises(InvalidInputError) as caught:
        guard(x=np.ones(2))
    assert fields(caught.value) == {"y": "array_dimension"}

    def required(n: int = Field(ge=0)) -> None: ...

    with pytest.raises(InvalidInputError):
        bound(required)()


def test_a_default_that_breaks_its_schema_is_a_policy_error(bound: Any) -> None:
    """It is told at decoration, with the parameter and the fix."""

    def f(x: int = None) -> None: ...  # type: ignore[assignment]  # noqa: RUF013

    with pytest.raises(PolicyError, match=r"x: the default must be a valid integer, got NoneType. Fix: annotate"):
        bound(f)


def test_nothing_annotated_is_nothing_checked(bound: Any) -> None:
    """Unannotated parameters pass, and no schema is made for them."""

    def f(self, x, y: Any = 1): ...

    guard = bound(f)
    assert (guard.binding.validates, guard.binding.checks, guard.binding.has_dims) == (False, False, False)
    assert guard.names == {}
    assert guard.binding.explain() == ["Arguments are not checked."]
    assert guard.binding.explain_result() == "The result is not checked."


def test_sections_turn_it_off(bound: Any) -> None:
    """input=False, output=False and no section at all check nothing."""

    def f(x: int) -> int:
        return x

    assert not bound(f, Validation(input=False)).binding.validates
    assert not bound(f, Validation(output=False)).binding.checks
    binding = Binding(Target(f), None)
    assert (binding.validates, binding.checks) == (False, False)


class Engine:
    """No schema of pydantic's."""

    def __init__(self, scale: int = 1) -> None:
        self.scale = scale

    def again(self, other: Self, maybe: Self | None = None, many: list[Self] | None = None) -> Self:
        return other

    def later(self, other: Engine) -> Engine:
        return other


def test_classes_unknown_to_pydantic_get_isinstance(bound: Any) -> None:
    """They pass as they are, and others are refused."""

    def f(engine: Engine) -> None: ...

    engine = Engine()
    assert bound(f).arguments(engine)[0][0] is engine
    with pytest.raises(InvalidInputError, match="must be an instance of Engine, got int"):
        bound(f)(1)


def test_methods_that_name_their_own_class(bound: Any) -> None:
    """Self and the class's own name mean the class; `self` passes."""
    engine = Engine()
    for method in (Engine.again, Engine.later):
        guard = bound(method)
        assert guard(engine, engine) is engine
        with pytest.raises(InvalidInputError) as caught:
            guard(engine, 3)
        assert fields(caught.value) == {"other": "is_instance_of"}
    with pytest.raises(InvalidInputError):
        bound(Engine.again)(engine, engine, None, [1])
    assert bound(engine.again)(engine) is engine


def test_self_in_a_class_within_a_function_passes(bound: Any) -> None:
    """Such a class can't be found by name."""

    class Local:
        def again(self, other: Self) -> int:
            return 1

    assert bound(Local.again)(Local(), 5) == 1


def test_self_of_a_class_that_is_not_there_yet_is_a_name_error() -> None:
    """So that the lead tries again at the first call."""

    def again(self: Any, other: Self) -> None: ...

    again.__qualname__ = "Unborn.again"
    with pytest.raises(NameError, match="Unborn"):
        Binding(Target(again), Validation())


def test_names_that_are_not_defined_yet_are_name_errors() -> None:
    """In an annotation, and within a model that waits for another."""

    def f(x: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(NameError):
        Binding(Target(f), Validation())

    class Waiting(BaseModel):
        x: NotYet  # type: ignore[name-defined]  # noqa: F821

    def g(x: Waiting) -> None: ...

    g.__annotations__ = {"x": Waiting}
    with pytest.raises(NameError):
        Binding(Target(g), Validation())


def test_annotations_pydantic_cannot_use_are_policy_errors() -> None:
    """They name the parameter, or the return annotation, and the fix."""

    def f(x: int) -> None: ...

    f.__annotations__ = {"x": 3}
    with pytest.raises(PolicyError, match=r"x: pydantic can't make a schema"):
        _bind_raw(f)
    f.__annotations__ = {"return": 3}
    with pytest.raises(PolicyError, match="return annotation"):
        _bind_raw(f)

    def defaulted(x: int = 1) -> None: ...

    defaulted.__annotations__ = {"x": 3}
    with pytest.raises(PolicyError, match=r"x: pydantic can't make a schema"):
        _bind_raw(defaulted)


def _bind_raw(function: Any) -> Binding:
    target = Target(function)
    target._hints = dict(function.__annotations__)
    return Binding(target, Validation())


class Options(TypedDict, total=False):
    depth: int


def test_keyword_arguments_as_a_typed_dict(bound: Any) -> None:
    """Unpack[TypedDict] checks each, and refuses unknown ones as a type checker does."""

    def f(x: int, **options: Unpack[Options]) -> None: ...

    guard = bound(f)
    assert guard.arguments(1, depth="2") == ((1,), {"depth": 2})
    with pytest.raises(InvalidInputError) as caught:
        guard(1, depht=2)
    assert fields(caught.value) == {"depht": "extra_forbidden"}
    with pytest.raises(InvalidInputError) as caught:
        guard(depth="x", other=1)
    assert fields(caught.value)["x"] == "missing_argument"


def test_config_and_strict(bound: Any) -> None:
    """The policy's pydantic configuration and strictness reach the arguments."""

    def f(x: str, n: int = 1) -> None: ...

    assert bound(f, Validation(config={"str_strip_whitespace": True})).arguments(" a ")[0] == ("a", 1)
    with pytest.raises(InvalidInputError):
        bound(f, Validation(strict=True))("a", "1")
    with pytest.raises(PolicyError, match=r"there is no 'str_strip'\. Did you mean"):
        Validation(config={"str_strip": True})
    with pytest.raises(PolicyError, match=r"Validation\.strict"):
        Validation(config={"strict": True})


@pytest.mark.parametrize(
    "given",
    [
        "x" * 100,
        b"x" * 100,
        memoryview(b"x" * 100),
        np.zeros(20),
        [1.0] * 20,
        [[1.0] * 5] * 4,
        {"a": "x" * 100},
        [None] * 10**6,
    ],
)
def test_arguments_larger_than_max_bytes_are_refused_before_anything_else(bound: Any, given: Any) -> None:
    """Text, buffers and lists alike; what is below passes."""

    def f(x: Any) -> None: ...

    with pytest.raises(InvalidInputError) as caught:
        bound(f, Validation(max_bytes=99))(given)
    assert fields(caught.value) == {"x": "too_large"}
    assert "at most 99B" in str(caught.value)
    bound(f, Validation(max_bytes="64MiB"))(given)


def test_max_bytes_looks_into_models(bound: Any) -> None:
    """An instance takes what its fields take, JSON text its length."""

    def f(patient: Patient) -> None: ...

    guard = bound(f, Validation(max_bytes=300))
    guard(Patient(features=np.ones((1, 30))))
    for patient in (Patient(features=np.ones((2, 30))), '{"features": [' + " " * 300 + "]}"):
        with pytest.raises(InvalidInputError, match="must take at most 300B"):
            guard(patient)


# schema=


class Score(BaseModel):
    income: Annotated[float, Field(ge=0)]
    debt: float = 0.0

    @model_validator(mode="after")
    def sane(self) -> Score:
        if self.debt > self.income:
            raise ValueError("debt must not exceed income")
        return self


def test_a_schema_for_plain_arguments(bound: Any) -> None:
    """Fields are checked as a model's, validators across fields run, and the body gets plain values."""

    def f(income, debt=0, *, extra=None): ...

    def score(income, *, debt=1): ...

    guard = bound(score, schema=Score)
    assert guard.arguments("5") == ((5.0,), {"debt": 1.0})
    assert guard.arguments(5, debt="2") == ((5.0,), {"debt": 2.0})
    with pytest.raises(InvalidInputError) as caught:
        guard(-1, debt="x")
    assert fields(caught.value) == {"income": "greater_than_equal", "debt": "float_parsing"}
    with pytest.raises(InvalidInputError, match="debt must not exceed income"):
        guard(1, debt=2)
    with pytest.raises(InvalidInputError) as caught:
        guard(dept=1)
    assert fields(caught.value) == {"income": "missing_argument", "dept": "unexpected_keyword_argument"}
    with pytest.raises(PolicyError, match=r"parameter 'extra' is no field of the schema Score"):
        bound(f, schema=Score)


def test_a_schema_that_does_not_fit_is_a_policy_error(bound: Any) -> None:
    """Each mismatch names the field and the fix."""

    def few(income): ...

    def many(income, debt, *rest): ...

    with pytest.raises(PolicyError, match=r"field 'debt' of the schema Score is no parameter. Fix: add"):
        bound(few, schema=Score)
    with pytest.raises(PolicyError, match=r"can't check \*rest"):
        bound(many, schema=Score)
    with pytest.raises(PolicyError, match="no Pydantic model"):
        bound(few, schema=dict)


def test_a_schema_for_a_method_and_with_aliases(bound: Any) -> None:
    """`self` passes untouched; fields are found under their alias."""

    class Aliased(BaseModel):
        x: Annotated[int, Field(alias="X")]
        v: Annotated[Vector, Field(validation_alias="V")]

    class Named(BaseModel):
        model_config = ConfigDict(validate_by_name=True)
        x: Annotated[int, Field(alias="X")]
        v: Vector

    assert bound(_Holder.method, schema=Aliased).arguments(7, "1", [2.0])[0][:2] == (7, 1)
    assert bound(_Holder.method, schema=Named, section=Validation(max_bytes=100)).arguments(7, "1", [2.0])[0][:2] == (
        7,
        1,
    )
    with pytest.raises(InvalidInputError) as caught:
        bound(_Holder.method, schema=Aliased)(7, "a", [2.0])
    assert fields(caught.value) == {"x": "int_parsing"}

    class Choices(BaseModel):
        x: Annotated[int, Field(validation_alias=AliasPath("a", 0))]
        v: Vector

    with pytest.raises(PolicyError, match="validate_by_name"):
        bound(_Holder.method, schema=Choices)


class _Holder:
    def method(self, x, v): ...


# output


@pytest.mark.parametrize(
    ("annotation", "good", "bad"),
    [
        (float, [1.0, 1, np.float64(1), np.float32(1)], ["1.0", None]),
        (int, [1, np.int64(1)], [1.5, "1", True, np.float32(1.5)]),
        (None, [None], [1]),
        (Patient, [Patient(features=np.ones((1, 30)))], [{"features": [[1.0] * 30]}]),
        (Vector, [np.ones(2)], [[1.0, 2.0], np.ones(2, np.float32), np.ones((2, 2))]),
        (list[int] | None, [None, [1]], [["1"], (1,)]),
        (Annotated[float, Field(ge=0, le=1)], [0.5], [1.5, float("nan")]),
        (typing.TypeGuard[int], [True], [1]),
        (Engine, [Engine()], [1]),
    ],
)
def test_results_are_checked_and_handed_on_untouched(bound: Any, annotation: Any, good: Any, bad: Any) -> None:
    """What is returned must be what is declared: it is never converted."""

    def f(x: Any): ...

    def give(x: Any) -> Any:
        return x

    give.__annotations__["return"] = annotation
    for value in good:
        assert bound(give)(value) is value
        assert bound(f, output=annotation).binding.checks is (annotation is not None)
    for value in bad:
        with pytest.raises(InvalidOutputError) as caught:
            bound(give)(value)
        assert caught.value.errors()[0]["loc"][0] == "return"


def test_the_items_of_a_stream_are_checked_each(bound: Any) -> None:
    """By the type of Iterator[X], Generator[X, ...] and AsyncIterator[X], or output=; the end is no item."""

    def numbers() -> Iterator[int]:
        yield 1

    async def later() -> AsyncIterator[int]:
        yield 1

    def both() -> Annotated[typing.Generator[int, None, None], "note"]:
        yield 1

    def untold() -> Iterator:
        yield 1

    def anything():
        yield 1

    for binding in (
        Binding(Target(numbers), Validation()),
        Binding(Target(later), Validation()),
        Binding(Target(both), Validation()),
        Binding(Target(anything), Validation(), output=int),
    ):
        binding.check_item(None, 1, None)
        binding.check_item(None, END, None)
        with pytest.raises(InvalidOutputError):
            binding.check_item(None, "x", None)
        assert "Each item must be int" in binding.explain_result()
    assert not Binding(Target(untold), Validation()).checks
    assert not Binding(Target(anything), Validation()).checks


# what a violation leads to


def test_report_lets_pass_counts_and_tells(bound: Any) -> None:
    """In report mode nothing is refused or converted; the violations are in the call's record and in the statistics."""

    def f(x: int) -> int:
        return x

    guard = bound(f, Validation(on_invalid="report"))
    assert guard("a") == "a"
    assert [entry["loc"] for entry in guard.this.violations] == [("x",), ("return",)]
    assert guard.binding.stats() == {
        "refused_inputs": 0,
        "refused_outputs": 0,
        "reported_inputs": 1,
        "reported_outputs": 1,
        "by_field": {"x": 1, "return": 1},
    }
    guard.binding.reset()
    assert guard.binding.stats()["by_field"] == {}
    guard.names["check"](None, "a", None)
    assert "counted and told" in guard.binding.explain()[-1]


def test_statistics_are_bounded(bound: Any) -> None:
    """Callers who make up names neither fill the memory nor are told of: only names of the schema are."""

    def f(**rest: int) -> None: ...

    guard = bound(f)
    for number in range(100):
        with pytest.raises(InvalidInputError):
            guard(**{f"name{number}": "x"})
    stats = guard.binding.stats()
    assert stats["refused_inputs"] == 100
    assert stats["by_field"] == {"*": 100}


def test_statistics_of_many_fields_are_bounded(bound: Any) -> None:
    """The fields beyond the first fifty are counted together."""
    parameters = [
        inspect.Parameter(f"x{number}", inspect.Parameter.KEYWORD_ONLY, annotation=int, default=0)
        for number in range(100)
    ]

    def f(**given: Any) -> None: ...

    f.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    f.__annotations__ = {parameter.name: int for parameter in parameters}
    guard = bound(f)
    for parameter in parameters:
        with pytest.raises(InvalidInputError):
            guard(**{parameter.name: "x"})
    stats = guard.binding.stats()
    assert len(stats["by_field"]) == 51
    assert stats["by_field"]["(others)"] == 50


def test_explain_names_every_argument_and_number(bound: Any) -> None:
    """The sentences hold what is in force."""

    def f(a, b: int, c: Vector, d: npt.NDArray[np.float64], e: np.ndarray, p: Patient | None = None) -> None: ...

    binding = bound(f, Validation(strict=True, max_bytes="1MiB", on_invalid="fallback")).binding
    lines = binding.explain()
    assert "Argument a may be anything." in lines
    assert "Argument c must be ndarray of float64 as Array('batch')." in lines
    assert "An argument may take at most 1MiB." in lines
    assert binding.explain_result() == "The result must be None; it is checked, never converted."
    assert "fallback" in lines[-1]

    def g(income, debt): ...

    assert bound(g, schema=Score).binding.explain()[0] == "The arguments income, debt must fit the schema Score."


def module_level(patient: Patient, n: int = 1) -> Vector:
    return patient.features[:, 0]


def test_a_binding_pickles_by_its_function() -> None:
    """It is built anew where it arrives, without counts."""
    binding = pickle.loads(pickle.dumps(Binding(Target(module_level), Validation())))
    assert binding.validates
    assert binding.has_dims


@pytest.mark.skipif(
    pydantic.VERSION.startswith("2.12."),
    reason="pydantic 2.12 itself loses the fields of a nested model that is pickled by value",
)
def test_the_names_travel_with_functions_and_models_of_main(tmp_path: Path) -> None:
    """Ray and Dask ship what __main__ defines by value: shape, bind and the rest must go with it."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import subprocess, sys, cloudpickle
            from typing import Annotated
            import numpy as np, numpy.typing as npt
            from pydantic import BaseModel
            from mlguard.target import Target
            from mlguard.validation import Array, Binding, Validation

            class Inner(BaseModel):
                x: Annotated[npt.NDArray[np.float32], Array("n", ge=0)]

            class Outer(BaseModel):
                inner: Inner
                children: "list[Outer]" = []

            def f(outer: Outer, *, scale: float = 2) -> Annotated[npt.NDArray[np.float32], Array("n")]:
                return outer.inner.x

            names = Binding(Target(f), Validation()).names(asynchronous=False)
            names["spread"](names["bind"](names["shape"]({"inner": {"x": [1]}}), context={}))
            child = ";".join([
                "import sys, cloudpickle",
                "names = cloudpickle.loads(sys.stdin.buffer.read())",
                "bound = names['bind'](names['shape']({'inner': {'x': [1]}}), context={})",
                "args, kwargs = names['spread'](bound)",
                "print(args[0].inner.x.tolist(), kwargs)",
            ])
            done = subprocess.run([sys.executable, "-c", child], input=cloudpickle.dumps(names), capture_output=True)
            print(done.stdout.decode(), done.stderr.decode())
            """
        )
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert done.stdout.strip() == "[1.0] {'scale': 2.0}", done.stderr
    assert cloudpickle.loads(cloudpickle.dumps(Binding(Target(module_level), Validation()).names(asynchronous=False)))


def test_json_is_read_in_a_guarded_function() -> None:
    """The wrapper's namespace has what pydantic-core looks for there."""
    from mlguard import guarded

    def f(payment: Transaction) -> float:
        return payment.amount

    f.__annotations__ = {"payment": Transaction, "return": float}
    assert guarded(f)('{"amount": 5, "currency": "EUR", "hour": 3}') == 5.0


def test_an_error_frees_the_arguments_once_it_is_dropped(bound: Any) -> None:
    """With the garbage collector off."""

    class Big:
        pass

    def f(x: int, big: Any) -> None: ...

    guard, big = bound(f), Big()
    alive = weakref.ref(big)
    gc.disable()
    try:
        with contextlib.suppress(InvalidInputError):
            guard("x", big)
        del big
        assert alive() is None
    finally:
        gc.enable()


def test_a_default_factory_is_called_for_each_call(bound: Any) -> None:
    """No call sees what another one did to its default, and what the factory gives is checked."""

    def f(x: list[int] = Field(default_factory=lambda: ["1"])) -> None: ...  # noqa: B008

    def bad(x: int = Field(default_factory=lambda: "x")) -> None: ...  # type: ignore[arg-type]

    def needy(x: int = Field(default_factory=lambda data: 1)) -> None: ...

    guard = bound(f)
    first, second = guard.arguments()[0][0], guard.arguments()[0][0]
    assert first == second == [1]
    assert first is not second
    with pytest.raises(InvalidInputError, match="x: must be a valid integer"):
        bound(bad)()
    with pytest.raises(PolicyError, match="x: its default_factory takes the other arguments"):
        bound(needy)


def test_max_bytes_ends_on_lists_that_hold_themselves(bound: Any) -> None:
    """Every list takes a byte at least, so the look ends; one that is shared often counts each time."""

    def f(x: Any) -> None: ...

    circular: list[Any] = []
    circular.append(circular)
    shared: list[Any] = []
    for _ in range(60):
        shared = [shared, shared]
    for given in (circular, [circular] * 50, shared, {"a": circular}):
        with pytest.raises(InvalidInputError, match="must take at most"):
            bound(f, Validation(max_bytes=10_000))(given)


def test_a_default_that_breaks_the_schema_is_a_policy_error(bound: Any) -> None:
    """With schema=, the function's own defaults are checked when it is guarded, as far as a field alone can tell."""

    def f(income, debt="x"): ...

    def fine(income=1, debt=2): ...

    class Needy(Score):
        @field_validator("debt")
        @classmethod
        def _looks_at_income(cls, debt: float, info: Any) -> float:
            return debt + info.data["income"]

    with pytest.raises(PolicyError, match=r"f: debt: the default must be a valid number.*the schema Score. Fix: "):
        bound(f, schema=Score)
    with pytest.raises(InvalidInputError, match="debt must not exceed income"):
        bound(fine, schema=Score)()

    def later(income, debt=0): ...

    assert bound(later, schema=Needy).arguments(5)[0] == (5, 5)
