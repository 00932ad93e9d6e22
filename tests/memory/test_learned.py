"""What is known of a function's need: a line above what its calls took, trusted as far as they reached."""

from __future__ import annotations

import random

import pytest

from mlguard.memory.learned import BLUR, ENOUGH, KEPT, MARGIN, Learned

MIB = 1 << 20


def taught(*samples: tuple[int, int]) -> Learned:
    learned = Learned()
    for size, peak in samples:
        learned.learn(size, peak)
    return learned


def test_nothing_is_said_before_enough_was_measured():
    """Two measurements are no ground to let calls overlap; the third is."""
    learned = Learned()
    for number in range(ENOUGH):
        assert learned.need(10 * MIB) is None
        assert not learned.ready
        assert learned.expected(10 * MIB) == 0
        assert str(learned) == f"learned; {number} of 3 measurements so far, and until then each call runs alone"
        learned.learn(10 * MIB, 30 * MIB)
    assert learned.ready
    assert learned.need(10 * MIB) == pytest.approx(33 * MIB, rel=0.01)


def test_a_factor_is_found_with_a_tenth_on_top():
    """Peaks of three times the input give 3.3 times the input, at any size in reach."""
    learned = taught(*((size * MIB, 3 * size * MIB) for size in (10, 30, 17, 22, 12)))
    assert learned.need(20 * MIB) == pytest.approx(66 * MIB, rel=0.02)
    stats = learned.stats()
    assert stats["factor"] == pytest.approx(3.3, rel=0.02)
    assert stats["constant"] == 0
    assert stats["samples"] == 5
    assert stats["spread"] < 0.02
    assert "3.3 x the bytes of its input (5 measurements, spread" in str(learned)


def test_a_constant_part_is_found_where_it_fits_better():
    """A model that takes 200 MiB whatever comes in, and twice the input on top, is no factor of 22."""
    learned = taught(*((size * MIB, (200 + 2 * size) * MIB) for size in (10, 40, 20, 30)))
    assert learned.stats()["factor"] == pytest.approx(2.2, rel=0.1)
    assert learned.stats()["constant"] == pytest.approx(220 * MIB, rel=0.05)
    assert learned.need(25 * MIB) == pytest.approx(275 * MIB, rel=0.05)


def test_inputs_too_small_to_matter_give_a_constant():
    """A number or a path in, and 50 MiB taken: the need is 55 MiB, whatever the length of the path."""
    learned = taught((28, 50 * MIB), (90, 50 * MIB), (60, 50 * MIB))
    assert learned.need(40) == pytest.approx(55 * MIB, rel=0.01)
    assert learned.need(BLUR) == pytest.approx(55 * MIB, rel=0.01)
    assert "55MiB" in str(learned)


def test_far_bigger_inputs_are_not_guessed_at():
    """Beyond twice the biggest measured input nobody knows: such a call runs alone, with an expectation only."""
    learned = taught(*[(10 * MIB, 30 * MIB)] * 3)
    assert learned.need(20 * MIB) is not None
    assert learned.need(21 * MIB) is None
    assert learned.expected(21 * MIB) == pytest.approx(MARGIN * 63 * MIB, rel=0.01)


def test_it_goes_up_at_once_and_comes_down_slowly():
    """A model that takes twice as much is followed by the next call; one that takes half only after many."""
    learned = taught(*[(10 * MIB, 30 * MIB)] * 10)
    learned.learn(10 * MIB, 60 * MIB)
    assert learned.need(10 * MIB) == pytest.approx(66 * MIB, rel=0.01)
    needs = []
    for _ in range(KEPT + 5):
        learned.learn(10 * MIB, 15 * MIB)
        needs.append(learned.need(10 * MIB))
    assert needs[0] > 65 * MIB
    assert needs == sorted(needs, reverse=True)
    assert needs[KEPT // 2] > 60 * MIB
    assert needs[-1] == pytest.approx(16.5 * MIB, rel=0.01)


def test_a_peak_that_hides_in_kept_memory_does_not_lower_it():
    """Where the allocator had much to reuse, a low peak says nothing; a high one still does."""
    learned = taught(*[(10 * MIB, 30 * MIB)] * 3)
    for _ in range(2 * KEPT):
        learned.learn(10 * MIB, 1 * MIB, reusable=100 * MIB)
    assert learned.need(10 * MIB) == pytest.approx(33 * MIB, rel=0.01)
    learned.learn(10 * MIB, 40 * MIB, reusable=100 * MIB)
    assert learned.need(10 * MIB) == pytest.approx(44 * MIB, rel=0.01)


def test_no_measured_peak_is_ever_above_what_is_promised():
    """Whatever was measured last, a call like it is promised more than that."""
    drawn = random.Random(3)
    for _ in range(200):
        learned, constant, factor = Learned(), drawn.choice([0, 0, 50 * MIB]), drawn.uniform(0, 5)
        for _ in range(drawn.randint(3, 100)):
            size = int(drawn.choice([0, 1, 1]) * drawn.uniform(1, 50) * MIB)
            peak = int((constant + factor * size) * drawn.uniform(0.3, 1))
            learned.learn(size, peak)
            if (need := learned.need(size)) is not None:
                assert need >= peak


def test_the_spread_tells_how_much_the_line_says():
    """Peaks all on the line have a spread of 0; peaks that vary by half are a third below it on average."""
    assert taught(*[(10 * MIB, 30 * MIB)] * 3).spread == pytest.approx(0, abs=0.01)
    assert taught(*[(10 * MIB, 30 * MIB), (10 * MIB, 10 * MIB)] * 20).spread == pytest.approx(1 / 3, abs=0.05)
    assert Learned().spread is None
    assert taught(*[(0, 0)] * 3).spread == 0


def test_it_can_be_forgotten():
    """After a reset it is as on the first day."""
    learned = taught(*[(10 * MIB, 30 * MIB)] * 5)
    learned.reset()
    assert learned.need(10 * MIB) is None
    assert learned.stats() == {
        "learned": False, "samples": 0, "factor": None, "constant": None, "spread": None, "trusted_up_to": None,
    }  # fmt: skip
