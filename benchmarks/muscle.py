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
field: relative T2 signal of whole bodies under a receive field of 20 % with the field as the best
    mode finds it, with the true field, and as it is in the paper's mode; without the command line
fat: fat fraction of T1w of legs in points, and agreement of Mercuri's grades with the pattern
fusion: time, memory and overlap of multi-atlas segmentation of thighs of 320 x 320 x 31 voxels
    from five labelled people (take it on a quiet machine)

Errors are those of muscles, in per cent of the truth: median, and the 95th percentile of their
size, over muscles of at least 50 eroded voxels. Fat in a muscle is a part of the truth.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import psutil
from scipy import ndimage
from statsmodels.stats.inter_rater import cohens_kappa

from bids_alsmri.numerics.anatomy import dice
from bids_alsmri.numerics.relative_signal import erode_labels
from bids_alsmri.numerics.tissue_field import tissue_field
from bids_alsmri.phantom import muscle as simulated_muscle
from bids_alsmri.phantom import records as phantom
from bids_alsmri.phantom.cohort import draw_cohort
from bids_alsmri.phantom.muscle_scene import (
    CORTEX,
    FAT,
    MARROW,
    MUSCLE,
    Body,
    Muscle,
    Sector,
    make_body,
    render,
)
from bids_alsmri.pipelines.muscle.pipeline import MuscleSettings
from bids_alsmri.pipelines.muscle.vocabulary import read_vocabulary

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
        truths = (raw / "derivatives" / "phantom" / place.parent).glob("*/*desc-tissue_stats.tsv")
        (true_path,) = truths
        found = pd.read_csv(path, sep="\t", keep_default_na=False)
        found = found[found["measure"] == measure].copy()
        truth = pd.read_csv(true_path, sep="\t", keep_default_na=False)
        truth["side"] = truth["side"].replace("midline", "n/a")
        fat = truth["fat_share"].astype(float)
        truth["relative_t2_eroded"] = truth["relative_t2"].astype(float) * (1 - fat) + fat
        truth["true"] = truth["adc" if measure.startswith("adc") else "relative_t2_eroded"]
        both = found.merge(
            truth[["name", "side", "true", "fat_share", "pattern"]],
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
    both = ["true", "value"]
    wide = table.pivot_table(both, index=["sub", "region", "side"], columns="ses")
    print("| visit | planted change (%) | found change (%) | largest difference (points) |")
    print("|---|---|---|---|")
    for visit in ("m04", "m12"):
        change = {name: 100 * (wide[name][visit] / wide[name]["m00"] - 1) for name in both}
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
    seconds, peak = watched(
        [*call, "--pipelines", "muscle", "--derivatives", f"truth={truth}", "--n-procs", "2"]
    )
    minutes = seconds / 60
    print(f"{minutes:.1f} minutes with two processes, {peak / 1e9:.1f} GB at most")


def field(folder: Path, people: int, t2w_mm: float) -> None:
    """Print errors of relative T2 signal by how the receive field is taken off."""
    del folder
    cfg = MuscleSettings()
    errors_by_way: dict[str, list[float]] = {"best": [], "true field": [], "paper": []}
    kinds = ("hc", "fast") * people
    for number, person in enumerate(draw_cohort(kinds[: 2 * people], 21)):
        own = phantom.MuscleSettings(t2w_mm=t2w_mm, bias=0.2)
        body = simulated_muscle.person(person, phantom.PhantomSettings(muscle=own))
        for chunk, z in enumerate(simulated_muscle.stations(own, own.n_t2w)):
            rng = np.random.default_rng([number, chunk])
            seen = simulated_muscle.scan_with_truth(body, own, z, rng)
            edges_mm = np.linalg.norm(seen.affine[:3, :3], axis=0)
            found = tissue_field(
                seen.image, seen.labels, edges_mm, order=cfg.bias_order, cell_mm=cfg.bias_cell_mm
            )
            eroded = erode_labels(seen.labels)
            for way, divisor in (("best", found), ("true field", seen.field), ("paper", 1.0)):
                even = seen.image / divisor
                bone = even[seen.marrow].mean()
                errors_by_way[way] += [
                    100 * (even[eroded == m.index].mean() / bone / signal - 1)
                    for m in body.muscles
                    if np.count_nonzero(eroded == m.index) >= FEWEST_VOXELS
                    for signal in [m.relative_t2 * (1 - m.fat_share) + m.fat_share]
                ]
    print("| field | median error (%) | 95 % of errors below (%) | largest (%) | muscles |")
    print("|---|---:|---:|---:|---:|")
    for way, percent in errors_by_way.items():
        size = np.abs(percent)
        print(
            f"| {way} | {np.median(percent):+.1f} | {np.percentile(size, 95):.1f} | "
            f"{size.max():.1f} | {len(percent)} |"
        )


def fat(folder: Path, people: int, t2w_mm: float) -> None:
    """Print errors of the fat fraction of legs, and agreement of grades."""
    del t2w_mm
    words = ("--muscle-n-t2w", "0", "--muscle-n-dwi", "0", "--no-muscle-hands")
    words += ("--fast", str(people), "--slow", str(people), "--controls", str(people))
    patterns = ("none", "streaks", "patches", "confluent")
    print(
        "| voxels mm | median error (points) | 95 % of errors below | largest | "
        "weighted kappa of grades | muscles |\n|---|---:|---:|---:|---:|---:|"
    )
    for plane_mm, slice_mm in (("1.5", "6"), ("3", "10"), ("5.25", "30")):
        size = ("--muscle-legs-mm", plane_mm, "--muscle-legs-slice-mm", slice_mm)
        raw = simulated(folder / f"legs_{plane_mm}", *words, *size)
        processed(raw, raw.with_name("best"))
        found = compared(raw, raw.with_name("best"), "fat_fraction")
        points = 100 * (found["value"] - found["fat_share"])
        grades = compared(raw, raw.with_name("best"), "mercuri")
        true = grades["pattern"].map(patterns.index)
        counts = np.zeros((4, 4), int)
        np.add.at(counts, (true.to_numpy(int), grades["value"].to_numpy(int)), 1)
        kappa = cohens_kappa(counts, wt="linear").kappa
        print(
            f"| {plane_mm} x {plane_mm} x {slice_mm} | {points.median():+.1f} | "
            f"{np.percentile(points.abs(), 95):.1f} | {points.abs().max():.1f} | {kappa:.2f} | "
            f"{len(points)} |"
        )


# muscles of a thigh: angles from the front outwards, and radii over the fascia's
_THIGH = (
    ("rectus femoris", (-25.0, 25.0), (0.62, 0.97)),
    ("vastus lateralis", (28.0, 105.0), (0.32, 0.97)),
    ("vastus medialis", (-85.0, -28.0), (0.45, 0.97)),
    ("vastus intermedius", (-60.0, 25.0), (0.26, 0.59)),
    ("biceps femoris long head", (108.0, 150.0), (0.32, 0.97)),
    ("semitendinosus", (153.0, 195.0), (0.55, 0.97)),
    ("semimembranosus", (198.0, 228.0), (0.45, 0.97)),
    ("adductor magnus", (153.0, 250.0), (0.28, 0.52)),
    ("gracilis", (231.0, 250.0), (0.55, 0.97)),
    ("sartorius", (253.0, 272.0), (0.55, 0.97)),
    ("adductor longus", (253.0, 295.0), (0.28, 0.52)),
)
_SHAPE, _VOXEL_MM = (320, 320, 31), (1.25, 1.25, 6.0)
_T1W = {FAT: 1.0, MUSCLE: 0.33, CORTEX: 0.03, MARROW: 0.95}


def thighs(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """T1w of the thighs of a person, labels of eleven muscles of each, and the affine."""
    rng = np.random.default_rng(seed)
    vocabulary = read_vocabulary(None)
    parts, bones, muscles = [], [], []
    for side, word in ((-1, "left"), (1, "right")):
        base = make_body(rng, spread=0.06)
        (tube,) = (t for t in base.parts if t.side == side and t.z_mm == (-480.0, -60.0))
        tube = replace(tube, inside=FAT)
        parts.append(tube)
        bones += [b for b in base.bones if b.side == side and b.z_mm == (-475.0, -60.0)]
        for name, (low, high), radius in _THIGH:
            middle = (low + high) / 2 + rng.normal(0, 3)
            half = (high - low) / 2 * min(rng.normal(1, 0.08), 1.02)
            region = vocabulary.find(f"{word} {name}")
            assert region is not None
            pattern, share = (("none", 0.0), ("streaks", 0.05), ("patches", 0.2))[rng.integers(3)]
            shape = Sector(tube, (-460.0, -110.0), (middle - half, middle + half), radius)
            muscles.append(
                Muscle(region.index, name, word, shape, pattern=pattern, fat_share=share,
                       seed=int(rng.integers(1_000_000)))
            )  # fmt: skip
    axes = [
        (np.arange(2 * n) + 0.5) / 2 * v - n * v / 2
        for n, v in zip(_SHAPE[:2], _VOXEL_MM[:2], strict=True)
    ]
    axes.append((np.arange(_SHAPE[2]) - (_SHAPE[2] - 1) / 2) * _VOXEL_MM[2] - 280.0)
    seen = render(Body(tuple(parts), tuple(bones), tuple(muscles)), *axes)
    table = np.zeros(8, np.float32)
    table[list(_T1W)] = list(_T1W.values())
    image = table[seen.tissue]
    # everybody has another shape: 5 mm across, alike over some centimetres
    places = np.indices(image.shape, dtype=np.float32)
    for axis in range(2):
        push = ndimage.gaussian_filter(rng.standard_normal((24, 24, 8)), (2.0, 2.0, 1.5))
        push *= 5.0 / push.std()
        scale = np.array(image.shape) / push.shape
        places[axis] += ndimage.zoom(push, scale, order=1) / (_VOXEL_MM[axis] / 2)
    image = ndimage.map_coordinates(image, places, order=1, mode="nearest")
    labels = ndimage.map_coordinates(seen.label, places, order=0, mode="nearest")[::2, ::2]
    image = image.reshape(_SHAPE[0], 2, _SHAPE[1], 2, _SHAPE[2]).mean(axis=(1, 3))
    noisy = np.hypot(*(part + rng.normal(0, 0.03, _SHAPE) for part in (image, 0.0)))
    affine = np.diag([*_VOXEL_MM, 1.0])
    affine[:3, 3] = -(np.array(_SHAPE) - 1) / 2 * np.array(_VOXEL_MM)
    return np.round(800 * noisy).astype(np.int16), labels.astype(np.int16), affine


def fusion(folder: Path, people: int, t2w_mm: float) -> None:
    """Print time, memory and overlap of labels from five other people."""
    del people, t2w_mm
    atlas_dir = folder / "atlases"
    raw = folder / "raw" / "sub-0" / "anat"
    for place in (atlas_dir, raw):
        place.mkdir(parents=True, exist_ok=True)
    (raw.parents[1] / "dataset_description.json").write_text(
        '{"Name": "thighs", "BIDSVersion": "1.10.0"}'
    )
    for seed in range(6):
        image, labels, affine = thighs(seed)
        stem = f"{raw}/sub-0" if seed == 0 else f"{atlas_dir}/sub-person{seed}"
        nib.save(nib.Nifti1Image(image, affine), f"{stem}_acq-legs_T1w.nii.gz")
        if seed:
            path = f"{stem}_acq-legs_desc-muscles_dseg.nii.gz"
            nib.save(nib.Nifti1Image(labels, affine), path)
        else:
            truth = labels
    out = folder / "out"
    seconds, peak = watched(
        [sys.executable, "-m", "bids_alsmri", str(raw.parents[1]), str(out), "participant",
         "--pipelines", "muscle", "--muscle-atlas-dir", str(atlas_dir), "--n-procs", "2",
         "-w", str(folder / "work")]
    )  # fmt: skip
    (path,) = out.glob("sub-0/anat/*acq-legs_desc-muscles_dseg.nii.gz")
    found = np.asarray(nib.load(path).dataobj)
    overlaps = [dice(truth == n, found == n) for n in np.unique(truth[truth > 0])]
    print(
        f"{seconds / 60:.1f} minutes with two processes, {peak / 1e9:.1f} GB at most; Dice "
        f"{np.mean(overlaps):.3f} on average, {np.min(overlaps):.3f} at least, of "
        f"{len(overlaps)} muscles"
    )


def watched(call: Sequence[str]) -> tuple[float, int]:
    """Seconds of a command, and most memory of it and its children in bytes."""
    start, peak = time.monotonic(), 0
    run = subprocess.Popen(call)
    whole = psutil.Process(run.pid)
    while run.poll() is None:
        try:
            family = [whole, *whole.children(recursive=True)]
            peak = max(peak, sum(process.memory_info().rss for process in family))
        except psutil.Error:
            pass  # one of them has just ended
        time.sleep(0.5)
    if run.returncode:
        raise subprocess.CalledProcessError(run.returncode, call)
    return time.monotonic() - start, peak


PARTS: dict[str, Callable[[Path, int, float], None]] = {
    "relative": relative,
    "adc": adc,
    "visits": visits,
    "cost": cost,
    "field": field,
    "fat": fat,
    "fusion": fusion,
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
