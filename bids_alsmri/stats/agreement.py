"""Readers and raters: accuracy, agreement, receiver operating characteristic, repeatability."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.inter_rater import cohens_kappa

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.checks import as_float, require_finite, require_same_shape
from bids_alsmri.numerics.rater_agreement import (
    Limits,
    MeanSquares,
    coefficient_of_variation,
    intraclass_correlation,
    limits_of_agreement,
    mean_squares,
)
from bids_alsmri.stats.comparison import proportion_interval

_Array = NDArray[np.float64]

MEASURES = ("sensitivity", "specificity", "ppv", "npv", "accuracy")


@dataclass(frozen=True)
class Share:
    """A share with two intervals.

    Parameters
    ----------
    count, n : int
        How many of how many.
    value : float
        0 to 1; NaN of nobody.
    wilson, exact : tuple of float
        Ends of Wilson's and of Clopper and Pearson's interval.
    """

    count: int
    n: int
    value: float
    wilson: tuple[float, float]
    exact: tuple[float, float]


def reader_accuracy(reading: ArrayLike, truth: ArrayLike, *, level: float) -> dict[str, Share]:
    """Sensitivity, specificity, predictive values and accuracy of one reader.

    Parameters
    ----------
    reading, truth : (n,) array of bool
        Whether the reader called it ill, and whether it is.
    level : float
        Of the intervals, such as 0.95.

    Returns
    -------
    dict of Share
        By the names in `MEASURES`.

    Raises
    ------
    NumericsError
        If lengths differ.

    Examples
    --------
    >>> truth = [True] * 18 + [False] * 13
    >>> reading = [True] * 12 + [False] * 6 + [True] * 3 + [False] * 10
    >>> found = reader_accuracy(reading, truth, level=0.95)  # reader 1 of Cosottini 2016
    >>> [round(100 * found[name].value) for name in MEASURES]
    [67, 77, 80, 62, 71]
    """
    called, ill = np.asarray(reading, bool), np.asarray(truth, bool)
    require_same_shape(reading=called, truth=ill)
    right = called == ill
    pairs = {
        "sensitivity": (called & ill, ill),
        "specificity": (~called & ~ill, ~ill),
        "ppv": (called & ill, called),
        "npv": (~called & ~ill, ~called),
        "accuracy": (right, np.ones_like(ill)),
    }
    return {name: _share(int(a.sum()), int(b.sum()), level) for name, (a, b) in pairs.items()}


def _share(count: int, n: int, level: float) -> Share:
    if not n:
        nothing = (math.nan, math.nan)
        return Share(0, 0, math.nan, nothing, nothing)
    wilson = proportion_interval(count, n, kind="wilson", level=level)
    return Share(
        count, n, count / n, wilson, proportion_interval(count, n, kind="exact", level=level)
    )


@dataclass(frozen=True)
class Kappa:
    """Agreement beyond chance.

    Parameters
    ----------
    value, low, high : float
        1 for full agreement, 0 for that of chance; NaN where all readings are the same.
    observed : float
        Share of equal readings.
    n : int
        Items that both read.
    note : str
        What is special.
    """

    value: float
    low: float
    high: float
    observed: float
    n: int
    note: str = ""


def kappa(
    first: ArrayLike,
    second: ArrayLike,
    *,
    weights: Literal["none", "linear", "quadratic"],
    level: float,
) -> Kappa:
    """Cohen's kappa of two readers, plain or weighted by the distance of their grades.

    Parameters
    ----------
    first, second : (n,) array
        Grades: truth values or numbers whose order counts where weighted; NaN where missing.
    weights : {"none", "linear", "quadratic"}
        How disagreement grows with distance.
    level : float
        Of the interval, such as 0.95.

    Returns
    -------
    Kappa
        With an interval by its asymptotic variance, cut at 1, by statsmodels.

    Raises
    ------
    NumericsError
        If lengths differ.

    Notes
    -----
    Cohen 1960 (doi:10.1177/001316446002000104) and 1968 (doi:10.1037/h0026256); variance by
    Fleiss, Cohen and Everitt 1969 (doi:10.1037/h0028106). Weights are by the value of the grade,
    not by its place among those that occur.

    Examples
    --------
    >>> one = [1] * 9 + [1] * 6 + [0] * 16
    >>> other = [1] * 9 + [0] * 22
    >>> round(kappa(one, other, weights="none", level=0.95).value, 3)  # Cosottini 2016
    0.608
    """
    a, b = as_float("first", first, ndim=1), as_float("second", second, ndim=1)
    require_same_shape(first=a, second=b)
    keep = np.isfinite(a) & np.isfinite(b)
    a, b = a[keep], b[keep]
    grades = np.unique(np.concatenate([a, b]))
    if len(a) < 2 or len(grades) < 2:
        nan = math.nan
        note = "fewer than 2 items" if len(a) < 2 else "all readings are the same"
        return Kappa(nan, nan, nan, float(np.mean(a == b)) if len(a) else nan, len(a), note)
    places = np.searchsorted(grades, a), np.searchsorted(grades, b)
    table = np.zeros((len(grades), len(grades)))
    np.add.at(table, places, 1)
    weight = None
    if weights != "none":
        apart = np.abs(grades[:, np.newaxis] - grades)
        weight = apart if weights == "linear" else apart**2
    # the largest kappa that the margins allow, which is not used, may be 0 / 0
    with np.errstate(invalid="ignore", divide="ignore"):
        found = cohens_kappa(table, weights=weight, wt=None)
    reach = float(stats.norm.ppf((1 + level) / 2)) * math.sqrt(max(float(found.var_kappa), 0.0))
    value = float(found.kappa)
    note = "" if reach else "full agreement: the asymptotic interval has no width"
    return Kappa(
        value,
        max(value - reach, -1.0),
        min(value + reach, 1.0),
        float(np.mean(a == b)),
        len(a),
        note,
    )


def compare_readers(first_right: ArrayLike, second_right: ArrayLike) -> tuple[float, int, int]:
    """McNemar's exact test whether one of two readers is right more often.

    Parameters
    ----------
    first_right, second_right : (n,) array of bool
        Whether each was right, of the same items.

    Returns
    -------
    p : float
        Two-sided; 1 where they are never right alone.
    n_first, n_second : int
        Items of which one alone was right.

    Notes
    -----
    McNemar 1947, doi:10.1007/bf02295996; exact by the binomial distribution, by statsmodels.

    Examples
    --------
    >>> compare_readers([1, 1, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0])
    (0.0625, 5, 0)
    """
    a, b = np.asarray(first_right, bool), np.asarray(second_right, bool)
    require_same_shape(first_right=a, second_right=b)
    n_first, n_second = int((a & ~b).sum()), int((~a & b).sum())
    table = [[int((a & b).sum()), n_first], [n_second, int((~a & ~b).sum())]]
    return float(mcnemar(table, exact=True).pvalue), n_first, n_second


@dataclass(frozen=True)
class Roc:
    """Receiver operating characteristic of a measure.

    Parameters
    ----------
    area, low, high : float
        Area under the curve, 0 to 1, with its interval.
    false_positive, true_positive : (k,) array
        Of the curve, from 0 to 1.
    thresholds : (k,) array
        Values from which on the measure calls somebody ill; infinite at the start.
    n_ill, n_well : int
        Members with a value.
    """

    area: float
    low: float
    high: float
    false_positive: _Array
    true_positive: _Array
    thresholds: _Array
    n_ill: int
    n_well: int


def roc(values: ArrayLike, is_ill: ArrayLike, *, level: float) -> Roc:
    r"""Receiver operating characteristic with DeLong's interval.

    Parameters
    ----------
    values : (n,) array
        Larger in the ill (turn the sign of a measure that falls); NaN where missing.
    is_ill : (n,) array of bool
        Who is.
    level : float
        Of the interval, such as 0.95.

    Returns
    -------
    Roc
        The interval is taken on the logit scale, so that it stays within 0 to 1; where the area is
        0 or 1 it is Hanley and Lippman-Hand's rule of three; NaN where all values are the same.

    Raises
    ------
    NumericsError
        If a group has no member.

    Notes
    -----
    DeLong, DeLong and Clarke-Pearson 1988, doi:10.2307/2531595.

    Examples
    --------
    >>> found = roc([3, 4, 5, 1, 2, 4.5], [1, 1, 1, 0, 0, 0], level=0.95)
    >>> round(found.area, 3)
    0.778
    """
    ill, well = _split(values, is_ill)
    area, _, _, variance = _delong(ill, well)
    low, high = _area_interval(area, variance, min(len(ill), len(well)), level)
    cuts = np.concatenate([[np.inf], np.unique(np.concatenate([ill, well]))[::-1]])
    return Roc(
        area,
        low,
        high,
        np.array([(well >= cut).mean() for cut in cuts]),
        np.array([(ill >= cut).mean() for cut in cuts]),
        cuts,
        len(ill),
        len(well),
    )


def compare_areas(first: ArrayLike, second: ArrayLike, is_ill: ArrayLike) -> tuple[float, float]:
    """Difference between the areas of two measures of the same members, with DeLong's p.

    Parameters
    ----------
    first, second : (n,) array
        Members with both count.
    is_ill : (n,) array of bool
        Who is.

    Returns
    -------
    difference, p : float
        First less second, and two-sided p; NaN where the difference has no variance.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> ill = np.arange(40) < 20
    >>> good, bad = ill + rng.normal(0, 0.3, 40), rng.normal(size=40)
    >>> compare_areas(good, bad, ill)[1] < 0.001
    True
    """
    a, b = as_float("first", first, ndim=1), as_float("second", second, ndim=1)
    require_same_shape(first=a, second=b)
    missing = ~(np.isfinite(a) & np.isfinite(b))
    parts = []
    for values in (a, b):
        parts.append(_delong(*_split(np.where(missing, np.nan, values), is_ill)))
    difference = parts[0][0] - parts[1][0]
    variance = float(
        np.var(parts[0][1] - parts[1][1], ddof=1) / len(parts[0][1])
        + np.var(parts[0][2] - parts[1][2], ddof=1) / len(parts[0][2])
    )
    p = 2 * float(stats.norm.sf(abs(difference) / math.sqrt(variance))) if variance else math.nan
    return difference, p


def _split(values: ArrayLike, is_ill: ArrayLike) -> tuple[_Array, _Array]:
    v, ill = as_float("values", values, ndim=1), np.asarray(is_ill, bool)
    require_same_shape(values=v, is_ill=ill)
    keep = np.isfinite(v)
    first, second = v[keep & ill], v[keep & ~ill]
    if not len(first) or not len(second):
        raise NumericsError(
            f"{len(first)} ill and {len(second)} well members have a value; both are needed"
        )
    return first, second


def _delong(ill: _Array, well: _Array) -> tuple[float, _Array, _Array, float]:
    """Area, what each ill and each well member adds to it, and its variance."""
    above = (ill[:, np.newaxis] > well) + 0.5 * (ill[:, np.newaxis] == well)
    of_ill, of_well = above.mean(axis=1), above.mean(axis=0)
    variance = sum(
        float(part.var(ddof=1)) / len(part) if len(part) > 1 else math.nan
        for part in (of_ill, of_well)
    )
    return float(above.mean()), of_ill, of_well, variance


def _area_interval(area: float, variance: float, n: int, level: float) -> tuple[float, float]:
    if variance == 0 and area not in (0.0, 1.0):
        return math.nan, math.nan  # all members of a group add the same, as where all are equal
    if area in (0.0, 1.0):
        least = (1 - level) ** (1 / n)  # of n without an exception
        return (least, 1.0) if area == 1.0 else (0.0, 1 - least)
    middle = math.log(area / (1 - area))
    reach = float(stats.norm.ppf((1 + level) / 2)) * math.sqrt(variance) / (area * (1 - area))
    return 1 / (1 + math.exp(reach - middle)), 1 / (1 + math.exp(-reach - middle))


@dataclass(frozen=True)
class Repeatability:
    """How well repeated measurements agree.

    Parameters
    ----------
    cov_percent : float
        Within-item standard deviation over the item's mean, in per cent, root mean square over
        items; NaN where a mean is not positive.
    icc, icc_low, icc_high : float
        Intraclass correlation of single measurements, absolute agreement, two-way random.
    bias, lower, upper : float
        Mean difference (second less first) and limits of agreement, in the data's unit, of two
        measurements; NaN of more.
    n, n_raters : int
        Items and measurements of each.
    """

    cov_percent: float
    icc: float
    icc_low: float
    icc_high: float
    bias: float
    lower: float
    upper: float
    n: int
    n_raters: int


def repeatability(ratings: ArrayLike, *, level: float) -> Repeatability:
    r"""Coefficient of variation, intraclass correlation and limits of agreement.

    Parameters
    ----------
    ratings : (n, k) array
        Items in rows, raters or repetitions in columns, finite, at least 2 of each.
    level : float
        Of the interval of the correlation and of the limits, such as 0.95.

    Returns
    -------
    Repeatability
        Of all three.

    Raises
    ------
    NumericsError
        If values are missing or there are too few.

    Notes
    -----
    The three are those of `bids_alsmri.numerics.rater_agreement`. The interval of the correlation,
    there ICC(A,1), after McGraw and Wong 1996 (doi:10.1037/1082-989X.1.1.30).

    Examples
    --------
    >>> shrout = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9],
    ...     [6, 2, 4, 7]]  # Shrout and Fleiss 1979
    >>> found = repeatability(shrout, level=0.95)
    >>> round(found.icc, 2), round(found.icc_low, 3), round(found.icc_high, 3)
    (0.29, 0.019, 0.761)
    """
    x = as_float("ratings", ratings, ndim=2)
    require_finite("ratings", x)
    own, (n, k) = mean_squares(x), x.shape
    icc = intraclass_correlation(x)
    low, high = _icc_interval(icc, own, n, k, level)
    limits = limits_of_agreement(x, level=level) if k == 2 else Limits(*[math.nan] * 3)
    cov = 100 * coefficient_of_variation(x) if (x.mean(axis=1) > 0).all() else math.nan
    return Repeatability(cov, icc, low, high, limits.bias, limits.low, limits.high, n, k)


def _icc_interval(
    icc: float, own: MeanSquares, n: int, k: int, level: float
) -> tuple[float, float]:
    rows, columns, error = own.subjects, own.raters, own.error
    if not icc < 1 or error == 0:
        return math.nan, math.nan
    a = k * icc / (n * (1 - icc))
    b = 1 + k * icc * (n - 1) / (n * (1 - icc))
    v = (a * columns + b * error) ** 2 / (
        (a * columns) ** 2 / (k - 1) + (b * error) ** 2 / ((n - 1) * (k - 1))
    )
    upper_f = float(stats.f.ppf((1 + level) / 2, n - 1, v))
    lower_f = float(stats.f.ppf((1 + level) / 2, v, n - 1))
    share = k * columns + (k * n - k - n) * error
    low = n * (rows - upper_f * error) / (upper_f * share + n * rows)
    high = n * (lower_f * rows - error) / (share + n * lower_f * rows)
    return low, high
