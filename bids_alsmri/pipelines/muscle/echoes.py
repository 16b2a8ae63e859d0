"""Stations of several echoes: Dixon's water and fat, and transverse relaxation times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bids_alsmri.errors import DataError
from bids_alsmri.interfaces.base import ImageData, read_image
from bids_alsmri.numerics.echo_decay import fit_echo_decay
from bids_alsmri.numerics.fatty_replacement import (
    dixon_fat_fraction,
    dominant_fraction,
    water_and_fat,
)
from bids_alsmri.pipelines.muscle.compartments import SegmentedLegs, segment_legs
from bids_alsmri.pipelines.muscle.contrast import phase_of_echo
from bids_alsmri.pipelines.muscle.steps import Facts, noise_or_none

# share of the 99th percentile from which a voxel has signal
_SIGNAL_SHARE = 0.08
_LEAST_ECHOES = 2


@dataclass(frozen=True)
class Pair:
    """Two images of a station from which water and fat are told apart.

    Parameters
    ----------
    first, second : ImageData
        Water and fat, or the in-phase and the opposed echo.
    has_phases : bool
        Whether they are echoes and not water and fat.
    unused : tuple of Path
        Further echoes.
    """

    first: ImageData
    second: ImageData
    has_phases: bool
    unused: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Dixon:
    """Fat fraction of a station.

    Parameters
    ----------
    fat : (X, Y, Z) array of float32
        Share of fat in the signal; NaN where there is none.
    is_ambiguous : bool
        Whether fractions above one half come out as one less the fraction.
    legs : SegmentedLegs or None
        Legs of the image in which water and fat add; None where they are not looked for.
    warnings, notes : tuple of str
        For the report.
    """

    fat: NDArray[np.float32]
    is_ambiguous: bool
    legs: SegmentedLegs | None
    warnings: tuple[str, ...]
    notes: tuple[str, ...]


def read_pair(
    paths: Sequence[Path], metadata: Sequence[Mapping[str, Any]], parts: Sequence[str]
) -> Pair:
    """Water and fat, or the two phases, among the files of a station.

    Parameters
    ----------
    paths : sequence of Path
        Images.
    metadata : sequence of mapping
        Their sidecars.
    parts : sequence of str
        What the name of each tells (water, fat, inphase, opposed); empty for echoes, of which
        time and field tell.

    Returns
    -------
    Pair
        On one grid.

    Raises
    ------
    DataError
        If there is no such pair, or its images lie on different grids.
    """
    told = [part or phase_of_echo(sidecar) for part, sidecar in zip(parts, metadata, strict=True)]
    wanted = ("water", "fat") if "water" in told and "fat" in told else ("inphase", "opposed")
    if not all(name in told for name in wanted):
        found = ", ".join(
            f"{path.name} ({part or _times(sidecar)})"
            for path, part, sidecar in zip(paths, told, metadata, strict=True)
        )
        raise DataError(
            f"{found}: no pair of water and fat; expected rec-water and rec-fat, rec-inphase and "
            "rec-opposed, or echoes of which one is in phase and one opposed by EchoTime (s) and "
            "MagneticFieldStrength (T); correct the sidecars, or leave the images out with "
            "--bids-filter-file"
        )
    chosen = [told.index(name) for name in wanted]
    first, second = (read_image(paths[i], ndim=3) for i in chosen)
    check_one_grid([first, second])
    unused = tuple(path for i, path in enumerate(paths) if i not in chosen)
    return Pair(first, second, wanted[0] == "inphase", unused)


def _times(sidecar: Mapping[str, Any]) -> str:
    echo, tesla = sidecar.get("EchoTime"), sidecar.get("MagneticFieldStrength")
    return f"EchoTime {echo} s, MagneticFieldStrength {tesla} T"


def check_one_grid(images: Sequence[ImageData]) -> None:
    """Raise where images of one station lie on different grids.

    Parameters
    ----------
    images : sequence of ImageData
        One or more.

    Raises
    ------
    DataError
        With the names of both.
    """
    first = images[0]
    for other in images[1:]:
        if other.data.shape != first.data.shape or not np.allclose(
            other.affine, first.affine, rtol=0, atol=0.1
        ):
            raise DataError(
                f"{other.path.name}: lies on another grid than {first.path.name}, which is of the "
                "same station; bring both to one grid, or give them different acq- labels"
            )


def map_dixon(
    pair: Pair, title: str, *, shows_legs: bool, field_order: int, least_contrast: float
) -> Dixon:
    """Fat fraction of a station from its pair of images.

    Parameters
    ----------
    pair : Pair
        Water and fat, or two phases.
    title : str
        Name of the station.
    shows_legs : bool
        Whether legs and their compartments are looked for.
    field_order : int
        Highest order of the receive field over one leg.
    least_contrast : float
        Signal of fat over that of muscle from which brightness tells which of both dominates.

    Returns
    -------
    Dixon
        Of phases, the lesser of water and fat is found; which it is is told by the brightness of
        legs in phase, where fat is bright enough in it.
    """
    one, two = pair.first, pair.second
    both = one.data if pair.has_phases else one.data + two.data
    water, fat = water_and_fat(one.data, two.data) if pair.has_phases else (one.data, two.data)
    least = _SIGNAL_SHARE * float(np.percentile(both, 99))
    fraction = dixon_fat_fraction(water, fat, least_signal=max(least, 1e-30))
    legs = None
    if shows_legs:
        image = ImageData(both, one.affine, one.voxel_mm, one.path, one.warnings)
        legs = segment_legs(image, title, field_order=field_order, least_contrast=least_contrast)
    notes = [f"{title}: {path.name} is not needed for water and fat" for path in pair.unused]
    warnings: list[str] = []
    is_ambiguous = pair.has_phases and (legs is None or bool(legs.refusal))
    if is_ambiguous:
        why = legs.refusal if legs is not None else "no legs are looked for in it"
        warnings.append(
            f"{title}: magnitudes of two phases do not tell water from fat, and neither does the "
            f"brightness ({why}): a fat fraction above 0.5 comes out as 1 less the fraction, and "
            "fat is not graded. Give images of water and fat (rec-water, rec-fat)"
        )
    elif pair.has_phases and legs is not None:
        by_signal = np.nan_to_num(legs.fat)
        fraction = dominant_fraction(fraction, by_signal > 0.5)
        notes.append(f"{title}: where fat outweighs water is told by the brightness in phase")
    return Dixon(
        np.asarray(fraction, np.float32), is_ambiguous, legs, tuple(warnings), tuple(notes)
    )


def facts_of_dixon(pair: Pair, found: Dixon) -> dict[str, object]:
    """What the sidecar of a fat fraction tells of how it was made.

    Parameters
    ----------
    pair : Pair
        What it was made of.
    found : Dixon
        What came out.

    Returns
    -------
    dict
        For the sidecar.
    """
    images = "in-phase and opposed echo" if pair.has_phases else "images of water and of fat"
    return {"Dixon": {"Images": images, "IsLesserOfWaterAndFat": found.is_ambiguous}}


def map_t2(
    paths: Sequence[Path],
    metadata: Sequence[Mapping[str, Any]],
    title: str,
    *,
    n_skipped: int,
) -> tuple[NDArray[np.float32], ImageData, Facts]:
    """Relaxation time of every voxel from the echoes of a station.

    Parameters
    ----------
    paths : sequence of Path
        Echoes.
    metadata : sequence of mapping
        Their sidecars, with EchoTime in s.
    title : str
        Name of the station.
    n_skipped : int
        Echoes at the start of the train that are left out.

    Returns
    -------
    t2_s : (X, Y, Z) array of float32
        In s; 0 where there is none.
    image : ImageData
        First echo.
    facts : dict
        Warnings and notes.

    Raises
    ------
    DataError
        If an echo time is absent or stands twice, grids differ, or too few echoes are left.
    """
    times = [_echo_ms(path, sidecar) for path, sidecar in zip(paths, metadata, strict=True)]
    order = np.argsort(times)
    kept = [int(i) for i in order[n_skipped:]]
    used = [times[i] for i in kept]
    if len(used) < _LEAST_ECHOES or len(set(times)) != len(times):
        raise DataError(
            f"{', '.join(path.name for path in paths)}: echo times are "
            f"{', '.join(f'{times[i]:g}' for i in order)} ms, of which the first {n_skipped} are "
            f"left out; T2 needs {_LEAST_ECHOES} different ones or more: correct EchoTime, change "
            "--muscle-t2-skipped-echoes, or leave the echoes out with --bids-filter-file"
        )
    images = [read_image(paths[i], ndim=3) for i in kept]
    check_one_grid(images)
    echoes = np.stack([image.data for image in images], axis=-1)
    noise, why = noise_or_none(echoes[..., -1])
    found = fit_echo_decay(
        echoes,
        np.array(used),
        noise=noise,
        least_signal=_SIGNAL_SHARE * float(np.percentile(echoes[..., 0], 99)),
        least_echoes=1,
    )
    warnings = [
        f"{title}: its noise could not be told, so T2 is too long where signal is low ({why})"
    ]
    notes = [
        f"{title}: T2 from echoes of {', '.join(f'{t:g}' for t in used)} ms (the first {n_skipped} "
        "left out), one exponential: it is that of water and fat of a voxel together, and fat in a "
        "muscle raises it"
    ]
    facts: Facts = {"warnings": warnings if noise is None else [], "notes": notes}
    return np.asarray(np.nan_to_num(found.t2_ms) / 1000.0, np.float32), images[0], facts


def _echo_ms(path: Path, sidecar: Mapping[str, Any]) -> float:
    value = sidecar.get("EchoTime")
    if not isinstance(value, int | float) or not 0 < value < 1:
        raise DataError(
            f"{path.name}: sidecar has EchoTime {value}; expected its echo time in s, above 0 and "
            "below 1; add it, or leave the echo out with --bids-filter-file"
        )
    return 1000.0 * float(value)
