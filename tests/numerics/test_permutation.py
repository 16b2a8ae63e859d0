"""Relabellings against enumeration by hand and by scipy, and their p-values."""

from itertools import permutations, product
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy import ndimage, stats

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.linear import (
    partition_design,
    relabelled_regressors,
    residuals,
    t_statistic,
    two_groups,
)
from bids_alsmri.numerics.permutation import (
    Exchange,
    Relabellings,
    anderson_darling,
    count_relabellings,
    fit_tail,
    make_exchange,
    null_statistics,
    p_values,
    pareto_moments,
    tail_p_values,
)
from bids_alsmri.numerics.tfce import enhance, image_neighbourhood

FLIPS = Exchange(permutes=False, flips=True)


def received(effect, relabelling):
    """Effect that each observation receives: what tells relabellings apart."""
    moved = np.zeros_like(effect)
    moved[relabelling.order] = effect * relabelling.signs[:, np.newaxis]
    return tuple((moved + 0.0).ravel())


def by_hand(effect, exchange):
    """All relabellings, one after the other, each set of received effects once."""
    n = len(effect)
    blocks = np.arange(n) if exchange.blocks is None else exchange.blocks
    within = exchange.blocks is not None and not exchange.moves_whole_blocks
    fixed = np.zeros(n, bool) if exchange.movable is None else ~exchange.movable
    found = set()
    for order in permutations(range(n)) if exchange.permutes else [tuple(range(n))]:
        order = np.array(order)
        if within and not np.array_equal(blocks[order], blocks):
            continue
        if exchange.moves_whole_blocks and not _keeps_blocks_whole(order, blocks):
            continue
        if np.any(order[fixed] != np.flatnonzero(fixed)):
            continue
        for signs in product((1.0, -1.0), repeat=n) if exchange.flips else [(1.0,) * n]:
            signs = np.array(signs)
            if exchange.moves_whole_blocks and any(
                np.ptp(signs[blocks == block]) for block in set(blocks)
            ):
                continue
            if np.any(signs[fixed] < 0):
                continue
            moved = np.zeros_like(effect)
            moved[order] = effect * signs[:, np.newaxis]
            found.add(tuple((moved + 0.0).ravel()))
    return found


def _keeps_blocks_whole(order, blocks):
    for block in set(blocks):
        places = np.flatnonzero(blocks == block)
        source = np.flatnonzero(blocks == blocks[order[places[0]]])
        if not np.array_equal(order[places], source):
            return False
    return True


TWO = np.array([[0.5], [0.5], [-0.5], [-0.5], [-0.5], [-0.5]])
SLOPE = np.arange(6.0)[:, np.newaxis] - 2.5
PAIRS = np.array([0, 0, 1, 1, 2, 2])


@pytest.mark.parametrize(
    ("effect", "exchange"),
    [
        (TWO, Exchange()),
        (SLOPE, Exchange()),
        (np.hstack([TWO, SLOPE]), Exchange()),
        (np.ones((5, 1)), FLIPS),
        (np.array([[1.0], [0.0], [1.0], [2.0]]), FLIPS),
        (np.array([[1.0], [1.0], [-1.0], [0.0]]), Exchange(flips=True)),
        (SLOPE[:4], Exchange(flips=True)),
        (SLOPE, make_exchange(6, blocks=PAIRS)),
        (np.tile([[1.0], [-1.0]], (3, 1)), make_exchange(6, blocks=PAIRS)),
        (SLOPE, make_exchange(6, blocks=PAIRS, moves_whole_blocks=True)),
        (
            np.repeat([[1.0], [1.0], [-2.0]], 2, 0),
            make_exchange(6, blocks=PAIRS, moves_whole_blocks=True),
        ),
        (
            np.ones((6, 1)),
            make_exchange(6, blocks=PAIRS, moves_whole_blocks=True, permutes=False, flips=True),
        ),
        (
            np.ones((5, 1)),
            make_exchange(
                5, blocks=[0, 0, 1, 1, 1], moves_whole_blocks=True, permutes=False, flips=True
            ),
        ),
        (SLOPE[:5], make_exchange(5, blocks=[0, 0, 1, 1, 1], assumes_compound_symmetry=True)),
        (TWO, make_exchange(6, movable=[1, 1, 1, 1, 0, 0])),
        (np.vstack([TWO, SLOPE[:2]]), make_exchange(8, movable=[1, 1, 1, 1, 1, 1, 0, 0])),
        (SLOPE, make_exchange(6, movable=[1, 0, 1, 1, 1, 0])),
        (SLOPE[:5], make_exchange(5, permutes=False, flips=True, movable=[1, 0, 1, 1, 1])),
        (SLOPE, make_exchange(6, blocks=PAIRS, movable=[1, 1, 1, 0, 1, 1])),
        (
            SLOPE,
            make_exchange(6, blocks=PAIRS, moves_whole_blocks=True, movable=[1, 1, 0, 0, 1, 1]),
        ),
    ],
)
def test_relabellings_are_counted_and_found_as_by_hand(effect, exchange):
    expected = by_hand(effect, exchange)
    assert count_relabellings(effect, exchange) == len(expected)
    if len(expected) < 20:
        return
    found = Relabellings(effect, exchange, 10_000, seed=1)
    assert found.is_exhaustive
    assert {received(effect, one) for one in found} == expected
    assert len(found) == len(expected)
    assert_array_equal(found[0].order, np.arange(len(effect)))
    assert_array_equal(found[0].signs, 1.0)


@pytest.mark.parametrize(("first", "second"), [(3, 3), (4, 9), (29, 24)])
def test_two_groups_have_as_many_relabellings_as_there_are_choices(first, second):
    split = partition_design(*two_groups(np.arange(first + second) < first))
    assert count_relabellings(split.effect, Exchange()) == comb(first + second, first)


def test_blocks_of_unlike_visits_outside_the_contrast_do_not_matter():
    exchange = make_exchange(
        7,
        blocks=list("aabbccc"),
        moves_whole_blocks=True,
        visits=[1, 2, 1, 2, 1, 2, 3],
        movable=[1, 1, 1, 1, 0, 0, 0],
    )
    assert count_relabellings(np.arange(7.0)[:, np.newaxis], exchange) == 2


def test_three_against_three_beside_ten_of_another_group_are_twenty():
    groups = np.repeat(np.eye(3), [3, 3, 10], axis=0)
    split = partition_design(groups, [1, -1, 0])
    exchange = make_exchange(16, movable=groups[:, 2] == 0)
    assert count_relabellings(split.effect, exchange) == comb(6, 3)
    assert count_relabellings(split.effect, Exchange()) > 100_000


def test_exhaustive_p_of_two_groups_is_that_of_scipy():
    rng = np.random.default_rng(2)
    data = rng.normal(0, 1, (9, 3)) + 0.8 * (np.arange(9) < 4)[:, np.newaxis]
    split = partition_design(*two_groups(np.arange(9) < 4))
    unit = residuals(data, split)
    observed = t_statistic(unit, split)
    relabellings = Relabellings(split.effect, Exchange(), 5000, seed=3)
    null = np.array(
        [relabelled_regressors(split, one.order, one.signs)[0] @ unit.unit for one in relabellings]
    )
    # t rises with the correlation, which is what the products give without covariates
    expected = stats.permutation_test(
        (data[:4], data[4:]),
        lambda a, b, axis: a.mean(axis=axis) - b.mean(axis=axis),
        n_resamples=np.inf,
        alternative="greater",
    ).pvalue
    for column in range(3):
        assert observed[column] * null[0, column] >= 0
        found = p_values(null[0, column], null[:, column])
        assert_allclose(found, expected[column])


def test_exhaustive_p_of_sign_flips_is_that_of_scipy():
    data = np.random.default_rng(4).normal(0.5, 1, (8, 1))
    split = partition_design(np.ones((8, 1)), [1.0])
    unit = residuals(data, split)
    null = np.array(
        [
            float((relabelled_regressors(split, one.order, one.signs)[0] @ unit.unit).item())
            for one in Relabellings(split.effect, FLIPS, 5000, seed=5)
        ]
    )
    expected = stats.permutation_test(
        (data[:, 0],),
        np.mean,
        permutation_type="samples",
        n_resamples=np.inf,
        alternative="greater",
    ).pvalue
    assert_allclose(p_values(null[0], null), expected)


@pytest.mark.parametrize(
    "exchange",
    [
        Exchange(),
        FLIPS,
        Exchange(flips=True),
        make_exchange(30, blocks=np.arange(30) // 6, assumes_compound_symmetry=True),
        make_exchange(30, movable=np.arange(30) % 7 != 2),
        make_exchange(30, blocks=np.arange(30) // 3, moves_whole_blocks=True),
    ],
)
def test_random_relabellings_keep_to_what_may_be_exchanged(exchange):
    effect = np.random.default_rng(6).normal(0, 1, (30, 1))
    relabellings = Relabellings(effect, exchange, 200, seed=7)
    assert not relabellings.is_exhaustive
    assert len(relabellings) == 200
    assert_array_equal(relabellings[0].order, np.arange(30))
    blocks = np.arange(30) if exchange.blocks is None else exchange.blocks
    seen = set()
    for one in relabellings:
        assert_array_equal(np.sort(one.order), np.arange(30))
        if not exchange.permutes:
            assert_array_equal(one.order, np.arange(30))
        if not exchange.flips:
            assert_array_equal(one.signs, 1.0)
        if exchange.movable is not None:
            fixed = np.flatnonzero(~exchange.movable)
            assert_array_equal(one.order[fixed], fixed)
        if exchange.blocks is not None and not exchange.moves_whole_blocks:
            assert_array_equal(blocks[one.order], blocks)
        if exchange.moves_whole_blocks:
            assert _keeps_blocks_whole(one.order, blocks)
        seen.add(received(effect, one))
    assert len(seen) > 190


def test_relabelling_k_depends_on_seed_and_k_only():
    effect = np.random.default_rng(8).normal(0, 1, (20, 1))
    few, many = (Relabellings(effect, Exchange(), n, seed=9) for n in (100, 5000))
    other = Relabellings(effect, Exchange(), 100, seed=10)
    for k in (57, 3, 57, 99):
        assert_array_equal(few[k].order, many[k].order)
    assert any(not np.array_equal(few[k].order, other[k].order) for k in (1, 2, 3))


def test_places_are_drawn_evenly():
    effect = np.random.default_rng(12).normal(0, 1, (8, 1))
    relabellings = Relabellings(effect, Exchange(), 4000, seed=11)
    at_first = np.bincount([relabellings[k].order[0] for k in range(1, 4000)], minlength=8)
    assert stats.chisquare(at_first).pvalue > 1e-3


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=30), st.integers(-3, 3))
def test_p_is_the_share_of_values_at_least_as_large(null, observed):
    expected = np.mean(np.array(null) >= observed)
    assert_allclose(p_values(float(observed), np.array(null, float)), expected)


def test_p_counts_what_differs_by_rounding_only():
    null = np.array([5.0, 5.0 * (1 - 2e-6), 5.0 * (1 - 1e-3), 1.0])
    assert p_values(5.0, null) == 0.5


POWERS = {"height_power": 2.0, "extent_power": 0.5}


@pytest.fixture(scope="module")
def small_study():
    """Two groups and a covariate in a small box, with an effect in its middle."""
    rng = np.random.default_rng(13)
    mask = np.ones((9, 8, 7), bool)
    first = np.arange(12) < 5
    data = rng.normal(0, 1, (12, mask.sum()))
    data[np.ix_(first, np.arange(200, 260))] += 1.5
    split = partition_design(*two_groups(first, rng.normal(0, 1, (12, 1))))
    return residuals(data, split), split, image_neighbourhood(mask, 6)


def test_maxima_are_those_of_the_enhanced_maps_of_each_relabelling(small_study):
    data, split, near = small_study
    relabellings = Relabellings(split.effect, Exchange(), 30, seed=14)
    found = null_statistics(
        data, split, relabellings, range(30), near, n_threads=1, cluster_height=1.5, **POWERS
    )
    observed_t = t_statistic(data, split)
    observed = enhance(observed_t, near, **POWERS)
    n_t, n_enhanced, n_t_either, n_enhanced_either = np.zeros((4, len(observed)), int)
    for k in range(30):
        one = relabellings[k]
        rows = relabelled_regressors(split, one.order, one.signs)
        r, rest = rows[0] @ data.unit, 1.0 - ((rows @ data.unit) ** 2).sum(axis=0)
        t = r * np.sqrt(split.degrees_of_freedom / rest)
        enhanced = enhance(t, near, **POWERS)
        assert_allclose(found.largest[k], (t.max(), -t.min()), rtol=1e-5)
        assert_allclose(found.largest_enhanced[k], (enhanced.max(), -enhanced.min()), rtol=1e-5)
        for side, values in enumerate((t, -t)):
            labels = ndimage.label(values.reshape(9, 8, 7) >= 1.5)[0]
            extents = np.bincount(labels.ravel())[1:]
            assert found.largest_extent[k, side] == extents.max(initial=0)
        n_t_either += np.abs(t) >= np.abs(observed_t) * (1 - 1e-5)
        n_enhanced_either += np.abs(enhanced) >= np.abs(observed) * (1 - 1e-5)
        n_t += np.abs(t) * np.sign(t * observed_t) >= np.abs(observed_t) * (1 - 1e-5)
        n_enhanced += np.abs(enhanced) * np.sign(enhanced * observed) >= np.abs(observed) * (
            1 - 1e-5
        )
    assert_array_equal(found.n_reached, n_t)
    assert_array_equal(found.n_reached_enhanced, n_enhanced)
    assert_array_equal(found.n_reached_either, n_t_either)
    assert_array_equal(found.n_reached_enhanced_either, n_enhanced_either)
    assert_allclose(found.largest[0], (observed_t.max(), -observed_t.min()), rtol=1e-5)


@pytest.mark.parametrize("n_threads", [1, 2, 8])
def test_maxima_do_not_depend_on_threads_and_on_what_else_is_chosen(small_study, n_threads):
    data, split, near = small_study
    relabellings = Relabellings(split.effect, Exchange(), 60, seed=15)
    whole = null_statistics(data, split, relabellings, range(60), near, n_threads=1, **POWERS)
    for chosen in (range(17, 60), [59, 3, 17], [5]):
        part = null_statistics(
            data, split, relabellings, chosen, near, n_threads=n_threads, **POWERS
        )
        assert_array_equal(part.largest, whole.largest[list(chosen)])
        assert_array_equal(part.largest_enhanced, whole.largest_enhanced[list(chosen)])


def test_corrected_p_of_a_small_design_is_that_of_exhaustive_enumeration():
    rng = np.random.default_rng(16)
    data = rng.normal(0, 1, (7, 60))
    split = partition_design(*two_groups(np.arange(7) < 3))
    near = image_neighbourhood(np.ones((5, 4, 3), bool), 26)
    relabellings = Relabellings(split.effect, Exchange(), 5000, seed=17)
    unit = residuals(data, split)
    found = null_statistics(unit, split, relabellings, range(35), near, n_threads=1, **POWERS)
    largest = []
    for order in permutations(range(7)):
        first = np.isin(np.arange(7), order[:3])
        t = stats.ttest_ind(data[first], data[~first]).statistic
        largest.append(enhance(t, near, **POWERS).max())
    observed = enhance(t_statistic(unit, split), near, **POWERS)
    expected = [np.mean(np.array(largest) >= value * (1 - 1e-6)) for value in observed]
    assert_allclose(
        p_values(observed, found.largest_enhanced[:, 0])[observed > 0],
        np.array(expected)[observed > 0],
    )


@pytest.mark.slow
def test_a_twentieth_of_null_studies_is_significant():
    # with as many false positives as 999 of 1000 engines that hold 5 % would give
    mask = np.ones((6, 6, 6), bool)
    near = image_neighbourhood(mask, 6)
    first = np.arange(14) < 6
    rng = np.random.default_rng(18)
    found = []
    for seed in range(400):
        covariate = rng.normal(0, 1, (14, 1)) + first[:, np.newaxis]
        split = partition_design(*two_groups(first, covariate))
        data = residuals(rng.normal(0, 1, (14, mask.sum())) + covariate, split)
        relabellings = Relabellings(split.effect, Exchange(), 200, seed=seed)
        null = null_statistics(data, split, relabellings, range(200), near, n_threads=1, **POWERS)
        found.append(
            float(p_values(null.largest_enhanced[0, 0], null.largest_enhanced[:, 0])) <= 0.05
        )
    low, high = stats.binom.interval(0.999, len(found), 0.05)
    assert low <= np.sum(found) <= high


def draw_gumbel(rng, n):
    return rng.gumbel(size=n)


def draw_enhanced(rng, n):
    """Cubes of maxima over 3000 normal numbers: as heavy a tail as enhanced maxima have."""
    return rng.standard_normal((n, 3000)).max(axis=1) ** 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("draw", "value_at"),
    [
        (draw_gumbel, stats.gumbel_r.isf),
        (draw_enhanced, lambda p: stats.norm.ppf((1 - p) ** (1 / 3000)) ** 3),
    ],
)
def test_tail_of_500_gives_the_small_p_values_of_the_closed_form(draw, value_at):
    wanted = np.array([0.001, 0.002, 0.005, 0.01, 0.02, 0.05])
    ratios = []
    for seed in range(12):
        null = draw(np.random.default_rng(seed), 500)
        p, is_counted = tail_p_values(value_at(wanted), null)
        ratios.append(p / wanted)
        assert not is_counted.all()
    assert 0.8 < np.median(ratios) < 1.25


@pytest.mark.parametrize(("shape", "scale"), [(0.2, 1.5), (-0.3, 2.0), (0.0, 1.0)])
def test_distance_from_a_pareto_distribution_is_that_of_scipy(shape, scale):
    drawn = stats.genpareto.rvs(shape, scale=scale, size=60, random_state=22)
    expected = stats.goodness_of_fit(
        stats.genpareto,
        drawn,
        known_params={"c": shape, "loc": 0.0, "scale": scale},
        statistic="ad",
        n_mc_samples=1,
    ).statistic
    assert_allclose(anderson_darling(drawn, np.array(shape), np.array(scale)), expected)


@pytest.mark.parametrize("shape", [0.2, -0.2])
def test_moments_give_back_the_pareto_distribution_that_was_drawn_from(shape):
    drawn = stats.genpareto.rvs(shape, scale=3.0, size=(300, 2000), random_state=23)
    found_shape, found_scale = pareto_moments(drawn)
    assert_allclose(found_shape.mean(), shape, atol=0.02)  # bias of the moments
    assert_allclose(found_scale.mean(), 3.0, atol=0.06)


@pytest.mark.slow
def test_nineteen_of_twenty_pareto_tails_are_accepted_at_the_first_threshold():
    first = 0
    for seed in range(200):
        null = stats.genpareto.rvs(0.1, size=401, random_state=seed)
        tail = fit_tail(null)
        first += tail is not None and tail.share > 0.24
    low, high = stats.binom.interval(0.999, 200, 0.95)
    assert low <= first <= high


def test_tail_takes_no_part_where_counting_is_exact_enough():
    null = np.random.default_rng(20).gumbel(size=500)
    observed = np.quantile(null, [0.1, 0.5, 0.85])
    p, is_counted = tail_p_values(observed, null)
    assert is_counted.all()
    assert_array_equal(p, p_values(observed, null))


def test_statistic_beyond_the_end_of_the_tail_is_counted_and_said_to_be():
    null = np.random.default_rng(21).uniform(size=500)  # a tail that ends at 1
    p, is_counted = tail_p_values([0.95, 3.0], np.append(3.0, null))
    assert is_counted.tolist() == [False, True]
    assert p[1] == 1 / 501
    assert_allclose(p[0], 0.05, rtol=0.4)


def test_tail_that_no_pareto_fits_is_not_used():
    lumps = np.repeat([1.0, 2.0, 3.0], [400, 60, 40])
    p, is_counted = tail_p_values([3.0], lumps)
    assert is_counted.all()
    assert_allclose(p, 0.08)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: make_exchange(4, permutes=False), "neither permutations nor sign flips"),
        (lambda: make_exchange(4, moves_whole_blocks=True), "none are given"),
        (lambda: make_exchange(4, blocks=[1, 1, 2]), "one label for each of 4"),
        (
            lambda: make_exchange(5, blocks=list("aabbb"), moves_whole_blocks=True),
            r"from 2 to 3 observations \(block a has fewest\)",
        ),
        (
            lambda: make_exchange(
                4, blocks=list("aabb"), moves_whole_blocks=True, visits=[1, 2, 1, 3]
            ),
            r"block a has the visits \[1, 2\] but block b \[1, 3\].*the same order",
        ),
        (
            lambda: make_exchange(
                4, blocks=list("aabb"), moves_whole_blocks=True, visits=[1, 2, 2, 1]
            ),
            r"block b \[2, 1\]",
        ),
        (
            lambda: make_exchange(4, blocks=list("aabb"), moves_whole_blocks=True, visits=[1, 2]),
            "visits has shape",
        ),
        (
            lambda: make_exchange(
                4, blocks=list("aabb"), moves_whole_blocks=True, movable=[1, 1, 1, 0]
            ),
            "block b takes part with some",
        ),
        (
            lambda: make_exchange(5, blocks=list("aabbb")),
            r"block b has 3 observations.*compound symmetry.*mean, change, slope",
        ),
        (lambda: make_exchange(3, movable=[True, False]), r"movable has shape \(2,\)"),
        (lambda: make_exchange(2, movable=[False, False]), "0 observations that take part"),
        (
            lambda: Relabellings(
                np.vstack([TWO, SLOPE]), make_exchange(12, movable=np.arange(12) < 6), 99, seed=1
            ),
            "15 relabellings.*below 0.05",
        ),
        (lambda: Relabellings(TWO, Exchange(), 5000, seed=1), "15 relabellings.*below 0.05"),
        (lambda: Relabellings(SLOPE, Exchange(), 10, seed=1), "10 were asked for"),
    ],
)
def test_what_cannot_be_tested_is_refused(build, words):
    with pytest.raises(NumericsError, match=words):
        build()
