"""What a run will do: which scans there are, and what is left to do for each."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bids_alsmri.adoption import find_adopted, find_drawn, find_foreign, open_derivatives
from bids_alsmri.bids.dataset import check_derivatives, check_output_dir, check_raw
from bids_alsmri.bids.query import (
    Scan,
    Skip,
    check_filters,
    find_scans,
    list_candidates,
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

if TYPE_CHECKING:
    from bids import BIDSLayout

log = logging.getLogger(__name__)

# under which the identity of a scan lists what the atlases say
ATLASES = "atlases"
NO_REGIONS = "no table of regions was made; give some with --atlas-dir"


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
    # clinical tables of the group level need no images
    is_table = settings.level == "group" and (settings.bids_dir / "participants.tsv").is_file()
    check_raw(
        settings.bids_dir,
        skip_validation=settings.skip_bids_validation,
        needs_folders=not is_table,
    )
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
    plan = find_plan(settings)
    require_usable(plan, settings)
    return plan


def find_plan(settings: RunSettings) -> Plan:
    """Find what :func:`make_plan` finds, also where no scan is usable.

    Parameters
    ----------
    settings : RunSettings
        What was asked for.

    Returns
    -------
    Plan
        Jobs, perhaps none, and reasons for what is skipped.

    Raises
    ------
    SettingsError
        If a label or filter matches nothing, or the template is not to be had.
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
    names = with_needs(settings.pipeline_names)
    planner = _Planner(settings, open_derivatives(settings.derivatives, participants))

    files = list_candidates(layout, participants)

    def search(pipeline: Pipeline, asked: tuple[str, ...]) -> tuple[list[Scan], list[Skip]]:
        return find_scans(
            layout,
            pipeline.name,
            pipeline.io_spec,
            participants=participants,
            sessions=asked,
            filters=filters,
            group_by=pipeline.group_by(settings.pipelines[pipeline.name]),
            primary=pipeline.primary,
            files=files,
        )

    for name in names:
        pipeline = registry()[name]
        scans, skips = search(pipeline, sessions)
        planner.skips += skips
        if any(name in registry()[other].needs for other in names):
            # a scan of any session may be built on, whichever sessions were asked for
            everywhere, faults = search(pipeline, ()) if sessions else (scans, skips)
            lenders: dict[str, list[Scan]] = {}
            for scan in everywhere:
                lenders.setdefault(scan.participant, []).append(scan)
            planner.lenders[name] = lenders
            planner.faults += [skip for skip in faults if skip.is_error]
        for scan in scans:
            planner.add(pipeline, scan, planner.skips)
    return Plan(tuple(participants), tuple(planner.jobs.values()), tuple(planner.skips))


def _require_template(name: str) -> None:
    try:
        require_template(name)
    except DataError as error:
        raise SettingsError(str(error)) from None


def digests_of_atlases(settings: RunSettings, grid_mm: float) -> dict[str, str]:
    """What the atlases at hand say, in short.

    Parameters
    ----------
    settings : RunSettings
        Give template and atlases.
    grid_mm : float
        Voxel size of the template's grid, on which areas are drawn.

    Returns
    -------
    dict of str
        Digest of each atlas by its name.

    Raises
    ------
    DataError
        If an atlas is broken, or its left is its right.
    """
    from bids_alsmri.spaces.atlases import atlas_digest, load_atlases
    from bids_alsmri.spaces.templates import get_template

    found = load_atlases(
        get_template(settings.template, grid_mm),
        atlas_dir=settings.atlas_dir,
        threshold_percent=settings.atlas_threshold_percent,
    )
    return {atlas.name: atlas_digest(atlas) for atlas in found}


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


def files_of_settings(settings: SettingsModel) -> list[Path]:
    """Files that settings name, themselves or by their folder: results depend on what they hold.

    Parameters
    ----------
    settings : SettingsModel
        Of a pipeline.

    Returns
    -------
    list of Path
        Those that are there; the step that reads one says what is wrong where it is not.
    """
    named = [value for _, value in settings if isinstance(value, Path)]
    below = [path for folder in named if folder.is_dir() for path in folder.rglob("*")]
    return sorted(path for path in [*named, *below] if path.is_file())


@dataclass
class _Planner:
    """What is known while a plan is made.

    Parameters
    ----------
    settings : RunSettings
        What was asked for.
    others : mapping
        Index of each derivative dataset whose results may be adopted.
    jobs : dict of Job
        By pipeline and label of the scan.
    skips : list of Skip
        What of that asked for cannot be processed.
    lenders : dict of dict of list of Scan
        Scans of all sessions that others can build on, by pipeline and participant.
    faults : list of Skip
        Those that cannot be built on, since data are at fault.
    atlases : dict of dict
        What the atlases at hand say (:func:`atlas_digest`), by voxel size and name.
    stages : dict of tuple
        What :func:`settings_by_stage` says, by pipeline.
    """

    settings: RunSettings
    others: Mapping[str, BIDSLayout]
    jobs: dict[tuple[str, str], Job] = field(default_factory=dict)
    skips: list[Skip] = field(default_factory=list)
    lenders: dict[str, dict[str, list[Scan]]] = field(default_factory=dict)
    faults: list[Skip] = field(default_factory=list)
    atlases: dict[float, dict[str, str]] = field(default_factory=dict)
    stages: dict[str, tuple[dict[str, Any], dict[str, Any]]] = field(default_factory=dict)

    def add(self, pipeline: Pipeline, scan: Scan, skips: list[Skip]) -> Job | None:
        """Job of a scan, after those that it builds on; None, and a skip, where data forbid it."""
        known = self.jobs.get((pipeline.name, scan.label))
        if known is not None:
            return known
        # one that is broken ends the run, not the scan
        atlases = self._atlases(pipeline)
        try:
            values = {"template": self.settings.template}
            adopted = {
                **find_foreign(self.others, pipeline, scan),
                **find_adopted(self.others, pipeline, scan, values),
                **find_drawn(self.others, pipeline, scan),
            }
            upstream, notes = self._upstream(pipeline, scan)
            if pipeline.atlas_grid_mm and upstream and not atlases:
                notes.append(f"no atlas of {self.settings.template} is at hand: {NO_REGIONS}")
            noted = replace(scan, notes=(*scan.notes, *notes))
            own = atlases if upstream else {}
            fit, apply = self._stages(pipeline)
            if own:
                # what they say, not where they lie, decides the numbers
                apply = {**apply, ATLASES: dict(own)}
            job = _job(
                self.settings, pipeline, noted, upstream, fit=fit, apply=apply, adopted=adopted
            )
        except DataError as error:
            skip = _skip_of(scan, error)
            skips.append(skip)
            self.faults.append(skip)
            return None
        self.jobs[job.key] = job
        return job

    def _atlases(self, pipeline: Pipeline) -> dict[str, str]:
        if not pipeline.atlas_grid_mm:
            return {}
        own = self.settings.pipelines[pipeline.name]
        grid_mm = float(getattr(own, pipeline.atlas_grid_mm))
        if grid_mm not in self.atlases:
            self.atlases[grid_mm] = digests_of_atlases(self.settings, grid_mm)
        return self.atlases[grid_mm]

    def _stages(self, pipeline: Pipeline) -> tuple[dict[str, Any], dict[str, Any]]:
        if pipeline.name not in self.stages:
            self.stages[pipeline.name] = settings_by_stage(self.settings, pipeline.name)
        return self.stages[pipeline.name]

    def _upstream(self, pipeline: Pipeline, scan: Scan) -> tuple[dict[str, Job], list[str]]:
        found: dict[str, Job] = {}
        notes: list[str] = []
        for name in pipeline.needs:
            job = self._built_on(name, scan)
            if job is None:
                notes.append(pipeline.without_needs)
                continue
            found[name] = job
            if job.scan.session != scan.session:
                what = job.pipeline.io_spec.inputs[job.pipeline.primary].description
                notes.append(
                    f"{_place(job.scan.session)} lends its {what or job.pipeline.primary}, since "
                    f"{_place(scan.session)} has none"
                )
        return found, [note for note in notes if note]

    def _built_on(self, name: str, scan: Scan) -> Job | None:
        candidates = self.lenders[name].get(scan.participant, [])
        same = [s for s in candidates if s.session == scan.session]
        others = [s for s in candidates if s.session != scan.session]
        for lenders, sessions in ((same, (None, scan.session)), (others, None)):
            for lender in lenders:
                # faults of sessions that nobody asked for are told only where they are in the way
                job = self.add(registry()[name], lender, [])
                if job is not None:
                    return job
            self._refuse_faulty(name, scan, sessions)
        return None

    def _refuse_faulty(
        self, name: str, scan: Scan, sessions: tuple[str | None, ...] | None
    ) -> None:
        for fault in self.faults:
            if (fault.pipeline, fault.participant) != (name, scan.participant):
                continue
            if sessions is None or fault.session in sessions:
                needed = registry()[name].primary
                example = json.dumps({needed: {"suffix": "none"}})
                raise DataError(
                    f"the input {needed} on which it would build cannot be used; repair that, or "
                    f"go without it by --participant-label {scan.participant} and "
                    f"--bids-filter-file with {example}. The fault: {fault.reason}",
                    exit_code=fault.exit_code,
                )


def _place(session: str | None) -> str:
    return "the participant's own folder" if session is None else f"ses-{session}"


def _job(
    settings: RunSettings,
    pipeline: Pipeline,
    scan: Scan,
    upstream: Mapping[str, Job],
    *,
    fit: dict[str, Any],
    apply: dict[str, Any],
    adopted: Mapping[str, Path],
) -> Job:
    record = read_record(record_path(settings.output_dir, scan))
    files = [path for paths in scan.inputs.values() for path in paths] + list(adopted.values())
    files += files_of_settings(settings.pipelines[pipeline.name]) + pipeline.beside(scan)
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
        upstream={name: job.identity.digest() for name, job in upstream.items()},
    )
    work, reason = compare(record, identity, settings.output_dir)
    scans = {name: job.scan for name, job in upstream.items()}
    return Job(scan, pipeline, identity, work, reason, record, scans, adopted)


def require_usable(plan: Plan, settings: RunSettings) -> None:
    """Raise where a plan has nothing to process.

    Parameters
    ----------
    plan : Plan
        What was found.
    settings : RunSettings
        What was asked for.

    Raises
    ------
    SettingsError
        If the filters leave no scan.
    DataError
        If no scan is usable, with the exit code of the first fault.
    """
    if plan.jobs:
        return
    skips = plan.skips
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
    for job in plan.jobs:
        why = "; ".join((job.reason, *job.scan.notes))
        rows.append((job.scan.label, job.pipeline.name, words[job.work], why))
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
