"""The T1-weighted image, its tissue maps and the map to the template."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bids_alsmri.phantom.anatomy import Anatomy
from bids_alsmri.phantom.deformation import Deformation
from bids_alsmri.phantom.geometry import Grid, make_grid, store, transform_points
from bids_alsmri.phantom.head import CSF_T1, GM_T1, WM_T1, HeadSample
from bids_alsmri.phantom.records import (
    Participant,
    PhantomSettings,
    SimulatedImage,
    Simulation,
    Table,
)

Floats = NDArray[np.float64]

CENTRE_MM = (0.0, -16.0, -20.0)
EXTENT_MM = (200.0, 256.0, 256.0)
WHITE_MATTER_SIGNAL = 600.0
BIAS_PEAK = 0.2
FIELD_SPACING_MM = 4.0
TEMPLATE_NAME = "MNI152NLin2009aSym"

# Approximate template positions (mm), placed on the nilearn MNI152NLin2009aSym by eye.
LANDMARKS = {
    "anterior_commissure": (0, 2, -4),
    "posterior_commissure": (0, -25, -2),
    "callosum_genu": (0, 27, 7),
    "callosum_splenium": (0, -38, 10),
    "callosum_body": (0, -8, 26),
    "frontal_pole_right": (24, 62, 0),
    "frontal_pole_left": (-24, 62, 0),
    "occipital_pole_right": (14, -98, 0),
    "occipital_pole_left": (-14, -98, 0),
    "temporal_pole_right": (42, 16, -32),
    "temporal_pole_left": (-42, 16, -32),
    "hand_knob_right": (36, -24, 56),
    "hand_knob_left": (-36, -24, 56),
    "vertex": (0, -20, 76),
    "internal_capsule_right": (23, -15, 8),
    "internal_capsule_left": (-23, -15, 8),
    "peduncle_right": (14, -18, -12),
    "peduncle_left": (-14, -18, -12),
    "pons": (0, -26, -32),
    "cerebellum_right": (36, -62, -40),
    "cerebellum_left": (-36, -62, -40),
}


def simulate(
    participant: Participant,
    anatomy: Anatomy,
    settings: PhantomSettings,
    rng: np.random.Generator,
) -> Simulation:
    """Scan the T1-weighted image of one session.

    Parameters
    ----------
    participant : Participant
        Who is scanned; the T1w image does not depend on the disease.
    anatomy : Anatomy
        The person's head.
    settings : PhantomSettings
        Voxel size, noise and storage.
    rng : Generator
        Random stream of this participant, session and modality.

    Returns
    -------
    Simulation
        The T1w image; brain mask, tissue maps, displacement fields and landmarks as truth.
    """
    del participant
    grid = make_grid(CENTRE_MM, EXTENT_MM, settings.t1w_mm, settings.oblique_deg)
    tissue = anatomy.sample_grid(grid, np.eye(4))
    signal = t1w_signal(tissue) * bias_field(grid, rng) * WHITE_MATTER_SIGNAL
    sigma = settings.t1w_noise_percent / 100 * WHITE_MATTER_SIGNAL
    noisy = rician(signal, sigma, rng)
    voxels, affine = store(np.round(noisy).clip(0, 32767).astype(np.int16), grid, settings)
    raw = SimulatedImage("anat", "T1w", voxels, affine, _sidecar(settings))
    return Simulation(
        raw=(raw,),
        truth=(
            *tissue_truth("anat", "", tissue, grid, settings),
            *_displacements(anatomy.deformation, grid),
        ),
    )


def t1w_signal(tissue: HeadSample) -> NDArray[np.float32]:
    """T1-weighted signal over white matter's.

    Parameters
    ----------
    tissue : HeadSample
        Tissue at each voxel.

    Returns
    -------
    (...) array of float32
        Dimensionless, 1 in white matter.
    """
    return np.asarray(
        WM_T1 * tissue.white + GM_T1 * tissue.grey + CSF_T1 * tissue.fluid + tissue.other_t1
    )


def bias_field(
    grid: Grid, rng: np.random.Generator, peak: float = BIAS_PEAK
) -> NDArray[np.float32]:
    """Smooth receive field about one.

    Parameters
    ----------
    grid : Grid
        Where.
    rng : Generator
        Random stream.
    peak : float
        Largest deviation from one.

    Returns
    -------
    (i, j, k) array of float32
        Dimensionless factor.
    """
    waves = rng.normal(size=(3, 3))
    waves *= (rng.uniform(0.6, 1.1, 3) * np.pi / 200 / np.linalg.norm(waves, axis=1))[:, None]
    phases = rng.uniform(0, 2 * np.pi, 3)
    out = np.empty(grid.shape, dtype=np.float32)
    for i in range(grid.shape[0]):
        points = grid.points_mm(i, i + 1)
        out[i] = 1 + peak / 3 * np.cos(points @ waves.T + phases).sum(-1)[0]
    return out


def rician(
    signal: NDArray[np.floating], sigma: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    r"""Magnitude of a signal with independent Gaussian noise in both channels.

    Parameters
    ----------
    signal : (...) array
        Noise-free signal.
    sigma : float
        Standard deviation in each channel; 0 leaves the signal as it is.
    rng : Generator
        Random stream.

    Returns
    -------
    (...) array of float32
        :math:`|S + n_1 + i n_2|` (Gudbjartsson and Patz 1995, doi:10.1002/mrm.1910340618).

    Examples
    --------
    >>> rician(np.ones(2), 0.0, np.random.default_rng(0))
    array([1., 1.], dtype=float32)
    """
    values = np.asarray(signal, dtype=np.float32)
    if sigma == 0:
        return values
    width = np.float32(sigma)
    real = values + width * rng.standard_normal(values.shape, dtype=np.float32)
    imaginary = width * rng.standard_normal(values.shape, dtype=np.float32)
    return np.asarray(np.hypot(real, imaginary))


def tissue_truth(
    folder: str, lead: str, tissue: HeadSample, grid: Grid, settings: PhantomSettings
) -> tuple[SimulatedImage, ...]:
    """Brain mask, tissue fractions and segmentation of one grid.

    Parameters
    ----------
    folder : str
        BIDS data type.
    lead : str
        Entities before ``desc`` with a trailing underscore, or nothing.
    tissue : HeadSample
        Tissue on the grid.
    grid : Grid
        The grid.
    settings : PhantomSettings
        Storage.

    Returns
    -------
    tuple of SimulatedImage
        ``desc-brain_mask``, three ``probseg``, one ``dseg`` with its table.
    """
    images = []
    brain = tissue.brain > 0.5
    voxels, affine = store(brain.astype(np.uint8), grid, settings)
    images.append(
        SimulatedImage(
            folder,
            f"{lead}desc-brain_mask",
            voxels,
            affine,
            {"Type": "Brain", "Description": "Template brain mask seen in this person."},
        )
    )
    fractions = {"GM": tissue.grey, "WM": tissue.white, "CSF": tissue.fluid * tissue.brain}
    for label, fraction in fractions.items():
        voxels, affine = store(fraction, grid, settings)
        sidecar: dict[str, object] = {"Description": f"True fraction of {label} in the voxel."}
        images.append(
            SimulatedImage(folder, f"{lead}label-{label}_probseg", voxels, affine, sidecar)
        )
    winner = np.argmax(np.stack(list(fractions.values())), axis=0) + 1
    voxels, affine = store(np.where(brain, winner, 0).astype(np.uint8), grid, settings)
    names = Table(
        columns=("index", "name"),
        rows=((1, "GM"), (2, "WM"), (3, "CSF")),
        sidecar={},
    )
    images.append(
        SimulatedImage(
            folder,
            f"{lead}desc-tissue_dseg",
            voxels,
            affine,
            {"Description": "Tissue with the largest true fraction."},
            tables={f"{lead}desc-tissue_dseg": names},
        )
    )
    return tuple(images)


def _displacements(deformation: Deformation, grid: Grid) -> tuple[SimulatedImage, ...]:
    """Displacement fields both ways and landmarks."""
    there = make_grid(CENTRE_MM, EXTENT_MM, FIELD_SPACING_MM, 0.0)
    points = there.points_mm()
    fields = {
        f"from-T1w_to-{TEMPLATE_NAME}_mode-points_xfm": deformation.to_template(points) - points,
        f"from-{TEMPLATE_NAME}_to-T1w_mode-points_xfm": deformation.from_template(points) - points,
    }
    about = (
        "Displacement of points in mm, RAS+ world components in the fifth axis: the point at the "
        "voxel's world position p of the first space lies at p + displacement in the second."
    )
    marks = np.array(list(LANDMARKS.values()), dtype=np.float64)
    in_person = deformation.from_template(marks)
    table = Table(
        columns=("name", *(f"{s}_{a}" for s in ("template", "t1w") for a in "xyz")),
        rows=tuple(
            (name, *np.round(mark, 4).tolist(), *np.round(person, 4).tolist())
            for name, mark, person in zip(LANDMARKS, marks, in_person, strict=True)
        ),
        sidecar={
            "name": {"Description": "Landmark, placed by eye on the template."},
            **{
                f"{s}_{a}": {"Description": f"World {a} (RAS+) in {s} space.", "Units": "mm"}
                for s in ("template", "t1w")
                for a in "xyz"
            },
        },
    )
    images = []
    for number, (tail, field) in enumerate(fields.items()):
        images.append(
            SimulatedImage(
                "anat",
                tail,
                field[:, :, :, None, :].astype(np.float32),
                there.affine,
                {"Description": about, "Units": "mm"},
                tables={"desc-landmarks_stats": table} if number == 0 else {},
            )
        )
    return tuple(images)


def pose_table(t1w_to_other: Floats, image: str) -> Table:
    """Head pose between the T1w scan and another one.

    Parameters
    ----------
    t1w_to_other : (4, 4) array
        World to world, mm.
    image : str
        What the other image is called.

    Returns
    -------
    Table
        The matrix, one row per row.
    """
    columns = ("x", "y", "z", "offset")
    text = f"Matrix that takes a world position (RAS+) in the T1w image to the {image}."
    return Table(
        columns,
        tuple(tuple(np.round(row, 8).tolist()) for row in t1w_to_other[:3]),
        {c: {"Description": text, "Units": "mm" if c == "offset" else "1"} for c in columns},
    )


def landmark_table(anatomy: Anatomy, t1w_to_other: Floats, space: str, image: str) -> Table:
    """Where the landmarks lie in another scan than the T1w.

    Parameters
    ----------
    anatomy : Anatomy
        The person's head.
    t1w_to_other : (4, 4) array
        World to world, mm.
    space, image : str
        Beginning of the columns' names, and what the image is called.

    Returns
    -------
    Table
        One row per landmark.
    """
    marks = np.array(list(LANDMARKS.values()), dtype=np.float64)
    here = transform_points(t1w_to_other, anatomy.deformation.from_template(marks))
    return Table(
        ("name", *(f"{space}_{a}" for a in "xyz")),
        tuple((name, *np.round(p, 4).tolist()) for name, p in zip(LANDMARKS, here, strict=True)),
        {
            "name": {"Description": "Landmark, placed by eye on the template."},
            **{
                f"{space}_{a}": {"Description": f"World {a} in the {image}.", "Units": "mm"}
                for a in "xyz"
            },
        },
    )


def _sidecar(settings: PhantomSettings) -> dict[str, object]:
    return {
        "Modality": "MR",
        "Manufacturer": "Simulated",
        "MagneticFieldStrength": 3,
        "MRAcquisitionType": "3D",
        "PulseSequenceType": "MPRAGE",
        "ScanningSequence": "GR_IR",
        "SequenceVariant": "SK_SP_MP",
        "RepetitionTime": 2.3,
        "EchoTime": 0.003,
        "InversionTime": 0.9,
        "FlipAngle": 9,
        "SliceThickness": settings.t1w_mm,
        "NonlinearGradientCorrection": True,
        "BodyPart": "HEAD",
    }
