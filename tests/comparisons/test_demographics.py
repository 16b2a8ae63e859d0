from __future__ import annotations

import re
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from scipy import stats
from statsmodels.stats.weightstats import ttest_ind

from bids_alsmri.bids.clinical import ClinicalTable, read_clinical_table
from bids_alsmri.comparisons.cohort import (
    CohortNames,
    Contrast,
    ProgressionRule,
    contrasts_of,
    label_participants,
)
from bids_alsmri.comparisons.demographics import (
    Variable,
    baseline,
    compare_counts,
    compare_numbers,
    describe,
    format_table,
)
from bids_alsmri.errors import DataError, NumericsError, SettingsError

ALS_HC = Contrast("als", "hc")
HALF = ProgressionRule("threshold", 0.5)


def people(**columns: list[object]) -> pd.DataFrame:
    """Participants, patients first and then as many controls."""
    n = len(next(iter(columns.values())))
    group = ["als"] * (n // 2) + ["hc"] * (n - n // 2)
    who = [f"sub-{i:02d}" for i in range(n)]
    return pd.DataFrame({"participant_id": who, "group": group, "progression": None, **columns})


def describe_one(table: pd.DataFrame, column: str, test: str):
    clinical = ClinicalTable(Path("raw"), table, {}, {}, frozenset())
    return describe(clinical, table, [Variable(column, test)], [ALS_HC])


def group_row(found, group: str) -> pd.Series:
    return found.summary[found.summary["group"] == group].iloc[0]


def test_numbers_are_summarised_by_closed_form():
    row = group_row(
        describe_one(people(age=[1.0, 2.0, 3.0, 4.0, 5.0] + [9.0] * 5), "age", "t"), "als"
    )
    assert (row["n"], row["mean"], row["median"], row["q1"], row["q3"]) == (5, 3, 3, 2, 4)
    assert_allclose(row["sd"], np.sqrt(2.5))


def test_missing_numbers_are_counted_and_left_out():
    found = describe_one(people(age=[50.0, np.nan, 52.0, 60.0, 61.0, None]), "age", "t")
    row = group_row(found, "als")
    assert (row["n"], row["n_missing"], row["mean"]) == (2, 1, 51)
    assert found.tests[["n_first", "n_second"]].to_numpy().tolist() == [[2, 2]]


def test_labels_are_counted_with_their_share_of_those_known():
    sex = ["male", "male", "female", None, "female", "female", "female", "male"]
    summary = describe_one(people(sex=sex), "sex", "fisher").summary
    columns = ["level", "group", "n", "n_missing", "count"]
    assert summary[columns].to_numpy().tolist() == [
        ["female", "als", 3, 1, 1],
        ["male", "als", 3, 1, 2],
        ["female", "hc", 4, 0, 3],
        ["male", "hc", 4, 0, 1],
    ]
    assert_allclose(summary["percent"], [100 / 3, 200 / 3, 75, 25])


def test_groups_overlap_as_their_contrasts_do(tmp_path):
    rows = [
        "participant_id\tgroup\tprogression\tage",
        "sub-1\tals\tfast\t60",
        "sub-2\tals\tslow\t50",
    ]
    (tmp_path / "participants.tsv").write_text("\n".join([*rows, "sub-3\thc\tn/a\t40\n"]))
    clinical = read_clinical_table(tmp_path)
    table = baseline(clinical, label_participants(clinical, CohortNames(), HALF))
    found = describe(clinical, table, [Variable("age", "t")], contrasts_of(CohortNames()))
    means = dict(found.summary[["group", "mean"]].to_numpy().tolist())
    assert means == {"als": 55, "hc": 40, "fast": 60, "slow": 50}
    assert found.tests["contrast"].tolist() == ["als-hc", "fast-hc", "slow-hc", "fast-slow"]


def test_baseline_is_the_first_visit_with_the_rate_of_its_own(tmp_path):
    text = "participant_id\tgroup\tsex\nsub-01\tals\tmale\n"
    (tmp_path / "participants.tsv").write_text(text)
    (tmp_path / "sub-01").mkdir()
    (tmp_path / "sub-01" / "sub-01_sessions.tsv").write_text(
        "session_id\talsfrs_r\tdisease_duration_months\nses-m0\tn/a\t8\nses-m4\t36\t12\n"
    )
    clinical = read_clinical_table(tmp_path)
    row = baseline(clinical, label_participants(clinical, CohortNames(), HALF)).iloc[0]
    assert (row["session_id"], row["progression"], row["rate_per_month"]) == ("ses-m0", "fast", 1.0)
    assert np.isnan(row["alsfrs_r"])


def samples() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(11)
    return rng.normal(55, 10, 13), rng.normal(51, 4, 24)


@pytest.mark.parametrize(("test", "usevar"), [("t", "pooled"), ("welch", "unequal")])
def test_t_equals_statsmodels(test, usevar):
    first, second = samples()
    statistic, p, dof = ttest_ind(first, second, usevar=usevar)
    found = compare_numbers(first, second, test)
    assert_allclose((found.statistic, found.p, found.dof), (statistic, p, dof), rtol=1e-10)


def test_t_is_the_closed_form_of_two_small_groups():
    # means 2 and 5, pooled variance 1: t = -3 / sqrt(2 / 3), 4 degrees of freedom
    found = compare_numbers([1, 2, 3], [4, 5, 6], "t")
    t = -3 / np.sqrt(2 / 3)
    assert_allclose((found.statistic, found.dof), (t, 4))
    assert_allclose(found.p, 2 * stats.t.sf(-t, 4))


@pytest.mark.parametrize("n_others", [5, 12])
def test_exact_ranks_equal_the_enumeration_of_all_groups(n_others):
    values = np.random.default_rng(5).normal(size=3 + n_others)
    ranks = stats.rankdata(values)
    sums = np.array([ranks[list(chosen)].sum() for chosen in combinations(range(len(values)), 3)])
    centre = 3 * (len(values) + 1) / 2
    expected = np.mean(np.abs(sums - centre) >= abs(ranks[:3].sum() - centre) - 1e-9)
    found = compare_numbers(values[:3], values[3:], "mann-whitney")
    assert found.test == "Mann-Whitney U (exact)"
    assert_allclose(found.p, expected)


@pytest.mark.parametrize("decimals", [0, 6])
def test_ranks_of_larger_or_tied_groups_are_approximate_and_say_so(decimals):
    first, second = (sample.round(decimals) for sample in samples())
    found = compare_numbers(first, second, "mann-whitney")
    assert found.test == "Mann-Whitney U (normal approximation)"
    expected = stats.mannwhitneyu(first, second, method="asymptotic")
    assert_allclose((found.statistic, found.p), (expected.statistic, expected.pvalue))


def test_kruskal_wallis_is_mann_whitney_without_continuity():
    first, second = samples()
    expected = stats.mannwhitneyu(first, second, method="asymptotic", use_continuity=False)
    assert_allclose(compare_numbers(first, second, "kruskal-wallis").p, expected.pvalue)


@pytest.mark.parametrize("test", ["t", "welch", "mann-whitney", "kruskal-wallis"])
def test_p_does_not_depend_on_which_group_is_first(test):
    first, second = samples()
    one, other = compare_numbers(first, second, test), compare_numbers(second, first, test)
    assert_allclose(one.p, other.p)


@pytest.mark.parametrize("test", ["t", "welch", "mann-whitney", "kruskal-wallis"])
@pytest.mark.parametrize(
    ("first", "second", "note"),
    [
        ([], [1, 2], "0 and 2 values; at least 2 in each group are needed"),
        ([1], [1, 2], "1 and 2 values; at least 2 in each group are needed"),
        ([3, 3], [3, 3, 3], "the same|do not vary"),
    ],
)
def test_numbers_that_cannot_be_compared_have_a_note_instead_of_p(test, first, second, note):
    found = compare_numbers(first, second, test)
    assert np.isnan(found.p)
    assert re.search(note, found.note)


# women and men of El Mendili 2022; its p are Fisher's (METHODS.md, A5)
@pytest.mark.parametrize(
    ("patients", "p"), [((9, 20), 0.394), ((3, 13), 0.101), ((6, 7), 1.000)], ids=str
)
def test_sex_of_the_paper_gives_its_published_p(patients, p):
    found = compare_counts(np.column_stack([patients, (11, 13)]), "fisher")
    assert (found.test, round(found.p, 3)) == ("Fisher's exact", p)


@pytest.mark.parametrize("seed", range(20))
def test_fisher_of_two_labels_equals_scipy(seed):
    table = np.random.default_rng(seed).integers(1, 15, (2, 2))
    assert_allclose(compare_counts(table, "fisher").p, stats.fisher_exact(table).pvalue)


@pytest.mark.parametrize("table", [[[3, 0], [1, 2], [0, 3]], [[2, 2], [1, 3], [2, 0], [0, 1]]])
def test_fisher_of_more_labels_equals_the_enumeration_of_all_groups(table):
    counts = np.array(table)
    labels = np.repeat(np.arange(len(counts)), counts.sum(axis=1))
    tables: dict[tuple[int, ...], int] = {}
    for chosen in combinations(range(len(labels)), int(counts[:, 0].sum())):
        key = tuple(np.bincount(labels[list(chosen)], minlength=len(counts)).tolist())
        tables[key] = tables.get(key, 0) + 1
    own = tables[tuple(counts[:, 0].tolist())]
    expected = sum(n for n in tables.values() if n <= own) / sum(tables.values())
    assert_allclose(compare_counts(counts, "fisher").p, expected)


def test_fisher_gives_way_to_chi_squared_where_tables_are_too_many():
    table = np.full((6, 2), 30)
    table[0] = 40, 20
    found = compare_counts(table, "fisher")
    assert found.test == "Pearson's chi-squared"
    assert found.note == "too many tables for Fisher's exact test"
    assert_allclose(found.p, compare_counts(table, "chi-squared").p)


def test_chi_squared_is_the_closed_form():
    # n (ad - bc)^2 / (row and column sums)
    found = compare_counts([[9, 11], [20, 13]], "chi-squared")
    expected = 53 * (9 * 13 - 11 * 20) ** 2 / (20 * 33 * 29 * 24)
    assert_allclose((found.statistic, found.dof), (expected, 1))
    assert_allclose(found.p, stats.chi2.sf(expected, 1))
    assert (found.test, found.note) == ("Pearson's chi-squared", "")


def test_chi_squared_notes_small_expected_counts():
    found = compare_counts([[1, 4], [6, 3]], "chi-squared")
    assert found.note == "a count below 5 is expected"


@pytest.mark.parametrize("test", ["fisher", "chi-squared"])
def test_labels_that_nobody_has_change_nothing(test):
    padded = compare_counts([[3, 5], [0, 0], [4, 1]], test)
    assert padded.p == compare_counts([[3, 5], [4, 1]], test).p


@pytest.mark.filterwarnings("error")
def test_t_against_a_constant_group_is_the_closed_form():
    # means 40 and 48, pooled variance (2 * 4 + 0) / 4
    found = compare_numbers([38.0, 40.0, 42.0], [48.0, 48.0, 48.0], "t")
    assert_allclose(found.statistic, -8 / np.sqrt(2 * 2 / 3))


@pytest.mark.parametrize("test", ["fisher", "chi-squared"])
@pytest.mark.parametrize(
    ("table", "note"),
    [
        ([[3, 0], [4, 0]], "a group has no values"),
        ([[3, 5], [0, 0]], "all have the same label"),
        (np.empty((0, 2), int), "a group has no values"),
    ],
)
def test_counts_that_cannot_be_compared_have_a_note_instead_of_p(test, table, note):
    found = compare_counts(table, test)
    assert np.isnan(found.p)
    assert found.note == note


@pytest.mark.parametrize(
    "compare", [compare_numbers, lambda a, b, test: compare_counts([a, b], test)]
)
def test_unknown_test_is_an_error(compare):
    with pytest.raises(NumericsError, match="test is 'anova'; expected one of"):
        compare([1, 2], [3, 4], "anova")


def test_variable_of_an_unknown_test_is_an_error():
    with pytest.raises(SettingsError, match=r"test of age is 'anova'; expected one of t, welch"):
        Variable("age", "anova")


def test_variable_that_is_no_column_is_an_error():
    with pytest.raises(DataError, match=r"raw/participants.tsv: no column height"):
        describe_one(people(age=[1.0, 2.0]), "height", "t")


def test_text_among_numbers_is_an_error():
    with pytest.raises(DataError, match=r"raw/participants.tsv: age of sub-01 is '60y'; expected"):
        describe_one(people(age=["60", "60y"]), "age", "t")


def test_variable_that_controls_lack_is_described_without_p():
    found = describe_one(people(duration=[10.0, 20.0, np.nan, np.nan]), "duration", "mann-whitney")
    assert np.isnan(found.tests["p"]).all()
    table = format_table(found, decimals=0)
    assert table["hc"].tolist() == ["n/a", "n/a"]
    assert table["als"].tolist() == ["15 (7)", "15 (12, 18)"]


def test_printed_table_names_the_test_in_the_row_that_is_tested():
    table = people(
        age=[60.0, 62.0, 50.0, 54.0],
        mrc=[1.0, 2.0, 3.0, 4.0],
        sex=["male", "female", "male", None],
    )
    clinical = ClinicalTable(Path("raw"), table, {}, {}, frozenset())
    variables = [Variable("age", "t"), Variable("mrc", "mann-whitney"), Variable("sex", "fisher")]
    printed = format_table(describe(clinical, table, variables, [ALS_HC]), decimals=1)
    assert printed.columns.tolist() == ["variable", "statistic", "als", "hc", "als-hc", "test"]
    assert printed[["statistic", "als", "hc", "test"]].to_numpy().tolist() == [
        ["mean (SD)", "61.0 (1.4)", "52.0 (2.8)", "Student's t"],
        ["median (Q1, Q3)", "61.0 (60.5, 61.5)", "52.0 (51.0, 53.0)", ""],
        ["mean (SD)", "1.5 (0.7)", "3.5 (0.7)", ""],
        ["median (Q1, Q3)", "1.5 (1.2, 1.8)", "3.5 (3.2, 3.8)", "Mann-Whitney U (exact)"],
        ["female, n (%)", "1 (50)", "0 (0), n=1", "Fisher's exact"],
        ["male, n (%)", "1 (50)", "1 (100), n=1", ""],
    ]
    assert printed["als-hc"].tolist() == ["0.057", "", "", "0.333", "1.000", ""]


def test_printed_table_names_only_tests_that_have_a_p():
    # controls have no values
    table = people(duration=[float(i) for i in range(1, 19)] + [np.nan] * 18)
    table["progression"] = ["fast"] * 5 + ["slow"] * 13 + [None] * 18
    clinical = ClinicalTable(Path("raw"), table, {}, {}, frozenset())
    contrasts = contrasts_of(CohortNames())
    found = describe(clinical, table, [Variable("duration", "welch")], contrasts)
    changed = found.tests.assign(test=["other", "other", "other", "Welch's t"])
    printed = format_table(replace(found, tests=changed), decimals=1)
    assert printed["test"].tolist() == ["Welch's t", ""]


@pytest.mark.parametrize(
    ("p", "text"), [(0.0009, "<0.001"), (0.001, "0.001"), (0.0099, "0.010"), (np.nan, "n/a")]
)
def test_p_has_three_decimals_and_a_bound(p, text):
    found = describe_one(people(age=[1.0, 2.0, 3.0, 4.0]), "age", "t")
    printed = format_table(replace(found, tests=found.tests.assign(p=p)), decimals=0)
    assert printed["als-hc"].iloc[0] == text
