"""Clinical values that cannot be are named and left out; nothing is guessed."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bids_alsmri.bids.clinical import ClinicalTable, read_clinical_table
from bids_alsmri.bids.clinical_checks import check_clinical


def _checked(units=None, **columns):
    n = max(len(values) for values in columns.values())
    rows = pd.DataFrame(
        {
            "participant_id": [f"sub-{k:02d}" for k in range(n)],
            "session_id": [None] * n,
            **columns,
        }
    )
    return check_clinical(ClinicalTable(Path("raw"), rows, {}, units or {}, frozenset()))


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("alsfrs_r", 49.0, "outside 0 to 48 points"),
        ("alsfrs_r", 40.5, "expected a whole number"),
        ("alsfrs_r_12", 5.0, "outside 0 to 4 points"),
        ("umn_score", 34.0, "outside 0 to 33 points"),
        ("umn_left_arm", 9.0, "outside 0 to 8 points"),
        ("mrc_sum", 171.0, "outside 0 to 170 points"),
        ("mrc_left_deltoid", 6.0, "outside 0 to 5 points"),
        ("age", -1.0, "outside 0 to 120 year"),
        ("munix_biceps_brachii", -5.0, "outside 0 to 2000 1"),
        ("frap", -0.1, "outside 0 or more"),
        ("weight", "78,5", "decimal comma; expected a point"),
        ("weight", "78 kg", "no number"),
        ("el_escorial", "certain", "none of definite"),
        ("onset_date", "2021-02-29", "no date such as"),
    ],
)
def test_what_cannot_be_is_rejected_by_name(column, value, reason):
    found = _checked(**{column: [value, None]})
    row = found.rejected.iloc[0]
    assert row["participant_id"] == "sub-00"
    assert row["column"] == column
    assert row["reason"].startswith(reason)
    assert found.table.visits[column].isna().all()
    assert found.missing.set_index("column").loc[column].tolist() == [0, 2, 1]


@pytest.mark.parametrize(
    "text", ["Definite", "clinically probable", "Probable laboratory-supported"]
)
def test_classes_of_el_escorial_are_known_as_people_write_them(text):
    assert not len(_checked(el_escorial=[text, None]).rejected)


@pytest.mark.parametrize(("n_items", "most"), [(26, 130), (34, 170)])
def test_most_strength_is_by_the_muscles_that_are_there(n_items, most):
    items = {f"mrc_m{k}": [5.0, 5.0] for k in range(n_items)}
    found = _checked(mrc_sum=[float(most), most + 1.0], **items)
    assert found.rejected["value"].tolist() == [str(most + 1)]


def test_a_duration_in_years_is_implausible():
    found = _checked(alsfrs_r=[30.0, 30.0, 48.0], disease_duration_months=[1.5, 18.0, 1.0])
    assert found.rejected["value"].tolist() == ["1.5"]
    assert "perhaps in years" in found.rejected["reason"].iloc[0]
    assert np.isnan(found.table.visits["disease_duration_months"].iloc[0])


def test_a_unit_of_years_rejects_all_durations():
    found = _checked({"disease_duration_months": "year"}, disease_duration_months=[1.5, 2.0])
    assert set(found.rejected["reason"]) == {"in year by its sidecar, expected month"}


def test_a_visit_before_the_first_symptoms_is_impossible():
    found = _checked(onset_date=["2020-05-01"] * 2, visit_date=["2020-04-30", "2020-06-01"])
    assert found.rejected[["participant_id", "column"]].values.tolist() == [
        ["sub-00", "visit_date"]
    ]


def test_a_total_that_its_items_do_not_make_is_told():
    items = {f"alsfrs_r_{k}": [4.0] for k in range(1, 13)}
    found = _checked(alsfrs_r=[40.0], **items)
    assert "its 12 items make 48" in found.warnings[0]


def test_twins_are_told():
    found = _checked(age=[60.0, 60.0], alsfrs_r=[40.0, 40.0], umn_score=[3.0] * 2, mmse=[30.0] * 2)
    assert "sub-01 has the same clinical values as sub-00" in found.warnings[0]


def test_a_file_is_named(tmp_path):
    (tmp_path / "participants.tsv").write_text("participant_id\tgroup\nsub-01\tals\n")
    (tmp_path / "phenotype").mkdir()
    (tmp_path / "phenotype" / "umn.tsv").write_text("participant_id\tumn_score\nsub-01\t35\n")
    found = check_clinical(read_clinical_table(tmp_path))
    assert found.rejected["file"].iloc[0] == str(tmp_path / "phenotype" / "umn.tsv")


def test_what_is_right_stays():
    found = _checked(alsfrs_r=[40.0, np.nan], sex=["F", "M"], hobby=["chess", "1,5"])
    assert not len(found.rejected)
    assert found.table.visits["hobby"].tolist() == ["chess", "1,5"]


def test_a_duration_of_the_first_visit_grows_with_the_months(tmp_path):
    text = "participant_id\tgroup\tdisease_duration_months\nsub-01\tals\t4\nsub-02\tals\t4\n"
    (tmp_path / "participants.tsv").write_text(text)
    for who, last in (("sub-01", 10), ("sub-02", 30)):
        (tmp_path / who).mkdir()
        rows = f"session_id\tmonths\talsfrs_r\nses-m00\t0\t{last + 4}\nses-m12\t12\t{last}\n"
        (tmp_path / who / f"{who}_sessions.tsv").write_text(rows)
    found = check_clinical(read_clinical_table(tmp_path)).rejected
    # 34 points in 4 months cannot be; 38 in 16 can, and so can 18 in 16
    assert found[["participant_id", "session_id"]].values.tolist() == [["sub-01", "ses-m00"]]
