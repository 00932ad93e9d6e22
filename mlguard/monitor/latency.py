"""How long calls took: a fixed histogram, so that quantiles need no memory of single calls."""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

__all__ = ["BUCKETS", "Latency"]

BUCKETS: Final = (
    0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0,
)  # fmt: skip
"""Upper edges in seconds; from 0.001 on they are the edges of the exported metric."""


class Latency:
    """Counts of durations by bucket, with their sum and maximum.

    There is no lock: CPython switches threads only at calls and backward jumps, and no statement that changes a count
    contains either. A lock here could deadlock with a signal handler that makes a guarded call.
    """

    __slots__ = ("counts", "longest", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.total = 0.0
        self.longest = 0.0

    def add(self, seconds: float) -> None:
        bucket = bisect_left(BUCKETS, seconds)
        self.counts[bucket] += 1
        self.total += seconds
        if seconds > self.longest:
            self.longest = seconds

    @property
    def count(self) -> int:
        return sum(self.counts)

    def quantile(self, share: float) -> float:
        """The duration that this share of the calls did not exceed, interpolated inside its bucket; 0 without calls."""
        counts = self.counts.copy()
        rank = share * sum(counts)
        below = 0
        for bucket, count in enumerate(counts):
            if count and below + count >= rank:
                lower = BUCKETS[bucket - 1] if bucket else 0.0
                upper = min(BUCKETS[bucket], self.longest) if bucket < len(BUCKETS) else self.longest
                return lower + (upper - lower) * max(0.0, rank - below) / count
            below += count
        return 0.0

    def as_dict(self) -> dict[str, float]:
        """Seconds, rounded to the microsecond."""
        return {
            "count": self.count,
            "total": round(self.total, 6),
            "max": round(self.longest, 6),
            "p50": round(self.quantile(0.5), 6),
            "p90": round(self.quantile(0.9), 6),
            "p99": round(self.quantile(0.99), 6),
        }
