"""Plots of the members of groups: who takes part, and what was measured of them."""

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
    SKY,
    VERMILION,
    YELLOW,
    finite_values,
    fixed_style,
    plain_figure,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Each look is told apart by shape or pattern too.
_GROUP_LOOKS = (
    (BLUE, "o"),
    (VERMILION, "s"),
    (GREEN, "^"),
    (PURPLE, "D"),
    (ORANGE, "v"),
    (SKY, "P"),
)
_REASON_LOOKS = ((ORANGE, "//"), (VERMILION, "xx"), (PURPLE, ".."), (YELLOW, "\\\\"), (SKY, "--"))
_INCLUDED = "takes part"
_SOFT, _DARK = "#57606a", "#1b1f24"
_POINTS_PER_IN = 72.0
_DOT_POINTS = 5.5
_N_COLUMNS = 4
_PANEL_IN, _NOTE_LINE_IN, _HEAD_IN = 2.1, 0.17, 0.75
# Of the width of the figure; names stand left of the bars.
_BARS_LEFT, _BARS_WIDTH = 0.3, 0.68
# Of the room of one group, to either side of its middle.
_MOST_OFFSET = 0.32


@dataclass(frozen=True)
class GroupPanel:
    """One measure of the members of some groups.

    Parameters
    ----------
    title : str
        What was measured, such as a region or a measure of quality.
    label : str
        Name of the axis, with its unit.
    values : mapping of str to (n,) array_like
        By group, in the order in which they stand, in the unit of `label`; what is not finite is
        left out and counted.
    note : str
        Said below, such as a p-value or a warning.
    is_flagged : bool
        Whether the note is a warning.
    line : float, optional
        Drawn across, such as a limit, in the unit of `label`.
    line_label : str
        What the line is.

    Raises
    ------
    NumericsError
        If there is no group.

    Examples
    --------
    >>> GroupPanel("Motion", "displacement (mm)", {"als": [0.4], "hc": [0.2]}).title
    'Motion'
    """

    title: str
    label: str
    values: Mapping[str, ArrayLike]
    note: str = ""
    is_flagged: bool = False
    line: float | None = None
    line_label: str = ""

    def __post_init__(self) -> None:
        if not self.values:
            raise NumericsError(f"panel {self.title!r} has no group; give at least one")


def draw_groups(panels: Sequence[GroupPanel], *, title: str) -> Figure:
    r"""Values of all members of groups as dots, with mean and standard deviation.

    Parameters
    ----------
    panels : sequence of GroupPanel
        From left to right, four in a row. A group looks the same in all of them.
    title : str
        Of the figure.

    Returns
    -------
    figure : matplotlib.figure.Figure
        Dots lie beside each other where they would overlap, at their true heights.

    Raises
    ------
    NumericsError
        If there is no panel.

    Examples
    --------
    >>> figure = draw_groups(
    ...     [GroupPanel("CST R", "FA", {"als": [0.4, 0.5], "hc": [0.6, float("nan")]})],
    ...     title="Regions")
    >>> [label.get_text() for label in figure.axes[0].get_xticklabels()]
    ['als\nn = 2', 'hc\nn = 1 of 2']
    """
    if not panels:
        raise NumericsError(f"{title}: no panel to draw; give at least one, or leave it out")
    groups = list(dict.fromkeys(group for panel in panels for group in panel.values))
    looks = {g: _GROUP_LOOKS[n % len(_GROUP_LOOKS)] for n, g in enumerate(groups)}
    notes = [textwrap.wrap(panel.note, 36 if panel.is_flagged else 42) for panel in panels]
    rows = [range(start, min(start + _N_COLUMNS, len(panels))) for start in _starts(len(panels))]
    heights_in = [
        _PANEL_IN + 0.95 + _NOTE_LINE_IN * max(len(notes[index]) for index in row) for row in rows
    ]
    total_in = _HEAD_IN + sum(heights_in)
    with fixed_style():
        figure = plain_figure(total_in)
        _head(figure, title, "Dots: participants. Bar: mean; whiskers: one standard deviation.")
        top_in = total_in - _HEAD_IN
        for row, height_in in zip(rows, heights_in, strict=True):
            for column, index in enumerate(row):
                width = 1 / _N_COLUMNS
                place = (column + 0.27) * width, (top_in - 0.3 - _PANEL_IN) / total_in
                axes = figure.add_axes((*place, 0.69 * width, _PANEL_IN / total_in))
                _draw_panel(figure, axes, panels[index], looks)
                _draw_note(figure, axes, notes[index], panels[index].is_flagged)
            top_in -= height_in
    return figure


def draw_participation(counts: pd.DataFrame) -> Figure:
    """Who takes part in each comparison and who does not, by reason, as bars.

    Parameters
    ----------
    counts : DataFrame
        One row per ``modality``, ``contrast`` and ``group``, with ``n_participants``,
        ``n_included``, and a column for each reason with those left out for it.

    Returns
    -------
    figure : matplotlib.figure.Figure
        One bar per row; the numbers stand in the bars.

    Raises
    ------
    NumericsError
        If there is no row, or numbers do not add up.

    Examples
    --------
    >>> import pandas as pd
    >>> counts = pd.DataFrame({"modality": ["sodium"], "contrast": ["als-hc"], "group": ["als"],
    ...     "n_participants": [29], "n_included": [27], "no scan": [2]})
    >>> [text.get_text() for text in draw_participation(counts).axes[0].texts]
    ['27', '2', 'sodium, als-hc', 'als']
    """
    reasons = [
        str(column)
        for column in counts
        if column not in ("modality", "contrast", "group", "n_participants", "n_included")
    ]
    if not len(counts):
        raise NumericsError("counts has no row; give one per modality, contrast and group")
    _require_sums(counts, reasons)
    used = [reason for reason in reasons if counts[reason].sum() > 0]
    looks = {reason: _REASON_LOOKS[n % len(_REASON_LOOKS)] for n, reason in enumerate(used)}
    records = counts.to_dict("records")
    heads = [f"{row['modality']}, {row['contrast']}" for row in records]
    # Half a row of space before each comparison.
    steps = [1.0 + 0.5 * (n > 0 and heads[n] != heads[n - 1]) for n in range(len(heads))]
    places = np.cumsum(steps)
    height_in = 0.24 * float(places[-1]) + 1.25
    with fixed_style():
        figure = plain_figure(height_in)
        _head(figure, "Participants in each comparison", "")
        axes = figure.add_axes(
            (_BARS_LEFT, 0.5 / height_in, _BARS_WIDTH, (height_in - _HEAD_IN - 0.5) / height_in)
        )
        for place, row in zip(places, records, strict=True):
            _draw_bar(axes, float(place), row, used, looks)
        for n, (place, head) in enumerate(zip(places, heads, strict=True)):
            if n == 0 or head != heads[n - 1]:
                _name_bar(axes, float(place), head, (0.006 - _BARS_LEFT) / _BARS_WIDTH, "bold")
            _name_bar(axes, float(place), str(records[n]["group"]), -0.01, "normal")
        most = max(float(counts["n_participants"].max()), 1.0)
        axes.set(xlim=(0, 1.02 * most), ylim=(places[-1] + 0.6, 0.4), xlabel="participants")
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.locator_params(axis="x", integer=True)
        _participation_key(figure, looks, height_in)
    return figure


def _starts(n_panels: int) -> range:
    return range(0, n_panels, _N_COLUMNS)


def _head(figure: Figure, title: str, text: str) -> None:
    height_in = figure.get_size_inches()[1]
    for words, down_in, size, weight, color in (
        (title, 0.22, 12, "bold", _DARK),
        (text, 0.47, 9.5, "normal", _SOFT),
    ):
        figure.text(
            0.006,
            1 - down_in / height_in,
            words,
            fontsize=size,
            fontweight=weight,
            color=color,
            va="center",
            parse_math=False,
        )


def _draw_panel(
    figure: Figure, axes: Axes, panel: GroupPanel, looks: Mapping[str, tuple[str, str]]
) -> None:
    finite = {group: finite_values(values) for group, values in panel.values.items()}
    low, high = _limits([*finite.values(), finite_values([panel.line or np.nan])])
    axes.set(xlim=(-0.5, len(finite) - 0.5), ylim=(low, high))
    axes.set_title(
        textwrap.fill(panel.title, 26),
        fontsize=9.5,
        loc="left",
        fontweight="bold",
        parse_math=False,
    )
    axes.set_ylabel(panel.label, parse_math=False)
    width_in, height_in = axes.get_position().size * figure.get_size_inches()
    dot = (
        _DOT_POINTS / _POINTS_PER_IN * len(finite) / width_in,
        _DOT_POINTS / _POINTS_PER_IN * (high - low) / height_in,
    )
    for place, (group, values) in enumerate(finite.items()):
        color, marker = looks[group]
        axes.plot(
            place + _beside(values, dot),
            np.sort(values),
            linestyle="",
            marker=marker,
            markersize=_DOT_POINTS - 1,
            color=color,
            alpha=0.75,
            markeredgewidth=0,
        )
        _draw_mean(axes, place, values)
    if panel.line is not None:
        axes.axhline(panel.line, color=_SOFT, linestyle="--", linewidth=1)
        axes.annotate(
            panel.line_label,
            (1, panel.line),
            xycoords=("axes fraction", "data"),
            xytext=(0, 2),
            textcoords="offset points",
            ha="right",
            fontsize=8,
            color=_SOFT,
            parse_math=False,
        )
    axes.set_xticks(
        range(len(finite)),
        [_count_text(group, finite[group].size, panel.values[group]) for group in finite],
        parse_math=False,
    )


def _count_text(group: str, n_finite: int, values: ArrayLike) -> str:
    n_all = np.size(values)
    of = f" of {n_all}" if n_all > n_finite else ""
    return f"{group}\nn = {n_finite}{of}"


def _limits(values: Sequence[NDArray[np.float64]]) -> tuple[float, float]:
    """Ends of an axis with a margin; of some width also for a single value."""
    pooled = np.concatenate(values)
    if not pooled.size:
        return 0.0, 1.0
    low, high = float(pooled.min()), float(pooled.max())
    margin = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
    return low - margin, high + margin


def _beside(values: NDArray[np.float64], dot: tuple[float, float]) -> NDArray[np.float64]:
    """Offsets of the sorted values by which dots of a width and height keep apart."""
    placed: list[tuple[float, float]] = []
    n_steps = int(_MOST_OFFSET / dot[0])
    # From the middle outwards, to both sides in turn.
    tries = sorted(range(-n_steps, n_steps + 1), key=lambda step: (abs(step), step))
    for value in np.sort(values):
        near = [offset for offset, other in placed if value - other < dot[1]]
        free = [
            step * dot[0]
            for step in tries
            if all(abs(step * dot[0] - other) > 0.99 * dot[0] for other in near)
        ]
        placed.append((free[0] if free else 0.0, float(value)))
    return np.array([offset for offset, _ in placed])


def _draw_mean(axes: Axes, place: float, values: NDArray[np.float64]) -> None:
    if not values.size:
        axes.annotate(
            "no value",
            (place, 0.5),
            xycoords=("data", "axes fraction"),
            ha="center",
            fontsize=9,
            color=_SOFT,
        )
        return
    mean = float(values.mean())
    axes.hlines(mean, place - 0.3, place + 0.3, color=_DARK, linewidth=2, zorder=5)
    if values.size > 1:
        sd = float(values.std(ddof=1))
        axes.vlines(place, mean - sd, mean + sd, color=_DARK, linewidth=1.3, zorder=5)


def _draw_note(figure: Figure, axes: Axes, lines: Sequence[str], is_flagged: bool) -> None:
    box, height_in = axes.get_position(), figure.get_size_inches()[1]
    figure.text(
        box.x0 - 0.045,
        box.y0 - 0.47 / height_in,
        "\n".join(["▲ " + lines[0], *lines[1:]] if is_flagged and lines else lines),
        fontsize=8.5,
        fontweight="bold" if is_flagged else "normal",
        color="#a02c00" if is_flagged else _SOFT,
        va="top",
        linespacing=1.25,
        parse_math=False,
    )


def _require_sums(counts: pd.DataFrame, reasons: Sequence[str]) -> None:
    for row in counts.to_dict("records"):
        n_named = int(row["n_included"]) + sum(int(row[reason]) for reason in reasons)
        if n_named != int(row["n_participants"]):
            raise NumericsError(
                f"counts: {row['modality']}, {row['contrast']}, {row['group']} has "
                f"{row['n_participants']} participants, but {n_named} are included or left out for "
                "a reason; count each once"
            )


def _draw_bar(
    axes: Axes,
    place: float,
    row: Mapping[Hashable, object],
    reasons: Sequence[str],
    looks: Mapping[str, tuple[str, str]],
) -> None:
    left = 0
    for name in ("n_included", *reasons):
        n = int(str(row[name]))
        color, hatch = looks.get(name, (BLUE, ""))
        axes.barh(
            place,
            n,
            left=left,
            height=0.8,
            color=color,
            hatch=hatch,
            edgecolor="white",
            linewidth=0.8,
        )
        if n:
            axes.text(
                left + n / 2,
                place,
                str(n),
                ha="center",
                va="center",
                fontsize=8.5,
                fontweight="bold",
                color="white" if name == "n_included" else _DARK,
                bbox=None if name == "n_included" else _PLATE,
            )
        left += n


# Behind numbers on a hatched ground.
_PLATE = {"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.85}


def _name_bar(axes: Axes, place: float, name: str, across: float, weight: str) -> None:
    axes.text(
        across,
        place,
        textwrap.shorten(name, 42, placeholder=" …"),
        transform=axes.get_yaxis_transform(),
        ha="right" if across > -0.1 else "left",
        va="center",
        fontsize=9,
        fontweight=weight,
        parse_math=False,
    )


def _participation_key(
    figure: Figure, looks: Mapping[str, tuple[str, str]], height_in: float
) -> None:
    from matplotlib.patches import Patch

    handles = [
        Patch(facecolor=color, hatch=hatch, edgecolor="white", label=name)
        for name, (color, hatch) in ((_INCLUDED, (BLUE, "")), *looks.items())
    ]
    figure.legend(
        handles=handles,
        loc="center left",
        bbox_to_anchor=(0.003, 1 - 0.5 / height_in),
        ncols=len(handles),
        frameon=False,
    )
