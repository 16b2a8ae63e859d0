"""Receive bias of a coil: from two coils' images, from a map, or from the image itself."""

from __future__ import annotations

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

_Array = NDArray[np.float64]
_Mask = NDArray[np.bool_]

_MAD_TO_SD = 1.4826  # of a normal variable
_HUBER = 1.345  # residuals beyond so many standard deviations count less (Huber 1981)
_N_REWEIGHTINGS = 12


def bias_from_coils(
    array_image: ArrayLike,
    volume_image: ArrayLike,
    mask: _Mask,
    voxel_mm: ArrayLike,
    *,
    head_mask: _Mask,
    fwhm_mm: float,
) -> _Array:
    r"""Receive bias of an array coil from images of the same object by it and a volume coil.

    Parameters
    ----------
    array_image, volume_image : (X, Y, Z) array_like
        Signal of array and volume coil on one grid, noise floor taken off, finite, not negative.
    mask : (X, Y, Z) array of bool
        Where the volume coil's image has signal: head and tubes.
    voxel_mm : (3,) array_like
        Edges of a voxel, in mm.
    head_mask : (X, Y, Z) array of bool
        Over which the mean is made 1.
    fwhm_mm : float
        Width of the Gaussian that both are smoothed by, in mm, positive.

    Returns
    -------
    (X, Y, Z) array
        Dimensionless, positive, 1 on average over the head; a signal of the array divided by it is
        that of an even coil. Beyond the mask it goes on as it is at the mask's rim.

    Raises
    ------
    NumericsError
        If shapes differ, a mask is empty, or a coil shows no signal in the mask.

    Notes
    -----
    :math:`b = (G * m A) / (G * m V)` for images A, V in the mask m, then smoothed over the mask
    once more: smoothing before dividing keeps the noise of dark voxels out of the ratio (the
    recipe of github.com/jianxun-qu/UHF-23Na, whose constant against division by 0 is the mask
    here). Both coils must transmit alike, or the transmit field is in it too.

    Examples
    --------
    >>> x = np.linspace(0.5, 1.5, 12)[:, None, None] * np.ones((12, 12, 12))
    >>> everywhere = np.ones(x.shape, bool)
    >>> bias = bias_from_coils(40 * x, 20 + 0 * x, everywhere, [5, 5, 5], head_mask=everywhere,
    ...     fwhm_mm=5.0)
    >>> np.allclose(bias[3:9], x[3:9], rtol=0.02)
    True
    """
    first = as_float("array_image", array_image, ndim=3)
    second = as_float("volume_image", volume_image, ndim=3)
    require_same_shape(array_image=first, volume_image=second, mask=mask, head_mask=head_mask)
    require_range("fwhm_mm", fwhm_mm, 0.0, 1000.0, unit="mm", open_low=True)
    _require_filled(mask=mask, head_mask=head_mask)
    smooth = [smooth_within(image, mask, voxel_mm, fwhm_mm=fwhm_mm) for image in (first, second)]
    for name, values in zip(("array_image", "volume_image"), smooth, strict=True):
        n_dark = int(np.count_nonzero(~(values[mask] > 0.0)))
        if n_dark:
            raise NumericsError(
                f"{name} has no signal around {n_dark} voxels of mask; narrow the mask to where "
                "both coils see something"
            )
    ratio = np.divide(smooth[0], smooth[1], out=np.ones(first.shape), where=mask)
    return normalised_bias(
        extended(smooth_within(ratio, mask, voxel_mm, fwhm_mm=fwhm_mm), mask, voxel_mm, fwhm_mm),
        head_mask,
    )


def bias_from_image(
    image: ArrayLike, head_mask: _Mask, voxel_mm: ArrayLike, *, order: int
) -> _Array:
    r"""Smooth part of an image itself, where nothing else tells the receive bias.

    Parameters
    ----------
    image : (X, Y, Z) array_like
        Signal, noise floor taken off, finite.
    head_mask : (X, Y, Z) array of bool
        Where the image counts; voxels of 0 signal do not.
    voxel_mm : (3,) array_like
        Edges of a voxel, in mm.
    order : int
        Of the polynomial, 1 to 4.

    Returns
    -------
    (X, Y, Z) array
        Dimensionless, positive, 1 on average over the head. It takes true differences between
        front and back, or core and rim, for bias: a last resort. Beyond the head it goes on as
        it is at the rim, since a polynomial does not hold there.

    Raises
    ------
    NumericsError
        If shapes differ or too few voxels have signal.

    Notes
    -----
    The logarithm of the image is fitted by a polynomial of the coordinates, by least squares
    reweighted after Huber (1981), so that ventricles and eyes count less.

    Examples
    --------
    >>> x = np.exp(np.linspace(-0.5, 0.5, 12))[:, None, None] * np.ones((12, 12, 12))
    >>> everywhere = np.ones(x.shape, bool)
    >>> bias = bias_from_image(30 * x, everywhere, [5, 5, 5], order=1)
    >>> np.allclose(bias, x / x.mean())
    True
    """
    values = as_float("image", image, ndim=3)
    require_finite("image", values)
    require_same_shape(image=values, head_mask=head_mask)
    require_range("order", order, 1, 4)
    is_used = head_mask & (values > 0.0)
    powers = _powers(order)
    if np.count_nonzero(is_used) < 10 * len(powers):
        raise NumericsError(
            f"image has signal in {np.count_nonzero(is_used)} voxels of head_mask; a polynomial "
            f"of order {order} takes at least {10 * len(powers)}"
        )
    # coordinates of about -1 to 1 keep high powers apart
    coordinates = [np.linspace(-1.0, 1.0, n) if n > 1 else np.zeros(1) for n in values.shape]
    terms = [
        coordinates[0][:, None, None] ** i
        * coordinates[1][None, :, None] ** j
        * coordinates[2][None, None, :] ** k
        for i, j, k in powers
    ]
    design = np.stack([np.broadcast_to(term, values.shape)[is_used] for term in terms], axis=1)
    weights = _huber_fit(design, np.log(values[is_used]))
    log_bias = sum(weight * term for weight, term in zip(weights, terms, strict=True))
    bias = np.exp(np.broadcast_to(log_bias, values.shape))
    edges_mm = np.asarray(voxel_mm, dtype=np.float64)
    return normalised_bias(extended(bias, head_mask, voxel_mm, float(edges_mm.max())), head_mask)


def normalised_bias(bias: ArrayLike, head_mask: _Mask) -> _Array:
    """Receive bias with a mean of 1 over the head.

    Parameters
    ----------
    bias : (X, Y, Z) array_like
        In any unit, positive.
    head_mask : (X, Y, Z) array of bool
        The head.

    Returns
    -------
    (X, Y, Z) array
        Dimensionless, 1 on average over the head.

    Raises
    ------
    NumericsError
        If shapes differ, the head is empty or a value is not positive.

    Examples
    --------
    >>> normalised_bias([[[2.0, 6.0]]], np.ones((1, 1, 2), bool))
    array([[[0.5, 1.5]]])
    """
    values = as_float("bias", bias, ndim=3)
    require_same_shape(bias=values, head_mask=head_mask)
    _require_filled(head_mask=head_mask)
    require_finite("bias", values)
    if not np.all(values > 0.0):
        raise NumericsError(
            f"bias is {float(values.min()):g} in places; a receive map is positive where it is "
            "used: fill or mask it"
        )
    evened: _Array = values / float(values[head_mask].mean())
    return evened


def extended(values: ArrayLike, mask: _Mask, voxel_mm: ArrayLike, fwhm_mm: float) -> _Array:
    """Map that goes on beyond a mask as it is at the mask's rim.

    Parameters
    ----------
    values : (X, Y, Z) array_like
        Map in any unit; what lies outside the mask does not count.
    mask : (X, Y, Z) array of bool
        Where the map holds, not empty.
    voxel_mm : (3,) array_like
        Edges of a voxel, in mm.
    fwhm_mm : float
        Width of the Gaussian that evens out what was carried outwards, in mm, positive.

    Returns
    -------
    (X, Y, Z) array
        The map itself in the mask; outside the nearest value, smoothed.

    Raises
    ------
    NumericsError
        If shapes differ or the mask is empty.

    Examples
    --------
    >>> mask = np.array([False, True, True])[:, None, None]
    >>> extended(np.array([0.0, 3.0, 3.0])[:, None, None], mask, [1, 1, 1], 1.0).ravel()
    array([3., 3., 3.])
    """
    known = as_float("values", values, ndim=3)
    require_same_shape(values=known, mask=mask)
    _require_filled(mask=mask)
    edges_mm = as_float("voxel_mm", voxel_mm, ndim=1)
    nearest = ndimage.distance_transform_edt(
        ~mask, sampling=edges_mm, return_distances=False, return_indices=True
    )
    carried = known[tuple(nearest)]
    everywhere = np.ones(mask.shape, np.bool_)
    smooth = smooth_within(carried, everywhere, edges_mm, fwhm_mm=fwhm_mm)
    return np.asarray(np.where(mask, known, smooth), dtype=np.float64)


def continued_field(
    field: ArrayLike, mask: _Mask, voxel_mm: ArrayLike, *, step: int
) -> NDArray[np.float32]:
    """Smooth field of factors that is 1 on average over a mask and goes on beyond it.

    Parameters
    ----------
    field : (X, Y, Z) array_like
        Factors, positive in the mask; what lies outside does not count.
    mask : (X, Y, Z) array of bool
        Where the field is known.
    voxel_mm : (3,) array_like
        Edges of a voxel, in mm.
    step : int
        Every so many voxels the field is carried outwards, from 1 up.

    Returns
    -------
    (X, Y, Z) array of float32
        The field over its geometric mean in the mask; outside as at the nearest part of the mask,
        evened out over four steps.

    Raises
    ------
    NumericsError
        If the mask is empty on the coarse grid or a factor in it is not positive.

    Examples
    --------
    >>> mask = np.zeros((6, 6, 6), bool)
    >>> mask[2:4, 2:4, 2:4] = True
    >>> field = np.where(mask, 3.0, 1.0)
    >>> bool(np.allclose(continued_field(field, mask, np.ones(3), step=1), 1.0))
    True
    """
    factors = np.asarray(field, dtype=np.float32)
    require_same_shape(field=factors, mask=mask)
    require_range("step", step, 1, 100, unit="voxels")
    coarse = (slice(None, None, step),) * 3
    _require_filled(mask=mask[coarse])
    inside = factors[mask]
    if not np.all(inside > 0.0):
        raise NumericsError(
            f"field goes down to {float(inside.min()):g} in the mask; factors are above 0"
        )
    relative = factors / np.float32(np.exp(np.mean(np.log(inside, dtype=np.float64))))
    edges_mm = step * as_float("voxel_mm", voxel_mm, ndim=1)
    around = extended(relative[coarse], mask[coarse], edges_mm, 4.0 * float(edges_mm.mean()))
    beyond = ndimage.affine_transform(
        around.astype(np.float32),
        np.eye(3) / step,
        output_shape=mask.shape,
        order=1,
        mode="nearest",
    )
    return np.asarray(np.where(mask, relative, beyond), dtype=np.float32)


def _powers(order: int) -> list[tuple[int, int, int]]:
    return [
        (i, j, k)
        for i in range(order + 1)
        for j in range(order + 1 - i)
        for k in range(order + 1 - i - j)
    ]


def _huber_fit(design: _Array, values: _Array) -> _Array:
    weights = np.ones(len(values))
    for _ in range(_N_REWEIGHTINGS):
        weighted = design * weights[:, np.newaxis]
        solution = np.asarray(np.linalg.solve(weighted.T @ design, weighted.T @ values), np.float64)
        residual = np.abs(values - design @ solution)
        sd = max(_MAD_TO_SD * float(np.median(residual)), 1e-9)
        weights = 1.0 / np.maximum(residual / (_HUBER * sd), 1.0)
    return solution


def _require_filled(**masks: _Mask) -> None:
    for name, mask in masks.items():
        if not mask.any():
            raise NumericsError(f"{name} is empty; give a mask of what the coil sees")
