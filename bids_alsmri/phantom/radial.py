r"""How a radial readout sees an object: a sphere of k-space, weighted by decay along the spokes.

A density-adapted readout runs from the centre of k-space outwards, so high spatial frequencies are
sampled late and have decayed. The object is transformed from a grid of about half the resolution;
what lies within the sphere goes to the image by an inverse transform.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft, optimize

from bids_alsmri.phantom.geometry import Grid

Floats = NDArray[np.float64]
Single = NDArray[np.float32]

# Time at constant gradient before its amplitude is adapted; a choice of about 5 mT/m at 3.6 mm.
LINEAR_MS = 0.5
# The fine grid has at least this many voxels in a nominal resolution.
FINE_PER_RESOLUTION = 2


@dataclass(frozen=True)
class Relaxation:
    """Relaxation of the sodium in one tissue.

    Parameters
    ----------
    t1_ms : float
        Longitudinal relaxation time, in ms.
    short_ms, long_ms : float
        Fast and slow component of transverse relaxation (T2*), in ms.
    short_fraction : float
        Share of the fast component, 0 to 1.
    """

    t1_ms: float
    short_ms: float
    long_ms: float
    short_fraction: float

    def saturation(self, repetition_ms: float, flip_deg: float) -> float:
        r"""Share of the equilibrium signal that spoiled repetition leaves.

        Parameters
        ----------
        repetition_ms : float
            Repetition time, in ms.
        flip_deg : float
            Flip angle, in degrees.

        Returns
        -------
        float
            :math:`\sin\alpha (1 - E) / (1 - E \cos\alpha)`, :math:`E = e^{-TR/T_1}` (Ernst and
            Anderson 1966, doi:10.1063/1.1719961).

        Examples
        --------
        >>> round(Relaxation(40.0, 3.0, 20.0, 0.6).saturation(120.0, 90.0), 4)
        0.9502
        """
        e1, alpha = np.exp(-repetition_ms / self.t1_ms), np.deg2rad(flip_deg)
        return float(np.sin(alpha) * (1 - e1) / (1 - e1 * np.cos(alpha)))

    def decay(self, times_ms: Floats) -> Floats:
        """Share of the signal that is left some time after excitation.

        Parameters
        ----------
        times_ms : (...) array
            Times, in ms.

        Returns
        -------
        (...) array
            1 at time 0.

        Examples
        --------
        >>> Relaxation(40.0, 3.0, 20.0, 0.6).decay(np.array([0.0, 3.0])).round(3)
        array([1.   , 0.565])
        """
        fast, slow = (np.exp(-np.asarray(times_ms) / t) for t in (self.short_ms, self.long_ms))
        return np.asarray(self.short_fraction * fast + (1 - self.short_fraction) * slow)


@dataclass(frozen=True)
class Readout:
    r"""A density-adapted radial readout.

    Parameters
    ----------
    resolution_mm : float
        Nominal resolution; spokes end at 1 / (2 resolution).
    echo_ms : float
        Time from excitation to the centre of k-space, in ms.
    duration_ms : float
        Time from there to the end of a spoke, in ms; 0 samples everything at once.

    Notes
    -----
    :math:`k` grows in proportion to time up to :math:`t_0`, then
    :math:`k^3 = k_0^3 + 3 k_0^3 (t - t_0) / t_0`, so that the density of samples stays the same
    (Nagel et al. 2009, doi:10.1002/mrm.22157). Ramps of the gradient are left out.
    """

    resolution_mm: float
    echo_ms: float
    duration_ms: float

    @property
    def k_max_per_mm(self) -> float:
        """End of a spoke, in cycles per mm."""
        return 1 / (2 * self.resolution_mm)

    def times_ms(self, k_per_mm: Floats) -> Floats:
        """Time since excitation at which a radius of k-space is sampled.

        Parameters
        ----------
        k_per_mm : (...) array
            Distance from the centre, in cycles per mm.

        Returns
        -------
        (...) array
            In ms.

        Examples
        --------
        >>> Readout(3.6, 0.2, 20.0).times_ms(np.array([0.0, 1 / 7.2])).round(6)
        array([ 0.2, 20.2])
        """
        share = np.asarray(k_per_mm) / self.k_max_per_mm
        if self.duration_ms <= LINEAR_MS:
            return np.asarray(self.echo_ms + self.duration_ms * share)
        cubed = 1 / (1 + 3 * (self.duration_ms - LINEAR_MS) / LINEAR_MS)
        first = share * LINEAR_MS / np.cbrt(cubed)
        later = LINEAR_MS + (share**3 - cubed) / cubed * LINEAR_MS / 3
        return np.asarray(self.echo_ms + np.where(share**3 < cubed, first, later))

    def weights(self, k_per_mm: Floats, relaxation: Relaxation) -> Floats:
        """Decay of a tissue's signal over the sphere of k-space, 0 outside it.

        Parameters
        ----------
        k_per_mm : (...) array
            Distance from the centre, in cycles per mm.
        relaxation : Relaxation
            Of the tissue.

        Returns
        -------
        (...) array
            1 where nothing has decayed.
        """
        inside = k_per_mm < self.k_max_per_mm * (1 - 1e-9)
        return np.where(inside, relaxation.decay(self.times_ms(k_per_mm)), 0.0)


def point_spread_fwhm_mm(readout: Readout, relaxation: Relaxation) -> float:
    r"""Full width at half maximum of the image of a point.

    Parameters
    ----------
    readout : Readout
        The readout.
    relaxation : Relaxation
        Of the tissue.

    Returns
    -------
    float
        In mm.

    Notes
    -----
    :math:`P(r) = \int_0^{k_m} W(k)\, \frac{\sin 2\pi k r}{2\pi k r}\, 4\pi k^2\, dk`; without decay
    the width is 1.59 nominal resolutions.

    Examples
    --------
    >>> still = Relaxation(40.0, 3.0, 20.0, 0.6)
    >>> round(point_spread_fwhm_mm(Readout(3.6, 0.2, 0.0), still), 2)
    5.73
    """
    k = np.linspace(0, readout.k_max_per_mm, 4001)[:-1]
    weights = readout.weights(k, relaxation) * k**2

    def below_half(radius_mm: float) -> float:
        return float((weights * (np.sinc(2 * k * radius_mm) - 0.5)).sum())

    return float(2 * optimize.brentq(below_half, 1e-3, 2 * readout.resolution_mm))


def split_grid(grid: Grid, n_parts: int) -> Grid:
    """Grid with every voxel cut into parts along each axis.

    Parameters
    ----------
    grid : Grid
        The acquired grid.
    n_parts : int
        Parts along each axis.

    Returns
    -------
    Grid
        Over the same field of view.

    Examples
    --------
    >>> fine = split_grid(Grid((2, 2, 2), np.eye(4)), 2)
    >>> fine.shape, fine.affine[0, 3].item()
    ((4, 4, 4), -0.25)
    """
    affine = grid.affine.copy()
    affine[:3, :3] /= n_parts
    affine[:3, 3] -= affine[:3, :3] @ np.full(3, (n_parts - 1) / 2)
    i, j, k = (n * n_parts for n in grid.shape)
    return Grid((i, j, k), affine)


def part_mean(values: Single, n_parts: int) -> Single:
    """Mean of the parts of each voxel.

    Parameters
    ----------
    values : (n i, n j, n k) array
        On the grid of `split_grid`.
    n_parts : int
        Parts along each axis.

    Returns
    -------
    (i, j, k) array
        On the acquired grid.

    Examples
    --------
    >>> part_mean(np.arange(8.0).reshape(2, 2, 2), 2)
    array([[[3.5]]])
    """
    i, j, k = (n // n_parts for n in values.shape)
    parts = values.reshape(i, n_parts, j, n_parts, k, n_parts)
    return np.asarray(parts.mean(axis=(1, 3, 5)))


def n_parts_for(voxel_mm: float, resolution_mm: float) -> int:
    """Parts into which voxels are cut so that the object's detail is kept.

    Parameters
    ----------
    voxel_mm : float
        Voxel edge of the image, in mm.
    resolution_mm : float
        Nominal resolution, in mm.

    Returns
    -------
    int
        1 or more.

    Examples
    --------
    >>> n_parts_for(3.6, 3.6), n_parts_for(1.8, 3.6)
    (2, 1)
    """
    return max(1, int(np.ceil(FINE_PER_RESOLUTION * voxel_mm / resolution_mm - 1e-9)))


def acquire(
    objects: Iterable[tuple[Single, Relaxation, bool]], fine: Grid, grid: Grid, readout: Readout
) -> Single:
    """Noise-free image of objects that decay differently.

    Parameters
    ----------
    objects : iterable of (array, Relaxation, bool)
        Density on `fine` at the centres of its voxels, or, where the third is true, its mean over
        each voxel; and how the signal decays.
    fine, grid : Grid
        Grid of the objects, from `split_grid`, and of the image.
    readout : Readout
        The readout; its sphere must lie within the band of `grid`.

    Returns
    -------
    (i, j, k) array of float32
        Image, with its sign.
    """
    n_parts = fine.shape[0] // grid.shape[0]
    voxel_mm = float(np.linalg.norm(grid.affine[:3, 0]))
    frequencies = _frequencies(grid.shape, voxel_mm)
    radius = np.sqrt(sum(f**2 for f in frequencies))
    total = np.zeros(radius.shape, dtype=np.complex64)
    for density, relaxation, is_mean in objects:
        part = _central(fft.rfftn(density), grid.shape)
        if is_mean:
            # the mean over a voxel is smoother than the object; within the sphere that is undone
            for f in frequencies:
                part /= np.sinc(f * voxel_mm / n_parts).astype(np.float32)
        total += part * readout.weights(radius, relaxation).astype(np.float32)
    # voxel centres of the image lie this far beyond those of the first of their parts
    offset_mm = voxel_mm * (n_parts - 1) / (2 * n_parts)
    for f in frequencies:
        total *= np.exp(2j * np.pi * offset_mm * f).astype(np.complex64)
    return np.asarray(fft.irfftn(total, grid.shape) / n_parts**3, dtype=np.float32)


def sphere_noise(grid: Grid, readout: Readout, rng: np.random.Generator) -> Single:
    """Noise of one receiver channel: white within the sphere of k-space, nothing outside.

    Parameters
    ----------
    grid : Grid
        Grid of the image.
    readout : Readout
        The readout.
    rng : Generator
        Random stream.

    Returns
    -------
    (i, j, k) array of float32
        Mean 0 and standard deviation 1; neighbouring voxels are correlated.
    """
    frequencies = _frequencies(grid.shape, float(np.linalg.norm(grid.affine[:3, 0])))
    radius = np.sqrt(sum(f**2 for f in frequencies))
    inside = radius < readout.k_max_per_mm * (1 - 1e-9)
    spectrum = fft.rfftn(rng.standard_normal(grid.shape, dtype=np.float32)) * inside
    # the half spectrum holds the planes 0 and Nyquist once, all others for two
    counts = np.full(inside.shape[2], 2.0)
    counts[0] = 1.0
    counts[-1] = 1.0 if grid.shape[2] % 2 == 0 else 2.0
    share = float((inside * counts).sum()) / float(np.prod(grid.shape))
    return np.asarray(fft.irfftn(spectrum, grid.shape) / np.sqrt(share), dtype=np.float32)


def _frequencies(shape: tuple[int, int, int], voxel_mm: float) -> tuple[Floats, Floats, Floats]:
    """Spatial frequencies along each axis (cycles per mm), shaped to be broadcast."""
    first, second = (np.fft.fftfreq(n, voxel_mm) for n in shape[:2])
    third = np.fft.rfftfreq(shape[2], voxel_mm)
    return (
        np.asarray(first[:, None, None], dtype=np.float64),
        np.asarray(second[None, :, None], dtype=np.float64),
        np.asarray(third[None, None, :], dtype=np.float64),
    )


def _central(spectrum: NDArray[np.complex64], shape: tuple[int, int, int]) -> NDArray[np.complex64]:
    """The frequencies of a coarser grid of the same extent."""
    rows = [np.fft.fftfreq(n, 1 / n).round().astype(int) for n in shape[:2]]
    return np.asarray(spectrum[np.ix_(*rows, np.arange(shape[2] // 2 + 1))])
