"""Tables in guarded calls: shared names, results, streams, and what each setting of a policy does to them."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

import cloudpickle
import numpy as np
import numpy.typing as npt
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from pydantic import BaseModel, Field, field_validator

from mlguard import Array, Cache, InvalidInputError, InvalidOutputError, Redacted, Rows, Validation, guarded

Scores = Annotated[npt.NDArray[np.float64], Array("n")]


class Patient(BaseModel):
    age: Annotated[int, Field(ge=0, le=120)]
    weight: float | None = None


class Checked(Patient):
    name: str = ""

    @field_validator("name")
    @classmethod
    def _titled(cls, value: str) -> str:
        if not value.istitle():
            raise ValueError("is no name")
        return value


GOOD = pd.DataFrame({"age": [1, 2, 3]})
BAD = pd.DataFrame({"age": [1, -2, 300], "weight": [1.0, np.nan, 2.0]})


@guarded
def predict(patients: Annotated[pd.DataFrame, Rows(Patient, "n")], bias: Scores) -> Scores:
    return bias[: patients.attrs.get("results", len(bias))]


def test_the_number_of_rows_is_a_dimension() -> None:
    """The name of the rows means one number in the tables, arrays and results of a call."""
    assert predict(GOOD, np.ones(3)).tolist() == [1, 1, 1]
    with pytest.raises(InvalidInputError, match="same size 'n' as elsewhere in this call, which is 3; got 2"):
        predict(GOOD, np.ones(2))
    short = GOOD.copy()
    short.attrs["results"] = 2
    with pytest.raises(InvalidOutputError, match="which is 3; got 2"):
        predict(short, np.ones(3))


class Request(BaseModel):
    patients: Annotated[pl.DataFrame, Rows(Patient, "n")]


def test_the_rows_in_a_model_count_too() -> None:
    """The name is bound by a table in a model, whether the model comes as a dict or was built before the call."""

    @guarded
    def score(request: Request, bias: Scores) -> None: ...

    table = pl.DataFrame({"age": [1, 2]})
    score({"patients": table}, np.ones(2))  # type: ignore[arg-type]
    score(Request(patients=table), np.ones(2))
    for request in ({"patients": table}, Request(patients=table)):
        with pytest.raises(InvalidInputError, match="which is 2; got 3"):
            score(request, np.ones(3))  # type: ignore[arg-type]


def test_a_table_of_either_kind_in_a_model() -> None:
    """Of a union of tables, the kind that came counts."""

    class Either(BaseModel):
        patients: Annotated[pl.DataFrame, Rows(Patient)] | Annotated[pd.DataFrame, Rows(Patient, "n")]

    @guarded
    def score(request: Either, bias: Scores) -> None: ...

    score(Either(patients=pl.DataFrame({"age": [1, 2]})), np.ones(3))
    score(Either(patients=GOOD), np.ones(3))
    with pytest.raises(InvalidInputError, match="which is 3; got 2"):
        score(Either(patients=GOOD), np.ones(2))


def test_two_tables_of_one_call() -> None:
    """Two tables that share a name have the same number of rows."""

    @guarded
    def joined(
        left: Annotated[pa.Table, Rows(Patient, "n")], right: Annotated[dict[str, list[int]], Rows(Patient, "n")] | None
    ) -> None: ...

    joined(pa.table({"age": [1, 2]}), {"age": [1, 2]})
    joined(pa.table({"age": [1, 2]}), None)
    with pytest.raises(InvalidInputError, match="which is 2; got 1"):
        joined(pa.table({"age": [1, 2]}), {"age": [1]})


def test_an_error_reads_like_any_other() -> None:
    """Argument and column are the place, and the text says what a person needs."""
    with pytest.raises(InvalidInputError) as caught:
        predict(BAD, np.ones(3))
    assert str(caught.value) == (
        "predict() was not called, its input is invalid (2 violations):\n"
        "  patients.age: must be <= 120: wrong in 1 of 3 rows, first in row 2 (300); min -2, max 300\n"
        "  patients.age: must be >= 0: wrong in 1 of 3 rows, first in row 1 (-2); min -2, max 300"
    )
    first = caught.value.errors()[0]
    assert (first["type"], first["loc"]) == ("less_than_equal", ("patients", "age"))
    assert first["ctx"] == {
        "le": 120, "column": "age", "count": 1, "size": 3, "row": 2, "rows": [2], "values": [300], "min": -2,
        "max": 300,
    }  # fmt: skip
    again = pickle.loads(pickle.dumps(caught.value))
    assert again.errors() == caught.value.errors()
    assert str(again) == str(caught.value)


def test_many_columns_at_fault_are_bounded() -> None:
    """Twenty violations are listed, and the rest is counted."""
    fields: dict[str, Any] = {f"c{number}": (int, ...) for number in range(50)}
    wide = type("Wide", (BaseModel,), {"__annotations__": {name: kind for name, (kind, _) in fields.items()}})

    def take(table: Any) -> None: ...

    take.__annotations__["table"] = Annotated[dict[str, list[Any]], Rows(wide)]
    with pytest.raises(InvalidInputError) as caught:
        guarded(take)({name: ["a{brace}"] for name in fields})
    assert len(caught.value.errors()) == 21
    assert caught.value.errors()[-1]["ctx"] == {"count": 30}


def test_results_are_tables_as_well() -> None:
    """A table that is returned is checked, row by row where it must be, and handed on as it is."""
    result: list[Any] = [pl.DataFrame({"age": [1, 2]})]

    @guarded
    def make() -> Annotated[pl.DataFrame, Rows(Patient)]:
        return result[0]

    assert make() is result[0]
    result[0] = pl.DataFrame({"age": [1.0, 2.0]})  # as with arguments: only where something asks for strictness
    assert make() is result[0]
    result[0] = pl.DataFrame({"age": [-1]})
    with pytest.raises(InvalidOutputError, match=r"return\.age: must be >= 0: wrong in 1 of 1 row"):
        make()
    result[0] = pl.DataFrame({"age": [1.0]})
    strictly = guarded(validation=Validation(strict=True))(make.__wrapped__)
    with pytest.raises(InvalidOutputError, match="int"):
        strictly()


def test_the_items_of_streams_are_tables_as_well() -> None:
    """Each table that a generator yields is checked."""
    tables = [pl.DataFrame({"age": [1]}), pl.DataFrame({"age": [-1]})]

    @guarded
    def plain() -> Iterator[Annotated[pl.DataFrame, Rows(Patient)]]:
        yield from tables

    @guarded
    async def asynchronous() -> AsyncIterator[Annotated[pl.DataFrame, Rows(Patient)]]:
        for table in tables:
            yield table

    async def drain() -> list[Any]:
        return [item async for item in asynchronous()]

    with pytest.raises(InvalidOutputError, match="must be >= 0"):
        list(plain())
    with pytest.raises(InvalidOutputError, match="must be >= 0"):
        asyncio.run(drain())


def test_strict_policies() -> None:
    """Under Validation.strict nothing stands for another type; what Rows itself says goes before that."""

    def take(table: Annotated[dict[str, npt.NDArray[Any]], Rows(Patient)]) -> None: ...
    def lax(table: Annotated[dict[str, npt.NDArray[Any]], Rows(Patient, strict=False)]) -> None: ...

    floats = {"age": np.array([1.0])}
    guarded(take)(floats)
    with pytest.raises(InvalidInputError, match="must be int, but the column has dtype float64"):
        guarded(validation=Validation(strict=True))(take)(floats)
    guarded(validation=Validation(strict=True))(lax)(floats)


def test_report_and_fallback_modes() -> None:
    """A bad table passes and is told under "report", and is answered for under "fallback"."""

    def take(table: Annotated[pd.DataFrame, Rows(Patient)]) -> int:
        return len(table)

    outcome = guarded(validation=Validation(on_invalid="report"))(take).guard.call(BAD)
    assert outcome.value == 3
    assert [each["loc"] for each in outcome.rejected] == [("table", "age")] * 2
    assert guarded(validation=Validation(on_invalid="fallback"), fallback=-1)(take)(BAD) == -1


@pytest.mark.parametrize("table", [GOOD, pl.DataFrame(GOOD.to_dict("list")), pa.table(GOOD.to_dict("list"))])
def test_the_bytes_of_a_frame_count(table: Any) -> None:
    """Validation.max_bytes counts what a frame holds."""

    def take(table: Any) -> None: ...

    take.__annotations__["table"] = Annotated[type(table), Rows(Patient)]
    guarded(validation=Validation(max_bytes=1_000))(take)(table)
    with pytest.raises(InvalidInputError, match="must take at most 8B"):
        guarded(validation=Validation(max_bytes=8))(take)(table)


def test_a_policy_may_look_at_less() -> None:
    """Validation.check reaches tables, and the event says so."""

    def take(table: Annotated[pd.DataFrame, Rows(Patient)]) -> int:
        return len(table)

    assert guarded(validation=Validation(check="metadata"))(take)(BAD) == 3
    with pytest.raises(InvalidInputError):
        guarded(validation=Validation(check="metadata"))(take)(pd.DataFrame({"agee": [1]}))


def test_explain_names_what_runs_row_by_row() -> None:
    """Which column costs more than a column is said, with the reason."""

    class Both(Checked):
        score: float = 0

        @field_validator("score")
        @classmethod
        def _heavy(cls, value: float, info: Any) -> float:
            return value

    @guarded
    def columns(table: Annotated[pd.DataFrame, Rows(Checked, "n")]) -> None: ...

    @guarded
    def rows(tables: list[Annotated[pd.DataFrame, Rows(Both)]]) -> None: ...

    said = columns.guard.explain()
    assert "Argument table must be DataFrame of Rows(Checked, 'n')." in said
    assert "Argument table: column name is looked at row by row, through pydantic: it has a validator." in said
    assert "age" not in said
    result = guarded(output=Annotated[pd.DataFrame, Rows(Checked)])(columns.__wrapped__)
    assert "In the result, column name is looked at row by row" in result.guard.explain()
    assert "its rows are looked at one by one, through pydantic: the validator of score" in rows.guard.explain()


def test_hidden_columns_tell_nothing() -> None:
    """Neither the error nor the event tells anything of a hidden column but its name."""

    class Hidden(BaseModel):
        ssn: Annotated[str, Redacted, Field(max_length=3)] = Field(validation_alias="SSN")
        age: int = 0

        @field_validator("age")
        @classmethod
        def _quoting(cls, value: int) -> int:
            raise ValueError(f"{value} is odd")

    @guarded
    def take(table: Annotated[pd.DataFrame, Rows(Hidden)]) -> None: ...

    with pytest.raises(InvalidInputError) as caught:
        take(pd.DataFrame({"SSN": ["078-05-1120"], "age": [78]}))
    assert "078" not in str(caught.value)
    assert "1120" not in caught.value.json()
    assert "it is hidden" in str(caught.value)


def test_a_cache_knows_tables() -> None:
    """Equal tables are one key, others another."""
    calls = []

    @guarded(cache=Cache(ttl=None))
    def count(table: Annotated[pl.DataFrame, Rows(Patient)]) -> int:
        calls.append(1)
        return len(table)

    for ages in ([1, 2], [1, 2], [1, 3]):
        assert count(pl.DataFrame({"age": ages})) == 2
    assert len(calls) == 2


def test_pickled_by_value() -> None:
    """A guarded function takes its declaration along."""
    again = cloudpickle.loads(cloudpickle.dumps(predict))
    with pytest.raises(InvalidInputError, match=r"patients\.age"):
        again(BAD, np.ones(3))


def test_a_validator_that_raises_something_else_is_not_hidden() -> None:
    """An error that is no ValueError is the user's own and comes out as it is, as in pydantic."""

    class Broken(BaseModel):
        age: int

        @field_validator("age")
        @classmethod
        def _broken(cls, value: int) -> int:
            raise KeyError("no such table")

    @guarded
    def take(table: Annotated[pd.DataFrame, Rows(Broken)]) -> None: ...

    with pytest.raises(KeyError, match="no such table"):
        take(GOOD)
