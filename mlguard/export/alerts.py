"""Recording rules and alerts for Prometheus, from the registry of metrics.

An alert says what is wrong, for whom, and what to do first. Those on errors follow the burn of an error budget over two
windows at once (Google's SRE workbook, chapter 5): a short one, so that it ends when the trouble does, and a long one,
so that a bad minute wakes nobody. The fleet's drift is added up here, because each worker sees a part of the traffic.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from mlguard.drift.effects import SMOOTH
from mlguard.errors import PolicyError
from mlguard.export.promql import BAD, NOT_ASKED, Query
from mlguard.monitor import metrics

__all__ = ["Limits", "as_yaml", "rules"]

PSI: Final = "job_guard_field:mlguard_drift_psi:increase1h"
ROWS: Final = "job_guard_field:mlguard_feature_rows:increase1h"
SHARE: Final = "job_guard_field_bin:mlguard_feature_bin:ratio1h"
ERRORS: Final = "job_guard:mlguard_call_errors:ratio_rate{window}"
SUCCESS: Final = "job_guard:mlguard_call_success:ratio_rate5m"
RATE: Final = "job_guard_disposition:mlguard_calls:rate5m"
LATENCY: Final = "job_guard:mlguard_call_duration_seconds:p{percent}_5m"
HITS: Final = "job_guard:mlguard_cache_hits:ratio_rate5m"


@dataclass(frozen=True, slots=True)
class Limits:
    """From where on somebody is told.

    Raises:
        PolicyError: One is impossible.
    """

    objective: float = 0.99
    """The share of calls that should go well; invalid input and cancellations are nobody's failure. 0.99: a start."""
    invalid: float = 0.05
    """The share of calls with invalid input from which a caller is thought to be broken."""
    degraded: float = 0.1
    """The share of calls that a fallback may answer."""
    psi: float = 0.2
    """The population stability index of the whole fleet in an hour: the field's usual word for a large change."""
    rows: int = 1_000
    """Rows in that hour below which nothing is said about drift."""
    memory: float = 0.95
    """The share of the memory limit that is too near to it."""
    p99: float | None = None
    """Seconds that the 99th percentile of executed calls may take. None: no alert, because only you know."""

    def __post_init__(self) -> None:
        for name in ("objective", "invalid", "degraded", "memory"):
            value = getattr(self, name)
            if not 0 < value < 1:
                raise PolicyError(f"{name} = {value!r} must be above 0 and below 1. Fix: a share, such as 0.99.")
        if not self.psi > 0 or self.rows < 1 or (self.p99 is not None and not self.p99 > 0):
            raise PolicyError("psi, rows and p99 must be more than 0.")


def rules(matchers: str = "", limits: Limits | None = None) -> dict[str, Any]:
    """Groups of rules, as a Prometheus rule file has them.

    Args:
        matchers: What selects the service, such as ``job="api"``; empty: every service that mlguard guards.
        limits: When somebody is told. None: the defaults.
    """
    query, limits = Query(matchers), limits or Limits()
    return {
        "groups": [
            {"name": "mlguard_recording", "rules": list(_recorded(query))},
            {"name": "mlguard_alerts", "rules": list(_alerts(query, limits))},
        ]
    }


def _recorded(query: Query) -> Iterator[dict[str, str]]:
    guard, field = query.by("guard"), query.by("guard", "field")
    of_bin = query.by("guard", "field", "bin")

    def record(name: str, expression: str) -> dict[str, str]:
        return {"record": name, "expr": expression}

    yield record(RATE, f"sum {query.by('guard', 'disposition')} (rate({query(metrics.CALLS)}[5m]))")
    for window in ("5m", "30m", "1h", "6h"):
        bad = f"sum {guard} (rate({query(metrics.CALLS, disposition=BAD)}[{window}]))"
        asked = f"sum {guard} (rate({query(metrics.CALLS, disposition=NOT_ASKED)}[{window}]))"
        yield record(ERRORS.format(window=window), f"{bad}\n/\n({asked} > 0)")
    yield record(SUCCESS, f"1 - {query.recorded(ERRORS.format(window='5m'))}")
    buckets = query(metrics.CALL_DURATION, "_bucket", disposition="executed")
    for percent in (50, 99):
        yield record(
            LATENCY.format(percent=percent),
            f"histogram_quantile({percent / 100}, sum {query.by('guard', 'le')} (rate({buckets}[5m])))",
        )
    hits = f"sum {guard} (rate({query(metrics.CACHE_REQUESTS, result='=~hit|coalesced|stale')}[5m]))"
    yield record(HITS, f"{hits}\n/\n(sum {guard} (rate({query(metrics.CACHE_REQUESTS)}[5m])) > 0)")

    counted = f"sum {of_bin} (increase({query(metrics.FEATURE_BIN)}[1h]))"
    rows, share = query.recorded(ROWS), query.recorded(SHARE)
    yield record(ROWS, f"sum {field} (increase({query(metrics.FEATURE_BIN)}[1h]))")
    yield record(
        SHARE,
        f"({counted} + {SMOOTH})\n/ {field.replace('by', 'on', 1)} group_left ()\n"
        f"({rows} + {SMOOTH} * count {field} ({counted}))",
    )
    reference = f"max {of_bin} ({query(metrics.REFERENCE_BIN)})"
    yield record(
        PSI,
        f"clamp_min(\n  sum {field} (({share} - {reference}) * ln({share} / {reference}))\n"
        f"  - (count {field} ({share}) - 1) / ({rows} > 0),\n  0)",
    )


def _alerts(query: Query, limits: Limits) -> Iterator[dict[str, Any]]:
    guard, field = query.by("guard"), query.by("guard", "field")
    allowed = 1 - limits.objective

    def burning(factor: float, short: str, long: str) -> str:
        both = (query.recorded(ERRORS.format(window=window)) for window in (short, long))
        return "\nand\n".join(f"{ratio} > {factor * allowed:.6g}" for ratio in both)

    yield _alert(
        "MlguardErrorBudgetBurnsFast",
        burning(14.4, "5m", "1h"),
        "2m",
        "critical",
        "{{ $labels.guard }} fails so often that a month's error budget is gone in two days",
        "{{ $value | humanizePercentage }} of the calls of {{ $labels.guard }} ({{ $labels.job }}) fail or are "
        f"refused; {allowed:.3%} would be within the objective.",
        f"Ask which: sum by (disposition, error_type) (rate({metrics.CALL_ERRORS.name}[5m])). rejected_breaker or "
        "failed with a connection error: look at the callee. rejected_memory, rejected_concurrency: add replicas or "
        "send less. Began with a deployment: roll back.",
    )
    yield _alert(
        "MlguardErrorBudgetBurnsSlowly",
        burning(6, "30m", "6h"),
        "15m",
        "warning",
        "{{ $labels.guard }} has failed too often for hours",
        "{{ $value | humanizePercentage }} of the calls of {{ $labels.guard }} ({{ $labels.job }}) in half an hour "
        f"failed or were refused; {allowed:.3%} would be within the objective.",
        f"Find the cause in working hours: sum by (disposition, error_type) (rate({metrics.CALL_ERRORS.name}[1h])), "
        "then the log records of that error.type.",
    )
    yield _alert(
        "MlguardBreakerOpen",
        f"max {guard} ({query(metrics.BREAKER_STATE, state='open')}) > 0",
        "2m",
        "critical",
        "The circuit of {{ $labels.guard }} is open",
        "{{ $labels.guard }} ({{ $labels.job }}) refuses calls, because too many of those before failed.",
        "What it calls is in trouble: look there first. The record mlguard.breaker.opened says with which failure. It "
        "closes by itself when a probe succeeds.",
    )
    yield _alert(
        "MlguardMemoryPressure",
        f"sum {guard} (rate({query(metrics.MEMORY_REJECTIONS)}[5m])) > 0",
        "5m",
        "warning",
        "{{ $labels.guard }} has no memory for its calls",
        "{{ $value | humanize }} calls a second of {{ $labels.guard }} ({{ $labels.job }}) did not fit below the "
        "memory threshold.",
        "Compare mlguard_memory_used_bytes with its limit: near it without load, something leaks; with load, add "
        "replicas or memory, send smaller batches, or set memory.split.",
    )
    yield _alert(
        "MlguardMemoryNearLimit",
        f"{query(metrics.MEMORY_USED)} / {query(metrics.MEMORY_LIMIT)} > {limits.memory:g}",
        "5m",
        "critical",
        "{{ $labels.instance }} is about to run out of memory",
        "{{ $value | humanizePercentage }} of the memory limit of {{ $labels.instance }} ({{ $labels.job }}) is used.",
        "The kernel kills what reaches the limit. Send it less, or restart it before that happens, and find what grew: "
        "calls without memory= are not held back.",
    )
    yield _alert(
        "MlguardInvalidInput",
        f"sum {guard} (rate({query(metrics.CALLS, disposition='rejected_validation')}[5m]))\n/\n"
        f"(sum {guard} (rate({query(metrics.CALLS)}[5m])) > 0)\n> {limits.invalid:g}",
        "5m",
        "warning",
        "Callers send {{ $labels.guard }} what its schema refuses",
        "{{ $value | humanizePercentage }} of the calls of {{ $labels.guard }} ({{ $labels.job }}) have invalid input.",
        f"Which field: sum by (stage, field, error_type) (rate({metrics.VALIDATION_FAILURES.name}[5m])). One field: "
        "its source changed. All fields: a caller with another version of the schema.",
    )
    yield _alert(
        "MlguardDegraded",
        f"sum {guard} (rate({query(metrics.CALLS, disposition='fallback')}[15m]))\n/\n"
        f"(sum {guard} (rate({query(metrics.CALLS)}[15m])) > 0)\n> {limits.degraded:g}",
        "5m",
        "warning",
        "{{ $labels.guard }} mostly answers with its fallback",
        "{{ $value | humanizePercentage }} of the calls of {{ $labels.guard }} ({{ $labels.job }}) got the fallback in "
        "place of a prediction.",
        "Callers see no error, and get less than they asked for. Look at what the function fails with: the records of "
        "disposition fallback, and the breaker.",
    )
    yield _alert(
        "MlguardDriftActive",
        f"max {field} ({query(metrics.DRIFT_ACTIVE)}) > 0",
        "10m",
        "warning",
        "{{ $labels.field }} of {{ $labels.guard }} is not what the model was trained on",
        "A worker of {{ $labels.guard }} ({{ $labels.job }}) saw {{ $labels.field }} leave the training data.",
        "Compare the bins of the field with the reference in the dashboard. A unit, a default or a source that changed "
        "is mended there; a world that changed wants a model trained anew, and a new profile.",
    )
    yield _alert(
        "MlguardFleetDrift",
        f"{query.recorded(PSI)} > {limits.psi:g}\nand\n{query.recorded(ROWS)} >= {limits.rows}",
        "15m",
        "warning",
        "{{ $labels.field }} of {{ $labels.guard }} drifted in all workers together",
        "The population stability index of {{ $labels.field }} of {{ $labels.guard }} ({{ $labels.job }}) was "
        "{{ $value | humanize }} in the last hour.",
        "As for MlguardDriftActive. Where only this one fires, no single worker has seen enough to be sure.",
    )
    yield _alert(
        "MlguardEventsDropped",
        f"sum {query.by('sink')} (increase({query(metrics.EVENTS_DROPPED)}[15m])) > 0",
        None,
        "warning",
        "Events of {{ $labels.job }} are lost on the way to {{ $labels.sink }}",
        "{{ $value | humanize }} events were dropped in 15 minutes.",
        "The sink is slower than the traffic, or fails: look at it. Lower monitor.sample_rate if it can't keep up. "
        "Metrics are exact all the same.",
    )
    yield _alert(
        "MlguardInstrumentationErrors",
        f"sum {guard} (increase({query(metrics.INSTRUMENTATION_ERRORS)}[15m])) > 0",
        None,
        "warning",
        "Monitoring of {{ $labels.guard }} goes wrong",
        "{{ $value | humanize }} times in 15 minutes; the calls themselves went on ({{ $labels.job }}).",
        'f.guard.stats()["monitor"]["last_instrumentation_error"] says what it was last; guard "other" is the metrics '
        "themselves, which log mlguard.metrics.*.",
    )
    if limits.p99 is not None:
        yield _alert(
            "MlguardSlow",
            f"{query.recorded(LATENCY.format(percent=99))} > {limits.p99:g}",
            "5m",
            "warning",
            "{{ $labels.guard }} is slow",
            "The 99th percentile of {{ $labels.guard }} ({{ $labels.job }}) is {{ $value | humanizeDuration }}; "
            f"{limits.p99:g}s are allowed.",
            f"Work or waiting? rate({metrics.WAITED.name}[5m]) by reason says how much of it was pauses between "
            "attempts, slots, or memory.",
        )
    yield _alert(
        "MlguardAbsent",
        f"absent({query(metrics.BUILD_INFO)})",
        "5m",
        "critical",
        "No guarded service is to be seen",
        "Prometheus has had no metric of mlguard from this service for five minutes: every other alert is blind.",
        "Is it up, does /metrics answer, and is mlguard.sinks.prometheus.register() called where it starts?",
    )


def _alert(
    name: str, expression: str, lasting: str | None, severity: str, summary: str, description: str, runbook: str
) -> dict[str, Any]:
    return {
        "alert": name,
        "expr": expression,
        **({} if lasting is None else {"for": lasting}),
        "labels": {"severity": severity},
        "annotations": {"summary": summary, "description": description, "runbook": runbook},
    }


def as_yaml(document: Any, indent: int = 0) -> str:
    """Dicts, lists and scalars as YAML 1.2, with long expressions as blocks that a person can read."""
    pad = "  " * indent
    lines: list[str] = []
    pairs = document.items() if isinstance(document, dict) else (("-", item) for item in document)
    for key, value in pairs:
        head = f"{pad}-" if key == "-" else f"{pad}{key}:"
        if isinstance(value, dict | list):
            inner = as_yaml(value, indent + 1)
            lines.append(f"{head} {inner.lstrip()}" if key == "-" else f"{head}\n{inner}")
        elif isinstance(value, str) and "\n" in value:
            block = "\n".join(f"{pad}  {line}" for line in value.splitlines())
            lines.append(f"{head} |-\n{block}")
        else:
            lines.append(f"{head} {json.dumps(value, ensure_ascii=False)}")
    return "\n".join(lines)
