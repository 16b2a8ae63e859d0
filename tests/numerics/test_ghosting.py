"""Ghosts of known strength in the air beside an object."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.ghosting import ghost_share

WORDS = {"object_share": 0.2, "margin_mm": 1.0}
EDGES = (0.5, 0.5, 2.0)


def scan(ghost, *, axis=1, sigma=0.0, size=80):
    """A square of half the field of view, its ghost half a field away, and Rician noise."""
    image = np.zeros((size, size, 4))
    image[size // 4 : 3 * size // 4, size // 4 : 3 * size // 4] = 100.0
    image += ghost * np.roll(image, size // 2, axis=axis)
    noise = np.random.default_rng(3).normal(0.0, sigma, (2, *image.shape))
    return np.hypot(image + noise[0], noise[1])


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("sigma", [0.0, 5.0])
def test_ghost_has_its_strength_whatever_the_noise(axis, sigma):
    # the object's margin covers 1 mm of the ghost of 20 mm on either side, which is as strong
    found = ghost_share(scan(0.06, axis=axis, sigma=sigma), EDGES, axis=axis, **WORDS)
    # noise of 5 in some thousand voxels tells the power to 1 of 36
    assert_allclose(found, 0.06, atol=0.002)


def test_ghost_along_the_other_axis_is_none():
    assert ghost_share(scan(0.06, axis=0), EDGES, axis=1, **WORDS) == 0.0


def test_noise_alone_is_hardly_a_ghost():
    assert ghost_share(scan(0.0, sigma=5.0), EDGES, axis=1, **WORDS) < 0.015


def test_strength_does_not_depend_on_the_gain():
    image = scan(0.06, sigma=2.0)
    found = [ghost_share(gain * image, EDGES, axis=1, **WORDS) for gain in (1.0, 1e3)]
    assert_allclose(found[0], found[1], rtol=1e-9)


@pytest.mark.parametrize("image", [np.full((40, 40, 2), 100.0), np.zeros((40, 40, 2))])
def test_without_air_or_object_there_is_no_value(image):
    assert np.isnan(ghost_share(image, EDGES, axis=1, **WORDS))


def test_slice_axis_is_refused():
    with pytest.raises(NumericsError, match="axis is 2"):
        ghost_share(scan(0.0), EDGES, axis=2, **WORDS)
