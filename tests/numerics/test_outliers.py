import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.outliers import (
    list_outliers,
    multiband_groups,
    outlier_z,
    replace_slices,
)


def test_slices_of_equal_time_form_a_group():
    times = [0, 1.8825, 0.27, 2.1525, 0, 1.8825, 0.27, 2.1525]
    groups = multiband_groups(8, slice_times_s=times, multiband_factor=None)
    assert_array_equal(groups[:4], groups[4:])
    assert np.unique(groups).size == 4


def test_rounded_slice_times_stay_one_group():
    # the scanner rounds to 2.5 ms: two slices of one shot may differ by that much
    groups = multiband_groups(4, slice_times_s=[0.5375, 0, 0.54, 0.0025], multiband_factor=None)
    assert_array_equal(groups, [1, 0, 1, 0])


def test_slice_times_agree_with_multiband_factor():
    times = np.tile([0.0, 1.0, 0.5], 3)
    by_time = multiband_groups(9, slice_times_s=times, multiband_factor=None)
    by_factor = multiband_groups(9, slice_times_s=None, multiband_factor=3)
    together = by_time[:, None] == by_time
    assert_array_equal(together, by_factor[:, None] == by_factor)


def test_unknown_multiband_leaves_every_slice_alone():
    groups = multiband_groups(5, slice_times_s=None, multiband_factor=None)
    assert np.unique(groups).size == 5


@pytest.mark.parametrize(
    ("times", "factor", "message"),
    [
        ([0, 1, 2], None, "slice_times_s has 3 values but the volume has 4 slices"),
        ([0, 1, 2, np.nan], None, "slice_times_s holds 1 NaN"),
        (None, 3, "multiband_factor is 3 but the volume has 4 slices"),
        (None, 0, "multiband_factor is 0"),
    ],
)
def test_wrong_slice_information_is_refused(times, factor, message):
    with pytest.raises(NumericsError, match=message):
        multiband_groups(4, slice_times_s=times, multiband_factor=factor)


def noisy_sums(n_volumes, n_groups, seed):
    rng = np.random.default_rng(seed)
    predicted = rng.uniform(5e4, 5e5, size=n_groups) * np.ones((n_volumes, 1))
    return predicted * (1 + 0.01 * rng.normal(size=predicted.shape)), predicted


@pytest.mark.parametrize("n_volumes", [6, 12, 64])
def test_z_of_noise_seldom_passes_four(n_volumes):
    observed, predicted = noisy_sums(n_volumes, 400, seed=n_volumes)
    voxels = np.full(observed.shape, 500.0)
    z, _ = outlier_z(observed, predicted, voxels, min_voxels=50)
    # a scale from 6 volumes is off by 40 %, so more than the normal's 3e-5 pass; 1 % is the bound
    assert np.mean(np.abs(z) > 4) < 0.01


def test_lost_group_stands_out_and_gain_does_not():
    observed, predicted = noisy_sums(12, 40, seed=1)
    observed[3] *= 1.2  # receiver gain of a whole volume
    observed[7, 20] *= 0.7
    z, ratio = outlier_z(observed, predicted, np.full(observed.shape, 500.0), min_voxels=50)
    assert np.unravel_index(z.argmin(), z.shape) == (7, 20)
    assert z[7, 20] < -10
    assert np.abs(z[3]).max() < 6
    assert_allclose(ratio[7, 20], 0.7, atol=0.04)  # noise of 1 %, three times


def test_thin_groups_are_not_judged():
    observed, predicted = noisy_sums(12, 10, seed=1)
    observed[0, 0] = 0.0
    voxels = np.full(observed.shape, 500.0)
    voxels[:, 0] = 49
    z, ratio = outlier_z(observed, predicted, voxels, min_voxels=50)
    assert_array_equal(z[:, 0], 0.0)
    assert_array_equal(ratio[:, 0], 1.0)


def test_identical_volumes_have_no_outlier():
    ones = np.full((5, 7), 3.0)
    z, _ = outlier_z(ones, ones, np.full(ones.shape, 99.0), min_voxels=1)
    assert_array_equal(z, 0.0)


@pytest.mark.parametrize(("both_signs", "n_found"), [(False, 2), (True, 4)])
def test_only_loss_counts_unless_asked(both_signs, n_found):
    z = np.array([[-6.0, 6.0, -6.0]])
    ratio = np.array([[0.7, 1.3, 0.99]])  # the last is significant and small
    found = list_outliers(
        z,
        ratio,
        np.full((1, 6), 10.0),
        np.array([0, 1, 2, 0, 1, 2]),
        threshold_sd=4.0,
        min_change=0.1,
        both_signs=both_signs,
    )
    assert len(found) == n_found
    assert {o.slice_index for o in found} >= {0, 3}  # both slices of the group
    assert_allclose(sum(o.volume_share for o in found), n_found / 6)


def test_replaced_slices_come_from_the_prediction_and_others_stay():
    volume, prediction = np.zeros((4, 3, 2)), np.ones((4, 3, 2))
    repaired = replace_slices(volume, prediction, [1, 3], slice_axis=0)
    assert_array_equal(repaired[:, 0, 0], [0, 1, 0, 1])
    assert_array_equal(volume, 0.0)
