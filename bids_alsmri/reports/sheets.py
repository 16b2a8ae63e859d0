"""Sheets of cuts through volumes: rows of panels, their letters, outlines, scales and keys.

Every volume stands in RAS+ order: axis 0 runs to the participant's right, axis 1 to anterior,
axis 2 to superior. Panels of a row stand side by side in mm, right on the right.
No pyplot: figures are objects without global state.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bids_alsmri.errors import NumericsError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

# Colours that stay apart for colour-blind readers: Okabe and Ito 2008, Color Universal Design.
ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE = (
    "#e69f00",
    "#56b4e9",
    "#009e73",
    "#f0e442",
    "#0072b2",
    "#d55e00",
    "#cc79a7",
)
CONVENTION = "Neurological convention: the participant's right (R) is on the right."

WIDTH_IN = 12.0
# Of a name beside a row, and of the scale beside all rows.
NAME_IN, SCALE_IN = 0.3, 1.0
GAP_IN = 0.06
FOOT_IN = 0.42
_MAX_ROW_IN = 2.9
INK, PAPER = "#e8e8e8", "black"
# Per orientation (axis of the cut): horizontal axis, vertical axis, names, letters at both sides.
HORIZONTAL, VERTICAL = (1, 0, 0), (2, 2, 1)
_AXIS_NAMES = ("x", "y", "z")
SIDES = (("P", "A"), ("L", "R"), ("L", "R"))
SAGITTAL, CORONAL, AXIAL = 0, 1, 2


class Contour(NamedTuple):
    """Outline of a mask or probability map.

    Parameters
    ----------
    values : (nx, ny, nz) array
        Mask or map in the geometry of the volume below it.
    level : float
        Value at which the line is drawn, in the unit of `values`; 0.5 for a mask.
    color, label : str
        Colour of the line and its name in the legend.
    """

    values: NDArray[Any]
    level: float
    color: str
    label: str


class Key(NamedTuple):
    """Entry of a legend.

    Parameters
    ----------
    color, label : str
        Colour and what it stands for.
    is_area : bool
        Whether it fills areas, or else draws lines.
    """

    color: str
    label: str
    is_area: bool = False


@dataclass(frozen=True)
class Panel:
    """One cut.

    Parameters
    ----------
    axis : int
        Which the cut is perpendicular to, 0 to 2.
    index : int
        Voxel along it.
    """

    axis: int
    index: int


@dataclass(frozen=True)
class View:
    """Part of a volume that is shown, and the size of its voxels.

    Parameters
    ----------
    starts, stops : (3,) tuple of int
        First voxel along each axis, and the one after the last.
    voxel_mm : (3,) tuple of float
        Voxel size, in mm.
    origin_mm : (3,) tuple of float, optional
        World position of voxel (0, 0, 0), in mm.
    """

    starts: tuple[int, int, int]
    stops: tuple[int, int, int]
    voxel_mm: tuple[float, float, float]
    origin_mm: tuple[float, float, float] | None

    def length_mm(self, axis: int) -> float:
        """Extent along an axis, in mm."""
        return (self.stops[axis] - self.starts[axis]) * self.voxel_mm[axis]

    def width_mm(self, panel: Panel) -> float:
        """Extent of a panel from left to right, in mm."""
        return self.length_mm(HORIZONTAL[panel.axis])

    def height_mm(self, panel: Panel) -> float:
        """Extent of a panel from bottom to top, in mm."""
        return self.length_mm(VERTICAL[panel.axis])

    def cut(self, volume: NDArray[Any], panel: Panel) -> NDArray[Any]:
        """Rows run upwards, columns to the right; trailing axes (colour) are kept."""
        window = tuple(
            slice(panel.index, panel.index + 1) if axis == panel.axis else slice(start, stop)
            for axis, (start, stop) in enumerate(zip(self.starts, self.stops, strict=True))
        )
        return np.swapaxes(np.squeeze(volume[window], axis=panel.axis), 0, 1)

    def name(self, panel: Panel) -> str:
        """Place of a cut: in mm where the world is known, else the voxel's index."""
        letter = _AXIS_NAMES[panel.axis]
        if self.origin_mm is None:
            return f"{letter} {panel.index}"
        position = self.origin_mm[panel.axis] + panel.index * self.voxel_mm[panel.axis]
        return f"{letter} = {round(position)} mm".replace("-", "−")


@dataclass(frozen=True)
class Row:
    """One row of panels.

    Parameters
    ----------
    axes : matplotlib axes
        Their unit is the mm.
    panels : tuple of Panel
        From left to right.
    lefts_mm : tuple of float
        Left edge of each panel.
    """

    axes: Axes
    panels: tuple[Panel, ...]
    lefts_mm: tuple[float, ...]


def choose_slices(mask: ArrayLike, axis: int, n_slices: int) -> tuple[int, ...]:
    """Indices of evenly spaced slices through the bounding box of a mask.

    Parameters
    ----------
    mask : (nx, ny, nz) array_like of bool
        What the slices should show; the whole axis counts where it is empty.
    axis : int
        Axis that the slices are perpendicular to, 0 to 2.
    n_slices : int
        Number wanted, positive; fewer come back where the box is thinner.

    Returns
    -------
    indices : tuple of int
        Ascending, each once: the middles of `n_slices` equal parts of the box.

    Examples
    --------
    >>> mask = np.zeros((4, 4, 20), bool)
    >>> mask[1:3, 1:3, 4:16] = True
    >>> choose_slices(mask, 2, 3)
    (6, 10, 14)
    """
    start, stop = bounds(np.asarray(mask, dtype=bool), axis)
    middles = start + (np.arange(n_slices) + 0.5) * (stop - start) / n_slices
    return tuple(sorted({int(np.floor(middle)) for middle in middles}))


@contextmanager
def fixed_style() -> Iterator[None]:
    """Matplotlib's own defaults, whatever the user's matplotlibrc says, and ours on top."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(
            {
                "svg.hashsalt": "bids_alsmri",
                "svg.fonttype": "path",
                "font.family": "DejaVu Sans",
                "font.size": 10,
                "axes.spines.top": False,
                "axes.spines.right": False,
                "axes.edgecolor": "#57606a",
                "axes.labelsize": 10,
                "xtick.labelsize": 9,
                "ytick.labelsize": 9,
                "legend.fontsize": 9,
            }
        )
        yield


def check_volume(name: str, volume: NDArray[Any], voxel_mm: Sequence[float]) -> None:
    """Refuse what is no volume.

    Parameters
    ----------
    name : str
        Of the argument.
    volume : (nx, ny, nz) array
        To be drawn.
    voxel_mm : (3,) sequence
        Voxel size, in mm.

    Raises
    ------
    NumericsError
        If there are not three axes, one is empty, or a voxel size is not positive.
    """
    if volume.ndim != 3 or 0 in volume.shape:
        raise NumericsError(f"{name} has shape {volume.shape}; give three axes, none empty")
    if len(voxel_mm) != 3 or not all(np.isfinite(size) and size > 0 for size in voxel_mm):
        raise NumericsError(f"voxel_mm is {tuple(voxel_mm)}; give three positive sizes in mm")


def check_same_shape(name: str, values: NDArray[Any], volume: NDArray[Any]) -> None:
    """Refuse an array of another shape than the volume that it is drawn on.

    Parameters
    ----------
    name : str
        Of the argument.
    values, volume : (nx, ny, nz) array
        To be drawn together.

    Raises
    ------
    NumericsError
        If shapes differ.
    """
    if values.shape != volume.shape:
        raise NumericsError(
            f"{name} has shape {values.shape} and the volume {volume.shape}; resample one"
        )


def finite_values(values: ArrayLike) -> NDArray[np.float64]:
    """Finite values of an array of any shape, in one axis."""
    array: NDArray[np.float64] = np.asarray(values, dtype=np.float64).ravel()
    finite: NDArray[np.float64] = array[np.isfinite(array)]
    return finite


def percentile(values: ArrayLike, percent: float) -> float:
    """Percentile of the finite values; 1.0 where there is none or it is 0 (a scale needs width)."""
    finite = finite_values(values)
    found = float(np.percentile(finite, percent)) if finite.size else 1.0
    return found or 1.0


def bounds(mask: NDArray[np.bool_], axis: int) -> tuple[int, int]:
    """First voxel of a mask along an axis and the one after the last; all where it is empty."""
    others = tuple(other for other in range(3) if other != axis)
    where = np.flatnonzero(mask.any(axis=others))
    return (int(where[0]), int(where[-1]) + 1) if where.size else (0, mask.shape[axis])


def shown_mask(
    volume: NDArray[Any], mask: NDArray[Any] | None, contours: Sequence[Contour]
) -> NDArray[np.bool_]:
    """Mask that places the slices: as given, else of all contours, else what is not zero."""
    if mask is not None:
        check_same_shape("mask", mask, volume)
        return np.asarray(np.nan_to_num(mask) > 0)
    if contours:
        masks: NDArray[np.bool_] = np.logical_or.reduce(
            [np.nan_to_num(item[0]) >= item[1] for item in contours]
        )
        return masks
    return np.asarray(np.nan_to_num(volume) != 0)


def view_of(
    inside: NDArray[np.bool_],
    voxel_mm: Sequence[float],
    origin_mm: Sequence[float] | None,
    margin_mm: float,
) -> View:
    """Box around a mask, with a margin.

    Parameters
    ----------
    inside : (nx, ny, nz) array of bool
        Mask.
    voxel_mm : (3,) sequence
        Voxel size, in mm.
    origin_mm : (3,) sequence, optional
        World position of voxel (0, 0, 0), in mm.
    margin_mm : float
        What is shown around the box, in mm.

    Returns
    -------
    View
        Within the volume.
    """
    starts, stops = [], []
    for axis in range(3):
        start, stop = bounds(inside, axis)
        margin = int(np.ceil(margin_mm / voxel_mm[axis]))
        starts.append(max(start - margin, 0))
        stops.append(min(stop + margin, inside.shape[axis]))
    sizes = [float(size) for size in voxel_mm]
    origin = None if origin_mm is None else [float(place) for place in origin_mm]
    return View(
        (starts[0], starts[1], starts[2]),
        (stops[0], stops[1], stops[2]),
        (sizes[0], sizes[1], sizes[2]),
        None if origin is None else (origin[0], origin[1], origin[2]),
    )


def grey_window(volume: NDArray[Any], inside: NDArray[np.bool_]) -> tuple[float, float]:
    """Black at the low end of all voxels, white at the high end of those that matter."""
    everywhere, chosen = finite_values(volume), finite_values(volume[inside])
    if not chosen.size:
        return 0.0, 1.0
    # Scalp fat is often twice as bright as the brain and would darken it.
    low, high = float(np.percentile(everywhere, 0.5)), float(np.percentile(chosen, 99.5))
    return (low, high) if low < high else (low, low + 1.0)


def three_rows(inside: NDArray[np.bool_], n_slices: int) -> list[list[Panel]]:
    """Axial, coronal and sagittal panels, evenly spaced through a mask."""
    return [
        [Panel(axis, index) for index in choose_slices(inside, axis, n_slices)]
        for axis in (AXIAL, CORONAL, SAGITTAL)
    ]


def mixed_row(inside: NDArray[np.bool_], n_slices: int) -> list[Panel]:
    """Axial panels, then one coronal, then one sagittal a little off the midline."""
    axial = choose_slices(inside, AXIAL, max(n_slices - 2, 1))
    return [
        *(Panel(AXIAL, index) for index in axial),
        Panel(CORONAL, choose_slices(inside, CORONAL, 1)[0]),
        Panel(SAGITTAL, choose_slices(inside, SAGITTAL, 3)[-1]),
    ]


def plain_figure(height_in: float) -> Figure:
    """White figure of the width of a page."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_IN, height_in), facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def write_head(figure: Figure, title: str, text: str) -> None:
    """Title and a line below it, at the same place in figures of any height."""
    height_in = figure.get_size_inches()[1]
    for words, down_in, size, weight, color in (
        (title, 0.22, 12, "bold", "#1b1f24"),
        (text, 0.47, 9.5, "normal", "#57606a"),
    ):
        figure.text(
            0.006, 1 - down_in / height_in, words, fontsize=size, fontweight=weight, color=color,
            va="center", parse_math=False,
        )  # fmt: skip


def sheet(
    rows: Sequence[Sequence[Panel]],
    view: View,
    *,
    left_in: float = 0.05,
    right_in: float = 0.0,
    top_in: float = 0.0,
) -> tuple[Figure, list[Row]]:
    """Black figure with one set of axes per row of panels, each scaled to the full width.

    Parameters
    ----------
    rows : sequence of sequences of Panel
        From above, from left to right.
    view : View
        What the panels show.
    left_in, right_in, top_in : float
        Left free beside and above the rows, in inches.

    Returns
    -------
    figure : matplotlib.figure.Figure
        With room for `foot`.
    rows : list of Row
        Empty but for their letters.
    """
    usable_in = WIDTH_IN - left_in - right_in - 0.05
    widths_mm = [sum(view.width_mm(panel) for panel in panels) for panels in rows]
    heights_mm = [max(view.height_mm(panel) for panel in panels) for panels in rows]
    # Inches per mm: the row fills the width unless few panels would make it too tall.
    scales = [
        min((usable_in - GAP_IN * (len(panels) - 1)) / width, _MAX_ROW_IN / height)
        for panels, width, height in zip(rows, widths_mm, heights_mm, strict=True)
    ]
    heights_in = [scale * height for scale, height in zip(scales, heights_mm, strict=True)]
    total_in = top_in + sum(heights_in) + GAP_IN * len(rows) + FOOT_IN
    figure = plain_figure(total_in)
    figure.set_facecolor(PAPER)
    placed, row_top_in = [], total_in - top_in - GAP_IN / 2
    for panels, scale, height_in, width_mm in zip(rows, scales, heights_in, widths_mm, strict=True):
        gap_mm = GAP_IN / scale
        full_mm = width_mm + gap_mm * (len(panels) - 1)
        axes = figure.add_axes(
            (
                left_in / WIDTH_IN,
                (row_top_in - height_in) / total_in,
                full_mm * scale / WIDTH_IN,
                height_in / total_in,
            )
        )
        axes.set_axis_off()
        axes.set(xlim=(0, full_mm), ylim=(0, height_in / scale))
        # Below this order all goes into one picture: outlines as vectors would weigh megabytes.
        axes.set_rasterization_zorder(5)
        placed.append(_place(axes, panels, view, gap_mm))
        row_top_in -= height_in + GAP_IN
    return figure, placed


def _place(axes: Axes, panels: Sequence[Panel], view: View, gap_mm: float) -> Row:
    lefts, left = [], 0.0
    for panel in panels:
        lefts.append(left)
        _letter_panel(axes, panel, view, left)
        left += view.width_mm(panel) + gap_mm
    return Row(axes, tuple(panels), tuple(lefts))


def _letter_panel(axes: Axes, panel: Panel, view: View, left: float) -> None:
    """Letters of the two sides in the upper corners, place of the cut in the lower left one."""
    from matplotlib.patheffects import withStroke

    width, height = view.width_mm(panel), view.height_mm(panel)
    low, high = SIDES[panel.axis]
    for across, up, text, size, weight in (
        (0.03, 0.97, low, 9, "bold"),
        (0.97, 0.97, high, 9, "bold"),
        (0.03, 0.02, view.name(panel), 7.5, "normal"),
    ):
        axes.text(
            left + across * width,
            up * height,
            text,
            color=INK,
            fontsize=size,
            fontweight=weight,
            ha="left" if across < 0.5 else "right",
            va="bottom" if up < 0.5 else "top",
            # Bright scalp lies below the letters.
            path_effects=[withStroke(linewidth=2.2, foreground=PAPER)],
            zorder=10,
        )


def _extent(view: View, panel: Panel, left: float) -> tuple[float, float, float, float]:
    return (left, left + view.width_mm(panel), 0.0, view.height_mm(panel))


def draw_scalar(
    row: Row,
    volume: NDArray[Any],
    view: View,
    cmap: str | Colormap,
    low: float,
    high: float,
    *,
    missing: str = PAPER,
) -> ScalarMappable:
    """Cuts of a volume in the panels of a row, over what is there.

    Parameters
    ----------
    row : Row
        Its panels say which cuts.
    volume : (nx, ny, nz) array
        Values.
    view : View
        That the row was made with.
    cmap : str or matplotlib colour map
        Colours.
    low, high : float
        Ends of the colours, in the unit of the volume.
    missing : str
        Colour of NaN; "none" lets what lies below shine through.

    Returns
    -------
    matplotlib.cm.ScalarMappable
        For `draw_scale`.
    """
    import matplotlib

    colours = matplotlib.colormaps.get_cmap(cmap).with_extremes(bad=missing)
    for panel, left in zip(row.panels, row.lefts_mm, strict=True):
        image = row.axes.imshow(
            view.cut(volume, panel).astype(np.float64),
            cmap=colours,
            vmin=low,
            vmax=high,
            origin="lower",
            extent=_extent(view, panel, left),
            aspect="auto",
            interpolation="antialiased",
            zorder=0,
        )
    keep_limits(row, view)
    return image


def draw_rgb(row: Row, colours: NDArray[np.float64], view: View) -> None:
    """Cuts of a (nx, ny, nz, 3) volume of colours, 0 to 1, in the panels of a row."""
    for panel, left in zip(row.panels, row.lefts_mm, strict=True):
        row.axes.imshow(
            view.cut(colours, panel),
            origin="lower",
            extent=_extent(view, panel, left),
            aspect="auto",
            interpolation="antialiased",
            zorder=0,
        )
    keep_limits(row, view)


def keep_limits(row: Row, view: View) -> None:
    """Undo what drawing did to the limits: panels stand side by side in mm."""
    right = row.lefts_mm[-1] + view.width_mm(row.panels[-1])
    top = max(view.height_mm(panel) for panel in row.panels)
    row.axes.set(xlim=(0, right), ylim=(0, top))


def draw_contours(row: Row, contours: Sequence[Contour], view: View) -> None:
    """Outlines over the panels of a row, closed at the edges of what is shown."""
    for values, level, color, _ in contours:
        for panel, left in zip(row.panels, row.lefts_mm, strict=True):
            # A rim of the lowest value closes outlines that reach the edge of the picture.
            cut = np.nan_to_num(view.cut(values, panel).astype(np.float64))
            if not cut.min() < level <= cut.max() and not (cut >= level).all():
                continue
            cut = np.pad(cut, 1, constant_values=min(float(cut.min()), level - 1.0))
            x, y = (
                start + (np.arange(n) - 0.5) * view.voxel_mm[axis]
                for start, n, axis in (
                    (left, cut.shape[1], HORIZONTAL[panel.axis]),
                    (0.0, cut.shape[0], VERTICAL[panel.axis]),
                )
            )
            row.axes.contour(x, y, cut, levels=[level], colors=[color], linewidths=0.9, zorder=2)
    keep_limits(row, view)


def draw_scale(figure: Figure, rows: Sequence[Row], mappable: ScalarMappable, label: str) -> None:
    """Upright scale right of some rows, with the name of the quantity and its unit."""
    top, bottom = rows[0].axes.get_position().y1, rows[-1].axes.get_position().y0
    inset = 0.08 * (top - bottom)
    axes = figure.add_axes((1 - 0.9 / WIDTH_IN, bottom + inset, 0.012, top - bottom - 2 * inset))
    bar = figure.colorbar(mappable, cax=axes, extend="both", extendfrac=0.03)
    bar.set_label(label, color=INK)
    bar.ax.tick_params(colors=INK, labelsize=8)
    bar.outline.set_edgecolor(INK)


def name_row(figure: Figure, row: Row, name: str) -> None:
    """Name of a row, upright at its left."""
    box = row.axes.get_position()
    figure.text(
        0.12 / WIDTH_IN,
        box.y0 + box.height / 2,
        name,
        color=INK,
        rotation=90,
        ha="center",
        va="center",
    )


def foot(figure: Figure, keys: Sequence[Key], *, note: str = "") -> None:
    """Legend on the left of the lower edge, the convention of sides on the right."""
    from matplotlib.lines import Line2D

    y = 0.5 * FOOT_IN / figure.get_size_inches()[1]
    text = f"{note} {CONVENTION}".strip()
    figure.text(0.99, y, text, color=INK, fontsize=8.5, ha="right", va="center")
    if keys:
        handles = [
            Line2D([], [], color=key.color, linewidth=7 if key.is_area else 2, label=key.label)
            for key in keys
        ]
        figure.legend(
            handles=handles,
            loc="center left",
            bbox_to_anchor=(0.005, y),
            ncols=len(handles),
            frameon=False,
            labelcolor=INK,
            borderpad=0,
        )


def contour_keys(contours: Sequence[Contour]) -> list[Key]:
    """Legend of outlines, for `foot`."""
    return [Key(item.color, item.label) for item in contours]
