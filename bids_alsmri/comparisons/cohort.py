"""Who belongs to which group, who takes part in which comparison, and what they are like."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from bids_alsmri.bids.clinical import ClinicalTable
from bids_alsmri.errors import DataError, NumericsError, SettingsError

# Points; Cedarbaum 1999, doi:10.1016/s0022-510x(99)00210-5: 12 items of 0 to 4.
ALSFRS_R_MAX = 48.0
# Points per month: rates closer to the threshold than rounding tells apart are equal to it.
RATE_ROUNDING_PER_MONTH = 1e-9
_MONTHS = frozenset({"month", "months", "mo"})


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
    """Two groups to compare, by label.

    Parameters
    ----------
    first, second : str
        The first less the second.
    """

    first: str
    second: str

    @property
    def name(self) -> str:
        """Such as ``als-hc``."""
        return f"{self.first}-{self.second}"


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
    >>> from pathlib import Path
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
            found[who] = _Rate(_label(visits["session_id"].iloc[index]), score, duration, rate)
        elif who not in found:
            found[who] = _Rate(None, score, duration, note="; ".join(lacking))
    return found


def _label(value: object) -> str | None:
    """Cell as a label: 1.0 is 1, NaN and None are missing."""
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
        label = _label(value)
        if label is None:
            continue
        number = _as_number(value)
        if number is None:
            who = people.iloc[index]
            raise DataError(
                f"{clinical.file_of(column, who)}: {column} of {who} is '{label}'; expected a "
                "number with a decimal point and no unit, or n/a; correct it"
            )
        numbers[index] = number
    return numbers


def _as_number(value: object) -> float | None:
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
        label = _label(value)
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
