"""OpenTelemetry: the metrics of every guarded function as instruments of the application's meter provider.

Counters and gauges are observed: the provider's reader asks when it exports, and a call pays nothing. A histogram can't
be observed, so each duration goes through a bounded queue to a thread that records it. Names are those of Prometheus
with dots, without unit and ``_total``, so that a collector that writes Prometheus makes the very same names again.
Spans are no matter of this module: see ``Monitor(spans=True)``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from mlguard.forks import in_children
from mlguard.monitor import readings
from mlguard.monitor.drain import EXIT_WAIT, Drain
from mlguard.monitor.listeners import Ended, listen, unlisten
from mlguard.monitor.metrics import CALL_DURATION, METRICS, Histogram, Metric
from mlguard.monitor.readings import Reading

try:
    from opentelemetry import metrics as api
    from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(
        f"mlguard.sinks.opentelemetry needs {missing.name}, which is not installed. "
        "Fix: pip install opentelemetry-api (mlguard's extra 'opentelemetry').",
        name=missing.name,
    ) from None

__all__ = ["Exported", "start"]


def start(meter_provider: MeterProvider | None = None) -> Exported:
    """Shows the metrics to a meter provider: call it once, where the service starts.

    Calling it again with the same provider changes nothing. In a process that is forked later, export goes on there
    where the provider's does.

    Args:
        meter_provider: The application's. None: the global one, also where that is set later.
    """
    provider = api.get_meter_provider() if meter_provider is None else meter_provider
    with _lock:
        exported = _exported.get(id(provider))
        if exported is None:
            exported = _exported[id(provider)] = Exported(provider)
        return exported


class Exported:
    """What one meter provider is shown. `start` makes it."""

    def __init__(self, provider: MeterProvider) -> None:
        from mlguard import __version__

        self._provider = provider  # kept, so that no other provider gets its id
        self._readings = _OncePerExport()
        self._stopped = False
        meter = provider.get_meter("mlguard", __version__)
        kinds: dict[tuple[str, str], Callable[..., Any]] = {
            ("counter", "sum"): meter.create_observable_counter,
            ("gauge", "sum"): meter.create_observable_up_down_counter,
            ("gauge", "max"): meter.create_observable_gauge,
        }
        self._instruments = [
            kinds[metric.kind, metric.together](metric.dotted, [self._observer(metric)], metric.unit_code, metric.help)
            for metric in METRICS
            if metric.kind != "histogram"
        ]
        self._durations = meter.create_histogram(
            CALL_DURATION.dotted,
            CALL_DURATION.unit_code,
            CALL_DURATION.help,
            explicit_bucket_boundaries_advisory=CALL_DURATION.buckets,
        )
        self._queue = Drain("opentelemetry", self._record)
        listen(self._queue.put)

    def flush(self, timeout: float = EXIT_WAIT) -> bool:
        """Waits until the durations of past calls are recorded; what the provider exports is for it to flush."""
        return self._queue.flush(timeout)

    def stop(self) -> None:
        """Shows nothing any more; `start` with the same provider begins anew."""
        with _lock:
            _exported.pop(id(self._provider), None)
        unlisten(self._queue.put)
        self._queue.close()
        self._stopped = True

    def stats(self) -> dict[str, Any]:
        """What became of the durations, as `Drain.stats` says it."""
        return self._queue.stats()

    def _observer(self, metric: Metric) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(options: CallbackOptions) -> Iterator[Observation]:
            if not self._stopped:
                for _, labels, value in self._readings.of(metric):
                    if not isinstance(value, Histogram):
                        yield Observation(value, dict(zip(metric.labels, labels, strict=True)))

        return observe

    def _record(self, calls: list[Ended]) -> None:
        for guard, disposition, duration in calls:
            self._durations.record(duration, {"guard": guard, "disposition": disposition})


class _OncePerExport:
    """One reading for all instruments of an export: a new one is taken when an instrument asks a second time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked: set[Metric] = set()
        self._last: dict[Metric, list[Reading]] | None = None

    def of(self, metric: Metric) -> list[Reading]:
        """The series of one metric."""
        with self._lock:
            if self._last is None or metric in self._asked:
                self._asked.clear()
                self._last = {}
                for reading in readings.read():
                    self._last.setdefault(reading.metric, []).append(reading)
            self._asked.add(metric)
            return self._last.get(metric, [])


def _renew() -> None:
    global _lock
    _lock = threading.Lock()
    for exported in _exported.values():
        exported._readings = _OncePerExport()


_lock = threading.Lock()
_exported: dict[int, Exported] = {}
in_children(_renew)
