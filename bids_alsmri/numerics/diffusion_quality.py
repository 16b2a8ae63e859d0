"""How far a diffusion series and its tensor can be trusted, in numbers."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.checks import as_float, require_finite, require_range, require_same_shape
from bids_alsmri.numerics.compile import kernel
from bids_alsmri.numerics.diffusion import TensorFit
from bids_alsmri.numerics.gradients import GradientTable, rotation_part

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

# overall sign has no meaning for an axis, so four of the eight flips are distinct
_FLIPS = ((1, 1, 1), (-1, 1, 1), (1, -1, 1), (1, 1, -1))
_IDENTITY = 0  # place of the table as given among the candidates


@dataclass(frozen=True)
class FramewiseDisplacement:
    """Head movement from volume to volume.

    Parameters
    ----------
    per_volume_mm : (N,) array
        Displacement from the volume before, in mm; NaN for the first.
    mean_mm, max_mm : float
        Over volumes 2 to N, in mm; 0 for a single volume.
    """

    per_volume_mm: FloatArray
    mean_mm: float
    max_mm: float


def framewise_displacement(
    reference_to_volume: ArrayLike, *, centre_mm: ArrayLike, radius_mm: float
) -> FramewiseDisplacement:
    r"""Sum of absolute changes of the six rigid motion parameters between volumes.

    Parameters
    ----------
    reference_to_volume : (N, 4, 4) array_like
        World maps of motion correction, in mm, in the order of acquisition.
    centre_mm : (3,) array_like
        Centre of the head in world coordinates, in mm; rotations are taken about it.
    radius_mm : float
        Radius of the sphere on which rotations become displacements, in mm, positive.

    Returns
    -------
    FramewiseDisplacement
        Per volume, mean and maximum.

    Raises
    ------
    NumericsError
        If shapes are wrong or the radius is not positive.

    Notes
    -----
    :math:`FD = |\Delta d_x| + |\Delta d_y| + |\Delta d_z| + r (|\Delta\alpha| + |\Delta\beta| +
    |\Delta\gamma|)`, with r = 50 mm in Power et al. 2012, doi:10.1016/j.neuroimage.2011.10.018.
    Scale and shear (eddy currents) are taken off by polar decomposition first.

    Examples
    --------
    >>> maps = np.tile(np.eye(4), (2, 1, 1))
    >>> maps[1, 0, 3] = 0.5
    >>> framewise_displacement(maps, centre_mm=[0, 0, 0], radius_mm=50).mean_mm
    0.5
    """
    require_range("radius_mm", radius_mm, 0, np.inf, unit="mm", open_low=True)
    maps = as_float("reference_to_volume", reference_to_volume, ndim=3)
    centre = as_float("centre_mm", centre_mm, ndim=1)
    if maps.shape[1:] != (4, 4) or len(maps) == 0 or centre.shape != (3,):
        raise NumericsError(
            f"reference_to_volume has shape {maps.shape} and centre_mm {centre.shape}; "
            "give (N, 4, 4) and (3,)"
        )
    require_finite("reference_to_volume", maps)
    shift_mm = maps[:, :3, :3] @ centre + maps[:, :3, 3] - centre
    turn = rotation_part(maps[:, :3, :3])
    # R = Rz(c) Ry(b) Rx(a)
    angles = np.stack(
        [
            np.arctan2(turn[:, 2, 1], turn[:, 2, 2]),
            np.arcsin(np.clip(-turn[:, 2, 0], -1, 1)),
            np.arctan2(turn[:, 1, 0], turn[:, 0, 0]),
        ],
        axis=1,
    )
    change_mm = np.abs(np.diff(np.hstack([shift_mm, radius_mm * angles]), axis=0)).sum(axis=1)
    return FramewiseDisplacement(
        np.concatenate([[np.nan], change_mm]),
        float(change_mm.mean()) if len(change_mm) else 0.0,
        float(change_mm.max(initial=0.0)),
    )


def neighbouring_dwi_correlation(
    signal: NDArray[np.floating], gradients: GradientTable
) -> FloatArray:
    r"""Correlation of each diffusion-weighted volume with its nearest in q-space.

    Parameters
    ----------
    signal : (M, N) array
        Signal of the M voxels of the brain mask in N volumes.
    gradients : GradientTable
        Of N volumes.

    Returns
    -------
    correlation : (N,) array
        Pearson's, over voxels, -1 to 1; NaN for b=0, and where a volume is constant. Its mean over
        weighted volumes is the figure of Yeh et al.

    Raises
    ------
    NumericsError
        If shapes disagree or fewer than two volumes are weighted.

    Notes
    -----
    Low values mean noise, signal loss or misplaced volumes; it depends on b, voxel size and the
    number of directions, so compare within a protocol (Yeh et al. 2019,
    doi:10.1016/j.neuroimage.2019.116131). Distance is between :math:`\pm\sqrt{b}\,g`.

    Examples
    --------
    >>> table = GradientTable(np.full(2, 1000.0), np.eye(3)[:2])
    >>> neighbouring_dwi_correlation(np.array([[1.0, 2], [2, 4], [3, 6]]), table)
    array([1., 1.])
    """
    if signal.ndim != 2 or signal.shape[1] != gradients.n_volumes:
        raise NumericsError(
            f"signal has shape {signal.shape} but gradients {gradients.n_volumes} volumes; "
            "give (M, N)"
        )
    weighted = np.flatnonzero(gradients.b_values_s_mm2 > 0)
    if len(weighted) < 2:
        raise NumericsError(
            f"{len(weighted)} volumes are diffusion-weighted; a neighbour needs two or more"
        )
    q = np.sqrt(gradients.b_values_s_mm2[weighted, np.newaxis])
    q = q * gradients.directions_world[weighted]
    squares = np.sum(q**2, axis=1)
    # |a -+ b|^2, the smaller of the two signs
    distance = squares[:, np.newaxis] + squares - 2 * np.abs(q @ q.T)
    np.fill_diagonal(distance, np.inf)
    nearest = weighted[np.argmin(distance, axis=1)]
    correlation = np.full(gradients.n_volumes, np.nan)
    for volume, neighbour in zip(weighted, nearest, strict=True):
        correlation[volume] = _pearson(signal[:, volume], signal[:, neighbour])
    return correlation


def _pearson(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    finite = np.isfinite(first) & np.isfinite(second)
    a, b = first[finite].astype(np.float64), second[finite].astype(np.float64)
    if len(a) < 2:
        return float("nan")
    a, b = a - a.mean(), b - b.mean()
    scale = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / scale) if scale > 0 else float("nan")


def signal_to_noise(signal: NDArray[np.floating], noise_sd: NDArray[np.floating]) -> float:
    """Median over voxels of the mean signal of some volumes over the noise of one volume.

    Parameters
    ----------
    signal : (M, K) array
        The K volumes in question (b=0, or one shell) in the M voxels of the brain mask.
    noise_sd : (M,) array
        Standard deviation of the noise of a single volume in each voxel, in the same unit:
        `TensorFit.residual_sd`, or the map of the denoiser. Never the background, which scanners
        set to zero.

    Returns
    -------
    float
        Dimensionless; NaN if no voxel has a finite, positive noise.

    Raises
    ------
    NumericsError
        If shapes disagree.

    Examples
    --------
    >>> signal_to_noise(np.array([[90.0, 110.0], [40.0, 40.0]]), np.array([5.0, 2.0]))
    20.0
    """
    if signal.ndim != 2 or noise_sd.shape != signal.shape[:1]:
        raise NumericsError(
            f"signal has shape {signal.shape} and noise_sd {noise_sd.shape}; give (M, K) and (M,)"
        )
    mean = signal.mean(axis=1, dtype=np.float64)
    usable = np.isfinite(mean) & np.isfinite(noise_sd) & (noise_sd > 0)
    if not np.any(usable):
        return float("nan")
    return float(np.median(mean[usable] / noise_sd[usable]))


@dataclass(frozen=True)
class TensorQuality:
    """How well the tensor describes the series, over a mask.

    Parameters
    ----------
    n_voxels : int
        Voxels of the mask.
    failed_share, clipped_share : float
        Of voxels without a tensor, and with a negative eigenvalue raised; 0 to 1.
    left_out_share : float
        Of measurements (voxel by volume) that did not enter: outliers and values of 0; 0 to 1.
    residual_percent : float
        Median of the residual standard deviation, in per cent of the fitted b=0 signal.
    """

    n_voxels: int
    failed_share: float
    clipped_share: float
    left_out_share: float
    residual_percent: float


def summarise_tensor_fit(fit: TensorFit, mask: BoolArray, *, n_volumes: int) -> TensorQuality:
    """Shares of failed and clipped voxels and the typical residual.

    Parameters
    ----------
    fit : TensorFit
        Maps of shape (...).
    mask : (...) array of bool
        Brain mask of the fit.
    n_volumes : int
        Number of volumes that were fitted.

    Returns
    -------
    TensorQuality
        For the quality table.

    Raises
    ------
    NumericsError
        If shapes disagree or the mask is empty.

    Examples
    --------
    >>> from bids_alsmri.numerics.diffusion import TensorFit
    >>> one = np.ones(1, np.float32)
    >>> fit = TensorFit(one, one, one, one, np.ones((1, 3)), np.ones((1, 6)), 50 * one, one,
    ...     np.array([9]), one < 0, one < 0)
    >>> summarise_tensor_fit(fit, one > 0, n_volumes=10).residual_percent
    2.0
    """
    require_same_shape(fa=fit.fa, mask=mask)
    n_voxels = int(np.count_nonzero(mask))
    if n_voxels == 0:
        raise NumericsError("mask is empty; check the brain extraction of the b=0 image")
    fitted = mask & ~fit.failed_mask
    ratio = fit.residual_sd[fitted].astype(np.float64) / fit.s0[fitted]
    ratio = ratio[np.isfinite(ratio)]
    n_measured = max(int(np.count_nonzero(fitted)) * n_volumes, 1)
    return TensorQuality(
        n_voxels=n_voxels,
        failed_share=float(np.count_nonzero(fit.failed_mask & mask) / n_voxels),
        clipped_share=float(np.count_nonzero(fit.clipped_mask & mask) / n_voxels),
        left_out_share=float(1 - fit.n_used[fitted].sum(dtype=np.int64) / n_measured),
        residual_percent=100 * float(np.median(ratio)) if len(ratio) else float("nan"),
    )


def scale_runs_by_b0(mean_b0: NDArray[np.floating]) -> FloatArray:
    """Factors that bring several runs to the scale of the first.

    Parameters
    ----------
    mean_b0 : (R, M) array
        Mean b=0 signal of R runs in the M voxels of one brain mask, aligned.

    Returns
    -------
    ratios : (R,) array
        Multiply run r by element r; the first is 1. The median over voxels of first over r-th.

    Raises
    ------
    NumericsError
        If a run shares no voxel of positive signal with the first.

    Notes
    -----
    Receiver gain and scaling change between runs, and a tensor fitted across them takes the
    change for diffusion. The median ignores voxels where distortion misaligns the runs.

    Examples
    --------
    >>> scale_runs_by_b0(np.array([[100.0, 200.0], [50.0, 100.0]]))
    array([1., 2.])
    """
    if mean_b0.ndim != 2:
        raise NumericsError(f"mean_b0 has shape {mean_b0.shape}; give (R, M)")
    ratios = np.ones(len(mean_b0))
    first = mean_b0[0].astype(np.float64)
    for run in range(1, len(mean_b0)):
        other = mean_b0[run].astype(np.float64)
        shared = (first > 0) & (other > 0) & np.isfinite(first) & np.isfinite(other)
        if not np.any(shared):
            raise NumericsError(
                f"mean_b0 of run {run + 1} shares no voxel of positive signal with run 1; check "
                "that the runs show the same head, or process them apart"
            )
        ratios[run] = np.median(first[shared] / other[shared])
    return ratios


@dataclass(frozen=True)
class OrientationCheck:
    """Length of fibres under each permutation and flip of the b-vectors.

    Parameters
    ----------
    names : tuple of str
        One per candidate, such as "x negated"; the table as given is first.
    matrices : (24, 3, 3) array
        What each candidate does to the vectors of the bvec file.
    mean_length_mm : (24,) array
        Mean length of the streamlines, in mm: the coherence index.
    best : int
        Index of the longest.
    gain : float
        Its length over that of the table as given, minus 1.
    warning : str
        Empty if the table as given fits best, or nearly.
    """

    names: tuple[str, ...]
    matrices: FloatArray
    mean_length_mm: FloatArray
    best: int
    gain: float
    warning: str


def _candidates() -> tuple[tuple[str, ...], FloatArray]:
    names, matrices = [], []
    for order in permutations(range(3)):
        for flip in _FLIPS:
            said = []
            if order != (0, 1, 2):
                said.append("axes in the order " + "".join("xyz"[axis] for axis in order))
            if min(flip) < 0:
                said.append(f"{'xyz'[flip.index(-1)]} negated")
            names.append(", then ".join(said) or "as given")
            matrices.append(np.diag(flip).astype(np.float64) @ np.eye(3)[list(order)])
    return tuple(names), np.array(matrices)


@kernel
def _walk(
    directions: FloatArray,
    inside: BoolArray,
    turn: FloatArray,
    seed: NDArray[np.int64],
    sizes_mm: FloatArray,
    step_mm: float,
    n_steps: int,
    min_cosine: float,
    sign: float,
) -> int:
    # steps taken one way from a seed voxel, nearest-neighbour, until mask, bend or limit
    place = np.zeros(3)
    heading = np.zeros(3)
    local = np.zeros(3)
    for axis in range(3):
        place[axis] = seed[axis] * sizes_mm[axis]
    for step in range(n_steps + 1):
        i = int(np.floor(place[0] / sizes_mm[0] + 0.5))
        j = int(np.floor(place[1] / sizes_mm[1] + 0.5))
        k = int(np.floor(place[2] / sizes_mm[2] + 0.5))
        if min(i, j, k) < 0 or i >= inside.shape[0] or j >= inside.shape[1] or k >= inside.shape[2]:
            return step
        if not inside[i, j, k]:
            return step
        for row in range(3):
            local[row] = 0.0
            for column in range(3):
                local[row] += turn[row, column] * directions[i, j, k, column]
        cosine = local[0] * heading[0] + local[1] * heading[1] + local[2] * heading[2]
        if step == 0:
            cosine = sign
        elif abs(cosine) < min_cosine:
            return step
        for axis in range(3):
            heading[axis] = local[axis] if cosine > 0 else -local[axis]
            place[axis] += step_mm * heading[axis]
    return n_steps


@kernel
def _mean_steps(
    directions: FloatArray,
    inside: BoolArray,
    turn: FloatArray,
    seeds: NDArray[np.int64],
    sizes_mm: FloatArray,
    step_mm: float,
    n_steps: int,
    min_cosine: float,
) -> float:
    total = 0
    for seed in range(len(seeds)):
        for sign in (-1.0, 1.0):
            total += _walk(
                directions,
                inside,
                turn,
                seeds[seed],
                sizes_mm,
                step_mm,
                n_steps,
                min_cosine,
                sign,
            )
    return total / len(seeds)


def check_gradient_orientation(
    v1_world: NDArray[np.floating],
    fa: NDArray[np.floating],
    affine: ArrayLike,
    *,
    bvec_to_world: ArrayLike,
    min_fa: float,
    max_bend_deg: float,
    min_gain: float,
    n_seeds: int,
) -> OrientationCheck:
    r"""Whether another order or sign of the b-vectors makes fibres more coherent.

    Parameters
    ----------
    v1_world : (X, Y, Z, 3) array
        Principal directions of the tensor, world axes; NaN where there is none.
    fa : (X, Y, Z) array
        Fractional anisotropy.
    affine : (4, 4) array_like
        Of both images, in mm.
    bvec_to_world : (3, 3) array_like
        Rotation, with its reflection, from the frame of the bvec file in question to the world of
        the images. Image axes do not tell it: BIDS negates x where the determinant of the series'
        affine is positive, and the images may lie on another grid than the series.
    min_fa : float
        Fibres are followed where FA is at least this, 0 to 1.
    max_bend_deg : float
        Largest angle between successive steps, in degrees, 0 to 90.
    min_gain : float
        A warning is given if another table makes fibres longer by more than this share.
    n_seeds : int
        At most so many voxels, spread evenly over the mask, start a fibre.

    Returns
    -------
    OrientationCheck
        All 24 candidates; `warning` says what to do to the bvec file.

    Raises
    ------
    NumericsError
        If shapes disagree or no voxel reaches `min_fa`.

    Notes
    -----
    With wrong axes the principal directions no longer point along the bundles, so streamlines
    leave them early: the mean length over six permutations and four distinct flips is largest for
    the right table (Jeurissen, Leemans and Sijbers 2014, doi:10.1016/j.media.2014.05.012; a
    coherence index of neighbours does the same, Schilling et al. 2019,
    doi:10.1016/j.mri.2019.01.018). A permuted or flipped table permutes and flips the fitted
    tensor exactly, so no refit is needed. Straight bundles along image axes cannot tell flips
    apart; brains can. Steps are half the smallest voxel edge, at most 200 mm each way.

    Examples
    --------
    >>> v1 = np.zeros((9, 3, 3, 3))
    >>> v1[..., 0] = 1
    >>> check = check_gradient_orientation(
    ...     v1, np.pad(np.ones((9, 1, 1)), ((0, 0), (1, 1), (1, 1))), np.eye(4),
    ...     bvec_to_world=np.diag([-1, 1, 1]),
    ...     min_fa=0.2, max_bend_deg=45, min_gain=0.1, n_seeds=100,
    ... )
    >>> check.warning, check.names[8], check.mean_length_mm[0] > 3 * check.mean_length_mm[8]
    ('', 'axes in the order yxz', np.True_)
    """
    matrix = as_float("affine", affine, ndim=2)
    frame = as_float("bvec_to_world", bvec_to_world, ndim=2)
    if frame.shape != (3, 3) or not np.allclose(frame @ frame.T, np.eye(3), atol=1e-4):
        raise NumericsError(
            f"bvec_to_world of shape {frame.shape} is no rotation; give the orthogonal (3, 3) "
            "matrix that turns vectors of the bvec file into the world of the images"
        )
    if v1_world.shape != (*fa.shape, 3) or fa.ndim != 3 or matrix.shape != (4, 4):
        raise NumericsError(
            f"v1_world has shape {v1_world.shape}, fa {fa.shape} and affine {matrix.shape}; "
            "give (X, Y, Z, 3), (X, Y, Z) and (4, 4)"
        )
    require_range("min_fa", min_fa, 0, 1)
    require_range("max_bend_deg", max_bend_deg, 0, 90, unit="degrees", open_low=True)
    require_range("n_seeds", n_seeds, 1, np.inf)
    inside: BoolArray = (fa >= min_fa) & np.logical_and.reduce(np.isfinite(v1_world), axis=-1)
    seeds = np.argwhere(inside)
    if len(seeds) == 0:
        raise NumericsError(f"fa reaches {min_fa:g} nowhere; check the series or lower min_fa")
    seeds = seeds[np.unique(np.linspace(0, len(seeds) - 1, n_seeds).astype(int))]
    sizes_mm = np.linalg.norm(matrix[:3, :3], axis=0)
    step_mm = 0.5 * float(sizes_mm.min())
    axes = rotation_part(matrix[:3, :3] / sizes_mm)
    along_axes = np.where(inside[..., np.newaxis], v1_world, 0.0).astype(np.float64) @ axes
    names, matrices = _candidates()
    file_to_axes = axes.T @ frame
    lengths_mm = np.array(
        [
            step_mm
            * _mean_steps(
                along_axes,
                inside,
                np.ascontiguousarray(file_to_axes @ change @ file_to_axes.T),
                seeds,
                sizes_mm,
                step_mm,
                int(200 / step_mm),
                float(np.cos(np.radians(max_bend_deg))),
            )
            for change in matrices
        ]
    )
    return _judged(names, matrices, lengths_mm, min_gain)


def _judged(
    names: tuple[str, ...], matrices: FloatArray, lengths_mm: FloatArray, min_gain: float
) -> OrientationCheck:
    best = int(np.argmax(lengths_mm))
    gain = float(lengths_mm[best] / lengths_mm[_IDENTITY] - 1)
    warning = ""
    if gain > min_gain:
        warning = (
            f"Fibres are {100 * gain:.0f} % longer ({lengths_mm[best]:.1f} against "
            f"{lengths_mm[_IDENTITY]:.1f} mm) with the bvec file's {names[best]}. The bvec file is "
            "probably not in the BIDS frame: convert the scans again or correct it. FA and MD "
            "hardly depend on it, directions do."
        )
    return OrientationCheck(names, matrices, lengths_mm, best, gain, warning)


def eddy_current_shift(
    shifts_mm: ArrayLike, gradients: GradientTable, *, max_p_value: float
) -> FloatArray:
    r"""Part of the shifts along phase encoding that follows the gradients, not the head.

    Parameters
    ----------
    shifts_mm : (N,) array_like
        Translation of each volume along the phase axis, in mm.
    gradients : GradientTable
        Of N volumes, directions with the sign that the scanner played out.
    max_p_value : float
        The shifts are parted only if the regression is significant at this level, 0 to 1.

    Returns
    -------
    shift_mm : (N,) array
        What a linear function of :math:`\sqrt{b}\,g` explains, in mm; zeros for b=0 and where the
        regression is not significant or has too few volumes.

    Raises
    ------
    NumericsError
        If the number of shifts and of volumes differ.

    Notes
    -----
    A constant field of an eddy current moves the whole image along phase encoding, as the head
    may do; but it is a linear function of the diffusion gradient while the head's motion is not
    (second-level model of Andersson and Sotiropoulos 2016,
    doi:10.1016/j.neuroimage.2015.10.019). The gradient's amplitude goes as :math:`\sqrt{b}`,
    since all shells of a protocol share one timing. The F test has 3 and n - 4 degrees of freedom.

    Examples
    --------
    >>> directions = np.vstack([[[0, 0, 0]], np.eye(3), -np.eye(3)])
    >>> table = GradientTable(np.array([0.0] + [1000.0] * 6), directions)
    >>> eddy_current_shift([0, 2, 0, 0, -2, 0, 0.0], table, max_p_value=0.01).round(6) + 0.0
    array([ 0.,  2.,  0.,  0., -2.,  0.,  0.])
    """
    from scipy.stats import f as f_distribution

    shifts = as_float("shifts_mm", shifts_mm, ndim=1)
    if len(shifts) != gradients.n_volumes:
        raise NumericsError(
            f"shifts_mm has {len(shifts)} values but gradients {gradients.n_volumes} volumes; "
            "give one shift per volume"
        )
    weighted = gradients.b_values_s_mm2 > 0
    n_weighted = int(weighted.sum())
    explained = np.zeros(len(shifts))
    if n_weighted < 6:
        return explained
    strength = np.sqrt(gradients.b_values_s_mm2[weighted] / gradients.b_values_s_mm2.max())
    slopes = strength[:, np.newaxis] * gradients.directions_world[weighted]
    design = np.column_stack([slopes, np.ones(n_weighted)])
    beta, *_ = np.linalg.lstsq(design, shifts[weighted], rcond=None)
    left = shifts[weighted] - design @ beta
    total = float(np.sum((shifts[weighted] - shifts[weighted].mean()) ** 2))
    unexplained = float(left @ left)
    if total == 0:
        return explained
    ratio = (total - unexplained) / 3 / max(unexplained / (n_weighted - 4), 1e-12 * total)
    if f_distribution.sf(ratio, 3, n_weighted - 4) <= max_p_value:
        explained[weighted] = slopes @ beta[:3]
    return explained
