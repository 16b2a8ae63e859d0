"""What the stations of a session measure together, and what the report tells of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bids_alsmri.interfaces.base import read_image
from bids_alsmri.numerics.fatty_replacement import GradeBounds
from bids_alsmri.numerics.noise import Noise
from bids_alsmri.pipelines.muscle.doubts import cut_facts, lone_sides
from bids_alsmri.pipelines.muscle.measures import (
    COLUMNS,
    Grading,
    Measured,
    asymmetry_rows,
    combine_stations,
    displaced_fat_rows,
    measure_station,
    regions_to_measure,
    summary_rows,
    without_doubles,
)
from bids_alsmri.pipelines.muscle.steps import Facts
from bids_alsmri.pipelines.muscle.vocabulary import Region, Vocabulary

_MOST_NAMED = 12


def measured_stations(
    inputs: Any, *, has_floor_correction: bool, fat_least: float, grading: Grading
) -> list[Measured]:
    """Stations with their maps, from the inputs of the node that measures them.

    Parameters
    ----------
    inputs : traits
        Lists of files in the order of the stations; empty names for none.
    has_floor_correction : bool
        Whether the noise floor is taken off.
    fat_least : float
        Relative T2 signal from which a voxel is fat.
    grading : Grading
        How fat is graded.

    Returns
    -------
    list of Measured
        In their order.
    """
    found = []
    for number, station in enumerate(inputs.stations):
        protocol = (
            json.loads(Path(inputs.protocols[number]).read_text("utf-8"))
            if inputs.protocols[number]
            else {}
        )
        noise = protocol.get("noise") if has_floor_correction else None
        shift = protocol.get("fat_shift")
        b_values = protocol.get("b_values_s_mm2")
        found.append(
            Measured(
                **station,
                labels=read_image(Path(inputs.labels[number]), ndim=3),
                relative=_values(inputs.relative[number], 3),
                adc=_values(inputs.adc[number], 3),
                series=_values(inputs.series[number], 4),
                b_values=None if b_values is None else np.array(b_values, float),
                noise=None if noise is None else Noise(**noise),
                fat_shift=None if shift is None else (int(shift[0]), float(shift[1])),
                fat_least=fat_least,
                fat=_fat(inputs.fat[number]) if protocol.get("has_fat", True) else None,
                is_dixon="is_ambiguous" in protocol,
                grading=None if protocol.get("is_ambiguous") else grading,
                t2_s=_values(inputs.t2[number], 3),
            )
        )
    return found


def grading_of(values: Mapping[str, float]) -> Grading:
    """How fat is graded, from the input of a node.

    Parameters
    ----------
    values : mapping of float
        fat_threshold, traces, patches and confluent.

    Returns
    -------
    Grading
        Checked.
    """
    bounds = {name: values[name] for name in ("traces", "patches", "confluent")}
    return Grading(values["fat_threshold"], GradeBounds(**bounds))


def read_stations(
    stations: Sequence[dict[str, Any]], labels: Sequence[str], relative: Sequence[str]
) -> list[Measured]:
    """Stations with labels and relative signal alone.

    Parameters
    ----------
    stations : sequence of dict
        What each is.
    labels, relative : sequence of str
        Files; the latter empty for none.

    Returns
    -------
    list of Measured
        In their order.
    """
    return [
        Measured(**station, labels=read_image(Path(own), ndim=3), relative=_values(signal, 3))
        for station, own, signal in zip(stations, labels, relative, strict=True)
    ]


def _fat(path: str) -> Any:
    return read_image(Path(path), ndim=3, nonfinite="keep").data if path else None


def _values(path: str, ndim: Any) -> Any:
    return read_image(Path(path), ndim=ndim).data if path else None


def measure_session(
    stations: Sequence[Measured],
    vocabulary: Vocabulary,
    *,
    adc_least_snr: float,
    most_displaced_fat: float,
    least_voxels: int,
) -> tuple[pd.DataFrame, Facts]:
    """Table of a session with its summary, and what the report tells.

    Parameters
    ----------
    stations : sequence of Measured
        All that have labels.
    vocabulary : Vocabulary
        What labels mean.
    adc_least_snr, most_displaced_fat : float
        As in the settings.
    least_voxels : int
        As in the settings.

    Returns
    -------
    table : DataFrame
        Long form.
    facts : dict
        Measures, warnings and notes.
    """
    kept = without_doubles(stations)
    present = {int(i) for labels in kept.values() for i in np.unique(labels)}
    found = [region for region in vocabulary.regions if region.index in present]
    regions = regions_to_measure(found, vocabulary)
    rows: list[dict[str, Any]] = []
    for station in stations:
        labels = kept[station.key]
        rows += measure_station(station, labels, regions, vocabulary)
        rows += displaced_fat_rows(station, labels, vocabulary)
    table = combine_stations(rows, vocabulary)
    summary = [*asymmetry_rows(table), *summary_rows(table, vocabulary)]
    if summary:
        table = pd.concat([table, pd.DataFrame(summary, columns=list(COLUMNS))], ignore_index=True)
    facts = _facts(
        table,
        vocabulary,
        adc_least_snr=adc_least_snr,
        most_displaced_fat=most_displaced_fat,
        least_voxels=least_voxels,
    )
    cut = cut_facts(stations, vocabulary, _listed)
    return table, {**facts, **{kind: facts[kind] + cut[kind] for kind in cut}}


def _facts(
    table: pd.DataFrame,
    vocabulary: Vocabulary,
    *,
    adc_least_snr: float,
    most_displaced_fat: float,
    least_voxels: int,
) -> Facts:
    def of(measure: str) -> pd.DataFrame:
        return table[table["measure"] == measure]

    warnings = []
    for own, text in (
        (of("volume")[of("volume")["n"] < least_voxels], f"hold fewer than {least_voxels} voxels"),
        (
            of("adc_snr")[of("adc_snr")["value"] < adc_least_snr],
            f"have an SNR below {adc_least_snr:g} at b=0: their ADC is not to be trusted",
        ),
        (
            of("displaced_fat")[of("displaced_fat")["value"] > most_displaced_fat],
            f"have displaced fat over more than {100 * most_displaced_fat:g} % of them: their ADC "
            "may be too low",
        ),
    ):
        if len(own):
            warnings.append(f"{_named(own)} {text}")
    lone = lone_sides(table, vocabulary)
    if lone:
        warnings.append(
            f"no label for {_listed(lone)}, though the other side has one: scores over both sides "
            "are of one side there"
        )
    present = set(zip(table["region"], table["side"], strict=True))

    def is_present(region: Region) -> bool:
        return (region.name, "n/a" if region.side == "midline" else region.side) in present

    muscles = [r for r in vocabulary.regions if r.kind == "muscle" and is_present(r)]
    # of the parts of the body that were labelled: legs alone lack no arm
    labelled = {region.details.get("body_region", "") for region in muscles}
    missing = [
        r.title
        for r in vocabulary.regions
        if r.in_jenkins2020 and r.details.get("body_region", "") in labelled and not is_present(r)
    ]
    notes = [f"no label for {_listed(missing)}"] if missing else []
    values = {
        "adc_snr": of("adc_snr")["value"].min(),
        "largest_displaced_fat": of("displaced_fat")["value"].max(),
        "n_muscles": len(muscles),
    }
    if muscles:
        values["n_muscles_missing"] = len(missing)
    else:
        notes.append("no muscle is labelled: compartments of the legs were measured alone")
    measures = [
        {"measure": name, "value": float(value)}
        for name, value in values.items()
        if not pd.isna(value)
    ]
    return {"measures": measures, "warnings": warnings, "notes": notes}


def _named(own: pd.DataFrame) -> str:
    return _listed(
        [
            str(row["region"]) if row["side"] == "n/a" else f"{row['side']} {row['region']}"
            for row in own.to_dict("records")
        ]
    )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_MOST_NAMED])
    more = len(names) - _MOST_NAMED
    return f"{shown} and {more} more" if more > 0 else shown


def facts_of_references(facts: Sequence[Facts]) -> Facts:
    """Measures of the bone references of all stations.

    Parameters
    ----------
    facts : sequence of dict
        Of each, as :func:`facts_of_reference` gives them.

    Returns
    -------
    dict
        Measures and all warnings.
    """
    references = [reference for part in facts for reference in part.get("references", [])]
    snr = [r["snr"] for r in references if r["snr"] is not None]
    variation = [r["variation"] for r in references if r["variation"] is not None]
    measures = [
        {"measure": "bone_snr", "value": min(snr, default=None)},
        {"measure": "bone_variation", "value": max(variation, default=None)},
        {
            "measure": "n_references_refused",
            "value": float(sum(r["is_refused"] for r in references)),
        },
    ]
    return {
        "measures": measures,
        "warnings": [text for part in facts for text in part.get("warnings", [])],
    }
