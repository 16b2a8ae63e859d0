"""Writes a simulated cohort as a raw BIDS dataset, byte for byte the same each time."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Protocol

import nibabel as nib
import numpy as np

from bids_alsmri.errors import SettingsError
from bids_alsmri.phantom import anat, cortex7t, diffusion, muscle, sodium
from bids_alsmri.phantom.anatomy import Anatomy
from bids_alsmri.phantom.cohort import stream
from bids_alsmri.phantom.deformation import draw_deformation
from bids_alsmri.phantom.head import build_head, build_thinned_head
from bids_alsmri.phantom.records import (
    Participant,
    PhantomSettings,
    SimulatedImage,
    Simulation,
    Table,
)

BIDS_VERSION = "1.10.0"
LOGGER = logging.getLogger(__name__)


class Modality(Protocol):
    """How a modality is simulated; one function of this form in a module of its own."""

    def __call__(
        self,
        participant: Participant,
        anatomy: Anatomy,
        settings: PhantomSettings,
        rng: np.random.Generator,
    ) -> Simulation:
        """Scan one session of one participant."""


MODALITIES: dict[str, Modality] = {
    "anat": anat.simulate,
    "dwi": diffusion.simulate,
    "sodium": sodium.simulate,
    "cortex7t": cortex7t.simulate,
}
# the body is drawn by itself, and no head is built for it
BODY_MODALITIES = {"muscle": muscle.simulate}

PARTICIPANT_COLUMNS: dict[str, dict[str, object]] = {
    "group": {
        "Description": "Diagnostic group",
        "Levels": {"hc": "healthy control", "als": "amyotrophic lateral sclerosis"},
    },
    "progression": {
        "Description": "Progression rate (48 - ALSFRS-R) / months since onset, against 0.5",
        "Levels": {"fast": "above 0.5 points per month", "slow": "0.5 or less"},
    },
    "age": {"Description": "Age at the scan", "Units": "year"},
    "sex": {"Description": "Sex", "Levels": {"female": "female", "male": "male"}},
    "handedness": {"Description": "Handedness", "Levels": {"left": "left", "right": "right"}},
    "onset_site": {
        "Description": "Region of first symptoms",
        "Levels": {"bulbar": "bulbar", "upper limb": "arm", "lower limb": "leg"},
    },
    "onset_side": {
        "Description": "Side of first symptoms; n/a where they were bulbar",
        "Levels": {"left": "left", "right": "right"},
    },
    "disease_duration_months": {"Description": "Time since first symptoms", "Units": "month"},
    "alsfrs_r": {"Description": "Revised ALS functional rating scale, 0 to 48 (best)"},
}

README = """# Simulated cohort

Made by bids_alsmri_phantom. Nobody was scanned.

Every participant has a whole-head T1-weighted image and, unless left out, a diffusion series and a
sodium image. The brain is the MNI152NLin2009aSym template (as bundled with nilearn) in an
individual smooth deformation; skull, scalp, face, eyes and neck are drawn around it. Diffusion
volumes carry head motion, eddy-current distortion along phase encoding, and Rician noise. Patients
have lower fractional anisotropy (fast progressors also higher mean diffusivity) along
corticospinal tract and callosum. Sessions of one participant differ in pose, motion and noise only.

Sodium images (acq-sodium_PDw) show tissue, eyes and reference tubes of agar beside the head through
a density-adapted radial readout: a sphere of k-space, weighted by the decay of each tissue. The
concentrations of the tubes (SodiumReferenceConcentrations, mmol/L) are labelled by where the tubes
stand. Patients have more sodium along corticospinal tract, motor cortex and callosum, fast
progressors most.

Slabs at 7T (acq-M1_MEGRE, where asked for with --modalities) show the same anatomy with a dark deep
layer of the cortex, thinner in patients and darker in fast progressors, a receive bias and a
transmit field that drops towards the back.

Whole-body stations (modality muscle; acq-wholebody T2w and diffusion, acq-legs and acq-hands T1w)
show limbs, trunk, neck and head with bones, fat and 34 muscles. Muscles of patients are brighter in
the T2w than those of controls, and become brighter from visit to visit, by what Jenkins 2020
printed. Coil loading, a receive field, noise and shifts between T2w and diffusion are simulated.

The true maps, deformations, motion, distortion and disease effects are in derivatives/phantom,
the settings in derivatives/phantom/settings.json.
"""


def write_cohort(
    out: Path, participants: tuple[Participant, ...], settings: PhantomSettings
) -> None:
    """Simulate and write all participants, then the truth beside them.

    Parameters
    ----------
    out : Path
        Folder of the new dataset; made if absent, must be empty.
    participants : tuple of Participant
        Who is scanned.
    settings : PhantomSettings
        How.

    Raises
    ------
    SettingsError
        If the folder holds anything, or a modality is unknown.
    """
    from bids_alsmri.phantom import truth

    known = (*MODALITIES, *BODY_MODALITIES)
    unknown = [name for name in settings.modalities if name not in known]
    if unknown or not settings.modalities:
        raise SettingsError(
            f"modality {', '.join(unknown) or '(none)'} is not simulated; choose from "
            f"{', '.join(known)}"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SettingsError(f"{out} is not an empty folder; give a new one")
    out.mkdir(parents=True, exist_ok=True)
    _write_description(out)
    write_participants(out, participants)
    truth.write_description(out, participants, settings)
    for participant in participants:
        for session in settings.sessions or ("",):
            for name, simulation in simulate_session(participant, session, settings).items():
                LOGGER.info("sub-%s %s %s", participant.label, session, name)
                for image in simulation.raw:
                    write_image(out, participant.label, session, image)
                for image in simulation.truth:
                    write_image(truth.folder(out), participant.label, session, image)
                for number, images in enumerate(simulation.readers, start=1):
                    for image in images:
                        write_image(
                            truth.reader_folder(out, number), participant.label, session, image
                        )


def simulate_session(
    participant: Participant, session: str, settings: PhantomSettings
) -> dict[str, Simulation]:
    """Scan one session of one participant, without writing.

    Parameters
    ----------
    participant : Participant
        Who.
    session : str
        Session label, or nothing.
    settings : PhantomSettings
        How.

    Returns
    -------
    dict of Simulation
        By modality.
    """
    streams = {
        name: stream(settings.seed, participant, session, name) for name in settings.modalities
    }
    dated = replace(settings, muscle=replace(settings.muscle, month=month_of(session)))
    bodies = {
        name: BODY_MODALITIES[name](participant, dated, rng)
        for name, rng in streams.items()
        if name in BODY_MODALITIES
    }
    if len(bodies) == len(streams):
        return bodies
    shape = draw_deformation(stream(settings.seed, participant, "shape"))
    has_loss = settings.grey_loss > 0 and participant.group == "als"
    grey_loss = settings.grey_loss if has_loss else 0.0
    if "cortex7t" in settings.modalities and settings.cortex7t.cortex_mm > 0:
        head = cortex7t.build_thick_head(settings.cortex7t.cortex_mm, grey_loss)
    else:
        head = build_thinned_head(grey_loss) if has_loss else build_head()
    anatomy = Anatomy(head, shape)
    heads = {
        name: MODALITIES[name](participant, anatomy, settings, rng)
        for name, rng in streams.items()
        if name in MODALITIES
    }
    return {name: {**heads, **bodies}[name] for name in streams}


def month_of(session: str) -> float:
    """Months since the first visit, as the label of a session tells them.

    Parameters
    ----------
    session : str
        Such as ``m04``; empty without sessions.

    Returns
    -------
    float
        0 where the label is not of that form.

    Examples
    --------
    >>> month_of("m04"), month_of("baseline")
    (4.0, 0.0)
    """
    found = re.fullmatch(r"m(\d+)", session)
    return float(found[1]) if found else 0.0


def write_image(root: Path, label: str, session: str, image: SimulatedImage) -> Path:
    """Write one image with its sidecar and tables.

    Parameters
    ----------
    root : Path
        Dataset folder.
    label, session : str
        Participant and session labels; the session may be empty.
    image : SimulatedImage
        What to write.

    Returns
    -------
    Path
        The image.
    """
    lead = f"sub-{label}" + (f"_ses-{session}" if session else "")
    folder = root / lead.replace("_", "/") / image.folder
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / f"{lead}_{image.tail}"
    nifti = nib.Nifti1Image(image.values, image.affine)
    nifti.header.set_xyzt_units("mm", "sec")
    nifti.set_sform(image.affine, code=1)
    nifti.set_qform(image.affine, code=1)
    if image.values.ndim == 4 and image.repetition_s:
        zooms = nifti.header.get_zooms()
        nifti.header.set_zooms((*zooms[:3], image.repetition_s))
    if image.values.ndim == 5:
        nifti.header.set_intent("vector")
    # nibabel writes gzip without a time stamp or name, so that the bytes repeat.
    nib.save(nifti, f"{stem}.nii.gz")
    write_json(Path(f"{stem}.json"), image.sidecar)
    for extension, text in image.texts.items():
        Path(f"{stem}{extension}").write_text(text, encoding="utf-8")
    for tail, table in image.tables.items():
        write_table(folder / f"{lead}_{tail}.tsv", table)
    return Path(f"{stem}.nii.gz")


def write_json(path: Path, content: object) -> None:
    """Write JSON with two blanks of indent and a final newline.

    Parameters
    ----------
    path : Path
        File.
    content : object
        What to write.
    """
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_table(path: Path, table: Table) -> None:
    """Write a tab-separated table and, where it has one, its sidecar.

    Parameters
    ----------
    path : Path
        File with the extension ``.tsv``.
    table : Table
        What to write.
    """
    lines = ["\t".join(table.columns)]
    lines += ["\t".join(_cell(value) for value in row) for row in table.rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    if table.sidecar:
        write_json(path.with_suffix(".json"), table.sidecar)


def _cell(value: object) -> str:
    if value is None or value == "":
        return "n/a"
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def package_version() -> str:
    """Version of this package, or ``unknown`` where it runs without being installed.

    Returns
    -------
    str
        Version.
    """
    try:
        return version("bids_alsmri")
    except PackageNotFoundError:
        return "unknown"


def _write_description(out: Path) -> None:
    write_json(
        out / "dataset_description.json",
        {
            "Name": "Simulated ALS cohort",
            "BIDSVersion": BIDS_VERSION,
            "DatasetType": "raw",
            "License": "CC0",
            "Authors": ["bids_alsmri", "bids_alsmri_phantom"],
            "GeneratedBy": [{"Name": "bids_alsmri_phantom", "Version": package_version()}],
        },
    )
    (out / "README.md").write_text(README, encoding="utf-8")


def write_participants(out: Path, participants: tuple[Participant, ...]) -> None:
    """Write ``participants.tsv`` and its sidecar.

    Parameters
    ----------
    out : Path
        Dataset folder.
    participants : tuple of Participant
        One row each.
    """
    rows = tuple(
        (
            f"sub-{p.label}", p.group, p.progression, p.age_year, p.sex, p.handedness,
            p.onset_site, p.onset_side, p.disease_duration_months, p.alsfrs_r,
        )
        for p in participants
    )  # fmt: skip
    table = Table(("participant_id", *PARTICIPANT_COLUMNS), rows, dict(PARTICIPANT_COLUMNS))
    write_table(out / "participants.tsv", table)
