"""What the report warns of: cut muscles, motion, fat that was not suppressed, lone sides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from bids_alsmri.interfaces.base import ImageData
from bids_alsmri.numerics.apparent_diffusion import fit_adc
from bids_alsmri.numerics.stations import displacement_between
from bids_alsmri.pipelines.muscle.measures import Measured
from bids_alsmri.pipelines.muscle.steps import Series, body_of, heights_of
from bids_alsmri.pipelines.muscle.vocabulary import Region, Vocabulary

# a series of many volumes is looked at in so many, evenly over it
_MOST_VOLUMES = 8
# of what is around the body, in voxels: its surface tells most of a displacement
_AROUND = 2
_SEARCHED = 3.0
# share of fat within one voxel about a voxel of it
_LEAST_AROUND = 0.25


def cut_muscles(
    station: Measured, others: Sequence[Measured], vocabulary: Vocabulary
) -> tuple[list[Region], list[Region]]:
    """Muscles that go on beyond what a station shows.

    Parameters
    ----------
    station : Measured
        With its labels.
    others : sequence of Measured
        All stations of the session.
    vocabulary : Vocabulary
        What labels mean.

    Returns
    -------
    at_sides : list of Region
        Those that reach a voxel at a side of the image.
    at_ends : list of Region
        Those that reach its upper or lower end where no other station of its contrast and frame
        shows them beyond it.
    """
    labels = station.numbers
    along = int(np.argmax(np.abs(station.labels.affine[2, :3])))
    regions = [r for r in vocabulary.regions if r.kind != "bone"]
    sides = set[int]()
    for axis in range(3):
        if axis != along:
            sides |= _on_faces(labels, axis, (0, -1))
    is_up = station.labels.affine[2, along] > 0
    ends = set[int]()
    for face, way in ((-1 if is_up else 0, 1), (0 if is_up else -1, -1)):
        beyond = _labels_beyond(station, others, way)
        ends |= _on_faces(labels, along, (face,)) - beyond
    return [r for r in regions if r.index in sides], [r for r in regions if r.index in ends]


def _on_faces(labels: NDArray[np.int16], axis: int, faces: tuple[int, ...]) -> set[int]:
    found = set[int]()
    for face in faces:
        found |= {int(i) for i in np.unique(labels.take(face, axis=axis))}
    return found - {0}


def _labels_beyond(station: Measured, others: Sequence[Measured], way: int) -> set[int]:
    """Labels of other stations above (1) or below (-1) the end of a station."""
    heights = heights_of(station.labels)
    end = float(heights.max() if way > 0 else heights.min())
    found = set[int]()
    for other in others:
        if other.key == station.key or (other.suffix, other.frame) != (
            station.suffix,
            station.frame,
        ):
            continue
        is_beyond = way * (heights_of(other.labels) - end) > 0
        found |= {int(i) for i in np.unique(other.numbers[is_beyond])}
    return found - {0}


def lone_sides(table: pd.DataFrame, vocabulary: Vocabulary) -> list[str]:
    """Muscles of the list of Jenkins 2020 of which one side alone was measured.

    Parameters
    ----------
    table : DataFrame
        Of a session.
    vocabulary : Vocabulary
        What muscles there are.

    Returns
    -------
    list of str
        Titles of the sides that are missing.
    """
    present = set(zip(table["region"], table["side"], strict=True))
    opposite = {"left": "right", "right": "left"}
    return [
        r.title
        for r in vocabulary.regions
        if r.in_jenkins2020
        and r.side in opposite
        and (r.name, r.side) not in present
        and (r.name, opposite[r.side]) in present
    ]


def series_warnings(
    series: Series,
    title: str,
    *,
    most_motion_mm: float,
    fat_most_adc: float,
    most_unsuppressed: float,
) -> list[str]:
    """Doubts of a diffusion station: motion within it, and fat that was not suppressed.

    Parameters
    ----------
    series : Series
        All volumes.
    title : str
        Name of the station.
    most_motion_mm, fat_most_adc, most_unsuppressed : float
        As in the settings.

    Returns
    -------
    list of str
        Warnings.
    """
    return [
        *motion_warnings(series, title, most_mm=most_motion_mm),
        *fat_warnings(series, title, most_adc_mm2_s=fat_most_adc, most_share=most_unsuppressed),
    ]


def motion_warnings(series: Series, title: str, *, most_mm: float) -> list[str]:
    """Volumes of a diffusion station that lie elsewhere than its first.

    Parameters
    ----------
    series : Series
        All volumes.
    title : str
        Name of the station.
    most_mm : float
        Displacement from which it is told, in mm.

    Returns
    -------
    list of str
        One warning at most.
    """
    data = series.image.data
    n = data.shape[3]
    least = int(np.argmin(series.b_values))
    first = data[..., least]
    mask = _around_body(series.image, first)
    found: dict[int, float] = {}
    for volume in np.unique(np.linspace(0, n - 1, min(n, _MOST_VOLUMES)).round().astype(int)):
        if volume != least:
            found[int(volume)] = _distance(first, data[..., volume], series.image, mask, most_mm)
    worst = max(found, key=lambda v: np.nan_to_num(found[v]), default=None)
    if worst is None or not found[worst] > most_mm:
        return []
    return [
        f"{title}: volume {worst + 1} lies {found[worst]:.0f} mm from volume {least + 1}, more "
        f"than {most_mm:g} mm: the participant moved within the series, and ADC is wrong at the "
        "edges of muscles"
    ]


def position_warnings(
    relative: NDArray[Any], target: ImageData, title: str, *, most_mm: float
) -> list[str]:
    """A diffusion station that lies elsewhere than the T2w stations that are brought to it.

    Parameters
    ----------
    relative : (X, Y, Z) array
        T2w on the grid of the diffusion station; 0 where there is none.
    target : ImageData
        Diffusion station without weighting.
    title : str
        Its name.
    most_mm : float
        Displacement from which it is told, in mm.

    Returns
    -------
    list of str
        One warning at most.
    """
    moved = np.asarray(relative, np.float64)
    # slices that no T2w station reaches hold zeros
    known = (moved > 0).any(axis=_axes_across(target), keepdims=True)
    if not known.any():
        return []
    mask = _around_body(target, target.data) & known
    found = _distance(target.data, moved, target, mask, most_mm)
    if not found > most_mm:
        return []
    return [
        f"{title}: lies {found:.0f} mm from the T2w stations, more than {most_mm:g} mm: the "
        "participant moved between them, and labels and relative T2 signal on it are of other "
        "tissue; draw labels on the diffusion series itself"
    ]


def _axes_across(image: ImageData) -> tuple[int, ...]:
    along = int(np.argmax(np.abs(image.affine[2, :3])))
    return tuple(axis for axis in range(3) if axis != along)


def _around_body(image: ImageData, values: NDArray[Any]) -> NDArray[np.bool_]:
    body = body_of(ImageData(values, image.affine, image.voxel_mm, image.path, image.warnings))
    return np.asarray(ndimage.binary_dilation(body, iterations=_AROUND))


def _distance(
    first: NDArray[Any],
    second: NDArray[Any],
    image: ImageData,
    mask: NDArray[np.bool_],
    most_mm: float,
) -> float:
    shift = displacement_between(
        first, second, image.affine, mask=mask, reach_mm=_SEARCHED * most_mm
    )
    return float(np.linalg.norm(shift))


def fat_warnings(
    series: Series, title: str, *, most_adc_mm2_s: float, most_share: float
) -> list[str]:
    """Fat of a diffusion station that was not suppressed: bright, and hardly diffusing.

    Parameters
    ----------
    series : Series
        All volumes.
    title : str
        Name of the station.
    most_adc_mm2_s : float
        Diffusion coefficient up to which a voxel counts as fat.
    most_share : float
        Share of the body from which it is told.

    Returns
    -------
    list of str
        One warning at most.
    """
    first = series.image.data[..., int(np.argmin(series.b_values))]
    is_tissue = first > 0.5 * np.median(first[body_of(_with(series.image, first))])
    adc = fit_adc(series.image.data, series.b_values)
    is_fat = is_tissue & (np.nan_to_num(adc, nan=np.inf) < most_adc_mm2_s)
    # voxels by themselves are noise; fat is a layer
    is_fat &= ndimage.uniform_filter(is_fat.astype(np.float32), size=3) > _LEAST_AROUND
    share = float(is_fat.sum() / max(int(is_tissue.sum()), 1))
    if share <= most_share:
        return []
    return [
        f"{title}: {100 * share:.0f} % of the tissue is bright and diffuses less than "
        f"{most_adc_mm2_s:g} mm2/s, more than {100 * most_share:g} %: fat was not suppressed "
        "there, and where it falls on muscles their ADC is too low"
    ]


def _with(image: ImageData, values: NDArray[Any]) -> ImageData:
    return ImageData(values, image.affine, image.voxel_mm, image.path, image.warnings)


def cut_facts(
    stations: Sequence[Measured], vocabulary: Vocabulary, listed: Any
) -> Mapping[str, list[str]]:
    """Warnings and notes of muscles that are cut.

    Parameters
    ----------
    stations : sequence of Measured
        Of a session.
    vocabulary : Vocabulary
        What labels mean.
    listed : callable
        From names to a text.

    Returns
    -------
    mapping of list of str
        ``warnings`` of what is cut at a side, ``notes`` of what is cut at an end.
    """
    warnings, notes = [], []
    for station in stations:
        at_sides, at_ends = cut_muscles(station, stations, vocabulary)
        if at_sides:
            warnings.append(
                f"{station.title}: {listed([r.title for r in at_sides])} reach the side of the "
                "image: they are cut, and their volume and area are too small"
            )
        if at_ends:
            notes.append(
                f"{station.title}: {listed([r.title for r in at_ends])} go on beyond its ends: "
                "volumes are of the part in view"
            )
    return {"warnings": warnings, "notes": notes}
