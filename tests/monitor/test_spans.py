"""A span of OpenTelemetry a call: parents, children, what it says, and that its context never leaks."""

from __future__ import annotations

import asyncio
import contextvars
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Annotated, Any

import cloudpickle
import pytest
import structlog
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from mlguard import (
    Cache,
    Monitor,
    Redacted,
    Retry,
    Timeout,
    guarded,
    note,
    policies,
)
from mlguard.errors import InvalidInputError, PolicyError
from mlguard.monitor.event import Event

SPANS = Monitor(log=False, spans=True)


class Traced:
    """A tracer provider of the application's, and the spans that ended."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = self.provider.get_tracer("application")

    @property
    def spans(self) -> list[Any]:
        return list(self.exporter.get_finished_spans())

    def named(self, part: str) -> Any:
        (found,) = [span for span in self.spans if part in span.name]
        return found


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[Traced]:
    made = Traced()
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: made.provider)
    yield made
    made.provider.shutdown()
    assert trace.get_current_span() is trace.INVALID_SPAN


def inside(span: Any, parent: Any) -> bool:
    return span.parent is not None and span.parent.span_id == parent.context.span_id


def test_a_call_is_a_span_between_its_caller_and_what_it_does(traced: Traced) -> None:
    """The span of a call is a child of the caller's, and the parent of those that the function makes."""

    @guarded(monitor=SPANS, model_version="v7")
    def predict(x: float) -> float:
        with traced.tracer.start_as_current_span("query"):
            note(tokens=4)
            return x

    with traced.tracer.start_as_current_span("request"):
        predict(1.0)
    query, call, request = traced.spans
    assert (query.name, request.name) == ("query", "request")
    assert inside(query, call)
    assert inside(call, request)
    assert call.name == predict.guard._wrapper.target.name
    assert call.kind is SpanKind.INTERNAL
    assert call.status.status_code is StatusCode.UNSET
    assert call.attributes["mlguard.disposition"] == "executed"
    assert call.attributes["mlguard.model_version"] == "v7"
    assert call.attributes["mlguard.function_duration"] > 0
    assert call.attributes["tokens"] == 4
    assert call.instrumentation_scope.name == "mlguard"


async def test_coroutines(traced: Traced) -> None:
    """Concurrent coroutines keep their spans apart, each with its own children."""

    @guarded(monitor=SPANS)
    async def predict(x: int) -> int:
        await asyncio.sleep(0)
        with traced.tracer.start_as_current_span(f"query {x}"):
            await asyncio.sleep(0)
        return x

    await asyncio.gather(*(predict(x) for x in range(5)))
    calls = {span.context.span_id: span for span in traced.spans if "predict" in span.name}
    queries = [span for span in traced.spans if span.name.startswith("query")]
    assert len(calls) == 5
    assert {span.parent.span_id for span in queries} == set(calls)


def test_generators_keep_their_span_to_themselves(traced: Traced) -> None:
    """What the consumer does between two items is no child of the stream's span, what the generator does is."""

    @guarded(monitor=SPANS)
    def count(to: int) -> Iterator[int]:
        for number in range(to):
            with traced.tracer.start_as_current_span(f"made {number}"):
                pass
            yield number

    with traced.tracer.start_as_current_span("request"):
        for number in count(2):
            assert trace.get_current_span().name == "request"  # type: ignore[attr-defined]
            with traced.tracer.start_as_current_span(f"used {number}"):
                pass
    stream, request = traced.named("count"), traced.named("request")
    for number in range(2):
        assert inside(traced.named(f"made {number}"), stream)
        assert inside(traced.named(f"used {number}"), request)
    assert stream.attributes["mlguard.items"] == 2


async def test_async_generators_between_tasks(traced: Traced) -> None:
    """A stream whose items are read by one task after the other leaves no span behind in any of them."""

    @guarded(monitor=SPANS)
    async def count(to: int) -> Any:
        for number in range(to):
            await asyncio.sleep(0)
            with traced.tracer.start_as_current_span("made"):
                await asyncio.sleep(0)
            yield number

    items = count(3)

    async def read() -> int:
        item = await anext(items)
        assert trace.get_current_span() is trace.INVALID_SPAN
        return int(item)

    assert [await asyncio.create_task(read()) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(StopAsyncIteration):
        await anext(items)
    assert traced.named("count").attributes["mlguard.items"] == 3


def test_a_stream_that_is_left_ends_its_span(traced: Traced) -> None:
    """A consumer that stops early ends the span as cancelled, without an error."""

    @guarded(monitor=SPANS)
    def count() -> Iterator[int]:
        yield 1
        yield 2

    items = count()
    next(items)
    items.close()
    span = traced.named("count")
    assert span.attributes["mlguard.disposition"] == "cancelled"
    assert span.status.status_code is StatusCode.UNSET
    assert not span.events


def test_a_stream_that_fails_says_how_far_it_came(traced: Traced) -> None:
    """The items made before the failure are told."""

    @guarded(monitor=SPANS)
    def count() -> Iterator[int]:
        yield 1
        yield 2
        raise LookupError("no third")

    with pytest.raises(LookupError):
        list(count())
    assert traced.named("count").attributes["mlguard.items"] == 2


def test_attempts_are_events(traced: Traced) -> None:
    """A call with retries is one span; each further attempt is an event of it."""
    left = [ConnectionError("one"), ConnectionError("two")]

    @guarded(monitor=SPANS, retry=Retry(initial_delay=0.0))
    def predict() -> str:
        if left:
            raise left.pop()
        return "done"

    predict()
    (span,) = traced.spans
    assert [event.name for event in span.events] == ["mlguard.retry", "mlguard.retry"]
    assert [event.attributes["mlguard.attempt"] for event in span.events] == [2, 3]
    assert span.attributes["mlguard.attempts"] == 3
    assert span.status.status_code is StatusCode.UNSET


def test_threads_have_the_span(traced: Traced) -> None:
    """An attempt that runs in a thread of its own is inside the span all the same."""

    @guarded(monitor=SPANS, timeout=Timeout(total=30, sync_mode="thread"))
    def predict() -> str:
        with traced.tracer.start_as_current_span("query"):
            return threading.current_thread().name

    assert predict() != threading.current_thread().name
    assert inside(traced.named("query"), traced.named("predict"))


def test_hits_and_rejections_have_spans(traced: Traced) -> None:
    """A cache hit and a refused input are calls as well, and say what they were."""

    @guarded(monitor=SPANS, cache=Cache(ttl=60))
    def predict(x: float) -> float:
        return x

    predict(1.0)
    predict(1.0)
    with pytest.raises(InvalidInputError):
        predict("secret-text")  # type: ignore[arg-type]
    miss, hit, refused = traced.spans
    assert (miss.attributes["mlguard.cache"], miss.attributes["mlguard.disposition"]) == ("miss", "executed")
    assert (hit.attributes["mlguard.disposition"], hit.attributes["mlguard.attempts"]) == ("cache_hit", 0)
    assert refused.attributes["mlguard.disposition"] == "rejected_validation"
    assert refused.status.status_code is StatusCode.ERROR
    assert "secret-text" not in refused.to_json()


def test_an_exception_is_told_once_and_without_what_is_hidden(traced: Traced) -> None:
    """The innermost span has message and traceback; those around it have type and status. Hidden values are in none."""

    @guarded(monitor=SPANS)
    def inner(owner: Annotated[str, Redacted]) -> None:
        raise LookupError(f"nothing of {owner}")

    @guarded(monitor=SPANS)
    def outer(owner: Annotated[str, Redacted]) -> None:
        inner(owner)

    with pytest.raises(LookupError):
        outer("Ada Lovelace")
    first, second = traced.spans
    (event,) = first.events
    assert event.name == "exception"
    assert event.attributes["exception.type"] == "LookupError"
    assert event.attributes["exception.message"] == "nothing of [redacted]"
    assert "in inner" in event.attributes["exception.stacktrace"]
    assert not second.events
    for span in (first, second):
        assert span.attributes["error.type"] == "LookupError"
        assert span.status.status_code is StatusCode.ERROR
        assert "Ada" not in span.to_json()
    assert "mlguard.attempts" not in second.attributes  # which is one


def test_the_event_names_the_span(traced: Traced) -> None:
    """A line and a span of one call find each other; without `spans`, the line names the span around the call."""
    with structlog.testing.capture_logs() as lines:

        @guarded(monitor=Monitor(spans=True))
        def own() -> None: ...

        @guarded(monitor=Monitor())
        def around() -> None: ...

        with traced.tracer.start_as_current_span("request"):
            own()
            around()
        around()
    span, request = traced.named("own"), traced.named("request")
    assert lines[0]["trace_id"] == lines[1]["trace_id"] == trace.format_trace_id(request.context.trace_id)
    assert lines[0]["span_id"] == trace.format_span_id(span.context.span_id)
    assert lines[1]["span_id"] == trace.format_span_id(request.context.span_id)
    assert "trace_id" not in lines[2]
    assert Event.model_validate(lines[0]).span_id == lines[0]["span_id"]


def test_attributes_are_what_an_exporter_takes(traced: Traced) -> None:
    """Lists of several kinds become texts, and so do integers beyond 64 bits: one of them would cost a whole batch."""

    @guarded(monitor=SPANS)
    def predict() -> None:
        note(mixed=[1, "two"], equal=[1, 2], large=2**63, larger=[2**63, 1], nothing=None)

    predict()
    attributes = traced.named("predict").attributes
    assert attributes["mixed"] == ("1", "two")
    assert attributes["equal"] == (1, 2)
    assert attributes["large"] == str(2**63)
    assert attributes["larger"] == (str(2**63), "1")
    assert "nothing" not in attributes


def test_an_outcome_has_a_span_too(traced: Traced) -> None:
    """`f.guard.call` is a call."""

    @guarded(monitor=SPANS)
    def predict(x: float) -> float:
        return x

    assert predict.guard.call(1.0).value == 1.0
    assert traced.named("predict").attributes["mlguard.disposition"] == "executed"


def test_a_provider_that_comes_later_is_used(traced: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    """An application may set its provider after the function is decorated, and after its first call."""

    @guarded(monitor=SPANS)
    def predict() -> None: ...

    predict()
    later = Traced()
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: later.provider)
    predict()
    assert len(traced.spans) == len(later.spans) == 1


def test_a_provider_that_fails_costs_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the tracing does wrong, the call goes on and the trouble is counted."""

    def refuse() -> Any:
        raise OSError("no tracing today")

    monkeypatch.setattr(trace, "get_tracer_provider", refuse)

    @guarded(monitor=SPANS)
    def predict(fail: bool) -> str:
        if fail:
            raise LookupError
        return "done"

    assert predict(False) == "done"
    with pytest.raises(LookupError):
        predict(True)
    stats = predict.guard.stats()["monitor"]
    assert (stats["instrumentation_errors"], stats["last_instrumentation_error"]) == (2, "span: OSError")


class _Broken:
    """A span that fails at everything."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)


class _BrokenProvider:
    def get_tracer(self, *about: Any) -> Any:
        return self

    def start_span(self, *about: Any, **more: Any) -> Any:
        return _Broken()


def test_a_span_that_fails_costs_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """A span whose every method raises is counted as trouble at each of them."""
    broken = _BrokenProvider()
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: broken)

    @guarded(monitor=SPANS, retry=Retry(initial_delay=0.0, max_retries=1))
    def predict(fail: bool) -> str:
        if fail:
            raise ConnectionError
        return "done"

    assert predict(False) == "done"
    with pytest.raises(ConnectionError):
        predict(True)
    assert predict.guard.stats()["monitor"]["instrumentation_errors"] >= 3


def test_an_unsampled_trace_stays_unsampled(traced: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the application's sampler drops a trace, the call's span is dropped, and its children with it."""
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased

    exporter = InMemorySpanExporter()
    provider = TracerProvider(sampler=ParentBased(ALWAYS_OFF))
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)

    @guarded(monitor=SPANS)
    def predict() -> bool:
        with provider.get_tracer("x").start_as_current_span("query") as span:
            return span.is_recording()

    assert predict() is False
    assert not exporter.get_finished_spans()


def test_it_travels_to_another_process(traced: Traced) -> None:
    """A function with spans can be pickled by value."""

    @guarded(monitor=SPANS)
    def predict(x: float) -> float:
        return x

    assert cloudpickle.loads(cloudpickle.dumps(predict))(2.0) == 2.0
    assert traced.named("predict").attributes["mlguard.disposition"] == "executed"


def test_spans_can_be_switched_while_the_service_runs(traced: Traced, tmp_path, monkeypatch) -> None:
    """A reload that turns spans on or off leaves no call without its names."""
    file = tmp_path / "mlguard.toml"
    monkeypatch.setenv("MLGUARD_POLICIES", str(file))
    file.write_text("[policies.served]\nmonitor = { log = false, spans = true }\n")
    policies.reload()

    @guarded("served")
    def predict() -> None: ...

    predict()
    for spans in ("false", "true", "false"):
        file.write_text(f"[policies.served]\nmonitor = {{ log = false, spans = {spans} }}\n")
        policies.reload()
        predict()
    assert len(traced.spans) == 2
    assert predict.guard.stats()["monitor"]["calls"] == {"executed": 4}


def test_without_the_package_it_is_refused_with_the_fix() -> None:
    """A policy with spans is refused at decoration where OpenTelemetry is not installed."""
    program = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from mlguard import Monitor, guarded\n"
        "@guarded(monitor=Monitor(spans=True))\n"
        "def predict(): ...\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "monitor.spans needs opentelemetry, which is not installed" in done.stderr
    assert "Fix: pip install opentelemetry-api (mlguard's extra 'opentelemetry'), or spans=False." in done.stderr


def test_predictions_of_a_stream_can_not_be_recorded() -> None:
    """What a record can't hold is refused at decoration."""

    def items() -> Iterator[int]:
        yield 1

    with pytest.raises(PolicyError, match="record_outputs is set, but a stream"):
        guarded(monitor=Monitor(record="calls", record_outputs=True))(items)


def test_contexts_are_left_in_order(traced: Traced) -> None:
    """A call in a copied context leaves the copy as it found it."""

    @guarded(monitor=SPANS)
    def predict() -> None: ...

    copy = contextvars.copy_context()
    copy.run(predict)
    assert copy.run(trace.get_current_span) is trace.INVALID_SPAN
