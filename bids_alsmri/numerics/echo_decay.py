"""Transverse relaxation time from the echoes of a train, and the image that combines them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.checks import as_float, require_finite, require_range
from bids_alsmri.numerics.noise import Noise

_Array = NDArray[np.float64]

_N_STEPS = 8
# signal over noise from which a magnitude is its signal, and steps of the table below it
_FAR, _N_TABLE, _MANY_CHANNELS = 12.0, 1201, 32.0
# a step of the rate is no larger than this share of it: far from the best fit the signal is no line
_MOST_STEP = 0.5
# times beyond this many of the last echo, or below this share of the first, cannot be told
_LONGEST, _SHORTEST = 20.0, 0.1


@dataclass(frozen=True)
class Decay:
    """Mono-exponential decay of voxels.

    Attributes
    ----------
    t2_ms : (...) array
        Relaxation time, in ms; NaN where there is no signal or it does not decay.
    amplitude : (...) array
        Signal at no time, in the unit of the image; NaN likewise.
    """

    t2_ms: _Array
    amplitude: _Array


def fit_echo_decay(
    signal: ArrayLike,
    echo_times_ms: ArrayLike,
    *,
    noise: Noise | None,
    least_signal: float,
    least_echoes: int,
) -> Decay:
    r"""Relaxation time of each voxel by least squares of the signal itself.

    Parameters
    ----------
    signal : (..., E) array_like
        Magnitudes of E echoes, 2 or more.
    echo_times_ms : (E,) array_like
        Their times, in ms, positive and rising.
    noise : Noise or None
        In the unit of the signal; None leaves its floor in.
    least_signal : float
        Signal from which a voxel is fitted, in that unit, not negative.
    least_echoes : int
        Echoes from the first that must exceed it, 1 to E: more where few echoes must tell noise
        from signal.

    Returns
    -------
    Decay
        Of each voxel.

    Raises
    ------
    NumericsError
        If there are fewer than two echoes, their times do not rise or do not fit the signal, or
        fewer or more echoes than there are must exceed the least signal.

    Notes
    -----
    Minimises :math:`\sum_i (M_i - E[M | A e^{-R t_i}])^2` from the line through the logarithms
    that is weighted by :math:`M_i^2`, by steps of Gauss and Newton in :math:`R`, :math:`A` being
    linear. Two echoes give :math:`R = \ln(S_1 / S_2) / (t_2 - t_1)`. :math:`E[M | S]` is the mean
    magnitude of a signal under the noise (Koay and Basser 2006, doi:10.1016/j.jmr.2006.01.016): its
    floor would lengthen the time.
    A train of echoes whose refocusing is not perfect has stimulated echoes, which lengthen it
    too, and of which the first echo has none (Milford et al. 2015,
    doi:10.1371/journal.pone.0145255).

    Examples
    --------
    >>> times_ms = np.array([10.0, 20.0, 30.0, 40.0])
    >>> signal = [np.exp(-times_ms / 35)]
    >>> fit = fit_echo_decay(signal, times_ms, noise=None, least_signal=0, least_echoes=1)
    >>> fit.t2_ms.round(6)
    array([35.])
    """
    values, times = as_float("signal", signal), as_float("echo_times_ms", echo_times_ms, ndim=1)
    if len(times) < 2 or (np.diff(times) <= 0).any() or times[0] <= 0:
        raise NumericsError(
            f"echo_times_ms is {times.tolist()}; a decay needs two or more times that rise from "
            "above 0"
        )
    if values.shape[-1:] != times.shape:
        raise NumericsError(
            f"signal has {values.shape[-1] if values.ndim else 0} echoes but echo_times_ms "
            f"{len(times)} values; give one time per echo"
        )
    require_range("least_signal", least_signal, 0.0, np.inf)
    require_range("least_echoes", least_echoes, 1, len(times))
    shape = values.shape[:-1]
    flat = values.reshape(-1, len(times))
    is_fitted = np.isfinite(flat).all(axis=1) & (flat[:, :least_echoes] > least_signal).all(axis=1)
    magnitude = flat[is_fitted]
    clean, rate = magnitude, _start(magnitude, times)
    low, high = 1.0 / (_LONGEST * times[-1]), 1.0 / (_SHORTEST * times[0])
    for _ in range(_N_STEPS):
        rate, amplitude = _refined(clean, times, np.clip(rate, low, high))
        decay = np.exp(-np.clip(rate, low, high)[:, None] * times)
        if noise is not None:
            clean = magnitude - _lifted(amplitude[:, None] * decay, noise)
    amplitude = (clean * decay).sum(axis=1) / (decay**2).sum(axis=1)
    is_told = (rate > low) & (rate < high) & (amplitude > 0)
    t2, level = np.full(len(flat), np.nan), np.full(len(flat), np.nan)
    t2[is_fitted] = np.where(is_told, 1.0 / np.where(is_told, rate, 1.0), np.nan)
    level[is_fitted] = np.where(is_told, amplitude, np.nan)
    return Decay(t2.reshape(shape), level.reshape(shape))


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


def _lifted(signal: _Array, noise: Noise) -> _Array:
    """How much the mean magnitude of a signal lies above it."""
    n, relative = noise.n_channels, np.maximum(signal, 0.0) / noise.sigma
    # the root of the mean power, less what its variance takes away: exact where either is large
    power, variance = relative**2 + 2.0 * n, 4.0 * relative**2 + 4.0 * n
    lift = np.sqrt(power) * (1.0 - variance / (8.0 * power**2)) - relative
    if n < _MANY_CHANNELS:
        ratio = np.linspace(0.0, _FAR, _N_TABLE)
        mean = noise.floor / noise.sigma * special.hyp1f1(-0.5, n, -(ratio**2) / 2.0)
        lift = np.where(relative < _FAR, np.interp(relative, ratio, mean - ratio), lift)
    return np.asarray(noise.sigma * lift)


def _start(signal: _Array, times: _Array) -> _Array:
    """Rate of the line through the logarithms, weighted by the power."""
    logs = np.log(np.maximum(signal, 1e-12 * max(float(signal.max(initial=0.0)), 1e-300)))
    weight = signal**2
    total = np.maximum(weight.sum(axis=1, keepdims=True), 1e-300)
    from_mean = times - (weight * times).sum(axis=1, keepdims=True) / total
    spread = (weight * from_mean**2).sum(axis=1)
    slope = (weight * from_mean * logs).sum(axis=1)
    return np.asarray(-np.divide(slope, spread, out=np.zeros_like(slope), where=spread > 0))


def _refined(signal: _Array, times: _Array, rate: _Array) -> tuple[_Array, _Array]:
    """Rate after one step of Gauss and Newton with the amplitude projected out, and that."""
    decay = np.exp(-rate[:, None] * times)
    power = (decay**2).sum(axis=1)
    amplitude = (signal * decay).sum(axis=1) / power
    slope = -amplitude[:, None] * times * decay
    # what the amplitude cannot take up of a change of the rate
    slope -= decay * ((slope * decay).sum(axis=1) / power)[:, None]
    residual = signal - amplitude[:, None] * decay
    curvature = (slope**2).sum(axis=1)
    step = np.divide(
        (slope * residual).sum(axis=1), curvature, out=np.zeros_like(rate), where=curvature > 0
    )
    return rate + np.clip(step, -_MOST_STEP * rate, _MOST_STEP * rate), amplitude
