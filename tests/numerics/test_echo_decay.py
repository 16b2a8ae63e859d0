"""Decay of echoes in closed form, and against scipy's own optimiser."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import curve_fit

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.echo_decay import combine_echoes, fit_decay

MANY_MS = np.array([4.0, 9.0, 14.0, 19.0, 24.0])


def decaying(times_ms, r2s, start=100.0):
    return start * np.exp(-1e-3 * np.multiply.outer(times_ms, np.asarray(r2s, float)))


@pytest.mark.parametrize("times_ms", [[10.0, 20.0], MANY_MS], ids=["two", "five"])
def test_rate_and_start_are_those_of_the_decay(times_ms):
    rates = np.array([5.0, 28.0, 35.0, 80.0])
    fit = fit_decay(decaying(times_ms, rates), times_ms, sigma=0.0, least_snr=3.0)
    assert_allclose(fit.r2s, rates, rtol=1e-6)
    assert_allclose(fit.start, 100.0, rtol=1e-6)


def test_two_echoes_give_the_logarithm_of_their_ratio():
    fit = fit_decay([[200.0], [50.0]], [10.0, 20.0], sigma=0.0, least_snr=0.0)
    assert_allclose(fit.r2s, np.log(4.0) / 0.01)


def test_fit_of_many_echoes_is_that_of_least_squares():
    rng = np.random.default_rng(1)
    echoes = decaying(MANY_MS, np.full(8, 40.0)) + rng.normal(0, 4, (5, 8))
    fit = fit_decay(echoes, MANY_MS, sigma=0.0, least_snr=0.0)
    for voxel, rate in enumerate(fit.r2s):
        found, _ = curve_fit(
            lambda t, a, r: a * np.exp(-1e-3 * t * r), MANY_MS, echoes[:, voxel], p0=(90, 30)
        )
        assert_allclose(rate, found[1], rtol=1e-4)


def test_noise_floor_does_not_pull_the_rate_down():
    rng = np.random.default_rng(2)
    sigma, n = 5.0, 4000
    true = decaying(MANY_MS, np.full(n, 120.0))
    echoes = np.abs(true + rng.normal(0, sigma, true.shape) + 1j * rng.normal(0, sigma, true.shape))
    fit = fit_decay(echoes, MANY_MS, sigma=sigma, least_snr=3.0)
    plain = fit_decay(echoes, MANY_MS, sigma=0.0, least_snr=0.0)
    told = np.isfinite(fit.r2s)
    assert told.mean() > 0.95
    # the standard error of the median is 0.4 per second
    assert abs(np.median(fit.r2s[told]) - 120.0) < 2.5
    assert np.median(plain.r2s) < 115.0


def test_voxel_with_one_echo_above_the_floor_is_missing():
    fit = fit_decay([[100.0, 100.0], [2.0, 50.0]], [10.0, 20.0], sigma=1.0, least_snr=3.0)
    assert np.isnan(fit.r2s[0])
    assert np.isfinite(fit.r2s[1])
    assert fit.n_echoes.tolist() == [1, 2]


@pytest.mark.filterwarnings("error")
def test_dark_voxels_are_missing_without_a_warning():
    dark = np.array([[0.0, 1.0, 2.0, 5.0], [0.0, 0.0, 1e-3, 5.0]])
    fit = fit_decay(dark, [100.0, 100.1], sigma=0.0, least_snr=3.0)
    assert np.isnan(fit.r2s[:3]).all()
    assert fit.start[3] == pytest.approx(5.0)


@pytest.mark.parametrize("gain", [1e-3, 1e3])
def test_rate_does_not_depend_on_the_gain(gain):
    rng = np.random.default_rng(3)
    echoes = np.abs(decaying(MANY_MS, np.full(20, 40.0)) + rng.normal(0, 3, (5, 20)))
    one, other = (
        fit_decay(g * echoes, MANY_MS, sigma=3.0 * g, least_snr=3.0).r2s for g in (1.0, gain)
    )
    assert_allclose(one, other, rtol=1e-6)


def test_combined_image_is_the_root_of_the_mean_square():
    assert_allclose(combine_echoes([[1.0, 0.0], [7.0, 2.0]]), [5.0, np.sqrt(2.0)])


@pytest.mark.parametrize(
    ("echoes", "times_ms", "words"),
    [
        ([[1.0]], [10.0], "1 echo is too few"),
        ([[1.0], [1.0]], [10.0], "one time per echo"),
        ([[1.0], [1.0]], [20.0, 10.0], "must rise"),
        ([[1.0], [-1.0]], [10.0, 20.0], "give magnitudes"),
        ([[1.0], [np.nan]], [10.0, 20.0], "echoes holds 1 NaN"),
    ],
)
def test_wrong_echoes_are_refused(echoes, times_ms, words):
    with pytest.raises(NumericsError, match=words):
        fit_decay(echoes, times_ms, sigma=1.0, least_snr=3.0)
