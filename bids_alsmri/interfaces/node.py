"""Base of the package's nipype interfaces."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nipype.interfaces.base import (
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


class AlsInterface(SimpleInterface):
    """Interface that loads files, calls one function and saves its results.

    Parameters
    ----------
    memory_gb : float
        Largest memory that it takes on the images it was made for, in GB.
    n_threads : int
        Threads that it starts itself; an input ``n_threads`` wins over it.
    """

    memory_gb = 0.5
    n_threads = 1

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
