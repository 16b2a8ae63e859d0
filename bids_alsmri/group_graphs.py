"""The steps of the group level: from a plan to one workflow, in graphs that can fail alone."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nipype.pipeline.engine as pe
import numpy as np
import pandas as pd

from bids_alsmri.bids.spec import IoSpec, OutputSpec, load_io_spec
from bids_alsmri.collection import Finished
from bids_alsmri.comparisons import __path__ as comparisons_path
from bids_alsmri.comparisons.cohort import Contrast
from bids_alsmri.comparisons.pictures import (
    DrawComparison,
    DrawIndividuals,
    DrawSkeleton,
    Overlap,
)
from bids_alsmri.comparisons.places import MeasureRegions, TabulateClusters
from bids_alsmri.comparisons.settings import GroupSettings, group_settings
from bids_alsmri.comparisons.skeleton import (
    ParticipantMaps,
    SkeletonChoices,
    SkeletonNodes,
    StackMaps,
    build_skeleton,
    build_smoothed,
)
from bids_alsmri.comparisons.together import ConcludeTogether, CorrectAcross, PermuteTogether
from bids_alsmri.comparisons.volumes import CommonMask, SampleCovariate, SampleMap, StackSampled
from bids_alsmri.comparisons.voxelwise import Conclude, Model, Permute, exchange_of, memory_gb
from bids_alsmri.engine.graph import Ref, Step, Surroundings
from bids_alsmri.engine.group_graph import GroupGraph, make_analysis
from bids_alsmri.engine.pipeline import registry
from bids_alsmri.errors import DataError, SettingsError
from bids_alsmri.group_planning import (
    N_LEAST,
    N_LEAST_CHANGE,
    Comparison,
    GroupPlan,
    covariate_outputs,
)
from bids_alsmri.interfaces.atlases import PrepareAtlases
from bids_alsmri.interfaces.node import AlsInterface
from bids_alsmri.numerics.linear import partition_design
from bids_alsmri.numerics.permutation import count_relabellings
from bids_alsmri.participant import label_of
from bids_alsmri.settings import RunSettings
from bids_alsmri.stats.design import change_design, group_design, visit_weights
from bids_alsmri.version import VERSION

# of the templates in use, brain with its fluid, and about the share of it that is skeleton; only
# memory is derived from them
BRAIN_MM3 = 1.9e6
SKELETON_SHARE = 0.08
# a skeleton of one voxel is too thin to be seen
THICKNESS_MM = 2.5
THICKENED = (
    " The skeleton is thickened to 2.5 mm for display: each place takes the value nearest to it."
)
# ends of the scales on which single participants are shown, in the units of the maps
SCALES = {
    "fa": (0.0, 0.8),
    "md": (0.0, 2e-3),
    "ad": (0.0, 2e-3),
    "rd": (0.0, 2e-3),
    "tsc": (0.0, 120.0),
}
SIDES = {"+": "up", "-": "down"}
WORDS = {"+": "higher", "-": "lower"}
ARROWS = {"+": "↑", "-": "↓"}
PAIR = re.compile(r"([a-z0-9]+)([+-])([a-z0-9]+)([+-])")
PART = re.compile(r"([a-z0-9]+)([+-])")
SIGNS = {"+": 1, "-": -1}
# what stands for a participant with several visits, as part of a description
VISITS = {
    "first": "",
    "mean": ", mean of visits",
    "change": ", change from first to last visit",
    "slope": ", change per month",
}
TITLES = {"skeleton": "skeleton", "vba": "VBA", "volume": "volume"}
IN_WORDS = {"skeleton": "on the skeleton of tracts", "vba": "smoothed, without a skeleton"}


@dataclass(frozen=True)
class Covariate:
    """Maps of all scans of a stack that it can be adjusted for in every voxel.

    Parameters
    ----------
    name : str
        Such as ``gm``.
    paths : tuple of Path
        The maps.
    array : Ref
        The same as one array, scans and voxels as those of the stack.
    """

    name: str
    paths: tuple[Path, ...]
    array: Ref


@dataclass(frozen=True)
class Stack:
    """Maps of all scans that take part in anything, as one array.

    Parameters
    ----------
    map, analysis : str
        Such as ``fa`` and ``skeleton``.
    unit : str
        Of the map.
    modality : str
        Pipeline.
    labels : tuple of str
        Scans, in the order of the rows.
    paths : tuple of Path
        Their maps.
    array, mask, background, atlases : Ref
        The array, its voxels, the image that figures show beneath, and atlases on its grid.
    resolution : str
        Voxel size of the grid, as file names say it.
    covariates : tuple of Covariate
        What it is adjusted for too, in every voxel.
    """

    map: str
    analysis: str
    unit: str
    modality: str
    labels: tuple[str, ...]
    paths: tuple[Path, ...]
    array: Ref
    mask: Ref
    background: Ref
    atlases: Ref
    resolution: str
    covariates: tuple[Covariate, ...] = ()

    @property
    def name(self) -> str:
        """Such as ``fa skeleton``."""
        return f"{self.map} {self.analysis}"

    @property
    def desc(self) -> str:
        """Such as ``faSkeleton``, for file names."""
        return f"{self.map}{self.analysis.capitalize()}"

    @property
    def title(self) -> str:
        """Such as ``FA, skeleton``."""
        return f"{self.map.upper()}, {TITLES[self.analysis]}"

    @property
    def thickness_mm(self) -> float:
        """To which its voxels are thickened in figures, in mm."""
        return THICKNESS_MM if self.analysis == "skeleton" else 0.0

    @property
    def voxel_mm(self) -> float:
        """Edge of its voxels, in mm."""
        return float(self.resolution.replace("p", "."))

    @property
    def background_label(self) -> str:
        """What figures show beneath."""
        return "template" if self.analysis == "volume" else "mean FA"


@dataclass(frozen=True)
class Variant:
    """Which of the tests of a stack, beside the plain one.

    Parameters
    ----------
    stack : Stack
        Maps.
    is_shared : bool
        Whether it is of those alone who have all modalities, beside one of all.
    is_adjusted : bool
        Whether it is adjusted for the covariates of every voxel, beside one that is not.
    """

    stack: Stack
    is_shared: bool = False
    is_adjusted: bool = False

    @property
    def covariates(self) -> tuple[Covariate, ...]:
        """What it is adjusted for in every voxel."""
        return self.stack.covariates if self.is_adjusted else ()

    @property
    def paths(self) -> tuple[Path, ...]:
        """All maps that go into it."""
        return (*self.stack.paths, *(path for one in self.covariates for path in one.paths))

    @property
    def adjusted(self) -> str:
        """The same in words, after a space; empty where there is nothing."""
        names = " and ".join(one.name.upper() for one in self.covariates)
        return f" adjusted for {names}" if names else ""

    @property
    def adjusted_desc(self) -> str:
        """The same for file names, such as ``AdjustedGm``."""
        names = "".join(one.name.capitalize() for one in self.covariates)
        return f"Adjusted{names}" if names else ""

    @property
    def name(self) -> str:
        """Such as ``tsc volume adjusted for GM``."""
        return f"{self.stack.name}{' shared' if self.is_shared else ''}{self.adjusted}"

    @property
    def desc(self) -> str:
        """Such as ``tscVolumeAdjustedGm``, for file names."""
        return f"{self.stack.desc}{'Shared' if self.is_shared else ''}{self.adjusted_desc}"

    @property
    def title(self) -> str:
        """Map, analysis and, where it is not of all, of whom."""
        return ",".join([self.stack.title, *[" shared"] * self.is_shared]) + self.adjusted

    @property
    def label(self) -> str:
        """Map, and what it is adjusted for."""
        return f"{self.stack.map.upper()}{self.adjusted}"


@dataclass(frozen=True)
class MapTest:
    """One contrast of one stack.

    Parameters
    ----------
    variant : Variant
        Maps, and which of their tests.
    comparison : Comparison
        Groups.
    graph : GroupGraph
        Its steps.
    found : Step
        The one that makes maps of p-values and effects.
    model : Model
        Who is compared, and how.
    nulls : tuple of Ref
        Blocks of relabellings.
    """

    variant: Variant
    comparison: Comparison
    graph: GroupGraph
    found: Step
    model: Model
    nulls: tuple[Ref, ...]

    @property
    def stack(self) -> Stack:
        """Maps."""
        return self.variant.stack

    @property
    def title(self) -> str:
        """Map, analysis and, where it is not of all, of whom, and what it is adjusted for."""
        return self.variant.title

    @property
    def people(self) -> frozenset[str]:
        """Participants."""
        return frozenset(self.comparison.included["participant_id"])


@dataclass(frozen=True)
class OverlapTest:
    """Two maps of one contrast, each in a direction.

    Parameters
    ----------
    first, second : MapTest
        The maps.
    directions : (str, str)
        Each + (first group above second) or -, or ± for either.
    graph : GroupGraph
        Its steps.
    title : str
        In short.
    """

    first: MapTest
    second: MapTest
    directions: tuple[str, str]
    graph: GroupGraph
    title: str


@dataclass(frozen=True)
class AcrossTest:
    """One contrast of one stack, corrected for several tests.

    Parameters
    ----------
    test : MapTest
        Whose p-values are corrected.
    family : tuple of MapTest
        All for which they are, itself among them.
    graph : GroupGraph
        Its steps.
    """

    test: MapTest
    family: tuple[MapTest, ...]
    graph: GroupGraph


@dataclass(frozen=True)
class CombinedTest:
    """Several maps of one contrast, of which at least one is to change in its direction.

    Parameters
    ----------
    tests : tuple of MapTest
        The maps, each by itself.
    directions : tuple of str
        Each + (first group above second) or -.
    graph : GroupGraph
        Its steps.
    title : str
        In short.
    """

    tests: tuple[MapTest, ...]
    directions: tuple[str, ...]
    graph: GroupGraph
    title: str


@dataclass(frozen=True)
class GroupGraphs:
    """All steps of a run.

    Parameters
    ----------
    preparations : tuple of GroupGraph
        Those that make the stacks.
    tests : tuple of MapTest
        Those that compare groups.
    regions : tuple of GroupGraph
        Those that measure the regions of atlases.
    overlaps : tuple of OverlapTest
        Those that look where two maps differ.
    across : tuple of AcrossTest
        Those that correct for several tests.
    combined : tuple of CombinedTest
        Those that combine maps.
    stacks : tuple of Stack
        Maps, in the order of `regions`.
    warnings : tuple of str
        What could not be looked at.
    """

    preparations: tuple[GroupGraph, ...]
    tests: tuple[MapTest, ...]
    regions: tuple[GroupGraph, ...]
    overlaps: tuple[OverlapTest, ...]
    across: tuple[AcrossTest, ...] = ()
    combined: tuple[CombinedTest, ...] = ()
    stacks: tuple[Stack, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def all(self) -> list[GroupGraph]:
        """Every graph, each after those that it builds on."""
        tests = [test.graph for test in self.tests]
        overlaps = [test.graph for test in self.overlaps]
        across = [test.graph for test in self.across]
        combined = [test.graph for test in self.combined]
        return [*self.preparations, *self.regions, *tests, *overlaps, *across, *combined]


# of a cohort without maps
NO_GRAPHS = GroupGraphs((), (), (), ())


def io_spec() -> IoSpec:
    """What the group level saves.

    Returns
    -------
    IoSpec
        Of ``comparisons/io_spec.json``.
    """
    return load_io_spec(Path(str(comparisons_path[0])) / "io_spec.json")


def build_graphs(settings: RunSettings, plan: GroupPlan, workflow: pe.Workflow) -> GroupGraphs:
    """Add the steps of all comparisons to a workflow.

    Parameters
    ----------
    settings : RunSettings
        What was asked for.
    plan : GroupPlan
        Who is compared.
    workflow : nipype Workflow
        Takes the steps.

    Returns
    -------
    GroupGraphs
        Each with what it saves.
    """
    builder = _Builder(settings, plan, workflow)
    _require_maps(builder.cfg.maps, plan.modalities)
    stacks: list[Stack] = []
    for modality in plan.modalities:
        stacks += builder.stacks_of(modality)
    tests = [
        test
        for stack in stacks
        for comparison in plan.comparisons
        if comparison.modality == stack.modality
        for test in builder.tests(stack, comparison)
    ]
    sampled = builder.sampled_stacks()
    tests += builder.shared_tests(sampled, stacks, tests)
    stacks += sampled
    regions = tuple(builder.regions(stack) for stack in stacks)
    overlaps = [*builder.overlaps(tests), *builder.agreements(tests)]
    return GroupGraphs(
        tuple(builder.preparations),
        tuple(tests),
        regions,
        tuple(overlaps),
        tuple(builder.across(tests)),
        tuple(builder.combinations(tests)),
        tuple(stacks),
        tuple(builder.warnings),
    )


def _require_maps(asked: Sequence[str], modalities: Sequence[str]) -> None:
    outputs = [s for name in modalities for s in registry()[name].io_spec.outputs.values()]
    known = [spec.compared["map"] for spec in outputs if spec.compared]
    unknown = [name for name in asked if name not in known]
    if unknown:
        raise SettingsError(
            f"--group-maps: {unknown[0]!r} is no map of {', '.join(modalities)}; expected some of "
            f"{', '.join(known)}"
        )


class _Builder:
    """Adds graphs to one workflow."""

    def __init__(self, settings: RunSettings, plan: GroupPlan, workflow: pe.Workflow) -> None:
        self.settings, self.plan, self.workflow = settings, plan, workflow
        self.cfg = group_settings(settings)
        self.spec = io_spec()
        self.preparations: list[GroupGraph] = []
        self.skeletons: dict[str, tuple[SkeletonNodes, Ref]] = {}
        self.warnings: list[str] = []

    def graph(
        self, pipeline: str, name: str, maps: Sequence[Path], values: Mapping[str, str]
    ) -> GroupGraph:
        settings = self.settings
        roots = {"raw": settings.bids_dir, "": settings.output_dir, **settings.derivatives}
        filled = {
            "template": settings.template,
            "res": label_of(self.cfg.resolution_mm),
            **values,
        }
        place = Surroundings(
            settings.output_dir, roots, filled, settings.seed, settings.omp_nthreads, VERSION
        )
        shown = self.cfg.model_dump(mode="json")
        stages = {"fit": {"seed": settings.seed, **shown}, "apply": {}}
        analysis = make_analysis(pipeline, name, tuple(maps))
        return GroupGraph(self.workflow, analysis, self.spec, stages, place)

    def stacks_of(self, modality: str) -> list[Stack]:
        """Stacks of the maps of one modality, and the graph that makes them."""
        specs = registry()[modality].io_spec.outputs.values()
        kinds = {spec.compared["analysis"] for spec in specs if spec.compared}
        tracts = self.tract_stacks(modality) if "tracts" in kinds else []
        return [*tracts, *(self.volume_stack(modality, spec) for spec in self.volumes(modality))]

    def volumes(self, modality: str) -> list[OutputSpec]:
        """Outputs of one modality that are compared as volumes, those that were asked for."""
        return [
            spec
            for spec in registry()[modality].io_spec.outputs.values()
            if spec.compared.get("analysis") == "volume"
            and (not self.cfg.maps or spec.compared["map"] in self.cfg.maps)
        ]

    def volume_stack(self, modality: str, spec: OutputSpec) -> Stack:
        """Maps that the participant level brought to the template, within the brain of all."""
        name, scans = spec.compared["map"], self.scans_of(modality)
        labels = [scan.label for scan in scans]
        paths = [self.map_of(scan, spec.name) for scan in scans]
        resolution = voxel_label(paths[0])
        values = {"desc": name, "map_title": name.upper(), "res": resolution}
        graph = self.graph(f"{modality} maps", name, paths, values)
        found = graph.step(
            "common_mask",
            CommonMask(
                labels=labels,
                template=self.settings.template,
                most_removed_share=self.cfg.most_removed_share,
            ),
            maps=paths,
        )
        stacked = graph.step("stack", StackMaps(labels=labels), maps=paths, mask=found.mask)
        place: dict[str, Any] = {"modality": modality, "mask": found.mask}
        graph.save_all({"volume_mask": found.mask}, facts=found.facts)
        self.draw_individuals(graph, name, spec.units, dict(zip(labels, paths, strict=True)), found)
        self.preparations.append(graph)
        return Stack(
            map=name,
            analysis="volume",
            unit=spec.units,
            modality=modality,
            labels=tuple(labels),
            paths=tuple(paths),
            array=stacked.stack,
            mask=found.mask,
            background=found.t1w,
            atlases=self.atlases(graph, found.mask),
            resolution=resolution,
            covariates=tuple(
                self.covariate(graph, StackMaps(labels=labels), spec=own, **place)
                for own in covariate_outputs(modality, self.cfg.voxelwise_covariates).values()
            ),
        )

    def covariate(
        self, graph: GroupGraph, node: AlsInterface, *, modality: str, spec: OutputSpec, mask: Ref
    ) -> Covariate:
        """Maps of the scans of a stack that it is adjusted for, brought to its voxels by a node."""
        paths = [self.map_of(scan, spec.name) for scan in self.scans_of(modality)]
        name = spec.covariate["map"]
        array = graph.step(f"covariate_{name}", node, maps=paths, mask=mask).stack
        return Covariate(name, tuple(paths), array)

    def draw_individuals(
        self,
        graph: GroupGraph,
        name: str,
        unit: str,
        images: Mapping[str, Ref | Path],
        place: Step,
    ) -> None:
        """Draw one participant of each group, a row each (paper 1, figure 1)."""
        labels = self.one_of_each_group(graph.scan.pipeline.split()[0])
        low, high = SCALES[name]
        node = DrawIndividuals(
            labels=[f"{group}: {scan}" for group, scan in labels.items()],
            name=name.upper(),
            unit=unit,
            low=low,
            high=high,
            title=f"{name.upper()} of one participant of each group",
        )
        shown = graph.step(
            "draw_individuals",
            node,
            images=[images[scan] for scan in labels.values()],
            mask=place.mask,
        )
        graph.save_all({"individuals": shown.figure}, figures=True)

    def sampled_stacks(self) -> list[Stack]:
        """Maps of volumes at the voxels of the skeleton, where there is one."""
        tracts = next((name for name in self.plan.modalities if name in self.skeletons), None)
        if tracts is None or "skeleton" not in self.cfg.analyses:
            return []
        return [
            self.sampled_stack(modality, spec, *self.skeletons[tracts])
            for modality in self.plan.modalities
            for spec in self.volumes(modality)
        ]

    def sampled_stack(
        self, modality: str, spec: OutputSpec, nodes: SkeletonNodes, atlases: Ref
    ) -> Stack:
        name, scans = spec.compared["map"], self.scans_of(modality)
        is_raw = self.cfg.skeleton_sampling == "unsmoothed"
        source = spec.compared.get("unsmoothed", spec.name) if is_raw else spec.name
        paths = [self.map_of(scan, source) for scan in scans]
        skeleton = Ref(nodes.group, "skeleton_mask")
        graph = self.graph(f"{modality} on the skeleton", name, paths, {"desc": f"{name}Skeleton"})
        vectors = [
            graph.step(f"sample_{scan.label}", SampleMap(), image=path, mask=skeleton).vector
            for scan, path in zip(scans, paths, strict=True)
        ]
        labels = [scan.label for scan in scans]
        node = StackSampled(labels=labels, most_removed_share=self.cfg.most_removed_share)
        found = graph.step("stack", node, vectors=vectors, mask=skeleton)
        place: dict[str, Any] = {"modality": modality, "mask": found.mask}
        self.preparations.append(graph)
        return Stack(
            map=name,
            analysis="skeleton",
            unit=spec.units,
            modality=modality,
            labels=tuple(labels),
            paths=tuple(paths),
            array=found.stack,
            mask=found.mask,
            background=Ref(nodes.group, "mean_fa"),
            atlases=atlases,
            resolution=label_of(self.cfg.resolution_mm),
            covariates=tuple(
                self.covariate(graph, SampleCovariate(labels=labels), spec=own, **place)
                for own in self.covariates_on_skeleton(modality)
            ),
        )

    def covariates_on_skeleton(self, modality: str) -> list[OutputSpec]:
        """Covariates that are as smooth as the maps that are taken to the skeleton."""
        specs = covariate_outputs(modality, self.cfg.voxelwise_covariates)
        if self.cfg.skeleton_sampling == "smoothed":
            return list(specs.values())
        for name, spec in specs.items():
            if "unsmoothed" not in spec.covariate:
                raise SettingsError(
                    f"--group-skeleton-sampling unsmoothed: {name} is only saved smoothed, but a "
                    f"covariate must be as smooth as the maps of {modality}; give smoothed, or "
                    f"leave {name} out of --group-voxelwise-covariates"
                )
        outputs = registry()[modality].io_spec.outputs
        return [
            replace(outputs[spec.covariate["unsmoothed"]], covariate=spec.covariate)
            for spec in specs.values()
        ]

    def shared_tests(
        self, sampled: Sequence[Stack], stacks: Sequence[Stack], tests: Sequence[MapTest]
    ) -> list[MapTest]:
        """Tests on the skeleton of those who have all modalities.

        Maps sampled at the skeleton are tested for nothing else than to be looked at together with
        the tracts' maps, so on one set of participants; the tracts' maps once more where that set
        is smaller than theirs.
        """
        found: list[MapTest] = []
        for contrast in self.plan.contrasts if sampled else ():
            own = [c for c in self.plan.comparisons if c.contrast == contrast]
            people = frozenset.intersection(*(frozenset(c.included["participant_id"]) for c in own))
            by_modality = {c.modality: with_only(c, people) for c in own}
            if not all(is_large_enough(c) for c in by_modality.values()):
                self.warnings.append(
                    f"{contrast.name}: too few have all of {', '.join(by_modality)}; expected at "
                    f"least {N_LEAST} in each group ({N_LEAST_CHANGE} for a change) to look where "
                    "maps of several modalities differ; each modality is compared by itself"
                )
                continue
            covariates = shared_covariates(list(by_modality.values()))
            for stack in sampled:
                comparison = replace(by_modality[stack.modality], covariates=covariates)
                found += self.tests(stack, comparison)
            found += [
                self.test(
                    Variant(stack, is_shared=True),
                    replace(by_modality[stack.modality], covariates=covariates),
                )
                for stack in stacks
                if stack.analysis == "skeleton"
                and not self.is_same(stack, contrast, people, covariates, tests)
            ]
        return found

    def is_same(
        self,
        stack: Stack,
        contrast: Contrast,
        people: frozenset[str],
        covariates: pd.DataFrame,
        tests: Sequence[MapTest],
    ) -> bool:
        """Whether the test of a stack by itself has these participants and covariates already."""
        (test,) = (
            one
            for one in tests
            if one.variant == Variant(stack) and one.comparison.contrast == contrast
        )
        return test.people == people and test.comparison.covariates.shape == covariates.shape

    def tract_stacks(self, modality: str) -> list[Stack]:
        scans = self.scans_of(modality)
        outputs = registry()[modality].io_spec.outputs
        names = {s.compared["map"]: s.name for s in outputs.values() if s.compared}
        people = [self.maps_of(scan, names) for scan in scans]
        paths = [getattr(person, name) for person in people for name in names]
        graph = self.graph(f"{modality} maps", "all", paths, {"desc": "fa", "map_title": "FA"})
        before = set(self.workflow._graph.nodes())
        nodes = build_skeleton(
            self.workflow, people, self.choices(), fa_target=fa_target(self.settings)
        )
        made = {"skeleton": nodes.stacks}
        mask = (nodes.group, "mask")
        if "vba" in self.cfg.analyses:
            wanted = {
                label: {n: m for n, m in maps.items() if not self.cfg.maps or n in self.cfg.maps}
                for label, maps in nodes.maps.items()
            }
            made["vba"] = build_smoothed(
                self.workflow,
                wanted,
                mask,
                fwhm_mm=self.cfg.vba_fwhm_mm,
                resolution_mm=self.cfg.resolution_mm,
                prefix="vba",
            )
        graph.nodes += [node for node in self.workflow._graph.nodes() if node not in before]
        self.save_skeleton(graph, nodes)
        atlases = self.atlases(graph, Ref(*mask))
        self.draw_preparation(graph, nodes, people)
        self.preparations.append(graph)
        self.skeletons[modality] = (nodes, atlases)
        masks = {"skeleton": Ref(nodes.group, "skeleton_mask"), "vba": Ref(*mask)}
        return [
            Stack(
                map=name,
                analysis=analysis,
                unit=outputs[names[name]].units,
                modality=modality,
                labels=tuple(person.label for person in people),
                paths=tuple(getattr(person, name) for person in people),
                array=Ref(*made[analysis][name]),
                mask=masks[analysis],
                background=Ref(nodes.group, "mean_fa"),
                atlases=atlases,
                resolution=label_of(self.cfg.resolution_mm),
            )
            for analysis in self.cfg.analyses
            for name in names
            if not self.cfg.maps or name in self.cfg.maps
        ]

    def atlases(self, graph: GroupGraph, reference: Ref) -> Ref:
        folder = self.settings.atlas_dir
        node = PrepareAtlases(
            template=self.settings.template,
            resolution_mm=self.cfg.resolution_mm,
            atlas_dir="" if folder is None else str(folder),
            threshold_percent=self.settings.atlas_threshold_percent,
        )
        return graph.step("atlases", node, reference=reference).atlases

    def save_skeleton(self, graph: GroupGraph, nodes: SkeletonNodes) -> None:
        facts = Ref(nodes.group, "facts")
        made = {"mean_fa": "mean_fa", "skeleton": "skeleton_mask"}
        graph.save_all({name: Ref(nodes.group, made[name]) for name in made}, facts=facts)

    def draw_preparation(
        self, graph: GroupGraph, nodes: SkeletonNodes, people: Sequence[ParticipantMaps]
    ) -> None:
        drawn = graph.step(
            "draw_skeleton",
            DrawSkeleton(threshold_fa=self.cfg.skeleton_threshold_fa, n_participants=len(people)),
            mean_fa=Ref(nodes.group, "mean_fa"),
            skeleton=Ref(nodes.group, "skeleton_mask"),
        )
        graph.save_all({"skeleton": drawn.figure}, figures=True)
        images = {label: Ref(*maps["fa"]) for label, maps in nodes.maps.items()}
        self.draw_individuals(graph, "fa", "1", images, Step(nodes.group))

    def one_of_each_group(self, modality: str) -> dict[str, str]:
        """First scan that takes part, of controls, slow and fast (paper 1, figure 1)."""
        names, flow = self.plan.names, self.plan.flow
        own = flow[flow["is_included"] & (flow["modality"] == modality)]
        found: dict[str, str] = {}
        for group in (names.control, names.slow, names.fast, names.patient):
            scans = own.loc[own["group"] == group, "scan"]
            is_new = len(scans) > 0 and scans.iloc[0] not in found.values()
            if is_new and not (group == names.patient and len(found) > 1):
                found[group] = scans.iloc[0]
        return found

    def choices(self) -> SkeletonChoices:
        cfg = self.cfg
        return SkeletonChoices(
            template=self.settings.template,
            resolution_mm=cfg.resolution_mm,
            least_share=cfg.least_share,
            refinement_iterations=cfg.refinement_iterations,
            refinement_resolution_mm=cfg.refinement_resolution_mm,
            refinement_stages=tuple(cfg.refinement_stages),
            winsor_percentiles=cfg.winsor_percentiles,
            registration_threads=cfg.registration_threads,
            threshold_fa=cfg.skeleton_threshold_fa,
            most_removed_share=cfg.most_removed_share,
            weight_sd_voxels=cfg.projection_weight_sd_voxels,
            seed=self.settings.seed,
        )

    def scans_of(self, modality: str) -> list[Finished]:
        """Scans that take part in any contrast, in the order of the flow."""
        by_label = {scan.label: scan for scan in self.plan.finished[modality]}
        flow = self.plan.flow
        is_in = flow["is_included"] & (flow["modality"] == modality)
        return [by_label[label] for label in dict.fromkeys(flow.loc[is_in, "scan"])]

    def map_of(self, scan: Finished, output: str) -> Path:
        if output not in scan.record.outputs:
            raise DataError(
                f"{scan.label}: the participant level left no {output}; expected the map that "
                "groups are compared on; run the participant level again for it"
            )
        return self.settings.output_dir / scan.record.outputs[output]

    def maps_of(self, scan: Finished, names: Mapping[str, str]) -> ParticipantMaps:
        root, outputs = self.settings.output_dir, scan.record.outputs
        missing = [name for name in (*names.values(), "brain_mask") if name not in outputs]
        if missing:
            raise DataError(
                f"{scan.label}: the participant level left no {', '.join(missing)}; expected the "
                "maps that groups are compared on; run the participant level again for it"
            )
        return ParticipantMaps(
            label=scan.label,
            mask=root / outputs["brain_mask"],
            transforms=(self.way_to_template(scan),),
            **{name: root / outputs[output] for name, output in names.items()},
        )

    def way_to_template(self, scan: Finished) -> Path:
        """Transform from the space of a scan's maps, by the T1w that it was aligned to."""
        root, upstream = self.settings.output_dir, scan.record.identity.upstream
        own = scan.record.outputs.get("fa_to_template")
        if own is not None:
            return root / own
        digest = upstream.get("anatomical")
        for other in self.plan.anatomical:
            if other.record.identity.digest() == digest and other.participant == scan.participant:
                return root / other.record.outputs["t1w_to_template"]
        raise DataError(
            f"{scan.label}: the T1w that its maps are aligned to was processed again, or its "
            "results are gone; expected the transform to the template that the maps go with; run "
            "the participant level again for it"
        )

    def tests(self, stack: Stack, comparison: Comparison) -> list[MapTest]:
        """One contrast on one stack, and once more where every voxel has covariates."""
        found = [self.test(Variant(stack), comparison)]
        if stack.covariates:
            found.append(self.test(Variant(stack, is_adjusted=True), comparison))
        return found

    def test(self, variant: Variant, comparison: Comparison) -> MapTest:
        """Steps of one contrast on one stack, or on those of it who have all modalities."""
        contrast, stack, covariates = comparison.contrast, variant.stack, variant.covariates
        model = self.model_of(stack, comparison)
        require_freedom(variant, comparison, model)
        values = {**values_of(contrast, stack, self.cfg), "desc": variant.desc}
        values["map_title"] = variant.title
        if variant.is_shared:
            values["map_in_words"] += ", participants with all modalities"
        if variant.is_adjusted:
            values["map_in_words"] += f",{variant.adjusted} in every voxel"
        graph = self.graph(variant.name, contrast.name, variant.paths, values)
        shared: dict[str, Any] = {
            "model": model.text,
            "n_permutations": self.cfg.n_permutations,
            "tail": self.cfg.tail,
            "cluster_height": self.cfg.cluster_forming_t,
            "n_threads": self.settings.omp_nthreads,
            **self.enhancement(stack.analysis),
        }
        # the run's own seed: one derived from the step's name would make relabellings depend on how
        # they are cut into jobs
        inputs: dict[str, Any] = {
            "stack": stack.array,
            "mask": stack.mask,
            "seed": self.settings.seed,
        }
        last = Conclude(
            alpha=self.cfg.alpha, level=self.cfg.interval_level, space="mni152", **shared
        )
        if covariates:
            inputs["covariates"] = [one.array for one in covariates]
            last.inputs.covariate_names = [one.name for one in covariates]
        size = {"n_covariates": len(covariates)}
        blocks = []
        for start, stop in self.jobs(model):
            node = self.sized(Permute(start=start, stop=stop, **shared), stack, model, **size)
            blocks.append(graph.step(f"permute_{start}", node, **inputs).null)
        last = self.sized(last, stack, model, **size)
        found = graph.step("conclude", last, nulls=blocks, **inputs)
        made = [
            name
            for name in last.output_spec().copyable_trait_names()
            if name in self.spec.outputs
            and (self.cfg.cluster_forming_t or not name.endswith("_p_cluster"))
            # of a mean change near 0 a share means nothing
            and (self.cfg.visit in ("first", "mean") or name != "percent")
        ]
        graph.save_all({name: getattr(found, name) for name in made}, facts=found.facts)
        self.tables(graph, stack, model, found)
        self.pictures(graph, variant, contrast, found)
        return MapTest(variant, comparison, graph, found, model, tuple(blocks))

    def jobs(self, model: Model) -> list[tuple[int, int]]:
        """Numbers of the relabellings of each job: its first, and the one after its last."""
        n, size = self.n_relabellings(model), self.cfg.permutations_per_job
        return [(start, min(start + size, n)) for start in range(0, n, size)]

    def pictures(
        self, graph: GroupGraph, variant: Variant, contrast: Contrast, found: Step
    ) -> None:
        first, second, stack = contrast.first, contrast.second, variant.stack
        node = DrawComparison(
            title=f"{variant.title}: {first} against {second}",
            sides=(f"{first} > {second}", f"{first} < {second}"),
            background_label=stack.background_label,
            alpha=self.cfg.alpha,
            thickness_mm=stack.thickness_mm,
        )
        drawn = graph.step(
            "draw",
            node,
            d=found.d,
            mask=stack.mask,
            up_p_fwe=found.up_p_fwe,
            down_p_fwe=found.down_p_fwe,
            background=stack.background,
        )
        names = ("significant", "effect", "glass")
        graph.save_all({name: getattr(drawn, name) for name in names}, figures=True)

    def overlaps(self, tests: Sequence[MapTest]) -> list[OverlapTest]:
        """Pairs of maps that were asked for and are there, on one set of voxels."""
        found = []
        for text in self.cfg.overlaps:
            parts = PAIR.fullmatch(text)
            assert parts is not None  # the settings have checked it
            for members in sets_of(tests, (parts[1], parts[3])):
                found.append(self.overlap(members[0], members[1], (parts[2], parts[4])))
        return found

    def overlap(self, first: MapTest, second: MapTest, directions: tuple[str, str]) -> OverlapTest:
        """Where two maps of one contrast both differ, each in its direction."""
        contrast, analysis = first.comparison.contrast, first.stack.analysis
        pair = list(zip((first, second), directions, strict=True))
        names = [f"{one.variant.label} {WORDS[d]} in {contrast.first}" for one, d in pair]
        label = "".join(labelled(one, d) for one, d in pair)
        arrows = " and ".join(f"{one.variant.label} {ARROWS[d]}" for one, d in pair)
        return self.both(
            first,
            second,
            directions,
            names=(names[0], names[1]),
            desc=f"overlap{label}{analysis.capitalize()}",
            words=f"{names[0]} and {names[1]} than in {contrast.second}",
            title=f"{arrows}, {TITLES[analysis]}",
        )

    def across(self, tests: Sequence[MapTest]) -> list[AcrossTest]:
        """Tests with p-values for all voxels of several maps, or of several contrasts too."""
        if self.cfg.correct_across == "none":
            return []
        families: dict[object, list[MapTest]] = {}
        for test in tests:
            contrast = test.comparison.contrast.name
            # relabellings are the same only where participants are
            own = contrast if self.cfg.correct_across == "maps" else test.model.flips_signs
            families.setdefault((own, test.people), []).append(test)
        return [
            self.corrected(test, family)
            for family in families.values()
            for test in family
            if len(family) > 1
        ]

    def corrected(self, test: MapTest, family: Sequence[MapTest]) -> AcrossTest:
        """p-values of one test for all tests of its family."""
        stack, contrast = test.stack, test.comparison.contrast
        values = {**test.graph.surroundings.values, "n_tests": str(len(family))}
        name = f"{test.variant.name} across maps"
        graph = self.graph(name, contrast.name, maps_of([test]), values)
        node = CorrectAcross(
            n_blocks=[len(one.nulls) for one in family],
            models=[one.model.text for one in family],
            own=list(family).index(test),
            n_permutations=self.cfg.n_permutations,
            alpha=self.cfg.alpha,
            space="mni152",
        )
        found = graph.step(
            "correct",
            node,
            nulls=[null for one in family for null in one.nulls],
            mask=stack.mask,
            seed=self.settings.seed,
        )
        made = {name: getattr(found, name) for name in ("up_p_across", "down_p_across")}
        graph.save_all(made, facts=found.facts)
        return AcrossTest(test, tuple(family), graph)

    def combinations(self, tests: Sequence[MapTest]) -> list[CombinedTest]:
        """Sets of maps that were asked for and are all there, on the skeleton."""
        on_skeleton = [test for test in tests if test.stack.analysis == "skeleton"]
        found = []
        for text in self.cfg.combinations:
            names, signs = zip(*PART.findall(text), strict=True)
            found += [self.combined(members, signs) for members in sets_of(on_skeleton, names)]
        return found

    def combined(self, tests: Sequence[MapTest], directions: Sequence[str]) -> CombinedTest:
        """Test whether at least one of several maps changes in its direction."""
        stack, contrast = tests[0].stack, tests[0].comparison.contrast
        names = [test.stack.map for test in tests]
        signed = list(zip(tests, directions, strict=True))
        words = ", ".join(f"{test.variant.label} {WORDS[sign]}" for test, sign in signed)
        title = ", ".join(f"{test.variant.label} {ARROWS[sign]}" for test, sign in signed)
        desc = "combined" + "".join(labelled(test, sign) for test, sign in signed)
        values = {**values_of(contrast, stack, self.cfg), "desc": desc, "set_in_words": words}
        graph = self.graph(desc, contrast.name, maps_of(tests), values)
        model = tests[0].model
        shared: dict[str, Any] = {
            "names": names,
            "signs": [SIGNS[sign] for sign in directions],
            "models": [test.model.text for test in tests],
            "method": self.cfg.combination_method,
            "n_permutations": self.cfg.n_permutations,
            "tail": self.cfg.tail,
            "n_threads": self.settings.omp_nthreads,
            **self.enhancement(stack.analysis),
        }
        inputs: dict[str, Any] = {
            "stacks": [test.stack.array for test in tests],
            "masks": [test.stack.mask for test in tests],
            "seed": self.settings.seed,
        }
        covariates = [test.variant.covariates for test in tests]
        if any(covariates):
            inputs["covariates"] = [one.array for own in covariates for one in own]
            shared["n_covariates"] = [len(own) for own in covariates]
        size = {"n_maps": len(tests), "n_covariates": sum(map(len, covariates))}
        blocks = []
        for start, stop in self.jobs(model):
            node = self.sized(
                PermuteTogether(start=start, stop=stop, **shared), stack, model, **size
            )
            blocks.append(graph.step(f"permute_{start}", node, **inputs).null)
        node = ConcludeTogether(
            alpha=self.cfg.alpha,
            background_label=stack.background_label,
            title=f"{title} together: {contrast.first} against {contrast.second}",
            sides=(f"{title} in {contrast.first}", "the reverse"),
            thickness_mm=stack.thickness_mm,
            space="mni152",
            **shared,
        )
        found = graph.step(
            "conclude",
            self.sized(node, stack, model, **size),
            nulls=blocks,
            background=stack.background,
            **inputs,
        )
        made = {"declared_p": found.declared_p, "reverse_p": found.reverse_p}
        graph.save_all(made, facts=found.facts)
        graph.save_all({"combined": found.figure}, figures=True)
        return CombinedTest(tuple(tests), tuple(directions), graph, title)

    def agreements(self, tests: Sequence[MapTest]) -> list[OverlapTest]:
        """Where a map differs both on the skeleton and without one."""
        by_place = {
            (test.stack.map, test.comparison.contrast.name, test.stack.analysis): test
            for test in tests
            if not test.variant.is_shared and not test.variant.is_adjusted
        }
        return [
            self.both(
                test,
                by_place[name, contrast, "vba"],
                ("±", "±"),
                names=("on the skeleton", "smoothed, without one"),
                desc=f"agreement{name.capitalize()}",
                words=f"{name.upper()} on the skeleton and smoothed, without one, either direction",
                title=f"{name.upper()}, skeleton and VBA",
            )
            for (name, contrast, analysis), test in by_place.items()
            if analysis == "skeleton" and (name, contrast, "vba") in by_place
        ]

    def both(
        self,
        first: MapTest,
        second: MapTest,
        directions: tuple[str, str],
        *,
        names: tuple[str, str],
        desc: str,
        words: str,
        title: str,
    ) -> OverlapTest:
        """Conjunction of two tests on the voxels of the first."""
        stack, contrast = first.stack, first.comparison.contrast
        values = {**values_of(contrast, stack, self.cfg), "desc": desc, "pair_in_words": words}
        graph = self.graph(desc, contrast.name, maps_of([first, second]), values)
        node = Overlap(
            title=f"{words} ({contrast.first} against {contrast.second})",
            names=names,
            background_label=stack.background_label,
            alpha=self.cfg.alpha,
            thickness_mm=stack.thickness_mm,
            space="mni152",
        )
        outputs = [f"{SIDES[d]}_p_fwe" if d in SIDES else "p_two_sided" for d in directions]
        found = graph.step(
            "overlap",
            node,
            first=getattr(first.found, outputs[0]),
            second=getattr(second.found, outputs[1]),
            mask=stack.mask,
            background=stack.background,
        )
        graph.save_all({"overlap": found.p_fwe}, facts=found.facts)
        graph.save_all({"overlap": found.figure}, figures=True)
        return OverlapTest(first, second, directions, graph, title)

    def tables(self, graph: GroupGraph, stack: Stack, model: Model, found: Step) -> None:
        node = TabulateClusters(
            model=model.text,
            unit=unit_of(stack, self.cfg),
            alpha=self.cfg.alpha,
            connectivity=int(self.cfg.cluster_connectivity),
        )
        names = ("t", "d", "difference", "up_p_fwe", "down_p_fwe")
        tables = graph.step(
            "tabulate",
            node,
            stack=stack.array,
            mask=stack.mask,
            atlases=stack.atlases,
            **{name: getattr(found, name) for name in names},
        )
        graph.save_all({"clusters": tables.clusters, "cluster_regions": tables.regions})

    def regions(self, stack: Stack) -> GroupGraph:
        """Means of all regions in all scans, whatever differs."""
        values = {"desc": stack.desc, "res": stack.resolution}
        graph = self.graph(stack.name, "regions", stack.paths, values)
        node = MeasureRegions(labels=list(stack.labels), measure=stack.map, unit=stack.unit)
        found = graph.step(
            "measure", node, stack=stack.array, mask=stack.mask, atlases=stack.atlases
        )
        graph.save("region_means", found.table)
        return graph

    def model_of(self, stack: Stack, comparison: Comparison) -> Model:
        included, cfg = comparison.included, self.cfg
        contrast = comparison.contrast
        rows = [stack.labels.index(label) for label in included["scan"]]
        months = self.months_of(comparison)
        people, weights = visit_weights(list(included["participant_id"]), months, cfg.visit)
        first = included.drop_duplicates("participant_id").set_index("participant_id")
        groups = list(first.loc[people, "group"])
        covariates = comparison.covariates.to_numpy() if comparison.covariates.shape[1] else None
        if contrast.is_change:
            design = change_design(len(people), covariates)
        else:
            design = group_design(groups, contrast.first, contrast.second, covariates)
        return Model(
            scans=rows,
            weights=weights.tolist(),
            matrix=design.matrix.tolist(),
            contrast=design.contrast.tolist(),
            groups=design.groups.tolist(),
            labels=list(contrast.groups),
            # of one group there is one variance
            has_unequal_variances=cfg.variance == "unequal" and not contrast.is_change,
            flips_signs=contrast.is_change or cfg.relabelling == "sign_flips",
            exchanges_all=cfg.correct_across == "contrasts",
        )

    def months_of(self, comparison: Comparison) -> list[float]:
        column, included = self.cfg.time_column, comparison.included
        if self.cfg.visit != "slope":
            return [0.0] * len(included)
        clinical = self.plan.clinical
        found = []
        for who, session in zip(included["participant_id"], included["session_id"], strict=True):
            row = clinical.row_of(who, session)
            found.append(np.nan if row is None else float(row[column]))
        return found

    def enhancement(self, analysis: str) -> dict[str, Any]:
        cfg = self.cfg
        if analysis == "skeleton":
            powers = cfg.skeleton_height_power, cfg.skeleton_extent_power
            connectivity = cfg.skeleton_connectivity
        else:
            powers = cfg.volume_height_power, cfg.volume_extent_power
            connectivity = cfg.volume_connectivity
        names = ("height_power", "extent_power", "connectivity")
        return dict(zip(names, (*powers, int(connectivity)), strict=True))

    def n_relabellings(self, model: Model) -> int:
        partition = partition_design(np.asarray(model.matrix), np.asarray(model.contrast))
        possible = count_relabellings(partition.effect, exchange_of(model))
        return min(possible, self.cfg.n_permutations)

    def sized(
        self,
        node: AlsInterface,
        stack: Stack,
        model: Model,
        *,
        n_maps: int = 1,
        n_covariates: int = 0,
    ) -> AlsInterface:
        share = SKELETON_SHARE if stack.analysis == "skeleton" else 1.0
        n_people, n_voxels = len(model.matrix), int(share * BRAIN_MM3 / stack.voxel_mm**3)
        # each covariate is of one of the maps
        beside = memory_gb(n_people, n_voxels, n_covariates) - memory_gb(n_people, n_voxels)
        node.memory_gb = memory_gb(n_people, n_maps * n_voxels) + beside
        return node


def voxel_label(path: Path) -> str:
    """Voxel size of a map, as file names say it.

    Parameters
    ----------
    path : Path
        Image with cubic voxels.

    Returns
    -------
    str
        Such as ``2``.
    """
    import nibabel as nib

    header: Any = nib.load(path).header
    return label_of(round(float(header.get_zooms()[0]), 3))


def maps_of(tests: Sequence[MapTest]) -> list[Path]:
    """Maps that tests are of, for the sidecars of what is made of them.

    Parameters
    ----------
    tests : sequence of MapTest
        Any.

    Returns
    -------
    list of Path
        Maps of all their scans, and of their covariates, each once.
    """
    return list(dict.fromkeys(path for test in tests for path in test.variant.paths))


def labelled(test: MapTest, direction: str) -> str:
    """Map and direction of a test as part of a file name.

    Parameters
    ----------
    test : MapTest
        One of several that are looked at together.
    direction : str
        ``+`` or ``-``.

    Returns
    -------
    str
        Such as ``TscAdjustedGmUp``.
    """
    name = test.stack.map.capitalize() + test.variant.adjusted_desc
    return name + SIDES[direction].capitalize()


def sets_of(tests: Sequence[MapTest], names: Sequence[str]) -> list[list[MapTest]]:
    """Tests of several maps that can be looked at together.

    Parameters
    ----------
    tests : sequence of MapTest
        All; of several of a map the one of shared participants comes last, and counts.
    names : sequence of str
        Maps.

    Returns
    -------
    list of list of MapTest
        By analysis and contrast, where all maps are there: as they are, and once more with those
        that are adjusted for covariates of every voxel in their place, where any is.
    """
    plain: dict[tuple[str, str, str], MapTest] = {}
    adjusted: dict[tuple[str, str, str], MapTest] = {}
    for test in tests:
        place = (test.stack.analysis, test.comparison.contrast.name, test.stack.map)
        (adjusted if test.variant.is_adjusted else plain)[place] = test
    found = []
    for kind in dict.fromkeys(place[:2] for place in plain):
        places = [(*kind, name) for name in names]
        if all(place in plain for place in places):
            found.append([plain[place] for place in places])
            if any(place in adjusted for place in places):
                found.append([adjusted.get(place, plain[place]) for place in places])
    return found


def require_freedom(variant: Variant, comparison: Comparison, model: Model) -> None:
    """Raise where covariates of every voxel leave nothing to estimate the noise from.

    Parameters
    ----------
    variant : Variant
        Gives the covariates.
    comparison : Comparison
        For the message.
    model : Model
        Of its participants.

    Raises
    ------
    DataError
        If they are as many as the degrees of freedom without them, or more.
    """
    n_covariates = len(variant.covariates)
    freedom = partition_design(np.asarray(model.matrix), model.contrast).degrees_of_freedom
    if n_covariates and freedom <= n_covariates:
        raise DataError(
            f"{comparison.name}: {len(model.matrix)} participants leave {freedom} degrees of "
            f"freedom, of which {n_covariates} go to covariates of every voxel; expected one left "
            "for the noise; take covariates or the contrast out"
        )


def with_only(comparison: Comparison, people: frozenset[str]) -> Comparison:
    """Comparison of some of its participants.

    Parameters
    ----------
    comparison : Comparison
        Of all.
    people : frozenset of str
        Those who stay.

    Returns
    -------
    Comparison
        Rows of scans and covariates in the same order.
    """
    included = comparison.included
    first = included.drop_duplicates("participant_id")
    stays = first["participant_id"].isin(people).to_numpy()
    return replace(
        comparison,
        included=included[included["participant_id"].isin(people)],
        covariates=comparison.covariates[stays],
    )


def is_large_enough(comparison: Comparison) -> bool:
    """Whether each group has the participants that a test takes.

    Parameters
    ----------
    comparison : Comparison
        Any.

    Returns
    -------
    bool
        By the same limits as the plan's.
    """
    n_least = N_LEAST_CHANGE if comparison.contrast.is_change else N_LEAST
    people = comparison.included.drop_duplicates("participant_id")
    return all(
        int((people["group"] == group).sum()) >= n_least for group in comparison.contrast.groups
    )


def shared_covariates(comparisons: Sequence[Comparison]) -> pd.DataFrame:
    """Covariates of several modalities of the same participants, each once.

    Parameters
    ----------
    comparisons : sequence of Comparison
        Of the same participants in the same order.

    Returns
    -------
    DataFrame
        Those of the clinical tables, and the measures of quality of each modality.
    """
    columns: dict[str, Any] = {}
    for comparison in comparisons:
        for name, values in comparison.covariates.items():
            same = name in columns and np.array_equal(columns[name], values.to_numpy())
            columns[
                str(name) if name not in columns or same else f"{name} ({comparison.modality})"
            ] = values.to_numpy()
    return pd.DataFrame(columns, index=range(len(comparisons[0].covariates)))


def fa_target(settings: RunSettings, environment: Mapping[str, str] = os.environ) -> Path | None:
    """FA image to which all are registered, or None for the cohort's own mean.

    Parameters
    ----------
    settings : RunSettings
        What was asked for.
    environment : mapping of str
        Of the process.

    Returns
    -------
    Path or None
        The one that was given; in the mode ``paper`` FSL's FMRIB58_FA, where FSLDIR holds it
        (El Mendili 2022).
    """
    given = group_settings(settings).fa_target
    fsl = Path(environment.get("FSLDIR") or ".") / "data" / "standard" / "FMRIB58_FA_1mm.nii.gz"
    if given is None and settings.mode == "paper" and environment.get("FSLDIR") and fsl.is_file():
        return fsl
    return given


def unit_of(stack: Stack, cfg: GroupSettings) -> str:
    """Unit of what is compared.

    Parameters
    ----------
    stack : Stack
        Maps.
    cfg : GroupSettings
        Settings of the group level.

    Returns
    -------
    str
        Of the maps, or that per month for slopes.
    """
    if cfg.visit != "slope":
        return stack.unit
    return "1/month" if stack.unit == "1" else f"{stack.unit}/month"


def values_of(contrast: Contrast, stack: Stack, cfg: GroupSettings) -> dict[str, str]:
    """What fills the placeholders of the spec for one contrast of one stack.

    Parameters
    ----------
    contrast : Contrast
        Groups.
    stack : Stack
        Maps.
    cfg : GroupSettings
        Settings of the group level.

    Returns
    -------
    dict of str
        Labels of file names and words of descriptions.
    """
    first, second = label_of(contrast.first), label_of(contrast.second)
    second = second[:1].upper() + second[1:]
    words = IN_WORDS.get(stack.analysis, "as a volume") + VISITS[cfg.visit]
    return {
        "up": f"{first}Gt{second}",
        "down": f"{first}Lt{second}",
        "contrast": f"{first}Vs{second}",
        "desc": stack.desc,
        "res": stack.resolution,
        "first": contrast.first,
        "second": contrast.second,
        "unit": unit_of(stack, cfg),
        "map_in_words": f"{stack.map.upper()} {words}",
        "map_title": stack.title,
        "statistic": "Student's t" if cfg.variance == "equal" else "Welch's v",
        "alpha": f"{cfg.alpha:g}",
        "background": stack.background_label,
        "thickened": THICKENED if stack.thickness_mm else "",
    }
