"""Pictures of the cortex at 7T: slices of a slab with its ribbon, and profiles of areas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bids_alsmri.reports.sheets import (
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    VERMILION,
    WIDTH_IN,
    check_same_shape,
    fixed_style,
    percentile,
    plain_figure,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

AREA_COLOURS = {"foot": GREEN, "leg": PURPLE, "hand": VERMILION, "face": ORANGE}
OTHER_COLOUR = "#ffffff"  # the precuneus; the borders have yellow and blue
TEXT_COLOUR = "#24292f"
N_SLICES = 3
N_COLUMNS = 3
MARK_COLUMNS = 5
# around what was drawn: the knob of the hand is about 15 mm wide
AROUND_MM = 12.0
BESIDE_MM = 3.0
# of the median signal of the cortex: its layers differ by a tenth, fluid is twice as bright
LAYER_WINDOW = (0.6, 1.5)
READER_COLOURS = ("#ffd400", "#56b4e9", VERMILION, GREEN)


def draw_ribbon(
    image: NDArray[Any],
    affine: NDArray[np.float64],
    white_mm: NDArray[Any],
    outer_mm: NDArray[Any],
    labels: NDArray[np.integer[Any]],
    *,
    names: Mapping[int, str],
) -> Figure:
    """Slices of a slab with the borders of the cortex and the motor areas.

    Parameters
    ----------
    image : (X, Y, Z) array
        Slab in any unit; the third axis counts slices.
    affine : (4, 4) array
        Voxel indices to world, in mm.
    white_mm, outer_mm : (X, Y, Z) array
        Signed distances from white matter, positive outside it, and from the outer surface,
        positive beneath it, in mm.
    labels : (X, Y, Z) array of int
        Areas, 0 for none.
    names : mapping of int to str
        Name of each label.

    Returns
    -------
    figure : matplotlib.figure.Figure
        Slices as they were acquired, turned so that the right is on the right and the front on top.

    Raises
    ------
    NumericsError
        If shapes differ.

    Examples
    --------
    >>> ramp = np.arange(8.0)[:, None, None] * np.ones((8, 8, 4))
    >>> figure = draw_ribbon(
    ...     ramp, np.eye(4), ramp - 3, 6 - ramp, (ramp > 4).astype(int), names={1: "hand"}
    ... )
    >>> len(figure.axes)
    3
    """
    from matplotlib.patheffects import withStroke

    for name, other in (("white_mm", white_mm), ("outer_mm", outer_mm), ("labels", labels)):
        check_same_shape(name, other, image)
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    chosen = _slices_through(labels, names, image.shape[2])
    width = WIDTH_IN / N_SLICES
    turned = _turned(image[:, :, :1], affine)[..., 0].shape
    is_swapped = _axis_to_the_right(affine) == 1
    ratio = (turned[1] * edges[0 if is_swapped else 1]) / (
        turned[0] * edges[1 if is_swapped else 0]
    )
    height = width * ratio + 0.45
    with fixed_style():
        figure = plain_figure(height_in=height)
        low, high = _window_of_cortex(image, (outer_mm > 0.0) & (white_mm > 0.0))
        for column, index in enumerate(chosen):
            axes = figure.add_axes(
                (column / N_SLICES, 0.45 / height, 0.99 / N_SLICES, 1.0 - 0.45 / height)
            )
            parts = [
                _turned(v[:, :, index : index + 1], affine)[..., 0]
                for v in (image, white_mm, outer_mm, labels)
            ]
            _draw_slice(axes, parts, (low, high), names, ratio * turned[0] / turned[1])
            place = affine[:3, :3] @ np.array([*(np.array(image.shape[:2]) / 2), index])
            z_mm = float(place[2] + affine[2, 3])
            for x, y, text in (
                (0.03, 0.94, f"z = {z_mm:.0f} mm"),
                (0.02, 0.5, "L"),
                (0.96, 0.5, "R"),
            ):
                axes.text(
                    x,
                    y,
                    text,
                    fontsize=7,
                    color="white",
                    transform=axes.transAxes,
                    path_effects=[withStroke(linewidth=2.0, foreground="black")],
                )
        for order, (text, colour) in enumerate(
            [
                ("white matter", "#ffd400"),
                ("outer surface", "#56b4e9"),
                *_shown_names(labels, names),
            ]
        ):
            figure.text(0.01 + 0.14 * order, 0.12 / height, text, color=_dark(colour), fontsize=8)
    return figure


def draw_marks(image: NDArray[Any], affine: NDArray[np.float64], marks: pd.DataFrame) -> Figure:
    """Lines and ovals that readers drew, each area enlarged on each slice that holds some.

    Parameters
    ----------
    image : (X, Y, Z) array
        Slab in any unit; the third axis counts slices.
    affine : (4, 4) array
        Voxel indices to world, in mm.
    marks : DataFrame
        Reader, region, side, mark, shape (``caliper`` or ``oval``), and i, j, k in voxels.

    Returns
    -------
    figure : matplotlib.figure.Figure
        One panel per area and slice; the right is on the right and the front on top.

    Examples
    --------
    >>> import pandas as pd
    >>> line = {"reader": 1, "region": "hand", "side": "left", "mark": 0, "shape": "caliper",
    ...         "i": [3, 5], "j": [4, 4], "k": 1}
    >>> figure = draw_marks(np.ones((9, 9, 3)), np.eye(4), pd.DataFrame(line))
    >>> figure.axes[0].get_title(loc="left")
    'hand left, z = 1 mm'
    """
    on_slice = marks.assign(k=marks["k"].round().astype(int))
    panels = [own for _, own in on_slice.groupby(["region", "side", "k"])]
    n_rows = max(1, int(np.ceil(len(panels) / MARK_COLUMNS)))
    edge_in = WIDTH_IN / MARK_COLUMNS
    row_in, foot_in = edge_in + 0.2, 0.35
    height = n_rows * row_in + foot_in
    with fixed_style():
        figure = plain_figure(height_in=height)
        for index, own in enumerate(panels):
            row, column = divmod(index, MARK_COLUMNS)
            axes = figure.add_axes(
                (
                    column / MARK_COLUMNS,
                    1.0 - (row * row_in + row_in) / height,
                    0.98 / MARK_COLUMNS,
                    edge_in / height,
                )
            )
            places = own[["i", "j", "k"]].to_numpy(float)
            middle = (places.min(axis=0) + places.max(axis=0)) / 2
            z_mm = float(affine[2, :3] @ middle + affine[2, 3])
            _draw_around(axes, image[:, :, int(own["k"].iloc[0])], affine, middle[:2], own)
            where = f"{own['region'].iloc[0]} {own['side'].iloc[0]}, z = {z_mm:.0f} mm"
            axes.set_title(where, fontsize=8, loc="left", color=TEXT_COLOUR)
        for order, reader in enumerate(sorted(set(marks["reader"]))):
            figure.text(
                0.01 + 0.1 * order,
                0.1 / height,
                f"reader {reader}",
                color=_dark(_reader_colour(reader)),
                fontsize=8,
            )
    return figure


def draw_profiles(table: pd.DataFrame) -> Figure:
    """Mean profile of each area over depth, with the borders of its deep layer.

    Parameters
    ----------
    table : DataFrame
        Region, side, depth (mm), mean, error, deep_from and white_from (mm; NaN for none).

    Returns
    -------
    figure : matplotlib.figure.Figure
        One panel per region, left and right in two colours; signal over that of the first sample.

    Examples
    --------
    >>> import pandas as pd
    >>> rows = {"region": "hand", "side": "left", "depth": [1.0, 2.0], "mean": [10.0, 9.0]}
    >>> table = pd.DataFrame({**rows, "error": 0.1, "deep_from": 1.5, "white_from": np.nan})
    >>> figure = draw_profiles(table)
    >>> [axes.get_title(loc="left") for axes in figure.axes]
    ['hand']
    """
    regions = list(dict.fromkeys(table["region"]))
    n_rows = max(1, int(np.ceil(len(regions) / N_COLUMNS)))
    height = 2.3 * n_rows
    with fixed_style():
        figure = plain_figure(height_in=height)
        if not regions:
            figure.text(0.02, 0.5, "No area has profiles; the table says why.", color=TEXT_COLOUR)
        for index, region in enumerate(regions):
            axes = _panel(figure, index, n_rows, height)
            for side, colour in (("left", BLUE), ("right", VERMILION)):
                own = table[(table["region"] == region) & (table["side"] == side)]
                if len(own):
                    _draw_profile(axes, own, colour, side)
            axes.set_title(str(region), fontsize=9, loc="left", color=TEXT_COLOUR)
            axes.set_xlabel("depth (mm)")
            if index % N_COLUMNS == 0:
                axes.set_ylabel("signal (1)")
            axes.grid(color="#d0d7de", linewidth=0.5)
            axes.legend(frameon=False, fontsize=7, loc="best")
    return figure


def draw_group_profiles(table: pd.DataFrame, *, patient: str, control: str) -> Figure:
    """Mean profiles of patients against those of controls, with their spread.

    Parameters
    ----------
    table : DataFrame
        Region, group, depth (mm), n, mean and sd (NaN for a single participant).
    patient, control : str
        Names of the two groups.

    Returns
    -------
    figure : matplotlib.figure.Figure
        One panel per region; bands are one standard deviation to each side.

    Examples
    --------
    >>> import pandas as pd
    >>> table = pd.DataFrame({"region": "hand", "group": ["hc", "hc", "als", "als"],
    ...     "depth": [1.0, 2.0] * 2, "n": 3, "mean": [1.0, 0.9, 1.0, 0.85], "sd": 0.02})
    >>> figure = draw_group_profiles(table, patient="als", control="hc")
    >>> [line.get_label() for line in figure.axes[0].get_lines()]
    ['hc (3)', 'als (3)']
    """
    regions = list(dict.fromkeys(table["region"]))
    n_rows = max(1, int(np.ceil(len(regions) / N_COLUMNS)))
    height = 2.3 * n_rows
    with fixed_style():
        figure = plain_figure(height_in=height)
        for index, region in enumerate(regions):
            axes = _panel(figure, index, n_rows, height)
            for group, colour in ((control, BLUE), (patient, VERMILION)):
                own = table[(table["region"] == region) & (table["group"] == group)]
                # where all but one end, the mean would jump to that one
                own = own[own["n"] >= min(2, own["n"].max())] if len(own) else own
                if len(own):
                    _draw_spread(axes, own, colour, f"{group} ({own['n'].max()})")
            axes.set_title(str(region), fontsize=9, loc="left", color=TEXT_COLOUR)
            axes.set_xlabel("depth (mm)")
            if index % N_COLUMNS == 0:
                axes.set_ylabel("signal (1)")
            axes.grid(color="#d0d7de", linewidth=0.5)
            axes.legend(frameon=False, fontsize=7, loc="best")
    return figure


def _draw_spread(axes: Axes, own: pd.DataFrame, colour: str, label: str) -> None:
    depth, mean, sd = (own[name].to_numpy(float) for name in ("depth", "mean", "sd"))
    axes.plot(depth, mean, color=colour, linewidth=1.4, label=label)
    axes.fill_between(depth, mean - sd, mean + sd, color=colour, alpha=0.2, linewidth=0)


def _panel(figure: Figure, index: int, n_rows: int, height: float) -> Axes:
    row, column = divmod(index, N_COLUMNS)
    return figure.add_axes(
        (
            0.07 + column / N_COLUMNS * 0.96,
            1.0 - (row + 1) / n_rows + 0.5 / height,
            0.245,
            1.0 / n_rows - 0.82 / height,
        )
    )


def _draw_profile(axes: Axes, own: pd.DataFrame, colour: str, side: str) -> None:
    depth, mean = own["depth"].to_numpy(float), own["mean"].to_numpy(float)
    error, scale = own["error"].to_numpy(float), float(own["mean"].to_numpy(float)[0])
    axes.plot(depth, mean / scale, color=colour, linewidth=1.3, label=side)
    axes.fill_between(
        depth, (mean - error) / scale, (mean + error) / scale, color=colour, alpha=0.25, linewidth=0
    )
    for border in ("deep_from", "white_from"):
        place = float(own[border].iloc[0])
        if np.isfinite(place):
            axes.axvline(place, color=colour, linestyle="--", linewidth=0.9)


def _draw_slice(
    axes: Axes,
    parts: list[NDArray[Any]],
    window: tuple[float, float],
    names: Mapping[int, str],
    aspect: float,
) -> None:
    image, white, outer, labels = parts
    axes.imshow(image.T, cmap="gray", vmin=window[0], vmax=window[1], origin="lower", aspect=aspect)
    axes.contour(white.T, [0.0], colors="#ffd400", linewidths=0.6)
    axes.contour(outer.T, [0.0], colors="#56b4e9", linewidths=0.6)
    for label, name in names.items():
        inside = labels == label
        if inside.any() and not inside.all():
            colour = AREA_COLOURS.get(name, OTHER_COLOUR)
            axes.contour(inside.T.astype(float), [0.5], colors=colour, linewidths=1.0)
    axes.set_axis_off()


def _window_of_cortex(image: NDArray[Any], cortex: NDArray[np.bool_]) -> tuple[float, float]:
    known = image[np.isfinite(image) & cortex]
    level = float(np.median(known)) if known.size else 0.0
    if level <= 0.0:
        return percentile(image, 1.0), percentile(image, 99.0)
    return LAYER_WINDOW[0] * level, LAYER_WINDOW[1] * level


def _reader_colour(reader: int) -> str:
    return READER_COLOURS[(reader - 1) % len(READER_COLOURS)]


def _draw_around(
    axes: Axes,
    values: NDArray[Any],
    affine: NDArray[np.float64],
    middle: NDArray[np.float64],
    marks: pd.DataFrame,
) -> None:
    # limits turn the picture, so that marks stay in voxels
    first = _axis_to_the_right(affine)
    order, edges = [first, 1 - first], np.linalg.norm(affine[:3, :2], axis=0)
    places = marks[["i", "j"]].to_numpy(float)
    # one edge for both axes, wide enough for all that lies on this slice
    reach_mm = float((np.abs(places - middle) * edges).max()) + BESIDE_MM
    half = max(AROUND_MM / 2, reach_mm) / edges
    level = float(np.median(values[tuple(np.rint(places).astype(int).T)]))
    axes.imshow(
        values.transpose(order).T,
        cmap="gray",
        vmin=LAYER_WINDOW[0] * level,
        vmax=LAYER_WINDOW[1] * level,
        origin="lower",
        aspect=edges[order[1]] / edges[order[0]],
    )
    for _, one in marks.groupby(["reader", "mark"]):
        colour = _reader_colour(int(one["reader"].iloc[0]))
        places = one[["i", "j"]].to_numpy(float)
        if one["shape"].iloc[0] == "caliper":
            # a painted line has the order of its voxels, which is not that along it
            style = "-" if len(places) == 2 else "none"
            first_axis, second_axis = places[:, order].T
            axes.plot(
                first_axis,
                second_axis,
                color=colour,
                linestyle=style,
                linewidth=1.2,
                marker=".",
                markersize=3,
            )
            continue
        inside = np.zeros(values.shape, dtype=float)
        inside[tuple(np.rint(places).astype(int).T)] = 1.0
        axes.contour(inside.transpose(order).T, [0.5], colors=colour, linewidths=1.2)
    ends = np.stack([middle - half, middle + half])
    across, up = (ends[:, a] if _is_forwards(affine, a, first) else ends[::-1, a] for a in order)
    axes.set_xlim(float(across[0]), float(across[1]))
    axes.set_ylim(float(up[0]), float(up[1]))
    axes.set_axis_off()


def _slices_through(
    labels: NDArray[np.integer[Any]], names: Mapping[int, str], n_slices: int
) -> list[int]:
    # where the hand is, above and below it; evenly where no area is
    hand = [label for label, name in names.items() if name == "hand"]
    for wanted in (np.isin(labels, hand), labels > 0):
        held = np.flatnonzero(wanted.any(axis=(0, 1)))
        if len(held):
            places = np.quantile(held, [0.15, 0.5, 0.85])
            return sorted(round(float(place)) for place in places)
    return [int(n_slices * share) for share in (0.25, 0.5, 0.75)]


def _axis_to_the_right(affine: NDArray[np.float64]) -> int:
    return int(np.argmax(np.abs(affine[0, :2])))


def _turned(values: NDArray[Any], affine: NDArray[np.float64]) -> NDArray[Any]:
    # the first axis to the right, the second to the front or upwards
    first = _axis_to_the_right(affine)
    turned = values.transpose(first, 1 - first, 2)
    if not _is_forwards(affine, first, first):
        turned = turned[::-1]
    if not _is_forwards(affine, 1 - first, first):
        turned = turned[:, ::-1]
    return turned


def _is_forwards(affine: NDArray[np.float64], axis: int, first: int) -> bool:
    # whether an axis runs to the right, or the other one to the front or upwards
    towards = affine[:1, axis] if axis == first else affine[1:3, axis]
    return bool(towards[np.argmax(np.abs(towards))] >= 0)


def _shown_names(
    labels: NDArray[np.integer[Any]], names: Mapping[int, str]
) -> list[tuple[str, str]]:
    present = {int(label) for label in np.unique(labels)}
    shown = dict.fromkeys(name for label, name in names.items() if label in present)
    return [(name, AREA_COLOURS.get(name, OTHER_COLOUR)) for name in shown]


def _dark(colour: str) -> str:
    return {"#ffd400": "#9a7d00", "#56b4e9": "#1f78b4", "#ffffff": TEXT_COLOUR}.get(colour, colour)
