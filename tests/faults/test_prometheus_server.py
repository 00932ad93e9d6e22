"""A real Prometheus against a real prefork service: it knows what the callers saw, kills and reloads included."""

from __future__ import annotations

import pytest

pytest.importorskip("gunicorn", reason="gunicorn is not installed")
pytest.importorskip("prometheus_client", reason="the extra 'prometheus' is not installed")

from benchmarks.proof.metrics import against_prometheus, flat_memory
from benchmarks.proof.prefork import prometheus_binary

pytestmark = pytest.mark.long


@pytest.mark.skipif(prometheus_binary() is None, reason="Prometheus (Debian package prometheus) is not on this machine")
def test_totals_and_recorded_rules(tmp_path) -> None:
    """Under load, with a worker killed and all replaced: totals, ratios, quantile and drift are the callers' own."""
    seen = against_prometheus(tmp_path, 4.5, workers=2)  # `make proof` does it for a minute, and with --preload
    assert seen.calls > 100
    assert len(seen.findings) == 10
    assert not [str(finding) for finding in seen.findings if not finding.true]
    assert seen.lost <= seen.may_be_lost


def test_calls_take_no_memory() -> None:
    """Two hundred thousand calls with metrics on, scraped meanwhile, and the process is as large as before."""
    assert flat_memory(200_000) < 2 << 20
