"""Legs without any label: which is left, and fat, bone and muscle within each."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage, sparse

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.anatomy import largest_component, otsu_threshold
from bids_alsmri.numerics.checks import as_float, require_same_shape
from bids_alsmri.numerics.contours import cheapest_contours, fill_contours, sample_rays
from bids_alsmri.numerics.two_tissues import TwoTissues, even_tissues, require_contrast

_Array = NDArray[np.float64]
_Mask = NDArray[np.bool_]
_Labels = NDArray[np.int16]

_SURFACE_SHARE = 0.35  # of Otsu's threshold between air and tissue: skin and muscle on T2w are dark
_SURFACE_SMOOTHING = 0.7  # voxels; noise in air does not pass the threshold then
_CLOSING_MM = 2.3  # radius: skin lost to chemical shift
_RIM_MM = 3.0  # how far the outline of tissue may be too wide
_SURFACE_MM = 4.0  # radius of the opening: cables, noise
_LEAST_LEG_SHARE = 0.3  # volume over that of the largest part: less is a hand or an arm
_CORE_SHARE = 0.6  # depth over the deepest of the slice: two legs that touch have two cores

_N_ANGLES = 144
_RADIUS_STEP_MM = 1.0
_LEAST_FAT_MM = 3.5  # of skin and fat: no muscle comes nearer to the surface
_FIRST_ORDER = 2  # of the field before the fascia is known: more takes fat for a bright rim
_DARK_RIM_MM = 10.0  # depth to which the rim may be without signal, where a coil pressed it
_MUSCLE_WITHIN = 0.95  # how sure it is to be muscle within the first fascia, and fat outside
_BRIDGE_MM = 20.0  # radius of the closing that takes hollows of the outline out
_FASCIA_MM = 1.5  # from the middle of the fascia to the tissue on either side
_QUIET_STEP = 0.15  # of log signal between neighbours: noise and coil, no border
_DEEP_SHARE = 0.5  # depth over the deepest of the slice: muscle or bone there
_BARRIER_SHARE = 0.4  # of the barrier there: beyond it is within the fascia
_LEAST_BARRIER = 0.02
_DARKEST_SHARE = 0.3  # of the darker tissue: lines are not deeper than that on the way inwards
_FAT_WEIGHT = 0.5  # of what joins the skin's fat inside the contour: fat lies between muscles too
_EDGE_WEIGHT = 4.0  # of a full step between muscle and fat, in mm misplaced
_MOST_PULL_STEPS = 15.0  # from the neighbours; further off is no dearer
_MOST_STEPS = 3  # in radius between two angles
_BEND_COST = 0.3  # of one step in radius between two angles
_NEIGHBOUR_COST = 0.06  # of the square of a step from the neighbouring slices

_SKIN_MM = 1.5  # depth of the skin, which is dark itself
_DARK_SHARE = 0.5  # cortex: below this multiple of the darker tissue
_BONE_OPENING_MM = 2.8  # radius: thinner is fascia or vessel, thicker the fibula's shaft
_LARGEST_BONE_SHARE = 0.4  # of the leg's section: a ring around more is fascia
_MOST_MUSCLE_SHARE = 0.35  # of what a ring encloses: more, and the ring is a muscle's fascia
_LEAST_SECTION_MM2 = 65.0  # of a bone; a fibula has about 100
_RING_MM, _LEAST_RING_SHARE = 3.0, 0.75  # a fascia is a thinner ring than cortex
_LEAST_BONE_SHARE = 0.5  # of the leg's slices in which a bone must be seen
_LEAST_ALIKE = 0.6  # area of a bone over that in the slice before: else its ring has a gap
_BONE_REACH = 1.6  # typical radii of the bone within which its outline is sought
_MOST_SHIFT_MM = 5.0  # of the middle of a bone from slice to slice
_BONE_STEPS = 2
_BONE_BEND_COST = 0.05
_BONE_NEIGHBOUR_COST = 0.02  # of the square of a step from the slice before
_N_BONE_ANGLES = 64
_BONE_STEP_MM = 0.5
_SEPTUM_SHARE = 0.75  # of the darker tissue: darker is a border in an opposed-phase echo, or tendon
_LEAST_MARROW_RATIO = 1.6  # marrow over cortex


class Tissue(IntEnum):
    """Labels of the compartments of a leg."""

    SUBCUTANEOUS_FAT = 1
    MUSCLE = 2
    INTERMUSCULAR_FAT = 3
    BONE_CORTEX = 4
    BONE_MARROW = 5
    OTHER = 6  # vessels, tendons and septa: neither like muscle nor like fat


@dataclass(frozen=True)
class Legs:
    """Legs of one image.

    Attributes
    ----------
    labels : (X, Y, Z) array of int16
        Number of the leg from 1, 0 outside; skin included.
    sides : tuple of str
        Side of each leg in the order of its number: "right" and "left", or "unknown" where only
        one leg is in view.
    slice_axis : int
        Axis of the image that runs along the legs.
    """

    labels: _Labels
    sides: tuple[str, ...]
    slice_axis: int


@dataclass(frozen=True)
class Compartments:
    """Tissues of the legs of one image.

    Attributes
    ----------
    tissues : (X, Y, Z) array of int16
        `Tissue` of each voxel, 0 outside the legs.
    bones : (X, Y, Z) array of int16
        Number of the bone within its leg, the largest first (thigh: femur; calf: tibia, fibula).
    n_bones : tuple of int
        Bones found in each leg.
    even : (X, Y, Z) array
        Image without the coil's field, in units of muscle: muscle is 1; 0 outside the legs.
    field : (X, Y, Z) array
        Signal of muscle at each place, in the unit of the image; 0 outside the legs.
    fats : tuple of float
        Signal of fat over that of muscle, for each leg.
    """

    tissues: _Labels
    bones: _Labels
    n_bones: tuple[int, ...]
    even: _Array
    field: _Array
    fats: tuple[float, ...]


class _Slices(NamedTuple):
    """Arrays with the slices along the first axis, cut to one leg."""

    even: _Array
    leg: _Mask
    pixel_mm: tuple[float, float]
    fat: float
    muscle_sd: float
    is_final: bool  # whether the field was fitted with the fascia known


class _Outline(NamedTuple):
    centres: _Array  # (K, 2) voxels
    radii_mm: _Array  # (K, A)


def find_legs(image: ArrayLike, affine: ArrayLike) -> Legs:
    """Legs of an image, and the side of each by the axes of its affine.

    Parameters
    ----------
    image : (X, Y, Z) array_like
        Magnitude image of one or two legs, without bias of more than a factor of about 5.
    affine : (4, 4) array_like
        Voxel indices to world coordinates in mm; x grows to the right of the patient.

    Returns
    -------
    Legs
        Two legs: the right is the one on the side to which world x grows, seen from the middle
        between both. One leg: its side is not to be known from the image.

    Raises
    ------
    NumericsError
        If the image is constant or holds no leg.

    Notes
    -----
    Tissue is what exceeds a share of Otsu's threshold in its slice, closed and filled. Legs that
    touch are cut midway between their cores.
    Whether the header itself is mirrored cannot be seen in the image.

    Examples
    --------
    >>> x, y, _ = np.mgrid[:60, :30, :3]
    >>> legs = (np.hypot(x - 15, y - 15) < 10) | (np.hypot(x - 45, y - 15) < 10)
    >>> find_legs(legs * 100.0, np.diag([-2.0, 2, 5, 1])).sides
    ('right', 'left')
    """
    signal = as_float("image", image, ndim=3)
    to_world = as_float("affine", affine, ndim=2)
    slice_axis = int(np.argmax(np.abs(to_world[2, :3])))
    edges_mm = np.linalg.norm(to_world[:3, :3], axis=0)
    pixel_mm = np.delete(edges_mm, slice_axis)
    stack = np.moveaxis(signal, slice_axis, 0)
    body = np.stack([_surface(image, pixel_mm) for image in stack])
    cores = _cores(body, pixel_mm)
    labels = np.zeros(body.shape, dtype=np.int16)
    for index, section in enumerate(body):
        labels[index] = _cut(section, cores[index], pixel_mm)
    sizes = np.bincount(labels.ravel(), minlength=2)[1:]
    if sizes.max(initial=0) == 0:
        raise NumericsError(
            f"image of shape {signal.shape} holds no leg; expected tissue brighter than the air "
            "around it in at least half of the slices"
        )
    kept = [n + 1 for n in np.argsort(-sizes) if sizes[n] >= _LEAST_LEG_SHARE * sizes.max()][:2]
    found = np.moveaxis(labels, 0, slice_axis)
    heights = [_mean_x(found == number, to_world) for number in kept]
    ordered = [kept[n] for n in np.argsort(heights)[::-1]]  # the right leg first
    final = np.zeros(signal.shape, dtype=np.int16)
    for number, old in enumerate(ordered, start=1):
        final[found == old] = number
    return Legs(final, ("right", "left") if len(ordered) == 2 else ("unknown",), slice_axis)


def segment_compartments(
    image: ArrayLike, legs: Legs, voxel_mm: ArrayLike, *, field_order: int
) -> Compartments:
    r"""Fat under the skin, bone, marrow, muscle and the fat between muscles.

    Parameters
    ----------
    image : (X, Y, Z) array_like
        Magnitude image, in any unit: T1w, T2w without fat suppression, or one Dixon echo.
    legs : Legs
        From `find_legs`.
    voxel_mm : (3,) array_like
        Edges of a voxel, in mm.
    field_order : int
        Highest order of the polynomials that make the coil's field over one leg, 1 to 8.

    Returns
    -------
    Compartments
        Each voxel of a leg has one tissue. The fat under the skin includes the skin, the muscle
        compartment all within the fascia.

    Raises
    ------
    NumericsError
        If shapes differ, or muscle and fat do not differ in brightness.

    Notes
    -----
    Bones are dark rings or discs that go on along the leg and hold no muscle; the outline of
    each is the closed way of the steepest rise from dark to bright. What can be reached from
    the skin without crossing an edge or a dark line is joined to the fat there (least sum of
    changes of log signal along a path); the fascia is the closed way that leaves most of the
    rest inside, along edges or dark lines, and alike in neighbouring slices. Both are found
    twice: what lies within the first fascia says where muscle is when the coil's field is
    fitted again. Within it a voxel is fat where it is nearer to fat than to muscle. It does not
    matter which of the two is the brighter. Ways are found by dynamic programming
    (`numerics.contours`), the field by `numerics.two_tissues`.
    """
    signal = as_float("image", image, ndim=3)
    require_same_shape(image=signal, labels=legs.labels)
    edges_mm = as_float("voxel_mm", voxel_mm, ndim=1)
    pixel_mm = np.delete(edges_mm, legs.slice_axis)
    stack_mm = np.array([edges_mm[legs.slice_axis], *pixel_mm])
    stack = np.moveaxis(signal, legs.slice_axis, 0)
    numbers = np.moveaxis(legs.labels, legs.slice_axis, 0)
    tissues, bones = (np.zeros(stack.shape, dtype=np.int16) for _ in range(2))
    even, field = (np.zeros(stack.shape) for _ in range(2))
    fats, n_bones = [], []
    for number in range(1, len(legs.sides) + 1):
        box = _box(numbers == number)
        mask = numbers[box] == number
        leg, found, within, model = _two_rounds(stack[box], mask, stack_mm, field_order)
        for whole, part in (
            (tissues, _label(leg, found, within)),
            (bones, found),
            (even, model.even),
            (field, model.field),
        ):
            whole[box][mask] = part[mask]
        fats.append(model.fat)
        n_bones.append(int(found.max(initial=0)))

    axis = legs.slice_axis
    return Compartments(
        np.ascontiguousarray(np.moveaxis(tissues, 0, axis), dtype=np.int16),
        np.ascontiguousarray(np.moveaxis(bones, 0, axis), dtype=np.int16),
        tuple(n_bones),
        np.ascontiguousarray(np.moveaxis(even, 0, axis), dtype=np.float64),
        np.ascontiguousarray(np.moveaxis(field, 0, axis), dtype=np.float64),
        tuple(fats),
    )


def _two_rounds(
    stack: _Array, mask: _Mask, stack_mm: _Array, field_order: int
) -> tuple[_Slices, _Labels, _Mask, TwoTissues]:
    """Bones and fascia of one leg, with the field fitted again once the fascia is known."""
    pixel_mm = (float(stack_mm[1]), float(stack_mm[2]))
    share = None
    for order in (min(_FIRST_ORDER, field_order), field_order):
        model = even_tissues(stack, mask, stack_mm, slice_axis=0, order=order, muscle_share=share)
        leg = _Slices(model.even, mask, pixel_mm, model.fat, model.muscle_sd, share is not None)
        bones = _find_bones(leg)
        within = _within_fascia(leg, bones > 0)
        share = np.where(within, _MUSCLE_WITHIN, 1.0 - _MUSCLE_WITHIN)
        share[bones > 0] = 0.5
    require_contrast(model)
    return leg, bones, within, model


def _mean_x(mask: _Mask, affine: _Array) -> float:
    centre = np.argwhere(mask).mean(axis=0)
    return float(affine[0, :3] @ centre + affine[0, 3])


def _box(mask: _Mask) -> tuple[slice, ...]:
    found = ndimage.find_objects(mask.astype(np.int8))[0]
    return tuple(
        slice(max(0, part.start - 2 * (axis > 0)), min(size, part.stop + 2 * (axis > 0)))
        for axis, (part, size) in enumerate(zip(found, mask.shape, strict=True))
    )


def _disc(radius_mm: float, pixel_mm: ArrayLike) -> _Mask:
    edges = np.asarray(pixel_mm, dtype=np.float64)
    reach = np.floor(radius_mm / edges).astype(int)
    grid = np.indices((2 * int(reach[0]) + 1, 2 * int(reach[1]) + 1), dtype=np.float64)
    grid -= reach[:, np.newaxis, np.newaxis]
    return np.asarray(np.hypot(grid[0] * edges[0], grid[1] * edges[1]) <= radius_mm)


def _surface(section: _Array, pixel_mm: _Array) -> _Mask:
    """Tissue of one slice, filled."""
    smooth = ndimage.gaussian_filter(section, _SURFACE_SMOOTHING)
    if not (smooth > 0).any() or smooth.min() == smooth.max():
        return np.zeros(section.shape, dtype=np.bool_)
    capped = np.minimum(smooth, np.percentile(smooth[smooth > 0], 95))
    above = smooth > _SURFACE_SHARE * otsu_threshold(capped, n_bins=128)
    disc = _disc(_SURFACE_MM, pixel_mm)
    pad = max(disc.shape)
    padded = np.pad(above, pad)
    closed = ndimage.binary_closing(padded, _disc(_CLOSING_MM, pixel_mm))
    opened = ndimage.binary_opening(ndimage.binary_fill_holes(closed), disc)
    rough = np.asarray(opened[pad:-pad, pad:-pad], dtype=np.bool_)
    # the low threshold takes in what blur and noise put around the skin: cut at half of the skin
    rim = rough & (ndimage.distance_transform_edt(rough, sampling=pixel_mm) <= _RIM_MM)
    skin = ndimage.grey_dilation(
        ndimage.median_filter(section, 3), footprint=_disc(_RIM_MM + 2.0, pixel_mm)
    )
    trimmed = rough & ~(rim & (section < 0.5 * skin))
    even = _disc(_CLOSING_MM, pixel_mm)
    closed = ndimage.binary_closing(np.pad(trimmed, pad), even)[pad:-pad, pad:-pad]
    return np.asarray(ndimage.binary_opening(closed & rough, disc), dtype=np.bool_)


def _cores(body: _Mask, pixel_mm: _Array) -> NDArray[np.int32]:
    """Middle of each limb, numbered through all slices."""
    core = np.zeros(body.shape, dtype=np.bool_)
    for index, section in enumerate(body):
        depth = ndimage.distance_transform_edt(section, sampling=pixel_mm)
        core[index] = depth > max(_CORE_SHARE * float(depth.max()), _SURFACE_MM)
    labels, n_parts = ndimage.label(core)
    span = np.array([len(np.unique(np.nonzero(labels == n)[0])) for n in range(1, n_parts + 1)])
    kept = np.zeros(n_parts + 1, dtype=np.int32)
    long_enough = np.flatnonzero(span >= 0.5 * span.max(initial=1)) + 1
    kept[long_enough] = np.arange(1, len(long_enough) + 1)
    return np.asarray(kept[labels], dtype=np.int32)


def _cut(section: _Mask, cores: NDArray[np.int32], pixel_mm: _Array) -> NDArray[np.int16]:
    """Limbs of one slice, each grown from its core; a part without core is none."""
    if not cores.any():
        return np.zeros(section.shape, dtype=np.int16)
    nearest = ndimage.distance_transform_edt(
        cores == 0, sampling=pixel_mm, return_distances=False, return_indices=True
    )
    grown = cores[tuple(nearest)]
    parts, _ = ndimage.label(section)
    with_core = np.unique(parts[cores > 0])
    return np.where(section & np.isin(parts, with_core), grown, 0).astype(np.int16)


def _find_bones(leg: _Slices) -> _Labels:
    """Bones of one leg, numbered from the largest."""
    candidates = np.stack([_rings(leg, index) for index in range(len(leg.even))])
    parts, n_parts = ndimage.label(candidates, np.ones((3, 3, 3)))
    least = _LEAST_BONE_SHARE * int(leg.leg.any(axis=(1, 2)).sum())
    long_parts = []
    for number in range(1, n_parts + 1):
        mask = parts == number
        if len(np.unique(np.nonzero(mask)[0])) >= least:
            long_parts.append(mask)
    long_parts.sort(key=lambda mask: -int(mask.sum()))
    bones = np.zeros(leg.even.shape, dtype=np.int16)
    number = 0
    for mask in long_parts:
        outline = _bone_outline(leg, mask)
        filled = fill_contours(
            outline.radii_mm, outline.centres, leg.even.shape[1:], pixel_mm=leg.pixel_mm
        )
        alone = filled & leg.leg & (bones == 0)
        sections = alone.sum(axis=(1, 2))
        if (
            not alone.any()
            or np.median(sections[sections > 0]) * np.prod(leg.pixel_mm) < _LEAST_SECTION_MM2
        ):
            continue  # a tendon, or a second ring of a bone that is there
        number += 1
        bones[alone] = number
    return bones


def _rings(leg: _Slices, index: int) -> _Mask:
    """Dark discs and rings of one slice that hold no muscle, filled."""
    inside, even = leg.leg[index], leg.even[index]
    darker = min(1.0, leg.fat)
    depth = ndimage.distance_transform_edt(inside, sampling=leg.pixel_mm)
    dark = inside & (even < _DARK_SHARE * darker) & (depth > _SKIN_MM)
    ring = dark | (inside & ndimage.binary_closing(dark, np.ones((3, 3))))
    holes, n_holes = ndimage.label(ndimage.binary_fill_holes(ring) & ~dark)
    filled = dark.copy()
    if n_holes:
        numbers = np.arange(1, n_holes + 1)
        area = ndimage.sum_labels(np.ones_like(even), holes, numbers)
        like_muscle = np.abs(even - 1.0) < 0.5 * abs(leg.fat - 1.0)
        beyond = (even > 1.0) == (leg.fat < 1.0)  # brighter than muscle where fat is darker
        muscle = ndimage.mean(like_muscle | beyond, holes, numbers)
        thick = np.array([_ring_share(holes == n, dark, leg.pixel_mm) for n in numbers])
        wanted = (muscle < _MOST_MUSCLE_SHARE) | (thick > _LEAST_RING_SHARE)
        wanted &= area < _LARGEST_BONE_SHARE * inside.sum()
        filled |= np.isin(holes, numbers[wanted])
    return np.asarray(
        ndimage.binary_opening(filled, _disc(_BONE_OPENING_MM, leg.pixel_mm)), dtype=np.bool_
    )


def _ring_share(hole: _Mask, dark: _Mask, pixel_mm: tuple[float, float]) -> float:
    """Share of the margin of a hole that is dark: 1 where the ring is as thick as the margin."""
    box = ndimage.find_objects(hole.astype(np.int8))[0]
    wide = tuple(slice(max(0, part.start - 4), part.stop + 4) for part in box)
    far = ndimage.distance_transform_edt(~hole[wide], sampling=pixel_mm)
    margin = (far > 0.0) & (far <= _RING_MM)
    # voxels wider than the margin leave none of it
    return float(dark[wide][margin].mean()) if margin.any() else 0.0


def _followed(mask: _Mask) -> dict[int, _Mask]:
    """Section of a bone in each slice where it is as in the slice before, from its middle on."""
    filled = np.flatnonzero(mask.any(axis=(1, 2)))
    typical = np.median(mask.sum(axis=(1, 2))[filled])
    start = int(
        filled[
            np.argmin(
                np.abs(mask.sum(axis=(1, 2))[filled] - typical)
                + 1e-3 * np.abs(filled - filled.mean())
            )
        ]
    )
    sections = {start: largest_component(mask[start])}
    for way in (1, -1):
        last = sections[start]
        for index in range(start + way, len(mask) if way > 0 else -1, way):
            parts, n_parts = ndimage.label(mask[index])
            shared = np.bincount(parts[last], minlength=n_parts + 1)
            shared[0] = 0
            if not shared.any():
                continue
            section = parts == int(np.argmax(shared))
            if _LEAST_ALIKE < section.sum() / last.sum() < 1.0 / _LEAST_ALIKE:
                sections[index] = last = section
    return sections


def _bone_outline(leg: _Slices, mask: _Mask) -> _Outline:
    """Closed outline of a bone in every slice of the leg, also where its ring has gaps.

    It is followed from the middle of where the ring is clear: towards a joint the ring is thin
    and other dark rings lie around it.
    """
    sections = _followed(mask)
    seen = sorted(sections)
    start = seen[len(seen) // 2]
    typical = np.sqrt(float(np.median([part.sum() for part in sections.values()])) / np.pi)
    largest = _BONE_REACH * typical * float(np.mean(leg.pixel_mm)) + 3.0
    reach = np.arange(1.0, largest, _BONE_STEP_MM)
    capped = np.minimum(np.where(leg.leg, leg.even, 0.0), min(1.0, leg.fat))
    centres = np.empty((len(mask), 2))
    radii = np.empty((len(mask), _N_BONE_ANGLES))
    for way in (1, -1):
        for index in range(start, len(mask) if way > 0 else -1, way):
            if index == start:
                centre, expected = np.array(ndimage.center_of_mass(sections[start])), None
            else:
                centre, expected = _recentred(leg, centres[index - way], radii[index - way])
                if index in sections:
                    shown = np.array(ndimage.center_of_mass(sections[index]))
                    if np.hypot(*((shown - centre) * leg.pixel_mm)) < _MOST_SHIFT_MM:
                        centre = shown
            centres[index] = centre
            radii[index] = _one_outline(leg, capped[index], centre, reach, expected)
    return _Outline(centres, radii)


def _recentred(leg: _Slices, centre: _Array, radii_mm: _Array) -> tuple[_Array, _Array]:
    """Middle of an outline, and the outline seen from there."""
    shape = (leg.even.shape[1], leg.even.shape[2])
    filled = fill_contours(radii_mm[np.newaxis], centre[np.newaxis], shape, pixel_mm=leg.pixel_mm)
    if not filled.any():
        return centre, radii_mm
    middle = np.array(ndimage.center_of_mass(filled[0]))
    steps = np.arange(0.0, float(radii_mm.max()) * 2.0, 0.25)
    rays = sample_rays(
        filled, middle[np.newaxis], steps, n_angles=len(radii_mm), pixel_mm=leg.pixel_mm, order=1
    )
    return middle, np.asarray((rays[0] > 0.5).sum(axis=1) * 0.25)


def _one_outline(
    leg: _Slices, section: _Array, centre: _Array, reach: _Array, expected: _Array | None
) -> _Array:
    """Radii of the steepest closed rise from dark to bright, near the expected ones."""
    rays = sample_rays(
        section[np.newaxis],
        centre[np.newaxis],
        reach,
        n_angles=_N_BONE_ANGLES,
        pixel_mm=leg.pixel_mm,
        order=1,
    )
    shift = max(1, round(0.5 * float(np.mean(leg.pixel_mm)) / _BONE_STEP_MM))
    outer = np.concatenate([rays[..., shift:], np.repeat(rays[..., -1:], shift, -1)], axis=-1)
    inner = np.concatenate([np.repeat(rays[..., :1], shift, -1), rays[..., :-shift]], axis=-1)
    cost = inner - outer
    if expected is not None:
        away = (reach - expected[:, np.newaxis]) / _BONE_STEP_MM
        cost += _BONE_NEIGHBOUR_COST * np.minimum(np.abs(away), _MOST_PULL_STEPS) ** 2
    way = cheapest_contours(cost, most_steps=_BONE_STEPS, step_cost=_BONE_BEND_COST)
    return np.asarray(reach[way[0]], dtype=np.float64)


def _smooth_outline(
    cost: _Array, reach: _Array, most_steps: int, bend_cost: float, neighbour_cost: float
) -> _Array:
    """Contours of a first pass, then drawn to the median of their neighbours in a second."""
    first = cheapest_contours(cost, most_steps=most_steps, step_cost=bend_cost)
    expected = ndimage.median_filter(first, size=(min(5, len(first)), 1), mode="mirror")
    away = np.arange(len(reach)) - expected[..., np.newaxis]
    pull = neighbour_cost * np.minimum(np.abs(away), _MOST_PULL_STEPS) ** 2
    second = cheapest_contours(cost + pull, most_steps=most_steps, step_cost=bend_cost)
    return np.asarray(reach[second], dtype=np.float64)


def _within_fascia(leg: _Slices, bone: _Mask) -> _Mask:
    """What lies within the fascia of a leg, bone included."""
    centres = np.array(
        [ndimage.center_of_mass(part) if part.any() else (np.nan, np.nan) for part in leg.leg]
    )
    used = np.flatnonzero(np.isfinite(centres[:, 0]))
    legs, evens = leg.leg[used], leg.even[used]
    depth = np.stack([ndimage.distance_transform_edt(part, sampling=leg.pixel_mm) for part in legs])
    reach = np.arange(2.0, _longest_mm(legs, centres[used], leg.pixel_mm), _RADIUS_STEP_MM)

    def rays(values: _Array) -> _Array:
        return sample_rays(
            values, centres[used], reach, n_angles=_N_ANGLES, pixel_mm=leg.pixel_mm, order=1
        )

    barrier = np.stack([_barrier(even, part, leg) for even, part in zip(evens, legs, strict=True)])
    deepest = depth.max(axis=(1, 2), keepdims=True)
    deep = legs & (depth > _DEEP_SHARE * deepest) & ~bone[used]
    typical = np.array(
        [
            np.median(part[where]) if where.any() else 0.0
            for part, where in zip(barrier, deep, strict=True)
        ]
    )
    # a slice with a gap in its fascia has lower barriers throughout
    threshold = np.maximum(_BARRIER_SHARE * typical, _LEAST_BARRIER)[:, np.newaxis, np.newaxis]
    cost = _fascia_cost(
        leg,
        rays(evens),
        rays(depth),
        rays(bone[used].astype(np.float64)) > 0.5,
        rays(barrier) / threshold,
    )
    radii = _smooth_outline(
        cost, reach.astype(np.float64), _MOST_STEPS, _BEND_COST, _NEIGHBOUR_COST
    )
    within = np.zeros(leg.leg.shape, dtype=np.bool_)
    within[used] = fill_contours(radii, centres[used], leg.leg.shape[1:], pixel_mm=leg.pixel_mm)
    within = np.stack([_bridged(part, leg.pixel_mm) for part in within | bone])
    return within & leg.leg


def _bridged(section: _Mask, pixel_mm: tuple[float, float]) -> _Mask:
    """Section without notches: the fascia bridges the hollows between muscles."""
    pad = np.ceil(_BRIDGE_MM / np.array(pixel_mm)).astype(int) + 1
    padded = np.pad(section, [(n, n) for n in pad])
    near = ndimage.distance_transform_edt(~padded, sampling=pixel_mm) <= _BRIDGE_MM
    closed = ndimage.distance_transform_edt(near, sampling=pixel_mm) > _BRIDGE_MM
    return np.asarray(closed[pad[0] : -pad[0], pad[1] : -pad[1]] | section, dtype=np.bool_)


def _longest_mm(legs: _Mask, centres: _Array, pixel_mm: tuple[float, float]) -> float:
    longest = 0.0
    for part, centre in zip(legs, centres, strict=True):
        offset = (np.argwhere(part) - centre) * pixel_mm
        longest = max(longest, float(np.hypot(*offset.T).max()))
    return longest + 3.0


def _barrier(even: _Array, leg: _Mask, limb: _Slices) -> _Array:
    """Least sum of changes of log signal on the way from the fat under the skin, in one slice."""
    floor = _DARKEST_SHARE * min(1.0, limb.fat)
    depth = ndimage.distance_transform_edt(leg, sampling=limb.pixel_mm)
    # the skin's own edges are no way inwards: carry on what lies under it
    dark = leg & (even < _DARK_SHARE * min(1.0, limb.fat)) & (depth <= _DARK_RIM_MM)
    rim = depth <= _LEAST_FAT_MM
    rim |= ndimage.binary_propagation(dark & rim, mask=dark)
    nearest = ndimage.distance_transform_edt(rim, return_distances=False, return_indices=True)
    log = np.log(np.maximum(even[tuple(nearest)], floor))
    lines = ndimage.black_tophat(log, size=(5, 5))
    change = ndimage.morphological_gradient(log, size=(3, 3))
    # a line of one voxel has gaps between its corners: twice as wide, it has none
    border = ndimage.maximum_filter(
        np.maximum(np.maximum(lines, 0.5 * change) - _QUIET_STEP, 0.0), size=(3, 3)
    )
    starts = leg & (depth > _LEAST_FAT_MM) & (depth <= _LEAST_FAT_MM + max(limb.pixel_mm))
    starts &= even > _DARK_SHARE * min(1.0, limb.fat)
    if limb.is_final:  # where the fat is thin, muscle lies as near to the surface
        like_fat = (even > np.sqrt(limb.fat)) == (limb.fat > 1.0)
        starts = starts & like_fat if (starts & like_fat).any() else starts
    number = np.full(leg.shape, -1)
    number[leg] = np.arange(np.count_nonzero(leg))
    pairs, lengths = [], []
    for along, across in ((1, 0), (0, 1), (1, 1), (1, -1)):
        here = (
            slice(0, leg.shape[0] - along),
            slice(max(0, -across), leg.shape[1] - max(0, across)),
        )
        there = (slice(along, None), slice(max(0, across), leg.shape[1] + min(0, across)))
        both = leg[here] & leg[there]
        pairs.append((number[here][both], number[there][both]))
        lengths.append(0.5 * (border[here] + border[there])[both] + 1e-3)
    rows, columns = (np.concatenate([pair[side] for pair in pairs]) for side in (0, 1))
    size = int(np.count_nonzero(leg))
    graph = sparse.csr_array((np.concatenate(lengths), (rows, columns)), shape=(size, size))
    reached = np.zeros(leg.shape)
    if starts.any():
        distance = sparse.csgraph.dijkstra(
            graph, directed=False, indices=number[starts], min_only=True
        )
        reached[leg] = np.where(np.isfinite(distance), distance, 0.0)
    return reached


def _fascia_cost(
    leg: _Slices, even: _Array, depth: _Array, of_bone: _Mask, barrier: _Array
) -> _Array:
    inside = np.clip(2.0 * barrier - 2.0, -_FAT_WEIGHT, 1.0)
    inside = np.where(of_bone, 1.0, np.where(depth > _LEAST_FAT_MM, inside, -_FAT_WEIGHT))
    inside = np.where(depth > 0.0, inside, 0.0) * _RADIUS_STEP_MM
    fat_within = -np.cumsum(np.minimum(inside, 0.0), axis=2)
    gained = np.cumsum(np.maximum(inside, 0.0), axis=2)
    muscle_beyond = gained[..., -1:] - gained
    shift = max(1, round(_FASCIA_MM / _RADIUS_STEP_MM))
    outer = np.concatenate([even[..., shift:], np.repeat(even[..., -1:], shift, -1)], axis=-1)
    inner = np.concatenate([np.repeat(even[..., :1], shift, -1), even[..., :-shift]], axis=-1)
    contrast, darker = leg.fat - 1.0, min(1.0, leg.fat)
    size = max(abs(contrast), 0.15)
    step = np.clip((outer - inner) * np.sign(contrast) / size, 0.0, 1.0)
    valley = np.clip((np.minimum(outer, inner) - even) / darker, 0.0, 0.5) * 2.0
    cost = muscle_beyond + fat_within - _EDGE_WEIGHT * np.maximum(step * 0.7, valley)
    too_near = depth < _LEAST_FAT_MM
    return np.asarray(cost + np.where(too_near & ~of_bone, 50.0, 0.0), dtype=np.float64)


def _label(leg: _Slices, bones: _Labels, within: _Mask) -> _Labels:
    labels = np.where(leg.leg, Tissue.SUBCUTANEOUS_FAT, 0).astype(np.int16)
    labels[within] = Tissue.MUSCLE
    soft = within & (bones == 0)
    # noise of single voxels would make fat of muscle
    smooth = ndimage.gaussian_filter(leg.even, (0.0, _SURFACE_SMOOTHING, _SURFACE_SMOOTHING))
    middle = np.sqrt(leg.fat)
    fat_like = (smooth > middle) if leg.fat > 1.0 else (smooth < middle)
    dark = smooth < _SEPTUM_SHARE * min(1.0, leg.fat)
    bright = smooth > max(1.0, leg.fat) * (1.0 + 4.0 * leg.muscle_sd)
    other = dark | bright
    if leg.fat < 1.0:  # half muscle, half bone or septum is as dark as fat
        other |= fat_like & ndimage.binary_dilation(dark | (bones > 0), np.ones((1, 3, 3)))
    labels[soft & fat_like] = Tissue.INTERMUSCULAR_FAT
    labels[soft & other] = Tissue.OTHER
    for number in range(1, int(bones.max(initial=0)) + 1):
        bone = bones == number
        labels[bone] = Tissue.BONE_CORTEX
        labels[_marrow(leg, bone)] = Tissue.BONE_MARROW
    return labels


def _marrow(leg: _Slices, bone: _Mask) -> _Mask:
    """Bright inside of a bone, one voxel off its outline; empty where it is all dark."""
    inner = np.stack([ndimage.binary_erosion(part) for part in bone])
    marrow = np.zeros(bone.shape, dtype=np.bool_)
    for index in np.flatnonzero(inner.any(axis=(1, 2))):
        smooth = ndimage.gaussian_filter(leg.even[index], _SURFACE_SMOOTHING)
        values = smooth[bone[index]]
        if values.min() == values.max():
            continue
        threshold = otsu_threshold(values, n_bins=64)
        above = values > threshold
        if values[above].mean() < _LEAST_MARROW_RATIO * values[~above].mean():
            continue
        bright = ndimage.binary_closing(inner[index] & (smooth > threshold), np.ones((3, 3)))
        marrow[index] = inner[index] & ndimage.binary_fill_holes(bright)
    return marrow
