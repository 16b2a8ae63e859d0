from __future__ import annotations

from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest
from numpy.testing import assert_allclose

from bids_alsmri.errors import SettingsError
from bids_alsmri.phantom.geometry import (
    gradient_directions,
    make_grid,
    rigid_matrix,
    store,
    stored_axis,
    world_to_bvecs,
)
from bids_alsmri.phantom.records import PhantomSettings

ORDERS = [
    "".join(letters) for pairs in permutations(("RL", "AP", "SI")) for letters in product(*pairs)
]


def bvecs_to_world(bvecs: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """The rule as FSL and BIDS state it, applied backwards and written down anew."""
    vectors = bvecs.T.copy()
    if np.linalg.det(affine[:3, :3]) > 0:
        vectors[:, 0] = -vectors[:, 0]
    return vectors @ (affine[:3, :3] / np.sqrt((affine[:3, :3] ** 2).sum(0))).T


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("determinant", ["negative", "positive"])
def test_storage_keeps_every_voxel_at_its_place_in_the_world(order, determinant):
    grid = make_grid((1.0, 2.0, 3.0), (8.0, 10.0, 12.0), 2.0, 15.0)
    values = np.arange(np.prod(grid.shape)).reshape(grid.shape)
    settings = PhantomSettings(axis_order=order, determinant=determinant)
    stored, affine = store(values, grid, settings)
    assert (np.linalg.det(affine) > 0) == (determinant == "positive")
    assert nib.aff2axcodes(affine)[1:] == tuple(order[1:])
    for voxel in ((0, 0, 0), (3, 1, 2), (1, 4, 5)):
        world = grid.affine @ (*voxel, 1)
        at = np.round(np.linalg.solve(affine, world)[:3]).astype(int)
        assert stored[tuple(at)] == values[voxel]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("determinant", ["negative", "positive"])
@pytest.mark.parametrize("oblique_deg", [0.0, 20.0])
def test_bvecs_give_the_same_world_directions_in_every_storage(order, determinant, oblique_deg):
    directions = gradient_directions(8)
    settings = PhantomSettings(axis_order=order, determinant=determinant)
    grid = make_grid((0.0, 0.0, 0.0), (8.0, 8.0, 8.0), 2.0, oblique_deg)
    _, affine = store(np.zeros(grid.shape), grid, settings)
    back = bvecs_to_world(world_to_bvecs(directions, affine), affine)
    assert_allclose(back, directions, atol=1e-12)


@pytest.mark.parametrize("order", ORDERS)
def test_phase_encoding_runs_from_front_to_back_in_the_world(order):
    settings = PhantomSettings(axis_order=order)
    grid = make_grid((0.0, 0.0, 0.0), (8.0, 8.0, 8.0), 2.0, 0.0)
    _, affine = store(np.zeros(grid.shape), grid, settings)
    name = stored_axis(1, -1, settings)
    direction = affine[:3, "ijk".index(name[0])] * (-1 if name.endswith("-") else 1)
    assert direction[1] < 0
    assert_allclose(direction[[0, 2]], 0, atol=1e-12)


def test_rigid_matrix_turns_about_its_centre():
    centre = np.array([10.0, -5.0, 3.0])
    matrix = rigid_matrix(np.array([1.0, 2.0, 3.0]), np.array([5.0, -4.0, 12.0]), centre)
    assert_allclose(matrix[:3, :3] @ matrix[:3, :3].T, np.eye(3), atol=1e-12)
    assert_allclose(np.linalg.det(matrix), 1)
    assert_allclose((matrix @ [*centre, 1])[:3], centre + np.array([1.0, 2.0, 3.0]))


@pytest.mark.parametrize("n", [6, 12, 64])
def test_directions_are_spread_evenly(n):
    directions = gradient_directions(n)
    assert_allclose(np.linalg.norm(directions, axis=1), 1)
    # An even set averages g g' to a third of the identity.
    assert_allclose(directions.T @ directions / n, np.eye(3) / 3, atol=0.02)
    cosines = np.abs(directions @ directions.T) - np.eye(n)
    # Caps of half the closest angle do not overlap; random sets reach a tenth of this packing.
    half_angle = np.arccos(cosines.max()) / 2
    assert n * 2 * (1 - np.cos(half_angle)) / 2 > 0.5


def test_axis_order_that_names_an_axis_twice_is_refused():
    with pytest.raises(SettingsError, match=r"axis_order is 'RLS'; give one of R or L"):
        PhantomSettings(axis_order="RLS")
