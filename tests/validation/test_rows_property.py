"""Random tables against pydantic, row by row: the same verdict, and the same rows at fault.

The differences on purpose, all written down in docs/tables.md, are in `_expected`: a NaN of NumPy and pandas is a null,
and text is no number.
"""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import json
import math
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model, field_validator

from mlguard import InvalidInputError, Rows, guarded


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


def _even(value: int) -> int:
    if value % 2:
        raise ValueError("is odd")
    return value


FIELDS: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "int": (int, st.integers(-(2**40), 2**40)),
    "bounded": (Annotated[int, Field(ge=-3, lt=4)], st.integers(-5, 6)),
    "multiple": (Annotated[int, Field(multiple_of=3)], st.integers(-9, 9)),
    "float": (float, st.floats(width=64)),
    "range": (Annotated[float, Field(gt=0, le=1)], st.floats(-0.5, 1.5) | st.just(math.nan) | st.just(math.inf)),
    "finite": (Annotated[float, Field(allow_inf_nan=False)], st.floats(width=64)),
    "fraction": (Annotated[float, Field(multiple_of=0.5)], st.sampled_from([0.5, 1.0, 0.25, -2.5])),
    "bool": (bool, st.booleans()),
    "whole": (int, st.sampled_from([1.0, 2.0, 2.5, -3.0, 1e30])),
    "truth": (bool, st.sampled_from([0, 1, 2])),
    "text": (str, st.text(max_size=5)),
    "short": (Annotated[str, Field(min_length=1, max_length=3)], st.text("abé😀", max_size=5)),
    "pattern": (Annotated[str, Field(pattern=r"^[a-c]\d?$")], st.text("abcd1٣", max_size=2)),
    "literal": (Literal["a", "b"], st.sampled_from(["a", "b", "c"])),
    "numbers": (Literal[1, 2], st.integers(0, 3)),
    "enum": (Color, st.sampled_from(["red", "blue", "green"])),
    "date": (Annotated[dt.date, Field(ge=dt.date(2020, 1, 1))], st.dates(dt.date(2019, 1, 1), dt.date(2021, 1, 1))),
    "datetime": (
        Annotated[dt.datetime, Field(lt=dt.datetime(2020, 1, 1))],
        st.datetimes(dt.datetime(2019, 1, 1), dt.datetime(2021, 1, 1)),
    ),
    "duration": (
        Annotated[dt.timedelta, Field(le=dt.timedelta(days=1))],
        st.timedeltas(dt.timedelta(0), dt.timedelta(days=2)),
    ),
    "decimal": (
        Annotated[decimal.Decimal, Field(ge=0)],
        st.decimals(-2, 2, places=2, allow_nan=False),
    ),
    "validated": (Annotated[int, Field(ge=0)], st.integers(-2, 5)),
    "list": (list[int], st.lists(st.integers(), max_size=2)),
}


class _Base(BaseModel):
    @field_validator("validated", check_fields=False)
    @classmethod
    def _even(cls, value: int | None) -> int | None:
        return value if value is None else _even(value)


@st.composite
def tables(draw: st.DrawFn) -> tuple[type[BaseModel], dict[str, list[Any]]]:
    names = draw(st.lists(st.sampled_from(sorted(FIELDS)), min_size=1, max_size=4, unique=True))
    size = draw(st.integers(0, 6) | st.just(33))
    strict = draw(st.booleans())
    fields: dict[str, Any] = {}
    columns = {}
    for name in names:
        annotation, values = FIELDS[name]
        optional = draw(st.booleans())
        nulls = draw(st.sampled_from([False, False, True]))
        fields[name] = (annotation | None if optional else annotation, ...)
        columns[name] = draw(st.lists(st.none() | values if nulls else values, min_size=size, max_size=size))
    config = ConfigDict(strict=True) if strict else ConfigDict()
    base = _Base if "validated" in names else BaseModel
    made = type("Base", (base,), {"model_config": config, "__module__": __name__})
    return create_model("Row", __base__=made, **fields), columns


def _dict(columns: dict[str, list[Any]]) -> Any:
    return columns


def _numpy(columns: dict[str, list[Any]]) -> Any:
    return {name: _array(values) for name, values in columns.items()}


def _array(values: list[Any]) -> Any:
    kinds = {type(value) for value in values}
    if len(kinds) == 1 and kinds <= {int, float, bool, str}:
        return np.repeat(np.array(values), 2)[::2]  # strided
    array = np.empty(len(values), object)
    array[:] = values
    return array


def _rows(columns: dict[str, list[Any]]) -> Any:
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _pandas(columns: dict[str, list[Any]]) -> Any:
    size = len(next(iter(columns.values())))
    index = range(size)
    return pd.DataFrame(
        {name: pd.Series(column, index, None if column else object) for name, column in columns.items()}
    )


def _pandas_objects(columns: dict[str, list[Any]]) -> Any:
    return pd.DataFrame({name: pd.Series(_array_of_objects(values)) for name, values in columns.items()}).set_axis(
        ["row"] * len(next(iter(columns.values()))), axis=0
    )


def _array_of_objects(values: list[Any]) -> Any:
    array = np.empty(len(values), object)
    array[:] = values
    return array


def _polars(columns: dict[str, list[Any]]) -> Any:
    return pl.DataFrame({name: pl.Series(name, values, strict=False) for name, values in columns.items()})


def _arrow(columns: dict[str, list[Any]]) -> Any:
    table = pa.table({name: pa.array(values) for name, values in columns.items()})
    return pa.concat_tables([table.slice(0, len(table) // 2), table.slice(len(table) // 2)])


KINDS: dict[str, tuple[Any, Any]] = {
    "dict of lists": (dict[str, list[Any]], _dict),
    "dict of arrays": (dict[str, np.ndarray], _numpy),
    "list of dicts": (list[dict[str, Any]], _rows),
    "pandas": (pd.DataFrame, _pandas),
    "pandas, objects": (pd.DataFrame, _pandas_objects),
    "polars": (pl.DataFrame, _polars),
    "arrow": (pa.Table, _arrow),
}
NAN_IS_NULL = ("dict of arrays", "pandas", "pandas, objects")


def _expected(model: type[BaseModel], columns: dict[str, list[Any]], kind: str) -> dict[str, list[int]]:
    """The rows that pydantic refuses, by column."""
    adapter = TypeAdapter(list[model])  # type: ignore[valid-type]
    strict = bool(model.model_config.get("strict"))
    rows = []
    if kind == "pandas":  # which keeps whole numbers beside nulls as floats
        columns = {name: _as_floats(values) if None in values else values for name, values in columns.items()}
    for row in _rows(columns):
        for name, value in row.items():
            if kind in NAN_IS_NULL and isinstance(value, float) and math.isnan(value):
                row[name] = None
            elif strict and name == "enum" and value in ("red", "blue"):
                row[name] = Color(value)  # no column holds members of an Enum
        rows.append(row)
    try:
        adapter.validate_python(rows)
    except ValidationError as error:
        found: dict[str, set[int]] = {}
        for details in error.errors(include_url=False):
            found.setdefault(str(details["loc"][1]), set()).add(int(details["loc"][0]))
        return {name: sorted(where) for name, where in found.items()}
    return {}


def _as_floats(values: list[Any]) -> list[Any]:
    return [float(value) if type(value) is int else value for value in values]


@pytest.mark.parametrize("kind", list(KINDS))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.differing_executors])
@given(table=tables())
def test_the_verdict_is_that_of_pydantic_row_by_row(
    kind: str, table: tuple[type[BaseModel], dict[str, list[Any]]]
) -> None:
    """Whatever holds the rows, exactly those are refused that pydantic would refuse one by one."""
    model, columns = table
    annotation, make = KINDS[kind]
    try:
        value = make(columns)
    except (TypeError, ValueError, OverflowError, pa.ArrowInvalid, pl.exceptions.PolarsError):
        return  # the library itself can't hold such a column

    def take(table: Any) -> Any:
        return table

    take.__annotations__["table"] = Annotated[annotation, Rows(model)]
    guard = guarded(take)
    expected = _expected(model, columns, kind)
    try:
        assert guard(value) is value
        found: dict[str, list[int]] = {}
    except InvalidInputError as error:
        json.loads(error.json())
        counts: dict[str, list[int]] = {}
        for details in error.errors():
            counts.setdefault(details["loc"][1], [0, 10**9])
            counts[details["loc"][1]][0] += details["ctx"]["count"]
            counts[details["loc"][1]][1] = min(counts[details["loc"][1]][1], details["ctx"]["row"])
        found = counts
    assert found == {name: [len(rows), rows[0]] for name, rows in expected.items()}, (columns, model.model_fields)
