"""Steps as values: a thin builder over a nipype workflow, checked while it is built."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import nipype.pipeline.engine as pe
from nipype.interfaces.base import BaseInterface
from nipype.interfaces.utility import Merge

from bids_alsmri.bids.query import Scan
from bids_alsmri.bids.sink import bids_uri, figure_path, output_path, sidecar, sidecar_path
from bids_alsmri.bids.spec import FigureSpec, IoSpec, OutputSpec, fill, of_station, output_name
from bids_alsmri.bids.stations import Station
from bids_alsmri.errors import RunError
from bids_alsmri.interfaces.outputs import NO_SIDECAR, SaveDerivative


@dataclass(frozen=True)
class Ref:
    """One output of a step that will have run."""

    node: pe.Node
    output: str


class Step:
    """A step of the graph; its attributes are references to its outputs."""

    def __init__(self, node: pe.Node) -> None:
        self._node = node

    def __getattr__(self, output: str) -> Ref:
        if output.startswith("_"):
            raise AttributeError(output)
        # of the interface: a node that maps over items tells its outputs only when it has run
        names = self._node.interface._outputs().copyable_trait_names()
        if output not in names:
            raise RunError(
                f"step {self._node.name} has no output {output!r}; it has "
                f"{', '.join(sorted(names))}"
            )
        return Ref(self._node, output)


Source = Ref | Path | str | int | float | bool | None | list[Any] | tuple[Any, ...]


@dataclass(frozen=True)
class AtlasSource:
    """Where the atlases of a run come from.

    Parameters
    ----------
    folder : str
        Of those in FSL's form; empty where none was given.
    threshold_percent : float
        Probability from which a voxel belongs to a region of a probabilistic one.
    names : tuple of str
        All that are at hand for the scan.
    has_motor_areas : bool
        Whether the embedded ones are among them.
    """

    folder: str
    threshold_percent: float
    names: tuple[str, ...]
    has_motor_areas: bool


NO_ATLASES = AtlasSource("", 0.0, (), False)


@dataclass(frozen=True)
class Surroundings:
    """What all graphs of a run share.

    Parameters
    ----------
    output_dir : Path
        Folder of the derivatives.
    roots : mapping
        Dataset name to folder, for BIDS URIs.
    values : mapping
        What fills the placeholders of the specs, such as ``template``.
    seed : int
        Seed of the run.
    n_threads : int
        Threads inside one step.
    version : str
        Version of the app.
    n_procs : int
        Processes of the run, which a step that does many things side by side may take.
    """

    output_dir: Path
    roots: Mapping[str, Path]
    values: Mapping[str, str]
    seed: int
    n_threads: int
    version: str
    n_procs: int = 1


def declared_gb(interface: BaseInterface) -> float:
    """Memory that an interface declares whatever the scan, in GB.

    Parameters
    ----------
    interface : nipype interface
        What a step runs.

    Returns
    -------
    float
        0.5 where it declares nothing.
    """
    return float(getattr(interface, "memory_gb", 0.5))


def _without_folders(settings: Mapping[str, Any]) -> dict[str, Any]:
    # where a file lies on one computer tells others nothing, and may name people
    return {
        name: Path(value).name if isinstance(value, str) and value.startswith(os.sep) else value
        for name, value in settings.items()
    }


@dataclass
class Graph:
    """Builder of one scan's part of a workflow.

    Parameters
    ----------
    workflow : nipype Workflow
        Takes the nodes of all scans.
    scan : Scan
        The scan whose files are processed.
    spec : IoSpec
        What the pipeline reads and writes.
    settings : mapping of mapping
        Settings of the stages ``fit`` and ``apply``, for the sidecars: a fit depends on the first
        alone, what is made of it on both.
    surroundings : Surroundings
        What all graphs of the run share.
    upstream : mapping
        Results of the pipelines that this one builds on, by pipeline and output.
    needed_gb : callable
        From an interface to the memory that it takes on this scan, in GB.
    atlases : AtlasSource
        Atlases whose regions the scan is measured in.
    """

    workflow: pe.Workflow
    scan: Scan
    spec: IoSpec
    settings: Mapping[str, Mapping[str, Any]]
    surroundings: Surroundings
    upstream: Mapping[str, Mapping[str, Ref | Path]] = field(default_factory=dict)
    needed_gb: Callable[[BaseInterface], float] = declared_gb
    results: dict[str, Ref | Path] = field(default_factory=dict)
    destinations: dict[str, Path] = field(default_factory=dict)
    nodes: list[pe.Node] = field(default_factory=list)
    adopted: dict[str, Path] = field(default_factory=dict)
    made_by_fit: frozenset[str] = frozenset()
    atlases: AtlasSource = NO_ATLASES

    @property
    def n_threads(self) -> int:
        """Threads inside a step whose result does not depend on them."""
        return self.surroundings.n_threads

    @property
    def n_procs(self) -> int:
        """Processes of the run, for a step that registers many images side by side."""
        return self.surroundings.n_procs

    @property
    def template(self) -> str:
        """Name of the template space of the run."""
        return self.surroundings.values["template"]

    def files(self, name: str) -> list[Path]:
        """Files of an input or of its companions, in one order; empty where there are none."""
        if name not in self.scan.inputs:
            raise RunError(
                f"pipeline {self.scan.pipeline} declares no input {name!r}; it has "
                f"{', '.join(self.scan.inputs)}"
            )
        return list(self.scan.inputs[name])

    def metadata(self, name: str) -> list[dict[str, Any]]:
        """Sidecars of the files of an input, in the same order."""
        return [dict(self.scan.metadata.get(path, {})) for path in self.files(name)]

    def step(
        self, name: str, interface: BaseInterface, *, each: tuple[str, ...] = (), **inputs: Source
    ) -> Step:
        """Add one step, and connect its inputs to files, values or other steps' outputs.

        Parameters
        ----------
        name : str
            Name of the step, unique in the scan's graph.
        interface : nipype interface
            What it runs, with the settings as its inputs.
        each : tuple of str
            Inputs that are lists: the step runs once for each of their items.
        **inputs : Ref, Path or value
            References to other steps' outputs, files or values.

        Returns
        -------
        Step
            The step, whose attributes are references to its outputs.

        Raises
        ------
        RunError
            If an input does not exist, or a mandatory one is left open, or the scan has a step of
            that name already.
        """
        if self._full_name(name) in {node.name for node in self.nodes}:
            raise RunError(f"{self.scan.pipeline} has two steps called {name!r}")
        known = interface.inputs.copyable_trait_names()
        for given in inputs:
            if given not in known:
                raise RunError(
                    f"step {name} has no input {given!r}; it has {', '.join(sorted(known))}"
                )
        if "seed" in known and "seed" not in inputs:
            inputs["seed"] = self.seed_of(name)
        node = self._node(name, interface, each)
        self.workflow.add_nodes([node])
        self.nodes.append(node)
        for given, source in inputs.items():
            if isinstance(source, Ref):
                self.workflow.connect(source.node, source.output, node, given)
            elif isinstance(source, list | tuple) and any(isinstance(i, Ref) for i in source):
                self._connect_list(node, given, list(source))
            elif source is not None:
                setattr(node.inputs, given, str(source) if isinstance(source, Path) else source)
        self._require_mandatory(node, interface, inputs)
        return Step(node)

    def _connect_list(self, node: pe.Node, given: str, sources: list[Any]) -> None:
        step = node.name.removeprefix(self._full_name(""))
        name = self._full_name(f"list_{step}_{given}")
        join = pe.Node(Merge(len(sources)), name=name, mem_gb=0.1)
        self.nodes.append(join)
        for index, source in enumerate(sources, start=1):
            if isinstance(source, Ref):
                self.workflow.connect(source.node, source.output, join, f"in{index}")
            else:
                setattr(join.inputs, f"in{index}", str(source))
        self.workflow.connect(join, "out", node, given)

    def _node(self, name: str, interface: BaseInterface, each: tuple[str, ...]) -> pe.Node:
        full_name = self._full_name(name)
        threads = getattr(interface.inputs, "n_threads", None)
        n_procs = threads if isinstance(threads, int) else getattr(interface, "n_threads", 1)
        memory_gb = self.needed_gb(interface)
        if each:
            return pe.MapNode(
                interface, iterfield=list(each), name=full_name, n_procs=n_procs, mem_gb=memory_gb
            )
        return pe.Node(interface, name=full_name, n_procs=n_procs, mem_gb=memory_gb)

    def _full_name(self, name: str) -> str:
        return re.sub(r"\W", "_", f"{self.scan.label}_{self.scan.pipeline}_{name}")

    def _require_mandatory(
        self, node: pe.Node, interface: BaseInterface, inputs: Mapping[str, Source]
    ) -> None:
        for trait in interface.inputs.traits(mandatory=True):
            is_set = str(getattr(node.inputs, trait, "<undefined>")) not in ("<undefined>", "[]")
            if inputs.get(trait) is None and not is_set:
                raise RunError(f"step {node.name} lacks its mandatory input {trait!r}")

    def seed_of(self, name: str) -> int:
        """Seed of a step, derived from the run's seed, the scan and the step's name."""
        text = f"{self.surroundings.seed}/{self.scan.label}/{self.scan.pipeline}/{name}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1

    def save(
        self,
        name: str,
        source: Ref | Path,
        *,
        facts: Ref | None = None,
        station: Station | None = None,
    ) -> None:
        """Save a step's output under the name and with the sidecar that the spec declares.

        Parameters
        ----------
        name : str
            Output in the pipeline's ``io_spec.json``.
        source : Ref or Path
            What to save.
        facts : Ref, optional
            JSON file of findings that go into the sidecar.
        station : Station, optional
            That it belongs to and is named after, of an output that there are many of.

        Raises
        ------
        RunError
            If the spec has no such output, it is saved twice, or a station is given where the spec
            knows of none, or the reverse.
        """
        spec = self.spec.outputs.get(name)
        if spec is None:
            raise RunError(f"{self.scan.pipeline}/io_spec.json declares no output {name!r}")
        if spec.many != (station is not None):
            raise RunError(
                f"{self.scan.pipeline}: output {name!r} is saved "
                f"{'without' if station is None else 'with'} a station, against its entry in "
                "io_spec.json (many)"
            )
        if station is None:
            path = self.path_of(spec)
        else:
            scan = replace(self.scan, entities=station.entities)
            spec = replace(spec, datatype=spec.datatype or station.datatype)
            place = self.surroundings
            path = output_path(place.output_dir, scan, spec, place.values)
        has_own = path.suffix not in NO_SIDECAR and not self._is_described(path)
        files = None if station is None else station.files
        text = json.dumps(self._sidecar(spec, files), sort_keys=True) if has_own else ""
        key = "" if station is None else station.key
        self._save(of_station(name, key), source, path, text, facts)

    def path_of(self, spec: OutputSpec) -> Path:
        """Final path of an output that belongs to no station."""
        place = self.surroundings
        return output_path(place.output_dir, self.scan, spec, place.values)

    def _is_described(self, path: Path) -> bool:
        """Whether a file saved before has the sidecar of this one: a label image and its table."""
        described = {
            sidecar_path(p) for p in self.destinations.values() if p.suffix not in NO_SIDECAR
        }
        return sidecar_path(path) in described

    def figure(self, name: str, source: Ref, *, part: str = "") -> None:
        """Save a figure of the report.

        Parameters
        ----------
        name : str
            Figure in the pipeline's ``io_spec.json``.
        source : Ref
            The drawn file.
        part : str
            ``before`` or ``after`` for a pair that the report flickers between.

        Raises
        ------
        RunError
            If the spec has no such figure, or it is saved twice.
        """
        spec = self.spec.figures.get(name)
        if spec is None:
            raise RunError(f"{self.scan.pipeline}/io_spec.json declares no figure {name!r}")
        path = self.figure_path_of(spec, part)
        self._save(f"figure_{name}{part}", source, path, "", None)

    def figure_path_of(self, spec: FigureSpec, part: str) -> Path:
        """Final path of a figure, or of one of the two parts of a pair."""
        return figure_file(self.surroundings.output_dir, self.scan, spec, part)

    def _save(
        self, name: str, source: Ref | Path, path: Path, sidecar_text: str, facts: Ref | None
    ) -> None:
        if name in self.destinations or path in self.destinations.values():
            raise RunError(
                f"{self.scan.pipeline} saves {name!r} twice for {self.scan.label}, or two outputs "
                f"under one name: {path}"
            )
        node = SaveDerivative(destination=str(path), sidecar=sidecar_text)
        step = self.step(f"save_{name}", node, in_file=source, facts=facts)
        self.destinations[name] = path
        if output_name(name) in self.spec.outputs:
            self.results[name] = step.out_file

    def _sidecar(self, spec: OutputSpec, files: Sequence[Path] | None = None) -> dict[str, Any]:
        place = self.surroundings
        paths = [path for name in self.spec.inputs for path in self.scan.inputs.get(name, ())]
        paths = paths if files is None else list(files)
        paths += [*sorted(self.adopted.values()), *self.upstream_files()]
        depends_on_all = {**self.settings["fit"], **self.settings["apply"]}
        content = sidecar(
            self.scan,
            spec,
            sources=[bids_uri(path, place.roots) for path in paths],
            settings=_without_folders(
                self.settings["fit"] if spec.stage == "fit" else depends_on_all
            ),
            version=place.version,
            values=place.values,
        )
        if "space" in spec.entities and not fill(spec.entities["space"], place.values):
            content.pop("SpatialReference", None)
        return content

    def upstream_files(self) -> list[Path]:
        """Files of the pipelines that this one builds on, whether made in this run or before."""
        results = [result for saved in self.upstream.values() for result in saved.values()]
        return sorted(
            Path(result.node.inputs.destination) if isinstance(result, Ref) else result
            for result in results
        )

    def saved(self, name: str) -> Ref | Path | None:
        """Result of the fit: a reference if it is made in this run, a path if it is reused."""
        if name not in self.spec.outputs:
            raise RunError(f"{self.scan.pipeline}/io_spec.json declares no output {name!r}")
        return self.results.get(name)

    def from_pipeline(self, pipeline: str, name: str) -> Ref | Path | None:
        """Result of another pipeline for the same participant, or None where there is none."""
        return self.upstream.get(pipeline, {}).get(name)


def figure_file(output_dir: Path, scan: Scan, spec: FigureSpec, part: str) -> Path:
    """Path of a figure, or of one of the two parts of a pair.

    Parameters
    ----------
    output_dir : Path
        Folder of the derivatives.
    scan : Scan
        Its scan.
    spec : FigureSpec
        The figure.
    part : str
        Empty, ``before`` or ``after``.

    Returns
    -------
    Path
        Where it is kept.
    """
    return figure_path(output_dir, scan, replace(spec, desc=spec.desc + part))
