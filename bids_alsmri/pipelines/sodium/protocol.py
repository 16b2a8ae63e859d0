"""What the sidecar says of a sodium image: its protocol and its reference tubes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from bids_alsmri.errors import DataError
from bids_alsmri.interfaces.base import check_times, require_keys
from bids_alsmri.numerics.pointspread import (
    PointSpread,
    RadialReadout,
    radial_point_spread,
    scaled_point_spread,
)
from bids_alsmri.numerics.relaxation import Relaxation, relaxation_weight

# sodium has decayed after a few of its T2* of at most 60 ms: a longer echo time is one in ms
_LONGEST_ECHO_S = 0.1
_KEYS = {"EchoTime": "s", "FlipAngle": "degrees", "RepetitionTimeExcitation": "s"}
_DIRECTIONS = {
    "left": (-1.0, 0.0, 0.0),
    "right": (1.0, 0.0, 0.0),
    "anterior": (0.0, 1.0, 0.0),
    "posterior": (0.0, -1.0, 0.0),
    "superior": (0.0, 0.0, 1.0),
    "inferior": (0.0, 0.0, -1.0),
}


@dataclass(frozen=True)
class Protocol:
    """How a sodium image was acquired.

    Parameters
    ----------
    echo_ms, repetition_ms, flip_deg : float or None
        None where the sidecar does not tell and nothing needs it.
    nominal_mm, readout_ms, linear_share : float
        Nominal resolution (mm), duration of the readout (ms) and share of the radius of k-space
        that is read at constant gradient.
    spread_scale : float
        Factor on the width of every point spread.
    concentrations : list of (str, float)
        Label and sodium (mmol/L) of the reference tubes, empty where the sidecar does not tell.
    warnings, notes : list of str
        For the report.
    """

    echo_ms: float | None
    repetition_ms: float | None
    flip_deg: float | None
    nominal_mm: float
    readout_ms: float
    linear_share: float
    spread_scale: float
    concentrations: list[tuple[str, float]]
    warnings: list[str]
    notes: list[str]

    def spread_of(self, relaxation: Relaxation) -> PointSpread:
        """Point spread of a tissue with its decay along the readout."""
        readout = RadialReadout(
            self.nominal_mm, self.echo_ms or 0.0, self.readout_ms, self.linear_share
        )
        return scaled_point_spread(radial_point_spread(readout, relaxation), self.spread_scale)

    @property
    def still_spread(self) -> PointSpread:
        """Point spread of a point that does not decay, by which noise is alike in neighbours."""
        readout = RadialReadout(self.nominal_mm, 0.0, 0.0, 1.0)
        return radial_point_spread(readout, Relaxation(1.0, 1.0, 1.0, 0.0))

    def weight_of(self, relaxation: Relaxation) -> float:
        """Share of the equilibrium signal that saturation and decay leave of a tissue."""
        if self.repetition_ms is None or self.echo_ms is None or self.flip_deg is None:
            raise DataError(
                f"EchoTime is {self.echo_ms} ms, RepetitionTime {self.repetition_ms} ms and "
                f"FlipAngle {self.flip_deg} degrees; give all of them in the sidecar, or go "
                "without relaxation by --no-sodium-relaxation-correction"
            )
        weight = relaxation_weight(
            relaxation,
            repetition_ms=self.repetition_ms,
            echo_ms=self.echo_ms,
            flip_deg=self.flip_deg,
        )
        return float(weight)

    def write(self, path: Path) -> Path:
        """Write as JSON, and return the path."""
        path.write_text(json.dumps(asdict(self), indent=2, sort_keys=True) + "\n", "utf-8")
        return path


def read_protocol_file(path: Path) -> Protocol:
    """Protocol that :meth:`Protocol.write` has written.

    Parameters
    ----------
    path : Path
        JSON file.

    Returns
    -------
    Protocol
        The same.
    """
    parts = json.loads(path.read_text("utf-8"))
    pairs = [(str(label), float(value)) for label, value in parts.pop("concentrations")]
    return Protocol(concentrations=pairs, **parts)


def relaxation_of(times: Sequence[float]) -> Relaxation:
    """Relaxation from T1, short and long T2* (ms) and the share of the short component.

    Parameters
    ----------
    times : sequence of float
        These four.

    Returns
    -------
    Relaxation
        The record.

    Examples
    --------
    >>> relaxation_of([39.0, 3.4, 23.5, 0.6]).long_ms
    23.5
    """
    t1_ms, short_ms, long_ms, share = times
    return Relaxation(t1_ms=t1_ms, short_ms=short_ms, long_ms=long_ms, short_fraction=share)


def protocol_of(
    metadata: Mapping[str, Any],
    path: Path,
    voxel_mm: Sequence[float],
    readout: Mapping[str, float],
    *,
    needs_times: bool,
    needs_spread: bool,
) -> Protocol:
    """Protocol of an image, from its sidecar and what the settings complete it by.

    Parameters
    ----------
    metadata : mapping
        Merged sidecar.
    path : Path
        The image, for messages.
    voxel_mm : (3,) sequence of float
        Edges of its voxels, in mm.
    readout : mapping of float
        ``nominal_resolution_mm`` and ``readout_ms`` (0 for those of the sidecar),
        ``assumed_readout_ms``, ``linear_share`` and ``spread_scale``.
    needs_times : bool
        Whether echo time, repetition time and flip angle are needed.
    needs_spread : bool
        Whether a correction needs the point spread, so that a guess of it is warned of.

    Returns
    -------
    Protocol
        Checked.

    Raises
    ------
    DataError
        If a value is missing, of another unit or out of its range.
    """
    check_times(metadata, path)
    known = _with_repetition(metadata)
    if needs_times:
        require_keys(known, _KEYS, path)
    echo_s, flip_deg = known.get("EchoTime"), known.get("FlipAngle")
    if echo_s is not None and float(echo_s) > _LONGEST_ECHO_S:
        raise DataError(
            f"{path}: EchoTime is {echo_s:g} s, by which sodium has decayed; expected at most "
            f"{_LONGEST_ECHO_S:g} s; it seems to be in milliseconds: write {echo_s / 1000:g} in "
            "the sidecar"
        )
    if flip_deg is not None and not 0 < _number(flip_deg, "FlipAngle", path) < 180:
        raise DataError(
            f"{path}: FlipAngle is {flip_deg:g}; expected degrees above 0 and below 180; correct "
            "the sidecar"
        )
    repetition_s = known.get("RepetitionTimeExcitation")
    warnings: list[str] = []
    notes: list[str] = []
    return Protocol(
        echo_ms=None if echo_s is None else 1e3 * float(echo_s),
        repetition_ms=None if repetition_s is None else 1e3 * float(repetition_s),
        flip_deg=None if flip_deg is None else float(flip_deg),
        nominal_mm=_nominal_mm(known, path, voxel_mm, readout, notes),
        readout_ms=_readout_ms(known, path, readout, warnings if needs_spread else notes),
        linear_share=readout["linear_share"],
        spread_scale=readout["spread_scale"],
        concentrations=_reference_concentrations(known, path),
        warnings=warnings,
        notes=notes,
    )


def _with_repetition(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Sidecar with RepetitionTimeExcitation filled in from RepetitionTime."""
    known = dict(metadata)
    if known.get("RepetitionTimeExcitation") is None:
        known["RepetitionTimeExcitation"] = known.get("RepetitionTime")
    return known


def _number(value: Any, key: str, path: Path) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not np.isfinite(value):
        raise DataError(f"{path}: {key} is {value!r}; expected a number; correct the sidecar")
    return float(value)


def _nominal_mm(
    metadata: Mapping[str, Any],
    path: Path,
    voxel_mm: Sequence[float],
    readout: Mapping[str, float],
    notes: list[str],
) -> float:
    if readout["nominal_resolution_mm"]:
        return readout["nominal_resolution_mm"]
    stated = metadata.get("AcquisitionVoxelSize")
    if stated is not None:
        edges = [
            _number(edge, "AcquisitionVoxelSize", path)
            for edge in (stated if isinstance(stated, list) else [stated])
        ]
        if not edges or not all(0.5 <= edge <= 20.0 for edge in edges):
            raise DataError(
                f"{path}: AcquisitionVoxelSize is {stated}; expected mm, 0.5 to 20; correct the "
                "sidecar"
            )
        return float(np.mean(edges))
    notes.append(
        f"the sidecar lacks AcquisitionVoxelSize: the longest edge of a voxel, {max(voxel_mm):.2f} "
        "mm, was taken for the nominal resolution"
    )
    return float(max(voxel_mm))


def _readout_ms(
    metadata: Mapping[str, Any], path: Path, readout: Mapping[str, float], texts: list[str]
) -> float:
    if readout["readout_ms"]:
        return readout["readout_ms"]
    stated = metadata.get("SodiumReadoutDuration")
    if stated is not None:
        seconds = _number(stated, "SodiumReadoutDuration", path)
        if not 0 <= seconds <= 0.2:
            raise DataError(
                f"{path}: SodiumReadoutDuration is {seconds:g}; expected seconds, at most 0.2; if "
                f"it is in milliseconds, write {seconds / 1000:g} in the sidecar"
            )
        return 1e3 * seconds
    texts.append(
        "the sidecar lacks SodiumReadoutDuration (s): a readout of "
        f"{readout['assumed_readout_ms']:g} ms was assumed, on which point spread and tube "
        "recovery depend; give it there or by --sodium-readout-ms"
    )
    return readout["assumed_readout_ms"]


def _reference_concentrations(metadata: Mapping[str, Any], path: Path) -> list[tuple[str, float]]:
    key = "SodiumReferenceConcentrations"
    stated = metadata.get(key)
    if stated is None:
        return []
    expected = (
        'expected a list of tubes such as [{"Label": "left", "Concentration": 50}], in mmol/L; '
        "correct the sidecar"
    )
    if not isinstance(stated, list) or not all(isinstance(tube, dict) for tube in stated):
        raise DataError(f"{path}: {key} is {stated!r}; {expected}")
    pairs = []
    for number, tube in enumerate(stated, start=1):
        if "Concentration" not in tube:
            raise DataError(f"{path}: {key} is {stated!r}; {expected}")
        value = _number(tube["Concentration"], f"{key}, Concentration of tube {number},", path)
        if not 0 <= value <= 1000:
            raise DataError(f"{path}: {key} holds {value:g} mmol/L; expected 0 to 1000; {expected}")
        pairs.append((str(tube.get("Label", number)), value))
    return pairs


def named_tubes(
    sidecar: Sequence[tuple[str, float]], numbers: Sequence[int]
) -> dict[int, tuple[str, float]]:
    """What the sidecar says of tubes by their numbers.

    Parameters
    ----------
    sidecar : sequence of (str, float)
        Label and concentration of each tube.
    numbers : sequence of int
        Tubes that were found.

    Returns
    -------
    dict of (str, float)
        Label and concentration by number; empty where a label is no number of a tube, so that
        tubes are counted otherwise there or some were not found.

    Examples
    --------
    >>> named_tubes([("2", 50.0)], [1, 2, 3]), named_tubes([("left", 50.0)], [1, 2, 3])
    ({2: ('2', 50.0)}, {})
    """
    if not all(label.isdigit() and int(label) in numbers for label, _ in sidecar):
        return {}
    return {int(label): (label, value) for label, value in sidecar}


def tube_concentrations(
    numbers: Sequence[int],
    centres_mm: NDArray[np.float64],
    head_centre_mm: NDArray[np.float64],
    *,
    option: Sequence[float],
    sidecar: Sequence[tuple[str, float]],
    usual_mmol_l: float,
) -> tuple[list[float], str, list[str]]:
    """Sodium of every tube: of the option, else of the sidecar, else the usual one.

    Parameters
    ----------
    numbers : sequence of int
        Numbers of the tubes.
    centres_mm : (T, 3) array
        Their centres in world coordinates, in mm.
    head_centre_mm : (3,) array
        Centre of the head.
    option : sequence of float
        One for each tube in the order of the numbers, one for all, or none, in mmol/L.
    sidecar : sequence of (str, float)
        Label and concentration of each tube. Labels are numbers, or name sides such as ``left``
        or ``rightPosterior``.
    usual_mmol_l : float
        Where neither tells.

    Returns
    -------
    concentrations : list of float
        In the order of the numbers.
    origin : str
        Where they come from.
    warnings : list of str
        One where they are a guess.

    Raises
    ------
    DataError
        If there are more or fewer than tubes, or labels do not tell which is which.

    Examples
    --------
    >>> centres = np.array([[-90.0, 0, 0], [90.0, 0, 0]])
    >>> tube_concentrations([1, 2], centres, np.zeros(3), option=[],
    ...     sidecar=[("right", 80.0), ("left", 40.0)], usual_mmol_l=50.0)
    ([40.0, 80.0], 'sidecar', [])
    """
    n = len(numbers)
    if len(option) == 1:
        return [float(option[0])] * n, "option", []
    if option:
        if len(option) != n:
            raise DataError(
                f"{n} tubes were found but tube_concentrations_mmol_l has {len(option)} values; "
                "give one for each in the order of their numbers, or one for all; see the figure "
                "of the tubes, or mark them in a desc-refs_dseg image"
            )
        return [float(value) for value in option], "option", []
    if not sidecar:
        warning = (
            f"neither --sodium-tube-concentrations-mmol-l nor the sidecar's "
            f"SodiumReferenceConcentrations tells the sodium of the tubes: {usual_mmol_l:g} mmol/L "
            "was assumed for each, and all concentrations are in proportion to it"
        )
        return [usual_mmol_l] * n, "assumed", [warning]
    values = [value for _, value in sidecar]
    if len(set(values)) == 1:
        extra = []
        if len(values) != n:
            extra = [
                f"the sidecar's SodiumReferenceConcentrations names {len(values)} tubes, but {n} "
                "were found; look at the figure of the tubes"
            ]
        return [values[0]] * n, "sidecar", extra
    if len(values) != n:
        raise DataError(
            f"{n} tubes were found but the sidecar's SodiumReferenceConcentrations names "
            f"{len(values)} of different sodium; mark the tubes in a desc-refs_dseg image given "
            "with --derivatives, or give the concentrations of those found by "
            "--sodium-tube-concentrations-mmol-l"
        )
    order = _matched([label for label, _ in sidecar], numbers, centres_mm - head_centre_mm)
    return [values[index] for index in order], "sidecar", []


def _matched(
    labels: Sequence[str], numbers: Sequence[int], offsets_mm: NDArray[np.float64]
) -> list[int]:
    """Index of the label of each tube, by number or by the side that it names."""
    if all(label.isdigit() for label in labels):
        by_number = {int(label): index for index, label in enumerate(labels)}
        if set(by_number) == set(numbers):
            return [by_number[number] for number in numbers]
    named = [
        [np.array(vector) for word, vector in _DIRECTIONS.items() if word in label.lower()]
        for label in labels
    ]
    if not all(named):
        raise DataError(
            f"labels {', '.join(labels)} of SodiumReferenceConcentrations do not tell which tube "
            f"is which; name them by number ({', '.join(map(str, numbers))}, from the left to the "
            "right of the participant) or by side (left, right, anterior, posterior)"
        )
    wanted = np.array([np.mean(vectors, axis=0) for vectors in named])
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    found = offsets_mm / np.linalg.norm(offsets_mm, axis=1, keepdims=True)
    _, columns = linear_sum_assignment(-found @ wanted.T)
    return [int(column) for column in columns]
