"""Names of muscles and bones, and what other programs call them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bids_alsmri.errors import DataError

# programs whose labels are numbers, and the column that has them
PROGRAMS = ("musclemap", "totalsegmentator", "totalsegmentator_thigh", "totalsegmentator_headneck")
_REQUIRED = ("index", "name", "side", "kind")
_SIDES = ("left", "right", "midline")
_KINDS = ("muscle", "bone", "compartment")
_SIDE_WORDS = {"left": "left", "l": "left", "lt": "left", "right": "right", "r": "right",
               "rt": "right"}  # fmt: skip


@dataclass(frozen=True)
class Region:
    """A muscle or bone of one side.

    Parameters
    ----------
    index : int
        Its label.
    name, side : str
        Name without the side; left, right or midline.
    kind : str
        muscle, bone, or compartment of a leg.
    part_of : str
        Name of the muscle that it is a head or part of; empty for none.
    in_jenkins2020 : bool
        Whether it is one of the 34 of Jenkins 2020.
    diamanti2018 : str
        Region of the list after Diamanti 2018 that it belongs to; empty for none.
    plane : str
        axial or coronal: in which it is read.
    details : dict
        The other columns: body region, tests of strength and nerve, names elsewhere.
    """

    index: int
    name: str
    side: str
    kind: str = "muscle"
    part_of: str = ""
    in_jenkins2020: bool = False
    diamanti2018: str = ""
    plane: str = "axial"
    details: Mapping[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Name with the side in front."""
        return self.name if self.side == "midline" else f"{self.side} {self.name}"

    def __hash__(self) -> int:
        """Hash of its label."""
        return self.index


@dataclass(frozen=True)
class Vocabulary:
    """All regions that a run knows.

    Parameters
    ----------
    regions : tuple of Region
        In the order of the table.
    source : str
        Where it comes from, for messages.
    """

    regions: tuple[Region, ...]
    source: str

    @property
    def by_index(self) -> dict[int, Region]:
        """Regions by label."""
        return {region.index: region for region in self.regions}

    def find(self, text: str) -> Region | None:
        """Region that a name means, whatever its spelling.

        Parameters
        ----------
        text : str
            Such as ``Right tibialis anterior``, ``VL_L`` or ``gluteus_maximus_left``.

        Returns
        -------
        Region or None
            None where no region, or more than one, has that name.
        """
        name, side = split_side(text)
        fitting = [r for r in self.regions if name in _names_of(r) and side in (r.side, "")]
        if not fitting:
            # a muscle of the midline that another program parts into two
            fitting = [r for r in self.regions if name in _names_of(r) and r.side == "midline"]
        exact = [r for r in fitting if plain(r.name) == name]
        fitting = exact or fitting
        return fitting[0] if len(fitting) == 1 else None

    def by_code(self, program: str) -> dict[int, Region]:
        """Regions by the number that a program gives them."""
        found = {}
        for region in self.regions:
            for code in region.details.get(program, "").split(";"):
                if code.strip().isdigit():
                    found[int(code)] = region
        return found

    def parts_of(self, region: Region) -> tuple[Region, ...]:
        """The region itself, its parts and theirs, on its side."""
        found, todo = [region], [region]
        while todo:
            whole = todo.pop()
            parts = [r for r in self.regions if r.part_of == whole.name and r.side == whole.side]
            found += parts
            todo += parts
        return tuple(found)


def plain(text: str) -> str:
    """Words of a name in small letters, without marks between them."""
    return " ".join(re.sub(r"[^a-z0-9]+", " ", text.lower()).split())


def split_side(text: str) -> tuple[str, str]:
    """Name in small letters and its side; the side is empty where none is told.

    Parameters
    ----------
    text : str
        A name with a side at either end.

    Returns
    -------
    name, side : str
        The side is left, right or empty.

    Examples
    --------
    >>> split_side("R quadriceps"), split_side("gluteus_maximus_left")
    (('quadriceps', 'right'), ('gluteus maximus', 'left'))
    """
    words = plain(text).split()
    for end in (0, -1):
        if len(words) > 1 and words[end] in _SIDE_WORDS:
            side = _SIDE_WORDS[words[end]]
            del words[end]
            return " ".join(words), side
    return " ".join(words), ""


@cache
def _names_of(region: Region) -> frozenset[str]:
    names = [region.name, *region.details.get("aliases", "").split(";")]
    short, _ = split_side(region.details.get("dafne", ""))
    return frozenset(plain(name) for name in [*names, short] if name)


@cache
def read_vocabulary(path: Path | None) -> Vocabulary:
    """Regions of the table that comes with the package, or of a user's own.

    Parameters
    ----------
    path : Path or None
        Tab-separated, with the columns index, name, side and kind at least; None for ours.

    Returns
    -------
    Vocabulary
        Checked.

    Raises
    ------
    DataError
        If the table cannot be read, lacks a column, or a label or region stands twice.

    Examples
    --------
    >>> ours = read_vocabulary(None)
    >>> sum(region.in_jenkins2020 for region in ours.regions)
    34
    >>> sum(bool(region.diamanti2018) for region in ours.regions)
    68
    """
    own = files("bids_alsmri.data").joinpath("muscles.tsv")
    source = "muscles.tsv of bids_alsmri" if path is None else str(path)
    try:
        with own.open() if path is None else path.open() as stream:
            table = pd.read_csv(stream, sep="\t", dtype=str, keep_default_na=False)
    except (OSError, ValueError, UnicodeDecodeError) as error:
        raise DataError(
            f"{source}: cannot be read as a table ({error}); expected tab-separated columns "
            f"{', '.join(_REQUIRED)} and more"
        ) from error
    lacking = [column for column in _REQUIRED if column not in table.columns]
    if lacking:
        raise DataError(f"{source}: lacks the column {lacking[0]}; add it")
    rows = [{str(k): str(v) for k, v in row.items()} for row in table.to_dict("records")]
    regions = tuple(_region(source, line, row) for line, row in enumerate(rows, start=2))
    for what in ("index", "title"):
        values = [getattr(region, what) for region in regions]
        twice = next((v for v in values if values.count(v) > 1), None)
        if twice is not None:
            raise DataError(f"{source}: {what} {twice} stands twice; give each region once")
    return Vocabulary(regions, source)


def _region(source: str, line: int, row: Mapping[str, str]) -> Region:
    cells = {key: "" if value.strip() == "n/a" else value.strip() for key, value in row.items()}
    where = f"{source}, line {line}"
    if not cells["index"].isdigit() or int(cells["index"]) == 0:
        raise DataError(f"{where}: index is {cells['index']!r}; give a whole number above 0")
    for column, allowed in (("side", _SIDES), ("kind", _KINDS)):
        if cells[column] not in allowed:
            raise DataError(
                f"{where}: {column} is {cells[column]!r}; give one of {', '.join(allowed)}"
            )
    return Region(
        index=int(cells["index"]),
        name=cells["name"],
        side=cells["side"],
        kind=cells["kind"],
        part_of=cells.get("part_of", ""),
        in_jenkins2020=cells.get("jenkins2020", "") == "1",
        diamanti2018=cells.get("diamanti2018", ""),
        plane=cells.get("plane", "") or "axial",
        details={
            key: cells.get(key, "")
            for key in (
                *("body_region", "mrc", "dynamometry", "emg", *PROGRAMS, "dafne", "aliases"),
            )
        },
    )


@dataclass(frozen=True)
class MappedLabels:
    """Labels brought to the numbers of the vocabulary.

    Parameters
    ----------
    labels : (X, Y, Z) array of int16
        Regions.
    found : tuple of Region
        Those that occur.
    unknown : tuple of str
        Labels that no region of the vocabulary fits, with their names where they have any.
    how : str
        What the labels were read by.
    """

    labels: NDArray[np.int16]
    found: tuple[Region, ...]
    unknown: tuple[str, ...]
    how: str


def map_labels(
    values: NDArray[np.floating],
    table: pd.DataFrame | None,
    vocabulary: Vocabulary,
    *,
    codes: str,
    path: Path,
) -> MappedLabels:
    """Labels of any source as numbers of the vocabulary.

    Parameters
    ----------
    values : (X, Y, Z) array
        Label image as read.
    table : DataFrame or None
        Its dseg.tsv, with the columns index and name.
    vocabulary : Vocabulary
        What the labels are brought to.
    codes : str
        ``auto``: by the names of the table, else as numbers of the vocabulary; ``own``: as those
        numbers; or one of `PROGRAMS`.
    path : Path
        The file, for messages.

    Returns
    -------
    MappedLabels
        Unknown labels are left out.

    Raises
    ------
    DataError
        If a label is no whole number, as where labels overlap or were interpolated; or if none is
        known.

    Notes
    -----
    Several labels may be one region, such as both sides of a muscle of the midline.
    """
    if values.ndim != 3:
        raise DataError(
            f"{path}: has {values.ndim} axes; expected one volume of labels in which every voxel "
            "has one region; merge overlapping masks before, the smaller muscle over the larger"
        )
    present = np.unique(values)
    if not np.array_equal(present, np.round(present)) or present.min() < 0:
        odd = present[(present != np.round(present)) | (present < 0)][0]
        raise DataError(
            f"{path}: holds the value {odd:g}; labels are whole numbers from 0; draw it again or "
            "resample it with nearest neighbours"
        )
    numbers = [int(value) for value in present if value > 0]
    if codes == "auto" and table is not None:
        names = dict(zip(table["index"].astype(int), table["name"].astype(str), strict=True))
        known = {n: vocabulary.find(names[n]) for n in numbers if n in names}
        how = "names of its table"
    else:
        names = {}
        source = vocabulary.by_index if codes in ("auto", "own") else vocabulary.by_code(codes)
        known = {n: source.get(n) for n in numbers}
        how = "numbers of the vocabulary" if codes in ("auto", "own") else f"codes of {codes}"
    mapping = {n: region for n, region in known.items() if region is not None}
    unknown = tuple(
        f"{n} ({names[n]})" if n in names else str(n) for n in numbers if n not in mapping
    )
    if numbers and not mapping:
        raise DataError(
            f"{path}: none of its labels ({', '.join(unknown[:8])}) is known by the {how}; give "
            "names in a dseg.tsv beside it, choose --muscle-label-codes, or give a list of your "
            "own with --muscle-region-list"
        )
    look_up = np.zeros(max(numbers, default=0) + 1, np.int16)
    for number, region in mapping.items():
        look_up[number] = region.index
    labels = look_up[values.astype(np.int64)]
    found = tuple(r for r in vocabulary.regions if r in set(mapping.values()))
    return MappedLabels(labels, found, unknown, how)
