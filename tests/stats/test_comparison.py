"""Adjusted differences, ratios, permutations, pairs, quartiles."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats
from statsmodels.api import OLS

from bids_alsmri.errors import NumericsError
from bids_alsmri.stats.comparison import (
    compare_adjusted,
    compare_pairs,
    compare_several,
    delta_ratio,
    fieller_ratio,
    permute_adjusted,
    permute_groups,
    proportion_interval,
    smallest_p,
)


def _cohort(seed=0):
    rng = np.random.default_rng(seed)
    first = np.arange(51) < 29
    covariates = np.column_stack([rng.normal(56, 14, 51), rng.random(51) < 0.4])
    y = 1 + 0.2 * first + 0.01 * covariates[:, 0] + rng.normal(0, 0.3, 51)
    return y, first, covariates


def test_adjusted_difference_is_that_of_statsmodels():
    y, first, covariates = _cohort()
    fit = OLS(y, np.column_stack([np.ones(51), first, covariates])).fit()
    found = compare_adjusted(y, first, covariates, level=0.95)
    low, high = fit.conf_int()[1]
    assert_allclose(
        (found.difference, found.low, found.high, found.p, found.dof),
        (fit.params[1], low, high, fit.pvalues[1], 47),
    )


def test_mean_of_controls_may_be_their_plain_mean():
    y, first, covariates = _cohort()
    found = compare_adjusted(y, first, covariates, level=0.95, mean_of="second")
    assert_allclose(found.mean_second, y[~first].mean())


def test_fieller_ends_are_where_the_test_turns():
    y, first, covariates = _cohort()
    found = compare_adjusted(y, first, covariates, level=0.95)
    fit = OLS(y, np.column_stack([np.ones(51), first, covariates])).fit()
    for end in (found.percent.low, found.percent.high):
        # difference less the ratio times the mean is as far from 0 as the test allows
        weights = np.array([0, 1.0, 0, 0]) - end / 100 * np.array([1, 0, *covariates.mean(0)])
        t = weights @ fit.params / np.sqrt(weights @ fit.cov_params() @ weights)
        assert_allclose(abs(t), stats.t.ppf(0.975, 47), rtol=1e-8)


@pytest.mark.parametrize("factor", [1e-3, 7.0])
def test_percentage_does_not_depend_on_the_unit(factor):
    y, first, covariates = _cohort()
    one = compare_adjusted(y, first, covariates, level=0.95).percent
    other = compare_adjusted(factor * y, first, covariates, level=0.95).percent
    assert_allclose((one.low, one.high), (other.low, other.high))


def test_fieller_meets_the_delta_method_where_the_mean_is_certain():
    covariance = [[0.04, 0.0], [0.0, 1e-8]]
    one = fieller_ratio(1.0, 10.0, covariance, dof=30, level=0.95)
    other = delta_ratio(1.0, 10.0, covariance, dof=30, level=0.95)
    assert_allclose((one.low, one.high), (other.low, other.high), rtol=1e-5)


def test_an_uncertain_mean_gives_no_bounded_interval():
    found = fieller_ratio(5.0, 1.0, [[1.0, 0.0], [0.0, 1.0]], dof=30, level=0.95)
    assert found.bounds == "outside"
    assert not found.low < found.value < found.high
    y = [1.0, -1.0, 2.0, -1.5, 0.5, -0.6]
    whole = compare_adjusted(y, [1, 1, 1, 0, 0, 0], level=0.95)
    assert whole.percent.bounds != "bounded"
    assert "no bounded per cent" in whole.note


@pytest.mark.parametrize(
    ("y", "first", "covariates", "note"),
    [
        ([1, 1, 1, 1.0], [1, 1, 0, 0], None, "do not vary"),
        ([1, 2, np.nan, np.nan], [1, 1, 0, 0], None, "2 and 0 values"),
        ([1, 2, 3, 5.0], [1, 1, 0, 0], [9.0, 9, 4, 4], "cannot be told apart"),
        ([1, 2, 4.0], [1, 0, 0], [3.0, 1, 2], "3 values for 3 coefficients"),
    ],
)
def test_what_cannot_be_compared_says_why(y, first, covariates, note):
    found = compare_adjusted(y, first, covariates, level=0.95)
    assert np.isnan(found.p)
    assert note in found.note


def test_constant_covariate_is_left_out_and_named():
    found = compare_adjusted([1, 2, 3, 5.0], [1, 1, 0, 0], [7.0] * 4, level=0.95)
    assert found.note == "a covariate is constant and was left out"
    assert found.dof == 2


def test_missing_values_are_counted():
    found = compare_adjusted([1, 2, np.nan, 3, 5, 7.0], [1, 1, 1, 0, 0, 0], level=0.95)
    assert (found.n_first, found.n_second, found.n_missing) == (2, 3, 1)


def test_permutation_of_ranks_is_the_exact_test_without_ties():
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=5), rng.normal(1, 1, 6)
    found = permute_groups(a, b, of="rank", n_draws=1000, rng=rng)
    assert_allclose(found.p, stats.mannwhitneyu(a, b, method="exact").pvalue)


@pytest.mark.parametrize("of", ["mean", "rank"])
def test_a_single_patient_is_compared_exactly(of):
    # the largest of six: of six places, one is as far out on that side
    args = {"of": of, "n_draws": 99, "rng": np.random.default_rng(0)}
    found = permute_groups([9.0], [1.0, 2.0, 3.0, 4.0, 8.0], **args)
    assert_allclose(found.p, 2 / 6)
    assert "0.333" in found.note
    other = permute_groups([1.0, 2.0, 3.0, 4.0, 8.0], [9.0], **args)
    assert_allclose((other.p, other.statistic), (found.p, -found.statistic))


def test_two_and_two_run_and_tell_the_smallest_p():
    found = permute_groups([5, 6], [1, 2], of="mean", n_draws=99, rng=np.random.default_rng(0))
    assert_allclose(found.p, smallest_p(2, 2))
    assert "0.333" in found.note


def test_adjusted_permutation_is_near_the_t_test():
    y, first, covariates = _cohort(4)
    p = compare_adjusted(y, first, covariates, level=0.95).p
    found = permute_adjusted(y, first, covariates, n_draws=999, rng=np.random.default_rng(0))
    assert abs(found - p) < 4 * np.sqrt(p * (1 - p) / 999) + 0.005


def test_a_site_with_one_group_cannot_carry_the_comparison():
    with pytest.raises(NumericsError, match="cannot be told from sites"):
        permute_adjusted(
            [1.0, 2, 3, 4], [1, 1, 0, 0], sites=list("aabb"), n_draws=20,
            rng=np.random.default_rng(0),
        )  # fmt: skip


def test_shift_between_sites_does_not_matter():
    y, first, _ = _cohort(5)
    sites = np.arange(51) % 3
    args = {"n_draws": 99, "sites": sites}
    one = permute_adjusted(y, first, rng=np.random.default_rng(1), **args)
    moved = permute_adjusted(y + 10 * sites, first, rng=np.random.default_rng(1), **args)
    assert one == moved


def test_pairs_are_those_of_scipy():
    rng = np.random.default_rng(6)
    a, b = rng.normal(size=12), rng.normal(0.5, 1, 12)
    assert_allclose(compare_pairs(a, b).p, stats.wilcoxon(b - a).pvalue)


def test_several_groups_are_those_of_scipy():
    groups = [[1.0, 2.5, 3.0], [2.0, 4.0, 9.0], [3.5, 6.0, 7.0]]
    assert_allclose(compare_several(groups, "anova").p, stats.f_oneway(*groups).pvalue)
    assert_allclose(compare_several(groups, "kruskal-wallis").p, stats.kruskal(*groups).pvalue)


def test_exact_proportions_are_those_of_the_binomial():
    low, high = proportion_interval(3, 28, kind="exact", level=0.95)
    assert_allclose(stats.binom.sf(2, 28, low), 0.025)
    assert_allclose(stats.binom.cdf(3, 28, high), 0.025)


@pytest.mark.parametrize("count", [0, 28])
def test_logit_has_no_interval_at_the_ends(count):
    assert np.isnan(proportion_interval(count, 28, kind="logit", level=0.95)).all()
