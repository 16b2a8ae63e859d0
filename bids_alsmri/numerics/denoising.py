"""Denoising of diffusion series by principal components of overlapping patches."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, special

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.checks import require_finite, require_range, require_same_shape
from bids_alsmri.numerics.compile import kernel
from bids_alsmri.numerics.eigen import dot, eigenvectors, tridiagonal_eigenvalues, tridiagonalise

_FEWEST_VOLUMES = 4  # fewer leave no noise component beside the signal's
_LANES = 8  # float64 numbers of the widest vector register: rows start at multiples of it
_WHOLE_PATCH = -1  # in place of the index of a voxel within the patch
_RELATIVE_ZERO = 2.220446049250313e-16  # spacing of float64 at 1

_Array = NDArray[np.float64]
_Index = NDArray[np.int64]
_Mask = NDArray[np.bool_]
Reconstruction = Literal["average", "centre"]


@dataclass(frozen=True)
class DenoisedSeries:
    """What local PCA makes of a diffusion series.

    Attributes
    ----------
    signal : (X, Y, Z, N) array
        Denoised signal in the unit of the input, not negative, 0 outside the mask. Computed in
        float64; stored in the input's precision (float32 or float64).
    noise_sigma : (X, Y, Z) array of float32
        Standard deviation of the noise in the unit of the input, 0 outside the mask.
    n_components : (X, Y, Z) array of float32
        Number of components kept beside the patch's mean, averaged over the patches that made
        the voxel; 0 outside the mask.
    """

    signal: NDArray[np.floating]
    noise_sigma: NDArray[np.float32]
    n_components: NDArray[np.float32]


class _Rician(NamedTuple):
    """What a Rician magnitude does to mean and variance, tabulated over the true SNR."""

    mean_by_std: _Array  # of the magnitude, ascending
    variance_share: _Array  # variance of the magnitude / variance of one channel


class _Work(NamedTuple):
    """Scratch arrays of one thread; rows are padded to whole vector registers."""

    patch: _Array  # (n_voxels, N), centred
    turned: _Array  # (N, n_voxels), its transpose
    mean: _Array
    gram: _Array
    diagonal: _Array
    off: _Array
    off2: _Array
    half_norm: _Array
    values: _Array
    vectors: _Array
    weights: _Array  # (N, n_voxels), voxels' coordinates on the components
    estimate: _Array  # (N, n_voxels)
    lu: _Array


class _Sums(NamedTuple):
    """Weighted sums over patches, one row for each voxel of the mask."""

    signal: _Array
    weight: _Array
    variance: _Array
    rank: _Array


def _padded(n: int) -> int:
    return -(-n // _LANES) * _LANES


def _make_work(n_voxels: int, n_volumes: int) -> _Work:
    wide, long = _padded(n_volumes), _padded(n_voxels)
    return _Work(
        np.zeros((n_voxels, wide)),
        np.zeros((n_volumes, long)),
        np.zeros(wide),
        np.zeros((n_volumes, wide)),
        np.zeros(wide),
        np.zeros(wide),
        np.zeros(wide),
        np.zeros(wide),
        np.zeros(wide),
        np.zeros((n_volumes, wide)),
        np.zeros((n_volumes, long)),
        np.zeros((n_volumes, long)),
        np.zeros((5, wide)),
    )


@kernel
def _load_patch(dwi: NDArray[np.floating], corner: _Index, size: _Index, work: _Work) -> None:
    n_volumes = dwi.shape[3]
    mean, patch = work.mean, work.patch
    for b in range(n_volumes):
        mean[b] = 0.0
    v = 0
    for x in range(corner[0], corner[0] + size[0]):
        for y in range(corner[1], corner[1] + size[1]):
            for z in range(corner[2], corner[2] + size[2]):
                source, row = dwi[x, y, z], patch[v]
                for b in range(n_volumes):
                    row[b] = source[b]
                    mean[b] += row[b]
                v += 1
    inverse = 1.0 / v
    for b in range(n_volumes):
        mean[b] *= inverse
    for i in range(v):
        row = patch[i]
        for b in range(n_volumes):
            row[b] -= mean[b]


@kernel
def _fill_gram(patch: _Array, n_voxels: int, n_volumes: int, gram: _Array) -> None:
    # rows of the lower triangle up to a whole register (patch is 0 beyond n_volumes), four voxels
    # at a time: one load and store of gram for four terms
    for a in range(n_volumes):
        for b in range(gram.shape[1]):
            gram[a, b] = 0.0
    n_blocked = n_voxels - n_voxels % 4
    for v in range(0, n_blocked, 4):
        row0, row1, row2, row3 = patch[v], patch[v + 1], patch[v + 2], patch[v + 3]
        for a in range(n_volumes):
            x0, x1, x2, x3 = row0[a], row1[a], row2[a], row3[a]
            out = gram[a]
            for b in range((a // 8 + 1) * 8):
                out[b] += (x0 * row0[b] + x1 * row1[b]) + (x2 * row2[b] + x3 * row3[b])
    for v in range(n_blocked, n_voxels):
        row0 = patch[v]
        for a in range(n_volumes):
            x0 = row0[a]
            out = gram[a]
            for b in range((a // 8 + 1) * 8):
                out[b] += x0 * row0[b]
    inverse = 1.0 / n_voxels
    for a in range(n_volumes):
        for b in range(a + 1):
            gram[a, b] *= inverse
            gram[b, a] = gram[a, b]


@kernel
def _noise_variance(values: _Array, n_volumes: int, n_voxels: int) -> float:
    # the largest set of small eigenvalues whose spread fits a Marchenko-Pastur distribution of
    # their own mean as variance (Veraart 2016, equation 12); values ascend
    total = 0.0
    for c in range(n_volumes):
        total += values[c]
    for c in range(n_volumes - 1, 0, -1):
        variance: float = total / (c + 1)
        width = 4.0 * np.sqrt((c + 1.0) / n_voxels) * variance
        if values[c] - values[0] <= width:
            return variance
        # summed anew: the large values taken off would leave their rounding in the small sum
        total = 0.0
        for i in range(c):
            total += values[i]
    smallest: float = values[0]
    return smallest


@kernel
def _solve_patch(
    work: _Work, n_voxels: int, n_volumes: int, tau2: float, known_variance: float
) -> tuple[float, int, bool]:
    # leaves eigenvalues and tridiagonal form in work; returns variance, rank, success
    _fill_gram(work.patch, n_voxels, n_volumes, work.gram)
    tridiagonalise(work.gram, n_volumes, work.diagonal, work.off, work.half_norm, work.lu[0])
    values = work.values
    for i in range(n_volumes):
        values[i] = work.diagonal[i]
        work.off2[i] = work.off[i] * work.off[i]
    if not tridiagonal_eigenvalues(values, work.off2, n_volumes):
        return 0.0, n_volumes, False
    # where the background was zeroed, what should be exact zeros is rounding of either sign
    zero = n_volumes * _RELATIVE_ZERO * values[n_volumes - 1]
    for i in range(n_volumes):
        if values[i] < zero:
            values[i] = 0.0
    variance = known_variance
    if variance < 0.0:
        variance = _noise_variance(values, n_volumes, n_voxels)
    rank = 0
    for i in range(n_volumes):
        if values[i] >= tau2 * variance:
            rank += 1
    return variance, rank, True


@kernel
def _add_scaled_rows(
    factors: _Array, rows: _Array, n_rows: int, sign: float, n: int, out: _Array
) -> None:
    # out[:n] += sign * factors @ rows, four rows at a time
    n_blocked = n_rows - n_rows % 4
    for i in range(0, n_blocked, 4):
        f0, f1 = sign * factors[i], sign * factors[i + 1]
        f2, f3 = sign * factors[i + 2], sign * factors[i + 3]
        row0, row1, row2, row3 = rows[i], rows[i + 1], rows[i + 2], rows[i + 3]
        for m in range(n):
            out[m] += (f0 * row0[m] + f1 * row1[m]) + (f2 * row2[m] + f3 * row3[m])
    for i in range(n_blocked, n_rows):
        f0 = sign * factors[i]
        row0 = rows[i]
        for m in range(n):
            out[m] += f0 * row0[m]


@kernel
def _estimate_patch(
    work: _Work, n_vectors: int, from_signal: bool, n_voxels: int, n_volumes: int
) -> None:
    # volumes in rows, so that the inner loops run over the voxels, which are more
    for v in range(n_voxels):
        row = work.patch[v]
        for b in range(n_volumes):
            work.turned[b, v] = row[b]
    for j in range(n_vectors):
        weights = work.weights[j]
        for v in range(n_voxels):
            weights[v] = 0.0
        _add_scaled_rows(work.vectors[j], work.turned, n_volumes, 1.0, n_voxels, weights)
    for b in range(n_volumes):
        out, voxels = work.estimate[b], work.turned[b]
        for v in range(n_voxels):
            out[v] = 0.0 if from_signal else voxels[v]
        sign = 1.0 if from_signal else -1.0
        _add_scaled_rows(work.vectors[:, b], work.weights, n_vectors, sign, n_voxels, out)


@kernel
def _estimate_voxel(work: _Work, n_vectors: int, from_signal: bool, v: int, n_volumes: int) -> None:
    row, out = work.patch[v], work.estimate[0]
    for b in range(n_volumes):
        out[b] = 0.0 if from_signal else row[b]
    sign = 1.0 if from_signal else -1.0
    for j in range(n_vectors):
        weight = sign * dot(work.vectors[j], row, n_volumes)
        vector = work.vectors[j]
        for b in range(n_volumes):
            out[b] += weight * vector[b]


@kernel
def _add_voxel(
    row: int, weight: float, variance: float, rank: int, mean: _Array, estimate: _Array, sums: _Sums
) -> None:
    out = sums.signal[row]
    for b in range(out.shape[0]):
        out[b] += weight * (mean[b] + estimate[b])
    sums.weight[row] += weight
    sums.variance[row] += weight * variance
    sums.rank[row] += weight * rank


@kernel
def _add_patch(
    corner: _Index,
    size: _Index,
    mask_row: _Index,
    variance: float,
    rank: int,
    work: _Work,
    sums: _Sums,
) -> None:
    weight = 1.0 / (1.0 + rank)  # Manjon 2013, equation 3
    v = 0
    for x in range(corner[0], corner[0] + size[0]):
        for y in range(corner[1], corner[1] + size[1]):
            for z in range(corner[2], corner[2] + size[2]):
                row = mask_row[x, y, z]
                if row >= 0:
                    estimate = work.estimate[:, v]
                    _add_voxel(row, weight, variance, rank, work.mean, estimate, sums)
                v += 1


@kernel
def _denoise_patches(
    dwi: NDArray[np.floating],
    patches: _Index,
    size: _Index,
    known_variance: _Array,
    tau2: float,
    mask_row: _Index,
    work: _Work,
    sums: _Sums,
) -> int:
    # returns the number of patches whose eigenproblem did not converge
    n_volumes = dwi.shape[3]
    n_voxels = size[0] * size[1] * size[2]
    n_failed = 0
    for i in range(patches.shape[0]):
        corner, only = patches[i, :3], patches[i, 3]
        _load_patch(dwi, corner, size, work)
        variance, rank, solved = _solve_patch(work, n_voxels, n_volumes, tau2, known_variance[i])
        # from the smaller set of components, signal or noise
        from_signal = 2 * rank <= n_volumes
        first, stop = (n_volumes - rank, n_volumes) if from_signal else (0, n_volumes - rank)
        solved &= eigenvectors(
            work.gram,
            work.half_norm,
            work.diagonal,
            work.off,
            n_volumes,
            work.values,
            first,
            stop,
            work.vectors,
            work.lu,
        )
        if not solved:
            n_failed += 1
        if only < 0:
            _estimate_patch(work, stop - first, from_signal, n_voxels, n_volumes)
            _add_patch(corner, size, mask_row, variance, rank, work, sums)
        else:
            _estimate_voxel(work, stop - first, from_signal, only, n_volumes)
            row = mask_row[
                corner[0] + only // (size[1] * size[2]),
                corner[1] + only // size[2] % size[1],
                corner[2] + only % size[2],
            ]
            _add_voxel(row, 1.0, variance, rank, work.mean, work.estimate[0], sums)
    return n_failed


def _patch_size(
    dwi: NDArray[np.floating], patch_radius: int | tuple[int, int, int]
) -> NDArray[np.int64]:
    radii = np.asarray(patch_radius)
    if radii.ndim == 0:
        radii = np.repeat(radii, 3)
    if radii.shape != (3,) or not np.issubdtype(radii.dtype, np.integer) or np.any(radii < 0):
        raise NumericsError(
            f"patch_radius is {patch_radius}; give one whole number of voxels or one for each of "
            "the three axes, 0 or more"
        )
    shape = np.array(dwi.shape[:3])
    size = np.where(shape == 1, 1, 2 * radii + 1)
    for axis in range(3):
        if shape[axis] < size[axis]:
            raise NumericsError(
                f"dwi has {shape[axis]} voxels along axis {axis} but patch_radius "
                f"{radii[axis]} needs {size[axis]}; give a radius of at most "
                f"{(shape[axis] - 1) // 2} for this axis"
            )
    n_voxels, n_volumes = int(np.prod(size)), dwi.shape[3]
    if n_voxels <= n_volumes:
        raise NumericsError(
            f"patch_radius {patch_radius} makes patches of {n_voxels} voxels but dwi has "
            f"{n_volumes} volumes; take patch_radius {smallest_patch_radius(n_volumes)} or more, "
            "so that a patch has more voxels than volumes"
        )
    return size.astype(np.int64)


def smallest_patch_radius(n_volumes: int) -> int:
    """Radius of the smallest cubic patch that has more voxels than the series has volumes.

    Parameters
    ----------
    n_volumes : int
        Number of volumes, positive.

    Returns
    -------
    patch_radius : int
        In voxels; the patch has 2 `patch_radius` + 1 of them along each axis.

    Notes
    -----
    The Marchenko-Pastur bounds used here hold for more voxels than volumes. The same rule
    chooses the window of MRtrix ``dwidenoise`` 3.0.

    Examples
    --------
    >>> [smallest_patch_radius(n) for n in (21, 65, 124, 125, 300)]
    [1, 2, 2, 3, 3]
    """
    radius = 1
    while (2 * radius + 1) ** 3 <= n_volumes:
        radius += 1
    return radius


def _check_series(
    dwi: NDArray[np.floating], mask: NDArray[np.bool_]
) -> tuple[NDArray[np.floating], _Mask]:
    dwi, mask = np.asarray(dwi), np.asarray(mask)
    if dwi.ndim != 4:
        raise NumericsError(
            f"dwi has {dwi.ndim} axes (shape {dwi.shape}); give a series of shape (X, Y, Z, N)"
        )
    if dwi.shape[3] < _FEWEST_VOLUMES:
        raise NumericsError(
            f"dwi has {dwi.shape[3]} volumes; noise and signal can be told apart by principal "
            f"components from {_FEWEST_VOLUMES} volumes on: leave denoising out for this scan"
        )
    require_same_shape(**{"one volume of dwi": dwi[..., 0], "mask": mask})
    if mask.dtype != np.bool_:
        raise NumericsError(f"mask is of type {mask.dtype}; give booleans, as in mask > 0")
    if not mask.any():
        raise NumericsError("mask holds no voxel; there is nothing to denoise")
    if dwi.dtype not in (np.float32, np.float64):
        dwi = dwi.astype(np.float64)
    require_finite("dwi", dwi)
    return np.ascontiguousarray(dwi), mask


def _grid_patches(mask: _Mask, size: _Index, stride: int) -> _Index:
    # corners of the patches of a regular grid that are centred in the mask, x slowest
    starts = []
    for axis in range(3):
        last = mask.shape[axis] - int(size[axis])
        # a grid whose last patch ends with the volume, however the stride divides it
        starts.append(np.unique(np.append(np.arange(0, last, stride), last)))
    corners = np.stack(np.meshgrid(*starts, indexing="ij"), axis=-1).reshape(-1, 3)
    centred = mask[tuple((corners + size // 2).T)]
    chosen: _Index = corners[centred].astype(np.int64)
    return chosen


def _covered(patches: _Index, size: _Index, shape: tuple[int, ...]) -> _Mask:
    edges = np.zeros(np.add(shape, 1), dtype=np.int64)
    for corner in np.ndindex(2, 2, 2):
        at = patches + np.array(corner) * size
        np.add.at(edges, tuple(at.T), -1 if sum(corner) % 2 else 1)
    for axis in range(3):
        edges = np.cumsum(edges, axis=axis)
    covered: _Mask = edges[: shape[0], : shape[1], : shape[2]] > 0
    return covered


def _corners_around(voxels: _Index, size: _Index, shape: tuple[int, ...]) -> _Index:
    # patches centred on the voxels, moved inwards where they would leave the volume
    corners: _Index = np.clip(voxels - size // 2, 0, np.array(shape) - size)
    return corners


def _filling_patches(missing: _Mask, size: _Index) -> _Index:
    corners = []
    missing = missing.copy()
    for voxel in np.argwhere(missing):
        if missing[tuple(voxel)]:
            corner = _corners_around(voxel, size, missing.shape)
            x, y, z = corner
            missing[x : x + size[0], y : y + size[1], z : z + size[2]] = False
            corners.append(corner)
    return np.array(corners, dtype=np.int64).reshape(-1, 3)


def _run_slabs(
    dwi: NDArray[np.floating],
    patches: _Index,
    size: _Index,
    known_sigma: _Array | None,
    tau_factor: float,
    mask_row: _Index,
    sums: _Sums,
    n_threads: int,
) -> None:
    centres = patches[:, :3] + size // 2
    if known_sigma is None:
        variance = np.full(len(patches), -1.0)
    else:
        variance = known_sigma[tuple(centres.T)] ** 2
    # slabs two apart write to different voxels, so the order of additions is always the same:
    # even slabs first, then odd ones, each from its first patch to its last
    slab = patches[:, 0] // max(int(size[0]) - 1, 1)
    n_voxels, n_volumes = int(np.prod(size)), dwi.shape[3]

    def denoise_slab(number: int) -> int:
        chosen = slab == number
        work = _make_work(n_voxels, n_volumes)
        failed: int = _denoise_patches(
            dwi, patches[chosen], size, variance[chosen], tau_factor**2, mask_row, work, sums
        )
        return failed

    n_failed = 0
    with ThreadPoolExecutor(n_threads) as pool:
        for parity in (0, 1):
            n_failed += sum(pool.map(denoise_slab, np.unique(slab[slab % 2 == parity])))
    if n_failed:
        raise NumericsError(
            f"the eigenvectors of {n_failed} of {len(patches)} patches did not converge; "
            "check dwi for values of very different size"
        )


def _rows_of(mask: _Mask) -> _Index:
    rows = np.full(mask.shape, -1, dtype=np.int64)
    rows[mask] = np.arange(np.count_nonzero(mask))
    return rows


def _with_whole_patch(corners: _Index) -> _Index:
    whole = np.full((len(corners), 1), _WHOLE_PATCH, dtype=np.int64)
    return np.ascontiguousarray(np.hstack([corners, whole]))


def _denoise(
    dwi: NDArray[np.floating],
    mask: _Mask,
    *,
    known_sigma: _Array | None,
    patch_radius: int | tuple[int, int, int],
    tau_factor: float | None,
    stride: int,
    reconstruct: Reconstruction,
    n_threads: int,
) -> DenoisedSeries:
    dwi, mask = _check_series(dwi, mask)
    size = _patch_size(dwi, patch_radius)
    _check_grid(stride, size, reconstruct, n_threads)
    if tau_factor is None:
        tau_factor = 1.0 + float(np.sqrt(dwi.shape[3] / np.prod(size)))
    rows = _rows_of(mask)
    n_mask, n_volumes = np.count_nonzero(mask), dwi.shape[3]
    sums = _Sums(np.zeros((n_mask, n_volumes)), *np.zeros((3, n_mask)))
    if reconstruct == "centre":
        voxels = np.argwhere(mask)
        corners = _corners_around(voxels, size, mask.shape)
        inside = np.ravel_multi_index(tuple((voxels - corners).T), tuple(size))
        patches = np.ascontiguousarray(np.column_stack([corners, inside]), dtype=np.int64)
        _run_slabs(dwi, patches, size, known_sigma, tau_factor, rows, sums, n_threads)
    else:
        corners = _grid_patches(mask, size, stride)
        missing = mask & ~_covered(corners, size, mask.shape)
        for part, wanted in ((corners, mask), (_filling_patches(missing, size), missing)):
            part_rows = np.where(wanted, rows, -1)
            patches = _with_whole_patch(part)
            _run_slabs(dwi, patches, size, known_sigma, tau_factor, part_rows, sums, n_threads)
    return _finish(sums, mask, dwi.dtype)


def _finish(sums: _Sums, mask: _Mask, dtype: np.dtype[np.floating]) -> DenoisedSeries:
    inverse = 1.0 / sums.weight
    signal = np.zeros((*mask.shape, sums.signal.shape[1]), dtype=dtype)
    signal[mask] = np.maximum(sums.signal * inverse[:, np.newaxis], 0.0)
    noise_sigma, n_components = np.zeros((2, *mask.shape), dtype=np.float32)
    noise_sigma[mask] = np.sqrt(sums.variance * inverse)
    n_components[mask] = sums.rank * inverse
    return DenoisedSeries(signal, noise_sigma, n_components)


def _check_grid(stride: int, size: _Index, reconstruct: str, n_threads: int) -> None:
    if reconstruct not in ("average", "centre"):
        raise NumericsError(f"reconstruct is {reconstruct!r}; give 'average' or 'centre'")
    if reconstruct == "centre" and stride != 1:
        raise NumericsError(
            f"stride is {stride} with reconstruct='centre', which solves a patch for every voxel; "
            "set stride to 1 or reconstruct to 'average'"
        )
    widest = int(size.max())
    require_range("stride", stride, 1, widest, unit="voxels")
    require_range("n_threads", n_threads, 1, np.inf)


def denoise_mppca(
    dwi: NDArray[np.floating],
    mask: NDArray[np.bool_],
    *,
    patch_radius: int | tuple[int, int, int],
    stride: int,
    reconstruct: Reconstruction,
    n_threads: int,
) -> DenoisedSeries:
    r"""Diffusion series without the components that random-matrix theory explains as noise.

    Parameters
    ----------
    dwi : (X, Y, Z, N) array
        Signal as acquired (not interpolated), any unit, finite also outside the mask, N at
        least 4. Zeroed background lowers the noise estimate at the edge of the mask.
    mask : (X, Y, Z) array of bool
        Voxels to denoise. Patches also read voxels outside.
    patch_radius : int or 3 ints
        In voxels; a patch has 2 r + 1 along each axis (1 along an axis of length 1) and must
        have more voxels than the series has volumes: see `smallest_patch_radius`.
    stride : int
        Distance of neighbouring patches in voxels, from 1 (every patch) to the patch size.
    reconstruct : {"average", "centre"}
        Average overlapping patches, each weighted by 1 / (1 + rank), or take each voxel from
        the patch around it only (`stride` 1).
    n_threads : int
        Threads, at least 1. The result is the same to the last bit for any number.

    Returns
    -------
    DenoisedSeries
        Signal, noise and rank maps.

    Raises
    ------
    NumericsError
        If shapes or settings do not fit, or a value is not finite.

    Notes
    -----
    With eigenvalues :math:`\lambda_1 \le \dots \le \lambda_N` of the patch's covariance over
    :math:`n` voxels, the noise variance :math:`\sigma^2` is the mean of the largest set
    :math:`\lambda_1 \dots \lambda_c` with
    :math:`\lambda_c - \lambda_1 \le 4 \sigma^2 \sqrt{c / n}` (Veraart 2016,
    doi:10.1016/j.neuroimage.2016.08.016); components below
    :math:`(1 + \sqrt{N / n})^2 \sigma^2` are removed and patches averaged with the weights of
    Manjon 2013 (doi:10.1371/journal.pone.0073021). With `stride` 1 and "average" this is dipy's
    ``mppca``. Voxels that no grid patch centred in the mask reaches (there dipy divides 0 by 0)
    are taken from a patch around them, moved inwards at the border of the volume.

    Examples
    --------
    >>> noise = np.random.default_rng(0).normal(0.0, 2.0, (9, 9, 9, 12))
    >>> denoised = denoise_mppca(
    ...     100.0 + noise, np.ones((9, 9, 9), bool), patch_radius=2, stride=2,
    ...     reconstruct="average", n_threads=1,
    ... )
    >>> bool(abs(denoised.noise_sigma.mean() - 2.0) < 0.1)
    True
    """
    return _denoise(
        dwi,
        mask,
        known_sigma=None,
        patch_radius=patch_radius,
        tau_factor=None,
        stride=stride,
        reconstruct=reconstruct,
        n_threads=n_threads,
    )


def denoise_local_pca(
    dwi: NDArray[np.floating],
    mask: NDArray[np.bool_],
    *,
    noise_sigma: float | NDArray[np.floating],
    patch_radius: int | tuple[int, int, int],
    tau_factor: float | None,
    stride: int,
    reconstruct: Reconstruction,
    n_threads: int,
) -> DenoisedSeries:
    r"""Diffusion series without the components below a multiple of the known noise.

    Parameters
    ----------
    dwi, mask, patch_radius, stride, reconstruct, n_threads
        As for `denoise_mppca`.
    noise_sigma : float or (X, Y, Z) array
        Standard deviation of the noise in the unit of `dwi`, finite and not negative: see
        `estimate_noise_sigma`.
    tau_factor : float or None
        Components with a standard deviation below `tau_factor` times `noise_sigma` are removed;
        positive. None takes the random-matrix bound :math:`1 + \sqrt{N / n}` for patches of n
        voxels.

    Returns
    -------
    DenoisedSeries
        Signal and rank maps; `noise_sigma` as given, averaged over patches.

    Raises
    ------
    NumericsError
        If shapes or settings do not fit, or a value is not finite.

    Notes
    -----
    Overcomplete local PCA (Manjon 2013, doi:10.1371/journal.pone.0073021): covariance
    eigenvalues below :math:`(\tau \sigma)^2` of the patch's centre are removed and overlapping
    patches averaged with weights 1 / (1 + rank). With `stride` 1 and "average" this is dipy's
    ``localpca``, whose default `tau_factor` 2.3 is that of the paper.

    Examples
    --------
    >>> noise = np.random.default_rng(0).normal(0.0, 2.0, (9, 9, 9, 12))
    >>> denoised = denoise_local_pca(
    ...     100.0 + noise, np.ones((9, 9, 9), bool), noise_sigma=2.0, patch_radius=2,
    ...     tau_factor=2.3, stride=2, reconstruct="average", n_threads=1,
    ... )
    >>> float(denoised.n_components.max())
    0.0
    """
    sigma = np.asarray(noise_sigma, dtype=np.float64)
    if sigma.ndim == 0:
        sigma = np.full(np.shape(mask), float(sigma))
    require_same_shape(mask=np.asarray(mask), noise_sigma=sigma)
    require_finite("noise_sigma", sigma)
    if np.any(sigma < 0.0):
        raise NumericsError(
            f"noise_sigma holds {np.count_nonzero(sigma < 0.0)} negative values; give standard "
            "deviations"
        )
    if tau_factor is not None:
        require_range("tau_factor", tau_factor, 0.0, np.inf, open_low=True)
    return _denoise(
        dwi,
        mask,
        known_sigma=sigma,
        patch_radius=patch_radius,
        tau_factor=tau_factor,
        stride=stride,
        reconstruct=reconstruct,
        n_threads=n_threads,
    )


def _rician_table() -> _Rician:
    # Koay and Basser 2006, equations 12 and 18; scaled Bessel functions do not overflow.
    # Beyond SNR 50 the share differs from 1 by 2e-4
    snr = np.linspace(0.0, 50.0, 5001)
    quarter = snr**2 / 4.0
    laguerre = (2.0 + snr**2) * special.ive(0, quarter) + snr**2 * special.ive(1, quarter)
    share = 2.0 + snr**2 - np.pi / 8.0 * laguerre**2
    return _Rician(np.sqrt((2.0 + snr**2) / share - 1.0), share)


def _least_component(volumes: _Array, half: _Mask) -> tuple[_Array, _Array]:
    # the volumes' combination of least variance, found on the other half of the voxels: on its
    # own half it would also be the one that fits the noise best, and understate it. Beside it
    # the mean signal of the volumes that it consists of, whose SNR the Rician share depends on
    component, level = np.empty((2, len(volumes)))
    for part in (half, ~half):
        centred = volumes[~part] - volumes[~part].mean(axis=0)
        _, vectors = np.linalg.eigh(centred.T @ centred)
        component[part] = volumes[part] @ vectors[:, 0]
        level[part] = volumes[part] @ vectors[:, 0] ** 2
    return component, level


def _window_variance(component: _Array, half: _Mask, mask: _Mask, size: int) -> _Array:
    # pooled over the two halves, each about its own mean in the window
    def window_sum(values: _Array) -> _Array:
        image = np.zeros(mask.shape)
        image[mask] = values
        total: _Array = ndimage.uniform_filter(image, size, mode="constant")[mask] * size**3
        return total

    squares, freedom = np.zeros((2, len(component)))
    for part in (half, ~half):
        count = np.round(window_sum(part.astype(np.float64)))
        first = window_sum(np.where(part, component, 0.0))
        squares += window_sum(np.where(part, component**2, 0.0)) - first**2 / np.maximum(count, 1.0)
        freedom += np.maximum(count - 1.0, 0.0)
    variance: _Array = squares.clip(min=0.0) / np.maximum(freedom, 1.0)
    return variance


def _masked_smooth(values: _Array, weight: _Array, mask: _Mask, smoothing_voxels: float) -> _Array:
    # divided by the smoothed weight, so that nothing leaks in from outside the mask
    over, under = np.zeros((2, *mask.shape))
    over[mask], under[mask] = values * weight, weight
    for image in (over, under):
        ndimage.gaussian_filter(image, smoothing_voxels, mode="constant", output=image)
    smooth: _Array = over[mask] / under[mask]
    return smooth


def estimate_noise_sigma(
    dwi: NDArray[np.floating],
    mask: NDArray[np.bool_],
    *,
    b0_mask: NDArray[np.bool_],
    patch_radius: int,
    smoothing_voxels: float,
) -> NDArray[np.float32]:
    r"""Noise map from the combination of volumes that holds the least signal.

    Parameters
    ----------
    dwi : (X, Y, Z, N) array
        Signal as acquired, any unit, finite.
    mask : (X, Y, Z) array of bool
        Voxels of tissue; nothing outside is read, so a zeroed background does no harm.
    b0_mask : (N,) array of bool
        True for volumes without diffusion weighting. They are used where there are 2 or more, the
        others where there are 4 or more; of the two estimates the lower one counts.
    patch_radius : int
        Radius of the window in which the variance is taken, in voxels, at least 1.
    smoothing_voxels : float
        Standard deviation of the Gaussian that smooths the variance, in voxels, 0 or more.

    Returns
    -------
    noise_sigma : (X, Y, Z) array of float32
        Standard deviation of the noise in one channel, in the unit of `dwi`; 0 outside `mask`.

    Raises
    ------
    NumericsError
        If shapes or settings do not fit, values are not finite, or volumes or voxels are too few.

    Notes
    -----
    After Manjon 2013 (doi:10.1371/journal.pone.0073021): the least principal component of the
    chosen volumes over the mask is taken for noise; its local variance is divided by the share
    :math:`\xi(\theta)` that a magnitude image keeps at signal-to-noise ratio :math:`\theta`
    (Koay and Basser 2006, doi:10.1016/j.jmr.2006.01.016). Two things differ from dipy's
    ``pca_noise_estimate``: windows and smoothing stay within the mask (over a zeroed background
    it loses about a quarter at the edge of the brain), and the component is found on one half of
    the voxels and measured on the other, which removes the bias of having chosen the least.
    With fewer volumes than the signal has dimensions the least component still holds signal and
    the estimate is too high: so with few b=0 between which the head moved, and with few
    directions. Hence the lower of two.

    Examples
    --------
    >>> noise = np.random.default_rng(0).normal(0.0, 2.0, (12, 12, 12, 10))
    >>> sigma = estimate_noise_sigma(
    ...     100.0 + noise, np.ones((12, 12, 12), bool), b0_mask=np.zeros(10, bool),
    ...     patch_radius=1, smoothing_voxels=2.0,
    ... )
    >>> bool(abs(sigma.mean() - 2.0) < 0.1)
    True
    """
    dwi, mask = _check_series(dwi, mask)
    require_range("patch_radius", patch_radius, 1, np.inf, unit="voxels")
    require_range("smoothing_voxels", smoothing_voxels, 0.0, np.inf)
    # a chessboard: both halves sample the same tissue and the same noise
    half = (np.indices(mask.shape).sum(axis=0) % 2 == 0)[mask]
    estimates = [
        _sigma_from(dwi[..., chosen][mask], half, mask, 2 * patch_radius + 1, smoothing_voxels)
        for chosen in _noise_volumes(b0_mask, dwi.shape[3])
    ]
    noise_sigma = np.zeros(mask.shape, dtype=np.float32)
    noise_sigma[mask] = min(estimates, key=np.median)
    return noise_sigma


def _sigma_from(
    volumes: NDArray[np.floating], half: _Mask, mask: _Mask, size: int, smoothing_voxels: float
) -> _Array:
    if min(np.count_nonzero(half), np.count_nonzero(~half)) <= volumes.shape[1]:
        raise NumericsError(
            f"mask holds {len(half)} voxels; the noise of {volumes.shape[1]} volumes needs more "
            "than twice that many: check the mask"
        )
    component, level = _least_component(volumes.astype(np.float64), half)
    variance = _window_variance(component, half, mask, size)
    weight = (variance > 0.0).astype(np.float64)  # a lone voxel has no variance of its own
    if not weight.any():
        raise NumericsError("dwi has no noise within the mask; give measured images")
    one = np.ones_like(weight)
    variance = _masked_smooth(variance, np.maximum(weight, 1e-12), mask, smoothing_voxels)
    level = _masked_smooth(level, one, mask, smoothing_voxels)
    ratio = level / np.sqrt(variance)
    sigma: _Array = np.sqrt(variance / np.interp(ratio, *_rician_table()))
    return sigma


def _noise_volumes(b0_mask: NDArray[np.bool_], n_volumes: int) -> list[_Mask]:
    b0_mask = np.asarray(b0_mask)
    if b0_mask.shape != (n_volumes,) or b0_mask.dtype != np.bool_:
        raise NumericsError(
            f"b0_mask has shape {b0_mask.shape} and type {b0_mask.dtype}; give {n_volumes} "
            "booleans, one for each volume"
        )
    n_b0 = np.count_nonzero(b0_mask)
    chosen = [b0_mask] if n_b0 >= 2 else []
    if n_volumes - n_b0 >= _FEWEST_VOLUMES:
        chosen.append(~b0_mask)
    if not chosen:
        raise NumericsError(
            f"dwi has {n_b0} volumes without and {n_volumes - n_b0} with diffusion weighting; "
            f"noise is estimated from at least 2 of the former or {_FEWEST_VOLUMES} of the "
            "latter: use denoise_mppca"
        )
    return chosen
