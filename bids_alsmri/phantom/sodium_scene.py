"""What is in the scanner when a sodium image is made: head, disease effect, tubes and coil."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from bids_alsmri.phantom.anat import bias_field
from bids_alsmri.phantom.anatomy import SLAB_POINTS, Anatomy
from bids_alsmri.phantom.cohort import stream
from bids_alsmri.phantom.geometry import Grid, transform_points
from bids_alsmri.phantom.head import HeadSample, sample_map
from bids_alsmri.phantom.records import Participant, PhantomSettings, SodiumSettings
from bids_alsmri.phantom.tracts import FAST_FA, HIGH_MM, LOW_MM, build_tracts
from bids_alsmri.phantom.tubes import Tube, filled_share, place_tubes

Floats = NDArray[np.float64]
Single = NDArray[np.float32]

# At the neck the coil ends: there its sensitivity falls from one to zero.
FADE_MM = (5.0, 35.0)

# Sodium in mmol/L: what a fifth (white matter) or a quarter (grey matter) of space between cells,
# at 140 mmol/L, and cells at 10 to 15 mmol/L come to (both from Fleysher 2013, PMC3691850).
TSC_WHITE, TSC_GREY, TSC_FLUID = 36.0, 45.0, 140.0

# Between persons, relative: what white and grey matter share, and what each has of its own.
COMMON_SD, OWN_SD = 0.04, 0.02
# Relative change at the core of tract and callosum in a participant of severity 1. Sign, place and
# order follow El Mendili 2022 (59.2 against 53.1 mmol/L in fast progressors, slow like controls).
FAST_TSC, SLOW_TSC = 0.15, 0.05
FOCAL_TSC = 0.10
FOCAL_EDGE = (0.4, 0.6)


@dataclass(frozen=True)
class Scene:
    """What is in the scanner, on the fine grid.

    Parameters
    ----------
    sample : HeadSample
        Tissue in the head's pose of the sodium scan.
    white_mmol_l, grey_mmol_l : (i, j, k) array of float32
        Concentration of white and grey matter where there is some.
    effect : (i, j, k) array of float32
        Relative change of tissue by the disease.
    tubes : tuple of Tube
        The tubes.
    shares : tuple of (i, j, k) array of float32
        Share of each voxel that each tube fills.
    sensitivity : (i, j, k) array of float32
        Of the coil, dimensionless.
    """

    sample: HeadSample
    white_mmol_l: Single
    grey_mmol_l: Single
    effect: Single
    tubes: tuple[Tube, ...]
    shares: tuple[Single, ...]
    sensitivity: Single

    @property
    def agar_mmol_l(self) -> Single:
        """Sodium of the tubes in each voxel, in mmol/L."""
        total = np.zeros(self.effect.shape, dtype=np.float32)
        for tube, share in zip(self.tubes, self.shares, strict=True):
            total += np.float32(tube.concentration_mmol_l) * share
        return total

    @property
    def tsc_mmol_l(self) -> Single:
        """Sodium of each voxel, tubes included, in mmol/L."""
        return head_tsc(self.sample, self.white_mmol_l, self.grey_mmol_l) + self.agar_mmol_l


def person_tsc(participant: Participant, seed: int) -> tuple[float, float]:
    """Concentrations of a person's white and grey matter before any effect.

    Parameters
    ----------
    participant : Participant
        Who.
    seed : int
        The cohort's seed.

    Returns
    -------
    white, grey : float
        In mmol/L; the same in all sessions.
    """
    common, white, grey = stream(seed, participant, "sodium-person").normal(size=3)
    return (
        TSC_WHITE * float(1 + COMMON_SD * common + OWN_SD * white),
        TSC_GREY * float(1 + COMMON_SD * common + OWN_SD * grey),
    )


def coil_sensitivity(grid: Grid, bias: float, rng: np.random.Generator) -> Single:
    """Receive field of the coil, which ends at the neck.

    Parameters
    ----------
    grid : Grid
        Where.
    bias : float
        Largest deviation of its smooth part from one.
    rng : Generator
        Random stream.

    Returns
    -------
    (i, j, k) array of float32
        Dimensionless.
    """
    height_mm = (np.arange(grid.shape[2]) + 0.5) * float(np.linalg.norm(grid.affine[:3, 2]))
    ramp = np.clip((height_mm - FADE_MM[0]) / (FADE_MM[1] - FADE_MM[0]), 0, 1)
    fade = np.sin(np.pi / 2 * ramp) ** 2
    field = bias_field(grid, rng, bias) if bias else np.ones(grid.shape)
    return np.asarray(field * fade, dtype=np.float32)


@lru_cache(maxsize=1)
def effect_maps() -> dict[str, Single]:
    """Relative changes of tissue sodium at severity 1, on the lattice of the tracts.

    Returns
    -------
    dict of (i, j, k) array of float32
        ``fast``, ``slow`` and ``focal``.
    """
    tracts = build_tracts()
    core = tracts.fast_fa / np.float32(FAST_FA)
    heights = np.linspace(LOW_MM[2], HIGH_MM[2], tracts.cst.shape[2], dtype=np.float32)
    # as for diffusion: the weight in the brainstem stands for all lengthwise fibres
    above_pons = np.clip((heights + 45) / 30, 0, 1)
    low, high = FOCAL_EDGE
    plateau = np.clip((tracts.cst * above_pons - low) / (high - low), 0, 1)
    return {
        "fast": FAST_TSC * core,
        "slow": SLOW_TSC * core,
        "focal": np.float32(FOCAL_TSC) * plateau,
    }


def relative_effect(
    participant: Participant, settings: PhantomSettings, template_mm: Floats
) -> Single:
    """Relative change of tissue sodium in a person at template points.

    Parameters
    ----------
    participant : Participant
        Kind and severity.
    settings : PhantomSettings
        Which effect, and the factor on it.
    template_mm : (n, 3) array
        Positions in template space, in mm.

    Returns
    -------
    (n,) array of float32
        0 for controls.
    """
    if participant.kind == "hc":
        return np.zeros(len(template_mm), dtype=np.float32)
    focal = settings.sodium.effect == "focal"
    change = effect_maps()["focal" if focal else participant.kind]
    size = settings.effect_scale * (1.0 if focal else participant.severity)
    return np.float32(size) * sample_map(change, build_tracts().to_world, template_mm)


def lay_out_tissue(
    participant: Participant,
    anatomy: Anatomy,
    grid: Grid,
    grid_to_t1w: Floats,
    settings: PhantomSettings,
) -> tuple[HeadSample, Single]:
    """Tissue and relative effect on a grid.

    Parameters
    ----------
    participant : Participant
        Who.
    anatomy : Anatomy
        The person's head.
    grid : Grid
        Where.
    grid_to_t1w : (4, 4) array
        From the world of the grid to the person's T1w space, in mm.
    settings : PhantomSettings
        The effect.

    Returns
    -------
    sample : HeadSample
        Tissue.
    effect : (i, j, k) array of float32
        Relative change of white and grey matter, 0 elsewhere.
    """
    sample = anatomy.sample_grid(grid, grid_to_t1w)
    effect = np.zeros(grid.shape, dtype=np.float32)
    at = np.flatnonzero(sample.white + sample.grey > 0.01)
    for some in np.array_split(at, max(1, len(at) // SLAB_POINTS)):
        voxels = np.stack(np.unravel_index(some, grid.shape), -1).astype(np.float64)
        points = transform_points(grid_to_t1w @ grid.affine, voxels)
        there = anatomy.deformation.to_template(points)
        effect.reshape(-1)[some] = relative_effect(participant, settings, there)
    return sample, effect


def tissue_tsc(
    effect: Single, person: tuple[float, float], settings: SodiumSettings
) -> tuple[Single, Single]:
    """Concentration of white and grey matter.

    Parameters
    ----------
    effect : (...) array
        Relative change.
    person : (float, float)
        The person's concentrations, in mmol/L.
    settings : SodiumSettings
        The focal effect leaves grey matter alone.

    Returns
    -------
    white, grey : (...) array of float32
        In mmol/L of the tissue.
    """
    white, grey = (np.float32(c) for c in person)
    of_grey = np.zeros_like(effect) if settings.effect == "focal" else effect
    return white * (1 + effect), grey * (1 + of_grey)


def head_tsc(sample: HeadSample, white_mmol_l: Single, grey_mmol_l: Single) -> Single:
    """Sodium of the head.

    Parameters
    ----------
    sample : HeadSample
        Tissue.
    white_mmol_l, grey_mmol_l : (...) array
        Concentration of white and grey matter.

    Returns
    -------
    (...) array of float32
        In mmol/L of the voxel.
    """
    return np.asarray(
        sample.white * white_mmol_l
        + sample.grey * grey_mmol_l
        + sample.fluid * np.float32(TSC_FLUID)
        + sample.other_sodium
    )


def lay_out(
    participant: Participant,
    anatomy: Anatomy,
    fine: Grid,
    settings: PhantomSettings,
    *,
    t1w_to_sodium: Floats,
    person: tuple[float, float],
    sensitivity: Single,
    rng: np.random.Generator,
) -> Scene:
    """Put head and tubes into the scanner.

    Parameters
    ----------
    participant : Participant
        Who.
    anatomy : Anatomy
        The person's head.
    fine : Grid
        Where, in the world of the sodium scan.
    settings : PhantomSettings
        Effect and tubes.
    t1w_to_sodium : (4, 4) array
        Head pose between the scans, mm.
    person : (float, float)
        The person's concentrations, in mmol/L.
    sensitivity : (i, j, k) array
        Of the coil.
    rng : Generator
        Random stream of the tubes.

    Returns
    -------
    Scene
        On `fine`.
    """
    sodium_to_t1w = np.asarray(np.linalg.inv(t1w_to_sodium), dtype=np.float64)
    sample, effect = lay_out_tissue(participant, anatomy, fine, sodium_to_t1w, settings)
    white, grey = tissue_tsc(effect, person, settings.sodium)
    head = sample.white + sample.grey + sample.fluid + sample.other_sodium > 0
    brain = np.argwhere(sample.brain > 0.5).mean(axis=0)
    middle_mm = transform_points(fine.affine, brain)
    tubes = place_tubes(head, fine, middle_mm, settings.sodium, rng)
    shares = tuple(filled_share(tube, fine) for tube in tubes)
    return Scene(sample, white, grey, effect, tubes, shares, sensitivity)
