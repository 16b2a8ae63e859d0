"""Noise of one magnitude image: its level in air or in texture, its floor, its removal."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft, ndimage, optimize, special

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.checks import (
    as_float,
    require_finite,
    require_range,
    require_same_shape,
)
from bids_alsmri.numerics.pointspread import PointSpread, transfer_on_grid

_Array = NDArray[np.float64]
_Mask = NDArray[np.bool_]

_FEWEST_AIR_VOXELS = 500
_MOST_CHANNELS = 256.0
_LIMIT = 1.15  # times the peak: up to there hardly a voxel of air holds signal as well
_N_BINS = 256  # of the histogram whose peak is the air
# how far the share of dark voxels at the rim of the image may be from that of noise: necks, tubes
# and shoulders cross the rim, blanked air leaves nothing but dark edges of the head there
_RIM_TOLERANCE = 0.2
# and reaches the faces of the image only with the neck and perhaps the nose; a tenth of an axis
# may be padding
_FEWEST_FACES, _MOST_PADDING = 5, 0.1
_LARGEST_RATIO = 40.0  # signal over noise from which the floor is its square root law to 1e-7
_NORMAL_MAD = 1.4826  # standard deviation over median absolute deviation of a normal variable
_LEAST_GAIN = 2e-3  # of the log-likelihood of a voxel, for more than one channel
_MEAN_OF_SIX = np.zeros((3, 3, 3))
for _place in ((0, 1, 1), (2, 1, 1), (1, 0, 1), (1, 2, 1), (1, 1, 0), (1, 1, 2)):
    _MEAN_OF_SIX[_place] = 1.0 / 6.0


@dataclass(frozen=True)
class Noise:
    """Noise of a magnitude image from one or several receive channels.

    Attributes
    ----------
    sigma : float
        Standard deviation of the noise where the signal is strong, which is that of one channel's
        real part, in the unit of the image, positive.
    n_channels : float
        Effective number of channels whose squares were added, from 0.5 up: 1 is one coil
        (Rician); correlated channels count for less.
    """

    sigma: float
    n_channels: float

    def __post_init__(self) -> None:
        require_range("sigma", self.sigma, 0.0, np.inf, open_low=True)
        require_range("n_channels", self.n_channels, 0.5, _MOST_CHANNELS)

    @property
    def floor(self) -> float:
        """Mean of the image in air, in its unit."""
        half_more = special.gammaln(self.n_channels + 0.5) - special.gammaln(self.n_channels)
        return float(self.sigma * np.sqrt(2.0) * np.exp(half_more))

    @property
    def air_sd(self) -> float:
        """Standard deviation of the image in air, in its unit."""
        return float(np.sqrt(2.0 * self.n_channels * self.sigma**2 - self.floor**2))


def noise_of_air(image: ArrayLike) -> Noise:
    r"""Noise from the voxels in air, which nobody has to point out.

    Parameters
    ----------
    image : (X, Y, Z) array_like
        Magnitude image as reconstructed, not denoised. Voxels of exactly 0 do not count.

    Returns
    -------
    Noise
        Level and effective number of channels.

    Raises
    ------
    NumericsError
        If there are too few voxels, or the air was blanked: take `noise_of_texture` then.

    Notes
    -----
    Squares of noise magnitudes follow a gamma distribution, :math:`m^2 / 2 \sigma^2 \sim
    \Gamma(n)` (Constantinides 1997, doi:10.1002/mrm.1910380524). Its two parameters are fitted by
    maximum likelihood to the values up to the peak of the histogram, where hardly a voxel holds
    signal; one channel is taken unless more foretell the values better. Whole numbers count as
    rounded. Air that was blanked is known by the rim of what is left, which is dark throughout
    instead of noisy and does not reach the faces of the image.

    Examples
    --------
    >>> air = np.random.default_rng(0).rayleigh(2.0, (20, 20, 20))
    >>> air[5:15, 5:15, 5:15] += 50
    >>> found = noise_of_air(air)
    >>> round(found.sigma), round(found.n_channels)
    (2, 1)
    """
    values = as_float("image", image, ndim=3)
    require_finite("image", values)
    is_filled = values > 0.0
    if np.count_nonzero(is_filled) < _FEWEST_AIR_VOXELS:
        raise NumericsError(
            f"image has {np.count_nonzero(is_filled)} voxels above 0; the noise in air takes at "
            f"least {_FEWEST_AIR_VOXELS}: give a magnitude image with its air"
        )
    peak = _histogram_peak(values[is_filled])
    limit = _between_values(values, _LIMIT * peak)
    dark = values[is_filled & (values < limit)]
    if len(dark) < _FEWEST_AIR_VOXELS:
        raise NumericsError(
            f"{len(dark)} voxels lie below {limit:g}, the peak of the histogram; the air "
            "was blanked or is out of view: estimate the noise from the texture of the image"
        )
    sigma, n_channels = _fit_truncated_gamma(dark, limit)
    expected = float(special.gammainc(n_channels, limit**2 / (2.0 * sigma**2)))
    inner = ndimage.binary_erosion(is_filled, iterations=2, border_value=0)
    rim = values[is_filled & ~inner]
    share = float(np.mean(rim < limit))
    n_faces = _faces_reached(is_filled)
    if abs(share - expected) > _RIM_TOLERANCE or n_faces < _FEWEST_FACES:
        raise NumericsError(
            f"what is not 0 reaches {n_faces} faces of the image, and {100 * share:.0f} % of its "
            f"rim are darker than {limit:g} where noise would be to {100 * expected:.0f} %; the "
            "air was blanked or is out of view: estimate the noise from the texture of the image"
        )
    return Noise(sigma, n_channels)


def noise_of_texture(
    image: ArrayLike, mask: _Mask, voxel_mm: ArrayLike, point_spread: PointSpread
) -> Noise:
    r"""Noise from differences between neighbours within the head, where the air was blanked.

    Parameters
    ----------
    image : (X, Y, Z) array_like
        Magnitude image as reconstructed, not denoised.
    mask : (X, Y, Z) array of bool
        Where there is signal; its rim of one voxel does not count.
    voxel_mm : (3,) array_like
        Edges of a voxel, in mm.
    point_spread : PointSpread
        Of a point that does not decay: it says how much noise the finest differences hold.

    Returns
    -------
    Noise
        Of one channel. Texture of tissue counts as noise, so the true level is lower, if anything.

    Raises
    ------
    NumericsError
        If shapes differ, too few voxels are left or the grid is too fine to hold noise in
        neighbours' differences.

    Notes
    -----
    :math:`r = m - \frac{1}{6} \sum m_{neighbours}` (pseudo-residuals; Gasser 1986,
    doi:10.1093/biomet/73.3.625, after Coupé 2008, doi:10.1109/TMI.2007.906087). Radial sampling
    leaves the corners of k-space empty; the variance of r is therefore
    :math:`\sigma^2 \sum |H|^2 T^2 / \sum T^2` with the filter's transfer function H and the point
    spread's T. Its median absolute deviation passes over edges.

    Examples
    --------
    >>> from bids_alsmri.numerics.pointspread import gaussian_point_spread
    >>> image = 50 + np.random.default_rng(0).normal(0, 2, (20, 20, 20))
    >>> white = gaussian_point_spread(0.01)
    >>> round(noise_of_texture(image, np.ones(image.shape, bool), [3, 3, 3], white).sigma, 1)
    2.0
    """
    values = as_float("image", image, ndim=3)
    require_finite("image", values)
    require_same_shape(image=values, mask=mask)
    inner = ndimage.binary_erosion(mask, ndimage.generate_binary_structure(3, 1))
    n_inner = int(np.count_nonzero(inner))
    if n_inner < _FEWEST_AIR_VOXELS:
        raise NumericsError(
            f"mask holds {n_inner} voxels off its rim; the noise takes at least "
            f"{_FEWEST_AIR_VOXELS}: give the whole head"
        )
    shape = (32, 32, 32)
    power = transfer_on_grid(shape, voxel_mm, point_spread) ** 2
    # waves of the half spectrum count twice, save those that are their own mirror images
    twice = np.full(power.shape[2], 2.0)
    twice[[0, -1]] = 1.0
    kernel = np.zeros(shape)
    kernel[:3, :3, :3] = -_MEAN_OF_SIX
    kernel[1, 1, 1] = 1.0
    gain = np.abs(fft.rfftn(kernel)) ** 2
    share = float((gain * power * twice).sum() / (power * twice).sum())
    if share < 0.01:
        raise NumericsError(
            f"voxels of {np.asarray(voxel_mm).tolist()} mm are too fine for a point spread of "
            f"{point_spread.fwhm_mm:.1f} mm: neighbours hold the same noise; give the image on "
            "the grid of its reconstruction"
        )
    residual = (values - ndimage.convolve(values, _MEAN_OF_SIX, mode="nearest"))[inner]
    spread = _NORMAL_MAD * float(np.median(np.abs(residual - np.median(residual))))
    if spread == 0.0:
        raise NumericsError("image does not vary within mask; give one as reconstructed")
    return Noise(float(spread / np.sqrt(share)), 1.0)


def remove_noise_floor(image: ArrayLike, noise: Noise) -> _Array:
    r"""Signal whose magnitude has the given mean.

    Parameters
    ----------
    image : (...) array_like
        Means of the magnitude over voxels or scans, finite, not negative.
    noise : Noise
        Of the single magnitudes.

    Returns
    -------
    (...) array
        In the unit of the image; 0 where it is at the floor or below.

    Raises
    ------
    NumericsError
        If a value is negative or not finite.

    Notes
    -----
    Inverts :math:`\langle m \rangle = \sigma \sqrt 2\, \frac{\Gamma(n + 1/2)}{\Gamma(n)}\,
    {}_1F_1(-1/2; n; -s^2 / 2 \sigma^2)` (Koay and Basser 2006, doi:10.1016/j.jmr.2006.01.016, for
    n channels). On single noisy voxels it leaves a bias, since a mean is inverted, not a value.

    Examples
    --------
    >>> remove_noise_floor([1.0, 1.2533, 100.0], Noise(1.0, 1.0)).round(1)
    array([  0.,   0., 100.])
    """
    values = np.asarray(image, dtype=np.float64)
    require_finite("image", values)
    if np.any(values < 0.0):
        raise NumericsError(
            f"image holds {float(values.min()):g}; magnitudes are not negative: give the "
            "magnitude image"
        )
    ratio = np.linspace(0.0, _LARGEST_RATIO, 8001)
    n = noise.n_channels
    with np.errstate(invalid="ignore", over="ignore"):
        mean = noise.floor / noise.sigma * special.hyp1f1(-0.5, n, -(ratio**2) / 2.0)
    # scipy's function overflows at some hundred channels, where two moments tell the mean
    power = ratio**2 + 2.0 * n
    mean = np.where(np.isfinite(mean), mean, np.sqrt(power - (power + ratio**2) / (2.0 * power)))
    relative = values / noise.sigma
    far = np.sqrt(np.maximum(relative**2 - (2.0 * n - 1.0), 0.0))
    signal: _Array = noise.sigma * np.where(
        relative > mean[-1], far, np.interp(relative, mean, ratio)
    )
    return signal


def denoise(
    image: ArrayLike,
    noise: Noise,
    *,
    strength: float,
    patch_radius: int,
    block_radius: int,
    n_threads: int,
) -> _Array:
    r"""Image averaged over places that look alike, its noise floor taken off.

    Parameters
    ----------
    image : (X, Y, Z) array_like
        Magnitude image, finite, not negative.
    noise : Noise
        Of the image.
    strength : float
        Multiple of the noise level that is taken as noise, above 0 to 3; 1 is the level itself.
    patch_radius, block_radius : int
        Radius of what is compared and of where it is looked for, in voxels, from 1 up.
    n_threads : int
        Processor threads, from 1 up.

    Returns
    -------
    (X, Y, Z) array
        Estimate of the signal, in the unit of the image, not negative.

    Raises
    ------
    NumericsError
        If a value is negative or not finite, or a number is out of range.

    Notes
    -----
    Non-local means (Coupé 2008, doi:10.1109/TMI.2007.906087) of dipy, which averages squares:
    :math:`s^2 = \langle m^2 \rangle - 2 n \sigma^2`. Its own Rician correction is that of one
    channel. Of its two algorithms the classic one is taken; the blockwise one of version 1.12
    smears edges that stand far above the noise.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> noisy = np.abs(20 + rng.normal(size=(12, 12, 12)) + 1j * rng.normal(size=(12, 12, 12)))
    >>> smooth = denoise(noisy, Noise(1.0, 1.0), strength=1.0, patch_radius=1, block_radius=2,
    ...     n_threads=1)
    >>> bool(smooth.std() < 0.5 * noisy.std())
    True
    """
    from dipy.denoise.nlmeans import nlmeans

    values = as_float("image", image, ndim=3)
    require_finite("image", values)
    require_range("strength", strength, 0.0, 3.0, open_low=True)
    require_range("patch_radius", patch_radius, 1, 10, unit="voxels")
    require_range("block_radius", block_radius, 1, 20, unit="voxels")
    require_range("n_threads", n_threads, 1, 1024)
    averaged = nlmeans(
        values,
        sigma=strength * noise.sigma,
        patch_radius=patch_radius,
        block_radius=block_radius,
        rician=False,
        num_threads=n_threads,
        method="classic",
    )
    power = averaged**2 - 2.0 * noise.n_channels * noise.sigma**2
    return np.asarray(np.sqrt(np.maximum(power, 0.0)), dtype=np.float64)


def _histogram_peak(values: _Array) -> float:
    """Most frequent value, on a scale that fits the darker half of the voxels."""
    counts, edges = np.histogram(values, _N_BINS, range=(0.0, 4.0 * float(np.median(values))))
    # integers fall into every second or third bin, which beats where the smoothing is too narrow
    smooth = ndimage.gaussian_filter1d(counts.astype(np.float64), 6.0)
    peak = int(np.argmax(smooth))
    return float(0.5 * (edges[peak] + edges[peak + 1]))


def _between_values(values: _Array, limit: float) -> float:
    """Limit half way between the values beside it: whole numbers stand for what rounds to them."""
    below, above = values[values < limit], values[values >= limit]
    return 0.5 * float(below.max() + above.min()) if len(below) and len(above) else limit


def _faces_reached(is_filled: _Mask) -> int:
    n_reached = 0
    for axis, size in enumerate(is_filled.shape):
        filled = np.flatnonzero(is_filled.any(axis=tuple(a for a in range(3) if a != axis)))
        padding = _MOST_PADDING * size
        n_reached += int(filled[0] <= padding) + int(size - 1 - filled[-1] <= padding)
    return n_reached


def _fit_truncated_gamma(dark: _Array, limit: float) -> tuple[float, float]:
    """Level and number of channels whose noise below a limit is most like the values."""
    relative = (dark / limit) ** 2
    mean_log, mean = float(np.mean(np.log(relative))), float(np.mean(relative))

    def loss(parameters: _Array) -> float:
        n, rate = np.exp(parameters)
        # density of y = m^2 / limit^2 on 0 to 1: y^(n-1) e^(-rate y) rate^n / (Gamma(n) P(n, rate))
        inside = np.log(max(float(special.gammainc(n, rate)), 1e-300))
        return float(
            -(n - 1.0) * mean_log + rate * mean - n * np.log(rate) + special.gammaln(n) + inside
        )

    bounds = [(np.log(0.5), np.log(_MOST_CHANNELS)), (np.log(0.05), np.log(4 * _MOST_CHANNELS))]
    # below the peak both grow together along a valley: start at several numbers of channels
    fits = [
        optimize.minimize(loss, np.log([n, max(n - 0.5, 0.3)]), method="L-BFGS-B", bounds=bounds)
        for n in (1.0, 4.0, 16.0)
    ]
    best = min(fits, key=lambda fit: float(fit.fun))
    # one channel unless the values tell of more: ripples of the head in the air push the level by a
    # tenth along that valley
    single = optimize.minimize_scalar(lambda rate: loss(np.array([0.0, rate])), bounds=bounds[1])
    is_single = float(single.fun) - float(best.fun) < _LEAST_GAIN
    n, rate = np.exp([0.0, single.x] if is_single else best.x)
    return float(limit / np.sqrt(2.0 * rate)), float(n)
