"""Writes a cohort of maps: raw data without signal, and what the participant level would leave.

For tests and demonstrations of the group level, which then start within seconds. Names come from
the pipelines' own ``io_spec.json``; the records have the form that the participant level writes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bids_alsmri.bids.dataset import write_description as describe_derivatives
from bids_alsmri.bids.dataset import write_descriptions
from bids_alsmri.bids.query import Scan
from bids_alsmri.bids.sink import bids_uri, output_path, sidecar, sidecar_path
from bids_alsmri.bids.spec import IoSpec, load_io_spec
from bids_alsmri.errors import SettingsError
from bids_alsmri.phantom.anat import TEMPLATE_NAME
from bids_alsmri.phantom.cohort import stream
from bids_alsmri.phantom.dataset import (
    BIDS_VERSION,
    write_image,
    write_json,
    write_participants,
    write_table,
)
from bids_alsmri.phantom.geometry import gradient_directions, rigid_matrix, world_to_bvecs
from bids_alsmri.phantom.map_settings import MapSettings
from bids_alsmri.phantom.maps import TENSOR_MAPS, UNITS, MapTruth, build_truth, draw_maps
from bids_alsmri.phantom.records import Participant, SimulatedImage, Table
from bids_alsmri.phantom.truth import IGNORED, folder
from bids_alsmri.version import VERSION

Floats = NDArray[np.float64]

PIPELINES = ("anatomical", "diffusion", "sodium")
# Width of the Gaussian that smooths sodium maps, as the participant level does.
SMOOTHING_MM = 8.0
# ends the name under which a record lists the sidecar of an output
SIDECAR = " sidecar"
NOTE = "simulated at the level of maps by bids_alsmri_phantom; no image was processed"

# Raw images exist so that records have inputs; they hold no signal.
RAW_SHAPE, RAW_VOXEL_MM, N_DIRECTIONS, B_VALUE = (4, 4, 4), 8.0, 6, 1000
MAX_POSE_MM, MAX_POSE_DEG = 10.0, 8.0
# Empty voxels around the brain on the native grid.
NATIVE_MARGIN = 2

README = """# Simulated cohort of maps

Made by bids_alsmri_phantom --maps-only. Nobody was scanned, and the images here are empty: they
only stand for the scans from which the maps in the folder of derivatives would have been made.

Which voxels of the template differ between groups, and by how much, is in derivatives/phantom.
"""
TRUTH_README = """# Truth of a simulated cohort of maps

Written by bids_alsmri_phantom --maps-only. World coordinates are RAS+ in mm.

- tpl-*: healthy means, voxels that were changed, and by how much, in template space.
- settings.json: how the maps were drawn.
"""


@dataclass(frozen=True)
class Spread:
    """Distribution of a measure of quality over participants: log-normal, cut at the top.

    Parameters
    ----------
    median : float
        Of controls, in the unit of the measure.
    relative_sd : float
        Standard deviation of its logarithm.
    factor_in_patients : float
        On the median.
    most : float
        Largest value.
    """

    median: float
    relative_sd: float
    factor_in_patients: float = 1.0
    most: float = np.inf


# Plausible values, not measured ones; patients move a little more, as they do in scanners.
QUALITY: Mapping[str, Mapping[str, Spread]] = {
    "anatomical": {
        "template_mask_overlap": Spread(0.95, 0.01, most=1.0),
        "template_correlation": Spread(0.75, 0.04, most=1.0),
        "gm_volume": Spread(680.0, 0.09),
        "wm_volume": Spread(520.0, 0.10),
        "csf_volume": Spread(250.0, 0.15),
        "brain_volume": Spread(1450.0, 0.09),
        "template_wm_overlap": Spread(0.80, 0.03, most=1.0),
    },
    "diffusion": {
        "mean_framewise_displacement": Spread(0.30, 0.30, 1.15),
        "max_framewise_displacement": Spread(1.3, 0.40, 1.15),
        "outlier_slice_share": Spread(0.004, 0.60, 1.2),
        "b0_snr": Spread(24.0, 0.10, 0.98),
        "dwi_snr": Spread(8.0, 0.10, 0.98),
        "neighbouring_dwi_correlation": Spread(0.86, 0.02, most=1.0),
        "brain_coverage": Spread(0.995, 0.005, most=1.0),
        "tensor_residual": Spread(7.0, 0.10, 1.02),
        "failed_voxel_share": Spread(0.0005, 0.50),
        "clipped_voxel_share": Spread(0.004, 0.40),
        "gradient_gain": Spread(0.004, 0.50),
        "anatomy_overlap": Spread(0.93, 0.01, most=1.0),
        "tissue_separation": Spread(0.92, 0.02, most=1.0),
    },
    "sodium": {
        "n_tubes": Spread(2.0, 0.0),
        "tube_snr": Spread(60.0, 0.10, 0.98),
        "tube_variation": Spread(2.5, 0.20),
        "tube_ratio": Spread(1.02, 0.005),
        "anatomy_overlap": Spread(0.985, 0.005, most=1.0),
        "fluid_separation": Spread(0.97, 0.01, most=1.0),
    },
}


def write_map_cohort(
    raw_dir: Path,
    output_dir: Path,
    participants: tuple[Participant, ...],
    settings: MapSettings,
) -> MapTruth:
    """Write a raw dataset without signal and finished results of the participant level for it.

    Parameters
    ----------
    raw_dir, output_dir : Path
        Folders of the raw dataset and of the derivatives; made if absent, must be empty.
    participants : tuple of Participant
        Who; see `bids_alsmri.phantom.cohort.draw_cohort`.
    settings : MapSettings
        How the maps are drawn.

    Returns
    -------
    MapTruth
        What was planted; it is written to ``derivatives/phantom`` of the raw dataset too.

    Raises
    ------
    SettingsError
        If a folder holds anything, or both are one.

    Notes
    -----
    The T1w space of each participant is the template's, turned and shifted; the native grid is
    that of the template moved with it, so that maps brought to the template through the transform
    in ``anat`` equal those written in template space. The transform is an ITK text file (.txt),
    where the participant level writes .h5; the record names it. The participant level would not
    take the results for its own: they list none of its settings but template and voxel size.
    """
    for place in (raw_dir, output_dir):
        if place.exists() and (not place.is_dir() or any(place.iterdir())):
            raise SettingsError(f"{place} is not an empty folder; give a new one")
    if raw_dir.resolve() == output_dir.resolve():
        raise SettingsError(f"{raw_dir} was given for raw data and results; give two folders")
    truth = build_truth(settings)
    raw_dir.mkdir(parents=True, exist_ok=True)
    _describe_raw(raw_dir)
    write_participants(raw_dir, participants)
    _write_truth(folder(raw_dir), truth, settings)
    specs = {name: load_io_spec(_of_pipeline(name, "io_spec.json")) for name in PIPELINES}
    describe_derivatives(output_dir, raw_dir, {}, VERSION)
    write_descriptions(output_dir, specs)
    for person in participants:
        for visit, session in enumerate(settings.sessions or (None,)):
            _write_visit(raw_dir, output_dir, specs, (person, session, visit), settings, truth)
        if settings.sessions:
            write_table(
                raw_dir / f"sub-{person.label}" / f"sub-{person.label}_sessions.tsv",
                _visits(settings),
            )
    return truth


def _visits(settings: MapSettings) -> Table:
    months = [settings.months_per_visit * visit for visit in range(len(settings.sessions))]
    rows = [(f"ses-{s}", f"{m:g}") for s, m in zip(settings.sessions, months, strict=True)]
    described: dict[str, object] = {
        "months": {"Description": "Time since the first visit", "Units": "month"}
    }
    return Table(("session_id", "months"), tuple(rows), described)


def _of_pipeline(pipeline: str, name: str) -> Path:
    return Path(str(files("bids_alsmri"))) / "pipelines" / pipeline / name


def _describe_raw(raw_dir: Path) -> None:
    makers = [{"Name": "bids_alsmri_phantom", "Version": VERSION}]
    write_json(
        raw_dir / "dataset_description.json",
        {
            "Name": "Simulated ALS cohort of maps",
            "BIDSVersion": BIDS_VERSION,
            "DatasetType": "raw",
            "License": "CC0",
            "Authors": ["bids_alsmri", "bids_alsmri_phantom"],
            "GeneratedBy": makers,
        },
    )
    (raw_dir / "README.md").write_text(README, encoding="utf-8")
    root = folder(raw_dir)
    root.mkdir(parents=True)
    write_json(
        root / "dataset_description.json",
        {
            "Name": "Truth of a simulated ALS cohort of maps",
            "BIDSVersion": BIDS_VERSION,
            "DatasetType": "derivative",
            "License": "CC0",
            "GeneratedBy": makers,
            "SourceDatasets": [{"URL": "../.."}],
            "DatasetLinks": {"raw": "../.."},
        },
    )
    (root / "README.md").write_text(TRUTH_README, encoding="utf-8")
    (root / ".bidsignore").write_text("\n".join(IGNORED) + "\n", encoding="utf-8")


def _write_truth(root: Path, truth: MapTruth, settings: MapSettings) -> None:
    write_json(root / "settings.json", asdict(settings))
    target = root / f"tpl-{TEMPLATE_NAME}" / "dwi"
    target.mkdir(parents=True)
    images: dict[str, tuple[NDArray[np.generic], str, str]] = {}
    for name, mean in truth.healthy.items():
        images[f"{name}Healthy"] = (mean, f"Mean of controls, {name}.", UNITS[name])
    for kind, where in truth.planted.items():
        text = f"Voxels in which {kind} progressors differ from controls."
        images[f"{kind}Planted"] = (where.astype(np.uint8), text, "1")
        for name, difference in truth.difference[kind].items():
            text = f"Difference of {kind} progressors to controls, {name}."
            images[f"{name}{kind.capitalize()}Difference"] = (difference, text, UNITS[name])
    for label, (values, text, units) in images.items():
        stem = target / f"tpl-{TEMPLATE_NAME}_desc-{label}_statmap"
        _save(values, truth.affine, Path(f"{stem}.nii.gz"), space="mni")
        write_json(Path(f"{stem}.json"), {"Description": text, "Units": units})


def _save(values: NDArray[np.generic], affine: Floats, path: Path, *, space: str) -> None:
    image = nib.Nifti1Image(values, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=space)
    image.set_qform(affine, code=space)
    nib.save(image, path)


def _write_raw(
    raw_dir: Path, person: Participant, session: str | None
) -> dict[str, dict[Path, Mapping[str, object]]]:
    """Empty images of a participant: by pipeline, its input files and what their sidecars say."""
    affine = np.diag([RAW_VOXEL_MM, RAW_VOXEL_MM, RAW_VOXEL_MM, 1.0])
    scanner: dict[str, object] = {"Modality": "MR", "Manufacturer": "Simulated"}
    t1w: dict[str, object] = {**scanner, "BodyPart": "HEAD"}
    dwi: dict[str, object] = {
        **scanner,
        "EchoTime": 0.095,
        "RepetitionTime": 10.7,
        "PhaseEncodingDirection": "j-",
        "TotalReadoutTime": 0.05,
        "BodyPart": "BRAIN",
    }
    directions = np.vstack([np.zeros(3), gradient_directions(N_DIRECTIONS)])
    lines = [" ".join(f"{v:.8f}" for v in row) for row in world_to_bvecs(directions, affine)]
    texts = {
        ".bval": " ".join(["0", *[str(B_VALUE)] * N_DIRECTIONS]) + "\n",
        ".bvec": "\n".join(lines) + "\n",
    }
    anatomy = SimulatedImage("anat", "T1w", np.zeros(RAW_SHAPE, np.int16), affine, t1w)
    series = SimulatedImage(
        "dwi",
        "dir-AP_dwi",
        np.zeros((*RAW_SHAPE, 1 + N_DIRECTIONS), np.int16),
        affine,
        dwi,
        texts=texts,
        repetition_s=10.7,
    )
    sodium: dict[str, object] = {
        **scanner,
        "ResonantNucleus": "23Na",
        "MagneticFieldStrength": 3,
        "EchoTime": 0.0002,
        "RepetitionTimeExcitation": 0.12,
        "FlipAngle": 90,
        "BodyPart": "HEAD",
    }
    tubes = SimulatedImage("anat", "acq-sodium_PDw", np.zeros(RAW_SHAPE, np.int16), affine, sodium)
    sodium_path = write_image(raw_dir, person.label, session or "", tubes)
    t1w_path = write_image(raw_dir, person.label, session or "", anatomy)
    dwi_path = write_image(raw_dir, person.label, session or "", series)
    stem = str(dwi_path).removesuffix(".nii.gz")
    return {
        "anatomical": {t1w_path: t1w},
        "diffusion": {dwi_path: dwi, **{Path(stem + extension): {} for extension in texts}},
        "sodium": {sodium_path: sodium},
    }


def _write_visit(
    raw_dir: Path,
    output_dir: Path,
    specs: Mapping[str, IoSpec],
    of: tuple[Participant, str | None, int],
    settings: MapSettings,
    truth: MapTruth,
) -> None:
    person, session, visit = of
    maps = draw_maps(person, settings, truth, visit)
    inputs = _write_raw(raw_dir, person, session)
    anatomy, diffusion, sodium = (
        _Finished(
            raw_dir=raw_dir,
            output_dir=output_dir,
            scan=Scan(name, person.label, session, entities, {}, {}),
            spec=specs[name],
            inputs=inputs[name],
            voxel_mm=settings.voxel_mm,
        )
        for name, entities in (
            ("anatomical", {}),
            ("diffusion", {"dir": "AP"}),
            ("sodium", {"acq": "sodium"}),
        )
    )
    native = _native_place(person, settings, truth)
    anatomy.transform("t1w_to_template", native.template_to_t1w)
    anatomy.table("quality", quality_table("anatomical", person, settings.seed))
    anatomy.record({})
    inside = native.cut(truth.mask.astype(np.uint8))
    diffusion.image("brain_mask", inside, native.affine, space="aligned")
    for name in TENSOR_MAPS:
        diffusion.image(name, native.cut(maps[name]), native.affine, space="aligned")
        diffusion.image(f"template_{name}", maps[name], truth.affine, space="mni")
    diffusion.table("quality", quality_table("diffusion", person, settings.seed))
    diffusion.record({"anatomical": anatomy.digest()})
    sodium.image("template_tsc", maps["tsc"], truth.affine, space="mni")
    for output, name in (("template_smoothed", "tsc"), ("template_gm", "gm")):
        smooth = smoothed_within(maps[name], truth.mask, SMOOTHING_MM / settings.voxel_mm)
        sodium.image(output, smooth, truth.affine, space="mni")
    sodium.table("quality", quality_table("sodium", person, settings.seed))
    sodium.record({"anatomical": anatomy.digest()})


def smoothed_within(
    values: NDArray[np.float32], mask: NDArray[np.bool_], fwhm_voxels: float
) -> NDArray[np.float32]:
    """Map smoothed by a Gaussian that sees nothing beyond a mask.

    Parameters
    ----------
    values : (i, j, k) array
        Map, 0 outside the mask.
    mask : (i, j, k) array of bool
        Voxels that count.
    fwhm_voxels : float
        Full width at half maximum of the Gaussian, in voxels.

    Returns
    -------
    (i, j, k) array of float32
        0 outside the mask.

    Examples
    --------
    >>> flat = np.zeros((5, 5, 5), np.float32)
    >>> flat[1:4, 1:4, 1:4] = 40.0
    >>> float(smoothed_within(flat, flat > 0, 2.0).max().round(3))
    40.0
    """
    sd = fwhm_voxels / np.sqrt(8 * np.log(2))
    weight = ndimage.gaussian_filter(mask.astype(np.float32), sd)
    blurred = ndimage.gaussian_filter(np.where(mask, values, np.float32(0)), sd)
    found = np.zeros(mask.shape, np.float32)
    np.divide(blurred, weight, out=found, where=mask)
    return found


@dataclass(frozen=True)
class _Native:
    """Grid in a participant's T1w space: the template's, cut to the brain and moved."""

    template_to_t1w: Floats
    affine: Floats
    box: tuple[slice, ...]

    def cut(self, values: NDArray[np.generic]) -> NDArray[np.generic]:
        """Values on the native grid of a map on the template's grid that is 0 outside its mask."""
        return np.pad(values[self.box], NATIVE_MARGIN)


def _native_place(person: Participant, settings: MapSettings, truth: MapTruth) -> _Native:
    rng = stream(settings.seed, person, "pose")
    shift_mm, turn_deg = (rng.uniform(-most, most, 3) for most in (MAX_POSE_MM, MAX_POSE_DEG))
    move = rigid_matrix(shift_mm, turn_deg, np.zeros(3))
    voxels = np.argwhere(truth.mask)
    low, high = voxels.min(axis=0), voxels.max(axis=0) + 1
    start = np.eye(4)
    start[:3, 3] = low - NATIVE_MARGIN
    box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return _Native(move, move @ truth.affine @ start, box)


def quality_table(pipeline: str, person: Participant, seed: int) -> Table:
    """Table of quality of one participant, with the columns of the real one.

    Parameters
    ----------
    pipeline : {"anatomical", "diffusion", "sodium"}
        Whose measures.
    person : Participant
        Patients move a little more.
    seed : int
        Of the cohort.

    Returns
    -------
    Table
        One row for each measure of `QUALITY`.
    """
    text = _of_pipeline(pipeline, "quality.json").read_text(encoding="utf-8")
    definitions = json.loads(text)
    rng = stream(seed, person, "quality", pipeline)
    rows = []
    for measure, spread in QUALITY[pipeline].items():
        median = spread.median * (spread.factor_in_patients if person.group == "als" else 1.0)
        value = min(float(median * np.exp(spread.relative_sd * rng.normal())), spread.most)
        known = definitions[measure]
        rows.append((measure, float(f"{value:.6g}"), *(known[c] for c in ("unit", "low", "high"))))
        rows[-1] = (*rows[-1], known["description"])
    return Table(("measure", "value", "unit", "low", "high", "description"), tuple(rows), {})


@dataclass(frozen=True)
class _Finished:
    """Results of one pipeline for one scan, written under the names that the pipeline gives."""

    raw_dir: Path
    output_dir: Path
    scan: Scan
    spec: IoSpec
    inputs: Mapping[Path, Mapping[str, object]]
    voxel_mm: float
    outputs: dict[str, str] = field(default_factory=dict)

    @property
    def values(self) -> dict[str, str]:
        """What fills the placeholders of the spec."""
        return {
            "template": TEMPLATE_NAME,
            "template_resolution_mm": f"{self.voxel_mm:g}".replace(".", "p"),
            "anatomical_space": "T1w",
            "smoothing_fwhm_mm": f"{SMOOTHING_MM:g}",
        }

    @property
    def settings(self) -> dict[str, dict[str, object]]:
        """Settings by stage, those that the maps obey."""
        return {
            "fit": {"template": TEMPLATE_NAME},
            "apply": {"template_resolution_mm": self.voxel_mm},
        }

    def place(self, name: str, *, extension: str = "") -> Path:
        """Path of an output, whose folder is made, and its sidecar."""
        spec = self.spec.outputs[name]
        spec = replace(spec, extension=extension or spec.extension)
        path = output_path(self.output_dir, self.scan, spec, self.values)
        path.parent.mkdir(parents=True, exist_ok=True)
        roots = {"raw": self.raw_dir, "": self.output_dir}
        stages = ("fit",) if spec.stage == "fit" else ("fit", "apply")
        content = sidecar(
            self.scan,
            spec,
            sources=[bids_uri(source, roots) for source in self.inputs],
            settings={key: v for stage in stages for key, v in self.settings[stage].items()},
            version=VERSION,
            values=self.values,
        )
        write_json(sidecar_path(path), content)
        for listed, file in ((name, path), (name + SIDECAR, sidecar_path(path))):
            self.outputs[listed] = file.relative_to(self.output_dir).as_posix()
        return path

    def image(self, name: str, values: NDArray[np.generic], affine: Floats, *, space: str) -> None:
        """Write an image."""
        _save(values, affine, self.place(name), space=space)

    def table(self, name: str, table: Table) -> None:
        """Write a table."""
        write_table(self.place(name), table)

    def transform(self, name: str, fixed_to_moving: Floats) -> None:
        """Write a linear transform as ITK text, which needs no HDF5 library."""
        # ITK's world is left-posterior-superior
        flip = np.diag([-1.0, -1.0, 1.0, 1.0])
        matrix = flip @ fixed_to_moving @ flip
        numbers = " ".join(f"{v:.17g}" for v in (*matrix[:3, :3].ravel(), *matrix[:3, 3]))
        self.place(name, extension=".txt").write_text(
            "#Insight Transform File V1.0\n#Transform 0\n"
            "Transform: AffineTransform_double_3_3\n"
            f"Parameters: {numbers}\nFixedParameters: 0 0 0\n",
            encoding="utf-8",
        )

    def fingerprints(self) -> dict[str, dict[str, Any]]:
        """Size, time of change and hashes of the input files, by path in the raw dataset."""
        found = {}
        for path in sorted(self.inputs):
            status = path.stat()
            entry: dict[str, Any] = {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns}
            entry["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
            if self.inputs[path]:
                entry["metadata_sha256"] = _sha256(self.inputs[path])
            found[path.relative_to(self.raw_dir).as_posix()] = entry
        return found

    def digest(self) -> str:
        """What stands for these results, which build on no others, in records of those that do."""
        contents = {
            Path(key).name: [entry["sha256"], entry.get("metadata_sha256")]
            for key, entry in self.fingerprints().items()
        }
        return _sha256([VERSION, self.settings["fit"], self.settings["apply"], {}, contents])[:16]

    def record(self, upstream: Mapping[str, str]) -> None:
        """Write the record by which the group level finds the results."""
        stage = {name: self.spec.outputs[name.removesuffix(SIDECAR)].stage for name in self.outputs}
        path = self.output_dir / "logs" / "scans" / f"{self.scan.label}_{self.scan.pipeline}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "identity": {
                "version": VERSION,
                **self.settings,
                "inputs": self.fingerprints(),
                "upstream": dict(upstream),
            },
            "outputs": self.outputs,
            "seconds": {},
            "fits": sorted(name for name in self.outputs if stage[name] == "fit"),
            "is_whole": True,
            "notes": [NOTE],
            "methods": f"Maps were {NOTE}.",
        }
        path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _sha256(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
