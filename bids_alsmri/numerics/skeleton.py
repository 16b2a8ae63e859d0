"""Skeleton of white-matter tracts and the projection of participants' maps onto it.

The method is tract-based spatial statistics (Smith et al. 2006,
doi:10.1016/j.neuroimage.2006.02.024): a mean of fractional anisotropy (FA) over participants, in
one space, is thinned to the centres of the tracts, and each participant's FA is searched across
the tract for its own centre.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.checks import (
    as_float,
    require_finite,
    require_range,
    require_same_shape,
)
from bids_alsmri.numerics.compile import kernel

_NEAR_CENTRE = 0.1  # voxels; a centre of gravity nearer than this points nowhere (see Notes)
_SPACING_POWER = 1.4  # of a step's length, by which its second difference is divided (see Notes)
_REACH = 2  # voxels on each side that a voxel of the skeleton exceeds

_Volume = NDArray[np.float64]
_Indices = NDArray[np.int64]
_Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class GroupMask:
    """Where all participants have a value, and who cost how much of it.

    Attributes
    ----------
    mask : (X, Y, Z) array of bool
        FA is above 0 in every participant.
    mean_fa : (X, Y, Z) array
        Mean over participants, dimensionless; 0 outside the mask.
    removed_share : (N,) array
        Voxels missing in this participant alone, as a share (0 to 1) of the mask without him.
    costly : tuple of int
        Participants, counted from 0, whose share exceeds the one allowed.
    """

    mask: _Mask
    mean_fa: _Volume
    removed_share: NDArray[np.float64]
    costly: tuple[int, ...]


@dataclass(frozen=True)
class Skeleton:
    """Centres of the tracts, and the way across them.

    Attributes
    ----------
    fa : (X, Y, Z) array
        Mean FA on the skeleton, dimensionless; 0 elsewhere.
    directions : (X, Y, Z, 3) array of int8
        Step to a neighbouring voxel, each part -1, 0 or 1, perpendicular to the tract; its sign
        has no meaning. 0 where there is no direction.
    """

    fa: _Volume
    directions: NDArray[np.int8]


@dataclass(frozen=True)
class Projection:
    """One participant's values on the skeleton.

    Attributes
    ----------
    values : (n,) array
        FA at the centre of the participant's tract; voxels in the order of ``fa[skeleton_mask]``.
    positions : (n,) array of int64
        Where it was found: an index into the flattened map, for `sample_positions`.
    """

    values: NDArray[np.float64]
    positions: _Indices


def erode_fa(fa: NDArray[np.floating], mask: NDArray[np.bool_]) -> _Volume:
    """FA without the outermost voxels of the brain and without the end slices.

    Parameters
    ----------
    fa : (X, Y, Z) array
        Fractional anisotropy in the participant's own space, dimensionless.
    mask : (X, Y, Z) array of bool
        Brain.

    Returns
    -------
    (X, Y, Z) array
        FA where all 26 neighbours are in the mask too; 0 elsewhere, on the first and last slice of
        each axis, and where FA is not finite.

    Raises
    ------
    NumericsError
        If shapes differ or are not 3D, or nothing is left.

    Notes
    -----
    The rim holds large FA that noise and head motion make. A voxel whose fit failed (NaN) does not
    take its neighbours with it.

    Examples
    --------
    >>> erode_fa(np.full((5, 5, 5), 0.5), np.ones((5, 5, 5), bool))[2, 2]
    array([0. , 0.5, 0.5, 0.5, 0. ])
    """
    fa = as_float("fa", fa, ndim=3)
    mask = _as_mask("mask", mask)
    require_same_shape(fa=fa, mask=mask)
    inner = ndimage.binary_erosion(mask, np.ones((3, 3, 3), bool)) & np.isfinite(fa)
    if not inner.any():
        raise NumericsError(
            f"mask holds {np.count_nonzero(mask)} voxels and none after erosion by one; look "
            "whether the mask fits the FA map"
        )
    return np.where(inner, fa, 0.0)


def group_mask(fa_maps: Iterable[NDArray[np.floating]], *, most_removed_share: float) -> GroupMask:
    """Voxels with a value in all participants, the mean FA there, and who removes much of them.

    Parameters
    ----------
    fa_maps : iterable of (X, Y, Z) array
        FA of each participant in one space, dimensionless; 0 or NaN where there is none. Taken one
        at a time, so that a generator keeps only one in memory.
    most_removed_share : float
        Share of the mask, 0 to 1, that one participant may remove alone without being named.

    Returns
    -------
    GroupMask
        Mask, mean, and each participant's share.

    Raises
    ------
    NumericsError
        If there are fewer than two maps, their shapes differ, or no voxel is left.

    Examples
    --------
    >>> whole = np.full((1, 1, 4), 0.4)
    >>> found = group_mask([whole, whole, whole * [1, 1, 1, 0]], most_removed_share=0.02)
    >>> found.mask[0, 0], found.removed_share, found.costly
    (array([ True,  True,  True, False]), array([0.  , 0.  , 0.25]), (2,))
    """
    require_range("most_removed_share", most_removed_share, 0.0, 1.0)
    total = n_missing = who = np.zeros(0)
    n_maps = 0
    for index, values in enumerate(fa_maps):
        fa = as_float(f"fa_maps[{index}]", values, ndim=3)
        if index == 0:
            total = np.zeros(fa.shape)
            n_missing, who = np.zeros((2, *fa.shape), np.int32)
        if fa.shape != total.shape:
            raise NumericsError(
                f"fa_maps[{index}] has shape {fa.shape} but fa_maps[0] has {total.shape}; bring "
                "all to one grid"
            )
        missing = ~((fa > 0.0) & np.isfinite(fa))
        n_missing += missing
        who[missing] = index
        total += np.where(missing, 0.0, fa)
        n_maps += 1
    if n_maps < 2:
        raise NumericsError(f"fa_maps holds {n_maps} map(s); give those of at least 2 participants")
    mask: _Mask = n_missing == 0
    n_inside = int(np.count_nonzero(mask))
    if not n_inside:
        raise NumericsError(
            f"no voxel has FA above 0 in all {n_maps} participants; look for a map that is empty "
            "or not in the common space"
        )
    removed = np.bincount(who[n_missing == 1], minlength=n_maps).astype(np.float64)
    share = removed / (n_inside + removed)
    costly = tuple(int(index) for index in np.flatnonzero(share > most_removed_share))
    return GroupMask(mask, np.where(mask, total / n_maps, 0.0), share, costly)


def _as_mask(name: str, mask: NDArray[np.generic]) -> _Mask:
    found = np.ascontiguousarray(mask)
    if found.ndim != 3 or found.dtype != np.bool_:
        raise NumericsError(f"{name} has {found.ndim} axes of type {found.dtype}; give 3 of bool")
    return found


def _make_steps() -> _Indices:
    # One of each pair of opposite neighbours, by preference where directions tie: upwards before
    # level, then forwards, then to the left
    steps = [step for step in product((-1, 0, 1), repeat=3) if _preference(step) > (0, 0, 0)]
    return np.array(sorted(steps, key=_preference, reverse=True), np.int64)


def _preference(step: tuple[int, ...]) -> tuple[int, int, int]:
    right, forwards, upwards = step
    return upwards, forwards, -right


def _number_by_step(steps: _Indices) -> _Indices:
    # direction 1 to 13 of each of the 27 steps, 0 for none
    numbers = np.zeros((3, 3, 3), np.int64)
    for number, step in enumerate(steps, start=1):
        numbers[tuple(1 + step)] = numbers[tuple(1 - step)] = number
    return numbers


@kernel
def _signed(part: float, length: float) -> int:
    # a part of a vector, rounded once the vector has length 1
    if 2.0 * abs(part) <= length:
        return 0
    return 1 if part > 0.0 else -1


@kernel
def _point_across(
    fa: _Volume,
    voxels: _Indices,
    steps: _Indices,
    jumps: _Indices,
    weights: _Volume,
    numbers: _Indices,
    near_centre: float,
    directions: NDArray[np.int8],
) -> None:
    for voxel in voxels:
        centre = fa[voxel]
        total = centre
        x = y = z = 0.0
        largest, across = 0.0, 0
        for k in range(jumps.shape[0]):
            ahead, behind = fa[voxel + jumps[k]], fa[voxel - jumps[k]]
            total += ahead + behind
            x += steps[k, 0] * (ahead - behind)
            y += steps[k, 1] * (ahead - behind)
            z += steps[k, 2] * (ahead - behind)
            fall = (2.0 * centre - ahead - behind) * weights[k]
            if fall > largest:
                largest, across = fall, k + 1
        length = np.sqrt(x * x + y * y + z * z)
        if length > near_centre * total:
            across = numbers[1 + _signed(x, length), 1 + _signed(y, length), 1 + _signed(z, length)]
        directions[voxel] = across


@kernel
def _take_mode(
    directions: NDArray[np.int8], voxels: _Indices, jumps: _Indices, modes: NDArray[np.int8]
) -> None:
    votes = np.zeros(jumps.shape[0] + 1, np.int64)
    for voxel in voxels:
        votes[:] = 0
        votes[directions[voxel]] = 1
        for k in range(jumps.shape[0]):
            votes[directions[voxel + jumps[k]]] += 1
            votes[directions[voxel - jumps[k]]] += 1
        # a vote for a direction is one for the opposite one too; no direction is its own opposite
        most, mode = 0, 0
        for number in range(1, votes.shape[0]):
            if votes[number] > most:
                most, mode = votes[number], number
        modes[voxel] = mode if most >= 2 * votes[0] else 0


@kernel
def _suppress(
    fa: _Volume,
    voxels: _Indices,
    directions: NDArray[np.int8],
    jumps: _Indices,
    reach: int,
    thinned: _Volume,
) -> None:
    for voxel in voxels:
        if directions[voxel] == 0:
            continue
        jump = jumps[directions[voxel] - 1]
        is_largest = True
        for n in range(1, reach + 1):
            # of equal neighbours the one ahead stays, so that one does
            if fa[voxel + n * jump] >= fa[voxel] or fa[voxel - n * jump] > fa[voxel]:
                is_largest = False
        if is_largest:
            thinned[voxel] = fa[voxel]


def skeletonise(mean_fa: NDArray[np.floating]) -> Skeleton:
    r"""Skeleton of a mean FA map: voxels that exceed their neighbours across the tract.

    Parameters
    ----------
    mean_fa : (X, Y, Z) array
        Mean FA, dimensionless, 0 outside the mask, on isotropic voxels (1 mm in the paper) with
        axes that run to the right, forwards and upwards. Rounded to single precision, so that a
        map gives the same skeleton before and after it was written to a file.

    Returns
    -------
    Skeleton
        Not thresholded: the skeleton proper is ``skeleton.fa >= 0.2``.

    Raises
    ------
    NumericsError
        If the map is not 3D, not finite, negative somewhere or 0 everywhere.

    Notes
    -----
    From Smith et al. 2006 (doi:10.1016/j.neuroimage.2006.02.024):

    1. The vector from a voxel to the centre of gravity of FA in its 3x3x3 neighbourhood, if longer
       than 0.1 voxel, points across the tract; each part of its unit vector is rounded.
    2. Nearer to the centre of the tract it is the step :math:`d` to one of the 13 pairs of
       neighbours with the largest positive fall of FA,
       :math:`(2 f(0) - f(d) - f(-d)) / |d|^{1.4}`; a voxel from which FA falls nowhere has none.
    3. Each voxel takes the most frequent direction of the 27. One without direction, outside the
       mask or on the first or last slice of an axis counts twice for none.
    4. A voxel is kept if FA is no larger one and two steps behind and smaller one and two ahead.

    Steps 1 to 4 leave details open; they were found by comparing this function with the output of
    FSL 6.0 on simulated maps (75 271 skeleton voxels; none of FSL's source was read). Dice at
    FA 0.2, each with the other details as above unless said:

    ============================================================  =======
    as above                                                      0.9998
    threshold of the centre of gravity 0.0995 or 0.1005 voxel     0.9987
    fall divided by ``|d|**1.38`` or ``|d|**1.42``                0.994
    no direction counts once, not at all                          0.987, 0.981
    a direction also where FA falls nowhere                       0.994
    neither of these two rules                                    0.979
    of equal modes the last in order of preference                0.973
    map with left and right exchanged                             0.994
    ============================================================  =======

    Before those, with the fall divided by :math:`|d|`: unit vector rounded 0.913, vector over its
    largest part 0.898, nearest of 13 by angle 0.883; comparison with one neighbour 0.903, no mode
    0.839; fall not divided 0.850, divided by :math:`|d|^2` 0.856.
    What differs (31 voxels) lies where rounding decides: falls equal to the last digit, offsets of
    0.1 voxel.

    A tube has no one direction across. Its skeleton holds the voxel nearest to the axis in each
    slice and up to six others, within 1.5 voxels of the axis (1.8 where FA falls so slowly that its
    standard deviation across is 3 voxels).

    Examples
    --------
    A sheet, brightest in its middle:

    >>> sheet = np.zeros((9, 9, 9)) + np.array([0, 0, 1, 3, 5, 3, 1, 0, 0])[:, None, None] / 10
    >>> found = skeletonise(sheet)
    >>> found.fa[:, 4, 4], found.directions[4, 4, 4]
    (array([0. , 0. , 0. , 0. , 0.5, 0. , 0. , 0. , 0. ]), array([-1,  0,  0], dtype=int8))
    """
    fa = as_float("mean_fa", mean_fa, ndim=3)
    require_finite("mean_fa", fa)
    if fa.size == 0 or fa.min() < 0.0 or fa.max() == 0.0:
        raise NumericsError(
            "mean_fa is negative somewhere or 0 everywhere; give the mean FA within the mask of "
            "all participants and 0 outside"
        )
    framed = np.pad(fa.astype(np.float32).astype(np.float64), _REACH)
    steps = _make_steps()
    jumps = steps @ np.array([framed.shape[1] * framed.shape[2], framed.shape[2], 1])
    weights = np.linalg.norm(steps, axis=1) ** -_SPACING_POWER
    away_from_end = np.zeros(framed.shape, bool)
    away_from_end[(slice(_REACH + 1, -_REACH - 1),) * 3] = True
    voxels = np.flatnonzero((framed > 0.0) & away_from_end)
    first, modes = np.zeros((2, framed.size), np.int8)
    _point_across(
        framed.ravel(), voxels, steps, jumps, weights, _number_by_step(steps), _NEAR_CENTRE, first
    )
    _take_mode(first, voxels, jumps, modes)
    thinned = np.zeros(framed.shape)
    _suppress(framed.ravel(), voxels, modes, jumps, _REACH, thinned.ravel())
    inside = (slice(_REACH, -_REACH),) * 3
    step_of_number = np.concatenate([np.zeros((1, 3), np.int8), steps.astype(np.int8)])
    directions = step_of_number[modes.reshape(framed.shape)[inside]]
    return Skeleton(np.ascontiguousarray(thinned[inside]), directions)


def distance_map(skeleton_mask: NDArray[np.bool_], mask: NDArray[np.bool_]) -> _Volume:
    """Distance of each voxel from the skeleton or from outside the mask, whichever is nearer.

    Parameters
    ----------
    skeleton_mask : (X, Y, Z) array of bool
        The skeleton, at its threshold.
    mask : (X, Y, Z) array of bool
        Mask of all participants.

    Returns
    -------
    (X, Y, Z) array
        Between voxel centres, in voxels; 0 on the skeleton and outside the mask.

    Raises
    ------
    NumericsError
        If a mask is no 3D mask, shapes differ, or the skeleton is empty.

    Examples
    --------
    >>> line = np.array([[[False, True, False, False, False]]])
    >>> distance_map(line, np.ones((1, 1, 5), bool))
    array([[[1., 0., 1., 2., 3.]]])
    """
    skeleton_mask, mask = _as_mask("skeleton_mask", skeleton_mask), _as_mask("mask", mask)
    require_same_shape(skeleton_mask=skeleton_mask, mask=mask)
    _require_voxels(skeleton_mask)
    distance: _Volume = ndimage.distance_transform_edt(mask & ~skeleton_mask)
    return distance


def _require_voxels(skeleton_mask: _Mask) -> None:
    if not skeleton_mask.any():
        raise NumericsError(
            "skeleton_mask holds no voxel; lower the threshold of the skeleton's FA"
        )


@kernel
def _search(
    fa: _Volume,
    voxels: _Indices,
    steps: _Indices,
    mask: _Mask,
    distance: _Volume,
    weight_sd: float,
    positions: _Indices,
) -> None:
    n_x, n_y, n_z = fa.shape
    for row in range(voxels.shape[0]):
        x0, y0, z0 = voxels[row, 0], voxels[row, 1], voxels[row, 2]
        dx, dy, dz = steps[row, 0], steps[row, 1], steps[row, 2]
        length2 = float(dx * dx + dy * dy + dz * dz)
        best = fa[x0, y0, z0]
        positions[row] = (x0 * n_y + y0) * n_z + z0
        if length2 == 0.0:
            continue
        for side in (1, -1):
            last = distance[x0, y0, z0]
            n = 0
            while True:
                n += 1
                x, y, z = x0 + side * n * dx, y0 + side * n * dy, z0 + side * n * dz
                if min(x, y, z) < 0 or x >= n_x or y >= n_y or z >= n_z or not mask[x, y, z]:
                    break
                if distance[x, y, z] < last:
                    break
                last = distance[x, y, z]
                weighted = fa[x, y, z] * np.exp(-0.5 * n * n * length2 / (weight_sd * weight_sd))
                if weighted > best:
                    best = weighted
                    positions[row] = (x * n_y + y) * n_z + z


def project(
    fa: NDArray[np.floating],
    *,
    skeleton_mask: NDArray[np.bool_],
    directions: NDArray[np.int8],
    distance: NDArray[np.floating],
    mask: NDArray[np.bool_],
    weight_sd_voxels: float,
) -> Projection:
    r"""Largest FA of one participant across the tract at each voxel of the skeleton.

    Parameters
    ----------
    fa : (X, Y, Z) array
        The participant's FA in the space of the skeleton, dimensionless.
    skeleton_mask : (X, Y, Z) array of bool
        The skeleton, at its threshold.
    directions : (X, Y, Z, 3) array of int8
        Steps across the tract, from `skeletonise`; a voxel without one keeps its own value.
    distance : (X, Y, Z) array
        From `distance_map`, in voxels.
    mask : (X, Y, Z) array of bool
        Mask of all participants; the search does not leave it.
    weight_sd_voxels : float
        Standard deviation of the Gaussian by which FA far from the skeleton counts less in the
        search, in voxels, above 0.

    Returns
    -------
    Projection
        Values, not weighted, and their positions, for other maps of the participant.

    Raises
    ------
    NumericsError
        If shapes differ, FA is not finite, the skeleton is empty or the weight not positive.

    Notes
    -----
    From a voxel of the skeleton the search goes both ways in whole steps :math:`d`, as long as the
    distance does not fall, for then another part of the skeleton is nearer. It takes the step
    :math:`n` with the largest :math:`f(n d)\,e^{-n^2 |d|^2 / (2 s^2)}`, the nearer one where equal
    (Smith et al. 2006, doi:10.1016/j.neuroimage.2006.02.024, section on projection). There is no
    other limit to its length; in the reference below it never went beyond 11 steps.

    On FSL 6.0's skeleton (72 609 voxels at 1 mm) and its projected FA, one participant:
    correlation and share of equal voxels were

    =======================================================  ========  =======
    as above, s = 10 voxels                                  0.99987   99.964 %
    search leaves the mask                                   0.99965   99.886 %
    and s = 8.5 voxels (full width at half maximum of 20)    0.99934   96.7 %
    and no weight                                            0.9985    88.3 %
    s = 10, distance must grow, not only not fall            0.9970    97.8 %
    s = 10, steps counted, not lengths (leaves the mask)     0.9992    94.8 %
    s = 10, at most 5 voxels                                 0.9994    99.880 %
    =======================================================  ========  =======

    The rule that FSL has for the lower cingulum, where tract and neighbour are too near to each
    other for this search, is not part of it.

    Examples
    --------
    A participant whose tract lies one voxel further on:

    >>> profile = np.array([0, 0, 1, 3, 5, 3, 1, 0, 0])[:, None, None] / 10
    >>> sheet = np.zeros((9, 9, 9)) + profile
    >>> skeleton = skeletonise(sheet)
    >>> centre = skeleton.fa >= 0.2
    >>> found = project(
    ...     np.roll(sheet, 1, axis=0), skeleton_mask=centre, directions=skeleton.directions,
    ...     distance=distance_map(centre, sheet > 0), mask=sheet > 0, weight_sd_voxels=10.0
    ... )
    >>> found.values[:3], np.unravel_index(found.positions[:3], sheet.shape)[0]
    (array([0.5, 0.5, 0.5]), array([5, 5, 5]))
    """
    fa = as_float("fa", fa, ndim=3)
    distance = as_float("distance", distance, ndim=3)
    skeleton_mask, mask = _as_mask("skeleton_mask", skeleton_mask), _as_mask("mask", mask)
    require_same_shape(fa=fa, skeleton_mask=skeleton_mask, distance=distance, mask=mask)
    if directions.shape != (*fa.shape, 3):
        raise NumericsError(
            f"directions has shape {directions.shape}; give {(*fa.shape, 3)}, a step for each voxel"
        )
    require_finite("fa", fa)
    require_range("weight_sd_voxels", weight_sd_voxels, 0.0, 1e6, unit="voxels", open_low=True)
    _require_voxels(skeleton_mask)
    voxels = np.argwhere(skeleton_mask)
    steps = np.ascontiguousarray(directions[skeleton_mask], np.int64)
    positions = np.empty(len(voxels), np.int64)
    _search(fa, voxels, steps, mask, distance, float(weight_sd_voxels), positions)
    return Projection(fa.ravel()[positions], positions)


def sample_positions(values: NDArray[np.floating], positions: _Indices) -> NDArray[np.float64]:
    """Another map of a participant where his FA was found to be largest.

    Parameters
    ----------
    values : (X, Y, Z) array
        Map in the space of the skeleton (diffusivity in mm2/s, say); NaN passes through.
    positions : (n,) array of int
        From `project` of the same participant.

    Returns
    -------
    (n,) array
        In the unit of the map.

    Raises
    ------
    NumericsError
        If a position is no whole number or lies outside the map.

    Examples
    --------
    >>> sample_positions(np.arange(8.0).reshape(2, 2, 2), np.array([5, 0]))
    array([5., 0.])
    """
    flat = as_float("values", values, ndim=3).ravel()
    positions = np.asarray(positions)
    if positions.dtype.kind not in "iu":
        raise NumericsError(f"positions is of type {positions.dtype}; give those of project")
    if positions.size and (positions.min() < 0 or positions.max() >= flat.size):
        raise NumericsError(
            f"positions run from {positions.min()} to {positions.max()} but values has "
            f"{flat.size} voxels; bring the map to the grid of the skeleton"
        )
    return flat[positions]
