from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import pytest

from bids_alsmri.bids.clinical import (
    find_clinical_root,
    read_clinical_table,
    read_exclusions,
    read_quality_labels,
    read_rows,
)
from bids_alsmri.errors import DataError, ExitCode, SettingsError

PEOPLE = """
participant_id group age alsfrs_r
sub-01         als   61.5 40
sub-02         hc    n/a  n/a
sub-10         als   55   44
"""


def tabs(text: str) -> str:
    """Table with tabs, from one with spaces."""
    return "".join("\t".join(line.split()) + "\n" for line in text.strip().splitlines())


@pytest.fixture
def write(tmp_path, add):
    """Write tables into a dataset that has participants.tsv."""

    def run(people: str = PEOPLE, files: dict[str, object] | None = None) -> Path:
        add(tmp_path, "participants.tsv", tabs(people))
        for name, content in (files or {}).items():
            add(tmp_path, name, tabs(content) if name.endswith(".tsv") else content)
        return tmp_path

    return run


def visits(root: Path, **options: object) -> list[tuple[str, str | None]]:
    table = read_clinical_table(root, **options).visits
    return list(zip(table["participant_id"], table["session_id"], strict=True))


def test_participants_alone_give_one_row_each_in_their_order(write):
    assert visits(write()) == [("sub-01", None), ("sub-02", None), ("sub-10", None)]


def test_missing_numbers_are_nan_and_missing_text_is_none(write):
    people = "participant_id age onset\nsub-01 60 bulbar\nsub-02 n/a n/a\nsub-03 NA NaN\n"
    table = read_clinical_table(write(people)).visits
    np.testing.assert_array_equal(table["age"], [60.0, np.nan, np.nan])
    assert table["onset"].tolist() == ["bulbar", None, None]


def test_labels_with_leading_zeros_stay_text(write):
    table = read_clinical_table(write("participant_id site\nsub-01 01\nsub-02 02\n")).visits
    assert table["site"].tolist() == ["01", "02"]


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["1", "-2.5", "+.5", "1e2"], [1.0, -2.5, 0.5, 100.0]),
        (["1", "inf"], ["1", "inf"]),
        (["1", "12,5"], ["1", "12,5"]),
        (["0", "0.5"], [0.0, 0.5]),
        ([".", "-"], [".", "-"]),
    ],
)
def test_column_holds_numbers_only_if_all_cells_are_plain_numbers(write, cells, expected):
    rows = "".join(f"sub-{i} {cell}\n" for i, cell in enumerate(cells))
    table = read_clinical_table(write("participant_id score\n" + rows)).visits
    assert table["score"].tolist() == expected


def test_columns_with_levels_in_the_sidecar_stay_text(write):
    root = write(
        "participant_id site\nsub-01 1\nsub-02 2\n",
        files={"participants.json": {"site": {"Levels": {"1": "Paris", "2": "Pisa"}}}},
    )
    table = read_clinical_table(root)
    assert table.visits["site"].tolist() == ["1", "2"]
    assert table.categorical == {"site"}


def test_units_come_from_the_sidecars(write):
    root = write(
        files={
            "participants.json": {"age": {"Units": "year"}},
            "sessions.json": {"duration": {"Units": "month"}},
            "sub-01/sub-01_sessions.tsv": "session_id duration\nses-1 5\n",
            "phenotype/mrc.tsv": "participant_id total\nsub-01 140\n",
            "phenotype/umn.tsv": "participant_id total\nsub-01 9\n",
            "phenotype/mrc.json": {"total": {"Units": "point"}},
        }
    )
    assert read_clinical_table(root).units == {
        "age": "year",
        "duration": "month",
        "mrc.total": "point",
    }


def test_sessions_replace_the_participants_value_visit_by_visit(write):
    root = write(
        files={
            "sub-01/sub-01_sessions.tsv": "session_id alsfrs_r\nses-m0 39\nses-m4 n/a\n",
        }
    )
    table = read_clinical_table(root).visits
    own = table[table["participant_id"] == "sub-01"]
    np.testing.assert_array_equal(own["alsfrs_r"], [39.0, np.nan])
    np.testing.assert_array_equal(own["age"], [61.5, 61.5])
    other = table[table["participant_id"] == "sub-10"]
    assert other["alsfrs_r"].tolist() == [44.0]


def test_phenotype_without_session_holds_for_all_visits(write):
    root = write(
        files={
            "sub-01/sub-01_sessions.tsv": "session_id mrc\nses-m0 140\nses-m4 130\n",
            "phenotype/umn.tsv": "participant_id umn_score\nsub-01 9\n",
        }
    )
    table = read_clinical_table(root).visits
    assert table["umn_score"].tolist()[:2] == [9.0, 9.0]


def test_phenotype_with_session_holds_for_its_visit(write):
    root = write(
        files={
            "sub-01/sub-01_sessions.tsv": "session_id mrc\nses-m0 140\nses-m4 130\n",
            "phenotype/umn.tsv": "participant_id session_id umn\nsub-01 ses-m4 9\n",
        }
    )
    table = read_clinical_table(root).visits
    np.testing.assert_array_equal(table["umn"], [np.nan, 9.0, np.nan, np.nan])


def test_column_of_two_phenotype_files_bears_the_name_of_the_file(write):
    root = write(
        files={
            "phenotype/mrc.tsv": "participant_id total\nsub-01 140\n",
            "phenotype/umn.tsv": "participant_id total\nsub-01 9\n",
        }
    )
    table = read_clinical_table(root)
    assert table.visits.loc[0, ["mrc.total", "umn.total"]].tolist() == [140.0, 9.0]
    assert table.file_of("umn.total") == root / "phenotype" / "umn.tsv"


def test_two_files_may_have_a_column_if_they_agree(write):
    root = write(
        files={"phenotype/scores.tsv": "participant_id alsfrs_r\nsub-01 40.0\nsub-02 48\n"}
    )
    assert read_clinical_table(root).visits["alsfrs_r"].tolist() == [40.0, 48.0, 44.0]


def test_two_files_that_contradict_each_other_are_an_error(write):
    root = write(files={"phenotype/scores.tsv": "participant_id alsfrs_r\nsub-01 41\n"})
    with pytest.raises(DataError, match=r"scores.tsv: alsfrs_r of sub-01 is 41 but 40 in .*partic"):
        read_clinical_table(root)


@pytest.mark.parametrize(
    ("sessions", "order"),
    [
        ("session_id\nses-m12\nses-m4\nses-m0\n", ["ses-m0", "ses-m4", "ses-m12"]),
        (
            "session_id acq_time\nses-a 2020-05-01T00:00:00\nses-b 2019-05-01T00:00:00\n",
            ["ses-b", "ses-a"],
        ),
        (
            "session_id acq_time\nses-a n/a\nses-b 2019-05-01T00:00:00\n",
            ["ses-a", "ses-b"],
        ),
    ],
    ids=["numbers by value", "by date", "by label where a date lacks"],
)
def test_visits_are_in_order_of_time(write, sessions, order):
    root = write(files={"sub-01/sub-01_sessions.tsv": sessions})
    assert [session for who, session in visits(root) if who == "sub-01"] == order


def test_visits_asked_for_have_a_row_with_what_holds_for_all(write):
    root = write()
    table = read_clinical_table(root, visits=[("sub-01", "ses-m4"), ("sub-10", None)])
    row = table.row_of("sub-01", "ses-m4")
    assert row["session_id"] == "ses-m4"
    assert row["age"] == 61.5
    assert visits(root, visits=[("sub-10", None)])[2] == ("sub-10", None)


def test_row_of_a_visit_falls_back_only_on_a_sole_row_without_session(write):
    root = write(files={"sub-01/sub-01_sessions.tsv": "session_id mrc\nses-m0 140\nses-m4 130\n"})
    table = read_clinical_table(root)
    assert table.row_of("sub-02", "ses-m0")["participant_id"] == "sub-02"
    assert table.row_of("sub-01", "ses-m9") is None
    assert table.row_of("sub-01", None) is None
    assert table.row_of("sub-77", None) is None


def test_byte_order_mark_empty_lines_and_spaces_do_no_harm(tmp_path):
    text = "\ufeffparticipant_id\tgroup\r\nsub-01\t als \r\n\r\nsub-02\thc\r\n\t\r\n"
    (tmp_path / "participants.tsv").write_bytes(text.encode())
    table = read_clinical_table(tmp_path).visits
    assert table["group"].tolist() == ["als", "hc"]


def test_participants_without_prefix_get_it(write):
    assert visits(write("participant_id group\n01 als\n")) == [("sub-01", None)]


def test_people_that_only_phenotype_knows_are_told_and_left_out(write, caplog):
    root = write(files={"phenotype/umn.tsv": "participant_id umn\nsub-1 9\n"})
    with caplog.at_level(logging.WARNING):
        assert len(visits(root)) == 3
    assert "phenotype/umn.tsv: sub-1 not in participants.tsv" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("participant_id\tage\nsub-01\t1\nsub-01\t2\n", r"sub-01 stands in lines 2 and 3.*remove"),
        ("participant_id\tage\n01\t1\nsub-01\t2\n", r"sub-01 stands in lines 2 and 3"),
        ("participant_id,age\nsub-01,1\n", r"no column participant_id; .*not commas"),
        ("subject\tage\nsub-01\t1\n", r"no column participant_id; its header is 'subject', 'age'"),
        ("", r"no column participant_id; its header is empty"),
        ("participant_id\tage\tage\nsub-01\t1\t2\n", r"has 'age' more than once"),
        ("participant_id\tage\nsub-01\t1\nsub-02\n", r"line 3 has 1 cells but the header has 2"),
        ("participant_id\tage\nn/a\t1\n", r"line 2 has no participant_id"),
        ("participant_id\tage\n", r"has a header but no row"),
    ],
)
def test_bad_participants_file_is_an_error_with_file_and_line(tmp_path, content, message):
    (tmp_path / "participants.tsv").write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        read_clinical_table(tmp_path)
    assert str(tmp_path / "participants.tsv") in str(caught.value)
    assert caught.value.exit_code == ExitCode.INVALID_BIDS


def test_visit_twice_is_an_error(write):
    root = write(files={"sub-01/sub-01_sessions.tsv": "session_id mrc\nses-m0 1\nses-m0 2\n"})
    with pytest.raises(DataError, match=r"sub-01, ses-m0 stands in lines 2 and 3"):
        read_clinical_table(root)


def test_table_in_another_encoding_is_an_error(tmp_path):
    (tmp_path / "participants.tsv").write_text("participant_id\tgroup\n", encoding="utf-16")
    with pytest.raises(DataError, match=r"cannot be read as text .* UTF-8"):
        read_rows(tmp_path / "participants.tsv", required=["participant_id"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_table_is_an_error(write):
    root = write()
    (root / "participants.tsv").chmod(0)
    with pytest.raises(DataError, match="cannot be read"):
        read_clinical_table(root)


def test_clinical_root_is_the_first_folder_with_participants(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "participants.tsv").touch()
    found = find_clinical_root(tmp_path / "raw", tmp_path / "out")
    assert found == tmp_path / "out"


def test_no_participants_anywhere_is_an_error_that_names_the_places(tmp_path):
    with pytest.raises(
        DataError, match=r"raw/participants.tsv or .*out/participants.tsv"
    ) as caught:
        find_clinical_root(tmp_path / "raw", tmp_path / "out")
    assert caught.value.exit_code == ExitCode.NO_INPUT


def test_exclusions_keep_participant_session_modality_and_reason(tmp_path):
    file = tmp_path / "out.tsv"
    rows = ["participant session modality reason", "01 m0 sodium moved", "sub-02 n/a n/a pump"]
    file.write_text(tabs("\n".join(rows)))
    columns = ["participant_id", "session_id", "modality", "image", "reason"]
    assert read_exclusions(file)[columns].values.tolist() == [
        ["sub-01", "ses-m0", "sodium", None, "moved"],
        ["sub-02", None, None, None, "pump"],
    ]


def test_exclusions_may_use_the_column_names_of_bids(tmp_path):
    file = tmp_path / "out.tsv"
    file.write_text("participant_id\tsession_id\treason\nsub-01\tses-m0\tmoved\n")
    row = read_exclusions(file).iloc[0]
    assert (row["participant_id"], row["session_id"]) == ("sub-01", "ses-m0")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("session\tmodality\treason\nm0\tsodium\tx\n", "no column participant_id"),
        ("participant\tmodality\n01\tsodium\n", "no column reason"),
        ("participant\treason\n01\tn/a\n", "line 2 has no reason"),
        ("participant\treason\n\tmoved\n", "line 2 has no participant"),
    ],
)
def test_bad_exclusions_are_an_error(tmp_path, content, message):
    (tmp_path / "out.tsv").write_text(content)
    with pytest.raises(DataError, match=message):
        read_exclusions(tmp_path / "out.tsv")


def test_exclusions_that_are_not_there_are_an_error(tmp_path):
    with pytest.raises(SettingsError, match=r"none.tsv: not found; .*correct the path"):
        read_exclusions(tmp_path / "none.tsv")


def test_quality_labels_exclude_images_of_either_level(tmp_path, add):
    add(
        tmp_path,
        "sub-01/sub-01_scans.tsv",
        tabs("filename qc\ndwi/a.nii.gz Fail\nanat/b.nii.gz pass"),
    )
    text = "filename\tqc\tqc_reason\ndwi/c.nii.gz\tfail\tspikes\ndwi/d.nii.gz\tn/a\tn/a\n"
    add(tmp_path, "sub-02/ses-m0/sub-02_ses-m0_scans.tsv", text)
    add(tmp_path, "sub-03/sub-03_scans.tsv", tabs("filename acq_time\ndwi/e.nii.gz n/a"))
    found = read_quality_labels(tmp_path, excluding=["fail"], keeping=["pass"])
    columns = ["participant_id", "session_id", "image", "reason"]
    assert found[columns].values.tolist() == [
        ["sub-01", None, "sub-01/dwi/a.nii.gz", "qc: Fail"],
        ["sub-02", "ses-m0", "sub-02/ses-m0/dwi/c.nii.gz", "qc: fail (spikes)"],
    ]


def test_unknown_quality_label_is_an_error(tmp_path, add):
    add(tmp_path, "sub-01/sub-01_scans.tsv", tabs("filename qc\ndwi/a.nii.gz bad"))
    with pytest.raises(DataError, match=r"line 2: qc is 'bad'; expected 'pass' or n/a .* 'fail'"):
        read_quality_labels(tmp_path, excluding=["fail"], keeping=["pass"])


def test_dataset_without_scans_files_excludes_nothing(tmp_path):
    found = read_quality_labels(tmp_path, excluding=["fail"], keeping=["pass"])
    assert len(found) == 0
    assert "reason" in found
