r"""Diffusion-weighted images with motion, eddy-current distortion, dropout and noise.

The head is cut into pieces of half a voxel. Each volume is first made at rest for the gradient as
the turned head sees it, and then carried to where motion and distortion have put it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bids_alsmri.phantom.anat import (
    bias_field,
    landmark_table,
    pose_table,
    rician,
    tissue_truth,
)
from bids_alsmri.phantom.anatomy import SLAB_POINTS, Anatomy
from bids_alsmri.phantom.deformation import polar_rotation
from bids_alsmri.phantom.geometry import (
    Grid,
    gradient_directions,
    make_grid,
    rigid_matrix,
    store,
    stored_axis,
    transform_points,
    world_to_bvecs,
)
from bids_alsmri.phantom.head import HeadSample, sample_map
from bids_alsmri.phantom.records import (
    Participant,
    PhantomSettings,
    SimulatedImage,
    Simulation,
    Table,
)
from bids_alsmri.phantom.tracts import (
    FA_GREY,
    MD_FLUID,
    MD_GREY,
    MD_OTHER,
    MD_WHITE,
    Tracts,
    axisymmetric,
    build_tracts,
)

Floats = NDArray[np.float64]
Single = NDArray[np.float32]

CENTRE_MM = (0.0, -17.0, 8.0)
EXTENT_MM = (208.0, 224.0, 168.0)
WHITE_MATTER_SIGNAL = 500.0
# Signal at b = 0 over white matter's: spin echo, TE 95 ms, 3T.
S0_WHITE, S0_GREY, S0_FLUID = 1.0, 1.25, 3.0
ECHO_S, REPETITION_S, ECHO_SPACING_S = 0.095, 10.7, 0.00052
LEAD = "dir-AP_"
DWI_IMAGE = "first DWI volume"
FA_SPREAD, MD_SPREAD = 0.025, 0.02
TRUTH_DIRECTIONS = 20
DROPOUT_KEEPS = (0.15, 0.6)


@dataclass(frozen=True)
class Tissue:
    """What decides the signal, at rest in the pose of the reference volume.

    Parameters
    ----------
    sample : HeadSample
        Fractions and signals.
    at : (n,) array of int
        Flat index of the points that hold white or grey matter.
    dyads : (6, n) array of float32
        Direction times itself in the world frame at those points: xx, yy, zz, xy, xz, yz.
    along, across : (n,) array of float32
        Diffusivities of white matter there, mm2/s.
    """

    sample: HeadSample
    at: NDArray[np.intp]
    dyads: Single
    along: Single
    across: Single


@dataclass(frozen=True)
class Course:
    """What happens to each volume.

    Parameters
    ----------
    b_values : (n,) array
        In s/mm2.
    directions : (n, 3) array
        Unit gradient directions in the world frame; zero for b = 0.
    translations_mm, rotations_deg : (n, 3) array
        Head pose against the reference volume, about the centre of the field of view.
    poses : (n, 4, 4) array
        The same as matrices: rest to moved, world mm.
    eddy : (n, 4) array
        Scale, shear with x, shear with z (dimensionless), shift (mm), along phase encoding.
    dropouts : tuple of (volume, slice, kept signal)
        Slices (from below) that lose signal.
    """

    b_values: Floats
    directions: Floats
    translations_mm: Floats
    rotations_deg: Floats
    poses: Floats
    eddy: Floats
    dropouts: tuple[tuple[int, int, float], ...]


def simulate(
    participant: Participant,
    anatomy: Anatomy,
    settings: PhantomSettings,
    rng: np.random.Generator,
) -> Simulation:
    """Scan the diffusion-weighted images of one session.

    Parameters
    ----------
    participant : Participant
        Who is scanned; decides the disease effect.
    anatomy : Anatomy
        The person's head.
    settings : PhantomSettings
        Gradients, artefacts, noise and storage.
    rng : Generator
        Random stream of this participant, session and modality.

    Returns
    -------
    Simulation
        The images; true tensor maps, tissue maps, motion, distortion and poses as truth.
    """
    grid = make_grid(CENTRE_MM, EXTENT_MM, settings.dwi_mm, settings.oblique_deg)
    t1w_to_dwi = _reposition(settings, rng, grid)
    course = draw_course(settings, grid, rng)
    person = 1 + rng.normal(size=2) * (FA_SPREAD, MD_SPREAD)
    fine = half_grid(grid)
    tissue = lay_out_tissue(participant, anatomy, fine, t1w_to_dwi, settings.effect_scale, person)
    field = bias_field(grid, rng)
    images = np.empty((*grid.shape, len(course.b_values)), dtype=np.int16)
    sigma = WHITE_MATTER_SIGNAL / settings.snr if settings.snr else 0.0
    for volume, (b, direction) in enumerate(zip(course.b_values, course.directions, strict=True)):
        # The head turns under a gradient that stays: seen from the head, the gradient turns back.
        seen = course.poses[volume, :3, :3].T @ direction
        moved = carry(rest_signal(tissue, float(b), seen), fine, grid, course, volume)
        moved *= field * WHITE_MATTER_SIGNAL
        for _, at, kept in (d for d in course.dropouts if d[0] == volume):
            moved[:, :, at] *= kept
        images[..., volume] = np.round(rician(moved, sigma, rng)).clip(0, 32767)
    return Simulation(
        raw=(_raw_image(images, grid, course, settings),),
        truth=_truth(anatomy, tissue, fine, grid, course, settings, t1w_to_dwi),
    )


def half_grid(grid: Grid) -> Grid:
    """Grid of half the voxel edge over the same field of view.

    Parameters
    ----------
    grid : Grid
        The acquired grid.

    Returns
    -------
    Grid
        Twice as many voxels along each axis.
    """
    affine = grid.affine.copy()
    affine[:3, :3] /= 2
    affine[:3, 3] = grid.affine[:3, 3] - grid.affine[:3, :3] @ np.full(3, 0.25)
    return Grid((2 * grid.shape[0], 2 * grid.shape[1], 2 * grid.shape[2]), affine)


def draw_course(settings: PhantomSettings, grid: Grid, rng: np.random.Generator) -> Course:
    """Draw gradients, motion, distortion and dropouts of one run.

    Parameters
    ----------
    settings : PhantomSettings
        Sizes of the artefacts.
    grid : Grid
        The acquired grid.
    rng : Generator
        Random stream.

    Returns
    -------
    Course
        The first volume is b = 0 and at rest; further b = 0 are spread over the run.
    """
    n = settings.n_directions + settings.n_b0
    b0_at = np.linspace(0, n - 1, settings.n_b0 + 1)[:-1].round().astype(int)
    weighted = np.ones(n, dtype=bool)
    weighted[b0_at] = False
    b_values = np.where(weighted, settings.b_value_s_mm2, 0.0)
    directions = np.zeros((n, 3))
    directions[weighted] = gradient_directions(settings.n_directions)
    translations = _wander(rng, n, settings.max_motion_mm)
    rotations = _wander(rng, n, settings.max_motion_deg)
    poses = np.stack(
        [rigid_matrix(t, r, grid.centre_mm) for t, r in zip(translations, rotations, strict=True)]
    )
    # Currents follow the gradient that made them, so the root of b; mixing is fixed by the coils.
    coupling = rng.uniform(-1, 1, (3, 4)) * settings.max_eddy / np.sqrt(3)
    eddy = np.sqrt(b_values / 1000)[:, None] * (directions @ coupling)
    eddy[:, 3] *= 100.0
    drops = []
    taken = rng.permutation(np.flatnonzero(weighted))
    n_slices = grid.shape[2]
    for number in range(settings.n_dropout_slices):
        volume = int(taken[number % len(taken)])
        at = int(rng.integers(n_slices // 4, 3 * n_slices // 4))
        drops.append((volume, at, float(rng.uniform(*DROPOUT_KEEPS))))
    return Course(b_values, directions, translations, rotations, poses, eddy, tuple(drops))


def _wander(rng: np.random.Generator, n: int, largest: float) -> Floats:
    """A slow drift with a few jumps, zero at the first volume, within the largest value."""
    steps = rng.normal(size=(n, 3))
    steps[rng.random(n) < 0.04] *= 6
    path = np.cumsum(steps, axis=0) + 0.5 * rng.normal(size=(n, 3))
    path -= path[0]
    return np.asarray(largest * path / np.maximum(np.abs(path).max(axis=0), 1e-9))


def _reposition(settings: PhantomSettings, rng: np.random.Generator, grid: Grid) -> Floats:
    shift = rng.uniform(-1, 1, 3) * settings.max_reposition_mm
    turn = rng.uniform(-1, 1, 3) * settings.max_reposition_deg
    return rigid_matrix(shift, turn, grid.centre_mm)


def lay_out_tissue(
    participant: Participant,
    anatomy: Anatomy,
    grid: Grid,
    t1w_to_dwi: Floats,
    effect_scale: float,
    person: Floats,
) -> Tissue:
    """Tissue and diffusivities of a person on a grid, in the pose of the reference volume.

    Parameters
    ----------
    participant : Participant
        Kind and severity.
    anatomy : Anatomy
        The person's head.
    grid : Grid
        Where, in the world of the diffusion scan.
    t1w_to_dwi : (4, 4) array
        Head pose between the scans, mm.
    effect_scale : float
        Factor on the disease effect.
    person : (2,) array
        The person's own factors on FA and MD.

    Returns
    -------
    Tissue
        On `grid`.
    """
    tracts = build_tracts()
    dwi_to_t1w = np.asarray(np.linalg.inv(t1w_to_dwi), dtype=np.float64)
    sample = anatomy.sample_grid(grid, dwi_to_t1w)
    severity = participant.severity * effect_scale
    fa_map, md_map = person_maps(tracts, participant.kind, severity, person)
    at = np.flatnonzero(sample.white + sample.grey > 0.01)
    parts = []
    for some in np.array_split(at, max(1, len(at) // SLAB_POINTS)):
        voxels = np.stack(np.unravel_index(some, grid.shape), -1).astype(np.float64)
        points = transform_points(dwi_to_t1w @ grid.affine, voxels)
        there = anatomy.deformation.to_template(points)
        fa, md, *flat = (
            sample_map(m, tracts.to_world, there) for m in (fa_map, md_map, *tracts.dyads)
        )
        # Jacobian of person to template; its rotation carries directions the other way back.
        turn = polar_rotation(anatomy.deformation.jacobian(points) @ dwi_to_t1w[:3, :3])
        turned = rotate_dyads(np.stack(flat), np.swapaxes(turn, -1, -2))
        parts.append(np.stack([*axisymmetric(fa, md), *turned]))
    along, across, *dyads = np.concatenate(parts, axis=1)
    return Tissue(sample, at, np.stack(dyads), along, across)


def person_maps(
    tracts: Tracts, kind: str, severity: float, person: Floats
) -> tuple[Single, Single]:
    """FA and MD of one person's white matter in template space.

    Parameters
    ----------
    tracts : Tracts
        Healthy maps and effects.
    kind : {"hc", "fast", "slow"}
        Which effect.
    severity : float
        Its size, 0 for none.
    person : (2,) array
        The person's own factors on FA and MD.

    Returns
    -------
    fa, md : (i, j, k) array of float32
        Dimensionless, and mm2/s.
    """
    none = np.zeros_like(tracts.fa)
    fa_change, md_change = {
        "hc": (none, none),
        "fast": (tracts.fast_fa, tracts.fast_md),
        "slow": (tracts.slow_fa, none),
    }[kind]
    fa = np.clip(tracts.fa * person[0] * (1 + severity * fa_change), 0.05, 0.95)
    md = MD_WHITE * person[1] * (1 + severity * md_change)
    return fa.astype(np.float32), md.astype(np.float32)


def rotate_dyads(dyads: Single, rotation: Floats) -> Single:
    r"""Dyads under a rotation of space.

    Parameters
    ----------
    dyads : (6, n) array
        xx, yy, zz, xy, xz, yz.
    rotation : (n, 3, 3) array
        Rotations :math:`R`.

    Returns
    -------
    (6, n) array of float32
        :math:`R N R^T`.
    """
    xx, yy, zz, xy, xz, yz = dyads
    full = np.stack([np.stack(r, -1) for r in ((xx, xy, xz), (xy, yy, yz), (xz, yz, zz))], -2)
    turned = rotation @ full @ np.swapaxes(rotation, -1, -2)
    pairs = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
    return np.stack([turned[..., a, b] for a, b in pairs]).astype(np.float32)


def rest_signal(tissue: Tissue, b_value: float, direction: Floats) -> Single:
    r"""Noise-free signal over white matter's at b = 0, head at rest.

    Parameters
    ----------
    tissue : Tissue
        The head.
    b_value : float
        In s/mm2.
    direction : (3,) array
        Unit gradient direction as the head sees it.

    Returns
    -------
    (i, j, k) array of float32
        Dimensionless.

    Notes
    -----
    :math:`\sum_c f_c S_c e^{-b\, g^T D_c g}` over white matter, grey matter, fluid and the rest;
    :math:`g^T D g = d_\perp + (d_\parallel - d_\perp)\, g^T N g` for the dyad :math:`N`.
    """
    x, y, z = direction
    weights = np.array([x * x, y * y, z * z, 2 * x * y, 2 * x * z, 2 * y * z], dtype=np.float32)
    lean = np.tensordot(weights, tissue.dyads, axes=1)
    b = np.float32(b_value)
    white = np.exp(-b * (tissue.across + (tissue.along - tissue.across) * lean))
    grey_along, grey_across = axisymmetric(
        np.full(1, FA_GREY, np.float32), np.full(1, MD_GREY, np.float32)
    )
    grey = np.exp(-b * (grey_across + (grey_along - grey_across) * lean))
    s = tissue.sample
    total = s.fluid * np.float32(S0_FLUID * np.exp(-b_value * MD_FLUID))
    total += s.other_t2 * np.float32(np.exp(-b_value * MD_OTHER))
    total.reshape(-1)[tissue.at] += s.white.reshape(-1)[tissue.at] * white * np.float32(
        S0_WHITE
    ) + s.grey.reshape(-1)[tissue.at] * grey * np.float32(S0_GREY)
    return np.asarray(total)


def carry(signal: Single, fine: Grid, grid: Grid, course: Course, volume: int) -> Single:
    """Signal at rest on half voxels to the voxels of a moved and distorted volume.

    Parameters
    ----------
    signal : (2i, 2j, 2k) array
        At rest, on `fine`.
    fine, grid : Grid
        Half-voxel and acquired grid.
    course : Course
        Motion and distortion.
    volume : int
        Which volume.

    Returns
    -------
    (i, j, k) array of float32
        Signal on `grid`.

    Notes
    -----
    The voxel at y along phase encoding shows what lies at y (1 + scale) + shears + shift from
    the centre; the signal is multiplied by 1 + scale, for it is squeezed, not lost.
    """
    blurred = ndimage.uniform_filter(signal, 2, origin=0, mode="nearest")
    pull = volume_pull(course, volume, grid)
    matrix = np.linalg.inv(fine.affine) @ pull @ grid.affine
    # A box of two half voxels sits half of a half voxel below its centre.
    offset = matrix[:3, 3] + 0.5
    moved = ndimage.affine_transform(
        blurred, matrix[:3, :3], offset, output_shape=grid.shape, order=1, mode="constant"
    )
    return np.asarray(moved * np.float32(1 + course.eddy[volume, 0]))


def volume_pull(course: Course, volume: int, grid: Grid) -> Floats:
    """Affine from a voxel's world position to the rest position it shows.

    Parameters
    ----------
    course : Course
        Motion and distortion.
    volume : int
        Which volume.
    grid : Grid
        Its axes are the scanner's; distortion runs along the second.

    Returns
    -------
    (4, 4) array
        World to world, mm: distortion first, then the motion undone.
    """
    axes = grid.affine[:3, :3] / np.linalg.norm(grid.affine[:3, :3], axis=0)
    to_scanner = np.eye(4)
    to_scanner[:3, :3] = axes.T
    to_scanner[:3, 3] = -axes.T @ grid.centre_mm
    scale, shear_x, shear_z, shift = course.eddy[volume]
    distortion = np.eye(4)
    distortion[1] = [shear_x, 1 + scale, shear_z, shift]
    eddy = np.linalg.inv(to_scanner) @ distortion @ to_scanner
    return np.asarray(np.linalg.inv(course.poses[volume]) @ eddy)


def tensor_truth(tissue: Tissue, grid: Grid, b_value: float) -> dict[str, Single]:
    """Scalars of the tensor that best describes the noise-free signal at rest.

    Parameters
    ----------
    tissue : Tissue
        On the half-voxel grid.
    grid : Grid
        The acquired grid.
    b_value : float
        Weighting at which mixed voxels are described, s/mm2.

    Returns
    -------
    dict of array
        ``fa``, ``md``, ``ad``, ``rd`` (mm2/s) and ``v1`` (i, j, k, 3), a unit vector in the world
        frame. Zero outside brain and fluid.

    Notes
    -----
    Least squares on the logarithm over 20 even directions. In a voxel of one tissue it is that
    tissue's tensor; in a mixed voxel there is no other tensor to recover than this.
    """
    directions = gradient_directions(TRUTH_DIRECTIONS)
    start = np.log(np.maximum(block_mean(rest_signal(tissue, 0.0, np.zeros(3))), 1e-6))
    x, y, z = directions.T
    design = np.stack([x * x, y * y, z * z, 2 * x * y, 2 * x * z, 2 * y * z], 1) * b_value
    solve = np.linalg.pinv(design).astype(np.float32)
    six = np.zeros((6, *grid.shape), dtype=np.float32)
    for number, direction in enumerate(directions):
        after = block_mean(rest_signal(tissue, b_value, direction))
        drop = start - np.log(np.maximum(after, 1e-6))
        six += solve[:, number, None, None, None] * drop
    sample = tissue.sample
    head = block_mean(sample.white + sample.grey + sample.fluid) > 0.5
    return _scalars(six, head)


def block_mean(values: Single) -> Single:
    """Mean of the eight half voxels of each voxel.

    Parameters
    ----------
    values : (2i, 2j, 2k) array
        On the half-voxel grid.

    Returns
    -------
    (i, j, k) array
        On the acquired grid.

    Examples
    --------
    >>> block_mean(np.arange(8.0).reshape(2, 2, 2))
    array([[[3.5]]])
    """
    i, j, k = (n // 2 for n in values.shape)
    return np.asarray(values.reshape(i, 2, j, 2, k, 2).mean(axis=(1, 3, 5)))


def _scalars(six: Single, head: NDArray[np.bool_]) -> dict[str, Single]:
    xx, yy, zz, xy, xz, yz = six[:, head].astype(np.float64)
    full = np.stack([np.stack(r, -1) for r in ((xx, xy, xz), (xy, yy, yz), (xz, yz, zz))], -2)
    values, vectors = np.linalg.eigh(full)
    mean = values.mean(-1)
    spread = np.sqrt(1.5 * ((values - mean[:, None]) ** 2).sum(-1))
    size = np.sqrt((values**2).sum(-1))
    scalars = {
        "fa": spread / np.maximum(size, 1e-12),
        "md": mean,
        "ad": values[:, 2],
        "rd": values[:, :2].mean(-1),
    }
    maps = {}
    for name, inside in scalars.items():
        maps[name] = np.zeros(head.shape, dtype=np.float32)
        maps[name][head] = inside
    maps["v1"] = np.zeros((*head.shape, 3), dtype=np.float32)
    maps["v1"][head] = vectors[..., 2]
    return maps


def _raw_image(
    images: NDArray[np.int16], grid: Grid, course: Course, settings: PhantomSettings
) -> SimulatedImage:
    voxels, affine = store(images, grid, settings)
    bvecs = world_to_bvecs(course.directions, affine)
    lines = [" ".join(f"{v:.8f}" for v in row) for row in bvecs]
    return SimulatedImage(
        "dwi",
        f"{LEAD}dwi",
        voxels,
        affine,
        _sidecar(grid, settings),
        texts={
            ".bval": " ".join(f"{b:g}" for b in course.b_values) + "\n",
            ".bvec": "\n".join(lines) + "\n",
        },
        repetition_s=REPETITION_S,
    )


def _sidecar(grid: Grid, settings: PhantomSettings) -> dict[str, object]:
    n_slices = grid.shape[2]
    order = np.concatenate([np.arange(0, n_slices, 2), np.arange(1, n_slices, 2)])
    times = np.empty(n_slices)
    times[order] = np.arange(n_slices) * REPETITION_S / n_slices
    return {
        "Modality": "MR",
        "Manufacturer": "Simulated",
        "MagneticFieldStrength": 3,
        "MRAcquisitionType": "2D",
        "PulseSequenceType": "Spin echo EPI",
        "ScanningSequence": "EP",
        "SequenceVariant": "SK",
        "EchoTime": ECHO_S,
        "RepetitionTime": REPETITION_S,
        "FlipAngle": 90,
        "SliceThickness": settings.dwi_mm,
        "PhaseEncodingDirection": stored_axis(1, -1, settings),
        "EffectiveEchoSpacing": ECHO_SPACING_S,
        "TotalReadoutTime": round(ECHO_SPACING_S * (grid.shape[1] - 1), 6),
        "SliceEncodingDirection": stored_axis(2, 1, settings),
        "SliceTiming": [round(t, 5) for t in times.tolist()],
        "BodyPart": "BRAIN",
    }


def _truth(
    anatomy: Anatomy,
    tissue: Tissue,
    fine: Grid,
    grid: Grid,
    course: Course,
    settings: PhantomSettings,
    t1w_to_dwi: Floats,
) -> tuple[SimulatedImage, ...]:
    del fine
    coarse = HeadSample(
        **{n: block_mean(getattr(tissue.sample, n)) for n in HeadSample.__dataclass_fields__}
    )
    images = list(tissue_truth("dwi", LEAD, coarse, grid, settings))
    tables = {
        f"{LEAD}desc-motion_timeseries": motion_table(course, grid),
        f"{LEAD}desc-pose_stats": pose_table(t1w_to_dwi, DWI_IMAGE),
        f"{LEAD}desc-landmarks_stats": landmark_table(anatomy, t1w_to_dwi, "dwi", DWI_IMAGE),
        f"{LEAD}desc-dropouts_stats": dropout_table(course, grid, settings),
    }
    units = {"fa": "1", "md": "mm2/s", "ad": "mm2/s", "rd": "mm2/s", "v1": "1"}
    for name, values in tensor_truth(tissue, grid, settings.b_value_s_mm2).items():
        voxels, affine = store(values, grid, settings)
        frame = " Components along world x, y, z (RAS+)." if name == "v1" else ""
        sidecar: dict[str, object] = {
            "Description": "Tensor of the noise-free, undistorted signal at rest." + frame,
            "Units": units[name],
            "SkullStripped": False,
        }
        tail = f"{LEAD}model-tensor_param-{name}_desc-truth_dwimap"
        images.append(SimulatedImage("dwi", tail, voxels, affine, sidecar, tables=tables))
        tables = {}
    return tuple(images)


def motion_table(course: Course, grid: Grid) -> Table:
    """Motion and distortion of every volume.

    Parameters
    ----------
    course : Course
        What happened.
    grid : Grid
        The acquired grid.

    Returns
    -------
    Table
        One row per volume.
    """
    columns: dict[str, tuple[str, str]] = {"b_value": ("Diffusion weighting.", "s/mm2")}
    for a in "xyz":
        columns[f"gradient_{a}"] = (f"Gradient direction, world {a} (RAS+).", "1")
    for a in "xyz":
        columns[f"trans_{a}"] = (f"Head translation along world {a} from the first volume.", "mm")
    for a in "xyz":
        columns[f"rot_{a}"] = (
            f"Head rotation about world {a}; x first, then y, z, about the middle of the field of "
            f"view at {np.round(grid.centre_mm, 4).tolist()} mm.",
            "deg",
        )
    for name, text, unit in (
        ("eddy_scale", "Eddy-current scaling along phase encoding.", "1"),
        ("eddy_shear_x", "Eddy-current shear with the first scanner axis.", "1"),
        ("eddy_shear_z", "Eddy-current shear with the slice axis.", "1"),
        ("eddy_shift", "Eddy-current shift along phase encoding (posterior to anterior).", "mm"),
    ):
        columns[name] = (text, unit)
    for row in range(3):
        for column in range(4):
            columns[f"pull_{row}{column}"] = (
                "Matrix from the world position of a voxel of this volume to the position of the "
                "tissue it shows in the first volume, motion and distortion together.",
                "mm" if column == 3 else "1",
            )
    rows = []
    for v in range(len(course.b_values)):
        pull = volume_pull(course, v, grid)[:3].ravel()
        numbers = np.concatenate(
            [
                course.b_values[v : v + 1], course.directions[v], course.translations_mm[v],
                course.rotations_deg[v], course.eddy[v], pull,
            ]
        )  # fmt: skip
        rows.append(tuple((np.round(numbers, 8) + 0.0).tolist()))
    return Table(
        tuple(columns),
        tuple(rows),
        {name: {"Description": text, "Units": unit} for name, (text, unit) in columns.items()},
    )


def dropout_table(course: Course, grid: Grid, settings: PhantomSettings) -> Table:
    """Slices that lost signal, as stored.

    Parameters
    ----------
    course : Course
        What happened.
    grid : Grid
        The acquired grid.
    settings : PhantomSettings
        Storage.

    Returns
    -------
    Table
        Volume, slice along the stored slice axis, kept share.
    """
    backwards = stored_axis(2, 1, settings).endswith("-")
    return Table(
        ("volume", "slice", "kept"),
        tuple(
            (v, grid.shape[2] - 1 - s if backwards else s, round(kept, 4))
            for v, s, kept in course.dropouts
        ),
        {
            "volume": {"Description": "Volume, from 0.", "Units": "1"},
            "slice": {
                "Description": "Index along the stored slice axis "
                f"({stored_axis(2, 1, settings)[0]}), from 0.",
                "Units": "1",
            },
            "kept": {"Description": "Share of the signal that is left.", "Units": "1"},
        },
    )
