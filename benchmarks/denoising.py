"""Time and accuracy of local PCA denoising against dipy and MRtrix, as markdown tables.

Run as ``OMP_NUM_THREADS=1 python benchmarks/denoising.py``. Times are CPU seconds of one thread,
the least of several interleaved repeats, so that other work on the machine distorts them little.
All methods see the same volume and the same mask; ``dwidenoise`` is given without the time of its
reading and writing, taken from a run on a mask of one voxel.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bids_alsmri.numerics.compile import kernel
from bids_alsmri.numerics.denoising import DenoisedSeries, denoise_local_pca, denoise_mppca
from bids_alsmri.numerics.eigen import eigenvectors, tridiagonal_eigenvalues, tridiagonalise

RADIUS = 2
TAU_FACTOR = 2.3  # Manjon 2013


class Case(NamedTuple):
    """A series to denoise, with its truth and noise where they are known."""

    name: str
    dwi: NDArray[np.float64]
    mask: NDArray[np.bool_]
    sigma: float
    truth: NDArray[np.float64] | None


def real_case(folder: Path, n_slices: int) -> Case:
    """Brain of 72 x 72 x 39 voxels and 21 volumes; the noise is that of MP-PCA."""
    path = folder / "bids_brain" / "sub-01" / "dwi" / "sub-01_dir-AP_dwi.nii.gz"
    dwi = nib.load(path).get_fdata()
    b0 = dwi[..., 0]
    mask = _middle_slices(b0 > 0.3 * np.percentile(b0, 98), n_slices)
    sigma = np.median(_own("mppca", dwi, mask, 0.0, 2, "average").noise_sigma[mask])
    return Case("real, 21 volumes", dwi, mask, float(sigma), None)


def simulated_case(n_volumes: int, n_slices: int) -> Case:
    """Smooth signal of 8 dimensions with Rician noise at signal-to-noise ratio 25."""
    rng = np.random.default_rng(7)
    shape = (72, 72, 39)
    fields = rng.normal(size=(7, *shape))
    fields = np.array([ndimage.gaussian_filter(field, 3.0) for field in fields])
    fields /= fields.std(axis=(1, 2, 3), keepdims=True)
    profiles = rng.normal(size=(7, n_volumes))
    truth = 500.0 + 40.0 * np.einsum("kxyz,kn->xyzn", fields, profiles) / np.sqrt(7)
    radii = np.indices(shape) - (np.array(shape) - 1)[:, None, None, None] / 2
    mask = np.sum((radii / np.array([30, 34, 19])[:, None, None, None]) ** 2, axis=0) < 1
    truth[~mask] *= 0.05
    sigma = 20.0
    noisy = np.hypot(
        truth + sigma * rng.normal(size=truth.shape), sigma * rng.normal(size=truth.shape)
    )
    return Case(
        f"simulated, {n_volumes} volumes", noisy, _middle_slices(mask, n_slices), sigma, truth
    )


def _middle_slices(mask: NDArray[np.bool_], n_slices: int) -> NDArray[np.bool_]:
    # the whole volume stays, so that patches and memory access are those of the whole problem
    first = max((mask.shape[2] - n_slices) // 2, 0)
    kept = np.zeros_like(mask)
    kept[:, :, first : first + n_slices] = mask[:, :, first : first + n_slices]
    return kept


def _own(
    method: str,
    dwi: NDArray[np.floating],
    mask: NDArray[np.bool_],
    sigma: float,
    stride: int,
    reconstruct: str,
) -> DenoisedSeries:
    if method == "mppca":
        return denoise_mppca(
            dwi, mask, patch_radius=RADIUS, stride=stride, reconstruct=reconstruct, n_threads=1
        )
    return denoise_local_pca(
        dwi,
        mask,
        noise_sigma=sigma,
        patch_radius=RADIUS,
        tau_factor=TAU_FACTOR,
        stride=stride,
        reconstruct=reconstruct,
        n_threads=1,
    )


def _dipy(method: str, case: Case) -> NDArray[np.float64]:
    from dipy.denoise.localpca import localpca, mppca

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # 0 / 0 outside of the patches
        if method == "mppca":
            return mppca(case.dwi, mask=case.mask, patch_radius=RADIUS)
        return localpca(
            case.dwi, sigma=case.sigma, mask=case.mask, patch_radius=RADIUS, tau_factor=TAU_FACTOR
        )


def _write(folder: Path, name: str, image: NDArray[np.generic]) -> Path:
    path = folder / f"{name}.nii"
    nib.save(nib.Nifti1Image(image, np.eye(4)), path)
    return path


def _dwidenoise(dwi: Path, mask: Path, out: Path, datatype: str) -> None:
    subprocess.run(
        [
            "dwidenoise",
            "-quiet",
            "-force",
            "-nthreads",
            "0",
            "-extent",
            str(2 * RADIUS + 1),
            "-mask",
            str(mask),
            "-datatype",
            datatype,
            str(dwi),
            str(out),
        ],
        check=True,
    )


def cpu_seconds(task: Callable[[], object]) -> float:
    """User and system time of this process and the children that ended meanwhile."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.process_time()
    task()
    own = time.process_time() - start
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return own + ended.ru_utime - children.ru_utime + ended.ru_stime - children.ru_stime


def tasks_of(case: Case, folder: Path) -> dict[str, Callable[[], object]]:
    """Every method on the case, by its name in the table."""
    single = case.dwi.astype(np.float32)
    tasks: dict[str, Callable[[], object]] = {
        "dipy mppca": lambda: _dipy("mppca", case),
        "dipy localpca": lambda: _dipy("localpca", case),
    }
    for method in ("mppca", "local_pca"):
        for stride in (1, 2):
            tasks[f"own {method}, stride {stride}"] = lambda method=method, stride=stride: _own(
                method, case.dwi, case.mask, case.sigma, stride, "average"
            )
    tasks["own mppca, centre"] = lambda: _own("mppca", single, case.mask, 0.0, 1, "centre")
    if shutil.which("dwidenoise"):
        dwi = _write(folder, "dwi", single)
        mask = _write(folder, "mask", case.mask.astype(np.uint8))
        voxel = np.zeros_like(case.mask)
        voxel[tuple(np.argwhere(case.mask)[0])] = True
        one = _write(folder, "one", voxel.astype(np.uint8))
        out = folder / "out.nii"
        for datatype in ("float32", "float64"):
            tasks[f"dwidenoise {datatype}"] = lambda d=datatype: _dwidenoise(dwi, mask, out, d)
        tasks["dwidenoise, one voxel"] = lambda: _dwidenoise(dwi, one, out, "float32")
    return tasks


def least_times(tasks: dict[str, Callable[[], object]], n_repeats: int) -> dict[str, float]:
    """CPU seconds of each task, the least of interleaved repeats; dipy, far longer, runs twice."""
    times = dict.fromkeys(tasks, np.inf)
    for repeat in range(n_repeats):
        for name, task in tasks.items():
            if not (name.startswith("dipy") and repeat > 1):
                times[name] = min(times[name], cpu_seconds(task))
    overhead = times.pop("dwidenoise, one voxel", 0.0)
    return {
        name: seconds - overhead if name.startswith("dwidenoise") else seconds
        for name, seconds in times.items()
    }


@kernel
def _solve_often(gram: NDArray[np.float64], n_vectors: int, n_solves: int) -> None:
    n = gram.shape[0]
    padded = (n + 7) // 8 * 8
    a = np.zeros((n, padded))
    diagonal, off, off2 = np.zeros(n), np.zeros(n), np.zeros(n)
    half, values, p = np.zeros(n), np.zeros(n), np.zeros(n)
    vectors, lu = np.zeros((n, padded)), np.zeros((5, padded))
    for _ in range(n_solves):
        for i in range(n):
            for j in range(n):
                a[i, j] = gram[i, j]
        tridiagonalise(a, n, diagonal, off, half, p)
        for i in range(n):
            values[i], off2[i] = diagonal[i], off[i] * off[i]
        tridiagonal_eigenvalues(values, off2, n)
        eigenvectors(a, half, diagonal, off, n, values, n - n_vectors, n, vectors, lu)


def eigen_share(case: Case, seconds_centre: float, n_repeats: int) -> tuple[float, float]:
    """Mean rank, and share of the eigenproblems in the time of the centre-voxel variant."""
    series = _own("mppca", case.dwi, case.mask, 0.0, 2, "average")
    rank = float(series.n_components[case.mask].mean())
    x, y, z = np.argwhere(case.mask)[np.count_nonzero(case.mask) // 2]
    patch = case.dwi[x - 2 : x + 3, y - 2 : y + 3, z - 2 : z + 3].reshape(125, -1)
    gram = np.cov(patch.T, bias=True)
    n_vectors = round(min(rank, len(gram) - rank))
    _solve_often(gram, n_vectors, 1)
    n_solves = 2000
    each = min(
        cpu_seconds(lambda: _solve_often(gram, n_vectors, n_solves)) for _ in range(n_repeats)
    )
    return rank, each / n_solves * np.count_nonzero(case.mask) / seconds_centre


def print_times(case: Case, times: dict[str, float]) -> None:
    """Table of CPU seconds, time per voxel and ratios to dipy and dwidenoise."""
    n_voxels = np.count_nonzero(case.mask)
    print(f"\n### {case.name}: {case.dwi.shape}, {n_voxels} voxels in the mask\n")
    columns = ["dipy mppca", "dipy localpca", "dwidenoise float32", "dwidenoise float64"]
    columns = [name for name in columns if name in times]
    print("| method | s | us/voxel | " + " | ".join(f"x {name}" for name in columns) + " |")
    print("|---|---:|---:|" + "---:|" * len(columns))
    for name, seconds in times.items():
        ratios = " | ".join(f"{times[column] / seconds:.1f}" for column in columns)
        print(f"| {name} | {seconds:.2f} | {seconds / n_voxels * 1e6:.1f} | {ratios} |")


def print_accuracy(case: Case) -> None:
    """What the sub-sampled grid changes, in units of the noise."""
    chosen = case.mask
    every = _own("mppca", case.dwi, chosen, 0.0, 1, "average")
    print("\n| grid | RMS difference to stride 1 / sigma | 99th percentile | RMS error / sigma |")
    print("|---|---:|---:|---:|")
    rows = {
        "stride 1": every,
        "stride 2": _own("mppca", case.dwi, chosen, 0.0, 2, "average"),
        "stride 3": _own("mppca", case.dwi, chosen, 0.0, 3, "average"),
        "centre": _own("mppca", case.dwi, chosen, 0.0, 1, "centre"),
    }
    for name, series in rows.items():
        change = (series.signal - every.signal)[chosen] / case.sigma
        error = "-"
        if case.truth is not None:
            # the magnitude's own mean: denoising averages noise, it does not take off its bias
            expected = np.sqrt(case.truth[chosen] ** 2 + case.sigma**2)
            residual = (series.signal[chosen] - expected) / case.sigma
            error = f"{np.sqrt(np.mean(residual**2)):.3f}"
        rms, tail = np.sqrt(np.mean(change**2)), np.percentile(abs(change), 99)
        print(f"| {name} | {rms:.3f} | {tail:.3f} | {error} |")


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(os.environ.get("ALSMRI_TEST_DATA", "../shared/data"))
    parser.add_argument("--data", type=Path, default=default, help="folder of real images")
    parser.add_argument("--slices", type=int, default=12, help="slices of the mask that are used")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    cases = [simulated_case(65, arguments.slices)]
    if (arguments.data / "bids_brain").is_dir():
        cases.insert(0, real_case(arguments.data, arguments.slices))
    with tempfile.TemporaryDirectory() as folder:
        for case in cases:
            _own("local_pca", case.dwi[:8, :8, :8], np.ones((8, 8, 8), bool), 1.0, 1, "average")
            times = least_times(tasks_of(case, Path(folder)), arguments.repeats)
            print_times(case, times)
            rank, share = eigen_share(case, times["own mppca, centre"], arguments.repeats)
            print(f"\nMean rank {rank:.1f}; eigenproblems take {share:.0%} of the centre variant.")
            print_accuracy(case)


if __name__ == "__main__":
    main()
