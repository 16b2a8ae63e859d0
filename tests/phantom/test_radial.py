from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import special

from bids_alsmri.phantom.geometry import Grid, make_grid
from bids_alsmri.phantom.radial import (
    LINEAR_MS,
    Readout,
    Relaxation,
    acquire,
    part_mean,
    point_spread_fwhm_mm,
    sphere_noise,
    split_grid,
)
from bids_alsmri.phantom.tubes import Tube, filled_share

TISSUE = Relaxation(39.0, 3.4, 23.5, 0.6)
AGAR = Relaxation(45.6, 4.3, 4.3, 1.0)
PROTOCOL = Readout(3.6, 0.2, 20.0)
AT_ONCE = Readout(3.6, 0.0, 0.0)
# where the image of a ball of k-space, 3 (sin x - x cos x) / x^3, is one half
HALF_OF_BALL = 2.49828


def image_of_point(readout: Readout, relaxation: Relaxation) -> np.ndarray:
    """Profile through the image of a point, one value for each 0.9 mm, from its centre."""
    grid = Grid((128, 128, 128), np.diag([0.9, 0.9, 0.9, 1.0]))
    point = np.zeros(grid.shape, np.float32)
    point[64, 64, 64] = 1
    return acquire([(point, relaxation, False)], grid, grid, readout)[64:, 64, 64]


def width_mm(profile: np.ndarray) -> float:
    fine = np.interp(np.arange(0, 20, 0.01), np.arange(len(profile)), profile / profile[0])
    return 2 * 0.9 * 0.01 * float(np.argmax(fine < 0.5))


def test_point_is_as_wide_as_the_image_of_a_ball():
    expected = 2 * HALF_OF_BALL / (2 * np.pi) * 7.2
    assert_allclose(expected / 3.6, 1.59, atol=0.005)  # Nagel 2009's factor
    # linear interpolation between 0.9 mm, and a periodic field of view
    assert_allclose(width_mm(image_of_point(AT_ONCE, TISSUE)), expected, rtol=0.02)
    assert_allclose(point_spread_fwhm_mm(AT_ONCE, TISSUE), expected, rtol=1e-3)


def test_image_of_a_point_has_the_side_lobes_of_a_ball():
    x = 2 * np.pi / 7.2 * 0.9 * np.arange(1, 20)
    expected = 3 * (np.sin(x) - x * np.cos(x)) / x**3
    profile = image_of_point(AT_ONCE, TISSUE)
    assert expected.min() < -0.08
    assert_allclose(profile[1:20] / profile[0], expected, atol=0.01)  # k-space on a lattice


@pytest.mark.parametrize("relaxation", [TISSUE, AGAR])
def test_decay_along_the_readout_widens_the_point(relaxation):
    width = width_mm(image_of_point(PROTOCOL, relaxation))
    assert width > 1.1 * width_mm(image_of_point(AT_ONCE, relaxation))
    assert_allclose(point_spread_fwhm_mm(PROTOCOL, relaxation), width, rtol=0.02)


def test_spokes_start_at_constant_speed_and_go_on_at_constant_density():
    k = np.linspace(0, PROTOCOL.k_max_per_mm, 200_001)
    t = PROTOCOL.times_ms(k) - 0.2
    middle = (k[1:] + k[:-1]) / 2
    speed = np.diff(k) / np.diff(t)
    early, late = t[1:] < LINEAR_MS, t[:-1] > LINEAR_MS
    assert_allclose(speed[early], speed[0], rtol=1e-4)
    assert_allclose((speed * middle**2)[late], (speed * middle**2)[-1], rtol=1e-4)
    assert_allclose(speed[late][0], speed[0], rtol=1e-3)  # the gradient does not jump
    assert_allclose(t[-1], 20.0)


def test_total_signal_is_that_of_the_echo():
    grid = make_grid((0.0, 0.0, 0.0), (72.0, 72.0, 72.0), 3.6, 0.0)
    fine = split_grid(grid, 2)
    density = np.random.default_rng(0).random(fine.shape, dtype=np.float32)
    image = acquire([(density, TISSUE, False)], fine, grid, PROTOCOL)
    echo = 0.6 * np.exp(-0.2 / 3.4) + 0.4 * np.exp(-0.2 / 23.5)
    assert_allclose(image.mean(), echo * density.mean(), rtol=1e-5)


def test_a_field_of_view_full_of_tissue_shows_its_density():
    grid = make_grid((0.0, 0.0, 0.0), (72.0, 72.0, 72.0), 3.6, 0.0)
    fine = split_grid(grid, 3)
    image = acquire([(np.full(fine.shape, 7, np.float32), AGAR, False)], fine, grid, PROTOCOL)
    assert_allclose(image, 7 * np.exp(-0.2 / 4.3), rtol=1e-5)


@pytest.mark.parametrize("n_parts", [1, 2, 3])
def test_smooth_objects_stay_in_place(n_parts):
    grid = make_grid((3.0, -2.0, 5.0), (108.0, 108.0, 108.0), 3.6, 20.0)
    fine = split_grid(grid, n_parts)

    def blob(points_mm):
        return np.exp(-((points_mm - np.array([9.0, -8.0, 3.0])) ** 2).sum(-1) / (2 * 9.0**2))

    density = blob(fine.points_mm()).astype(np.float32)
    image = acquire([(density, TISSUE, False)], fine, grid, AT_ONCE)
    assert_allclose(image, blob(grid.points_mm()), atol=1e-4)  # nothing of it beyond the sphere


def cylinder_image(tube: Tube, points_mm: np.ndarray, side_mm: float) -> np.ndarray:
    """Image of a cylinder from its transform in closed form, over a periodic field of view."""
    n = int(np.ceil(side_mm * PROTOCOL.k_max_per_mm))
    k = np.stack(np.meshgrid(*[np.arange(-n, n + 1) / side_mm] * 3, indexing="ij"), -1)
    k = k.reshape(-1, 3)
    radius = np.linalg.norm(k, axis=1)
    k, radius = k[radius < PROTOCOL.k_max_per_mm], radius[radius < PROTOCOL.k_max_per_mm]
    along = k @ tube.axis
    x = np.pi * tube.diameter_mm * np.sqrt(np.maximum(radius**2 - along**2, 1e-18))
    volume = np.pi / 4 * tube.diameter_mm**2 * tube.length_mm
    transform = volume * 2 * special.j1(x) / x * np.sinc(along * tube.length_mm)
    weighted = transform * np.exp(-PROTOCOL.times_ms(radius) / 4.3)
    phase = 2 * np.pi * (points_mm - tube.centre_mm) @ k.T
    return np.cos(phase) @ weighted / side_mm**3


def test_tilted_tube_is_drawn_exactly():
    grid = make_grid((0.0, 0.0, 0.0), (108.0, 108.0, 108.0), 3.6, 0.0)
    fine = split_grid(grid, 2)
    axis = np.array([0.3, -0.2, 1.0]) / np.sqrt(1.13)
    tube = Tube("right", 1.0, np.array([1.3, -2.1, 0.7]), axis, 22.0, 60.0)
    image = acquire([(filled_share(tube, fine), AGAR, True)], fine, grid, PROTOCOL)
    voxels = np.random.default_rng(0).integers(5, 25, (60, 3))
    points = voxels @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    expected = cylinder_image(tube, points, 108.0)
    assert expected.max() > 0.8
    assert_allclose(image[tuple(voxels.T)], expected, atol=0.004)  # 5 x 5 x 5 points in a voxel


@pytest.mark.parametrize("shape", [(40, 40, 40), (41, 40, 39)])
def test_noise_has_unit_variance_within_the_sphere_and_none_outside(shape):
    grid = Grid(shape, np.diag([3.6, 3.6, 3.6, 1.0]))
    noise = sphere_noise(grid, PROTOCOL, np.random.default_rng(0))
    n_within = noise.size * np.pi / 6
    assert_allclose(noise.std(), 1, atol=4 / np.sqrt(2 * n_within))
    frequencies = np.meshgrid(*[np.fft.fftfreq(n, 3.6) for n in shape], indexing="ij")
    outside = np.sqrt(sum(f**2 for f in frequencies)) > 1 / 7.2
    spectrum = np.abs(np.fft.fftn(noise))
    assert spectrum[outside].max() < 1e-3 * spectrum.max()


def test_parts_make_up_their_voxels():
    grid = make_grid((1.0, 2.0, 3.0), (12.0, 12.0, 12.0), 3.0, 15.0)
    for axis in range(3):
        parts = split_grid(grid, 3).points_mm()[..., axis]
        assert_allclose(part_mean(parts, 3), grid.points_mm()[..., axis], atol=1e-9)
