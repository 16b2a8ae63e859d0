"""Motion and eddy-current correction of a series, and the tables it leaves."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bids_alsmri.interfaces.base import ImageData
from bids_alsmri.numerics.diffusion_quality import eddy_current_shift, framewise_displacement
from bids_alsmri.numerics.eddy import EddyResult, EddySettings, correct_series, register_to_b0
from bids_alsmri.numerics.outliers import multiband_groups
from bids_alsmri.numerics.sampling import add_moved_grid
from bids_alsmri.pipelines.diffusion.places import Motion, motion_columns
from bids_alsmri.pipelines.diffusion.series import SeriesTable
from bids_alsmri.pipelines.diffusion.steps import Facts, Float, measure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class MotionChoices:
    """How motion is corrected.

    Parameters
    ----------
    target : {'prediction', 'b0'}
        What volumes are registered to.
    replace_outliers : bool
        Whether lost slices are replaced.
    eddy : EddySettings
        What the numerics need; its axes are those of the series' table.
    radius_mm : float
        For the framewise displacement.
    eddy_shift_max_p : float
        Significance from which shifts are put down to eddy currents.
    """

    target: str
    replace_outliers: bool
    eddy: EddySettings
    radius_mm: float
    eddy_shift_max_p: float

    @classmethod
    def of(cls, inputs: Any) -> MotionChoices:
        """Choices from the inputs of the node, axes still open."""
        eddy = EddySettings(
            model=inputs.model,
            phase_axis=1,
            slice_axis=2,
            smoothing_fwhm_mm=tuple(inputs.smoothing_fwhm_mm),
            tolerance_mm=inputs.tolerance_mm,
            mask_margin_mm=inputs.mask_margin_mm,
            contrast_margin_mm=inputs.contrast_margin_mm,
            contrast_fwhm_mm=inputs.contrast_fwhm_mm,
            shading_fwhm_mm=inputs.shading_fwhm_mm,
            outlier_threshold_sd=inputs.outlier_threshold_sd,
            outlier_min_change=inputs.outlier_min_change,
            outlier_both_signs=False,
            min_slice_voxels=inputs.min_slice_voxels,
            b0_threshold_s_mm2=inputs.b0_threshold_s_mm2,
            shell_gap_s_mm2=inputs.shell_gap_s_mm2,
            align_shells=inputs.align_shells,
            max_b0_registered_s_mm2=inputs.max_b0_registered_s_mm2,
            threads=inputs.n_threads,
        )
        return cls(
            inputs.target, inputs.replace_outliers, eddy, inputs.radius_mm, inputs.eddy_shift_max_p
        )


@dataclass(frozen=True)
class Corrected:
    """What the correction found.

    Parameters
    ----------
    data : (X, Y, Z, N) array
        The series on its own grid.
    result : EddyResult
        Transforms and outliers.
    head : (N, 6) array
        Motion of the head: translations in mm, rotations in degrees.
    eddy_shift_mm : (N,) array
        Shift along the phase axis that follows the gradients.
    displacement_mm : (N,) array
        Framewise displacement; NaN for the first volume.
    slice_share : (n_slices, N) array
        1 where a slice lost its signal, 0 where not; NaN in volumes whose slices were not judged.
    facts : dict
        Measures, warnings and notes.
    """

    data: Float
    result: EddyResult
    head: Float
    eddy_shift_mm: Float
    displacement_mm: Float
    slice_share: Float
    facts: Facts

    @property
    def motion(self) -> Motion:
        """Transforms as the later steps take them."""
        return Motion(self.result.reference_to_volume, self.result.rigid)

    def draw(self, table: SeriesTable) -> Figure:
        """Plot of the motion, for the report."""
        from bids_alsmri.reports.figures import draw_motion

        is_judged = bool(np.isfinite(self.slice_share).any())
        return draw_motion(
            self.head[:, :3],
            self.head[:, 3:],
            self.displacement_mm,
            b_values_s_mm2=np.array(table.b_values_s_mm2),
            outlier_share=np.nan_to_num(self.slice_share) if is_judged else None,
        )


def correct_motion(
    image: ImageData, mask: NDArray[np.bool_], table: SeriesTable, choices: MotionChoices
) -> Corrected:
    """Motion and distortion of every volume; lost slices are sought, and replaced if asked for.

    Parameters
    ----------
    image : ImageData
        The series.
    mask : (X, Y, Z) array of bool
        Brain in the first b=0.
    table : SeriesTable
        Its weighting and protocol.
    choices : MotionChoices
        How.

    Returns
    -------
    Corrected
        Transforms, tables and the repaired series.
    """
    notes, warnings = [], []
    target = choices.target
    highest = max(table.b_values_s_mm2)
    if target == "b0" and highest > choices.eddy.max_b0_registered_s_mm2:
        target = "prediction"
        notes.append(
            f"volumes reach b={highest:.0f} s/mm2 and were registered to the mean of their shell, "
            "not to the b=0, whose contrast is too different"
        )
    if not table.has_phase_axis and choices.eddy.model == "eddy":
        warnings.append(
            "the sidecar lacks PhaseEncodingDirection; eddy distortion was sought along the "
            "second image axis"
        )
    settings = replace(choices.eddy, phase_axis=table.phase_axis, slice_axis=table.slice_axis)
    groups, complaints = slice_groups(table, image.data.shape[table.slice_axis])
    if target == "prediction":
        warnings.extend(complaints)
    result = _register(image, mask, table, target, groups, settings)
    warnings.extend(result.warnings)
    axis = image.affine[:3, table.phase_axis] / image.voxel_mm[table.phase_axis]
    shift = eddy_current_shift(
        result.motion[:, :3] @ axis, table.gradients, max_p_value=choices.eddy_shift_max_p
    )
    head = result.rigid.copy()
    head[:, :3, 3] -= shift[:, np.newaxis] * axis
    displacement = framewise_displacement(
        head, centre_mm=_centre_mm(mask, image), radius_mm=choices.radius_mm
    )
    share = _slice_share(result, image.data.shape[table.slice_axis])
    measures = [
        measure("mean_framewise_displacement", displacement.mean_mm),
        measure("max_framewise_displacement", displacement.max_mm),
    ]
    if np.isfinite(share).any():  # a note tells why where there is none
        measures.append(measure("outlier_slice_share", _mean_of_finite(share)))
    notes.extend(_notes_on_slices(target, share, choices))
    facts = {"measures": measures, "warnings": warnings, "notes": notes}
    data = result.data if choices.replace_outliers else image.data
    translations = result.motion[:, :3] - shift[:, np.newaxis] * axis
    motion = np.column_stack([translations, result.motion[:, 3:]])
    return Corrected(data, result, motion, shift, displacement.per_volume_mm, share, facts)


def slice_groups(table: SeriesTable, n_slices: int) -> tuple[NDArray[np.intp], list[str]]:
    """Which slices are judged together, and what is wrong with what the sidecar says of it.

    Parameters
    ----------
    table : SeriesTable
        Tells slice times and multiband factor.
    n_slices : int
        Slices of a volume.

    Returns
    -------
    groups : (n_slices,) array of int
        Group of each slice; each its own where the sidecar does not fit the image.
    warnings : list of str
        What does not fit.
    """
    times_s, factor, warnings = table.slice_times_s, table.multiband_factor, []
    if times_s is not None and len(times_s) != n_slices:
        warnings.append(
            f"SliceTiming holds {len(times_s)} times but a volume has {n_slices} slices; it was "
            "not used. Were slices cut off? Then leave their times out of the sidecar"
        )
        times_s = None
    if times_s is None and factor is not None and n_slices % factor:
        warnings.append(
            f"MultibandAccelerationFactor is {factor}, which does not divide the {n_slices} slices "
            "of a volume, and there is no SliceTiming that fits; lost slices were sought one by "
            "one, which finds fewer of them. Give SliceTiming, or correct the factor"
        )
        factor = None
    groups = multiband_groups(n_slices, slice_times_s=times_s, multiband_factor=factor)
    return groups, warnings


def _register(
    image: ImageData,
    mask: NDArray[np.bool_],
    table: SeriesTable,
    target: str,
    groups: NDArray[np.intp],
    settings: EddySettings,
) -> EddyResult:
    b_values, directions = np.array(table.b_values_s_mm2), np.array(table.directions_world)
    if target == "b0":
        return register_to_b0(
            image.data,
            mask,
            image.affine,
            b_values_s_mm2=b_values,
            directions_world=directions,
            settings=settings,
        )
    return correct_series(
        image.data,
        mask,
        image.affine,
        b_values_s_mm2=b_values,
        directions_world=directions,
        groups=groups,
        settings=settings,
    )


def _centre_mm(mask: NDArray[np.bool_], image: ImageData) -> Float:
    centre = np.argwhere(mask).mean(axis=0)
    return np.asarray(image.affine[:3, :3] @ centre + image.affine[:3, 3])


def _slice_share(result: EddyResult, n_slices: int) -> Float:
    share = np.zeros((n_slices, len(result.motion)))
    # z is a ratio less its median: volumes of a judged shell have some that are not 0
    share[:, ~result.outlier_z.any(axis=1)] = np.nan
    for outlier in result.outliers:
        share[outlier.slice_index, outlier.volume] = 1.0
    return share


def _mean_of_finite(values: Float) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else float("nan")


def _notes_on_slices(target: str, share: Float, choices: MotionChoices) -> list[str]:
    wanted = "neither sought nor replaced" if choices.replace_outliers else "not sought"
    if target == "b0":
        return [
            f"slices that lost signal were {wanted}: volumes were registered to the b=0, so there "
            "is no prediction to judge them by"
        ]
    if not np.isfinite(share).any():
        return [
            f"slices that lost signal were {wanted}: none could be judged, since no shell has "
            "enough volumes to predict each other, or all slices were excited at once"
        ]
    if not choices.replace_outliers:
        return [
            "slices that lost signal were sought and left out of the motion estimate, but not "
            "replaced (setting)"
        ]
    return []


def motion_table(found: Corrected) -> pd.DataFrame:
    """Motion and transforms, one row per volume.

    Parameters
    ----------
    found : Corrected
        What the correction found.

    Returns
    -------
    DataFrame
        Translations in mm, rotations in degrees, the eddy currents' shift along the phase axis in
        mm, framewise displacement in mm, slices that lost signal (NaN where none was judged), and
        the matrices, which hold the shift too.
    """
    names = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z")
    columns: dict[str, Float] = {n: found.head[:, i] for i, n in enumerate(names)}
    columns["eddy_shift"] = found.eddy_shift_mm
    columns["framewise_displacement"] = found.displacement_mm
    columns["lost_slices"] = found.slice_share.sum(axis=0)
    return pd.DataFrame({**columns, **motion_columns(found.motion)})


def outlier_table(found: Corrected) -> pd.DataFrame:
    """Slices that lost signal, one row each, whether they were replaced or not.

    Parameters
    ----------
    found : Corrected
        What the correction found.

    Returns
    -------
    DataFrame
        Volume, slice and multiband group (from 0), z, relative signal, share of the volume.
    """
    rows = [
        {
            "volume": o.volume,
            "slice": o.slice_index,
            "group": o.group,
            "z": o.z,
            "relative_signal": o.relative_signal,
            "volume_share": o.volume_share,
        }
        for o in found.result.outliers
    ]
    names = ["volume", "slice", "group", "z", "relative_signal", "volume_share"]
    return pd.DataFrame(rows, columns=names)


def average_volumes(
    image: ImageData, motion: Motion, chosen: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Mean of some volumes, each brought onto the first b=0 by linear interpolation.

    Parameters
    ----------
    image : ImageData
        Series on its own grid.
    motion : Motion
        Of its volumes.
    chosen : (N,) array of bool
        Volumes that are averaged, at least one.

    Returns
    -------
    (X, Y, Z) array
        Mean signal; what a volume does not cover counts as 0.
    """
    to_voxel = np.linalg.inv(image.affine)
    total = np.zeros(image.data.shape[:3])
    for volume in np.flatnonzero(chosen):
        world = motion.reference_to_volume[volume]
        # the determinant keeps the amount of signal where the image was stretched
        add_moved_grid(
            image.data[..., volume],
            to_voxel @ world @ image.affine,
            float(np.linalg.det(world[:3, :3])),
            total,
        )
    mean: NDArray[np.float32] = (total / np.count_nonzero(chosen)).astype(np.float32)
    return mean
