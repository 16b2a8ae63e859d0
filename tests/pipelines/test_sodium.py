"""The sodium pipeline finds what the phantom knows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

from bids_alsmri.interfaces.registration import move_points

TEMPLATE = "MNI152NLin2009aSym"
SIGNAL_PER_MMOL_L = 20.0  # of the phantom, without saturation and decay


def values(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj, dtype=float)


def stem(folder: Path, label: str) -> str:
    return str(folder / f"sub-{label}" / "anat" / f"sub-{label}_acq-sodium_")


def table(folder: Path, label: str, tail: str) -> pd.DataFrame:
    return pd.read_csv(f"{stem(folder, label)}{tail}.tsv", sep="\t")


def regions(folder: Path, label: str) -> pd.Series:
    return table(folder, label, "desc-tsc_stats").set_index(["region", "measure"])["value"]


@pytest.fixture(scope="module")
def true_tissue(truth) -> pd.Series:
    """Mean concentration of each tissue of sub-01, effect included, in mmol/L."""
    return truth.table("acq-sodium_desc-tissues_stats").set_index("tissue")["mean_concentration"]


# ---- calibration


@pytest.mark.slow
@pytest.mark.parametrize("label", ["01", "02"])
def test_tubes_are_found_where_they_stand(finished, label):
    truth = pd.read_csv(
        finished.raw
        / f"derivatives/phantom/sub-{label}/anat/sub-{label}_acq-sodium_desc-refs_dseg.tsv",
        sep="\t",
    )
    found = table(finished.out, label, "desc-tubes_stats")
    centres = truth[["centre_x", "centre_y", "centre_z"]].to_numpy(float)
    gaps = found[["x", "y", "z"]].to_numpy(float)[:, None] - centres[None]
    nearest_mm = np.linalg.norm(gaps, axis=2).min(axis=1)
    assert len(found) == len(truth) == 2
    assert nearest_mm.max() < 1.8  # half a voxel
    assert_allclose(found["diameter"], 25.0, atol=1.0)


@pytest.mark.slow
def test_line_of_the_tubes_is_that_of_the_phantom(finished):
    found = table(finished.out, "01", "desc-tubes_stats")
    # the demand: within 2 % for tubes of 20 mm or more
    assert_allclose(found["slope"], SIGNAL_PER_MMOL_L, rtol=0.02)


@pytest.mark.slow
def test_tubes_of_an_uneven_coil_agree_after_the_correction_by_its_map(finished):
    found = table(finished.out, "02", "desc-tubes_stats")
    ratio = found["signal_corrected"].max() / found["signal_corrected"].min()
    # noise of a tube's mean is 0.3 %, and the map is known at the voxels' centres
    assert ratio < 1.03


# ---- registration


@pytest.mark.slow
def test_head_is_aligned_to_the_t1w(finished, truth):
    marks = truth.table("desc-landmarks_stats")[[f"t1w_{axis}" for axis in "xyz"]].to_numpy(float)
    there = truth.table("acq-sodium_desc-landmarks_stats")
    expected = there[[f"sodium_{axis}" for axis in "xyz"]].to_numpy(float)
    path = Path(f"{stem(finished.out, '01')}from-sodium_to-T1w_mode-image_xfm.h5")
    error_mm = np.linalg.norm(move_points(marks, [path]) - expected, axis=1)
    # the demand, although the T1w has voxels of 3 mm here
    assert error_mm.max() < 1.0


@pytest.mark.slow
def test_quality_of_a_good_registration_lies_in_its_range(finished):
    quality = table(finished.out, "01", "desc-quality_stats").set_index("measure")
    for name in ("anatomy_overlap", "fluid_separation"):
        assert quality.loc[name, "value"] >= quality.loc[name, "low"]


@pytest.mark.slow
def test_image_without_a_t1w_is_mapped_in_its_space_and_on_its_proton_image(finished):
    folder = finished.folder("02") / "anat"
    assert Path(f"{stem(finished.out, '02')}desc-tsc_PDmap.nii.gz").is_file()
    assert not list(folder.glob("*_space-*PDmap*"))
    page = (finished.out / "sub-02.html").read_text()
    assert "mapped in its own space" in page
    quality = table(finished.out, "02", "desc-quality_stats").set_index("measure")["value"]
    assert quality["proton_overlap"] > 0.9


# ---- concentrations


@pytest.mark.slow
@pytest.mark.parametrize(
    ("region", "tissue", "tolerance"),
    # T1w of 3 mm: shares of thin tissue are blurred before they are blurred
    [("wm", "WM", 0.05), ("gm", "GM", 0.10), ("csf_ventricular", "CSF", 0.10)],
)
def test_corrected_sodium_of_tissues_is_that_of_the_phantom(
    finished, true_tissue, region, tissue, tolerance
):
    found = regions(finished.out, "01")[(region, "tsc_corrected")]
    assert_allclose(found, true_tissue[tissue], rtol=tolerance)


@pytest.mark.slow
def test_correction_brings_grey_matter_nearer_to_the_truth(finished, true_tissue):
    found = regions(finished.out, "01")
    errors = [
        abs(found[("gm", measure)] - true_tissue["GM"])
        for measure in ("tsc_corrected", "tsc_weighted")
    ]
    assert errors[0] < errors[1]


@pytest.mark.slow
def test_map_of_pure_white_matter_is_that_of_the_phantom(finished, truth):
    share = values(truth.path("acq-sodium_label-WM_probseg.nii.gz"))
    expected = values(truth.path("acq-sodium_desc-tsc_PDmap.nii.gz"))
    found = values(Path(f"{stem(finished.out, '01')}desc-tsc_PDmap.nii.gz"))
    pure = share > 0.98
    assert pure.sum() > 500
    # what blur brings in from grey matter and fluid raises it
    assert_allclose(found[pure].mean(), expected[pure].mean(), rtol=0.08)


@pytest.mark.slow
def test_maps_have_the_unit_of_a_concentration(finished):
    paths = list(finished.out.glob("sub-*/anat/*desc-tsc*_PDmap.json"))
    assert len(paths) >= 6
    for path in paths:
        assert json.loads(path.read_text())["Units"] == "mmol/L", path


@pytest.mark.slow
def test_smoothed_map_in_template_space_holds_tissue_alone(finished, true_tissue):
    tail = f"space-{TEMPLATE}_res-4_"
    smooth = values(Path(f"{stem(finished.out, '01')}{tail}desc-tscSm8_PDmap.nii.gz"))
    grey = values(Path(f"{stem(finished.out, '01')}{tail}label-GM_desc-sm8_probseg.nii.gz"))
    inside = smooth > 0
    assert smooth.shape == grey.shape
    # white matter is 38, grey 47, fluid 140: no voxel of a mean of the first two comes near it
    assert np.percentile(smooth[inside], 99) < 1.5 * true_tissue["GM"]
    assert_allclose(np.median(smooth[inside]), true_tissue[["WM", "GM"]].mean(), rtol=0.1)
    assert grey.max() <= 1.0


# ---- paper mode


@pytest.fixture(scope="module")
def paper(finished, app, tmp_path_factory) -> Path:
    """Output folder of the paper's method on the finished anatomy of sub-01."""
    folder = tmp_path_factory.mktemp("paper_sodium")
    out = Path(shutil.copytree(finished.out, folder / "out"))
    for path in (out / "sub-01" / "anat").glob("*acq-sodium*"):
        path.unlink()
    words = ("--mode", "paper", "--participant-label", "01", "--pipelines", "sodium")
    done = app.run(finished.raw, out, "-w", folder / "work", *words, "--n-procs", 1)
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.slow
def test_paper_mode_scales_by_the_mean_of_the_tubes_and_nothing_else(paper):
    tubes = table(paper, "01", "desc-tubes_stats")
    assert_allclose(tubes["signal_corrected"], tubes["signal_mean"])
    assert set(tubes["weight"]) == {1.0}
    assert set(tubes["intercept"]) == {0.0}


@pytest.mark.slow
def test_paper_mode_corrects_no_blur(paper):
    names = [path.name for path in (paper / "sub-01" / "anat").glob("*PDmap.nii.gz")]
    assert not [name for name in names if "Pvc" in name or "Tissue" in name]
    assert ("wm", "tsc_corrected") not in regions(paper, "01")


@pytest.mark.slow
def test_paper_mode_misses_white_matter_by_relaxation_recovery_and_blur(paper, true_tissue):
    """Decay and saturation (+3.6 %), tubes darkened by blur (+3 %), fluid and grey spilled in."""
    found = regions(paper, "01")[("wm", "tsc_mean")]
    assert 1.04 < found / true_tissue["WM"] < 1.20
