"""Recovery of the deep layer of the cortex on simulated slabs, by tilt and contrast.

``python -P benchmarks/cortex.py [--repeats 6] [--parts recovery,missing,depths,heads]`` prints
tables; the numbers of docs/benchmarks.md are their output. The measurement gets a ribbon displaced
by 0.3 mm at each border and shifted by 0.5 mm.
``missing`` are slabs without a deep layer or with too
little above it, ``depths`` closed forms of cortical depth, ``heads`` areas of simulated heads.
Without ``-P`` the benchmark of coverage beside it stands for the package that numba looks for.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from bids_alsmri.interfaces.base import read_image
from bids_alsmri.numerics.cortical_layers import fit_layers
from bids_alsmri.numerics.cortical_profiles import (
    align_profiles,
    place_profiles,
    surface_normals,
)
from bids_alsmri.numerics.echo_decay import combine_echoes
from bids_alsmri.numerics.laminar import cortical_depth
from bids_alsmri.numerics.ribbon import bias_from_white_matter
from bids_alsmri.phantom.cortex_layers import Fold, LayeredCortex
from bids_alsmri.phantom.cortex_slab import SlabSettings, contrast_echo, simulate_slab
from bids_alsmri.pipelines.cortex7t import slab
from bids_alsmri.pipelines.cortex7t.pipeline import Cortex7tSettings
from bids_alsmri.pipelines.cortex7t.slab import without_doubtful
from bids_alsmri.spaces.atlases import draw_areas
from bids_alsmri.spaces.templates import get_template

SHAPE = (128, 104, 4)
RIM = 10
# thickness (mm), tilt (degrees), contrast of the deep layer and of white matter
CASES = (
    *((deep, tilt, 0.10, 0.04) for deep in (2.0, 1.5) for tilt in (0.0, 15.0, 20.0, 25.0)),
    *((2.0, 10.0, contrast, 0.04) for contrast in (0.05, 0.15)),
    *((2.0, 10.0, 0.10, white) for white in (0.0, 0.02, 0.03, 0.05)),
)


def measured_mm(
    deep_mm: float,
    tilt_deg: float,
    contrast: float,
    white: float,
    seed: int,
    *,
    cortex_mm: float = 3.6,
) -> float:
    """Thickness that is found in one slab, in mm; NaN where none is told."""
    cfg, rng = Cortex7tSettings(), np.random.default_rng(seed)
    scan = SlabSettings(shape=SHAPE, tilt_deg=tilt_deg)
    cortex = LayeredCortex(
        cortex_mm=cortex_mm, deep_mm=deep_mm, deep_contrast=contrast, white_contrast=white
    )
    simulated = simulate_slab(cortex, Fold(), scan, rng, samples=(2, 2, 8))
    mask = np.zeros(SHAPE, np.bool_)
    mask[RIM:-RIM, RIM:-RIM] = True
    normals = surface_normals(
        simulated.white_distance_mm, scan.voxel_mm, smoothing_mm=cfg.normal_smoothing_mm
    )
    places = place_profiles(
        simulated.white_distance_mm, normals, mask, scan.voxel_mm, spacing_mm=cfg.profile_spacing_mm
    )
    aligned = align_profiles(
        contrast_echo(simulated.echoes, scan.echo_times_ms)[None],
        simulated.white_distance_mm,
        simulated.outer_distance_mm,
        places,
        scan.voxel_mm,
        **cfg.aligning,
    )
    layering = {**cfg.layering, "n_bootstrap": 100}
    fit = fit_layers(aligned.profiles, aligned.depth_mm, rng=rng, **layering)
    return without_doubtful(fit, aligned, cfg.smallest_layer_mm, **cfg.doubting).deep_mm


# cortex (mm) and deep layer (mm) of slabs whose deep layer is not there or cannot be told, and of
# one that can
MISSING = ((3.6, 0.0), (2.6, 2.0), (3.0, 2.0), (2.6, 1.0))
# axes and inner radius (voxels) of round cortex, ten voxels thick
ROUND = ((2, 10.0), (2, 20.0), (3, 10.0))
THICKNESS = 10.0
# how far the registration of heads is off, in mm: 0.5 in all
OFF_MM = (0.3, -0.3, 0.25)


def recovery(n_repeats: int) -> None:
    """Print bias and spread by thickness, tilt and contrast."""
    print("| deep (mm) | tilt | contrast | to white | bias (mm) | SD (mm) | told | s per slab |")
    print("|---|---|---|---|---|---|---|---|")
    for case in CASES:
        start = time.process_time()
        found = np.array([measured_mm(*case, seed) for seed in range(n_repeats)])
        each_s = (time.process_time() - start) / n_repeats
        told = found[np.isfinite(found)]
        bias = told.mean() - case[0] if len(told) else np.nan
        spread = told.std(ddof=1) if len(told) > 1 else np.nan
        print(
            f"| {case[0]:g} | {case[1]:g} | {case[2]:g} | {case[3]:g} | {bias:+.2f} | "
            f"{spread:.2f} | {len(told)} of {n_repeats} | {each_s:.1f} |",
            flush=True,
        )


def missing(n_repeats: int) -> None:
    """Print what is told where there is no deep layer, or too little above it."""
    print("| cortex (mm) | deep (mm) | told | found (mm) |")
    print("|---|---|---|---|")
    for cortex_mm, deep_mm in MISSING:
        found = [
            measured_mm(deep_mm, 10.0, 0.10, 0.04, seed, cortex_mm=cortex_mm)
            for seed in range(n_repeats)
        ]
        told = [f"{value:.2f}" for value in found if np.isfinite(value)]
        print(
            f"| {cortex_mm:g} | {deep_mm:g} | {len(told)} of {n_repeats} | {' '.join(told)} |",
            flush=True,
        )


def depths() -> None:
    """Print how far cortical depth is off the closed forms of cylinders and spheres."""
    print("| axes | radius | bank | borders | equidistant | 95 % | equivolume | 95 % |")
    print("|---|---|---|---|---|---|---|---|")
    for n_axes, radius in ROUND:
        for is_fundus in (False, True):
            rim, distance, volume = round_cortex(n_axes, radius, is_fundus=is_fundus)
            for surface, n_steps in (("faces", 100), ("levels", 400)):
                depth = cortical_depth(
                    rim,
                    [1.0, 1.0, 1.0],
                    surface=surface,
                    in_plane=n_axes == 2,
                    smoothing_steps=n_steps,
                )
                cells = []
                for found, true in ((depth.equidistant, distance), (depth.equivolume, volume)):
                    far = np.abs(found - true)[rim == 3]
                    cells += [f"{np.median(far):.4f}", f"{np.percentile(far, 95):.4f}"]
                bank = "fundus" if is_fundus else "crown"
                print(f"| {n_axes} | {radius:g} | {bank} | {surface} | {' | '.join(cells)} |")


def round_cortex(
    n_axes: int, radius: float, *, is_fundus: bool
) -> tuple[NDArray[np.int8], NDArray[np.float64], NDArray[np.float64]]:
    """Rim of a quarter cylinder or an eighth of a sphere, and both depths in closed form."""
    outer = radius + THICKNESS
    axis = np.arange(outer + 3) - 0.3
    grid = np.meshgrid(*[axis] * n_axes, indexing="ij")
    r = np.sqrt(sum(g**2 for g in grid)).reshape(len(axis), len(axis), -1)
    rim = np.where(r <= radius, 2, np.where(r >= outer, 1, 3)).astype(np.int8)
    distance = (r - radius) / THICKNESS
    volume = (r**n_axes - radius**n_axes) / (outer**n_axes - radius**n_axes)
    if is_fundus:
        rim = np.choose(rim, [0, 2, 1, 3]).astype(np.int8)
        distance, volume = 1.0 - distance, 1.0 - volume
    return rim, distance, volume


def heads(folder: Path) -> None:
    """Print the deep layer of the areas of simulated heads, by their true tissues and areas."""
    print("| head | area | found (mm) | true (mm) | note |")
    print("|---|---|---|---|---|")
    for truth in sorted((folder / "derivatives" / "phantom").glob("sub-*/anat")):
        label = truth.parent.name
        if not (folder / label / "anat" / f"{label}_acq-M1_echo-1_MEGRE.nii.gz").exists():
            continue
        told = pd.read_csv(truth / f"{label}_acq-M1_desc-layers_stats.tsv", sep="\t")
        deep = told.set_index("measure")["value"]["deep_mm"]
        for result in measured_head(folder / label / "anat", truth, label):
            if result.n_places == 0 or result.region == slab.REFERENCE:
                continue
            found = result.fit.deep_mm if result.fit else np.nan
            place = f"{result.side} {result.region}"
            print(f"| {label} | {place} | {found:.2f} | {deep:g} | {result.reason} |", flush=True)


def measured_head(anat: Path, truth: Path, label: str) -> list[slab.AreaResult]:
    """Areas of one head, the registration off by 0.5 mm."""
    cfg = Cortex7tSettings()
    paths = sorted(anat.glob(f"{label}_acq-M1_echo-*_MEGRE.nii.gz"))
    sidecars = [
        json.loads(Path(str(p).removesuffix(".nii.gz") + ".json").read_text()) for p in paths
    ]
    echoes = slab.read_echoes(paths, sidecars)
    edges = np.linalg.norm(echoes.affine[:3, :3], axis=0)
    combined = combine_echoes(np.moveaxis(echoes.data, -1, 0))
    pose = np.eye(4)
    pose[:3] = pd.read_csv(truth / f"{label}_acq-M1_desc-pose_stats.tsv", sep="\t").to_numpy(float)
    to_t1w = np.linalg.inv(pose)
    off = np.eye(4)
    off[:3, 3] = OFF_MM
    ribbon = slab.find_ribbon(
        combined.shape,
        echoes.affine,
        off @ to_t1w,
        {
            name: read_image(truth / f"{label}_label-{name.upper()}_probseg.nii.gz", ndim=3)
            for name in ("wm", "gm")
        },
        lattice_mm=cfg.ribbon_mm,
        smoothing_mm=cfg.ribbon_smoothing_mm,
        normal_smoothing_mm=cfg.normal_smoothing_mm,
    )
    even = combined / bias_from_white_matter(
        combined,
        ribbon.white_mm,
        edges,
        inset_mm=cfg.receive_inset_mm,
        fwhm_mm=cfg.receive_fwhm_mm,
    )
    points = next(truth.glob(f"{label}_from-T1w_to-*_mode-points_xfm.nii.gz"))
    areas = areas_on_slab(nib.load(points), combined.shape, to_t1w @ echoes.affine)
    return slab.measure_areas(
        np.stack([even, np.zeros_like(even)]),
        ribbon,
        slab.spread_labels(areas, edges.tolist(), cfg.area_reach_mm),
        echoes.affine,
        spacing_mm=cfg.profile_spacing_mm,
        least_profiles=cfg.least_profiles,
        aligning=cfg.aligning,
        layering=cfg.layering,
        doubting=cfg.doubting,
        seed=1,
    )


def areas_on_slab(
    points: nib.Nifti1Image, shape: tuple[int, ...], to_t1w: NDArray[np.float64]
) -> NDArray[np.int32]:
    """Areas of the template through the true deformation, which moves points of the T1w."""
    atlas = draw_areas(slab.measured_areas(), get_template("MNI152NLin2009aSym", 1.0))
    moves = np.asarray(points.dataobj)[:, :, :, 0]
    voxels = np.moveaxis(np.indices(shape), 0, -1)
    world = nib.affines.apply_affine(to_t1w, voxels)
    place = np.moveaxis(nib.affines.apply_affine(np.linalg.inv(points.affine), world), -1, 0)
    world = world + np.stack(
        [
            ndimage.map_coordinates(moves[..., axis], place, order=1, mode="nearest")
            for axis in range(3)
        ],
        axis=-1,
    )
    place = np.moveaxis(nib.affines.apply_affine(np.linalg.inv(atlas.affine), world), -1, 0)
    return np.asarray(ndimage.map_coordinates(atlas.labels, place, order=0), np.int32)


def main() -> None:
    """Print the tables that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=6, help="slabs per row")
    parser.add_argument(
        "--parts", default="recovery", help="recovery, missing, depths or heads, by commas"
    )
    parser.add_argument(
        "--heads", type=Path, help="dataset of bids_alsmri_phantom --modalities anat,cortex7t"
    )
    given = parser.parse_args()
    parts = {
        "recovery": lambda: recovery(given.repeats),
        "missing": lambda: missing(given.repeats),
        "depths": depths,
        "heads": lambda: heads(given.heads),
    }
    wanted = given.parts.split(",")
    if unknown := [part for part in wanted if part not in parts]:
        parser.error(f"--parts {', '.join(unknown)}: expected some of {', '.join(parts)}")
    if "heads" in wanted and given.heads is None:
        parser.error("--parts heads takes --heads, the folder of a simulated dataset")
    for part in wanted:
        parts[part]()


if __name__ == "__main__":
    main()
