from __future__ import annotations

import shutil
import signal

import pytest

from bids_alsmri.bids.query import Scan
from bids_alsmri.engine.leftovers import drop_saves, list_saves, remove_leftovers, saves_path
from bids_alsmri.engine.records import Identity, Record, record_path, write_record
from bids_alsmri.errors import ExitCode, RunError

SCAN = Scan("sodium", "01", None, {}, {}, {})
KEPT, LEFT = "sub-01/anat/tsc.nii.gz", "sub-01/anat/tscPvc.nii.gz"


@pytest.fixture
def out(tmp_path):
    """Output folder with two files, beside a file that is none of the app's."""
    for name in (KEPT, LEFT, "sub-01/anat/mine.nii.gz", "../mine.txt"):
        path = tmp_path / "out" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path / "out"


def left_in(out):
    return {p.name for p in (out / "sub-01").rglob("*.nii.gz")}


def test_listed_file_that_is_no_result_any_more_is_removed(out):
    list_saves(saves_path(out, SCAN), [KEPT, LEFT])
    remove_leftovers(out, SCAN, [KEPT])
    assert left_in(out) == {"tsc.nii.gz", "mine.nii.gz"}


def test_list_of_a_killed_run_is_added_to(out):
    list_saves(saves_path(out, SCAN), [LEFT])
    list_saves(saves_path(out, SCAN), [KEPT])
    remove_leftovers(out, SCAN, [KEPT])
    assert not (out / LEFT).exists()


@pytest.mark.parametrize("text", ["{", "{}", "[1]"])
def test_damaged_list_removes_nothing(out, text):
    path = saves_path(out, SCAN)
    path.parent.mkdir(parents=True)
    path.write_text(text)
    remove_leftovers(out, SCAN, [])
    assert len(left_in(out)) == 3


def test_file_of_another_scans_record_is_kept(out):
    other = Scan("sodium", "01", None, {"run": "1"}, {}, {})
    record = Record(Identity("1", {}, {}, {}, {}), {"tsc_voxelwise": LEFT})
    write_record(record_path(out, other), record)
    list_saves(saves_path(out, SCAN), [KEPT, LEFT])
    remove_leftovers(out, SCAN, [KEPT])
    assert (out / LEFT).exists()


@pytest.mark.parametrize("where", ["above", "absolute"])
def test_list_cannot_reach_out_of_the_folder(out, where):
    mine = out.parent / "mine.txt"
    list_saves(saves_path(out, SCAN), ["../mine.txt" if where == "above" else str(mine)])
    remove_leftovers(out, SCAN, [])
    assert mine.exists()


def test_file_that_cannot_be_removed_is_named(out):
    (out / "sub-01" / "folder").mkdir()
    list_saves(saves_path(out, SCAN), ["sub-01/folder"])
    with pytest.raises(RunError, match=r"sub-01/folder: cannot be removed") as error:
        remove_leftovers(out, SCAN, [])
    assert error.value.exit_code == ExitCode.CANNOT_WRITE


def test_list_is_gone_when_the_record_stands(out):
    list_saves(saves_path(out, SCAN), [KEPT])
    drop_saves(out, SCAN)
    assert not saves_path(out, SCAN).exists()


# ---- through the command line, with the toys

COPY, JOIN = "--first-has-copy", "--first-has-second-join"
ANAT = "sub-s01/anat/sub-s01_desc-"


@pytest.mark.slow
def test_run_that_makes_less_leaves_what_a_fresh_one_makes(toy, raw, tables):
    first, *more = (raw(s01="1 2 3"), "participant", "--n-procs", 1, "--pipelines", "first")
    assert toy.run(first, "out", *more, COPY, JOIN).returncode == 0
    mine = toy.folder / "out" / f"{ANAT}mine_stats.tsv"
    mine.write_text("the only copy")
    # the second join is made of the fits alone
    done = toy.run(first, "out", *more, COPY, "--first-decimals", 1)
    assert done.returncode == 0, done.stderr
    assert f"this one does not: {ANAT}joinedAgain3_stats.json" in done.stderr
    assert toy.run(first, "new", *more, "-w", "w2", COPY, "--first-decimals", 1).returncode == 0
    assert mine.read_text() == "the only copy"
    mine.unlink()
    assert tables(toy.folder / "out") == tables(toy.folder / "new")
    assert not list((toy.folder / "out" / "logs" / "saves").iterdir())


@pytest.mark.slow
def test_files_of_a_killed_run_do_not_outlive_the_next(toy, raw, tables, wait_until):
    first, *more = (raw(s01="1 2 3"), "participant", "--n-procs", 1, "--pipelines", "first")
    assert toy.run(first, "out", *more).returncode == 0
    done = tables(toy.folder / "out")
    run = toy.start(first, "out", *more, COPY, TOY_SLEEP_S="1")
    wait_until(run, (toy.folder / "out" / f"{ANAT}copy_stats.tsv").exists)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    shutil.rmtree(toy.folder / "out_work")
    assert toy.run(first, "out", *more).returncode == 0
    found = {name: text for name, text in tables(toy.folder / "out").items() if ".tmp-" not in name}
    assert found == done


@pytest.mark.slow
def test_failed_run_removes_no_file_of_the_one_before(toy, raw):
    dataset = raw(s01="1 2 3")
    words = (dataset, "out", "participant", "--n-procs", 1, "--pipelines", "first")
    assert toy.run(*words, COPY).returncode == 0
    (dataset / "sub-s01" / "anat" / "sub-s01_T1w.nii.gz").write_text("bad")
    assert toy.run(*words).returncode == 65
    assert (toy.folder / "out" / f"{ANAT}copy_stats.tsv").is_file()
