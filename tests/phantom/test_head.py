from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from bids_alsmri.phantom.anat import bias_field, rician, t1w_signal
from bids_alsmri.phantom.geometry import make_grid
from bids_alsmri.phantom.head import Head, sample_head


def at(head: Head, *point_mm: float):
    return sample_head(head, np.array([point_mm], dtype=np.float64))


@pytest.mark.slow  # the first test that needs the head waits for it: 5 s
@pytest.mark.parametrize(
    ("place", "point_mm", "tissue"),
    [
        ("callosum", (0, 27, 8), "white"),
        ("centrum semiovale", (27, -20, 32), "white"),
        ("lateral ventricle", (12, -22, 22), "fluid"),
        ("putamen", (26, 4, 0), "grey"),
        ("eye", (32, 62, -37), "fluid"),
        ("spinal canal", (7.5, -47, -100), "fluid"),
    ],
)
def test_tissue_is_where_anatomy_has_it(head, place, point_mm, tissue):
    assert getattr(at(head, *point_mm), tissue)[0] > 0.7, place


@pytest.mark.slow
def test_fractions_are_shares_of_a_voxel(head):
    grid = make_grid((0.0, -16.0, -20.0), (200.0, 256.0, 256.0), 5.0, 0.0)
    sample = sample_head(head, grid.points_mm())
    total = sample.white + sample.grey + sample.fluid
    assert total.max() <= 1 + 1e-6  # single precision
    for fraction in (sample.white, sample.grey, sample.fluid):
        assert fraction.min() >= 0


@pytest.mark.slow
def test_skull_is_dark_between_bright_scalp_and_brain(head):
    heights = np.arange(60.0, 112.0, 0.5)
    line = np.stack([np.full_like(heights, 22.0), np.full_like(heights, -20.0), heights], -1)
    signal = t1w_signal(sample_head(head, line))
    scalp = np.flatnonzero(signal > 1.1).max()
    skull = slice(np.flatnonzero(sample_head(head, line).brain > 0.5).max(), scalp)
    assert signal[skull].min() < 0.2
    assert signal[scalp] > 1.1
    assert signal[-1] == 0


@pytest.mark.slow
def test_air_surrounds_the_head(head):
    for point in ((0, 125, 0), (110, 0, 0), (0, 0, 120), (0, -150, 0)):
        sample = at(head, *point)
        assert t1w_signal(sample)[0] == 0


def test_noise_of_the_background_is_rayleigh():
    sigma = 7.0
    noise = rician(np.zeros(200_000), sigma, np.random.default_rng(0))
    error = sigma * np.sqrt((2 - np.pi / 2) / noise.size)
    assert_allclose(noise.mean(), sigma * np.sqrt(np.pi / 2), atol=4 * error)


def test_noise_raises_a_weak_signal_as_rice_says():
    from scipy.stats import rice

    sigma, signal = 5.0, 10.0
    noisy = rician(np.full(200_000, signal), sigma, np.random.default_rng(1))
    truth = rice(signal / sigma, scale=sigma)
    assert_allclose(noisy.mean(), truth.mean(), atol=4 * truth.std() / np.sqrt(noisy.size))


def test_bias_field_stays_within_a_fifth_and_varies():
    grid = make_grid((0.0, 0.0, 0.0), (200.0, 200.0, 200.0), 10.0, 0.0)
    for seed in range(5):
        field = bias_field(grid, np.random.default_rng(seed))
        assert 0.8 <= field.min() < field.max() <= 1.2
        assert field.max() - field.min() > 0.08
