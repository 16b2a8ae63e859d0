"""The group level from the participants' maps to its page, as a user calls it."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from nilearn.image import resample_to_img
from numpy.testing import assert_allclose

from bids_alsmri.errors import ExitCode

pytestmark = pytest.mark.slow
ONE = ("--group-contrasts", "als-hc", "fast-hc", "--n-procs", "1")


@pytest.fixture(scope="module")
def finished(template_cohort, tmp_path_factory):
    cohort = template_cohort.copied_to(tmp_path_factory.mktemp("finished") / "cohort")
    assert cohort.run(*ONE) == 0
    return cohort


def results(cohort) -> dict[str, bytes]:
    folders = [cohort.out / "group", *cohort.out.glob("tpl-*")]
    return {
        path.relative_to(cohort.out).as_posix(): path.read_bytes()
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def t_map(cohort, contrast: str, name: str = "faSkeleton", stat: str = "t") -> Path:
    (path,) = (cohort.out / "group").glob(
        f"*_contrast-{contrast}_stat-{stat}_desc-{name}_statmap.nii.gz"
    )
    return path


def test_names_are_those_of_derivatives(finished):
    found = set(results(finished))
    stem = "group/space-MNI152NLin2009aSym_res-4_contrast-{}_stat-{}_desc-{}Skeleton_statmap.nii.gz"
    for name in ("fa", "md"):
        for contrast in ("als", "fast"):
            for stat in ("t", "d", "g", "difference", "percent", "tfce", "p", "pFwe", "pFweT"):
                assert stem.format(f"{contrast}GtHc", stat, name) in found
            for stat in ("tfce", "p", "pFwe", "pFweT"):
                assert stem.format(f"{contrast}LtHc", stat, name) in found
    assert "tpl-MNI152NLin2009aSym/dwi/tpl-MNI152NLin2009aSym_res-4_desc-mean_FA.nii.gz" in found
    for table in ("labels", "participation", "demographics", "quality", "qualityTests"):
        assert f"group/desc-{table}_stats.tsv" in found
    assert "group/contrast-alsVsHc_desc-faSkeletonClusters_stats.tsv" in found
    assert "group/desc-faSkeletonRegions_stats.tsv" in found
    folders = {path.name for path in finished.out.iterdir() if path.is_dir()}
    people = {f"sub-0{n}" for n in range(1, 10)}
    assert folders == {"group", "logs", "tpl-MNI152NLin2009aSym", *people}


@pytest.mark.parametrize("newest_schema", [False, True])
def test_validator_finds_no_error(finished, validator_errors, newest_schema):
    assert validator_errors(finished.out, newest_schema=newest_schema) == []


def test_difference_is_that_of_the_groups_projected_maps(finished):
    # the work folder holds what the maps were made from
    stacks = list((finished.root / "work").rglob("skeleton_stack_fa/stack.npy"))
    values = np.load(stacks[0])
    people = pd.read_csv(finished.raw / "participants.tsv", sep="\t")
    is_als = (people["group"] == "als").to_numpy()
    flow = pd.read_csv(finished.out / "group" / "desc-participation_stats.tsv", sep="\t")
    order = flow.loc[flow["is_included"], "participant_id"].drop_duplicates()
    first = is_als[[list(people["participant_id"]).index(who) for who in order]]
    difference = values[first].mean(axis=0) - values[~first].mean(axis=0)
    mask = nib.load(next((finished.out / "tpl-MNI152NLin2009aSym").rglob("*skeleton_mask.nii.gz")))
    image = nib.load(t_map(finished, "alsGtHc", stat="difference"))
    found = image.get_fdata()[mask.get_fdata() > 0]
    assert_allclose(found, difference, atol=1e-6)


def test_sidecar_tells_maps_settings_and_relabellings(finished):
    path = t_map(finished, "alsGtHc", "mdSkeleton", "difference")
    content = json.loads(Path(str(path).replace(".nii.gz", ".json")).read_text())
    assert content["Units"] == "mm2/s"
    assert content["NumberOfRelabellings"] == 60
    assert content["Settings"]["seed"] == 20221
    assert len(content["Sources"]) == 9
    assert all("param-md" in source for source in content["Sources"])


def test_page_shows_every_comparison_and_needs_nothing_else(finished):
    text = (finished.out / "group.html").read_text()
    for words in (
        "als − hc",
        "fast − hc",
        "FA, skeleton",
        "MD, skeleton",
        "FA ↓ and MD ↑, skeleton",
    ):
        assert words in text
    assert "Demographics" in text
    assert not re.search(r'(src|href)="https?://(?!doi\.org)', text)
    # skeleton, individuals, and the effect of each comparison, whether significant or not
    assert text.count("data:image/webp") >= 2 + 4


def test_second_run_and_other_numbers_of_processes_give_the_same_bytes(finished):
    before = results(finished)
    blocks = {p: p.stat().st_mtime_ns for p in (finished.root / "work").rglob("null.npz")}
    assert finished.run(*ONE) == 0
    assert results(finished) == before
    assert {p: p.stat().st_mtime_ns for p in blocks} == blocks  # no relabelling was done again
    shutil.rmtree(finished.root / "work")
    shutil.rmtree(finished.out / "group")
    flags = [*ONE[:-1], "2", "--group-permutations-per-job", "60"]
    assert finished.run(*flags) == 0
    again = results(finished)
    # settings stand in the sidecars
    different = {name for name in before if before[name] != again[name]}
    assert all(name.endswith(".json") for name in different)
    assert set(again) == set(before)


def test_killed_run_keeps_its_finished_blocks_and_ends_alike(finished, cohort):
    command = [sys.executable, "-m", "bids_alsmri", *cohort.cheap_words(*ONE)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    work, end = cohort.root / "work", time.monotonic() + 300
    while time.monotonic() < end and not list(work.rglob("*permute_25/result_*.pklz")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    # the kill may fall between a step's file and the record that it has ended
    ended = [path.parent for path in work.rglob("*permute_0/result_*.pklz")]
    kept = {folder / "null.npz": (folder / "null.npz").stat().st_mtime_ns for folder in ended}
    assert kept
    assert cohort.run(*ONE) == 0
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    maps = {n: b for n, b in results(finished).items() if n.endswith((".nii.gz", ".tsv"))}
    found = results(cohort)
    assert {n: found[n] for n in maps} == maps


def spoil(cohort, who: str, values) -> Path:
    path = next((cohort.out / who).rglob("*space-T1w_model-tensor_param-fa_dwimap.nii.gz"))
    image = nib.load(path)
    data = np.asarray(image.dataobj).copy()
    nib.save(nib.Nifti1Image(values(data), image.affine, image.header), path)
    return path


def test_participant_without_values_is_named_and_the_page_written(cohort, capsys):
    spoil(cohort, "sub-04", lambda data: np.zeros_like(data))
    assert cohort.run(*ONE) == ExitCode.BAD_DATA
    assert "sub-04" in capsys.readouterr().err
    text = (cohort.out / "group.html").read_text()
    assert "sub-04" in text
    assert "failed" in text
    assert not list((cohort.out / "group").glob("*statmap.nii.gz"))


def test_maps_of_another_grid_are_refused_by_name(cohort, capsys):
    path = spoil(cohort, "sub-05", lambda data: data[:-1])
    assert cohort.run(*ONE) == ExitCode.BAD_DATA
    error = capsys.readouterr().err
    assert path.name in error
    assert "expected one grid" in error


def test_group_level_opens_no_network_socket(cohort):
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("only root may take the network away")
    flags = cohort.cheap_words("--group-contrasts", "als-hc", "--n-procs", "1")
    command = ["unshare", "-n", sys.executable, "-m", "bids_alsmri", *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_maps_are_corrected_and_combined_together(cohort, validator_errors):
    flags = (
        *("--group-contrasts", "als-hc", "fast-hc", "--n-procs", "1"),
        *("--group-model", "all_groups", "--group-correct-across", "contrasts"),
        *("--group-combinations", "fa-md+", "--group-variance", "unequal"),
        *("--group-relabelling", "sign_flips"),
    )
    assert cohort.run(*flags) == 0
    inside = nib.load(next((cohort.out / "tpl-MNI152NLin2009aSym").rglob("*skeleton_mask.nii.gz")))
    inside = inside.get_fdata() > 0
    for contrast, name in itertools.product(("alsGtHc", "fastLtHc"), ("faSkeleton", "mdSkeleton")):
        alone, together = (
            nib.load(t_map(cohort, contrast, name, stat)).get_fdata()[inside]
            for stat in ("pFwe", "pFweAcross")
        )
        # a family of more maps can only be harder to pass
        assert np.all(together >= alone - 1e-6)
        assert np.any(together < 1.0)
    sidecar = t_map(cohort, "alsGtHc", "faSkeleton", "pFweAcross").with_suffix("").with_suffix("")
    assert json.loads(sidecar.with_suffix(".json").read_text())["MapsTogether"] == 4
    for stat in ("pFwe", "pFweReverse"):
        path = t_map(cohort, "alsVsHc", "combinedFaDownMdUp", stat)
        p = nib.load(path).get_fdata()[inside]
        assert 1 / 60 <= p.min() < 1.0
    assert validator_errors(cohort.out, newest_schema=False) == []
    text = (cohort.out / "group.html").read_text()
    assert "Corrected for 4 tests in either direction" in text
    assert "change in at least one map as declared" in text
    assert "flips of signs" in text


def test_change_of_a_group_that_grows_worse_is_found_and_told_per_month(
    visited_cohort, validator_errors
):
    flags = ("--group-visit", "slope", "--group-contrasts", "fast-0", "fast-hc", "--n-procs", "1")
    assert visited_cohort.run(*flags) == 0
    path = t_map(visited_cohort, "fastGt0", "mdSkeleton")
    content = json.loads(path.with_suffix("").with_suffix(".json").read_text())
    assert content["NumberOfRelabellings"] == 60
    assert content["DegreesOfFreedom"] == 5
    slope = t_map(visited_cohort, "fastGt0", "mdSkeleton", "difference")
    sidecar = json.loads(slope.with_suffix("").with_suffix(".json").read_text())
    assert sidecar["Units"] == "mm2/s/month"
    # truth: half of the planted difference in 6 months, where it was planted
    truth = next(
        (visited_cohort.raw / "derivatives").rglob("*desc-mdFastDifference_statmap.nii.gz")
    )
    planted = resample_to_img(truth, slope, interpolation="nearest").get_fdata()
    skeleton = next((visited_cohort.out / "tpl-MNI152NLin2009aSym").rglob("*skeleton_mask.nii.gz"))
    where = (nib.load(skeleton).get_fdata() > 0) & (planted != 0)
    found = nib.load(slope).get_fdata()[where].mean()
    assert found == pytest.approx(planted[where].mean() / 12, rel=0.35)  # of 6 people
    assert not list((visited_cohort.out / "group").glob("*fastGt0_stat-percent*"))
    assert validator_errors(visited_cohort.out, newest_schema=False) == []
    text = (visited_cohort.out / "group.html").read_text()
    assert "fast − 0" in text
    assert "flips of the signs" in text


def test_sodium_and_diffusion_are_looked_at_together(cohort, validator_errors):
    # one patient has no sodium: FA is compared once of all, and once of those who have both
    (record,) = (cohort.out / "logs" / "scans").glob("sub-04_*sodium.json")
    record.unlink()
    flags = (
        *("--group-contrasts", "als-hc", "--n-procs", "1", "--group-maps", "fa", "md", "tsc"),
        *("--group-overlaps", "tsc+fa-", "--group-voxelwise-covariates", "gm"),
    )
    assert cohort.run(*flags) == 0
    freedom = {
        name: json.loads(
            t_map(cohort, "alsGtHc", name).with_suffix("").with_suffix(".json").read_text()
        )["DegreesOfFreedom"]
        for name in (
            *("faSkeleton", "faSkeletonShared", "tscSkeleton", "tscVolume"),
            *("tscSkeletonAdjustedGm", "tscVolumeAdjustedGm"),
        )
    }
    assert freedom == {
        "faSkeleton": 7,
        "faSkeletonShared": 6,
        "tscSkeleton": 6,
        "tscVolume": 6,
        "tscSkeletonAdjustedGm": 5,
        "tscVolumeAdjustedGm": 5,
    }
    assert_adjusted_as_by_regression(cohort)
    both = nib.load(t_map(cohort, "alsVsHc", "overlapTscUpFaDownSkeleton", "pFwe"))
    mask = nib.load(next((cohort.out / "tpl-MNI152NLin2009aSym").rglob("*skeleton_mask.nii.gz")))
    inside = mask.get_fdata() > 0
    tsc, fa = (
        nib.load(t_map(cohort, f"als{way}Hc", name, "pFwe")).get_fdata()
        for way, name in (("Gt", "tscSkeleton"), ("Lt", "faSkeletonShared"))
    )
    assert_allclose(both.get_fdata()[inside], np.maximum(tsc, fa)[inside], rtol=1e-6)
    both = nib.load(t_map(cohort, "alsVsHc", "overlapTscAdjustedGmUpFaDownSkeleton", "pFwe"))
    tsc = nib.load(t_map(cohort, "alsGtHc", "tscSkeletonAdjustedGm", "pFwe")).get_fdata()
    assert_allclose(both.get_fdata()[inside], np.maximum(tsc, fa)[inside], rtol=1e-6)
    for tsc in ("Tsc", "TscAdjustedGm"):
        combined = nib.load(t_map(cohort, "alsVsHc", f"combined{tsc}UpFaDownMdUp", "pFwe"))
        assert combined.get_fdata()[inside].min() < 1.0
    # the map at the skeleton is that in template space, whose voxels are the skeleton's here
    for step, name in (
        ("stack", "desc-tscSm8_PDmap"),
        ("covariate_gm", "label-GM_desc-sm8_probseg"),
    ):
        stack = np.load(next((cohort.root / "work").rglob(f"*skeleton*{step}/stack.npy")))
        first = next((cohort.out / "sub-01").rglob(f"*{name}.nii.gz"))
        assert_allclose(stack[0], nib.load(first).get_fdata()[inside], rtol=1e-5)
    assert validator_errors(cohort.out, newest_schema=False) == []
    text = (cohort.out / "group.html").read_text()
    assert "TSC ↑ and FA ↓, skeleton" in text
    assert "TSC of single participants" in text
    assert "TSC, volume" in text
    assert "TSC adjusted for GM ↑ and FA ↓, skeleton" in text
    assert "Differences are those at equal GM" in text
    assert re.search(r"Adjusted for GM, \d+ voxels above .*; without it, \d+ voxels above", text)
    assert "adjusted in every voxel (TSC for GM)" in text


def assert_adjusted_as_by_regression(cohort):
    """t and difference in a voxel of the motor cortex are those of statsmodels."""
    people = pd.read_csv(cohort.raw / "participants.tsv", sep="\t").set_index("participant_id")
    paths = sorted(cohort.out.rglob("*desc-tscSm8_PDmap.nii.gz"))
    paths = [path for path in paths if "sub-04" not in path.name]
    affine = nib.load(paths[0]).affine
    voxel = tuple(np.round(np.linalg.inv(affine) @ [-36, -20, 56, 1])[:3].astype(int))
    values = [
        [nib.load(Path(str(path).replace(*names))).get_fdata()[voxel] for path in paths]
        for names in (("", ""), ("desc-tscSm8_PDmap", "label-GM_desc-sm8_probseg"))
    ]
    is_patient = [people.loc[path.name.split("_")[0], "group"] == "als" for path in paths]
    fit = sm.OLS(values[0], sm.add_constant(np.column_stack([is_patient, values[1]]))).fit()
    for stat, expected in (("t", fit.tvalues[1]), ("difference", fit.params[1])):
        found = nib.load(t_map(cohort, "alsGtHc", "tscVolumeAdjustedGm", stat)).get_fdata()[voxel]
        assert found == pytest.approx(expected, rel=1e-3)  # maps in single precision


def test_maps_of_contrasts_that_are_no_longer_asked_for_go(finished):
    assert [name for name in results(finished) if "contrast-fast" in name]
    assert finished.run("--group-contrasts", "als-hc", "--n-procs", "1") == 0
    found = results(finished)
    assert not [name for name in found if "contrast-fast" in name]
    assert [name for name in found if "contrast-als" in name]
    assert "group/desc-labels_stats.tsv" in found
