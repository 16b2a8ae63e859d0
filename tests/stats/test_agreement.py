"""Readers, raters and curves against other implementations and by hand."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

from bids_alsmri.errors import NumericsError
from bids_alsmri.stats.agreement import (
    compare_areas,
    compare_readers,
    kappa,
    reader_accuracy,
    repeatability,
    roc,
)
from bids_alsmri.stats.association import clustered_correlation, rank_correlation, regress


@pytest.mark.parametrize(("weights", "power"), [("linear", 1), ("quadratic", 2)])
def test_weighted_kappa_is_cohen_s_formula(weights, power):
    rng = np.random.default_rng(0)
    a = rng.integers(0, 4, 60)
    b = np.clip(a + rng.integers(-1, 2, 60), 0, 3)
    observed = (np.abs(a - b) ** power).mean()
    by_chance = (np.abs(a[:, np.newaxis] - b) ** power).mean()
    found = kappa(a, b, weights=weights, level=0.95)
    assert_allclose(found.value, 1 - observed / by_chance)
    assert found.low < found.value < found.high


def test_weights_are_by_the_grade_not_its_place():
    # nobody gave a 1: 0 against 2 is as far apart as 2 steps
    a, b = np.array([0, 0, 2, 2, 3, 3]), np.array([0, 2, 2, 3, 3, 2])
    observed = np.abs(a - b).mean()
    by_chance = np.abs(a[:, np.newaxis] - b).mean()
    assert_allclose(kappa(a, b, weights="linear", level=0.95).value, 1 - observed / by_chance)


def test_a_measure_that_is_the_same_for_all_tells_nothing_and_has_no_interval():
    found = roc([2.0] * 8, [True] * 4 + [False] * 4, level=0.95)
    assert found.area == 0.5
    assert np.isnan([found.low, found.high]).all()


def test_readers_that_call_all_the_same_have_no_kappa():
    found = kappa([1, 1, 1], [1, 1, 1], weights="none", level=0.95)
    assert np.isnan(found.value)
    assert found.observed == 1.0


def test_accuracy_of_nobody_is_not_known():
    found = reader_accuracy([0, 0, 0], [1, 0, 0], level=0.95)
    assert np.isnan(found["ppv"].value)
    assert found["sensitivity"].exact[1] == pytest.approx(1 - 0.025, abs=1e-9)


def test_mcnemar_is_the_binomial_test():
    p, n_first, n_second = compare_readers([1] * 7 + [0] * 3 + [1] * 5, [0] * 7 + [1] * 3 + [1] * 5)
    assert (n_first, n_second) == (7, 3)
    assert_allclose(p, stats.binomtest(7, 10).pvalue)


def test_area_is_the_rank_sum():
    rng = np.random.default_rng(1)
    values, ill = rng.normal(size=31).round(1), np.arange(31) < 18
    u = stats.mannwhitneyu(values[ill], values[~ill]).statistic
    found = roc(values, ill, level=0.95)
    assert_allclose(found.area, u / (18 * 13))
    # trapezes under the drawn curve
    assert_allclose(np.trapezoid(found.true_positive, found.false_positive), found.area)


def test_delong_variance_is_near_the_bootstrap():
    rng = np.random.default_rng(2)
    ill, well = rng.normal(1, 1, 60), rng.normal(0, 1, 50)
    areas = [(rng.choice(ill, 60)[:, np.newaxis] > rng.choice(well, 50)).mean() for _ in range(400)]
    found = roc(np.concatenate([ill, well]), np.arange(110) < 60, level=0.95)
    width = np.log(found.high / (1 - found.high)) - np.log(found.low / (1 - found.low))
    error = width / 2 / 1.959964 * found.area * (1 - found.area)
    assert_allclose(error, np.std(areas), rtol=0.15)  # 400 draws: 4 %, 3 sd


def test_full_separation_has_an_interval():
    found = roc([3, 4, 5, 1, 2], [1, 1, 1, 0, 0], level=0.95)
    assert found.area == found.high == 1.0
    assert 0 < found.low < 1


def test_a_measure_against_itself_does_not_differ():
    values = np.random.default_rng(3).normal(size=20)
    difference, p = compare_areas(values, values, np.arange(20) < 10)
    assert difference == 0.0
    assert np.isnan(p)


def test_one_group_has_no_curve():
    with pytest.raises(NumericsError, match="2 ill and 0 well"):
        roc([1.0, 2.0], [True, True], level=0.95)


def test_raters_by_hand():
    # pairs 10, 12 and 20, 18: differences 2 and -2, within-variances 2 and 2, means 11 and 19
    found = repeatability([[10.0, 12.0], [20.0, 18.0]], level=0.95)
    assert_allclose(found.cov_percent, 100 * np.sqrt((2 / 11**2 + 2 / 19**2) / 2))
    assert_allclose((found.bias, found.upper), (0.0, 1.959964 * np.sqrt(8)), rtol=1e-6)


def test_correlation_with_a_cluster_each_is_wider_or_like_that_of_pairs():
    rng = np.random.default_rng(4)
    x = rng.normal(size=200)
    y = x + rng.normal(size=200)
    plain = rank_correlation(x, y, level=0.95)
    clustered = clustered_correlation(x, y, np.arange(200), level=0.95)
    assert_allclose(plain.rho, stats.spearmanr(x, y).statistic)
    assert_allclose((clustered.low, clustered.high), (plain.low, plain.high), atol=0.03)


def test_rows_said_twice_do_not_narrow_a_clustered_interval():
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(2, 30))
    once = clustered_correlation(x, y, np.arange(30), level=0.95)
    twice = clustered_correlation(
        np.tile(x, 2), np.tile(y, 2), np.tile(np.arange(30), 2), level=0.95
    )
    assert_allclose((twice.low, twice.high), (once.low, once.high), atol=1e-3)


def test_slope_is_that_of_scipy_and_missing_pairs_are_counted():
    x = [1.0, 2, 3, 4, np.nan, 7]
    y = [2.0, 1, 4, 3, 5, 9]
    found, other = regress(y, x, level=0.95), stats.linregress([1, 2, 3, 4, 7], [2, 1, 4, 3, 9])
    assert_allclose((found.slope, found.p), (other.slope, other.pvalue))
    assert (found.n, found.n_missing) == (5, 1)
