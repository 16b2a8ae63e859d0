"""The image of Apptainer: alone, on SLURM with accounting, by Brainlife and by Boutiques."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import pytest
from scheduler import Slurm, running_slurm

from bids_alsmri.descriptor import make_descriptor
from bids_alsmri.version import VERSION

# whole participants, also where other work slows them
pytestmark = [pytest.mark.container, pytest.mark.timeout(5400)]

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def accounted() -> Iterator[Slurm]:
    """A real SLURM that keeps accounts."""
    with (
        tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True) as folder,
        running_slurm(Path(folder), with_accounting=True) as slurm,
    ):
        yield slurm


def test_image_tests_itself(apptainer, sif):
    done = apptainer("test", sif)
    assert done.stdout.strip() == f"bids_alsmri {VERSION}"


@dataclass(frozen=True)
class Array:
    """What hpc/submit.sh made of one participant, with the image."""

    folder: Path
    status: str
    accounts: str


@pytest.fixture(scope="module")
def array(
    sif: Path,
    raw: Path,
    accounted: Slurm,
    cheap: tuple[str, ...],
    apptainer: Any,
) -> Array:
    folder = Path(tempfile.mkdtemp(dir=apptainer.folder))
    folder.chmod(0o777)
    for name in ("out", "work"):
        (folder / name).mkdir()
        (folder / name).chmod(0o777)
    own = {
        "BIDS_DIR": raw,
        "OUTPUT_DIR": folder / "out",
        "WORK_DIR": folder / "work",
        "IMAGE": sif,
        "PARTICIPANT_OPTIONS": f"({' '.join(cheap)})",
        "MEMORY_MB": 3000,
        "TIME_LIMIT": "00:30:00",
        "GROUP_DEPENDENCY": "",
    }
    text = (PROJECT / "hpc" / "settings.sh").read_text()
    lines = [f"{name}={value}" for name, value in own.items()]
    (folder / "settings.sh").write_text("\n".join([text, *lines]) + "\n")
    submit = ("bash", PROJECT / "hpc" / "submit.sh", folder / "settings.sh")
    done = accounted.call(*submit, PATH=apptainer.environment["PATH"])
    assert done.returncode == 0, done.stderr
    accounted.wait_until(lambda: not accounted.in_queue(), at_most_s=3600)
    status = accounted.call(*submit, "--status").stdout
    sacct = accounted.call("sacct", "--noheader", "--parsable2", "--format=JobName,State,MaxRSS")
    return Array(folder, status, sacct.stdout)


def test_array_runs_the_image_without_its_host(array):
    logs = "\n".join(path.read_text() for path in (array.folder / "work/slurm").glob("*.log"))
    assert "1 of 1 done" in array.status, logs
    assert list((array.folder / "out").glob("sub-01/anat/*_desc-brain_mask.nii.gz"))


def test_accounts_tell_state_and_memory_of_the_task(array):
    rows = [line.split("|") for line in array.accounts.splitlines()]
    assert ["alsmri_out", "COMPLETED", ""] in rows
    (memory,) = (row[2] for row in rows if row[0] == "batch")
    # in kB; the app alone takes more than 200 MB, and may take 3 GB
    assert 200_000 < float(memory.removesuffix("K")) < 3_000_000


def test_brainlife_task_runs_on_the_cluster(sif, raw, accounted, cheap, apptainer, open_folder):
    for name in ("output", "work"):
        (open_folder / name).mkdir()
        (open_folder / name).chmod(0o777)
    for name in ("main", "convert.py"):
        shutil.copy(PROJECT / "brainlife" / name, open_folder)
    target = open_folder / "bids" / "sub-01" / "anat" / "sub-01_T1w.nii.gz"
    target.parent.mkdir(parents=True)
    (image,) = raw.rglob("*_T1w.nii.gz")
    os.link(image, target)
    target.with_name("sub-01_T1w.json").write_text('{"subject": "01", "session": null}')
    description = {"Name": "brainlife", "BIDSVersion": "1.4.0", "Authors": ["Brainlife"]}
    (open_folder / "bids" / "dataset_description.json").write_text(json.dumps(description))
    (open_folder / "config.json").write_text(json.dumps({"t1": "x", "options": " ".join(cheap)}))
    # the platform's start script for SLURM: a job of the directives of main, which calls main
    directives = [
        line for line in (open_folder / "main").read_text().splitlines() if line.startswith("#PBS")
    ]
    (open_folder / "_main").write_text("\n".join(["#!/bin/bash", *directives, "./main"]) + "\n")
    submit = (
        "sbatch",
        "--parsable",
        "--mem=3000",
        "--ntasks=2",
        "--time=30",
        "--chdir",
        open_folder,
    )
    done = accounted.call(
        *submit,
        "-o",
        "slurm.log",
        "_main",
        ALSMRI_IMAGE=str(sif),
        PATH=apptainer.environment["PATH"],
    )
    assert done.returncode == 0, done.stderr
    accounted.wait_until(lambda: not accounted.in_queue(), at_most_s=3600)
    product = json.loads((open_folder / "product.json").read_text())
    assert product["exit_code"] == 0, (open_folder / "slurm.log").read_text()
    assert product["outputs"] == ["output_t1", "output_mask"]
    mask = nib.load(open_folder / "output_mask" / "mask.nii.gz")
    assert mask.shape == nib.load(open_folder / "output_t1" / "t1.nii.gz").shape
    plots = [each for each in product["brainlife"] if each["type"] == "plotly"]
    assert any("wm_volume" in plot["data"][0]["y"] for plot in plots)
    # the platform asks for a few kilobytes
    assert (open_folder / "product.json").stat().st_size < 8192


@pytest.fixture
def launch(
    open_folder: Path, raw: Path, apptainer: Any
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Call bosh on the descriptor of another image name, in a folder that holds raw."""

    def call(image: str, verb: tuple[str, ...], *words: str, docker: str = ""):
        shutil.copytree(raw, open_folder / "raw")
        descriptor = make_descriptor()
        descriptor["container-image"]["image"] = image
        (open_folder / "descriptor.json").write_text(json.dumps(descriptor))
        plan = {**descriptor["tests"][0]["invocation"], "pipeline_names": ["anatomical"]}
        (open_folder / "plan.json").write_text(json.dumps(plan))
        programs = open_folder / "bin"
        programs.mkdir()
        if docker:
            # podman takes the same words
            (programs / "docker").write_text(f'#!/bin/sh\nexec {docker} "$@"\n')
            (programs / "docker").chmod(0o755)
        python = Path(sys.executable).parent
        path = os.pathsep.join([str(programs), str(python), apptainer.environment["PATH"]])
        command = [str(python / "bosh"), *verb, *words]
        environment = {**apptainer.environment, "PATH": path}
        return subprocess.run(
            command, cwd=open_folder, env=environment, capture_output=True, text=True
        )

    return call


LAUNCH = ("exec", "launch", "--skip-data-collection", "descriptor.json", "plan.json")


def test_boutiques_launches_the_image_with_apptainer(sif, launch):
    done = launch("unused", LAUNCH, "--force-apptainer", "--imagepath", str(sif))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "sub-01" in done.stdout + done.stderr


def test_boutiques_tests_the_image(image, launch):
    done = launch(image, ("test", "descriptor.json"), docker="podman")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


def test_boutiques_launches_the_image_with_docker(image, launch):
    done = launch(image, LAUNCH, "--no-pull", docker="podman")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "sub-01" in done.stdout + done.stderr
