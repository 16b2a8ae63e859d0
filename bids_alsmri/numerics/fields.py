"""Displacement fields: their inverse. Masked maps: interpolation and smoothing that keep the edge.

Values outside a mask are no values: averaging them in as zeros would make a rim of too low ones.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.checks import (
    as_float,
    require_finite,
    require_range,
    require_same_shape,
)
from bids_alsmri.numerics.resampling import resample_series

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

_FWHM_PER_SD = 2.0 * np.sqrt(2.0 * np.log(2.0))


def invert_displacement(
    displacement_mm: NDArray[np.floating],
    affine: ArrayLike,
    *,
    tolerance_mm: float,
    max_iterations: int,
) -> Floats:
    r"""Displacement field that undoes another one.

    Parameters
    ----------
    displacement_mm : (X, Y, Z, 3) array
        Where each voxel's centre is moved, along the axes of the world, in mm; smooth.
    affine : (4, 4) array_like
        Voxel indices to world, in mm.
    tolerance_mm : float
        Largest move of a voxel in the last iteration, in mm, above 0.
    max_iterations : int
        Iterations after which the inverse is given up, at least 1.

    Returns
    -------
    (X, Y, Z, 3) array
        On the same grid, in mm.

    Raises
    ------
    NumericsError
        If the field has another shape or is not finite, or the iterations do not settle.

    Notes
    -----
    Fixed point of :math:`v(y) = -u(y + v(y))`, which exists where :math:`u` shrinks distances
    (Chen et al. 2008, doi:10.1118/1.2816107). Between voxels the field is linear, beyond the grid
    it is that of the nearest face.

    Examples
    --------
    >>> shift = np.zeros((4, 4, 4, 3)) + [1.5, 0.5, -1]
    >>> back = invert_displacement(shift, np.eye(4), tolerance_mm=1e-3, max_iterations=10)
    >>> back[2, 2, 2]
    array([-1.5, -0.5,  1. ])
    """
    field = as_float("displacement_mm", displacement_mm, ndim=4)
    if field.shape[3] != 3:
        raise NumericsError(f"displacement_mm has shape {field.shape}; give (X, Y, Z, 3)")
    require_finite("displacement_mm", field)
    require_range("tolerance_mm", tolerance_mm, 0.0, np.inf, unit="mm", open_low=True)
    to_voxel = np.linalg.inv(as_float("affine", affine, ndim=2))[:3, :3]
    centres = np.indices(field.shape[:3], dtype=np.float64)
    inverse = np.zeros_like(field)
    change_mm = np.inf
    for _ in range(max_iterations):
        places = centres + np.moveaxis(inverse @ to_voxel.T, -1, 0)
        following = np.stack(
            [
                -ndimage.map_coordinates(field[..., axis], places, order=1, mode="nearest")
                for axis in range(3)
            ],
            axis=-1,
        )
        change_mm = float(np.linalg.norm(following - inverse, axis=-1).max())
        inverse = following
        if change_mm <= tolerance_mm:
            return inverse
    raise NumericsError(
        f"the inverse of displacement_mm still moves by {change_mm:.3g} mm after {max_iterations} "
        f"iterations; {tolerance_mm:g} mm was asked for; the field folds or is rough: smooth it "
        "or allow more iterations"
    )


def interpolate_within(
    maps: NDArray[np.floating],
    mask: Mask,
    affine: ArrayLike,
    points_mm: ArrayLike,
    *,
    least_share: float,
) -> tuple[NDArray[np.float32], Mask]:
    r"""Maps at points of the world, from the voxels of a mask alone.

    Parameters
    ----------
    maps : (X, Y, Z, K) array
        K maps on one grid; what lies outside the mask does not count, whatever it is.
    mask : (X, Y, Z) array of bool
        Voxels with a value.
    affine : (4, 4) array_like
        Voxel indices to world, in mm.
    points_mm : (M, 3) array_like
        Positions, in mm.
    least_share : float
        Share of a point's neighbours, by their weight in the interpolation, that must lie in the
        mask, above 0 and at most 1.

    Returns
    -------
    values : (M, K) array of float32
        In the units of the maps; 0 where the share is too small.
    is_inside : (M,) array of bool
        Points with a value.

    Raises
    ------
    NumericsError
        If shapes differ, a map is not finite inside the mask, or the share is out of range.

    Notes
    -----
    With trilinear weights :math:`w_i` and the mask :math:`m_i`,
    :math:`f(x) = \sum_i w_i m_i f_i / \sum_i w_i m_i` where :math:`\sum_i w_i m_i` reaches the
    share (normalised convolution; Knutsson and Westin 1993, doi:10.1109/CVPR.1993.341081).

    Examples
    --------
    >>> ramp = np.full((4, 1, 1, 1), 0.5)
    >>> mask = np.array([True, True, False, False])[:, None, None]
    >>> interpolate_within(
    ...     ramp, mask, np.eye(4), [[1.2, 0, 0], [1.8, 0, 0]], least_share=0.5
    ... )
    (array([[0.5],
           [0. ]], dtype=float32), array([ True, False]))
    """
    maps = np.asarray(maps)
    if maps.ndim != 4 or maps.shape[:3] != mask.shape:
        raise NumericsError(
            f"maps has shape {maps.shape} and mask {mask.shape}; give (X, Y, Z, K) and (X, Y, Z)"
        )
    require_range("least_share", least_share, 0.0, 1.0, open_low=True)
    require_finite("maps within mask", maps[mask])
    n_maps = maps.shape[3]
    stack = np.zeros((*mask.shape, n_maps + 1), np.float32)
    stack[mask, :n_maps] = maps[mask]
    stack[..., n_maps] = mask
    found = resample_series(
        stack,
        affine,
        points_mm,
        np.broadcast_to(np.eye(4), (n_maps + 1, 4, 4)),
        displacement_mm=None,
        spline_order=1,
        keep_nonnegative=False,
        modulate=False,
    ).values
    share = found[:, n_maps]
    # float32 weights of a full neighbourhood add up to 1 only to rounding
    is_inside: Mask = share >= least_share - 1e-6
    values = np.zeros((len(share), n_maps), np.float32)
    values[is_inside] = found[is_inside, :n_maps] / share[is_inside, np.newaxis]
    return values, is_inside


def smooth_within(
    values: NDArray[np.floating], mask: Mask, voxel_mm: ArrayLike, *, fwhm_mm: float
) -> Floats:
    r"""Map smoothed by a Gaussian over the voxels of a mask alone.

    Parameters
    ----------
    values : (X, Y, Z) array
        Map in any unit; NaN and what lies outside the mask do not count.
    mask : (X, Y, Z) array of bool
        Where the result is wanted.
    voxel_mm : (3,) array_like
        Edges of a voxel, in mm.
    fwhm_mm : float
        Full width at half maximum, in mm, from 0 (no smoothing) up.

    Returns
    -------
    (X, Y, Z) array
        In the unit of the map; 0 outside the mask, NaN where no finite voxel of the mask is near
        (4 standard deviations).

    Raises
    ------
    NumericsError
        If shapes differ, the width is negative, or a size of a voxel is not positive.

    Notes
    -----
    :math:`\tilde f = (G * m f) / (G * m)` with :math:`m = 1` on finite voxels of the mask
    (normalised convolution; Knutsson and Westin 1993, doi:10.1109/CVPR.1993.341081): a constant
    stays what it is up to the edge, where a plain Gaussian would halve it.
    :math:`\sigma = \mathrm{FWHM} / \sqrt{8 \ln 2}`.

    Examples
    --------
    >>> mask = np.array([False, True, True, True, False])[:, None, None]
    >>> smooth_within(np.where(mask, 0.4, 9.0), mask, [2, 2, 2], fwhm_mm=6)[:, 0, 0]
    array([0. , 0.4, 0.4, 0.4, 0. ])
    """
    values = as_float("values", values, ndim=3)
    require_same_shape(values=values, mask=mask)
    require_range("fwhm_mm", fwhm_mm, 0.0, 1000.0, unit="mm")
    edges_mm = as_float("voxel_mm", voxel_mm, ndim=1)
    if edges_mm.shape != (3,) or not np.all(edges_mm > 0):
        raise NumericsError(f"voxel_mm is {edges_mm.tolist()}; give three edges above 0, in mm")
    counted = mask & np.isfinite(values)
    sd_voxels = fwhm_mm / _FWHM_PER_SD / edges_mm
    weight = ndimage.gaussian_filter(counted.astype(np.float64), sd_voxels, mode="constant")
    total = ndimage.gaussian_filter(np.where(counted, values, 0.0), sd_voxels, mode="constant")
    smoothed: Floats = np.full(values.shape, np.nan)
    np.divide(total, weight, out=smoothed, where=weight > 0)
    smoothed[~mask] = 0.0
    return smoothed
