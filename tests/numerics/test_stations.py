"""Stations are ordered by where they lie, and faults of their headers are seen."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import ndimage

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.stations import (
    compare_overlap,
    count_limbs,
    extent_of,
    find_neighbours,
    lie_at_one_place,
    order_from_head,
)

STEP = {"step_mm": 4.0, "reach_mm": 12.0}


def body(seed: int = 0) -> np.ndarray:
    """A trunk with texture, brighter on one side; 4 mm voxels."""
    rng = np.random.default_rng(seed)
    texture = ndimage.gaussian_filter(rng.random((40, 24, 12)), 1.2)
    x, y = np.arange(40)[:, None, None] - 19.5, np.arange(24)[None, :, None] - 11.5
    inside = (x / 16) ** 2 + (y / 9) ** 2 < 1
    return np.where(inside, 1 + 6 * texture + 0.02 * x, 0.0)


AFFINE = np.diag([4.0, 4.0, 4.0, 1.0])
AFFINE[:3, 3] = -78.0, -46.0, 0.0


def test_order_does_not_depend_on_storage():
    flipped = np.diag([-1.0, 1.0, -2.0, 1.0])
    flipped[2, 3] = 100.0
    lower = np.diag([1.0, 1.0, 2.0, 1.0])
    boxes = [extent_of(lower, (4, 4, 10)), extent_of(flipped, (4, 4, 10))]
    assert_allclose(boxes[1].low_mm[2], 81.0)
    assert order_from_head(boxes) == (1, 0)
    (pair,) = find_neighbours(boxes)
    assert_allclose(pair.overlap_mm, 19.0 - 81.0)


@pytest.mark.parametrize(("z", "is_one"), [(0.0, True), (2.0, True), (20.0, False)])
def test_station_that_was_made_twice_is_known_by_its_place(z, is_one):
    moved = np.eye(4)
    moved[2, 3] = z
    boxes = extent_of(np.eye(4), (8, 8, 40)), extent_of(moved, (8, 8, 40))
    assert lie_at_one_place(*boxes) is is_one


def test_gain_between_stations_is_found():
    image = body()
    found = compare_overlap(image, AFFINE, 1.3 * image, AFFINE, **STEP)
    assert_allclose(found.ratio, 1.3, rtol=1e-9)
    assert_allclose(found.correlation, 1.0)
    assert_allclose(found.shift_mm, 0)


def test_shift_between_stations_is_found():
    image = body()
    moved = np.roll(image, (2, -1), axis=(0, 1))
    found = compare_overlap(image, AFFINE, moved, AFFINE, **STEP)
    assert_allclose(found.shift_mm, (8.0, -4.0, 0.0))


def test_mirrored_station_fits_better_when_it_is_mirrored_back():
    image = body()
    turned = compare_overlap(image, AFFINE, image[::-1], AFFINE, **STEP)
    assert turned.mirrored > 0.99 > turned.correlation
    right = compare_overlap(image, AFFINE, image, AFFINE, **STEP)
    assert right.correlation > right.mirrored


def test_stations_that_share_no_body_give_no_numbers():
    far = AFFINE.copy()
    far[2, 3] = 500.0
    found = compare_overlap(body(), AFFINE, body(), far, **STEP)
    assert found.n_points == 0
    assert np.isnan(found.ratio)


def test_step_of_the_lattice_must_be_positive():
    with pytest.raises(NumericsError, match="step_mm is 0"):
        compare_overlap(body(), AFFINE, body(), AFFINE, step_mm=0, reach_mm=1)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_legs_are_told_from_a_trunk_whatever_the_storage(order):
    legs = np.zeros((40, 20, 10))
    legs[4:16, 4:16], legs[24:36, 4:16] = 1.0, 0.8
    # an arm beside a trunk is no leg
    trunk = np.zeros((40, 20, 10))
    trunk[8:32, 2:18], trunk[34:38, 8:12] = 1.0, 1.0
    affine = np.eye(4)
    affine[:3, :3] = affine[:3, :3][:, list(order)]
    for image, n in ((legs, 2.0), (trunk, 1.0)):
        assert count_limbs(np.transpose(image, order), affine) == n
