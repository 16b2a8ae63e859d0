"""Where a slab of the head lies in an image of the whole head, of another contrast."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.checks import as_float, require_finite, require_range
from bids_alsmri.numerics.mutual_information import register_by_information
from bids_alsmri.numerics.volume_registration import (
    HEAD_RADIUS_MM,
    ImageFrame,
    frame_transform,
    image_frame,
    smooth,
)

_Array = NDArray[np.float64]
_Mask = NDArray[np.bool_]

N_POINTS = 4000  # from which the search tells candidates apart
N_BINS = 24
N_REFINED = 2  # candidates of the search that are followed beside the scanner's place
SLACK_MM, SLACK_DEG = 10.0, 10.0  # that a slab may always move


@dataclass(frozen=True)
class SlabPose:
    """Place of a slab in the whole head.

    Attributes
    ----------
    slab_to_head : (4, 4) array
        World of the slab to that of the head, rigid, in mm.
    misfit : float
        :math:`e^{-2I}` of their mutual information I there: 0 if one foretells the other, 1 if they
        tell nothing about each other.
    moved_mm : float
        By how much the middle of the slab was moved from where the headers put it, in mm.
    turned_deg : float
        By how much it was turned, in degrees.
    """

    slab_to_head: _Array
    misfit: float
    moved_mm: float
    turned_deg: float


def register_slab(
    slab: ArrayLike,
    slab_affine: ArrayLike,
    head: ArrayLike,
    head_affine: ArrayLike,
    *,
    voxel_mm: float,
    fwhm_mm: Sequence[float],
    reach_mm: float,
    reach_deg: float,
    tolerance_mm: float,
) -> SlabPose:
    r"""Rigid transform under which a slab and the head tell most about each other.

    Parameters
    ----------
    slab : (X, Y, Z) array_like
        Finite, largely free of the coils' shading.
    slab_affine : (4, 4) array_like
        Its voxel indices to world, in mm.
    head : (U, V, W) array_like
        Another contrast, finite.
    head_affine : (4, 4) array_like
        Its voxel indices to world, in mm.
    voxel_mm : float
        Edge of the lattice on which both are compared, in mm, 0.3 to 10.
    fwhm_mm : sequence of float
        Smoothing of both, step after step, in mm, not negative.
    reach_mm, reach_deg : float
        How far from the place that headers tell the slab is sought, in mm along each axis, and in
        degrees about each; 0 to 60 and 0 to 45.
    tolerance_mm : float
        Steps below this end a search, in mm, positive.

    Returns
    -------
    SlabPose
        The transform, and how well it fits.

    Raises
    ------
    NumericsError
        If a value is out of range or slab and head do not overlap.

    Notes
    -----
    All voxels of the slab and no others count, since the head goes on beyond it: its overlap is
    whole, and cannot be lessened for the sake of the criterion. On a grid of moves by 0, half of
    and the whole of `reach_mm`, each with turns by 0 or `reach_deg` about one axis, mutual
    information of smoothed images tells the best candidates; they and the headers' place are
    followed by `register_by_information` to the finest images, where the best of those that stay
    within reach is taken.

    Examples
    --------
    >>> x, y, z = np.mgrid[:40, :40, :40] - 19.5
    >>> head = np.exp(-(x**2 + 2 * y**2) / 200) + (z > 0.2 * x) + (np.hypot(x - 5, y - 3) < 6)
    >>> moved = np.eye(4)
    >>> moved[0, 3] = 3.0  # the slab's header puts it 3 mm to the right of its place
    >>> found = register_slab(2 - head[:, :, 10:30], moved @ [[1, 0, 0, 0], [0, 1, 0, 0],
    ...     [0, 0, 1, 10], [0, 0, 0, 1]], head, np.eye(4), voxel_mm=1.0, fwhm_mm=(3.0,),
    ...     reach_mm=0.0, reach_deg=0.0, tolerance_mm=0.05)
    >>> round(float(found.slab_to_head[0, 3]), 0), round(found.moved_mm, 0)
    (-3.0, 3.0)
    """
    inner, outer = as_float("slab", slab, ndim=3), as_float("head", head, ndim=3)
    to_world = as_float("slab_affine", slab_affine, ndim=2)
    head_world = as_float("head_affine", head_affine, ndim=2)
    require_finite("slab", inner)
    require_finite("head", outer)
    require_range("voxel_mm", voxel_mm, 0.3, 10.0, unit="mm")
    require_range("reach_mm", reach_mm, 0.0, 60.0, unit="mm")
    require_range("reach_deg", reach_deg, 0.0, 45.0, unit="degree")
    require_range("tolerance_mm", tolerance_mm, 0.0, 10.0, unit="mm", open_low=True)
    if not fwhm_mm or min(fwhm_mm) < 0.0:
        raise NumericsError(f"fwhm_mm is {list(fwhm_mm)}; expected one or more, none below 0")
    frame, grid = _common_frame(inner.shape, to_world, voxel_mm, reach_mm)
    reference = _onto(inner, to_world, grid, frame.shape, mode="nearest")
    mask = _onto(np.ones(inner.shape), to_world, grid, frame.shape, mode="grid-constant") > 0.5
    volume = _onto(outer, head_world, grid, frame.shape, mode="constant")
    if not mask.any() or np.ptp(volume[mask]) == 0.0 or np.ptp(reference[mask]) == 0.0:
        raise NumericsError(
            "slab and head do not overlap, or one of them is constant there; see whether their "
            "headers tell the same world"
        )
    others = _candidates(reference, volume, mask, frame, fwhm_mm[0], reach_mm, reach_deg)
    starts = [np.zeros(6), *others]
    followed = []
    for start in starts:
        parameters = start
        for width in fwhm_mm:
            fit = register_by_information(
                volume,
                reference,
                mask,
                frame=frame,
                model="rigid",
                phase_axis=0,
                start=parameters,
                fwhm_mm=width,
                tolerance_mm=tolerance_mm,
            )
            parameters = fit.parameters
            if not _is_within(parameters, reach_mm, reach_deg):
                break
        else:
            followed.append(fit)
    if not followed:
        raise NumericsError(
            f"the slab fits nowhere within {reach_mm:g} mm and {reach_deg:g} degrees of where the "
            "headers put it; see whether they tell the same world, or allow it to lie farther away"
        )
    # smoothed images fit by chance where finer ones do not
    found = min(followed, key=lambda fit: fit.misfit)
    return _pose(found.parameters, found.misfit, frame)


def _is_within(parameters: _Array, reach_mm: float, reach_deg: float) -> bool:
    turn = np.rad2deg(np.linalg.norm(parameters[3:6]) / HEAD_RADIUS_MM)
    # candidates lie at the ends of the grid, and are followed half a step beyond them
    return bool(
        np.abs(parameters[:3]).max() <= max(1.5 * reach_mm, SLACK_MM)
        and turn <= max(2.0 * reach_deg, SLACK_DEG)
    )


def _pose(parameters: _Array, misfit: float, frame: ImageFrame) -> SlabPose:
    move = frame_transform(parameters, "rigid", 0)
    world = frame.frame_to_world @ move @ np.linalg.inv(frame.frame_to_world)
    turned = np.arccos(np.clip((np.trace(move[:3, :3]) - 1.0) / 2.0, -1.0, 1.0))
    moved_mm = float(np.linalg.norm(move[:3, 3]))
    return SlabPose(world, misfit, moved_mm, float(np.rad2deg(turned)))


def _common_frame(
    shape: Sequence[int], affine: _Array, voxel_mm: float, margin_mm: float
) -> tuple[ImageFrame, _Array]:
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    n_voxels = np.array(shape)
    # the first smoothing must not see the end of the lattice either
    wanted = np.ceil((n_voxels * edges + 2 * margin_mm + 20.0) / voxel_mm).astype(int)
    grid = np.eye(4)
    grid[:3, :3] = affine[:3, :3] / edges * voxel_mm
    middle = affine[:3, :3] @ ((n_voxels - 1) / 2) + affine[:3, 3]
    grid[:3, 3] = middle - grid[:3, :3] @ ((wanted - 1) / 2)
    return image_frame(grid, [int(n) for n in wanted]), grid


def _onto(
    values: _Array, affine: _Array, grid: _Array, shape: Sequence[int], *, mode: str
) -> _Array:
    to_values = np.linalg.inv(affine) @ grid
    return np.asarray(
        ndimage.affine_transform(
            values, to_values[:3, :3], to_values[:3, 3], output_shape=tuple(shape), order=1,
            mode=mode,
        ),
        dtype=np.float64,
    )  # fmt: skip


def _moves(reach_mm: float, reach_deg: float) -> Iterator[_Array]:
    shifts = sorted({0.0, reach_mm / 2, -reach_mm / 2, reach_mm, -reach_mm})
    turn = np.deg2rad(reach_deg) * HEAD_RADIUS_MM
    turns = [np.zeros(3)]
    for axis in range(3) if reach_deg > 0.0 else ():
        turns += [sign * turn * np.eye(3)[axis] for sign in (-1.0, 1.0)]
    for shift in product(shifts, repeat=3):
        for rotation in turns:
            yield np.concatenate([shift, rotation])


def _candidates(
    reference: _Array, volume: _Array, mask: _Mask, frame: ImageFrame, fwhm_mm: float,
    reach_mm: float, reach_deg: float,
) -> list[_Array]:  # fmt: skip
    if reach_mm <= 0.0 and reach_deg <= 0.0:
        return []
    voxels = np.argwhere(mask)
    within = voxels[:: -(-len(voxels) // N_POINTS)].astype(np.float64)
    within += np.random.default_rng(0).uniform(-0.5, 0.5, within.shape)
    points = within @ frame.voxel_to_frame[:3, :3].T + frame.voxel_to_frame[:3, 3]
    from_frame = np.linalg.inv(frame.voxel_to_frame)
    known = ndimage.map_coordinates(smooth(reference, fwhm_mm, frame), within.T, order=1)
    seen_in = smooth(volume, fwhm_mm, frame)
    known_bins = np.searchsorted(_ranks(known), known)
    moves, found = list(_moves(reach_mm, reach_deg)), []
    ranks = _ranks(seen_in[mask])
    for move in moves:
        matrix = from_frame @ frame_transform(move, "rigid", 0)
        places = points @ matrix[:3, :3].T + matrix[:3, 3]
        seen = ndimage.map_coordinates(seen_in, places.T, order=1, mode="nearest")
        pairs = known_bins * N_BINS + np.searchsorted(ranks, seen)
        found.append(_information(np.bincount(pairs, minlength=N_BINS**2)))
    best: list[_Array] = []
    for index in np.argsort(found)[::-1]:
        # neighbours on the grid lead to the same place
        if all(np.abs(moves[index] - other).max() > reach_mm / 2 for other in best):
            best.append(moves[index])
        if len(best) == N_REFINED:
            break
    return best


def _ranks(values: _Array) -> _Array:
    return np.asarray(np.quantile(values, np.linspace(0.0, 1.0, N_BINS + 1)[1:-1]))


def _information(counts: NDArray[np.integer[Any]]) -> float:
    share = counts.reshape(N_BINS, N_BINS) / counts.sum()
    apart = np.outer(share.sum(axis=1), share.sum(axis=0))
    held = share > 0
    return float(np.sum(share[held] * np.log(share[held] / apart[held])))
