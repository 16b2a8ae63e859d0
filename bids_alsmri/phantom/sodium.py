"""Sodium images: concentrations of tissue and tubes, seen by a density-adapted radial readout.

Each tissue has a concentration, saturates by its T1 and decays along the readout by its T2*; the
image is what the sampled sphere of k-space shows of their sum. No smoothing kernel is applied.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bids_alsmri.phantom import anat
from bids_alsmri.phantom.anat import landmark_table, pose_table, tissue_truth
from bids_alsmri.phantom.anatomy import Anatomy
from bids_alsmri.phantom.geometry import Grid, make_grid, rigid_matrix, store
from bids_alsmri.phantom.head import HeadSample
from bids_alsmri.phantom.radial import (
    Readout,
    Relaxation,
    acquire,
    n_parts_for,
    part_mean,
    point_spread_fwhm_mm,
    sphere_noise,
    split_grid,
)
from bids_alsmri.phantom.records import (
    Participant,
    PhantomSettings,
    SimulatedImage,
    Simulation,
    SodiumSettings,
    Table,
)
from bids_alsmri.phantom.sodium_scene import (
    TSC_FLUID,
    TSC_WHITE,
    Scene,
    coil_sensitivity,
    head_tsc,
    lay_out,
    lay_out_tissue,
    person_tsc,
    tissue_tsc,
)
from bids_alsmri.phantom.tubes import Tube, tube_table

Floats = NDArray[np.float64]
Single = NDArray[np.float32]

CENTRE_MM = (0.0, -17.0, -10.0)
# Wide: moved heads with tilted tubes on all sides must fit.
EXTENT_MM = (360.0, 288.0, 270.0)
LEAD = "acq-sodium_"
SODIUM_IMAGE = "sodium image"
FIELD_T = 3
SIGNAL_PER_MMOL_L = 20.0
T1W_SPACE_MM = 2.0

# T2* of brain: Riemer 2018 (doi:10.1002/nbm.3899); of muscle and its T1: doi:10.1186/
# s12891-022-05879-5 (7T). Agar of 2 %: T1 52 - 3.2 per percent, T2* 4.3 ms, a single component, as
# published sodium code has it. T1 of brain and fluid are chosen so that the protocol of El Mendili
# 2022 without correction overrates white matter by about 4 % and underrates fluid as much.
RELAXATION: Mapping[str, Relaxation] = {
    "WM": Relaxation(39.0, 3.4, 23.5, 0.6),
    "GM": Relaxation(39.0, 3.9, 26.3, 0.6),
    "CSF": Relaxation(63.0, 56.0, 56.0, 0.0),
    "other": Relaxation(27.0, 3.3, 12.9, 0.6),
    "agar": Relaxation(45.6, 4.3, 4.3, 1.0),
}
AGAR_PERCENT = 2


def simulate(
    participant: Participant,
    anatomy: Anatomy,
    settings: PhantomSettings,
    rng: np.random.Generator,
) -> Simulation:
    """Scan the sodium image of one session.

    Parameters
    ----------
    participant : Participant
        Who is scanned; decides the disease effect.
    anatomy : Anatomy
        The person's head.
    settings : PhantomSettings
        Protocol, tubes, noise and storage.
    rng : Generator
        Random stream of this participant, session and modality.

    Returns
    -------
    Simulation
        The image; true concentrations, tissue maps, tubes, sensitivity, effect and pose as truth.
    """
    scan = set_up(participant, anatomy, settings, rng)
    scene, fine, grid, readout = scan.scene, scan.fine, scan.grid, scan.readout
    sodium, n_parts = settings.sodium, fine.shape[0] // grid.shape[0]
    signal = noise_free_image(scene, fine, grid, readout, sodium)
    image = receive(signal, grid, readout, sodium, scan.for_noise)
    voxels, affine = store(np.round(image).clip(0, 32767).astype(np.int16), grid, settings)
    tables = {
        f"{LEAD}desc-pose_stats": pose_table(scan.t1w_to_sodium, SODIUM_IMAGE),
        f"{LEAD}desc-landmarks_stats": landmark_table(
            anatomy, scan.t1w_to_sodium, "sodium", SODIUM_IMAGE
        ),
        f"{LEAD}desc-tissues_stats": tissue_table(scene, scan.person, readout, sodium),
    }
    raw = SimulatedImage("anat", f"{LEAD}PDw", voxels, affine, _sidecar(sodium, scene.tubes))
    return Simulation(
        raw=(raw,),
        truth=(
            *_grid_truth(scene, grid, n_parts, settings),
            *_tube_truth(scene, grid, n_parts, settings),
            _t1w_truth(participant, anatomy, settings, scan.person, tables),
        ),
    )


@dataclass(frozen=True)
class Scan:
    """What is scanned and how, before anything is.

    Parameters
    ----------
    scene : Scene
        On `fine`.
    fine, grid : Grid
        Grid of the scene and of the image.
    readout : Readout
        The readout.
    t1w_to_sodium : (4, 4) array
        Head pose between the scans, mm.
    person : (float, float)
        The person's concentrations of white and grey matter, in mmol/L.
    for_noise : Generator
        Random stream of the noise.
    """

    scene: Scene
    fine: Grid
    grid: Grid
    readout: Readout
    t1w_to_sodium: Floats
    person: tuple[float, float]
    for_noise: np.random.Generator


def set_up(
    participant: Participant,
    anatomy: Anatomy,
    settings: PhantomSettings,
    rng: np.random.Generator,
) -> Scan:
    """Put head and tubes into the scanner and choose the readout.

    Parameters
    ----------
    participant : Participant
        Who is scanned.
    anatomy : Anatomy
        The person's head.
    settings : PhantomSettings
        Protocol and tubes.
    rng : Generator
        As for `simulate`.

    Returns
    -------
    Scan
        What `simulate` makes the image of.
    """
    sodium = settings.sodium
    # streams of their own: without bias, tubes stand where they stand with it
    for_pose, for_tubes, for_bias, for_noise = rng.spawn(4)
    grid = make_grid(CENTRE_MM, EXTENT_MM, sodium.voxel_mm, settings.oblique_deg)
    fine = split_grid(grid, n_parts_for(sodium.voxel_mm, sodium.resolution_mm))
    shift = for_pose.uniform(-1, 1, 3) * sodium.max_reposition_mm
    turn = for_pose.uniform(-1, 1, 3) * sodium.max_reposition_deg
    t1w_to_sodium = rigid_matrix(shift, turn, grid.centre_mm)
    person = person_tsc(participant, settings.seed)
    scene = lay_out(
        participant,
        anatomy,
        fine,
        settings,
        t1w_to_sodium=t1w_to_sodium,
        person=person,
        sensitivity=coil_sensitivity(fine, sodium.bias, for_bias),
        rng=for_tubes,
    )
    readout = Readout(sodium.resolution_mm, sodium.echo_ms, sodium.readout_ms)
    return Scan(scene, fine, grid, readout, t1w_to_sodium, person, for_noise)


def noise_free_image(
    scene: Scene, fine: Grid, grid: Grid, readout: Readout, settings: SodiumSettings
) -> Single:
    """Image of the scene before noise, with its sign.

    Parameters
    ----------
    scene : Scene
        On `fine`.
    fine, grid : Grid
        Grid of the scene and of the image.
    readout : Readout
        The readout.
    settings : SodiumSettings
        Repetition time and flip angle.

    Returns
    -------
    (i, j, k) array of float32
        Side lobes may fall below zero; 20 per mmol/L that neither saturates nor decays.
    """
    sample = scene.sample
    densities = {
        "WM": sample.white * scene.white_mmol_l,
        "GM": sample.grey * scene.grey_mmol_l,
        "CSF": sample.fluid * np.float32(TSC_FLUID),
        "other": sample.other_sodium,
        "agar": scene.agar_mmol_l,
    }
    objects = (
        (
            density
            * scene.sensitivity
            * np.float32(RELAXATION[name].saturation(settings.repetition_ms, settings.flip_deg)),
            RELAXATION[name],
            # tissue is known at points, tubes as shares of voxels
            name == "agar",
        )
        for name, density in densities.items()
    )
    return np.float32(SIGNAL_PER_MMOL_L) * acquire(objects, fine, grid, readout)


def receive(
    signal: Single,
    grid: Grid,
    readout: Readout,
    settings: SodiumSettings,
    rng: np.random.Generator,
) -> Single:
    """Magnitude of the image with noise of both receiver channels.

    Parameters
    ----------
    signal : (i, j, k) array
        From `noise_free_image`.
    grid : Grid
        Its grid.
    readout : Readout
        The readout; noise is white within its sphere of k-space.
    settings : SodiumSettings
        Signal-to-noise ratio of white matter.
    rng : Generator
        Random stream.

    Returns
    -------
    (i, j, k) array of float32
        Not below zero.
    """
    if settings.snr == 0:
        return np.abs(signal)
    sigma = np.float32(white_matter_signal(readout, settings) / settings.snr)
    real, imaginary = (sigma * sphere_noise(grid, readout, rng) for _ in range(2))
    return np.asarray(np.hypot(signal + real, imaginary))


def tissue_weight(name: str, readout: Readout, settings: SodiumSettings) -> float:
    """Share of a large object's signal that saturation and decay to the echo leave.

    Parameters
    ----------
    name : str
        Key of `RELAXATION`.
    readout : Readout
        The readout.
    settings : SodiumSettings
        Repetition time and flip angle.

    Returns
    -------
    float
        0 to 1.
    """
    relaxation = RELAXATION[name]
    decay = float(relaxation.decay(np.array(readout.echo_ms)))
    return decay * relaxation.saturation(settings.repetition_ms, settings.flip_deg)


def white_matter_signal(readout: Readout, settings: SodiumSettings) -> float:
    """Signal of a large piece of average white matter, in units of the image.

    Parameters
    ----------
    readout : Readout
        The readout.
    settings : SodiumSettings
        Repetition time and flip angle.

    Returns
    -------
    float
        Signal.
    """
    return SIGNAL_PER_MMOL_L * TSC_WHITE * tissue_weight("WM", readout, settings)


def tissue_table(
    scene: Scene, person: tuple[float, float], readout: Readout, settings: SodiumSettings
) -> Table:
    """What each tissue holds and how it is weighted.

    Parameters
    ----------
    scene : Scene
        The scene.
    person : (float, float)
        The person's concentrations, in mmol/L.
    readout : Readout
        The readout.
    settings : SodiumSettings
        Repetition time and flip angle.

    Returns
    -------
    Table
        One row per tissue.
    """
    white, grey = scene.sample.white, scene.sample.grey
    agar, share = scene.agar_mmol_l, np.sum(scene.shares, axis=0)
    concentrations: dict[str, tuple[float | None, float | None]] = {
        "WM": (person[0], _mean_within(scene.white_mmol_l, white)),
        "GM": (person[1], _mean_within(scene.grey_mmol_l, grey)),
        "CSF": (TSC_FLUID, TSC_FLUID),
        "other": (None, None),
        "agar": (None, float(agar.sum(dtype=np.float64) / share.sum(dtype=np.float64))),
    }
    described = {
        "concentration": ("Concentration without any effect.", "mmol/L"),
        "mean_concentration": ("Mean over all of the tissue, effect included.", "mmol/L"),
        "t1": ("Longitudinal relaxation time.", "ms"),
        "t2star_short": ("Fast component of T2*.", "ms"),
        "t2star_long": ("Slow component of T2*.", "ms"),
        "short_fraction": ("Share of the fast component.", "1"),
        "weight": ("Share of a large object's signal left by saturation and decay.", "1"),
        "psf_fwhm": ("Width of the image of a point, decay included.", "mm"),
    }
    rows = []
    for name, r in RELAXATION.items():
        numbers = (r.t1_ms, r.short_ms, r.long_ms, r.short_fraction)
        weight = tissue_weight(name, readout, settings)
        width = point_spread_fwhm_mm(readout, r)
        rows.append((name, *concentrations[name], *numbers, round(weight, 6), round(width, 4)))
    return Table(
        ("tissue", *described),
        tuple(rows),
        {n: {"Description": text, "Units": unit} for n, (text, unit) in described.items()},
    )


def _mean_within(values: Single, share: Single) -> float:
    return float((values * share).sum(dtype=np.float64) / share.sum(dtype=np.float64))


def _sidecar(sodium: SodiumSettings, tubes: tuple[Tube, ...]) -> dict[str, object]:
    return {
        "Modality": "MR",
        "Manufacturer": "Simulated",
        "MagneticFieldStrength": FIELD_T,
        "ResonantNucleus": "23Na",
        "MRAcquisitionType": "3D",
        "PulseSequenceType": "Density-adapted 3D radial",
        "ScanningSequence": "GR",
        "SequenceVariant": "SP",
        "RepetitionTime": round(sodium.repetition_ms / 1000, 9),
        "RepetitionTimeExcitation": round(sodium.repetition_ms / 1000, 9),
        "EchoTime": round(sodium.echo_ms / 1000, 9),
        "FlipAngle": sodium.flip_deg,
        "AcquisitionVoxelSize": [sodium.resolution_mm] * 3,
        "SodiumReadoutDuration": round(sodium.readout_ms / 1000, 9),
        "SodiumReferenceConcentrations": [
            {"Label": t.label, "Concentration": t.concentration_mmol_l} for t in tubes
        ],
        "SodiumReferenceAgarPercent": AGAR_PERCENT,
        "BodyPart": "HEAD",
    }


def _grid_truth(
    scene: Scene, grid: Grid, n_parts: int, settings: PhantomSettings
) -> tuple[SimulatedImage, ...]:
    """Truth on the grid of the image, in the pose of the sodium scan."""
    sample = HeadSample(
        **{n: part_mean(getattr(scene.sample, n), n_parts) for n in HeadSample.__dataclass_fields__}
    )
    images = list(tissue_truth("anat", LEAD, sample, grid, settings))
    for folder, tail, values, text, unit in (
        ("anat", "desc-tsc_PDmap", scene.tsc_mmol_l, "Sodium, tubes included.", "mmol/L"),
        ("anat", "desc-effect_statmap", scene.effect, "Relative change of tissue sodium.", "1"),
        ("fmap", "desc-truth_RB1map", scene.sensitivity, "Sensitivity of the coil.", "1"),
    ):  # fmt: skip
        voxels, affine = store(part_mean(values, n_parts), grid, settings)
        sidecar: dict[str, object] = {"Description": text, "Units": unit, "SkullStripped": False}
        images.append(SimulatedImage(folder, f"{LEAD}{tail}", voxels, affine, sidecar))
    return tuple(images)


def _tube_truth(
    scene: Scene, grid: Grid, n_parts: int, settings: PhantomSettings
) -> tuple[SimulatedImage, ...]:
    """Share of the voxels that tubes fill, and their labels with a table."""
    shares = np.stack([part_mean(share, n_parts) for share in scene.shares])
    labels = np.where(shares.max(axis=0) > 0.5, shares.argmax(axis=0) + 1, 0).astype(np.uint8)
    images = []
    for tail, values, text, tables in (
        ("label-refs_probseg", shares.sum(axis=0), "Share of the voxel filled by tubes.", {}),
        (
            "desc-refs_dseg",
            labels,
            "Tube that fills more than half of the voxel.",
            {f"{LEAD}desc-refs_dseg": tube_table(scene.tubes)},
        ),
    ):
        voxels, affine = store(values, grid, settings)
        images.append(
            SimulatedImage(
                "anat", f"{LEAD}{tail}", voxels, affine, {"Description": text}, tables=tables
            )
        )
    return tuple(images)


def _t1w_truth(
    participant: Participant,
    anatomy: Anatomy,
    settings: PhantomSettings,
    person: tuple[float, float],
    tables: dict[str, Table],
) -> SimulatedImage:
    """Sodium of the head, without tubes, in the T1w scan's world."""
    voxel_mm = max(settings.t1w_mm, T1W_SPACE_MM)
    grid = make_grid(anat.CENTRE_MM, anat.EXTENT_MM, voxel_mm, settings.oblique_deg)
    sample, effect = lay_out_tissue(participant, anatomy, grid, np.eye(4), settings)
    tsc = head_tsc(sample, *tissue_tsc(effect, person, settings.sodium))
    voxels, affine = store(tsc, grid, settings)
    sidecar: dict[str, object] = {
        "Description": "Sodium of the voxel, without tubes, in the world of the T1w image.",
        "Units": "mmol/L",
        "SkullStripped": False,
        "SpatialReference": "World coordinates of the T1w image of this session.",
    }
    return SimulatedImage(
        "anat", f"{LEAD}space-T1w_desc-tsc_PDmap", voxels, affine, sidecar, tables=tables
    )
