"""Fat in muscle: its fraction, its share of a muscle's area, and Mercuri's grade of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.checks import as_float, require_range, require_same_shape

_Array = NDArray[np.float64]
_Mask = NDArray[np.bool_]

_FEWEST_VOXELS = 20
# chemical shift of fat from water (Brown et al. 2014, Magnetic Resonance Imaging, table 17.1), and
# the gyromagnetic ratio of protons in MHz/T
_FAT_PPM, _MHZ_PER_T = 3.35, 42.577
_N_GRADES = 4
NOT_GRADED = -1


@dataclass(frozen=True)
class GradeBounds:
    """Shares of a muscle's area at which Mercuri's grade rises.

    Attributes
    ----------
    traces : float
        Above it is grade 1, up to it grade 0.
    patches : float
        From it grade 2.
    confluent : float
        From it grade 3.

    Raises
    ------
    NumericsError
        If the three do not rise within 0 to 1.

    Examples
    --------
    >>> GradeBounds(traces=0.01, patches=0.1, confluent=0.5).confluent
    0.5
    """

    traces: float
    patches: float
    confluent: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.traces < self.patches < self.confluent <= 1.0:
            raise NumericsError(
                f"shares of grades are {self.traces:g}, {self.patches:g} and {self.confluent:g}; "
                "they must rise within 0 to 1"
            )


@dataclass(frozen=True)
class ReferenceSignals:
    """Signal of pure fat and of muscle without fat, on one image.

    Attributes
    ----------
    fat, muscle : float
        In the unit of the image.
    n_fat, n_muscle : int
        Voxels they were taken from.
    """

    fat: float
    muscle: float
    n_fat: int
    n_muscle: int


def reference_signals(image: ArrayLike, fat_mask: _Mask, muscle_mask: _Mask) -> ReferenceSignals:
    """Modes of the fat under the skin and of muscle.

    Parameters
    ----------
    image : (X, Y, Z) array_like
        Image without the coil's field (`numerics.two_tissues`), in any unit.
    fat_mask, muscle_mask : (X, Y, Z) array of bool
        Fat under the skin, off its edges, and all muscle of the limb.

    Returns
    -------
    ReferenceSignals
        The mode of muscle is that of what has no fat as long as no other brightness is commoner.

    Raises
    ------
    NumericsError
        If a mask holds fewer than 20 voxels or both have one brightness.

    Notes
    -----
    Half-sample mode (Bickel and Fruhwirth 2006, doi:10.1016/j.csda.2005.07.011): it takes no
    notice of a tail, as fatty muscle, vessels and septa are.

    Examples
    --------
    >>> image = np.r_[np.full(30, 1.0), np.full(30, 3.0), np.linspace(1, 3, 20)].reshape(4, 4, 5)
    >>> fat = image > 2.9
    >>> reference_signals(image, fat, ~fat).muscle
    1.0
    """
    values = as_float("image", image, ndim=3)
    require_same_shape(image=values, fat_mask=fat_mask, muscle_mask=muscle_mask)
    found = []
    for name, mask in (("fat_mask", fat_mask), ("muscle_mask", muscle_mask)):
        inside = values[mask & np.isfinite(values)]
        if len(inside) < _FEWEST_VOXELS:
            raise NumericsError(
                f"{name} holds {len(inside)} voxels; a reference needs {_FEWEST_VOXELS} or more"
            )
        found.append((_half_sample_mode(inside), len(inside)))
    (fat, n_fat), (muscle, n_muscle) = found
    if fat == muscle:
        raise NumericsError(
            f"fat and muscle both have a signal of {fat:g}; no fraction can be told from it"
        )
    return ReferenceSignals(fat, muscle, n_fat, n_muscle)


def fat_fraction(image: ArrayLike, *, fat: float, muscle: float) -> _Array:
    r"""Share of fat in each voxel, from one image in which fat and muscle differ.

    Parameters
    ----------
    image : (...) array_like
        Image without the coil's field, in which water and fat add (not an opposed-phase echo).
    fat, muscle : float
        Signal of fat and of muscle without fat, in the unit of the image, different.

    Returns
    -------
    (...) array
        0 is muscle, 1 fat. Noise goes below 0 and above 1 and is not cut off, so that means over
        a muscle have no bias; a share of signal and not of protons.

    Raises
    ------
    NumericsError
        If both signals are equal or not finite.

    Notes
    -----
    :math:`f = (s - m) / (F - m)`.

    Examples
    --------
    >>> fat_fraction([1.0, 2.0, 3.0], fat=3.0, muscle=1.0)
    array([0. , 0.5, 1. ])
    """
    values = as_float("image", image)
    if not np.isfinite(fat - muscle) or fat == muscle:
        raise NumericsError(f"fat is {fat:g} and muscle {muscle:g}; they must be finite and differ")
    return np.asarray((values - muscle) / (fat - muscle), dtype=np.float64)


def fat_shift_hz(field_tesla: float) -> float:
    """Frequency by which the main peak of fat lies below water.

    Parameters
    ----------
    field_tesla : float
        Field of the scanner in T, above 0 and up to 30.

    Returns
    -------
    float
        In Hz.

    Raises
    ------
    NumericsError
        If the field is out of range.

    Notes
    -----
    3.35 ppm (Brown et al. 2014, Magnetic Resonance Imaging, table 17.1) times 42.577 MHz/T.

    Examples
    --------
    >>> round(fat_shift_hz(3.0))
    428
    """
    require_range("field_tesla", field_tesla, 0.0, 30.0, unit="T", open_low=True)
    return _FAT_PPM * _MHZ_PER_T * field_tesla


def fat_phase_cosine(echo_ms: float, field_tesla: float) -> float:
    r"""How far fat points along water in a gradient echo.

    Parameters
    ----------
    echo_ms : float
        Echo time, in ms, not negative.
    field_tesla : float
        Magnetic field, in T, positive.

    Returns
    -------
    float
        1 in phase, -1 opposed.

    Raises
    ------
    NumericsError
        If a value is out of range.

    Notes
    -----
    :math:`\cos(2\pi\,\delta\,\gamma B_0 T_E)` with the main peak of fat :math:`\delta` = 3.35 ppm
    below water.

    Examples
    --------
    >>> round(fat_phase_cosine(2.3, 1.5), 2), round(fat_phase_cosine(4.6, 1.5), 2)
    (-1.0, 1.0)
    """
    require_range("echo_ms", echo_ms, 0.0, 1e3, unit="ms")
    cycles = 1e-3 * fat_shift_hz(field_tesla) * echo_ms
    return float(np.cos(2.0 * np.pi * cycles))


def dixon_fat_fraction(water: ArrayLike, fat: ArrayLike, *, least_signal: float) -> _Array:
    r"""Share of fat in the signal, from a water and a fat image.

    Parameters
    ----------
    water, fat : (...) array_like
        Magnitude of either, in one unit.
    least_signal : float
        Sum of both from which a voxel counts, in that unit, above 0.

    Returns
    -------
    (...) array
        0 to 1, NaN where there is no signal.

    Raises
    ------
    NumericsError
        If shapes differ, an image holds negative values or `least_signal` is not above 0.

    Notes
    -----
    :math:`f = F / (W + F)`. With few echoes it is not free of T1, T2* and the spectrum of fat.
    At low fractions magnitudes never fall below the noise floor: see Liu et al. 2007,
    doi:10.1002/mrm.21301.

    Examples
    --------
    >>> dixon_fat_fraction([90.0, 0.0], [10.0, 0.0], least_signal=5.0)
    array([0.1, nan])
    """
    of_water, of_fat = as_float("water", water), as_float("fat", fat)
    require_same_shape(water=of_water, fat=of_fat)
    require_range("least_signal", least_signal, 0.0, float("inf"), open_low=True)
    for name, values in (("water", of_water), ("fat", of_fat)):
        if (values < 0.0).any():
            raise NumericsError(
                f"{name} goes down to {float(values.min()):g}; give magnitude images"
            )
    total = of_water + of_fat
    share = np.full(total.shape, np.nan)
    np.divide(of_fat, total, out=share, where=total >= least_signal)
    return share


def water_and_fat(in_phase: ArrayLike, opposed_phase: ArrayLike) -> tuple[_Array, _Array]:
    r"""Water and fat from the magnitudes of an in-phase and an opposed-phase echo.

    Parameters
    ----------
    in_phase, opposed_phase : (...) array_like
        Magnitudes, in one unit.

    Returns
    -------
    water, fat : (...) array
        In that unit, for voxels with more water than fat; the others come out swapped, since
        magnitudes do not tell :math:`W - F` from :math:`F - W`.

    Raises
    ------
    NumericsError
        If the shapes differ.

    Notes
    -----
    :math:`W = (I + O) / 2`, :math:`F = (I - O) / 2` (Dixon 1984,
    doi:10.1148/radiology.153.1.6089263); fat below 0 (noise, T2* decay) is set to 0.

    Examples
    --------
    >>> water, fat = water_and_fat([10.0], [6.0])
    >>> float(water[0]), float(fat[0])
    (8.0, 2.0)
    """
    sum_signal, difference = as_float("in_phase", in_phase), as_float("opposed", opposed_phase)
    require_same_shape(in_phase=sum_signal, opposed_phase=difference)
    fat = np.maximum(0.5 * (sum_signal - difference), 0.0)
    return np.asarray(0.5 * (sum_signal + difference)), np.asarray(fat)


def dominant_fraction(fraction: ArrayLike, is_mostly_fat: ArrayLike) -> _Array:
    """Fat fraction of a pair of phases, where something else tells which of the two dominates.

    Parameters
    ----------
    fraction : (...) array_like
        As of `water_and_fat`, 0 to 0.5: of the lesser of the two.
    is_mostly_fat : (...) array_like of bool
        Whether that is water.

    Returns
    -------
    (...) array
        0 to 1. Near 0.5, where the brightness tells least, both answers are alike.

    Raises
    ------
    NumericsError
        If the shapes differ.

    Examples
    --------
    >>> dominant_fraction([0.1, 0.1], [False, True])
    array([0.1, 0.9])
    """
    lesser = as_float("fraction", fraction)
    mostly = np.asarray(is_mostly_fat, dtype=bool)
    require_same_shape(fraction=lesser, is_mostly_fat=mostly)
    return np.where(mostly, 1.0 - lesser, lesser)


def fatty_shares(
    fraction: ArrayLike, labels: NDArray[np.integer], wanted: ArrayLike, *, fat_threshold: float
) -> _Array:
    r"""Share of each muscle's area that fat takes.

    Parameters
    ----------
    fraction : (...) array_like
        Fat fraction; NaN is left out.
    labels : (...) array of int
        Muscle of each voxel, on the same grid.
    wanted : (R,) array_like of int
        Labels of the muscles.
    fat_threshold : float
        Fraction from which fat in a voxel counts, above 0 and at most 1: what noise does not reach.

    Returns
    -------
    (R,) array
        0 to 1; NaN for a muscle without voxels.

    Raises
    ------
    NumericsError
        If shapes differ or the threshold is out of range.

    Notes
    -----
    :math:`\sum_{f_i \ge t} \min(f_i, 1) / n`: a voxel counts by its fraction, since a streak of
    fat that is thinner than a voxel never fills it. Counting whole voxels from a half on loses
    streaks in voxels of 5 x 5 x 30 mm, and makes patches too large or too small.

    Examples
    --------
    >>> fatty_shares([0.0, 0.9, 0.1, 0.3], np.array([1, 1, 2, 2]), [1, 2], fat_threshold=0.2)
    array([0.45, 0.15])
    """
    values = as_float("fraction", fraction)
    require_same_shape(fraction=values, labels=labels)
    require_range("fat_threshold", fat_threshold, 0.0, 1.0, open_low=True)
    numbers = np.asarray(wanted, dtype=np.int64)
    known = np.isfinite(values)
    counts = np.array([np.count_nonzero(known & (labels == n)) for n in numbers], dtype=np.float64)
    filled = np.where(known, values, 0.0)
    area = np.where(filled >= fat_threshold, np.minimum(filled, 1.0), 0.0)
    above = np.array([area[known & (labels == n)].sum() for n in numbers], dtype=np.float64)
    shares = np.full(len(numbers), np.nan)
    np.divide(above, counts, out=shares, where=counts > 0)
    return shares


def mercuri_grades(shares: ArrayLike, bounds: GradeBounds) -> NDArray[np.int64]:
    """Mercuri's grade of each muscle, from the share of its area that is fatty.

    Parameters
    ----------
    shares : (...) array_like
        0 to 1, from `fatty_shares`; NaN where a muscle was not measured.
    bounds : GradeBounds
        Where the grade rises.

    Returns
    -------
    (...) array of int
        0 normal, 1 traces, 2 below half, 3 half or more; `NOT_GRADED` (-1) where the share is NaN.

    Raises
    ------
    NumericsError
        If a share lies outside 0 to 1.

    Notes
    -----
    Mercuri et al. 2007, doi:10.1002/jmri.20821, in the four grades of Diamanti et al. 2018
    (normal, traces, less and more than half of the muscle).

    Examples
    --------
    >>> bounds = GradeBounds(traces=0.01, patches=0.1, confluent=0.5)
    >>> mercuri_grades([0.0, 0.05, 0.3, 0.5, np.nan], bounds)
    array([ 0,  1,  2,  3, -1])
    """
    values = as_float("shares", shares)
    known = np.isfinite(values)
    if ((values[known] < 0.0) | (values[known] > 1.0)).any():
        raise NumericsError("shares lie outside 0 to 1; give shares of area and not percentages")
    grades = (
        (values > bounds.traces).astype(np.int64)
        + (values >= bounds.patches)
        + (values >= bounds.confluent)
    )
    return np.where(known, grades, NOT_GRADED)


def calibrate_bounds(
    shares: ArrayLike, grades: ArrayLike, *, confluent: float | None = None
) -> GradeBounds:
    r"""Bounds at which measured shares agree best with known grades.

    Parameters
    ----------
    shares : (N,) array_like
        Measured share of each muscle, 0 to 1.
    grades : (N,) array_like of int
        Its known grade, 0 to 3.
    confluent : float, optional
        Bound of grade 3, where its definition (0.5) is to be kept.

    Returns
    -------
    GradeBounds
        Each in the middle of the gap where the fewest muscles lie on the wrong side.

    Raises
    ------
    NumericsError
        If a grade does not occur, or the best bounds do not rise.

    Notes
    -----
    The sum of absolute differences of grades is the sum, over the three bounds, of the muscles
    on the wrong side of each; so each bound is sought on its own. Both sides of a bound weigh
    alike, however many muscles they hold.

    Examples
    --------
    >>> bounds = calibrate_bounds([0.0, 0.02, 0.05, 0.2, 0.3, 0.7], [0, 0, 1, 2, 2, 3])
    >>> round(bounds.patches, 3)
    0.125
    """
    values = as_float("shares", shares, ndim=1)
    known = np.asarray(grades, dtype=np.int64)
    require_same_shape(shares=values, grades=known)
    absent = [grade for grade in range(_N_GRADES) if not (known == grade).any()]
    if absent:
        raise NumericsError(
            f"no muscle has grade {', '.join(map(str, absent))}; calibration needs all of 0 to 3"
        )
    traces, patches, half = (_best_bound(values, known >= grade) for grade in range(1, _N_GRADES))
    return GradeBounds(traces, patches, half if confluent is None else confluent)


def _best_bound(values: _Array, is_above: _Mask) -> float:
    distinct = np.unique(values)
    between = (distinct[1:] + distinct[:-1]) / 2.0
    if not len(between):
        raise NumericsError(f"shares are all {distinct[0]:g}; calibration needs different ones")
    low, high = np.sort(values[~is_above]), np.sort(values[is_above])
    missed = np.searchsorted(high, between) / len(high)
    false = 1.0 - np.searchsorted(low, between) / len(low)
    wrong = missed + false
    best = np.flatnonzero(wrong <= wrong.min() + 1e-12)
    return float(between[best[len(best) // 2]])


def _half_sample_mode(values: _Array) -> float:
    ordered = np.sort(values)
    while len(ordered) > 2:
        half = (len(ordered) + 1) // 2
        widths = ordered[half - 1 :] - ordered[: len(ordered) - half + 1]
        narrowest = np.flatnonzero(widths <= widths.min() * (1 + 1e-12))
        start = int(narrowest[len(narrowest) // 2])
        ordered = ordered[start : start + half]
        if ordered[0] == ordered[-1]:
            break
    return float(ordered.mean())
