"""Tests of several maps: how often they are wrong, what they find, and what a relabelling costs.

Run as ``python benchmarks/combination.py [--studies 1000] [--relabellings 100]
[--parts across tests cost] [--scenes neither "tsc only" both] [--seed 2]``. Prints three markdown
tables, of

- ``across``: a rough and a smooth map of the same participants, without effect. Share of studies
  with a significant voxel in either map, and in which, where the maxima of both are compared as
  ranks or as they are.
- ``tests``: two maps that depend on each other, one direction declared for each. Share of studies
  with a significant voxel by the combination, by the conjunction, and in single maps, where
  neither map has an effect, one has, or both have.
- ``cost``: CPU time of a relabelling, both directions, of two maps of 99,405 voxels.

Shares come with their 95 % binomial interval (Wilson).
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from statsmodels.stats.proportion import proportion_confint

from bids_alsmri.numerics.combining import METHODS
from bids_alsmri.numerics.linear import two_groups
from bids_alsmri.numerics.permutation import Exchange, p_values
from bids_alsmri.numerics.tfce import image_neighbourhood
from bids_alsmri.stats.combination import (
    correct_across,
    infer_combination,
    make_combination,
    overlap,
)
from bids_alsmri.stats.inference import Permutation, infer, make_problem

Float = NDArray[np.float64]
LEVEL = 0.05
MASK = np.ones((9, 9, 9), bool)
N, N_FIRST = 20, 9
GROUPS = two_groups(np.arange(N) < N_FIRST)
DIRECTIONS = {"tsc": 1, "fa": -1}
SCENES: dict[str, tuple[str, ...]] = {
    "neither": (),
    "tsc only": ("tsc",),
    "both": ("tsc", "fa"),
}
EFFECT_D = 2.0  # in the middle of a cube of 5 voxels' edge, before smoothing


def smooth(noise: Float, sigma_voxels: float) -> Float:
    """Smooth images of unit variance."""
    image = ndimage.gaussian_filter(noise, (0, *(3 * [sigma_voxels])), mode="wrap")
    return image / image.std()


def share(count: int, n: int) -> str:
    """Share in percent with its interval."""
    low, high = proportion_confint(count, n, method="wilson")
    return f"{100 * count / n:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def across(n_studies: int, n_relabellings: int) -> None:
    """Print how the level is shared between a rough and a smooth map."""
    near = image_neighbourhood(MASK, 6)
    found: Counter[str] = Counter()
    for study in range(n_studies):
        rng = np.random.default_rng([1, study])
        noise = rng.standard_normal((N, *MASK.shape))
        problems = [
            make_problem(
                image[:, MASK],
                *GROUPS,
                near,
                exchange=Exchange(),
                permutation=Permutation(n_permutations=n_relabellings, seed=study),
            )
            for image in (noise, smooth(noise, 2.0))
        ]
        nulls = [problem.block(range(n_relabellings)) for problem in problems]
        maxima = [null.largest_enhanced[:, 0] for null in nulls]
        raw = [p_values(values[:1], np.max(maxima, axis=0))[0] for values in maxima]
        ranks = [
            p.positive.min()
            for p in correct_across(
                [p.relabellings for p in problems], nulls, both_directions=False
            )
        ]
        for name, p in (("raw maxima", raw), ("ranks", ranks)):
            found[f"{name}, rough"] += bool(p[0] <= LEVEL)
            found[f"{name}, smooth"] += bool(p[1] <= LEVEL)
            found[f"{name}, either"] += bool(min(p) <= LEVEL)
    print("| compared | either map % | rough map % | smooth map % |\n|---|---|---|---|")
    for name in ("ranks", "raw maxima"):
        cells = [share(found[f"{name}, {of}"], n_studies) for of in ("either", "rough", "smooth")]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def two_maps(rng: np.random.Generator, changed: tuple[str, ...]) -> dict[str, Float]:
    """Two smooth maps with a correlation of 0.5, some of them with an effect."""
    shared = rng.standard_normal((N, *MASK.shape))
    first = np.zeros((N, *MASK.shape))
    first[:N_FIRST, 2:7, 2:7, 2:7] = EFFECT_D
    effect = ndimage.gaussian_filter(first, (0, 1, 1, 1))
    maps = {}
    for name, sign in DIRECTIONS.items():
        # the maps depend on each other as the directions say: the harder case for a combination
        noise = sign * shared + rng.standard_normal(shared.shape)
        image = smooth(noise, 1.0) + (sign * effect if name in changed else 0.0)
        maps[name] = image[:, MASK]
    return maps


def significant(maps: dict[str, Float], permutation: Permutation) -> dict[str, NDArray[np.bool_]]:
    """Significant voxels in the declared directions, by each test."""
    near = image_neighbourhood(MASK, 6)
    how = {"exchange": Exchange(), "permutation": permutation}
    found, p_maps = {}, {}
    for method in METHODS:
        combined = infer_combination(maps, DIRECTIONS, *GROUPS, near, method=method, **how)
        found[f"combination, {method}"] = combined.declared.p_enhanced_fwe <= LEVEL
    for name, sign in DIRECTIONS.items():
        alone = infer(maps[name], *GROUPS, near, **how)
        p_maps[name] = {
            "positive": alone.positive.p_enhanced_fwe,
            "negative": alone.negative.p_enhanced_fwe,
        }
        found[f"{name} alone"] = p_maps[name]["positive" if sign == 1 else "negative"] <= LEVEL
    found["conjunction"] = overlap(p_maps, DIRECTIONS, level=LEVEL).is_significant
    return found


def tests(n_studies: int, n_relabellings: int, scenes: list[str], seed: int) -> None:
    """Print how often each test is significant, without effect, with one and with two."""
    found: dict[str, Counter[str]] = {name: Counter() for name in scenes}
    for scene in scenes:
        for study in range(n_studies):
            maps = two_maps(np.random.default_rng([seed, study]), SCENES[scene])
            permutation = Permutation(n_permutations=n_relabellings, seed=study)
            for test, voxels in significant(maps, permutation).items():
                found[scene][test] += bool(voxels.any())
    print(f"| test | {' % | '.join(scenes)} % |\n|---{'|---' * len(scenes)}|")
    for test in found[scenes[0]]:
        cells = [share(found[scene][test], n_studies) for scene in scenes]
        print(f"| {test} | {' | '.join(cells)} |", flush=True)


def seconds_each(work: Callable[[range], object]) -> float:
    """CPU seconds of a relabelling, the time to start subtracted."""
    work(range(8))
    times = []
    for n in (8, 72):
        start = time.process_time()
        work(range(n))
        times.append(time.process_time() - start)
    return (times[1] - times[0]) / 64


def cost() -> None:
    """Print the time of a relabelling by each method, and of the single maps."""
    mask = np.ones((47, 47, 45), bool)
    near = image_neighbourhood(mask, 6)
    rng = np.random.default_rng(3)
    maps = {
        name: smooth(rng.standard_normal((37, *mask.shape)), 1.5)[:, mask] for name in DIRECTIONS
    }
    groups = two_groups(np.arange(37) < 13)
    how = {"exchange": Exchange(), "permutation": Permutation()}
    singles = [make_problem(maps[name], *groups, near, **how) for name in DIRECTIONS]
    rows = {"both maps singly": [problem.block for problem in singles]}
    for method in METHODS:
        problem = make_combination(maps, DIRECTIONS, *groups, near, method=method, **how)
        rows[f"combination, {method}"] = [problem.block]
    print(f"| {mask.sum()} voxels, both directions | ms per relabelling |\n|---|---:|")
    for name, blocks in rows.items():
        best = min(sum(seconds_each(block) for block in blocks) for _ in range(3))
        print(f"| {name} | {1000 * best:.1f} |", flush=True)


def main() -> None:
    """Simulate, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--relabellings", type=int, default=100)
    parser.add_argument("--parts", nargs="+", default=["across", "tests", "cost"])
    parser.add_argument("--scenes", nargs="+", default=list(SCENES), choices=list(SCENES))
    parser.add_argument("--seed", type=int, default=2, help="of the studies of `tests`")
    chosen = parser.parse_args()
    if "across" in chosen.parts:
        across(chosen.studies, chosen.relabellings)
    if "tests" in chosen.parts:
        tests(chosen.studies, chosen.relabellings, chosen.scenes, chosen.seed)
    if "cost" in chosen.parts:
        cost()


if __name__ == "__main__":
    main()
