"""Nodes of the pipeline of the cortex at 7T: load, call one function, save."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from nipype.interfaces.base import File, InputMultiObject, traits
from numpy.typing import NDArray

from bids_alsmri.interfaces.anatomy import correct_bias
from bids_alsmri.interfaces.base import read_image, write_image
from bids_alsmri.interfaces.drawing import FigureOutputSpec
from bids_alsmri.interfaces.images import optional_path
from bids_alsmri.interfaces.node import (
    AlsInterface,
    NodeInputSpec,
    NodeOutputSpec,
    write_facts,
)
from bids_alsmri.interfaces.registration import apply_transforms, read_linear, write_linear
from bids_alsmri.numerics.echo_decay import combine_echoes, fit_echo_decay
from bids_alsmri.numerics.ribbon import bias_from_white_matter
from bids_alsmri.numerics.slab_pose import register_slab
from bids_alsmri.pipelines.cortex7t import borders, drawn, layers, slab, views
from bids_alsmri.pipelines.cortex7t.sites import KINDS
from bids_alsmri.spaces.atlases import draw_areas
from bids_alsmri.spaces.templates import get_template

NO_SUSCEPTIBILITY = (
    "phase images were left alone: susceptibility is not mapped, since no maintained package that "
    "works offline respects thick slices"
)
AREA_GRID_MM = 1.0  # of the template on which areas are drawn


class ReadEchoesInputSpec(NodeInputSpec):
    """Inputs of :class:`ReadEchoes`."""

    images = InputMultiObject(File(exists=True), mandatory=True, desc="magnitude of each echo")
    metadata = traits.List(traits.Dict(), mandatory=True, desc="sidecar of each")
    least_snr = traits.Float(mandatory=True, desc="echoes below this lie in the noise floor")
    ghost_object_share = traits.Float(mandatory=True, desc="brighter than so much is the head")
    ghost_margin_mm = traits.Float(mandatory=True, desc="air that does not count, mm")
    layer_image = traits.Enum("combined", "first", "last", mandatory=True, desc="for layers")
    has_phase = traits.Bool(False, usedefault=True, desc="phase images lie beside them")


class ReadEchoesOutputSpec(NodeOutputSpec):
    """Outputs of :class:`ReadEchoes`."""

    combined = File(exists=True, desc="all echoes combined")
    layer_image = File(exists=True, desc="image that layers are sought in")
    first = File(exists=True, desc="first echo")
    r2s = File(exists=True, desc="rate of decay, 1/s; 0 where it cannot be told")
    t2s = File(exists=True, desc="time of decay, s; likewise")
    noise = File(exists=True, desc="noise, JSON")
    facts = File(exists=True, desc="findings, JSON")


class ReadEchoes(AlsInterface):
    """Read and check echoes, combine them and fit their decay."""

    input_spec = ReadEchoesInputSpec
    output_spec = ReadEchoesOutputSpec
    memory_gb = 0.3
    memory_per_series = 20.0

    def _run_interface(self, runtime: Any) -> Any:
        echoes = slab.read_echoes([Path(p) for p in self.inputs.images], self.inputs.metadata)
        edges = np.linalg.norm(echoes.affine[:3, :3], axis=0)
        noise, note = slab.noise_of_slab(echoes.data[..., 0], edges.tolist())
        magnitudes = np.moveaxis(echoes.data, -1, 0)
        fit = fit_echo_decay(
            echoes.data,
            echoes.times_ms,
            noise=noise,
            least_signal=self.inputs.least_snr * noise.sigma,
            least_echoes=2,
        )
        combined = combine_echoes(magnitudes)
        choices = {"combined": combined, "first": magnitudes[0], "last": magnitudes[-1]}
        time_s = 1e-3 * np.nan_to_num(fit.t2_ms)
        rate = np.divide(1.0, time_s, out=np.zeros_like(time_s), where=time_s > 0.0)
        maps = {
            "combined": combined,
            "layer_image": choices[self.inputs.layer_image],
            "first": magnitudes[0],
            "r2s": rate,
            "t2s": time_s,
        }
        results: dict[str, Any] = {}
        for name, values in maps.items():
            results[name] = self.file(runtime, f"{name}.nii.gz")
            write_image(np.asarray(values, np.float32), echoes.affine, results[name])
        results["noise"] = write_facts(self.file(runtime, "noise.json"), {"sigma": noise.sigma})
        notes = [*echoes.notes, note, *([NO_SUSCEPTIBILITY] if self.inputs.has_phase else [])]
        measures, more = views.quality_of_ghosts(
            echoes,
            object_share=self.inputs.ghost_object_share,
            margin_mm=self.inputs.ghost_margin_mm,
        )
        facts = {"warnings": echoes.warnings, "notes": [*notes, *more], "measures": measures}
        results["facts"] = write_facts(self.file(runtime, "facts.json"), facts)
        return self.give(runtime, results)


class JudgeEchoesInputSpec(NodeInputSpec):
    """Inputs of :class:`JudgeEchoes`."""

    first = File(exists=True, mandatory=True, desc="first echo")
    r2s = File(exists=True, mandatory=True, desc="rate of decay")
    noise = File(exists=True, mandatory=True, desc="noise, JSON")
    labels = File(exists=True, desc="fluid 1, white matter 2, cortex 3")


class JudgeEchoesOutputSpec(NodeOutputSpec):
    """Outputs of :class:`JudgeEchoes`."""

    facts = File(exists=True, desc="findings, JSON")


class JudgeEchoes(AlsInterface):
    """Measure the quality of the echoes."""

    input_spec = JudgeEchoesInputSpec
    output_spec = JudgeEchoesOutputSpec
    memory_gb = 0.2
    memory_per_series = 3.0

    def _run_interface(self, runtime: Any) -> Any:
        first = read_image(Path(self.inputs.first), ndim=3).data
        rate = read_image(Path(self.inputs.r2s), ndim=3).data
        sigma = json.loads(Path(self.inputs.noise).read_text("utf-8"))["sigma"]
        path = optional_path(self.inputs.labels)
        labels = None if path is None else read_image(path, ndim=3).data
        measures = slab.quality_of_echoes(first, rate, sigma, labels)
        facts = write_facts(self.file(runtime, "facts.json"), {"measures": measures})
        return self.give(runtime, {"facts": facts})


class StartFromScannerOutputSpec(NodeOutputSpec):
    """Outputs of :class:`StartFromScanner`."""

    transform = File(exists=True, desc="identity, ITK")


class StartFromScanner(AlsInterface):
    """Transform that leaves images where the scanner puts them."""

    input_spec = NodeInputSpec
    output_spec = StartFromScannerOutputSpec
    memory_gb = 0.1

    def _run_interface(self, runtime: Any) -> Any:
        path = write_linear(np.eye(4), self.file(runtime, "start.txt"))
        return self.give(runtime, {"transform": path})


class FlattenInputSpec(NodeInputSpec):
    """Inputs of :class:`Flatten`."""

    image = File(exists=True, mandatory=True, desc="slab")
    shrink_factor = traits.Int(mandatory=True, desc="down-sampling")
    iterations = traits.List(traits.Int(), mandatory=True, desc="per level")
    convergence = traits.Float(mandatory=True, desc="change at which a level ends")
    spline_mm = traits.Float(mandatory=True, desc="distance of control points, mm")
    n_threads = traits.Int(mandatory=True, desc="ITK threads")


class FlattenOutputSpec(NodeOutputSpec):
    """Outputs of :class:`Flatten`."""

    image = File(exists=True, desc="slab without receive bias, for the registration")


class Flatten(AlsInterface):
    """Take the receive bias off a slab by N4, which needs no tissues yet."""

    input_spec = FlattenInputSpec
    output_spec = FlattenOutputSpec
    memory_gb = 0.5
    memory_per_series = 5.0

    def _run_interface(self, runtime: Any) -> Any:
        path = correct_bias(
            Path(self.inputs.image),
            self.file(runtime, "flat.nii.gz"),
            mask=None,
            shrink_factor=self.inputs.shrink_factor,
            iterations=tuple(self.inputs.iterations),
            convergence=self.inputs.convergence,
            spline_mm=self.inputs.spline_mm,
            n_threads=self.inputs.n_threads,
        )
        return self.give(runtime, {"image": path})


class RegisterSlabInputSpec(NodeInputSpec):
    """Inputs of :class:`RegisterSlab`."""

    image = File(exists=True, mandatory=True, desc="slab without receive bias")
    t1w = File(exists=True, mandatory=True, desc="whole head")
    voxel_mm = traits.Float(mandatory=True, desc="lattice on which they are compared, mm")
    fwhm_mm = traits.List(traits.Float(), mandatory=True, desc="smoothing, step after step, mm")
    reach_mm = traits.Float(mandatory=True, desc="how far the slab is sought, mm")
    reach_deg = traits.Float(mandatory=True, desc="and turned, degrees")
    tolerance_mm = traits.Float(mandatory=True, desc="steps below this end it, mm")


class RegisterSlabOutputSpec(NodeOutputSpec):
    """Outputs of :class:`RegisterSlab`."""

    to_anatomy = File(exists=True, desc="brings the slab onto the T1w, ITK")
    facts = File(exists=True, desc="findings, JSON")


class RegisterSlab(AlsInterface):
    """Find the slab in the T1w."""

    input_spec = RegisterSlabInputSpec
    output_spec = RegisterSlabOutputSpec
    memory_gb = 0.5
    memory_per_series = 4.0
    memory_per_anatomy = 8.0

    def _run_interface(self, runtime: Any) -> Any:
        image = read_image(Path(self.inputs.image), ndim=3)
        t1w = read_image(Path(self.inputs.t1w), ndim=3)
        found = register_slab(
            image.data,
            image.affine,
            t1w.data,
            t1w.affine,
            voxel_mm=self.inputs.voxel_mm,
            fwhm_mm=self.inputs.fwhm_mm,
            reach_mm=self.inputs.reach_mm,
            reach_deg=self.inputs.reach_deg,
            tolerance_mm=self.inputs.tolerance_mm,
        )
        # a transform of images leads from points of the T1w to those of the slab
        back = np.asarray(np.linalg.inv(found.slab_to_head), np.float64)
        paths = {"to_anatomy": write_linear(back, self.file(runtime, "to_anatomy.h5"))}
        measures = [
            {"measure": "registration_misfit", "value": found.misfit},
            {"measure": "registration_move", "value": found.moved_mm},
            {"measure": "registration_turn", "value": found.turned_deg},
        ]
        facts = {"measures": measures}
        paths["facts"] = write_facts(self.file(runtime, "facts.json"), facts)
        return self.give(runtime, paths)


class MoveSlabInputSpec(NodeInputSpec):
    """Inputs of :class:`MoveSlab`."""

    image = File(exists=True, mandatory=True, desc="slab")
    t1w = File(exists=True, mandatory=True, desc="gives the grid")
    to_anatomy = File(exists=True, mandatory=True, desc="brings the slab onto the T1w")


class MoveSlabOutputSpec(NodeOutputSpec):
    """Outputs of :class:`MoveSlab`."""

    image = File(exists=True, desc="slab on the grid of the T1w")


class MoveSlab(AlsInterface):
    """Show the slab where the T1w lies, for the figure."""

    input_spec = MoveSlabInputSpec
    output_spec = MoveSlabOutputSpec
    memory_gb = 0.5
    memory_per_anatomy = 4.0

    def _run_interface(self, runtime: Any) -> Any:
        path = apply_transforms(
            Path(self.inputs.image),
            Path(self.inputs.t1w),
            [Path(self.inputs.to_anatomy)],
            self.file(runtime, "moved.nii.gz"),
            interpolation="Linear",
            n_threads=1,
        )
        return self.give(runtime, {"image": path})


class ReadBordersInputSpec(NodeInputSpec):
    """Inputs of :class:`ReadBorders`."""

    segmentation = File(exists=True, mandatory=True, desc="labels")
    image = File(exists=True, desc="slab that they were drawn on; without it they are FreeSurfer's")


class ReadBordersOutputSpec(NodeOutputSpec):
    """Outputs of :class:`ReadBorders`."""

    wm = File(exists=True, desc="white matter")
    gm = File(exists=True, desc="cortex")
    facts = File(exists=True, desc="findings, JSON")


class ReadBorders(AlsInterface):
    """Read white matter and cortex of a segmentation that was given."""

    input_spec = ReadBordersInputSpec
    output_spec = ReadBordersOutputSpec
    memory_gb = 0.5
    memory_per_anatomy = 8.0
    memory_per_series = 10.0

    def _run_interface(self, runtime: Any) -> Any:
        path, slab_path = Path(self.inputs.segmentation), optional_path(self.inputs.image)
        if slab_path is None:
            wm, gm, affine = borders.read_segmentation(path)
        else:
            wm, gm, affine = borders.read_drawn(path, read_image(slab_path, ndim=3))
        paths = {name: self.file(runtime, f"{name}.nii.gz") for name in ("wm", "gm")}
        write_image(wm, affine, paths["wm"])
        write_image(gm, affine, paths["gm"])
        whose = "segmentation of the T1w that was given" if slab_path is None else "labels drawn"
        note = f"borders of the cortex were taken from {path.name} ({whose})"
        paths["facts"] = write_facts(self.file(runtime, "facts.json"), {"notes": [note]})
        return self.give(runtime, paths)


class FindRibbonInputSpec(NodeInputSpec):
    """Inputs of :class:`FindRibbon`."""

    image = File(exists=True, mandatory=True, desc="slab; gives the grid")
    to_anatomy = File(exists=True, mandatory=True, desc="brings the slab onto the T1w")
    wm = File(exists=True, mandatory=True, desc="probability of white matter")
    gm = File(exists=True, mandatory=True, desc="probability of grey matter")
    lattice_mm = traits.Float(mandatory=True, desc="lattice of distances, mm")
    smoothing_mm = traits.Float(mandatory=True, desc="smoothing of distances, mm")
    normal_smoothing_mm = traits.Float(mandatory=True, desc="smoothing of normals, mm")


class FindRibbonOutputSpec(NodeOutputSpec):
    """Outputs of :class:`FindRibbon`."""

    ribbon = File(exists=True, desc="distances and normals, .npz")
    labels = File(exists=True, desc="fluid 1, white matter 2, cortex 3")
    table = File(exists=True, desc="their names, TSV")


class FindRibbon(AlsInterface):
    """Bring the borders of the cortex from the T1w to the slab."""

    input_spec = FindRibbonInputSpec
    output_spec = FindRibbonOutputSpec
    memory_gb = 1.0
    memory_per_series = 10.0
    memory_per_anatomy = 4.0

    def _run_interface(self, runtime: Any) -> Any:
        image = read_image(Path(self.inputs.image), ndim=3)
        found = slab.find_ribbon(
            image.data.shape,
            image.affine,
            np.asarray(np.linalg.inv(read_linear(Path(self.inputs.to_anatomy))), np.float64),
            {name: read_image(Path(getattr(self.inputs, name)), ndim=3) for name in ("wm", "gm")},
            lattice_mm=self.inputs.lattice_mm,
            smoothing_mm=self.inputs.smoothing_mm,
            normal_smoothing_mm=self.inputs.normal_smoothing_mm,
        )
        paths = {
            "ribbon": write_ribbon(found, self.file(runtime, "ribbon.npz")),
            "labels": self.file(runtime, "labels.nii.gz"),
            "table": self.file(runtime, "labels.tsv"),
        }
        write_image(found.labels(), image.affine, paths["labels"])
        names = pd.DataFrame({"index": list(slab.RIBBON_NAMES), "name": slab.RIBBON_NAMES.values()})
        names.to_csv(paths["table"], sep="\t", index=False)
        return self.give(runtime, paths)


def write_ribbon(ribbon: slab.Ribbon, path: Path) -> Path:
    """Write a ribbon, and give the path back."""
    np.savez_compressed(path, white=ribbon.white_mm, outer=ribbon.outer_mm, normals=ribbon.normals)
    return path


def read_ribbon(path: Path) -> slab.Ribbon:
    """Ribbon that :class:`FindRibbon` has written."""
    with np.load(path) as parts:
        return slab.Ribbon(parts["white"], parts["outer"], parts["normals"])


class EvenOutInputSpec(NodeInputSpec):
    """Inputs of :class:`EvenOut`."""

    image = File(exists=True, mandatory=True, desc="slab")
    ribbon = File(exists=True, mandatory=True, desc="distances, .npz")
    fwhm_mm = traits.Float(mandatory=True, desc="width of the field, mm; 0 for none")
    inset_mm = traits.Float(mandatory=True, desc="white matter that does not count, mm")


class EvenOutOutputSpec(NodeOutputSpec):
    """Outputs of :class:`EvenOut`."""

    image = File(exists=True, desc="slab without the field")


class EvenOut(AlsInterface):
    """Take the smooth field of reception and transmission off."""

    input_spec = EvenOutInputSpec
    output_spec = EvenOutOutputSpec
    memory_gb = 0.3
    memory_per_series = 30.0

    def _run_interface(self, runtime: Any) -> Any:
        image = read_image(Path(self.inputs.image), ndim=3)
        values = np.asarray(image.data, np.float64)
        if self.inputs.fwhm_mm > 0:
            values = values / bias_from_white_matter(
                values,
                read_ribbon(Path(self.inputs.ribbon)).white_mm,
                image.voxel_mm,
                inset_mm=self.inputs.inset_mm,
                fwhm_mm=self.inputs.fwhm_mm,
            )
        path = self.file(runtime, "even.nii.gz")
        write_image(values.astype(np.float32), image.affine, path)
        return self.give(runtime, {"image": path})


class RefineRibbonInputSpec(NodeInputSpec):
    """Inputs of :class:`RefineRibbon`."""

    image = File(exists=True, mandatory=True, desc="slab without the field")
    ribbon = File(exists=True, mandatory=True, desc="distances and normals, .npz")
    refining = traits.Dict(mandatory=True, desc="how borders are moved")


class RefineRibbonOutputSpec(NodeOutputSpec):
    """Outputs of :class:`RefineRibbon`."""

    ribbon = File(exists=True, desc="distances and normals, .npz")
    labels = File(exists=True, desc="fluid 1, white matter 2, cortex 3")
    facts = File(exists=True, desc="findings, JSON")


class RefineRibbon(AlsInterface):
    """Move the borders of the cortex to where the slab shows them."""

    input_spec = RefineRibbonInputSpec
    output_spec = RefineRibbonOutputSpec
    memory_gb = 0.5
    memory_per_series = 40.0

    def _run_interface(self, runtime: Any) -> Any:
        image = read_image(Path(self.inputs.image), ndim=3)
        given = read_ribbon(Path(self.inputs.ribbon))
        ribbon, found = slab.refined_ribbon(image.data, given, image.voxel_mm, self.inputs.refining)
        paths = {
            "ribbon": write_ribbon(ribbon, self.file(runtime, "ribbon.npz")),
            "labels": self.file(runtime, "labels.nii.gz"),
        }
        write_image(ribbon.labels(), image.affine, paths["labels"])
        facts = {"measures": slab.quality_of_refinement(found)}
        paths["facts"] = write_facts(self.file(runtime, "facts.json"), facts)
        return self.give(runtime, paths)


class FindLayersInputSpec(NodeInputSpec):
    """Inputs of :class:`FindLayers`."""

    labels = File(exists=True, mandatory=True, desc="fluid 1, white matter 2, cortex 3")
    n_layers = traits.Int(mandatory=True, desc="how many")
    smoothing_steps = traits.Int(mandatory=True, desc="of volume shares of neighbouring columns")


class FindLayersOutputSpec(NodeOutputSpec):
    """Outputs of :class:`FindLayers`."""

    depth = File(exists=True, desc="share of the volume, 0 at white matter to 1")
    layers = File(exists=True, desc="1 at white matter, upwards to the outer surface")
    table = File(exists=True, desc="their names, TSV")


class FindLayers(AlsInterface):
    """Divide the cortex into layers of equal volume."""

    input_spec = FindLayersInputSpec
    output_spec = FindLayersOutputSpec
    memory_gb = 0.3
    memory_per_series = 15.0

    def _run_interface(self, runtime: Any) -> Any:
        labels = read_image(Path(self.inputs.labels), ndim=3)
        depth, found = layers.equivolume_layers(
            np.asarray(labels.data, np.int16),
            labels.voxel_mm,
            n_layers=self.inputs.n_layers,
            smoothing_steps=self.inputs.smoothing_steps,
        )
        paths = {name: self.file(runtime, f"{name}.nii.gz") for name in ("depth", "layers")}
        write_image(depth, labels.affine, paths["depth"])
        write_image(found, labels.affine, paths["layers"])
        paths["table"] = self.file(runtime, "layers.tsv")
        names = layers.layer_names(self.inputs.n_layers)
        names.to_csv(paths["table"], sep="\t", index=False)
        return self.give(runtime, paths)


class FindAreasInputSpec(NodeInputSpec):
    """Inputs of :class:`FindAreas`."""

    image = File(exists=True, mandatory=True, desc="slab; gives the grid")
    template = traits.Str(mandatory=True, desc="name of the template space")
    to_anatomy = File(exists=True, mandatory=True, desc="brings the slab onto the T1w")
    from_template = File(exists=True, mandatory=True, desc="brings the template onto the T1w")
    reach_mm = traits.Float(mandatory=True, desc="how far areas are spread, mm")


class FindAreasOutputSpec(NodeOutputSpec):
    """Outputs of :class:`FindAreas`."""

    labels = File(exists=True, desc="areas on the slab")
    table = File(exists=True, desc="their names, TSV")
    coverage = File(exists=True, desc="what of each is in view, TSV")
    facts = File(exists=True, desc="findings, JSON")


class FindAreas(AlsInterface):
    """Bring motor areas and reference from the template to the slab."""

    input_spec = FindAreasInputSpec
    output_spec = FindAreasOutputSpec
    memory_gb = 1.0
    memory_per_series = 12.0

    def _run_interface(self, runtime: Any) -> Any:
        image = read_image(Path(self.inputs.image), ndim=3)
        atlas = draw_areas(slab.measured_areas(), get_template(self.inputs.template, AREA_GRID_MM))
        areas = self.file(runtime, "template_areas.nii.gz")
        write_image(atlas.labels.astype(np.int16), atlas.affine, areas, space="mni152")
        back = np.linalg.inv(read_linear(Path(self.inputs.to_anatomy)))
        chain = [
            write_linear(back, self.file(runtime, "back.txt")),
            Path(self.inputs.from_template),
        ]
        shape, lattice = views.lattice_about(image.data.shape, image.affine)
        wide = self.file(runtime, "wide.nii.gz")
        write_image(np.zeros(shape, np.uint8), lattice, wide)
        moved = {
            grid: apply_transforms(
                areas,
                grid,
                chain,
                self.file(runtime, f"moved_{grid.name}"),
                interpolation="NearestNeighbor",
                n_threads=1,
            )
            for grid in (Path(self.inputs.image), wide)
        }
        labels = slab.labels_on_grid(moved[Path(self.inputs.image)], image)
        around = np.rint(read_image(moved[wide], ndim=3).data).astype(np.int32)
        shares = views.shares_in_view(around, lattice, image.data.shape, image.affine)
        spread = slab.spread_labels(labels, image.voxel_mm, self.inputs.reach_mm)
        paths = _areas_files(self, runtime, spread, image.affine)
        paths["coverage"] = self.file(runtime, "coverage.tsv")
        rows = pd.DataFrame(views.rows_of_coverage(shares))
        rows.to_csv(paths["coverage"], sep="\t", index=False, na_rep="n/a")
        facts = {"measures": views.quality_of_coverage(shares)}
        paths["facts"] = write_facts(self.file(runtime, "facts.json"), facts)
        return self.give(runtime, paths)


def _areas_files(
    node: AlsInterface, runtime: Any, labels: NDArray[np.int16], affine: NDArray[np.float64]
) -> dict[str, Path]:
    paths = {"labels": node.file(runtime, "areas.nii.gz"), "table": node.file(runtime, "areas.tsv")}
    write_image(labels, affine, paths["labels"])
    names = [(area.label, area.name) for area in slab.measured_areas()]
    pd.DataFrame(names, columns=["index", "name"]).to_csv(paths["table"], sep="\t", index=False)
    return paths


class ReadAreasInputSpec(NodeInputSpec):
    """Inputs of :class:`ReadAreas`."""

    image = File(exists=True, mandatory=True, desc="slab; gives the grid")
    labels = File(exists=True, mandatory=True, desc="areas that somebody drew on the slab")
    reach_mm = traits.Float(mandatory=True, desc="how far areas are spread, mm")


class ReadAreasOutputSpec(NodeOutputSpec):
    """Outputs of :class:`ReadAreas`."""

    labels = File(exists=True, desc="areas on the slab")
    table = File(exists=True, desc="their names, TSV")
    facts = File(exists=True, desc="findings, JSON")


class ReadAreas(AlsInterface):
    """Read motor areas and reference that somebody drew on the slab."""

    input_spec = ReadAreasInputSpec
    output_spec = ReadAreasOutputSpec
    memory_gb = 0.5
    memory_per_series = 12.0

    def _run_interface(self, runtime: Any) -> Any:
        image, path = read_image(Path(self.inputs.image), ndim=3), Path(self.inputs.labels)
        labels = slab.labels_on_grid(path, image)
        slab.require_known_areas(labels, path)
        spread = slab.spread_labels(labels, image.voxel_mm, self.inputs.reach_mm)
        paths = _areas_files(self, runtime, spread, image.affine)
        note = f"motor areas were taken from {path.name} (labels drawn)"
        paths["facts"] = write_facts(self.file(runtime, "facts.json"), {"notes": [note]})
        return self.give(runtime, paths)


class MeasureAreasInputSpec(NodeInputSpec):
    """Inputs of :class:`MeasureAreas`."""

    image = File(exists=True, mandatory=True, desc="image that layers are sought in")
    r2s = File(exists=True, mandatory=True, desc="rate of decay, 1/s")
    ribbon = File(exists=True, mandatory=True, desc="distances and normals, .npz")
    labels = File(exists=True, mandatory=True, desc="areas on the slab")
    coverage = File(exists=True, desc="rows on what of each area is in view, TSV")
    spacing_mm = traits.Float(mandatory=True, desc="least distance of profiles, mm")
    least_profiles = traits.Int(mandatory=True, desc="profiles that an area needs")
    aligning = traits.Dict(mandatory=True, desc="how profiles are put in step")
    layering = traits.Dict(mandatory=True, desc="how layers are told apart")
    doubting = traits.Dict(mandatory=True, desc="what speaks against a thickness")
    reference = traits.Enum("nearest", "precuneus", mandatory=True, desc="for deep signal")
    most_field_left = traits.Float(mandatory=True, desc="of white matter, before a doubt is told")
    seed = traits.Int(mandatory=True, desc="seed of the resamplings")


class MeasureAreasOutputSpec(NodeOutputSpec):
    """Outputs of :class:`MeasureAreas`."""

    table = File(exists=True, desc="measures of areas, TSV")
    profiles = File(exists=True, desc="mean profiles, TSV")
    facts = File(exists=True, desc="findings, JSON")


class MeasureAreas(AlsInterface):
    """Measure the deep layer of all motor areas."""

    input_spec = MeasureAreasInputSpec
    output_spec = MeasureAreasOutputSpec
    memory_gb = 1.0
    memory_per_series = 20.0

    def _run_interface(self, runtime: Any) -> Any:
        image = read_image(Path(self.inputs.image), ndim=3)
        rate = read_image(Path(self.inputs.r2s), ndim=3).data
        maps = np.stack([image.data, np.where(rate > 0.0, rate, np.nan)])
        results = slab.measure_areas(
            maps,
            read_ribbon(Path(self.inputs.ribbon)),
            np.rint(read_image(Path(self.inputs.labels), ndim=3).data).astype(np.int32),
            image.affine,
            spacing_mm=self.inputs.spacing_mm,
            least_profiles=self.inputs.least_profiles,
            aligning=self.inputs.aligning,
            layering=self.inputs.layering,
            doubting=self.inputs.doubting,
            seed=self.inputs.seed,
        )
        rows = slab.rows_of_areas(
            results,
            least_profiles=self.inputs.least_profiles,
            may_be_own=self.inputs.reference == "nearest",
            most_field_left=self.inputs.most_field_left,
        )
        table, coverage = pd.DataFrame(rows), optional_path(self.inputs.coverage)
        if coverage is not None:
            more = pd.read_csv(coverage, sep="\t", na_values="n/a", keep_default_na=False)
            table = pd.concat([table, more])
        tables = {"table": table, "profiles": slab.profile_table(results)}
        paths = {name: self.file(runtime, f"{name}.tsv") for name in tables}
        for name, table in tables.items():
            table.to_csv(paths[name], sep="\t", index=False, na_rep="n/a", float_format="%.6g")
        facts = {"measures": slab.quality_of_areas(results)}
        paths["facts"] = write_facts(self.file(runtime, "facts.json"), facts)
        return self.give(runtime, paths)


class MeasureDrawnInputSpec(NodeInputSpec):
    """Inputs of :class:`MeasureDrawn`."""

    image = File(exists=True, mandatory=True, desc="slab as it was measured, nothing taken off")
    before = File(exists=True, desc="table that rows are added to, TSV")
    caliper = File(exists=True, desc="caliper lines, labels of areas")
    caliper_table = File(exists=True, desc="names of the labels, TSV")
    oval = File(exists=True, desc="ovals, labels of areas")
    oval_table = File(exists=True, desc="names of the labels, TSV")
    points = File(exists=True, desc="lines and ovals as points, TSV")
    oval_mm2 = traits.Float(mandatory=True, desc="area of ovals that are given as points, mm2")
    reader = traits.Int(mandatory=True, desc="number of the reader, from 0")


class MeasureDrawnOutputSpec(NodeOutputSpec):
    """Outputs of :class:`MeasureDrawn`."""

    table = File(exists=True, desc="measures of areas, TSV")
    marks = File(exists=True, desc="where lines and ovals lie, TSV")


class MeasureDrawn(AlsInterface):
    """Measure the lines and ovals that a reader drew."""

    input_spec = MeasureDrawnInputSpec
    output_spec = MeasureDrawnOutputSpec
    memory_gb = 0.3
    memory_per_series = 5.0

    def _run_interface(self, runtime: Any) -> Any:
        image = read_image(Path(self.inputs.image), ndim=3)
        given = {kind: optional_path(getattr(self.inputs, kind)) for kind in KINDS}
        files = {kind: path for kind, path in given.items() if path is not None}
        drawing = drawn.read_drawing(image, files, oval_mm2=self.inputs.oval_mm2)
        rows = pd.DataFrame(drawn.rows_of_drawing(drawing, image.voxel_mm, self.inputs.reader))
        before = optional_path(self.inputs.before)
        parts = [rows]
        if before is not None:
            parts.insert(0, pd.read_csv(before, sep="\t", na_values="n/a", keep_default_na=False))
        marks = drawn.table_of_marks(drawing, self.inputs.reader)
        tables = {"table": pd.concat(parts), "marks": marks}
        paths = {name: self.file(runtime, f"{name}.tsv") for name in tables}
        for name, table in tables.items():
            table.to_csv(paths[name], sep="\t", index=False, na_rep="n/a", float_format="%.6g")
        return self.give(runtime, paths)


class DrawMarksInputSpec(NodeInputSpec):
    """Inputs of :class:`DrawMarks`."""

    image = File(exists=True, mandatory=True, desc="slab as it was measured")
    marks = InputMultiObject(
        File(exists=True), mandatory=True, desc="where lines and ovals lie, one table per reader"
    )


class DrawMarks(AlsInterface):
    """Draw the lines and ovals of all readers on the slab."""

    input_spec = DrawMarksInputSpec
    output_spec = FigureOutputSpec
    memory_gb = 0.5
    memory_per_series = 4.0

    def _run_interface(self, runtime: Any) -> Any:
        from bids_alsmri.reports.cortex import draw_marks
        from bids_alsmri.reports.figures import save_figure

        image = read_image(Path(self.inputs.image), ndim=3)
        marks = pd.concat([pd.read_csv(path, sep="\t") for path in self.inputs.marks])
        path = self.file(runtime, "marks.svg")
        save_figure(draw_marks(image.data, image.affine, marks), path)
        return self.give(runtime, {"figure": path})


class DrawRibbonInputSpec(NodeInputSpec):
    """Inputs of :class:`DrawRibbon`."""

    image = File(exists=True, mandatory=True, desc="slab")
    ribbon = File(exists=True, mandatory=True, desc="distances, .npz")
    labels = File(exists=True, mandatory=True, desc="areas")


class DrawRibbon(AlsInterface):
    """Draw slices of the slab with the borders of the cortex and the areas."""

    input_spec = DrawRibbonInputSpec
    output_spec = FigureOutputSpec
    memory_gb = 0.5
    memory_per_series = 5.0

    def _run_interface(self, runtime: Any) -> Any:
        from bids_alsmri.reports.cortex import draw_ribbon
        from bids_alsmri.reports.figures import save_figure

        image = read_image(Path(self.inputs.image), ndim=3)
        found = read_ribbon(Path(self.inputs.ribbon))
        labels = np.rint(read_image(Path(self.inputs.labels), ndim=3).data).astype(np.int32)
        names = {area.label: slab.region_of(area) for area in slab.measured_areas()}
        figure = draw_ribbon(
            image.data, image.affine, found.white_mm, found.outer_mm, labels, names=names
        )
        path = self.file(runtime, "ribbon.svg")
        save_figure(figure, path)
        return self.give(runtime, {"figure": path})


class DrawProfilesInputSpec(NodeInputSpec):
    """Inputs of :class:`DrawProfiles`."""

    profiles = File(exists=True, mandatory=True, desc="mean profiles, TSV")


class DrawProfiles(AlsInterface):
    """Draw the mean profile of each area."""

    input_spec = DrawProfilesInputSpec
    output_spec = FigureOutputSpec
    memory_gb = 0.3

    def _run_interface(self, runtime: Any) -> Any:
        from bids_alsmri.reports.cortex import draw_profiles
        from bids_alsmri.reports.figures import save_figure

        table = pd.read_csv(self.inputs.profiles, sep="\t", na_values="n/a")
        path = self.file(runtime, "profiles.svg")
        save_figure(draw_profiles(table), path)
        return self.give(runtime, {"figure": path})
