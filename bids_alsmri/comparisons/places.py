"""Nodes that tell where differences lie: tables of clusters and of regions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from nipype.interfaces.base import File, traits
from numpy.typing import NDArray

from bids_alsmri.comparisons.clusters import (
    ContrastMaps,
    describe_regions,
    find_clusters,
    overlap_regions,
    region_means,
)
from bids_alsmri.comparisons.voxelwise import Model
from bids_alsmri.interfaces.atlases import read_atlases
from bids_alsmri.interfaces.base import ImageData, read_image
from bids_alsmri.interfaces.node import AlsInterface, NodeInputSpec, NodeOutputSpec

# of a cluster; regions with less are in the table of regions alone
NAMED_SHARE = 0.05


class TabulateInputSpec(NodeInputSpec):
    """Inputs of :class:`TabulateClusters`."""

    stack = File(exists=True, mandatory=True, desc="maps of all scans")
    mask = File(exists=True, mandatory=True, desc="voxels of the stack")
    model = traits.Str(mandatory=True, desc="JSON text of a Model")
    t = File(exists=True, mandatory=True, desc="statistic")
    d = File(exists=True, mandatory=True, desc="Cohen's d")
    difference = File(exists=True, mandatory=True, desc="difference in units of the map")
    up_p_fwe = File(exists=True, mandatory=True, desc="corrected p-values, first above second")
    down_p_fwe = File(exists=True, mandatory=True, desc="corrected p-values, first below second")
    atlases = File(exists=True, mandatory=True, desc="atlases on the grid")
    unit = traits.Str(mandatory=True, desc="of the maps")
    alpha = traits.Float(mandatory=True, desc="corrected p-value that is reported")
    connectivity = traits.Enum(6, 18, 26, mandatory=True, desc="neighbours of a voxel")


class TabulateOutputSpec(NodeOutputSpec):
    """Outputs of :class:`TabulateClusters`."""

    clusters = File(exists=True, desc="table of clusters")
    regions = File(exists=True, desc="table of the regions that they lie in")


class TabulateClusters(AlsInterface):
    """List the connected voxels that differ, and the regions that they lie in."""

    input_spec = TabulateInputSpec
    output_spec = TabulateOutputSpec
    memory_gb = 1.0

    def _run_interface(self, runtime: Any) -> Any:
        mask = read_image(Path(self.inputs.mask), ndim=3)
        maps = read_contrast(self.inputs, mask)
        model = Model.read(self.inputs.model)
        found = find_clusters(
            maps,
            alpha=self.inputs.alpha,
            connectivity=self.inputs.connectivity,
            groups=model.by_group(np.load(self.inputs.stack, mmap_mode="r")),
        )
        overlap = overlap_regions(found, maps, read_atlases(Path(self.inputs.atlases)))
        table = found.table
        table.insert(1, "direction", np.where(table["t"] > 0, "above", "below"))
        table["regions"] = [
            describe_regions(overlap, number, least_share=NAMED_SHARE)
            for number in table["cluster"]
        ]
        results = {name: self.file(runtime, f"{name}.tsv") for name in ("clusters", "regions")}
        write_tsv(table, results["clusters"])
        write_tsv(overlap, results["regions"])
        return self.give(runtime, results)


def read_contrast(inputs: Any, mask: ImageData) -> ContrastMaps:
    """Results of a contrast within its mask, both directions as one.

    Parameters
    ----------
    inputs : TabulateInputSpec
        Give the images.
    mask : ImageData
        Voxels that were tested.

    Returns
    -------
    ContrastMaps
        p of each voxel is that of its own direction.
    """
    inside = mask.data > 0

    def values(name: str) -> NDArray[np.float64]:
        image = read_image(Path(getattr(inputs, name)), ndim=3, nonfinite="keep")
        return image.data[inside].astype(np.float64)

    t = values("t")
    return ContrastMaps(
        mask=inside,
        affine=mask.affine,
        p_fwe=np.where(t > 0, values("up_p_fwe"), values("down_p_fwe")),
        t=t,
        effect=values("d"),
        difference=values("difference"),
        unit=inputs.unit,
    )


class MeasureRegionsInputSpec(NodeInputSpec):
    """Inputs of :class:`MeasureRegions`."""

    stack = File(exists=True, mandatory=True, desc="maps of all scans")
    mask = File(exists=True, mandatory=True, desc="voxels of the stack")
    labels = traits.List(traits.Str(), mandatory=True, desc="scans, in the order of the stack")
    atlases = File(exists=True, mandatory=True, desc="atlases on the grid")
    measure = traits.Str(mandatory=True, desc="name of the map")
    unit = traits.Str(mandatory=True, desc="of the maps")


class MeasureRegionsOutputSpec(NodeOutputSpec):
    """Outputs of :class:`MeasureRegions`."""

    table = File(exists=True, desc="mean of every region in every scan")


class MeasureRegions(AlsInterface):
    """Average the maps of all scans over every region, whatever is significant."""

    input_spec = MeasureRegionsInputSpec
    output_spec = MeasureRegionsOutputSpec
    memory_gb = 1.0

    def _run_interface(self, runtime: Any) -> Any:
        mask = read_image(Path(self.inputs.mask), ndim=3)
        table = region_means(
            np.load(self.inputs.stack, mmap_mode="r"),
            mask.data > 0,
            mask.affine,
            read_atlases(Path(self.inputs.atlases)),
            participants=self.inputs.labels,
            measure=self.inputs.measure,
            unit=self.inputs.unit,
        )
        path = self.file(runtime, "regions.tsv")
        write_tsv(table.rename(columns={"participant_id": "scan"}), path)
        return self.give(runtime, {"table": path})


def write_tsv(table: pd.DataFrame, path: Path) -> None:
    """Write a table in BIDS form.

    Parameters
    ----------
    table : DataFrame
        What to write; missing values become ``n/a``.
    path : Path
        Ending in .tsv.
    """
    table.to_csv(path, sep="\t", index=False, na_rep="n/a", float_format="%.6g")
