"""One interpolation of a series: exactness, transforms, edges."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy import ndimage
from scipy.spatial.transform import Rotation

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.resampling import (
    grid_points,
    points_to_volume,
    resample_series,
    resolution_grid,
)

SHAPE = (24, 20, 22)


def oblique_affine(sizes_mm=(2.0, 2.2, 2.5), tilt_deg=20.0, mirror=True):
    turn = Rotation.from_rotvec(np.radians(tilt_deg) * np.array([0.6, 0.64, 0.48])).as_matrix()
    affine = np.eye(4)
    affine[:3, :3] = turn * sizes_mm
    if mirror:
        affine[:3, 0] *= -1
    affine[:3, 3] = [10, -20, 5]
    return affine


def small_motion(angles_deg, shift_mm, centre_mm):
    motion = np.eye(4)
    motion[:3, :3] = Rotation.from_euler("xyz", angles_deg, degrees=True).as_matrix()
    motion[:3, 3] = shift_mm + centre_mm - motion[:3, :3] @ centre_mm
    return motion


def centre_of(shape, affine):
    return affine[:3, :3] @ ((np.array(shape) - 1) / 2) + affine[:3, 3]


def smooth(points_mm):
    """A function that varies over 40 mm and more."""
    x, y, z = np.moveaxis(np.asarray(points_mm), -1, 0) * 2 * np.pi / 100
    return 500 + 100 * np.sin(x + 0.3) * np.cos(1.5 * y) + 80 * np.cos(2 * z + x)


def resample(volumes, affine, points_mm, maps=None, order=3, displacement=None, **choices):
    maps = np.tile(np.eye(4), (volumes.shape[3], 1, 1)) if maps is None else maps
    return resample_series(
        volumes,
        affine,
        points_mm,
        maps,
        displacement_mm=displacement,
        spline_order=order,
        keep_nonnegative=choices.get("keep_nonnegative", False),
        modulate=choices.get("modulate", False),
    )


def inner_mask(shape, margin):
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(margin, -margin) for _ in shape)] = True
    return mask


@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.float32, np.float64])
def test_own_grid_and_no_motion_give_the_series_back(order, dtype):
    volumes = np.random.default_rng(0).integers(0, 4000, (*SHAPE, 2)).astype(dtype)
    everywhere = np.ones(SHAPE, dtype=bool)
    affine = oblique_affine()
    found = resample(volumes, affine, grid_points(SHAPE, affine, everywhere), order=order)
    assert found.covered_mask.all()
    # of 4000: rounding of the voxel coordinates, times the spline's slope
    assert_allclose(found.values.reshape(volumes.shape), volumes, atol=2e-3)


@pytest.mark.parametrize("order", [1, 3])
@given(
    angles=st.lists(st.floats(-8, 8), min_size=3, max_size=3),
    shift=st.lists(st.floats(-3, 3), min_size=3, max_size=3),
)
@settings(max_examples=10, deadline=None)
def test_series_of_a_moved_head_comes_back_still(order, angles, shift):
    affine = oblique_affine()
    motion = small_motion(angles, np.array(shift), centre_of(SHAPE, affine))
    everywhere = np.ones(SHAPE, dtype=bool)
    seen_at = grid_points(SHAPE, affine, everywhere)
    # the volume shows at M x what the reference shows at x
    back = np.linalg.inv(motion)
    moved = smooth(seen_at @ back[:3, :3].T + back[:3, 3]).reshape(SHAPE)
    points = grid_points(SHAPE, affine, inner_mask(SHAPE, 5))
    found = resample(moved[..., np.newaxis], affine, points, motion[np.newaxis], order)
    # linear errs by h^2/8 times the curvature 80 (4 pi/100)^2, h = 2.5 mm, plus other axes
    bound = {1: 3.0, 3: 0.1}[order]
    assert np.abs(found.values[:, 0] - smooth(points)).max() < bound


@given(
    coefficients=st.lists(st.floats(-1, 1), min_size=20, max_size=20),
    offset=st.lists(st.floats(-0.5, 0.5), min_size=3, max_size=3),
)
@settings(max_examples=10, deadline=None)
def test_cubic_spline_reproduces_cubic_polynomials_away_from_the_edge(coefficients, offset):
    powers = [(a, b, c) for a in range(4) for b in range(4) for c in range(4) if a + b + c <= 3]

    def polynomial(places):
        u = (places - 15) / 15
        return sum(
            k * u[..., 0] ** a * u[..., 1] ** b * u[..., 2] ** c
            for k, (a, b, c) in zip(coefficients, powers, strict=True)
        )

    shape = (31, 31, 31)
    volume = polynomial(np.moveaxis(np.indices(shape), 0, -1))
    points = np.argwhere(inner_mask(shape, 13)) + np.array(offset)
    found = resample(volume[..., np.newaxis], np.eye(4), points)
    # the mirrored edge is felt by a factor (2 - sqrt 3)^13 = 4e-8 at 13 voxels; single precision
    assert_allclose(found.values[:, 0], polynomial(points), atol=5e-6)


@pytest.mark.parametrize("order", [0, 1, 3])
def test_affine_map_agrees_with_scipy(order):
    rng = np.random.default_rng(1)
    volume = rng.normal(size=SHAPE)
    motion = small_motion([4, -3, 6], np.array([1.0, -2.0, 0.5]), np.array([11.5, 9.5, 10.5]))
    mask = inner_mask(SHAPE, 4)
    found = resample(
        volume[..., np.newaxis],
        np.eye(4),
        grid_points(SHAPE, np.eye(4), mask),
        motion[np.newaxis],
        order,
    )
    expected = ndimage.affine_transform(
        volume, motion[:3, :3], motion[:3, 3], order=order, mode="mirror"
    )
    assert_allclose(found.values[:, 0], expected[mask], atol=1e-5)


def test_chain_of_transforms_equals_the_composed_one():
    rng = np.random.default_rng(2)
    volumes = rng.normal(size=(*SHAPE, 3))
    affine = oblique_affine()
    centre = centre_of(SHAPE, affine)
    maps = np.stack([small_motion(rng.normal(0, 3, 3), rng.normal(0, 2, 3), centre) for _ in "abc"])
    points = grid_points(SHAPE, affine, inner_mask(SHAPE, 4))
    shift = rng.normal(0, 1, points.shape)
    chained = resample(volumes, affine, points, maps, displacement=shift)
    for n in range(3):
        places = (points + shift) @ maps[n, :3, :3].T + maps[n, :3, 3]
        voxels = (places - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T
        expected = ndimage.map_coordinates(volumes[..., n], voxels.T, order=3, mode="mirror")
        assert_allclose(chained.values[:, n], expected, atol=1e-5)


def test_displacement_says_where_the_reference_shows_a_point():
    ramp = np.arange(20.0)[:, None, None, None] * np.ones((1, 6, 6, 1))
    found = resample(ramp, np.eye(4), [[8.0, 3, 3]], displacement=[[2.5, 0, 0]])
    assert_allclose(found.values, 10.5, atol=1e-3)  # the mirrored edge is 8 voxels away


def test_points_outside_any_volume_are_zero_there_and_not_covered():
    volumes = np.full((10, 10, 10, 2), 7.0)
    maps = np.tile(np.eye(4), (2, 1, 1))
    maps[1, 0, 3] = 3.0  # the second volume lacks the last three planes
    points = [[5, 5, 5], [8, 5, 5], [9.4, 5, 5], [9.6, 5, 5], [-0.6, 5, 5], [np.nan, 5, 5]]
    found = resample(volumes, np.eye(4), points, maps)
    assert_array_equal(found.covered_mask, [True, False, False, False, False, False])
    assert_allclose(found.values[:, 0], [7, 7, 7, 0, 0, 0], atol=1e-5)
    assert_allclose(found.values[:, 1], [7, 0, 0, 0, 7, 0], atol=1e-5)


def test_undershoot_is_kept_or_cut_as_asked():
    step = np.zeros((16, 8, 8, 1))
    step[8:] = 1000
    points = [[6.4, 4, 4]]
    assert resample(step, np.eye(4), points).values[0, 0] < -10
    assert resample(step, np.eye(4), points, keep_nonnegative=True).values[0, 0] == 0


def test_modulation_keeps_the_amount_of_signal_of_a_stretched_volume():
    # a blob stretched by 1.1 along y shows as much signal over more voxels
    centre = np.array([15.0, 15.0, 15.0])
    grid = np.moveaxis(np.indices((31, 31, 31)), 0, -1)

    def blob(places):
        return np.exp(-0.5 * np.sum((places - centre) ** 2, axis=-1) / 9)

    stretch = np.eye(4)
    stretch[1, 1], stretch[1, 3] = 1.1, -1.5
    back = np.linalg.inv(stretch)
    shown = blob(grid @ back[:3, :3].T + back[:3, 3]) / 1.1
    points = grid_points((31, 31, 31), np.eye(4), np.ones((31, 31, 31), dtype=bool))
    found = resample(shown[..., np.newaxis], np.eye(4), points, stretch[np.newaxis], modulate=True)
    # relative: the cubic spline's own error for a blob of SD 3 voxels
    assert_allclose(found.values.reshape(31, 31, 31), blob(grid), atol=2e-3)


def test_image_of_a_single_slice_can_be_resampled():
    volumes = smooth(np.moveaxis(np.indices((24, 24, 1)), 0, -1))[..., np.newaxis]
    points = np.array([[10.3, 11.7, 0.0]])
    found = resample(volumes, np.eye(4), points)
    assert_allclose(found.values[:, 0], smooth(points), atol=0.01)


def test_read_only_integer_series_in_fortran_order_is_enough():
    volumes = np.asfortranarray(np.ones((6, 6, 6, 3), dtype=np.int16))
    volumes.setflags(write=False)
    assert_allclose(resample(volumes, np.eye(4), [[2, 2, 2]]).values, 1, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"order": 2}, "spline_order is 2; it must be 0, 1 or 3"),
        ({"maps": np.eye(4)[np.newaxis]}, "one \\(4, 4\\) map per volume"),
        ({"affine": np.diag([1.0, 1, 0, 1])}, "source_affine cannot be inverted"),
        ({"displacement": [[1.0, 0, 0]] * 2}, "displacement_mm has shape"),
        ({"volumes": np.ones((4, 4, 4))}, "give \\(X, Y, Z, N\\)"),
        ({"volumes": np.full((4, 4, 4, 2), np.nan)}, "volume 0 holds 64 NaN"),
    ],
)
def test_bad_arguments_are_refused(change, message):
    arguments = {
        "volumes": np.ones((4, 4, 4, 2)),
        "affine": np.eye(4),
        "points_mm": [[1.0, 1, 1]],
        "maps": np.tile(np.eye(4), (2, 1, 1)),
    }
    with pytest.raises(NumericsError, match=message):
        resample(**{**arguments, **change})


def test_points_and_volume_invert_each_other():
    rng = np.random.default_rng(3)
    mask = rng.random(SHAPE) > 0.5
    values = rng.normal(size=(mask.sum(), 2))
    volume = points_to_volume(values, mask, outside=-1)
    assert_array_equal(volume[mask], values)
    assert_array_equal(volume[~mask], -1)
    with pytest.raises(NumericsError, match=r"has \d+ rows but mask holds"):
        points_to_volume(values[:-1], mask, outside=0)


def test_grid_points_are_where_the_header_says():
    affine = oblique_affine()
    mask = np.zeros(SHAPE, dtype=bool)
    mask[3, 4, 5] = True
    expected = (affine @ [3, 4, 5, 1])[:3]
    assert_allclose(grid_points(SHAPE, affine, mask), [expected])


@given(
    shape=st.tuples(*[st.integers(1, 40)] * 3),
    sizes=st.tuples(*[st.floats(0.5, 5)] * 3),
    resolution=st.floats(0.5, 6),
)
def test_new_grid_covers_the_same_box_and_hardly_more(shape, sizes, resolution):
    affine = oblique_affine(sizes)
    new_shape, new_affine = resolution_grid(shape, affine, resolution_mm=resolution)
    assert_allclose(np.linalg.norm(new_affine[:3, :3], axis=0), resolution)
    assert_allclose(centre_of(new_shape, new_affine), centre_of(shape, affine), atol=1e-9)
    excess_mm = np.array(new_shape) * resolution - np.array(shape) * sizes
    assert np.all(excess_mm > -0.002 * resolution)
    assert np.all(excess_mm < resolution)
    cosine = np.sum(new_affine[:3, :3] * affine[:3, :3], axis=0) / (resolution * np.array(sizes))
    assert_allclose(cosine, 1)


def test_grid_of_the_same_resolution_is_the_same_grid():
    affine = oblique_affine((2.0, 2.0, 2.0))
    shape, found = resolution_grid(SHAPE, affine, resolution_mm=2.0)
    assert shape == SHAPE
    assert_allclose(found, affine, atol=1e-12)
