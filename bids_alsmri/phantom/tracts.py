"""White-matter directions, anisotropy and disease effects in template space.

Directions are drawn from the course of the tracts: the callosum left to right, arching up and
fanning forward and back; the corticospinal tract from the medulla through capsule to the motor
strip; association fibres front to back. They are plausible, not measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Floats = NDArray[np.float64]
Single = NDArray[np.float32]

STEP_MM = 2.0
LOW_MM = np.array([-80.0, -116.0, -80.0])
HIGH_MM = np.array([80.0, 84.0, 92.0])

# Course of the corticospinal tract against height (template mm, right side).
CST_Z = (-80.0, -66.0, -55.0, -45.0, -30.0, -12.0, 0.0, 8.0, 20.0, 30.0)
CST_X = (3.0, 3.0, 4.0, 6.0, 8.0, 16.0, 21.0, 23.0, 25.0, 26.0)
CST_Y = (-47.0, -42.0, -37.5, -33.0, -26.0, -18.0, -15.0, -14.0, -18.0, -20.0)
FAN_ORIGIN = (24.0, -19.0, 0.0)
# Callosum in the middle plane (y, z), read off the template's white-matter map.
CALLOSUM_YZ = (
    (-37.0, 5.0), (-38.0, 12.0), (-34.0, 20.0), (-24.0, 25.0), (-10.0, 27.0), (2.0, 27.0),
    (12.0, 23.0), (20.0, 18.0), (25.0, 10.0), (28.0, 4.0), (26.0, -2.0),
)  # fmt: skip
CALLOSUM_CENTRE_YZ = (-5.0, -2.0)

# Fractional anisotropy of tissue (before partial volume) and mean diffusivity (mm2/s).
FA_WHITE, FA_GREY = 0.45, 0.12
FA_CALLOSUM, FA_CST, FA_ASSOCIATION = 0.82, 0.74, 0.62
MD_WHITE, MD_GREY, MD_FLUID, MD_OTHER = 0.75e-3, 0.80e-3, 3.0e-3, 1.2e-3

# Weight of the fibres between named tracts; they run outwards to the cortex.
REST = 0.08

# Relative change at the core of the tracts in a participant of severity 1. Their size is a
# choice (about three standard deviations between persons in fast progressors); their place and
# sign follow El Mendili 2022: lower FA and higher MD in fast, focal lower FA alone in slow.
FAST_FA, FAST_MD, SLOW_FA = -0.14, 0.10, -0.10


@dataclass(frozen=True)
class Tracts:
    """Fields on a 2 mm lattice in template space.

    Parameters
    ----------
    to_world : (4, 4) array
        Lattice to template world, in mm.
    dyads : (6, i, j, k) array of float32
        Unit direction times itself: xx, yy, zz, xy, xz, yz.
    fa : (i, j, k) array of float32
        Fractional anisotropy of the white matter.
    fast_fa, fast_md, slow_fa : (i, j, k) array of float32
        Relative change of FA and MD at severity 1.
    callosum, cst, association : (i, j, k) array of float32
        Weight of the tract, 0 to 1.
    """

    to_world: Floats
    dyads: Single
    fa: Single
    fast_fa: Single
    fast_md: Single
    slow_fa: Single
    callosum: Single
    cst: Single
    association: Single


@lru_cache(maxsize=1)
def build_tracts() -> Tracts:
    """Make the fields; once per process.

    Returns
    -------
    Tracts
        The same for every cohort.
    """
    shape = tuple(np.round((HIGH_MM - LOW_MM) / STEP_MM).astype(int) + 1)
    to_world = np.diag([STEP_MM, STEP_MM, STEP_MM, 1.0])
    to_world[:3, 3] = LOW_MM
    points = np.stack([a * STEP_MM + low for a, low in zip(np.indices(shape), LOW_MM, strict=True)])
    callosum, callosum_way = _callosum(points)
    cst, cst_way = _corticospinal(points)
    association, association_way = _association(points)
    total = REST + callosum + cst + association
    tensor = np.zeros((3, 3, *shape))
    for weight, way in (
        (callosum, callosum_way), (cst, cst_way), (association, association_way),
        (np.full(shape, REST), _radial(points)),
    ):  # fmt: skip
        tensor += weight * way[:, None] * way[None, :]
    tensor /= total
    values, vectors = np.linalg.eigh(np.moveaxis(tensor, (0, 1), (-2, -1)))
    way = np.moveaxis(vectors[..., -1], -1, 0)
    # Where bundles cross, one tensor sees less anisotropy.
    purity = np.clip((values[..., 2] - values[..., 1]) / values.sum(-1), 0, 1)
    core = np.maximum.reduce([callosum, cst, association])
    peak = (callosum * FA_CALLOSUM + cst * FA_CST + association * FA_ASSOCIATION) / np.maximum(
        total - 0.08, 1e-6
    )
    fa = FA_WHITE + (peak - FA_WHITE) * core * purity**0.5
    dyads = np.stack([way[a] * way[b] for a, b in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))])
    fields = (fa, *_effects(points, callosum, cst), callosum, cst, association)
    smooth = [ndimage.gaussian_filter(f, 0.7).astype(np.float32) for f in fields]
    return Tracts(to_world, dyads.astype(np.float32), *smooth)


def _unit(vectors: Floats) -> Floats:
    length = np.sqrt((vectors**2).sum(0))
    length[length == 0] = 1
    return np.asarray(vectors / length)


def _ramp(values: Floats, low: float, high: float) -> Floats:
    t = np.clip((values - low) / (high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t))


def _callosum(points: Floats) -> tuple[Floats, Floats]:
    """Weight and direction: left-right in the middle, turning outwards from the centre."""
    x, y, z = points
    side = np.abs(x)
    radial = _unit(np.stack([y - CALLOSUM_CENTRE_YZ[0], z - CALLOSUM_CENTRE_YZ[1]]))
    turn = np.deg2rad(75) * (1 - np.exp(-((side / 24) ** 2)))
    # How far a fibre has risen by this distance from the middle: integral of tan(turn).
    fine = np.linspace(0, 100, 401)
    slope = np.tan(np.deg2rad(75) * (1 - np.exp(-((fine / 24) ** 2))))
    rise = np.interp(side, fine, np.concatenate([[0], np.cumsum(slope[1:] * np.diff(fine))]))
    start = np.stack([y, z]) - rise * radial
    distance = _distance_to_path(start, np.array(CALLOSUM_YZ))
    width = 4.5 + 0.12 * side
    weight = np.exp(-0.5 * (distance / width) ** 2) * (1 - _ramp(side, 26, 48))
    # Rising through the centre point would leave through the other side.
    beyond = (y - CALLOSUM_CENTRE_YZ[0]) ** 2 + (z - CALLOSUM_CENTRE_YZ[1]) ** 2 > (rise + 6) ** 2
    weight = weight * beyond * _ramp(z, -16, -6)
    way = np.stack([np.cos(turn), np.sin(turn) * radial[0], np.sin(turn) * radial[1]])
    way[1:] *= np.where(x < 0, -1, 1)
    return weight, way


def _distance_to_path(points: Floats, path: Floats) -> Floats:
    nearest = np.full(points.shape[1:], np.inf)
    for first, second in pairwise(path):
        along = second - first
        reach = np.tensordot(along, points - first[:, None, None, None], axes=1) / (along @ along)
        foot = first[:, None, None, None] + np.clip(reach, 0, 1) * along[:, None, None, None]
        nearest = np.minimum(nearest, ((points - foot) ** 2).sum(0))
    return np.asarray(np.sqrt(nearest))


def _corticospinal(points: Floats) -> tuple[Floats, Floats]:
    """Weight and direction: up the brainstem, through the capsule, fanning to the strip."""
    x, y, z = points
    side, sign = np.abs(x), np.where(x < 0, -1.0, 1.0)
    centre_x, centre_y = np.interp(z, CST_Z, CST_X), np.interp(z, CST_Z, CST_Y)
    slope_x = np.interp(z, CST_Z, np.gradient(CST_X, CST_Z))
    slope_y = np.interp(z, CST_Z, np.gradient(CST_Y, CST_Z))
    stem_way = _unit(np.stack([sign * slope_x, slope_y, np.ones_like(z)]))
    stem = np.exp(-0.5 * (((side - centre_x) / 4.5) ** 2 + ((y - centre_y) / 5.5) ** 2))
    # The whole brainstem runs lengthwise, only less strongly.
    stem = np.maximum(stem, 0.6 * (1 - _ramp(z, -30, -16)) * (side < 16) * (y > -48))
    ox, oy, oz = FAN_ORIGIN
    fan_way = _unit(np.stack([sign * (side - ox), 0.35 * (y - oy), np.maximum(z - oz, 1.0)]))
    angle = np.arctan2(side - ox, np.maximum(z - oz, 1.0))
    sheet = np.exp(-0.5 * ((y - oy + 0.05 * (z - 30)) / 8.0) ** 2)
    fan = sheet * (1 - _ramp(np.abs(angle), np.deg2rad(24), np.deg2rad(48)))
    up = _ramp(z, 14, 32)
    way = _unit((1 - up) * stem_way + up * fan_way)
    return (1 - up) * stem + up * fan, way


def _association(points: Floats) -> tuple[Floats, Floats]:
    """Weight and direction: front to back, arching over the insula; the cingulum above."""
    x, y, z = points
    side = np.abs(x)
    upper = np.exp(-0.5 * (((side - 37) / 5) ** 2 + ((z - 27 + 0.006 * (y + 15) ** 2) / 6) ** 2))
    upper = upper * _ramp(y, -62, -48) * (1 - _ramp(y, 22, 38))
    lower = np.exp(-0.5 * (((side - 36) / 5) ** 2 + ((z + 2) / 6) ** 2))
    lower = lower * _ramp(y, -88, -70) * (1 - _ramp(y, 30, 46))
    arch = np.sqrt((y - CALLOSUM_CENTRE_YZ[0]) ** 2 + 1.4 * (z - CALLOSUM_CENTRE_YZ[1]) ** 2)
    cingulum = np.exp(-0.5 * (((side - 9) / 3) ** 2 + ((arch - 46) / 4) ** 2)) * _ramp(z, 5, 12)
    ahead = np.stack([np.zeros_like(y), np.ones_like(y), -0.012 * (y + 15) * (z > 10)])
    around = np.stack(
        [np.zeros_like(y), 1.4 * (z - CALLOSUM_CENTRE_YZ[1]), -(y - CALLOSUM_CENTRE_YZ[0])]
    )
    way = np.where(cingulum > np.maximum(upper, lower), _unit(around), _unit(ahead))
    return np.maximum.reduce([upper, lower, cingulum]), way


def _radial(points: Floats) -> Floats:
    x, y, z = points
    return _unit(np.stack([np.sign(x) * np.maximum(np.abs(x) - 14, 2.0), y + 20, z - 8]))


def _effects(points: Floats, callosum: Floats, cst: Floats) -> tuple[Floats, Floats, Floats]:
    """Relative changes of FA and MD: fast FA, fast MD, slow FA."""
    _, y, z = points
    # Brainstem weight stands for all lengthwise fibres there; the disease takes its core only.
    core = np.maximum(cst * _ramp(z, -45, -15), callosum)
    forward = 0.7 + 0.3 * _ramp(y, -35, 10)
    focal = np.maximum(
        cst * _ramp(z, 16, 26) * (1 - _ramp(z, 44, 56)),
        callosum * _ramp(y, -26, -18) * (1 - _ramp(y, 2, 10)),
    )
    return FAST_FA * core * forward, FAST_MD * core * forward, SLOW_FA * focal


def axisymmetric(
    fa: NDArray[np.floating], md: NDArray[np.floating]
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    r"""Diffusivities along and across an axis of a tensor with given FA and MD.

    Parameters
    ----------
    fa : (...) array
        Fractional anisotropy, 0 to below 1.
    md : (...) array
        Mean diffusivity, in mm2/s.

    Returns
    -------
    along, across : (...) array
        In mm2/s.

    Notes
    -----
    With :math:`\delta = F / \sqrt{3 - 2F^2}`: :math:`d_\parallel = M(1 + 2\delta)`,
    :math:`d_\perp = M(1 - \delta)` (Basser and Pierpaoli 1996, doi:10.1006/jmrb.1996.0086,
    solved for an axisymmetric tensor).

    Examples
    --------
    >>> along, across = axisymmetric(np.zeros(1), np.full(1, 1e-3))
    >>> along, across
    (array([0.001]), array([0.001]))
    """
    delta = fa / np.sqrt(3 - 2 * fa**2)
    return md * (1 + 2 * delta), md * (1 - delta)
