"""How often inference is wrong where there is no effect: family-wise false positives at 5 %.

Run as ``python benchmarks/calibration.py [--studies 1000] [--relabellings 200]
[--cases NAME ...]``. Each study is smooth noise in a small image, tested by permutations. Prints a
markdown table: the share of studies with a corrected p of at most 0.05, and its 95 % binomial
interval (Wilson). The studies of the last case have an effect: there the share is the power.
``--tail`` prints instead how p-values of 500 relabellings with a fitted tail compare with those of
50,000 without.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from statsmodels.stats.proportion import proportion_confint

from bids_alsmri.numerics.linear import two_groups
from bids_alsmri.numerics.permutation import Exchange, make_exchange
from bids_alsmri.numerics.tfce import image_neighbourhood
from bids_alsmri.stats.inference import Direction, Inference, Permutation, conclude, make_problem

Float = NDArray[np.float64]
LEVEL = 0.05
SHAPE = (10, 10, 10)
MASK = np.ones(SHAPE, bool)
NEAR = image_neighbourhood(MASK, 6)
FWHM_VOXELS = 3.0
CLUSTER_HEIGHT = 3.1
N_FAST, N_SLOW, N_CONTROLS = 13, 16, 24
FIRST = np.arange(N_FAST + N_CONTROLS) < N_FAST
THREE = np.repeat([0, 1, 2], [N_FAST, N_SLOW, N_CONTROLS])
ANY_OF_THREE = np.array([[1.0, -1.0, 0.0], [0.0, 1.0, -1.0]])


@dataclass(frozen=True)
class Study:
    """One simulated study."""

    data: Float
    design: Float
    contrast: ArrayLike
    exchange: Exchange = field(default_factory=Exchange)
    variance_groups: NDArray[np.generic] | None = None
    covariates: Float | None = None


def smooth_noise(rng: np.random.Generator, n: int) -> Float:
    """Noise of unit variance, one row an image."""
    sigma = (0.0, *(3 * [FWHM_VOXELS / 2.355]))
    noise = ndimage.gaussian_filter(rng.standard_normal((n, *SHAPE)), sigma, mode="wrap")
    return (noise / noise.std())[:, MASK]


def groups_alike(rng: np.random.Generator) -> Study:
    """13 fast progressors against 24 controls."""
    return Study(smooth_noise(rng, len(FIRST)), *two_groups(FIRST))


def with_covariate(rng: np.random.Generator) -> Study:
    """The same, adjusted for an age that differs between the groups and has an effect."""
    age = (rng.normal(0, 1, len(FIRST)) + FIRST)[:, np.newaxis]
    return Study(smooth_noise(rng, len(FIRST)) + age, *two_groups(FIRST, age))


def voxelwise_covariate(rng: np.random.Generator) -> Study:
    """The same, adjusted for a map of each participant, of which the same holds."""
    grey = smooth_noise(rng, len(FIRST)) + FIRST[:, np.newaxis]
    data = smooth_noise(rng, len(FIRST)) + grey
    return Study(data, *two_groups(FIRST), covariates=grey[np.newaxis])


def within_blocks(rng: np.random.Generator) -> Study:
    """Two visits of twelve participants, exchanged within each."""
    person = np.repeat(np.arange(12), 2)
    visit = np.tile([0.5, -0.5], 12)
    design = np.column_stack([visit, *(person == p for p in range(12))]).astype(float)
    data = smooth_noise(rng, 24) + 2 * smooth_noise(rng, 12)[person]
    return Study(data, design, np.eye(13)[0], make_exchange(24, blocks=person))


def three_visits(rng: np.random.Generator) -> Study:
    """Three visits of ten participants, equally correlated: any difference between visits."""
    person, visit = np.repeat(np.arange(10), 3), np.tile(np.arange(3), 10)
    design = np.column_stack([visit == 1, visit == 2, *(person == p for p in range(10))])
    data = smooth_noise(rng, 30) + 2 * smooth_noise(rng, 10)[person]
    exchange = make_exchange(30, blocks=person, assumes_compound_symmetry=True)
    return Study(data, design.astype(float), np.eye(12)[:2], exchange)


def whole_blocks(rng: np.random.Generator) -> Study:
    """Two visits of 8 patients and 12 controls, participants exchanged with both visits."""
    person = np.repeat(np.arange(20), 2)
    data = smooth_noise(rng, 40) + 2 * smooth_noise(rng, 20)[person]
    exchange = make_exchange(40, blocks=person, moves_whole_blocks=True, visits=np.tile([1, 2], 20))
    return Study(data, *two_groups(person < 8), exchange)


def sign_flips(rng: np.random.Generator) -> Study:
    """Mean change of 16 participants."""
    exchange = Exchange(permutes=False, flips=True)
    return Study(smooth_noise(rng, N_SLOW), np.ones((N_SLOW, 1)), np.ones(1), exchange)


def three_groups(rng: np.random.Generator) -> Study:
    """Any difference between 13 fast and 16 slow progressors and 24 controls."""
    return Study(smooth_noise(rng, len(THREE)), np.eye(3)[THREE], ANY_OF_THREE)


def one_model(rng: np.random.Generator) -> Study:
    """13 against 24 in a model with the 16, who differ and stay in place, and an age."""
    age = rng.normal(0, 1, len(THREE)) + (THREE == 0)
    data = smooth_noise(rng, len(THREE)) + 3.0 * (THREE == 1)[:, np.newaxis] + age[:, np.newaxis]
    design = np.column_stack([np.eye(3)[THREE], age - age.mean()])
    exchange = make_exchange(len(THREE), movable=THREE != 1)
    return Study(data, design, [1.0, 0.0, -1.0, 0.0], exchange)


def wider_small_group(rng: np.random.Generator) -> Study:
    """13 against 24, the noise of the 13 twice as wide: not exchangeable."""
    study = groups_alike(rng)
    study.data[FIRST] *= 2.0
    return study


def wider_large_group(rng: np.random.Generator) -> Study:
    """13 against 24, the noise of the 24 twice as wide: not exchangeable."""
    study = groups_alike(rng)
    study.data[~FIRST] *= 2.0
    return study


def wider_of_three(rng: np.random.Generator) -> Study:
    """13, 16 and 24, the noise of the 13 twice as wide."""
    study = three_groups(rng)
    study.data[THREE == 0] *= 2.0
    return study


def by_groups(make: Callable[[np.random.Generator], Study]) -> Callable[..., Study]:
    """The same studies, with a variance for each group."""

    def made(rng: np.random.Generator) -> Study:
        study = make(rng)
        is_two = len(study.data) == len(FIRST)
        return replace(study, variance_groups=FIRST if is_two else THREE)

    return made


def by_flips(make: Callable[[np.random.Generator], Study]) -> Callable[..., Study]:
    """The same studies, with a variance for each group and flips of signs for permutations."""
    grouped = by_groups(make)
    flips = Exchange(permutes=False, flips=True)
    return lambda rng: replace(grouped(rng), exchange=flips)


def with_effect(rng: np.random.Generator) -> Study:
    """An effect of d = 1 in a cube of five voxels' edge."""
    study = groups_alike(rng)
    image = np.zeros(SHAPE)
    image[2:7, 2:7, 2:7] = 1.0
    study.data[FIRST] += image[MASK]
    return study


def smallest(
    side: str, value: Callable[[Direction], NDArray[np.floating]]
) -> Callable[[Inference], float]:
    """Smallest corrected p-value of a side of a contrast."""
    return lambda found: float(value(getattr(found, side)).min())


VOXEL = smallest("positive", lambda d: d.p_statistic_fwe)
ENHANCED = smallest("positive", lambda d: d.p_enhanced_fwe)
EXTENT = smallest("positive", lambda d: np.ones(1) if d.clusters is None else d.clusters.p_fwe)
TWO_SIDED = smallest("either", lambda d: d.p_statistic_fwe)
TWO_SIDED_ENHANCED = smallest("either", lambda d: d.p_enhanced_fwe)
TAIL = "TFCE, fitted tail"


@dataclass(frozen=True)
class Case:
    """Studies of one kind, and what is tested in them."""

    make: Callable[[np.random.Generator], Study]
    statistics: dict[str, Callable[[Inference], float]]


T = {"t": VOXEL, "TFCE of t": ENHANCED}
F = {"F": VOXEL, "TFCE of F": ENHANCED}
V = {"Welch's v": VOXEL, "TFCE of v": ENHANCED}
G = {"G": VOXEL, "TFCE of G": ENHANCED}
SIDES = {"two-sided t": TWO_SIDED, "two-sided TFCE of t": TWO_SIDED_ENHANCED}
CLUSTERS = {f"extent of clusters at t = {CLUSTER_HEIGHT}": EXTENT}

CASES = {
    "13 against 24": Case(groups_alike, {**T, TAIL: ENHANCED, **CLUSTERS, **SIDES}),
    "the same, v": Case(by_groups(groups_alike), V),
    "the same, v by sign flips": Case(by_flips(groups_alike), V),
    "with a covariate": Case(with_covariate, T),
    "with a voxelwise covariate": Case(voxelwise_covariate, T),
    "13 against 24 in a model with 16 others": Case(one_model, T),
    "any of 13, 16 and 24": Case(three_groups, F),
    "two visits, exchanged within 12": Case(within_blocks, T),
    "three visits, exchanged within 10": Case(three_visits, F),
    "two visits, 8 and 12 exchanged as wholes": Case(whole_blocks, T),
    "sign flips of 16": Case(sign_flips, {**T, **SIDES}),
    "the 13 twice as wide, t": Case(wider_small_group, T),
    "the 13 twice as wide, v": Case(by_groups(wider_small_group), V),
    "the 13 twice as wide, v by sign flips": Case(by_flips(wider_small_group), V),
    "the 24 twice as wide, t": Case(wider_large_group, T),
    "the 24 twice as wide, v": Case(by_groups(wider_large_group), V),
    "the 24 twice as wide, v by sign flips": Case(by_flips(wider_large_group), V),
    "the 13 of three groups twice as wide, F": Case(wider_of_three, F),
    "the 13 of three groups twice as wide, G": Case(by_groups(wider_of_three), G),
    "the 13 of three groups twice as wide, G by sign flips": Case(by_flips(wider_of_three), G),
    "power: d = 1 in a cube of 5 voxels": Case(with_effect, {**T, **CLUSTERS, **SIDES}),
}


def count_significant(case: Case, n_studies: int, n_relabellings: int) -> dict[str, int]:
    """Studies with a corrected p of at most 0.05, by statistic."""
    counts = dict.fromkeys(case.statistics, 0)
    for number in range(n_studies):
        one = case.make(np.random.default_rng([7, number]))
        problem = make_problem(
            one.data,
            one.design,
            one.contrast,
            NEAR,
            exchange=one.exchange,
            permutation=Permutation(
                n_permutations=n_relabellings,
                seed=number,
                cluster_height=CLUSTER_HEIGHT if EXTENT in case.statistics.values() else None,
            ),
            variance_groups=one.variance_groups,
            voxelwise_covariates=one.covariates,
        )
        null = problem.block(range(len(problem.relabellings)))
        found = conclude(problem, null)
        for name, smallest_p in case.statistics.items():
            result = found
            if name == TAIL:
                tail = replace(problem, permutation=replace(problem.permutation, tail=True))
                result = conclude(tail, null)
            counts[name] += smallest_p(result) <= LEVEL
    return counts


def tail_ratios(n_studies: int, n_few: int, n_many: int) -> Float:
    """Corrected p of few relabellings with a tail over that of many, between 0.001 and 0.05."""
    ratios: list[float] = []
    for number in range(n_studies):
        one = with_effect(np.random.default_rng([8, number]))
        few, many = (
            conclude(problem, problem.block(range(len(problem.relabellings)))).positive
            for problem in (
                make_problem(
                    one.data,
                    one.design,
                    one.contrast,
                    NEAR,
                    exchange=one.exchange,
                    permutation=Permutation(n_permutations=n, seed=number, tail=tail),
                )
                for n, tail in ((n_few, True), (n_many, False))
            )
        )
        expected = many.p_enhanced_fwe
        chosen = (expected > 0.001) & (expected < LEVEL) & ~few.is_counted_enhanced
        ratios.extend(few.p_enhanced_fwe[chosen] / expected[chosen])
    return np.array(ratios)


def main() -> None:
    """Simulate, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--relabellings", type=int, default=200)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--tail", action="store_true", help="500 with a tail, 50,000 without")
    chosen = parser.parse_args()
    if chosen.tail:
        ratios = tail_ratios(chosen.studies, 500, 50_000)
        low, median, high = np.quantile(ratios, [0.05, 0.5, 0.95])
        print(f"{len(ratios)} voxels: median {median:.3f}, 90 % from {low:.2f} to {high:.2f}")
        return
    print("| study | statistic | share % | 95 % interval |\n|---|---|---:|---|")
    for name in chosen.cases:
        counts = count_significant(CASES[name], chosen.studies, chosen.relabellings)
        for statistic, count in counts.items():
            low, high = proportion_confint(count, chosen.studies, method="wilson")
            interval = f"{100 * low:.1f} to {100 * high:.1f}"
            share = 100 * count / chosen.studies
            print(f"| {name} | {statistic} | {share:.1f} | {interval} |", flush=True)


if __name__ == "__main__":
    main()
