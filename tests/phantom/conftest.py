from __future__ import annotations

import pytest

from bids_alsmri.phantom.cohort import draw_cohort
from bids_alsmri.phantom.dataset import simulate_session
from bids_alsmri.phantom.head import Head, build_head
from bids_alsmri.phantom.records import Participant, PhantomSettings, Simulation
from bids_alsmri.phantom.tracts import Tracts, build_tracts


@pytest.fixture(scope="session")
def head() -> Head:
    return build_head()


@pytest.fixture(scope="session")
def tracts() -> Tracts:
    return build_tracts()


@pytest.fixture(scope="session")
def fast_person() -> Participant:
    return draw_cohort(("fast",), seed=3)[0]


@pytest.fixture(scope="session")
def clean_settings() -> PhantomSettings:
    # No artefact and no noise: what is left is the forward model and the storage.
    return PhantomSettings(
        seed=3,
        modalities=("dwi",),
        dwi_mm=5.0,
        n_directions=20,
        snr=0,
        max_motion_mm=0,
        max_motion_deg=0,
        max_eddy=0,
    )


@pytest.fixture(scope="session")
def clean_scan(fast_person: Participant, clean_settings: PhantomSettings) -> Simulation:
    return simulate_session(fast_person, "", clean_settings)["dwi"]
