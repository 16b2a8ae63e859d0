"""Signal that movement throws beside the object, along the lines of the phase encoding."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.checks import as_float, require_finite, require_range

FEWEST_VOXELS = 200  # of air, on the object's lines and beside them


def ghost_share(
    image: ArrayLike, voxel_mm: ArrayLike, *, axis: int, object_share: float, margin_mm: float
) -> float:
    r"""Strength of ghosts in the air, over the signal of the object.

    Parameters
    ----------
    image : (X, Y, Z) array_like
        Magnitude of one echo, finite; the third axis counts slices.
    voxel_mm : (3,) array_like
        Edges of a voxel, in mm, positive.
    axis : {0, 1}
        Axis of the phase encoding.
    object_share : float
        What is brighter than so much of the object's median is the object, 0 to 1.
    margin_mm : float
        Air nearer to the object in its slice does not count, in mm, not negative.

    Returns
    -------
    float
        0 for none; NaN where less than `FEWEST_VOXELS` of air are in view on lines of the phase
        encoding that cross the object, or on others.

    Raises
    ------
    NumericsError
        If a value is out of range.

    Notes
    -----
    Ghosts spread along the phase encoding and not across it, so that air on the lines that cross
    the object is compared with other air of the slice, as the American College of Radiology
    compares the air at opposite sides of its phantom (Phantom Test Guidance, percent signal
    ghosting). Magnitudes have :math:`E[m^2] = A^2 + 2 n \sigma^2` for signal A and n channels,
    whatever the noise, hence :math:`\sqrt{\overline{m_1^2} - \overline{m_0^2}} / \mathrm{median}`.

    Examples
    --------
    >>> image = np.zeros((40, 40, 2))
    >>> image[10:30, 10:30] = 100.0
    >>> ghosts = image + 0.04 * np.roll(image, 20, axis=1)
    >>> round(ghost_share(ghosts, [1, 1, 2], axis=1, object_share=0.2, margin_mm=0.0), 3)
    0.04
    """
    values = as_float("image", image, ndim=3)
    edges = as_float("voxel_mm", voxel_mm, ndim=1)
    require_finite("image", values)
    require_range("object_share", object_share, 0.0, 1.0, unit="1", open_low=True)
    require_range("margin_mm", margin_mm, 0.0, 100.0, unit="mm")
    if axis not in (0, 1) or edges.shape != (3,) or not np.all(edges > 0.0):
        raise NumericsError(
            f"axis is {axis} and voxel_mm is {edges.tolist()}; expected 0 or 1, and three edges "
            "above 0, in mm"
        )
    brighter = values[values > values.mean()]
    if len(brighter) == 0:
        return float("nan")
    level = float(np.median(brighter))
    smooth = ndimage.gaussian_filter(values, [1.0, 1.0, 0.0])
    bright = _largest(smooth > object_share * level)
    near, inner = np.zeros_like(bright), np.zeros_like(bright)
    for index in range(bright.shape[2]):
        filled = ndimage.binary_fill_holes(bright[..., index])
        away = ndimage.distance_transform_edt(~filled, sampling=edges[:2])
        near[..., index] = away <= margin_mm if filled.any() else False
        # the blur has spread the object by a voxel
        inner[..., index] = ndimage.binary_erosion(filled)
    crosses = inner.any(axis=axis, keepdims=True)
    on_lines = values[~near & crosses]
    beside = values[~near & ~near.any(axis=axis, keepdims=True)]
    if not inner.any() or min(len(on_lines), len(beside)) < FEWEST_VOXELS:
        return float("nan")
    power = float(np.mean(on_lines**2) - np.mean(beside**2))
    return float(np.sqrt(max(power, 0.0))) / float(np.median(values[near & bright]))


def _largest(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    parts, n_parts = ndimage.label(mask)
    if n_parts < 2:
        return mask
    return np.asarray(parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:])))
