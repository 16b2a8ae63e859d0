from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from bids_alsmri.bids.clinical import ClinicalTable, read_clinical_table
from bids_alsmri.comparisons.cohort import (
    CohortNames,
    ProgressionRule,
    contrasts_of,
    label_participants,
    progression_rate,
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
    [(39, 18, 0.5), (1, 100, 0.47), (47, 3, 1 / 3), (46.6, 1.4 / 0.47, 0.47)],
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
