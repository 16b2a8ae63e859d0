"""Nodes of the anatomical pipeline: load, call one function, save."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import File, traits

from bids_alsmri.errors import DataError
from bids_alsmri.interfaces.anatomy import (
    BrainSearch,
    bring_priors,
    correct_bias,
    extract_brain,
    segment_tissues,
)
from bids_alsmri.interfaces.base import ImageData, concerning, read_image, write_image
from bids_alsmri.interfaces.images import optional_path, with_tuples
from bids_alsmri.interfaces.node import AlsInterface, NodeInputSpec, NodeOutputSpec, write_facts
from bids_alsmri.interfaces.registration import apply_transforms, write_linear
from bids_alsmri.numerics.anatomy import dice
from bids_alsmri.spaces.templates import get_template

# An adult's brain measures about 170 x 140 x 130 mm; in less than this there is none to find.
_LEAST_EXTENT_MM = 80.0


class CheckT1wInputSpec(NodeInputSpec):
    """Inputs of :class:`CheckT1w`."""

    image = File(exists=True, mandatory=True, desc="T1-weighted image")


class ImageOutputSpec(NodeOutputSpec):
    """Outputs of nodes that make one image."""

    image = File(exists=True, desc="image")
    facts = File(exists=True, desc="findings, JSON")


class CheckT1w(AlsInterface):
    """Read and check the T1w, and write it with a clean header."""

    input_spec = CheckT1wInputSpec
    output_spec = ImageOutputSpec
    memory_gb = 0.5

    def _run_interface(self, runtime: Any) -> Any:
        image = read_image(Path(self.inputs.image), ndim=3)
        _require_head(image)
        path = self.file(runtime, "t1w.nii.gz")
        write_image(image.data, image.affine, path)
        facts = {"warnings": list(image.warnings)}
        return self.give(
            runtime,
            {"image": path, "facts": write_facts(self.file(runtime, "facts.json"), facts)},
        )


def _require_head(image: ImageData) -> None:
    """Raise where an image cannot show a head; later steps would blame their own files."""
    lowest, highest = float(image.data.min()), float(image.data.max())
    if lowest == highest:
        raise DataError(
            f"{image.path}: all {image.data.size} voxels are {lowest:g}; expected a head that "
            "stands out from its background; convert it again or leave the scan out"
        )
    extents_mm = [n * edge for n, edge in zip(image.data.shape, image.voxel_mm, strict=True)]
    if min(extents_mm) < _LEAST_EXTENT_MM:
        covered = " x ".join(f"{extent:.3g}" for extent in extents_mm)
        raise DataError(
            f"{image.path}: covers {covered} mm; expected the whole brain, at least "
            f"{_LEAST_EXTENT_MM:g} mm along each axis; see whether all slices were converted, or "
            "leave the scan out"
        )


class CorrectBiasInputSpec(NodeInputSpec):
    """Inputs of :class:`CorrectBias`."""

    image = File(exists=True, mandatory=True, desc="image")
    mask = File(exists=True, desc="where the bias is estimated")
    shrink_factor = traits.Int(mandatory=True, desc="down-sampling")
    iterations = traits.List(traits.Int(), mandatory=True, desc="per level")
    convergence = traits.Float(mandatory=True, desc="change at which a level ends")
    spline_mm = traits.Float(mandatory=True, desc="distance of control points, mm")
    n_threads = traits.Int(mandatory=True, desc="ITK threads")


class CorrectBias(AlsInterface):
    """Take the receive bias from an image by N4."""

    input_spec = CorrectBiasInputSpec
    output_spec = ImageOutputSpec
    memory_gb = 1.5

    def _run_interface(self, runtime: Any) -> Any:
        path = correct_bias(
            Path(self.inputs.image),
            self.file(runtime, "corrected.nii.gz"),
            mask=optional_path(self.inputs.mask),
            shrink_factor=self.inputs.shrink_factor,
            iterations=tuple(self.inputs.iterations),
            convergence=self.inputs.convergence,
            spline_mm=self.inputs.spline_mm,
            n_threads=self.inputs.n_threads,
        )
        facts = write_facts(self.file(runtime, "facts.json"), {})
        return self.give(runtime, {"image": path, "facts": facts})


class ExtractBrainInputSpec(NodeInputSpec):
    """Inputs of :class:`ExtractBrain`."""

    image = File(exists=True, mandatory=True, desc="T1-weighted image")
    source = File(exists=True, mandatory=True, desc="file of the dataset, for errors")
    template = traits.Str(mandatory=True, desc="template space")
    template_mm = traits.Float(mandatory=True, desc="voxel size of the template, mm")
    search = traits.Dict(mandatory=True, desc="constants of the search")
    seed = traits.Int(mandatory=True, desc="seed")
    n_threads = traits.Int(mandatory=True, desc="ITK threads")


class ExtractBrainOutputSpec(NodeOutputSpec):
    """Outputs of :class:`ExtractBrain`."""

    mask = File(exists=True, desc="brain mask")
    start = File(exists=True, desc="affine from template to T1w, ITK")
    facts = File(exists=True, desc="findings, JSON")


class ExtractBrain(AlsInterface):
    """Find the brain in a head."""

    input_spec = ExtractBrainInputSpec
    output_spec = ExtractBrainOutputSpec
    memory_gb = 1.5

    def _run_interface(self, runtime: Any) -> Any:
        with concerning(Path(self.inputs.source)):
            brain = extract_brain(
                Path(self.inputs.image),
                get_template(self.inputs.template, self.inputs.template_mm),
                self.file(runtime, "mask.nii.gz"),
                search=BrainSearch(**with_tuples(self.inputs.search)),
                work_dir=Path(runtime.cwd),
                seed=self.inputs.seed,
                n_threads=self.inputs.n_threads,
            )
        facts = {
            "measures": [
                {"measure": "template_mask_overlap", "value": brain.overlap},
                {"measure": "template_correlation", "value": brain.correlation},
            ],
            "notes": ["the image held a brain without a head"] if brain.was_stripped else [],
        }
        start = write_linear(brain.template_to_t1w, self.file(runtime, "start.txt"))
        return self.give(
            runtime,
            {
                "mask": brain.mask,
                "start": start,
                "facts": write_facts(self.file(runtime, "facts.json"), facts),
            },
        )


class SegmentTissuesInputSpec(NodeInputSpec):
    """Inputs of :class:`SegmentTissues`."""

    image = File(exists=True, mandatory=True, desc="bias-corrected T1w")
    mask = File(exists=True, mandatory=True, desc="brain mask")
    source = File(exists=True, mandatory=True, desc="file of the dataset, for errors")
    template = traits.Str(mandatory=True, desc="template space")
    template_mm = traits.Float(mandatory=True, desc="voxel size of the template, mm")
    start = File(exists=True, mandatory=True, desc="affine from template to T1w, ITK")
    prior_weight = traits.Float(mandatory=True, desc="weight of the template's tissues")
    iterations = traits.Int(mandatory=True, desc="most iterations")
    smoothness = traits.Float(mandatory=True, desc="weight of the random field")
    n_threads = traits.Int(mandatory=True, desc="ITK threads")


class SegmentTissuesOutputSpec(NodeOutputSpec):
    """Outputs of :class:`SegmentTissues`."""

    gm = File(exists=True, desc="probability of grey matter")
    wm = File(exists=True, desc="probability of white matter")
    csf = File(exists=True, desc="probability of cerebrospinal fluid")
    facts = File(exists=True, desc="findings, JSON")


class SegmentTissues(AlsInterface):
    """Part the brain into grey matter, white matter and cerebrospinal fluid."""

    input_spec = SegmentTissuesInputSpec
    output_spec = SegmentTissuesOutputSpec
    memory_gb = 2.0

    def _run_interface(self, runtime: Any) -> Any:
        names = ("gm", "wm", "csf")
        image = Path(self.inputs.image)
        with concerning(Path(self.inputs.source)):
            files = segment_tissues(
                image,
                Path(self.inputs.mask),
                {name.upper(): self.file(runtime, f"{name}.nii.gz") for name in names},
                priors=self._priors(image, Path(runtime.cwd)),
                prior_weight=self.inputs.prior_weight,
                smoothness=self.inputs.smoothness,
                iterations=self.inputs.iterations,
                work_dir=Path(runtime.cwd),
                n_threads=self.inputs.n_threads,
            )
        facts = {"measures": tissue_measures({n: files[n.upper()] for n in names})}
        return self.give(
            runtime,
            {
                **{name: files[name.upper()] for name in names},
                "facts": write_facts(self.file(runtime, "facts.json"), facts),
            },
        )

    def _priors(self, image: Path, work_dir: Path) -> dict[str, Path] | None:
        if self.inputs.prior_weight == 0:
            return None
        return bring_priors(
            get_template(self.inputs.template, self.inputs.template_mm),
            Path(self.inputs.start),
            image,
            work_dir=work_dir,
            n_threads=self.inputs.n_threads,
        )


def tissue_measures(files: dict[str, Path]) -> list[dict[str, Any]]:
    """Volumes of the tissues and of the brain.

    Parameters
    ----------
    files : dict of Path
        Probability maps of ``gm``, ``wm`` and ``csf``.

    Returns
    -------
    list of dict
        Volumes in ml.
    """
    measures, total_ml = [], 0.0
    for name, path in files.items():
        image = read_image(path, ndim=3)
        volume_ml = float(image.data.sum(dtype=np.float64) * np.prod(image.voxel_mm) / 1e3)
        total_ml += volume_ml
        measures.append({"measure": f"{name}_volume", "value": volume_ml})
    return [*measures, {"measure": "brain_volume", "value": total_ml}]


class JudgeTemplateOutputSpec(NodeOutputSpec):
    """Outputs of :class:`JudgeTemplate`."""

    facts = File(exists=True, desc="findings, JSON")


class MeasureAdoptedInputSpec(NodeInputSpec):
    """Inputs of :class:`MeasureAdopted`."""

    gm = File(exists=True, mandatory=True, desc="probability of grey matter")
    wm = File(exists=True, mandatory=True, desc="probability of white matter")
    csf = File(exists=True, mandatory=True, desc="probability of cerebrospinal fluid")


class MeasureAdopted(AlsInterface):
    """Measure tissues that another program found."""

    input_spec = MeasureAdoptedInputSpec
    output_spec = JudgeTemplateOutputSpec
    memory_gb = 0.5

    def _run_interface(self, runtime: Any) -> Any:
        files = {name: Path(getattr(self.inputs, name)) for name in ("gm", "wm", "csf")}
        facts = {
            "measures": tissue_measures(files),
            "notes": ["brain and tissues were taken from --derivatives"],
        }
        return self.give(runtime, {"facts": write_facts(self.file(runtime, "facts.json"), facts)})


class JudgeTemplateInputSpec(NodeInputSpec):
    """Inputs of :class:`JudgeTemplate`."""

    template = traits.Str(mandatory=True, desc="template space")
    template_mm = traits.Float(mandatory=True, desc="voxel size, mm")
    wm = File(exists=True, mandatory=True, desc="white matter of the T1w")
    to_template = File(exists=True, mandatory=True, desc="transform to the template")


class JudgeTemplate(AlsInterface):
    """Measure how well white matter overlaps with the template's after registration."""

    input_spec = JudgeTemplateInputSpec
    output_spec = JudgeTemplateOutputSpec
    memory_gb = 1.0

    def _run_interface(self, runtime: Any) -> Any:
        template = get_template(self.inputs.template, self.inputs.template_mm)
        paths = template.save(Path(runtime.cwd))
        moved = apply_transforms(
            Path(self.inputs.wm),
            paths["wm"],
            [Path(self.inputs.to_template)],
            self.file(runtime, "moved.nii.gz"),
            interpolation="Linear",
            n_threads=1,
        )
        overlap = dice(
            read_image(moved, ndim=3).data > 0.5, read_image(paths["wm"], ndim=3).data > 0.5
        )
        facts = {"measures": [{"measure": "template_wm_overlap", "value": overlap}]}
        return self.give(runtime, {"facts": write_facts(self.file(runtime, "facts.json"), facts)})


class ToTemplateInputSpec(NodeInputSpec):
    """Inputs of :class:`ToTemplate`."""

    image = File(exists=True, mandatory=True, desc="image in T1w space")
    mask = File(exists=True, mandatory=True, desc="brain mask")
    to_template = File(exists=True, mandatory=True, desc="transform to the template")
    template = traits.Str(mandatory=True, desc="template space")
    resolution_mm = traits.Float(mandatory=True, desc="voxel size, mm")


class ToTemplateOutputSpec(NodeOutputSpec):
    """Outputs of :class:`ToTemplate`."""

    image = File(exists=True, desc="brain in template space")
    template_t1w = File(exists=True, desc="template on the same grid")
    template_wm = File(exists=True, desc="its white matter")
    template_mask = File(exists=True, desc="its brain mask")


class ToTemplate(AlsInterface):
    """Bring the T1w's brain to template space."""

    input_spec = ToTemplateInputSpec
    output_spec = ToTemplateOutputSpec
    memory_gb = 1.5

    def _run_interface(self, runtime: Any) -> Any:
        image = read_image(Path(self.inputs.image), ndim=3)
        mask = read_image(Path(self.inputs.mask), ndim=3).data > 0
        brain = self.file(runtime, "brain.nii.gz")
        write_image(np.where(mask, image.data, 0).astype(np.float32), image.affine, brain)
        template = get_template(self.inputs.template, self.inputs.resolution_mm)
        paths = template.save(Path(runtime.cwd))
        moved = apply_transforms(
            brain,
            paths["t1w"],
            [Path(self.inputs.to_template)],
            self.file(runtime, "moved.nii.gz"),
            interpolation="BSpline",
            n_threads=1,
        )
        return self.give(
            runtime,
            {
                "image": moved,
                "template_t1w": paths["t1w"],
                "template_wm": paths["wm"],
                "template_mask": paths["mask"],
            },
        )
