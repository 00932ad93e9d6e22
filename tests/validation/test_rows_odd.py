"""Columns that lie at the edge of what their library, NumPy or Python can hold: none lets a bad row through."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    TypeAdapter,
    ValidationError,
    create_model,
    field_validator,
)

from mlguard import InvalidInputError, Redacted, Rows, Validation, guarded

Arrays = dict[str, np.ndarray[Any, Any]]
Lists = dict[str, list[Any]]


def refused(kind: Any, annotation: Any, table: Any, **settings: Any) -> list[tuple[str, list[int] | None]]:
    """What is refused of a table with the only column x, and in which rows."""
    model = create_model("Row", x=(annotation, ...))
    try:
        TypeAdapter(Annotated[kind, Rows(model, **settings)]).validate_python(table)
    except ValidationError as error:
        return [(each["type"], each.get("ctx", {}).get("rows")) for each in error.errors()]
    return []


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.int64, np.uint64, np.bool_])
def test_a_multiple_may_be_of_a_number_that_the_dtype_can_not_hold(dtype: Any) -> None:
    """A step wider than the column's dtype leaves 0 as the only multiple, and is no crash."""
    for step in (300, 2**70):
        table = {"x": np.array([0, 1], dtype)}
        assert refused(Arrays, Annotated[int, Field(multiple_of=step)], table) == [("multiple_of", [1])]


@pytest.mark.parametrize("annotation", [float, Annotated[float, Field(ge=0)]])
def test_nan_beside_na_in_a_nullable_column_is_a_null(annotation: Any) -> None:
    """pandas keeps NaN apart from NA in Float64; both are missing values."""
    values = pd.arrays.FloatingArray(np.array([1.0, np.nan, 0.0]), np.array([False, False, True]))
    assert refused(pd.DataFrame, annotation, pd.DataFrame({"x": values})) == [("null", [1, 2])]
    assert refused(pd.DataFrame, annotation | None, pd.DataFrame({"x": values})) == []


def _arrow(value: int, kind: Any) -> Any:
    return pa.table({"x": pa.array([value], kind)})


@pytest.mark.parametrize(
    ("kind", "annotation", "table"),
    [
        (Arrays, dt.datetime, {"x": np.array(["99999-01-01"], "M8[D]")}),
        (Arrays, dt.datetime, {"x": np.array(["99999-01-01"], "M8[us]")}),
        (Arrays, dt.datetime, {"x": np.array([2**62], "M8[s]")}),
        (Arrays, dt.date, {"x": np.array(["99999-01-01"], "M8[D]")}),
        (Arrays, dt.date, {"x": np.array(["-0001-01-01"], "M8[D]")}),
        (Arrays, dt.timedelta, {"x": np.array([2**62], "m8[s]")}),
        (pa.Table, dt.datetime, _arrow(2**60, pa.timestamp("s"))),
        (pa.Table, dt.datetime, _arrow(2**60, pa.timestamp("us"))),
        (pa.Table, dt.date, _arrow(2**30, pa.date32())),
    ],
)
def test_a_time_that_python_has_not_is_refused(kind: Any, annotation: Any, table: Any) -> None:
    """A time beyond the year 9999 is neither read as a number nor wrapped around into another year."""
    ((found, rows),) = refused(kind, annotation, table)
    assert found.endswith("_type")
    assert rows == [0]
    assert refused(kind, Annotated[annotation, AfterValidator(lambda value: value)], table)


def test_a_time_that_python_has_not_stands_alone() -> None:
    """Of a column with one such time only that row is refused."""
    table = pa.table({"x": pa.array([0, 2**60, 1], pa.timestamp("s"))})
    assert refused(pa.Table, dt.datetime, table) == [("datetime_type", [1])]
    assert refused(Arrays, dt.datetime, {"x": np.array([0, 2**62, 1], "M8[s]")}) == [("datetime_type", [1])]
    ends = np.array(["0001-01-01", "9999-12-31T23:59:59", "NaT"], "M8[s]")
    assert refused(Arrays, dt.datetime | None, {"x": ends}) == []


def test_whole_numbers_of_128_bits() -> None:
    """NumPy has none, so polars' are looked at one by one."""
    column = pl.Series([2**100, 2**101, None], dtype=pl.Int128)
    frame = pl.DataFrame({"x": column})
    assert refused(pl.DataFrame, Annotated[int, Field(le=2**100)], frame) == [("null", [2]), ("less_than_equal", [1])]
    assert refused(pl.DataFrame, Annotated[int | None, Field(le=2**101)], frame) == []


@pytest.mark.skipif(not hasattr(np.dtypes, "StringDType"), reason="NumPy 1 has no StringDType")
@pytest.mark.parametrize("missing", [None, np.nan, pd.NA])
def test_text_of_any_length_may_be_missing(missing: Any) -> None:
    """NumPy's StringDType with a value for what is missing has nulls, which only an optional field takes."""
    column = np.array(["a", missing], dtype=np.dtypes.StringDType(na_object=missing))
    for annotation in (str, Annotated[str, Field(max_length=3)], Annotated[str, Field(pattern="a")]):
        assert refused(Arrays, annotation, {"x": column}) == [("null", [1])]
        assert refused(Arrays, annotation | None, {"x": column}) == []


def test_a_validator_does_not_let_text_pass_for_a_number() -> None:
    """Where pydantic would read the text before the validator sees it, the function would still get the text."""

    class Ages(BaseModel):
        x: int

        @field_validator("x")
        @classmethod
        def told(cls, value: int, info: Any) -> int:
            return value

    number = Annotated[int, AfterValidator(lambda value: value)]
    objects = pd.DataFrame({"x": pd.Series([1, "12"], dtype=object)})
    assert refused(pd.DataFrame, number, objects) == [("int_type", [1])]
    assert refused(pd.DataFrame, number | None, objects) == [("int_type", [1])]
    assert refused(pl.DataFrame, number, pl.DataFrame({"x": ["12"]})) == [("int_type", [0])]
    assert refused(Lists, number, {"x": [1, 2, b"3"]}) == [("int_type", [2])]
    with pytest.raises(ValidationError, match="text is no number"):
        TypeAdapter(Annotated[pl.DataFrame, Rows(Ages)]).validate_python(pl.DataFrame({"x": ["12"]}))
    percent = Annotated[int, BeforeValidator(lambda value: value.removesuffix("%"))]
    assert refused(pl.DataFrame, percent, pl.DataFrame({"x": ["12%"]})) == []


def test_tuples_are_no_tables() -> None:
    """A tuple of dicts, and one as a column, is refused like every other kind that was not declared."""
    assert refused(list[dict[str, Any]], int, ({"x": 1},)) == [("table_type", None)]
    assert refused(Lists, int, {"x": (1,)}) == [("table_type", None)]


def test_a_validator_with_other_words_for_every_row_is_bounded() -> None:
    """Twenty thousand different complaints are a hundred, and the number of the others."""

    def refuse(value: str) -> str:
        raise ValueError(f"is not {value}")

    model = create_model("Row", x=(Annotated[str, AfterValidator(refuse)], ...))
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(Annotated[pl.DataFrame, Rows(model)]).validate_python(
            pl.DataFrame({"x": [str(number) for number in range(20_000)]})
        )
    errors = caught.value.errors()
    assert len(errors) == 101
    assert sum(each["ctx"]["count"] for each in errors) == 20_000


class Card(BaseModel):
    pin: Annotated[str, Redacted]

    @field_validator("pin")
    @classmethod
    def known(cls, pin: str) -> str:
        raise ValueError(f"{pin} is unknown")


class Customer(BaseModel):
    card: Card
    cards: list[Card] = []
    kind: Literal["a"] = "a"


@pytest.mark.parametrize("column", [{"card": {"pin": "1234"}}, {"card": [], "cards": [{"pin": "1234"}]}])
def test_a_hidden_field_of_a_model_in_a_column_stays_hidden(column: dict[str, Any]) -> None:
    """What a validator says of a hidden field inside of a column is told by neither error nor rejected row."""

    @guarded
    def check(rows: Annotated[list[dict[str, Any]], Rows(Customer)]) -> list[int]:
        raise AssertionError

    with pytest.raises(InvalidInputError) as caught:
        check([column])
    assert "1234" not in f"{caught.value} {caught.value.errors()}"

    @guarded(validation=Validation(on_invalid="quarantine"), fallback=0)
    def count(rows: Annotated[list[dict[str, Any]], Rows(Customer)]) -> list[int]:
        raise AssertionError

    outcome = count.guard.call([column])
    assert outcome.value == [0]
    assert "1234" not in str(outcome.rejected)
