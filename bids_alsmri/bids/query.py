"""Scans of a dataset that a pipeline can process, and reasons for those it skips."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import logging
import os
import re
import shlex
import shutil
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bids_alsmri.bids.spec import InputSpec, IoSpec, load_patterns, short_key
from bids_alsmri.errors import DataError, ExitCode, RunError, SettingsError

if TYPE_CHECKING:
    from bids.layout import BIDSLayout

log = logging.getLogger(__name__)

_NAME_PARTS = frozenset({"suffix", "datatype", "extension"})
# Names that fMRIPrep, sMRIPrep, NiBabies, QSIPrep, ASLPrep, PETPrep and MRIQC give their inputs.
_INPUTS_OF_OTHER_APPS = frozenset(
    {"anat", "asl", "bold", "dwi", "eeg", "flair", "fmap", "func", "m0scan", "mask", "meg", "perf"}
    | {"pet", "phase", "roi", "sbref", "t1w", "t2w"}
)
# Entities that tell the scans of a session apart; derivatives carry those of theirs.
_OF_A_SCAN = ("acq", "ce", "rec", "dir", "run", "chunk")
_MAX_NAMED = 20
# Folders of the session and of the data type lie between a participant's folder and its files.
_FOLDERS_ABOVE_FILES = 2
# git-annex, "pointer files": a short text that begins with this path.
_POINTER = b"/annex/objects/"
_MAX_POINTER_BYTES = 32 * 1024


@dataclass(frozen=True)
class Scan:
    """Files of one participant and session that a pipeline processes together.

    Parameters
    ----------
    pipeline, participant : str
        Names; the participant without ``sub-``.
    session : str or None
        Without ``ses-``; None where the dataset has no sessions.
    entities : dict
        Entities shared by all primary inputs, short keys in the order of file names; carried
        into output names.
    inputs : dict
        Paths by the name of the input, and those of companions under ``<input>_<companion>``
        (such as ``dwi_bval``) in the same order; an optional input not found is an empty tuple.
    metadata : dict
        Sidecar of each image, merged by the inheritance principle.
    notes : tuple of str
        What the report should say about the choice of files.
    """

    pipeline: str
    participant: str
    session: str | None
    entities: Mapping[str, str]
    inputs: Mapping[str, tuple[Path, ...]]
    metadata: Mapping[Path, Mapping[str, Any]] = field(repr=False)
    notes: tuple[str, ...] = ()

    def __hash__(self) -> int:
        """Hash of what tells scans of one dataset apart."""
        return hash((self.pipeline, self.label))

    @property
    def label(self) -> str:
        """Name of the scan, such as ``sub-01_ses-m00_dir-AP``."""
        session = [] if self.session is None else [f"ses-{self.session}"]
        rest = [f"{key}-{label}" for key, label in self.entities.items()]
        return "_".join([f"sub-{self.participant}", *session, *rest])


@dataclass(frozen=True)
class Skip:
    """What a pipeline does not process, and why.

    Parameters
    ----------
    pipeline, participant : str
        Names; the participant without ``sub-``.
    session : str or None
        Without ``ses-``; None where it concerns no single session.
    reason : str
        What was found, expected, where, and what to do.
    is_error : bool
        True where data are at fault; False where the modality was simply not acquired.
    exit_code : ExitCode
        Code if nothing else can be processed.
    """

    pipeline: str
    participant: str
    session: str | None
    reason: str
    is_error: bool
    exit_code: ExitCode


@dataclass(frozen=True)
class BidsName:
    """Parts of a file name.

    Parameters
    ----------
    entities : dict
        Label by short key, in the order found.
    suffix, extension : str
        Ends of the name; the extension with its dot.
    """

    entities: Mapping[str, str]
    suffix: str
    extension: str


@dataclass(frozen=True)
class BidsFile:
    """One file of a dataset, with what its path says.

    Parameters
    ----------
    path : Path
        Absolute path.
    folders : tuple of str
        Folders from the root of the dataset to the file.
    name : BidsName
        Parts of the name.
    """

    path: Path
    folders: tuple[str, ...]
    name: BidsName

    @property
    def participant(self) -> str | None:
        """Label of the participant's folder, or None above it."""
        first = self.folders[0] if self.folders else ""
        return first.removeprefix("sub-") if first.startswith("sub-") else None

    @property
    def session(self) -> str | None:
        """Label of the session's folder, or None where there is none."""
        second = self.folders[1] if len(self.folders) > 1 else ""
        return second.removeprefix("ses-") if second.startswith("ses-") else None

    @property
    def datatype(self) -> str:
        """Name of the innermost folder."""
        return self.folders[-1] if self.folders else ""


def parse_name(name: str) -> BidsName | None:
    """Entities, suffix and extension of a file name.

    Parameters
    ----------
    name : str
        File name without folders.

    Returns
    -------
    BidsName or None
        None where the name is not of the form ``key-label_..._suffix.extension``.

    Examples
    --------
    >>> parse_name("sub-01_dir-AP_dwi.nii.gz")
    BidsName(entities={'sub': '01', 'dir': 'AP'}, suffix='dwi', extension='.nii.gz')
    """
    stem, dot, rest = name.partition(".")
    *pairs, suffix = stem.split("_")
    entities = {}
    for pair in pairs:
        key, dash, label = pair.partition("-")
        if not (key and dash and label):
            return None
        entities[key] = label
    if not stem or "-" in suffix:
        return None
    return BidsName(entities, suffix, dot + rest)


def list_participants(bids_dir: Path) -> tuple[str, ...]:
    """Labels of the participants that have a folder.

    Parameters
    ----------
    bids_dir : Path
        Root of the dataset.

    Returns
    -------
    tuple of str
        Without ``sub-``, sorted.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     (Path(folder) / "sub-01").mkdir()
    ...     list_participants(Path(folder))
    ('01',)
    """
    return _labels(Path(bids_dir), "sub-")


def list_sessions(bids_dir: Path, participants: Sequence[str]) -> tuple[str, ...]:
    """Labels of the sessions that any of the participants has.

    Parameters
    ----------
    bids_dir : Path
        Root of the dataset.
    participants : sequence of str
        Labels without ``sub-``.

    Returns
    -------
    tuple of str
        Without ``ses-``, sorted; empty where the dataset has no sessions.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     (Path(folder) / "sub-01" / "ses-m00").mkdir(parents=True)
    ...     list_sessions(Path(folder), ["01"])
    ('m00',)
    """
    found = {
        session
        for participant in participants
        for session in _labels(Path(bids_dir) / f"sub-{participant}", "ses-")
    }
    return tuple(sorted(found))


def _labels(folder: Path, prefix: str) -> tuple[str, ...]:
    """Sorted labels of the subfolders with a prefix."""
    if not folder.is_dir():
        return ()
    with os.scandir(folder) as entries:
        found = [entry.name for entry in entries if entry.name.startswith(prefix)]
    return tuple(sorted(name.removeprefix(prefix) for name in found if (folder / name).is_dir()))


def resolve_labels(asked: Sequence[str], available: Sequence[str], kind: str) -> tuple[str, ...]:
    """Labels asked for, without their prefix, checked against those that exist.

    Parameters
    ----------
    asked : sequence of str
        With or without ``sub-`` or ``ses-``; empty means all.
    available : sequence of str
        Labels that exist, without prefix.
    kind : {"participant", "session"}
        What they name.

    Returns
    -------
    tuple of str
        Sorted, each once.

    Raises
    ------
    SettingsError
        If one does not exist, with exit code 18; the message names those that do.

    Examples
    --------
    >>> resolve_labels(["sub-02", "01"], ["01", "02", "03"], "participant")
    ('01', '02')
    """
    prefix = {"participant": "sub-", "session": "ses-"}[kind]
    if not asked:
        return tuple(sorted(available))
    wanted = {
        label if label in available else label.removeprefix(prefix)
        for label in (item.strip() for item in asked)
    }
    unknown = sorted(wanted - set(available))
    if unknown:
        raise SettingsError(
            f"no {kind} {', '.join(unknown)} in the dataset; it has {_abridged(available)}; "
            f"correct --{kind}-label",
            exit_code=ExitCode.NOTHING_MATCHED,
        )
    return tuple(sorted(wanted))


def _abridged(labels: Sequence[str]) -> str:
    """List of labels that stays readable for 500 participants."""
    ordered = sorted(labels)
    if not ordered:
        return "none"
    if len(ordered) <= _MAX_NAMED:
        return ", ".join(ordered)
    return f"{', '.join(ordered[:_MAX_NAMED])} and {len(ordered) - _MAX_NAMED} more"


def open_layout(
    bids_dir: Path, participants: Sequence[str], *, database_dir: Path | None
) -> BIDSLayout:
    """Index of the files of some participants and of the root.

    Parameters
    ----------
    bids_dir : Path
        Root of a raw or derivative dataset.
    participants : sequence of str
        Labels without ``sub-``; the folders of others are not read.
    database_dir : Path, optional
        Folder that keeps indexes between runs.

    Returns
    -------
    bids.layout.BIDSLayout
        Without metadata: one broken sidecar would stop the index of all participants.

    Raises
    ------
    RunError
        If the index cannot be written to `database_dir`, with exit code 73.

    Notes
    -----
    pybids never sees that a saved index is out of date. It is therefore kept in a subfolder
    named by a hash of the list of files, so that another list means another index.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     (Path(folder) / "sub-01" / "anat").mkdir(parents=True)
    ...     (Path(folder) / "sub-01" / "anat" / "sub-01_T1w.nii.gz").touch()
    ...     layout = open_layout(Path(folder), ["01"], database_dir=None)
    ...     [file.path.name for file in list_files(layout)]
    ['sub-01_T1w.nii.gz']
    """
    from bids import __version__ as pybids_version
    from bids.layout import BIDSLayout, BIDSLayoutIndexer

    root = Path(os.path.abspath(bids_dir))
    wanted = "|".join(re.escape(label) for label in participants)
    # Folders at the root are walked once, but nothing below those not asked for is read.
    others = re.compile(rf"^/(sub-(?!(?:{wanted})(?:/|$))|(?!sub-(?:{wanted})/)[^/]+/)")

    def build(saved: Path | None) -> BIDSLayout:
        indexer = BIDSLayoutIndexer(validate=False, ignore=[others], index_metadata=False)
        return BIDSLayout(root, validate=False, indexer=indexer, database_path=saved)

    if database_dir is None:
        return build(None)
    key = _file_list_hash(root, participants, pybids_version)
    saved = Path(os.path.abspath(database_dir)) / f"bids_alsmri-{key}"
    if (saved / "layout_index.sqlite").is_file():
        return build(saved)
    layout = build(None)
    _save_index(layout, saved)
    return layout


def _file_list_hash(root: Path, participants: Sequence[str], pybids_version: str) -> str:
    """Hash of everything that an index depends on."""
    digest = hashlib.sha256(f"{pybids_version}\0{root}\0".encode())
    for name in sorted(os.listdir(root)):
        digest.update(os.fsencode(name) + b"\0")
    for participant in sorted(participants):
        for folder, subfolders, names in os.walk(root / f"sub-{participant}", followlinks=True):
            subfolders.sort()
            digest.update(os.fsencode(folder) + b"\1")
            for name in sorted(names):
                digest.update(os.fsencode(name) + b"\0")
    return digest.hexdigest()[:16]


def _save_index(layout: BIDSLayout, saved: Path) -> None:
    """Keep an index for later runs, complete or not at all."""
    temporary = saved.with_name(f".{saved.name}-{os.getpid()}")
    try:
        temporary.mkdir(parents=True, exist_ok=True)
        layout.save(temporary, replace_connection=False)
        os.replace(temporary, saved)
    except (OSError, sqlite3.Error) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if (saved / "layout_index.sqlite").is_file():
            return  # Another process was faster.
        raise RunError(
            f"{saved.parent}: cannot keep the index of the dataset there ({error}); "
            "make the folder writable or leave --bids-database-dir out",
            exit_code=ExitCode.CANNOT_WRITE,
        ) from error


def list_files(layout: BIDSLayout) -> tuple[BidsFile, ...]:
    """Files of a layout whose names follow BIDS.

    Parameters
    ----------
    layout : bids.layout.BIDSLayout
        As made by `open_layout`.

    Returns
    -------
    tuple of BidsFile
        Sorted by path.

    Notes
    -----
    Names are parsed here and not by pybids, which searches the whole absolute path: a dataset
    below a folder named ``sub-99`` or ``anat`` would get that as participant or datatype.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     (Path(folder) / "sub-01").mkdir()
    ...     (Path(folder) / "sub-01" / "sub-01_sessions.tsv").touch()
    ...     [file.participant for file in list_files(open_layout(Path(folder), ["01"],
    ...         database_dir=None))]
    ['01']
    """
    from bids.layout.models import BIDSFile

    # a Path of each, and pybids' object of each, would take most of the time on many participants
    root = str(Path(layout.root)).rstrip(os.sep) + os.sep
    found = []
    for (text,) in layout.session.query(BIDSFile.path):
        *folders, last = text.removeprefix(root).split(os.sep)
        name = parse_name(last)
        if name is not None:
            found.append(BidsFile(Path(text), tuple(folders), name))
    return tuple(sorted(found, key=_parts))


def list_candidates(layout: BIDSLayout, participants: Sequence[str]) -> tuple[BidsFile, ...]:
    """Files of a layout, and folders under such names, which it does not list.

    Parameters
    ----------
    layout : bids.layout.BIDSLayout
        As made by `open_layout`.
    participants : sequence of str
        Labels without ``sub-`` of those whose folders are looked into.

    Returns
    -------
    tuple of BidsFile
        Sorted by path.

    Notes
    -----
    Passed over, a folder named as an image would count as an image that was never acquired.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     (Path(folder) / "sub-01" / "anat" / "sub-01_T1w.nii.gz").mkdir(parents=True)
    ...     layout = open_layout(Path(folder), ["01"], database_dir=None)
    ...     [file.path.name for file in list_candidates(layout, ["01"])]
    ['sub-01_T1w.nii.gz']
    """
    root = Path(layout.root)
    found = list(list_files(layout))
    depths = {root / f"sub-{label}": _FOLDERS_ABOVE_FILES for label in participants}
    for start, depth in {root: 0, **depths}.items():
        for folder, subfolders, _ in os.walk(start, followlinks=True):
            place = Path(folder)
            dotted = [name for name in subfolders if "." in name]
            for name, parts in zip(dotted, map(parse_name, dotted), strict=True):
                if parts is not None:
                    found.append(BidsFile(place / name, place.relative_to(root).parts, parts))
            is_deepest = len(place.relative_to(start).parts) == depth
            # What lies in a folder with an extension are parts of one recording (.ds, .zarr).
            subfolders[:] = [] if is_deepest else sorted(set(subfolders) - set(dotted))
    return tuple(sorted(found, key=_parts))


def _parts(file: BidsFile) -> tuple[str, ...]:
    return (*file.folders, file.path.name)


def check_filters(filters: Mapping[str, Mapping[str, Any]], inputs: Sequence[str]) -> None:
    """Raise where a filter file names what no pipeline reads; inputs of other apps are passed over.

    Parameters
    ----------
    filters : dict
        Content of ``--bids-filter-file``.
    inputs : sequence of str
        Names of the inputs of all pipelines.

    Raises
    ------
    SettingsError
        If an input is unknown here and to other BIDS apps, an entity is unknown, or a filter is
        no object.

    Examples
    --------
    >>> check_filters({"t1w": {"acquisition": "mprage"}}, ["t1w", "dwi"])
    """
    known = ", ".join(sorted(set(inputs)))
    foreign = sorted(_INPUTS_OF_OTHER_APPS & (set(filters) - set(inputs)))
    if foreign:
        log.warning(
            "--bids-filter-file: %s: no such input here; those filters are for other BIDS apps and "
            "change nothing (ours are for %s)",
            ", ".join(foreign),
            known,
        )
    for name, rules in filters.items():
        if name in foreign:
            continue
        if name not in inputs:
            close = difflib.get_close_matches(name, inputs, n=1)
            hint = f"did you mean {close[0]}? There are {known}" if close else f"use {known}"
            raise SettingsError(f"--bids-filter-file: no input is called {name!r}; {hint}")
        if not isinstance(rules, Mapping):
            raise SettingsError(f"--bids-filter-file: {name} is {rules!r}; it must be an object")
        for key in rules:
            if key not in _NAME_PARTS:
                try:
                    short_key(key)
                except SettingsError as error:
                    error.add_note(f"in --bids-filter-file, {name}")
                    raise


def find_scans(
    layout: BIDSLayout,
    pipeline: str,
    spec: IoSpec,
    *,
    participants: Sequence[str],
    sessions: Sequence[str],
    filters: Mapping[str, Mapping[str, Any]],
    group_by: tuple[str, ...],
    primary: str,
    files: Sequence[BidsFile] | None = None,
) -> tuple[list[Scan], list[Skip]]:
    """Scans that a pipeline can process, and what it skips and why.

    Parameters
    ----------
    layout : bids.layout.BIDSLayout
        As made by `open_layout`.
    pipeline : str
        Name of the pipeline.
    spec : IoSpec
        Its inputs.
    participants, sessions : sequence of str
        Labels without prefix; no sessions means all.
    filters : dict
        Content of ``--bids-filter-file``: by input, the value, list of values, null (absent) or
        ``"*"`` (present) of entities, suffix, datatype or extension. A filter replaces what the
        spec says of the same entity.
    group_by : tuple of str
        Entities whose values part the primary input into scans, besides the session.
    primary : str
        Input whose files make a scan.
    files : sequence of BidsFile, optional
        What `list_candidates` finds, where several pipelines search the same.

    Returns
    -------
    scans : list of Scan
        Sorted by participant, session and entities.
    skips : list of Skip
        One for each participant and session without the primary input, and one for each scan
        that cannot be processed.

    Raises
    ------
    SettingsError
        If `primary` or an entity of `group_by` does not exist.

    Examples
    --------
    >>> from bids_alsmri.bids.spec import InputSpec
    >>> import tempfile
    >>> spec = IoSpec({"t1w": InputSpec("t1w", ("T1w",), ("anat",))}, {}, {})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     (Path(folder) / "sub-01" / "anat").mkdir(parents=True)
    ...     _ = (Path(folder) / "sub-01" / "anat" / "sub-01_T1w.nii.gz").write_text("image")
    ...     scans, skips = find_scans(open_layout(Path(folder), ["01"], database_dir=None),
    ...         "anatomical", spec, participants=["01"], sessions=[], filters={}, group_by=(),
    ...         primary="t1w")
    >>> [scan.label for scan in scans], skips
    (['sub-01'], [])
    """
    if primary not in spec.inputs:
        raise SettingsError(f"{pipeline}: no input {primary!r}; the spec has {list(spec.inputs)}")
    search = _Search(
        pipeline=pipeline,
        root=Path(layout.root),
        inputs=spec.inputs,
        primary=spec.inputs[primary],
        filters=filters,
        group_by=tuple(short_key(entity) for entity in group_by),
    )
    if files is None:
        files = list_candidates(layout, participants)
    above = [file for file in files if file.participant is None]
    by_participant: dict[str, list[BidsFile]] = {label: [] for label in participants}
    for file in files:
        if file.participant in by_participant:
            by_participant[file.participant].append(file)
    scans: list[Scan] = []
    skips: list[Skip] = []
    for participant in sorted(participants):
        own = _Participant(participant, tuple(by_participant[participant]), tuple(above))
        for session in _sessions(search, own, sessions, skips):
            _collect(search, own, session, scans, skips)
    return scans, skips


def find_derivative(
    layout: BIDSLayout,
    participant: str,
    session: str | None,
    spec: InputSpec,
    scan_entities: Mapping[str, str] | None = None,
) -> Path | None:
    """File of a derivative dataset that can be used again.

    Parameters
    ----------
    layout : bids.layout.BIDSLayout
        Of the derivative dataset, as made by `open_layout`.
    participant : str
        Label without ``sub-``.
    session : str or None
        Label without ``ses-``; without such a file there, the participant's folder above the
        sessions is searched, where fMRIPrep puts what it made of several sessions.
    spec : InputSpec
        What to look for, such as suffix mask, desc brain and no space.
    scan_entities : mapping of str, optional
        Entities of the scan that it is sought for. Where several files fit, such as masks of a T1w
        and of a sodium image, one that is made from a scan of these entities is taken.

    Returns
    -------
    Path or None
        The file, or None where there is none.

    Raises
    ------
    DataError
        If several files fit, or the one that fits is empty, not fetched or a folder.

    Examples
    --------
    >>> import tempfile
    >>> mask = InputSpec("mask", ("mask",), ("anat",), absent=("space",))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "sub-01" / "anat" / "sub-01_desc-brain_mask.nii.gz"
    ...     path.parent.mkdir(parents=True)
    ...     _ = path.write_text("image")
    ...     layout = open_layout(Path(folder), ["01"], database_dir=None)
    ...     find_derivative(layout, "01", "m00", mask).name
    'sub-01_desc-brain_mask.nii.gz'
    """
    root = Path(layout.root)
    search = _Search("", root, {}, spec, {}, ())
    files = list_candidates(layout, [participant])
    own = _Participant(
        participant,
        tuple(file for file in files if file.participant == participant),
        tuple(file for file in files if file.participant is None),
    )
    for place in dict.fromkeys([session, None]):
        found = _select(search, own, spec, place, filtered=False)
        if len(found) > 1 and scan_entities is not None:
            found = tuple(file for file in found if _is_of(file, scan_entities)) or found
        if len(found) > 1:
            names = ", ".join(file.path.relative_to(root).as_posix() for file in found)
            raise DataError(
                f"{root}: {len(found)} files fit {spec.description or spec.name} where one is due: "
                f"{names}; leave the dataset out of --derivatives or remove the others"
            )
        if found:
            _require_content(root, [found[0].path])
            return found[0].path
    return None


def _is_of(file: BidsFile, scan_entities: Mapping[str, str]) -> bool:
    """Whether a derivative is named after a scan with these entities."""
    return all(file.name.entities.get(key) == scan_entities.get(key) for key in _OF_A_SCAN)


@dataclass(frozen=True)
class _Search:
    """What is looked for."""

    pipeline: str
    root: Path
    inputs: Mapping[str, InputSpec]
    primary: InputSpec
    filters: Mapping[str, Mapping[str, Any]]
    group_by: tuple[str, ...]


@dataclass(frozen=True)
class _Participant:
    """Where it is looked for: the files of one participant, and those of the root."""

    label: str
    files: tuple[BidsFile, ...]
    above: tuple[BidsFile, ...]


def _sessions(
    search: _Search, own: _Participant, asked: Sequence[str], skips: list[Skip]
) -> list[str | None]:
    """Sessions of a participant to look into; adds a Skip for each that is not there."""
    if not own.files:
        folder = search.root / f"sub-{own.label}"
        reason = (
            f"{folder}: holds no file named after BIDS; if it is a DataLad subdataset, fetch it "
            f"with: datalad get -d {shlex.quote(str(search.root))} {shlex.quote(str(folder))}"
        )
        skips.append(_skip(search, own, None, reason, True, ExitCode.NO_INPUT))
        return []
    present = {file.session for file in own.files if len(file.folders) > 1}
    labels = sorted(label for label in present if label is not None)
    if not asked:
        return [*([None] if None in present or not labels else []), *labels]
    for session in sorted(set(asked) - set(labels)):
        reason = f"sub-{own.label} has no session {session}; it has {_abridged(labels)}"
        skips.append(_skip(search, own, session, reason, False, ExitCode.NOTHING_MATCHED))
    return [label for label in labels if label in asked]


def _skip(
    search: _Search,
    own: _Participant,
    session: str | None,
    reason: str,
    is_error: bool,
    exit_code: ExitCode,
) -> Skip:
    """Skip of this pipeline and participant."""
    return Skip(search.pipeline, own.label, session, reason, is_error, exit_code)


def _collect(
    search: _Search,
    own: _Participant,
    session: str | None,
    scans: list[Scan],
    skips: list[Skip],
) -> None:
    """Add the scans of one session, or the reasons why there is none."""
    spec = search.primary
    try:
        found = _select(search, own, spec, session, filtered=True)
    except DataError as error:
        skips.append(_skip(search, own, session, str(error), True, error.exit_code))
        return
    if not found:
        if session is None and _has_sessions(own):
            return  # Files beside the sessions, such as a phenotype; nothing is expected there.
        without_filter: tuple[BidsFile, ...] = ()
        with contextlib.suppress(DataError):  # A fault of what the filter leaves out anyway.
            without_filter = _select(search, own, spec, session, filtered=False)
        skips.append(_nothing(search, own, session, without_filter))
        return
    groups: dict[tuple[str, ...], list[BidsFile]] = {}
    for file in found:
        key = tuple(file.name.entities.get(entity, "") for entity in search.group_by)
        groups.setdefault(key, []).append(file)
    for _, group in sorted(groups.items()):
        try:
            scans.append(_scan(search, own, session, tuple(group)))
        except DataError as error:
            skips.append(_skip(search, own, session, str(error), True, error.exit_code))


def _has_sessions(own: _Participant) -> bool:
    """Whether the participant has any session folder."""
    return any(file.session is not None for file in own.files)


def _nothing(
    search: _Search,
    own: _Participant,
    session: str | None,
    without_filter: Sequence[BidsFile],
) -> Skip:
    """Skip of a session without the primary input."""
    spec = search.primary
    where = f"sub-{own.label}" + ("" if session is None else f", ses-{session}")
    if without_filter:
        names = ", ".join(file.path.name for file in without_filter)
        reason = f"{where}: --bids-filter-file, {spec.name}, leaves none of {names}; widen it"
        return _skip(search, own, session, reason, False, ExitCode.NOTHING_MATCHED)
    what = spec.description or spec.name
    looked = f"{'/'.join(spec.datatypes)}/*_{'|'.join(spec.suffixes)}{spec.extensions[0]}"
    reason = f"{where}: no {what} (looked for {looked}{_rules(spec)})"
    return _skip(search, own, session, reason, False, ExitCode.NO_INPUT)


def _rules(spec: InputSpec) -> str:
    """Rules of a spec beyond folder and suffix, for messages."""
    rules = [f"no {key}-" for key in spec.absent]
    rules += [f"{key}- in {{{', '.join(labels)}}}" for key, labels in spec.entities.items()]
    rules += [f"{key}- not in {{{', '.join(labels)}}}" for key, labels in spec.excluded.items()]
    rules += [
        f"{key} absent or {'/'.join(allowed)}" for key, allowed in spec.metadata_allowed.items()
    ]
    marks = [f"{key}- in {{{', '.join(m)}}}" for key, m in spec.marks_in_name.items()]
    marks += [f"{key} {'/'.join(m)}" for key, m in spec.marks_in_sidecar.items()]
    rules += [" or ".join(marks)] if marks else []
    return "".join(f", {rule}" for rule in rules)


def _scan(
    search: _Search, own: _Participant, session: str | None, group: tuple[BidsFile, ...]
) -> Scan:
    """Scan around one group of primary files, or a DataError that says why not."""
    chosen: dict[str, tuple[BidsFile, ...]] = {}
    notes: list[str] = []
    for name, spec in search.inputs.items():
        found = group if spec == search.primary else _other(search, own, spec, session, notes)
        if len(found) > 1 and not spec.many:
            raise _ambiguous(search, own, spec, found)
        chosen[name] = found
    inputs: dict[str, tuple[Path, ...]] = {}
    for name, found in chosen.items():
        inputs[name] = tuple(file.path for file in found)
        for companion in search.inputs[name].companions:
            beside = [_companion(search, own, file, companion) for file in found]
            inputs[f"{name}_{companion.lstrip('.')}"] = tuple(beside)
    _require_content(search.root, [path for paths in inputs.values() for path in paths])
    images = [file for found in chosen.values() for file in found]
    return Scan(
        pipeline=search.pipeline,
        participant=own.label,
        session=session,
        entities=_shared_entities(group),
        inputs=inputs,
        metadata={file.path: _metadata(search.root, own, file) for file in images},
        notes=tuple(notes),
    )


def _other(
    search: _Search,
    own: _Participant,
    spec: InputSpec,
    session: str | None,
    notes: list[str],
) -> tuple[BidsFile, ...]:
    """Files of an input that is not the primary one, from this session or the only other."""
    found = _select(search, own, spec, session, filtered=True)
    if not found and spec.other_session:
        elsewhere = [
            (other, _select(search, own, spec, other, filtered=True))
            for other in {file.session for file in own.files} - {session}
        ]
        lenders = [(other, files) for other, files in elsewhere if files]
        if len(lenders) == 1:
            other, found = lenders[0]
            notes.append(
                f"{spec.name} comes from {'no session' if other is None else f'ses-{other}'}"
            )
        elif lenders:
            named = ", ".join(f"ses-{other}" for other, _ in lenders)
            notes.append(f"{spec.name} is in several other sessions ({named}); none was used")
    if not found and spec.required:
        what = spec.description or spec.name
        looked = f"{'/'.join(spec.datatypes)}/*_{'|'.join(spec.suffixes)}{spec.extensions[0]}"
        raise DataError(
            f"sub-{own.label}{'' if session is None else f', ses-{session}'}: no {what} (looked "
            f"for {looked}{_rules(spec)}), which {search.pipeline} needs; add it or leave the "
            "pipeline out with --pipelines",
            exit_code=ExitCode.NO_INPUT,
        )
    return found


def _ambiguous(
    search: _Search, own: _Participant, spec: InputSpec, found: Sequence[BidsFile]
) -> DataError:
    """Error that names the files among which the program must not guess."""
    names = ", ".join(file.path.relative_to(search.root).as_posix() for file in found)
    example = json.dumps({spec.name: _filter_for_first(found)})
    return DataError(
        f"{len(found)} files fit the input {spec.name} where one is due: {names}; choose one with "
        f"--bids-filter-file, for instance {example} (a filter holds for all participants of a "
        f"run: give --participant-label {own.label} with it), or remove the others"
    )


def _filter_for_first(found: Sequence[BidsFile]) -> dict[str, str | None]:
    """Filter that leaves the first of some files, by one part of the name where that will do."""
    parts = [
        {
            **{key: file.name.entities.get(key) for key in load_patterns().entities},
            "suffix": file.name.suffix,
            "datatype": file.datatype,
            "extension": file.name.extension,
        }
        for file in found
    ]
    first, *others = parts
    differing = {key: label for key, label in first.items() if any(o[key] != label for o in others)}
    for key, label in differing.items():
        if all(not _passes(key, other[key], label) for other in others):
            return {key: label}
    return differing


def _select(
    search: _Search,
    own: _Participant,
    spec: InputSpec,
    session: str | None,
    *,
    filtered: bool,
) -> tuple[BidsFile, ...]:
    """Files of one session that fit an input."""
    rules = search.filters.get(spec.name, {}) if filtered else {}
    found = []
    for file in own.files:
        if file.session != session or not _fits(file, spec, rules):
            continue
        if spec.metadata_allowed and not _metadata_fits(search, own, file, spec):
            continue
        if not _is_marked(search, own, file, spec):
            continue
        _require_own_name(search, own, file)
        found.append(file)
    return tuple(found)


def _fits(file: BidsFile, spec: InputSpec, rules: Mapping[str, Any]) -> bool:
    """Whether path and name fit a spec and a filter."""
    parts = {
        "suffix": (file.name.suffix, spec.suffixes),
        "datatype": (file.datatype, spec.datatypes),
        "extension": (file.name.extension, spec.extensions),
    }
    for part, (value, allowed) in parts.items():
        if part in rules:
            if not _passes(part, value, rules[part]):
                return False
        elif value not in allowed:
            return False
    by_entity = {short_key(key): rule for key, rule in rules.items() if key not in _NAME_PARTS}
    labels = file.name.entities
    if not all(_passes(key, labels.get(key), rule) for key, rule in by_entity.items()):
        return False
    return (
        not any(key in labels for key in spec.absent if key not in by_entity)
        and all(
            key in by_entity or labels.get(key) in allowed for key, allowed in spec.entities.items()
        )
        and not any(
            key not in by_entity and labels.get(key) in excluded
            for key, excluded in spec.excluded.items()
        )
    )


def _passes(key: str, label: str | None, rule: Any) -> bool:
    """Whether a label fits one value of a filter file, in the forms that fMRIPrep knows."""
    if isinstance(rule, list):
        return any(_passes(key, label, item) for item in rule)
    if rule is None or rule == "Query.NONE":
        return label is None
    if rule in ("*", "Query.ANY", "Query.REQUIRED"):
        return label is not None
    if rule == "Query.OPTIONAL":
        return True
    if label is None:
        return False
    text = str(rule)
    if key in load_patterns().indexes and label.isdigit() and text.isdigit():
        return int(label) == int(text)
    prefix = f"{key}-"
    return label == text or (key in ("sub", "ses") and label == text.removeprefix(prefix))


def _metadata_fits(search: _Search, own: _Participant, file: BidsFile, spec: InputSpec) -> bool:
    """Whether sidecar keys, where present, have allowed values."""
    content = _metadata(search.root, own, file)
    return all(
        key not in content or str(content[key]).upper() in {item.upper() for item in allowed}
        for key, allowed in spec.metadata_allowed.items()
    )


def _is_marked(search: _Search, own: _Participant, file: BidsFile, spec: InputSpec) -> bool:
    """Whether name or sidecar says what the file is, where a spec wants that said."""
    if not spec.marks_in_name and not spec.marks_in_sidecar:
        return True
    labels = file.name.entities
    if any(labels.get(key) in marks for key, marks in spec.marks_in_name.items()):
        return True
    content = _metadata(search.root, own, file)
    return any(
        str(content.get(key, "")).upper() in {mark.upper() for mark in marks}
        for key, marks in spec.marks_in_sidecar.items()
    )


def _require_own_name(search: _Search, own: _Participant, file: BidsFile) -> None:
    """Raise where a name contradicts its folder."""
    labels = (file.name.entities.get("sub"), file.name.entities.get("ses"))
    if labels != (own.label, file.session):
        folder = "/".join(file.folders[:-1])
        raise DataError(
            f"{file.path.relative_to(search.root)}: the name does not say {folder}, where the file "
            "lies; rename the file or move it",
            exit_code=ExitCode.INVALID_BIDS,
        )


def _shared_entities(group: Sequence[BidsFile]) -> dict[str, str]:
    """Entities that all files have alike, in the order of file names."""
    shared = {
        key: label
        for key, label in group[0].name.entities.items()
        if all(file.name.entities.get(key) == label for file in group)
    }
    return {
        key: shared[key]
        for key in load_patterns().entities
        if key in shared and key not in ("sub", "ses")
    }


def _applicable(own: _Participant, file: BidsFile, extension: str) -> list[BidsFile]:
    """Files that apply to an image by inheritance, from the root inwards.

    BIDS 1.11, common principles: same suffix, in a folder on the way to the image, and no
    entity that the image does not have with the same label.
    """
    labels = file.name.entities.items()
    found = [
        other
        for other in (*own.above, *own.files)
        if other.name.extension == extension
        and other.name.suffix == file.name.suffix
        and other.folders == file.folders[: len(other.folders)]
        and other.name.entities.items() <= labels
    ]
    return sorted(found, key=lambda other: (len(other.folders), len(other.name.entities)))


def _companion(search: _Search, own: _Participant, file: BidsFile, companion: str) -> Path:
    """File with the given extension that belongs to an image."""
    extension = f".{companion.lstrip('.')}"
    found = _applicable(own, file, extension)
    if not found:
        expected = file.path.name.removesuffix(file.name.extension) + extension
        raise DataError(
            f"{file.path.relative_to(search.root)}: its {extension} file is missing; expected "
            f"{expected} beside it, or one that applies by inheritance; add it (dcm2niix writes "
            "it) or leave the scan out",
            exit_code=ExitCode.NO_INPUT,
        )
    return found[-1].path


def _metadata(root: Path, own: _Participant, file: BidsFile) -> dict[str, Any]:
    """Sidecar of an image, merged from the root inwards."""
    merged: dict[str, Any] = {}
    for other in _applicable(own, file, ".json"):
        _require_content(root, [other.path])
        merged.update(read_json(other.path))
    return merged


def read_json(path: Path) -> dict[str, Any]:
    """Content of a JSON file that must hold an object.

    Parameters
    ----------
    path : Path
        A sidecar or dataset description.

    Returns
    -------
    dict
        Its content.

    Raises
    ------
    DataError
        If it cannot be read, is no JSON or no object, with exit code 16; the message has line
        and column.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "sub-01_T1w.json"
    ...     _ = path.write_text('{"EchoTime": 0.002}')
    ...     read_json(path)
    {'EchoTime': 0.002}
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}: not valid JSON at line {error.lineno}, column {error.colno} ({error.msg}); "
            "correct it there",
            exit_code=ExitCode.INVALID_BIDS,
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: cannot be read as text ({error}); expected JSON in UTF-8; check its "
            "permissions and encoding",
            exit_code=ExitCode.INVALID_BIDS,
        ) from error
    if not isinstance(content, dict):
        raise DataError(
            f"{path}: holds a {type(content).__name__}; expected a JSON object, "
            "keys and values between { and }; correct the file",
            exit_code=ExitCode.INVALID_BIDS,
        )
    return content


def _require_content(root: Path, paths: Sequence[Path]) -> None:
    """Raise where files are not there yet (annex), hold nothing or are folders."""
    for path in paths:
        if os.path.isdir(path):  # where permissions forbid to tell, False and not an error
            raise DataError(
                f"{path.relative_to(root)}: is a folder; expected a file; put the file that it may "
                "hold in its place, or remove or rename the folder"
            )
    absent = [path for path in paths if _is_unfetched(path)]
    for path in absent:
        if path.is_symlink() and _POINTER.decode() not in os.readlink(path):
            raise DataError(
                f"{path.relative_to(root)}: is a link to {os.readlink(path)}, which is not there; "
                "expected a file; restore that file or replace the link",
                exit_code=ExitCode.NO_INPUT,
            )
    if absent:
        lines = [
            f"  datalad get -d {shlex.quote(str(root))} {shlex.quote(str(path))}" for path in absent
        ]
        raise DataError(
            f"{len(absent)} file(s) are links to content that is not on this computer (git-annex); "
            "fetch them with\n" + "\n".join(lines),
            exit_code=ExitCode.NO_INPUT,
        )
    for path in paths:
        if path.stat().st_size == 0:
            raise DataError(
                f"{path.relative_to(root)}: holds 0 bytes; expected content; copy or convert it "
                "again, or remove it"
            )


def _is_unfetched(path: Path) -> bool:
    """Whether a file is a dangling link, or the pointer that an unlocked annex leaves."""
    try:
        if not path.exists():
            return True
        if path.stat().st_size > _MAX_POINTER_BYTES:
            return False
        with path.open("rb") as stream:
            return stream.read(len(_POINTER)) == _POINTER
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({os.strerror(error.errno or 0)}); expected a readable file; "
            "correct its permissions",
            exit_code=ExitCode.NO_INPUT,
        ) from error
