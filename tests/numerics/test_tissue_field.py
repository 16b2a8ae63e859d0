"""Receive field of a station from fat and from muscles that differ: it is found again."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import ndimage

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.tissue_field import tissue_field

EDGES_MM = (4.0, 5.0, 4.0)
SHAPE = (50, 26, 40)
SETTINGS = {"order": 3, "cell_mm": 60.0}


def station(
    seed: int, bias: float = 0.2, noise: float = 0.02, unlike: float = 0.3
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Image, labels, true field and marrow of two limbs with muscles that differ, and fat in some.

    The field is what a coil has: half a wave along each axis, most along the body.
    """
    rng = np.random.default_rng(seed)
    x, y = (
        (i - (n - 1) / 2) * e
        for i, n, e in zip(np.indices(SHAPE)[:2], SHAPE, EDGES_MM, strict=False)
    )
    tissue, labels = np.zeros(SHAPE), np.zeros(SHAPE, np.int32)
    marrow = np.zeros(SHAPE, bool)
    for limb, centre in enumerate((-48.0, 48.0)):
        radius = np.hypot(x - centre, y)
        tissue[radius < 42] = 1.0
        turn = np.arctan2(y, x - centre)
        for part in range(4):
            inside = (radius < 34) & (np.floor((turn + np.pi) / (np.pi / 2)) == part)
            labels[inside] = 1 + 4 * limb + part
            tissue[inside] = 0.3 * (1 + unlike * rng.uniform(-1, 1.5))
            streaks = ndimage.gaussian_filter(rng.standard_normal(SHAPE), 1.0)
            tissue[inside & (streaks > np.quantile(streaks, 0.9))] = 1.0
        bone = radius < 14
        tissue[bone], labels[bone] = 0.02, 0
        tissue[radius < 8] = 1.0
        # muscles of both limbs are divided by the bone of one
        marrow |= (radius < 8) & (limb == 0)
    field = np.ones(SHAPE)
    for axis, (n, weight) in enumerate(zip(SHAPE, (0.2, 0.2, 0.6), strict=True)):
        wave = np.cos(np.pi * np.arange(n) / (n - 1) + rng.uniform(0, 2 * np.pi))
        field += bias * weight * wave.reshape([-1 if a == axis else 1 for a in range(3)])
    noisy = np.hypot(tissue * field + rng.normal(0, noise, SHAPE), rng.normal(0, noise, SHAPE))
    return noisy * 700.0, labels, field, marrow


def errors(divisor: np.ndarray | float, image, labels, field, marrow) -> np.ndarray:
    """Error of each muscle's signal over marrow's, in per cent."""
    even, truth = image / divisor, image / field

    def relative(values):
        return np.array([values[labels == n].mean() for n in range(1, 9)]) / values[marrow].mean()

    return 100 * (relative(even) / relative(truth) - 1)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_relative_signal_of_muscles_under_a_field_of_a_fifth_is_right(seed):
    scene = station(seed)
    image, labels, *_ = scene
    found = tissue_field(image, labels, EDGES_MM, **SETTINGS)
    # the aim of this project is 5 %; on the body of the benchmark 95 % of errors are below 3 %
    assert np.abs(errors(found, *scene)).max() < 3.0


def test_without_a_field_muscles_that_differ_stay_as_they_are():
    scene = station(4, bias=0.0, unlike=0.6)
    found = tissue_field(scene[0], scene[1], EDGES_MM, **SETTINGS)
    assert np.abs(errors(found, *scene)).max() < 2.0


def test_error_without_correction_is_larger():
    # what is tested above would hold without any correction otherwise
    assert max(np.abs(errors(1.0, *station(seed))).max() for seed in (1, 2, 3)) > 5.0


@pytest.mark.parametrize("gain", [1e-3, 50.0])
def test_field_does_not_depend_on_receiver_gain(gain):
    image, labels, *_ = station(1)
    first = tissue_field(image, labels, EDGES_MM, **SETTINGS)
    assert_allclose(tissue_field(gain * image, labels, EDGES_MM, **SETTINGS), first, rtol=1e-4)


def test_mirrored_station_has_the_mirrored_field():
    image, labels, *_ = station(1)
    first = tissue_field(image, labels, EDGES_MM, **SETTINGS)
    # other voxels are drawn as samples, and cubes begin at the other end
    mirrored = tissue_field(image[::-1], labels[::-1], EDGES_MM, **SETTINGS)[::-1]
    inside = labels > 0
    assert_allclose(mirrored[inside], first[inside], rtol=0.02)


def test_image_of_noise_is_refused():
    rng = np.random.default_rng(1)
    noise = np.hypot(*rng.normal(0, 1, (2, 20, 20, 20)))
    with pytest.raises(NumericsError, match="noise is too high, or its voxels are too coarse"):
        tissue_field(noise, np.zeros(noise.shape, int), (2, 2, 2), **SETTINGS)


def test_empty_image_is_refused():
    with pytest.raises(NumericsError, match="no signal"):
        tissue_field(np.zeros((4, 4, 4)), np.zeros((4, 4, 4), int), (2, 2, 2), **SETTINGS)
