"""`Rows`: what each kind of table and column is taken for, and how what is wrong is told."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import json
import pickle
import subprocess
import sys
import uuid
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from pydantic import (
    AliasChoices,
    AliasPath,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    FutureDatetime,
    NaiveDatetime,
    PastDatetime,
    RootModel,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    create_model,
    field_validator,
    model_validator,
)

from mlguard import PolicyError, Redacted, Rows

Arrays = dict[str, np.ndarray]
Lists = dict[str, list[Any]]


def row(annotation: Any, *, config: ConfigDict | None = None, **more: Any) -> type[BaseModel]:
    return create_model("Row", __config__=config, x=(annotation, ...), **more)


def found(kind: Any, rows: Rows, table: Any) -> list[tuple[tuple[Any, ...], str, list[int] | None]]:
    """Nothing where the very table comes back; else place, type and first rows of each violation."""
    adapter = TypeAdapter(Annotated[kind, rows])
    try:
        assert adapter.validate_python(table) is table
    except ValidationError as error:
        return [(each["loc"], each["type"], (each.get("ctx") or {}).get("rows")) for each in error.errors()]
    return []


def x(kind: str, *rows: int) -> list[tuple[tuple[Any, ...], str, list[int] | None]]:
    return [(("x",), kind, list(rows))]


Age = Annotated[int, Field(ge=0, le=300)]
Share = Annotated[float, Field(ge=0.1, le=1)]


class Color(enum.Enum):
    RED = "red"


NUMBERS: list[tuple[str, Any, Any, Any]] = [
    ("a small dtype whose bound is beyond it", Age, np.array([1, -1], np.int8), x("greater_than_equal", 1)),
    ("a number beyond int64", Age, np.array([1, 2**63], np.uint64), x("less_than_equal", 1)),
    ("a column read backwards", Age, np.arange(100)[::-3], []),
    ("the other byte order", Share, np.array([0.5, 2] * 20, ">f8"), x("less_than_equal", 1, 3, 5, 7, 9)),
    (
        "a float16 below the bound that it is rounded from",
        Share,
        np.array([0.1], np.float16),
        x("greater_than_equal", 0),
    ),
    ("a float32 above the bound that it is rounded from", Share, np.array([0.1] * 40, np.float32), []),
    ("NaN, which is a null", float, np.array([1, np.nan]), x("null", 1)),
    ("NaN in a long column", float, np.array([1, np.nan] * 40), x("null", 1, 3, 5, 7, 9)),
    ("NaN where null is allowed", Share | None, np.array([1, np.nan] * 40), []),
    ("nothing but NaN where null is allowed", Share | None, np.full(40, np.nan), []),
    ("NaN beside a number out of range", Share | None, np.array([2, np.nan] * 20), x("less_than_equal", 0, 2, 4, 6, 8)),
    ("infinity without a bound", float, np.array([np.inf, 1]), []),
    (
        "infinity where it is forbidden",
        Annotated[float, Field(allow_inf_nan=False)],
        np.array([np.inf, 1]),
        x("finite_number", 0),
    ),
    ("whole floats for an int", int, np.array([1.0, 2.0]), []),
    ("a fraction for an int", int, np.array([1.0, 2.5]), x("int_from_float", 1)),
    ("whole floats and NaN for an optional int", int | None, np.array([1.0, np.nan]), []),
    ("floats for an int with NaN", int, np.array([1.0, np.nan]), x("null", 1)),
    ("bools for an int", int, np.array([True, False]), []),
    ("0 and 1 for a bool", bool, np.array([0, 1]), []),
    ("0.0 and 1.0 for a bool", bool, np.array([0.0, 1.0]), []),
    ("2 for a bool", bool, np.array([0, 2]), x("bool_parsing", 1)),
    ("0.5 for a bool", bool, np.array([0.0, 0.5]), x("bool_type", 1)),
    ("no multiple", Annotated[int, Field(multiple_of=2)], np.array([2, 3]), x("multiple_of", 1)),
    ("no multiple of a fraction", Annotated[float, Field(multiple_of=0.5)], np.array([0.5, 0.7]), x("multiple_of", 1)),
    ("a complex number", float, np.array([1j]), x("float_type", 0)),
    ("text", int, np.array(["1"]), x("int_type", 0)),
    ("numbers for text", str, np.array([1]), x("string_type", 0)),
    ("a column of rows", float, np.ones((2, 2)), x("float_type", 0, 1)),
    ("a column of rows for a list", list[float], np.ones((2, 2)), []),
    ("anything", Any, np.array([1j]), []),
    ("one of several types", int | str, np.array([1]), []),
    ("a number that is not listed", Literal[1, 2], np.array([1, 3]), x("literal_error", 1)),
    ("many listed numbers", Literal[1, 2], np.array([1, 2] * 1_000), []),
    ("floats that are listed", Literal[1, 2], np.array([1.0, 2.0]), []),
    ("the values of an Enum", Color, np.array(["red", "reed"]), x("enum", 1)),
    ("decimals out of range", Annotated[decimal.Decimal, Field(ge=0)], np.array([-1, 1]), x("greater_than_equal", 0)),
    ("decimals of NaN", decimal.Decimal, np.array([np.nan, 1]), x("null", 0)),
    ("optional decimals", Annotated[decimal.Decimal, Field(ge=0)] | None, np.array([np.nan, 1]), []),
]


@pytest.mark.parametrize(
    ("annotation", "column", "expected"), [each[1:] for each in NUMBERS], ids=[each[0] for each in NUMBERS]
)
def test_columns_of_numpy(annotation: Any, column: Any, expected: Any) -> None:
    """Each dtype is compared as pydantic would compare its values."""
    assert found(Arrays, Rows(row(annotation)), {"x": column}) == expected


NULLS = np.array([1, None, np.nan, pd.NaT, pd.NA, np.datetime64("NaT", "us")], object)

TIMES: list[tuple[str, Any, Any, Any]] = [
    ("days for a date", dt.date, np.array(["2020-01-01"], "M8[D]"), []),
    ("midnight for a date", dt.date, np.array(["2020-01-01"], "M8[ns]"), []),
    ("an hour for a date", dt.date, np.array(["2020-01-01T01"], "M8[ns]"), x("date_from_datetime_inexact", 0)),
    ("NaT", dt.datetime, np.array(["2020", "NaT"], "M8[ns]"), x("null", 1)),
    ("NaT where null is allowed", dt.datetime | None, np.array(["2020", "NaT"], "M8[ns]"), []),
    ("nothing but NaT", dt.datetime | None, np.array(["NaT"], "M8[ns]"), []),
    ("a year that Python has not", dt.datetime, np.array(["20000"], "M8[s]"), x("datetime_type", 0)),
    ("numbers for a time", dt.datetime, np.array([1]), x("datetime_type", 0)),
    (
        "a range of times",
        Annotated[dt.datetime, Field(ge=dt.datetime(2020, 1, 1))],
        np.array(["2019", "2021"], "M8[ms]"),
        x("greater_than_equal", 0),
    ),
    (
        "a range of durations",
        Annotated[dt.timedelta, Field(le=dt.timedelta(days=1))],
        np.array([1, 30], "m8[h]"),
        x("less_than_equal", 1),
    ),
    ("text of NumPy", Annotated[str, Field(max_length=2)], np.array(["ab", "abc"]), x("string_too_long", 1)),
    ("text as bytes", Annotated[str, Field(max_length=2)], np.array([b"ab", b"abc"]), x("string_too_long", 1)),
    ("nulls among objects", int | None, NULLS, []),
    ("numbers of NumPy among objects", int, np.array([np.int64(1), np.int8(2)], object), []),
    ("times of NumPy among objects", dt.datetime, np.array([np.datetime64("2020", "ns")], object), []),
    ("text among objects", int, np.array([1, "2"], object), x("int_type", 1)),
    ("a pattern", Annotated[str, Field(pattern="^a+$")], np.array(["a", "b"]), x("string_pattern_mismatch", 1)),
    ("no text at all", Annotated[str, Field(min_length=1)], np.array([], "U1"), []),
]


@pytest.mark.parametrize(
    ("annotation", "column", "expected"), [each[1:] for each in TIMES], ids=[each[0] for each in TIMES]
)
def test_columns_of_times_and_text(annotation: Any, column: Any, expected: Any) -> None:
    """Each dtype is compared as pydantic would compare its values."""
    assert found(Arrays, Rows(row(annotation)), {"x": column}) == expected


def test_text_of_any_length() -> None:
    """NumPy's dtype for text of any length is text."""
    if not hasattr(np.dtypes, "StringDType"):
        pytest.skip("NumPy 1 has no StringDType")
    column = np.array(["ab", "abc"], dtype=np.dtypes.StringDType())
    assert found(Arrays, Rows(row(Annotated[str, Field(max_length=2)])), {"x": column}) == x("string_too_long", 1)


ZONED = pd.DataFrame({"x": pd.to_datetime(["2020-01-01", "2021-01-01"], utc=True)})
CATEGORIES = pd.DataFrame({"x": pd.Categorical(["a", None, "b"], categories=["a", "b", "unused"])})
Letter = Literal["a", "b"]

PANDAS: list[tuple[str, Any, Any, Any]] = [
    ("nullable integers", Age, pd.array([1, None, 500], "Int64"), [*x("null", 1), *x("less_than_equal", 2)]),
    ("nullable integers, none null", Age, pd.array([1, 2], "Int64"), []),
    ("nullable floats", Share | None, pd.array([1, None], "Float64"), []),
    ("nullable bools", bool | None, pd.array([True, None], "boolean"), []),
    ("floats of Arrow", Share | None, pd.array([1.0, None], "float64[pyarrow]"), []),
    ("integers of Arrow", Age, pd.array([1, None], "int64[pyarrow]"), x("null", 1)),
    (
        "text of Arrow",
        Annotated[str, Field(max_length=1)],
        pd.array(["a", "bc"], "string[pyarrow]"),
        x("string_too_long", 1),
    ),
    (
        "text of Python",
        Annotated[str, Field(max_length=1)],
        pd.array(["a", None, "bc"], "string[python]"),
        [*x("null", 1), *x("string_too_long", 2)],
    ),
    ("text of Python that fits", Annotated[str, Field(max_length=2)], pd.array(["a", "bc"], "string[python]"), []),
    ("sparse numbers", Age, pd.arrays.SparseArray([1, -1]), x("greater_than_equal", 1)),
    (
        "durations",
        Annotated[dt.timedelta, Field(ge=dt.timedelta(0))],
        pd.to_timedelta([-1], unit="s"),
        x("greater_than_equal", 0),
    ),
    ("periods", int, pd.period_range("2020", periods=1), x("int_type", 0)),
    ("intervals", int, pd.interval_range(0, 1), x("int_type", 0)),
    ("times with a zone", dt.datetime, ZONED.x, []),
    ("times that must have a zone", AwareDatetime, ZONED.x, []),
    ("times that must have none", NaiveDatetime, ZONED.x, x("timezone_naive", 0, 1)),
    ("times in the past", PastDatetime, ZONED.x, []),
    ("times in the future", FutureDatetime, ZONED.x, x("datetime_future", 0, 1)),
    ("categories with a null", Letter, CATEGORIES.x, x("null", 1)),
    ("categories of which one is not used", Letter | None, CATEGORIES.x, []),
    ("categories without rows", Letter, CATEGORIES.x[:0], []),
    ("categories of numbers", Age, pd.Categorical([1, 500]), x("less_than_equal", 1)),
    ("categories of text for numbers", int, pd.Categorical(["1"]), x("int_type", 0)),
    ("objects", Age | None, pd.Series([1, pd.NA, -1], dtype=object), x("greater_than_equal", 2)),
]


@pytest.mark.parametrize(
    ("annotation", "column", "expected"), [each[1:] for each in PANDAS], ids=[each[0] for each in PANDAS]
)
def test_columns_of_pandas(annotation: Any, column: Any, expected: Any) -> None:
    """Every dtype and extension array of pandas is looked at as what it holds, whatever the frame's index is."""
    table = pd.DataFrame({"x": column}).set_axis(["same"] * len(column))
    assert found(pd.DataFrame, Rows(row(annotation)), table) == expected


def test_columns_without_the_short_cut_into_pandas() -> None:
    """Columns are read through the public interface where pandas lacks the quick one."""

    class Slow(pd.DataFrame):
        _get_column_array = None

    assert found(pd.DataFrame, Rows(row(Age)), Slow({"y": [1.0, 2.0], "x": [1, -1]})) == x("greater_than_equal", 1)


POLARS: list[tuple[str, Any, Any, Any]] = [
    ("NaN, which is a number", float, pl.Series([1.0, float("nan")]), []),
    ("NaN under a bound", Share | None, pl.Series([1.0, float("nan"), None]), x("less_than_equal", 1)),
    ("nulls", Age, pl.Series([1, None]), x("null", 1)),
    ("nothing but nulls", Age, pl.Series([None, None]), x("null", 0, 1)),
    ("nothing but nulls, allowed", Age | None, pl.Series([None, None]), []),
    ("numbers between nulls", Age | None, pl.Series([1, None, -1]), x("greater_than_equal", 2)),
    (
        "several chunks",
        Age,
        pl.concat([pl.Series([1, 2]), pl.Series([3, -4])], rechunk=False),
        x("greater_than_equal", 3),
    ),
    ("bools", bool | None, pl.Series([True, None]), []),
    (
        "no multiple between nulls",
        Annotated[int, Field(multiple_of=2)] | None,
        pl.Series([3, None]),
        x("multiple_of", 0),
    ),
    (
        "decimals",
        Annotated[decimal.Decimal, Field(ge=0)],
        pl.Series([decimal.Decimal("-1.5")]),
        x("greater_than_equal", 0),
    ),
    (
        "decimal places",
        Annotated[decimal.Decimal, Field(decimal_places=1)],
        pl.Series([decimal.Decimal("1.55")]),
        x("decimal_max_places", 0),
    ),
    ("structs", row(int), pl.Series([{"x": 1}, {"x": None}]), x("int_type", 1)),
    ("lists", list[int], pl.Series([[1], [None]]), x("int_type", 1)),
    ("times of day", Annotated[dt.time, Field(ge=dt.time(1))], pl.Series([dt.time(0)]), x("greater_than_equal", 0)),
    (
        "dates",
        Annotated[dt.date, Field(ge=dt.date(2020, 1, 1))] | None,
        pl.Series([dt.date(2019, 1, 1), None]),
        x("greater_than_equal", 0),
    ),
    ("dates for datetimes", dt.datetime, pl.Series([dt.date(2019, 1, 1)]), []),
    ("categories", Letter, pl.Series(["a", "c"], dtype=pl.Categorical), x("literal_error", 1)),
    ("an Enum with a category that is not used", Letter, pl.Series(["a"], dtype=pl.Enum(["a", "unused"])), []),
    (
        "text that is stripped first",
        Annotated[str, StringConstraints(max_length=2, strip_whitespace=True)],
        pl.Series([" ab "]),
        [],
    ),
    ("a pattern", Annotated[str, Field(pattern="^a$")], pl.Series(["a", "b"]), x("string_pattern_mismatch", 1)),
    (
        "a pattern with a length",
        Annotated[str, Field(pattern="^a", max_length=2)],
        pl.Series(["ab", "abc"]),
        x("string_too_long", 1),
    ),
    (
        "Python's own patterns",
        Annotated[str, Field(pattern=r"(?<=a)b")],
        pl.Series(["ab", "cb"]),
        x("string_pattern_mismatch", 1),
    ),
    ("nothing but null texts", Annotated[str, Field(max_length=2)] | None, pl.Series([None], dtype=pl.String), []),
]


@pytest.mark.parametrize(
    ("annotation", "column", "expected"), [each[1:] for each in POLARS], ids=[each[0] for each in POLARS]
)
def test_columns_of_polars(annotation: Any, column: Any, expected: Any) -> None:
    """A null of polars is a null, and its NaN a number."""
    config = ConfigDict(regex_engine="python-re") if "(?<=" in str(annotation) else None
    assert found(pl.DataFrame, Rows(row(annotation, config=config)), pl.DataFrame({"x": column})) == expected


ARROW: list[tuple[str, Any, Any, Any]] = [
    (
        "dictionaries in chunks",
        Letter,
        pa.chunked_array([pa.array(["a"]).dictionary_encode(), pa.array(["q", None]).dictionary_encode()]),
        [*x("null", 2), *x("literal_error", 1)],
    ),
    ("dictionaries that fit", Letter, pa.array(["a", "b", "a"]).dictionary_encode(), []),
    ("times of day in nanoseconds", dt.time, pa.array([1], pa.time64("ns")), []),
    ("times in nanoseconds with a zone", AwareDatetime, pa.array([1], pa.timestamp("ns", "UTC")), []),
    (
        "durations",
        Annotated[dt.timedelta, Field(ge=dt.timedelta(0))],
        pa.array([-5_000, None], pa.duration("ns")),
        [*x("null", 1), *x("greater_than_equal", 0)],
    ),
    ("half floats", Share, pa.array([np.float16(0.5)], pa.float16()), []),
    ("bools with a null", bool | None, pa.array([True, None]), []),
    ("bools for an int", int, pa.array([True, False]), []),
    ("chunks", Age, pa.chunked_array([pa.array([1, 2]), pa.array([3, -4])]), x("greater_than_equal", 3)),
    (
        "a great many chunks",
        Age,
        pa.chunked_array([pa.array([1])] * 100 + [pa.array([-1])]),
        x("greater_than_equal", 100),
    ),
    ("numbers between nulls", Age | None, pa.array([1, None, -1]), x("greater_than_equal", 2)),
    (
        "views of text",
        Annotated[str, Field(max_length=2)],
        pa.array(["abc"], pa.string_view()),
        x("string_too_long", 0),
    ),
    ("large text", Annotated[str, Field(max_length=2)] | None, pa.array(["ab", None], pa.large_string()), []),
    ("dates", Annotated[dt.date, Field(ge=dt.date(2020, 1, 1))] | None, pa.array([None], pa.date32()), []),
    ("nothing but nulls", int, pa.array([None]), x("null", 0)),
    ("text that is a UUID", uuid.UUID, pa.array([str(uuid.UUID(int=1)), "no"]), x("uuid_parsing", 1)),
    ("decimals", decimal.Decimal, pa.array([decimal.Decimal("1.5")]), []),
    ("lists", list[int], pa.array([[1], [None]]), x("int_type", 1)),
]


@pytest.mark.parametrize(
    ("annotation", "column", "expected"), [each[1:] for each in ARROW], ids=[each[0] for each in ARROW]
)
def test_columns_of_arrow(annotation: Any, column: Any, expected: Any) -> None:
    """Chunks, dictionaries and validity bitmaps are read as what they stand for, in tables and in batches."""
    table = pa.table({"x": column})
    assert found(pa.Table, Rows(row(annotation)), table) == expected
    batch = table.combine_chunks().to_batches()[0]
    assert found(pa.RecordBatch, Rows(row(annotation)), batch) == expected


def test_lists_are_read_as_pydantic_reads_them() -> None:
    """In lists NaN is a number and None a null; dates may be spelt as text, but no number may."""
    assert found(Lists, Rows(row(Age)), {"x": [1, None, True, -1]}) == [*x("null", 1), *x("greater_than_equal", 3)]
    assert found(Lists, Rows(row(float)), {"x": [1, float("nan")]}) == []
    assert found(Lists, Rows(row(dt.date)), {"x": ["2020-01-01", dt.date(2020, 1, 1)]}) == []
    assert found(Lists, Rows(row(int)), {"x": [1, "2"]}) == x("int_type", 1)
    assert found(Lists, Rows(row(int), strict=True), {"x": [1, True, 1.0]}) == x("int_type", 1, 2)


def test_rows_of_dicts_may_lack_keys() -> None:
    """In a list of dicts each row has its own keys."""
    model = row(int, y=(int, 3))
    table = [{"x": 1}, {"y": 2}, {"x": -1, "y": None}]
    assert found(list[dict[str, Any]], Rows(model), table) == [(("x",), "missing", [1]), (("y",), "null", [2])]
    assert found(list[dict[str, Any]], Rows(model), [{"y": 2}] * 2) == [(("x",), "missing", [0, 1])]
    closed = row(int, config=ConfigDict(extra="forbid"))
    assert found(list[dict[str, Any]], Rows(closed), [{"x": 1}, {"x": 1, "xx": 2}]) == [
        (("xx",), "extra_forbidden", [1])
    ]
    assert found(list[dict[str, Any]], Rows(model), []) == []
    assert found(list[dict[str, Any]], Rows(row(Any)), [{"x": 1}, {}]) == x("missing", 1)
    optional = row(Age, y=(Age, 3))
    assert found(list[dict[str, Any]], Rows(optional), [{"x": 1}, {"x": 2, "y": -1}]) == [
        (("y",), "greater_than_equal", [1])
    ]


def test_structured_arrays() -> None:
    """The fields of a structured array, or of a record array, are columns; so are those that hold arrays."""
    records = np.array([(1, [1.0, 2.0]), (-1, [3.0, 4.0])], [("x", "i4"), ("y", "f8", (2,))])
    assert found(np.ndarray, Rows(row(Age, y=(list[float], ...))), records) == x("greater_than_equal", 1)
    assert found(np.ndarray, Rows(row(int)), records.view(np.recarray)) == []


def _error(kind: Any, table: Any, rows: Rows | None = None) -> dict[str, Any]:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(Annotated[kind, rows or Rows(row(int))]).validate_python(table)
    (details,) = caught.value.errors()
    return dict(details)


@pytest.mark.parametrize(
    ("kind", "table", "says", "fix"),
    [
        (pd.DataFrame, pl.DataFrame(), "must be a pandas DataFrame, got polars DataFrame", "pass a pandas DataFrame"),
        (pd.DataFrame, {"x": [1]}, "got dict", "a dict is not converted"),
        (pl.DataFrame, pl.LazyFrame(), "got polars LazyFrame", ".collect()"),
        (pl.DataFrame | pa.Table, 1, "must be a polars DataFrame or Arrow table", "pass a polars DataFrame or Arrow"),
        (Arrays, {"x": np.ma.array([1])}, "column x must be a NumPy array or a list, got MaskedArray", "filled"),
        (Arrays, {"x": np.array(1)}, "column x is a single value", "one value a row"),
        (Arrays, {"x": np.ones(2), "y": np.ones(3)}, "'x' has 2 rows, 'y' has 3", "one value a row"),
        (list[dict[str, int]], [{"x": 1}, 2], "row 1 must be a dict, got int", "one dict a row"),
        (np.ndarray, np.ones(2), "got dtype float64", "a structured dtype"),
        (np.ndarray, np.zeros((2, 2), [("x", "i4")]), "must have one dimension", "one record a row"),
        (np.ndarray, np.ma.zeros(2, [("x", "i4")]), "must have no mask", "filled"),
        (pd.DataFrame, pd.DataFrame([[1, 2]], columns=["x", "x"]), "columns of the same name: x", "a name of its own"),
        (pa.Table, pa.table([pa.array([1])] * 2, ["x", "x"]), "columns of the same name: x", "a name of its own"),
        (pd.DataFrame, pd.DataFrame({("a", "b"): [1]}), "2 levels of names", "'_'.join"),
        (pd.DataFrame, pd.DataFrame({"xx": [1]}), "is required, but there is no such column", "did you mean 'xx'?"),
        (pd.DataFrame, pd.DataFrame({0: [1]}), "is required, but there is no such column", None),
        (Arrays, {}, "is required, but there is no such column", None),
    ],
)
def test_what_is_no_such_table_is_refused_with_a_fix(kind: Any, table: Any, says: str, fix: str | None) -> None:
    """A table of another kind or of no clear columns is never guessed at."""
    details = _error(kind, table)
    assert says in details["ctx"].get("words", details["msg"])
    assert fix is None or fix in details["ctx"]["fix"]


def test_declarations_that_no_table_could_meet() -> None:
    """A mistake in the declaration is told where it is written, with the fix."""
    model = row(int)
    for wrong in (
        lambda: Rows(int),  # type: ignore[arg-type]
        lambda: Rows(model, "no name"),
        lambda: Rows(model, 3),  # type: ignore[arg-type]
        lambda: Rows(model, min_rows=-1),
        lambda: Rows(model, min_rows=2, max_rows=1),
        lambda: Rows(model, check="some"),  # type: ignore[arg-type]
        lambda: TypeAdapter(Annotated[pl.LazyFrame, Rows(model)]),
        lambda: TypeAdapter(Annotated[pd.Series, Rows(model)]),
        lambda: TypeAdapter(Annotated[list[int], Rows(model)]),
        lambda: TypeAdapter(Annotated[int, Rows(model)]),
        lambda: TypeAdapter(Annotated["Literal[1]", Rows(model)]),
        lambda: TypeAdapter(Annotated[list[dict[str, int]], Rows(RootModel[int])]),
    ):
        with pytest.raises(PolicyError):
            wrong()
    with pytest.raises(PolicyError, match="collect"):
        TypeAdapter(Annotated[pl.LazyFrame, Rows(model)])


def test_aliases_name_columns() -> None:
    """A field's column goes by its alias, and by its name where the class allows that."""
    config = ConfigDict(validate_by_name=True, validate_by_alias=True)
    choices = Field(validation_alias=AliasChoices("b1", AliasPath("b2")))
    model = create_model("Row", __config__=config, a=(int, Field(alias="A")), b=(int, choices))
    for names in (["A", "b1"], ["A", "b2"], ["a", "b"]):
        assert found(pd.DataFrame, Rows(model), pd.DataFrame([[1, 1]], columns=names)) == []
    closed = create_model("Row", __config__=ConfigDict(extra="forbid"), a=(int, Field(alias="A")))
    assert [each[:2] for each in found(pd.DataFrame, Rows(closed), pd.DataFrame([[1]], columns=["a"]))] == [
        (("A",), "missing"),
        (("a",), "extra_forbidden"),
    ]


def test_a_path_into_a_column_is_followed_row_by_row() -> None:
    """What is read by a path has no column of its own, so pydantic reads each row."""
    model = create_model("Row", a=(int, Field(validation_alias=AliasPath("q", 0))))
    table = {"q": [[1], ["x"]]}
    assert found(Lists, Rows(model), table) == [(("q",), "int_parsing", [1])]


def test_extra_columns_are_as_the_class_says() -> None:
    """Columns that are no field are ignored, refused by name, or held to what extra values must be."""
    table = pd.DataFrame({"x": [1], "y": ["text"]})
    assert found(pd.DataFrame, Rows(row(int)), table) == []
    assert found(pd.DataFrame, Rows(row(int, config=ConfigDict(extra="allow"))), table) == []
    closed = row(int, config=ConfigDict(extra="forbid"))
    assert found(pd.DataFrame, Rows(closed), table) == [(("y",), "extra_forbidden", None)]
    assert found(pd.DataFrame, Rows(closed), table[["x"]]) == []
    wide = found(pd.DataFrame, Rows(closed), pd.DataFrame({"x": [1], **{f"y{number}": [1] for number in range(50)}}))
    assert (len(wide), wide[-1]) == (21, ((), "extra_forbidden", None))
    rows = [{"x": 1}, {"x": 1, **{f"y{number}": 1 for number in range(50)}}]
    assert found(list[dict[str, Any]], Rows(closed), rows)[-1] == ((), "extra_forbidden", [1])

    class Typed(BaseModel):
        model_config = ConfigDict(extra="allow")
        __pydantic_extra__: dict[str, int]
        x: int

    assert found(pd.DataFrame, Rows(Typed), table) == [(("y",), "int_parsing", [0])]


def test_a_column_with_a_default_may_be_absent_and_none_is_added() -> None:
    """The table comes back as it was: a default stands in for nothing."""
    table = pd.DataFrame({"x": [1]})
    assert found(pd.DataFrame, Rows(row(int, y=(int, 3), z=(int, Field(default_factory=int)))), table) == []
    assert list(table.columns) == ["x"]


class Ordered(BaseModel):
    low: int
    high: Annotated[int, Field(le=100)]

    @model_validator(mode="after")
    def _ordered(self) -> Ordered:
        if self.low > self.high:
            raise ValueError("low is above high")
        return self


def test_model_validators_see_the_rows_whose_columns_are_right() -> None:
    """A validator of the class runs row by row, and not on rows that are wrong already, as in pydantic."""
    table = pd.DataFrame({"low": [1, 5, 9], "high": [2, 4, 101]})
    assert found(pd.DataFrame, Rows(Ordered), table) == [(("high",), "less_than_equal", [2]), ((), "value_error", [1])]
    assert found(pd.DataFrame, Rows(Ordered), table[:1]) == []


def test_validators_of_raw_rows_and_of_several_fields() -> None:
    """What may look at the whole row is given the whole row."""

    class Raw(BaseModel):
        low: int

        @model_validator(mode="before")
        @classmethod
        def _renamed(cls, data: Any) -> Any:
            return {"low": data["LOW"]}

    class Both(BaseModel):
        low: int
        high: int

        @field_validator("high")
        @classmethod
        def _above(cls, value: int, info: Any) -> int:
            if value < info.data["low"]:
                raise ValueError("is below low")
            return value

    class Started(BaseModel):
        x: int

        def model_post_init(self, context: Any) -> None:
            assert self.x, "is zero"

    class Made(BaseModel):
        x: int

        def __init__(self, x: int) -> None:
            super().__init__(x=x)

    assert found(pd.DataFrame, Rows(Raw), pd.DataFrame({"LOW": [1, None]})) == [(("low",), "int_type", [1])]
    assert found(pd.DataFrame, Rows(Both), pd.DataFrame({"low": [1, 5], "high": [2, 3]})) == [
        (("high",), "value_error", [1])
    ]
    assert found(pd.DataFrame, Rows(Started), pd.DataFrame({"x": [1, 0]})) == [((), "assertion_error", [1])]
    assert found(pd.DataFrame, Rows(Made), pd.DataFrame({"x": [1, 2]})) == []


def test_configuration_of_the_class_counts() -> None:
    """Stripping, case, coercion, strictness and infinities are as the class configures them."""
    short = Annotated[str, Field(max_length=2)]
    assert (
        found(
            pl.DataFrame, Rows(row(short, config=ConfigDict(str_strip_whitespace=True))), pl.DataFrame({"x": [" ab "]})
        )
        == []
    )
    assert found(pl.DataFrame, Rows(row(str, config=ConfigDict(str_max_length=1))), pl.DataFrame({"x": ["ab"]})) == x(
        "string_too_long", 0
    )
    assert (
        found(pl.DataFrame, Rows(row(str, config=ConfigDict(coerce_numbers_to_str=True))), pl.DataFrame({"x": [1]}))
        == []
    )
    assert found(Arrays, Rows(row(float, config=ConfigDict(allow_inf_nan=False))), {"x": np.array([np.inf])}) == x(
        "finite_number", 0
    )
    strict = row(int, config=ConfigDict(strict=True))
    assert found(Arrays, Rows(strict), {"x": np.array([1.0])}) == x("int_type", 0)
    assert found(Arrays, Rows(row(int), strict=True), {"x": np.array([1.0])}) == x("int_type", 0)
    assert found(Arrays, Rows(row(float), strict=True), {"x": np.array([1])}) == []
    assert found(Arrays, Rows(row(Color), strict=True), {"x": np.array(["red"])}) == []
    assert found(pl.DataFrame, Rows(row(dt.date), strict=True), pl.DataFrame({"x": [dt.datetime(2020, 1, 1)]})) == x(
        "date_type", 0
    )


def test_how_many_rows_there_may_be() -> None:
    """min_rows and max_rows bound the batch."""
    table = {"x": np.array([1, 2])}
    assert found(Arrays, Rows(row(int), min_rows=2, max_rows=2), table) == []
    assert _error(Arrays, table, Rows(row(int), min_rows=3))["msg"] == "must have at least 3 rows, got 2"
    assert _error(Arrays, table, Rows(row(int), max_rows=1))["msg"] == "must have at most 1 rows, got 2"


def test_tables_without_rows_have_columns_only() -> None:
    """With no value that could be wrong, no type of column is: an empty frame has none worth the name."""
    assert found(Arrays, Rows(row(int)), {"x": np.array([], object)}) == []
    assert found(pd.DataFrame, Rows(row(int)), pd.DataFrame({"x": []})) == []
    assert found(pd.DataFrame, Rows(row(int)), pd.DataFrame({"y": []})) == [(("x",), "missing", None)]
    assert found(pl.DataFrame, Rows(Ordered), pl.DataFrame({"low": [], "high": []})) == []


def test_a_sample_and_the_metadata_alone() -> None:
    """check= bounds what is looked at; columns and their types always are."""
    many = {"x": np.full(100_000, -1)}
    assert found(Arrays, Rows(row(Age), check="metadata"), many) == []
    assert found(Arrays, Rows(row(Age), check="metadata"), {"x": np.array(["a"])}) == x("int_type", 0)
    assert found(Arrays, Rows(row(Age), check="metadata"), {"y": np.array([1])}) == [(("x",), "missing", None)]
    assert found(Arrays, Rows(row(Age), check="sample"), many) == x("greater_than_equal", 0, 7, 14, 21, 28)
    few = {"x": np.array([1, -1])}
    assert found(Arrays, Rows(row(Age), check="sample"), few) == x("greater_than_equal", 1)
    assert found(Arrays, Rows(row(Age), check="sample"), {"x": np.ones(100_000, int)}) == []
    assert found(pa.Table, Rows(row(Age), check="sample"), pa.table(many)) == x("greater_than_equal", 0, 7, 14, 21, 28)


def test_errors_name_row_column_count_and_values() -> None:
    """A message has what a person needs to find the row, and no more text than that."""
    details = _error(Arrays, {"x": np.array([1, -1, 400, -2] * 100)}, Rows(row(Annotated[int, Field(ge=0)])))
    assert details["ctx"]["words"] == (
        "must be >= 0: wrong in 200 of 400 rows, first in row 1 (-1, -2, -1, ...); min -2, max 400"
    )
    figures = {key: details["ctx"][key] for key in ("row", "rows", "count", "size", "values", "min", "max", "ge")}
    assert figures == {
        "row": 1, "rows": [1, 3, 5, 7, 9], "count": 200, "size": 400, "values": [-1, -2, -1, -2, -1], "min": -2,
        "max": 400, "ge": 0,
    }  # fmt: skip
    assert len(json.dumps(details["ctx"])) < 500


def test_values_are_told_only_where_the_schema_allows_it() -> None:
    """Numbers, times and the words of a Literal are shown; other text is not, and nothing of a hidden field."""
    free = _error(Arrays, {"x": np.array(["secret"])}, Rows(row(Annotated[str, Field(max_length=2)])))
    assert "secret" not in json.dumps(free["ctx"])
    assert "yes" in _error(Arrays, {"x": np.array(["yes"])}, Rows(row(Letter)))["ctx"]["words"]
    word = _error(Arrays, {"x": np.array(["y" * 1_000])}, Rows(row(Letter)))["ctx"]["words"]
    assert len(word) < 200
    for hidden in (Annotated[int, Redacted, Field(ge=0)], Annotated[int, Field(ge=0, repr=False)]):
        details = _error(Arrays, {"x": np.array([-12345])}, Rows(row(hidden)))
        assert "12345" not in json.dumps(details["ctx"])
    quoting = row(Annotated[int, Redacted, Field(ge=0)])

    class Quoting(quoting):  # type: ignore[misc, valid-type]
        @field_validator("x")
        @classmethod
        def _odd(cls, value: int) -> int:
            raise ValueError(f"{value} is odd")

        @model_validator(mode="after")
        def _sum(self) -> Any:
            raise ValueError(f"{self.x} is odd")

    details = _error(Arrays, {"x": np.array([12345])}, Rows(Quoting))
    assert "12345" not in json.dumps(details["ctx"])


def test_json_both_ways() -> None:
    """A field of a model is read from JSON and written to it, and the contract says how."""

    class Request(BaseModel):
        rows: Annotated[list[dict[str, Any]], Rows(row(dt.date), min_rows=1, max_rows=9)]
        columns: Annotated[Lists, Rows(row(Age))]

    text = '{"rows":[{"x":"2020-01-01"}],"columns":{"x":[1,2]}}'
    assert Request.model_validate_json(text).model_dump_json() == text
    schema = Request.model_json_schema()["properties"]
    assert schema["rows"]["type"] == "array"
    assert (schema["rows"]["minItems"], schema["rows"]["maxItems"]) == (1, 9)
    assert schema["rows"]["items"]["properties"]["x"]["format"] == "date"
    assert schema["columns"]["properties"]["x"]["items"]["maximum"] == 300

    class Frames(BaseModel):
        table: Annotated[pl.DataFrame, Rows(row(dt.date))]

    frames = Frames(table=pl.DataFrame({"x": [dt.date(2020, 1, 1)]}))
    assert frames.model_dump_json() == '{"table":[{"x":"2020-01-01"}]}'
    assert Frames.model_json_schema()["properties"]["table"]["items"]["properties"]["x"]["format"] == "date"


def test_declarations_compare_pickle_and_read_well() -> None:
    """Equal declarations are equal, and a repr is what was written."""
    declared = Rows(Ordered, "n", strict=True, min_rows=1, max_rows=9, check="sample")
    assert repr(declared) == "Rows(Ordered, 'n', strict=True, min_rows=1, max_rows=9, check='sample')"
    assert repr(Rows(Ordered)) == "Rows(Ordered)"
    again = pickle.loads(pickle.dumps(declared))
    assert again == declared
    assert hash(again) == hash(declared)
    assert Rows(Ordered) != Rows(Ordered, "n")
    assert Rows(Ordered) != 3


def test_classes_that_are_completed_later() -> None:
    """A row whose class names what is not defined yet waits for it, as pydantic does; a class may name itself."""

    class Later(BaseModel):
        x: "Unknown"  # type: ignore[name-defined]  # noqa: F821, UP037

    assert not TypeAdapter(Annotated[list[dict[str, Any]], Rows(Later)]).pydantic_complete
    recursive = create_model("Tree", leaves=("list[Tree]", []), x=(int, ...))
    assert found(Lists, Rows(recursive), {"x": [1], "leaves": [[{"x": 2}]]}) == []
    assert found(Lists, Rows(recursive), {"x": [1], "leaves": [[{"x": "a"}]]}) == [(("leaves",), "int_parsing", [0])]


def test_no_library_of_tables_is_imported() -> None:
    """Neither mlguard nor a table of arrays loads pandas, polars or Arrow; mlguard alone does not load Rows."""
    code = (
        "import sys, mlguard\n"
        "assert 'mlguard.validation.rows' not in sys.modules\n"
        "import numpy as np\n"
        "from typing import Annotated\n"
        "from pydantic import BaseModel, TypeAdapter\n"
        "class Row(BaseModel): x: int\n"
        "TypeAdapter(Annotated[dict[str, np.ndarray], mlguard.Rows(Row)]).validate_python({'x': np.ones(3, int)})\n"
        "print(sorted({'pandas', 'polars', 'pyarrow'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
