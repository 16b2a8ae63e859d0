"""The muscle pipeline, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bids_alsmri.bids.query import Scan
from bids_alsmri.bids.stations import Station, list_stations
from bids_alsmri.engine.graph import Graph, Step
from bids_alsmri.interfaces.images import QualityTable
from bids_alsmri.pipelines.muscle.atlases import FEWEST_TO_LEAVE_OUT
from bids_alsmri.pipelines.muscle.interfaces import (
    CompareReaders,
    DivideByBone,
    DrawLeftOut,
    DrawMaps,
    DrawOverview,
    DrawSlices,
    DrawVisits,
    FitDiffusion,
    FuseAtlases,
    GatherReferences,
    LendLabels,
    MapDixon,
    MapT2,
    MeasureMuscles,
    OrderStations,
    PrepareStation,
    ReadStationLabels,
    Reformat,
    SegmentLegs,
)
from bids_alsmri.pipelines.muscle.pipeline import PIPELINE, MuscleSettings, bones_of_chunk
from bids_alsmri.pipelines.muscle.sites import Sites, readers_of, with_partners

Steps = dict[Station, Step]
# joint label fusion weighs labelled stations against each other
FEWEST_ATLASES = 2


def fit(graph: Graph, scan: Scan, cfg: MuscleSettings) -> None:
    """Order stations, divide T2w by bone, fit diffusion, and measure the labelled muscles."""
    stations = with_partners(list_stations(scan, "stations"))
    sites = Sites(scan, stations)
    readers = readers_of(graph.adopted, sites.owners)
    drawn = {s: read_labels(graph, cfg, sites, s, 0) for s in stations if (s, 0) in readers}
    fused = fuse(graph, cfg, sites, drawn)
    labels = {**drawn, **fused}
    dixon = {s: map_dixon(graph, cfg, sites, s) for s in stations if sites.is_dixon(s)}
    legs = {
        s: segment(graph, cfg, sites, s) for s in stations if sites.shows_legs(s) and s not in dixon
    }
    relaxation = {s: map_t2(graph, cfg, sites, s) for s in stations if sites.has_echoes(s)}
    lent = lend(graph, sites, [*dixon, *relaxation], labels, legs)
    found = {
        s: step
        for s, step in {**legs, **dixon}.items()
        if s not in labels and s not in lent and sites.shows_legs(s) and s in sites.owners
    }
    save_labels(graph, sites, found, lent)
    even = {s: prepare(graph, cfg, sites, s, labels) for s in stations if s.suffix == "T2w"}
    relative = {s: divide(graph, cfg, sites, s, even[s], labels, legs) for s in even}
    diffusion = {s: fit_diffusion(graph, cfg, sites, s) for s in stations if s.suffix == "dwi"}
    moved = {s: reformat(graph, cfg, sites, s, relative, labels) for s in diffusion if relative}
    carried = {s for s in moved if s not in labels and any(t in labels for t in relative)}
    sources = sites.sources(drawn, fused, carried, lent, found)
    ordered = order(graph, cfg, sites, sources)
    for station in carried:
        graph.save("labels", moved[station].labels, station=station)
    steps = (diffusion, moved, labels, legs, dixon, relaxation)
    facts = [ordered.facts, *(step.facts for part in steps for step in part.values())]
    if relative:
        gathered = graph.step(
            "gather_references", GatherReferences(), facts=[s.facts for s in relative.values()]
        )
        facts.append(gathered.facts)
    if sources:
        files = label_files({**labels, **lent, **found}, moved, carried)
        signal = {
            "relative": {**relative, **moved},
            "diffusion": diffusion,
            "fat": {**legs, **dixon},
            "relaxation": relaxation,
        }
        measured = measure(graph, cfg, sites, sources, files, signal)
        graph.save("muscles", measured.table)
        graph.figure("regions", measured.figure)
        graph.figure("chart", measured.chart)
        facts.append(measured.facts)
    compare(graph, cfg, sites, readers, drawn, relative)
    quality = graph.step(
        "quality", QualityTable(definitions=str(PIPELINE.folder / "quality.json")), facts=facts
    )
    graph.save("quality", quality.table, facts=quality.facts)
    draw(graph, cfg, sites, {**labels, **found})
    draw_maps(
        graph,
        {
            "relative": [step.relative for step in relative.values()],
            "adc": [step.adc for step in diffusion.values()],
            "fat": [step.fat for step in legs.values()],
            "dixon": [step.fat for step in dixon.values()],
            "t2": [step.t2 for step in relaxation.values()],
        },
    )
    draw_visits(graph, sites)


def apply(graph: Graph, scan: Scan, cfg: MuscleSettings) -> None:
    """Nothing is made again from the fits: muscles are measured on their own stations."""


def order(graph: Graph, cfg: MuscleSettings, sites: Sites, sources: dict[Station, str]) -> Step:
    """Order the stations and compare neighbours."""
    ordered = graph.step(
        "order",
        OrderStations(
            metadata=sites.metadata,
            stations=sites.described,
            sources=[sources.get(s, "none") for s in sites.stations],
            step_mm=cfg.comparison_step_mm,
            most_shift_mm=cfg.most_shift_mm,
            least_overlap_mm=cfg.least_overlap_mm,
        ),
        images=[sites.image_of(s) for s in sites.stations],
    )
    graph.save("stations", ordered.table)
    return ordered


def read_labels(
    graph: Graph, cfg: MuscleSettings, sites: Sites, station: Station, reader: int
) -> Step:
    """Bring drawn labels to the grid of their station."""
    files = readers_of(graph.adopted, [station])[station, reader]
    name = f"labels_{station.key}" + (f"_{reader}" if reader else "")
    read = graph.step(
        name,
        ReadStationLabels(codes=cfg.label_codes, region_list=own_list(cfg)),
        labels=files["labels"],
        table=files.get("labels_table"),
        station=sites.image_of(station),
    )
    if reader == 0:
        graph.save("labels", read.labels, station=station)
        graph.save("labels_table", read.table, station=station)
    return read


def fuse(graph: Graph, cfg: MuscleSettings, sites: Sites, drawn: Steps) -> Steps:
    """Label stations that nobody labelled from labelled ones of other people."""
    fused = {}
    left_out = []
    for station in sites.stations:
        atlases = sites.atlases_of(station, cfg.atlas_dir)
        if station in drawn or len(atlases) < FEWEST_ATLASES:
            continue
        fused[station] = graph.step(
            f"fuse_{station.key}",
            FuseAtlases(
                fusion=cfg.fusion,
                bias=cfg.bias,
                codes=cfg.label_codes,
                region_list=own_list(cfg),
                title=station.title,
                leaves_one_out=cfg.atlas_leave_one_out,
                registration_threads=cfg.atlas_threads,
                # no result depends on it: as many registrations at once as there are processes
                n_threads=min(
                    max(graph.n_procs, graph.n_threads, cfg.atlas_threads),
                    len(atlases) * cfg.atlas_threads,
                ),
            ),
            image=sites.image_of(station),
            atlas_images=[image for image, _ in atlases],
            atlas_labels=[labels for _, labels in atlases],
        )
        graph.save("labels", fused[station].labels, station=station)
        graph.save("labels_table", fused[station].table, station=station)
        if has_left_out(cfg, atlases):
            graph.save("left_out", fused[station].left_out, station=station)
            left_out.append(fused[station].left_out)
    if left_out:
        drawn_out = graph.step("draw_left_out", DrawLeftOut(), tables=left_out)
        graph.figure("left_out", drawn_out.figure)
    return fused


def has_left_out(cfg: MuscleSettings, atlases: Sequence[Any]) -> bool:
    """Whether labelled stations are labelled from each other, too."""
    return cfg.atlas_leave_one_out and len(atlases) >= FEWEST_TO_LEAVE_OUT


def segment(graph: Graph, cfg: MuscleSettings, sites: Sites, station: Station) -> Step:
    """Find compartments and fat of legs."""
    found = graph.step(
        f"segment_{station.key}",
        SegmentLegs(
            title=station.title,
            doubt=sites.doubt_of(station),
            field_order=cfg.field_order,
            least_contrast=cfg.fat_least_contrast,
        ),
        image=station.files[0],
    )
    graph.save("fat", found.fraction, facts=found.reference, station=station)
    return found


def map_dixon(graph: Graph, cfg: MuscleSettings, sites: Sites, station: Station) -> Step:
    """Tell water from fat, and find compartments of legs."""
    found = graph.step(
        f"dixon_{station.key}",
        MapDixon(
            metadata=sites.metadata_of(station),
            parts=sites.parts_of(station),
            title=station.title,
            shows_legs=sites.shows_legs(station),
            field_order=cfg.field_order,
            least_contrast=cfg.fat_least_contrast,
        ),
        images=list(station.files),
    )
    graph.save("dixon", found.fraction, facts=found.reference, station=station)
    return found


def map_t2(graph: Graph, cfg: MuscleSettings, sites: Sites, station: Station) -> Step:
    """Fit the relaxation time of voxels."""
    found = graph.step(
        f"t2_{station.key}",
        MapT2(
            metadata=sites.metadata_of(station),
            title=station.title,
            n_skipped=cfg.t2_skipped_echoes,
        ),
        images=list(station.files),
    )
    graph.save("t2", found.t2, station=station)
    return found


def lend(graph: Graph, sites: Sites, wanting: list[Station], labels: Steps, legs: Steps) -> Steps:
    """Labels for stations of echoes that have none, from those that were labelled or segmented."""
    lent = {}
    for station in wanting:
        known = labels if sites.lenders(station, labels) else {**legs, **labels}
        lenders = sites.lenders(station, known)
        if station in labels or not lenders:
            continue
        lent[station] = graph.step(
            f"lend_{station.key}_{station.suffix}",
            LendLabels(),
            target=sites.image_of(station),
            labels=[known[s].labels for s in lenders],
        )
    return lent


def save_labels(graph: Graph, sites: Sites, found: Steps, lent: Steps) -> None:
    """Keep labels that nobody drew, but for those whose name another station's have."""
    for station, step in found.items():
        graph.save("labels", step.labels, station=station)
        graph.save("labels_table", step.table, station=station)
    for station in lent.keys() & set(sites.owners):
        graph.save("labels", lent[station].labels, station=station)


def prepare(
    graph: Graph, cfg: MuscleSettings, sites: Sites, station: Station, labels: Steps
) -> Step:
    """Take the receive field off a station."""
    return graph.step(
        f"prepare_{station.key}",
        PrepareStation(
            method=cfg.bias_correction,
            order=cfg.bias_order,
            cell_mm=cfg.bias_cell_mm,
            shrink_factor=cfg.bias_shrink_factor,
            iterations=list(cfg.bias_iterations),
            convergence=cfg.bias_convergence,
            spline_mm=cfg.bias_spline_mm,
            n_threads=graph.n_threads,
        ),
        image=sites.image_of(station),
        labels=labels[station].labels if station in labels else None,
    )


def divide(
    graph: Graph,
    cfg: MuscleSettings,
    sites: Sites,
    station: Station,
    even: Step,
    labels: Steps,
    legs: Steps,
) -> Step:
    """Divide a T2w station by its bone."""
    drawn = readers_of(graph.adopted, [station], "bone")
    marrow = [legs[s].labels for s in legs if sites.frame_of(s) == sites.frame_of(station)]
    divided = graph.step(
        f"divide_{station.key}",
        DivideByBone(
            title=station.title,
            bones=bones_of_chunk(cfg.bones, station.chunk),
            region_list=own_list(cfg),
            least_snr=cfg.bone_least_snr,
            most_variation=cfg.bone_most_variation,
        ),
        image=even.image,
        noise=even.noise,
        bone=next((files["bone"] for files in drawn.values()), None),
        labels=labels[station].labels if station in labels else None,
        marrow=marrow or None,
    )
    graph.save("relative", divided.relative, facts=divided.reference, station=station)
    graph.save("bone", divided.bone, station=station)
    return divided


def fit_diffusion(graph: Graph, cfg: MuscleSettings, sites: Sites, station: Station) -> Step:
    """Fit the diffusion coefficient of a station."""
    fitted = graph.step(
        f"diffusion_{station.key}",
        FitDiffusion(
            metadata=sites.metadata_of(station),
            most_scale_difference=cfg.most_scale_difference,
            most_motion_mm=cfg.most_motion_mm,
            fat_most_adc=cfg.fat_most_adc,
            most_unsuppressed=cfg.most_unsuppressed,
            title=station.title,
        ),
        images=list(station.files),
        b_value_files=sites.b_value_files(station),
    )
    graph.save("adc", fitted.adc, station=station)
    return fitted


def reformat(
    graph: Graph,
    cfg: MuscleSettings,
    sites: Sites,
    station: Station,
    relative: Steps,
    labels: Steps,
) -> Step:
    """Reformat relative T2 signal, and labels on it, to the grid of a diffusion station."""
    moved = graph.step(
        f"reformat_{station.key}",
        Reformat(
            frame=sites.frame_of(station),
            frames=[sites.frame_of(s) for s in relative],
            title=station.title,
            most_motion_mm=cfg.most_motion_mm,
        ),
        target=station.files[0],
        relative=[step.relative for step in relative.values()],
        labels=[labels[s].labels if s in labels else "" for s in relative],
    )
    graph.save("relative_on_dwi", moved.relative, station=station)
    graph.save("to_dwi", moved.transform, station=station)
    return moved


def label_files(labels: Steps, moved: Steps, carried: set[Station]) -> dict[Station, Any]:
    """Labels of each station, drawn on it or carried to it."""
    drawn = {station: step.labels for station, step in labels.items()}
    return {**drawn, **{station: moved[station].labels for station in carried}}


def measure(
    graph: Graph,
    cfg: MuscleSettings,
    sites: Sites,
    sources: dict[Station, str],
    files: dict[Station, Any],
    signal: dict[str, Steps],
) -> Step:
    """Measure the muscles of all labelled stations."""
    own = list(sources)
    relative, diffusion, fat = (signal[name] for name in ("relative", "diffusion", "fat"))
    relaxation, protocols = signal["relaxation"], {**diffusion, **fat}
    return graph.step(
        "measure",
        MeasureMuscles(
            stations=sites.measured(own, sources),
            region_list=own_list(cfg),
            has_floor_correction=cfg.noise_floor_correction,
            adc_least_snr=cfg.adc_least_snr,
            fat_least=cfg.fat_least_signal,
            most_displaced_fat=cfg.most_displaced_fat,
            least_voxels=cfg.least_voxels,
            grading={
                "fat_threshold": cfg.fat_threshold,
                "traces": cfg.mercuri_traces,
                "patches": cfg.mercuri_patches,
                "confluent": cfg.mercuri_confluent,
            },
        ),
        labels=[files[s] for s in own],
        relative=[relative[s].relative if s in relative else "" for s in own],
        adc=[diffusion[s].adc if s in diffusion else "" for s in own],
        series=[diffusion[s].series if s in diffusion else "" for s in own],
        protocols=[protocols[s].protocol if s in protocols else "" for s in own],
        fat=[fat[s].fat if s in fat else "" for s in own],
        t2=[relaxation[s].t2 if s in relaxation else "" for s in own],
    )


def compare(
    graph: Graph,
    cfg: MuscleSettings,
    sites: Sites,
    readers: Any,
    labels: Steps,
    relative: Steps,
) -> None:
    """Compare two readers where a second dataset has labels of the same stations."""
    both = [s for s in labels if (s, 1) in readers]
    if not both:
        return
    second = {s: read_labels(graph, cfg, sites, s, 1) for s in both}
    compared = graph.step(
        "compare_readers",
        CompareReaders(
            stations=sites.measured(both, dict.fromkeys(both, "drawn")), region_list=own_list(cfg)
        ),
        first=[labels[s].labels for s in both],
        second=[second[s].labels for s in both],
        relative=[relative[s].relative if s in relative else "" for s in both],
    )
    graph.save("raters", compared.table)
    graph.figure("raters", compared.figure)


def draw_visits(graph: Graph, sites: Sites) -> None:
    """Draw a leg at the first visit and at this, where there was an earlier one."""
    first = {s: found for s in sites.shown() if (found := sites.first_visit(s)) is not None}
    if not first:
        return
    drawn = graph.step(
        "draw_visits",
        DrawVisits(
            first_names=[f"ses-{first[s][0]}: {s.title}" for s in first],
            names=[f"ses-{sites.scan.session}: {s.title}" for s in first],
        ),
        first=[first[s][1] for s in first],
        images=[sites.image_of(s) for s in first],
    )
    graph.figure("visits", drawn.figure)


def draw(graph: Graph, cfg: MuscleSettings, sites: Sites, labels: Steps) -> None:
    """Draw the stations at their places, and slices with the labels."""
    shown = sites.shown()
    overview = graph.step(
        "draw_overview",
        DrawOverview(titles=[s.title for s in shown]),
        images=[sites.image_of(s) for s in shown],
        labels=[labels[s].labels if s in labels else "" for s in shown],
    )
    graph.figure("overview", overview.figure)
    labelled = [s for s in sites.stations if s in labels]
    if labelled:
        slices = graph.step(
            "draw_slices",
            DrawSlices(titles=[s.title for s in labelled], region_list=own_list(cfg)),
            images=[sites.image_of(s) for s in labelled],
            labels=[labels[s].labels for s in labelled],
        )
        graph.figure("slices", slices.figure)


def draw_maps(graph: Graph, maps: dict[str, list[Any]]) -> None:
    """Draw what was measured in every voxel."""
    given = [(kind, path) for kind, paths in maps.items() for path in paths]
    if given:
        drawn = graph.step(
            "draw_maps", DrawMaps(kinds=[kind for kind, _ in given]), maps=[p for _, p in given]
        )
        graph.figure("maps", drawn.figure)


def own_list(cfg: MuscleSettings) -> str:
    """File of the user's own list of regions; empty for ours."""
    return "" if cfg.region_list is None else str(cfg.region_list)
