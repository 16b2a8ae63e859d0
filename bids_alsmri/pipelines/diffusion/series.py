"""The table that goes with a diffusion series from node to node."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bids_alsmri.errors import DataError
from bids_alsmri.numerics.gradients import GradientTable, world_to_bvecs


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
        Start of each slice, in s.
    multiband_factor : int or None
        Slices excited at once.
    partial_fourier : float or None
        Acquired share of the lines along the phase axis, 0.5 to 1.
    notes, warnings : list of str
        For the report.
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
    }


def _is_number(value: Any) -> bool:
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


def _slice_times_s(metadata: Mapping[str, Any], path: Path) -> list[float] | None:
    value = metadata.get("SliceTiming")
    if value is None:
        return None
    if not isinstance(value, list) or not all(_is_number(time) for time in value):
        raise _wrong(path, "SliceTiming", value, "a list of one time per slice, in s")
    return [float(time) for time in value]


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
    """One table of several runs, in their order.

    Parameters
    ----------
    tables : sequence of SeriesTable
        At least one.

    Returns
    -------
    SeriesTable
        Protocol of the first run, volumes, notes and warnings of all.

    Raises
    ------
    DataError
        If the runs were encoded along different axes.
    """
    first = tables[0]
    if any(t.phase_axis != first.phase_axis for t in tables):
        raise DataError(
            "runs of one series were phase-encoded along different axes; tell them apart by dir-"
        )
    return replace(
        first,
        b_values_s_mm2=[b for t in tables for b in t.b_values_s_mm2],
        directions_world=[d for t in tables for d in t.directions_world],
        notes=[n for t in tables for n in t.notes],
        warnings=[w for t in tables for w in t.warnings],
    )


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
