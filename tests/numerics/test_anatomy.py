"""Head and brain arrays against closed forms, SciPy and invariances."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import ndimage

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics import anatomy

VOXEL_MM = np.array([1.0, 2.0, 1.5])


def ball(shape, centre, radius_mm, voxel_mm=(1.0, 1.0, 1.0)):
    index = np.indices(shape).reshape(3, -1).T
    squared = (((index - np.array(centre)) * voxel_mm) ** 2).sum(axis=1)
    return (squared <= radius_mm**2).reshape(shape)


def test_dice_of_shifted_blocks_is_their_shared_share():
    first, second = np.zeros((10, 1, 1), bool), np.zeros((10, 1, 1), bool)
    first[0:4], second[1:5] = True, True
    assert anatomy.dice(first, second) == pytest.approx(3 / 4)


def test_dice_of_two_empty_masks_is_nan():
    assert np.isnan(anatomy.dice(np.zeros(3, bool), np.zeros(3, bool)))


def test_otsu_splits_two_populations_between_their_means():
    rng = np.random.default_rng(1)
    values = np.concatenate([rng.normal(10, 1, 4000), rng.normal(30, 1, 1000)])
    threshold = anatomy.otsu_threshold(values, n_bins=256)
    # Five standard deviations from either mean: no member of one is taken for the other.
    assert 14.5 < threshold < 25.5


def test_otsu_refuses_a_constant_image():
    with pytest.raises(NumericsError, match="all 3"):
        anatomy.otsu_threshold(np.full(8, 3.0), n_bins=16)


@pytest.mark.parametrize("radius_mm", [1.0, 2.5, 4.0])
def test_dilated_point_is_a_ball_in_millimetres(radius_mm):
    point = np.zeros((21, 21, 21), bool)
    point[10, 10, 10] = True
    expected = ball(point.shape, (10, 10, 10), radius_mm, VOXEL_MM)
    assert_array_equal(anatomy.dilate_mm(point, radius_mm, VOXEL_MM), expected)


def test_erosion_is_dilation_of_the_outside():
    mask = ndimage.gaussian_filter(np.random.default_rng(2).random((24, 24, 24)), 2) > 0.5
    mask[:6], mask[-6:], mask[:, :6], mask[:, -6:], mask[..., :6], mask[..., -6:] = [False] * 6
    assert_array_equal(
        anatomy.erode_mm(mask, 2.0, VOXEL_MM), ~anatomy.dilate_mm(~mask, 2.0, VOXEL_MM)
    )


def test_erosion_leaves_the_border_of_the_field_of_view_alone():
    mask = np.zeros((10, 10, 10), bool)
    mask[:5] = True
    assert_array_equal(anatomy.erode_mm(mask, 1.0, np.ones(3)).any(axis=(1, 2)).sum(), 4)


def test_closing_keeps_a_ball_and_fills_a_slit():
    whole = ball((30, 30, 30), (15, 15, 15), 10)
    slit = whole.copy()
    slit[15] = False
    closed = anatomy.close_mm(slit, 3.0, np.ones(3))
    assert not (closed & ~whole).any()
    # A slit's mouth stays rounded: a ring of one voxel along a circumference of 60.
    assert (whole & ~closed).sum() < 60


def test_head_mask_keeps_air_in_the_head_and_drops_ghosts():
    head = ball((40, 40, 40), (20, 20, 20), 14)
    image = np.where(head, 100.0, 1.0).astype(np.float32)
    image[18:22, 18:22, 18:22] = 0  # a sinus
    image[1:3, 1:3, 1:3] = 100  # a ghost
    found = anatomy.head_mask(image, threshold_share=0.6, smoothing_voxels=0.0)
    assert_array_equal(found, head)


def test_head_centre_ignores_neck_and_shoulders():
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    head = np.zeros((100, 100, 120), bool)
    head[30:70, 30:70, 50:] = True
    alone = anatomy.head_centre_mm(head, affine, depth_mm=140.0)
    head[:, :, :40], head[40:60, 40:60, 40:50] = True, True
    assert_allclose(anatomy.head_centre_mm(head, affine, depth_mm=140.0), alone)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
@pytest.mark.parametrize("flip", [(), (0,), (1, 2)])
def test_resampling_to_the_world_does_not_depend_on_storage(order, flip):
    rng = np.random.default_rng(3)
    image = ndimage.gaussian_filter(rng.random((20, 24, 28)), 2).astype(np.float32)
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = -20, 5, 11
    reference, grid = anatomy.resample_world(image, affine, 4.0)
    stored = np.flip(image.transpose(order), flip)
    step = np.zeros((4, 4))
    step[3, 3] = 1
    for new, old in enumerate(order):
        step[old, new] = -1 if new in flip else 1
        step[old, 3] = image.shape[old] - 1 if new in flip else 0
    other, other_grid = anatomy.resample_world(stored, affine @ step, 4.0)
    assert_allclose(other_grid, grid)
    assert_allclose(other, reference, atol=1e-6)  # float32


def blobs(shape, seed):
    noise = np.random.default_rng(seed).random(shape)
    return ndimage.gaussian_filter(noise, 1.5).astype(np.float32)


@pytest.mark.parametrize("pitch_deg", [-20.0, 0.0, 20.0])
@pytest.mark.parametrize("shift_mm", [(0.0, 0.0, 0.0), (16.0, -24.0, 8.0)])
def test_pose_of_a_turned_and_shifted_template_is_found(pitch_deg, shift_mm):
    template = blobs((16, 18, 16), 4)
    affine = np.diag([8.0, 8.0, 8.0, 1.0])
    centre = affine @ [7.5, 8.5, 7.5, 1.0]
    about = np.eye(4)
    about[:3, 3] = centre[:3]
    truth = np.eye(4)
    truth[:3, 3] = shift_mm
    truth = truth @ about @ anatomy.rotation_about_x(pitch_deg) @ np.linalg.inv(about)
    image_affine = affine.copy()
    image_affine[:3, 3] = -64.0
    image = anatomy.sample_through(
        template, affine, np.linalg.inv(truth), (34, 34, 34), image_affine
    )
    best = anatomy.search_pose(
        image,
        template,
        np.ones_like(template),
        image_affine=image_affine,
        template_affine=affine,
        pitches_deg=(-20.0, 0.0, 20.0),
        scales=(0.9, 1.0),
        centre_mm=centre[:3],
        reach_mm=50.0,
    )[0]
    # Half a voxel of the search grid along each axis.
    assert_allclose(best.template_to_image @ centre, truth @ centre, atol=4.0)
    assert_allclose(best.template_to_image[:3, :3], truth[:3, :3], atol=1e-6)


def test_correlation_over_shifts_is_the_weighted_correlation():
    image, pattern = blobs((9, 10, 11), 5), blobs((4, 5, 4), 6)
    weight = np.random.default_rng(7).random(pattern.shape).astype(np.float32)
    found = anatomy._correlation_over_shifts(image, pattern, weight)
    cut = image[2:6, 3:8, 1:5].astype(float)
    covariance = np.cov(np.stack([cut.ravel(), pattern.ravel()]), aweights=weight.ravel())
    expected = covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1])
    assert found[2 + 3, 3 + 4, 1 + 3] == pytest.approx(expected, abs=1e-4)  # float32 input


@pytest.mark.parametrize("gain", [0.01, 1.0, 1000.0])
def test_flattening_takes_out_gain_and_slow_bias(gain):
    texture = 1 + 0.1 * (blobs((40, 40, 40), 8) - 0.5)
    ramp = np.linspace(0.6, 1.4, 40, dtype=np.float32)[:, None, None]
    flat = anatomy.flatten(
        (gain * texture * ramp).astype(np.float32),
        np.ones(texture.shape, bool),
        np.ones(3),
        width_mm=5.0,
        cap=1.8,
    )
    inner = flat[8:-8, 8:-8, 8:-8] / texture[8:-8, 8:-8, 8:-8]
    # The ramp's ends differ by a factor of 1.8 in the part looked at; 2 % are left.
    assert inner.std() / inner.mean() < 0.02


def head_and_brain():
    shape = (80, 80, 80)
    distance = np.sqrt(((np.indices(shape) - 40) ** 2).sum(axis=0))
    brain = distance <= 24
    flat = np.where(brain, 1.0, 0.05).astype(np.float32)
    flat[(distance > 29) & (distance <= 34)] = 1.1  # scalp as bright as brain
    return flat, brain


def test_scalp_goes_by_its_thickness_not_its_brightness():
    flat, brain = head_and_brain()
    kept = anatomy.thick_tissue(flat, np.ones(3), low=0.35, high=1.6, opening_mm=3.0, depth_mm=8.0)
    assert anatomy.dice(kept > 0.5, brain) > 0.97  # the opening's border voxel


@pytest.mark.parametrize("shift", [0, 3])
def test_brain_is_found_though_the_prior_is_off(shift):
    flat, brain = head_and_brain()
    mask = anatomy.brain_from_prior(
        flat,
        np.roll(brain, shift, axis=0),
        np.ones(3),
        white_level=1.0,
        low=0.45,
        high=1.35,
        reach_mm=6.0,
        core_mm=8.0,
        opening_mm=2.0,
        closing_mm=4.0,
    )
    assert anatomy.dice(mask, brain) > 0.99


def test_an_empty_prior_is_refused():
    with pytest.raises(NumericsError, match="prior is empty"):
        anatomy.brain_from_prior(
            np.ones((4, 4, 4), np.float32),
            np.zeros((4, 4, 4), bool),
            np.ones(3),
            white_level=1.0,
            low=0.4,
            high=1.4,
            reach_mm=1.0,
            core_mm=1.0,
            opening_mm=1.0,
            closing_mm=1.0,
        )


def test_shares_add_up_to_one_in_the_mask_only():
    weights = np.random.default_rng(9).random((5, 6, 7, 3))
    weights[0, 0, 0] = 0, 0, 0
    weights[1, 1, 1, 0] = np.nan
    mask = np.random.default_rng(10).random((5, 6, 7)) > 0.5
    mask[0, 0, 0] = mask[1, 1, 1] = True
    total = anatomy.share_out(weights, mask).sum(axis=-1)
    assert_allclose(total, mask, atol=1e-6)  # float32
