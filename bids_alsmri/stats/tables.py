"""Tables of the papers, declared in ``reference.json``, of any participants and visits."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bids_alsmri.errors import DataError, NumericsError, SettingsError
from bids_alsmri.stats.agreement import (
    MEASURES,
    compare_areas,
    compare_readers,
    kappa,
    reader_accuracy,
    roc,
)
from bids_alsmri.stats.association import clustered_correlation, rank_correlation, regress
from bids_alsmri.stats.comparison import (
    compare_adjusted,
    compare_counts,
    compare_numbers,
    compare_pairs,
    permute_adjusted,
    permute_groups,
    proportion_interval,
    quartiles,
)
from bids_alsmri.stats.longitudinal import (
    Sensitivity,
    course_of,
    participants_per_arm,
    pattern_mixture,
    response_mean,
)
from bids_alsmri.stats.multiplicity import adjust_family

_Array = NDArray[np.float64]
_Mask = NDArray[np.bool_]
REFERENCE = Path(__file__).with_name("reference.json")
KEYS = ("participant_id", "visit", "group")
_ALPHA = 0.05


@dataclass(frozen=True)
class Cohort:
    """Participants and visits with all that was measured.

    Parameters
    ----------
    frame : DataFrame
        One row per participant and visit: ``participant_id``, ``visit``, ``group``, and a column
        for each measure or covariate; NaN (None for text) where missing.
    patient, control : str
        Labels of the groups.
    visits : tuple
        Labels in order of time, the first one first.
    months : tuple of float
        Their times.
    units : mapping of str to str
        Of columns.

    Raises
    ------
    DataError
        If a key column is missing, a visit is unknown, or a participant has two rows of a visit.

    Examples
    --------
    >>> frame = pd.DataFrame({"participant_id": ["a"], "visit": ["m0"], "group": ["als"]})
    >>> Cohort(frame, "als", "hc", ("m0",), (0.0,)).baseline.index.tolist()
    ['a']
    """

    frame: pd.DataFrame
    patient: str
    control: str
    visits: tuple[Hashable, ...]
    months: tuple[float, ...]
    units: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        missing = [key for key in KEYS if key not in self.frame]
        if missing:
            raise DataError(f"the table has no column {missing[0]}; add it: {', '.join(KEYS)}")
        if len(self.months) != len(self.visits) or (np.diff(self.months) <= 0).any():
            raise DataError(
                f"visits {self.visits} have the times {self.months}; give one each, increasing"
            )
        unknown = set(self.frame["visit"]) - set(self.visits)
        if unknown:
            raise DataError(f"visit {sorted(map(str, unknown))[0]} is none of {self.visits}")
        twice = self.frame[self.frame.duplicated(["participant_id", "visit"])]
        if len(twice):
            who, when = twice.iloc[0][["participant_id", "visit"]]
            raise DataError(f"{who} has two rows of visit {when}; expected one; remove the other")

    @property
    def baseline(self) -> pd.DataFrame:
        """Rows of the first visit, by participant."""
        return self.at(self.visits[0])

    def at(self, visit: Hashable) -> pd.DataFrame:
        """Rows of a visit, by participant."""
        own = self.frame[self.frame["visit"] == visit]
        return own.set_index("participant_id", drop=False)

    def measures(self, patterns: Sequence[str]) -> list[str]:
        """Columns that any pattern fits, in the order of the table."""
        return [
            str(name)
            for name in self.frame
            if name not in KEYS and any(fnmatchcase(str(name), one) for one in patterns)
        ]


@dataclass(frozen=True)
class TableSpec:
    """Declaration of a table.

    Parameters
    ----------
    name, title, source : str
        Label, heading, and paper.
    kind : str
        One of `KINDS`.
    measures : tuple of str
        Columns, or patterns such as ``muscle.t2.*``; in the order of the cohort's table.
    against : tuple of str
        Columns that measures are set against: predictors, or the limb's scores.
    pairs : tuple of (str, str)
        Measure and predictor, where they go together in pairs.
    weakness : tuple of (str, str)
        Measure and the strength score of the same muscle, 5 for full strength.
    covariates : tuple of str
        Columns; text of two values counts as 0 and 1.
    groups : tuple of str
        First and second group: ``controls``, or patients by a condition such as ``onset=bulbar``,
        ``umn_score>=13`` or ``umn_score<13``; empty for patients and controls.
    visits : tuple of int
        Places of the visits that change is told for, from 1; empty for all.
    decimals : int
        Of estimates.
    family : str
        ``table``: all tests of the table (of each visit) are one family.
    quartile_rule : {"averaged", "linear"}
        Of medians' quartiles.
    note : str
        Said below the table.

    Raises
    ------
    SettingsError
        If the kind is unknown or what it needs is missing.

    Examples
    --------
    >>> TableSpec("t", "T", "Jenkins 2020", "difference", measures=("muscle.*",)).kind
    'difference'
    """

    name: str
    title: str
    source: str
    kind: str
    measures: tuple[str, ...] = ()
    against: tuple[str, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()
    weakness: tuple[tuple[str, str], ...] = ()
    covariates: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    visits: tuple[int, ...] = ()
    decimals: int = 1
    family: str = "table"
    quartile_rule: str = "averaged"
    note: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise SettingsError(
                f"table {self.name}: kind is '{self.kind}'; expected one of {', '.join(KINDS)}"
            )
        if not (self.measures or self.pairs):
            raise SettingsError(f"table {self.name}: names no measures and no pairs; add them")
        if self.family not in ("table", "none"):
            raise SettingsError(f"table {self.name}: family is '{self.family}'; give table or none")
        if len(self.groups) not in (0, 2):
            raise SettingsError(f"table {self.name}: groups has {len(self.groups)} entries; give 2")


@dataclass(frozen=True)
class ResultTable:
    """A table made of a cohort.

    Parameters
    ----------
    spec : TableSpec
        What was asked for.
    frame : DataFrame
        One row per test, with the paper's and the best choice side by side: columns that end with
        ``_paper`` and ``_best``; ``differs`` tells whether they decide otherwise.
    notes : tuple of str
        What is special.
    """

    spec: TableSpec
    frame: pd.DataFrame
    notes: tuple[str, ...] = ()


def read_specs(path: Path | None = None) -> dict[str, TableSpec]:
    """Declared tables, those of the papers and those of a user's file.

    Parameters
    ----------
    path : Path, optional
        JSON of the same form; a table of the same name takes the place of the paper's.

    Returns
    -------
    dict of TableSpec
        By name.

    Raises
    ------
    SettingsError
        If the file cannot be read, or an entry is none.

    Examples
    --------
    >>> read_specs()["jenkins_table1"].kind
    'difference'
    """
    found: dict[str, TableSpec] = {}
    for one in (REFERENCE, path):
        if one is None:
            continue
        try:
            content = json.loads(Path(one).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise SettingsError(
                f"{one}: cannot be read as JSON ({error}); correct path or file"
            ) from error
        if not isinstance(content, dict) or not isinstance(content.get("tables"), dict):
            raise SettingsError(f"{one}: expected an object with 'tables', by name")
        for name, entry in content["tables"].items():
            found[name] = _spec(name, entry, one)
    return found


def _spec(name: str, entry: Mapping[str, Any], path: Path) -> TableSpec:
    known = {one.name for one in fields(TableSpec)} - {"name"}
    unknown = sorted(set(entry) - known)
    if unknown:
        raise SettingsError(
            f"{path}: table {name} has '{unknown[0]}'; expected some of {', '.join(sorted(known))}"
        )
    needed = [key for key in ("title", "source", "kind") if key not in entry]
    if needed:
        raise SettingsError(f"{path}: table {name} lacks '{needed[0]}'; add it")
    values = {key: _frozen(value) for key, value in entry.items()}
    return TableSpec(name=name, **values)


def _frozen(value: Any) -> Any:
    return tuple(_frozen(one) for one in value) if isinstance(value, list) else value


def make_table(
    cohort: Cohort, spec: TableSpec, *, level: float, n_draws: int, rng: np.random.Generator
) -> ResultTable | None:
    """Table of a cohort by its declaration.

    Parameters
    ----------
    cohort : Cohort
        Who and what.
    spec : TableSpec
        Which table.
    level : float
        Of intervals, such as 0.95.
    n_draws : int
        Of permutations.
    rng : Generator
        Source of chance.

    Returns
    -------
    ResultTable or None
        None where the cohort has none of its measures.

    Raises
    ------
    DataError
        If a covariate is no column, or a measure holds text.

    Examples
    --------
    >>> frame = pd.DataFrame({"participant_id": list("abcdefgh"), "visit": 0,
    ...     "group": ["als"] * 4 + ["hc"] * 4, "t2": [5.0, 6, 7, 8, 1, 2, 3, 4]})
    >>> spec = TableSpec("t", "T", "own", "difference", measures=("t2",))
    >>> found = make_table(Cohort(frame, "als", "hc", (0,), (0.0,)), spec, level=0.95, n_draws=99,
    ...     rng=np.random.default_rng(0))
    >>> found.frame[["percent", "n_first", "n_second"]].round(6).values.tolist()
    [[160.0, 4.0, 4.0]]
    """
    absent = [name for name in spec.covariates if name not in cohort.frame]
    if absent:
        return _make(cohort, _without(spec, absent), level, n_draws, rng, absent)
    return _make(cohort, spec, level, n_draws, rng, [])


def sides_of(cohort: Cohort, spec: TableSpec) -> tuple[pd.DataFrame, NDArray[np.bool_]]:
    """Rows of the two groups of a table at the first visit.

    Parameters
    ----------
    cohort : Cohort
        Who.
    spec : TableSpec
        Which groups.

    Returns
    -------
    rows : DataFrame
        By participant.
    is_first : (n,) array of bool
        Who is in the first group.

    Examples
    --------
    >>> frame = pd.DataFrame({"participant_id": ["a", "b"], "visit": 0, "group": ["als", "hc"]})
    >>> spec = TableSpec("t", "T", "own", "ranks", measures=("age",))
    >>> sides_of(Cohort(frame, "als", "hc", (0,), (0.0,)), spec)[1].tolist()
    [True, False]
    """
    return _Maker(cohort, spec, 0.95, 0, np.random.default_rng(0)).sides()


def _without(spec: TableSpec, absent: Sequence[str]) -> TableSpec:
    own = {one.name: getattr(spec, one.name) for one in fields(TableSpec)}
    own["covariates"] = tuple(name for name in spec.covariates if name not in absent)
    return TableSpec(**own)


def _make(
    cohort: Cohort,
    spec: TableSpec,
    level: float,
    n_draws: int,
    rng: np.random.Generator,
    absent: Sequence[str],
) -> ResultTable | None:
    rows = _Maker(cohort, spec, level, n_draws, rng).rows()
    if not rows:
        return None
    frame = pd.DataFrame(rows)
    for family in _families(frame):
        for name in [str(column) for column in frame if str(column).startswith("p_")]:
            q = f"q_{name[2:]}"
            values = frame[q].to_numpy(float) if q in frame else np.full(len(frame), np.nan)
            values = values.copy()
            values[family] = adjust_family(frame[name].to_numpy(float)[family])
            frame[q] = values
    if {"q_paper", "q_best"} <= set(frame):
        # a paper without families decides by p
        paper = "p_paper" if spec.family == "none" else "q_paper"
        known = frame[[paper, "q_best"]].notna().all(axis=1)
        other = (frame[paper] <= _ALPHA) != (frame["q_best"] <= _ALPHA)
        frame["differs"] = known & other
    notes = [f"Not adjusted for {name}, which is not in the tables." for name in absent]
    if spec.note:
        notes.append(spec.note)
    return ResultTable(spec, frame, tuple(notes))


def _families(frame: pd.DataFrame) -> list[_Mask]:
    """Rows of each family: the table, or the table at each visit."""
    if "visit" not in frame:
        return [np.ones(len(frame), bool)]
    visits = frame["visit"].to_numpy(object)
    return [np.array([v == visit for v in visits], bool) for visit in dict.fromkeys(visits)]


class _Maker:
    """Rows of one table."""

    def __init__(
        self,
        cohort: Cohort,
        spec: TableSpec,
        level: float,
        n_draws: int,
        rng: np.random.Generator,
    ) -> None:
        self.cohort, self.spec = cohort, spec
        self.level, self.n_draws, self.rng = level, n_draws, rng
        self.names = cohort.measures(spec.measures)
        self.seen: dict[Hashable, pd.DataFrame] = {}

    def rows(self) -> list[dict[str, Any]]:
        make: Callable[[_Maker], list[dict[str, Any]]] = KINDS[self.spec.kind]
        return make(self)

    def numbers(self, rows: pd.DataFrame, name: str) -> _Array:
        values = rows[name]
        if values.dtype == object:
            bad = [v for v in values if v is not None and not isinstance(v, (int, float))]
            if bad:
                raise DataError(
                    f"{name} holds '{bad[0]}'; expected numbers with a decimal point, or n/a; "
                    "correct it, or leave it out of the table"
                )
        return pd.to_numeric(values).to_numpy(float)

    def sides(self) -> tuple[pd.DataFrame, _Mask]:
        """Rows of both groups at the first visit, and who is in the first."""
        base = self.cohort.baseline
        if self.spec.groups:
            chosen = [self.members(base, text) for text in self.spec.groups]
        else:
            chosen = [
                (base["group"] == label).to_numpy(bool)
                for label in (self.cohort.patient, self.cohort.control)
            ]
        keep = chosen[0] | chosen[1]
        return base[keep], chosen[0][keep]

    def members(self, base: pd.DataFrame, text: str) -> _Mask:
        """Controls by that word; else those patients that a condition chooses."""
        if text == "controls":
            return (base["group"] == self.cohort.control).to_numpy(bool)
        own: _Mask = _chosen(base, text) & (base["group"] == self.cohort.patient).to_numpy(bool)
        return own

    def patients(self, visit: Hashable | None = None) -> pd.DataFrame:
        wanted = self.cohort.visits[0] if visit is None else visit
        if wanted not in self.seen:
            rows = self.cohort.at(wanted)
            self.seen[wanted] = rows[rows["group"] == self.cohort.patient]
        return self.seen[wanted]

    def covariates(self, rows: pd.DataFrame) -> _Array | None:
        if not self.spec.covariates:
            return None
        return np.column_stack([coded(rows[name]) for name in self.spec.covariates])

    # ---- kinds

    def difference(self) -> list[dict[str, Any]]:
        rows, first = self.sides()
        extra = self.covariates(rows)
        weak = dict(self.spec.weakness)
        found = []
        for name in self.names:
            y = self.numbers(rows, name)
            own = compare_adjusted(y, first, extra, level=self.level)
            row = {
                "measure": name,
                "n_first": own.n_first,
                "n_second": own.n_second,
                "n_missing": own.n_missing,
                "difference": own.difference,
                "percent": own.percent.value,
                "low": own.percent.low,
                "high": own.percent.high,
                "bounds": own.percent.bounds,
                "p_paper": own.p,
                "p_best": self.permuted(rows, y, first, extra) if own.p == own.p else math.nan,
                "note": own.note,
            }
            if weak:
                row.update(self.weak(rows, first, weak.get(name)))
            found.append(row)
        return found

    def permuted(self, rows: pd.DataFrame, y: _Array, first: _Mask, extra: _Array | None) -> float:
        keep = np.isfinite(y)
        if extra is not None:
            keep &= np.isfinite(extra).all(axis=1)
        sites = rows["site"].to_numpy()[keep] if "site" in rows else None
        varying = None if extra is None else extra[keep]
        try:
            return permute_adjusted(
                y[keep], first[keep], varying, sites=sites, n_draws=self.n_draws, rng=self.rng
            )
        except NumericsError:
            return math.nan

    def weak(self, rows: pd.DataFrame, first: _Mask, name: str | None) -> dict[str, Any]:
        """Share of the first group that is not of full strength."""
        empty = {"weak_n": 0, "weak": math.nan, "weak_low": math.nan, "weak_high": math.nan}
        if name is None or name not in rows:
            return empty
        score = self.numbers(rows[first], name)
        score = score[np.isfinite(score)]
        if not len(score):
            return empty
        count = int((score < 5).sum())
        low, high = proportion_interval(count, len(score), kind="logit", level=self.level)
        wilson = proportion_interval(count, len(score), kind="wilson", level=self.level)
        return {
            "weak_n": len(score),
            "weak": count / len(score),
            "weak_low": low,
            "weak_high": high,
            "weak_low_best": wilson[0],
            "weak_high_best": wilson[1],
        }

    def ranks(self) -> list[dict[str, Any]]:
        rows, first = self.sides()
        found = []
        for name in self.names:
            y = self.numbers(rows, name)
            a, b = (y[side & np.isfinite(y)] for side in (first, ~first))
            own = compare_numbers(a, b, "mann-whitney")
            exact = permute_groups(a, b, of="rank", n_draws=max(self.n_draws, 999), rng=self.rng)
            row: dict[str, Any] = {"measure": name, "n_first": len(a), "n_second": len(b)}
            row["n_missing"] = int((~np.isfinite(y)).sum())
            for side, values in (("first", a), ("second", b)):
                q1, median, q3 = quartiles(values, rule=self.spec.quartile_rule)  # type: ignore[arg-type]
                row.update({f"median_{side}": median, f"q1_{side}": q1, f"q3_{side}": q3})
            row.update({"p_paper": own.p, "p_best": exact.p, "note": own.note or exact.note})
            found.append(row)
        return found

    def listing(self) -> list[dict[str, Any]]:
        """Each patient's own values."""
        rows = self.patients() if self.names else self.patients()[:0]
        return [
            {"measure": row["participant_id"], **{name: row[name] for name in self.names}}
            for row in rows.to_dict("records")
        ]

    def slopes(self) -> list[dict[str, Any]]:
        rows = self.patients()
        extra = self.covariates(rows)
        found = []
        for outcome, predictor in self.spec.pairs:
            if outcome not in rows or predictor not in rows:
                continue
            y, x = self.numbers(rows, outcome), self.numbers(rows, predictor)
            own = regress(y, x, extra, level=self.level)
            rank = rank_correlation(x, y, level=self.level)
            found.append(
                {
                    "measure": outcome,
                    "against": predictor,
                    "n": own.n,
                    "n_missing": own.n_missing,
                    "mean": own.mean,
                    "sd": own.sd,
                    "slope": own.slope,
                    "low": own.low,
                    "high": own.high,
                    "p_paper": own.p,
                    "rho": rank.rho,
                    "p_best": rank.p,
                    "note": own.note,
                }
            )
        return found

    def correlations(self) -> list[dict[str, Any]]:
        rows = self.patients()
        found = []
        for name in self.names:
            for other in self.cohort.measures(self.spec.against):
                x, y = self.numbers(rows, name), self.numbers(rows, other)
                own = rank_correlation(x, y, level=self.level)
                found.append(
                    {"measure": name, "against": other, **_correlated(own), "p_paper": own.p}
                )
        return found

    def limbs(self) -> list[dict[str, Any]]:
        """Pairs of a limb's measure and its score, all limbs of all patients together."""
        rows = self.patients()
        usable = [(a, b) for a, b in self.spec.pairs if a in rows and b in rows]
        if not usable:
            return []
        x = np.concatenate([self.numbers(rows, a) for a, _ in usable])
        y = np.concatenate([self.numbers(rows, b) for _, b in usable])
        who = np.tile(rows["participant_id"].to_numpy(), len(usable))
        pooled = rank_correlation(x, y, level=self.level)
        own = clustered_correlation(x, y, who, level=self.level)
        return [
            {
                "measure": ", ".join(dict.fromkeys(a for a, _ in usable)),
                "against": ", ".join(dict.fromkeys(b for _, b in usable)),
                **_correlated(pooled),
                "p_paper": pooled.p,
                "low_best": own.low,
                "high_best": own.high,
                "n_participants": own.n_clusters,
                "p_best": own.p,
            }
        ]

    def course(self) -> list[dict[str, Any]]:
        frame = self.cohort.frame
        own = frame[frame["group"] == self.cohort.patient]
        who, when = own["participant_id"].tolist(), own["visit"].tolist()
        order = self.cohort.visits
        args: dict[str, Any] = {"order": order, "level": self.level, "months": self.cohort.months}
        found = []
        for name in self.names:
            y = self.numbers(own, name)
            paper = course_of(y, who, when, mode="paper", **args)
            best = course_of(y, who, when, mode="best", **args)
            for place, (one, other) in enumerate(zip(paper.changes, best.changes, strict=True), 1):
                if self.spec.visits and place not in self.spec.visits:
                    continue
                change = self.changes(name, one.visit)
                left = pattern_mixture(
                    best, y, who, when, order=order, months=self.cohort.months, visit=one.visit,
                    level=self.level,
                )  # fmt: skip
                srm = response_mean(change, kind="noncentral", level=self.level)
                row = {"measure": name, "visit": one.visit, "n": one.n, "n_pairs": one.n_pairs}
                for mode, part in (("paper", one), ("best", other)):
                    row.update(
                        {
                            f"change_{mode}": part.change.value,
                            f"low_{mode}": part.change.low,
                            f"high_{mode}": part.change.high,
                            f"percent_{mode}": part.percent.value,
                            f"percent_low_{mode}": part.percent.low,
                            f"percent_high_{mode}": part.percent.high,
                            f"p_{mode}": part.change.p,
                        }
                    )
                row.update(
                    {
                        "srm": srm.value,
                        "srm_low": srm.low,
                        "srm_high": srm.high,
                        "variance_ratio": paper.variance_ratio,
                        "n_per_arm": _per_arm(srm.mean, srm.sd),
                        **_sensitivity(left),
                        "model_best": best.method,
                        "note": best.note or srm.note,
                    }
                )
                found.append(row)
        return found

    def changes(self, name: str, visit: Hashable) -> _Array:
        """Change of each patient who has both values, NaN for others."""
        before, after = self.patients(), self.patients(visit)
        later = pd.Series(self.numbers(after, name), index=after.index).reindex(before.index)
        return later.to_numpy(float) - self.numbers(before, name)

    def pairs(self) -> list[dict[str, Any]]:
        """Medians of ordinal scores over visits."""
        found = []
        for visit in self.cohort.visits[1:]:
            for name in self.names:
                before = self.numbers(self.patients(), name)
                change = self.changes(name, visit)
                own = compare_pairs(before, before + change)
                known = np.isfinite(change)
                found.append(
                    {
                        "measure": name,
                        "visit": visit,
                        "n_pairs": own.n_first,
                        "n_changed": own.n_second,
                        "median_before": float(np.median(before[known])) if known.any() else np.nan,
                        "median_change": float(np.median(change[known])) if known.any() else np.nan,
                        "p_paper": own.p,
                        "note": own.note,
                    }
                )
        return found

    def predictors(self) -> list[dict[str, Any]]:
        """Change of strength on the first visit's measure, of all and of the strong."""
        base = self.patients()
        found = []
        for visit in self.cohort.visits[1:]:
            for outcome, predictor in self.spec.pairs:
                if outcome not in base or predictor not in base:
                    continue
                change = self.changes(outcome, visit)
                x = self.numbers(base, predictor)
                strong = self.numbers(base, outcome) >= 5
                row: dict[str, Any] = {"measure": outcome, "against": predictor, "visit": visit}
                for name, keep, p in (
                    ("", np.isfinite(change), "paper"),
                    ("_strong", strong, "strong"),
                ):
                    own = regress(change[keep], x[keep], level=self.level)
                    row.update(
                        {
                            f"n{name}": own.n,
                            f"slope{name}": own.slope,
                            f"low{name}": own.low,
                            f"high{name}": own.high,
                            f"p_{p}": own.p,
                        }
                    )
                found.append(row)
        return found

    def readers(self) -> list[dict[str, Any]]:
        rows, ill = self.sides()
        found: list[dict[str, Any]] = []
        readings = {name: self.numbers(rows, name) for name in self.names}
        for name, reading in readings.items():
            keep = np.isfinite(reading)
            shares = reader_accuracy(reading[keep] > 0, ill[keep], level=self.level)
            for measure in MEASURES:
                one = shares[measure]
                found.append(
                    {
                        "measure": name,
                        "of": measure,
                        "count": one.count,
                        "n": one.n,
                        "percent": 100 * one.value,
                        "low": 100 * one.wilson[0],
                        "high": 100 * one.wilson[1],
                        "low_exact": 100 * one.exact[0],
                        "high_exact": 100 * one.exact[1],
                        "n_missing": int((~keep).sum()),
                    }
                )
        for index, first in enumerate(self.names):
            for second in self.names[index + 1 :]:
                a, b = readings[first], readings[second]
                keep = np.isfinite(a) & np.isfinite(b)
                own = kappa(a, b, weights="none", level=self.level)
                p, n_first, n_second = compare_readers(
                    (a[keep] > 0) == ill[keep], (b[keep] > 0) == ill[keep]
                )
                found.append(
                    {
                        "measure": f"{first}, {second}",
                        "of": "kappa",
                        "n": own.n,
                        "value": own.value,
                        "low": own.low,
                        "high": own.high,
                        "p_mcnemar": p,
                        "note": own.note or f"right alone: {n_first} and {n_second}",
                    }
                )
        return found

    def misread(self) -> list[dict[str, Any]]:
        """Scores of patients who were read rightly against those who were not, by reader."""
        rows = self.patients()
        found = []
        for reader in self.names:
            reading = self.numbers(rows, reader)
            for name in self.cohort.measures(self.spec.against):
                y = self.numbers(rows, name)
                keep = np.isfinite(y) & np.isfinite(reading)
                a, b = y[keep & (reading > 0)], y[keep & (reading <= 0)]
                own = compare_numbers(a, b, "mann-whitney")
                exact = permute_groups(
                    a, b, of="rank", n_draws=max(self.n_draws, 999), rng=self.rng
                )
                row: dict[str, Any] = {"measure": name, "of": reader}
                for side, values in (("right", a), ("wrong", b)):
                    row[f"n_{side}"] = len(values)
                    row[f"mean_{side}"] = values.mean() if len(values) else np.nan
                    row[f"sd_{side}"] = values.std(ddof=1) if len(values) > 1 else np.nan
                row.update({"p_paper": own.p, "p_best": exact.p, "note": own.note})
                found.append(row)
        return found

    def areas(self) -> list[dict[str, Any]]:
        """Areas under the ROC curve of measures that tell the first group from the second."""
        rows, ill = self.sides()
        found: list[dict[str, Any]] = []
        best: tuple[str, _Array] | None = None
        for name in self.names:
            y = self.numbers(rows, name)
            n_ill, n_well = (int((np.isfinite(y) & side).sum()) for side in (ill, ~ill))
            row: dict[str, Any] = {"measure": name, "n_first": n_ill, "n_second": n_well}
            row["n_missing"] = int((~np.isfinite(y)).sum())
            if min(n_ill, n_well) < 2:
                note = "a group has fewer than 2 values"
                found.append({**row, "area": math.nan, "against": "", "of": "", "note": note})
                continue
            own = roc(y, ill, level=self.level)
            if own.area < 0.5:
                y = -y
                own = roc(y, ill, level=self.level)
                row["of"] = "falls in patients"
            else:
                row["of"] = "rises in patients"
            row.update({"area": own.area, "low": own.low, "high": own.high})
            row["p_paper"] = compare_numbers(
                y[ill & np.isfinite(y)], y[~ill & np.isfinite(y)], "mann-whitney"
            ).p
            row["against"] = ""
            if best is not None:
                both = np.isfinite(y) & np.isfinite(best[1])
                row["against"] = best[0]
                if min((both & ill).sum(), (both & ~ill).sum()) < 2:
                    row["note"] = "a group has fewer than 2 members with both measures"
                else:
                    row["difference"], row["p_against"] = compare_areas(y, best[1], ill)
            best = best or (name, y)
            found.append(row)
        return found

    def agreement(self) -> list[dict[str, Any]]:
        """Grades of a muscle by two methods."""
        rows = self.patients()
        found = []
        for one, other in self.spec.pairs:
            if one not in rows or other not in rows:
                continue
            a, b = np.round(self.numbers(rows, one)), self.numbers(rows, other)
            own = kappa(a, b, weights="linear", level=self.level)
            found.append(
                {
                    "measure": one,
                    "against": other,
                    "n": own.n,
                    "equal_percent": 100 * own.observed,
                    "kappa_linear": own.value,
                    "low": own.low,
                    "high": own.high,
                    "note": own.note,
                }
            )
        return found

    def shares(self) -> list[dict[str, Any]]:
        """Findings such as atrophy of all muscles together, pooled and by participant."""
        rows, first = self.sides()
        if not self.names:
            return []
        values = np.column_stack([self.numbers(rows, name) for name in self.names])
        counts = [[int((values[side] > 0).sum()) for side in (first, ~first)]]
        counts.append([int((values[side] == 0).sum()) for side in (first, ~first)])
        pooled = compare_counts(counts, "chi-squared")
        known = np.asarray(np.isfinite(values).any(axis=1))
        share = np.array(
            [
                np.mean(own[np.isfinite(own)] > 0) if k else np.nan
                for own, k in zip(values, known, strict=True)
            ]
        )
        own = permute_groups(
            share[known & first], share[known & ~first], of="mean",
            n_draws=max(self.n_draws, 999), rng=self.rng,
        )  # fmt: skip
        row: dict[str, Any] = {"measure": f"{len(self.names)} findings"}
        for place, side in enumerate(("first", "second")):
            n = counts[0][place] + counts[1][place]
            row[f"count_{side}"], row[f"n_{side}"] = counts[0][place], n
            row[f"percent_{side}"] = 100 * counts[0][place] / n if n else math.nan
        row.update({"p_paper": pooled.p, "p_best": own.p, "note": pooled.note or own.note})
        return [row]


KINDS: dict[str, Callable[[_Maker], list[dict[str, Any]]]] = {
    "difference": _Maker.difference,
    "ranks": _Maker.ranks,
    "listing": _Maker.listing,
    "slopes": _Maker.slopes,
    "correlations": _Maker.correlations,
    "limbs": _Maker.limbs,
    "course": _Maker.course,
    "pairs": _Maker.pairs,
    "predictors": _Maker.predictors,
    "readers": _Maker.readers,
    "misread": _Maker.misread,
    "agreement": _Maker.agreement,
    "areas": _Maker.areas,
    "shares": _Maker.shares,
}


def _correlated(own: Any) -> dict[str, Any]:
    return {
        "n": own.n,
        "n_missing": own.n_missing,
        "rho": own.rho,
        "low": own.low,
        "high": own.high,
        "note": own.note,
    }


def _sensitivity(own: Sensitivity) -> dict[str, Any]:
    """Change if those who left had gone on at their own rate, and what would tip the result."""
    rates = next((s for s in own.scenarios if "own rate" in s.name), None)
    return {
        "n_left": own.n_left,
        "change_own_rate": rates.value if rates else math.nan,
        "low_own_rate": rates.low if rates else math.nan,
        "high_own_rate": rates.high if rates else math.nan,
        "tipping": own.tipping,
    }


def _per_arm(mean: float, sd: float) -> float:
    """Participants per arm of a trial that halves the change, with power of 80 %."""
    if not (math.isfinite(mean) and math.isfinite(sd) and sd > 0):
        return math.nan
    return participants_per_arm(mean, sd, effect=0.5, power=0.8, alpha=_ALPHA)


def coded(values: pd.Series) -> _Array:
    """Numbers of a covariate: text of two values as 0 and 1.

    Parameters
    ----------
    values : Series
        Numbers, or text; None or NaN where missing.

    Returns
    -------
    (n,) array
        NaN where missing.

    Raises
    ------
    DataError
        If text has more than two values.

    Examples
    --------
    >>> coded(pd.Series(["F", "M", None])).tolist()
    [0.0, 1.0, nan]
    """
    if pd.api.types.is_numeric_dtype(values):
        return values.to_numpy(float)
    labels = sorted({str(v) for v in values if isinstance(v, str)})
    if len(labels) > 2:
        raise DataError(
            f"{values.name} has {len(labels)} labels ({', '.join(labels[:4])}); a covariate of "
            "text may have two; give numbers or leave it out"
        )
    return np.array([labels.index(v) if isinstance(v, str) else math.nan for v in values], float)


def _chosen(base: pd.DataFrame, text: str) -> _Mask:
    """Rows that ``column=value``, ``column>=3`` or ``column<3`` chooses."""
    for sign in (">=", "<", "="):
        column, found, value = text.partition(sign)
        if found:
            if column not in base:
                return np.zeros(len(base), bool)
            if sign == "=":
                return (base[column].astype(object) == value).to_numpy(bool)
            numbers = pd.to_numeric(base[column], errors="coerce")
            own = numbers >= float(value) if sign == ">=" else numbers < float(value)
            return own.to_numpy(bool)
    raise SettingsError(f"group '{text}' is none; give column=value, column>=3 or column<3")
