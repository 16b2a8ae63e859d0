"""Tables of the papers from a dataset: clinical columns and the participants' region tables."""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bids_alsmri.bids.clinical import ClinicalTable, natural_key
from bids_alsmri.comparisons.cohort import CohortNames
from bids_alsmri.errors import DataError
from bids_alsmri.stats.comparison import compare_adjusted
from bids_alsmri.stats.harmonisation import Harmonisation, harmonise
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
# Regions of onset (Jenkins 2020).
_REGIONS_OF_ONSET: Mapping[str, tuple[str, ...]] = {
    "bulbar": ("tongue", "trapezius", "sternocleidomastoid"),
    "upper": (
        *("deltoid", "biceps", "triceps", "forearm", "first_dorsal_interosseous", "thenar"),
        "hypothenar",
    ),
    "lower": (
        *("psoas", "gluteus", "quadriceps", "hamstrings", "tibialis_anterior", "gastrocnemius"),
    ),
}
_MUSCLE_OF_ONSET = {
    "bulbar": "tongue",
    "upper": "first_dorsal_interosseous",
    "lower": "tibialis_anterior",
}


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
    for row in table.to_dict("records"):
        side = str(row.get("side", "")).lower()
        place = _word(row["region"])
        if side not in _NO_SIDE:
            place = f"{_word(side)}_{place}"
        if "atlas" in row and isinstance(row["atlas"], str):
            place = f"{_word(row['atlas'])}.{place}"
        name = f"{pipeline}.{_word(row['measure'])}.{place}"
        value = pd.to_numeric(pd.Series([row["value"]]), errors="coerce").iloc[0]
        found.setdefault(name, []).append(float(value))
        units[name] = str(row.get("unit", ""))
    return {
        name: (float(np.nanmean(v)) if np.isfinite(v).any() else math.nan, units[name])
        for name, v in found.items()
    }


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
    """Add what the papers derive: onset, scores of hand items, composites of muscles.

    Parameters
    ----------
    frame : DataFrame
        One row per participant and visit.

    Returns
    -------
    DataFrame
        With ``onset`` (spinal or bulbar) of ``onset_site``; ``alsfrs_r_hand_items`` (items 4 and
        5); ``muscle.relative_t2.summary_mean``, ``region_of_onset`` and ``muscle_of_onset``
        (Jenkins 2020; both sides where the side of onset is not in ``onset_side``).

    Examples
    --------
    >>> frame = pd.DataFrame({"onset_site": ["spinal_LL"], "muscle.relative_t2.tongue": [1.0],
    ...     "muscle.relative_t2.left_tibialis_anterior": [3.0]})
    >>> with_derived(frame)[["onset", "muscle_of_onset"]].values.tolist()
    [['spinal', 3.0]]
    """
    found = frame.copy()
    start = "muscle.relative_t2."
    muscles = [str(c) for c in frame if str(c).startswith(start)]
    if "onset_site" in frame:
        found["onset"] = [
            None if not isinstance(v, str) else "bulbar" if "bulb" in v.lower() else "spinal"
            for v in frame["onset_site"]
        ]
    items = [c for c in ("alsfrs_r_4", "alsfrs_r_5", "alsfrs_r_04", "alsfrs_r_05") if c in frame]
    if len(items) == 2:
        found["alsfrs_r_hand_items"] = frame[items].sum(axis=1, skipna=False)
    if muscles:
        found[f"{start}summary_mean"] = frame[muscles].mean(axis=1)
    if muscles and "onset_site" in frame:
        sides = frame["onset_side"] if "onset_side" in frame else [None] * len(frame)
        kinds = [_kind_of_onset(v) for v in frame["onset_site"]]
        for name, wanted in (
            ("region_of_onset", _REGIONS_OF_ONSET),
            ("muscle_of_onset", {k: (v,) for k, v in _MUSCLE_OF_ONSET.items()}),
        ):
            means = []
            for (_, row), kind, side in zip(frame.iterrows(), kinds, sides, strict=True):
                own = _of_onset(muscles, start, wanted.get(kind or "", ()), side)
                means.append(float(row[own].astype(float).mean()) if own else math.nan)
            found[name] = means
    return found


def _kind_of_onset(site: object) -> str | None:
    text = str(site).lower() if isinstance(site, str) else ""
    for kind, words in (
        ("bulbar", ("bulb",)),
        ("upper", ("ul", "upper", "arm", "hand")),
        ("lower", ("ll", "lower", "leg", "foot")),
    ):
        if any(word in text for word in words) and not (kind == "upper" and "bulb" in text):
            return kind
    return None


def _of_onset(muscles: Sequence[str], start: str, wanted: Sequence[str], side: object) -> list[str]:
    own = [m for m in muscles if any(word in m.removeprefix(start) for word in wanted)]
    if isinstance(side, str) and side.lower() in ("left", "right"):
        other = "left" if side.lower() == "right" else "right"
        own = [m for m in own if f"{other}_" not in m]
    return own


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
        Measures of pipelines are taken.
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
    z is the residual of a linear model of the controls' first visits over its standard deviation
    for a new participant: of a control it is the deleted (externally studentised) residual, so
    that nobody is compared with a mean that holds them. Measures with fewer than 5 controls more
    than coefficients have no z.

    Examples
    --------
    >>> frame = pd.DataFrame({"participant_id": [f"s{k}" for k in range(8)], "visit": 0,
    ...     "group": ["hc"] * 7 + ["als"], "muscle.adc.tongue": [1, 2, 3, 4, 5, 6, 7, 14.0]})
    >>> found = profile(Cohort(frame, "als", "hc", (0,), (0.0,)), covariates=())
    >>> float(found["z"].iloc[-1].round(2))  # 10 over sqrt(14 / 3 * 8 / 7)
    4.33
    """
    names = sorted(cohort.measures(["*.*.*"]), key=neuraxis_key)
    frame = cohort.frame
    used = [name for name in covariates if name in frame]
    extra = np.column_stack([np.ones(len(frame)), *[coded(frame[name]) for name in used]])
    first = (frame["visit"] == cohort.visits[0]).to_numpy(bool)
    control = (frame["group"] == cohort.control).to_numpy(bool)
    parts = []
    for name in names:
        y = pd.to_numeric(frame[name], errors="coerce").to_numpy(float)
        z, n = _z_scores(y, extra, first & control)
        part = frame[["participant_id", "visit", "group"]].copy()
        part["place"], part["measure"] = place_of(name), name
        part["value"], part["z"], part["n_controls"] = y, z, n
        parts.append(part)
    columns = ["participant_id", "visit", "group", "place", "measure", "value", "z", "n_controls"]
    if not parts:
        return pd.DataFrame(columns=[*columns, "z_change"])
    found = pd.concat(parts, ignore_index=True)
    base = found[found["visit"] == cohort.visits[0]].set_index(["participant_id", "measure"])["z"]
    keys = pd.MultiIndex.from_frame(found[["participant_id", "measure"]])
    found["z_change"] = found["z"].to_numpy(float) - base.reindex(keys).to_numpy(float)
    return found


def _z_scores(y: np.ndarray, extra: np.ndarray, is_reference: np.ndarray) -> tuple[np.ndarray, int]:
    usable = np.isfinite(y) & np.isfinite(extra).all(axis=1)
    own = usable & is_reference
    n = int(own.sum())
    columns = [0, *[k for k in range(1, extra.shape[1]) if n and np.ptp(extra[own, k]) > 0]]
    x, dof = extra[:, columns], n - len(columns)
    z = np.full(len(y), np.nan)
    if dof < 5:
        return z, n
    inverse = np.linalg.pinv(x[own].T @ x[own])
    left = y - x @ (inverse @ (x[own].T @ y[own]))
    squares = float(left[own] @ left[own])
    lever = np.einsum("ij,jk,ik->i", x, inverse, x)
    others = usable & ~own
    if squares <= 1e-20 * float(y[own] @ y[own]):
        return z, n
    z[others] = left[others] / np.sqrt(squares / dof * (1 + lever[others]))
    rest = np.maximum(squares - left[own] ** 2 / (1 - lever[own]), 1e-300) / (dof - 1)
    z[own] = left[own] / np.sqrt(rest * (1 - lever[own]))
    return z, n


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
