"""Profiles of a cohort: means and spread that can be told by hand."""

import numpy as np
import pandas as pd
from numpy.testing import assert_allclose

from bids_alsmri.comparisons.depth_profiles import cohort_profiles

DEPTHS = np.arange(0.8, 4.05, 0.1)


def person(deep, *, gain=100.0, side="left", until=5.0):
    depth = DEPTHS[until > DEPTHS]
    mean = gain * np.where(depth < 2.0, 1.0, deep)
    return pd.DataFrame({"region": "hand", "side": side, "depth": depth, "mean": mean})


def at(table, group, depth):
    own = table[(table["group"] == group) & np.isclose(table["depth"], depth)]
    return own.iloc[0]


def test_mean_and_spread_are_those_of_participants_whatever_their_gain():
    deep = {"sub-1": 0.90, "sub-2": 0.86, "sub-3": 0.80, "sub-4": 0.7}
    tables = [(who, None, person(d, gain=10.0**n)) for n, (who, d) in enumerate(deep.items())]
    groups = {"sub-1": "hc", "sub-2": "hc", "sub-3": "als"}
    found = cohort_profiles(tables, groups)
    control = at(found, "hc", 3.0)
    assert control["n"] == 2
    assert_allclose(control["mean"], 0.88)
    assert_allclose(control["sd"], 0.04 / np.sqrt(2))
    assert_allclose(at(found, "als", 3.0)["mean"], 0.8)
    assert np.isnan(at(found, "als", 3.0)["sd"])
    assert_allclose(at(found, "hc", 1.0)["mean"], 1.0)
    # who is in no group does not count
    assert set(found["group"]) == {"hc", "als"}


def test_sides_of_a_participant_are_one_value():
    both = pd.concat([person(0.8), person(0.9, side="right")])
    found = cohort_profiles(
        [("sub-1", None, both), ("sub-2", None, person(0.7))], {"sub-1": "hc", "sub-2": "hc"}
    )
    assert_allclose(at(found, "hc", 3.0)["mean"], (0.85 + 0.7) / 2)
    assert at(found, "hc", 3.0)["n"] == 2


def test_first_visit_counts_and_depths_that_few_reach_say_so():
    tables = [
        ("sub-1", "ses-m12", person(0.5)),
        ("sub-1", "ses-m4", person(0.9)),
        ("sub-2", "ses-m4", person(0.8, until=3.5)),
    ]
    found = cohort_profiles(tables, {"sub-1": "hc", "sub-2": "hc"})
    assert_allclose(at(found, "hc", 3.0)["mean"], 0.85)
    assert at(found, "hc", 3.8)["n"] == 1


def test_without_profiles_the_table_is_empty():
    assert cohort_profiles([], {"sub-1": "hc"}).empty
    assert cohort_profiles([("sub-1", None, person(0.9).head(0))], {"sub-1": "hc"}).empty
