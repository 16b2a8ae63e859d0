"""Deviation from controls, against statsmodels, scipy and under the null."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from numpy.testing import assert_allclose
from scipy import stats

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.normative import control_scores

NONE = np.zeros((9, 0))


def test_without_covariates_it_is_the_t_test_of_one_against_the_controls():
    rng = np.random.default_rng(0)
    controls, patient = rng.normal(3, 1, 8), 5.5
    found = control_scores([*controls, patient], NONE, range(9), [True] * 8 + [False])
    t = stats.ttest_ind([patient], controls)
    assert_allclose(stats.norm.sf(found.z[8]) * 2, t.pvalue, rtol=1e-9)
    assert_allclose(found.expected[8], controls.mean())


def test_with_covariates_it_is_the_prediction_of_statsmodels():
    rng = np.random.default_rng(1)
    x = np.column_stack([rng.normal(60, 9, 25), rng.integers(0, 2, 25), rng.normal(1.7, 0.1, 25)])
    y = 2.0 + 0.03 * x[:, 0] - x[:, 1] + 4 * x[:, 2] + rng.normal(0, 0.5, 25)
    is_control = np.arange(25) < 20
    found = control_scores(y, x, range(25), is_control)
    fit = sm.OLS(y[:20], sm.add_constant(x[:20])).fit()
    told = fit.get_prediction(sm.add_constant(x[20:], has_constant="add"))
    t = (y[20:] - told.predicted_mean) / told.se_obs
    assert_allclose(found.expected[20:], told.predicted_mean)
    assert_allclose(stats.norm.sf(np.abs(found.z[20:])), stats.t.sf(np.abs(t), 16), rtol=1e-8)
    # a control is scored without itself
    without = sm.OLS(y[1:20], sm.add_constant(x[1:20])).fit()
    own = without.get_prediction(np.r_[1.0, x[0]])
    assert_allclose(found.expected[0], own.predicted_mean[0])
    assert found.n_controls.tolist() == [19] * 20 + [20] * 5


def test_scores_of_people_like_the_controls_are_standard_normal():
    rng = np.random.default_rng(2)
    z = []
    for _ in range(100):
        age = rng.normal(60, 10, (24, 1))
        y = 0.1 * age[:, 0] + rng.normal(0, 1, 24)
        z.append(control_scores(y, age, range(24), np.arange(24) < 12).z)
    for part in (np.array(z)[:, :12], np.array(z)[:, 12:]):
        # scores of one cohort share its controls: the share has an SD of about 0.01
        assert abs((np.abs(part) > 1.96).mean() - 0.05) < 0.03


def test_second_visit_of_a_control_is_no_further_control():
    values = [1.0, 9.0, 2.0, 3.0, 2.5, 1.5, 2.0, 2.2, 2.1]
    who = [0, 0, 1, 2, 3, 4, 5, 6, 7]
    found = control_scores(values, NONE, who, [True] * 8 + [False])
    assert found.n_controls[-1] == 7
    assert_allclose(found.expected[-1], np.mean([1.0, 2.0, 3.0, 2.5, 1.5, 2.0, 2.2]))
    assert found.z[1] > 3


@pytest.mark.parametrize(("n", "told"), [(3, False), (5, True)])
def test_too_few_controls_give_no_score(n, told):
    values = np.random.default_rng(3).normal(size=n + 1)
    found = control_scores(values, np.zeros((n + 1, 0)), range(n + 1), np.arange(n + 1) < n)
    assert np.isfinite(found.z[-1]) == told


def test_what_is_not_known_has_no_score():
    covariates = np.arange(9.0)[:, np.newaxis]
    covariates[8] = np.nan
    found = control_scores(np.arange(9.0) ** 2, covariates, range(9), [True] * 7 + [False] * 2)
    assert np.isnan(found.z[8])
    assert np.isfinite(found.z[7])


def test_covariates_of_other_length_are_refused():
    with pytest.raises(NumericsError, match="covariates has 2 rows but values has 3"):
        control_scores([1.0, 2.0, 3.0], np.zeros((2, 1)), [0, 1, 2], [True] * 3)
