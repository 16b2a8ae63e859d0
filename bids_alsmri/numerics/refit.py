"""Statistics fitted feature by feature: covariates that differ by voxel, and variance groups."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.checks import as_float, require_finite
from bids_alsmri.numerics.compile import kernel
from bids_alsmri.numerics.linear import (
    Partition,
    Residuals,
    effect_rows,
    f_statistic,
    residuals,
    t_statistic,
)

_NO_VARIANCE = 1e-12  # of a regressor's own sum of squares: what is left is rounding
_SMALLEST_REST = 1e-8  # of the sum of squares, which is 1: weights still add up exactly enough
_SMALLEST_FREEDOM = 1e-6  # of a variance group
_COLUMNS_AT_ONCE = 128  # with their regressors they stay in the second cache

_Array = NDArray[np.float64]
_Floats = NDArray[np.floating]
_Order = NDArray[np.intp]


@dataclass(frozen=True)
class VarianceGroups:
    """Observations whose noise is of one variance.

    Attributes
    ----------
    labels : (n,) array of int
        Group of each observation, from 0.
    n_groups : int
        How many; 1 stands for noise of one variance throughout.
    """

    labels: _Order
    n_groups: int


def make_variance_groups(labels: ArrayLike | None, partition: Partition) -> VarianceGroups:
    """Variance groups, after a look whether each leaves freedom to estimate its variance.

    Parameters
    ----------
    labels : (n,) array or None
        Labels of any kind; None where all observations are of one variance.
    partition : Partition
        The design.

    Returns
    -------
    VarianceGroups
        Numbered from 0.

    Raises
    ------
    NumericsError
        If labels are not one for each observation, or the regressors explain all of a group.

    Examples
    --------
    >>> from bids_alsmri.numerics.linear import partition_design, two_groups
    >>> split = partition_design(*two_groups([True, True, False, False]))
    >>> make_variance_groups(["b", "b", "a", "a"], split).labels
    array([1, 1, 0, 0])
    """
    n = len(partition.effect)
    if labels is None:
        return VarianceGroups(np.zeros(n, np.intp), 1)
    names, numbers = np.unique(np.asarray(labels), return_inverse=True)
    if numbers.shape != (n,):
        raise NumericsError(
            f"variance_groups has shape {numbers.shape}; give one label for each of {n}"
        )
    rows = np.vstack([effect_rows(partition), partition.nuisance.T])
    freedom = np.bincount(numbers, 1.0 - (rows * rows).sum(axis=0))
    if freedom.min() < _SMALLEST_FREEDOM:
        least = int(freedom.argmin())
        raise NumericsError(
            f"variance group {names[least]!s} has {np.count_nonzero(numbers == least)} "
            "observations, which the regressors explain wholly; join it with another, or take "
            "regressors out"
        )
    return VarianceGroups(numbers.astype(np.intp), len(names))


def voxelwise_residuals(
    data: NDArray[np.floating], partition: Partition, covariates: NDArray[np.floating]
) -> Residuals:
    r"""Take the nuisance out of data, covariates that differ by feature too.

    Parameters
    ----------
    data : (n, m) array
        Observations in rows, features in columns, finite.
    partition : Partition
        Effect and the nuisance that all features share.
    covariates : (c, n, m) array
        Value of each covariate for each observation and feature, finite: for example the share of
        grey matter.

    Returns
    -------
    Residuals
        With regressors of each feature's own. Features whose data have no variance left, or where
        a covariate is constant or explains the effect or another covariate, have no statistic:
        they count as constant.

    Raises
    ------
    NumericsError
        If shapes do not fit, a value is not finite, or no degree of freedom is left.

    Notes
    -----
    A model of its own at each feature, as if all features were fitted one after the other; its
    effect is what the covariates leave of the shared one (Frisch and Waugh 1933,
    doi:10.2307/1907330).

    Examples
    --------
    >>> from bids_alsmri.numerics.linear import partition_design, two_groups
    >>> split = partition_design(*two_groups(np.arange(6) < 3))
    >>> grey = np.array([0.5, 0.7, 0.6, 0.4, 0.6, 0.3])[:, np.newaxis]
    >>> left = voxelwise_residuals(2.0 * grey + split.effect**3, split, grey[np.newaxis])
    >>> left.own.shape, left.n_constant
    ((2, 6, 1), 0)
    """
    extra = as_float("covariates", covariates, ndim=3)
    require_finite("covariates", extra)
    shared = residuals(data, partition)
    if extra.shape[1:] != shared.unit.shape:
        raise NumericsError(
            f"covariates has shape {extra.shape} but data {shared.unit.shape}; give a value of "
            "each covariate for each observation and feature"
        )
    if partition.degrees_of_freedom <= len(extra):
        raise NumericsError(
            f"{len(extra)} voxelwise covariates leave no degree of freedom of "
            f"{partition.degrees_of_freedom}; take regressors out or observations in"
        )
    has_variance = shared.length > 0.0
    basis: list[_Array] = []
    for one in (*extra, *(row[:, np.newaxis] for row in effect_rows(partition))):
        row = np.broadcast_to(one, shared.unit.shape)
        left = _without(row, partition.nuisance, basis)
        squares = np.einsum("ij,ij->j", left, left)
        remains = squares > _NO_VARIANCE * np.einsum("ij,ij->j", row, row)
        has_variance &= remains
        left *= np.divide(1.0, np.sqrt(squares), out=np.zeros_like(squares), where=remains)
        basis.append(left)
    covariate_rows, tested = basis[: len(extra)], basis[len(extra) :]
    unit = _without(shared.unit, partition.nuisance, covariate_rows)
    squares = np.einsum("ij,ij->j", unit, unit)
    has_variance &= squares > _NO_VARIANCE
    scale = np.where(has_variance, np.sqrt(squares), 0.0)
    unit *= np.divide(1.0, scale, out=np.zeros_like(scale), where=has_variance)
    own = np.stack([*tested, *covariate_rows])
    own[:, :, ~has_variance] = 0.0
    return Residuals(unit, shared.length * scale, own)


def _without(values: _Floats, nuisance: _Array, rows: list[_Array]) -> _Array:
    left = np.array(values, dtype=np.float64)
    for _ in range(2):  # once more, for what rounding has left
        left -= nuisance @ (nuisance.T @ left)
        for row in rows:
            left -= row * np.einsum("ij,ij->j", row, left)
    return left


@kernel
def _fill_refit(
    unit: _Array,
    shared: _Array,
    own: _Array,
    n_effects: int,
    groups: _Order,
    n_groups: int,
    orders: _Order,
    signs: _Array,
    out: _Array,
) -> None:
    # Regressors are orthonormal, effects first: those of the feature's own, with the shared ones
    # between its effects and its covariates, or shared ones only. Of each part of the columns the
    # regressors are laid out once for all relabellings, with the products of each variance group.
    n, m = unit.shape
    n_own = own.shape[0]
    n_rows = n_own + shared.shape[0]
    width = min(_COLUMNS_AT_ONCE, m)
    rows = np.zeros((n_rows, n, width))
    grams = np.zeros((n_groups, n_rows, n_rows, width))
    freedom = np.zeros((n_groups, width))
    size = np.zeros(n_groups)
    for j in range(n):
        size[groups[j]] += 1.0
    fit = np.zeros((n_rows, width))
    rest = np.zeros(width)
    squares = np.zeros((n_groups, width))
    weight = np.zeros(n_groups)
    triangle = np.zeros((n_rows, n_rows))
    for start in range(0, m, width):
        stop = min(start + width, m)
        for row in range(n_rows):
            for j in range(n):
                if n_own == 0:
                    rows[row, j, :] = shared[row, j]
                elif row < n_effects:
                    rows[row, j, : stop - start] = own[row, j, start:stop]
                elif row < n_effects + shared.shape[0]:
                    rows[row, j, :] = shared[row - n_effects, j]
                else:
                    rows[row, j, : stop - start] = own[row - shared.shape[0], j, start:stop]
        grams[:] = 0.0
        for row in range(n_rows):
            for other in range(row + 1):
                for j in range(n):
                    gram = grams[groups[j], row, other]
                    for i in range(stop - start):
                        gram[i] += rows[row, j, i] * rows[other, j, i]
        for g in range(n_groups):
            freedom[g] = size[g]
            for row in range(n_rows):
                freedom[g] -= grams[g, row, row]
        for k in range(orders.shape[0]):
            fit[:] = 0.0
            for j in range(n):
                sign = signs[k, j]
                values = unit[orders[k, j], start:stop]
                for row in range(n_rows):
                    regressor, coefficient = rows[row, j], fit[row]
                    for i in range(stop - start):
                        coefficient[i] += regressor[i] * (sign * values[i])
            squares[:] = 0.0
            for j in range(n):
                sign = signs[k, j]
                values = unit[orders[k, j], start:stop]
                for i in range(stop - start):
                    rest[i] = sign * values[i]
                for row in range(n_rows):
                    regressor, coefficient = rows[row, j], fit[row]
                    for i in range(stop - start):
                        rest[i] -= regressor[i] * coefficient[i]
                total = squares[groups[j]]
                for i in range(stop - start):
                    total[i] += rest[i] * rest[i]
            for i in range(stop - start):
                out[k, start + i] = _weighted(
                    i, fit, squares, freedom, size, grams, n_effects, weight, triangle
                )


@kernel
def _weighted(
    i: int,
    fit: _Array,
    squares: _Array,
    freedom: _Array,
    size: _Array,
    grams: _Array,
    n_effects: int,
    weight: _Array,
    triangle: _Array,
) -> float:
    # The weighted products of nuisance and then effects, as L L': the corner of L that belongs to
    # the effects is that of their precision, the nuisance taken out.
    n_rows, n_groups = fit.shape[0], squares.shape[0]
    total = 0.0
    for g in range(n_groups):
        # a group without variance, by this relabelling, would weigh infinitely
        weight[g] = max(freedom[g, i], _SMALLEST_FREEDOM) / max(squares[g, i], _SMALLEST_REST)
        total += size[g] * weight[g]
    for a in range(n_rows):
        row = n_rows - 1 - a  # effects last
        for b in range(a + 1):
            column = n_rows - 1 - b
            value = 0.0
            for g in range(n_groups):
                value += weight[g] * grams[g, max(row, column), min(row, column), i]
            for c in range(b):
                value -= triangle[a, c] * triangle[b, c]
            if a == b:
                # a feature without a statistic has no regressors either
                triangle[a, a] = np.sqrt(max(value, 0.0))
            else:
                triangle[a, b] = value / triangle[b, b] if triangle[b, b] > 0.0 else 0.0
    first = n_rows - n_effects
    if n_effects == 1:
        signed: float = triangle[first, first] * fit[0, i]
        return signed
    explained = 0.0
    for b in range(first, n_rows):
        value = 0.0
        for a in range(b, n_rows):
            value += triangle[a, b] * fit[n_rows - 1 - a, i]
        explained += value * value
    spread = 0.0
    for g in range(n_groups):
        share = size[g] * weight[g] / total
        spread += (1.0 - share) * (1.0 - share) / max(freedom[g, i], _SMALLEST_FREEDOM)
    correction = 1.0 + 2.0 * (n_effects - 1) / (n_effects * (n_effects + 2.0)) * spread
    g_statistic: float = explained / n_effects / correction
    return g_statistic


def refitted(
    data: Residuals,
    partition: Partition,
    groups: VarianceGroups,
    orders: NDArray[np.integer],
    signs: NDArray[np.floating],
) -> _Array:
    r"""t, F, Welch's v or G of several relabellings, with regressors and weights of each feature.

    Parameters
    ----------
    data : Residuals
        In float64, rows following each other in memory.
    partition : Partition
        Of one effect (t or v) or several (F or G).
    groups : VarianceGroups
        One for t and F; several for v and G.
    orders : (k, n) array of int
        Observation that stands at each place after each relabelling.
    signs : (k, n) array
        1 or -1: sign of each place after it.

    Returns
    -------
    (k, m) array
        0 for features without a statistic.

    Notes
    -----
    With coefficients :math:`\hat\psi` by least squares, :math:`W_n` the residuals' degrees of
    freedom of the variance group of observation n over their sum of squares there, and
    :math:`s` rows of the contrast,

    .. math:: G = \frac{\hat\psi' C (C'(M'WM)^{-1}C)^{-1} C'\hat\psi}{\Lambda s}, \quad
       \Lambda = 1 + \frac{2(s-1)}{s(s+2)} \sum_g \frac{1}{\sum_{n \in g} R_{nn}}
       \left(1 - \frac{\sum_{n \in g} W_n}{\sum_n W_n}\right)^2

    (Winkler 2014, doi:10.1016/j.neuroimage.2014.01.060). For one row its root with the sign of
    the effect is Welch's v (Welch 1947, doi:10.1093/biomet/34.1-2.28), for groups without
    covariates G is Welch's analysis of variance (1951, doi:10.1093/biomet/38.3-4.330), and with
    one variance group it is t or F. Relabelled residuals (Freedman and Lane 1983) meet the
    design, and the variance groups, in their places. Where variances do differ, observations of
    different variance groups are not exchangeable: permuted, the test is asymptotic, not exact, and
    slow to become so for the largest of many features, since permuting mixes the variances that
    the data keep apart. Sign flips leave each observation in its group; prefer them.

    Each row of the result is the same to the last bit whichever others are asked for with it.

    Examples
    --------
    >>> from bids_alsmri.numerics.linear import partition_design, residuals, two_groups
    >>> first = np.array([True, True, False, False, False])
    >>> split = partition_design(*two_groups(first))
    >>> data = residuals(np.array([[1.0], [2.0], [3.0], [5.0], [9.0]]), split)
    >>> groups = make_variance_groups(first, split)
    >>> refitted(data, split, groups, np.arange(5)[np.newaxis], np.ones((1, 5))).round(4)
    array([[-2.2727]])
    """
    nuisance = partition.nuisance.T
    shared = nuisance if data.own is not None else np.vstack([effect_rows(partition), nuisance])
    n, m = data.unit.shape
    out: _Array = np.empty((len(orders), m))
    _fill_refit(
        as_float("data", data.unit),
        as_float("nuisance", shared),
        np.empty((0, n, m)) if data.own is None else as_float("own", data.own),
        partition.effect.shape[1],
        groups.labels,
        groups.n_groups,
        np.ascontiguousarray(orders, np.intp),
        as_float("signs", signs),
        out,
    )
    return out


def observed_statistic(data: Residuals, partition: Partition, groups: VarianceGroups) -> _Array:
    """Statistic of the observed labelling in double precision.

    Parameters
    ----------
    data : Residuals
        In float64.
    partition : Partition
        Of one effect or several.
    groups : VarianceGroups
        Of the observations.

    Returns
    -------
    (m,) array
        t or F of one variance group, v or G of several; 0 for features without one.

    Examples
    --------
    >>> from bids_alsmri.numerics.linear import partition_design, residuals, two_groups
    >>> split = partition_design(*two_groups([True, True, False, False]))
    >>> data = residuals(np.array([[1.0], [2.0], [3.0], [5.0]]), split)
    >>> observed_statistic(data, split, make_variance_groups(None, split)).round(4)
    array([-2.2361])
    """
    if data.own is None and groups.n_groups == 1:
        is_t = partition.effect.shape[1] == 1
        return t_statistic(data, partition) if is_t else f_statistic(data, partition)
    n = len(data.unit)
    found: _Array = refitted(data, partition, groups, np.arange(n)[np.newaxis], np.ones((1, n)))[0]
    return found
