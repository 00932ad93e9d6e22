"""Claim: a table is held to its row's class at the price of two reductions a column, also where it is small."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pandera.pandas as pandera
import polars as pl
import pyarrow as pa
from pydantic import BaseModel, Field, TypeAdapter

from benchmarks.case import OURS, Budget, Case
from mlguard import Rows, guarded

__all__ = ["cases"]

Columns = dict[str, npt.NDArray[np.float64]]
Share = Annotated[float, Field(ge=0, le=1)]
_NAMES = "abcdefghi"


class Row(BaseModel):
    """Nine numbers from 0 to 1."""

    a: Share
    b: Share
    c: Share
    d: Share
    e: Share
    f: Share
    g: Share
    h: Share
    i: Share


@guarded
def of_columns(table: Annotated[Columns, Rows(Row)]) -> None:
    """A dict of NumPy arrays."""


@guarded
def of_pandas(table: Annotated[pd.DataFrame, Rows(Row)]) -> None:
    """A data frame of pandas."""


@guarded
def of_polars(table: Annotated[pl.DataFrame, Rows(Row)]) -> None:
    """A data frame of polars."""


@guarded
def of_arrow(table: Annotated[pa.Table, Rows(Row)]) -> None:
    """A table of Arrow."""


def by_hand(table: Columns) -> None:
    """The check as a person in a hurry writes it, without saying what was wrong."""
    for name in _NAMES:
        column = table[name]
        if not (column.min() >= 0 and column.max() <= 1):
            raise ValueError(f"{name} is not from 0 to 1")


_pandera = pandera.DataFrameSchema(
    {name: pandera.Column(float, [pandera.Check.ge(0), pandera.Check.le(1)]) for name in _NAMES}
)
_by_row = TypeAdapter(list[Row])


def cases() -> list[Case]:
    """A large table, a batch and a single row, in every library; the columns are the same."""
    generator = np.random.default_rng(7)
    made = []
    for name, rows, what in (("", 200_000, "200,000 rows"), ("batch", 32, "32 rows"), ("row", 1, "one row")):
        columns = {key: generator.random(rows) for key in _NAMES}
        pandas, polars, arrow = (
            pd.DataFrame(columns),
            pl.DataFrame(columns),
            pa.table({key: pa.array(column) for key, column in columns.items()}),
        )
        records = pandas.to_dict("records") if rows <= 32 else None
        contestants: dict[str, Callable[[Columns], Any]] = {
            OURS: of_columns,
            "mlguard, pandas": _given(of_pandas, pandas),
            "mlguard, polars": _given(of_polars, polars),
            "mlguard, arrow": _given(of_arrow, arrow),
            "min and max by hand": by_hand,
            "pandera, pandas": _given(_pandera.validate, pandas),
        }
        if records is not None:
            contestants["pydantic, row by row"] = _given(_by_row.validate_python, records)
        large = rows > 32
        made.append(
            Case(
                name=f"rows-{name}" if name else "rows",
                claim=f"{what} of 9 float64 columns, each from 0 to 1",
                arguments=(columns,),
                contestants=contestants,
                budgets=(
                    Budget("min and max by hand", 2.0),
                    Budget("min and max by hand", 2.0 if large else None, of="mlguard, pandas"),
                    Budget("min and max by hand", 2.0 if large else None, of="mlguard, polars"),
                    Budget("min and max by hand", 2.0 if large else None, of="mlguard, arrow"),
                    Budget("pandera, pandas", 0.2),
                    Budget("pandera, pandas", 0.2, of="mlguard, pandas"),
                ),
                most_rounds=41 if large else None,
            )
        )
    return made


class _given:  # noqa: N801 - reads as a function
    """A contestant whose table is its own library's."""

    def __init__(self, function: Callable[[Any], Any], table: Any) -> None:
        self._function = function
        self._table = table

    def __call__(self, _: Columns) -> Any:
        return self._function(self._table)
