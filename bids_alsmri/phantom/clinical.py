"""Clinical tables of a simulated cohort: phenotype files and visits, with what the papers measure.

Structures follow the papers (Jenkins 2020: strength, dynamometry, motor units; Cosottini 2016:
scores of limbs, readers, evoked potentials, plasma; Diamanti 2018: electromyography). Numbers are
plausible, not fitted: the worse the rating scale and the nearer the site of onset, the weaker.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bids_alsmri.errors import SettingsError
from bids_alsmri.phantom.cohort import ALSFRS_R_MAX, progression_rate, stream
from bids_alsmri.phantom.dataset import (
    BIDS_VERSION,
    package_version,
    write_json,
    write_participants,
    write_table,
)
from bids_alsmri.phantom.records import Participant, Table

# Muscle groups of the MRC sum of Jenkins 2020 (maximum 170), with the region that they are of.
STRENGTH: Mapping[str, str] = {
    **dict.fromkeys(
        (
            *("deltoid", "biceps", "triceps", "wrist_flexors", "wrist_extensors"),
            *("finger_flexors", "finger_extensors", "abductor_pollicis_brevis"),
            *("first_dorsal_interosseous", "abductor_digiti_minimi"),
        ),
        "upper limb",
    ),
    **dict.fromkeys(
        (
            *("hip_flexors", "hip_extensors", "hamstrings", "quadriceps"),
            *("ankle_dorsiflexors", "ankle_plantarflexors"),
        ),
        "lower limb",
    ),
}
NECK = ("neck_flexors", "neck_extensors")
# Mean force of controls in lb.
FORCE_LB: Mapping[str, float] = {
    "first_dorsal_interosseous": 9.0,
    "abductor_pollicis_brevis": 11.0,
    "abductor_digiti_minimi": 8.0,
    "quadriceps": 65.0,
    "tibialis_anterior": 50.0,
}
# Motor units of controls, and their compound potential in mV.
MOTOR_UNITS: Mapping[str, tuple[float, float]] = {
    "biceps_brachii": (150.0, 7.0),
    "abductor_pollicis_brevis": (180.0, 10.0),
    "abductor_digiti_minimi": (150.0, 9.0),
    "tibialis_anterior": (120.0, 5.0),
    "abductor_hallucis": (200.0, 13.0),
    "extensor_digitorum_brevis": (100.0, 6.0),
}
# Mean duration of motor unit potentials of controls, in ms.
DURATION_MS: Mapping[str, float] = {
    "first_dorsal_interosseous": 8.0,
    "tibialis_anterior": 9.0,
    "thoracic_paraspinal": 8.0,
}
_REGION_OF = {
    "biceps_brachii": "upper limb",
    "abductor_hallucis": "lower limb",
    "extensor_digitorum_brevis": "lower limb",
    "tibialis_anterior": "lower limb",
    "thoracic_paraspinal": "bulbar",
}
_SIDES = ("left", "right")
_Loss = Callable[[str, str | None], float]
# Jenkins 2020: of 29 patients 5 were not seen at the second visit and 16 not at the third.
ATTRITION = (0.0, 5 / 29, 16 / 29)

README = """# Simulated clinical cohort

Made by bids_alsmri_phantom. Nobody was examined, and nobody was scanned: the dataset holds clinical
tables alone. Patients get worse at rates of their own, and later visits lack some of them.
"""


def write_clinical_dataset(
    out: Path, participants: Sequence[Participant], *, sessions: Sequence[str], seed: int
) -> None:
    """Write a dataset of clinical tables without images.

    Parameters
    ----------
    out : Path
        Folder of the new dataset; made if absent, must be empty.
    participants : sequence of Participant
        Who; see `bids_alsmri.phantom.cohort.draw_cohort`.
    sessions : sequence of str
        Labels of visits without ``ses-``, the number in each being months; may be empty.
    seed : int
        The cohort's seed.

    Raises
    ------
    SettingsError
        If the folder holds anything, or a label of a session has no number.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SettingsError(f"{out} is not an empty folder; give a new one")
    out.mkdir(parents=True, exist_ok=True)
    write_json(
        out / "dataset_description.json",
        {
            "Name": "Simulated clinical ALS cohort",
            "BIDSVersion": BIDS_VERSION,
            "DatasetType": "raw",
            "License": "CC0",
            "Authors": ["bids_alsmri", "bids_alsmri_phantom"],
            "GeneratedBy": [{"Name": "bids_alsmri_phantom", "Version": package_version()}],
        },
    )
    (out / "README.md").write_text(README, encoding="utf-8")
    write_participants(out, tuple(participants))
    write_phenotype(out, participants, sessions=sessions, seed=seed, attrition=ATTRITION)


def write_phenotype(
    out: Path,
    participants: Sequence[Participant],
    *,
    sessions: Sequence[str],
    seed: int,
    attrition: Sequence[float] = (),
) -> None:
    """Write ``phenotype`` and, where there are sessions, the table of each participant's visits.

    Parameters
    ----------
    out : Path
        Raw dataset, with participants.tsv.
    participants : sequence of Participant
        One row each, or one for each visit.
    sessions : sequence of str
        Labels without ``ses-``, the number in each being months; may be empty.
    seed : int
        The cohort's seed.
    attrition : sequence of float
        Share of the patients who are not seen at each visit, 0 to 1; nobody is lost where there is
        none. Controls stay.

    Raises
    ------
    SettingsError
        If a label of a session has no number.
    """
    months = _months(sessions)
    rows: dict[str, list[dict[str, object]]] = {}
    for person in participants:
        leaving = float(stream(seed, person, "attrition").random())
        visits = []
        for number, month in enumerate(months):
            share = attrition[min(number, len(attrition) - 1)] if attrition else 0.0
            if person.group == "als" and leaving < share:
                continue
            values = _visit(person, number, month, seed)
            label = f"ses-{sessions[number]}" if sessions else None
            visits.append((label, month, values["alsfrs_r"].pop("alsfrs_r", None)))
            for name, own in values.items():
                head = {"participant_id": f"sub-{person.label}"}
                if label:
                    head["session_id"] = label
                rows.setdefault(name, []).append({**head, **own})
        if sessions:
            _write_visits(out, person, visits)
    folder = out / "phenotype"
    folder.mkdir(exist_ok=True)
    for name, lines in rows.items():
        columns = tuple(lines[0])
        cells = tuple(tuple(row.get(column) for column in columns) for row in lines)
        described = {c: _described(c) for c in columns if c not in ("participant_id", "session_id")}
        tool: dict[str, object] = {"MeasurementToolMetadata": {"Description": f"Simulated {name}"}}
        write_table(folder / f"{name}.tsv", Table(columns, cells, {**tool, **described}))


def _months(sessions: Sequence[str]) -> list[float]:
    months = []
    for label in sessions:
        numbers = re.findall(r"\d+", label)
        if not numbers:
            raise SettingsError(
                f"session {label!r} holds no number; clinical tables need labels with the months "
                "since the first visit, such as m00 and m12"
            )
        months.append(float(numbers[-1]))
    return months or [0.0]


def _write_visits(
    out: Path, person: Participant, visits: Sequence[tuple[str | None, float, object]]
) -> None:
    folder = out / f"sub-{person.label}"
    folder.mkdir(exist_ok=True)
    described: dict[str, object] = {
        "months": {"Description": "Time since the first visit", "Units": "month"},
        "alsfrs_r": {"Description": "Revised ALS functional rating scale, 0 to 48 (best)"},
    }
    path = folder / f"sub-{person.label}_sessions.tsv"
    write_table(path, Table(("session_id", "months", "alsfrs_r"), tuple(visits), described))


def _visit(
    person: Participant, number: int, month: float, seed: int
) -> dict[str, dict[str, object]]:
    """Values of one visit, by file of the phenotype folder."""
    own = stream(seed, person, "clinical")
    habit = own.normal(size=60)  # what a person keeps over visits
    rng = stream(seed, person, "clinical", str(number))
    deficit, score = _deficit(person, month, rng)
    items = _items(score, rng)
    near = {
        region: deficit * (1.4 if region == person.onset_site else 0.8)
        for region in ("bulbar", "upper limb", "lower limb")
    }
    side = _SIDES[int(own.random() < 0.5)]

    def loss(region: str, of_side: str | None) -> float:
        return near[region] * (1.2 if of_side == side else 1.0)

    files: dict[str, dict[str, object]] = {
        "alsfrs_r": {**({} if score is None else {"alsfrs_r": score}), **items},
        "strength": _strength(loss, rng),
        "dynamometry": {
            f"dynamometry_{s}_{muscle}": round(
                float(
                    force
                    * np.exp(0.2 * habit[k] + rng.normal(0, 0.06))
                    * (1 - min(loss(_region(muscle), s), 0.95))
                ),
                1,
            )
            for k, (muscle, force) in enumerate(FORCE_LB.items())
            for s in _SIDES
        },
        "motor_units": _motor_units(loss, habit, rng),
        "electromyography": {
            f"emg_duration_{s}_{muscle}": round(
                float(duration * (1 + 1.1 * loss(_region(muscle), s)) + rng.normal(0, 0.5)), 2
            )
            for muscle, duration in DURATION_MS.items()
            for s in _SIDES
        },
        "upper_motor_neuron": _upper(person, loss, own, rng),
        "examination": _examination(person, deficit, own, habit),
    }
    return {name: values for name, values in files.items() if values}


def _deficit(
    person: Participant, month: float, rng: np.random.Generator
) -> tuple[float, int | None]:
    """Share of function that is lost, and the score of the rating scale."""
    if person.alsfrs_r is None or person.disease_duration_months is None:
        return 0.0, None
    rate = progression_rate(person.alsfrs_r, person.disease_duration_months)
    score = person.alsfrs_r
    if month > 0:
        # at first by the rate, ever slower towards the floor
        score = round(float(score * np.exp(-rate * month / max(score, 1)) + rng.normal(0, 0.8)))
    score = int(np.clip(score, 0, ALSFRS_R_MAX))
    return (ALSFRS_R_MAX - score) / ALSFRS_R_MAX, score


def _items(score: int | None, rng: np.random.Generator) -> dict[str, object]:
    """Twelve items of 0 to 4 that sum up to the score."""
    if score is None:
        return {f"alsfrs_r_{k}": None for k in range(1, 13)}
    items = np.full(12, 4)
    while items.sum() > score:
        place = int(rng.integers(12))
        items[place] -= items[place] > 0
    return {f"alsfrs_r_{k}": int(item) for k, item in enumerate(items, start=1)}


def _region(muscle: str) -> str:
    return _REGION_OF.get(muscle) or STRENGTH.get(muscle, "upper limb")


def _strength(loss: _Loss, rng: np.random.Generator) -> dict[str, object]:
    values: dict[str, object] = {}
    for muscle, region in STRENGTH.items():
        for s in _SIDES:
            lost = loss(region, s)
            weak = 5 - 4.5 * lost + rng.normal(0, 0.5) if lost > 0 else 5.0
            values[f"mrc_{s}_{muscle}"] = int(np.clip(round(float(weak)), 0, 5))
    for muscle in NECK:
        lost = loss("bulbar", None)
        weak = 5 - 3 * lost + rng.normal(0, 0.4) if lost > 0 else 5.0
        values[f"mrc_{muscle}"] = int(np.clip(round(float(weak)), 0, 5))
    values["mrc_sum"] = sum(int(str(v)) for v in values.values())
    return values


def _motor_units(
    loss: _Loss, habit: NDArray[np.float64], rng: np.random.Generator
) -> dict[str, object]:
    values: dict[str, object] = {}
    for k, (muscle, (units, potential)) in enumerate(MOTOR_UNITS.items(), start=20):
        left = 1 - min(1.3 * loss(_region(muscle), None), 0.95)
        number = units * left * np.exp(0.15 * habit[k] + rng.normal(0, 0.12))
        cmap = potential * left**0.6 * np.exp(0.15 * habit[k] + rng.normal(0, 0.1))
        values[f"munix_{muscle}"] = round(float(number), 1)
        values[f"cmap_{muscle}"] = round(float(cmap), 2)
        values[f"musix_{muscle}"] = round(float(1000 * cmap / number), 1)
    values["motor_unit_side"] = "right"
    return values


def _upper(
    person: Participant, loss: _Loss, own: np.random.Generator, rng: np.random.Generator
) -> dict[str, object]:
    """Scores of limbs (0 to 8) and of the whole body (0 to 33); controls have none."""
    if person.group != "als":
        return {}
    sign = float(own.gamma(2.0, 6.0))  # signs of the first motor neuron vary more than strength
    limbs = {
        f"umn_{s}_{limb}": int(np.clip(round(sign * (0.1 + loss(region, s)) + rng.normal()), 0, 8))
        for s in _SIDES
        for limb, region in (("arm", "upper limb"), ("leg", "lower limb"))
    }
    jaw = int(loss("bulbar", None) > 0.2)
    return {"umn_score": sum(limbs.values()) + jaw, **limbs}


def _examination(
    person: Participant, deficit: float, own: np.random.Generator, habit: NDArray[np.float64]
) -> dict[str, object]:
    is_ill = person.group == "als"
    # Cosottini 2016: of patients the readers call 67 and 50 % ill, of controls 23 and 0 %
    chances = (0.67, 0.5) if is_ill else (0.23, 0.0)
    height = 176 if person.sex == "male" else 163
    definite = ("definite", "probable", "probable_laboratory_supported", "possible")
    return {
        "height_cm": round(float(height + 7 * habit[40])),
        "weight_kg": round(float(0.42 * height + 9 * habit[41] - 8 * deficit), 1),
        "mmse": int(np.clip(round(float(28.5 + habit[42])), 20, 30)),
        "fab": int(np.clip(round(float(16 + habit[43] - 3 * deficit)), 5, 18)),
        "el_escorial": definite[int(own.integers(4))] if is_ill else None,
        "reader1": int(own.random() < chances[0]),
        "reader2": int(own.random() < chances[1]),
        "central_conduction_time_ms": round(float(6.5 + 0.8 * habit[44] + 3 * deficit), 2),
        "cortical_latency_ms": round(float(20.5 + 1.2 * habit[45] + 3 * deficit), 2),
        "cortical_silent_period_ms": round(float(110 + 25 * habit[46] - 40 * deficit), 1),
        "frap": round(float(620 + 120 * habit[47] - 100 * is_ill), 1),
        "aopp": round(float(160 + 60 * habit[48] + 60 * is_ill), 1),
        "thiols": round(float(280 + 60 * habit[49] - 40 * is_ill), 1),
    }


_WORDS: tuple[tuple[str, str, str], ...] = (
    (r"alsfrs_r_\d+", "Item of the revised ALS functional rating scale, 0 to 4 (best)", ""),
    (r"mrc_sum", "Sum of all scores of strength, 0 to 170 (best)", ""),
    (r"mrc_.+", "Strength of the Medical Research Council, 0 to 5 (best)", ""),
    (r"dynamometry_.+", "Isometric force", "lb"),
    (r"motor_unit_side", "Side on which motor units were counted", ""),
    (r"munix_.+", "Motor unit number index", ""),
    (r"musix_.+", "Motor unit size index", "uV"),
    (r"cmap_.+", "Compound muscle action potential", "mV"),
    (r"emg_duration_.+", "Mean duration of motor unit action potentials", "ms"),
    (r"umn_score", "Upper motor neuron score of the whole body, 0 to 33", ""),
    (r"umn_.+", "Upper motor neuron score of the limb, 0 to 8", ""),
    (r"reader\d", "Whether a blinded reader calls the motor cortex abnormal, 0 or 1", ""),
    (r"mmse", "Mini mental state examination, 0 to 30 (best)", ""),
    (r"fab", "Frontal assessment battery, 0 to 18 (best)", ""),
    (r"height_cm", "Height", "cm"),
    (r"weight_kg", "Weight", "kg"),
    (r"el_escorial", "Class by the revised El Escorial criteria", ""),
    (r".+_ms", "Transcranial magnetic stimulation", "ms"),
    (r"frap|aopp|thiols", "Marker in plasma", "umol/L"),
)


def _described(column: str) -> dict[str, object]:
    text, unit = next((t, u) for pattern, t, u in _WORDS if re.fullmatch(pattern, column))
    return {"Description": text, **({"Units": unit} if unit else {})}
