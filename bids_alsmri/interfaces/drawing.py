"""Nodes that draw the figures of the reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import File, InputMultiObject, isdefined, traits
from numpy.typing import NDArray

from bids_alsmri.interfaces.images import canonical, voxel_edges_mm
from bids_alsmri.interfaces.node import AlsInterface, NodeInputSpec, NodeOutputSpec
from bids_alsmri.reports.figures import (
    Contour,
    draw_colour_fa,
    draw_map,
    draw_mosaic,
    draw_registration_pair,
    draw_residual,
    save_figure,
)

# Okabe and Ito's colours, told apart by colour-blind readers
# (https://jfly.uni-koeln.de/color/)
OUTLINE_COLOURS = ("#D55E00", "#56B4E9", "#F0E442", "#009E73")


class FigureOutputSpec(NodeOutputSpec):
    """Outputs of nodes that draw one figure."""

    figure = File(exists=True, desc="figure, SVG")


class PairOutputSpec(NodeOutputSpec):
    """Outputs of nodes that draw two figures to flicker between."""

    before = File(exists=True, desc="first figure, SVG")
    after = File(exists=True, desc="second figure, SVG")


def on_grid_of(
    path: Path, affine: NDArray[np.float64], shape: tuple[int, ...]
) -> NDArray[np.float32]:
    """Image resampled linearly onto a grid of the same world.

    Parameters
    ----------
    path : Path
        3D image.
    affine : (4, 4) array
        Of the grid, in mm.
    shape : tuple of int
        Of the grid.

    Returns
    -------
    (X, Y, Z) array
        Values; 0 outside the image.
    """
    from scipy.ndimage import affine_transform

    values, own = canonical(path)
    if values.shape == tuple(shape[:3]) and np.allclose(own, affine, rtol=0, atol=1e-4):
        return values
    matrix = np.linalg.inv(own) @ affine
    resampled: NDArray[np.float32] = affine_transform(
        values, matrix[:3, :3], matrix[:3, 3], output_shape=shape[:3], order=1
    )
    return resampled


def origin_mm(affine: NDArray[np.float64], shape: tuple[int, ...]) -> tuple[float, ...]:
    """World position that the first slice along each axis is labelled with.

    Parameters
    ----------
    affine : (4, 4) array
        Of a grid whose axes run nearest to right, anterior, superior, in mm.
    shape : tuple of int
        Of the grid.

    Returns
    -------
    tuple of float
        In mm; slices through the middle of an oblique grid are labelled with their own position.

    Examples
    --------
    >>> origin_mm(np.diag([2.0, 2.0, 3.0, 1.0]), (5, 5, 5))
    (0.0, 0.0, 0.0)
    """
    middle = (np.array(shape[:3]) - 1) / 2
    position = affine[:3, :3] @ middle + affine[:3, 3]
    return tuple(float(p) for p in position - voxel_edges_mm(affine) * middle)


class DrawOutlinesInputSpec(NodeInputSpec):
    """Inputs of :class:`DrawOutlines`."""

    image = File(exists=True, mandatory=True, desc="image shown in grey")
    outlines = InputMultiObject(File(exists=True), mandatory=True, desc="masks or probabilities")
    labels = traits.List(traits.Str(), mandatory=True, desc="name of each outline")


class DrawOutlines(AlsInterface):
    """Draw an image with outlines of masks or probabilities at one half."""

    input_spec = DrawOutlinesInputSpec
    output_spec = FigureOutputSpec
    memory_gb = 1.0

    def _run_interface(self, runtime: Any) -> Any:
        volume, affine = canonical(Path(self.inputs.image))
        contours = [
            Contour(on_grid_of(Path(path), affine, volume.shape), 0.5, colour, label)
            for path, colour, label in zip(
                self.inputs.outlines, OUTLINE_COLOURS, self.inputs.labels, strict=False
            )
        ]
        figure = draw_mosaic(
            volume,
            voxel_edges_mm(affine),
            contours=contours,
            mask=contours[0].values > 0.5,
            origin_mm=origin_mm(affine, volume.shape),
        )
        path = self.file(runtime, "outlines.svg")
        save_figure(figure, path)
        return self.give(runtime, {"figure": path})


class DrawPairInputSpec(NodeInputSpec):
    """Inputs of :class:`DrawPair`."""

    fixed = File(exists=True, mandatory=True, desc="first image; gives the grid")
    moved = File(exists=True, mandatory=True, desc="second image, in the same world")
    outline = File(exists=True, mandatory=True, desc="mask or probability drawn on both")
    label = traits.Str(mandatory=True, desc="name of the outline")
    mask = File(exists=True, desc="slices go through it")


class DrawPair(AlsInterface):
    """Draw two aligned images in one layout."""

    input_spec = DrawPairInputSpec
    output_spec = PairOutputSpec
    memory_gb = 1.0

    def _run_interface(self, runtime: Any) -> Any:
        fixed, affine = canonical(Path(self.inputs.fixed))
        moved = on_grid_of(Path(self.inputs.moved), affine, fixed.shape)
        outline = on_grid_of(Path(self.inputs.outline), affine, fixed.shape)
        mask = None
        if isdefined(self.inputs.mask):
            mask = on_grid_of(Path(self.inputs.mask), affine, fixed.shape) > 0.5
        contour = Contour(outline, 0.5, OUTLINE_COLOURS[0], self.inputs.label)
        figures = draw_registration_pair(
            fixed,
            moved,
            voxel_edges_mm(affine),
            outline=contour,
            mask=mask,
            origin_mm=origin_mm(affine, fixed.shape),
        )
        paths = [self.file(runtime, f"{name}.svg") for name in ("before", "after")]
        for figure, path in zip(figures, paths, strict=True):
            save_figure(figure, path)
        return self.give(runtime, {"before": paths[0], "after": paths[1]})


class DrawColourFaInputSpec(NodeInputSpec):
    """Inputs of :class:`DrawColourFa`."""

    fa = File(exists=True, mandatory=True, desc="fractional anisotropy")
    v1 = File(exists=True, mandatory=True, desc="main direction, world axes")
    mask = File(exists=True, mandatory=True, desc="brain")


class DrawColourFa(AlsInterface):
    """Draw the main direction of diffusion as colour."""

    input_spec = DrawColourFaInputSpec
    output_spec = FigureOutputSpec
    memory_gb = 1.0

    def _run_interface(self, runtime: Any) -> Any:
        fa, affine = canonical(Path(self.inputs.fa))
        v1, _ = canonical(Path(self.inputs.v1), ndim=4)
        mask, _ = canonical(Path(self.inputs.mask))
        path = self.file(runtime, "colour_fa.svg")
        place = origin_mm(affine, fa.shape)
        drawn = draw_colour_fa(fa, v1, voxel_edges_mm(affine), mask=mask > 0, origin_mm=place)
        save_figure(drawn, path)
        return self.give(runtime, {"figure": path})


class DrawMapInputSpec(NodeInputSpec):
    """Inputs of :class:`DrawMap`."""

    image = File(exists=True, mandatory=True, desc="scalar map")
    mask = File(exists=True, mandatory=True, desc="brain")
    label = traits.Str(mandatory=True, desc="name and unit, for the scale")
    factor = traits.Float(mandatory=True, desc="factor from the map's unit to that of the scale")
    low = traits.Float(mandatory=True, desc="lower end of the scale")
    high = traits.Float(mandatory=True, desc="upper end of the scale")
    outline = traits.Str(desc="name under which the outline of the mask is drawn")


class DrawMap(AlsInterface):
    """Draw a scalar map with its scale."""

    input_spec = DrawMapInputSpec
    output_spec = FigureOutputSpec
    memory_gb = 1.0

    def _run_interface(self, runtime: Any) -> Any:
        values, affine = canonical(Path(self.inputs.image))
        mask = canonical(Path(self.inputs.mask))[0] > 0
        name = self.inputs.outline if isdefined(self.inputs.outline) else ""
        figure = draw_map(
            values * np.float32(self.inputs.factor),
            voxel_edges_mm(affine),
            label=self.inputs.label,
            vmin=self.inputs.low,
            vmax=self.inputs.high,
            contours=[Contour(mask, 0.5, OUTLINE_COLOURS[0], name)] if name else [],
            mask=mask,
            origin_mm=origin_mm(affine, values.shape),
        )
        path = self.file(runtime, "map.svg")
        save_figure(figure, path)
        return self.give(runtime, {"figure": path})


class DrawDenoisingInputSpec(NodeInputSpec):
    """Inputs of :class:`DrawDenoising`."""

    before = File(exists=True, mandatory=True, desc="series before")
    after = File(exists=True, mandatory=True, desc="series after")
    noise = File(exists=True, mandatory=True, desc="standard deviation of the noise")
    mask = File(exists=True, mandatory=True, desc="brain")
    volume = traits.Int(mandatory=True, desc="volume that is shown, from 0")
    unit = traits.Str(mandatory=True, desc="unit of the signal")


class DrawDenoising(AlsInterface):
    """Draw one volume before and after denoising, and what was taken away."""

    input_spec = DrawDenoisingInputSpec
    output_spec = FigureOutputSpec
    memory_gb = 0.35
    memory_per_series = 3.3

    def _run_interface(self, runtime: Any) -> Any:
        before, affine = canonical(Path(self.inputs.before), ndim=4)
        after, _ = canonical(Path(self.inputs.after), ndim=4)
        noise, _ = canonical(Path(self.inputs.noise))
        mask, _ = canonical(Path(self.inputs.mask))
        first, second = before[..., self.inputs.volume], after[..., self.inputs.volume]
        figure = draw_residual(
            first,
            second,
            first - second,
            voxel_edges_mm(affine),
            unit=self.inputs.unit,
            sigma=noise,
            mask=mask > 0,
            origin_mm=origin_mm(affine, first.shape),
        )
        path = self.file(runtime, "denoising.svg")
        save_figure(figure, path)
        return self.give(runtime, {"figure": path})
