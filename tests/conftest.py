from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# Read once, when numba, ITK or BLAS are first imported. Compiled kernels are kept between runs and
# shared by the processes of a parallel run, each of which would compile for a minute otherwise.
PROJECT = Path(__file__).resolve().parents[1]
os.environ.setdefault("NUMBA_CACHE_DIR", str(PROJECT / ".pytest_cache" / "numba"))
for _name in ("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ["NIPYPE_NO_ET"] = "1"

# The same cases on every run; no deadline, since first calls import and compile.
settings.register_profile("bids_alsmri", derandomize=True, deadline=None)
settings.load_profile("bids_alsmri")


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep tests that look at one dear run on one worker, where the run is made once."""
    for item in items:
        folder = item.path.parent.name
        if folder in ("pipelines", "data") and item.path.parent.parent.name == "tests":
            item.add_marker(pytest.mark.xdist_group(folder))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Iterator[pytest.TestReport]:
    """Turn the skip of a test into a failure where ALSMRI_REQUIRE names one of its markers."""
    report = yield
    required = set(os.environ.get("ALSMRI_REQUIRE", "").split())
    named = sorted(required & {marker.name for marker in item.iter_markers()})
    if report.skipped and named and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"ALSMRI_REQUIRE holds {', '.join(named)}, but: {reason}"
    return report


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Folder of real images, described in its README; never part of the project."""
    folder = Path(os.environ.get("ALSMRI_TEST_DATA", PROJECT / "../shared/data")).resolve()
    if not (folder / "README.md").is_file():
        pytest.skip(f"no real images at {folder}; set ALSMRI_TEST_DATA to their folder")
    return folder
