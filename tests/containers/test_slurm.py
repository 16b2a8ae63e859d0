"""Steps as jobs, participants as tasks of an array, on a real SLURM of one node."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from scheduler import Slurm

from bids_alsmri.phantom.__main__ import main as simulate

# whole participants, also where other work slows them
pytestmark = [pytest.mark.slow, pytest.mark.timeout(5400)]

PROJECT = Path(__file__).resolve().parents[2]
HPC = PROJECT / "hpc"
TOYS = PROJECT / "tests" / "engine" / "toys"


@dataclass(frozen=True)
class Steps:
    """The command line with toy pipelines, whose steps are jobs."""

    slurm: Slurm
    folder: Path

    @property
    def out(self) -> Path:
        return self.folder / "out"

    @property
    def environment(self) -> dict[str, str]:
        """Jobs must find the toys too."""
        paths = [str(PROJECT), str(TOYS)]
        return {"PYTHONPATH": os.pathsep.join(paths), "TOY_JOURNAL": str(self.folder / "journal")}

    def words(self, out: Path, *flags: str) -> list[str]:
        call = [str(self.folder / "raw"), str(out), "participant", "-w", f"{out} work"]
        return [sys.executable, str(TOYS / "toy_driver.py"), *call, *flags]

    def run(self, *flags: str, sbatch_args: str = "") -> subprocess.CompletedProcess[str]:
        plugin = self.folder / "plugin.yml"
        plugin.write_text(f"plugin: SLURM\nplugin_args:\n  sbatch_args: '{sbatch_args}'\n")
        words = self.words(self.out, "--nipype-plugin-file", str(plugin), *flags)
        return self.slurm.call(*words, **self.environment)


def results(out: Path) -> dict[str, bytes]:
    files = (path for path in out.glob("sub-*/**/*") if path.is_file())
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


@pytest.fixture
def steps(slurm: Slurm, tmp_path: Path) -> Callable[..., Steps]:
    """Make a dataset of texts in place of images."""

    def make(**texts: str) -> Steps:
        root = tmp_path / "raw"
        for label, text in texts.items():
            path = root / f"sub-{label}" / "anat" / f"sub-{label}_T1w.nii.gz"
            path.parent.mkdir(parents=True)
            path.write_text(text)
        description = '{"Name": "toy", "BIDSVersion": "1.10.0"}'
        (root / "dataset_description.json").write_text(description)
        return Steps(slurm, tmp_path)

    return make


@pytest.mark.slurm
def test_steps_as_jobs_give_what_a_local_run_gives(slurm, steps, tmp_path):
    toy = steps(s01="1 2 3")
    before = len(slurm.finished())
    done = toy.run()
    assert done.returncode == 0, done.stderr
    local = slurm.call(*toy.words(tmp_path / "local", "--n-procs", "1"), **toy.environment)
    assert local.returncode == 0, local.stderr
    assert results(toy.out) == results(tmp_path / "local") != {}
    jobs = slurm.finished()[before:]
    assert {job["JobState"] for job in jobs} == {"COMPLETED"}
    # what only copies small files is no job
    assert any("scale" in job["Name"] for job in jobs)
    assert not any("save" in job["Name"] for job in jobs)


@pytest.mark.slurm
def test_failed_and_killed_jobs_are_told_each_with_its_reason(steps):
    done = steps(s01="bad", s02="deadly").run()
    assert done.returncode == 65
    assert "sub-s01_T1w.nii.gz: holds bad; give numbers in the toy" in done.stderr
    # what builds on that scan is told with the same reason
    told, *_ = (line for line in done.stderr.splitlines() if "ended without a result" in line)
    assert "sub-s02" in told
    for part in ("batchscript", "sacct -j", "--mem"):
        assert part in told


@pytest.mark.slurm
def test_refused_job_is_told_with_the_words_of_sbatch(steps):
    done = steps(s01="1 2 3").run(sbatch_args="--partition=none")
    assert done.returncode == 1
    assert "invalid partition specified: none" in done.stderr
    assert "sbatch_args" in done.stderr


@pytest.mark.slurm
def test_stopped_run_leaves_no_job_in_the_queue(slurm, steps):
    toy = steps(s01="1 2 3", s02="4 5 6")
    plugin = toy.folder / "plugin.yml"
    # held jobs never begin
    plugin.write_text("plugin: SLURM\nplugin_args:\n  sbatch_args: '--hold'\n")
    words = toy.words(toy.out, "--nipype-plugin-file", str(plugin))
    environment = {**slurm.environment, **toy.environment}
    run = subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        slurm.wait_until(lambda: slurm.in_queue() or run.poll() is not None)
        assert slurm.in_queue(), run.communicate()[1]
        run.terminate()
        log = run.communicate(timeout=300)[1]
    finally:
        run.kill()
    assert run.returncode == 128 + 15, log
    slurm.wait_until(lambda: not slurm.in_queue(), at_most_s=60)


@dataclass(frozen=True)
class Array:
    """A dataset, and the settings with which hpc/submit.sh is called."""

    slurm: Slurm
    folder: Path

    @property
    def state(self) -> Path:
        return self.folder / "work" / "slurm"

    def submit(self, *words: str) -> str:
        python = str(Path(sys.executable).parent)
        path = os.pathsep.join([python, os.environ["PATH"]])
        call = ("bash", HPC / "submit.sh", self.folder / "settings.sh", *words)
        done = self.slurm.call(*call, PATH=path, PYTHONPATH=str(PROJECT))
        assert done.returncode == 0, done.stderr
        return done.stdout

    def status(self) -> list[str]:
        return self.submit("--status").splitlines()

    def log(self) -> str:
        return "\n".join(path.read_text() for path in self.state.glob("*.log"))

    def steps_done(self) -> set[tuple[str, int]]:
        """Results of steps, each with the time of its writing."""
        found = (self.folder / "work").rglob("result_*.pklz")
        return {(str(path), path.stat().st_mtime_ns) for path in found}


def array_of(slurm: Slurm, folder: Path, **settings: str) -> Array:
    own = {"BIDS_DIR": folder / "raw", "OUTPUT_DIR": folder / "out", "WORK_DIR": folder / "work"}
    lines = [f"{name}={value}" for name, value in {**own, "IMAGE": "", **settings}.items()]
    text = (HPC / "settings.sh").read_text()
    # what comes last counts
    (folder / "settings.sh").write_text("\n".join([text, *lines]) + "\n")
    return Array(slurm, folder)


@dataclass(frozen=True)
class Story:
    """What became of two participants: one told that its time is up, one whose image is empty."""

    array: Array
    before_restart: set[tuple[str, int]]
    after: set[tuple[str, int]]
    first_status: list[str]
    second_call: str
    second_status: list[str]


@pytest.fixture(scope="module")
def story(
    leisure: None,
    slurm: Slurm,
    raw: Path,
    cheap: tuple[str, ...],
    tmp_path_factory: pytest.TempPathFactory,
) -> Story:
    folder = tmp_path_factory.mktemp("array")
    shutil.copytree(raw, folder / "raw")
    good, bad = folder / "raw" / "sub-01", folder / "raw" / "sub-02"
    shutil.copytree(good, bad)
    for path in bad.rglob("sub-01*"):
        path.rename(path.with_name(path.name.replace("sub-01", "sub-02")))
    (image,) = bad.rglob("*T1w.nii.gz")
    image.write_bytes(b"")
    (bad.parent / "participants.tsv").unlink()
    array = array_of(
        slurm,
        folder,
        PARTICIPANT_OPTIONS=f"({' '.join(cheap)})",
        MEMORY_MB="3000",
        TIME_LIMIT="00:20:00",
        GROUP_DEPENDENCY="",
    )
    array.submit()
    slurm.wait_until(array.steps_done)
    (task,) = (name for name in slurm.in_queue() if name.endswith("_1"))
    # as SLURM does two minutes before the time limit: to the shell alone
    slurm.call("scancel", "--batch", "--signal=TERM", task)
    slurm.wait_until(lambda: "starts again" in array.log())
    before = array.steps_done()
    slurm.wait_until_empty()
    first = array.status()
    after = array.steps_done()
    second = array.submit()
    slurm.wait_until_empty()
    return Story(array, before, after, first, second, array.status())


@pytest.mark.leisure
def test_task_whose_time_is_up_starts_again_and_goes_on(story):
    assert "starts again (1 of 5)" in story.array.log()
    assert "sub-01 done" in story.first_status
    # a step that is done again leaves a result of a later time
    assert set() < story.before_restart < story.after


@pytest.mark.leisure
def test_failed_task_is_named_with_its_code_and_log(story):
    (told,) = (line for line in story.first_status if line.startswith("sub-02"))
    assert told.startswith("sub-02 ended with 65, see ")
    assert "holds 0 bytes" in Path(told.rpartition(" ")[2]).read_text()


@pytest.mark.leisure
def test_next_call_runs_the_failed_task_only(story):
    assert "1 of 2 participants submitted" in story.second_call
    assert story.second_status[-1] == "1 of 2 done, 0 tasks in the queue"


@pytest.mark.leisure
def test_array_leaves_results_where_the_settings_say(story):
    assert list((story.array.folder / "out").glob("sub-01/anat/*_desc-brain_mask.nii.gz"))


@pytest.mark.leisure
def test_group_level_runs_as_a_job(leisure, slurm, tmp_path):
    words = ["--controls", "3", "--fast", "3", "--slow", "3", "--seed", "7", "--template-mm", "4"]
    maps = ["--maps-only", str(tmp_path / "out")]
    assert simulate([str(tmp_path / "raw"), *maps, *words]) == 0
    options = (
        "--group-resolution-mm 4 --group-refinement-iterations 0 --group-n-permutations 60 "
        "--group-analyses skeleton --group-maps fa"
    )
    array = array_of(
        slurm,
        tmp_path,
        GROUP_OPTIONS=f"({options})",
        GROUP_CPUS="2",
        GROUP_MEMORY_MB="3000",
        GROUP_TIME_LIMIT="00:20:00",
    )
    array.state.mkdir(parents=True)
    for folder in (tmp_path / "raw").glob("sub-*"):
        (array.state / f"{folder.name}.code").write_text("0\n")
    assert array.submit().startswith("group level submitted")
    slurm.wait_until_empty()
    assert (tmp_path / "out" / "group.html").is_file(), array.log()
    assert list((tmp_path / "out" / "group").rglob("*_stat-p*_statmap.nii.gz"))
