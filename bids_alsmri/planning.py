"""What a run will do: which scans there are, and what is left to do for each."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bids_alsmri.adoption import find_adopted, open_derivatives
from bids_alsmri.bids.dataset import check_derivatives, check_output_dir, check_raw
from bids_alsmri.bids.query import (
    Scan,
    Skip,
    check_filters,
    find_scans,
    list_participants,
    list_sessions,
    open_layout,
    resolve_labels,
)
from bids_alsmri.engine.pipeline import Pipeline, registry, with_needs
from bids_alsmri.engine.records import (
    Identity,
    Record,
    Work,
    compare,
    fingerprint,
    read_record,
    record_path,
)
from bids_alsmri.errors import DataError, ExitCode, SettingsError
from bids_alsmri.options import SettingsModel, options_of
from bids_alsmri.settings import RunSettings
from bids_alsmri.spaces.templates import require_template
from bids_alsmri.version import VERSION

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """What is to be done for one scan.

    Parameters
    ----------
    scan : Scan
        Its files.
    pipeline : Pipeline
        What processes it.
    identity : Identity
        What decides its numbers.
    work : {'everything', 'apply', 'nothing'}
        Steps that have to run.
    reason : str
        Why.
    record : Record or None
        What an earlier run left.
    upstream : mapping
        Scans of the pipelines that it builds on, by pipeline.
    adopted : mapping
        Files of other programs that stand for own fits, by output.
    """

    scan: Scan
    pipeline: Pipeline
    identity: Identity
    work: Work
    reason: str
    record: Record | None
    upstream: Mapping[str, Scan]
    adopted: Mapping[str, Path]

    @property
    def key(self) -> tuple[str, str]:
        """Pipeline and label of the scan."""
        return self.pipeline.name, self.scan.label


@dataclass(frozen=True)
class Plan:
    """What a run will do.

    Parameters
    ----------
    participants : tuple of str
        Labels, without ``sub-``.
    jobs : tuple of Job
        Scans that can be processed, each after those that it builds on.
    skips : tuple of Skip
        What cannot, and why.
    """

    participants: tuple[str, ...]
    jobs: tuple[Job, ...]
    skips: tuple[Skip, ...]


def check_folders(settings: RunSettings) -> None:
    """Raise where the folders of a run cannot be used; writes nothing.

    Parameters
    ----------
    settings : RunSettings
        What was asked for.

    Raises
    ------
    SettingsError
        If output or work folder lie where they must not.
    DataError
        If the dataset or one of the derivatives is absent or not valid.
    RunError
        If the output folder cannot be written.
    """
    check_raw(settings.bids_dir, skip_validation=settings.skip_bids_validation)
    check_derivatives(settings.derivatives)
    check_output_dir(settings.bids_dir, settings.output_dir)
    raw, output, work = (
        Path(os.path.realpath(folder))
        for folder in (settings.bids_dir, settings.output_dir, settings.work_folder)
    )
    if work.is_relative_to(raw) and not work.is_relative_to(raw / "derivatives"):
        where = f"inside the raw data {settings.bids_dir}"
    elif work.is_relative_to(output):
        where = f"inside OUTPUT_DIR {settings.output_dir}"
    else:
        return
    raise SettingsError(
        f"work folder {settings.work_folder} lies {where}; choose one elsewhere with -w"
    )


def make_plan(settings: RunSettings) -> Plan:
    """Find the scans that were asked for and what is left to do for each.

    Parameters
    ----------
    settings : RunSettings
        What was asked for.

    Returns
    -------
    Plan
        Jobs and reasons for what is skipped.

    Raises
    ------
    SettingsError
        If a label or filter matches nothing, or the template is not to be had.
    DataError
        If no scan is usable.
    """
    _require_template(settings.template)
    available = list_participants(settings.bids_dir)
    participants = resolve_labels(settings.participant_label, available, "participant")
    # a plan writes nothing, not even the index
    database_dir = None if settings.plan else settings.bids_database_dir
    layout = open_layout(settings.bids_dir, participants, database_dir=database_dir)
    sessions: tuple[str, ...] = ()
    if settings.session_label:
        found = list_sessions(settings.bids_dir, participants)
        sessions = resolve_labels(settings.session_label, found, "session")
    filters = read_filters(settings.bids_filter_file)
    others = open_derivatives(settings.derivatives, participants)
    jobs: dict[tuple[str, str], Job] = {}
    skips: list[Skip] = []
    for name in with_needs(settings.pipeline_names):
        pipeline = registry()[name]
        scans, skipped = find_scans(
            layout,
            name,
            pipeline.io_spec,
            participants=participants,
            sessions=sessions,
            filters=filters,
            group_by=pipeline.group_by(settings.pipelines[name]),
            primary=pipeline.primary,
        )
        skips += skipped
        for scan in scans:
            try:
                adopted = find_adopted(others, pipeline, scan, {"template": settings.template})
                job = _job(settings, pipeline, scan, jobs, adopted)
            except DataError as error:
                skips.append(_skip_of(scan, error))
            else:
                jobs[job.key] = job
    if not jobs:
        _raise_nothing_usable(settings, skips)
    return Plan(tuple(participants), tuple(jobs.values()), tuple(skips))


def _require_template(name: str) -> None:
    try:
        require_template(name)
    except DataError as error:
        raise SettingsError(str(error)) from None


def _skip_of(scan: Scan, error: DataError) -> Skip:
    return Skip(scan.pipeline, scan.participant, scan.session, str(error), True, error.exit_code)


def read_filters(path: Path | None) -> dict[str, dict[str, Any]]:
    """Filters per input from a file in the form that fMRIPrep reads.

    Parameters
    ----------
    path : Path or None
        JSON file; None gives no filters.

    Returns
    -------
    dict of dict
        Entities and their values by input.

    Raises
    ------
    SettingsError
        If the file cannot be read or has another form.
    """
    if path is None:
        return {}
    try:
        filters = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"--bids-filter-file {path}: {error.strerror}") from None
    except json.JSONDecodeError as error:
        raise SettingsError(
            f"--bids-filter-file {path}: no valid JSON at line {error.lineno}, "
            f"column {error.colno} ({error.msg})"
        ) from None
    except UnicodeDecodeError as error:
        raise SettingsError(
            f"--bids-filter-file {path}: is no text in UTF-8 ({error.reason})"
        ) from None
    is_nested = isinstance(filters, dict) and all(isinstance(v, dict) for v in filters.values())
    if not is_nested:
        raise SettingsError(
            f"--bids-filter-file {path}: expected filters by input, such as "
            '{"dwi": {"direction": "AP"}}'
        )
    inputs = [name for pipeline in registry().values() for name in pipeline.io_spec.inputs]
    check_filters(filters, inputs)
    return dict(filters)


def settings_by_stage(settings: RunSettings, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings that decide a pipeline's fits, and those that decide only what is made of them.

    Parameters
    ----------
    settings : RunSettings
        Settings of the run.
    name : str
        Pipeline.

    Returns
    -------
    fit, apply : dict
        JSON values by the name of the setting.
    """
    stages: dict[str, dict[str, Any]] = {"fit": {}, "apply": {}, "run": {}}
    models: tuple[SettingsModel, ...] = (settings, settings.pipelines[name])
    for model in models:
        values = model.model_dump(mode="json")
        for option in options_of(type(model)):
            stages[option.stage][option.name] = values[option.name]
    return stages["fit"], stages["apply"]


def _job(
    settings: RunSettings,
    pipeline: Pipeline,
    scan: Scan,
    jobs: Mapping[tuple[str, str], Job],
    adopted: Mapping[str, Path],
) -> Job:
    record = read_record(record_path(settings.output_dir, scan))
    upstream = {}
    for name in pipeline.needs:
        builds_on = upstream_scan(scan, [job.scan for job in jobs.values()], name)
        if builds_on is not None:
            upstream[name] = builds_on
    fit, apply = settings_by_stage(settings, pipeline.name)
    files = [path for paths in scan.inputs.values() for path in paths] + list(adopted.values())
    identity = Identity(
        version=VERSION,
        fit=fit,
        apply=apply,
        inputs=fingerprint(
            files,
            settings.bids_dir,
            record.identity.inputs if record is not None else {},
            scan.metadata,
        ),
        upstream={n: jobs[(n, s.label)].identity.digest() for n, s in upstream.items()},
    )
    work, reason = compare(record, identity, settings.output_dir)
    return Job(scan, pipeline, identity, work, reason, record, upstream, adopted)


def upstream_scan(scan: Scan, others: list[Scan], pipeline: str) -> Scan | None:
    """Scan of another pipeline that a scan builds on: of its session, else the participant's.

    Parameters
    ----------
    scan : Scan
        The scan that needs it.
    others : list of Scan
        Candidates.
    pipeline : str
        Pipeline that they belong to.

    Returns
    -------
    Scan or None
        The one of the same session, else the participant's first.
    """
    candidates = [s for s in others if s.pipeline == pipeline and s.participant == scan.participant]
    same = [s for s in candidates if s.session == scan.session]
    return next(iter(same or candidates), None)


def _raise_nothing_usable(settings: RunSettings, skips: list[Skip]) -> None:
    if settings.bids_filter_file is not None and not any(skip.is_error for skip in skips):
        raise SettingsError(
            f"--bids-filter-file {settings.bids_filter_file}: its filters leave no scan; widen "
            "them or leave the option out",
            exit_code=ExitCode.NOTHING_MATCHED,
        )
    reasons = "\n".join(f"  sub-{s.participant} {s.pipeline}: {s.reason}" for s in skips)
    faults = [skip.exit_code for skip in skips if skip.is_error]
    raise DataError(
        f"{settings.bids_dir}: no usable scan\n{reasons}",
        exit_code=faults[0] if faults else ExitCode.NO_INPUT,
    )


def describe(plan: Plan, settings: RunSettings) -> str:
    """Text of a plan: per participant, session and pipeline what will happen and why.

    Parameters
    ----------
    plan : Plan
        What a run will do.
    settings : RunSettings
        What was asked for.

    Returns
    -------
    str
        One line per scan.
    """
    words = {"everything": "run", "apply": "run, fits reused", "nothing": "reuse"}
    rows = [("scan", "pipeline", "what", "why")]
    rows += [(j.scan.label, j.pipeline.name, words[j.work], j.reason) for j in plan.jobs]
    for skip in plan.skips:
        session = "" if skip.session is None else f"_ses-{skip.session}"
        what = "cannot run" if skip.is_error else "skip"
        rows.append((f"sub-{skip.participant}{session}", skip.pipeline, what, skip.reason))
    body = sorted(rows[1:])
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False))
        + f"  {row[3]}"
        for row in [rows[0], *body]
    ]
    title = f"{settings.bids_dir} -> {settings.output_dir} ({settings.mode} mode)"
    return "\n".join([title, *lines]) + "\n"
