"""Closed outlines around a centre, one per slice, found as the cheapest way around."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.checks import as_float, require_finite, require_range

_Array = NDArray[np.float64]
_Mask = NDArray[np.bool_]


def sample_rays(
    slices: ArrayLike,
    centres: ArrayLike,
    radii_mm: ArrayLike,
    *,
    n_angles: int,
    pixel_mm: tuple[float, float],
    order: int,
) -> _Array:
    """Values along rays that leave a centre in each slice.

    Parameters
    ----------
    slices : (K, X, Y) array_like
        One image per slice; beyond its border it is 0.
    centres : (K, 2) array_like
        Where the rays start, in voxels.
    radii_mm : (R,) array_like
        Distances from the centre, in mm.
    n_angles : int
        Rays in a full turn, from 8 up; the first points along the first axis, the next ones turn
        towards the second.
    pixel_mm : (float, float)
        Edges of a voxel within the slice, in mm.
    order : int
        Order of the interpolation: 0 for labels, 1 for images.

    Returns
    -------
    (K, n_angles, R) array
        In the unit of `slices`.

    Raises
    ------
    NumericsError
        If shapes do not match or `n_angles` is below 8.

    Examples
    --------
    >>> disc = np.hypot(*(np.mgrid[:9, :9] - 4.0)) < 3.0
    >>> rays = sample_rays(disc[None], [[4, 4]], [0, 2, 4], n_angles=8, pixel_mm=(1, 1), order=1)
    >>> rays[0, 0]
    array([1., 1., 0.])
    """
    stack = as_float("slices", slices, ndim=3)
    starts = as_float("centres", centres, ndim=2)
    radii = as_float("radii_mm", radii_mm, ndim=1)
    require_range("n_angles", n_angles, 8, 4096)
    if starts.shape != (len(stack), 2):
        raise NumericsError(
            f"centres has shape {starts.shape}; {len(stack)} slices need ({len(stack)}, 2)"
        )
    angles = np.arange(n_angles) * (2.0 * np.pi / n_angles)
    reach = (np.cos(angles)[:, np.newaxis] * radii, np.sin(angles)[:, np.newaxis] * radii)
    rays = np.empty((len(stack), n_angles, len(radii)))
    for row, image in enumerate(stack):
        points = [starts[row, axis] + reach[axis] / pixel_mm[axis] for axis in (0, 1)]
        ndimage.map_coordinates(image, points, order=order, output=rays[row], cval=0.0)
    return rays


def cheapest_contours(cost: ArrayLike, *, most_steps: int, step_cost: float) -> NDArray[np.int64]:
    r"""Radius at each angle of the closed contour with the lowest cost, in each slice.

    Parameters
    ----------
    cost : (K, A, R) array_like
        Cost of passing a slice's ray at a radius, any unit, finite.
    most_steps : int
        By how many radii two neighbouring angles may differ, from 1 up.
    step_cost : float
        Cost of the square of such a difference, not negative.

    Returns
    -------
    (K, A) array of int
        Index of the radius.

    Raises
    ------
    NumericsError
        If the cost has no three axes or holds NaN or infinity, or a setting is out of range.

    Notes
    -----
    Minimises :math:`\sum_a c(a, r_a) + \lambda (r_{a+1} - r_a)^2` by dynamic programming. The
    way starts half a turn before the first angle and ends half a turn after the last, so that
    it closes wherever the contour is clear within half a turn; what gap is left at the seam is
    closed by the second pass, which must start and end at the radius the first found opposite
    to its own seam.

    Examples
    --------
    >>> cost = np.ones((1, 8, 5))
    >>> cost[0, :, 3] = 0.0
    >>> cheapest_contours(cost, most_steps=1, step_cost=0.1)
    array([[3, 3, 3, 3, 3, 3, 3, 3]])
    """
    around = as_float("cost", cost, ndim=3)
    require_finite("cost", around)
    require_range("most_steps", most_steps, 1, 100)
    require_range("step_cost", step_cost, 0.0, float("inf"))
    n_angles = around.shape[1]
    half = n_angles // 2
    doubled = np.concatenate([around[:, -half:], around, around[:, :half]], axis=1)
    first = _cheapest_ways(doubled, most_steps, step_cost)[:, half : half + n_angles]
    # the first way is free at its ends: the opposite angle is as far from them as can be
    seam = np.roll(around, -half, axis=1)
    closing = np.concatenate([seam, seam[:, :1]], axis=1)
    fixed = np.full_like(closing[:, 0], np.inf)
    np.put_along_axis(fixed, first[:, half : half + 1], 0.0, axis=1)
    closing[:, 0] += fixed
    closing[:, -1] += fixed
    return np.roll(_cheapest_ways(closing, most_steps, step_cost)[:, :-1], half, axis=1)


def fill_contours(
    radii_mm: ArrayLike,
    centres: ArrayLike,
    shape: tuple[int, int],
    *,
    pixel_mm: tuple[float, float],
) -> _Mask:
    """Pixels whose centre lies within a contour, slice by slice.

    Parameters
    ----------
    radii_mm : (K, A) array_like
        Distance of the contour from its centre at equally spaced angles, in mm.
    centres : (K, 2) array_like
        In voxels.
    shape : (int, int)
        Of a slice.
    pixel_mm : (float, float)
        Edges of a voxel within the slice, in mm.

    Returns
    -------
    (K, X, Y) array of bool
        Between two angles the radius changes linearly.

    Examples
    --------
    >>> int(fill_contours(np.full((1, 64), 3.0), [[5, 5]], (11, 11), pixel_mm=(1, 1)).sum())
    29
    """
    radii = as_float("radii_mm", radii_mm, ndim=2)
    starts = as_float("centres", centres, ndim=2)
    n_angles = radii.shape[1]
    grid = np.indices(shape, dtype=np.float64)
    masks = np.zeros((len(radii), *shape), dtype=np.bool_)
    for row, contour in enumerate(radii):
        along, across = ((grid[axis] - starts[row, axis]) * pixel_mm[axis] for axis in (0, 1))
        turn = np.mod(np.arctan2(across, along) * (n_angles / (2.0 * np.pi)), n_angles)
        limit = np.interp(turn, np.arange(n_angles + 1), np.append(contour, contour[0]))
        masks[row] = np.hypot(along, across) <= limit
    return masks


def _cheapest_ways(cost: _Array, most_steps: int, step_cost: float) -> NDArray[np.int64]:
    n_slices, n_angles, n_radii = cost.shape
    steps = np.arange(-most_steps, most_steps + 1)
    price = step_cost * steps.astype(np.float64) ** 2
    reached = np.arange(n_radii) + steps[:, np.newaxis]
    outside = (reached < 0) | (reached >= n_radii)
    reached = np.clip(reached, 0, n_radii - 1)
    came_from = np.empty((n_angles, n_slices, n_radii), dtype=np.int64)
    total = cost[:, 0].copy()
    for angle in range(1, n_angles):
        options = total[:, reached] + price[:, np.newaxis]
        options[:, outside] = np.inf
        best = options.argmin(axis=1)
        came_from[angle] = np.take_along_axis(reached[np.newaxis], best[:, np.newaxis], 1)[:, 0]
        total = np.take_along_axis(options, best[:, np.newaxis], 1)[:, 0] + cost[:, angle]
    way = np.empty((n_slices, n_angles), dtype=np.int64)
    way[:, -1] = total.argmin(axis=1)
    rows = np.arange(n_slices)
    for angle in range(n_angles - 1, 0, -1):
        way[:, angle - 1] = came_from[angle, rows, way[:, angle]]
    return way
