from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

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


def errors_of_validator(root: Path, *, newest_schema: bool) -> list[str]:
    validator = Path(sys.executable).with_name("bids-validator-deno")
    if not validator.exists():
        pytest.skip("bids-validator-deno is not installed beside this Python")
    environment = dict(os.environ)
    if newest_schema:
        import bidsschematools

        schema = Path(bidsschematools.__file__).parent / "data" / "schema.json"
        environment["BIDS_SCHEMA"] = schema.as_uri()
    done = subprocess.run(
        [validator, str(root), "--format", "json"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    issues = json.loads(done.stdout)["issues"]["issues"]
    return [f"{i['code']} {i.get('location')}" for i in issues if i["severity"] == "error"]


@pytest.fixture(scope="session")
def validator_errors() -> Callable[..., list[str]]:
    """Errors of the BIDS validator in a dataset, for tests."""
    return errors_of_validator
