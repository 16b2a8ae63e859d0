"""Inference on arrays against enumeration with scipy."""

from itertools import combinations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import ndimage, stats

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.linear import two_groups
from bids_alsmri.numerics.permutation import Exchange
from bids_alsmri.numerics.tfce import image_neighbourhood
from bids_alsmri.stats.inference import Permutation, infer

MASK = np.ones((5, 4, 3), bool)
NEAR = image_neighbourhood(MASK, 6)
FIRST = np.arange(8) < 4
DESIGN, CONTRAST = two_groups(FIRST)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(1)
    image = rng.normal(100.0, 5.0, (8, *MASK.shape))
    image[:4, :2, :2] += 6.0
    return image[:, MASK]


@pytest.fixture(scope="module")
def found(data):
    return infer(data, DESIGN, CONTRAST, NEAR, exchange=Exchange(), permutation=Permutation())


@pytest.fixture(scope="module")
def every_t(data):
    """T of all 70 ways to choose the first group, the observed one first."""
    choices = sorted(combinations(range(8), 4), key=lambda chosen: chosen != (0, 1, 2, 3))
    masks = [np.isin(np.arange(8), chosen) for chosen in choices]
    return np.array([stats.ttest_ind(data[m], data[~m]).statistic for m in masks])


def enhanced(t):
    """TFCE as the sum over all heights at which a cluster changes."""
    out = np.zeros(MASK.shape)
    image = t.reshape(MASK.shape)
    low = 0.0
    for high in np.unique(image[image > 0]):
        labels = ndimage.label(image >= high)[0]
        extent = np.bincount(labels.ravel()).astype(float)
        extent[0] = 0.0
        out += np.sqrt(extent)[labels] * (high**3 - low**3) / 3
        low = high
    return out[MASK]


def test_t_and_its_p_values_are_those_of_enumeration(found, every_t):
    assert found.n_relabellings == 70
    assert found.is_exhaustive
    assert found.degrees_of_freedom == 6
    for direction, t in ((found.positive, every_t), (found.negative, -every_t)):
        own = t[0] > 0
        reached = t >= t[0] * (1 - 1e-5)
        largest = t.max(axis=1, keepdims=True) >= t[0] * (1 - 1e-5)
        assert_allclose(direction.t, t[0], rtol=1e-9)
        assert_allclose(direction.p_t[own], reached.mean(axis=0)[own])
        assert_allclose(direction.p_t_fwe[own], largest.mean(axis=0)[own])
        assert_array_equal(direction.p_t[~own], 1.0)


def test_enhanced_map_and_its_p_values_are_those_of_enumeration(found, every_t):
    for direction, sign in ((found.positive, 1), (found.negative, -1)):
        maps = np.array([enhanced(sign * t) for t in every_t])
        own = maps[0] > 0
        reached = maps >= maps[0] * (1 - 1e-5)
        largest = maps.max(axis=1, keepdims=True) >= maps[0] * (1 - 1e-5)
        assert_allclose(direction.enhanced, maps[0], rtol=1e-9)
        assert_allclose(direction.p_enhanced[own], reached.mean(axis=0)[own])
        assert_allclose(direction.p_enhanced_fwe[own], largest.mean(axis=0)[own])
        assert_array_equal(direction.p_enhanced_fwe[~own], 1.0)


def test_opposite_contrast_gives_the_opposite_directions(found, data):
    turned = infer(data, DESIGN, -CONTRAST, NEAR, exchange=Exchange(), permutation=Permutation())
    for name in ("t", "enhanced", "p_t", "p_enhanced", "p_t_fwe", "p_enhanced_fwe"):
        assert_allclose(getattr(turned.positive, name), getattr(found.negative, name), rtol=1e-6)


@pytest.mark.parametrize("n_threads", [2, 3])
def test_p_values_do_not_depend_on_threads(data, n_threads):
    rng = np.random.default_rng(2)
    more = np.concatenate([data, rng.normal(100, 5, (8, data.shape[1]))])
    design, contrast = two_groups(np.arange(16) < 7, rng.normal(0, 1, (16, 1)))
    one, many = (
        infer(
            more,
            design,
            contrast,
            NEAR,
            exchange=Exchange(),
            permutation=Permutation(n_permutations=100, n_threads=n),
        )
        for n in (1, n_threads)
    )
    assert not one.is_exhaustive
    for name in ("p_t", "p_enhanced", "p_t_fwe", "p_enhanced_fwe"):
        assert_array_equal(getattr(one.positive, name), getattr(many.positive, name))


def test_perfect_separation_has_the_smallest_p_and_not_zero(data):
    apart = data.copy()
    apart[FIRST, 0], apart[~FIRST, 0] = 1.0, 0.0
    result = infer(apart, DESIGN, CONTRAST, NEAR, exchange=Exchange(), permutation=Permutation())
    assert_allclose(result.positive.p_t_fwe[0], 1 / 70)
    assert np.isfinite(result.positive.enhanced).all()


def test_voxel_without_variance_is_counted_and_never_significant(data):
    flat = data.copy()
    flat[:, 7] = 3.0
    result = infer(flat, DESIGN, CONTRAST, NEAR, exchange=Exchange(), permutation=Permutation())
    assert result.n_constant == 1
    for direction in (result.positive, result.negative):
        assert direction.t[7] == 0.0
        assert direction.p_t[7] == direction.p_enhanced_fwe[7] == 1.0


def test_too_few_observations_are_refused():
    design, contrast = two_groups(np.arange(5) < 2)
    noise = np.random.default_rng(3).normal(size=(5, MASK.sum()))
    with pytest.raises(NumericsError, match=r"10 relabellings.*below 0\.05"):
        infer(noise, design, contrast, NEAR, exchange=Exchange(), permutation=Permutation())


@pytest.mark.slow
def test_tail_of_few_relabellings_comes_near_the_count_of_many():
    rng = np.random.default_rng(5)
    ratios = []
    for _ in range(12):
        image = rng.normal(0.0, 1.0, (20, *MASK.shape))
        image[:10, :2, :2] += 1.0
        design, contrast = two_groups(np.arange(20) < 10)
        few, many = (
            infer(
                image[:, MASK],
                design,
                contrast,
                NEAR,
                exchange=Exchange(),
                permutation=Permutation(n_permutations=n, tail=tail, seed=6),
            ).positive
            for n, tail in ((500, True), (5_000, False))
        )
        small = (many.p_enhanced_fwe < 0.05) & (many.p_enhanced_fwe > 0.001)
        ratios.extend(
            few.p_enhanced_fwe[small & ~few.is_counted]
            / many.p_enhanced_fwe[small & ~few.is_counted]
        )
        assert many.is_counted.all()
    assert len(ratios) > 20
    assert 0.8 < np.median(ratios) < 1.25
