"""Compartments of legs that nobody labelled, and fat within them or within labelled muscles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bids_alsmri.errors import NumericsError
from bids_alsmri.interfaces.base import ImageData, read_image
from bids_alsmri.numerics.fatty_replacement import fat_fraction
from bids_alsmri.numerics.legs import Compartments, Legs, Tissue, find_legs, segment_compartments
from bids_alsmri.pipelines.muscle.steps import on_grid

# labels of the list of regions for the side that is not known; left is one more, right two
_FIRST = {
    Tissue.MUSCLE: 900,
    Tissue.SUBCUTANEOUS_FAT: 910,
    Tissue.INTERMUSCULAR_FAT: 920,
    Tissue.BONE_CORTEX: 930,
    Tissue.BONE_MARROW: 940,
    Tissue.OTHER: 950,
}
_OF_SIDE = {"unknown": 0, "left": 1, "right": 2}


@dataclass(frozen=True)
class SegmentedLegs:
    """Legs of a station.

    Parameters
    ----------
    labels : (X, Y, Z) array of int16
        Compartments by the numbers of the list of regions; 0 where there are none.
    fat : (X, Y, Z) array of float32
        Fat fraction by signal; NaN outside the legs, and everywhere where it was refused.
    contrast : float
        Signal of fat over that of muscle, the lesser of both legs; NaN without a leg.
    refusal : str
        Why the image states no fat fraction; empty where it does.
    warnings : tuple of str
        What could not be found.
    """

    labels: NDArray[np.int16]
    fat: NDArray[np.float32]
    contrast: float
    refusal: str
    warnings: tuple[str, ...]


def segment_legs(
    image: ImageData, title: str, *, field_order: int, least_contrast: float, doubt: str = ""
) -> SegmentedLegs:
    """Find legs, their compartments and the share of fat in each voxel.

    Parameters
    ----------
    image : ImageData
        Station, without fat suppression.
    title : str
        Its name, for warnings.
    field_order : int
        Highest order of the receive field over one leg.
    least_contrast : float
        Signal of fat over that of muscle from which their mixture is told by the signal.
    doubt : str
        What the sidecar says against that; empty for nothing.

    Returns
    -------
    SegmentedLegs
        Without a label where no leg can be told; a warning says why.
    """
    try:
        legs = find_legs(image.data, image.affine)
        found = segment_compartments(
            image.data, legs, np.array(image.voxel_mm), field_order=field_order
        )
    except NumericsError as error:
        shape = image.data.shape
        why = f"{title}: no compartments of legs could be found ({error})"
        nothing = np.full(shape, np.nan, np.float32)
        return SegmentedLegs(np.zeros(shape, np.int16), nothing, np.nan, str(error), (why,))
    contrast = min(found.fats)
    refusal = refuse_fat(contrast, least_contrast, doubt)
    fat = _fat_of_legs(legs, found)
    warnings = _doubts(legs, found, title)
    if refusal:
        fat[:] = np.nan
        warnings += (
            f"{title}: no fat fraction and no grade of fat, since {refusal}; fat between muscles "
            "may be too large in it, as dark lines around muscles count. Give a T1w or T2w in "
            "which fat is bright, or a Dixon pair",
        )
    return SegmentedLegs(compartment_labels(legs, found), fat, contrast, refusal, warnings)


def refuse_fat(contrast: float, least: float, doubt: str) -> str:
    """Why the signal of an image does not tell how much of a voxel is fat.

    Parameters
    ----------
    contrast : float
        Signal of fat over that of muscle.
    least : float
        From which it does.
    doubt : str
        What its sidecar says; empty for nothing.

    Returns
    -------
    str
        Empty where the signal tells.

    Examples
    --------
    >>> refuse_fat(2.7, 1.3, "")
    ''
    >>> refuse_fat(0.77, 1.3, "")[:50]
    'fat has 0.77 of the signal of muscle, less than 1.'
    """
    if doubt:
        return doubt
    if contrast >= least:
        return ""
    return (
        f"fat has {contrast:.2g} of the signal of muscle, less than {least:g}, as in echoes in "
        "which water and fat are opposed or with fat suppression"
    )


def facts_of_fat(found: SegmentedLegs) -> dict[str, object]:
    """What the sidecar of a fat fraction tells of its reference.

    Parameters
    ----------
    found : SegmentedLegs
        Legs of a station.

    Returns
    -------
    dict
        Signal of fat over that of muscle, and why no fraction is stated, where it is not.
    """
    told = {} if np.isnan(found.contrast) else {"SignalOverMuscle": round(found.contrast, 4)}
    return {"FatReference": {**told, **({"Refusal": found.refusal} if found.refusal else {})}}


def compartment_labels(legs: Legs, found: Compartments) -> NDArray[np.int16]:
    """Compartments of both legs by the numbers of the list of regions.

    Parameters
    ----------
    legs : Legs
        Legs and their sides.
    found : Compartments
        Their tissues.

    Returns
    -------
    (X, Y, Z) array of int16
        0 outside the legs.
    """
    labels = np.zeros(found.tissues.shape, np.int16)
    for number, side in enumerate(legs.sides, start=1):
        inside = legs.labels == number
        for tissue, first in _FIRST.items():
            labels[inside & (found.tissues == tissue)] = first + _OF_SIDE[side]
    return labels


def marrow_on(paths: Sequence[Path], station: ImageData) -> NDArray[np.bool_] | None:
    """Fatty marrow that was found on other stations of one frame, on the grid of a station.

    Parameters
    ----------
    paths : sequence of Path
        Compartments of legs.
    station : ImageData
        T2w station.

    Returns
    -------
    (X, Y, Z) array of bool or None
        None where no marrow lies in the station.
    """
    mask = np.zeros(station.data.shape, bool)
    first = _FIRST[Tissue.BONE_MARROW]
    for path in paths:
        found = read_image(path, ndim=3)
        marrow = (found.data >= first) & (found.data < first + len(_OF_SIDE))
        mask |= on_grid(marrow.astype(np.uint8), found.affine, station, order=0) > 0
    return mask if mask.any() else None


def _fat_of_legs(legs: Legs, found: Compartments) -> NDArray[np.float32]:
    fraction = np.full(found.tissues.shape, np.nan, np.float32)
    for number, fat in enumerate(found.fats, start=1):
        inside = legs.labels == number
        fraction[inside] = fat_fraction(found.even[inside], fat=fat, muscle=1.0)
    return fraction


def _doubts(legs: Legs, found: Compartments, title: str) -> tuple[str, ...]:
    doubts = []
    if legs.sides == ("unknown",):
        doubts.append(f"{title}: only one leg is in view, so its side is not known")
    for side, n in zip(legs.sides, found.n_bones, strict=True):
        if n == 0:
            doubts.append(f"{title}: no bone was found in the {side} leg")
    return tuple(doubts)
