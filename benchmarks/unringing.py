"""Time of the unringing against dipy and MRtrix, as a markdown table.

Run as ``OMP_NUM_THREADS=1 python benchmarks/unringing.py``. Times are CPU seconds of one thread per
volume, the least of several interleaved repeats. All methods see the same float32 series in memory
(dipy its first volume only), except ``mrdegibbs``, which reads and writes a file: the time of
``mrconvert`` on it is taken off.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from bids_alsmri.numerics.unringing import remove_ringing

N_POINTS = 3
SLICE_AXIS = 2
DIPY_VOLUMES = 1  # its time is proportional to their number

Single = NDArray[np.float32]


def real_case(folder: Path, n_volumes: int) -> Single:
    """Volumes of a brain of 72 x 72 x 39 voxels."""
    path = folder / "bids_brain" / "sub-01" / "dwi" / "sub-01_dir-AP_dwi.nii.gz"
    return np.asarray(nib.load(path).dataobj[..., :n_volumes], dtype=np.float32)


def simulated_case(n_volumes: int) -> Single:
    """Cylinders whose k-space is cut to 96 x 96, with Rician noise at signal-to-noise ratio 25."""
    rng = np.random.default_rng(5)
    shape, fine = (96, 96, 60), 4
    x, y = np.indices((shape[0] * fine, shape[1] * fine)) / fine
    images = np.empty((*shape, n_volumes), dtype=np.float32)
    for z in range(shape[2]):
        radius = 40.0 * np.sqrt(1 - ((z - 29.3) / 33) ** 2)
        inside = np.hypot(x - 47.2, y - 48.3)
        truth = 500.0 * (inside < radius) + 300.0 * (inside < 0.4 * radius)
        spectrum = np.fft.fftshift(np.fft.fft2(truth))
        kept = tuple(slice(n * (fine - 1) // 2, n * (fine + 1) // 2) for n in shape[:2])
        image = np.fft.ifft2(np.fft.ifftshift(spectrum[kept])) / fine**2
        noise = rng.normal(0, 20.0, (2, *shape[:2], n_volumes))
        images[:, :, z] = abs(image[..., np.newaxis] + noise[0] + 1j * noise[1])
    return images


def cpu_seconds(task: Callable[[], object]) -> float:
    """User and system time of this process and the children that ended meanwhile."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.process_time()
    task()
    own = time.process_time() - start
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return own + ended.ru_utime - children.ru_utime + ended.ru_stime - children.ru_stime


def _own(data: NDArray[np.floating]) -> NDArray[np.floating]:
    return remove_ringing(data, slice_axis=SLICE_AXIS, n_points=N_POINTS, threads=1)


def _dipy(data: NDArray[np.floating]) -> NDArray[np.floating]:
    from dipy.denoise.gibbs import gibbs_removal

    return gibbs_removal(data, slice_axis=SLICE_AXIS, n_points=N_POINTS, inplace=False)


def _mrtrix(command: str, source: Path, target: Path) -> None:
    subprocess.run([command, "-quiet", "-force", "-nthreads", "0", source, target], check=True)


def tasks_of(data: Single, folder: Path) -> dict[str, Callable[[], object]]:
    """Every method on the series, by its name in the table."""
    single = data[..., :DIPY_VOLUMES]
    double = single.astype(np.float64)
    tasks: dict[str, Callable[[], object]] = {
        "own": lambda: _own(data),
        "dipy float64": lambda: _dipy(double),
        "dipy float32": lambda: _dipy(single),
    }
    if shutil.which("mrdegibbs"):
        source, target = folder / "dwi.nii", folder / "clean.nii"
        nib.save(nib.Nifti1Image(data, np.eye(4)), source)
        for command in ("mrdegibbs", "mrconvert"):
            tasks[command] = lambda command=command: _mrtrix(command, source, target)
    return tasks


def least_times(tasks: dict[str, Callable[[], object]], n_repeats: int) -> dict[str, float]:
    """CPU seconds of each task, the least of interleaved repeats."""
    times = dict.fromkeys(tasks, np.inf)
    for _ in range(n_repeats):
        for name, task in tasks.items():
            times[name] = min(times[name], cpu_seconds(task))
    overhead = times.pop("mrconvert", 0.0)
    return {
        name: seconds - overhead if name == "mrdegibbs" else seconds
        for name, seconds in times.items()
    }


def main() -> None:
    """Print the table, and how far the result is from dipy's."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(os.environ.get("ALSMRI_TEST_DATA", "../shared/data"))
    parser.add_argument("--data", type=Path, default=default, help="folder of real images")
    parser.add_argument("--volumes", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    cases = {"simulated": simulated_case(arguments.volumes)}
    if (arguments.data / "bids_brain").is_dir():
        cases = {"real": real_case(arguments.data, arguments.volumes), **cases}
    _own(np.ones((8, 9, 2), dtype=np.float32))  # compiles
    print("| series | method | CPU s per volume | x own |\n|---|---|---:|---:|")
    differences = []
    with tempfile.TemporaryDirectory() as folder:
        for name, data in cases.items():
            times = least_times(tasks_of(data, Path(folder)), arguments.repeats)
            size = " x ".join(map(str, data.shape))
            each = {
                method: seconds / (DIPY_VOLUMES if method.startswith("dipy") else data.shape[3])
                for method, seconds in times.items()
            }
            for method, seconds in each.items():
                print(
                    f"| {name}, {size} | {method} | {seconds:.2f} | {seconds / each['own']:.1f} |"
                )
            double = data[..., :DIPY_VOLUMES].astype(np.float64)
            change = abs(_own(double) - _dipy(double)).max() / data.max()
            differences.append(f"{name} {change:.0e}")
    print(f"\nLargest difference to dipy float64, of the largest value: {', '.join(differences)}.")


if __name__ == "__main__":
    main()
