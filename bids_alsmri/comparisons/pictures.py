"""Nodes that draw the figures of the group's report, and maps of voxels where two maps change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import File, InputMultiObject, traits

from bids_alsmri.interfaces.base import write_image
from bids_alsmri.interfaces.images import canonical
from bids_alsmri.interfaces.node import AlsInterface, NodeInputSpec, NodeOutputSpec, write_facts
from bids_alsmri.reports.figures import save_figure
from bids_alsmri.reports.group_maps import (
    Effect,
    Individual,
    Quantity,
    Volume,
    draw_effect,
    draw_glass_brain,
    draw_individuals,
    draw_overlap,
    draw_significant,
    draw_skeleton,
)
from bids_alsmri.stats.combination import conjunction


def read_volume(path: str | Path) -> Volume:
    """Image with its axes along those of the world.

    Parameters
    ----------
    path : str or Path
        Image.

    Returns
    -------
    Volume
        For the figures.
    """
    return Volume(*canonical(Path(path)))


class DrawComparisonInputSpec(NodeInputSpec):
    """Inputs of :class:`DrawComparison`."""

    d = File(exists=True, mandatory=True, desc="Cohen's d")
    mask = File(exists=True, mandatory=True, desc="voxels that were tested")
    up_p_fwe = File(exists=True, mandatory=True, desc="corrected p-values, first above second")
    down_p_fwe = File(exists=True, mandatory=True, desc="corrected p-values, first below second")
    background = File(exists=True, mandatory=True, desc="shown in grey")
    background_label = traits.Str(mandatory=True, desc="what that is")
    title = traits.Str(mandatory=True, desc="map and contrast")
    sides = traits.Tuple(traits.Str(), traits.Str(), mandatory=True, desc="above and below 0")
    alpha = traits.Float(mandatory=True, desc="corrected p-value that is reported")
    thickness_mm = traits.Float(mandatory=True, desc="to which thin structures are thickened, mm")


class DrawComparisonOutputSpec(NodeOutputSpec):
    """Outputs of :class:`DrawComparison`."""

    significant = File(exists=True, desc="significant voxels")
    effect = File(exists=True, desc="effect at all voxels")
    glass = File(exists=True, desc="significant voxels seen through the brain")


class DrawComparison(AlsInterface):
    """Draw where a map differs between two groups, and by how much."""

    input_spec = DrawComparisonInputSpec
    output_spec = DrawComparisonOutputSpec
    memory_gb = 1.0

    def _run_interface(self, runtime: Any) -> Any:
        effect = read_effect(self.inputs)
        background = read_volume(self.inputs.background)
        words = {"background_label": self.inputs.background_label}
        figures = {
            "significant": draw_significant(effect, background, **words),
            "effect": draw_effect(effect, background, **words),
            "glass": draw_glass_brain(effect),
        }
        paths = {name: self.file(runtime, f"{name}.webp") for name in figures}
        for name, figure in figures.items():
            save_figure(figure, paths[name])
        return self.give(runtime, dict(paths))


def read_effect(inputs: Any) -> Effect:
    """What a comparison found, for the figures.

    Parameters
    ----------
    inputs : DrawComparisonInputSpec
        Give the images.

    Returns
    -------
    Effect
        Significant in either direction, each tested by itself.
    """
    values, tested = read_volume(inputs.d), read_volume(inputs.mask)
    inside = tested.values > 0
    p = np.minimum(read_volume(inputs.up_p_fwe).values, read_volume(inputs.down_p_fwe).values)
    return Effect(
        title=inputs.title,
        label="Cohen's d",
        values=values,
        tested=Volume(inside, tested.affine),
        significant=Volume(inside & (p < inputs.alpha), tested.affine),
        smallest_p=float(p[inside].min()),
        alpha=inputs.alpha,
        sides=tuple(inputs.sides),
        thickness_mm=inputs.thickness_mm,
    )


class DrawSkeletonInputSpec(NodeInputSpec):
    """Inputs of :class:`DrawSkeleton`."""

    mean_fa = File(exists=True, mandatory=True, desc="mean FA")
    skeleton = File(exists=True, mandatory=True, desc="skeleton")
    threshold_fa = traits.Float(mandatory=True, desc="mean FA from which there is skeleton")
    n_participants = traits.Int(mandatory=True, desc="that the mean is of")


class FigureOutputSpec(NodeOutputSpec):
    """Outputs of nodes that draw one figure."""

    figure = File(exists=True, desc="figure")


class DrawSkeleton(AlsInterface):
    """Draw the skeleton over the mean FA."""

    input_spec = DrawSkeletonInputSpec
    output_spec = FigureOutputSpec
    memory_gb = 1.0

    def _run_interface(self, runtime: Any) -> Any:
        skeleton = read_volume(self.inputs.skeleton)
        figure = draw_skeleton(
            read_volume(self.inputs.mean_fa),
            Volume(skeleton.values > 0, skeleton.affine),
            threshold_fa=self.inputs.threshold_fa,
            n_participants=self.inputs.n_participants,
        )
        path = self.file(runtime, "skeleton.webp")
        save_figure(figure, path)
        return self.give(runtime, {"figure": path})


class DrawIndividualsInputSpec(NodeInputSpec):
    """Inputs of :class:`DrawIndividuals`."""

    images = InputMultiObject(File(exists=True), mandatory=True, desc="one map of each")
    labels = traits.List(traits.Str(), mandatory=True, desc="names of the rows")
    mask = File(exists=True, mandatory=True, desc="cuts go through its middle")
    name = traits.Str(mandatory=True, desc="of the map")
    unit = traits.Str(mandatory=True, desc="of the map")
    low = traits.Float(mandatory=True, desc="lower end of the scale")
    high = traits.Float(mandatory=True, desc="upper end of the scale")
    title = traits.Str(mandatory=True, desc="of the figure")


class DrawIndividuals(AlsInterface):
    """Draw a map of single participants, one row each."""

    input_spec = DrawIndividualsInputSpec
    output_spec = FigureOutputSpec
    memory_gb = 1.0

    def _run_interface(self, runtime: Any) -> Any:
        name, unit = self.inputs.name, self.inputs.unit
        quantity = Quantity(
            name,
            name if unit in ("", "1") else f"{name} ({unit})",
            self.inputs.low,
            self.inputs.high,
            "viridis",
        )
        people = [
            Individual(label, {name: read_volume(path)})
            for label, path in zip(self.inputs.labels, self.inputs.images, strict=True)
        ]
        mask = read_volume(self.inputs.mask)
        figure = draw_individuals(
            people, [quantity], mask=Volume(mask.values > 0, mask.affine), title=self.inputs.title
        )
        path = self.file(runtime, "individuals.webp")
        save_figure(figure, path)
        return self.give(runtime, {"figure": path})


class OverlapInputSpec(NodeInputSpec):
    """Inputs of :class:`Overlap`."""

    first = File(exists=True, mandatory=True, desc="corrected p-values of the first map")
    second = File(exists=True, mandatory=True, desc="corrected p-values of the second map")
    mask = File(exists=True, mandatory=True, desc="voxels at which both were tested")
    background = File(exists=True, mandatory=True, desc="shown in grey")
    background_label = traits.Str(mandatory=True, desc="what that is")
    title = traits.Str(mandatory=True, desc="contrast and directions")
    names = traits.Tuple(traits.Str(), traits.Str(), mandatory=True, desc="what each is")
    alpha = traits.Float(mandatory=True, desc="corrected p-value that is reported")
    thickness_mm = traits.Float(mandatory=True, desc="to which thin structures are thickened, mm")
    space = traits.Enum("mni152", "aligned", mandatory=True, desc="what world coordinates mean")


class OverlapOutputSpec(NodeOutputSpec):
    """Outputs of :class:`Overlap`."""

    p_fwe = File(exists=True, desc="corrected p-value of a change of both")
    facts = File(exists=True, desc="what was found, JSON")
    figure = File(exists=True, desc="figure")


class Overlap(AlsInterface):
    """Find where two maps both differ: the larger of their p-values (intersection-union)."""

    input_spec = OverlapInputSpec
    output_spec = OverlapOutputSpec
    memory_gb = 1.0

    def _run_interface(self, runtime: Any) -> Any:
        first, second, mask = (
            read_volume(path) for path in (self.inputs.first, self.inputs.second, self.inputs.mask)
        )
        inside, alpha = mask.values > 0, self.inputs.alpha
        p = np.ones(inside.shape)
        p[inside] = conjunction([first.values[inside], second.values[inside]])
        figure = draw_overlap(
            self.inputs.title,
            tuple(self.inputs.names),
            (
                Volume(inside & (first.values < alpha), mask.affine),
                Volume(inside & (second.values < alpha), mask.affine),
            ),
            read_volume(self.inputs.background),
            background_label=self.inputs.background_label,
            tested=Volume(inside, mask.affine),
            thickness_mm=self.inputs.thickness_mm,
        )
        names = {"p_fwe": "p_fwe.nii.gz", "facts": "facts.json", "figure": "overlap.webp"}
        results = {name: self.file(runtime, file) for name, file in names.items()}
        save_figure(figure, results["figure"])
        write_image(p, mask.affine, results["p_fwe"], space=self.inputs.space)
        counts = [int(np.count_nonzero(one.values[inside] < alpha)) for one in (first, second)]
        facts = {
            "Alpha": alpha,
            "VoxelsTested": int(np.count_nonzero(inside)),
            "SignificantVoxelsFirst": counts[0],
            "SignificantVoxelsSecond": counts[1],
            "SignificantVoxelsBoth": int(np.count_nonzero(p[inside] < alpha)),
            "SmallestP": float(p[inside].min()),
        }
        write_facts(results["facts"], facts)
        return self.give(runtime, dict(results))
