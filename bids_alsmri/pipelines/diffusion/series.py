"""The table that goes with a diffusion series from node to node."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from bids_alsmri.errors import DataError
from bids_alsmri.numerics.gradients import GradientTable, world_to_bvecs
from bids_alsmri.numerics.outliers import SLICE_TIME_TOLERANCE_S

# keys by which converters and sites say that k-space was filled with zeros; none is of BIDS
_ZERO_FILLED = ("Interpolation2D", "Interpolation3D", "InterpolatedAcquisition", "ZeroFilled")

# field: key of the sidecar, unit, share by which runs of one series may differ
_COMPARED_NUMBERS = {
    "echo_time_s": ("EchoTime", " s", 0.01),
    "partial_fourier": ("PartialFourier", "", 0.01),
    "multiband_factor": ("MultibandAccelerationFactor", "", 0.0),
    "slice_times_s": ("SliceTiming", " s", 0.0),
}


@dataclass(frozen=True)
class SeriesTable:
    """Weighting of each volume and what the protocol says of the acquisition.

    Parameters
    ----------
    b_values_s_mm2 : list of float
        In s/mm2; exactly 0 for the volumes that count as b=0.
    directions_world : list of list of float
        Unit vectors in world axes (right, anterior, superior); zero where b is 0.
    phase_axis, slice_axis : int
        Image axis of phase encoding and of the slices.
    has_phase_axis : bool
        False where the sidecar does not tell it and the second axis was taken.
    slice_times_s : list of float or None
        Start of each slice, in s, in the order of the image.
    multiband_factor : int or None
        Slices excited at once.
    partial_fourier : float or None
        Acquired share of the lines along the phase axis, 0.5 to 1.
    notes, warnings : list of str
        For the report.
    phase_direction, slice_direction : str or None
        As BIDS names them, such as ``j-``; None where the sidecar does not tell.
    echo_time_s : float or None
        In s.
    interpolation : str or None
        What the sidecar says of images that the scanner interpolated to a finer matrix; None where
        it says nothing of it.
    """

    b_values_s_mm2: list[float]
    directions_world: list[list[float]]
    phase_axis: int
    slice_axis: int
    has_phase_axis: bool
    slice_times_s: list[float] | None
    multiband_factor: int | None
    partial_fourier: float | None
    notes: list[str]
    warnings: list[str]
    phase_direction: str | None = None
    slice_direction: str | None = None
    echo_time_s: float | None = None
    interpolation: str | None = None

    @property
    def gradients(self) -> GradientTable:
        """Weighting as the numerics take it."""
        return GradientTable(np.array(self.b_values_s_mm2), np.array(self.directions_world))

    @property
    def is_b0(self) -> NDArray[np.bool_]:
        """True for the volumes without diffusion weighting."""
        return np.asarray(np.array(self.b_values_s_mm2) == 0, dtype=np.bool_)

    def with_directions(self, directions_world: NDArray[np.float64]) -> SeriesTable:
        """The same series after its directions were rotated with the head."""
        return replace(self, directions_world=directions_world.tolist())

    def write(self, path: Path) -> Path:
        """Write the table as JSON and return the path."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        return path


def read_table(path: Path) -> SeriesTable:
    """Table that an earlier node wrote.

    Parameters
    ----------
    path : Path
        JSON file.

    Returns
    -------
    SeriesTable
        The table.
    """
    return SeriesTable(**json.loads(path.read_text(encoding="utf-8")))


def protocol_of(metadata: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Axes, slice timing and partial Fourier from a sidecar.

    Parameters
    ----------
    metadata : mapping
        Content of the sidecar.
    path : Path
        The image, for messages.

    Returns
    -------
    dict
        Values for the fields of :class:`SeriesTable` of the same names.

    Raises
    ------
    DataError
        If a direction is none of i, j, k, with or without a minus, or a value is not of the kind
        that BIDS gives it.
    """
    return {
        "phase_axis": axis_of(metadata.get("PhaseEncodingDirection", "j"), path),
        "has_phase_axis": "PhaseEncodingDirection" in metadata,
        "slice_axis": axis_of(metadata.get("SliceEncodingDirection", "k"), path),
        "slice_times_s": _slice_times_s(metadata, path),
        "multiband_factor": _multiband_factor(metadata, path),
        "partial_fourier": _partial_fourier(metadata, path),
        "phase_direction": metadata.get("PhaseEncodingDirection"),
        "slice_direction": metadata.get("SliceEncodingDirection"),
        "echo_time_s": _echo_time_s(metadata, path),
        "interpolation": _interpolation(metadata),
    }


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _partial_fourier(metadata: Mapping[str, Any], path: Path) -> float | None:
    value = metadata.get("PartialFourier")
    if value is None or (_is_number(value) and 0 < value <= 1):
        return None if value is None else float(value)
    raise _wrong(path, "PartialFourier", value, "a number above 0, at most 1, such as 0.75")


def _multiband_factor(metadata: Mapping[str, Any], path: Path) -> int | None:
    value = metadata.get("MultibandAccelerationFactor")
    if value is None or (_is_number(value) and value >= 1 and value == int(value)):
        return None if value is None else int(value)
    raise _wrong(path, "MultibandAccelerationFactor", value, "a whole number from 1, such as 2")


def _echo_time_s(metadata: Mapping[str, Any], path: Path) -> float | None:
    value = metadata.get("EchoTime")
    if value is None or _is_number(value):
        return None if value is None else float(value)
    raise _wrong(path, "EchoTime", value, "one number in s, such as 0.08")


def _interpolation(metadata: Mapping[str, Any]) -> str | None:
    acquired, stored = metadata.get("AcquisitionMatrixPE"), metadata.get("ReconMatrixPE")
    if _is_number(acquired) and _is_number(stored) and 0 < acquired < stored:
        return f"AcquisitionMatrixPE {acquired:g}, ReconMatrixPE {stored:g}"
    return next((f"{key} {metadata[key]}" for key in _ZERO_FILLED if metadata.get(key)), None)


def _slice_times_s(metadata: Mapping[str, Any], path: Path) -> list[float] | None:
    value = metadata.get("SliceTiming")
    if value is None:
        return None
    if not isinstance(value, list) or not all(_is_number(time) for time in value):
        raise _wrong(path, "SliceTiming", value, "a list of one time per slice, in s")
    # with a minus, BIDS lists the times from the last slice to the first
    backwards = str(metadata.get("SliceEncodingDirection", "k")).endswith("-")
    return [float(time) for time in (reversed(value) if backwards else value)]


def _wrong(path: Path, key: str, value: Any, expected: str) -> DataError:
    return DataError(
        f"{path}: {key} is {value!r} in its sidecar; expected {expected}; correct the sidecar"
    )


def axis_of(direction: str, path: Path) -> int:
    """Image axis that a BIDS direction names.

    Parameters
    ----------
    direction : str
        Such as ``j-``.
    path : Path
        The image, for the message.

    Returns
    -------
    int
        0, 1 or 2.

    Raises
    ------
    DataError
        If it is no such direction.

    Examples
    --------
    >>> axis_of("j-", Path("dwi.nii.gz"))
    1
    """
    if str(direction).rstrip("-") not in ("i", "j", "k"):
        raise DataError(
            f"{path}: its sidecar names the encoding direction {direction!r}; BIDS knows i, j and "
            "k, with or without a minus; correct the sidecar"
        )
    return "ijk".index(str(direction)[0])


def concatenated(tables: Sequence[SeriesTable]) -> SeriesTable:
    """One table of several runs of one protocol, in their order.

    Parameters
    ----------
    tables : sequence of SeriesTable
        At least one; `protocol_differences` finds none between them.

    Returns
    -------
    SeriesTable
        Protocol of the first run that tells it, volumes, notes and warnings of all.
    """
    first = tables[0]
    told: dict[str, Any] = {}
    for names in (
        ("phase_direction", "phase_axis", "has_phase_axis"),
        ("slice_direction", "slice_axis"),
        *((name,) for name in (*_COMPARED_NUMBERS, "interpolation")),
    ):
        teller = next((t for t in tables if getattr(t, names[0]) is not None), first)
        told |= {name: getattr(teller, name) for name in names}
    return replace(
        first,
        b_values_s_mm2=[b for t in tables for b in t.b_values_s_mm2],
        directions_world=[d for t in tables for d in t.directions_world],
        notes=[n for t in tables for n in t.notes],
        warnings=[w for t in tables for w in t.warnings],
        **told,
    )


def protocol_differences(first: SeriesTable, other: SeriesTable) -> list[str]:
    """What keeps two runs from being one series.

    Parameters
    ----------
    first, other : SeriesTable
        One run each.

    Returns
    -------
    list of str
        Key of the sidecar and both values, one for each difference; a value that only one sidecar
        tells is no difference.

    Notes
    -----
    Blips of opposite polarity distort the head in opposite directions, echo time and partial
    Fourier change contrast and blurring, and lost slices are sought in the groups of one slice
    timing.
    """
    found = []
    for name, key in (
        ("phase_direction", "PhaseEncodingDirection"),
        ("slice_direction", "SliceEncodingDirection"),
    ):
        pair = getattr(first, name), getattr(other, name)
        if None not in pair and pair[0] != pair[1]:
            found.append(f"{key} is {pair[1]!r} and {pair[0]!r}")
    for name, (key, unit, share) in _COMPARED_NUMBERS.items():
        pair = getattr(first, name), getattr(other, name)
        if None in pair:
            continue
        if name == "slice_times_s":
            if len(pair[0]) != len(pair[1]):
                found.append(f"{key} has {len(pair[1])} and {len(pair[0])} times")
            else:
                step_s = float(np.max(np.abs(np.subtract(*pair)), initial=0.0))
                if step_s > SLICE_TIME_TOLERANCE_S:
                    found.append(f"{key} differs by up to {step_s:.3g} s")
        elif abs(pair[1] - pair[0]) > share * abs(pair[0]):
            found.append(f"{key} is {pair[1]:g} and {pair[0]:g}{unit}")
    return found


def write_bids_gradients(
    table: SeriesTable, affine: NDArray[np.float64], stem: Path
) -> tuple[Path, Path]:
    """Write b-values and b-vectors in BIDS form, and return their paths.

    Parameters
    ----------
    table : SeriesTable
        Weighting in world axes.
    affine : (4, 4) array
        Of the image that the files go with: b-vectors are stored along its axes.
    stem : Path
        Path without extension.

    Returns
    -------
    tuple of Path
        The bval and the bvec file.
    """
    vectors = world_to_bvecs(np.array(table.directions_world), affine)
    values, directions = stem.with_suffix(".bval"), stem.with_suffix(".bvec")
    np.savetxt(values, np.array(table.b_values_s_mm2)[np.newaxis], fmt="%g")
    np.savetxt(directions, vectors.T, fmt="%.8f")
    return values, directions
