"""Sizes of differences equal those of textbooks and of other packages."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from numpy.testing import assert_allclose
from scipy import stats

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.effects import (
    one_group_effects,
    small_sample_factor,
    two_group_effects,
)
from bids_alsmri.stats.design import group_design

N = (13, 24)
GROUPS = ["als"] * N[0] + ["hc"] * N[1]


def effects(data, covariates=None, *, groups=GROUPS, is_unequal=False, level=0.95, own=None):
    design = group_design(groups, "als", "hc", covariates)
    return two_group_effects(
        data,
        design.matrix,
        design.groups,
        level=level,
        has_unequal_variances=is_unequal,
        voxelwise_covariates=own,
    )


def simulated(seed=0, n_features=4, shift=0.8):
    data = np.random.default_rng(seed).normal(5.0, 2.0, size=(sum(N), n_features))
    data[: N[0]] += shift
    return data


@pytest.mark.parametrize("is_unequal", [False, True])
def test_interval_is_that_of_students_or_welchs_test(is_unequal):
    data = simulated()
    data[: N[0]] *= 3.0  # one group spreads wider
    test = stats.ttest_ind(data[: N[0]], data[N[0] :], equal_var=not is_unequal)
    expected = test.confidence_interval(0.9)
    found = effects(data, is_unequal=is_unequal, level=0.9)
    assert_allclose(found.low, expected.low)
    assert_allclose(found.high, expected.high)


def test_adjusted_difference_and_interval_are_those_of_a_regression():
    rng = np.random.default_rng(1)
    data, age = simulated(1), rng.normal(60, 10, size=sum(N))
    found = effects(data, age[:, np.newaxis])
    is_first = np.array(GROUPS) == "als"
    for column, values in enumerate(data.T):
        fit = sm.OLS(values, sm.add_constant(np.column_stack([is_first, age]))).fit()
        assert_allclose(found.difference[column], fit.params[1])
        assert_allclose([found.low[column], found.high[column]], fit.conf_int()[1])
        # the mean of the second group at the mean age of all
        at_mean = fit.predict([[1.0, 0.0, age.mean()]])[0]
        assert_allclose(found.percent[column], 100 * fit.params[1] / at_mean)
        assert_allclose(found.cohen_d[column], fit.params[1] / np.sqrt(fit.scale))


def test_difference_beside_covariates_of_each_voxel_is_that_of_a_regression_there():
    rng = np.random.default_rng(11)
    data, age = simulated(11), rng.normal(60, 10, size=sum(N))
    is_first = np.array(GROUPS) == "als"
    # two maps that differ between the groups and raise the values
    own = rng.normal(0.6, 0.1, size=(2, *data.shape)) - 0.05 * is_first[:, np.newaxis]
    data = data + 8.0 * own[0] - 3.0 * own[1]
    found = effects(data, age[:, np.newaxis], own=own)
    for column, values in enumerate(data.T):
        regressors = np.column_stack([is_first, age, *own[:, :, column]])
        fit = sm.OLS(values, sm.add_constant(regressors)).fit()
        assert_allclose(found.difference[column], fit.params[1])
        assert_allclose([found.low[column], found.high[column]], fit.conf_int()[1])
        at_means = fit.predict([[1.0, 0.0, age.mean(), *own[:, :, column].mean(axis=1)]])[0]
        assert_allclose(found.percent[column], 100 * fit.params[1] / at_means)
        assert_allclose(found.cohen_d[column], fit.params[1] / np.sqrt(fit.scale))


def test_welchs_interval_beside_a_covariate_of_each_voxel_takes_the_same_model():
    # the same covariate in every voxel is one of the design
    rng = np.random.default_rng(12)
    data, age = simulated(12), rng.normal(60, 10, size=sum(N))
    own = np.broadcast_to(age[:, np.newaxis], (1, *data.shape))
    found = effects(data, own=own, is_unequal=True)
    expected = effects(data, age[:, np.newaxis], is_unequal=True)
    for name in ("difference", "low", "high", "percent", "hedges_g", "d_low"):
        assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-9)


@pytest.mark.parametrize("constant", [0.0, 0.3])
def test_voxel_whose_covariate_does_not_vary_or_is_the_group_has_no_effect(constant):
    data = simulated(13, 3)
    own = np.random.default_rng(13).normal(size=(1, *data.shape))
    own[0, :, 0] = constant
    own[0, :, 1] = 0.1 + 0.2 * (np.array(GROUPS) == "als")
    found = effects(data, own=own)
    for name in ("difference", "low", "high", "percent"):
        assert np.isnan(getattr(found, name)).tolist() == [True, True, False], name
    assert found.cohen_d[:2].tolist() == found.hedges_g[:2].tolist() == [0.0, 0.0]


def test_change_of_one_group_is_that_where_the_covariate_has_not_changed():
    rng = np.random.default_rng(14)
    own = rng.normal(-0.02, 0.01, size=(1, 16, 5))
    change = 60.0 * own[0] + rng.normal(0.0, 0.1, size=(16, 5))
    found = one_group_effects(change, level=0.9, voxelwise_covariates=own)
    for column, values in enumerate(change.T):
        fit = sm.OLS(values, sm.add_constant(own[0, :, column])).fit()
        assert_allclose(found.difference[column], fit.params[0])
        assert_allclose([found.low[column], found.high[column]], fit.conf_int(0.1)[0])
        assert_allclose(found.cohen_d[column], fit.params[0] / np.sqrt(fit.scale))


@pytest.mark.parametrize(
    ("own", "words"),
    [
        (np.zeros((1, 37, 3)), "has shape (1, 37, 3) but data (37, 4)"),
        (np.full((1, 37, 4), np.nan), "voxelwise_covariates"),
        (np.zeros((35, 37, 4)), "37 observations and 37 columns, 35 of them"),
    ],
)
def test_covariates_of_each_voxel_that_do_not_fit_are_refused(own, words):
    with pytest.raises(NumericsError) as caught:
        effects(simulated(), own=own)
    assert words in str(caught.value)


def test_cohens_d_is_the_difference_over_the_pooled_deviation():
    data = simulated(2)
    first, second = data[: N[0]], data[N[0] :]
    pooled = ((N[0] - 1) * first.var(axis=0, ddof=1) + (N[1] - 1) * second.var(axis=0, ddof=1)) / (
        sum(N) - 2
    )
    expected = (first.mean(axis=0) - second.mean(axis=0)) / np.sqrt(pooled)
    assert_allclose(effects(data).cohen_d, expected)


def test_d_does_not_change_with_the_unit_of_the_data():
    data = simulated(3)
    assert_allclose(effects(data).cohen_d, effects(1e-3 * data + 7.0).cohen_d, rtol=1e-9)


def test_hedges_g_is_right_on_average_where_d_is_too_large():
    rng = np.random.default_rng(4)
    groups = ["als"] * 4 + ["hc"] * 4
    data = rng.normal(size=(8, 40000))
    data[:4] += 1.0  # a true d of 1
    found = effects(data, groups=groups)
    error = found.hedges_g.std() / np.sqrt(data.shape[1])
    assert abs(found.hedges_g.mean() - 1.0) < 4 * error
    assert found.cohen_d.mean() > 1.0 + 10 * error


@pytest.mark.parametrize(
    ("dof", "factor"),
    # by hand from the gamma function of halves
    [(2, 1 / np.sqrt(np.pi)), (3, np.sqrt(np.pi / 6)), (4, np.sqrt(2 / np.pi)), (1, 0.0)],
)
def test_small_sample_factor_is_a_ratio_of_gamma_functions(dof, factor):
    assert_allclose(small_sample_factor(dof), factor)


@pytest.mark.parametrize("true_d", [0.0, 1.0])
def test_interval_of_d_holds_the_truth_in_19_of_20_studies(true_d):
    data = np.random.default_rng(5).normal(size=(sum(N), 4000))
    data[: N[0]] += true_d
    found = effects(data)
    share = np.mean((found.d_low <= true_d) & (true_d <= found.d_high))
    # the normal interval is approximate; a wrong variance misses by far more than a hundredth
    assert abs(share - 0.95) < 0.012


def test_mean_of_one_group_has_the_interval_of_the_one_sample_test():
    data = np.random.default_rng(7).normal(0.4, 2.0, size=(16, 5))
    found = one_group_effects(data, level=0.9)
    expected = stats.ttest_1samp(data, 0.0).confidence_interval(0.9)
    assert_allclose(found.low, expected.low)
    assert_allclose(found.high, expected.high)
    # d is t over the root of n
    assert_allclose(found.cohen_d, stats.ttest_1samp(data, 0.0).statistic / 4.0)
    assert np.isnan(found.percent).all()


def test_interval_of_d_of_one_group_holds_the_truth_in_19_of_20_studies():
    data = np.random.default_rng(8).normal(0.8, 1.0, size=(24, 4000))
    found = one_group_effects(data, level=0.95)
    share = np.mean((found.d_low <= 0.8) & (found.d_high >= 0.8))
    assert abs(share - 0.95) < 0.012  # as for two groups
    error = found.hedges_g.std() / np.sqrt(data.shape[1])
    assert abs(found.hedges_g.mean() - 0.8) < 4 * error


def test_covariates_of_one_group_that_follow_from_others_are_refused():
    age = np.arange(6.0)
    with pytest.raises(NumericsError, match="some are constant or follow from others"):
        one_group_effects(np.ones((6, 2)), level=0.95, covariates=np.column_stack([age, -age]))


def test_single_observation_has_no_effect_size():
    with pytest.raises(NumericsError, match="data has 1 observations"):
        one_group_effects(np.ones((1, 2)), level=0.95)


def test_feature_without_variance_has_no_effect():
    data = np.full((sum(N), 1), 3.0)
    found = effects(data)
    assert found.cohen_d[0] == found.hedges_g[0] == found.difference[0] == 0.0


def test_percent_of_a_mean_of_zero_is_missing():
    data = simulated(6, 1)
    data[N[0] :] = 0.0
    assert np.isnan(effects(data).percent[0])


@pytest.mark.parametrize(
    ("design", "groups", "words"),
    [
        (np.ones((4, 2)), [0, 0, 1, 1], "first columns of the design are not its 2 groups"),
        (np.eye(2)[[0, 0, 1]], [0, 0, 1, 1], "data has 4 rows, design 3"),
        (np.eye(2)[[0, 0, 0, 0]][:, :1], [0, 0, 0, 0], "are not its 1 groups"),
        (np.eye(2)[[0, 0, 1, 1]][:, [0, 1, 1]], [0, 0, 1, 1], "3 columns and rank 2"),
    ],
)
def test_design_that_does_not_fit_is_refused(design, groups, words):
    with pytest.raises(NumericsError) as caught:
        two_group_effects(np.zeros((4, 1)), design, groups, level=0.95, has_unequal_variances=False)
    assert words in str(caught.value)
