"""A slab of thick slices through folds of cortex, and the ribbon that a measurement is given."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bids_alsmri.errors import SettingsError
from bids_alsmri.phantom.anat import rician
from bids_alsmri.phantom.cortex_layers import CONTRAST_ECHO_MS, Fold, LayeredCortex
from bids_alsmri.phantom.geometry import rotation_about
from bids_alsmri.phantom.records import check_ranges

Floats = NDArray[np.float64]
Single = NDArray[np.float32]

VEIN_RADIUS_MM, VEIN_SPACING_MM, VEIN_SIGNAL = 0.35, 7.0, 0.25
RIPPLE_LENGTH_MM = 4.0  # over which a segmentation's error stays alike


@dataclass(frozen=True)
class SlabSettings:
    """How a slab through folds is placed and acquired, and how wrong its ribbon is.

    Parameters
    ----------
    shape : (int, int, int)
        Voxels in the slice and slices.
    voxel_mm : (float, float, float)
        Edges of a voxel, in mm; 0.25 x 0.25 x 2 in Cosottini 2016.
    echo_times_ms : tuple of float
        In ms.
    snr : float
        Signal of the superficial layer at the first echo over the noise of one channel; 0: none.
    tilt_deg : float
        Angle between the normals of the banks and the slices, in degrees.
    turn_deg : float
        Of the folds within the slice, in degrees.
    transmit_drop : float
        Share of signal that is lost from the first to the last column of voxels.
    receive_bias : float
        Largest deviation of the receive field from one.
    has_veins : bool
        Whether dark veins run along the surface.
    ribbon_sd_mm : float
        Standard deviation of the error of each border of the ribbon, in mm.
    registration_mm : float
        Length of the shift between ribbon and slab, in a random direction of the slice, in mm.

    Raises
    ------
    SettingsError
        If a value is out of its range.
    """

    shape: tuple[int, int, int] = (128, 104, 6)
    voxel_mm: tuple[float, float, float] = (0.25, 0.25, 2.0)
    echo_times_ms: tuple[float, ...] = (10.0, 20.0)
    snr: float = 20.0
    tilt_deg: float = 0.0
    turn_deg: float = 20.0
    transmit_drop: float = 0.0
    receive_bias: float = 0.0
    has_veins: bool = True
    ribbon_sd_mm: float = 0.3
    registration_mm: float = 0.5

    def __post_init__(self) -> None:
        check_ranges(
            self,
            (
                ("snr", 0, 1e6),
                ("tilt_deg", -60, 60),
                ("turn_deg", -360, 360),
                ("transmit_drop", 0, 0.9),
                ("receive_bias", 0, 0.9),
                ("ribbon_sd_mm", 0, 3),
                ("registration_mm", 0, 5),
            ),
        )


@dataclass(frozen=True)
class Slab:
    """A simulated slab.

    Parameters
    ----------
    echoes : (E, X, Y, Z) array of float32
        Magnitude at each echo.
    white_distance_mm, outer_distance_mm : (X, Y, Z) array
        What the measurement is given: signed distances from white matter, positive outside it, and
        from the outer surface, positive beneath it, in mm, with their errors.
    true_distance_mm : (X, Y, Z) array
        The true distance from white matter in the middle of the voxel, in mm.
    field : (X, Y, Z) array of float32
        By what transmission and reception multiply the signal.
    """

    echoes: Single
    white_distance_mm: Floats
    outer_distance_mm: Floats
    true_distance_mm: Floats
    field: Single


def simulate_slab(
    cortex: LayeredCortex,
    fold: Fold,
    settings: SlabSettings,
    rng: np.random.Generator,
    *,
    samples: tuple[int, int, int] = (3, 3, 8),
) -> Slab:
    """Scan a slab and draw the errors of its ribbon.

    Parameters
    ----------
    cortex : LayeredCortex
        Layers and their signals.
    fold : Fold
        Shape.
    settings : SlabSettings
        Acquisition and errors.
    rng : Generator
        Random stream.
    samples : (int, int, int)
        Points per voxel along each axis over which the signal is averaged.

    Returns
    -------
    Slab
        Images, ribbon and truth.
    """
    edges = np.array(settings.voxel_mm)
    index = np.moveaxis(np.indices(settings.shape, dtype=np.float64), 0, -1)
    centre = (np.array(settings.shape) - 1) / 2
    middle_mm = (index - centre) * edges
    offsets = [(np.arange(n) + 0.5) / n - 0.5 for n in samples]
    parts = np.stack([axis.ravel() for axis in np.meshgrid(*offsets, indexing="ij")], axis=1)
    steps_mm = parts * edges
    clean = np.zeros((len(settings.echo_times_ms), *settings.shape), dtype=np.float32)
    for step_mm in steps_mm:
        across, up, along = _in_fold(middle_mm + step_mm, fold, settings)
        distance = fold.distance_mm(across, up)
        dark = _vein_signal(distance, across, along, cortex) if settings.has_veins else 1.0
        for echo, signal in zip(settings.echo_times_ms, clean, strict=True):
            signal += cortex.signal(distance, echo) * np.float32(dark)
    field = _field(middle_mm, settings)
    clean *= field / len(steps_mm)
    superficial = np.exp(-1e-3 * settings.echo_times_ms[0] * cortex.superficial_r2s)
    sigma = float(superficial) / settings.snr if settings.snr > 0 else 0.0
    true = fold.distance_mm(*_in_fold(middle_mm, fold, settings)[:2])
    angle = rng.uniform(0.0, 2.0 * np.pi)
    shift_mm = settings.registration_mm * np.array([np.cos(angle), np.sin(angle), 0.0])
    moved = fold.distance_mm(*_in_fold(middle_mm - shift_mm, fold, settings)[:2])
    return Slab(
        echoes=rician(clean, sigma, rng),
        white_distance_mm=moved + _ripple(settings, rng),
        outer_distance_mm=cortex.cortex_mm - moved + _ripple(settings, rng),
        true_distance_mm=true,
        field=field,
    )


def _in_fold(
    points_mm: Floats, fold: Fold, settings: SlabSettings
) -> tuple[Floats, Floats, Floats]:
    # a turn within the slice, then a tilt about the banks' own long axis in the slice
    turn = rotation_about(np.array([0.0, 0.0, 1.0]), settings.turn_deg)
    tilt = rotation_about(np.array([0.0, 1.0, 0.0]), settings.tilt_deg)
    turned = points_mm @ (tilt @ turn).T
    return turned[..., 0], turned[..., 1] + fold.height_mm / 2, turned[..., 2]


def _vein_signal(
    distance: Floats, across: Floats, along: Floats, cortex: LayeredCortex
) -> NDArray[np.float64]:
    # threads on the surface that cross the slices obliquely
    place = (along + 2.0 * np.abs(across)) % VEIN_SPACING_MM - VEIN_SPACING_MM / 2
    is_vein = np.hypot(distance - cortex.cortex_mm - 0.1, place / 2.0) < VEIN_RADIUS_MM
    return np.where(is_vein, VEIN_SIGNAL, 1.0)


def _field(middle_mm: Floats, settings: SlabSettings) -> Single:
    extent = np.array(settings.shape) * np.array(settings.voxel_mm)
    share = middle_mm[..., 0] / extent[0] + 0.5
    transmit = 1.0 - settings.transmit_drop * share
    wave = np.cos(2.0 * np.pi * (middle_mm[..., 0] + 0.7 * middle_mm[..., 1] + 5.0) / 90.0)
    return np.asarray(transmit * (1.0 + settings.receive_bias * wave), dtype=np.float32)


def _ripple(settings: SlabSettings, rng: np.random.Generator) -> Floats:
    # an even field of Gaussian errors whose standard deviation over all draws is the given one
    widths = RIPPLE_LENGTH_MM / np.array(settings.voxel_mm)
    white = rng.standard_normal(settings.shape)
    smooth = ndimage.gaussian_filter(white, widths, mode="wrap")
    norm = np.sqrt(np.mean(np.abs(np.fft.fftn(_pulse(settings.shape, widths))) ** 2))
    return np.asarray(smooth * settings.ribbon_sd_mm / norm, dtype=np.float64)


def _pulse(shape: tuple[int, int, int], widths: Floats) -> Floats:
    pulse = np.zeros(shape)
    pulse[0, 0, 0] = 1.0
    return np.asarray(ndimage.gaussian_filter(pulse, widths, mode="wrap"), dtype=np.float64)


def displaced(
    image: NDArray[np.floating], edge_mm: float, sd_mm: float, rng: np.random.Generator
) -> Single:
    """Image whose borders are off as those of a segmentation are.

    Parameters
    ----------
    image : (X, Y, Z) array
        Shares of a tissue, on voxels that are cubes.
    edge_mm : float
        Edge of a voxel, in mm.
    sd_mm : float
        Standard deviation of the displacement along any direction, in mm; it stays alike over
        `RIPPLE_LENGTH_MM`.
    rng : Generator
        Random stream.

    Returns
    -------
    (X, Y, Z) array of float32
        The image at displaced places.

    Examples
    --------
    >>> ramp = np.arange(40.0)[:, None, None] * np.ones((40, 40, 40))
    >>> moved = displaced(ramp, 1.0, 0.3, np.random.default_rng(0)) - ramp
    >>> bool(0.2 < moved[5:-5].std() < 0.4)
    True
    """
    width = RIPPLE_LENGTH_MM / edge_mm
    # of white noise that a Gaussian of this width has smoothed along three axes
    left = (2.0 * np.sqrt(np.pi) * width) ** -1.5
    places = np.indices(image.shape, dtype=np.float32)
    for axis in places:
        white = rng.standard_normal(image.shape, dtype=np.float32)
        axis += ndimage.gaussian_filter(white, width, mode="wrap") * np.float32(
            sd_mm / edge_mm / left
        )
    return np.asarray(
        ndimage.map_coordinates(image, places, order=1, mode="nearest"), dtype=np.float32
    )


def contrast_echo(echoes: Single, echo_times_ms: tuple[float, ...]) -> Single:
    """Geometric mean of two echoes about the echo time for which contrasts are given.

    Parameters
    ----------
    echoes : (2, ...) array of float32
        Magnitude at both echoes.
    echo_times_ms : (float, float)
        Their times, whose mean is `CONTRAST_ECHO_MS`, in ms.

    Returns
    -------
    (...) array of float32
        Signal at that echo time, for a single exponential.

    Raises
    ------
    SettingsError
        If the echoes lie elsewhere.
    """
    first, second = echo_times_ms
    if abs((first + second) / 2 - CONTRAST_ECHO_MS) > 1e-6:
        raise SettingsError(
            f"echoes at {first:g} and {second:g} ms; their mean must be {CONTRAST_ECHO_MS:g} ms"
        )
    return np.asarray(np.sqrt(echoes[0] * echoes[1]), dtype=np.float32)
