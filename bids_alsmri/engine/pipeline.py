"""Record of a pipeline, and the registry that finds them."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from bids_alsmri import pipelines
from bids_alsmri.bids.query import Scan
from bids_alsmri.bids.spec import IoSpec, load_io_spec
from bids_alsmri.errors import SettingsError
from bids_alsmri.options import SettingsModel


def nothing_beside(scan: Scan) -> list[Path]:
    """Images of other scans that a report shows: none.

    Parameters
    ----------
    scan : Scan
        Any.

    Returns
    -------
    list of Path
        Empty.
    """
    return []


def nothing_foreign(root: Path, participant: str, session: str | None) -> dict[str, Path]:
    """No files of other programs.

    Parameters
    ----------
    root : Path
        Not looked at.
    participant : str
        Not looked at.
    session : str or None
        Not looked at.

    Returns
    -------
    dict of Path
        Empty.
    """
    return {}


@dataclass(frozen=True)
class Pipeline:
    """One modality's pipeline, as its folder declares it.

    Parameters
    ----------
    name : str
        Name of the folder and of the option group.
    title : str
        Heading in help and reports.
    settings : type
        Model of its settings.
    primary : str
        Input whose files make a scan.
    group_by : callable
        From the pipeline's settings to the entities that, beside participant and session, keep
        scans apart.
    needs : tuple of str
        Pipelines whose results it uses where they are to be had.
    adopts : tuple of tuple of str
        Groups of outputs that are taken from ``--derivatives`` where a dataset holds the group.
    drawn : tuple of str
        Outputs of stations that are taken from every dataset of ``--derivatives`` that has them:
        what people drew. Of the second dataset and later ones they are kept apart.
    foreign : callable
        From the folder of a derivative dataset, participant and session (labels, or None) to files
        that stand for none of its outputs, by name, such as FreeSurfer's.
    without_needs : str
        What report and plan say where nothing of what it needs is to be had.
    atlas_grid_mm : str
        Setting with the voxel size at which it takes atlases, for scans that build on what it
        needs; empty where it takes none.
    group_tables : str
        Function that makes further tables of the group level from its collected ones and the
        clinical table, as ``module:function`` of its folder; ``sidecar_of`` of that module tells
        what their columns are. Empty for none.
    visit_scores : str
        Function that makes scores of each visit of the same, in the same form: a table with
        participant_id, session_id, score and value, in units of 1. Empty for none.
    beside : callable
        From a scan to images of others that its report shows beside its own.
    """

    name: str
    title: str
    settings: type[SettingsModel]
    primary: str
    group_by: Callable[[Any], tuple[str, ...]]
    needs: tuple[str, ...] = ()
    adopts: tuple[tuple[str, ...], ...] = ()
    drawn: tuple[str, ...] = ()
    foreign: Callable[[Path, str, str | None], dict[str, Path]] = nothing_foreign
    without_needs: str = ""
    atlas_grid_mm: str = ""
    group_tables: str = ""
    visit_scores: str = ""
    beside: Callable[[Scan], list[Path]] = nothing_beside

    @property
    def folder(self) -> Path:
        """Folder that holds the pipeline's five files."""
        return Path(str(pipelines.__path__[0])) / self.name

    @property
    def io_spec(self) -> IoSpec:
        """What it reads and writes."""
        return _spec_of(self.folder / "io_spec.json")

    @property
    def workflow(self) -> ModuleType:
        """Module with ``fit`` and ``apply``; importing it loads nipype."""
        return import_module(f"bids_alsmri.pipelines.{self.name}.workflow")


@cache
def _spec_of(path: Path) -> IoSpec:
    return load_io_spec(path)


@cache
def registry() -> Mapping[str, Pipeline]:
    """Pipelines by name, each after those that it needs.

    Returns
    -------
    mapping of Pipeline
        Every folder below ``pipelines`` that has a ``pipeline.py``.

    Raises
    ------
    SettingsError
        If pipelines need each other in a circle or one that does not exist.

    Examples
    --------
    >>> list(registry())[:1]
    ['anatomical']
    """
    found = {}
    for module in pkgutil.iter_modules(pipelines.__path__):
        record = import_module(f"bids_alsmri.pipelines.{module.name}.pipeline").PIPELINE
        found[record.name] = record
    ordered: dict[str, Pipeline] = {}
    while len(ordered) < len(found):
        ready = [n for n, p in found.items() if n not in ordered and set(p.needs) <= set(ordered)]
        if not ready:
            left = ", ".join(sorted(set(found) - set(ordered)))
            raise SettingsError(f"pipelines {left} need each other or one that does not exist")
        ordered.update({name: found[name] for name in sorted(ready)})
    return MappingProxyType(ordered)


def with_needs(names: tuple[str, ...]) -> tuple[str, ...]:
    """Names of pipelines and of those that they need, in the order of the registry.

    Parameters
    ----------
    names : tuple of str
        Pipelines asked for; all if empty.

    Returns
    -------
    tuple of str
        Names to run.

    Examples
    --------
    >>> with_needs(("diffusion",))
    ('anatomical', 'diffusion')
    """
    if not names:
        return tuple(registry())
    wanted = set(names)
    for name in reversed(list(registry())):
        if name in wanted:
            wanted.update(registry()[name].needs)
    return tuple(name for name in registry() if name in wanted)
