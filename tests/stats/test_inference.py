"""Inference on arrays against enumeration with scipy."""

from dataclasses import asdict, fields, replace
from itertools import combinations, pairwise

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import ndimage, stats

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.linear import two_groups
from bids_alsmri.numerics.permutation import Exchange, NullStatistics, join_blocks
from bids_alsmri.numerics.tfce import image_neighbourhood
from bids_alsmri.stats.inference import (
    Permutation,
    conclude,
    infer,
    make_problem,
)

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
        assert_allclose(direction.statistic, t[0], rtol=1e-9)
        assert_allclose(direction.p_statistic[own], reached.mean(axis=0)[own])
        assert_allclose(direction.p_statistic_fwe[own], largest.mean(axis=0)[own])
        assert_array_equal(direction.p_statistic[~own], 1.0)


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
    for name in (
        "statistic",
        "enhanced",
        "p_statistic",
        "p_enhanced",
        "p_statistic_fwe",
        "p_enhanced_fwe",
    ):
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
    for name in ("p_statistic", "p_enhanced", "p_statistic_fwe", "p_enhanced_fwe"):
        assert_array_equal(getattr(one.positive, name), getattr(many.positive, name))


@pytest.mark.parametrize("cuts", [[37], [1, 99], [8, 9, 50, 51], list(range(1, 100))])
def test_blocks_join_to_the_bits_of_one_whatever_the_cut_and_order(data, cuts):
    rng = np.random.default_rng(12)
    more = np.concatenate([data, rng.normal(100, 5, (8, data.shape[1]))])
    design, contrast = two_groups(np.arange(16) < 7, rng.normal(0, 1, (16, 2)))
    permutation = Permutation(n_permutations=100)

    def problem():  # each job makes its own
        return make_problem(
            more, design, contrast, NEAR, exchange=Exchange(), permutation=permutation
        )

    whole = problem().block(range(100))
    edges = [0, *cuts, 100]
    blocks = [problem().block(range(a, b)) for a, b in pairwise(edges)]
    joined = join_blocks(blocks[::-1])
    for field in fields(whole):
        assert_array_equal(getattr(joined, field.name), getattr(whole, field.name))


def test_blocks_survive_being_saved_as_arrays(data, tmp_path):
    problem = make_problem(
        data, DESIGN, CONTRAST, NEAR, exchange=Exchange(), permutation=Permutation()
    )
    paths = [tmp_path / f"{k}.npz" for k in range(2)]
    for path, numbers in zip(paths, (range(40), range(40, 70)), strict=True):
        np.savez(path, **asdict(problem.block(numbers)))
    null = join_blocks([NullStatistics(**np.load(path)) for path in paths])
    once = infer(data, DESIGN, CONTRAST, NEAR, exchange=Exchange(), permutation=Permutation())
    again = conclude(problem, null)
    for side in ("positive", "negative"):
        for field in fields(getattr(once, side)):
            assert_array_equal(
                getattr(getattr(again, side), field.name),
                getattr(getattr(once, side), field.name),
            )


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda p: p.block(range(0)), "give one or more of the relabellings 0 to 69"),
        (lambda p: p.block(range(60, 71)), "relabellings 0 to 69"),
        (lambda p: join_blocks([]), "blocks is empty"),
        (lambda p: join_blocks([p.block(range(9)), p.block(range(8, 70))]), "relabelling 8 stands"),
        (lambda p: conclude(p, p.block(range(69))), "69 of 70.*such as 69"),
        (
            lambda p: join_blocks(
                [p.block(range(9)), replace(p.block(range(9, 70)), enhanced=np.zeros(60))]
            ),
            "blocks differ in the statistic",
        ),
    ],
)
def test_blocks_that_do_not_make_a_whole_are_refused(data, act, words):
    problem = make_problem(
        data, DESIGN, CONTRAST, NEAR, exchange=Exchange(), permutation=Permutation()
    )
    with pytest.raises(NumericsError, match=words):
        act(problem)


def test_neighbourhood_of_another_mask_is_refused(data):
    with pytest.raises(NumericsError, match="59 features but the neighbourhood 60"):
        infer(data[:, 1:], DESIGN, CONTRAST, NEAR, exchange=Exchange(), permutation=Permutation())


def test_perfect_separation_has_the_smallest_p_and_not_zero(data):
    apart = data.copy()
    apart[FIRST, 0], apart[~FIRST, 0] = 1.0, 0.0
    result = infer(apart, DESIGN, CONTRAST, NEAR, exchange=Exchange(), permutation=Permutation())
    assert_allclose(result.positive.p_statistic_fwe[0], 1 / 70)
    assert np.isfinite(result.positive.enhanced).all()


def test_voxel_without_variance_is_counted_enhanced_and_never_significant(data):
    flat = data.copy()
    flat[:, 7] = 3.0
    result = infer(flat, DESIGN, CONTRAST, NEAR, exchange=Exchange(), permutation=Permutation())
    assert result.n_constant == 1
    for direction in (result.positive, result.negative):
        assert direction.statistic[7] == 0.0
        assert direction.p_statistic[7] == direction.p_enhanced_fwe[7] == 1.0


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
            few.p_enhanced_fwe[small & ~few.is_counted_enhanced]
            / many.p_enhanced_fwe[small & ~few.is_counted_enhanced]
        )
        assert many.is_counted_enhanced.all()
    assert len(ratios) > 20
    assert 0.8 < np.median(ratios) < 1.25
