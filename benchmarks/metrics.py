"""Claim: metrics cost a call nothing, because a scrape reads what is counted anyway; and what the scrape costs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from time import perf_counter
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram

from benchmarks.case import OURS, Budget, Case
from benchmarks.subject import CALL, score
from mlguard import Monitor, guarded
from mlguard.sinks import prometheus

__all__ = ["cases"]

_WITHOUT = "mlguard, metrics=False"
_BY_HAND = "prometheus_client by hand"
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)

_SCRAPE = """
import sys, time
number, by_hand = int(sys.argv[1]), sys.argv[2] == "by hand"
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
registry = CollectorRegistry()
if by_hand:
    from benchmarks.metrics import counted_by_hand
    watched = counted_by_hand(registry)
    functions = [watched(lambda x: x, f"f{each}") for each in range(number)]
else:
    from mlguard import Breaker, Cache, Monitor, Retry, guarded
    from mlguard.sinks import prometheus
    def made(each):
        def f(x): return x
        f.__qualname__ = f"f{each}"
        sections = {"monitor": Monitor(log=False), "cache": Cache(ttl=60), "retry": Retry(), "breaker": Breaker()}
        return guarded(**sections, validation=False)(f)
    functions = [made(each) for each in range(number)]
    prometheus.register(registry)
for function in functions:
    function(1)
generate_latest(registry)
started = time.perf_counter()
for _ in range(3):
    generate_latest(registry)
print((time.perf_counter() - started) / 3)
"""


def counted_by_hand(registry: CollectorRegistry) -> Callable[[Callable[..., Any], str], Callable[..., Any]]:
    """A decorator as people write it: a histogram and a counter, their children bound beforehand."""
    duration = Histogram("duration_seconds", "Time.", ["guard", "disposition"], buckets=_BUCKETS, registry=registry)
    calls = Counter("calls", "Calls.", ["guard", "disposition"], registry=registry)

    def watched(function: Callable[..., Any], name: str) -> Callable[..., Any]:
        observe, count = duration.labels(name, "executed").observe, calls.labels(name, "executed").inc
        observe_failed, count_failed = duration.labels(name, "failed").observe, calls.labels(name, "failed").inc

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            started = perf_counter()
            try:
                result = function(*args, **kwargs)
            except Exception:
                observe_failed(perf_counter() - started)
                count_failed()
                raise
            observe(perf_counter() - started)
            count()
            return result

        return wrapper

    return watched


def cases() -> list[Case]:
    """The price of a call, and that of a scrape."""
    prometheus.register(CollectorRegistry())
    off = Monitor(log=False, metrics=False)
    return [
        Case(
            name="metrics",
            claim="calls counted by disposition, and timed in a histogram of 16 buckets; no log line",
            arguments=CALL,
            contestants={
                OURS: guarded(monitor=Monitor(log=False), validation=False)(score),
                _WITHOUT: guarded(monitor=off, validation=False)(score),
                _BY_HAND: counted_by_hand(CollectorRegistry())(score, "score"),
            },
            budgets=(Budget(_WITHOUT, 1.05), Budget(_BY_HAND, 1.0)),  # without runs the same code: 5% is noise
        ),
        *(
            Case(
                name=f"metrics-scrape-{number}",
                claim=f"a scrape of {number} functions: all metrics of monitor, cache, retry and breaker; by hand one "
                "histogram and one counter",
                contestants={
                    OURS: lambda number=number: _scrape(number, "guarded"),
                    _BY_HAND: lambda number=number: _scrape(number, "by hand"),
                },
                budgets=(Budget(_BY_HAND, None),),
                self_timed=True,
                most_rounds=7,
            )
            for number in (10, 300)
        ),
    ]


def _scrape(number: int, how: str) -> float:
    """Seconds of one scrape, in a process that has so many functions and no others."""
    command = [sys.executable, "-c", _SCRAPE, str(number), how]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - our own program
    return float(done.stdout)
