"""Numbers that the four papers print, from what they print."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

from bids_alsmri.stats.agreement import MEASURES, kappa, reader_accuracy
from bids_alsmri.stats.comparison import compare_counts, proportion_interval, quartiles
from bids_alsmri.stats.multiplicity import adjust_family
from bids_alsmri.stats.scores import emg_grade

FOLDER = Path(__file__).parent / "published"
P_VALUES = pd.read_csv(FOLDER / "jenkins2020_p_values.tsv", sep="\t", dtype=str)
FAMILIES = {
    **{"table1": 35, "table2": 18, "table3": 14},
    **{"table4_4": 29, "table4_12": 29, "table5_4": 37, "table5_12": 37},
}
# Survives by the rule (q = 0.041) but has no asterisk in the paper.
EXCEPTION = ("table5_12", "Right first dorsal interosseous")


@pytest.mark.parametrize("of_small", [0.0, 0.00099], ids=["zero", "largest"])
@pytest.mark.parametrize("table", FAMILIES)
def test_asterisks_of_jenkins_follow_from_its_p_values(table, of_small):
    own = P_VALUES[P_VALUES["table"] == table]
    p = [of_small if text.startswith("<") else float(text) for text in own["p"]]
    assert len(p) == FAMILIES[table]
    starred = set(own.loc[own["starred"] == "1", "row"])
    survive = set(own.loc[adjust_family(p) <= 0.05, "row"])
    expected = {EXCEPTION[1]} if table == EXCEPTION[0] else set()
    assert survive ^ starred == expected


def test_the_exception_would_need_a_larger_family():
    own = P_VALUES[P_VALUES["table"] == EXCEPTION[0]]
    p = [0.0 if text.startswith("<") else float(text) for text in own["p"]]
    place = list(own["row"]).index(EXCEPTION[1])
    assert round(adjust_family(p)[place], 3) == 0.041
    assert adjust_family(p, size=45)[place] <= 0.05 < adjust_family(p, size=46)[place]


@pytest.mark.parametrize(
    ("count", "n", "printed"),
    [
        (12, 28, (0.43, 0.26, 0.62)),
        (1, 28, (0.04, 0.005, 0.23)),
        (4, 28, (0.14, 0.05, 0.33)),
        (3, 28, (0.11, 0.03, 0.30)),
        (11, 28, (0.39, 0.23, 0.59)),
        (10, 28, (0.36, 0.20, 0.55)),
        (17, 28, (0.61, 0.41, 0.77)),
        (14, 28, (0.50, 0.32, 0.68)),
        (23, 28, (0.82, 0.63, 0.93)),
        (18, 28, (0.64, 0.45, 0.80)),
        (6, 28, (0.21, 0.10, 0.41)),
        (19, 28, (0.68, 0.48, 0.83)),
        (9, 28, (0.32, 0.17, 0.52)),
        (1, 29, (0.03, 0.004, 0.22)),
    ],
)
def test_proportions_of_jenkins_are_stata_logit_intervals(count, n, printed):
    # 29 degrees of freedom for all; n - 1 misses an end of 4, 10 and 18 of 28 in the last digit
    exact = (count / n, *proportion_interval(count, n, kind="logit", level=0.95, dof=29))
    decimals = [3 if value < 0.01 else 2 for value in printed]
    assert [round(x, d) for x, d in zip(exact, decimals, strict=True)] == list(printed)
    assert_allclose(
        proportion_interval(count, n, kind="logit", level=0.95), printed[1:], atol=0.0055
    )


READERS = {
    "first": ((12, 3), (67, 77, 80, 63, 71)),
    "second": ((9, 0), (50, 100, 100, 59, 71)),
}


def _readings(ill_called, well_called):
    called = np.zeros(31, bool)
    called[:ill_called] = True
    called[18 : 18 + well_called] = True
    return called


@pytest.mark.parametrize("reader", READERS)
def test_percentages_of_the_readers_of_cosottini(reader):
    called, printed = READERS[reader]
    found = reader_accuracy(_readings(*called), np.arange(31) < 18, level=0.95)
    # 62.5 is printed as 63: half away from zero
    assert [np.floor(100 * found[name].value + 0.5) for name in MEASURES] == list(printed)


def test_kappa_of_the_readers_of_cosottini():
    readings = [_readings(*called) for called, _ in READERS.values()]
    assert round(kappa(*readings, weights="none", level=0.95).value, 2) == 0.61


@pytest.mark.parametrize(
    ("groups", "printed"),
    [(((9, 20), (11, 13)), 0.394), (((3, 13), (11, 13)), 0.101), (((6, 7), (11, 13)), 1.0)],
    ids=["als-hc", "slow-hc", "fast-hc"],
)
def test_sex_tests_of_el_mendili_are_fisher_s(groups, printed):
    # labelled chi-squared in the paper; the fourth, .172, is neither (Fisher .226, Pearson .113)
    assert round(compare_counts(np.transpose(groups), "fisher").p, 3) == printed


def test_the_fourth_sex_test_of_el_mendili_is_neither():
    counts = np.transpose([(6, 7), (3, 13)])
    assert round(compare_counts(counts, "fisher").p, 3) == 0.226
    assert round(compare_counts(counts, "chi-squared").p, 3) == 0.113


DIAMANTI = pd.DataFrame(
    {
        "age": [58, 86, 78, 63, 69, 67, 68, 71, 66, 57],
        "umn": [16, 13, 2, 13, 14, 13, 16, 1, 8, 10],
    }
)


def test_quartiles_of_diamanti_are_stata_s():
    assert quartiles(DIAMANTI["umn"], rule="averaged") == (8.0, 13.0, 14.0)
    assert quartiles(DIAMANTI["umn"], rule="linear") != (8.0, 13.0, 14.0)
    # its table 1A prints 66.5 (62-70), which its own list does not give
    assert quartiles(DIAMANTI["age"], rule="averaged") == (63.0, 67.5, 71.0)


def test_strata_of_diamanti():
    assert (DIAMANTI["umn"] >= 13).sum() == 6


@pytest.mark.parametrize("muscle", ["first_dorsal_interosseous", "thoracic_paraspinal"])
def test_emg_grades_of_diamanti(muscle):
    assert emg_grade([8.99, 9, 11.24, 11.26, 13.5, 13.51], muscle=muscle).tolist() == [
        *(0, 1, 1),
        *(2, 2, 3),
    ]
    anterior = emg_grade([9.99, 10, 12.4, 12.6, 15, 15.1, np.nan], muscle="tibialis_anterior")
    assert_allclose(anterior, [0, 1, 1, 2, 2, 3, np.nan])


def test_atrophy_of_diamanti_is_reached_by_counts():
    assert (round(100 * 62 / 276, 2), round(100 * 2 / 276, 2)) == (22.46, 0.72)
    assert compare_counts([[62, 2], [214, 274]], "chi-squared").p < 0.0001
