"""From what a run did to the report page of each participant."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from bids_alsmri.bids.query import Skip
from bids_alsmri.bids.sink import sidecar_path
from bids_alsmri.bids.spec import FigureSpec, fill, output_name
from bids_alsmri.engine.methods import cited_keys, references
from bids_alsmri.engine.pipeline import Pipeline, registry
from bids_alsmri.engine.progress import PLUMBING
from bids_alsmri.engine.records import Record, read_record, record_path
from bids_alsmri.engine.runner import Outcome, write_timing
from bids_alsmri.errors import RunError
from bids_alsmri.options import options_of
from bids_alsmri.participant import SIDECAR, Result, label_of, methods_of, values_for_names
from bids_alsmri.planning import Job
from bids_alsmri.reports.page import (
    ErrorText,
    Figure,
    OutputFile,
    Page,
    QualityRow,
    Reference,
    RunStatus,
    Section,
    SectionStatus,
    SettingRow,
    StepTime,
    write_page,
)
from bids_alsmri.settings import RunSettings
from bids_alsmri.version import VERSION

log = logging.getLogger(__name__)

OLD_RESULTS = "results of an earlier run are still in the output folder; they are not shown here"
UNFINISHED = "did not come to its end; run this scan again"
_WORDS = {
    "gm": "grey-matter",
    "wm": "white-matter",
    "csf": "CSF",
    "snr": "SNR",
    "sd": "SD",
    "dwi": "DWI",
    "b0": "b=0",
}
# the state of a page stands within its first lines
_HEAD_CHARACTERS = 4000


@dataclass(frozen=True)
class _Part:
    """What is known of one scan, whether this run or an earlier one processed it.

    Parameters
    ----------
    pipeline : Pipeline
        What processed it.
    label : str
        Name of the scan.
    status : {"done", "reused", "failed"}
        What became of it.
    reason : str
        Why.
    files : mapping of Path
        Results and figures that are shown, by the name of the output.
    values : mapping of str
        What fills the placeholders of the spec.
    sources, notes : tuple of str
        Input files and remarks on their choice.
    seconds : mapping of float
        Run time of the steps, in s.
    methods : str
        Methods text.
    outcome : Outcome or None
        What this run did.
    digest : str
        Of what decides its numbers.
    """

    pipeline: Pipeline
    label: str
    status: SectionStatus
    reason: str
    files: Mapping[str, Path]
    values: Mapping[str, str]
    sources: tuple[str, ...]
    notes: tuple[str, ...]
    seconds: Mapping[str, float]
    methods: str
    outcome: Outcome | None = None
    digest: str = ""


def write_reports(
    settings: RunSettings, result: Result, folder: Path, command_line: str
) -> list[Path]:
    """Write one page for each participant of a run.

    Parameters
    ----------
    settings : RunSettings
        What was asked for.
    result : Result
        What the run did.
    folder : Path
        Log folder of the run.
    command_line : str
        As the user typed it.

    Returns
    -------
    list of Path
        The pages.

    Raises
    ------
    RunError
        If a page cannot be made or written; those of all other participants are there.
    """
    if result.outcomes:
        write_timing(folder / "seconds.json", list(result.outcomes.values()))
    pages = []
    problems = []
    for participant in result.plan.participants:
        path = settings.output_dir / f"sub-{participant}.html"
        try:
            if _write_report(settings, result, participant, command_line, path):
                pages.append(path)
                log.info("report: %s", path)
        except RunError as error:
            problems.append(error)
        except Exception as error:
            # one damaged table must not keep the pages of all others from being written
            log.debug("%s", path, exc_info=True)
            told = f"{type(error).__name__}: {error}"
            problems.append(RunError(f"{path}: cannot be made ({told}); see --verbose"))
    for problem in problems:
        log.error("%s", problem)
    if problems:
        raise problems[0]
    return pages


def _write_report(
    settings: RunSettings, result: Result, participant: str, command_line: str, path: Path
) -> bool:
    is_due = any(o.graph.scan.participant == participant for o in result.outcomes.values())
    written = False
    while True:
        parts = _parts(settings, result, participant)
        state = _state(result, participant, parts)
        # a run that found everything done must leave the page of the run that did it
        if not is_due and _state_of_page(path) == state:
            return written
        page = _page(settings, result, participant, command_line, parts)
        write_page(replace(page, state=state), path)
        # once more if another job of the participant has ended meanwhile
        is_due, written = False, True


def _state(result: Result, participant: str, parts: Sequence[_Part]) -> str:
    shown = [
        (part.pipeline.name, part.label, part.status == "failed", part.digest) for part in parts
    ]
    skips = [skip for skip in result.plan.skips if skip.participant == participant]
    faults = [(skip.pipeline, skip.session, skip.reason) for skip in skips if skip.is_error]
    return hashlib.sha256(json.dumps([shown, faults]).encode()).hexdigest()[:16]


def _state_of_page(path: Path) -> str | None:
    try:
        with path.open(encoding="utf-8", errors="replace") as stream:
            head = stream.read(_HEAD_CHARACTERS)
    except OSError:
        return None
    found = re.search(r'<meta name="state" content="(\w+)">', head)
    return None if found is None else found[1]


def _parts(settings: RunSettings, result: Result, participant: str) -> list[_Part]:
    """Scans of this run, and those that earlier runs or other jobs have processed."""
    jobs = {job.key: job for job in result.plan.jobs if job.scan.participant == participant}
    parts = [_part_of_run(settings, job, result.outcomes.get(key)) for key, job in jobs.items()]
    folder = settings.output_dir / "logs" / "scans"
    for path in sorted(folder.glob(f"sub-{participant}_*.json")):
        for name, pipeline in registry().items():
            label = path.stem.removesuffix(f"_{name}")
            record = read_record(path) if path.stem.endswith(f"_{name}") else None
            is_faulty = any(_concerns(skip, name, label) for skip in result.plan.skips)
            if record is not None and (name, label) not in jobs and not is_faulty:
                parts.append(_part_of_record(settings, pipeline, label, record, path))
    order = list(registry())
    return sorted(parts, key=lambda part: (order.index(part.pipeline.name), part.label))


def _concerns(skip: Skip, pipeline: str, label: str) -> bool:
    place = _place(skip)
    is_of_place = label == place or label.startswith(f"{place}_")
    return skip.is_error and skip.pipeline == pipeline and is_of_place


def _place(skip: Skip) -> str:
    session = "" if skip.session is None else f"_ses-{skip.session}"
    return f"sub-{skip.participant}{session}"


def _part_of_run(settings: RunSettings, job: Job, outcome: Outcome | None) -> _Part:
    record = read_record(record_path(settings.output_dir, job.scan))
    status: SectionStatus = "reused" if outcome is None else "done" if outcome.is_done else "failed"
    notes = list(job.scan.notes)
    if outcome is not None and not outcome.is_done:
        saved = outcome.graph.destinations.items()
        prefix = _step_prefix(job.scan.label, job.pipeline)
        files = {
            name: path
            for name, path in saved
            if re.sub(r"\W", "_", f"{prefix}save_{name}") in outcome.seconds
        }
        if record is not None:
            notes.append(OLD_RESULTS)
        reason = " ".join(outcome.errors)
    else:
        outputs = record.outputs if record is not None else {}
        files = {name: settings.output_dir / output for name, output in outputs.items()}
        reason = job.reason if outcome is None else ""
    inputs = [p for name in job.pipeline.io_spec.inputs for p in job.scan.inputs.get(name, ())]
    return _Part(
        pipeline=job.pipeline,
        label=job.scan.label,
        status=status,
        reason=reason,
        files=files,
        values=values_for_names(settings, job.pipeline.name, bool(job.upstream)),
        sources=tuple(str(path.relative_to(settings.bids_dir)) for path in inputs),
        notes=tuple(notes),
        seconds=outcome.seconds if outcome is not None else record.seconds if record else {},
        methods=methods_of(settings, job),
        outcome=outcome,
        digest=job.identity.digest(),
    )


def _part_of_record(
    settings: RunSettings, pipeline: Pipeline, label: str, record: Record, path: Path
) -> _Part:
    when = datetime.fromtimestamp(path.stat().st_mtime, UTC).strftime("%Y-%m-%d %H:%M UTC")
    own = {**record.identity.fit, **record.identity.apply}
    values = values_for_names(settings, pipeline.name, bool(record.identity.upstream))
    values.update({name: label_of(value) for name, value in own.items()})
    files = {name: settings.output_dir / output for name, output in record.outputs.items()}
    return _Part(
        pipeline=pipeline,
        label=label,
        status="done" if record.is_whole else "failed",
        reason=f"of the run of {when}" if record.is_whole else f"the run of {when} {UNFINISHED}",
        files=files if record.is_whole else {},
        values=values,
        sources=tuple(p for p in record.identity.inputs if not p.endswith((".bval", ".bvec"))),
        notes=tuple(record.notes),
        seconds=record.seconds,
        methods=record.methods,
        digest=record.identity.digest(),
    )


def _page(
    settings: RunSettings,
    result: Result,
    participant: str,
    command_line: str,
    parts: Sequence[_Part],
) -> Page:
    order = list(registry())
    sections = [(order.index(part.pipeline.name), _section(part)) for part in parts]
    for skip in result.plan.skips:
        if skip.participant == participant:
            section = _section_of_skip(settings, skip)
            sections.append((order.index(skip.pipeline), section))
    sections.sort(key=lambda item: (item[0], item[1].scan))
    shown = tuple(section for _, section in sections)
    used = [name for name in order if name in {part.pipeline.name for part in parts}]
    text = _methods(parts)
    keys = cited_keys([text])
    return Page(
        title=f"sub-{participant}",
        software="bids_alsmri",
        version=VERSION,
        date=result.started,
        command_line=command_line,
        status=_status(shown),
        sections=shown,
        methods=text,
        references=tuple(Reference(k, references()[k].text, references()[k].doi) for k in keys),
        settings=tuple(setting_rows(settings, used)),
        errors=tuple(_errors(parts)),
        outputs=tuple(_outputs(settings, parts)),
    )


def _methods(parts: Sequence[_Part]) -> str:
    """Methods text of each pipeline; several, with their scans, where its scans differ."""
    labels: dict[str, dict[str, list[str]]] = {}
    for part in parts:
        by_text = labels.setdefault(part.pipeline.name, {})
        by_text.setdefault(part.methods, []).append(part.label.replace("_", " "))
    texts = []
    for by_text in labels.values():
        for text, scans in by_text.items():
            head, _, body = text.partition("\n")
            is_titled = head.startswith("#") and len(by_text) > 1
            texts.append(f"{head} ({', '.join(scans)})\n{body}" if is_titled else text)
    return "\n\n".join(text for text in texts if text)


def _section_of_skip(settings: RunSettings, skip: Skip) -> Section:
    records = (settings.output_dir / "logs" / "scans").glob(f"{_place(skip)}_*{skip.pipeline}.json")
    has_older = skip.is_error and any(
        _concerns(skip, skip.pipeline, path.stem.removesuffix(f"_{skip.pipeline}"))
        for path in records
    )
    return Section(
        registry()[skip.pipeline].title,
        _place(skip).replace("_", " "),
        "failed" if skip.is_error else "skipped",
        skip.reason,
        notes=(OLD_RESULTS,) if has_older else (),
    )


def _status(sections: Sequence[Section]) -> RunStatus:
    failed = [section.status == "failed" for section in sections]
    if not any(failed):
        return "done"
    worked = any(section.status in ("done", "reused") for section in sections)
    return "partial" if worked else "failed"


def _section(part: _Part) -> Section:
    prefix = _step_prefix(part.label, part.pipeline)
    quality, warnings, notes = _quality(part)
    return Section(
        pipeline=part.pipeline.title,
        scan=part.label.replace("_", " "),
        status=part.status,
        reason=part.reason,
        sources=part.sources,
        warnings=(*warnings, *_warnings_of_tables(part)),
        notes=(*part.notes, *notes),
        figures=tuple(_figures(part)),
        quality=tuple(quality),
        timing=tuple(
            StepTime(name.removeprefix(prefix).replace("_", " "), value)
            for name, value in sorted(part.seconds.items(), key=lambda item: -item[1])
            if not name.removeprefix(prefix).startswith(PLUMBING)
        ),
    )


def _step_prefix(label: str, pipeline: Pipeline) -> str:
    return re.sub(r"\W", "_", f"{label}_{pipeline.name}_")


def _figures(part: _Part) -> Iterable[Figure]:
    for name, spec in part.pipeline.io_spec.figures.items():
        ends = ("before", "after") if spec.kind == "flicker" else ("",)
        paths = [part.files.get(f"figure_{name}{end}") for end in ends]
        there = tuple(path for path in paths if path is not None and path.is_file())
        if len(there) == len(ends):
            yield _figure(spec, there, part.values)


def _figure(spec: FigureSpec, paths: tuple[Path, ...], values: Mapping[str, str]) -> Figure:
    caption = fill(spec.caption, values)
    return Figure(
        title=fill(spec.title, values),
        caption=caption,
        paths=paths,
        kind=spec.kind,
        labels=(spec.labels[0], spec.labels[1]),
    )


def _quality(part: _Part) -> tuple[list[QualityRow], list[str], list[str]]:
    path = part.files.get("quality")
    if path is None or not path.is_file():
        return [], [], []
    table = pd.read_csv(path, sep="\t")
    rows = [
        QualityRow(
            name=_in_words(str(row["measure"])),
            value=_number(row["value"], math.nan),
            unit="" if str(row["unit"]) in ("1", "nan") else str(row["unit"]),
            low=_number(row["low"], None),
            high=_number(row["high"], None),
            description=str(row["description"]),
        )
        for row in table.to_dict("records")
    ]
    try:
        facts = json.loads(sidecar_path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return (
            rows,
            [],
            [f"{sidecar_path(path).name} is missing or damaged: warnings are not shown"],
        )
    return rows, list(facts.get("Warnings", [])), list(facts.get("Notes", []))


def _warnings_of_tables(part: _Part) -> Iterable[str]:
    """Doubts about tables beside that of quality, whose steps may run after it was made."""
    for name, spec in part.pipeline.io_spec.outputs.items():
        path = part.files.get(name)
        if path is None or name == "quality" or spec.extension != ".tsv":
            continue
        try:
            facts = json.loads(sidecar_path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            yield f"{sidecar_path(path).name} is missing or damaged: warnings are not shown"
            continue
        yield from facts.get("Warnings", [])


def _in_words(measure: str) -> str:
    return " ".join(_WORDS.get(part, part) for part in measure.split("_"))


def _number(value: Any, absent: Any) -> Any:
    return absent if pd.isna(value) else float(value)


def setting_rows(settings: RunSettings, pipelines: Iterable[str]) -> Iterable[SettingRow]:
    """Settings of a run as a report shows them.

    Parameters
    ----------
    settings : RunSettings
        Of the run.
    pipelines : iterable of str
        Pipelines, or the group level, whose own settings are shown after those of the run.

    Yields
    ------
    SettingRow
        In the order of their declaration.
    """
    models = [("", settings), *((name, settings.pipelines[name]) for name in pipelines)]
    for prefix, model in models:
        values = model.model_dump(mode="json")
        for option in options_of(type(model), prefix=prefix):
            value = values[option.name]
            is_paper = option.has_paper_value and settings.mode == "paper"
            usual = option.paper if is_paper else option.default
            is_usual = json.dumps(value) == json.dumps(usual, default=str)
            origin = ("paper" if is_paper else "default") if is_usual else "given"
            unit = "" if option.unit == "1" else option.unit
            yield SettingRow(option.flags[0], _text(value), unit, origin)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(str(item) for item in value)
    if isinstance(value, bool):
        return "on" if value else "off"
    return "" if value in (None, {}) else str(value)


def _errors(parts: Iterable[_Part]) -> Iterable[ErrorText]:
    for part in parts:
        outcome = part.outcome
        if outcome is not None and not outcome.is_done:
            traces = list(outcome.traces) + [""] * (len(outcome.errors) - len(outcome.traces))
            for message, trace in zip(outcome.errors, traces, strict=False):
                yield ErrorText(f"{part.pipeline.title}, {part.label}", message, trace)


def _outputs(settings: RunSettings, parts: Iterable[_Part]) -> Iterable[OutputFile]:
    for part in parts:
        for name, spec in part.pipeline.io_spec.outputs.items():
            unit = f" ({spec.units})" if spec.units not in ("", "1") else ""
            for kept, file in part.files.items():
                # of an output that there are many of, one for each station
                if output_name(kept) == name and not kept.endswith(SIDECAR):
                    path = file.relative_to(settings.output_dir).as_posix()
                    yield OutputFile(path, fill(spec.description, part.values) + unit)
