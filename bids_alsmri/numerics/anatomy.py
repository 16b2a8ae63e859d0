"""Heads and brains as arrays: foreground, pose of a template, morphology, overlap."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.checks import require_same_shape

Mask = NDArray[np.bool_]
Image = NDArray[np.float32]
Matrix = NDArray[np.float64]

# Below this share of the image's variance a window is flat and its correlation is noise.
_FLAT_VARIANCE_SHARE = 1e-3


@dataclass(frozen=True)
class Pose:
    """Where a template lies in an image.

    Parameters
    ----------
    template_to_image : (4, 4) array
        Maps template world coordinates to those of the image, in mm.
    correlation : float
        Correlation of template and image within the template's weight, -1 to 1.
    """

    template_to_image: Matrix
    correlation: float


def dice(first: Mask, second: Mask) -> float:
    r"""Overlap of two masks.

    Parameters
    ----------
    first, second : (...) array of bool
        Masks on one grid.

    Returns
    -------
    float
        0 (disjoint) to 1 (equal); NaN where both are empty.

    Raises
    ------
    NumericsError
        If the shapes differ.

    Notes
    -----
    :math:`2|A \cap B| / (|A| + |B|)` (Dice 1945, doi:10.2307/1932409).

    Examples
    --------
    >>> dice(np.array([True, True, False]), np.array([True, False, False])).__round__(3)
    0.667
    """
    require_same_shape(first=first, second=second)
    total = int(np.count_nonzero(first)) + int(np.count_nonzero(second))
    return 2.0 * int(np.count_nonzero(first & second)) / total if total else float("nan")


def otsu_threshold(values: NDArray[np.floating], *, n_bins: int) -> float:
    """Threshold that splits values into two classes of largest variance between.

    Parameters
    ----------
    values : (...) array
        Finite numbers.
    n_bins : int
        Bins of the histogram.

    Returns
    -------
    float
        In the unit of `values`; the middle of the gap where empty bins divide the classes.

    Raises
    ------
    NumericsError
        If all values are equal.

    Notes
    -----
    Otsu 1979, doi:10.1109/TSMC.1979.4310076.

    Examples
    --------
    >>> 0 < otsu_threshold(np.array([0.0, 0.1, 0.9, 1.0]), n_bins=64) < 0.9
    True
    """
    counts, edges = np.histogram(values, n_bins)
    if np.count_nonzero(counts) < 2:
        raise NumericsError(
            f"values are all {np.min(values):g}; a threshold needs at least two different "
            "intensities"
        )
    centres = (edges[1:] + edges[:-1]) / 2
    below = np.cumsum(counts)[:-1].astype(np.float64)
    above = counts.sum() - below
    moment = np.cumsum(counts * centres)
    gap = moment[-1] * below - moment[:-1] * (below + above)
    between = gap**2 / np.maximum(below * above, 1.0)
    return float(np.mean(edges[1:-1][between >= between.max() * (1 - 1e-12)]))


def largest_component(mask: Mask) -> Mask:
    """Largest face-connected part of a mask.

    Parameters
    ----------
    mask : (...) array of bool
        Any mask; an empty one is returned as it is.

    Returns
    -------
    (...) array of bool
        The part with the most voxels; of equal ones the first in storage order.

    Examples
    --------
    >>> largest_component(np.array([True, False, True, True])).astype(int)
    array([0, 0, 1, 1])
    """
    labels, n_parts = ndimage.label(mask)
    if n_parts == 0:
        return mask.copy()
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.asarray(labels == int(np.argmax(sizes)), dtype=np.bool_)


def _bounds(mask: Mask, margin: NDArray[np.int64]) -> tuple[slice, ...]:
    """Slices around a mask, widened by `margin` voxels and cut at the image's border."""
    slices = []
    for axis, size in enumerate(mask.shape):
        others = tuple(a for a in range(mask.ndim) if a != axis)
        filled = np.flatnonzero(mask.any(axis=others))
        low, high = int(filled[0]) - int(margin[axis]), int(filled[-1]) + 1 + int(margin[axis])
        slices.append(slice(max(0, low), min(size, high)))
    return tuple(slices)


def dilate_mm(mask: Mask, radius_mm: float, voxel_mm: NDArray[np.floating]) -> Mask:
    """Voxels whose centre lies within a distance of a mask.

    Parameters
    ----------
    mask : (n, m, k) array of bool
        Mask to widen.
    radius_mm : float
        Distance in mm, not negative.
    voxel_mm : (3,) array
        Voxel size in mm.

    Returns
    -------
    (n, m, k) array of bool
        Widened mask; exact Euclidean distance between voxel centres.

    Examples
    --------
    >>> line = np.zeros((7, 1, 1), bool)
    >>> line[3] = True
    >>> dilate_mm(line, 2.0, np.array([1.0, 1.0, 1.0])).ravel().astype(int)
    array([0, 1, 1, 1, 1, 1, 0])
    """
    if not mask.any():
        return mask.copy()
    voxel_mm = np.asarray(voxel_mm, dtype=np.float64)
    box = _bounds(mask, np.ceil(radius_mm / voxel_mm).astype(np.int64) + 1)
    distance = ndimage.distance_transform_edt(~mask[box], sampling=voxel_mm)
    widened = np.zeros_like(mask)
    widened[box] = distance <= radius_mm
    return widened


def erode_mm(mask: Mask, radius_mm: float, voxel_mm: NDArray[np.floating]) -> Mask:
    """Voxels of a mask that lie further than a distance from its outside.

    Parameters
    ----------
    mask : (n, m, k) array of bool
        Mask to narrow. Beyond the image's border counts as inside: a field of view that cuts
        the head does not eat into it.
    radius_mm : float
        Distance in mm, not negative.
    voxel_mm : (3,) array
        Voxel size in mm.

    Returns
    -------
    (n, m, k) array of bool
        Narrowed mask.

    Examples
    --------
    >>> block = np.zeros((7, 1, 1), bool)
    >>> block[1:6] = True
    >>> erode_mm(block, 1.0, np.array([1.0, 1.0, 1.0])).ravel().astype(int)
    array([0, 0, 1, 1, 1, 0, 0])
    """
    if not mask.any() or mask.all():
        return mask.copy()
    voxel_mm = np.asarray(voxel_mm, dtype=np.float64)
    box = _bounds(mask, np.ones(mask.ndim, dtype=np.int64))
    narrowed = np.zeros_like(mask)
    if mask[box].all():
        return mask.copy()
    distance = ndimage.distance_transform_edt(mask[box], sampling=voxel_mm)
    narrowed[box] = distance > radius_mm
    return narrowed


def close_mm(mask: Mask, radius_mm: float, voxel_mm: NDArray[np.floating]) -> Mask:
    """Mask without gaps and folds narrower than twice a radius.

    Parameters
    ----------
    mask : (n, m, k) array of bool
        Mask to close.
    radius_mm : float
        Radius in mm.
    voxel_mm : (3,) array
        Voxel size in mm.

    Returns
    -------
    (n, m, k) array of bool
        Closed mask; it holds all of `mask`.

    Examples
    --------
    >>> parts = np.ones((7, 5, 5), bool)
    >>> parts[3] = False
    >>> close_mm(parts, 1.0, np.array([1.0, 1.0, 1.0]))[:, 2, 2].astype(int)
    array([1, 1, 1, 1, 1, 1, 1])
    """
    pad = int(np.ceil(radius_mm / np.min(voxel_mm))) + 1
    widened = dilate_mm(np.pad(mask, pad), radius_mm, voxel_mm)
    closed = erode_mm(widened, radius_mm, voxel_mm)
    inner = tuple(slice(pad, -pad) for _ in range(mask.ndim))
    return np.asarray(closed[inner] | mask, dtype=np.bool_)


def head_mask(image: Image, *, threshold_share: float, smoothing_voxels: float) -> Mask:
    """Foreground of a head image: its largest bright part, filled.

    Parameters
    ----------
    image : (n, m, k) array
        Magnitude image of a head or a brain.
    threshold_share : float
        Share of Otsu's threshold taken; below 1, since fat is brighter than brain.
    smoothing_voxels : float
        Standard deviation of the Gaussian used before, in voxels.

    Returns
    -------
    (n, m, k) array of bool
        Head, without holes in three dimensions.

    Raises
    ------
    NumericsError
        If the image is constant.

    Examples
    --------
    >>> image = np.zeros((9, 9, 9), np.float32)
    >>> image[2:7, 2:7, 2:7] = 100.0
    >>> int(head_mask(image, threshold_share=0.6, smoothing_voxels=0.0).sum())
    125
    """
    capped = np.minimum(image, np.percentile(image[image > 0], 99) if (image > 0).any() else 0)
    smooth = ndimage.gaussian_filter(capped.astype(np.float32), smoothing_voxels)
    above = smooth > threshold_share * otsu_threshold(smooth, n_bins=256)
    return np.asarray(ndimage.binary_fill_holes(largest_component(above)), dtype=np.bool_)


def head_centre_mm(mask: Mask, affine: Matrix, *, depth_mm: float) -> NDArray[np.float64]:
    """Centre of the part of a head that lies within a depth under its vertex.

    Parameters
    ----------
    mask : (n, m, k) array of bool
        Head, with or without face, neck and shoulders.
    affine : (4, 4) array
        Voxel indices to world coordinates in mm; world z points to the vertex.
    depth_mm : float
        Height of the box under the vertex, in mm; a head's is about 140.

    Returns
    -------
    (3,) array
        World coordinates in mm.

    Raises
    ------
    NumericsError
        If the mask is empty.

    Notes
    -----
    The vertex is taken 5 ml under the highest voxel, so that a few bright voxels above the
    head do not move it.

    Examples
    --------
    >>> head_centre_mm(np.ones((20, 20, 20), bool), np.diag([9.0, 9, 9, 1]), depth_mm=90.0)[2:]
    array([126.])
    """
    indices = np.argwhere(mask)
    if len(indices) == 0:
        raise NumericsError("mask is empty; no head was found in the image")
    world = indices @ affine[:3, :3].T + affine[:3, 3]
    voxel_ml = abs(float(np.linalg.det(affine[:3, :3]))) / 1000.0
    height = np.sort(world[:, 2])[::-1]
    vertex_mm = height[min(len(height) - 1, int(5.0 / voxel_ml))]
    box = world[world[:, 2] > vertex_mm - depth_mm]
    low, high = np.percentile(box, [1, 99], axis=0)
    centre: NDArray[np.float64] = (low + high) / 2
    centre[2] = vertex_mm - depth_mm / 2
    return centre


def resample_world(
    image: NDArray[np.floating], affine: Matrix, spacing_mm: float
) -> tuple[Image, Matrix]:
    """Image on an isotropic grid along the world's axes that covers its field of view.

    Parameters
    ----------
    image : (n, m, k) array
        Image in any storage order and orientation.
    affine : (4, 4) array
        Voxel indices to world coordinates in mm.
    spacing_mm : float
        Voxel size of the new grid, in mm.

    Returns
    -------
    resampled : (n2, m2, k2) array of float32
        Smoothed to the new voxel size, linearly interpolated, 0 outside.
    affine : (4, 4) array
        The new grid's.

    Notes
    -----
    The Gaussian adds what the point spread lacks: sigma = sqrt(new^2 - old^2) / 2.355, with the
    voxel sizes as full widths at half maximum.

    Examples
    --------
    >>> resample_world(np.ones((8, 8, 8)), np.diag([-1.0, 1, 1, 1]), 2.0)[0].shape
    (4, 4, 4)
    """
    voxel_mm = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    sigma = np.sqrt(np.maximum(spacing_mm**2 - voxel_mm**2, 0.0)) / 2.355 / voxel_mm
    smooth = ndimage.gaussian_filter(np.asarray(image, dtype=np.float32), sigma)
    corners = np.array(np.meshgrid(*[(-0.5, s - 0.5) for s in image.shape])).reshape(3, -1)
    world = affine[:3, :3] @ corners + affine[:3, 3:]
    low, high = world.min(axis=1), world.max(axis=1)
    shape = np.maximum(1, np.round((high - low) / spacing_mm)).astype(int)
    grid = np.diag([spacing_mm] * 3 + [1.0])
    grid[:3, 3] = (low + high) / 2 - (shape - 1) * spacing_mm / 2
    return sample_through(smooth, affine, np.eye(4), tuple(shape), grid), grid


def sample_through(
    image: NDArray[np.floating],
    affine: Matrix,
    grid_to_image: Matrix,
    grid_shape: tuple[int, ...],
    grid_affine: Matrix,
) -> Image:
    """Image interpolated linearly on another grid through a linear transform.

    Parameters
    ----------
    image : (n, m, k) array
        Image to interpolate.
    affine : (4, 4) array
        Its voxel indices to world coordinates in mm.
    grid_to_image : (4, 4) array
        World coordinates of the grid to those of the image, in mm.
    grid_shape, grid_affine : tuple of int, (4, 4) array
        The grid.

    Returns
    -------
    (grid_shape) array of float32
        Interpolated values, 0 outside the image.

    Examples
    --------
    >>> eye = np.eye(4)
    >>> sample_through(np.ones((2, 2, 2)), eye, eye, (2, 2, 2), eye).sum()
    np.float32(8.0)
    """
    index = np.linalg.inv(affine) @ grid_to_image @ grid_affine
    sampled = ndimage.affine_transform(
        np.asarray(image, dtype=np.float32),
        index[:3, :3],
        index[:3, 3],
        output_shape=grid_shape,
        order=1,
    )
    return np.asarray(sampled, dtype=np.float32)


def rotation_about_x(angle_deg: float) -> Matrix:
    """Rotation of world coordinates about the left-right axis: a nod.

    Parameters
    ----------
    angle_deg : float
        Angle in degrees; positive turns anterior to superior.

    Returns
    -------
    (4, 4) array
        Rotation about the origin.

    Examples
    --------
    >>> (rotation_about_x(90.0) @ [0, 1, 0, 1]).round(6) + 0.0
    array([0., 0., 1., 1.])
    """
    angle = np.deg2rad(angle_deg)
    rotation = np.eye(4)
    rotation[1, 1:3] = np.cos(angle), -np.sin(angle)
    rotation[2, 1:3] = np.sin(angle), np.cos(angle)
    return rotation


def flatten(
    image: Image, mask: Mask, voxel_mm: NDArray[np.floating], *, width_mm: float, cap: float
) -> Image:
    """Image over its local mean, so that a receive coil's bias falls away.

    Parameters
    ----------
    image : (n, m, k) array
        Intensities, not negative.
    mask : (n, m, k) array of bool
        Where the mean is taken.
    voxel_mm : (3,) array
        Voxel size in mm.
    width_mm : float
        Standard deviation of the Gaussian that says what is local, in mm.
    cap : float
        Multiple of the local mean above which a voxel counts no more, so that fat does not
        darken its neighbours.

    Returns
    -------
    (n, m, k) array of float32
        Dimensionless, about 1 in brain; 0 where the mean is 0.

    Notes
    -----
    Coarser than N4 and a hundred times cheaper; meant for finding the brain, not for tissues.
    The capped mean is iterated four times from the median, enough to settle within a per cent.

    Examples
    --------
    >>> flat = flatten(np.full((4, 4, 4), 7, np.float32), np.ones((4, 4, 4), bool), np.ones(3),
    ...     width_mm=2.0, cap=1.8)
    >>> np.allclose(flat, 1)
    True
    """
    sigma = width_mm / np.asarray(voxel_mm, dtype=np.float64)
    inside = mask.astype(np.float32)
    # The truncation keeps the cost down; the tail beyond 2.5 sigma holds 1 % of the weight.
    weight = ndimage.gaussian_filter(inside, sigma, truncate=2.5)
    mean = np.full(image.shape, np.median(image[mask]) if mask.any() else 0, dtype=np.float32)
    for _ in range(4):
        capped = np.minimum(image, cap * mean) * inside
        mean = ndimage.gaussian_filter(capped, sigma, truncate=2.5) / np.maximum(weight, 1e-3)
    usable = mean > 1e-6 * float(mean.max(initial=0))
    flat = np.divide(image, mean, out=np.zeros(image.shape, np.float32), where=usable)
    return np.asarray(flat, dtype=np.float32)


def thick_tissue(
    flat: Image,
    voxel_mm: NDArray[np.floating],
    *,
    low: float,
    high: float,
    opening_mm: float,
    depth_mm: float,
) -> Image:
    """Image without scalp, skull, fat and whatever else is thin or too bright.

    Parameters
    ----------
    flat : (n, m, k) array
        Intensities over their local mean (`flatten`).
    voxel_mm : (3,) array
        Voxel size in mm.
    low, high : float
        Range of brain tissue, in multiples of the local mean.
    opening_mm : float
        Radius by which tissue is opened, in mm.
    depth_mm : float
        A part is kept if it holds a point this far from its border, in mm: more than half the
        thickness of scalp, less than that of brain.

    Returns
    -------
    (n, m, k) array of float32
        `flat` in what is kept and in its folds and hollows, 0 elsewhere.

    Examples
    --------
    >>> flat = np.zeros((30, 5, 5), np.float32)
    >>> flat[2:4] = flat[10:28] = 1.0
    >>> thick_tissue(flat, np.ones(3), low=0.4, high=1.6, opening_mm=1.0, depth_mm=2.0)[:, 2, 2]
    array([0., 0., 0., 0., 0., 0., 0., 0., 0., 0., 1., 1., 1., 1., 1., 1., 1., 1., 1., 1., 1.,
           1., 1., 1., 1., 1., 1., 1., 0., 0.], dtype=float32)
    """
    tissue = (flat > low) & (flat < high)
    if tissue.all() or not tissue.any():
        return flat.copy()
    depth = ndimage.distance_transform_edt(tissue, sampling=voxel_mm)
    labels, n_parts = ndimage.label(depth > opening_mm)
    if n_parts == 0:
        return flat.copy()
    deepest = ndimage.maximum(depth, labels, np.arange(n_parts + 1))
    keep = np.asarray(deepest) >= depth_mm
    keep[0] = False
    # A millimetre more than was eroded: the border's partial volume belongs to the brain.
    opened = dilate_mm(keep[labels], opening_mm + float(np.min(voxel_mm)), voxel_mm)
    filled = ndimage.binary_fill_holes(close_mm(opened, 2 * opening_mm, voxel_mm))
    return np.where(filled & (flat < high), flat, np.float32(0)).astype(np.float32)


def brain_from_prior(
    flat: Image,
    prior: Mask,
    voxel_mm: NDArray[np.floating],
    *,
    white_level: float,
    low: float,
    high: float,
    reach_mm: float,
    core_mm: float,
    opening_mm: float,
    closing_mm: float,
) -> Mask:
    """Brain mask from intensity and shape near an expected mask.

    Parameters
    ----------
    flat : (n, m, k) array
        Intensities over their local mean in the brain (`flatten`).
    prior : (n, m, k) array of bool
        Template's brain mask brought here.
    voxel_mm : (3,) array
        Voxel size in mm.
    white_level : float
        Intensity of white matter in `flat`.
    low, high : float
        Range of brain tissue, in multiples of `white_level`.
    reach_mm : float
        How far the brain may go beyond the prior, in mm.
    core_mm : float
        What lies deeper in the prior belongs to the brain whatever its intensity, in mm.
    opening_mm : float
        Radius that cuts meninges, vessels and nerves off, in mm.
    closing_mm : float
        Radius that fills sulci, in mm.

    Returns
    -------
    (n, m, k) array of bool
        One part without holes.

    Raises
    ------
    NumericsError
        If the prior is empty.

    Examples
    --------
    >>> distance = np.sqrt(((np.indices((30, 30, 30)) - 15) ** 2).sum(axis=0))
    >>> flat = (distance < 11).astype(np.float32)
    >>> brain = brain_from_prior(flat, distance < 9, np.ones(3), white_level=1.0, low=0.5,
    ...     high=1.5, reach_mm=4.0, core_mm=3.0, opening_mm=1.0, closing_mm=2.0)
    >>> dice(brain, flat > 0) > 0.95
    True
    """
    if not prior.any():
        raise NumericsError("prior is empty; the template's mask does not reach the image")
    margin = np.ceil((reach_mm + closing_mm + 2) / np.asarray(voxel_mm)).astype(np.int64)
    box = _bounds(prior, margin)
    near = dilate_mm(prior[box], reach_mm, voxel_mm)
    core = erode_mm(prior[box], core_mm, voxel_mm)
    level = flat[box] / white_level
    tissue = near & (level > low) & (level < high) | core
    seed = largest_component(erode_mm(tissue, opening_mm, voxel_mm))
    opened = dilate_mm(seed, opening_mm + 1e-3, voxel_mm) & tissue
    closed = close_mm(opened | core, closing_mm, voxel_mm) & near
    brain = np.zeros_like(prior)
    brain[box] = ndimage.binary_fill_holes(largest_component(closed))
    return brain


def share_out(weights: NDArray[np.floating], mask: Mask) -> Image:
    """Weights of classes scaled to add up to one within a mask.

    Parameters
    ----------
    weights : (n, m, k, n_classes) array
        Not negative; NaN counts as 0.
    mask : (n, m, k) array of bool
        Where the classes share out.

    Returns
    -------
    (n, m, k, n_classes) array of float32
        Shares; equal ones where all weights are 0; 0 outside the mask.

    Raises
    ------
    NumericsError
        If the grids differ.

    Examples
    --------
    >>> share_out(np.array([[[[1.0, 3.0]]]]), np.ones((1, 1, 1), bool)).ravel()
    array([0.25, 0.75], dtype=float32)
    """
    if weights.shape[:-1] != mask.shape:
        raise NumericsError(
            f"weights have the grid {weights.shape[:-1]} but mask has {mask.shape}; "
            "bring both to one grid"
        )
    shares = np.maximum(np.nan_to_num(weights.astype(np.float32)), 0)
    total = shares.sum(axis=-1, keepdims=True)
    shares = np.where(total > 0, shares / np.where(total > 0, total, 1), 1 / shares.shape[-1])
    return (shares * mask[..., None]).astype(np.float32)


def _correlation_over_shifts(image: Image, pattern: Image, weight: Image) -> NDArray[np.float64]:
    """Weighted correlation of pattern and image for every shift of the pattern.

    The result at index d pairs pattern[i] with image[i + d - (pattern.shape - 1)].
    """
    size = [
        fft.next_fast_len(i + p - 1, real=True)
        for i, p in zip(image.shape, pattern.shape, strict=True)
    ]
    full = tuple(slice(0, i + p - 1) for i, p in zip(image.shape, pattern.shape, strict=True))
    total = float(weight.sum())
    centred = (pattern - float((weight * pattern).sum()) / total) * weight
    image = image.astype(np.float64)
    f_weight = fft.rfftn(weight[::-1, ::-1, ::-1].astype(np.float64), size)
    f_image = fft.rfftn(image, size)
    mean = fft.irfftn(f_image * f_weight, size) / total
    square = fft.irfftn(fft.rfftn(image**2, size) * f_weight, size) / total
    f_pattern = fft.rfftn(centred[::-1, ::-1, ::-1].astype(np.float64), size)
    cross = fft.irfftn(f_image * f_pattern, size) / total
    pattern_variance = float((centred * pattern).sum()) / total
    variance = square - mean**2
    flat = variance < _FLAT_VARIANCE_SHARE * float(image.var())
    bottom = np.sqrt(np.where(flat, 1.0, variance) * pattern_variance)
    return np.asarray(np.where(flat, -1.0, cross / bottom)[full], dtype=np.float64)


def _within_reach(
    correlation: NDArray[np.float64],
    pattern_shape: tuple[int, ...],
    image_affine: Matrix,
    centre_mm: NDArray[np.floating],
    reach_mm: float,
) -> NDArray[np.float64]:
    """Correlation over shifts with -1 where the pattern's centre lies out of reach."""
    squared = np.zeros(correlation.shape)
    for axis, n_pattern in enumerate(pattern_shape):
        index = np.arange(correlation.shape[axis]) - (n_pattern - 1) / 2
        offset = index * image_affine[axis, axis] + image_affine[axis, 3] - centre_mm[axis]
        squared += np.expand_dims(offset**2, tuple(a for a in range(3) if a != axis))
    return np.where(squared <= reach_mm**2, correlation, -1.0)


def search_pose(
    image: Image,
    template: Image,
    weight: Image,
    *,
    image_affine: Matrix,
    template_affine: Matrix,
    pitches_deg: tuple[float, ...],
    scales: tuple[float, ...],
    centre_mm: NDArray[np.floating],
    reach_mm: float,
) -> tuple[Pose, ...]:
    r"""Best shift of a template for each nod and size, best first.

    Parameters
    ----------
    image : (n, m, k) array of float32
        Head on an isotropic grid along the world's axes (`resample_world`).
    template : (n2, m2, k2) array of float32
        Template on such a grid with the same spacing.
    weight : (n2, m2, k2) array of float32
        Where it is compared: the brain and a rim around it, so that skull counts as dark.
    image_affine, template_affine : (4, 4) array
        Voxel indices to world coordinates in mm.
    pitches_deg : tuple of float
        Rotations about the left-right axis that are tried, in degrees.
    scales : tuple of float
        Sizes of the brain relative to the template that are tried.
    centre_mm : (3,) array
        World coordinates about which the template's centre is looked for, in mm.
    reach_mm : float
        How far from there it may lie, in mm.

    Returns
    -------
    tuple of Pose
        One for each pair of pitch and scale, sorted by falling correlation.

    Raises
    ------
    NumericsError
        If the spacings differ.

    Notes
    -----
    Normalised correlation under a mask for all shifts at once by Fourier transforms (Padfield
    2012, doi:10.1109/TIP.2011.2181402, with the image's mask all ones). The search over shifts
    is exhaustive within the reach, which keeps it out of the neck.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> image = rng.random((12, 12, 12)).astype(np.float32)
    >>> poses = search_pose(image, image[3:9, 2:8, 4:10], np.ones((6, 6, 6), np.float32),
    ...     image_affine=np.eye(4), template_affine=np.eye(4), pitches_deg=(0.0,), scales=(1.0,),
    ...     centre_mm=np.array([6.0, 6.0, 6.0]), reach_mm=4.0)
    >>> poses[0].template_to_image[:3, 3].round(3)
    array([3., 2., 4.])
    """
    spacing_mm = float(image_affine[0, 0])
    if not np.allclose(template_affine[:3, :3], image_affine[:3, :3]):
        raise NumericsError("image and template have different spacings; resample one of them")
    poses = []
    centre = template_affine @ [*((np.array(template.shape) - 1) / 2), 1.0]
    # A turned and enlarged template needs room: the diagonal of its grid. Odd grids stay odd, so
    # that an unturned template falls on whole voxels.
    size = np.array(template.shape)
    room = max(1.0, *scales) * np.array([size[0], *[np.hypot(size[1], size[2])] * 2])
    shape = tuple(int(n) for n in size + 2 * np.ceil((room - size) / 2).astype(int))
    grid = np.diag([spacing_mm] * 3 + [1.0])
    grid[:3, 3] = -(np.array(shape) - 1) / 2 * spacing_mm
    recentre = np.eye(4)
    recentre[:3, 3] = -centre[:3]
    for pitch_deg in pitches_deg:
        for scale in scales:
            turn = rotation_about_x(pitch_deg) @ np.diag([scale] * 3 + [1.0]) @ recentre
            back = np.linalg.inv(turn)
            turned = sample_through(template, template_affine, back, shape, grid)
            seen = sample_through(weight, template_affine, back, shape, grid)
            correlation = _correlation_over_shifts(image, turned, seen)
            correlation = _within_reach(correlation, shape, image_affine, centre_mm, reach_mm)
            best = np.unravel_index(int(np.argmax(correlation)), correlation.shape)
            shift = np.eye(4)
            first = np.array(best) - (np.array(shape) - 1)
            shift[:3, 3] = (image_affine @ [*first, 1.0])[:3] - grid[:3, 3]
            poses.append(Pose(shift @ turn, float(correlation[best])))
    return tuple(sorted(poses, key=lambda pose: -pose.correlation))
