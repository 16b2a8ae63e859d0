"""A whole head in template space: brain from the embedded template, the rest drawn around it.

nilearn's MNI152NLin2009aSym ends at the brain's surface and has no map of cerebrospinal fluid.
Fluid is what the cranial cavity holds beside grey and white matter; skull, scalp, face, eyes,
air and neck are simple solids placed by eye on the template.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, optimize

Floats = NDArray[np.float64]
Single = NDArray[np.float32]

COARSE_MM = 2.0
COARSE_LOW_MM = np.array([-104.0, -146.0, -176.0])
COARSE_HIGH_MM = np.array([104.0, 122.0, 116.0])
SUBARACHNOID_MM = 0.6
TABLE_MM, DIPLOE_MM = 1.8, 2.8
SKULL_MM = 2 * TABLE_MM + DIPLOE_MM
SCALP_MM = 6.5
SKIN_MM = 1.8
SUBCUTANEOUS_MM = 5.0
TISSUE_SHARPNESS = 1.6
FAR_MM = 100.0

# label: (T1w intensity over white matter's, T2w echo-planar signal over white matter's, sodium in
# mmol/L). The second is fat-suppressed. Relative to white matter at 3T; plausible looks, not
# measured tissue constants. Sodium of muscle lies between doi:10.1186/s12891-022-05879-5 (13 to 20)
# and Constantinides 2000 (Radiology 216:559, 28); eyes and spinal canal are counted as fluid.
AIR, MUSCLE, FAT, BONE, MARROW, EYE, CORD, CANAL, MUCOSA, LENS = range(10)
APPEARANCE = {
    AIR: (0.0, 0.0, 0.0),
    MUSCLE: (0.48, 0.30, 20.0),
    FAT: (1.20, 0.10, 10.0),
    BONE: (0.08, 0.02, 5.0),
    MARROW: (0.62, 0.06, 10.0),
    EYE: (0.20, 0.0, 0.0),
    CORD: (0.88, 0.9, 36.0),
    CANAL: (0.22, 0.0, 0.0),
    MUCOSA: (0.55, 0.5, 40.0),
    LENS: (0.45, 0.25, 20.0),
}
SKIN_T1, SKIN_T2, SKIN_SODIUM = 0.62, 0.15, 25.0
WM_T1, GM_T1, CSF_T1 = 1.0, 0.72, 0.24


@dataclass(frozen=True)
class Head:
    """Maps in template space from which any image of the head is sampled.

    Parameters
    ----------
    brain_to_world, coarse_to_world : (4, 4) array
        Voxel to template world of the 1 mm brain maps and of the 2 mm head maps, in mm.
    white, grey, brain : (i, j, k) array of float32
        Fractions of white and grey matter and the brain mask of the template, 0 to 1, 1 mm.
    cavity_mm : (l, m, n) array of float32
        Signed distance from the wall of the cranial cavity, positive outside, mm.
    depth_mm : (l, m, n) array of float32
        Signed depth under the skin, positive inside, mm.
    deep_t1, deep_t2, deep_sodium, deep_fluid, canal : (l, m, n) array of float32
        Outside cavity, skull and skin: T1w intensity and echo-planar signal of tissue over white
        matter's, its sodium (mmol/L), fraction of free fluid (eyes, spinal canal), and where the
        skull is open.
    """

    brain_to_world: Floats
    coarse_to_world: Floats
    white: Single
    grey: Single
    brain: Single
    cavity_mm: Single
    depth_mm: Single
    deep_t1: Single
    deep_t2: Single
    deep_sodium: Single
    deep_fluid: Single
    canal: Single


@dataclass(frozen=True)
class HeadSample:
    """Tissue at a set of points.

    Parameters
    ----------
    white, grey, fluid : (...) array of float32
        Fractions of brain tissue and of free fluid, 0 to 1.
    other_t1, other_t2 : (...) array of float32
        Summed signal of everything else over white matter's: T1w, and echo-planar T2w.
    other_sodium : (...) array of float32
        Summed sodium of everything else, in mmol/L of the voxel.
    brain : (...) array of float32
        The template's brain mask, 0 to 1.
    """

    white: Single
    grey: Single
    fluid: Single
    other_t1: Single
    other_t2: Single
    other_sodium: Single
    brain: Single


def sample_map(
    values: Single, to_world: Floats, points_mm: Floats, *, beyond: float = 0.0
) -> Single:
    """Trilinear value of a map at world points.

    Parameters
    ----------
    values : (i, j, k) array of float32
        Map.
    to_world : (4, 4) array
        Its voxel to world matrix, in mm.
    points_mm : (..., 3) array
        Positions in mm.
    beyond : float
        Value outside the map.

    Returns
    -------
    (...) array of float32
        Values.

    Examples
    --------
    >>> ramp = np.arange(3, dtype=np.float32)[:, None, None] * np.ones((3, 3, 3), np.float32)
    >>> sample_map(ramp, np.eye(4), np.array([[0.5, 1.0, 1.0]]))
    array([0.5], dtype=float32)
    """
    inverse = np.linalg.inv(to_world)
    where = np.moveaxis(points_mm @ inverse[:3, :3].T + inverse[:3, 3], -1, 0)
    out = np.empty(points_mm.shape[:-1], dtype=np.float32)
    ndimage.map_coordinates(values, where, output=out, order=1, mode="constant", cval=beyond)
    return out


def edge(distance_mm: Single, width_mm: float = 1.0) -> Single:
    """Soft step: 0 well below zero, 1 well above, over about `width_mm`.

    Parameters
    ----------
    distance_mm : (...) array
        Signed distance in mm.
    width_mm : float
        Width of the ramp in mm.

    Returns
    -------
    (...) array of float32
        0 to 1.

    Examples
    --------
    >>> edge(np.array([-1.0, 0.0, 1.0], np.float32))
    array([0. , 0.5, 1. ], dtype=float32)
    """
    return np.asarray(np.clip(distance_mm / width_mm + 0.5, 0, 1), dtype=np.float32)


def sample_head(head: Head, points_mm: Floats) -> HeadSample:
    """Tissue of the head at template points.

    Parameters
    ----------
    head : Head
        The maps.
    points_mm : (..., 3) array
        Positions in template space, mm.

    Returns
    -------
    HeadSample
        Fractions and signals there.
    """
    flat = points_mm.reshape(-1, 3)
    depth = sample_map(head.depth_mm, head.coarse_to_world, flat, beyond=-FAR_MM)
    # Most of a field of view is air, most of a head is not brain: look up only what counts.
    in_head = np.flatnonzero(depth > -1.0)
    part = _sample_inside(head, flat[in_head], depth[in_head])
    full: dict[str, Single] = {}
    for name, values in part.items():
        spread = np.zeros(len(flat), dtype=np.float32)
        spread[in_head] = values
        full[name] = spread.reshape(points_mm.shape[:-1])
    return HeadSample(**full)


def _sample_inside(head: Head, points_mm: Floats, depth: Single) -> dict[str, Single]:
    cavity = sample_map(head.cavity_mm, head.coarse_to_world, points_mm, beyond=FAR_MM)

    def look_up(values: Single, to_world: Floats, where: NDArray[np.intp]) -> Single:
        out = np.zeros(len(points_mm), dtype=np.float32)
        out[where] = sample_map(values, to_world, points_mm[where])
        return out

    in_brain, off_brain = np.flatnonzero(cavity < 1.0), np.flatnonzero(cavity > -1.0)
    inside = edge(-cavity)
    white, grey, brain = (
        look_up(m, head.brain_to_world, in_brain) for m in (head.white, head.grey, head.brain)
    )
    deep_t1, deep_t2, deep_sodium, deep_fluid, canal = (
        look_up(m, head.coarse_to_world, off_brain)
        for m in (head.deep_t1, head.deep_t2, head.deep_sodium, head.deep_fluid, head.canal)
    )
    white, grey = white * inside, grey * inside
    skull = edge(cavity) * edge(SKULL_MM - cavity) * (1 - canal)
    diploe = edge(cavity - TABLE_MM) * edge(SKULL_MM - TABLE_MM - cavity)
    flesh = (1 - inside) * (1 - skull) * edge(depth)
    skin = edge(SKIN_MM - depth)
    fat = (1 - skin) * edge(SUBCUTANEOUS_MM - depth, 2.0)
    deep = 1 - skin - fat
    t1, t2, sodium = (
        skull * edge(depth) * (APPEARANCE[BONE][i] * (1 - diploe) + APPEARANCE[MARROW][i] * diploe)
        + flesh * (skin * of_skin + fat * APPEARANCE[FAT][i] + deep * of_deep)
        for i, (of_skin, of_deep) in enumerate(
            ((SKIN_T1, deep_t1), (SKIN_T2, deep_t2), (SKIN_SODIUM, deep_sodium))
        )
    )
    return {
        "white": white,
        "grey": grey,
        "fluid": np.clip(inside - white - grey, 0, 1) + flesh * deep * deep_fluid,
        "other_t1": t1,
        "other_t2": t2,
        "other_sodium": sodium,
        "brain": brain,
    }


@lru_cache(maxsize=1)
def build_head() -> Head:
    """Make the maps of the head from the embedded template.

    Returns
    -------
    Head
        About 150 MB; made once per process.

    Notes
    -----
    Template: MNI152NLin2009aSym (Fonov et al. 2011, doi:10.1016/j.neuroimage.2010.07.033) as
    bundled with nilearn. Its probabilities are sharpened (to the power 1.6, renormalised): one
    person's cortex is crisper than the average of 152.
    """
    from nilearn import datasets

    images = [
        datasets.load_mni152_wm_template(resolution=1),
        datasets.load_mni152_gm_template(resolution=1),
        datasets.load_mni152_brain_mask(resolution=1),
    ]
    white, grey, mask = (np.asarray(image.dataobj, dtype=np.float32) for image in images)
    brain_to_world = np.asarray(images[0].affine, dtype=np.float64)
    mask = ndimage.binary_fill_holes(mask > 0)
    white, grey = _sharpen(white * mask, grey * mask, mask)
    coarse_to_world = np.diag([COARSE_MM, COARSE_MM, COARSE_MM, 1.0])
    coarse_to_world[:3, 3] = COARSE_LOW_MM
    shape = tuple(np.round((COARSE_HIGH_MM - COARSE_LOW_MM) / COARSE_MM).astype(int) + 1)
    index = np.indices(shape, dtype=np.float32)
    x, y, z = (index[a] * np.float32(COARSE_MM) + np.float32(COARSE_LOW_MM[a]) for a in range(3))
    cavity = _cavity_distance(mask, brain_to_world, np.stack([x, y, z], -1))
    depth = _skin_depth(cavity, x, y, z)
    labels = _deep_labels(cavity, depth, x, y, z)
    t1, t2, sodium, fluid, canal = _deep_maps(labels, x, y, z)
    return Head(
        brain_to_world=brain_to_world,
        coarse_to_world=coarse_to_world,
        white=white,
        grey=grey,
        brain=ndimage.gaussian_filter(mask.astype(np.float32), 0.5),
        cavity_mm=cavity,
        depth_mm=depth,
        deep_t1=t1,
        deep_t2=t2,
        deep_sodium=sodium,
        deep_fluid=fluid,
        canal=canal,
    )


@lru_cache(maxsize=1)
def build_thinned_head(grey_loss: float) -> Head:
    r"""The head with a thinner cortex: fluid takes the place of grey matter.

    Parameters
    ----------
    grey_loss : float
        Share of the template's grey matter that is lost, from 0 to below 1.

    Returns
    -------
    Head
        `build_head` but for its grey matter; made once per process and share.

    Notes
    -----
    Where grey matter :math:`g` meets fluid :math:`f`, their border is moved:
    :math:`g' = (g + f)\, g / (g + k f)`. What is grey matter alone stays as it is, so no tissue
    with an intensity of its own arises, as it would if every voxel lost a share. The factor
    :math:`k` is found such that the sum falls by the share.
    """
    head = build_head()
    fluid = np.where(head.white + head.grey > 0, 1 - head.white - head.grey, 0)
    mixed = np.flatnonzero((fluid > 0) & (head.grey > 0))
    grey, other = (m.reshape(-1)[mixed].astype(np.float64) for m in (head.grey, fluid))
    wanted = grey_loss * float(head.grey.sum(dtype=np.float64))

    def left(log_factor: float) -> Floats:
        return np.asarray((grey + other) * grey / (grey + np.exp(log_factor) * other))

    log_factor = optimize.brentq(lambda x: float((grey - left(x)).sum()) - wanted, 0.0, 20.0)
    thinned = head.grey.copy()
    thinned.reshape(-1)[mixed] = left(log_factor)
    return replace(head, grey=thinned)


def _sharpen(white: Single, grey: Single, mask: NDArray[np.bool_]) -> tuple[Single, Single]:
    fluid = np.clip(mask - white - grey, 0, 1)
    w, g, f = (np.power(p, np.float32(TISSUE_SHARPNESS)) for p in (white, grey, fluid))
    total = np.maximum(w + g + f, np.float32(1e-6))
    return (w / total).astype(np.float32), (g / total).astype(np.float32)


def _signed_distance(inside: NDArray[np.bool_], smooth_mm: float) -> Single:
    """Distance from the surface in mm, positive outside; smoothed, for the grid is coarse."""
    outside = ndimage.distance_transform_edt(~inside) - ndimage.distance_transform_edt(inside)
    # Half a voxel: distances are counted to voxel centres on the other side.
    outside -= 0.5 * np.sign(outside)
    return np.asarray(
        ndimage.gaussian_filter(outside * COARSE_MM, smooth_mm / COARSE_MM), dtype=np.float32
    )


def _cavity_distance(mask: NDArray[np.bool_], to_world: Floats, points: Single) -> Single:
    soft = ndimage.gaussian_filter(mask.astype(np.float32), 1.0)
    brain = sample_map(soft, to_world, points.astype(np.float64)) > 0.5
    near = _signed_distance(brain, 0.0)
    # Closing by 9 mm bridges the fissures, as the skull does.
    closed = _signed_distance(near < 9.0, 0.0) + 9.0 < SUBARACHNOID_MM
    return _signed_distance(closed | (near < SUBARACHNOID_MM), 2.0)


def _ellipsoid(
    x: Single, y: Single, z: Single, centre: tuple[float, float, float], radii: tuple[float, ...]
) -> NDArray[np.bool_]:
    squares = [((v - c) / r) ** 2 for v, c, r in zip((x, y, z), centre, radii, strict=True)]
    return np.asarray(sum(squares) < 1)


def _skin_depth(cavity: Single, x: Single, y: Single, z: Single) -> Single:
    side = np.abs(x)
    neck = ((x / 57) ** 2 + ((y + 38 + 0.12 * (z + 60)) / 60) ** 2 < 1) & (z < -45)
    surface = (
        (cavity < SKULL_MM + SCALP_MM)
        | _ellipsoid(x, y, z, (0, 28, -52), (66, 57, 60))
        | _ellipsoid(x, y, z, (0, 36, -96), (46, 46, 30))
        | _ellipsoid(x, y, z, (0, -20, -75), (60, 62, 60))
        | neck
    )
    smooth = ndimage.gaussian_filter(surface.astype(np.float32), 3.0) > 0.5
    smooth |= _ellipsoid(x, y, z, (0, 84, -56), (12, 17, 20))
    smooth |= _ellipsoid(side, y, z, (80, -24, -38), (7, 15, 27))
    smooth |= _ellipsoid(x, y, z, (0, 80, -86), (22, 8, 7))
    smooth = ndimage.gaussian_filter(smooth.astype(np.float32), 1.0) > 0.5
    return -_signed_distance(smooth, 1.5)


def _deep_labels(
    cavity: Single, depth: Single, x: Single, y: Single, z: Single
) -> NDArray[np.uint8]:
    """Labels of the tissue under the skin, later solids over earlier ones."""
    side = np.abs(x)
    labels = np.full(x.shape, MUSCLE, dtype=np.uint8)
    # The zero sheets of a wavy pattern stand for the fat between muscles.
    sheets = np.sin(0.21 * x + 1.6 * np.sin(0.06 * y + 0.05 * z)) + np.sin(
        0.17 * y + 1.8 * np.sin(0.05 * x - 0.04 * z) + 0.05 * z
    )
    labels[np.abs(sheets) < 0.13] = FAT
    inner = depth > SUBCUTANEOUS_MM
    labels[_ellipsoid(side, y, z, (46, 44, -64), (8, 12, 14)) & inner] = FAT
    jaw = (np.abs(_ellipse_radius(x, y - 14, 46, 56) - 0.9) < 0.09) & (y > 2)
    labels[jaw & (z < -84) & (z > -112)] = MARROW
    labels[_ellipsoid(side, y, z, (47, 4, -78), (5, 12, 32))] = MARROW
    labels[_ellipsoid(x, y, z, (0, 52, -66), (38, 22, 12))] = MARROW
    labels[_ellipsoid(x, y, z, (0, 40, -88), (24, 32, 12))] = MUSCLE
    labels[_ellipsoid(x, y, z, (0, 54, -46), (17, 24, 24))] = MUCOSA
    labels[_ellipsoid(side, y, z, (6, 56, -46), (3.5, 20, 20))] = AIR
    labels[_ellipsoid(side, y, z, (26, 48, -52), (12, 15, 15))] = AIR
    labels[_ellipsoid(x, y, z, (0, 30, -30), (12, 11, 8))] = AIR
    labels[_ellipsoid(side, y, z, (10, 70, -12), (9, 5, 8)) & (cavity > 3)] = AIR
    labels[_ellipsoid(x, y, z, (0, 2, -62), (12, 6, 34))] = AIR
    labels[((x / 9) ** 2 + ((y - 4 + 0.12 * (z + 60)) / 8) ** 2 < 1) & (z < -100)] = AIR
    labels[_ellipsoid(side, y, z, (57, -27, -42), (7, 9, 9)) & (cavity > 3)] = AIR
    labels[_ellipsoid(side, y, z, (32, 51, -37), (15, 22, 14))] = FAT
    labels[_ellipsoid(side, y, z, (31.5, 46, -37), (3, 14, 3))] = MUSCLE
    labels[_ellipsoid(side, y, z, (32, 62, -37), (12.2, 12.2, 12.2))] = EYE
    labels[_ellipsoid(side, y, z, (32, 70, -37), (4.5, 2.5, 4.5))] = LENS
    return _add_spine(labels, x, y, z)


def _ellipse_radius(x: Single, y: Single, a: float, b: float) -> Single:
    return np.asarray(np.sqrt((x / a) ** 2 + (y / b) ** 2), dtype=np.float32)


def _spine_radius(x: Single, y: Single, z: Single, radius_mm: float, ahead_mm: float) -> Single:
    """Distance from an axis that runs down from the medulla, over a radius."""
    back = y + 46 - 0.06 * (z + 72) - ahead_mm
    return np.asarray(np.sqrt(x**2 + back**2) / radius_mm, dtype=np.float32)


def _add_spine(labels: NDArray[np.uint8], x: Single, y: Single, z: Single) -> NDArray[np.uint8]:
    below = z < -76
    disc = np.mod(z, 18.0) < 4.0
    body = below & (_spine_radius(x, y, z, 11.0, 20.0) < 1)
    labels[body] = MARROW
    labels[body & (disc | (_spine_radius(x, y, z, 11.0, 20.0) > 0.85))] = BONE
    labels[below & (_spine_radius(x, y, z, 13.0, 0.0) < 1)] = BONE
    labels[(z < -62) & (_spine_radius(x, y, z, 9.5, 0.0) < 1)] = CANAL
    labels[(z < -62) & (_spine_radius(x, y, z, 5.5, 0.0) < 1)] = CORD
    return labels


def _deep_maps(
    labels: NDArray[np.uint8], x: Single, y: Single, z: Single
) -> tuple[Single, Single, Single, Single, Single]:
    table = np.array([APPEARANCE[label] for label in range(len(APPEARANCE))], dtype=np.float32)
    is_fluid = np.isin(labels, (EYE, CANAL)).astype(np.float32)
    # Fluid is counted as a fraction; its brightness must not be counted a second time.
    t1 = np.where(is_fluid > 0, 0, table[labels, 0])
    open_skull = ((z < -58) & (_spine_radius(x, y, z, 9.5, 0.0) < 1)).astype(np.float32)
    t1, t2, sodium, fluid, canal = (
        np.asarray(ndimage.gaussian_filter(m, 0.45), dtype=np.float32)
        for m in (t1, table[labels, 1], table[labels, 2], is_fluid, open_skull)
    )
    return t1, t2, sodium, fluid, canal
