"""The diffusion pipeline, step by step."""

from __future__ import annotations

from bids_alsmri.bids.query import Scan
from bids_alsmri.engine.graph import Graph, Step
from bids_alsmri.interfaces.drawing import DrawColourFa, DrawDenoising, DrawMap, DrawPair
from bids_alsmri.interfaces.images import DilateMask, MaskImage, QualityTable, Register
from bids_alsmri.interfaces.templates import LoadTemplate
from bids_alsmri.pipelines.diffusion.interfaces import (
    AverageSeries,
    CorrectMotion,
    Denoise,
    DraftMask,
    FitTensor,
    JudgeAlignment,
    JudgeTissues,
    MeasureTissues,
    ReadSeries,
    Resample,
    TemplateMaps,
    Unring,
)
from bids_alsmri.pipelines.diffusion.pipeline import PIPELINE, DiffusionSettings

MAPS = ("fa", "md", "ad", "rd")


def fit(graph: Graph, scan: Scan, cfg: DiffusionSettings) -> None:
    """Estimate noise, motion, distortion and the tensor, aligned to the T1w where there is one."""
    series = graph.step(
        "read",
        ReadSeries(b0_threshold_s_mm2=cfg.b0_threshold_s_mm2, metadata=graph.metadata("dwi")),
        images=graph.files("dwi"),
        b_value_files=graph.files("dwi_bval"),
        b_vector_files=graph.files("dwi_bvec"),
    )
    draft = graph.step("draft_mask", draft_mask(cfg), dwi=series.dwi, table=series.table)
    quiet = graph.step(
        "denoise",
        denoise(cfg, graph.n_threads),
        dwi=series.dwi,
        table=series.table,
        mask=draft.mask,
    )
    sharp = graph.step("unring", unring(cfg, graph.n_threads), dwi=quiet.dwi, table=series.table)
    moved = graph.step(
        "correct_motion",
        correct_motion(cfg, graph.n_threads),
        dwi=sharp.dwi,
        table=series.table,
        mask=draft.mask,
    )
    means = graph.step(
        "average",
        AverageSeries(),
        raw=sharp.dwi,
        dwi=moved.dwi,
        table=series.table,
        motion=moved.motion,
    )
    anatomy = align_to_anatomy(graph, cfg, means, draft)
    final = graph.step(
        "resample",
        resample(cfg),
        dwi=moved.dwi,
        table=series.table,
        motion=moved.motion,
        reference_mask=draft.mask,
        reference_to_anatomy=anatomy.transform if anatomy else None,
        anatomical_mask=graph.from_pipeline("anatomical", "brain_mask"),
    )
    tensor = graph.step(
        "fit_tensor",
        fit_tensor(cfg),
        dwi=final.dwi,
        table=final.table,
        mask=final.mask,
        acquired=series.dwi,
        reference_to_anatomy=anatomy.transform if anatomy else None,
    )
    judged = [anatomy, judge_tissues(graph, final, tensor)] if anatomy else []
    judged = judged or [align_to_template(graph, cfg, tensor)]
    quality = graph.step(
        "quality",
        QualityTable(definitions=str(PIPELINE.folder / "quality.json")),
        facts=[step.facts for step in (series, quiet, sharp, moved, final, tensor, *judged)],
    )
    graph.save("corrected_dwi", moved.dwi)
    graph.save("corrected_bval", series.b_values)
    graph.save("corrected_bvec", series.b_vectors)
    graph.save("series", series.table)
    graph.save("noise", quiet.noise)
    graph.save("motion", moved.motion)
    graph.save("outliers", moved.outliers)
    graph.save("preproc_dwi", final.dwi)
    graph.save("preproc_bval", final.b_values)
    graph.save("preproc_bvec", final.b_vectors)
    graph.save("brain_mask", final.mask)
    for name in (*MAPS, "v1"):
        graph.save(name, getattr(tensor, name))
    graph.save("quality", quality.table, facts=quality.facts)
    draw_fit(graph, series, draft, quiet, moved, means, final, tensor)


def align_to_anatomy(graph: Graph, cfg: DiffusionSettings, means: Step, draft: Step) -> Step | None:
    """Register the series to the T1w, where there is one, and refuse a failed registration."""
    t1w = graph.from_pipeline("anatomical", "preproc")
    mask = graph.from_pipeline("anatomical", "brain_mask")
    if t1w is None:
        return None
    # whole heads differ in how much neck they show, so brains are aligned to start from
    brain = graph.step("mask_anatomy", MaskImage(), image=t1w, mask=mask)
    # The mean weighted image is dark in fluid and parts grey from white matter, as the T1w does.
    # The b=0 has little of both: on one real head its registration ended up to 18 mm apart with
    # the schedule, where that of this mean stays within 0.7 mm.
    weighted_brain = graph.step("mask_weighted", MaskImage(), image=means.after, mask=draft.mask)
    start = graph.step(
        "start_to_anatomy",
        Register(
            stages=cfg.start_stages,
            winsor_percentiles=cfg.winsor_percentiles,
            n_threads=cfg.registration_threads,
        ),
        fixed=brain.image,
        moving=weighted_brain.image,
    )
    # the series' brain mask is rough: a rim of skull and scalp keeps its border from pulling
    rim = graph.step("rim", DilateMask(radius_mm=cfg.anatomy_rim_mm), mask=mask)
    found = graph.step(
        "register_to_anatomy",
        Register(
            stages=cfg.rigid_stages,
            winsor_percentiles=cfg.winsor_percentiles,
            n_threads=cfg.registration_threads,
        ),
        fixed=t1w,
        moving=means.after,
        fixed_mask=rim.mask,
        initial=start.forward,
    )
    pair = graph.step(
        "draw_anatomy",
        DrawPair(label="white matter"),
        fixed=t1w,
        moved=found.moved,
        mask=mask,
        outline=graph.from_pipeline("anatomical", "wm"),
    )
    judged = graph.step(
        "judge_alignment",
        JudgeAlignment(
            name="anatomy_overlap",
            first_threshold=0.5,
            second_threshold=0.5,
            least=cfg.least_overlap,
        ),
        first=mask,
        second=draft.mask,
        second_to_first=found.forward,
    )
    graph.save("reference_to_anatomy", judged.transform)
    graph.figure("anatomy", pair.before, part="before")
    graph.figure("anatomy", pair.after, part="after")
    return judged


def judge_tissues(graph: Graph, final: Step, tensor: Step) -> Step:
    """Judge the alignment by contrast: masks of two brains overlap well some 15 mm off."""
    return graph.step(
        "judge_tissues",
        JudgeTissues(definitions=str(PIPELINE.folder / "quality.json")),
        fa=tensor.fa,
        wm=graph.from_pipeline("anatomical", "wm"),
        gm=graph.from_pipeline("anatomical", "gm"),
        mask=final.mask,
    )


def align_to_template(graph: Graph, cfg: DiffusionSettings, tensor: Step) -> Step:
    """Register the FA to the template's white matter, for want of a T1w."""
    template = graph.step(
        "template", LoadTemplate(name=graph.template, resolution_mm=cfg.fa_resolution_mm)
    )
    rim = graph.step("template_rim", DilateMask(radius_mm=cfg.fa_rim_mm), mask=template.mask)
    found = graph.step(
        "register_fa",
        Register(
            stages=cfg.fa_stages,
            winsor_percentiles=cfg.winsor_percentiles,
            n_threads=cfg.registration_threads,
        ),
        fixed=template.wm,
        moving=tensor.fa,
        fixed_mask=rim.mask,
    )
    judged = graph.step(
        "judge_alignment",
        JudgeAlignment(
            name="template_overlap",
            first_threshold=0.5,
            second_threshold=cfg.tract_min_fa,
            least=cfg.least_template_overlap,
        ),
        first=template.wm,
        second=tensor.fa,
        second_to_first=found.forward,
    )
    graph.save("fa_to_template", judged.transform)
    return judged


def draw_fit(
    graph: Graph,
    series: Step,
    draft: Step,
    quiet: Step,
    moved: Step,
    means: Step,
    final: Step,
    tensor: Step,
) -> None:
    """Draw the figures of the estimation."""
    denoising = graph.step(
        "draw_denoising",
        DrawDenoising(unit="arbitrary"),
        before=series.dwi,
        after=quiet.dwi,
        noise=quiet.noise,
        mask=draft.mask,
        volume=quiet.shown_volume,
    )
    correction = graph.step(
        "draw_correction",
        DrawPair(label="brain"),
        fixed=means.before,
        moved=means.after,
        outline=draft.mask,
    )
    colour = graph.step(
        "draw_colour_fa", DrawColourFa(), fa=tensor.fa, v1=tensor.v1, mask=final.mask
    )
    md = graph.step(
        "draw_md",
        DrawMap(label="mean diffusivity (10⁻³ mm²/s)", factor=1e3, low=0.0, high=3.0),
        image=tensor.md,
        mask=final.mask,
    )
    graph.figure("denoising", denoising.figure)
    graph.figure("motion", moved.figure)
    graph.figure("correction", correction.before, part="before")
    graph.figure("correction", correction.after, part="after")
    graph.figure("colour_fa", colour.figure)
    graph.figure("md", md.figure)


def apply(graph: Graph, scan: Scan, cfg: DiffusionSettings) -> None:
    """Bring the maps to template space and summarise them over tissues."""
    by_anatomy = graph.from_pipeline("anatomical", "t1w_to_template")
    maps = graph.step(
        "template_maps",
        template_maps(cfg, graph.template),
        dwi=graph.saved("corrected_dwi"),
        table=graph.saved("series"),
        motion=graph.saved("motion"),
        reference_to_anatomy=graph.saved("reference_to_anatomy"),
        to_template=by_anatomy or graph.saved("fa_to_template"),
    )
    for name in MAPS:
        graph.save(f"template_{name}", getattr(maps, name))
    template = graph.step(
        "draw_template_grid",
        LoadTemplate(name=graph.template, resolution_mm=cfg.template_resolution_mm),
    )
    pair = graph.step(
        "draw_template",
        DrawPair(label="white matter of the template"),
        fixed=template.t1w,
        moved=maps.fa,
        outline=template.wm,
        mask=template.mask,
    )
    graph.figure("template", pair.before, part="before")
    graph.figure("template", pair.after, part="after")
    if by_anatomy is not None:
        tissues = graph.step(
            "measure_tissues",
            MeasureTissues(min_probability=cfg.tissue_min_probability),
            fa=graph.saved("fa"),
            md=graph.saved("md"),
            ad=graph.saved("ad"),
            rd=graph.saved("rd"),
            gm=graph.from_pipeline("anatomical", "gm"),
            wm=graph.from_pipeline("anatomical", "wm"),
            csf=graph.from_pipeline("anatomical", "csf"),
            mask=graph.saved("brain_mask"),
        )
        graph.save("tissue_stats", tissues.table)
        graph.figure("histogram", tissues.figure)


def draft_mask(cfg: DiffusionSettings) -> DraftMask:
    """Node of the rough brain mask."""
    return DraftMask(median_radius=cfg.mask_median_radius, passes=cfg.mask_passes)


def denoise(cfg: DiffusionSettings, n_threads: int) -> Denoise:
    """Node of the denoising."""
    return Denoise(
        method=cfg.denoising,
        patch_radius=cfg.patch_radius,
        patch_step=cfg.patch_step,
        noise_smoothing_voxels=cfg.noise_smoothing_voxels,
        noise_threshold_sd=cfg.noise_threshold_sd,
        n_threads=n_threads,
    )


def unring(cfg: DiffusionSettings, n_threads: int) -> Unring:
    """Node of the unringing."""
    return Unring(is_wanted=cfg.unringing, n_points=cfg.unringing_shifts, n_threads=n_threads)


def correct_motion(cfg: DiffusionSettings, n_threads: int) -> CorrectMotion:
    """Node of the motion and eddy-current correction."""
    return CorrectMotion(
        target=cfg.motion_target,
        model=cfg.motion_model,
        smoothing_fwhm_mm=list(cfg.motion_smoothing_fwhm_mm),
        tolerance_mm=cfg.motion_tolerance_mm,
        mask_margin_mm=cfg.motion_mask_margin_mm,
        contrast_margin_mm=cfg.contrast_margin_mm,
        contrast_fwhm_mm=cfg.contrast_fwhm_mm,
        shading_fwhm_mm=cfg.shading_fwhm_mm,
        replace_outliers=cfg.replace_outliers,
        outlier_threshold_sd=cfg.outlier_threshold_sd,
        outlier_min_change=cfg.outlier_min_change,
        min_slice_voxels=cfg.outlier_min_voxels,
        b0_threshold_s_mm2=cfg.b0_threshold_s_mm2,
        shell_gap_s_mm2=cfg.shell_gap_s_mm2,
        max_b0_registered_s_mm2=cfg.motion_max_b_for_b0_s_mm2,
        align_shells=cfg.align_shells,
        radius_mm=cfg.displacement_radius_mm,
        eddy_shift_max_p=cfg.eddy_shift_max_p,
        n_threads=n_threads,
    )


def resample(cfg: DiffusionSettings) -> Resample:
    """Node of the one interpolation."""
    return Resample(
        voxel_mm=cfg.voxel_mm,
        margin_mm=cfg.margin_mm,
        interpolation=cfg.interpolation,
        definitions=str(PIPELINE.folder / "quality.json"),
    )


def fit_tensor(cfg: DiffusionSettings) -> FitTensor:
    """Node of the tensor fit."""
    return FitTensor(
        method=cfg.tensor_fit,
        max_b_s_mm2=cfg.tensor_max_b_s_mm2,
        b0_threshold_s_mm2=cfg.b0_threshold_s_mm2,
        shell_gap_s_mm2=cfg.shell_gap_s_mm2,
        outlier_cutoff_sd=cfg.tensor_outlier_cutoff_sd,
        largest_mm2_s=cfg.tensor_largest_mm2_s,
        min_fa=cfg.gradient_min_fa,
        max_bend_deg=cfg.gradient_max_bend_deg,
        min_gain=cfg.gradient_min_gain,
        n_seeds=cfg.gradient_fibres,
    )


def template_maps(cfg: DiffusionSettings, template: str) -> TemplateMaps:
    """Node of the maps in template space."""
    return TemplateMaps(
        template=template,
        resolution_mm=cfg.template_resolution_mm,
        interpolation=cfg.interpolation,
        method=cfg.tensor_fit,
        max_b_s_mm2=cfg.tensor_max_b_s_mm2,
        b0_threshold_s_mm2=cfg.b0_threshold_s_mm2,
        shell_gap_s_mm2=cfg.shell_gap_s_mm2,
        outlier_cutoff_sd=cfg.tensor_outlier_cutoff_sd,
        largest_mm2_s=cfg.tensor_largest_mm2_s,
    )
