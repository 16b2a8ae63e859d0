"""Mixed models against R, responsiveness against hand and simulation, attrition."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import integrate, stats
from scipy.linalg import block_diag
from statsmodels.regression.mixed_linear_model import MixedLM

from bids_alsmri.errors import NumericsError
from bids_alsmri.stats.longitudinal import (
    course_of,
    participants_per_arm,
    pattern_mixture,
    response_mean,
)
from bids_alsmri.stats.random_intercept import fit_random_intercept
from bids_alsmri.stats.repeated_measures import fit_visits

LME4 = json.loads((Path(__file__).parent / "published" / "lme4.json").read_text())


def _fit(case, criterion):
    visits = np.array(case["visit"])
    design = np.column_stack([np.ones(len(visits)), visits == 1, visits == 2]).astype(float)
    return fit_random_intercept(case["value"], design, case["who"], criterion=criterion)


@pytest.mark.parametrize("criterion", ["ml", "reml"])
@pytest.mark.parametrize("name", LME4["cases"])
def test_mixed_model_equals_lme4(name, criterion):
    case = LME4["cases"][name]
    fit, expected = _fit(case, criterion), case[criterion]
    assert_allclose(fit.coefficients, expected["coefficients"], rtol=1e-5, atol=1e-7)
    errors = np.sqrt(np.diag(fit.covariance))
    # lme4's optimiser stops within some 1e-6 of the maximum
    assert_allclose(errors, expected["errors"], rtol=1e-5)
    variances = [fit.var_intercept, fit.var_residual]
    assert_allclose(variances, expected["variances"], rtol=2e-4, atol=1e-6)
    assert_allclose(fit.log_likelihood, expected["log_likelihood"], rtol=1e-8)


@pytest.mark.parametrize("name", LME4["cases"])
def test_small_samples_equal_pbkrtest(name):
    case = LME4["cases"][name]
    fit = _fit(case, "reml")
    found = [fit.error_and_freedom(weights) for weights in np.eye(3)]
    assert_allclose([error for error, _ in found], case["kenward_roger_errors"], rtol=1e-4)
    assert_allclose([dof for _, dof in found[1:]], case["kenward_roger_dof"], rtol=1e-4)


SCRIPT = """
suppressMessages(library(lme4)); options(digits = 12)
d <- read.csv(file("stdin")); d$visit <- factor(d$visit)
for (r in c(FALSE, TRUE)) {
  f <- suppressMessages(lmer(value ~ visit + (1 | who), d, REML = r))
  cat(fixef(f), sqrt(diag(as.matrix(vcov(f)))), as.data.frame(VarCorr(f))$vcov, logLik(f), "\\n")
}
"""


@pytest.mark.slow
def test_lme4_itself_still_says_so():
    r = shutil.which("Rscript")
    if (
        r is None
        or subprocess.run([r, "-e", "library(lme4)"], capture_output=True, check=False).returncode
    ):
        pytest.skip("R with lme4 (Debian: r-cran-lme4) is not installed")
    case = LME4["cases"]["ratio 0.8"]
    rows = zip(case["value"], case["visit"], case["who"], strict=True)
    text = "value,visit,who\n" + "\n".join(f"{a!r},{b},{c}" for a, b, c in rows)
    done = subprocess.run([r, "-e", SCRIPT], input=text, capture_output=True, text=True, check=True)
    lines = [np.array(line.split(), float) for line in done.stdout.splitlines()]
    for line, criterion in zip(lines, ["ml", "reml"], strict=True):
        fit = _fit(case, criterion)
        own = [*fit.coefficients, *np.sqrt(np.diag(fit.covariance))]
        assert_allclose(line[:6], own, rtol=1e-5)
        assert_allclose(line[-1], fit.log_likelihood, rtol=1e-8)


def test_mixed_model_equals_statsmodels():
    case = LME4["cases"]["ratio 0.3"]
    visits = np.array(case["visit"])
    design = np.column_stack([np.ones(len(visits)), visits == 1, visits == 2]).astype(float)
    other = MixedLM(case["value"], design, groups=case["who"]).fit(reml=True)
    fit = _fit(case, "reml")
    assert_allclose(fit.coefficients, other.fe_params, rtol=1e-4)
    assert_allclose(fit.var_residual, other.scale, rtol=1e-3)


def test_complete_visits_are_paired_t_tests():
    rng = np.random.default_rng(3)
    y = rng.normal(size=(12, 3)) + np.outer(rng.normal(size=12), [1.0, 2.0, 4.0])
    who, when = np.repeat(np.arange(12), 3).tolist(), [0, 1, 2] * 12
    found = course_of(y.ravel(), who, when, order=[0, 1, 2], mode="best", level=0.95)
    for visit, own in zip((1, 2), found.changes, strict=True):
        expected = stats.ttest_rel(y[:, visit], y[:, 0])
        low, high = expected.confidence_interval(0.95)
        assert_allclose((own.change.low, own.change.high), (low, high), rtol=1e-6)
        assert_allclose(own.change.p, expected.pvalue, rtol=1e-6)


def _dense_likelihood(y, whole):
    """Restricted likelihood by one matrix for all values, as a textbook writes it."""
    seen = np.isfinite(y)
    design = np.eye(y.shape[1])
    design[:, 0] = 1
    x = np.vstack([design[mask] for mask in seen])
    v = block_diag(*[whole[np.ix_(mask, mask)] for mask in seen])
    values, inverse = y[seen], np.linalg.inv(v)
    precision = x.T @ inverse @ x
    beta = np.linalg.solve(precision, x.T @ inverse @ values)
    left = values - x @ beta
    logs = np.linalg.slogdet(v)[1] + np.linalg.slogdet(precision)[1]
    free = len(values) - x.shape[1]
    return -0.5 * (free * np.log(2 * np.pi) + logs + left @ inverse @ left), beta


@pytest.mark.parametrize("structure", ["unstructured", "slopes"])
def test_free_covariance_is_the_maximum_of_the_dense_likelihood(structure):
    rng = np.random.default_rng(8)
    months = np.array([0.0, 4.0, 8.0, 12.0])
    y = 10 + rng.normal(size=(25, 1)) + np.outer(rng.normal(0.1, 0.1, 25), months)
    y += rng.normal(0, 0.3, y.shape)
    y[15:, 3], y[20:, 2], y[4, 1] = np.nan, np.nan, np.nan
    fit = fit_visits(y, structure=structure, months=months)
    best, beta = _dense_likelihood(y, fit.visit_covariance)
    assert_allclose(fit.log_likelihood, best, rtol=1e-9)
    assert_allclose(fit.coefficients, beta, rtol=1e-6)
    # steps away from it, within the structure, lose
    times = months / 12
    parts = {
        "unstructured": [np.diag(row) for row in np.eye(4)],
        "slopes": [np.ones((4, 4)), np.outer(times, times), np.eye(4)],
    }[structure]
    for part in parts:
        for step in (-0.01, 0.01):
            assert _dense_likelihood(y, fit.visit_covariance + step * part)[0] < best


def test_mixed_model_of_rates_equals_statsmodels():
    rng = np.random.default_rng(2)
    months = np.array([0.0, 4.0, 8.0, 12.0])
    y = 10 + 2 * rng.normal(size=(40, 1)) + np.outer(rng.normal(0.3, 0.2, 40), months)
    y += rng.normal(0, 0.5, y.shape)
    y[25:, 3] = np.nan
    fit = fit_visits(y, structure="slopes", months=months)
    who, when = np.nonzero(np.isfinite(y))
    design = np.column_stack([np.ones(len(who)), *[when == k for k in (1, 2, 3)]]).astype(float)
    rates = np.column_stack([np.ones(len(who)), months[when] / 12])
    other = MixedLM(y[who, when], design, groups=who, exog_re=rates).fit(reml=True)
    # statsmodels' optimiser stops within some 1e-4 of the maximum
    assert_allclose(fit.coefficients, other.fe_params, rtol=1e-3)
    assert_allclose(np.sqrt(np.diag(fit.covariance)), other.bse_fe, rtol=2e-3)


@pytest.mark.parametrize("seed", range(12))
def test_a_handful_of_values_ends_with_intervals_about_the_estimate(seed):
    rng = np.random.default_rng(seed)
    n = 1 + seed % 4
    y = rng.normal(5, 1, (n, 3))
    y[rng.random(y.shape) < 0.5] = np.nan
    who = np.repeat(np.arange(n), 3).tolist()
    args = {"order": [0, 4, 12], "months": [0, 4, 12], "level": 0.95}
    for mode in ("best", "paper"):
        for one in course_of(y.ravel(), who, [0, 4, 12] * n, mode=mode, **args).changes:
            own = one.change
            assert np.isnan(own.value) or not own.error > 0 or own.low < own.value < own.high


def test_few_participants_fall_back_to_an_intercept_and_say_so():
    y = np.random.default_rng(1).normal(size=(4, 3))
    who, when = np.repeat(np.arange(4), 3).tolist(), [0, 1, 2] * 4
    found = course_of(y.ravel(), who, when, order=[0, 1, 2], mode="best", level=0.95)
    assert "random intercept alone: 4 participants have two visits in common" in found.note
    assert found.method.endswith("random intercept")


def test_two_visits_are_the_paired_t_test():
    rng = np.random.default_rng(5)
    y = rng.normal(size=(9, 2)) + 2 * rng.normal(size=(9, 1))
    found = course_of(
        y.ravel(), np.repeat(np.arange(9), 2).tolist(), [0, 1] * 9, order=[0, 1], mode="best",
        level=0.95,
    )  # fmt: skip
    assert_allclose(found.changes[0].change.p, stats.ttest_rel(y[:, 1], y[:, 0]).pvalue, rtol=1e-5)


def test_variance_of_zero_is_a_result():
    # visits of a participant differ more than those of others
    y = [1.0, -1.0, -1.0, 1.0, 1.1, -1.0, -1.2, 1.0]
    found = course_of(y, list("aabbccdd"), [0, 1] * 4, order=[0, 1], mode="paper", level=0.95)
    assert found.variance_ratio == 0.0
    assert found.note == "variance between participants is 0"
    assert np.isfinite(found.changes[0].change.p)


def test_percentages_do_not_depend_on_the_unit():
    case = LME4["cases"]["ratio 0.8"]
    args = {"order": [0, 1, 2], "mode": "best", "level": 0.95}
    y = np.array(case["value"]) + 10
    one = course_of(y, case["who"], case["visit"], **args).changes[1].percent
    other = course_of(1000 * y, case["who"], case["visit"], **args).changes[1].percent
    assert_allclose((one.low, one.value, one.high), (other.low, other.value, other.high), rtol=1e-6)


def test_one_visit_each_is_least_squares_and_says_so():
    found = course_of(
        [1.0, 2.0, 4.0, 6.0], list("abcd"), [0, 0, 1, 1], order=[0, 1], mode="best", level=0.95
    )
    assert "least squares" in found.note
    expected = stats.ttest_ind([4.0, 6.0], [1.0, 2.0]).pvalue
    assert_allclose(found.changes[0].change.p, expected, rtol=1e-9)


def test_equal_values_give_no_p():
    found = course_of([2.0] * 6, list("aabbcc"), [0, 1] * 3, order=[0, 1], mode="best", level=0.95)
    assert "do not vary" in found.note
    assert np.isnan(found.changes[0].change.p)


def test_two_values_of_a_visit_are_refused():
    with pytest.raises(NumericsError, match="a has 2 values at visit 0"):
        course_of([1.0, 2, 3], list("aab"), [0, 0, 1], order=[0, 1], mode="best", level=0.95)


def test_response_mean_and_variance_ratio_by_hand():
    # changes 1, 2, 3, 6: mean 3, squared deviations 4 + 1 + 0 + 9 = 14, sd sqrt(14 / 3)
    found = response_mean([1, 2, 3, 6, np.nan], kind="noncentral", level=0.95)
    assert_allclose(found.value, 3 / np.sqrt(14 / 3))
    # participants 1, 3 and 4, 5: mean squares 6.25 and 0.25 by hand, so 3 and 0.25
    fit = fit_random_intercept([1, 3, 4, 5], [[1, 0], [1, 1]] * 2, list("aabb"), criterion="reml")
    assert_allclose(fit.variance_ratio, 3 / 3.25, rtol=1e-6)


def test_noncentral_interval_has_its_tail_quantiles():
    changes = np.array([0.5, 1.0, 2.5, -0.5, 1.2, 0.9])
    found = response_mean(changes, kind="noncentral", level=0.9)
    t = np.sqrt(6) * found.value
    assert_allclose(stats.nct.sf(t, 5, np.sqrt(6) * found.low), 0.05, rtol=1e-5)
    assert_allclose(stats.nct.cdf(t, 5, np.sqrt(6) * found.high), 0.05, rtol=1e-5)
    turned = response_mean(-changes, kind="noncentral", level=0.9)
    assert_allclose((turned.low, turned.high), (-found.high, -found.low), rtol=1e-6)


@pytest.mark.parametrize("changes", [[-8.0, -9.0], [8.0, 9.0], [-1.0, -1.001], [0.1, -3.0]])
def test_two_completers_have_an_interval(changes):
    found = response_mean(changes, kind="noncentral", level=0.95)
    assert found.low < found.value < found.high
    for end, share in ((found.low, 0.975), (found.high, 0.025)):
        # P(T < t) of the non-central t with one degree of freedom, by its integral over the
        # standard deviation; of the mirrored pair where t is negative
        sign = np.sign(found.value)
        tail = integrate.quad(
            lambda v, end=end, sign=sign: (
                stats.norm.cdf(np.sqrt(2) * sign * (found.value * v - end)) * stats.chi.pdf(v, 1)
            ),
            *(0, 40),
            points=[1.0, 2.0, 4.0],
            limit=400,
        )[0]
        assert_allclose(tail if sign > 0 else 1 - tail, share, atol=1e-4)


def test_bootstraps_of_the_response_mean_enclose_it():
    changes = np.random.default_rng(1).normal(1, 1, 20)
    for kind in ("bca", "percentile"):
        rng = np.random.default_rng(2)
        found = response_mean(changes, kind=kind, level=0.95, n_draws=300, rng=rng)
        assert found.low < found.value < found.high


def test_participants_per_arm_has_the_power_it_was_asked_for():
    n = participants_per_arm(-5.7, 4.7, effect=0.5, power=0.8, alpha=0.05)
    d = 0.5 * 5.7 / 4.7

    def power(n):
        cut = stats.t.ppf(0.975, 2 * n - 2)
        return stats.nct.sf(cut, 2 * n - 2, d * np.sqrt(n / 2))

    assert power(n - 1) < 0.8 <= power(n)
    more = participants_per_arm(-5.7, 4.7, effect=0.5, power=0.8, alpha=0.05, attrition=0.5)
    assert 2 * n - 2 <= more <= 2 * n
    # a small change needs many: the normal formula, 2 (1.960 + 0.842)^2 / d^2
    for change in (0.01, 0.03, 1e-4):
        n = participants_per_arm(change, 1.0, effect=0.5, power=0.8, alpha=0.05)
        assert_allclose(n, 2 * 2.801585**2 / (0.5 * change) ** 2, rtol=1e-3)
    assert participants_per_arm(0.0, 1.0, effect=0.5, power=0.8, alpha=0.05) == np.inf


def _leavers(rng, n=400):
    """Rates per visit; the fast half leaves before the last visit."""
    rate = rng.normal(1.0, 0.5, n)
    y = rng.normal(0, 1, (n, 1)) + np.outer(rate, [0.0, 4.0, 12.0]) + rng.normal(0, 0.3, (n, 3))
    y[rate > np.median(rate), 2] = np.nan
    who, when = np.repeat(np.arange(n), 3).tolist(), [0, 4, 12] * n
    return y.ravel(), who, when


def test_free_covariance_and_own_rates_recover_what_fast_leavers_hide():
    y, who, when = _leavers(np.random.default_rng(0))
    args = {"order": [0, 4, 12]}
    course = course_of(y, who, when, mode="best", level=0.95, **args)
    found = pattern_mixture(course, y, who, when, months=[0, 4, 12], visit=12, level=0.95, **args)
    intercept = course_of(y, who, when, mode="paper", level=0.95, **args).changes[1].change
    model, own = found.scenarios[:2]
    # truth 12; the standard error of each is below 0.4
    assert intercept.value < 10.5
    assert abs(model.value - 12) < 1.2
    assert abs(own.value - 12) < 1.2
    assert found.n_left == 200


def test_tipping_shift_brings_the_interval_to_zero():
    y, who, when = _leavers(np.random.default_rng(1), n=30)
    course = course_of(y, who, when, order=[0, 4, 12], mode="best", level=0.95)
    args = {"order": [0, 4, 12], "months": [0, 4, 12], "visit": 12, "level": 0.95}
    found = pattern_mixture(course, y, who, when, **args)
    model = course.changes[1].change
    shift = found.tipping / model.value
    again = pattern_mixture(course, y, who, when, shifts=[shift], **args)
    assert found.tipping < 0 < model.low
    assert abs(again.scenarios[-1].low) < 1e-6 * model.value
