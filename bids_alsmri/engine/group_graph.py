"""Graphs of the group level: results of a cohort in place of those of a scan."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bids_alsmri.bids.query import Scan
from bids_alsmri.bids.sink import file_name
from bids_alsmri.bids.spec import FigureSpec, OutputSpec, fill
from bids_alsmri.engine.graph import Graph, Ref
from bids_alsmri.errors import RunError
from bids_alsmri.interfaces.outputs import NO_SIDECAR, SaveMany

FIGURES = "group/figures"


@dataclass(frozen=True)
class Analysis(Scan):
    """What stands in a graph of the group level where others have a scan.

    Parameters
    ----------
    name : str
        Such as ``als-hc``; with the pipeline, such as ``fa skeleton``, the title in messages.
    """

    name: str = ""

    def __hash__(self) -> int:
        """Hash of what tells analyses of one run apart."""
        return hash((self.pipeline, self.name))

    @property
    def label(self) -> str:
        """Name of the analysis."""
        return self.name


def make_analysis(pipeline: str, name: str, maps: tuple[Path, ...]) -> Analysis:
    """Analysis of some maps.

    Parameters
    ----------
    pipeline, name : str
        What is analysed and how; together unique in a run.
    maps : tuple of Path
        Maps of the participants, for the sidecars.

    Returns
    -------
    Analysis
        Of no single participant.

    Examples
    --------
    >>> make_analysis("fa skeleton", "als-hc", ()).label
    'als-hc'
    """
    return Analysis(pipeline, "", None, {}, {"maps": maps}, {}, name=name)


class GroupGraph(Graph):
    """Builder of one analysis' part of a workflow."""

    def path_of(self, spec: OutputSpec) -> Path:
        """Final path of an output: names have no participant."""
        values = self.surroundings.values
        entities = {key: fill(label, values) for key, label in spec.entities.items()}
        name = file_name(entities, spec.suffix, spec.extension)
        return self.surroundings.output_dir / fill(spec.datatype, values) / name

    def figure_path_of(self, spec: FigureSpec, part: str) -> Path:
        """Final path of a figure; the analysis gives the rest of its name."""
        values = self.surroundings.values
        entities = {"contrast": values.get("contrast", ""), "desc": fill(spec.desc, values) + part}
        name = file_name(entities, spec.suffix, spec.extension)
        return self.surroundings.output_dir / FIGURES / name

    def save_all(
        self, sources: Mapping[str, Ref], *, facts: Ref | None = None, figures: bool = False
    ) -> None:
        """Save what one step made, in one step: a step for each of some twenty maps takes longer.

        Parameters
        ----------
        sources : mapping of Ref
            By the name of the output, or of the figure, in the spec.
        facts : Ref, optional
            JSON file of findings that go into every sidecar.
        figures : bool
            Whether these are figures.

        Raises
        ------
        RunError
            If the spec does not declare one, or two are saved under one name.
        """
        declared = self.spec.figures if figures else self.spec.outputs
        paths: dict[str, Path] = {}
        for name in sources:
            if name not in declared:
                kind = "figure" if figures else "output"
                raise RunError(f"the group level's io_spec.json declares no {kind} {name!r}")
            path = (
                self.figure_path_of(self.spec.figures[name], "")
                if figures
                else self.path_of(self.spec.outputs[name])
            )
            if path in (*self.destinations.values(), *paths.values()):
                raise RunError(f"{self.scan.pipeline} saves two files under one name: {path}")
            paths[name] = path
        sidecars = [
            ""
            if path.suffix in NO_SIDECAR
            else json.dumps(self._sidecar(self.spec.outputs[name]), sort_keys=True)
            for name, path in paths.items()
        ]
        node = SaveMany(destinations=[str(path) for path in paths.values()], sidecars=sidecars)
        prefix = "figure_" if figures else ""
        step = f"save_{prefix}{next(iter(sources))}"
        self.step(step, node, in_files=list(sources.values()), facts=facts)
        self.destinations.update({f"{prefix}{name}": path for name, path in paths.items()})
