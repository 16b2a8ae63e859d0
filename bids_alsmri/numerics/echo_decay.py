"""Transverse decay from the echoes of a gradient echo, and the image that combines them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.checks import as_float, require_finite, require_range

_Array = NDArray[np.float64]

_N_STEPS = 25
_LARGEST_STEP = 0.5  # of the rate: Gauss and Newton overshoot where the start is poor


@dataclass(frozen=True)
class EchoDecay:
    """Mono-exponential decay of each voxel.

    Attributes
    ----------
    r2s : (...) array
        Rate of decay, in 1/s; NaN where it cannot be told.
    start : (...) array
        Signal without decay, in the unit of the echoes; NaN as before.
    n_echoes : (...) array of int
        Echoes above the noise floor.
    """

    r2s: _Array
    start: _Array
    n_echoes: NDArray[np.int64]


def fit_decay(
    echoes: ArrayLike, echo_times_ms: ArrayLike, *, sigma: float, least_snr: float
) -> EchoDecay:
    r"""Rate of decay from the magnitudes of two echoes or more.

    Parameters
    ----------
    echoes : (E, ...) array_like
        Magnitude at each echo, not negative.
    echo_times_ms : (E,) array_like
        Echo times, rising, in ms.
    sigma : float
        Standard deviation of the noise of one channel, in the unit of the echoes, not negative.
    least_snr : float
        Echoes from the first that falls below so many times sigma on lie in the noise floor, not
        negative.

    Returns
    -------
    EchoDecay
        Maps; NaN with less than two echoes above the floor.

    Raises
    ------
    NumericsError
        If there are less than two echoes, their number is not that of the times, times do not rise
        or a value is negative or not finite.

    Notes
    -----
    Two echoes give :math:`R_2^* = \ln(S_1 / S_2) / (t_2 - t_1)`, where
    :math:`S^2 = M^2 - 2 \sigma^2` takes the floor off the magnitude M (McGibney and Smith 1993,
    doi:10.1118/1.597004). More are fitted by
    :math:`\sum_i (M_i - \sqrt{A^2 e^{-2 R t_i} + \sigma^2})^2`, the first-order mean of a Rician
    magnitude, with Gauss and Newton's method from the log-linear fit to the echoes above the
    floor, weighted by :math:`S_i^2`. Echoes below it count there too: to leave out those that noise
    has made low would keep those that it has made high.

    Examples
    --------
    >>> times = np.array([5.0, 10.0, 20.0])
    >>> fit = fit_decay(100 * np.exp(-0.04 * times)[:, None], times, sigma=0.0, least_snr=3.0)
    >>> fit.r2s.round(3), fit.start.round(3)
    (array([40.]), array([100.]))
    """
    magnitude = as_float("echoes", echoes)
    times_s = 1e-3 * as_float("echo_times_ms", echo_times_ms, ndim=1)
    if magnitude.ndim < 1 or len(magnitude) != times_s.size:
        raise NumericsError(
            f"echoes has shape {magnitude.shape} but echo_times_ms {times_s.size} values; give one "
            "time per echo"
        )
    if times_s.size < 2:
        raise NumericsError("1 echo is too few; a rate of decay takes two echoes or more")
    if not np.all(np.diff(times_s) > 0.0) or times_s[0] < 0.0:
        raise NumericsError(
            f"echo_times_ms are {(1e3 * times_s).tolist()}; they must rise from 0 ms or more"
        )
    require_finite("echoes", magnitude)
    if magnitude.size and magnitude.min() < 0.0:
        raise NumericsError(f"echoes go down to {magnitude.min():g}; give magnitudes")
    require_range("sigma", sigma, 0.0, np.inf)
    require_range("least_snr", least_snr, 0.0, 1000.0)
    flat = magnitude.reshape(times_s.size, -1)
    is_seen = np.logical_and.accumulate((flat > least_snr * sigma) & (flat > 0.0), axis=0)
    n_echoes = is_seen.sum(axis=0)
    signal = np.sqrt(np.maximum(flat**2 - 2.0 * sigma**2, 0.0)) * is_seen
    rate, start = _log_linear(signal, times_s)
    is_told = (n_echoes >= 2) & np.isfinite(rate) & np.isfinite(start)
    if times_s.size > 2:
        # a voxel of noise may take steps to where nothing is finite
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            rate[is_told], start[is_told] = _refined(
                flat[:, is_told], times_s, sigma, rate[is_told], start[is_told]
            )
        is_told &= np.isfinite(rate) & np.isfinite(start)
    shape = magnitude.shape[1:]
    return EchoDecay(
        r2s=np.where(is_told, rate, np.nan).reshape(shape),
        start=np.where(is_told, start, np.nan).reshape(shape),
        n_echoes=n_echoes.reshape(shape),
    )


def combine_echoes(echoes: ArrayLike) -> _Array:
    r"""Root of the mean square of echoes, in which each counts by its own signal.

    Parameters
    ----------
    echoes : (E, ...) array_like
        Magnitude at each echo, not negative.

    Returns
    -------
    (...) array
        In the unit of the echoes.

    Raises
    ------
    NumericsError
        If there is no echo or a value is not finite.

    Examples
    --------
    >>> combine_echoes([[3.0], [4.0]]).round(3)
    array([3.536])
    """
    magnitude = as_float("echoes", echoes)
    if magnitude.ndim < 1 or len(magnitude) == 0:
        raise NumericsError("echoes is empty; give one or more")
    require_finite("echoes", magnitude)
    return np.asarray(np.sqrt(np.mean(magnitude**2, axis=0)), dtype=np.float64)


def _log_linear(signal: _Array, times_s: _Array) -> tuple[_Array, _Array]:
    # weights of 0 leave the echoes below the floor out
    weight = signal**2
    logarithm = np.log(np.where(signal > 0.0, signal, 1.0))
    total = weight.sum(axis=0)
    # below the floor anything may come out; it is not told
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        mean_time = times_s @ weight / total
        mean_log = (weight * logarithm).sum(axis=0) / total
        away = times_s[:, None] - mean_time
        rate = -(weight * away * logarithm).sum(axis=0) / (weight * away**2).sum(axis=0)
        start = np.exp(mean_log + rate * mean_time)
    return rate, start


def _refined(
    magnitude: _Array, times_s: _Array, sigma: float, rate: _Array, start: _Array
) -> tuple[_Array, _Array]:
    time = times_s[:, None]
    for _ in range(_N_STEPS):
        decay = np.exp(-rate * time)
        signal = start * decay
        model = np.sqrt(signal**2 + sigma**2)
        slope = np.divide(signal, model, out=np.ones_like(model), where=model > 0.0)
        by_start, by_rate, error = slope * decay, -slope * signal * time, magnitude - model
        aa, ar, rr = (by_start**2).sum(0), (by_start * by_rate).sum(0), (by_rate**2).sum(0)
        ae, re = (by_start * error).sum(0), (by_rate * error).sum(0)
        determinant = aa * rr - ar**2
        steps = (aa * re - ar * ae) / determinant, (rr * ae - ar * re) / determinant
        changes = []
        for step, value, least in zip(steps, (rate, start), (1.0, 0.0), strict=True):
            most = _LARGEST_STEP * np.maximum(np.abs(value), least)
            changes.append(np.where(np.isfinite(step), np.clip(step, -most, most), 0.0))
        rate, start = rate + changes[0], start + changes[1]
        if np.all(np.abs(changes[0]) <= 1e-7 * np.maximum(np.abs(rate), 1.0)):
            break
    return rate, start
