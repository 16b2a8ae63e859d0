"""What a finished scan was made from, so that a later run knows what it can reuse.

A record is one JSON file per scan and pipeline in the output folder's ``logs/scans``. It holds
an identity (version, settings, inputs, upstream results) and the list of outputs. A run whose
identity is the same finds its work done; one that differs only in settings of the stage
``apply`` reuses the fits; the log names what differs.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from bids_alsmri.bids.query import Scan
from bids_alsmri.bids.sink import write_text
from bids_alsmri.errors import DataError, ExitCode, RunError

Work = Literal["everything", "apply", "nothing"]


@dataclass(frozen=True)
class Identity:
    """All that decides a scan's numbers.

    Parameters
    ----------
    version : str
        Version of the app.
    fit, apply : dict
        Settings of either stage, as JSON values.
    inputs : dict
        Path of each input file to its size in bytes, its time of change and SHA-256, and for
        images the SHA-256 of their sidecars, merged.
    upstream : dict
        Digest of each result that the pipeline builds on, by pipeline.
    """

    version: str
    fit: Mapping[str, Any]
    apply: Mapping[str, Any]
    inputs: Mapping[str, Mapping[str, Any]]
    upstream: Mapping[str, str]

    def digest(self) -> str:
        """Short hash of everything but paths and times of the inputs."""
        parts = [self.version, self.fit, self.apply, self.upstream]
        parts.append({Path(p).name: _content(entry) for p, entry in self.inputs.items()})
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _content(entry: Mapping[str, Any]) -> list[Any]:
    return [entry["sha256"], entry.get("metadata_sha256")]


@dataclass(frozen=True)
class Record:
    """A finished scan.

    Parameters
    ----------
    identity : Identity
        What it was made from.
    outputs : dict
        Path of every output, sidecar and figure, relative to the output folder, by name.
    seconds : dict
        Run time of every step, in s.
    fits : sequence of str
        Names of those that the stage ``fit`` made.
    is_whole : bool
        Whether the stage ``apply`` has ended; its files may be of two runs if not.
    notes : sequence of str
        What the report says about the choice of files.
    methods : str
        Methods text of the settings that it was made with.
    """

    identity: Identity
    outputs: Mapping[str, str]
    seconds: Mapping[str, float] = field(default_factory=dict)
    fits: Sequence[str] = ()
    is_whole: bool = True
    notes: Sequence[str] = ()
    methods: str = ""


def record_path(output_dir: Path, scan: Scan) -> Path:
    """Where the record of a scan is kept.

    Parameters
    ----------
    output_dir : Path
        Folder of the derivatives.
    scan : Scan
        The scan.

    Returns
    -------
    Path
        A JSON file below ``logs/scans``.
    """
    return output_dir / "logs" / "scans" / f"{scan.label}_{scan.pipeline}.json"


def read_record(path: Path) -> Record | None:
    """Record of an earlier run, or None where there is none that can be read.

    Parameters
    ----------
    path : Path
        Its file.

    Returns
    -------
    Record or None
        A damaged record counts as none: the scan is then processed again.
    """
    try:
        parts = json.loads(path.read_text(encoding="utf-8"))
        identity = Identity(**parts.pop("identity"))
        fits, notes = (_texts(parts.pop(name)) for name in ("fits", "notes"))
        record = Record(identity=identity, fits=fits, notes=notes, **parts)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return record if _is_whole(record) else None


def _texts(found: object) -> tuple[str, ...]:
    if not isinstance(found, list):
        raise TypeError(f"expected a list, found {type(found).__name__}")
    return tuple(found)


def _is_whole(record: Record) -> bool:
    identity = record.identity
    tables = (identity.fit, identity.apply, identity.inputs, identity.upstream)
    return (
        all(isinstance(table, dict) for table in (*tables, record.outputs, record.seconds))
        and all(isinstance(e, dict) and "sha256" in e for e in identity.inputs.values())
        and all(isinstance(output, str) for output in record.outputs.values())
    )


def write_record(path: Path, record: Record) -> None:
    """Write a record, whole or not at all.

    Parameters
    ----------
    path : Path
        Its file.
    record : Record
        What to keep.
    """
    write_text(path, json.dumps(asdict(record), indent=1, sort_keys=True) + "\n")


def forget(path: Path, record: Record | None, *, keeps_fits: bool) -> None:
    """Take a record back before the files that it tells of are overwritten.

    Parameters
    ----------
    path : Path
        Its file.
    record : Record or None
        What it holds.
    keeps_fits : bool
        Whether only what the stage ``apply`` made will be overwritten.

    Raises
    ------
    RunError
        If the folder cannot be written, with exit code 73: nothing may be overwritten then.
    """
    if record is not None and keeps_fits:
        fits = {name: output for name, output in record.outputs.items() if name in record.fits}
        write_record(path, replace(record, outputs=fits, is_whole=False))
        return
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise RunError(
            f"{path}: cannot be removed ({error.strerror}); make the folder writable or choose "
            "another output folder",
            exit_code=ExitCode.CANNOT_WRITE,
        ) from error
    # without this the file may be back after a power cut, beside results of another run; some
    # network file systems cannot sync a folder
    with contextlib.suppress(OSError):
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def fingerprint(
    files: Iterable[Path],
    root: Path,
    known: Mapping[str, Mapping[str, Any]],
    metadata: Mapping[Path, Mapping[str, Any]],
) -> dict[str, dict[str, Any]]:
    """Size, time of change and SHA-256 of files, and SHA-256 of what their sidecars say.

    Parameters
    ----------
    files : iterable of Path
        Files to look at.
    root : Path
        Folder to which the keys of the result are relative.
    known : mapping
        An earlier result; its hash is taken over where size and time are unchanged.
    metadata : mapping
        Merged sidecars of those files that have some.

    Returns
    -------
    dict
        Entry per file.

    Raises
    ------
    DataError
        If a file cannot be read.
    """
    result = {}
    for path in sorted(files):
        key = str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
        try:
            status = path.stat()
            entry = known.get(key, {})
            if (entry.get("bytes"), entry.get("mtime_ns")) == (status.st_size, status.st_mtime_ns):
                sha256 = entry["sha256"]
            else:
                with path.open("rb") as stream:
                    sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise DataError(
                f"{path}: cannot be read ({error.strerror}); fetch the file or mend its rights",
                exit_code=ExitCode.NO_INPUT,
            ) from None
        result[key] = {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": sha256}
        if path in metadata:
            text = json.dumps(dict(metadata[path]), sort_keys=True, default=str)
            result[key]["metadata_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    return result


def compare(record: Record | None, identity: Identity, output_dir: Path) -> tuple[Work, str]:
    """What is left to do for a scan, and why.

    Parameters
    ----------
    record : Record or None
        What an earlier run left.
    identity : Identity
        What decides the numbers now.
    output_dir : Path
        Folder of the derivatives.

    Returns
    -------
    work : {'everything', 'apply', 'nothing'}
        The steps that have to run.
    reason : str
        One sentence for the log and the report.
    """
    if record is None:
        return "everything", "not processed before"
    missing = [n for n, p in record.outputs.items() if not (output_dir / p).is_file()]
    fits = set(record.fits)
    differs = _differences(record.identity, identity)
    if differs:
        return "everything", f"processed before with other {'; '.join(differs)}"
    if fits & set(missing):
        return "everything", f"outputs are missing: {', '.join(sorted(fits & set(missing)))}"
    if not record.is_whole:
        return "apply", "fits are reused; the last run did not come to its end"
    changed = _changed(record.identity.apply, identity.apply)
    if changed:
        return "apply", f"fits are reused; other {'; '.join(changed)}"
    if missing:
        return "apply", f"fits are reused; outputs are missing: {', '.join(sorted(missing))}"
    return "nothing", "done before with the same version, settings and inputs"


def _differences(old: Identity, new: Identity) -> list[str]:
    found = []
    if old.version != new.version:
        found.append(f"version ({old.version}, now {new.version})")
    found += _changed(old.fit, new.fit)
    old_inputs = {Path(p).name: e["sha256"] for p, e in old.inputs.items()}
    new_inputs = {Path(p).name: e["sha256"] for p, e in new.inputs.items()}
    found += [f"content of {name}" for name in _keys_that_differ(old_inputs, new_inputs)]
    old_sidecars = {Path(p).name: e.get("metadata_sha256") for p, e in old.inputs.items()}
    new_sidecars = {Path(p).name: e.get("metadata_sha256") for p, e in new.inputs.items()}
    shared = set(old_inputs) & set(new_inputs)
    found += [
        f"sidecar of {name}"
        for name in _keys_that_differ(old_sidecars, new_sidecars)
        if name in shared
    ]
    found += [f"{name} result" for name in _keys_that_differ(old.upstream, new.upstream)]
    return found


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    settings, contents = [], []
    for name in _keys_that_differ(old, new):
        before, now = old.get(name), new.get(name)
        if isinstance(before or now, Mapping):
            # checksums by name; they often follow from a setting, which says more
            changed = ", ".join(_keys_that_differ(before or {}, now or {}))
            contents.append(f"content of {name}: {changed}")
        else:
            settings.append(f"{name} ({before}, now {now})")
    return settings + contents


def _keys_that_differ(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    return sorted(key for key in set(old) | set(new) if old.get(key) != new.get(key))
