"""Point spreads equal closed forms, integrals over space and simulated sampling."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import ndimage, special

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.pointspread import (
    RadialReadout,
    blur,
    gaussian_point_spread,
    radial_point_spread,
    readout_time_ms,
    recovered_fraction,
    scaled_point_spread,
    spread_at,
)
from bids_alsmri.numerics.relaxation import Relaxation

WHITE = Relaxation(t1_ms=37.0, short_ms=3.4, long_ms=23.5, short_fraction=0.6)
FLUID = Relaxation(t1_ms=60.0, short_ms=55.0, long_ms=55.0, short_fraction=0.0)
STILL = RadialReadout(nominal_mm=3.6, echo_ms=0.2, readout_ms=0.0, linear_share=1.0)
PAPER = RadialReadout(nominal_mm=3.6, echo_ms=0.2, readout_ms=20.0, linear_share=0.3)
SPHERE = radial_point_spread(STILL, WHITE)


def sphere_spread(radius_mm, k_max):
    x = 2 * np.pi * k_max * radius_mm
    return 3 * (np.sin(x) - x * np.cos(x)) / x**3


def test_spread_of_a_full_sphere_is_its_fourier_transform():
    radius_mm = np.linspace(0.1, 30.0, 200)
    k_max = 0.5 / 3.6
    height = spread_at(radius_mm, SPHERE) / (4 * np.pi / 3 * k_max**3)
    assert_allclose(height, sphere_spread(radius_mm, k_max), atol=1e-8)


def test_width_without_decay_is_159_hundredths_of_the_resolution():
    assert_allclose(SPHERE.fwhm_mm / 3.6, 1.59, atol=0.005)  # rounding of the published figure
    assert_allclose(sphere_spread(SPHERE.fwhm_mm / 2, 0.5 / 3.6), 0.5, rtol=1e-6)


def test_faster_decay_spreads_wider():
    widths = [radial_point_spread(PAPER, tissue).fwhm_mm for tissue in (FLUID, WHITE)]
    assert SPHERE.fwhm_mm < widths[0] < widths[1] < 3 * SPHERE.fwhm_mm


def test_readout_reaches_radii_as_its_gradient_says():
    # gradient constant to k0, then falling as k0^2 / k^2: integrate it in small steps
    share, n_steps = 0.4, 20000
    linear_ms = float(readout_time_ms(share, RadialReadout(3.6, 0.2, 20.0, share)))
    step_ms = 20.0 / n_steps
    k, radii = 0.0, []
    for _ in range(n_steps):
        middle = k + 0.5 * step_ms * share / linear_ms * min(1.0, (share / max(k, share)) ** 2)
        k += step_ms * share / linear_ms * min(1.0, (share / max(middle, share)) ** 2)
        radii.append(k)
    assert_allclose(radii[-1], 1.0, rtol=1e-6)
    found = readout_time_ms(np.minimum(radii[::100], 1.0), RadialReadout(3.6, 0.2, 20.0, share))
    assert_allclose(found, step_ms * (1 + np.arange(0, n_steps, 100)), rtol=1e-4)  # a step


def test_readout_at_constant_gradient_is_linear():
    share = np.linspace(0.0, 1.0, 7)
    assert_allclose(readout_time_ms(share, RadialReadout(3.6, 0.0, 20.0, 1.0)), 20.0 * share)


def test_spread_of_sampled_decay_is_the_sum_of_its_waves():
    # random points uniform in the sphere, each with the signal left at its own time
    rng = np.random.default_rng(0)
    points = rng.normal(size=(200000, 3))
    radius = rng.random(len(points)) ** (1 / 3)
    points *= (radius / np.linalg.norm(points, axis=1) * 0.5 / 3.6)[:, None]
    # times of the density-adapted trajectory, after Nagel 2009, equations for k beyond k0
    k0, t0 = 0.3, 3 * 20.0 / (0.3**-3 + 2)
    times = np.where(radius < k0, t0 * radius / k0, t0 * (1 + ((radius / k0) ** 3 - 1) / 3))
    left = 0.6 * np.exp(-(0.2 + times) / 3.4) + 0.4 * np.exp(-(0.2 + times) / 23.5)
    left /= 0.6 * np.exp(-0.2 / 3.4) + 0.4 * np.exp(-0.2 / 23.5)
    volume = 4 * np.pi / 3 * (0.5 / 3.6) ** 3
    spread = radial_point_spread(PAPER, WHITE)
    for position_mm in (0.0, 3.0, 6.0, 12.0):
        waves = left * np.cos(2 * np.pi * points[:, 0] * position_mm)
        error = volume * waves.std() / np.sqrt(len(points))
        assert abs(spread_at(position_mm, spread) - volume * waves.mean()) < 4 * error


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_blur_of_a_point_is_the_spread(axis):
    image = np.zeros((31, 31, 31))
    image[15, 15, 15] = 1.0
    voxel_mm = np.array([1.5, 1.8, 2.0])
    line = np.moveaxis(blur(image, voxel_mm, SPHERE), axis, 0)[:, 15, 15]
    expected = spread_at(np.arange(-15, 16) * voxel_mm[axis], SPHERE) * voxel_mm.prod()
    assert_allclose(line, expected, atol=0.02 * expected.max())  # images of the padded grid


def test_blur_keeps_the_sum_of_what_lies_inside():
    image = np.zeros((24, 25, 26))
    image[8:16, 8:16, 8:16] = np.random.default_rng(0).random((8, 8, 8))
    blurred = blur(image, [2.0, 2.0, 2.0], gaussian_point_spread(5.0))
    assert_allclose(blurred.sum(), image.sum(), rtol=1e-4)  # the tail that leaves the image


def test_gaussian_blur_is_that_of_scipy():
    image = np.random.default_rng(1).random((20, 20, 20))
    sd_mm = 8.0 / np.sqrt(8 * np.log(2))
    expected = ndimage.gaussian_filter(image, sd_mm / 2.0, mode="constant", truncate=6.0)
    found = blur(image, [2.0, 2.0, 2.0], gaussian_point_spread(8.0))
    assert_allclose(found, expected, atol=1e-4)


def test_blur_follows_flips_and_exchanged_axes():
    image = np.random.default_rng(2).random((11, 12, 13))
    voxel_mm = np.array([2.0, 3.0, 2.5])
    plain = blur(image, voxel_mm, SPHERE)
    assert_allclose(blur(image[::-1], voxel_mm, SPHERE)[::-1], plain, atol=1e-12)
    turned = blur(image.transpose(2, 0, 1), voxel_mm[[2, 0, 1]], SPHERE)
    assert_allclose(turned.transpose(1, 2, 0), plain, atol=1e-12)


@pytest.mark.parametrize("diameter_mm", [4.0, 11.0, 20.0, 30.0])
def test_axis_of_a_cylinder_recovers_what_bessel_says(diameter_mm):
    expected = 1 - special.j0(np.pi * diameter_mm * 0.5 / 3.6)
    assert_allclose(recovered_fraction(diameter_mm, 0.0, SPHERE), expected, rtol=1e-6)
    sd_mm = 6.0 / np.sqrt(8 * np.log(2))
    gaussian = 1 - np.exp(-((diameter_mm / 2) ** 2) / 2 / sd_mm**2)
    assert_allclose(
        recovered_fraction(diameter_mm, 0.0, gaussian_point_spread(6.0)), gaussian, rtol=1e-5
    )


@pytest.mark.parametrize("central_mm", [4.0, 10.0, 20.0])
def test_mean_of_a_blurred_cylinder_is_the_recovered_fraction(central_mm):
    step_mm = 0.5
    x = (np.arange(200) - 99.5) * step_mm
    radius = np.hypot(x[:, None], x[None, :])
    # soft edges: the share of each pixel inside, by finer pixels
    fine = (np.arange(1600) - 799.5) * step_mm / 8
    disc = (np.hypot(fine[:, None], fine[None, :]) < 10.0).reshape(200, 8, 200, 8).mean((1, 3))
    frequency = np.fft.fftfreq(200, step_mm)
    k = np.hypot(frequency[:, None], frequency[None, :])
    spread = radial_point_spread(PAPER, WHITE)
    transfer = np.interp(k, spread.frequency_per_mm, spread.transfer, right=0.0)
    blurred = np.fft.ifft2(np.fft.fft2(disc) * transfer).real
    expected = blurred[radius < central_mm / 2].mean()
    assert_allclose(recovered_fraction(20.0, central_mm, spread), expected, atol=0.01)  # pixels


def test_recovery_depends_on_the_ratio_of_lengths_only():
    wide = scaled_point_spread(SPHERE, 2.0)
    assert_allclose(
        recovered_fraction(40.0, 20.0, wide), recovered_fraction(20.0, 10.0, SPHERE), rtol=1e-9
    )


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: RadialReadout(0.0, 0.2, 20.0, 0.3), "nominal_mm is 0 mm"),
        (lambda: RadialReadout(3.6, 0.2, -1.0, 0.3), "readout_ms is -1 ms"),
        (lambda: RadialReadout(3.6, 0.2, 20.0, 0.0), "linear_share is 0"),
        (lambda: readout_time_ms([0.0, 1.1], PAPER), "0 to 1"),
        (lambda: gaussian_point_spread(0.0), "fwhm_mm is 0 mm"),
        (lambda: scaled_point_spread(SPHERE, 0.0), "scale is 0"),
        (lambda: blur(np.full((3, 3, 3), np.nan), [1, 1, 1], SPHERE), "27 NaN"),
        (lambda: blur(np.ones((3, 3, 3)), [1, 1, 0], SPHERE), "three edges above 0"),
        (lambda: recovered_fraction(20.0, 21.0, SPHERE), "central_diameter_mm is 21 mm"),
    ],
)
def test_impossible_arguments_are_named(call, text):
    with pytest.raises(NumericsError, match=text):
        call()
