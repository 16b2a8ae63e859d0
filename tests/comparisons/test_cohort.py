from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from bids_alsmri.bids.clinical import ClinicalTable, read_clinical_table, read_exclusions
from bids_alsmri.comparisons.cohort import (
    CohortNames,
    Contrast,
    ProgressionRule,
    ScanState,
    contrasts_of,
    count_participation,
    covariate_columns,
    label_participants,
    participation,
    progression_rate,
    require_groups,
    require_known_exclusions,
)
from bids_alsmri.errors import DataError, NumericsError, SettingsError

HALF = ProgressionRule("threshold", 0.5)
MEDIAN = ProgressionRule("median")
NAMES = CohortNames()
COHORT = """
participant_id group disease_duration_months alsfrs_r
sub-01         als   10                      38
sub-02         als   40                      44
sub-03         als   18                      39
sub-04         als   n/a                     40
sub-05         als   20                      n/a
sub-06         hc    n/a                     n/a
sub-07         n/a   n/a                     n/a
"""


@pytest.fixture
def cohort(tmp_path):
    """Write participants.tsv, and sessions files by participant; read them as one table."""

    def run(people: str = COHORT, **files: str) -> ClinicalTable:
        _write(tmp_path / "participants.tsv", people)
        for name, text in files.items():
            who = f"sub-{name[1:]}"
            _write(tmp_path / who / f"{who}_sessions.tsv", text)
        return read_clinical_table(tmp_path)

    return run


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    lines = text.strip().splitlines()
    path.write_text("".join("\t".join(line.split()) + "\n" for line in lines))


def patients(*rows: tuple[object, object]) -> str:
    """Table of patients, one per score and duration."""
    lines = [f"sub-{i:02d} als {score} {months}" for i, (score, months) in enumerate(rows)]
    return "\n".join(["participant_id group alsfrs_r disease_duration_months", *lines])


def progression(table: pd.DataFrame) -> list[str | None]:
    return table["progression"].tolist()


def test_rate_is_points_lost_by_months():
    assert_allclose(progression_rate([48, 36, 0], [7, 24, 4]), [0.0, 0.5, 12.0])


def test_rate_is_missing_where_score_or_duration_is():
    assert_array_equal(progression_rate([np.nan, 40], [10, np.nan]), [np.nan, np.nan])


@pytest.mark.parametrize(
    ("score", "months", "message"),
    [
        (48.5, 10, "alsfrs_r is 48.5; expected 0 to 48 points"),
        (-1, 10, "alsfrs_r is -1; expected 0 to 48 points"),
        (40, 0, "duration_months is 0; expected more than 0 months"),
        (40, -3, "duration_months is -3; expected more than 0 months"),
        (40, np.inf, "duration_months is inf; expected more than 0 months"),
    ],
)
def test_rate_of_impossible_values_is_an_error(score, months, message):
    with pytest.raises(NumericsError, match=message):
        progression_rate([40, score], [10, months])


def test_progression_is_derived_where_there_is_no_column(cohort):
    table = label_participants(cohort(), NAMES, HALF)
    assert progression(table) == ["fast", "slow", "slow", None, None, None, None]
    assert_allclose(table["rate_per_month"], [1.0, 0.1, 0.5, np.nan, np.nan, np.nan, np.nan])
    assert table["origin"].tolist() == ["derived"] * 3 + [""] * 4


def test_label_table_keeps_rule_and_threshold(cohort):
    table = label_participants(cohort(), NAMES, ProgressionRule("threshold", 0.47))
    assert set(table["rule"]) == {"fast above 0.47 points per month, else slow"}
    assert set(table["threshold_per_month"]) == {0.47}


@pytest.mark.parametrize(
    ("score", "months", "threshold"),
    [
        (39, 18, 0.5),
        (1, 100, 0.47),
        (47, 3, 1 / 3),
        (43.3, 10, 0.47),  # 48 - 43.3 is a little more than 4.7
    ],
)
def test_rate_at_the_threshold_is_slow_and_noted(cohort, score, months, threshold):
    table = label_participants(
        cohort(patients((score, months))), NAMES, ProgressionRule("threshold", threshold)
    )
    assert progression(table) == ["slow"]
    assert table["note"].tolist() == ["rate equals the threshold: slow"]


def test_the_paper_s_two_thresholds_part_rates_between_them(cohort):
    clinical = cohort(patients((43.2, 10)))  # 0.48 points per month
    assert progression(label_participants(clinical, NAMES, HALF)) == ["slow"]
    other = ProgressionRule("threshold", 0.47)
    assert progression(label_participants(clinical, NAMES, other)) == ["fast"]


def test_median_split_halves_an_even_number(cohort):
    # 18 patients as in Cosottini 2016, all rates different
    clinical = cohort(patients(*[(48 - i, 10) for i in range(1, 19)]))
    table = label_participants(clinical, NAMES, MEDIAN)
    assert progression(table) == ["slow"] * 9 + ["fast"] * 9
    assert_allclose(table["threshold_per_month"], 0.95)


def test_median_split_is_not_moved_by_one_very_fast_patient(cohort):
    table = label_participants(
        cohort(patients((47, 10), (46, 10), (45, 10), (0, 2))), NAMES, MEDIAN
    )
    assert progression(table) == ["slow", "slow", "fast", "fast"]


def test_median_split_of_an_odd_number_leaves_the_middle_slow(cohort):
    table = label_participants(cohort(patients((47, 10), (46, 10), (45, 10))), NAMES, MEDIAN)
    assert progression(table) == ["slow", "slow", "fast"]


def test_given_progression_stands_and_a_contradiction_is_noted(cohort):
    table = label_participants(
        cohort(
            """
            participant_id group progression alsfrs_r disease_duration_months
            sub-01 als slow 38 10
            sub-02 als fast 38 10
            sub-03 als fast n/a n/a
            sub-04 als n/a  38 10
            sub-05 hc  n/a  n/a n/a
            """
        ),
        NAMES,
        HALF,
    )
    assert progression(table) == ["slow", "fast", "fast", "fast", None]
    assert table["origin"].tolist() == ["given", "given", "given", "derived", ""]
    assert table["note"].tolist() == ["by its rate it would be fast", "", "", "", ""]


def test_missing_score_or_duration_leaves_progression_unknown_with_the_reason(cohort):
    notes = label_participants(cohort(), NAMES, HALF)["note"].tolist()
    assert notes[3:5] == ["disease_duration_months is n/a", "alsfrs_r is n/a"]


def test_missing_columns_leave_progression_unknown_with_the_reason(cohort):
    clinical = cohort("participant_id group\nsub-01 als\nsub-02 hc\n")
    assert label_participants(clinical, NAMES, HALF)["note"].tolist() == [
        "there is no column alsfrs_r; there is no column disease_duration_months",
        "",
    ]


def test_rate_is_that_of_the_first_visit_that_has_both(cohort):
    visits = """
    session_id alsfrs_r disease_duration_months
    ses-m0 n/a 8
    ses-m4 36 12
    ses-m12 20 20
    """
    clinical = cohort("participant_id group\nsub-01 als\nsub-02 hc\n", s01=visits)
    row = label_participants(clinical, NAMES, HALF).iloc[0]
    assert (row["session_id"], row["rate_per_month"], row["note"]) == ("ses-m4", 1.0, "")


def test_names_of_columns_and_labels_can_be_others(cohort):
    names = CohortNames("diagnosis", "speed", "score", "months", "1", "0", "quick", "mild", ("2",))
    text = "participant_id diagnosis score months\nsub-1 1 38 10\nsub-2 0 n/a n/a\nsub-3 2 n/a n/a"
    table = label_participants(cohort(text), names, HALF)
    assert table["group"].tolist() == ["1", "0", "2"]
    assert progression(table) == ["quick", None, None]
    assert [contrast.name for contrast in contrasts_of(names)] == [
        *("1-0", "quick-0", "mild-0", "quick-mild")
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "participant_id diagnosis\nsub-01 als\n",
            r"participants.tsv: no column group .*expected one of diagnosis; add the column",
        ),
        ("participant_id groups\nsub-01 als\n", r"did you mean groups\?"),
        (
            "participant_id group\nsub-01 ALS\nsub-02 hc\nsub-03 ALS\n",
            r"participants.tsv: group is 'ALS' for sub-01, sub-03; expected 'als' or 'hc', or n/a",
        ),
        (
            "participant_id group progression\nsub-01 als rapid\n",
            r"progression is 'rapid' for sub-01; expected 'fast' or 'slow', or n/a; correct",
        ),
        (
            "participant_id group progression\nsub-01 hc fast\n",
            r"progression is 'fast' for sub-01, whose group is 'hc'; expected n/a for controls",
        ),
        (
            patients((40, 12), (49, 12)),
            r"participants.tsv: alsfrs_r of sub-01 is 49; expected 0 to 48 points; correct",
        ),
        (patients((-1, 12)), r"alsfrs_r of sub-00 is -1; expected 0 to 48 points"),
        (
            patients((40, 0)),
            r"disease_duration_months of sub-00 is 0; expected more than 0 months .* write n/a",
        ),
        (patients((40, -2)), r"disease_duration_months of sub-00 is -2; expected more than 0"),
        (
            patients((40, 12), (40, "12m")),
            r"disease_duration_months of sub-01 is '12m'; expected a number .*no unit, or n/a",
        ),
        (patients(("40,5", 12)), r"alsfrs_r of sub-00 is '40,5'; expected a number"),
    ],
)
def test_bad_clinical_values_are_errors_with_file_value_and_remedy(cohort, text, message):
    with pytest.raises(DataError, match=message):
        label_participants(cohort(text), NAMES, HALF)


def test_bad_value_of_a_visit_names_the_participant_s_sessions_file(cohort):
    clinical = cohort(
        "participant_id group disease_duration_months\nsub-01 als 10\n",
        s01="session_id alsfrs_r\nses-m0 50\n",
    )
    with pytest.raises(DataError, match=r"sub-01/sub-01_sessions.tsv: alsfrs_r of sub-01 is 50"):
        label_participants(clinical, NAMES, HALF)


def test_group_that_changes_between_visits_is_an_error(cohort):
    clinical = cohort(
        "participant_id age\nsub-01 60\n", s01="session_id group\nses-m0 hc\nses-m4 als\n"
    )
    with pytest.raises(DataError, match=r"group of sub-01 is 'hc' and 'als' at different visits"):
        label_participants(clinical, NAMES, HALF)


def test_duration_in_years_is_an_error(cohort, tmp_path):
    cohort()
    text = '{"disease_duration_months": {"Units": "year"}}'
    (tmp_path / "participants.json").write_text(text)
    with pytest.raises(DataError, match=r"participants.json: Units of .* is 'year'; expected 'mo"):
        label_participants(read_clinical_table(tmp_path), NAMES, HALF)


def test_duration_of_a_control_is_not_looked_at(cohort):
    text = "participant_id group alsfrs_r disease_duration_months\nsub-01 hc 48 0\n"
    assert progression(label_participants(cohort(text), NAMES, HALF)) == [None]


@pytest.mark.parametrize("threshold", [None, 0.0, -0.5, np.nan, np.inf])
def test_threshold_must_be_a_positive_rate(threshold):
    with pytest.raises(SettingsError, match="expected a positive rate in points per month"):
        ProgressionRule("threshold", threshold)


def test_median_split_takes_no_threshold():
    with pytest.raises(SettingsError, match=r"threshold_per_month is 0.5 but progression is split"):
        ProgressionRule("median", 0.5)


def test_one_label_for_two_groups_is_an_error():
    with pytest.raises(SettingsError, match="'als' names more than one group"):
        CohortNames(others=("als",))


def test_contrasts_are_those_of_the_paper():
    assert [(c.first, c.second) for c in contrasts_of(NAMES)] == [
        ("als", "hc"),
        ("fast", "hc"),
        ("slow", "hc"),
        ("fast", "slow"),
    ]


ALS_HC = Contrast("als", "hc")
PEOPLE = """
participant_id group progression age sex
sub-01 als fast 60 male
sub-02 als slow 61 female
sub-03 als n/a  62 male
sub-04 hc  n/a  63 female
sub-05 hc  n/a  n/a male
sub-06 n/a n/a  64 male
"""


def scans_of(*numbers: int, session: str | None = None, failure: str = "") -> list[ScanState]:
    """Sodium scans of participants by number."""
    return [
        ScanState(
            f"sub-{number:02d}",
            session,
            "sodium",
            f"sub-{number:02d}_{session or 'none'}",
            frozenset({f"sub-{number:02d}/anat/sodium.nii.gz"}),
            failure,
        )
        for number in numbers
    ]


def excluded(*rows: dict[str, str]) -> pd.DataFrame:
    """Exclusions as the readers of clinical.py return them."""
    columns = ["participant_id", "session_id", "modality", "image", "reason", "source"]
    empty = dict.fromkeys(columns)
    full = [{**empty, "reason": "moved", "source": "out.tsv, line 2", **row} for row in rows]
    return pd.DataFrame(full, columns=columns, dtype=object)


def flow_of(
    clinical: ClinicalTable,
    scans: Iterable[ScanState],
    *exclusions: dict[str, str],
    contrasts: tuple[Contrast, ...] = (ALS_HC,),
    covariates: tuple[str, ...] = (),
    once: bool = True,
) -> pd.DataFrame:
    return participation(
        clinical,
        label_participants(clinical, NAMES, HALF),
        list(scans),
        excluded(*exclusions),
        names=NAMES,
        contrasts=contrasts,
        modalities=["sodium"],
        covariates=covariates,
        once_per_participant=once,
    )


def outcome(flow: pd.DataFrame) -> dict[str, str]:
    """Reason by participant; 'in' for who takes part."""
    reasons = [row["reason"] or "in" for row in flow.to_dict("records")]
    return {who[-2:]: why for who, why in zip(flow["participant_id"], reasons, strict=True)}


def test_each_reason_to_be_out_is_told(cohort):
    flow = flow_of(
        cohort(PEOPLE),
        [*scans_of(1, 3, 4, 5, 6), *scans_of(2, failure="registration failed")],
        {"participant_id": "sub-03"},
        covariates=("age",),
    )
    assert outcome(flow) == {
        "01": "in",
        "02": "failed",
        "03": "excluded",
        "04": "in",
        "05": "missing covariate",
        "06": "missing covariate",
    }
    assert flow["detail"].tolist() == [
        *("", "registration failed", "moved (out.tsv, line 2)", "", "age is n/a", "group is n/a")
    ]
    assert flow["is_included"].tolist() == [True, False, False, True, False, False]


def test_participant_without_scan_is_told(cohort):
    assert outcome(flow_of(cohort(PEOPLE), scans_of(1)))["02"] == "no scan"


@pytest.mark.parametrize(
    ("contrast", "expected"),
    [
        (("als", "hc"), {"01": "als", "02": "als", "03": "als", "04": "hc", "05": "hc"}),
        (("fast", "hc"), {"01": "fast", "04": "hc", "05": "hc"}),
        (("slow", "hc"), {"02": "slow", "04": "hc", "05": "hc"}),
        (("fast", "slow"), {"01": "fast", "02": "slow"}),
    ],
)
def test_each_contrast_compares_its_own_two_groups(cohort, contrast, expected):
    flow = flow_of(cohort(PEOPLE), scans_of(1, 2, 3, 4, 5, 6), contrasts=(Contrast(*contrast),))
    included = flow[flow["is_included"]]
    sides = {who[-2:]: side for who, side in included[["participant_id", "group"]].to_numpy()}
    assert sides == expected


def test_patient_of_unknown_progression_is_out_of_fast_and_slow_with_the_reason(cohort):
    flow = flow_of(cohort(PEOPLE), scans_of(3), contrasts=(Contrast("fast", "hc"),))
    row = flow[flow["participant_id"] == "sub-03"].iloc[0]
    assert (row["group"], row["reason"]) == (None, "missing covariate")
    assert row["detail"].startswith("progression is unknown: there is no column alsfrs_r")


def test_scan_of_someone_without_row_in_participants_is_told(cohort):
    flow = flow_of(cohort(PEOPLE), scans_of(1, 9))
    row = flow[flow["participant_id"] == "sub-09"].iloc[0]
    assert (row["reason"], row["detail"]) == ("missing covariate", "no row in participants.tsv")


def test_other_groups_are_in_no_contrast(cohort):
    names = CohortNames(others=("pma",))
    clinical = cohort("participant_id group\nsub-01 pma\nsub-02 hc\n")
    flow = participation(
        clinical,
        label_participants(clinical, names, HALF),
        scans_of(1, 2),
        excluded(),
        names=names,
        contrasts=contrasts_of(names),
        modalities=["sodium"],
        covariates=[],
        once_per_participant=True,
    )
    assert set(flow["participant_id"]) == {"sub-02"}


@pytest.mark.parametrize(
    ("rule", "is_out"),
    [
        ({}, True),
        ({"session_id": "ses-m0"}, True),
        ({"session_id": "ses-m4"}, False),
        ({"modality": "sodium"}, True),
        ({"modality": "diffusion"}, False),
        ({"image": "sub-01/anat/sodium.nii.gz"}, True),
        ({"image": "sub-01/anat/other.nii.gz"}, False),
        ({"participant_id": "sub-02"}, False),
    ],
)
def test_exclusion_holds_where_all_that_it_names_fits(cohort, rule, is_out):
    scans = scans_of(1, session="ses-m0")
    flow = flow_of(cohort(PEOPLE), scans, {"participant_id": "sub-01", **rule})
    assert outcome(flow)["01"] == ("excluded" if is_out else "in")


def test_exclusion_goes_before_failure(cohort):
    flow = flow_of(cohort(PEOPLE), scans_of(1, failure="x"), {"participant_id": "sub-01"})
    assert outcome(flow)["01"] == "excluded"


def test_file_of_exclusions_reaches_the_flow_with_file_and_line(cohort, tmp_path):
    _write(tmp_path / "out.tsv", "participant session modality reason\n01 n/a sodium pump")
    clinical = cohort(PEOPLE)
    rows = read_exclusions(tmp_path / "out.tsv").to_dict("records")
    flow = flow_of(clinical, scans_of(1), *rows)
    assert flow["detail"].iloc[0] == f"pump ({tmp_path / 'out.tsv'}, line 2)"


def test_first_usable_visit_counts_and_later_ones_are_told(cohort):
    visits = "session_id\nses-m0\nses-m4\nses-m12\n"
    scans = [
        *scans_of(1, session="ses-m0", failure="x"),
        *scans_of(1, session="ses-m12"),
        *scans_of(1, session="ses-m4"),
    ]
    flow = flow_of(cohort("participant_id group\nsub-01 als\n", s01=visits), scans)
    assert flow["session_id"].tolist() == ["ses-m0", "ses-m4", "ses-m12"]
    assert flow["reason"].tolist() == ["failed", "", "another scan was taken"]


def test_all_visits_count_where_the_comparison_knows_blocks(cohort):
    scans = [*scans_of(1, session="ses-m4"), *scans_of(1, session="ses-m12")]
    flow = flow_of(cohort(PEOPLE), scans, once=False)
    own = flow[flow["participant_id"] == "sub-01"]
    assert own["session_id"].tolist() == ["ses-m4", "ses-m12"]
    assert own["is_included"].all()


def test_visit_of_the_tables_without_scan_is_told(cohort):
    visits = "session_id\nses-m0\nses-m4\n"
    clinical = cohort("participant_id group\nsub-01 als\n", s01=visits)
    flow = flow_of(clinical, scans_of(1, session="ses-m0"))
    assert flow["reason"].tolist() == ["", "no scan"]


@pytest.mark.parametrize("session", [None, "ses-m0"])
def test_tables_of_one_visit_fit_images_with_and_without_sessions(cohort, session):
    tables = {} if session else {"s01": "session_id\nses-m0\n"}
    clinical = cohort("participant_id group age\nsub-01 als 60\n", **tables)
    flow = flow_of(clinical, scans_of(1, session=session), covariates=("age",))
    assert flow["reason"].tolist() == [""]


def test_covariate_of_the_scan_s_own_visit_counts(cohort):
    visits = "session_id mrc\nses-m0 n/a\nses-m4 130\n"
    scans = [*scans_of(1, session="ses-m0"), *scans_of(1, session="ses-m4")]
    clinical = cohort("participant_id group\nsub-01 als\n", s01=visits)
    flow = flow_of(clinical, scans, covariates=("mrc",))
    assert flow["reason"].tolist() == ["missing covariate", ""]


def test_scan_of_a_visit_without_row_lacks_covariates(cohort):
    visits = "session_id mrc\nses-m0 140\nses-m4 130\n"
    clinical = cohort("participant_id group\nsub-01 als\n", s01=visits)
    flow = flow_of(clinical, scans_of(1, session="ses-m9"), covariates=("mrc",))
    assert flow["detail"].tolist() == ["", "", "no row for ses-m9"]


def test_unknown_covariate_is_an_error(cohort):
    with pytest.raises(DataError, match=r"no column Age .*did you mean age\?"):
        flow_of(cohort(PEOPLE), scans_of(1), covariates=("Age",))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"participant_id": "sub-1"}, r"out.tsv, line 2: participant sub-1 .*did you mean sub-01"),
        ({"participant_id": "sub-01", "session_id": "ses-m1"}, r"session ses-m1 .*expected one of"),
        ({"participant_id": "sub-01", "modality": "Sodium"}, r"modality Sodium .*mean sodium\?"),
    ],
)
def test_exclusion_of_what_the_dataset_lacks_is_an_error(row, message):
    known = {"participants": ["sub-01"], "sessions": ["ses-m0"], "modalities": ["sodium"]}
    with pytest.raises(DataError, match=message):
        require_known_exclusions(excluded(row), **known)


def test_exclusions_of_known_scans_and_of_scans_files_pass():
    rows = excluded(
        {"participant_id": "sub-01", "session_id": "ses-m0", "modality": "sodium"},
        {"participant_id": "sub-77", "image": "sub-77/dwi/sub-77_dwi.nii.gz"},
    )
    require_known_exclusions(
        rows, participants=["sub-01"], sessions=["ses-m0"], modalities=["sodium"]
    )


def test_counts_are_those_of_participants(cohort):
    scans = [
        *scans_of(1, session="ses-m0", failure="x"),
        *scans_of(1, session="ses-m4"),
        *scans_of(2, session="ses-m0", failure="x"),
        *scans_of(4),
    ]
    counts = count_participation(flow_of(cohort(PEOPLE), scans, once=False))
    columns = ["group", "n_participants", "n_included", "no scan", "failed", "missing covariate"]
    assert counts[columns].to_numpy().tolist() == [
        ["als", 3, 1, 1, 1, 0],
        ["hc", 2, 1, 1, 0, 0],
        ["n/a", 1, 0, 1, 0, 0],
    ]


@pytest.mark.parametrize(("n_least", "n_named"), [(1, 0), (2, 0), (3, 1), (4, 2)])
def test_group_that_is_too_small_is_an_error(cohort, n_least, n_named):
    flow = flow_of(cohort(PEOPLE), scans_of(1, 2, 3, 4, 5))
    arguments = {"contrasts": (ALS_HC,), "modalities": ["sodium"], "source": Path("people.tsv")}
    if not n_named:
        require_groups(flow, n_least=n_least, **arguments)
        return
    with pytest.raises(DataError, match=f"people.tsv: .*at least {n_least} in each") as caught:
        require_groups(flow, n_least=n_least, **arguments)
    assert str(caught.value).count("\n  sodium, als-hc: ") == n_named


def test_empty_group_names_what_became_of_its_members(cohort):
    flow = flow_of(cohort(PEOPLE), scans_of(1, 2, 4), {"participant_id": "sub-04"})
    with pytest.raises(DataError, match=r"0 in 'hc' \(2 of .*0 included, 1 no scan, 1 excluded\)"):
        require_groups(
            flow, contrasts=(ALS_HC,), modalities=["sodium"], n_least=1, source=Path("p.tsv")
        )


def test_group_that_nobody_is_in_is_an_error(cohort):
    contrast = Contrast("fast", "hc")
    clinical = cohort("participant_id group\nsub-01 hc\nsub-02 hc\n")
    flow = flow_of(clinical, scans_of(1, 2), contrasts=(contrast,))
    with pytest.raises(DataError, match=r"fast-hc: 0 in 'fast' \(nobody has that label\)"):
        require_groups(
            flow, contrasts=(contrast,), modalities=["sodium"], n_least=1, source=Path("p.tsv")
        )


COVARIATES = """
participant_id group age  sex    site  years scanner dose
sub-01         als   60   male   Pisa  60    A       1
sub-02         als   50   female Pisa  50    A       2
sub-03         als   55.5 male   Paris 55.5  A       3
sub-04         als   71   female Lyon  71    A       1
sub-05         hc    60   male   Pisa  60    A       4
sub-06         hc    44   female Paris 44    A       5
sub-07         hc    52   male   Lyon  52    A       4
sub-08         hc    58   female Lyon  58    A       few
"""


def columns_of(clinical: ClinicalTable, *covariates: str) -> pd.DataFrame:
    flow = flow_of(clinical, scans_of(*range(1, 9)), covariates=covariates)
    return covariate_columns(clinical, flow[flow["is_included"]], covariates)


def test_covariates_become_numbers_and_one_column_per_label_but_the_first(cohort):
    table = columns_of(cohort(COVARIATES), "age", "sex", "site")
    assert table.columns.tolist() == ["age", "sex[male]", "site[Paris]", "site[Pisa]"]
    assert table["age"].tolist() == [60, 50, 55.5, 71, 60, 44, 52, 58]
    assert table["sex[male]"].tolist() == [1, 0, 1, 0, 1, 0, 1, 0]
    assert table["site[Paris]"].tolist() == [0, 0, 1, 0, 0, 1, 0, 0]


def test_numbers_with_levels_are_labels(cohort, tmp_path):
    cohort(COVARIATES.replace("Pisa", "1").replace("Paris", "2").replace("Lyon", "3"))
    (tmp_path / "participants.json").write_text('{"site": {"Levels": {"1": "Pisa"}}}')
    table = columns_of(read_clinical_table(tmp_path), "site")
    assert table.columns.tolist() == ["site[2]", "site[3]"]


def test_no_covariates_give_no_columns(cohort):
    assert columns_of(cohort(COVARIATES)).shape == (8, 0)


@pytest.mark.parametrize(
    ("covariates", "message"),
    [
        (
            ("scanner",),
            r"participants.tsv: covariate scanner is 'A' for all 8 participants of als-hc "
            r"\(sodium\); expected at least two values; leave the covariate out",
        ),
        (
            ("age", "years"),
            r"covariate years: column years follows from the group and age in als-hc \(sodium\)",
        ),
        (("group",), r"covariate group: column group\[hc\] follows from the group in als-hc"),
        (("dose",), r"covariate dose of sub-08 is 'few' where others are numbers; expected a numb"),
        (("age", "sex", "participant"), r"no column participant "),
    ],
)
def test_covariate_without_use_is_an_error_with_file_and_remedy(cohort, covariates, message):
    with pytest.raises(DataError, match=message):
        columns_of(cohort(COVARIATES), *covariates)


def test_covariate_that_differs_between_groups_only_is_an_error(cohort):
    text = "participant_id group age\n" + "".join(
        f"sub-{i:02d} {'als' if i < 5 else 'hc'} {60 if i < 5 else 50}\n" for i in range(1, 9)
    )
    with pytest.raises(DataError, match="column age follows from the group in als-hc"):
        columns_of(cohort(text), "age")


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_collinearity_does_not_depend_on_scale_or_offset(cohort, scale):
    ages = np.random.default_rng(3).uniform(40, 70, 8)
    rows = [
        f"sub-{i + 1:02d} {'als' if i < 4 else 'hc'} {age!r} {scale * (age + 7)!r}"
        for i, age in enumerate(ages.tolist())
    ]
    clinical = cohort("\n".join(["participant_id group age other", *rows]))
    with pytest.raises(DataError, match="column other follows from the group and age"):
        columns_of(clinical, "age", "other")


def test_the_same_quantity_in_another_unit_and_rounded_is_an_error(cohort):
    years = np.random.default_rng(3).normal(55, 10, 8).round(1)
    rows = [
        f"sub-{i + 1:02d} {'als' if i < 4 else 'hc'} {age} {round(12 * age)}"
        for i, age in enumerate(years.tolist())
    ]
    clinical = cohort("\n".join(["participant_id group years months", *rows]))
    with pytest.raises(DataError, match="column months follows from the group and years"):
        columns_of(clinical, "years", "months")


def test_correlated_covariates_pass(cohort):
    # 99 % of the variance shared
    rng = np.random.default_rng(3)
    ages = rng.normal(55, 10, 8)
    rows = [
        f"sub-{i + 1:02d} {'als' if i < 4 else 'hc'} {age} {age + rng.normal(0, 1)}"
        for i, age in enumerate(ages.tolist())
    ]
    clinical = cohort("\n".join(["participant_id group age other", *rows]))
    assert columns_of(clinical, "age", "other").shape == (8, 2)


def test_more_columns_than_participants_are_an_error(cohort):
    text = "participant_id group a b\nsub-01 als 1 3\nsub-02 als 2 9\nsub-03 hc 4 1\nsub-04 hc 7 2"
    with pytest.raises(
        DataError, match=r"4 participants of als-hc .* 4 columns of the model leave"
    ):
        columns_of(cohort(text), "a", "b")


def test_missing_covariate_of_someone_included_is_an_error(cohort):
    clinical = cohort(PEOPLE)
    flow = flow_of(clinical, scans_of(1, 2, 4, 5))
    with pytest.raises(DataError, match=r"covariate age of sub-05 is n/a; expected a value"):
        covariate_columns(clinical, flow[flow["is_included"]], ["age"])
