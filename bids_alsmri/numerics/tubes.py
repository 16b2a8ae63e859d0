"""Reference tubes beside the head: finding them, measuring them, numbering them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import integrate, ndimage, optimize, special

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.anatomy import close_mm, dilate_mm, erode_mm, largest_component
from bids_alsmri.numerics.checks import (
    as_float,
    require_finite,
    require_range,
    require_same_shape,
)
from bids_alsmri.numerics.pointspread import PointSpread

_Array = NDArray[np.float64]
_Mask = NDArray[np.bool_]

_LEVEL_STEP = 1.12  # thresholds in geometric sequence: one falls within 6 % of any half maximum
_HALF_MAXIMUM = (0.38, 0.62)  # threshold over plateau: what blur and noise make of one half
_LEAST_LEVEL_SD = 5.0  # lowest threshold, in standard deviations of the noise: none by chance
_LEAST_FILL = 0.7  # volume over that of the cylinder with the same moments: 1 if it is one
_LARGEST_ECCENTRICITY = 1.5  # of the section across the axis; noise makes 1.1 of a circle
_LEAST_ASPECT = 1.3  # length over diameter: an eye is as long as it is wide
_LARGEST_HEAD_SHARE = 0.3  # share of a tube that may lie in the closed outline of the head
_LEAST_FIT = 0.6  # share of the local variance a blurred cylinder must explain; artefacts take 0.2
_HEAD_CLOSING_MM = 25.0  # fills orbits, nose and ears, and leaves what stands off the head
WIDTH_SCALES = (0.6, 1.8)  # how far the spread in a tube may differ from the one given
_MODEL_ERROR, _WIDTH_ERROR = 0.01, 0.2  # of the plateau, by rings of the head; of the width
_OWN_BLUR = 1.0  # distance in widths beyond which a tube's own blur has ended
# in the rings of the spread, reaching so many widths, at least this share of the tube is head
_RING_REACH, _RING_SHARE = 3.0, 0.12
_HEAD_SHARE = 0.4  # of the median signal of all that is not air: less is no head
_NORMAL_MAD = 1.4826  # standard deviation over median absolute deviation of a normal variable
_HEAD_SD = 5.0  # of smoothed noise: the darkest that counts as head
_SEEN_SD = 4.0  # the same of the spread that is seen in the air, rings of the head among it
_FIT_REACH = 1.2  # widths around a part in which a cylinder is fitted
_FEWEST_VOXELS = 8
_LOG_RADIUS = 0.7  # how far the fit may go from the radius of the part: to half and to double
_MOST_STEPS = 40
_N_FREQUENCIES = 257  # 16 and more for each swing of the widest tube
_N_RADII, _LARGEST_RADIUS = 241, 12.0  # in widths


@dataclass(frozen=True)
class Tube:
    """One reference tube, as a cylinder blurred by the point spread fits it.

    Attributes
    ----------
    label : int
        Number in the label image, from 1.
    centre_mm : (3,) array
        Middle of the part in view, in world coordinates.
    axis : (3,) array
        Direction of its axis in world coordinates, of length 1; its largest part is positive.
    diameter_mm, length_mm : float
        Of the part in view, in mm.
    signal : float
        Signal of the cylinder before blur, in the unit of the image, its noise floor taken off.
    width_scale : float
        Width of the point spread that fits best over that of the one given.
    fit : float
        Share of the variance around the tube that the fit explains, up to 1.
    touches_head : bool
        Whether the head is nearer than one width of the point spread: its signal reaches in.
    is_cut : bool
        Whether it reaches the border of the field of view.
    """

    label: int
    centre_mm: _Array
    axis: _Array
    diameter_mm: float
    length_mm: float
    signal: float
    width_scale: float
    fit: float
    touches_head: bool
    is_cut: bool


@dataclass(frozen=True)
class FoundTubes:
    """Tubes of one image.

    Attributes
    ----------
    labels : (X, Y, Z) array of int16
        Number of the tube whose cylinder holds the centre of the voxel, 0 elsewhere.
    tubes : tuple of Tube
        In the order of their numbers: from the left to the right of the world; of those above or
        behind each other the most anterior first, then the most superior.
    head_mask : (X, Y, Z) array of bool
        The head without tubes, its hollows closed.
    refused : tuple of str
        Place of each other bright part, in mm, and why it is no tube.
    """

    labels: NDArray[np.int16]
    tubes: tuple[Tube, ...]
    head_mask: _Mask
    refused: tuple[str, ...]


class _Candidate(NamedTuple):
    """A bright part that is cut out at half its own height."""

    voxels: NDArray[np.int64]  # (n, 3) indices
    plateau: float


class _Blur(NamedTuple):
    """What the point spread makes of a disc, over distance in its widths."""

    frequency: _Array  # cycles per width
    weighted_transfer: _Array  # for the integral over frequency
    radii: _Array  # widths
    waves: _Array  # (radii, frequencies), J0


class _Cylinder(NamedTuple):
    """What a fit finds, in world mm."""

    point: _Array  # on the axis
    axis: _Array
    low: float  # ends along the axis, from the point
    high: float
    radius: float
    signal: float
    width_scale: float


def find_tubes(
    image: ArrayLike,
    affine: ArrayLike,
    *,
    noise_floor: float,
    noise_sd: float,
    point_spread: PointSpread,
    diameter_range_mm: tuple[float, float],
    most_tubes: int,
) -> FoundTubes:
    r"""Cylinders that stand bright in the air beside the head.

    Parameters
    ----------
    image : (X, Y, Z) array_like
        Magnitude of a sodium image, not denoised or gently so, finite.
    affine : (4, 4) array_like
        Voxel indices to world (right, anterior, superior), in mm.
    noise_floor, noise_sd : float
        Mean and standard deviation of the image in air, in its unit; the first from 0, the
        second positive.
    point_spread : PointSpread
        Of the tubes; the fit widens or narrows it by up to 1.8 or 0.6.
    diameter_range_mm : tuple of float
        Smallest and largest inner diameter, in mm.
    most_tubes : int
        More than these are an error, from 1 up.

    Returns
    -------
    FoundTubes
        At least one tube.

    Raises
    ------
    NumericsError
        If none or too many are found; the message names what was seen and why it was refused.

    Notes
    -----
    1. Over thresholds in geometric sequence, each connected part is kept at the threshold that is
       half its own plateau, so that tubes of any brightness are cut out at half maximum and part
       from the head although blur joins them.
    2. Parts must be as a solid cylinder is in their second moments, longer than wide (eyes are
       not) and outside the head: its foreground without the parts, closed by a ball of 25 mm.
    3. A cylinder under the point spread is fitted to the image around each by least squares,
       :math:`\sqrt{s^2 + b^2}` with the noise floor b, since half maximum makes narrow tubes too
       narrow by :math:`\sigma^2 / D`. The signal may change linearly along the axis. The width
       of the point spread is fitted too, held near the one given: a factor of 1.2 counts as much
       as an error of 1 % of the plateau everywhere, since in tubes under two widths it and the
       diameter look alike.

    Examples
    --------
    >>> from bids_alsmri.numerics.pointspread import gaussian_point_spread
    >>> x, y, z = np.meshgrid(*[np.arange(0.0, 90.0, 3.0)] * 3, indexing="ij")
    >>> air = np.random.default_rng(0).rayleigh(1.0, x.shape)
    >>> tube = 50 / (1 + np.exp(np.hypot(x - 40, y - 45) - 10)) * (np.abs(z - 45) < 30)
    >>> found = find_tubes(air + tube, np.diag([3.0, 3.0, 3.0, 1.0]), noise_floor=1.25,
    ...     noise_sd=0.66, point_spread=gaussian_point_spread(4.0), diameter_range_mm=(10, 40),
    ...     most_tubes=6)
    >>> [round(tube.diameter_mm) for tube in found.tubes]
    [20]
    """
    values, grid = _checked(image, affine, noise_floor, noise_sd)
    low, high = diameter_range_mm
    require_range("smallest diameter", low, 0.0, high, unit="mm", open_low=True)
    require_range("most_tubes", most_tubes, 1, 1000)
    scene = _Scene(values, grid, noise_floor, noise_sd, point_spread.fwhm_mm)
    parts, refused = _cylindrical(_bright_parts(scene, (low, high)), scene)
    head = _head_without(parts, scene)
    shapes = _blur_of(point_spread)
    kept: list[tuple[Tube, _Mask]] = []
    for part in parts:
        tube, inside = _measured(part, scene, head, shapes)
        reason = _reason_against(tube, inside, head.outline, (low, high))
        if reason:
            refused.append(f"{_place(tube.centre_mm)} {reason}")
        else:
            kept.append((tube, inside))
    if not kept:
        seen = "; ".join(refused[:6]) if refused else "nothing bright stands in the air"
        raise NumericsError(
            f"no reference tube of {low:g} to {high:g} mm found beside the head ({seen}); give a "
            "label image of the tubes, or widen the range of diameters"
        )
    if len(kept) > most_tubes:
        places = ", ".join(_place(tube.centre_mm) for tube, _ in kept)
        raise NumericsError(
            f"{len(kept)} cylinders stand beside the head (at {places}) but at most {most_tubes} "
            "tubes are expected; give a label image of the tubes, or allow more"
        )
    return _numbered(kept, head.outline, refused)


def measure_tubes(
    image: ArrayLike,
    affine: ArrayLike,
    labels: NDArray[np.integer],
    *,
    noise_floor: float,
    noise_sd: float,
    point_spread: PointSpread,
) -> FoundTubes:
    """Cylinders fitted to tubes that somebody marked.

    Parameters
    ----------
    image : (X, Y, Z) array_like
        Magnitude of a sodium image, not denoised or gently so, finite.
    affine : (4, 4) array_like
        Voxel indices to world (right, anterior, superior), in mm.
    labels : (X, Y, Z) array of int
        Number of the tube of each voxel, from 1; 0 is no tube.
    noise_floor, noise_sd : float
        Mean and standard deviation of the image in air, in its unit.
    point_spread : PointSpread
        Of the tubes.

    Returns
    -------
    FoundTubes
        Labels as given; the tubes in the order of their numbers.

    Raises
    ------
    NumericsError
        If there is no label, or one has fewer than 8 voxels or is as dark as the air.

    Examples
    --------
    >>> from bids_alsmri.numerics.pointspread import gaussian_point_spread
    >>> x, y, z = np.meshgrid(*[np.arange(0.0, 90.0, 3.0)] * 3, indexing="ij")
    >>> mask = (np.hypot(x - 40, y - 45) < 10) & (np.abs(z - 45) < 30)
    >>> found = measure_tubes(1 + 50.0 * mask, np.diag([3.0, 3.0, 3.0, 1.0]), mask.astype(int),
    ...     noise_floor=1.0, noise_sd=0.5, point_spread=gaussian_point_spread(3.0))
    >>> round(found.tubes[0].length_mm)  # 19 voxels
    57
    """
    values, grid = _checked(image, affine, noise_floor, noise_sd)
    require_same_shape(image=values, labels=labels)
    numbers = [int(number) for number in np.unique(labels) if number != 0]
    if not numbers or numbers[0] < 0:
        raise NumericsError(
            f"labels of the tubes are {numbers}; number the tubes from 1 and all else 0"
        )
    scene = _Scene(values, grid, noise_floor, noise_sd, point_spread.fwhm_mm)
    signal = scene.signal()
    parts = [
        _Candidate(voxels, float(np.median(signal[tuple(voxels.T)])))
        for voxels in (np.argwhere(labels == number) for number in numbers)
    ]
    for number, part in zip(numbers, parts, strict=True):
        if len(part.voxels) < _FEWEST_VOXELS or part.plateau < _LEAST_LEVEL_SD * noise_sd:
            raise NumericsError(
                f"tube {number} has {len(part.voxels)} voxels of median signal {part.plateau:g} "
                f"above air of {noise_floor:g} +- {noise_sd:g}; it is empty or the label lies "
                "beside it: mark the bright inside of each tube"
            )
    head = _head_without(parts, scene)
    shapes = _blur_of(point_spread)
    tubes = tuple(
        replace(_measured(part, scene, head, shapes)[0], label=number)
        for number, part in zip(numbers, parts, strict=True)
    )
    return FoundTubes(labels.astype(np.int16), tubes, head.outline, ())


def tube_cores(found: FoundTubes, affine: ArrayLike, *, erosion_mm: float) -> NDArray[np.int16]:
    """Labels of the tubes' insides, away from their walls and ends.

    Parameters
    ----------
    found : FoundTubes
        Tubes of an image.
    affine : (4, 4) array_like
        Voxel indices to world, in mm.
    erosion_mm : float
        Distance from wall and ends, in mm, not negative; at least half the width of the point
        spread keeps away what spills over the wall.

    Returns
    -------
    (X, Y, Z) array of int16
        Number of the tube, 0 elsewhere. The core's diameter is that of the tube less twice the
        distance.

    Raises
    ------
    NumericsError
        If nothing is left of a tube.

    Examples
    --------
    >>> from bids_alsmri.numerics.pointspread import gaussian_point_spread
    >>> x, y, z = np.meshgrid(*[np.arange(0.0, 90.0, 3.0)] * 3, indexing="ij")
    >>> mask = (np.hypot(x - 40, y - 45) < 10) & (np.abs(z - 45) < 30)
    >>> affine = np.diag([3.0, 3.0, 3.0, 1.0])
    >>> found = measure_tubes(1 + 50.0 * mask, affine, mask.astype(int), noise_floor=1.0,
    ...     noise_sd=0.5, point_spread=gaussian_point_spread(3.0))
    >>> core = tube_cores(found, affine, erosion_mm=4.0)
    >>> bool(core.any()) and bool(np.hypot(x - 40, y - 45)[core == 1].max() < 6.2)
    True
    """
    grid = as_float("affine", affine, ndim=2)
    require_range("erosion_mm", erosion_mm, 0.0, 1000.0, unit="mm")
    cores = np.zeros(found.labels.shape, np.int16)
    for tube in found.tubes:
        voxels = np.argwhere(found.labels == tube.label)
        along, across = _along_and_across(_world(voxels, grid), tube.centre_mm, tube.axis)
        is_deep = (across <= tube.diameter_mm / 2 - erosion_mm) & (
            np.abs(along) <= tube.length_mm / 2 - erosion_mm
        )
        if not is_deep.any():
            raise NumericsError(
                f"tube {tube.label} of {tube.diameter_mm:.1f} x {tube.length_mm:.1f} mm has no "
                f"voxel more than {erosion_mm:.1f} mm from its surface; take off less, or scan "
                "wider tubes"
            )
        cores[tuple(voxels[is_deep].T)] = tube.label
    return cores


class _Start(NamedTuple):
    """First guess of a fit, in world mm."""

    centre: _Array
    axis: _Array
    radius: float


class _Head(NamedTuple):
    """Where the head has signal, and its outline, hollows closed."""

    tissue: _Mask
    outline: _Mask


class _Scene(NamedTuple):
    """An image and what is known about it."""

    values: _Array
    affine: _Array
    noise_floor: float
    noise_sd: float
    fwhm_mm: float

    @property
    def edges_mm(self) -> _Array:
        """Edges of a voxel."""
        return np.asarray(np.linalg.norm(self.affine[:3, :3], axis=0), dtype=np.float64)

    def signal(self) -> _Array:
        """Smoothed a little, noise floor taken off: the floor adds to a signal in squares."""
        # a quarter of the width hardly widens anything and halves the noise
        smooth = ndimage.gaussian_filter(self.values, self.fwhm_mm / 4.0 / self.edges_mm)
        return np.asarray(np.sqrt(np.maximum(smooth**2 - self.noise_floor**2, 0.0)), np.float64)


def _checked(
    image: ArrayLike, affine: ArrayLike, noise_floor: float, noise_sd: float
) -> tuple[_Array, _Array]:
    values = as_float("image", image, ndim=3)
    require_finite("image", values)
    grid = as_float("affine", affine, ndim=2)
    if grid.shape != (4, 4) or abs(np.linalg.det(grid)) < 1e-9:
        raise NumericsError(f"affine is {grid.tolist()}; give an invertible (4, 4) matrix")
    require_range("noise_floor", noise_floor, 0.0, np.inf)
    require_range("noise_sd", noise_sd, 0.0, np.inf, open_low=True)
    return values, grid


def _bright_parts(scene: _Scene, diameter_range_mm: tuple[float, float]) -> list[_Candidate]:
    """Connected parts, each cut out at half its own plateau, none holding another."""
    signal, edges_mm = scene.signal(), scene.edges_mm
    low, high = (np.pi / 4.0 * d**2 / edges_mm.prod() for d in diameter_range_mm)
    # a disc as flat as half its width, and a tube through the whole image
    fewest = max(0.5 * diameter_range_mm[0] * low, _FEWEST_VOXELS)
    most = high * float(np.linalg.norm(edges_mm * signal.shape))
    found: list[tuple[float, _Candidate]] = []
    level = _LEAST_LEVEL_SD * scene.noise_sd
    while level < signal.max():
        parts, n_parts = ndimage.label(signal > level)
        sizes = np.bincount(parts.ravel(), minlength=n_parts + 1)[1:]
        boxes = ndimage.find_objects(parts)
        for number in 1 + np.flatnonzero((sizes >= fewest) & (sizes <= most)):
            box = boxes[number - 1]
            part = parts[box] == number
            depth = ndimage.distance_transform_edt(np.pad(part, 1), sampling=edges_mm)
            depth = depth[1:-1, 1:-1, 1:-1][part]
            plateau = float(np.median(signal[box][part][depth >= np.quantile(depth, 0.7)]))
            if _HALF_MAXIMUM[0] < level / plateau < _HALF_MAXIMUM[1]:
                voxels = np.argwhere(part) + [side.start for side in box]
                found.append((abs(level / plateau - 0.5), _Candidate(voxels, plateau)))
        level *= _LEVEL_STEP
    return _apart([part for _, part in sorted(found, key=lambda pair: pair[0])], signal.shape)


def _apart(parts: Sequence[_Candidate], shape: tuple[int, ...]) -> list[_Candidate]:
    """The first of all parts that share voxels."""
    taken, kept = np.zeros(shape, np.bool_), []
    for part in parts:
        place = tuple(part.voxels.T)
        if not taken[place].any():
            taken[place] = True
            kept.append(part)
    return kept


def _cylindrical(parts: Sequence[_Candidate], scene: _Scene) -> tuple[list[_Candidate], list[str]]:
    """Parts with the second moments of a solid cylinder, and why the others are none."""
    kept, refused = [], []
    for part in parts:
        # what the border of the image leaves of a tube may have any shape
        if _reaches_border(part.voxels, scene) or _is_cylindrical(part, scene):
            kept.append(part)
        else:
            centre = _world(part.voxels, scene.affine).mean(axis=0)
            refused.append(f"{_place(centre)} is no solid cylinder")
    return kept, refused


def _is_cylindrical(part: _Candidate, scene: _Scene) -> bool:
    points = _world(part.voxels, scene.affine)
    narrow, middle, wide = np.linalg.eigvalsh(np.cov(points.T))
    if narrow <= 0.0:
        return False
    diameter, length = 4.0 * (narrow * middle) ** 0.25, np.sqrt(12.0 * wide)
    volume = len(points) * abs(np.linalg.det(scene.affine[:3, :3]))
    fill = volume / (np.pi / 4.0 * diameter**2 * length)
    return bool(fill >= _LEAST_FILL and np.sqrt(middle / narrow) <= _LARGEST_ECCENTRICITY)


def _reaches_border(voxels: NDArray[np.int64], scene: _Scene) -> bool:
    # scanners pad images by slices of zeros: the border is that of the data
    lowest, highest = _data_bounds(scene)
    return bool((voxels <= lowest).any() or (voxels >= highest).any())


def _data_bounds(scene: _Scene) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    bounds = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        filled = np.flatnonzero(scene.values.any(axis=others))
        bounds.append((filled[0], filled[-1]) if len(filled) else (0, 0))
    low, high = np.array(bounds).T
    return low, high


def _head_without(parts: Sequence[_Candidate], scene: _Scene) -> _Head:
    """Largest of what is bright beside the parts; empty where nothing is."""
    edges_mm, floor, sd = scene.edges_mm, scene.noise_floor, scene.noise_sd
    smoothing = scene.fwhm_mm / 3.0 / edges_mm
    power = ndimage.gaussian_filter(scene.values**2, smoothing) - floor**2 - sd**2
    # spread of squared noise, over the voxels that the Gaussian averages
    n_averaged = float(np.prod(np.maximum(2.0 * np.sqrt(np.pi) * smoothing, 1.0)))
    darkest = _HEAD_SD * sd * np.sqrt((4 * floor**2 + 2 * sd**2) / n_averaged)
    if (power < 0.0).any():
        # voxels finer than what was sampled share their noise, which the Gaussian does not average;
        # by the median, since arrays make noise uneven
        seen = _NORMAL_MAD * float(-np.median(power[power < 0.0]))
        darkest = max(darkest, _SEEN_SD * seen)
    least = np.full(power.shape, darkest)
    is_some = power > least
    if is_some.any():
        # blur and rings around the head are faint beside the head
        least = np.maximum(least, (_HEAD_SHARE**2) * np.median(power[is_some]))
    near = np.zeros(power.shape, np.bool_)
    for part in parts:
        mask = np.zeros(power.shape, np.bool_)
        mask[tuple(part.voxels.T)] = True
        near |= dilate_mm(mask, _OWN_BLUR * scene.fwhm_mm, edges_mm)
        around = dilate_mm(mask, _RING_REACH * scene.fwhm_mm, edges_mm)
        least[around] = np.maximum(least[around], (_RING_SHARE * part.plateau) ** 2)
    bright = (power > least) & ~near
    opened = erode_mm(bright, scene.fwhm_mm / 2.0, edges_mm)
    core = dilate_mm(largest_component(opened), scene.fwhm_mm, edges_mm) & bright
    tissue = largest_component(core)
    closed = close_mm(tissue, _HEAD_CLOSING_MM, edges_mm)
    return _Head(tissue, np.asarray(ndimage.binary_fill_holes(closed), dtype=np.bool_))


def _measured(part: _Candidate, scene: _Scene, head: _Head, shapes: _Blur) -> tuple[Tube, _Mask]:
    """Best of the cylinders that start along the main directions of a part."""
    mask = np.zeros(scene.values.shape, np.bool_)
    mask[tuple(part.voxels.T)] = True
    around = dilate_mm(mask, _FIT_REACH * scene.fwhm_mm, scene.edges_mm)
    voxels = np.argwhere(around & (~head.tissue | mask))
    data = scene.values[tuple(voxels.T)]
    data = np.sqrt(np.maximum(data**2 - scene.noise_floor**2, 0.0))
    inside = _world(part.voxels, scene.affine)
    spread, directions = np.linalg.eigh(np.cov(inside.T))
    # only in short parts can the axis be another than the longest direction
    is_long = np.sqrt(12.0 * spread[2]) > _LEAST_ASPECT * 4.0 * (spread[0] * spread[1]) ** 0.25
    fits = []
    for direction in directions.T[::-1][: 1 if is_long else 3]:
        centre = inside.mean(axis=0)
        across = _along_and_across(inside, centre, direction)[1]
        # the mean square distance from the axis of a disc is half its radius squared
        start = _Start(centre, direction, float(np.sqrt(2.0 * np.mean(across**2))))
        fits.append(_fit_cylinder(_world(voxels, scene.affine), data, start, scene, shapes))
    cylinder, explained = max(fits, key=lambda fit: fit[1])
    return _as_tube(cylinder, explained, voxels, scene, head)


def _as_tube(
    cylinder: _Cylinder,
    explained: float,
    voxels: NDArray[np.int64],
    scene: _Scene,
    head: _Head,
) -> tuple[Tube, _Mask]:
    along, across = _along_and_across(_world(voxels, scene.affine), cylinder.point, cylinder.axis)
    is_inside = (across <= cylinder.radius) & (along >= cylinder.low) & (along <= cylinder.high)
    mask = np.zeros(scene.values.shape, np.bool_)
    mask[tuple(voxels[is_inside].T)] = True
    is_cut = _reaches_border(voxels[is_inside], scene) if is_inside.any() else False
    # beyond the border nothing tells where the tube ends
    low, high = cylinder.low, cylinder.high
    if is_cut:
        low, high = max(low, float(along.min())), min(high, float(along.max()))
    sign = np.sign(cylinder.axis[np.argmax(np.abs(cylinder.axis))])
    middle = 0.5 * (low + high)
    tube = Tube(
        label=0,
        centre_mm=cylinder.point + middle * cylinder.axis,
        axis=sign * cylinder.axis,
        diameter_mm=2.0 * cylinder.radius,
        length_mm=high - low,
        signal=cylinder.signal,
        width_scale=cylinder.width_scale,
        fit=explained,
        touches_head=bool((dilate_mm(mask, scene.fwhm_mm, scene.edges_mm) & head.tissue).any()),
        is_cut=is_cut,
    )
    return tube, mask


def _reason_against(
    tube: Tube, inside: _Mask, head: _Mask, diameter_range_mm: tuple[float, float]
) -> str:
    """Why a cylinder is no reference tube; empty where it may be one."""
    low, high = diameter_range_mm
    if not inside.any() or tube.fit < _LEAST_FIT:
        return f"looks like a cylinder to {100 * max(tube.fit, 0.0):.0f} % only"
    if head[inside].mean() > _LARGEST_HEAD_SHARE:
        return f"lies in the head to {100 * head[inside].mean():.0f} %"
    if not low <= tube.diameter_mm <= high:
        return f"has a diameter of {tube.diameter_mm:.1f} mm"
    if tube.length_mm < _LEAST_ASPECT * tube.diameter_mm:
        # so little of a tube may as well be the rest of something else
        cut = ", cut by the field of view" if tube.is_cut else ""
        return f"is {tube.length_mm:.1f} mm long and {tube.diameter_mm:.1f} mm wide{cut}"
    return ""


def _numbered(
    kept: Sequence[tuple[Tube, _Mask]], head: _Mask, refused: Sequence[str]
) -> FoundTubes:
    """Tubes from left to right; those of one column from front to back and top to bottom."""
    order = sorted(kept, key=lambda pair: float(pair[0].centre_mm[0]))
    columns: list[list[tuple[Tube, _Mask]]] = []
    for pair in order:
        tube = pair[0]
        if columns and tube.centre_mm[0] - columns[-1][0][0].centre_mm[0] < tube.diameter_mm:
            columns[-1].append(pair)
        else:
            columns.append([pair])
    labels = np.zeros(head.shape, np.int16)
    tubes: list[Tube] = []
    for column in columns:
        for tube, mask in sorted(column, key=lambda pair: tuple(-pair[0].centre_mm[1:])):
            tubes.append(replace(tube, label=len(tubes) + 1))
            labels[mask] = len(tubes)
    return FoundTubes(labels, tuple(tubes), head, tuple(refused))


def _blur_of(point_spread: PointSpread) -> _Blur:
    """Discs in units of the spread's width, so that a wider spread needs no new ones."""
    width = point_spread.fwhm_mm
    frequency = np.linspace(0.0, point_spread.frequency_per_mm[-1], _N_FREQUENCIES) * width
    transfer = np.interp(frequency, point_spread.frequency_per_mm * width, point_spread.transfer)
    weights = integrate.simpson(np.eye(_N_FREQUENCIES), x=frequency, axis=1)
    radii = np.linspace(0.0, _LARGEST_RADIUS, _N_RADII)
    phase = 2.0 * np.pi * np.multiply.outer(radii, frequency)
    return _Blur(frequency, transfer * weights, radii, special.j0(phase))


def _section(across_mm: _Array, radius_mm: float, width_mm: float, shapes: _Blur) -> _Array:
    """Height of a long blurred cylinder at distances from its axis; 1 without blur inside."""
    radius = radius_mm / width_mm
    spectrum = 2.0 * np.pi * radius * special.j1(2.0 * np.pi * radius * shapes.frequency)
    disc = shapes.waves @ (shapes.weighted_transfer * spectrum)
    section: _Array = np.interp(across_mm / width_mm, shapes.radii, disc, right=0.0)
    return section


def _hats(along_mm: _Array, spacing_mm: float) -> tuple[_Array, _Array]:
    """Tent functions along the axis at equal distances, and where they peak."""
    low, high = float(along_mm.min()), float(along_mm.max())
    knots = np.linspace(low, high, max(2, int(np.ceil((high - low) / spacing_mm)) + 1))
    step = knots[1] - knots[0]
    return np.maximum(1.0 - np.abs(np.subtract.outer(along_mm, knots)) / step, 0.0), knots


class _Model(NamedTuple):
    """A cylinder of given place, direction, radius and blur, its heights fitted to the data."""

    residual: _Array
    heights: _Array  # along the axis
    knots: _Array
    point: _Array
    axis: _Array
    radius: float
    width_scale: float


def _model(
    parameters: _Array, points: _Array, data: _Array, start: _Start, scene: _Scene, shapes: _Blur
) -> _Model:
    """Coils make tubes bright here and dark there, so only the section's shape is parametric.

    Height is free along the axis and may change linearly across it. Parameters are shift, tilt,
    change across, each in two directions, then the logarithms of relative radius and blur.
    """
    sides = np.linalg.svd(start.axis[np.newaxis])[2][1:]
    axis = start.axis + parameters[2:4] @ sides
    axis = np.asarray(axis / np.linalg.norm(axis), np.float64)
    point = start.centre + start.radius * parameters[:2] @ sides
    radius, width_scale = start.radius * np.exp(parameters[6]), np.exp(parameters[7])
    along, across = _along_and_across(points, point, axis)
    section = _section(across, radius, scene.fwhm_mm * width_scale, shapes)
    section *= 1.0 + (points - point) @ sides.T @ parameters[4:6] / start.radius
    hats, knots = _hats(along, 0.75 * scene.fwhm_mm)
    design = hats * section[:, np.newaxis]
    # a whiff of the identity keeps heights of empty stretches at 0
    normal = design.T @ design + 1e-6 * len(points) * np.eye(len(knots))
    # side lobes are negative and show by their magnitude
    heights = np.asarray(np.linalg.solve(normal, design.T @ (np.sign(section) * data)), np.float64)
    residual = np.asarray(np.abs(design @ heights) - data, np.float64)
    return _Model(residual, heights, knots, point, axis, float(radius), float(width_scale))


def _fit_cylinder(
    points: _Array, data: _Array, start: _Start, scene: _Scene, shapes: _Blur
) -> tuple[_Cylinder, float]:
    """Least squares, and the share of variance explained."""
    far = np.array([*[1.0] * 6, _LOG_RADIUS, np.log(WIDTH_SCALES[1])])
    near = np.array([*[-1.0] * 6, -_LOG_RADIUS, np.log(WIDTH_SCALES[0])])
    # in narrow tubes a wide spread and a small diameter look alike: what the protocol says of the
    # width counts as much as an error of the model all over the tube
    doubt = _MODEL_ERROR * float(data.max()) * np.sqrt(len(data)) / _WIDTH_ERROR
    fit = optimize.least_squares(
        lambda parameters: np.append(
            _model(parameters, points, data, start, scene, shapes).residual, doubt * parameters[7]
        ),
        np.zeros(8),
        bounds=(near, far),
        max_nfev=_MOST_STEPS,
    )
    best = _model(fit.x, points, data, start, scene, shapes)
    explained = 1.0 - float(np.mean(best.residual**2) / np.var(data))
    plateau, low, high = _plateau(best.heights, best.knots)
    return (
        _Cylinder(best.point, best.axis, low, high, best.radius, plateau, best.width_scale),
        explained,
    )


def _plateau(heights: _Array, knots: _Array) -> tuple[float, float, float]:
    """Height of the middle of a profile, and where it falls to one half on both sides."""
    fine = np.linspace(knots[0], knots[-1], 8 * len(knots))
    profile = np.interp(fine, knots, heights)
    plateau = float(profile.max())
    inside = np.flatnonzero(profile > 0.5 * plateau)
    # twice: what is bright at one spot only is not the whole tube's height
    for _ in range(2):
        inside = inside[profile[inside] > 0.5 * plateau]
        plateau = float(np.median(profile[inside[0] : inside[-1] + 1]))
        inside = np.flatnonzero(profile > 0.5 * plateau)
    return plateau, float(fine[inside[0]]), float(fine[inside[-1]])


def _along_and_across(points: _Array, origin: _Array, axis: _Array) -> tuple[_Array, _Array]:
    """Distance along an axis from its origin, and from the axis."""
    offset = points - origin
    along = offset @ axis
    across = np.linalg.norm(offset - np.multiply.outer(along, axis), axis=1)
    return along, across


def _world(voxels: NDArray[np.int64], affine: _Array) -> _Array:
    placed: _Array = voxels @ affine[:3, :3].T + affine[:3, 3]
    return placed


def _place(centre_mm: _Array) -> str:
    return "({:.0f}, {:.0f}, {:.0f}) mm".format(*centre_mm)
