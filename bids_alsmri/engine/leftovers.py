"""Files of earlier runs of a scan that its newest run does not make, which are removed.

A map that a changed setting no longer gives would be taken for a result of the run beside which
it lies. So a scan keeps a list of what its runs have saved or were about to save, from before the
first file of a run is written until its record stands: a killed run leaves the list, and the next
one knows of its files. What no list and no record of the scan names is never touched.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from bids_alsmri.bids.query import Scan
from bids_alsmri.bids.sink import write_text
from bids_alsmri.engine.records import read_record
from bids_alsmri.errors import ExitCode, RunError

log = logging.getLogger(__name__)


def saves_path(output_dir: Path, scan: Scan) -> Path:
    """Where the files are listed that runs of a scan have saved or are about to save.

    Parameters
    ----------
    output_dir : Path
        Folder of the derivatives.
    scan : Scan
        The scan.

    Returns
    -------
    Path
        A JSON file below ``logs/saves``.
    """
    return output_dir / "logs" / "saves" / f"{scan.label}_{scan.pipeline}.json"


def list_saves(path: Path, files: Iterable[str]) -> None:
    """Add files to the list of a scan, before any of them is written.

    Parameters
    ----------
    path : Path
        The list.
    files : iterable of str
        Relative to the output folder.

    Raises
    ------
    RunError
        If it cannot be written.
    """
    write_text(path, json.dumps(sorted({*read_saves(path), *files}), indent=1) + "\n")


def read_saves(path: Path) -> tuple[str, ...]:
    """Files of the list of a scan.

    Parameters
    ----------
    path : Path
        The list.

    Returns
    -------
    tuple of str
        Relative to the output folder; empty where there is no list that can be read.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ()
    return tuple(item for item in found if isinstance(item, str)) if isinstance(found, list) else ()


def remove_leftovers(output_dir: Path, scan: Scan, kept: Iterable[str]) -> None:
    """Remove the listed files of a scan that are none of its results any more.

    Parameters
    ----------
    output_dir : Path
        Folder of the derivatives.
    scan : Scan
        The scan.
    kept : iterable of str
        Its results, relative to the folder.

    Raises
    ------
    RunError
        If a file cannot be removed, with exit code 73.
    """
    left = set(read_saves(saves_path(output_dir, scan))) - set(kept)
    # a scan that is named otherwise since, by a filter or a setting, may have taken files over
    left -= _recorded(output_dir, scan) if left else set()
    removed = [name for name in sorted(left) if _remove(output_dir, name)]
    if removed:
        log.info(
            "%s %s: removed what earlier runs made and this one does not: %s",
            scan.label,
            scan.pipeline,
            ", ".join(removed),
        )


def drop_saves(output_dir: Path, scan: Scan) -> None:
    """Remove the list of a scan whose record stands.

    Parameters
    ----------
    output_dir : Path
        Folder of the derivatives.
    scan : Scan
        The scan.

    Raises
    ------
    RunError
        If it cannot be removed, with exit code 73.
    """
    path = saves_path(output_dir, scan)
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise _cannot_remove(path, error) from error


def _recorded(output_dir: Path, scan: Scan) -> set[str]:
    """Files that records of other scans of the participant name."""
    own = saves_path(output_dir, scan).name
    folder = output_dir / "logs" / "scans"
    paths = [p for p in folder.glob(f"sub-{scan.participant}_*.json") if p.name != own]
    records = [read_record(path) for path in paths]
    return {output for record in records if record for output in record.outputs.values()}


def _remove(output_dir: Path, name: str) -> bool:
    """Remove a file, and say whether it was there."""
    # a list that somebody has changed must not reach files outside the folder
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        return False
    path = output_dir / name
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _cannot_remove(path, error) from error
    return True


def _cannot_remove(path: Path, error: OSError) -> RunError:
    return RunError(
        f"{path}: cannot be removed ({error.strerror}); make the folder writable or choose "
        "another output folder",
        exit_code=ExitCode.CANNOT_WRITE,
    )
