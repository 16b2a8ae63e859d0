"""Nodes of the muscle pipeline: load, call one function, save."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from nipype.interfaces.base import File, InputMultiObject, isdefined, traits

from bids_alsmri.interfaces.anatomy import correct_bias
from bids_alsmri.interfaces.base import concerning, read_image, write_image
from bids_alsmri.interfaces.drawing import FigureOutputSpec
from bids_alsmri.interfaces.images import optional_path
from bids_alsmri.interfaces.node import (
    AlsInterface,
    NodeInputSpec,
    NodeOutputSpec,
    SeriesSize,
    write_facts,
)
from bids_alsmri.interfaces.registration import write_linear
from bids_alsmri.numerics.apparent_diffusion import fit_adc
from bids_alsmri.pipelines.muscle import (
    atlases,
    compartments,
    doubts,
    drawing,
    echoes,
    measures,
    sessions,
    steps,
)
from bids_alsmri.pipelines.muscle.labels import label_rows, read_labels
from bids_alsmri.pipelines.muscle.vocabulary import read_vocabulary


def write_table(table: pd.DataFrame, path: Path) -> Path:
    """Write a table as TSV, and return the path."""
    table.to_csv(path, sep="\t", index=False, na_rep="n/a", float_format="%.6g")
    return path


class OrderStationsInputSpec(NodeInputSpec):
    """Inputs of :class:`OrderStations`."""

    images = InputMultiObject(File(exists=True), mandatory=True, desc="first image of each")
    metadata = traits.List(traits.Dict(), mandatory=True, desc="sidecar of each")
    stations = traits.List(traits.Dict(), mandatory=True, desc="what each is")
    sources = traits.List(traits.Str(), mandatory=True, desc="where the labels of each are from")
    step_mm = traits.Float(mandatory=True, desc="lattice of the comparison, mm")
    most_shift_mm = traits.Float(mandatory=True, desc="displacement that is told, mm")
    least_overlap_mm = traits.Float(mandatory=True, desc="overlap that is told, mm")


class OrderStationsOutputSpec(NodeOutputSpec):
    """Outputs of :class:`OrderStations`."""

    table = File(exists=True, desc="stations from head to foot, TSV")
    facts = File(exists=True, desc="findings, JSON")


class OrderStations(AlsInterface):
    """Order stations by their place, and compare neighbours where they overlap."""

    input_spec = OrderStationsInputSpec
    output_spec = OrderStationsOutputSpec
    memory_gb = 0.4
    memory_per_series = 20.0

    def _run_interface(self, runtime: Any) -> Any:
        table, facts = steps.order_stations(
            self.inputs.stations,
            [Path(path) for path in self.inputs.images],
            self.inputs.metadata,
            step_mm=self.inputs.step_mm,
            most_shift_mm=self.inputs.most_shift_mm,
            least_overlap_mm=self.inputs.least_overlap_mm,
        )
        keys = [station["key"] for station in self.inputs.stations]
        table["labels"] = table.pop("key").map(dict(zip(keys, self.inputs.sources, strict=True)))
        return self.give(
            runtime,
            {
                "table": write_table(table, self.file(runtime, "stations.tsv")),
                "facts": write_facts(self.file(runtime, "facts.json"), facts),
            },
        )


class PrepareStationInputSpec(NodeInputSpec):
    """Inputs of :class:`PrepareStation`."""

    image = File(exists=True, mandatory=True, desc="station as reconstructed")
    labels = File(exists=True, desc="muscles and bones on its grid")
    method = traits.Enum(
        "tissues", "n4", "off", mandatory=True, desc="correction of the receive field"
    )
    order = traits.Int(mandatory=True, desc="of the polynomial, by tissues")
    cell_mm = traits.Float(mandatory=True, desc="cubes of unlabelled tissue, mm")
    shrink_factor = traits.Int(mandatory=True, desc="down-sampling for the estimate")
    iterations = traits.List(traits.Int(), mandatory=True, desc="most iterations per level")
    convergence = traits.Float(mandatory=True, desc="change at which a level ends")
    spline_mm = traits.Float(mandatory=True, desc="distance of control points, mm")
    n_threads = traits.Int(mandatory=True, nohash=True, desc="ITK threads")


class PrepareStationOutputSpec(NodeOutputSpec):
    """Outputs of :class:`PrepareStation`."""

    image = File(exists=True, desc="station as of an even coil")
    noise = File(exists=True, desc="noise as reconstructed, JSON")


class PrepareStation(AlsInterface):
    """Tell the noise of a station, and take its receive field off."""

    input_spec = PrepareStationInputSpec
    output_spec = PrepareStationOutputSpec
    memory_gb = 0.6
    memory_per_series = 12.0

    def _run_interface(self, runtime: Any) -> Any:
        image = read_image(Path(self.inputs.image), ndim=3)
        noise = steps.write_noise(
            steps.noise_or_none(image.data)[0], self.file(runtime, "noise.json")
        )
        clean, out = self.file(runtime, "station.nii.gz"), self.file(runtime, "even.nii.gz")
        write_image(image.data, image.affine, clean)
        if self.inputs.method == "off":
            return self.give(runtime, {"image": clean, "noise": noise})
        if self.inputs.method == "tissues" and isdefined(self.inputs.labels):
            labels = read_image(Path(self.inputs.labels), ndim=3).data
            with concerning(image.path):
                field = steps.field_of(
                    image, labels, order=self.inputs.order, cell_mm=self.inputs.cell_mm
                )
            write_image(np.asarray(image.data / field, np.float32), image.affine, out)
            return self.give(runtime, {"image": out, "noise": noise})
        mask = self.file(runtime, "body.nii.gz")
        write_image(steps.body_of(image), image.affine, mask)
        correct_bias(
            clean,
            out,
            mask=mask,
            shrink_factor=self.inputs.shrink_factor,
            iterations=tuple(self.inputs.iterations),
            convergence=self.inputs.convergence,
            spline_mm=self.inputs.spline_mm,
            n_threads=self.inputs.n_threads,
        )
        return self.give(runtime, {"image": out, "noise": noise})


class ReadStationLabelsInputSpec(NodeInputSpec):
    """Inputs of :class:`ReadStationLabels`."""

    labels = File(exists=True, mandatory=True, desc="labels that somebody drew")
    table = File(exists=True, desc="their names")
    station = File(exists=True, mandatory=True, desc="image of the station")
    codes = traits.Str(mandatory=True, desc="what numbers mean")
    region_list = traits.Str(mandatory=True, desc="the user's own list; empty for ours")


class ReadStationLabelsOutputSpec(NodeOutputSpec):
    """Outputs of :class:`ReadStationLabels`."""

    labels = File(exists=True, desc="numbers of the list of regions, on the station's grid")
    table = File(exists=True, desc="numbers and names, TSV")
    facts = File(exists=True, desc="findings, JSON")


class ReadStationLabels(AlsInterface):
    """Bring labels to the grid of their station and to the numbers of the list of regions."""

    input_spec = ReadStationLabelsInputSpec
    output_spec = ReadStationLabelsOutputSpec
    memory_gb = 0.3
    memory_per_series = 6.0

    def _run_interface(self, runtime: Any) -> Any:
        vocabulary = read_vocabulary(optional_path(self.inputs.region_list))
        station = steps.first_volume(Path(self.inputs.station))
        found = read_labels(
            Path(self.inputs.labels),
            optional_path(self.inputs.table),
            station,
            vocabulary,
            codes=self.inputs.codes,
        )
        path = self.file(runtime, "labels.nii.gz")
        write_image(found.labels, station.affine, path)
        facts = {"warnings": list(found.warnings), "notes": list(found.notes)}
        return self.give(
            runtime,
            {
                "labels": path,
                "table": write_table(
                    label_rows(found.labels, vocabulary), self.file(runtime, "labels.tsv")
                ),
                "facts": write_facts(self.file(runtime, "facts.json"), facts),
            },
        )


class DivideByBoneInputSpec(NodeInputSpec):
    """Inputs of :class:`DivideByBone`."""

    image = File(exists=True, mandatory=True, desc="station as of an even coil")
    noise = File(exists=True, mandatory=True, desc="its noise, JSON")
    title = traits.Str(mandatory=True, desc="name of the station")
    bone = File(exists=True, desc="mask of bone that somebody drew")
    labels = File(exists=True, desc="labels, bones among them perhaps")
    marrow = InputMultiObject(File(exists=True), desc="compartments of legs in its frame")
    bones = traits.List(traits.Str(), desc="bones that were asked for; none for all")
    region_list = traits.Str(mandatory=True, desc="the user's own list; empty for ours")
    least_snr = traits.Float(mandatory=True, desc="signal over noise below which it is refused")
    most_variation = traits.Float(mandatory=True, desc="variation above which it is refused")


class DivideByBoneOutputSpec(NodeOutputSpec):
    """Outputs of :class:`DivideByBone`."""

    relative = File(exists=True, desc="relative T2 signal; 0 where it was refused")
    bone = File(exists=True, desc="bone that was taken")
    facts = File(exists=True, desc="findings, JSON")
    reference = File(exists=True, desc="bone reference for the sidecar, JSON")


class DivideByBone(AlsInterface):
    """Divide a T2w station by the signal of its bone."""

    input_spec = DivideByBoneInputSpec
    output_spec = DivideByBoneOutputSpec
    memory_gb = 0.3
    memory_per_series = 10.0

    def _run_interface(self, runtime: Any) -> Any:
        image = read_image(Path(self.inputs.image), ndim=3)
        bone = steps.bone_of_station(
            image,
            optional_path(self.inputs.bone),
            optional_path(self.inputs.labels),
            self.inputs.bones,
            read_vocabulary(optional_path(self.inputs.region_list)),
        )
        if bone is None and isdefined(self.inputs.marrow):
            bone = compartments.marrow_on([Path(path) for path in self.inputs.marrow], image)
        found = steps.bone_reference(
            image,
            bone,
            steps.read_noise(Path(self.inputs.noise)),
            least_snr=self.inputs.least_snr,
            most_variation=self.inputs.most_variation,
        )
        divisor = np.inf if found.refusal else found.mean
        relative, mask = self.file(runtime, "relative.nii.gz"), self.file(runtime, "bone.nii.gz")
        write_image(np.asarray(image.data / divisor, np.float32), image.affine, relative)
        empty = np.zeros(image.data.shape, bool)
        write_image(empty if bone is None else bone, image.affine, mask)
        facts = steps.facts_of_reference(found, self.inputs.title)
        sidecar = {"BoneReference": {k: v for k, v in asdict(found).items() if v == v}}
        return self.give(
            runtime,
            {
                "relative": relative,
                "bone": mask,
                "facts": write_facts(self.file(runtime, "facts.json"), facts),
                "reference": write_facts(self.file(runtime, "reference.json"), sidecar),
            },
        )


class FuseAtlasesInputSpec(NodeInputSpec):
    """Inputs of :class:`FuseAtlases`."""

    image = File(exists=True, mandatory=True, desc="station that nobody labelled")
    title = traits.Str(mandatory=True, desc="its name")
    atlas_images = InputMultiObject(File(exists=True), mandatory=True, desc="labelled stations")
    atlas_labels = InputMultiObject(File(exists=True), mandatory=True, desc="labels of each")
    codes = traits.Str(mandatory=True, desc="what numbers mean")
    region_list = traits.Str(mandatory=True, desc="the user's own list; empty for ours")
    fusion = traits.Dict(mandatory=True, desc="registrations and fusion")
    bias = traits.Dict(mandatory=True, desc="correction of the receive field")
    leaves_one_out = traits.Bool(mandatory=True, desc="whether labelled stations are tested")
    seed = traits.Int(mandatory=True, desc="seed of the metric's sampling")
    registration_threads = traits.Int(mandatory=True, desc="ITK threads of each registration")
    n_threads = traits.Int(mandatory=True, nohash=True, desc="threads of the step in all")


class FuseAtlasesOutputSpec(NodeOutputSpec):
    """Outputs of :class:`FuseAtlases`."""

    labels = File(exists=True, desc="numbers of the list of regions")
    table = File(exists=True, desc="numbers and names, TSV")
    left_out = File(exists=True, desc="overlap of labelled stations with what others make, TSV")
    facts = File(exists=True, desc="findings, JSON")


class FuseAtlases(AlsInterface):
    """Label a station from labelled ones of other people."""

    input_spec = FuseAtlasesInputSpec
    output_spec = FuseAtlasesOutputSpec
    memory_gb = 0.6
    memory_per_series = 30.0

    def needed_gb(self, series: SeriesSize) -> float:
        """Memory in GB, with that of the registrations that run at once."""
        return super().needed_gb(series) + 0.5 * self._n_at_once()

    def _n_at_once(self) -> int:
        return max(1, int(self.inputs.n_threads) // int(self.inputs.registration_threads))

    def _run_interface(self, runtime: Any) -> Any:
        vocabulary = read_vocabulary(optional_path(self.inputs.region_list))
        labels, facts, left_out = atlases.label_station(
            Path(self.inputs.image),
            self.inputs.title,
            atlases.Given(
                tuple(Path(path) for path in self.inputs.atlas_images),
                tuple(Path(path) for path in self.inputs.atlas_labels),
                vocabulary,
                self.inputs.codes,
            ),
            Path(runtime.cwd),
            settings=atlases.fusion_settings(
                self.inputs.fusion,
                seed=self.inputs.seed,
                n_threads=self.inputs.registration_threads,
                n_at_once=self._n_at_once(),
            ),
            bias={**self.inputs.bias, "n_threads": self.inputs.n_threads},
            leaves_one_out=self.inputs.leaves_one_out,
        )
        table = label_rows(np.asarray(read_image(labels, ndim=3).data, np.int16), vocabulary)
        return self.give(
            runtime,
            {
                "labels": labels,
                "table": write_table(table, self.file(runtime, "labels.tsv")),
                "left_out": write_table(left_out, self.file(runtime, "left_out.tsv")),
                "facts": write_facts(self.file(runtime, "facts.json"), facts),
            },
        )


class DrawLeftOutInputSpec(NodeInputSpec):
    """Inputs of :class:`DrawLeftOut`."""

    tables = InputMultiObject(File(exists=True), mandatory=True, desc="overlaps, TSV")


class DrawLeftOut(AlsInterface):
    """Draw how well labelled stations are labelled from each other."""

    input_spec = DrawLeftOutInputSpec
    output_spec = FigureOutputSpec
    memory_gb = 0.3

    def _run_interface(self, runtime: Any) -> Any:
        from bids_alsmri.reports.figures import save_figure

        tables = [pd.read_csv(path, sep="\t", keep_default_na=False) for path in self.inputs.tables]
        figure = self.file(runtime, "left_out.svg")
        save_figure(atlases.draw_left_out(pd.concat(tables)), figure)
        return self.give(runtime, {"figure": figure})


class SegmentLegsInputSpec(NodeInputSpec):
    """Inputs of :class:`SegmentLegs`."""

    image = File(exists=True, mandatory=True, desc="station of legs, fat not suppressed")
    title = traits.Str(mandatory=True, desc="name of the station")
    doubt = traits.Str(mandatory=True, desc="what its sidecar says against a fat fraction")
    field_order = traits.Int(mandatory=True, desc="highest order of the receive field")
    least_contrast = traits.Float(mandatory=True, desc="fat over muscle that tells their mixture")


class SegmentLegsOutputSpec(NodeOutputSpec):
    """Outputs of :class:`SegmentLegs`."""

    labels = File(exists=True, desc="compartments; 0 where there are none")
    table = File(exists=True, desc="numbers and names, TSV")
    fat = File(exists=True, desc="fat fraction for the measurement, NaN outside the legs")
    fraction = File(exists=True, desc="fat fraction to be kept, 0 outside the legs")
    reference = File(exists=True, desc="signal of fat for the sidecar, JSON")
    protocol = File(exists=True, desc="whether there is a fat fraction, JSON")
    facts = File(exists=True, desc="findings, JSON")


class SegmentLegs(AlsInterface):
    """Find legs, their compartments and their fat, without any label."""

    input_spec = SegmentLegsInputSpec
    output_spec = SegmentLegsOutputSpec
    memory_gb = 0.5
    memory_per_series = 40.0

    def _run_interface(self, runtime: Any) -> Any:
        image = read_image(Path(self.inputs.image), ndim=3)
        with concerning(image.path):
            found = compartments.segment_legs(
                image,
                self.inputs.title,
                field_order=self.inputs.field_order,
                least_contrast=self.inputs.least_contrast,
                doubt=self.inputs.doubt,
            )
        files = {n: self.file(runtime, f"{n}.nii.gz") for n in ("labels", "fat", "fraction")}
        write_image(found.labels, image.affine, files["labels"])
        write_image(found.fat, image.affine, files["fat"])
        # 0 outside the legs is no fat; 0 all over would be a finding
        fraction = found.fat if found.refusal else np.nan_to_num(found.fat)
        write_image(fraction, image.affine, files["fraction"])
        # their numbers are ours, whatever list the user gives
        table = label_rows(found.labels, read_vocabulary(None))
        facts = {"warnings": list(found.warnings)}
        reference = self.file(runtime, "reference.json")
        protocol = {"has_fat": not found.refusal}
        return self.give(
            runtime,
            {
                **files,
                "table": write_table(table, self.file(runtime, "labels.tsv")),
                "reference": write_facts(reference, compartments.facts_of_fat(found)),
                "protocol": write_facts(self.file(runtime, "protocol.json"), protocol),
                "facts": write_facts(self.file(runtime, "facts.json"), facts),
            },
        )


class MapDixonInputSpec(NodeInputSpec):
    """Inputs of :class:`MapDixon`."""

    images = InputMultiObject(File(exists=True), mandatory=True, desc="water and fat, or echoes")
    metadata = traits.List(traits.Dict(), mandatory=True, desc="sidecar of each")
    parts = traits.List(traits.Str(), mandatory=True, desc="what the name of each tells")
    title = traits.Str(mandatory=True, desc="name of the station")
    shows_legs = traits.Bool(mandatory=True, desc="whether legs are looked for")
    field_order = traits.Int(mandatory=True, desc="highest order of the receive field")
    least_contrast = traits.Float(mandatory=True, desc="fat over muscle that tells their mixture")


class MapDixonOutputSpec(NodeOutputSpec):
    """Outputs of :class:`MapDixon`."""

    labels = File(exists=True, desc="compartments of legs; 0 where there are none")
    table = File(exists=True, desc="numbers and names, TSV")
    fat = File(exists=True, desc="fat fraction for the measurement, NaN where there is no signal")
    fraction = File(exists=True, desc="fat fraction to be kept, 0 where there is no signal")
    protocol = File(exists=True, desc="whether fractions above one half are known, JSON")
    reference = File(exists=True, desc="how it was made, for the sidecar, JSON")
    facts = File(exists=True, desc="findings, JSON")


class MapDixon(AlsInterface):
    """Tell water from fat in a pair of images, and find legs in them."""

    input_spec = MapDixonInputSpec
    output_spec = MapDixonOutputSpec
    memory_gb = 0.5
    memory_per_series = 40.0

    def _run_interface(self, runtime: Any) -> Any:
        paths = [Path(path) for path in self.inputs.images]
        pair = echoes.read_pair(paths, self.inputs.metadata, self.inputs.parts)
        with concerning(*paths):
            found = echoes.map_dixon(
                pair,
                self.inputs.title,
                shows_legs=self.inputs.shows_legs,
                field_order=self.inputs.field_order,
                least_contrast=self.inputs.least_contrast,
            )
        files = {n: self.file(runtime, f"{n}.nii.gz") for n in ("labels", "fat", "fraction")}
        affine = pair.first.affine
        labels = np.zeros(found.fat.shape, np.int16) if found.legs is None else found.legs.labels
        write_image(labels, affine, files["labels"])
        write_image(found.fat, affine, files["fat"])
        write_image(np.nan_to_num(found.fat), affine, files["fraction"])
        facts = {"warnings": list(found.warnings), "notes": list(found.notes)}
        texts: dict[str, dict[str, Any]] = {
            "protocol": {"is_ambiguous": found.is_ambiguous},
            "reference": echoes.facts_of_dixon(pair, found),
            "facts": facts,
        }
        told = {n: write_facts(self.file(runtime, f"{n}.json"), t) for n, t in texts.items()}
        rows = write_table(
            label_rows(labels, read_vocabulary(None)), self.file(runtime, "labels.tsv")
        )
        return self.give(runtime, {**files, **told, "table": rows})


class MapT2InputSpec(NodeInputSpec):
    """Inputs of :class:`MapT2`."""

    images = InputMultiObject(File(exists=True), mandatory=True, desc="echoes")
    metadata = traits.List(traits.Dict(), mandatory=True, desc="sidecar of each")
    title = traits.Str(mandatory=True, desc="name of the station")
    n_skipped = traits.Int(mandatory=True, desc="first echoes that are left out")


class MapT2OutputSpec(NodeOutputSpec):
    """Outputs of :class:`MapT2`."""

    t2 = File(exists=True, desc="relaxation time, s; 0 for none")
    facts = File(exists=True, desc="findings, JSON")


class MapT2(AlsInterface):
    """Fit the relaxation time of every voxel to the echoes of a station."""

    input_spec = MapT2InputSpec
    output_spec = MapT2OutputSpec
    memory_gb = 0.5
    memory_per_series = 30.0

    def _run_interface(self, runtime: Any) -> Any:
        paths = [Path(path) for path in self.inputs.images]
        with concerning(*paths):
            t2_s, image, facts = echoes.map_t2(
                paths, self.inputs.metadata, self.inputs.title, n_skipped=self.inputs.n_skipped
            )
        path = self.file(runtime, "t2.nii.gz")
        write_image(t2_s, image.affine, path)
        told = write_facts(self.file(runtime, "facts.json"), facts)
        return self.give(runtime, {"t2": path, "facts": told})


class LendLabelsInputSpec(NodeInputSpec):
    """Inputs of :class:`LendLabels`."""

    target = File(exists=True, mandatory=True, desc="station without labels")
    labels = InputMultiObject(File(exists=True), mandatory=True, desc="of others of its frame")


class LendLabelsOutputSpec(NodeOutputSpec):
    """Outputs of :class:`LendLabels`."""

    labels = File(exists=True, desc="labels; 0 where there are none")


class LendLabels(AlsInterface):
    """Bring labels of other stations to the grid of one that has none."""

    input_spec = LendLabelsInputSpec
    output_spec = LendLabelsOutputSpec
    memory_gb = 0.3
    memory_per_series = 20.0

    def _run_interface(self, runtime: Any) -> Any:
        target = steps.first_volume(Path(self.inputs.target))
        values = steps.reformat(target, steps.read_parts(self.inputs.labels), 0)[0]
        path = self.file(runtime, "labels.nii.gz")
        write_image(values.astype(np.int16), target.affine, path)
        return self.give(runtime, {"labels": path})


class GatherReferencesInputSpec(NodeInputSpec):
    """Inputs of :class:`GatherReferences`."""

    facts = InputMultiObject(File(exists=True), mandatory=True, desc="of every T2w station")


class GatherReferencesOutputSpec(NodeOutputSpec):
    """Outputs of :class:`GatherReferences`."""

    facts = File(exists=True, desc="findings of all, JSON")


class GatherReferences(AlsInterface):
    """Gather what the bone references of all stations were."""

    input_spec = GatherReferencesInputSpec
    output_spec = GatherReferencesOutputSpec
    memory_gb = 0.1

    def _run_interface(self, runtime: Any) -> Any:
        facts = [json.loads(Path(path).read_text("utf-8")) for path in self.inputs.facts]
        path = self.file(runtime, "facts.json")
        return self.give(runtime, {"facts": write_facts(path, sessions.facts_of_references(facts))})


class FitDiffusionInputSpec(NodeInputSpec):
    """Inputs of :class:`FitDiffusion`."""

    images = InputMultiObject(File(exists=True), mandatory=True, desc="series of the station")
    b_value_files = InputMultiObject(File(exists=True), mandatory=True, desc="bval of each")
    metadata = traits.List(traits.Dict(), mandatory=True, desc="sidecar of each")
    most_scale_difference = traits.Float(mandatory=True, desc="difference of scale, share")
    most_motion_mm = traits.Float(mandatory=True, desc="displacement that is told, mm")
    fat_most_adc = traits.Float(mandatory=True, desc="diffusion up to which a voxel is fat, mm2/s")
    most_unsuppressed = traits.Float(mandatory=True, desc="share of fat that is told")
    title = traits.Str(mandatory=True, desc="name of the station")


class FitDiffusionOutputSpec(NodeOutputSpec):
    """Outputs of :class:`FitDiffusion`."""

    adc = File(exists=True, desc="diffusion coefficient, mm2/s; 0 for none")
    series = File(exists=True, desc="all volumes")
    protocol = File(exists=True, desc="weightings, noise and displacement of fat, JSON")
    facts = File(exists=True, desc="findings, JSON")


class FitDiffusion(AlsInterface):
    """Fit the diffusion coefficient of a station."""

    input_spec = FitDiffusionInputSpec
    output_spec = FitDiffusionOutputSpec
    memory_gb = 0.3
    memory_per_series = 12.0

    def _run_interface(self, runtime: Any) -> Any:
        paths = [Path(path) for path in self.inputs.images]
        series = steps.join_series(
            paths,
            [Path(path) for path in self.inputs.b_value_files],
            self.inputs.metadata,
            most_scale_difference=self.inputs.most_scale_difference,
        )
        with concerning(*paths):
            adc = np.nan_to_num(fit_adc(series.image.data, series.b_values))
        protocol, facts = steps.protocol_of(series, self.inputs.metadata[0], self.inputs.title)
        facts["warnings"] += doubts.series_warnings(
            series,
            self.inputs.title,
            most_motion_mm=self.inputs.most_motion_mm,
            fat_most_adc=self.inputs.fat_most_adc,
            most_unsuppressed=self.inputs.most_unsuppressed,
        )
        maps = {name: self.file(runtime, f"{name}.nii.gz") for name in ("adc", "series")}
        affine = series.image.affine
        write_image(np.maximum(adc, 0).astype(np.float32), affine, maps["adc"])
        write_image(np.asarray(series.image.data, np.float32), affine, maps["series"])
        return self.give(
            runtime,
            {
                **maps,
                "protocol": write_facts(self.file(runtime, "protocol.json"), protocol),
                "facts": write_facts(self.file(runtime, "facts.json"), facts),
            },
        )


class ReformatInputSpec(NodeInputSpec):
    """Inputs of :class:`Reformat`."""

    target = File(exists=True, mandatory=True, desc="diffusion series")
    frame = traits.Str(mandatory=True, desc="its frame of reference")
    relative = InputMultiObject(File(exists=True), mandatory=True, desc="of T2w stations")
    frames = traits.List(traits.Str(), mandatory=True, desc="their frames of reference")
    labels = traits.List(traits.Str(), mandatory=True, desc="their labels; empty for none")
    title = traits.Str(mandatory=True, desc="name of the diffusion station")
    most_motion_mm = traits.Float(mandatory=True, desc="displacement that is told, mm")


class ReformatOutputSpec(NodeOutputSpec):
    """Outputs of :class:`Reformat`."""

    transform = File(exists=True, desc="from the T2w stations to the diffusion series, ITK text")
    relative = File(exists=True, desc="relative T2 signal; 0 where there is none")
    labels = File(exists=True, desc="labels; 0 where there are none")
    facts = File(exists=True, desc="findings, JSON")


class Reformat(AlsInterface):
    """Reformat T2w stations, and labels on them, to the grid of a diffusion station."""

    input_spec = ReformatInputSpec
    output_spec = ReformatOutputSpec
    memory_gb = 0.3
    memory_per_series = 20.0

    def _run_interface(self, runtime: Any) -> Any:
        target = steps.first_volume(Path(self.inputs.target))
        wanted = [frame == self.inputs.frame for frame in self.inputs.frames]
        results = {}
        for name, order, kind in (("relative", 1, np.float32), ("labels", 0, np.int16)):
            files = getattr(self.inputs, name)
            parts = steps.read_parts([f for f, w in zip(files, wanted, strict=True) if w and f])
            values = steps.reformat(target, parts, order)[0]
            results[name] = self.file(runtime, f"{name}.nii.gz")
            write_image(values.astype(kind), target.affine, results[name])
            if name == "relative":
                told = doubts.position_warnings(
                    values, target, self.inputs.title, most_mm=self.inputs.most_motion_mm
                )
        results["facts"] = write_facts(self.file(runtime, "facts.json"), {"warnings": told})
        # stations are brought together by their headers, as `steps.on_grid` does
        results["transform"] = write_linear(np.eye(4), self.file(runtime, "t2w_to_dwi.txt"))
        return self.give(runtime, results)


class MeasureMusclesInputSpec(NodeInputSpec):
    """Inputs of :class:`MeasureMuscles`; lists are in the order of the stations."""

    stations = traits.List(traits.Dict(), mandatory=True, desc="what each is")
    labels = InputMultiObject(File(exists=True), mandatory=True, desc="labels of each")
    relative = traits.List(traits.Str(), mandatory=True, desc="relative signal; empty for none")
    adc = traits.List(traits.Str(), mandatory=True, desc="diffusion; empty for none")
    series = traits.List(traits.Str(), mandatory=True, desc="series; empty for none")
    protocols = traits.List(traits.Str(), mandatory=True, desc="protocols; empty for none")
    fat = traits.List(traits.Str(), mandatory=True, desc="fat fractions; empty for none")
    t2 = traits.List(traits.Str(), mandatory=True, desc="relaxation times; empty for none")
    grading = traits.Dict(mandatory=True, desc="how fat is graded")
    region_list = traits.Str(mandatory=True, desc="the user's own list; empty for ours")
    has_floor_correction = traits.Bool(mandatory=True, desc="whether the floor is taken off")
    adc_least_snr = traits.Float(mandatory=True, desc="signal over noise below which it is told")
    fat_least = traits.Float(mandatory=True, desc="relative signal from which a voxel is fat")
    most_displaced_fat = traits.Float(mandatory=True, desc="share from which it is told")
    least_voxels = traits.Int(mandatory=True, desc="voxels below which it is told")


class MeasureMusclesOutputSpec(NodeOutputSpec):
    """Outputs of :class:`MeasureMuscles`."""

    table = File(exists=True, desc="measures of the session, TSV")
    facts = File(exists=True, desc="findings, JSON")
    figure = File(exists=True, desc="relative T2 signal of muscles, SVG")
    chart = File(exists=True, desc="the same on a body, SVG")


class MeasureMuscles(AlsInterface):
    """Measure the muscles of all stations of a session."""

    input_spec = MeasureMusclesInputSpec
    output_spec = MeasureMusclesOutputSpec
    memory_gb = 0.5
    memory_per_series = 60.0

    def _run_interface(self, runtime: Any) -> Any:
        from bids_alsmri.reports.figures import save_figure

        vocabulary = read_vocabulary(optional_path(self.inputs.region_list))
        stations = sessions.measured_stations(
            self.inputs,
            has_floor_correction=self.inputs.has_floor_correction,
            fat_least=self.inputs.fat_least,
            grading=sessions.grading_of(self.inputs.grading),
        )
        table, facts = sessions.measure_session(
            stations,
            vocabulary,
            adc_least_snr=self.inputs.adc_least_snr,
            most_displaced_fat=self.inputs.most_displaced_fat,
            least_voxels=self.inputs.least_voxels,
        )
        figure, chart = self.file(runtime, "muscles.svg"), self.file(runtime, "chart.svg")
        save_figure(drawing.draw_muscles(table), figure)
        save_figure(drawing.draw_chart(table), chart)
        return self.give(
            runtime,
            {
                "table": write_table(table, self.file(runtime, "muscles.tsv")),
                "facts": write_facts(self.file(runtime, "facts.json"), facts),
                "figure": figure,
                "chart": chart,
            },
        )


class CompareReadersInputSpec(NodeInputSpec):
    """Inputs of :class:`CompareReaders`; lists are in the order of the stations."""

    stations = traits.List(traits.Dict(), mandatory=True, desc="what each is")
    first = InputMultiObject(File(exists=True), mandatory=True, desc="labels of the first")
    second = InputMultiObject(File(exists=True), mandatory=True, desc="labels of the second")
    relative = traits.List(traits.Str(), mandatory=True, desc="relative signal; empty for none")
    region_list = traits.Str(mandatory=True, desc="the user's own list; empty for ours")


class CompareReadersOutputSpec(NodeOutputSpec):
    """Outputs of :class:`CompareReaders`."""

    table = File(exists=True, desc="agreement, TSV")
    figure = File(exists=True, desc="differences over means, SVG")


class CompareReaders(AlsInterface):
    """Tell how the labels of two readers agree."""

    input_spec = CompareReadersInputSpec
    output_spec = CompareReadersOutputSpec
    memory_gb = 0.5
    memory_per_series = 40.0

    def _run_interface(self, runtime: Any) -> Any:
        from bids_alsmri.reports.figures import save_figure

        vocabulary = read_vocabulary(optional_path(self.inputs.region_list))
        first, second = (
            sessions.read_stations(self.inputs.stations, files, self.inputs.relative)
            for files in (self.inputs.first, self.inputs.second)
        )
        table = measures.compare_readers(first, second, vocabulary)
        figure = self.file(runtime, "raters.svg")
        save_figure(drawing.draw_readers(table), figure)
        return self.give(
            runtime,
            {"table": write_table(table, self.file(runtime, "raters.tsv")), "figure": figure},
        )


class DrawStationsInputSpec(NodeInputSpec):
    """Inputs of the nodes that draw stations; lists are in their order."""

    images = InputMultiObject(File(exists=True), mandatory=True, desc="stations")
    titles = traits.List(traits.Str(), mandatory=True, desc="their names")
    labels = traits.List(traits.Str(), mandatory=True, desc="their labels; empty for none")


class DrawOverview(AlsInterface):
    """Draw a coronal slice through stations, each at its place."""

    input_spec = DrawStationsInputSpec
    output_spec = FigureOutputSpec
    memory_gb = 0.5
    memory_per_series = 15.0

    def _run_interface(self, runtime: Any) -> Any:
        from bids_alsmri.reports.figures import save_figure

        figure = self.file(runtime, "stations.svg")
        save_figure(
            drawing.draw_overview(self.inputs.images, self.inputs.titles, self.inputs.labels),
            figure,
        )
        return self.give(runtime, {"figure": figure})


class DrawMapsInputSpec(NodeInputSpec):
    """Inputs of :class:`DrawMaps`."""

    maps = InputMultiObject(File(exists=True), mandatory=True, desc="maps of stations")
    kinds = traits.List(traits.Str(), mandatory=True, desc="what each shows")


class DrawMaps(AlsInterface):
    """Draw coronal slices through maps, side by side."""

    input_spec = DrawMapsInputSpec
    output_spec = FigureOutputSpec
    memory_gb = 0.5
    memory_per_series = 15.0

    def _run_interface(self, runtime: Any) -> Any:
        from bids_alsmri.reports.figures import save_figure

        figure = self.file(runtime, "maps.svg")
        save_figure(drawing.draw_maps(self.inputs.maps, self.inputs.kinds), figure)
        return self.give(runtime, {"figure": figure})


class DrawSlicesInputSpec(DrawStationsInputSpec):
    """Inputs of :class:`DrawSlices`."""

    region_list = traits.Str(mandatory=True, desc="the user's own list; empty for ours")


class DrawSlices(AlsInterface):
    """Draw axial slices through the labels of each station."""

    input_spec = DrawSlicesInputSpec
    output_spec = FigureOutputSpec
    memory_gb = 0.5
    memory_per_series = 15.0

    def _run_interface(self, runtime: Any) -> Any:
        from bids_alsmri.reports.figures import save_figure

        # compartments are ours, whatever list the user gives
        lists = [read_vocabulary(None), read_vocabulary(optional_path(self.inputs.region_list))]
        names = {r.index: r.name for known in lists for r in known.regions}
        figure = self.file(runtime, "labels.svg")
        drawn = drawing.draw_slices(
            self.inputs.images, self.inputs.titles, self.inputs.labels, names
        )
        save_figure(drawn, figure)
        return self.give(runtime, {"figure": figure})


class DrawVisitsInputSpec(NodeInputSpec):
    """Inputs of :class:`DrawVisits`."""

    first = InputMultiObject(File(exists=True), mandatory=True, desc="stations at the first visit")
    images = InputMultiObject(File(exists=True), mandatory=True, desc="the same at this")
    first_names = traits.List(traits.Str(), mandatory=True, desc="names of the former")
    names = traits.List(traits.Str(), mandatory=True, desc="of the latter")


class DrawVisits(AlsInterface):
    """Draw the same leg at the first visit and at this."""

    input_spec = DrawVisitsInputSpec
    output_spec = FigureOutputSpec
    memory_gb = 0.5
    memory_per_series = 15.0

    def _run_interface(self, runtime: Any) -> Any:
        from bids_alsmri.reports.figures import save_figure

        figure = self.file(runtime, "visits.svg")
        pairs = list(zip(self.inputs.first, self.inputs.images, strict=True))
        names = list(zip(self.inputs.first_names, self.inputs.names, strict=True))
        save_figure(drawing.draw_visits(pairs, names), figure)
        return self.give(runtime, {"figure": figure})
