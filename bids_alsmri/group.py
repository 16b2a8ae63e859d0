"""Group level: collect tables, compare groups, report."""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from bids_alsmri.bids.sink import sidecar_path, write_text
from bids_alsmri.collection import collect_tables, find_finished
from bids_alsmri.comparisons.settings import group_settings
from bids_alsmri.errors import DataError, ExitCode
from bids_alsmri.settings import RunSettings
from bids_alsmri.version import VERSION

if TYPE_CHECKING:
    from rich.console import Console

    from bids_alsmri.engine.runner import Outcome
    from bids_alsmri.group_graphs import GroupGraphs
    from bids_alsmri.group_planning import GroupPlan

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class GroupResult:
    """What a run of the group level did.

    Parameters
    ----------
    plan : GroupPlan
        What it set out to do.
    graphs : GroupGraphs
        Its steps.
    outcomes : list of Outcome
        Of all graphs, in their order.
    faults : tuple of str
        Records and tables that could not be read.
    started : datetime
        In UTC.
    """

    plan: GroupPlan
    graphs: GroupGraphs
    outcomes: list[Outcome]
    faults: tuple[str, ...]
    started: datetime


def run_group_level(settings: RunSettings, command_line: str, console: Console) -> ExitCode:
    """Collect the participants' tables and compare groups on their maps.

    Parameters
    ----------
    settings : RunSettings
        What was asked for; OUTPUT_DIR holds the results of the participant level.
    command_line : str
        As the user typed it, for the report.
    console : rich Console
        Where progress is shown.

    Returns
    -------
    ExitCode
        Done, or that some comparisons failed, or that some records cannot be read.

    Raises
    ------
    SettingsError
        If labels, contrasts or tests that were asked for do not exist.
    DataError
        If OUTPUT_DIR holds no results, tables are faulty, or groups are too small.
    """
    log.info("%s", command_line)
    faults: list[str] = []
    finished = find_finished(settings, faults)
    tables = collect_tables(settings, finished, faults)
    for fault in faults:
        log.error("%s", fault)
    if not tables:
        nothing = (
            f"{settings.output_dir}: no results of the participant level; run "
            "'bids_alsmri BIDS_DIR OUTPUT_DIR participant' first"
        )
        raise DataError(
            "\n".join(faults) or nothing,
            exit_code=ExitCode.BAD_DATA if faults else ExitCode.NO_INPUT,
        )
    code = ExitCode.SCANS_FAILED if faults else ExitCode.DONE
    if not group_settings(settings).compare:
        return code
    from bids_alsmri.group_planning import have_tables_only, plan_comparisons

    if have_tables_only(finished):
        log.info("no maps that groups are compared on; the group level ends with its tables")
        return code
    plan = plan_comparisons(settings, finished, faults)
    if settings.plan:
        sys.stdout.write(describe(plan))
        return code
    return max(code, _compare(settings, plan, faults, command_line, console))


def describe(plan: GroupPlan) -> str:
    """What will be compared, as text.

    Parameters
    ----------
    plan : GroupPlan
        Of the comparisons.

    Returns
    -------
    str
        Lines that end with a line break.
    """
    from bids_alsmri.comparisons.cohort import count_participation

    lines = []
    for row in count_participation(plan.flow).to_dict("records"):
        out = [f"{n} {reason}" for reason, n in row.items() if isinstance(n, int) and n]
        n_all, n_in = row["n_participants"], row["n_included"]
        reasons = [text for text in out if text.split(" ", 1)[1] not in _COUNTS]
        why = f" ({', '.join(reasons)})" if reasons else ""
        lines.append(
            f"{row['modality']}, {row['contrast']}: {n_in} of {n_all} in '{row['group']}'{why}"
        )
    return "\n".join([*lines, *plan.warnings]) + "\n"


_COUNTS = ("n_participants", "n_included")


def _compare(
    settings: RunSettings,
    plan: GroupPlan,
    faults: list[str],
    command_line: str,
    console: Console,
) -> ExitCode:
    from bids_alsmri.engine.runner import Keeper, new_workflow, require_resources, run
    from bids_alsmri.group_graphs import build_graphs
    from bids_alsmri.group_summary import write_group_report, write_tables
    from bids_alsmri.participant import describe_dataset, resources_of, steps_folder

    started = datetime.now(UTC)
    folder = settings.output_dir / "logs" / started.strftime("%Y%m%dT%H%M%S%fZ")
    workflow = new_workflow(
        settings.work_folder,
        folder / "crashes",
        stop_on_first_crash=settings.stop_on_first_crash,
        name=f"{steps_folder(settings)}_group",
    )
    graphs = build_graphs(settings, plan, workflow)
    resources = resources_of(settings)
    require_resources(workflow, resources)
    describe_dataset(settings)
    write_text(folder / "settings.json", settings.as_json(VERSION))
    write_tables(settings, plan)
    for warning in plan.warnings:
        log.warning("%s", warning)
    keeper = Keeper(lambda graph: None, lambda outcome: None)
    outcomes = run(workflow, graphs.all, resources, console, keeper)
    result = GroupResult(plan, graphs, outcomes, tuple(faults), started)
    forget_others(settings.output_dir, graphs)
    write_group_report(settings, result, folder, command_line)
    return _exit_code(outcomes)


def forget_others(output_dir: Path, graphs: GroupGraphs) -> None:
    """Remove what an earlier run saved and this one does not: it is of other groups or settings.

    Parameters
    ----------
    output_dir : Path
        Folder of the derivatives; ``logs/group.json`` lists the files of the last run.
    graphs : GroupGraphs
        What this run saves.
    """
    path = output_dir / "logs" / "group.json"
    own = {
        str(file.relative_to(output_dir))
        for graph in graphs.all
        for saved in graph.destinations.values()
        for file in (saved, sidecar_path(saved))
    }
    try:
        earlier = [str(name) for name in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError):
        earlier = []
    for name in sorted(set(earlier) - own):
        file = output_dir / name
        # a list that was written by hand must not lead out of the results
        if file.resolve().is_relative_to(output_dir.resolve()):
            file.unlink(missing_ok=True)
    write_text(path, json.dumps(sorted(own), indent=1) + "\n")


def _exit_code(outcomes: list[Outcome]) -> ExitCode:
    failed = [outcome for outcome in outcomes if not outcome.is_done]
    if any(outcome.is_disk_full for outcome in failed):
        return ExitCode.CANNOT_WRITE
    if len(failed) < len(outcomes) or not failed:
        return ExitCode.SCANS_FAILED if failed else ExitCode.DONE
    codes = [outcome.exit_code for outcome in failed]
    return next((c for c in codes if c is not ExitCode.SCANS_FAILED), ExitCode.SCANS_FAILED)
