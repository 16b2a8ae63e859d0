"""From what a run did to the report page of each participant."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from bids_alsmri.bids.sink import sidecar_path
from bids_alsmri.bids.spec import FigureSpec, fill
from bids_alsmri.engine.methods import cited_keys, methods_text, references
from bids_alsmri.engine.pipeline import registry
from bids_alsmri.engine.progress import PLUMBING
from bids_alsmri.engine.records import read_record, record_path
from bids_alsmri.engine.runner import Outcome, write_timing
from bids_alsmri.options import options_of
from bids_alsmri.participant import Result, values_for_names
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
    SettingRow,
    StepTime,
    write_page,
)
from bids_alsmri.settings import RunSettings
from bids_alsmri.version import VERSION

log = logging.getLogger(__name__)


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
    """
    pages = []
    for participant in result.plan.participants:
        if _needs_page(settings, result, participant):
            path = settings.output_dir / f"sub-{participant}.html"
            write_page(_page(settings, result, participant, command_line), path)
            pages.append(path)
            log.info("report: %s", path)
    if result.outcomes:
        write_timing(folder / "seconds.json", list(result.outcomes.values()))
    return pages


def _needs_page(settings: RunSettings, result: Result, participant: str) -> bool:
    # a run that found everything done must leave the pages of the run that did it
    changed = any(o.graph.scan.participant == participant for o in result.outcomes.values())
    return changed or not (settings.output_dir / f"sub-{participant}.html").is_file()


def _page(settings: RunSettings, result: Result, participant: str, command_line: str) -> Page:
    jobs = [job for job in result.plan.jobs if job.scan.participant == participant]
    outcomes = {job.key: result.outcomes.get(job.key) for job in jobs}
    sections = [_section(settings, job, outcomes[job.key]) for job in jobs]
    sections += [
        Section(
            registry()[skip.pipeline].title,
            f"ses-{skip.session}" if skip.session else f"sub-{participant}",
            "failed" if skip.is_error else "skipped",
            skip.reason,
        )
        for skip in result.plan.skips
        if skip.participant == participant
    ]
    used = list(dict.fromkeys(job.pipeline.name for job in jobs))
    facts = {
        "template": settings.template,
        "version": VERSION,
        "mode": settings.mode,
        "has_anatomy": any(job.upstream for job in jobs),
    }
    texts = [methods_text(registry()[n], settings.pipelines[n], facts) for n in used]
    keys = cited_keys(texts)
    return Page(
        title=f"sub-{participant}",
        software="bids_alsmri",
        version=VERSION,
        date=result.started,
        command_line=command_line,
        status=_status(sections),
        sections=tuple(sections),
        methods="\n\n".join(texts),
        references=tuple(Reference(k, references()[k].text, references()[k].doi) for k in keys),
        settings=tuple(_setting_rows(settings, used)),
        errors=tuple(_errors(jobs, outcomes)),
        outputs=tuple(_outputs(settings, jobs)),
    )


def _status(sections: Sequence[Section]) -> RunStatus:
    failed = [section.status == "failed" for section in sections]
    if not any(failed):
        return "done"
    worked = any(section.status in ("done", "reused") for section in sections)
    return "partial" if worked else "failed"


def _section(settings: RunSettings, job: Job, outcome: Outcome | None) -> Section:
    record = read_record(record_path(settings.output_dir, job.scan))
    if outcome is None:
        status, reason = "reused", job.reason
    elif outcome.is_done:
        status, reason = "done", ""
    else:
        status, reason = "failed", " ".join(outcome.errors)
    seconds = record.seconds if record is not None and outcome is None else {}
    prefix = re.sub(r"\W", "_", f"{job.scan.label}_{job.pipeline.name}_")
    times = dict(outcome.seconds) if outcome is not None else dict(seconds)
    quality, warnings, notes = _quality(settings, job)
    sources = [p for name in job.pipeline.io_spec.inputs for p in job.scan.inputs.get(name, ())]
    return Section(
        pipeline=job.pipeline.title,
        scan=job.scan.label.replace("_", " "),
        status=status,  # type: ignore[arg-type]
        reason=reason,
        sources=tuple(str(path.relative_to(settings.bids_dir)) for path in sources),
        warnings=tuple(warnings),
        notes=(*job.scan.notes, *notes),
        figures=tuple(_figures(settings, job)),
        quality=tuple(quality),
        timing=tuple(
            StepTime(name.removeprefix(prefix).replace("_", " "), value)
            for name, value in sorted(times.items(), key=lambda item: -item[1])
            if not name.removeprefix(prefix).startswith(PLUMBING)
        ),
    )


def _figures(settings: RunSettings, job: Job) -> Iterable[Figure]:
    from bids_alsmri.engine.graph import figure_file

    for spec in job.pipeline.io_spec.figures.values():
        parts = ("before", "after") if spec.kind == "flicker" else ("",)
        paths = tuple(figure_file(settings.output_dir, job.scan, spec, part) for part in parts)
        if all(path.is_file() for path in paths):
            values = values_for_names(settings, job.pipeline.name, bool(job.upstream))
            yield _figure(spec, paths, values)


def _figure(spec: FigureSpec, paths: tuple[Path, ...], values: Mapping[str, str]) -> Figure:
    caption = fill(spec.caption, values)
    return Figure(title=fill(spec.title, values), caption=caption, paths=paths, kind=spec.kind)


def _quality(settings: RunSettings, job: Job) -> tuple[list[QualityRow], list[str], list[str]]:
    from bids_alsmri.bids.sink import output_path

    spec = job.pipeline.io_spec.outputs.get("quality")
    if spec is None:
        return [], [], []
    values = values_for_names(settings, job.pipeline.name, bool(job.upstream))
    path = output_path(settings.output_dir, job.scan, spec, values)
    if not path.is_file():
        return [], [], []
    table = pd.read_csv(path, sep="\t")
    rows = [
        QualityRow(
            name=str(row["measure"]).replace("_", " "),
            value=_number(row["value"], math.nan),
            unit="" if str(row["unit"]) in ("1", "nan") else str(row["unit"]),
            low=_number(row["low"], None),
            high=_number(row["high"], None),
            description=str(row["description"]),
        )
        for row in table.to_dict("records")
    ]
    facts = json.loads(sidecar_path(path).read_text(encoding="utf-8"))
    return rows, list(facts.get("Warnings", [])), list(facts.get("Notes", []))


def _number(value: Any, absent: Any) -> Any:
    return absent if pd.isna(value) else float(value)


def _setting_rows(settings: RunSettings, pipelines: Iterable[str]) -> Iterable[SettingRow]:
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


def _errors(
    jobs: Iterable[Job], outcomes: Mapping[tuple[str, str], Outcome | None]
) -> Iterable[ErrorText]:
    for job in jobs:
        outcome = outcomes[job.key]
        if outcome is not None and not outcome.is_done:
            traces = list(outcome.traces) + [""] * (len(outcome.errors) - len(outcome.traces))
            for message, trace in zip(outcome.errors, traces, strict=False):
                yield ErrorText(f"{job.pipeline.title}, {job.scan.label}", message, trace)


def _outputs(settings: RunSettings, jobs: Iterable[Job]) -> Iterable[OutputFile]:
    for job in jobs:
        record = read_record(record_path(settings.output_dir, job.scan))
        if record is None:
            continue
        values = values_for_names(settings, job.pipeline.name, bool(job.upstream))
        for name, spec in job.pipeline.io_spec.outputs.items():
            if name in record.outputs:
                unit = f" ({spec.units})" if spec.units not in ("", "1") else ""
                yield OutputFile(record.outputs[name], fill(spec.description, values) + unit)
