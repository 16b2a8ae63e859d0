"""Reference tubes in phantoms that differ in all that a scan may differ in: found, and how true.

Run as ``python benchmarks/sodium_tubes.py FOLDER [--phantoms 50]``. Each phantom is a head of its
own shape with 1 to 4 tubes of random size, tilt, gap, filling and place, at a random
signal-to-noise ratio, receive field, tilt of the grid and, in a third each, voxels as large as the
nominal resolution, half as large or of 5 mm. Noise, denoising, search and calibration are those of
the pipeline; nothing is registered. The receive field is divided out by its truth. FOLDER keeps a
JSON file for each phantom; a run that was stopped goes on from there. Prints markdown tables.

Found: as many tubes as there are, each within half a nominal resolution of its place. Factor:
slope of the calibration over that of the phantom.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bids_alsmri.errors import AlsMriError, SettingsError
from bids_alsmri.interfaces.base import ImageData
from bids_alsmri.numerics.tubes import FoundTubes, find_tubes
from bids_alsmri.phantom.cohort import draw_cohort
from bids_alsmri.phantom.dataset import simulate_session
from bids_alsmri.phantom.records import PhantomSettings, Simulation, SodiumSettings
from bids_alsmri.phantom.sodium import SIGNAL_PER_MMOL_L
from bids_alsmri.pipelines.sodium.pipeline import SodiumSettings as PipelineSettings
from bids_alsmri.pipelines.sodium.protocol import Protocol, protocol_of, relaxation_of
from bids_alsmri.pipelines.sodium.steps import ImageNoise, estimate_noise, quiet
from bids_alsmri.pipelines.sodium.tubework import TubeChoices, calibrate_tubes

FIRST_SEED = 500
MOST_DRAWS = 20
# half of the pipeline's, a sixth of its time: means over tubes do not feel it
BLOCK_RADIUS = 2
DIAMETERS_MM = (15.0, 20.0, 25.0, 30.0, 36.0)
VOXELS_MM = ((3.6, 3.6), (1.8, 3.6), (5.0, 5.0))  # voxel, nominal resolution
CONCENTRATIONS_MMOL_L = (30.0, 50.0, 80.0, 120.0)


def draw_settings(number: int, rng: np.random.Generator) -> PhantomSettings:
    """Settings of one phantom."""
    voxel_mm, resolution_mm = VOXELS_MM[number % len(VOXELS_MM)]
    n_tubes = int(rng.integers(1, 5))
    is_alike = bool(rng.random() < 0.5)
    sodium = rng.permutation(CONCENTRATIONS_MMOL_L)[:n_tubes]
    return PhantomSettings(
        seed=FIRST_SEED + number,
        modalities=("sodium",),
        # only its truth on a grid of the T1w depends on it
        t1w_mm=6.0,
        oblique_deg=float(rng.uniform(-20, 20)),
        sodium=SodiumSettings(
            voxel_mm=voxel_mm,
            resolution_mm=resolution_mm,
            snr=float(rng.uniform(10, 40)),
            bias=float(rng.uniform(0, 0.3)),
            tube_concentrations_mmol_l=(50.0,) * n_tubes if is_alike else tuple(sodium.tolist()),
            tube_diameter_mm=float(rng.uniform(DIAMETERS_MM[0], DIAMETERS_MM[-1])),
            tube_length_mm=float(rng.uniform(60, 110)),
            max_tube_tilt_deg=float(rng.uniform(0, 30)),
            tube_gap_mm=float(rng.uniform(5, 20)),
        ),
    )


def drawn_phantom(number: int) -> tuple[PhantomSettings, Simulation]:
    """One phantom; settings whose tubes do not fit into the field of view are drawn again."""
    rng = np.random.default_rng(FIRST_SEED + number)
    for _ in range(MOST_DRAWS):
        settings = draw_settings(number, rng)
        person = draw_cohort(("hc",), settings.seed)[0]
        try:
            return settings, simulate_session(person, "", settings)["sodium"]
        except SettingsError:
            continue
    raise SystemExit(f"phantom {number}: no tubes fit in {MOST_DRAWS} draws; widen the view")


def tubes_of(image: ImageData, noise: ImageNoise, protocol: Protocol) -> FoundTubes:
    """Tubes as the pipeline looks for them."""
    cfg = PipelineSettings()
    return find_tubes(
        image.data,
        image.affine,
        noise_floor=noise.floor,
        noise_sd=noise.air_sd,
        point_spread=protocol.spread_of(relaxation_of(cfg.relaxation_times["tube"])),
        diameter_range_mm=cfg.tube_diameters_mm,
        most_tubes=cfg.most_tubes,
    )


def factor_of(
    image: ImageData,
    noise: ImageNoise,
    protocol: Protocol,
    found: FoundTubes,
    sensitivity: NDArray[np.float64],
) -> float:
    """Slope of the line over that of the phantom, after denoising and the known receive field."""
    cfg = PipelineSettings()
    signal = quiet(
        image,
        noise,
        method=cfg.denoising,
        strength=cfg.denoising_strength,
        patch_radius=cfg.denoising_patch_radius,
        block_radius=BLOCK_RADIUS,
        n_threads=1,
    )
    # at the neck the coil sees nothing; no tube reaches as far down
    even = ImageData(
        signal / np.maximum(sensitivity, 0.1), image.affine, image.voxel_mm, image.path
    )
    done = calibrate_tubes(
        even,
        found,
        protocol,
        relaxation_of(cfg.relaxation_times["tube"]),
        noise_sigma=noise.sigma,
        choices=TubeChoices(
            erosion_fwhm=cfg.tube_erosion_fwhm,
            reach_sd=cfg.tube_reach_sd,
            most_disagreement=cfg.tube_most_disagreement,
            most_saturated=cfg.tube_most_saturated,
            has_recovery=True,
            has_relaxation=True,
            concentrations_mmol_l=(),
            usual_mmol_l=cfg.usual_concentration_mmol_l,
            reference_tubes=cfg.reference_tubes,
            is_fitted=cfg.point_spread == "fitted",
        ),
    )
    return done.line.slope / SIGNAL_PER_MMOL_L


def true_tubes(simulation: Simulation) -> NDArray[np.float64]:
    """Centres of the true tubes, in mm, and their diameters."""
    table = next(t for i in simulation.truth for n, t in i.tables.items() if "refs_dseg" in n)
    columns = [table.columns.index(n) for n in ("centre_x", "centre_y", "centre_z", "diameter")]
    return np.array([[row[column] for column in columns] for row in table.rows], dtype=np.float64)


def measured(number: int) -> dict[str, Any]:
    """Simulate one phantom, look for its tubes, calibrate."""
    settings, simulation = drawn_phantom(number)
    raw = simulation.raw[0]
    edges = np.linalg.norm(raw.affine[:3, :3], axis=0)
    image = ImageData(
        raw.values.astype(np.float32),
        raw.affine,
        (float(edges[0]), float(edges[1]), float(edges[2])),
        Path("phantom"),
    )
    protocol = protocol_of(
        raw.sidecar,
        image.path,
        image.voxel_mm,
        PipelineSettings().readout,
        needs_times=True,
        needs_spread=True,
    )
    truth = true_tubes(simulation)
    sodium = settings.sodium
    result: dict[str, Any] = {
        "n_true": len(truth),
        "diameter": sodium.tube_diameter_mm,
        "tilt": sodium.max_tube_tilt_deg,
        "snr": sodium.snr,
        "voxel": sodium.voxel_mm,
        "resolution": sodium.resolution_mm,
        "concentrations": sodium.tube_concentrations_mmol_l,
    }
    noise, _ = estimate_noise(image, protocol)
    try:
        found = tubes_of(image, noise, protocol)
        result |= compared(found, truth)
        sensitivity = next(i.values for i in simulation.truth if i.tail.endswith("RB1map"))
        result["factor"] = factor_of(image, noise, protocol, found, sensitivity.astype(np.float64))
    except AlsMriError as error:
        result["error"] = str(error)
    return result


def compared(found: FoundTubes, truth: NDArray[np.float64]) -> dict[str, Any]:
    """Distance of each true tube to the nearest found one, and error of its diameter."""
    centres = np.array([tube.centre_mm for tube in found.tubes])
    gaps = np.linalg.norm(truth[:, np.newaxis, :3] - centres, axis=2)
    nearest = gaps.argmin(axis=1)
    diameters = np.array([found.tubes[index].diameter_mm for index in nearest])
    return {
        "n_found": len(found.tubes),
        "gaps_mm": gaps.min(axis=1).tolist(),
        "diameter_errors_mm": (diameters - truth[:, 3]).tolist(),
    }


def all_phantoms(folder: Path, n_phantoms: int) -> list[dict[str, Any]]:
    """Results of all phantoms, those of earlier runs taken from their files."""
    folder.mkdir(parents=True, exist_ok=True)
    results = []
    for number in range(n_phantoms):
        path = folder / f"phantom-{number:03d}.json"
        if not path.exists():
            start = time.perf_counter()
            part = path.with_suffix(".part")
            part.write_text(json.dumps(measured(number), indent=1) + "\n")
            # a run that is stopped while it writes must not leave half a file
            part.replace(path)
            print(f"phantom {number}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
        results.append(json.loads(path.read_text()))
    return results


def is_found(one: dict[str, Any]) -> bool:
    """Whether all tubes and nothing else was found where they are."""
    return one.get("n_found") == one["n_true"] and max(one["gaps_mm"]) < one["resolution"] / 2


def print_tables(results: list[dict[str, Any]]) -> None:
    """Print what was found and the factors by diameter."""
    good = [one for one in results if is_found(one)]
    n_tubes = sum(one["n_true"] for one in results)
    print(f"Found in {len(good)} of {len(results)} phantoms, {n_tubes} tubes.\n")
    for one in results:
        if not is_found(one) or "factor" not in one:
            print(f"Not as expected: {json.dumps(one)}\n")
    print(
        "| diameter mm | phantoms | place, mean and worst, mm | diameter, mean and SD of the "
        "error, mm | factor, one filling % | factor, several fillings % |\n"
        "|---|---:|---:|---:|---:|---:|"
    )
    for low, high in pairwise(DIAMETERS_MM):
        those = [one for one in good if low <= one["diameter"] < high]
        gaps = [gap for one in those for gap in one["gaps_mm"]]
        errors = [error for one in those for error in one["diameter_errors_mm"]]
        factors: dict[bool, list[float]] = {True: [], False: []}
        for one in those:
            if "factor" in one:
                factors[len(set(one["concentrations"])) == 1].append(100 * (one["factor"] - 1))
        cells = [
            f"{low:g} to {high:g}",
            str(len(those)),
            f"{np.mean(gaps):.2f}, {np.max(gaps):.2f}",
            f"{np.mean(errors):+.2f}, {np.std(errors):.2f}",
            *(
                f"{np.mean(some):+.2f} ({min(some):+.2f} to {max(some):+.2f})" if some else "none"
                for some in (factors[True], factors[False])
            ),
        ]
        print("| " + " | ".join(cells) + " |")


def main() -> None:
    """Make the phantoms that are missing, print tables of all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--phantoms", type=int, default=50)
    chosen = parser.parse_args()
    print_tables(all_phantoms(chosen.folder, chosen.phantoms))


if __name__ == "__main__":
    main()
