"""From samples to verdicts."""

from __future__ import annotations

import pytest

from benchmarks.case import Budget, Case
from benchmarks.table import duration, summary, table
from benchmarks.verdicts import judge, spread


def nothing() -> None:
    """Is never called here: the samples are given."""


CASE = Case(
    "c",
    "a claim",
    {"mlguard": nothing, "base": nothing, "peer": nothing, "other": nothing},
    budgets=(Budget("peer", 1.0), Budget("other", 0.05, minus="base")),
)
SAMPLES = {
    "mlguard": [3.0, 30.0, 3.0],
    "base": [1.0, 10.0, 1.0],
    "peer": [2.0, 20.0, 2.0],
    "other": [100.0, 1000.0, 100.0],
}


def test_ratios_are_paired_per_round() -> None:
    """A round in which everything took ten times as long changes no ratio."""
    comparison = judge(CASE, SAMPLES).comparisons[0]
    assert (comparison.ratio.minimum, comparison.ratio.median, comparison.ratio.upper_quartile) == (1.5, 1.5, 1.5)


def test_a_budget_may_be_about_what_is_added() -> None:
    """(ours - base) / peer is what is held against the budget."""
    added = judge(CASE, SAMPLES).comparisons[1]
    assert added.ratio.median == pytest.approx(0.02)
    assert not added.missed


def test_every_contestant_is_compared_and_only_budgets_can_be_missed() -> None:
    """Those without a budget are shown for information."""
    comparisons = judge(CASE, SAMPLES).comparisons
    assert [(c.peer, c.minus, c.at_most, c.missed) for c in comparisons] == [
        ("peer", None, 1.0, True),
        ("other", "base", 0.05, False),
        ("base", None, None, False),
        ("other", None, None, False),
    ]


def test_a_ratio_at_its_budget_is_kept() -> None:
    """A budget says at most."""
    case = Case("c", "", {"mlguard": nothing, "peer": nothing}, budgets=(Budget("peer", 1.5),))
    assert not judge(case, {"mlguard": [3.0], "peer": [2.0]}).comparisons[0].missed


def test_the_spread_of_known_values() -> None:
    """Median, minimum and quartiles include the ends."""
    found = spread([5.0, 1.0, 2.0, 4.0, 3.0])
    assert (found.minimum, found.lower_quartile, found.median, found.upper_quartile) == (1.0, 2.0, 3.0, 4.0)


def test_the_table_marks_what_misses() -> None:
    """A reader finds the missed budget in the line of the peer, and again in the summary."""
    result = judge(CASE, SAMPLES)
    lines = table(result).splitlines()
    assert lines[0] == "c: a claim"
    assert lines[4].split()[-4:] == ["1.5", "<=", "1", "MISS"]
    assert lines[4].startswith("  peer")
    assert lines[-1].startswith("  (mlguard - base) / other")
    assert lines[-1].endswith("ok")
    said = summary([result], ["drift"])
    assert said.startswith("1 of 2 budgets kept.")
    assert "MISS c: 1.5 x peer, budget 1" in said
    assert said.endswith("Not built yet, so not measured: drift.")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(2.0, "2.00 s"), (0.0018, "1.80 ms"), (1.5e-6, "1.50 µs"), (3.4e-8, "34.0 ns"), (0.12, "120 ms")],
)
def test_durations_are_shown_in_the_unit_that_fits(seconds: float, text: str) -> None:
    """Three digits and a unit."""
    assert duration(seconds) == text
