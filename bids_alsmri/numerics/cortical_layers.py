"""Superficial and deep layer of the cortex on profiles from its surface into white matter."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from scipy.special import ndtr

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.checks import as_float, require_finite, require_range

_Array = NDArray[np.float64]

# by the number of borders that can be told
_REASONS = (
    "no layers can be told apart",
    "only one border can be told, so that the deep layer has no thickness",
    "",
)


@dataclass(frozen=True)
class LayerFit:
    """What the mean of an area's profiles says of its layers.

    Attributes
    ----------
    superficial, deep, white : float
        Signal of the superficial layer, the deep layer and white matter, in the unit of the image;
        NaN for what cannot be told from what lies above it.
    deep_from_mm, white_from_mm : float
        Where the deep layer and white matter begin, in mm along the profiles; NaN where that border
        cannot be told.
    deep_mm : float
        Thickness of the deep layer, in mm; NaN where one of its borders cannot be told.
    deep_interval_mm, ratio_interval : (float, float)
        Intervals of the deep layer's thickness and of its signal over the superficial one's, by
        bootstrap over profiles; NaN as before.
    reason : str
        Why a value is missing; empty where none is.
    """

    superficial: float
    deep: float
    white: float
    deep_from_mm: float
    white_from_mm: float
    deep_mm: float
    deep_interval_mm: tuple[float, float]
    ratio_interval: tuple[float, float]
    reason: str


def tilt_deg(normals: ArrayLike, slice_normal: ArrayLike) -> _Array:
    r"""Angle between the normal of the cortex and the plane of the slice.

    Parameters
    ----------
    normals : (..., 3) array_like
        Normals of the cortex, of any length but 0, in mm axes.
    slice_normal : (3,) array_like
        Normal of the slice, likewise.

    Returns
    -------
    (...) array
        In degrees, 0 (the cortex stands upright on the slice) to 90.

    Raises
    ------
    NumericsError
        If a normal has no length or shapes do not fit.

    Notes
    -----
    A length measured in the slice across a sheet of thickness :math:`T` is
    :math:`T / \cos\theta`.

    Examples
    --------
    >>> tilt_deg([[1.0, 0.0, 0.0], [1.0, 0.0, 1.0]], [0.0, 0.0, 1.0]).round(6)
    array([ 0., 45.])
    """
    vectors, plane = as_float("normals", normals), as_float("slice_normal", slice_normal, ndim=1)
    if vectors.shape[-1:] != (3,) or plane.shape != (3,):
        raise NumericsError(
            f"normals has shape {vectors.shape} and slice_normal {plane.shape}; "
            "give (..., 3) and (3,)"
        )
    lengths = np.linalg.norm(vectors, axis=-1) * np.linalg.norm(plane)
    if not np.all(lengths > 0.0):
        raise NumericsError("a normal has no length; leave profiles without a direction out")
    sine = np.abs(vectors @ plane) / lengths
    return np.asarray(np.rad2deg(np.arcsin(np.minimum(sine, 1.0))), dtype=np.float64)


def fit_layers(
    profiles: ArrayLike,
    depth_mm: ArrayLike,
    *,
    blur_mm: float,
    smallest_layer_mm: float,
    step_mm: float,
    significance: float,
    confidence: float,
    n_bootstrap: int,
    rng: np.random.Generator,
) -> LayerFit:
    r"""Two layers and white matter fitted to the mean of profiles, with intervals.

    Parameters
    ----------
    profiles : (P, T) array_like
        Signal of P profiles, at least 8, that are independent of each other: not nearer than the
        image's blur. They begin in the superficial layer and end in white matter.
    depth_mm : (T,) array_like
        Where along the profile each sample lies, in mm, rising.
    blur_mm : float
        Standard deviation of the blur across borders, in mm, not negative: point spread,
        partial volume and what profiles are out of step.
    smallest_layer_mm : float
        Least thickness of each of the three parts, in mm, positive.
    step_mm : float
        Step of the search for borders, in mm, positive.
    significance : float
        Level of each test for a further border, above 0 and at most 0.5.
    confidence : float
        Of the intervals, 0.5 to 0.999.
    n_bootstrap : int
        Resamplings of profiles, 20 to 100000.
    rng : numpy.random.Generator
        Source of the resamplings.

    Returns
    -------
    LayerFit
        Signals, borders, thickness and intervals.

    Raises
    ------
    NumericsError
        If shapes do not fit, a value is not finite, a setting is out of range or the profiles are
        too short for three parts.

    Notes
    -----
    :math:`f(t) = S + (D - S)\,\Phi((t - t_1)/\sigma) + (W - D)\,\Phi((t - t_2)/\sigma)`, least
    squares over all pairs of borders; for each pair the three signals follow in closed form
    (variable projection, Golub and Pereyra 1973, doi:10.1137/0710036).

    Wherever borders are searched for, some are found. How many there are is settled between the
    halves of the profiles: a curve with more borders, fitted to the mean of one half, must foretell
    the profiles of the other half better (one-sided t test), in both directions. With one border
    what lies beneath counts as the deep layer's signal, and its thickness is missing; there is no
    prior to fall back on.

    Examples
    --------
    >>> depth_mm = np.arange(0.0, 5.0, 0.25)
    >>> one = np.where(depth_mm < 1.1, 100.0, np.where(depth_mm < 3.1, 90.0, 95.0))
    >>> rng = np.random.default_rng(0)
    >>> profiles = one + rng.normal(0.0, 1.0, (40, one.size))
    >>> fit = fit_layers(
    ...     profiles, depth_mm, blur_mm=0.05, smallest_layer_mm=0.5, step_mm=0.1,
    ...     significance=0.05, confidence=0.95, n_bootstrap=100, rng=rng,
    ... )
    >>> round(fit.deep_mm, 1), fit.reason
    (2.0, '')
    """
    signal, depth = as_float("profiles", profiles, ndim=2), as_float("depth_mm", depth_mm, ndim=1)
    if signal.shape[1] != depth.size:
        raise NumericsError(
            f"profiles have {signal.shape[1]} samples but depth_mm {depth.size}; give one depth "
            "for each sample"
        )
    require_finite("profiles", signal)
    if signal.shape[0] < 8:
        raise NumericsError(f"{signal.shape[0]} profiles are too few; give 8 or more")
    if not np.all(np.diff(depth) > 0.0):
        raise NumericsError("depth_mm does not rise from sample to sample; sort the samples")
    require_range("blur_mm", blur_mm, 0.0, 5.0, unit="mm")
    require_range("smallest_layer_mm", smallest_layer_mm, 0.0, 5.0, unit="mm", open_low=True)
    require_range("step_mm", step_mm, 0.0, 1.0, unit="mm", open_low=True)
    require_range("significance", significance, 0.0, 0.5, open_low=True)
    require_range("confidence", confidence, 0.5, 0.999)
    require_range("n_bootstrap", n_bootstrap, 20, 100_000)
    models = _models(depth, blur_mm, smallest_layer_mm, step_mm)
    n_borders = _count_borders(signal, models, significance)
    model = models[max(n_borders, 1)]
    place, found = _best(signal.mean(axis=0)[None], model)
    levels, borders = np.full(3, np.nan), np.full(2, np.nan)
    levels[: found.shape[1]] = found[0]
    borders[: model.borders.shape[1]] = model.borders[place[0]]

    weights = rng.multinomial(len(signal), np.full(len(signal), 1 / len(signal)), n_bootstrap)
    places, drawn = _best(weights @ signal / len(signal), model)
    tails = [50.0 * (1.0 - confidence), 50.0 * (1.0 + confidence)]
    ratio = np.percentile(drawn[:, 1] / drawn[:, 0], tails)
    thickness = np.full(2, np.nan)
    if n_borders == 2:
        thickness = np.percentile(np.diff(model.borders[places], axis=1), tails)
    if n_borders == 0:
        levels = np.array([signal.mean(), np.nan, np.nan])
        borders[:], ratio[:] = np.nan, np.nan
    return LayerFit(
        superficial=float(levels[0]),
        deep=float(levels[1]),
        white=float(levels[2]),
        deep_from_mm=float(borders[0]),
        white_from_mm=float(borders[1]),
        deep_mm=float(borders[1] - borders[0]),
        deep_interval_mm=(float(thickness[0]), float(thickness[1])),
        ratio_interval=(float(ratio[0]), float(ratio[1])),
        reason=_REASONS[n_borders],
    )


@dataclass(frozen=True)
class _Model:
    """Places of B borders, (G, B) in mm, with designs and orthonormal bases (G, T, B + 1)."""

    borders: _Array
    designs: _Array
    bases: _Array


def _models(depth: _Array, blur_mm: float, least_mm: float, step_mm: float) -> list[_Model]:
    # without, with one and with two borders
    grid = np.arange(depth[0] + least_mm, depth[-1] - least_mm + step_mm / 2.0, step_mm)
    first, second = (index.ravel() for index in np.meshgrid(grid, grid, indexing="ij"))
    apart = second - first >= least_mm - 1e-9
    pairs = np.stack([first[apart], second[apart]], axis=1)
    if len(pairs) == 0:
        raise NumericsError(
            f"profiles are {depth[-1] - depth[0]:g} mm long, too short for three parts of "
            f"{least_mm:g} mm; sample further into white matter"
        )
    models = []
    for borders in (np.empty((1, 0)), grid[:, None], pairs):
        # a border without blur is one that is narrower than any sampling
        into = ndtr((depth - borders[:, :, None]) / max(blur_mm, 1e-6))
        ends = np.ones((len(borders), 1, depth.size))
        into = np.concatenate([ends, into, 0.0 * ends], axis=1)
        designs = -np.diff(into, axis=1).transpose(0, 2, 1)
        models.append(_Model(borders, designs, np.linalg.qr(designs)[0]))
    return models


def _best(means: _Array, model: _Model) -> tuple[NDArray[np.intp], _Array]:
    # the borders that explain most of each mean, and the signals between them
    n_places, n_samples, n_levels = model.bases.shape
    flat = model.bases.transpose(0, 2, 1).reshape(-1, n_samples)
    explained = ((flat @ means.T) ** 2).reshape(n_places, n_levels, -1).sum(axis=1)
    place = np.argmax(explained, axis=0)
    levels = np.linalg.pinv(model.designs[place]) @ means[:, :, None]
    return place, levels[:, :, 0]


def _count_borders(signal: _Array, models: list[_Model], significance: float) -> int:
    halves = signal[0::2], signal[1::2]
    limits = [stats.t.isf(significance, len(half) - 1) for half in halves]
    errors = []
    for here, other in (halves, halves[::-1]):
        curves = []
        for model in models:
            place, levels = _best(here.mean(axis=0)[None], model)
            curves.append(model.designs[place[0]] @ levels[0])
        errors.append([((other - curve) ** 2).sum(axis=1) for curve in curves])
    n_borders = 0
    for more in (1, 2):
        gains = [error[n_borders] - error[more] for error in errors]
        spread = [gain.std(ddof=1) / np.sqrt(len(gain)) for gain in gains]
        if all(
            gain.mean() > limit * error
            for gain, limit, error in zip(gains, limits[::-1], spread, strict=True)
        ):
            n_borders = more
    return n_borders
