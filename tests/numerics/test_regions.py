"""Summaries of a map over labels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy import ndimage, stats

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.regions import summarise_regions


def test_statistics_equal_scipys():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 6, (12, 11, 10))
    values = rng.gamma(2, 1, labels.shape)
    wanted = [5, 1, 3]
    found = summarise_regions(values, labels, labels=wanted)
    assert_array_equal(found.labels, wanted)
    assert_allclose(found.mean, ndimage.mean(values, labels, wanted))
    assert_allclose(found.median, ndimage.median(values, labels, wanted))
    for row, label in enumerate(wanted):
        region = values[labels == label]
        assert found.n_voxels[row] == len(region)
        assert_allclose(found.sd[row], stats.tstd(region))
        mad = stats.median_abs_deviation(region, scale="normal")
        assert_allclose(found.robust_sd[row], mad, rtol=1e-4)  # 1.4826 has five digits
        assert_allclose([found.low[row], found.high[row]], np.quantile(region, [0.05, 0.95]))


@given(st.integers(1, 30), st.floats(0, 0.9))
def test_missing_values_leave_the_others_as_they_were(seed, share):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=60)
    missing = rng.random(60) < share
    labels = rng.integers(1, 3, 60)
    holed = np.where(missing, rng.choice([np.nan, np.inf, -np.inf], 60), values)
    found = summarise_regions(holed, labels, labels=[1, 2])
    without = summarise_regions(values[~missing], labels[~missing], labels=[1, 2])
    for name in ("mean", "sd", "median", "robust_sd", "low", "high", "n_voxels"):
        assert_array_equal(getattr(found, name), getattr(without, name))
    assert found.n_missing.sum() == missing.sum()


def test_median_and_robust_spread_resist_wild_voxels():
    values = np.r_[np.random.default_rng(1).normal(10, 1, 1000), np.full(20, 1e6)]
    found = summarise_regions(values, np.ones(1020, int), labels=[1])
    assert_allclose(found.median, 10, atol=0.15)  # five standard errors of a median of 1000
    assert_allclose(found.robust_sd, 1, atol=0.15)
    assert found.sd[0] > 1e4


def test_region_without_a_finite_voxel_gets_a_row_of_nan():
    found = summarise_regions(np.array([np.nan, 2.0]), np.array([1, 2]), labels=[1, 2, 9])
    assert_array_equal(found.n_voxels, [0, 1, 0])
    assert_array_equal(found.n_missing, [1, 0, 0])
    assert_array_equal(np.isnan(found.median), [True, False, True])
    assert np.isnan(found.sd[1])  # one voxel has no spread


def test_single_precision_map_is_averaged_in_double():
    # an offset of 1e4 leaves float32 sums of a million voxels wrong in the third digit
    values = np.full(1_000_000, 1e4 + 0.1, dtype=np.float32)
    found = summarise_regions(values, np.ones(values.shape, np.int16), labels=[1])
    assert_allclose(found.mean, np.float64(values[0]), rtol=1e-12)


@pytest.mark.parametrize(
    ("image", "labels", "message"),
    [
        (np.ones(3), [1], "label_image is of type float64"),
        (np.ones(3, int), [1.5], "labels are whole numbers"),
        (np.ones(3, int), [1, 1], "give each wanted label once"),
        (np.ones(4, int), [1], r"label_image has shape \(4,\) but values has \(3,\)"),
    ],
)
def test_bad_labels_are_refused(image, labels, message):
    with pytest.raises(NumericsError, match=message):
        summarise_regions(np.ones(3), image, labels=labels)
