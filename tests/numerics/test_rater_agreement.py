"""Agreement of readers against published and closed values."""

from __future__ import annotations

import numpy as np
from numpy.testing import assert_allclose

from bids_alsmri.numerics.rater_agreement import (
    coefficient_of_variation,
    dice_of_labels,
    intraclass_correlation,
    limits_of_agreement,
)


def test_dice_is_that_of_the_set_formula():
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 4, (2, 500))
    for label, value in dice_of_labels(a, b, [1, 2, 3]).items():
        one, two = set(np.flatnonzero(a == label)), set(np.flatnonzero(b == label))
        assert_allclose(value, 2 * len(one & two) / (len(one) + len(two)))
    assert np.isnan(dice_of_labels(a, b, [9])[9])


def test_icc_is_the_share_of_variance_between_subjects():
    rng = np.random.default_rng(0)
    subjects, raters = rng.normal(0, 2, (3000, 1)), np.array([[0.0, 0.5]])
    ratings = subjects + raters + rng.normal(0, 1, (3000, 2))
    # raters 0 and 0.5 have a variance of 0.125
    assert_allclose(intraclass_correlation(ratings), 4 / (4 + 1 + 0.125), atol=0.02)


def test_variation_within_subjects_is_that_which_was_simulated():
    rng = np.random.default_rng(0)
    true = rng.uniform(50, 500, (4000, 1))
    pairs = true * (1 + 0.04 * rng.normal(size=(4000, 2)))
    assert_allclose(coefficient_of_variation(pairs), 0.04, rtol=0.05)


def test_limits_hold_95_percent_of_differences():
    rng = np.random.default_rng(0)
    pairs = rng.normal(10, 3, (5000, 1)) + rng.normal((0, 1), 1, (5000, 2))
    limits = limits_of_agreement(pairs)
    assert_allclose(limits.bias, 1, atol=0.05)
    differences = pairs[:, 1] - pairs[:, 0]
    assert_allclose(
        ((differences > limits.low) & (differences < limits.high)).mean(), 0.95, atol=0.01
    )
