"""Profiles and layers on folds whose distances are known in closed form."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.cortical_layers import fit_layers
from bids_alsmri.numerics.cortical_profiles import (
    Places,
    align_profiles,
    find_outer_edge,
    place_profiles,
    sample_profiles,
    surface_normals,
)
from bids_alsmri.phantom.cortex_layers import Fold, LayeredCortex
from bids_alsmri.phantom.cortex_slab import SlabSettings, contrast_echo, simulate_slab

ALIGNING = {
    "most_tilt_deg": 25.0,
    "least_cortex_mm": 1.2,
    "most_cortex_mm": 7.0,
    "margin_mm": 0.8,
    "beyond_mm": 1.8,
    "step_mm": 0.1,
    "reach_mm": 1.3,
    "blur_mm": 0.25,
    "least_step": 0.2,
    "evening_mm": 1.25,
    "most_bend_mm": 0.7,
}
FITTING = {
    "blurs_mm": [0.15, 0.25, 0.4, 0.6],
    "line_gaps_mm": [0.5, 0.8, 1.1],
    "line_mm": 0.5,
    "smallest_layer_mm": 0.5,
    "step_mm": 0.1,
    "significance": 0.05,
    "confidence": 0.95,
    "n_bootstrap": 20,
}
RIM = 10  # voxels beside which profiles would leave the image


def slab(cortex=None, *, fold=None, seed=0, **changes):
    settings = SlabSettings(**{"shape": (112, 96, 3), **changes})
    rng = np.random.default_rng(seed)
    return settings, simulate_slab(
        cortex or LayeredCortex(), fold or Fold(), settings, rng, samples=(2, 2, 6)
    )


def profiles_of(settings, found, **changes):
    mask = np.zeros(settings.shape, bool)
    mask[RIM:-RIM, RIM:-RIM] = True
    normals = surface_normals(found.white_distance_mm, settings.voxel_mm, smoothing_mm=1.5)
    places = place_profiles(
        found.white_distance_mm, normals, mask, settings.voxel_mm, spacing_mm=0.5
    )
    image = contrast_echo(found.echoes, settings.echo_times_ms)
    return places, align_profiles(
        image[None],
        found.white_distance_mm,
        found.outer_distance_mm,
        places,
        settings.voxel_mm,
        **{**ALIGNING, **changes},
    )


@pytest.mark.parametrize(
    ("deep_mm", "tilt_deg"), [(2.0, 12.0), (1.5, 0.0)], ids=["controls", "patients"]
)
def test_deep_layer_of_a_fold_comes_out_through_a_displaced_ribbon(deep_mm, tilt_deg):
    # SNR 20, ribbon off by 0.3 mm at each border and by 0.5 mm as a whole
    settings, found = slab(LayeredCortex(deep_mm=deep_mm), tilt_deg=tilt_deg, seed=4)
    _, aligned = profiles_of(settings, found)
    fit = fit_layers(aligned.profiles, aligned.depth_mm, rng=np.random.default_rng(0), **FITTING)
    # bias of 0.1 mm and one standard deviation of 0.15 mm; benchmarks/cortex.py has the rest
    assert abs(fit.deep_mm - deep_mm) < 0.25
    assert_allclose(fit.deep / fit.superficial, 0.9, atol=0.01)
    assert_allclose(fit.white / fit.deep, 1.04, atol=0.012)


def test_tilt_of_banks_is_that_of_the_slab():
    settings, found = slab(tilt_deg=20.0, ribbon_sd_mm=0.0, registration_mm=0.0, snr=0.0)
    places, aligned = profiles_of(settings, found, most_tilt_deg=15.0)
    # crowns and bottoms are less tilted than banks, nothing is more
    assert_allclose(np.percentile(places.tilt_deg, 90), 20.0, atol=1.5)
    assert aligned.n_tilted == np.sum(places.tilt_deg > 15.0)
    assert (aligned.tilt_deg <= 15.0).all()


def test_outer_surface_is_found_where_the_image_shows_it():
    settings, found = slab(has_veins=False, tilt_deg=0.0, seed=2)
    places, aligned = profiles_of(settings, found)
    start = places.start[aligned.places]
    true = sample_profiles(
        found.true_distance_mm[None], places, np.arange(-2.0, 6.0, 0.05), settings.voxel_mm
    )[0][aligned.places]
    surface = np.arange(-2.0, 6.0, 0.05)[np.argmax(true >= 3.6, axis=1)]
    error = aligned.outer_mm - surface
    assert len(start) > 300
    # a ribbon off by 0.5 mm as a whole and by 0.3 mm here and there is off by 0.4 mm of profile
    assert abs(np.median(error)) < 0.1
    assert np.std(error) < 0.3


def test_profiles_are_counted_by_why_they_were_left_out():
    settings, found = slab(tilt_deg=22.0)
    places, aligned = profiles_of(settings, found, most_tilt_deg=15.0)
    left_out = aligned.n_tilted + aligned.n_touching + aligned.n_closed + aligned.n_bent
    assert left_out + len(aligned.profiles) == len(places.start)


def test_closed_sulcus_gives_no_profile():
    # banks touch: no fluid between them
    closed = Fold(blade_mm=2.5, furrow_mm=3.6, height_mm=45.0)
    settings, found = slab(fold=closed, has_veins=False, registration_mm=0.0, ribbon_sd_mm=0.0)
    places, aligned = profiles_of(settings, found)
    assert len(places.start) > 100
    assert len(aligned.profiles) == 0
    assert aligned.n_closed > 0.9 * len(places.start)


def test_touching_of_white_matter_and_fluid_gives_no_profile():
    settings, found = slab()
    thin = found.outer_distance_mm - 2.8
    mask = np.ones(settings.shape, bool)
    normals = surface_normals(found.white_distance_mm, settings.voxel_mm, smoothing_mm=1.5)
    places = place_profiles(
        found.white_distance_mm, normals, mask, settings.voxel_mm, spacing_mm=2.0
    )
    image = contrast_echo(found.echoes, settings.echo_times_ms)
    aligned = align_profiles(
        image[None], found.white_distance_mm, thin, places, settings.voxel_mm, **ALIGNING
    )
    assert aligned.n_touching > 0.8 * len(places.start)


def test_further_maps_are_read_at_the_same_places():
    settings, found = slab()
    mask = np.zeros(settings.shape, bool)
    mask[RIM:-RIM, RIM:-RIM] = True
    normals = surface_normals(found.white_distance_mm, settings.voxel_mm, smoothing_mm=1.5)
    places = place_profiles(
        found.white_distance_mm, normals, mask, settings.voxel_mm, spacing_mm=1.0
    )
    image = contrast_echo(found.echoes, settings.echo_times_ms)
    partly = np.where(np.arange(image.shape[0])[:, None, None] < 50, 2.0 * image, np.nan)
    aligned = align_profiles(
        np.stack([image, 2.0 * image, partly]),
        found.white_distance_mm,
        found.outer_distance_mm,
        places,
        settings.voxel_mm,
        **ALIGNING,
    )
    assert_allclose(aligned.others[0], 2.0 * aligned.profiles)
    # what one map lacks takes no profile from the others
    lacking = np.isnan(aligned.others[1])
    assert 0.1 < lacking.mean() < 0.9


@pytest.mark.parametrize("gain", [1e-3, 1e4])
def test_edge_does_not_depend_on_the_gain(gain):
    distance = np.arange(-2.0, 6.0, 0.1)
    signal = np.where(distance < 3.05, 60.0, 100.0)[None]
    choices = {"reach_mm": 1.0, "blur_mm": 0.2, "least_step": 0.15}
    assert_allclose(find_outer_edge(gain * signal, distance, [3.5], **choices), 3.05, atol=0.06)


def test_fall_of_the_signal_is_no_outer_edge():
    distance = np.arange(-2.0, 6.0, 0.1)
    signal = np.where(distance < 3.05, 100.0, 60.0)[None]
    found = find_outer_edge(signal, distance, [3.0], reach_mm=1.0, blur_mm=0.2, least_step=0.15)
    assert np.isnan(found).all()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: surface_normals(np.zeros((4, 4, 1)), [1, 1, 1], smoothing_mm=0.0), "2 voxels"),
        (
            lambda: surface_normals(np.full((4, 4, 2), np.nan), [1, 1, 1], smoothing_mm=0.0),
            "distance_mm holds 32 NaN",
        ),
        (
            lambda: find_outer_edge(
                np.zeros((2, 9)), np.arange(9.0), [1.0], reach_mm=1, blur_mm=1, least_step=0
            ),
            "one row for each of 1 expected",
        ),
        (
            lambda: sample_profiles(
                np.zeros((1, 4, 4, 2)),
                Places(np.zeros((0, 3)), np.zeros((0, 2)), np.zeros(0)),
                [0.0],
                [1.0, -1.0, 1.0],
            ),
            "three edges above 0",
        ),
    ],
)
def test_wrong_input_is_refused(call, words):
    with pytest.raises(NumericsError, match=words):
        call()
