"""Bone reference, eroded regions and displaced fat."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import ndimage

from bids_alsmri.numerics.relative_signal import (
    erode_labels,
    find_bone_reference,
    share_displaced_fat,
)

RULES = {"noise_sd": 5.0, "least_snr": 10.0, "most_variation": 0.2}


def marrow(bias: float = 0.0, level: float = 100.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    field = 1 + bias * np.linspace(-1, 1, 40)
    image = level * field * np.ones((12, 12, 40)) + rng.normal(0, 5, (12, 12, 40))
    mask = np.zeros(image.shape, bool)
    mask[4:8, 4:8] = True
    return image, mask


def test_even_bone_is_taken_whatever_the_noise_of_its_voxels():
    found = find_bone_reference(*marrow(), np.eye(4), **RULES)
    assert_allclose(found.mean, 100, rtol=0.01)
    assert_allclose(found.sd, 5, rtol=0.1)
    assert found.refusal == ""
    assert found.variation < 0.03


@pytest.mark.parametrize("bias", [0.05, 0.2])
def test_variation_is_that_of_the_receive_field(bias):
    found = find_bone_reference(*marrow(bias), np.eye(4), **RULES)
    assert_allclose(found.variation, 2 * bias, atol=0.03)
    assert bool(found.refusal) == (bias > 0.1)
    if found.refusal:
        assert "along the station, above 20 %" in found.refusal


def test_dark_bone_is_refused_with_its_snr():
    found = find_bone_reference(*marrow(level=40.0), np.eye(4), **RULES)
    assert "SNR of the bone reference is 8.0, below 10" in found.refusal


def test_bone_out_of_view_is_refused():
    image, mask = marrow()
    found = find_bone_reference(image, mask & False, np.eye(4), **RULES)
    assert "0 voxels" in found.refusal


def test_eroded_regions_are_those_of_scipy_label_by_label():
    rng = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(rng.random((16, 16, 16)), 2)
    labels = np.digitize(smooth, np.quantile(smooth, [0.3, 0.6])).astype(np.int16)
    expected = np.zeros_like(labels)
    for label in (1, 2):
        expected[ndimage.binary_erosion(labels == label)] = label
    assert np.array_equal(erode_labels(labels), expected)


def test_region_of_one_slice_is_eroded_within_it():
    labels = np.zeros((9, 9, 5), np.int16)
    labels[2:7, 2:7, 2] = 4
    eroded = erode_labels(labels) == 4
    assert eroded.sum() == 9
    assert eroded[3:6, 3:6, 2].all()


@pytest.mark.parametrize("shift", [3.0, -3.0])
def test_fat_is_followed_along_phase_encoding(shift):
    labels = np.zeros((4, 20, 4), np.int16)
    labels[:, 5:15] = 9
    fat = np.zeros(labels.shape, bool)
    fat[:, :5], fat[:, 15:] = True, True
    found = share_displaced_fat(labels, fat, axis=1, shift_voxels=shift, wanted=[9, 8])
    assert found == {9: pytest.approx(0.3)}
