"""Signal of muscle relative to that of bone in the same station, and what of a region is pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.checks import as_float, require_same_shape

_Array = NDArray[np.float64]
_FEWEST_VOXELS = 20
# order of the polynomial along the station that a receive field is told by
_TREND_ORDER = 2


@dataclass(frozen=True)
class BoneReference:
    """Signal of bone that a station's muscles are divided by.

    Parameters
    ----------
    mean, sd : float
        Over its voxels, in the unit of the image; NaN where there are none.
    n_voxels : int
        Its voxels.
    snr : float
        Mean over the noise.
    variation : float
        Range of the smooth trend along the station over the mean.
    refusal : str
        Why it cannot be used; empty where it can.
    """

    mean: float
    sd: float
    n_voxels: int
    snr: float
    variation: float
    refusal: str


def find_bone_reference(
    image: ArrayLike,
    bone_mask: ArrayLike,
    affine: ArrayLike,
    *,
    noise_sd: float,
    least_snr: float,
    most_variation: float,
) -> BoneReference:
    r"""Signal of the bone of a station, and whether it can serve as its reference.

    Parameters
    ----------
    image : (X, Y, Z) array_like
        T2-weighted station.
    bone_mask : (X, Y, Z) array_like of bool
        Bone, such as fatty marrow, in the station.
    affine : (4, 4) array_like
        Voxel to world, in mm.
    noise_sd : float
        Standard deviation of the noise of one channel, in the unit of the image, positive.
    least_snr : float
        Ratio of signal to noise below which it is refused.
    most_variation : float
        Variation along the station above which it is refused, as a share of the mean.

    Returns
    -------
    BoneReference
        With the reason where it is refused.

    Raises
    ------
    NumericsError
        If shapes differ or the noise is not positive.

    Notes
    -----
    The variation is the range, over the station, of a parabola that is fitted to the voxels by
    their height: noise of single voxels does not count, a receive field does.

    Examples
    --------
    >>> image = np.full((6, 6, 6), 100.0)
    >>> found = find_bone_reference(image, image > 0, np.eye(4), noise_sd=2.0, least_snr=10.0,
    ...     most_variation=0.2)
    >>> found.mean, found.snr, found.refusal
    (100.0, 50.0, '')
    """
    values = as_float("image", image, ndim=3)
    mask = np.asarray(bone_mask, dtype=bool)
    require_same_shape(image=values, bone_mask=mask)
    if not noise_sd > 0:
        raise NumericsError(f"noise_sd is {noise_sd}; give the noise of the station, above 0")
    n = int(mask.sum())
    if n < _FEWEST_VOXELS:
        nan = float("nan")
        why = f"the bone reference has {n} voxels, fewer than {_FEWEST_VOXELS}"
        return BoneReference(nan, nan, n, nan, nan, why)
    inside = values[mask]
    mean = float(inside.mean())
    heights = np.argwhere(mask) @ as_float("affine", affine, ndim=2)[2, :3]
    variation = _range_of_trend(heights, inside) / mean if mean > 0 else float("inf")
    snr = mean / noise_sd
    refusal = ""
    if snr < least_snr:
        refusal = f"the SNR of the bone reference is {snr:.1f}, below {least_snr:g}"
    elif variation > most_variation:
        refusal = (
            f"the bone reference varies by {100 * variation:.0f} % along the station, above "
            f"{100 * most_variation:g} %"
        )
    return BoneReference(mean, float(inside.std(ddof=1)), n, snr, variation, refusal)


def _range_of_trend(heights: _Array, values: _Array) -> float:
    low, high = float(heights.min()), float(heights.max())
    if high - low < 1e-6:
        return 0.0
    place = 2 * (heights - low) / (high - low) - 1
    order = min(_TREND_ORDER, len(np.unique(heights.round(3))) - 1)
    trend = np.polynomial.Polynomial.fit(place, values, order, domain=[-1, 1])
    return float(np.ptp(trend(np.linspace(-1, 1, 41))))


def erode_labels(labels: NDArray[np.integer]) -> NDArray[np.integer]:
    """Labels without the voxels at their surface, which hold other tissue too.

    Parameters
    ----------
    labels : (X, Y, Z) array of int
        Regions; 0 outside them.

    Returns
    -------
    (X, Y, Z) array of int
        0 where one of the six neighbours has another label. A region that fills a single slice
        along an axis keeps it along that axis.

    Raises
    ------
    NumericsError
        If the labels are no volume of whole numbers.

    Examples
    --------
    >>> block = np.zeros((5, 5, 5), int)
    >>> block[1:4, 1:4, 2] = 3
    >>> int((erode_labels(block) == 3).sum())
    1
    """
    if labels.ndim != 3 or not np.issubdtype(labels.dtype, np.integer):
        raise NumericsError(
            f"labels has {labels.ndim} axes of {labels.dtype}; give a volume of whole numbers"
        )
    kept = labels > 0
    thin = {axis: _single_slice(labels, axis) for axis in range(3)}
    for axis in range(3):
        for shift in (1, -1):
            beside = np.roll(labels, shift, axis=axis)
            edge: list[slice | int] = [slice(None)] * 3
            edge[axis] = 0 if shift == 1 else -1
            beside[tuple(edge)] = 0
            kept &= (beside == labels) | np.isin(labels, thin[axis])
    return np.where(kept, labels, 0)


def _single_slice(labels: NDArray[np.integer], axis: int) -> list[int]:
    """Labels that occur in one slice along an axis."""
    slices = np.moveaxis(labels, axis, 0)
    seen: dict[int, int] = {}
    for plane in slices:
        for label in np.unique(plane):
            seen[int(label)] = seen.get(int(label), 0) + 1
    return [label for label, n in seen.items() if n == 1 and label != 0]


def share_displaced_fat(
    labels: NDArray[np.integer],
    fat_mask: ArrayLike,
    *,
    axis: int,
    shift_voxels: float,
    wanted: Iterable[int],
) -> dict[int, float]:
    """Share of each muscle onto which fat is displaced by its chemical shift.

    Parameters
    ----------
    labels : (X, Y, Z) array of int
        Muscles on the grid of the diffusion series.
    fat_mask : (X, Y, Z) array_like of bool
        Fat where it lies in the body, on the same grid.
    axis : int
        Axis of phase encoding.
    shift_voxels : float
        Displacement along it, with its sign, in voxels.
    wanted : iterable of int
        Muscles.

    Returns
    -------
    dict of float
        Share of each muscle's voxels, 0 to 1; muscles that do not occur are left out.

    Raises
    ------
    NumericsError
        If shapes differ.

    Examples
    --------
    >>> labels = np.zeros((1, 6, 1), int)
    >>> labels[0, 2:4] = 5
    >>> fat = np.zeros((1, 6, 1), bool)
    >>> fat[0, 0] = True
    >>> share_displaced_fat(labels, fat, axis=1, shift_voxels=2.0, wanted=[5])
    {5: 0.5}
    """
    mask = np.asarray(fat_mask, dtype=bool)
    require_same_shape(labels=labels, fat_mask=mask)
    n = round(shift_voxels)
    moved = np.zeros_like(mask)
    size = mask.shape[axis]
    if abs(n) < size:
        source = [slice(None)] * 3
        target = [slice(None)] * 3
        source[axis] = slice(max(0, -n), size - max(0, n))
        target[axis] = slice(max(0, n), size - max(0, -n))
        moved[tuple(target)] = mask[tuple(source)]
    # fat that lies in the muscle itself is no artefact
    moved &= ~mask
    found = {}
    for label in wanted:
        inside = labels == label
        if inside.any():
            found[int(label)] = float(moved[inside].mean())
    return found
