"""Group level: collect the participants' tables into one table per kind."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from bids_alsmri.bids.query import list_participants, parse_name, resolve_labels
from bids_alsmri.bids.sink import write_text
from bids_alsmri.bids.spec import OutputSpec
from bids_alsmri.engine.pipeline import registry, with_needs
from bids_alsmri.errors import DataError, ExitCode
from bids_alsmri.settings import RunSettings

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)


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
        Done.

    Raises
    ------
    DataError
        If OUTPUT_DIR holds no table of the participants asked for.
    """
    log.info("%s", command_line)
    available = list_participants(settings.output_dir) if settings.output_dir.is_dir() else ()
    participants = (
        resolve_labels(settings.participant_label, available, "participant") if available else ()
    )
    written = []
    for name in with_needs(settings.pipeline_names):
        for spec in registry()[name].io_spec.outputs.values():
            if spec.group and spec.extension == ".tsv":
                tables = list(_tables(settings.output_dir, participants, spec))
                if tables:
                    written.append(_collect(settings.output_dir, name, spec, tables))
    if not written:
        raise DataError(
            f"{settings.output_dir}: no results of the participant level; run "
            "'bids_alsmri BIDS_DIR OUTPUT_DIR participant' first",
            exit_code=ExitCode.NO_INPUT,
        )
    for path in written:
        log.info("table: %s", path)
    return ExitCode.DONE


def _tables(
    output_dir: Path, participants: tuple[str, ...], spec: OutputSpec
) -> Iterator[tuple[str, pd.DataFrame]]:
    import pandas as pd

    for participant in participants:
        folder = output_dir / f"sub-{participant}"
        pattern = f"**/{spec.datatype}/*_desc-{spec.entities['desc']}_{spec.suffix}.tsv"
        for path in sorted(folder.glob(pattern)):
            yield path.name, pd.read_csv(path, sep="\t")


def _collect(
    output_dir: Path, pipeline: str, spec: OutputSpec, tables: list[tuple[str, pd.DataFrame]]
) -> Path:
    import pandas as pd

    parts = []
    for name, table in tables:
        found = parse_name(name)
        entities = found.entities if found is not None else {}
        table.insert(0, "participant_id", f"sub-{entities['sub']}")
        table.insert(1, "scan", name.split("_desc-")[0])
        parts.append(table)
    text = pd.concat(parts).to_csv(sep="\t", index=False, na_rep="n/a")
    path = output_dir / "group" / f"{pipeline}_desc-{spec.entities['desc']}_{spec.suffix}.tsv"
    write_text(path, text)
    return path
