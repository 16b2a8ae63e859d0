"""The sodium pipeline, step by step."""

from __future__ import annotations

from typing import Any

from bids_alsmri.bids.query import Scan
from bids_alsmri.engine.graph import Graph, Step
from bids_alsmri.interfaces.atlases import PrepareAtlases
from bids_alsmri.interfaces.drawing import DrawMap, DrawPair
from bids_alsmri.interfaces.images import (
    Coarsen,
    DilateMask,
    MaskImage,
    QualityTable,
    Register,
)
from bids_alsmri.interfaces.templates import LoadTemplate
from bids_alsmri.pipelines.sodium.interfaces import (
    Calibrate,
    CorrectPartialVolume,
    CorrectReceive,
    Denoise,
    DrawAreas,
    DrawTubes,
    FindTubes,
    JudgeAnatomy,
    JudgeProton,
    MeasureAtlases,
    MeasureTissues,
    ReadProton,
    ReadSodium,
    ToConcentration,
    ToSpaces,
)
from bids_alsmri.pipelines.sodium.pipeline import PIPELINE, SodiumSettings, receive_method

# upper end of the scale of sodium maps, mmol/L: that of fluid
BRIGHTEST_MMOL_L = 150.0
# of the map beneath the motor areas: tissue is told from tissue there
AREAS_BRIGHTEST_MMOL_L = 100.0


def fit(graph: Graph, scan: Scan, cfg: SodiumSettings) -> None:
    """Take off noise and bias, calibrate by the tubes, align to the T1w and correct for blur."""
    source = graph.files("sodium")[0]
    read = graph.step(
        "read",
        read_sodium(cfg, graph.metadata("sodium"), has_proton=bool(graph.files("proton"))),
        images=graph.files("sodium"),
    )
    quiet = graph.step(
        "denoise",
        denoise(cfg, graph.n_threads),
        image=read.image,
        protocol=read.protocol,
        source=source,
    )
    tubes = graph.step(
        "find_tubes",
        find_tubes(cfg),
        image=read.image,
        protocol=read.protocol,
        noise=quiet.noise,
        source=source,
        labels=graph.adopted.get("refs"),
    )
    even = correct_receive(graph, cfg, quiet, tubes)
    line = graph.step(
        "calibrate",
        calibrate(cfg),
        image=even.image,
        source=source,
        protocol=read.protocol,
        noise=quiet.noise,
        labels=tubes.labels,
        tubes=tubes.tubes,
        head=tubes.head,
    )
    anatomy = align(graph, cfg, even, tubes)
    tissue_inputs = anatomy_inputs(graph, cfg, anatomy)
    signal: dict[str, Any] = {"image": even.image, "protocol": read.protocol, "line": line.line}
    tsc = graph.step("concentration", to_concentration(cfg), **signal, **tissue_inputs)
    graph.save("tsc", tsc.image)
    graph.save("refs", tubes.labels)
    graph.save("refs_table", tubes.table)
    graph.save("tubes", line.table)
    facts = [
        step.facts for step in (read, quiet, tubes, even, line, *([anatomy] if anatomy else []))
    ]
    if tissue_inputs:
        facts += correct(graph, cfg, quiet, tubes, tsc, {**signal, **tissue_inputs})
    quality = graph.step(
        "quality", QualityTable(definitions=str(PIPELINE.folder / "quality.json")), facts=facts
    )
    graph.save("quality", quality.table, facts=quality.facts)
    draw(graph, read, tubes, line, tsc)


def correct_receive(graph: Graph, cfg: SodiumSettings, quiet: Step, tubes: Step) -> Step:
    """Take the receive bias off, from what the session has to tell it by."""
    array, volume, receive_map = (
        next(iter(graph.files(name)), None) for name in ("coil_array", "coil_volume", "receive_map")
    )
    method = receive_method(
        cfg,
        has_coils=array is not None and volume is not None,
        has_map=receive_map is not None,
        metadata=graph.metadata("sodium")[0],
    )
    even = graph.step(
        "correct_receive",
        correct_receive_node(cfg, method),
        image=quiet.image,
        source=graph.files("sodium")[0],
        labels=tubes.labels,
        tubes=tubes.tubes,
        head=tubes.head,
        receive_map=receive_map,
        array_image=array,
        volume_image=volume,
    )
    if method != "off":
        picture = graph.step(
            "draw_receive",
            DrawMap(label="receive bias (1)", factor=1.0, low=0.0, high=2.0, outline="head"),
            image=even.bias,
            mask=tubes.head,
        )
        pair = graph.step(
            "draw_evened",
            DrawPair(label="head"),
            fixed=quiet.image,
            moved=even.image,
            outline=tubes.head,
            mask=tubes.head,
        )
        graph.save("receive_bias", even.bias)
        graph.figure("receive_bias", picture.figure)
        graph.figure("evened", pair.before, part="before")
        graph.figure("evened", pair.after, part="after")
    return even


def align(graph: Graph, cfg: SodiumSettings, even: Step, tubes: Step) -> Step | None:
    """Register the head to the T1w, or else to another proton image."""
    t1w = graph.from_pipeline("anatomical", "preproc")
    # tubes and air do not count
    head = graph.step("mask_head", MaskImage(), image=even.image, mask=tubes.head)
    if t1w is not None and cfg.register_to == "T1w":
        return align_to_t1w(graph, cfg, even, tubes, head)
    if graph.files("proton"):
        return align_to_proton(graph, cfg, head)
    return None


def align_to_t1w(graph: Graph, cfg: SodiumSettings, even: Step, tubes: Step, head: Step) -> Step:
    """Register the head to the T1w, and refuse a failed registration."""
    t1w = graph.from_pipeline("anatomical", "preproc")
    brain = graph.from_pipeline("anatomical", "brain_mask")
    rim = graph.step("rim", DilateMask(radius_mm=cfg.anatomy_rim_mm), mask=brain)
    coarse = graph.step("coarsen_t1w", Coarsen(voxel_mm=cfg.registration_voxel_mm), image=t1w)
    start = graph.step(
        "start_to_anatomy", register(cfg, cfg.start_stages), fixed=coarse.image, moving=head.image
    )
    found = graph.step(
        "register_to_anatomy",
        register(cfg, cfg.rigid_stages),
        fixed=coarse.image,
        moving=head.image,
        fixed_mask=rim.mask,
        initial=start.forward,
    )
    judged = graph.step(
        "judge_anatomy",
        JudgeAnatomy(least_overlap=cfg.least_overlap, least_separation=cfg.least_separation),
        image=even.image,
        head=tubes.head,
        source=graph.files("sodium")[0],
        to_anatomy=found.forward,
        brain=brain,
        wm=graph.from_pipeline("anatomical", "wm"),
        csf=graph.from_pipeline("anatomical", "csf"),
    )
    pair = graph.step(
        "draw_anatomy",
        DrawPair(label="white matter"),
        fixed=t1w,
        moved=found.moved,
        mask=brain,
        outline=graph.from_pipeline("anatomical", "wm"),
    )
    graph.save("to_anatomy", judged.transform)
    graph.figure("anatomy", pair.before, part="before")
    graph.figure("anatomy", pair.after, part="after")
    return judged


def align_to_proton(graph: Graph, cfg: SodiumSettings, head: Step) -> Step:
    """Register the head to a proton image of its session, from which no tissue is known."""
    proton = graph.step(
        "read_proton",
        ReadProton(metadata=graph.metadata("proton")),
        images=graph.files("proton"),
    )
    start = graph.step(
        "start_to_proton", register(cfg, cfg.start_stages), fixed=proton.image, moving=head.image
    )
    found = graph.step(
        "register_to_proton",
        register(cfg, cfg.rigid_stages),
        fixed=proton.image,
        moving=head.image,
        initial=start.forward,
    )
    judged = graph.step(
        "judge_proton",
        JudgeProton(least_overlap=cfg.least_overlap),
        image=head.image,
        source=graph.files("sodium")[0],
        to_proton=found.forward,
        proton_head=proton.head,
    )
    pair = graph.step(
        "draw_proton",
        DrawPair(label="head of the proton image"),
        fixed=proton.image,
        moved=found.moved,
        outline=proton.head,
    )
    graph.save("to_proton", judged.transform)
    graph.figure("proton", pair.before, part="before")
    graph.figure("proton", pair.after, part="after")
    return judged


def anatomy_inputs(graph: Graph, cfg: SodiumSettings, anatomy: Step | None) -> dict[str, Any]:
    """What brings the T1w's tissues to the sodium image; nothing without a T1w."""
    t1w = graph.from_pipeline("anatomical", "preproc")
    if anatomy is None or t1w is None or cfg.register_to == "proton":
        return {}
    inputs = {name: graph.from_pipeline("anatomical", name) for name in ("wm", "gm", "csf")}
    inputs["t1w"] = t1w
    inputs["brain"] = graph.from_pipeline("anatomical", "brain_mask")
    return {**inputs, "to_anatomy": anatomy.transform}


def correct(
    graph: Graph,
    cfg: SodiumSettings,
    quiet: Step,
    tubes: Step,
    tsc: Step,
    inputs: dict[str, Any],
) -> list[Any]:
    """Correct for blur between tissues where that is asked for, and summarise the tissues."""
    tissues = {n: inputs[n] for n in ("wm", "gm", "csf", "t1w", "brain", "to_anatomy")}
    facts, corrected = [], None
    if cfg.partial_volume_correction:
        corrected = graph.step(
            "correct_partial_volume",
            correct_partial_volume(cfg),
            **inputs,
            labels=tubes.labels,
            head=tubes.head,
            noise=quiet.noise,
            source=graph.files("sodium")[0],
        )
        graph.save("tsc_voxelwise", corrected.voxelwise)
        graph.save("tsc_tissue", corrected.tissue)
        facts.append(corrected.facts)
    measured = graph.step(
        "measure_tissues",
        MeasureTissues(min_probability=cfg.tissue_min_probability),
        tsc=tsc.image,
        voxelwise=corrected.voxelwise if corrected else None,
        regions=corrected.regions if corrected else None,
        **tissues,
    )
    graph.save("tissue_stats", measured.table)
    graph.figure("histogram", measured.figure)
    return [*facts, measured.facts]


def draw(graph: Graph, read: Step, tubes: Step, line: Step, tsc: Step) -> None:
    """Draw the figures of the estimation."""
    outlines = graph.step(
        "draw_tubes",
        DrawTubes(),
        image=read.image,
        labels=tubes.labels,
        head=tubes.head,
    )
    sodium = graph.step(
        "draw_tsc",
        DrawMap(label="sodium (mmol/L)", factor=1.0, low=0.0, high=BRIGHTEST_MMOL_L),
        image=tsc.image,
        mask=tubes.head,
    )
    graph.figure("tubes", outlines.figure)
    graph.figure("calibration", line.figure)
    graph.figure("tsc", sodium.figure)


def apply(graph: Graph, scan: Scan, cfg: SodiumSettings) -> None:
    """Bring the maps to T1w and template space, and smooth what groups are compared on."""
    to_anatomy = graph.saved("to_anatomy")
    if to_anatomy is None:
        return
    moved = graph.step(
        "to_spaces",
        ToSpaces(
            template=graph.template,
            resolution_mm=cfg.template_resolution_mm,
            t1w_resolution_mm=cfg.t1w_resolution_mm,
            fwhm_mm=cfg.smoothing_fwhm_mm,
        ),
        tsc=graph.saved("tsc"),
        tissue=graph.saved("tsc_tissue"),
        gm=graph.from_pipeline("anatomical", "gm"),
        wm=graph.from_pipeline("anatomical", "wm"),
        to_anatomy=to_anatomy,
        to_template=graph.from_pipeline("anatomical", "t1w_to_template"),
    )
    graph.save("t1w_tsc", moved.t1w)
    graph.save("template_tsc", moved.template)
    graph.save("template_smoothed", moved.smoothed)
    graph.save("template_gm", moved.gm)
    template = graph.step(
        "draw_template_grid",
        LoadTemplate(name=graph.template, resolution_mm=cfg.template_resolution_mm),
    )
    pair = graph.step(
        "draw_template",
        DrawPair(label="white matter of the template"),
        fixed=template.t1w,
        moved=moved.template,
        outline=template.wm,
        mask=template.mask,
    )
    graph.figure("template", pair.before, part="before")
    graph.figure("template", pair.after, part="after")
    if graph.atlases.names:
        measure_atlases(graph, cfg, template)


def measure_atlases(graph: Graph, cfg: SodiumSettings, template: Step) -> None:
    """Summarise sodium over the regions of all atlases at hand."""
    prepared = graph.step(
        "prepare_atlases",
        PrepareAtlases(
            template=graph.template,
            resolution_mm=cfg.template_resolution_mm,
            atlas_dir=graph.atlases.folder,
            threshold_percent=graph.atlases.threshold_percent,
        ),
        reference=template.mask,
    )
    measured = graph.step(
        "measure_atlases",
        MeasureAtlases(),
        tsc=graph.saved("tsc"),
        voxelwise=graph.saved("tsc_voxelwise"),
        tissue=graph.saved("tsc_tissue"),
        atlases=prepared.atlases,
        to_anatomy=graph.saved("to_anatomy"),
        from_template=graph.from_pipeline("anatomical", "template_to_t1w"),
    )
    graph.save("atlas_stats", measured.table, facts=prepared.facts)
    if graph.atlases.has_motor_areas:
        drawn = graph.step(
            "draw_areas",
            DrawAreas(high=AREAS_BRIGHTEST_MMOL_L),
            tsc=graph.saved("tsc"),
            motor_areas=measured.motor_areas,
            summary=measured.summary,
        )
        graph.figure("areas", drawn.outlines)
        graph.figure("area_values", drawn.values)


def read_sodium(
    cfg: SodiumSettings, metadata: list[dict[str, Any]], *, has_proton: bool
) -> ReadSodium:
    """Node that reads image and protocol."""
    return ReadSodium(
        metadata=metadata,
        lacks_proton=cfg.register_to == "proton" and not has_proton,
        readout=cfg.readout,
        needs_times=cfg.relaxation_correction,
        needs_spread=cfg.partial_volume_correction or cfg.tube_recovery,
    )


def denoise(cfg: SodiumSettings, n_threads: int) -> Denoise:
    """Node of the denoising."""
    return Denoise(
        method=cfg.denoising,
        strength=cfg.denoising_strength,
        patch_radius=cfg.denoising_patch_radius,
        block_radius=cfg.denoising_block_radius,
        n_threads=n_threads,
    )


def correct_receive_node(cfg: SodiumSettings, method: str) -> CorrectReceive:
    """Node of the receive bias."""
    return CorrectReceive(
        method=method,
        fwhm_mm=cfg.receive_fwhm_mm,
        order=cfg.receive_order,
        denoising={
            "strength": cfg.denoising_strength,
            "patch_radius": cfg.denoising_patch_radius,
            "block_radius": cfg.denoising_block_radius,
        },
    )


def find_tubes(cfg: SodiumSettings) -> FindTubes:
    """Node that finds the tubes."""
    return FindTubes(
        relaxation=cfg.relaxation_times["tube"],
        diameters_mm=cfg.tube_diameters_mm,
        most_tubes=cfg.most_tubes,
    )


def calibrate(cfg: SodiumSettings) -> Calibrate:
    """Node that measures the tubes."""
    return Calibrate(
        relaxation=cfg.relaxation_times["tube"],
        choices={
            "erosion_fwhm": cfg.tube_erosion_fwhm,
            "reach_sd": cfg.tube_reach_sd,
            "most_disagreement": cfg.tube_most_disagreement,
            "most_saturated": cfg.tube_most_saturated,
            "has_recovery": cfg.tube_recovery,
            "has_relaxation": cfg.relaxation_correction,
            "concentrations_mmol_l": list(cfg.tube_concentrations_mmol_l),
            "usual_mmol_l": cfg.usual_concentration_mmol_l,
            "reference_tubes": list(cfg.reference_tubes),
            "is_fitted": cfg.point_spread == "fitted",
        },
    )


def register(cfg: SodiumSettings, stages: list[dict[str, Any]]) -> Register:
    """Node of a registration."""
    return Register(
        stages=stages,
        winsor_percentiles=cfg.winsor_percentiles,
        n_threads=cfg.registration_threads,
    )


def concentration_choices(cfg: SodiumSettings) -> dict[str, Any]:
    """Inputs that the nodes which make concentrations share."""
    return {
        "relaxation_times": cfg.relaxation_times,
        "has_relaxation": cfg.relaxation_correction,
        "usual_mmol_l": list(cfg.usual_tissue_mmol_l),
        "temperature_correction": cfg.temperature_correction,
        "brain_celsius": cfg.brain_celsius,
        "tube_celsius": cfg.tube_celsius,
    }


def to_concentration(cfg: SodiumSettings) -> ToConcentration:
    """Node of the map."""
    return ToConcentration(**concentration_choices(cfg))


def correct_partial_volume(cfg: SodiumSettings) -> CorrectPartialVolume:
    """Node of the correction for partial volume."""
    return CorrectPartialVolume(
        **concentration_choices(cfg),
        voxel_mm=cfg.correction_voxel_mm,
        margin_mm=cfg.correction_margin_mm,
        ventricle_depth_mm=cfg.ventricle_depth_mm,
        eye_share=cfg.eye_share,
        least_region_spreads=cfg.least_region_spreads,
        tissue_shares=cfg.tissue_shares,
        is_fitted=cfg.point_spread == "fitted",
    )
