"""Nodes that bring maps in template space together: as a volume, and at a skeleton's voxels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import File, InputMultiObject, traits
from numpy.typing import NDArray
from scipy import ndimage

from bids_alsmri.comparisons.skeleton import require_same_grid
from bids_alsmri.errors import DataError
from bids_alsmri.interfaces.base import ImageData, read_image, write_image
from bids_alsmri.interfaces.node import AlsInterface, NodeInputSpec, NodeOutputSpec, write_facts
from bids_alsmri.numerics.skeleton import GroupMask, group_mask
from bids_alsmri.spaces.templates import get_template


class CommonMaskInputSpec(NodeInputSpec):
    """Inputs of :class:`CommonMask`."""

    maps = InputMultiObject(File(exists=True), mandatory=True, desc="one of each participant")
    labels = traits.List(traits.Str(), mandatory=True, desc="participants, in the same order")
    template = traits.Str(mandatory=True, desc="space that the maps are in")
    most_removed_share = traits.Float(
        mandatory=True, desc="share of voxels above which one who alone removes them is named"
    )


class CommonMaskOutputSpec(NodeOutputSpec):
    """Outputs of :class:`CommonMask`."""

    mask = File(exists=True, desc="voxels of the brain at which all have a value")
    t1w = File(exists=True, desc="T1w of the template on the same grid")
    facts = File(exists=True, desc="what was found, JSON")


class CommonMask(AlsInterface):
    """Find the voxels of the template's brain at which every participant has a value."""

    input_spec = CommonMaskInputSpec
    output_spec = CommonMaskOutputSpec
    memory_gb = 1.0

    def _run_interface(self, runtime: Any) -> Any:
        paths = [Path(path) for path in self.inputs.maps]
        first = read_image(paths[0], ndim=3, nonfinite="keep")
        place = get_template(self.inputs.template, float(min(first.voxel_mm)))
        brain = on_grid(place.mask, first) > 0.5
        inside = (np.where(brain, image.data, np.nan) for image in of_one_grid(first, paths))
        group = group_mask(inside, most_removed_share=self.inputs.most_removed_share)
        results = {name: self.file(runtime, f"{name}.nii.gz") for name in ("mask", "t1w")}
        write_image(group.mask, first.affine, results["mask"], space="mni152")
        write_image(on_grid(place.t1w, first), first.affine, results["t1w"], space="mni152")
        facts = mask_facts(
            group, self.inputs.labels, most_removed_share=self.inputs.most_removed_share
        )
        write_facts(self.file(runtime, "facts.json"), facts)
        return self.give(runtime, {**results, "facts": self.file(runtime, "facts.json")})


def of_one_grid(first: ImageData, paths: Sequence[Path]) -> Any:
    """Images of one grid, one at a time.

    Parameters
    ----------
    first : ImageData
        Whose grid counts.
    paths : sequence of Path
        Images.

    Yields
    ------
    ImageData
        With values that may be NaN.

    Raises
    ------
    DataError
        If one is on another grid.
    """
    for path in paths:
        image = read_image(path, ndim=3, nonfinite="keep")
        require_same_grid([first, image])
        yield image


def on_grid(image: Any, place: ImageData) -> NDArray[np.float32]:
    """Image of the template, linear on the grid of a map.

    Parameters
    ----------
    image : nibabel image
        In the same world.
    place : ImageData
        Gives the grid.

    Returns
    -------
    (X, Y, Z) array
        0 outside the image.
    """
    matrix = np.linalg.inv(np.asarray(image.affine, np.float64)) @ place.affine
    values = np.asarray(image.dataobj, dtype=np.float32)
    found: NDArray[np.float32] = ndimage.affine_transform(
        values, matrix[:3, :3], matrix[:3, 3], output_shape=place.data.shape, order=1
    )
    return found


class SampleMapInputSpec(NodeInputSpec):
    """Inputs of :class:`SampleMap`."""

    image = File(exists=True, mandatory=True, desc="map in template space")
    mask = File(exists=True, mandatory=True, desc="voxels of another grid of the same space")


class SampleMapOutputSpec(NodeOutputSpec):
    """Outputs of :class:`SampleMap`."""

    vector = File(exists=True, desc="values at the voxels of the mask, .npy; NaN for none")


class SampleMap(AlsInterface):
    """Take the values of a map at the voxels of a skeleton, which has a grid of its own."""

    input_spec = SampleMapInputSpec
    output_spec = SampleMapOutputSpec
    memory_gb = 0.5

    def _run_interface(self, runtime: Any) -> Any:
        image = read_image(Path(self.inputs.image), ndim=3, nonfinite="keep")
        mask = read_image(Path(self.inputs.mask), ndim=3)
        values = sample(image, mask)
        path = self.file(runtime, "vector.npy")
        np.save(path, values)
        return self.give(runtime, {"vector": path})


class StackSampledInputSpec(NodeInputSpec):
    """Inputs of :class:`StackSampled`."""

    vectors = InputMultiObject(File(exists=True), mandatory=True, desc="one of each participant")
    labels = traits.List(traits.Str(), mandatory=True, desc="participants, in the same order")
    mask = File(exists=True, mandatory=True, desc="voxels of the vectors")
    most_removed_share = traits.Float(
        mandatory=True, desc="share of voxels above which one who alone removes them is named"
    )


class StackSampledOutputSpec(NodeOutputSpec):
    """Outputs of :class:`StackSampled`."""

    stack = File(exists=True, desc="(participants, voxels of the mask), float32, .npy")
    mask = File(exists=True, desc="voxels at which all have a value")
    facts = File(exists=True, desc="what was found, JSON")


class StackSampled(AlsInterface):
    """Join sampled maps of all participants to one array, where all have a value."""

    input_spec = StackSampledInputSpec
    output_spec = StackSampledOutputSpec
    memory_gb = 1.0

    def _run_interface(self, runtime: Any) -> Any:
        mask = read_image(Path(self.inputs.mask), ndim=3)
        rows = [np.load(path) for path in self.inputs.vectors]
        # absent values are 0 or NaN for the mask of a group; it counts whose absence costs what
        group = group_mask(
            (row[:, np.newaxis, np.newaxis] for row in rows),
            most_removed_share=self.inputs.most_removed_share,
        )
        shared = group.mask[:, 0, 0]
        inside = mask.data > 0
        inside[inside] = shared
        results = {"stack": self.file(runtime, "stack.npy")}
        np.save(results["stack"], np.stack(rows)[:, shared].astype(np.float32))
        results["mask"] = self.file(runtime, "mask.nii.gz")
        write_image(inside, mask.affine, results["mask"], space="mni152")
        facts = mask_facts(
            group, self.inputs.labels, most_removed_share=self.inputs.most_removed_share
        )
        results["facts"] = write_facts(self.file(runtime, "facts.json"), facts)
        return self.give(runtime, dict(results))


class SampleCovariateInputSpec(NodeInputSpec):
    """Inputs of :class:`SampleCovariate`."""

    maps = InputMultiObject(File(exists=True), mandatory=True, desc="one of each participant")
    labels = traits.List(traits.Str(), mandatory=True, desc="participants, in the same order")
    mask = File(exists=True, mandatory=True, desc="voxels of the maps that are adjusted")


class SampleCovariateOutputSpec(NodeOutputSpec):
    """Outputs of :class:`SampleCovariate`."""

    stack = File(exists=True, desc="(participants, voxels of the mask), float32, .npy")


class SampleCovariate(AlsInterface):
    """Take the values of covariates, which may be 0, at the voxels of sampled maps."""

    input_spec = SampleCovariateInputSpec
    output_spec = SampleCovariateOutputSpec
    memory_gb = 1.0

    def _run_interface(self, runtime: Any) -> Any:
        mask = read_image(Path(self.inputs.mask), ndim=3)
        rows = []
        for label, path in zip(self.inputs.labels, self.inputs.maps, strict=True):
            image = read_image(Path(path), ndim=3, nonfinite="keep")
            rows.append(sample(image, mask, zero_counts=True))
            n_lacking = int(np.count_nonzero(np.isnan(rows[-1])))
            if n_lacking:
                raise DataError(
                    f"{path}: no value of {label} at {n_lacking} of {len(rows[-1])} voxels; a "
                    "covariate needs one wherever maps are compared; run the participant level "
                    "again, or leave the scan out with --exclusions"
                )
        stack = self.file(runtime, "stack.npy")
        np.save(stack, np.stack(rows))
        return self.give(runtime, {"stack": stack})


def mask_facts(
    group: GroupMask, labels: Sequence[str], *, most_removed_share: float
) -> dict[str, Any]:
    """What the report says of the voxels that all participants have.

    Parameters
    ----------
    group : GroupMask
        Of the participants.
    labels : sequence of str
        Participants, in its order.
    most_removed_share : float
        Share that one may remove alone without being named, 0 to 1.

    Returns
    -------
    dict
        Counts of voxels, each participant's share, and a warning for each who removes too much.
    """
    warnings = [
        f"{labels[index]}: alone removes {group.removed_share[index]:.1%} of the voxels that all "
        f"others have; expected at most {most_removed_share:.1%}; look at its field of view and "
        "registration, and exclude the scan if they are at fault"
        for index in group.costly
    ]
    return {
        "n_participants": len(labels),
        "n_mask_voxels": int(np.count_nonzero(group.mask)),
        "removed_share": dict(zip(labels, group.removed_share.tolist(), strict=True)),
        "warnings": warnings,
    }


def sample(image: ImageData, mask: ImageData, *, zero_counts: bool = False) -> NDArray[np.float32]:
    """Values of a map at the voxels of a mask of another grid in the same space.

    Parameters
    ----------
    image : ImageData
        Map, 0 or NaN where there is no value.
    mask : ImageData
        Voxels above 0 are taken.
    zero_counts : bool
        Whether 0 is a value, as of a share; else it stands for none.

    Returns
    -------
    (m,) array
        Linear between the voxels that have a value; NaN where none of those around has one.
    """
    voxels = np.argwhere(mask.data > 0)
    matrix = np.linalg.inv(image.affine) @ mask.affine
    places = (voxels @ matrix[:3, :3].T + matrix[:3, 3]).T
    is_there = np.isfinite(image.data) & (zero_counts | (image.data != 0))
    # a rim without values would pull those beside it down
    weight = ndimage.map_coordinates(is_there.astype(np.float32), places, order=1)
    filled = np.where(is_there, image.data, 0.0).astype(np.float32)
    total = ndimage.map_coordinates(filled, places, order=1)
    values = np.full(len(voxels), np.nan, np.float32)
    np.divide(total, weight, out=values, where=weight > 1e-3)
    return values
