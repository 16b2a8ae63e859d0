"""What the participant level has left in the output folder, and its tables in one."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from bids_alsmri.bids.query import parse_name, resolve_labels
from bids_alsmri.bids.sink import sidecar_path, write_text
from bids_alsmri.bids.spec import OutputSpec
from bids_alsmri.engine.pipeline import Pipeline, registry, with_needs
from bids_alsmri.engine.records import Record, read_record
from bids_alsmri.errors import DataError
from bids_alsmri.settings import RunSettings

if TYPE_CHECKING:
    import pandas as pd

    from bids_alsmri.bids.clinical import ClinicalTable

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


def find_finished(settings: RunSettings, faults: list[str]) -> dict[str, list[Finished]]:
    """Finished scans of the participants, sessions and pipelines asked for, by pipeline.

    Parameters
    ----------
    settings : RunSettings
        What was asked for; OUTPUT_DIR holds the results of the participant level.
    faults : list of str
        Takes what cannot be read.

    Returns
    -------
    dict of list of Finished
        Without scans that a later run has replaced.

    Raises
    ------
    SettingsError
        If no finished scan has a label that was asked for.
    """
    names = with_needs(settings.pipeline_names)
    return _chosen(settings, {n: finished_of(settings, n, faults) for n in names})


def collect_tables(
    settings: RunSettings, finished: Mapping[str, Sequence[Finished]], faults: list[str]
) -> list[Path]:
    """Write one table of all participants for each kind of table, or tell it where planned.

    Parameters
    ----------
    settings : RunSettings
        What was asked for.
    finished : mapping of sequence of Finished
        Scans by pipeline.
    faults : list of str
        Takes what cannot be read.

    Returns
    -------
    list of Path
        The tables.
    """
    done = []
    for name, scans in finished.items():
        collected = {}
        for spec in registry()[name].io_spec.outputs.values():
            if spec.group and spec.extension == ".tsv":
                tables = read_tables(settings.output_dir, scans, spec, faults)
                if tables:
                    done.append(_collect(settings, name, spec, tables))
                    collected[spec.name] = tables
        if registry()[name].group_tables and collected and not settings.plan:
            done += _derive(settings, registry()[name], collected)
    return done


def _derive(
    settings: RunSettings,
    pipeline: Pipeline,
    collected: Mapping[str, list[tuple[Finished, pd.DataFrame]]],
) -> list[Path]:
    """Write what a pipeline makes of its tables of all participants and the clinical table."""
    import pandas as pd

    from bids_alsmri.bids.clinical import find_clinical_root, read_clinical_table

    module, _, function = pipeline.group_tables.partition(":")
    own = import_module(f"bids_alsmri.pipelines.{pipeline.name}.{module}")
    make = getattr(own, function)
    together = {
        name: pd.concat(
            [
                table.assign(session_id=None if s.session is None else f"ses-{s.session}")
                for s, table in tables
            ]
        )
        for name, tables in collected.items()
    }
    try:
        root = find_clinical_root(settings.bids_dir, settings.output_dir)
        visits = _with_controls(settings, read_clinical_table(root))
    except DataError as error:
        log.warning("%s: tables that need participants.tsv do without it", error)
        visits = pd.DataFrame({"participant_id": []})
    paths = []
    for desc, table in make(together, visits).items():
        path = settings.output_dir / "group" / f"{pipeline.name}_desc-{desc}_stats.tsv"
        write_text(path, table.to_csv(sep="\t", index=False, na_rep="n/a"))
        sidecar = own.sidecar_of(desc, table)
        write_text(sidecar_path(path), json.dumps(sidecar, indent=2) + "\n")
        log.info("table: %s", path)
        paths.append(path)
    return paths


def _with_controls(settings: RunSettings, clinical: ClinicalTable) -> pd.DataFrame:
    """Visits of the clinical table, and whose of them are controls where groups are known."""
    from bids_alsmri.comparisons.settings import group_settings

    cfg, visits = group_settings(settings), clinical.visits
    if cfg.group_column not in visits:
        log.warning(
            "%s: has no column %s, so that nothing is compared with controls; add it, or name "
            "another with --group-group-column",
            clinical.root / "participants.tsv",
            cfg.group_column,
        )
        return visits
    return visits.assign(is_control=visits[cfg.group_column] == cfg.control_label)


def finished_of(settings: RunSettings, name: str, faults: list[str]) -> list[Finished]:
    """Scans of a pipeline that are finished and that no later run has replaced.

    Parameters
    ----------
    settings : RunSettings
        Give the output folder; labels that were asked for do not matter.
    name : str
        Pipeline.
    faults : list of str
        Takes what cannot be read.

    Returns
    -------
    list of Finished
        In the order of their labels.
    """
    pipeline = registry()[name]
    primary = pipeline.io_spec.inputs[pipeline.primary]
    found = []
    folder = settings.output_dir / "logs" / "scans"
    for path in sorted(folder.glob(f"sub-*_{pipeline.name}.json")):
        parsed = parse_name(path.name)
        if parsed is None or parsed.suffix != pipeline.name:
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
                participant=parsed.entities["sub"],
                session=parsed.entities.get("ses"),
                record=record,
                images=frozenset(
                    key
                    for key, image in images
                    if Path(key).parts[0] == f"sub-{parsed.entities['sub']}"
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


def read_tables(
    output_dir: Path, scans: Iterable[Finished], spec: OutputSpec, faults: list[str]
) -> list[tuple[Finished, pd.DataFrame]]:
    """Tables of one kind.

    Parameters
    ----------
    output_dir : Path
        Folder of the derivatives.
    scans : iterable of Finished
        Their scans.
    spec : OutputSpec
        Which table.
    faults : list of str
        Takes what cannot be read.

    Returns
    -------
    list of (Finished, DataFrame)
        In the order of the scans, without those that have none.
    """
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
