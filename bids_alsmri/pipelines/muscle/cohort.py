"""A cohort's muscles: composite scores, deviation from controls, and what readers saw."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bids_alsmri.errors import DataError
from bids_alsmri.numerics.normative import control_scores
from bids_alsmri.pipelines.muscle.measures import SUMMARY
from bids_alsmri.pipelines.muscle.vocabulary import read_vocabulary

log = logging.getLogger(__name__)

# Jenkins 2020, methods: muscles of the region of onset, and the one that stands for it
REGIONS: Mapping[str, tuple[str, ...]] = {
    "bulbar": ("tongue", "trapezius", "sternocleidomastoid"),
    "upper limb": (
        *("deltoid", "biceps brachii", "triceps", "forearm compartment"),
        *("first dorsal interosseous", "thenar", "hypothenar"),
    ),
    "lower limb": (
        *("psoas", "gluteus maximus", "quadriceps", "hamstrings", "tibialis anterior"),
        "gastrocnemius and soleus",
    ),
}
MUSCLES: Mapping[str, str] = {
    "bulbar": "tongue",
    "upper limb": "first dorsal interosseous",
    "lower limb": "tibialis anterior",
}
# words of participants.tsv by the region that they mean
_SITES = {
    "bulbar": "bulbar", "upper limb": "upper limb", "upper_limb": "upper limb", "ul": "upper limb",
    "arm": "upper limb", "lower limb": "lower limb", "lower_limb": "lower limb",
    "ll": "lower limb", "leg": "lower limb",
}  # fmt: skip
_COLUMNS = (
    *("participant_id", "session_id", "onset_site", "onset_side", "score", "value", "n_muscles"),
    *("n_muscles_due", "sides"),
)
_MEASURE = "relative_t2"
# columns of the clinical table that controls differ by in the size and signal of their muscles
COVARIATES = ("age", "sex", "height", "weight")
IS_CONTROL = "is_control"
_SCORED = (
    *("relative_t2", "adc", "fat_fraction", "fatty_share", "volume", "cross_section", "asymmetry"),
)
_KEYS = ["participant_id", "session_id", "region", "side"]
_READ = ("mercuri", "atrophy")
SIDECARS: Mapping[str, Mapping[str, Mapping[str, str]]] = {
    "composites": {
        "onset_site": {"Description": "Region of the body where the disease began"},
        "onset_side": {"Description": "Side where it began"},
        "score": {"Description": "summary_mean, region_of_onset or muscle_of_onset"},
        "value": {"Description": "Mean relative T2 signal of its muscles", "Units": "1"},
        "n_muscles": {"Description": "Muscles that were measured", "Units": "1"},
        "n_muscles_due": {"Description": "Muscles that it is defined by", "Units": "1"},
        "sides": {"Description": "Sides that it is of"},
    },
    "zscores": {
        "group": {"Description": "control, or other for those who are compared with them"},
        "measure": {"Description": "As in the table of muscles"},
        "value": {"Description": "Value in the unit of the row"},
        "unit": {"Description": "Unit of value and expected; 1 for a pure number"},
        "expected": {"Description": "What a control of the same covariates would have"},
        "z": {
            "Description": "Normal deviate of value from expected; for controls without themselves",
            "Units": "1",
        },
        "n_controls": {"Description": "Controls that it was told by", "Units": "1"},
        "adjusted_for": {"Description": "Covariates"},
    },
    "readings": {
        "reader": {"Description": "File of the readings, where several have the muscle"},
        "mercuri_read": {"Description": "Mercuri's grade as read, 0 to 3", "Units": "1"},
        "atrophy_read": {"Description": "Whether the muscle was read as wasted: yes or no"},
        "mercuri": {"Description": "Mercuri's grade as measured, 0 to 3", "Units": "1"},
        "volume_z": {"Description": "Normal deviate of the volume from controls'", "Units": "1"},
        "cross_section_z": {
            "Description": "Normal deviate of the largest cross-section from controls'",
            "Units": "1",
        },
    },
}
_OF_ALL = {
    "participant_id": {"Description": "Participant"},
    "session_id": {"Description": "Visit"},
    "region": {"Description": "Muscle or group of muscles"},
    "side": {"Description": "Side of the body; n/a for what lies in the middle"},
}
_YES_OR_NO = {"yes": "yes", "1": "yes", "true": "yes", "no": "no", "0": "no", "false": "no"}
_GRADES = (0, 1, 2, 3)


def sidecar_of(desc: str, table: pd.DataFrame) -> dict[str, Mapping[str, str]]:
    """What the columns of a table of the group level are.

    Parameters
    ----------
    desc : str
        As `composite_tables` names it.
    table : DataFrame
        The table.

    Returns
    -------
    dict of mapping
        Description and unit of every column.

    Examples
    --------
    >>> sidecar_of("zscores", pd.DataFrame({"z": [0.0]}))["z"]["Units"]
    '1'
    """
    known = {**_OF_ALL, **SIDECARS[desc]}
    return {column: known[column] for column in table.columns}


def composite_tables(
    tables: Mapping[str, pd.DataFrame], visits: pd.DataFrame
) -> dict[str, pd.DataFrame]:
    """Tables of a cohort's muscles: scores, deviation from controls, and readings.

    Parameters
    ----------
    tables : mapping of DataFrame
        Collected tables by their output; ``muscles`` has participant_id, session_id and the
        columns of the participant level.
    visits : DataFrame
        Clinical table: participant_id, and onset_site, onset_side, age, sex, height, weight and
        what readers saw where known; is_control where groups are known.

    Returns
    -------
    dict of DataFrame
        ``composites``: one row for each visit and score; ``zscores``: see `deviations`;
        ``readings``: see `readings`. Empty without a table of muscles.

    Raises
    ------
    DataError
        If a reading is no grade, or neither yes nor no.

    Notes
    -----
    Summary mean: over all muscles of Jenkins 2020. Region of onset: their mean over the muscles of
    that region, of the side of onset where limbs are meant, of both sides where it is bulbar.
    Muscle of onset: tongue, first dorsal interosseous or tibialis anterior. Where the side of a
    limb onset is not known, the score is that of both sides, and ``sides`` says so.

    Examples
    --------
    >>> muscles = pd.DataFrame({"participant_id": ["sub-01"] * 2, "session_id": ["ses-m00"] * 2,
    ...     "region": ["tibialis anterior"] * 2, "side": ["left", "right"],
    ...     "measure": ["relative_t2"] * 2, "value": [0.4, 0.6]})
    >>> people = pd.DataFrame({"participant_id": ["sub-01"], "onset_site": ["lower limb"],
    ...     "onset_side": ["left"]})
    >>> found = composite_tables({"muscles": muscles}, people)["composites"]
    >>> found.loc[found["score"] == "muscle_of_onset", "value"].tolist()
    [0.4]
    """
    if "muscles" not in tables:
        return {}
    signal = tables["muscles"]
    signal = signal[signal["measure"] == _MEASURE]
    people = visits.drop_duplicates("participant_id").set_index("participant_id")
    rows: list[dict[str, object]] = []
    for (participant, session), own in signal.groupby(
        ["participant_id", "session_id"], sort=False, dropna=False
    ):
        rows += _scores(own, _onset(people, str(participant)), str(participant), session)
    found = {"composites": pd.DataFrame(rows, columns=list(_COLUMNS))}
    scores = deviations(tables["muscles"], visits)
    if len(scores):
        found["zscores"] = scores
    read = readings(tables["muscles"], visits, scores)
    if len(read):
        found["readings"] = read
    return found


def deviations(muscles: pd.DataFrame, visits: pd.DataFrame) -> pd.DataFrame:
    """Measures of every muscle and visit against those of the dataset's controls.

    Parameters
    ----------
    muscles : DataFrame
        participant_id, session_id, region, side, measure, value and unit.
    visits : DataFrame
        Clinical table with is_control, and age, sex, height and weight where known.

    Returns
    -------
    DataFrame
        participant_id, session_id, group ("control" or "other"), region, side, measure, value,
        unit, expected, z, n_controls and adjusted_for. Empty where no group is known.

    Notes
    -----
    Adjusted for those of age, sex, height and weight that the table has for anybody; a visit that
    lacks one of them has no score. Wasting shows as a low z of volume and cross-section, a
    lateral one as a z of asymmetry (right less left over their mean) far from 0.
    """
    if IS_CONTROL not in visits.columns or not visits[IS_CONTROL].any():
        return pd.DataFrame()
    own = muscles[muscles["measure"].isin(_SCORED)].copy()
    own["side"] = own["side"].fillna("n/a")
    if not len(own):
        return pd.DataFrame()
    covariates, names = _covariates(own, visits)
    controls = set(visits.loc[visits[IS_CONTROL].astype(bool), "participant_id"])
    is_control = own["participant_id"].isin(controls).to_numpy()
    person = own["participant_id"].astype("category").cat.codes.to_numpy()
    values = own["value"].astype(float).to_numpy()
    own["group"] = np.where(is_control, "control", "other")
    expected, z = np.full(len(own), np.nan), np.full(len(own), np.nan)
    n_controls = np.zeros(len(own), np.int64)
    places = np.arange(len(own))
    for _, rows in own.assign(place=places).groupby(["region", "side", "measure"])["place"]:
        at = rows.to_numpy()
        found = control_scores(values[at], covariates[at], person[at], is_control[at])
        expected[at], z[at], n_controls[at] = found.expected, found.z, found.n_controls
    own = own.assign(
        expected=expected, z=z, n_controls=n_controls, adjusted_for=", ".join(names) or "nothing"
    )
    columns = [*_KEYS[:2], "group", *_KEYS[2:], "measure", "value", "unit", "expected", "z"]
    kept = [column for column in columns if column in own.columns]
    return own[[*kept, "n_controls", "adjusted_for"]].reset_index(drop=True)


def _covariates(
    rows: pd.DataFrame, visits: pd.DataFrame
) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Covariates of each row, and the names of those that are known of anybody."""
    names = tuple(c for c in COVARIATES if c in visits.columns and visits[c].notna().any())
    by_person = visits.drop_duplicates("participant_id").set_index("participant_id")
    by_visit = (
        visits.dropna(subset="session_id")
        .drop_duplicates(["participant_id", "session_id"])
        .set_index(["participant_id", "session_id"])
        if "session_id" in visits.columns
        else None
    )
    columns = []
    for name in names:
        given = by_person[name].reindex(rows["participant_id"]).reset_index(drop=True)
        if by_visit is not None and "session_id" in rows.columns:
            visit = pd.MultiIndex.from_frame(rows[["participant_id", "session_id"]])
            at_visit = by_visit[name].reindex(visit).reset_index(drop=True)
            given = at_visit.where(at_visit.notna(), given)
        if not pd.api.types.is_numeric_dtype(visits[name]):
            # two words, such as F and M, are 0 and 1
            words = sorted({str(w) for w in visits[name].dropna()})
            given = given.map({word: float(i) for i, word in enumerate(words)})
        columns.append(given.to_numpy(np.float64))
    shape = (len(rows), len(names))
    return (np.column_stack(columns) if columns else np.zeros(shape)), names


def readings(muscles: pd.DataFrame, visits: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """What readers saw in muscles, beside what was measured.

    Parameters
    ----------
    muscles : DataFrame
        As for `deviations`.
    visits : DataFrame
        Clinical table. Columns mercuri_<muscle> (0 to 3) and atrophy_<muscle> (yes or no), such as
        mercuri_left_tibialis_anterior, come from files of the phenotype folder; where several
        files have one, the name of the file stands in front with a dot, and is the reader's.
    scores : DataFrame
        From `deviations`.

    Returns
    -------
    DataFrame
        participant_id, session_id, region, side, reader, mercuri_read, atrophy_read, mercuri (as
        measured), volume_z and cross_section_z. Empty where nobody read anything.

    Raises
    ------
    DataError
        If a reading is no grade, or neither yes nor no.
    """
    columns = _columns_read(visits)
    rows = []
    for visit in visits.to_dict("records") if columns else []:
        seen: dict[tuple[str, str, str], dict[str, object]] = {}
        for column, (reader, what, region, side) in columns.items():
            value = visit[column]
            if value is None or (isinstance(value, float) and np.isnan(value)):
                continue
            own = seen.setdefault((region, side, reader), {})
            own[f"{what}_read"] = _reading(value, what, f"{visit['participant_id']}: {column}")
        rows += [
            {
                "participant_id": visit["participant_id"],
                "session_id": visit.get("session_id"),
                "region": region,
                "side": side,
                "reader": reader or None,
                **dict.fromkeys((f"{what}_read" for what in _READ), None),
                **own,
            }
            for (region, side, reader), own in seen.items()
        ]
    table = pd.DataFrame(rows)
    if not len(table):
        return table
    measured = muscles[muscles["measure"] == "mercuri"]
    table["mercuri"] = _beside(table, measured, "value")
    for measure in ("volume", "cross_section"):
        own_scores = scores[scores["measure"] == measure] if len(scores) else scores
        table[f"{measure}_z"] = _beside(table, own_scores, "z")
    return table


def _columns_read(visits: pd.DataFrame) -> dict[str, tuple[str, str, str, str]]:
    """Reader, kind, region and side of the columns that hold readings."""
    vocabulary = read_vocabulary(None)
    found = {}
    for column in map(str, visits.columns):
        reader, _, name = column.rpartition(".")
        what, _, muscle = name.partition("_")
        if what not in _READ or not muscle:
            continue
        region = vocabulary.find(muscle)
        if region is None:
            log.warning(
                "%s: names no single muscle of the list; expected a side and a muscle, as in "
                "%s_left_tibialis_anterior; it is left out",
                column,
                what,
            )
            continue
        found[column] = (reader, what, region.name, _side_of(region.side))
    return found


def _side_of(side: str) -> str:
    return "n/a" if side == "midline" else side


def _reading(value: object, what: str, where: str) -> object:
    if what == "atrophy":
        word = str(int(value) if isinstance(value, float) else value).strip().lower()
        if word not in _YES_OR_NO:
            raise DataError(f"{where} is {value!r}; give yes or no (or 1 or 0)")
        return _YES_OR_NO[word]
    if not isinstance(value, int | float) or float(value) not in _GRADES:
        raise DataError(f"{where} is {value!r}; give one of Mercuri's grades, 0, 1, 2 or 3")
    return int(value)


def _beside(table: pd.DataFrame, measured: pd.DataFrame, column: str) -> NDArray[np.float64]:
    """Value of the same visit and muscle; of the participant's only visit where none is named."""
    if not len(measured):
        return np.full(len(table), np.nan)
    own = measured.assign(side=measured["side"].fillna("n/a"))
    by_visit = own.drop_duplicates(_KEYS).set_index(_KEYS)[column]
    alone = own.groupby(["participant_id", "region", "side"])[column]
    by_person = alone.first()[alone.size() == 1]
    values = []
    for row in table[_KEYS].to_dict("records"):
        person = (row["participant_id"], row["region"], row["side"])
        visit = (person[0], row["session_id"], *person[1:])
        value = by_visit.get(visit, by_person.get(person, np.nan))
        values.append(float(value))
    return np.array(values)


def _onset(people: pd.DataFrame, participant: str) -> tuple[str, str]:
    """Region and side of onset; empty where not known."""

    def of(column: str) -> str:
        if column not in people.columns or participant not in people.index:
            return ""
        value = people.loc[participant, column]
        return str(value).strip().lower() if isinstance(value, str) else ""

    side = {"l": "left", "r": "right"}.get(of("onset_side"), of("onset_side"))
    return _SITES.get(of("onset_site"), ""), side if side in ("left", "right") else ""


def _scores(
    own: pd.DataFrame, onset: tuple[str, str], participant: str, session: object
) -> list[dict[str, object]]:
    site, side = onset
    values = {
        (str(r), "" if pd.isna(s) or s == "n/a" else str(s)): float(v)
        for r, s, v in zip(own["region"], own["side"], own["value"], strict=True)
    }
    given = {
        "participant_id": participant,
        "session_id": session,
        "onset_site": site or None,
        "onset_side": side or None,
    }
    rows: list[dict[str, object]] = []
    summary = values.get((SUMMARY, ""))
    if summary is not None:
        n = own.loc[own["region"] == SUMMARY, "n"].iloc[0] if "n" in own.columns else 0
        rows.append(
            {
                **given,
                "score": "summary_mean",
                "value": summary,
                "n_muscles": int(n),
                "n_muscles_due": 34,
                "sides": "both",
            }
        )
    if not site:
        return rows
    for score, names in (("region_of_onset", REGIONS[site]), ("muscle_of_onset", (MUSCLES[site],))):
        sides = ("left", "right") if site == "bulbar" or not side else (side,)
        due = [(name, s) for name in names for s in (("",) if name == "tongue" else sides)]
        there = [values[key] for key in due if key in values and np.isfinite(values[key])]
        told = "both" if site == "bulbar" else side or "both, the side of onset is not known"
        rows.append(
            {
                **given,
                "score": score,
                "value": float(np.mean(there)) if there else np.nan,
                "n_muscles": len(there),
                "n_muscles_due": len(due),
                "sides": told,
            }
        )
    return rows
