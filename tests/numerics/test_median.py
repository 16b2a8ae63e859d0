"""The median filter against scipy's, value by value."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scipy import ndimage

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.median import median_filter


@pytest.fixture(scope="module", autouse=True)
def _compiled():
    """Compile the kernel once, outside the time of any test."""
    median_filter(np.ones((3, 3, 3)), radius=1)


@pytest.mark.parametrize("radius", [1, 2, 4])
@pytest.mark.parametrize("shape", [(14, 9, 11), (5, 12, 3), (1, 4, 7)])
@pytest.mark.parametrize("kind", ["all differ", "many are equal", "background of zeros"])
def test_median_is_that_of_scipy(radius, shape, kind):
    image = np.random.default_rng(radius).normal(0, 3, shape).astype(np.float32)
    if kind == "many are equal":
        image = np.round(image)
    if kind == "background of zeros":
        image = np.maximum(image, 0)
    expected = ndimage.median_filter(image, 2 * radius + 1)
    found = median_filter(image, radius=radius)
    assert_array_equal(found, expected)
    assert found.dtype == image.dtype


def test_constant_image_stays():
    assert_array_equal(median_filter(np.full((4, 4, 4), 2.5), radius=2), 2.5)


@pytest.mark.parametrize(
    ("image", "radius", "words"),
    [
        (np.ones((3, 3)), 1, r"image has shape \(3, 3\)"),
        (np.ones((3, 3, 3)), 16, "radius is 16"),
        (np.full((3, 3, 3), np.nan), 1, "image"),
    ],
)
def test_wrong_input_is_refused(image, radius, words):
    with pytest.raises(NumericsError, match=words):
        median_filter(image, radius=radius)
