"""The group level collects the participants' tables."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import pandas as pd
import pytest

from bids_alsmri.cli import main
from bids_alsmri.engine.records import Identity, Record, write_record
from bids_alsmri.errors import ExitCode

GROUP_TABLE = Path("out", "group", "diffusion_desc-quality_stats.tsv")


def write_raw(folder: Path) -> None:
    (folder / "raw" / "sub-01").mkdir(parents=True)
    text = json.dumps({"Name": "empty", "BIDSVersion": "1.10.0"})
    (folder / "raw" / "dataset_description.json").write_text(text)


def finish(
    folder: Path, label: str, snr: float, *, runs: tuple[str, ...] = ("",), hour: int = 1
) -> tuple[Path, Path]:
    """Table and record of a finished scan, made from the given runs, all of them in the dataset."""
    participant, session = label.split("_")[:2]
    place = Path(participant, session, "dwi")
    images = [str(place / f"{participant}_{session}_dir-AP{run}_dwi.nii.gz") for run in runs]
    (folder / "raw" / place).mkdir(parents=True, exist_ok=True)
    for image in images:
        (folder / "raw" / image).write_text("image")
    table = place / f"{label}_desc-quality_stats.tsv"
    (folder / "out" / place).mkdir(parents=True, exist_ok=True)
    rows = pd.DataFrame({"measure": ["b0_snr"], "value": [snr], "unit": ["1"]})
    rows.to_csv(folder / "out" / table, sep="\t", index=False)
    # several scans may share what they inherit or adopt, and are not the same for that
    shared = ("dir-AP_dwi.bval", "derivatives/prep/sub-02/sub-02_dwi.nii.gz", "/prep/x_dwi.nii.gz")
    inputs = {name: {"sha256": "0"} for name in (*images, *shared)}
    record = Record(Identity("0", {}, {}, inputs, {}), {"quality": str(table)})
    path = folder / "out" / "logs" / "scans" / f"{label}_diffusion.json"
    write_record(path, record)
    os.utime(path, (hour * 3600, hour * 3600))
    return folder / "out" / table, path


@pytest.fixture
def derivatives(tmp_path: Path) -> Path:
    write_raw(tmp_path)
    finish(tmp_path, "sub-01_ses-m00_dir-AP", 21.0)
    finish(tmp_path, "sub-02_ses-m00_dir-AP", 17.5, hour=2)
    return tmp_path


def run(folder: Path, *flags: str) -> int:
    words = [str(folder / "raw"), str(folder / "out"), "group", "-w", str(folder / "work")]
    return main([*words, "--no-group-compare", *flags])


def column(folder: Path, name: str) -> list[object]:
    return list(pd.read_csv(folder / GROUP_TABLE, sep="\t")[name])


def test_group_table_holds_one_row_per_participant_and_measure(derivatives: Path) -> None:
    assert run(derivatives) == ExitCode.DONE
    assert column(derivatives, "participant_id") == ["sub-01", "sub-02"]
    assert column(derivatives, "scan") == ["sub-01_ses-m00_dir-AP", "sub-02_ses-m00_dir-AP"]
    assert column(derivatives, "value") == [21.0, 17.5]


def test_run_leaves_the_environment_of_its_process_as_it_was(derivatives: Path) -> None:
    before = dict(os.environ)
    assert run(derivatives) == ExitCode.DONE
    assert dict(os.environ) == before
    assert Path(tempfile.gettempdir()).is_dir()


def test_group_table_holds_only_the_participants_asked_for(derivatives: Path) -> None:
    assert run(derivatives, "--participant-label", "02") == ExitCode.DONE
    assert column(derivatives, "participant_id") == ["sub-02"]


def test_group_table_holds_only_the_sessions_asked_for(derivatives: Path) -> None:
    finish(derivatives, "sub-02_ses-m06_dir-AP", 15.0)
    assert run(derivatives, "--session-label", "ses-m06") == ExitCode.DONE
    assert column(derivatives, "scan") == ["sub-02_ses-m06_dir-AP"]


@pytest.mark.parametrize("flag", ["--participant-label", "--session-label"])
def test_label_without_results_ends_with_18(
    derivatives: Path, capsys: pytest.CaptureFixture[str], flag: str
) -> None:
    assert run(derivatives, flag, "99") == ExitCode.NOTHING_MATCHED
    assert "99" in capsys.readouterr().err
    assert not (derivatives / "out" / "group").exists()


def test_plan_of_the_group_level_names_the_scans_and_writes_nothing(
    derivatives: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(derivatives.rglob("*"))
    assert run(derivatives, "--plan") == ExitCode.DONE
    assert sorted(derivatives.rglob("*")) == before
    expected = f"{derivatives / GROUP_TABLE}: sub-01_ses-m00_dir-AP, sub-02_ses-m00_dir-AP\n"
    assert capsys.readouterr().out == expected


def test_results_of_a_scan_that_another_run_renamed_do_not_count_twice(derivatives: Path) -> None:
    # a second run takes the run from the name that the scan had
    finish(derivatives, "sub-03_ses-m00_dir-AP_run-1", 10.0, runs=("_run-1",), hour=1)
    finish(derivatives, "sub-03_ses-m00_dir-AP", 12.0, runs=("_run-1", "_run-2"), hour=2)
    assert run(derivatives, "--participant-label", "03") == ExitCode.DONE
    assert column(derivatives, "value") == [12.0]


def test_results_of_an_image_that_was_removed_do_not_count(derivatives: Path) -> None:
    finish(derivatives, "sub-03_ses-m00_dir-AP", 12.0, runs=("_run-1", "_run-2"))
    finish(derivatives, "sub-03_ses-m06_dir-AP_run-1", 11.0, runs=("_run-1",))
    folder = derivatives / "raw" / "sub-03" / "ses-m00" / "dwi"
    (folder / "sub-03_ses-m00_dir-AP_run-2_dwi.nii.gz").unlink()
    assert run(derivatives, "--participant-label", "03") == ExitCode.DONE
    assert column(derivatives, "value") == [11.0]


def test_table_without_a_record_does_not_count(derivatives: Path) -> None:
    _, record = finish(derivatives, "sub-03_ses-m00_dir-AP", 12.0)
    record.unlink()
    assert run(derivatives) == ExitCode.DONE
    assert column(derivatives, "participant_id") == ["sub-01", "sub-02"]


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", None])
def test_table_that_cannot_be_read_is_named_and_others_go_on(
    derivatives: Path, capfd: pytest.CaptureFixture[str], content: bytes | None
) -> None:
    table, _ = finish(derivatives, "sub-03_ses-m00_dir-AP", 12.0)
    table.unlink()
    if content is not None:
        table.write_bytes(content)
    assert run(derivatives) == ExitCode.SCANS_FAILED
    error = " ".join(capfd.readouterr().err.split())
    assert f"{table}: cannot be read as a table" in error
    assert "run the participant level again" in error
    assert column(derivatives, "participant_id") == ["sub-01", "sub-02"]


def test_damaged_record_is_named_and_others_go_on(
    derivatives: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    _, record = finish(derivatives, "sub-03_ses-m00_dir-AP", 12.0)
    record.write_text("{")
    assert run(derivatives) == ExitCode.SCANS_FAILED
    assert f"{record}: the record of a scan is damaged" in capfd.readouterr().err
    assert column(derivatives, "participant_id") == ["sub-01", "sub-02"]


def test_group_level_with_no_readable_table_ends_with_65(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_raw(tmp_path)
    table, _ = finish(tmp_path, "sub-01_ses-m00_dir-AP", 21.0)
    table.write_text("")
    assert run(tmp_path) == ExitCode.BAD_DATA
    assert str(table) in capsys.readouterr().err


def test_group_level_without_results_says_what_to_run_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_raw(tmp_path)
    assert run(tmp_path) == ExitCode.NO_INPUT
    assert "participant' first" in capsys.readouterr().err
