from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.testing import assert_allclose

from bids_alsmri.errors import SettingsError
from bids_alsmri.phantom.__main__ import main
from bids_alsmri.phantom.cohort import draw_cohort, stream
from bids_alsmri.phantom.dataset import write_cohort
from bids_alsmri.phantom.deformation import draw_deformation
from bids_alsmri.phantom.records import PhantomSettings
from bids_alsmri.phantom.truth import folder

SMALL = [
    *("--dwi-mm", "8", "--t1w-mm", "6", "--n-directions", "6", "--dropout-slices", "2"),
    *("--sodium-mm", "6", "--sodium-resolution-mm", "6"),
]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("phantom") / "raw"
    code = main([str(out), "--participants", "4", "--seed", "9", "--sessions", "m00", *SMALL])
    assert code == 0
    return out


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize("newest_schema", [False, True])
@pytest.mark.parametrize("part", ["raw", "truth"])
def test_validator_finds_no_error(cohort, part, newest_schema, validator_errors):
    root = cohort if part == "raw" else folder(cohort)
    assert validator_errors(root, newest_schema=newest_schema) == []


@pytest.mark.slow
def test_validator_run_can_find_an_error(cohort, tmp_path, validator_errors):
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(cohort, broken)
    (broken / "dataset_description.json").unlink()
    assert validator_errors(broken, newest_schema=False) != []


@pytest.mark.slow
def test_same_seed_writes_the_same_bytes(cohort, tmp_path):
    again = tmp_path / "again"
    main([str(again), "--participants", "4", "--seed", "9", "--sessions", "m00", *SMALL])
    assert contents(again) == contents(cohort)


@pytest.mark.slow
def test_a_participant_is_the_same_in_a_smaller_cohort(cohort, tmp_path):
    small = tmp_path / "small"
    main([str(small), "--participants", "1", "--seed", "9", "--sessions", "m00", *SMALL])
    assert contents(small / "sub-01") == contents(cohort / "sub-01")


@pytest.mark.slow
def test_a_further_modality_changes_no_byte_of_the_others(cohort, tmp_path):
    few = tmp_path / "few"
    words = ["--participants", "1", "--seed", "9", "--sessions", "m00", "--modalities", "anat,dwi"]
    main([str(few), *words, *SMALL])
    all_three = contents(cohort / "sub-01") | contents(folder(cohort) / "sub-01")
    without_sodium = {n: b for n, b in all_three.items() if "acq-sodium" not in n}
    assert contents(few / "sub-01") | contents(folder(few) / "sub-01") == without_sodium
    assert len(without_sodium) < len(all_three)


@pytest.mark.slow
def test_another_seed_changes_the_images(cohort, tmp_path):
    other = tmp_path / "other"
    main([str(other), "--participants", "1", "--seed", "10", "--sessions", "m00", *SMALL])
    name = "sub-01/ses-m00/anat/sub-01_ses-m00_T1w.nii.gz"
    assert contents(other)[name] != contents(cohort)[name]


@pytest.mark.slow
def test_headers_hold_millimetres_seconds_and_equal_forms(cohort):
    image = nib.load(next(cohort.glob("sub-01/ses-m00/dwi/*_dwi.nii.gz")))
    assert image.header.get_xyzt_units() == ("mm", "sec")
    assert_allclose(image.header.get_qform(), image.header.get_sform(), atol=1e-3)  # mm
    assert image.header["sform_code"] == image.header["qform_code"] == 1
    sidecar = json.loads(next(cohort.glob("sub-01/ses-m00/dwi/*_dwi.json")).read_text())
    assert_allclose(image.header.get_zooms()[3], sidecar["RepetitionTime"], rtol=1e-6)
    assert len(sidecar["SliceTiming"]) == image.shape[2]
    assert sidecar["EchoTime"] < 1  # seconds


@pytest.mark.slow
def test_displacement_fields_lead_to_the_template_and_back(cohort):
    truth = folder(cohort) / "sub-02" / "ses-m00" / "anat"
    person = draw_cohort(("hc", "fast"), 9)[1]
    shape = draw_deformation(stream(9, person, "shape"))
    for name, move in (
        ("from-T1w_to-MNI152NLin2009aSym", shape.to_template),
        ("from-MNI152NLin2009aSym_to-T1w", shape.from_template),
    ):
        image = nib.load(next(truth.glob(f"*_{name}_*.nii.gz")))
        for voxel in ((20, 30, 40), (10, 50, 25)):
            world = (image.affine @ (*voxel, 1))[:3]
            shift = np.asarray(image.dataobj)[(*voxel, 0)]
            assert_allclose(world + shift, move(world[None])[0], atol=1e-3)  # mm, float32


@pytest.mark.slow
def test_dropouts_darken_the_slices_that_the_truth_names(cohort):
    truth = folder(cohort) / "sub-01" / "ses-m00" / "dwi"
    rows = next(truth.glob("*dropouts_stats.tsv")).read_text().splitlines()[1:]
    assert len(rows) == 2
    image = np.asarray(nib.load(next(cohort.glob("sub-01/ses-m00/dwi/*_dwi.nii.gz"))).dataobj)
    for row in rows:
        volume, at, kept = (float(value) for value in row.split("\t"))
        level = np.percentile(image[..., int(volume)], 90, axis=(0, 1))
        neighbours = (level[int(at) - 1] + level[int(at) + 1]) / 2
        # noise floor and anatomy change from slice to slice; kept is at most 0.6
        assert level[int(at)] < 0.85 * neighbours, kept


@pytest.mark.slow
def test_landmarks_of_t1w_and_dwi_differ_by_the_pose(cohort):
    truth = folder(cohort) / "sub-01" / "ses-m00"

    def table(pattern):
        lines = next(truth.glob(pattern)).read_text().splitlines()
        return [line.split("\t") for line in lines[1:]]

    pose = np.array(table("dwi/*pose_stats.tsv"), dtype=float)
    t1w = np.array([r[4:7] for r in table("anat/*m00_desc-landmarks_stats.tsv")], dtype=float)
    dwi = np.array([r[1:4] for r in table("dwi/*landmarks_stats.tsv")], dtype=float)
    assert_allclose(t1w @ pose[:, :3].T + pose[:, 3], dwi, atol=1e-3)  # mm, rounded tables


def test_a_folder_with_files_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(SettingsError, match="is not an empty folder; give a new one"):
        write_cohort(tmp_path, (), PhantomSettings())


def test_unknown_modality_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="modality pet is not simulated; choose from anat, dwi"):
        write_cohort(tmp_path / "x", (), PhantomSettings(modalities=("pet",)))


def test_usage_errors_end_with_exit_code_64(tmp_path):
    assert main([str(tmp_path / "x"), "--participants", "1", "--snr", "-1"]) == 64
    assert main([str(tmp_path / "x")]) == 64
    assert main([str(tmp_path / "x"), "--no-such-flag"]) == 64
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
def test_brain_lies_where_the_pose_takes_it(cohort):
    truth = folder(cohort) / "sub-03" / "ses-m00"
    lines = next(truth.glob("dwi/*pose_stats.tsv")).read_text().splitlines()[1:]
    pose = np.array([line.split("\t") for line in lines], dtype=float)
    middles = []
    for name in ("anat/*m00_desc-brain_mask.nii.gz", "dwi/*desc-brain_mask.nii.gz"):
        image = nib.load(next(truth.glob(name)))
        voxels = np.argwhere(np.asarray(image.dataobj) > 0)
        middles.append(nib.affines.apply_affine(image.affine, voxels.mean(0)))
    moved = pose[:, :3] @ middles[0] + pose[:, 3]
    assert np.linalg.norm(moved - middles[0]) > 0.5  # mm; otherwise the test shows nothing
    assert_allclose(middles[1], moved, atol=0.3)  # mm; masks of 6 and 8 mm voxels
