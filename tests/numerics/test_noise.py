"""Noise of simulated magnitude images is that which was put in."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.noise import (
    Noise,
    denoise,
    noise_of_air,
    noise_of_texture,
    remove_noise_floor,
)
from bids_alsmri.numerics.pointspread import RadialReadout, radial_point_spread
from bids_alsmri.numerics.relaxation import Relaxation

STILL = RadialReadout(nominal_mm=4.0, echo_ms=0.2, readout_ms=0.0, linear_share=1.0)
SPHERE = radial_point_spread(STILL, Relaxation(45.0, 5.0, 25.0, 0.6))


def head(n=48):
    """Signal of a ball with a brighter core, filling a fifth of the image."""
    x = np.linspace(-1, 1, n)
    radius = np.sqrt(x[:, None, None] ** 2 + x[None, :, None] ** 2 + x[None, None, :] ** 2)
    return 12.0 * (radius < 0.72) + 8.0 * (radius < 0.5) + 30.0 * (radius < 0.15)


def magnitude(signal, *, sigma, n_channels, seed=0, is_radial=False):
    """Root of the sum of squares over channels that share the signal evenly."""
    rng = np.random.default_rng(seed)
    squares = np.zeros(signal.shape)
    for _ in range(n_channels):
        noise = rng.normal(size=signal.shape) + 1j * rng.normal(size=signal.shape)
        if is_radial:
            k = np.fft.fftfreq(len(signal))
            inside = k[:, None, None] ** 2 + k[None, :, None] ** 2 + k**2 < 0.25
            noise = np.fft.ifftn(np.fft.fftn(noise) * inside) / np.sqrt(inside.mean())
        squares += np.abs(signal / np.sqrt(n_channels) + sigma * noise) ** 2
    return np.sqrt(squares)


def zero_filled(signal, *, sigma, seed):
    """Magnitude, in whole numbers, of half of k-space along each axis, on twice as fine a grid."""
    rng = np.random.default_rng(seed)
    k = np.fft.fftfreq(len(signal))
    inside = k[:, None, None] ** 2 + k[None, :, None] ** 2 + k**2 < 0.25**2
    noise = rng.normal(size=signal.shape) + 1j * rng.normal(size=signal.shape)
    noise = np.fft.fftn(noise) / np.sqrt(inside.mean())
    return np.rint(np.abs(np.fft.ifftn(inside * (np.fft.fftn(signal) + sigma * noise))))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("sigma", [15.0, 21.0, 27.0])
def test_noise_of_an_interpolated_image_in_whole_numbers_is_that_of_one_channel(sigma, seed):
    # rings of the head lie over the air, as in real images
    found = noise_of_air(zero_filled(20.0 * head(64), sigma=sigma, seed=seed))
    assert found.n_channels == 1.0
    # rings add to it
    assert_allclose(found.sigma, sigma, rtol=0.05)


@pytest.mark.parametrize("n_channels", [1, 4, 16])
def test_floor_and_spread_of_air_are_those_of_a_chi_variable(n_channels):
    air = magnitude(np.zeros((40, 40, 40)), sigma=1.5, n_channels=n_channels)
    noise = Noise(1.5, n_channels)
    assert_allclose(noise.floor, air.mean(), rtol=2e-3)  # 64000 voxels
    assert_allclose(noise.air_sd, air.std(), rtol=1e-2)


@pytest.mark.parametrize("n_channels", [1, 4, 12])
@pytest.mark.parametrize("is_radial", [False, True])
def test_noise_is_found_in_the_air_around_a_head(n_channels, is_radial):
    image = magnitude(head(), sigma=1.0, n_channels=n_channels, seed=1, is_radial=is_radial)
    found = noise_of_air(image)
    assert_allclose(found.floor, Noise(1.0, n_channels).floor, rtol=0.02)
    assert_allclose(found.air_sd, Noise(1.0, n_channels).air_sd, rtol=0.02)
    assert_allclose(found.sigma, 1.0, rtol=0.02)


@pytest.mark.parametrize("gain", [1e-3, 1e4])
def test_noise_goes_with_the_gain_of_the_receiver(gain):
    image = magnitude(head(), sigma=1.0, n_channels=1, seed=2)
    plain, scaled = noise_of_air(image), noise_of_air(gain * image)
    assert_allclose(scaled.sigma, gain * plain.sigma, rtol=1e-3)
    assert_allclose(scaled.n_channels, plain.n_channels, rtol=1e-3)


def test_slices_of_zeros_do_not_count_as_air():
    image = magnitude(head(), sigma=1.0, n_channels=4, seed=3)
    padded = np.pad(image, ((0, 0), (0, 4), (3, 0)))
    assert_allclose(noise_of_air(padded).sigma, noise_of_air(image).sigma, rtol=0.02)


def test_blanked_air_is_told_from_noise():
    image = magnitude(head(), sigma=1.0, n_channels=1, seed=4)
    with pytest.raises(NumericsError, match="the air was blanked or is out of view"):
        noise_of_air(np.where(image > 5.0, image, 0.0))


def test_image_of_zeros_has_no_noise():
    with pytest.raises(NumericsError, match="0 voxels above 0"):
        noise_of_air(np.zeros((20, 20, 20)))


def test_noise_of_texture_allows_for_empty_corners_of_k_space():
    signal = head()
    image = magnitude(signal, sigma=1.0, n_channels=1, seed=5, is_radial=True)
    within = noise_of_texture(image, signal == 20.0, [4.0, 4.0, 4.0], SPHERE)
    # at a signal of 20 the magnitude's noise is the channel's
    assert_allclose(within.sigma, 1.0, rtol=0.03)
    # a third of the voxels of this small head lie beside an edge
    assert 1.0 < noise_of_texture(image, signal > 0, [4.0, 4.0, 4.0], SPHERE).sigma < 1.4


def test_grid_finer_than_the_sampling_is_refused():
    with pytest.raises(NumericsError, match="too fine for a point spread"):
        noise_of_texture(head(), head() > 0, [0.5, 0.5, 0.5], SPHERE)


@pytest.mark.parametrize("n_channels", [1, 8])
@pytest.mark.parametrize("signal", [2.0, 5.0, 60.0])
def test_mean_of_many_magnitudes_gives_back_the_signal(n_channels, signal):
    image = magnitude(np.full((60, 60, 60), signal), sigma=1.0, n_channels=n_channels)
    error = image.std() / np.sqrt(image.size)
    found = float(remove_noise_floor(image.mean(), Noise(1.0, n_channels)))
    # near the floor the mean hardly rises with the signal: its slope is the signal over the mean
    assert abs(found - signal) < 5 * error * max(1.0, np.sqrt(2 * n_channels) / signal)


@pytest.mark.parametrize("signal", [25.0, 39.0])
def test_signal_of_hundreds_of_channels_is_given_back(signal):
    power = np.random.default_rng(1).noncentral_chisquare(2 * 200, signal**2, 200_000)
    magnitudes = np.sqrt(power)
    error = magnitudes.std() / np.sqrt(magnitudes.size)
    found = float(remove_noise_floor(magnitudes.mean(), Noise(1.0, 200.0)))
    # the mean rises with the signal by the signal over the mean
    assert abs(found - signal) < 4 * error * magnitudes.mean() / signal


def test_floor_itself_is_no_signal():
    noise = Noise(2.0, 5.0)
    assert_allclose(remove_noise_floor([0.0, 0.9 * noise.floor], noise), 0.0)


def test_denoising_lessens_the_error_and_takes_the_floor_off():
    signal = head(32)
    image = magnitude(signal, sigma=1.5, n_channels=4, seed=6)
    noise = Noise(1.5, 4)
    smooth = denoise(image, noise, strength=1.0, patch_radius=1, block_radius=2, n_threads=1)
    inside = signal > 0
    floor = np.sqrt(signal**2 + 2 * 4 * 1.5**2)  # of the squares' mean
    assert np.std((smooth - signal)[inside]) < 0.7 * np.std((image - floor)[inside])
    assert abs(np.mean((smooth - signal)[inside])) < 0.2
    assert np.median(smooth[signal == 0]) < 0.25 * noise.floor


def test_denoising_keeps_edges_that_stand_far_above_the_noise():
    signal = head(24)
    image = magnitude(signal, sigma=0.2, n_channels=1, seed=8)
    smooth = denoise(
        image, Noise(0.2, 1.0), strength=1.0, patch_radius=1, block_radius=2, n_threads=1
    )
    # the smallest step is of 8: what smears it errs by far more than the noise of 0.2
    assert np.abs(smooth - signal)[signal > 0].max() < 1.0


def test_denoising_goes_with_the_gain_of_the_receiver():
    image = magnitude(head(24), sigma=1.0, n_channels=1, seed=7)
    arguments = {"strength": 1.0, "patch_radius": 1, "block_radius": 2, "n_threads": 1}
    plain = denoise(image, Noise(1.0, 1.0), **arguments)
    assert_allclose(denoise(50 * image, Noise(50.0, 1.0), **arguments), 50 * plain, rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: Noise(0.0, 1.0), "sigma is 0"),
        (lambda: Noise(1.0, 0.1), "n_channels is 0.1"),
        (lambda: remove_noise_floor([-1.0], Noise(1.0, 1.0)), "image holds -1"),
        (lambda: noise_of_air(np.full((9, 9, 9), np.inf)), "729 NaN or infinite"),
        (
            lambda: noise_of_texture(
                np.ones((9, 9, 9)), np.zeros((9, 9, 9), bool), [1] * 3, SPHERE
            ),
            "0 voxels off its rim",
        ),
    ],
)
def test_impossible_arguments_are_named(call, text):
    with pytest.raises(NumericsError, match=text):
        call()
