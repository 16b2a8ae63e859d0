"""The anatomical pipeline, step by step."""

from __future__ import annotations

from bids_alsmri.bids.query import Scan
from bids_alsmri.engine.graph import Graph, Ref
from bids_alsmri.interfaces.drawing import DrawOutlines, DrawPair
from bids_alsmri.interfaces.images import DilateMask, MaskImage, QualityTable, Register
from bids_alsmri.interfaces.templates import LoadTemplate
from bids_alsmri.pipelines.anatomical.interfaces import (
    CheckT1w,
    CorrectBias,
    ExtractBrain,
    JudgeTemplate,
    MeasureAdopted,
    SegmentTissues,
    ToTemplate,
)
from bids_alsmri.pipelines.anatomical.pipeline import PIPELINE, AnatomicalSettings

TISSUES = ("gm", "wm", "csf")


def fit(graph: Graph, scan: Scan, cfg: AnatomicalSettings) -> None:
    """Correct the bias, find brain and tissues, register to the template; or adopt all that."""
    if graph.adopted:
        adopt(graph, cfg)
        return
    t1w = graph.files("t1w")[0]
    checked = graph.step("check", CheckT1w(), image=t1w)
    brain = graph.step(
        "extract_brain", extract_brain(cfg, graph.template), image=checked.image, source=t1w
    )
    flat = graph.step("correct_bias", correct_bias(cfg), image=checked.image, mask=brain.mask)
    tissues = graph.step(
        "segment_tissues",
        segment_tissues(cfg, graph.template),
        image=flat.image,
        mask=brain.mask,
        source=t1w,
        start=brain.start,
    )
    graph.save("preproc", flat.image)
    graph.save("brain_mask", brain.mask)
    for name in TISSUES:
        graph.save(name, getattr(tissues, name))
    to_template(graph, cfg, brain.start)
    finish(graph, cfg, [checked.facts, brain.facts, tissues.facts])


def adopt(graph: Graph, cfg: AnatomicalSettings) -> None:
    """Take over brain and tissues of another program, and its transforms where it has them."""
    for name, path in graph.adopted.items():
        graph.save(name, path)
    if "t1w_to_template" not in graph.adopted:
        to_template(graph, cfg, None)
    measured = graph.step(
        "measure_tissues",
        MeasureAdopted(),
        gm=graph.saved("gm"),
        wm=graph.saved("wm"),
        csf=graph.saved("csf"),
    )
    finish(graph, cfg, [measured.facts])


def to_template(graph: Graph, cfg: AnatomicalSettings, start: Ref | None) -> None:
    """Register the brain to the template."""
    masked = graph.step(
        "mask", MaskImage(), image=graph.saved("preproc"), mask=graph.saved("brain_mask")
    )
    template = graph.step(
        "template", LoadTemplate(name=graph.template, resolution_mm=cfg.template_registration_mm)
    )
    rim = graph.step("template_rim", DilateMask(radius_mm=cfg.template_rim_mm), mask=template.mask)
    found = graph.step(
        "register",
        Register(
            stages=cfg.template_stages,
            winsor_percentiles=cfg.winsor_percentiles,
            n_threads=cfg.registration_threads,
        ),
        fixed=template.t1w,
        moving=masked.image,
        fixed_mask=rim.mask,
        initial=start,
    )
    graph.save("t1w_to_template", found.forward)
    graph.save("template_to_t1w", found.inverse)


def finish(graph: Graph, cfg: AnatomicalSettings, facts: list[Ref]) -> None:
    """Judge the registration and collect the measures of quality."""
    judged = graph.step(
        "judge",
        JudgeTemplate(template=graph.template, template_mm=cfg.template_registration_mm),
        wm=graph.saved("wm"),
        to_template=graph.saved("t1w_to_template"),
    )
    quality = graph.step(
        "quality",
        QualityTable(definitions=str(PIPELINE.folder / "quality.json")),
        facts=[*facts, judged.facts],
    )
    graph.save("quality", quality.table, facts=quality.facts)


def apply(graph: Graph, scan: Scan, cfg: AnatomicalSettings) -> None:
    """Bring the T1w to template space and draw the figures."""
    moved = graph.step(
        "to_template",
        ToTemplate(template=graph.template, resolution_mm=cfg.template_resolution_mm),
        image=graph.saved("preproc"),
        mask=graph.saved("brain_mask"),
        to_template=graph.saved("t1w_to_template"),
    )
    outlines = graph.step(
        "draw_tissues",
        DrawOutlines(labels=["brain", "white matter", "grey matter"]),
        image=graph.saved("preproc"),
        outlines=[graph.saved("brain_mask"), graph.saved("wm"), graph.saved("gm")],
    )
    pair = graph.step(
        "draw_template",
        DrawPair(label="white matter of the template"),
        fixed=moved.template_t1w,
        moved=moved.image,
        outline=moved.template_wm,
        mask=moved.template_mask,
    )
    graph.save("template_t1w", moved.image)
    graph.figure("tissues", outlines.figure)
    graph.figure("template", pair.before, part="before")
    graph.figure("template", pair.after, part="after")


def correct_bias(cfg: AnatomicalSettings) -> CorrectBias:
    """Node of the bias correction."""
    return CorrectBias(
        shrink_factor=cfg.bias_shrink_factor,
        iterations=list(cfg.bias_iterations),
        convergence=cfg.bias_convergence,
        spline_mm=cfg.bias_spline_mm,
        n_threads=cfg.registration_threads,
    )


def segment_tissues(cfg: AnatomicalSettings, template: str) -> SegmentTissues:
    """Node of the segmentation."""
    return SegmentTissues(
        template=template,
        template_mm=cfg.template_registration_mm,
        prior_weight=cfg.tissue_prior_weight,
        iterations=cfg.tissue_iterations,
        smoothness=cfg.tissue_smoothness,
        n_threads=cfg.registration_threads,
    )


def extract_brain(cfg: AnatomicalSettings, template: str) -> ExtractBrain:
    """Node of the brain extraction."""
    return ExtractBrain(
        template=template,
        template_mm=cfg.template_registration_mm,
        search=cfg.brain_search,
        n_threads=cfg.registration_threads,
    )
