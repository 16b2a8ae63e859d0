"""Borders of the cortex from another scan, moved to where the slab itself shows them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.spatial import cKDTree
from scipy.special import ndtr

from bids_alsmri.numerics.checks import (
    as_float,
    require_finite,
    require_range,
    require_same_shape,
)
from bids_alsmri.numerics.cortical_profiles import (
    Places,
    find_outer_edge,
    first_crossing,
    place_profiles,
    resampled,
    ridge,
    sample_profiles,
)

_Array = NDArray[np.float64]

_STEP_MM = 0.1
# from the border of white matter inwards, short of the dark line of the U-fibres, and outwards,
# short of the superficial layer
_INTO_WHITE_MM, _INTO_CORTEX_MM = 0.7, 1.0
_LEAST_SIGMAS = 2.0  # of a step over its error, or there is none
_HUBER = 1.345  # residuals beyond so many standard deviations count less (Huber 1981)
_MAD_TO_SD = 1.4826  # of a normal variable
_N_REWEIGHTINGS = 12
_LEAST_PLACES = 50  # that a shift takes
# a shift is taken to be of 1 mm, and errors of segmentations to be alike over 20 profiles: so much
# keeps a shift that the profiles do not tell, such as across upright slices, at 0
_ALIKE, _EXPECTED_MM = 20.0, 1.0
_KERNEL_FLOOR = 0.02  # of profiles per voxel, beneath which there is no local move


@dataclass(frozen=True)
class RefinedBorders:
    """Borders of the cortex after they were moved, and by how much.

    Attributes
    ----------
    white_mm, outer_mm : (X, Y, Z) array
        Signed distances from white matter, positive outside it, and from the outer surface,
        positive beneath it, in mm.
    shift_mm : (3,) array
        Shift of the ribbon as a whole, along the axes of the grid, in mm.
    inner_mm, outer_moves_mm : float
        Median move of either border along its normal, in mm, all in all; NaN without profiles.
    inner_told, outer_told : float
        Share of profiles on which the image shows that border, 0 to 1; NaN without profiles.
    """

    white_mm: _Array
    outer_mm: _Array
    shift_mm: _Array
    inner_mm: float
    outer_moves_mm: float
    inner_told: float
    outer_told: float


def refine_borders(
    image: ArrayLike,
    white_distance_mm: ArrayLike,
    outer_distance_mm: ArrayLike,
    normals: ArrayLike,
    voxel_mm: ArrayLike,
    *,
    spacing_mm: float,
    most_tilt_deg: float,
    longest_mm: float,
    reach_mm: float,
    blur_mm: float,
    least_step: float,
    inner_reach_mm: float,
    averaging_mm: float,
) -> RefinedBorders:
    r"""Borders of the cortex where the image itself shows them.

    Parameters
    ----------
    image : (X, Y, Z) array_like
        Signal in which fluid is brighter than cortex and white matter brighter than the layer
        above it; the smooth field of the coil taken off; finite.
    white_distance_mm, outer_distance_mm : (X, Y, Z) array_like
        Signed distances from white matter, positive outside it, and from the outer surface,
        positive beneath it, in mm.
    normals : (X, Y, Z, 3) array_like
        Normals of the cortex along the axes of the grid, outwards.
    voxel_mm : (3,) array_like
        Edges of a voxel, in mm.
    spacing_mm : float
        Least distance of profiles, in mm, positive.
    most_tilt_deg : float
        Profiles that are tilted more against the slices do not count, in degrees, 0 to 60.
    longest_mm : float
        How far out the outer surface may lie, in mm, positive.
    reach_mm, blur_mm, least_step : float
        Of `find_outer_edge`, for the outer surface.
    inner_reach_mm : float
        How far the border of white matter may be moved beyond the shift of the whole, in mm,
        positive.
    averaging_mm : float
        Radius over which profiles are averaged before that border is sought, in mm, positive.

    Returns
    -------
    RefinedBorders
        Distances and moves. Where the image shows no border, it is moved by the shift alone.

    Raises
    ------
    NumericsError
        If shapes differ, a value is not finite or a setting is out of range.

    Notes
    -----
    Profiles across the cortex tell where fluid begins. Their distances from the given surface
    :math:`d_i`, along normals :math:`n_i`, give the shift of the whole by
    :math:`d_i = n_i \cdot s + c`, least squares reweighted after Huber (1981) with the constant for
    a surface that one scan sees further out than the other; what is left over moves the outer
    surface alone. Along profiles that were shifted and then averaged with their neighbours, the
    border of white matter is the blurred step that explains most of the variance around it; it
    counts where it rises inwards by twice its error and does not lie at the end of the search,
    for one half of its neighbours at least. Moves are evened out along the borders by a Gaussian
    of half the averaging radius.

    Examples
    --------
    >>> x = 0.25 * np.arange(64.0)[:, None, None] * np.ones((64, 40, 3)) - 6.0
    >>> image = np.where(x < 0.3, 104.0, np.where(x < 3.5, 100.0, 170.0))
    >>> n = np.zeros((*x.shape, 3))
    >>> n[..., 0] = 1.0
    >>> choices = {"spacing_mm": 0.5, "most_tilt_deg": 25.0, "longest_mm": 7.0, "reach_mm": 1.3,
    ...     "blur_mm": 0.25, "least_step": 0.2, "inner_reach_mm": 0.7, "averaging_mm": 3.0}
    >>> found = refine_borders(image, x, 3.2 - x, n, [0.25, 0.25, 2.0], **choices)
    >>> bool(abs(found.white_mm[26, 20, 1] - (x - 0.3)[26, 20, 1]) < 0.15)
    True
    """
    values = as_float("image", image, ndim=3)
    white = as_float("white_distance_mm", white_distance_mm, ndim=3)
    outer = as_float("outer_distance_mm", outer_distance_mm, ndim=3)
    vectors = as_float("normals", normals, ndim=4)
    require_same_shape(image=values, white_distance_mm=white, outer_distance_mm=outer)
    require_same_shape(image=values, normals=vectors[..., 0])
    require_finite("image", values)
    for name, value in (
        ("longest_mm", longest_mm),
        ("inner_reach_mm", inner_reach_mm),
        ("averaging_mm", averaging_mm),
    ):
        require_range(name, value, 0.0, 20.0, unit="mm", open_low=True)
    require_range("most_tilt_deg", most_tilt_deg, 0.0, 60.0, unit="degree")
    edges = as_float("voxel_mm", voxel_mm, ndim=1)
    everywhere = np.ones(values.shape, np.bool_)
    placed = place_profiles(white, vectors, everywhere, edges, spacing_mm=spacing_mm)
    upright = placed.tilt_deg <= most_tilt_deg
    places = Places(placed.start[upright], placed.direction[upright], placed.tilt_deg[upright])
    if len(places.start) < _LEAST_PLACES:
        nothing = float("nan")
        return RefinedBorders(white, outer, np.zeros(3), nothing, nothing, nothing, nothing)
    nearest = np.minimum(np.rint(places.start).astype(np.intp), np.array(values.shape) - 1)
    axes = vectors[tuple(nearest.T)]
    distance = as_float("distance_mm", np.arange(-3.0, longest_mm + reach_mm + 1.0, _STEP_MM))
    profile, white_way, outer_way = sample_profiles(
        np.stack([values, white, outer]), places, distance, edges
    )
    expected = first_crossing(outer_way, distance)
    expected = np.where(np.isnan(expected), ridge(white_way, distance), expected)
    edge = find_outer_edge(
        profile, distance, expected, reach_mm=reach_mm, blur_mm=blur_mm, least_step=least_step
    )
    moved = edge - expected
    shift = _shift(axes, moved)
    by_shift = axes @ shift
    # slices are further apart than any radius
    where = np.c_[places.start[:, :2] * edges[:2], places.start[:, 2] * 3.0 * averaging_mm]
    near = cKDTree(where).query_ball_point(where, averaging_mm)
    inner = _inner_moves(profile, distance, by_shift, near, inner_reach_mm, blur_mm)
    # single profiles meet veins
    outwards = _evened(moved - by_shift, near)
    width = 0.5 * averaging_mm / edges
    width[2] = 0.0
    together = vectors @ shift
    return RefinedBorders(
        white - together - _spread(inner, places.start, values.shape, width),
        outer + together + _spread(outwards, places.start, values.shape, width),
        shift,
        float(np.median(by_shift + np.nan_to_num(inner))),
        float(np.median(by_shift + np.nan_to_num(outwards))),
        float(np.isfinite(inner).mean()),
        float(np.isfinite(outwards).mean()),
    )


def _shift(axes: _Array, moved: _Array) -> _Array:
    told = np.isfinite(moved)
    if np.count_nonzero(told) < _LEAST_PLACES:
        return np.zeros(3)
    design, target = np.c_[axes[told], np.ones(np.count_nonzero(told))], moved[told]
    weights = np.ones(len(target))
    spread = _MAD_TO_SD * float(np.median(np.abs(target - np.median(target)))) + 1e-6
    solution = np.zeros(4)
    for _ in range(_N_REWEIGHTINGS):
        weighted = design * weights[:, None]
        held = np.diag([_ALIKE * (spread / _EXPECTED_MM) ** 2] * 3 + [0.0])
        solution = np.linalg.solve(weighted.T @ design + held, weighted.T @ target)
        residual = np.abs(target - design @ solution)
        spread = max(_MAD_TO_SD * float(np.median(residual)), 1e-6)
        weights = 1.0 / np.maximum(residual / (_HUBER * spread), 1.0)
    return np.asarray(solution[:3], dtype=np.float64)


def _inner_moves(
    profile: _Array,
    distance: _Array,
    by_shift: _Array,
    near: NDArray[np.object_],
    reach_mm: float,
    blur_mm: float,
) -> _Array:
    # beyond the shift, along the normal; NaN where no step is seen
    axis = np.arange(-_INTO_WHITE_MM - reach_mm, _INTO_CORTEX_MM + reach_mm + 1e-9, _STEP_MM)
    each = resampled(profile, distance, by_shift[:, None] + axis)
    known = np.isfinite(each)
    filled = np.where(known, each, 0.0)
    means = np.full(each.shape, np.nan)
    for row, group in enumerate(near):
        count = known[group].sum(axis=0)
        if count.min() > 0:
            means[row] = filled[group].sum(axis=0) / count
    around = np.arange(-_INTO_WHITE_MM, _INTO_CORTEX_MM + 1e-9, _STEP_MM)
    basis, triangle = np.linalg.qr(np.c_[np.ones(around.size), ndtr(-around / blur_mm)])
    moves = np.arange(-reach_mm, reach_mm + 1e-9, _STEP_MM)
    explained = np.full((moves.size, len(each)), -np.inf)
    for number in range(moves.size):
        part = means[:, number : number + around.size]
        shares = part @ basis
        step = shares[:, 1] / triangle[1, 1]
        left = np.maximum((part**2).sum(axis=1) - (shares**2).sum(axis=1), 0.0)
        # of neighbouring samples about one in three is independent at voxels of 0.25 mm
        error = np.sqrt(left / (around.size / 3.0)) / np.abs(triangle[1, 1]) * np.sqrt(3.0)
        with np.errstate(invalid="ignore"):
            is_step = step > _LEAST_SIGMAS * error
        explained[number, is_step] = shares[is_step, 1] ** 2
    best = np.argmax(explained, axis=0)
    is_told = np.isfinite(explained.max(axis=0)) & (best > 0) & (best < moves.size - 1)
    return _evened(np.where(is_told, moves[best], np.nan), near)


def _evened(values: _Array, near: NDArray[np.object_]) -> _Array:
    # median among neighbours of which one half at least is told
    evened = np.full(values.size, np.nan)
    for place, group in enumerate(near):
        told = values[group]
        told = told[np.isfinite(told)]
        if len(told) >= max(3, len(group) / 2):
            evened[place] = np.median(told)
    return evened


def _spread(values: _Array, start: _Array, shape: tuple[int, ...], width: _Array) -> _Array:
    # onto all voxels; falls to 0 where no profile is near
    told = np.isfinite(values)
    index = np.minimum(np.rint(start[told]).astype(np.intp), np.array(shape) - 1)
    sums, counts = np.zeros(shape), np.zeros(shape)
    np.add.at(sums, tuple(index.T), values[told])
    np.add.at(counts, tuple(index.T), 1.0)
    sums, counts = (ndimage.gaussian_filter(m, width, mode="constant") for m in (sums, counts))
    # of one profile at the middle of the Gaussian
    least = _KERNEL_FLOOR / (2.0 * np.pi * width[0] * width[1])
    return np.asarray(sums / (counts + least), dtype=np.float64)
