"""Nodes that test several maps together: with correction for their number, and combined."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import File, InputMultiObject, isdefined, traits
from numpy.typing import NDArray

from bids_alsmri.comparisons.pictures import read_volume
from bids_alsmri.comparisons.voxelwise import (
    Model,
    exchange_of,
    filled,
    read_nulls,
    read_stack,
    write_null,
)
from bids_alsmri.errors import DataError
from bids_alsmri.interfaces.base import concerning, read_image, write_image
from bids_alsmri.interfaces.node import AlsInterface, NodeInputSpec, NodeOutputSpec, write_facts
from bids_alsmri.numerics.linear import partition_design
from bids_alsmri.numerics.permutation import NullStatistics, Relabellings
from bids_alsmri.numerics.tfce import image_neighbourhood
from bids_alsmri.reports.figures import save_figure
from bids_alsmri.reports.group_maps import Effect, Volume, draw_significant
from bids_alsmri.stats.combination import (
    CombinationProblem,
    conclude_combination,
    correct_across,
    make_combination,
)
from bids_alsmri.stats.inference import Permutation

_Inside = NDArray[np.bool_]


class CorrectAcrossInputSpec(NodeInputSpec):
    """Inputs of :class:`CorrectAcross`."""

    nulls = InputMultiObject(
        File(exists=True), mandatory=True, desc="blocks of relabellings of all tests, one by one"
    )
    n_blocks = traits.List(traits.Int(), mandatory=True, desc="how many are of each test")
    models = traits.List(traits.Str(), mandatory=True, desc="JSON text of the Model of each test")
    own = traits.Int(mandatory=True, desc="test whose p-values are wanted, from 0")
    mask = File(exists=True, mandatory=True, desc="voxels of that test")
    n_permutations = traits.Int(mandatory=True, desc="relabellings, the observed one among them")
    seed = traits.Int(mandatory=True, desc="of the relabellings")
    alpha = traits.Float(mandatory=True, desc="corrected p-value that is reported")
    space = traits.Enum("mni152", "aligned", mandatory=True, desc="what world coordinates mean")


class CorrectAcrossOutputSpec(NodeOutputSpec):
    """Outputs of :class:`CorrectAcross`."""

    up_p_across = File(exists=True, desc="p-values, first group above second")
    down_p_across = File(exists=True, desc="p-values, first group below second")
    facts = File(exists=True, desc="what was found, JSON")


class CorrectAcross(AlsInterface):
    """Correct the p-values of one test for all voxels, directions and maps of several tests."""

    input_spec = CorrectAcrossInputSpec
    output_spec = CorrectAcrossOutputSpec
    memory_gb = 1.5

    def _run_interface(self, runtime: Any) -> Any:
        with concerning(Path(self.inputs.nulls[0])):
            found = correct_across(
                [self.relabellings(text) for text in self.inputs.models],
                self.nulls(),
                both_directions=True,
            )[self.inputs.own]
        mask = read_image(Path(self.inputs.mask), ndim=3)
        results: dict[str, Any] = {}
        facts = {"Alpha": self.inputs.alpha, "MapsTogether": len(self.inputs.models)}
        for name, p in (("up", found.positive), ("down", found.negative)):
            results[f"{name}_p_across"] = self.file(runtime, f"{name}.nii.gz")
            image = filled(mask.data > 0, p, 1.0)
            write_image(image, mask.affine, results[f"{name}_p_across"], space=self.inputs.space)
            facts[f"{name}SmallestP"] = float(p.min())
            facts[f"{name}SignificantVoxels"] = int(np.count_nonzero(p < self.inputs.alpha))
        results["facts"] = write_facts(self.file(runtime, "facts.json"), facts)
        return self.give(runtime, results)

    def relabellings(self, text: str) -> Relabellings:
        """All of one test."""
        model = Model.read(text)
        partition = partition_design(np.asarray(model.matrix), np.asarray(model.contrast))
        return Relabellings(
            partition.effect, exchange_of(model), self.inputs.n_permutations, seed=self.inputs.seed
        )

    def nulls(self) -> list[NullStatistics]:
        """Statistics of each test."""
        ends = np.cumsum(self.inputs.n_blocks)
        return [
            read_nulls(self.inputs.nulls[end - n : end])
            for n, end in zip(self.inputs.n_blocks, ends, strict=True)
        ]


class CombinationInputSpec(NodeInputSpec):
    """Inputs of nodes that combine maps."""

    stacks = InputMultiObject(
        File(exists=True), mandatory=True, desc="maps of all scans, (scans, voxels) .npy, of each"
    )
    names = traits.List(traits.Str(), mandatory=True, desc="of the maps")
    signs = traits.List(
        traits.Enum(1, -1), mandatory=True, desc="of each map: 1 where it is expected to rise"
    )
    models = traits.List(traits.Str(), mandatory=True, desc="JSON text of the Model of each map")
    masks = InputMultiObject(File(exists=True), mandatory=True, desc="voxels of each stack")
    covariates = InputMultiObject(
        File(exists=True), desc="stacks that the models take too, map by map"
    )
    n_covariates = traits.List(traits.Int(), desc="how many are of each map")
    method = traits.Enum("fisher", "stouffer", "tippett", mandatory=True, desc="of combining")
    n_permutations = traits.Int(mandatory=True, desc="relabellings, the observed one among them")
    seed = traits.Int(mandatory=True, desc="of the relabellings")
    height_power = traits.Float(mandatory=True, desc="H of the enhancement")
    extent_power = traits.Float(mandatory=True, desc="E of the enhancement")
    connectivity = traits.Enum(6, 18, 26, mandatory=True, desc="neighbours of a voxel")
    tail = traits.Bool(mandatory=True, desc="whether small p-values come from a fitted tail")
    n_threads = traits.Int(mandatory=True, nohash=True, desc="threads")


def read_combination(inputs: Any) -> tuple[CombinationProblem, _Inside]:
    """Problem of a node's inputs.

    Parameters
    ----------
    inputs : CombinationInputSpec
        Inputs of the node.

    Returns
    -------
    problem : CombinationProblem
        The same in every job.
    inside : (X, Y, Z) array of bool
        Voxels of all maps.

    Raises
    ------
    DataError
        If the maps are not of the same participants.
    """
    models = [Model.read(text) for text in inputs.models]
    if any((m.matrix, m.contrast, m.groups) != _design(models[0]) for m in models):
        raise DataError(
            f"{', '.join(inputs.names)}: maps are not of the same participants; expected one set; "
            "run the group level again"
        )
    masks = [read_image(Path(path), ndim=3).data > 0 for path in inputs.masks]
    inside = np.logical_and.reduce(masks)
    maps, covariates = {}, {}
    beside = _covariates_by_map(inputs)
    for name, model, path, mask, mask_path in zip(
        inputs.names, models, inputs.stacks, masks, inputs.masks, strict=True
    ):
        own = [
            model.maps(read_stack(one, mask_path, mask))[:, inside[mask]]
            for one in (path, *beside.get(name, ()))
        ]
        maps[name] = own[0]
        if own[1:]:
            covariates[name] = np.stack(own[1:])
    with concerning(Path(inputs.stacks[0])):
        problem = make_combination(
            maps,
            dict(zip(inputs.names, inputs.signs, strict=True)),
            np.asarray(models[0].matrix),
            np.asarray(models[0].contrast),
            image_neighbourhood(inside, inputs.connectivity),
            method=inputs.method,
            exchange=exchange_of(models[0]),
            voxelwise_covariates=covariates,
            permutation=Permutation(
                n_permutations=inputs.n_permutations,
                seed=inputs.seed,
                height_power=inputs.height_power,
                extent_power=inputs.extent_power,
                n_threads=inputs.n_threads,
                tail=inputs.tail,
            ),
        )
    return problem, inside


def _covariates_by_map(inputs: Any) -> dict[str, list[str]]:
    if not isdefined(inputs.covariates):
        return {}
    ends = np.cumsum(inputs.n_covariates)
    return {
        name: inputs.covariates[end - n : end]
        for name, n, end in zip(inputs.names, inputs.n_covariates, ends, strict=True)
    }


def _design(model: Model) -> tuple[list[list[float]], list[float], list[int]]:
    return model.matrix, model.contrast, model.groups


class PermuteTogetherInputSpec(CombinationInputSpec):
    """Inputs of :class:`PermuteTogether`."""

    start = traits.Int(mandatory=True, desc="number of the first relabelling")
    stop = traits.Int(mandatory=True, desc="number after the last one")


class PermuteTogetherOutputSpec(NodeOutputSpec):
    """Outputs of :class:`PermuteTogether`."""

    null = File(exists=True, desc="maxima and counts of the relabellings, .npz")


class PermuteTogether(AlsInterface):
    """Compute a block of relabellings of maps that are combined."""

    input_spec = PermuteTogetherInputSpec
    output_spec = PermuteTogetherOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        problem, _ = read_combination(self.inputs)
        block = problem.block(range(self.inputs.start, self.inputs.stop))
        return self.give(runtime, {"null": write_null(block, self.file(runtime, "null.npz"))})


class ConcludeTogetherInputSpec(CombinationInputSpec):
    """Inputs of :class:`ConcludeTogether`."""

    nulls = InputMultiObject(File(exists=True), mandatory=True, desc="all blocks of relabellings")
    alpha = traits.Float(mandatory=True, desc="corrected p-value that is reported")
    background = File(exists=True, mandatory=True, desc="shown in grey")
    background_label = traits.Str(mandatory=True, desc="what that is")
    title = traits.Str(mandatory=True, desc="maps and contrast")
    sides = traits.Tuple(traits.Str(), traits.Str(), mandatory=True, desc="declared and reverse")
    thickness_mm = traits.Float(mandatory=True, desc="to which thin structures are thickened, mm")
    space = traits.Enum("mni152", "aligned", mandatory=True, desc="what world coordinates mean")


class ConcludeTogetherOutputSpec(NodeOutputSpec):
    """Outputs of :class:`ConcludeTogether`."""

    declared_p = File(exists=True, desc="corrected p-values of the declared directions")
    reverse_p = File(exists=True, desc="corrected p-values of the reverse directions")
    facts = File(exists=True, desc="what was found, JSON")
    figure = File(exists=True, desc="figure")


class ConcludeTogether(AlsInterface):
    """Make maps of p-values of combined maps from all blocks of relabellings."""

    input_spec = ConcludeTogetherInputSpec
    output_spec = ConcludeTogetherOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        problem, inside = read_combination(self.inputs)
        found = conclude_combination(problem, read_nulls(self.inputs.nulls))
        affine = read_image(Path(self.inputs.masks[0]), ndim=3).affine
        shared = self.file(runtime, "shared.nii.gz")
        write_image(inside, affine, shared, space=self.inputs.space)
        facts: dict[str, Any] = {
            "Alpha": self.inputs.alpha,
            "VoxelsTested": int(np.count_nonzero(inside)),
            "VoxelsWithoutVariance": found.n_constant,
            "NumberOfRelabellings": found.n_relabellings,
            "Exhaustive": found.is_exhaustive,
            "DegreesOfFreedom": found.degrees_of_freedom,
        }
        results: dict[str, Any] = {}
        for name, one in (("declared", found.declared), ("reverse", found.reverse)):
            p = one.p_enhanced_fwe
            results[f"{name}_p"] = self.file(runtime, f"{name}.nii.gz")
            write_image(
                filled(inside, p, 1.0), affine, results[f"{name}_p"], space=self.inputs.space
            )
            facts[f"{name}SmallestP"] = float(p.min())
            facts[f"{name}SignificantVoxels"] = int(np.count_nonzero(p < self.inputs.alpha))
        results["facts"] = write_facts(self.file(runtime, "facts.json"), facts)
        results["figure"] = self.draw(runtime, results, found.declared.statistic)
        return self.give(runtime, results)

    def draw(self, runtime: Any, results: dict[str, Any], z: NDArray[np.float64]) -> Path:
        """Draw where at least one map changes."""
        shared = self.file(runtime, "shared.nii.gz")
        mask = read_volume(shared)
        inside = mask.values > 0
        stored = read_image(shared, ndim=3)
        path = self.file(runtime, "z.nii.gz")
        write_image(filled(stored.data > 0, z, 0.0), stored.affine, path, space=self.inputs.space)
        p = np.minimum(
            *(read_volume(results[f"{name}_p"]).values for name in ("declared", "reverse"))
        )
        effect = Effect(
            title=self.inputs.title,
            label="z of the combined p-value",
            values=read_volume(path),
            tested=Volume(inside, mask.affine),
            significant=Volume(inside & (p < self.inputs.alpha), mask.affine),
            smallest_p=float(p[inside].min()),
            alpha=self.inputs.alpha,
            sides=tuple(self.inputs.sides),
            thickness_mm=self.inputs.thickness_mm,
        )
        figure = draw_significant(
            effect,
            read_volume(self.inputs.background),
            background_label=self.inputs.background_label,
        )
        out = self.file(runtime, "combined.webp")
        save_figure(figure, out)
        return out
