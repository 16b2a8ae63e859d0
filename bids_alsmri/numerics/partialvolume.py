"""Partial volume: what blur mixes between tissues, and its correction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft, optimize

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.checks import (
    as_float,
    require_finite,
    require_range,
    require_same_shape,
)
from bids_alsmri.numerics.pointspread import (
    PointSpread,
    blur,
    transfer_on_grid,
)

_Array = NDArray[np.float64]
_Index = NDArray[np.int64]

_LARGEST_CONDITION = 1e8  # of a transfer matrix; beyond it half of the digits are lost
_FRACTION_SLACK = 1e-3  # interpolated fractions miss 0 and 1 by so much


@dataclass(frozen=True)
class MergedRegions:
    """Regions of which none is too small to be told from its neighbours.

    Attributes
    ----------
    fractions : (M, X, Y, Z) array
        Share of each merged region in each voxel.
    group : (R,) array of int
        Merged region that each given one went into; -1 for regions without any volume.
    leader : (M,) array of int
        Given region with the most volume in each merged one, whose point spread it takes.
    volume_mm3 : (R,) array
        Of the given regions, in mm3.
    """

    fractions: _Array
    group: _Index
    leader: _Index
    volume_mm3: _Array


@dataclass(frozen=True)
class RegionSignals:
    """Signal of each region before and after correction for blur between regions.

    Attributes
    ----------
    signal : (R,) array
        Corrected, in the unit of the image.
    standard_error : (R,) array
        Of the corrected signal, by the noise of the image alone.
    covariance : (R, R) array
        The same with the correlations between regions, in the unit squared.
    uncorrected : (R,) array
        Mean of the image, weighted by the region's share of each voxel.
    transfer : (R, R) array
        Share of the signal of the region of the column seen in that of the row.
    condition : float
        Condition number of the matrix: factor by which it may enlarge relative errors.
    residual_sd : (R,) array
        Standard deviation of image less model over the region: far above the noise where the
        region is not as uniform as the model takes it to be, or fractions and image do not fit.
    """

    signal: _Array
    standard_error: _Array
    covariance: _Array
    uncorrected: _Array
    transfer: _Array
    condition: float
    residual_sd: _Array


def merge_small_regions(
    fractions: ArrayLike,
    point_spreads: Sequence[PointSpread],
    voxel_mm: ArrayLike,
    *,
    least_spreads: float,
) -> MergedRegions:
    """Regions put together with the neighbour they spill into until none is too small.

    Parameters
    ----------
    fractions : (R, X, Y, Z) array_like
        Share of each region in each voxel, 0 to 1.
    point_spreads : sequence of R PointSpread
        Of each region.
    voxel_mm : (3,) array_like
        Edges of a voxel, in mm.
    least_spreads : float
        Smallest volume of a region, in volumes of its point spread (width cubed), not negative.

    Returns
    -------
    MergedRegions
        The smallest goes first, into the region that takes up most of its blurred signal.

    Raises
    ------
    NumericsError
        If shapes do not fit, a share is out of range or no region has any volume.

    Examples
    --------
    >>> from bids_alsmri.numerics.pointspread import gaussian_point_spread
    >>> fractions = np.zeros((3, 8, 8, 8))
    >>> fractions[0, :4], fractions[1, 4:] = 1, 1
    >>> fractions[:, 5, 4, 4] = 0, 0, 1
    >>> merged = merge_small_regions(
    ...     fractions, [gaussian_point_spread(4.0)] * 3, [3, 3, 3], least_spreads=2.0
    ... )
    >>> merged.group
    array([0, 1, 1])
    """
    shares, edges_mm = _checked_regions(fractions, point_spreads, voxel_mm)
    require_range("least_spreads", least_spreads, 0.0, 1e6)
    volume = shares.reshape(len(shares), -1).sum(axis=1) * edges_mm.prod()
    least = np.array([least_spreads * spread.volume_mm3 for spread in point_spreads])
    if not np.any(volume > 0.0):
        raise NumericsError("no region has any volume; give fractions on the grid of the image")
    members = [[int(region)] for region in np.flatnonzero(volume > 0.0)]

    def leader(group: list[int]) -> int:
        return max(group, key=lambda region: float(volume[region]))

    while len(members) > 1:
        small = [g for g in members if volume[g].sum() < least[leader(g)]]
        if not small:
            break
        group = min(small, key=lambda g: float(volume[g].sum()))
        members.remove(group)
        blurred = blur(shares[group].sum(axis=0), edges_mm, point_spreads[leader(group)])
        spill = [float((shares[other].sum(axis=0) * blurred).sum()) for other in members]
        members[int(np.argmax(spill))] += group
    members.sort(key=min)
    numbers = np.full(len(shares), -1, dtype=np.int64)
    for number, group in enumerate(members):
        numbers[group] = number
    return MergedRegions(
        fractions=np.stack([shares[group].sum(axis=0) for group in members]),
        group=numbers,
        leader=np.array([leader(group) for group in members], dtype=np.int64),
        volume_mm3=volume,
    )


def region_signals(
    image: ArrayLike,
    fractions: ArrayLike,
    point_spreads: Sequence[PointSpread],
    voxel_mm: ArrayLike,
    *,
    is_symmetric: bool,
    noise_sigma: float,
    noise_spread: PointSpread | None,
) -> RegionSignals:
    r"""Signal of every region, freed of what blur brings in and takes out.

    Parameters
    ----------
    image : (X, Y, Z) array_like
        Signal, its noise floor taken off, finite.
    fractions : (R, X, Y, Z) array_like
        Share of each region in each voxel, 0 to 1; together they must hold all that has signal.
    point_spreads : sequence of R PointSpread
        Of each region, its decay included.
    voxel_mm : (3,) array_like
        Edges of a voxel, in mm.
    is_symmetric : bool
        Whether voxels count by what they show of a region (`True`) or by what they hold of it.
    noise_sigma : float
        Noise level of the image, in its unit, not negative.
    noise_spread : PointSpread or None
        Point spread of a point that does not decay, which is how noise is alike in neighbours;
        None where the noise of each voxel is its own.

    Returns
    -------
    RegionSignals
        In the order of the regions.

    Raises
    ------
    NumericsError
        If shapes do not fit, a region is empty or regions cannot be told apart: merge them.

    Notes
    -----
    Geometric transfer matrix (Rousset 1998, J Nucl Med 39:904): region j of unit signal shows as
    :math:`B_j = f_j * h_j`, the mean over region i is
    :math:`W_{ij} = \sum_x d_i B_j / \sum_x d_i` with the detector :math:`d_i = f_i`, and the
    observed means are :math:`m = W s`. The symmetric form has :math:`d_i = B_i` (Sattarivand 2012,
    doi:10.1088/0031-9155/57/21/7101), which is least squares over all voxels: thin regions come
    out far less wrong where the width of the point spread is.
    :math:`\mathrm{cov}(s) = W^{-1} \mathrm{cov}(m) W^{-T}` with
    :math:`\mathrm{cov}(m)_{ij} = \sigma^2 \sum_x d_i (d_j * \rho) / (\sum d_i \sum d_j)`, where
    :math:`\rho` is the correlation of the noise.

    Examples
    --------
    >>> from bids_alsmri.numerics.pointspread import gaussian_point_spread
    >>> fractions = np.zeros((2, 12, 12, 12))
    >>> fractions[0, :6], fractions[1, 6:] = 1, 1
    >>> spreads = [gaussian_point_spread(6.0)] * 2
    >>> blurred = blur(40 * fractions[0] + 100 * fractions[1], [3, 3, 3], spreads[0])
    >>> found = region_signals(
    ...     blurred, fractions, spreads, [3, 3, 3], is_symmetric=True, noise_sigma=1.0,
    ...     noise_spread=None,
    ... )
    >>> found.signal.round(6)
    array([ 40., 100.])
    """
    values = as_float("image", image, ndim=3)
    require_finite("image", values)
    shares, edges_mm = _checked_regions(fractions, point_spreads, voxel_mm)
    require_same_shape(image=values, fractions=shares[0])
    require_range("noise_sigma", noise_sigma, 0.0, np.inf)
    regions = shares.reshape(len(shares), -1)
    volume = regions.sum(axis=1)
    _require_volume(volume)
    blurred = blurred_regions(shares, point_spreads, edges_mm)
    columns = blurred.reshape(len(shares), -1)
    detectors = blurred if is_symmetric else shares
    rows = detectors.reshape(len(shares), -1)
    weight = rows.sum(axis=1)
    transfer = (rows @ columns.T) / weight[:, np.newaxis]
    condition = float(np.linalg.cond(transfer))
    if condition > _LARGEST_CONDITION:
        raise NumericsError(
            f"the transfer matrix has the condition number {condition:.3g}; regions that share "
            "their voxels cannot be told apart: merge them"
        )
    signal = np.linalg.solve(transfer, rows @ values.ravel() / weight)
    noise = noise_sigma**2 * _noise_overlap(detectors, edges_mm, noise_spread)
    inverse = np.linalg.inv(transfer)
    covariance = inverse @ (noise / np.multiply.outer(weight, weight)) @ inverse.T
    residual = (values.ravel() - signal @ columns) ** 2
    return RegionSignals(
        signal=signal,
        standard_error=np.sqrt(np.maximum(np.diag(covariance), 0.0)),
        covariance=covariance,
        uncorrected=regions @ values.ravel() / volume,
        transfer=transfer,
        condition=condition,
        residual_sd=np.sqrt(regions @ residual / volume),
    )


def fitted_spread_scale(
    image: ArrayLike,
    fractions: ArrayLike,
    spreads_at: Callable[[float], Sequence[PointSpread]],
    voxel_mm: ArrayLike,
    *,
    scale_range: tuple[float, float],
) -> float:
    r"""Factor of all widths with which uniform regions explain most of an image.

    Parameters
    ----------
    image : (X, Y, Z) array_like
        Signal, its noise floor taken off, finite.
    fractions : (R, X, Y, Z) array_like
        Share of each region in each voxel, 0 to 1.
    spreads_at : callable
        From a factor to the point spread of each region with its width times that factor.
    voxel_mm : (3,) array_like
        Edges of a voxel, in mm.
    scale_range : tuple of float
        Smallest and largest factor, positive.

    Returns
    -------
    float
        Within the range; at an end of it the image does not tell. What else blurs, such as motion
        and a registration that is off, widens it.

    Raises
    ------
    NumericsError
        If shapes do not fit or a number is out of range.

    Notes
    -----
    Least squares over all voxels, :math:`\min_{a, s} \sum_x (S - \sum_j s_j f_j * h_j^{(a)})^2`,
    to a hundredth of the factor.

    Examples
    --------
    >>> from bids_alsmri.numerics.pointspread import gaussian_point_spread
    >>> fractions = np.zeros((2, 12, 12, 12))
    >>> fractions[0, :6], fractions[1, 6:] = 1, 1
    >>> image = blur(fractions[0] + 3 * fractions[1], [3, 3, 3], gaussian_point_spread(7.2))
    >>> round(
    ...     fitted_spread_scale(
    ...         image,
    ...         fractions,
    ...         lambda scale: [gaussian_point_spread(6.0 * scale)] * 2,
    ...         [3, 3, 3],
    ...         scale_range=(0.7, 1.5),
    ...     ),
    ...     2,
    ... )
    1.2
    """
    values = as_float("image", image, ndim=3)
    require_finite("image", values)
    low, high = scale_range
    require_range("smallest scale", low, 0.0, high, open_low=True)
    shares, edges_mm = _checked_regions(fractions, spreads_at(high), voxel_mm)
    require_same_shape(image=values, fractions=shares[0])

    def left_over(scale: float) -> float:
        columns = blurred_regions(shares, spreads_at(scale), edges_mm).reshape(len(shares), -1)
        projected = columns @ values.ravel()
        return -float(projected @ np.linalg.lstsq(columns @ columns.T, projected)[0])

    found = optimize.minimize_scalar(
        left_over, bounds=(low, high), method="bounded", options={"xatol": 0.005}
    )
    return float(found.x)


def region_based_correction(
    image: ArrayLike,
    fractions: ArrayLike,
    point_spreads: Sequence[PointSpread],
    voxel_mm: ArrayLike,
    *,
    signals: ArrayLike,
    weights: ArrayLike,
    least_signal: float,
) -> _Array:
    r"""Image freed voxel by voxel of what blur brings in and takes out, and of relaxation.

    Parameters
    ----------
    image : (X, Y, Z) array_like
        Signal, its noise floor taken off, finite.
    fractions : (R, X, Y, Z) array_like
        Share of each region in each voxel, 0 to 1.
    point_spreads : sequence of R PointSpread
        Of each region.
    voxel_mm : (3,) array_like
        Edges of a voxel, in mm.
    signals : (R,) array_like
        Corrected signal of each region (`region_signals`), finite.
    weights : (R,) array_like
        Relaxation weight of each region, above 0 and at most 1; 1 leaves relaxation in.
    least_signal : float
        Where the blurred regions have less, there is nothing to compare with, in the unit of the
        image, positive.

    Returns
    -------
    (X, Y, Z) array
        Signal of the voxel's own tissues before relaxation, in the unit of the image; NaN where
        the blurred regions have less than `least_signal`.

    Raises
    ------
    NumericsError
        If shapes do not fit or a number is out of range.

    Notes
    -----
    Region-based voxelwise correction (Thomas 2011, doi:10.1007/s00259-011-1745-9), each region
    with a point spread and a weight of its own:
    :math:`C = S \frac{\sum_j s_j f_j / w_j}{\sum_j s_j (f_j * h_j)}`. Signals below 0, which noise
    makes of air, count as 0.

    Examples
    --------
    >>> from bids_alsmri.numerics.pointspread import gaussian_point_spread
    >>> fractions = np.zeros((2, 12, 12, 12))
    >>> fractions[0, :6], fractions[1, 6:] = 1, 1
    >>> spreads = [gaussian_point_spread(6.0)] * 2
    >>> blurred = blur(40 * fractions[0] + 100 * fractions[1], [3, 3, 3], spreads[0])
    >>> sharp = region_based_correction(blurred, fractions, spreads, [3, 3, 3],
    ...     signals=[40, 100], weights=[1, 1], least_signal=1.0)
    >>> sharp[[5, 6], 6, 6].round(6)
    array([ 40., 100.])
    """
    values = as_float("image", image, ndim=3)
    require_finite("image", values)
    shares, edges_mm = _checked_regions(fractions, point_spreads, voxel_mm)
    require_same_shape(image=values, fractions=shares[0])
    level = np.maximum(as_float("signals", signals, ndim=1), 0.0)
    require_finite("signals", level)
    left = as_float("weights", weights, ndim=1)
    if not len(level) == len(left) == len(shares):
        raise NumericsError(
            f"there are {len(shares)} regions, {len(level)} signals and {len(left)} weights; give "
            "one of each for every region"
        )
    for weight in left:
        require_range("a relaxation weight", float(weight), 0.0, 1.0, open_low=True)
    require_range("least_signal", least_signal, 0.0, np.inf, open_low=True)
    mixed = np.tensordot(level, blurred_regions(shares, point_spreads, edges_mm), axes=1)
    own = np.tensordot(level / left, shares, axes=1)
    corrected: _Array = np.full(values.shape, np.nan)
    np.divide(values * own, mixed, out=corrected, where=mixed >= least_signal)
    return corrected


def blurred_regions(
    fractions: ArrayLike, point_spreads: Sequence[PointSpread], voxel_mm: ArrayLike
) -> _Array:
    """Each region of unit signal as its point spread leaves it.

    Parameters
    ----------
    fractions : (R, X, Y, Z) array_like
        Share of each region in each voxel, 0 to 1.
    point_spreads : sequence of R PointSpread
        Of each region.
    voxel_mm : (3,) array_like
        Edges of a voxel, in mm.

    Returns
    -------
    (R, X, Y, Z) array
        Dimensionless; side lobes can make it negative or more than 1.

    Raises
    ------
    NumericsError
        If shapes do not fit or a share is out of range.

    Examples
    --------
    >>> from bids_alsmri.numerics.pointspread import gaussian_point_spread
    >>> blurred_regions(np.ones((1, 4, 4, 4)), [gaussian_point_spread(4.0)], [2, 2, 2]).shape
    (1, 4, 4, 4)
    """
    shares, edges_mm = _checked_regions(fractions, point_spreads, voxel_mm)
    return np.stack(
        [blur(share, edges_mm, spread) for share, spread in zip(shares, point_spreads, strict=True)]
    )


def _noise_overlap(detectors: _Array, edges_mm: _Array, noise_spread: PointSpread | None) -> _Array:
    """Sum over voxels of detector times detector under the correlation of the noise."""
    rows = detectors.reshape(len(detectors), -1)
    if noise_spread is None:
        return rows @ rows.T
    shape = detectors.shape[1:]
    power = transfer_on_grid(shape, edges_mm, noise_spread) ** 2
    # the correlation of a voxel with itself is 1: the mean of the power over all frequencies
    twice = np.full(power.shape[2], 2.0)
    twice[0] = 1.0
    if shape[2] % 2 == 0:
        twice[-1] = 1.0
    power /= float((power * twice).sum()) / float(np.prod(shape))
    alike = np.stack([fft.irfftn(fft.rfftn(share) * power, shape) for share in detectors])
    overlap: _Array = rows @ alike.reshape(len(detectors), -1).T
    return 0.5 * (overlap + overlap.T)


def _checked_regions(
    fractions: ArrayLike, point_spreads: Sequence[PointSpread], voxel_mm: ArrayLike
) -> tuple[_Array, _Array]:
    shares = as_float("fractions", fractions, ndim=4)
    require_finite("fractions", shares)
    if len(shares) != len(point_spreads) or not len(shares):
        raise NumericsError(
            f"there are {len(shares)} regions and {len(point_spreads)} point spreads; give one "
            "point spread for each region"
        )
    low, high = float(shares.min(initial=0.0)), float(shares.sum(axis=0).max(initial=0.0))
    if low < -_FRACTION_SLACK or high > 1.0 + _FRACTION_SLACK:
        raise NumericsError(
            f"fractions go down to {low:g} and add up to as much as {high:g}; shares of a voxel "
            "are not negative and add up to 1 at most"
        )
    edges_mm = as_float("voxel_mm", voxel_mm, ndim=1)
    if edges_mm.shape != (3,) or not np.all(edges_mm > 0.0):
        raise NumericsError(f"voxel_mm is {edges_mm.tolist()}; give three edges above 0, in mm")
    return shares, edges_mm


def _require_volume(volume: _Array) -> None:
    empty = np.flatnonzero(volume <= 0.0)
    if len(empty):
        raise NumericsError(
            f"regions {empty.tolist()} (from 0) have no volume in the image; leave them out or "
            "merge regions first"
        )
