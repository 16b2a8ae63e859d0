"""Nodes that compare groups voxel by voxel: blocks of relabellings, p-values, effects."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import File, InputMultiObject, isdefined, traits
from numpy.typing import NDArray

from bids_alsmri.errors import DataError
from bids_alsmri.interfaces.base import concerning, read_image, write_image
from bids_alsmri.interfaces.node import AlsInterface, NodeInputSpec, NodeOutputSpec, write_facts
from bids_alsmri.numerics.effects import one_group_effects, two_group_effects
from bids_alsmri.numerics.permutation import (
    Exchange,
    NullStatistics,
    join_blocks,
    make_exchange,
)
from bids_alsmri.numerics.tfce import image_neighbourhood
from bids_alsmri.stats.inference import Inference, Permutation, Problem, conclude, make_problem

_Array = NDArray[np.float64]

# GB for each GB of the maps of those compared, as float32: maps, residuals in either precision and
# what they are made from
_MEMORY_PER_GB = 9.0
# more for each covariate of every voxel: models of their own, in double precision
_MEMORY_PER_COVARIATE_PER_GB = 7.0
_MEMORY_GB = 0.35


@dataclass(frozen=True)
class Model:
    """Who is compared, and how: all of it text in a node's input, so that nipype sees a change.

    Attributes
    ----------
    scans : list of int
        Rows of the stack of maps that take part.
    weights : list of list of float
        One row per participant: its product with those maps is the participant's map.
    matrix : list of list of float
        Design, one row per participant.
    contrast : list of float
        Weights of its columns.
    groups : list of int
        0 for the first group, 1 for the second, then others, who only help to estimate.
    labels : list of str
        Names of the two groups, or of the one whose change is tested.
    has_unequal_variances : bool
        Whether each group has a variance of its own (Welch).
    flips_signs : bool
        Whether observations change signs and not places.
    exchanges_all : bool
        Whether members of other groups change places too.
    """

    scans: list[int]
    weights: list[list[float]]
    matrix: list[list[float]]
    contrast: list[float]
    groups: list[int]
    labels: list[str]
    has_unequal_variances: bool
    flips_signs: bool = False
    exchanges_all: bool = False

    @property
    def is_change(self) -> bool:
        """Whether one group is compared with 0."""
        return len(self.labels) == 1

    @property
    def relabellings_in_words(self) -> str:
        """What changes."""
        return "sign flips" if self.flips_signs else "permutations"

    @property
    def text(self) -> str:
        """As JSON, the same for equal models."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def read(cls, text: str) -> Model:
        """Model of a text.

        Parameters
        ----------
        text : str
            As of `text`.

        Returns
        -------
        Model
            Equal to the one that gave the text.
        """
        return cls(**json.loads(text))

    def maps(self, stack: NDArray[np.float32]) -> _Array:
        """One map per participant.

        Parameters
        ----------
        stack : (n_scans, m) array
            Maps of all scans.

        Returns
        -------
        (n, m) array
            In the unit of the maps, or that over months for slopes.
        """
        weights = np.asarray(self.weights)
        chosen = np.asarray(stack[self.scans], dtype=np.float64)
        if np.array_equal(weights, np.eye(len(weights))):
            return chosen
        maps: _Array = weights @ chosen
        return maps

    def by_group(self, stack: NDArray[np.float32]) -> dict[str, _Array]:
        """Maps of the participants of either group that is compared.

        Parameters
        ----------
        stack : (n_scans, m) array
            Maps of all scans.

        Returns
        -------
        dict of (n, m) array
            By the label of the group.
        """
        maps, groups = self.maps(stack), np.asarray(self.groups)
        return {label: maps[groups == number] for number, label in enumerate(self.labels)}


def memory_gb(n_participants: int, n_voxels: int, n_covariates: int = 0) -> float:
    """Memory of a node that compares maps, in GB.

    Parameters
    ----------
    n_participants, n_voxels : int
        Size of the maps.
    n_covariates : int
        Covariates of each voxel.

    Returns
    -------
    float
        For one thread; it does not grow with the number of relabellings.
    """
    per_gb = _MEMORY_PER_GB + _MEMORY_PER_COVARIATE_PER_GB * n_covariates
    return _MEMORY_GB + per_gb * 4e-9 * n_participants * n_voxels


class ComparisonInputSpec(NodeInputSpec):
    """Inputs of nodes that compare maps."""

    stack = File(exists=True, mandatory=True, desc="maps of all scans, (scans, voxels) .npy")
    mask = File(exists=True, mandatory=True, desc="voxels of the stack")
    covariates = InputMultiObject(
        File(exists=True), desc="stacks of the same scans and voxels that the model takes too"
    )
    model = traits.Str(mandatory=True, desc="JSON text of a Model")
    n_permutations = traits.Int(mandatory=True, desc="relabellings, the observed one among them")
    seed = traits.Int(mandatory=True, desc="of the relabellings")
    height_power = traits.Float(mandatory=True, desc="H of the enhancement")
    extent_power = traits.Float(mandatory=True, desc="E of the enhancement")
    connectivity = traits.Enum(6, 18, 26, mandatory=True, desc="neighbours of a voxel")
    tail = traits.Bool(mandatory=True, desc="whether small p-values come from a fitted tail")
    cluster_height = traits.Float(mandatory=True, desc="forming threshold of clusters; 0 for none")
    n_threads = traits.Int(mandatory=True, nohash=True, desc="threads")


@dataclass(frozen=True, eq=False)
class Compared:
    """What a node compares.

    Attributes
    ----------
    problem : Problem
        The same in every job.
    maps : (n, m) array
        One map per participant.
    covariates : (c, n, m) array or None
        Covariates of each voxel, made of the visits as the maps are; None where there are none.
    mask : (X, Y, Z) array of bool
        Their voxels.
    """

    problem: Problem
    maps: _Array
    covariates: _Array | None
    mask: NDArray[np.bool_]


def read_compared(inputs: Any) -> Compared:
    """Problem of a node's inputs.

    Parameters
    ----------
    inputs : ComparisonInputSpec
        Inputs of the node.

    Returns
    -------
    Compared
        With the maps that the problem is of.

    Raises
    ------
    DataError
        If stack, covariates and mask do not fit.
    """
    model = Model.read(inputs.model)
    mask = read_image(Path(inputs.mask), ndim=3).data > 0
    stack = read_stack(inputs.stack, inputs.mask, mask)
    maps, covariates = model.maps(stack), None
    if isdefined(inputs.covariates):
        stacks = [read_stack(path, inputs.mask, mask) for path in inputs.covariates]
        for path, other in zip(inputs.covariates, stacks, strict=True):
            if other.shape != stack.shape:
                raise DataError(
                    f"{path}: {len(other)} scans, but {inputs.stack} has {len(stack)}; make them "
                    "in one run; remove the work folder"
                )
        covariates = np.stack([model.maps(other) for other in stacks])
    with concerning(Path(inputs.stack)):
        problem = make_problem(
            maps,
            np.asarray(model.matrix),
            np.asarray(model.contrast),
            image_neighbourhood(mask, inputs.connectivity),
            exchange=exchange_of(model),
            variance_groups=model.groups if model.has_unequal_variances else None,
            voxelwise_covariates=covariates,
            permutation=Permutation(
                n_permutations=inputs.n_permutations,
                seed=inputs.seed,
                height_power=inputs.height_power,
                extent_power=inputs.extent_power,
                n_threads=inputs.n_threads,
                tail=inputs.tail,
                cluster_height=inputs.cluster_height or None,
            ),
        )
    return Compared(problem, maps, covariates, mask)


def read_stack(path: str, mask_path: str, mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Maps of all scans, read when they are used.

    Parameters
    ----------
    path : str
        File of a stack.
    mask_path : str
        File of its voxels, for the message.
    mask : (X, Y, Z) array of bool
        Its voxels.

    Returns
    -------
    (n_scans, m) array
        In single precision.

    Raises
    ------
    DataError
        If they do not fit.
    """
    stack: NDArray[np.float32] = np.load(path, mmap_mode="r")
    if stack.shape[1] != np.count_nonzero(mask):
        raise DataError(
            f"{path}: {stack.shape[1]} voxels, but {mask_path} has {np.count_nonzero(mask)}; make "
            "them in one run; remove the work folder"
        )
    return stack


def exchange_of(model: Model) -> Exchange:
    """What may change: places of the members of the two groups, or their signs.

    Parameters
    ----------
    model : Model
        Of a comparison.

    Returns
    -------
    Exchange
        Observations of other groups stay as they are, unless all are exchanged.
    """
    moves = (np.asarray(model.groups) < 2) | model.exchanges_all
    return make_exchange(
        len(moves),
        permutes=not model.flips_signs,
        flips=model.flips_signs,
        movable=None if moves.all() else moves,
    )


class PermuteInputSpec(ComparisonInputSpec):
    """Inputs of :class:`Permute`."""

    start = traits.Int(mandatory=True, desc="number of the first relabelling")
    stop = traits.Int(mandatory=True, desc="number after the last one")


class PermuteOutputSpec(NodeOutputSpec):
    """Outputs of :class:`Permute`."""

    null = File(exists=True, desc="maxima and counts of the relabellings, .npz")


class Permute(AlsInterface):
    """Compute a block of relabellings: a job of its own, kept when others fail."""

    input_spec = PermuteInputSpec
    output_spec = PermuteOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        problem = read_compared(self.inputs).problem
        block = problem.block(range(self.inputs.start, self.inputs.stop))
        return self.give(runtime, {"null": write_null(block, self.file(runtime, "null.npz"))})


def write_null(block: NullStatistics, path: Path) -> Path:
    """Write the statistics of a block of relabellings, and return the path.

    Parameters
    ----------
    block : NullStatistics
        Nothing but arrays.
    path : Path
        Ending in .npz.

    Returns
    -------
    Path
        `path`, for :func:`read_nulls`.
    """
    names = [field.name for field in fields(NullStatistics)]
    np.savez(path, **dict(zip(names, astuple(block), strict=True)))
    return path


def read_nulls(paths: Sequence[str]) -> NullStatistics:
    """Statistics of all blocks as one.

    Parameters
    ----------
    paths : sequence of str
        Files of :class:`Permute`.

    Returns
    -------
    NullStatistics
        In the order of the relabellings.
    """
    blocks = []
    for path in paths:
        with np.load(path) as arrays:
            blocks.append(NullStatistics(**{name: arrays[name] for name in arrays.files}))
    return join_blocks(blocks)


class ConcludeInputSpec(ComparisonInputSpec):
    """Inputs of :class:`Conclude`."""

    level = traits.Float(mandatory=True, desc="of confidence intervals")
    nulls = InputMultiObject(File(exists=True), mandatory=True, desc="all blocks of relabellings")
    alpha = traits.Float(mandatory=True, desc="corrected p-value that is reported")
    covariate_names = traits.List(traits.Str(), desc="of the covariates, for the sidecars")
    space = traits.Enum("mni152", "aligned", mandatory=True, desc="what world coordinates mean")


DIRECTIONS = ("up", "down")
PER_DIRECTION = ("tfce", "p", "p_fwe", "p_t_fwe")


class ConcludeOutputSpec(NodeOutputSpec):
    """Outputs of :class:`Conclude`."""

    t = File(exists=True, desc="statistic, first less second group")
    d = File(exists=True, desc="Cohen's d")
    g = File(exists=True, desc="Hedges' g")
    difference = File(exists=True, desc="difference in the unit of the maps")
    difference_low = File(exists=True, desc="lower end of its confidence interval")
    difference_high = File(exists=True, desc="upper end of its confidence interval")
    percent = File(exists=True, desc="difference in per cent of the second group")
    p_two_sided = File(exists=True, desc="corrected p-values of either direction")
    up_p_cluster = File(desc="corrected p-values of clusters' extents")
    down_p_cluster = File(desc="corrected p-values of clusters' extents")
    facts = File(exists=True, desc="what was found, JSON")
    up_tfce = File(exists=True, desc="enhanced statistic, first group above second")
    up_p = File(exists=True, desc="its uncorrected p-values")
    up_p_fwe = File(exists=True, desc="its corrected p-values")
    up_p_t_fwe = File(exists=True, desc="corrected p-values of the statistic itself")
    down_tfce = File(exists=True, desc="enhanced statistic, first group below second")
    down_p = File(exists=True, desc="its uncorrected p-values")
    down_p_fwe = File(exists=True, desc="its corrected p-values")
    down_p_t_fwe = File(exists=True, desc="corrected p-values of the statistic itself")


class Conclude(AlsInterface):
    """Make maps of p-values and effects from all blocks of relabellings."""

    input_spec = ConcludeInputSpec
    output_spec = ConcludeOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        compared = read_compared(self.inputs)
        found = conclude(compared.problem, read_nulls(self.inputs.nulls))
        affine = read_image(Path(self.inputs.mask), ndim=3).affine
        results: dict[str, Any] = {}
        effects = effects_of(Model.read(self.inputs.model), compared, self.inputs.level)
        for name, values in {**maps_of(found), **effects}.items():
            # p-values outside the mask are 1, not 0: nothing was tested there
            image = filled(compared.mask, values, 1.0 if "p" in name.split("_") else 0.0)
            results[name] = self.file(runtime, f"{name}.nii.gz")
            write_image(image, affine, results[name], space=self.inputs.space)
        facts = facts_of(found, effects["d"], self.inputs.alpha)
        if compared.covariates is not None:
            names = self.inputs.covariate_names
            facts["VoxelwiseCovariates"] = list(names) if isdefined(names) else []
        results["facts"] = write_facts(self.file(runtime, "facts.json"), facts)
        return self.give(runtime, results)


def filled(
    inside: NDArray[np.bool_], values: NDArray[np.floating], outside: float
) -> NDArray[np.float32]:
    """Image of values at voxels.

    Parameters
    ----------
    inside : (X, Y, Z) array of bool
        Voxels with a value.
    values : (m,) array
        Theirs, in the order of the array.
    outside : float
        Value of all others: 1 for p-values, since nothing was tested there.

    Returns
    -------
    (X, Y, Z) array
        In single precision.

    Examples
    --------
    >>> filled(np.array([[[True, False]]]), np.array([0.5]), 1.0).tolist()
    [[[0.5, 1.0]]]
    """
    image = np.full(inside.shape, outside, np.float32)
    image[inside] = values
    return image


def maps_of(found: Inference) -> dict[str, _Array]:
    """Maps of an inference by the names under which they are saved.

    Parameters
    ----------
    found : Inference
        Result of a contrast.

    Returns
    -------
    dict of (m,) array
        Of the contrast, and of either direction.
    """
    maps = {"t": found.positive.statistic, "p_two_sided": found.either.p_enhanced_fwe}
    for name, one in zip(DIRECTIONS, (found.positive, found.negative), strict=True):
        values = (one.enhanced, one.p_enhanced, one.p_enhanced_fwe, one.p_statistic_fwe)
        maps.update({f"{name}_{kind}": v for kind, v in zip(PER_DIRECTION, values, strict=True)})
        if one.clusters is not None:
            maps[f"{name}_p_cluster"] = one.clusters.p_fwe
    return maps


def effects_of(model: Model, compared: Compared, level: float) -> dict[str, _Array]:
    """Maps of the size of a difference by the names under which they are saved.

    Parameters
    ----------
    model : Model
        Of the comparison.
    compared : Compared
        Its maps and covariates.
    level : float
        Of the confidence intervals.

    Returns
    -------
    dict of (m,) array
        See `bids_alsmri.numerics.effects.Effects`.
    """
    matrix = np.asarray(model.matrix)
    if model.is_change:
        found = one_group_effects(
            compared.maps,
            level=level,
            covariates=matrix[:, 1:],
            voxelwise_covariates=compared.covariates,
        )
    else:
        found = two_group_effects(
            compared.maps,
            matrix,
            np.asarray(model.groups),
            level=level,
            has_unequal_variances=model.has_unequal_variances,
            voxelwise_covariates=compared.covariates,
        )
    return {
        "d": found.cohen_d,
        "g": found.hedges_g,
        "difference": found.difference,
        "difference_low": found.low,
        "difference_high": found.high,
        "percent": found.percent,
    }


def facts_of(found: Inference, cohen_d: _Array, alpha: float) -> dict[str, Any]:
    """What the sidecars and the report tell of an inference.

    Parameters
    ----------
    found : Inference
        Result of a contrast.
    cohen_d : (m,) array
        Effect.
    alpha : float
        Corrected p-value that is reported.

    Returns
    -------
    dict
        JSON values.
    """
    sides = zip(DIRECTIONS, (found.positive, found.negative), strict=True)
    return {
        "NumberOfRelabellings": found.n_relabellings,
        "Exhaustive": found.is_exhaustive,
        "DegreesOfFreedom": found.degrees_of_freedom,
        "VoxelsTested": len(found.positive.statistic),
        "VoxelsWithoutVariance": found.n_constant,
        "Alpha": alpha,
        **{
            f"{name}{key}": value
            for name, one in sides
            for key, value in (
                ("SmallestP", float(one.p_enhanced_fwe.min())),
                ("SignificantVoxels", int(np.count_nonzero(one.p_enhanced_fwe < alpha))),
                ("LargestT", float(one.statistic.max())),
                ("PeakD", float(cohen_d[one.statistic.argmax()])),
            )
        },
    }
