"""How well participants' tracts come together before the skeleton, on brains of known shape.

Run as ``python benchmarks/skeleton.py FOLDER [--participants N] [--distortion-mm D]``. Simulates
T1w images and FA maps of 2 mm in FOLDER (what is there is kept): heads of random shape, FA with
noise, a bright rim, tract-wise differences between persons and, as an echo-planar image has it, a
smooth displacement along y against the T1w. The T1w is registered to the template as the
participant level does; FA follows it and is refined with 0, 1, 2, ... rounds as the group level
does. Prints three markdown tables: refinement, edge of the eroded FA, cost of the steps.

"Spread" is the distance between the places in true anatomy that a voxel of white matter shows in
one participant and on average over all; "drift" that between this average and the voxel's own
place in the template; "overlap" the mean Dice of FA above 0.3 over pairs of participants.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

# Read by ITK once, when antspyx is first used.
os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = "1"

import nibabel as nib
import nipype.pipeline.engine as pe
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bids_alsmri.comparisons.skeleton import (
    MAPS,
    ParticipantMaps,
    SkeletonChoices,
    SkeletonNodes,
    build_skeleton,
)
from bids_alsmri.interfaces.base import write_image
from bids_alsmri.interfaces.displacements import read_displacement
from bids_alsmri.interfaces.images import as_stages
from bids_alsmri.interfaces.registration import compose_to_field, register, write_linear
from bids_alsmri.numerics.anatomy import dice, dilate_mm
from bids_alsmri.numerics.fields import interpolate_within
from bids_alsmri.numerics.resampling import grid_points
from bids_alsmri.numerics.skeleton import erode_fa
from bids_alsmri.phantom.anat import simulate
from bids_alsmri.phantom.anatomy import Anatomy
from bids_alsmri.phantom.deformation import Deformation, draw_deformation
from bids_alsmri.phantom.head import build_head, sample_head, sample_map
from bids_alsmri.phantom.records import Participant, PhantomSettings
from bids_alsmri.phantom.tracts import build_tracts
from bids_alsmri.pipelines.anatomical.pipeline import AnatomicalSettings
from bids_alsmri.spaces.templates import EMBEDDED_TEMPLATE, Template, get_template

VOXEL_MM = 2.0
NOISE_FA, RIM_FA, PERSON_SD = 0.03, 0.25, 0.06
GREY_FA, FLUID_FA = 0.12, 0.05
WHITE_FA = 0.3

Array = NDArray[np.float64]


def syn(
    iterations: Sequence[int],
    shrink_factors: Sequence[int],
    smoothing_mm: Sequence[float],
    *,
    metric: str = "cc",
    parameter: int = 2,
    step: float = 0.2,
) -> tuple[dict[str, Any], ...]:
    """The one stage of a schedule."""
    return (
        {
            "transform": "syn",
            "metric": metric,
            "metric_parameter": parameter,
            "sampling": 1.0,
            "gradient_step": step,
            "iterations": list(iterations),
            "shrink_factors": list(shrink_factors),
            "smoothing_mm": list(smoothing_mm),
            "convergence": 1e-6,
            "convergence_window": 10,
            "update_smoothing": 3.0,
            "total_smoothing": 0.0,
        },
    )


SCHEDULES = {
    "CC2 30": syn((30,), (2,), (1.7,)),
    "CC2 30x0": syn((30, 0), (2, 1), (1.7, 0.0)),
    "CC2 30x10": syn((30, 10), (2, 1), (1.7, 0.0)),
    "CC2 40x20x0": syn((40, 20, 0), (4, 2, 1), (3.4, 1.7, 0.0)),
    "MI 30": syn((30,), (2,), (1.7,), metric="mi", parameter=32),
}


@dataclass(frozen=True)
class Distortion:
    """Displacement along y that an echo-planar image has: a sum of plane waves."""

    wave_numbers: Array
    amplitudes_mm: Array
    phases: Array

    def moved(self, points_mm: Array) -> Array:
        """Places of the head that the image shows at these points, in mm."""
        shift = np.sin(points_mm @ self.wave_numbers.T + self.phases) @ self.amplitudes_mm
        there = points_mm.copy()
        there[..., 1] += shift
        return there


@dataclass(frozen=True)
class Person:
    """A participant: files, and the truth."""

    maps: ParticipantMaps
    shape: Deformation
    distortion: Distortion

    def true_places(self, points_mm: Array) -> Array:
        """Places in the template of what the FA map shows at these points, in mm."""
        return self.shape.to_template(self.distortion.moved(points_mm))


def draw_distortion(rng: np.random.Generator, rms_mm: float) -> Distortion:
    """Six waves of 40 to 120 mm with a given root mean square."""
    directions = rng.normal(size=(6, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    numbers = directions * (2 * np.pi / rng.uniform(40, 120, 6))[:, None]
    return Distortion(numbers, np.full(6, rms_mm / np.sqrt(3)), rng.uniform(0, 2 * np.pi, 6))


def register_t1w(number: int, shape: Deformation, rng: np.random.Generator, folder: Path) -> Path:
    """Transform that the participant level finds for this head's T1w."""
    found = folder / "t1_Composite.h5"
    mask_path = folder / "brain.nii.gz"
    if found.is_file() and mask_path.is_file():
        return found
    person = Participant("01", "hc", "n/a", 0, 50.0, "F", "R", "n/a", None, None, 0.0)
    scan = simulate(person, Anatomy(build_head(), shape), PhantomSettings(t1w_mm=2.0), rng)
    images = {image.tail: image for image in (*scan.raw, *scan.truth)}
    mask = images["desc-brain_mask"].values > 0
    t1w = images["T1w"]
    moving = folder / "t1w.nii.gz"
    write_image((t1w.values * mask).astype(np.float32), t1w.affine, moving)
    write_image(mask, t1w.affine, mask_path)
    if found.is_file():
        return found
    cfg = AnatomicalSettings()
    template = get_template(EMBEDDED_TEMPLATE, cfg.template_registration_mm)
    rim = dilate_mm(template.mask.get_fdata() > 0, cfg.template_rim_mm, np.full(3, 2.0))
    write_image(rim, template.mask.affine, folder / "rim.nii.gz")
    affine, syn_stage = cfg.template_stages
    return register(
        template.save(folder)["t1w"],
        moving,
        stages=as_stages([{**affine, "transform": "rigid"}, affine, syn_stage]),
        winsor_percentiles=cfg.winsor_percentiles,
        out_prefix=folder / "t1_",
        seed=number,
        n_threads=1,
        fixed_mask=folder / "rim.nii.gz",
    ).forward


def fa_at(places: Array) -> tuple[Array, Array]:
    """FA without noise, and brain, at places of the template."""
    tracts = build_tracts()
    tissue = sample_head(build_head(), places)
    white = sample_map(tracts.fa, tracts.to_world, places)
    fa = tissue.white * white + tissue.grey * GREY_FA + tissue.fluid * FLUID_FA
    return np.asarray(fa, np.float64), np.asarray(tissue.brain, np.float64)


def make_person(number: int, distortion_mm: float, root: Path) -> Person:
    """Simulate one participant, or take what is there."""
    folder = root / f"{number:02d}"
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(100 + number)
    shape = draw_deformation(rng)
    transform = register_t1w(number, shape, rng, folder)
    rng = np.random.default_rng(500 + number)
    distortion = draw_distortion(rng, distortion_mm)
    brain = nib.load(folder / "brain.nii.gz")
    inside = nib.affines.apply_affine(brain.affine, np.argwhere(brain.get_fdata() > 0))
    low, high = inside.min(axis=0) - 10.0, inside.max(axis=0) + 10.0
    grid = tuple(int(n) for n in np.ceil((high - low) / VOXEL_MM))
    affine = np.diag([VOXEL_MM] * 3 + [1.0])
    affine[:3, 3] = low
    points = grid_points(grid, affine, np.ones(grid, bool))
    fa, is_brain = fa_at(shape.to_template(distortion.moved(points)))
    mask = is_brain.reshape(grid) > 0.5
    person_map = ndimage.gaussian_filter(rng.normal(size=grid), 8)
    fa = fa.reshape(grid) * (1 + PERSON_SD * person_map / person_map.std())
    fa += NOISE_FA * rng.normal(size=grid)
    rim = mask & ~ndimage.binary_erosion(mask, np.ones((3, 3, 3)))
    fa[rim] += RIM_FA * rng.random(int(rim.sum()))
    fa = np.where(mask, np.clip(np.abs(fa), 0, 1), 0)
    # functions of FA, so that the steps have four maps to carry
    values = {"fa": fa, "md": (1.1 - 0.5 * fa) * 1e-3, "ad": (1.0 + fa) * 1e-3}
    values["rd"] = (3 * values["md"] - values["ad"]) / 2
    paths = {name: folder / f"{name}_{distortion_mm:g}.nii.gz" for name in (*MAPS, "mask")}
    for name, path in paths.items():
        write_image(mask if name == "mask" else values[name], affine, path, space="aligned")
    maps = ParticipantMaps(f"sub-{number:02d}", transforms=(transform,), **paths)
    return Person(maps, shape, distortion)


CHOICES = SkeletonChoices(
    template=EMBEDDED_TEMPLATE,
    resolution_mm=2.0,
    least_share=0.5,
    refinement_iterations=0,
    refinement_resolution_mm=2.0,
    refinement_stages=SCHEDULES["CC2 40x20x0"],
    winsor_percentiles=(0.0, 100.0),
    registration_threads=1,
    threshold_fa=0.2,
    most_removed_share=0.02,
    weight_sd_voxels=10.0,
    seed=1,
)


def run(people: Sequence[Person], choices: SkeletonChoices, folder: Path) -> dict[str, Any]:
    """Run the workflow; its results by name. Steps that an earlier run has done are kept."""
    workflow = pe.Workflow("group", base_dir=str(folder))
    workflow.config["execution"] = {
        "crashdump_dir": str(folder),
        "hash_method": "content",
        "remove_unnecessary_outputs": "false",
    }
    nodes = build_skeleton(workflow, [p.maps for p in people], choices, fa_target=None)
    done = {node.fullname: node for node in workflow.run().nodes()}

    def path(source: tuple[pe.Node, str]) -> Path:
        return Path(getattr(done[source[0].fullname].result.outputs, source[1]))

    return _results(nodes, path)


def _results(nodes: SkeletonNodes, path: Any) -> dict[str, Any]:
    return {
        "warps": {label: [path(w) for w in warps] for label, warps in nodes.warps.items()},
        "fa": [path(maps["fa"]) for maps in nodes.maps.values()],
        "stack": path(nodes.stacks["fa"]),
        "skeleton_mask": path((nodes.group, "skeleton_mask")),
    }


def load(path: Path) -> Array:
    """Values of an image."""
    return np.asarray(nib.load(path).dataobj, np.float64)


@dataclass(frozen=True)
class Alignment:
    """Row of the table of refinement."""

    spread_mm: float
    spread_95_mm: float
    drift_mm: float
    overlap: float
    sd_maps: float
    sd_projected: float


def measure_alignment(
    people: Sequence[Person], template: Template, found: dict[str, Any], folder: Path
) -> Alignment:
    """How well participants agree in white matter, and how far they are from the template."""
    white = np.asarray(template.wm.dataobj) > 0.5
    affine = np.asarray(template.wm.affine, np.float64)
    grid = folder / "grid.nii"
    write_image(np.asarray(template.mask.dataobj) > 0, affine, grid, space="mni152")
    points = grid_points(white.shape, affine, white)
    places = []
    for person in people:
        chain = [*found["warps"][person.maps.label], *person.maps.transforms]
        field = compose_to_field(grid, chain, folder / "way.nii", n_threads=1)
        places.append(person.true_places(points + read_displacement(field)[0][white]))
    mean = np.mean(places, axis=0)
    spread = np.linalg.norm(np.array(places) - mean, axis=-1)
    maps = [load(path) for path in found["fa"]]
    pairs = combinations([fa > WHITE_FA for fa in maps], 2)
    on_skeleton = load(found["skeleton_mask"]) > 0
    return Alignment(
        spread_mm=float(spread.mean()),
        spread_95_mm=float(np.percentile(spread, 95)),
        drift_mm=float(np.linalg.norm(mean - points, axis=-1).mean()),
        overlap=float(np.mean([dice(a, b) for a, b in pairs])),
        sd_maps=float(np.std([fa[on_skeleton] for fa in maps], axis=0, ddof=1).mean()),
        sd_projected=float(np.load(found["stack"]).std(axis=0, ddof=1).mean()),
    )


def time_registration(found: dict[str, Any], stages: Any, folder: Path) -> float:
    """Processor time of one participant's registration to another's FA, in s."""
    mask = folder / "grid.nii"
    identity = write_linear(np.eye(4), folder / "identity.txt")
    start = time.process_time()
    register(
        found["fa"][0],
        found["fa"][1],
        stages=as_stages(stages),
        winsor_percentiles=CHOICES.winsor_percentiles,
        out_prefix=folder / "timed_",
        seed=1,
        n_threads=1,
        initial=identity,
        fixed_mask=mask,
    )
    return time.process_time() - start


def print_refinement(
    people: Sequence[Person], schedules: Sequence[str], most_rounds: int, folder: Path
) -> None:
    """First table: misalignment by schedule and number of rounds."""
    template = get_template(EMBEDDED_TEMPLATE, CHOICES.refinement_resolution_mm)
    names = ("rounds", "spread mm", "95 %", "drift mm", "overlap", "SD of FA", "projected", "CPU s")
    print("| schedule | " + " | ".join(names) + " |\n" + "|---" * (len(names) + 1) + "|")
    for name in schedules:
        work = folder / "work" / name.replace(" ", "_")
        work.mkdir(parents=True, exist_ok=True)
        for rounds in range(most_rounds + 1):
            if rounds == 0 and name != schedules[0]:
                continue
            choices = replace(
                CHOICES, refinement_iterations=rounds, refinement_stages=SCHEDULES[name]
            )
            found = run(people, choices, work)
            row = measure_alignment(people, template, found, work)
            seconds = time_registration(found, SCHEDULES[name], work) if rounds == 1 else np.nan
            print(
                f"| {name if rounds else 'none'} | {rounds} | {row.spread_mm:.2f} "
                f"| {row.spread_95_mm:.2f} | {row.drift_mm:.2f} | {row.overlap:.3f} "
                f"| {row.sd_maps:.4f} | {row.sd_projected:.4f} | {seconds:.0f} |",
                flush=True,
            )


def print_edge(person: Person, folder: Path) -> None:
    """Second table: what becomes of the rim, by the way in which eroded FA is interpolated."""
    fa_image = nib.load(person.maps.fa)
    fa, mask = fa_image.get_fdata(), load(person.maps.mask) > 0
    eroded = erode_fa(fa, mask)
    inside = eroded > 0
    template = get_template(EMBEDDED_TEMPLATE, 1.0)
    region = np.asarray(template.mask.dataobj) > 0
    affine = np.asarray(template.mask.affine, np.float64)
    grid = folder / "fine.nii"
    write_image(region, affine, grid, space="mni152")
    field = compose_to_field(grid, person.maps.transforms, folder / "way.nii", n_threads=1)
    points = grid_points(region.shape, affine, region) + read_displacement(field)[0][region]
    truth, _ = fa_at(person.true_places(points))
    everywhere = np.ones(fa.shape, bool)

    def at(values: Array, within: NDArray[np.bool_], share: float) -> tuple[Array, Any]:
        found, is_inside = interpolate_within(
            values[..., None], within, fa_image.affine, points, least_share=share
        )
        return found[:, 0].astype(np.float64), is_inside

    share, _ = at(inside.astype(float), everywhere, 1e-3)
    rows = {
        "zeros outside": (at(eroded, everywhere, 1e-3)[0], share > 0),
        "zeros outside, share 0.5": (at(eroded, everywhere, 1e-3)[0], share >= 0.5),
        "not eroded, share of the eroded mask 0.5": (at(fa, everywhere, 1e-3)[0], share >= 0.5),
        "within the mask, share 0.25": at(eroded, inside, 0.25),
        "within the mask, share 0.5": at(eroded, inside, 0.5),
        "within the mask, share 1": at(eroded, inside, 1.0),
    }
    print("\n| interpolation | voxels | rim | bias | RMS error |\n|---|---:|---:|---:|---:|")
    for name, (values, is_kept) in rows.items():
        # where not all neighbours lie in the eroded mask
        rim = is_kept & (share < 1 - 1e-6)
        error = (values - truth)[rim] if rim.any() else np.array([np.nan])
        print(
            f"| {name} | {is_kept.sum()} | {rim.sum()} | {error.mean():+.3f} "
            f"| {np.sqrt((error**2).mean()):.3f} |",
            flush=True,
        )


def print_cost(people: Sequence[Person], folder: Path) -> None:
    """Third table: wall time of the steps at the map's voxel size of 1 mm."""
    work = folder / "work" / "fine"
    workflow = pe.Workflow("fine", base_dir=str(work))
    workflow.config["execution"] = {
        "crashdump_dir": str(folder),
        "remove_unnecessary_outputs": "false",
    }
    choices = replace(CHOICES, resolution_mm=1.0)
    build_skeleton(workflow, [p.maps for p in people[:2]], choices, fa_target=None)
    print("\n| step at 1 mm | s |\n|---|---:|")
    for node in workflow.run().nodes():
        if type(node.interface).__name__ != "Merge":
            print(f"| {node.name} | {node.result.runtime.duration:.1f} |", flush=True)
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(f"\nPeak memory of this process: {peak_gb:.1f} GB.")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the cohort and the work are kept")
    parser.add_argument("--participants", type=int, default=6)
    parser.add_argument("--distortion-mm", type=float, default=1.5, help="root mean square")
    parser.add_argument("--rounds", type=int, default=3, help="most rounds")
    parser.add_argument("--schedules", default=",".join(SCHEDULES), help="names, with commas")
    parser.add_argument("--tables", default="refinement,edge,cost", help="names, with commas")
    chosen = parser.parse_args()
    people = [
        make_person(number, chosen.distortion_mm, chosen.folder)
        for number in range(chosen.participants)
    ]
    work = chosen.folder / f"distortion-{chosen.distortion_mm:g}"
    work.mkdir(exist_ok=True)
    tables = chosen.tables.split(",")
    if "refinement" in tables:
        print_refinement(people, chosen.schedules.split(","), chosen.rounds, work)
    if "edge" in tables:
        print_edge(people[0], work)
    if "cost" in tables:
        print_cost(people, work)


if __name__ == "__main__":
    main()
