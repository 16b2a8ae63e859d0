"""Reference tubes of known sodium: what they measure, and signal to concentration."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.checks import (
    as_float,
    require_finite,
    require_range,
    require_same_shape,
)

_Array = NDArray[np.float64]

_NORMAL_MAD = 1.4826  # standard deviation over median absolute deviation of a normal variable
_FEWEST_SATURATED = 3  # voxels at one and the same largest value: two may be by chance of rounding


@dataclass(frozen=True)
class TubeSignals:
    """What the core of each tube shows.

    Attributes
    ----------
    labels : (T,) array of int
        Number of each tube.
    n_voxels : (T,) array of int
        Voxels of its core.
    mean, sd : (T,) array
        In the unit of the image, without voxels more than `reach` robust standard deviations from
        the median; sd has n - 1 in its denominator.
    n_outliers : (T,) array of int
        Voxels left out.
    variation : (T,) array
        Coefficient of variation: sd over mean.
    snr : (T,) array
        Mean over the noise level.
    standard_error : (T,) array
        Of the mean, sd over the square root of independent voxels, in the unit of the image.
    saturated_share : (T,) array
        Share of the voxels at the image's largest value, 0 where fewer than three are.
    """

    labels: NDArray[np.int64]
    n_voxels: NDArray[np.int64]
    mean: _Array
    sd: _Array
    n_outliers: NDArray[np.int64]
    variation: _Array
    snr: _Array
    standard_error: _Array
    saturated_share: _Array


@dataclass(frozen=True)
class Calibration:
    """Line from concentration to signal.

    Attributes
    ----------
    slope : float
        Signal per mmol/L, positive.
    intercept : float
        Signal at no sodium; 0 where the line goes through the origin.
    slope_error, intercept_error : float
        Standard errors; NaN where nothing tells them, 0 for an intercept that is given.
    r_squared : float
        Share of the weighted variance between tubes that the line explains; NaN for one
        concentration, which has none.
    through_origin : bool
        Whether there was one concentration only.
    residuals : (T,) array
        Signal of each tube less the line, in the unit of the signal.
    disagreement : float
        Largest over smallest concentration that the line gives to tubes, each over its true one,
        less 1; 0 for a single tube.
    """

    slope: float
    intercept: float
    slope_error: float
    intercept_error: float
    r_squared: float
    through_origin: bool
    residuals: _Array
    disagreement: float


def tube_signals(
    image: ArrayLike,
    cores: NDArray[np.integer],
    *,
    noise_sigma: float,
    reach: float,
    independent_share: float,
) -> TubeSignals:
    """Robust mean, spread and signal to noise of every tube.

    Parameters
    ----------
    image : (X, Y, Z) array_like
        Signal, its noise floor taken off, finite.
    cores : (X, Y, Z) array of int
        Number of the tube of each voxel that counts, from 1; 0 is none.
    noise_sigma : float
        Noise level, in the unit of the image, positive.
    reach : float
        Voxels further from the median, in robust standard deviations, do not count: bubbles and
        artefacts. From 1 up.
    independent_share : float
        Independent voxels over all, above 0 and at most 1: the point spread makes neighbours
        alike.

    Returns
    -------
    TubeSignals
        In the order of the numbers.

    Raises
    ------
    NumericsError
        If there is no tube or one is not brighter than three times the noise.

    Examples
    --------
    >>> cores = np.zeros((6, 1, 1), int)
    >>> cores[1:5] = 1
    >>> found = tube_signals(np.array([0, 9.0, 10, 10, 11, 0])[:, None, None], cores,
    ...     noise_sigma=0.5, reach=3.0, independent_share=0.5)
    >>> float(found.mean[0]), float(found.snr[0])
    (10.0, 20.0)
    """
    values = as_float("image", image, ndim=3)
    require_finite("image", values)
    require_same_shape(image=values, cores=cores)
    require_range("noise_sigma", noise_sigma, 0.0, np.inf, open_low=True)
    require_range("reach", reach, 1.0, 100.0)
    require_range("independent_share", independent_share, 0.0, 1.0, open_low=True)
    numbers = np.unique(cores[cores > 0]).astype(np.int64)
    if not len(numbers):
        raise NumericsError("cores holds no tube; number the voxels of each tube from 1")
    largest = float(values.max())
    rows = [_core(values[cores == number], reach, largest) for number in numbers]
    count, mean, sd, n_outliers, saturated = np.array(rows).T
    is_empty = mean < 3.0 * noise_sigma
    if is_empty.any():
        worst = int(np.flatnonzero(is_empty)[0])
        raise NumericsError(
            f"tube {numbers[worst]} has a signal of {mean[worst]:g}, noise being {noise_sigma:g}; "
            "it is empty or its label lies beside it: take it out of the labels or mark it anew"
        )
    n_independent = np.maximum((count - n_outliers) * independent_share, 1.0)
    return TubeSignals(
        labels=numbers,
        n_voxels=count.astype(np.int64),
        mean=mean,
        sd=sd,
        n_outliers=n_outliers.astype(np.int64),
        variation=sd / mean,
        snr=mean / noise_sigma,
        standard_error=np.maximum(sd, noise_sigma) / np.sqrt(n_independent),
        saturated_share=saturated,
    )


def calibrate(
    signals: ArrayLike, standard_errors: ArrayLike, concentrations_mmol_l: ArrayLike
) -> Calibration:
    r"""Line from concentration to the signal of tubes.

    Parameters
    ----------
    signals : (T,) array_like
        Of the tubes, corrected for all that concentration does not explain, positive.
    standard_errors : (T,) array_like
        Of the signals, in the same unit, positive.
    concentrations_mmol_l : (T,) array_like
        Sodium in the tubes, in mmol/L, positive; 0 is allowed beside others.

    Returns
    -------
    Calibration
        Through the origin if all tubes hold the same concentration, else with an intercept.

    Raises
    ------
    NumericsError
        If numbers of tubes differ, a value is out of range or the signal falls with concentration.

    Notes
    -----
    Least squares with the weights :math:`1 / s_i^2`. Errors of slope and intercept are by the
    scatter of the tubes about the line, or by :math:`s_i` where that is larger or no degree of
    freedom is left: noise within tubes says nothing of what differs between them.

    Examples
    --------
    >>> line = calibrate([11.0, 21.0, 31.0], [1.0, 1.0, 1.0], [20, 40, 60])
    >>> round(line.slope, 3), round(line.intercept, 3), round(line.r_squared, 3)
    (0.5, 1.0, 1.0)
    """
    signal = as_float("signals", signals, ndim=1)
    error = as_float("standard_errors", standard_errors, ndim=1)
    sodium = as_float("concentrations_mmol_l", concentrations_mmol_l, ndim=1)
    _require_tubes(signal, error, sodium)
    through_origin = len(np.unique(sodium)) == 1
    design = sodium[:, np.newaxis]
    if not through_origin:
        design = np.column_stack([sodium, np.ones_like(sodium)])
    weight = error**-2.0
    covariance = np.linalg.inv(design.T @ (weight[:, np.newaxis] * design))
    solution = covariance @ (design.T @ (weight * signal))
    residuals = signal - design @ solution
    dof = len(signal) - design.shape[1]
    squares = float(weight @ residuals**2)
    # with weights 1 / s^2 their mean square is 1 where noise within tubes is all there is
    scatter = max(squares / dof, 1.0) if dof else 1.0
    errors = np.sqrt(scatter * np.diag(covariance))
    slope, intercept = float(solution[0]), 0.0 if through_origin else float(solution[1])
    if slope <= 0.0:
        raise NumericsError(
            f"signals {_listed(signal)} fall with concentrations {_listed(sodium)} mmol/L; give "
            "the concentrations in the order of the tubes' numbers"
        )
    return Calibration(
        slope=slope,
        intercept=intercept,
        slope_error=float(errors[0]),
        intercept_error=0.0 if through_origin else float(errors[1]),
        r_squared=np.nan if through_origin else _explained(signal, weight, squares),
        through_origin=through_origin,
        residuals=residuals,
        disagreement=_disagreement((signal - intercept) / slope, sodium),
    )


def require_agreement(
    signals: ArrayLike, concentrations_mmol_l: ArrayLike, *, most_disagreement: float
) -> None:
    """Raise where tubes differ more than their concentrations say.

    Parameters
    ----------
    signals : (T,) array_like
        Of the tubes, corrected, positive.
    concentrations_mmol_l : (T,) array_like
        Sodium in the tubes, in mmol/L.
    most_disagreement : float
        Share by which signal per concentration may differ between the tubes, above 0.

    Raises
    ------
    NumericsError
        If it is exceeded; the message gives the signal per mmol/L of each tube.

    Examples
    --------
    >>> require_agreement([10.0, 10.5], [50, 50], most_disagreement=0.1)
    """
    signal = as_float("signals", signals, ndim=1)
    sodium = as_float("concentrations_mmol_l", concentrations_mmol_l, ndim=1)
    _require_tubes(signal, np.ones_like(signal), sodium)
    require_range("most_disagreement", most_disagreement, 0.0, 100.0, open_low=True)
    found = _disagreement(signal, sodium)
    if found > most_disagreement:
        per_sodium = signal[sodium > 0] / sodium[sodium > 0]
        raise NumericsError(
            f"tubes of {_listed(sodium)} mmol/L show {_listed(per_sodium)} per mmol/L, which "
            f"differ by {100 * found:.0f} %; at most {100 * most_disagreement:.0f} % are allowed: "
            "check their concentrations and order, correct the receive bias, or leave a tube out"
        )


def to_concentration(signal: ArrayLike, calibration: Calibration) -> _Array:
    r"""Sodium concentration of a signal.

    Parameters
    ----------
    signal : (...) array_like
        Corrected as the tubes were, in their unit; NaN stays.
    calibration : Calibration
        Line of the tubes.

    Returns
    -------
    (...) array
        In mmol/L; noise makes some of the air negative.

    Notes
    -----
    :math:`c = (S - b) / a` with slope a and intercept b.

    Examples
    --------
    >>> line = calibrate([10.0, 12.0], [1.0, 1.0], [50, 50])
    >>> to_concentration([11.0, 22.0], line)
    array([ 50., 100.])
    """
    sodium: _Array = (
        np.asarray(signal, dtype=np.float64) - calibration.intercept
    ) / calibration.slope
    return sodium


def _core(voxels: _Array, reach: float, largest: float) -> tuple[float, ...]:
    n_saturated = int(np.count_nonzero(voxels >= largest))
    saturated = n_saturated / len(voxels) if n_saturated >= _FEWEST_SATURATED else 0.0
    median = float(np.median(voxels))
    spread = _NORMAL_MAD * float(np.median(np.abs(voxels - median)))
    kept = voxels[np.abs(voxels - median) <= reach * spread]
    sd = float(kept.std(ddof=1)) if len(kept) > 1 else 0.0
    return len(voxels), float(kept.mean()), sd, len(voxels) - len(kept), saturated


def _explained(signal: _Array, weight: _Array, squares: float) -> float:
    centred = signal - float(weight @ signal) / float(weight.sum())
    return 1.0 - squares / float(weight @ centred**2)


def _disagreement(measured: _Array, sodium: _Array) -> float:
    # a tube without sodium has no ratio
    ratio = measured[sodium > 0] / sodium[sodium > 0]
    if len(ratio) < 2:
        return 0.0
    return float(ratio.max() / ratio.min() - 1.0) if ratio.min() > 0.0 else float("inf")


def _require_tubes(signal: _Array, error: _Array, sodium: _Array) -> None:
    if not len(signal) == len(error) == len(sodium) or not len(signal):
        raise NumericsError(
            f"there are {len(signal)} tubes, {len(error)} standard errors and {len(sodium)} "
            "concentrations; give one concentration for each tube, in the order of their numbers"
        )
    for name, values in (("signals", signal), ("standard_errors", error)):
        require_finite(name, values)
        if not np.all(values > 0.0):
            raise NumericsError(f"{name} are {_listed(values)}; they must be positive")
    require_finite("concentrations_mmol_l", sodium)
    if np.any(sodium < 0.0) or not np.any(sodium > 0.0):
        raise NumericsError(
            f"concentrations are {_listed(sodium)} mmol/L; they are not negative, and at least one "
            "is above 0"
        )


def _listed(values: _Array) -> str:
    return ", ".join(f"{value:.4g}" for value in values)
