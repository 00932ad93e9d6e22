"""Metrics and spans through OpenTelemetry, as a real receiver of OTLP over HTTP gets them."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from mlguard import Breaker, Cache, Monitor, guarded
from mlguard.monitor.metrics import METRICS
from mlguard.sinks import opentelemetry
from tests.sinks.receivers import PATIENCE, Receiver, points

QUIET = Monitor(log=False)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


@pytest.fixture
def provider(receiver: Receiver) -> Iterator[MeterProvider]:
    exporter = OTLPMetricExporter(f"{receiver.url}/v1/metrics", timeout=5)
    made = MeterProvider([PeriodicExportingMetricReader(exporter, export_interval_millis=3_600_000)])
    yield made
    made.shutdown()


@pytest.fixture
def started() -> Iterator[Callable[[Any], opentelemetry.Exported]]:
    made: list[opentelemetry.Exported] = []

    def start(provider: Any) -> opentelemetry.Exported:
        made.append(opentelemetry.start(provider))
        return made[-1]

    yield start
    for each in made:
        each.stop()


def test_a_collector_gets_what_was_called(receiver: Receiver, provider: MeterProvider, started) -> None:
    """Totals, durations and gauges arrive under their names, with units, and equal what was called."""
    exported = started(provider)

    @guarded(monitor=QUIET, cache=Cache(ttl=60), breaker=Breaker())
    def predict(x: int) -> int:
        if x < 0:
            raise LookupError
        return x

    for x in (1, 2, 3, 3, 3):
        predict(x)
    with pytest.raises(LookupError):
        predict(-1)
    assert exported.flush(PATIENCE)
    assert provider.force_flush()
    name = predict.guard._wrapper.target.name
    found = receiver.metrics()
    calls = points(found["mlguard.calls"])
    assert calls["executed", name].as_double == 3
    assert calls["cache_hit", name].as_double == 2
    assert calls["failed", name].as_double == 1
    duration = found["mlguard.call_duration"]
    assert duration.unit == "s"
    histogram = points(duration)["executed", name]
    assert histogram.count == sum(histogram.bucket_counts) == 3
    assert 0 < histogram.sum < PATIENCE
    assert histogram.explicit_bounds[:3] == [0.001, 0.0025, 0.005]
    assert points(found["mlguard.breaker_state"])[name, "closed"].as_double == 1
    assert found["mlguard.calls"].sum.is_monotonic
    assert not found["mlguard.cache_entries"].sum.is_monotonic


def test_every_metric_has_an_instrument(started) -> None:
    """Each metric of the registry is shown to the provider, under its dotted name."""
    made: list[str] = []

    class Meter:
        def __getattr__(self, kind: str) -> Any:
            return lambda name, *about, **more: made.append(name)

    class Provider:
        def get_meter(self, *about: Any) -> Meter:
            return Meter()

    started(Provider())
    assert sorted(made) == sorted(metric.dotted for metric in METRICS)


def test_started_twice_counts_once(started) -> None:
    """Starting again with the same provider changes nothing; a second provider gets everything as well."""
    readers = [InMemoryMetricReader(), InMemoryMetricReader()]
    providers = [MeterProvider([reader]) for reader in readers]
    exported = [started(providers[0]), started(providers[0]), started(providers[1])]
    assert exported[0] is exported[1]

    @guarded(monitor=QUIET)
    def predict() -> None: ...

    predict()
    for each in exported:
        assert each.flush(PATIENCE)
    name = predict.guard._wrapper.target.name
    for reader in readers:
        assert _count(reader, "mlguard.call_duration", name) == 1
    exported[0].stop()
    predict()
    assert exported[2].flush(PATIENCE)
    assert _count(readers[1], "mlguard.call_duration", name) == 2
    assert _value(readers[0], "mlguard.calls", name) is None
    for provider in providers:
        provider.shutdown()


def _found(reader: InMemoryMetricReader, metric: str, guard: str) -> Any:
    data: Any = reader.get_metrics_data()
    found = [
        point
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for each in scope.metrics
        if each.name == metric
        for point in each.data.data_points
        if point.attributes.get("guard") == guard and point.attributes.get("disposition") == "executed"
    ]
    return found[0] if found else None


def _count(reader: InMemoryMetricReader, metric: str, guard: str) -> int:
    return int(_found(reader, metric, guard).count)


def _value(reader: InMemoryMetricReader, metric: str, guard: str) -> Any:
    found = _found(reader, metric, guard)
    return None if found is None else found.value


def test_a_function_without_metrics_is_not_shown(started) -> None:
    """`metrics=False` keeps a function out of counters and durations."""
    reader = InMemoryMetricReader()
    exported = started(MeterProvider([reader]))

    @guarded(monitor=Monitor(log=False, metrics=False))
    def hidden() -> None: ...

    hidden()
    assert exported.flush(PATIENCE)
    name = hidden.guard._wrapper.target.name
    assert _found(reader, "mlguard.calls", name) is None
    assert _found(reader, "mlguard.call_duration", name) is None


def test_a_collector_that_hangs_delays_no_call(receiver: Receiver, started) -> None:
    """While an export waits for a collector, calls go on and lose no count; the next export has them all."""
    exporter = OTLPMetricExporter(f"{receiver.url}/v1/metrics", timeout=20)
    provider = MeterProvider([PeriodicExportingMetricReader(exporter, export_interval_millis=3_600_000)])
    exported = started(provider)

    @guarded(monitor=QUIET)
    def predict() -> None: ...

    receiver.opened.clear()
    exporting = threading.Thread(target=provider.force_flush)
    exporting.start()
    began = time.monotonic()
    for _ in range(1_000):
        predict()
    assert time.monotonic() - began < PATIENCE / 3
    receiver.opened.set()
    exporting.join()
    assert exported.flush(PATIENCE)
    assert provider.force_flush()
    name = predict.guard._wrapper.target.name
    assert points(receiver.metrics()["mlguard.calls"])["executed", name].as_double == 1_000
    assert points(receiver.metrics()["mlguard.call_duration"])["executed", name].count == 1_000
    provider.shutdown()


def test_a_full_queue_of_durations_is_counted(started) -> None:
    """Durations beyond the queue are dropped and counted; the counters are complete all the same."""
    reader = InMemoryMetricReader()
    exported = started(MeterProvider([reader]))
    opened, entered = threading.Event(), threading.Event()
    record = exported._durations.record

    def hang(*about: Any) -> None:
        entered.set()
        opened.wait(PATIENCE)
        record(*about)

    exported._durations.record = hang  # type: ignore[method-assign]

    @guarded(monitor=QUIET)
    def predict() -> None: ...

    predict()
    assert entered.wait(PATIENCE)
    for _ in range(11_000):
        predict()
    assert exported.stats()["dropped"] >= 1_000
    opened.set()
    assert exported.flush(PATIENCE)
    name = predict.guard._wrapper.target.name
    assert _value(reader, "mlguard.calls", name) == 11_001
    assert _count(reader, "mlguard.call_duration", name) == 11_001 - exported.stats()["dropped"]


def _child(url: str, body: str) -> subprocess.Popen[str]:
    program = f"""
    import os, signal, sys, time
    from opentelemetry import metrics, trace
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from mlguard import Monitor, guarded
    from mlguard.sinks import opentelemetry

    exporter = OTLPMetricExporter("{url}/v1/metrics", timeout=5)
    metrics.set_meter_provider(MeterProvider([PeriodicExportingMetricReader(exporter, 3_600_000)]))
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter("{url}/v1/traces", timeout=5)))
    trace.set_tracer_provider(provider)
    exported = opentelemetry.start()

    @guarded(monitor=Monitor(log=False, spans=True))
    def predict(x): return x
    """
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program) + textwrap.dedent(body)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _metric_exports(receiver: Receiver) -> list[Any]:
    return [request for request in receiver.received if isinstance(request, ExportMetricsServiceRequest)]


def _calls_of(request: Any) -> float:
    found = {
        metric.name: metric
        for resource in request.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }
    return sum(point.as_double for labels, point in points(found["mlguard.calls"]).items() if labels[0] == "executed")


def test_a_clean_shutdown_exports_what_is_left(receiver: Receiver) -> None:
    """At the end of the process the last counts, durations and spans reach the collector."""
    with _child(receiver.url, "for x in range(5): predict(x)") as child:
        assert child.wait(PATIENCE) == 0, child.communicate()
    assert _calls_of(_metric_exports(receiver)[-1]) == 5
    spans = [
        span
        for request in receiver.received
        if isinstance(request, ExportTraceServiceRequest)
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    assert [span.name for span in spans] == ["__main__.predict"] * 5


def test_a_killed_process_loses_what_it_had_not_exported(receiver: Receiver) -> None:
    """After `kill -9` the collector has what was exported before, complete, and nothing of what came later."""
    body = """
    for x in range(5): predict(x)
    exported.flush(); metrics.get_meter_provider().force_flush(); provider.force_flush()
    for x in range(3): predict(x)
    print("ready", flush=True)
    time.sleep(60)
    """
    with _child(receiver.url, body) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        child.kill()
    assert [_calls_of(request) for request in _metric_exports(receiver)] == [5]


def test_a_forked_worker_exports_its_own_counts(receiver: Receiver) -> None:
    """A child starts at 0 and exports through the provider it inherited; the parent's counts stay the parent's."""
    body = """
    for x in range(5): predict(x)
    child = os.fork()
    if child == 0:
        for x in range(2): predict(x)
        exported.flush(); metrics.get_meter_provider().force_flush()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    exported.flush(); metrics.get_meter_provider().force_flush()
    os._exit(0)
    """
    with _child(receiver.url, body) as child:
        assert child.wait(PATIENCE) == 0, child.communicate()
    assert [_calls_of(request) for request in _metric_exports(receiver)] == [2, 5]


def test_spans_reach_a_collector_and_one_that_is_dead_delays_no_call(receiver: Receiver, monkeypatch) -> None:
    """Spans are exported by the application's processor; while its collector is gone, calls go on."""
    from opentelemetry import trace

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{receiver.url}/v1/traces", timeout=5)))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)

    @guarded(monitor=Monitor(log=False, spans=True))
    def predict(x: int) -> int:
        return x

    predict(1)
    assert provider.force_flush()
    (span,) = receiver.spans()
    assert span.name == predict.guard._wrapper.target.name
    receiver.opened.clear()
    began = time.monotonic()
    for x in range(1_000):
        predict(x)
    assert time.monotonic() - began < PATIENCE / 3
    assert predict.guard.stats()["monitor"]["calls"] == {"executed": 1_001}
    receiver.opened.set()
    provider.shutdown()


def test_without_the_package_the_error_names_the_fix() -> None:
    """Importing the sink without OpenTelemetry says what to install."""
    program = "import sys; sys.modules['opentelemetry'] = None\nimport mlguard.sinks.opentelemetry"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "Fix: pip install opentelemetry-api (mlguard's extra 'opentelemetry')." in done.stderr
