"""Lines and ovals that a reader drew on slices: lengths and the voxels that they hold."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.checks import as_float, require_range

_Array = NDArray[np.float64]
_Mask = NDArray[np.bool_]

_TOUCHING = np.ones((3, 3))
# diagonals of a voxel beside the line between the ends, which a line two voxels wide reaches
MOST_BESIDE = 1.5


def line_lengths(mask: _Mask, voxel_mm: ArrayLike) -> list[float]:
    """Lengths of the lines that voxels of a mask make, each line on one slice.

    Parameters
    ----------
    mask : (X, Y, Z) array of bool
        Voxels of lines; slices along the third axis. Voxels that touch on a slice, at corners too,
        are one line.
    voxel_mm : (3,) array_like
        Edges of a voxel, in mm.

    Returns
    -------
    list of float
        From centre to centre of the two voxels of each line that lie farthest apart, in mm.

    Raises
    ------
    NumericsError
        If voxels are no line: a single one, or one that lies beside the straight line between the
        ends by more than `MOST_BESIDE` diagonals of a voxel.

    Examples
    --------
    >>> mask = np.zeros((9, 9, 2), dtype=bool)
    >>> mask[range(1, 8), range(1, 8), 0] = True  # a diagonal
    >>> mask[2:7, 4, 1] = True
    >>> [round(length, 3) for length in line_lengths(mask, [0.25, 0.25, 2.0])]
    [2.121, 1.0]
    """
    edges = as_float("voxel_mm", voxel_mm, ndim=1)[:2]
    lengths = []
    for index in range(mask.shape[2]):
        lines, n_lines = ndimage.label(mask[..., index], structure=_TOUCHING)
        for number in range(1, n_lines + 1):
            lengths.append(_length_of(np.argwhere(lines == number) * edges, edges, index))
    return lengths


def _length_of(places_mm: _Array, edges: _Array, index: int) -> float:
    if len(places_mm) < 2:
        raise NumericsError(
            f"a line on slice {index} has one voxel; a length takes two or more, from end to end"
        )
    away_mm = np.linalg.norm(places_mm[:, None] - places_mm[None], axis=-1)
    first, last = np.unravel_index(int(np.argmax(away_mm)), away_mm.shape)
    length = float(away_mm[first, last])
    along = (places_mm[last] - places_mm[first]) / length
    offset = places_mm - places_mm[first]
    beside_mm = np.abs(offset[:, 0] * along[1] - offset[:, 1] * along[0])
    allowed_mm = MOST_BESIDE * float(np.linalg.norm(edges))
    if beside_mm.max() > allowed_mm + 1e-9:
        raise NumericsError(
            f"voxels on slice {index} lie up to {beside_mm.max():.2f} mm beside the straight line "
            f"of {length:.2f} mm between their ends, {allowed_mm:.2f} mm are allowed; a caliper "
            "line is straight and one or two voxels wide"
        )
    return length


def oval_mask(
    shape: tuple[int, ...],
    voxel_mm: ArrayLike,
    *,
    centre: ArrayLike,
    long_half_mm: ArrayLike,
    area_mm2: float,
) -> _Mask:
    r"""Voxels of an oval of given area on one slice.

    Parameters
    ----------
    shape : (3,) tuple of int
        Voxels of the image; slices along the third axis.
    voxel_mm : (3,) array_like
        Edges of a voxel, in mm.
    centre : (3,) array_like
        Middle, in voxels; the oval lies on the nearest slice.
    long_half_mm : (2,) array_like
        From the middle to the end of one axis, along the axes of the slice, in mm; zeros for a
        circle.
    area_mm2 : float
        Area, in mm2, positive.

    Returns
    -------
    (X, Y, Z) array of bool
        Voxels whose middle lies in the oval.

    Raises
    ------
    NumericsError
        If the oval reaches beyond the image or holds no voxel.

    Notes
    -----
    An ellipse of half axes :math:`a` and :math:`A / (\pi a)`.

    Examples
    --------
    >>> mask = oval_mask(
    ...     (40, 40, 3), [0.25, 0.25, 2.0], centre=[20, 20, 1], long_half_mm=[1.6, 0], area_mm2=4.0
    ... )
    >>> float(mask.sum() * 0.25**2), mask.any(axis=(0, 1)).tolist()
    (4.1875, [False, True, False])
    """
    edges = as_float("voxel_mm", voxel_mm, ndim=1)
    middle = as_float("centre", centre, ndim=1)
    half = as_float("long_half_mm", long_half_mm, ndim=1)
    require_range("area_mm2", area_mm2, 0.0, 1e4, unit="mm2", open_low=True)
    first = float(np.linalg.norm(half))
    along = half / first if first > 0.0 else np.array([1.0, 0.0])
    first = first or float(np.sqrt(area_mm2 / np.pi))
    second = area_mm2 / (np.pi * first)
    # how far the ellipse reaches along each axis of the slice
    reach = np.hypot(first * along, second * along[::-1]) / edges[:2]
    slice_index = round(float(middle[2]))
    ends = np.array([middle[:2] - reach, middle[:2] + reach])
    is_within = bool(np.all(ends >= -0.5) and np.all(ends <= np.array(shape[:2]) - 0.5))
    if not is_within or not 0 <= slice_index < shape[2]:
        raise NumericsError(
            f"an oval of {area_mm2:g} mm2 around voxel {middle.round(1).tolist()} reaches beyond "
            f"the image of {tuple(shape)} voxels"
        )
    x_mm = (np.arange(shape[0]) - middle[0])[:, None] * edges[0]
    y_mm = (np.arange(shape[1]) - middle[1])[None] * edges[1]
    forth = x_mm * along[0] + y_mm * along[1]
    aside = x_mm * along[1] - y_mm * along[0]
    mask = np.zeros(shape, dtype=np.bool_)
    mask[..., slice_index] = (forth / first) ** 2 + (aside / second) ** 2 <= 1.0 + 1e-9
    if not mask.any():
        raise NumericsError(
            f"an oval of {area_mm2:g} mm2 around voxel {middle.round(1).tolist()} holds the middle "
            "of no voxel; it is narrower than a voxel: leave the second point out for a circle"
        )
    return mask
