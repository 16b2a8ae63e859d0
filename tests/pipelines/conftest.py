"""One small simulated cohort and one run of the command line, which all tests here look at."""

from __future__ import annotations

import gzip
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import psutil
import pytest

from bids_alsmri.engine.graph import Graph
from bids_alsmri.engine.pipeline import registry
from bids_alsmri.engine.runner import new_workflow
from bids_alsmri.participant import build_graphs
from bids_alsmri.phantom.__main__ import main as simulate
from bids_alsmri.pipelines.cortex7t.slab import measured_areas, region_of
from bids_alsmri.planning import Plan, make_plan
from bids_alsmri.settings import RunSettings, make_run_settings

# Coarse and short where that costs accuracy only; every step of the pipelines is taken.
CHEAP: dict[str, dict[str, Any]] = {
    "anatomical": {
        "syn_iterations": (40, 20, 0),
        "template_registration_mm": 4.0,
        "brain_pitches_deg": (-20.0, 0.0, 20.0),
        "brain_scales": (0.9,),
        "brain_starts": 1,
        "template_resolution_mm": 4.0,
    },
    "diffusion": {
        "template_resolution_mm": 4.0,
        "unringing_shifts": 1,
        "rigid_iterations": (100, 50),
        # of 4 mm; the default of 4 voxels is wider than gyri there
        "mask_median_radius": 2,
        "fa_resolution_mm": 4.0,
        "fa_iterations": (20, 0, 0),
    },
    "sodium": {
        "template_resolution_mm": 4.0,
        "t1w_resolution_mm": 4.0,
        "denoising_block_radius": 2,
        "start_shrink_factors": (4, 3),
        "rigid_shrink_factors": (3, 2),
    },
    "cortex7t": {
        "registration_voxel_mm": 3.0,
        "registration_fwhm_mm": (6.0, 4.0),
        "registration_reach_mm": 0.0,
        "registration_reach_deg": 0.0,
        "ribbon_mm": 1.5,
        "n_bootstrap": 20,
    },
    "muscle": {
        "bias_shrink_factor": 4,
        "bias_iterations": (5,),
        "field_order": 2,
        "atlas_linear_iterations": (20, 10, 0),
        "atlas_syn_iterations": (10, 5, 0),
        "atlas_search_radius": 1,
    },
}
# who drew muscles, beside the raw data: labels are found in derivatives alone
READERS = ("reader1", "reader2")
# Gain of the second run over the first: scanners set the receiver for each run.
RUN_GAIN = 1.25
N_OF_FIRST_RUN = 8


def flags(values: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Settings of pipelines as words of the command line."""
    words = []
    for pipeline, settings in values.items():
        for name, value in settings.items():
            words.append(f"--{pipeline}-{name.replace('_', '-')}")
            words += [str(item) for item in (value if isinstance(value, tuple) else (value,))]
    return words


@pytest.fixture(scope="session")
def cheap() -> dict[str, dict[str, Any]]:
    """The cheap settings, by pipeline."""
    return CHEAP


def readers(raw: Path) -> dict[str, Path]:
    """Datasets of those who drew muscles of a cohort."""
    found = {name: raw / "derivatives" / name for name in READERS}
    return {name: path for name, path in found.items() if path.is_dir()}


def atlases(raw: Path) -> dict[str, Path]:
    """Setting that tells where labelled people of a cohort are."""
    folder = raw / "derivatives" / "atlases"
    return {"atlas_dir": folder} if folder.is_dir() else {}


class App:
    """Runs the command line in a process of its own, with the cheap settings."""

    def command(self, raw: Path, out: Path, *words: object) -> list[str]:
        call = [sys.executable, "-m", "bids_alsmri", str(raw), str(out), "participant"]
        drawn = [f"{name}={path}" for name, path in readers(raw).items()]
        given = ["--derivatives", *drawn] if drawn else []
        given += flags({"muscle": atlases(raw)})
        return [*call, *flags(CHEAP), *given, *map(str, words)]

    def run(self, raw: Path, out: Path, *words: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(raw, out, *words), capture_output=True, text=True, cwd=out.parent
        )

    def watch(
        self, raw: Path, out: Path, *words: object
    ) -> tuple[subprocess.CompletedProcess[str], list[int]]:
        """Run, and count the threads that are at work in its workers, five times a second."""
        command, counts, has_ended = self.command(raw, out, *words), [], threading.Event()
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=out.parent
        ) as run:

            def count() -> None:
                while not has_ended.wait(0.2):
                    counts.append(working_threads(run.pid))

            watcher = threading.Thread(target=count)
            watcher.start()
            try:
                told, errors = run.communicate()
            finally:
                has_ended.set()
                watcher.join()
        return subprocess.CompletedProcess(command, run.returncode, told, errors), counts

    def start(self, raw: Path, out: Path, *words: object) -> subprocess.Popen[bytes]:
        """Begin a run in a process group of its own."""
        return subprocess.Popen(
            self.command(raw, out, *words),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=out.parent,
            start_new_session=True,
        )


def working_threads(pid: int) -> int:
    """Threads below a process that run or wait for a core; those that sleep do not count."""
    n_working = 0
    try:
        workers = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return 0
    for worker in workers:
        for path in Path(f"/proc/{worker.pid}/task").glob("*/stat"):
            try:
                # the name before the state may hold blanks
                state = path.read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            n_working += state == "R"
    return n_working


@pytest.fixture(scope="session")
def app() -> App:
    return App()


@dataclass(frozen=True)
class Finished:
    """A run of the whole cohort."""

    raw: Path
    out: Path
    work: Path
    log: str
    code: int
    seconds: float
    n_threads: list[int]

    def folder(self, participant: str) -> Path:
        return self.out / f"sub-{participant}"

    def one(self, pattern: str) -> Path:
        """The one result that fits a pattern."""
        (path,) = self.out.glob(pattern)
        return path


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Raw dataset of two participants; the truth lies in its derivatives.

    sub-01, a fast progressor, has a T1w and one diffusion series in two runs of different gain,
    with two lost slices and more motion than is usual, a sodium image, a coarse slab at 7T, and
    stations of the legs whose muscles two readers drew, of the calves in two phases and four echoes
    too. sub-02 has no T1w, and its images are stored with other axes, another handedness and
    oblique; its sodium image comes with a map of the coil, and with a proton image to which the
    head's T1w is renamed. On its slab a reader drew the ribbon, the hand areas and a caliper line.
    """
    folder = tmp_path_factory.mktemp("cohort")
    raw, other = folder / "raw", folder / "other"
    series = ["--dwi-mm", "4", "--n-directions", "14", "--n-b0", "2"]
    slab = ["--cortex7t-mm", "1.5", "--cortex7t-slice-mm", "3", "--cortex7t-height-mm", "18"]
    slab += ["--cortex7t-cortex-mm", "0"]
    series += ["--modalities", "anat,dwi,sodium,cortex7t", *slab]
    moved = ["--max-motion-deg", "5", "--max-motion-mm", "2", "--dropout-slices", "2"]
    first = [str(raw), "--fast", "1", "--seed", "11", "--t1w-mm", "3", *series, *moved]
    legs = ["--muscle-low-mm", "-860", "--muscle-high-mm", "-60", "--muscle-n-t2w", "2"]
    legs += ["--muscle-n-dwi", "2", "--muscle-t2w-mm", "7", "--muscle-t2w-slice-mm", "7"]
    legs += ["--muscle-dwi-mm", "8", "--muscle-dwi-slice-mm", "12", "--muscle-readers", "2"]
    legs += ["--modalities", "anat,dwi,sodium,cortex7t,muscle", "--no-muscle-hands"]
    coarse = ["--muscle-legs-mm", "4", "--muscle-legs-slice-mm", "30"]
    more = ["--muscle-dixon", "phases", "--muscle-n-echoes", "4"]
    assert simulate([*first, *legs, *coarse, *more]) == 0
    # one station of either is enough
    for path in (raw / "sub-01" / "anat").glob("*_acq-legs_echo-*_chunk-1_M*"):
        path.unlink()
    simulate_atlases(raw / "derivatives" / "atlases", coarse)
    stored = ["--determinant", "positive", "--axis-order", "PSR", "--oblique-deg", "20"]
    second = [str(other), "--controls", "1", "--seed", "12", "--t1w-mm", "4"]
    assert simulate([*second, *series, *stored, "--sodium-bias", "0.4"]) == 0
    split_series(raw / "sub-01" / "dwi" / "sub-01_dir-AP_dwi")
    rename_proton(other)
    for below in (Path(), Path("derivatives") / "phantom"):
        adopt_participant(other / below, raw / below)
    draw_on_slab(raw)
    return raw


def draw_on_slab(raw: Path) -> None:
    """Ribbon and areas of sub-02 as the truth has them, and a line of 9 mm in the left hand."""
    stem = "sub-02/anat/sub-02_acq-M1_"
    truth = nib.load(f"{raw}/derivatives/phantom/{stem}desc-distance_statmap.nii.gz")
    distance = np.asarray(truth.dataobj, float)
    where = nib.affines.apply_affine(
        truth.affine, np.stack(np.indices(distance.shape), axis=-1).astype(float)
    )
    numbers = {f"{region_of(a)}_{a.side}": a.label for a in measured_areas()}
    side = np.where(where[..., 0] < 0, numbers["hand_left"], numbers["hand_right"])
    folder = raw / "derivatives" / "reader1" / "sub-02" / "anat"
    folder.mkdir(parents=True, exist_ok=True)
    for name, labels in (
        ("desc-ribbon", np.where(distance < 0, 2, np.where(distance < 3.0, 3, 1))),
        ("seg-somatotopy", np.where(np.abs(distance) < 1.5, side, 0)),
    ):
        image = nib.Nifti1Image(labels.astype(np.int16), truth.affine)
        nib.save(image, folder / f"sub-02_acq-M1_{name}_dseg.nii.gz")
    middle = where[tuple(n // 2 for n in distance.shape)]
    rows = [
        ("hand", "left", "caliper", *middle, *(middle + np.array([0.0, 9.0, 0.0]))),
        ("hand", "left", "oval", *middle, "n/a", "n/a", "n/a"),
    ]
    columns = ["region", "side", "shape", "x1", "y1", "z1", "x2", "y2", "z2"]
    pd.DataFrame(rows, columns=columns).to_csv(
        folder / "sub-02_acq-M1_desc-drawn_points.tsv", sep="\t", index=False
    )


def simulate_atlases(folder: Path, coarse: list[str]) -> None:
    """Labelled thighs of other people, whose labels are those of participants."""
    others = ["--controls", "2", "--seed", "13", "--modalities", "muscle", "--muscle-n-t2w", "0"]
    assert (
        simulate([str(folder), *others, "--muscle-n-dwi", "0", "--no-muscle-hands", *coarse]) == 0
    )
    # calves are left to image processing
    for path in folder.rglob("*chunk-2_desc-muscles_dseg*"):
        path.unlink()


def split_series(stem: Path) -> None:
    """Part a series into two runs; the second was received with another gain."""
    image = nib.load(f"{stem}.nii.gz")
    data = np.asarray(image.dataobj)
    b_values = np.loadtxt(f"{stem}.bval", ndmin=2)
    b_vectors = np.loadtxt(f"{stem}.bvec")
    parts = (slice(0, N_OF_FIRST_RUN), slice(N_OF_FIRST_RUN, data.shape[3]))
    for run, (part, gain) in enumerate(zip(parts, (1.0, RUN_GAIN), strict=True), start=1):
        target = stem.with_name(stem.name.replace("_dwi", f"_run-{run}_dwi"))
        values = np.round(gain * data[..., part]).astype(np.int16)
        nib.save(nib.Nifti1Image(values, image.affine, image.header), f"{target}.nii.gz")
        np.savetxt(f"{target}.bval", b_values[:, part], fmt="%g")
        np.savetxt(f"{target}.bvec", b_vectors[:, part], fmt="%.8f")
        shutil.copy(f"{stem}.json", f"{target}.json")
    for extension in (".nii.gz", ".bval", ".bvec", ".json"):
        Path(f"{stem}{extension}").unlink()


def rename_proton(dataset: Path) -> None:
    """Call the T1w another proton image, and give the true sensitivity as a measured map."""
    anat, fmap = dataset / "sub-01" / "anat", dataset / "sub-01" / "fmap"
    fmap.mkdir()
    truth = dataset / "derivatives" / "phantom" / "sub-01" / "fmap"
    for extension in (".nii.gz", ".json"):
        (anat / f"sub-01_T1w{extension}").rename(anat / f"sub-01_acq-proton_T2starw{extension}")
        shutil.copy(
            truth / f"sub-01_acq-sodium_desc-truth_RB1map{extension}",
            fmap / f"sub-01_acq-sodium_RB1map{extension}",
        )


def adopt_participant(source: Path, target: Path) -> None:
    """Take the first participant of one dataset into another, as its second."""
    shutil.copytree(source / "sub-01", target / "sub-02")
    for path in sorted((target / "sub-02").rglob("sub-01*")):
        path.rename(path.with_name(path.name.replace("sub-01", "sub-02")))
    row = (source / "participants.tsv").read_text().splitlines()[1]
    with (target / "participants.tsv").open("a") as table:
        table.write(row.replace("sub-01", "sub-02") + "\n")


@pytest.fixture(scope="session")
def finished(app: App, cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The run that all tests share; they must not change its folders."""
    folder = tmp_path_factory.mktemp("finished")
    out, work = folder / "out", folder / "work"
    start = time.monotonic()
    done, n_threads = app.watch(cohort, out, "-w", work, "--n-procs", 2)
    seconds = time.monotonic() - start
    assert done.returncode == 0, done.stderr
    return Finished(cohort, out, work, done.stderr, done.returncode, seconds, n_threads)


@pytest.fixture
def copied(finished: Finished, tmp_path: Path) -> Path:
    """Output folder of the run, to be changed by a test."""
    return Path(shutil.copytree(finished.out, tmp_path / "out"))


def content(path: Path) -> Any:
    """What must be the same in two runs of one dataset."""
    if path.suffix == ".gz":
        return gzip.decompress(path.read_bytes())
    if path.suffix == ".h5":
        import h5py

        found = {}
        with h5py.File(path) as file:
            # the rest are paths and versions of ITK
            file.visititems(
                lambda name, item: (
                    found.update({name: np.asarray(item).tobytes()})
                    if isinstance(item, h5py.Dataset) and "Parameters" in name
                    else None
                )
            )
        assert found
        return found
    return path.read_bytes()


def results(out: Path, *participants: str) -> dict[str, Any]:
    """Content of every result of some participants, by its path."""
    return {
        str(path.relative_to(out)): content(path)
        for label in participants
        for path in sorted((out / f"sub-{label}").rglob("*"))
        if path.is_file() and ".tmp-" not in path.name
    }


@pytest.fixture(name="results", scope="session")
def results_fixture() -> Callable[..., dict[str, Any]]:
    """`results`, for tests."""
    return results


def run_settings(
    raw: Path,
    out: Path,
    given: Mapping[str, Any] | None = None,
    pipelines: Mapping[str, Mapping[str, Any]] | None = None,
) -> RunSettings:
    """Settings as the command line makes them."""
    models = {name: pipeline.settings for name, pipeline in registry().items()}
    own = {"bids_dir": raw, "output_dir": out, "level": "participant", **(given or {})}
    own.setdefault("derivatives", readers(raw))
    given_to = {**(pipelines or {})}
    given_to["muscle"] = {**atlases(raw), **given_to.get("muscle", {})}
    return make_run_settings(own, given_to, models)


def built(settings: RunSettings, plan: Plan | None = None) -> dict[tuple[str, str], Graph]:
    """Graphs of all scans, nothing run."""
    folder = settings.output_dir
    workflow = new_workflow(folder / "work", folder / "crashes", stop_on_first_crash=False)
    return build_graphs(settings, plan or make_plan(settings), workflow)


@pytest.fixture(name="run_settings", scope="session")
def run_settings_fixture() -> Callable[..., RunSettings]:
    """`run_settings`, for tests."""
    return run_settings


@pytest.fixture(name="built", scope="session")
def built_fixture() -> Callable[..., dict[tuple[str, str], Graph]]:
    """`built`, for tests."""
    return built


@dataclass(frozen=True)
class Truth:
    """What the phantom knows of one participant; world coordinates are RAS+ in mm."""

    folder: Path
    label: str

    def path(self, tail: str) -> Path:
        kind = "dwi" if tail.startswith("dir-AP") else "anat"
        return self.folder / f"sub-{self.label}" / kind / f"sub-{self.label}_{tail}"

    def image(self, tail: str) -> nib.Nifti1Image:
        return nib.load(self.path(f"{tail}.nii.gz"))

    def table(self, tail: str) -> pd.DataFrame:
        return pd.read_csv(self.path(f"{tail}.tsv"), sep="\t")

    @property
    def t1w_to_dwi(self) -> np.ndarray:
        """Matrix from T1w world to the world of the first volume."""
        pose = np.eye(4)
        pose[:3] = self.table("dir-AP_desc-pose_stats").to_numpy(float)
        return pose

    @property
    def volume_to_rest(self) -> np.ndarray:
        """Per volume, the matrix from a position in it to where that lay in the first."""
        table = self.table("dir-AP_desc-motion_timeseries")
        columns = [f"pull_{row}{column}" for row in range(3) for column in range(4)]
        return with_last_row(table[columns].to_numpy(float))


def with_last_row(upper: np.ndarray) -> np.ndarray:
    """Matrices from their upper three rows, one row of a table each."""
    matrices = np.tile(np.eye(4), (len(upper), 1, 1))
    matrices[:, :3, :] = upper.reshape(-1, 3, 4)
    return matrices


@pytest.fixture(scope="session")
def truth(cohort: Path) -> Truth:
    """Of sub-01."""
    return Truth(cohort / "derivatives" / "phantom", "01")


@pytest.fixture(scope="session")
def truth_without_t1w(cohort: Path) -> Truth:
    """Of sub-02."""
    return Truth(cohort / "derivatives" / "phantom", "02")


def moved(points_mm: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Points after a linear transform."""
    return np.asarray(points_mm @ matrix[:3, :3].T + matrix[:3, 3])


def sampled(image: nib.Nifti1Image, points_mm: np.ndarray) -> np.ndarray:
    """Values of an image at world points, linearly interpolated; 0 outside."""
    from scipy.ndimage import map_coordinates

    voxels = moved(points_mm, np.linalg.inv(image.affine))
    return np.asarray(map_coordinates(np.asarray(image.dataobj, float), voxels.T, order=1))


def voxel_points(image: nib.Nifti1Image, mask: np.ndarray) -> np.ndarray:
    """World positions of the voxels of a mask, in mm."""
    return moved(np.argwhere(mask).astype(float), image.affine)


def dice(first: np.ndarray, second: np.ndarray) -> float:
    """Overlap of two masks, written out here so that it shares nothing with the package."""
    return float(2 * (first & second).sum() / (first.sum() + second.sum()))


@dataclass(frozen=True)
class Geometry:
    """The functions above, for tests."""

    moved: Callable[..., np.ndarray] = moved
    sampled: Callable[..., np.ndarray] = sampled
    voxel_points: Callable[..., np.ndarray] = voxel_points
    dice: Callable[..., float] = dice
    with_last_row: Callable[..., np.ndarray] = with_last_row


@pytest.fixture(scope="session")
def geometry() -> Geometry:
    return Geometry()
