"""Muscles of a cohort, from the participants' tables to those of the group level."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

from bids_alsmri.cli import main
from bids_alsmri.engine.records import Identity, Record, write_record
from bids_alsmri.errors import DataError, ExitCode
from bids_alsmri.pipelines.muscle.cohort import composite_tables, deviations, readings

MUSCLE = "tibialis anterior"
N_CONTROLS = 20


def cohort(seed: int = 0, wasted: float = 0.5) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tables of people whose muscles grow with their height; the last lost a share on the left."""
    rng = np.random.default_rng(seed)
    n = N_CONTROLS + 1
    people = pd.DataFrame(
        {
            "participant_id": [f"sub-{i:02}" for i in range(n)],
            "session_id": [None] * n,
            "group": ["hc"] * N_CONTROLS + ["als"],
            "age": rng.normal(60, 8, n).round(),
            "sex": rng.choice(["F", "M"], n),
            "height": rng.normal(1.7, 0.09, n),
        }
    )
    rows = []
    for person in people.to_dict("records"):
        typical = 90e3 * person["height"] ** 3 * (1.15 if person["sex"] == "M" else 1.0)
        for side in ("left", "right"):
            lost = wasted if person["group"] == "als" and side == "left" else 0.0
            volume = typical * (1 - lost) * rng.normal(1, 0.05)
            rows.append((person["participant_id"], None, MUSCLE, side, "volume", volume, "mm3"))
            rows.append((person["participant_id"], None, MUSCLE, side, "mercuri", 2 * lost, "1"))
    columns = ["participant_id", "session_id", "region", "side", "measure", "value", "unit"]
    return pd.DataFrame(rows, columns=columns), people


def with_controls(people: pd.DataFrame) -> pd.DataFrame:
    return people.assign(is_control=people["group"] == "hc")


def test_wasted_muscle_stands_out_and_the_other_side_does_not():
    muscles, people = cohort()
    table = deviations(muscles, with_controls(people))
    patient = table[table["participant_id"] == "sub-20"].set_index("side")
    assert patient.loc["left", "z"] < -3
    assert abs(patient.loc["right", "z"]) < 3
    assert set(patient["adjusted_for"]) == {"age, sex, height"}
    assert set(patient["group"]) == {"other"}


def test_small_person_is_compared_with_people_of_that_size():
    muscles, people = cohort(wasted=0.0)
    people.loc[N_CONTROLS, "height"] = 1.45
    # as large as somebody of that height should be
    typical = 90e3 * 1.45**3 * (1.15 if people.loc[N_CONTROLS, "sex"] == "M" else 1.0)
    own = (muscles["participant_id"] == "sub-20") & (muscles["measure"] == "volume")
    muscles.loc[own, "value"] = typical
    scores = {}
    for name, table in (("adjusted", people), ("raw", people.drop(columns="height"))):
        found = deviations(muscles, with_controls(table))
        scores[name] = found.loc[found["participant_id"] == "sub-20", "z"].to_numpy()
    assert np.abs(scores["adjusted"]).max() < 2
    assert scores["raw"].max() < -2


def test_visit_takes_the_covariates_of_its_session():
    muscles, people = cohort()
    twice = people[people["participant_id"] == "sub-20"].assign(session_id="ses-m12", height=9.0)
    visits = pd.concat([people, twice])
    later = muscles[muscles["participant_id"] == "sub-20"].assign(session_id="ses-m12")
    table = deviations(pd.concat([muscles, later]), with_controls(visits))
    expected = table[table["participant_id"] == "sub-20"].set_index(["session_id", "side"])
    first, second = (expected.loc[s, "expected"].mean() for s in (np.nan, "ses-m12"))
    assert second > 2 * first


def test_without_groups_there_are_no_scores():
    muscles, people = cohort()
    assert "zscores" not in composite_tables({"muscles": muscles}, people)


def test_readings_stand_beside_what_was_measured():
    muscles, people = cohort()
    people["readers1.mercuri_left_tibialis_anterior"] = [0.0] * N_CONTROLS + [2.0]
    people["readers2.mercuri_left_tibialis_anterior"] = [np.nan] * N_CONTROLS + [1.0]
    people["atrophy_left_tibialis_anterior"] = ["no"] * N_CONTROLS + ["yes"]
    scores = deviations(muscles, with_controls(people))
    table = readings(muscles, people, scores)
    own = table[table["participant_id"] == "sub-20"].set_index("reader", drop=False)
    assert own.loc["readers1", "mercuri_read"] == 2
    assert own.loc["readers2", "mercuri_read"] == 1
    assert own["atrophy_read"].dropna().tolist() == ["yes"]
    # half of the muscle was taken for a grade of 1
    assert_allclose(own["mercuri"].astype(float), 1.0)
    z = scores[(scores["participant_id"] == "sub-20") & (scores["side"] == "left")]["z"]
    assert_allclose(own["volume_z"].astype(float), z.iloc[0])
    assert len(table) == N_CONTROLS * 2 + 3


@pytest.mark.parametrize(
    ("column", "value", "text"),
    [
        ("mercuri_left_tibialis_anterior", 4.0, "sub-00: mercuri_left_tibialis_anterior is 4.0"),
        ("mercuri_left_tibialis_anterior", 1.5, "one of Mercuri's grades, 0, 1, 2 or 3"),
        ("atrophy_left_tibialis_anterior", "perhaps", "give yes or no"),
    ],
)
def test_reading_of_no_meaning_is_refused(column, value, text):
    muscles, people = cohort()
    with pytest.raises(DataError, match=text):
        readings(muscles, people.assign(**{column: value}), pd.DataFrame())


def test_reading_of_an_unknown_muscle_is_told(caplog):
    muscles, people = cohort()
    table = readings(muscles, people.assign(mercuri_left_unicorn=1.0), pd.DataFrame())
    assert not len(table)
    assert "mercuri_left_unicorn: names no single muscle" in caplog.text


def test_group_level_of_muscle_alone_makes_its_tables(tmp_path: Path):
    muscles, people = cohort()
    raw, out = tmp_path / "raw", tmp_path / "out"
    raw.mkdir()
    (raw / "dataset_description.json").write_text('{"Name": "a", "BIDSVersion": "1.10.0"}')
    people.drop(columns="session_id").to_csv(raw / "participants.tsv", sep="\t", index=False)
    reading = people[["participant_id"]].assign(mercuri_left_tibialis_anterior=[0] * 20 + [2])
    (raw / "phenotype").mkdir()
    reading.to_csv(raw / "phenotype" / "readers.tsv", sep="\t", index=False)
    for name in people["participant_id"]:
        image = Path(name, "anat", f"{name}_acq-wholebody_chunk-1_T2w.nii.gz")
        table = Path(name, "anat", f"{name}_desc-muscles_stats.tsv")
        for path in (raw / image, out / table):
            path.parent.mkdir(parents=True)
        (raw / image).write_text("image")
        own = muscles[muscles["participant_id"] == name]
        own.drop(columns=["participant_id", "session_id"]).to_csv(
            out / table, sep="\t", index=False
        )
        record = Record(
            Identity("0", {}, {}, {str(image): {"sha256": "0"}}, {}), {"muscles": str(table)}
        )
        write_record(out / "logs" / "scans" / f"{name}_muscle.json", record)
    code = main([str(raw), str(out), "group", "-w", str(tmp_path / "work")])
    assert code == ExitCode.DONE
    made = {p.name for p in (out / "group").glob("*.tsv")}
    stem = "muscle_desc-{}_stats.tsv"
    assert {stem.format(n) for n in ("muscles", "composites", "zscores", "readings")} <= made
    scores = pd.read_csv(out / "group" / stem.format("zscores"), sep="\t")
    (z,) = scores[(scores["participant_id"] == "sub-20") & (scores["side"] == "left")]["z"]
    assert z < -3
    read = pd.read_csv(out / "group" / stem.format("readings"), sep="\t")
    assert read["mercuri_read"].tolist() == [0] * 20 + [2]
    sidecar = json.loads(
        (out / "group" / stem.format("zscores").replace("tsv", "json")).read_text()
    )
    assert set(sidecar) >= set(scores.columns)
