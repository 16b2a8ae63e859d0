r"""Maps of a cohort in template space, as arrays, without simulating images.

A participant is the healthy mean plus the group's planted difference, seen through a small smooth
warp (what registration leaves), plus a smooth field of the participant's own, plus noise of each
voxel. Differences are planted along corticospinal tract and callosum and are exactly 0 elsewhere,
so that maps tell how often a comparison finds what is there, and how often it finds what is not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bids_alsmri.errors import SettingsError
from bids_alsmri.phantom.anat import TEMPLATE_NAME
from bids_alsmri.phantom.cohort import stream
from bids_alsmri.phantom.geometry import Grid
from bids_alsmri.phantom.head import sample_map
from bids_alsmri.phantom.map_settings import DRAWN, MapSettings
from bids_alsmri.phantom.records import Participant
from bids_alsmri.phantom.tracts import (
    FA_GREY,
    FAST_FA,
    MD_FLUID,
    MD_GREY,
    MD_WHITE,
    SLOW_FA,
    axisymmetric,
    build_tracts,
)
from bids_alsmri.spaces.templates import get_template

Floats = NDArray[np.float64]
Single = NDArray[np.float32]
Mask = NDArray[np.bool_]

TENSOR_MAPS = ("fa", "md", "ad", "rd")
UNITS = {"fa": "1", "md": "mm2/s", "ad": "mm2/s", "rd": "mm2/s", "tsc": "mmol/l", "gm": "1"}

# Tissue sodium in mmol/l and the width of the image's point spread (mm); chosen so that controls
# have about 53 mmol/l where differences are planted, as in El Mendili 2022.
TSC_WHITE, TSC_GREY, TSC_FLUID, TSC_BLUR_MM = 49.0, 52.0, 140.0, 6.0

# Spread of the share of grey matter in a voxel, from one segmentation to the next.
GREY_NOISE_SD = 0.05

# Share of the phantom's largest change, and of white matter, from which a voxel is planted.
PLANTED_WEIGHT, PLANTED_WHITE = 0.5, 0.5

# Ranges in which a tensor and a concentration can lie; noise must not leave them.
RANGES = {"fa": (0.01, 0.99), "md": (1e-4, 4e-3), "tsc": (0.0, 300.0)}

FWHM_TO_SD = 1 / np.sqrt(8 * np.log(2))


@dataclass(frozen=True)
class MapTruth:
    """What the maps of a cohort are made of, on the grid of the template.

    Parameters
    ----------
    affine : (4, 4) array
        Voxel to template world, in mm.
    mask : (i, j, k) array of bool
        Brain of the template.
    healthy : dict of (i, j, k) array of float32
        Mean of controls by map (fa, md, tsc, gm), in its unit.
    grey_to_fluid : (i, j, k) array of float32
        Rise of TSC if all grey matter became fluid, in mmol/l.
    planted : dict of (i, j, k) array of bool
        Voxels that differ from controls, by kind (fast, slow).
    difference : dict of dict of (i, j, k) array of float32
        Planted difference to controls by kind and map, in the unit of the map.
    """

    affine: Floats
    mask: Mask
    healthy: Mapping[str, Single]
    grey_to_fluid: Single
    planted: Mapping[str, Mask]
    difference: Mapping[str, Mapping[str, Single]]

    def contrast_difference(self, first: Iterable[str], second: Iterable[str], name: str) -> Single:
        """Planted difference between the means of two groups.

        Parameters
        ----------
        first, second : iterable of str
            Kinds (hc, fast, slow) of the members of each group, one for each participant.
        name : {"fa", "md", "tsc"}
            Map.

        Returns
        -------
        (i, j, k) array of float32
            First less second, in the unit of the map.

        Raises
        ------
        SettingsError
            If a group has no member.
        """
        sides = []
        for members in (list(first), list(second)):
            if not members:
                raise SettingsError("a group of a contrast has no member; give at least one each")
            total = np.zeros(self.mask.shape, dtype=np.float64)
            for kind in members:
                if kind in self.difference:
                    total += self.difference[kind][name]
            sides.append(total / len(members))
        return np.asarray(sides[0] - sides[1], dtype=np.float32)


def build_truth(settings: MapSettings) -> MapTruth:
    r"""Healthy means and planted differences on the grid of the embedded template.

    Parameters
    ----------
    settings : MapSettings
        Voxel size and effects.

    Returns
    -------
    MapTruth
        The same for all cohorts of these settings.

    Notes
    -----
    Diffusivities along and across are those of white matter (FA from the phantom's tracts), grey
    matter and fluid, weighted by the template's tissue fractions;
    :math:`F = (d_\parallel - d_\perp) / \sqrt{d_\parallel^2 + 2 d_\perp^2}`. In white matter a
    planted voxel is one where the phantom's images have at least half of their largest change of
    FA in that group: corticospinal tract and callosum in fast progressors, the tract below the
    motor strip and the callosum's body in slow ones.
    """
    template = get_template(TEMPLATE_NAME, settings.voxel_mm)
    white, grey, fluid, brain = (
        np.asarray(image.dataobj, dtype=np.float32)
        for image in (template.wm, template.gm, template.csf, template.mask)
    )
    affine = np.asarray(template.mask.affine, dtype=np.float64)
    mask = brain > 0
    points = Grid((mask.shape[0], mask.shape[1], mask.shape[2]), affine).points_mm()
    tracts = build_tracts()

    def at_grid(values: Single) -> Single:
        return sample_map(values, tracts.to_world, points)

    along = np.zeros(mask.shape, dtype=np.float64)
    across = np.zeros(mask.shape, dtype=np.float64)
    for share, tissue_fa, tissue_md in (
        (white, np.clip(at_grid(tracts.fa), 0.05, 0.95), MD_WHITE),
        (grey, np.full(mask.shape, FA_GREY), MD_GREY),
        (fluid, np.zeros(mask.shape), MD_FLUID),
    ):
        one, other = axisymmetric(tissue_fa, np.full(mask.shape, tissue_md))
        along += share * one
        across += share * other
    total = np.where(mask, white + grey + fluid, 1.0)
    along, across = along / total, across / total
    scale = np.sqrt(along**2 + 2 * across**2)
    fa = np.divide(along - across, scale, out=np.zeros(mask.shape), where=scale > 0)
    sodium = (white * TSC_WHITE + grey * TSC_GREY + fluid * TSC_FLUID) / total
    grey_share = np.where(mask, grey, 0.0) / total
    replaced = _blurred(grey_share * (TSC_FLUID - TSC_GREY), mask, settings)
    healthy = {
        "fa": fa,
        "md": (along + 2 * across) / 3,
        "tsc": _blurred(sodium, mask, settings),
        "gm": grey_share,
    }
    is_white = mask & (white >= PLANTED_WHITE)
    fast = is_white & (at_grid(tracts.fast_fa / FAST_FA) >= PLANTED_WEIGHT)
    # inside the other, so that slow progressors are nowhere worse than fast ones
    slow = fast & (at_grid(tracts.slow_fa / SLOW_FA) >= PLANTED_WEIGHT)
    planted = {"fast": fast, "slow": slow}
    return MapTruth(
        affine=affine,
        mask=mask,
        healthy={name: np.where(mask, m, 0).astype(np.float32) for name, m in healthy.items()},
        grey_to_fluid=np.where(mask, replaced, 0).astype(np.float32),
        planted=planted,
        difference={
            kind: {
                name: (settings.planted_difference(kind, name) * where).astype(np.float32)
                for name in DRAWN
            }
            for kind, where in planted.items()
        },
    )


def _blurred(values: Floats, mask: Mask, settings: MapSettings) -> Floats:
    """Values blurred by the point spread of sodium images, from the brain's own voxels alone."""
    sd = TSC_BLUR_MM * FWHM_TO_SD / settings.voxel_mm
    weight = ndimage.gaussian_filter(mask.astype(np.float64), sd)
    blurred = ndimage.gaussian_filter(np.where(mask, values, 0.0), sd)
    return np.asarray(np.divide(blurred, weight, out=np.zeros(mask.shape), where=mask))


def simulate_maps(
    participants: Iterable[Participant], settings: MapSettings, truth: MapTruth
) -> Iterator[dict[str, Single]]:
    """Draw the maps of participants, one after the other.

    Parameters
    ----------
    participants : iterable of Participant
        Who; only kind and number within it count, so a person does not depend on the cohort.
    settings : MapSettings
        How people differ.
    truth : MapTruth
        From `build_truth` with the same settings.

    Yields
    ------
    dict of (i, j, k) array of float32
        ``fa`` (dimensionless), ``md``, ``ad``, ``rd`` (mm2/s), ``tsc`` (mmol/l) and ``gm`` (share
        of grey matter) on the grid of `truth`, 0 outside its mask. ``ad`` and ``rd`` are those of
        an axisymmetric tensor with this FA and MD. Own fields and noise of FA, MD and TSC are
        independent of each other, and nothing depends on age or sex. Grey matter that is lost
        becomes fluid in TSC and in no other map.
    """
    for person in participants:
        yield draw_maps(person, settings, truth)


def draw_maps(
    person: Participant, settings: MapSettings, truth: MapTruth, visit: int = 0
) -> dict[str, Single]:
    """Draw the maps of one participant at one visit.

    Parameters
    ----------
    person : Participant
        Who.
    settings : MapSettings
        How people differ.
    truth : MapTruth
        From `build_truth` with the same settings.
    visit : int
        From 0. Later ones have noise of their own, and the disease has grown.

    Returns
    -------
    dict of (i, j, k) array of float32
        As of `simulate_maps`.
    """
    # fields are drawn in the box of the brain alone: half the voxels
    box = ndimage.find_objects(truth.mask.astype(np.int8))[0]
    shape = truth.mask[box].shape
    rng = stream(settings.seed, person, "maps")
    moved = np.indices(shape, dtype=np.float32)
    for axis in moved:
        warp = smooth_field(rng, shape, settings.registration_fwhm_mm / settings.voxel_mm)
        axis += settings.registration_sd_mm / settings.voxel_mm * warp
    maps = {}
    grown = 1 + visit * settings.growth_per_visit
    loss = grey_loss_of(person, settings, grown)
    for name in DRAWN:
        mean = truth.healthy[name][box]
        if person.kind in truth.difference:
            mean = mean + grown * truth.difference[person.kind][name][box]
        if name == "tsc" and loss:
            mean = mean + loss * truth.grey_to_fluid[box]
        values = ndimage.map_coordinates(mean, moved, order=1, mode="nearest")
        common = rng.standard_normal()
        own = smooth_field(rng, shape, settings.between_fwhm_mm / settings.voxel_mm)
        share = settings.global_share
        values += settings.between_sd[name] * (share**0.5 * common + (1 - share) ** 0.5 * own)
        noise = rng.standard_normal(shape, dtype=np.float32)
        if visit:
            own_stream = stream(settings.seed, person, "visit", str(visit), name)
            noise = own_stream.standard_normal(shape, dtype=np.float32)
        values += settings.noise_sd[name] * noise
        maps[name] = np.clip(values, *RANGES[name])
    maps["ad"], maps["rd"] = axisymmetric(maps["fa"], maps["md"])
    # streams of their own: the other maps are what they would be without
    segmented = stream(settings.seed, person, "grey", str(visit))
    share = ndimage.map_coordinates(truth.healthy["gm"][box], moved, order=1, mode="nearest")
    noise = GREY_NOISE_SD * segmented.standard_normal(shape, dtype=np.float32)
    maps["gm"] = np.clip((1 - loss) * share + noise, 0.0, 1.0)
    whole = {}
    for name, values in maps.items():
        whole[name] = np.zeros(truth.mask.shape, dtype=np.float32)
        whole[name][box] = np.where(truth.mask[box], values, 0)
    return whole


def grey_loss_of(person: Participant, settings: MapSettings, grown: float = 1.0) -> float:
    """Share of grey matter that a participant lacks.

    Parameters
    ----------
    person : Participant
        Who.
    settings : MapSettings
        The mean loss of patients, and how people differ.
    grown : float
        Loss at a visit over that at the first.

    Returns
    -------
    float
        Of patients between half and one and a half of their mean; then what the person has less by
        nature, at all visits, or if it is below 0 more.
    """
    rng = stream(settings.seed, person, "grey")
    lost = settings.grey_loss * rng.uniform(0.5, 1.5) if person.group == "als" else 0.0
    return grown * lost + settings.grey_sd * rng.standard_normal()


def smooth_field(rng: np.random.Generator, shape: tuple[int, ...], fwhm_voxels: float) -> Single:
    """Stationary Gaussian field of mean 0 and variance 1, periodic at the edges.

    Parameters
    ----------
    rng : Generator
        Random stream.
    shape : tuple of int
        Voxels along each axis.
    fwhm_voxels : float
        Width of the Gaussian that white noise is smoothed with, in voxels, 0 or more.

    Returns
    -------
    array of float32
        Of that shape.

    Examples
    --------
    >>> smooth_field(np.random.default_rng(0), (4, 5, 6), 2.0).shape
    (4, 5, 6)
    """
    noise = rng.standard_normal(shape, dtype=np.float32)
    sd = fwhm_voxels * FWHM_TO_SD
    norm = 1.0
    for n in shape:
        impulse = np.zeros(n)
        impulse[0] = 1
        norm *= float(np.linalg.norm(ndimage.gaussian_filter1d(impulse, sd, mode="wrap")))
    # without wrapping, fields would vary more at the edges of the box
    smooth = ndimage.gaussian_filter(noise, sd, mode="wrap")
    return np.asarray(smooth / np.float32(norm), dtype=np.float32)
