"""Borders of the cortex as signed distances, and what follows from them in a slab."""

from __future__ import annotations

from dataclasses import dataclass

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
from bids_alsmri.numerics.fields import smooth_within
from bids_alsmri.numerics.receive import extended

_Array = NDArray[np.float64]
_Mask = NDArray[np.bool_]


def signed_distance(inside: _Mask, voxel_mm: ArrayLike, *, smoothing_mm: float) -> _Array:
    """Distance from the border of a mask, positive outside it.

    Parameters
    ----------
    inside : (X, Y, Z) array of bool
        Mask, neither empty nor full.
    voxel_mm : (3,) array_like
        Edges of a voxel, in mm.
    smoothing_mm : float
        Standard deviation of the Gaussian that evens out the steps of voxels, in mm, not negative.

    Returns
    -------
    (X, Y, Z) array
        In mm; 0 lies between voxels of the mask and others.

    Raises
    ------
    NumericsError
        If the mask is empty or full, or a size is out of range.

    Examples
    --------
    >>> inside = np.arange(6)[:, None, None] * np.ones((6, 3, 3)) < 3
    >>> signed_distance(inside, [0.5, 0.5, 0.5], smoothing_mm=0.0)[:, 1, 1]
    array([-1.25, -0.75, -0.25,  0.25,  0.75,  1.25])
    """
    edges = as_float("voxel_mm", voxel_mm, ndim=1)
    require_range("smoothing_mm", smoothing_mm, 0.0, 20.0, unit="mm")
    if inside.ndim != 3 or edges.shape != (3,) or not np.all(edges > 0.0):
        raise NumericsError(
            f"inside has shape {inside.shape} and voxel_mm is {edges.tolist()}; give (X, Y, Z) and "
            "three edges above 0, in mm"
        )
    if not inside.any() or inside.all():
        raise NumericsError(
            f"inside holds {np.count_nonzero(inside)} of {inside.size} voxels, so that there is no "
            "border; see whether the slab shows the brain"
        )
    outwards = ndimage.distance_transform_edt(~inside, sampling=edges)
    inwards = ndimage.distance_transform_edt(inside, sampling=edges)
    # distances are counted to the middle of the nearest voxel beyond the border
    half = 0.5 * float(edges.min())
    distance = np.where(inside, half - inwards, outwards - half)
    return np.asarray(ndimage.gaussian_filter(distance, smoothing_mm / edges, mode="nearest"))


def bias_from_white_matter(
    image: ArrayLike, white_distance_mm: ArrayLike, voxel_mm: ArrayLike, *, inset_mm: float,
    fwhm_mm: float,
) -> _Array:  # fmt: skip
    r"""Smooth field of transmission and reception, as white matter alone shows it.

    Parameters
    ----------
    image : (X, Y, Z) array_like
        Signal, finite.
    white_distance_mm : (X, Y, Z) array_like
        Signed distance from white matter, positive outside it, in mm.
    voxel_mm : (3,) array_like
        Edges of a voxel, in mm.
    inset_mm : float
        White matter nearer to the cortex does not count, in mm, not negative.
    fwhm_mm : float
        Width of the Gaussian that it is smoothed by, in mm, positive.

    Returns
    -------
    (X, Y, Z) array
        Dimensionless, positive, with a geometric mean of 1 over the white matter that counts. An
        image divided by it has its cortical contrast: cortex has no part in the field.

    Raises
    ------
    NumericsError
        If shapes differ or no white matter has signal.

    Notes
    -----
    The mean of :math:`\ln S` over white matter within the Gaussian (normalised convolution),
    carried on outside. Logarithms keep the ratio of two tissues whatever the field.

    Examples
    --------
    >>> x = np.linspace(1.0, 2.0, 40)[:, None, None] * np.ones((40, 20, 4))
    >>> deep = np.full(x.shape, -5.0)
    >>> bias = bias_from_white_matter(30 * x, deep, [1, 1, 2], inset_mm=1.0, fwhm_mm=6.0)
    >>> even = (30 * x / bias)[5:-5]
    >>> bool(even.std() / even.mean() < 0.01)
    True
    """
    values = as_float("image", image, ndim=3)
    distance = as_float("white_distance_mm", white_distance_mm, ndim=3)
    require_same_shape(image=values, white_distance_mm=distance)
    require_finite("image", values)
    require_range("inset_mm", inset_mm, 0.0, 20.0, unit="mm")
    require_range("fwhm_mm", fwhm_mm, 0.0, 1000.0, unit="mm", open_low=True)
    is_white = (distance <= -inset_mm) & (values > 0.0)
    if np.count_nonzero(is_white) < 100:
        raise NumericsError(
            f"white matter holds {np.count_nonzero(is_white)} voxels with signal; the field takes "
            "at least 100: see whether slab and T1w are aligned"
        )
    logarithm = np.log(np.where(is_white, values, 1.0))
    field = smooth_within(logarithm, is_white, voxel_mm, fwhm_mm=fwhm_mm)
    field = np.where(is_white, field - float(logarithm[is_white].mean()), 0.0)
    return np.asarray(np.exp(extended(field, is_white, voxel_mm, fwhm_mm)), dtype=np.float64)


@dataclass(frozen=True)
class LayerMeans:
    """Means of a map over the layers of a mean profile.

    Attributes
    ----------
    superficial, deep, white : float
        In the unit of the map; NaN where a layer is not told or too thin.
    """

    superficial: float
    deep: float
    white: float


def layer_means(
    profiles: ArrayLike,
    depth_mm: ArrayLike,
    *,
    deep_from_mm: float,
    white_from_mm: float,
    inset_mm: float,
) -> LayerMeans:
    """Means of a map's profiles over superficial layer, deep layer and white matter.

    Parameters
    ----------
    profiles : (P, T) array_like
        Map along P profiles.
    depth_mm : (T,) array_like
        Depth of each sample, in mm.
    deep_from_mm, white_from_mm : float
        Where the deep layer and white matter begin, in mm; NaN where that is not told.
    inset_mm : float
        What is left out on both sides of a border, in mm, not negative.

    Returns
    -------
    LayerMeans
        Means over profiles and samples.

    Raises
    ------
    NumericsError
        If shapes do not fit.

    Examples
    --------
    >>> depth = np.arange(0.0, 5.0, 0.5)
    >>> r2s = np.where(depth < 1.5, 28.0, np.where(depth < 3.5, 35.0, 30.0))[None]
    >>> layer_means(r2s, depth, deep_from_mm=1.5, white_from_mm=3.5, inset_mm=0.2)
    LayerMeans(superficial=28.0, deep=35.0, white=30.0)
    """
    values = as_float("profiles", profiles, ndim=2)
    depth = as_float("depth_mm", depth_mm, ndim=1)
    if values.shape[1] != depth.size:
        raise NumericsError(
            f"profiles have {values.shape[1]} samples but depth_mm {depth.size}; give one depth "
            "for each sample"
        )
    require_range("inset_mm", inset_mm, 0.0, 5.0, unit="mm")
    means = []
    for low, high in (
        (-np.inf, deep_from_mm),
        (deep_from_mm, white_from_mm),
        (white_from_mm, np.inf),
    ):
        # a comparison with NaN is never true: a border that is not told ends no layer
        within = (depth > low + inset_mm) & (depth < high - inset_mm)
        part = values[:, within]
        part = part[np.isfinite(part)]
        means.append(float(part.mean()) if part.size else float("nan"))
    return LayerMeans(*means)
