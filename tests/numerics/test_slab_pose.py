"""A slab of another contrast is found in a head, and what does not fit is told."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import ndimage
from scipy.spatial.transform import Rotation

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.slab_pose import register_slab

WORDS = {
    "voxel_mm": 2.0, "fwhm_mm": (6.0, 3.0), "reach_mm": 8.0, "reach_deg": 6.0, "tolerance_mm": 0.05,
}  # fmt: skip


@pytest.fixture(scope="module")
def head():
    """Smooth random tissue of 2 mm; the slab's contrast is no straight line of it."""
    noise = np.random.default_rng(1).normal(size=(56, 60, 44))
    tissue = ndimage.gaussian_filter(noise, 2.5)
    return tissue / tissue.std(), np.diag([2.0, 2.0, 2.0, 1.0])


def slab_of(head, pose):
    """Slab of 60 x 64 x 20 mm as a scanner sees it whose header is wrong by a pose."""
    tissue, affine = head
    grid = np.diag([2.0, 2.0, 4.0, 1.0])
    grid[:3, 3] = 26.0, 28.0, 34.0
    to_head = np.linalg.inv(affine) @ pose @ grid
    values = ndimage.affine_transform(
        tissue, to_head[:3, :3], to_head[:3, 3], output_shape=(30, 32, 5), order=3
    )
    return np.tanh(1.5 - values) + 0.2 * values**2, grid


def pose_of(shift_mm, turn_deg, about=(56.0, 60.0, 42.0)):
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_rotvec(turn_deg, degrees=True).as_matrix()
    pose[:3, 3] = about - pose[:3, :3] @ about + shift_mm
    return pose


@pytest.mark.parametrize(
    ("shift_mm", "turn_deg"),
    [((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)), ((7.0, -6.0, 5.0), (1.0, 5.0, -2.0))],
)
def test_pose_of_a_slab_is_found_whatever_its_contrast(head, shift_mm, turn_deg):
    pose = pose_of(shift_mm, turn_deg)
    values, grid = slab_of(head, pose)
    found = register_slab(values, grid, *head, **WORDS)
    corners = np.array([[x, y, z, 1.0] for x in (26, 84) for y in (28, 90) for z in (34, 50)])
    # a tenth of a voxel; the images have no noise
    assert_allclose(corners @ found.slab_to_head.T, corners @ pose.T, atol=0.25)


def test_slab_that_shows_something_else_has_a_large_misfit(head):
    values, grid = slab_of(head, np.eye(4))
    # noise with the values of the slab; far turns are allowed, so that a search may end anywhere
    other = np.random.default_rng(2).permutation(values.ravel()).reshape(values.shape)
    words = {**WORDS, "fwhm_mm": (4.0,)}
    right, wrong = (register_slab(image, grid, *head, **words).misfit for image in (values, other))
    assert wrong > right + 0.2


def test_slab_of_another_world_is_refused(head):
    values, grid = slab_of(head, np.eye(4))
    far = grid.copy()
    far[0, 3] = 900.0
    with pytest.raises(NumericsError, match="do not overlap"):
        register_slab(values, far, *head, **WORDS)
