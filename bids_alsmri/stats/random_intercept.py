"""Linear model with a random intercept for each participant, by likelihood of one parameter."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg, optimize, stats

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.checks import as_float, require_finite

_Array = NDArray[np.float64]
Criterion = Literal["ml", "reml"]

# Shares of the variance at which the likelihood is looked at before it is maximised: with unequal
# numbers of visits it can have two maxima.
_GRID = np.concatenate([np.linspace(0.0, 0.96, 25), [0.98, 0.99, 0.995, 0.998, 0.9995]])
_LARGEST_SHARE = 1 - 1e-7
_SMALLEST_SHARE = 1e-9  # below it, the boundary is the maximum
_NO_VARIANCE = 1e-20  # of the squares of the data: what a perfect fit leaves by rounding


@dataclass(frozen=True)
class RandomIntercept:
    """Estimates of a model with a random intercept.

    Parameters
    ----------
    coefficients : (p,) array
        In the unit of the data over that of each column.
    covariance : (p, p) array
        Of the coefficients, the variances taken as known.
    var_intercept, var_residual : float
        Between participants, and of one visit, in squared units of the data. The first is 0 where
        visits of a participant are no more alike than those of different ones, which is a result.
    log_likelihood : float
        By the criterion.
    n_observations, n_participants : int
        Rows and participants with at least one.
    criterion : {"ml", "reml"}
        What was maximised.
    note : str
        What is special about the fit; empty for none.
    information : (2, 2) array
        Expected, of the variances (intercept, residual), by the restricted likelihood.
    slopes : (2, p, p) array
        Derivatives of `covariance` by the variances.
    small_sample : (p, p) array
        What Kenward and Roger add to the covariance.
    """

    coefficients: _Array
    covariance: _Array
    var_intercept: float
    var_residual: float
    log_likelihood: float
    n_observations: int
    n_participants: int
    criterion: Criterion
    note: str
    information: _Array
    slopes: _Array
    small_sample: _Array

    @property
    def variance_ratio(self) -> float:
        """Variance between participants over all of it, 0 to 1."""
        whole = self.var_intercept + self.var_residual
        return self.var_intercept / whole if whole > 0 else math.nan

    def error_and_freedom(self, weights: ArrayLike) -> tuple[float, float]:
        r"""Standard error and degrees of freedom of a sum of coefficients, for small samples.

        Parameters
        ----------
        weights : (p,) array
            Of the coefficients.

        Returns
        -------
        error : float
            From the covariance with the addition of Kenward and Roger.
        dof : float
            At least 1.

        Notes
        -----
        With :math:`g` the derivatives of :math:`c'Cc` by the variances and :math:`W` the inverse
        of their expected information, :math:`\nu = 2 (c'Cc)^2 / (g'Wg)`, which for one contrast
        is both Satterthwaite's and Kenward and Roger's (1997, doi:10.2307/2533558).

        Examples
        --------
        >>> fit = fit_random_intercept([1.0, 3.0, 4.0, 5.0], [[1, 0], [1, 1]] * 2, list("aabb"),
        ...     criterion="reml")
        >>> [round(x, 6) for x in fit.error_and_freedom([0, 1])]
        [0.5, 1.0]
        """
        c = as_float("weights", weights, ndim=1)
        own = float(c @ self.covariance @ c)
        error = math.sqrt(max(own + float(c @ self.small_sample @ c), own))
        gradient = np.einsum("i,kij,j->k", c, self.slopes, c)
        spread = float(gradient @ linalg.pinvh(self.information) @ gradient)
        largest = float(self.n_observations - len(c))
        dof = 2 * own**2 / spread if spread > 0 else largest
        return error, min(max(dof, 1.0), largest)


@dataclass(frozen=True)
class _Sums:
    """All that the likelihood needs of the data."""

    design: _Array
    values: _Array
    sizes: _Array  # of participants
    design_sums: _Array  # participants x p
    value_sums: _Array
    cross: _Array
    cross_values: _Array
    squares: float


def fit_random_intercept(
    values: ArrayLike, design: ArrayLike, participants: ArrayLike, *, criterion: Criterion
) -> RandomIntercept:
    r"""Maximum likelihood of a linear model in which each participant has a level of its own.

    Parameters
    ----------
    values : (n,) array
        Finite.
    design : (n, p) array
        Finite, of full column rank.
    participants : (n,) array
        Labels; rows with the same one belong to one participant.
    criterion : {"ml", "reml"}
        Whole or restricted likelihood.

    Returns
    -------
    RandomIntercept
        Where no participant has two rows, or the fit is perfect, the intercept has no variance
        that could be told: the fit is by least squares then, and its `note` says so.

    Raises
    ------
    NumericsError
        If shapes do not fit, the design is not of full rank, or no degree of freedom is left.

    Notes
    -----
    :math:`y_{ij} = x_{ij}'\beta + u_i + e_{ij}` with :math:`u_i \sim N(0, \tau^2)`,
    :math:`e_{ij} \sim N(0, \sigma^2)` (Laird and Ware 1982, doi:10.2307/2529876). For a share
    :math:`\rho = \tau^2 / (\tau^2 + \sigma^2)` all else has a closed form, so the likelihood is
    maximised over :math:`0 \le \rho < 1` alone: first on a grid, then by Brent's method, so that
    it neither fails to converge nor stops at a lower maximum, and 0 is found as such.

    Examples
    --------
    >>> fit = fit_random_intercept([1.0, 3.0, 4.0, 5.0], [[1, 0], [1, 1]] * 2, list("aabb"),
    ...     criterion="reml")
    >>> fit.coefficients.round(6).tolist(), round(fit.variance_ratio, 3)
    ([2.5, 1.5], 0.923)
    """
    sums = _summed(values, design, participants, criterion)
    repeats = bool((sums.sizes > 1).any())
    share, note = 0.0, ""
    if not repeats:
        note = "no participant has two values; fitted by least squares without random intercept"
    elif _is_perfect(sums):
        note = "the values do not vary about the model; fitted by least squares"
    else:
        share = _best_share(sums, criterion)
        if share == 0.0:
            note = "variance between participants is 0"
    return _fitted(sums, share, criterion, note)


def _summed(values: ArrayLike, design: ArrayLike, participants: ArrayLike, criterion: str) -> _Sums:
    if criterion not in get_args(Criterion):
        raise NumericsError(f"criterion is '{criterion}'; expected ml or reml")
    y = as_float("values", values, ndim=1)
    x = as_float("design", design, ndim=2)
    labels = np.asarray(participants)
    if not len(y) == len(x) == len(labels):
        raise NumericsError(
            f"values, design and participants have {len(y)}, {len(x)} and {len(labels)} rows; give "
            "one row per value"
        )
    require_finite("values", y)
    require_finite("design", x)
    n, p = x.shape
    if np.linalg.matrix_rank(x) < p:
        raise NumericsError(
            f"design has {p} columns but rank {np.linalg.matrix_rank(x)}; leave out columns that "
            "the others make up"
        )
    if n <= p:
        raise NumericsError(f"{n} values for {p} coefficients; at least {p + 1} are needed")
    _, place = np.unique(labels, return_inverse=True)
    sizes = np.bincount(place).astype(float)
    design_sums = np.zeros((len(sizes), p))
    np.add.at(design_sums, place, x)
    return _Sums(
        x,
        y,
        sizes,
        design_sums,
        np.bincount(place, y).astype(float),
        x.T @ x,
        x.T @ y,
        float(y @ y),
    )


def _is_perfect(sums: _Sums) -> bool:
    """Whether nothing is left within participants once their levels are taken out."""
    _, residual = _solved(sums, _LARGEST_SHARE)
    return residual <= _NO_VARIANCE * max(sums.squares, 1e-300) or not np.ptp(sums.values)


def _normal(sums: _Sums, shares: ArrayLike) -> tuple[_Array, _Array, _Array, _Array]:
    """X'V^-1 X, X'V^-1 y, y'V^-1 y and log |V| at each share, for a residual variance of 1."""
    share = np.atleast_1d(np.asarray(shares, float))[:, np.newaxis]
    ratio = share / (1 - share)
    weights = ratio / (1 + sums.sizes * ratio)
    s, t = sums.design_sums, sums.value_sums
    n_people, p = s.shape
    # sums of s s' over participants, by one matrix product for all shares
    outer = (s[:, :, np.newaxis] * s[:, np.newaxis, :]).reshape(n_people, p * p)
    return (
        sums.cross - (weights @ outer).reshape(-1, p, p),
        sums.cross_values - (weights * t) @ s,
        sums.squares - weights @ t**2,
        np.log1p(sums.sizes * ratio).sum(axis=1),
    )


def _solved(sums: _Sums, share: float) -> tuple[_Array, float]:
    """Coefficients and weighted squares of what they leave."""
    matrix, right, squares, _ = _normal(sums, share)
    beta: _Array = np.linalg.solve(matrix[0], right[0])
    return beta, max(float(squares[0] - beta @ right[0]), 0.0)


def _log_likelihoods(sums: _Sums, shares: ArrayLike, criterion: Criterion) -> _Array:
    matrix, right, squares, log_det = _normal(sums, shares)
    n, p = sums.design.shape
    factor = np.linalg.cholesky(matrix)
    half = np.linalg.solve(factor, right[:, :, np.newaxis])[:, :, 0]
    left = np.maximum(squares - (half**2).sum(axis=1), 1e-300)
    free = n if criterion == "ml" else n - p
    found = free * np.log(2 * math.pi * left / free) + free + log_det
    if criterion == "reml":
        found += 2 * np.log(np.diagonal(factor, axis1=1, axis2=2)).sum(axis=1)
    return np.asarray(-0.5 * found)


def _best_share(sums: _Sums, criterion: Criterion) -> float:
    def loss(share: float) -> float:
        return -float(_log_likelihoods(sums, share, criterion)[0])

    on_grid = _log_likelihoods(sums, _GRID, criterion)
    highest = int(on_grid.argmax())
    low = float(_GRID[max(highest - 1, 0)])
    high = float(_GRID[highest + 1]) if highest + 1 < len(_GRID) else _LARGEST_SHARE
    found = optimize.minimize_scalar(
        loss, bounds=(low, high), method="bounded", options={"xatol": 1e-9}
    )
    share = float(found.x)
    if share < _SMALLEST_SHARE or -float(on_grid[0]) <= float(found.fun):
        return 0.0
    return share


def _fitted(sums: _Sums, share: float, criterion: Criterion, note: str) -> RandomIntercept:
    n, p = sums.design.shape
    matrix, _, _, _ = _normal(sums, share)
    beta, left = _solved(sums, share)
    residual = left / (n if criterion == "ml" else n - p)
    intercept = residual * share / (1 - share)
    unscaled = np.linalg.inv(matrix[0])
    covariance = residual * unscaled
    # the scale of variances does not matter to degrees of freedom; a perfect fit has none
    scale = residual if residual > 0 else 1.0
    has_intercept = bool((sums.sizes > 1).any())
    information, slopes, extra = _second_order(sums, intercept / scale, unscaled, has_intercept)
    return RandomIntercept(
        coefficients=beta,
        covariance=covariance,
        var_intercept=intercept,
        var_residual=residual,
        log_likelihood=float(_log_likelihoods(sums, share, criterion)[0]),
        n_observations=n,
        n_participants=len(sums.sizes),
        criterion=criterion,
        note=note,
        information=information / scale**2,
        slopes=slopes,
        small_sample=extra * residual,
    )


def _second_order(
    sums: _Sums, ratio: float, c: _Array, has_intercept: bool
) -> tuple[_Array, _Array, _Array]:
    r"""Information of the variances, derivatives of the covariance, addition of Kenward and Roger.

    For residual variance 1 and intercept variance `ratio`. With :math:`\lambda_i = 1 + n_i r`,
    :math:`1'V_i^{-k} = 1' \lambda_i^{-k}` and
    :math:`V_i^{-k} = I + (\lambda_i^{-k} - 1) J / n_i`.
    """
    n, s = sums.sizes, sums.design_sums
    lam = 1 + n * ratio

    def between(weights: _Array) -> _Array:
        """Sum over participants of weights times s s'."""
        return (s * weights[:, np.newaxis]).T @ s

    def power(k: int) -> _Array:
        """X'V^-k X."""
        return sums.cross + between((lam**-k - 1) / n)

    second, third = power(2), power(3)
    first_b = between(lam**-2)  # X'V^-1 ZZ' V^-1 X
    quad = np.einsum("ip,pq,iq->i", s, c, s)
    d = n / lam
    cb, ce = c @ first_b, c @ second
    info = np.empty((2, 2))
    info[0, 0] = float((d**2).sum() - 2 * (d * quad / lam**2).sum() + np.trace(cb @ cb))
    info[1, 1] = float(
        (n - 1).sum() + (lam**-2).sum() - 2 * np.trace(c @ third) + np.trace(ce @ ce)
    )
    info[0, 1] = info[1, 0] = float(
        (n / lam**2).sum() - 2 * (quad / lam**3).sum() + np.trace(ce @ cb)
    )
    slopes = np.array([cb @ c, ce @ c])
    if not has_intercept:  # the residual variance is the only one
        info[0, :] = info[:, 0] = 0.0
    information = info / 2
    w = linalg.pinvh(information)
    q = np.empty((2, 2), dtype=object)
    q[0, 0] = between(n / lam**3)  # X'V^-1 ZZ'V^-1 ZZ'V^-1 X
    q[0, 1] = q[1, 0] = between(lam**-3)
    q[1, 1] = third
    parts = (first_b, second)
    total = np.zeros_like(c)
    for i in range(2):
        for j in range(2):
            total += w[i, j] * (q[i, j] - parts[i] @ c @ parts[j])
    return information, slopes, 2 * c @ total @ c


@dataclass(frozen=True)
class Estimate:
    """A number with its interval.

    Parameters
    ----------
    value, low, high : float
        Estimate and ends of its interval, in the unit of the data.
    p : float
        Two-sided, that it is 0.
    error, dof : float
        Standard error, and degrees of freedom; infinite by Wald.
    """

    value: float
    low: float
    high: float
    p: float
    error: float
    dof: float


class LinearFit(Protocol):
    """A linear model whose coefficients have errors, for large samples and for small ones."""

    @property
    def coefficients(self) -> _Array:
        """In the unit of the data over that of each column."""

    @property
    def covariance(self) -> _Array:
        """Of the coefficients, the variances taken as known."""

    @property
    def small_sample(self) -> _Array:
        """What is added to it for small samples."""

    def error_and_freedom(self, weights: ArrayLike) -> tuple[float, float]:
        """Standard error and degrees of freedom of a sum of coefficients, for small samples."""


def estimate_of(
    fit: LinearFit, weights: ArrayLike, *, level: float, has_small_sample: bool
) -> Estimate:
    """Sum of coefficients with interval and p-value.

    Parameters
    ----------
    fit : LinearFit
        Of the model.
    weights : (p,) array
        Of the coefficients.
    level : float
        Of the interval, 0 to 1.
    has_small_sample : bool
        Whether by t with the error and degrees of freedom of small samples (best mode), or by
        Wald's z (as Stata's mixed models).

    Returns
    -------
    Estimate
        p is NaN where there is no error.

    Examples
    --------
    >>> fit = fit_random_intercept([1.0, 3.0, 4.0, 5.0], [[1, 0], [1, 1]] * 2, list("aabb"),
    ...     criterion="reml")
    >>> found = estimate_of(fit, [0, 1], level=0.95, has_small_sample=True)
    >>> round(found.value, 3), round(found.p, 3)  # as the paired t test
    (1.5, 0.205)
    """
    c = as_float("weights", weights, ndim=1)
    value = float(c @ fit.coefficients)
    if has_small_sample:
        error, dof = fit.error_and_freedom(c)
        scale = stats.t(dof)
    else:
        error, dof = math.sqrt(max(float(c @ fit.covariance @ c), 0.0)), math.inf
        scale = stats.norm()
    quantile = float(scale.ppf((1 + level) / 2))
    p = 2 * float(scale.sf(abs(value) / error)) if error > 0 else math.nan
    return Estimate(value, value - quantile * error, value + quantile * error, p, error, dof)
