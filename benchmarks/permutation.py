"""Time and memory of permutation inference with TFCE, against other packages in one run.

Run as ``python benchmarks/permutation.py DIR [--permutations 2000]
[--peers nilearn,mrclusterstats] [--skeleton MASK]``, where DIR was written by `make_perm53.py` (53
participants, 235,375 voxels). Prints a markdown table: seconds per permutation of both directions,
with the time to start subtracted (two runs of different length), ratios to one own thread, and peak
memory. Of the own ways "Welch" has two variance groups, "voxelwise" a covariate map, and "skeleton"
smooth noise in 110,635 voxels made of MASK and its mirror image, with H=2, E=1 and 26 neighbours.
``--cpu`` counts the process's own time instead of the clock's, for a machine with other work.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import psutil
from numpy.typing import NDArray
from scipy import ndimage

N_FIRST = 29
N_SKELETON = 110_635


def data_of(folder: Path) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Participants by voxels, and the mask."""
    mask = np.asarray(nib.load(folder / "mask.nii.gz").dataobj) > 0
    series = np.asarray(nib.load(folder / "data4d.nii.gz").dataobj)
    return series[mask].T.astype(np.float64), mask


def run_own(folder: Path, n: int, threads: int) -> None:
    """Permutations as the package does them."""
    data, mask = data_of(folder)
    permute(data, mask, n, threads)


def run_welch(folder: Path, n: int, threads: int) -> None:
    """The same with two variance groups."""
    data, mask = data_of(folder)
    permute(data, mask, n, threads, variance_groups=np.arange(len(data)) < N_FIRST)


def run_voxelwise(folder: Path, n: int, threads: int) -> None:
    """The same with a covariate that differs by voxel."""
    data, mask = data_of(folder)
    covariate = np.random.default_rng(3).normal(size=(1, *data.shape))
    permute(data, mask, n, threads, voxelwise_covariates=covariate)


def run_skeleton(folder: Path, n: int, threads: int) -> None:
    """What randomise does by --T2."""
    mask = np.asarray(nib.load(folder / "skeleton.nii.gz").dataobj) > 0
    data = np.load(folder / "skeleton.npy", mmap_mode="r").astype(np.float64)
    permute(data, mask, n, threads, is_skeleton=True)


def permute(
    data: NDArray[np.float64],
    mask: NDArray[np.bool_],
    n: int,
    threads: int,
    *,
    is_skeleton: bool = False,
    **model: NDArray[np.generic],
) -> None:
    """Statistics of n relabellings of two groups."""
    from bids_alsmri.numerics.linear import two_groups
    from bids_alsmri.numerics.permutation import Exchange
    from bids_alsmri.numerics.tfce import image_neighbourhood
    from bids_alsmri.stats.inference import Permutation, make_problem

    problem = make_problem(
        data,
        *two_groups(np.arange(len(data)) < N_FIRST),
        image_neighbourhood(mask, 26 if is_skeleton else 6),
        exchange=Exchange(),
        permutation=Permutation(
            n_permutations=10_000,
            seed=1,
            extent_power=1.0 if is_skeleton else 0.5,
            n_threads=threads,
        ),
        **model,
    )
    problem.block(range(n))


def make_skeleton(mask: NDArray[np.bool_], folder: Path) -> None:
    """110,635 voxels of a skeleton and its mirror image, and smooth noise (FWHM 3 voxels) there."""
    doubled = np.concatenate([mask, mask[:, :, ::-1]], axis=2)
    order = np.flatnonzero(doubled.ravel(order="F"))
    chosen = np.zeros(doubled.size, bool)
    chosen[order[:N_SKELETON]] = True
    chosen = chosen.reshape(doubled.shape, order="F")
    rng = np.random.default_rng(1)
    noise = np.stack(
        [
            ndimage.gaussian_filter(rng.standard_normal(chosen.shape, np.float32), 3 / 2.355)[
                chosen
            ]
            for _ in range(53)
        ]
    )
    np.save(folder / "skeleton.npy", noise / noise.std())
    nib.Nifti1Image(chosen.astype(np.uint8), np.eye(4)).to_filename(folder / "skeleton.nii.gz")


def run_nilearn(folder: Path, n: int, threads: int) -> None:
    """Nilearn's permuted_ols."""
    from nilearn.maskers import NiftiMasker
    from nilearn.mass_univariate import permuted_ols

    data, _ = data_of(folder)
    masker = NiftiMasker(folder / "mask.nii.gz", standardize=None).fit()
    groups = (np.arange(len(data)) < N_FIRST).astype(float)[:, np.newaxis]
    permuted_ols(
        groups, data, masker=masker, tfce=True, n_perm=n, n_jobs=threads, random_state=1, verbose=0
    )


def run_mrtrix(folder: Path, n: int, threads: int) -> None:
    """MRtrix's mrclusterstats, one direction: its two take two runs."""
    parts = folder / "parts"
    if not parts.exists():
        parts.mkdir()
        series = nib.load(folder / "data4d.nii.gz")
        for k in range(series.shape[3]):
            one = np.asarray(series.dataobj[..., k])
            nib.Nifti1Image(one, series.affine).to_filename(parts / f"{k:02d}.nii")
        (parts / "list.txt").write_text("".join(f"{k:02d}.nii\n" for k in range(series.shape[3])))
        np.savetxt(parts / "contrast.txt", [[1, -1]], fmt="%d")
    command = [
        *("mrclusterstats", str(parts / "list.txt"), str(folder / "design.txt")),
        *(str(parts / "contrast.txt"), str(folder / "mask.nii.gz"), str(parts / "out_")),
        *("-nshuffles", str(n), "-nthreads", str(threads), "-force", "-quiet"),
    ]
    subprocess.run(command, check=True)


WAYS: dict[str, Callable[[Path, int, int], None]] = {
    "own": run_own,
    "Welch": run_welch,
    "voxelwise": run_voxelwise,
    "skeleton": run_skeleton,
    "nilearn": run_nilearn,
    "mrclusterstats": run_mrtrix,
}


def measure(
    way: str, folder: Path, n: int, threads: int, *, by_cpu: bool = False
) -> tuple[float, float]:
    """Wall or own time, in s, and peak resident memory, in GB, in a process of its own."""
    words = [way, str(folder), str(n), str(threads)]
    start = time.perf_counter()
    single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    # compiling takes longer than the permutations; kept kernels leave it to the first run
    kept = {"NUMBA_CACHE_DIR": str(folder / "numba")}
    process = psutil.Popen(
        [sys.executable, __file__, "--child", *words], env={**os.environ, **single, **kept}
    )
    peak, own = 0, 0.0
    while process.poll() is None:
        try:
            family = [process, *process.children(recursive=True)]
            peak = max(peak, sum(one.memory_info().rss for one in family))
            used = process.cpu_times()
            own = used.user + used.system
        except psutil.NoSuchProcess:
            pass
        time.sleep(0.1)
    if process.returncode != 0:
        raise SystemExit(f"{way} ended with {process.returncode}")
    return own if by_cpu else time.perf_counter() - start, peak / 1e9


def main() -> None:
    """Run each way twice, print a table."""
    if sys.argv[1:2] == ["--child"]:
        way, folder, n, threads = sys.argv[2:]
        WAYS[way](Path(folder), int(n), int(threads))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--permutations", type=int, default=2000)
    parser.add_argument("--ways", default="own,own-2,Welch,voxelwise")
    parser.add_argument("--peers", default="nilearn,mrclusterstats")
    parser.add_argument("--skeleton", type=Path, metavar="MASK")
    parser.add_argument("--cpu", action="store_true")
    chosen = parser.parse_args()
    few = {"nilearn": (1, 9), "mrclusterstats": (2, 12)}
    cases = [
        (name.removesuffix("-2"), 2 if name.endswith("-2") else 1)
        for name in chosen.ways.split(",")
    ]
    if chosen.skeleton is not None:
        make_skeleton(np.asarray(nib.load(chosen.skeleton).dataobj) > 0, chosen.folder)
        cases.append(("skeleton", 1))
    cases += [(name, 1) for name in chosen.peers.split(",") if name]
    each: dict[tuple[str, int], float] = {}
    print("| | threads | s per permutation | ratio | peak GB |\n|---|---:|---:|---:|---:|")
    for way, threads in cases:
        if way == "mrclusterstats" and shutil.which(way) is None:
            print(f"| {way} | | not installed | | |")
            continue
        short, long = few.get(way, (20, 20 + chosen.permutations))
        measure(way, chosen.folder, short, threads)  # compiles, and fills the file cache
        first, _ = measure(way, chosen.folder, short, threads, by_cpu=chosen.cpu)
        second, peak = measure(way, chosen.folder, long, threads, by_cpu=chosen.cpu)
        each[way, threads] = (second - first) / (long - short)
        if way == "mrclusterstats":
            each[way, threads] *= 2  # both directions
        ratio = each[way, threads] / each[cases[0]]
        row = f"| {way} | {threads} | {each[way, threads]:.4f} | {ratio:.2f} | {peak:.2f} |"
        print(row, flush=True)


if __name__ == "__main__":
    main()
