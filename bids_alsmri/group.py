"""Group level: collect the participants' tables into one table per kind."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bids_alsmri.bids.query import parse_name, resolve_labels
from bids_alsmri.bids.sink import write_text
from bids_alsmri.bids.spec import OutputSpec
from bids_alsmri.engine.pipeline import Pipeline, registry, with_needs
from bids_alsmri.engine.records import Record, read_record
from bids_alsmri.errors import DataError, ExitCode
from bids_alsmri.settings import RunSettings

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Finished:
    """A scan that the participant level has finished.

    Parameters
    ----------
    label : str
        Name of the scan, such as ``sub-01_ses-m00_dir-AP``.
    participant : str
        Label without ``sub-``.
    session : str or None
        Label without ``ses-``.
    record : Record
        What it was made from, and its outputs.
    images : frozenset of str
        Images that it was made from, relative to the dataset.
    written_ns : int
        When its record was written, in ns.
    """

    label: str
    participant: str
    session: str | None
    record: Record
    images: frozenset[str]
    written_ns: int


def run_group_level(settings: RunSettings, command_line: str) -> ExitCode:
    """Collect quality and region tables of all participants.

    Parameters
    ----------
    settings : RunSettings
        What was asked for; OUTPUT_DIR holds the results of the participant level.
    command_line : str
        As the user typed it, for the log.

    Returns
    -------
    ExitCode
        Done, or that some scans failed where a record or table cannot be read.

    Raises
    ------
    SettingsError
        If no finished scan has a label that was asked for.
    DataError
        If OUTPUT_DIR holds no table of the participants and sessions asked for.
    """
    log.info("%s", command_line)
    faults: list[str] = []
    names = with_needs(settings.pipeline_names)
    finished = {name: _finished(settings, registry()[name], faults) for name in names}
    chosen = _chosen(settings, finished)
    done = []
    for name, scans in chosen.items():
        for spec in registry()[name].io_spec.outputs.values():
            if spec.group and spec.extension == ".tsv":
                tables = _tables(settings.output_dir, scans, spec, faults)
                if tables:
                    done.append(_collect(settings, name, spec, tables))
    for fault in faults:
        log.error("%s", fault)
    if not done:
        nothing = (
            f"{settings.output_dir}: no results of the participant level; run "
            "'bids_alsmri BIDS_DIR OUTPUT_DIR participant' first"
        )
        raise DataError(
            "\n".join(faults) or nothing,
            exit_code=ExitCode.BAD_DATA if faults else ExitCode.NO_INPUT,
        )
    return ExitCode.SCANS_FAILED if faults else ExitCode.DONE


def _finished(settings: RunSettings, pipeline: Pipeline, faults: list[str]) -> list[Finished]:
    """Scans of a pipeline that are finished and that no later run has replaced."""
    primary = pipeline.io_spec.inputs[pipeline.primary]
    found = []
    folder = settings.output_dir / "logs" / "scans"
    for path in sorted(folder.glob(f"sub-*_{pipeline.name}.json")):
        name = parse_name(path.name)
        if name is None or name.suffix != pipeline.name:
            continue
        record = read_record(path)
        if record is None or not record.is_whole:
            faults.append(
                f"{path}: the record of a scan is {'damaged' if record is None else 'not whole'}; "
                "its tables are left out; run the participant level again"
            )
            continue
        images = [(key, parse_name(Path(key).name)) for key in record.identity.inputs]
        found.append(
            Finished(
                label=path.name.removesuffix(f"_{pipeline.name}.json"),
                participant=name.entities["sub"],
                session=name.entities.get("ses"),
                record=record,
                images=frozenset(
                    key
                    for key, image in images
                    if Path(key).parts[0] == f"sub-{name.entities['sub']}"
                    and image is not None
                    and image.suffix in primary.suffixes
                    and image.extension in primary.extensions
                ),
                written_ns=path.stat().st_mtime_ns,
            )
        )
    kept = []
    for scan in found:
        reason = _why_orphan(settings.bids_dir, scan, found)
        if reason:
            log.warning("%s %s: left out: %s", scan.label, pipeline.name, reason)
        else:
            kept.append(scan)
    return kept


def _why_orphan(bids_dir: Path, scan: Finished, others: Iterable[Finished]) -> str:
    """Why a scan's results no longer count; empty where they do.

    A scan is named by what its images share: with another run, filter or setting it gets another
    name, and its old results stay.
    """
    newer = [o for o in others if o.written_ns > scan.written_ns and o.images & scan.images]
    if newer:
        return f"{newer[0].label} was made later from the same images"
    # without the participant's folder, the raw data are merely elsewhere
    if (bids_dir / f"sub-{scan.participant}").is_dir():
        gone = [key for key in sorted(scan.images) if not os.path.lexists(bids_dir / key)]
        if gone:
            return f"{gone[0]} is no longer in the dataset"
    return ""


def _chosen(
    settings: RunSettings, finished: dict[str, list[Finished]]
) -> dict[str, list[Finished]]:
    """Finished scans of the participants and sessions asked for, by pipeline."""
    scans = [scan for found in finished.values() for scan in found]
    if not scans:
        return {}
    available = {scan.participant for scan in scans}
    participants = resolve_labels(settings.participant_label, sorted(available), "participant")
    scans = [scan for scan in scans if scan.participant in participants]
    present = sorted({scan.session for scan in scans if scan.session is not None})
    sessions: tuple[str | None, ...] = resolve_labels(settings.session_label, present, "session")
    return {
        name: [
            scan
            for scan in found
            if scan.participant in participants
            and (scan.session in sessions or not settings.session_label)
        ]
        for name, found in finished.items()
    }


def _tables(
    output_dir: Path, scans: Iterable[Finished], spec: OutputSpec, faults: list[str]
) -> list[tuple[Finished, pd.DataFrame]]:
    """Tables of one kind; what cannot be read goes to the faults."""
    found = []
    for scan in scans:
        if spec.name in scan.record.outputs:
            try:
                found.append((scan, _read_table(output_dir / scan.record.outputs[spec.name])))
            except DataError as error:
                faults.append(str(error))
    return found


def _read_table(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        return pd.read_csv(path, sep="\t")
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: cannot be read as a table ({error}); expected tab-separated columns; remove "
            "it and run the participant level again"
        ) from error


def _collect(
    settings: RunSettings,
    pipeline: str,
    spec: OutputSpec,
    tables: list[tuple[Finished, pd.DataFrame]],
) -> Path:
    """Write one table of all, or tell it where only a plan is wanted."""
    import pandas as pd

    path = (
        settings.output_dir / "group" / f"{pipeline}_desc-{spec.entities['desc']}_{spec.suffix}.tsv"
    )
    if settings.plan:
        sys.stdout.write(f"{path}: {', '.join(scan.label for scan, _ in tables)}\n")
        return path
    parts = []
    for scan, table in tables:
        table.insert(0, "participant_id", f"sub-{scan.participant}")
        table.insert(1, "scan", scan.label)
        parts.append(table)
    write_text(path, pd.concat(parts).to_csv(sep="\t", index=False, na_rep="n/a"))
    log.info("table: %s", path)
    return path
