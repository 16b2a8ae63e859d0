"""Inverse displacement fields; interpolation and smoothing within a mask."""

import numpy as np
import pytest
from nilearn.image import smooth_img
from numpy.testing import assert_allclose, assert_array_equal
from scipy import ndimage

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.fields import interpolate_within, invert_displacement, smooth_within

FLIPPED = np.array([[-2.0, 0, 0, 31], [0, 3, 0, -20], [0, 0, 2.5, -14], [0, 0, 0, 1]])


def places(shape, affine):
    return np.indices(shape).reshape(3, -1).T @ affine[:3, :3].T + affine[:3, 3]


def test_inverse_of_a_linear_field_is_the_inverse_of_its_matrix():
    # exact: between voxels a linear field is linear
    shape = (16, 14, 12)
    matrix = np.array([[1.05, 0.04, 0], [-0.03, 0.96, 0.02], [0.01, 0, 1.03]])
    shift = np.array([0.8, -1.1, 0.5])
    points = places(shape, FLIPPED)
    field = (points @ matrix.T + shift - points).reshape(*shape, 3)
    found = invert_displacement(field, FLIPPED, tolerance_mm=1e-7, max_iterations=200)
    back = (points - shift) @ np.linalg.inv(matrix).T
    voxels = (back - FLIPPED[:3, 3]) @ np.linalg.inv(FLIPPED[:3, :3]).T
    inner = np.all((voxels > 0) & (voxels < np.array(shape) - 1), axis=1)
    assert inner.sum() > 1000
    assert_allclose((points + found.reshape(-1, 3))[inner], back[inner], atol=1e-6)


def test_field_after_its_inverse_goes_nowhere():
    shape = (20, 20, 20)
    points = places(shape, FLIPPED)
    waves = np.sin(points / 15.0 + [0, 1, 2]) * [1.5, -1.0, 2.0]
    field = waves[:, [1, 2, 0]].reshape(*shape, 3)
    found = invert_displacement(field, FLIPPED, tolerance_mm=1e-6, max_iterations=200)
    there = points + found.reshape(-1, 3)
    voxels = np.linalg.inv(FLIPPED[:3, :3]) @ (there - FLIPPED[:3, 3]).T
    moved = [ndimage.map_coordinates(field[..., a], voxels, order=1) for a in range(3)]
    back = (there + np.stack(moved, axis=1)).reshape(*shape, 3)
    inner = (slice(2, -2),) * 3
    assert_allclose(back[inner], points.reshape(*shape, 3)[inner], atol=1e-5)


def test_field_that_folds_is_refused():
    folding = 3.0 * np.random.default_rng(0).normal(size=(12, 12, 12, 3))
    with pytest.raises(NumericsError, match=r"still moves by .* mm after 20 iterations; 0.01 mm"):
        invert_displacement(folding, np.eye(4), tolerance_mm=0.01, max_iterations=20)


@pytest.mark.parametrize(
    ("field", "message"),
    [
        (np.zeros((3, 3, 3, 2)), r"has shape \(3, 3, 3, 2\); give \(X, Y, Z, 3\)"),
        (np.full((3, 3, 3, 3), np.nan), "81 NaN or infinite"),
    ],
)
def test_what_is_no_field_is_refused(field, message):
    with pytest.raises(NumericsError, match=message):
        invert_displacement(field, np.eye(4), tolerance_mm=0.01, max_iterations=20)


@pytest.fixture
def patchy():
    """Two random maps, a mask with holes in one half, and points in and around it."""
    rng = np.random.default_rng(4)
    mask = rng.random((9, 8, 7)) < 0.7
    mask[:5] = True
    points = places((9, 8, 7), FLIPPED)
    points = points[rng.integers(len(points), size=400)] + rng.uniform(-1.2, 1.2, (400, 3))
    return rng.random((9, 8, 7, 2)), mask, points


def brute_force(maps, mask, points):
    """Sum of the eight neighbours of a point, and of their weights, each within the mask."""
    totals, shares = np.zeros((len(points), 2)), np.zeros(len(points))
    voxels = (points - FLIPPED[:3, 3]) @ np.linalg.inv(FLIPPED[:3, :3]).T
    is_within = np.all((voxels >= 0) & (voxels <= np.array(mask.shape) - 1), axis=1)
    for row in np.flatnonzero(is_within):
        base = np.minimum(np.floor(voxels[row]).astype(int), np.array(mask.shape) - 2)
        for corner in np.ndindex(2, 2, 2):
            weight = np.prod(np.where(corner, voxels[row] - base, 1 - voxels[row] + base))
            at = tuple(base + corner)
            if mask[at]:
                totals[row] += weight * maps[at]
                shares[row] += weight
    return totals, shares, is_within


@pytest.mark.parametrize("least_share", [0.2, 0.5, 1.0])
def test_interpolation_weighs_only_neighbours_in_the_mask(patchy, least_share):
    maps, mask, points = patchy
    totals, shares, is_within = brute_force(maps, mask, points)
    values, is_inside = interpolate_within(maps, mask, FLIPPED, points, least_share=least_share)
    # 1e-5: rounding of float32 weights
    sure = is_within & (np.abs(shares - least_share) > 1e-5) | (shares > 1 - 1e-9)
    expected = shares >= least_share - 1e-9
    assert 20 < expected[sure].sum() < sure.sum()
    assert_array_equal(is_inside[sure], expected[sure])
    kept = sure & expected
    assert_allclose(values[kept], totals[kept] / shares[kept, None], rtol=1e-5)
    assert_array_equal(values[~is_inside], 0.0)


def test_interpolation_does_not_see_what_lies_outside_the_mask(patchy):
    maps, mask, points = patchy
    clean, _ = interpolate_within(maps, mask, FLIPPED, points, least_share=0.3)
    spoilt = np.where(mask[..., None], maps, np.nan)
    spoilt[0][~mask[0]] = 1e30
    found, _ = interpolate_within(spoilt, mask, FLIPPED, points, least_share=0.3)
    assert_array_equal(found, clean)


def test_maps_must_be_finite_in_the_mask(patchy):
    maps, mask, points = patchy
    maps[tuple(np.argwhere(mask)[3])] = np.nan
    with pytest.raises(NumericsError, match="maps within mask holds 2 NaN"):
        interpolate_within(maps, mask, FLIPPED, points, least_share=0.5)


def test_share_of_nothing_is_refused(patchy):
    maps, mask, points = patchy
    with pytest.raises(NumericsError, match="least_share is 0; it must lie above 0"):
        interpolate_within(maps, mask, FLIPPED, points, least_share=0.0)


def test_maps_on_another_grid_than_the_mask_are_refused(patchy):
    maps, mask, points = patchy
    with pytest.raises(NumericsError, match=r"maps has shape \(8, 8, 7, 2\) and mask \(9, 8, 7\)"):
        interpolate_within(maps[1:], mask, FLIPPED, points, least_share=0.5)


def test_smoothing_keeps_a_constant_up_to_the_edge():
    mask = np.random.default_rng(2).random((14, 12, 10)) < 0.6
    smoothed = smooth_within(np.where(mask, 0.7, -5.0), mask, (2, 2, 3), fwhm_mm=7.0)
    assert_allclose(smoothed, np.where(mask, 0.7, 0.0), rtol=1e-12)


def test_smoothing_far_from_the_edge_is_that_of_nilearn():
    import nibabel as nib

    voxel_mm = np.array([2.0, 2.5, 3.0])
    values = np.random.default_rng(3).random((40, 36, 30))
    affine = np.diag([*voxel_mm, 1.0])
    expected = smooth_img(nib.Nifti1Image(values, affine), fwhm=6.0).get_fdata()
    found = smooth_within(values, np.ones(values.shape, bool), voxel_mm, fwhm_mm=6.0)
    inner = (slice(8, -8),) * 3
    assert_allclose(found[inner], expected[inner], rtol=1e-6)


def test_smoothed_point_falls_to_half_at_half_the_width():
    values = np.zeros((41, 41, 41))
    values[20, 20, 20] = 1.0
    found = smooth_within(values, np.ones(values.shape, bool), (1, 1, 1), fwhm_mm=8.0)
    assert_allclose(found[24, 20, 20] / found[20, 20, 20], 0.5, rtol=1e-6)


def test_smoothing_skips_missing_values():
    mask = np.ones((9, 9, 9), bool)
    values = np.full((9, 9, 9), 2.0)
    values[4, 4, 4] = np.nan
    assert_allclose(smooth_within(values, mask, (1, 1, 1), fwhm_mm=3.0), 2.0)


def test_smoothing_gives_nothing_where_nothing_is_near():
    mask = np.zeros((60, 3, 3), bool)
    mask[[2, 50]] = True
    values = np.where(mask, 1.0, 0.0)
    values[50] = np.nan
    # the filter ends at 4 standard deviations, 5.1 voxels here
    found = smooth_within(values, mask, (1, 1, 1), fwhm_mm=3.0)
    assert np.isnan(found[50]).all()
    assert_array_equal(found[10:45], 0.0)


def test_no_width_leaves_the_map_as_it_is():
    values = np.random.default_rng(5).random((5, 6, 7))
    mask = values > 0.3
    assert_array_equal(
        smooth_within(values, mask, (1, 1, 1), fwhm_mm=0.0), np.where(mask, values, 0.0)
    )


@pytest.mark.parametrize(
    ("voxel_mm", "fwhm_mm", "message"),
    [
        ((1, 1, 0), 3.0, r"voxel_mm is \[1.0, 1.0, 0.0\]; give three edges above 0, in mm"),
        ((1, 1, 1), -1.0, "fwhm_mm is -1 mm; it must lie from 0"),
    ],
)
def test_impossible_widths_are_refused(voxel_mm, fwhm_mm, message):
    with pytest.raises(NumericsError, match=message):
        smooth_within(np.ones((3, 3, 3)), np.ones((3, 3, 3), bool), voxel_mm, fwhm_mm=fwhm_mm)
