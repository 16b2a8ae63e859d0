"""Clinical values that cannot be: each is named, and left out."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bids_alsmri.bids.clinical import MISSING, ClinicalTable

if TYPE_CHECKING:
    import pandas as pd

RANGES = Path(__file__).with_name("clinical_ranges.json")
COLUMNS = ("participant_id", "session_id", "column", "value", "reason", "file")
# Points per month: the fastest course of months, and what a duration in years makes of a usual one.
LARGEST_RATE_PER_MONTH = 6.0
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")
_MONTH = ("month", "months", "mo")
_UNITS = {
    "year": ("year", "years", "yr", "y", "a"),
    "month": _MONTH,
    "points": ("points", "point", "1", "arbitrary", "score"),
    "kg": ("kg", "kilogram"),
    "lb": ("lb", "pound", "lbs", "pounds"),
    "ms": ("ms", "millisecond"),
    "cm": ("cm", "centimetre", "centimeter"),
}


@dataclass(frozen=True)
class CheckedTable:
    """Clinical table without values that cannot be.

    Parameters
    ----------
    table : ClinicalTable
        Rejected values are missing; columns of scores hold numbers.
    rejected : DataFrame
        One row per rejected value: participant, session, column, value, reason, file.
    missing : DataFrame
        Per column: ``column``, ``n`` values, ``n_missing`` and of these ``n_rejected``.
    warnings : tuple of str
        What is suspect but kept.
    """

    table: ClinicalTable
    rejected: pd.DataFrame
    missing: pd.DataFrame
    warnings: tuple[str, ...]


def check_clinical(table: ClinicalTable, *, patients: frozenset[str] = frozenset()) -> CheckedTable:
    """Reject values outside their range, text among numbers, and dates out of order.

    Parameters
    ----------
    table : ClinicalTable
        As it was read.
    patients : frozenset of str
        Participants whose rate of progression is looked at; all if empty.

    Returns
    -------
    CheckedTable
        Nothing is guessed: a decimal comma, a unit in a cell or a score above its maximum is
        rejected by name, not repaired.

    Notes
    -----
    A sum of strength goes up to 5 times the muscles that the tables list, else to 170 (Jenkins
    2020; 130 in Cosottini 2016). A rate above 6 points per month, or a unit of years, tells that a
    duration in months holds years; the duration is rejected.

    Examples
    --------
    >>> import pandas as pd
    >>> rows = pd.DataFrame({"participant_id": ["sub-01", "sub-02"], "session_id": [None, None],
    ...     "alsfrs_r": [52.0, 40.0]})
    >>> found = check_clinical(ClinicalTable(Path("raw"), rows, {}, {}, frozenset()))
    >>> found.rejected[["participant_id", "value", "reason"]].values.tolist()
    [['sub-01', '52', 'outside 0 to 48 points']]
    """
    import pandas as pd

    visits = table.visits.copy()
    rejected: list[dict[str, Any]] = []
    warnings: list[str] = []
    check = _Check(table, visits, rejected)
    for name in list(visits):
        rule = rule_of(str(name))
        if rule is not None:
            check.numbers(str(name), _with_composition(rule, str(name), list(visits)))
        elif name in _content()["labels"]:
            check.labels(str(name), _content()["labels"][name])
        elif str(name).endswith("_date") or name == "acq_time":
            check.dates(str(name))
    check.order_of_dates()
    check.sums(warnings)
    check.durations(patients, warnings)
    warnings += _twins(visits)
    named = pd.DataFrame(rejected, columns=list(COLUMNS), dtype=object)
    counts = [
        {
            "column": str(name),
            "n": int(visits[name].notna().sum()),
            "n_missing": int(visits[name].isna().sum()),
            "n_rejected": int((named["column"] == name).sum()),
        }
        for name in visits
        if name not in ("participant_id", "session_id")
    ]
    missing = pd.DataFrame(counts, columns=["column", "n", "n_missing", "n_rejected"])
    return CheckedTable(replace(table, visits=visits), named, missing, tuple(warnings))


@cache
def _content() -> Mapping[str, Any]:
    content: Mapping[str, Any] = json.loads(RANGES.read_text(encoding="utf-8"))
    return content


def rule_of(column: str) -> Mapping[str, Any] | None:
    """What a column may hold.

    Parameters
    ----------
    column : str
        Name; of several phenotype files with their name before it.

    Returns
    -------
    mapping or None
        ``low``, ``high``, ``unit``, ``whole`` and ``source``; None where nothing is known.

    Examples
    --------
    >>> rule_of("umn_left_arm")["high"], rule_of("favourite_colour")
    (8, None)
    """
    name = column.rpartition(".")[2]
    for rule in _content()["columns"]:
        if re.fullmatch(rule["pattern"], name):
            found: Mapping[str, Any] = rule
            return found
    return None


def _with_composition(rule: Mapping[str, Any], name: str, columns: list[Any]) -> Mapping[str, Any]:
    items = [c for c in columns if re.fullmatch(r"mrc_(?!sum$).+", str(c))]
    if name != "mrc_sum" or not items:
        return rule
    return {**rule, "high": 5 * len(items)}


class _Check:
    """Checks of one table, whose frame is changed."""

    def __init__(self, table: ClinicalTable, visits: Any, rejected: list[dict[str, Any]]) -> None:
        self.table, self.visits, self.rejected = table, visits, rejected

    def reject(self, row: Any, column: str, reason: str) -> None:
        who = str(self.visits.at[row, "participant_id"])
        value = self.visits.at[row, column]
        text = f"{value:g}" if isinstance(value, float) else str(value)
        path = self.table.file_of(column, who)
        self.rejected.append(
            {
                "participant_id": who,
                "session_id": self.visits.at[row, "session_id"],
                "column": column,
                "value": text,
                "reason": reason,
                "file": str(path),
            }
        )

    def numbers(self, column: str, rule: Mapping[str, Any]) -> None:
        import pandas as pd

        unit = self.table.units.get(column)
        if unit and rule["unit"] and unit.lower() not in _UNITS.get(rule["unit"], (unit.lower(),)):
            for row in self.visits.index[self.visits[column].notna()]:
                self.reject(row, column, f"in {unit} by its sidecar, expected {rule['unit']}")
            self.visits[column] = math.nan
            return
        numbers = []
        for row in self.visits.index:
            value = self.visits.at[row, column]
            number = _number(value)
            reason = _why_text(value, number) or _why_out(number, rule)
            if reason:
                self.reject(row, column, reason)
                number = math.nan
            numbers.append(number)
        self.visits[column] = pd.Series(numbers, index=self.visits.index, dtype=float)

    def labels(self, column: str, known: list[str]) -> None:
        for row in self.visits.index:
            value = self.visits.at[row, column]
            if isinstance(value, str) and _label(value) not in known:
                self.reject(row, column, f"none of {', '.join(known)}")
                self.visits.at[row, column] = None

    def dates(self, column: str) -> None:
        for row in self.visits.index:
            value = self.visits.at[row, column]
            if isinstance(value, str) and date_of(value) is None:
                self.reject(row, column, "no date such as 2020-02-29")
                self.visits.at[row, column] = None

    def order_of_dates(self) -> None:
        """A visit before the first symptoms, or before birth."""
        for earlier in ("birth_date", "onset_date"):
            for later in ("onset_date", "acq_time", "visit_date"):
                if earlier not in self.visits or later not in self.visits or earlier == later:
                    continue
                for row in self.visits.index:
                    first = date_of(self.visits.at[row, earlier])
                    second = date_of(self.visits.at[row, later])
                    if first and second and second < first:
                        self.reject(row, later, f"before {earlier}")
                        self.visits.at[row, later] = None

    def sums(self, warnings: list[str]) -> None:
        """Totals that their items do not make."""
        for total, pattern in (
            ("alsfrs_r", r"alsfrs_r_(0?[1-9]|1[0-2])"),
            ("mrc_sum", r"mrc_(?!sum$).+"),
        ):
            items = [c for c in self.visits if re.fullmatch(pattern, str(c))]
            if total not in self.visits or len(items) < 2:
                continue
            sums = self.visits[items].sum(axis=1, skipna=False)
            wrong = (sums - self.visits[total]).abs() > 1e-6
            for row in self.visits.index[wrong]:
                who = self.visits.at[row, "participant_id"]
                warnings.append(
                    f"{self.table.file_of(total, str(who))}: {total} of {who} is "
                    f"{self.visits.at[row, total]:g} but its {len(items)} items make "
                    f"{sums[row]:g}; both are kept"
                )

    def durations(self, patients: frozenset[str], warnings: list[str]) -> None:
        """Durations in years that stand as months."""
        if not {"alsfrs_r", "disease_duration_months"} <= set(self.visits):
            return
        later = self.months_since_first()
        for row in self.visits.index:
            who = str(self.visits.at[row, "participant_id"])
            score = self.visits.at[row, "alsfrs_r"]
            months = self.visits.at[row, "disease_duration_months"]
            if (patients and who not in patients) or not (months == months and score == score):
                continue
            months += later[row]
            rate = (48 - score) / months if months > 0 else (math.inf if score < 48 else 0.0)
            if rate > LARGEST_RATE_PER_MONTH:
                self.reject(
                    row,
                    "disease_duration_months",
                    f"{rate:.1f} points per month with a score of {score:g}; perhaps in years",
                )
                self.visits.at[row, "disease_duration_months"] = math.nan

    def months_since_first(self) -> dict[Any, float]:
        """Time to add to a duration that participants.tsv tells of the first visit alone."""
        later = dict.fromkeys(self.visits.index, 0.0)
        if "months" not in self.visits:
            return later
        for _, own in self.visits.groupby("participant_id", sort=False):
            # a duration of each visit grows with them
            if own["disease_duration_months"].nunique() > 1:
                continue
            times = own["months"].astype(float)
            later.update((times - times.min()).fillna(0.0).to_dict())
        return later


def date_of(value: object) -> date | None:
    """Date of a cell in the form of BIDS.

    Parameters
    ----------
    value : object
        Such as ``2020-02-29`` or ``2020-02-29T10:00:00``.

    Returns
    -------
    date or None
        None where it is none.

    Examples
    --------
    >>> date_of("2020-02-29"), date_of("2021-02-29")
    (datetime.date(2020, 2, 29), None)
    """
    if not isinstance(value, str):
        return None
    try:
        return datetime.fromisoformat(value).date()
    except ValueError:
        return None


def _label(text: str) -> str:
    """Label as the list has it: ``Clinically probable, laboratory-supported`` is one."""
    words = re.findall(r"[a-z0-9]+", text.lower())
    return "_".join(word for word in words if word not in ("clinically", "als"))


def _number(value: object) -> float:
    if isinstance(value, (int, float)):
        return float(value)
    try:
        return float(str(value)) if isinstance(value, str) else math.nan
    except ValueError:
        return math.nan


def _why_text(value: object, number: float) -> str:
    if not isinstance(value, str) or value in MISSING or math.isfinite(number):
        return ""
    if _DECIMAL_COMMA.fullmatch(value):
        return "decimal comma; expected a point"
    return "no number"


def _why_out(number: float, rule: Mapping[str, Any]) -> str:
    if math.isnan(number):
        return ""
    low, high, unit = rule["low"], rule["high"], rule["unit"] or ""
    if number < low or (high is not None and number > high):
        end = f"to {high:g}" if high is not None else "or more"
        return f"outside {low:g} {end} {unit}".rstrip()
    if rule["whole"] and number != round(number):
        return "expected a whole number"
    return ""


def _twins(visits: pd.DataFrame) -> list[str]:
    """Participants with the same values throughout, of at least 4 that are known."""
    seen: dict[tuple[Any, ...], str] = {}
    found = []
    columns = [c for c in visits if c not in ("participant_id", "session_id", "group")]
    for who, part in visits.groupby("participant_id", sort=False):
        cells = [
            (str(column), str(value))
            for column in columns
            for value in part[column]
            if value is not None and value == value
        ]
        numbers = [cell for cell in cells if _number(cell[1]) == _number(cell[1])]
        if len(numbers) < 4:
            continue
        other = seen.setdefault(tuple(cells), str(who))
        if other != who:
            found.append(f"{who} has the same clinical values as {other}; perhaps entered twice")
    return found
