"""A table of signatures and calls, put to validate_call and to guarded: both must accept the same and give the same."""

from __future__ import annotations

import datetime
import decimal
import enum
import functools
import pathlib
import re
import sys
import typing
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, NotRequired, TypeVar, Unpack

import annotated_types
import numpy as np
import numpy.typing as npt
import pydantic
import pytest
from pydantic import (
    AfterValidator,
    AliasChoices,
    AliasPath,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    InstanceOf,
    Json,
    PlainValidator,
    PositiveInt,
    SkipValidation,
    StrictInt,
    ValidationError,
    WrapValidator,
    conint,
    validate_call,
)  # fmt: skip
from typing_extensions import TypedDict

from mlguard import Array, InvalidInputError, PolicyError, Redacted, Validation, guarded

T = TypeVar("T")
S = TypeVar("S", bound="Shape")
N = TypeVar("N", int, str)
UserId = NewType("UserId", int)


class Colour(enum.Enum):
    RED = "red"


class Shape(BaseModel):
    side: int = 1


class Square(Shape):
    kind: Literal["square"] = "square"


class Circle(Shape):
    kind: Literal["circle"] = "circle"


class Box(BaseModel, Generic[T]):
    held: T


class Aliased(BaseModel):
    model_config = ConfigDict(alias_generator=lambda name: name.upper(), populate_by_name=True)
    width: int


@dataclass
class Point:
    x: int
    y: int = 0


class Pair(NamedTuple):
    a: int
    b: str = "b"


class Options(TypedDict, total=False):
    depth: int


class Needed(TypedDict):
    depth: int
    note: NotRequired[str]


class Engine:
    """Foreign to pydantic."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Engine)

    __hash__ = None  # type: ignore[assignment]


class Later(BaseModel):
    next: Latest | None = None


class Latest(BaseModel):
    x: int


def keyed(call: Callable[..., Any], **kwargs: Any) -> Any:
    return call(**kwargs)


# Functions: every call gives back all that the body got, as it got it.


def two(a: int, b: str = "b") -> Any:
    return a, b


def positional(a: int, b: int = 2, /, c: int = 3) -> Any:
    return a, b, c


def keywords(*, a: int, b: int = 2) -> Any:
    return a, b


def many(a: int, *rest: int, flag: bool = False, **more: float) -> Any:
    return a, rest, flag, more


def same_names(self: int, args: int, kwargs: int = 1, *, values: int = 2, cls: int = 3) -> Any:
    return self, args, kwargs, values, cls


def unpacked(a: int, **options: Unpack[Options]) -> Any:
    return a, options


def needed(**options: Unpack[Needed]) -> Any:
    return options


def untyped(a, b=1, *args, **kwargs):
    return a, b, args, kwargs


def of(annotation: Any, default: Any = ...) -> Callable[..., Any]:
    """A function of one argument."""
    if default is ...:

        def one(x):
            return x
    else:

        def one(x=default):
            return x

    one.__annotations__ = {"x": annotation}
    return one


def fails(value: Any) -> Any:
    raise ValueError("no")


def collected(values: Iterable[int]) -> Any:
    return list(values)


CASES: list[tuple[Callable[..., Any], list[Any]]] = [
    # (function, calls: lambdas of the decorated function)
    (two, [lambda f: f("1"), lambda f: f(1, b="x"), lambda f: f(b="x", a=2.0), lambda f: f(), lambda f: f("x"),
           lambda f: f(1, 2), lambda f: f(1, a=1), lambda f: f(1, c=1), lambda f: f(1, "b", 3), lambda f: f(1.5),
           lambda f: f(True), lambda f: f(None), lambda f: f(np.int64(3)), lambda f: f(decimal.Decimal(2))]),
    (positional, [lambda f: f("1"), lambda f: f(1, "2", "3"), lambda f: f(1, c="4"), lambda f: f(a=1),
                  lambda f: f(1, b=2), lambda f: f(1, 2, 3, 4)]),
    (keywords, [lambda f: f(a="1"), lambda f: f(a=1, b="x"), lambda f: f(1), lambda f: f(b=1), lambda f: f()]),
    (many, [lambda f: f("1"), lambda f: f(1, "2", "3", flag="yes", other="1.5"), lambda f: f(1, "x"),
            lambda f: f(1, other="x"), lambda f: f(1, 2, rest=3), lambda f: f()]),
    (unpacked, [lambda f: f(1, depth="2"), lambda f: f(1), lambda f: f(1, depth="x")]),
    (needed, [lambda f: f(depth="2"), lambda f: f(), lambda f: f(depth=1, note=3), lambda f: f(depth=1, note="n")]),
    (untyped, [lambda f: f("1"), lambda f: f("1", 2, "3", x=Engine())]),
    (collected, [lambda f: f(["1", 2]), lambda f: f(x for x in "12"), lambda f: f(["x"]), lambda f: f(3)]),
    (of(int, 3), [lambda f: f(), lambda f: f("4")]),
    (of(Annotated[int, Field(ge=0)]), [lambda f: f("1"), lambda f: f(-1)]),
    (of(int, Field(ge=0)), [lambda f: f("1"), lambda f: f(-1), lambda f: f()]),
    (of(int, Field(default=3, ge=0)), [lambda f: f(), lambda f: f(-1)]),
    (of(list[int], Field(default_factory=list)), [lambda f: f(), lambda f: f(["1"])]),
    (of(Annotated[list[int], Field(default_factory=lambda: [1])]), [lambda f: f(), lambda f: f(["2"])]),
    (of(Annotated[int, Field(default=5)]), [lambda f: f(), lambda f: f(6)]),
    (of(Annotated[int, Field(alias="X")]), [lambda f: keyed(f, X="1"), lambda f: keyed(f, x="1"), lambda f: f("1"),
                                             lambda f: f()]),
    (of(Annotated[int, Field(validation_alias="X")], 2), [lambda f: keyed(f, X="1"), lambda f: keyed(f, x="1"),
                                                           lambda f: f()]),
    (of(Annotated[int, Field(validation_alias=AliasChoices("X", "Y"))]), [lambda f: keyed(f, X="1"),
                                                                           lambda f: keyed(f, Y="1"),
                                                                            lambda f: f("3")]),
    (of(PositiveInt), [lambda f: f("1"), lambda f: f(0)]),
    (of(conint(gt=1)), [lambda f: f("2"), lambda f: f(1)]),
    (of(StrictInt), [lambda f: f(1), lambda f: f("1"), lambda f: f(1.0)]),
    (of(Annotated[int, annotated_types.Interval(ge=0, le=3)]), [lambda f: f("3"), lambda f: f(4)]),
    (of(Annotated[str, Field(pattern="^a")]), [lambda f: f("ab"), lambda f: f("b"), lambda f: f(1)]),
    (of(Annotated[str, annotated_types.Len(1, 2)]), [lambda f: f("ab"), lambda f: f(""), lambda f: f("abc")]),
    (of(Annotated[int, BeforeValidator(len)]), [lambda f: f("abc"), lambda f: f([])]),
    (of(Annotated[int, AfterValidator(lambda x: x + 1)]), [lambda f: f("1")]),
    (of(Annotated[int, AfterValidator(fails)]), [lambda f: f("1")]),
    (of(Annotated[int, WrapValidator(lambda x, handler: handler(x) * 2)]), [lambda f: f("1"), lambda f: f("x")]),
    (of(Annotated[int, PlainValidator(lambda x: [x])]), [lambda f: f("1")]),
    (of(Annotated[int, AfterValidator(lambda x: x + 1)], 1), [lambda f: f(5)]),
    (of(bool), [lambda f: f("yes"), lambda f: f(1), lambda f: f(2)]),
    (of(float), [lambda f: f("1.5"), lambda f: str(f("nan")), lambda f: f("x"), lambda f: f(np.float32(0.5))]),
    (of(bytes), [lambda f: f("a"), lambda f: f(b"a"), lambda f: f(1)]),
    (of(decimal.Decimal), [lambda f: f("1.50"), lambda f: f("x")]),
    (of(datetime.datetime), [lambda f: f("2026-01-02T03:04:05Z"), lambda f: f(0), lambda f: f("x")]),
    (of(datetime.timedelta), [lambda f: f("PT1S"), lambda f: f(1.5)]),
    (of(uuid.UUID), [lambda f: f("12345678123456781234567812345678"), lambda f: f("x")]),
    (of(pathlib.Path), [lambda f: f("a/b"), lambda f: f(3)]),
    (of(re.Pattern), [lambda f: f("a+"), lambda f: f("(")]),
    (of(Colour), [lambda f: f("red"), lambda f: f(Colour.RED), lambda f: f("blue")]),
    (of(Literal["a", 1]), [lambda f: f("a"), lambda f: f(1), lambda f: f("1")]),
    (of(int | str), [lambda f: f("1"), lambda f: f(1), lambda f: f(1.0), lambda f: f([])]),
    (of(int | None, None), [lambda f: f(), lambda f: f("1"), lambda f: f(None), lambda f: f("x")]),
    (of(typing.Optional[float]), [lambda f: f(None), lambda f: f("1")]),  # noqa: UP045
    (of(list[int]), [lambda f: f(["1"]), lambda f: f(("1",)), lambda f: f({"1"}), lambda f: f("1"),
                    lambda f: f(["x"])]),
    (of(dict[str, int]), [lambda f: f({"a": "1"}), lambda f: f({1: 1}), lambda f: f([("a", 1)])]),
    (of(tuple[int, ...]), [lambda f: f(["1", 2]), lambda f: f(3)]),
    (of(tuple[int, str]), [lambda f: f(["1", "a"]), lambda f: f([1])]),
    (of(set[int]), [lambda f: f(["1", 1, 2]), lambda f: f([[]])]),
    (of(Sequence[int]), [lambda f: f(("1", 2)), lambda f: f(["1"]), lambda f: f("12")]),
    (of(Callable[[int], int]), [lambda f: f(len) is len, lambda f: f(3)]),
    (of(type[Shape]), [lambda f: f(Square), lambda f: f(int)]),
    (of(Any), [lambda f: f(1), lambda f: f(None)]),
    (of(T), [lambda f: f(1), lambda f: f("a")]),
    (of(S), [lambda f: f(Square(side=2)), lambda f: f({"side": "2"}), lambda f: f(1)]),
    (of(N), [lambda f: f(1), lambda f: f("a"), lambda f: f([])]),
    (of(Box[int]), [lambda f: f({"held": "1"}), lambda f: f(Box[int](held=1)), lambda f: f({"held": "x"})]),
    (of(Shape), [lambda f: f({"side": "2"}), lambda f: f(Square(side=3)), lambda f: f({"side": "x"}), lambda f: f(1)]),
    (of(Square | Circle), [lambda f: f({"kind": "circle"}), lambda f: f({"kind": "x"}), lambda f: f({})]),
    (of(Annotated[Square | Circle, Field(discriminator="kind")]), [lambda f: f({"kind": "circle"}), lambda f: f({})]),
    (of(Aliased), [lambda f: f({"WIDTH": "2"}), lambda f: f({"width": "2"}), lambda f: f({"Width": 2})]),
    (of(Point), [lambda f: f({"x": "1"}), lambda f: f(Point(1)), lambda f: f({}), lambda f: f(3)]),
    (of(Pair), [lambda f: f(("1",)), lambda f: f({"a": 1}), lambda f: f(())]),
    (of(Needed), [lambda f: f({"depth": "1"}), lambda f: f({})]),
    (of(UserId), [lambda f: f("1"), lambda f: f("x")]),
    (of(Json[list[int]]), [lambda f: f("[1]"), lambda f: f("x")]),
    (of(SkipValidation[int]), [lambda f: f("x")]),
    (of(InstanceOf[Engine]), [lambda f: f(Engine()), lambda f: f(1)]),
    (of("Later"), [lambda f: f({"next": {"x": "1"}}), lambda f: f({"next": {"x": "y"}})]),
    (of("list[Latest]"), [lambda f: f([{"x": "1"}]), lambda f: f([{}])]),
    (of(Annotated[npt.NDArray[np.float64], Array("n", ge=0)]), [lambda f: f([1, 2]).tolist(), lambda f: f([-1])]),
    (functools.wraps(two)(lambda *args, **kwargs: two(*args, **kwargs)), [lambda f: f("1"), lambda f: f("x")]),
]  # fmt: skip

# What is different, and meant to be; docs/validation.md has the reasons.
DELIBERATE = {
    "a model may come as JSON text": (of(Shape), lambda f: f('{"side": 2}'), "accepted"),
    "a default is checked and converted": (of(pathlib.Path, "a"), lambda f: f(), "accepted"),
    "what a factory gives is checked": (of(int, Field(default_factory=str)), lambda f: f(), "refused"),
    "classes of no schema get an isinstance check": (of(Engine), lambda f: f(Engine()), "accepted"),
    "unknown keys of a TypedDict of keywords are refused": (unpacked, lambda f: f(1, depht=2), "refused"),
}

CONFIGS: list[tuple[dict[str, Any], Callable[..., Any], list[Any]]] = [
    ({"str_strip_whitespace": True}, of(str), [lambda f: f(" a ")]),
    ({"str_to_lower": True}, of(str), [lambda f: f("A")]),
    ({"str_max_length": 2}, of(str), [lambda f: f("abc"), lambda f: f("ab")]),
    ({"coerce_numbers_to_str": True}, of(str), [lambda f: f(1)]),
    ({"use_enum_values": True}, of(Colour), [lambda f: f("red"), lambda f: f(Colour.RED)]),
    ({"arbitrary_types_allowed": True}, of(Engine), [lambda f: f(Engine()), lambda f: f(1)]),
    ({"allow_inf_nan": False}, of(float), [lambda f: f("nan"), lambda f: f(1)]),
    ({"alias_generator": str.upper}, two, [lambda f: keyed(f, A="1"), lambda f: keyed(f, a="1"), lambda f: f("1")]),
    ({"alias_generator": str.upper, "validate_by_name": True}, two, [lambda f: keyed(f, A="1", b="c"),
                                                                      lambda f: keyed(f, a="1", B="c")]),
    ({"revalidate_instances": "always"}, of(Shape), [lambda f: f(Shape.model_construct(side="x"))]),
    ({"from_attributes": True}, of(Shape), [lambda f: f({"side": 1})]),
    ({"regex_engine": "python-re"}, of(Annotated[str, Field(pattern="^(?=a)")]), [lambda f: f("ab"), lambda f: f("b")]),
    ({"ser_json_bytes": "base64", "val_json_bytes": "base64"}, of(bytes), [lambda f: f(b"a")]),
]  # fmt: skip


def verdict(call: Callable[[Any], Any], decorate: Callable[[], Any]) -> tuple[str, Any, Any]:
    try:
        result = call(decorate())
    except ValidationError:
        return "refused", None, None
    except pydantic.PydanticUserError:
        return "unusable", None, None
    return "accepted", result, type(result)


def ids() -> list[str]:
    names = [f"{function.__name__}-{function.__annotations__.get('x', '')}" for function, _ in CASES]
    return [f"{number}-{name}"[:60] for number, name in enumerate(names)]


@pytest.mark.parametrize(("function", "calls"), CASES, ids=ids())
def test_the_same_as_validate_call(function: Callable[..., Any], calls: list[Any]) -> None:
    """Every call is accepted with the same values, or refused, by both."""
    theirs, ours = validate_call(function), guarded(function)
    for call in calls:
        assert verdict(call, lambda: ours) == verdict(call, lambda: theirs)


@pytest.mark.parametrize(("config", "function", "calls"), CONFIGS, ids=[str(config) for config, _, _ in CONFIGS])
def test_the_same_under_a_configuration(config: Any, function: Callable[..., Any], calls: list[Any]) -> None:
    """A ConfigDict means what it means there."""
    theirs = validate_call(config=ConfigDict(**config))(function)
    ours = guarded(validation=Validation(config=config))(function)
    for call in calls:
        assert verdict(call, lambda: ours) == verdict(call, lambda: theirs)


@pytest.mark.parametrize(("function", "call", "ours"), DELIBERATE.values(), ids=DELIBERATE)
def test_deliberately_different(function: Callable[..., Any], call: Callable[..., Any], ours: str) -> None:
    """Each difference is one, so that the list above stays true."""
    mine = verdict(call, lambda: guarded(function))
    assert mine[0] == ours
    assert mine != verdict(call, lambda: validate_call(function))


def test_a_default_that_breaks_its_schema_is_refused_when_decorated() -> None:
    """validate_call lets it through to the body, with every call that leaves the argument out."""
    assert validate_call(of(int, "x"))() == "x"
    with pytest.raises(PolicyError, match="x: the default must be a valid integer"):
        guarded(of(int, "x"))


def test_methods_of_every_sort() -> None:
    """Methods, class methods and static methods, on classes and instances, with the class's own name as a type."""
    theirs, ours = _of(validate_call), _of(guarded)
    for call in (
        lambda cls: cls().method("1"),
        lambda cls: cls().method("1", y=cls()),
        lambda cls: cls.of_class("2"),
        lambda cls: cls().static("3"),
        lambda cls: cls().method("x"),
        lambda cls: cls.of_class("x"),
    ):
        one, other = verdict(call, lambda: theirs), verdict(call, lambda: ours)
        assert repr(one).split(" object")[0] == repr(other).split(" object")[0]


def _of(decorate: Any) -> Any:
    class Methods:
        def method(self, x: int, *, y: Any = None) -> Any:
            return type(self).__name__, x, type(y).__name__

        @classmethod
        def of_class(cls, x: int) -> Any:
            return cls.__name__, x

        @staticmethod
        def static(x: int) -> Any:
            return x

    Methods.method = decorate(Methods.method)
    Methods.of_class = classmethod(decorate(Methods.of_class.__func__))
    Methods.static = staticmethod(decorate(Methods.static))
    return Methods


async def test_coroutines_and_generators_keep_their_kind() -> None:
    """Arguments of the four kinds of function are bound alike; validate_call checks those of a generator too early."""

    @guarded
    async def later(x: int) -> int:
        return x

    @guarded
    def items(x: int) -> typing.Iterator[int]:
        yield x

    @guarded
    async def items_later(x: int) -> typing.AsyncIterator[int]:
        yield x

    assert await later("3") == 3
    assert list(items("3")) == [3]
    assert [item async for item in items_later("3")] == [3]
    with pytest.raises(InvalidInputError):
        await later("x")
    with pytest.raises(InvalidInputError):
        list(items("x"))


@pytest.mark.skipif(sys.version_info < (3, 12), reason="type parameters are new in Python 3.12")
def test_type_parameters() -> None:
    """PEP 695: bound, constrained and free parameters, and type aliases, mean what they mean to pydantic."""
    names: dict[str, Any] = {"Shape": Shape, "BaseModel": BaseModel}
    text = (
        "type Ints = list[int]\n"
        "def bounded[T: Shape](x: T): return x\n"
        "def chosen[T: (int, str)](x: T): return x\n"
        "def free[T](x: T, y: list[T]): return x, y\n"
        "def named(x: Ints): return x\n"
        "class Held[T](BaseModel):\n    held: T\n"
        "def generic(x: Held[int]): return x\n"
    )
    exec(compile(text, "parameters", "exec", dont_inherit=True), names)
    as_text: dict[str, Any] = {"Shape": Shape}
    exec("def bounded[T: Shape](x: T): return x", as_text)  # with this file's `from __future__ import annotations`
    assert guarded(as_text["bounded"])({"side": "2"}) == Shape(side=2)
    for name, given in {
        "bounded": [({"side": "2"},), (1,)],
        "chosen": [(1,), ("a",), ([],)],
        "free": [(1, ["a"]), (1, 2)],
        "named": [(["1"],), (["x"],)],
        "generic": [({"held": "1"},), ({"held": "x"},)],
    }.items():
        theirs, ours = validate_call(names[name]), guarded(names[name])
        for args in given:
            one, other = verdict(lambda f: f(*args), lambda: ours), verdict(lambda f: f(*args), lambda: theirs)  # noqa: B023
            assert one == other


def test_parameters_may_have_any_name() -> None:
    """Also those that a wrapper might have for itself, which validate_call learned only lately."""
    ours = guarded(same_names)
    assert keyed(ours, self="1", args="2", kwargs="3", values="4", cls="5") == (1, 2, 3, 4, 5)
    assert ours("1", "2") == (1, 2, 1, 2, 3)


def test_errors_of_aliased_arguments_name_the_parameter() -> None:
    """By its parameter, whatever it was called, with a hint where a name is close."""

    def f(width: Annotated[int, Field(alias="W")], height: Annotated[int, Field(default=1)], depth: int = 2) -> Any:
        return width, height, depth

    ours = guarded(f)
    assert keyed(ours, W="3") == (3, 1, 2)
    assert ours("3", "4", depth="5") == (3, 4, 5)
    with pytest.raises(InvalidInputError) as caught:
        keyed(ours, W="x", depht=1)
    assert [error["loc"] for error in caught.value.errors()] == [("width",), ("depht",)]
    assert "did you mean 'depth'?" in str(caught.value)
    with pytest.raises(InvalidInputError) as caught:
        ours("x")
    assert caught.value.errors()[0]["loc"] == ("width",)


def test_aliases_hide_nothing_and_show_nothing() -> None:
    """A hidden argument stays hidden under its alias; report mode passes it under its own name."""

    def f(
        number: Annotated[int, Field(validation_alias=AliasChoices("N", AliasPath("deep", 0)), ge=0), Redacted],
    ) -> Any:
        return number

    for given in ({"N": -987654321}, {"deep": [-987654321]}):
        with pytest.raises(InvalidInputError) as caught:
            keyed(guarded(f), **given)
        assert caught.value.errors()[0]["loc"][0] == "number"
        assert "987654321" not in str(caught.value)
    assert keyed(guarded(validation=Validation(on_invalid="report"))(f), N="x") == "x"


def test_a_default_of_pydantics_before_a_parameter_without_is_refused() -> None:
    """Python allows no such order, and nor does pydantic."""

    def f(a: Annotated[int, Field(default=1)], b: int) -> Any: ...

    with pytest.raises(PolicyError, match="b: has no default, but follows a, which has one"):
        guarded(f)
