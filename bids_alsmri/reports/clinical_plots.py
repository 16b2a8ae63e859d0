"""Plots of clinical tables: forests, courses, responsiveness, visits, curves, whole cohorts."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bids_alsmri.errors import NumericsError
from bids_alsmri.reports.sheets import (
    BLUE,
    GREEN,
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
_FARTHEST = 5.0  # standard deviations at the ends of the colours
_MOST_HEADS = 110  # columns that leave their names room, at 7 points on the width of a page
_RESPONSIVE = 0.8  # Cohen's large effect (Jenkins 2020)
# By site of onset, as in Jenkins 2020; lines are told apart by pattern too.
_ONSETS: tuple[tuple[tuple[str, ...], str, str, str], ...] = (
    (("bulb",), "bulbar", GREEN, ":"),
    (("ul", "upper", "arm", "hand"), "upper limb", BLUE, "-"),
    (("ll", "lower", "leg", "foot"), "lower limb", VERMILION, "-."),
)
_OTHER = ("other or unknown", _SOFT, "-")


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


def draw_scores(
    scores: pd.DataFrame, places: Sequence[str], groups: Sequence[str], *, title: str
) -> Figure:
    """All participants against the controls, one row each, from the cortex down.

    Parameters
    ----------
    scores : DataFrame
        Standard deviations, participants in rows (their names in the index) and measures in
        columns (named for the reader); NaN where there is none. Participants of one group stand
        together.
    places : sequence of str
        Part of the neuraxis of each column; columns of one part stand together.
    groups : sequence of str
        Group of each row.
    title : str
        Of the figure.

    Returns
    -------
    figure : matplotlib.figure.Figure
        Colours end at ±5. Names of rows and columns stand where there is room for them.

    Raises
    ------
    NumericsError
        If there is no score, or not one place per column and one group per row.

    Examples
    --------
    >>> import pandas as pd
    >>> scores = pd.DataFrame({"tongue, ADC": [0.4, 3.1]}, index=["sub-01", "sub-02"])
    >>> figure = draw_scores(scores, ["muscle"], ["hc", "als"], title="T")
    >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
    ['sub-01', 'sub-02']
    """
    from matplotlib import colormaps

    n_rows, n_columns = scores.shape
    if not n_rows or not n_columns or (len(groups), len(places)) != (n_rows, n_columns):
        raise NumericsError(
            f"scores of shape {scores.shape} with {len(groups)} groups and {len(places)} places; "
            "give one group per row, one place per column, and at least one score"
        )
    row_in = float(np.clip(9.0 / n_rows, 0.018, 0.2))
    # names are drawn while lines of 7 points do not run into each other
    has_names, has_heads = row_in >= 0.1, n_columns <= _MOST_HEADS
    head_in, foot_in = _HEAD_IN + 0.3, 2.6 if has_heads else 0.5
    height_in = head_in + row_in * n_rows + foot_in
    left, width = 0.12, 0.79
    colours = colormaps["RdBu_r"].with_extremes(bad="#d9dde2")
    with fixed_style():
        figure = plain_figure(height_in)
        text = "Standard deviations from the controls at each one's last visit. Grey: not measured."
        write_head(figure, title, text)
        box = (left, foot_in / height_in, width, row_in * n_rows / height_in)
        axes = figure.add_axes(box)
        image = axes.imshow(
            scores.to_numpy(float), cmap=colours, vmin=-_FARTHEST, vmax=_FARTHEST, aspect="auto",
            interpolation="nearest",
        )  # fmt: skip
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        names = [str(name) for name in scores.index]
        axes.set_yticks(range(n_rows) if has_names else [], names if has_names else [])
        heads = [textwrap.shorten(str(name), 48, placeholder=" …") for name in scores]
        axes.set_xticks(range(n_columns) if has_heads else [], heads if has_heads else [])
        axes.tick_params(axis="y", labelsize=7)
        axes.tick_params(axis="x", labelsize=7, labelrotation=90)
        for label, start, stop in _runs(groups):
            if start:
                axes.axhline(start - 0.5, color=_DARK, linewidth=1.2)
            axes.annotate(
                label, (0.008, 1 - (start + stop) / 2 / n_rows),
                xycoords=("figure fraction", "axes fraction"), va="center", fontweight="bold",
                fontsize=9, parse_math=False,
            )  # fmt: skip
        for label, start, stop in _runs(places):
            if start:
                axes.axvline(start - 0.5, color=_DARK, linewidth=1.2)
            # a narrow part has its name from its left border on
            axes.annotate(
                label, (start / n_columns, 1), xycoords="axes fraction", xytext=(2, 4),
                textcoords="offset points", fontsize=9, fontweight="bold",
                rotation=0 if (stop - start) / n_columns > 0.12 else 20,
            )  # fmt: skip
        bar_in = min(2.0, row_in * n_rows)
        top = box[1] + box[3]
        bar = figure.add_axes((0.93, top - bar_in / height_in, 0.012, bar_in / height_in))
        figure.colorbar(image, cax=bar, label="z", extend="both")
    return figure


def _runs(labels: Sequence[str]) -> list[tuple[str, int, int]]:
    """Label, first place and the one after the last, of neighbours with one label."""
    starts = [k for k in range(len(labels)) if not k or labels[k] != labels[k - 1]]
    return [
        (str(labels[start]), start, stop)
        for start, stop in zip(starts, [*starts[1:], len(labels)], strict=True)
    ]
