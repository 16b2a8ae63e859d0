"""Nodes of the diffusion pipeline: load, call one function, save."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from nipype.interfaces.base import File, InputMultiObject, traits

from bids_alsmri.interfaces.base import concerning, read_image, write_image
from bids_alsmri.interfaces.images import optional_path
from bids_alsmri.interfaces.node import (
    AlsInterface,
    NodeInputSpec,
    NodeOutputSpec,
    SeriesSize,
    write_facts,
)
from bids_alsmri.pipelines.diffusion import series as tables
from bids_alsmri.pipelines.diffusion.motion import (
    MotionChoices,
    average_volumes,
    correct_motion,
    motion_table,
    outlier_table,
)
from bids_alsmri.pipelines.diffusion.places import (
    bvec_frame,
    output_place,
    read_motion,
    resample_like,
    resample_to_grid,
    template_maps,
    template_place,
)
from bids_alsmri.pipelines.diffusion.runs import combine_runs, read_run
from bids_alsmri.pipelines.diffusion.steps import (
    OrientationLimits,
    TensorChoices,
    coverage_facts,
    denoise_series,
    draft_brain_mask,
    measure,
    measure_tissues,
    require_overlap,
    separation_facts,
    tensor_facts,
    tissue_separation,
    unring_series,
)

SPLINE_ORDERS = {"cubic": 3, "linear": 1}
# of the templates in use, brain with its fluid; only memory is derived from it
BRAIN_MM3 = 1.9e6
TISSUE_NAMES = {"gm": "grey matter", "wm": "white matter", "csf": "cerebrospinal fluid"}


def tensor_choices(inputs: Any) -> TensorChoices:
    """How a node fits the tensor.

    Parameters
    ----------
    inputs : TensorInputSpec
        Inputs of the node.

    Returns
    -------
    TensorChoices
        The same values.
    """
    return TensorChoices(
        max_b_s_mm2=inputs.max_b_s_mm2,
        b0_threshold_s_mm2=inputs.b0_threshold_s_mm2,
        shell_gap_s_mm2=inputs.shell_gap_s_mm2,
        method=inputs.method,
        outlier_cutoff_sd=inputs.outlier_cutoff_sd,
        largest_mm2_s=inputs.largest_mm2_s,
    )


class ReadSeriesInputSpec(NodeInputSpec):
    """Inputs of :class:`ReadSeries`."""

    images = InputMultiObject(File(exists=True), mandatory=True, desc="runs of one series")
    b_value_files = InputMultiObject(File(exists=True), mandatory=True, desc="one per run")
    b_vector_files = InputMultiObject(File(exists=True), mandatory=True, desc="one per run")
    metadata = traits.List(traits.Dict(), mandatory=True, desc="sidecar of each run")
    b0_threshold_s_mm2 = traits.Float(mandatory=True, desc="at or below it, b counts as 0")


class SeriesOutputSpec(NodeOutputSpec):
    """Outputs of nodes that make a series."""

    dwi = File(exists=True, desc="series, float32")
    table = File(exists=True, desc="weighting and protocol, JSON")
    b_values = File(exists=True, desc="b-values, BIDS form")
    b_vectors = File(exists=True, desc="b-vectors, BIDS form")
    facts = File(exists=True, desc="findings, JSON")


class ReadSeries(AlsInterface):
    """Read and check the runs of a series and bring them to one scale."""

    input_spec = ReadSeriesInputSpec
    output_spec = SeriesOutputSpec
    memory_gb = 0.3
    memory_per_series = 2.7

    def _run_interface(self, runtime: Any) -> Any:
        runs = [
            read_run(
                Path(image),
                Path(b_values),
                Path(b_vectors),
                metadata,
                b0_threshold_s_mm2=self.inputs.b0_threshold_s_mm2,
            )
            for image, b_values, b_vectors, metadata in zip(
                self.inputs.images,
                self.inputs.b_value_files,
                self.inputs.b_vector_files,
                self.inputs.metadata,
                strict=True,
            )
        ]
        data, affine, table, measures = combine_runs(runs)
        write_image(data, affine, self.file(runtime, "dwi.nii"))
        facts = {"measures": measures, "warnings": table.warnings, "notes": table.notes}
        b_files = tables.write_bids_gradients(table, affine, self.file(runtime, "dwi"))
        return self.give(
            runtime,
            {
                "dwi": self.file(runtime, "dwi.nii"),
                "table": table.write(self.file(runtime, "table.json")),
                "b_values": b_files[0],
                "b_vectors": b_files[1],
                "facts": write_facts(self.file(runtime, "facts.json"), facts),
            },
        )


class DraftMaskInputSpec(NodeInputSpec):
    """Inputs of :class:`DraftMask`."""

    dwi = File(exists=True, mandatory=True, desc="series")
    table = File(exists=True, mandatory=True, desc="its table")
    median_radius = traits.Int(mandatory=True, desc="radius of the median filter, voxels")
    passes = traits.Int(mandatory=True, desc="passes of the median filter")


class MaskOutputSpec(NodeOutputSpec):
    """Outputs of nodes that make a mask."""

    mask = File(exists=True, desc="mask")


class DraftMask(AlsInterface):
    """Rough mask of the brain from the mean b=0."""

    input_spec = DraftMaskInputSpec
    output_spec = MaskOutputSpec
    memory_gb = 0.25
    memory_per_series = 2.3

    def _run_interface(self, runtime: Any) -> Any:
        image = read_image(Path(self.inputs.dwi), ndim=4)
        table = tables.read_table(Path(self.inputs.table))
        with concerning(image.path):
            mask = draft_brain_mask(
                image.data[..., table.is_b0].mean(axis=-1),
                median_radius=self.inputs.median_radius,
                passes=self.inputs.passes,
            )
        path = self.file(runtime, "mask.nii.gz")
        write_image(mask, image.affine, path)
        return self.give(runtime, {"mask": path})


class DenoiseInputSpec(NodeInputSpec):
    """Inputs of :class:`Denoise`."""

    dwi = File(exists=True, mandatory=True, desc="series")
    table = File(exists=True, mandatory=True, desc="its table")
    mask = File(exists=True, mandatory=True, desc="where to denoise")
    method = traits.Enum("mppca", "local_pca", "off", mandatory=True, desc="method")
    patch_radius = traits.Int(mandatory=True, desc="radius of the patch, voxels")
    patch_step = traits.Int(mandatory=True, desc="distance between patches, voxels")
    noise_smoothing_voxels = traits.Float(mandatory=True, desc="of the noise map, voxels")
    noise_threshold_sd = traits.Float(mandatory=True, desc="of a component, SD; 0 for automatic")
    n_threads = traits.Int(mandatory=True, nohash=True, desc="threads")


class DenoiseOutputSpec(NodeOutputSpec):
    """Outputs of :class:`Denoise`."""

    dwi = File(exists=True, desc="denoised series")
    noise = File(exists=True, desc="standard deviation of the noise")
    shown_volume = traits.Int(desc="last diffusion-weighted volume, for the figure")
    facts = File(exists=True, desc="findings, JSON")


class Denoise(AlsInterface):
    """Take the thermal noise from a series by local principal components."""

    input_spec = DenoiseInputSpec
    output_spec = DenoiseOutputSpec
    memory_gb = 0.35
    memory_per_series = 4.3

    def _run_interface(self, runtime: Any) -> Any:
        image = read_image(Path(self.inputs.dwi), ndim=4)
        mask = read_image(Path(self.inputs.mask), ndim=3).data > 0
        table = tables.read_table(Path(self.inputs.table))
        with concerning(image.path):
            data, noise, facts = denoise_series(
                image.data,
                mask,
                table,
                method=self.inputs.method,
                patch_radius=self.inputs.patch_radius or None,
                patch_step=self.inputs.patch_step,
                noise_smoothing_voxels=self.inputs.noise_smoothing_voxels,
                noise_threshold_sd=self.inputs.noise_threshold_sd or None,
                n_threads=self.inputs.n_threads,
            )
        write_image(data, image.affine, self.file(runtime, "dwi.nii"))
        write_image(noise, image.affine, self.file(runtime, "noise.nii.gz"))
        return self.give(
            runtime,
            {
                "dwi": self.file(runtime, "dwi.nii"),
                "noise": self.file(runtime, "noise.nii.gz"),
                "shown_volume": int(np.flatnonzero(~table.is_b0)[-1]),
                "facts": write_facts(self.file(runtime, "facts.json"), facts),
            },
        )


class UnringInputSpec(NodeInputSpec):
    """Inputs of :class:`Unring`."""

    dwi = File(exists=True, mandatory=True, desc="series")
    table = File(exists=True, mandatory=True, desc="its table")
    is_wanted = traits.Bool(mandatory=True, desc="whether to do it")
    n_points = traits.Int(mandatory=True, desc="neighbours in the variation")
    n_threads = traits.Int(mandatory=True, nohash=True, desc="slices at a time")


class CorrectedOutputSpec(NodeOutputSpec):
    """Outputs of nodes that change a series."""

    dwi = File(exists=True, desc="series")
    facts = File(exists=True, desc="findings, JSON")


class Unring(AlsInterface):
    """Take Gibbs ringing from a series where its k-space allows."""

    input_spec = UnringInputSpec
    output_spec = CorrectedOutputSpec
    memory_gb = 0.3
    memory_per_series = 4.0

    def _run_interface(self, runtime: Any) -> Any:
        image = read_image(Path(self.inputs.dwi), ndim=4)
        data, facts = unring_series(
            image.data,
            tables.read_table(Path(self.inputs.table)),
            n_points=self.inputs.n_points,
            is_wanted=self.inputs.is_wanted,
            n_threads=self.inputs.n_threads,
        )
        write_image(data, image.affine, self.file(runtime, "dwi.nii"))
        return self.give(
            runtime,
            {
                "dwi": self.file(runtime, "dwi.nii"),
                "facts": write_facts(self.file(runtime, "facts.json"), facts),
            },
        )


class CorrectMotionInputSpec(NodeInputSpec):
    """Inputs of :class:`CorrectMotion`."""

    dwi = File(exists=True, mandatory=True, desc="series")
    table = File(exists=True, mandatory=True, desc="its table")
    mask = File(exists=True, mandatory=True, desc="brain in the first b=0")
    target = traits.Enum("prediction", "b0", mandatory=True, desc="what volumes are matched to")
    model = traits.Enum("eddy", "affine", "rigid", mandatory=True, desc="transform")
    smoothing_fwhm_mm = traits.List(traits.Float(), mandatory=True, desc="per round, mm")
    tolerance_mm = traits.Float(mandatory=True, desc="smallest step, mm")
    mask_margin_mm = traits.Float(mandatory=True, desc="outside the brain, mm")
    contrast_margin_mm = traits.Float(mandatory=True, desc="inside the border, mm")
    contrast_fwhm_mm = traits.Float(mandatory=True, desc="smoothing across contrasts, mm")
    shading_fwhm_mm = traits.Float(mandatory=True, desc="width of the coils' shading, mm")
    replace_outliers = traits.Bool(mandatory=True, desc="replace lost slices")
    outlier_threshold_sd = traits.Float(mandatory=True, desc="of a lost slice, SD")
    outlier_min_change = traits.Float(mandatory=True, desc="of a lost slice, share")
    min_slice_voxels = traits.Int(mandatory=True, desc="of a slice that is judged")
    b0_threshold_s_mm2 = traits.Float(mandatory=True, desc="at or below it b is 0, s/mm2")
    shell_gap_s_mm2 = traits.Float(mandatory=True, desc="largest step inside a shell, s/mm2")
    max_b0_registered_s_mm2 = traits.Float(mandatory=True, desc="above it never to the b=0")
    align_shells = traits.Enum(
        "all", "low_b", "off", mandatory=True, desc="shells aligned to the b=0"
    )
    radius_mm = traits.Float(mandatory=True, desc="for the framewise displacement, mm")
    eddy_shift_max_p = traits.Float(mandatory=True, desc="significance of the eddy shift")
    n_threads = traits.Int(mandatory=True, nohash=True, desc="volumes at a time")


class CorrectMotionOutputSpec(NodeOutputSpec):
    """Outputs of :class:`CorrectMotion`."""

    dwi = File(exists=True, desc="series on its own grid, lost slices replaced if asked")
    motion = File(exists=True, desc="motion and transforms per volume, TSV")
    outliers = File(exists=True, desc="lost slices, TSV")
    facts = File(exists=True, desc="findings, JSON")
    figure = File(exists=True, desc="motion plot")


class CorrectMotion(AlsInterface):
    """Estimate motion and eddy distortion of every volume, replace lost slices."""

    input_spec = CorrectMotionInputSpec
    output_spec = CorrectMotionOutputSpec
    memory_gb = 0.35
    memory_per_series = 5.2

    def _run_interface(self, runtime: Any) -> Any:
        from bids_alsmri.reports.figures import save_figure

        image = read_image(Path(self.inputs.dwi), ndim=4)
        mask = read_image(Path(self.inputs.mask), ndim=3).data > 0
        table = tables.read_table(Path(self.inputs.table))
        choices = MotionChoices.of(self.inputs)
        with concerning(image.path):
            found = correct_motion(image, mask, table, choices)
        results = {
            "dwi": self.file(runtime, "dwi.nii"),
            "motion": self.file(runtime, "motion.tsv"),
            "outliers": self.file(runtime, "outliers.tsv"),
            "figure": self.file(runtime, "motion.svg"),
            "facts": write_facts(self.file(runtime, "facts.json"), found.facts),
        }
        write_image(found.data, image.affine, results["dwi"])
        motion_table(found).to_csv(
            results["motion"], sep="\t", index=False, na_rep="n/a", float_format="%.10g"
        )
        outlier_table(found).to_csv(
            results["outliers"], sep="\t", index=False, na_rep="n/a", float_format="%.4g"
        )
        save_figure(found.draw(table), results["figure"])
        return self.give(runtime, results)


class AverageSeriesInputSpec(NodeInputSpec):
    """Inputs of :class:`AverageSeries`."""

    raw = File(exists=True, mandatory=True, desc="series before correction")
    dwi = File(exists=True, mandatory=True, desc="series after replacement of slices")
    table = File(exists=True, mandatory=True, desc="its table")
    motion = File(exists=True, mandatory=True, desc="transforms of every volume")


class AverageSeriesOutputSpec(NodeOutputSpec):
    """Outputs of :class:`AverageSeries`."""

    before = File(exists=True, desc="mean diffusion-weighted image before correction")
    after = File(exists=True, desc="mean diffusion-weighted image after correction")


class AverageSeries(AlsInterface):
    """Average the weighted volumes, before and after correction."""

    input_spec = AverageSeriesInputSpec
    output_spec = AverageSeriesOutputSpec
    memory_gb = 0.25
    memory_per_series = 3.6

    def _run_interface(self, runtime: Any) -> Any:
        raw = read_image(Path(self.inputs.raw), ndim=4)
        image = read_image(Path(self.inputs.dwi), ndim=4)
        table = tables.read_table(Path(self.inputs.table))
        motion = read_motion(Path(self.inputs.motion))
        means = {
            "before": raw.data[..., ~table.is_b0].mean(axis=-1),
            "after": average_volumes(image, motion, ~table.is_b0),
        }
        results = {name: self.file(runtime, f"{name}.nii.gz") for name in means}
        for name, values in means.items():
            write_image(values, image.affine, results[name])
        return self.give(runtime, results)


class JudgeAlignmentInputSpec(NodeInputSpec):
    """Inputs of :class:`JudgeAlignment`."""

    first = File(exists=True, mandatory=True, desc="mask, or map and its threshold")
    second = File(exists=True, mandatory=True, desc="mask, or map and its threshold")
    second_to_first = File(
        exists=True, mandatory=True, desc="transform of the second onto the first"
    )
    first_threshold = traits.Float(mandatory=True, desc="from which the first counts")
    second_threshold = traits.Float(mandatory=True, desc="from which the second counts")
    name = traits.Str(mandatory=True, desc="name of the measure")
    least = traits.Float(mandatory=True, desc="overlap below which the registration is refused")


class JudgeAlignmentOutputSpec(NodeOutputSpec):
    """Outputs of :class:`JudgeAlignment`."""

    transform = File(exists=True, desc="the transform that was found good")
    facts = File(exists=True, desc="findings, JSON")


class JudgeAlignment(AlsInterface):
    """Measure how well two regions overlap after registration, and refuse a failed one."""

    input_spec = JudgeAlignmentInputSpec
    output_spec = JudgeAlignmentOutputSpec
    memory_gb = 1.0

    def _run_interface(self, runtime: Any) -> Any:
        from bids_alsmri.interfaces.registration import apply_transforms
        from bids_alsmri.numerics.anatomy import dice

        transform = Path(self.inputs.second_to_first)
        moved = apply_transforms(
            Path(self.inputs.second),
            Path(self.inputs.first),
            [transform],
            self.file(runtime, "moved.nii.gz"),
            interpolation="Linear",
            n_threads=1,
        )
        first = read_image(Path(self.inputs.first), ndim=3).data >= self.inputs.first_threshold
        overlap = dice(first, read_image(moved, ndim=3).data >= self.inputs.second_threshold)
        require_overlap(overlap, self.inputs.least, self.inputs.name)
        facts = {"measures": [measure(self.inputs.name, overlap)]}
        path = write_facts(self.file(runtime, "facts.json"), facts)
        return self.give(runtime, {"transform": transform, "facts": path})


class JudgeTissuesInputSpec(NodeInputSpec):
    """Inputs of :class:`JudgeTissues`."""

    fa = File(exists=True, mandatory=True, desc="fractional anisotropy in T1w space")
    wm = File(exists=True, mandatory=True, desc="probability of white matter")
    gm = File(exists=True, mandatory=True, desc="probability of grey matter")
    mask = File(exists=True, mandatory=True, desc="brain that the series covers")
    definitions = File(exists=True, mandatory=True, desc="range of each measure of quality")


class FactsOutputSpec(NodeOutputSpec):
    """Outputs of nodes that only find facts."""

    facts = File(exists=True, desc="findings, JSON")


class JudgeTissues(AlsInterface):
    """Judge the alignment to the T1w by how well its tissues separate the FA."""

    input_spec = JudgeTissuesInputSpec
    output_spec = FactsOutputSpec
    memory_gb = 1.0

    def _run_interface(self, runtime: Any) -> Any:
        fa = read_image(Path(self.inputs.fa), ndim=3, nonfinite="keep")
        wm, gm = (resample_like(Path(path), fa) for path in (self.inputs.wm, self.inputs.gm))
        mask = read_image(Path(self.inputs.mask), ndim=3).data > 0
        definitions = json.loads(Path(self.inputs.definitions).read_text(encoding="utf-8"))
        facts = separation_facts(
            tissue_separation(fa.data, wm, gm, mask),
            least=definitions["tissue_separation"]["low"],
        )
        return self.give(runtime, {"facts": write_facts(self.file(runtime, "facts.json"), facts)})


class ResampleInputSpec(NodeInputSpec):
    """Inputs of :class:`Resample`."""

    dwi = File(exists=True, mandatory=True, desc="series before interpolation")
    table = File(exists=True, mandatory=True, desc="its table")
    motion = File(exists=True, mandatory=True, desc="transforms of every volume")
    reference_to_anatomy = File(exists=True, desc="rigid transform of the b=0 to the T1w, ITK")
    anatomical_mask = File(exists=True, desc="brain mask of the T1w")
    reference_mask = File(exists=True, mandatory=True, desc="brain mask of the b=0")
    voxel_mm = traits.Float(mandatory=True, desc="edge of the voxels, mm; 0 for the series' own")
    margin_mm = traits.Float(mandatory=True, desc="kept around the brain, mm")
    interpolation = traits.Enum("cubic", "linear", mandatory=True, desc="interpolation")
    definitions = File(exists=True, mandatory=True, desc="range of each measure of quality")


class ResampleOutputSpec(SeriesOutputSpec):
    """Outputs of :class:`Resample`."""

    mask = File(exists=True, desc="brain mask on the new grid")


class Resample(AlsInterface):
    """Resample a series once, through motion, distortion and the way to the T1w."""

    input_spec = ResampleInputSpec
    output_spec = ResampleOutputSpec
    memory_gb = 0.3
    memory_per_series = 1.3

    def needed_gb(self, series: SeriesSize) -> float:
        """Memory that it takes, with the new grid's, in GB."""
        resampled = series.gb_at(series.n_voxels_at(self.inputs.voxel_mm))
        return super().needed_gb(series) + 2.8 * resampled

    def _run_interface(self, runtime: Any) -> Any:
        image = read_image(Path(self.inputs.dwi), ndim=4)
        table = tables.read_table(Path(self.inputs.table))
        motion = read_motion(Path(self.inputs.motion))
        place = output_place(
            image,
            optional_path(self.inputs.reference_to_anatomy),
            optional_path(self.inputs.anatomical_mask),
            Path(self.inputs.reference_mask),
            voxel_mm=self.inputs.voxel_mm,
            margin_mm=self.inputs.margin_mm,
        )
        data, mask, turned = resample_to_grid(
            image, table, motion, place, spline_order=SPLINE_ORDERS[self.inputs.interpolation]
        )
        write_image(data, place.grid.affine, self.file(runtime, "dwi.nii"), space="aligned")
        write_image(mask, place.grid.affine, self.file(runtime, "mask.nii.gz"), space="aligned")
        files = tables.write_bids_gradients(turned, place.grid.affine, self.file(runtime, "dwi"))
        definitions = json.loads(Path(self.inputs.definitions).read_text(encoding="utf-8"))
        facts = coverage_facts(mask, place.mask, least=definitions["brain_coverage"]["low"])
        return self.give(
            runtime,
            {
                "dwi": self.file(runtime, "dwi.nii"),
                "mask": self.file(runtime, "mask.nii.gz"),
                "table": turned.write(self.file(runtime, "table.json")),
                "b_values": files[0],
                "b_vectors": files[1],
                "facts": write_facts(self.file(runtime, "facts.json"), facts),
            },
        )


class TensorInputSpec(NodeInputSpec):
    """Inputs of nodes that fit a tensor."""

    method = traits.Enum("ols", "wls", "iwls", "robust", mandatory=True, desc="estimator")
    max_b_s_mm2 = traits.Float(mandatory=True, desc="highest shell used, s/mm2")
    b0_threshold_s_mm2 = traits.Float(mandatory=True, desc="at or below it b is 0, s/mm2")
    shell_gap_s_mm2 = traits.Float(mandatory=True, desc="largest step inside a shell, s/mm2")
    outlier_cutoff_sd = traits.Float(mandatory=True, desc="for robust: cutoff, SD")
    largest_mm2_s = traits.Float(mandatory=True, desc="largest eigenvalue that may be, mm2/s")


class FitTensorInputSpec(TensorInputSpec):
    """Inputs of :class:`FitTensor`."""

    dwi = File(exists=True, mandatory=True, desc="resampled series")
    table = File(exists=True, mandatory=True, desc="its table")
    mask = File(exists=True, mandatory=True, desc="brain mask")
    acquired = File(exists=True, mandatory=True, desc="series that the bvec file goes with")
    reference_to_anatomy = File(exists=True, desc="rigid transform of the b=0 to the T1w, ITK")
    min_fa = traits.Float(mandatory=True, desc="FA from which fibres are followed")
    max_bend_deg = traits.Float(mandatory=True, desc="largest bend of a fibre, degrees")
    min_gain = traits.Float(mandatory=True, desc="gain that makes a table suspect")
    n_seeds = traits.Int(mandatory=True, desc="fibres followed")


class MapsOutputSpec(NodeOutputSpec):
    """Outputs of nodes that make tensor maps."""

    fa = File(exists=True, desc="fractional anisotropy")
    md = File(exists=True, desc="mean diffusivity, mm2/s")
    ad = File(exists=True, desc="axial diffusivity, mm2/s")
    rd = File(exists=True, desc="radial diffusivity, mm2/s")
    v1 = File(exists=True, desc="main direction, world axes")
    facts = File(exists=True, desc="findings, JSON")


class FitTensor(AlsInterface):
    """Fit the diffusion tensor and judge the fit and its gradient table."""

    input_spec = FitTensorInputSpec
    output_spec = MapsOutputSpec
    memory_gb = 0.32

    def needed_gb(self, series: SeriesSize) -> float:
        """Memory that it takes on the series with cubic voxels, in GB."""
        return self.memory_gb + 2.7 * series.gb_at(series.n_voxels_at(0.0))

    def _run_interface(self, runtime: Any) -> Any:
        image = read_image(Path(self.inputs.dwi), ndim=4)
        mask = read_image(Path(self.inputs.mask), ndim=3).data > 0
        table = tables.read_table(Path(self.inputs.table))
        choices = tensor_choices(self.inputs)
        limits = OrientationLimits(
            self.inputs.min_fa, self.inputs.max_bend_deg, self.inputs.min_gain, self.inputs.n_seeds
        )
        frame = bvec_frame(
            Path(self.inputs.acquired), optional_path(self.inputs.reference_to_anatomy)
        )
        with concerning(image.path):
            fit = choices.fit(image.data, mask, table)
            facts = tensor_facts(
                fit,
                image.data,
                mask,
                image.affine,
                table,
                bvec_to_world=frame,
                choices=choices,
                limits=limits,
            )
        results = {}
        for name in ("fa", "md", "ad", "rd", "v1"):
            results[name] = self.file(runtime, f"{name}.nii.gz")
            write_image(getattr(fit, name), image.affine, results[name], space="aligned")
        results["facts"] = write_facts(self.file(runtime, "facts.json"), facts)
        return self.give(runtime, results)


class TemplateMapsInputSpec(TensorInputSpec):
    """Inputs of :class:`TemplateMaps`."""

    dwi = File(exists=True, mandatory=True, desc="series before interpolation")
    table = File(exists=True, mandatory=True, desc="its table")
    motion = File(exists=True, mandatory=True, desc="transforms of every volume")
    reference_to_anatomy = File(exists=True, desc="rigid transform of the b=0 to the T1w, ITK")
    to_template = File(exists=True, mandatory=True, desc="transform to the template, ITK")
    template = traits.Str(mandatory=True, desc="template space")
    resolution_mm = traits.Float(mandatory=True, desc="voxel size in template space, mm")
    interpolation = traits.Enum("cubic", "linear", mandatory=True, desc="interpolation")


class TemplateMaps(AlsInterface):
    """Tensor maps in template space, the series interpolated once through all transforms."""

    input_spec = TemplateMapsInputSpec
    output_spec = MapsOutputSpec
    memory_gb = 0.68
    memory_per_series = 2.2

    def needed_gb(self, series: SeriesSize) -> float:
        """Memory that it takes, with that of the template's brain and grid, in GB."""
        per_mm3 = 1 / float(self.inputs.resolution_mm) ** 3
        values = series.gb_at(BRAIN_MM3 * per_mm3)
        return super().needed_gb(series) + values + 0.1 * per_mm3

    def _run_interface(self, runtime: Any) -> Any:
        image = read_image(Path(self.inputs.dwi), ndim=4)
        rigid = optional_path(self.inputs.reference_to_anatomy)
        chain = [Path(self.inputs.to_template), *([rigid] if rigid else [])]
        place = template_place(
            self.inputs.template, self.inputs.resolution_mm, chain, self.file(runtime, "way.nii.gz")
        )
        maps = template_maps(
            image,
            tables.read_table(Path(self.inputs.table)),
            read_motion(Path(self.inputs.motion)),
            place,
            choices=tensor_choices(self.inputs),
            spline_order=SPLINE_ORDERS[self.inputs.interpolation],
        )
        results = {}
        for name, values in maps.items():
            results[name] = self.file(runtime, f"{name}.nii.gz")
            write_image(values, place.grid.affine, results[name], space="mni152")
        return self.give(runtime, results)


class MeasureTissuesInputSpec(NodeInputSpec):
    """Inputs of :class:`MeasureTissues`."""

    fa = File(exists=True, mandatory=True, desc="fractional anisotropy")
    md = File(exists=True, mandatory=True, desc="mean diffusivity")
    ad = File(exists=True, mandatory=True, desc="axial diffusivity")
    rd = File(exists=True, mandatory=True, desc="radial diffusivity")
    gm = File(exists=True, mandatory=True, desc="probability of grey matter")
    wm = File(exists=True, mandatory=True, desc="probability of white matter")
    csf = File(exists=True, mandatory=True, desc="probability of cerebrospinal fluid")
    mask = File(exists=True, mandatory=True, desc="brain that the series covers")
    min_probability = traits.Float(mandatory=True, desc="a voxel belongs to a tissue from here")


class TableOutputSpec(NodeOutputSpec):
    """Outputs of nodes that make a table."""

    table = File(exists=True, desc="table, TSV")
    figure = File(exists=True, desc="histogram")


class MeasureTissues(AlsInterface):
    """Summarise tensor maps over the tissues of the T1w."""

    input_spec = MeasureTissuesInputSpec
    output_spec = TableOutputSpec
    memory_gb = 1.0

    def _run_interface(self, runtime: Any) -> Any:
        from bids_alsmri.reports.figures import draw_histograms, save_figure

        maps = {
            n: read_image(Path(getattr(self.inputs, n)), ndim=3, nonfinite="keep")
            for n in ("fa", "md", "ad", "rd")
        }
        tissues = {
            name: resample_like(Path(getattr(self.inputs, name)), maps["fa"])
            for name in TISSUE_NAMES
        }
        mask = read_image(Path(self.inputs.mask), ndim=3).data > 0
        units = {"fa": "1", "md": "mm2/s", "ad": "mm2/s", "rd": "mm2/s"}
        rows = measure_tissues(
            {name: (image.data, units[name]) for name, image in maps.items()},
            tissues,
            mask,
            min_probability=self.inputs.min_probability,
        )
        table, figure = self.file(runtime, "tissues.tsv"), self.file(runtime, "histogram.svg")
        pd.DataFrame(rows).to_csv(table, sep="\t", index=False, na_rep="n/a", float_format="%.6g")
        drawn = draw_histograms(
            {
                TISSUE_NAMES[name]: maps["fa"].data[
                    mask & (probability >= self.inputs.min_probability)
                ]
                for name, probability in tissues.items()
            },
            xlabel="fractional anisotropy",
            limits=(0.0, 1.0),
        )
        save_figure(drawn, figure)
        return self.give(runtime, {"table": table, "figure": figure})
