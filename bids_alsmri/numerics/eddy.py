"""Head motion, eddy-current distortion and lost slices of a diffusion series.

A volume is registered to the mean of the others of its shell, and its slices are compared with what
these predict for its gradient direction, in the volume's own space. All transforms map the
reference (the first b=0) to the volume, in mm.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.linalg import polar
from scipy.spatial.transform import Rotation

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.checks import as_float, require_finite
from bids_alsmri.numerics.compile import kernel
from bids_alsmri.numerics.direction_prediction import MIN_KRIGED, leave_one_out_weights
from bids_alsmri.numerics.gradients import find_shells, rotate_directions
from bids_alsmri.numerics.mutual_information import register_by_information
from bids_alsmri.numerics.outliers import SliceOutlier, list_outliers, outlier_z, replace_slices
from bids_alsmri.numerics.volume_registration import (
    HEAD_RADIUS_MM,
    N_PARAMETERS,
    ImageFrame,
    Model,
    VolumeFit,
    coil_shading,
    frame_transform,
    image_frame,
    mask_in_volume,
    motion_parameters,
    register_across_contrasts,
    register_volume,
    resample_to_reference,
    rigid_part,
    sample_image,
    smooth,
    to_world,
)

Float = NDArray[np.float64]
Single = NDArray[np.float32]
Predict = Callable[[int], Float]
T = TypeVar("T")
AlignShells = Literal["all", "low_b", "off"]

N_SAMPLES = 2000  # voxels that choose the covariance
BORDER_TOLERANCE = 1e-3  # voxels by which a layer may miss a margin and still be within it
MIN_REGRESSED = 8  # volumes from which four coefficients are told with an error below half
CERTAIN_QUANTILE = 0.1  # share of the brain's voxels that agree best and weigh alike
# How much larger the error of the part linear in the gradient may become because the even part is
# told from it: 8 for directions on half a sphere, 1 on a whole one, endless below 9 directions.
MAX_ERROR_INFLATION = 10.0


@dataclass(frozen=True)
class EddySettings:
    """What the correction needs to know; the pipeline's settings hold the defaults.

    Attributes
    ----------
    model : {"rigid", "eddy", "affine"}
        Motion of a diffusion-weighted volume.
    phase_axis, slice_axis : int
        Image axis, 0 to 2, of phase encoding and of slices.
    smoothing_fwhm_mm : tuple of float
        One per round.
    tolerance_mm : float
        Smaller steps end the search.
    mask_margin_mm : float
        Voxels this far outside the brain still count where the contrast is the same.
    contrast_margin_mm : float
        Voxels this near to the brain's border do not count where the contrast differs; above 0, its
        outermost layer never does.
    contrast_fwhm_mm : float
        Smoothing where the contrast differs.
    shading_fwhm_mm : float
        Width over which the b=0 is averaged to estimate the coils' shading.
    outlier_threshold_sd : float
        Slices at least this many robust standard deviations below prediction are replaced.
    outlier_min_change : float
        Smallest change, as a share of the prediction, that is replaced.
    outlier_both_signs : bool
        Whether gain counts as loss does.
    min_slice_voxels : int
        Groups with fewer brain voxels are not judged.
    b0_threshold_s_mm2, shell_gap_s_mm2 : float
        At most b=0; largest step between neighbours of one shell.
    max_b0_registered_s_mm2 : float
        Volumes up to this b-value begin at their registration to the b=0 by correlation ratio, the
        others at their registration to the mean of their shell.
    align_shells : {"all", "low_b", "off"}
        Which shells' means are aligned to the b=0 at the end; "low_b" are those up to
        `max_b0_registered_s_mm2`.
    threads : int
        Volumes worked on at once; does not change a bit of the result.
    """

    model: Model
    phase_axis: int
    slice_axis: int
    smoothing_fwhm_mm: tuple[float, ...]
    tolerance_mm: float
    mask_margin_mm: float
    contrast_margin_mm: float
    contrast_fwhm_mm: float
    shading_fwhm_mm: float
    outlier_threshold_sd: float
    outlier_min_change: float
    outlier_both_signs: bool
    min_slice_voxels: int
    b0_threshold_s_mm2: float
    shell_gap_s_mm2: float
    max_b0_registered_s_mm2: float
    align_shells: AlignShells
    threads: int


@dataclass(frozen=True)
class EddyResult:
    """What the correction found; one row per volume.

    Parameters
    ----------
    reference_to_volume : (N, 4, 4) array
        World mm of the reference to world mm of the volume: motion and distortion.
    rigid : (N, 4, 4) array
        Its motion part, for turning b-vectors.
    motion : (N, 6) array
        Translations, in mm, and rotations, in degrees, of the brain's centre.
    dilution : (N,) array
        Factor that frees resampled signal of the distortion's squeeze: the determinant.
    misfit : (N,) array
        Share of the volume's weighted energy that the image it was registered to does not explain.
    outliers : list of SliceOutlier
        Slices replaced.
    outlier_z : (N, n_groups) array
        Robust z of each multiband group; 0 for b=0 and where a shell is too small to predict.
    data : (X, Y, Z, N) array of float32
        The series in its own space, lost slices replaced.
    warnings : list of str
        What could not be corrected.
    """

    reference_to_volume: Float
    rigid: Float
    motion: Float
    dilution: Float
    misfit: Float
    outliers: list[SliceOutlier]
    outlier_z: Float
    data: Single
    warnings: list[str]


@dataclass(frozen=True)
class _Series:
    # what stays the same over all rounds
    original: Single  # (N, X, Y, Z)
    mask: NDArray[np.bool_]
    frame: ImageFrame
    labels: NDArray[np.intp]
    b_values_s_mm2: Float  # of each label
    directions: Float
    groups: NDArray[np.intp]
    settings: EddySettings

    @property
    def n_shape(self) -> int:
        return N_PARAMETERS[self.settings.model] - (3 if self.settings.model == "affine" else 6)

    @property
    def shells(self) -> list[NDArray[np.intp]]:
        return [np.flatnonzero(self.labels == k) for k in range(1, int(self.labels.max()) + 1)]

    @property
    def predictable(self) -> list[NDArray[np.intp]]:
        # volumes of another shell are no stand-in: their contrast may be inverted
        return [shell for shell in self.shells if shell.size >= MIN_KRIGED]

    @property
    def predicted(self) -> NDArray[np.intp]:
        return np.sort(np.concatenate([np.empty(0, dtype=np.intp), *self.predictable]))

    def model(self, volume: int) -> Model:
        return self.settings.model if self.labels[volume] > 0 else "rigid"

    def transform(self, volume: int, parameters: Float) -> Float:
        return frame_transform(parameters, self.model(volume), self.settings.phase_axis)


@dataclass
class _State:
    # what every round improves
    parameters: list[Float]
    misfit: Float
    repaired: Single
    lost: NDArray[np.bool_]  # (N, n_slices)
    z: Float
    outliers: list[SliceOutlier]
    warnings: list[str]


def _in_threads(task: Callable[[int], T], items: Sequence[int], threads: int) -> list[T]:
    # each item is computed alone, so their number and order cannot reach the numbers
    if threads == 1:
        return [task(item) for item in items]
    with ThreadPoolExecutor(max_workers=threads) as pool:
        return list(pool.map(task, items))


@kernel
def _weighted_sum(stack: Single, weights: Float, total: Float) -> None:
    total[:] = 0.0
    for n in range(stack.shape[0]):
        if weights[n] != 0.0:
            for v in range(stack.shape[1]):
                total[v] += weights[n] * stack[n, v]


def _align(series: _Series, state: _State) -> Single:
    # volumes that predict each other on the reference grid, (N, X * Y * Z)
    aligned = np.zeros((len(series.labels), series.mask.size), dtype=np.float32)

    def one(volume: int) -> None:
        transform = series.transform(volume, state.parameters[volume])
        repaired = state.repaired[volume].astype(np.float64)
        aligned[volume] = resample_to_reference(repaired, transform, series.frame).ravel()

    _in_threads(one, series.predicted.tolist(), series.settings.threads)
    return aligned


def _rigid_world(series: _Series, parameters: Sequence[Float]) -> Float:
    return np.stack(
        [rigid_part(p, series.model(i), series.frame) for i, p in enumerate(parameters)]
    )


def _kriging_weights(series: _Series, state: _State, aligned: Single) -> Float:
    # (N, N): row i says how the others predict volume i at its gradient direction
    directions = rotate_directions(series.directions, _rigid_world(series, state.parameters))
    inside = np.flatnonzero(series.mask)
    inside = inside[:: max(1, inside.size // N_SAMPLES)]
    weights = np.zeros((len(series.labels), len(series.labels)))
    for shell in series.predictable:
        weights[np.ix_(shell, shell)] = leave_one_out_weights(
            directions[shell], aligned[np.ix_(shell, inside)]
        )
    return weights


def _mean_weights(series: _Series) -> Float:
    # (N, N): row i takes the mean of the other volumes of its shell
    weights = np.zeros((len(series.labels), len(series.labels)))
    for shell in series.predictable:
        weights[np.ix_(shell, shell)] = (1.0 - np.eye(shell.size)) / (shell.size - 1)
    return weights


def _predictor(series: _Series, aligned: Single, weights: Float) -> Predict:
    # volume -> its prediction in the reference space, from its shell's others
    def predict(volume: int) -> Float:
        total = np.empty(series.mask.size)
        _weighted_sum(aligned, weights[volume], total)
        return total.reshape(series.mask.shape)

    return predict


def _certainty(series: _Series, aligned: Single, fwhm_mm: float) -> dict[int, Float]:
    # label -> weight of each voxel, 0 to 1: one over the variance within the shell. Where fibres
    # make volumes differ by direction, that difference would be taken for motion.
    shape, threads = series.mask.shape, series.settings.threads
    certainty = {}
    for shell in series.predictable:
        mean = aligned[shell].mean(axis=0, dtype=np.float64)

        def squared(volume: int, mean: Float = mean) -> Float:
            difference = (aligned[volume] - mean).reshape(shape)
            return np.square(smooth(difference, fwhm_mm, series.frame))

        total = np.zeros(shape)
        for start in range(0, shell.size, threads):
            for image in _in_threads(squared, shell[start : start + threads].tolist(), threads):
                total += image
        floor = max(float(np.quantile(total[series.mask], CERTAIN_QUANTILE)), 1e-30)
        certainty[int(series.labels[shell[0]])] = floor / np.maximum(total, floor)
    return certainty


def _in_volume(image: Float, transform: Float, frame: ImageFrame) -> Float:
    # an image of the reference space as the volume saw it, squeeze included
    inverse = np.asarray(np.linalg.inv(transform), dtype=np.float64)
    return float(np.linalg.det(inverse[:3, :3])) * sample_image(image, inverse, frame)


def _moved_border(mask: NDArray[np.bool_], outward_mm: float, frame: ImageFrame) -> Any:
    # distances are between voxel centres, so a layer lies at a voxel's edge length; that length
    # differs by rounding between headers, and large voxels lose their outer layer all the same
    spacing_mm = np.linalg.norm(frame.voxel_to_frame[:3, :3], axis=0)
    slack_mm = BORDER_TOLERANCE * float(spacing_mm.min())
    if outward_mm == 0:
        return mask
    if outward_mm > 0:
        return ndimage.distance_transform_edt(~mask, sampling=spacing_mm) <= outward_mm + slack_mm
    inner = ndimage.distance_transform_edt(mask, sampling=spacing_mm) > slack_mm - outward_mm
    inner &= ndimage.binary_erosion(mask, border_value=1)
    return inner if inner.any() else mask


def _slice_sums(series: _Series, image: NDArray[Any]) -> Float:
    others = tuple(axis for axis in range(3) if axis != series.settings.slice_axis)
    sums: Float = image.sum(axis=others, dtype=np.float64)
    return sums


def _register(
    series: _Series,
    state: _State,
    volume: int,
    target: Float,
    wide_mask: Any,
    certainty: Float | None,
    fwhm_mm: float,
) -> VolumeFit:
    transform = series.transform(volume, state.parameters[volume])
    weights = mask_in_volume(wide_mask, transform, series.frame).astype(np.float64)
    if certainty is not None:
        inverse = np.asarray(np.linalg.inv(transform), dtype=np.float64)
        # splines overshoot, and a weight below 0 would reward a misfit
        weights *= np.maximum(sample_image(certainty, inverse, series.frame), 0.0)
    slices = np.moveaxis(weights, series.settings.slice_axis, 0)
    slices[state.lost[volume]] = 0.0
    return register_volume(
        smooth(state.repaired[volume], fwhm_mm, series.frame),
        smooth(target, fwhm_mm, series.frame),
        weights,
        frame=series.frame,
        model=series.model(volume),
        phase_axis=series.settings.phase_axis,
        start=state.parameters[volume],
        tolerance_mm=series.settings.tolerance_mm,
    )


def _register_to_mean(
    series: _Series,
    state: _State,
    aligned: Single,
    volumes: NDArray[np.intp],
    fwhm_mm: float,
    *,
    weighted: bool,
) -> dict[int, VolumeFit]:
    # The mean of the others, not what they predict for the direction: if all volumes have moved by
    # an even function of the gradient, so have these predictions, and the error would stay.
    wide = _moved_border(series.mask, series.settings.mask_margin_mm, series.frame)
    predict = _predictor(series, aligned, _mean_weights(series))
    certainty = _certainty(series, aligned, fwhm_mm) if weighted else {}

    def one(volume: int) -> VolumeFit:
        sure = certainty.get(int(series.labels[volume]))
        return _register(series, state, volume, predict(volume), wide, sure, fwhm_mm)

    fits = _in_threads(one, volumes.tolist(), series.settings.threads)
    for volume, fit in zip(volumes, fits, strict=True):
        state.parameters[volume] = fit.parameters
        state.misfit[volume] = fit.misfit
    return dict(zip(volumes.tolist(), fits, strict=True))


def _even_part(directions: Float, values: Float) -> Float:
    # what of values (N, K) is an even function of the gradient; the constant alone where the
    # directions do not tell the rest from the linear part
    x, y, z = directions.T
    odd = np.column_stack([x, y, z])
    constant = np.ones((len(directions), 1))
    even = np.column_stack([constant, x * x, y * y, x * y, x * z, y * z])
    basis = np.linalg.qr(even)[0]
    alone = np.linalg.svd(odd - basis @ (basis.T @ odd), compute_uv=False)[-1]
    if np.sqrt(len(directions) / 3) > MAX_ERROR_INFLATION * alone:
        even = constant
    found = np.linalg.lstsq(np.column_stack([even, odd]), values, rcond=None)[0]
    part: Float = even @ found[: even.shape[1]]
    return part


def _remove_even_distortion(series: _Series, state: _State, fits: dict[int, VolumeFit]) -> None:
    # Means fix the volumes against each other only, and contrast that differs by direction is
    # taken for distortion. Eddy currents change sign with the gradient; both of these do not.
    for shell in series.predictable:
        if series.settings.model == "rigid" or shell.size < MIN_REGRESSED:
            continue
        shape = np.stack([state.parameters[i][-series.n_shape :] for i in shell])
        if series.settings.model == "affine":
            _unstretch(series, state, shell, shape)
            continue
        for i, even in zip(shell, _even_part(series.directions[shell], shape), strict=True):
            state.parameters[i] = _without_shape(fits[i], even)


def _without_shape(fit: VolumeFit, shape: Float) -> Float:
    # Parameters with this shape taken off and motion where the misfit is then least: a shear and
    # the rotation that undoes half of it are hardly told apart, so the motion was wrong as well.
    if fit.curvature is None:
        raise NumericsError("the search kept no curvature; take a fit by `register_volume`")
    # least squares, since a volume without signal has no curvature
    motion = np.linalg.lstsq(fit.curvature[:6, :6], fit.curvature[:6, 6:] @ shape, rcond=None)[0]
    parameters: Float = fit.parameters + np.r_[motion, -shape]
    return parameters


def _unstretch(series: _Series, state: _State, shell: NDArray[np.intp], shape: Float) -> None:
    # a free affine cannot tell shear from rotation volume by volume, so only what is common goes
    design = np.column_stack([np.ones(shell.size), series.directions[shell]])
    common = np.linalg.lstsq(design, shape, rcond=None)[0][0]
    linear = np.eye(3) + common.reshape(3, 3) / HEAD_RADIUS_MM
    # the stretch alone: the common rotation may be the head's
    unstretch = np.eye(4)
    unstretch[:3, :3] = np.linalg.inv(polar(linear)[1])
    _move_shell(series, state, shell, unstretch)


def _move_shell(series: _Series, state: _State, shell: NDArray[np.intp], move: Float) -> None:
    # let every transform of a shell begin with `move`, from the b=0 to the shell's space
    for i in shell:
        old = state.parameters[i]
        if series.model(i) == "affine":
            moved = frame_transform(old, "affine", 0) @ move
            linear = (moved[:3, :3] - np.eye(3)) * HEAD_RADIUS_MM
            state.parameters[i] = np.r_[moved[:3, 3], linear.ravel()]
        else:
            moved = frame_transform(old[:6], "rigid", 0) @ move
            turn = Rotation.from_matrix(moved[:3, :3]).as_rotvec() * HEAD_RADIUS_MM
            state.parameters[i] = np.r_[moved[:3, 3], turn, old[6:]]


def _align_shells(series: _Series, state: _State, near: NDArray[np.bool_]) -> None:
    # each shell to the b=0 itself, never to another shell, whose error it would take over
    settings = series.settings
    b0 = _shell_mean(series, state, np.flatnonzero(series.labels == 0))
    for shell in series.predictable:
        wanted = settings.align_shells
        if wanted == "all" or (wanted == "low_b" and near[shell].any()):
            move, doubt_mm = _shell_move(series, state, shell, b0)
            if doubt_mm <= _longest_edge_mm(series):
                _move_shell(series, state, shell, move)
                continue
            reason = f"its halves disagree by {doubt_mm:.1f} mm"
        elif near[shell].any():
            continue  # each volume began at its registration to the b=0
        else:
            reason = "the alignment of shells is off for it"
        b_value = series.b_values_s_mm2[series.labels[shell[0]]]
        state.warnings.append(
            f"motion between the b=0 and the volumes of b={b_value:.0f} s/mm2 was not corrected: "
            f"{reason}"
        )


def _longest_edge_mm(series: _Series) -> float:
    return float(np.linalg.norm(series.frame.voxel_to_frame[:3, :3], axis=0).max())


def _shell_move(
    series: _Series, state: _State, shell: NDArray[np.intp], b0: Float
) -> tuple[Float, float]:
    # move from the b=0 to a shell, and how far the two halves of the shell disagree on it
    halves = [_shell_mean(series, state, shell[start::2]) for start in (0, 1)]
    shares = np.array([shell[start::2].size for start in (0, 1)]) / shell.size
    fits = [_fit_by_information(series, image, b0, "rigid", np.zeros(6)) for image in halves]
    difference = np.abs(fits[0].parameters - fits[1].parameters)
    whole = shares[0] * halves[0] + shares[1] * halves[1]
    start = (fits[0].parameters + fits[1].parameters) / 2
    found = _fit_by_information(series, whole, b0, "rigid", start)
    return frame_transform(found.parameters, "rigid", 0), float(difference.max())


def _fit_by_information(
    series: _Series, volume: Float, b0: Float, model: Model, start: Float
) -> VolumeFit:
    settings = series.settings
    # without the shading, a real head's shells were drawn 1 mm along the coil's gradient
    shading = coil_shading(b0, series.mask, settings.shading_fwhm_mm, series.frame)
    return register_by_information(
        volume / shading,
        b0 / shading,
        _moved_border(series.mask, settings.mask_margin_mm, series.frame),
        frame=series.frame,
        model=model,
        phase_axis=settings.phase_axis,
        start=start,
        fwhm_mm=settings.contrast_fwhm_mm,
        tolerance_mm=settings.tolerance_mm,
    )


def _register_by_information(series: _Series, state: _State, volumes: NDArray[np.intp]) -> None:
    # each of these volumes to the mean b=0, by mutual information
    b0 = _shell_mean(series, state, np.flatnonzero(series.labels == 0))

    def one(volume: int) -> VolumeFit:
        image = series.original[volume].astype(np.float64)
        return _fit_by_information(
            series, image, b0, series.model(volume), state.parameters[volume]
        )

    fits = _in_threads(one, volumes.tolist(), series.settings.threads)
    for volume, fit in zip(volumes, fits, strict=True):
        state.parameters[volume], state.misfit[volume] = fit.parameters, fit.misfit


def _shell_mean(series: _Series, state: _State, shell: NDArray[np.intp]) -> Float:
    def one(volume: int) -> Float:
        transform = series.transform(volume, state.parameters[volume])
        repaired = state.repaired[volume].astype(np.float64)
        return resample_to_reference(repaired, transform, series.frame)

    total = np.zeros(series.mask.shape)
    for start in range(0, shell.size, series.settings.threads):
        chunk = shell[start : start + series.settings.threads].tolist()
        for image in _in_threads(one, chunk, series.settings.threads):
            total += image
    return total / shell.size


def _find_outliers(series: _Series, state: _State, predict: Predict) -> None:
    settings, n = series.settings, len(series.labels)
    n_groups = int(series.groups.max()) + 1
    observed, predicted, voxels = (np.zeros((n, n_groups)) for _ in range(3))
    slice_voxels = np.zeros((n, series.groups.size))

    def in_volume(volume: int) -> tuple[Float, Any]:
        transform = series.transform(volume, state.parameters[volume])
        mask = mask_in_volume(series.mask, transform, series.frame)
        return _in_volume(predict(volume), transform, series.frame), mask

    def count(volume: int) -> None:
        prediction, mask = in_volume(volume)
        slice_voxels[volume] = _slice_sums(series, mask)
        voxels[volume] = np.bincount(series.groups, slice_voxels[volume])
        for image, sums in ((series.original[volume], observed), (prediction, predicted)):
            sums[volume] = np.bincount(series.groups, _slice_sums(series, image * mask))

    _in_threads(count, series.predicted.tolist(), settings.threads)
    ratio = np.ones((n, n_groups))
    for shell in series.predictable:
        state.z[shell], ratio[shell] = outlier_z(
            observed[shell], predicted[shell], voxels[shell], min_voxels=settings.min_slice_voxels
        )
    state.outliers = list_outliers(
        state.z,
        ratio,
        slice_voxels,
        series.groups,
        threshold_sd=settings.outlier_threshold_sd,
        min_change=settings.outlier_min_change,
        both_signs=settings.outlier_both_signs,
    )
    previously = state.lost.any(axis=1)
    state.lost[:] = False
    for outlier in state.outliers:
        state.lost[outlier.volume, outlier.slice_index] = True

    def repair(volume: int) -> None:
        prediction, _ = in_volume(volume)
        judged = voxels[volume] >= settings.min_slice_voxels
        gain = np.median((observed[volume] / np.maximum(predicted[volume], 1e-9))[judged])
        state.repaired[volume] = replace_slices(
            series.original[volume],
            gain * prediction,
            np.flatnonzero(state.lost[volume]).tolist(),
            slice_axis=settings.slice_axis,
        )

    touched = np.flatnonzero(previously | state.lost.any(axis=1)).tolist()
    _in_threads(repair, touched, settings.threads)


def correct_series(
    data: NDArray[np.floating],
    mask: NDArray[np.bool_],
    affine: ArrayLike,
    *,
    b_values_s_mm2: ArrayLike,
    directions_world: ArrayLike,
    groups: NDArray[np.intp],
    settings: EddySettings,
) -> EddyResult:
    """Motion, distortion and lost slices of a series, by prediction of each volume from others.

    Parameters
    ----------
    data : (X, Y, Z, N) array
        Signal, without NaN.
    mask : (X, Y, Z) array of bool
        Brain in the first b=0, the reference.
    affine : (4, 4) array_like
        Voxel to world, in mm.
    b_values_s_mm2 : (N,) array_like
        In s/mm2.
    directions_world : (N, 3) array_like
        Unit gradient directions in world axes; zero for b=0.
    groups : (n_slices,) array of int
        From `multiband_groups`.
    settings : EddySettings
        Model and thresholds.

    Returns
    -------
    EddyResult
        Transforms, motion, outliers and the repaired series.

    Raises
    ------
    NumericsError
        If shapes disagree, a value is not finite, the mask is empty, there is no b=0, or fewer
        than `MIN_KRIGED` diffusion-weighted volumes.

    Notes
    -----
    Each round registers a volume to the mean of the others of its shell, predicts its slices from
    theirs and replaces the lost ones, after the idea of Andersson and Sotiropoulos (2016,
    doi:10.1016/j.neuroimage.2015.10.019), whose code was not used. Voxels weigh by one over their
    variance within the shell, so fibres count little. Of the distortion in model "eddy", what is
    an even function of the gradient is set to zero: eddy currents change sign with the gradient,
    and contrast mistaken for distortion does not. Motion keeps its even part, which may be true.
    Predictions by direction serve for slices alone; as targets they repeat every even error of
    the volumes they are made from. At the end the mean of each shell is aligned to the mean b=0 by
    mutual information, unless its two halves disagree by more than a voxel. Volumes of shells with
    fewer than `MIN_REGRESSED` begin at their own registration to the b=0 by mutual information;
    with fewer than `MIN_KRIGED` they cannot be predicted, so they stay there and their slices are
    not judged.
    """
    series = _checked_series(data, mask, affine, b_values_s_mm2, directions_world, groups, settings)
    state = _start(series)
    near = np.asarray(b_values_s_mm2) <= settings.max_b0_registered_s_mm2
    size = np.bincount(series.labels)[series.labels]
    # whose common distortion nothing will remove; the correlation ratio distorts weak weighting
    few = (series.labels > 0) & (size < MIN_REGRESSED)
    _register_across(series, state, np.flatnonzero(near & ~few))
    _register_by_information(series, state, np.flatnonzero(few))
    far = np.flatnonzero(~near & ~few)
    if far.size:
        # not weighted yet: motion makes volumes differ at borders, which then would not count
        aligned = _align(series, state)
        fwhm_mm = settings.smoothing_fwhm_mm[0]
        _register_to_mean(series, state, aligned, far, fwhm_mm, weighted=False)
    for fwhm_mm in settings.smoothing_fwhm_mm:
        aligned = _align(series, state)
        predict = _predictor(series, aligned, _kriging_weights(series, state, aligned))
        fits = _register_to_mean(series, state, aligned, series.predicted, fwhm_mm, weighted=True)
        _remove_even_distortion(series, state, fits)
        _find_outliers(series, state, predict)
    _align_shells(series, state, near)
    return _result(series, state)


def register_to_b0(
    data: NDArray[np.floating],
    mask: NDArray[np.bool_],
    affine: ArrayLike,
    *,
    b_values_s_mm2: ArrayLike,
    directions_world: ArrayLike,
    settings: EddySettings,
) -> EddyResult:
    """Motion and distortion by registering every volume to the first b=0, as eddy_correct did.

    Parameters
    ----------
    data : (X, Y, Z, N) array
        Signal, without NaN.
    mask : (X, Y, Z) array of bool
        Brain in the first b=0.
    affine : (4, 4) array_like
        Voxel to world, in mm.
    b_values_s_mm2 : (N,) array_like
        In s/mm2.
    directions_world : (N, 3) array_like
        Unit gradient directions in world axes.
    settings : EddySettings
        Of it model, phase axis, margins, tolerance, b=0 threshold and threads are used.

    Returns
    -------
    EddyResult
        Without outliers; its data are those given.

    Raises
    ------
    NumericsError
        As `correct_series`.

    Notes
    -----
    Correlation ratio, see `register_across_contrasts`. Strongly weighted volumes share too little
    contrast with the b=0 for this: use `correct_series` above b = 1500 s/mm2.
    """
    groups = np.arange(data.shape[settings.slice_axis])
    series = _checked_series(data, mask, affine, b_values_s_mm2, directions_world, groups, settings)
    state = _start(series)
    _register_across(series, state, np.arange(len(series.labels)))
    return _result(series, state)


def _register_across(series: _Series, state: _State, volumes: NDArray[np.intp]) -> None:
    # each of these volumes to the first b=0, by correlation ratio
    settings = series.settings
    reference = int(np.flatnonzero(series.labels == 0)[0])
    b0 = series.original[reference].astype(np.float64)
    inner = _moved_border(series.mask, -settings.contrast_margin_mm, series.frame)

    def one(volume: int) -> VolumeFit:
        return register_across_contrasts(
            series.original[volume].astype(np.float64),
            b0,
            inner,
            frame=series.frame,
            model=series.model(volume),
            phase_axis=settings.phase_axis,
            start=state.parameters[volume],
            fwhm_mm=settings.contrast_fwhm_mm,
            shading_fwhm_mm=settings.shading_fwhm_mm,
            tolerance_mm=settings.tolerance_mm,
        )

    others = [int(i) for i in volumes if i != reference]
    for i, fit in zip(others, _in_threads(one, others, settings.threads), strict=True):
        state.parameters[i], state.misfit[i] = fit.parameters, fit.misfit


def _start(series: _Series) -> _State:
    n = len(series.labels)
    return _State(
        [np.zeros(N_PARAMETERS[series.model(i)]) for i in range(n)],
        np.zeros(n),
        series.original.copy(),
        np.zeros((n, series.groups.size), dtype=bool),
        np.zeros((n, int(series.groups.max()) + 1)),
        [],
        [],
    )


def _checked_series(
    data: NDArray[np.floating],
    mask: NDArray[np.bool_],
    affine: ArrayLike,
    b_values_s_mm2: ArrayLike,
    directions_world: ArrayLike,
    groups: NDArray[np.intp],
    settings: EddySettings,
) -> _Series:
    if data.ndim != 4 or data.shape[:3] != mask.shape:
        raise NumericsError(
            f"data has shape {data.shape} but mask has {mask.shape}; "
            "give a series (X, Y, Z, N) and the mask of its grid"
        )
    require_finite("data", data)
    if not mask.any():
        raise NumericsError("mask is empty; give the brain of the first b=0")
    directions = as_float("directions_world", directions_world, ndim=2)
    n = data.shape[3]
    if directions.shape != (n, 3):
        raise NumericsError(f"directions_world has shape {directions.shape}; give ({n}, 3)")
    shells = find_shells(
        b_values_s_mm2,
        b0_threshold_s_mm2=settings.b0_threshold_s_mm2,
        shell_gap_s_mm2=settings.shell_gap_s_mm2,
    )
    if len(shells.labels) != n:
        raise NumericsError(f"b_values_s_mm2 has {len(shells.labels)} values for {n} volumes")
    if shells.b_values_s_mm2[0] != 0:
        raise NumericsError("no volume counts as b=0, which is the reference; give at least one")
    if np.count_nonzero(shells.labels) < MIN_KRIGED:
        raise NumericsError(
            f"{np.count_nonzero(shells.labels)} diffusion-weighted volumes cannot predict each "
            f"other; give at least {MIN_KRIGED}"
        )
    if groups.shape != (data.shape[settings.slice_axis],):
        raise NumericsError(
            f"groups has shape {groups.shape} but axis {settings.slice_axis} has "
            f"{data.shape[settings.slice_axis]} slices; give one group per slice"
        )
    original = np.ascontiguousarray(np.moveaxis(data, 3, 0), dtype=np.float32)
    frame = image_frame(affine, mask.shape)
    return _Series(
        original, mask, frame, shells.labels, shells.b_values_s_mm2, directions, groups, settings
    )


def _result(series: _Series, state: _State) -> EddyResult:
    transforms = [series.transform(i, p) for i, p in enumerate(state.parameters)]
    rigid = _rigid_world(series, state.parameters)
    centre = np.argwhere(series.mask).mean(axis=0)
    centre_mm = series.frame.voxel_to_frame @ np.r_[centre, 1.0]
    return EddyResult(
        reference_to_volume=np.stack([to_world(t, series.frame) for t in transforms]),
        rigid=rigid,
        motion=motion_parameters(rigid, (series.frame.frame_to_world @ centre_mm)[:3]),
        dilution=np.array([np.linalg.det(t[:3, :3]) for t in transforms]),
        misfit=state.misfit,
        outliers=state.outliers,
        outlier_z=state.z,
        data=np.moveaxis(state.repaired, 0, 3),
        warnings=state.warnings,
    )
