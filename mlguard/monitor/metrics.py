"""The metrics: every one declared once, with its kind, labels, unit and buckets.

From here come the Prometheus text, the instruments of OpenTelemetry and Datadog, the table in `docs/metrics.md`, the
dashboard and the alert rules. Values are in no place of their own: a room's `metrics()` says what it counts anyway, and
`readings.py` puts that together when somebody asks, so that a metric costs a call nothing. What would cost a call
something is no metric: the time of each stage, and the calls in progress of a function without a limit.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, Protocol, TypeAlias

from mlguard.monitor.latency import BUCKETS

__all__ = ["GUARD", "METRICS", "Figure", "Histogram", "Metered", "Metric"]

GUARD: Final = "guard"
"""The label that names the guarded function, by module and qualified name; for what functions share, ``scope:NAME``."""


@dataclass(frozen=True, slots=True, eq=False)  # there is one object for each: equal only to itself, and quick to hash
class Metric:
    """One metric.

    The name is that of Prometheus: ``mlguard_``, what is counted, the unit, and ``_total`` for a counter. Elsewhere it
    is `dotted`, from which an OpenTelemetry collector makes the name of Prometheus again.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = (GUARD,)
    """In the order in which values are given."""
    unit: Literal["", "seconds", "bytes"] = ""
    buckets: tuple[float, ...] = ()
    """Of a histogram: upper edges, ascending; one more for what is above them."""
    together: Literal["sum", "max"] = "sum"
    """Of a gauge: what several processes, or several functions of one name, make together. Counters add up. Without
    `GUARD` it is one thing of the process, of which the largest of several figures counts."""

    @property
    def dotted(self) -> str:
        """``mlguard.call_duration`` for ``mlguard_call_duration_seconds``: without the unit, which is told apart."""
        rest = self.name.removeprefix("mlguard_").removesuffix("_total")
        return "mlguard." + (rest.removesuffix(f"_{self.unit}") if self.unit else rest)

    @property
    def unit_code(self) -> str:
        """The unit in the Unified Code for Units of Measure, as OpenTelemetry wants it; 1: it is a mere number."""
        return {"seconds": "s", "bytes": "By", "": "1"}[self.unit]


class Histogram(NamedTuple):
    """What a histogram holds."""

    counts: tuple[int, ...]
    """By bucket, each for itself (not cumulative); the last is above the highest edge."""
    total: float
    """The sum of what was observed."""


Figure: TypeAlias = tuple[Metric, tuple[str, ...], "float | Histogram"]
"""What a room says: the metric, the values of its labels without `GUARD`, and the value. A counter says what was
counted since the last `reset()`. Figures of one metric and labels add up."""


class Metered(Protocol):
    """What says figures of its own: a room, or anything that `readings.also()` was told of."""

    def metrics(self) -> Iterable[Figure]:
        """The figures of this moment, those at 0 included.

        Called by whoever reads, in any thread, and by a destructor: it must not run code of the user's.
        """
        ...


_CALL_BUCKETS = tuple(edge for edge in BUCKETS if edge >= 0.001)


def _counter(name: str, text: str, *labels: str, unit: Literal["", "seconds", "bytes"] = "") -> Metric:
    return Metric(name, "counter", text, (GUARD, *labels), unit)


def _gauge(
    name: str,
    text: str,
    *labels: str,
    unit: Literal["", "seconds", "bytes"] = "",
    together: Literal["sum", "max"] = "sum",
) -> Metric:
    return Metric(name, "gauge", text, (GUARD, *labels), unit, together=together)


CALLS: Final = _counter("mlguard_calls_total", "Calls, by how they ended.", "disposition")
CALL_ERRORS: Final = _counter(
    "mlguard_call_errors_total",
    "Calls that an exception ended, by how they ended and by its class; the classes beyond the first 50 are 'other'.",
    "disposition",
    "error_type",
)
CALL_DURATION: Final = Metric(
    "mlguard_call_duration_seconds",
    "histogram",
    "Time from the start of a call to its end, waits and retries included, by how it ended.",
    (GUARD, "disposition"),
    "seconds",
    _CALL_BUCKETS,
)
SLOW_CALLS: Final = _counter("mlguard_slow_calls_total", "Calls that took as long as slow_call, or longer.")

VALIDATION_FAILURES: Final = _counter(
    "mlguard_validation_failures_total",
    "Calls whose input or output broke its schema, refused or let pass, by field and by pydantic's error type. A call "
    "counts once for each field and type.",
    "stage",
    "field",
    "error_type",
)
REJECTED_ROWS: Final = _counter("mlguard_rejected_rows_total", "Rows of tables that quarantine took out.")

ATTEMPTS: Final = _counter("mlguard_attempts_total", "Attempts of functions with retry: first ones and retries.")
RETRIES: Final = _counter("mlguard_retries_total", "Attempts after a failed one.")
RETRIES_STOPPED: Final = _counter(
    "mlguard_retries_stopped_total", "Calls that were not retried further although they could be.", "reason"
)
WAITED: Final = _counter(
    "mlguard_waited_seconds_total",
    "Time that calls spent waiting: between attempts, for a slot, for memory.",
    "reason",
    unit="seconds",
)
FALLBACKS: Final = _counter("mlguard_fallbacks_total", "Calls that the fallback answered.")
TIMEOUTS: Final = _counter(
    "mlguard_timeouts_total",
    "Attempts whose time was up: cancelled, ended late, not started, or left behind in a thread.",
    "outcome",
)
THREADS_LEFT: Final = _gauge(
    "mlguard_threads_left_running", "Threads left behind by attempts whose time was up, that still run."
)

BREAKER_STATE: Final = _gauge(
    "mlguard_breaker_state",
    "1 for the state the breaker is in; the number of breakers, where each key has one.",
    "state",
)
BREAKER_TRANSITIONS: Final = _counter(
    "mlguard_breaker_transitions_total", "How often the breaker came into a state.", "state"
)
BREAKER_REJECTIONS: Final = _counter("mlguard_breaker_rejections_total", "Attempts that the breaker refused.")

CONCURRENCY_LIMIT: Final = _gauge("mlguard_concurrency_limit", "Calls that may run at once.")
CONCURRENCY_IN_USE: Final = _gauge("mlguard_concurrency_in_use", "Slots that are taken.")
CONCURRENCY_WAITING: Final = _gauge("mlguard_concurrency_waiting", "Calls that wait for a slot.")
CONCURRENCY_REJECTIONS: Final = _counter(
    "mlguard_concurrency_rejections_total", "Attempts refused for want of a slot.", "reason"
)

CACHE_REQUESTS: Final = _counter(
    "mlguard_cache_requests_total", "What the cache did with calls; with rows=True, with rows.", "result"
)
CACHE_ENTRIES: Final = _gauge("mlguard_cache_entries", "Results that are kept in memory.")
CACHE_BYTES: Final = _gauge("mlguard_cache_bytes", "Estimated size of the results kept in memory.", unit="bytes")
CACHE_EVICTIONS: Final = _counter("mlguard_cache_evictions_total", "Results dropped before their time, for room.")
CACHE_SAVED: Final = _counter(
    "mlguard_cache_saved_seconds_total", "Time that computing the hits anew would have taken.", unit="seconds"
)
CACHE_STORE_ERRORS: Final = _counter(
    "mlguard_cache_store_errors_total", "Operations of the shared store that failed.", "reason"
)

MEMORY_USED: Final = Metric(
    "mlguard_memory_used_bytes",
    "gauge",
    "Memory used, by the limit that leaves the least room; files that the kernel can drop are not counted.",
    (),
    "bytes",
    together="max",
)
MEMORY_LIMIT: Final = Metric(
    "mlguard_memory_limit_bytes", "gauge", "That limit: of the container, a parent, or the host.", (), "bytes",
    together="max",
)  # fmt: skip
MEMORY_THRESHOLD: Final = _gauge(
    "mlguard_memory_threshold_ratio", "Share of the limit up to which calls are admitted.", together="max"
)
MEMORY_RESERVED: Final = Metric(
    "mlguard_memory_reserved_bytes", "gauge", "Memory promised to calls in flight in this process.", (), "bytes"
)
MEMORY_REJECTIONS: Final = _counter(
    "mlguard_memory_rejections_total",
    "Calls that did not fit: refused (raise), or let pass with a warning (log).",
    "action",
)
MEMORY_SPLITS: Final = _counter("mlguard_memory_splits_total", "Calls that ran in parts to fit.")
MEMORY_FREED: Final = _counter(
    "mlguard_memory_freed_bytes_total", "Memory that caches gave up under pressure.", unit="bytes"
)
MEMORY_UNREADABLE: Final = _counter(
    "mlguard_memory_unreadable_total", "Readings that failed, so that calls were admitted blindly for a second."
)

ANOMALOUS: Final = _counter("mlguard_anomalous_inputs_total", "Calls with values that training never saw.")
FEATURE_BIN: Final = _counter(
    "mlguard_feature_bin_total",
    "Values by bin of the reference profile; fleet-wide drift adds them up.",
    "field",
    "bin",
)
REFERENCE_BIN: Final = _gauge(
    "mlguard_reference_bin_ratio",
    "Share of the training data in that bin, smoothed: half a row is added to each, so that none is 0.",
    "field",
    "bin",
    together="max",
)
DRIFT_SCORE: Final = _gauge(
    "mlguard_drift_score",
    "Population stability index of a field that drifts, by its last window; 0 while it does not.",
    "field",
    together="max",
)
DRIFT_ACTIVE: Final = _gauge("mlguard_drift_active", "1 while a field drifts.", "field", together="max")
DRIFT_EVALUATED: Final = _gauge(
    "mlguard_drift_last_evaluation_timestamp_seconds",
    "When a window was judged last, as a Unix time; 0: never.",
    unit="seconds",
    together="max",
)

EVENTS_DROPPED: Final = Metric(
    "mlguard_events_dropped_total", "counter", "Events that a sink lost: its queue was full, or it failed.", ("sink",)
)
INSTRUMENTATION_ERRORS: Final = _counter(
    "mlguard_instrumentation_errors_total", "What went wrong in monitoring itself; the calls went on."
)
GUARD_INFO: Final = _gauge(
    "mlguard_guard_info", "1 for the policy in force.", "policy", "fingerprint", "model_version", together="max"
)
BUILD_INFO: Final = Metric(
    "mlguard_build_info", "gauge", "1 for the versions that run.", ("version", "python"), together="max"
)

METRICS: Final = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
"""All of them, in the order of this file."""
