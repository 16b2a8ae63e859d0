"""Relaxation times against closed forms, scipy's least squares and noise of a known level."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import curve_fit

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.echo_decay import combine_echoes, fit_echo_decay
from bids_alsmri.numerics.noise import Noise

TIMES_MS = np.arange(1, 13) * 8.0


def fitted(signal, times=TIMES_MS, noise=None, least=0.0, n_least=1):
    return fit_echo_decay(signal, times, noise=noise, least_signal=least, least_echoes=n_least)


@pytest.mark.parametrize("t2_ms", [5.0, 35.0, 150.0, 800.0])
@pytest.mark.parametrize("gain", [1e-3, 1.0, 1e5])
def test_time_of_a_decay_without_noise_is_exact(t2_ms, gain):
    found = fitted(gain * np.exp(-TIMES_MS / t2_ms))
    assert_allclose([found.t2_ms, found.amplitude / gain], [t2_ms, 1.0], rtol=1e-6)


def test_fit_is_that_of_scipy():
    rng = np.random.default_rng(1)
    signal = 100 * np.exp(-TIMES_MS / rng.uniform(20, 120, (40, 1))) + rng.normal(0, 2, (40, 12))
    found = fitted(np.abs(signal))
    for row, t2_ms, amplitude in zip(np.abs(signal), found.t2_ms, found.amplitude, strict=True):
        (a, t), _ = curve_fit(lambda x, a, t: a * np.exp(-x / t), TIMES_MS, row, (100, 50))
        assert_allclose([amplitude, t2_ms], [a, t], rtol=1e-4)


@pytest.mark.parametrize("n_channels", [1, 8, 64])
def test_floor_of_the_noise_does_not_lengthen_the_time(n_channels):
    rng = np.random.default_rng(2)
    sd, shape = 5.0 / n_channels**0.25, (3000, 12)
    power = (100 * np.exp(-TIMES_MS / 30) + rng.normal(0, sd, shape)) ** 2
    # of the other parts of all channels, where the signal is in one
    noisy = np.sqrt(power + sd**2 * rng.chisquare(2 * n_channels - 1, shape))
    found = fitted(noisy, noise=Noise(sd, n_channels))
    assert_allclose(np.median(found.t2_ms), 30, rtol=0.01)
    # left in, it lengthens it by more
    assert np.median(fitted(noisy).t2_ms) > 31


def test_voxels_without_signal_or_decay_have_no_time():
    signal = np.stack([np.zeros(12), np.full(12, 5.0), np.exp(TIMES_MS / 50), np.exp(-TIMES_MS)])
    assert np.isnan(fitted(signal, least=1e-2).t2_ms).all()


@pytest.mark.parametrize(
    ("times", "text"),
    [([10.0], "two or more times"), ([20.0, 10.0], "that rise"), ([5, 10, 15], "has 2 echoes but")],
)
def test_times_that_do_not_fit_are_refused(times, text):
    with pytest.raises(NumericsError, match=text):
        fitted(np.ones((3, 2)), times)


def test_two_echoes_give_the_logarithm_of_their_ratio():
    found = fitted([[200.0, 50.0]], [10.0, 20.0])
    assert_allclose(1e3 / found.t2_ms, np.log(4.0) / 0.01, rtol=1e-6)


def test_noise_floor_of_two_echoes_does_not_pull_the_rate_down():
    rng = np.random.default_rng(4)
    times, sigma = np.array([10.0, 20.0]), 4.0
    true = 100 * np.exp(-0.1 * times) * np.ones((20000, 2))
    noisy = np.abs(true + rng.normal(0, sigma, true.shape) + 1j * rng.normal(0, sigma, true.shape))
    rate, plain = (
        1e3 / np.nanmedian(fitted(noisy, times, noise=noise).t2_ms)
        for noise in (Noise(sigma, 1), None)
    )
    # 0.3 per second is the standard error of the median
    assert abs(rate - 100.0) < 1.5
    assert plain < 98.0


def test_voxel_whose_second_echo_is_lost_in_noise_is_missing():
    found = fitted([[100.0, 2.0], [100.0, 50.0]], [10.0, 20.0], least=3.0, n_least=2)
    assert np.isfinite(found.t2_ms).tolist() == [False, True]
    with pytest.raises(NumericsError, match="least_echoes is 3"):
        fitted([[1.0, 1.0]], [10.0, 20.0], n_least=3)


@pytest.mark.filterwarnings("error")
def test_dark_voxels_are_missing_without_a_warning():
    dark = np.array([[0.0, 0.0], [1.0, 0.0], [2.0, 1e-3], [5.0, 5.0]])
    assert np.isnan(fitted(dark, [100.0, 100.1], n_least=2).t2_ms).all()


def test_combined_image_is_the_root_of_the_mean_square():
    assert_allclose(combine_echoes([[1.0, 0.0], [7.0, 2.0]]), [5.0, np.sqrt(2.0)])
