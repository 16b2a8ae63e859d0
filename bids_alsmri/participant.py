"""Participant level: plan, build the steps, run them, keep records, write reports."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import nipype.pipeline.engine as pe
from rich.console import Console

from bids_alsmri.bids.dataset import write_description, write_descriptions
from bids_alsmri.bids.sink import sidecar_path, write_text
from bids_alsmri.bids.spec import output_name
from bids_alsmri.engine.graph import AtlasSource, Graph, Ref, Surroundings
from bids_alsmri.engine.leftovers import drop_saves, list_saves, remove_leftovers, saves_path
from bids_alsmri.engine.methods import methods_text
from bids_alsmri.engine.pipeline import registry
from bids_alsmri.engine.records import Record, forget, record_path, write_record
from bids_alsmri.engine.runner import (
    Keeper,
    Outcome,
    Resources,
    new_workflow,
    require_resources,
    run,
)
from bids_alsmri.errors import AlsMriError, ExitCode, RunError
from bids_alsmri.interfaces.base import largest_series
from bids_alsmri.interfaces.node import needed_gb
from bids_alsmri.interfaces.outputs import NO_SIDECAR
from bids_alsmri.planning import (
    ATLASES,
    Job,
    Plan,
    describe,
    find_plan,
    require_usable,
)
from bids_alsmri.settings import RunSettings, usable_cores, usable_memory_gb
from bids_alsmri.spaces.atlases import MOTOR_AREAS
from bids_alsmri.version import VERSION

log = logging.getLogger(__name__)

# ends the name under which a record lists the sidecar of an output
SIDECAR = " sidecar"
STOPPED = "the run was stopped before this scan was finished; the same call goes on from there"
# the rest is for the interpreter, the layout and the file cache
SHARE_OF_MEMORY = 0.9
# scans in one graph: its 3500 steps take 6 s to set up, three times as many a minute
JOBS_AT_ONCE = 60


@dataclass(frozen=True)
class Result:
    """What a run did.

    Parameters
    ----------
    plan : Plan
        What it set out to do.
    outcomes : mapping of Outcome
        By pipeline and label of the scan; jobs with nothing to do have none.
    started : datetime
        Start of the run, in UTC.
    """

    plan: Plan
    outcomes: Mapping[tuple[str, str], Outcome]
    started: datetime


def run_participant_level(settings: RunSettings, command_line: str, console: Console) -> ExitCode:
    """Process the chosen participants and write their reports.

    Parameters
    ----------
    settings : RunSettings
        What was asked for.
    command_line : str
        As the user typed it, for the reports.
    console : rich Console
        Where progress is shown.

    Returns
    -------
    ExitCode
        What became of it.

    Raises
    ------
    AlsMriError
        If nothing can be processed at all.
    """
    plan = find_plan(settings)
    started = datetime.now(UTC)
    folder = settings.output_dir / "logs" / started.strftime("%Y%m%dT%H%M%S%fZ")
    if not plan.jobs and not settings.plan:
        _report_faults(settings, Result(plan, {}, started), folder, command_line)
    require_usable(plan, settings)
    parts = parts_of(plan)
    # what no step can take is told now, and not after hours
    graphs = _graphs_of_work(settings, parts[0] if len(parts) == 1 else _largest(plan), folder)
    if settings.plan:
        sys.stdout.write(describe(plan, settings))
        return ExitCode.DONE
    from bids_alsmri.summary import write_reports

    describe_dataset(settings)
    write_text(folder / "settings.json", settings.as_json(VERSION))
    _log_plan(plan)
    outcomes: dict[tuple[str, str], Outcome] = {}
    steps: list[str] = []
    try:
        for number, part in enumerate(parts, start=1):
            if len(parts) > 1:
                log.info("part %d of %d: %s", number, len(parts), _extent(part))
                graphs = _graphs_of_work(settings, part, folder)
            steps += [node.name for graph in graphs.values() for node in graph.nodes]
            run_jobs(settings, part, graphs, console, outcomes)
            _free(outcomes, graphs)
            if settings.stop_on_first_crash and not all(outcomes[key].is_done for key in graphs):
                plan = _without(plan, parts[number:])
                break
    except (KeyboardInterrupt, RunError):
        # one that cannot be written must not hide why the run ended
        with contextlib.suppress(AlsMriError):
            write_reports(settings, _so_far(plan, outcomes, started), folder, command_line)
        raise
    result = Result(plan, outcomes, started)
    write_reports(settings, result, folder, command_line)
    code = exit_code_of(result)
    if code is ExitCode.DONE and settings.clean_workdir:
        _remove_steps(settings.work_folder / steps_folder(settings), steps)
    return code


def parts_of(plan: Plan) -> list[Plan]:
    """Parts of a plan that are run one after the other.

    Parameters
    ----------
    plan : Plan
        What to do.

    Returns
    -------
    list of Plan
        Whole participants of whom something is left to do, in their order, with at most
        `JOBS_AT_ONCE` scans to process in a part unless one participant has more; no skips.

    Notes
    -----
    Time and memory that nipype takes for a graph grow faster than its number of steps: 6000 scans
    in one would take hours before the first step began.
    """
    jobs: dict[str, list[Job]] = {}
    for job in plan.jobs:
        jobs.setdefault(job.scan.participant, []).append(job)
    parts: list[list[str]] = []
    n_todo = 0
    for participant, own in jobs.items():
        n_own = sum(job.work != "nothing" for job in own)
        if not n_own:
            continue
        if not parts or n_todo + n_own > JOBS_AT_ONCE:
            parts.append([])
            n_todo = 0
        parts[-1].append(participant)
        n_todo += n_own
    return [
        Plan(tuple(part), tuple(job for participant in part for job in jobs[participant]), ())
        for part in parts
    ]


def _largest(plan: Plan) -> Plan:
    """Part of a plan that holds the steps that need most memory."""
    largest: dict[tuple[str, str], tuple[float, str]] = {}
    for job in plan.jobs:
        if job.work == "nothing":
            continue
        scans = {"own": [job.scan], "upstream": list(job.upstream.values())}
        for kind, found in scans.items():
            size = largest_series(paths for scan in found for paths in scan.inputs.values())
            key = (job.pipeline.name, kind)
            largest[key] = max(largest.get(key, (0.0, "")), (size.gb, job.scan.participant))
    chosen = {participant for _, participant in largest.values()}
    jobs = tuple(job for job in plan.jobs if job.scan.participant in chosen)
    return Plan(tuple(sorted(chosen)), jobs, ())


def _extent(part: Plan) -> str:
    n_todo = sum(job.work != "nothing" for job in part.jobs)
    first, last = part.participants[0], part.participants[-1]
    return f"{n_todo} scans of sub-{first} to sub-{last}"


def _free(outcomes: dict[tuple[str, str], Outcome], keys: Iterable[tuple[str, str]]) -> None:
    """Let go of steps that were run: those of a thousand participants fill the memory."""
    for key in keys:
        graph = outcomes[key].graph
        graph = replace(graph, workflow=pe.Workflow("run"), nodes=[], results={}, upstream={})
        outcomes[key] = replace(outcomes[key], graph=graph)


def _without(plan: Plan, parts: Iterable[Plan]) -> Plan:
    left_out = {participant for part in parts for participant in part.participants}
    jobs = tuple(job for job in plan.jobs if job.scan.participant not in left_out)
    return replace(
        plan, participants=tuple(p for p in plan.participants if p not in left_out), jobs=jobs
    )


def _graphs_of_work(
    settings: RunSettings, plan: Plan, log_folder: Path
) -> dict[tuple[str, str], Graph]:
    if all(job.work == "nothing" for job in plan.jobs):
        return {}
    workflow = new_workflow(
        settings.work_folder,
        log_folder / "crashes",
        stop_on_first_crash=settings.stop_on_first_crash,
        name=steps_folder(settings),
    )
    graphs = build_graphs(settings, plan, workflow)
    require_resources(workflow, resources_of(settings))
    return graphs


def describe_dataset(settings: RunSettings) -> None:
    """Write what OUTPUT_DIR is and what its files hold.

    Parameters
    ----------
    settings : RunSettings
        Settings of the run.
    """
    write_description(settings.output_dir, settings.bids_dir, settings.derivatives, VERSION)
    specs = {name: pipeline.io_spec for name, pipeline in registry().items()}
    write_descriptions(settings.output_dir, specs)


def _report_faults(settings: RunSettings, result: Result, folder: Path, command_line: str) -> None:
    from bids_alsmri.summary import write_reports

    faulty = {skip.participant for skip in result.plan.skips if skip.is_error}
    plan = replace(result.plan, participants=tuple(sorted(faulty)))
    if not faulty:
        return
    # what cannot be written must not hide why nothing can be done
    with contextlib.suppress(AlsMriError):
        describe_dataset(settings)
        write_reports(settings, replace(result, plan=plan), folder, command_line)


def steps_folder(settings: RunSettings) -> str:
    """Name of the folder of a run's steps, which tells datasets apart that share a work folder.

    Parameters
    ----------
    settings : RunSettings
        Give dataset and output folder.

    Returns
    -------
    str
        A short name.
    """
    folders = (os.path.realpath(settings.bids_dir), os.path.realpath(settings.output_dir))
    key = hashlib.sha256("\n".join(folders).encode()).hexdigest()[:8]
    return f"steps_{key}"


def _so_far(plan: Plan, outcomes: Mapping[tuple[str, str], Outcome], started: datetime) -> Result:
    done = {outcome.graph.scan.participant for outcome in outcomes.values() if outcome.is_done}
    participants = tuple(label for label in plan.participants if label in done)
    return Result(replace(plan, participants=participants), outcomes, started)


def _remove_steps(folder: Path, steps: Iterable[str]) -> None:
    # another run may share the folder, and the user's own files may lie in it
    for step in steps:
        shutil.rmtree(folder / step, ignore_errors=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


def _log_plan(plan: Plan) -> None:
    for job in plan.jobs:
        log.info("%s %s: %s", job.scan.label, job.pipeline.name, job.reason)
    for skip in plan.skips:
        session = "" if skip.session is None else f"_ses-{skip.session}"
        level = logging.ERROR if skip.is_error else logging.INFO
        log.log(level, "sub-%s%s %s: %s", skip.participant, session, skip.pipeline, skip.reason)
    if all(job.work == "nothing" for job in plan.jobs):
        log.info("everything was done before")


def run_jobs(
    settings: RunSettings,
    plan: Plan,
    graphs: Mapping[tuple[str, str], Graph],
    console: Console,
    outcomes: dict[tuple[str, str], Outcome],
) -> None:
    """Run the steps of all jobs that have something to do, and keep records.

    Parameters
    ----------
    settings : RunSettings
        What was asked for.
    plan : Plan
        What to do, at least one job.
    graphs : mapping of Graph
        The steps of the jobs, all in one workflow, by pipeline and label of the scan.
    console : rich Console
        Where progress is shown.
    outcomes : dict of Outcome
        Takes what became of each job, by pipeline and label of the scan; holds what is known if
        the run is stopped.
    """
    todo = [job for job in plan.jobs if job.work != "nothing"]
    outcomes.update({key: Outcome(graph, False, (STOPPED,)) for key, graph in graphs.items()})
    keeper = _keeper(settings, todo, outcomes)
    workflow = next(iter(graphs.values())).workflow
    found = run(workflow, list(graphs.values()), resources_of(settings), console, keeper)
    outcomes.update(zip(graphs, found, strict=True))


def _keeper(
    settings: RunSettings, todo: Iterable[Job], outcomes: dict[tuple[str, str], Outcome]
) -> Keeper:
    # a record must never stand beside files of another run, and must stand as soon as its own
    # are there: the run may be killed, and a work folder on a node's own disk be lost with it
    jobs = {job.key: job for job in todo}

    def before_saves(graph: Graph) -> None:
        job = jobs[graph.scan.pipeline, graph.scan.label]
        path = record_path(settings.output_dir, job.scan)
        before = job.record.outputs if job.record is not None else {}
        now = _relative(_with_sidecars(graph.destinations), settings.output_dir)
        list_saves(saves_path(settings.output_dir, job.scan), {*before.values(), *now.values()})
        forget(path, job.record, keeps_fits=job.work == "apply")

    def when_done(outcome: Outcome) -> None:
        job = jobs[outcome.graph.scan.pipeline, outcome.graph.scan.label]
        _keep_record(settings, job, outcome)
        outcomes[job.key] = outcome

    return Keeper(before_saves, when_done)


def build_graphs(
    settings: RunSettings, plan: Plan, workflow: pe.Workflow
) -> dict[tuple[str, str], Graph]:
    """Add the steps of all jobs that have something to do to a workflow.

    Parameters
    ----------
    settings : RunSettings
        What was asked for.
    plan : Plan
        What to do.
    workflow : nipype Workflow
        Takes the steps.

    Returns
    -------
    dict of Graph
        By pipeline and label of the scan, in the order of the plan.
    """
    graphs: dict[tuple[str, str], Graph] = {}
    results: dict[tuple[str, str], Mapping[str, Ref | Path]] = {}
    for job in plan.jobs:
        saved = _saved_before(settings, job)
        if job.work == "nothing":
            results[job.key] = saved
            continue
        upstream = {name: results[(name, scan.label)] for name, scan in job.upstream.items()}
        graph = _empty_graph(settings, job, workflow, upstream)
        graph.adopted.update(job.adopted)
        module = job.pipeline.workflow
        own = settings.pipelines[job.pipeline.name]
        if job.work == "everything":
            module.fit(graph, job.scan, own)
            graph.made_by_fit = frozenset(graph.destinations)
        else:
            fits = {n for n, s in job.pipeline.io_spec.outputs.items() if s.stage == "fit"}
            graph.results.update({n: path for n, path in saved.items() if output_name(n) in fits})
        module.apply(graph, job.scan, own)
        graphs[job.key] = graph
        results[job.key] = graph.results
    return graphs


def _empty_graph(
    settings: RunSettings,
    job: Job,
    workflow: pe.Workflow,
    upstream: Mapping[str, Mapping[str, Ref | Path]],
) -> Graph:
    values = values_for_names(settings, job.pipeline.name, bool(upstream))
    roots = {"raw": settings.bids_dir, "": settings.output_dir, **settings.derivatives}
    place = Surroundings(
        settings.output_dir,
        roots,
        values,
        settings.seed,
        settings.omp_nthreads,
        VERSION,
        resources_of(settings).n_procs,
    )
    stages = {"fit": job.identity.fit, "apply": job.identity.apply}
    memory = partial(
        needed_gb,
        series=largest_series(job.scan.inputs.values()),
        anatomy=largest_series(
            paths for scan in job.upstream.values() for paths in scan.inputs.values()
        ),
    )
    graph = Graph(workflow, job.scan, job.pipeline.io_spec, stages, place, upstream, memory)
    names = tuple(job.identity.apply.get(ATLASES, {}))
    graph.atlases = AtlasSource(
        folder="" if settings.atlas_dir is None else str(settings.atlas_dir),
        threshold_percent=settings.atlas_threshold_percent,
        names=names,
        has_motor_areas=MOTOR_AREAS in names,
    )
    return graph


def values_for_names(settings: RunSettings, pipeline: str, has_upstream: bool) -> dict[str, str]:
    """What fills the placeholders of a pipeline's spec.

    Parameters
    ----------
    settings : RunSettings
        Settings of the run.
    pipeline : str
        Name of the pipeline.
    has_upstream : bool
        Whether the scan builds on another pipeline's, so that there is a T1w space.

    Returns
    -------
    dict of str
        The pipeline's settings as labels, the template, and ``anatomical_space``.
    """
    own = settings.pipelines[pipeline].model_dump()
    values = {name: label_of(value) for name, value in own.items()}
    values["template"] = settings.template
    values["anatomical_space"] = "T1w" if has_upstream else ""
    return values


def label_of(value: object) -> str:
    """Text of a setting as it may stand in a file name.

    Parameters
    ----------
    value : object
        Value of a setting.

    Returns
    -------
    str
        Letters and digits only.

    Examples
    --------
    >>> label_of(1.5), label_of(2.0)
    ('1p5', '2')
    """
    text = f"{value:g}".replace(".", "p") if isinstance(value, float) else str(value)
    return "".join(letter for letter in text if letter.isalnum())


def _saved_before(settings: RunSettings, job: Job) -> dict[str, Ref | Path]:
    if job.record is None:
        return {}
    names = job.pipeline.io_spec.outputs
    outputs = job.record.outputs.items()
    return {
        n: settings.output_dir / p
        for n, p in outputs
        if output_name(n) in names and not n.endswith(SIDECAR)
    }


def _keep_record(settings: RunSettings, job: Job, outcome: Outcome) -> None:
    root = settings.output_dir
    outputs = _relative(_with_sidecars(outcome.graph.destinations), root)
    by_fit = outcome.graph.made_by_fit
    fits = tuple(sorted(n for n in outputs if n.removesuffix(SIDECAR) in by_fit))
    seconds = dict(outcome.seconds)
    if job.work == "apply" and job.record is not None:
        fits = tuple(job.record.fits)
        outputs = {**{n: p for n, p in job.record.outputs.items() if n in fits}, **outputs}
        seconds = {**job.record.seconds, **seconds}
    record = Record(
        job.identity,
        outputs,
        seconds,
        fits,
        notes=job.scan.notes,
        methods=methods_of(settings, job),
    )
    # before the record stands: a run that is killed in between is taken up again
    remove_leftovers(root, job.scan, outputs.values())
    write_record(record_path(root, job.scan), record)
    drop_saves(root, job.scan)


def methods_of(settings: RunSettings, job: Job) -> str:
    """Methods text of one scan.

    Parameters
    ----------
    settings : RunSettings
        Settings of the run.
    job : Job
        What was done.

    Returns
    -------
    str
        Markdown with citations.
    """
    facts = {
        "template": settings.template,
        "version": VERSION,
        "mode": settings.mode,
        "has_anatomy": bool(job.upstream),
        "atlases": list(job.identity.apply.get(ATLASES, {})),
    }
    return methods_text(job.pipeline, settings.pipelines[job.pipeline.name], facts)


def _relative(saved: Mapping[str, Path], root: Path) -> dict[str, str]:
    return {name: str(path.relative_to(root)) for name, path in saved.items()}


def _with_sidecars(saved: Mapping[str, Path]) -> dict[str, Path]:
    sidecars = {n: sidecar_path(p) for n, p in saved.items() if p.suffix not in NO_SIDECAR}
    return {**saved, **{f"{name}{SIDECAR}": path for name, path in sidecars.items()}}


def resources_of(settings: RunSettings) -> Resources:
    """Processes and memory that the steps of a run may take.

    Parameters
    ----------
    settings : RunSettings
        What was asked for.

    Returns
    -------
    Resources
        What was asked for, else what this process may use.
    """
    return Resources(
        n_procs=settings.n_procs or usable_cores(),
        memory_gb=settings.mem_gb or SHARE_OF_MEMORY * usable_memory_gb(),
        plugin_file=settings.nipype_plugin_file,
        stop_on_first_crash=settings.stop_on_first_crash,
    )


def exit_code_of(result: Result) -> ExitCode:
    """Exit code of a participant-level run.

    Parameters
    ----------
    result : Result
        What it did.

    Returns
    -------
    ExitCode
        Done, or that some scans failed; the code of the first fault where none is done, and that
        nothing can be written where a disk was full.
    """
    if any(outcome.is_disk_full for outcome in result.outcomes.values()):
        return ExitCode.CANNOT_WRITE
    failed = [outcome.exit_code for outcome in result.outcomes.values() if not outcome.is_done]
    codes = failed + [skip.exit_code for skip in result.plan.skips if skip.is_error]
    if not codes:
        return ExitCode.DONE
    if len(failed) < len(result.plan.jobs):
        return ExitCode.SCANS_FAILED
    # a scan that only builds on a failed one has no code of its own
    return next((c for c in codes if c is not ExitCode.SCANS_FAILED), ExitCode.SCANS_FAILED)
