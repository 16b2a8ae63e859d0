"""Joint inference over maps: closed forms, invariance, and false positives of null maps."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.linear import partition_design, residuals, two_groups
from bids_alsmri.numerics.permutation import Exchange, Relabellings, null_statistics, p_values
from bids_alsmri.numerics.tfce import image_neighbourhood
from bids_alsmri.stats.combination import conjunction, joint_p_values

N = 2000


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


@pytest.mark.slow
def test_a_twentieth_of_studies_without_effect_is_significant_in_any_of_two_maps():
    from scipy import ndimage

    mask = np.ones((7, 7, 7), bool)
    near = image_neighbourhood(mask, 6)
    split = partition_design(*two_groups(np.arange(14) < 6))
    rng = np.random.default_rng(6)
    found = 0
    for seed in range(200):
        noise = rng.standard_normal((14, *mask.shape))
        # one rough and one smooth map of the same participants
        smooth = ndimage.gaussian_filter(noise, (0, 1.5, 1.5, 1.5))
        relabellings = Relabellings(split.effect, Exchange(), 200, seed=seed)
        null = [
            null_statistics(
                residuals(image[:, mask], split),
                split,
                relabellings,
                range(200),
                near,
                height_power=2.0,
                extent_power=0.5,
                n_threads=1,
            ).largest_enhanced[:, 0]
            for image in (noise, smooth)
        ]
        found += min(p.min() for p in joint_p_values([n[:1] for n in null], null)) <= 0.05
    low, high = stats.binom.interval(0.999, 200, 0.05)
    assert low <= found <= high


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: conjunction([[0.1, 0.2]]), "p holds 1 arrays"),
        (lambda: conjunction([[0.1, 0.2], [0.1]]), "give two or more of one shape"),
        (lambda: conjunction([[0.1, 0.0], [0.1, 0.2]]), "p runs from 0 to 0.2.*1 - p"),
        (lambda: conjunction([[0.1, np.nan], [0.1, 0.2]]), "NaN"),
        (lambda: joint_p_values([[1.0]], [[1.0, 2.0], [1.0, 2.0]]), "1 maps but null 2"),
    ],
)
def test_what_cannot_be_combined_is_refused(call, words):
    with pytest.raises(NumericsError, match=words):
        call()
