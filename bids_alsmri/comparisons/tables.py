"""Tables of the papers from a dataset: clinical columns and the participants' region tables."""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from bids_alsmri.bids.clinical import ClinicalTable, natural_key
from bids_alsmri.comparisons.cohort import CohortNames
from bids_alsmri.errors import DataError
from bids_alsmri.numerics.normative import ControlScores, control_scores
from bids_alsmri.stats.comparison import compare_adjusted
from bids_alsmri.stats.harmonisation import Harmonisation, harmonise
from bids_alsmri.stats.scores import EMG_LIMITS_MS, emg_grade
from bids_alsmri.stats.tables import Cohort, coded

# Columns of a table of regions; n and source are not needed.
REGION_COLUMNS = ("region", "measure", "value")
_NO_SIDE = ("", "n/a", "nan", "none")
# Along the neuraxis: where a measure stands by its pipeline and region.
_NEURAXIS = (
    ("cortex7t.", "cortex"),
    ("sodium.", "brain: sodium"),
    ("diffusion.", "brain: diffusion"),
    ("muscle.", "muscle"),
)
_MUSCLES_FROM_HEAD = (
    *("tongue", "splenius", "sternocleidomastoid", "trapezius", "deltoid", "biceps", "triceps"),
    *("forearm", "interosseous", "thenar", "hypothenar", "paraspinal", "psoas", "iliopsoas"),
    *("gluteus", "quadriceps", "anterior_thigh", "hamstrings", "posterior_thigh", "tibialis"),
    *("anterior_calf", "gastrocnemius", "posterior_calf"),
)
_SIDES = ("left", "right")
# Of Jenkins 2020; names as `region_measures` makes them of the muscle pipeline's.
_REGIONS_OF_JENKINS: Mapping[str, tuple[str, ...]] = {
    "bulbar": ("tongue", "trapezius", "sternocleidomastoid"),
    "upper": (
        *("deltoid", "biceps_brachii", "triceps", "forearm_compartment"),
        *("first_dorsal_interosseous", "thenar", "hypothenar"),
    ),
    "lower": (
        *("psoas", "gluteus_maximus", "quadriceps", "hamstrings", "tibialis_anterior"),
        "gastrocnemius_and_soleus",
    ),
}
_MIDLINE = ("tongue", "splenius_capitis")
# The 34 muscles of Jenkins 2020.
_MUSCLES_OF_JENKINS = frozenset(
    {
        *_MIDLINE,
        *(
            f"{side}_{name}"
            for side in _SIDES
            for names in (*_REGIONS_OF_JENKINS.values(), ("thoracic_paraspinal",))
            for name in names
            if name not in _MIDLINE
        ),
    }
)
# Regions of Diamanti 2018 with the muscles that their score is the mean of; the list is in the
# paper's supplement, this one has as many muscles in each region as its medians tell.
_REGIONS_OF_DIAMANTI: Mapping[str, tuple[str, ...]] = {
    "hand": (
        *("first_dorsal_interosseous", "abductor_pollicis_brevis", "opponens_pollicis"),
        *("flexor_pollicis_brevis", "adductor_pollicis", "abductor_digiti_minimi"),
        *("flexor_digiti_minimi_brevis", "opponens_digiti_minimi", "interossei_and_lumbricals"),
    ),
    "paraspinals": ("erector_spinae", "thoracolumbar_multifidus"),
    "iliopsoas": ("iliopsoas",),
    "gluteus_maximus": ("gluteus_maximus",),
    "anterior_thigh": (
        *("vastus_lateralis", "vastus_intermedius", "vastus_medialis", "rectus_femoris"),
    ),
    "posterior_thigh": (
        *("semimembranosus", "semitendinosus", "biceps_femoris_long_head"),
        *("biceps_femoris_short_head", "gracilis", "adductor_magnus", "adductor_longus"),
    ),
    "anterior_calf": (
        *("tibialis_anterior", "extensor_digitorum_longus", "extensor_hallucis_longus"),
        "peroneal_muscles",
    ),
    "posterior_calf": (
        *("gastrocnemius_medial_head", "gastrocnemius_lateral_head", "soleus"),
        *("tibialis_posterior", "flexor_digitorum_longus", "flexor_hallucis_longus"),
    ),
}
_MOTOR_AREAS = ("foot", "leg", "hand", "face")
# Muscle of an image by the word of the columns of motor units (Jenkins 2020, table 3).
_MUNIX_MUSCLES = ("biceps_brachii", "thenar", "hypothenar", "tibialis_anterior")
_WEAKNESS = {
    "first_dorsal_interosseous": "first_dorsal_interosseous",
    "ankle_dorsiflexors": "tibialis_anterior",
}
_WORST_GRADE = 3.0
# Spread, quality and place of a measure: no result of their own on a scale against controls.
_AUXILIARY = re.compile(
    r"\w+\.(\w+_(sd|median|eroded|low|high|error)|n_slices|slice|adc_(snr|mean)|displaced_fat"
    r"|volume_of_station|tsc_weighted|profiles_\w+|tilt|coverage|white_to_reference|mercuri_region"
    r"|dixon_mercuri_region|atrophy)\..+|muscle\.relative_t2\.munix_side_.+"
)
# Standard deviations below the controls' prediction from which on a muscle counts as atrophic.
ATROPHY_Z = -2.0


def region_measures(pipeline: str, table: pd.DataFrame) -> dict[str, tuple[float, str]]:
    """Measures of a scan's table of regions, by column of the cohort's table.

    Parameters
    ----------
    pipeline : str
        Name, which the column begins with.
    table : DataFrame
        Long form: ``region``, ``measure``, ``value`` and, where there are, ``side``, ``unit``,
        ``atlas``.

    Returns
    -------
    dict of (float, str)
        Value and unit, by names such as ``muscle.relative_t2.right_deltoid``. The value of a
        region in several stations is their mean.

    Raises
    ------
    DataError
        If a column is missing.

    Examples
    --------
    >>> table = pd.DataFrame({"region": ["Deltoid"], "side": ["right"], "measure": ["relative_t2"],
    ...     "value": [0.8], "unit": ["1"]})
    >>> region_measures("muscle", table)
    {'muscle.relative_t2.right_deltoid': (0.8, '1')}
    """
    absent = [name for name in REGION_COLUMNS if name not in table]
    if absent:
        raise DataError(
            f"a table of {pipeline} has no column {absent[0]}; expected {', '.join(REGION_COLUMNS)}"
        )
    found: dict[str, list[float]] = {}
    units: dict[str, str] = {}
    numbers = pd.to_numeric(table["value"], errors="coerce").to_numpy(float)
    for row, value in zip(table.to_dict("records"), numbers, strict=True):
        side = str(row.get("side", "")).lower()
        place = _word(row["region"])
        if side not in _NO_SIDE:
            place = f"{_word(side)}_{place}"
        if "atlas" in row and isinstance(row["atlas"], str):
            place = f"{_word(row['atlas'])}.{place}"
        name = f"{pipeline}.{_word(row['measure'])}.{place}"
        found.setdefault(name, []).append(float(value))
        units[name] = str(row.get("unit", ""))
    return {
        name: (float(np.nanmean(v)) if np.isfinite(v).any() else math.nan, units[name])
        for name, v in found.items()
    }


@cache
def _word(text: object) -> str:
    return re.sub(r"[^a-z0-9]+", "_", str(text).lower()).strip("_")


@dataclass(frozen=True)
class ScanMeasures:
    """Measures of one scan.

    Parameters
    ----------
    participant : str
        With ``sub-``.
    session : str or None
        With ``ses-``.
    values : mapping of (float, str)
        As of `region_measures`.
    """

    participant: str
    session: str | None
    values: Mapping[str, tuple[float, str]]


def make_cohort(
    clinical: ClinicalTable,
    labels: pd.DataFrame,
    scans: Iterable[ScanMeasures],
    *,
    names: CohortNames,
    time_column: str,
) -> Cohort:
    """All that is known of participants and visits in one table.

    Parameters
    ----------
    clinical : ClinicalTable
        Checked.
    labels : DataFrame
        As of `bids_alsmri.comparisons.cohort.label_participants`.
    scans : iterable of ScanMeasures
        Of all pipelines.
    names : CohortNames
        Columns and labels of the groups.
    time_column : str
        Column with the time of a visit in months; where it is missing, visits are ordered by
        label and a number in it is taken as months.

    Returns
    -------
    Cohort
        Visits are those of any participant; rows of others' are not made.

    Examples
    --------
    >>> from pathlib import Path
    >>> from bids_alsmri.comparisons.cohort import ProgressionRule, label_participants
    >>> rows = pd.DataFrame({"participant_id": ["sub-01"] * 2, "session_id": ["ses-m0", "ses-m4"],
    ...     "group": "als", "age": 60.0})
    >>> table = ClinicalTable(Path("raw"), rows, {}, {}, frozenset())
    >>> labels = label_participants(table, CohortNames(), ProgressionRule("median"))
    >>> scan = ScanMeasures("sub-01", "ses-m4", {"muscle.adc.tongue": (1.4, "1")})
    >>> found = make_cohort(table, labels, [scan], names=CohortNames(), time_column="months")
    >>> found.visits, found.months, found.frame["muscle.adc.tongue"].tolist()
    (('ses-m0', 'ses-m4'), (0.0, 4.0), [nan, 1.4])
    """
    frame = clinical.visits.copy()
    frame["visit"] = [_visit(value) for value in frame["session_id"]]
    known = labels.set_index("participant_id")
    for column in ("group", "progression", "rate_per_month"):
        if column in known:
            frame[column] = frame["participant_id"].map(known[column])
    frame = frame.drop(columns="session_id")
    values: dict[tuple[str, Hashable], dict[str, float]] = {}
    units = dict(clinical.units)
    for scan in scans:
        own = values.setdefault((scan.participant, _visit(scan.session)), {})
        for name, (value, unit) in scan.values.items():
            own[name] = value
            units[name] = unit
    if values:
        index = pd.MultiIndex.from_tuples(values, names=["participant_id", "visit"])
        measured = pd.DataFrame(list(values.values()), index=index)
        frame = frame.merge(measured.reset_index(), on=["participant_id", "visit"], how="left")
    frame = frame[frame["group"].isin([names.patient, names.control])].reset_index(drop=True)
    frame = with_derived(frame)
    visits = sorted(set(frame["visit"]), key=lambda v: natural_key(str(v)))
    months = _months(frame, visits, time_column)
    order = sorted(range(len(visits)), key=lambda k: months[k])
    return Cohort(
        frame,
        names.patient,
        names.control,
        tuple(visits[k] for k in order),
        tuple(months[k] for k in order),
        units,
    )


def _visit(session: object) -> str:
    return session if isinstance(session, str) else "only"


def _months(frame: pd.DataFrame, visits: Sequence[str], time_column: str) -> list[float]:
    """Time of each visit: its median, or the number of its label, or its place."""
    if time_column in frame and pd.api.types.is_numeric_dtype(frame[time_column]):
        medians = [float(frame.loc[frame["visit"] == v, time_column].median()) for v in visits]
        if np.isfinite(medians).all() and len(set(medians)) == len(medians):
            return medians
    numbers = [re.findall(r"\d+", v) for v in visits]
    if all(numbers) and len({n[-1] for n in numbers}) == len(visits):
        return [float(n[-1]) for n in numbers]
    return [float(place) for place in range(len(visits))]


def with_derived(frame: pd.DataFrame) -> pd.DataFrame:
    """Add what the papers derive of single values.

    Parameters
    ----------
    frame : DataFrame
        One row per participant and visit.

    Returns
    -------
    DataFrame
        With ``onset`` (spinal or bulbar) of ``onset_site``; ``alsfrs_r_hand_items`` (items 4 and
        5); ``emg_grade_*`` of ``emg_duration_*``, and ``weakness_grade_*`` (5 less the score, at
        most 3) for Diamanti 2018; means of motor areas and of leg and foot (Cosottini 2016);
        ``*.summary_mean`` and muscles of the side of ``motor_unit_side`` for Jenkins 2020;
        ``muscle.mercuri_region.*`` and ``muscle.mercuri.dominant_hand``.

    Examples
    --------
    >>> frame = pd.DataFrame({"onset_site": ["lower limb"], "muscle.relative_t2.tongue": [1.0],
    ...     "muscle.relative_t2.left_tibialis_anterior": [3.0]})
    >>> with_derived(frame)[["onset", "muscle.relative_t2.summary_mean"]].values.tolist()
    [['spinal', 2.0]]
    """
    names = [name for name in map(str, frame) if name.startswith("muscle.")]
    found = frame.rename(columns={n: f"{n}_mean" for n in names if n.endswith(".summary")})
    new: dict[str, Any] = {}
    if "onset_site" in found:
        new["onset"] = [
            None if not isinstance(v, str) else "bulbar" if "bulb" in v.lower() else "spinal"
            for v in found["onset_site"]
        ]
    items = [c for c in ("alsfrs_r_4", "alsfrs_r_5", "alsfrs_r_04", "alsfrs_r_05") if c in found]
    if len(items) == 2:
        new["alsfrs_r_hand_items"] = found[items].sum(axis=1, skipna=False)
    new.update(_grades(found))
    new.update(_cortex_means(found))
    new.update(_muscle_means(found))
    # what is derived takes the place of a column of the same name
    kept = found.drop(columns=[name for name in new if name in found])
    return pd.concat([kept, pd.DataFrame(new, index=found.index)], axis=1)


def _grades(frame: pd.DataFrame) -> dict[str, Any]:
    """Electromyography and strength as grades of 0 to 3."""
    found: dict[str, Any] = {}
    for name in map(str, frame):
        place = name.removeprefix("emg_duration_")
        muscle = next((m for m in EMG_LIMITS_MS if place.endswith(m)), None)
        if place != name and muscle is not None:
            found[f"emg_grade_{place}"] = emg_grade(_numbers(frame, [name])[:, 0], muscle=muscle)
        strength = name.removeprefix("mrc_")
        for word, own in _WEAKNESS.items():
            if strength != name and strength.endswith(word):
                place = strength.removesuffix(word) + own
                weak = 5 - _numbers(frame, [name])[:, 0]
                found[f"weakness_grade_{place}"] = np.minimum(weak, _WORST_GRADE)
    return found


def _cortex_means(frame: pd.DataFrame) -> dict[str, Any]:
    """Mean over motor areas and sides, and over leg and foot of each side."""
    found: dict[str, Any] = {}
    starts = {str(c).rpartition(".")[0] for c in frame if str(c).startswith("cortex7t.")}
    for start in sorted(starts):
        places = {
            "mean": [f"{side}_{area}" for side in _SIDES for area in _MOTOR_AREAS],
            **{f"{side}_lower_limb": [f"{side}_leg", f"{side}_foot"] for side in _SIDES},
        }
        for place, members in places.items():
            own = [f"{start}.{m}" for m in members if f"{start}.{m}" in frame]
            if own:
                found[f"{start}.{place}"] = _row_means(frame, own)
    return found


def _muscle_means(frame: pd.DataFrame) -> dict[str, Any]:
    """Means over muscles, and those of the side that motor units were counted on."""
    found: dict[str, Any] = {}
    start = "muscle.relative_t2."
    own = [f"{start}{m}" for m in sorted(_MUSCLES_OF_JENKINS) if f"{start}{m}" in frame]
    if own and f"{start}summary_mean" not in frame:
        found[f"{start}summary_mean"] = _row_means(frame, own)
    is_right = _side_of(frame, "motor_unit_side")
    for muscle in _MUNIX_MUSCLES:
        both = [f"{start}{side}_{muscle}" for side in _SIDES]
        if is_right is not None and set(both) <= set(frame):
            values = _numbers(frame, both)
            found[f"{start}munix_side_{muscle}"] = _chosen_side(values, is_right)
    for lead in ("mercuri", "dixon_mercuri"):
        for side in _SIDES:
            for region, muscles in _REGIONS_OF_DIAMANTI.items():
                members = [f"muscle.{lead}.{side}_{m}" for m in muscles]
                own = [name for name in members if name in frame]
                if own:
                    found[f"muscle.{lead}_region.{side}_{region}"] = _row_means(frame, own)
    hands = [f"muscle.mercuri_region.{side}_hand" for side in _SIDES]
    is_right = _side_of(frame, "handedness")
    if set(hands) <= set(found) and is_right is not None:
        values = np.column_stack([found[name] for name in hands])
        found["muscle.mercuri.dominant_hand"] = _chosen_side(values, is_right)
    return found


def _side_of(frame: pd.DataFrame, column: str) -> np.ndarray | None:
    """1 for right, 0 for left, NaN where unknown; None without the column."""
    if column not in frame:
        return None
    words = {"r": 1.0, "right": 1.0, "l": 0.0, "left": 0.0}
    return np.array([words.get(str(v).lower(), math.nan) for v in frame[column]])


def _chosen_side(values: np.ndarray, is_right: np.ndarray) -> np.ndarray:
    chosen = np.where(is_right == 1, values[:, 1], values[:, 0])
    return np.where(np.isfinite(is_right), chosen, np.nan)


def _numbers(frame: pd.DataFrame, names: Sequence[str]) -> np.ndarray:
    return np.column_stack(
        [pd.to_numeric(frame[n], errors="coerce").to_numpy(float) for n in names]
    )


def _row_means(frame: pd.DataFrame, names: Sequence[str]) -> np.ndarray:
    """Means of known values; NaN where there is none."""
    values = _numbers(frame, names)
    n = np.isfinite(values).sum(axis=1)
    return np.where(n > 0, np.nansum(values, axis=1) / np.maximum(n, 1), np.nan)


def with_atrophy(cohort: Cohort, *, covariates: Sequence[str]) -> Cohort:
    """Cohort with findings of atrophy, where the size of muscles is known.

    Parameters
    ----------
    cohort : Cohort
        With columns ``muscle.volume.*``.
    covariates : sequence of str
        What a muscle's size is adjusted for, such as age, sex, height and weight; those that are no
        column are left out.

    Returns
    -------
    Cohort
        With ``muscle.atrophy.*`` for the muscles that Diamanti 2018 reads: 1 where the volume is
        more than 2 standard deviations below what controls of that age and sex have, 0 where it is
        not, NaN where it is not known, or too few controls tell. The cohort itself without them.

    Examples
    --------
    >>> frame = pd.DataFrame({"participant_id": [f"s{k}" for k in range(9)], "visit": 0,
    ...     "group": ["hc"] * 8 + ["als"],
    ...     "muscle.volume.left_soleus": [9.0, 10, 11, 10, 9, 11, 10, 10, 4]})
    >>> found = with_atrophy(Cohort(frame, "als", "hc", (0,), (0.0,)), covariates=())
    >>> found.frame["muscle.atrophy.left_soleus"].tolist()[-2:]
    [0.0, 1.0]
    """
    start = "muscle.volume."
    wanted = {m for muscles in _REGIONS_OF_DIAMANTI.values() for m in muscles}
    names = [f"{start}{s}_{m}" for s in _SIDES for m in sorted(wanted)]
    names = [name for name in names if name in cohort.frame]
    if not names:
        return cohort
    frame = cohort.frame
    norm, found = _Norm(cohort, covariates), {}
    for name in names:
        z = norm.scores(name).z
        place = name.removeprefix(start)
        found[f"muscle.atrophy.{place}"] = np.where(np.isfinite(z), z < ATROPHY_Z, np.nan)
    whole = pd.concat([frame, pd.DataFrame(found, index=frame.index)], axis=1)
    return Cohort(whole, cohort.patient, cohort.control, cohort.visits, cohort.months, cohort.units)


class _Norm:
    """Scores of measures against the controls of a cohort."""

    def __init__(self, cohort: Cohort, covariates: Sequence[str]) -> None:
        self.frame = cohort.frame
        self.covariates = _columns(cohort.frame, covariates)
        self.who = cohort.frame["participant_id"].astype("category").cat.codes.to_numpy()
        self.is_control = (cohort.frame["group"] == cohort.control).to_numpy(bool)

    def scores(self, name: str) -> ControlScores:
        y = _numbers(self.frame, [name])[:, 0]
        return control_scores(y, self.covariates, self.who, self.is_control)


def harmonise_cohort(
    cohort: Cohort, *, site_column: str, covariates: Sequence[str]
) -> tuple[Cohort, list[Harmonisation]]:
    """Cohort whose measures of images are freed of differences between sites.

    Parameters
    ----------
    cohort : Cohort
        With a column of sites.
    site_column : str
        Its name.
    covariates : sequence of str
        Kept: what they explain is no difference of sites.

    Returns
    -------
    cohort : Cohort
        Measures of pipelines changed, clinical ones as they were.
    fits : list of Harmonisation
        One per pipeline and measure, for those who want to know.

    Raises
    ------
    DataError
        If there is no such column.
    NumericsError
        If a site has too few controls, or sites cannot be told from groups or visits.
    """
    if site_column not in cohort.frame:
        raise DataError(f"the tables have no column {site_column}; add it, or do not harmonise")
    frame = cohort.frame.copy()
    families: dict[str, list[str]] = {}
    for name in cohort.measures(["*.*.*"]):
        # grades and findings are no continuous measures, nor is where a slice lies
        if "mercuri" in name or ".atrophy." in name or ".slice." in name:
            continue
        families.setdefault(name.rpartition(".")[0], []).append(name)
    extra = _columns(frame, covariates)
    fits = []
    for names in families.values():
        values = frame[names].to_numpy(float)
        found = harmonise(
            values,
            frame[site_column].astype(str).to_numpy(),
            is_control=(frame["group"] == cohort.control).to_numpy(bool),
            participants=frame["participant_id"].to_numpy(),
            visits=frame["visit"].to_numpy(),
            covariates=extra,
        )
        frame[names] = found.values
        fits.append(found)
    changed = Cohort(
        frame, cohort.patient, cohort.control, cohort.visits, cohort.months, cohort.units
    )
    return changed, fits


def _columns(frame: pd.DataFrame, covariates: Sequence[str]) -> np.ndarray:
    used = [coded(frame[name]) for name in covariates if name in frame]
    return np.column_stack(used) if used else np.empty((len(frame), 0))


def profile(cohort: Cohort, *, covariates: Sequence[str]) -> pd.DataFrame:
    """Each participant's measures on one scale, against the controls.

    Parameters
    ----------
    cohort : Cohort
        Measures of pipelines are taken, but for spreads, medians and counts of voxels.
    covariates : sequence of str
        Such as age and sex; those that are no column are left out.

    Returns
    -------
    DataFrame
        One row per participant, visit and measure: ``participant_id``, ``visit``, ``group``,
        ``place`` (along the neuraxis), ``measure``, ``value``, ``z``, ``z_change`` (since the
        first visit) and ``n_controls``. Measures stand from the cortex down.

    Notes
    -----
    z is that of `bids_alsmri.numerics.normative.control_scores`: the normal deviate of the
    difference from what the controls' first visits predict, of a control without itself. Measures
    with fewer than 3 controls more than coefficients have no z.

    Examples
    --------
    >>> frame = pd.DataFrame({"participant_id": [f"s{k}" for k in range(8)], "visit": 0,
    ...     "group": ["hc"] * 7 + ["als"], "muscle.adc.tongue": [1, 2, 3, 4, 5, 6, 7, 14.0]})
    >>> found = profile(Cohort(frame, "als", "hc", (0,), (0.0,)), covariates=())
    >>> float(found["z"].iloc[-1].round(2))  # t is 10 over sqrt(14 / 3 * 8 / 7), with 6 dof
    2.81
    """
    known = [name for name in cohort.measures(["*.*.*"]) if not _AUXILIARY.fullmatch(name)]
    names = sorted(known, key=neuraxis_key)
    frame = cohort.frame
    norm, parts = _Norm(cohort, covariates), []
    for name in names:
        scores = norm.scores(name)
        part = frame[["participant_id", "visit", "group"]].copy()
        part["place"], part["measure"] = place_of(name), name
        part["value"] = _numbers(frame, [name])[:, 0]
        part["z"], part["n_controls"] = scores.z, scores.n_controls
        parts.append(part)
    columns = ["participant_id", "visit", "group", "place", "measure", "value", "z", "n_controls"]
    if not parts:
        return pd.DataFrame(columns=[*columns, "z_change"])
    found = pd.concat(parts, ignore_index=True)
    base = found[found["visit"] == cohort.visits[0]].set_index(["participant_id", "measure"])["z"]
    keys = pd.MultiIndex.from_frame(found[["participant_id", "measure"]])
    found["z_change"] = found["z"].to_numpy(float) - base.reindex(keys).to_numpy(float)
    return found


def participant_rows(profiles: pd.DataFrame, visits: Sequence[Hashable]) -> pd.DataFrame:
    """One row per participant: each measure's z at its last visit, and its change.

    Parameters
    ----------
    profiles : DataFrame
        As of `profile`.
    visits : sequence
        Labels in order of time.

    Returns
    -------
    DataFrame
        ``participant_id``, ``group``, ``n_scores``, ``n_beyond_2`` (how many are more than 2
        standard deviations from the controls), then ``z.*`` for each measure with any z (of the
        participant's last visit with one) and, where there are several visits, ``z_change.*`` since
        the first. Measures stand from the cortex down, participants in the order of `profiles`.

    Examples
    --------
    >>> frame = pd.DataFrame({"participant_id": [f"s{k}" for k in range(8)], "visit": 0,
    ...     "group": ["hc"] * 7 + ["als"], "muscle.adc.tongue": [1, 2, 3, 4, 5, 6, 7, 14.0]})
    >>> found = profile(Cohort(frame, "als", "hc", (0,), (0.0,)), covariates=())
    >>> row = participant_rows(found, (0,)).iloc[-1]
    >>> row["participant_id"], float(row["z.muscle.adc.tongue"].round(2))
    ('s7', 2.81)
    """
    order = {visit: number for number, visit in enumerate(visits)}
    known = profiles[profiles["z"].notna()]
    known = known.assign(number=known["visit"].map(order)).sort_values("number", kind="stable")
    last = known.drop_duplicates(["participant_id", "measure"], keep="last")
    people = profiles.drop_duplicates("participant_id").set_index("participant_id")["group"]
    names = [m for m in dict.fromkeys(profiles["measure"]) if m in set(last["measure"])]

    def wide(column: str) -> pd.DataFrame:
        table = last.pivot(index="participant_id", columns="measure", values=column)
        return table.reindex(index=people.index, columns=names)

    z = wide("z")
    parts: list[pd.DataFrame | pd.Series] = [people.to_frame("group")]
    parts += [z.notna().sum(axis=1).rename("n_scores")]
    parts += [(z.abs() > 2).sum(axis=1).rename("n_beyond_2"), z.add_prefix("z.")]
    if len(visits) > 1:
        # of the first visit itself it is nought, and tells nothing
        change = wide("z_change").where(wide("number") > 0)
        parts.append(change.dropna(axis=1, how="all").add_prefix("z_change."))
    found: pd.DataFrame = pd.concat(parts, axis=1).reset_index()
    return found


def place_of(measure: str) -> str:
    """Place of a measure along the neuraxis.

    Parameters
    ----------
    measure : str
        Column such as ``muscle.adc.tongue``.

    Returns
    -------
    str
        Such as ``muscle``.

    Examples
    --------
    >>> place_of("sodium.tsc.gm")
    'brain: sodium'
    """
    return next((text for start, text in _NEURAXIS if measure.startswith(start)), "other")


def neuraxis_key(measure: str) -> tuple[int, int, str]:
    """Key that sorts measures from the cortex down to the foot.

    Parameters
    ----------
    measure : str
        Column.

    Returns
    -------
    tuple
        For `sorted`.

    Examples
    --------
    >>> names = ["muscle.adc.left_tibialis_anterior", "muscle.adc.tongue", "sodium.tsc.gm"]
    >>> sorted(names, key=neuraxis_key)[0], sorted(names, key=neuraxis_key)[-1]
    ('sodium.tsc.gm', 'muscle.adc.left_tibialis_anterior')
    """
    starts = [start for start, _ in _NEURAXIS]
    number = next((k for k, start in enumerate(starts) if measure.startswith(start)), len(starts))
    rank = next(
        (k for k, word in enumerate(_MUSCLES_FROM_HEAD) if word in measure), len(_MUSCLES_FROM_HEAD)
    )
    return number, rank, measure


def adjusted_rows(cohort: Cohort, covariates: Sequence[str], level: float) -> pd.DataFrame:
    """Standardised difference of every measure between patients and controls, for one plot.

    Parameters
    ----------
    cohort : Cohort
        Measures of pipelines and clinical numbers.
    covariates : sequence of str
        Adjusted for, where they are columns.
    level : float
        Of the interval.

    Returns
    -------
    DataFrame
        ``measure``, ``percent``, ``low``, ``high``, ``p``; measures without a bounded interval are
        left out.
    """
    base = cohort.baseline
    first = (base["group"] == cohort.patient).to_numpy(bool)
    extra = _columns(base, covariates)
    rows = []
    for name in cohort.measures(["*.*.*"]):
        own = compare_adjusted(base[name].to_numpy(float), first, extra, level=level)
        if own.percent.bounds == "bounded" and math.isfinite(own.percent.value):
            row = {"measure": name, "percent": own.percent.value, "low": own.percent.low}
            rows.append({**row, "high": own.percent.high, "p": own.p})
    return pd.DataFrame(rows, columns=["measure", "percent", "low", "high", "p"])
