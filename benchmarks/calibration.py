"""How often inference is wrong where there is no effect: family-wise false positives at 5 %.

Run as ``python benchmarks/calibration.py [--cohorts 1000] [--relabellings 200]``. Each cohort is
smooth noise in a small image, tested by permutations in one direction. Prints a markdown table: the
share of cohorts with a corrected p of at most 0.05, and its 95 % binomial interval (Wilson). The
last study has an effect: there the share is the power.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from statsmodels.stats.proportion import proportion_confint

from bids_alsmri.numerics.linear import two_groups
from bids_alsmri.numerics.permutation import Exchange, make_exchange
from bids_alsmri.numerics.tfce import image_neighbourhood
from bids_alsmri.stats.inference import Permutation, infer

Float = NDArray[np.float64]
SHAPE = (10, 10, 10)
MASK = np.ones(SHAPE, bool)
FWHM_VOXELS = 3.0


@dataclass(frozen=True)
class Study:
    """One simulated study."""

    data: Float
    design: Float
    contrast: Float
    exchange: Exchange


def smooth_noise(rng: np.random.Generator, n: int) -> Float:
    """Noise of unit variance, one row an image."""
    sigma = (0.0, *(3 * [FWHM_VOXELS / 2.355]))
    noise = ndimage.gaussian_filter(rng.standard_normal((n, *SHAPE)), sigma, mode="wrap")
    return (noise / noise.std())[:, MASK]


def groups_alike(rng: np.random.Generator) -> Study:
    """13 fast progressors against 24 controls."""
    design, contrast = two_groups(np.arange(37) < 13)
    return Study(smooth_noise(rng, 37), design, contrast, Exchange())


def with_covariate(rng: np.random.Generator) -> Study:
    """The same, adjusted for an age that differs between the groups and has an effect."""
    first = np.arange(37) < 13
    age = rng.normal(0, 1, 37) + first
    design, contrast = two_groups(first, age[:, np.newaxis])
    return Study(smooth_noise(rng, 37) + age[:, np.newaxis], design, contrast, Exchange())


def within_blocks(rng: np.random.Generator) -> Study:
    """Two visits of twelve participants, exchanged within each."""
    person = np.repeat(np.arange(12), 2)
    visit = np.tile([0.5, -0.5], 12)
    design = np.column_stack([visit, *(person == p for p in range(12))]).astype(float)
    data = smooth_noise(rng, 24) + 2 * smooth_noise(rng, 12)[person]
    return Study(data, design, np.eye(13)[0], make_exchange(24, blocks=person))


def sign_flips(rng: np.random.Generator) -> Study:
    """Mean change of 16 participants."""
    return Study(
        smooth_noise(rng, 16), np.ones((16, 1)), np.ones(1), Exchange(permutes=False, flips=True)
    )


def wider_first_group(rng: np.random.Generator) -> Study:
    """13 against 24, the noise of the smaller group twice as wide: not exchangeable."""
    study = groups_alike(rng)
    study.data[:13] *= 2.0
    return study


def with_effect(rng: np.random.Generator) -> Study:
    """An effect of d = 1 in a cube of five voxels' edge."""
    study = groups_alike(rng)
    image = np.zeros(SHAPE)
    image[2:7, 2:7, 2:7] = 1.0
    study.data[:13] += image[MASK]
    return study


STUDIES: dict[str, Callable[[np.random.Generator], Study]] = {
    "13 against 24": groups_alike,
    "with a covariate": with_covariate,
    "within blocks of two": within_blocks,
    "sign flips of 16": sign_flips,
    "unequal variances (Student's t)": wider_first_group,
    "an effect of d = 1 (power)": with_effect,
}


def rates(study: Callable[[np.random.Generator], Study], chosen: argparse.Namespace) -> list[int]:
    """Cohorts with a significant voxel: by t, enhanced t, and enhanced t with a fitted tail."""
    near = image_neighbourhood(MASK, 6)
    found = [0, 0, 0] if study is groups_alike else [0, 0]
    for cohort in range(chosen.cohorts):
        one = study(np.random.default_rng([7, cohort]))
        permutation = Permutation(n_permutations=chosen.relabellings, seed=cohort)
        ways = (permutation, replace(permutation, tail=True))[: len(found) - 1]
        for k, how in enumerate(ways):
            result = infer(
                one.data, one.design, one.contrast, near, exchange=one.exchange, permutation=how
            ).positive
            if k == 0:
                found[0] += bool(result.p_statistic_fwe.min() <= 0.05)
            found[1 + k] += bool(result.p_enhanced_fwe.min() <= 0.05)
    return found


def main() -> None:
    """Simulate, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cohorts", type=int, default=1000)
    parser.add_argument("--relabellings", type=int, default=200)
    chosen = parser.parse_args()
    print("| study | statistic | share % | 95 % interval |\n|---|---|---:|---|")
    for name, study in STUDIES.items():
        statistics = ("t", "TFCE", "TFCE, fitted tail")
        for statistic, count in zip(statistics, rates(study, chosen), strict=False):
            low, high = proportion_confint(count, chosen.cohorts, method="wilson")
            interval = f"{100 * low:.1f} to {100 * high:.1f}"
            share = 100 * count / chosen.cohorts
            print(f"| {name} | {statistic} | {share:.1f} | {interval} |", flush=True)


if __name__ == "__main__":
    main()
