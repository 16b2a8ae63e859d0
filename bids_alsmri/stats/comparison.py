"""Groups compared: tests, adjusted differences in per cent, proportions, quartiles."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special
from scipy import stats as scipy_stats
from statsmodels.stats.proportion import proportion_confint

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.checks import as_float, require_finite, require_range

_Array = NDArray[np.float64]

NumberTest = Literal["t", "welch", "mann-whitney", "kruskal-wallis"]
CountTest = Literal["fisher", "chi-squared"]
ProportionInterval = Literal["logit", "wilson", "exact"]
QuartileRule = Literal["averaged", "linear"]
# Of the ratio: an interval, all but one, or every number.
Bounds = Literal["bounded", "outside", "all"]

_MAX_TABLES = 500_000  # that an exact test lists
_MAX_EXACT_RANKS = 8  # participants of the smaller group
_SAME_PROBABILITY = 1e-7  # relative: tables as probable as the one observed
_NO_VARIANCE = 1e-12  # of the values' sum of squares: what a perfect fit leaves by rounding


@dataclass(frozen=True)
class TestResult:
    """Comparison of two groups.

    Parameters
    ----------
    test : str
        Full name.
    statistic, dof : float
        NaN where the test has none.
    p : float
        Two-sided, uncorrected; NaN where it cannot be computed.
    n_first, n_second : int
        Values that went into it.
    note : str
        Why there is no p-value, or what weakens it.
    """

    __test__ = False  # no test case, whatever its name says to pytest

    test: str
    statistic: float
    dof: float
    p: float
    n_first: int
    n_second: int
    note: str = ""


def compare_numbers(first: ArrayLike, second: ArrayLike, test: str) -> TestResult:
    """Two-sided comparison of the numbers of two groups.

    Parameters
    ----------
    first, second : (n,) and (m,) array
        Finite.
    test : {"t", "welch", "mann-whitney", "kruskal-wallis"}
        Student's t with equal variances; Welch's without; ranks.

    Returns
    -------
    TestResult
        Without p-value and with a note where a group has fewer than 2 values, or these do not
        vary. The statistic of ``mann-whitney`` is U of the first group.

    Raises
    ------
    NumericsError
        If there is no such test.

    Notes
    -----
    Mann-Whitney is exact where the smaller group has at most 8 values and there are no ties, else
    normal with corrections for ties and continuity. Kruskal-Wallis of two groups is the same
    without the correction for continuity.

    Examples
    --------
    >>> compare_numbers([1, 2, 3], [4, 5, 6], "mann-whitney").p
    0.1
    """
    if test not in get_args(NumberTest):
        raise NumericsError(f"test is '{test}'; expected one of {', '.join(get_args(NumberTest))}")
    a, b = np.asarray(first, float), np.asarray(second, float)
    both = np.concatenate([a, b])
    has_ties = len(np.unique(both)) < len(both)
    is_exact = min(len(a), len(b)) <= _MAX_EXACT_RANKS and not has_ties
    name = {
        "t": "Student's t",
        "welch": "Welch's t",
        "mann-whitney": f"Mann-Whitney U ({'exact' if is_exact else 'normal approximation'})",
        "kruskal-wallis": "Kruskal-Wallis H",
    }[test]
    note = _why_no_test(a, b, test)
    if note:
        return TestResult(name, np.nan, np.nan, np.nan, len(a), len(b), note)
    dof = np.nan
    if test in ("t", "welch"):
        with warnings.catch_warnings():
            # one group may be constant, such as controls who all have the full score
            warnings.filterwarnings("ignore", "Precision loss occurred", RuntimeWarning)
            found = scipy_stats.ttest_ind(a, b, equal_var=test == "t")
        dof = found.df
    elif test == "mann-whitney":
        method = "exact" if is_exact else "asymptotic"
        found = scipy_stats.mannwhitneyu(a, b, method=method)
    else:
        found = scipy_stats.kruskal(a, b)
        dof = 1.0
    least = smallest_p(len(a), len(b))
    if test == "mann-whitney" and is_exact and least > 0.05:
        note = f"no p below {least:.3g} can be reached with {len(a)} and {len(b)} values"
    return TestResult(
        name, float(found.statistic), float(dof), float(found.pvalue), len(a), len(b), note
    )


def _why_no_test(a: NDArray[np.float64], b: NDArray[np.float64], test: str) -> str:
    if min(len(a), len(b)) < 2:
        return f"{len(a)} and {len(b)} values; at least 2 in each group are needed"
    if test in ("t", "welch") and np.ptp(a) == 0 and np.ptp(b) == 0:
        return "values do not vary within the groups"
    if np.ptp(np.concatenate([a, b])) == 0:
        return "all values are the same"
    return ""


def compare_counts(counts: ArrayLike, test: str) -> TestResult:
    r"""Comparison of how often labels occur in two groups.

    Parameters
    ----------
    counts : (k, 2) array of int
        Labels in rows, groups in columns; labels that nobody has are left out.
    test : {"fisher", "chi-squared"}
        Exact, or Pearson's without the correction for continuity.

    Returns
    -------
    TestResult
        Without p-value and with a note where a group is empty or all have the same label. A note
        says where a count expected by ``chi-squared`` is below 5, and where ``fisher`` would have
        to list more than 500000 tables: chi-squared takes its place then, and the name says so.

    Raises
    ------
    NumericsError
        If there is no such test.

    Notes
    -----
    The exact p-value is the probability of all tables with the same margins that are at most as
    probable as the one observed (for more than two labels: Freeman and Halton 1951,
    doi:10.1093/biomet/38.1-2.141). It has no statistic.

    Examples
    --------
    >>> round(compare_counts([[9, 11], [20, 13]], "fisher").p, 3)
    0.394
    """
    if test not in get_args(CountTest):
        raise NumericsError(f"test is '{test}'; expected one of {', '.join(get_args(CountTest))}")
    table = np.asarray(counts, int).reshape(-1, 2)
    table = table[table.sum(axis=1) > 0]
    n_first, n_second = (int(n) for n in table.sum(axis=0))
    name = {"fisher": "Fisher's exact", "chi-squared": "Pearson's chi-squared"}[test]
    if min(n_first, n_second) == 0 or len(table) < 2:
        note = "a group has no values" if min(n_first, n_second) == 0 else "all have the same label"
        return TestResult(name, np.nan, np.nan, np.nan, n_first, n_second, note)
    n_tables = math.prod(int(n) + 1 for n in table[:-1].sum(axis=1))
    if test == "fisher" and n_tables <= _MAX_TABLES:
        p = _exact_probability(table)
        return TestResult(name, np.nan, np.nan, p, n_first, n_second)
    found = scipy_stats.chi2_contingency(table, correction=False)
    notes = ["too many tables for Fisher's exact test"] if test == "fisher" else []
    if found.expected_freq.min() < 5:
        notes.append("a count below 5 is expected")
    return TestResult(
        "Pearson's chi-squared",
        float(found.statistic),
        float(found.dof),
        float(found.pvalue),
        n_first,
        n_second,
        "; ".join(notes),
    )


def _exact_probability(table: NDArray[np.int_]) -> float:
    """Probability of tables with the same margins that are at most as probable as this one."""
    totals = table.sum(axis=1)
    # first group's count of each label but the last, which the group's size leaves
    free = np.indices([n + 1 for n in totals[:-1]]).reshape(len(totals) - 1, -1)
    last = table[:, 0].sum() - free.sum(axis=0)
    is_possible = (last >= 0) & (last <= totals[-1])
    first = np.vstack([free, last])[:, is_possible]
    log_ways = _log_choose(totals[:, np.newaxis], first).sum(axis=0)
    log_all = _log_choose(totals.sum(), table[:, 0].sum())
    log_own = _log_choose(totals, table[:, 0]).sum()
    as_extreme = log_ways <= log_own + _SAME_PROBABILITY
    return float(min(1.0, np.exp(log_ways[as_extreme] - log_all).sum()))


def _log_choose(n: ArrayLike, k: ArrayLike) -> NDArray[np.float64]:
    n, k = np.asarray(n, float), np.asarray(k, float)
    log_ways: NDArray[np.float64] = (
        special.gammaln(n + 1) - special.gammaln(k + 1) - special.gammaln(n - k + 1)
    )
    return log_ways


def smallest_p(n_first: int, n_second: int) -> float:
    """Smallest two-sided p-value that an exact test of ranks can reach.

    Parameters
    ----------
    n_first, n_second : int
        Values of the groups, positive.

    Returns
    -------
    p : float
        2 over the number of ways to deal the values out.

    Examples
    --------
    >>> round(smallest_p(2, 2), 3), round(smallest_p(4, 4), 4)
    (0.333, 0.0286)
    """
    return min(1.0, 2 / math.comb(n_first + n_second, n_first))


def permute_groups(
    first: ArrayLike, second: ArrayLike, *, of: str, n_draws: int, rng: np.random.Generator
) -> TestResult:
    """Two-sided comparison of two groups by dealing their values out anew.

    Parameters
    ----------
    first, second : (n,) and (m,) array
        Finite.
    of : {"mean", "rank"}
        Whether means are compared, or mean ranks, ties counted as they are.
    n_draws : int
        At most so many; all ways there are where these are not more, and the test is exact then.
    rng : Generator
        Source of chance.

    Returns
    -------
    TestResult
        The statistic is the difference, first less second.

    Raises
    ------
    NumericsError
        If `of` is neither.

    Examples
    --------
    >>> found = permute_groups([1, 2], [3, 4], of="rank", n_draws=99,
    ...     rng=np.random.default_rng(0))
    >>> round(found.p, 3), found.note
    (0.333, 'no p below 0.333 can be reached with 2 and 2 values')
    """
    if of not in ("mean", "rank"):
        raise NumericsError(f"of is '{of}'; expected mean or rank")
    a, b = as_float("first", first, ndim=1), as_float("second", second, ndim=1)
    both = np.concatenate([a, b])
    n, m = len(a), len(b)
    n_ways = math.comb(n + m, n) if min(n, m) else 0
    is_exact = n_ways <= n_draws
    name = f"Permutation of {of}s ({'exact' if is_exact else f'{n_draws} draws'})"
    if min(n, m) < 1 or n + m < 3:
        note = f"{n} and {m} values; at least 3 in all are needed"
        return TestResult(name, np.nan, np.nan, np.nan, n, m, note)
    if np.ptp(both) == 0:
        return TestResult(name, 0.0, np.nan, np.nan, n, m, "all values are the same")
    values = scipy_stats.rankdata(both) if of == "rank" else both

    def difference(x: _Array, y: _Array, axis: int = -1) -> _Array:
        return np.asarray(x.mean(axis=axis) - y.mean(axis=axis))

    least = smallest_p(n, m)
    note = f"no p below {least:.3g} can be reached with {n} and {m} values" if least > 0.05 else ""
    if min(n, m) == 1:
        # SciPy wants two of each; the one value takes the place of every other in turn
        one = values[0] if n == 1 else values[-1]
        p = min(1.0, 2 * min(float(np.mean(values >= one)), float(np.mean(values <= one))))
        statistic = float(difference(values[:n], values[n:]))
        return TestResult(f"Permutation of {of}s (exact)", statistic, np.nan, p, n, m, note)
    found = scipy_stats.permutation_test(
        (values[:n], values[n:]),
        difference,
        n_resamples=np.inf if is_exact else n_draws,
        vectorized=True,
        rng=rng,
        batch=2000,
    )
    return TestResult(name, float(found.statistic), np.nan, float(found.pvalue), n, m, note)


def compare_several(groups: list[ArrayLike], test: str) -> TestResult:
    """Comparison of three or more groups at once.

    Parameters
    ----------
    groups : list of (n,) array
        Finite values of each.
    test : {"kruskal-wallis", "anova"}
        Ranks, or means with equal variances.

    Returns
    -------
    TestResult
        The numbers of values are those of the first group and of all others.

    Raises
    ------
    NumericsError
        If there is no such test or fewer than two groups.

    Examples
    --------
    >>> round(compare_several([[1, 2, 3], [4, 5, 6], [7, 8, 9]], "kruskal-wallis").p, 4)
    0.0273
    """
    if test not in ("kruskal-wallis", "anova"):
        raise NumericsError(f"test is '{test}'; expected kruskal-wallis or anova")
    values = [as_float("groups", group, ndim=1) for group in groups]
    if len(values) < 2:
        raise NumericsError(f"groups has {len(values)} entries; give at least two groups")
    n_first, n_others = len(values[0]), sum(len(group) for group in values[1:])
    name = "Kruskal-Wallis H" if test == "kruskal-wallis" else "Analysis of variance F"
    note = ""
    if min(len(group) for group in values) < 2:
        note = "a group has fewer than 2 values"
    elif np.ptp(np.concatenate(values)) == 0:
        note = "all values are the same"
    elif test == "anova" and all(np.ptp(group) == 0 for group in values):
        note = "values do not vary within the groups"
    if note:
        return TestResult(name, np.nan, np.nan, np.nan, n_first, n_others, note)
    is_rank = test == "kruskal-wallis"
    found = (scipy_stats.kruskal if is_rank else scipy_stats.f_oneway)(*values)
    return TestResult(
        name, float(found.statistic), len(values) - 1.0, float(found.pvalue), n_first, n_others
    )


def compare_pairs(before: ArrayLike, after: ArrayLike) -> TestResult:
    """Wilcoxon's test of matched pairs, two-sided.

    Parameters
    ----------
    before, after : (n,) array
        Of the same participants; pairs with a missing value (NaN) are left out.

    Returns
    -------
    TestResult
        The statistic is the smaller sum of ranks; differences of 0 are dropped. Exact up to 50
        pairs without ties among the differences, else normal with corrections for ties and
        continuity. `n_first` counts pairs, `n_second` those that differ.

    Notes
    -----
    Wilcoxon 1945, doi:10.2307/3001968.

    Examples
    --------
    >>> compare_pairs([5, 5, 4, 5, 3], [4, 3, 1, 1, np.nan]).p
    0.125
    """
    a, b = as_float("before", before, ndim=1), as_float("after", after, ndim=1)
    if a.shape != b.shape:
        raise NumericsError(
            f"before has {len(a)} values and after {len(b)}; give both of each participant"
        )
    both = np.isfinite(a) & np.isfinite(b)
    change = b[both] - a[both]
    moved = change[change != 0]
    n, n_moved = len(change), len(moved)
    is_exact = n_moved <= 50 and len(np.unique(np.abs(moved))) == n_moved
    name = f"Wilcoxon signed rank ({'exact' if is_exact else 'normal approximation'})"
    if n_moved < 1:
        return TestResult(name, np.nan, np.nan, np.nan, n, n_moved, "no pair differs")
    if is_exact:
        found = scipy_stats.wilcoxon(moved, method="exact")
    else:
        found = scipy_stats.wilcoxon(moved, method="asymptotic", correction=True)
    least = min(1.0, 2.0 ** (1 - n_moved))
    note = f"no p below {least:.3g} can be reached with {n_moved} pairs" if least > 0.05 else ""
    return TestResult(name, float(found.statistic), np.nan, float(found.pvalue), n, n_moved, note)


def proportion_interval(
    count: int, n: int, *, kind: ProportionInterval, level: float, dof: float | None = None
) -> tuple[float, float]:
    r"""Confidence interval of a proportion.

    Parameters
    ----------
    count, n : int
        How many of how many, 0 to n and positive.
    kind : {"logit", "wilson", "exact"}
        ``logit`` is Stata's, and has no interval where nobody or everybody counts.
    level : float
        Such as 0.95.
    dof : float, optional
        Degrees of freedom of ``logit``; n - 1 if not given.

    Returns
    -------
    low, high : float
        0 to 1, or NaN.

    Raises
    ------
    NumericsError
        If the count is not possible.

    Notes
    -----
    ``logit``: with :math:`p = k / n`, :math:`s = \sqrt{p (1 - p) / n}` and the quantile of
    Student's t with n - 1 degrees of freedom, the ends of
    :math:`\mathrm{logit}(p) \pm t\, s / (p (1 - p))` taken back (Stata 13, ``proportion``;
    Jenkins 2020 used it: of its 14 different intervals, 27 degrees of freedom reproduce 11 and
    miss an end of three by one in the last digit; 29 reproduce all).
    ``wilson``: Wilson 1927, doi:10.1080/01621459.1927.10502953. ``exact``:
    Clopper and Pearson 1934, doi:10.1093/biomet/26.4.404.

    Examples
    --------
    >>> [round(x, 2) for x in proportion_interval(12, 28, kind="logit", level=0.95)]
    [0.26, 0.62]
    """
    if not 0 <= count <= n or n < 1:
        raise NumericsError(f"count is {count} of {n}; expected 0 to n, and n of 1 or more")
    require_range("level", level, 0.0, 0.9999, open_low=True)
    if kind != "logit":
        method = {"wilson": "wilson", "exact": "beta"}.get(kind)
        if method is None:
            raise NumericsError(f"kind is '{kind}'; expected logit, wilson or exact")
        low, high = proportion_confint(count, n, alpha=1 - level, method=method)
        return float(low), float(high)
    if count in (0, n) or n < 2:
        return math.nan, math.nan
    p = count / n
    reach = scipy_stats.t.ppf((1 + level) / 2, dof or n - 1) / math.sqrt(n * p * (1 - p))
    middle = float(special.logit(p))
    return float(special.expit(middle - reach)), float(special.expit(middle + reach))


def quartiles(values: ArrayLike, *, rule: QuartileRule) -> tuple[float, float, float]:
    """First quartile, median and third quartile.

    Parameters
    ----------
    values : (n,) array
        Finite.
    rule : {"averaged", "linear"}
        ``averaged`` is that of Stata and SAS: the value whose rank is the next whole number, or
        the mean of two where n times the share is whole (Hyndman and Fan 1996,
        doi:10.1080/00031305.1996.10473566, their second); ``linear`` is NumPy's and R's default.

    Returns
    -------
    q1, median, q3 : float
        NaN where there is no value.

    Raises
    ------
    NumericsError
        If there is no such rule.

    Examples
    --------
    >>> ages = [58, 86, 78, 63, 69, 67, 68, 71, 66, 57]  # Diamanti 2018, table 1B
    >>> quartiles(ages, rule="averaged"), quartiles(ages, rule="linear")
    ((63.0, 67.5, 71.0), (63.75, 67.5, 70.5))
    """
    numbers = as_float("values", values, ndim=1)
    methods = {"averaged": "averaged_inverted_cdf", "linear": "linear"}
    if rule not in methods:
        raise NumericsError(f"rule is '{rule}'; expected averaged or linear")
    if not len(numbers):
        return math.nan, math.nan, math.nan
    require_finite("values", numbers)
    found = np.quantile(numbers, [0.25, 0.5, 0.75], method=methods[rule])  # type: ignore[call-overload]
    return float(found[0]), float(found[1]), float(found[2])


@dataclass(frozen=True)
class Ratio:
    """A ratio with its interval.

    Parameters
    ----------
    value : float
        Numerator over denominator.
    low, high : float
        Ends of the interval; of what is excluded where `bounds` is ``outside``; infinite where it
        is ``all``.
    bounds : {"bounded", "outside", "all"}
        An interval between the ends; all numbers not between them; or all numbers, since the data
        do not tell the denominator from 0 (``outside`` and ``all``).
    """

    value: float
    low: float
    high: float
    bounds: Bounds


def fieller_ratio(
    numerator: float,
    denominator: float,
    covariance: ArrayLike,
    *,
    dof: float,
    level: float,
) -> Ratio:
    r"""Ratio of two estimates with Fieller's interval.

    Parameters
    ----------
    numerator, denominator : float
        Estimates, jointly normal.
    covariance : (2, 2) array
        Of the two.
    dof : float
        Degrees of freedom of their variance; infinite for a normal quantile.
    level : float
        Such as 0.95.

    Returns
    -------
    Ratio
        With both ends finite where the denominator differs from 0 at that level.

    Raises
    ------
    NumericsError
        If the denominator is 0 or the covariance is none.

    Notes
    -----
    The numbers :math:`r` with
    :math:`(a - r b)^2 \le t^2 (v_{11} - 2 r v_{12} + r^2 v_{22})` (Fieller 1954,
    doi:10.1111/j.2517-6161.1954.tb00159.x). With :math:`g = t^2 v_{22} / b^2 < 1` they are an
    interval; with :math:`g \ge 1` all but an interval, or all.

    Examples
    --------
    >>> found = fieller_ratio(2.0, 10.0, [[0.25, -0.1], [-0.1, 0.1]], dof=40, level=0.95)
    >>> round(found.low, 3), round(found.value, 3), round(found.high, 3), found.bounds
    (0.095, 0.2, 0.315, 'bounded')
    >>> fieller_ratio(1.0, 1.0, [[1.0, 0.0], [0.0, 1.0]], dof=40, level=0.95).bounds
    'all'
    """
    v = as_float("covariance", covariance, ndim=2)
    a, b = float(numerator), float(denominator)
    if b == 0 or not np.isfinite([a, b]).all():
        raise NumericsError(f"the ratio of {a:g} to {b:g} is not defined; give a denominator")
    if v.shape != (2, 2) or not np.isfinite(v).all() or v[0, 0] < 0 or v[1, 1] < 0:
        raise NumericsError(f"covariance is {v.tolist()}; expected finite 2 x 2 with variances")
    t2 = float(scipy_stats.t.ppf((1 + level) / 2, dof)) ** 2
    quadratic = b * b - t2 * float(v[1, 1])
    middle = a * b - t2 * float(v[0, 1])
    constant = a * a - t2 * float(v[0, 0])
    root2 = middle * middle - quadratic * constant
    # (a - rb)^2 <= t2 var is quadratic * r^2 - 2 * middle * r + constant <= 0
    if quadratic > 0:
        root = math.sqrt(max(root2, 0.0))
        return Ratio(a / b, (middle - root) / quadratic, (middle + root) / quadratic, "bounded")
    if root2 <= 0 or quadratic == 0:
        return Ratio(a / b, -math.inf, math.inf, "all")
    root = math.sqrt(root2)
    return Ratio(a / b, (middle + root) / quadratic, (middle - root) / quadratic, "outside")


def delta_ratio(
    numerator: float, denominator: float, covariance: ArrayLike, *, dof: float, level: float
) -> Ratio:
    """Ratio of two estimates with the symmetric interval of its linear expansion.

    Parameters
    ----------
    numerator, denominator, covariance, dof, level
        As of `fieller_ratio`, which it checks: both agree where the denominator is certain.

    Returns
    -------
    Ratio
        Always bounded.

    Examples
    --------
    >>> found = delta_ratio(2.0, 10.0, [[0.25, -0.1], [-0.1, 0.1]], dof=40, level=0.95)
    >>> round(found.low, 3), round(found.high, 3)
    (0.09, 0.31)
    """
    v = as_float("covariance", covariance, ndim=2)
    ratio = numerator / denominator
    variance = v[0, 0] - 2 * ratio * v[0, 1] + ratio**2 * v[1, 1]
    error = math.sqrt(max(float(variance), 0.0)) / abs(denominator)
    reach = float(scipy_stats.t.ppf((1 + level) / 2, dof)) * error
    return Ratio(ratio, ratio - reach, ratio + reach, "bounded")


@dataclass(frozen=True)
class AdjustedDifference:
    """Difference between two groups, adjusted for covariates.

    Parameters
    ----------
    difference, low, high : float
        First group less second with interval, in the unit of the data.
    p, dof : float
        Two-sided p-value, and degrees of freedom of the residuals.
    mean_second : float
        Adjusted mean of the second group, in the unit of the data.
    percent : Ratio
        Difference in per cent of that mean, with Fieller's interval.
    percent_delta : Ratio
        The same by the delta method.
    n_first, n_second, n_missing : int
        Members with all values, and those without one.
    note : str
        Why there is no result, or what weakens it.
    """

    difference: float
    low: float
    high: float
    p: float
    dof: float
    mean_second: float
    percent: Ratio
    percent_delta: Ratio
    n_first: int
    n_second: int
    n_missing: int
    note: str = ""


def _in_percent(ratio: Ratio) -> Ratio:
    return Ratio(100 * ratio.value, 100 * ratio.low, 100 * ratio.high, ratio.bounds)


_NO_RATIO = Ratio(math.nan, math.nan, math.nan, "bounded")


def compare_adjusted(
    values: ArrayLike,
    is_first: ArrayLike,
    covariates: ArrayLike | None = None,
    *,
    level: float,
    mean_of: Literal["all", "second"] = "all",
) -> AdjustedDifference:
    r"""Difference between two groups by least squares, in the data's unit and in per cent.

    Parameters
    ----------
    values : (n,) array
        NaN where missing; such members are left out and counted.
    is_first : (n,) array of bool
        Who belongs to the first group.
    covariates : (n, c) array, optional
        Such as age and sex (as 0 and 1); NaN where missing.
    level : float
        Of the intervals, such as 0.95.
    mean_of : {"all", "second"}
        At whose mean covariates the mean of the second group is taken: of all (the model-based
        mean), or of that group, where it is the plain mean.

    Returns
    -------
    AdjustedDifference
        NaN with a note where it cannot be computed. A covariate that is constant among those with
        values is left out, and the note says so.

    Raises
    ------
    NumericsError
        If shapes do not fit.

    Notes
    -----
    :math:`y = b_0 + b_1 g + b_c'x`. The percentage is :math:`100\, b_1 / m` with
    :math:`m = b_0 + b_c'\bar x`; Fieller's interval takes the covariance of :math:`b_1` and
    :math:`m` and t with the residual degrees of freedom. Jenkins 2020 reports such ratios; that
    its control mean is the adjusted one is an assumption.

    Examples
    --------
    >>> found = compare_adjusted([6.0, 7.0, 8.0, 4.0, 5.0, 6.0], [1, 1, 1, 0, 0, 0], level=0.95)
    >>> round(found.difference, 6), round(found.percent.value, 6), found.dof
    (2.0, 40.0, 4.0)
    """
    y = as_float("values", values, ndim=1)
    first = np.asarray(is_first).astype(bool)
    extra = np.empty((len(y), 0)) if covariates is None else as_float("covariates", covariates)
    extra = extra.reshape(len(y), -1) if extra.size or extra.ndim == 2 else extra
    if not len(y) == len(first) == len(extra):
        raise NumericsError(
            f"values, is_first and covariates have {len(y)}, {len(first)} and {len(extra)} rows; "
            "give one row per member"
        )
    known = np.isfinite(y) & np.isfinite(extra).all(axis=1)
    y, first, extra = y[known], first[known], extra[known]
    counts = (int(first.sum()), int((~first).sum()), int((~known).sum()))
    varies = np.ptp(extra, axis=0) > 0 if len(extra) else np.zeros(extra.shape[1], bool)
    notes = [] if varies.all() else ["a covariate is constant and was left out"]
    extra = extra[:, varies]
    x = np.column_stack([np.ones(len(y)), first, extra])
    dof = len(y) - x.shape[1]
    problem = _why_no_difference(x, dof, counts)
    if problem:
        return _no_difference(counts, "; ".join([*notes, problem]))
    inverse = np.linalg.inv(x.T @ x)
    beta = inverse @ (x.T @ y)
    left = y - x @ beta
    variance = float(left @ left) / dof
    if left @ left <= _NO_VARIANCE * max(float(y @ y), 1e-300):
        return _no_difference(counts, "; ".join([*notes, "values do not vary within the groups"]))
    place = extra.mean(axis=0) if mean_of == "all" else extra[~first].mean(axis=0)
    weights = np.zeros((2, x.shape[1]))
    weights[0, 1] = weights[1, 0] = 1.0
    weights[1, 2:] = place
    (a, m), v = (weights @ beta).tolist(), variance * weights @ inverse @ weights.T
    error = math.sqrt(v[0, 0])
    reach = float(scipy_stats.t.ppf((1 + level) / 2, dof)) * error
    percent = delta = _NO_RATIO
    if m != 0:
        percent = _in_percent(fieller_ratio(a, m, v, dof=dof, level=level))
        delta = _in_percent(delta_ratio(a, m, v, dof=dof, level=level))
        if percent.bounds != "bounded":
            notes.append("the mean of the second group does not differ from 0: no bounded per cent")
    p = 2 * float(scipy_stats.t.sf(abs(a) / error, dof))
    return AdjustedDifference(
        float(a),
        a - reach,
        a + reach,
        p,
        float(dof),
        float(m),
        percent,
        delta,
        *counts,
        note="; ".join(notes),
    )


def _why_no_difference(x: _Array, dof: int, counts: tuple[int, int, int]) -> str:
    if min(counts[:2]) < 1:
        return f"{counts[0]} and {counts[1]} values; both groups are needed"
    if dof < 1:
        return f"{len(x)} values for {x.shape[1]} coefficients"
    if np.linalg.matrix_rank(x) < x.shape[1]:
        return "covariates and groups cannot be told apart"
    return ""


def _no_difference(counts: tuple[int, int, int], note: str) -> AdjustedDifference:
    nan = math.nan
    return AdjustedDifference(nan, nan, nan, nan, nan, nan, _NO_RATIO, _NO_RATIO, *counts, note)


def permute_adjusted(
    values: ArrayLike,
    is_first: ArrayLike,
    covariates: ArrayLike | None = None,
    *,
    sites: ArrayLike | None = None,
    n_draws: int,
    rng: np.random.Generator,
) -> float:
    r"""p-value of an adjusted difference by permutation of what the covariates leave.

    Parameters
    ----------
    values, is_first, covariates : array
        As of `compare_adjusted`, without missing values.
    sites : (n,) array, optional
        Labels; members change places within their site alone, and sites are nuisance too.
    n_draws : int
        Permutations, the observed one among them.
    rng : Generator
        Source of chance.

    Returns
    -------
    p : float
        Two-sided.

    Raises
    ------
    NumericsError
        If groups cannot be told from covariates and sites.

    Notes
    -----
    Freedman and Lane 1983 (doi:10.1080/07350015.1983.10509354): residuals of the model without
    the groups are permuted and fitted by the whole model.

    Examples
    --------
    >>> permute_adjusted([6, 7, 8, 9, 1, 2, 3, 4.0], [1] * 4 + [0] * 4, n_draws=200,
    ...     rng=np.random.default_rng(0)) < 0.1
    True
    """
    y = as_float("values", values, ndim=1)
    require_finite("values", y)
    group = np.asarray(is_first, float)
    labels = np.zeros(len(y), int) if sites is None else np.unique(sites, return_inverse=True)[1]
    nuisance = [(labels[:, np.newaxis] == np.unique(labels)).astype(float)]
    if covariates is not None:
        nuisance.append(as_float("covariates", covariates).reshape(len(y), -1))
    z = np.linalg.qr(np.column_stack(nuisance))[0]
    own = group - z @ (z.T @ group)
    if own @ own < 1e-9 * len(y):
        raise NumericsError(
            "groups cannot be told from sites and covariates; leave out sites that have one group"
        )
    left = y - z @ (z.T @ y)
    orders = np.tile(np.arange(len(y)), (n_draws, 1))
    for label in np.unique(labels):
        place = np.flatnonzero(labels == label)
        orders[1:, place] = rng.permuted(orders[1:, place], axis=1)
    moved = left[orders]
    moved -= (moved @ z) @ z.T
    shared = moved @ own
    rest = (moved**2).sum(axis=1) - shared**2 / (own @ own)
    observed = np.abs(shared) / np.sqrt(np.maximum(rest, 1e-300))
    return float(np.mean(observed >= observed[0] * (1 - 1e-9)))
