"""Pictures of maps over groups: volumes in, matplotlib figures out.

Warm colours say that the first group of a contrast lies above the second, cool ones that it lies
below. Every picture says in words what it would else leave to be inferred from an empty brain.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bids_alsmri.errors import NumericsError
from bids_alsmri.reports.sheets import (
    AXIAL,
    BLUE,
    CORONAL,
    GAP_IN,
    GREEN,
    INK,
    NAME_IN,
    ORANGE,
    PAPER,
    SAGITTAL,
    SCALE_IN,
    SKY,
    VERMILION,
    WIDTH_IN,
    YELLOW,
    Contour,
    Key,
    Panel,
    Row,
    View,
    bounds,
    check_volume,
    choose_slices,
    draw_contours,
    draw_scalar,
    draw_scale,
    fixed_style,
    foot,
    grey_window,
    keep_limits,
    name_row,
    percentile,
    plain_figure,
    sheet,
    view_of,
)
from bids_alsmri.reports.tables import p_text

if TYPE_CHECKING:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

# Both arms grow lighter outwards, so that size shows without colour too; the first map is for what
# passed a threshold, and jumps at zero; the second fades to the dark of no effect.
_COOL, _WARM = ("#9fe0ff", "#2fa5ee", BLUE), (VERMILION, "#ff9d1a", "#ffe55c")
_ARMS = (*_COOL, *_WARM)
_THROUGH_DARK = (*_COOL, "#14181d", *_WARM)
_TITLE_IN = 0.62
_HEAD_IN = 0.95
# Grey is dimmed to this share of white, for colours to stand out.
_GREY_SHARE = 0.75
# Of a single brain: above the ventricles, through the middle, beside the midline, where the
# corticospinal tract runs.
_CUTS = ((AXIAL, 0.7), (CORONAL, 0.5), (SAGITTAL, 0.65))
_GLASS_VIEWS = {"l": "left half", "y": "from behind", "r": "right half", "z": "from above"}
# Relative to a voxel: rounding of affines that were written in single precision.
_AFFINE_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Volume:
    """Values on a grid along the axes of the world.

    Parameters
    ----------
    values : (nx, ny, nz) array
        Map or mask of any unit; the axes run to right, anterior and superior.
    affine : (4, 4) array
        Voxel indices to world millimetres.

    Raises
    ------
    NumericsError
        If there are not three axes, one is empty, or the affine is turned or mirrored.

    Examples
    --------
    >>> volume = Volume(np.zeros((4, 5, 6)), np.diag([2.0, 2.0, 3.0, 1.0]))
    >>> volume.voxel_mm
    (2.0, 2.0, 3.0)
    """

    values: NDArray[Any]
    affine: NDArray[np.float64]

    def __post_init__(self) -> None:
        matrix = np.asarray(self.affine, float)
        if matrix.shape != (4, 4):
            raise NumericsError(f"affine has shape {matrix.shape}; give a (4, 4) array")
        axes = matrix[:3, :3]
        turned = np.abs(axes - np.diag(np.diag(axes))).max()
        if not (np.diag(axes) > 0).all() or turned > _AFFINE_TOLERANCE * np.abs(axes).max():
            raise NumericsError(
                f"affine has the axes {axes.tolist()}; expected a diagonal of positive voxel sizes "
                "in mm; reorder the image to right, anterior, superior, or resample it onto such a "
                "grid"
            )
        check_volume("values", self.values, self.voxel_mm)

    @property
    def voxel_mm(self) -> tuple[float, float, float]:
        """Voxel size, in mm."""
        x, y, z = (float(size) for size in np.diag(self.affine)[:3])
        return x, y, z

    @property
    def origin_mm(self) -> tuple[float, float, float]:
        """World position of voxel (0, 0, 0), in mm."""
        x, y, z = (float(place) for place in self.affine[:3, 3])
        return x, y, z

    def has_grid_of(self, other: Volume) -> bool:
        """Whether voxels are the same places."""
        tolerance_mm = _AFFINE_TOLERANCE * min(other.voxel_mm)
        return self.values.shape == other.values.shape and np.allclose(
            self.affine, other.affine, rtol=0, atol=tolerance_mm
        )

    def on_grid_of(self, other: Volume, *, outside: float) -> NDArray[Any]:
        """Values at the voxels of another grid, each from the nearest voxel of this one.

        Parameters
        ----------
        other : Volume
            Gives the grid.
        outside : float
            Value beyond this volume.

        Returns
        -------
        values : array of the other's shape

        Examples
        --------
        >>> fine = Volume(np.zeros((4, 1, 1)), np.eye(4))
        >>> coarse = Volume(np.array([[[1.0]], [[2.0]]]), np.diag([2.0, 2.0, 2.0, 1.0]))
        >>> coarse.on_grid_of(fine, outside=0.0).ravel()
        array([1., 2., 2., 0.])
        """
        if self.has_grid_of(other):
            return self.values
        indices, is_inside = [], np.ones(other.values.shape, bool)
        for axis, n in enumerate(other.values.shape):
            places_mm = other.origin_mm[axis] + np.arange(n) * other.voxel_mm[axis]
            # Halves go up, whatever the index: rint would alternate between neighbours.
            own = np.floor((places_mm - self.origin_mm[axis]) / self.voxel_mm[axis] + 0.5)
            last = self.values.shape[axis] - 1
            is_near = (own >= 0) & (own <= last)
            is_inside &= np.expand_dims(is_near, tuple(a for a in range(3) if a != axis))
            indices.append(np.clip(own, 0, last).astype(int))
        return np.where(is_inside, self.values[np.ix_(*indices)], outside)


@dataclass(frozen=True)
class Effect:
    """Effect of a contrast at each voxel, and where it is significant.

    Parameters
    ----------
    title : str
        Map and contrast, such as "TSC, fast - hc".
    label : str
        What the values are, with their unit, such as "Cohen's d".
    values : Volume
        Signed: positive where the first group lies above the second.
    tested : Volume
        Mask of the voxels that were tested.
    significant : Volume
        Mask of those below `alpha`, in either direction.
    smallest_p : float
        Smallest corrected p-value of both directions, 0 to 1.
    alpha : float
        Level of significance, 0 to 1.
    sides : (above, below)
        In words, what positive and negative values mean, such as ("fast > hc", "fast < hc").
    thickness_mm : float
        For display, a voxel's value is spread to what lies this near; 0 for volumes, and a few mm
        for a skeleton, whose voxels would else be too thin to be seen.

    Raises
    ------
    NumericsError
        If the three volumes are not of one grid, or a significant voxel was not tested.

    Examples
    --------
    >>> def volume(*values):
    ...     return Volume(np.array(values).reshape(-1, 1, 1), np.eye(4))
    >>> effect = Effect("FA, als - hc", "Cohen's d", volume(0.1, 1.2), volume(True, True),
    ...     volume(False, True), 0.002, 0.05, ("als > hc", "als < hc"))
    >>> effect.statement
    '1 of 2 voxels with FWE p < 0.05 (smallest p 0.0020).'
    """

    title: str
    label: str
    values: Volume
    tested: Volume
    significant: Volume
    smallest_p: float
    alpha: float
    sides: tuple[str, str]
    thickness_mm: float = 0.0

    def __post_init__(self) -> None:
        for name in ("tested", "significant"):
            if not getattr(self, name).has_grid_of(self.values):
                raise NumericsError(
                    f"{self.title}: {name} and values are of different grids "
                    f"({getattr(self, name).values.shape} and {self.values.values.shape}, or other "
                    "affines); resample one"
                )
        if (_mask(self.significant) & ~_mask(self.tested)).any():
            raise NumericsError(
                f"{self.title}: significant has voxels that tested has not; give the mask of the "
                "inference"
            )

    @property
    def statement(self) -> str:
        """Result in words, also where there is nothing to be seen."""
        n_tested = int(_mask(self.tested).sum())
        n_significant = int(_mask(self.significant).sum())
        if not n_significant:
            return (
                f"No voxel below FWE p = {self.alpha:g}: of {n_tested:,} tested, the smallest p is "
                f"{p_text(self.smallest_p)}."
            )
        return (
            f"{n_significant:,} of {n_tested:,} voxels with FWE p < {self.alpha:g} "
            f"(smallest p {p_text(self.smallest_p)})."
        )

    @property
    def display_note(self) -> str:
        """For captions: how values were spread for display; empty where they were not."""
        if not self.thickness_mm:
            return ""
        return (
            f"For display, values are spread to what is within {self.thickness_mm:g} mm of tested "
            "voxels: each place shows the value of the nearest one, and was not tested itself. "
            "(FSL's tbss_fill serves the same end by another rule.)"
        )

    @property
    def limit(self) -> float:
        """End of a scale on which few sizes saturate, in their unit.

        The larger of percentile 99.5 of the tested voxels and 98 of the significant ones.
        """
        sizes = np.abs(self.values.values)
        found = percentile(sizes[_mask(self.tested)], 99.5)
        is_significant = _mask(self.significant)
        if not is_significant.any():
            return found
        return max(found, percentile(sizes[is_significant], 98.0))


@dataclass(frozen=True)
class Quantity:
    """A map as it is shown of single participants.

    Parameters
    ----------
    name : str
        Short, such as "TSC".
    label : str
        With its unit, such as "TSC (mmol/l)".
    low, high : float
        Ends of its scale, in that unit.
    cmap : str
        A perceptually uniform matplotlib map.
    """

    name: str
    label: str
    low: float
    high: float
    cmap: str


@dataclass(frozen=True)
class Individual:
    """Maps of one participant in the common space.

    Parameters
    ----------
    label : str
        What the row is called, such as "fast: sub-07".
    volumes : mapping of str to Volume
        By the name of the quantity; one that is not there leaves a notice.
    """

    label: str
    volumes: Mapping[str, Volume]


def thicken(
    values: NDArray[Any],
    mask: NDArray[np.bool_],
    voxel_mm: Sequence[float],
    *,
    radius_mm: float,
) -> NDArray[np.float64]:
    """Values of a mask spread to its surroundings, for thin structures to be seen.

    Parameters
    ----------
    values : (nx, ny, nz) array
        Of any unit.
    mask : (nx, ny, nz) array of bool
        Voxels whose values are spread; those that are not finite are left out.
    voxel_mm : (3,) sequence
        Voxel size, in mm, positive.
    radius_mm : float
        How far, in mm, zero or more.

    Returns
    -------
    spread : (nx, ny, nz) array
        The value of the nearest voxel of the mask, of equally near ones the largest in size; NaN
        where none is within the radius. Voxels of the mask keep their own.

    Raises
    ------
    NumericsError
        If shapes differ or the radius is negative.

    Notes
    -----
    For display only: voxels that it fills were not tested. FSL's ``tbss_fill`` serves the same
    end with a smoothed copy of the significant voxels; this is another rule.

    Examples
    --------
    >>> line = np.array([0.0, 0.0, 3.0, 0.0, 0.0, -5.0]).reshape(6, 1, 1)
    >>> thicken(line, line != 0, (1, 1, 1), radius_mm=1.0).ravel()
    array([nan,  3.,  3.,  3., -5., -5.])
    """
    if values.shape != mask.shape:
        raise NumericsError(
            f"values has shape {values.shape} and mask {mask.shape}; give both on one grid"
        )
    if not radius_mm >= 0:
        raise NumericsError(f"radius_mm is {radius_mm:g}; give 0 or more")
    chosen = np.argwhere(mask & np.isfinite(values))
    if not chosen.size:
        return np.full(mask.shape, np.nan)
    sizes = values[tuple(chosen.T)].astype(np.float64)
    order = np.argsort(np.abs(sizes), kind="stable")
    chosen, sizes = chosen[order], sizes[order]
    reach = [int(radius_mm // size) for size in voxel_mm]
    padded = tuple(n + 2 * margin for n, margin in zip(mask.shape, reach, strict=True))
    places = np.ravel_multi_index(tuple((chosen + reach).T), padded)
    # One number ranks claims on a voxel: the nearer first, then the larger.
    claims = np.full(int(np.prod(padded)), -1, dtype=np.int64)
    rank = np.arange(len(sizes))
    steps = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in reach), indexing="ij"), -1)
    steps = steps.reshape(-1, 3)
    distances_mm = np.sqrt(((steps * np.asarray(voxel_mm, float)) ** 2).sum(axis=1))
    is_near = distances_mm <= radius_mm * (1 + 1e-9)
    _, nearness = np.unique(-distances_mm[is_near].round(6), return_inverse=True)
    strides = np.array([padded[1] * padded[2], padded[2], 1])
    for step, near in zip(steps[is_near], nearness, strict=True):
        target = places + int(step @ strides)
        claims[target] = np.maximum(claims[target], near * len(sizes) + rank)
    inner = tuple(slice(n, n + size) for n, size in zip(reach, mask.shape, strict=True))
    won = claims.reshape(padded)[inner]
    return np.where(won >= 0, sizes[won % len(sizes)], np.nan)


def choose_telling_slices(
    tested: NDArray[np.bool_], significant: NDArray[np.bool_], axis: int, n_slices: int
) -> tuple[int, ...]:
    """Slices spread through a mask that show most of what is significant.

    Parameters
    ----------
    tested, significant : (nx, ny, nz) array of bool
        What slices are spread through, and what they should show.
    axis : int
        Axis that the slices are perpendicular to, 0 to 2.
    n_slices : int
        Number wanted, positive.

    Returns
    -------
    indices : tuple of int
        Ascending, each once. The mask is cut into parts of equal size; of each, the slice with
        most significant voxels is taken (of equal ones, the nearest to the part's middle).

    Examples
    --------
    >>> tested = np.ones((1, 1, 12), bool)
    >>> significant = np.zeros((1, 1, 12), bool)
    >>> significant[0, 0, 5] = True
    >>> choose_telling_slices(tested, significant, 2, 3)
    (1, 5, 9)
    """
    others = tuple(other for other in range(3) if other != axis)
    size, found = tested.sum(axis=others), significant.sum(axis=others)
    if not size.any():
        return choose_slices(tested, axis, n_slices)
    # Parts of equal width would spend pictures on the tips of the brain.
    share = (np.cumsum(size) - size / 2) / size.sum()
    part = np.floor(share * n_slices).astype(int)
    chosen = set()
    for number in range(n_slices):
        slices = np.flatnonzero((part == number) & (size > 0))
        if slices.size:
            off_middle = np.abs(share[slices] * n_slices - number - 0.5)
            chosen.add(int(slices[np.lexsort((off_middle, -found[slices]))[0]]))
    return tuple(sorted(chosen))


def draw_significant(
    effect: Effect,
    background: Volume,
    *,
    background_label: str,
    limit: float | None = None,
    n_slices: int = 7,
    margin_mm: float = 4.0,
) -> Figure:
    """Significant voxels of a contrast in colours of the effect's size.

    Parameters
    ----------
    effect : Effect
        What was found.
    background : Volume
        Shown in grey; its grid is the picture's.
    background_label : str
        What it is, such as "mean FA".
    limit : float, optional
        End of the scale to both sides, in the effect's unit; by default `Effect.limit`.
    n_slices : int
        Panels per row.
    margin_mm : float
        What is shown around the tested voxels, in mm.

    Returns
    -------
    figure : matplotlib.figure.Figure
        Three rows and a scale, with the result in words above. Of the geometry of `draw_effect`,
        so that the two can be flipped between.

    Examples
    --------
    >>> def volume(value):
    ...     return Volume(np.full((8, 8, 8), value), np.diag([2.0, 2.0, 2.0, 1.0]))
    >>> effect = Effect("MD, als - hc", "Cohen's d", volume(0.2), volume(True), volume(False),
    ...     0.4, 0.05, ("als > hc", "als < hc"))
    >>> figure = draw_significant(effect, volume(1.0), background_label="T1w", n_slices=3)
    >>> figure.texts[1].get_text()
    'No voxel below FWE p = 0.05: of 512 tested, the smallest p is 0.400.'
    """
    is_thin = effect.thickness_mm > 0
    key = Key(GREEN, "skeleton, tested", is_area=True) if is_thin else Key(GREEN, "tested")

    def mark_tested(row: Row, shown: _Shown, view: View) -> None:
        if is_thin:
            _draw_flat(row, shown.tested, view, GREEN)
        else:
            draw_contours(row, [Contour(shown.tested, 0.5, GREEN, "")], view)

    return _draw_over(
        effect,
        background,
        coloured=effect.significant,
        colours=_ARMS,
        mark=mark_tested,
        keys=(key, Key(INK, f"grey: {background_label}", is_area=True)),
        limit=limit,
        n_slices=n_slices,
        margin_mm=margin_mm,
    )


def draw_effect(
    effect: Effect,
    background: Volume,
    *,
    background_label: str,
    limit: float | None = None,
    n_slices: int = 7,
    margin_mm: float = 4.0,
) -> Figure:
    """Size of an effect at all tested voxels, with an outline of what is significant.

    Parameters
    ----------
    effect, background, background_label, limit, n_slices, margin_mm
        As for `draw_significant`.

    Returns
    -------
    figure : matplotlib.figure.Figure
        Three rows and a scale, with the result in words above.

    Examples
    --------
    >>> def volume(value):
    ...     return Volume(np.full((8, 8, 8), value), np.diag([2.0, 2.0, 2.0, 1.0]))
    >>> effect = Effect("MD, als - hc", "Cohen's d", volume(0.2), volume(True), volume(True),
    ...     0.001, 0.05, ("als > hc", "als < hc"))
    >>> figure = draw_effect(effect, volume(1.0), background_label="T1w", n_slices=3)
    >>> figure.texts[1].get_text()
    '512 of 512 voxels with FWE p < 0.05 (smallest p 0.0010).'
    """
    keys = [Key(INK, f"grey: {background_label}", is_area=True)]
    if _mask(effect.significant).any():
        keys = [Key("white", f"FWE p < {effect.alpha:g}"), *keys]

    def outline_significant(row: Row, shown: _Shown, view: View) -> None:
        draw_contours(row, [Contour(shown.significant, 0.5, "white", "")], view)

    return _draw_over(
        effect,
        background,
        coloured=effect.tested,
        colours=_THROUGH_DARK,
        mark=outline_significant,
        keys=keys,
        limit=limit,
        n_slices=n_slices,
        margin_mm=margin_mm,
    )


def draw_glass_brain(effect: Effect, *, limit: float | None = None) -> Figure:
    """Significant voxels seen through the brain from four sides, in colours of the effect's size.

    Parameters
    ----------
    effect : Effect
        In a space of the MNI152 family, in which the brain's outline is drawn.
    limit : float, optional
        End of the scale to both sides, in the effect's unit; by default `Effect.limit`.

    Returns
    -------
    figure : matplotlib.figure.Figure
        Left side, from behind, right side and from above, as nilearn draws them; along each line
        of sight the largest value in size is shown.

    Examples
    --------
    >>> def volume(value):
    ...     affine = np.diag([4.0, 4.0, 4.0, 1.0]); affine[:3, 3] = -16.0
    ...     return Volume(np.full((8, 8, 8), value), affine)
    >>> effect = Effect("MD, als - hc", "Cohen's d", volume(0.8), volume(True), volume(True),
    ...     0.001, 0.05, ("als > hc", "als < hc"))
    >>> draw_glass_brain(effect).texts[1].get_text()
    '512 of 512 voxels with FWE p < 0.05 (smallest p 0.0010).'
    """
    import nibabel as nib
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from nilearn.plotting import plot_glass_brain

    end = limit or effect.limit
    is_significant = _mask(effect.significant)
    values = np.where(is_significant, np.nan_to_num(effect.values.values.astype(np.float64)), 0.0)
    if effect.thickness_mm > 0:
        values = np.nan_to_num(_thickened(effect, is_significant))
    height_in = 3.7
    with fixed_style():
        figure = plain_figure(height_in)
        figure.set_facecolor(PAPER)
        _title(figure, effect.title, effect.statement)
        image = nib.Nifti1Image(values.astype(np.float32), effect.values.affine)
        display = plot_glass_brain(
            image if is_significant.any() else None,
            display_mode="".join(_GLASS_VIEWS),
            colorbar=False,
            figure=figure,
            axes=(0.0, 0.13, 1 - SCALE_IN / WIDTH_IN, 0.7),
            # Zero is nothing; whatever is not zero is shown.
            threshold=float(np.finfo(np.float32).tiny),
            black_bg=True,
            cmap=_map(_ARMS),
            vmin=-end,
            vmax=end,
            plot_abs=False,
        )
        for view, name in _GLASS_VIEWS.items():
            # nilearn places its axes when they are drawn: only they know where that is.
            axes = display.axes[view].ax
            place = {"transform": axes.transAxes, "ha": "center", "va": "top"}
            axes.text(0.5, 0.0, name, color=INK, fontsize=9, **place)
        mappable = ScalarMappable(Normalize(-end, end), _map(_ARMS))
        _two_sided_scale(figure, (0.17, 0.72), mappable, effect)
        foot(figure, (), note="Largest effect along the line of sight.")
    return figure


def draw_overlap(
    title: str,
    names: tuple[str, str],
    masks: tuple[Volume, Volume],
    background: Volume,
    *,
    background_label: str,
    tested: Volume,
    thickness_mm: float,
    n_slices: int = 7,
    margin_mm: float = 4.0,
) -> Figure:
    """Where one map, another, or both are significant.

    Parameters
    ----------
    title : str
        Contrast and directions, such as "TSC and FA, als - hc".
    names : (first, second)
        What the two masks are, such as ("TSC higher in als", "FA lower in als").
    masks : (first, second) Volume
        Significant voxels of each, over the same tested voxels.
    background : Volume
        Shown in grey; its grid is the picture's.
    background_label : str
        What it is.
    tested : Volume
        Mask of the voxels at which both were tested.
    thickness_mm : float
        As of `Effect`.
    n_slices, margin_mm
        As for `draw_significant`.

    Returns
    -------
    figure : matplotlib.figure.Figure
        Three rows, with the counts in words above. A voxel that spreading would give to two kinds
        is shown as both.

    Raises
    ------
    NumericsError
        If the masks are not of one grid with `tested`.

    Examples
    --------
    >>> def volume(value):
    ...     return Volume(np.full((8, 8, 8), value), np.diag([2.0, 2.0, 2.0, 1.0]))
    >>> figure = draw_overlap("TSC and FA", ("TSC up", "FA down"), (volume(True), volume(False)),
    ...     volume(1.0), background_label="T1w", tested=volume(True), thickness_mm=0.0, n_slices=3)
    >>> figure.texts[1].get_text()
    'No voxel is significant in both: 512 in TSC up only, 0 in FA down only, of 512.'
    """
    for mask in masks:
        if not mask.has_grid_of(tested):
            raise NumericsError(
                f"{title}: masks and tested are of different grids ({mask.values.shape} and "
                f"{tested.values.shape}, or other affines); resample one"
            )
    first, second = (_mask(mask) & _mask(tested) for mask in masks)
    kinds = {
        f"{names[0]} only": (first & ~second, SKY),
        f"{names[1]} only": (second & ~first, ORANGE),
        "both": (first & second, YELLOW),
    }
    layers = []
    for kind, color in kinds.values():
        spread = Volume(_spread_mask(kind, tested, thickness_mm), tested.affine)
        layers.append((_mask_on(spread, background), color))
    inside = _mask_on(tested, background)
    any_mask: NDArray[np.bool_] = np.logical_or.reduce([layer for layer, _ in layers])
    counts = [int(kind.sum()) for kind, _ in kinds.values()]
    n_tested = int(_mask(tested).sum())
    with fixed_style():
        panels = _telling_rows(inside, any_mask, n_slices)
        view = view_of(inside, background.voxel_mm, background.origin_mm, margin_mm)
        figure, rows = sheet(panels, view, top_in=_TITLE_IN)
        _title(figure, title, _overlap_text(names, counts, n_tested))
        _draw_grey(rows, background, inside, view)
        for row in rows:
            for layer, color in layers:
                _draw_flat(row, layer, view, color)
        keys = [Key(color, name, is_area=True) for name, (_, color) in kinds.items()]
        foot(figure, [*keys, Key(INK, f"grey: {background_label}", is_area=True)])
    return figure


def draw_skeleton(
    mean_fa: Volume,
    skeleton: Volume,
    *,
    threshold_fa: float,
    n_participants: int,
    n_slices: int = 7,
    margin_mm: float = 4.0,
) -> Figure:
    """Skeleton of tracts over the mean FA that it was made from.

    Parameters
    ----------
    mean_fa : Volume
        Mean fractional anisotropy, 0 to 1.
    skeleton : Volume
        Mask on the same grid.
    threshold_fa : float
        Mean FA below which there is no skeleton.
    n_participants : int
        That the mean is of.
    n_slices, margin_mm
        As for `draw_significant`.

    Returns
    -------
    figure : matplotlib.figure.Figure
        Three rows and the scale of FA.

    Raises
    ------
    NumericsError
        If the two are not of one grid.

    Examples
    --------
    >>> mean_fa = Volume(np.full((8, 8, 8), 0.4), np.diag([2.0, 2.0, 2.0, 1.0]))
    >>> figure = draw_skeleton(mean_fa, Volume(mean_fa.values > 0, mean_fa.affine),
    ...     threshold_fa=0.2, n_participants=53, n_slices=3)
    >>> figure.texts[1].get_text()
    'Mean of 53 participants; 512 voxels (4.1 ml) of skeleton where mean FA is at least 0.2.'
    """
    if not skeleton.has_grid_of(mean_fa):
        raise NumericsError(
            f"skeleton has shape {skeleton.values.shape} and mean_fa {mean_fa.values.shape}, or "
            "affines differ; give the skeleton on the grid of the mean"
        )
    mask = _mask(skeleton)
    inside = np.nan_to_num(mean_fa.values) > 0
    volume_ml = mask.sum() * float(np.prod(mean_fa.voxel_mm)) / 1000
    text = (
        f"Mean of {n_participants} participants; {int(mask.sum()):,} voxels ({volume_ml:.1f} ml) "
        f"of skeleton where mean FA is at least {threshold_fa:g}."
    )
    with fixed_style():
        view = view_of(inside, mean_fa.voxel_mm, mean_fa.origin_mm, margin_mm)
        panels = _telling_rows(inside, np.zeros_like(inside), n_slices)
        figure, rows = sheet(panels, view, right_in=SCALE_IN, top_in=_TITLE_IN)
        _title(figure, "Skeleton of tracts", text)
        for row in rows:
            mappable = draw_scalar(row, mean_fa.values, view, "gray", 0.0, 0.8)
            _draw_flat(row, mask, view, GREEN)
        draw_scale(figure, rows, mappable, "mean FA")
        foot(figure, [Key(GREEN, "skeleton", is_area=True)])
    return figure


def draw_individuals(
    people: Sequence[Individual],
    quantities: Sequence[Quantity],
    *,
    mask: Volume,
    title: str,
    margin_mm: float = 4.0,
) -> Figure:
    """Maps of single participants, one row each, at the same places of the common space.

    Parameters
    ----------
    people : sequence of Individual
        From above.
    quantities : sequence of Quantity
        From left to right; three cuts each.
    mask : Volume
        Cuts go through its middle; its grid is the picture's.
    title : str
        Of the figure.
    margin_mm : float
        What is shown around the mask, in mm.

    Returns
    -------
    figure : matplotlib.figure.Figure
        A scale above each quantity.

    Raises
    ------
    NumericsError
        If there is no participant or no quantity.

    Notes
    -----
    The layout of El Mendili 2022, figure 1.

    Examples
    --------
    >>> fa = Volume(np.full((8, 8, 8), 0.4), np.diag([2.0, 2.0, 2.0, 1.0]))
    >>> figure = draw_individuals([Individual("hc: sub-01", {"FA": fa})],
    ...     [Quantity("FA", "FA", 0.0, 0.8, "viridis")], mask=fa, title="One control")
    >>> [len(axes.images) for axes in figure.axes[:1]]
    [3]
    """
    if not people or not quantities:
        raise NumericsError(
            f"{title}: {len(people)} participants and {len(quantities)} quantities; give at least "
            "one of each"
        )
    inside = np.nan_to_num(mask.values) > 0
    cuts = [_cut_at(inside, axis, share) for axis, share in _CUTS]
    view = view_of(inside, mask.voxel_mm, mask.origin_mm, margin_mm)
    with fixed_style():
        figure, rows = sheet(
            [cuts * len(quantities)] * len(people), view, left_in=NAME_IN, top_in=_HEAD_IN
        )
        _title(figure, title, "")
        for row, person in zip(rows, people, strict=True):
            name_row(figure, row, person.label)
            for number, quantity in enumerate(quantities):
                part = slice(number * len(cuts), (number + 1) * len(cuts))
                own = Row(row.axes, row.panels[part], row.lefts_mm[part])
                mappable = _draw_person(own, person, quantity, mask, view)
                # Drawing into a part of the row has set the limits of the whole.
                keep_limits(row, view)
                if row is rows[0]:
                    _head_scale(figure, own, view, mappable, quantity)
        foot(figure, ())
    return figure


@dataclass(frozen=True)
class _Shown:
    """An effect on the grid of the picture: its masks, and the values of one of them."""

    tested: NDArray[np.bool_]
    significant: NDArray[np.bool_]
    colours: NDArray[np.float64]

    @classmethod
    def of(cls, effect: Effect, background: Volume, *, coloured: Volume) -> _Shown:
        """Nearest voxels, thickened where the effect asks for it; NaN outside `coloured`."""
        affine = effect.values.affine
        outline = Volume(
            _spread_mask(_mask(effect.significant), effect.tested, effect.thickness_mm), affine
        )
        spread = _thickened(effect, _mask(coloured))
        if coloured is effect.significant:
            # Not over voxels that were tested too, and are nearer.
            spread = np.where(_mask(outline), spread, np.nan)
        return cls(
            _mask_on(effect.tested, background),
            _mask_on(outline, background),
            Volume(spread, affine).on_grid_of(background, outside=np.nan),
        )


def _mask(volume: Volume) -> NDArray[np.bool_]:
    return np.asarray(np.nan_to_num(volume.values) > 0)


def _mask_on(volume: Volume, background: Volume) -> NDArray[np.bool_]:
    return np.asarray(np.nan_to_num(volume.on_grid_of(background, outside=0)) > 0)


def _thickened(effect: Effect, mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    return thicken(
        effect.values.values, mask, effect.values.voxel_mm, radius_mm=effect.thickness_mm
    )


def _spread_mask(mask: NDArray[np.bool_], tested: Volume, thickness_mm: float) -> NDArray[np.bool_]:
    """Voxels that a mask's spreading wins from that of the other tested voxels, and its own."""
    claims = thicken(
        mask.astype(np.float64), _mask(tested), tested.voxel_mm, radius_mm=thickness_mm
    )
    return np.asarray(np.nan_to_num(claims) > 0)


def _telling_rows(
    tested: NDArray[np.bool_], significant: NDArray[np.bool_], n_slices: int
) -> list[list[Panel]]:
    return [
        [Panel(axis, index) for index in choose_telling_slices(tested, significant, axis, n_slices)]
        for axis in (AXIAL, CORONAL, SAGITTAL)
    ]


def _draw_over(
    effect: Effect,
    background: Volume,
    *,
    coloured: Volume,
    colours: Sequence[str],
    mark: Callable[[Row, _Shown, View], None],
    keys: Sequence[Key],
    limit: float | None,
    n_slices: int,
    margin_mm: float,
) -> Figure:
    """Sheet of an effect in colours over grey; `mark` draws below the colours, or outlines."""
    shown = _Shown.of(effect, background, coloured=coloured)
    panels = _telling_rows(shown.tested, shown.significant, n_slices)
    view = view_of(shown.tested, background.voxel_mm, background.origin_mm, margin_mm)
    end = limit or effect.limit
    with fixed_style():
        figure, rows = sheet(panels, view, right_in=SCALE_IN + 0.1, top_in=_TITLE_IN)
        _title(figure, effect.title, effect.statement)
        _draw_grey(rows, background, shown.tested, view)
        for row in rows:
            mark(row, shown, view)
            mappable = draw_scalar(
                row, shown.colours, view, _map(colours), -end, end, missing="none"
            )
        _draw_two_sided_scale(figure, rows, mappable, effect)
        foot(figure, keys)
    return figure


def _title(figure: Figure, title: str, statement: str) -> None:
    height_in = figure.get_size_inches()[1]
    for text, down_in, size, weight in (
        (title, 0.2, 12, "bold"),
        (statement, 0.45, 10, "normal"),
    ):
        figure.text(
            0.006,
            1 - down_in / height_in,
            text,
            color="white",
            fontsize=size,
            fontweight=weight,
            va="center",
            # A dollar sign of the dataset's would else start a formula.
            parse_math=False,
        )


def _map(colours: Sequence[str]) -> Colormap:
    """Colour map through given colours; two halves that meet nowhere for the pair of arms."""
    from matplotlib.colors import LinearSegmentedColormap

    if tuple(colours) != _ARMS:
        return LinearSegmentedColormap.from_list("effect", colours)
    half = len(colours) // 2
    below, above = (np.linspace(*ends, half) for ends in ((0.0, 0.5), (0.5, 1.0)))
    stops = [*zip(below, colours[:half], strict=True), *zip(above, colours[half:], strict=True)]
    return LinearSegmentedColormap.from_list("significant", stops)


def _draw_grey(
    rows: Sequence[Row], background: Volume, inside: NDArray[np.bool_], view: View
) -> None:
    low, high = grey_window(background.values, inside)
    bright = low + (high - low) / _GREY_SHARE
    for row in rows:
        draw_scalar(row, background.values, view, "gray", low, bright)


def _draw_flat(row: Row, mask: NDArray[np.bool_], view: View, color: str) -> None:
    """A mask in one colour."""
    flat = np.where(mask, 1.0, np.nan)
    draw_scalar(row, flat, view, _map((color, color)), 0.0, 1.0, missing="none")


def _overlap_text(names: tuple[str, str], counts: Sequence[int], n_tested: int) -> str:
    apart = f"{counts[0]:,} in {names[0]} only, {counts[1]:,} in {names[1]} only, of {n_tested:,}."
    if not counts[2]:
        return f"No voxel is significant in both: {apart}"
    plural = "s are" if counts[2] > 1 else " is"
    return f"{counts[2]:,} voxel{plural} significant in both, {apart}"


def _cut_at(inside: NDArray[np.bool_], axis: int, share: float) -> Panel:
    """Cut at a share of a mask's extent, 0 to 1."""
    start, stop = bounds(inside, axis)
    return Panel(axis, int(start + share * (stop - start)))


def _draw_person(
    row: Row, person: Individual, quantity: Quantity, mask: Volume, view: View
) -> ScalarMappable:
    volume = person.volumes.get(quantity.name)
    if volume is None:
        values = np.full(mask.values.shape, np.nan)
    else:
        values = volume.on_grid_of(mask, outside=np.nan)
    mappable = draw_scalar(row, values, view, quantity.cmap, quantity.low, quantity.high)
    if volume is None:
        right = row.lefts_mm[-1] + view.width_mm(row.panels[-1])
        top = max(view.height_mm(panel) for panel in row.panels)
        row.axes.text(
            (row.lefts_mm[0] + right) / 2,
            top / 2,
            f"no {quantity.name}",
            color=INK,
            fontsize=12,
            ha="center",
            va="center",
            zorder=10,
        )
    return mappable


def _head_scale(
    figure: Figure, row: Row, view: View, mappable: ScalarMappable, quantity: Quantity
) -> None:
    """Level scale above the panels of a quantity."""
    box, (_, full_mm) = row.axes.get_position(), row.axes.get_xlim()
    left_mm = row.lefts_mm[0]
    width_mm = row.lefts_mm[-1] + view.width_mm(row.panels[-1]) - left_mm
    height_in = figure.get_size_inches()[1]
    axes = figure.add_axes(
        (
            box.x0 + box.width * (left_mm + 0.3 * width_mm) / full_mm,
            box.y1 + (GAP_IN + 0.25) / height_in,
            0.4 * box.width * width_mm / full_mm,
            0.09 / height_in,
        )
    )
    bar = figure.colorbar(mappable, cax=axes, orientation="horizontal", extend="both")
    bar.ax.tick_params(colors=INK, labelsize=8, pad=2)
    bar.ax.set_title(quantity.label, color=INK, fontsize=10, pad=3, parse_math=False)
    bar.outline.set_edgecolor(INK)


def _draw_two_sided_scale(
    figure: Figure, rows: Sequence[Row], mappable: ScalarMappable, effect: Effect
) -> None:
    top, bottom = rows[0].axes.get_position().y1, rows[-1].axes.get_position().y0
    inset = 0.1 * (top - bottom)
    _two_sided_scale(figure, (bottom + inset, top - inset), mappable, effect)


def _two_sided_scale(
    figure: Figure, ends: tuple[float, float], mappable: ScalarMappable, effect: Effect
) -> None:
    """Upright scale at the right edge, its ends named by the sides of the contrast."""
    bottom, top = ends
    axes = figure.add_axes((1 - 0.9 / WIDTH_IN, bottom, 0.012, top - bottom))
    bar = figure.colorbar(mappable, cax=axes, extend="both", extendfrac=0.03)
    bar.set_label(effect.label, color=INK, parse_math=False)
    bar.ax.tick_params(colors=INK, labelsize=8)
    bar.outline.set_edgecolor(INK)
    gap = 0.08 / figure.get_size_inches()[1]
    for name, y, va in (
        (effect.sides[0], top + gap, "bottom"),
        (effect.sides[1], bottom - gap, "top"),
    ):
        figure.text(
            1 - 0.45 / WIDTH_IN,
            y,
            name,
            color=INK,
            fontsize=9,
            ha="center",
            va=va,
            parse_math=False,
        )
