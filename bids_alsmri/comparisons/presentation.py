"""Tables of the papers as they are printed: text in cells, an asterisk where a result survives."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any

import pandas as pd

from bids_alsmri.stats.tables import ResultTable

_ALPHA = 0.05
_ENDINGS = ("_paper", "_best")


def presented(result: ResultTable, *, mode: str) -> pd.DataFrame:
    """Cells of a table, as text.

    Parameters
    ----------
    result : ResultTable
        Of a cohort.
    mode : {"paper", "best"}
        Whose estimates and p-values stand first; the others' p-value stands beside it.

    Returns
    -------
    DataFrame
        One row per test; estimates with interval in one cell, p-values with ``*`` where the
        adjusted one is 0.05 or less, and ``differs`` marked.

    Examples
    --------
    >>> import numpy as np
    >>> from bids_alsmri.stats.tables import Cohort, TableSpec, make_table
    >>> frame = pd.DataFrame({"participant_id": list("abcdefgh"), "visit": 0,
    ...     "group": ["als"] * 4 + ["hc"] * 4, "t2": [5.0, 6, 7, 8, 1, 2, 3, 4]})
    >>> spec = TableSpec("t", "T", "own", "difference", measures=("t2",))
    >>> found = make_table(Cohort(frame, "als", "hc", (0,), (0.0,)), spec, level=0.95, n_draws=99,
    ...     rng=np.random.default_rng(0))
    >>> presented(found, mode="paper").iloc[0].tolist()[:4]
    ['t2', '4, 4', '0', '160.0 (47.4, 618.0)']
    """
    spec, frame = result.spec, result.frame
    other = "best" if mode == "paper" else "paper"
    if spec.kind == "listing":
        return _listed(frame, spec.decimals)
    rows = []
    for row in frame.to_dict("records"):
        cells = _cells(row, spec.decimals, mode)
        for name, one in (("p", mode), (f"p ({other})", other)):
            if f"p_{one}" in row:
                cells[name] = p_with_star(
                    row[f"p_{one}"], row.get(f"q_{one}", math.nan), spec.family
                )
        for key, name in (
            ("p_strong", "p, strong"),
            ("p_mcnemar", "McNemar p"),
            ("p_against", "p, difference of areas"),
        ):
            if key in row:
                cells[name] = p_with_star(row[key], row.get(f"q{key[1:]}", math.nan), spec.family)
        if "differs" in row:
            cells["decide otherwise"] = "yes" if row["differs"] else ""
        note = row.get("note", "")
        cells["note"] = note if isinstance(note, str) else ""
        rows.append(cells)
    found = pd.DataFrame(rows, dtype=object).fillna("")
    if spec.kind == "readers":
        # shares have no value of agreement, and that has no per cent: nothing is missing
        found = found.replace("n/a", "")
    empty = [c for c in found if c in ("note", "decide otherwise") and (found[c] == "").all()]
    return found.drop(columns=empty)


def _listed(frame: pd.DataFrame, decimals: int) -> pd.DataFrame:
    """Values of participants as they are, numbers with as many decimals as they need."""

    def cell(value: object) -> str:
        if isinstance(value, str):
            return value
        number = float(value) if isinstance(value, (int, float)) else math.nan
        return _number(number, 0 if number.is_integer() else decimals)

    names = ["participant", *(readable(name) for name in frame.columns[1:])]
    rows = [[cell(value) for value in row] for row in frame.itertuples(index=False)]
    return pd.DataFrame(rows, columns=names, dtype=object)


def readable(column: object) -> str:
    """Name of a measure in words.

    Parameters
    ----------
    column : object
        Such as ``muscle.relative_t2.right_deltoid``.

    Returns
    -------
    str
        Region first, what was measured behind it.

    Examples
    --------
    >>> readable("muscle.relative_t2.right_deltoid"), readable("alsfrs_r")
    ('right deltoid, relative T2', 'ALSFRS-R')
    """
    text = str(column)
    if text in _NAMES:
        return _NAMES[text]
    parts = text.split(".")
    if len(parts) > 2:
        place = [_PLACES.get(part, part) for part in parts[2:]]
        parts = [" ".join(place) + ", " + _MEASURES.get(parts[1], parts[1])]
    words = parts[-1].replace("_", " ")
    for start in ("munix", "musix", "cmap", "mrc", "umn"):
        if words.startswith(f"{start} "):
            words = start.upper() + words[len(start) :]
    return words


_PLACES = {"wm": "white matter", "gm": "grey matter", "csf": "CSF"}
_MEASURES = {
    **{f"{name}_mean": name.upper() for name in ("fa", "md", "ad", "rd", "tsc")},
    "tsc_corrected": "TSC corrected for blur",
    "adc": "ADC",
    "relative_t2": "relative T2",
}
_NAMES = {
    **{name: name.upper() for name in ("ppv", "npv", "frap", "aopp", "mmse", "fab", "nfl")},
    "alsfrs_r": "ALSFRS-R",
    "el_escorial": "El Escorial class",
    "mrc_sum": "MRC sum",
    "umn_score": "UMN score",
    "rate_per_month": "rate (points per month)",
    "disease_duration_months": "duration (months)",
}


def _cells(row: Mapping[Hashable, Any], decimals: int, mode: str) -> dict[str, str]:
    """Cells before the p-values."""
    cells = {"measure": ", ".join(readable(m) for m in str(row["measure"]).split(", "))}
    if "of" in row:
        cells["of"] = readable(row["of"])
    if "against" in row:
        cells["against"] = ", ".join(readable(m) for m in str(row["against"]).split(", "))
    if "visit" in row:
        cells["visit"] = str(row["visit"]).removeprefix("ses-")
    for first, second in (("n_first", "n_second"), ("n_right", "n_wrong")):
        if first in row:
            cells["n"] = f"{row[first]:.0f}, {row[second]:.0f}"
    for key, name in (("n", "n"), ("n_pairs", "pairs"), ("n_missing", "missing")):
        if (key in row and "n_first" not in row) or (key == "n_missing" and key in row):
            cells[name] = _number(row.get(key, math.nan), 0)
    if "percent" in row:
        cells["%"] = _interval(row["percent"], row["low"], row["high"], decimals, row.get("bounds"))
    if "weak" in row:
        cells["weak (MRC < 5)"] = _interval(row["weak"], row["weak_low"], row["weak_high"], 2)
    for side in ("first", "second"):
        if f"median_{side}" in row:
            median, q1, q3 = (row[f"{key}_{side}"] for key in ("median", "q1", "q3"))
            cells[f"median (quartiles), {side}"] = _interval(median, q1, q3, decimals)
        if f"percent_{side}" in row:
            count = f"{row[f'count_{side}']:.0f} of {row[f'n_{side}']:.0f}"
            cells[f"%, {side}"] = f"{_number(row[f'percent_{side}'], decimals)} ({count})"
    for side in ("right", "wrong"):
        if f"mean_{side}" in row:
            mean, sd = row[f"mean_{side}"], row[f"sd_{side}"]
            cells[f"mean (SD), read {side}"] = (
                f"{_number(mean, decimals)} ({_number(sd, decimals)})"
            )
    if "mean" in row:
        cells["mean (SD)"] = f"{_number(row['mean'], decimals)} ({_number(row['sd'], decimals)})"
    for key, name in (("slope", "slope"), ("value", "value"), ("kappa_linear", "kappa")):
        if key in row:
            cells[name] = _interval(
                row[key], row["low"], row["high"], max(decimals, 2 * (key != "slope"))
            )
    if "slope_strong" in row:
        strong = [row[f"{key}_strong"] for key in ("slope", "low", "high")]
        cells["slope, strong"] = _interval(strong[0], strong[1], strong[2], decimals)
    if "rho" in row and "slope" not in row:
        cells["rho"] = _interval(row["rho"], row["low"], row["high"], 2)
        if "low_best" in row:
            cells["clustered interval"] = f"{row['low_best']:.2f}, {row['high_best']:.2f}"
    if f"change_{mode}" in row:
        own = [row[f"{key}_{mode}"] for key in ("change", "low", "high")]
        cells["change"] = _interval(own[0], own[1], own[2], max(decimals, _digits(own[0])))
        own = [row[f"{key}_{mode}"] for key in ("percent", "percent_low", "percent_high")]
        cells["change (%)"] = _interval(own[0], own[1], own[2], 1)
        cells["SRM"] = _interval(row["srm"], row["srm_low"], row["srm_high"], 2)
        cells["variance ratio"] = _number(row["variance_ratio"], 2)
        cells["n per arm"] = _number(row["n_per_arm"], 0)
        if "n_left" in row:
            own = [row[f"{key}_own_rate"] for key in ("change", "low", "high")]
            cells["left"] = _number(row["n_left"], 0)
            cells["change, own rates of those who left"] = _interval(
                own[0], own[1], own[2], max(decimals, _digits(own[0]))
            )
    if "median_change" in row:
        cells["median before"] = _number(row["median_before"], decimals)
        cells["median change"] = _number(row["median_change"], decimals)
    if "area" in row:
        cells["area"] = _interval(
            row["area"], row.get("low", math.nan), row.get("high", math.nan), decimals
        )
    if "equal_percent" in row:
        cells["equal (%)"] = _number(row["equal_percent"], 0)
    return cells


def _digits(value: float) -> int:
    """Decimals that leave two digits of a small number."""
    if not math.isfinite(value) or value == 0:
        return 0
    return max(0, 1 - math.floor(math.log10(abs(value))))


def _number(value: Any, decimals: int) -> str:
    number = float(value)
    if math.isnan(number):
        return "n/a"
    if math.isinf(number):
        return "∞" if number > 0 else "−∞"
    text = f"{number:.{decimals}f}"
    # what rounds to zero has no sign
    return (text if float(text) else f"{0:.{decimals}f}").replace("-", "−")


def _interval(value: Any, low: Any, high: Any, decimals: int, bounds: Any = "bounded") -> str:
    if math.isnan(float(value)):
        return "n/a"
    ends = f"{_number(low, decimals)}, {_number(high, decimals)}"
    if bounds == "outside":
        ends = f"not between {ends.replace(', ', ' and ')}"
    elif bounds == "all":
        ends = "unbounded"
    elif math.isnan(float(low)) and math.isnan(float(high)):
        ends = "n/a"
    return f"{_number(value, decimals)} ({ends})"


def p_with_star(p: float, q: float, family: str) -> str:
    """p-value with an asterisk where it survives its family.

    Parameters
    ----------
    p, q : float
        Plain and adjusted.
    family : {"table", "none"}
        Whether there is a family.

    Returns
    -------
    str
        As papers print it.

    Examples
    --------
    >>> p_with_star(0.0004, 0.01, "table"), p_with_star(0.03, 0.08, "table")
    ('<0.001*', '0.030')
    """
    if math.isnan(p):
        return "n/a"
    text = "<0.001" if p < 0.001 else f"{p:.3f}"
    return text + ("*" if family == "table" and q <= _ALPHA else "")
