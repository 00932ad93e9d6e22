from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Generic, NamedTuple, NewType, NotRequired, TypeVar

import numpy as np
import numpy.typing as npt
import pytest
from pydantic import BaseModel
from typing_extensions import TypeAliasType, TypedDict

from mlguard import Fallback, Policy, Retry, guarded
from mlguard.errors import InvalidInputError, InvalidOutputError
from mlguard.target import Target
from mlguard.validation import Array, Binding, Validation

Vector = Annotated[npt.NDArray[np.float64], Array("n")]
Pair = Annotated[npt.NDArray[np.float64], Array("n", "n")]
Small = Annotated[npt.NDArray[np.float32], Array("m")]


Item = TypeVar("Item")


class Row(BaseModel):
    x: Vector


@dataclass
class Held(Generic[Item]):
    item: Item
    x: Vector
    more: list[Item] | None = None
    inner: Held[Item] | None = None


@dataclass
class Point:
    x: Vector


class Named(NamedTuple):
    label: str
    row: Row


class Keyed(TypedDict):
    row: NotRequired[Row]


class Deep(BaseModel):
    maybe: Vector | None = None
    several: list[Vector] = []
    rows: list[Row | None] = []
    point: Point | None = None
    either: Small | Vector | None = None
    pair: tuple[int, Row] | None = None
    queue: deque[Row] = deque()
    named: Named | None = None
    keyed: Keyed = {}
    numbers: list[float] = []
    mixed: dict[str, Row | list[Row]] = {}
    inner: Deep | None = None


Alias = TypeAliasType("Alias", list[Row])
New = NewType("New", Row)


@dataclass
class Holder:
    deep: Deep


def z(size: int) -> npt.NDArray[np.float64]:
    return np.zeros(size)


def row(size: int) -> Row:
    return Row(x=z(size))


def test_names_of_the_result_alone_are_shared_inside_of_it(bound: Any) -> None:
    """Two arrays of one result have one size under one name, though no argument has a named dimension."""

    def f(n: int, m: int) -> tuple[Vector, Vector]:
        return z(n), z(m)

    def g(n, m) -> tuple[Vector, Vector]:
        return z(n), z(m)

    for function in (f, g):
        bound(function)(3, 3)
        with pytest.raises(InvalidOutputError, match="same size 'n' as elsewhere in this call, which is 3; got 4"):
            bound(function)(3, 4)


def test_the_items_of_a_stream_share_the_names_of_the_call() -> None:
    """A later item has the size of the first; one that was refused binds nothing."""

    def f() -> Iterator[Vector]:
        yield z(1)

    binding = Binding(Target(f), Validation())
    dims: dict[str, int] = {}
    with pytest.raises(InvalidOutputError):
        binding.check_item(None, np.zeros((2, 2)), dims)
    binding.check_item(None, z(3), dims)
    with pytest.raises(InvalidOutputError):
        binding.check_item(None, z(4), dims)


def test_a_retry_is_judged_afresh() -> None:
    """What a refused result bound is forgotten before the next attempt is checked."""
    sizes = iter([(3, 4), (5, 5)])

    @guarded(Policy(retry=Retry(max_retries=1, initial_delay=0.001, on_invalid_output=True)))
    def f() -> tuple[Vector, Vector]:
        one, other = next(sizes)
        return z(one), z(other)

    assert len(f()[0]) == 5


def test_a_fallback_is_judged_afresh() -> None:
    """What a refused result bound does not hold for the value that takes its place."""

    @guarded(Policy(fallback=Fallback(value=lambda: (z(5), z(5)), on=["invalid_output"])))
    def f() -> tuple[Vector, Vector]:
        return z(3), z(4)

    assert len(f()[0]) == 5


def test_an_array_that_does_not_fit_binds_none_of_its_names(bound: Any) -> None:
    """A branch of a union that fails leaves no names to the branch that fits, nor to the other arguments."""

    def f(x: Pair | Annotated[npt.NDArray[np.float64], Array("a", "b")], y: Vector) -> None: ...

    def g(x: tuple[Vector, Pair] | tuple[Vector, Small], y: Annotated[npt.NDArray[np.float64], Array("m")]) -> None: ...

    bound(f)(np.zeros((2, 3)), z(7))
    bound(g)((z(2), np.zeros(4, np.float32)), z(4))
    with pytest.raises(InvalidInputError):
        bound(g)((z(2), np.zeros(4, np.float32)), z(5))
    with pytest.raises(InvalidInputError):
        bound(f)(np.zeros((3, 3)), z(7))


@pytest.mark.parametrize(
    ("given", "path"),
    [
        (lambda size: Deep(maybe=z(size)), "maybe"),
        (lambda size: Deep(several=[z(3), z(size)]), "several.1"),
        (lambda size: Deep(rows=[None, row(size)]), "rows.1.x"),
        (lambda size: Deep(point=Point(z(size))), "point.x"),
        (lambda size: Deep(either=z(size)), "either"),
        (lambda size: Deep(pair=(1, row(size))), "pair.1.x"),
        (lambda size: Deep(queue=deque([row(size)])), "queue.0.x"),
        (lambda size: Deep(named=Named("a", row(size))), "named.1.x"),
        (lambda size: Deep(keyed={"row": row(size)}), "keyed.row.x"),
        (lambda size: Deep(mixed={"a": row(3), "b": [row(size)]}), "mixed.b.0.x"),
        (lambda size: Deep(inner=Deep(maybe=z(size))), "inner.maybe"),
    ],
)
def test_names_are_bound_wherever_an_instance_holds_an_array(bound: Any, given: Any, path: str) -> None:
    """Optional fields, lists of arrays, dataclasses, unions and what is nested in them: all count, with their path."""

    def f(x: Vector, deep: Deep) -> None: ...

    def g(x: Vector, deep: Holder) -> None: ...

    bound(f)(z(3), given(3))
    bound(g)(z(3), Holder(given(3)))
    with pytest.raises(InvalidInputError) as caught:
        bound(f)(z(3), given(4))
    (entry,) = caught.value.errors()
    assert (entry["type"], ".".join(map(str, entry["loc"]))) == ("array_dimension", f"deep.{path}")
    with pytest.raises(InvalidInputError):
        bound(g)(z(3), Holder(given(4)))


@pytest.mark.parametrize(
    ("annotation", "given"),
    [
        (Point, lambda size: Point(z(size))),
        (list[Row | None], lambda size: [None, row(size)]),
        (Alias, lambda size: [row(size)]),
        (New, row),
        (Annotated[Row, "note"], row),
        (dict[str, Point], lambda size: {"a": Point(z(size))}),
    ],
)
def test_names_are_bound_in_arguments_and_results_that_hold_instances(bound: Any, annotation: Any, given: Any) -> None:
    """The annotation is followed to the instances, in arguments and results alike."""

    def f(x, value): ...

    f.__annotations__ = {"x": Vector, "value": annotation}

    def g(x, value):
        return value

    g.__annotations__ = {"x": Vector, "return": annotation}
    for function, error in ((f, InvalidInputError), (g, InvalidOutputError)):
        bound(function)(z(3), given(3))
        with pytest.raises(error, match="same size 'n'"):
            bound(function)(z(3), given(4))


def test_names_are_bound_in_instances_under_a_schema(bound: Any) -> None:
    """With schema=, a field that comes as an instance shares its names with the other fields."""

    class Both(BaseModel):
        x: Vector
        row: Row

    def f(x, row): ...

    bound(f, schema=Both)(z(3), row(3))
    with pytest.raises(InvalidInputError, match="same size 'n'"):
        bound(f, schema=Both)(z(3), row(4))


def test_a_default_inside_of_a_union_stays_the_same_object(bound: Any) -> None:
    """Setting branches apart touches schemas only, never what the user put into them."""
    given = Named("a", row(2))

    class Options(TypedDict):
        x: NotRequired[list[Vector] | Vector]

    def f(x: Options | Vector, named: Named | Vector = given) -> None: ...

    args, _ = bound(f).arguments({"x": z(2)})
    assert args[1] == given


@pytest.mark.parametrize(
    "bad", [Held(z(2), z(3)), Held(z(2), z(2), [z(3)]), Held(z(2), z(2), None, Held(z(3), z(2))), Held(z(3), z(2))]
)
def test_a_generic_dataclass_shares_names_by_what_it_is_a_class_of(bad: Held[Any]) -> None:
    """Fields whose type is a type variable hold what the annotation puts in its place."""

    @guarded
    def f(held: Held[Vector], x: Vector) -> None: ...

    f(Held(z(2), z(2), [z(2)], Held(z(2), z(2))), z(2))
    with pytest.raises(InvalidInputError, match="must have the same size 'n'"):
        f(bad, z(2))

    @guarded
    def g(held: Held[int]) -> None: ...

    g(Held(1, z(2), [1]))
