"""Node that brings atlases to the grid of maps, and their file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import File, traits

from bids_alsmri.interfaces.base import read_image
from bids_alsmri.interfaces.images import optional_path
from bids_alsmri.interfaces.node import AlsInterface, NodeInputSpec, NodeOutputSpec, write_facts
from bids_alsmri.spaces.atlases import Atlas, Region, load_atlases, on_grid
from bids_alsmri.spaces.templates import get_template


class PrepareAtlasesInputSpec(NodeInputSpec):
    """Inputs of :class:`PrepareAtlases`."""

    template = traits.Str(mandatory=True, desc="template space")
    resolution_mm = traits.Float(mandatory=True, desc="voxel size of the template, mm")
    reference = File(exists=True, mandatory=True, desc="image whose grid the atlases take")
    atlas_dir = traits.Str(desc="folder of atlases in FSL's XML form")
    threshold_percent = traits.Float(
        mandatory=True, desc="probability from which a voxel belongs to a region, %"
    )


class PrepareAtlasesOutputSpec(NodeOutputSpec):
    """Outputs of :class:`PrepareAtlases`."""

    atlases = File(exists=True, desc="labels of all atlases on the grid, .npz")
    facts = File(exists=True, desc="findings, JSON")


class PrepareAtlases(AlsInterface):
    """Bring all atlases at hand to the grid of the maps."""

    input_spec = PrepareAtlasesInputSpec
    output_spec = PrepareAtlasesOutputSpec
    # half of it for FSL's, of 1 mm
    memory_gb = 0.9
    # atlases come from the environment, which is no input
    _always_run = True

    def _run_interface(self, runtime: Any) -> Any:
        reference = read_image(Path(self.inputs.reference), ndim=3)
        atlases = load_atlases(
            get_template(self.inputs.template, self.inputs.resolution_mm),
            atlas_dir=optional_path(self.inputs.atlas_dir),
            threshold_percent=self.inputs.threshold_percent,
        )
        placed = [
            on_grid(atlas, reference.data.shape, reference.affine, space=self.inputs.template)
            for atlas in atlases
        ]
        path = self.file(runtime, "atlases.npz")
        write_atlases(placed, path)
        facts = {
            "Atlases": [f"{atlas.name} ({atlas.space})" for atlas in placed],
            "Warnings": [warning for atlas in placed for warning in atlas.warnings],
        }
        return self.give(
            runtime,
            {"atlases": path, "facts": write_facts(self.file(runtime, "facts.json"), facts)},
        )


def write_atlases(atlases: Sequence[Atlas], path: Path) -> None:
    """Keep atlases in one file.

    Parameters
    ----------
    atlases : sequence of Atlas
        On one grid.
    path : Path
        Ending in .npz.
    """
    about = [
        {
            "name": atlas.name,
            "space": atlas.space,
            "origin": atlas.origin,
            "warnings": list(atlas.warnings),
            "regions": [asdict(region) for region in atlas.regions],
        }
        for atlas in atlases
    ]
    arrays: dict[str, Any] = {"about": np.array(json.dumps(about))}
    for i, atlas in enumerate(atlases):
        arrays |= {f"labels_{i}": atlas.labels, f"affine_{i}": atlas.affine}
    np.savez_compressed(path, **arrays)


def read_atlases(path: Path) -> list[Atlas]:
    """Atlases of a file.

    Parameters
    ----------
    path : Path
        As of `write_atlases`.

    Returns
    -------
    list of Atlas
        Equal to those written.
    """
    with np.load(path) as arrays:
        about = json.loads(str(arrays["about"]))
        return [
            Atlas(
                name=entry["name"],
                space=entry["space"],
                regions=tuple(Region(**region) for region in entry["regions"]),
                labels=arrays[f"labels_{i}"],
                affine=arrays[f"affine_{i}"],
                origin=entry["origin"],
                warnings=tuple(entry["warnings"]),
            )
            for i, entry in enumerate(about)
        ]
