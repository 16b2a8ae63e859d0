"""How often comparisons of whole cohorts find what was planted, and how often what was not.

Run as ``python benchmarks/cohort.py FOLDER [--cohorts 20] [--voxel-mm 2.5] [--threads 1]``.
Each cohort has the size of El Mendili 2022 (13 fast, 16 slow, 24 controls) and is simulated at the
level of maps (`bids_alsmri.phantom.maps`): differences along corticospinal tract and callosum,
nothing elsewhere, participants who vary, and what registration leaves. FA, MD and TSC are compared
in smoothed volumes and on the skeleton, in 4 contrasts and both directions, by TFCE with 500
relabellings. At 5 % they decide by counting; ``--tail`` fits the tail of their maxima, which
refines smaller p-values and takes longer than all the rest. FOLDER keeps a JSON file for each
cohort; a run that was stopped goes on from there. Prints markdown tables of all cohorts in FOLDER.

What is to be expected comes from the non-centrality of t at a voxel, d sqrt(n1 n2 / (n1 + n2)):
d is the planted difference, blurred as the analysis does, over the standard deviation within groups
that the cohort shows there:

- of voxelwise t, exactly (but for that estimate): the mean over planted voxels of the probability
  that a non-central t exceeds the threshold that the permutations gave. On the skeleton it is too
  high (mean t of 3.26 expected and 3.02 (0.08) found for FA in 30 cohorts of 4 mm; 2.77 and 2.67
  (0.09) in volumes), since the search for the largest FA can leave what was planted;
- of TFCE there is no closed form. How often anything is found should lie between the power of a
  good planted voxel (nine in ten have a smaller d) at that threshold, since TFCE adds the support
  of its neighbours, and about the power of a single test at 5 % of the mean over all planted
  voxels, which needs no correction. Variation that is common to the whole brain makes large
  clusters by chance and can bring TFCE below the first.

Beyond what was planted, voxelwise t keeps its family-wise error rate. TFCE need not where a cluster
of true differences touches them: it bounds errors where there is no difference at all, and a voxel
that belongs to a large cluster at a low height shares in its extent. So the same comparison is also
made in the voxels beyond alone (one contrast of each cohort, in turn), where nothing was planted.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, stats
from statsmodels.stats.proportion import proportion_confint

from bids_alsmri.numerics.fields import smooth_within
from bids_alsmri.numerics.linear import two_groups
from bids_alsmri.numerics.permutation import Exchange
from bids_alsmri.numerics.skeleton import (
    distance_map,
    erode_fa,
    group_mask,
    project,
    sample_positions,
    skeletonise,
)
from bids_alsmri.numerics.tfce import Neighbourhood, image_neighbourhood
from bids_alsmri.phantom.cohort import draw_cohort, kinds_of
from bids_alsmri.phantom.map_settings import DRAWN, MapSettings
from bids_alsmri.phantom.maps import MapTruth, build_truth, simulate_maps
from bids_alsmri.stats.inference import Permutation, conclude, infer, make_problem

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

N_CONTROLS, N_FAST, N_SLOW = 24, 13, 16
CONTRASTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "als-hc": (("fast", "slow"), ("hc",)),
    "fast-hc": (("fast",), ("hc",)),
    "slow-hc": (("slow",), ("hc",)),
    "fast-slow": (("fast",), ("slow",)),
}
FWHM_MM = {"fa": 6.0, "md": 6.0, "tsc": 8.0}
SKELETON_FA, SEARCH_SD_VOXELS = 0.2, 10.0
ALPHA = 0.05
# Beyond this many standard deviations of smoothing and registration nothing planted arrives.
REACH_SD = 3.0
GOOD_QUANTILE = 0.9
FIRST_SEED = 1000


@dataclass(frozen=True)
class Space:
    """Features of an analysis and what was planted there."""

    name: str
    data: Mapping[str, NDArray[np.float32]]
    mask: Mask
    neighbourhood: Neighbourhood
    extent_power: float


@dataclass(frozen=True)
class Planted:
    """What was planted in one contrast of one map, at the features of a space."""

    is_planted: Mask
    is_beyond: Mask
    difference: Floats


def smoothed_space(maps: Mapping[str, Sequence[NDArray[np.float32]]], truth: MapTruth) -> Space:
    """Smoothed maps in the brain."""
    edges = np.linalg.norm(truth.affine[:3, :3], axis=0)
    data = {
        name: np.array(
            [
                smooth_within(one, truth.mask, edges, fwhm_mm=FWHM_MM[name])[truth.mask]
                for one in maps[name]
            ],
            dtype=np.float32,
        )
        for name in DRAWN
    }
    return Space("volume", data, truth.mask, image_neighbourhood(truth.mask, 6), 0.5)


def skeleton_space(
    maps: Mapping[str, Sequence[NDArray[np.float32]]], truth: MapTruth, volume: Space
) -> Space:
    """FA and MD where FA is largest across the tract; smoothed TSC on the skeleton itself."""
    eroded = [erode_fa(fa, truth.mask) for fa in maps["fa"]]
    group = group_mask(eroded, most_removed_share=0.02)
    skeleton = skeletonise(group.mean_fa)
    mask = skeleton.fa >= SKELETON_FA
    distance = distance_map(mask, group.mask)
    found = [
        project(
            fa,
            skeleton_mask=mask,
            directions=skeleton.directions,
            distance=distance,
            mask=group.mask,
            weight_sd_voxels=SEARCH_SD_VOXELS,
        )
        for fa in eroded
    ]
    data = {
        "fa": np.array([one.values for one in found], dtype=np.float32),
        "md": np.array(
            [
                sample_positions(md, one.positions)
                for md, one in zip(maps["md"], found, strict=True)
            ],
            dtype=np.float32,
        ),
        "tsc": volume.data["tsc"][:, mask[truth.mask]],
    }
    return Space("skeleton", data, mask, image_neighbourhood(mask, 26), 1.0)


def planted_at(
    space: Space,
    truth: MapTruth,
    settings: MapSettings,
    contrast: str,
    name: str,
    kinds: NDArray[np.str_],
) -> Planted:
    """Planted difference as it arrives at the features of a space."""
    first, second = (kinds[np.isin(kinds, group)] for group in CONTRASTS[contrast])
    difference = truth.contrast_difference(first, second, name)
    edges = np.linalg.norm(truth.affine[:3, :3], axis=0)
    is_smoothed = space.name == "volume" or name == "tsc"
    smoothing_sd_mm = FWHM_MM[name] / np.sqrt(8 * np.log(2)) if is_smoothed else 0.0
    blur_mm = float(np.hypot(smoothing_sd_mm, settings.registration_sd_mm))
    arrived = ndimage.gaussian_filter(difference.astype(np.float64), blur_mm / edges)
    away_mm = ndimage.distance_transform_edt(difference == 0, sampling=edges)
    # on the skeleton a value may come from some voxels across
    margin_mm = REACH_SD * blur_mm + edges.max() * (1 if is_smoothed else 3)
    return Planted(
        is_planted=difference[space.mask] != 0,
        is_beyond=away_mm[space.mask] > margin_mm,
        difference=arrived[space.mask],
    )


def expected_power(
    data: NDArray[np.floating], is_first: Mask, planted: Planted, threshold: float
) -> dict[str, float]:
    """Power by the non-centrality: mean and good planted voxels, and the mean over the region."""
    n_first, n_second = int(is_first.sum()), int((~is_first).sum())
    dof = n_first + n_second - 2
    root = np.sqrt(n_first * n_second / (n_first + n_second))

    def sd_within(values: Floats) -> Floats:
        sides = (values[is_first], values[~is_first])
        return np.asarray(np.sqrt(sum(((s - s.mean(0)) ** 2).sum(0) for s in sides) / dof))

    values = data[:, planted.is_planted].astype(np.float64)
    difference = np.abs(planted.difference[planted.is_planted])
    d = difference / sd_within(values)
    region_d = difference.mean() / sd_within(values.mean(axis=1))
    return {
        "d": float(d.mean()),
        "voxels": float(stats.nct.sf(threshold, dof, d * root).mean()),
        "good": float(stats.nct.sf(threshold, dof, np.quantile(d, GOOD_QUANTILE) * root)),
        "region": float(stats.nct.sf(stats.t.isf(ALPHA, dof), dof, region_d * root)),
    }


def compare(
    space: Space, planted: Planted, name: str, is_first: Mask, members: Mask, how: Permutation
) -> dict[str, Any]:
    """One contrast of one map: what is found in the planted direction, and in its reverse."""
    design, contrast = two_groups(is_first[members])
    data = space.data[name][members]
    problem = make_problem(
        data, design, contrast, space.neighbourhood, exchange=Exchange(), permutation=how
    )
    null = problem.block(range(len(problem.relabellings)))
    found = conclude(problem, null)
    sign = np.sign(planted.difference[planted.is_planted].sum())
    side = 0 if sign > 0 else 1
    right, reverse = (found.positive, found.negative)[:: 1 if sign > 0 else -1]
    threshold = float(np.quantile(null.largest[:, side], 1 - ALPHA))
    is_tfce, is_t = right.p_enhanced_fwe <= ALPHA, right.p_statistic_fwe <= ALPHA
    return {
        "found": bool(is_tfce[planted.is_planted].any()),
        "found_t": bool(is_t[planted.is_planted].any()),
        "sensitivity": float(is_tfce[planted.is_planted].mean()),
        "sensitivity_t": float(is_t[planted.is_planted].mean()),
        "beyond": bool(is_tfce[planted.is_beyond].any()),
        "beyond_t": bool(is_t[planted.is_beyond].any()),
        "beyond_share": float(is_tfce[planted.is_beyond].mean()),
        "reverse": bool((reverse.p_enhanced_fwe <= ALPHA).any()),
        "reverse_t": bool((reverse.p_statistic_fwe <= ALPHA).any()),
        "n_planted": int(planted.is_planted.sum()),
        "n_beyond": int(planted.is_beyond.sum()),
        "n_features": int(space.mask.sum()),
        "threshold_t": threshold,
        "expected": expected_power(data, is_first[members], planted, threshold),
    }


def compare_beyond(
    space: Space, planted: Planted, name: str, is_first: Mask, members: Mask, how: Permutation
) -> list[bool]:
    """Whether either direction finds anything where only voxels beyond are looked at."""
    mask = np.zeros(space.mask.shape, bool)
    mask[space.mask] = planted.is_beyond
    connectivity = 6 if space.name == "volume" else 26
    found = infer(
        space.data[name][members][:, planted.is_beyond],
        *two_groups(is_first[members]),
        image_neighbourhood(mask, connectivity),
        exchange=Exchange(),
        permutation=how,
    )
    sides = (found.positive, found.negative)
    return [bool((side.p_enhanced_fwe <= ALPHA).any()) for side in sides]


def run_cohort(number: int, truth: MapTruth, chosen: argparse.Namespace) -> dict[str, Any]:
    """Simulate one cohort and make all comparisons."""
    start = time.perf_counter()
    settings = MapSettings(seed=FIRST_SEED + number, voxel_mm=chosen.voxel_mm)
    people = draw_cohort(kinds_of(None, N_CONTROLS, N_FAST, N_SLOW), settings.seed)
    kinds = np.array([person.kind for person in people])
    maps: dict[str, list[NDArray[np.float32]]] = {name: [] for name in DRAWN}
    for drawn in simulate_maps(people, settings, truth):
        for name in DRAWN:
            maps[name].append(drawn[name])
    volume = smoothed_space(maps, truth)
    spaces = (volume, skeleton_space(maps, truth, volume))
    del maps
    results = {}
    for space in spaces:
        how = Permutation(
            n_permutations=chosen.permutations,
            seed=settings.seed,
            extent_power=space.extent_power,
            n_threads=chosen.threads,
            tail=chosen.tail,
        )
        for name in DRAWN:
            for turn, (contrast, (first, second)) in enumerate(CONTRASTS.items()):
                is_first = np.isin(kinds, first)
                members = is_first | np.isin(kinds, second)
                planted = planted_at(space, truth, settings, contrast, name, kinds)
                key = f"{space.name} {name} {contrast}"
                case = (space, planted, name, is_first, members, how)
                results[key] = compare(*case)
                if number % len(CONTRASTS) == turn:
                    results[key]["alone"] = compare_beyond(*case)
    return {"seconds": time.perf_counter() - start, "results": results}


def simulated(chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """All cohorts, those of earlier runs taken from their files."""
    names = ("voxel_mm", "permutations", "tail")
    settings = {name: getattr(chosen, name) for name in names}
    chosen.folder.mkdir(parents=True, exist_ok=True)
    truth: MapTruth | None = None
    found = []
    for number in range(chosen.cohorts):
        path = chosen.folder / f"cohort-{number:03d}.json"
        if not path.exists():
            truth = truth or build_truth(MapSettings(voxel_mm=chosen.voxel_mm))
            content = {"settings": settings, **run_cohort(number, truth, chosen)}
            # a run that is stopped while it writes must not leave half a file
            part = path.with_suffix(".part")
            part.write_text(json.dumps(content, indent=1) + "\n")
            part.replace(path)
            print(f"cohort {number}: {content['seconds']:.0f} s", file=sys.stderr, flush=True)
        one = json.loads(path.read_text())
        if one["settings"] != settings:
            raise SystemExit(f"{path} was made with {one['settings']}, not {settings}; clear it")
        found.append(one["results"])
    return found


def percent(values: Sequence[float]) -> str:
    """Mean of shares, in per cent."""
    return f"{100 * np.mean(values):.0f}"


def with_interval(counts: Sequence[bool]) -> str:
    """Share in per cent and its 95 % binomial interval (Wilson)."""
    low, high = proportion_confint(int(np.sum(counts)), len(counts), method="wilson")
    return f"{100 * np.mean(counts):.1f} ({100 * low:.1f} to {100 * high:.1f})"


def print_tables(cohorts: Sequence[Mapping[str, Any]]) -> None:
    """Print what was found, and the rate of errors."""
    print(
        "| space | map | contrast | d | found by TFCE | by t | expected between | "
        "sensitivity % TFCE | t | t expected | beyond % voxels | any beyond | reverse |\n"
        "|---|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
    )
    n = len(cohorts)
    for key in cohorts[0]:
        cases = [cohort[key] for cohort in cohorts]
        d, voxels, good, region = (
            [case["expected"][name] for case in cases] for name in ("d", "voxels", "good", "region")
        )
        cells = [
            *key.split(),
            f"{np.mean(d):.2f}",
            f"{sum(case['found'] for case in cases)}/{n}",
            f"{sum(case['found_t'] for case in cases)}/{n}",
            f"{n * np.mean(good):.1f} and {n * np.mean(region):.1f}",
            percent([case["sensitivity"] for case in cases]),
            percent([case["sensitivity_t"] for case in cases]),
            percent(voxels),
            f"{100 * np.mean([case['beyond_share'] for case in cases]):.3f}",
            f"{sum(case['beyond'] for case in cases)}/{n}",
            f"{sum(case['reverse'] for case in cases)}/{n}",
        ]
        print("| " + " | ".join(cells) + " |")
    everything = [case for cohort in cohorts for case in cohort.values()]
    print("\n| no effect there | statistic | share % (95 % interval) |\n|---|---|---|")
    for name, text in (("reverse", "reverse direction"), ("beyond", "beyond what was planted")):
        for suffix, statistic in (("", "TFCE"), ("_t", "t")):
            share = with_interval([case[name + suffix] for case in everything])
            print(f"| {text} | {statistic} | {share} |")
    alone = [found for case in everything for found in case.get("alone", [])]
    print(f"| voxels beyond alone | TFCE | {with_interval(alone)} |")
    print(
        f"\nCohorts: {n}. Tests of one cohort share participants; the intervals take them as "
        "independent and are too narrow."
    )


def main() -> None:
    """Simulate the cohorts that are missing, print tables of all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cohorts", type=int, default=20)
    parser.add_argument("--voxel-mm", type=float, default=2.5)
    parser.add_argument("--permutations", type=int, default=500)
    parser.add_argument("--tail", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    print_tables(simulated(parser.parse_args()))


if __name__ == "__main__":
    main()
