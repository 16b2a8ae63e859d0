"""From a plan and what became of it to the tables and the page of the group."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd

from bids_alsmri.bids.sink import sidecar_path, write_atomically, write_json, write_text
from bids_alsmri.bids.spec import fill
from bids_alsmri.comparisons import __path__ as comparisons_path
from bids_alsmri.comparisons.cohort import Contrast, count_participation
from bids_alsmri.comparisons.demographics import format_table
from bids_alsmri.comparisons.settings import group_settings
from bids_alsmri.engine.group_graph import FIGURES, GroupGraph
from bids_alsmri.engine.methods import cited_keys, references, render_methods
from bids_alsmri.engine.progress import PLUMBING
from bids_alsmri.engine.runner import Outcome, scan_title, write_timing
from bids_alsmri.group_graphs import (
    AcrossTest,
    CombinedTest,
    MapTest,
    OverlapTest,
    Stack,
    Variant,
    fa_target,
)
from bids_alsmri.group_planning import rule_of
from bids_alsmri.group_tables import clinical_sections
from bids_alsmri.reports.figures import save_figure
from bids_alsmri.reports.group_plots import GroupPanel, draw_groups, draw_participation
from bids_alsmri.reports.page import (
    ErrorText,
    Figure,
    OutputFile,
    Page,
    Reference,
    RunStatus,
    Section,
    StepTime,
    write_page,
)
from bids_alsmri.reports.publication import html_table, latex_table
from bids_alsmri.reports.tables import Finding, Side, Table
from bids_alsmri.settings import GROUP, RunSettings
from bids_alsmri.stats.combination import MEANING
from bids_alsmri.summary import setting_rows
from bids_alsmri.version import VERSION

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure

    from bids_alsmri.group import GroupResult
    from bids_alsmri.group_planning import GroupPlan

log = logging.getLogger(__name__)

# figures that show significant voxels and nothing else
EMPTY = ("significant", "glass", "overlap", "combined")

COLUMNS: Mapping[str, str] = {
    "participant_id": "Participant",
    "session_id": "Session; n/a where there are none",
    "scan": "Name of the scan; n/a where there is none",
    "modality": "Pipeline whose maps are compared",
    "contrast": "Groups, first less second",
    "group": "Group; in a contrast the side that the participant is on",
    "progression": "Fast or slow; n/a where unknown or for controls",
    "origin": "Whether the progression was given or derived by the rule",
    "rule": "How a rate of progression becomes fast or slow",
    "threshold_per_month": "Rate above which a patient is fast, in points per month",
    "rate_per_month": "48 less ALSFRS-R over months since the first symptoms, in points per month",
    "alsfrs_r": "Revised ALS functional rating scale at that visit, 0 to 48 points",
    "duration_months": "Time since the first symptoms at that visit, in months",
    "note": "What is special",
    "is_included": "Whether the scan takes part",
    "reason": "Why it does not; the first that applies",
    "detail": "More on the reason",
    "variable": "Column of the clinical tables",
    "level": "Label that is counted; n/a for numbers",
    "n": "Participants with a value",
    "n_missing": "Participants without one",
    "mean": "Mean",
    "sd": "Standard deviation of the sample",
    "median": "Median",
    "q1": "First quartile",
    "q3": "Third quartile",
    "count": "Participants with the label",
    "percent": "Their share of those with a value, in per cent",
    "test": "Name of the test",
    "statistic": "Its statistic",
    "dof": "Its degrees of freedom",
    "p": "Two-sided p-value, not corrected for the number of tests",
    "n_first": "Values of the first group",
    "n_second": "Values of the second group",
    "measure": "Measure of quality, see the tables of the participants",
    "value": "Its value",
    "unit": "Unit; 1 for a pure number",
    "low": "Lower end of the sensible range",
    "high": "Upper end of the sensible range",
    "is_flagged": "Whether the value lies outside that range",
    "first": "First group",
    "median_first": "Median of the first group",
    "second": "Second group",
    "median_second": "Median of the second group",
}


def write_tables(settings: RunSettings, plan: GroupPlan) -> list[Path]:
    """Write who is in which group, who takes part, and what the groups are like.

    Parameters
    ----------
    settings : RunSettings
        Give the output folder.
    plan : GroupPlan
        Of the comparisons.

    Returns
    -------
    list of Path
        Tables, each with a sidecar that explains its columns; the demographics as HTML and LaTeX.
    """
    names = {
        "labels": "Group and progression of each participant, with the rule and its value",
        "participation": "Who takes part in which comparison, and why others do not",
        "counts": "Participants of each group that take part, and those who do not by reason",
        "demographics": "Groups of those who take part in any comparison",
        "demographicsTests": "Tests between these groups",
        "quality": "Measures of quality of all scans",
        "qualityTests": "Groups compared by the quality of their scans",
    }
    tables = {
        "labels": plan.labels,
        "participation": plan.flow,
        "counts": count_participation(plan.flow),
        "demographics": plan.demographics.summary,
        "demographicsTests": plan.demographics.tests,
        "quality": plan.quality,
        "qualityTests": plan.quality_tests,
    }
    shown = group_settings(settings).model_dump(mode="json")
    paths = [write_table(settings, name, tables[name], text, shown) for name, text in names.items()]
    return [*paths, *_print_demographics(settings, plan)]


def _print_demographics(settings: RunSettings, plan: GroupPlan) -> list[Path]:
    """The groups as a table for a manuscript."""
    cells, title = format_table(plan.demographics, decimals=1), "Demographics"
    stem = settings.output_dir / "group" / "desc-demographics_stats"
    pages = {
        ".html": html_table(cells, title=title, notes=[]),
        ".tex": latex_table(cells, title=title, label="demographics", notes=[]),
    }
    for ending, text in pages.items():
        write_text(stem.with_suffix(ending), text)
    return [stem.with_suffix(ending) for ending in pages]


def write_table(
    settings: RunSettings,
    name: str,
    table: pd.DataFrame,
    description: str,
    shown: Mapping[str, Any],
) -> Path:
    """Write one table of the group with its sidecar.

    Parameters
    ----------
    settings : RunSettings
        Give the output folder.
    name : str
        What stands after ``desc-``.
    table : DataFrame
        What to write; missing values become ``n/a``.
    description : str
        For the sidecar.
    shown : mapping
        Settings that it depends on.

    Returns
    -------
    Path
        In the folder ``group``.
    """
    path = settings.output_dir / "group" / f"desc-{name}_stats.tsv"
    text = table.to_csv(sep="\t", index=False, na_rep="n/a", float_format="%.6g")
    columns = {
        str(column): {"Description": COLUMNS.get(str(column), f"Participants out: {column}")}
        for column in table
    }
    content = {
        "Description": description,
        "Settings": dict(shown),
        "SoftwareName": "bids_alsmri",
        "SoftwareVersion": VERSION,
        **columns,
    }
    write_json(sidecar_path(path), content)
    write_text(path, text)
    return path


def write_group_report(
    settings: RunSettings, result: GroupResult, folder: Path, command_line: str
) -> Path:
    """Write the page of the group, also where parts have failed.

    Parameters
    ----------
    settings : RunSettings
        What was asked for.
    result : GroupResult
        What the run did.
    folder : Path
        Log folder of the run.
    command_line : str
        As the user typed it.

    Returns
    -------
    Path
        ``group.html``.
    """
    write_timing(folder / "seconds.json", list(result.outcomes))
    report = _Report(settings, result)
    text = report.methods()
    keys = cited_keys([text])
    page = Page(
        title="Group comparisons",
        software="bids_alsmri",
        version=VERSION,
        date=result.started,
        command_line=command_line,
        status=report.status,
        sections=tuple(report.sections()),
        methods=text,
        references=tuple(Reference(k, references()[k].text, references()[k].doi) for k in keys),
        settings=tuple(setting_rows(settings, [GROUP])),
        errors=tuple(report.errors()),
        outputs=tuple(report.outputs()),
        kind="group",
        findings=tuple(report.findings()),
    )
    path = settings.output_dir / "group.html"
    write_page(page, path)
    log.info("report: %s", path)
    return path


class _Report:
    """Parts of the page."""

    def __init__(self, settings: RunSettings, result: GroupResult) -> None:
        self.settings, self.result, self.plan = settings, result, result.plan
        self.cfg = group_settings(settings)
        self.root = settings.output_dir
        self.by_graph = {id(o.graph): o for o in result.outcomes}

    def outcome(self, graph: GroupGraph) -> Outcome:
        return self.by_graph[id(graph)]

    @property
    def status(self) -> RunStatus:
        done = [outcome.is_done for outcome in self.result.outcomes]
        return "done" if all(done) else "partial" if any(done) else "failed"

    def methods(self) -> str:
        cfg = self.cfg
        covariates = ", ".join((*cfg.covariates, *cfg.quality_covariates)).replace("_", " ")
        facts = {
            "version": VERSION,
            "template": self.settings.template,
            "rule": rule_of(cfg).text,
            "covariates": covariates,
            "voxelwise": self.voxelwise(),
            "has_combinations": bool(self.result.graphs.combined),
            "has_changes": any(contrast.is_change for contrast in self.plan.contrasts),
            "has_groups": not all(contrast.is_change for contrast in self.plan.contrasts),
            "has_volumes": "volume" in self.analyses(),
            "volumes": " and ".join(sorted(self.volumes(), key=str.lower)),
            "has_sampled": any(
                stack.analysis == "skeleton" and stack.map.upper() in self.volumes()
                for stack in self.stacks()
            ),
            "has_tracts": any("skeleton" in s or "vba" in s for s in self.analyses()),
            "fa_target": fa_target(self.settings) is not None,
            "has_maps": bool(self.plan.modalities),
            "has_clinical": self.result.clinical is not None,
        }
        path = Path(str(comparisons_path[0])) / "methods.md"
        return render_methods(path, "comparisons", cfg, facts)

    def voxelwise(self) -> str:
        """Maps that are compared once more with covariates of every voxel, such as TSC for GM."""
        labels = [t.variant.label for t in self.result.graphs.tests if t.variant.is_adjusted]
        return " and ".join(
            label.replace(" adjusted for", " for") for label in dict.fromkeys(labels)
        )

    def volumes(self) -> set[str]:
        return {stack.map.upper() for stack in self.stacks() if stack.analysis == "volume"}

    def analyses(self) -> set[str]:
        return {test.stack.analysis for test in self.result.graphs.tests}

    # ---- sections

    def sections(self) -> Iterator[Section]:
        yield self.cohort()
        yield self.quality()
        if self.result.clinical is not None:
            yield from clinical_sections(self.settings, self.result.clinical)
        for graph in self.result.graphs.preparations:
            yield self.section(
                graph,
                "Maps",
                graph.scan.pipeline.capitalize(),
                warnings=self.facts(graph).get("warnings", []),
            )
        for contrast in self.plan.contrasts:
            for test in self.result.graphs.tests:
                if test.comparison.contrast == contrast:
                    yield self.comparison(test)
            for overlap in self.result.graphs.overlaps:
                if overlap.first.comparison.contrast == contrast:
                    yield self.overlap(overlap)
            for combined in self.result.graphs.combined:
                if combined.tests[0].comparison.contrast == contrast:
                    yield self.combined(combined)
            for across in self.result.graphs.across:
                if across.test.comparison.contrast == contrast:
                    yield self.across(across)
        for graph, stack in zip(self.result.graphs.regions, self.stacks(), strict=True):
            yield self.regions(graph, stack)

    def stacks(self) -> list[Stack]:
        """Stacks in the order of the graphs of regions."""
        return list(self.result.graphs.stacks)

    def section(
        self,
        graph: GroupGraph,
        title: str,
        part: str,
        *,
        warnings: Iterable[str] = (),
        notes: Iterable[str] = (),
        tables: Iterable[Table] = (),
    ) -> Section:
        outcome = self.outcome(graph)
        prefix = re.sub(r"\W", "_", f"{graph.scan.label}_{graph.scan.pipeline}_")
        return Section(
            pipeline=title,
            scan=part,
            status="done" if outcome.is_done else "failed",
            reason=" ".join(outcome.errors),
            warnings=tuple(warnings),
            notes=tuple(notes),
            figures=tuple(self.figures(graph)),
            tables=tuple(tables),
            timing=tuple(
                StepTime(name.removeprefix(prefix).replace("_", " "), seconds)
                for name, seconds in sorted(outcome.seconds.items(), key=lambda item: -item[1])
                if not name.removeprefix(prefix).startswith(PLUMBING)
            ),
        )

    def figures(self, graph: GroupGraph) -> Iterator[Figure]:
        values, facts = graph.surroundings.values, self.facts(graph)
        counts = [n for key, n in facts.items() if key.endswith("SignificantVoxels")]
        counts += [n for key, n in facts.items() if key.startswith("SignificantVoxels")]
        # the figure of the effect, and the notes, say that there is nothing to be seen
        empty = EMPTY if counts and not any(counts) else ()
        for name, spec in graph.spec.figures.items():
            path = graph.destinations.get(f"figure_{name}")
            if path is not None and path.is_file() and name not in empty:
                yield Figure(fill(spec.title, values), fill(spec.caption, values), (path,))

    def cohort(self) -> Section:
        plan, counts = self.plan, count_participation(self.plan.flow)
        out = plan.flow[~plan.flow["is_included"]].drop(columns="is_included")
        demographics = format_table(plan.demographics, decimals=1)
        folder = "group/desc-{}_stats.tsv"
        return Section(
            pipeline="Cohort",
            scan="Participants",
            status="done",
            notes=(*self.result.faults, f"Progression: {rule_of(self.cfg).text}."),
            figures=tuple(self.participation(counts)),
            tables=(
                Table(
                    "Demographics",
                    "Groups of those who take part in any comparison: mean (SD), median [quartiles]"
                    " and counts, with the test named in each row; p-values are not corrected.",
                    demographics,
                    path=folder.format("demographics"),
                ),
                Table(
                    "Who does not take part",
                    "One row per modality, contrast and scan that is left out, and why.",
                    out,
                    empty="Everybody takes part." if len(counts) else "No maps are compared.",
                    path=folder.format("participation"),
                ),
                Table(
                    "Progression",
                    "Group and progression of each participant, given or derived by the rule.",
                    plan.labels.drop(columns=["rule", "threshold_per_month"]),
                    path=folder.format("labels"),
                ),
            ),
        )

    def participation(self, counts: pd.DataFrame) -> Iterator[Figure]:
        if len(counts):
            yield Figure(
                "Who takes part",
                "Participants of each group, by modality and contrast: those who take part and, by "
                "reason, those who do not.",
                (self.drawn("participation", draw_participation(counts)),),
            )

    def quality(self) -> Section:
        tests = self.plan.quality_tests
        # many measures differ by chance where all are shown
        flagged = self.plan.quality[self.plan.quality["is_flagged"]]
        return Section(
            pipeline="Cohort",
            scan="Quality of the scans",
            status="done",
            warnings=(*self.plan.warnings, *self.result.graphs.warnings),
            figures=tuple(self.quality_figures()),
            tables=(
                Table(
                    "Quality by group",
                    "Medians of the groups of each contrast, compared by Mann-Whitney tests, not "
                    "corrected for their number.",
                    tests.drop(columns=["test"]),
                    p_columns=("p",),
                    path="group/desc-qualityTests_stats.tsv",
                ),
                Table(
                    "Scans out of range",
                    "Measures outside their sensible range; such scans take part unless they are "
                    "excluded.",
                    flagged.drop(columns="is_flagged"),
                    empty="No measure lies outside its range.",
                    path="group/desc-quality_stats.tsv",
                ),
            ),
        )

    def quality_figures(self) -> Iterator[Figure]:
        for modality, table in self.plan.quality.groupby("modality", sort=False):
            groups = self.scans_of_groups(str(modality), table)
            if not groups:
                continue
            panels = []
            for measure, part in table.groupby("measure", sort=False):
                row = part.iloc[0]
                unit = "" if row["unit"] == "1" else f" ({row['unit']})"
                ends = [e for e in (row["low"], row["high"]) if np.isfinite(e)]
                words = str(measure).replace("_", " ")
                panels.append(
                    GroupPanel(
                        words,
                        f"value{unit}",
                        {
                            group: part.loc[part["scan"].isin(scans), "value"].to_numpy(float)
                            for group, scans in groups.items()
                        },
                        line=ends[0] if ends else None,
                        line_label="sensible range" if ends else "",
                    )
                )
            if panels:
                path = self.drawn(
                    f"{modality}Quality", draw_groups(panels, title=f"Quality of {modality} scans")
                )
                yield Figure(
                    f"Quality of {modality} scans",
                    "Each dot is a scan, bars are mean and standard deviation; the line is an end "
                    "of the sensible range.",
                    (path,),
                )

    def scans_of_groups(self, modality: str, table: pd.DataFrame) -> dict[str, set[str]]:
        """Scans that take part in comparisons of a modality, or all of one without maps."""
        plan, names = self.plan, self.plan.names
        own = plan.flow[plan.flow["is_included"] & (plan.flow["modality"] == modality)]
        if modality not in plan.modalities:
            people = plan.labels.set_index("participant_id")
            parts = [
                table.assign(group=table["participant_id"].map(people[column]))
                for column in ("group", "progression")
            ]
            own = pd.concat(parts)
        found = {
            group: set(own.loc[own["group"] == group, "scan"])
            for group in (names.control, names.slow, names.fast, names.patient)
        }
        shown: tuple[str, ...] = (names.control, names.slow, names.fast)
        if not all(found[group] for group in shown):
            shown = (names.control, names.patient)
        return {group: found[group] for group in shown if found[group]}

    def comparison(self, test: MapTest) -> Section:
        tables = []
        if self.outcome(test.graph).is_done:
            tables = [self.clusters(test), self.cluster_regions(test)]
        contrast = test.comparison.contrast
        facts = self.facts(test.graph)
        notes = []
        if facts:
            n = facts["NumberOfRelabellings"]
            kind = f"All {n} possible" if facts["Exhaustive"] else f"{n} random"
            notes.append(
                f"{kind} {test.model.relabellings_in_words}, "
                f"{facts['DegreesOfFreedom']} degrees of freedom, {facts['VoxelsTested']} voxels"
            )
            if facts["VoxelsWithoutVariance"]:
                notes.append(self.untested(test, facts["VoxelsWithoutVariance"]))
            notes += self.beside(test)
        return self.section(test.graph, titled(contrast), test.title, notes=notes, tables=tables)

    def untested(self, test: MapTest, n_voxels: int) -> str:
        if not test.variant.is_adjusted:
            return f"{n_voxels} voxels have no variance: no test"
        names = " or ".join(one.name.upper() for one in test.variant.covariates)
        return (
            f"{n_voxels} voxels have no variance, or {names} is the same in all participants there "
            "or tells no more than the groups: no test"
        )

    def beside(self, test: MapTest) -> list[str]:
        """What the same test finds without the covariates of every voxel."""
        if not test.variant.is_adjusted:
            return []
        contrast = test.comparison.contrast
        (plain,) = (
            one
            for one in self.result.graphs.tests
            if one.variant == Variant(test.stack) and one.comparison.contrast == contrast
        )
        facts, own = self.facts(plain.graph), self.facts(test.graph)
        names = " and ".join(one.name.upper() for one in test.variant.covariates)
        of = "change of " if self.cfg.visit in ("change", "slope") else ""
        at = f"where {names} has not changed" if contrast.is_change else f"at equal {of}{names}"
        notes = [
            f"Differences are those {at}, but maps of {names} have errors too, so that a part of "
            f"what goes along with {names} is left; means of groups in tables are not adjusted."
        ]
        if facts:
            before, after = (
                " and ".join(
                    f"{one[f'{side}SignificantVoxels']} voxels {word} (smallest p "
                    f"{one[f'{side}SmallestP']:.3g})"
                    for side, word in (("up", "above"), ("down", "below"))
                )
                for one in (facts, own)
            )
            notes.append(f"Adjusted for {names}, {after}; without it, {before}.")
        return notes

    def clusters(self, test: MapTest) -> Table:
        path = test.graph.destinations["clusters"]
        frame = read_tsv(path).drop(columns=["note"])
        # the reader looks for places first
        frame.insert(2, "regions", frame.pop("regions"))
        return Table(
            f"Clusters, {test.title}",
            f"Connected voxels with a corrected p-value below {self.cfg.alpha:g}. The inference is "
            "per voxel; the size of a cluster has no p-value.",
            frame,
            note="Means and SD are of selected voxels, biased upward." if len(frame) else "",
            empty=f"No voxel has a corrected p-value below {self.cfg.alpha:g}.",
            p_columns=("p_fwe",),
            path=path.relative_to(self.root).as_posix(),
        )

    def cluster_regions(self, test: MapTest) -> Table:
        path = test.graph.destinations["cluster_regions"]
        return Table(
            f"Regions of the clusters, {test.title}",
            "Regions of each atlas that the clusters lie in, the largest share of a cluster first.",
            read_tsv(path),
            empty="There is no cluster in a region.",
            path=path.relative_to(self.root).as_posix(),
        )

    def overlap(self, test: OverlapTest) -> Section:
        facts = self.facts(test.graph)
        notes = [MEANING["conjunction"]]
        if facts:
            notes.insert(
                0,
                f"{facts['SignificantVoxelsBoth']} of {facts['VoxelsTested']} voxels differ in "
                f"both maps ({facts['SignificantVoxelsFirst']} in the first, "
                f"{facts['SignificantVoxelsSecond']} in the second; smallest p "
                f"{facts['SmallestP']:.3g}).",
            )
        contrast = test.first.comparison.contrast
        return self.section(test.graph, titled(contrast), test.title, notes=notes)

    def combined(self, test: CombinedTest) -> Section:
        facts, notes = self.facts(test.graph), [MEANING["combination"]]
        contrast = test.tests[0].comparison.contrast
        if facts:
            notes.insert(
                0,
                f"{facts['declaredSignificantVoxels']} of {facts['VoxelsTested']} voxels change in "
                f"at least one map as declared (smallest p {facts['declaredSmallestP']:.3g}), "
                f"{facts['reverseSignificantVoxels']} in the reverse directions (smallest p "
                f"{facts['reverseSmallestP']:.3g}); {self.cfg.combination_method.capitalize()}'s "
                "combination.",
            )
        return self.section(test.graph, titled(contrast), f"{test.title}, together", notes=notes)

    def across(self, across: AcrossTest) -> Section:
        facts, notes = self.facts(across.graph), [MEANING["correction across maps"]]
        if facts:
            members = ", ".join(
                f"{one.title} {titled(one.comparison.contrast)}" for one in across.family
            )
            notes.insert(
                0,
                f"Corrected for {facts['MapsTogether']} tests in either direction: "
                f"{facts['upSignificantVoxels']} voxels above (smallest p "
                f"{facts['upSmallestP']:.3g}), {facts['downSignificantVoxels']} below (smallest p "
                f"{facts['downSmallestP']:.3g}). The tests: {members}.",
            )
        test = across.test
        return self.section(
            across.graph,
            titled(test.comparison.contrast),
            f"{test.title}, for all tests",
            notes=notes,
        )

    def regions(self, graph: GroupGraph, stack: Stack) -> Section:
        tables = []
        if self.outcome(graph).is_done:
            path = graph.destinations["region_means"]
            tables.append(
                Table(
                    f"Regions, {stack.title}",
                    "Mean (SD) over the participants of each group of their means in regions that "
                    "were chosen before, whatever is significant.",
                    self.by_group(read_tsv(path), stack),
                    path=path.relative_to(self.root).as_posix(),
                )
            )
        return self.section(graph, "Regions of the atlases", stack.title, tables=tables)

    def by_group(self, table: pd.DataFrame, stack: Stack) -> pd.DataFrame:
        """Mean and SD of each group, of regions that hold voxels."""
        flow = self.plan.flow
        own = flow[flow["is_included"] & (flow["modality"] == stack.modality)]
        groups = {
            group: set(own.loc[own["group"] == group, "scan"])
            for group in dict.fromkeys(own["group"])
        }
        found = table[table["n_voxels"] > 0]
        rows = []
        for (atlas, region), part in found.groupby(["atlas", "region"], sort=False):
            row: dict[str, object] = {"atlas": atlas, "region": region, "unit": stack.unit}
            row["n_voxels"] = part["n_voxels"].iloc[0]
            for group, scans in groups.items():
                values = part.loc[part["scan"].isin(scans), "value"]
                row[f"mean {group}"], row[f"SD {group}"] = values.mean(), values.std(ddof=1)
            rows.append(row)
        return pd.DataFrame(rows)

    # ---- the rest

    def findings(self) -> Iterator[Finding]:
        for test in self.result.graphs.tests:
            outcome, facts = self.outcome(test.graph), self.facts(test.graph)
            for name, side in (("up", "higher"), ("down", "lower")):
                where = (test.title, titled(test.comparison.contrast))
                if not facts:
                    yield Finding(*where, cast("Side", side), reason=" ".join(outcome.errors))
                    continue
                yield Finding(
                    *where,
                    cast("Side", side),
                    n_significant=facts[f"{name}SignificantVoxels"],
                    n_tested=facts["VoxelsTested"],
                    smallest_p=facts[f"{name}SmallestP"],
                    largest=facts[f"{name}LargestT"],
                    effect=facts[f"{name}PeakD"],
                )

    def facts(self, graph: GroupGraph) -> dict[str, Any]:
        """Findings of a graph that has ended well, from one of its sidecars."""
        if not self.outcome(graph).is_done:
            return {}
        for name in ("t", "overlap", "mean_fa", "volume_mask", "up_p_across", "declared_p"):
            path = graph.destinations.get(name)
            if path is not None:
                found: dict[str, Any] = json.loads(sidecar_path(path).read_text("utf-8"))
                return found
        return {}

    def errors(self) -> Iterator[ErrorText]:
        for outcome in self.result.outcomes:
            if not outcome.is_done:
                traces = list(outcome.traces) + [""] * (len(outcome.errors) - len(outcome.traces))
                for message, trace in zip(outcome.errors, traces, strict=False):
                    yield ErrorText(scan_title(outcome.graph), message, trace)

    def outputs(self) -> Iterator[OutputFile]:
        for outcome in self.result.outcomes:
            graph = outcome.graph
            for name, path in graph.destinations.items():
                spec = graph.spec.outputs.get(name)
                if spec is not None and path.is_file():
                    text = fill(spec.description, graph.surroundings.values)
                    yield OutputFile(path.relative_to(self.root).as_posix(), text)

    def drawn(self, desc: str, figure: MatplotlibFigure) -> Path:
        """Figure that no step makes, saved beside the others."""
        path = self.root / FIGURES / f"desc-{desc}_stats.svg"
        write_atomically(path, lambda temporary: save_figure(figure, temporary))
        return path


def titled(contrast: Contrast) -> str:
    """Title of a contrast.

    Parameters
    ----------
    contrast : Contrast
        Groups.

    Returns
    -------
    str
        Such as ``als − hc``.
    """
    return f"{contrast.first} − {contrast.second}"


def read_tsv(path: Path) -> pd.DataFrame:
    """Table of the group level.

    Parameters
    ----------
    path : Path
        As a step saved it.

    Returns
    -------
    DataFrame
        ``n/a`` is missing.
    """
    return pd.read_csv(path, sep="\t", na_values=["n/a"], keep_default_na=False)
