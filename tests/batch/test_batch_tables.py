"""Tables of every kind: counted, cut and joined along their rows."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict
from scipy import sparse

from mlguard.batch import join, length_of, scatter, take

pa = pytest.importorskip("pyarrow")


class Scores(NamedTuple):
    label: np.ndarray[Any, Any]
    score: list[float]


class Predictions(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    scores: np.ndarray[Any, Any]
    labels: list[str]
    model: str = "v1"


@dataclasses.dataclass(frozen=True)
class Boxes:
    corners: np.ndarray[Any, Any]
    unit: str = "px"


NUMBERS = np.arange(6)


def tables() -> dict[str, Any]:
    """One table of each kind, six rows each, whose rows are numbered."""
    frame = pd.DataFrame({"n": NUMBERS, "t": list("abcdef")}, index=list("uvwxyz"))
    return {
        "array": NUMBERS * 10.0,
        "matrix": np.arange(12).reshape(6, 2),
        "structured": np.array([(i, i / 2) for i in range(6)], dtype=[("a", "i4"), ("b", "f8")]),
        "masked": np.ma.MaskedArray(NUMBERS, mask=NUMBERS % 2 == 0),
        "list": list("abcdef"),
        "columns": {"n": NUMBERS, "t": list("abcdef")},
        "tuple": (NUMBERS, list("abcdef")),
        "named tuple": Scores(NUMBERS, [0.5] * 6),
        "model": Predictions(scores=NUMBERS, labels=list("abcdef")),
        "dataclass": Boxes(np.arange(12).reshape(6, 2)),
        "pandas frame": frame,
        "pandas series": frame["t"],
        "polars frame": pl.DataFrame({"n": NUMBERS, "t": list("abcdef")}),
        "polars series": pl.Series(list("abcdef")),
        "arrow table": pa.table({"n": NUMBERS, "t": list("abcdef")}),
        "arrow batch": pa.record_batch({"n": NUMBERS, "t": list("abcdef")}),
        "arrow array": pa.array(list("abcdef")),
        "arrow chunks": pa.chunked_array([list("ab"), list("cdef")]),
        "sparse": sparse.csr_matrix(np.eye(6)),
        "sparse columns": sparse.csc_array(np.eye(6)),
    }


def plain(table: Any) -> Any:
    """What a table holds, comparable with ==."""
    if isinstance(table, BaseModel):
        return plain(dict(table))
    if dataclasses.is_dataclass(table):
        return plain(vars(table))
    if isinstance(table, dict):
        return {key: plain(value) for key, value in table.items()}
    if isinstance(table, tuple):
        return [plain(item) for item in table]
    if sparse.issparse(table):
        return table.toarray().tolist()
    if isinstance(table, pd.DataFrame):
        return [table.index.tolist(), table.to_dict("list")]
    if isinstance(table, pd.Series):
        return [table.index.tolist(), table.tolist()]
    for name in ("to_dicts", "to_pylist", "to_list", "tolist"):
        if hasattr(table, name):
            return getattr(table, name)()
    return table


@pytest.fixture(params=list(tables()))
def table(request: pytest.FixtureRequest) -> Any:
    return tables()[request.param]


def test_rows_are_counted(table: Any) -> None:
    """Every kind of table tells its number of rows."""
    assert length_of(table) == 6


@pytest.mark.parametrize("rows", [slice(1, 3), slice(4, None), slice(0, 0), slice(None, None, 2)])
def test_slices_keep_the_kind(table: Any, rows: slice) -> None:
    """A slice of rows is a table of the same kind with the same rows as their numbers give."""
    sliced = take(table, rows)
    assert type(sliced) is type(table)
    assert length_of(sliced) == len(NUMBERS[rows])
    assert plain(sliced) == plain(take(table, NUMBERS[rows]))


def test_joining_the_pieces_gives_the_whole(table: Any) -> None:
    """What was cut in three joins to what it was."""
    joined = join([take(table, slice(0, 2)), take(table, slice(2, 3)), take(table, slice(3, 6))])
    assert type(joined) is type(table)
    assert plain(joined) == plain(table)


def test_scattered_rows_come_back_in_place(table: Any) -> None:
    """Parts taken in any order are put back in the order of their numbers."""
    some, others = np.array([4, 0, 5]), np.array([3, 1, 2])
    assert plain(scatter(6, [(some, take(table, some)), (others, take(table, others))])) == plain(table)


@given(st.permutations(range(9)), st.integers(0, 9), st.integers(0, 9))
def test_any_parts_make_the_whole(order: list[int], one: int, other: int) -> None:
    """Whatever way rows are divided, the whole comes back."""
    low, high = sorted((one, other))
    whole = np.arange(9) * 1.5
    parts = [np.array(part, dtype=int) for part in (order[:low], order[low:high], order[high:])]
    np.testing.assert_array_equal(scatter(9, [(part, whole[part]) for part in parts]), whole)


def test_another_axis() -> None:
    """Arrays may have their rows along another axis."""
    images = np.arange(12).reshape(2, 6)
    assert length_of(images, axis=1) == 6
    np.testing.assert_array_equal(take(images, np.array([5, 0]), axis=1), images[:, [5, 0]])
    assert take(sparse.csr_matrix(images), slice(0, 2), axis=1).shape == (2, 2)


def test_a_slice_of_an_array_is_no_copy() -> None:
    """Cutting a batch in contiguous parts takes no memory."""
    batch = np.ones((6, 2))
    assert take(batch, slice(1, 3)).base is batch


@pytest.mark.parametrize("value", ["text", b"bytes", 7, None, {"a", "b"}, np.float64(1.0), object(), pd.Timestamp(0)])
def test_what_has_no_rows_is_refused(value: Any) -> None:
    """What is no table is named, with what would be one."""
    with pytest.raises(TypeError, match=r"(has no rows that could be taken apart: use an array)|has no axis 0"):
        length_of(value)


def test_an_array_without_that_axis_is_refused() -> None:
    """An array of no dimensions has no rows."""
    with pytest.raises(TypeError, match=r"shape \(\) has no axis 0"):
        length_of(np.array(1.0))


def test_uneven_columns_are_refused() -> None:
    """Columns of different lengths are no table."""
    with pytest.raises(ValueError, match="holds tables of 2 and 3 rows"):
        length_of({"a": [1, 2], "b": [1, 2, 3]})
    with pytest.raises(TypeError, match="holds no table"):
        length_of({})


def test_what_does_not_fit_is_not_joined() -> None:
    """Parts of different kinds or columns are refused, and so are models that disagree about what has no rows."""
    with pytest.raises(TypeError, match=r"can't join an object of builtins\.list and an object of numpy\.ndarray"):
        join([[1], np.ones(1)])
    with pytest.raises(ValueError, match="dicts of the columns"):
        join([{"a": [1]}, {"b": [1]}])
    with pytest.raises(ValueError, match="tuples of different lengths"):
        join([([1],), ([1], [2])])
    with pytest.raises(ValueError, match="disagree about 'model'"):
        join([Predictions(scores=np.ones(1), labels=["a"], model=name) for name in ("v1", "v2")])
    with pytest.raises(ValueError, match="no tables"):
        join([])


def test_scatter_wants_each_row_once() -> None:
    """A missing, repeated or surplus row is an error, never a row of somebody else's."""
    with pytest.raises(ValueError, match="has 2 rows where 1 are wanted"):
        scatter(1, [(np.array([0]), [1, 2])])
    for numbers in ([0, 0], [0, 2], [0]):
        with pytest.raises(ValueError, match="do not name each of the 2 rows once"):
            scatter(2, [(np.array(numbers), list(numbers))])
