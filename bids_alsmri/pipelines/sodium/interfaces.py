"""Nodes of the sodium pipeline: load, call one function, save."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from nipype.interfaces.base import File, InputMultiObject, traits

from bids_alsmri.interfaces.atlases import read_atlases
from bids_alsmri.interfaces.base import ImageData, concerning, read_image, write_image
from bids_alsmri.interfaces.drawing import (
    OUTLINE_COLOURS,
    FigureOutputSpec,
    on_grid_of,
    origin_mm,
)
from bids_alsmri.interfaces.images import canonical, optional_path, voxel_edges_mm, with_tuples
from bids_alsmri.interfaces.node import (
    AlsInterface,
    NodeInputSpec,
    NodeOutputSpec,
    SeriesSize,
    write_facts,
)
from bids_alsmri.interfaces.registration import apply_transforms, read_linear, write_linear
from bids_alsmri.numerics.calibration import Calibration
from bids_alsmri.numerics.relaxation import curie_factor
from bids_alsmri.numerics.tubes import FoundTubes, find_tubes, measure_tubes
from bids_alsmri.pipelines.sodium import places, steps
from bids_alsmri.pipelines.sodium.echoes import first_echo
from bids_alsmri.pipelines.sodium.protocol import protocol_of, read_protocol_file, relaxation_of
from bids_alsmri.pipelines.sodium.tissues import (
    TISSUES,
    Anatomy,
    correct_partial_volume,
    fine_grid,
    mixed_shares,
    region_fractions,
    seen_tissues,
)
from bids_alsmri.pipelines.sodium.tubework import TubeChoices, calibrate_tubes
from bids_alsmri.spaces.templates import get_template

UNIT = "sodium (mmol/L)"
# Okabe and Ito's colours but for that of the head
TUBE_COLOURS = ("#D55E00", "#F0E442", "#009E73", "#CC79A7", "#E69F00", "#0072B2")
HEAD_COLOUR = OUTLINE_COLOURS[1]
# shown around the box of the motor areas, so that the head is seen around them
AROUND_AREAS_MM = 45.0
MAP_NAMES = {
    "tsc": "as voxels show it",
    "tsc_voxelwise": "corrected for blur",
    "tsc_tissue": "of grey and white matter alone",
}
REGION_NAMES = {"wm": "white matter", "gm": "grey matter", "csf": "cerebrospinal fluid"}


def write_line(line: Calibration, path: Path) -> Path:
    """Write a calibration as JSON, and return the path."""
    parts = {**asdict(line), "residuals": line.residuals.tolist()}
    path.write_text(json.dumps(parts, indent=2, sort_keys=True) + "\n", "utf-8")
    return path


def read_line(path: Path) -> Calibration:
    """Calibration that :func:`write_line` has written."""
    parts = json.loads(path.read_text("utf-8"))
    return Calibration(residuals=np.array(parts.pop("residuals")), **parts)


class ReadSodiumInputSpec(NodeInputSpec):
    """Inputs of :class:`ReadSodium`."""

    images = InputMultiObject(File(exists=True), mandatory=True, desc="image, or its echoes")
    metadata = traits.List(traits.Dict(), mandatory=True, desc="sidecar of each")
    readout = traits.Dict(mandatory=True, desc="what the protocol is completed by")
    needs_times = traits.Bool(mandatory=True, desc="whether relaxation is corrected")
    needs_spread = traits.Bool(mandatory=True, desc="whether blur is corrected")
    lacks_proton = traits.Bool(
        mandatory=True, desc="whether a proton image is asked for that there is none of"
    )


class ReadSodiumOutputSpec(NodeOutputSpec):
    """Outputs of :class:`ReadSodium`."""

    image = File(exists=True, desc="first echo, clean header")
    protocol = File(exists=True, desc="protocol, JSON")
    facts = File(exists=True, desc="findings, JSON")


class ReadSodium(AlsInterface):
    """Read and check a sodium image and its protocol."""

    input_spec = ReadSodiumInputSpec
    output_spec = ReadSodiumOutputSpec
    memory_gb = 0.15
    memory_per_series = 10.0

    def _run_interface(self, runtime: Any) -> Any:
        paths = [Path(path) for path in self.inputs.images]
        image, metadata, notes = first_echo(paths, self.inputs.metadata)
        steps.require_proton(image.path, is_lacking=self.inputs.lacks_proton)
        protocol = protocol_of(
            metadata,
            image.path,
            image.voxel_mm,
            self.inputs.readout,
            needs_times=self.inputs.needs_times,
            needs_spread=self.inputs.needs_spread,
        )
        path = self.file(runtime, "sodium.nii.gz")
        write_image(image.data, image.affine, path)
        facts = {
            "warnings": [*image.warnings, *protocol.warnings],
            "notes": [*notes, *protocol.notes],
        }
        return self.give(
            runtime,
            {
                "image": path,
                "protocol": protocol.write(self.file(runtime, "protocol.json")),
                "facts": write_facts(self.file(runtime, "facts.json"), facts),
            },
        )


class DenoiseInputSpec(NodeInputSpec):
    """Inputs of :class:`Denoise`."""

    image = File(exists=True, mandatory=True, desc="image as reconstructed")
    protocol = File(exists=True, mandatory=True, desc="its protocol")
    source = File(exists=True, mandatory=True, desc="file of the dataset, for errors")
    method = traits.Enum("nlmeans", "off", mandatory=True, desc="method")
    strength = traits.Float(mandatory=True, desc="multiple of the noise")
    patch_radius = traits.Int(mandatory=True, desc="radius of patches, voxels")
    block_radius = traits.Int(mandatory=True, desc="radius of the search, voxels")
    n_threads = traits.Int(mandatory=True, nohash=True, desc="threads")


class DenoiseOutputSpec(NodeOutputSpec):
    """Outputs of :class:`Denoise`."""

    image = File(exists=True, desc="signal")
    noise = File(exists=True, desc="noise, JSON")
    facts = File(exists=True, desc="findings, JSON")


class Denoise(AlsInterface):
    """Estimate the noise of an image and take it off."""

    input_spec = DenoiseInputSpec
    output_spec = DenoiseOutputSpec
    memory_gb = 0.15
    memory_per_series = 25.0

    def _run_interface(self, runtime: Any) -> Any:
        image = read_image(Path(self.inputs.image), ndim=3)
        with concerning(Path(self.inputs.source)):
            noise, facts = steps.estimate_noise(
                image, read_protocol_file(Path(self.inputs.protocol))
            )
            signal = steps.quiet(
                image,
                noise,
                method=self.inputs.method,
                strength=self.inputs.strength,
                patch_radius=self.inputs.patch_radius,
                block_radius=self.inputs.block_radius,
                n_threads=self.inputs.n_threads,
            )
        path = self.file(runtime, "signal.nii.gz")
        write_image(np.asarray(signal, np.float32), image.affine, path)
        return self.give(
            runtime,
            {
                "image": path,
                "noise": noise.write(self.file(runtime, "noise.json")),
                "facts": write_facts(self.file(runtime, "facts.json"), facts),
            },
        )


class FindTubesInputSpec(NodeInputSpec):
    """Inputs of :class:`FindTubes`."""

    image = File(exists=True, mandatory=True, desc="image as reconstructed")
    protocol = File(exists=True, mandatory=True, desc="its protocol")
    noise = File(exists=True, mandatory=True, desc="its noise")
    source = File(exists=True, mandatory=True, desc="file of the dataset, for errors")
    labels = File(exists=True, desc="tubes that somebody marked")
    relaxation = traits.List(traits.Float(), mandatory=True, desc="of the tubes, ms")
    diameters_mm = traits.Tuple(
        traits.Float(), traits.Float(), mandatory=True, desc="smallest and largest, mm"
    )
    most_tubes = traits.Int(mandatory=True, desc="most tubes that are looked for")


class FindTubesOutputSpec(NodeOutputSpec):
    """Outputs of :class:`FindTubes`."""

    labels = File(exists=True, desc="number of the tube of each voxel")
    table = File(exists=True, desc="numbers and names, TSV")
    tubes = File(exists=True, desc="cylinders, JSON")
    head = File(exists=True, desc="head without tubes")
    facts = File(exists=True, desc="findings, JSON")


class FindTubes(AlsInterface):
    """Find the reference tubes, or fit cylinders to those that were marked."""

    input_spec = FindTubesInputSpec
    output_spec = FindTubesOutputSpec
    memory_gb = 0.15
    memory_per_series = 30.0

    def _run_interface(self, runtime: Any) -> Any:
        image = read_image(Path(self.inputs.image), ndim=3)
        protocol = read_protocol_file(Path(self.inputs.protocol))
        noise = steps.read_noise(Path(self.inputs.noise))
        known: dict[str, Any] = {
            "noise_floor": noise.floor,
            "noise_sd": noise.air_sd,
            "point_spread": protocol.spread_of(relaxation_of(self.inputs.relaxation)),
        }
        given = optional_path(self.inputs.labels)
        with concerning(Path(self.inputs.source)):
            if given is None:
                found = find_tubes(
                    image.data,
                    image.affine,
                    diameter_range_mm=self.inputs.diameters_mm,
                    most_tubes=self.inputs.most_tubes,
                    **known,
                )
            else:
                labels = np.round(steps.on_grid(given, image, order=0)).astype(np.int16)
                steps.require_tubes_in_view(labels, given, Path(self.inputs.source))
                found = measure_tubes(image.data, image.affine, labels, **known)
        return self.give(runtime, self._saved(runtime, found, image))

    def _saved(self, runtime: Any, found: Any, image: ImageData) -> dict[str, Any]:
        labels, head = self.file(runtime, "labels.nii.gz"), self.file(runtime, "head.nii.gz")
        write_image(found.labels, image.affine, labels)
        write_image(found.head_mask, image.affine, head)
        rows = [{"index": t.label, "name": f"tube {t.label}"} for t in found.tubes]
        table = self.file(runtime, "labels.tsv")
        pd.DataFrame(rows).to_csv(table, sep="\t", index=False)
        tubes = steps.write_tubes(found, self.file(runtime, "tubes.json"))
        notes = [f"no reference tube: the bright part at {text}" for text in found.refused]
        facts = write_facts(self.file(runtime, "facts.json"), {"notes": notes})
        return {"labels": labels, "head": head, "table": table, "tubes": tubes, "facts": facts}


class DrawTubesInputSpec(NodeInputSpec):
    """Inputs of :class:`DrawTubes`."""

    image = File(exists=True, mandatory=True, desc="image as reconstructed")
    labels = File(exists=True, mandatory=True, desc="number of the tube of each voxel")
    head = File(exists=True, mandatory=True, desc="head without tubes")


class DrawTubes(AlsInterface):
    """Draw an image with the outlines of tubes and head, as bright as the head is."""

    input_spec = DrawTubesInputSpec
    output_spec = FigureOutputSpec
    memory_gb = 0.2
    memory_per_series = 10.0

    def _run_interface(self, runtime: Any) -> Any:
        from bids_alsmri.reports.figures import Contour, draw_mosaic, save_figure

        volume, affine = canonical(Path(self.inputs.image))
        labels = canonical(Path(self.inputs.labels))[0]
        head = canonical(Path(self.inputs.head))[0] > 0
        numbers = [int(number) for number in np.unique(labels[labels > 0])]
        tubes = [
            Contour(labels == number, 0.5, colour, f"tube {number}")
            for number, colour in zip(numbers, cycle(TUBE_COLOURS), strict=False)
        ]
        figure = draw_mosaic(
            volume,
            voxel_edges_mm(affine),
            contours=[*tubes, Contour(head, 0.5, HEAD_COLOUR, "head")],
            mask=head | (labels > 0),
            window=(0.0, float(np.percentile(volume[head], 99))),
            origin_mm=origin_mm(affine, volume.shape),
        )
        path = self.file(runtime, "tubes.svg")
        save_figure(figure, path)
        return self.give(runtime, {"figure": path})


class TubesInputSpec(NodeInputSpec):
    """Inputs of nodes that take the tubes of an image."""

    labels = File(exists=True, mandatory=True, desc="number of the tube of each voxel")
    tubes = File(exists=True, mandatory=True, desc="cylinders, JSON")
    head = File(exists=True, mandatory=True, desc="head without tubes")


def read_found(inputs: Any) -> FoundTubes:
    """Tubes, from the inputs of a node."""
    return steps.read_tubes(Path(inputs.tubes), Path(inputs.labels), Path(inputs.head))


class CorrectReceiveInputSpec(TubesInputSpec):
    """Inputs of :class:`CorrectReceive`."""

    image = File(exists=True, mandatory=True, desc="signal")
    source = File(exists=True, mandatory=True, desc="file of the dataset, for errors")
    method = traits.Enum("coils", "map", "smooth", "off", mandatory=True, desc="where it is from")
    receive_map = File(exists=True, desc="RB1map")
    array_image = File(exists=True, desc="image of the array")
    volume_image = File(exists=True, desc="image of the volume coil")
    fwhm_mm = traits.Float(mandatory=True, desc="smoothing of the coils' images, mm")
    order = traits.Int(mandatory=True, desc="order of the polynomial")
    denoising = traits.Dict(mandatory=True, desc="of the coils' images")


class CorrectReceiveOutputSpec(NodeOutputSpec):
    """Outputs of :class:`CorrectReceive`."""

    image = File(exists=True, desc="signal as of an even coil")
    bias = File(exists=True, desc="receive bias")
    facts = File(exists=True, desc="findings, JSON")


class CorrectReceive(AlsInterface):
    """Take the receive bias from an image."""

    input_spec = CorrectReceiveInputSpec
    output_spec = CorrectReceiveOutputSpec
    memory_gb = 0.15
    memory_per_series = 65.0

    def _run_interface(self, runtime: Any) -> Any:
        source = Path(self.inputs.source)
        image = replace(read_image(Path(self.inputs.image), ndim=3), path=source)
        with concerning(source):
            bias, facts = steps.receive_bias(
                image,
                read_found(self.inputs),
                method=self.inputs.method,
                map_path=optional_path(self.inputs.receive_map),
                array_path=optional_path(self.inputs.array_image),
                volume_path=optional_path(self.inputs.volume_image),
                fwhm_mm=self.inputs.fwhm_mm,
                order=self.inputs.order,
                denoising=self.inputs.denoising,
            )
        results = {name: self.file(runtime, f"{name}.nii.gz") for name in ("image", "bias")}
        write_image(np.asarray(image.data / bias, np.float32), image.affine, results["image"])
        write_image(np.asarray(bias, np.float32), image.affine, results["bias"])
        facts_path = write_facts(self.file(runtime, "facts.json"), facts)
        return self.give(runtime, {**results, "facts": facts_path})


class CalibrateInputSpec(TubesInputSpec):
    """Inputs of :class:`Calibrate`."""

    image = File(exists=True, mandatory=True, desc="signal as of an even coil")
    source = File(exists=True, mandatory=True, desc="file of the dataset, for errors")
    protocol = File(exists=True, mandatory=True, desc="its protocol")
    noise = File(exists=True, mandatory=True, desc="its noise")
    relaxation = traits.List(traits.Float(), mandatory=True, desc="of the tubes, ms")
    choices = traits.Dict(mandatory=True, desc="how tubes are measured")


class CalibrateOutputSpec(NodeOutputSpec):
    """Outputs of :class:`Calibrate`."""

    line = File(exists=True, desc="line from concentration to signal, JSON")
    table = File(exists=True, desc="tubes, TSV")
    figure = File(exists=True, desc="plot of tubes and line")
    facts = File(exists=True, desc="findings, JSON")


class Calibrate(AlsInterface):
    """Measure the tubes and draw the line from their sodium to their signal."""

    input_spec = CalibrateInputSpec
    output_spec = CalibrateOutputSpec
    memory_gb = 0.2
    memory_per_series = 10.0

    def _run_interface(self, runtime: Any) -> Any:
        from bids_alsmri.reports.figures import draw_calibration, save_figure

        source = Path(self.inputs.source)
        choices = TubeChoices(**with_tuples(self.inputs.choices))
        with concerning(source):
            done = calibrate_tubes(
                replace(read_image(Path(self.inputs.image), ndim=3), path=source),
                read_found(self.inputs),
                read_protocol_file(Path(self.inputs.protocol)),
                relaxation_of(self.inputs.relaxation),
                noise_sigma=steps.read_noise(Path(self.inputs.noise)).sigma,
                choices=choices,
            )
        table, figure = self.file(runtime, "tubes.tsv"), self.file(runtime, "calibration.svg")
        done.table.to_csv(table, sep="\t", index=False, na_rep="n/a", float_format="%.6g")
        save_figure(draw_calibration(**done.plot), figure)
        return self.give(
            runtime,
            {
                "line": write_line(done.line, self.file(runtime, "line.json")),
                "table": table,
                "figure": figure,
                "facts": write_facts(self.file(runtime, "facts.json"), done.facts),
            },
        )


class JudgeAnatomyInputSpec(NodeInputSpec):
    """Inputs of :class:`JudgeAnatomy`."""

    image = File(exists=True, mandatory=True, desc="signal")
    head = File(exists=True, mandatory=True, desc="its head")
    source = File(exists=True, mandatory=True, desc="file of the dataset, for errors")
    to_anatomy = File(exists=True, mandatory=True, desc="transform to the T1w, ITK")
    brain = File(exists=True, mandatory=True, desc="brain mask of the T1w")
    wm = File(exists=True, mandatory=True, desc="white matter")
    csf = File(exists=True, mandatory=True, desc="cerebrospinal fluid")
    least_overlap = traits.Float(mandatory=True, desc="below it an error")
    least_separation = traits.Float(mandatory=True, desc="below it an error")


class JudgeAnatomyOutputSpec(NodeOutputSpec):
    """Outputs of :class:`JudgeAnatomy`."""

    transform = File(exists=True, desc="the transform that was found good")
    facts = File(exists=True, desc="findings, JSON")


class JudgeAnatomy(AlsInterface):
    """Measure how well the image lies on the T1w, and refuse a failed registration."""

    input_spec = JudgeAnatomyInputSpec
    output_spec = JudgeAnatomyOutputSpec
    memory_gb = 0.3
    memory_per_anatomy = 6.5

    def _run_interface(self, runtime: Any) -> Any:
        brain = Path(self.inputs.brain)
        transform = Path(self.inputs.to_anatomy)
        moved = {}
        for name in ("image", "head"):
            path = apply_transforms(
                Path(getattr(self.inputs, name)),
                brain,
                [transform],
                self.file(runtime, f"{name}.nii.gz"),
                interpolation="Linear",
                n_threads=1,
            )
            moved[name] = read_image(path, ndim=3).data
        tissues = {n: read_image(Path(getattr(self.inputs, n)), ndim=3).data for n in ("wm", "csf")}
        mask = read_image(brain, ndim=3).data > 0
        overlap, separation, facts = steps.anatomy_facts(
            moved["image"], moved["head"], mask, tissues
        )
        limits = {n: getattr(self.inputs, n) for n in ("least_overlap", "least_separation")}
        steps.require_aligned(overlap, separation, Path(self.inputs.source), **limits)
        path = write_facts(self.file(runtime, "facts.json"), facts)
        return self.give(runtime, {"transform": transform, "facts": path})


class ReadProtonInputSpec(NodeInputSpec):
    """Inputs of :class:`ReadProton`."""

    images = InputMultiObject(File(exists=True), mandatory=True, desc="image, or its echoes")
    metadata = traits.List(traits.Dict(), mandatory=True, desc="sidecar of each")


class ReadProtonOutputSpec(NodeOutputSpec):
    """Outputs of :class:`ReadProton`."""

    image = File(exists=True, desc="head, air set to 0")
    head = File(exists=True, desc="head mask")


class ReadProton(AlsInterface):
    """Read a proton image of the head and find the head in it."""

    input_spec = ReadProtonInputSpec
    output_spec = ReadProtonOutputSpec
    memory_gb = 1.0

    def _run_interface(self, runtime: Any) -> Any:
        paths = [Path(path) for path in self.inputs.images]
        image, _, _ = first_echo(paths, self.inputs.metadata)
        with concerning(image.path):
            head = steps.proton_head(image)
        results = {name: self.file(runtime, f"{name}.nii.gz") for name in ("image", "head")}
        write_image(np.where(head, image.data, 0), image.affine, results["image"])
        write_image(head, image.affine, results["head"])
        return self.give(runtime, results)


class JudgeProtonInputSpec(NodeInputSpec):
    """Inputs of :class:`JudgeProton`."""

    image = File(exists=True, mandatory=True, desc="sodium image of the head, 0 elsewhere")
    source = File(exists=True, mandatory=True, desc="file of the dataset, for errors")
    to_proton = File(exists=True, mandatory=True, desc="transform to the proton image, ITK")
    proton_head = File(exists=True, mandatory=True, desc="head of the proton image")
    least_overlap = traits.Float(mandatory=True, desc="below it an error")


class JudgeProton(AlsInterface):
    """Measure how much of the head's signal lies in the proton image's head; refuse a failure."""

    input_spec = JudgeProtonInputSpec
    output_spec = JudgeAnatomyOutputSpec
    memory_gb = 1.0

    def _run_interface(self, runtime: Any) -> Any:
        transform, reference = Path(self.inputs.to_proton), Path(self.inputs.proton_head)
        mover = steps.Mover(Path(runtime.cwd), reference, [transform])
        facts = steps.proton_facts(
            mover.values(Path(self.inputs.image), "head"),
            read_image(reference, ndim=3).data > 0,
            Path(self.inputs.source),
            least_overlap=self.inputs.least_overlap,
        )
        path = write_facts(self.file(runtime, "facts.json"), facts)
        return self.give(runtime, {"transform": transform, "facts": path})


class AnatomyInputSpec(NodeInputSpec):
    """Inputs of nodes that bring the T1w's tissues to the sodium image."""

    t1w = File(exists=True, desc="T1w")
    brain = File(exists=True, desc="its brain mask")
    wm = File(exists=True, desc="its white matter")
    gm = File(exists=True, desc="its grey matter")
    csf = File(exists=True, desc="its cerebrospinal fluid")
    to_anatomy = File(exists=True, desc="transform of the sodium image to the T1w, ITK")


def read_anatomy(inputs: Any) -> Anatomy:
    """T1w, tissues and where they lie, from the inputs of a node."""
    t1w = read_image(Path(inputs.t1w), ndim=3)
    return Anatomy(
        t1w=t1w.data,
        tissues={n: read_image(Path(getattr(inputs, n)), ndim=3).data for n in TISSUES},
        brain=read_image(Path(inputs.brain), ndim=3).data > 0,
        affine=t1w.affine,
        to_sodium=read_linear(Path(inputs.to_anatomy)),
    )


class ToConcentrationInputSpec(AnatomyInputSpec):
    """Inputs of :class:`ToConcentration`."""

    image = File(exists=True, mandatory=True, desc="signal as of an even coil")
    protocol = File(exists=True, mandatory=True, desc="its protocol")
    line = File(exists=True, mandatory=True, desc="line of the tubes")
    relaxation_times = traits.Dict(mandatory=True, desc="of every tissue, ms")
    has_relaxation = traits.Bool(mandatory=True, desc="whether relaxation is corrected")
    usual_mmol_l = traits.List(traits.Float(), mandatory=True, desc="of the three tissues")
    temperature_correction = traits.Bool(mandatory=True, desc="whether it is corrected")
    brain_celsius = traits.Float(mandatory=True, desc="temperature of the brain")
    tube_celsius = traits.Float(mandatory=True, desc="temperature of the tubes")


class MapOutputSpec(NodeOutputSpec):
    """Outputs of nodes that make one map."""

    image = File(exists=True, desc="map")


def temperature_factor(inputs: Any) -> float:
    """Factor of the temperatures, 1 where it is not asked for."""
    if not inputs.temperature_correction:
        return 1.0
    return curie_factor(inputs.brain_celsius, inputs.tube_celsius)


class ToConcentration(AlsInterface):
    """Turn signal into the sodium concentration of every voxel."""

    input_spec = ToConcentrationInputSpec
    output_spec = MapOutputSpec
    memory_gb = 0.35
    memory_per_anatomy = 8.0

    def _run_interface(self, runtime: Any) -> Any:
        image = read_image(Path(self.inputs.image), ndim=3)
        protocol = read_protocol_file(Path(self.inputs.protocol))
        times = self.inputs.relaxation_times
        tissues = None
        if optional_path(self.inputs.t1w) is not None and self.inputs.has_relaxation:
            width_mm = protocol.spread_of(relaxation_of(times["wm"])).fwhm_mm
            tissues = seen_tissues(read_anatomy(self.inputs), image, fwhm_mm=width_mm)
        sodium = steps.concentration_map(
            image,
            read_line(Path(self.inputs.line)),
            protocol,
            times,
            tissues,
            has_relaxation=self.inputs.has_relaxation,
            usual_mmol_l=self.inputs.usual_mmol_l,
            factor=temperature_factor(self.inputs),
        )
        path = self.file(runtime, "tsc.nii.gz")
        write_image(np.asarray(sodium, np.float32), image.affine, path)
        return self.give(runtime, {"image": path})


class CorrectPartialVolumeInputSpec(ToConcentrationInputSpec):
    """Inputs of :class:`CorrectPartialVolume`."""

    labels = File(exists=True, mandatory=True, desc="number of the tube of each voxel")
    head = File(exists=True, mandatory=True, desc="head without tubes")
    noise = File(exists=True, mandatory=True, desc="noise of the image")
    source = File(exists=True, mandatory=True, desc="file of the dataset, for errors")
    voxel_mm = traits.Float(mandatory=True, desc="largest edge of the fine grid, mm")
    margin_mm = traits.Float(mandatory=True, desc="kept around the brain, mm")
    ventricle_depth_mm = traits.Float(mandatory=True, desc="depth of ventricles, mm")
    eye_share = traits.Float(mandatory=True, desc="share of fluid's signal of eyes")
    least_region_spreads = traits.Float(mandatory=True, desc="smallest region, point spreads")
    tissue_shares = traits.Enum("mixture", "probability", mandatory=True, desc="of the T1w")
    is_fitted = traits.Bool(mandatory=True, desc="whether the point spread's width is fitted")


class CorrectPartialVolumeOutputSpec(NodeOutputSpec):
    """Outputs of :class:`CorrectPartialVolume`."""

    voxelwise = File(exists=True, desc="sodium of the voxel's own tissues, mmol/L")
    tissue = File(exists=True, desc="sodium of its grey and white matter, mmol/L")
    regions = File(exists=True, desc="regions, TSV")
    facts = File(exists=True, desc="findings, JSON")


class CorrectPartialVolume(AlsInterface):
    """Correct voxels and regions for blur between tissues."""

    input_spec = CorrectPartialVolumeInputSpec
    output_spec = CorrectPartialVolumeOutputSpec
    memory_gb = 0.45
    memory_per_anatomy = 8.5
    # shares of all regions and their blurred twins, on a grid of 2 mm
    memory_of_grid = 0.28

    def needed_gb(self, series: SeriesSize) -> float:
        """Memory that it takes on a grid that divides the voxels of the image, in GB."""
        voxel_mm = float(self.inputs.voxel_mm)
        edges_mm = [edge / math.ceil(edge / voxel_mm) for edge in series.voxel_mm]
        return super().needed_gb(series) + self.memory_of_grid * 8.0 / math.prod(edges_mm)

    def _run_interface(self, runtime: Any) -> Any:
        line = read_line(Path(self.inputs.line))
        raw = read_image(Path(self.inputs.image), ndim=3)
        image = replace(raw, data=raw.data - line.intercept, path=Path(self.inputs.source))
        anatomy = read_anatomy(self.inputs)
        if self.inputs.tissue_shares == "mixture":
            with concerning(Path(self.inputs.t1w)):
                anatomy = replace(anatomy, tissues=mixed_shares(anatomy))
        fine = fine_grid(
            image, anatomy, voxel_mm=self.inputs.voxel_mm, margin_mm=self.inputs.margin_mm
        )
        refined = fine.refined(image.data)
        regions = region_fractions(
            anatomy,
            fine,
            refined,
            sodium_head=fine.carried(read_image(Path(self.inputs.head), ndim=3).data > 0),
            tubes=fine.carried(read_image(Path(self.inputs.labels), ndim=3).data > 0),
            ventricle_depth_mm=self.inputs.ventricle_depth_mm,
            eye_share=self.inputs.eye_share,
        )
        slope = line.slope / temperature_factor(self.inputs)
        # NaN where nothing tells it
        error = float(np.nan_to_num(line.slope_error / line.slope))
        with concerning(image.path):
            done = correct_partial_volume(
                image,
                fine,
                refined,
                regions,
                read_protocol_file(Path(self.inputs.protocol)),
                self.inputs.relaxation_times,
                anatomy_mm=float(np.mean(anatomy.voxel_mm)),
                slope=slope,
                slope_error=slope * error,
                has_relaxation=self.inputs.has_relaxation,
                least_region_spreads=self.inputs.least_region_spreads,
                noise_sigma=steps.read_noise(Path(self.inputs.noise)).sigma,
                is_fitted=self.inputs.is_fitted,
            )
        return self.give(runtime, self._saved(runtime, done, image))

    def _saved(self, runtime: Any, done: Any, image: ImageData) -> dict[str, Any]:
        results = {}
        for name in ("voxelwise", "tissue"):
            results[name] = self.file(runtime, f"{name}.nii.gz")
            values = np.asarray(getattr(done, name), np.float32)
            write_image(values, image.affine, results[name])
        results["regions"] = self.file(runtime, "regions.tsv")
        done.table.to_csv(results["regions"], sep="\t", index=False, float_format="%.6g")
        results["facts"] = write_facts(self.file(runtime, "facts.json"), done.facts)
        return results


class MeasureTissuesInputSpec(AnatomyInputSpec):
    """Inputs of :class:`MeasureTissues`."""

    tsc = File(exists=True, mandatory=True, desc="sodium map, mmol/L")
    voxelwise = File(exists=True, desc="corrected for partial volume, mmol/L")
    regions = File(exists=True, desc="corrected regions, TSV")
    min_probability = traits.Float(mandatory=True, desc="a voxel belongs to a tissue from here")


class MeasureTissuesOutputSpec(NodeOutputSpec):
    """Outputs of :class:`MeasureTissues`."""

    table = File(exists=True, desc="table, TSV")
    figure = File(exists=True, desc="histogram")
    facts = File(exists=True, desc="findings, JSON")


class MeasureTissues(AlsInterface):
    """Summarise sodium over the tissues, uncorrected and corrected side by side."""

    input_spec = MeasureTissuesInputSpec
    output_spec = MeasureTissuesOutputSpec
    memory_gb = 0.35
    memory_per_anatomy = 8.0

    def _run_interface(self, runtime: Any) -> Any:
        from bids_alsmri.reports.figures import draw_histograms, save_figure

        image = read_image(Path(self.inputs.tsc), ndim=3)
        maps = {"tsc": image.data}
        corrected = optional_path(self.inputs.voxelwise)
        if corrected is not None:
            maps["tsc_voxelwise"] = read_image(corrected, ndim=3).data
        shares = seen_tissues(read_anatomy(self.inputs), image, fwhm_mm=max(image.voxel_mm))
        least = self.inputs.min_probability
        rows = steps.tissue_rows(maps, shares, min_probability=least)
        facts = {"measures": steps.tissue_measures(rows)}
        regions = optional_path(self.inputs.regions)
        if regions is not None:
            rows += steps.corrected_rows(pd.read_csv(regions, sep="\t"))
        table, figure = self.file(runtime, "tissues.tsv"), self.file(runtime, "histogram.svg")
        pd.DataFrame(rows).to_csv(table, sep="\t", index=False, na_rep="n/a", float_format="%.6g")
        values = {REGION_NAMES[n]: image.data[share >= least] for n, share in shares.items()}
        save_figure(draw_histograms(values, xlabel=UNIT, limits=(0.0, 180.0)), figure)
        facts_path = write_facts(self.file(runtime, "facts.json"), facts)
        return self.give(runtime, {"table": table, "figure": figure, "facts": facts_path})


class ToSpacesInputSpec(NodeInputSpec):
    """Inputs of :class:`ToSpaces`."""

    tsc = File(exists=True, mandatory=True, desc="sodium map, mmol/L")
    tissue = File(exists=True, desc="sodium of grey and white matter, mmol/L")
    gm = File(exists=True, mandatory=True, desc="grey matter of the T1w")
    wm = File(exists=True, mandatory=True, desc="white matter of the T1w")
    to_anatomy = File(exists=True, mandatory=True, desc="transform to the T1w, ITK")
    to_template = File(exists=True, mandatory=True, desc="transform of the T1w to the template")
    template = traits.Str(mandatory=True, desc="template space")
    resolution_mm = traits.Float(mandatory=True, desc="voxel size in template space, mm")
    t1w_resolution_mm = traits.Float(mandatory=True, desc="voxel size in T1w space, mm")
    fwhm_mm = traits.Float(mandatory=True, desc="width of the smoothing, mm")


class ToSpacesOutputSpec(NodeOutputSpec):
    """Outputs of :class:`ToSpaces`."""

    t1w = File(exists=True, desc="sodium map in T1w space")
    template = File(exists=True, desc="sodium map in template space")
    smoothed = File(exists=True, desc="smoothed map that groups are compared on")
    gm = File(exists=True, desc="grey matter in template space, smoothed alike")


class ToSpaces(AlsInterface):
    """Bring sodium to T1w and template space by one interpolation, and smooth it."""

    input_spec = ToSpacesInputSpec
    output_spec = ToSpacesOutputSpec
    memory_gb = 0.7

    def _run_interface(self, runtime: Any) -> Any:
        folder = Path(runtime.cwd)
        edge_mm = self.inputs.resolution_mm
        template = get_template(self.inputs.template, edge_mm).save(folder)
        grid = steps.coarser_grid(
            Path(self.inputs.gm), folder / "grid.nii.gz", voxel_mm=self.inputs.t1w_resolution_mm
        )
        rigid, warp = Path(self.inputs.to_anatomy), Path(self.inputs.to_template)
        move = steps.Mover(folder, template["mask"], [warp, rigid])
        results = {
            "t1w": steps.Mover(folder, grid, [rigid]).move(Path(self.inputs.tsc), "t1w"),
            "template": move.move(Path(self.inputs.tsc), "template"),
        }
        shares = {
            name: steps.Mover(folder, template["mask"], [warp]).values(
                Path(getattr(self.inputs, name)), f"share_{name}"
            )
            for name in ("gm", "wm")
        }
        mask = read_image(template["mask"], ndim=3)
        tissue = optional_path(self.inputs.tissue)
        values = move.values(tissue or Path(self.inputs.tsc), "compared")
        smooth = {"voxel_mm": edge_mm, "fwhm_mm": self.inputs.fwhm_mm}
        share = None if tissue is None else shares["gm"] + shares["wm"]
        maps = {
            "smoothed": steps.smoothed(values, share, mask.data > 0, **smooth),
            "gm": steps.smoothed(shares["gm"], None, mask.data > 0, **smooth),
        }
        for name, found in maps.items():
            results[name] = folder / f"{name}_final.nii.gz"
            write_image(np.asarray(found, np.float32), mask.affine, results[name], space="mni152")
        return self.give(runtime, results)


class MeasureAtlasesInputSpec(NodeInputSpec):
    """Inputs of :class:`MeasureAtlases`."""

    tsc = File(exists=True, mandatory=True, desc="sodium map, mmol/L")
    voxelwise = File(exists=True, desc="corrected for partial volume, mmol/L")
    tissue = File(exists=True, desc="of grey and white matter alone, mmol/L")
    atlases = File(exists=True, mandatory=True, desc="atlases on one grid of the template, .npz")
    to_anatomy = File(exists=True, mandatory=True, desc="transform to the T1w, ITK")
    from_template = File(exists=True, mandatory=True, desc="transform of the template to the T1w")


class MeasureAtlasesOutputSpec(NodeOutputSpec):
    """Outputs of :class:`MeasureAtlases`."""

    table = File(exists=True, desc="table, TSV")
    summary = File(exists=True, desc="the same, one row per map and region, TSV")
    motor_areas = File(exists=True, desc="labels of the motor areas, where they are at hand")


class MeasureAtlases(AlsInterface):
    """Summarise sodium over the regions of atlases, in the image's own space."""

    input_spec = MeasureAtlasesInputSpec
    output_spec = MeasureAtlasesOutputSpec
    memory_gb = 0.6

    def _run_interface(self, runtime: Any) -> Any:
        image = read_image(Path(self.inputs.tsc), ndim=3)
        maps = {"tsc": image.data}
        for name in ("voxelwise", "tissue"):
            path = optional_path(getattr(self.inputs, name))
            if path is not None:
                values = read_image(path, ndim=3).data
                # they are 0 where nothing tells
                maps[f"tsc_{name}"] = np.where(values > 0, values, np.nan)
        to_sodium = np.linalg.inv(read_linear(Path(self.inputs.to_anatomy)))
        back = write_linear(to_sodium, self.file(runtime, "back.txt"))
        grid = self.file(runtime, "grid.nii.gz")
        done = places.measure_atlases(
            image,
            maps,
            read_atlases(Path(self.inputs.atlases)),
            [back, Path(self.inputs.from_template)],
            grid,
        )
        tables = {
            "table": places.in_long_form(done.summary, image.voxel_mm),
            "summary": done.summary,
        }
        results = {name: self.file(runtime, f"{name}.tsv") for name in tables}
        for name, table in tables.items():
            table.to_csv(results[name], sep="\t", index=False, na_rep="n/a", float_format="%.6g")
        if done.motor_labels is not None:
            results["motor_areas"] = self.file(runtime, "motor_areas.nii.gz")
            affine = read_image(grid, ndim=3).affine
            write_image(done.motor_labels.astype(np.int16), affine, results["motor_areas"])
        return self.give(runtime, results)


class DrawAreasInputSpec(NodeInputSpec):
    """Inputs of :class:`DrawAreas`."""

    tsc = File(exists=True, mandatory=True, desc="sodium map, mmol/L")
    motor_areas = File(exists=True, mandatory=True, desc="labels of the motor areas")
    summary = File(exists=True, mandatory=True, desc="one row per map and region, TSV")
    high = traits.Float(mandatory=True, desc="upper end of the scale, mmol/L")


class DrawAreasOutputSpec(NodeOutputSpec):
    """Outputs of :class:`DrawAreas`."""

    outlines = File(exists=True, desc="sodium map with the outlines of the motor areas")
    values = File(exists=True, desc="plot of their sodium")


class DrawAreas(AlsInterface):
    """Draw where the motor areas lie on the sodium map, and their sodium."""

    input_spec = DrawAreasInputSpec
    output_spec = DrawAreasOutputSpec
    memory_gb = 0.25

    def _run_interface(self, runtime: Any) -> Any:
        from bids_alsmri.reports.figures import Contour, draw_mosaic, draw_regions, save_figure

        labels, affine = canonical(Path(self.inputs.motor_areas))
        masks = places.structures_of(labels)
        outlines = draw_mosaic(
            on_grid_of(Path(self.inputs.tsc), affine, labels.shape),
            voxel_edges_mm(affine),
            contours=[
                Contour(mask, 0.5, colour, name)
                for (name, mask), colour in zip(masks.items(), OUTLINE_COLOURS, strict=False)
            ],
            window=(0.0, self.inputs.high),
            origin_mm=origin_mm(affine, labels.shape),
            margin_mm=AROUND_AREAS_MM,
        )
        rows = places.motor_rows(pd.read_csv(self.inputs.summary, sep="\t", na_values="n/a"))
        values = draw_regions(rows.fillna({"side": "n/a"}), measures=MAP_NAMES, xlabel=UNIT)
        results = {name: self.file(runtime, f"{name}.svg") for name in ("outlines", "values")}
        save_figure(outlines, results["outlines"])
        save_figure(values, results["values"])
        return self.give(runtime, results)
