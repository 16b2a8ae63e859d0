from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from bids_alsmri.bids.query import Scan
from bids_alsmri.engine.records import (
    Identity,
    Record,
    compare,
    fingerprint,
    forget,
    read_record,
    record_path,
    write_record,
)
from bids_alsmri.errors import DataError, ExitCode, RunError

IDENTITY = Identity(
    version="0.1.0",
    fit={"factor": 2.0, "fit": "wls"},
    apply={"decimals": 3},
    inputs={"sub-01/sub-01_T1w.nii.gz": {"bytes": 3, "mtime_ns": 1, "sha256": "aa"}},
    upstream={"anatomical": "beef"},
)


@pytest.fixture
def record(tmp_path):
    outputs = {"fa": "sub-01/fa.nii.gz", "template_fa": "sub-01/template_fa.nii.gz"}
    for path in outputs.values():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text("map")
    return Record(IDENTITY, outputs, {"fit": 1.5}, ("fa",))


def test_record_is_read_as_it_was_written(tmp_path, record):
    path = record_path(tmp_path, Scan("diffusion", "01", "m00", {}, {}, {}))
    write_record(path, record)
    assert path.name == "sub-01_ses-m00_diffusion.json"
    assert read_record(path) == record


GOOD = {
    "identity": {"version": "1", "fit": {}, "apply": {}, "inputs": {}, "upstream": {}},
    "outputs": {},
    "seconds": {},
    "fits": [],
    "notes": [],
}


def changed(**parts):
    return json.dumps({**GOOD, **parts})


@pytest.mark.parametrize(
    "text",
    [
        "",
        '{"identity": {"version": "0.1',
        "null",
        "3",
        "[]",
        '"text"',
        "{}",
        changed(identity=None),
        changed(identity={"version": "1"}),
        changed(outputs=None),
        changed(fits=None),
        changed(fits="fa"),
        changed(outputs=["fa"]),
        changed(outputs={"fa": 3}),
        changed(colour="red"),
        changed(identity={**GOOD["identity"], "inputs": {"a": {"bytes": 3}}}),
        changed(identity={**GOOD["identity"], "inputs": {"a": None}}),
        changed(identity={**GOOD["identity"], "fit": None}),
    ],
)
def test_damaged_record_counts_as_none(tmp_path, text):
    path = tmp_path / "record.json"
    path.write_text(changed())
    assert read_record(path) is not None
    path.write_text(text)
    assert read_record(path) is None


def test_record_that_is_no_text_counts_as_none(tmp_path):
    (tmp_path / "record.json").write_bytes(b"\xff\xfe\x00")
    assert read_record(tmp_path / "record.json") is None
    assert read_record(tmp_path / "absent.json") is None


def check(record, identity, folder):
    return compare(record, identity, folder)


def test_same_identity_leaves_nothing_to_do(tmp_path, record):
    assert check(record, IDENTITY, tmp_path)[0] == "nothing"


def test_scan_without_record_is_processed(tmp_path):
    assert check(None, IDENTITY, tmp_path) == ("everything", "not processed before")


@pytest.mark.parametrize(
    ("change", "work", "reason"),
    [
        ({"version": "0.2.0"}, "everything", "version (0.1.0, now 0.2.0)"),
        ({"fit": {"factor": 3.0, "fit": "wls"}}, "everything", "factor (2.0, now 3.0)"),
        ({"fit": {"fit": "wls"}}, "everything", "factor (2.0, now None)"),
        ({"apply": {"decimals": 1}}, "apply", "fits are reused; other decimals (3, now 1)"),
        ({"upstream": {"anatomical": "dead"}}, "everything", "anatomical result"),
        ({"upstream": {}}, "everything", "anatomical result"),
    ],
)
def test_reason_names_what_differs(tmp_path, record, change, work, reason):
    found = check(record, replace(IDENTITY, **change), tmp_path)
    assert found[0] == work
    assert reason in found[1]


def test_changed_content_is_told_and_changed_time_is_not(tmp_path, record):
    (name, entry), *_ = IDENTITY.inputs.items()
    touched = replace(IDENTITY, inputs={name: {**entry, "mtime_ns": 2}})
    assert check(record, touched, tmp_path)[0] == "nothing"
    other = replace(IDENTITY, inputs={name: {**entry, "sha256": "bb"}})
    work, reason = check(record, other, tmp_path)
    assert (work, reason) == (
        "everything",
        "processed before with other content of sub-01_T1w.nii.gz",
    )


def test_changed_sidecar_is_told(tmp_path, record):
    (name, entry), *_ = IDENTITY.inputs.items()
    other = replace(IDENTITY, inputs={name: {**entry, "metadata_sha256": "cc"}})
    assert check(record, other, tmp_path) == (
        "everything",
        "processed before with other sidecar of sub-01_T1w.nii.gz",
    )
    assert other.digest() != IDENTITY.digest()


def test_order_of_a_sidecars_keys_does_not_matter(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("abc")
    one, two, other = (
        fingerprint([path], tmp_path, {}, {path: metadata})
        for metadata in (
            {"EchoTime": 0.003, "SliceTiming": [0, 1]},
            {"SliceTiming": [0, 1], "EchoTime": 0.003},
            {"SliceTiming": [1, 0], "EchoTime": 0.003},
        )
    )
    assert one == two
    assert one != other


def test_all_differences_are_told(tmp_path, record):
    other = replace(IDENTITY, version="0.2.0", fit={"factor": 2.0, "fit": "ols"})
    reason = check(record, other, tmp_path)[1]
    assert "version (0.1.0, now 0.2.0); fit (wls, now ols)" in reason


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ({"areas": "aa", "tracts": "cc"}, {"areas": "bb", "tracts": "cc"}),
        ({}, {"areas": "bb"}),
        ({"areas": "aa"}, None),
    ],
)
def test_contents_are_told_by_name_after_the_settings(tmp_path, before, now):
    old, new = (
        replace(IDENTITY, apply={"atlases": said, "decimals": decimals})
        for said, decimals in ((before, 3), (now, 1))
    )
    assert check(Record(old, {}), new, tmp_path) == (
        "apply",
        "fits are reused; other decimals (3, now 1); content of atlases: areas",
    )


@pytest.mark.parametrize(
    ("lost", "work", "reason"),
    [
        ("fa", "everything", "outputs are missing: fa"),
        ("template_fa", "apply", "fits are reused; outputs are missing: template_fa"),
    ],
)
def test_missing_output_is_made_again(tmp_path, record, lost, work, reason):
    (tmp_path / record.outputs[lost]).unlink()
    assert check(record, IDENTITY, tmp_path) == (work, reason)


def test_forgotten_record_is_gone(tmp_path, record):
    write_record(tmp_path / "record.json", record)
    forget(tmp_path / "record.json", record, keeps_fits=False)
    assert not (tmp_path / "record.json").exists()


def test_fits_outlive_an_apply_that_does_not_end(tmp_path, record):
    forget(tmp_path / "record.json", record, keeps_fits=True)
    left = read_record(tmp_path / "record.json")
    assert check(left, IDENTITY, tmp_path) == (
        "apply",
        "fits are reused; the last run did not come to its end",
    )


def test_record_that_cannot_be_removed_stops_the_saves(tmp_path, record):
    (tmp_path / "record.json").mkdir()
    with pytest.raises(RunError, match=r"record\.json: cannot be removed") as error:
        forget(tmp_path / "record.json", record, keeps_fits=False)
    assert error.value.exit_code == ExitCode.CANNOT_WRITE


def test_digest_ignores_paths_and_times_but_not_content():
    entry = {"bytes": 3, "mtime_ns": 1, "sha256": "aa"}
    moved = replace(IDENTITY, inputs={"elsewhere/sub-01_T1w.nii.gz": {**entry, "mtime_ns": 9}})
    assert moved.digest() == IDENTITY.digest()
    other = replace(IDENTITY, inputs={"sub-01/sub-01_T1w.nii.gz": {**entry, "sha256": "bb"}})
    assert other.digest() != IDENTITY.digest()


def test_fingerprint_is_the_files_sha256(tmp_path):
    (tmp_path / "a.txt").write_text("abc")
    found = fingerprint([tmp_path / "a.txt"], tmp_path, {}, {})
    # FIPS 180-2, appendix B.1: the digest of abc
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert found["a.txt"]["sha256"] == expected
    assert found["a.txt"]["bytes"] == 3


def test_known_hash_is_taken_over_only_where_size_and_time_agree(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("abc")
    (entry,) = fingerprint([path], tmp_path, {}, {}).values()
    known = {"a.txt": {**entry, "sha256": "known"}}
    assert fingerprint([path], tmp_path, known, {})["a.txt"]["sha256"] == "known"
    os.utime(path, ns=(1, 1))
    assert fingerprint([path], tmp_path, known, {})["a.txt"]["sha256"] == entry["sha256"]


def test_file_outside_the_root_is_named_in_full(tmp_path):
    (tmp_path / "a.txt").write_text("abc")
    assert list(fingerprint([tmp_path / "a.txt"], tmp_path / "raw", {}, {})) == [
        str(tmp_path / "a.txt")
    ]


def test_unreadable_file_is_told():
    with pytest.raises(DataError, match=r"/none\.nii: cannot be read") as error:
        fingerprint([Path("/none.nii")], Path("/"), {}, {})
    assert error.value.exit_code == ExitCode.NO_INPUT
