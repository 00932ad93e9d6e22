"""``on_invalid="quarantine"``: valid rows reach the function, invalid ones get the fallback, all in order."""

from __future__ import annotations

import asyncio
import gc
import json
import pickle
import threading
import weakref
from collections.abc import Iterator
from typing import Annotated, Any

import cloudpickle
import numpy as np
import numpy.typing as npt
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, model_validator

from mlguard import (
    Array,
    Cache,
    Fallback,
    GuardError,
    InvalidInputError,
    InvalidOutputError,
    Monitor,
    PolicyError,
    Redacted,
    Retry,
    Rows,
    Validation,
    guarded,
)
from mlguard.testing import capture_events, disabled

QUARANTINE = Validation(on_invalid="quarantine")


class Patient(BaseModel):
    age: Annotated[int, Field(ge=0)]


class Named(BaseModel):
    bias: Annotated[npt.NDArray[np.float64], Array("n")]


Scores = Annotated[npt.NDArray[np.float64], Array("n", ge=-1)]
Ages = Annotated[dict[str, npt.NDArray[np.int64]], Rows(Patient, "n")]
seen: list[Any] = []


def ages(*values: int) -> dict[str, Any]:
    return {"age": np.array(values, np.int64)}


@guarded(validation=QUARANTINE, fallback=-1.0)
def predict(patients: Ages, factor: float = 1.0) -> Scores:
    seen.append(patients["age"].tolist())
    if factor == 0:
        raise ConnectionError("no model")
    return patients["age"] * factor


@pytest.fixture(autouse=True)
def _forget() -> None:
    seen.clear()


def test_the_function_gets_the_valid_rows_and_the_caller_all() -> None:
    """Rejected rows are where they were, with the fallback as their result, and listed with the reason."""
    outcome = predict.guard.call(ages(1, -5, 2, -6), factor="2")  # type: ignore[arg-type]
    assert outcome.value.tolist() == [2.0, -1.0, 4.0, -1.0]
    assert seen == [[1, 2]]
    assert outcome.degraded
    assert str(outcome.disposition) == "executed"
    assert [(each["type"], each["loc"], each["msg"]) for each in outcome.rejected] == [
        ("greater_than_equal", ("patients", 1, "age"), "must be >= 0"),
        ("greater_than_equal", ("patients", 3, "age"), "must be >= 0"),
    ]
    json.dumps(outcome.rejected)


def test_a_batch_without_invalid_rows_is_handed_on_as_it_is() -> None:
    """Nothing is copied, and nothing is degraded, where every row is valid; also where there is none."""
    outcome = predict.guard.call(ages(1, 2))
    assert (outcome.value.tolist(), outcome.degraded, outcome.rejected) == ([1.0, 2.0], False, ())
    assert predict(ages()).tolist() == []
    assert seen == [[1, 2], []]


def test_without_a_valid_row_the_function_is_not_called() -> None:
    """The fallback answers for all rows."""
    outcome = predict.guard.call(ages(-1, -2))
    assert outcome.value.tolist() == [-1.0, -1.0]
    assert seen == []
    assert str(outcome.disposition) == "fallback"
    assert len(outcome.rejected) == 2


def test_a_call_that_fails_is_answered_for_row_by_row() -> None:
    """A failure of the function leads to the fallback for every row, the valid ones included."""
    outcome = predict.guard.call(ages(1, -2, 3), 0)
    assert outcome.value.tolist() == [-1.0, -1.0, -1.0]
    assert len(outcome.rejected) == 1
    assert predict(ages(1, 2), 0).tolist() == [-1.0, -1.0]


def test_a_table_that_is_wrong_as_a_whole_is_refused() -> None:
    """A missing column, or another argument that is wrong, is no matter of single rows."""
    for args in (({"agee": np.ones(2)},), (ages(1, -1), "three"), (3,), ()):
        with pytest.raises(InvalidInputError):
            predict(*args)  # type: ignore[arg-type]
    assert seen == []


def test_invalid_input_may_be_answered_for_as_well() -> None:
    """A fallback that covers invalid input answers for the rows of a call whose other arguments are wrong."""
    covering = guarded(validation=QUARANTINE, fallback=Fallback(value=-1.0, on=["invalid_input"]))(predict.__wrapped__)
    assert covering(ages(1, -1), "three").tolist() == [-1.0, -1.0]  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError):
        covering(3)  # type: ignore[arg-type]


def test_a_function_is_called_with_the_rejected_rows() -> None:
    """It gets the arguments as the function would, with the rejected rows alone, and why."""
    errors = []

    def rescue(patients: Any, factor: float, error: Exception) -> Any:
        errors.append(error)
        return -patients["age"] * factor - 1

    rescued = guarded(validation=QUARANTINE, fallback=rescue)(predict.__wrapped__)
    assert rescued(ages(1, -5, 2), factor=0.5).tolist() == [0.5, 1.5, 1.0]
    assert isinstance(errors[0], InvalidInputError)
    assert errors[0].errors()[0]["loc"] == ("patients", "age")
    assert rescued(ages(-5), factor=1).tolist() == [4.0]
    assert isinstance(errors[1], InvalidInputError)
    assert rescued(ages(1, -5), 0).tolist() == [-1.0, -1.0]
    assert isinstance(errors[2], ConnectionError)


@pytest.mark.parametrize("answer", [[1.0], np.ones(3), 5, None])
def test_a_fallback_that_loses_rows_is_a_mistake(answer: Any) -> None:
    """Rows that don't match are never made up."""
    losing = guarded(validation=QUARANTINE, fallback=lambda patients, factor: answer)(predict.__wrapped__)
    with pytest.raises(PolicyError, match="fit together"):
        losing(ages(1, -1, 2, -2))
    with pytest.raises(PolicyError, match="row by row"):
        losing(ages(-1, -2))


def test_the_whole_result_is_checked() -> None:
    """What the fallback adds is held to the output schema, together with the rest."""
    wrong = guarded(validation=QUARANTINE, fallback=lambda patients, factor: np.full(len(patients["age"]), -9.0))(
        predict.__wrapped__
    )
    with pytest.raises(InvalidOutputError, match="must be >= -1"):
        wrong(ages(1, -1))
    assert wrong.guard.stats()["quarantine"] == {"calls": 1, "rejected_rows": 1}
    with pytest.raises(PolicyError, match="stands for one row"):
        guarded(validation=QUARANTINE, fallback=-9.0)(predict.__wrapped__)


def test_a_dimension_that_only_the_result_names() -> None:
    """The result of some of the rows does not fix the size of the whole."""

    @guarded(validation=QUARANTINE, fallback=0.0)
    def score(patients: Annotated[pl.DataFrame, Rows(Patient)]) -> Annotated[npt.NDArray[np.float64], Array("out")]:
        return np.ones(len(patients))

    assert score(pl.DataFrame({"age": [1, -1, 1]})).tolist() == [1.0, 0.0, 1.0]


def _of(annotation: Any, function: Any, fallback: Any, rows: Any = pd.DataFrame) -> Any:
    def run(patients: Any) -> Any:
        return function(patients)

    run.__annotations__ = {"patients": Annotated[rows, Rows(Patient)], "return": annotation}
    return guarded(validation=QUARANTINE, fallback=fallback)(run)


FRAME = pd.DataFrame({"age": [1, -1, 2]}, index=["a", "b", "c"])
POLARS, ARROW = pl.DataFrame({"age": [1, -1, 2]}), pa.table({"age": [1, -1, 2]})


def test_results_of_every_kind_are_put_together() -> None:
    """A fixed value becomes rows of whatever the result is made of, in its dtypes."""
    whole = _of(list[float | None], lambda df: list(df.age), None)(FRAME)
    assert whole == [1, None, 2]
    whole = _of(npt.NDArray[np.float32], lambda df: df.age.to_numpy(np.float32), 0.5)(FRAME)
    assert (whole.tolist(), whole.dtype) == ([1, 0.5, 2], np.float32)
    whole = _of(np.ndarray, lambda df: np.ones((len(df), 2), np.float32), 0)(FRAME)
    assert (whole.tolist(), whole.dtype) == ([[1, 1], [0, 0], [1, 1]], np.float32)
    labels, scores = _of(tuple[list[str], npt.NDArray[np.float64]], lambda df: (["x"] * 2, np.ones(2)), ("?", 0))(FRAME)
    assert (labels, scores.tolist()) == (["x", "?", "x"], [1, 0, 1])
    whole = _of(dict[str, npt.NDArray[np.float64]], lambda df: {"s": np.ones(2)}, {"s": 0})(FRAME)
    assert whole["s"].tolist() == [1, 0, 1]
    frame = _of(pd.DataFrame, lambda df: pd.DataFrame({"s": np.ones(2), "t": 1}), {"t": 0, "s": 0})(FRAME)
    assert frame.to_dict("list") == {"s": [1, 0, 1], "t": [1, 0, 1]}
    assert frame.index.tolist() == [0, 1, 2]
    polars = _of(pl.DataFrame, lambda df: df.with_columns(s=1.0), {"age": 0, "s": 0}, pl.DataFrame)(POLARS)
    assert polars.to_dict(as_series=False) == {"age": [1, 0, 2], "s": [1, 0, 1]}
    assert _of(pl.Series, lambda df: df["age"], 0, pl.DataFrame)(POLARS).to_list() == [1, 0, 2]
    arrow = _of(pa.Table, lambda table: table, {"age": 0}, pa.Table)(ARROW)
    assert arrow.to_pydict() == {"age": [1, 0, 2]}


@pytest.mark.parametrize(
    ("made", "fallback", "whole"),
    [
        (np.array([1, 2]), 0.5, [1, 0.5, 2]),
        (np.array([1, 2], np.uint8), -1, [1, -1, 2]),
        (np.array([1, 2], np.uint8), 300, [1, 300, 2]),
        (np.array([1, 2]), 7, [1, 7, 2]),
        (np.array(["ok", "ok"]), "unknown", ["ok", "unknown", "ok"]),
        (np.array([True, False]), 0.5, [1, 0.5, 0]),
        (np.array([{}, {}], object), [1, 2], [{}, [1, 2], {}]),
    ],
)
def test_a_fixed_value_is_never_changed_to_fit(made: Any, fallback: Any, whole: Any) -> None:
    """Neither cut to a whole number nor to the length of the function's texts: the result gets a wider dtype."""
    assert _of(np.ndarray, lambda df: made, fallback)(FRAME).tolist() == whole
    if made.dtype != object:
        series = _of(pd.Series, lambda df: pd.Series(made), fallback)(FRAME)
        assert series.tolist() == whole
        frame = _of(pd.DataFrame, lambda df: pd.DataFrame({"s": made}), {"s": fallback})(FRAME)
        assert frame["s"].tolist() == whole


def test_a_fixed_value_that_the_declared_dtype_can_not_hold() -> None:
    """It is refused at decoration, where it is a mistake; a float is rounded to a narrower one."""
    for dtype, value in ((np.int64, 0.5), (np.uint8, -1), (np.bool_, 2), (np.str_, None), (np.str_, 1)):
        with pytest.raises(PolicyError, match="stands for the result of one row"):
            _of(npt.NDArray[dtype], None, value)
    whole = _of(npt.NDArray[np.float32], lambda df: np.ones(2, np.float32), 0.1)(FRAME)
    assert (whole.dtype, whole[1]) == (np.float32, np.float32(0.1))
    with pytest.raises(PolicyError, match="is the same as"):
        _of(np.ndarray, lambda df: np.ones(2), "1.5")(FRAME)


def test_what_pandas_would_lose() -> None:
    """A missing number becomes NaN, an unknown category stays itself, and other columns are a mistake."""
    series = _of(pd.Series, lambda df: df.age, None)(FRAME)
    assert series.fillna(-1).tolist() == [1, -1, 2]
    series = _of(pd.Series, lambda df: pd.Series(["x", "x"], dtype="category"), "y")(FRAME)
    assert series.tolist() == ["x", "y", "x"]
    for fallback in ({"t": 0}, {"s": 0, "t": 0}):
        with pytest.raises(PolicyError, match="has the columns"):
            _of(pd.DataFrame, lambda df: pd.DataFrame({"s": [1, 2]}), fallback)(FRAME)


def test_without_a_result_of_the_function_to_go_by() -> None:
    """Where every row is rejected, the annotation alone says what the rows are held in."""
    frame, polars, arrow = FRAME[1:2], POLARS[1:2], ARROW.slice(1, 1)
    assert _of(list[float], None, 0.5)(frame) == [0.5]
    assert _of(npt.NDArray[np.float32], None, 0)(frame).dtype == np.float32
    assert _of(npt.NDArray[np.floating[Any]], None, 0.5)(frame).tolist() == [0.5]
    assert _of(Annotated[list[float], Field(min_length=1)] | None, None, 0.5)(frame) == [0.5]
    assert _of(pd.DataFrame, None, {"s": 0})(frame).to_dict("index") == {"b": {"s": 0}}
    assert _of(pd.Series, None, 0)(frame).to_dict() == {"b": 0}
    assert _of(pl.DataFrame, None, {"s": 0}, pl.DataFrame)(polars).to_dicts() == [{"s": 0}]
    assert _of(pl.Series, None, 0, pl.DataFrame)(polars).to_list() == [0]
    assert _of(pa.Table, None, {"s": 0}, pa.Table)(arrow).to_pylist() == [{"s": 0}]


def test_a_result_of_pandas_keeps_the_index_of_its_rows() -> None:
    """A function that keeps the index of the table gives back the index of the whole table."""
    whole = _of(pd.Series, lambda df: df.age * 2, 0)(FRAME)
    assert whole.to_dict() == {"a": 2, "b": 0, "c": 4}
    counted = _of(pd.Series, lambda df: pd.Series(list(df.age)), 0)(FRAME)
    assert counted.to_dict() == {0: 1, 1: 0, 2: 2}


def test_lists_of_rows_get_values_of_their_own() -> None:
    """A caller that changes one answer changes no other."""
    whole = _of(list[dict[str, int]], lambda rows: [{"s": 1}], {"s": 0}, list[dict[str, int]])(
        [{"age": -1}, {"age": -2}]
    )
    assert whole == [{"s": 0}, {"s": 0}]
    whole[0]["s"] = 5
    assert whole[1] == {"s": 0}


@pytest.mark.parametrize("annotation", [tuple[list[float], list[float]], dict[str, list[float]], pd.DataFrame])
def test_a_value_that_is_no_row(annotation: Any) -> None:
    """A fixed value that can't be the result of one row is refused at decoration."""
    with pytest.raises(PolicyError, match="stands for the result of one row"):
        _of(annotation, None, 0.5)
    with pytest.raises(PolicyError, match="can't be repeated"):
        _of(npt.NDArray[np.float64], None, "x")


def test_what_can_not_be_honoured_is_refused_at_decoration() -> None:
    """Each refusal names the fix."""

    def refused(function: Any, says: str, **settings: Any) -> None:
        with pytest.raises(PolicyError, match=says):
            guarded(**{"validation": QUARANTINE, "fallback": -1.0, **settings})(function)

    def none(x: int) -> Scores: ...
    def two(a: Ages, b: Ages) -> Scores: ...
    def shared(a: Ages, b: Annotated[npt.NDArray[np.float64], Array("n")]) -> Scores: ...
    def in_a_model(a: Ages, b: Named) -> Scores: ...
    def in_a_list(a: Ages, b: list[Annotated[pd.DataFrame, Rows(Patient, "n")]]) -> Scores: ...
    def another(a: Ages, b: list[Annotated[pd.DataFrame, Rows(Patient)]]) -> Scores: ...
    def unannotated(a: Ages): ...  # type: ignore[no-untyped-def]
    def scalar(a: Ages) -> float: ...
    def either(a: Ages) -> list[float] | np.ndarray: ...
    def sampled(a: Annotated[pd.DataFrame, Rows(Patient, check="sample")]) -> Scores: ...
    def variable(*a: Ages) -> Scores: ...
    def stream(a: Ages) -> Iterator[float]:
        yield 1.0

    refused(none, "has none")
    refused(two, "has a and b")
    refused(shared, "no longer match b, which shares the dimension 'n'")
    refused(in_a_model, "no longer match b")
    refused(in_a_list, "no longer match b")
    refused(another, "b holds another one")
    refused(unannotated, "what holds the rows")
    refused(scalar, "what holds the rows")
    refused(either, "what holds the rows")
    refused(sampled, "check='full'")
    refused(predict.__wrapped__, "check='full'", validation=Validation(on_invalid="quarantine", check="metadata"))
    refused(variable, "one table")
    refused(stream, "a stream has items")
    refused(predict.__wrapped__, "input=True", validation=Validation(on_invalid="quarantine", input=False))
    with pytest.raises(PolicyError, match="no fallback is set"):
        guarded(validation=QUARANTINE)(predict.__wrapped__)


def test_keyword_only_arguments_and_a_schema() -> None:
    """The table may be passed by name alone, and may be declared by schema=."""

    class Arguments(BaseModel):
        patients: Annotated[dict[str, list[Any]], Rows(Patient)]
        factor: int = 2

    @guarded(validation=QUARANTINE, fallback=-1)
    def named(*rest: int, patients: Annotated[dict[str, list[Any]], Rows(Patient)], **more: int) -> list[int]:
        return list(patients["age"])

    @guarded(validation=QUARANTINE, fallback=-1, schema=Arguments)
    def by_schema(patients: Any, factor: Any = 3) -> list[int]:
        return [age * factor for age in patients["age"]]

    assert named(1, patients={"age": [1, -1]}, x=2) == [1, -1]
    assert named(patients={"age": [-1]}) == [-1]
    assert by_schema({"age": [1, -1, 2]}, "2") == [2, -1, 4]
    assert by_schema(patients={"age": [-1]}) == [-1]


def test_methods() -> None:
    """The table of a method is found behind self."""

    class Model:
        @guarded(validation=QUARANTINE, fallback=-1.0)
        def predict(self, patients: Ages) -> Scores:
            return patients["age"] + 0.5

    assert Model().predict(ages(1, -1)).tolist() == [1.5, -1.0]


async def test_asynchronous_functions_and_fallbacks() -> None:
    """A coroutine function's fallback may be asynchronous or not; a plain function's may not."""

    async def rescue(patients: Any) -> Any:
        await asyncio.sleep(0)
        return np.full(len(patients["age"]), -0.5)

    async def score(patients: Ages) -> Scores:
        await asyncio.sleep(0)
        return patients["age"] * 1.0

    for fallback in (rescue, lambda patients: np.full(len(patients["age"]), -0.5), -0.5):
        guard = guarded(validation=QUARANTINE, fallback=fallback)(score)
        assert (await guard(ages(1, -1))).tolist() == [1.0, -0.5]
        assert (await guard(ages(-1, -1))).tolist() == [-0.5, -0.5]
    many = await asyncio.gather(*[guard(ages(number, -1)) for number in range(20)])
    assert [each.tolist() for each in many] == [[number, -0.5] for number in range(20)]

    async def late(patients: Any) -> Any: ...

    unaware = guarded(validation=QUARANTINE, fallback=lambda patients: late(patients))
    with pytest.raises(PolicyError, match="gave a coroutine"):
        unaware(lambda_of_arrays)(ages(1, -1))


def lambda_of_arrays(patients: Ages) -> Scores:
    return patients["age"] * 1.0


def test_a_cache_keeps_the_results_of_the_valid_rows() -> None:
    """Batches with the same valid rows share a result; each gets its own rows put back."""
    cached = guarded(validation=QUARANTINE, fallback=-1.0, cache=Cache(ttl=None))(predict.__wrapped__)
    assert cached(ages(1, -1, 2)).tolist() == [1, -1, 2]
    outcome = cached.guard.call(ages(-7, 1, 2))
    assert outcome.value.tolist() == [-1, 1, 2]
    assert outcome.cached
    assert cached(ages(1, 2)).tolist() == [1, 2]
    assert seen == [[1, 2]]


def test_retries_run_on_the_valid_rows() -> None:
    """An attempt that fails is retried with the rows that were valid."""

    @guarded(validation=QUARANTINE, fallback=-1.0, retry=Retry(max_retries=2, initial_delay=0.001))
    def flaky(patients: Ages) -> Scores:
        seen.append(patients["age"].tolist())
        if len(seen) < 3:
            raise ConnectionError
        return patients["age"] * 1.0

    assert flaky(ages(1, -1)).tolist() == [1.0, -1.0]
    assert seen == [[1]] * 3


def test_the_event_tells_of_rejected_rows() -> None:
    """The event has the first rejected rows, how many there were, and that the result is degraded."""
    monitored = guarded(validation=QUARANTINE, fallback=-1.0, monitor=Monitor())(predict.__wrapped__)
    with capture_events() as events:
        monitored(ages(*range(-150, 50)))
        monitored(ages(-1))
        monitored(ages(1, -1), 0)
    event = events[0]
    assert event["mlguard.rejected_rows"] == 150
    assert event["mlguard.violation_count"] == 150
    assert len(event["mlguard.violations"]) <= 20
    assert event["mlguard.violations"][0] == {
        "loc": "patients.0.age",
        "type": "greater_than_equal",
        "msg": "must be >= 0",
    }
    assert event["mlguard.degraded"]
    assert [each["mlguard.disposition"] for each in events] == ["executed", "fallback", "fallback"]
    assert [each["error.type"] for each in events[1:]] == ["mlguard.errors.InvalidInputError", "ConnectionError"]
    assert monitored.guard.stats()["quarantine"] == {"calls": 3, "rejected_rows": 152}
    monitored.guard.reset()
    assert monitored.guard.stats()["quarantine"] == {"calls": 0, "rejected_rows": 0}


def test_what_is_listed_is_bounded() -> None:
    """A hundred rows are listed, the rest is counted."""
    rejected = predict.guard.call(ages(*[-1] * 1_000, 1)).rejected
    assert len(rejected) == 101
    assert rejected[-1]["ctx"] == {"count": 900}


def test_hidden_columns_give_no_reason_away() -> None:
    """The reason of a hidden column is that it is hidden, where its words could quote the value."""

    class Hidden(BaseModel):
        age: Annotated[int, Redacted, Field(ge=0)]

        @model_validator(mode="after")
        def _quoting(self) -> Any:
            raise ValueError(f"{self.age} is odd")

    def run(patients: Annotated[pd.DataFrame, Rows(Hidden)]) -> list[float]:
        return [1.0] * len(patients)

    outcome = guarded(validation=QUARANTINE, fallback=0.0)(run).guard.call(pd.DataFrame({"age": [12345, -54321]}))
    assert outcome.value == [0.0, 0.0]
    assert "12345" not in str(outcome.rejected)
    assert "54321" not in str(outcome.rejected)


def test_explain_says_what_becomes_of_invalid_rows() -> None:
    """A reader of explain() knows which rows reach the function."""
    assert "quarantine: Rows of patients that break their schema are taken out" in predict.guard.explain()


def test_warming_up_and_switched_off() -> None:
    """warm() checks the schema alone, so that a bad example is refused or taken out, never answered for."""
    assert predict.guard.warm(ages(1, 2)).tolist() == [1.0, 2.0]
    with pytest.raises(GuardError, match="warm up with valid rows"):
        predict.guard.warm(ages(-1))
    with disabled():
        assert predict(ages(1, -2)).tolist() == [1.0, -2.0]


def test_pickled_by_value() -> None:
    """A guarded function takes its quarantine along."""
    again = cloudpickle.loads(cloudpickle.dumps(predict))
    assert again(ages(1, -1)).tolist() == [1.0, -1.0]
    assert again(ages(-1)).tolist() == [-1.0]
    room = predict.guard._wrapper.rooms["quarantine"]
    assert type(pickle.loads(cloudpickle.dumps(room))) is not None


def test_threads() -> None:
    """Calls side by side keep their rows apart."""
    results: dict[int, Any] = {}

    def run(number: int) -> None:
        for _ in range(20):
            results[number] = predict(ages(number, -1, number)).tolist()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {number: [number, -1.0, number] for number in range(8)}


def test_nothing_of_a_call_is_kept() -> None:
    """Table and rejected rows are free once the caller has dropped the result, with the garbage collector off."""

    class Table(dict[str, Any]):
        pass

    def run(patients: Annotated[dict[str, list[int]], Rows(Patient)], fail: bool = False) -> list[float]:
        if fail:
            raise ConnectionError
        return [1.0] * len(patients["age"])

    guard = guarded(validation=QUARANTINE, fallback=0.0)(run)
    guard({"age": [1]})
    gc.disable()
    try:
        for values, fail in (([1, -1], False), ([-1], False), ([1, -1], True)):
            table = Table(age=values)
            gone = weakref.ref(table)
            guard(table, fail)
            del table
            assert gone() is None
    finally:
        gc.enable()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(-3, 9), max_size=12))
def test_every_row_gets_its_own_answer(values: list[int]) -> None:
    """Whichever rows are invalid, each row's result is at its place."""
    assert predict(ages(*values)).tolist() == [-1.0 if value < 0 else float(value) for value in values]
