"""From the participants' diffusion maps to values on the skeleton of tracts: nodes, workflow.

Tract-based spatial statistics (Smith et al. 2006, doi:10.1016/j.neuroimage.2006.02.024), with the
participants brought together by symmetric normalisation to their own mean FA. The mathematics is in
`numerics.skeleton` and `numerics.fields`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import nipype.pipeline.engine as pe
import numpy as np
from nipype.interfaces.base import File, InputMultiObject, traits
from nipype.interfaces.utility import Merge
from numpy.typing import NDArray

from bids_alsmri.errors import DataError, ExitCode, RunError, SettingsError
from bids_alsmri.interfaces.base import ImageData, concerning, read_image, write_image
from bids_alsmri.interfaces.displacements import read_displacement, write_displacement
from bids_alsmri.interfaces.images import as_stages, optional_path
from bids_alsmri.interfaces.node import AlsInterface, NodeInputSpec, NodeOutputSpec, write_facts
from bids_alsmri.interfaces.registration import compose_to_field, register, write_linear
from bids_alsmri.interfaces.templates import LoadTemplate
from bids_alsmri.numerics.fields import interpolate_within, invert_displacement, smooth_within
from bids_alsmri.numerics.resampling import grid_points, points_to_volume
from bids_alsmri.numerics.skeleton import (
    GroupMask,
    Skeleton,
    distance_map,
    erode_fa,
    group_mask,
    project,
    sample_positions,
    skeletonise,
)

MAPS = ("fa", "md", "ad", "rd")

# A hundredth of a voxel of 1 mm; the mean of a cohort's warps settles in about ten rounds.
_INVERSE_TOLERANCE_MM = 0.01
_INVERSE_ROUNDS = 100
# Headers in float32 and transforms that wrote them agree to this, in mm.
_SAME_GRID_MM = 1e-3
# Voxels that count as cubes: rounding of headers, in relative terms.
_CUBE_RTOL = 1e-3

Output = tuple[pe.Node, str]
Source = Output | Path


# ---- images on one grid


def require_same_grid(images: Sequence[ImageData]) -> None:
    """Raise where images differ in shape or place.

    Parameters
    ----------
    images : sequence of ImageData
        At least one.

    Raises
    ------
    DataError
        If two grids differ; the message names both files.
    """
    first = images[0]
    for image in images[1:]:
        if image.data.shape[:3] != first.data.shape[:3]:
            raise DataError(
                f"{image.path}: has {image.data.shape[:3]} voxels but {first.path} has "
                f"{first.data.shape[:3]}; expected one grid; bring both to the same space and "
                "voxel size"
            )
        corner = np.append(np.array(first.data.shape[:3]) - 1.0, 1.0)
        gaps_mm = np.abs(image.affine - first.affine) @ corner
        if gaps_mm.max() > _SAME_GRID_MM:
            raise DataError(
                f"{image.path}: its voxels lie up to {gaps_mm.max():.3g} mm off those of "
                f"{first.path}; expected one grid; bring both to the same space"
            )


def _maps_given(inputs: Any) -> dict[str, Path]:
    paths = {name: optional_path(getattr(inputs, name)) for name in MAPS}
    return {name: path for name, path in paths.items() if path is not None}


class MapsInputSpec(NodeInputSpec):
    """Inputs of nodes that take the maps of one participant."""

    fa = File(exists=True, mandatory=True, desc="fractional anisotropy")
    md = File(exists=True, desc="mean diffusivity, mm2/s")
    ad = File(exists=True, desc="axial diffusivity, mm2/s")
    rd = File(exists=True, desc="radial diffusivity, mm2/s")


class MapsOutputSpec(NodeOutputSpec):
    """Outputs of nodes that make maps, those that were given."""

    fa = File(exists=True, desc="fractional anisotropy")
    md = File(exists=True, desc="mean diffusivity, mm2/s")
    ad = File(exists=True, desc="axial diffusivity, mm2/s")
    rd = File(exists=True, desc="radial diffusivity, mm2/s")


# ---- nodes of one participant


class PrepareFaInputSpec(MapsInputSpec):
    """Inputs of :class:`PrepareFa`."""

    mask = File(exists=True, mandatory=True, desc="brain")


class PrepareFaOutputSpec(NodeOutputSpec):
    """Outputs of :class:`PrepareFa`."""

    fa = File(exists=True, desc="FA without the rim of the brain")
    mask = File(exists=True, desc="voxels in which all maps have a value that counts")


class PrepareFa(AlsInterface):
    """Take the rim of the brain and the end slices off FA, and voxels that a map lacks."""

    input_spec = PrepareFaInputSpec
    output_spec = PrepareFaOutputSpec
    memory_gb = 0.3

    def _run_interface(self, runtime: Any) -> Any:
        maps = [
            read_image(path, ndim=3, nonfinite="keep") for path in _maps_given(self.inputs).values()
        ]
        brain = read_image(Path(self.inputs.mask), ndim=3)
        require_same_grid([*maps, brain])
        is_complete = np.all([np.isfinite(image.data) for image in maps], axis=0)
        with concerning(maps[0].path, brain.path):
            fa = erode_fa(np.where(is_complete, maps[0].data, np.nan), brain.data > 0)
        results = {"fa": self.file(runtime, "fa.nii.gz"), "mask": self.file(runtime, "mask.nii.gz")}
        write_image(fa, brain.affine, results["fa"], space="aligned")
        write_image(fa > 0, brain.affine, results["mask"], space="aligned")
        return self.give(runtime, results)


class BringMapsInputSpec(MapsInputSpec):
    """Inputs of :class:`BringMaps`."""

    mask = File(exists=True, mandatory=True, desc="voxels with a value, on the grid of the maps")
    reference = File(exists=True, mandatory=True, desc="mask on the grid to fill, where wanted")
    transforms = InputMultiObject(
        File(exists=True),
        mandatory=True,
        desc="from that grid to the participant, the last one applied to the image first",
    )
    least_share = traits.Float(mandatory=True, desc="of a voxel's neighbours that need a value")


class BringMaps(AlsInterface):
    """Bring the maps of a participant to a common grid by one interpolation, edges kept sharp."""

    input_spec = BringMapsInputSpec
    output_spec = MapsOutputSpec
    memory_gb = 0.45
    memory_gb_at_1mm = 0.4

    def _run_interface(self, runtime: Any) -> Any:
        paths = _maps_given(self.inputs)
        maps = [read_image(path, ndim=3, nonfinite="keep") for path in paths.values()]
        mask = read_image(Path(self.inputs.mask), ndim=3)
        require_same_grid([*maps, mask])
        place = _find_place(
            Path(self.inputs.reference),
            [Path(path) for path in self.inputs.transforms],
            self.file(runtime, "way.nii"),
        )
        with concerning(mask.path, *paths.values()):
            values, is_inside = interpolate_within(
                np.stack([image.data for image in maps], axis=-1),
                mask.data > 0,
                mask.affine,
                place.points_mm,
                least_share=self.inputs.least_share,
            )
        _require_reached(is_inside, mask.path, self.inputs.reference)
        results = {name: self.file(runtime, f"{name}.nii.gz") for name in paths}
        for column, path in zip(values.T, results.values(), strict=True):
            volume = points_to_volume(column, place.mask, outside=0)
            write_image(volume, place.affine, path, space="mni152")
        return self.give(runtime, results)


@dataclass(frozen=True)
class _Place:
    """Voxels to fill, and where they lie in the participant."""

    mask: NDArray[np.bool_]
    affine: NDArray[np.float64]
    points_mm: NDArray[np.float64]


def _find_place(reference: Path, transforms: Sequence[Path], way: Path) -> _Place:
    image = read_image(reference, ndim=3)
    mask = image.data > 0
    # the field is dear, so it is taken in the box of the mask alone
    inside = np.argwhere(mask)
    low, high = inside.min(axis=0), inside.max(axis=0) + 1
    box = mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    box_affine = image.affine.copy()
    box_affine[:3, 3] += image.affine[:3, :3] @ low
    box_path = way.with_name("box.nii")
    write_image(box, box_affine, box_path, space="mni152")
    compose_to_field(box_path, transforms, way, n_threads=1)
    displacement_mm, _ = read_displacement(way)
    points_mm = grid_points(box.shape, box_affine, box) + displacement_mm[box]
    way.unlink()
    box_path.unlink()
    return _Place(mask, image.affine, points_mm)


def _require_reached(is_inside: NDArray[np.bool_], mask: Path, reference: str) -> None:
    if not is_inside.any():
        raise DataError(
            f"{mask}: none of the {is_inside.size} voxels of {reference} falls into it through the "
            "transforms; expected two views of one brain; look at the registration in the "
            "participant's report and run the participant level again"
        )


class RefineFaInputSpec(NodeInputSpec):
    """Inputs of :class:`RefineFa`."""

    target = File(exists=True, mandatory=True, desc="FA to match, such as the cohort's mean")
    fa = File(exists=True, mandatory=True, desc="FA of a participant in the same space")
    region = File(exists=True, mandatory=True, desc="where they are matched, on the target's grid")
    stages = traits.List(traits.Dict(), mandatory=True, desc="arguments of each stage")
    winsor_percentiles = traits.Tuple(
        traits.Float(), traits.Float(), mandatory=True, desc="range of intensities, percentiles"
    )
    seed = traits.Int(mandatory=True, desc="seed of the metric's sampling")
    n_threads = traits.Int(mandatory=True, desc="ITK threads; the result depends on them")


class RefineFaOutputSpec(NodeOutputSpec):
    """Outputs of :class:`RefineFa`."""

    warp = File(exists=True, desc="field from the target to the participant, ITK's form")


class RefineFa(AlsInterface):
    """Find what is left between a participant's FA and the target, both in template space."""

    input_spec = RefineFaInputSpec
    output_spec = RefineFaOutputSpec
    memory_gb = 0.6

    def _run_interface(self, runtime: Any) -> Any:
        target = Path(self.inputs.target)
        # by default centres of mass would be aligned first, and the cohort would drift
        identity = write_linear(np.eye(4), self.file(runtime, "identity.txt"))
        found = register(
            target,
            Path(self.inputs.fa),
            stages=as_stages(self.inputs.stages),
            winsor_percentiles=self.inputs.winsor_percentiles,
            out_prefix=self.file(runtime, "found"),
            seed=self.inputs.seed,
            n_threads=self.inputs.n_threads,
            initial=identity,
            fixed_mask=Path(self.inputs.region),
        )
        warp = self.file(runtime, "warp.nii")
        compose_to_field(target, [found.forward], warp, n_threads=self.inputs.n_threads)
        for path in (found.forward, found.inverse, identity):
            path.unlink()
        return self.give(runtime, {"warp": warp})


class ProjectParticipantInputSpec(MapsInputSpec):
    """Inputs of :class:`ProjectParticipant`."""

    mask = File(exists=True, mandatory=True, desc="mask of all participants")
    skeleton_mask = File(exists=True, mandatory=True, desc="skeleton")
    directions = File(exists=True, mandatory=True, desc="steps across the tract")
    distance = File(exists=True, mandatory=True, desc="distance from the skeleton, voxels")
    weight_sd_voxels = traits.Float(mandatory=True, desc="of the weight of near voxels, voxels")


class ProjectParticipant(AlsInterface):
    """Take a participant's values at the centres of the tracts, where FA is largest across them."""

    input_spec = ProjectParticipantInputSpec
    output_spec = MapsOutputSpec
    memory_gb = 0.25
    memory_gb_at_1mm = 0.65

    def _run_interface(self, runtime: Any) -> Any:
        maps = {name: read_image(path, ndim=3) for name, path in _maps_given(self.inputs).items()}
        mask, skeleton_mask, distance = (
            read_image(Path(path), ndim=3)
            for path in (self.inputs.mask, self.inputs.skeleton_mask, self.inputs.distance)
        )
        directions = read_image(Path(self.inputs.directions), ndim=4)
        require_same_grid([skeleton_mask, mask, distance, directions, *maps.values()])
        with concerning(maps["fa"].path):
            found = project(
                maps["fa"].data,
                skeleton_mask=skeleton_mask.data > 0,
                directions=directions.data.astype(np.int8),
                distance=distance.data,
                mask=mask.data > 0,
                weight_sd_voxels=self.inputs.weight_sd_voxels,
            )
        results = {name: self.file(runtime, f"{name}.npy") for name in maps}
        for name, image in maps.items():
            values = sample_positions(image.data, found.positions)
            np.save(results[name], values.astype(np.float32))
        return self.give(runtime, results)


class SmoothMapInputSpec(NodeInputSpec):
    """Inputs of :class:`SmoothMap`."""

    image = File(exists=True, mandatory=True, desc="map")
    mask = File(exists=True, mandatory=True, desc="where it counts and is wanted, on its grid")
    fwhm_mm = traits.Float(mandatory=True, desc="full width at half maximum, mm")


class SmoothMapOutputSpec(NodeOutputSpec):
    """Outputs of :class:`SmoothMap`."""

    image = File(exists=True, desc="smoothed map, 0 outside the mask")


class SmoothMap(AlsInterface):
    """Smooth a map by a Gaussian over the voxels of a mask alone."""

    input_spec = SmoothMapInputSpec
    output_spec = SmoothMapOutputSpec
    memory_gb = 0.2
    memory_gb_at_1mm = 0.45

    def _run_interface(self, runtime: Any) -> Any:
        image = read_image(Path(self.inputs.image), ndim=3, nonfinite="keep")
        mask = read_image(Path(self.inputs.mask), ndim=3)
        require_same_grid([mask, image])
        with concerning(image.path):
            smoothed = smooth_within(
                image.data, mask.data > 0, image.voxel_mm, fwhm_mm=self.inputs.fwhm_mm
            )
        path = self.file(runtime, "smoothed.nii.gz")
        write_image(smoothed, image.affine, path, space="mni152")
        return self.give(runtime, {"image": path})


# ---- nodes of all participants


class MeanFaInputSpec(NodeInputSpec):
    """Inputs of :class:`MeanFa`."""

    maps = InputMultiObject(File(exists=True), mandatory=True, desc="FA of each, on one grid")


class MeanFaOutputSpec(NodeOutputSpec):
    """Outputs of :class:`MeanFa`."""

    mean_fa = File(exists=True, desc="mean FA")


class MeanFa(AlsInterface):
    """Average FA over the participants who have it, where at least half do."""

    input_spec = MeanFaInputSpec
    output_spec = MeanFaOutputSpec
    memory_gb = 0.2
    memory_gb_at_1mm = 0.4

    def _run_interface(self, runtime: Any) -> Any:
        first = read_image(Path(self.inputs.maps[0]), ndim=3)
        total, n_present = np.zeros((2, *first.data.shape))
        for path in self.inputs.maps:
            image = read_image(Path(path), ndim=3)
            require_same_grid([first, image])
            total += image.data
            n_present += image.data > 0
        is_wanted = 2 * n_present >= len(self.inputs.maps)
        mean = np.divide(total, n_present, out=np.zeros_like(total), where=is_wanted)
        path = self.file(runtime, "mean_fa.nii.gz")
        write_image(mean, first.affine, path, space="mni152")
        return self.give(runtime, {"mean_fa": path})


def find_fa_target(environment: Mapping[str, str]) -> Path | None:
    """FSL's mean FA of 58 adults, where FSL is installed.

    Parameters
    ----------
    environment : mapping of str to str
        Variables of the process; FSLDIR counts.

    Returns
    -------
    Path or None
        FMRIB58_FA at 1 mm, in the space MNI152NLin6Asym; None where there is none.
    """
    folder = environment.get("FSLDIR")
    path = Path(folder or ".") / "data" / "standard" / "FMRIB58_FA_1mm.nii.gz"
    return path if folder and path.is_file() and path.stat().st_size else None


class PrepareTargetInputSpec(NodeInputSpec):
    """Inputs of :class:`PrepareTarget`."""

    image = File(exists=True, mandatory=True, desc="FA image in template space, any unit")
    reference = File(exists=True, mandatory=True, desc="image that gives the grid")


class PrepareTargetOutputSpec(NodeOutputSpec):
    """Outputs of :class:`PrepareTarget`."""

    image = File(exists=True, desc="the same on that grid")


class PrepareTarget(AlsInterface):
    """Bring an FA image that all are to match to the grid of the registration."""

    input_spec = PrepareTargetInputSpec
    output_spec = PrepareTargetOutputSpec
    memory_gb = 0.4

    def _run_interface(self, runtime: Any) -> Any:
        from bids_alsmri.numerics.anatomy import resample_world, sample_through

        image = read_image(Path(self.inputs.image), ndim=3, nonfinite="zero")
        grid = read_image(Path(self.inputs.reference), ndim=3)
        smooth, affine = resample_world(image.data, image.affine, min(grid.voxel_mm))
        values = sample_through(smooth, affine, np.eye(4), grid.data.shape, grid.affine)
        if not np.any(values[grid.data > 0]):
            raise DataError(
                f"{image.path}: is 0 all over the template's brain; expected an FA image in "
                "template space; give one with --diffusion-fa-target, or none"
            )
        path = self.file(runtime, "target.nii.gz")
        write_image(values, grid.affine, path, space="mni152")
        return self.give(runtime, {"image": path})


class CentreWarpsInputSpec(NodeInputSpec):
    """Inputs of :class:`CentreWarps`."""

    warps = InputMultiObject(File(exists=True), mandatory=True, desc="warp of each participant")


class CentreWarpsOutputSpec(NodeOutputSpec):
    """Outputs of :class:`CentreWarps`."""

    correction = File(exists=True, desc="field that goes before each warp")
    facts = File(exists=True, desc="findings, JSON")


class CentreWarps(AlsInterface):
    r"""Find the field after which the warps of a cohort are the identity on average.

    Notes
    -----
    Warp :math:`i` leads from :math:`x` in the target to :math:`x + u_i(x)` in a participant. The
    target is a mean and has a shape of its own; :math:`\psi = (\mathrm{id} + \bar u)^{-1}` takes
    that back, so that :math:`\psi(y) + u_i(\psi(y))` is :math:`y` on average: the shape update of
    a template's construction (Avants et al. 2010, doi:10.1016/j.neuroimage.2009.09.062), in one
    whole step. What the registration to the template gave on average therefore stays, and with it
    the place of the atlases.
    """

    input_spec = CentreWarpsInputSpec
    output_spec = CentreWarpsOutputSpec
    memory_gb = 0.3
    memory_gb_at_1mm = 2.0

    def _run_interface(self, runtime: Any) -> Any:
        paths = [Path(path) for path in self.inputs.warps]
        total, affine = read_displacement(paths[0])
        for path in paths[1:]:
            total += read_displacement(path)[0]
        mean_mm = total / len(paths)
        with concerning(*paths):
            inverse_mm = invert_displacement(
                mean_mm, affine, tolerance_mm=_INVERSE_TOLERANCE_MM, max_iterations=_INVERSE_ROUNDS
            )
        correction = self.file(runtime, "correction.nii")
        write_displacement(inverse_mm, affine, correction)
        lengths_mm = np.linalg.norm(mean_mm, axis=-1)
        facts = {"largest_mean_warp_mm": float(lengths_mm.max()), "n_warps": len(paths)}
        return self.give(
            runtime,
            {
                "correction": correction,
                "facts": write_facts(self.file(runtime, "facts.json"), facts),
            },
        )


class GroupSkeletonInputSpec(NodeInputSpec):
    """Inputs of :class:`GroupSkeleton`."""

    maps = InputMultiObject(File(exists=True), mandatory=True, desc="FA of each, on one grid")
    labels = traits.List(traits.Str(), mandatory=True, desc="participants, in the same order")
    most_removed_share = traits.Float(
        mandatory=True, desc="of the mask that one may remove alone without being named"
    )
    threshold_fa = traits.Float(mandatory=True, desc="mean FA from which a voxel is skeleton")


class GroupSkeletonOutputSpec(NodeOutputSpec):
    """Outputs of :class:`GroupSkeleton`."""

    mask = File(exists=True, desc="voxels in which all participants have FA")
    mean_fa = File(exists=True, desc="mean FA within the mask")
    skeleton = File(exists=True, desc="mean FA on the skeleton before the threshold")
    skeleton_mask = File(exists=True, desc="skeleton at the threshold")
    distance = File(exists=True, desc="distance from the skeleton or the outside, voxels")
    directions = File(exists=True, desc="steps across the tract, along the axes of the image")
    facts = File(exists=True, desc="findings, JSON")


class GroupSkeleton(AlsInterface):
    """Make the mask of all participants, their mean FA and its skeleton."""

    input_spec = GroupSkeletonInputSpec
    output_spec = GroupSkeletonOutputSpec
    memory_gb = 0.25
    memory_gb_at_1mm = 0.8

    def _run_interface(self, runtime: Any) -> Any:
        paths = [Path(path) for path in self.inputs.maps]
        _require_one_each(paths, self.inputs.labels)
        first = read_image(paths[0], ndim=3, nonfinite="keep")
        images = (_on_grid_of(first, path) for path in paths)
        group = group_mask(images, most_removed_share=self.inputs.most_removed_share)
        skeleton = skeletonise_oriented(group.mean_fa, first.affine)
        skeleton_mask = skeleton.fa >= self.inputs.threshold_fa
        arrays = {
            "mask": group.mask,
            "mean_fa": group.mean_fa,
            "skeleton": skeleton.fa,
            "skeleton_mask": skeleton_mask,
            "distance": distance_map(skeleton_mask, group.mask),
            "directions": skeleton.directions.astype(np.int16),
        }
        results = {name: self.file(runtime, f"{name}.nii.gz") for name in arrays}
        for name, values in arrays.items():
            write_image(values, first.affine, results[name], space="mni152")
        facts = skeleton_facts(
            group, skeleton_mask, self.inputs.labels, self.inputs.most_removed_share
        )
        results["facts"] = write_facts(self.file(runtime, "facts.json"), facts)
        return self.give(runtime, results)


def _on_grid_of(first: ImageData, path: Path) -> NDArray[np.floating[Any]]:
    image = read_image(path, ndim=3, nonfinite="keep")
    require_same_grid([first, image])
    return image.data


def _require_one_each(paths: Sequence[Path], labels: Sequence[str]) -> None:
    if len(paths) != len(labels):
        raise DataError(
            f"{len(paths)} maps were given for {len(labels)} participants ({', '.join(labels)}); "
            "expected one map of each; leave out participants without one",
            exit_code=ExitCode.NO_INPUT,
        )


def skeletonise_oriented(mean_fa: NDArray[np.floating], affine: NDArray[np.float64]) -> Skeleton:
    """Skeleton of a mean FA map on a grid whose axes run any way.

    Parameters
    ----------
    mean_fa : (X, Y, Z) array
        Mean FA, dimensionless, 0 outside the mask.
    affine : (4, 4) array
        Voxel indices to world, in mm; cubic voxels.

    Returns
    -------
    Skeleton
        As `numerics.skeleton.skeletonise` finds it with axes to the right, forwards and upwards;
        arrays and steps are along the axes of the map.

    Raises
    ------
    DataError
        If voxels are not cubic.

    Examples
    --------
    >>> sheet = np.zeros((9, 9, 9)) + np.array([0, 0, 1, 3, 5, 3, 1, 0, 0])[:, None, None] / 10
    >>> found = skeletonise_oriented(sheet, np.diag([-2.0, 2.0, 2.0, 1.0]))
    >>> found.fa[:, 4, 4], found.directions[4, 4, 4]
    (array([0. , 0. , 0. , 0. , 0.5, 0. , 0. , 0. , 0. ]), array([1, 0, 0], dtype=int8))
    """
    edges_mm = np.linalg.norm(affine[:3, :3], axis=0)
    if np.ptp(edges_mm) > _CUBE_RTOL * edges_mm.max():
        raise DataError(
            f"voxels of the mean FA measure {edges_mm.round(3).tolist()} mm; expected cubes, whose "
            "neighbours lie alike in all directions; bring the maps to an isotropic grid"
        )
    to_world = nib.orientations.io_orientation(affine)
    from_world = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), to_world)
    found = skeletonise(nib.orientations.apply_orientation(mean_fa, to_world))
    fa, directions = (
        nib.orientations.apply_orientation(values, from_world)
        for values in (found.fa, found.directions)
    )
    axes, signs = to_world[:, 0].astype(int), to_world[:, 1].astype(np.int8)
    return Skeleton(np.ascontiguousarray(fa), np.ascontiguousarray(directions[..., axes] * signs))


def skeleton_facts(
    group: GroupMask,
    skeleton_mask: NDArray[np.bool_],
    labels: Sequence[str],
    most_removed_share: float,
) -> dict[str, Any]:
    """What the report says of the mask and the skeleton.

    Parameters
    ----------
    group : GroupMask
        Of the participants.
    skeleton_mask : (X, Y, Z) array of bool
        Skeleton at its threshold.
    labels : sequence of str
        Participants, in the order of the mask.
    most_removed_share : float
        Share that one may remove alone without being named, 0 to 1.

    Returns
    -------
    dict
        Counts of voxels, each participant's share, and a warning for each who removes too much.
    """
    shares = {label: float(s) for label, s in zip(labels, group.removed_share, strict=True)}
    warnings = [
        f"{labels[index]}: alone removes {shares[labels[index]]:.1%} of the voxels that all others "
        f"have; expected at most {most_removed_share:.1%}; look at the field of view and the "
        "registration, and exclude the scan if they are at fault"
        for index in group.costly
    ]
    return {
        "n_participants": len(labels),
        "n_mask_voxels": int(np.count_nonzero(group.mask)),
        "n_skeleton_voxels": int(np.count_nonzero(skeleton_mask)),
        "removed_share": shares,
        "warnings": warnings,
    }


class StackMapsInputSpec(NodeInputSpec):
    """Inputs of :class:`StackMaps`."""

    # existence is checked by the node, which can name the participant
    maps = InputMultiObject(File(), mandatory=True, desc="vector or image of each participant")
    labels = traits.List(traits.Str(), mandatory=True, desc="participants, in the same order")
    mask = File(exists=True, mandatory=True, desc="voxels to take, on the grid of the images")


class StackMapsOutputSpec(NodeOutputSpec):
    """Outputs of :class:`StackMaps`."""

    stack = File(exists=True, desc="(participants, voxels of the mask), float32, .npy")
    mask = File(exists=True, desc="mask whose voxels are the columns, in the order of map[mask]")


class StackMaps(AlsInterface):
    """Join the maps of all participants to one array, and refuse what does not fit together."""

    input_spec = StackMapsInputSpec
    output_spec = StackMapsOutputSpec
    memory_gb = 0.2
    memory_gb_at_1mm = 0.2

    def _run_interface(self, runtime: Any) -> Any:
        paths = [Path(path) for path in self.inputs.maps]
        mask = read_image(Path(self.inputs.mask), ndim=3)
        path = self.file(runtime, "stack.npy")
        stack_maps(paths, self.inputs.labels, mask, path)
        return self.give(runtime, {"stack": path, "mask": self.inputs.mask})


def stack_maps(
    paths: Sequence[Path], labels: Sequence[str], mask: ImageData, out_file: Path
) -> Path:
    """Write the values of all participants within a mask as one array.

    Parameters
    ----------
    paths : sequence of Path
        For each participant an image on the grid of the mask, or a vector (.npy) in the order of
        ``map[mask]``.
    labels : sequence of str
        Participants, in the same order.
    mask : ImageData
        Voxels above 0 are taken.
    out_file : Path
        Ending in .npy; a row is written at a time, so that memory does not grow with the cohort.

    Returns
    -------
    Path
        `out_file`: (participants, voxels), float32.

    Raises
    ------
    DataError
        If a participant has no map, the mask is empty, grids or lengths differ, or values within
        the mask are not finite; the message names the participants.
    """
    _require_one_each(paths, labels)
    is_inside = mask.data > 0
    n_voxels = int(np.count_nonzero(is_inside))
    if not n_voxels:
        raise DataError(f"{mask.path}: no voxel is above 0; expected a mask; make it again")
    open_memmap: Any = np.lib.format.open_memmap
    stack = open_memmap(out_file, mode="w+", dtype=np.float32, shape=(len(paths), n_voxels))
    n_bad = {}
    for row, path, label in zip(stack, paths, labels, strict=True):
        row[:] = _values_within(path, label, mask, is_inside)
        bad = n_voxels - int(np.count_nonzero(np.isfinite(row)))
        if bad:
            n_bad[label] = bad
    if n_bad:
        counts = ", ".join(f"{label} ({n})" for label, n in n_bad.items())
        raise DataError(
            f"values are NaN or infinite at some of the {n_voxels} voxels of {mask.path}: "
            f"{counts}; expected a value of each participant at each; use a mask of the voxels "
            "that all have, or leave these participants out"
        )
    stack.flush()
    return out_file


def _values_within(
    path: Path, label: str, mask: ImageData, is_inside: NDArray[np.bool_]
) -> NDArray[np.floating[Any]]:
    if not path.is_file():
        raise DataError(
            f"{label}: has no map, {path} does not exist; expected one of each participant; run "
            "the participant level for it, or leave it out",
            exit_code=ExitCode.NO_INPUT,
        )
    if path.suffix != ".npy":
        image = read_image(path, ndim=3, nonfinite="keep")
        require_same_grid([mask, image])
        return image.data[is_inside]
    values: NDArray[np.floating[Any]] = np.load(path, allow_pickle=False)
    n_voxels = np.count_nonzero(is_inside)
    if values.shape != (n_voxels,):
        raise DataError(
            f"{path}: holds {values.shape} values of {label} but {mask.path} has {n_voxels} "
            "voxels; expected one for each; make both from the same skeleton"
        )
    return values


# ---- workflow


@dataclass(frozen=True)
class ParticipantMaps:
    """Diffusion maps of one participant and the way to the template.

    Parameters
    ----------
    label : str
        Unique, such as ``sub-01_ses-m00``.
    fa, md, ad, rd : Path
        Maps on one grid in the participant's space.
    mask : Path
        Brain on that grid.
    transforms : tuple of Path
        ITK transforms that bring the maps to the template, the last applied to the image first.
    """

    label: str
    fa: Path
    md: Path
    ad: Path
    rd: Path
    mask: Path
    transforms: tuple[Path, ...]


@dataclass(frozen=True)
class SkeletonChoices:
    """How the maps are brought together, skeletonised and projected.

    Parameters
    ----------
    template : str
        Name of the template space.
    resolution_mm : float
        Voxel size of mean, skeleton and maps, in mm.
    least_share : float
        Share of a voxel's neighbours that need a value for it to get one, above 0 to 1.
    refinement_iterations : int
        Rounds of registration to the cohort's mean FA, from 0; a given target takes one.
    refinement_resolution_mm : float
        Voxel size of these registrations, in mm.
    refinement_stages : tuple of mapping
        Arguments of each `interfaces.registration.Stage`.
    winsor_percentiles : (float, float)
        Percentiles to which darker and brighter voxels are set, 0 to 100.
    registration_threads : int
        ITK threads of one registration; results depend on it.
    threshold_fa : float
        Mean FA from which a voxel is skeleton.
    most_removed_share : float
        Share of the mask that one participant may remove alone without being named.
    weight_sd_voxels : float
        Of the weight in the search across a tract, in voxels.
    seed : int
        Of the run; each registration derives its own.
    """

    template: str
    resolution_mm: float
    least_share: float
    refinement_iterations: int
    refinement_resolution_mm: float
    refinement_stages: tuple[Mapping[str, Any], ...]
    winsor_percentiles: tuple[float, float]
    registration_threads: int
    threshold_fa: float
    most_removed_share: float
    weight_sd_voxels: float
    seed: int


@dataclass(frozen=True)
class SkeletonNodes:
    """Where the results of `build_skeleton` come from, each a node and its output.

    Parameters
    ----------
    stacks : mapping
        By map (``fa``, ``md``, ``ad``, ``rd``): (participants, skeleton voxels), .npy.
    group : Node
        :class:`GroupSkeleton`, with mean FA, mask, skeleton, distance and facts.
    maps : mapping of mapping
        By participant and map: the image on the grid of the skeleton, for analyses without one.
    warps : mapping of tuple
        By participant: what comes before the transforms to the template, in the same order; empty
        without refinement.
    refinement_facts : tuple of (Node, str)
        Of :class:`CentreWarps`, one for each round.
    """

    stacks: Mapping[str, Output]
    group: pe.Node
    maps: Mapping[str, Mapping[str, Output]]
    warps: Mapping[str, tuple[Output, ...]]
    refinement_facts: tuple[Output, ...]


@dataclass
class _Builder:
    """Adds nodes to a workflow, with names that start alike and memory that fits their grid."""

    workflow: pe.Workflow
    prefix: str
    seed: int = 0
    names: set[str] = field(default_factory=set)

    def add(
        self, name: str, interface: AlsInterface, *, resolution_mm: float = 0.0, **sources: Any
    ) -> pe.Node:
        full_name = re.sub(r"\W", "_", f"{self.prefix}_{name}")
        if full_name in self.names:
            raise RunError(f"two steps of the group level are called {full_name!r}; rename one")
        self.names.add(full_name)
        memory_gb = interface.memory_gb
        if resolution_mm:
            memory_gb += getattr(interface, "memory_gb_at_1mm", 0.0) / resolution_mm**3
        n_threads = getattr(interface.inputs, "n_threads", 1)
        node = pe.Node(interface, name=full_name, mem_gb=memory_gb, n_procs=n_threads)
        self.workflow.add_nodes([node])
        for given, source in sources.items():
            joined = self._join(f"{name}_{given}", source) if isinstance(source, list) else source
            if isinstance(joined, tuple):
                self.workflow.connect(*joined, node, given)
            else:
                setattr(node.inputs, given, str(joined))
        return node

    def _join(self, name: str, sources: list[Source]) -> Output:
        full_name = re.sub(r"\W", "_", f"{self.prefix}_list_{name}")
        join = pe.Node(Merge(len(sources)), name=full_name, mem_gb=0.1)
        self.workflow.add_nodes([join])
        for index, source in enumerate(sources, start=1):
            if isinstance(source, tuple):
                self.workflow.connect(*source, join, f"in{index}")
            else:
                setattr(join.inputs, f"in{index}", str(source))
        return join, "out"

    def seed_of(self, name: str) -> int:
        """Seed of a step, so that neither order nor company matters."""
        text = f"{self.seed}/{self.prefix}/{name}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


@dataclass(frozen=True)
class _Plan:
    """Steps that are the same for every participant, by label."""

    builder: _Builder
    participants: Sequence[ParticipantMaps]
    choices: SkeletonChoices

    def prepare(self) -> dict[str, pe.Node]:
        return {
            person.label: self.builder.add(
                f"prepare_{person.label}",
                PrepareFa(),
                mask=person.mask,
                **{name: getattr(person, name) for name in MAPS},
            )
            for person in self.participants
        }

    def bring(
        self,
        step: str,
        prepared: Mapping[str, pe.Node],
        reference: Output,
        warps: Mapping[str, tuple[Output, ...]],
        *,
        names: Sequence[str],
        resolution_mm: float,
    ) -> dict[str, pe.Node]:
        # FA comes eroded; the other maps count in the same voxels by the mask
        return {
            person.label: self.builder.add(
                f"{step}_{person.label}",
                BringMaps(least_share=self.choices.least_share),
                resolution_mm=resolution_mm,
                fa=(prepared[person.label], "fa"),
                mask=(prepared[person.label], "mask"),
                reference=reference,
                transforms=[*warps[person.label], *person.transforms],
                **{name: getattr(person, name) for name in names if name != "fa"},
            )
            for person in self.participants
        }

    def register(
        self, step: str, brought: Mapping[str, pe.Node], target: Output, region: Output
    ) -> dict[str, Output]:
        warps = {}
        for label, node in brought.items():
            name = f"{step}_{label}"
            interface = RefineFa(
                stages=[dict(stage) for stage in self.choices.refinement_stages],
                winsor_percentiles=self.choices.winsor_percentiles,
                seed=self.builder.seed_of(name),
                n_threads=self.choices.registration_threads,
            )
            found = self.builder.add(name, interface, target=target, fa=(node, "fa"), region=region)
            warps[label] = (found, "warp")
        return warps

    def project(self, brought: Mapping[str, pe.Node], group: pe.Node) -> dict[str, pe.Node]:
        ways = ("mask", "skeleton_mask", "directions", "distance")
        return {
            label: self.builder.add(
                f"project_{label}",
                ProjectParticipant(weight_sd_voxels=self.choices.weight_sd_voxels),
                resolution_mm=self.choices.resolution_mm,
                **{name: (node, name) for name in MAPS},
                **{name: (group, name) for name in ways},
            )
            for label, node in brought.items()
        }


@dataclass(frozen=True)
class _Refined:
    """What comes before the transforms to the template, and what was found on the way."""

    warps: Mapping[str, tuple[Output, ...]]
    facts: tuple[Output, ...] = ()


def _refine(plan: _Plan, prepared: Mapping[str, pe.Node], fa_target: Path | None) -> _Refined:
    choices, builder = plan.choices, plan.builder
    none: dict[str, tuple[Output, ...]] = dict.fromkeys(prepared, ())
    if not choices.refinement_iterations:
        return _Refined(none)
    edge_mm = choices.refinement_resolution_mm
    grid = builder.add(
        "refinement_template", LoadTemplate(name=choices.template, resolution_mm=edge_mm)
    )
    region = (grid, "mask")
    start = plan.bring("start", prepared, region, none, names=("fa",), resolution_mm=edge_mm)
    if fa_target is not None:
        target = builder.add("target", PrepareTarget(), image=fa_target, reference=region)
        found = plan.register("to_target", start, (target, "image"), region)
        return _Refined({label: (warp,) for label, warp in found.items()})
    current, warps, facts = start, none, []
    for turn in range(1, choices.refinement_iterations + 1):
        if turn > 1:
            current = plan.bring(
                f"before_{turn}", prepared, region, warps, names=("fa",), resolution_mm=edge_mm
            )
        mean = builder.add(
            f"mean_{turn}", MeanFa(), resolution_mm=edge_mm, maps=_outputs(current, "fa")
        )
        # always from the start, so that errors of a round are not built upon
        found = plan.register(f"round_{turn}", start, (mean, "mean_fa"), region)
        centred = builder.add(
            f"centre_{turn}", CentreWarps(), resolution_mm=edge_mm, warps=list(found.values())
        )
        facts.append((centred, "facts"))
        warps = {label: ((centred, "correction"), warp) for label, warp in found.items()}
    return _Refined(warps, tuple(facts))


def _outputs(nodes: Mapping[str, pe.Node], name: str) -> list[Output]:
    return [(node, name) for node in nodes.values()]


def build_skeleton(
    workflow: pe.Workflow,
    participants: Sequence[ParticipantMaps],
    choices: SkeletonChoices,
    *,
    fa_target: Path | None,
) -> SkeletonNodes:
    """Add the nodes from the participants' maps to their values on the skeleton.

    Parameters
    ----------
    workflow : nipype Workflow
        Takes the nodes; their names start with ``skeleton_``.
    participants : sequence of ParticipantMaps
        At least two, with different labels; rows of the results are in this order.
    choices : SkeletonChoices
        Settings.
    fa_target : Path or None
        FA image in template space to which all are registered; None for the cohort's own mean.

    Returns
    -------
    SkeletonNodes
        The nodes whose outputs are the results.

    Raises
    ------
    SettingsError
        If there are fewer than two participants, or two of one label.
    """
    labels = _labels_of(participants)
    builder = _Builder(workflow, "skeleton", choices.seed)
    plan = _Plan(builder, participants, choices)
    edge_mm = choices.resolution_mm
    prepared = plan.prepare()
    refined = _refine(plan, prepared, fa_target)
    grid = builder.add("template", LoadTemplate(name=choices.template, resolution_mm=edge_mm))
    brought = plan.bring(
        "bring", prepared, (grid, "mask"), refined.warps, names=MAPS, resolution_mm=edge_mm
    )
    found = GroupSkeleton(
        labels=labels,
        most_removed_share=choices.most_removed_share,
        threshold_fa=choices.threshold_fa,
    )
    group = builder.add("group", found, resolution_mm=edge_mm, maps=_outputs(brought, "fa"))
    projected = plan.project(brought, group)
    skeleton_mask = (group, "skeleton_mask")
    stacks = {
        name: _stack(builder, name, labels, _outputs(projected, name), skeleton_mask, edge_mm)
        for name in MAPS
    }
    return SkeletonNodes(
        stacks=stacks,
        group=group,
        maps={label: {name: (node, name) for name in MAPS} for label, node in brought.items()},
        warps=refined.warps,
        refinement_facts=refined.facts,
    )


def build_smoothed(
    workflow: pe.Workflow,
    maps: Mapping[str, Mapping[str, Source]],
    mask: Source,
    *,
    fwhm_mm: float,
    resolution_mm: float,
    prefix: str,
) -> dict[str, Output]:
    """Add the nodes from maps in template space to smoothed ones, joined by participant.

    Parameters
    ----------
    workflow : nipype Workflow
        Takes the nodes.
    maps : mapping of mapping
        By participant and map: a file or a node's output, all on the grid of the mask; the same
        maps of each participant.
    mask : (Node, str) or Path
        Voxels that count and that the results hold.
    fwhm_mm : float
        Full width at half maximum of the Gaussian, in mm.
    resolution_mm : float
        Voxel size of the grid, in mm; memory is derived from it.
    prefix : str
        Start of the nodes' names, unique in the workflow.

    Returns
    -------
    dict of (Node, str)
        By map: (participants, voxels of the mask), .npy.

    Raises
    ------
    DataError
        If a participant lacks a map that another one has.

    Notes
    -----
    Maps compared voxel by voxel without a skeleton: Schwarz et al. 2014,
    doi:10.1016/j.neuroimage.2014.03.026.
    """
    names = sorted({name for given in maps.values() for name in given})
    for label, given in maps.items():
        missing = [name for name in names if name not in given]
        if missing:
            raise DataError(
                f"{label}: has no map of {', '.join(missing)}, which others have; expected the "
                "same maps of each participant; run the participant level for it, or leave it out",
                exit_code=ExitCode.NO_INPUT,
            )
    builder = _Builder(workflow, prefix)
    stacks = {}
    for name in names:
        smoothed = {
            label: builder.add(
                f"smooth_{name}_{label}",
                SmoothMap(fwhm_mm=fwhm_mm),
                resolution_mm=resolution_mm,
                image=given[name],
                mask=mask,
            )
            for label, given in maps.items()
        }
        images = _outputs(smoothed, "image")
        stacks[name] = _stack(builder, name, list(maps), images, mask, resolution_mm)
    return stacks


def _stack(
    builder: _Builder,
    name: str,
    labels: list[str],
    maps: list[Output],
    mask: Source,
    resolution_mm: float,
) -> Output:
    node = builder.add(
        f"stack_{name}",
        StackMaps(labels=labels),
        resolution_mm=resolution_mm,
        maps=maps,
        mask=mask,
    )
    return node, "stack"


def _labels_of(participants: Iterable[ParticipantMaps]) -> list[str]:
    labels = [person.label for person in participants]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice or len(labels) < 2:
        found = f"{twice[0]} twice" if twice else f"{len(labels)} participant(s)"
        raise SettingsError(
            f"a skeleton was asked for of {found}; expected at least two with different labels; "
            "correct the selection"
        )
    return labels
