"""Voxelwise covariates and variance groups against scipy, statsmodels and the published G."""

import numpy as np
import pytest
import statsmodels.api as sm
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats
from statsmodels.stats.oneway import anova_oneway

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.linear import (
    f_statistic,
    partition_design,
    residuals,
    t_statistic,
    two_groups,
)
from bids_alsmri.numerics.refit import make_variance_groups, refitted, voxelwise_residuals

N = 22
FIRST = np.arange(N) < 9
THREE = np.repeat([0, 1, 2], [7, 5, 10])
ANY_OF_THREE = [[1, -1, 0], [0, 1, -1]]


@pytest.fixture
def rng():
    return np.random.default_rng(21)


def statistic(data, split, labels=None, order=None, signs=None):
    n = len(split.effect)
    return refitted(
        data,
        split,
        make_variance_groups(labels, split),
        np.arange(n)[np.newaxis] if order is None else order[np.newaxis],
        np.ones((1, n)) if signs is None else signs[np.newaxis],
    )[0]


def published_g(y, design, contrast, labels):
    """G of Winkler 2014 for one feature, as its equations stand there."""
    contrast = np.atleast_2d(contrast).T
    s = contrast.shape[1]
    inverse = np.linalg.pinv(design)
    psi = inverse @ y
    rest = y - design @ psi
    r = np.diag(np.eye(len(y)) - design @ inverse)
    w, groups = np.zeros(len(y)), np.unique(labels)
    for g in groups:
        w[labels == g] = r[labels == g].sum() / (rest[labels == g] ** 2).sum()
    spread = sum((1 - w[labels == g].sum() / w.sum()) ** 2 / r[labels == g].sum() for g in groups)
    inner = np.linalg.pinv(contrast.T @ np.linalg.pinv(design.T @ np.diag(w) @ design) @ contrast)
    g = psi @ contrast @ inner @ contrast.T @ psi / s / (1 + 2 * (s - 1) / s / (s + 2) * spread)
    return np.sign(contrast[:, 0] @ psi) * np.sqrt(g) if s == 1 else g


def test_welchs_t_is_that_of_scipy(rng):
    data = rng.normal(5, 1, (N, 12)) * np.where(FIRST, 3.0, 1.0)[:, np.newaxis]
    split = partition_design(*two_groups(FIRST))
    expected = stats.ttest_ind(data[FIRST], data[~FIRST], equal_var=False).statistic
    assert_allclose(statistic(residuals(data, split), split, FIRST), expected, rtol=1e-9)


def test_g_of_three_groups_is_welchs_analysis_of_variance(rng):
    data = rng.normal(5, 1, (N, 8)) * np.array([1.0, 2.0, 5.0])[THREE, np.newaxis]
    split = partition_design(np.eye(3)[THREE], ANY_OF_THREE)
    expected = [anova_oneway(y, THREE, use_var="unequal").statistic for y in data.T]
    assert_allclose(statistic(residuals(data, split), split, THREE), expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("contrast", "labels"),
    [
        ([1, -1, 0, 0, 0], THREE),
        ([0, 0, 0, 1, 0], FIRST),
        ([[1, -1, 0, 0, 0], [0, 1, -1, 0, 0]], THREE),
        ([[0, 0, 0, 1, 0], [0, 0, 0, 0, 1], [1, 0, -1, 0, 0]], FIRST),
    ],
)
def test_g_with_covariates_is_the_published_one(rng, contrast, labels):
    design = np.column_stack([np.eye(3)[THREE], rng.normal(0, 1, (N, 2))])
    data = rng.normal(0, 1, (N, 6)) * (1 + labels)[:, np.newaxis]
    split = partition_design(design, contrast)
    expected = [published_g(y, design, contrast, labels) for y in data.T]
    assert_allclose(statistic(residuals(data, split), split, labels), expected, rtol=1e-8)


def test_one_variance_group_gives_t_and_f(rng):
    data = rng.normal(0, 1, (N, 7))
    for contrast in ([1, -1, 0], ANY_OF_THREE):
        split = partition_design(np.eye(3)[THREE], contrast)
        left = residuals(data, split)
        usual = t_statistic if len(split.effect.T) == 1 else f_statistic
        assert_allclose(statistic(left, split), usual(left, split), rtol=1e-9)


def fit_each(data, design, covariates, contrast, which):
    """Statsmodels, a design for each feature."""
    found = []
    for v, y in enumerate(data.T):
        matrix = np.column_stack([design, *covariates[:, :, v]])
        rows = np.atleast_2d(contrast)
        padded = np.column_stack([rows, np.zeros((len(rows), len(covariates)))])
        fit = sm.OLS(y, matrix).fit()
        test = fit.t_test(padded).tvalue if which == "t" else fit.f_test(padded).fvalue
        found.append(float(np.squeeze(test)))
    return np.array(found)


@pytest.mark.parametrize("n_covariates", [1, 2])
@pytest.mark.parametrize(("which", "contrast"), [("t", [1, -1, 0]), ("f", ANY_OF_THREE)])
def test_voxelwise_covariates_are_a_refit_of_each_voxel(rng, n_covariates, which, contrast):
    design = np.eye(3)[THREE]
    covariates = rng.uniform(0, 1, (n_covariates, N, 9)) + (THREE == 0)[:, np.newaxis]
    data = rng.normal(0, 1, (N, 9)) + 3 * covariates.sum(axis=0)
    split = partition_design(design, contrast)
    found = statistic(voxelwise_residuals(data, split, covariates), split)
    assert_allclose(found, fit_each(data, design, covariates, contrast, which), rtol=1e-8)


def test_covariate_that_is_the_same_in_all_voxels_is_a_column_of_the_design(rng):
    age = rng.normal(60, 10, N)
    data = rng.normal(0, 1, (N, 5)) + age[:, np.newaxis] / 10
    split = partition_design(*two_groups(FIRST))
    covariate = np.tile(age[:, np.newaxis], (1, 1, 5))
    whole = partition_design(*two_groups(FIRST, age[:, np.newaxis]))
    found = statistic(voxelwise_residuals(data, split, covariate), split)
    assert_allclose(found, t_statistic(residuals(data, whole), whole), rtol=1e-8)


@pytest.mark.parametrize("with_covariate", [False, True])
@pytest.mark.parametrize("flips", [False, True])
@pytest.mark.parametrize("contrast", [[1, -1, 0], ANY_OF_THREE])
def test_relabelled_g_is_that_of_relabelled_residuals(rng, with_covariate, flips, contrast):
    # Freedman and Lane by the book, feature by feature
    design = np.column_stack([np.eye(3)[THREE]])
    covariates = rng.uniform(0, 1, (1, N, 6))
    data = rng.normal(0, 1, (N, 6)) + 4 * covariates[0]
    split = partition_design(design, contrast)
    left = (
        voxelwise_residuals(data, split, covariates) if with_covariate else residuals(data, split)
    )
    order = rng.permutation(N)
    signs = rng.choice([1.0, -1.0], N) if flips else np.ones(N)
    expected = []
    for v, y in enumerate(data.T):
        nuisance = np.column_stack([split.nuisance, *(covariates[:, :, v] * with_covariate)])
        fitted = nuisance @ np.linalg.pinv(nuisance) @ y
        moved = signs * (y - fitted)[order] + fitted
        whole = np.column_stack([design, covariates[0, :, v]]) if with_covariate else design
        rows = np.atleast_2d(contrast)
        padded = np.column_stack([rows, np.zeros(len(rows))]) if with_covariate else rows
        expected.append(published_g(moved, whole, padded, THREE))
    assert_allclose(statistic(left, split, THREE, order, signs), expected, rtol=1e-7)


@pytest.mark.parametrize("n_features", [1, 127, 129, 300])
def test_statistic_is_the_same_whatever_is_asked_for_with_it(rng, n_features):
    split = partition_design(*two_groups(FIRST, rng.normal(0, 1, (N, 1))))
    covariates = rng.uniform(0, 1, (1, N, n_features))
    left = voxelwise_residuals(rng.normal(0, 1, (N, n_features)), split, covariates)
    orders = np.stack([rng.permutation(N) for _ in range(5)])
    groups = make_variance_groups(FIRST, split)
    together = refitted(left, split, groups, orders, np.ones((5, N)))
    for k in range(5):
        assert_array_equal(statistic(left, split, FIRST, orders[k]), together[k])


def test_voxels_that_tell_nothing_have_no_statistic_and_are_counted(rng):
    data, covariate = rng.normal(0, 1, (N, 5)), rng.uniform(0, 1, (1, N, 5))
    data[:, 0] = 4.0  # constant data
    covariate[0, :, 1] = 0.3  # constant covariate
    covariate[0, :, 2] = FIRST  # covariate that is the effect
    data[:, 3] = 2.0 * covariate[0, :, 3] + 1.0  # data that are the covariate
    split = partition_design(*two_groups(FIRST))
    left = voxelwise_residuals(data, split, covariate)
    assert left.n_constant == 4
    found = statistic(left, split, FIRST)
    assert_array_equal(found[:4], 0.0)
    assert abs(found[4]) > 0.0


def test_group_of_equal_values_gives_a_finite_statistic_of_the_right_sign(rng):
    data = np.where(FIRST[:, np.newaxis], 2.0, rng.normal(0, 1, (N, 3)))
    split = partition_design(*two_groups(FIRST))
    rest = data[~FIRST]
    expected = (2.0 - rest.mean(axis=0)) / (rest.std(axis=0, ddof=1) / np.sqrt(len(rest)))
    found = statistic(residuals(data, split), split, FIRST)
    assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("factor", [1e-3, 1e6])
def test_v_does_not_depend_on_the_unit(rng, factor):
    data = rng.normal(3, 1, (N, 4)) * np.where(FIRST, 3.0, 1.0)[:, np.newaxis]
    split = partition_design(*two_groups(FIRST))
    once, scaled = (
        statistic(residuals(scale * data, split), split, FIRST) for scale in (1.0, factor)
    )
    assert_allclose(scaled, once, rtol=1e-6)


def test_what_cannot_be_fitted_is_refused(rng):
    split = partition_design(*two_groups(FIRST))
    data = rng.normal(0, 1, (N, 3))
    with pytest.raises(NumericsError, match=r"variance_groups has shape .*each of 22"):
        make_variance_groups([1, 2], split)
    alone = partition_design(np.eye(3)[np.where(np.arange(N) == 4, 2, FIRST)], [1, -1, 0])
    with pytest.raises(NumericsError, match=r"group b has 1 observations.*explain wholly"):
        make_variance_groups(np.where(np.arange(N) == 4, "b", "a"), alone)
    with pytest.raises(NumericsError, match=r"covariates has shape \(1, 22, 2\) but data"):
        voxelwise_residuals(data, split, np.ones((1, N, 2)))
    with pytest.raises(NumericsError, match="covariates holds 1 NaN"):
        voxelwise_residuals(
            data, split, np.where(np.eye(N)[np.newaxis, :, :3] * [1, 0, 0], np.nan, 1)
        )
    with pytest.raises(NumericsError, match="20 voxelwise covariates leave no degree of freedom"):
        voxelwise_residuals(data, split, rng.normal(0, 1, (20, N, 3)))
