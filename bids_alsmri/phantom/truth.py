"""The truth of a cohort as a derivative: description, settings, effects in template space."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bids_alsmri.phantom.anat import TEMPLATE_NAME
from bids_alsmri.phantom.dataset import (
    BIDS_VERSION,
    package_version,
    write_json,
    write_table,
)
from bids_alsmri.phantom.geometry import Grid
from bids_alsmri.phantom.head import build_head, sample_head
from bids_alsmri.phantom.records import Participant, PhantomSettings, Table
from bids_alsmri.phantom.sodium_scene import TSC_GREY, TSC_WHITE, effect_maps, head_tsc
from bids_alsmri.phantom.tracts import build_tracts

IGNORED = ("*_xfm.*", "*_dwimap.*", "*_statmap.*", "*_stats.*", "*_timeseries.*", "settings.json")


README = """# Truth of a simulated cohort

Written by bids_alsmri_phantom beside the images. World coordinates are RAS+ in mm.

- sub-*/anat: brain mask, tissue fractions (probseg) and labels (dseg) on the T1w grid; landmarks
  and displacement fields (mode-points) between T1w and template, both ways.
- sub-*/dwi: the same maps on the DWI grid in the head's pose of the first volume; FA, MD, AD, RD
  and the principal direction (v1, world components) of the tensor that describes the noise-free
  signal at rest; head motion and eddy-current distortion of each volume
  (desc-motion_timeseries.tsv); the head's pose between T1w and DWI (desc-pose_stats.tsv); slices
  that lost signal.
- sub-*/anat/*acq-sodium*: tissue maps, sodium (desc-tsc, mmol/L), relative effect and reference
  tubes (share of the voxel, labels with concentrations and places) on the sodium grid in the pose
  of that scan; sodium on a grid of the T1w scan (space-T1w); the head's pose between T1w and sodium
  (desc-pose_stats.tsv); concentration, relaxation, weight and point spread of each tissue
  (desc-tissues_stats.tsv). The coil's sensitivity is in fmap.
- sub-*/anat/*acq-M1*: distance from white matter on the slab's grid; thickness, contrast and rates
  of decay of the layers (desc-layers_stats.tsv); the head's pose between T1w and slab.
- sub-*/*/*desc-muscles_dseg: muscles on the grid of each station, label-bone_desc-ref_mask its
  fatty marrow; desc-tissue_stats.tsv what each muscle is made of (relative T2 signal, ADC, fat).
- tpl-*: disease effects, tract weights, the healthy FA and sodium in template space.
- participants.tsv: by what factor each participant has the effect of their progression.
"""


def folder(out: Path) -> Path:
    """Folder of the truth within a raw dataset.

    Parameters
    ----------
    out : Path
        The raw dataset.

    Returns
    -------
    Path
        Below ``derivatives``.
    """
    return out / "derivatives" / "phantom"


def reader_folder(out: Path, number: int) -> Path:
    """Folder of what a reader drew, within a raw dataset.

    Parameters
    ----------
    out : Path
        The raw dataset.
    number : int
        Reader, from 1.

    Returns
    -------
    Path
        Below ``derivatives``.
    """
    return out / "derivatives" / f"reader{number}"


def _describe(root: Path, name: str) -> None:
    root.mkdir(parents=True, exist_ok=True)
    write_json(
        root / "dataset_description.json",
        {
            "Name": name,
            "BIDSVersion": BIDS_VERSION,
            "DatasetType": "derivative",
            "License": "CC0",
            "GeneratedBy": [{"Name": "bids_alsmri_phantom", "Version": package_version()}],
            "SourceDatasets": [{"URL": "../.."}],
            "DatasetLinks": {"raw": "../.."},
        },
    )


def write_description(
    out: Path, participants: tuple[Participant, ...], settings: PhantomSettings
) -> None:
    """Write what describes the whole cohort.

    Parameters
    ----------
    out : Path
        The raw dataset.
    participants : tuple of Participant
        Who was scanned.
    settings : PhantomSettings
        How.
    """
    root = folder(out)
    _describe(root, "Truth of a simulated ALS cohort")
    if "muscle" in settings.modalities:
        for number in range(1, settings.muscle.readers + 1):
            _describe(reader_folder(out, number), f"Muscles as reader {number} drew them")
    (root / "README.md").write_text(README, encoding="utf-8")
    (root / ".bidsignore").write_text("\n".join(IGNORED) + "\n", encoding="utf-8")
    write_json(root / "settings.json", asdict(settings))
    _write_severity(root, participants, settings)
    if "dwi" in settings.modalities:
        _write_effects(root)
    if "sodium" in settings.modalities:
        _write_sodium_effects(root)


def _write_severity(
    root: Path, participants: tuple[Participant, ...], settings: PhantomSettings
) -> None:
    rows = tuple(
        (f"sub-{p.label}", p.group, p.progression, p.severity * settings.effect_scale)
        for p in participants
    )
    text = "Factor on the effect map of the participant's progression (fast or slow), as applied."
    sidecar: dict[str, object] = {
        "group": {"Description": "Diagnostic group"},
        "progression": {"Description": "Progression"},
        "effect_severity": {"Description": text, "Units": "1"},
    }
    columns = ("participant_id", "group", "progression", "effect_severity")
    write_table(root / "participants.tsv", Table(columns, rows, sidecar))


def _write_effects(root: Path) -> None:
    tracts = build_tracts()
    maps = {
        "fastFa": (tracts.fast_fa, "Relative change of FA in a fast progressor of severity 1."),
        "fastMd": (tracts.fast_md, "Relative change of MD in a fast progressor of severity 1."),
        "slowFa": (tracts.slow_fa, "Relative change of FA in a slow progressor of severity 1."),
        "callosum": (tracts.callosum, "Weight of the callosum in the direction field."),
        "cst": (tracts.cst, "Weight of the corticospinal tract in the direction field."),
        "association": (tracts.association, "Weight of association fibres."),
        "whiteFa": (tracts.fa, "FA of white matter in a healthy person of average FA."),
    }
    for name, (values, text) in maps.items():
        _write_template_map(root, "dwi", f"desc-{name}_statmap", values, text, "1")


def _write_sodium_effects(root: Path) -> None:
    tracts = build_tracts()
    shape = tracts.fa.shape
    points = Grid((shape[0], shape[1], shape[2]), tracts.to_world).points_mm()
    sample = sample_head(build_head(), points)
    white, grey = (np.full(shape, c, np.float32) for c in (TSC_WHITE, TSC_GREY))
    text = "Sodium of the voxel in a healthy person of average concentrations."
    lead = "acq-sodium_desc"
    healthy = head_tsc(sample, white, grey)
    _write_template_map(root, "anat", f"{lead}-healthyTsc_statmap", healthy, text, "mmol/L")
    texts = {
        "fast": "Relative change of tissue sodium in a fast progressor of severity 1.",
        "slow": "Relative change of tissue sodium in a slow progressor of severity 1.",
        "focal": "Relative change of white-matter sodium in all patients, where asked for.",
    }
    for name, values in effect_maps().items():
        _write_template_map(root, "anat", f"{lead}-{name}Tsc_statmap", values, texts[name], "1")


def _write_template_map(
    root: Path, folder: str, tail: str, values: NDArray[np.float32], text: str, unit: str
) -> None:
    """Write a map on the lattice of the tracts."""
    import nibabel as nib

    target = root / f"tpl-{TEMPLATE_NAME}" / folder
    target.mkdir(parents=True, exist_ok=True)
    stem = target / f"tpl-{TEMPLATE_NAME}_{tail}"
    image = nib.Nifti1Image(values.astype(np.float32), build_tracts().to_world)
    nib.save(image, f"{stem}.nii.gz")
    write_json(Path(f"{stem}.json"), {"Description": text, "Units": unit})
