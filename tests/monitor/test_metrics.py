"""The registry of metrics: what is declared is well named, bounded and documented."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mlguard.export.table import table
from mlguard.monitor import metrics
from mlguard.monitor.metrics import GUARD, METRICS

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
class TestEach:
    def test_is_named_as_prometheus_has_it(self, metric) -> None:
        """Prefix, unit and _total are those of Prometheus' naming conventions, so that nobody has to guess."""
        assert re.fullmatch(r"mlguard(_[a-z0-9]+)+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        stem = metric.name.removesuffix("_total")
        assert (not metric.unit) or stem.endswith(f"_{metric.unit}")
        assert bool(metric.buckets) == (metric.kind == "histogram")
        assert metric.help.endswith(".")
        assert metric.help[0].isupper() or metric.help[0].isdigit()

    def test_labels_are_legal_and_the_guard_is_first(self, metric) -> None:
        """A scrape adds job and instance itself, and le belongs to histograms."""
        assert len(set(metric.labels)) == len(metric.labels)
        assert all(re.fullmatch(r"[a-z][a-z_]*", label) for label in metric.labels)
        assert not {"job", "instance", "le", "quantile"} & set(metric.labels)
        assert GUARD not in metric.labels[1:]

    def test_a_collector_makes_the_name_of_prometheus_again(self, metric) -> None:
        """OpenTelemetry's rules for Prometheus (unit, then _total) lead from the dotted name back to the name."""
        again = metric.dotted.replace(".", "_")
        unit = {"s": "seconds", "By": "bytes", "1": ""}[metric.unit_code]
        again += f"_{unit}" if unit else ""
        again += "_total" if metric.kind == "counter" else ""
        assert again == metric.name


def test_no_two_metrics_have_one_name() -> None:
    """In none of the systems."""
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    assert len({metric.dotted for metric in METRICS}) == len(METRICS)


def test_the_buckets_are_edges_that_the_counts_have() -> None:
    """Counts by finer buckets can be put together without error."""
    from mlguard.monitor.latency import BUCKETS

    edges = metrics.CALL_DURATION.buckets
    assert edges == BUCKETS[-len(edges) :]
    assert edges[0] == 0.001


def test_the_page_has_the_table_of_this_version() -> None:
    """The table in docs/metrics.md is generated: python -m mlguard.export.table."""
    assert table() in PAGE.read_text(encoding="utf-8")
