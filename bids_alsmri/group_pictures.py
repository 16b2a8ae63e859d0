"""Figures of the clinical tables, each beside its table on the page of the group."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bids_alsmri.bids.sink import write_atomically
from bids_alsmri.comparisons.presentation import p_with_star, readable
from bids_alsmri.engine.group_graph import FIGURES
from bids_alsmri.pipelines.muscle.drawing import CHART
from bids_alsmri.reports.clinical_plots import Course, draw_courses, draw_forest, draw_responses
from bids_alsmri.reports.clinical_points import (
    Cloud,
    Curve,
    Scatter,
    draw_clouds,
    draw_roc,
    draw_scatters,
)
from bids_alsmri.reports.figures import draw_body_chart, save_figure
from bids_alsmri.reports.page import Figure
from bids_alsmri.settings import RunSettings
from bids_alsmri.stats.agreement import reader_accuracy, roc
from bids_alsmri.stats.association import line_band
from bids_alsmri.stats.tables import Cohort, ResultTable, TableSpec, sides_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure

_LEVEL = 0.95  # of what is drawn
_ALPHA = 0.05
MOST_PANELS = 6  # of measures with the smallest p; all stand in the table
FEWEST_ON_BODY = 4  # muscles, for a body to be drawn


def camel(name: str) -> str:
    """Label of a file for the name of a table.

    Parameters
    ----------
    name : str
        Such as ``jenkins_table1``.

    Returns
    -------
    str
        Letters and numbers alone.

    Examples
    --------
    >>> camel("jenkins_table1")
    'jenkinsTable1'
    """
    first, *others = name.split("_")
    return first + "".join(word.capitalize() for word in others)


def one_figure(
    settings: RunSettings, desc: str, title: str, caption: str, figure: MatplotlibFigure
) -> tuple[Figure, ...]:
    """Save a figure of the group.

    Parameters
    ----------
    settings : RunSettings
        Give the output folder.
    desc : str
        Label of the file.
    title, caption : str
        For the page.
    figure : matplotlib.figure.Figure
        What to save, as SVG.

    Returns
    -------
    tuple of Figure
        One, for the page.
    """
    path = settings.output_dir / FIGURES / f"desc-{desc}_stats.svg"
    write_atomically(path, lambda temporary: save_figure(figure, temporary))
    return (Figure(title, caption, (path,)),)


def figures_of(settings: RunSettings, result: ResultTable, cohort: Cohort) -> Iterator[Figure]:
    """Draw what suits the kind of a table.

    Parameters
    ----------
    settings : RunSettings
        Give the output folder.
    result : ResultTable
        The table.
    cohort : Cohort
        Of which it was made.

    Yields
    ------
    Figure
        Those that have something to show.
    """
    kind, spec = result.spec.kind, result.spec
    if kind == "difference":
        yield from _forest(settings, result)
        yield from _bodies(settings, result)
    if kind in ("difference", "ranks"):
        yield from _clouds(settings, result, cohort)
    if kind in ("correlations", "slopes"):
        yield from _scatters(settings, result, cohort)
    if kind == "limbs":
        yield from _limbs(settings, result, cohort)
    if kind in ("areas", "readers"):
        yield from _roc(settings, spec, result, cohort)
    if kind == "course":
        yield from _course_figures(settings, result, cohort)


def _forest(settings: RunSettings, result: ResultTable) -> Iterator[Figure]:
    spec, frame = result.spec, result.frame
    own = frame[(frame["bounds"] == "bounded") & frame["percent"].notna()]
    if len(own):
        rows = own.assign(
            name=[readable(m) for m in own["measure"]], survives=own["q_paper"] <= _ALPHA
        )
        figure = draw_forest(rows, title=spec.title, unit="difference (% of controls)")
        caption = (
            "Adjusted differences, patients less controls, with 95 % intervals; filled dots "
            "survive the false discovery rate."
        )
        yield from one_figure(settings, f"{camel(spec.name)}Forest", spec.title, caption, figure)


def _bodies(settings: RunSettings, result: ResultTable) -> Iterator[Figure]:
    """Differences or response means of muscles, one body for each kind of measure."""
    frame, spec = result.frame, result.spec
    column, label = ("percent", "difference (%)") if "percent" in frame else ("srm", "SRM")
    parts = frame["measure"].str.split(".", n=2, expand=True)
    if parts.shape[1] < 3:
        return
    panels: list[tuple[str, dict[tuple[str, str], float]]] = []
    marked = []
    for measure in dict.fromkeys(parts.loc[parts[0] == "muscle", 1]):
        own = frame[(parts[0] == "muscle") & (parts[1] == measure)]
        places = [_on_body(place) for place in parts.loc[own.index, 2]]
        values = dict(zip(places, own[column].astype(float), strict=True))
        n_drawn = sum(place[0] in CHART and np.isfinite(v) for place, v in values.items())
        if n_drawn < FEWEST_ON_BODY:
            continue
        words = readable(f"a.{measure}.b").partition(", ")[2]
        panels.append((f"{words}: {label}", values))
        survive = (own["q_paper"] <= _ALPHA).tolist()
        marked.append({place for place, s in zip(places, survive, strict=True) if s})
    if panels:
        caption = (
            "The muscles of Jenkins 2020 on a body seen from behind, by colour about zero; grey is "
            "not measured, an asterisk survives the false discovery rate of the table."
        )
        figure = draw_body_chart(
            panels[:2], CHART, marked=marked, is_difference=True, title=spec.title
        )
        yield from one_figure(settings, f"{camel(spec.name)}Body", "On the body", caption, figure)


def _on_body(place: str) -> tuple[str, str]:
    """Region and side of the chart, of a place such as ``left_biceps_brachii``."""
    side, _, region = place.partition("_")
    if side not in ("left", "right"):
        side, region = "n/a", place
    return region.replace("_", " "), side


def _strongest(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows with the smallest p, in the order of the table."""
    known = frame[frame["p_paper"].notna()]
    return known.loc[sorted(known["p_paper"].nsmallest(MOST_PANELS).index)]


def _clouds(settings: RunSettings, result: ResultTable, cohort: Cohort) -> Iterator[Figure]:
    spec = result.spec
    rows, is_first = sides_of(cohort, spec)
    names = [_group(text) for text in spec.groups] or ["patients", "controls"]
    clouds = []
    for row in _strongest(result.frame).to_dict("records"):
        y = _numbers(rows, str(row["measure"]))
        groups = {names[0]: y[is_first], names[1]: y[~is_first]}
        if any(np.isfinite(values).any() for values in groups.values()):
            text = f"p = {p_with_star(row['p_paper'], row.get('q_paper', 1.0), spec.family)}"
            unit = _unit(cohort, str(row["measure"]))
            clouds.append(Cloud(readable(row["measure"]), unit, groups, text.replace("= <", "< ")))
    if clouds:
        caption = (
            "Each participant at the first visit, the box of quartiles and median, and the shape "
            f"of the distribution; at most the {MOST_PANELS} measures with the smallest p by the "
            "paper's test. An asterisk survives the false discovery rate."
        )
        figure = draw_clouds(clouds, title=spec.title)
        yield from one_figure(settings, f"{camel(spec.name)}Clouds", "Groups", caption, figure)


def _group(text: str) -> str:
    return text.partition("=")[2] if "=" in text and ">" not in text else text.replace("_", " ")


def _scatters(settings: RunSettings, result: ResultTable, cohort: Cohort) -> Iterator[Figure]:
    base = cohort.baseline
    rows = base[base["group"] == cohort.patient]
    spec = result.spec
    scatters = []
    for row in _strongest(result.frame).to_dict("records"):
        outcome, other = str(row["measure"]), str(row["against"])
        # a slope is of the clinical outcome on the image; a correlation has the image first
        x_name, y_name = (other, outcome) if spec.kind == "slopes" else (outcome, other)
        x, y = _numbers(rows, x_name), _numbers(rows, y_name)
        text = f"rho = {row['rho']:.2f}, n = {row['n']:.0f}".replace("-", "−")
        band = line_band(x, y, level=_LEVEL)
        titles = [_titled(cohort, name) for name in (x_name, y_name)]
        scatters.append(Scatter(titles[0], titles[1], x, y, band, text))
    if scatters:
        caption = (
            "Each patient at the first visit, with a straight line by least squares and the 95 % "
            f"interval of its height; at most the {MOST_PANELS} pairs with the smallest p."
        )
        figure = draw_scatters(scatters, title=spec.title)
        yield from one_figure(settings, f"{camel(spec.name)}Scatter", "Pairs", caption, figure)


def _limbs(settings: RunSettings, result: ResultTable, cohort: Cohort) -> Iterator[Figure]:
    base = cohort.baseline
    rows = base[base["group"] == cohort.patient]
    pairs = [(a, b) for a, b in result.spec.pairs if a in rows and b in rows]
    if not pairs:
        return
    x = np.concatenate([_numbers(rows, a) for a, _ in pairs])
    y = np.concatenate([_numbers(rows, b) for _, b in pairs])
    kinds = [b.removeprefix("umn_").replace("_", " ") for _, b in pairs for _ in range(len(rows))]
    row = result.frame.iloc[0]
    text = f"rho = {row['rho']:.2f}, {row['n']:.0f} limbs".replace("-", "−")
    scatter = Scatter(
        readable(pairs[0][0]).partition(", ")[2] or readable(pairs[0][0]),
        "upper motor neuron score of the limb", x, y, line_band(x, y, level=_LEVEL), text, kinds,
    )  # fmt: skip
    caption = (
        "Each limb of each patient; the band takes limbs as independent, the clustered interval "
        "stands in the table."
    )
    figure = draw_scatters([scatter], title=result.spec.title)
    yield from one_figure(settings, f"{camel(result.spec.name)}Scatter", "Limbs", caption, figure)


def _roc(
    settings: RunSettings, spec: TableSpec, result: ResultTable, cohort: Cohort
) -> Iterator[Figure]:
    rows, is_ill = sides_of(cohort, spec)
    curves: list[Curve] = []
    if spec.kind == "areas":
        for row in result.frame[result.frame["area"].notna()].head(MOST_PANELS).to_dict("records"):
            y = _numbers(rows, str(row["measure"]))
            own = roc(-y if row["of"] == "falls in patients" else y, is_ill, level=_LEVEL)
            text = f"{readable(row['measure'])}: {own.area:.2f} ({own.low:.2f}, {own.high:.2f})"
            curves.append(Curve(text, own.false_positive, own.true_positive))
    readers = []
    for name in sorted(str(c) for c in rows if str(c).startswith("reader")):
        reading = _numbers(rows, name)
        keep = np.isfinite(reading)
        if len(set(is_ill[keep].tolist())) < 2:
            continue
        shares = reader_accuracy(reading[keep] > 0, is_ill[keep], level=_LEVEL)
        point = np.array([1 - shares["specificity"].value]), np.array([shares["sensitivity"].value])
        readers.append(Curve(readable(name), *point))
    if curves or readers:
        figure = draw_roc(curves, readers, title=spec.title)
        caption = (
            "Sensitivity against 1 less specificity for all thresholds of a measure, with the area "
            "and its 95 % interval by DeLong; readers are single points."
        )
        yield from one_figure(settings, f"{camel(spec.name)}Roc", "ROC curves", caption, figure)


def _course_figures(settings: RunSettings, result: ResultTable, cohort: Cohort) -> Iterator[Figure]:
    spec, frame = result.spec, result.frame
    desc = camel(spec.name)
    last = frame[(frame["visit"] == frame["visit"].iloc[-1]) & frame["srm"].notna()]
    if len(last):
        rows = last.assign(name=[readable(m) for m in last["measure"]])
        figure = draw_responses(rows, title=f"Responsiveness: {spec.title.lower()}")
        caption = (
            "Standardised response means from the first to the last visit, ranked by size, "
            "with 95 % intervals by the non-central t; lines at 0.8."
        )
        yield from one_figure(settings, f"{desc}Responses", "Responsiveness", caption, figure)
        at_last = ResultTable(spec, last.drop(columns="percent", errors="ignore"))
        yield from _bodies(settings, at_last)
    strongest = last.reindex(last["srm"].abs().sort_values(ascending=False).index)
    names = [m for m in _panels(cohort) if m in set(frame["measure"])]
    names += [m for m in strongest["measure"] if m not in names]
    courses = [_course(cohort, m) for m in names[:4]]
    if courses:
        caption = (
            "Each line is a patient, by site of onset; the dashed black line is the patients' "
            "mean of those seen, the dashed magenta line that of the controls."
        )
        figure = draw_courses(courses, title=spec.title)
        yield from one_figure(settings, f"{desc}Courses", "Courses", caption, figure)


def _numbers(rows: pd.DataFrame, name: str) -> NDArray[np.float64]:
    return pd.to_numeric(rows[name], errors="coerce").to_numpy(float)


def _unit(cohort: Cohort, name: str) -> str:
    unit = str(cohort.units.get(name, ""))
    return "" if unit in ("1", "nan", "None", "n/a") else unit


def _titled(cohort: Cohort, name: str) -> str:
    unit = _unit(cohort, name)
    return f"{readable(name)} ({unit})" if unit else readable(name)


def _panels(cohort: Cohort) -> list[str]:
    """Jenkins 2020, figure 3."""
    start = "muscle.relative_t2."
    wanted = (f"{start}summary_mean", "region_of_onset", "muscle_of_onset")
    return [name for name in (*wanted, f"{start}right_tibialis_anterior") if name in cohort.frame]


def _course(cohort: Cohort, measure: str) -> Course:
    frame = cohort.frame
    own = frame[frame["group"] == cohort.patient]
    table = own.pivot(index="participant_id", columns="visit", values=measure)
    table = table.reindex(columns=list(cohort.visits))
    onset: dict[str, object] = {}
    if "onset_site" in own:
        firsts = own.drop_duplicates("participant_id")
        onset = dict(zip(firsts["participant_id"], firsts["onset_site"], strict=True))
    controls = frame[frame["group"] == cohort.control]
    means = [
        float(pd.to_numeric(controls.loc[controls["visit"] == v, measure]).mean())
        for v in cohort.visits
    ]
    return Course(
        readable(measure),
        cohort.units.get(measure, ""),
        cohort.months,
        table.to_numpy(float),
        tuple(str(onset.get(who, "unknown")) for who in table.index),
        np.array(means),
    )
