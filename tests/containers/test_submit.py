"""Who hpc/submit.sh submits; sbatch and squeue are stand-ins that note how they are called."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

HPC = Path(__file__).resolve().parents[2] / "hpc"
SBATCH = '#!/bin/sh\necho "$@" >> "$CALLS"\nwc -l < "$CALLS"\n'
SQUEUE = '#!/bin/sh\ncat "$QUEUE"\n'


@dataclass
class Cluster:
    """A dataset of three participants and a scheduler that runs nothing."""

    folder: Path

    @property
    def state(self) -> Path:
        return self.folder / "work" / "slurm"

    @property
    def calls(self) -> list[str]:
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def end(self, label: str, code: str) -> None:
        self.state.mkdir(parents=True, exist_ok=True)
        (self.state / f"sub-{label}.code").write_text(f"{code}\n")
        (self.state / f"sub-{label}.log").write_text(f"{self.state}/7_{int(label)}.log\n")

    def submit(self, *words: str) -> subprocess.CompletedProcess[str]:
        path = f"{self.folder}/bin:{os.environ['PATH']}"
        places = {"CALLS": f"{self.folder}/calls", "QUEUE": f"{self.folder}/queue"}
        return subprocess.run(
            ["bash", HPC / "submit.sh", self.folder / "settings.sh", *words],
            env={**os.environ, **places, "PATH": path},
            capture_output=True,
            text=True,
        )

    def submitted(self) -> list[str]:
        """Labels in the list of the array that was submitted."""
        (path,) = self.state.glob("participants-*.txt")
        return path.read_text().split()


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    for label in ("01", "02", "03"):
        (tmp_path / "raw" / f"sub-{label}").mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    for name, text in (("sbatch", SBATCH), ("squeue", SQUEUE)):
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "queue").write_text("")
    own = {"BIDS_DIR": "raw", "OUTPUT_DIR": "out", "WORK_DIR": "work"}
    lines = [f"{name}={tmp_path}/{folder}" for name, folder in own.items()]
    text = (HPC / "settings.sh").read_text()
    # what comes last counts
    (tmp_path / "settings.sh").write_text("\n".join([text, *lines, "IMAGE="]) + "\n")
    return Cluster(tmp_path)


def test_first_call_submits_everyone_and_then_the_group(cluster):
    done = cluster.submit()
    assert done.returncode == 0, done.stderr
    assert cluster.submitted() == ["01", "02", "03"]
    participants, group = cluster.calls
    assert "--array 1-3%50" in participants
    assert "--dependency afterok:1 --kill-on-invalid-dep=yes" in group


def test_next_call_submits_only_who_is_not_done(cluster):
    cluster.end("01", "0")
    cluster.end("02", "65")
    done = cluster.submit()
    assert cluster.submitted() == ["02", "03"]
    assert "sub-02 ended with 65" in done.stdout


def test_all_are_submitted_again_on_request(cluster):
    for label in ("01", "02", "03"):
        cluster.end(label, "0")
    assert cluster.submit("--all").returncode == 0
    assert cluster.submitted() == ["01", "02", "03"]


def test_group_alone_is_submitted_where_all_are_done(cluster):
    for label in ("01", "02", "03"):
        cluster.end(label, "0")
    assert cluster.submit().returncode == 0
    (group,) = cluster.calls
    assert "--dependency" not in group


def test_status_tells_the_killed_from_the_running(cluster):
    cluster.end("01", "begun")
    cluster.end("02", "begun")
    (cluster.folder / "queue").write_text("7_2\n")
    done = cluster.submit("--status")
    first, second, third, last = done.stdout.splitlines()
    assert first.startswith("sub-01 was killed")
    assert second.startswith("sub-02 in the queue")
    assert third == "sub-03 not run"
    assert last == "0 of 3 done, 1 tasks in the queue"
    assert cluster.calls == []


def test_nothing_is_submitted_while_tasks_wait(cluster):
    (cluster.folder / "queue").write_text("7_1\n7_2\n")
    done = cluster.submit()
    assert done.returncode == 1
    assert "2 tasks" in done.stderr
    assert cluster.calls == []


@pytest.mark.parametrize(
    ("name", "told"), [("BIDS_DIR", "no folder here"), ("IMAGE", "which is absent")]
)
def test_absent_place_is_told_before_anything_is_submitted(cluster, name, told):
    with (cluster.folder / "settings.sh").open("a") as settings:
        settings.write(f"{name}=/nowhere/at/all\n")
    done = cluster.submit()
    assert done.returncode == 66
    assert told in done.stderr
    assert cluster.calls == []


def test_node_of_another_architecture_is_told(cluster):
    (cluster.folder / "bin" / "uname").write_text("#!/bin/sh\necho aarch64\n")
    (cluster.folder / "bin" / "uname").chmod(0o755)
    (cluster.folder / "image.sif").touch()
    with (cluster.folder / "settings.sh").open("a") as settings:
        settings.write(f"IMAGE={cluster.folder}/image.sif\n")
    cluster.state.mkdir(parents=True)
    (cluster.folder / "list").write_text("01\n")
    task = {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_JOB_ID": "7", "SLURM_MEM_PER_NODE": "100"}
    path = f"{cluster.folder}/bin:{os.environ['PATH']}"
    script = (HPC / "participant.sbatch", HPC, cluster.folder / "settings.sh")
    done = subprocess.run(
        ["bash", *script, cluster.folder / "list"],
        env={**os.environ, **task, "SLURM_CPUS_PER_TASK": "1", "PATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 64
    assert "this node is aarch64, and the image is for x86_64" in done.stderr
