"""Single nodes of the anatomical pipeline refuse what is no head, and name the file at fault."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bids_alsmri.errors import DataError, NumericsError
from bids_alsmri.interfaces.base import read_image, write_image
from bids_alsmri.interfaces.registration import write_linear
from bids_alsmri.pipelines.anatomical.interfaces import CheckT1w, ExtractBrain, SegmentTissues
from bids_alsmri.pipelines.anatomical.pipeline import PIPELINE

SIZE_MM = 8.0
AFFINE_MM = np.diag([SIZE_MM, SIZE_MM, SIZE_MM, 1.0])
CFG = PIPELINE.settings()


@pytest.fixture(autouse=True)
def _in_an_own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def head(tmp_path):
    """Write random positive voxels of a shape, and give the path."""

    def make(shape: tuple[int, int, int], name: str = "sub-01_T1w.nii.gz") -> Path:
        values = np.random.default_rng(3).integers(1, 500, shape).astype(np.int16)
        write_image(values, AFFINE_MM, tmp_path / name)
        return tmp_path / name

    return make


def refusal(node) -> str:
    with pytest.raises((DataError, NumericsError)) as caught:
        node.run()
    return " ".join([str(caught.value), *getattr(caught.value, "__notes__", ())])


def test_checked_t1w_has_the_voxels_of_the_file(head):
    path = head((20, 24, 22))
    checked = CheckT1w(image=str(path)).run().outputs.image
    np.testing.assert_array_equal(read_image(checked, ndim=3).data, read_image(path, ndim=3).data)


@pytest.mark.parametrize("value", [1, 7])
def test_t1w_of_one_intensity_is_refused(tmp_path, value):
    path = tmp_path / "sub-01_T1w.nii.gz"
    write_image(np.full((20, 24, 22), value, dtype=np.int16), AFFINE_MM, path)
    message = refusal(CheckT1w(image=str(path)))
    assert f"{path}: all 10560 voxels are {value}; expected a head" in message


@pytest.mark.parametrize(
    ("shape", "extents"),
    [
        ((20, 24, 1), "160 x 192 x 8 mm"),
        ((9, 24, 22), "72 x 192 x 176 mm"),
    ],
)
def test_t1w_too_thin_for_a_brain_is_refused(head, shape, extents):
    path = head(shape)
    message = refusal(CheckT1w(image=str(path)))
    assert f"{path}: covers {extents}; expected" in message


def test_t1w_as_thin_as_a_brain_can_be_passes(head):
    assert CheckT1w(image=str(head((10, 24, 22)))).run().outputs.image


@pytest.mark.slow
def test_brain_that_is_not_found_names_the_file_of_the_dataset(head, tmp_path):
    write_image(np.zeros((20, 24, 22), dtype=np.int16), AFFINE_MM, tmp_path / "t1w.nii.gz")
    node = ExtractBrain(
        image=str(tmp_path / "t1w.nii.gz"),
        source=str(head((20, 24, 22))),
        template="MNI152NLin2009aSym",
        template_mm=4.0,
        search=CFG.brain_search,
        seed=1,
        n_threads=1,
    )
    assert f"(in {tmp_path}/sub-01_T1w.nii.gz)" in refusal(node)


def test_tissues_that_are_not_found_name_the_file_of_the_dataset(head, tmp_path):
    image = head((20, 24, 22), "corrected.nii.gz")
    write_image(np.zeros((20, 24, 22), dtype=bool), AFFINE_MM, tmp_path / "mask.nii.gz")
    node = SegmentTissues(
        image=str(image),
        mask=str(tmp_path / "mask.nii.gz"),
        source=str(head((20, 24, 22))),
        template="MNI152NLin2009aSym",
        template_mm=4.0,
        start=str(write_linear(np.eye(4), tmp_path / "start.txt")),
        prior_weight=0.0,
        iterations=1,
        smoothness=0.1,
        n_threads=1,
    )
    assert f"(in {tmp_path}/sub-01_T1w.nii.gz)" in refusal(node)
