"""The image, built when what it is made from has changed, and one small simulated participant."""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bids_alsmri.phantom.__main__ import main as simulate

if TYPE_CHECKING:
    from scheduler import Slurm

PROJECT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(Path(__file__).parent))
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


def find_image() -> str:
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
def leisure() -> None:
    """Leave out what takes minutes and is no part of the usual checks."""
    if "leisure" not in os.environ.get("ALSMRI_REQUIRE", "").split():
        pytest.skip("takes minutes; make image-check runs it")


@pytest.fixture(scope="session")
def image() -> str:
    """Name of the image."""
    return find_image()


@dataclass(frozen=True)
class Apptainer:
    """Apptainer as a normal user calls it, and a folder that this user may write to."""

    folder: Path
    environment: dict[str, str]

    def __call__(self, *words: object) -> subprocess.CompletedProcess[str]:
        command = ["apptainer", *map(str, words)]
        return subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True
        )


@pytest.fixture(scope="session")
def apptainer() -> Iterator[Apptainer]:
    """Apptainer without privileges, also where root runs the tests."""
    program = shutil.which("apptainer")
    if program is None:
        pytest.skip("apptainer is not installed")
    # not below pytest's folders, which are closed to others
    with tempfile.TemporaryDirectory(prefix="apptainer-") as name:
        folder, programs = Path(name), Path(name) / "bin"
        folder.chmod(0o755)
        programs.mkdir()
        if os.getuid() == 0:
            normal = (user for user in pwd.getpwall() if 1000 <= user.pw_uid < 60000)
            users = [user for user in normal if Path(user.pw_dir).is_dir()]
            if not users:
                pytest.skip("apptainer is for normal users, and there is none here")
            user = users[-1]
            become = f"setpriv --reuid={user.pw_uid} --regid={user.pw_gid} --init-groups"
            for each in ("apptainer", "singularity"):
                (programs / each).write_text(
                    f'#!/bin/sh\nexec env HOME={user.pw_dir} {become} {program} "$@"\n'
                )
                (programs / each).chmod(0o755)
            os.chown(folder, user.pw_uid, user.pw_gid)
        path = os.pathsep.join([str(programs), os.environ["PATH"]])
        yield Apptainer(folder, {**environment(), "PATH": path})


@pytest.fixture
def open_folder(apptainer: Apptainer) -> Path:
    """Folder of one test, in which everyone may write."""
    folder = Path(tempfile.mkdtemp(dir=apptainer.folder))
    folder.chmod(0o777)
    return folder


@pytest.fixture(scope="session")
def sif(apptainer: Apptainer) -> Path:
    """Image of Apptainer: that of ALSMRI_SIF, or made of the container image."""
    if "ALSMRI_SIF" in os.environ:
        return Path(os.environ["ALSMRI_SIF"])
    archive = apptainer.folder / "bids_alsmri.tar"
    assert podman("save", "-q", "-o", archive, find_image()).returncode == 0
    archive.chmod(0o644)
    shutil.copy(PROJECT / "Singularity.def", apptainer.folder)
    done = apptainer("build", "bids_alsmri.sif", "Singularity.def")
    assert done.returncode == 0, done.stderr
    archive.unlink()
    return apptainer.folder / "bids_alsmri.sif"


@pytest.fixture(scope="session")
def slurm() -> Iterator[Slurm]:
    """A real SLURM of one node."""
    from scheduler import running_slurm

    # paths of sockets hold 107 bytes
    with (
        tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True) as folder,
        running_slurm(Path(folder)) as own,
    ):
        yield own


@pytest.fixture(scope="session")
def raw() -> Iterator[Path]:
    """Raw dataset of one participant, who has a head of 4 mm voxels; all users may read it."""
    with tempfile.TemporaryDirectory(prefix="raw-") as folder:
        Path(folder).chmod(0o755)
        words = ["--fast", "1", "--seed", "5", "--modalities", "anat", "--t1w-mm", "4"]
        assert simulate([f"{folder}/raw", *words]) == 0
        yield Path(folder) / "raw"


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


@pytest.fixture(scope="session")
def podman_environment() -> dict[str, str]:
    """What podman needs here."""
    return environment()
