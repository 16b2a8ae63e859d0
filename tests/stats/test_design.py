"""Groups, covariates and visits become what a linear model takes."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.linear import partition_design, residuals, t_statistic
from bids_alsmri.stats.design import group_design, visit_weights


def t_of(design, values):
    split = partition_design(design.matrix, design.contrast)
    return t_statistic(residuals(values, split), split)


def test_two_groups_give_students_t():
    values = np.random.default_rng(1).normal(size=(9, 3))
    groups = ["hc", "als", "als", "hc", "als", "hc", "als", "als", "hc"]
    is_first = np.array(groups) == "als"
    found = t_of(group_design(groups, "als", "hc"), values)
    assert_allclose(found, stats.ttest_ind(values[is_first], values[~is_first]).statistic)


def test_a_third_group_lends_its_variance_and_not_its_mean():
    rng = np.random.default_rng(2)
    groups = ["als"] * 5 + ["hc"] * 6 + ["ftd"] * 7
    values = rng.normal(size=(18, 1)) + np.repeat([0.0, 1.0, 50.0], [5, 6, 7])[:, np.newaxis]
    # pooled variance of all three groups: the contrast of a one-way analysis of variance
    parts = [values[:5], values[5:11], values[11:]]
    pooled = sum(((part - part.mean()) ** 2).sum() for part in parts) / (18 - 3)
    expected = (parts[0].mean() - parts[1].mean()) / np.sqrt(pooled * (1 / 5 + 1 / 6))
    design = group_design(groups, "als", "hc")
    assert_allclose(t_of(design, values), expected)
    assert design.is_compared.tolist() == [True] * 11 + [False] * 7
    assert design.groups.tolist() == [0] * 5 + [1] * 6 + [2] * 7


def test_swapping_the_groups_turns_the_sign():
    values = np.random.default_rng(3).normal(size=(8, 4))
    groups = ["als", "hc"] * 4
    forth, back = (
        t_of(group_design(groups, *pair), values) for pair in (("als", "hc"), ("hc", "als"))
    )
    assert_allclose(forth, -back)


def test_adding_a_constant_to_a_covariate_changes_nothing():
    rng = np.random.default_rng(4)
    values, age = rng.normal(size=(10, 2)), rng.normal(60, 10, size=(10, 1))
    groups = ["als", "hc"] * 5
    first, second = (t_of(group_design(groups, "als", "hc", age + c), values) for c in (0, 1000))
    assert_allclose(first, second, rtol=1e-8)


def test_group_without_anybody_is_named():
    with pytest.raises(NumericsError, match="groups hold nobody of 'fast'; give observations"):
        group_design(["als", "hc"], "fast", "hc")


def test_slope_is_that_of_a_straight_line_fitted_to_the_visits():
    rng = np.random.default_rng(5)
    months = np.array([0.0, 4.0, 13.0, 0.0, 12.0])
    people = ["a", "a", "a", "b", "b"]
    maps = rng.normal(size=(5, 6))
    names, weights = visit_weights(people, months, "slope")
    expected = [np.polyfit(months[:3], maps[:3], 1)[0], np.polyfit(months[3:], maps[3:], 1)[0]]
    assert names == ["a", "b"]
    assert_allclose(weights @ maps, expected, atol=1e-12)


def test_mean_and_first_map_need_no_times():
    people = ["b", "a", "b", "b"]
    maps = np.arange(8.0).reshape(4, 2)
    times = np.full(4, np.nan)
    names, weights = visit_weights(people, times, "mean")
    assert names == ["b", "a"]
    assert_allclose(weights @ maps, [maps[[0, 2, 3]].mean(axis=0), maps[1]])
    assert_allclose(visit_weights(people, times, "first")[1] @ maps, maps[[0, 1]])


@pytest.mark.parametrize(
    ("months", "visit", "words"),
    [
        ([0.0], "change", "a has one visit; a change takes two; leave a out"),
        ([3.0, 3.0], "slope", "all visits of a are at 3 months; a slope takes two"),
        ([0.0, np.nan], "slope", "months of a holds 1 NaN or infinite value"),
    ],
)
def test_visits_that_give_no_change_are_named(months, visit, words):
    with pytest.raises(NumericsError) as caught:
        visit_weights(["a"] * len(months), months, visit)
    assert words in str(caught.value)


def test_every_visit_needs_a_time():
    with pytest.raises(NumericsError, match="2 visits but months 1; give one time for each"):
        visit_weights(["a", "b"], [0.0], "first")
