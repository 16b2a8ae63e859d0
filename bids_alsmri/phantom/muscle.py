"""Simulated whole-body stations of muscle: coronal T2w, axial diffusion, T1w of legs and hands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bids_alsmri.phantom.anat import rician
from bids_alsmri.phantom.cohort import stream
from bids_alsmri.phantom.geometry import Grid, store
from bids_alsmri.phantom.muscle_scene import (
    AIR,
    CORTEX,
    FAT,
    MARROW,
    MUSCLE,
    SOFT,
    Body,
    Muscle,
    Rendered,
    make_body,
    render,
)
from bids_alsmri.phantom.records import (
    MuscleSettings,
    Participant,
    PhantomSettings,
    SimulatedImage,
    Simulation,
    Table,
)

# signal over that of fatty marrow, by tissue; muscles of the T2w differ
_T2W = {FAT: 1.0, MUSCLE: 0.3, CORTEX: 0.02, MARROW: 1.0, SOFT: 0.5}
_T1W = {FAT: 1.0, MUSCLE: 0.3, CORTEX: 0.02, MARROW: 0.95, SOFT: 0.35}
# of the b=0 image over that of muscle; fat and marrow are suppressed to what is left of them
_B0 = {FAT: 1.0, MUSCLE: 1.0, CORTEX: 0.02, MARROW: 1.0, SOFT: 1.2}
_ADC_MM2_S = {FAT: 0.05e-3, MUSCLE: 1.6e-3, CORTEX: 0.5e-3, MARROW: 0.2e-3, SOFT: 0.9e-3}
_T2W_SCALE, _DWI_SCALE, _T1W_SCALE = 800.0, 900.0, 800.0
_HEALTHY_T2, _HEALTHY_ADC = 0.28, 1.6e-3
# relaxation times, in ms (muscle: healthy; Gold et al. 2004, doi:10.2214/ajr.183.2.1830343, at 3 T:
# muscle 32, fat under the skin 133, marrow fat 133), and signal of protons at no time over muscle's
_T2_MS = {FAT: 133.0, MUSCLE: 32.0, CORTEX: 1.0, MARROW: 133.0, SOFT: 45.0}
_PROTONS = {FAT: 1.5, MUSCLE: 1.0, CORTEX: 0.05, MARROW: 1.5, SOFT: 1.0}
_ECHO_SPACING_MS = 10.0
# the first echo of a train lacks the stimulated ones
_FIRST_ECHO = 0.9
# opposed and in phase at 3 T, in s
_PHASES_S = (0.00117, 0.00234)
_LEGS_MM = ((-450.0, -120.0), (-800.0, -500.0))
# between people and between muscles of one person
_T2_SPREAD, _ADC_SPREAD = 0.06, 0.04
_ACROSS_MM = (580.0, 250.0)
_FINE = 2
_FRAMES = {"body": "2.25.1001", "hands": "2.25.1002"}
_FROM_FRONT = "j-"

# Jenkins 2020, tables 1 and 5: patients over controls at baseline, and change after 4 and 12
# months, all in percent; (left, right) or of the midline. Where a value is not printed, 0.
_DIFFERENCE: Mapping[str, tuple[float, ...]] = {
    "tongue": (11.4,), "splenius capitis": (5.2,), "trapezius": (10.4, 0.6),
    "sternocleidomastoid": (7.9, 8.7), "deltoid": (12.6, 15.0), "biceps brachii": (11.6, 22.8),
    "triceps": (-20.0, 10.1), "forearm compartment": (3.2, -8.9),
    "first dorsal interosseous": (57.8, 24.7), "thenar": (24.1, 20.5),
    "hypothenar": (26.5, 31.3), "thoracic paraspinal": (26.1, 26.9), "psoas": (1.3, 4.6),
    "gluteus maximus": (15.7, 12.1), "quadriceps": (42.1, 37.9), "hamstrings": (33.7, 36.3),
    "tibialis anterior": (71.4, 30.4), "gastrocnemius and soleus": (37.8, 37.6),
}  # fmt: skip
_CHANGE: Mapping[str, tuple[tuple[float, float], ...]] = {
    "tongue": ((-4.8, -2.4),), "splenius capitis": ((4.2, -5.4),),
    "trapezius": ((-10.9, -1.7), (-6.9, 0.2)), "sternocleidomastoid": ((-4.4, -4.1), (-3.7, 0.3)),
    "deltoid": ((1.9, 4.6), (2.7, -4.8)), "biceps brachii": ((-3.5, -1.9), (-2.2, 11.3)),
    "triceps": ((0.0, 0.0), (-13.9, -22.3)), "forearm compartment": ((7.0, 9.9), (7.3, 10.4)),
    "first dorsal interosseous": ((0.0, 16.1), (18.4, 31.1)),
    "thenar": ((-8.7, -10.0), (14.4, 21.4)), "hypothenar": ((3.1, 2.3), (5.5, 13.8)),
    "thoracic paraspinal": ((1.6, 4.2), (-1.0, 16.7)), "psoas": ((-11.8, -15.7), (6.2, 35.7)),
    "gluteus maximus": ((-14.2, -14.8), (-3.0, 22.0)), "quadriceps": ((1.2, 11.4), (5.4, 18.8)),
    "hamstrings": ((1.9, 14.4), (-2.2, 17.4)), "tibialis anterior": ((4.1, 20.9), (10.7, 28.5)),
    "gastrocnemius and soleus": ((0.5, 18.7), (5.6, 18.9)),
}  # fmt: skip


def simulate(
    participant: Participant, settings: PhantomSettings, rng: np.random.Generator
) -> Simulation:
    """Scan the stations of one session.

    Parameters
    ----------
    participant : Participant
        Who is scanned.
    settings : PhantomSettings
        How.
    rng : Generator
        Random stream of this participant, session and modality.

    Returns
    -------
    Simulation
        Stations; labels of muscles, fatty marrow and a table of what muscles are as truth.
    """
    own = settings.muscle
    body = person(participant, settings)
    raw, truth, readers = [], [], [list[SimulatedImage]() for _ in range(own.readers)]
    shift = rng.uniform(-1, 1, 3) * own.max_shift_mm
    for chunk, z in enumerate(stations(own, own.n_t2w), start=1):
        scan = _scan_t2w(body, settings, chunk, z, rng)
        raw.append(scan[0])
        truth += scan[1:]
        for images in readers:
            images += [_as_read(scan[1], own, rng), scan[2]]
    for chunk, z in enumerate(stations(own, own.n_dwi), start=1):
        scan = _scan_dwi(body, settings, chunk, z, shift, rng)
        raw.append(scan[0])
        truth += scan[1:]
    for scan in _scan_t1w(body, settings, rng):
        raw.append(scan[0])
        truth += scan[1:]
    if own.dixon != "none" or own.n_echoes:
        for chunk, z in enumerate(_LEGS_MM, start=1):
            raw += _scan_echoes(body, settings, chunk, z, rng)
    truth[0].tables["desc-tissue_stats"] = tissue_table(body)
    return Simulation(tuple(raw), tuple(truth), tuple(tuple(images) for images in readers))


def person(participant: Participant, settings: PhantomSettings) -> Body:
    """Body of a participant at the time of a visit.

    Parameters
    ----------
    participant : Participant
        Who; patients have brighter muscles, more of it with every month, and fat in their legs.
    settings : PhantomSettings
        Give the seed, the scale of the disease's effect and the month.

    Returns
    -------
    Body
        The same at every visit but for the change of the disease.
    """
    own = settings.muscle
    rng = stream(settings.seed, participant, "muscle body")
    body = make_body(rng, spread=own.size_spread)
    is_patient = participant.group == "als"
    grade = participant.severity * settings.effect_scale if is_patient else 0.0
    general = rng.normal(1, _T2_SPREAD), rng.normal(1, _ADC_SPREAD / 2)
    muscles = []
    for number, muscle in enumerate(body.muscles):
        own_t2, own_adc = rng.normal(1, _T2_SPREAD), rng.normal(1, _ADC_SPREAD)
        pattern, share = _fat(muscle, rng.random(), grade)
        change = 1 + grade * relative_change(muscle.name, muscle.side, own.month)
        muscles.append(
            replace(
                muscle,
                relative_t2=float(_HEALTHY_T2 * general[0] * own_t2 * change),
                t2_ms=float(_T2_MS[MUSCLE] * general[0] * own_t2 * change),
                adc_mm2_s=float(_HEALTHY_ADC * general[1] * own_adc),
                pattern=pattern,
                fat_share=share,
                seed=1000 * settings.seed + number,
            )
        )
    return replace(body, muscles=tuple(muscles))


def relative_change(name: str, side: str, month: float) -> float:
    """What the disease adds to the T2-weighted signal of a muscle, as a share of controls'.

    Parameters
    ----------
    name, side : str
        Muscle.
    month : float
        Time since the first visit.

    Returns
    -------
    float
        As printed for 0, 4 and 12 months, linear between and beyond them.

    Examples
    --------
    >>> round(relative_change("tibialis anterior", "right", 0.0), 3)
    0.304
    >>> round(relative_change("tibialis anterior", "right", 12.0), 3)
    0.676
    """
    place = 1 if side == "right" else 0
    difference = _DIFFERENCE[name][place] / 100
    four, twelve = (value / 100 for value in _CHANGE[name][place])
    change = four * month / 4 if month <= 4 else four + (twelve - four) * (month - 4) / 8
    return (1 + difference) * (1 + change) - 1


def _fat(muscle: Muscle, chance: float, grade: float) -> tuple[str, float]:
    """Pattern and share of fat: none in the healthy, more in the legs of patients."""
    is_leg = muscle.name in (
        "quadriceps", "hamstrings", "tibialis anterior", "gastrocnemius and soleus"
    )  # fmt: skip
    burden = grade * chance * (1.0 if is_leg else 0.4)
    if burden < 0.3:
        return "none", 0.0
    if burden < 0.7:
        return "streaks", 0.04 + 0.1 * (burden - 0.3)
    if burden < 1.2:
        return "patches", 0.15 + 0.4 * (burden - 0.7)
    return "confluent", float(min(0.55 + 0.2 * (burden - 1.2), 0.8))


def stations(own: MuscleSettings, n: int) -> list[tuple[float, float]]:
    """Lower and upper end of stations of one length, from head to foot.

    Parameters
    ----------
    own : MuscleSettings
        Give the part of the body and the overlap.
    n : int
        How many.

    Returns
    -------
    list of (float, float)
        World z, in mm.

    Examples
    --------
    >>> stations(MuscleSettings(low_mm=-860, high_mm=-60, overlap_mm=20), 2)
    [(-470.0, -60.0), (-860.0, -450.0)]
    """
    if n == 0:
        return []
    length = (own.high_mm - own.low_mm + (n - 1) * own.overlap_mm) / n
    tops = [own.high_mm - i * (length - own.overlap_mm) for i in range(n)]
    return [(top - length, top) for top in tops]


def _grid(z_mm: tuple[float, float], voxel_mm: tuple[float, float, float], x_mm: float) -> Grid:
    """Grid about the midline that covers the width and depth of the body."""
    extent = (x_mm, _ACROSS_MM[1], z_mm[1] - z_mm[0])
    counts = [int(np.ceil(e / v - 1e-9)) for e, v in zip(extent, voxel_mm, strict=True)]
    affine = np.diag([*voxel_mm, 1.0])
    centre = np.array([0.0, 0.0, sum(z_mm) / 2])
    affine[:3, 3] = centre - (np.array(counts) - 1) / 2 * np.array(voxel_mm)
    return Grid((counts[0], counts[1], counts[2]), affine)


def _fine_axes(grid: Grid, shift: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Coordinates of points that part each voxel, in the body that is moved by a shift."""
    axes = []
    for axis, count in enumerate(grid.shape):
        edge = grid.affine[axis, axis]
        offsets = (np.arange(_FINE * count) + 0.5) / _FINE - 0.5
        axes.append(grid.affine[axis, 3] + edge * offsets - shift[axis])
    return tuple(axes)


def _corners(fine: NDArray[np.generic]) -> list[NDArray[np.generic]]:
    """The points that part each voxel, as one array of the voxels' shape for each."""
    starts = range(_FINE)
    return [fine[i::_FINE, j::_FINE, k::_FINE] for i in starts for j in starts for k in starts]


def _averaged(fine: NDArray[np.float32]) -> NDArray[np.float32]:
    total = np.add.reduce([np.asarray(corner, np.float32) for corner in _corners(fine)])
    return np.asarray(total / np.float32(_FINE**3), np.float32)


def _look_up(
    body: Body, seen: Rendered, by_tissue: Mapping[int, float], name: str
) -> NDArray[np.float32]:
    """Value of every fine point: of its tissue, or of the tissue of its muscle."""
    table = np.zeros(max(by_tissue) + 1, np.float32)
    table[list(by_tissue)] = list(by_tissue.values())
    values = table[seen.tissue]
    if name:
        own = np.full(1000, by_tissue[MUSCLE], np.float32)
        for muscle in body.muscles:
            own[muscle.index] = getattr(muscle, name)
        is_muscle = seen.tissue == MUSCLE
        values[is_muscle] = own[seen.label[is_muscle]]
    return values


def _majority(seen: Rendered) -> NDArray[np.int16]:
    """Muscle that fills most of each voxel, 0 where none fills more than half."""
    corners = _corners(seen.label)
    found = np.zeros(corners[0].shape, np.int16)
    for candidate in (np.maximum.reduce(corners), np.minimum.reduce(corners)):
        counts = sum((corner == candidate).astype(np.int8) for corner in corners)
        found[counts * 2 > _FINE**3] = candidate[counts * 2 > _FINE**3]
    return found


def _pure(seen: Rendered, tissue: int) -> NDArray[np.bool_]:
    return np.asarray(np.logical_and.reduce([c == tissue for c in _corners(seen.tissue)]))


def _receive(grid: Grid, own: MuscleSettings, rng: np.random.Generator) -> NDArray[np.float32]:
    """Gain of a station and its receive field, which falls off to its ends or sides."""
    gain = 1 + own.gain_spread * rng.uniform(-1, 1)
    field = np.zeros(grid.shape, np.float32)
    for axis, count in enumerate(grid.shape):
        # half a wave along a station: the field is smooth on the scale of a coil
        phase = rng.uniform(0, 2 * np.pi)
        wave = np.cos(np.pi * np.arange(count) / max(count - 1, 1) + phase)
        weight = 0.6 if axis == 2 else 0.2
        field += (weight * wave).reshape([-1 if a == axis else 1 for a in range(3)])
    return np.asarray(gain * (1 + own.bias * field), np.float32)


@dataclass(frozen=True)
class SeenStation:
    """A T2w station as scanned, with what it was made from, on one grid.

    Parameters
    ----------
    image : (X, Y, Z) array of int16
        As reconstructed.
    field : (X, Y, Z) array
        Receive field, the station's gain in it.
    labels : (X, Y, Z) array of int16
        Muscles.
    marrow : (X, Y, Z) array of bool
        Voxels of fatty marrow alone.
    affine : (4, 4) array
        Voxel to world, in mm.
    """

    image: NDArray[np.int16]
    field: NDArray[np.float32]
    labels: NDArray[np.int16]
    marrow: NDArray[np.bool_]
    affine: NDArray[np.float64]


def scan_with_truth(
    body: Body, own: MuscleSettings, z_mm: tuple[float, float], rng: np.random.Generator
) -> SeenStation:
    """T2w station of a body with its receive field, for benchmarks that need no files.

    Parameters
    ----------
    body : Body
        Who is scanned.
    own : MuscleSettings
        How.
    z_mm : (float, float)
        Lower and upper end of the station.
    rng : Generator
        Random stream.

    Returns
    -------
    SeenStation
        Along x, y and z, all rising.
    """
    grid, seen, field, image = _seen_t2w(body, own, z_mm, rng)
    return SeenStation(image, field, _majority(seen), _pure(seen, MARROW), grid.affine)


def _seen_t2w(
    body: Body, own: MuscleSettings, z_mm: tuple[float, float], rng: np.random.Generator
) -> tuple[Grid, Rendered, NDArray[np.float32], NDArray[np.int16]]:
    """Grid, tissues, receive field and image of a T2w station."""
    grid = _grid(z_mm, (own.t2w_mm, own.t2w_slice_mm, own.t2w_mm), _ACROSS_MM[0])
    seen = render(body, *_fine_axes(grid, np.zeros(3)))
    signal = _averaged(_look_up(body, seen, _T2W, "relative_t2"))
    field = _receive(grid, own, rng)
    return grid, seen, field, _noisy(signal * field, own.t2w_snr, _T2W_SCALE, rng)


def _scan_t2w(
    body: Body,
    settings: PhantomSettings,
    chunk: int,
    z: tuple[float, float],
    rng: np.random.Generator,
) -> list[SimulatedImage]:
    own = settings.muscle
    grid, seen, _, image = _seen_t2w(body, own, z, rng)
    tail = f"acq-wholebody_chunk-{chunk}"
    sidecar = {**_common("body", z), "EchoTime": 0.08, "RepetitionTime": 1.107}
    # coronal slices: stored right, up, front
    coronal = replace(settings, axis_order="RSA", determinant="positive")
    return [
        _stored("anat", f"{tail}_T2w", image, grid, coronal, sidecar),
        *_labels("anat", tail, seen, grid, coronal),
    ]


def _scan_dwi(
    body: Body,
    settings: PhantomSettings,
    chunk: int,
    z: tuple[float, float],
    shift: NDArray[np.float64],
    rng: np.random.Generator,
) -> list[SimulatedImage]:
    own = settings.muscle
    grid = _grid(z, (own.dwi_mm, own.dwi_mm, own.dwi_slice_mm), _ACROSS_MM[0])
    seen = render(body, *_fine_axes(grid, shift))
    water = dict(_B0)
    water[FAT] = water[MARROW] = 0.0
    fat = {t: own.fat_residual * _B0[t] if t in (FAT, MARROW) else 0.0 for t in _B0}
    b0, fat_b0 = (_look_up(body, seen, table, "") for table in (water, fat))
    adc = _look_up(body, seen, _ADC_MM2_S, "adc_mm2_s")
    gain = _receive(grid, own, rng)
    n_shift = round(own.fat_shift_mm / own.dwi_mm)
    volumes = []
    for b in own.b_values_s_mm2:
        decay = np.exp(-b * adc)
        displaced = np.roll(_averaged(fat_b0 * decay), n_shift, axis=1)
        signal = (_averaged(b0 * decay) + displaced) * gain
        volumes.append(_noisy(signal, own.dwi_snr, _DWI_SCALE, rng))
    tail = f"acq-wholebody_chunk-{chunk}"
    sidecar = {
        **_common("body", z),
        "EchoTime": 0.066,
        "RepetitionTime": 9.412,
        "MagneticFieldStrength": 3,
        "PhaseEncodingDirection": _FROM_FRONT,
        # water and fat of 3 T are 440 Hz apart; this readout moves fat by the shift
        "TotalReadoutTime": abs(own.fat_shift_mm) / own.dwi_mm / 440.0,
    }
    axial = replace(settings, axis_order="RAS", determinant="negative")
    image = _stored("dwi", f"{tail}_dwi", np.stack(volumes, axis=-1), grid, axial, sidecar)
    values = " ".join(f"{b:g}" for b in own.b_values_s_mm2)
    zeros = " ".join("0" for _ in own.b_values_s_mm2)
    image = replace(
        image,
        texts={".bval": values + "\n", ".bvec": "\n".join([zeros] * 3) + "\n"},
        repetition_s=9.412,
    )
    return [image, *_labels("dwi", tail, seen, grid, axial)]


def _scan_t1w(
    body: Body, settings: PhantomSettings, rng: np.random.Generator
) -> list[list[SimulatedImage]]:
    own = settings.muscle
    plans: list[tuple[str, tuple[float, float], tuple[float, float, float], str, str]] = []
    if own.legs:
        voxel = (own.legs_mm, own.legs_mm, own.legs_slice_mm)
        # one gap for the knees
        plans += [
            (f"acq-legs_chunk-{chunk}", z, voxel, "body", "RAS")
            for chunk, z in enumerate(_LEGS_MM, start=1)
        ]
    if own.hands:
        coronal = (own.legs_mm, 3.0, own.legs_mm)
        plans.append(("acq-hands", (-210.0, -40.0), coronal, "hands", "RSA"))
    scans = []
    for tail, z, voxel, frame, order in plans:
        width = 400.0 if "legs" in tail else _ACROSS_MM[0]
        grid = _grid(z, voxel, width)
        seen = render(body, *_fine_axes(grid, np.zeros(3)))
        signal = _averaged(_look_up(body, seen, _T1W, ""))
        image = _noisy(signal * _receive(grid, own, rng), own.t2w_snr, _T1W_SCALE, rng)
        sidecar = {**_common(frame, z), "EchoTime": 0.012, "RepetitionTime": 0.55}
        kept = replace(settings, axis_order=order, determinant="positive")
        raw = _stored("anat", f"{tail}_T1w", image, grid, kept, sidecar)
        scans.append([raw, *_labels("anat", tail, seen, grid, kept)])
    return scans


def _scan_echoes(
    body: Body,
    settings: PhantomSettings,
    chunk: int,
    z: tuple[float, float],
    rng: np.random.Generator,
) -> list[SimulatedImage]:
    """Water and fat, and a train of echoes, of the legs."""
    own = settings.muscle
    grid = _grid(z, (own.legs_mm, own.legs_mm, own.legs_slice_mm), 400.0)
    seen = render(body, *_fine_axes(grid, np.zeros(3)))
    gain = _receive(grid, own, rng)
    kept = replace(settings, axis_order="RAS", determinant="positive")
    is_fat = np.isin(seen.tissue, (FAT, MARROW))
    protons = _look_up(body, seen, {AIR: 0.0, **_PROTONS}, "")
    parts = {
        "water": _averaged(np.where(is_fat, np.float32(0), protons)),
        "fat": _averaged(np.where(is_fat, protons, np.float32(0))),
    }
    images: list[tuple[str, NDArray[np.float32], dict[str, object]]] = []
    if own.dixon == "parts":
        images += [(f"acq-legs_rec-{n}_chunk-{chunk}_T1w", v, {}) for n, v in parts.items()]
    elif own.dixon == "phases":
        phases = (np.abs(parts["water"] - parts["fat"]), parts["water"] + parts["fat"])
        for number, (echo_s, values) in enumerate(zip(_PHASES_S, phases, strict=True), start=1):
            sidecar: dict[str, object] = {"EchoTime": echo_s, "MagneticFieldStrength": 3}
            images.append((f"acq-legs_echo-{number}_chunk-{chunk}_MEGRE", values, sidecar))
    times = _look_up(body, seen, {AIR: 1.0, **_T2_MS}, "t2_ms") if own.n_echoes else None
    for number in range(1, own.n_echoes + 1):
        echo_ms = number * _ECHO_SPACING_MS
        values = _averaged(protons * np.exp(-echo_ms / np.asarray(times, np.float32)))
        values = values * np.float32(_FIRST_ECHO if number == 1 else 1.0)
        images.append(
            (f"acq-legs_echo-{number}_chunk-{chunk}_MESE", values, {"EchoTime": echo_ms / 1000})
        )
    return [
        _stored(
            "anat", tail, _noisy(values * gain, own.t2w_snr, _T1W_SCALE / 2, rng), grid, kept,
            {**_common("body", z), **sidecar},
        )
        for tail, values, sidecar in images
    ]  # fmt: skip


def _common(frame: str, z: tuple[float, float]) -> dict[str, object]:
    return {
        "Manufacturer": "simulated",
        "FrameOfReferenceUID": _FRAMES[frame],
        "BodyPart": _body_part(sum(z) / 2) if frame == "body" else "HAND",
    }


def _body_part(z: float) -> str:
    for upper, name in ((-485, "LEG"), (-60, "THIGH"), (160, "PELVIS"), (480, "CHEST")):
        if z < upper:
            return name
    return "HEAD"


def _noisy(
    signal: NDArray[np.float32], snr: float, scale: float, rng: np.random.Generator
) -> NDArray[np.int16]:
    sigma = scale / snr if snr > 0 else 0.0
    noisy = rician(signal * np.float32(scale), sigma, rng)
    return np.round(noisy).clip(0, 32767).astype(np.int16)


def _stored(
    folder: str,
    tail: str,
    values: NDArray[np.generic],
    grid: Grid,
    settings: PhantomSettings,
    sidecar: dict[str, object],
) -> SimulatedImage:
    stored, affine = store(values, grid, settings)
    return SimulatedImage(folder, tail, stored, affine, sidecar)


def _labels(
    folder: str, lead: str, seen: Rendered, grid: Grid, settings: PhantomSettings
) -> list[SimulatedImage]:
    """Muscles and fatty marrow of a station."""
    labels = _majority(seen)
    marrow = _pure(seen, MARROW).astype(np.uint8)
    muscles = _stored(
        folder, f"{lead}_desc-muscles_dseg", labels, grid, settings,
        {"Description": "Muscle that fills most of the voxel"},
    )  # fmt: skip
    rows = sorted({(m.index, m.name, m.side) for m in make_body().muscles})
    names = [f"{i}\t{n if s == 'midline' else f'{s} {n}'}" for i, n, s in rows]
    bone = _stored(
        folder, f"{lead}_label-bone_desc-ref_mask", marrow, grid, settings,
        {"Description": "Fatty marrow", "Type": "ROI"},
    )  # fmt: skip
    return [replace(muscles, texts={".tsv": "\n".join(["index\tname", *names, ""])}), bone]


def tissue_table(body: Body) -> Table:
    """What the muscles of a body are made of.

    Parameters
    ----------
    body : Body
        Of a participant at a visit.

    Returns
    -------
    Table
        One row for each muscle.

    Examples
    --------
    >>> tissue_table(make_body()).columns[:3]
    ('index', 'name', 'side')
    """
    columns = ("index", "name", "side", "relative_t2", "t2", "adc", "fat_share", "pattern")
    rows = tuple(
        (m.index, m.name, m.side, m.relative_t2, m.t2_ms, m.adc_mm2_s, m.fat_share, m.pattern)
        for m in body.muscles
    )
    sidecar: dict[str, object] = {
        "relative_t2": {"Description": "T2-weighted signal over fatty marrow's", "Units": "1"},
        "t2": {"Description": "Transverse relaxation time of its water", "Units": "ms"},
        "adc": {"Description": "Apparent diffusion coefficient", "Units": "mm2/s"},
        "fat_share": {"Description": "Share of the volume that is fat", "Units": "1"},
        "pattern": {"Description": "How the fat lies"},
    }
    return Table(columns, rows, sidecar)


def _as_read(
    truth: SimulatedImage, own: MuscleSettings, rng: np.random.Generator
) -> SimulatedImage:
    """Labels as a reader would draw them: every voxel takes the label of a place nearby."""
    voxel_mm = np.linalg.norm(truth.affine[:3, :3], axis=0)
    labels = perturbed(truth.values, voxel_mm, own.reader_sd_mm, rng)
    return replace(truth, values=labels, tables={})


def perturbed(
    labels: NDArray[np.generic],
    voxel_mm: NDArray[np.float64],
    sd_mm: float,
    rng: np.random.Generator,
) -> NDArray[np.int16]:
    """Labels whose outlines stray smoothly.

    Parameters
    ----------
    labels : (i, j, k) array
        Labels.
    voxel_mm : (3,) array
        Edges of a voxel, in mm.
    sd_mm : float
        Standard deviation of the displacement along each axis, in mm.
    rng : Generator
        Random stream.

    Returns
    -------
    (i, j, k) array of int16
        Labels; displacements are alike over about 12 mm.
    """
    places = np.indices(labels.shape, dtype=np.float32)
    for axis in range(3):
        wild = rng.standard_normal(labels.shape, dtype=np.float32)
        smooth = ndimage.gaussian_filter(wild, 12.0 / voxel_mm, mode="wrap")
        # over the mean, too: a small image is displaced as a whole
        rms = max(float(np.sqrt(np.mean(smooth**2))), 1e-12)
        places[axis] += smooth * (sd_mm / voxel_mm[axis] / rms)
    moved = ndimage.map_coordinates(labels, places, order=0, mode="nearest")
    return np.asarray(moved, np.int16)
