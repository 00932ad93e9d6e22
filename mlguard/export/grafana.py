"""A Grafana dashboard for people on call, from the registry of metrics.

Top to bottom it answers: is it well, what fails, how slow, what did each concern do, is there memory, are inputs as in
training, and can the dashboard be believed. It has a variable for the data source, the job, the guards and a field.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from mlguard.export import alerts
from mlguard.export.panels import SOURCE, bars, figure, lines, placed, row, table
from mlguard.export.promql import BAD, NOT_ASKED, Query
from mlguard.monitor import metrics
from mlguard.monitor.metrics import GUARD, Metric

__all__ = ["dashboard"]

_SCHEMA: Final = 39
"""The version of Grafana's dashboard model that this is written in: Grafana 11, which later ones migrate themselves."""

_EVERY: Final = "$__rate_interval"

_GREEN_TO_RED: Final = ("green", "red")
_RED_TO_GREEN: Final = ("red", "green")


def dashboard(matchers: str = "", title: str = "mlguard", *, rules: bool = True) -> dict[str, Any]:
    """The dashboard as Grafana imports it, or reads it from a provisioned folder.

    Args:
        matchers: What selects the services, beside the variables; empty: every one that mlguard guards.
        title: Its title; the address is made of it.
        rules: Whether the rules of `mlguard.export.alerts` are loaded: the drift of the whole fleet needs them.
    """
    query = _Selectors(matchers)
    panels = [panel for panel in _panels(query) if rules or "job_guard" not in str(panel.get("targets"))]
    return {
        "uid": "-".join(title.lower().split())[:40],
        "title": title,
        "description": "Every guarded function: traffic, failures, latency, what each concern did, memory and drift.",
        "tags": ["mlguard"],
        "schemaVersion": _SCHEMA,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": list(_variables(query))},
        "annotations": {"list": [_changes(query)]},
        "panels": list(placed(panels)),
    }


class _Selectors:
    """Selectors with the variables of the dashboard."""

    def __init__(self, matchers: str) -> None:
        self.fixed = Query(matchers)
        own = [matchers] if matchers else []
        self._all = Query(",".join([*own, 'job=~"$job"']))
        self._guards = Query(",".join([*own, 'job=~"$job"', 'guard=~"$guard"']))

    def __call__(self, metric: Metric, suffix: str = "", /, **labels: str) -> str:
        query = self._guards if GUARD in metric.labels else self._all
        return query(metric, suffix, **labels)

    def recorded(self, name: str) -> str:
        return self._guards.recorded(name)

    def rate(self, metric: Metric, *by: str, **labels: str) -> str:
        """Per second, summed up."""
        return f"sum by ({', '.join(by)}) (rate({self(metric, **labels)}[{_EVERY}]))"


def _panels(query: _Selectors) -> Iterator[dict[str, Any]]:
    bad, asked = query.rate(metrics.CALLS, disposition=BAD), query.rate(metrics.CALLS, disposition=NOT_ASKED)
    buckets = query(metrics.CALL_DURATION, "_bucket", disposition="executed")

    def quantile(share: float, *by: str) -> str:
        return f"histogram_quantile({share}, sum by ({', '.join(['le', *by])}) (rate({buckets}[{_EVERY}])))"

    yield row("Is it well?")
    yield figure("Calls", "All calls a second.", "reqps", query.rate(metrics.CALLS), width=4)
    yield figure(
        "Success",
        "Calls that neither failed nor were refused here; invalid input and cancellations are left out. Fallbacks "
        "count as success.",
        "percentunit",
        f"1 - ({bad}) / ({asked})",
        width=4,
        steps=(_RED_TO_GREEN, 0.99),
    )
    yield figure("p99", "99th percentile of the calls that ran.", "s", quantile(0.99), width=4)
    yield figure(
        "Open circuits",
        "Breakers that refuse calls now.",
        "short",
        f"sum({query(metrics.BREAKER_STATE, state='open')})",
        width=4,
        steps=(_GREEN_TO_RED, 1),
    )
    yield figure(
        "Drifting fields",
        "Fields that a worker sees leave the training data.",
        "short",
        f"count(max by (guard, field) ({query(metrics.DRIFT_ACTIVE)}) > 0) or vector(0)",
        width=4,
        steps=(_GREEN_TO_RED, 1),
    )
    yield figure(
        "Memory",
        "The fullest of all instances, of its nearest limit.",
        "percentunit",
        f"max({query(metrics.MEMORY_USED)} / {query(metrics.MEMORY_LIMIT)})",
        width=4,
        steps=(_GREEN_TO_RED, 0.9),
    )

    yield row("What fails?")
    yield lines(
        "Calls by disposition",
        "How calls ended.",
        "reqps",
        (query.rate(metrics.CALLS, "disposition"), "{{disposition}}"),
        stacked=True,
    )
    yield lines(
        "Failures by cause",
        "Calls that an exception ended, by its class.",
        "reqps",
        (
            f"topk(10, {query.rate(metrics.CALL_ERRORS, 'guard', 'disposition', 'error_type')} > 0)",
            "{{guard}} {{disposition}} {{error_type}}",
        ),
    )
    yield lines(
        "Schema violations by field",
        "Inputs and outputs that break their schema. All fields at once: a caller with another version of it.",
        "reqps",
        (
            f"topk(10, {query.rate(metrics.VALIDATION_FAILURES, 'guard', 'stage', 'field', 'error_type')} > 0)",
            "{{guard}} {{stage}} {{field}} {{error_type}}",
        ),
    )

    yield row("How slow?")
    yield lines(
        "Latency of calls that ran",
        "Cache hits and refusals, which are quick, are left out.",
        "s",
        *((quantile(share), f"p{share * 100:g}") for share in (0.5, 0.9, 0.99)),
    )
    yield lines("p99 by guard", "Of the calls that ran.", "s", (quantile(0.99, "guard"), "{{guard}}"))
    yield lines(
        "Time spent waiting",
        "Seconds that calls waited in a second: between attempts, for a slot, for memory.",
        "s",
        (query.rate(metrics.WAITED, "reason"), "{{reason}}"),
        stacked=True,
    )
    yield lines(
        "Slow calls",
        "Calls over the policy's slow_call.",
        "reqps",
        (query.rate(metrics.SLOW_CALLS, "guard"), "{{guard}}"),
    )

    yield row("What did each concern do?")
    yield lines(
        "Retries",
        "Attempts after a failed one, and calls that were not retried further.",
        "reqps",
        (query.rate(metrics.RETRIES, "guard"), "{{guard}}"),
        (query.rate(metrics.RETRIES_STOPPED, "guard", "reason") + " > 0", "{{guard}} stopped: {{reason}}"),
    )
    yield lines(
        "Attempts a call",
        "Attempts of functions with retry, by guard; 1 where nothing is retried.",
        "short",
        (
            f"{query.rate(metrics.ATTEMPTS, 'guard')} / "
            f"({query.rate(metrics.ATTEMPTS, 'guard')} - {query.rate(metrics.RETRIES, 'guard')})",
            "{{guard}}",
        ),
    )
    yield lines(
        "Circuits not closed",
        "Workers, or values of a key, whose breaker is open or half open.",
        "short",
        (f"sum by (guard, state) ({query(metrics.BREAKER_STATE, state='!=closed')})", "{{guard}} {{state}}"),
    )
    yield lines(
        "Breaker",
        "How often it opened, and the attempts it refused.",
        "reqps",
        (query.rate(metrics.BREAKER_TRANSITIONS, "guard", state="open"), "{{guard}} opened"),
        (query.rate(metrics.BREAKER_REJECTIONS, "guard"), "{{guard}} refused"),
    )
    yield lines(
        "Slots",
        "Calls that run, that wait, and that may run at once.",
        "short",
        (f"sum by (guard) ({query(metrics.CONCURRENCY_IN_USE)})", "{{guard}} in use"),
        (f"sum by (guard) ({query(metrics.CONCURRENCY_WAITING)})", "{{guard}} waiting"),
        (f"sum by (guard) ({query(metrics.CONCURRENCY_LIMIT)})", "{{guard}} limit"),
    )
    yield lines(
        "Refused for want of a slot",
        "By reason: the line was full, or the wait was in vain.",
        "reqps",
        (query.rate(metrics.CONCURRENCY_REJECTIONS, "guard", "reason"), "{{guard}} {{reason}}"),
    )
    yield lines(
        "Cache",
        "What became of calls, or of rows where rows are cached.",
        "reqps",
        (query.rate(metrics.CACHE_REQUESTS, "result"), "{{result}}"),
        stacked=True,
    )
    hits = query.rate(metrics.CACHE_REQUESTS, "guard", result="=~hit|coalesced|stale")
    yield lines(
        "Hit rate",
        "Share that nobody had to compute.",
        "percentunit",
        (f"{hits} / {query.rate(metrics.CACHE_REQUESTS, 'guard')}", "{{guard}}"),
    )
    yield lines(
        "Cached results",
        "Estimated size in memory, of all workers; evictions are results dropped for room.",
        "bytes",
        (f"sum by (guard) ({query(metrics.CACHE_BYTES)})", "{{guard}}"),
    )
    yield lines(
        "Cache: entries, evictions, time saved",
        "Entries are a number, evictions are per second, and so is the time saved, in seconds.",
        "short",
        (f"sum by (guard) ({query(metrics.CACHE_ENTRIES)})", "{{guard}} entries"),
        (query.rate(metrics.CACHE_EVICTIONS, "guard"), "{{guard}} evictions"),
        (query.rate(metrics.CACHE_SAVED, "guard"), "{{guard}} time saved"),
    )
    yield lines(
        "Shared store",
        "Operations that failed, by reason. Calls go on without it.",
        "reqps",
        (query.rate(metrics.CACHE_STORE_ERRORS, "guard", "reason"), "{{guard}} {{reason}}"),
    )
    yield lines(
        "Fallbacks and time limits",
        "Calls that a fallback answered, attempts whose time was up, rows that quarantine took out.",
        "reqps",
        (query.rate(metrics.FALLBACKS, "guard"), "{{guard}} fallback"),
        (query.rate(metrics.TIMEOUTS, "guard", "outcome"), "{{guard}} {{outcome}}"),
        (query.rate(metrics.REJECTED_ROWS, "guard"), "{{guard}} rejected rows"),
    )
    yield lines(
        "Threads left behind",
        "Of attempts whose time was up. What stays has a client without a timeout.",
        "short",
        (f"sum by (guard) ({query(metrics.THREADS_LEFT)})", "{{guard}}"),
    )

    yield row("Is there memory?")
    threshold = f"scalar(min({query(metrics.MEMORY_THRESHOLD)}))"
    yield lines(
        "Used and limit",
        "By instance. The threshold is that of the strictest guard.",
        "bytes",
        (f"max by (instance) ({query(metrics.MEMORY_USED)})", "{{instance}} used"),
        (f"max by (instance) ({query(metrics.MEMORY_LIMIT)})", "{{instance}} limit"),
        (f"max by (instance) ({query(metrics.MEMORY_LIMIT)}) * {threshold}", "{{instance}} threshold"),
    )
    yield lines(
        "Promised to calls in flight",
        "The sum of what calls in progress were admitted with.",
        "bytes",
        (f"sum by (instance) ({query(metrics.MEMORY_RESERVED)})", "{{instance}}"),
    )
    yield lines(
        "Calls that did not fit",
        "Refused (raise) or let pass (log), run in parts, and readings that failed.",
        "reqps",
        (query.rate(metrics.MEMORY_REJECTIONS, "guard", "action"), "{{guard}} {{action}}"),
        (query.rate(metrics.MEMORY_SPLITS, "guard"), "{{guard}} in parts"),
        (query.rate(metrics.MEMORY_UNREADABLE, "guard"), "{{guard}} unreadable"),
    )
    yield lines(
        "Freed from caches",
        "What caches gave up under pressure, a second.",
        "Bps",
        (query.rate(metrics.MEMORY_FREED, "guard"), "{{guard}}"),
    )

    yield row("Are inputs as in training?")
    yield lines(
        "Calls with values training never saw",
        "Outside the trained range, an unseen category, unusually many missing values.",
        "reqps",
        (query.rate(metrics.ANOMALOUS, "guard"), "{{guard}}"),
    )
    yield lines(
        "Drift, by worker",
        "Stability index of the fields that a worker found drifting; 0 while none does.",
        "short",
        (f"topk(10, max by (guard, field) ({query(metrics.DRIFT_SCORE)}))", "{{guard}} {{field}}"),
    )
    yield lines(
        "Drift of the whole fleet",
        "Stability index of all workers together over an hour, from the recording rules. Over 0.2: a large change.",
        "short",
        (f"topk(10, {query.recorded(alerts.PSI)})", "{{guard}} {{field}}"),
    )
    in_field = query(metrics.FEATURE_BIN, field="$field")
    shares = f"sum by (bin) (increase({in_field}[$__range])) / scalar(sum(increase({in_field}[$__range])))"
    yield bars(
        "$field: now against training",
        "Share of values in each bin over the time shown, beside the share in the training data.",
        (shares, "now"),
        (f"max by (bin) ({query(metrics.REFERENCE_BIN, field='$field')})", "training"),
    )
    yield lines(
        "Since the last judgement",
        "Time since a window was judged. Long: no traffic, or none whose function ran.",
        "s",
        (f"time() - (max by (guard) ({query(metrics.DRIFT_EVALUATED)}) > 0)", "{{guard}}"),
    )

    yield row("Can this be believed?")
    yield lines(
        "Events lost",
        "By sink: a queue was full, or it failed. Metrics are exact all the same.",
        "short",
        (query.rate(metrics.EVENTS_DROPPED, "sink"), "{{sink}}"),
    )
    yield lines(
        "Trouble in monitoring",
        "The calls themselves went on.",
        "short",
        (query.rate(metrics.INSTRUMENTATION_ERRORS, "guard"), "{{guard}}"),
    )
    yield table(
        "Policies in force",
        "Two rows of one guard: a rollout in progress, or a worker that did not reload.",
        f"max by (job, guard, policy, fingerprint, model_version) ({query(metrics.GUARD_INFO)})",
    )
    yield table("Versions", "What runs.", f"count by (job, version, python) ({query(metrics.BUILD_INFO)})")


def _variables(query: _Selectors) -> Iterator[dict[str, Any]]:
    yield {
        "name": "datasource",
        "label": "Data source",
        "type": "datasource",
        "query": "prometheus",
        "current": {},
        "hide": 0,
        "includeAll": False,
        "multi": False,
        "options": [],
        "refresh": 1,
    }
    jobs = query.fixed(metrics.BUILD_INFO)
    yield _variable("job", "Job", f"label_values({jobs}, job)")
    yield _variable("guard", "Guard", f"label_values({query.fixed(metrics.GUARD_INFO)}, guard)")
    yield _variable("field", "Field", f"label_values({query(metrics.REFERENCE_BIN)}, field)", several=False)


def _variable(name: str, label: str, definition: str, *, several: bool = True) -> dict[str, Any]:
    everything = {"text": "All", "value": "$__all"}
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": SOURCE,
        "definition": definition,
        "query": {"query": definition, "refId": f"{name}-variable"},
        "current": everything if several else {},
        "allValue": ".*" if several else None,
        "includeAll": several,
        "multi": several,
        "hide": 0,
        "options": [],
        "refresh": 2,
        "regex": "",
        "sort": 1,
    }


def _changes(query: _Selectors) -> dict[str, Any]:
    info = f"max by (guard, fingerprint, model_version) ({query(metrics.GUARD_INFO)})"
    return {
        "name": "Policy or model changed",
        "datasource": SOURCE,
        "enable": True,
        "hide": False,
        "iconColor": "blue",
        "expr": f"{info} unless {info.replace('})', '} offset 2m)')}",
        "step": "60s",
        "titleFormat": "{{guard}}",
        "textFormat": "policy {{fingerprint}}, model {{model_version}}",
        "target": {"refId": "Anno"},
    }
