"""Stations of a scan of the whole body: where they lie, and whether neighbours agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.checks import as_float

_Array = NDArray[np.float64]
# share of the 99th percentile from which a voxel counts as body, not air
_BODY_SHARE = 0.12
# a part of a slice smaller than this share of the largest is an arm, not a leg
_LEAST_LIMB = 0.35
_MOST_SLICES = 12
_FEWEST_POINTS = 150
# points and bins of the joint histogram by which a displacement between contrasts is told
_MOST_POINTS, _N_BINS = 12_000, 16
_N_HALVINGS = 3


@dataclass(frozen=True)
class Extent:
    """Box that the voxels of an image fill.

    Parameters
    ----------
    low_mm, high_mm : (3,) array
        World coordinates of its corners (right, anterior, superior), in mm.
    """

    low_mm: _Array
    high_mm: _Array

    @property
    def centre_mm(self) -> _Array:
        """Its middle, in mm."""
        return np.asarray((self.low_mm + self.high_mm) / 2)


@dataclass(frozen=True)
class Neighbours:
    """Two stations one above the other.

    Parameters
    ----------
    upper, lower : int
        Their numbers.
    overlap_mm : float
        What they share along the body, in mm; negative for a gap.
    """

    upper: int
    lower: int
    overlap_mm: float


@dataclass(frozen=True)
class Agreement:
    """How two images agree where both lie; NaN where too little of the body is shared.

    Parameters
    ----------
    n_points : int
        Points in the body that were compared.
    ratio : float
        Median of second over first signal.
    correlation, mirrored : float
        Pearson's correlation, as they lie and with the second mirrored left to right.
    shift_mm : (3,) array
        Displacement of the second that fits the first best, in mm; to one step of the lattice.
    """

    n_points: int
    ratio: float
    correlation: float
    mirrored: float
    shift_mm: _Array


def extent_of(affine: ArrayLike, shape: Sequence[int]) -> Extent:
    """Box that the voxels of an image fill.

    Parameters
    ----------
    affine : (4, 4) array_like
        Voxel to world, in mm.
    shape : sequence of int
        Voxels along each axis.

    Returns
    -------
    Extent
        From the outer faces of the outermost voxels.

    Examples
    --------
    >>> extent_of(np.diag([2.0, 2.0, 5.0, 1.0]), (10, 10, 4)).high_mm
    array([19. , 19. , 17.5])
    """
    matrix = as_float("affine", affine, ndim=2)
    ends = [(-0.5, size - 0.5) for size in shape[:3]]
    corners = np.array(list(product(*ends))) @ matrix[:3, :3].T + matrix[:3, 3]
    return Extent(corners.min(axis=0), corners.max(axis=0))


def order_from_head(extents: Sequence[Extent]) -> tuple[int, ...]:
    """Numbers of stations from head to foot, by their middle.

    Parameters
    ----------
    extents : sequence of Extent
        Of stations in one frame of reference.

    Returns
    -------
    tuple of int
        Numbers in `extents`.

    Examples
    --------
    >>> boxes = [extent_of(np.eye(4), (2, 2, n)) for n in (2, 8)]
    >>> order_from_head(boxes)
    (1, 0)
    """
    return tuple(sorted(range(len(extents)), key=lambda i: -extents[i].centre_mm[2]))


def find_neighbours(extents: Sequence[Extent]) -> tuple[Neighbours, ...]:
    """Overlaps and gaps of stations along the body.

    Parameters
    ----------
    extents : sequence of Extent
        Of stations in one frame of reference, in any order.

    Returns
    -------
    tuple of Neighbours
        From head to foot.

    Examples
    --------
    >>> upper, lower = np.eye(4), np.eye(4)
    >>> upper[2, 3] = 8.0
    >>> pair = find_neighbours([extent_of(m, (4, 4, 10)) for m in (lower, upper)])[0]
    >>> pair.upper, pair.overlap_mm
    (1, 2.0)
    """
    order = order_from_head(extents)
    return tuple(
        Neighbours(a, b, float(extents[b].high_mm[2] - extents[a].low_mm[2]))
        for a, b in pairwise(order)
    )


def lie_at_one_place(first: Extent, second: Extent) -> bool:
    """Whether two stations cover nearly the same part of the body.

    Parameters
    ----------
    first, second : Extent
        Stations.

    Returns
    -------
    bool
        True where what they share is 90 % of both along the body.

    Examples
    --------
    >>> box = extent_of(np.eye(4), (4, 4, 10))
    >>> lie_at_one_place(box, box)
    True
    """
    shared = min(first.high_mm[2], second.high_mm[2]) - max(first.low_mm[2], second.low_mm[2])
    heights = (float(box.high_mm[2] - box.low_mm[2]) for box in (first, second))
    return bool(shared > 0.9 * max(heights))


def count_limbs(image: ArrayLike, affine: ArrayLike) -> float:
    """How many large parts an axial slice shows: 2 of legs, 1 of trunk or head.

    Parameters
    ----------
    image : (X, Y, Z) array_like
        Magnitude image, its axes in any order.
    affine : (4, 4) array_like
        Voxel to world, in mm.

    Returns
    -------
    float
        Median over a dozen slices across the body; NaN where nothing is in view.

    Examples
    --------
    >>> legs = np.zeros((20, 8, 6))
    >>> legs[2:8, 1:7], legs[12:18, 1:7] = 1, 1
    >>> count_limbs(legs, np.eye(4))
    2.0
    """
    values, matrix = as_float("image", image, ndim=3), as_float("affine", affine, ndim=2)
    along = int(np.argmax(np.abs(matrix[2, :3])))
    slices = np.moveaxis(values, along, 0)
    threshold = _BODY_SHARE * np.percentile(values, 99)
    step = max(1, len(slices) // _MOST_SLICES)
    counts = []
    for plane in slices[step // 2 :: step]:
        parts, n = ndimage.label(ndimage.binary_fill_holes(plane > threshold))
        if n:
            areas = np.bincount(parts.ravel())[1:]
            # specks of noise are no part of a body
            if areas.max() >= 0.005 * plane.size:
                counts.append(int((areas >= _LEAST_LIMB * areas.max()).sum()))
    return float(np.median(counts)) if counts else float("nan")


def compare_overlap(
    first: ArrayLike,
    first_affine: ArrayLike,
    second: ArrayLike,
    second_affine: ArrayLike,
    *,
    step_mm: float,
    reach_mm: float,
) -> Agreement:
    """Signal, position and handedness of two images where both lie.

    Parameters
    ----------
    first, second : (X, Y, Z) array_like
        Images of one contrast.
    first_affine, second_affine : (4, 4) array_like
        Voxel to world, in mm.
    step_mm : float
        Edge of the lattice on which they are compared, in mm, positive.
    reach_mm : float
        Largest displacement across the body that is looked for, in mm; along it, one step.

    Returns
    -------
    Agreement
        NaN where fewer than 150 points of the lattice lie in the body.

    Raises
    ------
    NumericsError
        If the step is not positive.

    Notes
    -----
    The median is that of the points that are brighter than 12 % of the 99th percentile in both.
    Correlations are over points in the body of either; mirroring is about the middle of the
    first's.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> image = 1 + ndimage.gaussian_filter(rng.random((24, 24, 8)), 1.5)
    >>> found = compare_overlap(image, np.eye(4), 2 * image, np.eye(4), step_mm=2.0, reach_mm=4.0)
    >>> round(found.ratio, 3), round(found.correlation, 3), found.shift_mm
    (2.0, 1.0, array([0., 0., 0.]))
    """
    if not step_mm > 0:
        raise NumericsError(f"step_mm is {step_mm}; give a lattice edge in mm, above 0")
    one, two = as_float("first", first, ndim=3), as_float("second", second, ndim=3)
    boxes = [extent_of(m, v.shape) for m, v in ((first_affine, one), (second_affine, two))]
    low = np.maximum(boxes[0].low_mm, boxes[1].low_mm)
    high = np.minimum(boxes[0].high_mm, boxes[1].high_mm)
    counts = np.maximum(np.floor((high - low) / step_mm).astype(int), 0)
    none = Agreement(0, np.nan, np.nan, np.nan, np.full(3, np.nan))
    if counts.prod() < _FEWEST_POINTS:
        return none
    axes = [low[i] + step_mm * (np.arange(counts[i]) + 0.5) for i in range(3)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    a = _sampled(one, first_affine, points)
    b = _sampled(two, second_affine, points)
    bodies = [v > _BODY_SHARE * np.percentile(whole, 99) for v, whole in ((a, one), (b, two))]
    both, either = bodies[0] & bodies[1], bodies[0] | bodies[1]
    if both.sum() < _FEWEST_POINTS:
        return none
    shift = _best_shift(a, b, either, step_mm=step_mm, reach_mm=reach_mm)
    middle = float(points[..., 0][bodies[0]].mean())
    turned = points * np.array([-1.0, 1.0, 1.0]) + np.array([2 * middle, 0.0, 0.0])
    mirrored = _sampled(two, second_affine, turned)
    return Agreement(
        n_points=int(both.sum()),
        ratio=float(np.median(b[both] / a[both])),
        correlation=_correlation(a, b, either),
        mirrored=_correlation(a, mirrored, either),
        shift_mm=shift,
    )


def displacement_between(
    first: ArrayLike, second: ArrayLike, affine: ArrayLike, *, mask: ArrayLike, reach_mm: float
) -> _Array:
    """How far across the body an image lies from where it lies in another of any contrast.

    Parameters
    ----------
    first, second : (X, Y, Z) array_like
        Images on one grid.
    affine : (4, 4) array_like
        Voxel to world, in mm.
    mask : (X, Y, Z) array_like of bool
        Voxels of the first that take part: the body and some of what is around it.
    reach_mm : float
        Steps of the search begin with half of it, in mm, positive; up to 0.9 of it is found to the
        right and to the front.

    Returns
    -------
    (3,) array
        Place in the second less that in the first, in mm, to an eighth of `reach_mm`; 0 along the
        body, where a limb is much the same; NaN where fewer than 150 points take part or an image
        is constant.

    Raises
    ------
    NumericsError
        If the reach is not positive.

    Notes
    -----
    The shift of largest mutual information (Wells et al. 1996, doi:10.1016/S1361-8415(01)80004-9)
    of the two among 9 about the best so far, in steps that are halved.

    Examples
    --------
    >>> x, y, z = np.mgrid[:24, :24, :8] - 12.0
    >>> ball = np.exp(-(x**2 + 2 * y**2 + z**2) / 40)
    >>> moved = 1 - np.exp(-((x - 4) ** 2 + 2 * y**2 + z**2) / 40)
    >>> displacement_between(ball, moved, np.eye(4), mask=ball > 0.01, reach_mm=8.0)
    array([4., 0., 0.])
    """
    if not reach_mm > 0:
        raise NumericsError(f"reach_mm is {reach_mm}; give a distance in mm, above 0")
    one, two = as_float("first", first, ndim=3), as_float("second", second, ndim=3)
    matrix = as_float("affine", affine, ndim=2)
    places = np.argwhere(np.asarray(mask, dtype=bool)).astype(np.float64)
    if len(places) < _FEWEST_POINTS:
        return np.full(3, np.nan)
    places = places[:: -(-len(places) // _MOST_POINTS)]
    points = places @ matrix[:3, :3].T + matrix[:3, 3]
    known = _in_bins(_sampled(one, matrix, points))
    if known is None or np.ptp(two) == 0:
        return np.full(3, np.nan)

    def information(shift: _Array) -> float:
        seen = _in_bins(_sampled(two, matrix, points + shift))
        return -np.inf if seen is None else _information(known, seen)

    best, step = np.zeros(3), reach_mm / 2
    around = sorted(product((-1, 0, 1), (-1, 0, 1), (0,)), key=lambda s: sum(v * v for v in s))
    for _ in range(_N_HALVINGS):
        tried = [best + step * np.array(s, dtype=np.float64) for s in around]
        best = tried[int(np.argmax([information(shift) for shift in tried]))]
        step /= 2
    return best + 0.0


def _in_bins(values: _Array) -> NDArray[np.int64] | None:
    low, high = np.percentile(values, [1, 99])
    if not high > low:
        return None
    scaled = np.clip((values - low) / (high - low), 0, 1 - 1e-9)
    return np.asarray(scaled * _N_BINS, dtype=np.int64)


def _information(first: NDArray[np.int64], second: NDArray[np.int64]) -> float:
    """Mutual information of two lists of bins, in nats."""
    joint = np.bincount(first * _N_BINS + second, minlength=_N_BINS**2).reshape(_N_BINS, -1)
    share = joint / joint.sum()
    apart = np.outer(share.sum(axis=1), share.sum(axis=0))
    filled = share > 0
    return float((share[filled] * np.log(share[filled] / apart[filled])).sum())


def _sampled(image: _Array, affine: ArrayLike, points_mm: _Array) -> _Array:
    inverse = np.linalg.inv(as_float("affine", affine, ndim=2))
    places = points_mm @ inverse[:3, :3].T + inverse[:3, 3]
    return np.asarray(
        ndimage.map_coordinates(image, np.moveaxis(places, -1, 0), order=1, mode="nearest")
    )


def _correlation(a: _Array, b: _Array, where: NDArray[np.bool_]) -> float:
    x, y = a[where] - a[where].mean(), b[where] - b[where].mean()
    scale = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / scale) if scale > 0 else float("nan")


def _best_shift(
    a: _Array, b: _Array, where: NDArray[np.bool_], *, step_mm: float, reach_mm: float
) -> _Array:
    """Shift of the second in whole steps whose correlation is largest; the smallest of equals."""
    n = int(np.floor(reach_mm / step_mm))
    ranges = [range(-n, n + 1), range(-n, n + 1), range(-1, 2)]
    best, found = -np.inf, np.zeros(3)
    for steps in sorted(product(*ranges), key=lambda s: sum(v * v for v in s)):
        moved = np.roll(b, [-s for s in steps], axis=(0, 1, 2))
        value = _correlation(a, moved, where)
        if value > best + 1e-9:
            best, found = value, step_mm * np.array(steps, dtype=np.float64)
    return found + 0.0
