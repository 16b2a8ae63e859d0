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

_N_PARTS = 4  # of the profiles, each foretold by the others
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
    blurs_mm: ArrayLike,
    line_gaps_mm: ArrayLike,
    line_mm: float,
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
    blurs_mm : (S,) array_like
        Standard deviations of the blur across borders that are tried, in mm, 0 to 5: point spread,
        partial volume and what profiles are out of step.
    line_gaps_mm : (L,) array_like
        How far beneath the deep layer the dark line of the U-fibres may begin, in mm, 0 to 5; empty
        for no line.
    line_mm : float
        Width of that line, in mm, positive.
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
    :math:`f(t) = S + (D - S)\Phi((t - t_1)/\sigma) + (W - D)\Phi((t - t_2)/\sigma) - U \ell(t)`
    with the line :math:`\ell(t) = \Phi((t - t_2 - g)/\sigma) - \Phi((t - t_2 - g - w)/\sigma)` and
    :math:`U \ge 0`, least squares over all pairs of borders, blurs and gaps; for each the four
    signals follow in closed form
    (variable projection, Golub and Pereyra 1973, doi:10.1137/0710036). Without the line of the
    U-fibres, which is as dark at 7T as the deep layer, the fit would take it for that layer's end.

    The deep layer is the one that is darker than the layer above it. Wherever borders are searched
    for, some are found. How many there are is settled by foretelling: a curve with more borders,
    fitted to the mean of three quarters of the profiles, must foretell those of the last quarter
    better than one with fewer (one-sided t test over all profiles, each left out once). With one
    border
    what lies beneath counts as the deep layer's signal, and its thickness is missing; there is no
    prior to fall back on.

    Examples
    --------
    >>> depth_mm = np.arange(0.0, 5.0, 0.25)
    >>> one = np.where(depth_mm < 1.1, 100.0, np.where(depth_mm < 3.1, 90.0, 95.0))
    >>> rng = np.random.default_rng(0)
    >>> profiles = one + rng.normal(0.0, 1.0, (40, one.size))
    >>> fit = fit_layers(
    ...     profiles, depth_mm, blurs_mm=[0.05, 0.2], line_gaps_mm=[0.5], line_mm=0.5,
    ...     smallest_layer_mm=0.5, step_mm=0.1, significance=0.05, confidence=0.95,
    ...     n_bootstrap=100, rng=rng,
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
    blurs, gaps = as_float("blurs_mm", blurs_mm, ndim=1), as_float("line_gaps_mm", line_gaps_mm)
    if blurs.size == 0:
        raise NumericsError("blurs_mm is empty; give one blur or more, in mm")
    for blur in blurs:
        require_range("blurs_mm", float(blur), 0.0, 5.0, unit="mm")
    for gap in gaps.ravel():
        require_range("line_gaps_mm", float(gap), 0.0, 5.0, unit="mm")
    require_range("line_mm", line_mm, 0.0, 5.0, unit="mm", open_low=True)
    require_range("smallest_layer_mm", smallest_layer_mm, 0.0, 5.0, unit="mm", open_low=True)
    require_range("step_mm", step_mm, 0.0, 1.0, unit="mm", open_low=True)
    require_range("significance", significance, 0.0, 0.5, open_low=True)
    require_range("confidence", confidence, 0.5, 0.999)
    require_range("n_bootstrap", n_bootstrap, 20, 100_000)
    models = _models(depth, blurs, gaps.ravel(), line_mm, smallest_layer_mm, step_mm)
    n_borders = _count_borders(signal, models, significance)
    model = models[max(n_borders, 1)]
    place, found = _best(signal.mean(axis=0)[None], model)
    levels, borders = np.full(3, np.nan), np.full(2, np.nan)
    levels[: found.shape[1] - 1] = found[0, :-1]
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
    """Curves with B borders: (G, B) places in mm, (G, T, B + 2) designs and their bases.

    The last column is a line in white matter; `line_sign` (G,) tells which sign of its share in the
    basis makes it dark, 0 where there is none, and `drop` (G, B + 2) gives from the shares by how
    much the deep layer is darker than the superficial one.
    """

    borders: _Array
    designs: _Array
    bases: _Array
    line_sign: _Array
    drop: _Array


def _models(
    depth: _Array,
    blurs_mm: _Array,
    gaps_mm: _Array,
    line_mm: float,
    least_mm: float,
    step_mm: float,
) -> list[_Model]:
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
        # with one border or none the line may lie anywhere beneath: else it would pass for a layer
        lines = _line_places(borders, grid, gaps_mm)
        # a border without blur is one that is narrower than any sampling
        sets = [_designs(depth, borders, lines, max(b, 1e-6), line_mm) for b in blurs_mm]
        designs = np.concatenate(sets)
        n_lines = lines.shape[1]
        bases, triangles = np.linalg.qr(designs)
        last = triangles[:, -1, -1]
        # a line beyond the profile's end, or one that borders can make, adds nothing
        is_seen = np.abs(last) > 1e-6 * np.abs(triangles).max(axis=(1, 2))
        places = np.tile(np.repeat(borders, n_lines, axis=0), (len(blurs_mm), 1))
        sign = np.where(is_seen, -np.sign(last), 0.0)
        models.append(_Model(places, designs, bases, sign, _drops(triangles, is_seen)))
    return models


def _drops(triangles: _Array, is_seen: NDArray[np.bool_]) -> _Array:
    n_levels = triangles.shape[1]
    if n_levels < 3:
        return np.zeros((len(triangles), n_levels))
    safe = triangles.copy()
    safe[~is_seen, -1, -1] = 1.0
    first_less_second = np.zeros(n_levels)
    first_less_second[:2] = 1.0, -1.0
    wanted = np.broadcast_to(first_less_second[:, None], (len(safe), n_levels, 1))
    return np.asarray(np.linalg.solve(safe.transpose(0, 2, 1), wanted)[..., 0], dtype=np.float64)


def _line_places(borders: _Array, grid: _Array, gaps_mm: _Array) -> _Array:
    # where lines begin, (places of borders, L); without gaps none begins within the profile
    beyond = np.full((len(borders), 1), np.inf)
    if gaps_mm.size == 0:
        return beyond
    if borders.shape[1] == 2:
        return borders[:, -1:] + gaps_mm
    coarse = grid[:: max(1, len(grid) // 10)]
    lines = np.broadcast_to(coarse, (len(borders), len(coarse)))
    if borders.shape[1] == 0:
        return lines
    return np.where(lines >= borders[:, -1:] + gaps_mm.min(), lines, np.inf)


def _designs(
    depth: _Array, borders: _Array, lines: _Array, blur_mm: float, line_mm: float
) -> _Array:
    into = ndtr((depth - borders[:, :, None]) / blur_mm)
    ends = np.ones((len(borders), 1, depth.size))
    into = np.concatenate([ends, into, 0.0 * ends], axis=1)
    parts = -np.diff(into, axis=1).transpose(0, 2, 1)
    ways = (depth - lines[:, :, None]) / blur_mm
    line = ndtr(ways) - ndtr(ways - line_mm / blur_mm)
    parts = np.repeat(parts, lines.shape[1], axis=0)
    return np.concatenate([parts, line.reshape(-1, depth.size, 1)], axis=2)


def _best(means: _Array, model: _Model) -> tuple[NDArray[np.intp], _Array]:
    # the borders that explain most of each mean, and the signals between them and of the line
    n_places, n_samples, n_levels = model.bases.shape
    flat = model.bases.transpose(0, 2, 1).reshape(-1, n_samples)
    shares = (flat @ means.T).reshape(n_places, n_levels, -1)
    # a line may be dark alone
    shares[:, -1] = np.where(shares[:, -1] * model.line_sign[:, None] > 0.0, shares[:, -1], 0.0)
    explained = (shares**2).sum(axis=1)
    if n_levels > 2:
        # what is sought is a layer that is darker than the one above it
        is_darker = np.einsum("gk,gkm->gm", model.drop, shares) > 0.0
        explained = np.where(is_darker, explained, -1.0)
    place = np.argmax(explained, axis=0)
    designs = model.designs[place].copy()
    is_dark = shares[place, -1, np.arange(len(place))] != 0.0
    designs[:, :, -1] *= is_dark[:, None]
    levels = np.linalg.pinv(designs) @ means[:, :, None]
    return place, levels[:, :, 0]


def _count_borders(signal: _Array, models: list[_Model], significance: float) -> int:
    # each part is foretold from the curves that fit the other parts; gains over fewer borders are
    # tested over all profiles at once
    part = np.arange(len(signal)) % _N_PARTS
    errors = np.empty((len(models), len(signal)))
    for number in range(_N_PARTS):
        is_left_out = part == number
        mean = signal[~is_left_out].mean(axis=0)[None]
        for model, row in zip(models, errors, strict=True):
            place, levels = _best(mean, model)
            curve = model.designs[place[0]] @ levels[0]
            row[is_left_out] = ((signal[is_left_out] - curve) ** 2).sum(axis=1)
    limit = stats.t.isf(significance, len(signal) - 1)
    n_borders = 0
    for more in (1, 2):
        gain = errors[n_borders] - errors[more]
        if gain.mean() > limit * gain.std(ddof=1) / np.sqrt(len(gain)):
            n_borders = more
    return n_borders
