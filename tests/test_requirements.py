"""ALSMRI_REQUIRE: what the checks of the project must not skip."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SAMPLE = """
import pytest

@pytest.fixture
def images():
    pytest.skip("no images here")

@pytest.mark.data
def test_fixture_skips(images): pass

@pytest.mark.peer
def test_body_skips(): pytest.skip("no peer here")

@pytest.mark.browser
@pytest.mark.skipif(True, reason="no browser here")
def test_mark_skips(): pass

@pytest.mark.data
@pytest.mark.xfail(reason="known")
def test_expected_failure(): assert False

@pytest.mark.data
def test_passes(): pass

def test_unmarked(): pytest.skip("never mind")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("required", "failed"),
    [
        ("", []),
        ("data", ["fixture_skips"]),
        ("peer browser", ["body_skips", "mark_skips"]),
        (" data peer  browser ", ["fixture_skips", "body_skips", "mark_skips"]),
        ("container", []),
    ],
)
def test_skip_of_a_required_kind_is_a_failure(tmp_path, required, failed):
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path / "conftest.py")
    (tmp_path / "test_sample.py").write_text(SAMPLE)
    names = ("data", "peer", "browser", "container")
    markers = "".join(f"    {name}: a kind\n" for name in names)
    (tmp_path / "pytest.ini").write_text(f"[pytest]\nmarkers =\n{markers}")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rf"],
        cwd=tmp_path,
        env={**os.environ, "ALSMRI_REQUIRE": required},
        capture_output=True,
        text=True,
    )
    reasons = {
        "fixture_skips": "no images here",
        "body_skips": "no peer here",
        "mark_skips": "no browser here",
    }
    assert done.returncode == (1 if failed else 0), done.stdout
    for name, reason in reasons.items():
        told = f"test_{name}" in done.stdout and f"but: Skipped: {reason}" in done.stdout
        assert told == (name in failed), done.stdout
    # a failure while a fixture is made counts as an error
    counts = re.findall(r"(\d+) (?:failed|error)", done.stdout.splitlines()[-1])
    assert sum(map(int, counts)) == len(failed)
    assert "1 passed" in done.stdout
    assert "1 xfailed" in done.stdout
