"""Sites are told from groups, or harmonisation is refused; no effect is made."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

from bids_alsmri.errors import NumericsError
from bids_alsmri.stats.comparison import permute_adjusted
from bids_alsmri.stats.harmonisation import harmonise


def _cohort(n_measures, seed=0, n=15):
    """Two sites, of each n controls and n patients who differ by 1.5; site b adds 3 and doubles."""
    rng = np.random.default_rng(seed)
    sites, patient = np.repeat(["a", "b"], 2 * n), np.tile(np.repeat([False, True], n), 2)
    age = rng.normal(60, 8, 4 * n)
    noise = rng.normal(size=(4 * n, n_measures))
    is_b = (sites == "b")[:, np.newaxis]
    y = 0.1 * age[:, np.newaxis] + 1.5 * patient[:, np.newaxis]
    y = y + noise * np.where(is_b, 2.0, 1.0) + 3 * is_b
    return y, sites, patient, age


def _harmonised(y, sites, patient, age, **other):
    args = {
        "is_control": ~patient,
        "participants": np.arange(len(y)),
        "visits": np.zeros(len(y)),
        "covariates": age[:, np.newaxis],
    }
    return harmonise(y, sites, **{**args, **other})


def test_controls_of_both_sites_are_alike_and_patients_keep_their_difference():
    y, sites, patient, age = _cohort(5, n=200)
    found = _harmonised(y, sites, patient, age)
    assert not found.is_shrunk
    left = found.values - 0.1 * age[:, np.newaxis]
    means = {(s, p): left[(sites == s) & (patient == p)].mean() for s in "ab" for p in (0, 1)}
    # standard error of a mean of 1000 values with a site's: 0.1
    assert abs(means["a", 0] - means["b", 0]) < 0.02
    # the difference of site b is seen through the gain that its noise has
    assert means["a", 1] - means["a", 0] > 1.5
    spreads = [left[(sites == s) & ~patient].std(axis=0, ddof=1) for s in "ab"]
    assert_allclose(spreads[0], spreads[1], rtol=0.03)


def test_many_measures_borrow_strength():
    y, sites, patient, age = _cohort(40)
    found = _harmonised(y, sites, patient, age)
    plain = np.hstack([_harmonised(y[:, k : k + 5], sites, patient, age).shift for k in (0, 5)])
    assert found.is_shrunk
    # all measures have the same shift: shrunk ones scatter less
    assert found.shift[1].std() < 0.7 * plain[1].std()


def test_unit_does_not_matter():
    y, sites, patient, age = _cohort(3)
    one, other = (_harmonised(f * y, sites, patient, age).values for f in (1.0, 1000.0))
    assert_allclose(other, 1000 * one, rtol=1e-9)


def test_a_site_with_few_controls_is_refused():
    y, sites, patient, age = _cohort(3)
    few = patient.copy()
    few[np.flatnonzero((sites == "b") & ~patient)[9:]] = True
    with pytest.raises(NumericsError, match="site b has 9 controls"):
        _harmonised(y, sites, few, age)


def test_visits_of_one_site_each_are_refused():
    y, sites, patient, age = _cohort(3)
    with pytest.raises(NumericsError, match="no visit in common"):
        _harmonised(y, sites, patient, age, visits=(sites == "b").astype(int))


def test_one_site_is_refused():
    y, _sites, patient, age = _cohort(3)
    with pytest.raises(NumericsError, match="one site alone"):
        _harmonised(y, np.full(len(y), "a"), patient, age)


def test_missing_values_stay_missing_and_others_do_not_change_by_them():
    y, sites, patient, age = _cohort(2)
    gap = y.copy()
    gap[0, 0] = np.nan
    one, other = _harmonised(y, sites, patient, age), _harmonised(gap, sites, patient, age)
    assert np.isnan(other.values[0, 0])
    assert_allclose(other.values[:, 1], one.values[:, 1])


@pytest.mark.slow
def test_no_effect_gives_five_per_cent_after_harmonisation():
    n, n_found = 100, 0
    for seed in range(n):
        rng = np.random.default_rng(seed)
        sites, patient = np.repeat(["a", "b"], 24), np.tile(np.repeat([False, True], 12), 2)
        y, age = rng.normal(size=(48, 1)), rng.normal(60, 8, 48)
        found = _harmonised(y, sites, patient, age)
        p = permute_adjusted(found.values[:, 0], patient, age, sites=sites, n_draws=100, rng=rng)
        n_found += p <= 0.05
    assert stats.binom.ppf(0.0005, n, 0.05) <= n_found <= stats.binom.ppf(0.9995, n, 0.05)
