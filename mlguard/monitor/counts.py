"""What the monitor counts of one function: calls by how they ended, failures by class, what was left out, trouble.

Counting is on the path of every call; reading is for `f.guard.stats()` and for the metrics. There is no lock, as said
in `latency.py`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

from mlguard.monitor import metrics
from mlguard.monitor.failures import error_type
from mlguard.monitor.latency import Latency
from mlguard.outcome import Disposition

__all__ = ["OVERLOAD", "QUIET", "Counts"]

QUIET: Final = 1.0
"""Seconds between two events of rejections of one kind: an overload must not become a flood of log lines."""

OVERLOAD: Final = frozenset(
    {Disposition.REJECTED_MEMORY, Disposition.REJECTED_BREAKER, Disposition.REJECTED_CONCURRENCY}
)
"""The rejections that come in floods."""

_FAILURE_TYPES: Final = 50


class Counts:
    """The calls of one function since it was decorated, or since its last `reset`."""

    def __init__(self) -> None:
        self.latencies = {str(disposition): Latency() for disposition in Disposition}
        """How long calls took, by how they ended."""
        self.failures: dict[tuple[str, str], int] = {}
        """Calls that an exception ended, by disposition and its class; those beyond the first fifty are ``other``."""
        self.slow = 0
        """Calls that took as long as the policy's `slow_call`."""
        self.troubles = 0
        """What went wrong in the monitor itself."""
        self.last_trouble: str | None = None
        self._told: dict[str, float] = {}
        self._suppressed: dict[str, int] = dict.fromkeys(map(str, OVERLOAD), 0)
        self._left_out = 0

    def failure(self, disposition: str, name: str) -> None:
        """A call ended with an exception of this class."""
        key = str(disposition), name
        if key not in self.failures and len(self.failures) >= _FAILURE_TYPES:
            key = str(disposition), "other"
        self.failures.setdefault(key, 0)
        self.failures[key] += 1

    def trouble(self, where: str, error: Exception) -> None:
        """The monitor failed at something; the call went on."""
        self.troubles += 1
        self.last_trouble = f"{where}: {error_type(error)}"

    def left_out_before(self, disposition: Disposition, now: float) -> int | None:
        """How many events of this kind were left out since the last one; None: this one is left out as well."""
        if now - self._told.get(disposition, -math.inf) < QUIET:
            self._suppressed[disposition] += 1
            return None
        self._told[disposition] = now
        left_out, self._suppressed[disposition] = self._suppressed[disposition], 0
        self._left_out += left_out
        return left_out

    def stats(self) -> dict[str, Any]:
        told = {name: latency for name, latency in self.latencies.items() if latency.count}
        return {
            "calls": {name: latency.count for name, latency in told.items()},
            "failures": dict(self._by_class()),
            "slow": self.slow,
            "suppressed": self._left_out + sum(self._suppressed.values()),
            "instrumentation_errors": self.troubles,
            "last_instrumentation_error": self.last_trouble,
            "duration": {name: latency.as_dict() for name, latency in told.items()},
        }

    def metrics(self) -> Iterator[metrics.Figure]:
        for disposition, latency in self.latencies.items():
            counts = tuple(latency.counts)
            yield metrics.CALLS, (disposition,), sum(counts)
            if any(counts):
                fine = len(counts) - len(metrics.CALL_DURATION.buckets)  # those that the metric has as one
                exported = sum(counts[:fine]), *counts[fine:]
                yield metrics.CALL_DURATION, (disposition,), metrics.Histogram(exported, latency.total)
        for key, number in list(self.failures.items()):
            yield metrics.CALL_ERRORS, key, number
        yield metrics.SLOW_CALLS, (), self.slow
        yield metrics.INSTRUMENTATION_ERRORS, (), self.troubles

    def _by_class(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for (_, name), number in list(self.failures.items()):
            found[name] += number
        return found
