"""Participants, sessions and phenotype tables of a dataset as one clinical table."""

from __future__ import annotations

import csv
import io
import logging
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bids_alsmri.bids.query import read_json
from bids_alsmri.errors import DataError, ExitCode, SettingsError

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

KEYS = ("participant_id", "session_id")
# BIDS knows n/a only; R, pandas and spreadsheets write the others.
MISSING = frozenset({"", "n/a", "N/A", "NA", "NaN", "nan"})
# A leading zero makes a label: site 01 is no number.
_NUMBER = re.compile(r"[+-]?(0|[1-9]\d*|(?=\.))(\.\d*)?([eE][+-]?\d+)?")

_Cells = dict[str, str | None]
_Visit = tuple[str, str | None]


@dataclass(frozen=True)
class ClinicalTable:
    """What the tables of a dataset say about participants and visits.

    Parameters
    ----------
    root : Path
        Folder of participants.tsv.
    visits : DataFrame
        One row per participant and visit, in the order of participants.tsv and, within a
        participant, of time. ``participant_id`` is ``sub-01``, ``session_id`` is ``ses-m00`` or
        None; the other columns hold numbers (NaN where missing) or text (None where missing).
    sources : dict
        Files that have each column, relative to `root`.
    units : dict
        Units of columns, where a sidecar has them.
    categorical : frozenset of str
        Columns whose sidecar lists levels.
    """

    root: Path
    visits: pd.DataFrame
    sources: Mapping[str, tuple[str, ...]]
    units: Mapping[str, str]
    categorical: frozenset[str]

    @property
    def participants(self) -> tuple[str, ...]:
        """Participants in the order of participants.tsv, with ``sub-``."""
        return tuple(dict.fromkeys(self.visits["participant_id"]))

    def file_of(self, column: str, participant: str | None = None) -> Path:
        """File that a column comes from, for messages.

        Parameters
        ----------
        column : str
            Of the visits; one that is in no file is looked for in participants.tsv.
        participant : str, optional
            With ``sub-``; the participant's sessions file goes before those of all.

        Returns
        -------
        Path
            Below `root`.

        Examples
        --------
        >>> files = {"mrc": ("participants.tsv", "sub-01/sub-01_sessions.tsv")}
        >>> table = ClinicalTable(Path("raw"), None, files, {}, frozenset())
        >>> table.file_of("mrc", "sub-01").as_posix(), table.file_of("mrc", "sub-02").as_posix()
        ('raw/sub-01/sub-01_sessions.tsv', 'raw/participants.tsv')
        """
        files = self.sources.get(column, ("participants.tsv",))
        own = [file for file in files if participant and file.startswith(f"{participant}/")]
        of_all = [file for file in files if not file.startswith("sub-")]
        return self.root / (own or of_all or list(files))[0]

    def row_of(self, participant: str, session: str | None) -> pd.Series | None:
        """Row of a visit.

        Parameters
        ----------
        participant : str
            With ``sub-``.
        session : str or None
            With ``ses-``.

        Returns
        -------
        Series or None
            The visit's row; the participant's only row where that or the visit asked for has no
            session; None where there is no such row.

        Examples
        --------
        >>> import pandas as pd
        >>> rows = pd.DataFrame({"participant_id": ["sub-01"], "session_id": [None], "age": [60.0]})
        >>> table = ClinicalTable(Path("raw"), rows, {}, {}, frozenset())
        >>> float(table.row_of("sub-01", "ses-m00")["age"])
        60.0
        """
        own = self.visits[self.visits["participant_id"] == participant]
        sessions = [_text_or_none(value) for value in own["session_id"]]
        if session in sessions:
            return own.iloc[sessions.index(session)]
        if len(own) == 1 and (session is None or sessions[0] is None):
            return own.iloc[0]
        return None


@dataclass(frozen=True)
class _Layer:
    """Cells of one file, by participant and visit; the session is None in a file without them."""

    file: str
    columns: tuple[str, ...]
    cells: Mapping[_Visit, _Cells]
    by_visit: bool


def find_clinical_root(*folders: Path) -> Path:
    """First folder that has a participants.tsv.

    Parameters
    ----------
    *folders : Path
        In order of preference, such as BIDS_DIR and OUTPUT_DIR.

    Returns
    -------
    Path
        One of them.

    Raises
    ------
    DataError
        If none has one, with exit code 66.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     (Path(folder) / "participants.tsv").touch()
    ...     find_clinical_root(Path(folder) / "raw", Path(folder)) == Path(folder)
    True
    """
    for folder in folders:
        if (folder / "participants.tsv").is_file():
            return folder
    named = " or ".join(str(folder / "participants.tsv") for folder in folders)
    raise DataError(
        f"{named}: not found; the group level needs a table with participant_id and group; copy "
        "it there, or fetch it with 'datalad get' where it is a link",
        exit_code=ExitCode.NO_INPUT,
    )


def read_clinical_table(
    root: Path, *, visits: Iterable[tuple[str, str | None]] = ()
) -> ClinicalTable:
    r"""Participants, sessions and phenotype files, merged into one row per visit.

    Parameters
    ----------
    root : Path
        Raw or derivative dataset; participants.tsv is all that it must hold.
    visits : iterable of (str, str or None)
        Visits that have a row even if no table names them, such as those of the scans:
        participant and session, with ``sub-`` and ``ses-``.

    Returns
    -------
    ClinicalTable
        Empty cells and ``n/a`` are missing.

    Raises
    ------
    DataError
        If a file cannot be read, has no tabs, a row of another length, a participant or visit
        twice, or if two files contradict each other.

    Notes
    -----
    A column of a file with sessions (``sub-XX_sessions.tsv``, or phenotype with ``session_id``)
    holds for its visits alone: for a participant who is in such a file, the same column of
    participants.tsv is not used, and a score that was missed stays missing. A column of
    participants.tsv or of phenotype without ``session_id`` holds for all visits. Two files of the
    same kind may both have a column if they agree; one that several phenotype files have gets the
    file's name before it (``mrc.total``). Visits are in the order of ``acq_time`` where all of a
    participant's have one, else of their labels, numbers by value (``m4`` before ``m12``).

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     text = "participant_id\tgroup\tage\nsub-01\tals\t61.5\nsub-02\thc\tn/a\n"
    ...     _ = (Path(folder) / "participants.tsv").write_text(text)
    ...     read_clinical_table(Path(folder)).visits["age"].tolist()
    [61.5, nan]
    """
    root = Path(root)
    people = _read_layer(root, "participants.tsv")
    participants = [participant for participant, _ in people.cells]
    layers = [people, *_phenotype(root), *_sessions(root, participants)]
    for layer in layers[1:]:
        _tell_unknown(layer, participants)
    wide = [layer for layer in layers if not layer.by_visit]
    long = [layer for layer in layers if layer.by_visit]
    named = {visit for layer in long for visit in layer.cells}
    named |= {visit for visit in visits if visit[1] is not None}
    columns = list(dict.fromkeys(column for layer in layers for column in layer.columns))
    rows: list[_Cells] = []
    for participant in participants:
        in_long = {c for layer in long for c in _columns_about(layer, participant)}
        always = _merged(root, wide, (participant, None), columns)
        own = [visit for visit in named if visit[0] == participant]
        found = []
        for visit in own or [(participant, None)]:
            seen = _merged(root, long, visit, columns)
            cells = {c: seen[c] if c in in_long else always[c] for c in columns}
            found.append({"participant_id": participant, "session_id": visit[1], **cells})
        rows += _in_order(found)
    units, categorical = _described(root, layers)
    return ClinicalTable(
        root, _typed(rows, columns, categorical), _sources(layers), units, categorical
    )


def _phenotype(root: Path) -> list[_Layer]:
    """Layers of the phenotype folder, columns of several files told apart."""
    names = sorted(path.name for path in (root / "phenotype").glob("*.tsv"))
    layers = [_read_layer(root, f"phenotype/{name}") for name in names]
    counts: dict[str, int] = {}
    for layer in layers:
        for column in layer.columns:
            counts[column] = counts.get(column, 0) + 1
    named = []
    for layer in layers:
        stem = Path(layer.file).stem
        new = {c: f"{stem}.{c}" if counts[c] > 1 else c for c in layer.columns}
        cells = {
            visit: {new[column]: cell for column, cell in own.items()}
            for visit, own in layer.cells.items()
        }
        named.append(_Layer(layer.file, tuple(new.values()), cells, layer.by_visit))
    return named


def _sessions(root: Path, participants: Iterable[str]) -> list[_Layer]:
    """One layer per sub-XX_sessions.tsv."""
    layers = []
    for participant in participants:
        name = f"{participant}/{participant}_sessions.tsv"
        if (root / name).is_file() or (root / name).is_symlink():
            layers.append(_read_layer(root, name, participant))
    return layers


def _read_layer(root: Path, name: str, participant: str | None = None) -> _Layer:
    """Cells of one file; the participant where the file is all about one."""
    path = root / name
    key = "participant_id" if participant is None else "session_id"
    header, lines = read_rows(path, required=(key,))
    # participants.tsv speaks of participants even where someone added a session
    by_visit = "session_id" in header and name != "participants.tsv"
    cells: dict[_Visit, _Cells] = {}
    seen: dict[_Visit, int] = {}
    for line, row in lines:
        who = participant or with_prefix(_required(path, line, row, "participant_id"), "sub-")
        when = with_prefix(_required(path, line, row, "session_id"), "ses-") if by_visit else None
        if (who, when) in seen:
            named = who if when is None else f"{who}, {when}"
            raise DataError(
                f"{path}: {named} stands in lines {seen[who, when]} and {line}; expected one row "
                "each; remove one of them",
                exit_code=ExitCode.INVALID_BIDS,
            )
        seen[who, when] = line
        cells[who, when] = {column: cell for column, cell in row.items() if column not in KEYS}
    if name == "participants.tsv" and not cells:
        raise DataError(
            f"{path}: has a header but no row; expected one row per participant; add them",
            exit_code=ExitCode.INVALID_BIDS,
        )
    columns = tuple(column for column in header if column not in KEYS)
    return _Layer(name, columns, cells, by_visit)


def read_rows(
    path: Path, *, required: Sequence[str]
) -> tuple[tuple[str, ...], list[tuple[int, dict[str, str | None]]]]:
    r"""Header and rows of a tab-separated table, as text.

    Parameters
    ----------
    path : Path
        Table in UTF-8.
    required : sequence of str
        Columns that it must have.

    Returns
    -------
    header : tuple of str
        Names of the columns.
    rows : list of (int, dict)
        Line number and cells by column; missing ones are None.

    Raises
    ------
    DataError
        If it cannot be read, lacks a column, has one twice, or a row has another number of cells,
        with exit code 16.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = (Path(folder) / "a.tsv").write_text("participant_id\tage\nsub-01\tn/a\n")
    ...     read_rows(Path(folder) / "a.tsv", required=["participant_id"])
    (('participant_id', 'age'), [(2, {'participant_id': 'sub-01', 'age': None})])
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: cannot be read as text ({error}); expected a table in UTF-8; check that the "
            "file is there and its encoding",
            exit_code=ExitCode.INVALID_BIDS,
        ) from error
    reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t")
    table = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    table = [(line, cells) for line, cells in table if any(cells)]
    header = tuple(table[0][1]) if table else ()
    _check_header(path, header, required)
    rows: list[tuple[int, dict[str, str | None]]] = []
    for line, cells in table[1:]:
        if len(cells) != len(header):
            raise DataError(
                f"{path}: line {line} has {len(cells)} cells but the header has {len(header)}; "
                "expected one cell per column, n/a where nothing is known; correct the line",
                exit_code=ExitCode.INVALID_BIDS,
            )
        known = [None if cell in MISSING else cell for cell in cells]
        rows.append((line, dict(zip(header, known, strict=True))))
    return header, rows


def _check_header(path: Path, header: Sequence[str], required: Sequence[str]) -> None:
    for column in required:
        if column not in header:
            raise DataError(
                f"{path}: has no column {column}; its header is {_quoted(header)}; expected "
                "columns between tabs, not commas; save it as tab-separated text, or rename the "
                "column",
                exit_code=ExitCode.INVALID_BIDS,
            )
    twice = sorted({column for column in header if list(header).count(column) > 1})
    if twice:
        raise DataError(
            f"{path}: the header has {_quoted(twice)} more than once; expected each column once; "
            "remove or rename one of them",
            exit_code=ExitCode.INVALID_BIDS,
        )


def _quoted(words: Iterable[str]) -> str:
    return ", ".join(f"'{word}'" for word in words) or "empty"


def _required(path: Path, line: int, row: _Cells, column: str) -> str:
    cell = row[column]
    if cell is None:
        raise DataError(
            f"{path}: line {line} has no {column}; expected a label in every row; add it or "
            "remove the line",
            exit_code=ExitCode.INVALID_BIDS,
        )
    return cell


def with_prefix(label: str, prefix: str) -> str:
    """Label with its prefix, once.

    Parameters
    ----------
    label : str
        With or without prefix.
    prefix : {"sub-", "ses-"}
        What it starts with.

    Returns
    -------
    str
        With prefix.

    Examples
    --------
    >>> with_prefix("01", "sub-"), with_prefix("sub-01", "sub-")
    ('sub-01', 'sub-01')
    """
    return prefix + label.removeprefix(prefix)


def _columns_about(layer: _Layer, participant: str) -> tuple[str, ...]:
    return layer.columns if any(who == participant for who, _ in layer.cells) else ()


def _tell_unknown(layer: _Layer, participants: Sequence[str]) -> None:
    """Log who is in a phenotype file but not in participants.tsv."""
    unknown = sorted({who for who, _ in layer.cells} - set(participants))
    if unknown:
        log.warning(
            "%s: %s not in participants.tsv; their rows are not used", layer.file, _listed(unknown)
        )


def _listed(labels: Sequence[str]) -> str:
    shown = ", ".join(labels[:10])
    return shown if len(labels) <= 10 else f"{shown} and {len(labels) - 10} more"


def _merged(root: Path, layers: Iterable[_Layer], visit: _Visit, columns: list[str]) -> _Cells:
    """Cells that files of one kind have for a visit; contradictions raise."""
    merged: _Cells = dict.fromkeys(columns)
    origin: dict[str, str] = {}
    for layer in layers:
        for column, cell in layer.cells.get(visit, {}).items():
            if cell is None:
                continue
            before = merged[column]
            if before is not None and not _same(before, cell):
                named = visit[0] if visit[1] is None else f"{visit[0]}, {visit[1]}"
                raise DataError(
                    f"{root / layer.file}: {column} of {named} is {cell} but {before} in "
                    f"{root / origin[column]}; expected the same value; correct one of them or "
                    "remove the column from one file"
                )
            if before is None:
                merged[column], origin[column] = cell, layer.file
    return merged


def _same(one: str, other: str) -> bool:
    if one == other:
        return True
    if _NUMBER.fullmatch(one) and _NUMBER.fullmatch(other):
        return float(one) == float(other)
    return False


def _in_order(rows: list[_Cells]) -> list[_Cells]:
    """Visits of one participant in time."""
    by_label = sorted(rows, key=lambda row: natural_key(row["session_id"] or ""))
    if all(row.get("acq_time") for row in rows):
        return sorted(by_label, key=lambda row: row["acq_time"] or "")
    return by_label


def natural_key(label: str) -> list[tuple[int, int, str]]:
    """Key that sorts the numbers within labels by value.

    Parameters
    ----------
    label : str
        Such as ``ses-m12``.

    Returns
    -------
    list
        For `sorted`.

    Examples
    --------
    >>> sorted(["ses-m12", "ses-m4"], key=natural_key)
    ['ses-m4', 'ses-m12']
    """
    parts = re.split(r"(\d+)", label)
    return [(1, int(part), part) if part.isdigit() else (0, 0, part) for part in parts]


def _typed(rows: list[_Cells], columns: list[str], categorical: frozenset[str]) -> pd.DataFrame:
    """Table with columns of numbers where all cells are numbers, else of text."""
    import pandas as pd

    typed = {}
    for column in (*KEYS, *columns):
        cells = [row[column] for row in rows]
        known = [cell for cell in cells if cell is not None]
        is_text = column in KEYS or column in categorical
        if not is_text and all(_NUMBER.fullmatch(cell) for cell in known):
            numbers = [math.nan if cell is None else float(cell) for cell in cells]
            typed[column] = pd.Series(numbers, dtype=float)
        else:
            typed[column] = pd.Series(cells, dtype=object)
    return pd.DataFrame(typed)


def _sources(layers: Iterable[_Layer]) -> dict[str, tuple[str, ...]]:
    """Files that have each column."""
    found: dict[str, tuple[str, ...]] = {}
    for layer in layers:
        for column in layer.columns:
            found[column] = (*found.get(column, ()), layer.file)
    return found


def _described(root: Path, layers: Iterable[_Layer]) -> tuple[dict[str, str], frozenset[str]]:
    """Units, and columns with levels, of the sidecars."""
    units: dict[str, str] = {}
    categorical = set()
    sidecars: dict[Path, str] = {root / "sessions.json": ""}
    for layer in layers:
        stem = f"{Path(layer.file).stem}." if layer.file.startswith("phenotype/") else ""
        sidecars[(root / layer.file).with_suffix(".json")] = stem
    known = {column for layer in layers for column in layer.columns}
    for path, stem in sidecars.items():
        for column, entry in (read_json(path) if path.is_file() else {}).items():
            name = column if column in known else f"{stem}{column}"
            if name not in known or not isinstance(entry, dict):
                continue
            if "Units" in entry:
                units.setdefault(name, str(entry["Units"]))
            if "Levels" in entry:
                categorical.add(name)
    return units, frozenset(categorical)


def _text_or_none(value: object) -> str | None:
    return value if isinstance(value, str) else None


def read_exclusions(path: Path) -> pd.DataFrame:
    r"""Scans that a file takes out of the group level.

    Parameters
    ----------
    path : Path
        Tab-separated, with columns participant, session, modality and reason (participant_id and
        session_id will do); ``n/a`` as session or modality means all of them. Prefixes may be
        left out.

    Returns
    -------
    DataFrame
        Columns participant_id, session_id, modality, image, reason and source (the file and
        line); None means all.

    Raises
    ------
    SettingsError
        If there is no such file.
    DataError
        If it cannot be read, or a row lacks participant or reason.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     text = "participant\tsession\tmodality\treason\n01\tn/a\tsodium\tmoved\n"
    ...     _ = (Path(folder) / "out.tsv").write_text(text)
    ...     read_exclusions(Path(folder) / "out.tsv")[["participant_id", "modality"]].values
    array([['sub-01', 'sodium']], dtype=object)
    """
    path = Path(path)
    if not path.is_file():
        raise SettingsError(
            f"{path}: not found; expected a table of excluded scans with the columns participant, "
            "session, modality and reason; correct the path",
            exit_code=ExitCode.NO_INPUT,
        )
    header, lines = read_rows(path, required=("reason",))
    names = {
        key: key if key in header or short not in header else short
        for key, short in (("participant_id", "participant"), ("session_id", "session"))
    }
    _check_header(path, header, (names["participant_id"],))
    rows = []
    for line, row in lines:
        session = row.get(names["session_id"])
        rows.append(
            {
                "participant_id": with_prefix(
                    _required(path, line, row, names["participant_id"]), "sub-"
                ),
                "session_id": None if session is None else with_prefix(session, "ses-"),
                "modality": row.get("modality"),
                "image": None,
                "reason": _required(path, line, row, "reason"),
                "source": f"{path}, line {line}",
            }
        )
    return _exclusions(rows)


def read_quality_labels(
    root: Path, *, excluding: Sequence[str], keeping: Sequence[str]
) -> pd.DataFrame:
    r"""Scans that the ``qc`` column of the dataset's scans.tsv files takes out.

    Parameters
    ----------
    root : Path
        Raw dataset; files without that column, or none at all, exclude nothing.
    excluding, keeping : sequence of str
        Labels that take a scan out, and that leave it in, such as fail and pass; compared without
        regard to case. A missing label leaves it in.

    Returns
    -------
    DataFrame
        As of `read_exclusions`; ``image`` is relative to `root`. The reason is the label, with
        the text of a column ``qc_reason`` where there is one.

    Raises
    ------
    DataError
        If a file cannot be read or holds another label.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     (Path(folder) / "sub-01").mkdir()
    ...     text = "filename\tqc\ndwi/sub-01_dwi.nii.gz\tfail\n"
    ...     _ = (Path(folder) / "sub-01" / "sub-01_scans.tsv").write_text(text)
    ...     found = read_quality_labels(Path(folder), excluding=["fail"], keeping=["pass"])
    ...     found["image"].tolist()
    ['sub-01/dwi/sub-01_dwi.nii.gz']
    """
    root = Path(root)
    files = [*root.glob("sub-*/sub-*_scans.tsv"), *root.glob("sub-*/ses-*/sub-*_scans.tsv")]
    bad, good = ({label.lower() for label in labels} for labels in (excluding, keeping))
    rows = []
    for path in sorted(files):
        header, lines = read_rows(path, required=("filename",))
        folder = path.parent.relative_to(root)
        for line, row in lines if "qc" in header else ():
            label = row["qc"]
            if label is None or label.lower() in good:
                continue
            if label.lower() not in bad:
                raise DataError(
                    f"{path}: line {line}: qc is '{label}'; expected {_quoted(keeping)} or n/a to "
                    f"keep the scan, {_quoted(excluding)} to exclude it; correct the label"
                )
            why = row.get("qc_reason")
            rows.append(
                {
                    "participant_id": folder.parts[0],
                    "session_id": folder.parts[1] if len(folder.parts) > 1 else None,
                    "modality": None,
                    "image": (folder / _required(path, line, row, "filename")).as_posix(),
                    "reason": f"qc: {label}" if why is None else f"qc: {label} ({why})",
                    "source": f"{path}, line {line}",
                }
            )
    return _exclusions(rows)


def _exclusions(rows: list[_Cells]) -> pd.DataFrame:
    import pandas as pd

    columns = ["participant_id", "session_id", "modality", "image", "reason", "source"]
    return pd.DataFrame(rows, columns=columns, dtype=object)
