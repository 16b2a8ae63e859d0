"""A simulated body: limbs, trunk, neck and head with bones, fat and the muscles of Jenkins 2020.

World coordinates are RAS+ in mm; z runs from the ankles (-860) to the top of the head (820). A
limb is a tube with a skin and a fascia; muscles are sectors of a tube, by the angle from its front
towards its outer side, or ellipsoids.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy import special

AIR, FAT, MUSCLE, CORTEX, MARROW, SOFT = range(6)
LOWEST_MM, HIGHEST_MM = -860.0, 820.0
# share of a muscle's cross-section that fat takes, by pattern; streaks up to 10 % and patches below
# 50 % are the grades 1 and 2 of Mercuri, confluent fat grade 3
PATTERNS = ("none", "streaks", "patches", "confluent")
# wave lengths of the patterns, in mm
_WAVES_MM = {"streaks": 9.0, "patches": 22.0, "confluent": 30.0}
_N_WAVES = 16

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Tube:
    """A body part or a bone along z.

    Parameters
    ----------
    side : int
        1 right, -1 left, 0 in the middle.
    z_mm : tuple of float
        Lower and upper end.
    centre_mm : tuple of float
        x (outward from the midline where there is a side) and y of the axis.
    skin_mm : tuple of float
        Half axes of the outer surface along x and y.
    fascia_mm : tuple of float
        The same of what lies under fat; of a bone, of its marrow.
    is_bone : bool
        Whether it is cortex and marrow, or fat and muscle.
    inside : int
        Tissue within the fascia.
    lower_share : float
        Half axes at the lower end over those at the upper end.
    """

    side: int
    z_mm: tuple[float, float]
    centre_mm: tuple[float, float]
    skin_mm: tuple[float, float]
    fascia_mm: tuple[float, float]
    is_bone: bool = False
    inside: int = MUSCLE
    lower_share: float = 1.0

    @property
    def x_mm(self) -> float:
        """World x of the axis."""
        return self.centre_mm[0] * (self.side or 1)


@dataclass(frozen=True)
class Sector:
    """A muscle as a sector of a tube's fascia.

    Parameters
    ----------
    tube : Tube
        The body part.
    z_mm : tuple of float
        Lower and upper end.
    angle_deg : tuple of float
        From the front towards the outer side; the second is larger.
    radius : tuple of float
        Inner and outer radius over that of the fascia.
    """

    tube: Tube
    z_mm: tuple[float, float]
    angle_deg: tuple[float, float]
    radius: tuple[float, float]


@dataclass(frozen=True)
class Ellipsoid:
    """A muscle as an ellipsoid.

    Parameters
    ----------
    side : int
        1 right, -1 left, 0 in the middle.
    centre_mm, half_axes_mm : tuple of float
        x outward from the midline, y and z.
    """

    side: int
    centre_mm: tuple[float, float, float]
    half_axes_mm: tuple[float, float, float]


@dataclass(frozen=True)
class Muscle:
    """What a muscle is made of.

    Parameters
    ----------
    index : int
        Label.
    name : str
        As in the vocabulary of the app.
    side : str
        left, right or midline.
    shape : Sector or Ellipsoid
        Where it lies.
    relative_t2 : float
        T2-weighted signal of its tissue over that of fatty marrow.
    t2_ms : float
        Transverse relaxation time of its water, in ms.
    adc_mm2_s : float
        Apparent diffusion coefficient of its tissue.
    pattern : str
        How fat lies in it.
    fat_share : float
        Share of its volume that is fat.
    seed : int
        Of the pattern.
    """

    index: int
    name: str
    side: str
    shape: Sector | Ellipsoid
    relative_t2: float = 0.3
    t2_ms: float = 32.0
    adc_mm2_s: float = 1.6e-3
    pattern: str = "none"
    fat_share: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Body:
    """A body.

    Parameters
    ----------
    parts, bones : tuple of Tube
        Later ones lie over earlier ones.
    muscles : tuple of Muscle
        Those that have a name.
    """

    parts: tuple[Tube, ...]
    bones: tuple[Tube, ...]
    muscles: tuple[Muscle, ...] = field(default=())


@dataclass(frozen=True)
class Rendered:
    """A body on points of a lattice.

    Parameters
    ----------
    tissue : (i, j, k) array of uint8
        Tissue by code.
    label : (i, j, k) array of int16
        Muscle, fat within it included.
    """

    tissue: NDArray[np.uint8]
    label: NDArray[np.int16]


# name, body part or ellipsoid, and where; sectors: z, angles, radii
_LIMB_MUSCLES: tuple[tuple[str, str, tuple[float, float], tuple[float, float]], ...] = (
    ("tibialis anterior", "calf", (-780.0, -510.0), (15.0, 75.0)),
    ("gastrocnemius and soleus", "calf", (-790.0, -500.0), (115.0, 275.0)),
    ("quadriceps", "thigh", (-460.0, -110.0), (-75.0, 95.0)),
    ("hamstrings", "thigh", (-460.0, -120.0), (120.0, 230.0)),
    ("biceps brachii", "upper arm", (215.0, 390.0), (-85.0, 80.0)),
    ("triceps", "upper arm", (215.0, 395.0), (100.0, 255.0)),
    ("deltoid", "upper arm", (402.0, 492.0), (-70.0, 200.0)),
    ("forearm compartment", "forearm", (60.0, 190.0), (-30.0, 130.0)),
)
_ELLIPSOIDS: tuple[tuple[str, tuple[float, float, float], tuple[float, float, float]], ...] = (
    ("gluteus maximus", (75.0, -72.0, 25.0), (58.0, 24.0, 85.0)),
    ("psoas", (48.0, -8.0, 155.0), (20.0, 22.0, 95.0)),
    ("thoracic paraspinal", (30.0, -72.0, 355.0), (20.0, 15.0, 125.0)),
    ("thenar", (229.0, 0.0, -85.0), (12.0, 10.0, 26.0)),
    ("hypothenar", (277.0, 0.0, -85.0), (10.0, 10.0, 28.0)),
    ("first dorsal interosseous", (228.0, 0.0, -135.0), (9.0, 9.0, 22.0)),
    ("sternocleidomastoid", (38.0, 18.0, 548.0), (13.0, 10.0, 46.0)),
    ("trapezius", (41.0, -30.0, 540.0), (12.0, 11.0, 42.0)),
)
_MIDLINE: tuple[tuple[str, tuple[float, float, float], tuple[float, float, float]], ...] = (
    ("splenius capitis", (0.0, -40.0, 560.0), (23.0, 10.0, 42.0)),
    ("tongue", (0.0, 42.0, 632.0), (24.0, 30.0, 22.0)),
)
# labels of the vocabulary: midline, or left and right
_INDEX: Mapping[str, int] = {
    "tongue": 10, "splenius capitis": 20, "trapezius": 30, "sternocleidomastoid": 40,
    "deltoid": 90, "biceps brachii": 130, "triceps": 140, "forearm compartment": 150,
    "first dorsal interosseous": 160, "thenar": 170, "hypothenar": 220,
    "thoracic paraspinal": 270, "psoas": 350, "gluteus maximus": 370, "quadriceps": 410,
    "hamstrings": 470, "tibialis anterior": 580, "gastrocnemius and soleus": 620,
}  # fmt: skip


def _parts(side: int) -> dict[str, Tube]:
    """Limbs of one side."""
    return {
        "calf": Tube(side, (LOWEST_MM, -480.0), (88.0, 0.0), (56.0, 58.0), (49.0, 51.0),
                     lower_share=0.72),
        "thigh": Tube(side, (-480.0, -60.0), (92.0, 0.0), (82.0, 84.0), (71.0, 73.0),
                      lower_share=0.8),
        "upper arm": Tube(side, (195.0, 495.0), (238.0, 0.0), (47.0, 47.0), (41.0, 41.0),
                          lower_share=0.9),
        "forearm": Tube(side, (-45.0, 195.0), (246.0, 0.0), (40.0, 40.0), (34.0, 35.0),
                        lower_share=0.75),
        "hand": Tube(side, (-210.0, -45.0), (252.0, 0.0), (42.0, 17.0), (39.0, 14.0)),
    }  # fmt: skip


def _bones(side: int) -> tuple[Tube, ...]:
    """Bones of one side."""
    bone = Tube(side, (0.0, 0.0), (0.0, 0.0), (0.0, 0.0), (0.0, 0.0), True, MARROW)

    def of(z: tuple[float, float], centre: tuple[float, float], outer: float, inner: float) -> Tube:
        return replace(
            bone, z_mm=z, centre_mm=centre, skin_mm=(outer, outer), fascia_mm=(inner, inner)
        )

    return (
        of((LOWEST_MM, -485.0), (79.0, 15.0), 14.0, 9.5),
        of((LOWEST_MM, -500.0), (112.0, -10.0), 7.0, 4.0),
        of((-475.0, -60.0), (94.0, 2.0), 16.0, 10.5),
        of((195.0, 495.0), (238.0, 0.0), 12.5, 8.0),
        of((-45.0, 190.0), (238.0, 0.0), 8.0, 5.0),
        of((-45.0, 190.0), (258.0, -4.0), 7.0, 4.5),
    )


def make_body(rng: np.random.Generator | None = None, *, spread: float = 0.06) -> Body:
    """A body, of average build or drawn at random.

    Parameters
    ----------
    rng : Generator, optional
        Random stream; average build without it.
    spread : float
        Standard deviation of the relative size of limbs and muscles.

    Returns
    -------
    Body
        With the 34 muscles, whose tissue is the same in all.

    Examples
    --------
    >>> len(make_body().muscles)
    34
    """

    def size() -> float:
        return 1.0 if rng is None else float(np.clip(rng.normal(1.0, spread), 0.85, 1.15))

    trunk = [
        Tube(0, (-60.0, 500.0), (0.0, 0.0), (180.0, 112.0), (165.0, 98.0)),
        Tube(0, (170.0, 490.0), (0.0, 22.0), (128.0, 58.0), (127.0, 57.0), inside=SOFT),
        Tube(0, (500.0, 602.0), (0.0, 0.0), (63.0, 67.0), (57.0, 61.0)),
        Tube(0, (602.0, HIGHEST_MM), (0.0, 0.0), (80.0, 98.0), (75.0, 93.0), inside=SOFT),
    ]
    spine = [
        Tube(0, (-20.0, 500.0), (0.0, -45.0), (23.0, 21.0), (20.5, 18.5), True, MARROW),
        Tube(0, (500.0, 602.0), (0.0, -8.0), (16.0, 14.0), (13.5, 11.5), True, MARROW),
        Tube(0, (660.0, 800.0), (0.0, 0.0), (72.0, 90.0), (66.0, 84.0), True, SOFT),
        Tube(0, (602.0, 640.0), (0.0, 82.0), (26.0, 8.0), (22.0, 5.0), True, MARROW),
    ]
    by_side, bones = {}, list(spine)
    for side in (-1, 1):
        scale = {name: size() for name in _parts(side)}
        by_side[side] = {name: _scaled(tube, scale[name]) for name, tube in _parts(side).items()}
        bones += _bones(side)
    muscles = list(_muscles(by_side, size))
    parts = [*trunk, *(tube for tubes in by_side.values() for tube in tubes.values())]
    return Body(tuple(parts), tuple(bones), tuple(muscles))


def _scaled(tube: Tube, scale: float) -> Tube:
    a, b = tube.fascia_mm
    rim = tube.skin_mm[0] - a, tube.skin_mm[1] - b
    inner = (a * scale, b * scale)
    return replace(tube, fascia_mm=inner, skin_mm=(inner[0] + rim[0], inner[1] + rim[1]))


def _muscles(parts: Mapping[int, Mapping[str, Tube]], size: object) -> Iterator[Muscle]:
    assert callable(size)
    for side, word, code in ((-1, "left", 1), (1, "right", 2)):
        for name, part, z, (low, high) in _LIMB_MUSCLES:
            half = (high - low) / 2 * float(size())
            middle = (high + low) / 2
            angles = (max(middle - half, low - 12), min(middle + half, high + 12))
            shape = Sector(parts[side][part], z, angles, (0.42, 0.99))
            yield Muscle(_INDEX[name] + code, name, word, shape)
        for name, centre, axes in _ELLIPSOIDS:
            scale = float(size())
            scaled = (axes[0] * scale, axes[1] * scale, axes[2])
            yield Muscle(_INDEX[name] + code, name, word, Ellipsoid(side, centre, scaled))
    for name, centre, axes in _MIDLINE:
        yield Muscle(_INDEX[name], name, "midline", Ellipsoid(0, centre, axes))


def render(body: Body, x_mm: Floats, y_mm: Floats, z_mm: Floats) -> Rendered:
    """Tissue and muscle at the points of a lattice.

    Parameters
    ----------
    body : Body
        What is there.
    x_mm, y_mm, z_mm : (i,), (j,), (k,) arrays
        World coordinates of the lattice, in rising order, in mm.

    Returns
    -------
    Rendered
        On the lattice.

    Examples
    --------
    >>> thigh = render(make_body(), np.array([92.0]), np.array([0.0]), np.array([-300.0]))
    >>> int(thigh.tissue[0, 0, 0]) == MARROW
    True
    """
    shape = (len(x_mm), len(y_mm), len(z_mm))
    tissue, label = np.zeros(shape, np.uint8), np.zeros(shape, np.int16)
    axes = tuple(np.asarray(axis, np.float32) for axis in (x_mm, y_mm, z_mm))
    for part in body.parts:
        _fill_tube(tissue, part, axes)
    for muscle in body.muscles:
        box, inside = _inside(muscle.shape, axes)
        if not inside.any():
            continue
        # air is no muscle: an ellipsoid may reach out of a thin neck
        inside &= tissue[box] != AIR
        tissue[box][inside] = MUSCLE
        label[box][inside] = muscle.index
        if muscle.fat_share > 0:
            fat = _pattern(muscle, tuple(a[s] for a, s in zip(axes, box, strict=True)))
            tissue[box][inside & fat] = FAT
    for bone in body.bones:
        box, outer = _inside_tube(bone, bone.skin_mm, axes)
        inner = _inside_tube(bone, bone.fascia_mm, axes, box)[1]
        outer &= tissue[box] != AIR
        tissue[box][outer] = CORTEX
        tissue[box][outer & inner] = bone.inside
        label[box][outer] = 0
    return Rendered(tissue, label)


def _fill_tube(tissue: NDArray[np.uint8], part: Tube, axes: tuple[Floats, ...]) -> None:
    box, outer = _inside_tube(part, part.skin_mm, axes)
    inner = _inside_tube(part, part.fascia_mm, axes, box)[1]
    tissue[box][outer & ~inner] = FAT
    tissue[box][outer & inner] = part.inside


Box = tuple[slice, slice, slice]


def _box(axes: tuple[Floats, ...], low: tuple[float, ...], high: tuple[float, ...]) -> Box:
    found = [
        slice(int(np.searchsorted(a, lo)), int(np.searchsorted(a, hi, "right")))
        for a, lo, hi in zip(axes, low, high, strict=True)
    ]
    return found[0], found[1], found[2]


def _tube_coordinates(
    tube: Tube, half_mm: tuple[float, float], axes: tuple[Floats, ...], box: Box
) -> tuple[Floats, Floats]:
    x, y, z = (a[s] for a, s in zip(axes, box, strict=True))
    low, high = tube.z_mm
    taper = tube.lower_share + (1 - tube.lower_share) * np.clip((z - low) / (high - low), 0, 1)
    u = (x[:, None] - tube.x_mm) / (half_mm[0] * taper[None, :])
    v = (y[:, None] - tube.centre_mm[1]) / (half_mm[1] * taper[None, :])
    return u[:, None, :], v[None, :, :]


def _inside_tube(
    tube: Tube,
    half_mm: tuple[float, float],
    axes: tuple[Floats, ...],
    box: Box | None = None,
) -> tuple[Box, NDArray[np.bool_]]:
    if box is None:
        centre = (tube.x_mm, tube.centre_mm[1])
        low = (centre[0] - half_mm[0], centre[1] - half_mm[1], tube.z_mm[0])
        high = (centre[0] + half_mm[0], centre[1] + half_mm[1], tube.z_mm[1])
        box = _box(axes, low, high)
    u, v = _tube_coordinates(tube, half_mm, axes, box)
    return box, np.asarray(u**2 + v**2 < 1)


def _inside(shape: Sector | Ellipsoid, axes: tuple[Floats, ...]) -> tuple[Box, NDArray[np.bool_]]:
    if isinstance(shape, Ellipsoid):
        centre = (shape.centre_mm[0] * (shape.side or 1), *shape.centre_mm[1:])
        half = shape.half_axes_mm
        box = _box(
            axes,
            tuple(c - h for c, h in zip(centre, half, strict=True)),
            tuple(c + h for c, h in zip(centre, half, strict=True)),
        )
        u, v, w = (
            ((a[s] - c) / h) ** 2 for a, s, c, h in zip(axes, box, centre, half, strict=True)
        )
        return box, np.asarray(u[:, None, None] + v[None, :, None] + w[None, None, :] < 1)
    tube = shape.tube
    half_mm = tube.fascia_mm
    centre_mm = (tube.x_mm, tube.centre_mm[1])
    box = _box(
        axes,
        (centre_mm[0] - half_mm[0], centre_mm[1] - half_mm[1], shape.z_mm[0]),
        (centre_mm[0] + half_mm[0], centre_mm[1] + half_mm[1], shape.z_mm[1]),
    )
    u, v = _tube_coordinates(tube, half_mm, axes, box)
    radius = np.hypot(u, v)
    middle = sum(shape.angle_deg) / 2
    # degrees from the middle of the sector, -180 to 180
    away = np.rad2deg(np.arctan2(tube.side * u, v)) - middle
    away = (away + 180) % 360 - 180
    inside = (np.abs(away) < (shape.angle_deg[1] - shape.angle_deg[0]) / 2) & (
        (radius > shape.radius[0]) & (radius < shape.radius[1])
    )
    return box, np.asarray(inside)


def _pattern(muscle: Muscle, axes: tuple[Floats, ...]) -> NDArray[np.bool_]:
    """Where fat lies: a field of random waves above the threshold that leaves its share."""
    rng = np.random.default_rng(muscle.seed)
    wave = 2 * np.pi / _WAVES_MM[muscle.pattern]
    directions = rng.normal(size=(_N_WAVES, 3))
    # fibres run along z, and so does fat between them
    directions[:, 2] *= 0.2
    directions *= wave / np.linalg.norm(directions, axis=1, keepdims=True)
    phases = rng.uniform(0, 2 * np.pi, _N_WAVES)
    # cosines of sums are the real part of products, and their sum a product of matrices
    x, y, z = (
        np.exp(1j * directions[:, [axis]] * values).astype(np.complex64)
        for axis, values in enumerate(axes)
    )
    x *= np.exp(1j * phases).astype(np.complex64)[:, None]
    across = (x[:, :, None] * y[:, None, :]).reshape(_N_WAVES, -1)
    total = (across.T @ z).real.reshape(x.shape[1], y.shape[1], z.shape[1])
    # sums of many waves are normal with variance of half their number
    threshold = special.ndtri(1 - muscle.fat_share) * np.sqrt(_N_WAVES / 2)
    return np.asarray(total > threshold)
