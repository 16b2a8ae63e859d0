"""The image, built when what it is made from has changed, and one small simulated participant."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from bids_alsmri.phantom.__main__ import main as simulate

PROJECT = Path(__file__).resolve().parents[2]
TOOLS = PROJECT.parent / "shared" / "tools"
INPUTS = ("Dockerfile", ".dockerignore", "constraints.txt", "setup.cfg", "pyproject.toml")
FOLDERS = ("bids_alsmri", "containers")
# that of a user whom neither the image nor the host knows
USER = 12345
# coarse where that costs accuracy only
CHEAP = (
    *("--pipelines", "anatomical", "--anatomical-syn-iterations", "20", "0", "0"),
    *("--anatomical-template-registration-mm", "4", "--anatomical-template-resolution-mm", "4"),
    *("--anatomical-brain-pitches-deg", "0", "--anatomical-brain-scales", "0.9"),
    *("--anatomical-brain-starts", "1"),
)


def environment() -> dict[str, str]:
    # what podman needs on a machine without systemd, where that is at hand
    given = TOOLS / "containers" / "containers.conf"
    return {**({"CONTAINERS_CONF": str(given)} if given.is_file() else {}), **os.environ}


def podman(*words: object) -> subprocess.CompletedProcess[str]:
    command = ["podman", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=environment())


def content_hash() -> str:
    """Hash of all that the image is made from."""
    paths = [PROJECT / name for name in INPUTS]
    for folder in FOLDERS:
        found = (p for p in (PROJECT / folder).rglob("*") if p.is_file())
        paths += sorted(p for p in found if "__pycache__" not in p.parts)
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.relative_to(PROJECT)}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:12]


@pytest.fixture(scope="session")
def image() -> str:
    """Name of the image: that of ALSMRI_IMAGE, or of the present tree."""
    if shutil.which("podman") is None:
        pytest.skip("podman is not installed")
    if podman("info").returncode:
        pytest.skip("podman does not work here: podman info fails")
    name = os.environ.get("ALSMRI_IMAGE") or f"localhost/bids_alsmri:{content_hash()}"
    if podman("image", "exists", name).returncode == 0:
        return name
    if "container" not in os.environ.get("ALSMRI_REQUIRE", "").split():
        pytest.skip(f"no image {name}; build it, or set ALSMRI_REQUIRE=container")
    build = TOOLS / "containers" / "build_image.sh"
    command = [str(build), str(PROJECT), name]
    if not build.is_file():
        command = ["podman", "build", "--layers", "-t", name, str(PROJECT)]
    subprocess.run(command, check=True, env=environment())
    return name


@pytest.fixture(scope="session")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Raw dataset of one participant, who has a head of 4 mm voxels."""
    root = tmp_path_factory.mktemp("container") / "raw"
    words = ["--fast", "1", "--seed", "5", "--modalities", "anat", "--t1w-mm", "4"]
    assert simulate([str(root), *words]) == 0
    return root


@pytest.fixture
def writable(tmp_path: Path) -> Callable[[str], Path]:
    """Make a folder that the image's user may write to."""

    def make(name: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        folder.chmod(0o777)
        return folder

    return make


@pytest.fixture(name="podman", scope="session")
def podman_fixture() -> Callable[..., subprocess.CompletedProcess[str]]:
    """`podman`, for tests."""
    return podman


@pytest.fixture(scope="session")
def start_podman() -> Callable[..., subprocess.Popen[str]]:
    """Begin what `podman` would wait for."""

    def start(*words: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["podman", *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )

    return start


@pytest.fixture(scope="session")
def locked() -> list[str]:
    """Options for a run without network, that may write to its mounts only, as an unknown user."""
    return [
        *("run", "--rm", "--network", "none", "--read-only", "--read-only-tmpfs=false"),
        *("--user", f"{USER}:{USER}"),
    ]


@pytest.fixture(scope="session")
def cheap() -> tuple[str, ...]:
    """Options of a short participant level."""
    return CHEAP
