"""Recovery of the deep layer in the motor areas of simulated heads, with what a scan gets wrong.

``python -P benchmarks/cortex_heads.py [--heads 2] [--repeats 6]`` prints tables; the numbers of
docs/benchmarks.md are their output. Each repeat draws noise, the error of the borders of the T1w's
tissues and of the registration anew; the head, its slab and its fields stay, which is what takes
long to simulate. Both groups of paper 2 are measured in the same heads.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from bids_alsmri.interfaces.base import ImageData
from bids_alsmri.numerics.echo_decay import combine_echoes
from bids_alsmri.numerics.ribbon import bias_from_white_matter
from bids_alsmri.phantom import cortex7t
from bids_alsmri.phantom.anat import bias_field, rician
from bids_alsmri.phantom.anatomy import Anatomy
from bids_alsmri.phantom.cohort import draw_cohort
from bids_alsmri.phantom.cortex_slab import displaced
from bids_alsmri.phantom.deformation import draw_deformation
from bids_alsmri.phantom.geometry import Grid
from bids_alsmri.phantom.records import Cortex7tSettings as SlabOfHead
from bids_alsmri.phantom.records import PhantomSettings
from bids_alsmri.pipelines.cortex7t import slab
from bids_alsmri.pipelines.cortex7t.pipeline import Cortex7tSettings
from bids_alsmri.spaces.atlases import draw_areas
from bids_alsmri.spaces.templates import get_template

Floats = NDArray[np.float64]

RIBBON_SD_MM, REGISTRATION_MM = 0.3, 0.5
SNR = 20.0
# signal falls to 60 % from the hand knobs to the precuneus (world of the slab, mm, to the back)
TRANSMIT_LEFT, FROM_Y_MM, TO_Y_MM = 0.6, -22.0, -60.0
RECEIVE_BIAS = 0.3
MARGIN_MM = 12.0  # of the T1w about the slab
KINDS = ("hc", "fast")


@dataclass(frozen=True)
class SimulatedHead:
    """One head: slab of both groups without noise, its fields, the T1w's tissues and areas.

    Parameters
    ----------
    grid : Grid
        Of the slab.
    to_t1w : (4, 4) array
        World of the slab to that of the T1w, in mm.
    clean : dict of (E, X, Y, Z) array
        Echoes by kind of participant, fields included.
    distance_mm : (X, Y, Z) array
        True distance from white matter.
    tissues : dict of ImageData
        Shares of ``wm`` and ``gm`` on voxels of 1 mm.
    areas : (X, Y, Z) array of int
        Motor areas and reference.
    deep_mm, normalised : dict of float
        Truth by kind: thickness, and signal of the deep over that of the superficial layer.
    sigma : float
        Noise of one channel.
    """

    grid: Grid
    to_t1w: Floats
    clean: Mapping[str, NDArray[np.float32]]
    distance_mm: NDArray[np.float32]
    tissues: Mapping[str, ImageData]
    areas: NDArray[np.int16]
    deep_mm: Mapping[str, float]
    normalised: Mapping[str, float]
    sigma: float


def build(number: int) -> SimulatedHead:
    """Simulate one head, numbered from 0."""
    protocol = SlabOfHead(snr=0.0, bias=0.0, transmit_drop=0.0)
    settings = replace(
        PhantomSettings(seed=number, modalities=("cortex7t",)),
        cortex7t=protocol,
        determinant="positive",
    )
    head = cortex7t.build_thick_head(protocol.cortex_mm, 0.0)
    anatomy = Anatomy(head, draw_deformation(np.random.default_rng([number, 1])))
    grid = cortex7t.slab_grid(protocol)
    clean, deep_mm, normalised, sigma = {}, {}, {}, 0.0
    rng = np.random.default_rng([number, 3])
    points_y = grid.points_mm()[..., 1]
    share = np.clip((FROM_Y_MM - points_y) / (FROM_Y_MM - TO_Y_MM), 0.0, 1.0)
    field = bias_field(grid, rng, RECEIVE_BIAS) * (1.0 - (1.0 - TRANSMIT_LEFT) * share)
    for kind in KINDS:
        person = draw_cohort((kind,), seed=number)[0]
        done = cortex7t.simulate(person, anatomy, settings, np.random.default_rng([number, 2]))
        clean[kind] = np.stack([i.values for i in done.raw]) * field.astype(np.float32)
        cortex = cortex7t.cortex_of(person, settings.effect_scale)
        deep_mm[kind] = cortex.deep_mm
        layers = np.array([cortex.deep_mm / 2, cortex.deep_mm + 0.5])
        deep, superficial = combine_echoes(
            [cortex.signal(layers, t) for t in protocol.echo_times_ms]
        )
        normalised[kind] = float(deep / superficial)
        first_ms, rate = protocol.echo_times_ms[0], cortex.superficial_r2s
        sigma = cortex7t.SIGNAL_OF_CORTEX * float(np.exp(-1e-3 * first_ms * rate)) / SNR
    truth = done.truth[0]
    pose = np.eye(4)
    pose[:3] = np.array(truth.tables["acq-M1_desc-pose_stats"].rows, dtype=float)
    to_t1w = np.linalg.inv(pose)
    return SimulatedHead(
        grid,
        to_t1w,
        clean,
        truth.values.astype(np.float32),
        _tissues(anatomy, grid, to_t1w),
        _areas(anatomy, grid, to_t1w),
        deep_mm,
        normalised,
        sigma,
    )


def _tissues(anatomy: Anatomy, grid: Grid, to_t1w: Floats) -> dict[str, ImageData]:
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in grid.shape])).reshape(3, -1).T
    world = corners @ (to_t1w @ grid.affine)[:3, :3].T + (to_t1w @ grid.affine)[:3, 3]
    low, high = world.min(axis=0) - MARGIN_MM, world.max(axis=0) + MARGIN_MM
    affine = np.eye(4)
    affine[:3, 3] = low
    i, j, k = np.ceil(high - low).astype(int).tolist()
    tissue = anatomy.sample_grid(Grid((i, j, k), affine), np.eye(4))
    return {
        name: ImageData(values, affine, (1.0, 1.0, 1.0), Path(name))
        for name, values in (("wm", tissue.white), ("gm", tissue.grey))
    }


def _areas(anatomy: Anatomy, grid: Grid, to_t1w: Floats) -> NDArray[np.int16]:
    atlas = draw_areas(slab.measured_areas(), get_template("MNI152NLin2009aSym", 1.0))
    to_atlas = np.linalg.inv(atlas.affine)
    labels = np.zeros(grid.shape, np.int16)
    for first in range(0, grid.shape[0], 32):
        points = grid.points_mm(first, min(first + 32, grid.shape[0]))
        template = anatomy.deformation.to_template(points @ to_t1w[:3, :3].T + to_t1w[:3, 3])
        place = np.moveaxis(template @ to_atlas[:3, :3].T + to_atlas[:3, 3], -1, 0)
        labels[first : first + 32] = ndimage.map_coordinates(atlas.labels, place, order=0)
    edges = np.linalg.norm(grid.affine[:3, :3], axis=0)
    return slab.spread_labels(labels, edges.tolist(), Cortex7tSettings().area_reach_mm)


def measured(head: SimulatedHead, kind: str, rng: np.random.Generator) -> pd.DataFrame:
    """Rows of all areas of one repeat, in both modes of the receive field."""
    cfg = Cortex7tSettings()
    edges = np.linalg.norm(head.grid.affine[:3, :3], axis=0)
    combined = combine_echoes(np.stack([rician(e, head.sigma, rng) for e in head.clean[kind]]))
    way = rng.normal(size=3)
    off = np.eye(4)
    off[:3, 3] = REGISTRATION_MM * way / np.linalg.norm(way)
    wm = head.tissues["wm"]
    parts = (wm.data, wm.data + head.tissues["gm"].data)
    white, brain = (displaced(part, 1.0, RIBBON_SD_MM, rng) for part in parts)
    tissues = {
        "wm": replace(wm, data=white),
        "gm": replace(wm, data=np.maximum(brain - white, 0.0)),
    }
    ribbon = slab.find_ribbon(
        combined.shape,
        head.grid.affine,
        off @ head.to_t1w,
        tissues,
        lattice_mm=cfg.ribbon_mm,
        smoothing_mm=cfg.ribbon_smoothing_mm,
        normal_smoothing_mm=cfg.normal_smoothing_mm,
    )
    field = bias_from_white_matter(
        combined,
        ribbon.white_mm,
        edges,
        inset_mm=cfg.receive_inset_mm,
        fwhm_mm=cfg.receive_fwhm_mm,
    )
    even = combined / field
    refined, _ = slab.refined_ribbon(even, ribbon, edges.tolist(), cfg.refining)
    tables = []
    for mode, image, borders in (("best", even, refined), ("paper", combined, ribbon)):
        results = slab.measure_areas(
            np.stack([image, np.zeros_like(image)]),
            borders,
            head.areas,
            head.grid.affine,
            spacing_mm=cfg.profile_spacing_mm,
            least_profiles=cfg.least_profiles,
            aligning=cfg.aligning,
            layering={**cfg.layering, "n_bootstrap": 100},
            doubting=cfg.doubting,
            seed=int(rng.integers(2**31)),
        )
        rows = slab.rows_of_areas(
            results,
            least_profiles=cfg.least_profiles,
            may_be_own=mode == "best",
            most_field_left=cfg.most_field_left,
        )
        tables.append(pd.DataFrame(rows).assign(mode=mode))
    return pd.concat(tables)


def summarised(table: pd.DataFrame) -> None:
    """Print thickness and normalised signal over repeats of area means."""
    keys = ["mode", "kind", "head", "side", "region", "repeat"]
    values = table.pivot_table(index=keys, columns="measure", values="value", dropna=False)
    for name in ("true_mm", "true_ratio"):
        values[name] = table.groupby(keys)[name].first()
    normalised = table[table["measure"] == "deep_normalised"].set_index(keys)["note"]
    values["note"] = normalised
    values = values[values["profiles_used"] > 0].reset_index()
    values = values[values["region"] != slab.REFERENCE]
    values["error"] = values["deep_thickness"] - values["true_mm"]
    print(
        "| mode | true (mm) | areas | told | bias (mm) | SD (mm) | largest of one area: bias | SD |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for (mode, true_mm), rows in values.groupby(["mode", "true_mm"]):
        error = rows.groupby(["head", "side", "region"])["error"]
        told = rows["error"].count()
        print(
            f"| {mode} | {true_mm:g} | {error.ngroups} | {told} of {len(rows)} | "
            f"{rows['error'].mean():+.3f} | {np.sqrt(error.var().mean()):.3f} | "
            f"{error.mean().abs().max():.2f} | {error.std().max():.2f} |"
        )
    print()
    print("| mode | normalised by the precuneus | within 5 % | doubted | neither | largest error |")
    print("|---|---|---|---|---|---|")
    values = values[values["note"].str.contains("superficial " + slab.REFERENCE)]
    for mode, rows in values.groupby("mode"):
        off = (rows["deep_normalised"] / rows["true_ratio"] - 1.0).abs()
        known, doubted = off.notna(), rows["note"].str.contains("doubtful")
        print(
            f"| {mode} | {known.sum()} | {(off <= 0.05).sum()} | {(known & doubted).sum()} | "
            f"{((off > 0.05) & ~doubted).sum()} | {off.max():.3f} |"
        )


def main() -> None:
    """Measure all heads and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=6, help="per head and group")
    parser.add_argument("--out", type=Path, help="TSV of every row")
    given = parser.parse_args()
    tables = []
    for number in range(given.heads):
        start = time.process_time()
        head = build(number)
        print(f"head {number}: {time.process_time() - start:.0f} s", flush=True)
        for repeat in range(given.repeats):
            for kind in KINDS:
                start = time.process_time()
                rng = np.random.default_rng([number, repeat, KINDS.index(kind)])
                tables.append(
                    measured(head, kind, rng).assign(
                        head=number,
                        repeat=repeat,
                        kind=kind,
                        true_mm=head.deep_mm[kind],
                        true_ratio=head.normalised[kind],
                    )
                )
                print(f"repeat {repeat} {kind}: {time.process_time() - start:.0f} s", flush=True)
                if given.out:
                    pd.concat(tables).to_csv(given.out, sep="\t", index=False)
    summarised(pd.concat(tables))


if __name__ == "__main__":
    main()
