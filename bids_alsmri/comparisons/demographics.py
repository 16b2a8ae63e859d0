"""What the groups of a cohort are like: summaries, tests and the table that a paper prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import get_args

import numpy as np
import pandas as pd

from bids_alsmri.bids.clinical import ClinicalTable, natural_key
from bids_alsmri.comparisons.cohort import Contrast, cell_label, cell_number
from bids_alsmri.errors import DataError, SettingsError
from bids_alsmri.stats.comparison import (
    CountTest,
    NumberTest,
    TestResult,
    compare_counts,
    compare_numbers,
)


@dataclass(frozen=True)
class Variable:
    """A row of the table of demographics.

    Parameters
    ----------
    column : str
        Of the clinical table, or of `label_participants` (such as ``rate_per_month``).
    test : {"t", "welch", "mann-whitney", "kruskal-wallis", "fisher", "chi-squared"}
        How groups are compared; the last two count labels, the others take numbers.

    Raises
    ------
    SettingsError
        If there is no such test.

    Examples
    --------
    >>> Variable("sex", "fisher").is_count
    True
    """

    column: str
    test: NumberTest | CountTest

    def __post_init__(self) -> None:
        known = (*get_args(NumberTest), *get_args(CountTest))
        if self.test not in known:
            raise SettingsError(
                f"test of {self.column} is '{self.test}'; expected one of {', '.join(known)}; "
                "correct it"
            )

    @property
    def is_count(self) -> bool:
        """Whether labels are counted."""
        return self.test in get_args(CountTest)


@dataclass(frozen=True)
class Demographics:
    """Summaries of groups, and their comparisons.

    Parameters
    ----------
    summary : DataFrame
        One row per variable and group, and per label of a variable that is counted: ``variable``,
        ``level`` (empty for numbers), ``group``, ``n`` with a value, ``n_missing``; ``mean``,
        ``sd`` (of the sample), ``median``, ``q1``, ``q3`` of numbers, ``count`` and ``percent``
        (of those with a value) of labels; NaN where they do not apply.
    tests : DataFrame
        One row per variable and contrast: ``variable``, ``contrast`` and the fields of
        `TestResult`.
    """

    summary: pd.DataFrame
    tests: pd.DataFrame


def baseline(clinical: ClinicalTable, labels: pd.DataFrame) -> pd.DataFrame:
    """First visit of each participant, with group, progression and rate.

    Parameters
    ----------
    clinical : ClinicalTable
        Of the dataset.
    labels : DataFrame
        As of `bids_alsmri.comparisons.cohort.label_participants`.

    Returns
    -------
    DataFrame
        One row per participant: the columns of the clinical table, and those of the labels, which
        replace columns of the same name but the visit and the score, which are the first visit's.

    Examples
    --------
    >>> from pathlib import Path
    >>> from bids_alsmri.comparisons.cohort import CohortNames, ProgressionRule, label_participants
    >>> rows = pd.DataFrame({"participant_id": ["sub-01"] * 2, "session_id": ["ses-1", "ses-2"],
    ...     "group": "als", "age": [60.0, 61.0]})
    >>> table = ClinicalTable(Path("raw"), rows, {}, {}, frozenset())
    >>> labels = label_participants(table, CohortNames(), ProgressionRule("median"))
    >>> baseline(table, labels)[["age", "group"]].to_numpy().tolist()
    [[60.0, 'als']]
    """
    first = clinical.visits.drop_duplicates("participant_id").set_index("participant_id")
    kept = [c for c in labels if c not in ("session_id", "alsfrs_r") or c not in first]
    own = labels[kept].set_index("participant_id")
    return first.drop(columns=[c for c in own if c in first]).join(own).reset_index()


def describe(
    clinical: ClinicalTable,
    participants: pd.DataFrame,
    variables: Sequence[Variable],
    contrasts: Sequence[Contrast],
) -> Demographics:
    """Summaries of all groups of some contrasts, and tests between them.

    Parameters
    ----------
    clinical : ClinicalTable
        Of the dataset, for messages.
    participants : DataFrame
        One row per participant, as of `baseline`; those of a comparison, or all.
    variables : sequence of Variable
        What is summarised, in this order.
    contrasts : sequence of Contrast
        Groups, in the order in which they first appear, and comparisons.

    Returns
    -------
    Demographics
        Quartiles are interpolated linearly; p-values are not corrected for their number.

    Raises
    ------
    DataError
        If a variable is no column, or one of numbers holds text.

    Examples
    --------
    >>> from pathlib import Path
    >>> people = pd.DataFrame({"participant_id": list("abcd"), "group": ["als"] * 2 + ["hc"] * 2,
    ...     "progression": None, "age": [60.0, 62.0, 50.0, 54.0]})
    >>> table = ClinicalTable(Path("raw"), people, {}, {}, frozenset())
    >>> found = describe(table, people, [Variable("age", "t")], [Contrast("als", "hc")])
    >>> found.summary[["group", "mean"]].to_numpy().tolist()
    [['als', 61.0], ['hc', 52.0]]
    >>> found.tests[["test", "dof"]].to_numpy().tolist()
    [["Student's t", 2.0]]
    """
    groups = list(dict.fromkeys(g for c in contrasts for g in c.groups))
    pairs = [contrast for contrast in contrasts if not contrast.is_change]
    members = {group: _members(participants, group) for group in groups}
    summary: list[dict[str, object]] = []
    tests: list[dict[str, object]] = []
    for variable in variables:
        _require_variable(clinical, participants, variable)
        describe_one = _describe_counts if variable.is_count else _describe_numbers
        rows, results = describe_one(clinical, members, variable, pairs)
        summary += [{"variable": variable.column, **row} for row in rows]
        tests += [
            {"variable": variable.column, "contrast": contrast.name, **asdict(result)}
            for contrast, result in zip(pairs, results, strict=True)
        ]
    return Demographics(
        pd.DataFrame(summary, columns=["variable", "level", "group", "n", "n_missing", *_NUMBERS]),
        pd.DataFrame(tests, columns=["variable", "contrast", *TestResult.__annotations__]),
    )


_NUMBERS = ("mean", "sd", "median", "q1", "q3", "count", "percent")


def _members(participants: pd.DataFrame, group: str) -> pd.DataFrame:
    is_member = [
        group in (cell_label(row["group"]), cell_label(row["progression"]))
        for row in participants.to_dict("records")
    ]
    return participants[is_member]


def _require_variable(
    clinical: ClinicalTable, participants: pd.DataFrame, variable: Variable
) -> None:
    if variable.column not in participants:
        raise DataError(
            f"{clinical.root / 'participants.tsv'}: no column {variable.column} there, in sessions "
            "or phenotype files, for the table of demographics; expected one of "
            f"{', '.join(map(str, participants.columns))}; correct the name or leave it out"
        )


def _describe_counts(
    clinical: ClinicalTable,
    members: Mapping[str, pd.DataFrame],
    variable: Variable,
    contrasts: Sequence[Contrast],
) -> tuple[list[dict[str, object]], list[TestResult]]:
    """Rows of the summary, and results by contrast, of labels."""
    values = {group: _labels_of(own, variable.column) for group, own in members.items()}
    levels = sorted({label for own in values.values() for label in own}, key=natural_key)
    rows: list[dict[str, object]] = [
        {"group": group, "n_missing": len(members[group]) - len(own), **_share(own, level)}
        for group, own in values.items()
        for level in levels
    ]
    counts = {group: [own.count(level) for level in levels] for group, own in values.items()}
    pairs = [np.array([counts[c.first], counts[c.second]], int).T for c in contrasts]
    return rows, [compare_counts(pair, variable.test) for pair in pairs]


def _describe_numbers(
    clinical: ClinicalTable,
    members: Mapping[str, pd.DataFrame],
    variable: Variable,
    contrasts: Sequence[Contrast],
) -> tuple[list[dict[str, object]], list[TestResult]]:
    """Rows of the summary, and results by contrast, of numbers."""
    values = {group: _numbers_of(clinical, own, variable.column) for group, own in members.items()}
    rows: list[dict[str, object]] = [
        {"group": group, "n_missing": len(members[group]) - len(own), **_spread(own)}
        for group, own in values.items()
    ]
    pairs = [(values[c.first], values[c.second]) for c in contrasts]
    return rows, [compare_numbers(first, second, variable.test) for first, second in pairs]


def _labels_of(members: pd.DataFrame, column: str) -> list[str]:
    labels = [cell_label(value) for value in members[column]]
    return [label for label in labels if label is not None]


def _numbers_of(clinical: ClinicalTable, members: pd.DataFrame, column: str) -> list[float]:
    found = []
    for who, value in zip(members["participant_id"], members[column], strict=True):
        if cell_label(value) is None:
            continue
        number = cell_number(value)
        if number is None:
            raise DataError(
                f"{clinical.file_of(column, who)}: {column} of {who} is '{value}'; "
                "expected a number with a decimal point and no unit, or n/a; correct it, or have "
                "the variable counted with fisher or chi-squared"
            )
        found.append(number)
    return found


def _spread(values: Sequence[float]) -> dict[str, object]:
    n = len(values)
    q1, median, q3 = np.quantile(values, [0.25, 0.5, 0.75]) if n else [np.nan] * 3
    return {
        "level": "",
        "n": n,
        "mean": np.mean(values) if n else np.nan,
        "sd": np.std(values, ddof=1) if n > 1 else np.nan,
        "median": median,
        "q1": q1,
        "q3": q3,
    }


def _share(labels: Sequence[str], level: str) -> dict[str, object]:
    count = list(labels).count(level)
    percent = 100.0 * count / len(labels) if labels else np.nan
    return {"level": level, "n": len(labels), "count": count, "percent": percent}


def format_table(demographics: Demographics, *, decimals: int) -> pd.DataFrame:
    """Table as a paper prints it, of text.

    Parameters
    ----------
    demographics : Demographics
        As of `describe`.
    decimals : int
        Of means, deviations and quantiles.

    Returns
    -------
    DataFrame
        Per variable of numbers a row ``mean (SD)`` and a row ``median (Q1, Q3)``, per label of the
        others a row ``n (%)``: ``variable``, ``statistic``, a column per group, a column per
        contrast with p, and ``test``. p and the test's name stand in the row that is tested: means
        by t, medians by ranks, and the first of the labels. Missing values are told as ``, n=``.

    Examples
    --------
    >>> from pathlib import Path
    >>> people = pd.DataFrame({"participant_id": list("abcd"), "group": ["als"] * 2 + ["hc"] * 2,
    ...     "progression": None, "age": [60.0, 62.0, 50.0, 54.0]})
    >>> table = ClinicalTable(Path("raw"), people, {}, {}, frozenset())
    >>> found = describe(table, people, [Variable("age", "t")], [Contrast("als", "hc")])
    >>> format_table(found, decimals=1).iloc[0].tolist()
    ['age', 'mean (SD)', '61.0 (1.4)', '52.0 (2.8)', '0.057', "Student's t"]
    """
    summary, tests = demographics.summary, demographics.tests
    groups = list(dict.fromkeys(summary["group"]))
    contrasts = list(dict.fromkeys(tests["contrast"]))
    rows: list[dict[str, str]] = []
    for variable in dict.fromkeys(summary["variable"]):
        own = summary[summary["variable"] == variable]
        tested = tests[tests["variable"] == variable]
        known = tested[tested["p"].notna()]
        result = {
            **{row["contrast"]: _p_text(row["p"]) for row in tested.to_dict("records")},
            "test": "; ".join(dict.fromkeys((known if len(known) else tested)["test"])),
        }
        is_rank = tested["test"].str.contains("Mann|Kruskal").any()
        is_count = bool((own["level"] != "").any())
        for index, (label, texts) in enumerate(_lines(own, decimals)):
            is_tested = index == (1 if is_rank and not is_count else 0)
            head = {"variable": variable, "statistic": label}
            rows.append({**head, **texts, **(result if is_tested else {})})
    columns = ["variable", "statistic", *groups, *contrasts, "test"]
    return pd.DataFrame(rows, columns=columns, dtype=object).fillna("")


def _lines(own: pd.DataFrame, decimals: int) -> list[tuple[str, dict[str, str]]]:
    """Label and cells by group of each row of a variable."""
    lines: dict[str, dict[str, str]] = {}
    for row in own.to_dict("records"):
        n = f", n={row['n']}" if row["n_missing"] else ""
        texts = {}
        if row["level"]:
            texts[f"{row['level']}, n (%)"] = f"{row['count']:.0f} ({row['percent']:.0f}){n}"
        else:
            mean, sd, median, q1, q3 = (f"{row[key]:.{decimals}f}" for key in _NUMBERS[:5])
            texts["mean (SD)"] = f"{mean} ({sd}){n}"
            texts["median (Q1, Q3)"] = f"{median} ({q1}, {q3}){n}"
        for label, text in texts.items():
            lines.setdefault(label, {})[str(row["group"])] = text if row["n"] else "n/a"
    return list(lines.items())


def _p_text(p: float) -> str:
    if np.isnan(p):
        return "n/a"
    return "<0.001" if p < 0.001 else f"{p:.3f}"
