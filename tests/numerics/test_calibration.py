"""Lines of tubes equal those of statsmodels and scipy; tubes' signals are what was put in."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from numpy.testing import assert_allclose
from scipy import stats

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.calibration import (
    calibrate,
    require_agreement,
    to_concentration,
    tube_signals,
)

CORES = np.zeros((20, 20, 12), int)
CORES[2:8, 2:8], CORES[12:18, 12:18] = 1, 2
ARGUMENTS = {"noise_sigma": 2.0, "reach": 3.0, "independent_share": 0.5}


def test_weighted_line_is_that_of_statsmodels():
    sodium = np.array([20.0, 50.0, 80.0, 120.0, 50.0])
    error = np.array([1.0, 2.0, 0.5, 3.0, 1.5])
    signal = 4.0 + 1.5 * sodium + np.array([5.0, -6.0, 4.0, -9.0, 3.0])
    fit = sm.WLS(signal, sm.add_constant(sodium), weights=error**-2.0).fit()
    line = calibrate(signal, error, sodium)
    assert_allclose([line.intercept, line.slope], fit.params)
    assert_allclose([line.intercept_error, line.slope_error], fit.bse)
    assert_allclose(line.r_squared, fit.rsquared)
    assert_allclose(line.residuals, fit.resid, atol=1e-9)


def test_line_of_equal_errors_is_that_of_scipy():
    sodium, signal = np.array([30.0, 60.0, 90.0, 120.0]), np.array([33.0, 58.0, 94.0, 117.0])
    expected = stats.linregress(sodium, signal)
    line = calibrate(signal, np.full(4, 0.1), sodium)
    assert_allclose([line.slope, line.intercept], [expected.slope, expected.intercept])
    assert_allclose(line.slope_error, expected.stderr)
    assert_allclose(line.intercept_error, expected.intercept_stderr)
    assert_allclose(line.r_squared, expected.rvalue**2)


def test_one_concentration_goes_through_the_origin():
    line = calibrate([100.0, 110.0], [1.0, 1.0], [50, 50])
    assert line.through_origin
    assert line.intercept == 0.0
    assert np.isnan(line.r_squared)
    assert_allclose(line.slope, 2.1)  # mean signal over concentration
    # two tubes scatter by 7.07 about their mean, whose error is 5
    assert_allclose(line.slope_error, 5.0 / 50.0)
    assert_allclose(line.disagreement, 0.1)


def test_noisier_tube_counts_less():
    line = calibrate([100.0, 110.0], [1.0, 3.0], [50, 50])
    assert_allclose(line.slope, (100 + 110 / 9) / (1 + 1 / 9) / 50)


def test_two_concentrations_in_two_tubes_leave_the_noise_as_error():
    line = calibrate([60.0, 110.0], [1.0, 2.0], [50, 100])
    assert_allclose([line.slope, line.intercept, line.r_squared], [1.0, 10.0, 1.0])
    assert_allclose(line.slope_error, np.sqrt(5.0) / 50.0)  # of a difference over 50 mmol/L


def test_concentration_does_not_depend_on_gain_or_order():
    sodium, signal = np.array([30.0, 60.0, 150.0]), np.array([35.0, 57.0, 160.0])
    error = np.array([1.0, 2.0, 1.0])
    plain = to_concentration([20.0, 90.0], calibrate(signal, error, sodium))
    scaled = calibrate(1e3 * signal[::-1], 1e3 * error[::-1], sodium[::-1])
    assert_allclose(to_concentration([2e4, 9e4], scaled), plain)


def test_line_takes_tubes_back_to_their_concentration():
    sodium = np.array([0.0, 30.0, 60.0, 150.0])
    line = calibrate(3.0 + 0.7 * sodium, np.ones(4), sodium)
    assert_allclose(to_concentration(3.0 + 0.7 * sodium, line), sodium, atol=1e-9)
    assert_allclose(line.disagreement, 0.0, atol=1e-9)


def test_signal_and_error_of_cores_are_those_put_in():
    rng = np.random.default_rng(0)
    image = rng.normal(0, 2, CORES.shape) + 100.0 * (CORES == 1) + 60.0 * (CORES == 2)
    found = tube_signals(image, CORES, **ARGUMENTS)
    n = (CORES == 1).sum()
    assert_allclose(found.mean, [100, 60], atol=4 * 2 / np.sqrt(n))
    # one in 370 lies beyond three deviations
    assert_allclose(found.sd, 2.0, rtol=0.1)
    assert_allclose(found.variation, found.sd / found.mean)
    assert_allclose(found.snr, found.mean / 2.0)
    assert_allclose(found.standard_error, 2.0 / np.sqrt(0.5 * n), rtol=0.1)
    assert_allclose(found.saturated_share, 0.0)


def test_bubble_does_not_darken_the_tube():
    rng = np.random.default_rng(1)
    image = rng.normal(0, 1, CORES.shape) + 100.0 * (CORES > 0)
    image[3:5, 3:5, :6] = 5.0
    found = tube_signals(image, CORES, **ARGUMENTS)
    assert found.n_outliers[0] >= 24
    assert_allclose(found.mean[0], 100.0, atol=0.3)  # four standard errors of 400 voxels


def test_clipped_voxels_are_counted():
    image = np.random.default_rng(2).normal(0, 8, CORES.shape) + 100.0 * (CORES > 0)
    clipped = np.minimum(image, 104.0)
    found = tube_signals(clipped, CORES, **ARGUMENTS)
    expected = [(clipped[n == CORES] == 104.0).mean() for n in (1, 2)]
    assert_allclose(found.saturated_share, expected)
    assert found.saturated_share.min() > 0.2


def test_agreement_is_by_signal_per_concentration():
    require_agreement([100.0, 205.0], [50, 100], most_disagreement=0.05)
    with pytest.raises(NumericsError, match="differ by 10 %; at most 5 % are allowed"):
        require_agreement([100.0, 220.0], [50, 100], most_disagreement=0.05)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: calibrate([1.0, 2.0], [1.0, 1.0], [50]), "one concentration for each tube"),
        (lambda: calibrate([1.0, -2.0], [1.0, 1.0], [50, 50]), "signals are 1, -2"),
        (lambda: calibrate([1.0], [0.0], [50]), "standard_errors are 0"),
        (lambda: calibrate([1.0], [1.0], [0.0]), "at least one is above 0"),
        (lambda: calibrate([9.0, 5.0], [1.0, 1.0], [50, 100]), "in the order of the tubes"),
        (lambda: tube_signals(np.ones(CORES.shape), 0 * CORES, **ARGUMENTS), "holds no tube"),
        (
            lambda: tube_signals(np.ones(CORES.shape), CORES, **ARGUMENTS),
            "tube 1 has a signal of 1",
        ),
    ],
)
def test_impossible_arguments_are_named(call, text):
    with pytest.raises(NumericsError, match=text):
        call()
