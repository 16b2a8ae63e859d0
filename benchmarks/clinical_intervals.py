"""How often intervals of the clinical statistics hold the truth, and what attrition does to them.

Run as ``python benchmarks/clinical_intervals.py [--simulations 4000] [--seed 1]``; prints tables.
Cohorts have the structure of the papers: Jenkins 2020 (29 patients, 22 controls, visits at 0, 4
and 12 months, 5 lost by the second and 16 by the third, changes in per cent and ratios of variance
of its table 5), Cosottini 2016 (18 patients, 4 limbs each; 13 controls) and Diamanti 2018 (10
patients, 9 controls, grades of 0 to 3). Nothing here comes from the functions that are measured:
truth is what the cohorts are drawn from.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from bids_alsmri.stats.association import clustered_correlation, rank_correlation
from bids_alsmri.stats.comparison import (
    compare_adjusted,
    compare_numbers,
    permute_groups,
    proportion_interval,
)
from bids_alsmri.stats.longitudinal import course_of, pattern_mixture, response_mean
from bids_alsmri.stats.multiplicity import adjust_family

Floats = NDArray[np.float64]
MONTHS = (0.0, 4.0, 12.0)
N_PATIENTS, N_CONTROLS = 29, 22
LOST = (0, 5, 16)
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """One estimate of one simulation."""

    value: float
    low: float
    high: float
    truth: float

    @property
    def covers(self) -> bool:
        """Whether the interval holds the truth."""
        return self.low <= self.truth <= self.high


Case = Callable[[np.random.Generator], dict[str, Interval]]


def group_difference(percent: float, cov: float) -> Case:
    """Patients against controls, adjusted for age and sex; controls have a mean of 1."""

    def draw(rng: np.random.Generator) -> dict[str, Interval]:
        first = np.arange(N_PATIENTS + N_CONTROLS) < N_PATIENTS
        age = rng.normal(56, 14, len(first))
        sex = rng.random(len(first)) < 0.35
        y = 1 + percent / 100 * first + 0.004 * (age - age.mean()) + 0.05 * (sex - sex.mean())
        y += rng.normal(0, cov, len(first))
        found = compare_adjusted(y, first, np.column_stack([age, sex]), level=LEVEL)
        ratio, delta = found.percent, found.percent_delta
        # the control mean is taken at the mean covariates, where it is 1
        fieller = Interval(ratio.value, ratio.low, ratio.high, percent)
        if ratio.bounds != "bounded":
            covers = ratio.bounds == "all" or not ratio.low < percent < ratio.high
            fieller = Interval(
                ratio.value, *((percent,) * 2 if covers else (math.inf,) * 2), percent
            )
        return {
            "difference, t": Interval(found.difference, found.low, found.high, percent / 100),
            "ratio, Fieller": fieller,
            "ratio, delta method": Interval(delta.value, delta.low, delta.high, percent),
        }

    return draw


def visits(
    rng: np.random.Generator, changes: tuple[float, float], ratio: float, *, lose: str = "random"
) -> tuple[list[float], list[int], list[float], Floats]:
    """Values of all patients and visits in rows, with those lost as NaN; and the whole table."""
    between, within = math.sqrt(ratio), math.sqrt(1 - ratio)
    whole = (
        10
        + between * rng.normal(size=(N_PATIENTS, 1))
        + np.array([0.0, *changes])
        + within * rng.normal(size=(N_PATIENTS, 3))
    )
    return (*_rows(_lose(rng, whole, lose)), whole)


def _lose(rng: np.random.Generator, whole: Floats, lose: str) -> Floats:
    seen = whole.copy()
    order = rng.permutation(len(whole))
    if lose != "random":
        change = whole[:, 1 if lose == "observed" else 2] - whole[:, 0]
        order = np.argsort(-change + rng.normal(0, 0.5 * change.std(), len(whole)))
    seen[order[: LOST[2]], 2] = np.nan
    if lose == "random":
        seen[rng.permutation(order[: LOST[2]])[: LOST[1]], 1] = np.nan
    elif lose == "informative":
        seen[order[: LOST[1]], 1] = np.nan
    return seen


def _rows(seen: Floats) -> tuple[list[float], list[int], list[float]]:
    who = np.repeat(np.arange(len(seen)), 3).tolist()
    return seen.ravel().tolist(), who, list(MONTHS) * len(seen)


def mixed_model(changes: tuple[float, float], ratio: float) -> Case:
    """Changes to 4 and 12 months of one measure, lost at random."""

    def draw(rng: np.random.Generator) -> dict[str, Interval]:
        y, who, when, _ = visits(rng, changes, ratio)
        found = {}
        for mode, name in (
            ("best", "REML, free covariance, Kenward-Roger t"),
            ("paper", "ML, Wald z"),
        ):
            course = course_of(y, who, when, order=MONTHS, mode=mode, level=LEVEL)  # type: ignore[arg-type]
            for change, truth in zip(course.changes, changes, strict=True):
                e, p = change.change, change.percent
                found[f"change to {change.visit:g} months, {name}"] = Interval(
                    e.value, e.low, e.high, truth
                )
                found[f"the same to {change.visit:g} in per cent, Fieller, {name}"] = Interval(
                    p.value, p.low, p.high, 10 * truth
                )
        return found

    return draw


def responsiveness(truth: float, n: int, *kinds: str) -> Case:
    """Standardised response mean of completers, by intervals of some kinds."""

    def draw(rng: np.random.Generator) -> dict[str, Interval]:
        changes = rng.normal(truth, 1, n)
        found = {}
        for kind in kinds:
            own = response_mean(changes, kind=kind, level=LEVEL, n_draws=500, rng=rng)  # type: ignore[arg-type]
            found[f"SRM, {kind}"] = Interval(own.value, own.low, own.high, truth)
        return found

    return draw


def proportion(truth: float, n: int) -> Case:
    """Share of patients with a weak muscle."""

    def draw(rng: np.random.Generator) -> dict[str, Interval]:
        count = int(rng.binomial(n, truth))
        found = {}
        for kind in ("logit", "wilson", "exact"):
            low, high = proportion_interval(count, n, kind=kind, level=LEVEL)  # type: ignore[arg-type]
            found[f"proportion, {kind}"] = Interval(count / n, low, high, truth)
        return found

    return draw


def limbs(rho: float, shared: float) -> Case:
    """Cosottini 2016: 18 patients of 4 limbs; measures of a patient's limbs are alike."""
    # Spearman's rho of two normal variables of this correlation
    truth = 6 / math.pi * math.asin(rho / 2)

    def draw(rng: np.random.Generator) -> dict[str, Interval]:
        own = rng.multivariate_normal([0, 0], [[1, rho], [rho, 1]], size=18)
        each = rng.multivariate_normal([0, 0], [[1, rho], [rho, 1]], size=(18, 4))
        both = math.sqrt(shared) * own[:, np.newaxis] + math.sqrt(1 - shared) * each
        x, y = both[:, :, 0].ravel(), both[:, :, 1].ravel()
        who = np.repeat(np.arange(18), 4)
        clustered = clustered_correlation(x, y, who, level=LEVEL)
        pooled = rank_correlation(x, y, level=LEVEL)
        means = rank_correlation(both[:, :, 0].mean(1), both[:, :, 1].mean(1), level=LEVEL)
        return {
            name: Interval(r.rho, r.low, r.high, truth)
            for name, r in (
                ("limbs, participants as clusters", clustered),
                ("limbs, pooled as independent", pooled),
                ("means of 18 patients", means),
            )
        }

    return draw


CASES: dict[str, Case] = {
    "29 patients, 22 controls, 18 %, CoV 0.2": group_difference(18.0, 0.2),
    "29 patients, 22 controls, 71 %, CoV 0.7": group_difference(71.4, 0.7),
    "3 visits, ratio of variance 0.87": mixed_model((0.3, 0.8), 0.87),
    "3 visits, ratio of variance 0.17": mixed_model((0.3, 0.8), 0.17),
    "3 visits, ratio of variance 0": mixed_model((0.0, 0.5), 0.0),
    "13 completers, SRM 0.82": responsiveness(0.82, 13, "noncentral"),
    "13 completers, SRM 1.59": responsiveness(1.59, 13, "noncentral"),
    "28 patients, proportion 0.14": proportion(0.14, 28),
    "28 patients, proportion 0.43": proportion(0.43, 28),
    "18 patients, 4 limbs, correlation -0.6": limbs(-0.6, 0.6),
}
# Bootstraps are slow: a quarter as many.
SLOW_CASES: dict[str, Case] = {
    "13 completers, SRM 0.82": responsiveness(0.82, 13, "bca", "percentile"),
    "13 completers, SRM 1.59": responsiveness(1.59, 13, "bca", "percentile"),
}


def measure(case: Case, n: int, seed: int) -> dict[str, tuple[float, float, int]]:
    """Bias, share of intervals that hold the truth, and their number, by estimate."""
    found: dict[str, list[Interval]] = {}
    for index in range(n):
        for name, interval in case(np.random.default_rng([seed, index])).items():
            found.setdefault(name, []).append(interval)
    return {
        name: (
            float(np.nanmean([one.value - one.truth for one in own])),
            float(np.mean([one.covers for one in own])),
            len(own),
        )
        for name, own in found.items()
    }


def false_discoveries(n: int, seed: int, *, n_true: int = 12) -> tuple[float, float]:
    """Mean share of false discoveries among 35 correlated tests, and their power."""
    shares, powers = [], []
    first = np.arange(N_PATIENTS + N_CONTROLS) < N_PATIENTS
    for index in range(n):
        rng = np.random.default_rng([seed, index])
        y = rng.normal(size=(len(first), 35)) + rng.normal(size=(len(first), 1))
        y[:, :n_true] += 1.2 * first[:, np.newaxis]
        keep = adjust_family([compare_adjusted(v, first, level=LEVEL).p for v in y.T]) <= 0.05
        shares.append(keep[n_true:].sum() / max(keep.sum(), 1))
        powers.append(keep[:n_true].mean() if n_true else np.nan)
    return float(np.mean(shares)), float(np.mean(powers))


def false_positives_of_grades(n: int, seed: int) -> dict[str, float]:
    """Diamanti 2018 without a difference: share of tests of 10 and 9 with p of 0.05 or less."""
    counts = {"Mann-Whitney, normal": 0, "permutation of ranks": 0}
    for index in range(n):
        rng = np.random.default_rng([seed, index])
        grades = rng.choice(4, 19, p=[0.5, 0.3, 0.15, 0.05]).astype(float)
        a, b = grades[:10], grades[10:]
        if np.ptp(grades) == 0:
            continue
        counts["Mann-Whitney, normal"] += compare_numbers(a, b, "mann-whitney").p <= 0.05
        own = permute_groups(a, b, of="rank", n_draws=499, rng=rng)
        counts["permutation of ranks"] += own.p <= 0.05
    return {name: count / n for name, count in counts.items()}


ATTRITION = {
    "random": "at random",
    "observed": "given observed scores",
    "informative": "fast leave",
}


def attrition(lose: str, n: int, seed: int) -> dict[str, tuple[float, float]]:
    """Bias of the change to 12 months (truth 1.2, of rates that differ), and coverage."""
    found: dict[str, list[Interval]] = {}
    for index in range(n):
        rng = np.random.default_rng([seed, index])
        rate = rng.normal(0.1, 0.06, N_PATIENTS)
        whole = 10 + rng.normal(size=(N_PATIENTS, 1)) + np.outer(rate, MONTHS)
        whole += rng.normal(0, 0.2, whole.shape)
        seen = _lose(rng, whole, lose)
        y, who, when = _rows(seen)
        course = course_of(y, who, when, order=MONTHS, mode="best", level=LEVEL)
        mixture = pattern_mixture(
            course, y, who, when, order=MONTHS, months=MONTHS, visit=12.0, level=LEVEL
        )
        change = seen[:, 2] - seen[:, 0]
        change = change[np.isfinite(change)]
        completers = stats.ttest_1samp(change, 0).confidence_interval(LEVEL)
        sd = math.sqrt((12 * 0.06) ** 2 + 2 * 0.2**2)
        srm = response_mean(change, kind="noncentral", level=LEVEL)
        own = {
            "completers": Interval(float(change.mean()), *completers, 1.2),
            "SRM of completers": Interval(srm.value, srm.low, srm.high, 1.2 / sd),
        }
        for scenario in mixture.scenarios[:2]:
            name = "mixed model" if "model" in scenario.name else "own rates of those who left"
            own[name] = Interval(scenario.value, scenario.low, scenario.high, 1.2)
        for name, interval in own.items():
            found.setdefault(name, []).append(interval)
    return {
        name: (
            float(np.mean([i.value - i.truth for i in own])),
            float(np.mean([i.covers for i in own])),
        )
        for name, own in found.items()
    }


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--simulations", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="cohorts whose name holds this text, alone")
    args = parser.parse_args()
    n, seed = args.simulations, args.seed
    print("| cohort | estimate | bias | coverage (%) |\n|---|---|---|---|", flush=True)
    few = max(n // 4, 1)
    rows = [(title, case, n) for title, case in CASES.items()]
    for title, case, many in [*rows, *((t, c, few) for t, c in SLOW_CASES.items())]:
        if args.only not in title:
            continue
        for name, (bias, share, _) in measure(case, many, seed).items():
            print(f"| {title} | {name} | {bias:+.3f} | {100 * share:.1f} |", flush=True)
    if args.only:
        return
    print("\n| those who leave | estimate | bias | coverage (%) |\n|---|---|---|---|", flush=True)
    for lose, title in ATTRITION.items():
        for name, (bias, share) in attrition(lose, few, seed).items():
            print(f"| {title} | {name} | {bias:+.3f} | {100 * share:.1f} |", flush=True)
    print("\n| test | found (%) |\n|---|---|")
    for n_true in (12, 0):
        rate, power = false_discoveries(few, seed, n_true=n_true)
        print(f"| false discoveries of 35 tests, {n_true} true | {100 * rate:.1f} |", flush=True)
        if n_true:
            print(f"| power of these | {100 * power:.1f} |", flush=True)
    for name, share in false_positives_of_grades(few, seed).items():
        print(f"| grades of 10 and 9 without difference, {name} | {100 * share:.1f} |", flush=True)


if __name__ == "__main__":
    main()
