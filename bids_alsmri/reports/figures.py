"""Pictures of a report: arrays in, matplotlib figures out.

Every volume stands in RAS+ order: axis 0 runs to the participant's right, axis 1 to anterior,
axis 2 to superior. Pictures follow the neurological convention (right is on the right), and say so.
No pyplot: figures are objects without global state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bids_alsmri.errors import NumericsError, RunError
from bids_alsmri.reports.sheets import (
    AXIAL,
    BLUE,
    CONVENTION,
    GREEN,
    HORIZONTAL,
    INK,
    NAME_IN,
    ORANGE,
    PURPLE,
    SCALE_IN,
    SIDES,
    SKY,
    VERMILION,
    VERTICAL,
    WIDTH_IN,
    Contour,
    Row,
    check_same_shape,
    check_volume,
    choose_slices,
    contour_keys,
    draw_contours,
    draw_rgb,
    draw_scalar,
    draw_scale,
    finite_values,
    fixed_style,
    foot,
    grey_window,
    mixed_row,
    name_row,
    percentile,
    plain_figure,
    sheet,
    shown_mask,
    three_rows,
    view_of,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

__all__ = [
    "Contour",
    "choose_slices",
    "draw_body_chart",
    "draw_colour_fa",
    "draw_difference",
    "draw_histograms",
    "draw_map",
    "draw_mosaic",
    "draw_motion",
    "draw_planes",
    "draw_regions",
    "draw_registration_pair",
    "draw_residual",
    "save_figure",
]

# 1320 pixels a row: one for each voxel of seven 1 mm heads, and below 2 MB a figure.
_RASTER_DPI = 110
_MIDDLE, _BOTH_SIDES = (("n/a", 0.0),), (("left", -1.0), ("right", 1.0))
_SIDE_MARKS = {"left": "<", "right": ">", "n/a": "o"}
# Of 100: letters and outlines stay sharp.
_WEBP_QUALITY = 90


def draw_mosaic(
    volume: NDArray[Any],
    voxel_mm: Sequence[float],
    *,
    contours: Sequence[Contour] = (),
    mask: NDArray[Any] | None = None,
    n_slices: int = 7,
    window: tuple[float, float] | None = None,
    origin_mm: Sequence[float] | None = None,
    margin_mm: float = 12.0,
) -> Figure:
    """Axial, coronal and sagittal rows of a volume in grey, with outlines.

    Parameters
    ----------
    volume : (nx, ny, nz) array
        RAS+ image of any unit; NaN is shown black.
    voxel_mm : (3,) sequence
        Voxel size along each axis, in mm, positive.
    contours : sequence of Contour
        Outlines, drawn in this order.
    mask : (nx, ny, nz) array, optional
        Slices go through its bounding box; by default that of all contours.
    n_slices : int
        Panels per row.
    window : (low, high), optional
        Values shown black and white; by default percentile 0.5 of the
        volume and 99.5 of what lies within the mask.
    origin_mm : (3,) sequence, optional
        World position of voxel (0, 0, 0), in mm: cuts are then named by position, else by index.
    margin_mm : float
        What is shown around the box, in mm.

    Returns
    -------
    figure : matplotlib.figure.Figure
        To be handed to `save_figure`.

    Raises
    ------
    NumericsError
        If the volume is not 3D, a shape differs, or a voxel size is not positive.

    Examples
    --------
    >>> figure = draw_mosaic(np.arange(512.0).reshape(8, 8, 8), (2, 2, 3), n_slices=4)
    >>> [len(axes.images) for axes in figure.axes]
    [4, 4, 4]
    """
    check_volume("volume", volume, voxel_mm)
    for contour in contours:
        check_same_shape("contour " + contour[3], contour[0], volume)
    inside = shown_mask(volume, mask, contours)
    view = view_of(inside, voxel_mm, origin_mm, margin_mm)
    with fixed_style():
        figure, rows = sheet(three_rows(inside, n_slices), view)
        low, high = window or grey_window(volume, inside)
        for row in rows:
            draw_scalar(row, volume, view, "gray", low, high)
            draw_contours(row, contours, view)
        foot(figure, contour_keys(contours))
    return figure


def draw_registration_pair(
    fixed: NDArray[Any],
    moved: NDArray[Any],
    voxel_mm: Sequence[float],
    *,
    outline: Contour | None = None,
    mask: NDArray[Any] | None = None,
    n_slices: int = 7,
    origin_mm: Sequence[float] | None = None,
    margin_mm: float = 8.0,
) -> tuple[Figure, Figure]:
    """Two aligned volumes as two figures of exactly the same layout, to flip between.

    Parameters
    ----------
    fixed, moved : (nx, ny, nz) array
        RAS+ images of one grid; each gets a grey scale of its own.
    voxel_mm : (3,) sequence
        Voxel size, in mm, positive.
    outline : Contour, optional
        Outline of one of the two, drawn on both: it makes a shift visible without flicker.
    mask : (nx, ny, nz) array, optional
        Slices go through its bounding box; by default that of the outline.
    n_slices, origin_mm, margin_mm
        As for `draw_mosaic`.

    Returns
    -------
    fixed_figure, moved_figure : matplotlib.figure.Figure
        In the order of the arguments.

    Raises
    ------
    NumericsError
        If shapes differ or a voxel size is not positive.

    Examples
    --------
    >>> cube = np.arange(512.0).reshape(8, 8, 8)
    >>> before, after = draw_registration_pair(cube, cube[::-1], (2, 2, 2), n_slices=3)
    >>> bool((before.get_size_inches() == after.get_size_inches()).all())
    True
    """
    check_volume("fixed", fixed, voxel_mm)
    check_same_shape("moved", moved, fixed)
    contours = () if outline is None else (outline,)
    inside = shown_mask(fixed, mask, contours)
    before, after = (
        draw_mosaic(
            volume,
            voxel_mm,
            contours=contours,
            mask=inside,
            n_slices=n_slices,
            origin_mm=origin_mm,
            margin_mm=margin_mm,
        )
        for volume in (fixed, moved)
    )
    return before, after


def draw_colour_fa(
    fa: NDArray[Any],
    v1: NDArray[Any],
    voxel_mm: Sequence[float],
    *,
    mask: NDArray[Any] | None = None,
    n_slices: int = 7,
    brightest_fa: float = 0.7,
    origin_mm: Sequence[float] | None = None,
    margin_mm: float = 4.0,
) -> Figure:
    r"""Main diffusion direction as colour (red L-R, green P-A, blue I-S), anisotropy as brightness.

    Parameters
    ----------
    fa : (nx, ny, nz) array
        Fractional anisotropy, 0 to 1; NaN is shown black.
    v1 : (nx, ny, nz, 3) array
        Unit vectors of the main direction along the RAS+ axes; the sign does not matter.
    voxel_mm : (3,) sequence
        Voxel size, in mm, positive.
    mask : (nx, ny, nz) array, optional
        Slices go through its bounding box; by default that of FA above 0.
    n_slices, origin_mm, margin_mm
        As for `draw_mosaic`.
    brightest_fa : float
        Anisotropy shown at full brightness; higher values are not brighter.

    Returns
    -------
    figure : matplotlib.figure.Figure
        Each row ends in a ball that shows the colour of every direction seen from that side.

    Raises
    ------
    NumericsError
        If shapes do not fit or a voxel size is not positive.

    Notes
    -----
    :math:`(r, g, b) = \min(\mathrm{FA} / \mathrm{FA}_{max}, 1)\,|\mathbf{v}_1|`, the scheme of
    Pajevic and Pierpaoli 1999, doi:10.1002/(SICI)1522-2594(199909)42:3<526::AID-MRM15>3.0.CO;2-J.

    Examples
    --------
    >>> fa = np.full((8, 8, 8), 0.5)
    >>> v1 = np.zeros((8, 8, 8, 3)); v1[..., 0] = 1.0
    >>> figure = draw_colour_fa(fa, v1, (2, 2, 2), n_slices=3)
    >>> len(figure.axes)  # three rows, three balls
    6
    """
    check_volume("fa", fa, voxel_mm)
    if v1.shape != (*fa.shape, 3):
        raise NumericsError(f"v1 has shape {v1.shape}; fa asks for {(*fa.shape, 3)}")
    inside = shown_mask(fa, mask, ())
    view = view_of(inside, voxel_mm, origin_mm, margin_mm)
    brightness = np.clip(np.nan_to_num(fa) / brightest_fa, 0.0, 1.0)
    colours = np.clip(np.abs(np.nan_to_num(v1)) * brightness[..., None], 0.0, 1.0)
    with fixed_style():
        figure, rows = sheet(three_rows(inside, n_slices), view, right_in=1.5)
        for row in rows:
            draw_rgb(row, colours, view)
            _draw_ball(figure, row, row.panels[0].axis)
        foot(figure, (), note=f"Full brightness at FA {brightest_fa:g} and above.")
    return figure


def draw_residual(
    before: NDArray[Any],
    after: NDArray[Any],
    residual: NDArray[Any],
    voxel_mm: Sequence[float],
    *,
    unit: str,
    sigma: NDArray[Any] | None = None,
    mask: NDArray[Any] | None = None,
    n_slices: int = 6,
    origin_mm: Sequence[float] | None = None,
    margin_mm: float = 6.0,
) -> Figure:
    """One volume before and after denoising, what was taken away, and the noise that was found.

    Parameters
    ----------
    before, after : (nx, ny, nz) array
        Shown on one grey scale.
    residual : (nx, ny, nz) array
        Before minus after, shown on a scale centred at zero: anatomy in it was wrongly removed.
    voxel_mm : (3,) sequence
        Voxel size, in mm, positive.
    unit : str
        Unit of all four volumes, such as "a.u.".
    sigma : (nx, ny, nz) array, optional
        Standard deviation of the noise.
    mask : (nx, ny, nz) array, optional
        Slices go through its bounding box; by default that of what is not zero.
    n_slices, origin_mm, margin_mm
        As for `draw_mosaic`; the last two panels of a row are coronal and sagittal.

    Returns
    -------
    figure : matplotlib.figure.Figure
        Three or four rows, each with a scale.

    Raises
    ------
    NumericsError
        If shapes differ or a voxel size is not positive.

    Examples
    --------
    >>> cube = np.arange(512.0).reshape(8, 8, 8)
    >>> figure = draw_residual(cube, cube - 1, np.ones_like(cube), (2, 2, 2), unit="a.u.")
    >>> len(figure.axes)  # three rows, three scales
    6
    """
    check_volume("before", before, voxel_mm)
    volumes = {"before": before, "after": after, "removed": residual}
    if sigma is not None:
        volumes["noise SD"] = sigma
    for name, volume in volumes.items():
        check_same_shape(name, volume, before)
    inside = shown_mask(before, mask, ())
    view = view_of(inside, voxel_mm, origin_mm, margin_mm)
    grey = grey_window(before, inside)
    spread = percentile(np.abs(residual[inside]), 99.0)
    scales = {
        "before": ("gray", *grey),
        "after": ("gray", *grey),
        "removed": ("gray", -spread, spread),
        "noise SD": ("viridis", 0.0, percentile(sigma[inside], 99.0) if sigma is not None else 1),
    }
    panels = mixed_row(inside, n_slices)
    with fixed_style():
        figure, rows = sheet([panels] * len(volumes), view, left_in=NAME_IN, right_in=SCALE_IN)
        for row, (name, volume) in zip(rows, volumes.items(), strict=True):
            mappable = draw_scalar(row, volume, view, *scales[name])
            name_row(figure, row, name)
            draw_scale(figure, [row], mappable, f"{name} ({unit})")
        foot(figure, ())
    return figure


def draw_map(
    volume: NDArray[Any],
    voxel_mm: Sequence[float],
    *,
    label: str,
    vmin: float,
    vmax: float,
    cmap: str = "viridis",
    contours: Sequence[Contour] = (),
    mask: NDArray[Any] | None = None,
    n_slices: int = 7,
    origin_mm: Sequence[float] | None = None,
    margin_mm: float = 4.0,
) -> Figure:
    """Scalar map in three orientations with its scale.

    Parameters
    ----------
    volume : (nx, ny, nz) array
        Values in the unit of the label; NaN is shown black.
    voxel_mm : (3,) sequence
        Voxel size, in mm, positive.
    label : str
        Name of the quantity with its unit, such as "MD (10⁻³ mm²/s)".
    vmin, vmax : float
        Ends of the scale, in that unit; values beyond are clipped, shown by the scale's arrows.
    cmap : str
        A perceptually uniform matplotlib map.
    contours, mask, n_slices, origin_mm, margin_mm
        As for `draw_mosaic`.

    Returns
    -------
    figure : matplotlib.figure.Figure
        Three rows and a scale.

    Raises
    ------
    NumericsError
        If a shape differs, a voxel size is not positive or `vmin` is not below `vmax`.

    Examples
    --------
    >>> figure = draw_map(np.ones((8, 8, 8)), (2, 2, 2), label="FA", vmin=0.0, vmax=1.0)
    >>> len(figure.axes)
    4
    """
    check_volume("volume", volume, voxel_mm)
    if not vmin < vmax:
        raise NumericsError(f"vmin is {vmin:g} and vmax {vmax:g}; vmin must be below vmax")
    for contour in contours:
        check_same_shape("contour " + contour[3], contour[0], volume)
    inside = shown_mask(volume, mask, contours)
    view = view_of(inside, voxel_mm, origin_mm, margin_mm)
    with fixed_style():
        figure, rows = sheet(three_rows(inside, n_slices), view, right_in=SCALE_IN)
        for row in rows:
            mappable = draw_scalar(row, volume, view, cmap, vmin, vmax)
            draw_contours(row, contours, view)
        draw_scale(figure, rows, mappable, label)
        foot(figure, contour_keys(contours))
    return figure


def draw_motion(
    translations_mm: NDArray[Any],
    rotations_deg: NDArray[Any],
    framewise_displacement_mm: NDArray[Any],
    *,
    b_values_s_mm2: NDArray[Any],
    outlier_share: NDArray[Any] | None = None,
    displacement_limit_mm: float | None = None,
) -> Figure:
    """Motion of the head over the volumes, with the slices that were lost to it.

    Parameters
    ----------
    translations_mm, rotations_deg : (n_volumes, 3) array
        Along and about the RAS+ axes, in mm and degrees.
    framewise_displacement_mm : (n_volumes,) array
        Displacement from the volume before, in mm; the first may be NaN.
    b_values_s_mm2 : (n_volumes,) array
        Diffusion weighting, in s/mm2.
    outlier_share : (n_slices, n_volumes) array, optional
        Share of each slice that lost its signal, 0 to 1; the lowest slice first.
    displacement_limit_mm : float, optional
        Upper end of the sensible range, drawn as a dashed line.

    Returns
    -------
    figure : matplotlib.figure.Figure
        Four or five panels over one axis of volumes.

    Raises
    ------
    NumericsError
        If the arrays do not have the same number of volumes.

    Examples
    --------
    >>> zeros = np.zeros((5, 3))
    >>> figure = draw_motion(zeros, zeros, zeros[:, 0], b_values_s_mm2=np.arange(5.0))
    >>> len(figure.axes)
    4
    """
    n_volumes = len(b_values_s_mm2)
    _check_motion(
        translations_mm, rotations_deg, framewise_displacement_mm, outlier_share, n_volumes
    )
    with fixed_style():
        figure, panels = _stacked_panels(has_carpet=outlier_share is not None)
        volumes = np.arange(n_volumes)
        _draw_three(
            panels[0], volumes, translations_mm, "translation (mm)", ("right", "forward", "up")
        )
        _draw_three(
            panels[1],
            volumes,
            rotations_deg,
            "rotation (°)",
            ("about x (nod)", "about y (tilt)", "about z (shake)"),
        )
        _draw_displacement(panels[2], volumes, framewise_displacement_mm, displacement_limit_mm)
        if outlier_share is not None:
            _draw_carpet(figure, panels[3], outlier_share)
        _draw_b_values(panels[-1], volumes, b_values_s_mm2)
        panels[-1].set_xlabel("volume (counted from 0)")
        panels[-1].locator_params(axis="x", integer=True)
        panels[-1].set_xlim(-0.5, n_volumes - 0.5)
    return figure


def draw_histograms(
    values_by_tissue: Mapping[str, ArrayLike],
    *,
    xlabel: str,
    n_bins: int = 80,
    limits: tuple[float, float] | None = None,
) -> Figure:
    """Distribution of a map in each tissue, each scaled to its own number of voxels.

    Parameters
    ----------
    values_by_tissue : mapping of str to (n,) array_like
        Values per tissue in the unit of `xlabel`; what is not finite is left out and counted.
    xlabel : str
        Name of the quantity with its unit.
    n_bins : int
        Number of bins, positive.
    limits : (low, high), optional
        Range shown; by default percentiles 0.2 and 99.8 of all values. Values beyond are counted
        in the share's denominator and not shown.

    Returns
    -------
    figure : matplotlib.figure.Figure
        One outline per tissue with a mark at its median.

    Examples
    --------
    >>> figure = draw_histograms({"white matter": [0.4, 0.5, 0.6]}, xlabel="FA")
    >>> figure.axes[0].get_xlabel()
    'FA'
    """
    finite = {name: finite_values(values) for name, values in values_by_tissue.items()}
    pooled = np.concatenate([*finite.values(), np.empty(0)])
    low, high = limits or (percentile(pooled, 0.2), percentile(pooled, 99.8))
    if not low < high:
        low, high = low - 0.5, low + 0.5
    with fixed_style():
        figure = plain_figure(height_in=3.8)
        axes = figure.add_axes((0.07, 0.15, 0.63, 0.81))
        edges = np.linspace(low, high, n_bins + 1)
        looks = zip(
            (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY), ("-", "--", "-.", ":") * 2, strict=False
        )
        for (name, values), (color, dash) in zip(finite.items(), looks, strict=False):
            n_lost = np.size(values_by_tissue[name]) - values.size
            _draw_histogram(axes, edges, values, color, dash, _summary(name, values, n_lost))
        axes.set(xlim=(low, high), xlabel=xlabel, ylabel="share of voxels per bin (%)")
        axes.set_ylim(bottom=0)
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.02), frameon=False)
    return figure


def draw_calibration(
    concentrations_mmol_l: ArrayLike,
    signals: ArrayLike,
    errors: ArrayLike,
    *,
    names: Sequence[str],
    slope: float,
    intercept: float,
    r_squared: float,
) -> Figure:
    """Signal of reference tubes over their concentration, with the line that calibrates an image.

    Parameters
    ----------
    concentrations_mmol_l, signals, errors : (T,) array_like
        Of each tube: concentration, signal and its standard deviation.
    names : sequence of str
        Of each tube.
    slope, intercept : float
        Of the line: signal per mmol/L, and signal at none.
    r_squared : float
        Share of the variance that the line explains; NaN for a line through the origin.

    Returns
    -------
    figure : matplotlib.figure.Figure
        One panel.

    Examples
    --------
    >>> figure = draw_calibration([50.0], [900.0], [30.0], names=["tube 1"], slope=18.0,
    ...     intercept=0.0, r_squared=float("nan"))
    >>> figure.axes[0].get_xlabel()
    'sodium (mmol/L)'
    """
    sodium, signal = (np.asarray(values, np.float64) for values in (concentrations_mmol_l, signals))
    with fixed_style():
        figure = plain_figure(height_in=3.8)
        axes = figure.add_axes((0.09, 0.15, 0.56, 0.80))
        ends = np.array([0.0, 1.15 * float(sodium.max())])
        text = f"{slope:.4g} per mmol/L"
        text += f", {intercept:+.4g}, R² = {r_squared:.4f}" if np.isfinite(r_squared) else ""
        axes.plot(ends, intercept + slope * ends, "-", color="#57606a", linewidth=1.2, label=text)
        # tubes of one concentration would hide each other
        step = 0.012 * float(ends[1])
        colours = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
        for index, name in enumerate(names):
            marker, color = "os^DvP"[index % 6], colours[index % 6]
            n_before = int(np.count_nonzero(sodium[:index] == sodium[index]))
            axes.errorbar(
                sodium[index] + step * n_before,
                signal[index],
                yerr=np.asarray(errors, np.float64)[index],
                fmt=marker,
                color=color,
                capsize=3,
                label=f"{name}: {signal[index]:.4g}",
            )
        axes.set(xlim=tuple(ends), xlabel="sodium (mmol/L)", ylabel="corrected signal (arbitrary)")
        axes.set_ylim(bottom=min(0.0, intercept))
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.02), frameon=False)
    return figure


def draw_regions(table: pd.DataFrame, *, measures: Mapping[str, str], xlabel: str) -> Figure:
    """Means of regions with their spread, one line per region, left and right apart.

    Parameters
    ----------
    table : DataFrame
        Region, side (left, right or n/a), map, mean, sd and n, one row each.
    measures : mapping of str to str
        Maps that are drawn and their names in the legend; those that the table lacks are left out.
    xlabel : str
        Name of the quantity with its unit.

    Returns
    -------
    figure : matplotlib.figure.Figure
        Marks point to their side; bars are standard deviations.

    Examples
    --------
    >>> import pandas as pd
    >>> row = {"region": "hand", "side": "left", "map": "tsc", "mean": 45.0, "sd": 4.0, "n": 9.0}
    >>> figure = draw_regions(pd.DataFrame([row]), measures={"tsc": "sodium"}, xlabel="mmol/L")
    >>> [text.get_text() for text in figure.axes[0].get_yticklabels()]
    ['hand (9)']
    """
    names = list(dict.fromkeys(table["region"]))
    shown = [name for name in measures if (table["map"] == name).any()]
    height_in, foot_in = 0.65 + 0.34 * len(names), 0.55
    with fixed_style():
        figure = plain_figure(height_in=height_in)
        box = (0.32, foot_in / height_in, 0.44, 1.0 - (foot_in + 0.1) / height_in)
        axes = figure.add_axes(box)
        for index, name in enumerate(shown):
            colour = (BLUE, VERMILION, GREEN, PURPLE)[index % 4]
            # marks of one region must not hide each other
            shift = 0.22 * (index - (len(shown) - 1) / 2)
            _draw_sides(axes, table[table["map"] == name], names, shift=shift, colour=colour)
            axes.plot([], [], "-", color=colour, linewidth=3, label=measures[name])
        for side in ("left", "right"):
            axes.plot([], [], _SIDE_MARKS[side], color="#57606a", label=side)
        first = table[table["map"] == shown[0]] if shown else table
        counts = [first.loc[first["region"] == name, "n"] for name in names]
        texts = [
            f"{name} ({', '.join(f'{n:.0f}' for n in own)})"
            for name, own in zip(names, counts, strict=True)
        ]
        axes.set_yticks(range(len(names)), texts)
        axes.set(ylim=(len(names) - 0.5, -0.5), xlabel=xlabel)
        axes.grid(axis="x", color="#d0d7de", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.02), frameon=False)
    return figure


def draw_planes(
    panels: Sequence[tuple[NDArray[Any], Sequence[float], NDArray[Any] | None, str]],
    *,
    is_stitched: bool,
) -> Figure:
    """Planes of several images with the outlines of labels.

    Parameters
    ----------
    panels : sequence of (plane, extent, labels, name)
        Rows of a plane run upwards or to the front; the extent is left, right, bottom and top in
        mm, the participant's right at positive values; labels of the same shape, or None.
    is_stitched : bool
        Whether all are shown in one panel at the places that their extents tell, or each apart.

    Returns
    -------
    figure : matplotlib.figure.Figure
        Each plane has its own grey scale: black at 0, white at the 99.5th percentile.

    Raises
    ------
    NumericsError
        If there is no panel.

    Examples
    --------
    >>> plane = np.arange(12.0).reshape(3, 4)
    >>> figure = draw_planes([(plane, (-2, 2, 0, 3), None, "legs")], is_stitched=False)
    >>> len(figure.axes[0].images)
    1
    """
    if not panels:
        raise NumericsError("panels is empty; give at least one plane")
    with fixed_style():
        if is_stitched:
            figure, all_axes = _stitched_axes(panels)
        else:
            figure, all_axes = _separate_axes(panels)
        for axes, (plane, extent, labels, name) in zip(all_axes, panels, strict=True):
            _draw_plane(axes, plane, extent, labels)
            if is_stitched:
                middle = (extent[2] + extent[3]) / 2
                axes.annotate(name, (1.02, middle), xycoords=("axes fraction", "data"), va="center")
                axes.axhline(extent[2], color=SKY, linewidth=0.5, linestyle=":")
                axes.axhline(extent[3], color=SKY, linewidth=0.5, linestyle=":")
            else:
                axes.set_title(name, fontsize="small")
        figure.text(0.06, 0.1 / figure.get_figheight(), CONVENTION, color="#57606a")
    return figure


def draw_map_columns(
    columns: Sequence[
        tuple[str, tuple[float, float], Sequence[tuple[NDArray[Any], Sequence[float]]]]
    ],
) -> Figure:
    """Maps of a body side by side, each made of planes at their places, with a scale of its own.

    Parameters
    ----------
    columns : sequence of (label, limits, planes)
        Quantity and unit; values of the darkest and brightest colour, the first below the second;
        and planes with their extents, as of `draw_planes`. Values of NaN are left black.

    Returns
    -------
    figure : matplotlib.figure.Figure
        One column for each map, all at one scale in mm.

    Raises
    ------
    NumericsError
        If there is no column, or one has no plane.

    Examples
    --------
    >>> planes = [(np.arange(12.0).reshape(3, 4), (-2, 2, 0, 3))]
    >>> figure = draw_map_columns([("T2 (ms)", (0.0, 11.0), planes)])
    >>> figure.axes[1].get_xlabel()
    'T2 (ms)'
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    if not columns or not all(planes for _, _, planes in columns):
        raise NumericsError("columns lack planes; give at least one map with one plane")
    extents = np.array([extent for *_, planes in columns for _, extent in planes], float)
    left, right = extents[:, 0].min(), extents[:, 1].max()
    bottom, top = extents[:, 2].min(), extents[:, 3].max()
    n_columns = max(len(columns), 3)
    wide_in = 0.88 * WIDTH_IN / n_columns
    high_in = min(wide_in * (top - bottom) / (right - left), 9.0)
    wide_in = high_in * (right - left) / (top - bottom)
    foot_in = 1.0
    with fixed_style():
        figure = plain_figure(height_in=high_in + foot_in + 0.1)
        whole_in = high_in + foot_in + 0.1
        for number, (label, limits, planes) in enumerate(columns):
            start = (number + 0.5) / n_columns - wide_in / WIDTH_IN / 2
            axes = figure.add_axes(
                (start, foot_in / whole_in, wide_in / WIDTH_IN, high_in / whole_in)
            )
            axes.set(facecolor="black", xticks=[], yticks=[])
            scale = Normalize(*limits)
            for plane, extent in planes:
                axes.imshow(plane, "viridis", scale, origin="lower", extent=_limits(extent))
            axes.set(xlim=(left, right), ylim=(bottom, top), aspect="equal")
            bar = figure.add_axes((start, 0.72 / whole_in, wide_in / WIDTH_IN, 0.12 / whole_in))
            figure.colorbar(
                ScalarMappable(scale, "viridis"), cax=bar, orientation="horizontal", label=label
            )
        figure.text(0.02, 0.08 / whole_in, CONVENTION, color="#57606a")
    return figure


def _limits(extent: Sequence[float]) -> tuple[float, float, float, float]:
    return float(extent[0]), float(extent[1]), float(extent[2]), float(extent[3])


_Panels = Sequence[tuple[NDArray[Any], Sequence[float], NDArray[Any] | None, str]]


def _stitched_axes(panels: _Panels) -> tuple[Figure, list[Axes]]:
    extents = np.array([panel[1] for panel in panels], dtype=np.float64)
    left, right = extents[:, 0].min(), extents[:, 1].max()
    bottom, top = extents[:, 2].min(), extents[:, 3].max()
    height_in = min(11.0, 5.0 * (top - bottom) / (right - left))
    width_in = height_in * (right - left) / (top - bottom)
    foot_in = 0.5
    figure = plain_figure(height_in=height_in + foot_in)
    axes = figure.add_axes(
        (
            0.06,
            foot_in / (height_in + foot_in),
            width_in / WIDTH_IN,
            height_in / (height_in + foot_in),
        )
    )
    axes.set(xlim=(left, right), ylim=(bottom, top), xlabel="", facecolor="black")
    axes.set_xticks([])
    axes.tick_params(labelsize="small")
    axes.set_ylabel("along the body (mm)")
    return figure, [axes] * len(panels)


def _separate_axes(panels: _Panels) -> tuple[Figure, list[Axes]]:
    n_columns = min(3, len(panels))
    n_rows = -(-len(panels) // n_columns)
    shapes = [(p[1][3] - p[1][2]) / (p[1][1] - p[1][0]) for p in panels]
    head_in = 0.2 + 0.15 * max(panel[3].count("\n") + 1 for panel in panels)
    row_in = head_in + min(3.5, max(shapes) * WIDTH_IN / n_columns)
    height_in = row_in * n_rows + 0.4
    figure = plain_figure(height_in=height_in)
    all_axes = []
    for number in range(len(panels)):
        row, column = divmod(number, n_columns)
        bottom = (height_in - (row + 1) * row_in) / height_in
        box = (column / n_columns, bottom, 0.98 / n_columns, (row_in - head_in) / height_in)
        axes = figure.add_axes(box)
        axes.axis("off")
        all_axes.append(axes)
    return figure, all_axes


def _draw_plane(
    axes: Axes, plane: NDArray[Any], extent: Sequence[float], labels: NDArray[Any] | None
) -> None:
    limits = _limits(extent)
    view = axes.get_xlim(), axes.get_ylim()
    is_empty = not axes.images and axes.axison
    top = percentile(plane, 99.5)
    axes.imshow(
        plane, cmap="gray", origin="lower", extent=limits, vmin=0, vmax=top or 1, aspect="equal"
    )
    for index in np.unique(labels[labels > 0]) if labels is not None else ():
        colour = (ORANGE, SKY, GREEN, VERMILION, PURPLE)[int(index) // 10 % 5]
        axes.contour(labels == index, levels=[0.5], extent=limits, colors=[colour], linewidths=0.8)
    if is_empty or len(axes.images) > 1:
        axes.set(xlim=view[0], ylim=view[1])


# parts of the body behind the chart, from head to feet: distance from the midline, height,
# width, height, and turn in degrees, in shares of the body's height
_SILHOUETTE = (
    (0.0, 0.925, 0.105, 0.14, 0.0), (0.0, 0.85, 0.07, 0.08, 0.0), (0.0, 0.68, 0.25, 0.36, 0.0),
    (0.0, 0.5, 0.25, 0.16, 0.0), (0.145, 0.72, 0.085, 0.24, 6.0), (0.162, 0.57, 0.07, 0.2, 3.0),
    (0.172, 0.455, 0.07, 0.1, 0.0), (0.066, 0.37, 0.12, 0.28, 0.0), (0.066, 0.17, 0.09, 0.22, 0.0),
    (0.07, 0.055, 0.075, 0.05, 0.0),
)  # fmt: skip


def draw_body_chart(
    panels: Sequence[tuple[str, Mapping[tuple[str, str], float]]],
    places: Mapping[str, Sequence[float]],
) -> Figure:
    """Muscles of a body as it stands before the reader's back, coloured by what they measure.

    Parameters
    ----------
    panels : sequence of (label, values)
        Name of a quantity with its unit, and its value by region and side (left, right or n/a).
    places : mapping of sequence of float
        Of each region: distance from the midline, height, width and height of its ellipse, in
        shares of the body's height; a distance of 0 is in the middle.

    Returns
    -------
    figure : matplotlib.figure.Figure
        One body for each panel; muscles without a value are grey, those without a place left out.

    Examples
    --------
    >>> values = {("quadriceps", "left"): 0.3, ("quadriceps", "right"): 0.5}
    >>> figure = draw_body_chart([("signal", values)], {"quadriceps": (0.06, 0.4, 0.06, 0.2)})
    >>> len(figure.axes[0].patches)
    2
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.collections import PatchCollection
    from matplotlib.colors import Normalize
    from matplotlib.patches import Ellipse

    with fixed_style():
        figure = plain_figure(height_in=6.0)
        for number, (label, values) in enumerate(panels):
            # one alone stands in the middle
            left = 0.02 + 0.48 * number + (0.24 if len(panels) == 1 else 0.0)
            axes = figure.add_axes((left, 0.05, 0.36, 0.93))
            axes.add_collection(
                PatchCollection(
                    [
                        Ellipse((sign * x, y), wide, high, angle=sign * turn)
                        for x, y, wide, high, turn in _SILHOUETTE
                        for sign in ((1,) if x == 0 else (-1, 1))
                    ],
                    facecolor="#eef1f4",
                    edgecolor="none",
                )
            )
            known = [v for v in values.values() if np.isfinite(v)]
            scale = Normalize(min(known, default=0.0), max(known, default=1.0) or 1.0)
            for region, (away, height, width, tall) in places.items():
                for side, sign in (
                    (("n/a", 0.0),) if away == 0 else (("left", -1.0), ("right", 1.0))
                ):
                    value = values.get((region, side), np.nan)
                    colour = colormaps["viridis"](scale(value)) if np.isfinite(value) else "#d0d7de"
                    axes.add_patch(
                        Ellipse(
                            (sign * away, height), width, tall, facecolor=colour,
                            edgecolor="#57606a", linewidth=0.6,
                        )
                    )  # fmt: skip
            axes.set(xlim=(-0.24, 0.24), ylim=(0, 1), aspect="equal")
            axes.axis("off")
            for side, x in (("L", -0.22), ("R", 0.22)):
                axes.text(x, 0.95, side, ha="center", color="#57606a")
            bar = figure.add_axes((left + 0.37, 0.25, 0.015, 0.5))
            figure.colorbar(ScalarMappable(scale, "viridis"), cax=bar, label=label)
        figure.text(0.02, 0.01, CONVENTION, color="#57606a")
    return figure


def draw_difference(pairs: NDArray[np.float64], limits: Sequence[float], *, label: str) -> Figure:
    """Difference of two measurements over their mean (Bland and Altman 1986).

    Parameters
    ----------
    pairs : (S, 2) array
        Two measurements each.
    limits : sequence of float
        Lower limit of agreement, mean difference and upper limit.
    label : str
        Name of the quantity with its unit.

    Returns
    -------
    figure : matplotlib.figure.Figure
        One mark for each pair.

    Examples
    --------
    >>> figure = draw_difference(np.array([[1.0, 1.2]]), (0.0, 0.2, 0.4), label="ratio (1)")
    >>> len(figure.axes[0].lines)
    4
    """
    with fixed_style():
        figure = plain_figure(height_in=4.2)
        axes = figure.add_axes((0.1, 0.15, 0.55, 0.8))
        axes.plot(
            pairs.mean(axis=1), pairs[:, 1] - pairs[:, 0], "o", color=BLUE, markersize=4, alpha=0.8
        )
        names = ("lower limit", "mean difference", "upper limit")
        for value, name in zip(limits, names, strict=True):
            is_mean = name == "mean difference"
            style = "-" if is_mean else "--"
            axes.axhline(value, color=VERMILION, linestyle=style, linewidth=1)
            if np.isfinite(value):
                axes.annotate(
                    f"{name} {value:.3g}", (1.02, value), xycoords=("axes fraction", "data"),
                    va="center", color=VERMILION,
                )  # fmt: skip
        axes.set(xlabel=f"mean of {label}", ylabel=f"second less first, {label}")
        axes.grid(color="#d0d7de", linewidth=0.6)
        axes.set_axisbelow(True)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as SVG, PNG or WebP; the same figure gives the same bytes.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        From one of the functions above.
    path : Path
        Ends in .svg (letters and legends as outlines, image panels as one picture each row) or
        .png. Or in .webp, a fifth of .png for cuts through maps, at the price of errors too
        small to be seen: for pages of many figures.

    Raises
    ------
    RunError
        If the ending is another one.

    Examples
    --------
    >>> import tempfile
    >>> figure = draw_histograms({"white matter": [0.4, 0.5, 0.6]}, xlabel="FA")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_figure(figure, Path(folder) / "fa.svg")
    ...     (Path(folder) / "fa.svg").read_text("utf-8")[:5]
    '<?xml'
    """
    # The date and the random salt of element names would make every run differ.
    own: dict[str, dict[str, Any]] = {
        ".svg": {"metadata": {"Date": None, "Creator": None}},
        ".png": {"metadata": {"Software": None}},
        ".webp": {"pil_kwargs": {"quality": _WEBP_QUALITY}},
    }
    if path.suffix not in own:
        raise RunError(
            f"{path.name}: figures are written as .svg or .png or .webp; change the ending"
        )
    with fixed_style():
        figure.savefig(
            path,
            format=path.suffix[1:],
            dpi=_RASTER_DPI,
            facecolor=figure.get_facecolor(),
            **own[path.suffix],
        )


def _draw_sides(
    axes: Axes, table: pd.DataFrame, names: Sequence[str], *, shift: float, colour: str
) -> None:
    """Marks of one map, which point to the side that they are of."""
    for side, further in (("left", -0.05), ("right", 0.05), ("n/a", 0.0)):
        rows = table[table["side"] == side]
        axes.errorbar(
            rows["mean"],
            [names.index(region) + shift + further for region in rows["region"]],
            xerr=rows["sd"],
            fmt=_SIDE_MARKS[side],
            color=colour,
            markersize=5,
            elinewidth=0.8,
        )


def _check_motion(
    translations: NDArray[Any],
    rotations: NDArray[Any],
    displacement: NDArray[Any],
    outlier_share: NDArray[Any] | None,
    n_volumes: int,
) -> None:
    expected = {
        "translations_mm": (translations.shape, (n_volumes, 3)),
        "rotations_deg": (rotations.shape, (n_volumes, 3)),
        "framewise_displacement_mm": (displacement.shape, (n_volumes,)),
    }
    if outlier_share is not None:
        expected["outlier_share"] = (
            outlier_share.shape,
            (outlier_share.shape[0], n_volumes),
        )
    for name, (found, wanted) in expected.items():
        if found != wanted:
            raise NumericsError(
                f"{name} has shape {found}; the {n_volumes} values of b_values_s_mm2 ask for "
                f"{wanted}"
            )


def _draw_ball(figure: Figure, row: Row, axis: int) -> None:
    """Ball of direction colours as seen along `axis`, right of a row."""
    box = row.axes.get_position()
    height_in = figure.get_size_inches()[1]
    size_in = min(0.85, box.height * height_in - 0.4)
    axes = figure.add_axes(
        (
            1 - 0.75 / WIDTH_IN - size_in / 2 / WIDTH_IN,
            box.y0 + box.height / 2 - size_in / 2 / height_in,
            size_in / WIDTH_IN,
            size_in / height_in,
        )
    )
    axes.set_axis_off()
    across, up = np.meshgrid(np.linspace(-1, 1, 121), np.linspace(-1, 1, 121))
    depth_squared = 1 - across**2 - up**2
    colours = np.zeros((*across.shape, 4))
    colours[..., HORIZONTAL[axis]] = np.abs(across)
    colours[..., VERTICAL[axis]] = np.abs(up)
    colours[..., axis] = np.sqrt(np.clip(depth_squared, 0, 1))
    colours[..., 3] = depth_squared >= 0
    axes.imshow(np.clip(colours, 0, 1), origin="lower", extent=(-1, 1, -1, 1), rasterized=True)
    ends = ((-1.12, 0, SIDES[axis][0]), (1.12, 0, SIDES[axis][1]))
    poles = ("P", "A") if axis == AXIAL else ("I", "S")
    for x, y, text in (*ends, (0, -1.15, poles[0]), (0, 1.15, poles[1])):
        ha = "center" if x == 0 else ("right" if x < 0 else "left")
        va = "center" if y == 0 else ("top" if y < 0 else "bottom")
        axes.text(x, y, text, color=INK, fontsize=8.5, fontweight="bold", ha=ha, va=va)


def _stacked_panels(*, has_carpet: bool) -> tuple[Figure, list[Axes]]:
    heights_in = [1.3, 1.3, 1.3, *([1.6] if has_carpet else []), 0.8]
    gap_in, foot_in = 0.16, 0.55
    total_in = sum(heights_in) + gap_in * len(heights_in) + foot_in
    figure = plain_figure(height_in=total_in)
    panels: list[Axes] = []
    top_in = total_in - gap_in
    for index, height_in in enumerate(heights_in):
        place = (0.07, (top_in - height_in) / total_in, 0.77, height_in / total_in)
        panels.append(figure.add_axes(place, sharex=panels[0] if panels else None))
        panels[-1].tick_params(labelbottom=index == len(heights_in) - 1)
        top_in -= height_in + gap_in
    figure.align_ylabels(panels)
    return figure, panels


def _legend_beside(axes: Axes) -> None:
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)


def _draw_three(
    axes: Axes,
    volumes: NDArray[np.int_],
    values: NDArray[Any],
    ylabel: str,
    names: tuple[str, str, str],
) -> None:
    axes.axhline(0, color="#d5dae0", linewidth=1)
    looks = ((BLUE, "-", "o"), (VERMILION, "--", "s"), (GREEN, "-.", "^"))
    for column, name, (color, dash, marker) in zip(values.T, names, looks, strict=True):
        axes.plot(
            volumes, column, color=color, linestyle=dash, marker=marker, markersize=3, label=name
        )
    axes.set_ylabel(ylabel)
    _legend_beside(axes)


def _draw_displacement(
    axes: Axes, volumes: NDArray[np.int_], displacement: NDArray[Any], limit: float | None
) -> None:
    axes.bar(
        volumes, np.nan_to_num(displacement), color="#57606a", width=0.8, label="volume to volume"
    )
    if limit is not None:
        over = np.nan_to_num(displacement) > limit
        axes.bar(
            volumes[over],
            displacement[over],
            color=VERMILION,
            width=0.8,
            hatch="//",
            label="over the limit",
        )
        axes.axhline(
            limit, color=VERMILION, linestyle="--", linewidth=1.2, label=f"limit {limit:g} mm"
        )
    axes.set_ylabel("displacement (mm)")
    axes.set_ylim(bottom=0)
    _legend_beside(axes)


def _draw_carpet(figure: Figure, axes: Axes, outlier_share: NDArray[Any]) -> None:
    image = axes.imshow(
        outlier_share,
        cmap="cividis",
        vmin=0,
        vmax=1,
        origin="lower",
        aspect="auto",
        interpolation="nearest",
    )
    axes.set_ylabel("slice")
    box = axes.get_position()
    bar = figure.colorbar(image, cax=figure.add_axes((0.852, box.y0, 0.01, box.height)))
    bar.set_label("share lost")


def _draw_b_values(axes: Axes, volumes: NDArray[np.int_], b_values: NDArray[Any]) -> None:
    axes.vlines(volumes, 0, b_values, color="#9aa4ae", linewidth=1)
    axes.plot(volumes, b_values, "o", color="#1b1f24", markersize=3.5)
    axes.set_ylabel("b (s/mm²)")
    axes.set_ylim(0, 1.15 * max(float(np.max(b_values, initial=0.0)), 1.0))


def _draw_histogram(
    axes: Axes,
    edges: NDArray[np.float64],
    values: NDArray[np.float64],
    color: str,
    dash: str,
    label: str,
) -> Line2D:
    counts, _ = np.histogram(values, edges)
    share = 100.0 * counts / max(values.size, 1)
    axes.stairs(share, edges, color=color, linestyle=dash, linewidth=1.8, label=label)
    axes.stairs(share, edges, color=color, fill=True, alpha=0.10)
    median = float(np.median(values)) if values.size else float("nan")
    return axes.axvline(median, color=color, linestyle=dash, linewidth=1)


def _summary(name: str, values: NDArray[np.float64], n_lost: int) -> str:
    if not values.size:
        return f"{name}: no value"
    low, middle, high = np.percentile(values, (25, 50, 75))
    lost = f", {n_lost} not finite" if n_lost else ""
    return (
        f"{name}\n  median {middle:.3g}, quartiles {low:.3g} to {high:.3g}\n"
        f"  {values.size} voxels{lost}"
    )
