"""Fat in muscles with planted patterns: fractions and Mercuri's grades are found again."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import ndimage

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.fatty_replacement import (
    NOT_GRADED,
    GradeBounds,
    calibrate_bounds,
    dixon_fat_fraction,
    fat_fraction,
    fatty_shares,
    mercuri_grades,
    reference_signals,
    water_and_fat,
)
from bids_alsmri.numerics.muscle_size import asymmetry_percent, measure_sizes

FINE = 4  # drawn at four times the resolution, so that fat has partial volume
SIDE = 30  # voxels around each muscle
MUSCLE, FAT = 35.0, 100.0  # of a T1w
FAT_THRESHOLD = 0.5


class Muscles(NamedTuple):
    image: np.ndarray
    labels: np.ndarray
    fat_mask: np.ndarray
    grades: np.ndarray  # of labels 1 and up
    fractions: np.ndarray


def _pattern(grade: int, inside: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Fat of a muscle on the fine grid: nothing, streaks, patches or confluent."""
    if grade == 0:
        return np.zeros_like(inside)
    if grade == 1:
        share, grain = rng.uniform(0.02, 0.1), (3.0, 20.0)  # streaks along one direction
    elif grade == 2:
        share, grain = rng.uniform(0.13, 0.46), (9.0, 9.0)
    else:
        share, grain = rng.uniform(0.54, 0.95), (14.0, 14.0)
    texture = ndimage.gaussian_filter(rng.standard_normal(inside.shape), grain)
    return inside & (texture > np.quantile(texture[inside], 1.0 - share))


def muscles(seed: int, per_grade: int = 5, noise: float = 3.0, bias: float = 0.05) -> Muscles:
    """A row of muscles of every grade between fat, with what is left of a bias field."""
    rng = np.random.default_rng(seed)
    grades = np.repeat(np.arange(4), per_grade)
    size = SIDE * FINE
    u, v = (np.indices((size, size)) + 0.5) / FINE - SIDE / 2
    blocks, labels, fractions = [], [], []
    for number, grade in enumerate(grades, start=1):
        radius, stretch = rng.uniform(8.5, 13.0), rng.uniform(1.0, 1.4)
        inside = np.hypot(u, v * stretch) < radius
        # healthy muscle has septa too, thinner than a voxel
        septum = np.abs(u * rng.uniform(-1, 1) + v - rng.uniform(-4, 4)) < 0.5 / FINE
        fat = np.where(inside, _pattern(int(grade), inside, rng) | septum, True)
        share = fat.reshape(SIDE, FINE, SIDE, FINE).mean(axis=(1, 3))
        drawn = inside.reshape(SIDE, FINE, SIDE, FINE).mean(axis=(1, 3)) > 0.999
        blocks.append(share)
        labels.append(np.where(drawn, number, 0))
        fractions.append(share[drawn].mean())
    share, label = np.concatenate(blocks), np.concatenate(labels)
    place = np.linspace(-1.0, 1.0, len(share))[:, np.newaxis]
    field = 1.0 + bias * np.sin(2.0 * place + rng.uniform(0, 6))  # after its correction
    signal = (MUSCLE + (FAT - MUSCLE) * share) * field
    image = np.abs(signal + rng.normal(0.0, noise, share.shape))
    pure = ndimage.binary_erosion((label == 0) & (share == 1.0), iterations=1)
    return Muscles(image[..., None], label[..., None], pure[..., None], grades, np.array(fractions))


def measured(scene: Muscles) -> tuple[np.ndarray, np.ndarray]:
    """Fraction map and fatty share of each muscle, by the modes of fat and muscle."""
    found = reference_signals(scene.image, scene.fat_mask, scene.labels > 0)
    fraction = fat_fraction(scene.image, fat=found.fat, muscle=found.muscle)
    wanted = np.arange(1, len(scene.grades) + 1)
    return fraction, fatty_shares(fraction, scene.labels, wanted, fat_threshold=FAT_THRESHOLD)


def weighted_kappa(first: np.ndarray, second: np.ndarray) -> float:
    """Cohen's kappa with linear weights, by its definition."""
    table = np.zeros((4, 4))
    np.add.at(table, (first, second), 1.0 / len(first))
    cost = np.abs(np.subtract.outer(np.arange(4), np.arange(4)))
    chance = np.outer(table.sum(axis=1), table.sum(axis=0))
    return float(1.0 - (cost * table).sum() / (cost * chance).sum())


@pytest.fixture(scope="module")
def bounds():
    shares, grades = [], []
    for seed in (101, 102, 103):
        scene = muscles(seed)
        shares.append(measured(scene)[1])
        grades.append(scene.grades)
    return calibrate_bounds(np.concatenate(shares), np.concatenate(grades), confluent=0.5)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_planted_grades_are_read_with_bounds_set_on_other_phantoms(bounds, seed):
    scene = muscles(seed)
    found = mercuri_grades(measured(scene)[1], bounds)
    assert weighted_kappa(found, scene.grades) >= 0.8


@pytest.mark.parametrize("noise", [1.5, 5.0])
def test_fraction_of_each_muscle_is_within_five_points(noise):
    scene = muscles(11, noise=noise, bias=0.03)  # 3 % of fat's signal are 4.6 points
    fraction, _ = measured(scene)
    means = ndimage.mean(fraction, scene.labels, np.arange(1, len(scene.grades) + 1))
    assert_allclose(means, scene.fractions, atol=0.05)


@pytest.mark.parametrize("gain", [0.01, 1.0, 300.0])
def test_fraction_does_not_depend_on_receiver_gain(gain):
    scene = muscles(4, per_grade=1)
    louder = scene._replace(image=scene.image * gain)
    assert_allclose(measured(louder)[0], measured(scene)[0], atol=1e-9)


def test_noise_around_zero_is_not_cut_off():
    fraction = fat_fraction(MUSCLE + np.array([-5.0, 5.0]), fat=FAT, muscle=MUSCLE)
    assert_allclose(fraction.mean(), 0.0, atol=1e-12)


def test_two_point_dixon_gives_the_fractions_it_was_made_of():
    fat = np.array([0.0, 0.1, 0.3, 0.49])
    water, found = water_and_fat(100.0 * np.ones(4), 100.0 * (1 - 2 * fat))
    assert_allclose(dixon_fat_fraction(water, found, least_signal=1.0), fat, atol=1e-12)


def test_calibrated_bounds_have_the_fewest_on_the_wrong_side():
    rng = np.random.default_rng(5)
    grades = np.repeat(np.arange(4), 30)
    shares = np.clip(rng.normal(np.array([0.02, 0.08, 0.3, 0.7])[grades], 0.04), 0, 1)
    found = calibrate_bounds(shares, grades)

    def wrong(bound: float, grade: int) -> float:
        above = grades >= grade
        return float(np.mean(shares[above] <= bound) + np.mean(shares[~above] > bound))

    for grade, bound in enumerate((found.traces, found.patches, found.confluent), start=1):
        least = min(wrong(other, grade) for other in np.linspace(0.0, 1.0, 401))
        assert wrong(bound, grade) <= least + 1e-9


def test_calibration_needs_all_grades():
    with pytest.raises(NumericsError, match="no muscle has grade 3"):
        calibrate_bounds([0.0, 0.1, 0.3], [0, 1, 2])


def test_bounds_must_rise():
    with pytest.raises(NumericsError, match="must rise"):
        GradeBounds(traces=0.2, patches=0.1, confluent=0.5)


def test_muscle_that_was_not_measured_has_no_grade():
    bounds = GradeBounds(traces=0.01, patches=0.1, confluent=0.5)
    assert mercuri_grades([np.nan], bounds)[0] == NOT_GRADED


def test_percentages_are_refused_as_shares():
    with pytest.raises(NumericsError, match="shares of area"):
        mercuri_grades([30.0], GradeBounds(traces=0.01, patches=0.1, confluent=0.5))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_cylinder_has_the_section_and_volume_of_its_formula(axis):
    x, y, _ = np.indices((41, 41, 7)) - 20
    cylinder = np.where(np.hypot(x, y) <= 15, 3, 0)
    cylinder[..., 0] = cylinder[..., -1] = 0
    edges = np.insert([2.0, 2.0], axis, 10.0)
    sizes = measure_sizes(np.moveaxis(cylinder, 2, axis), [3, 4], edges, slice_axis=axis)
    area = np.pi * 30.0**2
    assert_allclose(sizes.largest_mm2[0], area, rtol=0.01)  # pixels of a circle
    assert_allclose(sizes.volume_ml[0], area * 50.0 / 1000.0, rtol=0.01)
    assert not sizes.is_cut[0]
    assert np.isnan(sizes.largest_mm2[1])
    assert sizes.largest_slice[1] == -1


def test_muscle_in_the_last_slice_is_cut():
    labels = np.ones((4, 4, 3), dtype=int)
    assert measure_sizes(labels, [1], [1, 1, 1], slice_axis=2).is_cut[0]


def test_asymmetry_changes_sign_with_the_sides():
    right, left = np.array([3.0, 0.0]), np.array([5.0, 0.0])
    assert_allclose(asymmetry_percent(right, left), -asymmetry_percent(left, right))
    assert_allclose(asymmetry_percent(right, left)[0], -50.0)
