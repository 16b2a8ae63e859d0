"""Images and masks on moved grids, against scipy."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import ndimage
from scipy.spatial.transform import Rotation

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.sampling import (
    add_moved_grid,
    move_mask,
    sample_moved_grid,
    spline_coefficients,
)


def moved(seed: int) -> np.ndarray:
    """Affine map of voxel indices: turned by some degrees, stretched and shifted."""
    random = np.random.default_rng(seed)
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(random.normal(0, 0.1, 3)).as_matrix()
    matrix[:3, :3] *= random.uniform(0.9, 1.1, 3)
    matrix[:3, 3] = random.normal(0, 1.5, 3)
    return matrix


@pytest.mark.parametrize("seed", range(5))
def test_moved_image_is_that_of_scipy(seed):
    image = np.random.default_rng(seed).standard_normal((17, 12, 20))
    matrix = moved(seed)
    expected = ndimage.affine_transform(
        image, matrix[:3, :3], matrix[:3, 3], output_shape=(15, 18, 13), order=3, mode="mirror"
    )
    index = np.stack(np.meshgrid(*map(np.arange, expected.shape), indexing="ij"), -1)
    places = index @ matrix[:3, :3].T + matrix[:3, 3]
    inside = ((places >= 0) & (places <= np.array(image.shape) - 1)).all(axis=-1)
    assert inside.sum() > 1000
    found = sample_moved_grid(image, matrix, expected.shape)
    assert_allclose(found[inside], expected[inside], atol=1e-12)  # rounding of 64 products


def test_outside_the_image_its_nearest_point_stands_in():
    image = np.random.default_rng(1).standard_normal((6, 6, 6))
    shift = np.eye(4)
    shift[1, 3] = 4.0
    found = sample_moved_grid(image, shift, image.shape)
    assert_allclose(found[:, :2], image[:, 4:], atol=1e-12)
    assert_allclose(found[:, 2:], np.broadcast_to(image[:, 5:], (6, 4, 6)), atol=1e-12)


def test_image_thinner_than_a_spline_is_refused():
    with pytest.raises(NumericsError, match=r"\(9, 3, 9\).*4 voxels"):
        spline_coefficients(np.ones((9, 3, 9)))


@pytest.mark.parametrize("seed", range(5))
def test_moved_mask_is_that_of_scipy(seed):
    mask = np.random.default_rng(seed).random((17, 12, 20)) > 0.5
    matrix = moved(seed)
    expected = ndimage.affine_transform(
        mask.astype(np.uint8), matrix[:3, :3], matrix[:3, 3], output_shape=(15, 18, 13), order=0
    )
    found = move_mask(mask, matrix, expected.shape)
    index = np.stack(np.meshgrid(*map(np.arange, expected.shape), indexing="ij"), -1)
    places = index @ matrix[:3, :3].T + matrix[:3, 3]
    # within half a voxel of the border scipy sees nothing, here the voxel counts whole
    inside = ((places >= 0) & (places <= np.array(mask.shape) - 1)).all(axis=-1)
    assert_array_equal(found[inside], expected[inside] > 0)


def test_mask_is_empty_outside_its_field_of_view():
    shift = np.eye(4)
    shift[2, 3] = 3.0
    found = move_mask(np.ones((4, 4, 4), dtype=bool), shift, (4, 4, 4))
    assert_array_equal(found.sum(axis=(0, 1)), [16, 0, 0, 0])


@pytest.mark.parametrize("seed", range(5))
def test_added_image_is_that_of_scipy(seed):
    image = np.random.default_rng(seed).standard_normal((17, 12, 20)).astype(np.float32)
    matrix = moved(seed)
    expected = ndimage.affine_transform(
        image.astype(float),
        matrix[:3, :3],
        matrix[:3, 3],
        output_shape=(15, 18, 13),
        order=1,
        mode="constant",
    )
    total = np.ones((15, 18, 13))
    add_moved_grid(image, matrix, -2.5, total)
    assert_allclose(total, 1.0 - 2.5 * expected, atol=1e-12)


def test_image_of_one_slice_is_not_interpolated_linearly():
    with pytest.raises(NumericsError, match="needs 2 voxels along each axis"):
        add_moved_grid(np.ones((4, 4, 1)), np.eye(4), 1.0, np.zeros((4, 4, 1)))
