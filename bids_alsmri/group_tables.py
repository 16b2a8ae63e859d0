"""Clinical tables of the group level: from what is collected to tables, figures and sections."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bids_alsmri.bids.clinical import read_clinical_table
from bids_alsmri.bids.clinical_checks import CheckedTable, check_clinical
from bids_alsmri.bids.sink import sidecar_path, write_json, write_text
from bids_alsmri.collection import Finished, read_tables, visit_scores
from bids_alsmri.comparisons.depth_profiles import PROFILE_COLUMNS, cohort_profiles
from bids_alsmri.comparisons.presentation import presented, readable
from bids_alsmri.comparisons.settings import group_settings
from bids_alsmri.comparisons.tables import (
    REGION_COLUMNS,
    ScanMeasures,
    harmonise_cohort,
    make_cohort,
    participant_rows,
    profile,
    region_measures,
    with_atrophy,
)
from bids_alsmri.engine.pipeline import registry
from bids_alsmri.errors import AlsMriError
from bids_alsmri.group_pictures import camel, figures_of, one_figure
from bids_alsmri.group_planning import excluded_scans, visits_of, warnings_of_flags
from bids_alsmri.group_profiles import profile_section
from bids_alsmri.reports.clinical_plots import draw_responses, draw_visits
from bids_alsmri.reports.cortex import draw_group_profiles
from bids_alsmri.reports.page import Section
from bids_alsmri.reports.publication import html_table, latex_table
from bids_alsmri.reports.tables import Table
from bids_alsmri.settings import RunSettings
from bids_alsmri.stats.tables import Cohort, ResultTable, make_table, read_specs
from bids_alsmri.version import VERSION

if TYPE_CHECKING:
    from bids_alsmri.group_planning import GroupPlan

log = logging.getLogger(__name__)

# Of a table of results; the others are named by their words.
COLUMNS: Mapping[str, str] = {
    "measure": "Measure, by pipeline, kind and region, or clinical column",
    "against": "What it is set against",
    "visit": "Visit that is compared with the first",
    "percent": "Difference in per cent of the adjusted mean of the second group",
    "low": "Lower end of the interval",
    "high": "Upper end of the interval",
    "bounds": "bounded: between the ends; outside: all but what is between; all: every number",
    "p_paper": "Two-sided p-value by the paper's test",
    "p_best": "Two-sided p-value by the best choice",
    "q_paper": "The same adjusted for the false discovery rate of the family",
    "q_best": "That of the best choice, adjusted for the family",
    "differs": "Whether the two decide otherwise at 0.05",
    "srm": "Mean change of completers over its standard deviation",
    "change_own_rate": "Mean change if those who left had gone on at their own rate",
    "low_own_rate": "Lower end of its interval",
    "high_own_rate": "Upper end of its interval",
    "tipping": "By how much less those who left must have changed for the interval to reach 0",
    "n_left": "Patients who were seen first and not at that visit",
    "model_best": "Model of the best choice",
    "area": "Area under the ROC curve",
    "variance_ratio": "Variance between participants over all of it",
    "n_per_arm": "Participants per arm of a trial that halves the change, with power of 80 %",
    "n_missing": "Participants without a value",
    "z": "Standard deviations from the controls, adjusted for age and sex",
    "depth": "Depth beneath the outer surface of the cortex, in mm",
    "sd": "Standard deviation over participants",
    "z_change": "z less that of the first visit",
    "n_scores": "Measures with a z",
    "n_beyond_2": "Of these, more than 2 standard deviations from the controls",
}
# tables of regions that tell of labels, not of participants
NOT_OF_PEOPLE = ("raters",)
DEPTHS = "profiles"  # output with the signal of the cortex over depth
MOST_RANKED = 40  # measures in the figure of responses; all stand in the table


@dataclass(frozen=True)
class ClinicalResults:
    """Clinical tables of a cohort.

    Parameters
    ----------
    checked : CheckedTable
        Clinical values, and those that were rejected.
    cohort : Cohort
        All participants, visits and measures.
    tables : tuple of ResultTable
        Those of which the cohort has measures.
    profiles, participants : DataFrame
        Each participant against the controls: as of `bids_alsmri.comparisons.tables.profile`, and
        in one row each.
    covariates : tuple of str
        What these are adjusted for.
    warnings : tuple of str
        What could not be made, and what is suspect.
    depths : DataFrame
        Signal of the cortex over depth, of patients and controls.
    """

    checked: CheckedTable
    cohort: Cohort
    tables: tuple[ResultTable, ...]
    profiles: pd.DataFrame
    participants: pd.DataFrame
    covariates: tuple[str, ...]
    warnings: tuple[str, ...]
    depths: pd.DataFrame


def make_clinical(
    settings: RunSettings, plan: GroupPlan, finished: Mapping[str, Sequence[Finished]]
) -> ClinicalResults:
    """Make the papers' tables of what is there.

    Parameters
    ----------
    settings : RunSettings
        What was asked for.
    plan : GroupPlan
        Gives the clinical table and who is in which group.
    finished : mapping of sequence of Finished
        Scans of all pipelines.

    Returns
    -------
    ClinicalResults
        A table that cannot be made is named in the warnings, and the others are made.

    Raises
    ------
    SettingsError
        If the user's file of tables is faulty.
    """
    cfg = group_settings(settings)
    specs = read_specs(cfg.tables_file)
    is_patient = plan.labels["group"] == plan.names.patient
    # scans of pipelines without maps may be of visits that no comparison of maps has
    clinical = read_clinical_table(plan.clinical.root, visits=visits_of(finished, tuple(finished)))
    checked = check_clinical(
        clinical, patients=frozenset(plan.labels.loc[is_patient, "participant_id"])
    )
    warnings = list(checked.warnings)
    excluded = excluded_scans(settings, plan, finished, [])
    warnings += [f"{scan} {name}: left out: {why}" for (name, scan), why in excluded.items()]
    if not plan.modalities:
        keys = zip(plan.quality["modality"], plan.quality["scan"], strict=True)
        counts = np.array([key not in excluded for key in keys], bool)
        warnings += warnings_of_flags(plan.quality[counts])
    counted = {
        name: [scan for scan in scans if (name, scan.label) not in excluded]
        for name, scans in finished.items()
    }
    cohort = make_cohort(
        checked.table,
        plan.labels,
        [
            *scan_measures(settings, counted, warnings),
            *score_measures(visit_scores(settings, counted, [])),
        ],
        names=plan.names,
        time_column=cfg.time_column,
    )
    if cfg.site_column in cohort.frame:
        # permutations exchange within it
        cohort = replace(cohort, frame=cohort.frame.assign(site=cohort.frame[cfg.site_column]))
    covariates = [name for name in ("age", "sex") if name in cohort.frame]
    cohort = with_atrophy(cohort, covariates=[*covariates, "height_cm", "weight_kg"])
    if cfg.harmonise_sites:
        try:
            cohort, fits = harmonise_cohort(
                cohort, site_column=cfg.site_column, covariates=covariates
            )
            shrunk = sum(fit.is_shrunk for fit in fits)
            warnings.append(
                f"{len(fits)} kinds of measures were harmonised across sites, {shrunk} of them "
                "with empirical Bayes"
            )
        except AlsMriError as error:
            warnings.append(f"not harmonised: {error}")
    tables = []
    for number, spec in enumerate(specs.values()):
        try:
            made = make_table(
                cohort,
                spec,
                level=cfg.interval_level,
                n_draws=cfg.tables_permutations,
                rng=np.random.default_rng([settings.seed, number]),
            )
        except AlsMriError as error:
            warnings.append(f"table {spec.name} cannot be made: {error}")
            continue
        if made is not None:
            tables.append(made)
    profiles = profile(cohort, covariates=covariates)
    if len(profiles) and not profiles["z"].notna().any():
        most, what = int(profiles["n_controls"].max()), " and ".join(covariates) or "nothing"
        warnings.append(
            f"participants are not set against the controls: at most {most} have a measure, and "
            f"{4 + len(covariates)} are needed to adjust for {what} (3 more than coefficients); "
            "add controls"
        )
    who = cohort.frame.drop_duplicates("participant_id")
    groups = dict(zip(who["participant_id"].astype(str), who["group"].astype(str), strict=True))
    depths = cohort_profiles(depth_tables(settings, counted, warnings), groups)
    return ClinicalResults(
        checked,
        cohort,
        tuple(tables),
        profiles,
        participant_rows(profiles, cohort.visits),
        tuple(covariates),
        tuple(warnings),
        depths,
    )


def depth_tables(
    settings: RunSettings, finished: Mapping[str, Sequence[Finished]], faults: list[str]
) -> Iterator[tuple[str, str | None, pd.DataFrame]]:
    """Profiles across the cortex of all scans.

    Parameters
    ----------
    settings : RunSettings
        Give the output folder.
    finished : mapping of sequence of Finished
        Scans of all pipelines.
    faults : list of str
        Takes what cannot be read.

    Yields
    ------
    str, str or None, DataFrame
        Participant, session and table.
    """
    for name, scans in finished.items():
        for spec in registry()[name].io_spec.outputs.values():
            if spec.name != DEPTHS or spec.extension != ".tsv":
                continue
            for scan, table in read_tables(settings.output_dir, scans, spec, faults):
                if set(PROFILE_COLUMNS) <= set(table):
                    session = None if scan.session is None else f"ses-{scan.session}"
                    yield f"sub-{scan.participant}", session, table


def scan_measures(
    settings: RunSettings, finished: Mapping[str, Sequence[Finished]], faults: list[str]
) -> Iterator[ScanMeasures]:
    """Measures of regions of all scans, from every table of that form.

    Parameters
    ----------
    settings : RunSettings
        Give the output folder.
    finished : mapping of sequence of Finished
        Scans of all pipelines.
    faults : list of str
        Takes what cannot be read.

    Yields
    ------
    ScanMeasures
        One for each scan and table.
    """
    for name, scans in finished.items():
        for spec in registry()[name].io_spec.outputs.values():
            if not (spec.group and spec.extension == ".tsv") or spec.name in NOT_OF_PEOPLE:
                continue
            for scan, table in read_tables(settings.output_dir, scans, spec, faults):
                if set(REGION_COLUMNS) <= set(table):
                    session = None if scan.session is None else f"ses-{scan.session}"
                    yield ScanMeasures(
                        f"sub-{scan.participant}", session, region_measures(name, table)
                    )


def score_measures(scores: Sequence[pd.DataFrame]) -> Iterator[ScanMeasures]:
    """Scores of visits as measures, by their own names.

    Parameters
    ----------
    scores : sequence of DataFrame
        As of `bids_alsmri.collection.visit_scores`.

    Yields
    ------
    ScanMeasures
        One for each visit.
    """
    for table in scores:
        for (who, session), own in table.groupby(["participant_id", "session_id"], dropna=False):
            yield ScanMeasures(
                str(who),
                session if isinstance(session, str) else None,
                {str(n): (float(v), "1") for n, v in zip(own["score"], own["value"], strict=True)},
            )


def write_clinical(settings: RunSettings, results: ClinicalResults) -> list[Path]:
    """Write the tables, each as TSV with sidecar, HTML and LaTeX.

    Parameters
    ----------
    settings : RunSettings
        Give the output folder, and whose choice stands first.
    results : ClinicalResults
        Of the cohort.

    Returns
    -------
    list of Path
        All that was written but sidecars.
    """
    written = []
    folder = settings.output_dir / "group"
    for name, frame, text in (
        ("clinicalRejected", results.checked.rejected, "Clinical values that were rejected"),
        ("clinicalMissing", results.checked.missing, "Values and missing ones of clinical columns"),
        ("profiles", results.profiles, "Each participant against the controls of the dataset"),
        ("participants", results.participants, "One row per participant, against the controls"),
    ):
        path = folder / f"desc-{name}_stats.tsv"
        _write(path, frame, text, {})
        written.append(path)
    if len(results.depths):
        path = folder / "desc-cortexProfiles_stats.tsv"
        text = "Signal of the cortex at 7T over depth, over that of the superficial cortex"
        _write(path, results.depths, text, {})
        written.append(path)
    ranked = responsiveness(results.tables)
    if len(ranked):
        path = folder / "desc-responsiveness_stats.tsv"
        text = "Clinical, electrophysiological and imaging measures, ranked by response"
        _write(path, ranked, text, {})
        written.append(path)
    for result in results.tables:
        spec = result.spec
        path = folder / f"desc-{camel(spec.name)}_stats.tsv"
        facts = {"Source": spec.source, "Kind": spec.kind, "Family": spec.family}
        _write(path, result.frame, spec.title, {**facts, "Notes": list(result.notes)})
        cells = presented(result, mode=settings.mode)
        title = f"{spec.title} ({spec.source})"
        page, source = path.with_suffix(".html"), path.with_suffix(".tex")
        write_text(page, html_table(cells, title=title, notes=result.notes))
        write_text(source, latex_table(cells, title=title, label=spec.name, notes=result.notes))
        written += [path, page, source]
    return written


def _write(path: Path, frame: pd.DataFrame, text: str, facts: Mapping[str, object]) -> None:
    columns = {str(c): {"Description": _description(str(c))} for c in frame}
    content = {
        "Description": text,
        **facts,
        "SoftwareName": "bids_alsmri",
        "SoftwareVersion": VERSION,
        **columns,
    }
    write_json(sidecar_path(path), content)
    write_text(path, frame.to_csv(sep="\t", index=False, na_rep="n/a", float_format="%.6g"))


def _description(column: str) -> str:
    kind, _, measure = column.partition(".")
    if kind in ("z", "z_change"):
        return f"{readable(measure)}: {COLUMNS[kind]}"
    return COLUMNS.get(column, readable(column))


def origin_of(source: str) -> str:
    """Where a table comes from, as the beginning of a sentence.

    Parameters
    ----------
    source : str
        A paper and its table, or ``beyond the papers``.

    Returns
    -------
    str
        Without a full stop.

    Examples
    --------
    >>> origin_of("Jenkins 2020, table 2"), origin_of("beyond the papers")
    ('After Jenkins 2020, table 2', 'Beyond the papers')
    """
    return "Beyond the papers" if source.startswith("beyond") else f"After {source}"


def clinical_sections(settings: RunSettings, results: ClinicalResults) -> Iterator[Section]:
    """Sections of the page.

    Parameters
    ----------
    settings : RunSettings
        Give the output folder, and whose choice stands first.
    results : ClinicalResults
        Of the cohort.

    Yields
    ------
    Section
        Clinical data, one for each table, and participants against controls.
    """
    checked, cohort = results.checked, results.cohort
    yield Section(
        pipeline="Clinical tables",
        scan="Clinical data",
        status="done",
        warnings=results.warnings,
        figures=one_figure(
            settings,
            "visits",
            "Participants over visits",
            "Participants with any value at each visit, and those who have none any more.",
            draw_visits(_attendance(cohort)),
        ),
        tables=(
            Table(
                "Rejected values",
                "Values that cannot be; they count as missing.",
                checked.rejected,
                empty="No value was rejected.",
                path="group/desc-clinicalRejected_stats.tsv",
            ),
            Table(
                "Values and missing values",
                "Of each clinical column, rows of participants and visits.",
                checked.missing,
                path="group/desc-clinicalMissing_stats.tsv",
            ),
        ),
    )
    for result in results.tables:
        spec = result.spec
        name = camel(spec.name)
        yield Section(
            pipeline="Clinical tables",
            scan=spec.title,
            status="done",
            notes=(
                f"{origin_of(spec.source)}. An asterisk marks what survives the false discovery "
                "rate of the table (of each visit); 'paper' is the paper's test, 'best' the one "
                "that allows for ties, clusters and small samples.",
                *result.notes,
            ),
            figures=tuple(figures_of(settings, result, cohort)),
            tables=(
                Table(
                    spec.title,
                    "Also as HTML and LaTeX beside this table.",
                    presented(result, mode=settings.mode),
                    path=f"group/desc-{name}_stats.tsv",
                ),
            ),
        )
    ranked = responsiveness(results.tables)
    if ranked["table"].nunique() > 1:
        yield _ranking(settings, ranked)
    if len(results.depths):
        yield _depths(settings, results)
    if results.profiles["z"].notna().any():
        yield profile_section(
            settings,
            results.cohort,
            results.profiles,
            results.participants,
            list(results.covariates),
        )


def responsiveness(tables: Sequence[ResultTable]) -> pd.DataFrame:
    """Measures of all tables of change, ranked by their response to the last visit.

    Parameters
    ----------
    tables : sequence of ResultTable
        Those of the cohort.

    Returns
    -------
    DataFrame
        ``measure``, ``visit``, ``n_pairs``, ``srm``, ``srm_low``, ``srm_high``, ``variance_ratio``,
        ``n_per_arm`` and ``table``, the largest response by absolute value first; of a measure in
        several tables the first.
    """
    columns = ["measure", "visit", "n_pairs", "srm", "srm_low", "srm_high"]
    columns += ["variance_ratio", "n_per_arm"]
    parts = [
        one.frame.loc[
            (one.frame["visit"] == one.frame["visit"].iloc[-1]) & one.frame["srm"].notna(), columns
        ].assign(table=one.spec.title)
        for one in tables
        if one.spec.kind == "course"
    ]
    if not parts:
        return pd.DataFrame(columns=[*columns, "table"])
    found = pd.concat(parts, ignore_index=True).drop_duplicates(["measure", "visit"])
    order = np.argsort(-found["srm"].abs().to_numpy(float), kind="stable")
    ranked: pd.DataFrame = found.iloc[order].reset_index(drop=True)
    return ranked


def _ranking(settings: RunSettings, ranked: pd.DataFrame) -> Section:
    """All measures of change against each other."""
    shown = ranked.head(MOST_RANKED)
    rows = shown.assign(name=[readable(measure) for measure in shown["measure"]])
    title = "Responsiveness of all measures"
    caption = (
        "Clinical, electrophysiological and imaging measures together: standardised response means "
        "from the first to the last visit with 95 % intervals by the non-central t, the "
        f"{MOST_RANKED} largest by size."
    )
    cells = pd.DataFrame(
        {
            "measure": [readable(measure) for measure in ranked["measure"]],
            "of": ranked["table"],
            "pairs": ranked["n_pairs"],
            "SRM": ranked["srm"].round(2),
            "variance ratio": ranked["variance_ratio"].round(2),
            "n per arm": ranked["n_per_arm"],
        }
    )
    return Section(
        pipeline="Clinical tables",
        scan=title,
        status="done",
        figures=one_figure(
            settings, "responsiveness", title, caption, draw_responses(rows, title=title)
        ),
        tables=(
            Table(
                title,
                "Participants per arm: of a trial that halves the change, with a power of 80 %.",
                cells,
                path="group/desc-responsiveness_stats.tsv",
            ),
        ),
    )


def _depths(settings: RunSettings, results: ClinicalResults) -> Section:
    title = "Profiles across the cortex at 7T"
    names = (results.cohort.patient, results.cohort.control)
    caption = (
        "Signal of the motor areas over depth beneath the outer surface, over that of the "
        "superficial cortex of the same area: mean and standard deviation over participants, sides "
        "averaged, at the first visit with a slab. Numbers are participants; where fewer reach a "
        "depth, the line goes on as long as two do. Values stand in "
        "group/desc-cortexProfiles_stats.tsv."
    )
    return Section(
        pipeline="Clinical tables",
        scan=title,
        status="done",
        figures=one_figure(
            settings,
            "cortexProfiles",
            title,
            caption,
            draw_group_profiles(results.depths, patient=names[0], control=names[1]),
        ),
    )


def _attendance(cohort: Cohort) -> pd.DataFrame:
    frame = cohort.frame
    rows = []
    for group in (cohort.patient, cohort.control):
        own = frame[frame["group"] == group]
        n = own["participant_id"].nunique()
        for visit, months in zip(cohort.visits, cohort.months, strict=True):
            seen = int(own.loc[own["visit"] == visit, "participant_id"].nunique())
            name = str(visit).removeprefix("ses-")
            rows.append({"group": group, "visit": name, "months": months, "n": seen, "of": n})
    return pd.DataFrame(rows)
