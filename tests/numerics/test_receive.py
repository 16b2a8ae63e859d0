"""Receive bias of simulated coils is found, and what is divided by it is even."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.receive import (
    bias_from_coils,
    bias_from_image,
    continued_field,
    extended,
    normalised_bias,
)

VOXEL_MM = np.array([6.0, 6.0, 6.0])
N = 36


def grid():
    x = np.linspace(-1, 1, N)
    return np.meshgrid(x, x, x, indexing="ij")


def scene():
    """Head with a bright core and a tube beside it, in one mask, and the head alone."""
    x, y, z = grid()
    radius = np.sqrt(x**2 + y**2 + z**2)
    head = radius < 0.7
    tube = (np.hypot(x - 0.88, y) < 0.1) & (np.abs(z) < 0.4)
    return 40.0 * head + 60.0 * (radius < 0.3) + 80.0 * tube, head, head | tube


def coils():
    """Smooth field of eight coils around the head, brighter at the rim."""
    x, y, z = grid()
    angles = np.arange(8) * np.pi / 4
    squares = sum(
        1 / (0.4 + (x - 1.3 * np.cos(a)) ** 2 + (y - 1.3 * np.sin(a)) ** 2 + z**2) ** 2
        for a in angles
    )
    return np.sqrt(squares)


def test_bias_of_an_array_is_found_by_a_volume_coil():
    sodium, head, mask = scene()
    rng = np.random.default_rng(0)
    field = coils()
    noisy = [
        np.maximum(image + rng.normal(size=image.shape), 0.0) for image in (sodium * field, sodium)
    ]
    bias = bias_from_coils(*noisy, mask, VOXEL_MM, head_mask=head, fwhm_mm=18.0)
    expected = field / field[head].mean()
    assert field[head].max() > 1.6 * field[head].min()
    # smoothing over 18 mm flattens the field where it bends most
    assert_allclose(bias[mask], expected[mask], rtol=0.1)
    assert np.abs(bias[head] / expected[head] - 1).mean() < 0.02


def test_bias_has_a_mean_of_one_over_the_head_and_no_gain():
    sodium, head, mask = scene()
    field = coils()
    arguments = {"head_mask": head, "fwhm_mm": 12.0}
    bias = bias_from_coils(sodium * field, sodium, mask, VOXEL_MM, **arguments)
    assert_allclose(bias[head].mean(), 1.0)
    other = bias_from_coils(7 * sodium * field, 0.1 * sodium, mask, VOXEL_MM, **arguments)
    assert_allclose(other, bias)


def test_bias_is_positive_and_even_far_beyond_the_mask():
    sodium, head, mask = scene()
    bias = bias_from_coils(sodium * coils(), sodium, mask, VOXEL_MM, head_mask=head, fwhm_mm=12.0)
    rim = bias[mask]
    assert rim.min() * 0.99 <= bias.min()
    assert bias.max() <= rim.max() * 1.01


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_bias_follows_flips(axis):
    sodium, head, mask = scene()
    field = coils() * np.exp(0.3 * grid()[0])
    plain = bias_from_coils(sodium * field, sodium, mask, VOXEL_MM, head_mask=head, fwhm_mm=12.0)
    flipped = [np.flip(a, axis) for a in (sodium * field, sodium, mask, head)]
    found = bias_from_coils(*flipped[:3], VOXEL_MM, head_mask=flipped[3], fwhm_mm=12.0)
    # at equal distances the nearest voxel is the first in storage order, so outside it may differ
    assert_allclose(np.flip(found, axis)[mask], plain[mask])


def test_smooth_part_of_an_image_is_its_bias_where_tissue_is_even():
    sodium, head, _ = scene()
    x, y, _ = grid()
    field = np.exp(0.4 * x - 0.3 * y**2)
    bias = bias_from_image(np.where(head, sodium * field, 0.0), head, VOXEL_MM, order=2)
    # the core, brighter by 2.5, is a twelfth of the head and hardly counts
    assert_allclose(bias[head], (field / field[head].mean())[head], rtol=0.06)


def test_given_map_is_scaled_to_the_head():
    _, head, _ = scene()
    assert_allclose(normalised_bias(5 * coils(), head)[head].mean(), 1.0)


def test_extension_keeps_the_map_and_carries_its_rim_outwards():
    values = np.arange(6.0)[:, None, None] * np.ones((6, 3, 3))
    mask = values < 3
    found = extended(values, mask, [1.0, 1.0, 1.0], 0.5)
    assert_allclose(found[mask], values[mask])
    assert_allclose(found[5], 2.0, atol=1e-3)


@pytest.mark.parametrize("step", [1, 4])
@pytest.mark.parametrize("gain", [0.4, 1.0])
def test_field_goes_on_beyond_its_mask_whatever_its_scale(step, gain):
    x = np.linspace(-1.0, 1.0, 40)[:, None, None] * np.ones((40, 24, 24))
    mask = np.abs(x) < 0.5
    mask[:, :2] = False
    found = continued_field(np.where(mask, gain * np.exp(0.2 * x), 1.0), mask, [2.0] * 3, step=step)
    # the slope has its mean in the middle of the mask
    assert_allclose(found[mask], np.exp(0.2 * x[mask]), rtol=1e-5)
    # held at the value of the rim, which a coarse grid meets to within its step
    assert_allclose(found[[0, -1]], np.exp([[[-0.1]], [[0.1]]]) * np.ones((2, 24, 24)), rtol=0.05)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda m: continued_field(np.zeros(m.shape), m, [4] * 3, step=1), "goes down to 0"),
        (lambda m: continued_field(np.ones(m.shape), ~m & m, [4] * 3, step=1), "mask is empty"),
        (lambda m: normalised_bias(np.zeros(m.shape), m), "bias is 0 in places"),
        (lambda m: normalised_bias(np.ones(m.shape), ~m & m), "head_mask is empty"),
        (lambda m: normalised_bias(np.ones((2, 2, 2)), m), "bring both to one grid"),
        (
            lambda m: bias_from_coils(
                np.ones(m.shape), np.zeros(m.shape), m, [4] * 3, head_mask=m, fwhm_mm=9.0
            ),
            "volume_image has no signal around",
        ),
        (lambda m: bias_from_image(np.zeros(m.shape), m, [4] * 3, order=2), "in 0 voxels"),
    ],
)
def test_impossible_arguments_are_named(call, text):
    with pytest.raises(NumericsError, match=text):
        call(np.ones((5, 5, 5), bool))
