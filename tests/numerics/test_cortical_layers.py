"""Layers on simulated profiles whose borders are known, and tilt in closed form."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import ndimage

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.cortical_layers import fit_layers, tilt_deg

DEPTH_MM = np.arange(0.0, 5.01, 0.25)
SETTINGS = {
    "blurs_mm": [0.3],
    "line_gaps_mm": [],
    "line_mm": 0.5,
    "smallest_layer_mm": 0.4,
    "step_mm": 0.1,
    "significance": 0.05,
    "confidence": 0.95,
    "n_bootstrap": 100,
}


def profiles(deep_mm, *, deep=90.0, white=94.0, noise=5.0, n=60, seed=0):
    """Profiles drawn on a fine grid, blurred and averaged over voxels of 0.25 mm."""
    fine = np.arange(-2.0, 7.0, 0.005)
    sharp = np.where(fine < 1.2, 100.0, np.where(fine < 1.2 + deep_mm, deep, white))
    blurred = ndimage.gaussian_filter1d(sharp, 0.29 / 0.005)
    voxel = ndimage.uniform_filter1d(blurred, 50)
    one = np.interp(DEPTH_MM, fine, voxel)
    return one + np.random.default_rng(seed).normal(0.0, noise, (n, DEPTH_MM.size))


def fit(signal, **changes):
    settings = {**SETTINGS, "rng": np.random.default_rng(7), **changes}
    return fit_layers(signal, DEPTH_MM, **settings)


@pytest.mark.parametrize("deep_mm", [1.5, 2.0], ids=["patients", "controls"])
def test_thickness_of_the_deep_layer_comes_out_at_snr_20(deep_mm):
    # SNR 20 in a voxel, 120 profiles: a stretch of 8 mm in four slices; twelve areas
    drawn = [profiles(deep_mm, n=120, seed=s) for s in range(12)]
    found = np.array([fit(signal, n_bootstrap=20).deep_mm for signal in drawn])
    assert np.isfinite(found).all()
    assert abs(found.mean() - deep_mm) < 0.1
    assert found.std(ddof=1) < 0.15


def test_signals_without_noise_are_the_true_ones():
    result = fit(profiles(2.0, noise=1e-6), step_mm=0.05)
    assert_allclose([result.superficial, result.deep, result.white], [100, 90, 94], atol=0.1)
    assert_allclose([result.deep_from_mm, result.white_from_mm], [1.2, 3.2], atol=0.05)  # one step


def test_interval_of_thickness_covers_the_truth():
    intervals = np.array(
        [fit(profiles(2.0, n=120, seed=100 + s)).deep_interval_mm for s in range(30)]
    )
    assert np.isfinite(intervals).all()
    low, high = intervals.T
    half_step = SETTINGS["step_mm"] / 2
    covered = np.sum((low - half_step <= 2.0) & (high + half_step >= 2.0))
    assert covered >= 24  # 30 intervals of 95 % cover it less often once in 300


@pytest.mark.parametrize(("deep", "n_borders"), [(90.0, 1), (100.0, 0)])
def test_no_more_borders_are_found_than_there_are(deep, n_borders):
    found = []
    for seed in range(30):
        result = fit(profiles(2.0, deep=deep, white=deep, seed=seed), n_bootstrap=20)
        found.append(np.isfinite([result.deep_from_mm, result.white_from_mm]).sum())
    # 30 tests at a level of 0.05 exceed 5 with a probability of 0.3 %
    assert np.sum(np.array(found) > n_borders) <= 5


def test_missing_border_is_named():
    result = fit(profiles(2.0, white=90.0, noise=2.0, seed=3))
    assert np.isnan(result.deep_mm)
    assert np.isnan(result.deep_interval_mm).all()
    assert result.reason.startswith("only one border can be told")
    assert_allclose([result.superficial, result.deep], [100, 90], atol=0.5)
    flat = fit(profiles(2.0, deep=100.0, white=100.0, noise=2.0, seed=4))
    assert np.isnan(flat.deep)
    assert flat.reason == "no layers can be told apart"


@pytest.mark.parametrize("gain", [1e-3, 1e3])
def test_thickness_does_not_depend_on_the_gain(gain):
    signal = profiles(1.5, seed=2)
    one, other = fit(signal), fit(gain * signal)
    assert other.deep_mm == pytest.approx(one.deep_mm)
    assert other.deep == pytest.approx(gain * one.deep)
    assert other.ratio_interval == pytest.approx(one.ratio_interval)


@pytest.mark.parametrize("angle", [0.0, 15.0, 25.0, 90.0])
def test_length_in_the_slice_times_the_cosine_is_the_thickness(angle):
    normal = [np.cos(np.deg2rad(angle)), 0.0, np.sin(np.deg2rad(angle))]
    tilt = tilt_deg(np.multiply(normal, -3.0), [0.0, 0.0, 2.0])
    assert_allclose(tilt, angle, atol=1e-5)
    if angle < 90.0:
        # the line x of the slice meets the planes n.x = 0 and n.x = 2 so far apart
        in_slice = 2.0 / normal[0]
        assert_allclose(in_slice * np.cos(np.deg2rad(tilt)), 2.0)


@pytest.mark.parametrize(
    ("signal", "change", "words"),
    [
        (np.ones((20, 5)), {}, "profiles have 5 samples but depth_mm 21"),
        (np.ones((4, 21)), {}, "4 profiles are too few"),
        (np.full((20, 21), np.nan), {}, "profiles holds 420 NaN"),
        (np.ones((20, 21)), {"smallest_layer_mm": 2.0}, "5 mm long, too short for three parts"),
        (np.ones((20, 21)), {"blurs_mm": [-1.0]}, "blurs_mm is -1 mm"),
        (np.ones((20, 21)), {"significance": 0.0}, "significance is 0"),
    ],
)
def test_wrong_profiles_are_refused(signal, change, words):
    with pytest.raises(NumericsError, match=words):
        fit(signal, **change)


def test_normal_without_length_is_refused():
    with pytest.raises(NumericsError, match="no length"):
        tilt_deg([[0.0, 0.0, 0.0]], [0.0, 0.0, 1.0])
