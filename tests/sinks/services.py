"""A service that reports its calls everywhere at once, and what may happen to it: run as ``python -m``.

``test_guarantees.py`` starts it with the name of a scenario and a folder, and looks at what arrived where.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog
from opentelemetry import metrics, trace
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from mlguard import drift, guarded, policies
from mlguard.monitor import readings, sink
from mlguard.monitor.metrics import CALLS
from mlguard.record import Record, recorder_for
from mlguard.sinks import datadog, opentelemetry, prometheus

POLICIES = """
[policies.log]
monitor = {{ {more} }}
[policies.background]
monitor = {{ log = "background"{comma} {more} }}
[policies.record]
monitor = {{ log = false, record = "{folder}/record"{comma} {more} }}
[policies.quiet]
monitor = {{ log = false{comma} {more} }}
[policies.spans]
monitor = {{ log = false, spans = true{comma} {more} }}
[policies.drift]
monitor = {{ log = false, drift = "{folder}/profile.json"{comma} {more} }}
"""


def write_policies(folder: Path, more: str = "") -> None:
    """The policies of the service; more of them all is what a reload changes."""
    text = POLICIES.format(folder=folder, more=more, comma="," if more else "")
    (folder / "mlguard.toml").write_text(text)


class Service:
    """One function for each way out, and all of them called."""

    def __init__(self, folder: Path, collector: str, agent: int) -> None:
        self.folder = folder
        write_policies(folder)
        drift.profile({"x": [float(x) for x in range(1_000)]}).save(folder / "profile.json")
        policies.reload()
        structlog.configure(
            processors=[structlog.processors.JSONRenderer()],
            logger_factory=structlog.PrintLoggerFactory(sys.stdout),
        )
        exporter = OTLPMetricExporter(f"{collector}/v1/metrics", timeout=5)
        self.meters = MeterProvider([PeriodicExportingMetricReader(exporter, 3_600_000)])
        metrics.set_meter_provider(self.meters)
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{collector}/v1/traces", timeout=5)))
        trace.set_tracer_provider(self.tracers)
        self.exported = opentelemetry.start()
        self.pushing = datadog.start(host="127.0.0.1", port=agent, every=3_600)
        prometheus.register()
        self.functions = {name: self._function(name) for name in ("log", "background", "record", "quiet", "spans")}
        self.functions["drift"] = self._function("drift")

    def _function(self, name: str) -> Any:
        def function(x: float) -> float:
            return x

        function.__name__ = function.__qualname__ = name
        return guarded(name)(function)

    def call(self, times: int) -> None:
        for _ in range(times):
            for function in self.functions.values():
                assert function(1.0) == 1.0

    def flush(self) -> None:
        sink.flush()
        recorder_for(Record(path=f"{self.folder}/record")).flush()
        self.exported.flush()
        self.meters.force_flush()
        self.tracers.force_flush()
        self.pushing.push()

    def report(self) -> None:
        """What only the process itself knows."""
        text, _ = prometheus.exposition()
        name = self.functions["quiet"].guard._wrapper.target.name
        wanted = f'mlguard_calls_total{{disposition="executed",guard="{name}"}} '
        wanted_too = f'mlguard_calls_total{{guard="{name}",disposition="executed"}} '
        scraped = [line.split()[-1] for line in text.decode().splitlines() if line.startswith((wanted, wanted_too))]
        drifted = self.functions["drift"].guard.stats()["drift"]
        longest = max(
            latency["max"]
            for function in self.functions.values()
            for latency in function.guard.stats()["monitor"]["duration"].values()
        )
        said = {
            "prometheus": float(scraped[0]) if scraped else 0.0,
            "drift": drifted["rows"],
            "read": sum(each.value for each in readings.read() if each.metric is CALLS and each.labels[0] == name),
            "longest": longest,
            "troubles": {
                name: function.guard.stats()["monitor"]["instrumentation_errors"]
                for name, function in self.functions.items()
            },
        }
        print(json.dumps(said), file=sys.stderr, flush=True)


def shutdown(service: Service) -> None:
    service.call(5)
    service.report()


def reload(service: Service) -> None:
    service.call(5)
    write_policies(service.folder, "slow_call = 50")
    policies.reload()
    assert "50" in str(service.functions["log"].guard.explain())
    service.call(5)
    service.report()


def clock(service: Service) -> None:
    wall, wall_ns = time.time, time.time_ns
    for shift in (0, -86_400, 365 * 86_400):
        time.time = lambda shift=shift: wall() + shift  # type: ignore[misc, assignment]
        time.time_ns = lambda shift=shift: wall_ns() + shift * 10**9  # type: ignore[misc, assignment]
        service.call(5)
    service.report()
    service.flush()


def no_disk(service: Service) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    service.call(5)
    service.report()


def fork(service: Service) -> None:
    service.call(5)
    child = os.fork()
    if child == 0:
        service.call(2)
        service.flush()
        service.report()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    service.report()


def killed(service: Service) -> None:
    service.call(5)
    service.flush()
    service.report()
    service.call(3)
    os.kill(os.getpid(), signal.SIGKILL)


SCENARIOS: dict[str, Callable[[Service], None]] = {
    each.__name__: each for each in (shutdown, reload, clock, no_disk, fork, killed)
}

if __name__ == "__main__":
    SCENARIOS[sys.argv[1]](Service(Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])))
