"""Profiles across the cortex within thick slices, aligned at its outer surface."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.spatial import cKDTree
from scipy.special import ndtr

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.checks import (
    as_float,
    require_finite,
    require_range,
    require_same_shape,
)
from bids_alsmri.numerics.cortical_layers import tilt_deg

_Array = NDArray[np.float64]
_Mask = NDArray[np.bool_]

# how far a step is followed into the cortex and out of it when the surface is sought, in mm:
# sulci are narrow, and beyond them lies the other bank
_STEP_INSIDE_MM, _STEP_OUTSIDE_MM, _STEP_MM = 1.2, 0.6, 0.1
_RIDGE_MM = 0.15  # by so much the distance falls beyond the middle of a sulcus
_QUARTILES_TO_SD = 1.349  # of a normal variable
_MOST_SD = 3.0  # deviations beyond are veins, or the other bank


@dataclass(frozen=True)
class Places:
    """Where profiles cross the border of white matter.

    Attributes
    ----------
    start : (P, 3) array
        In voxels.
    direction : (P, 2) array
        Unit vectors in the slice, outwards, in mm along the first two axes.
    tilt_deg : (P,) array
        Angle between the normal of the cortex and the slice, in degrees.
    """

    start: _Array
    direction: _Array
    tilt_deg: _Array


@dataclass(frozen=True)
class Aligned:
    """Profiles of an area, side by side at the outer surface, and what was left out.

    Attributes
    ----------
    depth_mm : (T,) array
        Depth beneath the outer surface along the normal, in mm, rising.
    profiles : (P, T) array
        Signal of each profile; deviations of more than three standard deviations are cut to that.
    others : (K, P, T) array
        Further maps at the same places; NaN where they tell nothing.
    outer_mm : (P,) array
        Distance of the outer surface from the border of white matter that was given, in mm.
    tilt_deg : (P,) array
        Tilt of each profile, in degrees.
    places : (P,) array of int
        Which of the given places they are.
    shift_mm : float
        Median distance of the surface in the image from that of the ribbon, in mm; NaN for none.
    n_tilted, n_touching, n_closed, n_bent : int
        Places left out: too oblique; white matter and fluid touch; no fluid seen at the surface;
        profile reaches another bank, or the end of the image.
    """

    depth_mm: _Array
    profiles: _Array
    others: _Array
    outer_mm: _Array
    tilt_deg: _Array
    places: NDArray[np.intp]
    shift_mm: float
    n_tilted: int
    n_touching: int
    n_closed: int
    n_bent: int


def surface_normals(distance_mm: ArrayLike, voxel_mm: ArrayLike, *, smoothing_mm: float) -> _Array:
    r"""Normals of the surfaces of equal distance.

    Parameters
    ----------
    distance_mm : (X, Y, Z) array_like
        Signed distance from white matter, positive outside it, in mm, at least 2 voxels along each
        axis.
    voxel_mm : (3,) array_like
        Edges of a voxel, in mm.
    smoothing_mm : float
        Standard deviation of the Gaussian that evens slopes out, in mm, not negative.

    Returns
    -------
    (X, Y, Z, 3) array
        Unit vectors in mm along the axes of the grid, outwards; 0 where there is no direction.

    Raises
    ------
    NumericsError
        If the distance is not finite, or a size is out of range.

    Examples
    --------
    >>> x = np.arange(6.0)[:, None, None] * np.ones((6, 6, 3))
    >>> surface_normals(0.5 * x, [0.5, 0.5, 2.0], smoothing_mm=0.5)[2, 2, 1].round(6)
    array([1., 0., 0.])
    """
    distance = as_float("distance_mm", distance_mm, ndim=3)
    require_finite("distance_mm", distance)
    edges = _checked_edges(voxel_mm)
    require_range("smoothing_mm", smoothing_mm, 0.0, 20.0, unit="mm")
    if min(distance.shape) < 2:
        raise NumericsError(
            f"distance_mm has shape {distance.shape}; a direction takes 2 voxels along each axis"
        )
    # slopes are smoothed, not the distance: that would flatten them at the first and last slice
    slopes = np.stack(
        [
            ndimage.gaussian_filter(slope, smoothing_mm / edges, mode="nearest")
            for slope in np.gradient(distance, *edges)
        ],
        axis=-1,
    )
    lengths = np.linalg.norm(slopes, axis=-1, keepdims=True)
    normals: _Array = np.divide(slopes, lengths, out=np.zeros_like(slopes), where=lengths > 1e-6)
    return normals


def place_profiles(
    distance_mm: ArrayLike,
    normals: ArrayLike,
    mask: _Mask,
    voxel_mm: ArrayLike,
    *,
    spacing_mm: float,
) -> Places:
    """Points on the border of white matter at which profiles begin, slice by slice.

    Parameters
    ----------
    distance_mm : (X, Y, Z) array_like
        Signed distance from white matter, positive outside it, in mm; the third axis counts slices.
    normals : (X, Y, Z, 3) array_like
        Normals of the cortex, as of `surface_normals`.
    mask : (X, Y, Z) array of bool
        Where profiles may begin.
    voxel_mm : (3,) array_like
        Edges of a voxel, in mm.
    spacing_mm : float
        Edge of the cells of the slice of which each holds one profile at most, in mm, positive.

    Returns
    -------
    Places
        None where the border does not cross the mask.

    Raises
    ------
    NumericsError
        If shapes differ or a size is out of range.

    Examples
    --------
    >>> x = 0.5 * np.arange(8.0)[:, None, None] * np.ones((8, 6, 3)) - 1.6
    >>> n = surface_normals(x, [0.5, 0.5, 2.0], smoothing_mm=0.5)
    >>> inside = np.ones(x.shape, bool)
    >>> found = place_profiles(x, n, inside, [0.5, 0.5, 2.0], spacing_mm=1.0)
    >>> len(found.start), np.allclose(found.start[:, 0], 3.2), np.allclose(found.tilt_deg, 0.0)
    (9, True, True)
    """
    distance = as_float("distance_mm", distance_mm, ndim=3)
    vectors = as_float("normals", normals, ndim=4)
    require_same_shape(distance_mm=distance, mask=mask)
    require_same_shape(distance_mm=distance, normals=vectors[..., 0])
    edges = _checked_edges(voxel_mm)
    require_range("spacing_mm", spacing_mm, 0.0, 20.0, unit="mm", open_low=True)
    in_slice = np.hypot(vectors[..., 0], vectors[..., 1])
    # a border that lies flat in the slice has no direction there
    is_near = mask & (np.abs(distance) < 0.75 * edges[:2].max()) & (in_slice > 0.3)
    start = np.argwhere(is_near).astype(np.float64)
    cosine = in_slice[is_near]
    direction = vectors[is_near][:, :2] / cosine[:, None]
    for _ in range(2):
        here = ndimage.map_coordinates(distance, start.T, order=1, mode="nearest")
        start[:, :2] -= direction * (here / cosine)[:, None] / edges[:2]
    cells = np.floor(np.c_[start[:, :2] * edges[:2] / spacing_mm, start[:, 2]]).astype(np.int64)
    kept = np.sort(np.unique(cells, axis=0, return_index=True)[1])
    tilt = tilt_deg(vectors[is_near][kept], [0.0, 0.0, 1.0]) if len(kept) else np.empty(0)
    return Places(start[kept], direction[kept], tilt)


def sample_profiles(
    maps: ArrayLike, places: Places, distance_mm: ArrayLike, voxel_mm: ArrayLike
) -> _Array:
    r"""Maps along the normals of the cortex, read within the slices.

    Parameters
    ----------
    maps : (K, X, Y, Z) array_like
        K maps on one grid.
    places : Places
        Where profiles begin.
    distance_mm : (T,) array_like
        Distances from the start along the normal, positive outwards, in mm.
    voxel_mm : (3,) array_like
        Edges of a voxel, in mm.

    Returns
    -------
    (K, P, T) array
        Linear between voxels of the slice; NaN beyond the image.

    Raises
    ------
    NumericsError
        If shapes do not fit.

    Notes
    -----
    A distance :math:`d` along the normal is :math:`d / \cos\theta` in a slice that the normal is
    tilted to by :math:`\theta`.

    Examples
    --------
    >>> x = 0.5 * np.arange(8.0)[:, None, None] * np.ones((8, 6, 3))
    >>> one = Places(np.array([[2.0, 3.0, 1.0]]), np.array([[1.0, 0.0]]), np.array([60.0]))
    >>> sample_profiles(x[None], one, [0.0, 0.5, 9.0], [0.5, 0.5, 2.0]).round(6)
    array([[[ 1.,  2., nan]]])
    """
    images = as_float("maps", maps, ndim=4)
    distance = as_float("distance_mm", distance_mm, ndim=1)
    edges = _checked_edges(voxel_mm)
    way = distance / np.cos(np.deg2rad(places.tilt_deg))[:, None]
    first, second = (
        places.start[:, a, None] + places.direction[:, a, None] * way / edges[a] for a in (0, 1)
    )
    third = np.broadcast_to(places.start[:, 2, None], way.shape)
    where = np.stack([first, second, third])
    shape = (len(images), *way.shape)
    sampled: _Array = np.empty(shape)
    for image, values in zip(images, sampled, strict=True):
        ndimage.map_coordinates(image, where, output=values, order=1, cval=np.nan)
    return sampled


def find_outer_edge(
    profiles: ArrayLike,
    distance_mm: ArrayLike,
    expected_mm: ArrayLike,
    *,
    reach_mm: float,
    blur_mm: float,
    least_step: float,
) -> _Array:
    """Where fluid begins on each profile.

    Parameters
    ----------
    profiles : (P, T) array_like
        Signal; NaN where nothing is known.
    distance_mm : (T,) array_like
        Distances along the profile, outwards, in even steps, in mm.
    expected_mm : (P,) array_like
        Where the surface should be, in mm; NaN where nothing tells.
    reach_mm : float
        How far from there it is sought, in mm, positive.
    blur_mm : float
        Standard deviation of the blur of the step, in mm, positive.
    least_step : float
        By what share of the mean around it the signal must rise, not negative.

    Returns
    -------
    (P,) array
        In mm; NaN where the signal does not rise so much.

    Raises
    ------
    NumericsError
        If shapes do not fit or a setting is out of range.

    Notes
    -----
    The place at which a blurred step explains most of the variance around it, by least squares.

    Examples
    --------
    >>> distance = np.arange(-2.0, 6.0, 0.1)
    >>> signal = np.where(distance < 3.0, 60.0, 100.0)[None]
    >>> choices = {"reach_mm": 1.0, "blur_mm": 0.1, "least_step": 0.15}
    >>> find_outer_edge(signal, distance, [3.4], **choices).round(1)
    array([3.])
    """
    signal = as_float("profiles", profiles, ndim=2)
    distance = as_float("distance_mm", distance_mm, ndim=1)
    expected = as_float("expected_mm", expected_mm, ndim=1)
    if signal.shape != (expected.size, distance.size):
        raise NumericsError(
            f"profiles have shape {signal.shape}; give one row for each of {expected.size} "
            f"expected places and one column for each of {distance.size} distances"
        )
    require_range("reach_mm", reach_mm, 0.0, 10.0, unit="mm", open_low=True)
    require_range("blur_mm", blur_mm, 0.0, 5.0, unit="mm", open_low=True)
    require_range("least_step", least_step, 0.0, 10.0)
    around = np.arange(-_STEP_INSIDE_MM, _STEP_OUTSIDE_MM + 1e-9, _STEP_MM)
    design = np.stack([np.ones(around.size), ndtr(around / blur_mm)], axis=1)
    basis, triangle = np.linalg.qr(design)
    best, edge = np.full(expected.size, -np.inf), np.full(expected.size, np.nan)
    for shift in np.arange(-reach_mm, reach_mm + 1e-9, _STEP_MM):
        part = resampled(signal, distance, (expected + shift)[:, None] + around)
        shares = part @ basis
        step = shares[:, 1] / triangle[1, 1]
        spread = np.maximum((part**2).sum(axis=1) - shares[:, 0] ** 2, 1e-300)
        explained = shares[:, 1] ** 2 / spread
        is_better = (explained > best) & (step > least_step * part.mean(axis=1))
        best[is_better] = explained[is_better]
        edge[is_better] = (expected + shift)[is_better]
    return edge


def align_profiles(
    maps: ArrayLike,
    white_distance_mm: ArrayLike,
    outer_distance_mm: ArrayLike,
    places: Places,
    voxel_mm: ArrayLike,
    *,
    most_tilt_deg: float,
    least_cortex_mm: float,
    most_cortex_mm: float,
    margin_mm: float,
    beyond_mm: float,
    step_mm: float,
    reach_mm: float,
    blur_mm: float,
    least_step: float,
    evening_mm: float,
    most_bend_mm: float,
) -> Aligned:
    """Profiles of an area at equal depth beneath the outer surface that the image itself shows.

    Parameters
    ----------
    maps : (K, X, Y, Z) array_like
        The image whose layers are sought, then further maps, NaN where they tell nothing.
    white_distance_mm, outer_distance_mm : (X, Y, Z) array_like
        Signed distances from white matter, positive outside it, and from the outer surface,
        positive beneath it, in mm.
    places : Places
        Where profiles begin.
    voxel_mm : (3,) array_like
        Edges of a voxel, in mm.
    most_tilt_deg : float
        Profiles that are tilted more are left out, in degrees, 0 to 60.
    least_cortex_mm, most_cortex_mm : float
        White matter and fluid count as touching, or the surface as not found, where they are less
        or more apart, in mm.
    margin_mm : float
        What is left out beneath the outer surface, where voxels hold fluid, in mm, not negative.
    beyond_mm : float
        How far profiles go on beneath the median cortex, in mm, positive.
    step_mm : float
        Between samples, in mm, positive.
    reach_mm, blur_mm, least_step : float
        Of `find_outer_edge`.
    evening_mm : float
        Radius over which the place of the outer surface is a median along it, in mm, positive.
    most_bend_mm : float
        By how much the distance from white matter may differ from that along the profile, in mm.

    Returns
    -------
    Aligned
        Profiles and counts; none may be left.

    Raises
    ------
    NumericsError
        If shapes differ or a setting is out of range.

    Notes
    -----
    A ribbon from another scan is displaced by more than the borders of layers may be blurred by.
    The outer surface, where the image itself has most contrast, puts profiles in step. It is sought
    where the ribbon has it, or, in sulci that the other scan shows closed, where the banks meet.
    """
    images = as_float("maps", maps, ndim=4)
    white = as_float("white_distance_mm", white_distance_mm, ndim=3)
    outer = as_float("outer_distance_mm", outer_distance_mm, ndim=3)
    require_same_shape(maps=images[0], white_distance_mm=white, outer_distance_mm=outer)
    for name, value in (("step_mm", step_mm), ("evening_mm", evening_mm), ("beyond_mm", beyond_mm)):
        require_range(name, value, 0.0, 20.0, unit="mm", open_low=True)
    require_range("most_tilt_deg", most_tilt_deg, 0.0, 60.0, unit="degree")
    distance = as_float(
        "distance_mm", np.arange(-beyond_mm - reach_mm, most_cortex_mm + reach_mm + 1.0, step_mm)
    )
    stack = np.concatenate([images, white[None], outer[None]])
    sampled = sample_profiles(stack, places, distance, voxel_mm)
    expected = first_crossing(sampled[-1], distance)
    # another scan shows narrow sulci closed: the surface is then sought where the banks meet
    expected = np.where(np.isnan(expected), ridge(sampled[-2], distance), expected)
    is_upright = places.tilt_deg <= most_tilt_deg
    # where no surface is met, the sulcus is closed
    is_thick = ~(expected < least_cortex_mm)
    edge = find_outer_edge(
        sampled[0],
        distance,
        np.where(is_upright & is_thick, expected, np.nan),
        reach_mm=reach_mm,
        blur_mm=blur_mm,
        least_step=least_step,
    )
    edge = _evened(edge, places, _checked_edges(voxel_mm), evening_mm)
    is_open = np.isfinite(edge) & (edge <= most_cortex_mm)
    usable = is_upright & is_thick & is_open
    longest = float(np.median(edge[usable])) + beyond_mm if usable.any() else beyond_mm + margin_mm
    depth = as_float("depth_mm", np.arange(margin_mm, longest + 1e-9, step_mm))
    ways = edge[:, None] - depth
    moved = np.stack([resampled(values, distance, ways) for values in sampled])
    with np.errstate(invalid="ignore"):
        is_straight = (np.abs(moved[-2] - ways) <= most_bend_mm).all(axis=1)
    is_straight &= np.isfinite(moved[0]).all(axis=1)
    kept = np.flatnonzero(usable & is_straight)
    return Aligned(
        depth_mm=depth,
        profiles=_without_outliers(moved[0, kept]),
        others=np.stack([_without_outliers(values) for values in moved[1:-2, kept]])
        if len(images) > 1
        else np.empty((0, len(kept), depth.size)),
        outer_mm=edge[kept],
        tilt_deg=places.tilt_deg[kept],
        places=kept,
        shift_mm=float(np.median(np.abs((edge - expected)[kept]))) if len(kept) else np.nan,
        n_tilted=int(np.sum(~is_upright)),
        n_touching=int(np.sum(is_upright & ~is_thick)),
        n_closed=int(np.sum(is_upright & is_thick & ~is_open)),
        n_bent=int(np.sum(usable & ~is_straight)),
    )


def resampled(signal: _Array, distance: _Array, where: _Array) -> _Array:
    """Rows at other distances.

    Parameters
    ----------
    signal : (P, T) array
        One row for each profile.
    distance : (T,) array
        Where its values lie, in even steps, in mm.
    where : (P, S) array
        Where they are wanted, in mm.

    Returns
    -------
    (P, S) array
        Linear between values; NaN beyond their ends and next to NaN.

    Examples
    --------
    >>> resampled(np.array([[0.0, 10.0]]), np.array([1.0, 2.0]), np.array([[1.3, 2.5]]))
    array([[ 3., nan]])
    """
    place = (where - distance[0]) / (distance[1] - distance[0])
    is_within = (place >= 0.0) & (place <= distance.size - 1.0)
    place = np.where(is_within, place, 0.0)
    below = np.minimum(place.astype(np.intp), distance.size - 2)
    share = place - below
    found = np.take_along_axis(signal, below, axis=1) * (1.0 - share)
    found += np.take_along_axis(signal, below + 1, axis=1) * share
    return np.where(is_within, found, np.nan)


def first_crossing(outer_ways: _Array, distance: _Array) -> _Array:
    """Where profiles pass the outer surface of the cortex.

    Parameters
    ----------
    outer_ways : (P, T) array
        Distance from the outer surface along each profile, positive beneath it, in mm.
    distance : (T,) array
        Distance from the border of white matter, outwards, in mm.

    Returns
    -------
    (P,) array
        The first distance beyond the surface, in mm; NaN where it is not passed.

    Examples
    --------
    >>> ways = np.array([[2.0, 1.0, -0.5], [2.0, 1.0, 0.5]])
    >>> first_crossing(ways, np.array([0.0, 1.0, 2.0]))
    array([ 2., nan])
    """
    is_out = (outer_ways < 0.0) & (distance >= 0.0)
    found = np.where(is_out.any(axis=1), distance[np.argmax(is_out, axis=1)], np.nan)
    return np.asarray(found, dtype=np.float64)


def ridge(white_ways: _Array, distance: _Array) -> _Array:
    """Where the banks of a closed sulcus meet on profiles.

    Parameters
    ----------
    white_ways : (P, T) array
        Distance from white matter along each profile, positive outside it, in mm.
    distance : (T,) array
        Distance from the border of white matter, outwards, in mm.

    Returns
    -------
    (P,) array
        Where the distance from white matter begins to fall, in mm; NaN where it does not.

    Examples
    --------
    >>> ways = np.array([[0.0, 1.0, 2.0, 1.5], [0.0, 1.0, 2.0, 3.0]])
    >>> ridge(ways, np.array([0.0, 1.0, 2.0, 3.0]))
    array([ 2., nan])
    """
    outwards = np.where(distance >= 0.0, white_ways, np.nan)
    highest = np.fmax.accumulate(outwards, axis=1)
    with np.errstate(invalid="ignore"):
        has_fallen = highest - outwards > _RIDGE_MM
    end = np.argmax(has_fallen, axis=1)
    before = np.arange(distance.size) <= end[:, None]
    top = np.where(before & np.isfinite(outwards), outwards, -np.inf).argmax(axis=1)
    found = np.where(has_fallen.any(axis=1), distance[top], np.nan)
    return np.asarray(found, dtype=np.float64)


def _evened(edge: _Array, places: Places, edges_mm: _Array, radius_mm: float) -> _Array:
    # veins at the surface shift single profiles
    known = np.flatnonzero(np.isfinite(edge))
    evened = np.full(edge.size, np.nan)
    if len(known) == 0:
        return evened
    # slices are further apart than any radius
    where = np.c_[places.start[:, :2] * edges_mm[:2], places.start[:, 2] * 3.0 * radius_mm]
    near = cKDTree(where[known]).query_ball_point(where[known], radius_mm)
    for place, neighbours in zip(known, near, strict=True):
        if len(neighbours) >= 3:
            evened[place] = np.median(edge[known[neighbours]])
    return evened


def _without_outliers(profiles: _Array) -> _Array:
    if len(profiles) == 0:
        return profiles
    known = np.where(np.isfinite(profiles).any(axis=0), profiles, 0.0)
    low, middle, high = np.nanpercentile(known, [25.0, 50.0, 75.0], axis=0)
    most = _MOST_SD * (high - low) / _QUARTILES_TO_SD
    return np.clip(profiles, middle - most, middle + most)


def _checked_edges(voxel_mm: ArrayLike) -> _Array:
    edges = as_float("voxel_mm", voxel_mm, ndim=1)
    if edges.shape != (3,) or not np.all(edges > 0.0):
        raise NumericsError(f"voxel_mm is {edges.tolist()}; give three edges above 0, in mm")
    return edges
