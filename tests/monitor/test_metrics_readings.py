"""Reading the metrics: every figure is the true one, and what is counted once stays counted."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import weakref
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import pytest
from pydantic import BaseModel, ConfigDict

from mlguard import (
    Breaker,
    Cache,
    Concurrency,
    InvalidInputError,
    Memory,
    Monitor,
    Policy,
    PolicyError,
    Redacted,
    Retry,
    Timeout,
    guarded,
    policies,
)
from mlguard.drift import profile
from mlguard.monitor import metrics, readings
from mlguard.monitor.metrics import METRICS, Histogram
from mlguard.monitor.readings import MOST_GUARDS, MOST_SERIES, OTHER, Readings

QUIET = Monitor(log=False)


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Functions of other tests are no matter here, and totals start at 0."""
    monkeypatch.setattr("mlguard.wrapper._wrappers", weakref.WeakSet())
    for source in readings.of_this_process._sources:
        readings.forget(source)
    readings.of_this_process.after_fork()


def read(of: Readings = readings.of_this_process) -> dict[str, dict[tuple[str, ...], Any]]:
    """By name of the metric, by labels without the guard."""
    found: dict[str, dict[tuple[str, ...], Any]] = {}
    for metric, labels, value in of.read():
        series = found.setdefault(metric.name, {})
        assert labels not in series, "one series, one reading"
        series[labels] = value
    return found


def calls(name: str, disposition: str = "executed") -> float:
    return read()[metrics.CALLS.name].get((name, disposition), 0.0)


def name_of(function: Callable[..., Any]) -> str:
    return f"{function.__module__}.{function.__qualname__}"


class TestTruth:
    def test_every_room_says_what_it_counted(self) -> None:
        """The metrics of a call path agree with what the calls met, and with stats()."""

        @guarded(
            monitor=Monitor(log=False, slow_call="1h"),
            retry=Retry(max_retries=1, initial_delay=0),
            breaker=Breaker(minimum_calls=3, failure_rate_threshold=0.5),
            cache=Cache(ttl="1h"),
            concurrency=Concurrency(max_concurrent=2),
            timeout=Timeout(total="1m"),
            memory=Memory(need=0),
            fallback=-1,
        )
        def f(x: int) -> int:
            if x < 0:
                raise ConnectionError
            return x

        assert f(1) == f(1) == 1
        assert f(-1) == -1  # two attempts in vain, which open the circuit
        assert f(-2) == -1
        with pytest.raises(InvalidInputError):
            f("x")  # type: ignore[arg-type]
        found, name = read(), name_of(f)
        stats = f.guard.stats()

        def of(metric: metrics.Metric, *labels: str) -> Any:
            return found[metric.name][(name, *labels)]

        assert of(metrics.CALLS, "executed") == 1
        assert of(metrics.CALLS, "cache_hit") == 1
        assert of(metrics.CALLS, "fallback") == 2
        assert of(metrics.CALLS, "rejected_validation") == 1
        assert of(metrics.CALL_ERRORS, "rejected_validation", "mlguard.errors.InvalidInputError") == 1
        assert sum(of(metrics.CALL_DURATION, "executed").counts) == 1
        assert of(metrics.CALL_DURATION, "executed").total == pytest.approx(
            stats["monitor"]["duration"]["executed"]["total"], abs=1e-6
        )
        assert of(metrics.VALIDATION_FAILURES, "input", "x", "int_parsing") == 1
        assert of(metrics.ATTEMPTS) == stats["retry"]["calls"] + stats["retry"]["retries"]
        assert of(metrics.RETRIES) == stats["retry"]["retries"] > 0
        assert of(metrics.RETRIES_STOPPED, "max_retries") == stats["retry"]["gave_up"]["max_retries"]
        assert of(metrics.BREAKER_STATE, "open") == 1
        assert of(metrics.BREAKER_STATE, "closed") == of(metrics.BREAKER_STATE, "half_open") == 0
        assert of(metrics.BREAKER_TRANSITIONS, "open") == 1
        assert of(metrics.BREAKER_REJECTIONS) == stats["breaker"]["refused"] > 0
        assert of(metrics.CONCURRENCY_LIMIT) == 2
        assert of(metrics.CONCURRENCY_IN_USE) == of(metrics.CONCURRENCY_WAITING) == 0
        assert of(metrics.CACHE_REQUESTS, "hit") == 1
        assert of(metrics.CACHE_REQUESTS, "miss") == stats["cache"]["misses"]
        assert of(metrics.CACHE_ENTRIES) == 1
        assert 0 < of(metrics.CACHE_BYTES) <= stats["cache"]["bytes"]
        assert of(metrics.FALLBACKS) == 2
        assert of(metrics.TIMEOUTS, "late") == 0
        assert of(metrics.MEMORY_THRESHOLD) == 0.85
        assert of(metrics.MEMORY_REJECTIONS, "raise") == 0
        assert of(metrics.WAITED, "retry") == of(metrics.WAITED, "memory") == of(metrics.WAITED, "concurrency") == 0
        assert of(metrics.SLOW_CALLS) == 0
        assert 0 < found[metrics.MEMORY_USED.name][()] < found[metrics.MEMORY_LIMIT.name][()]
        assert len(found[metrics.BUILD_INFO.name]) == 1

    def test_the_policy_and_the_model_are_told(self) -> None:
        """Which of them is in force is a label, so that a rollout shows."""

        @guarded(Policy(name="fast", monitor=QUIET), model_version="2026-11")
        def f() -> None: ...

        f()
        ((labels, value),) = read()[metrics.GUARD_INFO.name].items()
        assert labels == (name_of(f), "fast", f.guard.policy.fingerprint, "2026-11")
        assert value == 1

    def test_series_are_there_before_anything_happens(self) -> None:
        """A rate sees the first failure only of a series that was at 0 before."""

        @guarded(monitor=QUIET, breaker=Breaker(), cache=Cache(ttl=1), retry=Retry())
        def f() -> None: ...

        f.guard.explain()
        found, name = read(), name_of(f)
        dispositions = {labels[1] for labels in found[metrics.CALLS.name]}
        assert {"executed", "failed", "fallback", "rejected_memory", "cancelled"} <= dispositions
        assert found[metrics.BREAKER_TRANSITIONS.name][name, "open"] == 0
        assert found[metrics.CACHE_REQUESTS.name][name, "hit"] == 0
        assert found[metrics.RETRIES_STOPPED.name][name, "budget"] == 0

    def test_drift(self, tmp_path) -> None:
        """Bins count the calls, the reference is that of the profile, a field that drifts is told by name."""
        random = np.random.default_rng(4)
        reference = profile({"x": random.normal(size=2_000)})
        reference.save(tmp_path / "profile.json")

        @guarded(monitor=Monitor(log=False, drift=str(tmp_path / "profile.json")))
        def f(x: float) -> None: ...

        for value in random.normal(size=300):
            f(float(value))
        found, name = read(), name_of(f)
        bins = found[metrics.FEATURE_BIN.name]
        assert sum(bins.values()) == 300
        shares = found[metrics.REFERENCE_BIN.name]
        assert bins.keys() == shares.keys()
        assert sum(shares.values()) == pytest.approx(1.0)
        assert found[metrics.DRIFT_ACTIVE.name][name, "x"] == 0
        for value in random.normal(size=600):
            f(float(value) + 3)
        found = read()
        assert found[metrics.DRIFT_ACTIVE.name][name, "x"] == 1
        assert found[metrics.DRIFT_SCORE.name][name, "x"] > 1
        assert found[metrics.ANOMALOUS.name][(name,)] == f.guard.stats()["drift"]["anomalous_calls"] > 0
        assert found[metrics.DRIFT_EVALUATED.name][(name,)] > 1.7e9

    def test_a_function_without_a_monitor_has_those_of_its_other_concerns(self) -> None:
        """A breaker can be watched without counting calls."""

        @guarded(breaker=Breaker())
        def f() -> None: ...

        f()
        found = read()
        assert found[metrics.BREAKER_STATE.name][name_of(f), "closed"] == 1
        assert not any(labels[0] == name_of(f) for labels in found.get(metrics.CALLS.name, {}))

    def test_left_out_on_request(self) -> None:
        """Monitor(metrics=False) keeps a function out, with all of its concerns."""

        @guarded(monitor=Monitor(log=False, metrics=False), breaker=Breaker())
        def f() -> None: ...

        f()
        assert not any(name_of(f) in labels for series in read().values() for labels in series)

    def test_the_order_is_that_of_the_registry(self) -> None:
        """A scrape reads like the page."""

        @guarded(monitor=QUIET)
        def f() -> None: ...

        f()
        told = [reading.metric for reading in readings.read()]
        assert told == sorted(told, key=METRICS.index)


class TestNeverGoesDown:
    def test_reset(self) -> None:
        """f.guard.reset() forgets statistics, not metrics."""

        @guarded(monitor=QUIET, cache=Cache(ttl=9), retry=Retry(), breaker=Breaker())
        def f(x: int) -> int:
            return x

        name = name_of(f)
        for _ in range(3):
            f(1)
        f.guard.reset()
        assert f.guard.stats()["monitor"]["calls"] == {}
        assert (calls(name), calls(name, "cache_hit")) == (1, 2)
        f(1)
        f(1)
        assert (calls(name), calls(name, "cache_hit")) == (2, 3)
        assert read()[metrics.CACHE_REQUESTS.name][name, "miss"] == 2
        assert read()[metrics.ATTEMPTS.name][(name,)] == 2

    def test_reload(self, tmp_path, monkeypatch) -> None:
        """A reload replaces what counts; calls in progress end where they began, and are counted."""
        monkeypatch.chdir(tmp_path)
        policies.reset()
        file = tmp_path / "mlguard.toml"
        text = (
            "[policies.p]\nmonitor = {{ log = false }}\nretry = {{ max_retries = {} }}\nbreaker = {{ open_for = {} }}\n"
        )
        file.write_text(text.format(1, 30))
        go, inside = threading.Event(), threading.Event()

        @guarded("p")
        def f(wait: bool) -> None:
            if wait:
                inside.set()
                go.wait(30)

        name = name_of(f)
        f(False)
        thread = threading.Thread(target=f, args=(True,))
        thread.start()
        inside.wait(30)
        file.write_text(text.format(2, 20))
        policies.reload()
        f(False)
        assert (calls(name), read()[metrics.ATTEMPTS.name][(name,)]) == (2, 3)
        go.set()
        thread.join()
        assert (calls(name), read()[metrics.ATTEMPTS.name][(name,)]) == (3, 3)
        gc.collect()
        assert (calls(name), read()[metrics.ATTEMPTS.name][(name,)]) == (3, 3)
        fingerprints = [labels[2] for labels in read()[metrics.GUARD_INFO.name]]
        assert fingerprints == [f.guard.policy.fingerprint]
        policies.reset()

    @pytest.mark.parametrize("cyclic", [False, True])
    def test_functions_that_go(self, cyclic) -> None:
        """What a function counted stays when it is collected, be it by its count or by the collector."""

        def make() -> Callable[..., Any]:
            @guarded(monitor=QUIET, retry=Retry())
            def local(depth: int) -> None:
                if depth and cyclic:
                    local(0)

            local(1)
            return local

        local = make()
        name = name_of(local)
        before = calls(name)
        assert before == (2 if cyclic else 1)
        gone = weakref.ref(local)
        local(0)  # not read before it goes
        del local
        gc.collect()
        assert gone() is None
        assert calls(name) == before + 1
        assert read()[metrics.ATTEMPTS.name][(name,)] == before + 1

    def test_functions_of_one_name(self) -> None:
        """As a module that is loaded again makes them, or a factory: they add up."""

        def make() -> Callable[[], None]:
            @guarded(monitor=QUIET, concurrency=Concurrency(max_concurrent=2))
            def twin() -> None: ...

            return twin

        first, second = make(), make()
        first()
        second()
        second()
        assert calls(name_of(first)) == 3
        assert read()[metrics.CONCURRENCY_LIMIT.name][(name_of(first),)] == 4
        del first
        gc.collect()
        assert calls(name_of(second)) == 3
        second()
        assert calls(name_of(second)) == 4

    def test_values_that_a_pool_lets_go(self, monkeypatch) -> None:
        """What the breakers of forgotten keys counted stays; keys are no labels."""
        monkeypatch.setattr("mlguard.keyed.MOST", 2)

        @guarded(breaker=Breaker(per="host", minimum_calls=1), retry=Retry(per="host", max_retries=0))
        def f(host: str) -> None:
            raise ConnectionError

        for number in range(5):
            with pytest.raises(ConnectionError):
                f(f"host-{number}")
        found, name = read(), name_of(f)
        assert found[metrics.BREAKER_TRANSITIONS.name][name, "open"] == 5
        assert found[metrics.BREAKER_STATE.name][name, "open"] == 2
        assert found[metrics.ATTEMPTS.name][(name,)] == 5
        assert "host-" not in str(found)
        f.guard.reset()
        assert read()[metrics.BREAKER_TRANSITIONS.name][name, "open"] == 5

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
    def test_a_child_counts_its_own(self, tmp_path) -> None:
        """A worker that is forked after warming up does not count its parent's calls once more."""
        random = np.random.default_rng(4)
        profile({"x": random.normal(size=1_000)}).save(tmp_path / "profile.json")

        @guarded(monitor=Monitor(log=False, drift=str(tmp_path / "profile.json")), retry=Retry(), cache=Cache(ttl=9))
        def f(x: float) -> None: ...

        name = name_of(f)
        for value in range(5):
            f(float(value))
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            try:
                f(1.0)
                f(77.0)
                found = read()
                bins = sum(found[metrics.FEATURE_BIN.name].values())
                said = calls(name), found[metrics.ATTEMPTS.name][(name,)], bins, calls(name, "cache_hit")
                os.write(writing, repr(said).encode())
            finally:
                os._exit(0)
        os.close(writing)
        os.waitpid(child, 0)
        with os.fdopen(reading) as said:
            assert said.read() == repr((1.0, 1.0, 1.0, 1.0))
        assert calls(name) == 5

    def test_threads(self) -> None:
        """Readings while calls run, are reset and reloaded never fall, and at the end have every call."""

        @guarded(monitor=QUIET, retry=Retry(), cache=Cache(ttl=9, max_entries=8))
        def f(x: int) -> int:
            return x

        name, seen, stop = name_of(f), list[float](), threading.Event()

        def watch() -> None:
            while not stop.is_set():
                found = read()
                hits = found[metrics.CACHE_REQUESTS.name].get((name, "hit"), 0.0)
                seen.append(calls(name) + calls(name, "cache_hit"))
                assert hits >= 0

        watcher = threading.Thread(target=watch)
        watcher.start()
        workers = [threading.Thread(target=lambda: [f(x % 20) for x in range(2_000)]) for _ in range(3)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        stop.set()
        watcher.join()
        assert seen == sorted(seen)
        assert calls(name) + calls(name, "cache_hit") + calls(name, "coalesced") == 6_000

    async def test_async_calls_and_cancellations(self) -> None:
        """What is cancelled is counted as that."""

        @guarded(monitor=QUIET)
        async def f() -> None:
            await asyncio.sleep(30)

        task = asyncio.create_task(f())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert calls(name_of(f), "cancelled") == 1


class Says:
    """Something that says figures."""

    def __init__(self, *figures: metrics.Figure) -> None:
        self.figures = list(figures)

    def metrics(self) -> list[metrics.Figure]:
        return self.figures


class TestSources:
    def test_a_source_is_read_once_and_adds_up(self) -> None:
        """Figures of one metric and labels add up; telling of a source twice changes nothing."""
        own = Readings()
        source = Says((metrics.EVENTS_DROPPED, ("x",), 2.0), (metrics.EVENTS_DROPPED, ("x",), 1.0))
        own.also(source)
        own.also(source)
        assert read(own)[metrics.EVENTS_DROPPED.name] == {("x",): 3.0}

    def test_a_smaller_count_adds_nothing(self) -> None:
        """A count that is seen in the midst of a change takes nothing back, and nothing is counted twice."""
        own, source = Readings(), Says()
        own.also(source)
        for value in (5.0, 3.0, 6.0):
            source.figures = [(metrics.EVENTS_DROPPED, ("x",), value)]
            (seen,) = read(own)[metrics.EVENTS_DROPPED.name].values()
        assert seen == 6.0

    @pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf"), -1.0])
    def test_no_poison(self, bad) -> None:
        """NaN and infinities would spoil a series for ever."""
        own, source = Readings(), Says()
        own.also(source)
        for value in (2.0, bad, 3.0):
            source.figures = [
                (metrics.EVENTS_DROPPED, ("x",), value),
                (metrics.CALL_DURATION, ("executed",), Histogram((1,) * 17, value)),
                (metrics.MEMORY_RESERVED, (), value),
            ]
            found = read(own)
        assert found[metrics.EVENTS_DROPPED.name] == {("x",): 3.0}
        ((_, held),) = found[metrics.CALL_DURATION.name].items()
        assert held == Histogram((1,) * 17, 3.0)

    def test_one_that_fails_is_counted(self) -> None:
        """Trouble in a room's figures costs these, and is seen."""

        class Broken:
            def metrics(self) -> list[metrics.Figure]:
                raise RuntimeError

        own = Readings()
        own.also(Broken())
        read(own)
        assert read(own)[metrics.INSTRUMENTATION_ERRORS.name] == {(OTHER,): 2.0}

    def test_what_the_process_has_once_is_not_added_up(self) -> None:
        """Two guards that say the same of the process say it once."""
        own = Readings()
        own.also(Says((metrics.MEMORY_RESERVED, (), 5.0)))
        own.also(Says((metrics.MEMORY_RESERVED, (), 5.0)))
        assert read(own)[metrics.MEMORY_RESERVED.name] == {(): 5.0}


class TestBounds:
    def test_functions_made_at_run_time(self) -> None:
        """Names without end don't fill this process or a metrics server."""
        for number in range(MOST_GUARDS + 20):

            def f() -> None: ...

            f.__qualname__ = f"made_{number}"
            guarded(monitor=QUIET)(f)()
            del f
        gc.collect()
        found = read()[metrics.CALLS.name]
        assert len({labels[0] for labels in found}) <= MOST_GUARDS + 1
        assert sum(value for labels, value in found.items() if labels[1] == "executed") == MOST_GUARDS + 20
        assert found[OTHER, "executed"] >= 20

    def test_labels_of_one_guard(self) -> None:
        """Beyond two hundred series of one metric, the rest is one."""
        own = Readings()
        own.also(
            Says(*((metrics.CALL_ERRORS, ("failed", f"Error{number}"), 1.0) for number in range(MOST_SERIES + 50)))
        )
        found = read(own)[metrics.CALL_ERRORS.name]
        assert len(found) == MOST_SERIES + 1
        assert found[OTHER, OTHER, OTHER] == 50

    def test_error_classes_made_at_run_time(self) -> None:
        """Fifty classes are told apart."""

        @guarded(monitor=QUIET)
        def f(number: int) -> None:
            raise type(f"Error{number}", (Exception,), {})

        for number in range(80):
            with pytest.raises(Exception, match=r"^$"):
                f(number)
        found = read()[metrics.CALL_ERRORS.name]
        assert len(found) == 51
        assert found[name_of(f), "failed", "other"] == 30

    def test_keys_of_the_callers(self) -> None:
        """Only names that the schema declares are labels: neither keys nor values of a caller's."""

        class Model(BaseModel):
            model_config = ConfigDict(extra="forbid")
            age: Annotated[int, Redacted]

        @guarded(monitor=QUIET)
        def f(model: Model, more: dict[str, int]) -> None: ...

        for number in range(150):
            with pytest.raises(InvalidInputError):
                f({"age": "x", f"secret-{number}": 1}, {f"secret-{number}": "y"})  # type: ignore[arg-type]
        found = read()[metrics.VALIDATION_FAILURES.name]
        name = name_of(f)
        assert found[name, "input", "model.age", "int_parsing"] == 150
        assert found[name, "input", "model.*", "extra_forbidden"] == 150
        assert "secret" not in str(found)

    def test_wide_profiles(self, tmp_path) -> None:
        """Two hundred series of bins at most, predictions first; fields beyond still drift, as one."""
        random = np.random.default_rng(4)
        data = {f"x{number}": random.normal(size=1_000) for number in range(40)}
        profile(data, random.random(1_000)).save(tmp_path / "profile.json")
        names = ", ".join(f"x{number}: float" for number in range(40))
        space: dict[str, Any] = {}
        exec(f"def f({names}) -> float:\n    return 0.5", space)
        f = guarded(monitor=Monitor(log=False, drift=str(tmp_path / "profile.json")))(space["f"])
        for row in random.normal(size=(200, 40)) + 5:
            f(*map(float, row))
        found = read()
        assert 150 < len(found[metrics.FEATURE_BIN.name]) <= MOST_SERIES
        fields = {labels[1] for labels in found[metrics.FEATURE_BIN.name]}
        assert "output" in fields
        assert found[metrics.DRIFT_ACTIVE.name][name_of(f), OTHER] == 1


def test_a_scope_is_counted_once() -> None:
    """What two functions share is counted under the name that they gave it."""
    shared = Breaker(minimum_calls=1, scope="payments")

    @guarded(breaker=shared)
    def first() -> None:
        raise ConnectionError

    @guarded(breaker=shared)
    def second() -> None: ...

    second()
    with pytest.raises(ConnectionError):
        first()
    found = read()[metrics.BREAKER_TRANSITIONS.name]
    assert found["scope:payments", "open"] == 1
    assert {labels[0] for labels in found} == {"scope:payments"}
    assert read()[metrics.BREAKER_STATE.name]["scope:payments", "open"] == 1
    first.guard.reset()
    assert read()[metrics.BREAKER_TRANSITIONS.name]["scope:payments", "open"] == 1


def test_caches_that_share_a_store_are_counted_apart() -> None:
    """Of a cache it is only the bounds that a scope shares."""
    section = Cache(ttl=9, scope="bounds")

    @guarded(cache=section)
    def first(x: int) -> int:
        return x

    @guarded(cache=section)
    def second(x: int) -> int:
        return x

    first(1)
    second(1)
    second(1)
    found = read()[metrics.CACHE_REQUESTS.name]
    assert found[name_of(first), "miss"] == found[name_of(second), "miss"] == found[name_of(second), "hit"] == 1
    entries = read()[metrics.CACHE_ENTRIES.name]
    assert entries == {(name_of(first),): 1, (name_of(second),): 1}


def test_a_policy_that_can_not_be_honoured_is_no_matter() -> None:
    """A function that is not bound yet has no series, and reading does not bind it."""
    policies.reset()

    @guarded("nowhere_to_be_found")
    def f() -> None: ...

    assert not any(name_of(f) in labels for series in read().values() for labels in series)
    with pytest.raises(PolicyError):
        f()
