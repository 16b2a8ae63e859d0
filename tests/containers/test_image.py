"""The image under the limits that hospitals and clusters set."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from bids_alsmri.version import VERSION

pytestmark = pytest.mark.container
PROJECT = Path(__file__).resolve().parents[2]
# that of the fixture `locked`, whom neither image nor host knows
USER = 12345
# it is to load over a slow line
LARGEST_BYTES = 1_600_000_000

KERNELS = """
import os
from pathlib import Path
from bids_alsmri.environment import copy_kernels
os.environ["NUMBA_CACHE_DIR"] = str(copy_kernels(Path(os.environ["ALSMRI_KERNELS"]), Path("/work")))
import numpy as np
from bids_alsmri.numerics import median
median.median_filter(np.ones((3, 3, 3)), radius=1)
counts = median._slide.stats
print(sum(counts.cache_hits.values()), sum(counts.cache_misses.values()))
"""

# name and hash of each module
HASHES = """
for root in package.__path__:
    for path in sorted(pathlib.Path(root).rglob("*.py")):
        print(path.relative_to(root), hashlib.sha256(path.read_bytes()).hexdigest())
"""


@pytest.fixture(scope="module")
def facts(image, podman) -> dict:
    (found,) = json.loads(podman("image", "inspect", image).stdout)
    return found


def test_image_is_small_enough(facts):
    assert facts["Size"] < LARGEST_BYTES


def test_image_starts_the_app_by_its_full_path(facts):
    # Boutiques' login shell and Brainlife reset PATH
    assert facts["Config"]["Entrypoint"] == ["/usr/local/bin/bids_alsmri"]


def test_image_tells_its_version_three_times(image, facts, podman, locked):
    assert facts["Labels"]["org.opencontainers.image.version"] == VERSION
    assert podman(*locked, image, "--version").stdout == f"bids_alsmri {VERSION}\n"
    assert podman(*locked, "--entrypoint", "cat", image, "/version").stdout == f"{VERSION}\n"


def test_image_holds_the_package_of_this_tree(image, podman, locked):
    # with cached layers an earlier one could stay in it
    script = "import hashlib, pathlib, bids_alsmri as package\n" + HASHES
    inside = podman(*locked, "--entrypoint", "python3", image, "-c", script)
    here = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=PROJECT
    )
    assert inside.stdout == here.stdout != "", inside.stderr


def test_no_compiler_is_left_in_the_image(image, podman, locked):
    script = "for name in cc gcc g++ clang ld as make; do command -v $name; done; true"
    done = podman(*locked, "--entrypoint", "sh", image, "-c", script)
    assert (done.returncode, done.stdout) == (0, "")


def test_run_without_arguments_says_what_to_give(image, podman, locked):
    done = podman(*locked, image)
    assert done.returncode == 64
    assert "--help" in done.stderr


def test_run_without_mounts_says_that_there_is_no_dataset(image, podman, locked):
    done = podman(*locked, image, "/data", "/out", "participant")
    assert done.returncode == 66
    assert "/data" in done.stderr


def test_run_with_no_writable_place_says_so(image, podman, locked, raw, writable):
    mounts = ("-v", f"{raw}:/data:ro", "-v", f"{writable('out')}:/out:ro")
    done = podman(*locked, *mounts, image, "/data", "/out", "participant")
    assert done.returncode == 73
    assert "Traceback" not in done.stderr
    assert "-w" in done.stderr or "/out" in done.stderr


def test_defaults_are_the_limits_of_the_container(image, podman, locked):
    script = (
        "from bids_alsmri.settings import usable_cores, usable_memory_gb;"
        "print(usable_cores(), usable_memory_gb())"
    )
    limits = ("--memory", "1000000000b", "--cpus", "1")
    done = podman(*locked, *limits, "--entrypoint", "python3", image, "-c", script)
    if "cgroup" in done.stderr:
        pytest.skip(f"limits cannot be set here: {done.stderr.strip()}")
    cores, memory_gb = done.stdout.split()
    assert int(cores) == 1
    # the kernel counts in pages of 4 kB
    assert float(memory_gb) == pytest.approx(1.0, abs=1e-5)


def test_kernels_are_read_and_not_compiled(image, podman, locked, writable):
    mounts = ("-v", f"{writable('work')}:/work", "--entrypoint", "python3")
    done = podman(*locked, *mounts, image, "-c", KERNELS)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["1", "0"]


def test_too_little_memory_is_said_before_anything_runs(
    image, podman, locked, raw, writable, cheap
):
    out = writable("out")
    mounts = ("-v", f"{raw}:/data:ro", "-v", f"{out}:/out", "-v", f"{writable('work')}:/work")
    words = ("/data", "/out", "participant", "-w", "/work", "--mem-mb", "50", *cheap)
    done = podman(*locked, *mounts, image, *words)
    assert done.returncode == 64
    assert "GB are allowed" in done.stderr
    assert not list(out.rglob("*.nii.gz"))


@dataclass(frozen=True)
class Resumed:
    """A participant whose run was ended by SIGTERM, and run again by the same call."""

    out: Path
    stop_code: int
    stop_seconds: float
    first_log: str
    again: subprocess.CompletedProcess[str]
    steps_before: set[tuple[str, int]]
    steps_after: set[tuple[str, int]]


@pytest.fixture(scope="module")
def resumed(
    image: str,
    podman: Callable[..., subprocess.CompletedProcess[str]],
    start_podman: Callable[..., subprocess.Popen[str]],
    locked: list[str],
    raw: Path,
    cheap: tuple[str, ...],
    tmp_path_factory: pytest.TempPathFactory,
) -> Resumed:
    folder = tmp_path_factory.mktemp("run")
    out, work = folder / "out", folder / "work"
    for each in (out, work):
        each.mkdir()
        each.chmod(0o777)
    mounts = ("-v", f"{raw}:/data:ro", "-v", f"{out}:/out", "-v", f"{work}:/work")
    words = ("/data", "/out", "participant", "-w", "/work", "--n-procs", "2", *cheap)
    name = f"alsmri-{time.time_ns()}"
    running = start_podman(*locked, "--name", name, *mounts, image, *words)
    try:
        wait_for(lambda: bool(steps_done(work)) or running.poll() is not None)
        start = time.monotonic()
        podman("stop", "--time", "30", name)
        log = running.communicate(timeout=60)[1]
    finally:
        running.kill()
    seconds, before = time.monotonic() - start, steps_done(work)
    again = podman(*locked, *mounts, image, *words)
    return Resumed(out, running.returncode, seconds, log, again, before, steps_done(work))


def steps_done(work: Path) -> set[tuple[str, int]]:
    """Results of steps, each with the time of its writing."""
    return {(str(p), p.stat().st_mtime_ns) for p in work.rglob("result_*.pklz")}


def wait_for(happened: Callable[[], bool], *, at_most_s: float = 120.0) -> None:
    end = time.monotonic() + at_most_s
    while not happened():
        assert time.monotonic() < end, f"nothing after {at_most_s} s"
        time.sleep(0.2)


def test_stop_ends_the_run_at_once(resumed):
    assert resumed.stop_code == 128 + signal.SIGTERM, resumed.first_log
    # SLURM gives half a minute, docker ten seconds
    assert resumed.stop_seconds < 10
    assert "goes on where this one stopped" in resumed.first_log
    assert "Traceback" not in resumed.first_log


def test_run_after_a_stop_goes_on_where_it_stopped(resumed):
    assert resumed.again.returncode == 0, resumed.again.stderr
    # a step that is done again leaves a result of a later time
    assert set() < resumed.steps_before < resumed.steps_after


def test_locked_run_leaves_results_of_its_user(resumed):
    (brain,) = resumed.out.glob("sub-01/anat/*_desc-brain_mask.nii.gz")
    assert brain.stat().st_uid == USER
    assert (resumed.out / "sub-01.html").is_file()
