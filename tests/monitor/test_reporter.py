"""One event a call: what it says, at which level, how often, and that it never stands in a call's way."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import pickle
import socket
import subprocess
import sys
import threading
import weakref
from typing import Annotated, Any

import cloudpickle
import pytest
import structlog
from pydantic import Field

from mlguard import clock, guarded
from mlguard.context import Call, note
from mlguard.errors import (
    CircuitOpenError,
    ConcurrencyLimitError,
    InvalidInputError,
    InvalidOutputError,
    MemoryPressureError,
    PolicyError,
)
from mlguard.monitor import Monitor, Reporter
from mlguard.monitor.failures import mark, recorded
from mlguard.outcome import Disposition
from mlguard.target import Target


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.time = 100.0
        monkeypatch.setattr(clock, "now", lambda: self.time)


def add(x: float, y: float) -> float:
    return x + y


def fail(x: float) -> float:
    raise ConnectionError("no route to the model")


def test_a_successful_call_is_one_event(watch, lines) -> None:
    """A call writes one info record with its function, policy, outcome and figures."""
    about = {"policy_name": "realtime", "fingerprint": "abc", "model_version": "v1"}
    assert watch(add, about=about)(1.5, 2.0) == 3.5
    (event,) = lines.events
    assert event.pop("timestamp")
    assert event.pop("mlguard.duration") >= 0
    assert event.pop("mlguard.call_id")
    assert event.pop("mlguard.function_duration") >= 0
    assert (event.pop("process.pid"), event.pop("host.name")) == (os.getpid(), socket.gethostname())
    assert event == {
        "event": "mlguard.call",
        "level": "info",
        "event.outcome": "success",
        "code.function.name": f"{__name__}.add",
        "mlguard.schema_version": 1,
        "mlguard.policy": "realtime",
        "mlguard.policy.fingerprint": "abc",
        "mlguard.model_version": "v1",
        "mlguard.disposition": "executed",
        "mlguard.attempts": 1,
        "mlguard.sample_rate": 1.0,
        "mlguard.input.x": 1.5,
        "mlguard.input.y": 2.0,
        "mlguard.output": 3.5,
    }


def test_one_calls_fields_never_reach_the_next_event(watch, lines) -> None:
    """What a call met, noted or broke stands in its own record only."""

    def predict(eventful: bool) -> None:
        from mlguard.context import current

        call = current.get()
        assert call is not None
        if eventful:
            note(tokens=412)
            call.tell(mlguard__cache="miss")
            call.waited, call.late, call.degraded = 0.25, True, True
            call.violations = [{"type": "t", "loc": ("x",), "msg": "m"}]

    guarded = watch(predict)
    for eventful in (False, True, False):
        guarded(eventful)
    before, eventful_one, after = lines.events
    assert set(eventful_one) > set(before)
    assert list(after) == list(before)
    assert after["mlguard.call_id"] != before["mlguard.call_id"]


def test_an_exception_is_recorded_and_raised_as_it_is(watch, lines) -> None:
    """A failed call writes one error record with message, input and traceback; the caller gets the same exception."""
    guarded = watch(fail)
    with pytest.raises(ConnectionError) as caught:
        guarded(2.0)
    event = lines.last
    assert (event["event"], event["level"], event["event.outcome"]) == ("mlguard.call.exception", "error", "failure")
    assert event["error.type"] == "ConnectionError"
    assert event["exception.message"] == "no route to the model"
    assert event["mlguard.disposition"] == "failed"
    assert event["mlguard.input.x"] == 2.0
    assert "mlguard.output" not in event
    assert "in fail" in event["exception"]
    assert event["exception"].endswith("ConnectionError: no route to the model")
    assert str(caught.value) == "no route to the model"
    assert guarded.stats()["failures"] == {"ConnectionError": 1}


def test_an_exception_whose_attributes_raise(watch, lines) -> None:
    """An exception that can't be asked for a status still reaches the caller and the log."""

    class Odd(Exception):
        @property
        def response(self) -> Any:
            raise RuntimeError("no response was set")

    def predict() -> None:
        raise Odd("odd")

    guarded = watch(predict)
    with pytest.raises(Odd):
        guarded()
    assert lines.last["mlguard.disposition"] == "failed"
    assert lines.last["exception.message"] == "odd"
    assert guarded.stats()["instrumentation_errors"] == 0


def test_what_the_call_met_is_told(watch, lines) -> None:
    """Waits, lateness, fallbacks, facts of other concerns and the model's version stand in the same record."""

    def met(x: float) -> float:
        from mlguard.context import current

        call = current.get()
        assert call is not None
        call.waited, call.late, call.degraded = 0.25, True, True
        call.tell(mlguard__cache="miss", mlguard__retry__waits=[0.1, float("nan")])
        return x

    about = {"watch": (lambda: {"mlguard.breaker.state": "closed"},), "model_version": lambda: "v2"}
    watch(met, about=about)(1.0)
    event = lines.last
    assert event["mlguard.waited"] == 0.25
    assert event["mlguard.late"] is True
    assert event["mlguard.degraded"] is True
    assert event["mlguard.cache"] == "miss"
    assert event["mlguard.retry.waits"] == [0.1, "nan"]
    assert event["mlguard.breaker.state"] == "closed"
    assert event["mlguard.model_version"] == "v2"


def test_a_fact_replaces_nothing(watch, lines) -> None:
    """What a concern tells stands beside the event's own fields: the exception a call ended with is the one named."""

    def met() -> None:
        from mlguard.context import current

        current.get().tell(error__type="Earlier", mlguard__disposition="x")  # type: ignore[union-attr]
        raise LookupError("later")

    with pytest.raises(LookupError):
        watch(met)()
    assert lines.last["error.type"] == "LookupError"
    assert lines.last["mlguard.disposition"] == "failed"


def test_a_watch_that_raises_is_counted(watch, lines) -> None:
    """Facts that can't be had leave the rest of the record as it is."""

    def broken() -> dict[str, Any]:
        raise OSError("probe is gone")

    guarded = watch(add, about={"watch": (broken,)})
    assert guarded(1.0, 2.0) == 3.0
    assert lines.last["mlguard.output"] == 3.0
    assert guarded.stats()["instrumentation_errors"] == 1
    assert guarded.stats()["last_instrumentation_error"] == "watch: OSError"


@pytest.mark.parametrize(
    ("error", "disposition"),
    [
        (CircuitOpenError("open", retry_after=1.0), "rejected_breaker"),
        (ConcurrencyLimitError("full"), "rejected_concurrency"),
        (MemoryPressureError("tight", used=9, limit=10, need=2, source="host"), "rejected_memory"),
    ],
)
def test_an_overload_does_not_flood_the_log(watch, lines, monkeypatch, error, disposition) -> None:
    """Rejections of one kind write at most one warning a second; the next one says how many were left out."""
    time = Clock(monkeypatch)

    def refuse() -> None:
        raise error

    guarded = watch(lambda: None, names={"breaker_enter": refuse, "breaker_failed": lambda permit, error: None})
    for _ in range(5):
        with pytest.raises(type(error)):
            guarded()
    assert len(lines.events) == 1
    assert guarded.stats()["suppressed"] == 4
    time.time += 1.5
    with pytest.raises(type(error)):
        guarded()
    first, second = lines.events
    assert (first["level"], first["event"], first["mlguard.disposition"]) == ("warning", "mlguard.call", disposition)
    assert "mlguard.suppressed" not in first
    assert "exception" not in first
    assert second["mlguard.suppressed"] == 4
    assert guarded.stats()["suppressed"] == 4
    assert guarded.stats()["calls"] == {disposition: 6}


def test_refused_input_is_a_warning_without_the_input(lines) -> None:
    """A validation rejection names field and problem; no value, no key of the caller's own, no summary."""
    secret = "tell-nobody"

    @guarded(monitor=Monitor())
    def predict(patient: dict[str, list[int]]) -> int:
        raise AssertionError

    with pytest.raises(InvalidInputError):
        predict({secret: [secret] * 25})  # type: ignore[list-item]
    event = lines.last
    assert (event["level"], event["mlguard.disposition"]) == ("warning", "rejected_validation")
    assert event["mlguard.violations"][0] == {
        "loc": "patient.*.0",
        "type": "int_parsing",
        "msg": "must be a valid integer, unable to parse string as an integer, got str",
    }
    assert len(event["mlguard.violations"]) == 20
    assert event["mlguard.violation_count"] == 25
    assert event["exception.message"].endswith("and 18 more")
    assert secret not in lines.text
    assert not [key for key in event if key.startswith("mlguard.input")]


def test_a_broken_output_is_an_error(watch, lines) -> None:
    """A result that breaks its schema is the function's failure, told with its violations."""

    def predict(x: float) -> float:
        raise InvalidOutputError.of("predict()", [{"type": "less_than_equal", "loc": (), "msg": "should be at most 1"}])

    with pytest.raises(InvalidOutputError):
        watch(predict)(1.0)
    assert lines.last["level"] == "error"
    assert lines.last["mlguard.violations"][0]["msg"] == "should be at most 1"
    assert lines.last["exception.message"] == "value: should be at most 1"


def test_report_mode_is_told_and_always_kept(watch, lines) -> None:
    """What report mode lets pass is a warning, whatever the sampling."""

    def predict(x: float) -> float:
        from mlguard.context import current

        current.get().violations = [{"type": "t", "loc": ("x",), "msg": "m", "input": "hidden"}]  # type: ignore[union-attr]
        return x

    watch(predict, sample_rate=1e-9)(1.0)
    assert lines.last["level"] == "warning"
    assert lines.last["mlguard.violations"] == [{"loc": "x", "type": "t", "msg": "m"}]
    assert lines.last["mlguard.sample_rate"] == 1.0


def test_cancellation_is_no_failure(watch, lines) -> None:
    """A cancelled call says so at info level, and counts as no failure."""

    async def wait() -> None:
        await asyncio.sleep(60)

    guarded = watch(wait)

    async def main() -> None:
        task = asyncio.create_task(guarded())
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    event = lines.last
    assert (event["level"], event["event"], event["event.outcome"]) == ("info", "mlguard.call", "unknown")
    assert event["mlguard.disposition"] == "cancelled"
    assert "exception" not in event
    assert guarded.stats()["failures"] == {}
    assert guarded.stats()["calls"] == {"cancelled": 1}


def test_streams_are_timed_to_the_end(watch, lines) -> None:
    """A generator's record comes at its end, with the items and the time to the first."""

    def count(to: int):
        yield from range(to)

    assert list(watch(count)(3)) == [0, 1, 2]
    assert lines.last["mlguard.items"] == 3
    assert 0 <= lines.last["mlguard.first_item"] <= lines.last["mlguard.duration"]
    assert lines.last["mlguard.input.to"] == 3
    assert "mlguard.output" not in lines.last
    half_read = watch(count)(3)
    next(half_read)
    half_read.close()
    assert lines.last["mlguard.disposition"] == "cancelled"


def test_a_failing_stream_says_how_far_it_came(watch, lines) -> None:
    """Its record has the items made before the failure, and the time to the first."""

    def count() -> Any:
        yield 1
        yield 2
        raise LookupError("no third")

    items = watch(count)()
    with pytest.raises(LookupError):
        list(items)
    assert lines.last["mlguard.items"] == 2
    assert lines.last["mlguard.first_item"] >= 0
    assert lines.last["error.type"] == "LookupError"


def test_where_the_time_went(watch, lines, monkeypatch) -> None:
    """The function's own time is told, all attempts together, without waits, and for a stream without its consumer."""
    time = Clock(monkeypatch)

    def predict(seconds: float) -> float:
        time.time += seconds
        return seconds

    watch(predict)(2.0)
    assert lines.last["mlguard.function_duration"] == 2.0

    def fail() -> None:
        time.time += 3.0
        raise LookupError

    with pytest.raises(LookupError):
        watch(fail)()
    assert lines.last["mlguard.function_duration"] == 3.0

    def count() -> Any:
        time.time += 1.0
        yield 1
        time.time += 4.0
        yield 2

    for _ in watch(count)():
        time.time += 10.0
    assert (lines.last["mlguard.function_duration"], lines.last["mlguard.duration"]) == (5.0, 25.0)


def test_the_time_of_all_attempts(lines) -> None:
    """Attempts add up; the pauses between them are waiting, and the check of the result is neither."""
    from mlguard import testing
    from mlguard.resilience import Retry

    with testing.FakeClock() as time:
        left = [ConnectionError(), ConnectionError()]

        @guarded(monitor=Monitor(), retry=Retry(initial_delay=1.0, jitter=False, backoff_factor=1.0))
        def predict() -> int:
            time.advance(2.0)
            if left:
                raise left.pop()
            return 1

        predict()
    assert lines.last["mlguard.function_duration"] == pytest.approx(6.0)
    assert lines.last["mlguard.waited"] == pytest.approx(2.0)
    assert lines.last["mlguard.duration"] == pytest.approx(8.0)


def test_the_event_goes_to_the_record_as_well(lines, tmp_path) -> None:
    """Log and record get the same event; the prediction goes to the record alone, where it is asked for."""
    from mlguard.record import Record, recorder_for
    from tests.record.calls import stored

    record = Record(path=str(tmp_path / "record"))

    @guarded(monitor=Monitor(record=record, record_outputs=True))
    def predict(x: float) -> list[float]:
        if x < 0:
            raise LookupError("negative")
        return [x, 2 * x]

    predict(1.5)
    with pytest.raises(LookupError):
        predict(-1.0)
    assert recorder_for(record).flush(30)
    for line, kept in zip(lines.events, stored(tmp_path / "record"), strict=True):
        prediction = kept.pop("mlguard.prediction", None)
        assert prediction == ([1.5, 3.0] if kept["event"] == "mlguard.call" else None)
        for noise in ("timestamp", "level"):
            line.pop(noise, None), kept.pop(noise, None)
        assert line == kept
    assert predict.guard.stats()["monitor"]["record"]["written"] == 2


def test_a_record_without_a_log_keeps_what_the_log_would_drop(tmp_path) -> None:
    """The application's level decides what the log gets, not what the record gets."""
    from mlguard.record import Record, recorder_for
    from tests.record.calls import stored

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    record = Record(path=str(tmp_path / "record"))

    @guarded(monitor=Monitor(record=record))
    def predict(x: float) -> float:
        return x

    predict(1.0)
    assert recorder_for(record).flush(30)
    assert len(stored(tmp_path / "record")) == 1


def test_a_record_that_fails_is_counted(lines, monkeypatch) -> None:
    """A recorder that can't be had costs neither the call nor the line."""
    from mlguard.record import recorder

    def refuse(section: Any) -> Any:
        raise OSError("no disk")

    monkeypatch.setattr(recorder, "recorder_for", refuse)

    @guarded(monitor=Monitor(record="calls"))
    def predict(x: float) -> float:
        return x

    assert predict(1.0) == 1.0
    assert lines.last["mlguard.output"] == 1.0
    assert predict.guard.stats()["monitor"]["last_instrumentation_error"] == "record: OSError"


def test_it_explains_where_events_go(tmp_path) -> None:
    """`explain` names every way out that is on."""
    about = Monitor(
        log="background", record=str(tmp_path / "calls"), record_outputs=True, spans=True, slow_call=2, sample_rate=0.5
    )
    said = "\n".join(Reporter(Target(add), about).explain())
    assert "One structlog event for 0.5 of the successful calls and every other one" in said
    assert "The log is written in a thread of its own" in said
    assert f"The same events, with what was predicted, are kept in {tmp_path / 'calls'}." in said
    assert "One OpenTelemetry span for every call" in said
    assert "A call is slow from 2s on." in said
    assert Reporter(Target(add), Monitor(log=False)).explain()[0] == "Calls are counted, not logged."
    assert Reporter(Target(add), Monitor(log=False, record="calls")).explain()[0].startswith("One event for every call")


def test_a_listener_that_raises_is_counted(watch, lines) -> None:
    """Who listens to calls can't fail one; the others still hear of it."""
    from mlguard.monitor.listeners import listen, unlisten

    heard: list[Any] = []

    def broken(ended: Any) -> None:
        raise ValueError

    listen(broken)
    listen(heard.append)
    try:
        guarded = watch(add)
        assert guarded(1.0, 2.0) == 3.0
        with pytest.raises(ConnectionError):
            watch(fail)(1.0)
    finally:
        unlisten(broken)
        unlisten(heard.append)
    assert [(each.guard.rpartition(".")[2], each.disposition) for each in heard] == [
        ("add", "executed"),
        ("fail", "failed"),
    ]
    assert guarded.stats()["last_instrumentation_error"] == "listener: ValueError"


async def test_coroutines_and_async_generators(watch, lines) -> None:
    """All four kinds of function write the same record."""

    async def double(x: int) -> int:
        return 2 * x

    async def count(to: int):
        for number in range(to):
            yield number

    assert await watch(double)(4) == 8
    assert lines.last["mlguard.output"] == 8
    assert [item async for item in watch(count)(2)] == [0, 1]
    assert lines.last["mlguard.items"] == 2


def test_an_exception_is_told_once_across_nested_guards(watch, lines) -> None:
    """The inner record has the message and traceback; the outer says who told of it, and both are tied by their ids."""
    inner = watch(fail)

    def middle(x: float) -> float:
        return inner(x)

    outer = watch(middle)
    outermost = watch(lambda x: outer(x))
    with pytest.raises(ConnectionError):
        outermost(1.0)
    first, second, third = lines.events
    assert first["mlguard.parent_call_id"] == second["mlguard.call_id"]
    assert first["exception.message"] == "no route to the model"
    for quiet in (second, third):
        assert quiet["error.type"] == "ConnectionError"
        assert quiet["mlguard.recorded_by"] == first["mlguard.call_id"]
        assert "exception" not in quiet
        assert "exception.message" not in quiet
    assert [("no route" in line) for line in lines.text.splitlines()] == [True, False, False]


def test_an_outer_guard_tells_what_the_inner_could_not(watch, lines) -> None:
    """Where the inner guard writes no line, the exception's message is in the outer record."""
    inner = watch(fail, log=False)
    with pytest.raises(ConnectionError):
        watch(lambda x: inner(x))(1.0)
    (event,) = lines.events
    assert event["exception.message"] == "no route to the model"


def test_an_exception_raised_again_in_a_later_call_is_told_again(watch, lines, monkeypatch) -> None:
    """A mark from an earlier call silences nothing, not even while the clock stands still."""
    Clock(monkeypatch)
    only = ValueError("always the same object")

    def predict() -> None:
        raise only

    guarded = watch(predict)
    for _ in range(2):
        with pytest.raises(ValueError, match="always"):
            guarded()
    assert [event["exception.message"] for event in lines.events] == ["always the same object"] * 2


def test_an_exception_from_a_thread_is_told_once() -> None:
    """An inner call that ran in a thread without the context is known by the time of its record."""
    this, error = Call(), ValueError("x")
    assert recorded(error, this) is None
    mark(error, Call(), "inner", clock.now() + 1)
    assert recorded(error, this) == "inner"

    class Sealed(Exception):
        __slots__ = ()

        def __setattr__(self, name: str, value: Any) -> None:
            raise AttributeError(name)

    mark(Sealed(), this, "inner", 0.0)


def test_a_mark_survives_a_process_boundary() -> None:
    """An exception that comes back from a worker process still says which record has its message."""
    this, error = Call(), ValueError("x")
    mark(error, Call(), "inner", clock.now() + 1)
    assert recorded(pickle.loads(pickle.dumps(error)), this) == "inner"


def test_sampling_keeps_its_share_and_says_so(watch, lines) -> None:
    """About a tenth of the successful calls is written at 0.1, each record with the rate; the counts stay complete."""
    guarded = watch(add, sample_rate=0.1, summaries=False)
    for _ in range(4_000):
        guarded(1.0, 2.0)
    assert 280 < len(lines.events) < 520  # six standard deviations
    assert {event["mlguard.sample_rate"] for event in lines.events} == {0.1}
    assert guarded.stats()["calls"] == {"executed": 4_000}


def test_failures_slow_and_degraded_calls_are_always_kept(watch, lines, monkeypatch) -> None:
    """Sampling thins out the ordinary calls only, and a record that was kept for sure has rate 1."""
    time = Clock(monkeypatch)

    def slow() -> None:
        time.time += 2.0

    guarded = watch(slow, sample_rate=1e-9, slow_call="1s")
    guarded()
    assert lines.last["mlguard.slow"] is True
    assert lines.last["mlguard.sample_rate"] == 1.0
    assert guarded.stats()["slow"] == 1

    def slow_failure() -> None:
        time.time += 2.0
        raise KeyError("x")

    with pytest.raises(KeyError):
        watch(slow_failure, sample_rate=1e-9, slow_call=1)()
    assert lines.last["error.type"] == "KeyError"
    assert lines.last["mlguard.slow"] is True
    watch(lambda: None, sample_rate=1e-9, slow_call=1)()
    assert len(lines.events) == 2


def test_sampling_leaves_the_users_random_numbers_alone(watch, lines) -> None:
    """A seeded model gives the same numbers under a sampled monitor."""
    import random

    random.seed(7)
    expected = random.random()
    random.seed(7)
    watch(add, sample_rate=0.5)(1.0, 2.0)
    assert random.random() == expected


def test_log_off_still_counts(watch, lines) -> None:
    """Without lines, the figures of `f.guard.stats()` are complete."""
    guarded = watch(add, log=False)
    guarded(1.0, 2.0)
    with pytest.raises(TypeError):
        guarded("x", 2.0)
    assert lines.text == ""
    stats = guarded.stats()
    assert stats["calls"] == {"executed": 1, "failed": 1}
    assert stats["failures"] == {"TypeError": 1}
    assert stats["duration"]["executed"]["count"] == 1
    json.dumps(stats, allow_nan=False)
    guarded.reporter.reset()
    assert guarded.stats()["calls"] == {}


def test_failure_types_are_bounded(watch, lines) -> None:
    """A service that raises ever new classes can't fill the memory with their names."""

    def predict(number: int) -> None:
        raise type(f"Error{number}", (Exception,), {})()

    guarded = watch(predict, log=False)
    for number in range(60):
        with pytest.raises(Exception):  # noqa: B017, PT011
            guarded(number)
    failures = guarded.stats()["failures"]
    assert len(failures) == 51
    assert failures["other"] == 10


def test_cached_factories_are_asked_once(watch) -> None:
    """Where the application caches its loggers, its factory makes one for us, and none a call."""
    made: list[tuple[str, ...]] = []
    inner = structlog.testing.CapturingLoggerFactory()

    def factory(*names: str) -> Any:
        made.append(names)
        return inner()

    structlog.configure(logger_factory=factory, cache_logger_on_first_use=True)
    guarded = watch(add)
    guarded(1.0, 2.0)
    guarded(1.0, 2.0)
    assert made == [("mlguard",)]
    assert len(inner.logger.calls) == 2


def test_counts_are_exact_under_threads(watch, lines) -> None:
    """Eight threads at once lose no count."""
    guarded = watch(add, log=False)
    threads = [threading.Thread(target=lambda: [guarded(1.0, 2.0) for _ in range(2_000)]) for _ in range(8)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert guarded.stats()["calls"] == {"executed": 16_000}


def test_a_processor_that_raises_never_fails_a_call(watch) -> None:
    """A broken sink is counted; results and exceptions reach the caller unchanged."""

    def broken(logger: Any, method: str, event: Any) -> Any:
        raise BrokenPipeError("no log today")

    structlog.configure(processors=[broken])
    guarded = watch(add)
    assert guarded(1.0, 2.0) == 3.0
    with pytest.raises(ConnectionError, match="no route"):
        watch(fail)(1.0)
    assert guarded.stats()["instrumentation_errors"] == 1
    assert guarded.stats()["last_instrumentation_error"] == "log: BrokenPipeError"


def test_an_exception_that_breaks_its_rendering(watch, lines) -> None:
    """An exception whose chain can't be read costs message and traceback, not the record nor the exception."""

    class Broken(ExceptionGroup):  # type: ignore[type-arg]
        exceptions = property(lambda self: 1 // 0)  # type: ignore[assignment]

    def predict() -> None:
        raise Broken("group", [ValueError("x")])

    guarded = watch(predict)
    with pytest.raises(Broken):
        guarded()
    assert lines.last["error.type"].endswith("Broken")
    assert guarded.stats()["last_instrumentation_error"] == "exception: ZeroDivisionError"


def test_a_value_that_breaks_the_summary_is_counted(watch, lines) -> None:
    """A `__len__` that raises costs its own field, not the record."""

    class Broken(list):  # type: ignore[type-arg]
        def __len__(self) -> int:
            raise RuntimeError("no length")

    guarded = watch(lambda items: items)
    guarded(Broken())
    assert lines.last["mlguard.disposition"] == "executed"
    assert guarded.stats()["instrumentation_errors"] == 2
    assert guarded.stats()["last_instrumentation_error"] == "summaries: RuntimeError"


def test_later_configuration_is_followed(watch, lines) -> None:
    """`structlog.configure()` after the first call takes effect, cached loggers or not."""
    guarded = watch(add)
    structlog.configure(cache_logger_on_first_use=True)
    guarded(1.0, 2.0)
    with structlog.testing.capture_logs() as captured:
        guarded(1.0, 2.0)
    assert [entry["event"] for entry in captured] == ["mlguard.call"]
    factory = structlog.testing.CapturingLoggerFactory()
    structlog.configure(logger_factory=factory)
    guarded(1.0, 2.0)
    guarded(1.0, 2.0)
    assert len(factory.logger.calls) == 2
    assert len(lines.events) == 1


def test_a_disabled_level_builds_no_event(watch, lines) -> None:
    """Where the application drops info, successes cost no summary; failures and warnings are still written."""
    asked: list[int] = []

    def facts() -> dict[str, Any]:
        asked.append(1)
        return {}

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    watch(add, about={"watch": (facts,)})(1.0, 2.0)
    assert (lines.text, asked) == ("", [])
    with pytest.raises(ConnectionError):
        watch(fail, about={"watch": (facts,)})(1.0)
    assert len(lines.events) == len(asked) == 1
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    with pytest.raises(ConnectionError):
        watch(fail)(1.0)
    assert len(lines.events) == 1


def test_a_wrapper_class_of_the_applications_own(watch, lines) -> None:
    """A logger class whose `is_enabled_for` means something else is simply written to, whatever the factory takes."""

    class Own(structlog.BoundLogger):
        def is_enabled_for(self, customer: str, feature: str) -> bool:
            return False

    structlog.configure(
        wrapper_class=Own, logger_factory=lambda: structlog.WriteLogger(lines.out), context_class=_Sorted
    )
    watch(add)(1.0, 2.0)
    assert lines.last["mlguard.output"] == 3.0


class _Sorted(dict):  # type: ignore[type-arg]
    def copy(self) -> _Sorted:
        return _Sorted(self)


def test_stdlib_logging_behind_structlog(watch, caplog) -> None:
    """With the standard library as the sink, records come from the logger "mlguard" and its level decides."""
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.add_logger_name,
            structlog.stdlib.render_to_log_kwargs,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
    )

    def noting(x: float) -> float:
        note(message="would break a LogRecord", tokens=4)
        return x

    with caplog.at_level(logging.INFO, logger="mlguard"):
        watch(noting)(1.0)
    (record,) = caplog.records
    assert (record.name, record.levelname, record.getMessage()) == ("mlguard", "INFO", "mlguard.call")
    assert record.__dict__["mlguard.input.x"] == 1.0
    assert record.__dict__["tokens"] == 4
    assert record.__dict__["note.message"] == "would break a LogRecord"
    with caplog.at_level(logging.ERROR, logger="mlguard"):
        watch(add)(1.0, 2.0)
        with pytest.raises(ConnectionError):
            watch(fail)(1.0)
    assert [record.levelname for record in caplog.records] == ["INFO", "ERROR"]
    assert caplog.records[-1].exc_info is None


def test_context_variables_of_the_application_come_along(watch, lines) -> None:
    """A request id bound by the application stands in the record; it can't replace a field of ours."""
    with structlog.contextvars.bound_contextvars(request_id="r1", **{"mlguard.disposition": "nonsense"}):
        watch(add)(1.0, 2.0)
    assert lines.last["request_id"] == "r1"
    assert lines.last["mlguard.disposition"] == "executed"


def test_notes_stand_under_their_own_names(watch, lines) -> None:
    """A note has its own name unless that is taken; values are made JSON-safe and bounded in number and length."""

    def noting() -> None:
        note(
            tokens=412,
            level="deep",
            event="x",
            exc_info=True,
            big=10**30,
            score=float("inf"),
            model=object,
            long="y" * 999,
        )
        note(**{"mlguard.disposition": "x", "a.b": [1, "z", float("nan")]})

    watch(noting)()
    event = lines.last
    assert event["tokens"] == 412
    assert event["note.level"] == "deep"
    assert event["note.event"] == "x"
    assert event["note.exc_info"] is True
    assert event["event"] == "mlguard.call"
    assert event["level"] == "info"
    assert event["big"] == "an integer of 100 bits"
    assert event["score"] == "inf"
    assert event["model"] == "type"
    assert len(event["long"]) == 200
    assert event["note.mlguard.disposition"] == "x"
    assert event["note.a.b"] == [1, "z", "nan"]

    def chatty() -> None:
        note(**{f"n{number}": number for number in range(40)})

    watch(chatty)()
    assert lines.last["n31"] == 31
    assert "n32" not in lines.last
    assert lines.last["mlguard.notes_dropped"] == 8


def test_arguments_by_every_kind_of_parameter(watch, lines) -> None:
    """Positional-only, keyword-only, variable and method parameters are named as in the signature."""

    def many(a: int, /, b: int, *rest: int, c: int = 3, **extra: int) -> None: ...

    watch(many)(1, 2, 5, 6, c=4, unknown=7)
    found = {key: value for key, value in lines.last.items() if key.startswith("mlguard.input.")}
    assert found == {
        "mlguard.input.a": 1,
        "mlguard.input.b": 2,
        "mlguard.input.rest.count": 2,
        "mlguard.input.rest.nulls": 0.0,
        "mlguard.input.rest.min": 5.0,
        "mlguard.input.rest.mean": 5.5,
        "mlguard.input.rest.max": 6.0,
        "mlguard.input.rest.std": 0.5,
        "mlguard.input.c": 4,
        "mlguard.input.extra.count": 1,
    }

    class Service:
        def predict(self, x: int) -> int:
            return x

    watch(Service.predict)(Service(), 3)
    assert lines.last["mlguard.input.x"] == 3
    assert not [key for key in lines.last if key.startswith("mlguard.input.self")]


def test_a_failed_calls_arguments_are_free(watch, lines) -> None:
    """Once the caller has dropped the exception, nothing of the monitor keeps the arguments, with the collector off."""

    class Image:
        pass

    def predict(image: Image) -> None:
        raise ValueError("no")

    guarded = watch(predict)
    gc.disable()
    try:
        image = Image()
        gone = weakref.ref(image)
        with pytest.raises(ValueError, match="no"):
            guarded(image)
        del image
        assert gone() is None or not _kept_by_pytest(gone)
    finally:
        gc.enable()


def _kept_by_pytest(gone: weakref.ref[Any]) -> bool:
    return any("mlguard" in str(type(holder)) for holder in gc.get_referrers(gone()))


def test_a_failed_calls_arguments_are_free_in_a_bare_process() -> None:
    """The same in a process of its own, where no test tool keeps tracebacks, for a failing sink as well."""
    program = """
import gc, sys, weakref
gc.disable()
sys.path.insert(0, sys.argv[1])
import structlog
from conftest import Watched
from mlguard.monitor import Monitor, Reporter
from mlguard.target import Target

class Image: pass
def predict(image): raise ValueError("no")

def broken(logger, method, event): raise OSError("sink")

for processors in (None, [broken]):
    if processors: structlog.configure(processors=processors)
    guarded = Watched(predict, Reporter(Target(predict), Monitor()))
    image = Image()
    gone = weakref.ref(image)
    try:
        guarded(image)
    except ValueError:
        pass
    del image
    assert gone() is None, "kept"
    assert guarded.stats()["instrumentation_errors"] == (1 if processors else 0)
print("free")
"""
    here = os.path.dirname(__file__)
    done = subprocess.run([sys.executable, "-c", program, here], capture_output=True, text=True, check=False)
    assert done.stdout.endswith("free\n"), done.stderr


def test_it_pickles_without_its_counts() -> None:
    """A reporter that travels to another process starts from zero there, with the same settings."""
    reporter = Reporter(Target(add), Monitor(sample_rate=0.5), policy_name="p", model_version="v")
    reporter.succeeded(Call(), 1.0, (1.0, 2.0), {})
    twin = cloudpickle.loads(cloudpickle.dumps(reporter))
    assert twin.stats()["calls"] == {}
    assert twin.explain() == reporter.explain()
    assert set(reporter.names(asynchronous=True)) == {"enter", "leave", "succeeded", "failed"}


def test_explain_says_the_numbers_in_force() -> None:
    """`f.guard.explain()` has the share, the rate limit and the threshold."""
    said = " ".join(Reporter(Target(add), Monitor(sample_rate=0.25, slow_call="2s", summaries=False)).explain())
    assert "0.25" in said
    assert "without summaries" in said
    assert "2s" in said
    assert Reporter(Target(add), Monitor(log=False)).explain() == ["Calls are counted, not logged."]
    assert "every call, with summaries" in Reporter(Target(add), Monitor()).explain()[0]


@pytest.mark.parametrize("settings", [{"sample_rate": 0}, {"sample_rate": 1.5}, {"slow_call": -1}, {"sampling": 0.1}])
def test_impossible_settings_are_refused(settings: dict[str, Any]) -> None:
    """A setting that can't be honoured, or does not exist, is refused with its name."""
    with pytest.raises(PolicyError, match=next(iter(settings))):
        Monitor(**settings)


def test_the_disposition_a_call_brings_along_is_kept(lines) -> None:
    """A cache hit is told as such, and its duration is counted apart from executed calls."""
    reporter = Reporter(Target(add), Monitor())
    this = Call()
    this.disposition = Disposition.CACHE_HIT
    reporter.succeeded(this, 3.0, (1.0, 2.0), {})
    assert lines.last["mlguard.disposition"] == "cache_hit"
    assert lines.last["mlguard.attempts"] == 0
    assert set(reporter.stats()["duration"]) == {"cache_hit"}


def test_what_report_mode_let_pass_is_told_of_a_call_that_fails(lines) -> None:
    """The violation may well be why it failed."""

    @guarded(monitor=Monitor(), validation={"on_invalid": "report"})
    def ratio(total: float, parts: Annotated[int, Field(gt=0)]) -> float:
        return total / parts

    with pytest.raises(ZeroDivisionError):
        ratio(1.0, 0)
    assert [violation["loc"] for violation in lines.last["mlguard.violations"]] == ["parts"]
    assert lines.last["error.type"] == "ZeroDivisionError"
