"""What the muscle pipeline gives back of the truth, and what it costs.

Run as ``python benchmarks/muscle.py FOLDER [--people 2] [--t2w-mm 3] [--parts NAME ...]``. Bodies
are simulated by `bids_alsmri_phantom` and processed by the command line as a user would, with the
true labels. FOLDER keeps simulations and results; what is there is not made again. Parts, each of
which prints a markdown table:

relative: relative T2 signal under station gain alone, and under a receive field of 20 %, in the
    best and in the paper's mode
adc: apparent diffusion coefficient at several ratios of signal to noise, in both modes
visits: change over three visits against what was planted
cost: time and memory of one participant with all stations (take it on a quiet machine)

Errors are those of muscles, in per cent of the truth: median, and the 95th percentile of their
size, over muscles of at least 50 eroded voxels. Fat in a muscle is a part of the truth.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import psutil

LEGS = ("--muscle-low-mm", "-860", "--muscle-high-mm", "-60", "--muscle-n-t2w", "2",
        "--muscle-n-dwi", "2", "--no-muscle-legs", "--no-muscle-hands")  # fmt: skip
EVEN = ("--muscle-bias", "0", "--muscle-max-shift-mm", "0", "--muscle-fat-residual", "0")
FEWEST_VOXELS = 50


def simulated(folder: Path, *words: str) -> Path:
    """Dataset, simulated where it is not there yet."""
    raw = folder / "raw"
    if not raw.is_dir():
        call = [sys.executable, "-m", "bids_alsmri.phantom", str(raw), "--modalities", "muscle"]
        subprocess.run([*call, *words], check=True)
    return raw


def processed(raw: Path, out: Path, *words: str) -> float:
    """Process a dataset with the true labels, and tell the seconds; 0 where it was done before."""
    if out.is_dir():
        return 0.0
    truth = raw / "derivatives" / "phantom"
    call = [sys.executable, "-m", "bids_alsmri", str(raw), str(out), "participant"]
    start = time.monotonic()
    subprocess.run(
        [*call, "--pipelines", "muscle", "--derivatives", f"truth={truth}",
         "-w", str(out.with_name(out.name + "_work")), *words],
        check=True,
    )  # fmt: skip
    return time.monotonic() - start


def compared(raw: Path, out: Path, measure: str) -> pd.DataFrame:
    """Found and true values of all muscles, participants and visits."""
    parts = []
    for path in sorted(out.glob("sub-*/**/*_desc-muscles_stats.tsv")):
        place = path.parent.relative_to(out)
        (true_path,) = (raw / "derivatives" / "phantom" / place).glob("*desc-tissue_stats.tsv")
        found = pd.read_csv(path, sep="\t", keep_default_na=False)
        found = found[found["measure"] == measure].copy()
        truth = pd.read_csv(true_path, sep="\t", keep_default_na=False)
        truth["side"] = truth["side"].replace("midline", "n/a")
        fat = truth["fat_share"].astype(float)
        truth["relative_t2_eroded"] = truth["relative_t2"].astype(float) * (1 - fat) + fat
        truth["true"] = truth["adc" if measure.startswith("adc") else "relative_t2_eroded"]
        both = found.merge(
            truth[["name", "side", "true", "fat_share"]],
            left_on=["region", "side"],
            right_on=["name", "side"],
        )
        parts.append(both.assign(scan=str(place)))
    table = pd.concat(parts)
    for column in ("value", "true", "n", "fat_share"):
        table[column] = table[column].astype(float)
    return table[table["n"] >= FEWEST_VOXELS]


def errors(table: pd.DataFrame) -> str:
    """Median error and 95th percentile of its size, in per cent."""
    percent = 100 * (table["value"] / table["true"] - 1)
    return f"{percent.median():+.1f} | {np.percentile(percent.abs(), 95):.1f} | {len(percent)}"


def relative(folder: Path, people: int, t2w_mm: float) -> None:
    """Print errors of relative T2 signal."""
    sizes = ("--muscle-t2w-mm", str(t2w_mm), "--muscle-dwi-mm", "4", "--controls", str(people))
    print("| receive field | mode | median error (%) | 95 % of errors below (%) | muscles |")
    print("|---|---|---|---|---|")
    for bias in ("0", "0.2"):
        raw = simulated(folder / f"bias_{bias}", *LEGS, *EVEN[2:], "--muscle-bias", bias, *sizes)
        for mode in ("best", "paper"):
            out = raw.with_name(mode)
            processed(raw, out, "--mode", mode)
            table = compared(raw, out, "relative_t2_eroded")
            print(f"| {100 * float(bias):.0f} % | {mode} | {errors(table)} |")


def adc(folder: Path, people: int, t2w_mm: float) -> None:
    """Print errors of the diffusion coefficient."""
    sizes = ("--muscle-n-t2w", "0", "--muscle-dwi-mm", "4", "--controls", str(people))
    print("| SNR at b=0 | mode | median error (%) | 95 % of errors below (%) | muscles |")
    print("|---|---|---|---|---|")
    for snr in ("40", "20", "10", "7"):
        raw = simulated(folder / f"snr_{snr}", *LEGS, *EVEN, *sizes, "--muscle-dwi-snr", snr)
        for mode in ("best", "paper"):
            out = raw.with_name(mode)
            processed(raw, out, "--mode", mode)
            print(f"| {snr} | {mode} | {errors(compared(raw, out, 'adc'))} |")


def visits(folder: Path, people: int, t2w_mm: float) -> None:
    """Print the change from the first visit, found and planted."""
    sizes = ("--muscle-t2w-mm", str(t2w_mm), "--muscle-n-dwi", "0", "--fast", str(people))
    raw = simulated(folder / "visits", *LEGS, *sizes, "--sessions", "m00", "m04", "m12")
    processed(raw, raw.with_name("best"))
    table = compared(raw, raw.with_name("best"), "relative_t2_eroded")
    table[["sub", "ses"]] = table["scan"].str.extract(r"(sub-\w+)/ses-(\w+)/")
    wide = table.pivot_table(index=["sub", "region", "side"], columns="ses")
    print("| visit | planted change (%) | found change (%) | largest difference (points) |")
    print("|---|---|---|---|")
    for visit in ("m04", "m12"):
        change = {
            name: 100 * (wide[name][visit] / wide[name]["m00"] - 1) for name in ("true", "value")
        }
        gap = (change["value"] - change["true"]).abs().max()
        means = " | ".join(f"{change[name].mean():+.1f}" for name in ("true", "value"))
        print(f"| {visit} | {means} | {gap:.1f} |")


def cost(folder: Path, people: int, t2w_mm: float) -> None:
    """Print time and memory of a participant with all stations."""
    raw = simulated(folder / "cost", "--controls", "1", "--muscle-t2w-mm", str(t2w_mm))
    out = raw.with_name("best")
    if out.is_dir():
        print("done before; give another folder")
        return
    truth = raw / "derivatives" / "phantom"
    call = [sys.executable, "-m", "bids_alsmri", str(raw), str(out), "participant"]
    start, peak = time.monotonic(), 0
    run = subprocess.Popen(
        [*call, "--pipelines", "muscle", "--derivatives", f"truth={truth}", "--n-procs", "2"]
    )
    whole = psutil.Process(run.pid)
    while run.poll() is None:
        try:
            family = [whole, *whole.children(recursive=True)]
            peak = max(peak, sum(process.memory_info().rss for process in family))
        except psutil.Error:
            pass  # one of them has just ended
        time.sleep(0.5)
    minutes = (time.monotonic() - start) / 60
    print(f"{minutes:.1f} minutes with two processes, {peak / 1e9:.1f} GB at most")


PARTS: dict[str, Callable[[Path, int, float], None]] = {
    "relative": relative,
    "adc": adc,
    "visits": visits,
    "cost": cost,
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--people", type=int, default=2, help="people per scene")
    parser.add_argument("--t2w-mm", type=float, default=3.0, help="voxel edge of T2w stations")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=["relative", "adc", "visits"])
    arguments = parser.parse_args(argv)
    for name in arguments.parts:
        print(f"\n## {name}\n", flush=True)
        PARTS[name](arguments.folder / name, arguments.people, arguments.t2w_mm)


if __name__ == "__main__":
    main()
