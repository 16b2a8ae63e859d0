"""Figures of the muscle pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bids_alsmri.interfaces.images import canonical, voxel_edges_mm
from bids_alsmri.pipelines.muscle.measures import SUMMARY
from bids_alsmri.reports.figures import (
    draw_body_chart,
    draw_difference,
    draw_map_columns,
    draw_planes,
    draw_regions,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MEASURE = "relative_t2"
# share of the 99th percentile from which a voxel is body
_BODY_SHARE = 0.12
# figures show volumes in ml, tables in mm3
_ML_PER_MM3 = 1e-3


def draw_muscles(table: pd.DataFrame) -> Figure:
    """Relative T2 signal of each muscle, left and right.

    Parameters
    ----------
    table : DataFrame
        Of a session.

    Returns
    -------
    figure : matplotlib.figure.Figure
        Of volumes where no station has a bone reference.
    """
    measure, unit = (
        (_MEASURE, "relative T2 signal")
        if (table["measure"] == _MEASURE).any()
        else ("volume", "volume (ml)")
    )
    scale = _ML_PER_MM3 if measure == "volume" else 1.0
    own = table[(table["measure"] == measure) & (table["region"] != SUMMARY)]
    keys = list(zip(own["region"], own["side"], strict=True))
    spread = table[table["measure"] == f"{measure}_sd"].set_index(["region", "side"])["value"]
    shown = pd.DataFrame(
        {
            "region": own["region"],
            "side": own["side"],
            "map": measure,
            "mean": scale * own["value"],
            "sd": [spread.get(key, np.nan) for key in keys],
            "n": own["n"],
        }
    )
    return draw_regions(shown, measures={measure: unit}, xlabel=unit)


# distance from the midline, height, width and height, in shares of the body's height
CHART = {
    "tongue": (0.0, 0.905, 0.028, 0.02), "splenius capitis": (0.0, 0.855, 0.026, 0.03),
    "sternocleidomastoid": (0.03, 0.858, 0.016, 0.045), "trapezius": (0.058, 0.826, 0.036, 0.03),
    "deltoid": (0.118, 0.785, 0.042, 0.06), "biceps brachii": (0.128, 0.705, 0.03, 0.08),
    "triceps": (0.162, 0.7, 0.022, 0.085), "forearm compartment": (0.16, 0.575, 0.034, 0.12),
    "thenar": (0.155, 0.475, 0.015, 0.03), "hypothenar": (0.192, 0.475, 0.015, 0.03),
    "first dorsal interosseous": (0.168, 0.435, 0.014, 0.03),
    "thoracic paraspinal": (0.026, 0.7, 0.03, 0.15), "psoas": (0.032, 0.57, 0.034, 0.08),
    "gluteus maximus": (0.055, 0.485, 0.07, 0.065), "quadriceps": (0.082, 0.365, 0.04, 0.16),
    "hamstrings": (0.042, 0.36, 0.03, 0.16), "tibialis anterior": (0.08, 0.165, 0.024, 0.14),
    "gastrocnemius and soleus": (0.05, 0.17, 0.03, 0.15),
}  # fmt: skip


def draw_chart(table: pd.DataFrame) -> Figure:
    """Relative T2 signal, and fat where it is known, on a body.

    Parameters
    ----------
    table : DataFrame
        Of a session.

    Returns
    -------
    figure : matplotlib.figure.Figure
        Muscles of Jenkins 2020; grey where there is no value.
    """
    panels = []
    fat = ("fat_fraction", "fat fraction by signal")
    if (table["measure"] == "dixon_fat_fraction").any():
        fat = ("dixon_fat_fraction", "fat fraction (Dixon)")
    for measure, label in ((_MEASURE, "relative T2 signal"), fat):
        own = table[table["measure"] == measure]
        values = {
            (str(r), str(s)): float(v)
            for r, s, v in zip(own["region"], own["side"], own["value"], strict=True)
        }
        if measure == _MEASURE or any(region in CHART for region, _ in values):
            panels.append((label, values))
    return draw_body_chart(panels, CHART)


def draw_readers(table: pd.DataFrame) -> Figure:
    """Difference of two readers over their mean.

    Parameters
    ----------
    table : DataFrame
        Of their agreement.

    Returns
    -------
    figure : matplotlib.figure.Figure
        Bland and Altman's; of volumes where there is no relative T2 signal.
    """
    ending = "" if (table["measure"] == "first").any() else "_volume"
    wide = table[table["region"] != "all"].pivot_table(
        index=["region", "side", "station"], columns="measure", values="value"
    )
    pairs = wide[[f"first{ending}", f"second{ending}"]].dropna().to_numpy(float)
    limits = table[table["region"] == "all"].set_index("measure")["value"]
    scale, label = (_ML_PER_MM3, "volume (ml)") if ending else (1.0, "relative T2 signal")
    low, bias, high = (scale * limits[f"{name}{ending}"] for name in ("low", "bias", "high"))
    return draw_difference(
        scale * pairs,
        (low, bias, high),
        label=label,
    )


def _read(path: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    import nibabel as nib

    image = nib.as_closest_canonical(nib.load(Path(path)))
    data = np.asarray(image.dataobj, np.float32)
    return (data[..., 0] if data.ndim == 4 else data), image.affine


def draw_overview(images: Sequence[str], titles: Sequence[str], labels: Sequence[str]) -> Figure:
    """Coronal slices through stations, each at its place in the world.

    Parameters
    ----------
    images : sequence of str
        Stations of one contrast.
    titles : sequence of str
        Their names.
    labels : sequence of str
        Their labels; empty for none.

    Returns
    -------
    figure : matplotlib.figure.Figure
        One panel.
    """
    panels = []
    for image, title, label in zip(images, titles, labels, strict=True):
        data, affine = _read(image)
        edges = voxel_edges_mm(affine)
        marked = canonical(Path(label))[0] if label else np.zeros(data.shape)
        if marked.any():
            at = int(np.argmax((marked > 0).sum(axis=(0, 2))))
        else:
            # through the middle of the body in this station, from front to back
            weight = data.sum(axis=(0, 2)) + np.finfo(np.float32).tiny
            at = int(np.round(np.average(np.arange(len(weight)), weights=weight)))
        extent = _extent(affine, data.shape, 0, 2, edges)
        panels.append((data[:, at].T, extent, marked[:, at].T, title))
    return draw_planes(panels, is_stitched=True)


# by kind: label, factor to its unit, and the values of the scale's ends; None for the brightest
MAPS: Mapping[str, tuple[str, float, float | None]] = {
    "relative": ("relative T2 signal", 1.0, None),
    "adc": ("ADC ($10^{-3}$ mm$^2$/s)", 1e3, 3.0),
    "fat": ("fat fraction by signal", 1.0, 1.0),
    "dixon": ("fat fraction (Dixon)", 1.0, 1.0),
    "t2": ("T2 (ms)", 1e3, None),
}
# 0 is a value of these, and none of the others
_FRACTIONS = ("fat", "dixon")
# of the values of a map, which noise outside the body has little of
_BRIGHTEST_PERCENT = 99.0


def draw_maps(maps: Sequence[str], kinds: Sequence[str]) -> Figure:
    """Coronal slices through the maps of all stations, one column for each kind.

    Parameters
    ----------
    maps : sequence of str
        Maps of stations; 0 or NaN where there is no value.
    kinds : sequence of str
        Of each, a key of `MAPS`.

    Returns
    -------
    figure : matplotlib.figure.Figure
        Columns in the order of `MAPS`.
    """
    columns = []
    for kind, (label, factor, highest) in MAPS.items():
        planes, values = [], []
        for path in [p for p, own in zip(maps, kinds, strict=True) if own == kind]:
            data, affine = _read(path)
            is_known = np.isfinite(data) & ((data > 0) | (kind in _FRACTIONS))
            data = np.where(is_known, factor * data, np.nan)
            weight = np.isfinite(data).sum(axis=(0, 2)) + np.finfo(np.float32).tiny
            at = int(np.round(np.average(np.arange(len(weight)), weights=weight)))
            extent = _extent(affine, data.shape, 0, 2, voxel_edges_mm(affine))
            planes.append((data[:, at].T, extent))
            values.append(data[np.isfinite(data)])
        if planes:
            found = np.concatenate(values)
            top = highest or (np.percentile(found, _BRIGHTEST_PERCENT) if len(found) else 1.0)
            columns.append((label, (0.0, float(top)), planes))
    return draw_map_columns(columns)


# of a muscle's largest area that a slice must show of it, and panels of the figure
_LEAST_SHOWN, _MOST_PANELS = 0.5, 24
_MOST_NAMES = 3
# voxels around the labels
_MARGIN = 6


def covering_slices(labels: np.ndarray[Any, Any]) -> list[tuple[int, tuple[int, ...]]]:
    """Slices that show every label well, as few as a greedy choice finds.

    Parameters
    ----------
    labels : (X, Y, Z) array of int
        Labels; slices are along the last axis.

    Returns
    -------
    list of (slice, labels)
        From the lowest; of each, the labels that it was chosen for.

    Examples
    --------
    >>> labels = np.zeros((4, 4, 3), int)
    >>> labels[:2, :, :2], labels[2:, :, 1:] = 1, 2
    >>> covering_slices(labels)
    [(1, (1, 2))]
    """
    numbers = [int(n) for n in np.unique(labels) if n > 0]
    if not numbers:
        return []
    areas = np.array([(labels == n).sum(axis=(0, 1)) for n in numbers])
    is_shown = areas >= _LEAST_SHOWN * areas.max(axis=1, keepdims=True, initial=1)
    left, found = np.ones(len(numbers), bool), []
    while left.any():
        # of slices that show as many, the one with the most of them
        score = is_shown[left].sum(axis=0) + areas.sum(axis=0) / (areas.sum() + 1.0)
        at = int(np.argmax(score))
        new = is_shown[:, at] & left
        found.append((at, tuple(n for n, is_new in zip(numbers, new, strict=True) if is_new)))
        left &= ~new
    return sorted(found)


def draw_slices(
    images: Sequence[str],
    titles: Sequence[str],
    labels: Sequence[str],
    names: Mapping[int, str],
) -> Figure:
    """Axial slices through the labels of stations, each muscle in one of them at least.

    Parameters
    ----------
    images : sequence of str
        Stations.
    titles : sequence of str
        Their names.
    labels : sequence of str
        Their labels.
    names : mapping of str
        Name of each label without its side.

    Returns
    -------
    figure : matplotlib.figure.Figure
        24 panels at most.
    """
    panels = []
    for image, title, label in zip(images, titles, labels, strict=True):
        data, affine = _read(image)
        outline = canonical(Path(label))[0]
        edges = voxel_edges_mm(affine)
        # without the air around a limb
        for axis in (0, 1):
            filled = np.flatnonzero((outline > 0).any(axis=tuple({0, 1, 2} - {axis})))
            if len(filled) == 0:
                continue
            first, last = max(int(filled[0]) - _MARGIN, 0), int(filled[-1]) + _MARGIN + 1
            kept = (slice(first, last), slice(None))[:: 1 if axis == 0 else -1]
            data, outline = data[kept], outline[kept]
            affine = affine.copy()
            affine[axis, 3] += edges[axis] * first
        extent = _extent(affine, data.shape, 0, 1, edges)
        for at, own in covering_slices(outline) or [(data.shape[2] // 2, ())]:
            height = affine[2, 2] * at + affine[2, 3]
            told = list(dict.fromkeys(names.get(n, str(n)) for n in own))
            more = f" and {len(told) - _MOST_NAMES} more" if len(told) > _MOST_NAMES else ""
            name = f"{title}, {height:.0f} mm\n{', '.join(told[:_MOST_NAMES])}{more}"
            panels.append((data[:, :, at].T, extent, outline[:, :, at].T, name))
    return draw_planes(panels[:_MOST_PANELS], is_stitched=False)


def draw_visits(pairs: Sequence[tuple[str, str]], names: Sequence[tuple[str, str]]) -> Figure:
    """Coronal slices through the right leg of the lowest station at two visits.

    Parameters
    ----------
    pairs : sequence of (str, str)
        Each station at the first visit and at a later one.
    names : sequence of (str, str)
        Of each station and visit.

    Returns
    -------
    figure : matplotlib.figure.Figure
        One panel each; of a station without legs its right half.
    """
    heights = []
    for _, image in pairs:
        data, affine = _read(image)
        heights.append(float(affine[2, 3] + affine[2, 2] * (data.shape[2] - 1) / 2))
    lowest = int(np.argmin(heights))
    panels = []
    for image, name in zip(pairs[lowest], names[lowest], strict=True):
        data, affine = _read(image)
        body = data > _BODY_SHARE * np.percentile(data, 99)
        columns = body.sum(axis=(1, 2)) + np.finfo(np.float32).tiny
        middle = int(np.round(np.average(np.arange(len(columns)), weights=columns)))
        # x grows to the right
        filled = np.flatnonzero(body[middle:].any(axis=(1, 2)))
        right = data[middle : middle + int(filled.max(initial=0)) + 3]
        depths = body[middle:].sum(axis=(0, 2)) + np.finfo(np.float32).tiny
        at = int(np.round(np.average(np.arange(len(depths)), weights=depths)))
        moved = affine.copy()
        moved[0, 3] += affine[0, 0] * middle
        extent = _extent(moved, right.shape, 0, 2, voxel_edges_mm(affine))
        panels.append((right[:, at].T, extent, None, name))
    return draw_planes(panels, is_stitched=False)


def _extent(
    affine: np.ndarray[Any, Any],
    shape: Sequence[int],
    across: int,
    up: int,
    edges: Sequence[float],
) -> tuple[float, float, float, float]:
    """World coordinates of the edges of a plane, left, right, bottom and top."""
    low = [affine[a, 3] - edges[a] / 2 for a in (across, up)]
    high = [lo + edges[a] * shape[a] for lo, a in zip(low, (across, up), strict=True)]
    return float(low[0]), float(high[0]), float(low[1]), float(high[1])
