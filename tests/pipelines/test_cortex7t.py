"""The pipeline of the cortex at 7T finds what the phantom knows, as far as a coarse slab tells."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from bids_alsmri.interfaces.registration import read_linear

AREAS = {
    *((region, side) for region in ("foot", "leg", "hand", "face") for side in ("left", "right")),
    ("precuneus", "left"),
}


def stem(folder: Path, label: str) -> str:
    return f"{folder}/sub-{label}/anat/sub-{label}_acq-M1_"


@pytest.mark.slow
@pytest.mark.parametrize("label", ["01", "02"])
def test_rate_of_decay_of_white_matter_is_the_true_one(finished, label):
    truth = finished.raw / "derivatives" / "phantom"
    rate = nib.load(f"{stem(finished.out, label)}desc-fit_R2starmap.nii.gz")
    time = nib.load(f"{stem(finished.out, label)}desc-fit_T2starmap.nii.gz")
    distance = nib.load(f"{stem(truth, label)}desc-distance_statmap.nii.gz")
    rows = pd.read_csv(f"{stem(truth, label)}desc-layers_stats.tsv", sep="\t").set_index("measure")
    # the app puts slices last: points of the world are compared, not voxels
    where = np.argwhere(np.asarray(distance.dataobj) < -3.0)
    voxels = nib.affines.apply_affine(np.linalg.inv(rate.affine) @ distance.affine, where)
    index = tuple(np.rint(voxels).astype(int).T)
    found, found_s = (np.asarray(image.dataobj)[index] for image in (rate, time))
    assert len(found) > 200
    # SNR 20 at two echoes: 7 per second in a voxel, less than one in the median of all
    assert abs(np.median(found) - rows.loc["r2s_white", "value"]) < 2.0
    told = found > 0
    np.testing.assert_allclose(found[told] * found_s[told], 1.0, rtol=1e-4)


@pytest.mark.slow
def test_slab_is_brought_to_the_t1w(finished, truth):
    to_anatomy = read_linear(Path(f"{stem(finished.out, '01')}from-slab_to-T1w_mode-image_xfm.h5"))
    pose = np.eye(4)
    pose[:3] = truth.table("acq-M1_desc-pose_stats").to_numpy(float)
    marks = truth.table("acq-M1_desc-landmarks_stats")
    hands = marks[marks["name"].str.startswith("hand_knob")]
    in_slab = hands[["slab_x", "slab_y", "slab_z"]].to_numpy(float)
    in_t1w = nib.affines.apply_affine(np.linalg.inv(pose), in_slab)
    error_mm = np.linalg.norm(nib.affines.apply_affine(to_anatomy, in_t1w) - in_slab, axis=1)
    assert error_mm.max() < 3.0  # a voxel of this T1w; a fine one gave 1 mm


@pytest.mark.slow
def test_table_has_every_area_with_values_or_a_reason(finished):
    table = pd.read_csv(f"{stem(finished.out, '01')}desc-layers_stats.tsv", sep="\t")
    assert set(zip(table["region"], table["side"], strict=True)) == AREAS
    missing = table[table["value"].isna() & table["measure"].eq("deep_thickness")]
    assert missing["note"].notna().all()
    counts = table[table["measure"].str.startswith("profiles_")]
    assert (counts["value"] >= 0).all()
    labels = nib.load(f"{stem(finished.out, '01')}seg-somatotopy_dseg.nii.gz")
    names = pd.read_csv(f"{stem(finished.out, '01')}seg-somatotopy_dseg.tsv", sep="\t")
    assert set(np.unique(np.asarray(labels.dataobj))) <= {0, *names["index"]}


@pytest.mark.slow
def test_what_was_drawn_is_what_is_measured_without_a_t1w(finished):
    given = finished.raw / "derivatives" / "reader1"
    # the ribbon comes back as it was drawn, but for the rounding of its corners
    drawn = nib.load(f"{stem(given, '02')}desc-ribbon_dseg.nii.gz")
    found = nib.load(f"{stem(finished.out, '02')}desc-layers_dseg.nii.gz")
    where = np.argwhere(np.asarray(drawn.dataobj) > 0)
    to_found = np.linalg.inv(found.affine) @ drawn.affine
    index = tuple(np.rint(nib.affines.apply_affine(to_found, where)).astype(int).T)
    same = np.asarray(found.dataobj)[index] == np.asarray(drawn.dataobj)[tuple(where.T)]
    # voxels are as large as the cortex is thick
    assert same.mean() > 0.8
    table = pd.read_csv(f"{stem(finished.out, '02')}desc-layers_stats.tsv", sep="\t")
    value = table.set_index(["region", "side", "measure"])["value"].sort_index()
    assert value["hand", "left", "drawn_thickness"] == pytest.approx(9.0, abs=1e-3)
    for side in ("left", "right"):
        n_seen = value.loc["hand", side].filter(like="profiles_").sum()
        assert n_seen > 20
    others = table[table["region"].eq("foot") & table["measure"].eq("deep_thickness")]
    assert others["note"].str.contains("outside the slab").all()
    record = json.loads(Path(f"{stem(finished.out, '02')}desc-quality_stats.json").read_text())
    notes = " ".join(record["Notes"])
    assert "desc-ribbon_dseg.nii.gz (labels drawn)" in notes
    assert "seg-somatotopy_dseg.nii.gz (labels drawn)" in notes


@pytest.mark.slow
def test_without_a_t1w_rates_are_mapped_and_the_report_says_what_is_lacking(finished):
    record = json.loads(Path(f"{stem(finished.out, '02')}desc-fit_R2starmap.json").read_text())
    assert record["Units"] == "1/s"
    page = (finished.out / "sub-02.html").read_text()
    assert "no area is measured unless both the ribbon and the areas were drawn" in page
    assert "taken from sub-02_acq-M1_desc-ribbon_dseg.nii.gz" in page


@pytest.mark.slow
def test_quality_tells_registration_coverage_and_ghosts(finished):
    table = pd.read_csv(f"{stem(finished.out, '01')}desc-quality_stats.tsv", sep="\t")
    value = table.set_index("measure")["value"]
    assert 0 < value["registration_misfit"] < 1
    assert value["registration_move"] < 5  # the phantom moves by 3 mm at most
    assert 1 <= value["areas_in_view"] <= 8
    record = json.loads(Path(f"{stem(finished.out, '01')}desc-quality_stats.json").read_text())
    # the field of view of the slab may hold no air beside the head
    is_missing = any("ghosts of movement were not" in note for note in record["Notes"])
    assert is_missing != {"ghosts_first_echo", "ghosts_last_echo"}.issubset(table["measure"])
