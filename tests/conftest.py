from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

PROJECT = Path(__file__).resolve().parents[1]

# The same cases on every run; no deadline, since first calls import and compile.
settings.register_profile("bids_alsmri", derandomize=True, deadline=None)
settings.load_profile("bids_alsmri")


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Folder of real images, described in its README; never part of the project."""
    folder = Path(os.environ.get("ALSMRI_TEST_DATA", PROJECT / "../shared/data")).resolve()
    if not (folder / "README.md").is_file():
        pytest.skip(f"no real images at {folder}; set ALSMRI_TEST_DATA to their folder")
    return folder
