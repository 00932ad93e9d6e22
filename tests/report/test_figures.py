"""The figures of a report, against the same numbers counted in plain Python."""

from __future__ import annotations

import gzip
import json
import math
import random
from collections import Counter, defaultdict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
from pydantic import BaseModel

from mlguard import Monitor, Redacted, guarded
from mlguard.drift import Profile
from mlguard.drift import profile as make_profile
from mlguard.record import RecordError
from mlguard.record.filters import Filters
from mlguard.record.reading import open_calls
from mlguard.report import Figures, gather, page
from mlguard.report.figures.facts import ANSWERED, RAN
from mlguard.report.figures.frame import MOST, step_for
from mlguard.report.figures.latency import BARS, PERCENTILES, middle, percentiles
from tests.report import odd
from tests.report.shop import record_to


def events(file: Path) -> list[dict[str, Any]]:
    lines = file.read_text(encoding="utf-8").splitlines()
    return [event for event in map(json.loads, lines) if "mlguard.call_id" in event]


def weight(event: dict[str, Any]) -> float:
    return 1 / event["mlguard.sample_rate"] + event.get("mlguard.suppressed", 0)


def weighted_percentile(values: list[tuple[float, float]], share: float) -> float:
    """The least value below which this share of the weight lies."""
    values.sort()
    weights = np.cumsum([weight for _, weight in values])
    return values[int(np.searchsorted(weights, share * weights[-1] * (1 - 1e-12)))][0]


def test_every_ending_is_counted_with_the_weight_of_its_record(day: Path, figures: Figures) -> None:
    """A sampled record stands for 1/rate calls, and one of an overload for those left out before it."""
    expected: Counter[str] = Counter()
    for event in events(day):
        expected[event["mlguard.disposition"]] += weight(event)
    assert {one.disposition: one.calls for one in figures.traffic.endings} == pytest.approx(expected)
    assert set(expected) > {"executed", "cache_hit", "fallback", "rejected_breaker", "rejected_memory", "failed"}
    for one in figures.traffic.endings:
        assert sum(one.steps) == pytest.approx(one.calls)
    assert figures.traffic.calls(*ANSWERED) == pytest.approx(sum(expected[name] for name in ANSWERED))


def test_calls_stand_in_the_step_of_their_time(day: Path, figures: Figures) -> None:
    """What is drawn at a quarter past ten happened then, in UTC."""
    frame = figures.frame
    assert frame.step == 120.0
    assert frame.start == datetime(2026, 11, 23)
    expected: Counter[int] = Counter()
    for event in events(day):
        when = datetime.fromisoformat(event["timestamp"]).replace(tzinfo=None)
        expected[int((when - frame.start).total_seconds() // frame.step)] += weight(event)
    for step in range(frame.steps):
        assert sum(one.steps[step] for one in figures.traffic.endings) == pytest.approx(expected[step])


def test_percentiles_weigh_the_sample_rate(day: Path, figures: Figures) -> None:
    """Percentiles are those of all calls, not of the records, to half a per cent."""
    ran = figures.latency.of("ran")
    assert ran is not None
    values, steps = [], defaultdict(list)
    for event in events(day):
        if event["mlguard.disposition"] in RAN:
            one = (event["mlguard.duration"], 1 / event["mlguard.sample_rate"])
            values.append(one)
            when = datetime.fromisoformat(event["timestamp"]).replace(tzinfo=None)
            steps[int((when - figures.frame.start).total_seconds() // figures.frame.step)].append(one)
    assert len({rate for _, rate in values}) > 1
    for share, found in zip(PERCENTILES, ran.percentiles, strict=True):
        assert found == pytest.approx(weighted_percentile(values, share), rel=0.0051)
    assert ran.longest == max(duration for duration, _ in values)
    assert ran.total == pytest.approx(sum(duration * rate for duration, rate in values))
    assert sum(ran.bars.values()) == pytest.approx(ran.calls)
    for step, told in enumerate(figures.latency.over_time):
        if step not in steps:
            assert told is None
            continue
        for share, found in zip(PERCENTILES, told or (), strict=True):
            assert found == pytest.approx(weighted_percentile(steps[step], share), rel=0.0051, abs=1e-6)


def test_where_the_time_went(day: Path, figures: Figures) -> None:
    """What the function took, the waits, and the rest, which is the guards', add up to the durations."""
    spent = figures.latency.spent
    assert spent is not None
    found = [event for event in events(day) if event["mlguard.disposition"] in RAN]
    told = [(1 / event["mlguard.sample_rate"], event) for event in found if "mlguard.function_duration" in event]
    assert spent.calls == pytest.approx(sum(rate for rate, _ in told))
    assert spent.inside == pytest.approx(sum(rate * event["mlguard.function_duration"] for rate, event in told))
    assert spent.waiting == pytest.approx(sum(rate * event.get("mlguard.waited", 0) for rate, event in told))
    total = sum(rate * event["mlguard.duration"] for rate, event in told)
    assert spent.inside + spent.waiting + spent.around == pytest.approx(total, rel=1e-4)


def test_what_a_sample_rate_changes() -> None:
    """One record of a rare slow call does not weigh as much as one that stands for a hundred quick ones."""
    quick, slow = (math.floor(math.log(seconds) / math.log(1.01)) for seconds in (0.01, 1.0))
    assert percentiles([(quick, 5.0), (slow, 5.0)])[1] == pytest.approx(1.0, rel=0.006)
    assert percentiles([(quick, 500.0), (slow, 5.0)])[1] == pytest.approx(0.01, rel=0.006)
    assert middle(-2_000) == 0.0


def test_concerns_say_what_the_events_say(day: Path, figures: Figures) -> None:
    """Counts and times of every concern are sums over the events."""
    found = events(day)

    def calls(**wanted: Any) -> float:
        keys = {f"mlguard.{name.replace('__', '.')}": value for name, value in wanted.items()}
        return sum(weight(event) for event in found if all(event.get(key) == value for key, value in keys.items()))

    concerns = figures.concerns
    assert concerns.validation
    assert concerns.retry
    assert concerns.cache
    assert concerns.breaker
    assert concerns.concurrency
    assert concerns.memory
    assert concerns.fallback
    assert concerns.validation.refused == pytest.approx(calls(disposition="rejected_validation"))
    bad = sum(weight(event) for event in found if str(event.get("error.type")).endswith("InvalidOutputError"))
    assert concerns.validation.bad_results == pytest.approx(bad)
    let = sum(weight(e) for e in found if e.get("mlguard.violation_count") and e["event.outcome"] == "success")
    assert concerns.validation.let_pass == pytest.approx(let)
    retried = [event for event in found if event.get("mlguard.retry.retries")]
    assert concerns.retry.retried == pytest.approx(len(retried))
    assert concerns.retry.retries == pytest.approx(sum(event["mlguard.retry.retries"] for event in retried))
    assert concerns.retry.waited == pytest.approx(sum(event["mlguard.retry.waited"] for event in retried))
    assert concerns.retry.saved + concerns.retry.gave_up == pytest.approx(concerns.retry.retried)
    stopped: Counter[str] = Counter()
    for event in found:
        if "mlguard.retry.stopped" in event:
            stopped[event["mlguard.retry.stopped"]] += weight(event)
    assert concerns.retry.stopped == pytest.approx(stopped)
    assert "max_retries" in stopped
    assert concerns.cache.hits == pytest.approx(calls(disposition="cache_hit"))
    assert concerns.cache.asked == pytest.approx(calls(disposition="cache_hit") + calls(cache="miss"))
    assert concerns.breaker.refused == pytest.approx(calls(disposition="rejected_breaker"))
    assert concerns.breaker.functions == 1
    assert concerns.concurrency.refused == pytest.approx(calls(disposition="rejected_concurrency"))
    assert concerns.concurrency.most == max(event.get("mlguard.concurrency.in_use", 0) for event in found)
    assert concerns.memory.refused == pytest.approx(calls(disposition="rejected_memory"))
    assert concerns.memory.used == max(event.get("mlguard.memory.used", 0) for event in found)
    assert max(share for share in concerns.memory.steps if share) == pytest.approx(
        concerns.memory.used / concerns.memory.limit
    )
    assert concerns.fallback.answered == pytest.approx(calls(disposition="fallback"))
    assert concerns.fallback.causes == {"ConnectionError": pytest.approx(concerns.fallback.answered)}
    assert sum(concerns.retry.steps) == pytest.approx(concerns.retry.retries)
    assert concerns.deadline is None or concerns.deadline.slow


def test_what_the_cache_spared_is_the_mean_of_each_functions_own_runs(day: Path, figures: Figures) -> None:
    """A hit of a quick function spares what that function takes, whatever slow ones there are."""
    prices = [event for event in events(day) if event["code.function.name"].endswith(".price")]
    ran = [event["mlguard.duration"] for event in prices if event["mlguard.disposition"] == "executed"]
    hits = [event["mlguard.duration"] for event in prices if event["mlguard.disposition"] == "cache_hit"]
    assert figures.concerns.cache is not None
    assert figures.concerns.cache.spared == pytest.approx(len(hits) * sum(ran) / len(ran) - sum(hits))


def test_failures_by_field_have_an_example_of_the_record(day: Path, figures: Figures) -> None:
    """Counts by function, field and kind, each with the message of a record that has it."""
    expected: Counter[tuple[str, str, str]] = Counter()
    messages = defaultdict(set)
    for event in events(day):
        for key in {(one["loc"], one["type"]) for one in event.get("mlguard.violations", ())}:
            expected[event["code.function.name"], *key] += weight(event)
        for one in event.get("mlguard.violations", ()):
            messages[one["loc"], one["type"]].add(one["msg"])
    found = {(one.function, one.field, one.kind): one for one in figures.failures.fields}
    assert {key: one.calls for key, one in found.items()} == pytest.approx(expected)
    assert all(one.message in messages[one.field, one.kind] for one in found.values())
    assert {one.where for one in found.values()} == {"input", "result", "let pass"}
    assert figures.failures.fields_in_all == len(expected)
    refused = sum(calls for *_, calls in figures.failures.refused_by_field)
    assert figures.concerns.validation is not None
    assert refused == pytest.approx(figures.concerns.validation.refused)


def test_failures_by_cause_have_message_and_traceback(figures: Figures) -> None:
    """An exception is told with what its record says, and a hidden value stays hidden."""
    causes = {one.cause.rpartition(".")[2]: one for one in figures.failures.causes}
    assert set(causes) == {"LookupError", "CircuitOpenError", "ConcurrencyLimitError", "MemoryPressureError"}
    lookup = causes["LookupError"]
    assert lookup.message.startswith("no rate for [redacted] in ")
    assert lookup.traceback.rstrip().endswith(lookup.message)
    assert lookup.call_id
    assert lookup.first
    assert "Grace" not in repr(figures)


def test_places_of_rows_are_one_field(tmp_path: Path) -> None:
    """Which row of a batch was wrong does not make another field of it."""
    file = tmp_path / "rows.jsonl"
    with file.open("w") as out:
        for number in range(20):
            violation = {"loc": f"batch.{number}.age", "type": "missing", "msg": "Field required"}
            event = {"mlguard.call_id": str(number), "mlguard.disposition": "rejected_validation"}
            out.write(json.dumps(event | {"mlguard.violations": [violation, violation]}) + "\n")
    (one,) = gather([file]).failures.fields
    assert (one.field, one.calls, one.message) == ("batch[].age", 20.0, "Field required")


def test_drift_is_told_from_its_events(figures: Figures, day: Path) -> None:
    """Onset, recovery and both sides of the window that showed it."""
    (income,) = figures.reference.shifts
    assert (income.field, income.role, income.source) == ("income", "input", "event")
    assert len(income.onsets) == 1
    assert sum(income.reference) == pytest.approx(1, abs=0.01)
    assert sum(income.current) == pytest.approx(1, abs=0.01)
    assert len(income.bins) == len(income.reference) == len(income.current)
    assert income.psi is not None
    assert income.psi > 0.1
    assert income.moved
    assert income.fix.endswith("make the profile anew.")
    state = [json.loads(line)["mlguard.drift.state"] for line in day.read_text().splitlines() if "drift.field" in line]
    assert income.drifts is (state[-1] == "onset")


def test_a_profile_is_compared_with_the_summaries(day: Path) -> None:
    """Numbers of the record fall into the profile's bins as they would in the monitor; texts are named as left out."""
    profile = Profile.load(day.parent / "profile.json")
    reference = gather([day], profile=profile).reference
    shifts = {one.field: one for one in reference.shifts if one.source == "profile"}
    assert set(shifts) == {"age", "income", "output"}
    assert "city" in reference.left_out
    expected, total = Counter[int](), 0.0
    field = next(field for field in profile.fields if field.name == "age")
    for event in events(day):
        if event["code.function.name"].endswith(".credit") and event["mlguard.attempts"]:
            expected[field.bins.cell(event["mlguard.input.age"])] += 1 / event["mlguard.sample_rate"]
            total += 1 / event["mlguard.sample_rate"]
    age = shifts["age"]
    cells = {label: expected[cell] / total for cell, label in enumerate(field.bins.labels)}
    assert dict(zip(age.bins, age.current, strict=True)) == pytest.approx({name: cells[name] for name in age.bins})
    assert not age.drifts


def test_a_profile_of_another_model_is_said_to_be_one(tmp_path: Path, oddities: dict[str, Path], day: Path) -> None:
    """Where no call has a field of the profile, the report says so instead of comparing nothing."""
    reference = gather([oddities["minute"]], profile=Profile.load(day.parent / "profile.json")).reference
    assert not [one for one in reference.shifts if one.source == "profile"]
    assert set(reference.left_out) == {"age", "income", "city", "output"}


def test_functions_and_slowest_calls(day: Path, figures: Figures) -> None:
    """The busiest function first, and the longest durations of the record."""
    expected: Counter[str] = Counter()
    for event in events(day):
        expected[event["code.function.name"]] += weight(event)
    assert {one.name: one.calls for one in figures.functions} == pytest.approx(expected)
    assert [one.calls for one in figures.functions] == sorted((one.calls for one in figures.functions), reverse=True)
    longest = sorted((event["mlguard.duration"] for event in events(day)), reverse=True)[:20]
    assert [one.duration for one in figures.slowest] == longest
    by_id = {event["mlguard.call_id"]: event for event in events(day)}
    assert all(by_id[one.call_id]["mlguard.duration"] == one.duration for one in figures.slowest)


def test_filters_are_those_of_query(day: Path) -> None:
    """Function, policy and times leave out calls, and the report says what was asked for."""
    since = datetime(2026, 11, 23, 1, tzinfo=UTC)
    found = gather([day], filters=Filters(function="price", since=since, until=since + timedelta(minutes=20)))
    expected = [
        event
        for event in events(day)
        if event["code.function.name"].endswith(".price")
        and since <= datetime.fromisoformat(event["timestamp"]) < since + timedelta(minutes=20)
    ]
    assert found.source.records == len(expected) > 0
    assert found.source.filters["function"] == "price"
    assert found.source.filters["since"] == "2026-11-23 01:00:00 UTC"
    assert not found.reference.shifts
    assert gather([day], filters=Filters(policy="nobody")).source.records == 0


def test_damaged_lines_are_counted_and_harm_nothing(oddities: dict[str, Path], told: Callable[[str], Figures]) -> None:
    """Torn lines are counted; foreign and nonsensical values are nothing, and every good line still counts."""
    good = gather([oddities["damaged"].parent / "small.jsonl"])
    found = told("damaged")
    assert found.source.damaged == 6
    assert found.source.damaged_at[0].endswith(":5")
    assert found.source.records == good.source.records + 5
    assert found.traffic.calls("executed") == good.traffic.calls("executed")
    assert found.traffic.calls("rejected_by_the_future") == 1
    assert found.frame.outside == 1
    assert found.frame.untimed == 4
    assert found.frame.start == good.frame.start


def test_a_clock_that_goes_back_does_not_spread_the_frame(told: Callable[[str], Figures]) -> None:
    """One record from a year ago is counted and named, not drawn."""
    found = told("back")
    assert found.frame.outside == 1
    assert found.frame.start is not None
    assert found.frame.start.year == 2026
    assert found.traffic.calls() == 200
    assert sum(found.traffic.endings[0].steps) == 199


def test_steps_are_as_coarse_as_the_record_is_long() -> None:
    """From a tenth of a second to ten years there are never more steps than can be seen."""
    for seconds in (0.0, 0.1, 1, 59, 3_600, 86_400, 31 * 86_400, 366 * 86_400, 30 * 366 * 86_400):
        assert seconds / step_for(seconds) <= MOST
    assert step_for(86_400) == 900
    assert step_for(86_400, 13) == 7_200


@pytest.mark.parametrize("name", ["empty", "one", "failures", "minute", "year", "many", "untimed", "bare", "hostile"])
def test_odd_records_have_figures(oddities: dict[str, Path], told: Callable[[str], Figures], name: str) -> None:
    """Whatever the record is, the figures add up."""
    found = told(name)
    total = found.traffic.calls()
    readable = sum(map(weight, events(oddities[name]))) if name != "bare" else found.source.records
    assert total == pytest.approx(readable - found.source.damaged)
    assert sum(one.calls for one in found.functions) == pytest.approx(total)
    assert found.frame.steps <= MOST
    drawn = sum(sum(one.steps) for one in found.traffic.endings)
    assert drawn == pytest.approx(0 if name in ("untimed", "bare", "empty") else total)
    assert all(bar < 10 * BARS for one in found.latency.populations for bar in one.bars)


def test_many_functions_are_told_one_by_one(oddities: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound, the rest is one line that says how many it stands for."""
    assert len(gather([oddities["many"]]).functions) == 300
    monkeypatch.setattr("mlguard.report.figures.functions.MOST", 10)
    found = gather([oddities["many"]]).functions
    assert (len(found), found[-1].others) == (11, 290)
    assert sum(one.calls for one in found) == 600


def test_several_files_and_progress(day: Path, tmp_path: Path) -> None:
    """A folder counts with all its files, and how far the work is only ever grows."""
    lines = day.read_text().splitlines(keepends=True)
    (tmp_path / "a.jsonl").write_text("".join(lines[:1_000]))
    (tmp_path / "b.jsonl").write_text("".join(lines[1_000:2_000]))
    told: list[float] = []
    found = gather([tmp_path], progress=told.append)
    assert found.source.files == 2
    assert found.source.records == sum("mlguard.call_id" in line for line in lines[:2_000])
    assert told == sorted(told)
    assert 0 <= told[0] <= told[-1] <= 1


def test_a_path_that_leads_to_nothing_is_refused(tmp_path: Path) -> None:
    """With an error that names it and the fix."""
    with pytest.raises(RecordError, match=r"absent.*Fix:"):
        gather([tmp_path / "absent"])


def test_hostile_names_stay_in_the_figures_as_they_are(told: Callable[[str], Figures]) -> None:
    """The figures don't clean up: that is for who shows them."""
    found = told("hostile")
    assert any("<script>" in one.name for one in found.functions)
    assert any("\x1b" in one.name for one in found.functions)
    assert found.source.damaged > 0  # half a surrogate pair is no text that anybody but Python reads
    assert len(odd.HOSTILE) - 1 == len([one for one in found.functions if not one.name.endswith("inner")])


class Applicant(BaseModel):
    """Inputs as a model, one of them hidden."""

    age: int
    member: bool
    name: str
    wealth: Annotated[float, Redacted]


def test_a_profile_is_compared_with_fields_of_a_model(tmp_path: Path) -> None:
    """Under their dotted paths: numbers, booleans and lengths of texts; what the record hides is left out."""
    draw = random.Random(3)
    rows = 1_200
    training = {
        "age": [draw.randint(18, 90) for _ in range(rows)],
        "member": [draw.random() < 0.3 for _ in range(rows)],
        "name": [f"{draw.random()}"[: draw.randint(3, 18)] for _ in range(rows)],
        "wealth": [draw.random() for _ in range(rows)],
        "pixels": [[draw.random(), draw.random()] for _ in range(rows)],
    }
    profile = make_profile(training)

    @guarded(monitor=Monitor())
    def limit(applicant: Applicant) -> float:
        return 1.0

    file = tmp_path / "calls.jsonl"
    with record_to(file, lambda: "2026-11-30T12:00:00Z"):
        for _ in range(400):
            name = f"{draw.random()}"[: draw.randint(3, 18)]
            limit(Applicant(age=draw.randint(18, 90), member=draw.random() < 0.9, name=name, wealth=draw.random()))
    reference = gather([file], profile=profile).reference
    shifts = {one.field: one for one in reference.shifts}
    assert set(shifts) == {"age", "member", "name"}
    assert reference.shifts[0].field == "member"
    assert (shifts["member"].drifts, shifts["age"].drifts, shifts["name"].drifts) == (True, False, False)
    members = dict(zip(shifts["member"].bins, shifts["member"].current, strict=True))
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert members["True"] == pytest.approx(sum(line["mlguard.input.applicant.member"] for line in lines) / 400)
    assert shifts["name"].bins
    assert reference.left_out["wealth"] == "it is hidden in the record"
    assert "column of an array" in reference.left_out["pixels[0]"]


def test_values_that_are_none_or_odd_have_their_own_cell(tmp_path: Path) -> None:
    """None counts as missing, infinity as above the range, as in the monitor itself."""
    profile = make_profile({"x": [float(number) for number in range(1_000)], "y": [1, 2] * 500})

    @guarded(monitor=Monitor())
    def f(x: float | None, y: int) -> None:
        return None

    file = tmp_path / "calls.jsonl"
    with record_to(file, None):
        for x in (None, math.inf, -math.inf, math.nan, 50.0, 5_000.0, -1.0, 0.0):
            f(x, 3)
    (shift,) = [one for one in gather([file], profile=profile).reference.shifts if one.field == "x"]
    shares = dict(zip(shift.bins, (round(8 * share) for share in shift.current), strict=True))
    assert shares["missing"] == 2
    assert shares["above 999"] == 2
    assert shares["below 0"] == 2
    assert sum(shares.values()) == 8


def test_a_record_is_read_once_and_asked_often(day: Path) -> None:
    """`keep` holds what a SELECT finds as a table; like `sql`, it takes one SELECT and nothing else."""
    with open_calls(day) as record:
        record.keep("mine", "SELECT function, duration FROM calls WHERE attempts > ?", (0,))
        (ran,) = record.sql("SELECT count(*) FROM calls WHERE attempts > 0").rows
        assert [*record.sql("SELECT count(*) FROM mine").rows] == [ran]
        with pytest.raises(RecordError, match="SELECT"):
            record.keep("mine", "DROP TABLE mine")
        with pytest.raises(RecordError):
            record.keep("mine", "SELECT 1; SELECT 2")


def test_packed_files_count_as_others_do(day: Path, tmp_path: Path) -> None:
    """A gzipped file has the same figures; lines in it that are no JSON are counted as damaged."""
    with gzip.open(tmp_path / "a.jsonl.gz", "wb") as out:
        out.write(day.read_bytes())
        out.write(b'{"mlguard.call_id": "torn", "mlguard.duration": }\n')
    found = gather([tmp_path])
    plain = gather([day])
    assert found.source.records == plain.source.records
    assert found.source.damaged == 1
    assert found.traffic == plain.traffic
    assert found.latency == plain.latency
    assert found.reference == plain.reference


def test_drift_events_that_make_no_sense_are_left_out(day: Path, tmp_path: Path) -> None:
    """Sides of unequal length, shares that are none, figures that are text: one such event spoils nothing."""
    lines = [line for line in day.read_text().splitlines() if "mlguard.drift.field" in line]
    event = json.loads(lines[0])
    odd_ones: list[dict[str, Any]] = [
        {"bins": []},
        {"bins": ["a"], "reference": [1, 2], "current": [1]},
        {"bins": ["a"], "reference": [-1], "current": [1]},
        {"bins": ["a"], "reference": ["x"], "current": [1e300]},
        {"bins": None},
        {"field": 7},
    ]
    file = tmp_path / "drift.jsonl"
    with file.open("w") as out:
        out.write("\n".join(lines) + "\n")
        for one in odd_ones:
            out.write(json.dumps(event | {f"mlguard.drift.{name}": value for name, value in one.items()}) + "\n")
        strange = {"psi": "large", "rows": None, "moved": "all", "state": 3, "field": "strange", "fix": None}
        out.write(json.dumps(event | {f"mlguard.drift.{name}": value for name, value in strange.items()}) + "\n")
    shifts = {one.field: one for one in gather([file]).reference.shifts}
    assert set(shifts) == {"income", "strange"}
    assert (shifts["strange"].psi, shifts["strange"].rows, shifts["strange"].drifts) == (None, 0.0, False)
    assert page(gather([file]))
