"""Prometheus: the metrics of every guarded function in a registry of `prometheus_client`, or as the text of a scrape.

In one process a collector reads the counts when it is scraped, and a call pays nothing. With several workers a scrape
meets only one of them, so that each keeps its counts in files that all can read: `prometheus_files.py`. Which of the
two it is, `prometheus_client` decides by the variable PROMETHEUS_MULTIPROC_DIR, when it is first imported.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from mlguard.errors import PolicyError
from mlguard.forks import in_children
from mlguard.monitor import metrics, readings
from mlguard.monitor.metrics import GUARD, Histogram, Metric
from mlguard.monitor.readings import Reading

try:
    from prometheus_client import REGISTRY, CollectorRegistry
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
    from prometheus_client.exposition import choose_encoder
    from prometheus_client.values import ValueClass
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(
        "mlguard.sinks.prometheus needs prometheus_client, which is not installed. "
        "Fix: pip install prometheus-client (mlguard's extra 'prometheus').",
        name=missing.name,
    ) from None

if TYPE_CHECKING:
    from prometheus_client.core import Metric as Family

    from mlguard.sinks.prometheus_files import Writer

__all__ = ["exposition", "flush", "register"]

_MARK: Final = "_mlguard"
"""The attribute of a registry under which it knows our collector, whichever copy of this module made it."""

Read = Callable[[], Iterable[Reading]]


def register(registry: CollectorRegistry = REGISTRY) -> None:
    """Puts the metrics into a registry: call it once, where the service starts. Calling it again changes nothing.

    Where PROMETHEUS_MULTIPROC_DIR is set, it starts the thread that keeps this process's counts in a file there, and
    again in every child that the process forks. A registry has no part in that.

    Raises:
        PolicyError: PROMETHEUS_MULTIPROC_DIR names no folder that can be written to, or the registry has a metric of
            one of our names already.
    """
    if _multiprocess():
        _writer().start()
        return
    with _lock:
        collector: Collector | None = vars(registry).get(_MARK)
        if collector is None:
            collector = Collector()
            try:
                registry.register(collector)
            except ValueError as error:
                raise PolicyError(
                    f"prometheus: the registry has metrics of mlguard's names already ({error}). "
                    "Fix: rename the application's, or mlguard.sinks.prometheus.register(another_registry)."
                ) from None
            vars(registry)[_MARK] = collector
        # By name: a module that was loaded anew takes the place of the old one; another copy of mlguard adds to it.
        collector.reads[readings.__name__] = readings.read


def flush() -> None:
    """Writes the counts of this process to its file now, where there are several workers.

    That happens by itself when the interpreter ends. uvicorn ends its workers by a signal, which is no such end: there,
    call it at the end of the application's lifespan.
    """
    if _multiprocess():
        _writer().flush()


def exposition(accept: str | None = None, registry: CollectorRegistry = REGISTRY) -> tuple[bytes, str]:
    """The answer to a scrape, and its content type: the application's own metrics and mlguard's.

    With several workers it is the sum of all of them, the dead included.

    Args:
        accept: The ``Accept`` header of the request, by which OpenMetrics or the older text is chosen. None: the older.
        registry: Where the application's own metrics are. With several workers their files are read instead.
    """
    register(registry)
    encode, content_type = choose_encoder(accept or "")
    if _multiprocess():
        registry = CollectorRegistry()
        registry.register(_writer().collector())
    return encode(registry), content_type


class Collector:
    """What a registry asks at a scrape."""

    def __init__(self) -> None:
        self.reads: dict[str, Read] = {}

    def collect(self) -> Iterator[Family]:
        found = merged(self.reads.values())
        for metric in metrics.METRICS:
            family = _family(metric)
            for labels, value in found.get(metric.name, {}).items():
                if isinstance(value, Histogram):
                    family.add_metric(labels, buckets_of(metric, value), value.total)  # type: ignore[attr-defined]
                else:
                    family.add_metric(labels, value)  # type: ignore[attr-defined]
            yield family

    def describe(self) -> Iterator[Family]:
        """Names alone, so that a registry notices a second metric of a name, and finds one that is asked for."""
        return map(_family, metrics.METRICS)


def merged(reads: Iterable[Read]) -> dict[str, dict[tuple[str, ...], float | Histogram]]:
    """Series by metric and labels; those of several copies of mlguard in one process together."""
    found: dict[str, dict[tuple[str, ...], float | Histogram]] = {}
    for read in list(reads):
        for metric, labels, value in read():
            series = found.setdefault(metric.name, {})
            series[labels] = value if labels not in series else _together(metric, series[labels], value)
    return found


def buckets_of(metric: Metric, value: Histogram) -> list[tuple[str, float]]:
    """The cumulative buckets, by their upper edge as Prometheus writes it."""
    pairs: list[tuple[str, float]] = []
    count = 0
    for edge, number in zip((*metric.buckets, float("inf")), value.counts, strict=True):
        count += number
        pairs.append((edge_text(edge), count))
    return pairs


def edge_text(edge: float) -> str:
    """A bucket's upper edge, as the label ``le`` has it."""
    return "+Inf" if edge == float("inf") else repr(float(edge))


def _together(metric: Metric, first: Any, second: Any) -> float | Histogram:
    if metric.kind == "histogram":
        counts = tuple(a + b for a, b in zip(first[0], second[0], strict=True))
        return Histogram(counts, first[1] + second[1])
    largest = metric.kind == "gauge" and (metric.together == "max" or GUARD not in metric.labels)
    return max(first, second) if largest else first + second  # type: ignore[no-any-return]


_FAMILIES: Final[Mapping[str, Any]] = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
}


def _family(metric: Metric) -> Family:
    made: Family = _FAMILIES[metric.kind](metric.name, metric.help, labels=metric.labels, unit=metric.unit)
    return made


def _multiprocess() -> bool:
    return bool(ValueClass._multiprocess)


def _writer() -> Writer:
    """The one of this process, whichever copy of this module made it."""
    from mlguard.sinks.prometheus_files import Writer

    with _lock:
        writer: Writer | None = vars(ValueClass).get(_MARK)
        if writer is None:
            writer = Writer()
            setattr(ValueClass, _MARK, writer)
        writer.reads[readings.__name__] = readings.read
        return writer


def _renew() -> None:
    global _lock
    _lock = threading.Lock()


_lock = threading.Lock()
in_children(_renew)
