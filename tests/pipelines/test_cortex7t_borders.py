"""Borders of the cortex from FreeSurfer's kind of segmentation, or as drawn on the slab."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.testing import assert_allclose

from bids_alsmri.adoption import find_foreign
from bids_alsmri.bids.query import Scan, open_layout
from bids_alsmri.errors import DataError
from bids_alsmri.interfaces.base import read_image, write_image
from bids_alsmri.interfaces.registration import write_linear
from bids_alsmri.pipelines.cortex7t import borders
from bids_alsmri.pipelines.cortex7t.interfaces import FindRibbon, ReadBorders, read_ribbon
from bids_alsmri.pipelines.cortex7t.pipeline import PIPELINE, segmentation_of

# white matter to 10 mm, cortex to 13.5 mm along x; a grid of 0.5 mm as FreeSurfer turns it
X_MM = 0.5 * np.arange(50.0)
# coronal slices from left to right: rows of x, -z and y
CONFORMED = np.array([[-0.5, 0, 0, 24.5], [0, 0, 0.5, 0], [0, -0.5, 0, 19.5], [0, 0, 0, 1.0]])


def write_mgz(path, white, cortex):
    x_mm = X_MM[::-1, None, None] * np.ones((50, 40, 40))
    values = np.where(x_mm < 10.25, white, np.where(x_mm < 13.75, cortex, 0))
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.MGHImage(values.astype(np.int32), CONFORMED), path)
    return path


def ribbon_of(folder, wm, gm, slab_path):
    identity = write_linear(np.eye(4), folder / "identity.txt")
    node = FindRibbon(
        image=str(slab_path), to_anatomy=str(identity), wm=wm, gm=gm,
        lattice_mm=0.5, smoothing_mm=0.5, normal_smoothing_mm=1.0,
    )  # fmt: skip
    return read_ribbon(node.run(cwd=str(folder)).outputs.ribbon)


@pytest.fixture
def slab_path(tmp_path):
    affine = np.diag([0.5, 0.5, 2.0, 1.0])
    affine[:3, 3] = [5.0, 5.0, 6.0]
    path = tmp_path / "slab.nii.gz"
    write_image(np.ones((28, 20, 4), np.float32), affine, path)
    return path


@pytest.mark.parametrize(
    ("name", "white", "cortex"),
    [("ribbon.mgz", 2, 3), ("aparc+aseg.mgz", 41, 2024), ("aseg.mgz", 77, 42)],
)
def test_ribbon_of_a_flat_segmentation_is_the_distance_from_it(
    tmp_path, slab_path, name, white, cortex
):
    path = write_mgz(tmp_path / name, white, cortex)
    read = ReadBorders(segmentation=str(path)).run(cwd=str(tmp_path)).outputs
    found = ribbon_of(tmp_path, read.wm, read.gm, slab_path)
    place_mm = 5.0 + 0.5 * np.arange(28)
    near = np.abs(place_mm - 11.5) < 3.0
    # labels place a border midway between voxels of 0.5 mm: white matter ends at 10.0 + 0.25 mm
    assert_allclose(found.white_mm[near, 10, 2], place_mm[near] - 10.25, atol=0.26)
    assert_allclose(found.outer_mm[near, 10, 2], 13.75 - place_mm[near], atol=0.26)
    notes = json.loads(Path(read.facts).read_text())["notes"]
    assert notes == [
        f"borders of the cortex were taken from {name} (segmentation of the T1w that was given)"
    ]


def test_drawn_ribbon_goes_on_beyond_the_slab(tmp_path, slab_path):
    slab = read_image(slab_path, ndim=3)
    place_mm = 5.0 + 0.5 * np.arange(28)[:, None, None] * np.ones((28, 20, 4))
    labels = np.where(place_mm < 10.25, 2, np.where(place_mm < 13.75, 3, 1))
    path = tmp_path / "drawn.nii.gz"
    write_image(labels.astype(np.uint8), slab.affine, path)
    node = ReadBorders(segmentation=str(path), image=str(slab_path))
    read = node.run(cwd=str(tmp_path)).outputs
    found = ribbon_of(tmp_path, read.wm, read.gm, slab_path)
    near = np.abs(place_mm[:, 0, 0] - 11.5) < 3.0
    # the first and the last slice as those between: the end of the slab is no border
    for index in range(4):
        far = found.white_mm[near, 10, index] - (place_mm[near, 0, 0] - 10.25)
        assert_allclose(far, 0.0, atol=0.26)
    assert_allclose(found.normals[near, 10, 3], np.tile([1.0, 0, 0], (near.sum(), 1)), atol=0.01)


def test_segmentation_without_cortex_is_refused(tmp_path):
    path = write_mgz(tmp_path / "ribbon.mgz", 2, 2)
    with pytest.raises(DataError, match=r"0 cortex \(3 and 42\)"):
        borders.read_segmentation(path)
    path.write_text("no image")
    with pytest.raises(DataError, match="cannot be read as a segmentation"):
        borders.read_segmentation(path)


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        (["sub-01/mri/aparc+aseg.mgz", "sub-01/mri/ribbon.mgz"], 1),
        (["sub-01/mri/ribbon.mgz", "sub-01_ses-m0/mri/aparc.DKTatlas+aseg.deep.mgz"], 1),
        (["sourcedata/freesurfer/sub-01/mri/aseg.mgz"], 0),
        (["sub-01/ses-m0/anat/sub-01_ses-m0_desc-aseg_dseg.nii.gz"], 0),
        (["sub-01/anat/sub-01_space-MNI152NLin2009cAsym_desc-aseg_dseg.nii.gz"], None),
        (["sub-02/mri/ribbon.mgz"], None),
    ],
)
def test_segmentation_is_found_by_the_names_of_its_program(tmp_path, given, taken):
    paths = [tmp_path / name for name in given]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    expected = {} if taken is None else {"segmentation": paths[taken]}
    assert segmentation_of(tmp_path, "01", "m0") == expected


def test_first_dataset_with_a_segmentation_gives_it(tmp_path):
    path = tmp_path / "freesurfer" / "sub-01" / "mri" / "ribbon.mgz"
    for folder in (path.parent, tmp_path / "reader" / "sub-01"):
        folder.mkdir(parents=True)
    path.touch()
    layouts = {
        name: open_layout(tmp_path / name, ["01"], database_dir=None)
        for name in ("reader", "freesurfer")
    }
    scan = Scan("cortex7t", "01", None, {}, {}, {})
    assert find_foreign(layouts, PIPELINE, scan) == {"segmentation": path}
