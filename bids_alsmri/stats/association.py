"""How measures go together: rank correlation, with participants as clusters, and regression."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.checks import as_float

_Array = NDArray[np.float64]

_LARGEST_RHO = 1 - 1e-12  # whose Fisher transform is finite


@dataclass(frozen=True)
class Correlation:
    """Rank correlation with its interval.

    Parameters
    ----------
    rho, low, high : float
        -1 to 1; NaN where it cannot be computed.
    p : float
        Two-sided.
    n, n_clusters, n_missing : int
        Pairs, participants they are of, and pairs with a missing value.
    note : str
        Why there is no result, or what weakens it.
    """

    rho: float
    low: float
    high: float
    p: float
    n: int
    n_clusters: int
    n_missing: int
    note: str = ""


def rank_correlation(x: ArrayLike, y: ArrayLike, *, level: float) -> Correlation:
    r"""Spearman's correlation of pairs that are independent of each other.

    Parameters
    ----------
    x, y : (n,) array
        NaN where missing; such pairs are left out and counted.
    level : float
        Of the interval, such as 0.95.

    Returns
    -------
    Correlation
        p is by Student's t with n - 2 degrees of freedom, as statistics packages do.

    Raises
    ------
    NumericsError
        If lengths differ.

    Notes
    -----
    The interval is that of Fisher's z with variance :math:`(1 + \rho^2 / 2) / (n - 3)` (Bonett
    and Wright 2000, doi:10.1007/bf02294183).

    Examples
    --------
    >>> found = rank_correlation([1, 2, 3, 4, 5, 6], [2, 1, 4, 3, 6, 5], level=0.95)
    >>> round(found.rho, 3), round(found.low, 3), round(found.high, 3)
    (0.829, -0.127, 0.986)
    """
    a, b, keep = _pairs(x, y)
    n, n_missing = len(a), int((~keep).sum())
    if n < 4 or np.ptp(a) == 0 or np.ptp(b) == 0:
        note = f"{n} pairs; at least 4 are needed" if n < 4 else "all values are the same"
        return Correlation(math.nan, math.nan, math.nan, math.nan, n, n, n_missing, note)
    found = stats.spearmanr(a, b)
    rho = float(found.statistic)
    z = math.atanh(np.clip(rho, -_LARGEST_RHO, _LARGEST_RHO))
    reach = float(stats.norm.ppf((1 + level) / 2)) * math.sqrt((1 + rho**2 / 2) / (n - 3))
    low, high = math.tanh(z - reach), math.tanh(z + reach)
    return Correlation(rho, low, high, float(found.pvalue), n, n, n_missing)


def clustered_correlation(
    x: ArrayLike, y: ArrayLike, clusters: ArrayLike, *, level: float
) -> Correlation:
    r"""Spearman's correlation of pairs of which several belong to one participant.

    Parameters
    ----------
    x, y : (n,) array
        NaN where missing.
    clusters : (n,) array
        Labels of the participants.
    level : float
        Of the interval, such as 0.95.

    Returns
    -------
    Correlation
        The correlation is that of all pairs; interval and p allow for pairs of a participant
        being alike. They need some ten participants.

    Raises
    ------
    NumericsError
        If lengths differ.

    Notes
    -----
    Jackknife over the :math:`G` participants of Fisher's z:
    :math:`v = \frac{G - 1}{G} \sum_g (z_{-g} - \bar z)^2`, with Student's t of G - 1 degrees of
    freedom (Efron 1982, doi:10.1137/1.9781611970319).

    Examples
    --------
    >>> who = np.repeat(np.arange(6), 2)
    >>> x = np.arange(12.0)
    >>> found = clustered_correlation(x, x + np.tile([2.0, -2.0], 6), who, level=0.95)
    >>> round(found.rho, 3), found.n, found.n_clusters
    (0.853, 12, 6)
    """
    a, b, keep = _pairs(x, y)
    labels = np.asarray(clusters)
    if len(labels) != len(keep):
        raise NumericsError(
            f"x has {len(keep)} values but clusters has {len(labels)}; give one label per pair"
        )
    _, place = np.unique(labels[keep], return_inverse=True)
    n_clusters = int(place.max()) + 1 if len(place) else 0
    n, n_missing = len(a), int((~keep).sum())
    note = ""
    if n_clusters < 4:
        note = f"{n_clusters} participants; at least 4 are needed"
    elif np.ptp(a) == 0 or np.ptp(b) == 0:
        note = "all values are the same"
    if note:
        return Correlation(math.nan, math.nan, math.nan, math.nan, n, n_clusters, n_missing, note)
    z = _fisher_z(a, b)
    without = np.array([_fisher_z(a[place != g], b[place != g]) for g in range(n_clusters)])
    rho = math.tanh(z)
    if not np.isfinite(without).all():
        note = "without one of the participants all values are the same"
        return Correlation(rho, math.nan, math.nan, math.nan, n, n_clusters, n_missing, note)
    squares = float(((without - without.mean()) ** 2).sum())
    error = math.sqrt((n_clusters - 1) / n_clusters * squares)
    reach = float(stats.t.ppf((1 + level) / 2, n_clusters - 1)) * error
    p = 2 * float(stats.t.sf(abs(z) / error, n_clusters - 1)) if error > 0 else math.nan
    return Correlation(rho, math.tanh(z - reach), math.tanh(z + reach), p, n, n_clusters, n_missing)


def _pairs(x: ArrayLike, y: ArrayLike) -> tuple[_Array, _Array, NDArray[np.bool_]]:
    a, b = as_float("x", x, ndim=1), as_float("y", y, ndim=1)
    if len(a) != len(b):
        raise NumericsError(f"x has {len(a)} values and y {len(b)}; give pairs")
    keep = np.isfinite(a) & np.isfinite(b)
    return a[keep], b[keep], keep


def _fisher_z(a: _Array, b: _Array) -> float:
    if not len(a) or np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan
    first, second = stats.rankdata(a), stats.rankdata(b)
    rho = float(np.corrcoef(first, second)[0, 1])
    return math.atanh(min(max(rho, -_LARGEST_RHO), _LARGEST_RHO))


@dataclass(frozen=True)
class Slope:
    """Coefficient of a regression with its interval.

    Parameters
    ----------
    slope, low, high : float
        Unit of the outcome over that of the predictor; NaN where it cannot be computed.
    p, dof : float
        Two-sided, and residual degrees of freedom.
    mean, sd : float
        Of the outcome, among those who take part, in its unit.
    n, n_missing : int
        Participants with all values, and those without one.
    note : str
        Why there is no result.
    """

    slope: float
    low: float
    high: float
    p: float
    dof: float
    mean: float
    sd: float
    n: int
    n_missing: int
    note: str = ""


def regress(
    outcome: ArrayLike, predictor: ArrayLike, covariates: ArrayLike | None = None, *, level: float
) -> Slope:
    r"""Slope of an outcome on a predictor, adjusted for covariates, by least squares.

    Parameters
    ----------
    outcome, predictor : (n,) array
        NaN where missing.
    covariates : (n, c) array, optional
        Such as age and sex (as 0 and 1); one that is constant is left out.
    level : float
        Of the interval, such as 0.95.

    Returns
    -------
    Slope
        NaN with a note where it cannot be computed.

    Raises
    ------
    NumericsError
        If lengths differ.

    Notes
    -----
    :math:`y = b_0 + b_1 x + b_c' z`, with t of n - 2 - c degrees of freedom.

    Examples
    --------
    >>> found = regress([1.0, 2.0, 2.0, 3.0, 5.0], [1, 2, 3, 4, 5], level=0.95)
    >>> round(found.slope, 3), round(found.low, 3), round(found.p, 4)
    (0.9, 0.291, 0.0182)
    """
    y, x = as_float("outcome", outcome, ndim=1), as_float("predictor", predictor, ndim=1)
    extra = np.empty((len(y), 0))
    if covariates is not None:
        extra = as_float("covariates", covariates)
        extra = extra[:, np.newaxis] if extra.ndim == 1 else extra
    if not len(y) == len(x) == len(extra):
        raise NumericsError(f"outcome has {len(y)} values and predictor {len(x)}; give pairs")
    keep = np.isfinite(y) & np.isfinite(x) & np.isfinite(extra).all(axis=1)
    y, x, extra = y[keep], x[keep], extra[keep]
    n, n_missing = len(y), int((~keep).sum())
    extra = extra[:, np.ptp(extra, axis=0) > 0] if n else extra
    design = np.column_stack([np.ones(n), x, extra])
    dof = n - design.shape[1]
    mean = float(y.mean()) if n else math.nan
    sd = float(y.std(ddof=1)) if n > 1 else math.nan
    note = ""
    if dof < 1:
        note = f"{n} values for {design.shape[1]} coefficients"
    elif np.ptp(x) == 0 or np.ptp(y) == 0:
        note = "all values are the same"
    elif np.linalg.matrix_rank(design) < design.shape[1]:
        note = "predictor and covariates cannot be told apart"
    if note:
        nan = math.nan
        return Slope(nan, nan, nan, nan, float(dof), mean, sd, n, n_missing, note)
    inverse = np.linalg.inv(design.T @ design)
    beta = inverse @ (design.T @ y)
    left = y - design @ beta
    error = math.sqrt(float(left @ left) / dof * inverse[1, 1])
    slope = float(beta[1])
    reach = float(stats.t.ppf((1 + level) / 2, dof)) * error
    p = 2 * float(stats.t.sf(abs(slope) / error, dof)) if error > 0 else 0.0
    return Slope(slope, slope - reach, slope + reach, p, float(dof), mean, sd, n, n_missing)


def line_band(x: ArrayLike, y: ArrayLike, *, level: float, n_places: int = 60) -> _Array | None:
    r"""Straight line through points, with the interval of its height.

    Parameters
    ----------
    x, y : (n,) array
        Pairs in any units; those with NaN are left out.
    level : float
        Of the interval, such as 0.95.
    n_places : int
        Places along x, 2 or more.

    Returns
    -------
    (4, n_places) array or None
        Places, height, and ends of the interval; None of fewer than 3 pairs, or where x is the same
        for all.

    Notes
    -----
    By least squares; :math:`\hat y(x) \pm t_{n-2}\, s \sqrt{1/n + (x - \bar x)^2 / S_{xx}}`
    (Draper and Smith 1998, Applied Regression Analysis, section 3.1).

    Examples
    --------
    >>> band = line_band([1, 2, 3], [1, 3, 2], level=0.95, n_places=3)
    >>> band[1].tolist()
    [1.5, 2.0, 2.5]
    """
    a, b = as_float("x", x, ndim=1), as_float("y", y, ndim=1)
    keep = np.isfinite(a) & np.isfinite(b)
    a, b = a[keep], b[keep]
    n = len(a)
    if n < 3 or not np.ptp(a) > 0:
        return None
    places = np.linspace(a.min(), a.max(), n_places)
    spread = float(((a - a.mean()) ** 2).sum())
    slope = float((a - a.mean()) @ (b - b.mean())) / spread
    line = b.mean() + slope * (places - a.mean())
    left = b - b.mean() - slope * (a - a.mean())
    error = np.sqrt(left @ left / (n - 2) * (1 / n + (places - a.mean()) ** 2 / spread))
    reach = float(stats.t.ppf((1 + level) / 2, n - 2)) * error
    return np.array([places, line, line - reach, line + reach])
