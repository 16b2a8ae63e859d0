"""Inference on arrays against enumeration with scipy."""

from dataclasses import asdict, fields, replace
from itertools import combinations, pairwise, permutations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import ndimage, stats

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.linear import two_groups
from bids_alsmri.numerics.permutation import (
    Exchange,
    NullStatistics,
    join_blocks,
    make_exchange,
)
from bids_alsmri.numerics.tfce import image_neighbourhood
from bids_alsmri.stats.inference import (
    Direction,
    Permutation,
    conclude,
    infer,
    make_problem,
)

MASK = np.ones((5, 4, 3), bool)
NEAR = image_neighbourhood(MASK, 6)
ARRAYS = [field.name for field in fields(Direction) if field.name != "clusters"]
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


def test_two_sided_p_values_are_those_of_the_magnitude_by_enumeration(found, every_t):
    maps = np.array([enhanced(t) - enhanced(-t) for t in every_t])
    for values, p, p_fwe in (
        (every_t, found.either.p_statistic, found.either.p_statistic_fwe),
        (maps, found.either.p_enhanced, found.either.p_enhanced_fwe),
    ):
        size = np.abs(values)
        seen = size[0] * (1 - 1e-5)
        assert_allclose(p, (size >= seen).mean(axis=0))
        assert_allclose(p_fwe, (size.max(axis=1, keepdims=True) >= seen).mean(axis=0))
    assert_allclose(found.either.statistic, every_t[0], rtol=1e-9)
    assert_allclose(found.either.enhanced, maps[0], rtol=1e-9)


def test_two_sided_p_is_never_below_that_of_its_own_side(found):
    for name in ("p_statistic", "p_enhanced", "p_statistic_fwe", "p_enhanced_fwe"):
        least = np.minimum(getattr(found.positive, name), getattr(found.negative, name))
        assert (getattr(found.either, name) >= least).all()
        assert (getattr(found.either, name) <= 2 * least + 1e-12).all()


HEIGHT = 1.2  # the small studies' largest t lie about 3


def largest_extent(image):
    labels = ndimage.label(image.reshape(MASK.shape) >= HEIGHT)[0]
    return np.bincount(labels.ravel())[1:].max(initial=0), labels[MASK]


def test_extents_of_clusters_and_their_p_are_those_of_enumeration(data, every_t):
    result = infer(
        data,
        DESIGN,
        CONTRAST,
        NEAR,
        exchange=Exchange(),
        permutation=Permutation(cluster_height=HEIGHT),
    )
    null = {sign: np.array([largest_extent(sign * t)[0] for t in every_t]) for sign in (1, -1)}
    null[0] = np.maximum(null[1], null[-1])
    n_clusters = 0
    for direction, sign in ((result.positive, 1), (result.negative, -1)):
        _, labels = largest_extent(sign * every_t[0])
        assert_array_equal(direction.clusters.label > 0, labels > 0)
        assert_array_equal(direction.clusters.p_fwe[labels == 0], 1.0)
        assert_array_equal(direction.clusters.extent[labels == 0], 0)
        for k in range(1, labels.max() + 1):
            n_clusters += 1
            here = labels == k
            assert_array_equal(direction.clusters.extent[here], here.sum())
            assert_allclose(direction.clusters.p_fwe[here], (null[sign] >= here.sum()).mean())
            assert_allclose(result.either.clusters.p_fwe[here], (null[0] >= here.sum()).mean())
            assert len(np.unique(result.either.clusters.label[here])) == 1
    assert n_clusters == result.either.clusters.label.max() > 2


def test_without_a_forming_threshold_there_are_no_clusters(found):
    assert found.positive.clusters is None
    assert found.either.clusters is None


def test_f_of_three_groups_and_its_p_values_are_those_of_enumeration(data):
    three = np.repeat([0, 1, 2], [3, 3, 2])
    orders = sorted(set(permutations(three)), key=lambda o: o != tuple(three))
    every = np.array(
        [
            stats.f_oneway(*(data[np.array(order) == g] for g in range(3))).statistic
            for order in orders
        ]
    )
    result = infer(
        data,
        np.eye(3)[three],
        [[1, -1, 0], [0, 1, -1]],
        NEAR,
        exchange=Exchange(),
        permutation=Permutation(),
    )
    assert result.n_relabellings == len(orders) == 560
    assert result.degrees_of_freedom == 5
    maps = np.array([enhanced(f) for f in every])
    seen, seen_enhanced = every[0] * (1 - 1e-5), maps[0] * (1 - 1e-5)
    for direction in (result.positive, result.either):
        assert_allclose(direction.statistic, every[0], rtol=1e-9)
        assert_allclose(direction.p_statistic, (every >= seen).mean(axis=0))
        assert_allclose(
            direction.p_statistic_fwe, (every.max(axis=1, keepdims=True) >= seen).mean(axis=0)
        )
        assert_allclose(
            direction.p_enhanced_fwe,
            (maps.max(axis=1, keepdims=True) >= seen_enhanced).mean(axis=0),
        )
    assert_array_equal(result.negative.p_statistic, 1.0)
    assert_array_equal(result.negative.p_enhanced_fwe, 1.0)


def test_p_values_of_welchs_t_are_those_of_enumeration(data):
    rng = np.random.default_rng(8)
    wide = data + np.where(FIRST, 8.0, 0.5)[:, np.newaxis] * rng.normal(0, 1, data.shape)
    choices = sorted(combinations(range(8), 4), key=lambda chosen: chosen != (0, 1, 2, 3))
    masks = [np.isin(np.arange(8), chosen) for chosen in choices]
    every = np.array([stats.ttest_ind(wide[m], wide[~m], equal_var=False).statistic for m in masks])
    result = infer(
        wide,
        DESIGN,
        CONTRAST,
        NEAR,
        exchange=Exchange(),
        permutation=Permutation(),
        variance_groups=FIRST,
    )
    for direction, v in ((result.positive, every), (result.negative, -every)):
        own = v[0] > 0
        largest = v.max(axis=1, keepdims=True) >= v[0] * (1 - 1e-5)
        assert_allclose(direction.statistic, v[0], rtol=1e-8)
        assert_allclose(direction.p_statistic_fwe[own], largest.mean(axis=0)[own])
        assert_allclose(direction.p_statistic[own], (v >= v[0] * (1 - 1e-5)).mean(axis=0)[own])


def test_p_values_beside_a_voxelwise_covariate_are_those_of_a_refit_of_each_voxel(data):
    rng = np.random.default_rng(9)
    grey = rng.uniform(0.2, 0.9, data.shape) + 0.2 * FIRST[:, np.newaxis]
    values = data + 10.0 * grey
    problem = make_problem(
        values,
        DESIGN,
        CONTRAST,
        NEAR,
        exchange=Exchange(),
        permutation=Permutation(),
        voxelwise_covariates=grey[np.newaxis],
    )
    result = conclude(problem, problem.block(range(70)))
    assert result.degrees_of_freedom == 5
    orders = np.array([one.order for one in problem.relabellings])
    t = np.zeros((70, data.shape[1]))
    for v in range(data.shape[1]):
        # Freedman and Lane by the book
        nuisance = np.column_stack([np.ones(8), grey[:, v]])
        fitted = nuisance @ np.linalg.lstsq(nuisance, values[:, v])[0]
        moved = (values[:, v] - fitted)[orders].T + fitted[:, np.newaxis]
        design = np.column_stack([nuisance, FIRST])
        beta, squares, *_ = np.linalg.lstsq(design, moved)
        t[:, v] = beta[2] / np.sqrt(squares / 5 * np.linalg.inv(design.T @ design)[2, 2])
    for direction, sign in ((result.positive, 1), (result.negative, -1)):
        own = sign * t[0] > 0
        reached = sign * t >= sign * t[0] - 1e-5 * np.abs(t[0])
        largest = (sign * t).max(axis=1, keepdims=True) >= sign * t[0] * (1 - 1e-5)
        assert_allclose(direction.statistic, sign * t[0], rtol=1e-7)
        assert_allclose(direction.p_statistic[own], reached.mean(axis=0)[own])
        assert_allclose(direction.p_statistic_fwe[own], largest.mean(axis=0)[own])


def test_groups_outside_the_contrast_stay_in_place_and_share_the_variance(data):
    rng = np.random.default_rng(10)
    three = np.repeat([0, 1, 2], [3, 3, 2])
    values = data + 20.0 * (three == 2)[:, np.newaxis] * rng.uniform(1, 2, data.shape[1])
    result = infer(
        values,
        np.eye(3)[three],
        [1, -1, 0],
        NEAR,
        exchange=make_exchange(8, movable=three < 2),
        permutation=Permutation(),
    )
    choices = sorted(combinations(range(6), 3), key=lambda chosen: chosen != (0, 1, 2))
    every = []
    for chosen in choices:
        order = [*chosen, *np.setdiff1d(np.arange(6), chosen), 6, 7]
        groups = [values[order][three == g] for g in range(3)]
        squares = sum(((g - g.mean(axis=0)) ** 2).sum(axis=0) for g in groups)
        apart = groups[0].mean(axis=0) - groups[1].mean(axis=0)
        every.append(apart / np.sqrt(squares / 5 * (1 / 3 + 1 / 3)))
    t = np.array(every)
    assert result.n_relabellings == 20
    own = t[0] > 0
    assert_allclose(result.positive.statistic, t[0], rtol=1e-8)
    reached = t.max(axis=1, keepdims=True) >= t[0] * (1 - 1e-5)
    assert_allclose(result.positive.p_statistic_fwe[own], reached.mean(axis=0)[own])


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


@pytest.mark.parametrize("cuts", [[37], [1, 99], [8, 9, 50, 51]])
@pytest.mark.parametrize("kind", ["t", "F", "v", "voxelwise"])
def test_blocks_join_to_the_bits_of_one_whatever_the_cut_and_order(data, cuts, kind):
    rng = np.random.default_rng(12)
    more = np.concatenate([data, rng.normal(100, 5, (8, data.shape[1]))])
    design, contrast = two_groups(np.arange(16) < 7, rng.normal(0, 1, (16, 2)))
    kinds = {
        "t": {},
        "F": {"contrast": [contrast, np.eye(4)[2]]},
        "v": {"variance_groups": np.arange(16) < 7},
        "voxelwise": {"voxelwise_covariates": rng.normal(0, 1, (1, *more.shape))},
    }
    given = {"contrast": contrast, **kinds[kind]}

    def problem():  # each job makes its own
        return make_problem(
            more,
            design,
            neighbourhood=NEAR,
            exchange=Exchange(),
            permutation=Permutation(n_permutations=100, cluster_height=2.0),
            **given,
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
    for side in ("positive", "negative", "either"):
        for name in ARRAYS:
            one, other = (getattr(getattr(found, side), name) for found in (once, again))
            assert_array_equal(one, other)


def test_tail_does_not_depend_on_the_order_in_which_relabellings_come(data):
    rng = np.random.default_rng(13)
    more = np.concatenate([data, rng.normal(100, 5, (8, data.shape[1]))])
    more[:7, :20] += 9.0
    problem = make_problem(
        more,
        *two_groups(np.arange(16) < 7),
        NEAR,
        exchange=Exchange(),
        permutation=Permutation(n_permutations=400, tail=True),
    )
    forth, back = (
        conclude(problem, problem.block(numbers)).positive
        for numbers in (range(400), range(399, -1, -1))
    )
    assert not forth.is_counted_enhanced.all()
    assert_array_equal(forth.p_enhanced_fwe, back.p_enhanced_fwe)


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
