"""What the sodium pipeline gives back of the truth, on what it depends, and what it costs.

Run as ``python benchmarks/sodium.py FOLDER [--heads 4] [--t1w-mm 1] [--parts NAME ...]``. Heads are
simulated by `bids_alsmri_phantom` and processed by the command line as a user would. The anatomical
pipeline runs once per head; its results are handed on to scenes that share the T1w. FOLDER keeps
simulations, results of every run and the work folder; a run that was stopped goes on from there.
After a change of the code, take another FOLDER: nipype does not know of it. Parts, each of which
prints markdown tables:

recovery: errors of tissues, voxels, tubes and registration in the best mode, with the width of the
    point spread right, too narrow and too wide; what the paper's mode misses, one correction after
    the other taken away; whose signal it is that voxels of white and grey matter show
effects: 10 % more sodium planted in the corticospinal tract, and 10 % less grey matter of the same
    sodium, against the same heads without
sensitivity: change of the corrected sodium of tissues when one assumption changes
cost: time and memory of one head beyond the anatomical pipeline (not among the default parts; take
    it on a quiet machine)

Errors are in per cent of the truth: mean over heads, in brackets the least and the largest.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import psutil
from nipype.utils.filemanip import loadpkl
from numpy.typing import NDArray
from participant import resident_bytes
from scipy import ndimage

from bids_alsmri.interfaces.registration import move_points, read_linear, write_linear
from bids_alsmri.phantom.anatomy import Anatomy
from bids_alsmri.phantom.cohort import draw_cohort, stream
from bids_alsmri.phantom.deformation import draw_deformation
from bids_alsmri.phantom.geometry import store
from bids_alsmri.phantom.head import HeadSample, build_head, sample_map
from bids_alsmri.phantom.radial import part_mean
from bids_alsmri.phantom.records import PhantomSettings, SodiumSettings
from bids_alsmri.phantom.sodium import SIGNAL_PER_MMOL_L, noise_free_image, set_up
from bids_alsmri.phantom.sodium_scene import TSC_GREY, TSC_WHITE, effect_maps
from bids_alsmri.phantom.tracts import build_tracts
from bids_alsmri.pipelines.sodium.interfaces import CorrectPartialVolume

Float = NDArray[np.float64]
Mask = NDArray[np.bool_]

TEMPLATE = "MNI152NLin2009aSym"
SEED = 11
SNR = 20.0
BIAS = 0.2
N_SENSITIVITY_HEADS = 1
FWHM_PER_SD = float(np.sqrt(8 * np.log(2)))
SMOOTHING_MM = 8.0
# true share of voxels that count as a tissue, and planted change that counts as the tract
PURE, PLANTED = 0.8, 0.08
# beyond so many mm of what was planted there should be nothing
FAR_MM = 20.0
SHIFT_MM = 1.0

# Scenes: phantom options beside those that all share, and the scene that lends the T1w, or none.
SCENES = {
    "base": ("--effect-scale 0", ""),
    "focal": ("--sodium-effect focal", "base"),
    "atrophy": ("--effect-scale 0 --grey-loss 0.1", ""),
    "bias": (f"--effect-scale 0 --sodium-bias {BIAS}", "base"),
}
BEST, PAPER = "", "--mode paper"
BLURRED = "--no-sodium-partial-volume-correction"
# A T1 of 1 us saturates nothing, so that the weights hold the decay alone.
NO_SATURATION = " ".join(f"--sodium-{n}-t1-ms 0.001" for n in ("wm", "gm", "csf", "head", "tube"))
# From the best to the paper's mode, one correction less in each line.
STEPS_TO_PAPER = {
    "all": BEST,
    "blur between tissues left in": BLURRED,
    "and in tubes": f"{BLURRED} --no-sodium-tube-recovery",
    "and saturation": f"{BLURRED} --no-sodium-tube-recovery {NO_SATURATION}",
    "and decay until the echo": (
        f"{BLURRED} --no-sodium-tube-recovery --no-sodium-relaxation-correction"
    ),
    "the paper's mode": PAPER,
}
SPREADS = {
    "as simulated": BEST,
    "20 % too narrow": "--sodium-point-spread-scale 0.8",
    "20 % too wide": "--sodium-point-spread-scale 1.2",
    "fitted to the image": "--sodium-point-spread fitted",
}
# Assumption, what it is changed to, options. Answers are nearly linear: one side tells the other.
ASSUMPTIONS = (
    ("T1 of tubes, 45.6 ms", "36.5", "--sodium-tube-t1-ms 36.5"),
    ("T1 of grey and white matter, 39 ms", "31", "--sodium-wm-t1-ms 31 --sodium-gm-t1-ms 31"),
    ("T1 of fluid, 63 ms", "50", "--sodium-csf-t1-ms 50"),
    ("share of the short component, 0.6", "0.5", "--sodium-short-fraction 0.5"),
    (
        "T2* of grey and white matter",
        "- 20 %",
        "--sodium-wm-t2-ms 2.7 18.8 --sodium-gm-t2-ms 3.1 21",
    ),
    ("T2* of fluid, 56 ms", "45", "--sodium-csf-t2-ms 45"),
    ("T2* of tubes, 4.3 ms", "3.4", "--sodium-tube-t2-ms 3.4 3.4"),
    ("duration of the readout, 20 ms", "16", "--sodium-readout-ms 16"),
    ("linear share of the readout, 0.2", "0.4", "--sodium-readout-linear-share 0.4"),
    ("width of the point spread", "- 20 %", SPREADS["20 % too narrow"]),
    ("width of the point spread", "+ 20 %", SPREADS["20 % too wide"]),
    ("width of the point spread", "fitted", SPREADS["fitted to the image"]),
    ("denoising", "off", "--sodium-denoising off"),
    ("denoising", "half as strong", "--sodium-denoising-strength 0.5"),
    ("denoising", "twice as strong", "--sodium-denoising-strength 2"),
    ("distance from tubes' walls, 0.5 FWHM", "1", "--sodium-tube-erosion-fwhm 1"),
    ("blur in tubes", "not corrected", "--no-sodium-tube-recovery"),
    ("shares of tissue by brightness", "probabilities", "--sodium-tissue-shares probability"),
    ("grid of the correction, at most 2 mm", "1.2", "--sodium-correction-voxel-mm 1.2"),
    (
        "temperature of tubes not corrected",
        "21 of 37 degrees C",
        "--sodium-temperature-correction",
    ),
)
# Registration and denoising that take a fifth of the time: many assumptions change the outlines of
# tubes, and so repeat both.
COARSE = (
    "--sodium-start-shrink-factors 6 4 --sodium-rigid-shrink-factors 4 3 "
    "--sodium-denoising-block-radius 2"
)
BIASES = {"not corrected": "off", "estimated from the image": "smooth"}
REGIONS = {"wm": "WM", "gm": "GM", "csf_ventricular": "CSF", "csf_sulcal": "CSF"}
COLUMNS = ("white matter", "grey matter", "ventricles", "sulci")


@dataclass(frozen=True)
class Bench:
    """Where everything is, and of how many heads."""

    folder: Path
    n_heads: int
    t1w_mm: float
    n_procs: int

    @property
    def labels(self) -> list[str]:
        """Of all heads."""
        return [f"{number:02d}" for number in range(1, self.n_heads + 1)]

    def raw(self, scene: str) -> Path:
        """Simulated dataset of a scene."""
        return self.folder / "raw" / scene

    def truth(self, scene: str, label: str, tail: str) -> Path:
        """A file of the truth of the sodium image."""
        name = f"sub-{label}_acq-sodium_{tail}"
        return self.raw(scene) / "derivatives" / "phantom" / f"sub-{label}" / "anat" / name

    def kept(self, scene: str, options: str) -> Path:
        """What was kept of runs with some options."""
        name = "".join(c if c.isalnum() or c in ".-" else "_" for c in options) or "best"
        return self.folder / "kept" / scene / name

    def result(self, scene: str, options: str, label: str, tail: str) -> Path:
        """A file that was kept."""
        return self.kept(scene, options) / f"sub-{label}_acq-sodium_{tail}"


def check_settings(bench: Bench) -> None:
    """Refuse a folder that was filled with other settings."""
    path = bench.folder / "settings.json"
    settings = {"heads": bench.n_heads, "t1w_mm": bench.t1w_mm, "seed": SEED, "snr": SNR}
    bench.folder.mkdir(parents=True, exist_ok=True)
    if path.exists() and json.loads(path.read_text()) != settings:
        raise SystemExit(f"{path} holds {path.read_text().strip()}, not {settings}; clear it")
    path.write_text(json.dumps(settings) + "\n")


def simulate(bench: Bench, scene: str) -> None:
    """Write the dataset of a scene, if it is not there."""
    raw = bench.raw(scene)
    if raw.exists():
        return
    options, lender = SCENES[scene]
    part = raw.with_name(f"{scene}.part")
    shutil.rmtree(part, ignore_errors=True)
    command = [
        *(sys.executable, "-m", "bids_alsmri.phantom", str(part), "--fast", str(bench.n_heads)),
        *("--seed", str(SEED), "--t1w-mm", str(bench.t1w_mm), "--sodium-snr", str(SNR)),
        *("--modalities", "sodium" if lender else "anat,sodium", *options.split()),
    ]
    subprocess.run(command, check=True)
    for label in bench.labels if lender else ():
        for path in (bench.raw(lender) / f"sub-{label}" / "anat").glob("*_T1w.*"):
            shutil.copy2(path, part / f"sub-{label}" / "anat" / path.name)
    if scene == "bias":
        give_receive_map(part)
    part.rename(raw)


def give_receive_map(raw: Path) -> None:
    """Put the true receive field beside the image, as if it had been measured."""
    for path in raw.glob("derivatives/phantom/sub-*/fmap/*_desc-truth_RB1map.*"):
        fmap = raw / path.parent.parent.name / "fmap"
        fmap.mkdir(exist_ok=True)
        shutil.copy2(path, fmap / path.name.replace("_desc-truth", ""))


def take_anatomy(bench: Bench, scene: str, out: Path) -> None:
    """Fill an output folder with the finished anatomy of a scene, unless it is there."""
    if not out.exists():
        known = bench.folder / "out" / scene
        shutil.copytree(known, out, ignore=shutil.ignore_patterns("*sodium*", "*.html"))


def app(raw: Path, out: Path, work: Path, words: Sequence[str], n_procs: int) -> list[str]:
    """Command line of one run."""
    return [
        *(sys.executable, "-m", "bids_alsmri", str(raw), str(out), "participant"),
        *("-w", str(work), "--pipelines", "anatomical", "sodium", "--n-procs", str(n_procs)),
        # maps of the anatomy in template space are of no use here
        *("--anatomical-template-resolution-mm", "2", *words),
    ]


def run(bench: Bench, scene: str, options: str, labels: Sequence[str]) -> None:
    """Process heads of a scene with some options; keep tables, transforms and maps."""
    left = [n for n in labels if not bench.result(scene, options, n, "desc-tsc_stats.tsv").exists()]
    if not left:
        return
    simulate(bench, scene)
    out, lender = bench.folder / "out" / scene, SCENES[scene][1]
    if lender:
        run(bench, lender, BEST, bench.labels)
        take_anatomy(bench, lender, out)
    # results of other options must not be taken for those of these
    for path in out.glob("**/*sodium*"):
        if path.is_file():
            path.unlink()
    start = time.perf_counter()
    words = [*options.split(), "--participant-label", *left]
    work = bench.folder / "work" / scene
    subprocess.run(app(bench.raw(scene), out, work, words, bench.n_procs), check=True)
    kept = bench.kept(scene, options)
    kept.mkdir(parents=True, exist_ok=True)
    results = [
        path
        for path in out.glob("sub-*/anat/*_acq-sodium_*")
        if path.suffix in (".tsv", ".h5", ".gz") and "space-T1w" not in path.name
    ]
    # the table of tissues last: it tells that the run was kept as a whole
    for path in sorted(results, key=lambda path: path.name.endswith("desc-tsc_stats.tsv")):
        shutil.copy2(path, kept / path.name)
    print(f"{scene} {options}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)


def table(path: Path) -> pd.DataFrame:
    """Table of a file."""
    return pd.read_csv(path, sep="\t")


def image(path: Path) -> Float:
    """Voxels of an image."""
    return np.asarray(nib.load(path).dataobj, dtype=np.float64)


def true_tsc(bench: Bench, scene: str, label: str) -> pd.Series:
    """Mean sodium of the tissues of a head, in mmol/L."""
    path = bench.truth(scene, label, "desc-tissues_stats.tsv")
    return table(path).set_index("tissue")["mean_concentration"]


def found_tsc(bench: Bench, scene: str, options: str, label: str) -> pd.Series:
    """Table of tissues of a run, by region and measure."""
    path = bench.result(scene, options, label, "desc-tsc_stats.tsv")
    return table(path).set_index(["region", "measure"])["value"]


def over_heads(values: Sequence[float], digits: int = 1) -> str:
    """Mean, least and largest value."""
    if len(values) == 1:
        return f"{values[0]:+.{digits}f}"
    low, high = min(values), max(values)
    return f"{np.mean(values):+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})"


def row(*cells: object) -> None:
    """Print a row of a table."""
    print("| " + " | ".join(str(cell) for cell in cells) + " |")


def header(*cells: str) -> None:
    """Print the head of a table whose first column is text."""
    print()
    row(*cells)
    print("|---|" + "---:|" * (len(cells) - 1))


# ---- recovery


def recovery(bench: Bench) -> None:
    """Print what is recovered, and what the paper's mode misses."""
    for options in (*STEPS_TO_PAPER.values(), *SPREADS.values()):
        run(bench, "base", options, bench.labels)
    header("best mode, point spread", *(f"{name} %" for name in COLUMNS))
    for text, options in SPREADS.items():
        row(text, *region_errors(bench, options))
    print_tubes_and_pose(bench)
    print_voxels(bench)
    header("corrections", "white matter %", "grey matter %")
    row("all, by region", *region_errors(bench, BEST)[:2])
    for text, options in STEPS_TO_PAPER.items():
        errors = (map_errors(bench, options, tissue) for tissue in ("WM", "GM"))
        row(text, *(over_heads(values) for values in errors))
    print_whose_signal(bench)


def region_errors(bench: Bench, options: str) -> list[str]:
    """Errors of the corrected regions."""
    cells = []
    for region, tissue in REGIONS.items():
        errors = [
            100
            * (
                found_tsc(bench, "base", options, label)[(region, "tsc_corrected")]
                / true_tsc(bench, "base", label)[tissue]
                - 1
            )
            for label in bench.labels
        ]
        cells.append(over_heads(errors))
    return cells


def map_errors(bench: Bench, options: str, tissue: str) -> list[float]:
    """Error of the mean of the map over voxels that are nearly all of one tissue."""
    errors = []
    for label in bench.labels:
        share = image(bench.truth("base", label, f"label-{tissue}_probseg.nii.gz"))
        found = image(bench.result("base", options, label, "desc-tsc_PDmap.nii.gz"))
        true = true_tsc(bench, "base", label)[tissue]
        errors.append(100 * (float(found[share >= PURE].mean()) / true - 1))
    return errors


def print_tubes_and_pose(bench: Bench) -> None:
    """Print the factor of the tubes and the error of the registration."""
    header("head", "tubes, factor %", "registration, mean mm", "worst mm")
    for label in bench.labels:
        slope = table(bench.result("base", BEST, label, "desc-tubes_stats.tsv"))["slope"].iloc[0]
        stem = bench.raw("base") / "derivatives" / "phantom" / f"sub-{label}" / "anat"
        marks = table(stem / f"sub-{label}_desc-landmarks_stats.tsv")
        there = table(bench.truth("base", label, "desc-landmarks_stats.tsv"))
        xfm = bench.result("base", BEST, label, "from-sodium_to-T1w_mode-image_xfm.h5")
        moved = move_points(marks[[f"t1w_{a}" for a in "xyz"]].to_numpy(float), [xfm])
        gaps = np.linalg.norm(moved - there[[f"sodium_{a}" for a in "xyz"]].to_numpy(float), axis=1)
        row(
            label,
            f"{100 * (slope / SIGNAL_PER_MMOL_L - 1):+.2f}",
            f"{gaps.mean():.2f}",
            f"{gaps.max():.2f}",
        )


def print_voxels(bench: Bench) -> None:
    """Print how near maps come to what voxels hold."""
    header("map", "voxels", "mean error %", "RMS error mmol/L", "r")
    places = {
        "whole brain": lambda w, g: w + g >= 0,
        "white matter above 0.8": lambda w, g: w >= PURE,
        "grey matter above 0.5": lambda w, g: g >= 0.5,
        "grey and white matter above 0.8": lambda w, g: w + g >= PURE,
    }
    maps = {"desc-tsc": "as voxels show it", "desc-tscPvc": "corrected for blur"}
    for tail, text in maps.items():
        for place, choose in places.items():
            numbers = []
            for label in bench.labels:
                brain = image(bench.truth("base", label, "desc-brain_mask.nii.gz")) > 0
                shares = (
                    image(bench.truth("base", label, f"label-{name}_probseg.nii.gz"))
                    for name in ("WM", "GM")
                )
                chosen = brain & choose(*shares)
                true = image(bench.truth("base", label, "desc-tsc_PDmap.nii.gz"))[chosen]
                found = image(bench.result("base", BEST, label, f"{tail}_PDmap.nii.gz"))[chosen]
                numbers.append(
                    (
                        100 * (found.mean() / true.mean() - 1),
                        np.sqrt(np.mean((found - true) ** 2)),
                        np.corrcoef(found, true)[0, 1],
                    )
                )
            mean, rms, r = np.mean(numbers, axis=0)
            row(f"{text}, {place}", int(chosen.sum()), f"{mean:+.1f}", f"{rms:.1f}", f"{r:.3f}")


def print_whose_signal(bench: Bench) -> None:
    """Print which tissue the sodium is of that voxels show before blur is corrected."""
    names = ("own tissue", "other brain tissue", "fluid", "rest of the head", "tubes")
    header("voxels of", *(f"{name} %" for name in names), "sum %")
    parts: dict[str, list[Float]] = {"WM": [], "GM": []}
    for label in bench.labels:
        signals = signal_by_tissue(bench, label)
        total = sum(signals.values())
        found = image(bench.result("base", BLURRED, label, "desc-tsc_PDmap.nii.gz"))
        for tissue in parts:
            share = image(bench.truth("base", label, f"label-{tissue}_probseg.nii.gz"))
            voxels = share >= PURE
            other = "GM" if tissue == "WM" else "WM"
            seen = [
                float((found * signals[name] / total)[voxels].mean())
                for name in (tissue, other, "CSF", "other", "agar")
            ]
            parts[tissue].append(
                100 * np.array([*seen, sum(seen)]) / true_tsc(bench, "base", label)[tissue]
            )
    for tissue, text in (("WM", "white matter"), ("GM", "grey matter")):
        row(text, *(f"{value:.1f}" for value in np.mean(parts[tissue], axis=0)))


def signal_by_tissue(bench: Bench, label: str) -> dict[str, Float]:
    """Image of each tissue alone, without noise, in the order in which images are stored."""
    settings = PhantomSettings(
        seed=SEED, t1w_mm=bench.t1w_mm, effect_scale=0.0, sodium=SodiumSettings(snr=SNR)
    )
    person = draw_cohort(("fast",) * bench.n_heads, SEED)[int(label) - 1]
    anatomy = Anatomy(build_head(), draw_deformation(stream(SEED, person, "shape")))
    scan = set_up(person, anatomy, settings, stream(SEED, person, "", "sodium"))
    sample = scan.scene.sample
    nothing = HeadSample(
        **{name: np.zeros_like(sample.white) for name in HeadSample.__dataclass_fields__}
    )
    fields = {"WM": "white", "GM": "grey", "CSF": "fluid", "other": "other_sodium"}
    scenes = {
        name: replace(
            scan.scene,
            sample=replace(nothing, **{field: getattr(sample, field)}),
            tubes=(),
            shares=(),
        )
        for name, field in fields.items()
    }
    scenes["agar"] = replace(scan.scene, sample=nothing)
    n_parts = scan.fine.shape[0] // scan.grid.shape[0]
    white, _ = store(part_mean(sample.white, n_parts), scan.grid, settings)
    if not np.allclose(white, image(bench.truth("base", label, "label-WM_probseg.nii.gz"))):
        raise SystemExit(f"head {label} is not laid out as it was for {bench.raw('base')}")
    found = {}
    for name, scene in scenes.items():
        alone = noise_free_image(scene, scan.fine, scan.grid, scan.readout, settings.sodium)
        found[name] = np.asarray(store(alone, scan.grid, settings)[0], dtype=np.float64)
    return found


# ---- effects


def effects(bench: Bench) -> None:
    """Print what is found of what was planted, corrected and not."""
    for scene in ("base", "focal", "atrophy"):
        for options in (BEST, BLURRED):
            run(bench, scene, options, bench.labels)
    header("10 % more in the corticospinal tract", "planted %", "found there %", "beyond %")
    for text, cells in focal_rows(bench).items():
        row(text, *(over_heads(values, 2) for values in cells))
    header("10 % less grey matter of the same sodium", "true change %", "found %")
    for text, cells in atrophy_rows(bench).items():
        row(text, *(over_heads(values, 2) for values in cells))


def changes(bench: Bench, scene: str, name: str, tail: str, label: str) -> Float:
    """Map of a scene over that of the base, less 1, in per cent; NaN where either tells nothing."""
    first, second = (image(bench.result(s, name, label, tail)) for s in ("base", scene))
    both = (first > 0) & (second > 0)
    found = np.full(first.shape, np.nan)
    found[both] = 100 * (second[both] / first[both] - 1)
    return found


def mean_change(bench: Bench, scene: str, name: str, tail: str, label: str, where: Mask) -> float:
    """Change of the mean over voxels, in per cent."""
    first, second = (
        float(image(bench.result(s, name, label, tail))[where].mean()) for s in ("base", scene)
    )
    return 100 * (second / first - 1)


def true_change(bench: Bench, scene: str, label: str, where: Mask) -> float:
    """Change of the sodium that voxels hold, in per cent."""
    first, second = (
        float(image(bench.truth(s, label, "desc-tsc_PDmap.nii.gz"))[where].mean())
        for s in ("base", scene)
    )
    return 100 * (second / first - 1)


NATIVE_MAPS = {
    "desc-tsc_PDmap.nii.gz": "as voxels show it",
    "desc-tscPvc_PDmap.nii.gz": "corrected for blur",
    "desc-tscTissue_PDmap.nii.gz": "grey and white matter alone",
}
SMOOTHED = f"space-{TEMPLATE}_res-2_desc-tscSm8_PDmap.nii.gz"
SMOOTHED_RUNS = {
    BLURRED: "template, smoothed, as voxels show it",
    BEST: "template, smoothed, grey and white matter alone",
}


def focal_rows(bench: Bench) -> dict[str, list[list[float]]]:
    """Planted, found there and found beyond, for every map and head."""
    rows: dict[str, list[list[float]]] = {}
    for tail, text in NATIVE_MAPS.items():
        cells: list[list[float]] = [[], [], []]
        for label in bench.labels:
            effect = image(bench.truth("focal", label, "desc-effect_statmap.nii.gz"))
            tissue = sum(
                image(bench.truth("focal", label, f"label-{name}_probseg.nii.gz"))
                for name in ("WM", "GM")
            )
            edges = np.array(nib.load(bench.result("base", BEST, label, tail)).header.get_zooms())
            there = effect >= PLANTED
            beyond = (ndimage.distance_transform_edt(effect < 1e-3, sampling=edges) > FAR_MM) & (
                tissue >= PURE
            )
            cells[0].append(true_change(bench, "focal", label, there))
            cells[1].append(mean_change(bench, "focal", BEST, tail, label, there))
            cells[2].append(mean_change(bench, "focal", BEST, tail, label, beyond))
        rows[text] = cells
    for name, text in SMOOTHED_RUNS.items():
        path = bench.result("base", name, bench.labels[0], SMOOTHED)
        effect, white, grey = in_template(path)
        planted = smoothed_effect(effect, white, grey)
        there = (effect >= PLANTED) & (white > 0.5)
        beyond = (ndimage.distance_transform_edt(effect < 1e-3) * 2.0 > FAR_MM) & (
            white + grey >= PURE
        )
        rows[text] = [
            [100 * float(planted[there].mean())] * bench.n_heads,
            *(
                [
                    mean_change(bench, "focal", name, SMOOTHED, label, where)
                    for label in bench.labels
                ]
                for where in (there, beyond)
            ),
        ]
    return rows


def in_template(path: Path) -> tuple[Float, Float, Float]:
    """Planted change and shares of white and grey matter at the voxels of a template image."""
    like = nib.load(path)
    points = nib.affines.apply_affine(like.affine, np.moveaxis(np.indices(like.shape), 0, -1))
    tracts, head = build_tracts(), build_head()
    return (
        sample_map(effect_maps()["focal"], tracts.to_world, points).astype(np.float64),
        sample_map(head.white, head.brain_to_world, points).astype(np.float64),
        sample_map(head.grey, head.brain_to_world, points).astype(np.float64),
    )


def smoothed_effect(effect: Float, white: Float, grey: Float) -> Float:
    """Planted change as a map without blur and noise would show it after smoothing."""
    sd = SMOOTHING_MM / FWHM_PER_SD / 2.0
    before = white * TSC_WHITE + grey * TSC_GREY
    after = before + white * TSC_WHITE * effect
    first, second = (ndimage.gaussian_filter(values, sd) for values in (before, after))
    return np.divide(second, first, out=np.ones_like(first), where=first > 1) - 1


def atrophy_rows(bench: Bench) -> dict[str, list[list[float]]]:
    """True and found change of grey matter, for regions, maps and heads."""
    rows: dict[str, list[list[float]]] = {}
    names = {"wm": "white", "gm": "grey"}
    for region, text in names.items():
        for measure, how in (("tsc_weighted", "blur left in"), ("tsc_corrected", "corrected")):
            found = [
                100
                * (
                    found_tsc(bench, "atrophy", BEST, label)[(region, measure)]
                    / found_tsc(bench, "base", BEST, label)[(region, measure)]
                    - 1
                )
                for label in bench.labels
            ]
            rows[f"{text} matter, {how}"] = [[0.0] * bench.n_heads, found]
    for tail, text in NATIVE_MAPS.items():
        cells: list[list[float]] = [[], []]
        for label in bench.labels:
            cortex = image(bench.truth("base", label, "label-GM_probseg.nii.gz")) >= 0.5
            is_tissue = "Tissue" in tail
            cells[0].append(0.0 if is_tissue else true_change(bench, "atrophy", label, cortex))
            cells[1].append(mean_change(bench, "atrophy", BEST, tail, label, cortex))
        rows[f"voxels of grey matter, {text}"] = cells
    for name, text in SMOOTHED_RUNS.items():
        _, _, grey = in_template(bench.result("base", name, bench.labels[0], SMOOTHED))
        cells = [[0.0] * bench.n_heads, []]
        for label in bench.labels:
            cells[1].append(mean_change(bench, "atrophy", name, SMOOTHED, label, grey >= 0.5))
        rows[text] = cells
    for name, text in SMOOTHED_RUNS.items():
        _, _, grey = in_template(bench.result("base", name, bench.labels[0], SMOOTHED))
        spread = []
        for label in bench.labels:
            found = changes(bench, "atrophy", name, SMOOTHED, label)[grey >= 0.5]
            spread.append(float(np.nanpercentile(found, 95)))
        rows[f"{text}, 95th percentile of voxels"] = [[0.0] * bench.n_heads, spread]
    return rows


# ---- sensitivity


def sensitivity(bench: Bench) -> None:
    """Print how corrected sodium changes with every assumption."""
    labels = bench.labels[:N_SENSITIVITY_HEADS]
    run(bench, "base", BEST, bench.labels)
    for _, _, options in (("", "", ""), *ASSUMPTIONS):
        run(bench, "base", f"{COARSE} {options}", labels)
    for method in ("map", *BIASES.values()):
        run(bench, "bias", f"{COARSE} --sodium-receive-bias {method}", labels)
    header("assumption", "changed to", *(f"{name} %" for name in COLUMNS))
    for text, value, options in ASSUMPTIONS:
        pair = (f"{COARSE} ", f"{COARSE} {options}")
        row(text, value, *region_changes(bench, "base", pair, labels))
    for text, method in BIASES.items():
        first, second = (f"{COARSE} --sodium-receive-bias {name}" for name in ("map", method))
        name = f"receive field of up to {100 * BIAS:.0f} % corrected by its map"
        row(name, text, *region_changes(bench, "bias", (first, second), labels))
    for axis, values in shifted_regions(bench, labels).items():
        row("registration", f"{SHIFT_MM:g} mm {axis}", *values)


def region_changes(
    bench: Bench, scene: str, pair: tuple[str, str], labels: Sequence[str]
) -> Iterator[str]:
    """Change of each corrected region from one run to another, in per cent."""
    for region in REGIONS:
        key = (region, "tsc_corrected")
        first, second = (
            np.array([found_tsc(bench, scene, options, label)[key] for label in labels])
            for options in pair
        )
        yield f"{float(np.mean(100 * (second / first - 1))):+.1f}"


def shifted_regions(bench: Bench, labels: Sequence[str]) -> Mapping[str, list[str]]:
    """Change of each corrected region when the registration is off.

    No option moves a registration, so the node is run again with another transform.
    """
    path = bench.folder / "shifted.json"
    if not path.exists():
        # in folders of its own: nodes of other runs have other inputs
        out, work = bench.folder / "out" / "shift", bench.folder / "work" / "shift"
        take_anatomy(bench, "base", out)
        words = ["--participant-label", *labels]
        subprocess.run(app(bench.raw("base"), out, work, words, bench.n_procs), check=True)
        found = {label: shifts_of(work, label) for label in labels}
        path.write_text(json.dumps(found) + "\n")
    found = json.loads(path.read_text())
    result = {}
    for axis in ("to the right", "to the front", "upwards"):
        changed = [
            [100 * (found[label][axis][r] / found[label]["none"][r] - 1) for r in REGIONS]
            for label in labels
        ]
        result[axis] = [f"{value:+.1f}" for value in np.mean(changed, axis=0)]
    return result


def shifts_of(work: Path, label: str) -> dict[str, dict[str, float]]:
    """Corrected regions of a head, with the registration as found and off along each axis."""
    (node,) = work.glob(f"steps_*/sub_{label}*_correct_partial_volume")
    inputs = {
        name: value for name, value in loadpkl(node / "_inputs.pklz").items() if value is not None
    }
    right = read_linear(Path(inputs["to_anatomy"]))
    shifts = {"none": (0, 0, 0), "to the right": (1, 0, 0), "to the front": (0, 1, 0)}
    results = {}
    for name, direction in {**shifts, "upwards": (0, 0, 1)}.items():
        moved = np.eye(4)
        moved[:3, 3] = SHIFT_MM * np.array(direction)
        with tempfile.TemporaryDirectory() as folder:
            transform = write_linear(moved @ right, Path(folder) / "moved.txt")
            step = CorrectPartialVolume(**{**inputs, "to_anatomy": str(transform)})
            done = step.run(cwd=folder)
            regions = table(Path(done.outputs.regions)).set_index("region")["corrected"]
        results[name] = {region: float(regions[region]) for region in REGIONS}
    return results


# ---- cost


def cost(bench: Bench) -> None:
    """Print time and memory of one head whose anatomy is done."""
    run(bench, "base", BEST, bench.labels)
    label = bench.labels[0]
    header("run", "wall s", "peak GB", "load before")
    with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
        out, work = Path(folder) / "out", Path(folder) / "work"
        take_anatomy(bench, "base", out)
        command = app(bench.raw("base"), out, work, ["--participant-label", label], bench.n_procs)
        for text in ("sodium", "nothing left to do"):
            load = os.getloadavg()[0]
            wall_s, peak_gb = measured(command)
            row(text, f"{wall_s:.0f}", f"{peak_gb:.2f}", f"{load:.1f}")
        steps = sodium_steps(out)
    header("step", "s")
    for name, seconds in sorted(steps.items(), key=lambda item: -item[1]):
        if seconds >= 0.5:
            row(name, f"{seconds:.1f}")
    row("all steps", f"{sum(steps.values()):.0f}")


def measured(command: Sequence[str]) -> tuple[float, float]:
    """Wall time, in s, and largest resident memory of all processes, in GB."""
    start = time.perf_counter()
    process = psutil.Popen(command)
    peak = 0
    while process.poll() is None:
        peak = max(peak, resident_bytes(process))
        time.sleep(0.2)
    if process.returncode != 0:
        raise SystemExit(f"the app ended with {process.returncode}")
    return time.perf_counter() - start, peak / 1e9


def sodium_steps(out: Path) -> dict[str, float]:
    """Wall time of each step of the sodium pipeline, in s."""
    steps: dict[str, float] = {}
    for path in out.glob("logs/*/seconds.json"):
        for scan, seconds in json.loads(path.read_text()).items():
            if scan.split()[-1] == "sodium":
                steps |= {name.split("_sodium_")[-1]: s for name, s in seconds.items()}
    return steps


PARTS = {"recovery": recovery, "effects": effects, "sensitivity": sensitivity, "cost": cost}


def main() -> None:
    """Make what is missing, print the tables of the parts that were asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--t1w-mm", type=float, default=1.0)
    parser.add_argument("--n-procs", type=int, default=2)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS)[:3])
    chosen = parser.parse_args()
    bench = Bench(chosen.folder.resolve(), chosen.heads, chosen.t1w_mm, chosen.n_procs)
    check_settings(bench)
    for name in chosen.parts:
        print(f"\n### {name}")
        PARTS[name](bench)


if __name__ == "__main__":
    main()
