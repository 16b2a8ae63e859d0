"""A slab through the motor cortex at 7T: gradient echoes of a cortex with a dark deep layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bids_alsmri.phantom.anat import bias_field, landmark_table, pose_table, rician
from bids_alsmri.phantom.anatomy import Anatomy
from bids_alsmri.phantom.cortex_layers import LayeredCortex
from bids_alsmri.phantom.geometry import Grid, rigid_matrix, store
from bids_alsmri.phantom.head import Head, build_head, build_thinned_head
from bids_alsmri.phantom.records import (
    Cortex7tSettings,
    Participant,
    PhantomSettings,
    SimulatedImage,
    Simulation,
    Table,
)

Floats = NDArray[np.float64]
Single = NDArray[np.float32]

LEAD = "acq-M1_"
SLAB_IMAGE = "slab"
FIELD_T = 7
OFF_RESONANCE_HZ = 60.0  # 20 mm above the middle
# between the vertex and the ventricles, over both hand knobs
CENTRE_MM = (0.0, -28.0, 56.0)
MIDLINE_GAP_MM = 3.0  # between a slab of one hemisphere and the middle
LATTICE_MM = 1.0  # on which tissue is looked up: the head has no finer maps
FINE = 2  # parts of its edges between which distances are counted
SIGNAL_OF_CORTEX = 1000.0
OTHER_R2S = 45.0
LEAST_TISSUE = 0.5  # share of tissue from which a point belongs to the cortex
# thickness (mm) and contrast of the deep layer: thinner in patients, darker the faster they decline
# (Cosottini 2016, doi:10.3174/ajnr.A4562)
DEEP_LAYER: Mapping[str, tuple[float, float]] = {
    "hc": (2.0, 0.10),
    "slow": (1.5, 0.11),
    "fast": (1.5, 0.13),
}
# above the ventricles, whose walls are no cortex
THICK_FROM_MM = 30.0
SULCUS_TISSUE = 0.9  # share of tissue below which the template's sulci are open


@dataclass(frozen=True)
class _Lattice:
    """Maps from which points of the slab's world are looked up."""

    grid: Grid
    distance_mm: Single
    tissue: Single
    fluid: Single
    other: Single


def simulate(
    participant: Participant,
    anatomy: Anatomy,
    settings: PhantomSettings,
    rng: np.random.Generator,
) -> Simulation:
    """Scan the slab of one session.

    Parameters
    ----------
    participant : Participant
        Who is scanned; decides thickness and contrast of the deep layer.
    anatomy : Anatomy
        The person's head.
    settings : PhantomSettings
        Slab, noise and storage.
    rng : Generator
        Random stream of this participant, session and modality.

    Returns
    -------
    Simulation
        One magnitude image per echo; the distance from white matter, layers and pose as truth.
    """
    slab = settings.cortex7t
    for_pose, for_bias, for_noise = rng.spawn(3)
    t1w_to_slab = rigid_matrix(
        for_pose.uniform(-1.0, 1.0, 3) * settings.max_reposition_mm,
        for_pose.uniform(-1.0, 1.0, 3) * settings.max_reposition_deg,
        np.array(CENTRE_MM),
    )
    grid = slab_grid(slab)
    cortex = cortex_of(participant, settings.effect_scale)
    slab_to_t1w = np.asarray(np.linalg.inv(t1w_to_slab), dtype=np.float64)
    lattice = _look_up(anatomy, grid, slab_to_t1w)
    clean, distance = _echoes(lattice, grid, cortex, slab)
    points = grid.points_mm()
    drop = 1.0 - slab.transmit_drop * np.clip((CENTRE_MM[1] - points[..., 1]) / 50.0 + 0.5, 0, 1)
    clean *= (bias_field(grid, for_bias, slab.bias) * drop).astype(np.float32)
    sigma = SIGNAL_OF_CORTEX * np.exp(-1e-3 * slab.echo_times_ms[0] * cortex.superficial_r2s)
    sigma = float(sigma) / slab.snr if slab.snr > 0 else 0.0
    # movement between lines of the phase encoding repeats the image along it
    clean += np.float32(slab.ghost) * np.roll(clean, grid.shape[1] // 2, axis=2)
    raw = []
    for number, (echo_ms, signal) in enumerate(
        zip(slab.echo_times_ms, clean, strict=True), start=1
    ):
        noisy = np.round(rician(signal, sigma, for_noise)).clip(0, 32767).astype(np.int16)
        voxels, affine = store(noisy, grid, settings)
        sidecar = {**_sidecar(slab, echo_ms), **_encoding(affine)}
        parts: dict[str, tuple[NDArray[Any], dict[str, object]]] = {
            "part-mag_" if slab.has_phase else "": (voxels, {})
        }
        if slab.has_phase:
            parts["part-phase_"] = (
                store(_phase(points, echo_ms), grid, settings)[0],
                {"Units": "arbitrary"},
            )
        for part, (values, more) in parts.items():
            tail = f"{LEAD}echo-{number}_{part}MEGRE"
            raw.append(SimulatedImage("anat", tail, values, affine, {**sidecar, **more}))
    return Simulation(
        raw=tuple(raw),
        truth=_truth(anatomy, t1w_to_slab, distance, cortex, grid, settings),
    )


@lru_cache(maxsize=1)
def build_thick_head(cortex_mm: float, grey_loss: float) -> Head:
    """Head whose upper cortex has at least a given thickness, and sulci with sharp walls.

    The template, as an average of many heads, has a cortex of 2 to 2.5 mm between its borders, in
    which a deep layer of 2 mm would leave no superficial one.

    Parameters
    ----------
    cortex_mm : float
        What lies nearer to fluid is cortex, in mm.
    grey_loss : float
        Of `build_thinned_head`; 0 for none.

    Returns
    -------
    Head
        White and grey matter above `THICK_FROM_MM` are changed; made once per process.
    """
    head = build_thinned_head(grey_loss) if grey_loss > 0 else build_head()
    low = int(np.ceil((THICK_FROM_MM - head.brain_to_world[2, 3]) / head.brain_to_world[2, 2]))
    white, grey = head.white[:, :, low:], head.grey[:, :, low:]
    parts, share = (
        ndimage.zoom(m, FINE, order=1, grid_mode=True, mode="nearest")
        for m in (white + grey, white - grey)
    )
    is_tissue = parts > SULCUS_TISSUE
    # fluid that is closed in is no surface
    pools, _ = ndimage.label(~is_tissue)
    # the lower face cuts the head
    faces = np.ones(pools.shape, dtype=bool)
    faces[1:-1, 1:-1, :-1] = False
    outside = np.isin(pools, np.setdiff1d(pools[faces], [0]))
    away_mm = ndimage.distance_transform_edt(~outside) / FINE
    is_grey = ~outside & ((away_mm < cortex_mm) | (share < 0.0))
    is_grey = ndimage.gaussian_filter(is_grey.astype(np.float32), 1.0) > 0.5
    maps = []
    for before, mask in ((head.white, ~outside & ~is_grey), (head.grey, ~outside & is_grey)):
        blocks = mask.astype(np.float32).reshape(
            white.shape[0], FINE, white.shape[1], FINE, white.shape[2], FINE
        )
        after = before.copy()
        after[:, :, low:] = blocks.mean(axis=(1, 3, 5))
        maps.append(after)
    return replace(head, white=maps[0], grey=maps[1])


def slab_grid(slab: Cortex7tSettings) -> Grid:
    """Grid of the slab, which lies straight in the scanner.

    Parameters
    ----------
    slab : Cortex7tSettings
        Voxels and field of view.

    Returns
    -------
    Grid
        About `CENTRE_MM`, or beside it where one hemisphere is in view.
    """
    side = {"left": -1.0, "right": 1.0}.get(slab.hemispheres, 0.0)
    width_mm = slab.field_of_view_mm * (0.5 if side else 1.0)
    edges = np.array([slab.voxel_mm, slab.voxel_mm, slab.slice_mm])
    extent = np.array([width_mm, slab.field_of_view_mm, slab.height_mm])
    i, j, k = (max(2, int(n)) for n in np.round(extent / edges))
    affine = np.diag([*edges, 1.0])
    centre = np.array(CENTRE_MM) + np.array([side * (width_mm / 2 + MIDLINE_GAP_MM), 0.0, 0.0])
    affine[:3, 3] = centre - edges * (np.array([i, j, k]) - 1) / 2
    return Grid((i, j, k), affine)


def cortex_of(participant: Participant, effect_scale: float) -> LayeredCortex:
    """Layers of a person.

    Parameters
    ----------
    participant : Participant
        Controls, slow and fast progressors differ.
    effect_scale : float
        Factor on the difference from controls.

    Returns
    -------
    LayeredCortex
        The thickness of the cortex is that of the head and not used.

    Examples
    --------
    >>> from bids_alsmri.phantom.cohort import draw_cohort
    >>> cortex_of(draw_cohort(("fast",), seed=0)[0], 1.0).deep_mm
    1.5
    """
    own, healthy = DEEP_LAYER[participant.kind], DEEP_LAYER["hc"]
    deep_mm, contrast = (h + effect_scale * (o - h) for o, h in zip(own, healthy, strict=True))
    return LayeredCortex(cortex_mm=6.0, deep_mm=max(deep_mm, 0.0), deep_contrast=contrast)


def _look_up(anatomy: Anatomy, grid: Grid, slab_to_t1w: Floats) -> _Lattice:
    margin_mm = 4.0
    extent = np.array(grid.shape) * np.diag(grid.affine)[:3] + 2 * margin_mm
    shape = np.ceil(extent / LATTICE_MM).astype(int)
    affine = np.diag([LATTICE_MM, LATTICE_MM, LATTICE_MM, 1.0])
    middle = grid.affine[:3, 3] + np.diag(grid.affine)[:3] * (np.array(grid.shape) - 1) / 2
    affine[:3, 3] = middle - LATTICE_MM * (shape - 1) / 2
    lattice = Grid((int(shape[0]), int(shape[1]), int(shape[2])), affine)
    tissue = anatomy.sample_grid(lattice, slab_to_t1w)
    parts = tissue.white + tissue.grey
    # half white matter and half cortex: the border that a T1w shows
    white = np.divide(tissue.white, parts, out=np.zeros_like(parts), where=parts > 0.2)
    fine = ndimage.zoom(white, FINE, order=1, grid_mode=True, mode="nearest")
    distance = distance_from_level(0.5 - fine, LATTICE_MM / FINE)
    affine_fine = affine @ np.diag([1 / FINE, 1 / FINE, 1 / FINE, 1.0])
    affine_fine[:3, 3] -= LATTICE_MM * (1 - 1 / FINE) / 2
    other = np.clip(tissue.other_t1, 0, 1.5)
    return _Lattice(
        Grid((fine.shape[0], fine.shape[1], fine.shape[2]), affine_fine),
        distance,
        *(ndimage.zoom(m, FINE, order=1, grid_mode=True, mode="nearest")
          for m in (parts, tissue.fluid, other)),
    )  # fmt: skip


def distance_from_level(level: Floats | Single, edge_mm: float) -> Single:
    """Signed distance from the surface on which a smooth map is 0.

    Parameters
    ----------
    level : (X, Y, Z) array
        Rises through 0 at the surface.
    edge_mm : float
        Edge of a voxel, in mm.

    Returns
    -------
    (X, Y, Z) array of float32
        In mm, positive where the map is: from the plane on which the map passes 0 about the
        nearest voxel beside the surface, which is not bound to the middles of voxels.

    Examples
    --------
    >>> x = np.arange(12.0)[:, None, None] * np.ones((12, 3, 3))
    >>> distance_from_level(x - 5.3, 0.5)[3:8, 1, 1].round(2)
    array([-1.15, -0.65, -0.15,  0.35,  0.85], dtype=float32)
    """
    values = np.asarray(level, dtype=np.float32)
    inside = values < 0.0
    feet, counts = np.zeros((3, *values.shape), np.float32), np.zeros(values.shape, np.float32)
    for axis in range(3):
        lower, upper = (
            tuple(slice(*ends) if a == axis else slice(None) for a in range(3))
            for ends in ((None, -1), (1, None))
        )
        is_passed = inside[lower] != inside[upper]
        step = np.where(is_passed, values[lower] - values[upper], 1.0)
        share = np.where(is_passed, values[lower] / step, 0.0)
        feet[axis][lower] += share
        feet[axis][upper] += np.where(is_passed, share - 1.0, 0.0)
        counts[lower] += is_passed
        counts[upper] += is_passed
    nearest = ndimage.distance_transform_edt(
        counts == 0, return_distances=False, return_indices=True
    )
    slopes = np.stack(np.gradient(ndimage.gaussian_filter(values, 1.0)))
    normals = slopes / np.maximum(np.sqrt((slopes**2).sum(axis=0)), 1e-6)
    where = (slice(None), *nearest)
    away = np.indices(values.shape, dtype=np.float32) - nearest
    away -= (feet / np.maximum(counts, 1.0))[where]
    return np.asarray((away * normals[where]).sum(axis=0) * edge_mm, dtype=np.float32)


def _echoes(
    lattice: _Lattice, grid: Grid, cortex: LayeredCortex, slab: Cortex7tSettings
) -> tuple[Single, Single]:
    """Noise-free echoes (E, X, Y, Z), and the distance in the middle of each voxel."""
    echoes = np.zeros((len(slab.echo_times_ms), *grid.shape), dtype=np.float32)
    n_parts = tuple(int(np.ceil(edge / 0.5 - 1e-6)) for edge in np.diag(grid.affine)[:3])
    n_points = int(np.prod(n_parts))
    for part in range(n_points):
        within = (np.array(np.unravel_index(part, n_parts)) + 0.5) / n_parts - 0.5
        distance, tissue, fluid, other = _looked_up(lattice, grid, within)
        is_tissue = (tissue > LEAST_TISSUE) | (distance < 0.0)
        for echo_ms, signal in zip(slab.echo_times_ms, echoes, strict=True):
            # the cortex ends where the head's does, not at a thickness
            layers = cortex.signal(np.minimum(distance, cortex.cortex_mm - 0.01), echo_ms)
            decay = np.float32(np.exp(-1e-3 * echo_ms * cortex.fluid_r2s))
            free = (fluid + tissue) * np.float32(cortex.fluid_density) * decay
            rest = other * np.float32(np.exp(-1e-3 * echo_ms * OTHER_R2S))
            signal += np.where(is_tissue, layers, free + rest)
    middle = _looked_up(lattice, grid, np.zeros(3))[0]
    return echoes * np.float32(SIGNAL_OF_CORTEX / n_points), middle


def _looked_up(
    lattice: _Lattice, grid: Grid, within: Floats
) -> tuple[Single, Single, Single, Single]:
    to_lattice = np.linalg.inv(lattice.grid.affine) @ grid.affine
    offset = to_lattice[:3, :3] @ within + to_lattice[:3, 3]
    distance, tissue, fluid, other = (
        ndimage.affine_transform(
            values, to_lattice[:3, :3], offset, output_shape=grid.shape, order=1,
            mode="nearest",
        )
        for values in (lattice.distance_mm, lattice.tissue, lattice.fluid, lattice.other)
    )  # fmt: skip
    return distance, tissue, fluid, other


def _truth(
    anatomy: Anatomy,
    t1w_to_slab: Floats,
    distance: Single,
    cortex: LayeredCortex,
    grid: Grid,
    settings: PhantomSettings,
) -> tuple[SimulatedImage, ...]:
    voxels, affine = store(distance, grid, settings)
    rates = cortex.rates_s
    rows: list[tuple[object, ...]] = [
        ("deep_mm", cortex.deep_mm, "mm"),
        ("deep_contrast", cortex.deep_contrast, "1"),
        ("white_contrast", cortex.white_contrast, "1"),
        *((f"r2s_{name}", rate, "1/s") for name, rate in rates.items()),
    ]
    layers = Table(
        ("measure", "value", "unit"),
        tuple(rows),
        {
            "measure": {"Description": "What: thickness, contrast at 15 ms, rates of decay"},
            "value": {"Description": "Value in the unit of the row"},
            "unit": {"Description": "Unit"},
        },
    )
    tables = {
        f"{LEAD}desc-layers_stats": layers,
        f"{LEAD}desc-pose_stats": pose_table(t1w_to_slab, SLAB_IMAGE),
        f"{LEAD}desc-landmarks_stats": landmark_table(anatomy, t1w_to_slab, "slab", SLAB_IMAGE),
    }
    about = "Distance from white matter in the middle of the voxel, positive outside it."
    sidecar: dict[str, object] = {"Description": about, "Units": "mm"}
    tail = f"{LEAD}desc-distance_statmap"
    return (SimulatedImage("anat", tail, voxels, affine, sidecar, tables=tables),)


def _encoding(affine: Floats) -> dict[str, object]:
    # phase is encoded from front to back
    axis = int(np.argmax(np.abs(affine[1, :3])))
    return {"PhaseEncodingDirection": "ijk"[axis] + ("" if affine[1, axis] > 0 else "-")}


def _phase(points: Floats, echo_ms: float) -> NDArray[np.int16]:
    """Phase of a smooth field, wrapped, from -4096 to 4095 as scanners store it."""
    offset = points - np.array(CENTRE_MM)
    field_hz = OFF_RESONANCE_HZ * (offset[..., 2] / 20.0 + (offset[..., 1] / 60.0) ** 2)
    turns = 1e-3 * echo_ms * field_hz + 0.1
    return np.asarray(np.floor(8192 * (turns - np.round(turns))).clip(-4096, 4095), np.int16)


def _sidecar(slab: Cortex7tSettings, echo_ms: float) -> dict[str, object]:
    return {
        "Modality": "MR",
        "Manufacturer": "Simulated",
        "MagneticFieldStrength": FIELD_T,
        "MRAcquisitionType": slab.acquisition,
        "PulseSequenceType": "Multi-echo gradient recalled echo",
        "ScanningSequence": "GR",
        "SequenceVariant": "SP",
        "RepetitionTime": 0.5,
        "EchoTime": round(echo_ms / 1e3, 6),
        "FlipAngle": 15,
        "SliceThickness": slab.slice_mm,
        "BodyPart": "HEAD",
    }
