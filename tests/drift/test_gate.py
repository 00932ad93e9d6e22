"""The gate and what stands around it: real and large, over many fields, through runs, and twice in a row."""

from __future__ import annotations

import numpy as np
import pytest

from mlguard.drift import profile
from mlguard.drift.alarms import Alarms, Limits
from mlguard.drift.bins import Categories, Lengths, Numbers
from mlguard.drift.gate import difference, rejected, suspicious
from mlguard.drift.windows import Ladder, Window


def test_every_number_has_a_cell() -> None:
    """Each bin holds its upper edge, the first its lower one as well; no number is wrong, nothing is missing."""
    bins = Numbers([0.0, 1.0, 2.0])
    values = [-0.1, 0.0, 0.5, 1.0, 1.5, 2.0, 2.1, float("inf"), float("-inf"), float("nan"), None, "1", [1]]
    cells = [0, 1, 1, 1, 2, 2, 3, 3, 0, 5, 5, 4, 4]
    assert [bins.cell(value) for value in values] == cells
    numbers = np.array(values[:10], dtype=float)
    assert bins.count(numbers) == np.bincount(cells[:10], minlength=6).tolist()
    assert bins.labels == ("below 0", "[0, 1]", "(1, 2]", "above 2", "wrong kind", "missing")


def test_arrays_and_single_values_agree(random) -> None:
    """The vectorised count is the sum of single cells, for any numbers."""
    values = np.concatenate([random.normal(size=500), random.integers(-3, 3, 500), [np.nan, np.inf, -np.inf]])
    edges = sorted({*random.normal(size=8).tolist(), 0.0, 1.0})
    bins = Numbers(edges)
    assert bins.count(values) == np.bincount([bins.cell(value) for value in values.tolist()], minlength=13).tolist()


def test_categories_and_lengths() -> None:
    """Known, rare, unseen and missing categories; texts by their length."""
    bins = Categories(["a", "b"], ["c"])
    assert [bins.cell(value) for value in ("a", "b", "c", "d", None, ["a"], 3)] == [0, 1, 2, 3, 4, 3, 3]
    assert Categories(["a"], open_ended=True).cell("z") == 1  # as one of the rare ones
    texts = Lengths([2.0, 2.0, 5.0])
    assert [texts.cell(value) for value in ("", "ab", "abcd", "abcdefg", None, 3)] == [0, 1, 2, 3, 5, 4]
    assert texts.count(["ab", None]) == [0, 1, 0, 0, 0, 1]


@pytest.mark.parametrize("rows", [100, 400, 1_600])
def test_no_drift_passes_no_gate(random, rows: int) -> None:
    """Of 2,000 windows without drift next to none is significant and large; hundreds would be without the gate."""
    passed = 0
    for _ in range(10):
        (field,) = profile({"x": random.lognormal(size=5_000)}).fields
        for _ in range(200):
            seen = difference(field, field.bins.count(random.lognormal(size=rows)), 1.0)
            passed += seen.p_value < 1e-4 and seen.psi > 0.02
    assert passed <= 2


def test_suspicious_overlooks_nothing(random) -> None:
    """The quick question never says no where the full one says the difference is significant."""
    (field,) = profile({"x": random.normal(size=2_000)}).fields
    for shift in np.linspace(0, 1.5, 300):
        values = random.normal(shift, 1, size=int(random.integers(50, 800)))
        effect = float(random.uniform(1, 5))
        counts = field.bins.count(values)
        if difference(field, counts, effect).p_value < 1e-4:
            assert suspicious(field, counts, 1e-4, effect)
    assert not suspicious(field, [0] * len(field.counts), 1e-4, 1.0)
    assert difference(field, [0] * len(field.counts), 1.0).p_value == 1.0


def test_five_rows_outside_the_trained_range_show_at_once(random) -> None:
    """What training never had needs no large share: five sentinel values in a hundred rows are significant."""
    (field,) = profile({"x": random.normal(size=5_000)}).fields
    values = random.normal(size=100).clip(-2, 2)
    assert difference(field, field.bins.count(values), 1.0).p_value > 1e-4
    values[:5] = -999.0
    seen = difference(field, field.bins.count(values), 1.0)
    assert seen.p_value < 1e-6
    assert seen.psi > 0.02


def test_a_constant_column_can_drift(random) -> None:
    """A column with one value has no shape to test, and its change shows all the same."""
    (field,) = profile({"x": np.full(1_000, 3.0)}).fields
    same = difference(field, field.bins.count(np.full(100, 3.0)), 1.0)
    other = difference(field, field.bins.count(np.full(100, 4.0)), 1.0)
    assert (same.p_value, same.psi) == (1.0, 0.0)
    assert other.p_value < 1e-100
    assert other.psi > 1


def test_the_design_effect_keeps_correlated_traffic_quiet(random) -> None:
    """Rows that stay for ten raise no alarm where the profile saw them do so, and did without it."""
    runs = lambda rows: np.repeat(random.normal(size=rows // 10), 10)  # noqa: E731
    (field,) = profile({"x": runs(5_000)}).fields
    seen = [field.bins.count(runs(400)) for _ in range(200)]
    assert sum(difference(field, counts, 1.0).p_value < 1e-4 for counts in seen) > 100
    assert sum(difference(field, counts, field.design_effect).p_value < 1e-4 for counts in seen) <= 2


def test_many_fields_are_judged_together() -> None:
    """Benjamini and Hochberg: a p-value counts by its rank; absent names count as tests."""
    found = {"a": 1e-9, "b": 1.9e-5, "c": 5e-5, "d": 9e-5}
    assert rejected(found, 1e-4, 4) == {"a", "b", "c", "d"}
    assert rejected(found, 1e-4, 10) == {"a", "b"}
    assert rejected({"d": 9e-5}, 1e-4, 10) == set()
    assert rejected({}, 1e-4, 10) == set()


def test_the_ladder_loses_nothing() -> None:
    """Windows of a length follow each other without a gap, even where a call overfills one."""
    ladder = Ladder((100, 400))
    seen: dict[int, list[int]] = {0: [], 1: []}
    rows = 0
    for step in (60, 60, 250, 30, 90, 400, 110):
        rows += step
        if rows >= ladder.next:
            for window in ladder.ended(rows, [[rows]]):
                seen[window.rung].append(window.counts[0][0])
    assert seen == {0: [120, 250, 120, 400, 110], 1: [400, 490]}


class Judge:
    """Windows of one field, each with the share of rows outside the trained range."""

    def __init__(self, random, lengths=(100,), **limits) -> None:
        self.field = profile({"x": random.normal(size=5_000)}).fields[0]
        limits = {"p_value": 1e-4, "psi": 0.02, "persistence": 2, "design_effects": (1.0,)} | limits
        self.alarms = Alarms([self.field], lengths, Limits(**limits))
        self.rows = 0

    def see(self, outside: float, rung: int = 0, rows: int = 100) -> list[str]:
        self.rows += rows if rung == 0 else 0
        inside = round(rows * (1 - outside) / 10)
        counts = [0, *([inside] * 10), rows - 10 * inside, 0, 0]
        return [change.state for change in self.alarms.judge(Window(rung, [counts]), self.rows)]


def test_one_odd_window_is_no_drift(random) -> None:
    """An alarm needs as many windows in a row as persistence says, and so does the all-clear."""
    judge = Judge(random)
    assert [judge.see(share) for share in (0.5, 0, 0.5, 0.5, 0.5)] == [[], [], [], ["onset"], []]
    assert judge.alarms.active["x"].rows == 100
    assert [judge.see(share) for share in (0, 0.5, 0, 0, 0)] == [[], [], [], ["recovery"], []]
    assert judge.alarms.active == {}
    assert judge.alarms.onsets == 1


def test_no_all_clear_on_the_threshold(random) -> None:
    """What is no longer large enough for an alarm is not well yet: a field does not flap."""
    judge = Judge(random, psi=0.1)
    assert [judge.see(0.5) for _ in range(2)] == [[], ["onset"]]
    assert [judge.see(0.1) for _ in range(3)] == [[], [], []]  # above half of the threshold, and unlikely
    assert judge.alarms.active


def test_a_longer_window_takes_over(random) -> None:
    """An alarm that lasted a long window is only cleared by long windows."""
    judge = Judge(random, lengths=(100, 400))
    assert [judge.see(0.5) for _ in range(2)] == [[], ["onset"]]
    assert [judge.see(0.5, rung=1, rows=400) for _ in range(2)] == [[], []]
    assert [judge.see(0) for _ in range(5)] == [[]] * 5
    assert [judge.see(0, rung=1, rows=400) for _ in range(2)] == [[], ["recovery"]]
    assert judge.see(0, rung=1, rows=400) == []


def test_a_window_without_rows_changes_nothing(random) -> None:
    """A field of which nothing came neither drifts nor recovers."""
    judge = Judge(random)
    judge.see(0.5), judge.see(0.5)
    nothing = Window(0, [[0] * len(judge.field.counts)])
    assert judge.alarms.judge(nothing, 300) == []
    assert judge.alarms.active
