"""The two datasets of a run: the raw one that is read, the derivative one that is written."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from bids_alsmri.bids.query import list_participants, read_json
from bids_alsmri.bids.sink import write_json, write_text
from bids_alsmri.bids.spec import IoSpec
from bids_alsmri.errors import DataError, ExitCode, RunError, SettingsError

_DESCRIPTION = "dataset_description.json"
_BIDS_VERSION = "1.11.2"
_LABEL = re.compile(r"[0-9a-zA-Z+]+")

# Gitignore patterns; a trailing slash would not match at depth ("figures/" fails). The names
# follow proposals (transforms, model maps) that the validator does not know yet.
_IGNORED = (
    "*.html",
    "figures",
    "group",
    "*_xfm.*",
    "*_dwimap.*",
    "*_statmap.*",
    "*_stats.tsv",
    "*_stats.json",
    "*_timeseries.tsv",
    "*_timeseries.json",
    "*.bval",
    "*.bvec",
)

_README = """\
# bids_alsmri

Quantitative maps, tables and reports made by bids_alsmri, a BIDS App for MRI in amyotrophic
lateral sclerosis, from the dataset that `dataset_description.json` names under `SourceDatasets`.

| where | what |
|---|---|
| `sub-<label>.html` | report of one participant; read it before the maps are used |
| `sub-<label>/[ses-<label>/]<datatype>/` | images and tables, each with a JSON sidecar |
| `sub-<label>/figures/` | figures of the report |
| `group.html`, `group/` | report, tables and maps of the group level |
| `descriptions.tsv` | meaning of the `desc-` labels in the file names |
| `logs/` | settings, versions and errors of each run |

The sidecar of an image gives units, description, sources as BIDS URIs, the settings that the
image depends on and the version of the program. `DatasetLinks` in `dataset_description.json`
says where the datasets of those URIs are, relative to this folder. `.bidsignore` lists files
whose names follow BIDS proposals that are not part of the standard yet.
"""


def check_raw(
    bids_dir: Path, *, skip_validation: bool, needs_folders: bool = True
) -> dict[str, Any]:
    """Description of a raw dataset, once the dataset is found usable.

    Parameters
    ----------
    bids_dir : Path
        Root of the dataset.
    skip_validation : bool
        Whether to accept a dataset whose description is missing or wrong.
    needs_folders : bool
        Whether a dataset without a folder of any participant is refused; one of tables alone has
        none.

    Returns
    -------
    dict
        Content of dataset_description.json; empty if it cannot be read and that is accepted.

    Raises
    ------
    DataError
        If the folder is absent or has no participant (exit code 66), or is no valid raw dataset
        (exit code 16).

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     (Path(folder) / "sub-01").mkdir()
    ...     _ = (Path(folder) / "dataset_description.json").write_text(
    ...         '{"Name": "trial", "BIDSVersion": "1.10.0"}')
    ...     check_raw(Path(folder), skip_validation=False)["Name"]
    'trial'
    """
    bids_dir = Path(bids_dir)
    if not bids_dir.is_dir():
        state = "is a file" if bids_dir.exists() else "does not exist"
        raise DataError(
            f"BIDS_DIR {bids_dir} {state}; expected the root folder of a BIDS dataset; correct the "
            "path (in a container: bind the folder)",
            exit_code=ExitCode.NO_INPUT,
        )
    description: dict[str, Any] = {}
    try:
        description = _read_description(bids_dir)
        _check_description(bids_dir, description)
    except DataError:
        if not skip_validation:
            raise
    participants = list_participants(bids_dir)
    if not participants and needs_folders:
        raise DataError(
            f"{bids_dir}: has no folder sub-<label>; expected one per participant; give the root "
            "of the dataset as BIDS_DIR",
            exit_code=ExitCode.NO_INPUT,
        )
    wrong = [label for label in participants if not _LABEL.fullmatch(label)]
    if wrong and not skip_validation:
        raise DataError(
            f"{bids_dir}: folder sub-{wrong[0]} has the label {wrong[0]!r}; BIDS allows only "
            "letters, digits and +; rename the folder and its files",
            exit_code=ExitCode.INVALID_BIDS,
        )
    return description


def _read_description(bids_dir: Path) -> dict[str, Any]:
    """Content of dataset_description.json."""
    path = bids_dir / _DESCRIPTION
    if path.is_symlink() and not path.exists():
        raise DataError(
            f"{path}: is a link to content that is not on this computer (git-annex); fetch it with "
            f"datalad get -d {shlex.quote(str(bids_dir))} {shlex.quote(str(path))}",
            exit_code=ExitCode.NO_INPUT,
        )
    if not path.exists():
        raise DataError(
            f"{path} is missing; every BIDS dataset has one, with at least Name and BIDSVersion; "
            'add it, such as {"Name": "my study", "BIDSVersion": "1.10.0"}, or pass '
            "--skip-bids-validation",
            exit_code=ExitCode.INVALID_BIDS,
        )
    return read_json(path)


def _holds_freesurfer(folder: Path) -> bool:
    """Whether a folder holds subjects of FreeSurfer, and no dataset describes it."""
    if os.path.lexists(folder / _DESCRIPTION):
        return False
    return any(path.is_dir() for path in folder.glob("sub-*/mri"))


def _check_description(bids_dir: Path, description: Mapping[str, Any]) -> None:
    """Raise where the description is not one of a raw dataset."""
    path = bids_dir / _DESCRIPTION
    for key in ("Name", "BIDSVersion"):
        value = description.get(key)
        if not isinstance(value, str) or not value.strip():
            found = f"is {value!r}" if key in description else "is missing"
            raise DataError(
                f"{path}: {key} {found}; expected a text; add it or pass --skip-bids-validation",
                exit_code=ExitCode.INVALID_BIDS,
            )
    if description.get("DatasetType") == "derivative":
        raise DataError(
            f"{path}: DatasetType is 'derivative' ({description['Name']}); expected a raw dataset; "
            f"give that one as BIDS_DIR and this one with -d NAME={bids_dir}",
            exit_code=ExitCode.INVALID_BIDS,
        )


def check_derivatives(derivatives: Mapping[str, Path]) -> None:
    """Raise where a derivative dataset given by the user cannot be read.

    Parameters
    ----------
    derivatives : dict
        Folder by name, as given with ``-d NAME=PATH``.

    Raises
    ------
    SettingsError
        If a name cannot stand in a BIDS URI.
    DataError
        If a folder does not exist (exit code 66) or is no derivative dataset (exit code 16).

    Notes
    -----
    Folders of FreeSurfer's and FastSurfer's subjects have no description, and need none.

    Examples
    --------
    >>> check_derivatives({})
    """
    for name, folder in derivatives.items():
        if name == "raw" or not _LABEL.fullmatch(name):
            raise SettingsError(
                f"--derivatives {name}={folder}: the name must be letters and digits, not 'raw', "
                "which stands for BIDS_DIR in BIDS URIs; choose another name"
            )
        if not Path(folder).is_dir():
            raise DataError(
                f"--derivatives {name}={folder}: no such folder; expected the root of a "
                "derivative dataset, which holds dataset_description.json; correct the path",
                exit_code=ExitCode.NO_INPUT,
            )
        if _holds_freesurfer(Path(folder)):
            continue
        kind = _read_description(Path(folder)).get("DatasetType", "raw")
        if kind != "derivative":
            raise DataError(
                f"{Path(folder) / _DESCRIPTION}: DatasetType is {kind!r}; --derivatives "
                f"{name}=... expects 'derivative'; raw data are given as BIDS_DIR",
                exit_code=ExitCode.INVALID_BIDS,
            )


def check_output_dir(bids_dir: Path, output_dir: Path) -> None:
    """Raise where derivatives must not or cannot be written; writes nothing itself.

    Parameters
    ----------
    bids_dir, output_dir : Path
        Roots of the raw and the derivative dataset; the second need not exist.

    Raises
    ------
    SettingsError
        If the output folder is the raw dataset, lies in it anywhere but in
        ``derivatives/<name>``, or holds another dataset; exit code 64.
    RunError
        If it cannot be written, with exit code 73.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     check_output_dir(Path(folder) / "raw", Path(folder) / "out")
    """
    raw, output = Path(os.path.realpath(bids_dir)), Path(os.path.realpath(output_dir))
    advice = f"choose a folder elsewhere, or {Path(bids_dir) / 'derivatives' / 'bids_alsmri'}"
    if output == raw:
        raise SettingsError(f"OUTPUT_DIR {output_dir} is BIDS_DIR itself; {advice}")
    if output.is_relative_to(raw):
        inside = output.relative_to(raw).parts
        if inside[0] != "derivatives" or len(inside) < 2:
            raise SettingsError(
                f"OUTPUT_DIR {output_dir} lies inside the raw data {bids_dir}; {advice}"
            )
    _require_writable(output)
    _require_own(output)


def _require_writable(output: Path) -> None:
    """Raise where a folder cannot be made or written."""
    existing = output
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    problem = ""
    if not existing.is_dir():
        problem = f"{existing} is a file"
    elif not os.access(existing, os.W_OK | os.X_OK):
        problem = f"no permission to write to {existing}"
    if problem:
        raise RunError(
            f"OUTPUT_DIR {output} cannot be written: {problem}; make it writable or choose another",
            exit_code=ExitCode.CANNOT_WRITE,
        )


def _require_own(output: Path) -> None:
    """Raise where a folder holds a dataset of another program."""
    if not (output / _DESCRIPTION).is_file():
        return
    try:
        makers = read_json(output / _DESCRIPTION).get("GeneratedBy")
    except DataError:
        return  # Half of ours, or nothing of value: it will be written anew.
    names = [
        str(maker.get("Name"))
        for maker in (makers if isinstance(makers, list) else [])
        if isinstance(maker, dict)
    ]
    if "bids_alsmri" not in names:
        found = f"made by {', '.join(names)}" if names else "not made by bids_alsmri"
        raise SettingsError(
            f"OUTPUT_DIR {output} holds a dataset {found}; choose a folder of its own"
        )


def write_description(
    output_dir: Path, raw: Path, derivatives: Mapping[str, Path], version: str
) -> None:
    """Make a folder a derivative dataset, or leave it as it is if it is one already.

    Parameters
    ----------
    output_dir, raw : Path
        Roots of the derivative and the raw dataset.
    derivatives : dict
        Folder of each further dataset that was read, by its name in BIDS URIs.
    version : str
        Version of bids_alsmri.

    Raises
    ------
    RunError
        If the folder cannot be written, with exit code 73.

    Notes
    -----
    Writes dataset_description.json, .bidsignore and README.md. Links of an earlier run are
    kept, since sidecars in the folder may hold their URIs. Links are relative, so that they
    outlive a move of both datasets and do not tell where a user's home is.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_description(Path(folder) / "out", Path(folder) / "raw", {}, "0.1.0")
    ...     read_json(Path(folder) / "out" / "dataset_description.json")["DatasetLinks"]
    {'raw': '../raw'}
    """
    output_dir = Path(output_dir)
    links = _earlier_links(output_dir)
    sources = {"raw": Path(raw), **{name: Path(path) for name, path in derivatives.items()}}
    links.update({name: _link(path, output_dir) for name, path in sources.items()})
    content = {
        "Name": "bids_alsmri: quantitative MRI in amyotrophic lateral sclerosis",
        "BIDSVersion": _BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "bids_alsmri", "Version": version}],
        "SourceDatasets": [
            _source(link, sources.get(name)) for name, link in sorted(links.items())
        ],
        "DatasetLinks": dict(sorted(links.items())),
    }
    write_json(output_dir / _DESCRIPTION, content)
    write_text(output_dir / ".bidsignore", "\n".join(_IGNORED) + "\n")
    write_text(output_dir / "README.md", _README)


def _earlier_links(output_dir: Path) -> dict[str, str]:
    """Links that the folder's description holds already."""
    try:
        links = read_json(output_dir / _DESCRIPTION).get("DatasetLinks")
    except DataError:
        return {}
    return {str(name): str(link) for name, link in links.items()} if links else {}


def _link(path: Path, output_dir: Path) -> str:
    """Relative URI of a dataset, seen from the output folder."""
    relative = os.path.relpath(os.path.realpath(path), os.path.realpath(output_dir))
    return quote(Path(relative).as_posix())


def _source(link: str, path: Path | None) -> dict[str, str]:
    """Entry of SourceDatasets, with the DOI that the dataset states."""
    entry = {"URL": link}
    try:
        description = {} if path is None else read_json(path / _DESCRIPTION)
    except DataError:
        description = {}
    if isinstance(description.get("DatasetDOI"), str):
        entry["DOI"] = description["DatasetDOI"]
    return entry


def write_descriptions(output_dir: Path, specs: Mapping[str, IoSpec]) -> None:
    r"""Write descriptions.tsv: the meaning of every ``desc-`` label that pipelines use.

    Parameters
    ----------
    output_dir : Path
        Root of the derivative dataset.
    specs : dict of IoSpec
        By pipeline; of all pipelines, so that the table does not depend on which of them ran.

    Raises
    ------
    RunError
        If the folder cannot be written, with exit code 73.

    Examples
    --------
    >>> import tempfile
    >>> from bids_alsmri.bids.spec import OutputSpec
    >>> tsc = OutputSpec("tsc", "anat", "PDmap", entities={"desc": "tsc"}, description="Sodium")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_descriptions(Path(folder), {"sodium": IoSpec({}, {"tsc": tsc}, {})})
    ...     print((Path(folder) / "descriptions.tsv").read_text().replace("\t", " | "))
    desc_id | description
    desc-tsc | Sodium
    <BLANKLINE>
    """
    meanings: dict[str, list[str]] = {}
    for spec in specs.values():
        described = [
            *(
                (output.entities.get("desc", ""), output.description)
                for output in spec.outputs.values()
            ),
            *((figure.desc, f"figure: {figure.title}") for figure in spec.figures.values()),
        ]
        for label, text in described:
            if label and "{" not in label:
                # A placeholder has no value here: the table holds for all scans.
                plain = " ".join(text.replace("{", "").replace("}", "").split())
                meanings.setdefault(label, []).append(plain or "n/a")
    rows = ["desc_id\tdescription"]
    rows += [
        f"desc-{label}\t{'; '.join(dict.fromkeys(texts))}"
        for label, texts in sorted(meanings.items())
    ]
    write_text(Path(output_dir) / "descriptions.tsv", "\n".join(rows) + "\n")
