from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from bids_alsmri.errors import SettingsError
from bids_alsmri.phantom.cohort import (
    PROFILES,
    draw_cohort,
    kinds_of,
    progression_rate,
    stream,
)


def test_rate_decides_between_fast_and_slow():
    for person in draw_cohort(("fast", "slow") * 100, seed=1):
        rate = progression_rate(person.alsfrs_r, person.disease_duration_months)
        assert (rate > 0.5) == (person.progression == "fast")


def test_controls_have_no_disease():
    for person in draw_cohort(("hc",) * 20, seed=1):
        assert person.progression == "n/a"
        assert person.onset_site == "n/a"
        assert person.alsfrs_r is None
        assert person.severity == 0


@pytest.mark.parametrize("kind", ["hc", "fast", "slow"])
def test_ages_and_sexes_follow_the_paper(kind):
    n = 400
    people = draw_cohort((kind,) * n, seed=2)
    profile = PROFILES[kind]
    ages = np.array([p.age_year for p in people])
    # four standard errors; clipping to 20 to 85 years moves mean and spread by less
    assert_allclose(ages.mean(), profile.age_mean_year, atol=4 * profile.age_sd_year / n**0.5)
    women = np.mean([p.sex == "female" for p in people])
    share = profile.female_share
    assert_allclose(women, share, atol=4 * np.sqrt(share * (1 - share) / n))


def test_a_participant_does_not_depend_on_the_size_of_the_cohort():
    small = draw_cohort(kinds_of(4, 0, 0, 0), seed=5)
    large = draw_cohort(kinds_of(20, 0, 0, 0), seed=5)
    assert large[:4] == small
    assert draw_cohort(("fast",), 5)[0].age_year == small[1].age_year


def test_streams_differ_between_people_purposes_and_seeds():
    first = {
        stream(seed, (kind, index), name).random()
        for seed in (0, 1)
        for kind in ("hc", "fast")
        for index in (0, 1)
        for name in ("anat", "dwi")
    }
    assert len(first) == 16


def test_either_a_total_or_counts_must_be_given():
    with pytest.raises(SettingsError, match="give either --participants or some of"):
        kinds_of(None, 0, 0, 0)
    with pytest.raises(SettingsError, match="give either --participants or some of"):
        kinds_of(4, 1, 0, 0)
