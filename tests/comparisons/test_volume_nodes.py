"""Maps in template space: the voxels that all have, and values at the voxels of another grid."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from nilearn.image import resample_to_img
from numpy.testing import assert_allclose, assert_array_equal

from bids_alsmri.comparisons.volumes import CommonMask, SampleCovariate, SampleMap, StackSampled
from bids_alsmri.interfaces.base import read_image, write_image
from bids_alsmri.spaces.templates import EMBEDDED_TEMPLATE, get_template

LABELS = ["sub-01", "sub-02", "sub-03"]


@pytest.fixture(scope="module")
def brain():
    place = get_template(EMBEDDED_TEMPLATE, 4.0)
    return np.asarray(place.mask.dataobj) > 0, place.mask.affine


@pytest.fixture
def maps(brain, tmp_path):
    """Three maps of the brain; the second one ends low, the third has one hole."""
    inside, affine = brain
    paths = []
    for index, label in enumerate(LABELS):
        values = np.where(inside, 40.0 + index, 0.0)
        if index == 1:
            values[:, :, -15:] = np.nan
        if index == 2:
            values[tuple(np.argwhere(inside)[100])] = 0.0
        paths.append(tmp_path / f"{label}.nii.gz")
        write_image(values, affine, paths[-1], space="mni152")
    return paths


def test_mask_holds_the_brain_that_all_have(maps, brain, tmp_path):
    node = CommonMask(
        maps=[str(p) for p in maps],
        labels=LABELS,
        template=EMBEDDED_TEMPLATE,
        most_removed_share=0.02,
    )
    found = node.run(cwd=tmp_path).outputs
    inside = brain[0].copy()
    n_brain, n_cut = inside.sum(), inside[:, :, -15:].sum()
    inside[:, :, -15:] = False
    inside[tuple(np.argwhere(brain[0])[100])] = False
    assert_array_equal(read_image(Path(found.mask), ndim=3).data > 0, inside)
    facts = json.loads(Path(found.facts).read_text())
    assert facts["n_mask_voxels"] == inside.sum()
    # of what the other two have: all but the hole
    assert facts["removed_share"]["sub-02"] == pytest.approx(n_cut / (n_brain - 1))
    assert n_cut / n_brain > 0.02
    (warning,) = facts["warnings"]
    assert warning.startswith("sub-02: alone removes")


def test_map_of_another_grid_is_refused(maps, brain, tmp_path):
    write_image(np.ones((5, 5, 5)), np.eye(4), maps[2], space="mni152")
    node = CommonMask(
        maps=[str(p) for p in maps],
        labels=LABELS,
        template=EMBEDDED_TEMPLATE,
        most_removed_share=0.02,
    )
    with pytest.raises(Exception, match=r"sub-03\.nii\.gz(.|\n)*expected one grid"):
        node.run(cwd=tmp_path)


@pytest.fixture
def finer(brain, tmp_path):
    """Some voxels of a grid twice as fine."""
    place = get_template(EMBEDDED_TEMPLATE, 2.0)
    mask = np.asarray(place.mask.dataobj) > 0
    mask &= np.random.default_rng(0).random(mask.shape) < 0.01
    path = tmp_path / "skeleton.nii.gz"
    write_image(mask, place.mask.affine, path, space="mni152")
    return path


def test_values_are_linear_between_voxels(brain, finer, tmp_path):
    inside, affine = brain
    world = np.stack(np.indices(inside.shape), axis=-1) @ affine[:3, :3].T + affine[:3, 3]
    path = tmp_path / "map.nii.gz"
    # a plane everywhere, so that no rim has to be filled
    write_image(world @ [0.1, -0.2, 0.3] + 100.0, affine, path, space="mni152")
    found = SampleMap(image=str(path), mask=str(finer)).run(cwd=tmp_path).outputs.vector
    expected = resample_to_img(path, finer, interpolation="linear").get_fdata()
    is_wanted = read_image(finer, ndim=3).data > 0
    assert_allclose(np.load(found), expected[is_wanted], rtol=1e-5)


def test_rim_without_values_does_not_pull_down(brain, finer, tmp_path):
    inside, affine = brain
    path = tmp_path / "map.nii.gz"
    write_image(np.where(inside, 50.0, 0.0), affine, path, space="mni152")
    found = np.load(SampleMap(image=str(path), mask=str(finer)).run(cwd=tmp_path).outputs.vector)
    assert_allclose(found[np.isfinite(found)], 50.0, rtol=1e-5)


def test_stack_keeps_the_voxels_that_all_have(finer, tmp_path):
    mask = read_image(finer, ndim=3)
    n = int((mask.data > 0).sum())
    rows = np.arange(3 * n, dtype=np.float32).reshape(3, n) + 1.0
    rows[1, 5], rows[2, 9] = np.nan, np.nan
    paths = []
    for label, row in zip(LABELS, rows, strict=True):
        paths.append(str(tmp_path / f"{label}.npy"))
        np.save(paths[-1], row)
    node = StackSampled(vectors=paths, labels=LABELS, mask=str(finer), most_removed_share=0.02)
    found = node.run(cwd=tmp_path).outputs
    kept = np.setdiff1d(np.arange(n), [5, 9])
    assert_array_equal(np.load(found.stack), rows[:, kept])
    inside = read_image(Path(found.mask), ndim=3).data > 0
    assert_array_equal(np.flatnonzero(inside[mask.data > 0]), kept)


def test_covariate_may_be_zero_at_sampled_voxels(brain, finer, tmp_path):
    inside, affine = brain
    rng = np.random.default_rng(2)
    # white matter without any grey
    values = np.where(rng.random(inside.shape) < 0.5, 0.0, 0.6)
    paths = [tmp_path / f"{label}.nii.gz" for label in LABELS]
    for path in paths:
        write_image(values, affine, path, space="mni152")
    node = SampleCovariate(maps=[str(p) for p in paths], labels=LABELS, mask=str(finer))
    found = np.load(node.run(cwd=tmp_path).outputs.stack)
    expected = resample_to_img(paths[0], finer, interpolation="linear").get_fdata()
    expected = expected[read_image(finer, ndim=3).data > 0]
    assert_allclose(found, np.tile(expected, (3, 1)), atol=1e-5)


def test_covariate_without_values_is_refused_by_name(brain, finer, tmp_path):
    inside, affine = brain
    paths = [tmp_path / f"{label}.nii.gz" for label in LABELS]
    for index, path in enumerate(paths):
        values = np.full(inside.shape, 0.5)
        if index == 1:
            values[:, :, -20:] = np.nan
        write_image(values, affine, path, space="mni152")
    node = SampleCovariate(maps=[str(p) for p in paths], labels=LABELS, mask=str(finer))
    with pytest.raises(Exception, match=r"sub-02\.nii\.gz: no value of sub-02 at \d+ of"):
        node.run(cwd=tmp_path)
