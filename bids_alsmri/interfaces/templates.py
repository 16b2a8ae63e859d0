"""Node that brings a template's images into the graph."""

from __future__ import annotations

from typing import Any

from nipype.interfaces.base import File, traits

from bids_alsmri.interfaces.node import AlsInterface, NodeInputSpec, NodeOutputSpec
from bids_alsmri.spaces.templates import get_template


class LoadTemplateInputSpec(NodeInputSpec):
    """Inputs of :class:`LoadTemplate`."""

    name = traits.Str(mandatory=True, desc="template space")
    resolution_mm = traits.Float(mandatory=True, desc="voxel size, mm")


class LoadTemplateOutputSpec(NodeOutputSpec):
    """Outputs of :class:`LoadTemplate`."""

    t1w = File(exists=True, desc="brain")
    mask = File(exists=True, desc="brain mask")
    gm = File(exists=True, desc="probability of grey matter")
    wm = File(exists=True, desc="probability of white matter")
    csf = File(exists=True, desc="probability of cerebrospinal fluid")


class LoadTemplate(AlsInterface):
    """Images of a template at a voxel size."""

    input_spec = LoadTemplateInputSpec
    output_spec = LoadTemplateOutputSpec
    memory_gb = 1.0

    def _run_interface(self, runtime: Any) -> Any:
        template = get_template(self.inputs.name, self.inputs.resolution_mm)
        paths = template.save(self.file(runtime, ".").resolve())
        return self.give(runtime, dict(paths))
