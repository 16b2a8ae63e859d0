"""Joint inference over maps: closed forms, enumeration, invariance, rates of false positives."""

import tracemalloc
from dataclasses import replace
from itertools import combinations, permutations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import ndimage, stats

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.combining import METHODS
from bids_alsmri.numerics.linear import partition_design, two_groups
from bids_alsmri.numerics.permutation import Exchange, Relabellings, join_blocks, p_values
from bids_alsmri.numerics.tfce import image_neighbourhood
from bids_alsmri.stats.combination import (
    MEANING,
    conclude_combination,
    conjunction,
    correct_across,
    infer_combination,
    joint_p_values,
    make_combination,
    opposite,
    overlap,
)
from bids_alsmri.stats.inference import Permutation, infer, make_problem

N = 2000
MASK = np.ones((5, 4, 3), bool)
NEAR = image_neighbourhood(MASK, 6)
FIRST = np.arange(8) < 4
GROUPS = two_groups(FIRST)
NAMES = ("tsc", "fa")
DIRECTIONS = {"tsc": 1, "fa": -1}
BOTH = {"positive": [0.1, 0.2], "negative": [0.9, 1.0]}
NOISE = np.random.default_rng(0).normal(size=(8, 60))
P_OF = ("p_statistic", "p_statistic_fwe", "p_enhanced", "p_enhanced_fwe")


@pytest.fixture
def null():
    return np.random.default_rng(1).gumbel(size=N)


def test_conjunction_is_significant_only_where_each_map_is():
    rng = np.random.default_rng(2)
    p = rng.uniform(0.001, 1.0, (3, 500))
    assert_array_equal(conjunction(p) <= 0.05, (p <= 0.05).all(axis=0))


def test_joint_p_of_equal_maps_is_that_of_one(null):
    observed = np.quantile(null, [0.5, 0.9, 0.99])
    for p in joint_p_values([observed] * 3, [null] * 3):
        assert_allclose(p, p_values(observed, null))


def test_joint_p_of_independent_maps_is_that_of_sidak():
    rng = np.random.default_rng(3)
    first, second = rng.gumbel(size=N), rng.exponential(size=N) ** 3
    wanted = np.array([0.01, 0.05, 0.2, 0.5])
    observed = [np.quantile(values, 1 - wanted) for values in (first, second)]
    for p, values, one in zip(
        joint_p_values(observed, [first, second]), observed, (first, second), strict=True
    ):
        single = p_values(values, one)
        expected = 1 - (1 - single) ** 2
        assert_allclose(p, expected, atol=3 * np.sqrt(0.25 / N))


@pytest.mark.parametrize("change", [lambda x: 1e4 * x, lambda x: x + 50, np.exp])
def test_scale_of_a_map_does_not_matter(null, change):
    other = np.random.default_rng(4).gumbel(size=N) + 0.5 * null
    observed = np.quantile(null, [0.3, 0.95])
    plain = joint_p_values([observed, observed], [null, other])
    scaled = joint_p_values([change(observed), observed], [change(null), other])
    for one, two in zip(plain, scaled, strict=True):
        assert_allclose(one, two, atol=2 / N)  # of which differ by rounding only


def test_joint_p_is_never_below_that_of_its_own_map(null):
    other = np.random.default_rng(5).gumbel(size=N)
    observed = np.quantile(null, np.linspace(0.01, 0.999, 30))
    joint, _ = joint_p_values([observed, observed], [null, other])
    assert (joint >= p_values(observed, null)).all()


@pytest.fixture(scope="module")
def maps():
    """Two maps of eight participants that depend on each other, with an effect in a corner."""
    rng = np.random.default_rng(7)
    shared = rng.normal(size=(8, *MASK.shape))
    images = {name: shared + rng.normal(size=shared.shape) for name in NAMES}
    images["tsc"][:4, :2, :2] += 1.5
    images["fa"][:4, :2, :2] -= 1.5
    return {name: image[:, MASK] for name, image in images.items()}


def combine(maps, directions=None, method="fisher", groups=GROUPS, **permutation):
    return infer_combination(
        maps,
        directions or DIRECTIONS,
        *groups,
        NEAR,
        method=method,
        exchange=Exchange(),
        permutation=Permutation(**permutation),
    )


def brute_z(t, degrees_of_freedom, method):
    """Combined z of t (maps, features), in scipy's way."""
    p = stats.t.sf(t, degrees_of_freedom)
    return stats.norm.isf(stats.combine_pvalues(p, method=method, axis=0).pvalue)


def brute_enhanced(z):
    """TFCE as the sum over all heights at which a cluster changes."""
    image, out, low = z.reshape(MASK.shape), np.zeros(MASK.shape), 0.0
    for high in np.unique(image[image > 0]):
        labels = ndimage.label(image >= high)[0]
        extent = np.bincount(labels.ravel()).astype(float)
        extent[0] = 0.0
        out += np.sqrt(extent)[labels] * (high**3 - low**3) / 3
        low = high
    return out[MASK]


def assert_is_enumerated(direction, z):
    """P-values against z of all relabellings, the observed one first."""
    every = np.array([brute_enhanced(one) for one in z])
    own = z[0] > 0
    for values, uncorrected, corrected in (
        (z, direction.p_statistic, direction.p_statistic_fwe),
        (every, direction.p_enhanced, direction.p_enhanced_fwe),
    ):
        reached = values[0] * (1 - 1e-5)  # the same statistic but for rounding
        assert_allclose(uncorrected[own], (values >= reached).mean(axis=0)[own])
        largest = values.max(axis=1, keepdims=True)
        assert_allclose(corrected[own], (largest >= reached).mean(axis=0)[own])
        assert_array_equal(uncorrected[~own], 1.0)
        assert_array_equal(corrected[~own], 1.0)
    assert_allclose(direction.statistic, z[0], atol=1e-7)
    assert_allclose(direction.enhanced, every[0], rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("signs", [(1, -1), (-1, 1)])
def test_combination_is_that_of_all_ways_to_choose_the_group(maps, method, signs):
    choices = sorted(combinations(range(8), 4), key=lambda chosen: chosen != (0, 1, 2, 3))
    z = []
    for chosen in choices:
        is_first = np.isin(np.arange(8), chosen)
        t = [stats.ttest_ind(maps[n][is_first], maps[n][~is_first]).statistic for n in NAMES]
        z.append(brute_z(np.multiply(t, np.transpose([signs])), 6, method))
    found = combine(maps, dict(zip(NAMES, signs, strict=True)), method)
    assert found.is_exhaustive
    assert found.n_relabellings == 70
    assert found.degrees_of_freedom == 6
    assert_is_enumerated(found.declared, np.array(z))


def test_combination_with_a_covariate_is_that_of_refits_to_relabelled_residuals():
    rng = np.random.default_rng(14)
    design, contrast = groups = two_groups(np.arange(5) < 2, rng.normal(size=(5, 1)))
    # rows that all differ have as many relabellings as orders: 120, not 10
    design[:, 0] += rng.normal(size=5)
    maps = {name: rng.normal(size=(5, NEAR.n_elements)) for name in NAMES}
    # where the first two weights are equal
    without = np.column_stack([design[:, 0] + design[:, 1], design[:, 2]])
    hat = without @ np.linalg.pinv(without)
    inverse = np.linalg.inv(design.T @ design)
    z = []
    for order in permutations(range(5)):
        t = []
        for name in NAMES:
            fitted = hat @ maps[name]
            again = (maps[name] - fitted)[list(order)] + fitted
            weights = inverse @ design.T @ again
            variance = ((again - design @ weights) ** 2).sum(axis=0) / 2
            t.append(contrast @ weights / np.sqrt(variance * (contrast @ inverse @ contrast)))
        z.append(brute_z(np.multiply(t, [[1], [-1]]), 2, "fisher"))
    found = combine(maps, groups=groups)
    assert found.n_relabellings == 120
    assert_is_enumerated(found.declared, np.array(z))


@pytest.mark.parametrize("method", METHODS)
def test_combination_beside_covariates_of_a_voxel_is_that_of_a_refit_there(method):
    rng = np.random.default_rng(15)
    maps = {name: rng.normal(size=(6, NEAR.n_elements)) for name in NAMES}
    grey = rng.normal(size=(6, NEAR.n_elements)) + 0.5 * (np.arange(6) < 3)[:, np.newaxis]
    maps["tsc"] += 2.0 * grey
    choices = sorted(permutations(range(6)), key=lambda order: order != tuple(range(6)))
    t = np.empty((len(choices), 2, NEAR.n_elements))
    for i, name in enumerate(NAMES):
        for voxel in range(NEAR.n_elements):
            columns = [np.arange(6) < 3, np.arange(6) >= 3, *([grey[:, voxel]] if i == 0 else [])]
            design = np.column_stack(columns).astype(float)
            rest = np.column_stack([np.ones(6), *columns[2:]])
            fitted = rest @ np.linalg.lstsq(rest, maps[name][:, voxel], rcond=None)[0]
            again = (maps[name][:, voxel] - fitted)[np.array(choices)].T + fitted[:, np.newaxis]
            weights = np.linalg.pinv(design)
            noise = ((again - design @ weights @ again) ** 2).sum(axis=0) / (6 - design.shape[1])
            spread = noise * ((weights[0] - weights[1]) ** 2).sum()
            t[:, i, voxel] = (weights[0] - weights[1]) @ again / np.sqrt(spread)
    # one degree of freedom less for the map with a covariate
    p = np.stack([stats.t.sf(t[:, 0], 3), stats.t.sf(-t[:, 1], 4)])
    combined = stats.combine_pvalues(p, method=method, axis=0)
    found = infer_combination(
        maps,
        DIRECTIONS,
        *two_groups(np.arange(6) < 3),
        NEAR,
        method=method,
        # which rows are alike is not asked: grey matter tells them apart
        exchange=Exchange(),
        permutation=Permutation(n_permutations=20),
        voxelwise_covariates={"tsc": grey[np.newaxis]},
    )
    assert_allclose(found.declared_statistic, combined.statistic[0], rtol=1e-6)
    z = stats.norm.isf(combined.pvalue)
    assert_allclose(found.declared.statistic, z[0], atol=1e-6)
    # 20 ways to choose the group, of which each is drawn as one order of the six
    effect = partition_design(*two_groups(np.arange(6) < 3)).effect
    every = Relabellings(effect, Exchange(), 20, seed=Permutation().seed)
    rows = [choices.index(tuple(every[k].order)) for k in range(20)]
    assert_is_enumerated(found.declared, z[rows])


def test_covariate_that_is_the_same_in_all_voxels_is_one_of_the_design(maps):
    age = np.random.default_rng(16).normal(60.0, 9.0, size=(8, 1))
    own = np.broadcast_to(age, (1, 8, NEAR.n_elements))
    how = {"method": "fisher", "exchange": Exchange(permutes=False, flips=True)}
    how["permutation"] = Permutation(n_permutations=100)
    design = two_groups(FIRST, age)
    expected = infer_combination(maps, DIRECTIONS, *design, NEAR, **how)
    beside = dict.fromkeys(NAMES, own)
    found = infer_combination(maps, DIRECTIONS, *GROUPS, NEAR, voxelwise_covariates=beside, **how)
    assert_allclose(found.declared_statistic, expected.declared_statistic, rtol=1e-6)
    assert_allclose(found.declared.enhanced, expected.declared.enhanced, rtol=1e-5)
    for name in P_OF:
        assert_array_equal(getattr(found.declared, name), getattr(expected.declared, name))


def test_covariate_of_no_map_is_refused(maps):
    with pytest.raises(NumericsError, match="voxelwise_covariates are those of md but maps tsc"):
        infer_combination(
            maps,
            DIRECTIONS,
            *GROUPS,
            NEAR,
            method="fisher",
            exchange=Exchange(),
            permutation=Permutation(),
            voxelwise_covariates={"md": np.ones((1, 8, NEAR.n_elements))},
        )


@pytest.mark.parametrize("method", METHODS)
def test_one_map_is_its_own_test_on_the_scale_of_z(maps, method):
    found = combine({"fa": maps["fa"]}, {"fa": -1}, method)
    alone = infer(maps["fa"], *GROUPS, NEAR, exchange=Exchange(), permutation=Permutation())
    for combined, single in ((found.declared, alone.negative), (found.reverse, alone.positive)):
        z = stats.norm.isf(stats.t.sf(single.statistic, 6))
        assert_allclose(combined.statistic, z, atol=1e-9)
        # z rises with t, so their maxima lie at the same voxel
        assert_array_equal(combined.p_statistic, single.p_statistic)
        assert_array_equal(combined.p_statistic_fwe, single.p_statistic_fwe)
        assert_allclose(combined.enhanced, brute_enhanced(z), rtol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_order_and_scale_of_the_maps_do_not_matter(maps, method):
    found = combine(maps, method=method)
    turned = combine(
        {"fa": 1e-3 * maps["fa"], "tsc": 40.0 + 7.0 * maps["tsc"]}, opposite(DIRECTIONS), method
    )
    turned_back = combine(dict(reversed(maps.items())), {"fa": -1, "tsc": 1}, method)
    for name in (*P_OF, "statistic", "enhanced"):
        expected = getattr(found.declared, name)
        assert_allclose(getattr(turned.reverse, name), expected, rtol=1e-6, atol=1e-9)
        assert_allclose(getattr(turned_back.declared, name), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_statistic_of_the_observed_labelling_is_that_of_scipy(maps, method):
    found = combine(maps, method=method)
    t = [stats.ttest_ind(maps[name][FIRST], maps[name][~FIRST]).statistic for name in NAMES]
    for statistic, signs in (
        (found.declared_statistic, [[1], [-1]]),
        (found.reverse_statistic, [[-1], [1]]),
    ):
        p = stats.t.sf(np.multiply(t, signs), 6)
        expected = stats.combine_pvalues(p, method=method, axis=0).statistic
        assert_allclose(statistic, expected, rtol=1e-9, atol=1e-12)


def test_blocks_of_a_combination_may_be_cut_anywhere(maps):
    whole = combine(maps)
    problem = make_combination(
        maps,
        DIRECTIONS,
        *GROUPS,
        NEAR,
        method="fisher",
        exchange=Exchange(),
        permutation=Permutation(n_threads=2),
    )
    null = join_blocks([problem.block(range(30, 70)), problem.block(range(30))])
    cut = conclude_combination(problem, null)
    for name in P_OF:
        assert_array_equal(getattr(cut.declared, name), getattr(whole.declared, name))
        assert_array_equal(getattr(cut.reverse, name), getattr(whole.reverse, name))


def test_memory_does_not_grow_with_the_relabellings():
    rng = np.random.default_rng(9)
    mask = np.ones((20, 20, 20), bool)
    problem = make_combination(
        {name: rng.normal(size=(20, mask.sum())) for name in NAMES},
        DIRECTIONS,
        *two_groups(np.arange(20) < 8),
        image_neighbourhood(mask, 6),
        method="stouffer",
        exchange=Exchange(),
        permutation=Permutation(),
    )
    peaks = []
    for n in (8, 8, 80):  # the first compiles
        tracemalloc.start()
        problem.block(range(n))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # one more map of z for each relabelling would be 80 * 2 * 32 kB
    assert peaks[2] - peaks[1] < 100_000


def test_voxel_without_variance_in_one_map_has_no_evidence(maps):
    flat = {**maps, "fa": maps["fa"].copy()}
    flat["fa"][:, 5] = 0.4
    for method in METHODS:
        found = combine(flat, method=method)
        assert found.n_constant == 1
        for direction in (found.declared, found.reverse):
            assert direction.statistic[5] == direction.enhanced[5] == 0.0
            assert [getattr(direction, name)[5] for name in P_OF] == [1.0] * 4


@pytest.mark.slow
def test_fitted_tail_is_used_for_small_p_of_a_combination():
    rng = np.random.default_rng(10)
    is_first = np.arange(20) < 10
    maps = {name: rng.normal(size=(20, NEAR.n_elements)) for name in NAMES}
    maps["tsc"][is_first, :20] += 2.5
    found = combine(maps, groups=two_groups(is_first), n_permutations=200, tail=True).declared
    counted = combine(maps, groups=two_groups(is_first), n_permutations=200).declared
    assert not found.is_counted_enhanced.all()
    fitted = ~found.is_counted_enhanced
    assert (found.p_enhanced_fwe[fitted] < 0.1).all()
    assert_array_equal(found.p_enhanced_fwe[~fitted], counted.p_enhanced_fwe[~fitted])


def brute_joint(every):
    """Corrected p of all maps, from their values under each relabelling, the observed one first."""
    largest = [values.max(axis=1) for values in every]
    shares = [np.array([(one >= value * (1 - 1e-5)).mean() for value in one]) for one in largest]
    smallest = np.min(shares, axis=0)
    p = []
    for values, one in zip(every, largest, strict=True):
        own = np.array([(one >= value * (1 - 1e-5)).mean() for value in values[0]])
        p.append(np.array([(smallest <= share + 1e-9).mean() for share in own]))
    return p


@pytest.mark.parametrize("both_directions", [True, False])
def test_correction_across_maps_is_that_of_enumeration(maps, both_directions):
    problems = [
        make_problem(maps[name], *GROUPS, NEAR, exchange=Exchange(), permutation=Permutation())
        for name in NAMES
    ]
    nulls = [problem.block(range(70)) for problem in problems]
    found = correct_across(
        [p.relabellings for p in problems], nulls, both_directions=both_directions
    )
    choices = sorted(combinations(range(8), 4), key=lambda chosen: chosen != (0, 1, 2, 3))
    masks = [np.isin(np.arange(8), chosen) for chosen in choices]
    every = {}
    for name in NAMES:
        t = [stats.ttest_ind(maps[name][m], maps[name][~m]).statistic for m in masks]
        every[name, 1] = np.array([brute_enhanced(one) for one in t])
        every[name, -1] = np.array([brute_enhanced(-one) for one in t])
    families = [list(every)] if both_directions else [[(n, s) for n in NAMES] for s in (1, -1)]
    for family in families:
        for (name, sign), p in zip(family, brute_joint([every[k] for k in family]), strict=True):
            one = found[NAMES.index(name)]
            own = every[name, sign][0] > 0
            values = one.positive if sign == 1 else one.negative
            assert_allclose(values[own], p[own])
            assert_array_equal(values[~own], 1.0)


def test_maps_that_were_not_relabelled_alike_are_not_corrected_together(maps):
    def problem(seed, n_permutations=40, groups=GROUPS):
        return make_problem(
            maps["fa"],
            *groups,
            NEAR,
            exchange=Exchange(),
            permutation=Permutation(seed=seed, n_permutations=n_permutations),
        )

    def corrected(*problems, blocks=None):
        nulls = blocks or [p.block(range(len(p.relabellings))) for p in problems]
        return correct_across([p.relabellings for p in problems], nulls, both_directions=False)

    one = problem(1)
    # another contrast of the same participants is drawn alike
    assert len(corrected(one, problem(1, groups=two_groups(np.arange(8) % 2 == 0)))) == 2
    with pytest.raises(NumericsError, match="relabelling 1 of map 1 is not that of the first"):
        corrected(one, problem(2))
    with pytest.raises(NumericsError, match="map 1 has 30 of 30 relabellings but the first map 40"):
        corrected(one, problem(1, 30))
    with pytest.raises(NumericsError, match="map 1 has 9 of 40"):
        corrected(one, one, blocks=[one.block(range(40)), one.block(range(9))])
    with pytest.raises(NumericsError, match="two or more of each"):
        corrected(one)
    everything, other = problem(1, 5000), problem(1, 5000, two_groups(np.arange(8) % 2 == 0))
    with pytest.raises(NumericsError, match="fewer relabellings than are possible"):
        corrected(everything, other)


@pytest.fixture(scope="module")
def studies_without_effect():
    """Maxima of TFCE of a rough and a smooth map of the same participants, 100 studies."""
    mask = np.ones((9, 9, 9), bool)
    near = image_neighbourhood(mask, 6)
    rng = np.random.default_rng(6)
    studies = []
    for seed in range(100):
        noise = rng.standard_normal((14, *mask.shape))
        smooth = ndimage.gaussian_filter(noise, (0, 2, 2, 2))
        problems = [
            make_problem(
                image[:, mask],
                *two_groups(np.arange(14) < 6),
                near,
                exchange=Exchange(),
                permutation=Permutation(n_permutations=100, seed=seed),
            )
            for image in (noise, smooth)
        ]
        nulls = [problem.block(range(100)) for problem in problems]
        joint = correct_across([p.relabellings for p in problems], nulls, both_directions=False)
        studies.append(
            ([p.positive.min() for p in joint], [n.largest_enhanced[:, 0] for n in nulls])
        )
    return studies


def assert_holds_5_percent(n_significant, n):
    low, high = stats.binom.interval(0.999, n, 0.05)
    assert low <= n_significant <= high


@pytest.mark.slow
def test_a_twentieth_of_studies_without_effect_is_significant_in_any_of_two_maps(
    studies_without_effect,
):
    found = sum(min(p) <= 0.05 for p, _ in studies_without_effect)
    assert_holds_5_percent(found, len(studies_without_effect))


@pytest.mark.slow
def test_ranks_share_the_level_evenly_and_raw_maxima_leave_it_to_the_smooth_map(
    studies_without_effect,
):
    raw, ranked = np.zeros(2), np.zeros(2)
    for _, maxima in studies_without_effect:
        # each relabelling in turn as if it were the observed one
        limit = np.quantile(np.max(maxima, axis=0), 0.95)
        raw += [(one > limit).mean() for one in maxima]
        ranked += [(p <= 0.05).mean() for p in joint_p_values(maxima, maxima)]
    raw, ranked = raw / len(studies_without_effect), ranked / len(studies_without_effect)
    # of the largest raw value, the smooth map takes nearly all of the level
    assert raw[1] > 5 * raw[0]
    assert_allclose(ranked[0], ranked[1], atol=0.005)  # half a relabelling of 100
    # half of the level: 2 of 100 relabellings, more where maps depend on each other
    assert 0.015 < ranked[0] < 0.05


@pytest.fixture(scope="module")
def rates():
    """Studies, of 100, with a significant voxel: no effect, and an effect in one map alone."""
    mask = np.ones((6, 6, 6), bool)
    near = image_neighbourhood(mask, 6)
    rng = np.random.default_rng(11)
    groups = two_groups(np.arange(16) < 7)
    found = dict.fromkeys([*METHODS, "one map: fisher", "one map: conjunction"], 0)
    how = {"exchange": Exchange(), "permutation": Permutation(n_permutations=40)}
    for _ in range(100):
        shared = rng.normal(size=(16, *mask.shape))
        noise = [shared + rng.normal(size=shared.shape) for _ in NAMES]
        smooth = [ndimage.gaussian_filter(one, (0, 1, 1, 1))[:, mask] for one in noise]
        maps = dict(zip(NAMES, smooth, strict=True))
        for method in METHODS:
            p = infer_combination(maps, DIRECTIONS, *groups, near, method=method, **how)
            found[method] += p.declared.p_enhanced_fwe.min() <= 0.05
        maps["tsc"] = maps["tsc"] + 3.0 * maps["tsc"].std() * (np.arange(16) < 7)[:, np.newaxis]
        p = infer_combination(maps, DIRECTIONS, *groups, near, method="fisher", **how)
        found["one map: fisher"] += p.declared.p_enhanced_fwe.min() <= 0.05
        p_maps = {}
        for name in NAMES:
            alone = infer(maps[name], *groups, near, **how)
            p_maps[name] = {
                "positive": alone.positive.p_enhanced_fwe,
                "negative": alone.negative.p_enhanced_fwe,
            }
        both = overlap(p_maps, DIRECTIONS, level=0.05)
        found["one map: conjunction"] += both.n_significant > 0
    return found


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_twentieth_of_studies_without_effect_is_significant_in_a_combination(rates, method):
    assert_holds_5_percent(rates[method], 100)


@pytest.mark.slow
def test_an_effect_in_one_map_makes_the_combination_significant_but_not_the_conjunction(rates):
    assert rates["one map: fisher"] > 90
    assert rates["one map: conjunction"] <= stats.binom.interval(0.999, 100, 0.05)[1]
    assert "at least one modality" in MEANING["combination"]
    assert "all modalities" in MEANING["conjunction"]


def test_overlap_takes_each_map_in_its_declared_direction():
    rng = np.random.default_rng(12)
    p_maps = {
        name: dict(zip(("positive", "negative"), rng.uniform(0.001, 0.2, (2, 400)), strict=True))
        for name in ("tsc", "fa", "md")
    }
    found = overlap(p_maps, {"tsc": 1, "fa": -1}, level=0.05)
    both = [
        up <= 0.05 and down <= 0.05
        for up, down in zip(p_maps["tsc"]["positive"], p_maps["fa"]["negative"], strict=True)
    ]
    assert 0 < found.n_significant == sum(both)
    assert_array_equal(found.is_significant, both)
    assert found.directions == (("tsc", 1), ("fa", -1))
    assert found.n_significant_alone == (
        sum(p_maps["tsc"]["positive"] <= 0.05),
        sum(p_maps["fa"]["negative"] <= 0.05),
    )
    reverse = overlap(p_maps, opposite({"tsc": 1, "fa": -1}), level=0.05)
    expected = np.maximum(p_maps["tsc"]["negative"], p_maps["fa"]["positive"])
    assert_array_equal(reverse.p, expected)


def test_overlap_does_not_depend_on_the_order_of_maps():
    rng = np.random.default_rng(13)
    p_maps = {
        name: {"positive": rng.uniform(0.001, 1.0, 50), "negative": np.ones(50)}
        for name in ("tsc", "md", "rd")
    }
    one = overlap(p_maps, {"tsc": 1, "md": 1, "rd": 1}, level=0.3)
    two = overlap(p_maps, {"rd": 1, "tsc": 1, "md": 1}, level=0.3)
    assert_array_equal(one.p, two.p)
    assert one.n_significant > 0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: conjunction([[0.1, 0.2]]), "p holds 1 arrays"),
        (lambda: conjunction([[0.1, 0.2], [0.1]]), "give two or more of one shape"),
        (lambda: conjunction([[0.1, 0.0], [0.1, 0.2]]), "p runs from 0 to 0.2.*1 - p"),
        (lambda: conjunction([[0.1, np.nan], [0.1, 0.2]]), "NaN"),
        (lambda: joint_p_values([[1.0]], [[1.0, 2.0], [1.0, 2.0]]), "1 maps but null 2"),
        (
            lambda: overlap({"tsc": BOTH}, {"tsc": 1, "fa": -1}, level=0.05),
            "fa but p_maps holds tsc",
        ),
        (lambda: overlap({"tsc": BOTH}, {"tsc": 1}, level=0.05), "p holds 1 arrays"),
        (
            lambda: overlap({"tsc": BOTH, "fa": BOTH}, {"tsc": 1, "fa": 0}, level=0.05),
            "direction of fa is 0; give 1",
        ),
        (
            lambda: overlap({"tsc": BOTH, "fa": BOTH}, {"tsc": 1, "fa": 1}, level=5.0),
            "level is 5; it must lie above 0",
        ),
        (lambda: combine({"fa": np.ones((8, 60))}, DIRECTIONS), "maps are fa but directions"),
        (lambda: combine({"fa": np.ones((8, 9))}, {"fa": 1}), r"map fa has shape \(8, 9\)"),
        (lambda: combine({"fa": np.ones((7, 60))}, {"fa": 1}), "the design has 8 observations"),
        (
            lambda: combine({"fa": NOISE}, {"fa": 1}, groups=(GROUPS[0], np.eye(2))),
            "contrast has 2 rows",
        ),
        (lambda: combine({"fa": NOISE}, {"fa": 2}), r"directions are \[2.0\]; give 1"),
        (lambda: combine({"fa": NOISE * np.nan}, {"fa": 1}), "map fa holds 480 NaN"),
        (lambda: combine({"fa": NOISE}, {"fa": 1}, cluster_height=3.1), "height is 3.1.*give None"),
        (lambda: combine({"fa": NOISE}, {"fa": 1}, "mean"), "'mean'; give one of fisher"),
        (lambda: combine({"fa": NOISE}, {"fa": 1}, n_permutations=9), "below 0.05"),
    ],
)
def test_what_cannot_be_combined_is_refused(call, words):
    with pytest.raises(NumericsError, match=words):
        call()


def test_combination_with_missing_relabellings_is_refused(maps):
    problem = make_combination(
        maps,
        DIRECTIONS,
        *GROUPS,
        NEAR,
        method="tippett",
        exchange=Exchange(),
        permutation=Permutation(),
    )
    null = problem.block(range(69))
    with pytest.raises(NumericsError, match="null holds 69 of 70 relabellings"):
        conclude_combination(problem, null)
    with pytest.raises(NumericsError, match="relabellings 0 to 69"):
        problem.block(range(60, 71))
    with pytest.raises(NumericsError, match="null holds 1 of 70"):
        conclude_combination(problem, replace(null, numbers=np.zeros(70, np.int64)))
