"""The tail probabilities and effect sizes: as SciPy has them, without it."""

from __future__ import annotations

import math

import pytest
from scipy import special, stats

from mlguard.drift.chances import chi_square_beyond, chi_square_limit, more_than_expected
from mlguard.drift.effects import jensen_shannon, population_stability, wasserstein


@pytest.mark.parametrize("freedom", [1, 2, 9, 12, 102, 1_000])
@pytest.mark.parametrize("factor", [1e-9, 0.01, 0.5, 1.0, 1.5, 3.0, 20.0])
def test_chi_square_as_scipy(freedom: int, factor: float) -> None:
    """The survival function agrees with SciPy's to nine digits, far tails included."""
    statistic = freedom * factor
    assert chi_square_beyond(statistic, freedom) == pytest.approx(
        stats.chi2.sf(statistic, freedom), rel=1e-9, abs=1e-300
    )


def test_chi_square_at_the_ends() -> None:
    """Nothing to compare is certain, a statistic beyond all tables impossible, and neither fails."""
    assert chi_square_beyond(5.0, 0) == 1.0
    assert chi_square_beyond(-1.0, 3) == 1.0
    assert chi_square_beyond(1e9, 3) == 0.0
    assert chi_square_beyond(1e300, 9) == 0.0


@pytest.mark.parametrize("freedom", [1, 9, 40])
def test_the_limit_is_the_inverse(freedom: int) -> None:
    """At the limit the probability is the p-value asked for."""
    assert chi_square_limit(1e-4, freedom) == pytest.approx(stats.chi2.isf(1e-4, freedom), rel=1e-9)


@pytest.mark.parametrize(
    ("seen", "before", "share"), [(5, 0, 0.02), (1, 3, 0.5), (2.5, 1.2, 0.1), (30, 200, 0.05), (1, 0, 1e-6)]
)
def test_the_binomial_tail_as_scipy(seen: float, before: float, share: float) -> None:
    """The exact test is the incomplete beta function, for whole counts and for those divided by a design effect."""
    assert more_than_expected(seen, before, share) == pytest.approx(special.betainc(seen, before + 1, share), rel=1e-9)


def test_the_binomial_tail_at_the_ends() -> None:
    """Nothing seen is certain; a part that is everything, or nothing, decides by itself."""
    assert more_than_expected(0, 5, 0.1) == 1.0
    assert more_than_expected(3, 5, 1.0) == 1.0
    assert more_than_expected(3, 5, 0.0) == 0.0


def test_population_stability_is_unbiased_without_drift(random) -> None:
    """Ten cells and a hundred rows read 0.09 by chance alone; corrected, nine in ten read below 0.07 and many 0."""
    reference = random.multinomial(5_000, [0.1] * 10).tolist()
    found = sorted(population_stability(reference, random.multinomial(100, [0.1] * 10).tolist()) for _ in range(400))
    assert found[100] == 0.0
    assert found[360] < 0.07


def test_population_stability_by_hand() -> None:
    """Large samples read what the formula says: (q - p) ln(q / p), summed."""
    expected = 0.1 * math.log(0.6 / 0.5) - 0.1 * math.log(0.4 / 0.5)
    assert population_stability([500_000, 500_000], [600_000, 400_000]) == pytest.approx(expected, rel=1e-3)
    assert population_stability([0, 0], [1, 2]) == 0.0
    assert population_stability([1, 2], [0, 0]) == 0.0


def test_jensen_shannon_is_a_distance() -> None:
    """0 for the same, 1 for nothing in common, SciPy's figure between, 0 where a side is empty."""
    from scipy.spatial.distance import jensenshannon

    assert jensen_shannon([5, 5], [50, 50]) == 0.0
    assert jensen_shannon([5, 0], [0, 7]) == pytest.approx(1.0)
    assert jensen_shannon([3, 4, 5], [5, 1, 9]) == pytest.approx(jensenshannon([3, 4, 5], [5, 1, 9], base=2))
    assert jensen_shannon([1], [0]) == 0.0


def test_wasserstein_is_how_far_values_moved(random) -> None:
    """A normal variable moved by half its deviation reads half a deviation, as bins can tell."""
    from mlguard.drift import profile
    from mlguard.drift.gate import difference

    (field,) = profile({"x": random.normal(size=20_000)}).fields
    counts = field.bins.count(random.normal(0.5, 1, size=20_000))
    assert difference(field, counts, 1.0).wasserstein == pytest.approx(0.5, abs=0.04)
    assert wasserstein([0.0, 0.5, 1.0], [0, 1, 0], [0, 1, 0], 0.0) is None
    assert wasserstein([0.0, 0.5, 1.0], [0, 0, 0], [0, 1, 0], 1.0) is None
    assert wasserstein([0.0, 0.5, 1.0], [0, 4, 0], [0, 4, 0], 1.0) == 0.0
