"""Labels of unseen phantoms from labelled ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from bids_alsmri.errors import DataError
from bids_alsmri.interfaces.base import read_image, write_image
from bids_alsmri.interfaces.label_fusion import (
    FusionSettings,
    LabelledImage,
    fuse_labels,
    leave_one_out,
)
from bids_alsmri.interfaces.registration import Stage
from bids_alsmri.numerics.anatomy import dice

AFFINE = np.diag([3.0, 3.0, 8.0, 1.0])
SHAPE = (36, 36, 6)

SETTINGS = FusionSettings(
    stages=(
        Stage("affine", "mi", 32, 1.0, 0.1, (30, 10), (2, 1), (3.0, 0.0), 1e-6, 10),
        Stage("syn", "cc", 2, 1.0, 0.2, (30, 10), (2, 1), (3.0, 0.0), 1e-6, 10, 3.0, 0.0),
    ),
    winsor_percentiles=(0.5, 99.5),
    margin_mm=10.0,
    voxel_mm=3.0,
    patch_radius=(2, 2, 1),
    search_radius=(2, 2, 1),
    sharpness=2.0,
    ridge=0.1,
    n_threads=1,
    n_at_once=1,
    seed=1,
)


def limb(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A limb with four muscles between thin septa of fat, of its own shape and noise."""
    rng = np.random.default_rng(seed)
    x, y, z = (np.indices(SHAPE).T - (np.array(SHAPE) - 1) / 2).T * AFFINE.diagonal()[
        :3, np.newaxis, np.newaxis, np.newaxis
    ]
    for axis in (0, 1):
        push = ndimage.gaussian_filter(rng.standard_normal(SHAPE), (5, 5, 2))
        push *= 4.0 / push.std()
        x, y = (x + push, y) if axis == 0 else (x, y + push)
    turn = np.arctan2(y, x) + rng.normal(0, 0.06) + 0.002 * z
    radius = np.hypot(x * 1.1, y)
    labels = np.where(radius < 36, 1 + np.floor((turn + np.pi) / (np.pi / 2)) % 4, 0)
    septum = np.abs(np.sin(2 * turn)) * radius / 2 < 1.6
    labels[septum] = 0
    image = np.where(labels > 0, 40.0, np.where(radius < 44, 100.0, 2.0))
    image[np.hypot(x - 6, y) < 8] = 8.0
    labels[np.hypot(x - 6, y) < 8] = 0
    blurred = ndimage.gaussian_filter(image, (0.5, 0.5, 0)) + rng.normal(0, 3.0, SHAPE)
    return np.abs(blurred).astype(np.float32), labels.astype(np.int16)


def saved(folder: Path, seed: int) -> LabelledImage:
    image, labels = limb(seed)
    paths = folder / f"image{seed}.nii.gz", folder / f"labels{seed}.nii.gz"
    write_image(image, AFFINE, paths[0])
    write_image(labels, AFFINE, paths[1])
    return LabelledImage(f"phantom {seed}", *paths)


@pytest.fixture(scope="module")
def fused(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fusion")
    atlases = [saved(folder, seed) for seed in (1, 2, 3)]
    target = saved(folder, 9)
    found = fuse_labels(
        target.image, atlases, folder / "out.nii.gz", folder / "work", mask=None, settings=SETTINGS
    )
    return target, found


@pytest.mark.slow
def test_muscles_of_an_unseen_limb_overlap_with_the_truth(fused):
    target, found = fused
    truth = read_image(target.labels, ndim=3).data
    labels = read_image(found.labels, ndim=3).data
    overlaps = [dice(truth == number, labels == number) for number in (1, 2, 3, 4)]
    assert min(overlaps) > 0.85  # the aim of this project for unseen phantoms


@pytest.mark.slow
def test_fat_between_muscles_stays_background(fused):
    target, found = fused
    septa = (read_image(target.image, ndim=3).data > 70) & (
        read_image(target.labels, ndim=3).data == 0
    )
    labels = read_image(found.labels, ndim=3).data
    # without a label of its own for background all of it would be muscle
    assert (labels[septa] > 0).mean() < 0.25


@pytest.mark.slow
def test_agreement_is_a_share_of_the_atlases(fused):
    _, found = fused
    agreement = read_image(found.agreement, ndim=3).data
    thirds = 3.0 * agreement
    np.testing.assert_allclose(thirds, thirds.round(), atol=1e-5)
    assert (agreement >= 0).all()
    assert agreement.max() <= 1.0


def test_one_atlas_is_refused(tmp_path):
    atlas = saved(tmp_path, 1)
    with pytest.raises(DataError, match="two or more"):
        fuse_labels(
            atlas.image, [atlas], tmp_path / "o.nii.gz", tmp_path, mask=None, settings=SETTINGS
        )


def test_leaving_one_out_of_two_is_refused(tmp_path):
    atlas = saved(tmp_path, 1)
    with pytest.raises(DataError, match="three or more"):
        leave_one_out([atlas, atlas], tmp_path, settings=SETTINGS)


def test_labels_on_another_grid_are_refused(tmp_path):
    first, second = saved(tmp_path, 1), saved(tmp_path, 2)
    write_image(np.ones((5, 5, 5), np.int16), AFFINE, second.labels)
    with pytest.raises(DataError, match="another grid"):
        fuse_labels(
            first.image,
            [second, first],
            tmp_path / "o.nii.gz",
            tmp_path / "w",
            mask=None,
            settings=SETTINGS,
        )
