"""Borders of the cortex are moved to where folds of known distance have them."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.cortical_profiles import surface_normals
from bids_alsmri.numerics.ribbon_refinement import refine_borders
from bids_alsmri.phantom.cortex_layers import Fold, LayeredCortex
from bids_alsmri.phantom.cortex_slab import SlabSettings, contrast_echo, simulate_slab

REFINING = {
    "spacing_mm": 0.5,
    "most_tilt_deg": 25.0,
    "longest_mm": 7.0,
    "reach_mm": 1.3,
    "blur_mm": 0.25,
    "least_step": 0.2,
    "inner_reach_mm": 0.7,
    "averaging_mm": 3.0,
}


def refined(seed=0, *, white_contrast=0.04, **changes):
    settings = SlabSettings(**{"shape": (128, 104, 3), "tilt_deg": 10.0, **changes})
    cortex = LayeredCortex(white_contrast=white_contrast)
    rng = np.random.default_rng(seed)
    slab = simulate_slab(cortex, Fold(), settings, rng, samples=(2, 2, 4))
    found = refine_borders(
        contrast_echo(slab.echoes, settings.echo_times_ms),
        slab.white_distance_mm,
        slab.outer_distance_mm,
        surface_normals(slab.white_distance_mm, settings.voxel_mm, smoothing_mm=1.5),
        settings.voxel_mm,
        **REFINING,
    )
    return slab, found


def error_mm(distance, true):
    inside = (slice(8, -8), slice(8, -8))
    near = np.abs(true[inside]) < 0.3
    return np.sqrt(np.mean((distance - true)[inside][near] ** 2))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_displaced_ribbon_is_brought_to_the_border_of_white_matter(seed):
    # SNR 20, each border off by 0.3 mm, the whole by 0.5 mm
    slab, found = refined(seed)
    before = error_mm(slab.white_distance_mm, slab.true_distance_mm)
    # the benchmark leaves 0.10 to 0.16 mm
    assert error_mm(found.white_mm, slab.true_distance_mm) < min(0.2, 0.7 * before)


def test_displaced_ribbon_is_brought_to_the_outer_surface():
    slab, found = refined(1)
    true = 3.6 - slab.true_distance_mm
    assert error_mm(slab.outer_distance_mm, true) > 0.4
    assert error_mm(found.outer_mm, true) < 0.3


def test_border_that_the_image_does_not_show_moves_with_the_whole_alone():
    # the deep layer is as bright as white matter: no prior stands in for the border
    slab, found = refined(1, white_contrast=0.0)
    assert found.inner_told < 0.1
    unseen = error_mm(found.white_mm, slab.true_distance_mm)
    assert unseen < 0.8 * error_mm(slab.white_distance_mm, slab.true_distance_mm)


def test_shift_of_the_whole_is_found_where_nothing_else_is_wrong():
    slab, found = refined(4, ribbon_sd_mm=0.0, has_veins=False)
    assert_allclose(np.linalg.norm(found.shift_mm), 0.5, atol=0.15)  # over a voxel of 0.25 mm
    given = slab.white_distance_mm - slab.true_distance_mm
    # on the straight banks, distances differ by the shift along their normal
    left = found.white_mm - slab.true_distance_mm
    near = np.abs(slab.true_distance_mm[20:-20, 20:-20]) < 0.3
    assert left[20:-20, 20:-20][near].std() < 0.5 * given[20:-20, 20:-20][near].std()


def test_true_ribbon_stays():
    slab, found = refined(3, ribbon_sd_mm=0.0, registration_mm=0.0)
    assert np.linalg.norm(found.shift_mm) < 0.12  # half a voxel
    assert error_mm(found.white_mm, slab.true_distance_mm) < 0.12


def test_image_without_cortex_leaves_the_ribbon():
    x = np.arange(20.0)[:, None, None] * np.ones((20, 16, 3)) - 40.0
    normals = np.zeros((*x.shape, 3))
    found = refine_borders(np.ones(x.shape), x, -x, normals, [0.25, 0.25, 2.0], **REFINING)
    assert_allclose(found.white_mm, x)
    assert_allclose(found.outer_mm, -x)
    assert np.isnan(found.inner_told)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"averaging_mm": 0.0}, "averaging_mm is 0 mm"),
        ({"inner_reach_mm": -1.0}, "inner_reach_mm is -1 mm"),
        ({"most_tilt_deg": 80.0}, "most_tilt_deg is 80 degree"),
    ],
)
def test_wrong_settings_are_refused(change, words):
    x = np.zeros((4, 4, 2))
    normals = np.zeros((4, 4, 2, 3))
    with pytest.raises(NumericsError, match=words):
        refine_borders(x, x, x, normals, [1, 1, 2], **{**REFINING, **change})
