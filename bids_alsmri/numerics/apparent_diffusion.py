"""Apparent diffusion coefficient of voxels and of regions, the noise floor taken into account."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.checks import as_float
from bids_alsmri.numerics.noise import Noise

_Array = NDArray[np.float64]


@dataclass(frozen=True)
class RegionalAdc:
    """Diffusion of a region.

    Parameters
    ----------
    adc_mm2_s : float
        Apparent diffusion coefficient, in mm2/s; NaN where a signal is at the floor.
    snr : float
        Signal without weighting over the noise of one channel; NaN where noise is not known.
    """

    adc_mm2_s: float
    snr: float


def check_b_values(b_values_s_mm2: ArrayLike, n_volumes: int) -> _Array:
    """Diffusion weightings that a coefficient can be fitted to.

    Parameters
    ----------
    b_values_s_mm2 : (N,) array_like
        Weighting of each volume, in s/mm2.
    n_volumes : int
        Volumes of the series.

    Returns
    -------
    (N,) array
        The weightings.

    Raises
    ------
    NumericsError
        If there is not one for each volume, one is negative or not finite, or all are alike.

    Examples
    --------
    >>> check_b_values([0, 1000], 2)
    array([   0., 1000.])
    """
    b = as_float("b_values_s_mm2", b_values_s_mm2, ndim=1)
    if len(b) != n_volumes:
        raise NumericsError(
            f"b_values_s_mm2 has {len(b)} values but the series {n_volumes} volumes; give one each"
        )
    if not np.isfinite(b).all() or (b < 0).any() or np.ptp(b) < 50:
        raise NumericsError(
            f"b_values_s_mm2 is {b.tolist()}; a coefficient needs two weightings of 0 or more that "
            "differ by 50 s/mm2 at least"
        )
    return b


def fit_adc(signal: ArrayLike, b_values_s_mm2: ArrayLike) -> _Array:
    r"""Apparent diffusion coefficient of each voxel.

    Parameters
    ----------
    signal : (..., N) array_like
        Magnitudes.
    b_values_s_mm2 : (N,) array_like
        Weighting of each volume, in s/mm2.

    Returns
    -------
    (...) array
        In mm2/s; NaN where a signal is not above 0.

    Raises
    ------
    NumericsError
        If the weightings do not fit the series.

    Notes
    -----
    Least squares of :math:`\ln S_i = \ln S_0 - b_i D`; of two weightings, the
    :math:`\ln(S_0 / S_b) / b` of Jenkins et al. 2020 (Journal of Neurology).

    Examples
    --------
    >>> fit_adc(np.array([[1.0, np.exp(-1.6)]]), [0, 1000]).round(6)
    array([0.0016])
    """
    values = np.asarray(signal, dtype=np.float64)
    b = check_b_values(b_values_s_mm2, values.shape[-1] if values.ndim else 0)
    weights = -(b - b.mean()) / ((b - b.mean()) ** 2).sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.where(values > 0, np.log(values), np.nan)
    return np.asarray(logs @ weights)


def fit_regional_adc(
    signal: ArrayLike, b_values_s_mm2: ArrayLike, noise: Noise | None
) -> RegionalAdc:
    r"""Apparent diffusion coefficient of a region from its mean power.

    Parameters
    ----------
    signal : (V, N) array_like
        Magnitudes of its voxels.
    b_values_s_mm2 : (N,) array_like
        Weighting of each volume, in s/mm2.
    noise : Noise or None
        Of the magnitudes; None leaves the floor in.

    Returns
    -------
    RegionalAdc
        Coefficient and signal-to-noise ratio.

    Raises
    ------
    NumericsError
        If the region is empty or the weightings do not fit the series.

    Notes
    -----
    With :math:`n` channels of noise :math:`\sigma`, :math:`E[M^2] = S^2 + 2 n \sigma^2`
    whatever the signal (Koay and Basser 2006, doi:10.1016/j.jmr.2006.01.016), so the mean power of
    a region gives its signal without bias where single voxels cannot.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> true = 10 * np.exp(-np.array([0, 1000]) * 1.6e-3)
    >>> noisy = np.hypot(true + rng.normal(size=(4000, 2)), rng.normal(size=(4000, 2)))
    >>> round(1e3 * fit_regional_adc(noisy, [0, 1000], Noise(1.0, 1.0)).adc_mm2_s, 2)
    1.6
    """
    values = as_float("signal", signal, ndim=2)
    if len(values) == 0:
        raise NumericsError("signal has no voxel; give a region that lies in the series")
    b = check_b_values(b_values_s_mm2, values.shape[1])
    if noise is None:
        signals = values.mean(axis=0)
        snr = float("nan")
    else:
        power = (values**2).mean(axis=0) - 2 * noise.n_channels * noise.sigma**2
        signals = np.sqrt(np.maximum(power, 0.0))
        snr = float(signals[b == b.min()].mean() / noise.sigma)
    return RegionalAdc(float(fit_adc(signals, b)), snr)
