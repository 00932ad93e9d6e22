"""The histogram behind the latency figures."""

from __future__ import annotations

import random

import pytest

from mlguard.monitor.latency import BUCKETS, Latency


def test_quantiles_are_in_the_right_bucket() -> None:
    """A quantile lies in the bucket of the true one, and never above the longest call."""
    latency, generator = Latency(), random.Random(1)
    durations = sorted(generator.lognormvariate(-3, 1.5) for _ in range(5_000))
    for duration in durations:
        latency.add(duration)
    edges = (0.0, *BUCKETS, float("inf"))
    for share in (0.1, 0.5, 0.9, 0.99):
        true = durations[int(share * len(durations))]
        below = max(edge for edge in edges if edge <= true)
        above = min(edge for edge in edges if edge > true)
        assert below <= latency.quantile(share) <= above
    assert latency.quantile(1.0) <= latency.longest == durations[-1]
    assert latency.count == 5_000
    assert latency.total == pytest.approx(sum(durations))


def test_the_edges() -> None:
    """No call at all, one call, and calls beyond the last edge give sensible figures."""
    latency = Latency()
    assert latency.as_dict() == {"count": 0, "total": 0.0, "max": 0.0, "p50": 0.0, "p90": 0.0, "p99": 0.0}
    latency.add(300.0)
    assert latency.quantile(0.99) == pytest.approx(300.0, rel=0.01)
    assert latency.counts[-1] == 1
