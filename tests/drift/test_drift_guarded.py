"""Drift as a part of guarded functions: which calls count, what events say, and what is refused at decoration."""

from __future__ import annotations

import json
import weakref
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated, Any

import cloudpickle
import numpy as np
import numpy.typing as npt
import pytest
from pydantic import BaseModel

from mlguard import Array, Cache, Drift, Fallback, Monitor, Policy, PolicyError, Redacted, Retry, guarded, policies
from mlguard.drift import profile
from mlguard.record import Record, open_calls, recorder_for


@pytest.fixture
def path(reference, tmp_path: Path) -> str:
    reference.save(tmp_path / "profile.json")
    return str(tmp_path / "profile.json")


def drift(function: Any) -> dict[str, Any]:
    return function.guard.stats()["drift"]


def seen(function: Any) -> tuple[int, int]:
    """Inputs and predictions that were counted."""
    fields = drift(function)["counts"]["fields"]
    return sum(fields["age"]), sum(fields["output"])


def test_a_guarded_function_is_watched(path, lines, rows) -> None:
    """A path in Monitor is all it takes; the event names what training never saw, whatever the sample rate."""

    @guarded(monitor=Monitor(drift=path, sample_rate=1e-9))
    def predict(age: int, income: float, city: str) -> float:
        return 0.5

    for row in rows(50):
        predict(*row)
    predict(1_000, 1e4, "Atlantis")
    event = lines.all[-1]
    assert event["mlguard.anomalies"] == ["age above 90", "city unseen"]
    assert event["mlguard.anomaly_count"] == 2
    assert event["mlguard.sample_rate"] == 1.0
    assert seen(predict) == (51, 51)
    said = predict.guard.explain()
    assert "drift: 3 inputs and 1 prediction are compared with 5,000 rows of training data" in said
    json.dumps(predict.guard.stats(), allow_nan=False)
    predict.guard.reset()
    assert seen(predict) == (0, 0)


def test_nothing_when_nobody_asked(lines) -> None:
    """Without the setting there is no detector and no key."""

    @guarded(monitor=True)
    def predict(age: int) -> float:
        return 0.5

    predict(1_000)
    assert "drift" not in predict.guard.stats()
    assert "mlguard.anomalies" not in lines.all[-1]


def test_only_calls_whose_function_ran_count(path, lines) -> None:
    """Cache hits and rejections don't count; a failure and a fallback count their inputs, not a prediction."""

    @guarded(monitor=Monitor(drift=path), cache=Cache(ttl=60), fallback=Fallback(value=0.1), retry=Retry(max_retries=0))
    def predict(age: int, income: float, city: str) -> float:
        if age == 33:
            raise ValueError("no")
        return 0.5

    predict(30, 1e4, "Kiel")
    predict(30, 1e4, "Kiel")
    assert seen(predict) == (1, 1)
    assert predict(33, 1e4, "Kiel") == 0.1
    assert seen(predict) == (2, 1)
    with pytest.raises(ValueError, match="int"):
        predict("x", 1e4, "Kiel")
    assert seen(predict) == (2, 1)

    @guarded(monitor=Monitor(drift=path))
    def fails(age: int, income: float, city: str) -> float:
        raise LookupError("no")

    with pytest.raises(LookupError):
        fails(1_000, 1e4, "Kiel")
    assert seen(fails) == (1, 0)
    assert lines.all[-1]["mlguard.anomalies"] == ["age above 90"]


async def test_all_kinds_of_functions(path) -> None:
    """Coroutines count as functions do; streams count their inputs."""
    policy = Policy(monitor=Monitor(drift=path, log=False))

    @guarded(policy)
    async def predict(age: int, income: float, city: str) -> float:
        return 0.5

    @guarded(policy)
    def stream(age: int, income: float, city: str) -> Iterator[float]:
        yield from (0.5, 0.5)

    @guarded(policy)
    async def streamed(age: int, income: float, city: str) -> AsyncIterator[float]:
        yield 0.5

    await predict(30, 1e4, "Kiel")
    list(stream(30, 1e4, "Kiel"))
    async for _ in streamed(30, 1e4, "Kiel"):
        pass
    assert [seen(function) for function in (predict, stream, streamed)] == [(1, 1), (1, 0), (1, 0)]


def test_counts_survive_a_reload(path, tmp_path, monkeypatch) -> None:
    """A policy that changes elsewhere keeps what was counted; another profile starts anew."""
    file = tmp_path / "mlguard.toml"
    text = f'[policies.watched]\nmonitor = {{ log = false, slow_call = 1, drift = "{path}" }}\n'
    file.write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mlguard.wrapper._wrappers", weakref.WeakSet())  # functions of other tests are no matter here
    policies.reset()
    try:

        @guarded("watched")
        def predict(age: int, income: float, *, city: str) -> float:
            return 0.5

        predict(30, 1e4, city="Kiel")
        predict(age=30, income=1e4, city="Kiel")
        assert seen(predict) == (2, 2)
        file.write_text(text.replace("slow_call = 1", "slow_call = 2"))
        policies.reload()
        predict(30, 1e4, city="Kiel")
        assert seen(predict) == (3, 3)
        file.write_text(text.replace(f'"{path}"', f'{{ profile = "{path}", persistence = 3 }}'))
        policies.reload()
        predict(30, 1e4, city="Kiel")
        assert seen(predict) == (1, 1)
    finally:
        policies.reset()


def test_a_pickled_function_is_watched_elsewhere(path) -> None:
    """cloudpickle takes the profile along; the file need not be there."""

    @guarded(monitor=Monitor(drift=path, log=False))
    def predict(age: int, income: float, city: str) -> float:
        return 0.5

    predict(30, 1e4, "Kiel")
    again = cloudpickle.loads(cloudpickle.dumps(predict))
    again(30, 1e4, "Kiel")
    assert seen(again) == (1, 1)


def test_trouble_of_the_detector_is_counted_not_raised(path, monkeypatch) -> None:
    """Whatever goes wrong while counting, the prediction stands."""
    from mlguard.drift.detector import Detector

    @guarded(monitor=Monitor(drift=path, log=False))
    def predict(age: int, income: float, city: str) -> float:
        return 0.5

    monkeypatch.setattr(Detector, "_end_windows", lambda self: 1 / 0)
    for _ in range(101):
        assert predict(30, 1e4, "Kiel") == 0.5
    stats = predict.guard.stats()["monitor"]
    assert stats["last_instrumentation_error"] == "drift: ZeroDivisionError"
    assert stats["instrumentation_errors"] >= 1


def test_policy_files_can_ask_for_it(path, tmp_path, monkeypatch) -> None:
    """A path or a table of settings in a policy file; a wrong setting is refused with its place."""
    (tmp_path / "mlguard.toml").write_text(
        f'[policies.short]\nmonitor = {{ log = false, drift = "{path}" }}\n'
        f'[policies.long.monitor]\nlog = false\ndrift = {{ profile = "{path}", persistence = 3 }}\n'
    )
    monkeypatch.chdir(tmp_path)
    policies.reset()
    try:
        for name in ("short", "long"):

            @guarded(name)
            def predict(age: int, income: float, city: str) -> float:
                return 0.5

            predict(30, 1e4, "Kiel")
            assert seen(predict) == (1, 1)
            assert isinstance(predict.guard.policy.monitor.drift, Drift)
    finally:
        policies.reset()
    with pytest.raises(PolicyError, match=r"Monitor\.drift"):
        Monitor(drift=3)  # type: ignore[arg-type]
    with pytest.raises(PolicyError, match=r"profile.*is required"):
        Monitor(drift={})  # type: ignore[arg-type]


class Patient(BaseModel):
    age: int
    features: Annotated[npt.NDArray[np.float64], Array("batch", 3)]


class Same(BaseModel):
    age: int
    features: Annotated[npt.NDArray[np.float64], Array("batch", 3)]


class Other(BaseModel):
    age: float
    features: Annotated[npt.NDArray[np.float64], Array("batch", 4)]
    extra: str


Same.__name__ = Other.__name__ = "Patient"


def test_another_schema_is_refused(random, tmp_path) -> None:
    """A profile belongs to its schema: one that changed is refused at decoration, with each difference."""
    made = profile({"features": random.normal(size=(1_000, 3)), "age": random.integers(0, 9, 1_000)}, schema=Patient)
    path = str(tmp_path / "p.json")
    made.save(path)
    monitor = Monitor(drift=path, log=False)

    @guarded(monitor=monitor)
    def predict(patient: Patient, threshold: float = 0.5) -> float:
        return 0.5

    predict(Patient(age=3, features=np.zeros((2, 3))))
    assert sum(drift(predict)["counts"]["fields"]["features[0]"]) == 2
    guarded(monitor=monitor)(_taking(Same))
    with pytest.raises(PolicyError) as caught:
        guarded(monitor=monitor)(_taking(Other))
    said = str(caught.value)
    assert "'extra' is new" in said
    assert "'age' was {" in said
    assert "'features' was {" in said
    with pytest.raises(PolicyError, match="which no argument has"):
        guarded(monitor=monitor)(_taking(int))


def _taking(cls: Any) -> Any:
    def predict(patient: cls) -> float:  # type: ignore[valid-type]
        return 0.5

    predict.__annotations__["patient"] = cls
    return predict


def test_another_signature_is_refused(random, tmp_path) -> None:
    """A profile made with a function is refused by one whose arguments are others."""

    @guarded
    def trained(age: int, frame: Any, other) -> float:  # type: ignore[no-untyped-def]
        return 0.5

    path = str(tmp_path / "p.json")
    profile({"age": random.integers(0, 9, 1_000)}, schema=trained).save(path)
    monitor = Monitor(drift=path, log=False)

    @guarded(monitor=monitor)
    def same(age: int, frame: Any, other) -> float:  # type: ignore[no-untyped-def]
        return 0.5

    with pytest.raises(PolicyError, match="'frame' is gone"):

        @guarded(monitor=monitor)
        def changed(age: int) -> float:
            return 0.5


def test_a_profile_of_another_function_is_refused(path) -> None:
    """Fields that no argument can be are refused with the nearest name, unless they are excluded."""
    with pytest.raises(PolicyError, match=r"'income', which no argument is or holds.*There are: age, city"):

        @guarded(monitor=Monitor(drift=path))
        def predict(age: int, city: str | None) -> float:
            return 0.5

    @guarded(monitor=Monitor(drift=Drift(profile=path, exclude=("income",)), log=False))
    def without(age: int, city: str | None) -> float:
        return 0.5

    without(30, "Kiel")
    assert "income" not in drift(without)["counts"]["fields"]
    assert "income (excluded)" in without.guard.explain()


def test_hidden_arguments_are_not_watched(path, lines) -> None:
    """What the function's schema hides is neither counted nor named, whatever the profile has."""

    @guarded(monitor=Monitor(drift=path))
    def predict(age: int, income: float, city: Annotated[str, Redacted]) -> Annotated[float, Redacted]:
        return 99.0

    predict(30, 1e4, "Atlantis")
    assert set(drift(predict)["counts"]["fields"]) == {"age", "income"}
    assert "mlguard.anomalies" not in lines.all[-1]

    class Person(BaseModel):
        age: int
        income: float
        city: Annotated[str, Redacted]

    @guarded(monitor=Monitor(drift=path))
    def judge(person: Person) -> float:
        return 0.5

    for _ in range(300):
        judge(Person(age=30, income=1e4, city="Atlantis"))
    assert set(drift(judge)["counts"]["fields"]) == {"age", "income", "output"}
    assert "city (the schema hides it)" in judge.guard.explain()


def test_a_profile_that_cannot_be_read(tmp_path) -> None:
    """An absent file is refused at decoration, with the command that makes one."""
    with pytest.raises(PolicyError, match=r"monitor\.drift\.profile: .* does not exist.*mlguard drift profile"):

        @guarded(monitor=Monitor(drift=str(tmp_path / "nope.json")))
        def predict(age: int) -> float:
            return 0.5


def test_alarms_are_kept_in_the_record(path, tmp_path, lines) -> None:
    """Where calls are recorded, so are the alarms of drift: a report shows them, and no search of calls does."""
    kept = Record(path=str(tmp_path / "calls"))

    @guarded(monitor=Monitor(log=False, drift=path, record=kept))
    def predict(age: int, income: float, city: str) -> float:
        return 0.5

    for _ in range(400):
        predict(18, 1e9, "Kiel")
    assert recorder_for(kept).flush()
    found = [json.loads(line) for file in (tmp_path / "calls").iterdir() for line in file.read_text().splitlines()]
    onsets = [event for event in found if event["event"] == "mlguard.drift"]
    assert {event["mlguard.drift.field"] for event in onsets} >= {"age", "income"}
    assert [event["mlguard.drift.field"] for event in lines.all] == [event["mlguard.drift.field"] for event in onsets]
    with open_calls(tmp_path / "calls") as calls:
        assert list(calls.sql("SELECT count(*) FROM calls").rows) == [(400,)]
