"""Size of an effect at every feature, beside its p-value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.checks import as_float, require_finite, require_range

_Array = NDArray[np.float64]

_NO_VARIANCE = 1e-12  # of a regressor's own sum of squares: what the others leave is rounding
_SMALLEST_FREEDOM = 1e-6  # of a group whose own covariates explain it wholly
_FEATURES_AT_ONCE = 4096


@dataclass(frozen=True)
class Effects:
    """Size of a difference, each an array over m features.

    Attributes
    ----------
    difference : (m,) array
        First group less second, adjusted for covariates, or the mean of one group, in the unit of
        the data; NaN where a covariate of the feature's own is constant or explains the groups.
    low, high : (m,) array
        Ends of its confidence interval, in the same unit; for each feature by itself.
    percent : (m,) array
        Difference in per cent of the adjusted mean of the second group; NaN where that is 0 or
        there is no second group.
    cohen_d : (m,) array
        Difference over the standard deviation within groups; 0 without variance or difference, or
        where the difference is NaN.
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
    voxelwise_covariates: NDArray[np.floating] | None = None,
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
    voxelwise_covariates : (c, n, m) array, optional
        Nuisance that differs by feature, finite; its means do not matter.

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

    A covariate of a feature's own makes the model that feature's own too: a further column of
    :math:`X`.

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
    extra = _covariates(values, voxelwise_covariates)
    n_first, n_second = (int(np.count_nonzero(number == k)) for k in (0, 1))

    def effects(part: _Array, own: _Array) -> Effects:
        fit = _fitted(part, matrix, (1.0, -1.0), own)
        if has_unequal_variances:
            error, freedom = _welch(fit, number)
        else:
            error, freedom = fit.error, np.full(len(fit.error), float(fit.degrees_of_freedom))
        # as those of the design, these covariates count at their means
        slopes = fit.estimates[matrix.shape[1] :]
        second = fit.estimates[1] + np.einsum("ij,ij->j", slopes, own.mean(axis=1))
        return _effects(
            fit,
            stats.t.ppf((1 + level) / 2, freedom) * error,
            100.0 * _ratio(fit.difference, second, missing=np.nan),
            level=level,
            variance_of_d=1 / n_first + 1 / n_second,
            n=n_first + n_second,
        )

    return _in_parts(effects, values, extra)


def one_group_effects(
    data: NDArray[np.floating],
    *,
    level: float,
    covariates: ArrayLike | None = None,
    voxelwise_covariates: NDArray[np.floating] | None = None,
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
    voxelwise_covariates : (k, n, m) array, optional
        Nuisance that differs by feature, finite; the mean is that where it is 0: of changes, that
        where the covariate has not changed. At its mean nothing would be adjusted.

    Returns
    -------
    Effects
        d and g are by the standard deviation of what covariates leave of the observations: of
        changes, where those are what is given, not of the values that changed.

    Raises
    ------
    NumericsError
        If there are not two observations more than covariates, covariates follow from each other,
        shapes do not fit, or a value is not finite.

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
    if n - 1 - others.shape[1] < 1 or len(others) != n:
        raise NumericsError(
            f"data has {n} observations and covariates the shape {others.shape}; a variance takes "
            "one row for each, and two observations more than columns"
        )
    matrix = np.column_stack([np.ones(n), others - others.mean(axis=0)])
    if np.linalg.matrix_rank(matrix) < matrix.shape[1]:
        raise NumericsError(
            f"covariates has {others.shape[1]} columns, of which some are constant or follow from "
            "others; leave them out"
        )

    def effects(part: _Array, own: _Array) -> Effects:
        fit = _fitted(part, matrix, (1.0,), own)
        return _effects(
            fit,
            stats.t.ppf((1 + level) / 2, fit.degrees_of_freedom) * fit.error,
            np.full(part.shape[1], np.nan),
            level=level,
            variance_of_d=1 / n,
            n=n,
        )

    return _in_parts(effects, values, _covariates(values, voxelwise_covariates))


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


def _covariates(values: _Array, covariates: NDArray[np.floating] | None) -> _Array:
    """Covariates of the features' own, (c, n, m), after a look whether they fit the data."""
    if covariates is None:
        return np.empty((0, *values.shape))
    extra = as_float("voxelwise_covariates", covariates, ndim=3)
    require_finite("voxelwise_covariates", extra)
    if extra.shape[1:] != values.shape:
        raise NumericsError(
            f"voxelwise_covariates has shape {extra.shape} but data {values.shape}; give a value "
            "of each covariate for each observation and feature"
        )
    return extra


def _in_parts(
    effects: Callable[[_Array, _Array], Effects], values: _Array, extra: _Array
) -> Effects:
    """Effects of all features, some at a time: residuals of all would take most of the memory."""
    starts = range(0, max(values.shape[1], 1), _FEATURES_AT_ONCE)
    slices = [slice(start, start + _FEATURES_AT_ONCE) for start in starts]
    found = [effects(values[:, part], extra[:, :, part]) for part in slices]
    return Effects(
        **{
            field.name: np.concatenate([getattr(one, field.name) for one in found])
            for field in fields(Effects)
        }
    )


@dataclass(frozen=True)
class _Fit:
    """Linear models of all features: one for all, or each its own (then m in place of 1)."""

    difference: _Array  # (m,), contrast of the estimates
    estimates: _Array  # (p, m)
    rest: _Array  # (n, m)
    weights: _Array  # (n, 1 or m): their product with the data is the difference
    left: _Array  # (n, 1 or m): 1 less the leverage of each observation
    degrees_of_freedom: int

    @property
    def sd(self) -> _Array:
        """Standard deviation of the noise."""
        squares = np.einsum("ij,ij->j", self.rest, self.rest)
        sd: _Array = np.sqrt(squares / self.degrees_of_freedom)
        return sd

    @property
    def error(self) -> _Array:
        """Standard error of the difference, where all noise is of one variance."""
        error: _Array = self.sd * np.sqrt(np.einsum("ij,ij->j", self.weights, self.weights))
        return error


def _fitted(values: _Array, design: _Array, weights: tuple[float, ...], extra: _Array) -> _Fit:
    contrast = np.zeros(design.shape[1] + len(extra))
    contrast[: len(weights)] = weights
    if not len(extra):
        return _fit_alike(values, design, contrast)
    if len(values) <= len(contrast):
        raise NumericsError(
            f"{len(values)} observations and {len(contrast)} columns, {len(extra)} of them of each "
            "feature's own, leave no degree of freedom; leave out covariates"
        )
    return _fit_apart(values, design, contrast, extra)


def _fit_alike(values: _Array, design: _Array, contrast: _Array) -> _Fit:
    inverse: _Array = np.linalg.inv(design.T @ design).astype(np.float64)
    estimates = inverse @ (design.T @ values)
    return _Fit(
        contrast @ estimates,
        estimates,
        values - design @ estimates,
        (design @ inverse @ contrast)[:, np.newaxis],
        1.0 - np.einsum("ij,jk,ik->i", design, inverse, design)[:, np.newaxis],
        len(design) - design.shape[1],
    )


def _fit_apart(values: _Array, design: _Array, contrast: _Array, extra: _Array) -> _Fit:
    # by orthogonal triangles: normal equations would square what little a covariate varies
    n, m = values.shape
    matrix = np.empty((m, n, len(contrast)))
    matrix[:, :, : design.shape[1]] = design
    matrix[:, :, design.shape[1] :] = extra.T
    basis, triangle = np.linalg.qr(matrix)
    own = np.diagonal(triangle, axis1=1, axis2=2) ** 2
    is_known = np.all(own > _NO_VARIANCE * np.einsum("ijk,ijk->ik", matrix, matrix), axis=1)
    triangle[~is_known] = np.eye(len(contrast))
    inverse = np.linalg.inv(triangle)
    along = np.einsum("ijk,ji->ik", basis, values)
    estimates = np.einsum("ijk,ik->ji", inverse, along)
    estimates[:, ~is_known] = np.nan
    return _Fit(
        contrast @ estimates,
        estimates,
        values - np.einsum("ijk,ik->ji", basis, along),
        np.einsum("ijk,ilk,l->ji", basis, inverse, contrast),
        1.0 - np.einsum("ijk,ijk->ji", basis, basis),
        n - len(contrast),
    )


def _effects(
    fit: _Fit, reach: _Array, percent: _Array, *, level: float, variance_of_d: float, n: int
) -> Effects:
    difference = fit.difference
    known = np.where(np.isnan(difference), 0.0, difference)
    cohen_d = _ratio(known, fit.sd, missing=0.0)
    spread = np.sqrt(variance_of_d + cohen_d**2 / (2 * n))
    d_reach = stats.norm.ppf((1 + level) / 2) * spread
    return Effects(
        difference=difference,
        low=difference - reach,
        high=difference + reach,
        percent=percent,
        cohen_d=cohen_d,
        hedges_g=small_sample_factor(fit.degrees_of_freedom) * cohen_d,
        d_low=cohen_d - d_reach,
        d_high=cohen_d + d_reach,
    )


def _welch(fit: _Fit, groups: NDArray[np.generic]) -> tuple[_Array, _Array]:
    """Standard error and degrees of freedom where each group has a variance of its own."""
    total, spread = np.zeros((2, fit.rest.shape[1]))
    for group in np.unique(groups):
        is_own = groups == group
        own_dof = fit.left[is_own].sum(axis=0)
        if len(own_dof) == 1 and own_dof[0] <= 0.0:
            raise NumericsError(
                f"group {group} leaves no degree of freedom for its variance; take more "
                "observations, or one variance for all groups"
            )
        own_dof = np.maximum(own_dof, _SMALLEST_FREEDOM)
        squares = np.einsum("ij,ij->j", fit.rest[is_own], fit.rest[is_own])
        part = squares / own_dof * np.einsum("ij,ij->j", fit.weights[is_own], fit.weights[is_own])
        total += part
        spread += part**2 / own_dof
    return np.sqrt(total), _ratio(total**2, spread, missing=1.0)


def _ratio(above: _Array, below: _Array, *, missing: float) -> _Array:
    found = np.full(above.shape, missing)
    np.divide(above, below, out=found, where=below != 0.0)
    return found
