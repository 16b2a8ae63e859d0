"""Recovery of the deep layer of the cortex on simulated slabs, by tilt and contrast.

``python benchmarks/cortex.py [--repeats 6]`` prints a table; the numbers of docs/benchmarks.md are
its output. The measurement gets a ribbon displaced by 0.3 mm at each border and shifted by 0.5 mm.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from bids_alsmri.numerics.cortical_layers import fit_layers
from bids_alsmri.numerics.cortical_profiles import (
    align_profiles,
    place_profiles,
    surface_normals,
)
from bids_alsmri.phantom.cortex_layers import Fold, LayeredCortex
from bids_alsmri.phantom.cortex_slab import SlabSettings, contrast_echo, simulate_slab
from bids_alsmri.pipelines.cortex7t.pipeline import Cortex7tSettings
from bids_alsmri.pipelines.cortex7t.slab import without_doubtful

SHAPE = (128, 104, 4)
RIM = 10
# thickness (mm), tilt (degrees), contrast of the deep layer and of white matter
CASES = (
    *((deep, tilt, 0.10, 0.04) for deep in (2.0, 1.5) for tilt in (0.0, 15.0, 20.0, 25.0)),
    *((2.0, 10.0, contrast, 0.04) for contrast in (0.05, 0.15)),
    *((2.0, 10.0, 0.10, white) for white in (0.0, 0.02, 0.03, 0.05)),
)


def measured_mm(deep_mm: float, tilt_deg: float, contrast: float, white: float, seed: int) -> float:
    """Thickness that is found in one slab, in mm; NaN where none is told."""
    cfg, rng = Cortex7tSettings(), np.random.default_rng(seed)
    scan = SlabSettings(shape=SHAPE, tilt_deg=tilt_deg)
    cortex = LayeredCortex(deep_mm=deep_mm, deep_contrast=contrast, white_contrast=white)
    slab = simulate_slab(cortex, Fold(), scan, rng, samples=(2, 2, 8))
    mask = np.zeros(SHAPE, np.bool_)
    mask[RIM:-RIM, RIM:-RIM] = True
    normals = surface_normals(
        slab.white_distance_mm, scan.voxel_mm, smoothing_mm=cfg.normal_smoothing_mm
    )
    places = place_profiles(
        slab.white_distance_mm, normals, mask, scan.voxel_mm, spacing_mm=cfg.profile_spacing_mm
    )
    aligned = align_profiles(
        contrast_echo(slab.echoes, scan.echo_times_ms)[None],
        slab.white_distance_mm,
        slab.outer_distance_mm,
        places,
        scan.voxel_mm,
        **cfg.aligning,
    )
    layering = {**cfg.layering, "n_bootstrap": 100}
    fit = fit_layers(aligned.profiles, aligned.depth_mm, rng=rng, **layering)
    return without_doubtful(fit, aligned, cfg.smallest_layer_mm, **cfg.doubting).deep_mm


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=6, help="slabs per row")
    n_repeats = parser.parse_args().repeats
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


if __name__ == "__main__":
    main()
