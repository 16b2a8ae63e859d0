"""Labels of a station: read, brought to its grid and checked against left and right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bids_alsmri.errors import DataError
from bids_alsmri.interfaces.base import ImageData, read_image
from bids_alsmri.pipelines.muscle.steps import on_grid
from bids_alsmri.pipelines.muscle.vocabulary import MappedLabels, Region, Vocabulary, map_labels


@dataclass(frozen=True)
class StationLabels:
    """Labels on the grid of their station.

    Parameters
    ----------
    labels : (X, Y, Z) array of int16
        Numbers of the vocabulary.
    warnings, notes : tuple of str
        Doubts, and how they were read.
    """

    labels: NDArray[np.int16]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]


def read_labels(
    path: Path,
    table_path: Path | None,
    station: ImageData,
    vocabulary: Vocabulary,
    *,
    codes: str,
) -> StationLabels:
    """Labels of a station from a file that somebody drew.

    Parameters
    ----------
    path : Path
        Label image.
    table_path : Path or None
        Its dseg.tsv.
    station : ImageData
        Image of the station, 3D.
    vocabulary : Vocabulary
        What labels are brought to.
    codes : str
        As in the settings.

    Returns
    -------
    StationLabels
        On the grid of the station.

    Raises
    ------
    DataError
        If the labels cannot be understood, lie elsewhere, or have left and right swapped.
    """
    drawn = read_image(path, ndim=None)
    mapped = map_labels(drawn.data, _read_table(table_path), vocabulary, codes=codes, path=path)
    warnings = list(drawn.warnings)
    if mapped.unknown:
        warnings.append(
            f"{path.name}: labels that no region of the list fits are left out: "
            f"{', '.join(mapped.unknown)}"
        )
    labels = mapped.labels
    notes = [f"{path.name}: labels read by the {mapped.how}"]
    if not same_grid(drawn, station):
        labels = np.asarray(
            on_grid(labels.astype(np.float32), drawn.affine, station, order=0), np.int16
        )
        notes.append(f"{path.name}: lies on another grid; brought to that of its station")
        if not labels.any():
            raise DataError(
                f"{path}: none of its labels lies in {station.path.name}; it may belong to "
                "another station or have another header"
            )
    check_sides(labels, station, mapped, path)
    return StationLabels(labels, tuple(warnings), tuple(notes))


def same_grid(first: ImageData, second: ImageData) -> bool:
    """Whether two images share shape and affine, to a hundredth of a millimetre."""
    return first.data.shape[:3] == second.data.shape[:3] and np.allclose(
        first.affine, second.affine, rtol=0, atol=0.01
    )


def _read_table(path: Path | None) -> pd.DataFrame | None:
    if path is None:
        return None
    try:
        table = pd.read_csv(path, sep="\t", dtype={"name": str})
        table["index"].astype(int)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"{path}: cannot be read as a table of labels ({error}); expected the columns index "
            "(whole numbers) and name"
        ) from error
    return table


def check_sides(
    labels: NDArray[np.int16], station: ImageData, mapped: MappedLabels, path: Path
) -> None:
    """Raise where muscles of the left lie to the right of those of the right.

    Parameters
    ----------
    labels : (X, Y, Z) array of int16
        On the grid of the station.
    station : ImageData
        Gives the world.
    mapped : MappedLabels
        Which regions there are.
    path : Path
        The file, for messages.

    Raises
    ------
    DataError
        If most pairs of muscles are swapped.
    """
    centres = _centres_x(labels, station, mapped.found)
    pairs = [
        (centres[left], centres[right])
        for left in mapped.found
        for right in mapped.found
        if (left.name, left.side, right.side) == (right.name, "left", "right")
        and left in centres
        and right in centres
    ]
    swapped = sum(left > right for left, right in pairs)
    if swapped > len(pairs) / 2:
        raise DataError(
            f"{path}: {swapped} of {len(pairs)} muscles of the left lie to the right of those of "
            "the right by the header; the station or its labels are mirrored; correct the "
            "orientation in the header, or the names in the table of labels"
        )


def _centres_x(
    labels: NDArray[np.int16], station: ImageData, found: Sequence[Region]
) -> dict[Region, float]:
    row = station.affine[0]
    centres = {}
    for region in found:
        places = np.argwhere(labels == region.index)
        if len(places):
            centres[region] = float(row[:3] @ places.mean(axis=0) + row[3])
    return centres


def label_rows(labels: NDArray[np.int16], vocabulary: Vocabulary) -> pd.DataFrame:
    """Table of the regions that occur.

    Parameters
    ----------
    labels : (X, Y, Z) array of int16
        Numbers of the vocabulary.
    vocabulary : Vocabulary
        Their names.

    Returns
    -------
    DataFrame
        index and name.
    """
    present = {int(i) for i in np.unique(labels)}
    rows = [(r.index, r.title) for r in vocabulary.regions if r.index in present]
    return pd.DataFrame(rows, columns=["index", "name"])
