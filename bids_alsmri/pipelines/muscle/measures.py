"""What muscles measure: long tables of one station, of a session, and of two readers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from bids_alsmri.interfaces.base import ImageData
from bids_alsmri.numerics.apparent_diffusion import fit_regional_adc
from bids_alsmri.numerics.fatty_replacement import GradeBounds, fatty_shares, mercuri_grades
from bids_alsmri.numerics.muscle_size import asymmetry_percent
from bids_alsmri.numerics.noise import Noise
from bids_alsmri.numerics.rater_agreement import (
    coefficient_of_variation,
    dice_of_labels,
    intraclass_correlation,
    limits_of_agreement,
)
from bids_alsmri.numerics.relative_signal import erode_labels, share_displaced_fat
from bids_alsmri.pipelines.muscle.steps import heights_of
from bids_alsmri.pipelines.muscle.vocabulary import Region, Vocabulary

COLUMNS = ("region", "side", "measure", "value", "unit", "n", "chunk", "station", "source")
SUMMARY = "summary"
STATION_VOLUME = "volume_of_station"
# how values of a muscle that lies in several stations are put together
_ADDED = ("volume", "n_slices")
_LARGEST = ("cross_section", "displaced_fat", "mercuri", "dixon_mercuri")
# size is taken from one acquisition, of the first of these contrasts that has the muscle
_OF_SHAPE = ("volume", "n_slices", "cross_section", "slice")
_SHAPE_ORDER = ("T2w", "T1w", "MESE", "MEGRE", "dwi")
# mean of relative T2 signal that stands for a muscle: of muscles read in the axial plane on the
# grid of the diffusion series where they were measured there, as in Jenkins 2020
_BY_PLANE = ("relative_t2", "relative_t2_median", "relative_t2_sd", "relative_t2_eroded")

Array = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Grading:
    """How the fat of a muscle is graded.

    Parameters
    ----------
    fat_threshold : float
        Fat fraction from which a voxel is fatty.
    bounds : GradeBounds
        Shares of area at which the grade rises.
    """

    fat_threshold: float
    bounds: GradeBounds


@dataclass(frozen=True)
class Measured:
    """A station with its labels and maps.

    Parameters
    ----------
    key, title, chunk, suffix, frame : str
        What it is.
    source : str
        Where its labels come from.
    labels : ImageData
        Numbers of the vocabulary.
    relative : (X, Y, Z) array or None
        Relative T2 signal, 0 where there is none.
    adc : (X, Y, Z) array or None
        Diffusion coefficient of voxels, 0 where there is none.
    series : (X, Y, Z, N) array or None
        Diffusion series.
    b_values : (N,) array or None
        Its weightings.
    noise : Noise or None
        Of the series; None where it is not known or not asked for.
    fat_shift : (int, float) or None
        Axis and displacement of fat, in voxels.
    fat_least : float
        Relative T2 signal from which a voxel is fat.
    fat : (X, Y, Z) array or None
        Fat fraction by signal; NaN where it is not known.
    is_dixon : bool
        Whether that is of a Dixon pair.
    grading : Grading or None
        How fat is graded; None where fractions above one half are not known.
    t2_s : (X, Y, Z) array or None
        Relaxation time, in s; 0 where there is none.
    """

    key: str
    title: str
    chunk: str
    suffix: str
    frame: str
    source: str
    labels: ImageData
    relative: Array | None = None
    adc: Array | None = None
    series: Array | None = None
    b_values: NDArray[np.float64] | None = None
    noise: Noise | None = None
    fat_shift: tuple[int, float] | None = None
    fat_least: float = 0.0
    fat: Array | None = None
    is_dixon: bool = False
    grading: Grading | None = None
    t2_s: Array | None = None

    @property
    def numbers(self) -> NDArray[np.int16]:
        """Labels as whole numbers."""
        return np.asarray(self.labels.data, np.int16)


def regions_to_measure(found: Iterable[Region], vocabulary: Vocabulary) -> list[Region]:
    """Muscles among the labels of a session, and the groups of which all parts are there.

    Parameters
    ----------
    found : iterable of Region
        Those that have voxels.
    vocabulary : Vocabulary
        All that there are.

    Returns
    -------
    list of Region
        In the order of the vocabulary; bones are left out, and so are groups of which a part is
        missing: their mean would be that of other muscles.

    Examples
    --------
    >>> from bids_alsmri.pipelines.muscle.vocabulary import read_vocabulary
    >>> ours = read_vocabulary(None)
    >>> heads = [r for r in ours.regions if r.part_of == "quadriceps" and r.side == "left"]
    >>> len(regions_to_measure(heads, ours)), len(regions_to_measure(heads[:3], ours))
    (5, 3)
    """
    there = set(found)

    def is_covered(region: Region) -> bool:
        if region in there:
            return True
        parts = [
            r for r in vocabulary.regions if r.part_of == region.name and r.side == region.side
        ]
        return bool(parts) and all(is_covered(part) for part in parts)

    return [r for r in vocabulary.regions if r.kind != "bone" and is_covered(r)]


def without_doubles(stations: Sequence[Measured]) -> dict[str, NDArray[np.int16]]:
    """Labels of each station, where neighbours of one contrast hold the same voxels of a muscle.

    Parameters
    ----------
    stations : sequence of Measured
        All of a session.

    Returns
    -------
    dict of array
        Labels by key; where a muscle is labelled in the overlap of two stations, the upper keeps
        what lies above its middle and the lower what lies below.
    """
    kept = {station.key: station.numbers.copy() for station in stations}
    for number, one in enumerate(stations):
        for two in stations[number + 1 :]:
            if (one.suffix, one.frame) == (two.suffix, two.frame):
                _part(one, two, kept)
    return kept


def _part(one: Measured, two: Measured, kept: dict[str, NDArray[np.int16]]) -> None:
    heights = {s.key: heights_of(s.labels) for s in (one, two)}
    upper, lower = sorted((one, two), key=lambda s: -float(heights[s.key].mean()))
    low, high = float(heights[upper.key].min()), float(heights[lower.key].max())
    if high <= low:
        return
    middle = (low + high) / 2
    shared = []
    for station in (upper, lower):
        inside = (heights[station.key] >= low) & (heights[station.key] <= high)
        shared.append(set(np.unique(kept[station.key][inside])) - {0})
    doubles = list(shared[0] & shared[1])
    if doubles:
        for station, is_left in (
            (upper, heights[upper.key] < middle),
            (lower, heights[lower.key] >= middle),
        ):
            labels = kept[station.key]
            labels[is_left & np.isin(labels, doubles)] = 0


def measure_station(
    station: Measured,
    labels: NDArray[np.int16],
    regions: Iterable[Region],
    vocabulary: Vocabulary,
) -> list[dict[str, Any]]:
    """Rows of all muscles of a station.

    Parameters
    ----------
    station : Measured
        Its maps.
    labels : (X, Y, Z) array of int16
        Labels, voxels that another station counts left out.
    regions : iterable of Region
        Those that are measured in the session.
    vocabulary : Vocabulary
        What they mean.

    Returns
    -------
    list of dict
        In the columns `COLUMNS`.
    """
    eroded = erode_labels(labels)
    boxes = ndimage.find_objects(labels)
    rows: list[dict[str, Any]] = []
    along = int(np.argmax(np.abs(station.labels.affine[2, :3])))
    for region in regions:
        parts = [part.index for part in vocabulary.parts_of(region)]
        box = _common_box([boxes[i - 1] for i in parts if i <= len(boxes)])
        if box is None:
            continue
        mask = np.isin(labels[box], parts)
        # where parts touch there is no surface of the whole
        core = np.isin(eroded[box], parts) if len(parts) == 1 else _eroded_whole(labels, box, parts)
        values = [
            *_shape_rows(mask, box, station, along),
            *_signal_rows(station, box, mask, core),
            *_diffusion_rows(station, box, mask, core),
            *_fat_rows(station, box, mask, region),
            *_relaxation_rows(station, box, mask),
        ]
        rows += [_row(region, station, *value) for value in values]
    return rows


Box = tuple[slice, ...]


def _common_box(boxes: Sequence[Box | None]) -> Box | None:
    there = [box for box in boxes if box is not None]
    if not there:
        return None
    return tuple(
        slice(min(b[axis].start for b in there), max(b[axis].stop for b in there))
        for axis in range(3)
    )


def _eroded_whole(labels: NDArray[np.int16], box: Box, parts: list[int]) -> NDArray[np.bool_]:
    whole = np.isin(labels, parts).astype(np.int16)
    return np.asarray(erode_labels(whole)[box] > 0)


def _row(
    region: Region, station: Measured, measure: str, value: float, unit: str, n: int
) -> dict[str, Any]:
    return {
        "region": region.name,
        "side": "n/a" if region.side == "midline" else region.side,
        "measure": measure,
        "value": value,
        "unit": unit,
        "n": n,
        "chunk": station.chunk,
        "station": station.title,
        "source": station.source,
    }


_Value = tuple[str, float, str, int]


def _shape_rows(mask: NDArray[np.bool_], box: Box, station: Measured, along: int) -> list[_Value]:
    voxel_mm = np.array(station.labels.voxel_mm)
    n = int(mask.sum())
    per_slice = np.moveaxis(mask, along, 0).reshape(mask.shape[along], -1).sum(axis=1)
    area = float(voxel_mm.prod() / voxel_mm[along])
    rows: list[_Value] = [
        ("volume", float(n * voxel_mm.prod()), "mm3", n),
        ("cross_section", float(per_slice.max() * area), "mm2", int(per_slice.max())),
    ]
    counts = [
        int(np.moveaxis(mask, axis, 0).reshape(mask.shape[axis], -1).any(axis=1).sum())
        for axis in range(3)
    ]
    thin = int(np.argmin(counts))
    rows.append(("n_slices", float(counts[thin] if counts[thin] == 1 else counts[along]), "1", n))
    if counts[thin] == 1:
        centre = np.argwhere(mask).mean(axis=0) + [s.start for s in box]
        place = station.labels.affine[2, :3] @ centre + station.labels.affine[2, 3]
        rows.append(("slice", float(place), "mm", n))
    return rows


def _signal_rows(
    station: Measured, box: Box, mask: NDArray[np.bool_], core: NDArray[np.bool_]
) -> list[_Value]:
    if station.relative is None:
        return []
    relative = station.relative[box]
    inside = relative[mask & (relative > 0)]
    if len(inside) == 0:
        return []
    rows = _summary("relative_t2", "relative_t2", inside, "1")
    middle = relative[core & (relative > 0)]
    if len(middle):
        rows.append(("relative_t2_eroded", float(middle.mean()), "1", len(middle)))
    return rows


def _summary(mean_name: str, name: str, values: Array, unit: str) -> list[_Value]:
    n = len(values)
    return [
        (mean_name, float(values.mean()), unit, n),
        (f"{name}_median", float(np.median(values)), unit, n),
        (f"{name}_sd", float(values.std(ddof=1)) if n > 1 else float("nan"), unit, n),
    ]


def _diffusion_rows(
    station: Measured, box: Box, mask: NDArray[np.bool_], core: NDArray[np.bool_]
) -> list[_Value]:
    if station.series is None or station.adc is None or station.b_values is None:
        return []
    adc = station.adc[box]
    inside = adc[mask & (adc > 0)]
    whole = fit_regional_adc(station.series[box][mask], station.b_values, station.noise)
    rows: list[_Value] = [("adc", whole.adc_mm2_s, "mm2/s", int(mask.sum()))]
    if np.isfinite(whole.snr):
        rows.append(("adc_snr", whole.snr, "1", int(mask.sum())))
    if len(inside):
        rows += _summary("adc_mean", "adc", inside, "mm2/s")
    middle = adc[core & (adc > 0)]
    if len(middle):
        rows.append(("adc_eroded", float(middle.mean()), "mm2/s", len(middle)))
    return rows


def _fat_rows(station: Measured, box: Box, mask: NDArray[np.bool_], region: Region) -> list[_Value]:
    # compartments are told by their fat: what brightness says of it within them is no finding
    if station.fat is None or not (region.kind == "muscle" or station.is_dixon):
        return []
    fraction = station.fat[box]
    inside = fraction[mask & np.isfinite(fraction)]
    if len(inside) == 0:
        return []
    n = len(inside)
    lead = "dixon_" if station.is_dixon else ""
    rows: list[_Value] = [
        (f"{lead}fat_fraction", float(inside.mean()), "1", n),
        (f"{lead}fat_fraction_median", float(np.median(inside)), "1", n),
    ]
    if station.grading is None or region.kind != "muscle":
        return rows
    threshold = station.grading.fat_threshold
    share = fatty_shares(fraction, np.where(mask, 1, 0), [1], fat_threshold=threshold)
    grade = mercuri_grades(share, station.grading.bounds)
    return [
        *rows,
        (f"{lead}fatty_share", float(share[0]), "1", n),
        (f"{lead}mercuri", float(grade[0]), "1", n),
    ]


def _relaxation_rows(station: Measured, box: Box, mask: NDArray[np.bool_]) -> list[_Value]:
    if station.t2_s is None:
        return []
    inside = 1000.0 * station.t2_s[box][mask & (station.t2_s[box] > 0)]
    return _summary("t2", "t2", inside, "ms") if len(inside) else []


def asymmetry_rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Difference of left and right volumes of each muscle over their mean.

    Parameters
    ----------
    table : DataFrame
        Of a session.

    Returns
    -------
    list of dict
        One row for each muscle with both sides.
    """
    volumes = table[table["measure"] == "volume"]
    sides = {side: volumes[volumes["side"] == side] for side in ("left", "right")}
    both = sides["left"].merge(sides["right"], on="region", suffixes=("_left", "_right"))
    values = asymmetry_percent(both["value_right"], both["value_left"])
    return [
        {
            "region": row["region"],
            "side": "n/a",
            "measure": "asymmetry",
            "value": float(value),
            "unit": "%",
            "n": int(row["n_left"] + row["n_right"]),
            "chunk": row["chunk_left"],
            "station": row["station_left"],
            "source": row["source_left"],
        }
        for row, value in zip(both.to_dict("records"), values, strict=True)
    ]


def displaced_fat_rows(
    station: Measured, labels: NDArray[np.int16], vocabulary: Vocabulary
) -> list[dict[str, Any]]:
    """Rows of the share of each muscle on which displaced fat falls.

    Parameters
    ----------
    station : Measured
        Diffusion station with relative T2 signal on its grid.
    labels : (X, Y, Z) array of int16
        Labels.
    vocabulary : Vocabulary
        What they mean.

    Returns
    -------
    list of dict
        Empty where the displacement or the fat is not known.
    """
    if station.fat_shift is None or station.relative is None or station.series is None:
        return []
    axis, shift = station.fat_shift
    by_index = vocabulary.by_index
    wanted = [int(i) for i in np.unique(labels) if int(i) in by_index]
    shares = share_displaced_fat(
        labels,
        station.relative >= station.fat_least,
        axis=axis,
        shift_voxels=shift,
        wanted=[i for i in wanted if by_index[i].kind == "muscle"],
    )
    return [
        _row(by_index[i], station, "displaced_fat", share, "1", int((labels == i).sum()))
        for i, share in shares.items()
    ]


def combine_stations(rows: Sequence[Mapping[str, Any]], vocabulary: Vocabulary) -> pd.DataFrame:
    """One table of a session: each muscle from the stations and the plane that it is read in.

    Parameters
    ----------
    rows : sequence of mapping
        Of all stations.
    vocabulary : Vocabulary
        Gives the plane.

    Returns
    -------
    DataFrame
        In the columns `COLUMNS`. A muscle that lies in several stations has one row for them all:
        means are weighted by voxels, volumes added, areas the largest. Volumes of compartments
        are told for each station too.
    """
    table = pd.DataFrame(list(rows), columns=list(COLUMNS))
    if table.empty:
        return table
    planes = {region.name: region.plane for region in vocabulary.regions}
    compartments = {r.name for r in vocabulary.regions if r.kind == "compartment"}
    parts = []
    for (region, _, measure), own in table.groupby(["region", "side", "measure"], sort=False):
        read = _of_plane(own, str(measure), planes[str(region)])
        parts.append(_combined(read, str(measure)))
        # that of thigh and calf is no one muscle, and each is asked for
        if measure == "volume" and region in compartments and len(read) > 1:
            parts += [
                {**_combined(read.loc[[row]], "volume"), "measure": STATION_VOLUME}
                for row in read.index
            ]
    return pd.DataFrame(parts, columns=list(COLUMNS))


def _of_plane(own: pd.DataFrame, measure: str, plane: str) -> pd.DataFrame:
    is_dwi = own["station"].str.endswith(" dwi")
    if measure in _BY_PLANE:
        wanted = is_dwi if plane == "axial" else ~is_dwi
    elif measure in _OF_SHAPE:
        wanted = own["station"].isin(_stations_of_shape(own))
    else:
        return own
    return own[wanted] if wanted.any() else own


def _stations_of_shape(own: pd.DataFrame) -> list[str]:
    """Stations of the one acquisition that a muscle's size is taken from.

    A muscle that is labelled in several contrasts is one muscle: its volumes are not added.
    """
    kinds = own["station"].str.replace(r"_?chunk-[^_ ]+", "", regex=True)
    totals = own.groupby(kinds)["value"].sum()
    ranks = {
        str(kind): (_SHAPE_ORDER.index(str(kind).split(" ")[-1]), -float(total))
        for kind, total in totals.items()
    }
    best = min(ranks, key=lambda kind: ranks[kind])
    return [str(station) for station in own.loc[kinds == best, "station"]]


def _combined(own: pd.DataFrame, measure: str) -> dict[str, Any]:
    row = own.sort_values("n", kind="stable").iloc[-1]
    first = {str(name): value for name, value in row.to_dict().items()}
    if len(own) == 1:
        return first
    n = own["n"].to_numpy(float)
    values = own["value"].to_numpy(float)
    if measure in _ADDED:
        value = float(values.sum())
    elif measure in _LARGEST:
        value = float(values.max())
    elif measure == "slice":
        return first
    else:
        value = float((n * values).sum() / n.sum())
    return {
        **first,
        "value": value,
        "n": int(n.sum()),
        "chunk": "+".join(dict.fromkeys(own["chunk"].astype(str))),
        "station": "; ".join(dict.fromkeys(own["station"])),
        "source": "; ".join(dict.fromkeys(own["source"])),
    }


def summary_rows(table: pd.DataFrame, vocabulary: Vocabulary) -> list[dict[str, Any]]:
    """Mean over the muscles of Jenkins 2020, of relative T2 signal and diffusion.

    Parameters
    ----------
    table : DataFrame
        Of the session.
    vocabulary : Vocabulary
        Which muscles count.

    Returns
    -------
    list of dict
        One row for each measure that is there; `n` is the number of muscles.
    """
    listed = {
        (r.name, "n/a" if r.side == "midline" else r.side)
        for r in vocabulary.regions
        if r.in_jenkins2020
    }
    rows = []
    for measure in ("relative_t2", "adc"):
        own = table[table["measure"] == measure]
        keys = zip(own["region"], own["side"], strict=True)
        is_listed = np.array([key in listed for key in keys], dtype=bool)
        own = own[is_listed].dropna(subset=["value"])
        if len(own):
            rows.append(
                {
                    "region": SUMMARY,
                    "side": "n/a",
                    "measure": measure,
                    "value": float(own["value"].mean()),
                    "unit": str(own["unit"].iloc[0]),
                    "n": len(own),
                    "chunk": "n/a",
                    "station": "n/a",
                    "source": "n/a",
                }
            )
    return rows


def compare_readers(
    first: Sequence[Measured], second: Sequence[Measured], vocabulary: Vocabulary
) -> pd.DataFrame:
    """How two readers agree, muscle by muscle and over the muscles of the session.

    Parameters
    ----------
    first, second : sequence of Measured
        The same stations with the labels of either.
    vocabulary : Vocabulary
        What they mean.

    Returns
    -------
    DataFrame
        Long form.
    """
    rows: list[dict[str, Any]] = []
    pairs: list[tuple[float, float]] = []
    volumes: list[tuple[float, float]] = []
    for one, two in zip(first, second, strict=True):
        rows += _compare_station(one, two, vocabulary, pairs, volumes)
    everything = {"region": "all", "side": "n/a", "chunk": "n/a", "station": "n/a"}
    for suffix, values, unit in (("", pairs, "1"), ("_volume", volumes, "mm3")):
        if values:
            array = np.array(values)
            limits = limits_of_agreement(array)
            found = {
                "variation": (coefficient_of_variation(array), "1"),
                "icc": (intraclass_correlation(array), "1"),
                "bias": (limits.bias, unit),
                "low": (limits.low, unit),
                "high": (limits.high, unit),
            }
            rows += [
                {**everything, "measure": f"{name}{suffix}", "value": v, "unit": u, "n": len(array)}
                for name, (v, u) in found.items()
            ]
    return pd.DataFrame(rows, columns=[c for c in COLUMNS if c != "source"])


def _compare_station(
    one: Measured,
    two: Measured,
    vocabulary: Vocabulary,
    pairs: list[tuple[float, float]],
    volumes: list[tuple[float, float]],
) -> list[dict[str, Any]]:
    by_index = vocabulary.by_index
    both = sorted((set(np.unique(one.numbers)) | set(np.unique(two.numbers))) & set(by_index))
    muscles = [int(i) for i in both if by_index[int(i)].kind == "muscle"]
    voxel_mm3 = float(np.prod(one.labels.voxel_mm))
    rows = []
    for index, dice in dice_of_labels(one.numbers, two.numbers, muscles).items():
        n = [int((station.numbers == index).sum()) for station in (one, two)]
        values: list[_Value] = [("dice", dice, "1", n[0])]
        sizes = (n[0] * voxel_mm3, n[1] * voxel_mm3)
        values += _pair_rows(("first_volume", "second_volume"), sizes, "mm3", n[0])
        means = tuple(_mean_relative(station, index) for station in (one, two))
        if all(n):
            volumes.append(sizes)
            if np.isfinite(means).all():
                values += _pair_rows(("first", "second"), (means[0], means[1]), "1", n[0])
                pairs.append((means[0], means[1]))
        rows += [_row(by_index[index], one, *value) for value in values]
    return rows


def _pair_rows(
    names: tuple[str, str], values: tuple[float, float], unit: str, n: int
) -> list[_Value]:
    ending = names[0].removeprefix("first")
    rows: list[_Value] = [(name, v, unit, n) for name, v in zip(names, values, strict=True)]
    if all(values):
        variation = coefficient_of_variation(np.array([values]))
        rows.append((f"variation{ending}", variation, "1", n))
    return rows


def _mean_relative(station: Measured, index: int) -> float:
    if station.relative is None:
        return float("nan")
    inside = station.relative[(station.numbers == index) & (station.relative > 0)]
    return float(inside.mean()) if len(inside) else float("nan")
