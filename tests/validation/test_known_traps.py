"""What goes wrong elsewhere, or would in a simpler validator, and can't here."""

from __future__ import annotations

import asyncio
import inspect
import json
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import pytest
from pydantic import BaseModel, Field

from mlguard import Array, InvalidInputError, PolicyError, Validation, guarded
from mlguard.validation import values

Floats = npt.NDArray[np.float64]
T = TypeVar("T")


def refused(f: Any, *args: Any, **kwargs: Any) -> InvalidInputError:
    with pytest.raises(InvalidInputError) as caught:
        f(*args, **kwargs)
    return caught.value


class Held(BaseModel):
    x: Annotated[Floats, Array("n", ge=0)]


class Tree(Generic[T]):
    def grow(self, leaf: T, again: Tree[T] | None = None) -> Tree[T]:
        return self


Tree.grow = guarded(Tree.grow)  # type: ignore[method-assign]


def test_an_error_names_the_parameter_of_a_positional_argument() -> None:
    """Never its index."""

    @guarded
    def f(a: int, b: list[int], /) -> None: ...

    assert [found["loc"] for found in refused(f, "x", [1, "y"]).errors()] == [("a",), ("b", 1)]


def test_a_method_may_be_generic_and_name_its_own_class() -> None:
    """Neither a NameError nor a class that is taken for another."""
    tree: Tree[int] = Tree()
    assert tree.grow(1, tree) is tree
    assert refused(tree.grow, 1, "x").errors()[0]["loc"] == ("again",)


def test_the_values_of_an_instance_are_not_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that was checked when it was built costs the next call its dimensions, not its values."""
    looked = []
    plain = values.Values.__call__
    monkeypatch.setattr(values.Values, "__call__", lambda self, x: (looked.append(len(x)), plain(self, x)))

    @guarded
    def f(held: Held) -> None: ...

    held = Held(x=np.ones(5))
    assert looked == [5]
    for _ in range(3):
        f(held)
    assert looked == [5]


def test_a_body_refused_for_nan_has_an_error_that_is_json() -> None:
    """Not an error 500 in the handler that wants to send it."""

    @guarded
    def f(p: Annotated[float, Field(le=1)], held: Held) -> None: ...

    error = refused(f, float("inf"), '{"x": [NaN, -Infinity]}')
    assert {found["type"] for found in json.loads(error.json())} == {"less_than_equal", "array_nan"}
    assert json.loads(json.dumps(error.errors(), allow_nan=False))


@pytest.mark.parametrize("size", [1, 1_000, 100_000])
def test_an_error_is_not_larger_than_what_caused_it(size: int) -> None:
    """And never above a few kilobytes, however much was wrong and however deep it was."""

    @guarded
    def f(xs: list[int], x: Annotated[Floats, Array("n", ge=0)], text: Annotated[str, Field(max_length=3)]) -> None: ...

    error = refused(f, ["bad"] * size, np.full(size, -1.0), "t" * (size + 3))
    assert len(str(error)) < 4_000
    assert len(error.json()) < 6_000


def test_a_great_many_violations_are_told_shortly() -> None:
    """The first of each list and a number; as arguments, in models and in JSON."""

    class Many(BaseModel):
        xs: list[int]

    @guarded
    def f(xs: list[int], many: Many) -> None: ...

    bad = ["x"] * 50_000
    error = refused(f, bad, {"xs": bad})
    assert len(error.errors()) <= 21
    assert "(100000 violations)" in str(error)
    assert "xs[0]: must be a valid integer" in str(error)
    assert "(50000 violations)" in str(refused(f, [], json.dumps({"xs": bad})))


def test_columns_that_are_too_many_are_not_cut_off() -> None:
    """An array with more columns than declared is refused, never sliced to size."""

    @guarded
    def f(x: Annotated[Floats, Array("n", 3)]) -> None: ...

    assert "must have shape (n, 3), got (2, 4)" in str(refused(f, np.zeros((2, 4))))


def test_an_annotation_that_can_not_be_enforced_is_an_error() -> None:
    """Never dropped without a word."""

    def f(x: int) -> None: ...

    f.__annotations__["x"] = np.array  # the function, instead of np.ndarray
    with pytest.raises(PolicyError, match="x: pydantic can't make a schema of its annotation"):
        guarded(f)


def test_nothing_that_the_input_names_is_imported_or_called() -> None:
    """A class path, a callable's name, a dtype by name: data is data."""

    @guarded
    def f(x: Annotated[np.ndarray, Array()]) -> None: ...

    for value in (
        {"type": "antigravity.x", "value": [1]},
        {"numpy": "os.system", "args": ["true"]},
        "antigravity.x",
        [{"__class__": "antigravity"}],
        '{"dtype": "float64", "data": "antigravity"}',
    ):
        refused(f, value)
    assert "antigravity" not in sys.modules


def test_an_array_without_values_has_no_least_one() -> None:
    """Reductions of nothing raise; here nothing is simply in range."""

    @guarded
    def f(x: Annotated[Floats, Array("n", 2, ge=0, le=1, finite=True)]) -> int:
        return len(x)

    assert f(np.zeros((0, 2))) == 0
    assert f([]) == 0  # type: ignore[arg-type]


def test_a_masked_array_is_no_array() -> None:
    """It passes isinstance, but its data is not what it shows."""

    @guarded
    def f(x: Annotated[Floats, Array("n")], y: Annotated[Floats, Array("n", strict=True)]) -> None: ...

    assert len(refused(f, np.ma.ones(2), np.ma.ones(2)).errors()) == 2


def test_whole_numbers_are_compared_as_whole_numbers() -> None:
    """2**53 + 1 is not 2**53, though no float can tell them apart."""

    @guarded
    def f(x: Annotated[npt.NDArray[np.int64], Array("n", le=float(2**53))]) -> None: ...

    f(np.array([2**53]))
    refused(f, np.array([2**53 + 1]))
    refused(f, np.full(100_000, 2**53 + 1))


def test_models_with_arrays_are_never_compared() -> None:
    """Their == raises; defaults, unions and results do without."""
    held = Held(x=np.ones(2))
    with pytest.raises(ValueError, match="truth value"):
        bool(held == Held(x=np.ones(2)))

    @guarded
    def f(one: Held | None = held, other: Held | int = held) -> Held:
        return one or held

    assert f() is held
    assert f(held, 3) is held


def test_an_array_is_never_reshaped() -> None:
    """Six values in three rows are not six values in two."""

    @guarded
    def f(x: Annotated[Floats, Array(2, 3)]) -> None: ...

    for shape in ((3, 2), (6,), (1, 6), (2, 3, 1)):
        refused(f, np.zeros(shape))
        refused(f, np.zeros(shape).tolist())


def test_a_limit_on_size_is_looked_at_before_lists_are_converted() -> None:
    """Nor is their first value."""

    @guarded(validation=Validation(max_bytes=100))
    def f(x: Annotated[Floats, Array("n")]) -> None: ...

    @guarded
    def g(x: Annotated[Floats, Array("n", max_bytes=100)]) -> None: ...

    for function in (f, g):
        assert refused(function, ["no number"] * 100).errors()[0]["type"] == "too_large"


def test_a_default_is_checked_before_anybody_calls() -> None:
    """When the function is decorated."""
    with pytest.raises(PolicyError, match="x: the default must be >= 0"):

        @guarded
        def f(x: Annotated[Floats, Array("n", ge=0)] = [-1.0]) -> None: ...  # type: ignore[assignment]  # noqa: B006


def test_a_generator_stays_a_generator() -> None:
    """Of either kind, for inspect and for the caller."""

    @guarded
    def items(n: int) -> Iterator[int]:
        yield from range(n)

    @guarded
    async def later(n: int) -> AsyncIterator[int]:
        for item in range(n):
            yield item

    async def collect() -> list[int]:
        return [item async for item in later("2")]  # type: ignore[arg-type]

    assert inspect.isgeneratorfunction(items)
    assert inspect.isasyncgenfunction(later)
    assert list(items("2")) == asyncio.run(collect()) == [0, 1]  # type: ignore[arg-type]


def test_the_namespace_around_a_function_is_not_captured(tmp_path: Path) -> None:
    """A lock beside a function in __main__ must not keep the function from being shipped."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import threading, cloudpickle
            from typing import Annotated
            import numpy as np, numpy.typing as npt
            from pydantic import Field
            from mlguard import Array, guarded

            lock = threading.Lock()

            @guarded
            def f(x: Annotated[npt.NDArray[np.float64], Array("n", 2, ge=[0, 1], unique=True), Field(le=9)]) -> int:
                return len(x)

            print(cloudpickle.loads(cloudpickle.dumps(f))([[1, 2], [3, 4]]))
            """
        )
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert done.stdout.strip() == "2", done.stderr


def test_annotations_are_read_when_they_can_be() -> None:
    """A model that is defined after the function works."""

    @guarded
    def f(x: Afterwards) -> int:  # type: ignore[name-defined]  # noqa: F821
        return x.y

    with pytest.raises(PolicyError, match="Afterwards"):
        f({"y": 1})  # type: ignore[arg-type]

    class _Afterwards(BaseModel):
        y: int

    globals()["Afterwards"] = _Afterwards
    try:
        assert f({"y": "1"}) == 1  # type: ignore[arg-type]
    finally:
        del globals()["Afterwards"]


def test_a_branch_of_a_union_that_is_not_taken_binds_nothing() -> None:
    """In an argument and inside of a model, however many of its arrays had fitted."""

    class Wide(BaseModel):
        x: Annotated[Floats, Array("n")]
        width: int

    class Tall(BaseModel):
        x: Annotated[Floats, Array("m")]
        height: int

    class Either(BaseModel):
        shape: Wide | Tall
        more: list[Wide | Tall] = []

    @guarded
    def f(either: Either, direct: Wide | Tall, n: Annotated[Floats, Array("n")]) -> None: ...

    tall = {"x": [1, 2], "height": 1}
    f({"shape": tall, "more": [tall]}, tall, [1, 2, 3])  # type: ignore[arg-type]
    f(Either(shape=tall), Tall(**tall), [1, 2, 3])  # type: ignore[arg-type]
    wide = {"x": [1, 2], "width": 1}
    assert "same size 'n'" in str(refused(f, {"shape": wide}, tall, [1, 2, 3]))
    error = refused(f, {"shape": tall, "more": [tall, {"x": [1], "height": 1}]}, tall, [1, 2, 3])
    assert error.errors()[0]["loc"] == ("either", "more", 1, "x")
