"""Size of muscles: cross-section, volume, and the difference between both sides."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.checks import as_float

_Array = NDArray[np.float64]


@dataclass(frozen=True)
class MuscleSizes:
    """Size of each muscle of a label image; one row per muscle.

    Attributes
    ----------
    labels : (R,) array of int
        Label of each muscle.
    volume_ml : (R,) array
        Of the part in view.
    section_mm2 : (R, K) array
        Cross-section in each slice, perpendicular to the slices' axis.
    largest_mm2 : (R,) array
        Largest of them; NaN where the muscle is absent.
    largest_slice : (R,) array of int
        Its slice, from 0; -1 where the muscle is absent.
    is_cut : (R,) array of bool
        Whether it goes on beyond the first or last slice: its volume is that of a part.
    """

    labels: NDArray[np.int64]
    volume_ml: _Array
    section_mm2: _Array
    largest_mm2: _Array
    largest_slice: NDArray[np.int64]
    is_cut: NDArray[np.bool_]


def measure_sizes(
    label_image: NDArray[np.integer], wanted: ArrayLike, voxel_mm: ArrayLike, *, slice_axis: int
) -> MuscleSizes:
    """Cross-sections and volumes of muscles.

    Parameters
    ----------
    label_image : (X, Y, Z) array of int
        Muscle of each voxel.
    wanted : (R,) array_like of int
        Labels of the muscles.
    voxel_mm : (3,) array_like
        Edges of a voxel along each axis, slice gaps included, in mm.
    slice_axis : int
        Axis across the slices, 0 to 2.

    Returns
    -------
    MuscleSizes
        In the order of `wanted`.

    Raises
    ------
    NumericsError
        If the label image has no three axes or the axis is none of them.

    Examples
    --------
    >>> labels = np.zeros((4, 4, 3), int)
    >>> labels[1:3, 1:3, 1] = 7
    >>> sizes = measure_sizes(labels, [7], [2, 2, 10], slice_axis=2)
    >>> sizes.largest_mm2, sizes.volume_ml, sizes.is_cut
    (array([16.]), array([0.16]), array([False]))
    """
    if label_image.ndim != 3 or slice_axis not in (0, 1, 2):
        raise NumericsError(
            f"label_image has shape {label_image.shape} and slice_axis is {slice_axis}; give three "
            "axes and one of 0, 1, 2"
        )
    edges_mm = as_float("voxel_mm", voxel_mm, ndim=1)
    pixel_mm2 = float(np.prod(np.delete(edges_mm, slice_axis)))
    stack = np.moveaxis(label_image, slice_axis, 0).reshape(label_image.shape[slice_axis], -1)
    numbers = np.asarray(wanted, dtype=np.int64)
    counts = np.array([np.count_nonzero(stack == number, axis=1) for number in numbers])
    counts = counts.reshape(len(numbers), len(stack))
    sections = counts * pixel_mm2
    present = counts.sum(axis=1) > 0
    return MuscleSizes(
        numbers,
        sections.sum(axis=1) * float(edges_mm[slice_axis]) / 1000.0,
        sections,
        np.where(present, sections.max(axis=1, initial=0.0), np.nan),
        np.where(present, counts.argmax(axis=1), -1),
        (counts[:, 0] > 0) | (counts[:, -1] > 0),
    )


def asymmetry_percent(right: ArrayLike, left: ArrayLike) -> _Array:
    r"""Difference between both sides over their mean.

    Parameters
    ----------
    right, left : (...) array_like
        The same measure of both sides, positive.

    Returns
    -------
    (...) array
        In %, from -200 to 200; positive where the right is larger, NaN where both are 0 or one is
        missing.

    Notes
    -----
    :math:`200\,(r - l) / (r + l)`.

    Examples
    --------
    >>> asymmetry_percent([110.0], [90.0])
    array([20.])
    """
    first, second = as_float("right", right), as_float("left", left)
    total = first + second
    share = np.full(total.shape, np.nan)
    np.divide(200.0 * (first - second), total, out=share, where=total > 0.0)
    return share
