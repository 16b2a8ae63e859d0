"""Linear models against scipy and statsmodels; relabelled t against a refit of relabelled data."""

import numpy as np
import pytest
import statsmodels.api as sm
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.linear import (
    f_statistic,
    partition_design,
    relabelled_f,
    relabelled_regressors,
    relabelled_t,
    residuals,
    t_statistic,
    two_groups,
)

N = 21


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def t_of(data, design, contrast):
    split = partition_design(design, contrast)
    return t_statistic(residuals(data, split), split)


def test_t_of_two_groups_is_that_of_scipy(rng):
    first = np.arange(N) < 9
    data = rng.normal(50.0, 3.0, (N, 40)) + first[:, np.newaxis]
    expected = stats.ttest_ind(data[first], data[~first]).statistic
    assert_allclose(t_of(data, *two_groups(first)), expected, rtol=1e-9)


def test_t_of_a_slope_is_that_of_scipy(rng):
    months, data = rng.uniform(2, 60, N), rng.normal(0, 1, (N, 10))
    fits = [stats.linregress(months, column) for column in data.T]
    expected = [fit.slope / fit.stderr for fit in fits]
    design = np.column_stack([np.ones(N), months])
    assert_allclose(t_of(data, design, [0, 1]), expected, rtol=1e-9)


@pytest.mark.parametrize("contrast", [[1, -1, 0, 0], [0, 0, 1, 0], [0.5, 0.5, 0, -2]])
def test_t_with_covariates_is_that_of_statsmodels(rng, contrast):
    first = np.arange(N) < 9
    age = rng.normal(60, 10, N) + 5 * first
    design, _ = two_groups(first, np.column_stack([age, age**2 / 60]))
    data = rng.normal(0, 1, (N, 6)) + age[:, np.newaxis] / 20
    expected = [float(sm.OLS(y, design).fit().t_test(contrast).tvalue.item()) for y in data.T]
    assert_allclose(t_of(data, design, contrast), expected, rtol=1e-8)


@pytest.mark.parametrize(
    "contrast",
    [[[1, -1, 0, 0], [0, 1, -1, 0]], [[0, 0, 0, 1], [1, -0.5, -0.5, 0]], [[1, 0, -1, 0]]],
)
def test_f_is_that_of_statsmodels(rng, contrast):
    three = np.repeat([0, 1, 2], [8, 6, 7])
    design = np.column_stack([np.eye(3)[three], rng.normal(0, 1, N)])
    data = rng.normal(0, 1, (N, 6)) + 0.5 * three[:, np.newaxis]
    split = partition_design(design, contrast)
    expected = [float(np.squeeze(sm.OLS(y, design).fit().f_test(contrast).fvalue)) for y in data.T]
    assert_allclose(f_statistic(residuals(data, split), split), expected, rtol=1e-8)


def test_f_does_not_depend_on_how_the_rows_of_the_contrast_are_written(rng):
    design = np.eye(3)[np.repeat([0, 1, 2], [8, 6, 7])]
    data = rng.normal(0, 1, (N, 5))
    found = []
    for contrast in ([[1, -1, 0], [0, 1, -1]], [[1, 0, -1], [-2, 1, 1]], [[0, 3, -3], [1, 1, -2]]):
        split = partition_design(design, contrast)
        found.append(f_statistic(residuals(data, split), split))
    assert_allclose(found[1], found[0], rtol=1e-9)
    assert_allclose(found[2], found[0], rtol=1e-9)


def test_t_of_a_design_with_more_columns_than_rank_is_that_of_the_reduced_one(rng):
    first = np.arange(N) < 9
    data = rng.normal(0, 1, (N, 5))
    whole = np.column_stack([np.ones(N), first, ~first])
    assert_allclose(t_of(data, whole, [0, 1, -1]), t_of(data, *two_groups(first)), rtol=1e-9)


def test_effect_of_the_partition_has_the_contrast_as_its_coefficient(rng):
    design, contrast = two_groups(np.arange(N) < 9, rng.normal(0, 1, (N, 2)))
    data = rng.normal(0, 1, (N, 4))
    split = partition_design(design, contrast)
    new = np.column_stack([split.effect, split.nuisance])
    wanted = contrast @ np.linalg.lstsq(design, data, rcond=None)[0]
    assert_allclose(np.linalg.lstsq(new, data, rcond=None)[0][0], wanted, atol=1e-12)
    assert_allclose(split.nuisance.T @ split.nuisance, np.eye(3), atol=1e-12)
    assert_allclose(split.nuisance.T @ split.effect, 0, atol=1e-12)
    assert split.degrees_of_freedom == N - 4


@pytest.mark.parametrize("factor", [1e-3, 1.0, 1e6])
def test_t_does_not_depend_on_the_unit_and_the_zero_of_the_data(rng, factor):
    data = rng.normal(0, 1, (N, 4))
    design, contrast = two_groups(np.arange(N) < 9)
    once = t_of(data, design, contrast)
    assert_allclose(t_of(factor * (data + 300.0), design, contrast), once, rtol=1e-6)


@pytest.mark.parametrize("value", [0.0, 7.0, 1e-300, 0.1])
def test_feature_without_variance_has_no_statistic(value):
    data = np.column_stack([np.arange(N, dtype=float), np.full(N, value)])
    split = partition_design(*two_groups(np.arange(N) < 9))
    left = residuals(data, split)
    assert left.n_constant == 1
    assert t_statistic(left, split)[1] == 0.0
    assert t_statistic(left, split)[0] < 0.0


def test_feature_that_differs_between_groups_only_has_an_infinite_t():
    first = np.arange(N) < 9
    assert t_of(first[:, np.newaxis] * 2.0, *two_groups(first))[0] > 1e6


def refit(data, split, design, contrast, order, signs):
    """Freedman and Lane by the book: relabel the residuals, put the fit back, fit again."""
    basis = split.nuisance
    fitted = basis @ (basis.T @ data)
    relabelled = signs[:, np.newaxis] * (data - fitted)[order] + fitted
    return [float(sm.OLS(y, design).fit().t_test(contrast).tvalue.item()) for y in relabelled.T]


@pytest.mark.parametrize("n_covariates", [0, 1, 3])
@pytest.mark.parametrize("flips", [False, True])
def test_relabelled_t_is_that_of_a_refit(rng, n_covariates, flips):
    covariates = rng.normal(0, 1, (N, n_covariates)) if n_covariates else None
    design, contrast = two_groups(np.arange(N) < 9, covariates)
    data = rng.normal(0, 1, (N, 5)) + (covariates.sum(axis=1)[:, None] if n_covariates else 0)
    split = partition_design(design, contrast)
    unit = residuals(data, split).unit.astype(np.float32)
    for _ in range(3):
        order = rng.permutation(N)
        signs = rng.choice([1.0, -1.0], N) if flips else np.ones(N)
        rows = relabelled_regressors(split, order, signs)
        found = np.empty((1, 5), np.float32)
        relabelled_t(unit, rows[np.newaxis], split.degrees_of_freedom, found)
        expected = refit(data, split, design, contrast, order, signs)
        assert_allclose(found[0], expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("flips", [False, True])
def test_relabelled_f_is_that_of_a_refit(rng, flips):
    design = np.column_stack([np.eye(3)[np.repeat([0, 1, 2], [8, 6, 7])], rng.normal(0, 1, N)])
    contrast = [[1, -1, 0, 0], [0, 1, -1, 0]]
    data = rng.normal(0, 1, (N, 5)) + design[:, 3:]
    split = partition_design(design, contrast)
    unit = residuals(data, split).unit.astype(np.float32)
    basis = split.nuisance
    fitted = basis @ (basis.T @ data)
    found, rows, expected = np.empty((3, 5), np.float32), [], []
    for _ in range(3):
        order = rng.permutation(N)
        signs = rng.choice([1.0, -1.0], N) if flips else np.ones(N)
        rows.append(relabelled_regressors(split, order, signs))
        moved = signs[:, np.newaxis] * (data - fitted)[order] + fitted
        fits = [sm.OLS(y, design).fit().f_test(contrast) for y in moved.T]
        expected.append([float(np.squeeze(fit.fvalue)) for fit in fits])
    relabelled_f(unit, np.stack(rows), 2, split.degrees_of_freedom, found)
    assert_allclose(found, expected, rtol=3e-5, atol=2e-6)
    alone = np.empty((1, 5), np.float32)
    relabelled_f(unit, np.stack(rows[1:2]), 2, split.degrees_of_freedom, alone)
    assert_array_equal(alone[0], found[1])


def test_mean_needs_no_product_under_permutation_but_does_under_flips(rng):
    design, contrast = two_groups(np.arange(N) < 9, rng.normal(0, 1, (N, 1)))
    split = partition_design(design, contrast)
    order = rng.permutation(N)
    assert len(relabelled_regressors(split, order, np.ones(N))) == 2
    assert len(relabelled_regressors(split, order, rng.choice([1.0, -1.0], N))) == 3


@pytest.mark.parametrize("n_features", [1, 5, 1024, 1025, 3000])
def test_relabelled_t_is_the_same_whatever_is_asked_for_with_it(rng, n_features):
    design, contrast = two_groups(np.arange(N) < 9, rng.normal(0, 1, (N, 2)))
    split = partition_design(design, contrast)
    unit = residuals(rng.normal(0, 1, (N, n_features)), split).unit.astype(np.float32)
    rows = np.stack(
        [relabelled_regressors(split, rng.permutation(N), np.ones(N)) for _ in range(5)]
    )
    together, alone = np.empty((5, n_features), np.float32), np.empty((1, n_features), np.float32)
    relabelled_t(unit, rows, split.degrees_of_freedom, together)
    for k in range(5):
        relabelled_t(unit, rows[k : k + 1], split.degrees_of_freedom, alone)
        assert_array_equal(alone[0], together[k])
    few = np.ascontiguousarray(unit[:, : n_features // 2 + 1])
    part = np.empty((5, few.shape[1]), np.float32)
    relabelled_t(few, rows, split.degrees_of_freedom, part)
    assert_array_equal(part, together[:, : few.shape[1]])


@pytest.mark.parametrize(
    ("design", "contrast", "words"),
    [
        (np.ones((4, 2)), [1, -1], "not determined by the design"),
        (np.eye(4)[:, :2], [1, -1, 0], "2 columns; give one weight for each"),
        (np.eye(3), [1, 0, 0], "rank 3 with 3 observations"),
        (np.column_stack([np.ones(5), np.arange(5), 2 * np.arange(5)]), [0, 1, 0], "depend on"),
        (np.eye(4)[:, :2], [[1, -1], [2, -2]], "rows of the contrast repeat"),
        (np.array([[1.0], [np.nan]]), [1], "design holds 1 NaN"),
    ],
)
def test_design_that_cannot_tell_is_refused(design, contrast, words):
    with pytest.raises(NumericsError, match=words):
        partition_design(design, contrast)


@pytest.mark.parametrize(
    ("first", "covariates", "words"),
    [
        ([True, True], None, "is_first is True for all 2"),
        ([True, False, False], [[1.0], [1.0], [1.0]], r"covariates \[0\] are the same"),
        ([True, False, False], [[1.0], [np.inf], [1.0]], "covariates holds 1"),
    ],
)
def test_groups_that_cannot_be_compared_are_refused(first, covariates, words):
    with pytest.raises(NumericsError, match=words):
        two_groups(first, covariates)


def test_unfit_data_is_refused():
    split = partition_design(*two_groups(np.arange(N) < 9))
    with pytest.raises(NumericsError, match="21 observations; give one row for each"):
        residuals(np.ones((20, 3)), split)
    with pytest.raises(NumericsError, match="data holds 1 NaN"):
        residuals(np.where(np.eye(N, 3) * np.arange(3) == 1, np.nan, 1.0), split)
    several = partition_design(np.eye(N)[:, :3] + 1, [[1, -1, 0], [0, 1, -1]])
    left = residuals(np.random.default_rng(0).normal(size=(N, 2)), several)
    with pytest.raises(NumericsError, match="2 rows; Student's t takes one"):
        t_statistic(left, several)
