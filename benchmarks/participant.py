"""Wall time and peak memory of one participant, per step, on a phantom.

Run as ``python benchmarks/participant.py [--mode paper] [--dwi-mm 2] [--n-directions 64]
[--t1w-mm 1] [--n-procs 2] [--modalities anat,cortex7t] [--first anatomical] [--keep FOLDER]``.
Prints a markdown table of the steps, the share of the time outside registration, denoising and
fitting, the peak memory of all processes together, and the time of a second run, which finds
everything done. With ``--first`` those pipelines run before, and only what comes after them is
measured. With ``--keep`` the phantom (``FOLDER/raw``, used again if it is there) and the results
(``FOLDER/MODE``) stay, for `benchmarks/recovery.py`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

# steps whose time cannot be saved by better plumbing
DEAR = (
    *("register", "extract_brain", "correct_bias", "segment_tissues", "denoise", "unring"),
    *("correct_motion", "fit_tensor", "template_maps", "start_to_anatomy", "register_to_anatomy"),
    *("resample", "to_template"),  # transforms applied
)


def simulate(folder: Path, chosen: argparse.Namespace) -> None:
    """Write a cohort of one."""
    command = [
        *(sys.executable, "-m", "bids_alsmri.phantom", str(folder), "--participants", "1"),
        *("--seed", "1", "--t1w-mm", str(chosen.t1w_mm), "--dwi-mm", str(chosen.dwi_mm)),
        *("--n-directions", str(chosen.n_directions)),
    ]
    if chosen.modalities:
        command += ["--modalities", chosen.modalities]
    subprocess.run(command, check=True)


def run(folder: Path, chosen: argparse.Namespace, *words: str) -> tuple[float, float]:
    """Wall time, in s, and peak resident memory of all processes, in GB."""
    command = [
        *(sys.executable, "-m", "bids_alsmri", str(folder / "raw"), str(folder / chosen.mode)),
        *("participant", "-w", str(folder / f"{chosen.mode}_work"), "--mode", chosen.mode),
        *("--n-procs", str(chosen.n_procs), *words),
    ]
    start = time.perf_counter()
    process = psutil.Popen(command)
    peak = 0
    while process.poll() is None:
        peak = max(peak, resident_bytes(process))
        time.sleep(0.5)
    if process.returncode != 0:
        raise SystemExit(f"the app ended with {process.returncode}")
    return time.perf_counter() - start, peak / 1e9


def resident_bytes(process: psutil.Process) -> int:
    """Resident memory of a process and its children; shared pages count for each."""
    total = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            total += one.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def step_times(output: Path) -> dict[str, float]:
    """Wall time of each step, in s."""
    times: dict[str, float] = {}
    for path in output.glob("logs/*/seconds.json"):
        for scan, steps in json.loads(path.read_text()).items():
            pipeline = scan.split()[-1]
            for name, seconds in steps.items():
                times[f"{pipeline}: {name.split(f'_{pipeline}_')[-1]}"] = seconds
    return times


def main() -> None:
    """Simulate, run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mode", default="paper", choices=["best", "paper"])
    parser.add_argument("--t1w-mm", type=float, default=1.0)
    parser.add_argument("--dwi-mm", type=float, default=2.0)
    parser.add_argument("--n-directions", type=int, default=64)
    parser.add_argument("--n-procs", type=int, default=2)
    parser.add_argument("--modalities", help="of the phantom, by commas")
    parser.add_argument("--first", nargs="+", metavar="PIPELINE")
    parser.add_argument("--keep", type=Path, metavar="FOLDER")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = chosen.keep or Path(name)
        if not (folder / "raw").exists():
            simulate(folder / "raw", chosen)
        if chosen.first:
            run(folder, chosen, "--pipelines", *chosen.first)
        before = step_times(folder / chosen.mode)
        wall_s, peak_gb = run(folder, chosen)
        found = step_times(folder / chosen.mode)
        times = {step: seconds for step, seconds in found.items() if step not in before}
        again_s, _ = run(folder, chosen)
    print("| step | s |\n|---|---:|")
    for step, seconds in sorted(times.items(), key=lambda item: -item[1]):
        if seconds >= 1:
            print(f"| {step} | {seconds:.0f} |")
    dear = sum(s for step, s in times.items() if step.split(": ")[1] in DEAR)
    total = sum(times.values())
    print(f"\nwall {wall_s:.0f} s, steps {total:.0f} s, peak {peak_gb:.2f} GB")
    print(f"second run {again_s:.1f} s")
    print(f"outside registration, denoising, correction and fitting: {1 - dear / total:.1%}")


if __name__ == "__main__":
    main()
