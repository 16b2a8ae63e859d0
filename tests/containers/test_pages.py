"""Calls on the pages of docker and Apptainer, as they stand there; only that they plan."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.container

DOCS = Path(__file__).resolve().parents[2] / "docs"


def calls_on(page: str, program: str) -> list[str]:
    text = (DOCS / page).read_text()
    return re.findall(rf"^ {{4}}({program} run .+)$", text, re.MULTILINE)


def filled(folder: Path, raw: Path) -> Path:
    """Folder with raw, out and work."""
    shutil.copytree(raw, folder / "raw")
    for name in ("out", "work"):
        (folder / name).mkdir()
        (folder / name).chmod(0o777)
    return folder


def run(call: str, place: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = f"{call} --plan --pipelines anatomical"
    return subprocess.run(
        ["bash", "-c", command], cwd=place, env=environment, capture_output=True, text=True
    )


@pytest.mark.parametrize("call", calls_on("docker.md", "docker"))
def test_call_of_docker_page_runs(image, podman_environment, raw, tmp_path, call):
    own = call.replace("docker run", "podman run").replace("bids_alsmri:0.1.0", image)
    done = run(own, filled(tmp_path, raw), podman_environment)
    assert done.returncode == 0, done.stderr
    assert "sub-01" in done.stdout + done.stderr


@pytest.mark.parametrize("call", calls_on("apptainer.md", "apptainer"))
def test_call_of_apptainer_page_runs(sif, apptainer, raw, open_folder, call):
    place = filled(open_folder, raw)
    (place / "bids_alsmri.sif").symlink_to(sif)
    done = run(call, place, apptainer.environment)
    assert done.returncode == 0, done.stderr
    assert "sub-01" in done.stdout + done.stderr


def test_pages_hold_calls():
    assert len(calls_on("docker.md", "docker")) == 3
    assert len(calls_on("apptainer.md", "apptainer")) == 1
