"""What a pipeline reads and writes, as declared in its io_spec.json."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from bids_alsmri.errors import SettingsError

_PLACEHOLDER = re.compile(r"\{([a-z_][a-z0-9_]*)\}")
# Suffixes of images that need no SkullStripped (BIDS 1.11.2, rules.sidecars.derivatives).
_SEGMENTATIONS = frozenset({"mask", "dseg", "probseg"})
# between the name of an output and the station that a file of it belongs to
_STATION = "@"
_COMPARED = {"analysis", "map"}
_COMPARED_TOO = {"unsmoothed"}
# how the group level compares maps: those of diffusion along tracts, with a skeleton or smoothed,
# and others as volumes that are smooth already
ANALYSES = ("tracts", "volume")
# those whose maps lie where the participant level left them, so that another map lies there too
ADJUSTED_ANALYSES = ("volume",)


@dataclass(frozen=True)
class Patterns:
    """Entities and spaces that names are made of.

    Parameters
    ----------
    entities : dict
        Long name of each entity by its short key, in the order of file names.
    indexes : frozenset of str
        Short keys whose value is a number.
    aliases : dict
        Short key by every accepted name (short, BIDS and pybids).
    standard_spaces : frozenset of str
        Spaces that need no SpatialReference.
    inputs : dict
        Selection rules shared by pipelines, as raw JSON.
    """

    entities: Mapping[str, str]
    indexes: frozenset[str]
    aliases: Mapping[str, str]
    standard_spaces: frozenset[str]
    inputs: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class InputSpec:
    """One kind of file that a pipeline reads.

    Parameters
    ----------
    name : str
        Name by which the pipeline and ``--bids-filter-file`` call it.
    suffixes, datatypes, extensions : tuple of str
        What the file name and its folder must show; one of each suffices.
    required : bool
        Whether a scan without it is skipped.
    many : bool
        Whether several files may be found (echoes, stations, runs).
    absent : tuple of str
        Entities that the name must not have (short keys).
    entities, excluded : dict
        Values that an entity must have, and values it must not have; a name without the
        entity fails the first and passes the second.
    metadata_allowed : dict
        Values that a sidecar key may have where it is present, compared without case.
    marks_in_name, marks_in_sidecar : dict
        Values of entities, and of sidecar keys compared without case, of which one must hold, in
        the name or in the sidecar; empty where nothing needs to mark the file.
    companions : tuple of str
        Extensions of files that must stand beside each image, such as bval and bvec.
    other_session : bool
        Whether, where the session of the scan has none, the participant's only other
        session that has one may lend it.
    description : str
        What it is, for messages and reports.
    """

    name: str
    suffixes: tuple[str, ...]
    datatypes: tuple[str, ...]
    extensions: tuple[str, ...] = (".nii.gz", ".nii")
    required: bool = True
    many: bool = False
    absent: tuple[str, ...] = ()
    entities: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    excluded: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    metadata_allowed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    marks_in_name: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    marks_in_sidecar: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    companions: tuple[str, ...] = ()
    other_session: bool = False
    description: str = ""


@dataclass(frozen=True)
class OutputSpec:
    """One file that a pipeline writes.

    Parameters
    ----------
    name : str
        Name by which the pipeline saves it.
    datatype, suffix, extension : str
        Folder and ends of the file name.
    entities : dict
        Entities added to those of the scan, or replacing them (short keys); values may hold
        placeholders in braces.
    dropped : tuple of str
        Entities of the scan that the name does not carry over.
    units, description : str
        For the sidecar, ``descriptions.tsv`` and the report; `units` may be empty.
    stage : {"fit", "apply"}
        Estimated from the images, or made again from the saved fits.
    group : bool
        Whether the group level collects it.
    sidecar : dict
        Fixed keys of the sidecar, such as SkullStripped; texts may hold placeholders.
    optional : bool
        Whether a complete run may lack it.
    given : bool
        Whether people give it by this name and no run writes it.
    many : bool
        Whether there is one for each station of the scan, named after it.
    compared : dict
        How groups are compared on it, empty where they are not: ``analysis`` (one of `ANALYSES`)
        and ``map``, its short name there; of a smoothed map, ``unsmoothed`` may name the output
        that it was made from.
    covariate : dict
        For which maps of the pipeline it can be a covariate of each voxel, empty where for none:
        those of an ``analysis`` (one of `ADJUSTED_ANALYSES`), on whose grid it lies and as smooth
        as they are; ``map`` and ``unsmoothed`` as in `compared`.
    """

    name: str
    datatype: str
    suffix: str
    extension: str = ".nii.gz"
    entities: Mapping[str, str] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    units: str = ""
    description: str = ""
    stage: Literal["fit", "apply"] = "fit"
    group: bool = False
    sidecar: Mapping[str, Any] = field(default_factory=dict)
    optional: bool = False
    given: bool = False
    many: bool = False
    compared: Mapping[str, str] = field(default_factory=dict)
    covariate: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class FigureSpec:
    """One figure of a participant's report.

    Parameters
    ----------
    name : str
        Name by which the pipeline saves it.
    desc, suffix, extension : str
        Ends of the file name.
    kind : {"still", "flicker"}
        Flicker figures show two states in turn.
    title, caption : str
        For the report.
    labels : tuple of str
        What the two states of a flicker figure show.
    optional : bool
        Whether there are scans without it, such as those of a single visit.
    """

    name: str
    desc: str
    suffix: str
    extension: str = ".svg"
    kind: Literal["still", "flicker"] = "still"
    title: str = ""
    caption: str = ""
    labels: tuple[str, ...] = ("before", "after")
    optional: bool = False

    def __post_init__(self) -> None:
        """Raise where a state has no label."""
        if len(self.labels) != 2:
            raise SettingsError(f"figure {self.name} has {len(self.labels)} labels; give two")


@dataclass(frozen=True)
class IoSpec:
    """Everything a pipeline reads and writes, each by its name.

    Parameters
    ----------
    inputs : dict of InputSpec
        Files read.
    outputs : dict of OutputSpec
        Files written.
    figures : dict of FigureSpec
        Figures of the report.
    """

    inputs: Mapping[str, InputSpec]
    outputs: Mapping[str, OutputSpec]
    figures: Mapping[str, FigureSpec]


_Record = TypeVar("_Record", InputSpec, OutputSpec, FigureSpec)


@lru_cache(maxsize=1)
def load_patterns() -> Patterns:
    """Entity order, names and standard spaces, from patterns.json.

    Returns
    -------
    Patterns
        The table; the same object on every call.

    Notes
    -----
    The order is that of the BIDS schema 1.11.2 (``rules.entities``). Entities beyond it stand
    where their proposals put them: ``model`` and ``param`` (BEP016), ``from``, ``to`` and
    ``mode`` (BEP014), ``contrast`` and ``stat`` (BIDS statistical models) before ``label``.

    Examples
    --------
    >>> list(load_patterns().entities)[:3]
    ['sub', 'tpl', 'ses']
    """
    raw = json.loads(files(__package__).joinpath("patterns.json").read_text(encoding="utf-8"))
    entities = dict(raw["entities"])
    aliases = {short: short for short in entities}
    aliases.update({long: short for short, long in entities.items()})
    aliases.update(raw["pybids_names"])
    return Patterns(
        entities=entities,
        indexes=frozenset(raw["indexes"]),
        aliases=aliases,
        standard_spaces=frozenset(raw["standard_spaces"]),
        inputs=raw["inputs"],
    )


def short_key(entity: str) -> str:
    """Short key of an entity given by its short or long name.

    Parameters
    ----------
    entity : str
        Such as ``acq`` or ``acquisition``.

    Returns
    -------
    str
        The key that stands in file names.

    Raises
    ------
    SettingsError
        If there is no such entity.

    Examples
    --------
    >>> short_key("acquisition"), short_key("desc")
    ('acq', 'desc')
    """
    patterns = load_patterns()
    if entity not in patterns.aliases:
        known = ", ".join(patterns.entities)
        raise SettingsError(f"{entity!r} is no BIDS entity; use one of: {known}")
    return patterns.aliases[entity]


def of_station(name: str, station: str) -> str:
    """Name under which the file of one station is kept, of an output that there are many of.

    Parameters
    ----------
    name : str
        Output.
    station : str
        Key of the station; empty for an output of the whole scan.

    Returns
    -------
    str
        Both, as :func:`output_name` parts them.

    Examples
    --------
    >>> of_station("adc", "dwi_chunk-1")
    'adc@dwi_chunk-1'
    """
    return f"{name}{_STATION}{station}" if station else name


def output_name(kept: str) -> str:
    """Name of the output that a file is one of.

    Parameters
    ----------
    kept : str
        Name under which a file is kept, perhaps of a station.

    Returns
    -------
    str
        The key in ``io_spec.json``.

    Examples
    --------
    >>> output_name("adc@dwi_chunk-1"), output_name("adc")
    ('adc', 'adc')
    """
    return kept.partition(_STATION)[0]


def fill(text: str, values: Mapping[str, str]) -> str:
    """Text with every ``{name}`` replaced by its value.

    Parameters
    ----------
    text : str
        Any text; braces around anything but a lower-case name are left alone.
    values : dict
        Value by name.

    Returns
    -------
    str
        The filled text.

    Raises
    ------
    SettingsError
        If a placeholder has no value.

    Examples
    --------
    >>> fill("space-{template}", {"template": "MNI152NLin6Asym"})
    'space-MNI152NLin6Asym'
    """

    def value(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in values:
            given = ", ".join(sorted(values)) or "nothing"
            raise SettingsError(
                f"placeholder {{{name}}} in {text!r} has no value; "
                f"the pipeline gives {given}; add it there or correct io_spec.json"
            )
        return str(values[name])

    return _PLACEHOLDER.sub(value, text)


def load_io_spec(path: Path) -> IoSpec:
    """What a pipeline reads and writes, read from JSON and checked.

    Parameters
    ----------
    path : Path
        A pipeline's io_spec.json: an object with ``inputs``, ``outputs`` and ``figures``, each
        an object of entries by name. An input may say ``"like": "brain_t1w"`` to start from a
        rule of patterns.json.

    Returns
    -------
    IoSpec
        The checked records, with short entity keys.

    Raises
    ------
    SettingsError
        If the file is no JSON, a key is unknown, missing or of the wrong type, or an output
        lacks a sidecar key that BIDS requires.

    Examples
    --------
    >>> import tempfile
    >>> text = '{"inputs": {"t1w": {"like": "brain_t1w"}}}'
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "io_spec.json"
    ...     _ = path.write_text(text)
    ...     load_io_spec(path).inputs["t1w"].suffixes
    ('T1w',)
    """
    try:
        raw = json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise SettingsError(
            f"{path}: not valid JSON at line {error.lineno}, column {error.colno} ({error.msg}); "
            "correct it there"
        ) from error
    _refuse_unknown(path, "top level", raw, {"inputs", "outputs", "figures"})
    inputs = _records(path, "inputs", raw, InputSpec)
    outputs = _records(path, "outputs", raw, OutputSpec)
    figures = _records(path, "figures", raw, FigureSpec)
    for output in outputs.values():
        _check_output(path, output)
    return IoSpec(inputs=inputs, outputs=outputs, figures=figures)


def _records(
    path: Path, section: str, raw: Mapping[str, Any], record: type[_Record]
) -> dict[str, _Record]:
    """Records of one section of the file, by name."""
    entries = raw.get(section, {})
    if not isinstance(entries, dict):
        raise SettingsError(f"{path}: {section} must be an object of entries by name")
    return {
        name: _record(path, f"{section}.{name}", name, entry, record)
        for name, entry in entries.items()
    }


def _record(path: Path, where: str, name: str, entry: Any, record: type[_Record]) -> _Record:
    """One record, its keys checked against the dataclass."""
    if not isinstance(entry, dict):
        raise SettingsError(f"{path}: {where} is {entry!r}; it must be an object")
    entry = dict(entry)
    if record is InputSpec and "like" in entry:
        entry = _inherited(path, where, entry)
    known = {spec.name: spec for spec in fields(record)}
    _refuse_unknown(path, where, entry, set(known) - {"name"})
    for key, spec in known.items():
        needed = spec.default is MISSING and spec.default_factory is MISSING and key != "name"
        if needed and key not in entry:
            raise SettingsError(f"{path}: {where} lacks {key!r}; add it")
    kinds = get_type_hints(record)
    checked = {
        key: _checked(f"{path}: {where}.{key}", key, kinds[key], value)
        for key, value in entry.items()
    }
    return record(name=name, **checked)


def _inherited(path: Path, where: str, entry: dict[str, Any]) -> dict[str, Any]:
    """Entry laid over the shared rule that it names."""
    shared = load_patterns().inputs
    like = entry.pop("like")
    if like not in shared:
        raise SettingsError(f"{path}: {where}.like is {like!r}; known are {', '.join(shared)}")
    return {**shared[like], **entry}


def _refuse_unknown(path: Path, where: str, entry: Any, known: set[str]) -> None:
    """Raise where an object has a key that nothing reads."""
    if not isinstance(entry, dict):
        raise SettingsError(f"{path}: {where} must be an object")
    unknown = [key for key in entry if key not in known]
    if unknown:
        raise SettingsError(
            f"{path}: {where} has the unknown key {unknown[0]!r}; known are "
            + ", ".join(sorted(known))
        )


def _checked(where: str, key: str, kind: Any, value: Any) -> Any:
    """Value brought to the type that the dataclass declares."""
    if get_origin(kind) is Literal:
        return _chosen(where, value, get_args(kind))
    readers: dict[Any, Callable[[str, Any], Any]] = {
        str: _text,
        bool: _truth,
        tuple[str, ...]: _texts,
        Mapping[str, tuple[str, ...]]: _texts_by_name,
        Mapping[str, str]: _text_by_name,
        Mapping[str, Any]: _object,
    }
    read = readers[kind](where, value)
    if key in {"entities", "excluded", "marks_in_name"}:
        return {short_key(entity): allowed for entity, allowed in read.items()}
    if key in {"absent", "dropped"}:
        return tuple(short_key(entity) for entity in read)
    return read


def _text(where: str, value: Any) -> str:
    """A text, or an error."""
    if not isinstance(value, str):
        raise SettingsError(f"{where} is {value!r}; it must be a text")
    return value


def _truth(where: str, value: Any) -> bool:
    """A truth value, or an error."""
    if not isinstance(value, bool):
        raise SettingsError(f"{where} is {value!r}; it must be true or false")
    return value


def _texts(where: str, value: Any) -> tuple[str, ...]:
    """A list of texts, or an error."""
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise SettingsError(f"{where} is {value!r}; it must be a list of texts")
    return tuple(value)


def _object(where: str, value: Any) -> dict[str, Any]:
    """An object, or an error."""
    if not isinstance(value, dict):
        raise SettingsError(f"{where} is {value!r}; it must be an object")
    return dict(value)


def _text_by_name(where: str, value: Any) -> dict[str, str]:
    """An object of texts, or an error."""
    return {name: _text(f"{where}.{name}", item) for name, item in _object(where, value).items()}


def _texts_by_name(where: str, value: Any) -> dict[str, tuple[str, ...]]:
    """An object of lists of texts, or an error."""
    return {name: _texts(f"{where}.{name}", item) for name, item in _object(where, value).items()}


def _chosen(where: str, value: Any, allowed: tuple[str, ...]) -> str:
    """One of the allowed texts, or an error."""
    if value not in allowed:
        raise SettingsError(f"{where} is {value!r}; it must be one of {', '.join(allowed)}")
    return str(value)


def _check_output(path: Path, output: OutputSpec) -> None:
    """Raise where an output would make the derivative folder invalid.

    The rules are ImageDerivatives, SpatialReferenceNonStandard and ImageDerivativeResEntity of
    the BIDS schema 1.11.2.
    """
    where = f"{path}: outputs.{output.name}"
    _check_use(path, f"outputs.{output.name}.compared", output.compared, ANALYSES)
    _check_use(path, f"outputs.{output.name}.covariate", output.covariate, ADJUSTED_ANALYSES)
    if not output.extension.startswith("."):
        raise SettingsError(f"{where}.extension is {output.extension!r}; it must start with a dot")
    if output.extension not in {".nii", ".nii.gz"}:
        return
    space = output.entities.get("space", "")
    foreign = space and "{" not in space and space not in load_patterns().standard_spaces
    needed = {
        "SkullStripped": output.suffix not in _SEGMENTATIONS,
        "SpatialReference": bool(foreign),
        "Resolution": "res" in output.entities,
    }
    for key, is_needed in needed.items():
        if is_needed and key not in output.sidecar:
            raise SettingsError(f"{where}.sidecar lacks {key}, which BIDS requires here; add it")


def _check_use(path: Path, where: str, use: Mapping[str, str], analyses: tuple[str, ...]) -> None:
    """Raise where what the group level makes of an output is told wrongly."""
    if not use:
        return
    _refuse_unknown(path, where, use, _COMPARED | _COMPARED_TOO)
    if not set(use) >= _COMPARED or use["analysis"] not in analyses:
        raise SettingsError(
            f"{path}: {where} is {dict(use)}; give a map and as its analysis one of "
            f"{', '.join(analyses)}"
        )
