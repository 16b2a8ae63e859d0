"""Plots of clinical tables: forests, courses, responsiveness, visits, curves, whole patients."""

from __future__ import annotations

import textwrap
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bids_alsmri.errors import NumericsError
from bids_alsmri.reports.sheets import (
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    VERMILION,
    fixed_style,
    plain_figure,
    write_head,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SOFT, _DARK, _MAGENTA = "#57606a", "#1b1f24", "#c2185b"
_ROW_IN, _HEAD_IN, _FOOT_IN = 0.24, 0.75, 0.62
_LEFT, _WIDTH = 0.3, 0.66
_RESPONSIVE = 0.8  # Cohen's large effect (Jenkins 2020)
# By site of onset, as in Jenkins 2020; lines are told apart by pattern too.
_ONSETS: tuple[tuple[tuple[str, ...], str, str, str], ...] = (
    (("bulb",), "bulbar", GREEN, ":"),
    (("ul", "upper", "arm", "hand"), "upper limb", BLUE, "-"),
    (("ll", "lower", "leg", "foot"), "lower limb", VERMILION, "-."),
)
_OTHER = ("other or unknown", _SOFT, "-")
_VISIT_LOOKS = ((BLUE, "o"), (ORANGE, "s"), (VERMILION, "^"), (PURPLE, "D"), (GREEN, "v"))


@dataclass(frozen=True)
class Course:
    """One measure of all patients over visits.

    Parameters
    ----------
    title, unit : str
        What it is.
    months : sequence of float
        Times of the visits.
    values : (n, v) array
        Patients in rows, NaN where missing.
    onsets : sequence of str
        Site of onset of each.
    control_means : (v,) array
        Of the controls at each visit, NaN where there are none.
    """

    title: str
    unit: str
    months: Sequence[float]
    values: NDArray[np.float64]
    onsets: Sequence[str]
    control_means: NDArray[np.float64]


def draw_forest(rows: pd.DataFrame, *, title: str, unit: str) -> Figure:
    """Differences with intervals, the largest on top.

    Parameters
    ----------
    rows : DataFrame
        ``name``, ``percent``, ``low``, ``high`` and ``survives``.
    title, unit : str
        Of figure and axis.

    Returns
    -------
    figure : matplotlib.figure.Figure
        Arrows where an interval leaves the axis.

    Raises
    ------
    NumericsError
        If there is no row.

    Examples
    --------
    >>> import pandas as pd
    >>> rows = pd.DataFrame({"name": ["tongue"], "percent": [11.4], "low": [1.7], "high": [21.2],
    ...     "survives": [False]})
    >>> len(draw_forest(rows, title="T", unit="%").axes)
    1
    """
    rows = rows.sort_values("percent", ascending=False)
    marks = [("o", bool(s)) for s in rows["survives"]]
    return _draw_intervals(
        rows, "percent", "low", "high", marks, title, unit, "Filled: survives its family."
    )


def draw_responses(rows: pd.DataFrame, *, title: str) -> Figure:
    """Standardised response means ranked by size, with intervals.

    Parameters
    ----------
    rows : DataFrame
        ``name``, ``srm``, ``srm_low`` and ``srm_high``.
    title : str
        Of the figure.

    Returns
    -------
    figure : matplotlib.figure.Figure
        Dots for increases, squares for decreases.

    Raises
    ------
    NumericsError
        If there is no row.

    Examples
    --------
    >>> import pandas as pd
    >>> rows = pd.DataFrame({"name": ["ALSFRS-R"], "srm": [-1.22], "srm_low": [-1.9],
    ...     "srm_high": [-0.5]})
    >>> draw_responses(rows, title="T").axes[0].get_xlabel()
    'standardised response mean'
    """
    order = rows["srm"].abs().sort_values(ascending=False).index
    rows = rows.reindex(order)
    marks = [("o" if value > 0 else "s", True) for value in rows["srm"]]
    return _draw_intervals(
        rows,
        "srm",
        "srm_low",
        "srm_high",
        marks,
        title,
        "standardised response mean",
        "Ranked by size. Dots: increase; squares: decrease. Dotted lines: ±0.8.",
        lines=(-_RESPONSIVE, _RESPONSIVE),
    )


def _draw_intervals(
    rows: pd.DataFrame,
    value: str,
    low: str,
    high: str,
    marks: Sequence[tuple[str, bool]],
    title: str,
    unit: str,
    text: str,
    *,
    lines: Sequence[float] = (),
) -> Figure:
    if not len(rows):
        raise NumericsError(f"{title}: no row to draw; give at least one")
    height_in = _HEAD_IN + _FOOT_IN + _ROW_IN * (len(rows) + 1)
    with fixed_style():
        figure = plain_figure(height_in)
        write_head(figure, title, text)
        axes = figure.add_axes(
            (_LEFT, _FOOT_IN / height_in, _WIDTH, 1 - (_HEAD_IN + _FOOT_IN) / height_in)
        )
        start, end = _reach(rows[value].to_numpy(float), rows[low], rows[high], lines)
        for place, (row, (marker, is_full)) in enumerate(
            zip(rows.to_dict("records"), marks, strict=True)
        ):
            a, b = (min(max(float(row[k]), start), end) for k in (low, high))
            axes.plot([a, b], [place, place], color=_SOFT, linewidth=1.6, zorder=2)
            for edge, at, arrow in ((low, start, "<"), (high, end, ">")):
                if not start <= float(row[edge]) <= end:
                    axes.plot(at, place, marker=arrow, color=_SOFT, markersize=6, clip_on=False)
            axes.plot(
                float(row[value]),
                place,
                marker=marker,
                markersize=6.5,
                color=BLUE,
                markerfacecolor=BLUE if is_full else "white",
                zorder=3,
            )
        axes.axvline(0, color=_DARK, linewidth=1)
        for line in lines:
            axes.axvline(line, color=_SOFT, linewidth=1, linestyle=":")
        names = [textwrap.shorten(str(n), 46, placeholder=" …") for n in rows["name"]]
        axes.set_yticks(range(len(rows)), names, parse_math=False)
        axes.set(xlim=(start, end), ylim=(len(rows) - 0.4, -0.6))
        axes.set_xlabel(unit, parse_math=False)
        axes.grid(axis="x", color="#e5e7ea", linewidth=0.7)
        axes.set_axisbelow(True)
    return figure


def _reach(
    values: NDArray[np.float64], low: ArrayLike, high: ArrayLike, lines: Sequence[float]
) -> tuple[float, float]:
    """Ends of the axis: all estimates, and intervals but for the few that would squeeze all."""
    lows, highs = (np.asarray(x, float)[np.isfinite(np.asarray(x, float))] for x in (low, high))
    start = min(
        float(values.min()), float(np.quantile(lows, 0.05)) if len(lows) else 0.0, 0.0, *lines
    )
    end = max(
        float(values.max()), float(np.quantile(highs, 0.95)) if len(highs) else 0.0, 0.0, *lines
    )
    margin = 0.05 * (end - start) or 1.0
    return start - margin, end + margin


def draw_courses(courses: Sequence[Course], *, title: str) -> Figure:
    """Patients over visits, by onset, with the means of patients and controls.

    Parameters
    ----------
    courses : sequence of Course
        Up to four panels.
    title : str
        Of the figure.

    Returns
    -------
    figure : matplotlib.figure.Figure
        Two panels in a row.

    Raises
    ------
    NumericsError
        If there is no panel.

    Examples
    --------
    >>> course = Course("T2", "1", [0, 4], np.ones((2, 2)), ["bulbar", "spinal_LL"], np.ones(2))
    >>> len(draw_courses([course], title="T").axes)
    1
    """
    if not courses:
        raise NumericsError(f"{title}: no panel to draw; give at least one")
    n_rows = (len(courses) + 1) // 2
    height_in = _HEAD_IN + 0.45 + 3.3 * n_rows
    looks: dict[str, tuple[str, str]] = {}
    with fixed_style():
        figure = plain_figure(height_in)
        write_head(figure, title, "Lines: patients. Dashed: means of those seen.")
        for number, course in enumerate(courses):
            row, column = divmod(number, 2)
            bottom = height_in - _HEAD_IN - 0.1 - 3.3 * (row + 1) + 0.55
            place = (0.07 + 0.5 * column, bottom / height_in, 0.41, 2.4 / height_in)
            axes = figure.add_axes(place)
            _draw_course(axes, course, looks)
        _course_key(figure, looks, height_in)
    return figure


def _draw_course(axes: Axes, course: Course, looks: dict[str, tuple[str, str]]) -> None:
    months = np.asarray(course.months, float)
    for values, onset in zip(course.values, course.onsets, strict=True):
        name, color, pattern = _onset_look(onset)
        known = np.isfinite(values)
        if not known.any():
            continue
        looks.setdefault(name, (color, pattern))
        marker = "o" if known.sum() == 1 else ""
        axes.plot(
            months[known], values[known], color=color, linestyle=pattern, alpha=0.6,
            linewidth=1.2, marker=marker, markersize=3,
        )  # fmt: skip
    seen = np.asarray(np.isfinite(course.values).any(axis=0))
    means = np.array(
        [np.nanmean(v) if k else np.nan for v, k in zip(course.values.T, seen, strict=True)]
    )
    axes.plot(months, means, color=_DARK, linestyle="--", linewidth=2.6, zorder=5)
    known = np.isfinite(course.control_means)
    if known.sum() == 1:
        axes.axhline(
            course.control_means[known][0], color=_MAGENTA, linestyle=(0, (6, 3)), linewidth=2
        )
    elif known.any():
        axes.plot(
            months[known], course.control_means[known], color=_MAGENTA, linestyle=(0, (6, 3)),
            linewidth=2, zorder=4,
        )  # fmt: skip
    axes.set_title(course.title, fontsize=10, loc="left", fontweight="bold", parse_math=False)
    axes.set_xlabel("months")
    unit = course.unit if course.unit not in ("", "1", "nan") else "value"
    axes.set_ylabel(unit, parse_math=False)
    axes.set_xticks(months, [f"{m:g}" for m in months])


def _onset_look(onset: str) -> tuple[str, str, str]:
    text = onset.lower()
    for words, name, color, pattern in _ONSETS:
        if any(word in text for word in words) and not (name == "upper limb" and "bulb" in text):
            return name, color, pattern
    return _OTHER


def _course_key(figure: Figure, looks: Mapping[str, tuple[str, str]], height_in: float) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=color, linestyle=pattern, label=name)  # type: ignore[arg-type]
        for name, (color, pattern) in sorted(looks.items())
    ]
    handles.append(
        Line2D([], [], color=_DARK, linestyle="--", linewidth=2.6, label="patients, mean")
    )
    handles.append(
        Line2D([], [], color=_MAGENTA, linestyle=(0, (6, 3)), linewidth=2, label="controls, mean")
    )
    figure.legend(
        handles=handles,
        loc="center left",
        bbox_to_anchor=(0.003, 1 - 0.78 / height_in),
        ncols=len(handles),
        frameon=False,
    )


def draw_visits(counts: pd.DataFrame) -> Figure:
    r"""Flow of participants over visits: boxes for those seen, side boxes for those lost.

    Parameters
    ----------
    counts : DataFrame
        ``group``, ``visit``, ``months``, ``n`` seen and ``of`` all of the group, in order of time.

    Returns
    -------
    figure : matplotlib.figure.Figure
        A row for each group.

    Raises
    ------
    NumericsError
        If there is no row.

    Examples
    --------
    >>> import pandas as pd
    >>> counts = pd.DataFrame({"group": ["als"] * 2, "visit": ["m00", "m12"], "months": [0.0, 12.0],
    ...     "n": [29, 13], "of": [29, 29]})
    >>> [text.get_text() for text in draw_visits(counts).axes[0].texts][:2]
    ['als', 'm00\nn = 29']
    """
    from matplotlib.patches import FancyBboxPatch

    if not len(counts):
        raise NumericsError("counts has no row; give one per group and visit")
    groups = list(dict.fromkeys(counts["group"]))
    n_visits = max(int((counts["group"] == group).sum()) for group in groups)
    height_in = _HEAD_IN + 1.75 * len(groups)
    with fixed_style():
        figure = plain_figure(height_in)
        write_head(figure, "Participants over visits", "Boxes: seen at the visit. Below: not seen.")
        axes = figure.add_axes((0, 0, 1, 1 - _HEAD_IN / height_in))
        axes.set(xlim=(-0.75, max(n_visits, 3) - 0.4), ylim=(len(groups) - 0.42, -0.58))
        axes.axis("off")
        for row, group in enumerate(groups):
            own = counts[counts["group"] == group].to_dict("records")
            axes.text(
                -0.68, row - 0.2, str(group), fontweight="bold", va="center", parse_math=False
            )
            for place, one in enumerate(own):
                box = (place - 0.3, row - 0.4)
                axes.add_patch(
                    FancyBboxPatch(
                        box,
                        0.6,
                        0.4,
                        boxstyle="round,pad=0,rounding_size=0.03",
                        facecolor="#eaf2fb",
                        edgecolor=BLUE,
                        linewidth=1.3,
                    )
                )
                axes.text(
                    place, row - 0.2, f"{one['visit']}\nn = {one['n']}", ha="center", va="center"
                )
                if place:
                    axes.annotate(
                        "", (place - 0.31, row - 0.2), (place - 0.69, row - 0.2),
                        arrowprops={"arrowstyle": "-|>", "color": _SOFT},
                    )  # fmt: skip
                lost = int(one["of"]) - int(one["n"])
                if lost:
                    axes.text(
                        place, row + 0.16, f"not seen: {lost}", ha="center", va="center",
                        color="#a02c00", fontsize=9,
                    )  # fmt: skip
                    axes.plot([place, place], [row + 0.01, row + 0.1], color=_SOFT, linewidth=1)
    return figure


def draw_profile(rows: pd.DataFrame, *, title: str, visits: Sequence[Hashable]) -> Figure:
    """One participant against the controls, from the cortex down.

    Parameters
    ----------
    rows : DataFrame
        ``place``, ``name``, ``visit`` and ``z``, in the order in which they are to stand.
    title : str
        Participant.
    visits : sequence
        Labels in order of time.

    Returns
    -------
    figure : matplotlib.figure.Figure
        Values beyond ±8 stand at the rim, with their number.

    Raises
    ------
    NumericsError
        If there is no row.

    Examples
    --------
    >>> import pandas as pd
    >>> rows = pd.DataFrame({"place": ["muscle"] * 2, "name": ["tongue"] * 2, "visit": [0, 4],
    ...     "z": [1.0, 12.0]})
    >>> len(draw_profile(rows, title="sub-01", visits=[0, 4]).axes)
    1
    """
    if not len(rows):
        raise NumericsError(f"{title}: no value to draw; leave the profile out")
    keys = list(dict.fromkeys(zip(rows["place"], rows["name"], strict=True)))
    steps = [1.0 + 0.8 * (k == 0 or keys[k][0] != keys[k - 1][0]) for k in range(len(keys))]
    places = dict(zip(keys, np.cumsum(steps), strict=True))
    total = float(max(places.values())) + 0.8
    height_in = _HEAD_IN + _FOOT_IN + 0.21 * total
    most = 8.0
    with fixed_style():
        figure = plain_figure(height_in)
        write_head(figure, title, "Standard deviations from controls, adjusted for age and sex.")
        axes = figure.add_axes(
            (_LEFT, _FOOT_IN / height_in, _WIDTH, 1 - (_HEAD_IN + _FOOT_IN) / height_in)
        )
        axes.axvspan(-2, 2, color="#eef1f4", zorder=0)
        axes.axvline(0, color=_DARK, linewidth=1)
        for number, visit in enumerate(visits):
            color, marker = _VISIT_LOOKS[number % len(_VISIT_LOOKS)]
            own = rows[rows["visit"] == visit]
            heights = [places[key] for key in zip(own["place"], own["name"], strict=True)]
            z = own["z"].to_numpy(float)
            label = str(visit).removeprefix("ses-")
            axes.plot(
                np.clip(z, -most, most), heights, linestyle="", marker=marker, color=color,
                markersize=5, alpha=0.85, label=label, clip_on=False,
            )  # fmt: skip
        _name_extremes(axes, rows, places, most)
        for key, height in places.items():
            previous = keys[keys.index(key) - 1] if keys.index(key) else (None, None)
            if key[0] != previous[0]:
                axes.text(
                    -0.01, height - 0.95, str(key[0]), transform=axes.get_yaxis_transform(),
                    ha="right", va="center", fontweight="bold", fontsize=9,
                )  # fmt: skip
        names = [textwrap.shorten(str(name), 46, placeholder=" …") for _, name in keys]
        axes.set_yticks([places[key] for key in keys], names, fontsize=8, parse_math=False)
        axes.set(xlim=(-most, most), ylim=(total, 0.2), xlabel="z")
        if len(visits) > 1:
            figure.legend(
                loc="center right", bbox_to_anchor=(0.97, 1 - 0.5 / height_in),
                ncols=len(visits), frameon=False,
            )  # fmt: skip
    return figure


def _name_extremes(
    axes: Axes, rows: pd.DataFrame, places: Mapping[tuple[str, str], float], most: float
) -> None:
    """Number of the furthest value of each measure that leaves the axis."""
    for key, own in rows.groupby(["place", "name"], sort=False):
        for value, side in ((float(own["z"].max()), 1), (float(own["z"].min()), -1)):
            if side * value > most:
                axes.annotate(
                    f"{value:.0f}".replace("-", "−"),
                    (side * most, places[str(key[0]), str(key[1])]),
                    xytext=(side * 8, 0),
                    textcoords="offset points",
                    fontsize=7.5,
                    va="center",
                    ha="left" if side > 0 else "right",
                )
