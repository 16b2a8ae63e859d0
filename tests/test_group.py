"""The group level collects the participants' tables."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from bids_alsmri.cli import main
from bids_alsmri.errors import ExitCode


def write_raw(folder: Path) -> None:
    (folder / "raw" / "sub-01").mkdir(parents=True)
    text = json.dumps({"Name": "empty", "BIDSVersion": "1.10.0"})
    (folder / "raw" / "dataset_description.json").write_text(text)


@pytest.fixture
def derivatives(tmp_path: Path) -> Path:
    for label, snr in (("01", 21.0), ("02", 17.5)):
        folder = tmp_path / "out" / f"sub-{label}" / "ses-m00" / "dwi"
        folder.mkdir(parents=True)
        table = pd.DataFrame({"measure": ["b0_snr"], "value": [snr], "unit": ["1"]})
        path = folder / f"sub-{label}_ses-m00_dir-AP_desc-quality_stats.tsv"
        table.to_csv(path, sep="\t", index=False)
    write_raw(tmp_path)
    return tmp_path


def run(folder: Path, *flags: str) -> int:
    words = [str(folder / "raw"), str(folder / "out"), "group", "-w", str(folder / "work"), *flags]
    return main(words)


def test_group_table_holds_one_row_per_participant_and_measure(derivatives: Path) -> None:
    assert run(derivatives) == ExitCode.DONE
    path = derivatives / "out" / "group" / "diffusion_desc-quality_stats.tsv"
    table = pd.read_csv(path, sep="\t")
    assert list(table["participant_id"]) == ["sub-01", "sub-02"]
    assert list(table["scan"]) == ["sub-01_ses-m00_dir-AP", "sub-02_ses-m00_dir-AP"]
    assert list(table["value"]) == [21.0, 17.5]


def test_group_table_holds_only_the_participants_asked_for(derivatives: Path) -> None:
    assert run(derivatives, "--participant-label", "02") == ExitCode.DONE
    path = derivatives / "out" / "group" / "diffusion_desc-quality_stats.tsv"
    assert list(pd.read_csv(path, sep="\t")["participant_id"]) == ["sub-02"]


def test_group_level_without_results_says_what_to_run_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_raw(tmp_path)
    assert run(tmp_path) == ExitCode.NO_INPUT
    assert "participant' first" in capsys.readouterr().err
