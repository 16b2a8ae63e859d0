"""The pipeline of the cortex at 7T, step by step."""

from __future__ import annotations

from bids_alsmri.bids.query import Scan
from bids_alsmri.engine.graph import Graph, Ref, Step
from bids_alsmri.interfaces.drawing import DrawMap, DrawPair
from bids_alsmri.interfaces.images import Coarsen, QualityTable
from bids_alsmri.pipelines.cortex7t.interfaces import (
    DrawMarks,
    DrawProfiles,
    DrawRibbon,
    EvenOut,
    FindAreas,
    FindLayers,
    FindRibbon,
    Flatten,
    JudgeEchoes,
    MeasureAreas,
    MeasureDrawn,
    MoveSlab,
    ReadAreas,
    ReadBorders,
    ReadEchoes,
    RefineRibbon,
    RegisterSlab,
    StartFromScanner,
)
from bids_alsmri.pipelines.cortex7t.pipeline import PIPELINE, Cortex7tSettings
from bids_alsmri.pipelines.cortex7t.sites import drawn_ribbon, files_of_readers, has_phase

# upper end of the scale of rates of decay, 1/s
FASTEST_R2S = 60.0


def fit(graph: Graph, scan: Scan, cfg: Cortex7tSettings) -> None:
    """Fit the decay, bring the ribbon of the T1w to the slab and measure the motor areas."""
    read = graph.step(
        "read",
        ReadEchoes(
            metadata=graph.metadata("slab"),
            least_snr=cfg.least_snr,
            ghost_object_share=cfg.ghost_object_share,
            ghost_margin_mm=cfg.ghost_margin_mm,
            layer_image=cfg.layer_image,
            has_phase=has_phase(scan),
        ),
        images=graph.files("slab"),
    )
    graph.save("combined", read.combined)
    graph.save("r2s", read.r2s)
    graph.save("t2s", read.t2s)
    facts = [read.facts]
    labels = table = None
    has_t1w = graph.from_pipeline("anatomical", "preproc") is not None
    is_drawn = drawn_ribbon(graph.adopted, scan) is not None and "areas" in graph.adopted
    if has_t1w or is_drawn:
        to_anatomy = None
        if has_t1w:
            aligned = align(graph, cfg, read)
            to_anatomy = aligned.to_anatomy
            facts.append(aligned.facts)
        even, ribbon, more = find_ribbon(graph, scan, cfg, read, to_anatomy)
        labels = ribbon.labels
        measured, areas = measure(graph, cfg, read, even, ribbon)
        facts += [*more, areas.facts, measured.facts]
        table = measured.table
    table = measure_drawn(graph, scan, cfg, read, table)
    if table is not None:
        graph.save("area_stats", table)
    judged = graph.step(
        "judge",
        JudgeEchoes(),
        first=read.first,
        r2s=read.r2s,
        noise=read.noise,
        labels=labels,
    )
    quality = graph.step(
        "quality",
        QualityTable(definitions=str(PIPELINE.folder / "quality.json")),
        facts=[*facts, judged.facts],
    )
    graph.save("quality", quality.table, facts=quality.facts)
    rates = graph.step(
        "draw_r2s",
        DrawMap(label="R2* (1/s)", factor=1.0, low=0.0, high=FASTEST_R2S),
        image=read.r2s,
        mask=read.first,
    )
    graph.figure("r2s", rates.figure)


def align(graph: Graph, cfg: Cortex7tSettings, read: Step) -> Step:
    """Register the slab to the T1w, from near where the scanner puts it."""
    t1w = graph.from_pipeline("anatomical", "preproc")
    coarse = graph.step("coarsen", Coarsen(voxel_mm=cfg.registration_voxel_mm), image=read.combined)
    flat = graph.step(
        "flatten",
        Flatten(
            shrink_factor=cfg.bias_shrink_factor,
            iterations=list(cfg.bias_iterations),
            convergence=cfg.bias_convergence,
            spline_mm=cfg.bias_spline_mm,
            n_threads=cfg.registration_threads,
        ),
        image=coarse.image,
    )
    found = graph.step(
        "register",
        RegisterSlab(
            voxel_mm=cfg.registration_voxel_mm,
            fwhm_mm=list(cfg.registration_fwhm_mm),
            reach_mm=cfg.registration_reach_mm,
            reach_deg=cfg.registration_reach_deg,
            tolerance_mm=cfg.registration_tolerance_mm,
        ),
        image=flat.image,
        t1w=t1w,
    )
    moved = graph.step(
        "move_slab", MoveSlab(), image=flat.image, t1w=t1w, to_anatomy=found.to_anatomy
    )
    pair = graph.step(
        "draw_anatomy",
        DrawPair(label="white matter"),
        fixed=t1w,
        moved=moved.image,
        outline=graph.from_pipeline("anatomical", "wm"),
        mask=moved.image,
    )
    graph.save("to_anatomy", found.to_anatomy)
    graph.figure("anatomy", pair.before, part="before")
    graph.figure("anatomy", pair.after, part="after")
    return found


def find_ribbon(
    graph: Graph, scan: Scan, cfg: Cortex7tSettings, read: Step, to_anatomy: Ref | None
) -> tuple[Step, Step, list[Ref]]:
    """Bring the borders of the cortex to the slab: drawn, of other programs, or of the T1w."""
    drawn, given = drawn_ribbon(graph.adopted, scan), graph.adopted.get("segmentation")
    tissues = {name: graph.from_pipeline("anatomical", name) for name in ("wm", "gm")}
    facts = []
    if drawn is not None or given is not None:
        borders = graph.step(
            "borders",
            ReadBorders(),
            segmentation=drawn or given,
            image=read.combined if drawn is not None else None,
        )
        tissues, facts = {"wm": borders.wm, "gm": borders.gm}, [borders.facts]
    if drawn is not None:
        to_anatomy = graph.step("stay", StartFromScanner()).transform
    ribbon = graph.step(
        "ribbon",
        FindRibbon(
            lattice_mm=cfg.ribbon_mm,
            smoothing_mm=cfg.ribbon_smoothing_mm,
            normal_smoothing_mm=cfg.normal_smoothing_mm,
        ),
        image=read.combined,
        to_anatomy=to_anatomy,
        wm=tissues["wm"],
        gm=tissues["gm"],
    )
    graph.save("layers_table", ribbon.table)
    even = graph.step(
        "even_out",
        EvenOut(fwhm_mm=cfg.receive_fwhm_mm, inset_mm=cfg.receive_inset_mm),
        image=read.layer_image,
        ribbon=ribbon.ribbon,
    )
    if drawn is None and cfg.refine_averaging_mm > 0:
        ribbon = graph.step(
            "refine", RefineRibbon(refining=cfg.refining), image=even.image, ribbon=ribbon.ribbon
        )
        facts.append(ribbon.facts)
    graph.save("layers", ribbon.labels)
    layers = graph.step(
        "layers",
        FindLayers(n_layers=cfg.n_layers, smoothing_steps=cfg.layer_smoothing_steps),
        labels=ribbon.labels,
    )
    graph.save("depth", layers.depth)
    graph.save("equivolume", layers.layers)
    graph.save("equivolume_table", layers.table)
    return even, ribbon, facts


def find_areas(graph: Graph, cfg: Cortex7tSettings, read: Step) -> Step:
    """Bring the motor areas to the slab: drawn, or of the template."""
    given = graph.adopted.get("areas")
    if given is not None:
        drawn = ReadAreas(reach_mm=cfg.drawn_area_reach_mm)
        return graph.step("areas", drawn, image=read.combined, labels=given)
    return graph.step(
        "areas",
        FindAreas(template=graph.template, reach_mm=cfg.area_reach_mm),
        image=read.combined,
        to_anatomy=graph.saved("to_anatomy"),
        from_template=graph.from_pipeline("anatomical", "template_to_t1w"),
    )


def measure(
    graph: Graph, cfg: Cortex7tSettings, read: Step, even: Step, ribbon: Step
) -> tuple[Step, Step]:
    """Measure the motor areas, and draw where they lie and their profiles."""
    areas = find_areas(graph, cfg, read)
    measured = graph.step(
        "measure",
        MeasureAreas(
            spacing_mm=cfg.profile_spacing_mm,
            least_profiles=cfg.least_profiles,
            aligning=cfg.aligning,
            layering=cfg.layering,
            doubting=cfg.doubting,
            reference=cfg.reference,
            most_field_left=cfg.most_field_left,
        ),
        image=even.image,
        r2s=read.r2s,
        ribbon=ribbon.ribbon,
        labels=areas.labels,
        coverage=None if "areas" in graph.adopted else areas.coverage,
    )
    borders = graph.step(
        "draw_ribbon", DrawRibbon(), image=even.image, ribbon=ribbon.ribbon, labels=areas.labels
    )
    profiles = graph.step("draw_profiles", DrawProfiles(), profiles=measured.profiles)
    graph.save("even", even.image)
    graph.save("areas", areas.labels)
    graph.save("areas_table", areas.table)
    graph.figure("ribbon", borders.figure)
    graph.save("profiles", measured.profiles)
    graph.figure("profiles", profiles.figure)
    return measured, areas


def measure_drawn(
    graph: Graph, scan: Scan, cfg: Cortex7tSettings, read: Step, table: Ref | None
) -> Ref | None:
    """Add to the table what readers drew on the slab, and show it."""
    marks = []
    for reader, files in enumerate(files_of_readers(graph.adopted, scan)):
        step = graph.step(
            f"measure_drawn_{reader + 1}",
            MeasureDrawn(oval_mm2=cfg.oval_mm2, reader=reader),
            image=read.layer_image,
            before=table,
            caliper=files.get("caliper"),
            caliper_table=files.get("caliper_table"),
            oval=files.get("oval"),
            oval_table=files.get("oval_table"),
            points=files.get("points"),
        )
        table = step.table
        marks.append(step.marks)
    if marks:
        shown = graph.step("draw_marks", DrawMarks(), image=read.layer_image, marks=marks)
        graph.figure("drawn", shown.figure)
    return table


def apply(graph: Graph, scan: Scan, cfg: Cortex7tSettings) -> None:
    """Nothing is left to do: the slab is measured where it lies."""
