"""What a covariate of every voxel leaves of the rise of sodium that a loss of grey matter makes.

Run as ``python benchmarks/atrophy.py [--cohorts 5] [--voxel-mm 2.5]``. Each cohort (13 fast and 16
slow progressors, 24 controls) is simulated at the level of maps: patients have lost a tenth of
their grey matter to fluid, people differ by 6 % by nature, the concentration in each tissue is the
same. Sodium and grey matter are smoothed by 8 mm, as the participant level does. Prints a markdown
table of the difference between patients and controls in voxels that are mostly grey matter: mean
over voxels and cohorts, and the share that is left beside the covariate.

A perfect covariate would leave nothing. Within groups, however, shares of grey matter differ by
what registration leaves too: moved against white matter they change without sodium doing so, and
the slope that is fitted is lower than that of a loss. Rows without registration error, and with
the share as blurred as the sodium image, tell what of it each does.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from bids_alsmri.numerics.effects import two_group_effects
from bids_alsmri.phantom.cohort import draw_cohort, kinds_of
from bids_alsmri.phantom.map_cohort import SMOOTHING_MM, smoothed_within
from bids_alsmri.phantom.map_settings import MapSettings
from bids_alsmri.phantom.maps import TSC_BLUR_MM, build_truth, draw_maps
from bids_alsmri.stats.design import group_design

Float = NDArray[np.float64]
FIRST_SEED = 700
MOSTLY_GREY = 0.6
REGISTRATION_SD_MM = (0.6, 0.0)


def maps_of_cohort(settings: MapSettings) -> tuple[list[str], dict[str, Float]]:
    """Group of each participant, and maps in voxels that are mostly grey matter."""
    truth = build_truth(settings)
    chosen = truth.mask & (truth.healthy["gm"] > MOSTLY_GREY)
    people = draw_cohort(kinds_of(None, 24, 13, 16), settings.seed)
    kept: dict[str, list[NDArray[np.float32]]] = {"tsc": [], "gm": [], "gm, blurred": []}
    for person in people:
        maps = draw_maps(person, settings, truth)
        blurred = smoothed_within(maps["gm"], truth.mask, TSC_BLUR_MM / settings.voxel_mm)
        for name, values in (("tsc", maps["tsc"]), ("gm", maps["gm"]), ("gm, blurred", blurred)):
            smooth = smoothed_within(values, truth.mask, SMOOTHING_MM / settings.voxel_mm)
            kept[name].append(smooth[chosen])
    found = {name: np.asarray(values, np.float64) for name, values in kept.items()}
    return [person.group for person in people], found


def differences(groups: list[str], maps: dict[str, Float]) -> Iterator[tuple[str, float]]:
    """Mean difference without and with each covariate."""
    design = group_design(groups, "als", "hc")
    for name in (None, "gm", "gm, blurred"):
        found = two_group_effects(
            maps["tsc"],
            design.matrix,
            design.groups,
            level=0.95,
            has_unequal_variances=False,
            voxelwise_covariates=None if name is None else maps[name][np.newaxis],
        )
        yield name or "none", float(found.difference.mean())


def main() -> None:
    """Simulate, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cohorts", type=int, default=5)
    parser.add_argument("--voxel-mm", type=float, default=2.5)
    chosen = parser.parse_args()
    print("| registration error mm | covariate | difference mmol/l | left % |\n|---|---|---:|---:|")
    for sd_mm in REGISTRATION_SD_MM:
        every: dict[str, list[float]] = {}
        for number in range(chosen.cohorts):
            settings = MapSettings(
                seed=FIRST_SEED + number,
                voxel_mm=chosen.voxel_mm,
                effects={},
                grey_loss=0.1,
                grey_sd=0.06,
                registration_sd_mm=sd_mm,
            )
            for name, value in differences(*maps_of_cohort(settings)):
                every.setdefault(name, []).append(value)
        before = np.mean(every["none"])
        for name, values in every.items():
            left = 100 * np.mean(values) / before
            print(f"| {sd_mm:g} | {name} | {np.mean(values):.2f} | {left:.0f} |", flush=True)


if __name__ == "__main__":
    main()
