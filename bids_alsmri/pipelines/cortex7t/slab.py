"""Slab at 7T: echoes, ribbon of the cortex, motor areas and what is measured in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from bids_alsmri.errors import DataError, NumericsError
from bids_alsmri.interfaces.base import ImageData, read_image
from bids_alsmri.numerics.anatomy import sample_through
from bids_alsmri.numerics.cortical_layers import LayerFit, fit_layers
from bids_alsmri.numerics.cortical_profiles import (
    Aligned,
    Places,
    align_profiles,
    place_profiles,
    surface_normals,
)
from bids_alsmri.numerics.noise import Noise, noise_of_air, noise_of_texture
from bids_alsmri.numerics.pointspread import gaussian_point_spread
from bids_alsmri.numerics.ribbon import layer_means, signed_distance
from bids_alsmri.spaces.atlases import MotorArea, motor_areas

Array = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]

PARTS = ("foot", "leg", "hand", "face")
# of these the bank that faces backwards is precentral, and its like across the sulcus is not
BACKWARD_PARTS = ("hand", "face")
REFERENCE = "precuneus"
SOURCE = "profiles"
RIBBON_NAMES = {1: "fluid", 2: "white matter", 3: "cortex"}
LATTICE_MARGIN_MM = 4.0
LONGEST_ECHO_S = 0.2
# superficial cortex of the reference, beneath what voxels share with fluid
REFERENCE_DEPTH_MM = 0.6


@dataclass(frozen=True)
class Echoes:
    """Echoes of a slab whose third axis counts slices.

    Parameters
    ----------
    data : (X, Y, Z, E) array of float32
        Magnitudes.
    affine : (4, 4) array
        Voxel indices to world, in mm.
    times_ms : list of float
        Echo times, rising, in ms.
    warnings, notes : list of str
        Doubts, and what was done.
    encoded_axis : int or None
        Axis in the slice along which phase was encoded; None where sidecars do not tell.
    """

    data: NDArray[np.float32]
    affine: NDArray[np.float64]
    times_ms: list[float]
    warnings: list[str]
    notes: list[str]
    encoded_axis: int | None = None


def read_echoes(paths: Sequence[Path], metadata: Sequence[Mapping[str, Any]]) -> Echoes:
    """Echoes of a slab, checked and in the order of their times.

    Parameters
    ----------
    paths : sequence of Path
        One magnitude image per echo.
    metadata : sequence of mapping
        Their sidecars.

    Returns
    -------
    Echoes
        The slice axis, the one of the thickest edge, comes last.

    Raises
    ------
    DataError
        If there is one echo only, an echo time is missing, wrong or double, grids differ or a
        value is negative.
    """
    if len(paths) < 2:
        raise DataError(
            f"{paths[0]}: 1 echo was found; a rate of decay takes two echoes or more, with the "
            "entity echo- in their names; add the others or leave the scan out"
        )
    times = []
    for path, sidecar in zip(paths, metadata, strict=True):
        time = sidecar.get("EchoTime")
        if not isinstance(time, int | float) or not 0 < time < LONGEST_ECHO_S:
            raise DataError(
                f"{path}: EchoTime (s) in its sidecar is {time!r}; expected a number above 0 and "
                f"below {LONGEST_ECHO_S:g} s; BIDS counts in seconds"
            )
        times.append(1e3 * float(time))
    if len(set(times)) != len(times):
        raise DataError(
            f"{paths[0]}: echo times (ms) are {times}; expected one for each echo, all different; "
            "tell scans apart by acq-, rec- or run-"
        )
    order = np.argsort(times)
    images = [read_image(paths[index], ndim=3) for index in order]
    _require_one_grid(images)
    for image in images:
        if image.data.min() < 0:
            raise DataError(
                f"{image.path}: values go down to {image.data.min():g}; expected magnitudes, which "
                "are never negative; mark phase by part-phase"
            )
    axes = _slices_last(images[0].voxel_mm)
    affine = images[0].affine.copy()
    affine[:, :3] = affine[:, axes]
    return Echoes(
        np.stack([image.data.transpose(axes) for image in images], axis=-1).astype(np.float32),
        affine,
        [times[index] for index in order],
        [text for image in images for text in image.warnings],
        [f"echo times {', '.join(f'{times[i]:g}' for i in order)} ms"],
        _encoded_axis(metadata[order[0]], axes),
    )


def _encoded_axis(sidecar: Mapping[str, Any], axes: Sequence[int]) -> int | None:
    stored = "ijk".find(str(sidecar.get("PhaseEncodingDirection", "")).strip("-") or "none")
    place = list(axes).index(stored) if stored >= 0 else -1
    return place if place in (0, 1) else None


def _require_one_grid(images: Sequence[ImageData]) -> None:
    first = images[0]
    for image in images[1:]:
        if image.data.shape != first.data.shape or not np.allclose(
            image.affine, first.affine, atol=1e-3
        ):
            raise DataError(
                f"{image.path} has {image.data.shape} voxels and another grid than "
                f"{first.path.name} with {first.data.shape}; echoes must lie on one grid: convert "
                "them again, or register them first"
            )


def _slices_last(voxel_mm: Sequence[float]) -> list[int]:
    thickest = int(np.argmax(voxel_mm))
    if voxel_mm[thickest] < 1.5 * sorted(voxel_mm)[1]:
        return [0, 1, 2]
    return [*(axis for axis in range(3) if axis != thickest), thickest]


def noise_of_slab(first: Array, voxel_mm: Sequence[float]) -> tuple[Noise, str]:
    """Noise of the first echo.

    Parameters
    ----------
    first : (X, Y, Z) array
        Magnitude.
    voxel_mm : sequence of float
        Edges of a voxel, in mm.

    Returns
    -------
    noise : Noise
        From the air, or else from the texture of the brighter half of voxels.
    note : str
        Where from.
    """
    try:
        return noise_of_air(first), "noise was taken from the air"
    except NumericsError:
        bright = first > np.median(first)
        noise = noise_of_texture(first, bright, voxel_mm, gaussian_point_spread(0.01))
        return noise, "noise was taken from differences between neighbours: no air in view"


@dataclass(frozen=True)
class Ribbon:
    """Cortex on the grid of a slab.

    Parameters
    ----------
    white_mm, outer_mm : (X, Y, Z) array of float32
        Signed distances from white matter, positive outside it, and from the outer surface,
        positive beneath it, in mm.
    normals : (X, Y, Z, 3) array of float32
        Normals of the cortex along the slab's axes, outwards.
    """

    white_mm: NDArray[np.float32]
    outer_mm: NDArray[np.float32]
    normals: NDArray[np.float32]

    def labels(self) -> NDArray[np.uint8]:
        """Fluid 1, white matter 2 and cortex 3.

        Returns
        -------
        (X, Y, Z) array of uint8
            No voxel is without a label.
        """
        cortex = np.where(self.outer_mm > 0.0, 3, 1)
        return np.where(self.white_mm <= 0.0, 2, cortex).astype(np.uint8)


def find_ribbon(
    shape: Sequence[int],
    affine: NDArray[np.float64],
    slab_to_t1w: NDArray[np.float64],
    tissues: Mapping[str, ImageData],
    *,
    lattice_mm: float,
    smoothing_mm: float,
    normal_smoothing_mm: float,
) -> Ribbon:
    """Borders of the cortex from the tissues of the T1w, on the grid of a slab.

    Parameters
    ----------
    shape : (3,) sequence of int
        Voxels of the slab.
    affine : (4, 4) array
        Its voxel indices to world, in mm.
    slab_to_t1w : (4, 4) array
        World of the slab to that of the T1w, in mm.
    tissues : mapping of ImageData
        Probabilities of ``wm`` and ``gm``.
    lattice_mm : float
        Edge of the even lattice, along the slab's axes, on which distances are counted, in mm.
    smoothing_mm, normal_smoothing_mm : float
        Standard deviations by which distances and normals are evened out, in mm.

    Returns
    -------
    Ribbon
        Distances and normals.
    """
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    n_voxels = np.array(shape[:3])
    lattice_shape = np.ceil((n_voxels * edges + 2 * LATTICE_MARGIN_MM) / lattice_mm).astype(int)
    axes = affine[:3, :3] / edges
    lattice = np.eye(4)
    lattice[:3, :3] = axes * lattice_mm
    middle = affine[:3, :3] @ ((n_voxels - 1) / 2) + affine[:3, 3]
    lattice[:3, 3] = middle - lattice[:3, :3] @ ((lattice_shape - 1) / 2)
    wm, gm = (
        sample_through(t.data, t.affine, slab_to_t1w, tuple(lattice_shape.tolist()), lattice)
        for t in (tissues["wm"], tissues["gm"])
    )
    sides = np.full(3, lattice_mm)
    white = signed_distance(wm > 0.5, sides, smoothing_mm=smoothing_mm)
    outer = -signed_distance(wm + gm > 0.5, sides, smoothing_mm=smoothing_mm)
    normals = surface_normals(white, sides, smoothing_mm=normal_smoothing_mm)
    to_lattice = np.linalg.inv(lattice) @ affine

    def on_slab(values: Array) -> NDArray[np.float32]:
        found = ndimage.affine_transform(
            values.astype(np.float32),
            to_lattice[:3, :3],
            to_lattice[:3, 3],
            output_shape=tuple(n_voxels.tolist()),
            order=1,
            mode="nearest",
        )
        return np.asarray(found, dtype=np.float32)

    return Ribbon(
        on_slab(white),
        on_slab(outer),
        np.stack([on_slab(normals[..., axis]) for axis in range(3)], axis=-1),
    )


def measured_areas() -> tuple[MotorArea, ...]:
    """Embedded areas that are measured: foot, leg, hand and face, and the reference.

    Returns
    -------
    tuple of MotorArea
        In the order of their labels.

    Examples
    --------
    >>> [area.part for area in measured_areas() if area.side == "left"]
    ['foot', 'leg', 'hand', 'face', 'dorsal']
    """
    return tuple(
        area
        for area in motor_areas()
        if (area.structure == "motor cortex" and area.part in PARTS) or area.structure == REFERENCE
    )


def region_of(area: MotorArea) -> str:
    """Name of an area in tables."""
    return REFERENCE if area.structure == REFERENCE else area.part


def spread_labels(
    labels: NDArray[np.integer[Any]], voxel_mm: Sequence[float], reach_mm: float
) -> NDArray[np.int16]:
    """Labels that reach beyond their areas, each voxel to the nearest.

    Parameters
    ----------
    labels : (X, Y, Z) array of int
        0 for none.
    voxel_mm : sequence of float
        Edges of a voxel, in mm.
    reach_mm : float
        How far, in mm.

    Returns
    -------
    (X, Y, Z) array of int16
        Labels.

    Examples
    --------
    >>> spread_labels(np.array([[[3]], [[0]], [[0]]]), (1.0, 1.0, 1.0), 1.0).ravel().tolist()
    [3, 3, 0]
    """
    if not labels.any():
        return labels.astype(np.int16)
    away, nearest = ndimage.distance_transform_edt(
        labels == 0, sampling=voxel_mm, return_indices=True
    )
    return np.where(away <= reach_mm, labels[tuple(nearest)], 0).astype(np.int16)


@dataclass(frozen=True)
class AreaResult:
    """One area's profiles and layers.

    Parameters
    ----------
    region, side : str
        Which area.
    aligned : Aligned
        Profiles.
    fit : LayerFit or None
        Layers; None with too few profiles.
    reason : str
        Why values are missing, or empty.
    n_places : int
        Profiles before any was left out.
    shift_mm : float
        Median distance of the slab's outer surface from the ribbon's, in mm; NaN without profiles.
    """

    region: str
    side: str
    aligned: Aligned
    fit: LayerFit | None
    reason: str
    n_places: int
    shift_mm: float


def measure_area(
    area: MotorArea,
    maps: Array,
    ribbon: Ribbon,
    labels: NDArray[np.integer[Any]],
    affine: NDArray[np.float64],
    *,
    spacing_mm: float,
    least_profiles: int,
    aligning: Mapping[str, float],
    layering: Mapping[str, Any],
    doubting: Mapping[str, float],
    rng: np.random.Generator,
) -> AreaResult:
    """Profiles and layers of one area.

    Parameters
    ----------
    area : MotorArea
        Which.
    maps : (2, X, Y, Z) array
        Image that layers are sought in, and rate of decay (1/s).
    ribbon : Ribbon
        Cortex.
    labels : (X, Y, Z) array of int
        Areas.
    affine : (4, 4) array
        Voxel indices of the slab to world, in mm.
    spacing_mm : float
        Least distance of profiles, in mm.
    least_profiles : int
        Profiles that layers take.
    aligning, layering : mapping
        Of `align_profiles` and `fit_layers`.
    doubting : mapping
        Of `without_doubtful`.
    rng : Generator
        Source of resamplings.

    Returns
    -------
    AreaResult
        Profiles, layers and counts.
    """
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    places = place_profiles(
        ribbon.white_mm, ribbon.normals, labels == area.label, edges, spacing_mm=spacing_mm
    )
    if area.part in BACKWARD_PARTS:
        places = _facing_back(places, affine, edges)
    aligned = align_profiles(maps, ribbon.white_mm, ribbon.outer_mm, places, edges, **aligning)
    n_profiles, fit, reason = len(aligned.profiles), None, ""
    if not np.any(labels == area.label):
        reason = "the area is out of view: it lies outside the slab"
    elif len(places.start) == 0:
        reason = "no border of white matter that faces the right way crosses the area"
    elif n_profiles < least_profiles:
        reason = f"{n_profiles} profiles of {len(places.start)} are left, {least_profiles} are due"
    else:
        try:
            found = fit_layers(aligned.profiles, aligned.depth_mm, rng=rng, **layering)
            fit = without_doubtful(found, aligned, layering["smallest_layer_mm"], **doubting)
            reason = fit.reason
        except NumericsError as error:
            reason = str(error)
    return AreaResult(
        region_of(area), area.side, aligned, fit, reason, len(places.start), aligned.shift_mm
    )


def without_doubtful(
    fit: LayerFit,
    aligned: Aligned,
    smallest_layer_mm: float,
    *,
    most_interval_mm: float,
    most_from_ribbon_mm: float,
) -> LayerFit:
    """Layers whose deep thickness is missing where something speaks against it.

    Parameters
    ----------
    fit : LayerFit
        Of `fit_layers`.
    aligned : Aligned
        The profiles that it was fitted to.
    smallest_layer_mm : float
        Nearer to the ends of the profiles, and to each other, no borders were sought, in mm.
    most_interval_mm : float
        Longest interval of a thickness that is told, in mm.
    most_from_ribbon_mm : float
        Largest distance of the inner border from that of the ribbon, in mm.

    Returns
    -------
    LayerFit
        The same where nothing speaks against it.
    """
    if not np.isfinite(fit.deep_mm):
        return fit
    depth, length = aligned.depth_mm, fit.deep_interval_mm[1] - fit.deep_interval_mm[0]
    expected = float(np.median(aligned.outer_mm))
    reason = ""
    if fit.deep_from_mm < depth[0] + smallest_layer_mm + 1e-6:
        reason = "the superficial layer lies in what is left out beneath the outer surface"
    elif fit.deep_mm < smallest_layer_mm + 1e-6:
        reason = f"a layer thinner than {smallest_layer_mm:g} mm was not sought, and may be there"
    elif abs(fit.white_from_mm - expected) > most_from_ribbon_mm:
        reason = (
            f"the layer ends at {fit.white_from_mm:.1f} mm, the ribbon at {expected:.1f} mm: they "
            "are not the same border"
        )
    elif length > most_interval_mm:
        reason = f"its interval is {length:.1f} mm long, {most_interval_mm:g} mm are allowed"
    if not reason:
        return fit
    nan = float("nan")
    return replace(fit, white_from_mm=nan, deep_mm=nan, deep_interval_mm=(nan, nan), reason=reason)


def _facing_back(places: Places, affine: NDArray[np.float64], edges: NDArray[np.float64]) -> Places:
    # to the back is against the second world axis
    ahead = (affine[:3, :2] / edges[:2])[1]
    kept = places.direction @ ahead < 0.0
    return Places(places.start[kept], places.direction[kept], places.tilt_deg[kept])


def superficial_signal(result: AreaResult) -> float:
    """Signal of the superficial cortex of an area.

    Parameters
    ----------
    result : AreaResult
        Of `measure_area`.

    Returns
    -------
    float
        Of the superficial layer where it was told from the deep one, else the mean over its first
        samples; NaN without profiles.
    """
    if result.fit is not None and np.isfinite(result.fit.deep_from_mm):
        return result.fit.superficial
    if len(result.aligned.profiles) == 0:
        return float("nan")
    depth = result.aligned.depth_mm
    return float(result.aligned.profiles[:, depth < depth[0] + REFERENCE_DEPTH_MM].mean())


def rows_of_area(
    result: AreaResult, reference: AreaResult | None, *, least_profiles: int, may_be_own: bool
) -> list[dict[str, Any]]:
    """Rows of an area in the table.

    Parameters
    ----------
    result : AreaResult
        The area.
    reference : AreaResult or None
        The precuneus; None where the labels have none.
    least_profiles : int
        Profiles that a reference takes.
    may_be_own : bool
        Whether the area's own superficial cortex stands in where the precuneus is out of view.

    Returns
    -------
    list of dict
        Region, side, measure, value, unit, n, note and source.
    """
    aligned, fit, note = result.aligned, result.fit, result.reason
    nan = float("nan")
    rows: list[tuple[str, float, str, str]] = []
    deep_mm = fit.deep_mm if fit else nan
    low, high = fit.deep_interval_mm if fit else (nan, nan)
    cosine = float(np.mean(1.0 / np.cos(np.deg2rad(aligned.tilt_deg)))) if fit else nan
    ratio = fit.deep / fit.superficial if fit else nan
    ratio_low, ratio_high = fit.ratio_interval if fit else (nan, nan)
    rows += [
        ("deep_thickness", deep_mm, "mm", note),
        ("deep_thickness_low", low, "mm", note),
        ("deep_thickness_high", high, "mm", note),
        ("deep_thickness_in_slice", deep_mm * cosine, "mm", note),
        ("cortical_thickness", fit.white_from_mm if fit else nan, "mm", note),
        ("deep_ratio", ratio, "1", note),
        ("deep_ratio_low", ratio_low, "1", note),
        ("deep_ratio_high", ratio_high, "1", note),
    ]
    has_reference = reference is not None and len(reference.aligned.profiles) >= least_profiles
    if has_reference and reference is not None:
        divisor, named = superficial_signal(reference), f"superficial {REFERENCE}, left"
    elif may_be_own:
        divisor, named = superficial_signal(result), "superficial cortex of the area itself"
    else:
        divisor, named = nan, f"{REFERENCE} is out of view or has too few profiles"
    deep = fit.deep if fit else nan
    rows.append(("deep_normalised", deep / divisor, "1", note if np.isnan(deep) else named))
    rows.append(("hypointensity_to_thickness", (1.0 - ratio) / deep_mm, "1/mm", note))
    means = (
        layer_means(
            aligned.others[0],
            aligned.depth_mm,
            deep_from_mm=fit.deep_from_mm,
            white_from_mm=fit.white_from_mm,
            inset_mm=REFERENCE_DEPTH_MM / 2,
        )
        if fit
        else None
    )
    for layer in ("superficial", "deep", "white"):
        rows.append((f"r2s_{layer}", getattr(means, layer) if means else nan, "1/s", note))
    tilt = float(aligned.tilt_deg.mean()) if len(aligned.tilt_deg) else nan
    rows.append(("tilt", tilt, "degree", ""))
    counts = {
        "used": len(aligned.profiles),
        **{n: getattr(aligned, f"n_{n}") for n in ("tilted", "touching", "closed", "bent")},
    }
    rows += [(f"profiles_{name}", float(n), "1", "") for name, n in counts.items()]
    return [
        {
            "region": result.region,
            "side": result.side,
            "measure": measure,
            "value": value,
            "unit": unit,
            "n": len(aligned.profiles),
            "note": text or "n/a",
            "source": SOURCE,
        }
        for measure, value, unit, text in rows
    ]


def quality_of_areas(results: Sequence[AreaResult]) -> list[dict[str, Any]]:
    """Measures of quality over all motor areas.

    Parameters
    ----------
    results : sequence of AreaResult
        All areas.

    Returns
    -------
    list of dict
        Measure and value.
    """
    motor = [r for r in results if r.region != REFERENCE]
    shifts = [r.shift_mm for r in motor if np.isfinite(r.shift_mm)]
    n_places = sum(r.n_places for r in motor)
    told = [r for r in motor if r.fit is not None and np.isfinite(r.fit.deep_mm)]
    tilted = sum(r.aligned.n_tilted for r in motor)
    return [
        {"measure": "ribbon_shift", "value": float(np.median(shifts)) if shifts else float("nan")},
        {"measure": "areas_measured", "value": len(told)},
        {"measure": "tilted_share", "value": tilted / n_places if n_places else float("nan")},
    ]


def profile_table(results: Sequence[AreaResult]) -> pd.DataFrame:
    """Mean profiles of areas, for the figure.

    Parameters
    ----------
    results : sequence of AreaResult
        All areas.

    Returns
    -------
    DataFrame
        Region, side, depth (mm), mean, error (standard error), deep_from and white_from (mm).
    """
    tables = []
    for result in results:
        profiles = result.aligned.profiles
        if len(profiles) < 2:
            continue
        fit = result.fit
        tables.append(
            pd.DataFrame(
                {
                    "region": result.region,
                    "side": result.side,
                    "depth": result.aligned.depth_mm,
                    "mean": profiles.mean(axis=0),
                    "error": profiles.std(axis=0, ddof=1) / np.sqrt(len(profiles)),
                    "deep_from": fit.deep_from_mm if fit else np.nan,
                    "white_from": fit.white_from_mm if fit else np.nan,
                }
            )
        )
    columns = ["region", "side", "depth", "mean", "error", "deep_from", "white_from"]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)


def quality_of_echoes(
    first: Array, rate: Array, sigma: float, labels: Array | None
) -> list[dict[str, Any]]:
    """Measures of quality of the echoes.

    Parameters
    ----------
    first : (X, Y, Z) array
        First echo.
    rate : (X, Y, Z) array
        Rate of decay, in 1/s; 0 where it cannot be told.
    sigma : float
        Noise, in the unit of the echo.
    labels : (X, Y, Z) array or None
        Of `Ribbon.labels`; without them the brighter half of voxels counts.

    Returns
    -------
    list of dict
        Measure and value.
    """
    bright = first > np.median(first)
    white, brain = (
        (bright, bright) if labels is None else (np.rint(labels) == 2, np.rint(labels) >= 2)
    )
    snr = float(np.median(first[white])) / sigma if white.any() else float("nan")
    missing = float(np.mean(rate[brain] <= 0.0)) if brain.any() else float("nan")
    return [
        {"measure": "snr_first_echo", "value": snr},
        {"measure": "r2s_missing_share", "value": missing},
    ]


def labels_on_grid(path: Path, image: ImageData) -> NDArray[np.int32]:
    """Areas on the grid of a slab.

    Parameters
    ----------
    path : Path
        Labels that were brought there, or that somebody drew on the slab as it is stored.
    image : ImageData
        The slab, its slice axis last.

    Returns
    -------
    (X, Y, Z) array of int32
        Labels.

    Raises
    ------
    DataError
        If the labels lie on another grid.
    """
    drawn = read_image(path, ndim=3)
    axes = _slices_last(drawn.voxel_mm)
    values, affine = drawn.data.transpose(axes), drawn.affine.copy()
    affine[:, :3] = affine[:, axes]
    if values.shape != image.data.shape or not np.allclose(affine, image.affine, atol=1e-3):
        raise DataError(
            f"{path} has {drawn.data.shape} voxels and another grid than the slab with "
            f"{image.data.shape}; areas must be drawn on the slab"
        )
    return np.asarray(np.rint(values), dtype=np.int32)


def require_known_areas(labels: NDArray[np.integer[Any]], path: Path) -> None:
    """Raise where labels are none of areas that are measured, or none is one of them.

    Parameters
    ----------
    labels : (X, Y, Z) array of int
        What was drawn, 0 for none.
    path : Path
        Where from, for the message.

    Raises
    ------
    DataError
        If a number is unknown, or nothing was drawn.
    """
    known = {area.label: f"{region_of(area)}_{area.side}" for area in measured_areas()}
    found = set(np.unique(labels[labels != 0]).tolist())
    if not found or found - set(known):
        listed = ", ".join(f"{label} {name}" for label, name in known.items())
        raise DataError(
            f"{path} holds the labels {sorted(found) or 'none'}; expected some of {listed}, and 0 "
            "elsewhere"
        )


def measure_areas(
    maps: Array,
    ribbon: Ribbon,
    labels: NDArray[np.integer[Any]],
    affine: NDArray[np.float64],
    *,
    spacing_mm: float,
    least_profiles: int,
    aligning: Mapping[str, float],
    layering: Mapping[str, Any],
    doubting: Mapping[str, float],
    seed: int,
) -> list[AreaResult]:
    """Profiles and layers of all areas, each with a stream of random numbers of its own.

    Parameters
    ----------
    maps, ribbon, labels, affine, spacing_mm, least_profiles, aligning, layering, doubting
        Of `measure_area`.
    seed : int
        Root of the streams.

    Returns
    -------
    list of AreaResult
        In the order of `measured_areas`.
    """
    return [
        measure_area(
            area,
            maps,
            ribbon,
            labels,
            affine,
            spacing_mm=spacing_mm,
            least_profiles=least_profiles,
            aligning=aligning,
            layering=layering,
            doubting=doubting,
            rng=np.random.default_rng([seed, area.label]),
        )
        for area in measured_areas()
    ]


def rows_of_areas(
    results: Sequence[AreaResult], *, least_profiles: int, may_be_own: bool
) -> list[dict[str, Any]]:
    """Rows of all areas in the table.

    Parameters
    ----------
    results : sequence of AreaResult
        Of `measure_areas`.
    least_profiles, may_be_own
        Of `rows_of_area`.

    Returns
    -------
    list of dict
        Area after area.
    """
    reference = next((r for r in results if r.region == REFERENCE), None)
    return [
        row
        for result in results
        for row in rows_of_area(
            result, reference, least_profiles=least_profiles, may_be_own=may_be_own
        )
    ]
