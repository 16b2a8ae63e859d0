"""The descriptor as platforms use it: by bosh, without a container."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bids_alsmri.descriptor import make_descriptor
from bids_alsmri.phantom.__main__ import main as simulate
from bids_alsmri.version import VERSION

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).resolve().parents[1]
DESCRIPTOR = PROJECT / "boutiques.json"


def bosh(folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    programs = Path(sys.executable).parent
    path = os.pathsep.join([str(programs), os.environ["PATH"]])
    return subprocess.run(
        [str(programs / "bosh"), *map(str, words)],
        cwd=folder,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a dataset called raw."""
    folder = tmp_path_factory.mktemp("boutiques")
    words = ["--fast", "1", "--seed", "5", "--modalities", "anat", "--t1w-mm", "8"]
    assert simulate([str(folder / "raw"), *words]) == 0
    return folder


def test_example_call_is_made_of_the_descriptor(place):
    done = bosh(place, "exec", "simulate", DESCRIPTOR)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"mkdir -p \S+; bids_alsmri \S+ \S+ (participant|group)", done.stdout)


def test_call_of_an_invocation_has_its_flags(place):
    words = {
        "bids_dir": "raw",
        "output_dir": "out",
        "analysis_level": "participant",
        "participant_label": ["01", "02"],
        "plan": True,
        "mem_gb": 3.5,
    }
    (place / "call.json").write_text(json.dumps(words))
    done = bosh(place, "exec", "simulate", DESCRIPTOR, "-i", "call.json")
    call = done.stdout
    assert "bids_alsmri raw out participant" in call
    for part in ("--participant-label 01 02", "--plan", "--mem-gb 3.5"):
        assert part in call


def test_launch_ends_with_the_meaning_of_the_exit_code(place):
    words = {"bids_dir": "raw", "output_dir": "x", "analysis_level": "participant"}
    (place / "wrong.json").write_text(json.dumps({**words, "participant_label": ["nobody"]}))
    done = bosh(
        *(place, "exec", "launch", "--no-container", "--skip-data-collection"),
        *(DESCRIPTOR, "wrong.json"),
    )
    assert done.returncode == 18
    assert "Labels or filters match nothing" in done.stdout + done.stderr


def test_own_tests_of_the_descriptor_pass(place):
    bare = make_descriptor()
    # with it, bosh would need an image
    del bare["container-image"]
    (place / "bare.json").write_text(json.dumps(bare))
    done = bosh(place, "test", "bare.json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


def test_version_is_the_same_in_descriptor_changelog_and_package():
    kept = json.loads(DESCRIPTOR.read_text())
    assert kept["tool-version"] == VERSION
    assert kept["container-image"]["image"] == f"bids_alsmri:{VERSION}"
    released = re.findall(r"^## \[?(\d+\.\d+\.\d+)", (PROJECT / "CHANGELOG.md").read_text(), re.M)
    # before the first release there is only what is to come
    assert released[:1] in ([], [VERSION])
    citation = (PROJECT / "CITATION.cff").read_text()
    assert re.search(rf"^version: \"?{re.escape(VERSION)}\"?$", citation, re.M)
