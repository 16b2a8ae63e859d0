from __future__ import annotations

import json
import re

import pytest

from bids_alsmri.cli import parse
from bids_alsmri.planning import describe, find_plan

DWI = ("_dwi.nii.gz", "_dwi.bval", "_dwi.bvec")


@pytest.fixture
def plan_of(tmp_path):
    """Plan for a dataset of one participant whose files hold some text."""

    def make(names, *words):
        root = tmp_path / "raw"
        for name in names:
            session = re.search(r"ses-\w+?(?=_)", name)[0]
            kind = "dwi" if "_dwi" in name else "anat"
            path = root / "sub-01" / session / kind / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("content")
        description = {"Name": "trial", "BIDSVersion": "1.10.0"}
        (root / "dataset_description.json").write_text(json.dumps(description))
        settings = parse([str(root), str(tmp_path / "out"), "participant", *words])
        return find_plan(settings), settings

    return make


def t1w(session, entities=""):
    return [f"sub-01_ses-{session}{entities}_T1w.nii.gz"]


def dwi(session):
    return [f"sub-01_ses-{session}{end}" for end in DWI]


def built_on(plan):
    """Session of each series, and the session of the T1w that it builds on."""
    return {
        job.scan.session: next((scan.session for scan in job.upstream.values()), None)
        for job in plan.jobs
        if job.pipeline.name == "diffusion"
    }


def test_series_builds_on_the_t1w_of_its_own_session(plan_of):
    names = t1w("m00") + dwi("m00") + t1w("m12") + dwi("m12")
    plan, _ = plan_of(names)
    assert built_on(plan) == {"m00": "m00", "m12": "m12"}
    assert all(job.scan.notes == () for job in plan.jobs)


@pytest.mark.parametrize("words", [(), ("--session-label", "m12")])
def test_t1w_of_another_session_is_used_whatever_sessions_are_asked_for(plan_of, words):
    plan, _ = plan_of(t1w("m00") + dwi("m12"), *words)
    assert built_on(plan) == {"m12": "m00"}
    assert [job.pipeline.name for job in plan.jobs] == ["anatomical", "diffusion"]


def test_plan_says_which_session_lends_its_t1w(plan_of):
    plan, settings = plan_of(t1w("m00") + dwi("m12"))
    assert "ses-m00 lends its T1-weighted image" in describe(plan, settings)


def test_plan_says_that_there_is_no_t1w(plan_of):
    plan, settings = plan_of(dwi("m12"))
    assert "no T1-weighted image: the FA was registered" in describe(plan, settings)


TWO_T1W = t1w("m00", "_acq-a") + t1w("m00", "_acq-b")


@pytest.mark.parametrize("session", ["m00", "m12"])
@pytest.mark.parametrize("words", [(), ("--session-label",)])
def test_series_is_not_processed_without_its_faulty_t1w(plan_of, session, words):
    plan, _ = plan_of(TWO_T1W + dwi(session), *words, *((session,) if words else ()))
    assert built_on(plan) == {}
    (skip,) = [skip for skip in plan.skips if skip.pipeline == "diffusion" and skip.is_error]
    assert "2 files fit the input t1w" in skip.reason


def test_t1w_of_another_session_does_not_stand_for_a_faulty_one(plan_of):
    plan, _ = plan_of(TWO_T1W + dwi("m00") + t1w("m12") + dwi("m12"))
    assert built_on(plan) == {"m12": "m12"}


def test_good_t1w_is_lent_where_another_session_has_a_faulty_one(plan_of):
    plan, _ = plan_of(TWO_T1W + t1w("m06") + dwi("m12"))
    assert built_on(plan) == {"m12": "m06"}


@pytest.mark.parametrize("is_misnamed", [False, True])
def test_filter_that_the_reason_suggests_lets_the_series_go_without_t1w(
    plan_of, tmp_path, is_misnamed
):
    plan, _ = plan_of(TWO_T1W + dwi("m00"))
    if is_misnamed:
        first = next((tmp_path / "raw").rglob("*acq-a_T1w.nii.gz"))
        first.rename(first.with_name("sub-02_ses-m00_T1w.nii.gz"))
        plan, _ = plan_of(t1w("m00", "_acq-b") + dwi("m00"))
    (reason,) = [skip.reason for skip in plan.skips if skip.pipeline == "diffusion"]
    (tmp_path / "filter.json").write_text(re.search(r"without it by [^{]*?(\{.*?\}\})", reason)[1])
    assert "--participant-label 01 and" in reason
    plan, _ = plan_of(dwi("m00"), "--bids-filter-file", str(tmp_path / "filter.json"))
    assert built_on(plan) == {"m00": None}
    assert not any(skip.is_error for skip in plan.skips)


def test_line_that_fetches_a_t1w_can_be_copied_from_the_reason_of_its_series(plan_of, tmp_path):
    root = tmp_path / "raw"
    path = root / "sub-01/ses-m00/anat/sub-01_ses-m00_T1w.nii.gz"
    path.parent.mkdir(parents=True)
    path.symlink_to("../../../.git/annex/objects/x/key")
    plan, _ = plan_of(dwi("m00"))
    (reason,) = [skip.reason for skip in plan.skips if skip.pipeline == "diffusion"]
    assert reason.splitlines()[1:] == [f"  datalad get -d {root} {path}"]


def test_series_is_not_processed_without_a_t1w_that_is_a_folder(plan_of, tmp_path):
    (tmp_path / "raw/sub-01/ses-m00/anat/sub-01_ses-m00_T1w.nii.gz").mkdir(parents=True)
    plan, _ = plan_of(dwi("m00"))
    assert built_on(plan) == {}
    faults = {skip.pipeline: skip.reason for skip in plan.skips if skip.is_error}
    assert set(faults) == {"anatomical", "diffusion"}
    assert all("sub-01_ses-m00_T1w.nii.gz: is a folder" in reason for reason in faults.values())
