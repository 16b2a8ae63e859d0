"""Linear models of many features at once: contrasts, residuals, t and F under relabelling."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.checks import as_float, require_finite
from bids_alsmri.numerics.compile import kernel

_ROUNDING = 1e-10  # relative to the largest singular value: columns below it depend on others
_NO_VARIANCE = 1e-12  # of a feature's own sum of squares: what is left is rounding

_SMALLEST_REST = np.float32(1e-12)  # of the sum of squares
_COLUMNS_AT_ONCE = 1024

_Array = NDArray[np.float64]
_Single = NDArray[np.float32]


@dataclass(frozen=True)
class Partition:
    """A design split into what a contrast tests and what it does not.

    Attributes
    ----------
    effect : (n, k) array
        Tested part, orthogonal to the nuisance.
    nuisance : (n, q) array
        Orthonormal basis of the rest; q may be 0.
    rank : int
        Rank of the whole design.
    """

    effect: _Array
    nuisance: _Array
    rank: int

    @property
    def degrees_of_freedom(self) -> int:
        """Observations less the rank of the design."""
        return len(self.effect) - self.rank


def partition_design(design: ArrayLike, contrast: ArrayLike) -> Partition:
    r"""Split a design by a contrast, so that the effect is a regressor of its own.

    Parameters
    ----------
    design : (n, p) array
        Observations in rows, regressors in columns, finite.
    contrast : (p,) or (k, p) array
        One row for t, several independent ones for F.

    Returns
    -------
    Partition
        Effect and nuisance; the coefficient of the effect is the contrast of the coefficients.

    Raises
    ------
    NumericsError
        If shapes do not fit, the design leaves no degree of freedom, or does not determine the
        contrast.

    Notes
    -----
    With :math:`D = (M'M)^{-1}` the effect is :math:`X = M D C (C' D C)^{-1}` (Winkler 2014,
    doi:10.1016/j.neuroimage.2014.01.060, appendix A, after Smith 2007); the nuisance spans what of
    the design is orthogonal to it.

    Examples
    --------
    >>> groups = np.repeat([[1.0, 0.0], [0.0, 1.0]], 3, axis=0)
    >>> partition_design(groups, [1.0, -1.0]).effect.ravel()
    array([ 0.5,  0.5,  0.5, -0.5, -0.5, -0.5])
    """
    matrix = as_float("design", design, ndim=2)
    rows = np.atleast_2d(as_float("contrast", contrast))
    require_finite("design", matrix)
    require_finite("contrast", rows)
    if rows.ndim != 2 or rows.shape[1] != matrix.shape[1]:
        raise NumericsError(
            f"contrast has shape {rows.shape} but design has {matrix.shape[1]} columns; give one "
            "weight for each"
        )
    left, sizes, right = np.linalg.svd(matrix, full_matrices=False)
    rank = int(np.count_nonzero(sizes > _ROUNDING * max(sizes.max(initial=0.0), 1e-300)))
    if len(matrix) <= rank:
        raise NumericsError(
            f"design has rank {rank} with {len(matrix)} observations, which leaves no degree of "
            "freedom for the noise; take regressors out or observations in"
        )
    left, sizes, right = left[:, :rank], sizes[:rank], right[:rank]
    unexplained = rows - rows @ right.T @ right
    if np.linalg.matrix_rank(rows) < len(rows) or not np.allclose(unexplained, 0.0, atol=1e-8):
        raise NumericsError(
            f"contrast {rows.tolist()} is not determined by the design: regressors depend on each "
            "other, are constant beside an intercept, or rows of the contrast repeat. Take the "
            "regressor that depends on others out"
        )
    # M D C and C' D C from the singular values
    along = left @ (right @ rows.T / sizes[:, np.newaxis])
    effect = along @ np.linalg.inv(along.T @ along)
    rest = left - along @ np.linalg.pinv(along) @ left
    basis, spread, _ = np.linalg.svd(rest, full_matrices=False)
    return Partition(effect, _mean_first(basis[:, spread > 0.5]), rank)


def _mean_first(basis: _Array) -> _Array:
    # a permutation leaves the mean where it is: as a column of its own it needs no product
    inside = basis.sum(axis=0)
    if not np.allclose(basis @ inside, 1.0):
        return basis
    turn, _ = np.linalg.qr(np.column_stack([inside, np.eye(len(inside))]))
    turned: _Array = basis @ turn
    return turned


def two_groups(is_first: ArrayLike, covariates: ArrayLike | None = None) -> tuple[_Array, _Array]:
    """Design and contrast of a difference between two groups.

    Parameters
    ----------
    is_first : (n,) array of bool
        True in the first group.
    covariates : (n, c) array, optional
        Nuisance; its means do not matter.

    Returns
    -------
    design : (n, 2 + c) array
        One column for each group, then the covariates less their means.
    contrast : (2 + c,) array
        First less second group.

    Raises
    ------
    NumericsError
        If a group is empty, or a covariate is constant or not finite.

    Examples
    --------
    >>> design, contrast = two_groups([True, True, False], [[1.0], [2.0], [6.0]])
    >>> design[:, 2], contrast
    (array([-2., -1.,  3.]), array([ 1., -1.,  0.]))
    """
    first = np.asarray(is_first, dtype=bool)
    if first.all() or not first.any():
        raise NumericsError(
            f"is_first is {first.all()} for all {len(first)} observations; give two"
        )
    columns = [first, ~first]
    if covariates is not None:
        extra = as_float("covariates", covariates, ndim=2)
        require_finite("covariates", extra)
        constant = np.flatnonzero(np.ptp(extra, axis=0) == 0.0)
        if constant.size:
            raise NumericsError(
                f"covariates {constant.tolist()} are the same for all observations; leave them out"
            )
        columns.extend((extra - extra.mean(axis=0)).T)
    design = np.column_stack(columns).astype(np.float64)
    contrast = np.zeros(design.shape[1])
    contrast[:2] = 1.0, -1.0
    return design, contrast


@dataclass(frozen=True)
class Residuals:
    """What the nuisance leaves of the data, each feature at unit length.

    Attributes
    ----------
    unit : (n, m) array
        Float64, or float32 for speed; 0 for features without variance.
    length : (m,) array of float64
        Length of each feature before, in its unit; 0 where it has no variance.
    own : (k + c, n, m) array or None
        Where c covariates differ by feature (see
        :func:`bids_alsmri.numerics.refit.voxelwise_residuals`): the effect of k columns as each
        feature has it, then the covariates, orthonormal; None where there are none.
    """

    unit: NDArray[np.floating]
    length: _Array
    own: NDArray[np.floating] | None = None

    @property
    def n_constant(self) -> int:
        """Features without variance, for which there is no statistic."""
        return int(np.count_nonzero(self.length == 0.0))


def residuals(data: NDArray[np.floating], partition: Partition) -> Residuals:
    """Take the nuisance out of data.

    Parameters
    ----------
    data : (n, m) array
        Observations in rows, features in columns, finite.
    partition : Partition
        Gives the nuisance.

    Returns
    -------
    Residuals
        In float64; features whose variance is below 1e-12 of their mean square count as constant.

    Raises
    ------
    NumericsError
        If the numbers of observations differ or a value is not finite.

    Examples
    --------
    >>> design, contrast = two_groups([True, True, False, False])
    >>> found = residuals(
    ...     np.array([[1.0], [3.0], [5.0], [7.0]]), partition_design(design, contrast)
    ... )
    >>> found.unit.ravel().round(3), found.length.round(3)
    (array([-0.671, -0.224,  0.224,  0.671]), array([4.472]))
    """
    values = np.asarray(data, dtype=np.float64)
    if values.ndim != 2 or len(values) != len(partition.effect):
        raise NumericsError(
            f"data has shape {values.shape} but the design has {len(partition.effect)} "
            "observations; give one row for each"
        )
    require_finite("data", values)
    basis = partition.nuisance
    scale = np.einsum("ij,ij->j", values, values)
    left = values - basis @ (basis.T @ values)
    left -= basis @ (basis.T @ left)  # once more, for what rounding has left
    squares = np.einsum("ij,ij->j", left, left)
    length = np.sqrt(np.where(squares > _NO_VARIANCE * scale, squares, 0.0))
    left *= np.divide(1.0, length, out=np.zeros_like(length), where=length > 0.0)
    return Residuals(left, length)


def t_statistic(data: Residuals, partition: Partition) -> _Array:
    r"""Student's t of the effect in each feature.

    Parameters
    ----------
    data : Residuals
        In float64.
    partition : Partition
        With an effect of one column.

    Returns
    -------
    (m,) array
        t; 0 for features without variance, very large where the effect explains all but rounding.

    Raises
    ------
    NumericsError
        If the effect has several columns.

    Notes
    -----
    With the correlation :math:`r` of effect and residuals, and :math:`\nu` degrees of freedom,
    :math:`t = r \sqrt{\nu / (1 - r^2)}`.

    Examples
    --------
    >>> design, contrast = two_groups([True, True, False, False])
    >>> split = partition_design(design, contrast)
    >>> t_statistic(residuals(np.array([[1.0], [2.0], [3.0], [5.0]]), split), split).round(4)
    array([-2.2361])
    """
    if partition.effect.shape[1] != 1:
        raise NumericsError(
            f"the contrast has {partition.effect.shape[1]} rows; Student's t takes one, F several"
        )
    r = effect_rows(partition)[0] @ data.unit
    t: _Array = r * np.sqrt(partition.degrees_of_freedom / np.maximum(1.0 - r * r, _SMALLEST_REST))
    return t


def f_statistic(data: Residuals, partition: Partition) -> _Array:
    r"""F of the effect in each feature.

    Parameters
    ----------
    data : Residuals
        In float64.
    partition : Partition
        With an effect of one or more columns.

    Returns
    -------
    (m,) array
        F, not negative; 0 for features without variance.

    Notes
    -----
    With the share :math:`R^2` of the residuals' sum of squares that the :math:`s` columns of the
    effect explain, :math:`F = (R^2 / s) / ((1 - R^2) / \nu)`.

    Examples
    --------
    >>> three = np.eye(3)[[0, 0, 1, 1, 2, 2]]
    >>> split = partition_design(three, [[1, -1, 0], [0, 1, -1]])
    >>> data = residuals(np.array([[1.0], [3.0], [2.0], [4.0], [6.0], [8.0]]), split)
    >>> f_statistic(data, split).round(4)
    array([7.])
    """
    n_effects = partition.effect.shape[1]
    share = ((effect_rows(partition) @ data.unit) ** 2).sum(axis=0)
    noise = np.maximum(1.0 - share, _SMALLEST_REST) / partition.degrees_of_freedom
    f: _Array = share / n_effects / noise
    return f


def effect_rows(partition: Partition) -> _Array:
    """Orthonormal basis of the effect.

    Parameters
    ----------
    partition : Partition
        Gives the effect.

    Returns
    -------
    (k, n) array
        For one column the effect itself at unit length, with its sign.

    Examples
    --------
    >>> design, contrast = two_groups([True, False])
    >>> effect_rows(Partition(design[:, :1] - 0.5, design[:, :0], 1)).round(3)
    array([[ 0.707, -0.707]])
    """
    # the sign of each row is that of its column: a triangle with a positive diagonal
    basis, triangle = np.linalg.qr(partition.effect)
    rows: _Array = (basis * np.sign(np.diag(triangle))).T
    return rows


def relabelled_regressors(
    partition: Partition, order: NDArray[np.integer], signs: NDArray[np.floating]
) -> _Array:
    r"""Regressors that give the statistics of a relabelling from the unpermuted residuals.

    Parameters
    ----------
    partition : Partition
        Of k effects and q nuisance regressors.
    order : (n,) array of int
        Observation that stands at each place after the relabelling.
    signs : (n,) array
        1 or -1: sign of each place after it.

    Returns
    -------
    (k + q, n) array
        Basis of the effect (see :func:`effect_rows`), then the nuisance. Columns of the nuisance
        that the relabelling leaves as they are, such as the mean under permutation, are left out.

    Notes
    -----
    Freedman and Lane 1983 (doi:10.2307/1391660): the residuals :math:`e` are relabelled, not the
    effect. :math:`x' P e = (P' x)' e`, so one product of small regressors with the residuals
    serves all features (Winkler 2014).

    Examples
    --------
    >>> design, contrast = two_groups([True, True, False, False])
    >>> split = partition_design(design, contrast)
    >>> relabelled_regressors(split, np.array([1, 2, 3, 0]), np.ones(4))
    array([[-0.5,  0.5,  0.5, -0.5]])
    """
    effect = effect_rows(partition)
    rows = np.vstack([effect, partition.nuisance.T])
    moved = np.zeros_like(rows)
    moved[:, order] = rows * signs
    tested, rest = moved[: len(effect)], moved[len(effect) :]
    # what still lies in the span of the nuisance meets nothing in the residuals
    basis = partition.nuisance
    outside = rest - rest @ basis @ basis.T
    is_moved = np.linalg.norm(outside, axis=1) > _ROUNDING
    kept: _Array = np.vstack([tested, rest[is_moved]])
    return kept


@kernel
def _correlate(
    unit: _Single, weights: NDArray[np.float32], start: int, stop: int, correlation: _Single
) -> None:
    # the sum over observations always runs in the same order, so that nothing depends on what
    # runs beside it
    n = unit.shape[0]
    correlation[:] = 0.0
    for j in range(0, n - n % 4, 4):
        w0, w1, w2, w3 = weights[j], weights[j + 1], weights[j + 2], weights[j + 3]
        x0, x1 = unit[j, start:stop], unit[j + 1, start:stop]
        x2, x3 = unit[j + 2, start:stop], unit[j + 3, start:stop]
        for i in range(stop - start):
            correlation[i] += (w0 * x0[i] + w1 * x1[i]) + (w2 * x2[i] + w3 * x3[i])
    for j in range(n - n % 4, n):
        w0, x0 = weights[j], unit[j, start:stop]
        for i in range(stop - start):
            correlation[i] += w0 * x0[i]


@kernel
def _fill_t(
    unit: _Single, rows: NDArray[np.float32], freedom: np.float32, work: _Single, t: _Single
) -> None:
    # columns in parts that stay in the second cache while all relabellings read them
    m = unit.shape[1]
    for start in range(0, m, work.shape[1]):
        stop = min(start + work.shape[1], m)
        for k in range(rows.shape[0]):
            correlation, rest, out = work[0], work[1], t[k]
            rest[:] = 1.0
            for row in range(rows.shape[1]):
                # the effect last
                _correlate(unit, rows[k, rows.shape[1] - 1 - row], start, stop, correlation)
                for i in range(stop - start):
                    rest[i] -= correlation[i] * correlation[i]
            for i in range(stop - start):
                # an effect that explains all but rounding: t would be a division by 0
                out[start + i] = correlation[i] * np.sqrt(freedom / max(rest[i], _SMALLEST_REST))


@kernel
def _fill_f(
    unit: _Single,
    rows: NDArray[np.float32],
    n_effects: int,
    freedom: np.float32,
    work: _Single,
    f: _Single,
) -> None:
    m = unit.shape[1]
    for start in range(0, m, work.shape[1]):
        stop = min(start + work.shape[1], m)
        for k in range(rows.shape[0]):
            correlation, rest, share, out = work[0], work[1], work[2], f[k]
            rest[:] = 1.0
            share[:] = 0.0
            for row in range(rows.shape[1]):
                _correlate(unit, rows[k, row], start, stop, correlation)
                for i in range(stop - start):
                    rest[i] -= correlation[i] * correlation[i]
                if row < n_effects:
                    for i in range(stop - start):
                        share[i] += correlation[i] * correlation[i]
            for i in range(stop - start):
                noise = max(rest[i], _SMALLEST_REST) / freedom
                out[start + i] = share[i] / np.float32(n_effects) / noise


def relabelled_t(
    unit: _Single, regressors: NDArray[np.floating], degrees_of_freedom: int, out: _Single
) -> None:
    """Student's t of several relabellings in single precision.

    Parameters
    ----------
    unit : (n, m) array of float32
        Residuals at unit length (see :func:`residuals`), in rows that follow each other in memory.
    regressors : (k, 1 + q, n) array
        Of each relabelling, for one effect: see :func:`relabelled_regressors`.
    degrees_of_freedom : int
        Of the noise.
    out : (k, m) array of float32
        Takes the statistics; 0 for features without variance.

    Notes
    -----
    Each row of the result is the same to the last bit whichever others are asked for with it.

    Examples
    --------
    >>> design, contrast = two_groups([True, True, False, False])
    >>> split = partition_design(design, contrast)
    >>> data = residuals(np.array([[1.0], [2.0], [3.0], [5.0]]), split)
    >>> rows = relabelled_regressors(split, np.arange(4), np.ones(4))
    >>> out = np.empty((1, 1), np.float32)
    >>> relabelled_t(data.unit.astype("f4"), rows[np.newaxis], 2, out)
    >>> out.round(4)
    array([[-2.2361]], dtype=float32)
    """
    work = np.empty((2, min(_COLUMNS_AT_ONCE, unit.shape[1])), np.float32)
    rows = np.ascontiguousarray(regressors, np.float32)
    _fill_t(unit, rows, np.float32(degrees_of_freedom), work, out)


def relabelled_f(
    unit: _Single,
    regressors: NDArray[np.floating],
    n_effects: int,
    degrees_of_freedom: int,
    out: _Single,
) -> None:
    """F of several relabellings in single precision.

    Parameters
    ----------
    unit : (n, m) array of float32
        Residuals at unit length (see :func:`residuals`), in rows that follow each other in memory.
    regressors : (k, n_effects + q, n) array
        Of each relabelling: see :func:`relabelled_regressors`.
    n_effects : int
        Columns of the effect.
    degrees_of_freedom : int
        Of the noise.
    out : (k, m) array of float32
        Takes the statistics; 0 for features without variance.

    Notes
    -----
    Each row of the result is the same to the last bit whichever others are asked for with it.

    Examples
    --------
    >>> split = partition_design(np.eye(3)[[0, 0, 1, 1, 2, 2]], [[1, -1, 0], [0, 1, -1]])
    >>> data = residuals(np.array([[1.0], [3.0], [2.0], [4.0], [6.0], [8.0]]), split)
    >>> rows = relabelled_regressors(split, np.arange(6), np.ones(6))
    >>> out = np.empty((1, 1), np.float32)
    >>> relabelled_f(data.unit.astype("f4"), rows[np.newaxis], 2, 3, out)
    >>> out.round(4)
    array([[7.]], dtype=float32)
    """
    work = np.empty((3, min(_COLUMNS_AT_ONCE, unit.shape[1])), np.float32)
    rows = np.ascontiguousarray(regressors, np.float32)
    _fill_f(unit, rows, n_effects, np.float32(degrees_of_freedom), work, out)
