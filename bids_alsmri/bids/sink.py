"""Names, sidecars and safe writing of what a pipeline makes."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bids_alsmri.bids.query import Scan
from bids_alsmri.bids.spec import FigureSpec, OutputSpec, fill, load_patterns, short_key
from bids_alsmri.errors import DataError, ExitCode, RunError, SettingsError

# BIDS 1.11.2, objects.formats: label and index.
_LABEL = re.compile(r"[0-9a-zA-Z+]+")
_INDEX = re.compile(r"[0-9]+")
_SUFFIX = re.compile(r"[0-9a-zA-Z]+")
_TEMPORARY = ".tmp-"
_LEFTOVER_AGE_S = 24 * 3600.0
_CANNOT_WRITE = frozenset(
    {
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EFBIG,
        errno.EROFS,
        errno.EACCES,
        errno.EPERM,
        errno.ENOTDIR,
        errno.EEXIST,
        errno.ENAMETOOLONG,
    }
)


def file_name(entities: Mapping[str, str], suffix: str, extension: str) -> str:
    """File name with its entities in the order of the BIDS schema.

    Parameters
    ----------
    entities : dict
        Label by entity (short or long names), in any order; empty labels are left out.
    suffix, extension : str
        Ends of the name; the extension with its dot.

    Returns
    -------
    str
        The name, without a folder.

    Raises
    ------
    SettingsError
        If an entity is unknown, or a label, index or suffix holds other characters than BIDS
        allows.

    Notes
    -----
    pybids' ``build_path`` is not used: it silently drops chunk, desc and space for some
    suffixes, so that stations overwrite each other.

    Examples
    --------
    >>> file_name({"desc": "fit", "chunk": "2", "sub": "01"}, "ADC", ".nii.gz")
    'sub-01_chunk-2_desc-fit_ADC.nii.gz'
    """
    patterns = load_patterns()
    labels = {short_key(entity): str(label) for entity, label in entities.items()}
    parts = []
    for key in patterns.entities:
        label = labels.get(key, "")
        if not label:
            continue
        allowed = _INDEX if key in patterns.indexes else _LABEL
        if not allowed.fullmatch(label):
            kind = "digits" if key in patterns.indexes else "letters, digits and +"
            raise SettingsError(f"entity {key} has the label {label!r}; BIDS allows only {kind}")
        parts.append(f"{key}-{label}")
    if not _SUFFIX.fullmatch(suffix):
        raise SettingsError(f"suffix is {suffix!r}; BIDS allows only letters and digits")
    return "_".join([*parts, suffix]) + extension


def output_path(output_dir: Path, scan: Scan, spec: OutputSpec, values: Mapping[str, str]) -> Path:
    """Path of one output of one scan.

    Parameters
    ----------
    output_dir : Path
        Root of the derivative dataset.
    scan : Scan
        Gives participant, session and the entities to carry over.
    spec : OutputSpec
        Gives folder, ends and further entities.
    values : dict
        Values for the placeholders of `spec`; an empty value drops the entity.

    Returns
    -------
    Path
        Absolute if `output_dir` is; nothing is created.

    Raises
    ------
    SettingsError
        If a placeholder has no value, or a label is not allowed.

    Examples
    --------
    >>> scan = Scan("diffusion", "01", None, {"dir": "AP"}, {}, {})
    >>> spec = OutputSpec("fa", "dwi", "FA", entities={"space": "{template}"})
    >>> str(output_path(Path("out"), scan, spec, {"template": "MNI152NLin6Asym"}))
    'out/sub-01/dwi/sub-01_dir-AP_space-MNI152NLin6Asym_FA.nii.gz'
    """
    carried = {key: label for key, label in scan.entities.items() if key not in spec.dropped}
    added = {key: fill(label, values) for key, label in spec.entities.items()}
    entities = {"sub": scan.participant, "ses": scan.session or "", **carried, **added}
    folder = Path(output_dir) / f"sub-{scan.participant}"
    if scan.session is not None:
        folder /= f"ses-{scan.session}"
    return folder / spec.datatype / file_name(entities, spec.suffix, spec.extension)


def figure_path(output_dir: Path, scan: Scan, spec: FigureSpec) -> Path:
    """Path of one figure of one scan.

    Parameters
    ----------
    output_dir : Path
        Root of the derivative dataset.
    scan : Scan
        Gives participant, session and entities.
    spec : FigureSpec
        Gives the ends of the name.

    Returns
    -------
    Path
        In the participant's figures folder, whatever the session; nothing is created.

    Raises
    ------
    SettingsError
        If a label is not allowed.

    Examples
    --------
    >>> scan = Scan("anatomical", "01", "m00", {}, {}, {})
    >>> str(figure_path(Path("out"), scan, FigureSpec("brain", "brain", "T1w")))
    'out/sub-01/figures/sub-01_ses-m00_desc-brain_T1w.svg'
    """
    entities = {
        "sub": scan.participant,
        "ses": scan.session or "",
        **scan.entities,
        "desc": spec.desc,
    }
    folder = Path(output_dir) / f"sub-{scan.participant}" / "figures"
    return folder / file_name(entities, spec.suffix, spec.extension)


def sidecar_path(path: Path) -> Path:
    """Path of the JSON sidecar that belongs to a file.

    Parameters
    ----------
    path : Path
        An image or table, with any extension.

    Returns
    -------
    Path
        Same folder and name, with the extension .json.

    Examples
    --------
    >>> str(sidecar_path(Path("sub-01_desc-fit_ADC.nii.gz")))
    'sub-01_desc-fit_ADC.json'
    """
    return path.with_name(path.name.split(".", 1)[0] + ".json")


def bids_uri(path: Path, roots: Mapping[str, Path]) -> str:
    """BIDS URI of a file.

    Parameters
    ----------
    path : Path
        The file.
    roots : dict
        Folder of each dataset by its name in DatasetLinks; the empty name is the dataset that
        the URI will stand in.

    Returns
    -------
    str
        ``bids:<name>:<path inside the dataset>``; the innermost dataset wins.

    Raises
    ------
    DataError
        If the file lies in none of them.

    Examples
    --------
    >>> roots = {"raw": Path("/data"), "": Path("/data/derivatives/als")}
    >>> bids_uri(Path("/data/sub-01/anat/sub-01_T1w.nii.gz"), roots)
    'bids:raw:sub-01/anat/sub-01_T1w.nii.gz'
    >>> bids_uri(Path("/data/derivatives/als/sub-01/x.tsv"), roots)
    'bids::sub-01/x.tsv'
    """
    # normpath and not resolve: an annexed file is a link into .git/annex.
    wanted = Path(os.path.abspath(path))
    found = [
        (len(root.parts), name, root)
        for name, root in ((name, Path(os.path.abspath(root))) for name, root in roots.items())
        if wanted.is_relative_to(root)
    ]
    if not found:
        known = ", ".join(f"{name or 'output'} = {root}" for name, root in roots.items())
        raise DataError(
            f"{path}: lies in none of the datasets of this run ({known}); "
            "name its dataset with --derivatives NAME=PATH"
        )
    _, name, root = max(found, key=lambda item: item[0])
    return f"bids:{name}:{wanted.relative_to(root).as_posix()}"


def sidecar(
    scan: Scan,
    spec: OutputSpec,
    *,
    sources: Sequence[str],
    settings: Mapping[str, Any],
    version: str,
    extra: Mapping[str, Any] | None = None,
    values: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Content of the JSON sidecar of one output.

    Parameters
    ----------
    scan : Scan
        The scan that the output belongs to; named in errors.
    spec : OutputSpec
        Gives units, description and fixed keys.
    sources : sequence of str
        BIDS URIs of the files that the output was made of.
    settings : dict
        Settings that the output depends on, with their values.
    version : str
        Version of bids_alsmri.
    extra : dict, optional
        Further keys known only at run time; they win over the spec's.
    values : dict, optional
        Values for the placeholders of the spec's texts.

    Returns
    -------
    dict
        JSON content, in a fixed order of keys.

    Raises
    ------
    SettingsError
        If a source is no BIDS URI, or a placeholder has no value.

    Notes
    -----
    RawSources is not written: BIDS deprecates it in favour of Sources with URIs.

    Examples
    --------
    >>> scan = Scan("diffusion", "01", None, {}, {}, {})
    >>> spec = OutputSpec("adc", "dwi", "ADC", units="mm2/s", sidecar={"SkullStripped": True})
    >>> content = sidecar(scan, spec, sources=["bids:raw:a.nii"], settings={}, version="1")
    >>> content["Units"], content["SkullStripped"], content["Sources"]
    ('mm2/s', True, ['bids:raw:a.nii'])
    """
    for source in sources:
        if not source.startswith("bids:") or source.count(":") < 2:
            raise SettingsError(
                f"{scan.label}, output {spec.name}: source {source!r} is no BIDS URI; "
                "write bids:<dataset>:<path>"
            )
    known = values or {}
    content: dict[str, Any] = {}
    if spec.description:
        content["Description"] = fill(spec.description, known)
    if spec.units:
        content["Units"] = spec.units
    content.update({key: _filled(item, known) for key, item in spec.sidecar.items()})
    content.update(extra or {})
    content["Sources"] = list(dict.fromkeys(sources))
    content["Settings"] = dict(settings)
    content["SoftwareName"] = "bids_alsmri"
    content["SoftwareVersion"] = version
    return content


def _filled(item: Any, values: Mapping[str, str]) -> Any:
    """Sidecar value with the placeholders of its texts filled."""
    if isinstance(item, str):
        return fill(item, values)
    if isinstance(item, Mapping):
        return {key: _filled(inner, values) for key, inner in item.items()}
    if isinstance(item, list):
        return [_filled(inner, values) for inner in item]
    return item


def write_atomically(path: Path, writer: Callable[[Path], None]) -> None:
    """Write a file so that its name never holds half of it.

    Parameters
    ----------
    path : Path
        Final name; its folder is made.
    writer : callable
        Writes the whole content to the path it is given, which has the extension of `path`.

    Raises
    ------
    RunError
        If the disk is full or the folder may not be written, with exit code 73.

    Notes
    -----
    The temporary name lies in the same folder, so that the rename is atomic, and is hidden, so
    that neither pybids nor the validator sees what a killed run leaves. Leftovers of the same
    file are removed when they are a day old: a younger one may belong to another process.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "a" / "fa.tsv"
    ...     write_atomically(path, lambda temporary: temporary.write_text("FA"))
    ...     path.read_text()
    'FA'
    """
    path = Path(path)
    temporary = path.with_name(f"{_TEMPORARY}{secrets.token_hex(4)}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        writer(temporary)
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    except OSError as error:
        if _concerns(error, path):
            raise _cannot_write(path, error) from error
        raise
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> bool:
    """Write a text file atomically, unless it holds that text already.

    Parameters
    ----------
    path : Path
        Final name.
    text : str
        Whole content.

    Returns
    -------
    bool
        Whether the file was written.

    Raises
    ------
    RunError
        If it cannot be written, with exit code 73.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / ".bidsignore"
    ...     write_text(path, "*.html"), write_text(path, "*.html")
    (True, False)
    """
    content = text.encode("utf-8")
    with contextlib.suppress(OSError):
        if path.read_bytes() == content:
            return False
    write_atomically(path, lambda temporary: _write_bytes(temporary, content))
    return True


def write_json(path: Path, content: Mapping[str, Any]) -> bool:
    """Write a JSON file atomically, unless it holds that content already.

    Parameters
    ----------
    path : Path
        Final name.
    content : dict
        JSON content; NaN is refused, for it is no JSON.

    Returns
    -------
    bool
        Whether the file was written.

    Raises
    ------
    RunError
        If it cannot be written, with exit code 73.
    SettingsError
        If the content has no JSON form.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "fa.json"
    ...     _ = write_json(path, {"Units": "1"})
    ...     json.loads(path.read_text())
    {'Units': '1'}
    """
    try:
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise SettingsError(
            f"{path}: cannot be written as JSON ({error}); give numbers, texts and null for NaN"
        ) from error
    return write_text(path, text + "\n")


def _write_bytes(path: Path, content: bytes) -> None:
    """Write bytes to a new file."""
    path.write_bytes(content)


def _sync(path: Path) -> None:
    """Bring a file or folder to the disk: a rename may survive a power cut that its data do not."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot sync a folder.
        if error.errno not in {errno.EINVAL, errno.ENOTSUP, errno.EBADF}:
            raise
    finally:
        os.close(descriptor)


def _remove_leftovers(path: Path) -> None:
    """Remove old temporaries of the same file, left by killed runs."""
    oldest_s = time.time() - _LEFTOVER_AGE_S
    for leftover in path.parent.glob(f"{_TEMPORARY}????????-{path.name}"):
        with contextlib.suppress(OSError):
            if leftover.stat().st_mtime < oldest_s:
                leftover.unlink()


def _concerns(error: OSError, path: Path) -> bool:
    """Whether an error is about the place written to, not about a file the writer read."""
    if error.errno not in _CANNOT_WRITE:
        return False
    if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}:
        return True
    if error.filename is None:
        return True
    named = Path(os.path.abspath(str(error.filename)))
    folder = Path(os.path.abspath(path.parent))
    return named.parent == folder or folder.is_relative_to(named)


def _cannot_write(path: Path, error: OSError) -> RunError:
    """Error that says why a file could not be written, and what to do."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        remedy = "free space there or choose another output or work folder; then run again"
    else:
        remedy = "make the folder writable or choose another output or work folder"
    return RunError(
        f"{path}: cannot be written ({os.strerror(error.errno or 0)}); {remedy}",
        exit_code=ExitCode.CANNOT_WRITE,
    )
