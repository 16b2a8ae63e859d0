"""Receive field of a station of the body, from fat and from each muscle against itself."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.checks import as_float, require_range, require_same_shape

_Array = NDArray[np.float64]
_Whole = NDArray[np.int64]

_MOST_SAMPLES = 20_000
_FEWEST_SAMPLES = 200
_BODY_SHARE = 0.08  # of the 99th percentile, from which a voxel counts as body and not air
_N_ROUNDS = 30
_PURE_RANGE = 0.3  # of log signal over a voxel and its six neighbours; more is two tissues in one
_RIDGE_STEP = 0.05
_FIRST_SD, _LEAST_SD, _MOST_SD = 0.3, 0.03, 0.12  # of log signal in one tissue
_SD_STEP = 0.03  # by which the widest that is allowed narrows from round to round
_OUTLIER_SHARES = (0.02, 0.4)
_OUTLIER_SPAN = 4.0  # range of log signal over which other tissues may lie
# before its brightness is looked at: fat in a muscle, and outside all muscles
_FAT_IN_LABEL, _FAT_ELSEWHERE = 0.1, 0.5
_ROUNDS_PER_ORDER = 5
_BRIGHT_PERCENTILE, _MODE_WIDTH = 97.0, 0.2
_LEAST_STEP = 0.25  # of log signal, by which muscle is darker than fat
_RIDGE = 1e-4


class _Samples(NamedTuple):
    logs: _Array  # (N,) log signal
    products: _Array  # (N, B) polynomials
    region: _Whole  # (N,) 0 up
    is_named: NDArray[np.bool_]  # (N,) whether a label tells the region


class _Model(NamedTuple):
    """Mean log signal of fat and of every region, and the field's weights."""

    fat: float
    means: _Array  # (R,)
    weights: _Array  # (B,)
    fat_sd: float
    sds: _Array  # (R,)
    outliers: float


def tissue_field(
    image: ArrayLike,
    labels: NDArray[np.integer],
    voxel_mm: ArrayLike,
    *,
    order: int,
    cell_mm: float,
) -> NDArray[np.float32]:
    r"""Receive field of a station, from fat and from each muscle against itself.

    Parameters
    ----------
    image : (X, Y, Z) array_like
        Magnitude image in which fat is the brightest tissue that is common, in any unit.
    labels : (X, Y, Z) array of int
        Muscle or bone of each voxel; 0 where nobody said.
    voxel_mm : (3,) array_like
        Edges of a voxel, in mm.
    order : int
        Of the polynomial that is the logarithm of the field, 1 to 6.
    cell_mm : float
        Edge of the cubes into which unlabelled tissue is parted, in mm, positive; each has a
        brightness of its own, as each muscle has.

    Returns
    -------
    (X, Y, Z) array of float32
        Factors above 0, 1 on geometric average over the body; an image divided by them is that of
        an even coil.

    Raises
    ------
    NumericsError
        If shapes differ, an option is out of range or too little of the image has signal.

    Notes
    -----
    Log signal is :math:`\mu_F + P(x)` in fat, wherever it lies, and :math:`\mu_r + P(x)` in
    region r: what muscles differ by is their own and no part of the field. Expectation and
    maximisation take turns (Wells et al. 1996, doi:10.1109/42.511747), with a flat class for
    bone, vessels and air. Voxels that differ from their neighbours hold two tissues and do not
    count, except those as bright as the brightest of them, as thin fat under the skin is. N4
    (Tustison et al. 2010) sharpens one histogram of all tissues, and takes muscles that differ
    for part of the field.

    Examples
    --------
    >>> x, y, z = np.mgrid[:30, :30, :12] - 14.5
    >>> radius = np.hypot(x, y)
    >>> muscle = np.where(radius < 9, np.where(x > 0, 0.5, 0.3), 1.0) * (radius < 14)
    >>> labels = np.where(radius < 9, 1 + (x > 0), 0)
    >>> truth = np.exp(0.02 * x)
    >>> field = tissue_field(muscle * truth, labels, [3, 3, 5], order=2, cell_mm=60.0)
    >>> round(float(field[22, 14, 6] / field[7, 14, 6]) / float(np.exp(0.02 * 15)), 2)
    1.0
    """
    signal = as_float("image", image, ndim=3)
    require_same_shape(image=signal, labels=labels)
    require_range("order", order, 1, 6)
    require_range("cell_mm", cell_mm, 0.0, float("inf"), unit="mm", open_low=True)
    edges_mm = as_float("voxel_mm", voxel_mm, ndim=1)
    body = signal > _BODY_SHARE * np.percentile(signal, 99)
    low, high = _box(body)
    powers = _powers(order)
    tables = [
        np.asarray(
            np.polynomial.legendre.legvander(_places(np.arange(n), low[a], high[a]), order),
            np.float64,
        )
        for a, n in enumerate(signal.shape)
    ]
    samples = _samples(signal, body, labels, edges_mm, cell_mm, tables, powers)
    model = _start(samples)
    for turn in range(_N_ROUNDS):
        # a field that may bend at once would turn one tissue into another
        n_terms = int(np.count_nonzero(powers.sum(axis=1) <= 1 + turn // _ROUNDS_PER_ORDER))
        most_sd = max(_MOST_SD, _FIRST_SD - turn * _SD_STEP)
        model = _improved(samples, model, most_sd, n_terms)
    cube = np.zeros((order + 1,) * 3)
    cube[tuple(powers.T)] = model.weights
    log_field = np.einsum("ijk,xi,yj,zk->xyz", cube, *tables, optimize=True)
    return np.asarray(np.exp(log_field - log_field[body].mean()), dtype=np.float32)


def _box(body: NDArray[np.bool_]) -> tuple[list[int], list[int]]:
    """First and last index of a mask along each axis."""
    low, high = [], []
    for axis in range(3):
        filled = np.flatnonzero(body.any(axis=tuple(a for a in range(3) if a != axis)))
        if not len(filled):
            raise NumericsError("image has no signal; give a station that shows a body")
        low.append(int(filled[0]))
        high.append(int(filled[-1]))
    return low, high


def _places(index: _Whole, low: int, high: int) -> _Array:
    """Index as -1 to 1 between low and high, and no further: polynomials explode outside."""
    return np.asarray(np.clip((index - low) / max(high - low, 1) * 2.0 - 1.0, -1.0, 1.0))


def _powers(order: int) -> _Whole:
    """Exponents of the terms, low orders first; the constant is left to the tissues."""
    powers = [
        (i, j, k)
        for i in range(order + 1)
        for j in range(order + 1 - i)
        for k in range(order + 1 - i - j)
    ]
    return np.array(sorted(powers, key=sum)[1:], dtype=np.int64)


def _samples(
    signal: _Array,
    body: NDArray[np.bool_],
    labels: NDArray[np.integer],
    edges_mm: _Array,
    cell_mm: float,
    tables: list[_Array],
    powers: _Whole,
) -> _Samples:
    logs = np.log(np.maximum(signal, np.finfo(np.float32).tiny))
    cross = ndimage.generate_binary_structure(3, 1)
    brightest = ndimage.maximum_filter(logs, footprint=cross)
    span = brightest - ndimage.minimum_filter(logs, footprint=cross)
    # fat under the skin may be as thin as a voxel: what is as bright as its brightest neighbour
    # holds no other tissue either
    is_ridge = (logs > brightest - _RIDGE_STEP) & (labels == 0)
    is_pure = body & (span < _PURE_RANGE)
    n_pure = int(np.count_nonzero(is_pure))
    if n_pure < _FEWEST_SAMPLES:
        raise NumericsError(
            f"image has {n_pure} voxels of one tissue, as bright as their neighbours; the "
            f"receive field is told by {_FEWEST_SAMPLES} or more: its noise is too high, or its "
            "voxels are too coarse"
        )
    voxels = np.argwhere(is_pure | (body & is_ridge))
    voxels = voxels[:: max(1, len(voxels) // _MOST_SAMPLES)]
    label = labels[tuple(voxels.T)].astype(np.int64)
    cells = np.ravel_multi_index(
        tuple((voxels * edges_mm // cell_mm).astype(np.int64).T),
        tuple(int(n * e // cell_mm) + 1 for n, e in zip(signal.shape, edges_mm, strict=True)),
    )
    region = np.unique(np.where(label > 0, label, -1 - cells), return_inverse=True)[1]
    columns = [tables[axis][voxels[:, axis]][:, powers[:, axis]] for axis in range(3)]
    found = logs[tuple(voxels.T)]
    return _Samples(
        # the unit of the image must not matter to what keeps the system regular
        found - np.median(found),
        np.asarray(columns[0] * columns[1] * columns[2], np.float64),
        np.asarray(region, np.int64),
        label > 0,
    )


def _start(samples: _Samples) -> _Model:
    """Fat is the brightest tissue of which there is some, the rest what is clearly darker."""
    fat = _brightest_mode(samples.logs)
    bright = samples.logs > fat - _LEAST_STEP
    dark = float(np.median(samples.logs[~bright]))
    means = np.full(int(samples.region.max()) + 1, dark)
    for region in np.unique(samples.region[~bright]):
        means[region] = np.median(samples.logs[~bright & (samples.region == region)])
    return _Model(
        fat,
        means,
        np.zeros(samples.products.shape[1]),
        _FIRST_SD,
        np.full(len(means), _FIRST_SD),
        _OUTLIER_SHARES[0],
    )


def _brightest_mode(logs: _Array) -> float:
    """Mode of log signal that lies nearest below its brightest percentiles (mean shift)."""
    mode = float(np.percentile(logs, _BRIGHT_PERCENTILE))
    for _ in range(_N_ROUNDS):
        mode = float(logs[np.abs(logs - mode) < _MODE_WIDTH].mean())
    return mode


def _improved(samples: _Samples, model: _Model, most_sd: float, n_terms: int) -> _Model:
    """One expectation and one maximisation."""
    even = samples.logs - samples.products @ model.weights
    own_mean, own_sd = model.means[samples.region], model.sds[samples.region]
    # what is as bright as fat and has no name is fat
    own_mean = np.where(samples.is_named, own_mean, np.minimum(own_mean, model.fat - _LEAST_STEP))
    fat_prior = np.where(samples.is_named, _FAT_IN_LABEL, _FAT_ELSEWHERE)
    fat = fat_prior * _density(even, model.fat, model.fat_sd)
    own = (1.0 - fat_prior) * _density(even, own_mean, own_sd)
    other = model.outliers / _OUTLIER_SPAN
    total = (1.0 - model.outliers) * (fat + own) + other
    fat *= (1.0 - model.outliers) / total
    own *= (1.0 - model.outliers) / total
    solution = _solve(samples, fat / model.fat_sd**2, own / own_sd**2, len(model.means), n_terms)
    weights = np.zeros(len(model.weights))
    weights[:n_terms] = solution[:n_terms]
    means, mean = solution[n_terms:-1], solution[-1]
    even = samples.logs - samples.products @ weights
    fat_sd = np.sqrt((fat * (even - mean) ** 2).sum() / max(float(fat.sum()), 1e-9))
    mass = np.maximum(_sum_by(samples.region, own, len(means)), 1e-9)
    squares = _sum_by(samples.region, own * (even - means[samples.region]) ** 2, len(means))
    return _Model(
        float(mean),
        means,
        weights,
        float(np.clip(fat_sd, _LEAST_SD, most_sd)),
        np.clip(np.sqrt(squares / mass), _LEAST_SD, most_sd),
        float(np.clip(np.mean(other / total), *_OUTLIER_SHARES)),
    )


def _density(values: _Array, mean: _Array | float, sd: _Array | float) -> _Array:
    return np.asarray(np.exp(-0.5 * ((values - mean) / sd) ** 2) / (sd * np.sqrt(2.0 * np.pi)))


def _sum_by(region: _Whole, values: _Array, n_regions: int) -> _Array:
    return np.bincount(region, weights=values, minlength=n_regions).astype(np.float64)


def _solve(samples: _Samples, fat: _Array, own: _Array, n_regions: int, n_terms: int) -> _Array:
    """Weights of the field, mean of every region and mean of fat, by least squares at once."""
    products, region, logs = samples.products[:, :n_terms], samples.region, samples.logs
    both = fat + own
    normal = np.zeros((n_terms + n_regions + 1,) * 2)
    wanted = np.zeros(len(normal))
    terms, means = slice(0, n_terms), slice(n_terms, n_terms + n_regions)
    normal[terms, terms] = (products * both[:, np.newaxis]).T @ products
    normal[terms, means] = np.stack(
        [_sum_by(region, own * column, n_regions) for column in products.T]
    )
    normal[terms, -1] = products.T @ fat
    normal[means, terms], normal[-1, terms] = normal[terms, means].T, normal[terms, -1]
    # a region that all went to fat keeps a mean that no voxel asks for
    normal[means, means] = np.diag(_sum_by(region, own, n_regions) + 1e-6)
    normal[-1, -1] = fat.sum() + 1e-6
    # powers that a thin limb cannot tell apart would leave the system singular
    normal[terms, terms] += _RIDGE * both.sum() * np.eye(n_terms)
    wanted[terms] = products.T @ (both * logs)
    wanted[means] = _sum_by(region, own * logs, n_regions)
    wanted[-1] = fat @ logs
    return np.asarray(np.linalg.solve(normal, wanted), dtype=np.float64)
