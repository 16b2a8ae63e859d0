"""Steps of the muscle pipeline on images already read: stations, references, diffusion."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from bids_alsmri.errors import DataError, NumericsError
from bids_alsmri.interfaces.base import ImageData, read_image
from bids_alsmri.numerics.apparent_diffusion import check_b_values
from bids_alsmri.numerics.fatty_replacement import fat_shift_hz
from bids_alsmri.numerics.noise import Noise, noise_of_air
from bids_alsmri.numerics.relative_signal import BoneReference, find_bone_reference
from bids_alsmri.numerics.stations import (
    compare_overlap,
    count_limbs,
    extent_of,
    find_neighbours,
    lie_at_one_place,
    order_from_head,
)
from bids_alsmri.numerics.tissue_field import tissue_field
from bids_alsmri.pipelines.muscle.vocabulary import Vocabulary

Facts = dict[str, Any]
Array = NDArray[np.floating[Any]]
_LEGS = ("LEG", "THIGH", "CALF", "KNEE", "LOWER LIMB", "LOWERLIMB", "FEMUR", "TIBIA")
_ONE_PART = ("HEAD", "NECK", "BRAIN", "CHEST", "THORAX", "ABDOMEN", "SPINE", "TRUNK")
# a mirrored body fits its neighbour better when it is mirrored back, by more than chance
_MIRROR_MARGIN = 0.05
# of the scanner, which turns stored numbers into signal
_SCALE_KEYS = ("RescaleSlope", "PhilipsRescaleSlope", "PhilipsScaleSlope", "ReceiverGain")
# share of the 99th percentile from which a voxel counts as body, not air
_BODY_SHARE = 0.08
_N_AXES = 3
# stations whose table moved by this much less or more than their headers tell contradict them
_MOST_TABLE_ERROR_MM = 50.0


@dataclass(frozen=True)
class Placed:
    """A station with its place.

    Parameters
    ----------
    key, title, chunk, acquisition, suffix : str
        What it is.
    path : Path
        Its image, the first where it has several.
    frame : str
        Frame of reference.
    body_part : str
        What its sidecar calls it; empty for nothing.
    low_mm, high_mm : float
        Ends along the body.
    table_mm : float or None
        Place of the table along the body, where its sidecar tells.
    """

    key: str
    title: str
    chunk: str
    acquisition: str
    suffix: str
    path: Path
    frame: str
    body_part: str
    low_mm: float = 0.0
    high_mm: float = 0.0
    table_mm: float | None = None


def body_part_of(metadata: Mapping[str, Any]) -> str:
    """Part of the body that a sidecar names, in capitals; empty for none.

    Parameters
    ----------
    metadata : mapping
        Sidecar: BodyPart, or BodyPartExamined as DICOM calls it.

    Returns
    -------
    str
        As it stands there.
    """
    return str(metadata.get("BodyPart") or metadata.get("BodyPartExamined") or "").upper()


def table_of(metadata: Mapping[str, Any]) -> float | None:
    """Place of the table along the body.

    Parameters
    ----------
    metadata : mapping
        Sidecar with TablePosition: three numbers in mm, the last along the body.

    Returns
    -------
    float or None
        In mm; None where the sidecar does not tell.

    Examples
    --------
    >>> table_of({"TablePosition": [0, 0, -350]}), table_of({})
    (-350.0, None)
    """
    place = metadata.get("TablePosition")
    if not isinstance(place, list | tuple) or len(place) != _N_AXES:
        return None
    return float(place[-1]) if isinstance(place[-1], int | float) else None


def frame_of(metadata: Mapping[str, Any], acquisition: str) -> str:
    """Frame of reference of a station: as its sidecar tells, else its acquisition.

    Parameters
    ----------
    metadata : mapping
        Sidecar.
    acquisition : str
        Label of the acquisition.

    Returns
    -------
    str
        Stations of different frames are never put together.
    """
    uid = metadata.get("FrameOfReferenceUID")
    return str(uid) if uid else f"acq-{acquisition}"


def first_volume(path: Path) -> ImageData:
    """First volume of an image or series.

    Parameters
    ----------
    path : Path
        Image.

    Returns
    -------
    ImageData
        3D.
    """
    image = read_image(path, ndim=None)
    if image.data.ndim == 3:
        return image
    return ImageData(image.data[..., 0], image.affine, image.voxel_mm, image.path, image.warnings)


def order_stations(
    stations: Sequence[Mapping[str, Any]],
    paths: Sequence[Path],
    metadata: Sequence[Mapping[str, Any]],
    *,
    step_mm: float,
    most_shift_mm: float,
    least_overlap_mm: float,
) -> tuple[pd.DataFrame, Facts]:
    """Stations from head to foot, how neighbours agree, and what contradicts their headers.

    Parameters
    ----------
    stations : sequence of mapping
        Key, title, chunk, acquisition and suffix of each.
    paths : sequence of Path
        First image of each.
    metadata : sequence of mapping
        Sidecar of each.
    step_mm, most_shift_mm, least_overlap_mm : float
        As in the settings.

    Returns
    -------
    table : DataFrame
        One row for each station.
    facts : dict
        Measures, warnings and notes.
    """
    placed, images = [], {}
    for station, path, sidecar in zip(stations, paths, metadata, strict=True):
        image = first_volume(path)
        box = extent_of(image.affine, image.data.shape)
        images[station["key"]] = image
        placed.append(
            Placed(
                **station,
                path=path,
                frame=frame_of(sidecar, station["acquisition"]),
                body_part=body_part_of(sidecar),
                table_mm=table_of(sidecar),
                low_mm=float(box.low_mm[2]),
                high_mm=float(box.high_mm[2]),
            )
        )
    rows: list[dict[str, Any]] = []
    warnings: list[str] = []
    for chain in _chains(placed):
        rows += _rows_of_chain(
            chain,
            images,
            warnings,
            step_mm=step_mm,
            most_shift_mm=most_shift_mm,
            least_overlap_mm=least_overlap_mm,
        )
    table = pd.DataFrame(rows)
    notes = [
        f"{n} frames of reference: stations of different frames are not put together"
        for n in [table["frame"].nunique()]
        if n > 1
    ]
    return table, {"measures": _measures(table), "warnings": warnings, "notes": notes}


def _chains(placed: Sequence[Placed]) -> list[list[Placed]]:
    """Stations of one frame, acquisition and contrast."""
    chains: dict[tuple[str, str, str], list[Placed]] = {}
    for station in placed:
        chains.setdefault((station.suffix, station.acquisition, station.frame), []).append(station)
    return list(chains.values())


def _rows_of_chain(
    chain: Sequence[Placed],
    images: Mapping[str, ImageData],
    warnings: list[str],
    *,
    step_mm: float,
    most_shift_mm: float,
    least_overlap_mm: float,
) -> list[dict[str, Any]]:
    boxes = [extent_of(images[s.key].affine, images[s.key].data.shape) for s in chain]
    order = order_from_head(boxes)
    limbs = {i: count_limbs(images[s.key].data, images[s.key].affine) for i, s in enumerate(chain)}
    rows: dict[int, dict[str, Any]] = {
        i: {
            "key": chain[i].key,
            "station": chain[i].title,
            "frame": chain[i].frame,
            "order": place,
            "low": chain[i].low_mm,
            "high": chain[i].high_mm,
            "limbs": limbs[i],
            "body_part": chain[i].body_part or "n/a",
            **dict.fromkeys(("overlap_below", "signal_ratio", "correlation", "shift"), np.nan),
        }
        for place, i in enumerate(order, start=1)
    }
    for i, station in enumerate(chain):
        _check_content(station, limbs[i], warnings)
    for pair in find_neighbours(boxes):
        upper, lower = chain[pair.upper], chain[pair.lower]
        row = rows[pair.upper]
        row["overlap_below"] = pair.overlap_mm
        names = f"{upper.title} and {lower.title}"
        moved = _table_move(upper, lower)
        apart = (upper.low_mm + upper.high_mm - lower.low_mm - lower.high_mm) / 2
        if lie_at_one_place(boxes[pair.upper], boxes[pair.lower]):
            warnings.append(
                f"{names} lie at one place: a station was made twice, or a header lies; leave one "
                "out with --bids-filter-file, or correct its position"
                + (f" (their tables are {moved:.0f} mm apart)" if moved else "")
            )
        elif moved is not None and abs(moved - apart) > _MOST_TABLE_ERROR_MM:
            warnings.append(
                f"{names} are {apart:.0f} mm apart by their headers but {moved:.0f} mm by "
                "TablePosition; one of them is wrong, and so may be their order and their overlap"
            )
        elif pair.overlap_mm < 0:
            warnings.append(f"{names}: a gap of {-pair.overlap_mm:.0f} mm lies between them")
        elif pair.overlap_mm < least_overlap_mm:
            warnings.append(
                f"{names} overlap by {pair.overlap_mm:.0f} mm, less than {least_overlap_mm:g} mm"
            )
        if limbs[pair.upper] >= 2 and limbs[pair.lower] == 1:
            warnings.append(
                f"{names}: the upper shows two legs and the lower one trunk or head; the position "
                "in a header may be wrong"
            )
        if pair.overlap_mm > 0:
            _compare(images[upper.key], images[lower.key], names, row, warnings,
                     step_mm=step_mm, most_shift_mm=most_shift_mm)  # fmt: skip
    return [rows[i] for i in order]


def _table_move(upper: Placed, lower: Placed) -> float | None:
    """How far the table moved between two stations, whichever way its axis points."""
    if upper.table_mm is None or lower.table_mm is None:
        return None
    return abs(upper.table_mm - lower.table_mm)


def _compare(
    upper: ImageData,
    lower: ImageData,
    names: str,
    row: dict[str, Any],
    warnings: list[str],
    *,
    step_mm: float,
    most_shift_mm: float,
) -> None:
    found = compare_overlap(
        upper.data,
        upper.affine,
        lower.data,
        lower.affine,
        step_mm=step_mm,
        reach_mm=most_shift_mm + 2 * step_mm,
    )
    if found.n_points == 0:
        return
    shift = float(np.linalg.norm(found.shift_mm))
    row.update(signal_ratio=found.ratio, correlation=found.correlation, shift=shift)
    if found.mirrored > found.correlation + _MIRROR_MARGIN:
        warnings.append(
            f"{names}: where they overlap they agree better when one is mirrored left to right "
            f"(correlation {found.mirrored:.2f} instead of {found.correlation:.2f}); check the "
            "orientation in their headers"
        )
    elif shift > most_shift_mm:
        warnings.append(f"{names} are displaced by {shift:.0f} mm where they overlap")


def _check_content(station: Placed, limbs: float, warnings: list[str]) -> None:
    is_legs = any(word in station.body_part for word in _LEGS)
    is_one = any(word in station.body_part for word in _ONE_PART)
    if (is_legs and limbs == 1) or (is_one and limbs >= 2):
        shown = "one large part" if limbs == 1 else f"{limbs:.0f} large parts"
        warnings.append(
            f"{station.title}: BodyPart is {station.body_part}, but axial slices show {shown}"
        )


def _measures(table: pd.DataFrame) -> list[dict[str, Any]]:
    overlaps = table["overlap_below"].dropna()
    found = {
        "n_stations": len(table),
        "least_overlap": overlaps.min() if len(overlaps) else np.nan,
        "largest_gap": max(0.0, -overlaps.min()) if len(overlaps) else np.nan,
        "largest_shift": table["shift"].max(),
        "least_correlation": table["correlation"].min(),
    }
    # of a single station there is nothing to tell
    return [
        {"measure": name, "value": float(value)}
        for name, value in found.items()
        if not pd.isna(value)
    ]


def noise_or_none(image: Array) -> tuple[Noise | None, str]:
    """Noise of a station from its air, and why it cannot be told.

    Parameters
    ----------
    image : (X, Y, Z) array
        As reconstructed.

    Returns
    -------
    noise : Noise or None
        None where the air was set to zero or is too little.
    reason : str
        Empty where there is one.
    """
    try:
        return noise_of_air(image), ""
    except NumericsError as error:
        return None, str(error)


def write_noise(noise: Noise | None, path: Path) -> Path:
    """Write noise as JSON, null for none, and return the path."""
    path.write_text(json.dumps(None if noise is None else asdict(noise)) + "\n", "utf-8")
    return path


def read_noise(path: Path) -> Noise | None:
    """Noise that :func:`write_noise` has written."""
    content = json.loads(path.read_text("utf-8"))
    return None if content is None else Noise(**content)


def bone_reference(
    image: ImageData,
    bone: NDArray[np.bool_] | None,
    noise: Noise | None,
    *,
    least_snr: float,
    most_variation: float,
) -> BoneReference:
    """Bone reference of a station; refused where nothing marks a bone.

    Parameters
    ----------
    image : ImageData
        Corrected station.
    bone : (X, Y, Z) array of bool or None
        Where bone lies.
    noise : Noise or None
        Of the station as reconstructed; without it no ratio of signal to noise is asked for.
    least_snr, most_variation : float
        As in the settings.

    Returns
    -------
    BoneReference
        With the reason where it is refused.
    """
    if bone is None:
        nan = float("nan")
        why = (
            "nothing marks a bone in this station; give label-bone_desc-ref_mask or labels of bones"
        )
        return BoneReference(nan, nan, 0, nan, nan, why)
    sigma = noise.sigma if noise is not None else float(np.finfo(np.float32).tiny)
    found = find_bone_reference(
        image.data,
        bone,
        image.affine,
        noise_sd=sigma,
        least_snr=least_snr,
        most_variation=most_variation,
    )
    if noise is not None:
        return found
    return BoneReference(**{**asdict(found), "snr": float("nan")})


@dataclass(frozen=True)
class Series:
    """Diffusion series of one station.

    Parameters
    ----------
    image : ImageData
        All volumes.
    b_values : (N,) array
        Their weightings, in s/mm2.
    notes : tuple of str
        How it was put together.
    """

    image: ImageData
    b_values: NDArray[np.float64]
    notes: tuple[str, ...] = ()


def join_series(
    paths: Sequence[Path],
    b_value_files: Sequence[Path],
    metadata: Sequence[Mapping[str, Any]],
    *,
    most_scale_difference: float,
) -> Series:
    """One series of a station from one file, or from separate ones of one intensity scale.

    Parameters
    ----------
    paths, b_value_files : sequence of Path
        Images and their .bval.
    metadata : sequence of mapping
        Their sidecars.
    most_scale_difference : float
        As in the settings.

    Returns
    -------
    Series
        All volumes.

    Raises
    ------
    DataError
        If weightings are absent, grids differ, or the scales differ or cannot be told.
    """
    images, b_parts = [], []
    for path, b_file in zip(paths, b_value_files, strict=True):
        image = read_image(path, ndim=None)
        data = image.data if image.data.ndim == 4 else image.data[..., None]
        images.append(ImageData(data, image.affine, image.voxel_mm, path, image.warnings))
        b_parts.append(_read_b_values(b_file, data.shape[3]))
    first = images[0]
    for other in images[1:]:
        if other.data.shape[:3] != first.data.shape[:3] or not np.allclose(
            other.affine, first.affine, rtol=0, atol=0.1
        ):
            raise DataError(
                f"{other.path.name}: lies on another grid than {first.path.name}, the other series "
                "of its station; give one series, or both on one grid"
            )
    notes = _check_scales(images, b_parts, metadata, most_scale_difference) if images[1:] else ()
    b = np.concatenate(b_parts)
    data = np.concatenate([image.data for image in images], axis=3)
    try:
        check_b_values(b, data.shape[3])
    except NumericsError as error:
        raise DataError(f"{', '.join(path.name for path in paths)}: {error}") from error
    joined = ImageData(data, first.affine, first.voxel_mm, first.path, first.warnings)
    return Series(joined, b, notes)


def _read_b_values(path: Path, n_volumes: int) -> NDArray[np.float64]:
    try:
        values = np.array([float(word) for word in path.read_text("utf-8").split()])
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as b-values ({error})") from error
    if len(values) != n_volumes or not np.isfinite(values).all():
        raise DataError(
            f"{path}: has {len(values)} b-values for {n_volumes} volumes; give one for each"
        )
    return np.asarray(values, np.float64)


def _check_scales(
    images: Sequence[ImageData],
    b_parts: Sequence[NDArray[np.float64]],
    metadata: Sequence[Mapping[str, Any]],
    most: float,
) -> tuple[str, ...]:
    """Raise unless separate series are of one scale; say how that was told."""
    names = " and ".join(image.path.name for image in images)
    for key in _SCALE_KEYS:
        given = [part.get(key) for part in metadata]
        values = [float(value) for value in given if isinstance(value, int | float)]
        if len(values) == len(given):
            if np.ptp(values) > most * abs(float(np.mean(values))):
                raise DataError(
                    f"{names}: {key} differs ({', '.join(f'{v:g}' for v in values)}), so their "
                    "signals cannot be compared; rescale one, or give one series"
                )
            return (f"{names}: one intensity scale by {key}",)
    for name, levels in (
        ("b=0", _levels_of_b0(images, b_parts)),
        ("noise", _levels_of_air(images)),
    ):
        if levels is not None:
            if np.ptp(levels) > most * float(np.mean(levels)):
                raise DataError(
                    f"{names}: their {name} differs by {100 * np.ptp(levels) / np.mean(levels):.0f}"
                    " %, so they are of different intensity scales; rescale one, or give one series"
                )
            return (f"{names}: one intensity scale by their {name}",)
    raise DataError(
        f"{names}: separate series, and nothing tells whether they are of one intensity scale "
        "(no RescaleSlope or ReceiverGain in both sidecars, no b=0 in both, no noise in air); give "
        "one series, or the scale in the sidecars"
    )


def _levels_of_b0(
    images: Sequence[ImageData], b_parts: Sequence[NDArray[np.float64]]
) -> NDArray[np.float64] | None:
    if any((b > 50).all() for b in b_parts):
        return None
    means = [
        image.data[..., b <= 50].mean(axis=3) for image, b in zip(images, b_parts, strict=True)
    ]
    inside = means[0] > np.percentile(means[0], 90)
    return np.array([float(np.median(mean[inside])) for mean in means])


def _levels_of_air(images: Sequence[ImageData]) -> NDArray[np.float64] | None:
    found = [noise_or_none(image.data[..., 0])[0] for image in images]
    return None if None in found else np.array([noise.sigma for noise in found if noise])


def fat_shift_voxels(metadata: Mapping[str, Any], n_phase: int) -> tuple[int, float] | None:
    """Axis and displacement of fat in an echo-planar image.

    Parameters
    ----------
    metadata : mapping
        Sidecar with PhaseEncodingDirection, MagneticFieldStrength and TotalReadoutTime or
        EffectiveEchoSpacing.
    n_phase : int
        Voxels along phase encoding.

    Returns
    -------
    axis : int
        Of phase encoding.
    shift : float
        In voxels; fat resonates lower, and goes against the direction of phase encoding.
        None where the sidecar does not tell.

    Examples
    --------
    >>> fat_shift_voxels({"PhaseEncodingDirection": "j-", "MagneticFieldStrength": 3,
    ...     "TotalReadoutTime": 0.03}, 80)[0]
    1
    """
    direction = str(metadata.get("PhaseEncodingDirection", ""))
    tesla = metadata.get("MagneticFieldStrength")
    readout = metadata.get("TotalReadoutTime")
    spacing = metadata.get("EffectiveEchoSpacing")
    if readout is None and isinstance(spacing, int | float):
        readout = spacing * (n_phase - 1)
    if direction[:1] not in ("i", "j", "k") or not isinstance(tesla, int | float):
        return None
    if not isinstance(readout, int | float):
        return None
    shift = fat_shift_hz(float(tesla)) * float(readout)
    return "ijk".index(direction[0]), shift if direction.endswith("-") else -shift


def on_grid(values: Array, affine: Array, target: ImageData, order: int) -> Array:
    """Image brought to the grid of another of the same world, with one interpolation.

    Parameters
    ----------
    values : (X, Y, Z) array
        Image.
    affine : (4, 4) array
        Voxel to world, in mm.
    target : ImageData
        Gives the grid.
    order : int
        0 for labels, 1 for signal.

    Returns
    -------
    (X, Y, Z) array
        NaN (signal) or 0 (labels) outside the image.
    """
    matrix = np.linalg.inv(affine) @ target.affine
    found: Array = ndimage.affine_transform(
        values if order == 0 else values.astype(np.float64),
        matrix[:3, :3],
        matrix[:3, 3],
        output_shape=target.data.shape[:3],
        order=order,
        cval=0 if order == 0 else np.nan,
    )
    return found


def reformat(
    target: ImageData, parts: Sequence[tuple[Array, Array]], order: int
) -> tuple[Array, NDArray[np.int16]]:
    """Stations of one contrast on another grid, each point from the station it is deepest in.

    Parameters
    ----------
    target : ImageData
        Gives the grid.
    parts : sequence of (array, array)
        Values and affine of each station.
    order : int
        0 for labels, 1 for signal.

    Returns
    -------
    values : (X, Y, Z) array
        0 where no station lies.
    origin : (X, Y, Z) array of int16
        Number of the station from 1, 0 for none.
    """
    shape = target.data.shape[:3]
    values = np.zeros(shape, np.float64)
    origin, depth = np.zeros(shape, np.int16), np.full(shape, -np.inf)
    heights = heights_of(target)
    for number, (image, affine) in enumerate(parts, start=1):
        box = extent_of(affine, image.shape)
        # distance to the nearer end: an interpolated value needs a voxel on either side
        inside = np.minimum(heights - box.low_mm[2], box.high_mm[2] - heights)
        if not (inside > 0).any():
            continue
        moved = on_grid(image, affine, target, order)
        better = (inside > depth) & (inside > 0) & np.isfinite(moved)
        values[better] = moved[better]
        origin[better], depth[better] = number, inside[better]
    return values, origin


def heights_of(image: ImageData) -> NDArray[np.float64]:
    """World z of every voxel, in mm.

    Parameters
    ----------
    image : ImageData
        Gives the grid.

    Returns
    -------
    (X, Y, Z) array
        Along the body, upwards.
    """
    i, j, k = (np.arange(n, dtype=np.float64) for n in image.data.shape[:3])
    a = image.affine[2]
    return np.asarray(
        a[0] * i[:, None, None] + a[1] * j[None, :, None] + a[2] * k[None, None, :] + a[3]
    )


def body_of(image: ImageData) -> NDArray[np.bool_]:
    """Where the receive field of a station is estimated: its body without the darkest tissue.

    Parameters
    ----------
    image : ImageData
        Station.

    Returns
    -------
    (X, Y, Z) array of bool
        Voxels above 8 % of the 99th percentile.
    """
    return np.asarray(image.data > _BODY_SHARE * np.percentile(image.data, 99))


def field_of(image: ImageData, labels: Array, *, order: int, cell_mm: float) -> Array:
    """Receive field of a station on which muscles are labelled.

    Parameters
    ----------
    image : ImageData
        Station.
    labels : (X, Y, Z) array
        Muscles and bones, on its grid.
    order : int
        Of the polynomial.
    cell_mm : float
        Edge of the cubes of unlabelled tissue.

    Returns
    -------
    (X, Y, Z) array
        Factors.

    Raises
    ------
    DataError
        If too few of its voxels hold one tissue.
    """
    edges_mm = np.asarray(image.voxel_mm, np.float64)
    whole = np.asarray(np.rint(labels), np.int32)
    try:
        return tissue_field(image.data, whole, edges_mm, order=order, cell_mm=cell_mm)
    except NumericsError as error:
        raise DataError(
            f"{error}; choose another --muscle-bias-correction, n4 or off, or leave the station "
            "out with --bids-filter-file"
        ) from error


def bone_of_station(
    image: ImageData,
    bone: Path | None,
    labels: Path | None,
    wanted: Sequence[str],
    vocabulary: Vocabulary,
) -> NDArray[np.bool_] | None:
    """Bone that a station is divided by: that which was asked for, drawn, or any that is labelled.

    Parameters
    ----------
    image : ImageData
        Station.
    bone : Path or None
        Mask that somebody drew.
    labels : Path or None
        Labels on the grid of the station.
    wanted : sequence of str
        Names of bones that were asked for.
    vocabulary : Vocabulary
        What labels mean.

    Returns
    -------
    (X, Y, Z) array of bool or None
        None where nothing marks a bone.

    Raises
    ------
    DataError
        If the mask lies in another place than the station, or no bone of that name is known.
    """
    if wanted:
        bones = [r for r in vocabulary.regions if r.kind == "bone" and r.name in wanted]
        if {r.name for r in bones} != set(wanted):
            known = sorted({r.name for r in vocabulary.regions if r.kind == "bone"})
            raise DataError(
                f"--muscle-bones: {', '.join(sorted(set(wanted) - {r.name for r in bones}))} is no "
                f"bone of {vocabulary.source}; it has {', '.join(known)}"
            )
        return _labelled(labels, [r.index for r in bones])
    if bone is not None:
        drawn = read_image(bone, ndim=3)
        mask = on_grid((drawn.data > 0.5).astype(np.uint8), drawn.affine, image, order=0) > 0
        if drawn.data.any() and not mask.any():
            raise DataError(f"{bone}: lies outside {image.path.name}; correct its header")
        return mask if mask.any() else None
    return _labelled(labels, [r.index for r in vocabulary.regions if r.kind == "bone"])


def _labelled(labels: Path | None, numbers: Sequence[int]) -> NDArray[np.bool_] | None:
    if labels is None:
        return None
    found = np.isin(read_image(labels, ndim=3).data, numbers)
    return found if found.any() else None


def facts_of_reference(found: BoneReference, title: str) -> Facts:
    """What the report tells of a bone reference.

    Parameters
    ----------
    found : BoneReference
        Of a station.
    title : str
        Name of the station.

    Returns
    -------
    dict
        Values under ``references``, and a warning where it was refused.
    """
    warnings = [f"{title}: no relative T2 signal, since {found.refusal}"] if found.refusal else []
    reference = {"snr": found.snr, "variation": found.variation, "is_refused": bool(found.refusal)}
    clean = {k: None if isinstance(v, float) and np.isnan(v) else v for k, v in reference.items()}
    return {"warnings": warnings, "references": [clean]}


def protocol_of(series: Series, metadata: Mapping[str, Any], title: str) -> tuple[Facts, Facts]:
    """Weightings, noise and displacement of fat of a diffusion station.

    Parameters
    ----------
    series : Series
        All volumes.
    metadata : mapping
        Sidecar of the first.
    title : str
        Name of the station.

    Returns
    -------
    protocol : dict
        For the measurement.
    facts : dict
        Warnings and notes.
    """
    least = int(np.argmin(series.b_values))
    noise, why = noise_or_none(series.image.data[..., least])
    shape = series.image.data.shape
    direction = str(metadata.get("PhaseEncodingDirection", ""))
    axis = "ijk".find(direction[:1]) if direction else -1
    shift = fat_shift_voxels(metadata, shape[axis]) if axis >= 0 else None
    notes = list(series.notes)
    warnings = []
    if noise is None:
        warnings.append(f"{title}: its noise could not be told, its floor is left in ({why})")
    if shift is None:
        notes.append(
            f"{title}: displaced fat is not looked for; the sidecar lacks PhaseEncodingDirection, "
            "MagneticFieldStrength, or TotalReadoutTime and EffectiveEchoSpacing"
        )
    protocol = {
        "b_values_s_mm2": series.b_values.tolist(),
        "noise": None if noise is None else asdict(noise),
        "fat_shift": None if shift is None else list(shift),
    }
    return protocol, {"warnings": warnings, "notes": notes}


def read_parts(paths: Sequence[str]) -> list[tuple[Array, Array]]:
    """Values and affine of images.

    Parameters
    ----------
    paths : sequence of str
        Images.

    Returns
    -------
    list of (array, array)
        In their order.
    """
    images = [read_image(Path(path), ndim=3) for path in paths]
    return [(image.data, image.affine) for image in images]
