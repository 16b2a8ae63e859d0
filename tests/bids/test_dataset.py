from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from bids_alsmri.bids.dataset import (
    check_derivatives,
    check_output_dir,
    check_raw,
    write_description,
    write_descriptions,
)
from bids_alsmri.bids.spec import FigureSpec, IoSpec, OutputSpec
from bids_alsmri.errors import AlsMriError, DataError, ExitCode, RunError, SettingsError

GOOD = {"Name": "trial", "BIDSVersion": "1.10.0"}


@pytest.fixture
def described(tmp_path):
    """Write a dataset with one participant and the given description."""

    def write(description: object, name: str = "raw") -> Path:
        root = tmp_path / name
        (root / "sub-01").mkdir(parents=True)
        if description is not None:
            text = description if isinstance(description, str) else json.dumps(description)
            (root / "dataset_description.json").write_text(text)
        return root

    return write


def test_valid_dataset_gives_its_description(described):
    assert check_raw(described(GOOD), skip_validation=False) == GOOD


@pytest.mark.parametrize(
    ("description", "words"),
    [
        (None, ["dataset_description.json is missing", "--skip-bids-validation"]),
        ('{"Name": "x"\n "BIDSVersion": 1}', ["line 2, column 2", "correct it"]),
        ("[]", ["expected a JSON object, keys and values between { and }", "correct"]),
        ({"BIDSVersion": "1.10.0"}, ["Name is missing"]),
        ({"Name": "trial"}, ["BIDSVersion is missing"]),
        ({"Name": "trial", "BIDSVersion": 1.1}, ["BIDSVersion is 1.1", "expected a text"]),
        ({**GOOD, "DatasetType": "derivative"}, ["'derivative'", "-d NAME="]),
    ],
)
def test_invalid_description_is_refused_unless_skipped(described, description, words):
    root = described(description)
    with pytest.raises(DataError) as caught:
        check_raw(root, skip_validation=False)
    assert caught.value.exit_code == ExitCode.INVALID_BIDS
    assert all(word in str(caught.value) for word in ["dataset_description.json", *words])
    check_raw(root, skip_validation=True)


def test_description_that_is_not_fetched_gives_the_line(described):
    root = described(None)
    (root / "dataset_description.json").symlink_to(".git/annex/objects/key")
    with pytest.raises(DataError, match=f"datalad get -d {root}") as caught:
        check_raw(root, skip_validation=False)
    assert caught.value.exit_code == ExitCode.NO_INPUT


@pytest.mark.parametrize("kind", ["absent", "file"])
def test_absent_bids_dir_is_missing_input(tmp_path, kind):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=f"BIDS_DIR {tmp_path / kind}") as caught:
        check_raw(tmp_path / kind, skip_validation=True)
    assert caught.value.exit_code == ExitCode.NO_INPUT


def test_dataset_without_participants_is_missing_input(described):
    root = described(GOOD)
    (root / "sub-01").rmdir()
    with pytest.raises(DataError, match="no folder sub-") as caught:
        check_raw(root, skip_validation=True)
    assert caught.value.exit_code == ExitCode.NO_INPUT


def test_label_that_bids_does_not_allow_is_named(described):
    root = described(GOOD)
    (root / "sub-a_b").mkdir()
    with pytest.raises(DataError, match="folder sub-a_b") as caught:
        check_raw(root, skip_validation=False)
    assert caught.value.exit_code == ExitCode.INVALID_BIDS


@pytest.mark.parametrize("inside", [".", "out", "derivatives", "sub-01/out", "sourcedata/als"])
def test_output_inside_raw_data_is_refused(described, inside):
    root = described(GOOD)
    with pytest.raises(SettingsError, match="derivatives/bids_alsmri") as caught:
        check_output_dir(root, root / inside)
    assert caught.value.exit_code == ExitCode.USAGE
    assert list(root.rglob("*out*")) == []


@pytest.mark.parametrize("place", ["derivatives/als", "derivatives/als/v1", "../out"])
def test_output_elsewhere_is_accepted_and_not_made(described, place):
    root = described(GOOD)
    check_output_dir(root, root / place)
    assert not (root / place).exists()


def test_output_behind_a_link_into_raw_data_is_refused(described, tmp_path):
    root = described(GOOD)
    (tmp_path / "link").symlink_to(root)
    with pytest.raises(SettingsError, match="inside the raw data"):
        check_output_dir(root, tmp_path / "link" / "out")


def test_output_below_a_file_cannot_be_written(described, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="is a file") as caught:
        check_output_dir(described(GOOD), tmp_path / "file" / "out")
    assert caught.value.exit_code == ExitCode.CANNOT_WRITE


def test_output_without_permission_cannot_be_written(described, tmp_path, monkeypatch):
    # Tests may run as root, who may write anywhere: the system's answer is replaced.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(RunError, match="no permission to write") as caught:
        check_output_dir(described(GOOD), tmp_path / "out")
    assert caught.value.exit_code == ExitCode.CANNOT_WRITE


@pytest.mark.parametrize(
    ("makers", "words"), [([{"Name": "fMRIPrep"}], "made by fMRIPrep"), (None, "not made by")]
)
def test_output_folder_of_another_program_is_refused(described, makers, words):
    root, other = described(GOOD), described({**GOOD, "GeneratedBy": makers}, "other")
    with pytest.raises(SettingsError, match=words):
        check_output_dir(root, other)


def test_own_output_folder_is_accepted_again(described, tmp_path):
    root = described(GOOD)
    write_description(tmp_path / "out", root, {}, "0.1.0")
    check_output_dir(root, tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "description", "error", "words"),
    [
        ("prep", GOOD, ExitCode.INVALID_BIDS, "DatasetType is 'raw'"),
        ("prep", None, ExitCode.INVALID_BIDS, "is missing"),
        ("raw", {**GOOD, "DatasetType": "derivative"}, ExitCode.USAGE, "not 'raw'"),
        ("my prep", {**GOOD, "DatasetType": "derivative"}, ExitCode.USAGE, "letters and digits"),
    ],
)
def test_unusable_derivatives_are_refused(described, name, description, error, words):
    with pytest.raises(AlsMriError, match=re.escape(words)) as caught:
        check_derivatives({name: described(description)})
    assert caught.value.exit_code == error


def test_freesurfer_subjects_need_no_description(described, tmp_path):
    subjects = tmp_path / "subjects"
    (subjects / "sub-01" / "mri").mkdir(parents=True)
    check_derivatives({"fs": subjects})
    raw = described(GOOD)
    write_description(tmp_path / "out", raw, {"fs": subjects}, "0.1.0")
    content = json.loads((tmp_path / "out" / "dataset_description.json").read_text())
    assert content["DatasetLinks"] == {"fs": "../subjects", "raw": "../raw"}
    # one that describes itself as something else is still no derivative
    (subjects / "dataset_description.json").write_text(json.dumps(GOOD))
    with pytest.raises(DataError, match="DatasetType is 'raw'"):
        check_derivatives({"fs": subjects})


def test_absent_derivatives_are_missing_input(tmp_path):
    with pytest.raises(DataError, match="no such folder") as caught:
        check_derivatives({"smriprep": tmp_path / "none"})
    assert caught.value.exit_code == ExitCode.NO_INPUT


def test_description_links_resolve_from_the_output(described, tmp_path):
    raw = described({**GOOD, "DatasetDOI": "doi:10.0/x"})
    prep = described({**GOOD, "DatasetType": "derivative"}, "pre p")
    output = raw / "derivatives" / "als"
    write_description(output, raw, {"smriprep": prep}, "0.1.0")
    content = json.loads((output / "dataset_description.json").read_text())
    assert content["DatasetType"] == "derivative"
    assert content["GeneratedBy"] == [{"Name": "bids_alsmri", "Version": "0.1.0"}]
    assert content["DatasetLinks"] == {"raw": "../..", "smriprep": "../../../pre%20p"}
    assert {"URL": "../..", "DOI": "doi:10.0/x"} in content["SourceDatasets"]
    assert (output / content["DatasetLinks"]["raw"]).resolve() == raw


def test_links_of_earlier_runs_are_kept(described, tmp_path):
    raw, prep = described(GOOD), described({**GOOD, "DatasetType": "derivative"}, "prep")
    write_description(tmp_path / "out", raw, {"smriprep": prep}, "0.1.0")
    write_description(tmp_path / "out", raw, {}, "0.2.0")
    content = json.loads((tmp_path / "out" / "dataset_description.json").read_text())
    assert content["DatasetLinks"] == {"raw": "../raw", "smriprep": "../prep"}
    assert content["GeneratedBy"][0]["Version"] == "0.2.0"


def test_second_run_writes_nothing(described, tmp_path):
    raw, out = described(GOOD), tmp_path / "out"
    spec = IoSpec({}, {"adc": OutputSpec("adc", "dwi", "ADC", entities={"desc": "fit"})}, {})

    def write() -> None:
        write_description(out, raw, {}, "0.1.0")
        write_descriptions(out, {"muscle": spec})

    write()
    names = {path.name for path in out.iterdir()}
    assert names == {"dataset_description.json", ".bidsignore", "README.md", "descriptions.tsv"}
    for path in out.iterdir():
        os.utime(path, (0, 0))
    write()
    assert {path.stat().st_mtime for path in out.iterdir()} == {0}


def test_descriptions_explain_each_label_once(tmp_path):
    outputs = {
        "t1w": OutputSpec("t1w", "anat", "T1w", entities={"desc": "preproc"}, description="T1w"),
        "dwi": OutputSpec(
            "dwi", "dwi", "dwi", entities={"desc": "preproc"}, description="DWI in\n{x}"
        ),
        "gm": OutputSpec("gm", "anat", "probseg", entities={"label": "GM"}, description="grey"),
    }
    figures = {"fa": FigureSpec("fa", "colourfa", "dwi", title="Colour FA")}
    write_descriptions(tmp_path, {"a": IoSpec({}, outputs, figures), "b": IoSpec({}, outputs, {})})
    assert (tmp_path / "descriptions.tsv").read_text().splitlines() == [
        "desc_id\tdescription",
        "desc-colourfa\tfigure: Colour FA",
        "desc-preproc\tT1w; DWI in x",
    ]
