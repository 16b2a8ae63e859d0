"""Where the output voxels of a series lie, and how its volumes are reached from there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bids_alsmri.interfaces.base import ImageData, read_image, write_image
from bids_alsmri.interfaces.registration import compose_to_field, read_linear
from bids_alsmri.numerics.gradients import bvecs_to_world, rotate_directions, rotation_part
from bids_alsmri.numerics.resampling import grid_points, points_to_volume, resample_series
from bids_alsmri.pipelines.diffusion.series import SeriesTable
from bids_alsmri.pipelines.diffusion.steps import Grid, TensorChoices, brain_grid
from bids_alsmri.spaces.templates import get_template

Array = NDArray[np.float64]

_LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])
_MATRIX_NAMES = [f"{row}{column}" for row in range(3) for column in range(4)]


@dataclass(frozen=True)
class Motion:
    """Motion and distortion of every volume.

    Parameters
    ----------
    reference_to_volume : (N, 4, 4) array
        World mm of the b=0 to world mm of the volume.
    rigid : (N, 4, 4) array
        The part that turns the head.
    """

    reference_to_volume: Array
    rigid: Array


def motion_columns(motion: Motion) -> dict[str, Array]:
    """Columns of the motion table that hold the transforms.

    Parameters
    ----------
    motion : Motion
        Of N volumes.

    Returns
    -------
    dict of (N,) array
        The upper three rows of each matrix, ``transform_00`` to ``rigid_23``.
    """
    columns = {}
    for name, matrices in (("transform", motion.reference_to_volume), ("rigid", motion.rigid)):
        flat = matrices[:, :3, :].reshape(len(matrices), 12)
        columns.update({f"{name}_{n}": flat[:, i] for i, n in enumerate(_MATRIX_NAMES)})
    return columns


def read_motion(path: Path) -> Motion:
    """Transforms from a motion table.

    Parameters
    ----------
    path : Path
        TSV that the motion correction wrote.

    Returns
    -------
    Motion
        Of all its volumes.
    """
    table = pd.read_csv(path, sep="\t")
    matrices = []
    for name in ("transform", "rigid"):
        columns = [f"{name}_{n}" for n in _MATRIX_NAMES]
        upper = table[columns].to_numpy(dtype=np.float64).reshape(-1, 3, 4)
        last = np.tile([[[0.0, 0.0, 0.0, 1.0]]], (len(upper), 1, 1))
        matrices.append(np.concatenate([upper, last], axis=1))
    return Motion(*matrices)


@dataclass(frozen=True)
class Place:
    """An output grid and the position of its voxels in the world of the b=0.

    Parameters
    ----------
    grid : Grid
        The grid.
    mask : (X, Y, Z) array of bool
        Brain.
    is_inside : (X, Y, Z) array of bool
        Voxels that are computed.
    points_mm : (M, 3) array
        Positions of these voxels in the world of the b=0, in mm.
    to_reference : (4, 4) array
        Rotation that directions undergo from the grid's world to that of the b=0.
    """

    grid: Grid
    mask: NDArray[np.bool_]
    is_inside: NDArray[np.bool_]
    points_mm: Array
    to_reference: Array


def output_place(
    image: ImageData,
    reference_to_anatomy: Path | None,
    anatomical_mask: Path | None,
    reference_mask: Path,
    *,
    voxel_mm: float,
    margin_mm: float,
) -> Place:
    """Grid along the T1w's axes around its brain, or the series' own where there is no T1w.

    Parameters
    ----------
    image : ImageData
        The series.
    reference_to_anatomy : Path or None
        Transform that resamples the b=0 onto the T1w.
    anatomical_mask : Path or None
        Brain of the T1w.
    reference_mask : Path
        Brain of the b=0.
    voxel_mm : float
        Edge of the voxels, in mm; 0 takes the series' shortest edge.
    margin_mm : float
        Kept around the brain, in mm.

    Returns
    -------
    Place
        Grid and positions.
    """
    if reference_to_anatomy is None or anatomical_mask is None:
        mask = read_image(reference_mask, ndim=3).data > 0
        grid = Grid(mask.shape, image.affine)
        to_reference = np.eye(4)
    else:
        anatomy = read_image(anatomical_mask, ndim=3)
        edge_mm = voxel_mm or min(image.voxel_mm)
        grid = brain_grid(anatomy.data > 0, anatomy.affine, voxel_mm=edge_mm, margin_mm=margin_mm)
        mask = resample_like(anatomical_mask, grid) > 0.5
        to_reference = read_linear(reference_to_anatomy)
    everywhere = np.ones(grid.shape, dtype=np.bool_)
    points = grid_points(grid.shape, grid.affine, everywhere)
    moved = points @ to_reference[:3, :3].T + to_reference[:3, 3]
    return Place(grid, mask, everywhere, moved, to_reference)


def resample_like(path: Path, grid: Grid | ImageData) -> NDArray[np.floating[Any]]:
    """Image of the same world resampled linearly onto a grid.

    Parameters
    ----------
    path : Path
        3D image.
    grid : Grid or ImageData
        Where to.

    Returns
    -------
    (X, Y, Z) array
        Values; 0 outside the image.
    """
    from scipy.ndimage import affine_transform

    image = read_image(path, ndim=3)
    shape = grid.shape if isinstance(grid, Grid) else grid.data.shape
    matrix = np.linalg.inv(image.affine) @ grid.affine
    resampled: NDArray[np.floating[Any]] = affine_transform(
        image.data, matrix[:3, :3], matrix[:3, 3], output_shape=shape[:3], order=1
    )
    return resampled


def bvec_frame(series: Path, reference_to_anatomy: Path | None) -> Array:
    """Rotation from the frame of a series' bvec file to the world of the output grid.

    Parameters
    ----------
    series : Path
        The series as acquired; only its affine counts.
    reference_to_anatomy : Path or None
        Transform that resamples the b=0 onto the T1w.

    Returns
    -------
    (3, 3) array
        Orthogonal, with a reflection where the affine has one; motion of the head is left aside.
    """
    import nibabel as nib

    image: Any = nib.load(series)
    to_scanner = bvecs_to_world(np.eye(3), image.affine).T
    if reference_to_anatomy is None:
        return to_scanner
    return rotation_part(read_linear(reference_to_anatomy)[:3, :3]).T @ to_scanner


def template_place(template: str, resolution_mm: float, chain: list[Path], way: Path) -> Place:
    """Brain voxels of a template and where they lie in the world of the b=0.

    Parameters
    ----------
    template : str
        Name of the space.
    resolution_mm : float
        Edge of its voxels, in mm.
    chain : list of Path
        Transforms that would resample the b=0 onto the template, the last applied first.
    way : Path
        Where the composed displacement field may be written.

    Returns
    -------
    Place
        Grid and positions; points outside the template's brain are not computed.
    """
    brain = get_template(template, resolution_mm).mask
    mask = np.asarray(brain.dataobj) > 0
    affine = np.asarray(brain.affine, dtype=np.float64)
    reference = way.with_name("template_grid.nii.gz")
    write_image(mask, affine, reference, space="mni152")
    compose_to_field(reference, chain, way, n_threads=1)
    field = read_field(way)
    points = grid_points(mask.shape, affine, mask) + field[mask]
    return Place(Grid(mask.shape, affine), mask, mask, points, np.eye(4))


def read_field(path: Path) -> Array:
    """Displacements of an ITK field, in mm along world axes.

    Parameters
    ----------
    path : Path
        NIfTI of shape (X, Y, Z, 1, 3), left-posterior-superior.

    Returns
    -------
    (X, Y, Z, 3) array
        Right, anterior and superior displacement, in mm.
    """
    import nibabel as nib

    field: Any = nib.load(path)
    values = np.asarray(field.dataobj, dtype=np.float64)
    return np.asarray(values.reshape(*values.shape[:3], 3) * _LPS_TO_RAS)


def resample_to_grid(
    image: ImageData, table: SeriesTable, motion: Motion, place: Place, *, spline_order: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_], SeriesTable]:
    """Series on the output grid, its brain mask, and its directions turned with the head.

    Parameters
    ----------
    image : ImageData
        Series before any interpolation.
    table : SeriesTable
        Its weighting.
    motion : Motion
        Of its volumes.
    place : Place
        Output grid.
    spline_order : int
        Order of the interpolation.

    Returns
    -------
    data : (X, Y, Z, N) array
        Signal.
    mask : (X, Y, Z) array of bool
        Brain that all volumes cover.
    turned : SeriesTable
        Directions in the world of the output grid.
    """
    resampled = resample_series(
        image.data,
        image.affine,
        place.points_mm,
        motion.reference_to_volume,
        displacement_mm=None,
        spline_order=spline_order,
        keep_nonnegative=True,
        modulate=True,
    )
    data = np.asarray(points_to_volume(resampled.values, place.is_inside, outside=0), np.float32)
    covered = points_to_volume(resampled.covered_mask.astype(np.uint8), place.is_inside, outside=0)
    mask = place.mask & np.asarray(covered, dtype=np.bool_)
    return data, mask, turned_table(table, motion, place)


def turned_table(table: SeriesTable, motion: Motion, place: Place) -> SeriesTable:
    """Directions as the head on the output grid saw them.

    Parameters
    ----------
    table : SeriesTable
        Directions in the scanner's world.
    motion : Motion
        Of the volumes.
    place : Place
        Output grid.

    Returns
    -------
    SeriesTable
        Directions in the world of the output grid.
    """
    in_reference = rotate_directions(np.array(table.directions_world), motion.rigid)
    ways = np.repeat(place.to_reference[np.newaxis], len(in_reference), axis=0)
    return table.with_directions(rotate_directions(in_reference, ways))


def template_maps(
    image: ImageData,
    table: SeriesTable,
    motion: Motion,
    place: Place,
    *,
    choices: TensorChoices,
    spline_order: int,
) -> dict[str, NDArray[np.float32]]:
    """Tensor scalars in template space from the series, interpolated once.

    Parameters
    ----------
    image : ImageData
        Series before any interpolation.
    table : SeriesTable
        Its weighting.
    motion : Motion
        Of its volumes.
    place : Place
        Voxels of the template.
    choices : TensorChoices
        How the tensor is fitted.
    spline_order : int
        Order of the interpolation.

    Returns
    -------
    dict of (X, Y, Z) array
        Maps ``fa``, ``md``, ``ad``, ``rd``; NaN in the brain where the series does not cover it,
        0 outside. A tensor fitted in the b=0's world has the scalars of one that is turned.
    """
    chosen, _ = choices.volumes(table)
    resampled = resample_series(
        image.data[..., chosen],
        image.affine,
        place.points_mm,
        motion.reference_to_volume[chosen],
        displacement_mm=None,
        spline_order=spline_order,
        keep_nonnegative=True,
        modulate=True,
    )
    turned = turned_table(table, motion, place)
    fit = choices.fit_chosen(resampled.values, resampled.covered_mask, turned)
    maps = {}
    for name in ("fa", "md", "ad", "rd"):
        values = np.where(resampled.covered_mask, getattr(fit, name), np.float32(np.nan))
        volume = points_to_volume(values, place.is_inside, outside=0)
        maps[name] = np.asarray(volume, dtype=np.float32)
    return maps
