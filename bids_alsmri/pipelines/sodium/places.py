"""Sodium over the regions of atlases, each voxel counted by the share that a region has of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bids_alsmri.interfaces.base import ImageData, read_image, write_image
from bids_alsmri.interfaces.registration import apply_transforms
from bids_alsmri.numerics.regions import summarise_regions
from bids_alsmri.spaces.atlases import MOTOR_AREAS, Atlas, motor_areas

Array = NDArray[np.floating[Any]]

STATISTICS = ("mean", "sd", "median")


def parts_of_voxels(image: ImageData, atlas_mm: float) -> tuple[int, int, int]:
    """Parts that each edge of an image's voxels is cut into, so that none is wider than an atlas's.

    Parameters
    ----------
    image : ImageData
        The image.
    atlas_mm : float
        Edge of the voxels of the atlases, in mm.

    Returns
    -------
    tuple of int
        At least 1 along each axis.
    """
    i, j, k = (max(1, int(np.ceil(edge / atlas_mm - 1e-6))) for edge in image.voxel_mm)
    return i, j, k


def write_parts(image: ImageData, parts: Sequence[int], path: Path) -> Path:
    """Write an image of ones whose voxels are the parts of those of another.

    Parameters
    ----------
    image : ImageData
        Whose voxels are cut.
    parts : (3,) sequence of int
        Parts along each axis.
    path : Path
        File to write.

    Returns
    -------
    Path
        `path`.
    """
    share = 1.0 / np.array(parts, dtype=np.float64)
    affine = image.affine @ np.diag([*share, 1.0])
    # the middle of the first part lies before that of its voxel
    affine[:3, 3] += image.affine[:3, :3] @ ((share - 1.0) / 2.0)
    shape = tuple(n * m for n, m in zip(image.data.shape, parts, strict=True))
    write_image(np.ones(shape, np.uint8), affine, path)
    return path


def labels_of_parts(
    atlas: Atlas, grid: Path, transforms: Sequence[Path], folder: Path
) -> NDArray[np.int32]:
    """Label that the middle of each voxel of a grid has in an atlas.

    Parameters
    ----------
    atlas : Atlas
        In template space.
    grid : Path
        Image that gives the grid.
    transforms : sequence of Path
        Bring the atlas there; the last is applied first.
    folder : Path
        For files on the way.

    Returns
    -------
    (X, Y, Z) array of int32
        Of the grid; 0 for none.
    """
    numbers = np.zeros(int(max(atlas.labels.max(), 0)) + 1, np.int32)
    for number, region in enumerate(atlas.regions, start=1):
        # a region may have no voxel on a coarse grid
        if region.label < len(numbers):
            numbers[region.label] = number
    # places in the table, which fit every type, in place of labels, which need not
    write_image(numbers[atlas.labels].astype(np.int16), atlas.affine, folder / "atlas.nii.gz")
    moved = apply_transforms(
        folder / "atlas.nii.gz",
        grid,
        transforms,
        folder / "atlas_moved.nii.gz",
        interpolation="NearestNeighbor",
        n_threads=1,
    )
    found = np.rint(read_image(moved, ndim=3).data).astype(np.int32)
    known = np.array([0, *(region.label for region in atlas.regions)], np.int32)
    labels: NDArray[np.int32] = known[found]
    return labels


def summarise_atlas(
    maps: Mapping[str, Array], labels: NDArray[np.int32], parts: Sequence[int], atlas: Atlas
) -> pd.DataFrame:
    """Maps summarised over the regions of an atlas.

    Parameters
    ----------
    maps : mapping of (X, Y, Z) array
        In mmol/L, by the name of the measure; NaN where a map tells nothing.
    labels : (P X, Q Y, R Z) array of int32
        Label of each part of the voxels.
    parts : (3,) sequence of int
        P, Q and R.
    atlas : Atlas
        Whose labels they are.

    Returns
    -------
    DataFrame
        One row per map and region: atlas, label, region, side, map, n (voxels that count, shares
        of them added up), mean, sd and median, NaN where no voxel counts.
    """
    tables = []
    for name, values in maps.items():
        # all parts of a voxel show its value, so that what is averaged is weighted by shares
        shown = np.asarray(values, dtype=np.float64)
        for axis, n in enumerate(parts):
            shown = np.repeat(shown, n, axis=axis)
        summary = summarise_regions(shown, labels, labels=[r.label for r in atlas.regions])
        tables.append(
            pd.DataFrame(
                {
                    "atlas": atlas.name,
                    "label": summary.labels,
                    "region": [region.name for region in atlas.regions],
                    "side": [region.side for region in atlas.regions],
                    "map": name,
                    "n": summary.n_voxels / np.prod(parts),
                    **{name: getattr(summary, name) for name in STATISTICS},
                }
            )
        )
    return pd.concat(tables, ignore_index=True)


def in_long_form(summary: pd.DataFrame, voxel_mm: Sequence[float]) -> pd.DataFrame:
    """Table of regions as it is saved.

    Parameters
    ----------
    summary : DataFrame
        Of :func:`summarise_atlas`.
    voxel_mm : (3,) sequence of float
        Edges of a voxel, in mm.

    Returns
    -------
    DataFrame
        One row per statistic: atlas, region, side, measure, value, unit, n, volume (mm3).

    Examples
    --------
    >>> row = {"atlas": "A", "label": 1, "region": "Genu", "side": "n/a", "map": "tsc", "n": 1.5}
    >>> whole = pd.DataFrame([{**row, "mean": 40.0, "sd": 2.0, "median": 41.0}])
    >>> in_long_form(whole, (2.0, 2.0, 2.0))[["measure", "value", "volume"]].values.tolist()
    [['tsc_mean', 40.0, 12.0], ['tsc_sd', 2.0, 12.0], ['tsc_median', 41.0, 12.0]]
    """
    parts = []
    for statistic in STATISTICS:
        about = {"measure": summary["map"] + f"_{statistic}", "value": summary[statistic]}
        part = summary[["atlas", "region", "side"]].assign(**about, unit="mmol/L")
        volume = summary["n"] * float(np.prod(voxel_mm))
        parts.append(part.assign(n=summary["n"], volume=volume))
    # the statistics of a region stand together
    return pd.concat(parts).sort_index(kind="stable").reset_index(drop=True)


def motor_rows(summary: pd.DataFrame) -> pd.DataFrame:
    """Motor areas of a summary, left and right under one name.

    Parameters
    ----------
    summary : DataFrame
        Of :func:`summarise_atlas`.

    Returns
    -------
    DataFrame
        The same columns, for areas with a voxel.
    """
    names = {area.label: f"{area.structure} {area.part}" for area in motor_areas()}
    own = summary[(summary["atlas"] == MOTOR_AREAS) & (summary["n"] > 0)]
    return own.assign(region=[names[label] for label in own["label"]])


@dataclass(frozen=True)
class Measured:
    """Sodium of all regions, and where the embedded ones lie.

    Parameters
    ----------
    summary : DataFrame
        Of :func:`summarise_atlas`, atlas after atlas.
    motor_labels : (X, Y, Z) array of int32 or None
        Labels of the motor areas on the grid of parts; None where they are not among the atlases.
    """

    summary: pd.DataFrame
    motor_labels: NDArray[np.int32] | None


def measure_atlases(
    image: ImageData,
    maps: Mapping[str, Array],
    atlases: Sequence[Atlas],
    transforms: Sequence[Path],
    grid: Path,
) -> Measured:
    """Sodium over the regions of atlases, where they lie in an image.

    Parameters
    ----------
    image : ImageData
        Sodium map.
    maps : mapping of (X, Y, Z) array
        In mmol/L on its grid, by the name of the measure; NaN where a map tells nothing.
    atlases : sequence of Atlas
        On one grid of the template.
    transforms : sequence of Path
        Bring the template to the image; the last is applied first.
    grid : Path
        Where the image of parts goes; other files go beside it.

    Returns
    -------
    Measured
        Tables and labels.
    """
    edge_mm = float(np.linalg.norm(atlases[0].affine[:3, :3], axis=0).min())
    parts = parts_of_voxels(image, edge_mm)
    write_parts(image, parts, grid)
    tables, motor_labels = [], None
    for atlas in atlases:
        labels = labels_of_parts(atlas, grid, transforms, grid.parent)
        tables.append(summarise_atlas(maps, labels, parts, atlas))
        motor_labels = labels if atlas.name == MOTOR_AREAS else motor_labels
    return Measured(pd.concat(tables, ignore_index=True), motor_labels)


def structures_of(labels: Array) -> dict[str, NDArray[np.bool_]]:
    """Where each structure of the embedded motor areas lies.

    Parameters
    ----------
    labels : (X, Y, Z) array
        Label of each voxel in that atlas.

    Returns
    -------
    dict of (X, Y, Z) array of bool
        By the name of the structure, those that have a voxel.
    """
    members: dict[str, list[int]] = {}
    for area in motor_areas():
        members.setdefault(area.structure, []).append(area.label)
    masks = {name: np.isin(np.rint(labels), own) for name, own in members.items()}
    return {name: mask for name, mask in masks.items() if mask.any()}
