"""Size of an effect at every feature, beside its p-value."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.checks import as_float, require_finite, require_range

_Array = NDArray[np.float64]


@dataclass(frozen=True)
class Effects:
    """Size of a difference, each an array over m features.

    Attributes
    ----------
    difference : (m,) array
        First group less second, adjusted for covariates, or the mean of one group, in the unit of
        the data.
    low, high : (m,) array
        Ends of its confidence interval, in the same unit; for each feature by itself.
    percent : (m,) array
        Difference in per cent of the adjusted mean of the second group; NaN where that is 0 or
        there is no second group.
    cohen_d : (m,) array
        Difference over the standard deviation within groups; 0 without variance or difference.
    hedges_g : (m,) array
        The same without the bias of small samples.
    d_low, d_high : (m,) array
        Ends of the confidence interval of d.
    """

    difference: _Array
    low: _Array
    high: _Array
    percent: _Array
    cohen_d: _Array
    hedges_g: _Array
    d_low: _Array
    d_high: _Array


def two_group_effects(
    data: NDArray[np.floating],
    design: ArrayLike,
    groups: ArrayLike,
    *,
    level: float,
    has_unequal_variances: bool,
) -> Effects:
    r"""Differences between the first two groups of a design.

    Parameters
    ----------
    data : (n, m) array
        Observations in rows, features in columns, finite.
    design : (n, p) array
        A column of 0 and 1 for each group, then covariates less their means, of full rank.
    groups : (n,) array of int
        Group of each observation, from 0, in the order of those columns.
    level : float
        Of the confidence intervals, such as 0.95, above 0 to 0.9999.
    has_unequal_variances : bool
        Whether each group has a variance of its own, for the interval of the difference.

    Returns
    -------
    Effects
        d and g are by the variance within groups, pooled over all, whatever the interval is by.

    Raises
    ------
    NumericsError
        If shapes do not fit, a value is not finite, the design is not of full rank, leaves no
        degree of freedom, or its first columns are not the groups.

    Notes
    -----
    With :math:`b = (X'X)^{-1} X' y` and residual variance :math:`s^2` of :math:`\nu = n - p`
    degrees of freedom, the difference :math:`c'b` has the variance :math:`s^2 c'(X'X)^{-1} c` and
    Student's t. With unequal variances it is :math:`\sum_g s_g^2 \sum_{i \in g} a_i^2`, where
    :math:`a = X (X'X)^{-1} c` and :math:`s_g^2` is the sum of squared residuals of the group over
    its share of the degrees of freedom, :math:`\sum_{i \in g} (1 - h_{ii})` (Winkler 2014,
    doi:10.1016/j.neuroimage.2014.01.060); degrees of freedom after Welch and Satterthwaite.

    :math:`d = c'b / s`, :math:`g = J d` with
    :math:`J = \Gamma(\nu / 2) / (\sqrt{\nu / 2}\, \Gamma((\nu - 1) / 2))` (Hedges 1981,
    doi:10.3102/10769986006002107). The interval of d takes
    :math:`\mathrm{var}(d) = 1/n_1 + 1/n_2 + d^2 / (2 (n_1 + n_2))` as normal (Hedges and Olkin
    1985); n are the observations of the two groups.

    Examples
    --------
    >>> design = np.array([[1.0, 0.0]] * 3 + [[0.0, 1.0]] * 3)
    >>> found = two_group_effects(
    ...     np.array([[3.0], [4.0], [5.0], [1.0], [2.0], [3.0]]), design, [0, 0, 0, 1, 1, 1],
    ...     level=0.95, has_unequal_variances=False,
    ... )
    >>> [float(x[0].round(3)) for x in (found.difference, found.percent, found.cohen_d)]
    [2.0, 100.0, 2.0]
    """
    values = as_float("data", data, ndim=2)
    matrix = as_float("design", design, ndim=2)
    number = np.asarray(groups)
    _require_fit(values, matrix, number)
    require_range("level", level, 0.0, 0.9999, open_low=True)
    n, n_columns = matrix.shape
    dof = n - n_columns
    inverse: _Array = np.linalg.inv(matrix.T @ matrix).astype(np.float64)
    estimates = inverse @ (matrix.T @ values)
    difference = estimates[0] - estimates[1]
    rest = values - matrix @ estimates
    squares = np.einsum("ij,ij->j", rest, rest)
    sd = np.sqrt(squares / dof)
    contrast = np.zeros(n_columns)
    contrast[:2] = 1.0, -1.0
    if has_unequal_variances:
        error, freedom = _welch(rest, matrix, inverse, contrast, number)
    else:
        error, freedom = sd * np.sqrt(contrast @ inverse @ contrast), np.full(len(sd), float(dof))
    reach = stats.t.ppf((1 + level) / 2, freedom) * error
    cohen_d = _ratio(difference, sd, missing=0.0)
    n_first, n_second = np.count_nonzero(number == 0), np.count_nonzero(number == 1)
    spread = np.sqrt(1 / n_first + 1 / n_second + cohen_d**2 / (2 * (n_first + n_second)))
    d_reach = stats.norm.ppf((1 + level) / 2) * spread
    return Effects(
        difference=difference,
        low=difference - reach,
        high=difference + reach,
        percent=100.0 * _ratio(difference, estimates[1], missing=np.nan),
        cohen_d=cohen_d,
        hedges_g=small_sample_factor(dof) * cohen_d,
        d_low=cohen_d - d_reach,
        d_high=cohen_d + d_reach,
    )


def one_group_effects(
    data: NDArray[np.floating], *, level: float, covariates: ArrayLike | None = None
) -> Effects:
    r"""Mean of one group against 0, such as that of changes between two visits.

    Parameters
    ----------
    data : (n, m) array
        Observations in rows, at least two, features in columns, finite.
    level : float
        Of the confidence intervals, such as 0.95, above 0 to 0.9999.
    covariates : (n, c) array, optional
        Nuisance; the mean is that at their means.

    Returns
    -------
    Effects
        d and g are by the standard deviation of what covariates leave of the observations: of
        changes, where those are what is given, not of the values that changed.

    Raises
    ------
    NumericsError
        If there are not two observations more than covariates, or a value is not finite.

    Notes
    -----
    :math:`d = \bar y / s`, with :math:`\mathrm{var}(d) = 1/n + d^2 / (2 n)` taken as normal
    (Hedges and Olkin 1985); the interval of the mean is Student's.

    Examples
    --------
    >>> found = one_group_effects(np.array([[1.0], [2.0], [3.0]]), level=0.95)
    >>> [float(x[0].round(3)) for x in (found.difference, found.low, found.cohen_d)]
    [2.0, -0.484, 2.0]
    """
    values = as_float("data", data, ndim=2)
    require_finite("data", values)
    require_range("level", level, 0.0, 0.9999, open_low=True)
    n = len(values)
    others = as_float("covariates", np.zeros((n, 0)) if covariates is None else covariates, ndim=2)
    require_finite("covariates", others)
    dof = n - 1 - others.shape[1]
    if dof < 1 or len(others) != n:
        raise NumericsError(
            f"data has {n} observations and covariates the shape {others.shape}; a variance takes "
            "one row for each, and two observations more than columns"
        )
    difference = values.mean(axis=0)
    centred = others - others.mean(axis=0)
    rest = values - difference
    rest -= centred @ np.linalg.lstsq(centred, rest, rcond=None)[0]
    sd = np.sqrt(np.einsum("ij,ij->j", rest, rest) / dof)
    reach = stats.t.ppf((1 + level) / 2, dof) * sd / np.sqrt(n)
    cohen_d = _ratio(difference, sd, missing=0.0)
    d_reach = stats.norm.ppf((1 + level) / 2) * np.sqrt(1 / n + cohen_d**2 / (2 * n))
    return Effects(
        difference=difference,
        low=difference - reach,
        high=difference + reach,
        percent=np.full(len(difference), np.nan),
        cohen_d=cohen_d,
        hedges_g=small_sample_factor(dof) * cohen_d,
        d_low=cohen_d - d_reach,
        d_high=cohen_d + d_reach,
    )


def small_sample_factor(degrees_of_freedom: int) -> float:
    """Factor that takes the bias from Cohen's d.

    Parameters
    ----------
    degrees_of_freedom : int
        Of the standard deviation, at least 2.

    Returns
    -------
    float
        Between 0 and 1 (Hedges 1981, doi:10.3102/10769986006002107); 0 for one degree of freedom,
        where no estimate is without bias.

    Examples
    --------
    >>> round(small_sample_factor(10), 4)
    0.9227
    """
    if degrees_of_freedom < 2:
        return 0.0
    half = degrees_of_freedom / 2
    return float(np.exp(special.gammaln(half) - special.gammaln(half - 0.5)) / np.sqrt(half))


def _require_fit(data: _Array, design: _Array, groups: NDArray[np.generic]) -> None:
    require_finite("data", data)
    require_finite("design", design)
    n, n_columns = design.shape
    if len(data) != n or groups.shape != (n,):
        raise NumericsError(
            f"data has {len(data)} rows, design {n} and groups the shape {groups.shape}; give one "
            "row and one group for each observation"
        )
    n_groups = int(groups.max()) + 1
    expected = np.equal.outer(groups, np.arange(n_groups))
    if n_groups < 2 or n_columns < n_groups or not np.array_equal(design[:, :n_groups], expected):
        raise NumericsError(
            f"the first columns of the design are not its {n_groups} groups; give a column of 0 "
            "and 1 for each, at least two, in the order of their numbers"
        )
    if np.linalg.matrix_rank(design) < n_columns:
        raise NumericsError(
            f"design has {n_columns} columns and rank {np.linalg.matrix_rank(design)}; leave out "
            "covariates that follow from others"
        )
    if n <= n_columns:
        raise NumericsError(
            f"{n} observations and {n_columns} columns leave no degree of freedom; leave out "
            "covariates"
        )


def _welch(
    rest: _Array,
    design: _Array,
    inverse: _Array,
    contrast: _Array,
    groups: NDArray[np.generic],
) -> tuple[_Array, _Array]:
    """Standard error and degrees of freedom where each group has a variance of its own."""
    left = 1.0 - np.einsum("ij,jk,ik->i", design, inverse, design)
    weights = (design @ inverse @ contrast) ** 2
    total, spread = np.zeros((2, rest.shape[1]))
    for group in np.unique(groups):
        is_own = groups == group
        own_dof = left[is_own].sum()
        if own_dof <= 0.0:
            raise NumericsError(
                f"group {group} leaves no degree of freedom for its variance; take more "
                "observations, or one variance for all groups"
            )
        part = (rest[is_own] ** 2).sum(axis=0) / own_dof * weights[is_own].sum()
        total += part
        spread += part**2 / own_dof
    return np.sqrt(total), _ratio(total**2, spread, missing=1.0)


def _ratio(above: _Array, below: _Array, *, missing: float) -> _Array:
    found = np.full(above.shape, missing)
    np.divide(above, below, out=found, where=below != 0.0)
    return found
