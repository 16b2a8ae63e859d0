"""ADC against closed forms, and without the bias of the noise floor."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.apparent_diffusion import fit_adc, fit_regional_adc
from bids_alsmri.numerics.noise import Noise


def test_two_weightings_give_the_log_ratio():
    signal = np.array([[250.0, 80.0], [90.0, 30.0]])
    assert_allclose(fit_adc(signal, [0, 800]), np.log(signal[:, 0] / signal[:, 1]) / 800)


def test_more_weightings_give_the_slope_of_the_line():
    b = np.array([0, 0, 300.0, 500, 1000])
    signal = 40 * np.exp(-b * 1.7e-3)
    assert_allclose(fit_adc(signal[None], b), 1.7e-3, rtol=1e-9)
    rng = np.random.default_rng(0)
    noisy = signal * rng.uniform(0.9, 1.1, 5)
    assert_allclose(fit_adc(noisy, b), -np.polyfit(b, np.log(noisy), 1)[0])


def test_voxel_without_signal_has_no_coefficient():
    assert np.isnan(fit_adc(np.array([[10.0, 0.0]]), [0, 1000])).all()


@pytest.mark.parametrize("snr", [10.0, 15.0, 20.0])
@pytest.mark.parametrize("n_channels", [1, 4])
def test_noise_floor_does_not_lower_the_coefficient_of_a_region(snr, n_channels):
    rng = np.random.default_rng(5)
    true = snr * np.exp(-np.array([0, 1000]) * 1.6e-3)
    parts = rng.normal(size=(2 * n_channels, 3000, 2))
    parts[0] += true
    magnitude = np.sqrt((parts**2).sum(axis=0))
    found = fit_regional_adc(magnitude, [0, 1000], Noise(1.0, float(n_channels)))
    # standard error of 3000 voxels: sqrt(1 / (S^2 3000)) / 1000 = 1e-5 at an SNR of 2
    assert_allclose(found.adc_mm2_s, 1.6e-3, rtol=0.02)
    assert_allclose(found.snr, snr, rtol=0.02)
    if snr == 10:
        floor_left_in = fit_regional_adc(magnitude, [0, 1000], None).adc_mm2_s
        assert floor_left_in < 0.95 * 1.6e-3


def test_gain_does_not_change_the_coefficient():
    signal = np.array([[100.0, 30.0], [90.0, 25.0]])
    one, two = (
        fit_regional_adc(g * signal, [0, 1000], Noise(2.0 * g, 1.0)).adc_mm2_s for g in (1.0, 7.0)
    )
    assert_allclose(one, two)


@pytest.mark.parametrize(
    ("b", "text"),
    [([0.0], "1 values but the series 2"), ([0, 0], "needs two weightings"), ([-5, 900], "needs")],
)
def test_weightings_that_do_not_fit_are_refused(b, text):
    with pytest.raises(NumericsError, match=text):
        fit_adc(np.ones((3, 2)), b)
