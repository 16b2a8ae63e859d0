"""The truth of a cohort as a derivative: description, settings, effects in template space."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np

from bids_alsmri.phantom.anat import TEMPLATE_NAME
from bids_alsmri.phantom.dataset import (
    BIDS_VERSION,
    package_version,
    write_json,
    write_table,
)
from bids_alsmri.phantom.records import Participant, PhantomSettings, Table
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
- tpl-*: disease effects, tract weights and the healthy FA in template space.
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
    root.mkdir(parents=True, exist_ok=True)
    write_json(
        root / "dataset_description.json",
        {
            "Name": "Truth of a simulated ALS cohort",
            "BIDSVersion": BIDS_VERSION,
            "DatasetType": "derivative",
            "License": "CC0",
            "GeneratedBy": [{"Name": "bids_alsmri_phantom", "Version": package_version()}],
            "SourceDatasets": [{"URL": "../.."}],
            "DatasetLinks": {"raw": "../.."},
        },
    )
    (root / "README.md").write_text(README, encoding="utf-8")
    (root / ".bidsignore").write_text("\n".join(IGNORED) + "\n", encoding="utf-8")
    write_json(root / "settings.json", asdict(settings))
    _write_severity(root, participants, settings)
    if "dwi" in settings.modalities:
        _write_effects(root)


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
    import nibabel as nib

    tracts = build_tracts()
    target = root / f"tpl-{TEMPLATE_NAME}" / "dwi"
    target.mkdir(parents=True, exist_ok=True)
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
        stem = target / f"tpl-{TEMPLATE_NAME}_desc-{name}_statmap"
        nib.save(nib.Nifti1Image(values.astype(np.float32), tracts.to_world), f"{stem}.nii.gz")
        write_json(Path(f"{stem}.json"), {"Description": text, "Units": "1"})
