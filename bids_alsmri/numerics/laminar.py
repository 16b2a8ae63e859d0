"""Depth within the cortical ribbon: equidistant and equivolume, in volumes and in single slices.

The ribbon is given as a rim, in the form that LayNii uses: 1 marks what lies outside the cortex
(cerebrospinal fluid), 2 what lies inside (white matter), 3 grey matter, 0 what is unknown. Depth is
0 at white matter and 1 at the outer surface.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage, special

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.checks import as_float, require_range
from bids_alsmri.numerics.compile import kernel

_Array = NDArray[np.float64]
_Mask = NDArray[np.bool_]
_Index = NDArray[np.int32]
_Labels = NDArray[np.int8]

Surface = Literal["faces", "centres", "levels"]

OUTSIDE, INSIDE, CORTEX = 1, 2, 3

# a column whose edge grows from a point holds one eighth of its volume in one half
_HALVES = (0.13, 0.87)
# standard deviation, in voxels, by which labels are smoothed to place a border between them
BORDER_SMOOTHING = 1.4
# likewise for the curvature of that border
_CURVATURE_SMOOTHING = 3.0


@dataclass(frozen=True)
class CorticalDepth:
    """Where in the cortex each voxel of a rim lies.

    Attributes
    ----------
    equidistant : (X, Y, Z) array
        Share of the way from white matter to the outer surface, 0 to 1; NaN outside the cortex and
        where no border can be reached.
    equivolume : (X, Y, Z) array
        Share of the volume of the voxel's column that lies between it and white matter, 0 to 1; NaN
        as before.
    thickness_mm : (X, Y, Z) array
        Straight way from white matter to the voxel and on to the outer surface, in mm; NaN as
        before.
    is_measured : (X, Y, Z) array of bool
        Voxels of the cortex that both borders are reached from without leaving it and far from
        where white matter touches the outside. In the others depth is a formal number: a blob
        without a border to the outside, or a bank that the segmentation has lost.
    """

    equidistant: _Array
    equivolume: _Array
    thickness_mm: _Array
    is_measured: _Mask


@kernel
def _grow(
    rim: _Labels,
    seed: int,
    opposite: int,
    steps: _Index,
    lengths_mm: _Array,
    distance_mm: _Array,
    anchor: _Index,
    is_outside: _Mask,
    queue: _Index,
    is_queued: _Mask,
) -> None:
    # shortest way along voxels from each voxel of the cortex to a seed, by a queue in which each
    # voxel stands at most once; ways may cross the opposite tissue, which is noted
    capacity = queue.size
    n_queued = 0
    for v in range(rim.size):
        if rim[v] == seed:
            distance_mm[v] = 0.0
            anchor[v] = v
            is_border = False
            for step in steps:
                if rim[v + step] == 3:
                    is_border = True
                elif rim[v + step] == opposite:
                    is_outside[v] = True
            if is_border or is_outside[v]:
                queue[n_queued] = v
                is_queued[v] = True
                n_queued += 1
    head, tail = 0, n_queued % capacity
    while n_queued > 0:
        v = queue[head]
        head = (head + 1) % capacity
        n_queued -= 1
        is_queued[v] = False
        outside = is_outside[v] or rim[v] == opposite
        for q in range(steps.size):
            u = v + steps[q]
            if rim[u] != 3 and rim[u] != opposite:
                continue
            way = distance_mm[v] + lengths_mm[q]
            # ways of equal length differ by rounding
            if way < distance_mm[u] - 1e-9:
                distance_mm[u] = way
                anchor[u] = anchor[v]
                is_outside[u] = outside
                if not is_queued[u]:
                    queue[tail] = u
                    is_queued[u] = True
                    tail = (tail + 1) % capacity
                    n_queued += 1


@kernel
def _smooth(
    values: NDArray[np.float32],
    smoothed: NDArray[np.float32],
    inverse_weight: NDArray[np.float32],
    weights: NDArray[np.float32],
    n_steps: int,
) -> None:
    # inverse_weight is 0 outside the cortex, so values stay 0 there
    w0, w1, w2 = weights[0], weights[1], weights[2]
    one = np.float32(1.0)
    for step in range(n_steps):
        old, new = (values, smoothed) if step % 2 == 0 else (smoothed, values)
        for i in range(1, old.shape[0] - 1):
            for j in range(1, old.shape[1] - 1):
                for k in range(1, old.shape[2] - 1):
                    new[i, j, k] = inverse_weight[i, j, k] * (
                        one * old[i, j, k]
                        + w0 * (old[i - 1, j, k] + old[i + 1, j, k])
                        + w1 * (old[i, j - 1, k] + old[i, j + 1, k])
                        + w2 * (old[i, j, k - 1] + old[i, j, k + 1])
                    )


@kernel
def _search(
    number: NDArray[np.int64],
    points: _Array,
    here: _Array,
    start: NDArray[np.int64],
    distance: _Array,
    nearest: NDArray[np.int64],
) -> None:
    for v in range(here.shape[0]):
        best, found = np.inf, number[start[v, 0], start[v, 1], start[v, 2]]
        for i in range(max(start[v, 0] - 2, 0), min(start[v, 0] + 3, number.shape[0])):
            for j in range(max(start[v, 1] - 2, 0), min(start[v, 1] + 3, number.shape[1])):
                for k in range(max(start[v, 2] - 2, 0), min(start[v, 2] + 3, number.shape[2])):
                    p = number[i, j, k]
                    if p < 0:
                        continue
                    square = (
                        (points[p, 0] - here[v, 0]) ** 2
                        + (points[p, 1] - here[v, 1]) ** 2
                        + (points[p, 2] - here[v, 2]) ** 2
                    )
                    if square < best:
                        best, found = square, p
        distance[v] = math.sqrt(best)
        nearest[v] = found


def cortical_depth(
    rim: NDArray[np.integer],
    voxel_mm: ArrayLike,
    *,
    surface: Surface,
    in_plane: bool,
    smoothing_steps: int,
) -> CorticalDepth:
    r"""Depth of each voxel of the cortex, by distance and by volume.

    Parameters
    ----------
    rim : (X, Y, Z) array of int
        0 unknown, 1 outside the cortex, 2 white matter, 3 cortex.
    voxel_mm : (3,) array_like
        Sides of a voxel, in mm, positive.
    surface : {"faces", "centres", "levels"}
        Where the cortex ends: between a voxel of it and its neighbour of another tissue, as for
        segmented tissues, or at the centres of voxels labelled 1 and 2, as for lines that were
        drawn along the border. ``"levels"`` is as ``"faces"``, but puts the border to less than a
        voxel, where smoothed labels cross one half; it takes several times as long, and leaves
        borders as they are where the other tissue is thinner than about three voxels.
    in_plane : bool
        Whether each slice of the third axis is taken by itself. Slices several times thicker than
        wide say little about the course of the cortex between them.
    smoothing_steps : int
        How often the volume shares of neighbouring columns are averaged, 0 to 10000; `n` steps
        smooth with a Gaussian of about :math:`\sqrt{n} / 2` voxels.

    Returns
    -------
    CorticalDepth
        Maps of depth and thickness.

    Raises
    ------
    NumericsError
        If the rim is not 3D, holds other labels or lacks one of the three, a side is not positive
        or a setting is out of range.

    Notes
    -----
    Ways go from voxel to voxel along 26 directions (8 in a slice). Along any one line they are too
    long by one factor in both directions, which cancels in
    :math:`x = d_{in} / (d_{in} + d_{out})`; thickness is taken from the straight way to the two
    anchors.

    A column is the set of voxels that share an anchor on the border where more of them share it:
    the inner one at a crown, the outer one at a fundus. With :math:`a` the share of its voxels in
    its inner half, averaged over neighbouring columns, the equivolume depth is
    :math:`a x / (a x + (1 - a) (1 - x))`, as in LN2_LAYERS. On the closed forms of spheres that is
    off by 0.010, on a cylinder as thick as its radius by 0.005. Under ``"levels"`` it is
    :math:`((1 + c x)^3 - 1) / ((1 + c)^3 - 1)`, where :math:`c` follows from :math:`a` at
    :math:`x = 1/2`: exact on spheres, where the edge of a column grows with its length, and within
    0.002 on that cylinder. Equal volumes at depths that follow from the areas of
    both surfaces are due to Waehnert et al. 2014 (doi:10.1016/j.neuroimage.2013.03.078); columns
    by anchors and their shares are those of LN2_LAYERS (Huber et al. 2021,
    doi:10.1016/j.neuroimage.2021.118091), with which both depths agree under ``"centres"``.

    Examples
    --------
    >>> rim = np.full((12, 1, 1), 3)
    >>> rim[0], rim[-1] = 2, 1
    >>> depth = cortical_depth(
    ...     rim, [0.25, 0.25, 2.0], surface="faces", in_plane=True, smoothing_steps=0
    ... )
    >>> depth.equidistant[1:-1, 0, 0].round(2)
    array([0.05, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95])
    >>> float(depth.thickness_mm[5, 0, 0])
    2.5
    """
    sides = _checked_sides(voxel_mm)
    _require_rim(rim)
    require_range("smoothing_steps", smoothing_steps, 0, 10_000)
    if surface not in ("faces", "centres", "levels"):
        raise NumericsError(f"surface is {surface!r}; give 'faces', 'centres' or 'levels'")
    padded = np.pad(rim.astype(np.int8), 1)
    shape = padded.shape
    inner_mm, inner, inner_leaves = _ways(padded, INSIDE, OUTSIDE, sides, in_plane)
    outer_mm, outer, outer_leaves = _ways(padded, OUTSIDE, INSIDE, sides, in_plane)
    cortex = np.flatnonzero((padded.ravel() == CORTEX) & (inner >= 0) & (outer >= 0))
    if cortex.size == 0:
        raise NumericsError(
            "no voxel of the cortex (label 3) is connected with white matter (2) and the outside "
            "(1); check that the rim's labels touch each other"
        )
    inner, outer = inner[cortex], outer[cortex]
    inner_mm, outer_mm = inner_mm[cortex], outer_mm[cortex]
    straight_mm, across_mm = _straight_ways(cortex, inner, outer, shape, sides)
    if surface != "centres":
        # on average the surface lies half a voxel before the anchor, in the column's direction
        inner_mm, outer_mm = inner_mm - across_mm / 2.0, outer_mm - across_mm / 2.0
        straight_mm = straight_mm - across_mm
    if surface == "levels":
        near_mm = np.stack(
            [
                _to_border(padded, label, cortex, anchor, way, sides, in_plane)
                for label, anchor, way in ((INSIDE, inner, inner_mm), (OUTSIDE, outer, outer_mm))
            ]
        )
        told = np.isfinite(near_mm).all(axis=0)
        inner_mm, outer_mm = np.where(told, near_mm, np.stack([inner_mm, outer_mm]))
        straight_mm = np.where(told, near_mm.sum(axis=0), straight_mm)
    way_mm = inner_mm + outer_mm
    depth = np.clip(inner_mm / way_mm, 0.0, 1.0)
    share = _inner_share(depth, cortex, inner, outer, shape, sides, in_plane, smoothing_steps)
    if surface == "levels":
        volume = _volume_share(depth, share)
    else:
        volume = share * depth / (share * depth + (1.0 - share) * (1.0 - depth))
    is_measured = np.zeros(padded.size, dtype=np.bool_)
    is_measured[cortex] = ~(inner_leaves[cortex] | outer_leaves[cortex])
    return CorticalDepth(
        equidistant=_as_map(depth, cortex, shape),
        equivolume=_as_map(volume, cortex, shape),
        thickness_mm=_as_map(straight_mm, cortex, shape),
        is_measured=is_measured.reshape(shape)[1:-1, 1:-1, 1:-1].copy(),
    )


def layer_labels(
    depth: _Array, *, n_layers: int, is_measured: NDArray[np.bool_]
) -> NDArray[np.int16]:
    """Layers of equal depth, counted from white matter.

    Parameters
    ----------
    depth : (X, Y, Z) array
        Depth of `cortical_depth`, 0 to 1, NaN outside the cortex.
    n_layers : int
        How many, 1 to 100.
    is_measured : (X, Y, Z) array of bool
        Voxels to label.

    Returns
    -------
    (X, Y, Z) array of int16
        1 at white matter to `n_layers` at the outer surface; 0 elsewhere.

    Raises
    ------
    NumericsError
        If shapes differ or the number is out of range.

    Examples
    --------
    >>> depth = np.array([[[np.nan, 0.0, 0.1, 0.34, 1.0]]])
    >>> layer_labels(depth, n_layers=3, is_measured=np.isfinite(depth)).tolist()
    [[[0, 1, 1, 2, 3]]]
    """
    if depth.shape != is_measured.shape:
        raise NumericsError(
            f"depth has shape {depth.shape} but is_measured {is_measured.shape}; "
            "give both from one rim"
        )
    require_range("n_layers", n_layers, 1, 100)
    labels = np.zeros(depth.shape, dtype=np.int16)
    inside = is_measured & np.isfinite(depth)
    labels[inside] = np.clip(np.ceil(n_layers * depth[inside]), 1, n_layers).astype(np.int16)
    return labels


def _checked_sides(voxel_mm: ArrayLike) -> _Array:
    sides = as_float("voxel_mm", voxel_mm, ndim=1)
    if sides.shape != (3,):
        raise NumericsError(f"voxel_mm has {sides.size} values; give three sides in mm")
    for side in sides:
        require_range("voxel_mm", float(side), 0.0, np.inf, unit="mm", open_low=True)
    return sides


def _require_rim(rim: NDArray[np.integer]) -> None:
    if rim.ndim != 3:
        raise NumericsError(f"rim has shape {rim.shape}; give (X, Y, Z)")
    counts = ndimage.sum_labels(np.ones(rim.shape), rim, index=range(4))
    n_other = rim.size - int(counts.sum())
    if n_other:
        raise NumericsError(
            f"rim holds {n_other} voxels with labels beyond 0 to 3; give 1 outside the cortex, "
            "2 white matter, 3 cortex, 0 unknown"
        )
    if not counts[1:].all():
        raise NumericsError(
            f"rim holds {int(counts[1])} voxels outside the cortex (1), {int(counts[2])} of white "
            f"matter (2) and {int(counts[3])} of cortex (3); all three are needed"
        )


def _ways(
    padded: _Labels, seed: int, opposite: int, sides: _Array, in_plane: bool
) -> tuple[_Array, _Index, _Mask]:
    reach = np.array([1, 1, 0 if in_plane else 1])
    offsets = np.argwhere(np.ones(2 * reach + 1)) - reach
    offsets = offsets[offsets.any(axis=1)]
    strides = np.array([padded.shape[1] * padded.shape[2], padded.shape[2], 1])
    distance_mm = np.full(padded.size, np.inf)
    anchor = np.full(padded.size, -1, dtype=np.int32)
    is_outside = np.zeros(padded.size, dtype=np.bool_)
    _grow(
        padded.ravel(),
        seed,
        opposite,
        (offsets @ strides).astype(np.int32),
        np.linalg.norm(offsets * sides, axis=1),
        distance_mm,
        anchor,
        is_outside,
        np.empty(padded.size, dtype=np.int32),
        np.zeros(padded.size, dtype=np.bool_),
    )
    return distance_mm, anchor, is_outside


def _straight_ways(
    cortex: NDArray[np.intp], inner: _Index, outer: _Index, shape: tuple[int, ...], sides: _Array
) -> tuple[_Array, _Array]:
    # the sum of both straight ways, and what one voxel measures along them
    here, within, without = (
        np.stack(np.unravel_index(flat, shape)).astype(np.float32)
        for flat in (cortex, inner, outer)
    )
    scale = sides.astype(np.float32)[:, None]
    straight = np.linalg.norm((here - within) * scale, axis=0)
    straight += np.linalg.norm((here - without) * scale, axis=0)
    column = np.abs(without - within)
    length = np.linalg.norm(column * scale, axis=0)
    # a plane of voxels follows the next one at this distance along the column's direction
    across = np.max(column * scale**2, axis=0) / np.maximum(length, np.finfo(np.float32).tiny)
    across = np.minimum(across, straight / np.float32(2.0))
    return straight.astype(np.float64), across.astype(np.float64)


def _to_border(
    padded: _Labels,
    label: int,
    cortex: NDArray[np.intp],
    anchor: _Index,
    way_mm: _Array,
    sides: _Array,
    in_plane: bool,
) -> _Array:
    # straight distance of cortex to a border that is placed between voxels; NaN where none is near
    # the anchor, as across a fold
    voxels, points_mm = _border_points(padded, label, sides, in_plane)
    if len(points_mm) == 0:
        return np.full(cortex.size, np.nan)
    # slices by themselves lie too far apart to meet
    scale = sides * np.array([1.0, 1.0, 1e6 if in_plane else 1.0])
    here, there = (
        np.stack(np.unravel_index(flat, padded.shape), axis=-1) for flat in (cortex, anchor)
    )
    points = points_mm / sides * scale
    distance_mm, nearest = _nearest_points(voxels, points, here, scale, padded.shape)
    aside_mm = np.linalg.norm(points[nearest] - there * scale, axis=1)
    reach_mm = way_mm / 2.0 + 2.0 * float(sides[:2].max() if in_plane else sides.max())
    return np.where(aside_mm <= reach_mm, distance_mm, np.nan)


def _nearest_points(
    voxels: NDArray[np.intp],
    points: _Array,
    here: NDArray[np.intp],
    scale: _Array,
    shape: tuple[int, ...],
) -> tuple[_Array, NDArray[np.int64]]:
    # points lie within their voxels or just beside them: the nearest one is found among those
    # around the nearest voxel that has one
    number = np.full(shape, -1, dtype=np.int64)
    number[tuple(voxels.T)] = np.arange(len(voxels))
    around = ndimage.distance_transform_edt(
        number < 0, sampling=scale, return_distances=False, return_indices=True
    )
    start = np.ascontiguousarray(around[(slice(None), *here.T)].T.astype(np.int64))
    distance, nearest = np.empty(len(here)), np.empty(len(here), dtype=np.int64)
    _search(number, points, here * scale, start, distance, nearest)
    return distance, nearest


def _border_points(
    padded: _Labels, label: int, sides: _Array, in_plane: bool
) -> tuple[NDArray[np.intp], _Array]:
    # A mask that is smoothed falls across a flat border as the normal distribution does, so that
    # its value tells the distance. Sums over voxels stand for integrals over them, which takes
    # 1/12 voxel^2 off the variance.
    inside = padded[1:-1, 1:-1, 1:-1] == label
    axes = [axis for axis in range(2 if in_plane else 3) if inside.shape[axis] > 1]
    widths = np.where(np.isin(np.arange(3), axes), BORDER_SMOOTHING, 0.0)
    share = ndimage.gaussian_filter(inside.astype(np.float64), widths, mode="nearest")
    size = np.where(widths > 0.0, 2 * math.ceil(3 * BORDER_SMOOTHING) + 1, 1).tolist()
    # a thin sheet, such as fluid in a narrow sulcus, has two borders that smoothing mixes
    is_clear = ndimage.maximum_filter(share, size) > 0.95
    is_clear &= ndimage.minimum_filter(share, size) < 0.05
    around = np.where(np.isin(np.arange(3), axes), 3, 1).tolist()
    is_clear &= ndimage.maximum_filter(padded[1:-1, 1:-1, 1:-1] == CORTEX, around)
    is_clear &= (share > 0.1) & (share < 0.9)
    where = np.argwhere(is_clear)
    slopes = np.zeros((len(where), 3))
    for axis in axes:
        slopes[:, axis] = np.gradient(share, sides[axis], axis=axis)[is_clear]
    slopes /= np.linalg.norm(slopes, axis=1, keepdims=True).clip(np.finfo(float).tiny)
    across_mm = np.linalg.norm(slopes * sides, axis=1)
    width_mm = across_mm * math.sqrt(BORDER_SMOOTHING**2 - 1.0 / 12.0)
    depth_mm = width_mm * special.ndtri(share[is_clear])
    # smoothing moves a border towards its centre of curvature, by half the variance over the radius
    # for each direction in which it is curved
    bend = _curvature(inside, axes, sides)[is_clear]
    depth_mm += np.clip(0.5 * bend * width_mm**2, -0.5 * across_mm, 0.5 * across_mm)
    near = np.abs(depth_mm) < 0.9 * across_mm
    # in voxels of the padded rim
    voxels = where[near] + 1
    return voxels, voxels * sides - (depth_mm[:, None] * slopes)[near]


def _curvature(inside: _Mask, axes: list[int], sides: _Array) -> _Array:
    # sum of the principal curvatures of a mask's border, in 1/mm; positive where it is convex
    widths = np.where(np.isin(np.arange(3), axes), _CURVATURE_SMOOTHING, 0.0)
    smooth = ndimage.gaussian_filter(inside.astype(np.float64), widths, mode="nearest")
    slopes = [np.gradient(smooth, sides[axis], axis=axis) for axis in axes]
    length = np.sqrt(sum(slope**2 for slope in slopes)).clip(np.finfo(float).tiny)
    bends = (
        np.gradient(slope / length, sides[axis], axis=axis)
        for axis, slope in zip(axes, slopes, strict=True)
    )
    total: _Array = -sum(bends, start=np.zeros(inside.shape))
    return total


def _inner_share(
    depth: _Array,
    cortex: NDArray[np.intp],
    inner: _Index,
    outer: _Index,
    shape: tuple[int, ...],
    sides: _Array,
    in_plane: bool,
    smoothing_steps: int,
) -> _Array:
    n_voxels = int(np.prod(shape))
    n_inner = np.bincount(inner, minlength=n_voxels)[inner]
    n_outer = np.bincount(outer, minlength=n_voxels)[outer]
    column = np.where(n_inner >= n_outer, inner, outer)
    in_half = (depth < 0.5) + 0.5 * (depth == 0.5)
    size = np.bincount(column, minlength=n_voxels)
    inner_half = np.bincount(column, weights=in_half, minlength=n_voxels)
    share = np.zeros(n_voxels, dtype=np.float32)
    share[cortex] = inner_half[column] / size[column]
    if smoothing_steps:
        weights = np.exp(-0.5 * (sides / sides.min()) ** 2)
        if in_plane:
            weights[2] = 0.0
        is_cortex = np.zeros(n_voxels, dtype=np.float32)
        is_cortex[cortex] = 1.0
        is_cortex = is_cortex.reshape(shape)
        total = is_cortex.copy()
        for axis, weight in enumerate(weights):
            total += weight * ndimage.correlate1d(is_cortex, [1.0, 0.0, 1.0], axis, mode="constant")
        values = share.reshape(shape)
        smoothed = np.zeros_like(values)
        inverse = (is_cortex / total.clip(1.0)).astype(np.float32)
        _smooth(values, smoothed, inverse, weights.astype(np.float32), smoothing_steps)
        share = (smoothed if smoothing_steps % 2 else values).ravel()
    # columns that lie in one half alone say nothing about the other
    return np.clip(share[cortex].astype(np.float64), 1e-3, 1.0 - 1e-3)


def _volume_share(depth: _Array, inner_half: _Array) -> _Array:
    # of a column whose edge grows in proportion to 1 + c x: what lies within x of what lies within
    # 1 is ((1 + c x)^3 - 1) / ((1 + c)^3 - 1), and c follows from what lies within 1/2
    half = np.clip(inner_half, *_HALVES)
    linear = 24.0 * half - 6.0
    root = np.sqrt(linear**2 - 4.0 * (8.0 * half - 1.0) * (24.0 * half - 12.0))
    growth = (24.0 - 48.0 * half) / (linear + root)
    within = growth * depth
    share: _Array = depth * (3.0 + within * (3.0 + within)) / (3.0 + growth * (3.0 + growth))
    return share


def _as_map(values: _Array, cortex: NDArray[np.intp], shape: tuple[int, ...]) -> _Array:
    full = np.full(int(np.prod(shape)), np.nan)
    full[cortex] = values
    return full.reshape(shape)[1:-1, 1:-1, 1:-1].copy()
