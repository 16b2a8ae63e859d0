"""Reference tubes of an image: measured, checked and turned into a line to concentration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bids_alsmri.errors import DataError, NumericsError
from bids_alsmri.interfaces.base import ImageData
from bids_alsmri.numerics.calibration import (
    Calibration,
    TubeSignals,
    calibrate,
    require_agreement,
    tube_signals,
)
from bids_alsmri.numerics.pointspread import (
    PointSpread,
    recovered_fraction,
    scaled_point_spread,
)
from bids_alsmri.numerics.relaxation import Relaxation
from bids_alsmri.numerics.tubes import WIDTH_SCALES, FoundTubes, Tube, tube_cores
from bids_alsmri.pipelines.sodium.protocol import Protocol, named_tubes, tube_concentrations

Facts = dict[str, Any]

# tubes narrower than so many widths of the point spread show nowhere their full signal
_LEAST_DIAMETER_FWHM = 3.0
# erosions tried one after the other where a tube is too narrow, as shares of the one asked for
_EROSION_SHARES = (1.0, 0.75, 0.5, 0.25, 0.0)


@dataclass(frozen=True)
class TubeChoices:
    """How tubes are measured.

    Parameters
    ----------
    erosion_fwhm : float
        Distance from wall and ends, in widths of the tubes' point spread.
    reach_sd : float
        Voxels further from the median do not count.
    most_disagreement, most_saturated : float
        Shares from which tubes are refused.
    has_recovery, has_relaxation : bool
        Whether what point spread and relaxation take is given back.
    concentrations_mmol_l : tuple of float
        Of the option; empty for none.
    usual_mmol_l : float
        Where nothing tells.
    reference_tubes : tuple of int
        Numbers of the tubes that calibrate; empty for those that the sidecar tells, or all.
    is_fitted : bool
        Whether the point spread is as wide as fits the tubes, or as the protocol has it.
    """

    erosion_fwhm: float
    reach_sd: float
    most_disagreement: float
    most_saturated: float
    has_recovery: bool
    has_relaxation: bool
    concentrations_mmol_l: tuple[float, ...]
    usual_mmol_l: float
    reference_tubes: tuple[int, ...]
    is_fitted: bool


@dataclass(frozen=True)
class Calibrated:
    """Tubes and the line that they give.

    Parameters
    ----------
    line : Calibration
        From concentration to signal freed of recovery and relaxation as asked for.
    table : DataFrame
        One row per tube.
    facts : dict
        Measures, warnings and notes.
    """

    line: Calibration
    table: pd.DataFrame
    facts: Facts

    @property
    def plot(self) -> dict[str, Any]:
        """What the plot of tubes and line shows."""
        return {
            "concentrations_mmol_l": self.table["concentration"].to_numpy(),
            "signals": self.table["signal_corrected"].to_numpy(),
            "errors": (self.table["signal_sd"] / self.table["signal_mean"]).to_numpy()
            * self.table["signal_corrected"].to_numpy(),
            "names": [f"tube {number}" for number in self.table["tube"]],
            "slope": self.line.slope,
            "intercept": self.line.intercept,
            "r_squared": self.line.r_squared,
        }


def calibrate_tubes(
    image: ImageData,
    found: FoundTubes,
    protocol: Protocol,
    relaxation: Relaxation,
    *,
    noise_sigma: float,
    choices: TubeChoices,
) -> Calibrated:
    """Line from concentration to signal, from the tubes of an image.

    Parameters
    ----------
    image : ImageData
        Signal, noise floor and receive bias taken off.
    found : FoundTubes
        Its tubes.
    protocol : Protocol
        How it was acquired.
    relaxation : Relaxation
        Of the tubes.
    noise_sigma : float
        Noise level of the image before denoising, in its unit.
    choices : TubeChoices
        How tubes are measured.

    Returns
    -------
    Calibrated
        Line, table and findings.

    Raises
    ------
    DataError
        If a tube is saturated or concentrations do not fit the tubes.
    NumericsError
        If a tube is empty or they disagree; notes name the file.
    """
    used = _references(found, protocol, choices.reference_tubes)
    spread, told = _spread_of(used.tubes, protocol.spread_of(relaxation), choices.is_fitted)
    cores, erosions_mm = _cores(used, image.affine, choices.erosion_fwhm * spread.fwhm_mm)
    signals = tube_signals(
        image.data,
        cores,
        noise_sigma=noise_sigma,
        reach=choices.reach_sd,
        independent_share=_independent_share(image.voxel_mm, protocol),
    )
    _require_unsaturated(signals, image, choices.most_saturated)
    recovery = _recoveries(used.tubes, erosions_mm, spread)
    weight = protocol.weight_of(relaxation) if choices.has_relaxation else 1.0
    left = weight * (recovery if choices.has_recovery else np.ones_like(recovery))
    values, errors = signals.mean / left, signals.standard_error / left
    sodium, origin, doubts = tube_concentrations(
        [tube.label for tube in used.tubes],
        np.array([tube.centre_mm for tube in used.tubes]),
        _centre_mm(found.head_mask, image.affine),
        option=choices.concentrations_mmol_l,
        sidecar=_told_of(used, found, protocol),
        usual_mmol_l=choices.usual_mmol_l,
    )
    _require_agreement(values, sodium, used.tubes, choices.most_disagreement)
    line = calibrate(values, errors, sodium)
    table = _table(used.tubes, signals, recovery, weight, values, sodium, line)
    doubts += [*told, *tube_warnings(used.tubes, spread, erosions_mm, choices, signals)]
    notes = [f"concentrations of the tubes: {origin}", *_left_out(found, used)]
    return Calibrated(line, table, _facts(table, line, doubts, notes, len(used.tubes)))


def _spread_of(
    tubes: Sequence[Tube], by_protocol: PointSpread, is_fitted: bool
) -> tuple[PointSpread, list[str]]:
    """Point spread of the tubes, and what makes it doubtful."""
    if not is_fitted:
        return by_protocol, []
    scale = float(np.median([tube.width_scale for tube in tubes]))
    low, high = WIDTH_SCALES
    doubts = []
    if not 1.03 * low < scale < high / 1.03:
        doubts.append(
            f"the width of the point spread could not be fitted to the tubes: {scale:.2f} times "
            "that of the protocol is an end of the range; give the true readout and T2* of the "
            "tubes, or another --sodium-point-spread-scale"
        )
    return scaled_point_spread(by_protocol, scale), doubts


def _told_of(used: FoundTubes, found: FoundTubes, protocol: Protocol) -> list[tuple[str, float]]:
    """What the sidecar says of the tubes that calibrate; all of it where it names no numbers."""
    named = named_tubes(protocol.concentrations, [tube.label for tube in found.tubes])
    own = [named[tube.label] for tube in used.tubes if tube.label in named]
    return own if len(own) == len(used.tubes) else protocol.concentrations


def _left_out(found: FoundTubes, used: FoundTubes) -> list[str]:
    numbers = {tube.label for tube in used.tubes}
    others = [str(tube.label) for tube in found.tubes if tube.label not in numbers]
    told = f"tubes in view that are no references and were not used: {', '.join(others)}"
    return [told] if others else []


def _references(found: FoundTubes, protocol: Protocol, asked: Sequence[int]) -> FoundTubes:
    """Tubes that calibrate."""
    numbers = [tube.label for tube in found.tubes]
    chosen = list(asked) or list(named_tubes(protocol.concentrations, numbers)) or numbers
    missing = [number for number in chosen if number not in numbers]
    if missing:
        raise DataError(
            f"--sodium-reference-tubes names tube {missing[0]}, but there are "
            f"{_listed(found.tubes)}; give some of these, or mark the tubes in a desc-refs_dseg "
            "image"
        )
    kept = tuple(tube for tube in found.tubes if tube.label in chosen)
    return replace(found, tubes=kept)


def _listed(tubes: Sequence[Tube]) -> str:
    places = ["({:.0f}, {:.0f}, {:.0f}) mm".format(*tube.centre_mm) for tube in tubes]
    return ", ".join(f"{t.label} at {place}" for t, place in zip(tubes, places, strict=True))


def _require_agreement(
    values: NDArray[np.float64], sodium: Sequence[float], tubes: Sequence[Tube], most: float
) -> None:
    if len(sodium) < 2:
        return
    try:
        require_agreement(values, sodium, most_disagreement=most)
    except NumericsError as error:
        error.add_note(
            f"(tubes {_listed(tubes)}, counted to the right, front and top; name those whose "
            "sodium is known by --sodium-reference-tubes)"
        )
        raise


def _cores(
    found: FoundTubes, affine: NDArray[np.float64], erosion_mm: float
) -> tuple[NDArray[np.int16], dict[int, float]]:
    """Cores of all tubes, each as deep as its diameter allows, and how deep that is."""
    cores = np.zeros(found.labels.shape, np.int16)
    erosions_mm: dict[int, float] = {}
    for tube in found.tubes:
        one = replace(found, tubes=(tube,))
        fault: NumericsError | None = None
        for share in _EROSION_SHARES:
            try:
                cores += tube_cores(one, affine, erosion_mm=share * erosion_mm)
            except NumericsError as error:
                fault = error
                continue
            erosions_mm[tube.label] = share * erosion_mm
            break
        if tube.label not in erosions_mm and fault is not None:
            raise fault
    return cores, erosions_mm


def _independent_share(voxel_mm: Sequence[float], protocol: Protocol) -> float:
    """Independent samples of the sphere of k-space over voxels."""
    sphere_per_mm3 = 4.0 / 3.0 * np.pi * (0.5 / protocol.nominal_mm) ** 3
    return min(1.0, float(sphere_per_mm3 * np.prod(voxel_mm)))


def _require_unsaturated(signals: TubeSignals, image: ImageData, most: float) -> None:
    for number, share in zip(signals.labels, signals.saturated_share, strict=True):
        if share > most:
            raise DataError(
                f"{image.path}: {100 * share:.0f} % of tube {number} are at the largest value of "
                f"the image; expected at most {100 * most:.0f} %; the tube is saturated or the "
                "image was clipped: convert it again with its full range, or mark the other tubes "
                "alone in a desc-refs_dseg image"
            )


def _recoveries(
    tubes: Sequence[Tube], erosions_mm: Mapping[int, float], spread: PointSpread
) -> NDArray[np.float64]:
    shares = [
        recovered_fraction(
            tube.diameter_mm,
            max(tube.diameter_mm - 2.0 * erosions_mm[tube.label], 0.0),
            spread,
        )
        for tube in tubes
    ]
    return np.array(shares)


def _centre_mm(mask: NDArray[np.bool_], affine: NDArray[np.float64]) -> NDArray[np.float64]:
    centre = np.argwhere(mask).mean(axis=0)
    placed: NDArray[np.float64] = affine[:3, :3] @ centre + affine[:3, 3]
    return placed


def _table(
    tubes: Sequence[Tube],
    signals: TubeSignals,
    recovery: NDArray[np.float64],
    weight: float,
    values: NDArray[np.float64],
    sodium: Sequence[float],
    line: Calibration,
) -> pd.DataFrame:
    rows = []
    for index, tube in enumerate(tubes):
        rows.append(
            {
                "tube": tube.label,
                "x": tube.centre_mm[0],
                "y": tube.centre_mm[1],
                "z": tube.centre_mm[2],
                "diameter": tube.diameter_mm,
                "length": tube.length_mm,
                "concentration": sodium[index],
                "n": int(signals.n_voxels[index]),
                "n_outliers": int(signals.n_outliers[index]),
                "signal_mean": signals.mean[index],
                "signal_sd": signals.sd[index],
                "variation": signals.variation[index],
                "snr": signals.snr[index],
                "recovery": recovery[index],
                "weight": weight,
                "signal_corrected": values[index],
                "residual": line.residuals[index],
                "slope": line.slope,
                "intercept": line.intercept,
                "fit": tube.fit,
                "width_scale": tube.width_scale,
            }
        )
    return pd.DataFrame(rows)


def tube_warnings(
    tubes: Sequence[Tube],
    spread: PointSpread,
    erosions_mm: Mapping[int, float],
    choices: TubeChoices,
    signals: TubeSignals,
) -> list[str]:
    """What makes the signal of tubes doubtful, in words.

    Parameters
    ----------
    tubes : sequence of Tube
        The tubes.
    spread : PointSpread
        Of what fills them.
    erosions_mm : mapping of float
        How far from their walls they were measured, by number.
    choices : TubeChoices
        How they should have been.
    signals : TubeSignals
        What they showed.

    Returns
    -------
    list of str
        One sentence for each doubt.
    """
    texts = []
    wanted_mm = choices.erosion_fwhm * spread.fwhm_mm
    for tube in tubes:
        name = f"tube {tube.label}"
        if tube.diameter_mm < _LEAST_DIAMETER_FWHM * spread.fwhm_mm:
            corrected = "corrected" if choices.has_recovery else "not corrected"
            texts.append(
                f"{name} is {tube.diameter_mm:.1f} mm wide, under three widths of its point spread "
                f"({spread.fwhm_mm:.1f} mm): its signal is {corrected} for what blur takes, and "
                "rests on that; use wider tubes"
            )
        if erosions_mm[tube.label] < wanted_mm - 1e-6:
            texts.append(
                f"{name} was measured {erosions_mm[tube.label]:.1f} mm from its wall; expected at "
                f"least {wanted_mm:.1f} mm, which leaves no voxel of it"
            )
        if tube.touches_head:
            texts.append(
                f"{name} is nearer to the head than the point spread is wide: signal of the head "
                "reaches into it; place tubes further away, or leave it out in a desc-refs_dseg "
                "image"
            )
        if tube.is_cut:
            texts.append(
                f"{name} is cut by the field of view; its part in view was measured; see that it "
                "lies in view, or leave it out in a desc-refs_dseg image"
            )
    worst = int(np.argmax(signals.n_outliers / signals.n_voxels))
    share = signals.n_outliers[worst] / signals.n_voxels[worst]
    if share > 0.2:
        texts.append(
            f"{100 * share:.0f} % of tube {signals.labels[worst]} were left out as outliers: look "
            "for bubbles"
        )
    return texts


def _facts(
    table: pd.DataFrame, line: Calibration, warnings: list[str], notes: list[str], n_tubes: int
) -> Facts:
    filled = table[table["concentration"] > 0]
    per_sodium = filled["signal_corrected"] / filled["concentration"]
    measures = [
        ("n_tubes", float(n_tubes)),
        ("tube_snr", float(table["snr"].min())),
        ("tube_variation", 100.0 * float(table["variation"].max())),
        ("tube_recovery", float(table["recovery"].min())),
        ("tube_width_scale", float(table["width_scale"].median())),
    ]
    if len(per_sodium) > 1:
        measures.append(("tube_ratio", float(per_sodium.max() / per_sodium.min())))
    if np.isfinite(line.r_squared):
        measures.append(("calibration_r2", line.r_squared))
    if np.isfinite(line.slope_error):
        measures.append(("slope_error", 100.0 * line.slope_error / line.slope))
    rows = [{"measure": name, "value": value} for name, value in measures]
    return {"measures": rows, "warnings": warnings, "notes": notes}
