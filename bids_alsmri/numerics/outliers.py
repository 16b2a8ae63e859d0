"""Slices of a diffusion series that lost their signal: finding and replacing them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.checks import as_float, require_finite

Float = NDArray[np.float64]

# Slice times are rounded to 2.5 ms by some scanners; two shots never follow each other faster
# than an echo train lasts, about 30 ms.
SLICE_TIME_TOLERANCE_S = 0.010
SD_PER_MAD = 1.482602218505602  # of a normal distribution


@dataclass(frozen=True)
class SliceOutlier:
    """One slice whose signal the prediction does not explain.

    Parameters
    ----------
    volume, slice_index : int
        From 0.
    group : int
        Multiband group of the slice.
    z : float
        Robust z of the group, negative where signal is lost.
    relative_signal : float
        Signal of the group over its prediction.
    volume_share : float
        Brain voxels of this slice over those of the whole volume, 0 to 1.
    """

    volume: int
    slice_index: int
    group: int
    z: float
    relative_signal: float
    volume_share: float


def multiband_groups(
    n_slices: int,
    *,
    slice_times_s: ArrayLike | None,
    multiband_factor: int | None,
) -> NDArray[np.intp]:
    """Which slices were excited together.

    Parameters
    ----------
    n_slices : int
        Slices of one volume.
    slice_times_s : (n_slices,) array_like, optional
        Start of each slice, in s, as BIDS `SliceTiming` gives them; has precedence.
    multiband_factor : int, optional
        Slices excited at once, as BIDS `MultibandAccelerationFactor` gives it. They lie
        n_slices / multiband_factor apart.

    Returns
    -------
    groups : (n_slices,) array of int
        Index of the group of each slice; every slice its own group where neither is known.

    Raises
    ------
    NumericsError
        If the number of times, or the factor, does not fit the number of slices.

    Examples
    --------
    >>> multiband_groups(4, slice_times_s=[0, 1.2, 0, 1.2], multiband_factor=None)
    array([0, 1, 0, 1])
    >>> multiband_groups(4, slice_times_s=None, multiband_factor=2)
    array([0, 1, 0, 1])
    """
    if slice_times_s is not None:
        times = as_float("slice_times_s", slice_times_s, ndim=1)
        require_finite("slice_times_s", times)
        if times.size != n_slices:
            raise NumericsError(
                f"slice_times_s has {times.size} values but the volume has {n_slices} slices; "
                "give one time per slice along the slice axis"
            )
        if np.ptp(times) == 0.0 and n_slices > 1:
            # all slices at once: a 3D readout has no slices to lose one by one
            return np.zeros(n_slices, dtype=np.intp)
        order = np.argsort(times, kind="stable")
        groups = np.empty(n_slices, dtype=np.intp)
        groups[order] = np.r_[0, np.cumsum(np.diff(times[order]) > SLICE_TIME_TOLERANCE_S)]
        return groups
    factor = 1 if multiband_factor is None else int(multiband_factor)
    if factor < 1 or n_slices % factor:
        raise NumericsError(
            f"multiband_factor is {factor} but the volume has {n_slices} slices, which it must "
            "divide; correct MultibandAccelerationFactor or give SliceTiming"
        )
    return np.arange(n_slices, dtype=np.intp) % (n_slices // factor)


def outlier_z(
    observed: Float, predicted: Float, n_voxels: Float, *, min_voxels: int
) -> tuple[Float, Float]:
    r"""How far each group's signal lies from its prediction, in robust standard deviations.

    Parameters
    ----------
    observed, predicted : (n_volumes, n_groups) array
        Sums over the brain voxels of each group, for the volumes of one shell.
    n_voxels : (n_volumes, n_groups) array
        Brain voxels of each group.
    min_voxels : int
        Groups with fewer are not judged.

    Returns
    -------
    z : (n_volumes, n_groups) array
        Negative where signal is lost; 0 where a group is not judged.
    relative_signal : (n_volumes, n_groups) array
        Signal over prediction, after the volume's own gain; 1 where a group is not judged.

    Notes
    -----
    The ratio of sums is divided by its median over the groups of a volume (receiver gain,
    eddy-current dilution) and less its median over volumes (a slice the model never fits, such
    as one through the eyes). The scale is the median absolute deviation over volumes, but never
    below its median over groups: over few volumes the former alone is at times far too small.
    Slice-wise comparison with a Gaussian-process prediction follows Andersson et al. (2016),
    doi:10.1016/j.neuroimage.2016.06.058.

    Examples
    --------
    >>> observed = np.array([[10, 9.9], [10.1, 10], [5, 10.2], [9.8, 10]])
    >>> z, share = outlier_z(observed, np.full((4, 2), 10.0), np.full((4, 2), 99.0), min_voxels=9)
    >>> int(z.argmin()), bool(z.min() < -4)
    (4, True)
    """
    judged = (n_voxels >= min_voxels) & (predicted > 0)
    ratio = np.full(observed.shape, np.nan)
    np.divide(observed, predicted, out=ratio, where=judged)
    some = judged.any(axis=1)
    gain = np.ones(len(ratio))
    gain[some] = np.nanmedian(ratio[some], axis=1)
    ratio /= np.where(gain > 0, gain, 1.0)[:, None]
    seen = judged.any(axis=0)
    centre, scale = np.ones(seen.size), np.zeros(seen.size)
    if seen.any():
        centre[seen] = np.nanmedian(ratio[:, seen], axis=0)
        scale[seen] = SD_PER_MAD * np.nanmedian(np.abs(ratio[:, seen] - centre[seen]), axis=0)
        scale[seen] = np.maximum(scale[seen], np.median(scale[seen]))
    # identical volumes have no spread: rounding is no outlier
    scale = np.maximum(scale, 1e-6)
    z = np.where(judged, (ratio - centre) / scale, 0.0)
    return z, np.where(judged, ratio, 1.0)


def list_outliers(
    z: Float,
    relative_signal: Float,
    slice_voxels: Float,
    groups: NDArray[np.intp],
    *,
    threshold_sd: float,
    min_change: float,
    both_signs: bool,
) -> list[SliceOutlier]:
    """Slices whose group lies beyond the threshold.

    Parameters
    ----------
    z, relative_signal : (n_volumes, n_groups) array
        From `outlier_z`.
    slice_voxels : (n_volumes, n_slices) array
        Brain voxels of each slice.
    groups : (n_slices,) array of int
        From `multiband_groups`.
    threshold_sd : float
        Smallest distance that counts, in robust standard deviations.
    min_change : float
        Smallest change that counts, as a share of the prediction: a prediction from few directions
        is itself wrong by a few per cent, so replacing smaller losses would gain nothing.
    both_signs : bool
        Whether signal above prediction counts too.

    Returns
    -------
    list of SliceOutlier
        By volume, then slice.

    Examples
    --------
    >>> z = np.array([[0.0, -5.0]])
    >>> found = list_outliers(z, 1 + z / 10, np.array([[3.0, 1.0]]), np.array([0, 1]),
    ...                       threshold_sd=4, min_change=0.1, both_signs=False)
    >>> found[0].slice_index, found[0].volume_share
    (1, 0.25)
    """
    beyond = (np.abs(z) >= threshold_sd) & (np.abs(relative_signal - 1) >= min_change)
    if not both_signs:
        beyond &= z < 0
    totals = np.maximum(slice_voxels.sum(axis=1), 1.0)
    return [
        SliceOutlier(
            volume=int(volume),
            slice_index=int(index),
            group=int(groups[index]),
            z=float(z[volume, groups[index]]),
            relative_signal=float(relative_signal[volume, groups[index]]),
            volume_share=float(slice_voxels[volume, index] / totals[volume]),
        )
        for volume, index in zip(*np.nonzero(beyond[:, groups]), strict=True)
    ]


def replace_slices(
    volume: Float, prediction: Float, slices: Sequence[int], *, slice_axis: int
) -> Float:
    """Volume with some slices taken from its prediction.

    Parameters
    ----------
    volume, prediction : (X, Y, Z) array
        Both in the volume's own space and of its gain, so no voxel is interpolated twice.
    slices : sequence of int
        Slices to replace.
    slice_axis : int
        Image axis of the slices, 0 to 2.

    Returns
    -------
    (X, Y, Z) array
        A copy.

    Examples
    --------
    >>> replace_slices(np.zeros((1, 1, 3)), np.ones((1, 1, 3)), [1], slice_axis=2).ravel()
    array([0., 1., 0.])
    """
    repaired = volume.copy()
    lost = np.asarray(slices, dtype=np.intp)
    np.moveaxis(repaired, slice_axis, 0)[lost] = np.moveaxis(prediction, slice_axis, 0)[lost]
    return repaired
