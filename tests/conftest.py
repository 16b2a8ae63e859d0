from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadFileScheduling

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


class FolderScheduling(LoadFileScheduling):
    """Hands the tests of a file to one worker, and of a folder that shares a dear run likewise."""

    def _split_scope(self, nodeid: str) -> str:
        file = str(super()._split_scope(nodeid))
        # these need none of the runs that the others of their folder share
        if file.endswith(("_nodes.py", "_memory.py")):
            return file
        folders = ("tests/pipelines/", "tests/group/", "tests/containers/")
        return next((folder for folder in folders if folder in nodeid), file)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes minutes, so that no worker is left with it at the end."""
    dear = ("tests/pipelines/", "tests/data/", "tests/group/", "tests/containers/")
    items.sort(key=lambda item: not item.nodeid.startswith(dear))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> FolderScheduling:
    """Take the scheduling above, whatever ``--dist`` says."""
    return FolderScheduling(config, log)


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
