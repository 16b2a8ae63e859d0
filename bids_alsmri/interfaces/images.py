"""Nodes on images that several pipelines share: registration, quality tables, figures."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from nipype.interfaces.base import File, InputMultiObject, isdefined, traits
from numpy.typing import NDArray

from bids_alsmri.interfaces.base import read_image, write_image
from bids_alsmri.interfaces.node import AlsInterface, NodeInputSpec, NodeOutputSpec, write_facts
from bids_alsmri.interfaces.registration import Stage, apply_transforms, register
from bids_alsmri.numerics.anatomy import dilate_mm


def optional_path(value: Any) -> Path | None:
    """Path of an input that may be left open.

    Parameters
    ----------
    value : str or Undefined
        Value of a trait.

    Returns
    -------
    Path or None
        None where it was left open.
    """
    return Path(value) if isdefined(value) and value else None


def as_stages(parts: Iterable[Mapping[str, Any]]) -> list[Stage]:
    """Stages of a registration from what a node takes as input.

    Parameters
    ----------
    parts : iterable of mapping
        Arguments of :class:`Stage`, lists for tuples.

    Returns
    -------
    list of Stage
        In their order.
    """
    return [Stage(**with_tuples(part)) for part in parts]


def with_tuples(part: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a node's dictionary with its lists turned to tuples.

    Parameters
    ----------
    part : mapping
        Values that JSON can hold.

    Returns
    -------
    dict
        The same, lists as tuples.

    Examples
    --------
    >>> with_tuples({"iterations": [100, 50], "metric": "cc"})
    {'iterations': (100, 50), 'metric': 'cc'}
    """
    return {name: tuple(v) if isinstance(v, list) else v for name, v in part.items()}


class RegisterInputSpec(NodeInputSpec):
    """Inputs of :class:`Register`."""

    fixed = File(exists=True, mandatory=True, desc="image that gives the grid")
    moving = File(exists=True, mandatory=True, desc="image that is moved")
    fixed_mask = File(exists=True, desc="where the metric is taken, fixed image")
    moving_mask = File(exists=True, desc="where the metric is taken, moving image")
    initial = File(exists=True, desc="transform to start from")
    stages = traits.List(traits.Dict(), mandatory=True, desc="arguments of each stage")
    winsor_percentiles = traits.Tuple(
        traits.Float(), traits.Float(), mandatory=True, desc="range of intensities, percentiles"
    )
    seed = traits.Int(mandatory=True, desc="seed of the metric's sampling")
    n_threads = traits.Int(mandatory=True, desc="ITK threads")


class RegisterOutputSpec(NodeOutputSpec):
    """Outputs of :class:`Register`."""

    forward = File(exists=True, desc="brings the moving image onto the fixed one")
    inverse = File(exists=True, desc="brings the fixed image onto the moving one")
    moved = File(exists=True, desc="moving image on the fixed grid")


class Register(AlsInterface):
    """Bring a moving image onto a fixed one by the stages given."""

    input_spec = RegisterInputSpec
    output_spec = RegisterOutputSpec
    memory_gb = 2.0

    def _run_interface(self, runtime: Any) -> Any:
        found = register(
            Path(self.inputs.fixed),
            Path(self.inputs.moving),
            stages=as_stages(self.inputs.stages),
            winsor_percentiles=self.inputs.winsor_percentiles,
            out_prefix=self.file(runtime, "found"),
            seed=self.inputs.seed,
            n_threads=self.inputs.n_threads,
            initial=optional_path(self.inputs.initial),
            fixed_mask=optional_path(self.inputs.fixed_mask),
            moving_mask=optional_path(self.inputs.moving_mask),
        )
        moved = apply_transforms(
            Path(self.inputs.moving),
            Path(self.inputs.fixed),
            [found.forward],
            self.file(runtime, "moved.nii.gz"),
            interpolation="Linear",
            n_threads=self.inputs.n_threads,
        )
        return self.give(
            runtime, {"forward": found.forward, "inverse": found.inverse, "moved": moved}
        )


class MaskImageInputSpec(NodeInputSpec):
    """Inputs of :class:`MaskImage`."""

    image = File(exists=True, mandatory=True, desc="image")
    mask = File(exists=True, mandatory=True, desc="mask on its grid")


class MaskImageOutputSpec(NodeOutputSpec):
    """Outputs of :class:`MaskImage`."""

    image = File(exists=True, desc="masked image")


class MaskImage(AlsInterface):
    """Set an image to 0 outside a mask."""

    input_spec = MaskImageInputSpec
    output_spec = MaskImageOutputSpec
    memory_gb = 0.5

    def _run_interface(self, runtime: Any) -> Any:
        image = read_image(Path(self.inputs.image), ndim=3)
        mask = read_image(Path(self.inputs.mask), ndim=3).data > 0
        path = self.file(runtime, "masked.nii.gz")
        write_image(np.where(mask, image.data, 0).astype(np.float32), image.affine, path)
        return self.give(runtime, {"image": path})


class CoarsenInputSpec(NodeInputSpec):
    """Inputs of :class:`Coarsen`."""

    image = File(exists=True, mandatory=True, desc="image")
    voxel_mm = traits.Float(mandatory=True, desc="edge of the voxels, mm")


class CoarsenOutputSpec(NodeOutputSpec):
    """Outputs of :class:`Coarsen`."""

    image = File(exists=True, desc="image of these voxels, or as it was where its are no finer")


class Coarsen(AlsInterface):
    """Give an image larger voxels, so that what is no finer is registered to it in less time."""

    input_spec = CoarsenInputSpec
    output_spec = CoarsenOutputSpec
    memory_gb = 0.28
    memory_per_anatomy = 7.0

    def _run_interface(self, runtime: Any) -> Any:
        import ants

        image = ants.image_read(str(self.inputs.image), pixeltype="float")
        edges_mm = [max(edge, self.inputs.voxel_mm) for edge in image.spacing]
        if np.allclose(edges_mm, image.spacing):
            return self.give(runtime, {"image": Path(self.inputs.image)})
        path = self.file(runtime, "coarse.nii.gz")
        # each new voxel stands for all that it holds
        even = ants.smooth_image(
            image,
            [
                0.5 * edge if edge > own else 0.0
                for edge, own in zip(edges_mm, image.spacing, strict=True)
            ],
            sigma_in_physical_coordinates=True,
        )
        ants.image_write(
            ants.resample_image(even, edges_mm, use_voxels=False, interp_type=0), str(path)
        )
        return self.give(runtime, {"image": path})


class DilateMaskInputSpec(NodeInputSpec):
    """Inputs of :class:`DilateMask`."""

    mask = File(exists=True, mandatory=True, desc="mask")
    radius_mm = traits.Float(mandatory=True, desc="how far it grows, mm")


class DilateMaskOutputSpec(NodeOutputSpec):
    """Outputs of :class:`DilateMask`."""

    mask = File(exists=True, desc="wider mask")


class DilateMask(AlsInterface):
    """Let a mask grow by a rim."""

    input_spec = DilateMaskInputSpec
    output_spec = DilateMaskOutputSpec
    memory_gb = 1.0

    def _run_interface(self, runtime: Any) -> Any:
        image = read_image(Path(self.inputs.mask), ndim=3)
        wide = dilate_mm(image.data > 0, self.inputs.radius_mm, np.array(image.voxel_mm))
        path = self.file(runtime, "mask.nii.gz")
        write_image(wide, image.affine, path)
        return self.give(runtime, {"mask": path})


class QualityTableInputSpec(NodeInputSpec):
    """Inputs of :class:`QualityTable`."""

    facts = InputMultiObject(File(exists=True), mandatory=True, desc="findings of the steps")
    definitions = File(exists=True, mandatory=True, desc="unit, range and meaning of each measure")


class QualityTableOutputSpec(NodeOutputSpec):
    """Outputs of :class:`QualityTable`."""

    table = File(exists=True, desc="long table, TSV")
    facts = File(exists=True, desc="warnings and notes for the sidecar")


class QualityTable(AlsInterface):
    """Collect the findings of all steps into one table of quality."""

    input_spec = QualityTableInputSpec
    output_spec = QualityTableOutputSpec
    memory_gb = 0.2

    def _run_interface(self, runtime: Any) -> Any:
        facts = [json.loads(Path(path).read_text(encoding="utf-8")) for path in self.inputs.facts]
        definitions = json.loads(Path(self.inputs.definitions).read_text(encoding="utf-8"))
        rows = quality_rows(facts, definitions)
        table = self.file(runtime, "quality.tsv")
        pd.DataFrame(rows).to_csv(table, sep="\t", index=False, na_rep="n/a", float_format="%.6g")
        texts = {
            "Warnings": [text for part in facts for text in part.get("warnings", [])],
            "Notes": [text for part in facts for text in part.get("notes", [])],
        }
        return self.give(
            runtime,
            {"table": table, "facts": write_facts(self.file(runtime, "facts.json"), texts)},
        )


def quality_rows(
    facts: Iterable[Mapping[str, Any]], definitions: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Rows of a quality table.

    Parameters
    ----------
    facts : iterable of mapping
        Findings of steps; ``measures`` is a list of names and values.
    definitions : mapping of mapping
        Unit, low, high and description of each measure.

    Returns
    -------
    list of dict
        Measure, value, unit, low, high, description.

    Examples
    --------
    >>> rows = quality_rows(
    ...     [{"measures": [{"measure": "snr", "value": 20.0}]}],
    ...     {"snr": {"unit": "1", "low": 10, "high": None, "description": "Signal over noise"}},
    ... )
    >>> rows[0]["value"], rows[0]["low"]
    (20.0, 10)
    """
    return [
        {"measure": item["measure"], "value": item["value"], **definitions[item["measure"]]}
        for part in facts
        for item in part.get("measures", [])
    ]


def canonical(path: Path, *, ndim: int = 3) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Values and affine of an image, its axes reordered to right, anterior, superior.

    Parameters
    ----------
    path : Path
        Image.
    ndim : int
        3, or 4 for a series or a vector map.

    Returns
    -------
    data : (X, Y, Z[, N]) array
        Values.
    affine : (4, 4) array
        Of the reordered image.
    """
    import nibabel as nib

    image = nib.as_closest_canonical(nib.load(path))
    return np.asarray(image.dataobj, dtype=np.float32), image.affine


def voxel_edges_mm(affine: NDArray[np.float64]) -> tuple[float, float, float]:
    """Edges of the voxels of an affine.

    Parameters
    ----------
    affine : (4, 4) array
        Voxel to world, in mm.

    Returns
    -------
    tuple of float
        In mm.

    Examples
    --------
    >>> voxel_edges_mm(np.diag([2.0, 2.0, 3.0, 1.0]))
    (2.0, 2.0, 3.0)
    """
    i, j, k = np.linalg.norm(affine[:3, :3], axis=0)
    return float(i), float(j), float(k)
