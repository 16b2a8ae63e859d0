"""Plots of clinical tables that show each participant: clouds, scatters, ROC curves."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from bids_alsmri.errors import NumericsError
from bids_alsmri.reports.sheets import (
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    fixed_style,
    plain_figure,
    write_head,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_Array = NDArray[np.float64]
_T = TypeVar("_T")
_SOFT, _DARK, _GREY = "#57606a", "#1b1f24", "#d0d7de"
_HEAD_IN = 0.75
# Groups and curves differ in colour and in shape or pattern, for print without colour.
_LOOKS: tuple[tuple[str, str, Any], ...] = (
    *((VERMILION, "o", "-"), (BLUE, "s", "--"), (GREEN, "^", "-.")),
    *((ORANGE, "D", ":"), (PURPLE, "v", (0, (5, 1))), (SKY, "P", (0, (1, 1)))),
)
# Values of a group whose density is drawn.
_FEWEST_OF_CLOUD = 5
_COLUMNS = 3


@dataclass(frozen=True)
class Cloud:
    """One measure of some groups.

    Parameters
    ----------
    title, unit : str
        What it is.
    groups : mapping of (n,) array
        Values by name of the group, in its unit; NaN is left out.
    text : str
        Such as the p-value; stands below the title.
    """

    title: str
    unit: str
    groups: Mapping[str, _Array]
    text: str = ""


@dataclass(frozen=True)
class Scatter:
    """Two measures of the same participants.

    Parameters
    ----------
    x_title, y_title : str
        With their units.
    x, y : (n,) array
        Pairs with NaN are left out.
    band : (4, k) array or None
        Places along x, height of the line, and ends of its interval; None for no line.
    text : str
        Such as the correlation; stands above the panel.
    kinds : sequence of str
        What each point is, such as its limb; empty where all are alike.
    """

    x_title: str
    y_title: str
    x: _Array
    y: _Array
    band: _Array | None = None
    text: str = ""
    kinds: Sequence[str] = ()


@dataclass(frozen=True)
class Curve:
    """Receiver operating characteristic, or readers as single points.

    Parameters
    ----------
    name : str
        For the key, with its area.
    false_positive, true_positive : (k,) array
        Shares, 0 to 1; of a reader one each.
    """

    name: str
    false_positive: _Array
    true_positive: _Array


def draw_clouds(clouds: Sequence[Cloud], *, title: str) -> Figure:
    """Participants of each group as points, their box, and the shape of their distribution.

    Parameters
    ----------
    clouds : sequence of Cloud
        One panel each.
    title : str
        Of the figure.

    Returns
    -------
    figure : matplotlib.figure.Figure
        Boxes have quartiles and the median, whiskers reach the furthest point within 1.5 times
        their length; densities are drawn of 5 values on.

    Raises
    ------
    NumericsError
        If there is no panel.

    Examples
    --------
    >>> cloud = Cloud("T2", "", {"als": np.array([1.0, 2.0, 4.0]), "hc": np.array([1.0, 1.5])})
    >>> len(draw_clouds([cloud], title="T").axes)
    1
    """

    def draw(axes: Axes, cloud: Cloud) -> None:
        for place, values in enumerate(cloud.groups.values()):
            own = values[np.isfinite(values)]
            color, marker, _ = _LOOKS[place % len(_LOOKS)]
            _cloud(axes, place, own, color, marker)
            axes.text(
                place, 1.005, f"n = {len(own)}", transform=axes.get_xaxis_transform(), ha="center",
                va="bottom", fontsize=8, color=_SOFT,
            )  # fmt: skip
        names = [textwrap.fill(name, 16) for name in cloud.groups]
        axes.set_xticks(range(len(names)), names, parse_math=False)
        axes.set_xlim(-0.55, len(names) - 0.35)
        axes.set_ylabel(cloud.unit, parse_math=False)
        _name_panel(axes, cloud.title, cloud.text)

    return _panels(
        clouds, draw, title, "Points: participants. Box: quartiles and median. Shape: density."
    )


def _cloud(axes: Axes, place: int, values: _Array, color: str, marker: str) -> None:
    if not len(values):
        return
    # a fixed sequence that fills the width evenly, so that the figure is the same every time
    shifts = np.array([(k * 0.618034) % 1 - 0.5 for k in range(len(values))])
    axes.plot(
        place - 0.27 + 0.16 * shifts, values, linestyle="", marker=marker, markersize=4,
        color=color, alpha=0.7, markeredgewidth=0,
    )  # fmt: skip
    box = axes.boxplot(
        [values], positions=[place], widths=0.16, showfliers=False, patch_artist=True,
        manage_ticks=False,
    )  # fmt: skip
    for part in box["boxes"]:
        part.set(facecolor="white", edgecolor=color, linewidth=1.4)
    for name in ("whiskers", "caps"):
        for part in box[name]:
            part.set(color=color, linewidth=1.2)
    for part in box["medians"]:
        part.set(color=_DARK, linewidth=2)
    if len(values) < _FEWEST_OF_CLOUD or not np.ptp(values) > 0:
        return
    heights = np.linspace(values.min(), values.max(), 80)
    # Gaussian kernel of Scott's width (1992, Multivariate Density Estimation)
    width_of_kernel = values.std(ddof=1) * len(values) ** -0.2
    width = np.exp(-0.5 * ((heights[:, np.newaxis] - values) / width_of_kernel) ** 2).sum(axis=1)
    axes.fill_betweenx(
        heights, place + 0.13, place + 0.13 + 0.32 * width / width.max(), color=color, alpha=0.3,
        linewidth=0,
    )  # fmt: skip


def draw_scatters(scatters: Sequence[Scatter], *, title: str) -> Figure:
    """Pairs of measures with a straight line and the interval of 95 % of its height.

    Parameters
    ----------
    scatters : sequence of Scatter
        One panel each.
    title : str
        Of the figure.

    Returns
    -------
    figure : matplotlib.figure.Figure
        Points, and the line where there is one.

    Raises
    ------
    NumericsError
        If there is no panel.

    Examples
    --------
    >>> one = Scatter("T2", "force (lb)", np.array([1.0, 2, 3, 4]), np.array([9.0, 7, 6, 2]))
    >>> len(draw_scatters([one], title="T").axes[0].lines)
    1
    """

    def draw(axes: Axes, one: Scatter) -> None:
        keep = np.isfinite(one.x) & np.isfinite(one.y)
        x, y = one.x[keep], one.y[keep]
        if one.band is not None:
            grid, line, low, high = one.band
            axes.fill_between(grid, low, high, color=_GREY, alpha=0.6, linewidth=0)
            axes.plot(grid, line, color=_DARK, linewidth=1.5)
        kinds = np.array(list(one.kinds) or [""] * len(one.x), dtype=object)[keep]
        for place, kind in enumerate(dict.fromkeys(kinds)):
            color, marker, _ = _LOOKS[(place + (0 if one.kinds else 1)) % len(_LOOKS)]
            axes.plot(
                x[kinds == kind], y[kinds == kind], linestyle="", marker=marker, color=color,
                markersize=5, alpha=0.8, label=str(kind), markeredgewidth=0,
            )  # fmt: skip
        if one.kinds:
            axes.legend(fontsize=8, frameon=False, handletextpad=0.2)
        axes.set_xlabel(_in_lines(one.x_title, 40), parse_math=False)
        axes.set_ylabel(_in_lines(one.y_title, 30), parse_math=False)
        _name_panel(axes, "", one.text)

    return _panels(
        scatters, draw, title, "Points: patients or limbs. Band: 95 % interval of the line."
    )


def draw_roc(curves: Sequence[Curve], readers: Sequence[Curve], *, title: str) -> Figure:
    """Receiver operating characteristics, with readers as points.

    Parameters
    ----------
    curves : sequence of Curve
        Of measures.
    readers : sequence of Curve
        Of readers, one point each.
    title : str
        Of the figure.

    Returns
    -------
    figure : matplotlib.figure.Figure
        One panel; the key stands beside it.

    Raises
    ------
    NumericsError
        If there is nothing to draw.

    Examples
    --------
    >>> curve = Curve("T2, 0.78", np.array([0, 0.3, 1.0]), np.array([0, 0.7, 1.0]))
    >>> len(draw_roc([curve], [], title="T").axes[0].lines)
    2
    """
    if not (curves or readers):
        raise NumericsError(f"{title}: no curve to draw; give at least one")
    height_in = 6.0
    with fixed_style():
        figure = plain_figure(height_in)
        write_head(figure, title, "Area under each curve with its 95 % interval. Marks: readers.")
        width_in = float(figure.get_size_inches()[0])
        side_in = height_in - _HEAD_IN - 0.65
        axes = figure.add_axes((0.08, 0.6 / height_in, side_in / width_in, side_in / height_in))
        axes.plot([0, 1], [0, 1], color=_SOFT, linewidth=1, linestyle=":")
        for place, curve in enumerate(curves):
            color, _, pattern = _LOOKS[place % len(_LOOKS)]
            axes.plot(
                curve.false_positive, curve.true_positive, color=color, linewidth=2,
                linestyle=pattern, label=curve.name, drawstyle="default", clip_on=False,
            )  # fmt: skip
        for place, reader in enumerate(readers):
            _, marker, _ = _LOOKS[place % len(_LOOKS)]
            axes.plot(
                reader.false_positive, reader.true_positive, linestyle="", marker=marker,
                markersize=9, color=_DARK, label=reader.name, clip_on=False,
            )  # fmt: skip
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="1 − specificity", ylabel="sensitivity")
        axes.grid(color="#e5e7ea", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.legend(loc="center left", bbox_to_anchor=(1.04, 0.5), frameon=False)
    return figure


def _panels(items: Sequence[_T], draw: Callable[[Axes, _T], None], title: str, text: str) -> Figure:
    """Panels in rows of three."""
    if not items:
        raise NumericsError(f"{title}: no panel to draw; give at least one")
    n_rows = -(-len(items) // _COLUMNS)
    row_in = 3.5
    height_in = _HEAD_IN + n_rows * row_in + 0.1
    with fixed_style():
        figure = plain_figure(height_in)
        write_head(figure, title, text)
        for number, item in enumerate(items):
            row, column = divmod(number, _COLUMNS)
            bottom = height_in - _HEAD_IN - row_in * (row + 1) + 0.62
            axes = figure.add_axes(
                (0.075 + 0.333 * column, bottom / height_in, 0.24, 2.3 / height_in)
            )
            draw(axes, item)
    return figure


def _in_lines(words: str, width: int) -> str:
    """At most two lines."""
    lines = textwrap.wrap(words, width, max_lines=2, placeholder=" …")
    return "\n".join(lines)


def _name_panel(axes: Axes, title: str, text: str) -> None:
    for words, height, weight, color, size in (
        (title, 1.19, "bold", _DARK, 10),
        (text, 1.105 if title else 1.04, "normal", _SOFT, 9),
    ):
        axes.text(
            0, height, textwrap.shorten(words, 44, placeholder=" …"), transform=axes.transAxes,
            fontweight=weight, color=color, fontsize=size, va="center", parse_math=False,
        )  # fmt: skip
