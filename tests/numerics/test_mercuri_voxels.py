"""Mercuri's grades of planted patterns in voxels of any size, with the settings as they are.

Bounds were set on other muscles, whose fat lies in random waves as `phantom.muscle_scene` makes it;
here it lies in smoothed noise.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from scipy import ndimage

from bids_alsmri.numerics.fatty_replacement import (
    GradeBounds,
    fat_fraction,
    fatty_shares,
    mercuri_grades,
)
from bids_alsmri.pipelines.muscle.pipeline import MuscleSettings

FINE_MM = np.array([0.75, 0.75, 3.0])
SIZE = (56, 56, 30)
MUSCLE, FAT = 35.0, 100.0  # of a T1w
SEPTUM = 0.4  # of a fine voxel: 0.3 mm, which healthy muscle has too
N_PER_GRADE = 4


def _textures(rng: np.random.Generator, grain_mm: float) -> np.ndarray:
    """Random texture that is longer along the fibres."""
    sd = np.array([grain_mm, grain_mm, 4 * grain_mm]) / FINE_MM
    return ndimage.gaussian_filter(rng.standard_normal(SIZE, dtype=np.float32), sd, mode="wrap")


@cache
def muscles(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Share of fat and inside of muscles of every grade, on a fine lattice, and their grades."""
    rng = np.random.default_rng(seed)
    x, y, _ = (
        (np.arange(n).reshape([-1 if a == axis else 1 for a in range(3)]) + 0.5 - n / 2) * edge
        for axis, (n, edge) in enumerate(zip(SIZE, FINE_MM, strict=True))
    )
    grades = np.repeat(np.arange(4), N_PER_GRADE)
    fat, inside = [], []
    for grade in grades:
        within = np.broadcast_to(
            np.hypot(x, y * rng.uniform(1.0, 1.4)) < rng.uniform(12.0, 19.0), SIZE
        )
        # streaks up to 10 % of the area, patches below half, confluent above
        share = [0.0, rng.uniform(0.03, 0.1), rng.uniform(0.14, 0.45), rng.uniform(0.55, 0.9)][
            grade
        ]
        grain_mm = [1.0, 1.1, 3.0, 4.5][grade]
        texture = _textures(rng, grain_mm)
        planted = texture > np.quantile(texture[within], 1.0 - share) if grade else texture > np.inf
        septum = np.abs(x * rng.uniform(-1, 1) + y - rng.uniform(-4, 4)) < 0.4
        shown = np.maximum(planted, SEPTUM * septum)
        fat.append(np.where(within, shown, 1.0))
        inside.append(within)
    return np.array(fat), np.array(inside), grades


def found_grades(seed: int, factor: tuple[int, int, int], noise: float) -> np.ndarray:
    """Grades from an image of voxels that hold so many fine ones, with noise and some bias left."""
    cfg = MuscleSettings()
    bounds = GradeBounds(cfg.mercuri_traces, cfg.mercuri_patches, cfg.mercuri_confluent)
    rng = np.random.default_rng(seed + 1)
    shares = []
    fat, inside, _ = muscles(seed)
    for own_fat, own_inside in zip(fat, inside, strict=True):
        share, within = (_blocks(values, factor) for values in (own_fat, own_inside))
        field = 1 + 0.03 * rng.uniform(-1, 1) * np.linspace(-1, 1, len(share))[:, None, None]
        signal = (MUSCLE + (FAT - MUSCLE) * share) * field
        image = np.hypot(*(part + rng.normal(0, noise, share.shape) for part in (signal, 0.0)))
        labels = (within > 0.999).astype(int)
        fraction = fat_fraction(image, fat=FAT, muscle=MUSCLE)
        shares += fatty_shares(fraction, labels, [1], fat_threshold=cfg.fat_threshold).tolist()
    return mercuri_grades(shares, bounds)


def _blocks(values: np.ndarray, factor: tuple[int, int, int]) -> np.ndarray:
    i, j, k = (n // f * f for n, f in zip(SIZE, factor, strict=True))
    cut = values[:i, :j, :k].astype(np.float64)
    a, b, c = factor
    return cut.reshape(i // a, a, j // b, b, k // c, c).mean(axis=(1, 3, 5))


def weighted_kappa(first: np.ndarray, second: np.ndarray) -> float:
    """Cohen's kappa with linear weights, by its definition."""
    table = np.zeros((4, 4))
    np.add.at(table, (first, second), 1.0 / len(first))
    cost = np.abs(np.subtract.outer(np.arange(4), np.arange(4)))
    chance = np.outer(table.sum(axis=1), table.sum(axis=0))
    return float(1.0 - (cost * table).sum() / (cost * chance).sum())


@pytest.mark.parametrize("noise", [3.0, 6.0])
@pytest.mark.parametrize("factor", [(2, 2, 2), (4, 4, 3), (7, 7, 10)], ids=["1.5x6", "3x9", "5x30"])
def test_planted_grades_are_found_whatever_the_size_of_the_voxels(factor, noise):
    found, planted = [], []
    for seed in (1, 2):
        found.append(found_grades(seed, factor, noise))
        planted.append(muscles(seed)[2])
    assert weighted_kappa(np.concatenate(found), np.concatenate(planted)) >= 0.8
