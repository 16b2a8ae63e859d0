"""What relaxation leaves of the sodium signal: saturation, decay, temperature, mixtures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.checks import as_float, require_finite, require_range

_Array = NDArray[np.float64]

_ZERO_CELSIUS_K = 273.15  # K, by definition of the Celsius scale
_LONGEST_MS = 1e6  # relaxation of any liquid is faster; a longer time is one in another unit


@dataclass(frozen=True)
class Relaxation:
    """Relaxation times of one tissue or of a reference tube.

    Attributes
    ----------
    t1_ms : float
        Longitudinal, in ms, positive.
    short_ms, long_ms : float
        Short and long component of the transverse decay (T2*), in ms, positive.
    short_fraction : float
        Share of the short component at no echo time, 0 to 1; 0 makes the decay mono-exponential.

    Raises
    ------
    NumericsError
        If a time is not positive, the short one is longer than the long one or the share is not
        from 0 to 1.

    Examples
    --------
    >>> Relaxation(t1_ms=37.0, short_ms=3.4, long_ms=23.5, short_fraction=0.6).long_ms
    23.5
    """

    t1_ms: float
    short_ms: float
    long_ms: float
    short_fraction: float

    def __post_init__(self) -> None:
        require_range("t1_ms", self.t1_ms, 0.0, _LONGEST_MS, unit="ms", open_low=True)
        _require_decay(self.short_ms, self.long_ms, self.short_fraction)


def spoiled_echo_weight(repetition_ms: float, t1_ms: float, flip_deg: ArrayLike) -> _Array:
    r"""Fraction of the equilibrium signal that a spoiled gradient echo leaves.

    Parameters
    ----------
    repetition_ms, t1_ms : float
        Repetition and longitudinal relaxation time, in ms, positive.
    flip_deg : (...) array_like
        True flip angle at each voxel, in degrees, above 0 and below 180.

    Returns
    -------
    weight : (...) array
        Dimensionless, 0 to 1; the signal divided by it is free of saturation.

    Raises
    ------
    NumericsError
        If a time is not positive or an angle is out of range.

    Notes
    -----
    :math:`w = \sin\alpha\,(1 - E) / (1 - E\cos\alpha)` with :math:`E = e^{-TR/T_1}`,
    for the steady state without transverse coherence (Ernst and Anderson 1966,
    doi:10.1063/1.1719961).

    Examples
    --------
    >>> spoiled_echo_weight(150.0, 37.0, np.array([90.0])).round(3)
    array([0.983])
    """
    require_range("repetition_ms", repetition_ms, 0.0, _LONGEST_MS, unit="ms", open_low=True)
    require_range("t1_ms", t1_ms, 0.0, _LONGEST_MS, unit="ms", open_low=True)
    angle = np.asarray(flip_deg, dtype=np.float64)
    require_finite("flip_deg", angle)
    if np.any((angle <= 0.0) | (angle >= 180.0)):
        raise NumericsError(
            f"flip_deg holds {float(angle.min()):g} to {float(angle.max()):g} degrees; flip angles "
            "lie above 0 and below 180: mask the map or give degrees"
        )
    alpha, e1 = np.deg2rad(angle), np.exp(-repetition_ms / t1_ms)
    weight: _Array = np.sin(alpha) * (1.0 - e1) / (1.0 - e1 * np.cos(alpha))
    return weight


def biexponential_decay(
    echo_ms: ArrayLike, short_ms: float, long_ms: float, short_fraction: float
) -> _Array:
    r"""Fraction of the transverse signal that is left after a time.

    Parameters
    ----------
    echo_ms : (...) array_like
        Time since excitation, in ms, not negative.
    short_ms, long_ms : float
        Short and long component of T2*, in ms, positive.
    short_fraction : float
        Share of the short component at no time, 0 to 1.

    Returns
    -------
    (...) array
        Dimensionless, 1 at no time, falling towards 0.

    Raises
    ------
    NumericsError
        If a time is negative or not finite, a component is not positive, the short one is longer
        than the long one or the share is not from 0 to 1.

    Notes
    -----
    :math:`f e^{-t/T_s} + (1 - f) e^{-t/T_l}`. A nucleus of spin 3/2 in slow motion has
    :math:`f = 0.6` (Hubbard 1970, doi:10.1063/1.1674167); in a voxel of several compartments it
    may differ.

    Examples
    --------
    >>> biexponential_decay([0.0, 0.2], 3.4, 23.5, 0.6).round(3)
    array([1.   , 0.962])
    """
    times = np.asarray(echo_ms, dtype=np.float64)
    require_finite("echo_ms", times)
    if np.any(times < 0.0):
        raise NumericsError(
            f"echo_ms holds {float(times.min()):g} ms; times since excitation are not negative"
        )
    _require_decay(short_ms, long_ms, short_fraction)
    left: _Array = short_fraction * np.exp(-times / short_ms) + (1.0 - short_fraction) * np.exp(
        -times / long_ms
    )
    return left


def relaxation_weight(
    relaxation: Relaxation, *, repetition_ms: float, echo_ms: float, flip_deg: ArrayLike
) -> _Array:
    """Fraction of the equilibrium signal left by saturation and decay together.

    Parameters
    ----------
    relaxation : Relaxation
        Of a tissue or a tube.
    repetition_ms, echo_ms : float
        Repetition time, positive, and echo time, not negative, in ms.
    flip_deg : (...) array_like
        Flip angle, in degrees, above 0 and below 180.

    Returns
    -------
    (...) array
        Dimensionless, 0 to 1; a signal divided by it is proportional to concentration.

    Raises
    ------
    NumericsError
        If a time or an angle is out of range.

    Notes
    -----
    Decay along the readout is no part of it: that is the point spread's (`pointspread`).

    Examples
    --------
    >>> white = Relaxation(t1_ms=37.0, short_ms=3.4, long_ms=23.5, short_fraction=0.6)
    >>> float(relaxation_weight(white, repetition_ms=120, echo_ms=0.2, flip_deg=90).round(3))
    0.925
    """
    decay = biexponential_decay(
        echo_ms, relaxation.short_ms, relaxation.long_ms, relaxation.short_fraction
    )
    weight = spoiled_echo_weight(repetition_ms, relaxation.t1_ms, flip_deg) * decay
    return np.asarray(weight, dtype=np.float64)


def curie_factor(brain_celsius: float, tube_celsius: float) -> float:
    r"""Signal of warm sodium over that of cold sodium of the same concentration, turned over.

    Parameters
    ----------
    brain_celsius, tube_celsius : float
        Temperatures, in degrees Celsius, from 0 to 50.

    Returns
    -------
    float
        What a concentration that was read off colder tubes is multiplied by; above 1 where tubes
        are colder than the brain.

    Raises
    ------
    NumericsError
        If a temperature is out of range.

    Notes
    -----
    Equilibrium magnetisation goes with :math:`1/T` (Curie's law), so the factor is
    :math:`T_{brain} / T_{tube}` in kelvin. That relaxation times change with temperature is left
    to the times given for the tubes.

    Examples
    --------
    >>> round(curie_factor(37.0, 21.0), 4)
    1.0544
    """
    require_range("brain_celsius", brain_celsius, 0.0, 50.0, unit="degrees Celsius")
    require_range("tube_celsius", tube_celsius, 0.0, 50.0, unit="degrees Celsius")
    return (_ZERO_CELSIUS_K + brain_celsius) / (_ZERO_CELSIUS_K + tube_celsius)


def mixed_weight(
    fractions: ArrayLike, weights: ArrayLike, concentrations: ArrayLike, *, elsewhere: float
) -> _Array:
    r"""Relaxation weight of every voxel from the tissues in it.

    Parameters
    ----------
    fractions : (R, ...) array_like
        Share of each tissue in each voxel, 0 to 1.
    weights : (R,) array_like
        Relaxation weight of each tissue, above 0 and at most 1.
    concentrations : (R,) array_like
        Usual sodium concentration of each tissue, in any one unit, positive: cerebrospinal fluid
        counts for more than its volume.
    elsewhere : float
        Weight of voxels without any of the tissues, above 0 and at most 1.

    Returns
    -------
    (...) array
        Dimensionless. Signal over it is the mean concentration of the voxel's tissues where their
        concentrations stand to each other as those given.

    Raises
    ------
    NumericsError
        If shapes do not fit or a number is out of range.

    Notes
    -----
    :math:`w(x) = \sum_i f_i c_i w_i / \sum_i f_i c_i`.

    Examples
    --------
    >>> mixed_weight([[1.0, 0.5, 0.0], [0.0, 0.5, 0.0]], [0.9, 0.8], [50, 150], elsewhere=0.9)
    array([0.9  , 0.825, 0.9  ])
    """
    shares = as_float("fractions", fractions)
    tissue_weights = as_float("weights", weights, ndim=1)
    usual = as_float("concentrations", concentrations, ndim=1)
    if shares.ndim < 1 or not len(shares) == len(tissue_weights) == len(usual):
        raise NumericsError(
            f"fractions has shape {shares.shape}, weights {tissue_weights.shape} and "
            f"concentrations {usual.shape}; give one fraction map, weight and concentration for "
            "each tissue"
        )
    require_finite("fractions", shares)
    for weight in (*tissue_weights, elsewhere):
        require_range("a relaxation weight", float(weight), 0.0, 1.0, open_low=True)
    for concentration in usual:
        require_range("a concentration", float(concentration), 0.0, np.inf, open_low=True)
    if shares.min(initial=0.0) < -1e-6 or shares.max(initial=0.0) > 1.0 + 1e-6:
        raise NumericsError(
            f"fractions lie between {shares.min():g} and {shares.max():g}; shares are 0 to 1"
        )
    sodium = np.tensordot(usual, shares, axes=1)
    left = np.tensordot(usual * tissue_weights, shares, axes=1)
    weight_map: _Array = np.full(sodium.shape, elsewhere)
    np.divide(left, sodium, out=weight_map, where=sodium > 1e-6 * usual.min())
    return weight_map


def _require_decay(short_ms: float, long_ms: float, short_fraction: float) -> None:
    require_range("short_ms", short_ms, 0.0, _LONGEST_MS, unit="ms", open_low=True)
    require_range("long_ms", long_ms, 0.0, _LONGEST_MS, unit="ms", open_low=True)
    require_range("short_fraction", short_fraction, 0.0, 1.0)
    if short_ms > long_ms:
        raise NumericsError(
            f"short_ms is {short_ms:g} ms and long_ms {long_ms:g} ms; exchange the two"
        )
