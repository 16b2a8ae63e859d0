"""Both modes on a real head at 3T, b=2500 s/mm2, and FA against MRtrix on the same data."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

pytestmark = [pytest.mark.data, pytest.mark.slow]

# a coarse nonlinear registration: these tests judge the maps in T1w space
CHEAP = ["--anatomical-syn-iterations", "20", "0", "0", "--diffusion-template-resolution-mm", "3"]
WORLD = "space-T1w_model-tensor_param"
# the paper mode treats both alike, and a minute is saved
DIRECTIONS = {"best": ("AP", "PA"), "paper": ("AP",)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Folder of both modes: the second takes over what is alike in both, the anatomy."""
    return tmp_path_factory.mktemp("real_head")


# all tests of one mode run before the other takes its place
@pytest.fixture(scope="module", params=["best", "paper"])
def results(request, test_data, folder) -> Path:
    filters = {"dwi": {"direction": list(DIRECTIONS[request.param])}}
    (folder / "filters.json").write_text(json.dumps(filters))
    command = [
        *(sys.executable, "-m", "bids_alsmri", str(test_data / "bids_brain")),
        *(str(folder / "out"), "participant", "-w", str(folder / "work"), "--mode", request.param),
        *("--bids-filter-file", str(folder / "filters.json"), "--n-procs", "2", *CHEAP),
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    return folder / "out"


@pytest.fixture
def series(request, results) -> dict[str, dict[str, float]]:
    """Quality of each diffusion series, by its direction of phase encoding."""
    directions = DIRECTIONS[request.node.callspec.params["results"]]
    folder = results / "sub-01" / "dwi"
    return {name: quality(folder, f"sub-01_dir-{name}") for name in directions}


def values(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj, dtype=np.float64)


def quality(folder: Path, scan: str) -> dict[str, float]:
    table = pd.read_csv(folder / f"{scan}_desc-quality_stats.tsv", sep="\t")
    return dict(zip(table["measure"], table["value"], strict=True))


def tissue(path: Path, like: Path) -> np.ndarray:
    from bids_alsmri.interfaces.base import read_image
    from bids_alsmri.pipelines.diffusion.places import resample_like

    # voxels without a tensor are NaN
    return resample_like(path, read_image(like, ndim=3, nonfinite="keep"))


def test_registrations_of_the_real_head_hold(results, series):
    anat = quality(results / "sub-01" / "anat", "sub-01")
    # an adult brain with its cerebrospinal fluid
    assert 1200 < anat["brain_volume"] < 1900
    assert anat["template_mask_overlap"] > 0.9
    for dwi in series.values():
        # susceptibility distortion of several voxels is left in, and the slab cuts the cerebellum
        assert dwi["anatomy_overlap"] > 0.85
        # the participant lay still; what is left are eddy currents at b=2500
        assert dwi["mean_framewise_displacement"] < 2.0
        assert dwi["failed_voxel_share"] < 0.02


def test_b_vectors_of_the_real_head_fit_best_as_they_are(series):
    assert [dwi["gradient_gain"] for dwi in series.values()] == [0] * len(series)


def test_white_matter_is_more_anisotropic_than_grey(results):
    fa_file = results / "sub-01" / "dwi" / f"sub-01_dir-AP_{WORLD}-fa_dwimap.nii.gz"
    fa = values(fa_file)
    wm = tissue(results / "sub-01" / "anat" / "sub-01_label-WM_probseg.nii.gz", fa_file)
    gm = tissue(results / "sub-01" / "anat" / "sub-01_label-GM_probseg.nii.gz", fa_file)
    assert np.nanmedian(fa[wm > 0.8]) > 1.3 * np.nanmedian(fa[gm > 0.8])


def test_diffusivities_are_those_of_a_brain_at_b_2500(results):
    md_file = results / "sub-01" / "dwi" / f"sub-01_dir-AP_{WORLD}-md_dwimap.nii.gz"
    md = values(md_file)
    wm = tissue(results / "sub-01" / "anat" / "sub-01_label-WM_probseg.nii.gz", md_file)
    # kurtosis lowers the apparent diffusivity of 0.7e-3 at b=1000 by a fifth to a third
    assert 0.4e-3 < np.nanmedian(md[wm > 0.8]) < 0.8e-3
    csf = tissue(results / "sub-01" / "anat" / "sub-01_label-CSF_probseg.nii.gz", md_file)
    # free water would be 3.0e-3, but its signal is below the noise floor at b=2500
    assert 1.0e-3 < np.nanmedian(md[(csf > 0.8) & (md > 0)]) < 2.0e-3


@pytest.mark.peer
def test_fa_equals_mrtrix_on_the_same_corrected_series(results, tmp_path):
    if shutil.which("dwi2tensor") is None:
        pytest.skip("MRtrix is not installed (Debian package mrtrix3)")
    stem = results / "sub-01" / "dwi" / "sub-01_dir-AP_space-T1w_desc"
    mask = f"{stem}-brain_mask.nii.gz"
    gradients = ["-fslgrad", f"{stem}-preproc_dwi.bvec", f"{stem}-preproc_dwi.bval"]
    tensor, fa_file = tmp_path / "tensor.mif", tmp_path / "fa.nii.gz"
    quiet = {"check": True, "capture_output": True}
    command = ["dwi2tensor", f"{stem}-preproc_dwi.nii.gz", str(tensor), *gradients, "-mask", mask]
    subprocess.run([*command, "-nthreads", "1"], **quiet)
    subprocess.run(["tensor2metric", str(tensor), "-fa", str(fa_file)], **quiet)
    ours = values(results / "sub-01" / "dwi" / f"sub-01_dir-AP_{WORLD}-fa_dwimap.nii.gz")
    theirs = values(fa_file)
    inside = (values(Path(mask)) > 0) & np.isfinite(ours) & (ours > 0) & (theirs < 1)
    # MRtrix weighs by its own first fit and does not raise negative eigenvalues
    assert np.median(np.abs(ours[inside] - theirs[inside])) < 0.02
    assert np.corrcoef(ours[inside], theirs[inside])[0, 1] > 0.97
