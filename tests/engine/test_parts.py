"""Many participants are processed part by part."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from bids_alsmri import participant
from bids_alsmri.cli import main


def write_series(root, label, edge, n_volumes):
    path = root / f"sub-{label}" / "dwi" / f"sub-{label}_dwi.nii.gz"
    path.parent.mkdir(parents=True)
    nib.save(nib.Nifti1Image(np.zeros((edge,) * 3 + (n_volumes,), np.uint8), np.eye(4)), path)
    weights = {".json": "{}", ".bval": "0 1000", ".bvec": "0 1\n0 0\n0 0"}
    for extension, text in weights.items():
        path.with_name(f"sub-{label}_dwi{extension}").write_text(text)


@pytest.mark.slow
def test_parts_give_what_one_run_of_all_gives(toy, raw, tables):
    dataset = raw(s01="1 2 3", s02="4 5 6", s03="7 8 9")
    words = (dataset, "out", "participant", "--n-procs", 1)
    whole = toy.run(*words)
    assert whole.returncode == 0, whole.stderr
    expected = tables(toy.folder / "out")
    parted = toy.run(*words[:1], "parted", *words[2:], TOY_JOBS_AT_ONCE="1")
    assert parted.returncode == 0, parted.stderr
    assert "part 3 of 3" in parted.stderr
    assert "part 1" not in whole.stderr
    assert tables(toy.folder / "parted") == expected != {}
    assert len(list((toy.folder / "parted").glob("sub-*.html"))) == 3


@pytest.mark.slow
def test_fault_in_one_part_leaves_the_next(toy, raw, tables):
    words = (raw(s01="bad", s02="4 5 6"), "out", "participant", "--n-procs", 1)
    done = toy.run(*words, TOY_JOBS_AT_ONCE="1")
    assert done.returncode == 1, done.stderr
    assert any(path.startswith("sub-s02") for path in tables(toy.folder / "out"))


@pytest.mark.slow
def test_stop_on_first_crash_begins_no_further_part(toy, raw, tables):
    words = (raw(s01="bad", s02="4 5 6"), "out", "participant", "--n-procs", 1)
    done = toy.run(*words, "--stop-on-first-crash", TOY_JOBS_AT_ONCE="1")
    assert done.returncode == 65, done.stderr
    assert not any(path.startswith("sub-s02") for path in tables(toy.folder / "out"))
    assert not (toy.folder / "out" / "sub-s02.html").exists()


@pytest.mark.parametrize("largest", ["s02", "s99"])
def test_step_of_a_later_part_without_memory_is_told_at_once(
    tmp_path, monkeypatch, capsys, largest
):
    monkeypatch.setattr(participant, "JOBS_AT_ONCE", 1)
    root = tmp_path / "raw"
    for label in ("s01", "s03"):
        write_series(root, label, 8, 2)
    write_series(root, largest, 128, 40)
    (root / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.10.0"}')
    words = [str(root), str(tmp_path / "out"), "participant", "--plan", "--mem-gb", "2.05"]
    assert main([*words, "--pipelines", "diffusion"]) == 64
    assert f"step sub_{largest}" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("sub-*"))
