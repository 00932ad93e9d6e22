"""`Array` on lists, tuples, sets and texts: dimensions with names, and the value stays what it is."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pytest
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from mlguard import Array, InvalidInputError, InvalidOutputError, PolicyError, guarded

Floats = npt.NDArray[np.float64]
Texts = Annotated[list[str], Array("n")]


def refused(annotation: Any, value: Any) -> dict[str, Any]:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(annotation).validate_python(value)
    return caught.value.errors(include_input=False)[0]  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (list[str], ["a", "b"], ["a"]),
        (list, [1, "b"], []),
        (tuple[int, ...], (1, 2), (1,)),
        (tuple[int, str], (1, "b"), None),
        (Sequence[bytes], [b"a", b"b"], [b"a"]),
        (set[int], {1, 2}, {1}),
        (frozenset[str], frozenset("ab"), frozenset("a")),
        (deque[int], deque([1, 2]), deque([1])),
        (str, "ab", "a"),
        (bytes, b"ab", b"a"),
    ],
)
def test_a_length_of_any_sequence(kind: Any, good: Any, bad: Any) -> None:
    """It is checked and stays of its class."""
    annotation = Annotated[kind, Array(2)]
    assert TypeAdapter(annotation).validate_python(good) == good
    assert type(TypeAdapter(annotation).validate_python(good)) is type(good)
    if bad is not None:
        assert refused(annotation, bad)["msg"] == f"must have shape (2,), got ({len(bad)},)"


def test_names_are_shared_with_arrays_and_the_result() -> None:
    """One name is one size in lists, arrays, models and results alike."""

    class Batch(BaseModel):
        texts: Texts
        weights: Annotated[Floats, Array("n")]

    @guarded
    def f(batch: Batch, ids: Annotated[tuple[int, ...], Array("n")] = (1, 2), *, cut: bool = False) -> Texts:
        return batch.texts[: 1 if cut else None]

    for batch in ({"texts": ["a", "b"], "weights": [1, 2]}, Batch(texts=["a", "b"], weights=np.ones(2))):
        assert f(batch) == ["a", "b"]  # type: ignore[arg-type]
        with pytest.raises(InvalidInputError, match="ids: must have the same size 'n' as elsewhere in this call"):
            f(batch, (1, 2, 3))  # type: ignore[arg-type]
        with pytest.raises(InvalidOutputError, match="return: must have the same size 'n'"):
            f(batch, cut=True)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="same size 'n'"):
        f(Batch(texts=["a"], weights=np.ones(2)))


def test_nested_lists_have_dimensions() -> None:
    """As deep as the annotation nests, or is declared; lists of unequal length are refused with the place."""
    square = Annotated[list[list[float]], Array("n", "n")]
    assert TypeAdapter(square).validate_python([[1, 2], [3, 4]]) == [[1, 2], [3, 4]]
    assert refused(square, [[1, 2, 3], [1, 2, 3]])["type"] == "array_dimension"
    ragged = refused(square, [[1, 2], [1]])
    assert (ragged["type"], ragged["ctx"]["number"]) == ("array_ragged", 1)
    ends = Annotated[list[list[list[int]]], Array(..., 2)]
    assert TypeAdapter(ends).validate_python([[[1, 2]]]) == [[[1, 2]]]
    assert refused(ends, [[[1]]])["type"] == "array_shape"
    outer = Annotated[list[list[float]], Array("n")]
    assert TypeAdapter(outer).validate_python([[1], [1, 2]]) == [[1], [1, 2]]
    assert TypeAdapter(square).validate_python([]) == []


def test_unique_and_max_bytes() -> None:
    """What pydantic has no word for."""
    unique = Annotated[list[str], Array("n", unique=True)]
    assert TypeAdapter(unique).validate_python(["a", "b"])
    found = refused(unique, ["a", "b", "a"])
    assert (found["type"], found["ctx"]["first"]) == ("array_duplicate", "[2]")
    assert refused(Annotated[list[dict[str, int]], Array(unique=True)], [{}, {}])["type"] == "array_value"
    small = Annotated[list[str], Array("n", max_bytes=20)]
    assert TypeAdapter(small).validate_python(["a"] * 5)
    assert refused(small, ["a" * 30])["ctx"]["fix"].endswith("raise Array(max_bytes=...)")


def test_elements_are_pydantics() -> None:
    """Its own constraints on the elements and the list apply beside."""
    annotation = Annotated[list[Annotated[float, Field(ge=0)]], Field(min_length=1), Array((0, 3))]
    assert TypeAdapter(annotation).validate_python(["1"]) == [1.0]
    assert refused(annotation, [-1])["loc"] == (0,)
    assert refused(annotation, [])["type"] == "too_short"
    assert refused(annotation, [1] * 4)["type"] == "array_shape"


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        (Annotated[list[float], Array("n", ge=0)], r"say it of the elements, with Field\(ge=...\)"),
        (Annotated[list[str], Array("n", categories=["a"])], r"with Literal\[...\]"),
        (Annotated[list[float], Array("n", finite=True)], "allow_inf_nan=False"),
        (Annotated[list[float], Array("n", dtype="f4")], "the elements' type"),
        (Annotated[list[float], Array("n", monotonic="increasing")], "monotonic is for NumPy arrays"),
        (Annotated[list[float], Array("n", 2)], r"2 dimensions, but list\[float\] nests 1"),
        (Annotated[list, Array(..., 2)], "needs to know the depth"),
        (Annotated[list[list[int]], Array("n", "m", unique=True)], "unique is for one dimension"),
        (Annotated[dict[str, int], Array("n")], "Array is for NumPy arrays and for sequences"),
    ],
)
def test_what_only_arrays_have_is_refused(annotation: Any, message: str) -> None:
    """With the way to say it of a list."""
    with pytest.raises(PolicyError, match=message):
        TypeAdapter(annotation)


def test_the_json_schema_has_the_sizes() -> None:
    """Beside what pydantic says of the elements."""
    schema = TypeAdapter(Annotated[list[str], Array((1, 3), unique=True)]).json_schema()
    assert schema | {"shape": None} == {
        "type": "array",
        "items": {"type": "string"},
        "minItems": 1,
        "maxItems": 3,
        "uniqueItems": True,
        "shape": None,
    }
    assert TypeAdapter(Annotated[str, Array(3)]).json_schema()["maxLength"] == 3


def test_names_in_lists_of_models_built_before() -> None:
    """A list in an instance counts, and so do the instances in the list."""

    class Row(BaseModel):
        x: Annotated[list[int], Array("k")]

    class Table(BaseModel):
        rows: Annotated[list[Row], Array("n")]

    @guarded
    def f(table: Table, y: Annotated[Floats, Array("n")], z: Annotated[Floats, Array("k")]) -> None: ...

    table = Table(rows=[Row(x=[1]), Row(x=[2])])
    f(table, np.ones(2), np.ones(1))
    with pytest.raises(InvalidInputError, match="y: must have the same size 'n'"):
        f(table, np.ones(3), np.ones(1))
    with pytest.raises(InvalidInputError, match=r"table.rows\[1\].x: must have the same size 'k'"):
        f(Table(rows=[Row(x=[1]), Row(x=[2, 3])]), np.ones(2), np.ones(1))
