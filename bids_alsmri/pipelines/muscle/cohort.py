"""Composite scores of a cohort's visits: means over muscles, and those of the site of onset."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from bids_alsmri.pipelines.muscle.measures import SUMMARY

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


def composite_tables(
    tables: Mapping[str, pd.DataFrame], visits: pd.DataFrame
) -> dict[str, pd.DataFrame]:
    """Composite scores of all visits.

    Parameters
    ----------
    tables : mapping of DataFrame
        Collected tables by their output; ``muscles`` has participant_id, session_id and the
        columns of the participant level.
    visits : DataFrame
        Clinical table: participant_id, and onset_site and onset_side where known.

    Returns
    -------
    dict of DataFrame
        ``composites``: one row for each visit and score. Empty without a table of muscles.

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
    return {"composites": pd.DataFrame(rows, columns=list(_COLUMNS))}


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
