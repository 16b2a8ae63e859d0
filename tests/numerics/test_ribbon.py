"""Distances, fields and means of layers against closed forms and the phantom's truth."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.ribbon import bias_from_white_matter, layer_means, signed_distance
from bids_alsmri.phantom.cortex_layers import Fold, LayeredCortex
from bids_alsmri.phantom.cortex_slab import SlabSettings, contrast_echo, simulate_slab


def test_distance_from_a_ball_is_that_from_its_middle_less_the_radius():
    place = np.moveaxis(np.indices((40, 40, 40)), 0, -1) * 0.5 - 9.75
    radius = np.linalg.norm(place, axis=-1)
    found = signed_distance(radius < 6.0, [0.5, 0.5, 0.5], smoothing_mm=0.5)
    near = np.abs(radius - 6.0) < 3.0
    # voxels of 0.5 mm and the smoothing of a curved surface leave a tenth of a millimetre
    assert_allclose(found[near], radius[near] - 6.0, atol=0.3)
    assert abs(np.mean(found[near] - (radius[near] - 6.0))) < 0.1


def test_field_of_white_matter_leaves_the_contrast_of_the_cortex():
    # transmission drops to 60 % and reception varies by 30 % along the slab
    settings = SlabSettings(
        shape=(112, 96, 3), transmit_drop=0.4, receive_bias=0.3, has_veins=False, snr=0.0,
        ribbon_sd_mm=0.0, registration_mm=0.0,
    )  # fmt: skip
    found = simulate_slab(
        LayeredCortex(), Fold(), settings, np.random.default_rng(0), samples=(2, 2, 4)
    )
    image = contrast_echo(found.echoes, settings.echo_times_ms)
    bias = bias_from_white_matter(
        image, found.white_distance_mm, settings.voxel_mm, inset_mm=1.5, fwhm_mm=6.0
    )
    left = np.log(bias / found.field)[10:-10, 10:-10]
    distance = found.true_distance_mm[10:-10, 10:-10]
    brain = distance < 3.6
    assert np.std(np.log(found.field)[10:-10, 10:-10][brain]) > 0.1
    # white matter is far from some cortex, so a field that changes within millimetres is not met
    assert np.std(left[brain]) < 0.05
    # the logarithm of the contrast is 0.105; what is left of the field varies over the slab besides
    layers = [left[(distance > low) & (distance < low + 0.8)].mean() for low in (0.5, 2.5)]
    assert abs(layers[0] - layers[1]) < 0.015


def test_contrasts_after_the_field_is_taken_off_are_the_true_ones():
    settings = SlabSettings(
        shape=(208, 128, 3), transmit_drop=0.4, receive_bias=0.3, has_veins=False,
        ribbon_sd_mm=0.3, registration_mm=0.5,
    )  # fmt: skip
    found = simulate_slab(
        LayeredCortex(), Fold(), settings, np.random.default_rng(0), samples=(1, 1, 4)
    )
    image = contrast_echo(found.echoes, settings.echo_times_ms)
    # as the pipeline has it: a ribbon that is off, and the width that is its default
    bias = bias_from_white_matter(
        image, found.white_distance_mm, settings.voxel_mm, inset_mm=1.5, fwhm_mm=12.0
    )

    def contrasts(values):
        # in tiles of 7 mm, in which the true field changes by a few per cent
        rows = []
        for i in range(8, 172, 14):
            for j in range(8, 92, 14):
                here = found.true_distance_mm[i : i + 28, j : j + 28]
                layers = [
                    values[i : i + 28, j : j + 28][(here > low) & (here < high)]
                    for low, high in ((2.5, 3.3), (0.3, 1.7), (-9.0, -1.6))
                ]
                if min(len(layer) for layer in layers) >= 100:
                    superficial, deep, white = (layer.mean() for layer in layers)
                    rows.append([1.0 - deep / superficial, white / deep - 1.0])
        return np.array(rows)

    before, after, true = (contrasts(image / field) for field in (1.0, bias, found.field))
    assert len(true) >= 8
    # 10 and 4 % were simulated
    assert_allclose(true.mean(axis=0), [0.10, 0.04], atol=0.01)
    assert_allclose(after.mean(axis=0), true.mean(axis=0), atol=0.015)
    # tiles differ by the field that is left in them, less than by that which was there
    assert (after.std(axis=0) < 0.6 * before.std(axis=0)).all()


def test_layer_without_a_border_has_no_mean():
    depth = np.arange(0.0, 4.0, 0.25)
    found = layer_means(
        np.ones((3, depth.size)), depth, deep_from_mm=1.0, white_from_mm=np.nan, inset_mm=0.2
    )
    assert found.superficial == 1.0
    assert np.isnan([found.deep, found.white]).all()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: signed_distance(np.zeros((3, 3, 3), bool), [1, 1, 1], smoothing_mm=0.0),
            "there is no border",
        ),
        (
            lambda: bias_from_white_matter(
                np.ones((5, 5, 5)), np.ones((5, 5, 5)), [1, 1, 1], inset_mm=0.0, fwhm_mm=5.0
            ),
            "white matter holds 0 voxels",
        ),
        (
            lambda: layer_means(
                np.ones((2, 3)), [0.0, 1.0], deep_from_mm=0, white_from_mm=1, inset_mm=0
            ),
            "one depth for each sample",
        ),
    ],
)
def test_wrong_input_is_refused(call, words):
    with pytest.raises(NumericsError, match=words):
        call()
