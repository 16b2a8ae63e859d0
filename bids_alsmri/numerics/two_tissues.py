"""Muscle and fat as two brightnesses under the smooth field of the coil."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.checks import as_float, require_range, require_same_shape

_Array = NDArray[np.float64]
_Mask = NDArray[np.bool_]

_MOST_SAMPLES = 20_000  # voxels that the mixture is fitted to; more change the field by < 0.5 %
_SKIN_MM = 3.0  # no voxel nearer to the surface counts: skin and partial volume
_N_ROUNDS = 20
_N_REFITS = 2  # of the mixture, each after the slices' gains were taken from muscle alone
_N_GUIDED = 10  # rounds in which the depth decides much, before the brightness does
_SHALLOW, _DEEP = 0.1, 0.6  # depth over the deepest of the slice: surely fat, surely muscle
_LEAST_SD, _MOST_SD = 0.02, 0.2  # of log signal within one tissue
_OUTLIER_SHARES = (0.02, 0.4)
_OUTLIER_SPAN = 4.0  # range of log signal over which other tissues may lie
_LEAST_SHARE = 0.4  # signal over the slice's typical one below which a voxel is bone or vessel
_LEAST_CONTRAST = 0.5  # of log signal of fat and muscle, in spreads of either
_RIDGE = 1e-4


@dataclass(frozen=True)
class TwoTissues:
    """Brightness of muscle and fat, and the field by which the coil changes both.

    Attributes
    ----------
    even : (X, Y, Z) array
        Image without the coil's field and in units of muscle: muscle is 1; 0 outside the mask.
    field : (X, Y, Z) array
        Signal of muscle at each place of the mask, in the unit of the image; 0 outside.
    fat : float
        Signal of fat over that of muscle.
    muscle_sd, fat_sd : float
        Spread of the log signal of either tissue.
    """

    even: _Array
    field: _Array
    fat: float
    muscle_sd: float
    fat_sd: float


class _Polynomials(NamedTuple):
    """Legendre polynomials along each axis, and which products of them the field may hold."""

    along: tuple[_Array, _Array, _Array]  # (size, order + 1) each
    powers: NDArray[np.int64]  # (n, 3)

    def at(self, voxels: NDArray[np.int64]) -> _Array:
        """Products at voxels (n, 3)."""
        columns = [self.along[axis][voxels[:, axis]][:, self.powers[:, axis]] for axis in range(3)]
        return np.asarray(columns[0] * columns[1] * columns[2], dtype=np.float64)

    def everywhere(self, weights: _Array) -> _Array:
        """Weighted sum on the whole grid."""
        cube = np.zeros(tuple(table.shape[1] for table in self.along))
        cube[tuple(self.powers.T)] = weights
        return np.asarray(np.einsum("ijk,xi,yj,zk->xyz", cube, *self.along, optimize=True))


class _Mixture(NamedTuple):
    means: _Array  # (2,) log signal of fat and muscle
    sds: _Array  # (2,)
    outlier_share: float


def even_tissues(
    image: ArrayLike,
    mask: _Mask,
    voxel_mm: ArrayLike,
    *,
    slice_axis: int,
    order: int,
    muscle_share: ArrayLike | None = None,
) -> TwoTissues:
    r"""Muscle and fat of a limb brought to one brightness each.

    Parameters
    ----------
    image : (X, Y, Z) array_like
        Magnitude image, in any unit.
    mask : (X, Y, Z) array of bool
        Limbs, skin included.
    voxel_mm : (3,) array_like
        Edges of a voxel, in mm.
    slice_axis : int
        Axis across the slices, 0 to 2; each slice has a gain of its own.
    order : int
        Highest order of the polynomials that make the field, 1 to 8.
    muscle_share : (X, Y, Z) array_like, optional
        How sure it is before that a voxel is muscle and not fat, 0 to 1; by default the depth
        under the skin tells.

    Returns
    -------
    TwoTissues
        Field, brightness of both tissues and the image in units of muscle.

    Raises
    ------
    NumericsError
        If the mask is too small or has no signal.

    Notes
    -----
    Log signal is a mixture of two normal classes and a flat one (bone, vessels, fasciae), moved
    by :math:`g_k + \sum b_j P_j(x)`: the gain of slice k and products of Legendre polynomials.
    Expectation and maximisation take turns (Wells et al. 1996, doi:10.1109/42.511747; Van
    Leemput et al. 1999, doi:10.1109/42.811268). What is fat is told by the depth first: fat lies
    under the skin, muscle in the middle. Either may be the brighter. Gains start from the ratio
    of neighbouring slices at the same place, which changes of anatomy along a limb leave alone;
    then they are those of muscle, since at the ends of a slab fat changes otherwise.

    Examples
    --------
    >>> x, y, z = np.mgrid[:40, :40, :3] - 19.5
    >>> radius = np.hypot(x, y)
    >>> image = np.where(radius < 12, 1.0, 3.0) * (1 + 0.01 * x)
    >>> tissues = even_tissues(image, radius < 19, [2, 2, 9], slice_axis=2, order=2)
    >>> round(tissues.fat, 2)
    3.0
    """
    signal = np.moveaxis(as_float("image", image, ndim=3), slice_axis, 2)
    inside = np.moveaxis(mask, slice_axis, 2)
    require_same_shape(image=signal, mask=inside)
    require_range("order", order, 1, 8)
    edges_mm = np.delete(as_float("voxel_mm", voxel_mm, ndim=1), slice_axis)
    depth_mm, relative = _depths(inside, edges_mm)
    voxels, counted = _samples(signal, inside & (depth_mm > _SKIN_MM))
    logs = np.log(counted)
    gains = _slice_gains(signal, inside & (depth_mm > _SKIN_MM))
    polynomials = _polynomials(signal.shape, inside, order)
    products = polynomials.at(voxels)
    sureness = np.clip((relative - _SHALLOW) / (_DEEP - _SHALLOW), 0.0, 1.0)
    if muscle_share is not None:
        sureness = np.moveaxis(as_float("muscle_share", muscle_share, ndim=3), slice_axis, 2)
    sure = sureness[tuple(voxels.T)]
    for _ in range(_N_REFITS):
        weights, mixture = _fit(logs - gains[voxels[:, 2]], sure, products)
        fat, muscle = mixture.means
        log_field = polynomials.everywhere(weights) + muscle
        gains = _muscle_gains(signal, inside & (sureness > 0.3), log_field, gains, mixture)
    log_field = log_field + gains
    field = np.where(inside, np.exp(log_field), 0.0)
    even = np.divide(signal, field, out=np.zeros_like(signal), where=inside)
    return TwoTissues(
        np.moveaxis(even, 2, slice_axis),
        np.moveaxis(field, 2, slice_axis),
        float(np.exp(fat - muscle)),
        float(mixture.sds[1]),
        float(mixture.sds[0]),
    )


def require_contrast(tissues: TwoTissues) -> None:
    """Raise where muscle and fat cannot be told apart by their brightness.

    Parameters
    ----------
    tissues : TwoTissues
        From `even_tissues`.

    Raises
    ------
    NumericsError
        If they differ by less than half of the spread within the narrower.

    Examples
    --------
    >>> ones = np.ones((2, 2, 2))
    >>> require_contrast(TwoTissues(ones, ones, fat=2.5, muscle_sd=0.1, fat_sd=0.1))
    """
    spread = min(tissues.muscle_sd, tissues.fat_sd)
    if not abs(np.log(tissues.fat)) > _LEAST_CONTRAST * spread:
        raise NumericsError(
            f"fat is {tissues.fat:.2f} times as bright as muscle and either spreads by "
            f"{100 * spread:.0f} %; the two cannot be told apart: give a T1w, a T2w "
            "without fat suppression or a Dixon pair"
        )


def _depths(inside: _Mask, edges_mm: _Array) -> tuple[_Array, _Array]:
    """Depth under the surface in mm, and over that of the deepest point of the part it is in."""
    depth = np.zeros(inside.shape)
    relative = np.zeros(inside.shape)
    for index in range(inside.shape[2]):
        parts, n_parts = ndimage.label(inside[..., index])
        if n_parts == 0:
            continue
        # beyond the field of view the limb goes on: no surface there
        depth[..., index] = ndimage.distance_transform_edt(inside[..., index], sampling=edges_mm)
        deepest = ndimage.maximum(depth[..., index], parts, np.arange(n_parts + 1))
        deepest = np.maximum(np.atleast_1d(deepest), 1e-6)
        relative[..., index] = depth[..., index] / deepest[parts]
    return depth, relative


def _samples(signal: _Array, usable: _Mask) -> tuple[NDArray[np.int64], _Array]:
    """Voxels spread evenly over the mask, and their signal; dark ones count as little."""
    voxels = np.argwhere(usable)
    if len(voxels) < 100:
        raise NumericsError(
            f"mask holds {len(voxels)} voxels deeper than {_SKIN_MM:g} mm; give the mask of a limb "
            "with at least 100"
        )
    # a stride prime to the rows' lengths, so that the samples do not fall into lines
    stride = max(1, len(voxels) // _MOST_SAMPLES)
    voxels = voxels[::stride]
    values = signal[tuple(voxels.T)]
    floor = 1e-3 * float(np.median(values))
    if floor <= 0.0:
        raise NumericsError("image is 0 in half of the mask; give the mask of what has signal")
    return voxels, np.maximum(values, floor)


def _slice_gains(signal: _Array, usable: _Mask) -> _Array:
    """Log of each slice's typical signal, carried from the middle by ratios of neighbours."""
    n_slices = signal.shape[2]
    floor = 1e-3 * float(np.median(signal[usable]))
    logs = np.log(np.maximum(signal, floor))
    start = int(np.argmax(usable.sum(axis=(0, 1))))
    gains = np.zeros(n_slices)
    gains[start] = float(np.median(logs[..., start][usable[..., start]]))
    for way in (1, -1):
        last = start + (n_slices if way > 0 else -n_slices - 1)
        for index in range(start + way, min(max(last, -1), n_slices), way):
            both = usable[..., index] & usable[..., index - way]
            step = logs[..., index][both] - logs[..., index - way][both]
            gains[index] = gains[index - way] + (float(np.median(step)) if len(step) > 20 else 0.0)
    return gains


def _muscle_gains(
    signal: _Array, deep: _Mask, log_field: _Array, gains: _Array, mixture: _Mixture
) -> _Array:
    """Gains that keep muscle at 1: what is muscle in one slice is followed into the next."""
    floor = 1e-3 * float(np.median(signal[deep])) if deep.any() else 1.0
    logs = np.log(np.maximum(signal, max(floor, 1e-12))) - log_field
    start = int(np.argmax(deep.sum(axis=(0, 1))))
    halfway = 0.5 * abs(float(mixture.means[0] - mixture.means[1]))
    nearness = min(3.0 * float(mixture.sds[1]), halfway)
    followed = gains.copy()
    for way in (1, -1):
        end = signal.shape[2] if way > 0 else -1
        for index in range(start + way, end, way):
            before = index - way
            muscle = deep[..., index] & deep[..., before]
            muscle &= np.abs(logs[..., before] - followed[before]) < nearness
            if np.count_nonzero(muscle) > 20:
                followed[index] = float(np.median(logs[..., index][muscle]))
            else:
                followed[index] = followed[before] + gains[index] - gains[before]
    return followed


def _polynomials(shape: tuple[int, ...], inside: _Mask, order: int) -> _Polynomials:
    tables: list[_Array] = []
    for axis, size in enumerate(shape):
        others = tuple(a for a in range(3) if a != axis)
        filled = np.flatnonzero(inside.any(axis=others))
        low, high = float(filled[0]), float(max(filled[-1], filled[0] + 1))
        place = (np.arange(size) - low) / (high - low) * 2.0 - 1.0
        table = np.polynomial.legendre.legvander(np.clip(place, -1.0, 1.0), order)
        tables.append(np.asarray(table, dtype=np.float64))
    powers = [
        (i, j, k)
        for i in range(order + 1)
        for j in range(order + 1 - i)
        for k in range(min(order + 1 - i - j, shape[2]))
    ]
    return _Polynomials((tables[0], tables[1], tables[2]), np.array(powers, dtype=np.int64))


def _fit(logs: _Array, sureness: _Array, design: _Array) -> tuple[_Array, _Mixture]:
    weights = np.zeros(design.shape[1])
    residual = logs
    bright = residual > np.log(_LEAST_SHARE)
    means = np.array(
        [
            np.median(residual[bright & (sureness < 0.3)]),
            np.median(residual[bright & (sureness > 0.7)]),
        ]
    )
    mixture = _Mixture(means, np.array([0.15, 0.15]), 0.1)
    for turn in range(_N_ROUNDS):
        guidance = 0.96 if turn < _N_GUIDED else 0.8
        prior = 0.5 + guidance * (np.stack([1.0 - sureness, sureness], axis=1) - 0.5)
        shares, mixture = _expect(residual, prior, mixture)
        certainty = shares / mixture.sds**2
        total = certainty.sum(axis=1)
        wanted = logs - (certainty @ mixture.means) / np.maximum(total, 1e-12)
        weights = _solve(design, wanted, total)
        residual = logs - design @ weights
    return weights, mixture


def _expect(residual: _Array, prior: _Array, mixture: _Mixture) -> tuple[_Array, _Mixture]:
    """Share of either tissue in each sample, and the mixture those shares make."""
    distance = (residual[:, np.newaxis] - mixture.means) / mixture.sds
    density = np.exp(-0.5 * distance**2) / (mixture.sds * np.sqrt(2.0 * np.pi))
    likely = density * prior * (1.0 - mixture.outlier_share)
    other = mixture.outlier_share / _OUTLIER_SPAN
    total = likely.sum(axis=1) + other
    shares = likely / total[:, np.newaxis]
    mass = np.maximum(shares.sum(axis=0), 1e-9)
    means = (shares * residual[:, np.newaxis]).sum(axis=0) / mass
    spread = (shares * (residual[:, np.newaxis] - means) ** 2).sum(axis=0) / mass
    sds = np.clip(np.sqrt(spread), _LEAST_SD, _MOST_SD)
    outliers = float(np.clip(np.mean(other / total), *_OUTLIER_SHARES))
    return shares, _Mixture(means, sds, outliers)


def _solve(design: _Array, wanted: _Array, weight: _Array) -> _Array:
    weighted = design * weight[:, np.newaxis]
    normal = weighted.T @ design
    # powers that one slice or a thin limb cannot tell apart would leave the system singular
    normal[np.diag_indices_from(normal)] += _RIDGE * np.trace(normal) / len(normal)
    return np.asarray(np.linalg.solve(normal, weighted.T @ wanted), dtype=np.float64)
