"""What watches one function: which values it finds, what it counts, tells and forgets."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import threading
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from pydantic import BaseModel

from mlguard import PolicyError
from mlguard.drift import Drift, Profile, ProfileError, compare, compare_counts, merge, profile, subtract


class Patient(BaseModel):
    age: int
    income: float
    city: str


@dataclasses.dataclass
class Row:
    age: int
    income: float
    city: str


def anything(data: Any) -> float:
    raise NotImplementedError


def counted(detector, name: str) -> list[int]:
    return detector.counts()["fields"][name]


def test_every_argument_is_counted_once(watch, reference, rows) -> None:
    """Scalars by position, by name and by default, and the prediction: one row a call."""
    detector = watch(reference)
    for age, income, city in rows(50):
        detector.observe((age, income, city), {}, 0.5)
        detector.observe((age,), {"city": city, "income": income}, np.float64(0.5))
    assert detector.stats()["rows"] == 100
    assert {sum(cells) for cells in detector.counts()["fields"].values()} == {100}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda table: table,
        lambda table: pd.DataFrame(table),
        lambda table: pd.DataFrame(table).convert_dtypes(),
        lambda table: pl.DataFrame(table),
        lambda table: pa.table(table),
        lambda table: pd.DataFrame(table).to_dict("records"),
        lambda table: [Patient(**row) for row in pd.DataFrame(table).to_dict("records")],
        lambda table: [Row(**row) for row in pd.DataFrame(table).to_dict("records")],
        lambda table: pd.DataFrame(table).astype({"city": object}).to_records(index=False).view(np.ndarray),
    ],
)
def test_tables_of_every_kind(watch, reference, rows, wrap) -> None:
    """Dicts of columns, frames, records and models count a row for each row, under the same names."""
    ages, incomes, cities = zip(*rows(120), strict=True)
    table = wrap({"age": list(ages), "income": list(incomes), "city": list(cities)})
    detector = watch(reference, anything)
    detector.observe((table,), {}, np.full(120, 0.5))
    plain = watch(reference)
    for row in zip(ages, incomes, cities, strict=True):
        plain.observe(row, {}, 0.5)
    assert detector.counts() == plain.counts()
    assert detector.stats()["rows"] == 120


def test_fields_of_models_are_found_by_path_or_name(watch, reference, rows) -> None:
    """A model's fields are found by their own names; a second one of the same name is told, not mixed in."""

    def judge(patient: Patient, other: Patient) -> float:
        raise NotImplementedError

    detector = watch(reference, judge)
    (age, income, city), *_ = rows(1)
    patient = Patient(age=age, income=income, city=city)
    detector.observe((patient, patient), {}, 0.5)
    assert sum(counted(detector, "age")) == 1
    assert any("only patient.age is counted" in said for said in detector.stats()["problems"])


def test_methods_have_no_self(watch, reference) -> None:
    """The object of a method is none of its arguments."""

    class Model:
        def predict(self, age: int, income: float, city: str) -> float:
            raise NotImplementedError

    detector = watch(reference, Model.predict)
    detector.observe((object(), 30, 1e4, "Kiel"), {}, 0.5)
    assert {sum(cells) for cells in detector.counts()["fields"].values()} == {1}


@pytest.mark.parametrize("number", [1, 5, 80])
@pytest.mark.parametrize("dtype", ["f8", "f4", "i8", "bool", object])
def test_arrays_are_counted_by_column(watch, random, number: int, dtype: Any) -> None:
    """A batch of any numbers is counted as its values one by one, whatever its size and type."""
    made = profile(random.normal(size=(1_000, 6)) * 3)
    batch = (random.normal(size=(number, 6)) * 3).astype("i8" if dtype == "i8" else "f4").astype(dtype)
    detector = watch(made, anything)
    detector.observe((batch,), {}, None, has_result=False)
    for place, field in enumerate(made.fields):
        cells = [field.bins.cell(value) for value in batch[:, place].tolist()]
        assert counted(detector, field.name) == np.bincount(cells, minlength=len(field.counts)).tolist()


def test_arrays_with_holes_and_infinities(watch, random) -> None:
    """NaN is missing, infinities are outside, in one row and in many."""
    made = profile(random.normal(size=(1_000, 3)))
    for number in (1, 300):
        detector = watch(made, anything, sample=1_000)
        detector.observe((np.tile([np.nan, np.inf, -np.inf], (number, 1)),), {}, None, has_result=False)
        assert [counted(detector, name)[cell] for name, cell in (("[0]", -1), ("[1]", -3), ("[2]", 0))] == [number] * 3


def test_masked_arrays_are_missing_where_masked(watch, random) -> None:
    """What a mask hides was no value of the call."""
    detector = watch(profile(random.normal(size=(1_000, 2))), anything)
    masked = np.ma.masked_array(np.zeros((3, 2)), mask=[[True, False]] * 3)
    detector.observe((masked,), {}, None, has_result=False)
    assert (counted(detector, "[0]")[-1], counted(detector, "[1]")[-1]) == (3, 0)


def test_arguments_that_can_be_nothing(watch, reference) -> None:
    """Empty tables, None, text and arguments by ``**more`` are no rows and no trouble."""

    def more(*rows: Any, **named: Any) -> float:
        raise NotImplementedError

    detector = watch(reference, anything)
    for nothing in (None, "x", [], {}, pd.DataFrame({"age": []}), np.zeros((0, 3)), np.float64(3.0), object(), [None]):
        detector.observe((nothing,), {}, None, has_result=False)
    assert detector.stats()["rows"] == 0
    detector = watch(reference, more)
    detector.observe((), {"age": 30, "income": 1e4, "new": 1}, None, has_result=False)
    assert sum(counted(detector, "age")) == 1


def test_a_row_a_list_and_a_tensor_are_arrays(watch, random) -> None:
    """One row without its batch axis, nested lists, and a frame in the place of an array."""
    made = profile(random.normal(size=(1_000, 3)), columns=["a", "b", "c"])
    detector = watch(made, anything)
    detector.observe((np.zeros(3),), {}, None, has_result=False)
    detector.observe(([0.0, 0.0, 0.0],), {}, None, has_result=False)
    detector.observe(([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]],), {}, None, has_result=False)
    frame = pd.DataFrame({"c": [9.0], "b": [0.0], "a": [0.0]})
    detector.observe((frame,), {}, None, has_result=False)
    assert detector.stats()["rows"] == 5
    assert counted(detector, "c")[-3] == 1  # above, found by its name


def test_a_frame_trained_array_served(watch, random) -> None:
    """A model trained on a frame may serve arrays with as many columns, read in order."""
    made = profile(pd.DataFrame(random.normal(size=(1_000, 4)), columns=list("abcd")))
    detector = watch(made, anything)
    detector.observe((np.array([[0.0, 0.0, 0.0, 99.0]]),), {}, None, has_result=False)
    assert counted(detector, "d")[-3] == 1
    assert detector.stats()["never_seen"] == []


def test_categories_inside_an_array(watch, random) -> None:
    """A column of codes in an array is counted as a category beside the numbers."""
    data = np.column_stack([random.normal(size=1_000), random.integers(0, 4, 1_000)])
    detector = watch(profile({"f": data}, categorical=["f[1]"]), anything)
    detector.observe(({"f": np.array([[0.0, 2.0], [0.0, 7.0]])},), {}, None, has_result=False)
    assert sum(counted(detector, "f[1]")) == 2
    assert counted(detector, "f[1]")[-2] == 1  # unseen


def test_large_batches_are_sampled(watch, random) -> None:
    """A batch costs a bounded look, evenly spread: no more than `sample` rows, no more than 8,192 values."""
    narrow = watch(profile({"x": random.normal(size=1_000)}), anything)
    narrow.observe(({"x": random.normal(size=1_000_000)},), {}, None, has_result=False)
    assert 200 < narrow.stats()["rows"] <= 256
    wide = watch(profile(random.normal(size=(1_000, 512))), anything)
    wide.observe((np.zeros((10_000, 512)),), {}, None, has_result=False)
    assert wide.stats()["rows"] <= 16


def test_what_does_not_fit_is_told(watch, random) -> None:
    """An array of another width, of three dimensions, or lists of no numbers are named in the statistics."""
    made = profile({"f": random.normal(size=(1_000, 3)), "x": random.normal(size=1_000)})

    def f(f: Any, x: Any) -> None:
        raise NotImplementedError

    detector = watch(made, f)
    for value in (np.zeros((5, 4)), np.zeros((1, 2, 3)), [["a"]], []):
        detector.observe((value, np.zeros((2, 2))), {}, None, has_result=False)
    said = " ".join(detector.stats()["problems"])
    assert "f came as 5 x 4; the profile has 3 columns of it" in said
    assert "f came as 1 x 2 x 3" in said
    assert "f holds lists that are no rows of numbers" in said
    assert "x has 2 dimensions" in said
    assert detector.stats()["rows"] == 0


def test_a_missing_and_a_new_field(watch, reference, rows) -> None:
    """A key that stops coming is missing row by row, one that never comes for whole windows; a new one is ignored."""
    detector = watch(reference, anything, persistence=1)
    for number, (age, income, _) in enumerate(rows(100)):
        detector.observe(({"age": age, "new": 1} | ({"income": income} if number < 10 else {}),), {}, None)
    assert counted(detector, "income")[-1] == 90
    assert detector.stats()["never_seen"] == ["city"]
    assert {"city", "income"} <= set(detector.stats()["active"])


def test_anomalies_name_bounds_never_values(watch, reference, random) -> None:
    """What training never saw is named by field and bound; how many values there were is counted."""
    detector = watch(reference)
    assert detector.observe((30, 1e4, "Kiel"), {}, 0.5) is None
    said = detector.observe((12_345, float("nan"), "Atlantis"), {}, 0.5)
    assert said == (["age above 90", "income missing", "city unseen"], 3)
    texts, _ = detector.observe((None, "1e4", "Kiel"), {}, 7.0)
    assert texts[:2] == ["age missing", "income wrong kind"]
    assert texts[2].startswith("output above 0.99")
    assert detector.stats()["anomalous_calls"] == 2
    assert watch(reference, anomalies=False).observe((12_345, 1e4, "Kiel"), {}, 0.5) is None
    wide = watch(profile(random.normal(size=(1_000, 30))), anything)
    texts, number = wide.observe((np.full((50, 30), 99.0),), {}, None)
    assert (len(texts), number) == (16, 30)
    assert texts[0].startswith("[0] above ")
    assert texts[0].endswith(" in 50 of 50 rows")


def test_usual_gaps_are_no_anomaly(watch, random) -> None:
    """Missing values are told where they are rare in training, or far more than there."""
    values = random.normal(size=1_000)
    values[::10] = np.nan
    detector = watch(profile({"x": values}), anything)
    assert detector.observe(({"x": float("nan")},), {}, None) is None
    batch = np.zeros(100)
    batch[:12] = np.nan
    assert detector.observe(({"x": batch},), {}, None) is None
    batch[:40] = np.nan
    assert detector.observe(({"x": batch},), {}, None) == (["x missing in 40 of 100 rows (training: 10.00%)"], 1)


def test_onset_and_recovery_are_told_once(watch, reference, rows, lines) -> None:
    """Incomes in another unit raise one warning within 200 rows; when they are back, one record says so."""
    detector = watch(reference)
    for row in rows(400):
        detector.observe(row, {}, None, has_result=False)
    assert lines.all == []
    for row in rows(400, scale=100.0):
        detector.observe(row, {}, None, has_result=False)
    for row in rows(8_000):
        detector.observe(row, {}, None, has_result=False)
    onset, recovery = lines.drift
    assert (onset["level"], recovery["level"]) == ("warning", "info")
    assert onset["mlguard.drift.field"] == recovery["mlguard.drift.field"] == "income"
    assert (onset["mlguard.drift.state"], recovery["mlguard.drift.state"]) == ("onset", "recovery")
    assert onset["mlguard.drift.window"] == 100
    assert "its unit" in onset["mlguard.drift.fix"]
    assert onset["mlguard.drift.moved"][0].startswith("above ")
    assert recovery["mlguard.drift.lasted"] >= 200
    assert sum(onset["mlguard.drift.reference"]) == pytest.approx(1, abs=0.01)
    assert detector.stats()["active"] == {}
    assert detector.onsets == 1


@pytest.mark.parametrize(
    ("call", "result", "said"),
    [
        ((30, None, "Kiel"), 0.5, "income is missing more often"),
        ((30, 1e4, "Atlantis"), 0.5, "categories that training did not have"),
        ((30, 1e4, "Kiel"), 0.5, "another mix of categories"),
        ((30, "x", "Kiel"), 0.5, "values of another kind"),
        ((30, 1e4, "Kiel"), 0.5, "moved within the trained range"),
        ((30, 1e4, "Kiel"), 99.0, "the model says other things"),
    ],
)
def test_the_record_says_where_to_look(watch, reference, lines, call, result, said) -> None:
    """The fix names what kind of change it was."""
    detector = watch(reference, persistence=1)
    for _ in range(100):
        detector.observe(call, {}, result)
    assert any(said in event["mlguard.drift.fix"] for event in lines.drift)


def test_a_flood_is_cut_short(watch, random, lines) -> None:
    """Of two hundred fields that drift at once the sixteen largest are told, and how many more there are."""
    detector = watch(profile(random.normal(size=(1_000, 200))), anything, persistence=1)
    detector.observe((np.full((100, 200), 99.0),), {}, None)
    for _ in range(3):
        detector.observe((np.full((100, 200), 99.0),), {}, None)
    assert len(lines.drift) == 16
    assert lines.drift[-1]["mlguard.drift.more"] == 184
    assert detector.onsets == 200


def test_threads_lose_nothing_of_an_array(watch, random) -> None:
    """Counts of many threads add up to the rows they made."""
    detector = watch(profile({"f": random.normal(size=(1_000, 4)), "x": random.normal(size=1_000)}), anything)

    def work() -> None:
        for _ in range(300):
            detector.observe(({"f": np.zeros((3, 4)), "x": 0.0},), {}, None)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(counted(detector, "f[0]")) == 3_600
    assert sum(counted(detector, "x")) == 1_200


def test_memory_does_not_grow(watch, reference, rows) -> None:
    """Ten times the calls keep no more objects alive."""
    import gc

    detector = watch(reference)
    sizes = []
    for number in (2_000, 2_000, 20_000):
        for row in rows(100) * (number // 100):
            detector.observe(row, {}, 0.5)
        gc.collect()
        sizes.append(len(gc.get_objects()))
    assert sizes[2] - sizes[1] < 200


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_counts_its_own(watch, reference) -> None:
    """A forked worker begins at nothing, so that counts of parent and child add up."""
    detector = watch(reference)
    detector.observe((30, 1e4, "Kiel"), {}, 0.5)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        detector.observe((30, 1e4, "Kiel"), {}, 0.5)
        os.write(writer, json.dumps(detector.counts()["rows"]).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert json.loads(os.read(reader, 100)) == 1
    assert detector.counts()["rows"] == 1


def test_a_pickled_detector_starts_anew(watch, reference) -> None:
    """Another process gets settings and profile, and counts from zero."""
    detector = watch(reference)
    detector.observe((30, 1e4, "Kiel"), {}, 0.5)
    again = pickle.loads(pickle.dumps(detector))
    assert again.counts()["rows"] == 0
    assert again.fingerprint == detector.fingerprint
    detector.reset()
    assert detector.counts()["rows"] == 0
    assert again.names(asynchronous=False) == {}


def test_workers_add_up(watch, reference, rows) -> None:
    """The sum of what two workers counted is what one would have counted; what came between is the difference."""
    calls = rows(600, scale=3.0)
    one, left, right = watch(reference), watch(reference), watch(reference)
    for number, row in enumerate(calls):
        one.observe(row, {}, 0.5)
        (left if number % 2 else right).observe(row, {}, 0.5)
    total = merge([left.counts(), json.loads(json.dumps(right.counts()))])
    assert total == one.counts()
    assert subtract(total, left.counts()) == right.counts()
    found = compare_counts(reference, total)
    assert "income" in found.drifted
    assert found.rows == 600
    json.dumps(found.as_dict(), allow_nan=False)


def test_counts_that_do_not_add_up(watch, reference, random) -> None:
    """Nothing, nonsense, another profile's counts, a restart in between: refused with the fix."""
    counts = watch(reference).counts()
    other = watch(profile({"age": random.normal(size=1_000)}), anything).counts()
    grown = watch(reference)
    grown.observe((30, 1e4, "Kiel"), {}, 0.5)
    for call, said in (
        (lambda: merge([]), "no counts to merge"),
        (lambda: merge([{}]), "no counts of a detector"),
        (lambda: merge([counts | {"rows": "1"}]), "no counts of a detector"),
        (lambda: merge([counts, other]), "counts 2 are by the profile"),
        (lambda: merge([counts, counts | {"fields": {"age": [1]}}]), "different lengths"),
        (lambda: subtract(counts, grown.counts()), "started anew"),
        (lambda: subtract(counts, other), "different profiles"),
        (lambda: compare_counts(reference, other), "counts are by the profile"),
        (lambda: compare_counts(reference, counts | {"fields": {"age": [1]}}), "none of this profile's"),
    ):
        with pytest.raises(ProfileError, match=said):
            call()


def test_a_table_is_compared_at_once(reference, rows, random) -> None:
    """A whole table is one window: the drifted fields, what is absent, what is new."""
    ages, incomes, cities = zip(*rows(1_000, scale=2.0), strict=True)
    found = compare(reference, {"age": ages, "income": incomes, "extra": cities})
    assert found.drifted == {"income"}
    assert found.absent == ("city", "output")
    assert found.new == ("extra",)
    assert found.differences[0].field == "income"
    assert compare(reference, {"city": cities}, random.random(1_000)).drifted == frozenset()
    with pytest.raises(ProfileError, match="no field of the profile"):
        compare(reference, {"nope": ages})
    made = profile(random.normal(size=(1_000, 2)), columns=["a", "b"])
    assert compare(made, random.normal(size=(500, 2))).drifted == frozenset()
    with pytest.raises(PolicyError, match="p_value"):
        compare(reference, {"age": ages}, p_value=2.0)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"windows": (10, 100)}, "from 50 rows"),
        ({"windows": (400, 100)}, "must ascend"),
        ({"windows": ()}, "windows"),
        ({"p_value": 0.0}, "p_value"),
        ({"persistence": 0}, "persistence"),
        ({"design_effect": 0.5}, "design_effect"),
        ({"sample": 0}, "sample"),
        ({"exclude": ("nope",)}, "no such field"),
        ({"exclude": ("age", "income", "city", "output")}, "no field of the profile is left"),
        ({"window": 3}, "there is no setting 'window'"),
    ],
)
def test_impossible_settings(watch, reference: Profile, settings: dict[str, Any], said: str) -> None:
    """A setting that can't be honoured is refused with its name and the fix."""
    with pytest.raises(PolicyError, match=said):
        watch(reference, **settings)


def test_values_that_raise_are_wrong_and_harm_nobody(watch, reference) -> None:
    """An object whose comparison raises is of a wrong kind; a named tuple and bytes are nothing special."""

    class Broken:
        def __lt__(self, other: object) -> bool:
            raise RuntimeError("never")

        __gt__ = __eq__ = __lt__
        __hash__ = None  # type: ignore[assignment]

    class Pair(NamedTuple):
        a: int

    detector = watch(reference)
    detector.observe((Broken(), b"x", Broken()), {}, 0.5)
    detector.observe((Pair(3), np.datetime64("NaT", "us"), pd.NA), {}, 0.5)
    assert counted(detector, "age")[-2] == 1
    assert counted(detector, "city")[-1] == 1
    assert Drift(profile="x").sample == 256
