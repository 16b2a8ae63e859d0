"""Combined t: scipy's p-values, closed forms, and what tables and blocks may not change."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.combining import (
    METHODS,
    Combiner,
    combine_t,
    combined_null_statistics,
    equivalent_t,
)
from bids_alsmri.numerics.linear import partition_design, residuals, two_groups
from bids_alsmri.numerics.permutation import Exchange, Relabellings, join_blocks
from bids_alsmri.numerics.tfce import image_neighbourhood

MASK = np.ones((6, 5, 4), bool)
NEAR = image_neighbourhood(MASK, 6)
SPLIT = partition_design(*two_groups(np.arange(12) < 5))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("directions", [[1], [1, -1], [-1, -1, 1], [1, 1, 1, -1, 1]])
def test_single_voxels_have_the_combined_p_of_scipy(method, directions):
    t = np.random.default_rng(1).standard_t(9, (len(directions), 200)) * 1.5
    p = stats.t.sf(t * np.array(directions)[:, np.newaxis], 9)
    expected = [stats.combine_pvalues(one, method=method) for one in p.T]
    found = combine_t(t, directions, 9, method)
    assert_allclose(found.statistic, [one.statistic for one in expected], rtol=1e-10, atol=1e-12)
    z = stats.norm.isf([one.pvalue for one in expected])
    assert_allclose(found.z, z, rtol=1e-8, atol=1e-8)  # p near 1 has lost digits in scipy


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("degrees_of_freedom", [1, 4, 51, 5000])
def test_one_map_is_its_own_t_as_z(method, degrees_of_freedom):
    t = np.linspace(-6.0, 6.0, 401)
    z = stats.norm.isf(stats.t.sf(t, degrees_of_freedom))
    found = combine_t([t], [1], degrees_of_freedom, method).z
    assert_allclose(found, z, atol=1e-7)  # isf of p near 1 is the limit


def test_far_tail_of_fisher_is_that_of_its_distribution():
    # the density and the ratio of tail to density: p itself is below all floats
    total = -2 * np.log(1e-300)
    log_p = np.log1p(total) - total
    z = combine_t([[1e6], [1e6]], [1, 1], 5000, "fisher").z[0]
    assert_allclose(stats.norm.logsf(z), log_p, rtol=1e-10)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("degrees_of_freedom", [1, 2, 6, 51, 500])
@pytest.mark.parametrize("n_maps", [1, 2, 3, 8])
def test_tables_give_the_exact_z_to_single_precision(method, degrees_of_freedom, n_maps):
    rng = np.random.default_rng(n_maps)
    scale = np.repeat([0.01, 1.0, 5.0, 100.0], 700)  # more than the columns at once
    t = (rng.standard_t(3, (n_maps, len(scale))) * scale).astype(np.float32)
    t[:, :3] = [0.0, 1e6, -1e6]
    directions = rng.choice([1, -1], n_maps)
    out = np.full((2, t.shape[1]), np.nan, np.float32)
    Combiner(directions, degrees_of_freedom, method).fill(t, out)
    largest = -stats.norm.ppf(np.maximum(stats.t.sf(np.abs(t).max(0), degrees_of_freedom), 1e-300))
    bound = np.where(largest < 36.9, 1e-6, 1e-4 * n_maps)  # as documented: p ends at z = 37.05
    for side, found in zip((1, -1), out, strict=True):
        exact = combine_t(t, side * directions, degrees_of_freedom, method).z
        error = np.abs(found - np.maximum(exact, 0.0)) / (1.0 + largest)
        assert (error < bound).all()


@pytest.mark.parametrize("method", METHODS)
def test_z_rises_with_each_t_in_its_direction(method):
    t = np.zeros((2, 4000), np.float32)
    t[0] = np.linspace(-9.0, 60.0, 4000)
    out = np.empty((2, 4000), np.float32)
    Combiner([1, -1], 20, method).fill(t, out)
    assert (np.diff(out[0]) >= 0.0).all()
    assert (np.diff(out[1]) <= 0.0).all()
    assert out[0].max() > 3.0


@pytest.mark.parametrize("method", METHODS)
def test_opposite_directions_swap_the_sides(method):
    t = np.random.default_rng(2).standard_t(8, (3, 500)).astype(np.float32)
    one, two = np.empty((2, 2, 500), np.float32)
    Combiner([1, -1, 1], 8, method).fill(t, one)
    Combiner([-1, 1, -1], 8, method).fill(t, two)
    assert_array_equal(one, two[::-1])


def statistics(numbers, *, method="fisher", n_threads=1, unit=None):
    if unit is None:
        noise = np.random.default_rng(3).normal(size=(12, 2 * NEAR.n_elements))
        unit = residuals(noise, SPLIT).unit.astype(np.float32)
    return combined_null_statistics(
        unit,
        SPLIT,
        Relabellings(SPLIT.effect, Exchange(), 60, seed=4),
        numbers,
        NEAR,
        directions=[1, -1],
        method=method,
        height_power=2.0,
        extent_power=0.5,
        n_threads=n_threads,
    )


@pytest.mark.parametrize("method", METHODS)
def test_blocks_and_threads_do_not_change_a_bit(method):
    whole = statistics(range(60), method=method)
    blocks = [range(41, 60), range(11), range(11, 41)]
    parts = join_blocks([statistics(b, method=method, n_threads=2) for b in blocks])
    for name, values in vars(whole).items():
        assert_array_equal(getattr(parts, name), values, err_msg=name)


def test_first_relabelling_is_the_observed_one():
    found = statistics(range(60))
    m = NEAR.n_elements
    assert_array_equal(found.largest[0], [found.statistic[:m].max(), found.statistic[m:].max()])
    assert_array_equal(
        found.largest_enhanced[0], [found.enhanced[:m].max(), found.enhanced[m:].max()]
    )
    assert found.n_reached.min() >= 1


def test_feature_without_variance_in_all_maps_has_no_evidence():
    noise = np.random.default_rng(5).normal(size=(12, 2, NEAR.n_elements))
    noise[:, :, 7] = 0.0
    unit = residuals(noise.reshape(12, -1), SPLIT).unit.astype(np.float32)
    for method in METHODS:
        found = statistics(range(60), method=method, unit=unit)
        assert found.statistic[7] == found.statistic[NEAR.n_elements + 7] == 0.0


@pytest.mark.parametrize(("own", "other"), [(3, 4), (30, 31), (1, 2)])
def test_equivalent_t_has_the_same_p(own, other):
    t = np.array([-40.0, -2.0, -0.01, 0.0, 0.3, 6.0, 200.0])
    found = equivalent_t(t, own, other)
    assert_allclose(stats.t.sf(found, other), stats.t.sf(t, own), rtol=1e-9)
    assert_allclose(equivalent_t(found, other, own), t, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: combine_t([[1.0]], [1, 1], 5, "fisher"), "1 maps but directions 2"),
        (lambda: combine_t([[1.0]], [0], 5, "fisher"), r"directions are \[0.0\]; give 1"),
        (lambda: combine_t([[np.nan]], [1], 5, "fisher"), "t holds 1 NaN"),
        (lambda: combine_t([[1.0]], [1], 0, "fisher"), "degrees_of_freedom is 0"),
        (lambda: combine_t([[1.0]], [1], 5, "minimum"), "'minimum'; give one of fisher, stouffer"),
        (lambda: Combiner([], 5, "fisher"), "0 maps"),
        (
            lambda: Combiner([1, 1], 5, "fisher").fill(
                np.zeros((2, 3), "f4"), np.zeros((2, 4), "f4")
            ),
            r"out \(2, 4\); give \(2, m\) and \(2, m\)",
        ),
        (lambda: statistics(range(3), n_threads=0), "n_threads is 0"),
    ],
)
def test_what_cannot_be_combined_is_refused(call, words):
    with pytest.raises(NumericsError, match=words):
        call()
