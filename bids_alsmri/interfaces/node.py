"""Base of the package's nipype interfaces."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nipype.interfaces.base import (
    BaseInterface,
    BaseInterfaceInputSpec,
    SimpleInterface,
    TraitedSpec,
    traits,
)

from bids_alsmri.errors import AlsMriError
from bids_alsmri.version import VERSION


class NodeInputSpec(BaseInterfaceInputSpec):
    """Inputs that every interface has."""

    # nipype hashes inputs and not code: a new version must make every node run again
    package_version = traits.Str(VERSION, usedefault=True, desc="version of bids_alsmri")


class NodeOutputSpec(TraitedSpec):
    """Outputs that every interface may give."""


@dataclass(frozen=True)
class SeriesSize:
    """Size of the largest series that a scan's steps work on.

    Parameters
    ----------
    n_voxels : int
        Voxels of one volume.
    n_volumes : int
        Volumes of all runs together.
    voxel_mm : tuple of float
        Edges of a voxel, in mm.
    """

    n_voxels: int
    n_volumes: int
    voxel_mm: tuple[float, float, float]

    @property
    def gb(self) -> float:
        """Memory of the series as float32, in GB."""
        return self.gb_at(self.n_voxels)

    def gb_at(self, n_voxels: float) -> float:
        """Memory of as many volumes of another number of voxels, as float32, in GB."""
        return 4e-9 * n_voxels * self.n_volumes

    def n_voxels_at(self, edge_mm: float) -> float:
        """Voxels that its field of view holds at another edge, in mm; 0 for the shortest."""
        return self.n_voxels * math.prod(self.voxel_mm) / (edge_mm or min(self.voxel_mm)) ** 3


NO_SERIES = SeriesSize(0, 0, (1.0, 1.0, 1.0))


class AlsInterface(SimpleInterface):
    """Interface that loads files, calls one function and saves its results.

    Parameters
    ----------
    memory_gb : float
        Largest memory that it takes, in GB, beside what grows with the series.
    memory_per_series : float
        Memory that it takes for each GB of the scan's largest series as float32.
    memory_per_anatomy : float
        The same for the largest image of the scans that the scan builds on, such as the T1w.
    n_threads : int
        Threads that it starts itself; an input ``n_threads`` wins over it.
    """

    memory_gb = 0.5
    memory_per_series = 0.0
    memory_per_anatomy = 0.0
    n_threads = 1

    def needed_gb(self, series: SeriesSize) -> float:
        """Memory that it takes in a scan with a series of this size, in GB."""
        return self.memory_gb + self.memory_per_series * series.gb

    def __init_subclass__(cls, **arguments: Any) -> None:
        """Make the node's errors name their exit code: only their text leaves its process."""
        super().__init_subclass__(**arguments)
        if "_run_interface" in vars(cls):
            cls._run_interface = _naming_exit_code(vars(cls)["_run_interface"])

    def file(self, runtime: Any, name: str) -> Path:
        """Path of a result in the node's own folder."""
        return Path(runtime.cwd) / name

    def give(self, runtime: Any, results: dict[str, Any]) -> Any:
        """Store the node's results by the names of its outputs; paths become text."""
        for name, value in results.items():
            self._results[name] = str(value) if isinstance(value, Path) else value
        return runtime


def needed_gb(
    interface: BaseInterface, *, series: SeriesSize, anatomy: SeriesSize = NO_SERIES
) -> float:
    """Memory that a step takes, in GB.

    Parameters
    ----------
    interface : nipype interface
        What it runs.
    series : SeriesSize
        The scan's largest series.
    anatomy : SeriesSize
        Largest image of the scans that it builds on.

    Returns
    -------
    float
        Of interfaces that are not ours, what those of ours take that declare nothing.
    """
    if isinstance(interface, AlsInterface):
        return interface.needed_gb(series) + interface.memory_per_anatomy * anatomy.gb
    return AlsInterface.memory_gb


def _naming_exit_code(run_interface: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(run_interface)
    def run(self: AlsInterface, runtime: Any) -> Any:
        try:
            return run_interface(self, runtime)
        except AlsMriError as error:
            error.add_note(f"exit code {int(error.exit_code)}")
            raise

    return run


def write_facts(path: Path, facts: dict[str, Any]) -> Path:
    """Write a node's findings as JSON with sorted keys, and return the path.

    Parameters
    ----------
    path : Path
        File to write.
    facts : dict
        Values that JSON can hold.

    Returns
    -------
    Path
        `path`.
    """
    path.write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return path
