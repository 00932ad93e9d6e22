"""The drift table: every stream is what it says, every contestant answers, and the sums are right."""

from __future__ import annotations

import pytest

pytest.importorskip("river", reason="the streams of the table come from river")

from benchmarks import drift
from benchmarks.drift_detectors import DETECTORS
from benchmarks.drift_streams import SCENARIOS
from benchmarks.drift_table import Plan, Row, table, text

PLAN = Plan(runs=1, reference=1_000, rows=1_200, slow_runs=1)


@pytest.mark.filterwarnings("ignore")
def test_every_contestant_answers() -> None:
    """On a clear change everybody who compares with a reference raises an alarm, and nobody fails."""
    chosen = [one for one in SCENARIOS if one.name in ("normal", "normal, mean + 1 sd")]
    rows = table(PLAN, chosen, [name for name in DETECTORS if name != "Evidently"])
    found = {(row.scenario, row.detector): row for row in rows}
    assert found["normal", "mlguard"].false_alarms == 0
    assert found["normal", "always"].run_length == 100
    for name in ("mlguard", "ADWIN", "Page-Hinkley", "PSI > 0.2 by hand"):
        assert found["normal, mean + 1 sd", name].missed == 0
    printed = text(rows)
    assert "| normal, mean + 1 sd |" in printed
    assert "| **changes missed** | 0 of 1 |" in printed


def test_streams_are_reproducible() -> None:
    """The same scenario gives everybody the same rows; a change begins in the middle; runs repeat rows."""
    for scenario in SCENARIOS:
        (first,), (second,) = scenario.streams(1, 200, 300), scenario.streams(1, 200, 300)
        assert (first.rows == second.rows).all()
        assert first.rows.shape[1] == first.reference.shape[1]
        assert len(first.rows) == 300
        assert first.changed == (None if scenario.after is None else 150)
        if scenario.correlated:
            same = (first.reference[1:] == first.reference[:-1]).all(axis=1).mean()
            assert same > 0.7


def test_cells_of_the_table() -> None:
    """A miss is said as one, a share of misses too."""
    rows = [Row("a", "x", 1_000, 1, 2, 1, 40.0, 1.0), Row("b", "x", 1_000, 0, 1, 1, None, 1.0)]
    printed = text(rows)
    assert "| a | 10; 40, 1 of 2 missed |" in printed
    assert "| b | 0; missed |" in printed
    assert "| **changes missed** | 2 of 3 |" in printed


def test_the_timed_contestants_run() -> None:
    """Each contestant of the timing does a call."""
    for case in drift.cases():
        for contestant in case.contestants.values():
            contestant()
