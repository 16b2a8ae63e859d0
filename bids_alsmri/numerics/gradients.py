"""Gradient tables: checks, frames, rotation and shells."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.checks import as_float, require_finite, require_range

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

_SILENT_LENGTH_ERROR = 0.01  # text files round to two or three digits
_LARGEST_LENGTH_ERROR = 0.10  # beyond it a length is no rounding error but means something
_SHELL_SPREAD = 0.10  # of its mean; scanners report the b of one shell with a few per cent
_SMALLEST_SHELL = 3  # fewer volumes than these could agree by chance
_SMALLEST_SINGULAR_VALUE = 0.01  # of the largest; below it noise grows a hundredfold
_LARGEST_AXIS_COSINE = 0.01  # 0.6 degrees, above what single precision headers lose
_N_TENSOR = 6


@dataclass(frozen=True)
class CheckedGradients:
    """A gradient table in the frame of its file, after the checks.

    Parameters
    ----------
    b_values_s_mm2 : (N,) array
        Diffusion weighting, in s/mm2; exactly 0 for the volumes that count as b=0.
    b_vectors : (N, 3) array
        Unit vectors in the BIDS frame; zero for b=0 and for volumes that were left out.
    kept : (N,) array of bool
        False for trace and ADC volumes.
    warnings : tuple of str
        One sentence per change that was made.
    """

    b_values_s_mm2: FloatArray
    b_vectors: FloatArray
    kept: BoolArray
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class GradientTable:
    """Diffusion weighting of each volume, directions in world coordinates.

    Parameters
    ----------
    b_values_s_mm2 : (N,) array
        In s/mm2, 0 or positive.
    directions_world : (N, 3) array
        Unit vectors in world axes (right, anterior, superior); zero where b is 0.
    notes : tuple of str
        What was changed on the way here.

    Raises
    ------
    NumericsError
        If shapes disagree, or a weighted volume lacks a unit vector.

    Examples
    --------
    >>> GradientTable(np.array([0.0, 1000.0]), np.array([[0, 0, 0], [0, 0, 1.0]])).n_volumes
    2
    """

    b_values_s_mm2: FloatArray
    directions_world: FloatArray
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        n_volumes = self.b_values_s_mm2.shape[0]
        if self.b_values_s_mm2.ndim != 1 or self.directions_world.shape != (n_volumes, 3):
            raise NumericsError(
                f"b_values_s_mm2 has shape {self.b_values_s_mm2.shape} and directions_world "
                f"{self.directions_world.shape}; give (N,) and (N, 3)"
            )
        expected = np.where(self.b_values_s_mm2 > 0, 1.0, 0.0)
        wrong = np.abs(np.linalg.norm(self.directions_world, axis=1) - expected) > 1e-4
        if np.any(wrong) or np.any(self.b_values_s_mm2 < 0):
            raise NumericsError(
                f"volumes {_listed(np.flatnonzero(wrong))} have directions that are neither unit "
                "vectors (b > 0) nor zero (b = 0); pass the table through check_gradients"
            )

    @property
    def n_volumes(self) -> int:
        """Number of volumes."""
        return int(self.b_values_s_mm2.shape[0])

    def subset(self, volumes: BoolArray) -> GradientTable:
        """Table of the chosen volumes only.

        Parameters
        ----------
        volumes : (N,) array of bool
            True for each volume to keep.

        Returns
        -------
        GradientTable
            The same notes, fewer rows.
        """
        return GradientTable(
            self.b_values_s_mm2[volumes], self.directions_world[volumes], self.notes
        )


def _listed(indices: NDArray[np.integer]) -> str:
    shown = ", ".join(str(int(i)) for i in indices[:8])
    return shown + (f" and {len(indices) - 8} more" if len(indices) > 8 else "")


def _one_b_per_volume(b_values: ArrayLike, n_volumes: int) -> tuple[FloatArray, list[str]]:
    found = np.asarray(b_values, dtype=np.float64)
    flat = found.ravel()
    if found.size != max(found.shape, default=0) or flat.size != n_volumes:
        raise NumericsError(
            f"b_values has shape {found.shape} but the image has {n_volumes} volumes; "
            "give one row with one b-value (s/mm2) per volume, b=0 volumes included"
        )
    bad = ~np.isfinite(flat) | (flat < 0)
    if np.any(bad):
        raise NumericsError(
            f"b_values of volumes {_listed(np.flatnonzero(bad))} are {flat[bad][0]:g} s/mm2; "
            "each must be a finite number, 0 or positive"
        )
    if found.ndim == 2 and found.shape[0] > 1:
        return flat, [
            f"The b-values stand in one column of {n_volumes} rows where BIDS wants one row; "
            "they were read as one b-value per volume."
        ]
    return flat, []


def _one_vector_per_volume(b_vectors: ArrayLike, n_volumes: int) -> tuple[FloatArray, list[str]]:
    found = np.asarray(b_vectors, dtype=np.float64)
    if found.shape == (3, n_volumes):
        return np.ascontiguousarray(found.T), []
    if found.shape == (n_volumes, 3):
        return found.copy(), [
            f"The b-vectors are stored transposed, {n_volumes} rows of 3 where BIDS wants 3 rows "
            f"of {n_volumes}; they were read as one row per volume."
        ]
    raise NumericsError(
        f"b_vectors has shape {found.shape} but the image has {n_volumes} volumes, so 3 rows of "
        f"{n_volumes} numbers are expected (x, y, z); write one column per volume, "
        "zeros for b=0 volumes"
    )


def _form_shells(b_values_s_mm2: FloatArray) -> bool:
    ordered = np.sort(b_values_s_mm2)
    starts = np.flatnonzero(np.diff(ordered) > _SHELL_SPREAD * ordered[:-1]) + 1
    return all(
        len(shell) >= _SMALLEST_SHELL and np.ptp(shell) <= _SHELL_SPREAD * shell.mean()
        for shell in np.split(ordered, starts)
    )


def _b_by_length(
    b_values_s_mm2: FloatArray, lengths: FloatArray, volumes: NDArray[np.intp]
) -> tuple[FloatArray, list[str]]:
    """b-values after the lengths of the vectors of weighted `volumes` have been judged."""
    error = np.abs(lengths - 1)
    if error.max() <= _SILENT_LENGTH_ERROR:
        return b_values_s_mm2, []
    worst = int(np.argmax(error))
    if error.max() <= _LARGEST_LENGTH_ERROR:
        return b_values_s_mm2, [
            f"{np.count_nonzero(error > _SILENT_LENGTH_ERROR)} b-vectors have lengths off 1 by "
            f"more than 1 % (volume {volumes[worst]}: {lengths[worst]:.3f}); they were normalised."
        ]
    scaled = b_values_s_mm2 * lengths**2
    if np.ptp(lengths) > _SILENT_LENGTH_ERROR and _form_shells(scaled):
        return scaled, [
            f"B-vectors have lengths from {lengths.min():.3f} to {lengths.max():.3f}, and b times "
            "length squared forms shells; b was multiplied by it and now ranges from "
            f"{scaled.min():.0f} to {scaled.max():.0f} s/mm2."
        ]
    raise NumericsError(
        f"b_vectors of {np.count_nonzero(error > _LARGEST_LENGTH_ERROR)} volumes have lengths off "
        f"1 by more than 10 % (volume {volumes[worst]}: {lengths[worst]:.3f}), and b times length "
        "squared forms no several shells that would explain it; give unit vectors, or a zero "
        "vector for b=0 and trace volumes"
    )


def require_tensor_directions(directions: FloatArray) -> None:
    """Raise where the directions do not determine a tensor.

    Parameters
    ----------
    directions : (N, 3) array
        Unit vectors of the diffusion-weighted volumes, in any frame.

    Raises
    ------
    NumericsError
        If fewer than six of them are independent, as measurements of a symmetric tensor.

    Notes
    -----
    The rank is that of the dyads :math:`g g^T`, singular values below 1 % of the largest counted
    as zero.

    Examples
    --------
    >>> require_tensor_directions(np.eye(3))
    Traceback (most recent call last):
    bids_alsmri.errors.NumericsError: b_vectors of 3 diffusion-weighted volumes hold 3 ...
    """
    x, y, z = directions.T
    dyads = np.stack([x * x, y * y, z * z, 2 * x * y, 2 * x * z, 2 * y * z], axis=1)
    singular = np.linalg.svd(dyads, compute_uv=False)
    n_found = int(np.count_nonzero(singular > _SMALLEST_SINGULAR_VALUE * singular.max(initial=0)))
    if n_found < _N_TENSOR:
        raise NumericsError(
            f"b_vectors of {len(directions)} diffusion-weighted volumes hold {n_found} independent "
            f"directions; a tensor needs at least {_N_TENSOR} that are not opposite, equal or on "
            "one cone. Leave this series out, or use its trace volumes for ADC"
        )


def _require_both_weightings(
    b_values_s_mm2: FloatArray, weighted: BoolArray, b0_threshold_s_mm2: float
) -> None:
    if np.all(weighted):
        raise NumericsError(
            f"no volume has b at or below {b0_threshold_s_mm2:g} s/mm2 (lowest is "
            f"{b_values_s_mm2.min():g}); acquire or add a b=0 volume, or raise the b=0 threshold "
            "if the lowest shell is meant as b=0"
        )
    if not np.any(weighted):
        raise NumericsError(
            f"no volume has b above {b0_threshold_s_mm2:g} s/mm2 (highest is "
            f"{b_values_s_mm2.max():g}); give b in s/mm2 (1 ms/um2 is 1000 s/mm2), or leave this "
            "series out"
        )


def check_gradients(
    b_values: ArrayLike, b_vectors: ArrayLike, *, n_volumes: int, b0_threshold_s_mm2: float
) -> CheckedGradients:
    r"""Gradient table that a tensor can be fitted with, and what had to be changed for it.

    Parameters
    ----------
    b_values : (N,) array_like
        As read from the bval file, in s/mm2; a single row or column of a matrix is accepted.
    b_vectors : (3, N) array_like
        As read from the bvec file; (N, 3) is accepted with a warning.
    n_volumes : int
        Number of volumes of the image.
    b0_threshold_s_mm2 : float
        Volumes with b at or below it count as b=0, in s/mm2, 0 or positive.

    Returns
    -------
    CheckedGradients
        Vectors by row, of unit length, still in the BIDS frame.

    Raises
    ------
    NumericsError
        If lengths of the files disagree with the image, numbers are missing, no b=0 or no
        weighted volume exists, vectors are far from unit length, or fewer than six directions
        are independent.

    Notes
    -----
    Weighted volumes with a zero vector are trace or ADC images and are left out. Vectors off unit
    length by more than 1 % are normalised with a warning, by more than 10 % refused, unless
    :math:`b\,|g|^2` forms several shells: some scanners store one nominal b and scale the
    vectors (MRtrix3 reads tables so, Tournier et al. 2019, doi:10.1016/j.neuroimage.2019.116137).
    One length shared by all vectors says nothing about shells and is refused.

    Examples
    --------
    >>> vectors = np.array([[0, 1, 1, 0, 0, 1, 1], [0, 1, -1, 1, 1, 0, 0], [0, 0, 0, 1, -1, 1, -1]])
    >>> table = check_gradients(
    ...     [5] + [1000] * 6, vectors / np.sqrt(2), n_volumes=7, b0_threshold_s_mm2=50
    ... )
    >>> table.b_values_s_mm2[:2], table.warnings
    (array([   0., 1000.]), ())
    """
    require_range("b0_threshold_s_mm2", b0_threshold_s_mm2, 0, np.inf, unit="s/mm2")
    b_values_s_mm2, notes = _one_b_per_volume(b_values, n_volumes)
    vectors, vector_notes = _one_vector_per_volume(b_vectors, n_volumes)
    notes += vector_notes
    weighted = b_values_s_mm2 > b0_threshold_s_mm2
    _require_both_weightings(b_values_s_mm2, weighted, b0_threshold_s_mm2)
    b_values_s_mm2 = np.where(weighted, b_values_s_mm2, 0.0)
    vectors[~weighted] = 0.0
    missing = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(missing):
        raise NumericsError(
            f"b_vectors of volumes {_listed(missing)} hold NaN or infinity although their b is "
            f"above {b0_threshold_s_mm2:g} s/mm2 (volume {missing[0]}: "
            f"{b_values_s_mm2[missing[0]]:g}); give their direction, or zeros for a trace volume"
        )
    lengths = np.linalg.norm(vectors, axis=1)
    trace = weighted & (lengths < 1e-6)
    if np.any(trace):
        notes.append(
            f"Volumes {_listed(np.flatnonzero(trace))} have b above {b0_threshold_s_mm2:g} s/mm2 "
            "and a zero vector; they are trace or ADC images and were left out."
        )
    used = np.flatnonzero(weighted & ~trace)
    if len(used):
        b_values_s_mm2[used], length_notes = _b_by_length(b_values_s_mm2[used], lengths[used], used)
        notes += length_notes
        vectors[used] /= lengths[used, np.newaxis]
    require_tensor_directions(vectors[used])
    return CheckedGradients(b_values_s_mm2, vectors, ~trace, tuple(notes))


def _image_axes(affine: ArrayLike) -> FloatArray:
    """Rotation from the BIDS b-vector frame to world, the reflection of x included."""
    matrix = as_float("affine", affine, ndim=2)
    if matrix.shape not in ((3, 3), (4, 4)):
        raise NumericsError(f"affine has shape {matrix.shape}; give (4, 4)")
    require_finite("affine", matrix)
    axes = matrix[:3, :3]
    sizes_mm = np.linalg.norm(axes, axis=0)
    determinant = np.linalg.det(axes)
    if sizes_mm.min() == 0 or abs(determinant) < 1e-6 * np.prod(sizes_mm):
        raise NumericsError(
            f"affine cannot be inverted (determinant {determinant:g} mm3); correct the header"
        )
    unit = axes / sizes_mm
    cosine = float(np.abs(unit.T @ unit - np.eye(3)).max())
    if cosine > _LARGEST_AXIS_COSINE:
        degrees = np.degrees(np.arcsin(min(cosine, 1.0)))
        raise NumericsError(
            f"affine is sheared: two image axes are {degrees:.1f} degrees off a right angle, so "
            "b-vectors along image axes have no defined direction; resample the image to a grid "
            "with right angles"
        )
    to_world: FloatArray = rotation_part(unit) * [-np.sign(determinant), 1.0, 1.0]
    return to_world


def rotation_part(matrices: FloatArray) -> FloatArray:
    """Orthogonal matrices closest to the given ones.

    Parameters
    ----------
    matrices : (..., 3, 3) array
        Invertible.

    Returns
    -------
    orthogonal : (..., 3, 3) array
        The orthogonal factor of the polar decomposition; it mirrors where the matrix does.

    Examples
    --------
    >>> rotation_part(np.diag([2.0, 3.0, -1.0]))[2]
    array([ 0.,  0., -1.])
    """
    left, _, right = np.linalg.svd(matrices)
    orthogonal: FloatArray = left @ right
    return orthogonal


def bvecs_to_world(b_vectors: ArrayLike, affine: ArrayLike) -> FloatArray:
    """Directions in world axes of b-vectors stored along image axes.

    Parameters
    ----------
    b_vectors : (N, 3) array_like
        In the BIDS frame, one row per volume.
    affine : (4, 4) array_like
        Voxel indices to world (right, anterior, superior), in mm, without shear.

    Returns
    -------
    directions_world : (N, 3) array
        Of the same lengths; zero vectors stay zero.

    Raises
    ------
    NumericsError
        If the affine is sheared by more than 0.6 degrees or cannot be inverted.

    Notes
    -----
    BIDS follows the FSL convention: image axes, the first negated when the determinant of the
    affine is positive (BIDS specification 1.10, "Diffusion imaging data", required gradient
    orientation information). The axes are the orthogonal factor of the polar decomposition of
    the affine's columns, so voxel sizes have no influence.

    Examples
    --------
    >>> bvecs_to_world([[1, 0, 0], [0, 1, 0]], np.diag([2, 2, 2, 1]))
    array([[-1.,  0.,  0.],
           [ 0.,  1.,  0.]])
    """
    return as_float("b_vectors", b_vectors, ndim=2) @ _image_axes(affine).T


def world_to_bvecs(directions_world: ArrayLike, affine: ArrayLike) -> FloatArray:
    """B-vectors in the BIDS frame of an image, the inverse of `bvecs_to_world`.

    Parameters
    ----------
    directions_world : (N, 3) array_like
        In world axes, one row per volume.
    affine : (4, 4) array_like
        Of the image beside which the vectors are stored, in mm.

    Returns
    -------
    b_vectors : (N, 3) array
        Transpose it to write a bvec file.

    Raises
    ------
    NumericsError
        If the affine is sheared or cannot be inverted.

    Examples
    --------
    >>> world_to_bvecs([[-1, 0, 0]], np.diag([2, 2, 2, 1]))
    array([[1., 0., 0.]])
    """
    return as_float("directions_world", directions_world, ndim=2) @ _image_axes(affine)


def world_table(checked: CheckedGradients, affine: ArrayLike) -> GradientTable:
    """Gradient table in world axes of the volumes that were kept.

    Parameters
    ----------
    checked : CheckedGradients
        Of N volumes.
    affine : (4, 4) array_like
        Of the image, in mm.

    Returns
    -------
    GradientTable
        As many volumes as `checked.kept` holds True; the warnings become its notes.

    Examples
    --------
    >>> checked = CheckedGradients(np.array([0.0, 9.0]), np.eye(3)[:2] * [[0], [1]], np.ones(2) > 0)
    >>> world_table(checked, np.eye(4)).directions_world[1]
    array([0., 1., 0.])
    """
    kept = checked.kept
    return GradientTable(
        checked.b_values_s_mm2[kept],
        bvecs_to_world(checked.b_vectors[kept], affine),
        checked.warnings,
    )


def rotate_directions(directions_world: ArrayLike, reference_to_volume: ArrayLike) -> FloatArray:
    """Directions as the head of the reference frame saw them, after motion correction.

    Parameters
    ----------
    directions_world : (N, 3) array_like
        As played out by the scanner, in world axes.
    reference_to_volume : (N, 4, 4) array_like
        World maps in mm that `resample_series` takes: where a point of the reference volume lies
        in each volume.

    Returns
    -------
    directions_world : (N, 3) array
        Turned by the inverse of each map's rotation; of the same lengths.

    Raises
    ------
    NumericsError
        If shapes disagree or a map mirrors.

    Notes
    -----
    A head that turned by :math:`R` sees a fixed gradient turned by :math:`R^{-1}`. The rotation is
    the orthogonal factor of the affine's polar decomposition ("finite strain", Alexander et al.
    2001, doi:10.1109/42.963816); leaving it out biases FA and directions (Leemans and Jones
    2009, doi:10.1002/mrm.21890).

    Examples
    --------
    >>> quarter_turn = np.array([[0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    >>> rotate_directions([[0, 1, 0]], [quarter_turn]).round(6)
    array([[1., 0., 0.]])
    """
    directions = as_float("directions_world", directions_world, ndim=2)
    maps = as_float("reference_to_volume", reference_to_volume, ndim=3)
    if maps.shape != (len(directions), 4, 4):
        raise NumericsError(
            f"reference_to_volume has shape {maps.shape} but directions_world has "
            f"{len(directions)} rows; give one (4, 4) map per volume"
        )
    require_finite("reference_to_volume", maps)
    mirrored = np.flatnonzero(np.linalg.det(maps[:, :3, :3]) <= 0)
    if len(mirrored):
        raise NumericsError(
            f"reference_to_volume of volumes {_listed(mirrored)} mirrors or flattens the head; "
            "register them again"
        )
    turned: FloatArray = np.einsum("nji,nj->ni", rotation_part(maps[:, :3, :3]), directions)
    return turned


@dataclass(frozen=True)
class Shells:
    """Groups of volumes with like diffusion weighting.

    Parameters
    ----------
    b_values_s_mm2 : (S,) array
        Mean of each shell, ascending, in s/mm2; 0 first where there are b=0 volumes.
    labels : (N,) array of int
        Index of the shell of each volume.
    """

    b_values_s_mm2: FloatArray
    labels: NDArray[np.intp]


def find_shells(
    b_values_s_mm2: ArrayLike, *, b0_threshold_s_mm2: float, shell_gap_s_mm2: float
) -> Shells:
    """Shells of a series: groups of b-values between which there is a gap.

    Parameters
    ----------
    b_values_s_mm2 : (N,) array_like
        In s/mm2.
    b0_threshold_s_mm2 : float
        Values at or below it form the shell 0, in s/mm2.
    shell_gap_s_mm2 : float
        Neighbouring values further apart than this belong to different shells, in s/mm2.

    Returns
    -------
    Shells
        Ascending.

    Notes
    -----
    The rule is that of single-linkage clustering, as in MRtrix3, whose gap is 80 s/mm2.

    Examples
    --------
    >>> find_shells([0, 995, 1005, 2000], b0_threshold_s_mm2=50, shell_gap_s_mm2=80).labels
    array([0, 1, 1, 2])
    """
    values = as_float("b_values_s_mm2", b_values_s_mm2, ndim=1)
    require_finite("b_values_s_mm2", values)
    flat = np.where(values <= b0_threshold_s_mm2, 0.0, values)
    order = np.argsort(flat, kind="stable")
    ordered = flat[order]
    step = np.diff(ordered)
    # the step from b=0 upwards is a new shell however small it is
    new_shell = (step > shell_gap_s_mm2) | ((ordered[:-1] == 0) & (step > 0))
    labels = np.empty(len(values), dtype=np.intp)
    labels[order] = np.concatenate([[0], np.cumsum(new_shell)])
    means = np.bincount(labels, weights=flat) / np.bincount(labels)
    return Shells(means, labels)


def select_tensor_volumes(
    b_values_s_mm2: ArrayLike,
    *,
    max_b_s_mm2: float,
    b0_threshold_s_mm2: float,
    shell_gap_s_mm2: float,
) -> tuple[BoolArray, str]:
    """Volumes that the tensor is fitted to, and the sentence that says which.

    Parameters
    ----------
    b_values_s_mm2 : (N,) array_like
        In s/mm2.
    max_b_s_mm2 : float
        Shells whose mean b lies at or below it (half a `shell_gap_s_mm2` is allowed for) are
        used, in s/mm2; if there is none, the lowest.
    b0_threshold_s_mm2, shell_gap_s_mm2 : float
        See `find_shells`.

    Returns
    -------
    volumes : (N,) array of bool
        True for b=0 and for the volumes of the chosen shells.
    sentence : str
        For the report.

    Raises
    ------
    NumericsError
        If no volume is diffusion-weighted.

    Notes
    -----
    Beyond about 1500 s/mm2 the logarithm of the signal is no longer linear in b, and the tensor
    depends on b (Jones and Cercignani 2010, doi:10.1002/nbm.1543).

    Examples
    --------
    >>> volumes, sentence = select_tensor_volumes(
    ...     [0, 1000, 3000], max_b_s_mm2=1500, b0_threshold_s_mm2=50, shell_gap_s_mm2=80
    ... )
    >>> print(sentence)
    The tensor was fitted to 2 of 3 volumes: b=0 (1 volume) and 1000 s/mm2 (1 volume);
    3000 s/mm2 was left out, above the limit of 1500 s/mm2.
    """
    shells = find_shells(
        b_values_s_mm2, b0_threshold_s_mm2=b0_threshold_s_mm2, shell_gap_s_mm2=shell_gap_s_mm2
    )
    means = shells.b_values_s_mm2
    if means.max() == 0:
        raise NumericsError(
            f"b_values_s_mm2 are all at or below {b0_threshold_s_mm2:g} s/mm2; a tensor needs "
            "diffusion-weighted volumes"
        )
    chosen = (means > 0) & (means <= max_b_s_mm2 + 0.5 * shell_gap_s_mm2)
    fallback = not np.any(chosen)
    if fallback:
        chosen[np.flatnonzero(means > 0)[0]] = True
    volumes = (chosen | (means == 0))[shells.labels]
    return volumes, _selection_sentence(shells, chosen, max_b_s_mm2, fallback=fallback)


def _selection_sentence(
    shells: Shells, chosen: BoolArray, max_b_s_mm2: float, *, fallback: bool
) -> str:
    counts = np.bincount(shells.labels)
    parts = []
    for mean, count, used in zip(shells.b_values_s_mm2, counts, chosen, strict=True):
        if used or mean == 0:
            name = "b=0" if mean == 0 else f"{mean:.0f} s/mm2"
            parts.append(f"{name} ({count} volume{'s' if count > 1 else ''})")
    used_shells = chosen | (shells.b_values_s_mm2 == 0)
    sentence = (
        f"The tensor was fitted to {counts[used_shells].sum()} of {counts.sum()} volumes: "
        + " and ".join(parts)
    )
    left_out = shells.b_values_s_mm2[~used_shells]
    if len(left_out):
        names = ", ".join(f"{mean:.0f}" for mean in left_out)
        sentence += f"; {names} s/mm2 {'was' if len(left_out) == 1 else 'were'} left out, above "
        sentence += "the lowest shell" if fallback else f"the limit of {max_b_s_mm2:g} s/mm2"
    if fallback:
        sentence += (
            f". No shell lies at or below {max_b_s_mm2:g} s/mm2, so the lowest was taken: "
            "diffusivities of long-diffusing water come out too low"
        )
    return sentence + "."
