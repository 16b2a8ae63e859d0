"""Point spread of radial sodium imaging: its shape, its width and what it does to images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft, integrate, optimize, special

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.checks import as_float, require_finite, require_range
from bids_alsmri.numerics.relaxation import Relaxation, biexponential_decay

_Array = NDArray[np.float64]

_N_FREQUENCIES = 2049  # of the tabulated transfer function; odd, for Simpson's rule
_FWHM_PER_SD = float(np.sqrt(8.0 * np.log(2.0)))
# a Gaussian's transfer function is tabulated as far as it has half a millionth of its height
_GAUSSIAN_REACH = 5.4


@dataclass(frozen=True)
class RadialReadout:
    r"""Three-dimensional radial sampling from the centre of k-space outwards.

    Attributes
    ----------
    nominal_mm : float
        Nominal resolution, in mm: the sphere sampled has the radius 1 / (2 `nominal_mm`).
    echo_ms : float
        Time from excitation to the start of the readout at the centre of k-space, in ms.
    readout_ms : float
        Duration of the readout, in ms, from 0 (no decay along it) up.
    linear_share : float
        Share of the radius that is sampled at constant gradient before the density is adapted,
        above 0 and at most 1; 1 is ordinary radial sampling.

    Raises
    ------
    NumericsError
        If a number is out of range.

    Notes
    -----
    Density-adapted sampling (Nagel 2009, doi:10.1002/mrm.22157) goes outwards linearly,
    :math:`k = k_0 t / t_0`, and beyond :math:`k_0` as
    :math:`k^3 = k_0^3 (1 + 3 (t - t_0) / t_0)`, so that samples are uniform in the sphere there.
    With :math:`p = k_0 / k_{max}` and the duration T,
    :math:`t_0 = 3 T / (p^{-3} + 2)`.

    Examples
    --------
    >>> RadialReadout(nominal_mm=3.6, echo_ms=0.2, readout_ms=20.0, linear_share=0.3).nominal_mm
    3.6
    """

    nominal_mm: float
    echo_ms: float
    readout_ms: float
    linear_share: float

    def __post_init__(self) -> None:
        require_range("nominal_mm", self.nominal_mm, 0.0, 100.0, unit="mm", open_low=True)
        require_range("echo_ms", self.echo_ms, 0.0, 1000.0, unit="ms")
        require_range("readout_ms", self.readout_ms, 0.0, 1000.0, unit="ms")
        require_range("linear_share", self.linear_share, 0.0, 1.0, open_low=True)

    @property
    def largest_frequency_per_mm(self) -> float:
        """Radius of the sphere sampled, in cycles per mm."""
        return 0.5 / self.nominal_mm


@dataclass(frozen=True)
class PointSpread:
    """Isotropic point spread, by its transfer function.

    Attributes
    ----------
    frequency_per_mm : (F,) array
        Spatial frequencies, in cycles per mm, equally spaced from 0; there is no signal beyond
        the last.
    transfer : (F,) array
        Share of the signal that is left at each, 1 at 0: the spread integrates to 1.
    fwhm_mm : float
        Full width at half maximum, in mm.
    """

    frequency_per_mm: _Array
    transfer: _Array
    fwhm_mm: float

    @property
    def volume_mm3(self) -> float:
        """Cube of the full width at half maximum, in mm3."""
        return self.fwhm_mm**3


def readout_time_ms(frequency_share: ArrayLike, readout: RadialReadout) -> _Array:
    """Time at which a radius of k-space is sampled, since the start of the readout.

    Parameters
    ----------
    frequency_share : (...) array_like
        Radius over the largest, 0 to 1.
    readout : RadialReadout
        The sampling.

    Returns
    -------
    (...) array
        In ms, 0 at the centre, the whole duration at 1.

    Raises
    ------
    NumericsError
        If a share is not from 0 to 1.

    Examples
    --------
    >>> adapted = RadialReadout(nominal_mm=3.6, echo_ms=0.2, readout_ms=20, linear_share=0.5)
    >>> readout_time_ms([0.0, 0.5, 1.0], adapted)
    array([ 0.,  6., 20.])
    """
    share = np.asarray(frequency_share, dtype=np.float64)
    if not np.all((share >= 0.0) & (share <= 1.0)):
        raise NumericsError(
            f"frequency_share holds {share.min():g} to {share.max():g}; give shares of the largest "
            "radius, 0 to 1"
        )
    relative = share / readout.linear_share
    linear_ms = 3.0 * readout.readout_ms / (readout.linear_share**-3 + 2.0)
    time: _Array = linear_ms * np.where(relative <= 1.0, relative, (relative**3 + 2.0) / 3.0)
    return time


def radial_point_spread(readout: RadialReadout, relaxation: Relaxation) -> PointSpread:
    r"""Point spread of a radial readout along which a tissue's signal decays.

    Parameters
    ----------
    readout : RadialReadout
        The sampling; its samples are taken as weighted to a uniform density in the sphere.
    relaxation : Relaxation
        Of the tissue; only its transverse decay counts.

    Returns
    -------
    PointSpread
        Narrowest where nothing decays: 1.59 times the nominal resolution.

    Notes
    -----
    :math:`T(k) = D(t_E + t(k)) / D(t_E)` inside the sphere, 0 outside; D is the bi-exponential
    decay. What decays before the readout starts is a weight of its own
    (`relaxation.relaxation_weight`). Without decay the spread is
    :math:`3 (\sin x - x \cos x) / x^3` with :math:`x = 2 \pi k_{max} r`: side lobes of -9 %
    and less.

    Examples
    --------
    >>> agar = Relaxation(t1_ms=45.0, short_ms=5.0, long_ms=25.0, short_fraction=0.6)
    >>> still = RadialReadout(nominal_mm=3.6, echo_ms=0.2, readout_ms=0.0, linear_share=1.0)
    >>> round(radial_point_spread(still, agar).fwhm_mm, 2)
    5.73
    """
    share = np.linspace(0.0, 1.0, _N_FREQUENCIES)
    times_ms = readout.echo_ms + readout_time_ms(share, readout)
    left = biexponential_decay(
        times_ms, relaxation.short_ms, relaxation.long_ms, relaxation.short_fraction
    )
    return _with_width(share * readout.largest_frequency_per_mm, left / left[0])


def gaussian_point_spread(fwhm_mm: float) -> PointSpread:
    r"""Gaussian point spread of a given width.

    Parameters
    ----------
    fwhm_mm : float
        Full width at half maximum, in mm, positive.

    Returns
    -------
    PointSpread
        Without side lobes.

    Raises
    ------
    NumericsError
        If the width is not positive.

    Notes
    -----
    :math:`T(k) = e^{-2 \pi^2 \sigma^2 k^2}` with
    :math:`\sigma = \mathrm{FWHM} / \sqrt{8 \ln 2}`.

    Examples
    --------
    >>> round(gaussian_point_spread(8.0).fwhm_mm, 6)
    8.0
    """
    require_range("fwhm_mm", fwhm_mm, 0.0, 1000.0, unit="mm", open_low=True)
    sd_mm = fwhm_mm / _FWHM_PER_SD
    frequency = np.linspace(0.0, _GAUSSIAN_REACH / (2.0 * np.pi * sd_mm), _N_FREQUENCIES)
    return PointSpread(frequency, np.exp(-0.5 * (2.0 * np.pi * sd_mm * frequency) ** 2), fwhm_mm)


def scaled_point_spread(point_spread: PointSpread, scale: float) -> PointSpread:
    """The same point spread, wider or narrower.

    Parameters
    ----------
    point_spread : PointSpread
        To be stretched.
    scale : float
        Factor of all lengths, positive.

    Returns
    -------
    PointSpread
        `scale` times as wide.

    Raises
    ------
    NumericsError
        If the factor is not positive.

    Examples
    --------
    >>> round(scaled_point_spread(gaussian_point_spread(5.0), 1.2).fwhm_mm, 6)
    6.0
    """
    require_range("scale", scale, 0.0, 1000.0, open_low=True)
    return PointSpread(
        point_spread.frequency_per_mm / scale, point_spread.transfer, point_spread.fwhm_mm * scale
    )


def spread_at(radius_mm: ArrayLike, point_spread: PointSpread) -> _Array:
    r"""Height of a point spread at a distance.

    Parameters
    ----------
    radius_mm : (...) array_like
        Distance from the point, in mm.
    point_spread : PointSpread
        Of any shape.

    Returns
    -------
    (...) array
        In 1/mm3; its integral over space is 1.

    Raises
    ------
    NumericsError
        If a distance is not finite.

    Notes
    -----
    :math:`h(r) = 4 \pi \int T(k)\, \frac{\sin 2 \pi k r}{2 \pi k r}\, k^2\, dk`, by Simpson's
    rule.

    Examples
    --------
    >>> narrow = gaussian_point_spread(4.0)
    >>> height = spread_at([0.0, 2.0], narrow)
    >>> float((height[1] / height[0]).round(4))
    0.5
    """
    radius = np.asarray(radius_mm, dtype=np.float64)
    require_finite("radius_mm", radius)
    return _height(radius, point_spread.frequency_per_mm, point_spread.transfer)


def blur(image: ArrayLike, voxel_mm: ArrayLike, point_spread: PointSpread) -> _Array:
    """Image as the point spread leaves it.

    Parameters
    ----------
    image : (X, Y, Z) array_like
        Finite values in any unit; 0 is taken beyond its border.
    voxel_mm : (3,) array_like
        Edges of a voxel, in mm.
    point_spread : PointSpread
        Isotropic spread.

    Returns
    -------
    (X, Y, Z) array
        In the unit of the image; side lobes can make it negative.

    Raises
    ------
    NumericsError
        If a value is not finite, or an edge is not positive.

    Notes
    -----
    By a discrete Fourier transform of the image, padded by three widths on each side so that
    what leaves at one border hardly comes back at the other. Values stand for the points of a
    grid; frequencies that the grid cannot hold do not count.

    Examples
    --------
    >>> point = np.zeros((9, 9, 9))
    >>> point[4, 4, 4] = 1.0
    >>> spread = blur(point, [1, 1, 1], gaussian_point_spread(4.0))
    >>> round(float(spread[6, 4, 4] / spread[4, 4, 4]), 3)
    0.5
    """
    values = as_float("image", image, ndim=3)
    require_finite("image", values)
    edges_mm = _edges(voxel_mm)
    margin = np.ceil(3.0 * point_spread.fwhm_mm / edges_mm).astype(int)
    shape = tuple(
        fft.next_fast_len(int(n + 2 * m), real=True)
        for n, m in zip(values.shape, margin, strict=True)
    )
    transfer = transfer_on_grid(shape, edges_mm, point_spread)
    blurred = fft.irfftn(fft.rfftn(values, shape) * transfer, shape)
    kept: _Array = np.ascontiguousarray(blurred[tuple(slice(n) for n in values.shape)])
    return kept


def transfer_on_grid(
    shape: tuple[int, ...], voxel_mm: ArrayLike, point_spread: PointSpread
) -> _Array:
    """Transfer function at the frequencies of a real discrete Fourier transform.

    Parameters
    ----------
    shape : tuple of int
        Of the image that is transformed, three axes.
    voxel_mm : (3,) array_like
        Edges of a voxel, in mm.
    point_spread : PointSpread
        Isotropic spread.

    Returns
    -------
    (X, Y, Z // 2 + 1) array
        In the order of ``scipy.fft.rfftn``.

    Raises
    ------
    NumericsError
        If an edge is not positive.

    Examples
    --------
    >>> transfer_on_grid((4, 4, 4), [2, 2, 2], gaussian_point_spread(4.0)).shape
    (4, 4, 3)
    """
    edges_mm = _edges(voxel_mm)
    axes = [fft.fftfreq(n, edge) for n, edge in zip(shape[:2], edges_mm[:2], strict=True)]
    last = fft.rfftfreq(shape[2], edges_mm[2])
    radius = np.sqrt(
        axes[0][:, None, None] ** 2 + axes[1][None, :, None] ** 2 + last[None, None, :] ** 2
    )
    transfer: _Array = np.interp(
        radius, point_spread.frequency_per_mm, point_spread.transfer, right=0.0
    )
    return transfer


def recovered_fraction(
    diameter_mm: float, central_diameter_mm: float, point_spread: PointSpread
) -> float:
    r"""Share of a long cylinder's signal that its centre shows.

    Parameters
    ----------
    diameter_mm : float
        Of the cylinder, in mm, positive; its length is taken as endless, its surroundings as
        empty.
    central_diameter_mm : float
        Of the concentric cylinder over which the signal is averaged, in mm, from 0 (the axis) to
        `diameter_mm`.
    point_spread : PointSpread
        Of what fills the cylinder.

    Returns
    -------
    float
        Mean signal over the true one; near 1 in wide tubes, above it where side lobes add up.

    Raises
    ------
    NumericsError
        If a diameter is out of range.

    Notes
    -----
    With radii R and a, :math:`\int T(k)\, 2 \pi R J_1(2 \pi k R)\,
    \frac{2 J_1(2 \pi k a)}{2 \pi k a}\, dk`: the spectra of two discs under the transfer
    function (Parseval). On the axis it is :math:`1 - J_0(2 \pi k_{max} R)` without decay and
    :math:`1 - e^{-R^2 / 2 \sigma^2}` for a Gaussian.

    Examples
    --------
    >>> round(recovered_fraction(20.0, 0.0, gaussian_point_spread(12.0)), 4)
    0.8542
    """
    require_range("diameter_mm", diameter_mm, 0.0, 1000.0, unit="mm", open_low=True)
    require_range("central_diameter_mm", central_diameter_mm, 0.0, diameter_mm, unit="mm")
    # enough points for every swing of the Bessel functions of a wide tube
    last = float(point_spread.frequency_per_mm[-1])
    n_points = max(_N_FREQUENCIES, 64 * int(np.ceil(diameter_mm * last)) + 1)
    frequency = np.linspace(0.0, last, n_points)
    transfer = np.interp(frequency, point_spread.frequency_per_mm, point_spread.transfer)
    outer = np.pi * diameter_mm
    inner = np.pi * central_diameter_mm * frequency
    mean = np.ones_like(inner)
    np.divide(2.0 * special.j1(inner), inner, out=mean, where=inner > 1e-9)
    return float(
        integrate.simpson(transfer * outer * special.j1(outer * frequency) * mean, x=frequency)
    )


def _with_width(frequency_per_mm: _Array, transfer: _Array) -> PointSpread:
    """Point spread with its width found from the height on both sides of half the maximum."""
    peak = float(_height(np.zeros(1), frequency_per_mm, transfer)[0])

    def above_half(radius_mm: float) -> float:
        return float(_height(np.array([radius_mm]), frequency_per_mm, transfer)[0]) / peak - 0.5

    # without decay the half width is 0.4 / k_max; a decay to nothing widens it at most tenfold
    step = 0.2 / float(frequency_per_mm[-1])
    high = step
    while above_half(high) > 0.0:
        high += step
    half = optimize.brentq(above_half, high - step, high, xtol=1e-9)
    return PointSpread(frequency_per_mm, transfer, 2.0 * float(half))


def _height(radius_mm: _Array, frequency_per_mm: _Array, transfer: _Array) -> _Array:
    phase = 2.0 * np.multiply.outer(radius_mm, frequency_per_mm)
    weighted = transfer * frequency_per_mm**2 * np.sinc(phase)
    height: _Array = 4.0 * np.pi * integrate.simpson(weighted, x=frequency_per_mm, axis=-1)
    return height


def _edges(voxel_mm: ArrayLike) -> _Array:
    edges_mm = as_float("voxel_mm", voxel_mm, ndim=1)
    if edges_mm.shape != (3,) or not np.all(edges_mm > 0.0):
        raise NumericsError(f"voxel_mm is {edges_mm.tolist()}; give three edges above 0, in mm")
    return edges_mm
