"""One interpolation of a series through concatenated transforms, and the grids it ends on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.checks import as_float, require_finite, require_range

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

_EDGE_VOXELS = 0.5  # a voxel reaches half its size beyond its centre


@dataclass(frozen=True)
class ResampledSeries:
    """A series at the points of another grid.

    Parameters
    ----------
    values : (M, N) array
        Signal at M points in N volumes, in the unit of the source; 0 outside its field of view.
    covered_mask : (M,) array of bool
        True where all N volumes contain the point.
    """

    values: NDArray[np.float32]
    covered_mask: BoolArray


def _as_affine(name: str, affine: ArrayLike) -> FloatArray:
    matrix = as_float(name, affine)
    if matrix.shape[-2:] != (4, 4):
        raise NumericsError(f"{name} has shape {matrix.shape}; the last two axes must be (4, 4)")
    require_finite(name, matrix)
    if np.any(np.abs(np.linalg.det(matrix[..., :3, :3])) < 1e-12):
        raise NumericsError(f"{name} cannot be inverted; correct the header or the transform")
    return matrix


def grid_points(shape: tuple[int, int, int], affine: ArrayLike, mask: BoolArray) -> FloatArray:
    """World positions of the voxels of a mask.

    Parameters
    ----------
    shape : (3,) tuple of int
        Of the grid.
    affine : (4, 4) array_like
        Voxel indices to world, in mm.
    mask : (X, Y, Z) array of bool
        Voxels to list.

    Returns
    -------
    points_mm : (M, 3) array
        In the order of `mask.nonzero()`.

    Raises
    ------
    NumericsError
        If the mask is not of that shape.

    Examples
    --------
    >>> grid_points((1, 1, 2), np.diag([2, 2, 2, 1]), np.ones((1, 1, 2), bool))
    array([[0., 0., 0.],
           [0., 0., 2.]])
    """
    if mask.shape != tuple(shape):
        raise NumericsError(f"mask has shape {mask.shape} but the grid {tuple(shape)}")
    matrix = _as_affine("affine", affine)
    points_mm: FloatArray = np.argwhere(mask) @ matrix[:3, :3].T + matrix[:3, 3]
    return points_mm


def points_to_volume(
    values: NDArray[np.generic], mask: BoolArray, *, outside: float
) -> NDArray[np.generic]:
    """Image whose mask holds the given values, the inverse of `grid_points`.

    Parameters
    ----------
    values : (M, ...) array
        One row per voxel of the mask.
    mask : (X, Y, Z) array of bool
        With M voxels True.
    outside : float
        Value of the other voxels.

    Returns
    -------
    volume : (X, Y, Z, ...) array
        Of the type of `values`.

    Raises
    ------
    NumericsError
        If the mask holds another number of voxels.

    Examples
    --------
    >>> points_to_volume(np.array([5.0]), np.array([[[True, False]]]), outside=0)
    array([[[5., 0.]]])
    """
    n_voxels = int(np.count_nonzero(mask))
    if len(values) != n_voxels:
        raise NumericsError(f"values has {len(values)} rows but mask holds {n_voxels} voxels")
    volume = np.full(mask.shape + values.shape[1:], outside, dtype=values.dtype)
    volume[mask] = values
    return volume


def resolution_grid(
    shape: tuple[int, int, int], affine: ArrayLike, *, resolution_mm: float
) -> tuple[tuple[int, int, int], FloatArray]:
    """Grid over the same box of space with another voxel size.

    Parameters
    ----------
    shape : (3,) tuple of int
        Of the grid given.
    affine : (4, 4) array_like
        Of the grid given, in mm.
    resolution_mm : float
        Edge of the new, isotropic voxels, in mm, positive.

    Returns
    -------
    shape : (3,) tuple of int
        Enough voxels to cover the box; the box is exceeded by less than one voxel.
    affine : (4, 4) array
        The same axes and the same centre of the box.

    Raises
    ------
    NumericsError
        If the resolution is not positive.

    Examples
    --------
    >>> shape, affine = resolution_grid((4, 4, 4), np.eye(4), resolution_mm=2)
    >>> shape, affine[:3, 3]
    ((2, 2, 2), array([0.5, 0.5, 0.5]))
    """
    require_range("resolution_mm", resolution_mm, 0, np.inf, unit="mm", open_low=True)
    matrix = _as_affine("affine", affine)
    sizes_mm = np.linalg.norm(matrix[:3, :3], axis=0)
    counts = np.asarray(shape) * sizes_mm / resolution_mm
    # 182 x 1.0000001 mm must not grow a voxel from rounding
    new_counts = np.maximum(np.ceil(counts - 1e-3).astype(int), 1)
    new = np.eye(4)
    new[:3, :3] = matrix[:3, :3] / sizes_mm * resolution_mm
    centre_mm = matrix[:3, :3] @ ((np.asarray(shape) - 1) / 2) + matrix[:3, 3]
    new[:3, 3] = centre_mm - new[:3, :3] @ ((new_counts - 1) / 2)
    return (int(new_counts[0]), int(new_counts[1]), int(new_counts[2])), new


def _check_series(
    volumes: NDArray[np.generic], points_mm: FloatArray, maps: FloatArray
) -> tuple[int, int]:
    if volumes.ndim != 4:
        raise NumericsError(f"volumes has shape {volumes.shape}; give (X, Y, Z, N)")
    n_volumes, n_points = volumes.shape[3], len(points_mm)
    if maps.shape != (n_volumes, 4, 4):
        raise NumericsError(
            f"reference_to_volume has shape {maps.shape} but volumes has {n_volumes} of them; "
            "give one (4, 4) map per volume"
        )
    if points_mm.shape != (n_points, 3):
        raise NumericsError(f"points_mm has shape {points_mm.shape}; give (M, 3)")
    return n_points, n_volumes


def resample_series(
    volumes: NDArray[np.generic],
    source_affine: ArrayLike,
    points_mm: ArrayLike,
    reference_to_volume: ArrayLike,
    *,
    displacement_mm: ArrayLike | None,
    spline_order: int,
    keep_nonnegative: bool,
    modulate: bool,
) -> ResampledSeries:
    r"""Series at given points, interpolated once through all transforms.

    Parameters
    ----------
    volumes : (X, Y, Z, N) array
        The series as acquired, finite.
    source_affine : (4, 4) array_like
        Voxel indices of `volumes` to world, in mm.
    points_mm : (M, 3) array_like
        World positions of the output in the frame of the reference volume (the b=0): points of a
        template taken there by its transforms.
    reference_to_volume : (N, 4, 4) array_like
        World maps, mm to mm, from a place in the reference to the same place of the head in each
        volume (motion and eddy currents).
    displacement_mm : (M, 3) array_like or None
        Shift at each point that leads from the undistorted head to where the reference shows it,
        in mm, world axes (susceptibility); None for no correction.
    spline_order : int
        0 (nearest), 1 (linear) or 3 (cubic B-spline).
    keep_nonnegative : bool
        Whether undershoot of the spline below 0 is set to 0; magnitude signal has no negatives.
    modulate : bool
        Whether each volume is multiplied by the determinant of its map, so that the amount of
        signal is kept where eddy currents stretched the image.

    Returns
    -------
    ResampledSeries
        Values at the points, and where all volumes cover them.

    Raises
    ------
    NumericsError
        If shapes disagree, values are not finite, or an affine cannot be inverted.

    Notes
    -----
    A point :math:`x` is read at :math:`A^{-1} M_n (x + u(x))` of volume :math:`n`, by a B-spline
    of mirrored boundaries (Unser 1999, doi:10.1109/79.799930). A second interpolation would blur
    and correlate the noise. Beside the output, memory is one volume in double precision twice and
    48 bytes per point.

    Examples
    --------
    >>> ramp = np.arange(8.0).reshape(8, 1, 1, 1) * np.ones((8, 4, 4, 1))
    >>> resample_series(
    ...     ramp, np.eye(4), [[2.5, 1, 1]], np.eye(4)[np.newaxis], displacement_mm=[[1, 0, 0]],
    ...     spline_order=1, keep_nonnegative=True, modulate=False,
    ... ).values
    array([[3.5]], dtype=float32)
    """
    if spline_order not in (0, 1, 3):
        raise NumericsError(f"spline_order is {spline_order}; it must be 0, 1 or 3")
    to_voxel = np.linalg.inv(_as_affine("source_affine", source_affine))
    maps = _as_affine("reference_to_volume", reference_to_volume)
    points = as_float("points_mm", points_mm, ndim=2)
    n_points, n_volumes = _check_series(volumes, points, maps)
    if displacement_mm is not None:
        shift = as_float("displacement_mm", displacement_mm, ndim=2)
        if shift.shape != points.shape:
            raise NumericsError(
                f"displacement_mm has shape {shift.shape} but points_mm {points.shape}"
            )
        points = points + shift
    values = np.empty((n_points, n_volumes), dtype=np.float32)
    covered: BoolArray = np.ones(n_points, dtype=np.bool_)
    for n in range(n_volumes):
        volume = np.ascontiguousarray(volumes[..., n], dtype=np.float64)
        require_finite(f"volume {n}", volume)
        whole = to_voxel @ maps[n]
        voxels = whole[:3, :3] @ points.T + whole[:3, 3:]
        values[:, n], inside = _interpolate(volume, voxels, spline_order)
        covered &= inside
        if modulate:
            values[:, n] *= np.float32(np.linalg.det(maps[n, :3, :3]))
    if keep_nonnegative:
        np.maximum(values, 0, out=values)
    return ResampledSeries(values, covered)


def _interpolate(
    volume: FloatArray, voxels: FloatArray, spline_order: int
) -> tuple[NDArray[np.float32], BoolArray]:
    """Values of a volume at (3, M) voxel coordinates, 0 outside, and what lies inside."""
    last = np.array(volume.shape, dtype=np.float64)[:, np.newaxis] - 1
    # written so that NaN coordinates count as outside
    inside: BoolArray = np.logical_and.reduce(
        (voxels >= -_EDGE_VOXELS) & (voxels <= last + _EDGE_VOXELS), axis=0
    )
    if spline_order > 1:
        volume = ndimage.spline_filter(volume, order=spline_order, mode="mirror")
    values = np.zeros(voxels.shape[1], dtype=np.float32)
    values[inside] = ndimage.map_coordinates(
        volume,
        voxels[:, inside],
        output=np.float32,
        order=spline_order,
        # mirrored, a coefficient volume of one slice (a singleton axis) is constant along it
        mode="mirror",
        prefilter=False,
    )
    return values, inside
