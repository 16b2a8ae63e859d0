"""Who belongs to which group, who takes part in which comparison, and what they are like."""

from __future__ import annotations

import difflib
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from bids_alsmri.bids.clinical import ClinicalTable, natural_key
from bids_alsmri.errors import DataError, NumericsError, SettingsError

# Points; Cedarbaum 1999, doi:10.1016/s0022-510x(99)00210-5: 12 items of 0 to 4.
ALSFRS_R_MAX = 48.0
# Points per month: rates closer to the threshold than rounding tells apart are equal to it.
RATE_ROUNDING_PER_MONTH = 1e-9
_MONTHS = frozenset({"month", "months", "mo"})
# Of a covariate's own spread, what the others leave of it: an age in months, rounded, leaves 0.3 %
# beside one in years.
_SMALLEST_OWN_PART = 0.01

NO_SCAN = "no scan"
EXCLUDED = "excluded"
FAILED = "failed"
MISSING_COVARIATE = "missing covariate"
TOO_FEW_VISITS = "too few visits"
REPEATED = "another scan was taken"
REASONS = (NO_SCAN, EXCLUDED, FAILED, MISSING_COVARIATE, TOO_FEW_VISITS, REPEATED)
_FLOW = (
    *("modality", "contrast", "participant_id", "session_id", "scan"),
    *("group", "is_included", "reason", "detail"),
)


@dataclass(frozen=True)
class CohortNames:
    """Columns of the clinical table that make the groups, and their labels.

    Parameters
    ----------
    group, progression, alsfrs_r, duration_months : str
        Columns; the duration is since the first symptoms.
    patient, control : str
        Labels in the column of the group.
    fast, slow : str
        Labels in the column of the progression, given or derived.
    others : tuple of str
        Further labels of the group, known but in no comparison.

    Raises
    ------
    SettingsError
        If two labels are the same.

    Examples
    --------
    >>> CohortNames(patient="ALS", control="HC").patient
    'ALS'
    """

    group: str = "group"
    progression: str = "progression"
    alsfrs_r: str = "alsfrs_r"
    duration_months: str = "disease_duration_months"
    patient: str = "als"
    control: str = "hc"
    fast: str = "fast"
    slow: str = "slow"
    others: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        labels = (self.patient, self.control, self.fast, self.slow, *self.others)
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise SettingsError(
                f"'{twice[0]}' names more than one group; expected different labels for patients, "
                "controls, fast, slow and others; change one of them"
            )


@dataclass(frozen=True)
class ProgressionRule:
    """How a rate of progression becomes fast or slow.

    Parameters
    ----------
    kind : {"threshold", "median"}
        Against a fixed rate, or the median of the cohort's patients.
    threshold_per_month : float, optional
        Points per month, positive; for ``threshold`` alone.

    Raises
    ------
    SettingsError
        If the threshold is missing, not positive, or given for a median split.

    Notes
    -----
    A rate above the threshold is fast; one that equals it is slow. El Mendili 2022 used 0.5
    (methods; 0.47 in its limitations, after Labra 2016), Cosottini 2016 the median.

    Examples
    --------
    >>> ProgressionRule("threshold", 0.5).text
    'fast above 0.5 points per month, else slow'
    """

    kind: Literal["threshold", "median"]
    threshold_per_month: float | None = None

    def __post_init__(self) -> None:
        value = self.threshold_per_month
        if self.kind == "median" and value is not None:
            raise SettingsError(
                f"threshold_per_month is {value} but progression is split at the median; leave "
                "the threshold out or split at it"
            )
        if self.kind == "threshold" and not (value is not None and 0 < value < np.inf):
            raise SettingsError(
                f"threshold_per_month is {value}; expected a positive rate in points per month, "
                "such as 0.5; correct it"
            )

    @property
    def text(self) -> str:
        """The rule in words."""
        if self.kind == "median":
            return "fast above the median rate of the patients, else slow"
        return f"fast above {self.threshold_per_month:g} points per month, else slow"


@dataclass(frozen=True)
class Contrast:
    """Two groups to compare, by label, or one group's change against none.

    Parameters
    ----------
    first, second : str
        The first less the second.
    is_change : bool
        Whether there is no second group: the first one's change is compared with 0, which `second`
        says in words.

    Examples
    --------
    >>> Contrast("als", "0", is_change=True).groups
    ('als',)
    """

    first: str
    second: str
    is_change: bool = False

    @property
    def groups(self) -> tuple[str, ...]:
        """Labels of those who take part."""
        return (self.first,) if self.is_change else (self.first, self.second)

    @property
    def name(self) -> str:
        """Such as ``als-hc``."""
        return f"{self.first}-{self.second}"


@dataclass(frozen=True)
class ScanState:
    """What became of a scan at the participant level.

    Parameters
    ----------
    participant_id : str
        With ``sub-``.
    session_id : str or None
        With ``ses-``.
    modality, label : str
        Pipeline, and name of the scan.
    images : frozenset of str
        Images that it was made from, relative to the dataset.
    failure : str
        What went wrong; empty where nothing did.
    lacking : str
        Which map it lacks that comparisons are adjusted for; empty where none.

    Examples
    --------
    >>> ScanState("sub-01", None, "sodium", "sub-01_acq-sodium").failure
    ''
    """

    participant_id: str
    session_id: str | None
    modality: str
    label: str
    images: frozenset[str] = frozenset()
    failure: str = ""
    lacking: str = ""


@dataclass(frozen=True)
class _Rate:
    """Rate of one participant, the visit it is of, and what it lacks."""

    session_id: str | None = None
    alsfrs_r: float = np.nan
    duration_months: float = np.nan
    rate_per_month: float = np.nan
    note: str = ""


def contrasts_of(names: CohortNames) -> tuple[Contrast, ...]:
    """Contrasts of a cohort of patients and controls.

    Parameters
    ----------
    names : CohortNames
        Labels.

    Returns
    -------
    tuple of Contrast
        Patients, fast and slow against controls, fast against slow (El Mendili 2022).

    Examples
    --------
    >>> [contrast.name for contrast in contrasts_of(CohortNames())]
    ['als-hc', 'fast-hc', 'slow-hc', 'fast-slow']
    """
    return (
        Contrast(names.patient, names.control),
        Contrast(names.fast, names.control),
        Contrast(names.slow, names.control),
        Contrast(names.fast, names.slow),
    )


def progression_rate(alsfrs_r: ArrayLike, duration_months: ArrayLike) -> NDArray[np.float64]:
    r"""Points of the functional rating scale lost per month since the first symptoms.

    Parameters
    ----------
    alsfrs_r : (...) array
        Revised ALS functional rating scale, 0 to 48 points; NaN where missing.
    duration_months : (...) array
        Time since the first symptoms, in months, positive; NaN where missing.

    Returns
    -------
    rate : (...) array
        In points per month, 0 or more; NaN where either is missing.

    Raises
    ------
    NumericsError
        If a score is outside 0 to 48, or a duration is not positive.

    Notes
    -----
    :math:`(48 - \mathrm{ALSFRS\text{-}R}) / \mathrm{months}` (El Mendili 2022; the rate of disease
    progression of Cosottini 2016).

    Examples
    --------
    >>> progression_rate([39.0, 41.0, np.nan], [18.0, 36.0, 12.0]).round(3)
    array([0.5  , 0.194,   nan])
    """
    score, months = np.asarray(alsfrs_r, float), np.asarray(duration_months, float)
    bad_score = score[(score < 0) | (score > ALSFRS_R_MAX)]
    if bad_score.size:
        raise NumericsError(
            f"alsfrs_r is {bad_score[0]:g}; expected 0 to {ALSFRS_R_MAX:g} points; correct it"
        )
    bad_months = months[(months <= 0) | np.isinf(months)]
    if bad_months.size:
        raise NumericsError(
            f"duration_months is {bad_months[0]:g}; expected more than 0 months; correct it or "
            "take it as missing"
        )
    rate: NDArray[np.float64] = (ALSFRS_R_MAX - score) / months
    return rate


def label_participants(
    clinical: ClinicalTable, names: CohortNames, rule: ProgressionRule
) -> pd.DataFrame:
    """Group and progression of each participant, with where they come from.

    Parameters
    ----------
    clinical : ClinicalTable
        Of the dataset.
    names : CohortNames
        Columns and labels.
    rule : ProgressionRule
        For patients whose progression is not given.

    Returns
    -------
    DataFrame
        One row per participant: ``participant_id``; ``session_id`` of the visit that the rate is
        of; ``group`` and ``progression`` (None where unknown); ``origin`` of the latter (given,
        derived or empty); ``alsfrs_r``, ``duration_months`` and ``rate_per_month`` (NaN where
        unknown); ``rule`` and ``threshold_per_month``; ``note`` on what is special.

    Raises
    ------
    DataError
        If the column of the group is missing, a label is unknown or changes between visits, a
        control has a progression, a score is no number from 0 to 48, a patient's duration is no
        positive number, or the duration's unit is not the month.

    Notes
    -----
    The rate is that of the first visit with score and duration. A median is taken over all
    patients who have a rate. A rate equal to the threshold, to 1e-9 points per month, is slow. A
    duration of 0 is an error, since the rate has no value; a missing score or duration leaves the
    progression unknown, and the participant out of the contrasts that need it. A label that is
    given stands, even where the rate says otherwise; the note then says so.

    Examples
    --------
    >>> rows = pd.DataFrame({"participant_id": ["sub-01", "sub-02"], "session_id": None,
    ...     "group": ["als", "hc"], "alsfrs_r": [38.0, None],
    ...     "disease_duration_months": [10.0, None]})
    >>> table = ClinicalTable(Path("raw"), rows, {}, {}, frozenset())
    >>> found = label_participants(table, CohortNames(), ProgressionRule("threshold", 0.5))
    >>> found["progression"].tolist(), found["rate_per_month"].tolist()
    (['fast', None], [1.0, nan])
    """
    _require_columns(clinical, (names.group,))
    groups = _constant_labels(clinical, names.group)
    given = _constant_labels(clinical, names.progression)
    allowed = (names.patient, names.control, *names.others)
    _require_labels(clinical, names.group, groups, allowed)
    _require_labels(clinical, names.progression, given, (names.fast, names.slow))
    _require_patients(clinical, names, groups, given)
    rates = _rates(clinical, names, groups)
    known = [rate.rate_per_month for rate in rates.values() if np.isfinite(rate.rate_per_month)]
    threshold = rule.threshold_per_month
    if threshold is None:
        threshold = float(np.median(known)) if known else np.nan
    rows = []
    for participant in clinical.participants:
        group, rate = groups[participant], rates.get(participant, _Rate())
        label, origin, note = None, "", ""
        if group == names.patient:
            label, origin, note = _progression(given[participant], rate, names, threshold)
        rows.append(
            {
                "participant_id": participant,
                **asdict(rate),
                "group": group,
                "progression": label,
                "origin": origin,
                "rule": rule.text,
                "threshold_per_month": threshold,
                "note": note,
            }
        )
    numbers = ("alsfrs_r", "duration_months", "rate_per_month", "threshold_per_month")
    columns = ["participant_id", "session_id", "group", "progression", "origin", *numbers]
    table = pd.DataFrame(rows, columns=[*columns, "rule", "note"], dtype=object)
    return table.astype(dict.fromkeys(numbers, float))


def _progression(
    given: str | None, rate: _Rate, names: CohortNames, threshold: float
) -> tuple[str | None, str, str]:
    """Label, origin and note of one patient."""
    by_rate, is_equal = None, False
    if np.isfinite(rate.rate_per_month):
        is_equal = abs(rate.rate_per_month - threshold) <= RATE_ROUNDING_PER_MONTH
        is_fast = rate.rate_per_month > threshold and not is_equal
        by_rate = names.fast if is_fast else names.slow
    if given is not None:
        differs = by_rate not in (None, given)
        return given, "given", f"by its rate it would be {by_rate}" if differs else ""
    if by_rate is None:
        return None, "", rate.note
    return by_rate, "derived", f"rate equals the threshold: {names.slow}" if is_equal else ""


def _rates(
    clinical: ClinicalTable, names: CohortNames, groups: Mapping[str, str | None]
) -> dict[str, _Rate]:
    """Rate of each patient at the first visit that has one; values out of range raise."""
    unit = clinical.units.get(names.duration_months, "month")
    if unit.strip().lower() not in _MONTHS:
        raise DataError(
            f"{clinical.file_of(names.duration_months).with_suffix('.json')}: Units of "
            f"{names.duration_months} is '{unit}'; expected 'month'; convert the column to months "
            "and correct its unit"
        )
    found: dict[str, _Rate] = {}
    scores = _numbers(clinical, names.alsfrs_r)
    months = _numbers(clinical, names.duration_months)
    visits = clinical.visits
    for index in range(len(visits)):
        who = visits["participant_id"].iloc[index]
        score, duration = scores[index], months[index]
        if score < 0 or score > ALSFRS_R_MAX:
            raise DataError(
                f"{clinical.file_of(names.alsfrs_r, who)}: {names.alsfrs_r} of {who} is {score:g}; "
                f"expected 0 to {ALSFRS_R_MAX:g} points; correct it, or write n/a"
            )
        if groups[who] != names.patient:
            continue
        if duration <= 0:
            raise DataError(
                f"{clinical.file_of(names.duration_months, who)}: {names.duration_months} of {who} "
                f"is {duration:g}; expected more than 0 months since the first symptoms, by which "
                "the rate of progression is divided; correct it, or write n/a"
            )
        if who in found and not found[who].note:
            continue
        lacking = [
            f"{column} is n/a" if column in visits else f"there is no column {column}"
            for column, value in ((names.alsfrs_r, score), (names.duration_months, duration))
            if np.isnan(value)
        ]
        if not lacking:
            rate = float(progression_rate(score, duration))
            found[who] = _Rate(cell_label(visits["session_id"].iloc[index]), score, duration, rate)
        elif who not in found:
            found[who] = _Rate(None, score, duration, note="; ".join(lacking))
    return found


def cell_label(value: object) -> str | None:
    """Cell of a clinical table as a label.

    Parameters
    ----------
    value : object
        Number or text.

    Returns
    -------
    str or None
        None where it is missing (None or NaN); a whole number without its point.

    Examples
    --------
    >>> cell_label(1.0), cell_label("als"), cell_label(float("nan"))
    ('1', 'als', None)
    """
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _numbers(clinical: ClinicalTable, column: str) -> NDArray[np.float64]:
    """Column as numbers, NaN where missing or where there is no such column."""
    if column not in clinical.visits:
        return np.full(len(clinical.visits), np.nan)
    numbers = np.full(len(clinical.visits), np.nan)
    people = clinical.visits["participant_id"]
    for index, value in enumerate(clinical.visits[column]):
        label = cell_label(value)
        if label is None:
            continue
        number = cell_number(value)
        if number is None:
            who = people.iloc[index]
            raise DataError(
                f"{clinical.file_of(column, who)}: {column} of {who} is '{label}'; expected a "
                "number with a decimal point and no unit, or n/a; correct it"
            )
        numbers[index] = number
    return numbers


def cell_number(value: object) -> float | None:
    """Cell of a clinical table as a number.

    Parameters
    ----------
    value : object
        Number or text.

    Returns
    -------
    float or None
        None where it is none, or not finite.

    Examples
    --------
    >>> cell_number("12.5"), cell_number("12,5"), cell_number(None)
    (12.5, None, None)
    """
    try:
        number = float(str(value))
    except ValueError:
        return None
    return number if np.isfinite(number) else None


def _constant_labels(clinical: ClinicalTable, column: str) -> dict[str, str | None]:
    """Label of each participant; one that changes between visits raises."""
    found: dict[str, str | None] = dict.fromkeys(clinical.participants)
    if column not in clinical.visits:
        return found
    people = clinical.visits["participant_id"]
    for who, value in zip(people, clinical.visits[column], strict=True):
        label = cell_label(value)
        if label is None:
            continue
        before = found[who]
        if before is not None and before != label:
            raise DataError(
                f"{clinical.file_of(column, who)}: {column} of {who} is '{before}' and '{label}' "
                "at different visits; expected one group per participant; correct one of them"
            )
        found[who] = label
    return found


def _require_columns(clinical: ClinicalTable, columns: Iterable[str]) -> None:
    for column in columns:
        if column not in clinical.visits:
            present = [str(name) for name in clinical.visits.columns[2:]]
            close = difflib.get_close_matches(column, present, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise DataError(
                f"{clinical.file_of(column)}: no column {column} there, in sessions or phenotype "
                f"files; expected one of {', '.join(present) or 'none'}{hint}; add the column or "
                "name another"
            )


def _require_labels(
    clinical: ClinicalTable,
    column: str,
    labels: Mapping[str, str | None],
    allowed: Sequence[str],
) -> None:
    for label in sorted({label for label in labels.values() if label is not None}):
        if label not in allowed:
            who = [participant for participant, own in labels.items() if own == label]
            expected = " or ".join(f"'{name}'" for name in allowed)
            raise DataError(
                f"{clinical.file_of(column, who[0])}: {column} is '{label}' for {_some(who)}; "
                f"expected {expected}, or n/a; correct the label, or name it in the settings"
            )


def _require_patients(
    clinical: ClinicalTable,
    names: CohortNames,
    groups: Mapping[str, str | None],
    given: Mapping[str, str | None],
) -> None:
    wrong = [who for who, label in given.items() if label and groups[who] == names.control]
    if wrong:
        raise DataError(
            f"{clinical.file_of(names.progression, wrong[0])}: {names.progression} is "
            f"'{given[wrong[0]]}' for {wrong[0]}, whose {names.group} is '{names.control}'; "
            "expected n/a for controls; correct one of the two"
        )


def _some(labels: Sequence[str]) -> str:
    shown = ", ".join(labels[:5])
    return shown if len(labels) <= 5 else f"{shown} and {len(labels) - 5} more"


def require_known_exclusions(
    exclusions: pd.DataFrame,
    *,
    participants: Iterable[str],
    sessions: Iterable[str],
    modalities: Iterable[str],
) -> None:
    """Raise where a file of exclusions names what the dataset does not have.

    Parameters
    ----------
    exclusions : DataFrame
        As of `bids_alsmri.bids.clinical.read_exclusions`.
    participants, sessions : iterable of str
        All of the dataset, with ``sub-`` and ``ses-``, whoever was asked for.
    modalities : iterable of str
        All that can be asked for.

    Raises
    ------
    DataError
        If a participant, session or modality is unknown: a misspelt one would leave a bad scan
        in.

    Examples
    --------
    >>> rows = pd.DataFrame({"participant_id": ["sub-1"], "session_id": None, "modality": None,
    ...     "image": None, "reason": "moved", "source": "out.tsv, line 2"})
    >>> require_known_exclusions(
    ...     rows, participants=["sub-01"], sessions=[], modalities=["sodium"])
    Traceback (most recent call last):
    bids_alsmri.errors.DataError: out.tsv, line 2: participant sub-1 is not in the dataset;
    expected one of sub-01; did you mean sub-01? Correct the line or remove it
    """
    known = {
        "participant_id": ("participant", sorted(participants)),
        "session_id": ("session", sorted(sessions)),
        "modality": ("modality", sorted(modalities)),
    }
    for row in exclusions.to_dict("records"):
        for column, (kind, labels) in known.items():
            value = cell_label(row[column])
            # rows of scans.tsv lie in the participant's own folder
            if value is None or value in labels or cell_label(row["image"]) is not None:
                continue
            close = difflib.get_close_matches(value, labels, n=1)
            hint = f"did you mean {close[0]}? Correct" if close else "correct"
            raise DataError(
                f"{row['source']}: {kind} {value} is not in the dataset; expected one of "
                f"{_some(labels) or 'none'}; {hint} the line or remove it"
            )


def participation(
    clinical: ClinicalTable,
    labels: pd.DataFrame,
    scans: Sequence[ScanState],
    exclusions: pd.DataFrame,
    *,
    names: CohortNames,
    contrasts: Sequence[Contrast],
    modalities: Sequence[str],
    covariates: Sequence[str],
    once_per_participant: bool,
) -> pd.DataFrame:
    """Who takes part in each comparison, and why others do not.

    Parameters
    ----------
    clinical : ClinicalTable
        Of the dataset.
    labels : DataFrame
        As of `label_participants`.
    scans : sequence of ScanState
        All scans that were found, processed or failed.
    exclusions : DataFrame
        As of `read_exclusions` and `read_quality_labels`, one below the other; may be empty.
    names : CohortNames
        Labels.
    contrasts : sequence of Contrast
        What is compared.
    modalities : sequence of str
        What is compared in.
    covariates : sequence of str
        Columns that a participant must have a value of.
    once_per_participant : bool
        Whether only the first usable scan of a participant takes part, in the order of visits and
        then of labels, as an unpaired comparison needs it.

    Returns
    -------
    DataFrame
        One row per modality, contrast and scan, or visit without a scan: ``modality``,
        ``contrast``, ``participant_id``, ``session_id``, ``scan``, ``group`` (the side of the
        contrast; None where unknown), ``is_included``, ``reason`` (empty, or one of `REASONS`, the
        first that applies) and ``detail``. Participants of neither side are left out.

    Raises
    ------
    DataError
        If a covariate is no column.

    Notes
    -----
    A contrast of fast or slow needs the progression, and every contrast the group: where they are
    unknown, or a scan lacks a map that it is to be adjusted for, the reason is a missing covariate.

    Examples
    --------
    >>> rows = pd.DataFrame({"participant_id": ["sub-01", "sub-02"], "session_id": None,
    ...     "group": ["als", "hc"]})
    >>> table = ClinicalTable(Path("raw"), rows, {}, {}, frozenset())
    >>> names = CohortNames()
    >>> labels = label_participants(table, names, ProgressionRule("median"))
    >>> scan = ScanState("sub-01", None, "sodium", "sub-01_acq-sodium")
    >>> flow = participation(table, labels, [scan], pd.DataFrame(), names=names,
    ...     contrasts=[Contrast("als", "hc")], modalities=["sodium"], covariates=[],
    ...     once_per_participant=True)
    >>> flow[["participant_id", "is_included", "reason"]].to_numpy().tolist()
    [['sub-01', True, ''], ['sub-02', False, 'no scan']]
    """
    _require_columns(clinical, covariates)
    rows_of_labels = {row["participant_id"]: row for row in labels.to_dict("records")}
    reasons = {scan: why_excluded(scan, exclusions) for scan in scans}
    strangers = {scan.participant_id for scan in scans} - rows_of_labels.keys()
    rows = []
    for modality in modalities:
        for contrast in contrasts:
            for who in (*rows_of_labels, *sorted(strangers)):
                side, unknown = _side(rows_of_labels.get(who), contrast, names)
                if side is None and not unknown:
                    continue
                own = [s for s in scans if (s.modality, s.participant_id) == (modality, who)]
                is_taken = False
                for session, scan in _visits_and_scans(clinical, who, own):
                    reason, detail = _why_out(
                        clinical, who, session, scan, unknown, covariates, reasons
                    )
                    if not reason and once_per_participant and is_taken:
                        reason = REPEATED
                    is_taken = is_taken or not reason
                    label = None if scan is None else scan.label
                    flow_of = (modality, contrast.name, who, session, label, side)
                    rows.append((*flow_of, not reason, reason, detail))
    table = pd.DataFrame(rows, columns=list(_FLOW), dtype=object)
    return table.astype({"is_included": bool})


def _side(
    row: Mapping[Hashable, object] | None, contrast: Contrast, names: CohortNames
) -> tuple[str | None, str]:
    """Side of a contrast that a participant is on, or what is missing to know it."""
    if row is None:
        return None, "no row in participants.tsv"
    group, speed = cell_label(row["group"]), cell_label(row["progression"])
    if group is None:
        return None, f"{names.group} is n/a"
    sides = contrast.groups
    for label in (group, speed):
        if label in sides:
            return label, ""
    if group == names.patient and speed is None and {names.fast, names.slow} & set(sides):
        return None, f"{names.progression} is unknown: {row['note']}"
    return None, ""


def _visits_and_scans(
    clinical: ClinicalTable, who: str, own: Sequence[ScanState]
) -> list[tuple[str | None, ScanState | None]]:
    """Scans of a participant in the order of visits, None for a visit without one."""
    rows = clinical.visits[clinical.visits["participant_id"] == who]
    visits = [cell_label(value) for value in rows["session_id"]]
    scanned = {scan.session_id for scan in own}
    if own and len(visits) == 1 and None in (visits[0], *scanned):
        # tables or images without sessions: the one visit is that of the scans
        visits = []
    later = sorted(scanned - set(visits), key=lambda session: natural_key(session or ""))
    pairs: list[tuple[str | None, ScanState | None]] = []
    for session in (*visits, *later):
        found = sorted((s for s in own if s.session_id == session), key=lambda s: s.label)
        pairs += [(session, scan) for scan in found] or [(session, None)]
    return pairs or [(None, None)]


def _why_out(
    clinical: ClinicalTable,
    who: str,
    session: str | None,
    scan: ScanState | None,
    unknown: str,
    covariates: Sequence[str],
    reasons: Mapping[ScanState, str],
) -> tuple[str, str]:
    """Reason and detail, empty where a scan can take part."""
    if scan is None:
        return NO_SCAN, ""
    if reasons[scan]:
        return EXCLUDED, reasons[scan]
    if scan.failure:
        return FAILED, scan.failure
    if unknown or scan.lacking:
        return MISSING_COVARIATE, unknown or scan.lacking
    if not covariates:
        return "", ""
    row = clinical.row_of(who, session)
    if row is None:
        return MISSING_COVARIATE, f"no row for {session or 'a scan without session'}"
    lacking = [f"{column} is n/a" for column in covariates if cell_label(row[column]) is None]
    return (MISSING_COVARIATE, "; ".join(lacking)) if lacking else ("", "")


def why_excluded(scan: ScanState, exclusions: pd.DataFrame) -> str:
    """Why a scan is excluded, and where that stands.

    Parameters
    ----------
    scan : ScanState
        Any.
    exclusions : DataFrame
        As of `read_exclusions` and `read_quality_labels`.

    Returns
    -------
    str
        Reasons with their sources; empty where the scan is not excluded.

    Examples
    --------
    >>> row = {"participant_id": "sub-01", "session_id": None, "modality": "sodium", "image": None,
    ...     "reason": "moved", "source": "exclusions.tsv"}
    >>> why_excluded(ScanState("sub-01", None, "sodium", "sub-01"), pd.DataFrame([row]))
    'moved (exclusions.tsv)'
    """
    found = []
    for row in exclusions.to_dict("records"):
        image = cell_label(row["image"])
        if (
            row["participant_id"] == scan.participant_id
            and cell_label(row["session_id"]) in (None, scan.session_id)
            and cell_label(row["modality"]) in (None, scan.modality)
            and (image is None or image in scan.images)
        ):
            found.append(f"{row['reason']} ({row['source']})")
    return "; ".join(found)


def count_participation(flow: pd.DataFrame) -> pd.DataFrame:
    """Participants of each group that are in and out, by reason.

    Parameters
    ----------
    flow : DataFrame
        As of `participation`.

    Returns
    -------
    DataFrame
        One row per modality, contrast and group (``n/a`` where unknown): ``n_participants``,
        ``n_included``, and a column for each of `REASONS` but repeated scans. A participant with
        several scans counts once: as included where any is, else by the first scan's reason.

    Examples
    --------
    >>> flow = pd.DataFrame({"modality": "sodium", "contrast": "als-hc", "group": "als",
    ...     "participant_id": ["sub-01", "sub-02"], "is_included": [True, False],
    ...     "reason": ["", "no scan"]})
    >>> count_participation(flow)[["n_participants", "n_included", "no scan"]].values.tolist()
    [[2, 1, 1]]
    """
    reasons = [reason for reason in REASONS if reason != REPEATED]
    keys = ["modality", "contrast", "group"]
    known = flow.assign(group=[cell_label(value) or "n/a" for value in flow["group"]])
    rows = []
    for _, part in known.groupby(keys, sort=False):
        included = set(part.loc[part["is_included"], "participant_id"])
        out = part[~part["participant_id"].isin(included)].drop_duplicates("participant_id")
        counts = {reason: int((out["reason"] == reason).sum()) for reason in reasons}
        rows.append(
            {
                **{key: part[key].iloc[0] for key in keys},
                "n_participants": part["participant_id"].nunique(),
                "n_included": len(included),
                **counts,
            }
        )
    return pd.DataFrame(rows, columns=[*keys, "n_participants", "n_included", *reasons])


def require_groups(
    flow: pd.DataFrame,
    *,
    contrasts: Sequence[Contrast],
    modalities: Sequence[str],
    n_least: int,
    source: Path,
) -> None:
    """Raise where a group of a comparison is too small.

    Parameters
    ----------
    flow : DataFrame
        As of `participation`.
    contrasts : sequence of Contrast
        What is compared.
    modalities : sequence of str
        What is compared in.
    n_least : int
        Participants that a group must have: 1 for tables, 3 for maps.
    source : Path
        File of the groups, for the message.

    Raises
    ------
    DataError
        If a group has fewer; the message names all such groups and why their members are out.

    Examples
    --------
    >>> flow = pd.DataFrame({"modality": "sodium", "contrast": "als-hc", "group": ["als", "hc"],
    ...     "participant_id": ["sub-01", "sub-02"], "is_included": True, "reason": ""})
    >>> require_groups(flow, contrasts=[Contrast("als", "hc")], modalities=["sodium"], n_least=3,
    ...     source=Path("participants.tsv"))
    Traceback (most recent call last):
    bids_alsmri.errors.DataError: participants.tsv: too few participants for a comparison;
    expected at least 3 in each group:
      sodium, als-hc: 1 in 'als' (1 of that group: 1 included)
      sodium, als-hc: 1 in 'hc' (1 of that group: 1 included)
    correct the labels, complete the data or leave the contrast or modality out
    """
    counts = count_participation(flow)
    small = []
    for modality in modalities:
        for contrast in contrasts:
            for group in contrast.groups:
                is_own = (
                    (counts["modality"] == modality)
                    & (counts["contrast"] == contrast.name)
                    & (counts["group"] == group)
                )
                row = counts[is_own].iloc[0] if is_own.any() else None
                n_included = 0 if row is None else int(row["n_included"])
                if n_included < n_least:
                    small.append(
                        f"  {modality}, {contrast.name}: {n_included} in '{group}' ({_why(row)})"
                    )
    if small:
        listed = "\n".join(small)
        raise DataError(
            f"{source}: too few participants for a comparison; expected at least {n_least} in each "
            f"group:\n{listed}\ncorrect the labels, complete the data or leave the contrast or "
            "modality out"
        )


def _why(row: pd.Series | None) -> str:
    if row is None:
        return "nobody has that label"
    parts = [f"{row['n_included']} included"]
    parts += [f"{row[reason]} {reason}" for reason in REASONS[:-1] if row[reason]]
    return f"{row['n_participants']} of that group: {', '.join(parts)}"


def covariate_columns(
    clinical: ClinicalTable, included: pd.DataFrame, covariates: Sequence[str]
) -> pd.DataFrame:
    """Covariates of one comparison as columns of numbers that a model can use.

    Parameters
    ----------
    clinical : ClinicalTable
        Of the dataset.
    included : DataFrame
        Rows of one modality and contrast of `participation` that are included.
    covariates : sequence of str
        Columns of the clinical table; those of text, or with levels in their sidecar, become one
        column of 0 and 1 for each label but the first in alphabetical order.

    Returns
    -------
    DataFrame
        As many rows, and in the same order; columns such as ``age`` and ``sex[male]``.

    Raises
    ------
    DataError
        If a covariate is no column, a value is missing, a column of numbers holds text, a
        covariate is constant or follows from the group and the other covariates (which explain
        all but 1 % of its spread, 99.99 % of its variance), or no degree of freedom is left.

    Examples
    --------
    >>> rows = pd.DataFrame({"participant_id": [f"sub-{i}" for i in range(5)], "session_id": None,
    ...     "sex": ["male", "female", "male", "male", "female"]})
    >>> table = ClinicalTable(Path("raw"), rows, {}, {}, frozenset())
    >>> included = rows[["participant_id", "session_id"]].assign(
    ...     contrast="als-hc", modality="sodium", group=["als", "als", "als", "hc", "hc"])
    >>> covariate_columns(table, included, ["sex"])["sex[male]"].tolist()
    [1.0, 0.0, 1.0, 1.0, 0.0]
    """
    _require_columns(clinical, covariates)
    comparison = f"{included['contrast'].iloc[0]} ({included['modality'].iloc[0]})"
    labels = list(dict.fromkeys(included["group"]))
    members = [(included["group"] == label).to_numpy(float) for label in labels[1:]]
    basis = _unit_columns(np.column_stack([np.ones(len(included)), *members]))
    columns: dict[str, NDArray[np.float64]] = {}
    for index, covariate in enumerate(covariates):
        cells = _cells(clinical, included, covariate)
        where = f"{clinical.file_of(covariate)}: covariate {covariate}"
        if len(set(cells)) == 1:
            raise DataError(
                f"{where} is '{cells[0]}' for all {len(cells)} participants of {comparison}; "
                "expected at least two values; leave the covariate out"
            )
        for name, values in _coded(clinical, covariate, cells, included).items():
            own = _own_part(values, basis)
            if own is None:
                others = " and ".join(["the group", *covariates[:index]])
                raise DataError(
                    f"{where}: column {name} follows from {others} in {comparison}; expected "
                    "values that vary by themselves; leave one of them out"
                )
            basis = np.column_stack([basis, own])
            columns[name] = values
    if covariates and len(included) <= basis.shape[1]:
        raise DataError(
            f"{clinical.file_of(covariates[0])}: {len(included)} participants of {comparison} and "
            f"{basis.shape[1]} columns of the model leave no degree of freedom; expected more "
            "participants than columns; leave covariates out"
        )
    return pd.DataFrame(columns, index=included.index)


def _own_part(
    values: NDArray[np.float64], basis: NDArray[np.float64]
) -> NDArray[np.float64] | None:
    """What of a column others do not explain, of length 1; None where that is nearly nothing."""
    centred = values - values.mean()
    rest: NDArray[np.float64] = centred - basis @ (basis.T @ centred)
    size = np.linalg.norm(rest)
    return None if size <= _SMALLEST_OWN_PART * np.linalg.norm(centred) else rest / size


def _unit_columns(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Orthonormal basis of what the columns span."""
    left, sizes, _ = np.linalg.svd(matrix, full_matrices=False)
    basis: NDArray[np.float64] = left[:, sizes > 1e-10 * sizes[0]]
    return basis


def _cells(clinical: ClinicalTable, included: pd.DataFrame, column: str) -> list[str]:
    """Value of each included scan as text; a missing one raises."""
    found = []
    for who, value in zip(included["participant_id"], included["session_id"], strict=True):
        row = clinical.row_of(who, cell_label(value))
        label = None if row is None else cell_label(row[column])
        if label is None:
            raise DataError(
                f"{clinical.file_of(column, who)}: covariate {column} of {who} is n/a; expected a "
                "value of everyone who is compared; add it or leave the covariate out"
            )
        found.append(label)
    return found


def _coded(
    clinical: ClinicalTable, column: str, cells: Sequence[str], included: pd.DataFrame
) -> dict[str, NDArray[np.float64]]:
    """Columns of a covariate: itself where it is a number, else one per label but the first."""
    numbers = [cell_number(cell) for cell in cells]
    known = [number for number in numbers if number is not None]
    if column not in clinical.categorical and known:
        if len(known) < len(cells):
            index = numbers.index(None)
            who = included["participant_id"].iloc[index]
            raise DataError(
                f"{clinical.file_of(column, who)}: covariate {column} of {who} is "
                f"'{cells[index]}' where others are numbers; expected a number, or Levels in the "
                "sidecar if these are labels; correct it"
            )
        return {column: np.array(known)}
    return {
        f"{column}[{level}]": np.array([float(cell == level) for cell in cells])
        for level in sorted(set(cells))[1:]
    }
