"""Legs with known tissues: sides, compartments and the coil's field are found again."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import ndimage

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.anatomy import dice
from bids_alsmri.numerics.contours import cheapest_contours, fill_contours, sample_rays
from bids_alsmri.numerics.fatty_replacement import fat_fraction
from bids_alsmri.numerics.legs import Tissue, find_legs, segment_compartments
from bids_alsmri.numerics.two_tissues import even_tissues, require_contrast

VOXEL_MM = np.array([2.0, 2.0, 8.0])
SHAPE = (104, 56, 4)
# signal of muscle, fat and marrow in the unit of the image; cortex is dark in all
T1W = {"muscle": 35.0, "fat": 100.0, "marrow": 90.0}
MUSCLE_BRIGHT = {"muscle": 100.0, "fat": 65.0, "marrow": 55.0}


class Scene(NamedTuple):
    image: np.ndarray
    tissues: np.ndarray
    legs: np.ndarray  # 1 at low, 2 at high first index
    field: np.ndarray


def _calf(u: np.ndarray, v: np.ndarray, size: float) -> np.ndarray:
    """Tissue at places in mm from the middle of a calf."""

    def disc(u0: float, v0: float, radius: float, stretch: float = 1.0) -> np.ndarray:
        return np.hypot((u - u0) * stretch, v - v0) <= radius * size

    drawn = np.zeros(u.shape, dtype=np.int16)
    drawn[disc(0, 0, 46.0, 1.05)] = Tissue.SUBCUTANEOUS_FAT
    drawn[disc(0, 0, 38.0, 1.05)] = Tissue.MUSCLE
    drawn[disc(4, -14, 6.0, 0.5)] = Tissue.INTERMUSCULAR_FAT
    for u0, v0, outer, inner in ((8.0, 20.0, 12.0, 7.0), (-22.0, 4.0, 7.0, 3.2)):
        drawn[disc(u0, v0, outer)] = Tissue.BONE_CORTEX
        drawn[disc(u0, v0, inner)] = Tissue.BONE_MARROW
    return drawn


def two_calves(signals: dict[str, float], seed: int = 1, bias: float = 0.2) -> Scene:
    """Two calves: fat 8 mm thick, tibia and fibula with cortex and marrow, one streak of fat.

    Drawn at three times the resolution in the plane, so that borders have partial volume.
    """
    fine = 3
    x, y = np.mgrid[: SHAPE[0] * fine, : SHAPE[1] * fine] / fine + (1 / fine - 1) / 2
    of_tissue = np.array(
        [0.0, signals["fat"], signals["muscle"], signals["fat"], 4.0, signals["marrow"]]
    )
    image = np.zeros(SHAPE)
    tissues = np.zeros(SHAPE, dtype=np.int16)
    legs = np.zeros(SHAPE, dtype=np.int16)
    for number, (centre, way) in enumerate(((27.0, 1.0), (77.0, -1.0)), start=1):
        for index in range(SHAPE[2]):
            drawn = _calf((x - centre) * 2.0 * way, (y - 28.0) * 2.0, 1.0 + 0.015 * index)
            blocks = of_tissue[drawn].reshape(SHAPE[0], fine, SHAPE[1], fine)
            image[..., index] += blocks.mean(axis=(1, 3))
            middle = drawn[fine // 2 :: fine, fine // 2 :: fine]
            tissues[..., index] += middle
            legs[..., index][middle > 0] = number
    i, j, k = np.indices(SHAPE)
    field = np.exp(bias * ((i / 52 - 1) * 0.7 + 0.6 * (j / 28 - 1) ** 2) + 0.1 * np.cos(k * 1.3))
    rng = np.random.default_rng(seed)
    noise = 2.5 * (rng.standard_normal(SHAPE) + 1j * rng.standard_normal(SHAPE))
    return Scene(np.abs(image * field + noise), tissues, legs, field)


@pytest.fixture(scope="module", params=[T1W, MUSCLE_BRIGHT], ids=["fat bright", "muscle bright"])
def segmented(request):
    scene = two_calves(request.param)
    legs = find_legs(scene.image, np.diag([2.0, 2, 8, 1]))
    return scene, legs, segment_compartments(scene.image, legs, VOXEL_MM, field_order=3)


@pytest.mark.parametrize(
    ("tissue", "least"),
    # one voxel of 2 mm around a disc of 3 mm radius is half of its area, around 40 mm a tenth
    [
        (Tissue.SUBCUTANEOUS_FAT, 0.9),
        (Tissue.MUSCLE, 0.95),
        (Tissue.INTERMUSCULAR_FAT, 0.8),
        (Tissue.BONE_CORTEX, 0.8),
        (Tissue.BONE_MARROW, 0.8),
    ],
)
def test_each_compartment_is_found_again(segmented, tissue, least):
    scene, _, found = segmented
    assert dice(found.tissues == tissue, scene.tissues == tissue) > least


def test_both_bones_of_each_calf_are_found(segmented):
    assert segmented[2].n_bones == (2, 2)


def test_fat_over_muscle_is_that_of_the_phantom(segmented):
    scene, _, found = segmented
    without_field = scene.image / scene.field
    # the noise floor lifts the mean of neither by 1 %
    truth = np.mean(without_field[scene.tissues == Tissue.SUBCUTANEOUS_FAT]) / np.mean(
        without_field[scene.tissues == Tissue.MUSCLE]
    )
    assert_allclose(found.fats, truth, rtol=0.06)  # those means have partial volume


def test_field_follows_muscle(segmented):
    scene, _, found = segmented
    muscle = ndimage.binary_erosion(scene.tissues == Tissue.MUSCLE, np.ones((3, 3, 1)))
    ratio = found.field[muscle] / scene.field[muscle]
    assert_allclose(ratio / np.median(ratio), 1.0, atol=0.06)  # the field spans 50 %


@pytest.mark.parametrize(
    ("tissue", "truth"), [(Tissue.MUSCLE, 0.0), (Tissue.SUBCUTANEOUS_FAT, 1.0)]
)
def test_fat_fraction_of_pure_tissue_is_within_five_points(segmented, tissue, truth):
    scene, _, found = segmented
    for number, fat in enumerate(found.fats, start=1):
        fraction = fat_fraction(found.even, fat=fat, muscle=1.0)
        pure = (scene.tissues == tissue) & (scene.legs == number)
        pure = ndimage.binary_erosion(pure, np.ones((3, 3, 1)))
        assert_allclose(fraction[pure].mean(), truth, atol=0.05)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_side_follows_the_affine_and_not_the_storage(sign):
    scene = two_calves(T1W)
    affine = np.diag([2.0 * sign, 2.0, 8.0, 1.0])
    affine[0, 3] = 700.0  # both legs on one side of the origin
    legs = find_legs(scene.image, affine)
    assert legs.sides == ("right", "left")
    right_is_high = legs.labels[scene.legs == 2].mean() < 1.5
    assert right_is_high == (sign > 0)


def test_one_leg_has_no_side():
    scene = two_calves(T1W)
    legs = find_legs(scene.image[:52], np.diag([2.0, 2, 8, 1]))
    assert legs.sides == ("unknown",)


def test_legs_that_touch_are_cut_between_them():
    x, y = np.mgrid[:60, :40] - 19.5
    discs = (np.hypot(x, y) < 12) | (np.hypot(x - 22, y) < 12)
    legs = find_legs(np.repeat(discs[..., None] * 80.0, 4, 2), np.diag([2.0, 2, 8, 1]))
    assert legs.sides == ("right", "left")
    left_part = legs.labels[:30][legs.labels[:30] > 0]
    assert (left_part == 2).all()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_axis_along_the_legs_is_found_from_the_affine(axis):
    scene = two_calves(T1W)
    order = [n for n in range(3) if n != 2]
    order.insert(axis, 2)
    image = scene.image.transpose(order)
    affine = np.eye(4)
    affine[:3, :3] = np.diag([2.0, 2.0, 8.0])[:, order]
    legs = find_legs(image, affine)
    assert legs.slice_axis == axis
    assert (
        legs.labels.transpose(np.argsort(order)).astype(bool).sum() > 0.9 * (scene.legs > 0).sum()
    )


def test_image_without_legs_is_refused():
    with pytest.raises(NumericsError, match="holds no leg"):
        find_legs(np.zeros((20, 20, 4)), np.eye(4))


def test_fat_as_bright_as_muscle_is_refused():
    scene = two_calves({"muscle": 80.0, "fat": 80.0, "marrow": 80.0})
    tissues = even_tissues(scene.image, scene.legs > 0, VOXEL_MM, slice_axis=2, order=2)
    with pytest.raises(NumericsError, match="cannot be told apart"):
        require_contrast(tissues)


def test_cheapest_contour_is_that_of_exhaustive_search():
    rng = np.random.default_rng(3)
    cost = rng.random((1, 8, 3))
    ways = np.array(np.meshgrid(*[range(3)] * 8)).reshape(8, -1)
    steps = np.abs(np.diff(np.vstack([ways, ways[:1]]), axis=0))
    total = cost[0][np.arange(8)[:, None], ways].sum(axis=0) + 0.2 * (steps**2).sum(axis=0)
    total[(steps > 1).any(axis=0)] = np.inf
    found = cheapest_contours(cost, most_steps=1, step_cost=0.2)[0]
    step = np.abs(np.diff(np.append(found, found[0])))
    mine = cost[0][np.arange(8), found].sum() + 0.2 * (step**2).sum()
    assert step.max() <= 1
    assert mine <= total.min() + 0.2  # closed through the radius the open way found


def test_ellipse_goes_through_rays_and_back():
    x, y = np.mgrid[:60, :50]
    ellipse = np.hypot((x - 30) / 1.5, (y - 25) * 1.0) < 14
    radii = np.arange(0.0, 60.0, 0.5)
    rays = sample_rays(ellipse[None], [[30, 25]], radii, n_angles=180, pixel_mm=(1.0, 2.0), order=1)
    edge = radii[(rays > 0.5).sum(axis=2) - 1]
    back = fill_contours(edge, [[30, 25]], (60, 50), pixel_mm=(1.0, 2.0))
    assert dice(back[0], ellipse) > 0.98
