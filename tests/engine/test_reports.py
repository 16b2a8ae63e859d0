"""Pages of the toy pipelines: what a reader sees after several runs."""

from __future__ import annotations

import json
import re

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture
def visits(tmp_path):
    """Dataset of one participant with two sessions."""
    root = tmp_path / "raw"
    for session in ("a", "b"):
        path = root / "sub-s01" / f"ses-{session}" / "anat" / f"sub-s01_ses-{session}_T1w.nii.gz"
        path.parent.mkdir(parents=True)
        path.write_text("1 2 3")
    description = {"Name": "toy", "BIDSVersion": "1.10.0"}
    (root / "dataset_description.json").write_text(json.dumps(description))
    return root


def shown(toy, label="s01"):
    """Badge of every section of a page, by pipeline and scan."""
    text = (toy.folder / "out" / f"sub-{label}.html").read_text()
    found = re.findall(
        r"<tr><td>(\w+) toy</td>.*?<a [^>]*>([^<]*)</a></th>\s*<td><span class=\"badge (\w+)",
        text,
    )
    return {(pipeline, scan): status for pipeline, scan, status in found}


def run(toy, dataset, *words, code=0):
    done = toy.run(dataset, "out", "participant", "--n-procs", 1, *words)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_page_keeps_other_sessions_and_pipelines(toy, visits):
    run(toy, visits, "--session-label", "a")
    run(toy, visits, "--session-label", "b", "--pipelines", "first")
    assert shown(toy) == {
        ("First", "sub-s01 ses-a"): "done",
        ("Second", "sub-s01 ses-a"): "done",
        ("First", "sub-s01 ses-b"): "done",
    }
    page = (toy.folder / "out" / "sub-s01.html").read_text()
    assert page.count("of the run of 20") == 4  # two sections, in the overview and above each
    assert page.count("Numbers were multiplied") == 1  # one text stands for both sessions


def test_run_that_found_everything_done_leaves_the_page(toy, visits):
    run(toy, visits)
    page = toy.folder / "out" / "sub-s01.html"
    before = page.read_bytes()
    run(toy, visits)
    run(toy, visits, "--session-label", "a")
    assert page.read_bytes() == before


def test_fault_found_after_a_good_run_reaches_the_page_and_leaves_it_when_mended(toy, visits):
    image = visits / "sub-s01" / "ses-a" / "anat" / "sub-s01_ses-a_T1w.nii.gz"
    run(toy, visits)
    image.write_text("")
    run(toy, visits, code=1)
    assert shown(toy)["First", "sub-s01 ses-a"] == "failed"
    assert shown(toy)["First", "sub-s01 ses-b"] == "reused"
    assert "results of an earlier run are still" in (toy.folder / "out/sub-s01.html").read_text()
    image.write_text("1 2 3")
    run(toy, visits)
    assert set(shown(toy).values()) == {"reused"}


def test_page_is_written_where_no_scan_is_usable(toy, raw):
    done = run(toy, raw(s01=""), code=65)
    assert "no usable scan" in done.stderr
    assert shown(toy)["First", "sub-s01"] == "failed"
    assert "holds 0 bytes" in (toy.folder / "out" / "sub-s01.html").read_text()


def test_failed_scan_shows_no_result_of_an_earlier_run(toy, raw):
    run(toy, raw(s01="1 2 3"), "--pipelines", "first")
    assert "Picture" in (toy.folder / "out" / "sub-s01.html").read_text()
    run(toy, raw(s01="bad"), "--pipelines", "first", code=65)
    page = (toy.folder / "out" / "sub-s01.html").read_text()
    assert shown(toy) == {("First", "sub-s01"): "failed"}
    assert "Picture" not in page
    assert "desc-joined_stats.tsv" not in page
    assert "results of an earlier run are still" in page
