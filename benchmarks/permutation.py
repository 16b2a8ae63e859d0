"""Time and memory of permutation inference with TFCE, against other packages in one run.

Run as ``python benchmarks/permutation.py DIR [--permutations 2000]
[--peers nilearn,mrclusterstats]``, where DIR was written by `make_perm53.py` (53 participants,
235,375 voxels). Prints a markdown table: seconds per permutation of both directions, with the time
to start subtracted (two runs of different length), ratios to one own thread, and peak memory.
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

N_FIRST = 29


def data_of(folder: Path) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Participants by voxels, and the mask."""
    mask = np.asarray(nib.load(folder / "mask.nii.gz").dataobj) > 0
    series = np.asarray(nib.load(folder / "data4d.nii.gz").dataobj)
    return series[mask].T.astype(np.float64), mask


def run_own(folder: Path, n: int, threads: int) -> None:
    """Permutations as the package does them."""
    from bids_alsmri.numerics.linear import partition_design, residuals, two_groups
    from bids_alsmri.numerics.permutation import Exchange, Relabellings, null_statistics
    from bids_alsmri.numerics.tfce import image_neighbourhood

    data, mask = data_of(folder)
    split = partition_design(*two_groups(np.arange(len(data)) < N_FIRST))
    left = residuals(data, split)
    del data
    relabellings = Relabellings(split.effect, Exchange(), 10_000, seed=1)
    near = image_neighbourhood(mask, 6)
    null_statistics(
        left,
        split,
        relabellings,
        range(n),
        near,
        height_power=2.0,
        extent_power=0.5,
        n_threads=threads,
    )


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
    "nilearn": run_nilearn,
    "mrclusterstats": run_mrtrix,
}


def measure(way: str, folder: Path, n: int, threads: int) -> tuple[float, float]:
    """Wall time, in s, and peak resident memory, in GB, in a process of its own."""
    words = [way, str(folder), str(n), str(threads)]
    start = time.perf_counter()
    single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    # compiling takes longer than the permutations; kept kernels leave it to the first run
    kept = {"NUMBA_CACHE_DIR": str(folder / "numba")}
    process = psutil.Popen(
        [sys.executable, __file__, "--child", *words], env={**os.environ, **single, **kept}
    )
    peak = 0
    while process.poll() is None:
        try:
            family = [process, *process.children(recursive=True)]
            peak = max(peak, sum(one.memory_info().rss for one in family))
        except psutil.NoSuchProcess:
            pass
        time.sleep(0.1)
    if process.returncode != 0:
        raise SystemExit(f"{way} ended with {process.returncode}")
    return time.perf_counter() - start, peak / 1e9


def main() -> None:
    """Run each way twice, print a table."""
    if sys.argv[1:2] == ["--child"]:
        way, folder, n, threads = sys.argv[2:]
        WAYS[way](Path(folder), int(n), int(threads))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--permutations", type=int, default=2000)
    parser.add_argument("--peers", default="nilearn,mrclusterstats")
    chosen = parser.parse_args()
    few = {"own": (20, 20 + chosen.permutations), "nilearn": (1, 9), "mrclusterstats": (2, 12)}
    cases = [("own", 1), ("own", 2)]
    cases += [(name, 1) for name in chosen.peers.split(",") if name]
    each: dict[tuple[str, int], float] = {}
    print("| | threads | s per permutation | ratio | peak GB |\n|---|---:|---:|---:|---:|")
    for way, threads in cases:
        if way == "mrclusterstats" and shutil.which(way) is None:
            print(f"| {way} | | not installed | | |")
            continue
        short, long = few[way]
        measure(way, chosen.folder, short, threads)  # compiles, and fills the file cache
        first, _ = measure(way, chosen.folder, short, threads)
        second, peak = measure(way, chosen.folder, long, threads)
        each[way, threads] = (second - first) / (long - short)
        if way == "mrclusterstats":
            each[way, threads] *= 2  # both directions
        ratio = each[way, threads] / each["own", 1]
        print(f"| {way} | {threads} | {each[way, threads]:.4f} | {ratio:.2f} | {peak:.2f} |")


if __name__ == "__main__":
    main()
