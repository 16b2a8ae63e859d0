"""The only node that writes to the output folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from nipype.interfaces.base import File, InputMultiObject, OutputMultiObject, isdefined, traits

from bids_alsmri.bids.sink import sidecar_path, write_atomically, write_json
from bids_alsmri.errors import RunError
from bids_alsmri.interfaces.base import pack
from bids_alsmri.interfaces.node import AlsInterface, NodeInputSpec, NodeOutputSpec

NO_SIDECAR = (".bval", ".bvec", ".json", ".svg", ".png", ".webp", ".html")


class SaveDerivativeInputSpec(NodeInputSpec):
    """Inputs of :class:`SaveDerivative`."""

    in_file = File(exists=True, mandatory=True, desc="file to save")
    destination = traits.Str(mandatory=True, desc="final path")
    sidecar = traits.Str(mandatory=True, desc="JSON text of the sidecar, empty for none")
    facts = File(desc="JSON file of findings that go into the sidecar")


class SaveDerivativeOutputSpec(NodeOutputSpec):
    """Outputs of :class:`SaveDerivative`."""

    out_file = File(exists=True, desc="the saved file")


def _copy(source: Path, destination: Path) -> None:
    shutil.copyfile(source, destination)


def _writer(source: Path, destination: Path) -> Callable[[Path, Path], None]:
    """How the file comes under its final name."""
    if source.suffix == destination.suffix:
        return _copy
    if source.suffix == ".nii" and destination.name.endswith(".nii.gz"):
        return pack
    raise RunError(
        f"{source.name} is to be saved as {destination.name}, which would belie its "
        f"format; give the output the extension {source.suffix!r} in io_spec.json"
    )


class SaveDerivative(AlsInterface):
    """Save a file and its sidecar under their final names, whole or not at all."""

    input_spec = SaveDerivativeInputSpec
    output_spec = SaveDerivativeOutputSpec
    # the output folder is not part of nipype's cache, so a removed file must be written again
    _always_run = True
    memory_gb = 0.1

    def _run_interface(self, runtime: Any) -> Any:
        destination = Path(self.inputs.destination)
        facts = Path(self.inputs.facts) if isdefined(self.inputs.facts) else None
        _save(Path(self.inputs.in_file), destination, self.inputs.sidecar, facts)
        return self.give(runtime, {"out_file": destination})


def _save(source: Path, destination: Path, sidecar_text: str, facts: Path | None) -> None:
    write = _writer(source, destination)
    if sidecar_text:
        sidecar = json.loads(sidecar_text)
        if facts is not None:
            sidecar.update(json.loads(facts.read_text(encoding="utf-8")))
        # first, since the new file is what tells that all of this was done
        write_json(sidecar_path(destination), sidecar)
    write_atomically(destination, partial(write, source))


class SaveManyInputSpec(NodeInputSpec):
    """Inputs of :class:`SaveMany`."""

    in_files = InputMultiObject(File(exists=True), mandatory=True, desc="files to save")
    destinations = traits.List(traits.Str(), mandatory=True, desc="final paths, in this order")
    sidecars = traits.List(traits.Str(), mandatory=True, desc="JSON texts, empty for none")
    facts = File(desc="JSON file of findings that go into every sidecar")


class SaveManyOutputSpec(NodeOutputSpec):
    """Outputs of :class:`SaveMany`."""

    out_files = OutputMultiObject(File(exists=True), desc="the saved files")


class SaveMany(AlsInterface):
    """Save files that one step made together, each as :class:`SaveDerivative` does."""

    input_spec = SaveManyInputSpec
    output_spec = SaveManyOutputSpec
    _always_run = True
    memory_gb = 0.1

    def _run_interface(self, runtime: Any) -> Any:
        facts = Path(self.inputs.facts) if isdefined(self.inputs.facts) else None
        paths = [Path(path) for path in self.inputs.destinations]
        for source, path, text in zip(
            self.inputs.in_files, paths, self.inputs.sidecars, strict=True
        ):
            _save(Path(source), path, text, facts)
        return self.give(runtime, {"out_files": [str(path) for path in paths]})
