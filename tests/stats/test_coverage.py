"""Intervals hold the truth as often as they say: the benchmark with 100 cohorts."""

import importlib.util
import sys
from pathlib import Path

import pytest
from scipy import stats

N = 100
# as few as one in 2000 methods of 95 % would give
FEWEST = stats.binom.ppf(0.0005, N, 0.95)


def _benchmark():
    path = Path(__file__).parents[2] / "benchmarks" / "clinical_intervals.py"
    spec = importlib.util.spec_from_file_location("benchmark_coverage", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


coverage = _benchmark()
# measured, but not claimed: the papers' own, and what is known to fall short
OTHERS = ("Wald", "delta", "percentile", "pooled", "logit", "bca", "means")


@pytest.mark.slow
@pytest.mark.parametrize("name", [c for c in coverage.CASES if "variance 0" not in c[-10:]])
def test_intervals_hold_the_truth(name):
    found = coverage.measure(coverage.CASES[name], N, seed=7)
    short = {
        estimate: share
        for estimate, (_, share, n) in found.items()
        if share * n < FEWEST and not any(word in estimate for word in OTHERS)
    }
    assert short == {}


@pytest.mark.slow
def test_limbs_taken_as_independent_hold_it_too_rarely():
    # the bound is broken by what it is there to find
    case = coverage.limbs(-0.6, 0.95)
    found = coverage.measure(case, N, seed=7)
    assert found["limbs, pooled as independent"][1] * N < FEWEST


@pytest.mark.slow
def test_false_discoveries_are_held():
    rate, _ = coverage.false_discoveries(20, 7, n_true=12)
    assert rate < 0.1  # of 35 tests in 20 cohorts; 5 % at most are expected
