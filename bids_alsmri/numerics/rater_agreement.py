"""How two readers, or one reader twice, agree on regions and on what they measure in them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.checks import as_float, require_same_shape

_Array = NDArray[np.float64]


@dataclass(frozen=True)
class Limits:
    """Bland and Altman's limits of agreement, in the unit of the values.

    Parameters
    ----------
    bias : float
        Mean of second less first.
    low, high : float
        Between which a share of the differences is expected; NaN for a single pair.
    """

    bias: float
    low: float
    high: float


def dice_of_labels(
    first: NDArray[np.integer], second: NDArray[np.integer], wanted: Iterable[int]
) -> dict[int, float]:
    """Dice coefficient of each region of two label images.

    Parameters
    ----------
    first, second : (...) array of int
        Label images on one grid.
    wanted : iterable of int
        Regions.

    Returns
    -------
    dict of float
        0 to 1; NaN for a region that neither image has.

    Raises
    ------
    NumericsError
        If shapes differ.

    Examples
    --------
    >>> dice_of_labels(np.array([1, 1, 0]), np.array([0, 1, 1]), [1])
    {1: 0.5}
    """
    require_same_shape(first=first, second=second)
    found = {}
    for label in wanted:
        a, b = first == label, second == label
        total = int(a.sum() + b.sum())
        found[int(label)] = float(2 * (a & b).sum() / total) if total else float("nan")
    return found


def coefficient_of_variation(ratings: ArrayLike) -> float:
    r"""Within-subject coefficient of variation of measurements that were repeated.

    Parameters
    ----------
    ratings : (S, R) array_like
        Measurements of each subject, two or more, on a ratio scale, no gaps.

    Returns
    -------
    float
        As a share; NaN without a subject.

    Raises
    ------
    NumericsError
        If there are not two columns or more.

    Notes
    -----
    Root mean square over subjects of :math:`s / m` with standard deviation :math:`s` (of a pair its
    difference over :math:`\sqrt 2`) and mean :math:`m` of each (Bland and Altman 1996,
    doi:10.1136/bmj.313.7049.106).

    Examples
    --------
    >>> round(coefficient_of_variation([[100.0, 110.0]]), 4)
    0.0673
    """
    values = as_float("ratings", ratings, ndim=2)
    if values.shape[1] < 2:
        raise NumericsError(f"ratings has {values.shape[1]} columns; give 2 or more measurements")
    if len(values) == 0:
        return float("nan")
    return float(np.sqrt(np.mean((values.std(axis=1, ddof=1) / values.mean(axis=1)) ** 2)))


@dataclass(frozen=True)
class MeanSquares:
    """Mean squares of a two-way table with one value in each cell, in squared units.

    Parameters
    ----------
    subjects, raters, error : float
        Between rows, between columns, and what is left.
    """

    subjects: float
    raters: float
    error: float


def mean_squares(ratings: ArrayLike) -> MeanSquares:
    """Two-way analysis of variance of ratings.

    Parameters
    ----------
    ratings : (S, R) array_like
        Value that each rater gave to each subject, no gaps, at least 2 of each.

    Returns
    -------
    MeanSquares
        All three.

    Raises
    ------
    NumericsError
        If there are not two axes, or fewer than two subjects or raters.

    Notes
    -----
    Shrout and Fleiss 1979, doi:10.1037/0033-2909.86.2.420, table 3.

    Examples
    --------
    >>> four = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
    >>> found = mean_squares(four)
    >>> round(found.subjects, 2), round(found.raters, 2), round(found.error, 2)
    (11.24, 32.49, 1.02)
    """
    values = as_float("ratings", ratings, ndim=2)
    n, k = values.shape
    if n < 2 or k < 2:
        raise NumericsError(f"ratings has {n} subjects and {k} raters; give at least 2 of each")
    grand = values.mean()
    rows, columns = values.mean(axis=1), values.mean(axis=0)
    left = values - rows[:, np.newaxis] - columns + grand
    return MeanSquares(
        k * float(((rows - grand) ** 2).sum()) / (n - 1),
        n * float(((columns - grand) ** 2).sum()) / (k - 1),
        float((left**2).sum()) / ((n - 1) * (k - 1)),
    )


def intraclass_correlation(ratings: ArrayLike) -> float:
    """Agreement of single raters, raters and subjects drawn at random: ICC(2,1).

    Parameters
    ----------
    ratings : (S, R) array_like
        Value that each rater gave to each subject, no gaps.

    Returns
    -------
    float
        1 for perfect agreement; NaN with fewer than two subjects or raters.

    Raises
    ------
    NumericsError
        If there are not two axes.

    Notes
    -----
    Shrout and Fleiss 1979, doi:10.1037/0033-2909.86.2.420.

    Examples
    --------
    >>> four = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
    >>> round(intraclass_correlation(four), 2)  # their table 2 gives .29
    0.29
    """
    values = as_float("ratings", ratings, ndim=2)
    n, k = values.shape
    if n < 2 or k < 2:
        return float("nan")
    own = mean_squares(values)
    below = own.subjects + (k - 1) * own.error + k * (own.raters - own.error) / n
    return (own.subjects - own.error) / below if below > 0 else float("nan")


def limits_of_agreement(pairs: ArrayLike, *, level: float = 0.95) -> Limits:
    """Bland and Altman's bias and limits of agreement.

    Parameters
    ----------
    pairs : (S, 2) array_like
        Two measurements of each subject.
    level : float
        Share of differences between the limits, if these are normal.

    Returns
    -------
    Limits
        Bias and, at the level of 0.95, bias less and plus 1.96 standard deviations of the
        differences.

    Raises
    ------
    NumericsError
        If there are not two columns.

    Notes
    -----
    Bland and Altman 1986, doi:10.1016/S0140-6736(86)90837-8.

    Examples
    --------
    >>> limits_of_agreement([[1.0, 2.0], [1.0, 2.0]])
    Limits(bias=1.0, low=1.0, high=1.0)
    """
    values = _pairs(pairs)
    nan = float("nan")
    if len(values) == 0:
        return Limits(nan, nan, nan)
    differences = values[:, 1] - values[:, 0]
    bias = float(differences.mean())
    if len(values) == 1:
        return Limits(bias, nan, nan)
    reach = float(special.ndtri((1 + level) / 2)) * float(differences.std(ddof=1))
    return Limits(bias, bias - reach, bias + reach)


def _pairs(pairs: ArrayLike) -> _Array:
    values = as_float("pairs", pairs, ndim=2)
    if values.shape[1] != 2:
        raise NumericsError(f"pairs has {values.shape[1]} columns; give first and second values")
    return values
