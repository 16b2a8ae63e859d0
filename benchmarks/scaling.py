"""Time and memory of small participants against their number and the number of processes.

Run as ``python benchmarks/scaling.py [--numbers 1 4 16] [--processes 1 2]``. Each participant has a
T1w of 4 mm, made once and copied under other names. Prints a markdown table: wall and CPU time per
participant, peak memory of all processes, and how many threads of the steps were at work at most in
99 of 100 looks. CPU time tells what a participant costs also where other work slows the wall clock.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

CHEAP = (
    *("--pipelines", "anatomical", "--anatomical-syn-iterations", "20", "0", "0"),
    *("--anatomical-template-registration-mm", "4", "--anatomical-template-resolution-mm", "4"),
    *("--anatomical-brain-pitches-deg", "0", "--anatomical-brain-scales", "0.9"),
    *("--anatomical-brain-starts", "1"),
)


def make_cohort(raw: Path, number: int) -> None:
    """Write one head, and copies of it under the names of others."""
    words = ["--fast", "1", "--seed", "5", "--modalities", "anat", "--t1w-mm", "4"]
    command = [sys.executable, "-m", "bids_alsmri.phantom", str(raw), *words]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (raw / "participants.tsv").unlink()
    for label in (f"{index:02d}" for index in range(2, number + 1)):
        shutil.copytree(raw / "sub-01", raw / f"sub-{label}")
        for path in list((raw / f"sub-{label}").rglob("sub-01*")):
            path.rename(path.with_name(path.name.replace("sub-01", f"sub-{label}")))


def look(pid: int, cpu: dict[int, float]) -> tuple[int, int]:
    """Resident bytes of a process and its children, and threads at work in the children.

    `cpu` takes the CPU time of each so far, in s: not all are waited for by the first.
    """
    size = n_working = 0
    try:
        first = psutil.Process(pid)
        children = first.children(recursive=True)
        size += first.memory_info().rss
        cpu[pid] = sum(first.cpu_times()[:2])
    except psutil.NoSuchProcess:
        return 0, 0
    for child in children:
        try:
            size += child.memory_info().rss
            cpu[child.pid] = sum(child.cpu_times()[:2])
            for path in Path(f"/proc/{child.pid}/task").glob("*/stat"):
                n_working += path.read_text().rpartition(")")[2].split()[0] == "R"
        except (psutil.NoSuchProcess, OSError):
            continue
    return size, n_working


def run(raw: Path, out: Path, n_procs: int) -> tuple[float, float, float, float]:
    """Wall s, CPU s, peak GB, and threads at work in 99 of 100 looks."""
    command = [
        *(sys.executable, "-m", "bids_alsmri", str(raw), str(out), "participant", *CHEAP),
        *("-w", f"{out}_work", "--n-procs", str(n_procs)),
    ]
    cpu: dict[int, float] = {}
    start = time.perf_counter()
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    looks = []
    while process.poll() is None:
        looks.append(look(process.pid, cpu))
        time.sleep(0.2)
    if process.returncode != 0:
        raise SystemExit(f"the app ended with {process.returncode}")
    seconds = time.perf_counter() - start
    sizes, threads = np.array(looks).T
    return seconds, sum(cpu.values()), sizes.max() / 1e9, float(np.quantile(threads, 0.99))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--numbers", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    chosen = parser.parse_args()
    print("| participants | processes | wall s each | CPU s each | peak GB | threads |")
    print("|---:|---:|---:|---:|---:|---:|")
    for number in chosen.numbers:
        with tempfile.TemporaryDirectory() as folder:
            raw = Path(folder) / "raw"
            make_cohort(raw, number)
            for n_procs in chosen.processes:
                wall, cpu, peak, threads = run(raw, Path(folder) / f"out{n_procs}", n_procs)
                row = f"{number} | {n_procs} | {wall / number:.0f} | {cpu / number:.0f}"
                print(f"| {row} | {peak:.1f} | {threads:.0f} |", flush=True)


if __name__ == "__main__":
    main()
