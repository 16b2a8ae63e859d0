"""Caliper lines and ovals that a reader drew on the slab, as label images or as points."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bids_alsmri.errors import DataError, NumericsError
from bids_alsmri.interfaces.base import ImageData
from bids_alsmri.numerics.calipers import line_lengths, oval_mask
from bids_alsmri.pipelines.cortex7t.slab import (
    REFERENCE,
    labels_on_grid,
    measured_areas,
    region_of,
)
from bids_alsmri.spaces.atlases import MotorArea

SHAPES = ("caliper", "oval")
ENDS = ("x1", "y1", "z1", "x2", "y2", "z2")
SOURCE = "drawn"


@dataclass(frozen=True)
class Drawing:
    """What one reader drew, by area.

    Parameters
    ----------
    lengths_mm : dict of list of float
        Lengths of caliper lines, in mm.
    signals : dict of list of array
        Signal of the voxels of each oval.
    places_x : dict of list of float
        Where things lie from left to right, in mm of the world.
    marks : list of (int, str, (N, 3) array)
        Label of the area, shape and voxels of each line and oval, in the order of their files:
        those that were painted, the ends of a line of points, and those within an oval.
    """

    lengths_mm: dict[int, list[float]] = field(default_factory=dict)
    signals: dict[int, list[NDArray[np.float64]]] = field(default_factory=dict)
    places_x: dict[int, list[float]] = field(default_factory=dict)
    marks: list[tuple[int, str, NDArray[np.float64]]] = field(default_factory=list)

    def add_lines(
        self, area: MotorArea, lengths_mm: Iterable[float], x_mm: float, voxels: NDArray[Any]
    ) -> None:
        """Add caliper lines of an area."""
        self.lengths_mm.setdefault(area.label, []).extend(lengths_mm)
        self.places_x.setdefault(area.label, []).append(x_mm)
        self.marks.append((area.label, "caliper", np.asarray(voxels, np.float64)))

    def add_oval(self, area: MotorArea, image: ImageData, mask: NDArray[Any], x_mm: float) -> None:
        """Add an oval of an area."""
        self.signals.setdefault(area.label, []).append(np.asarray(image.data[mask], np.float64))
        self.places_x.setdefault(area.label, []).append(x_mm)
        self.marks.append((area.label, "oval", np.argwhere(mask).astype(np.float64)))


def read_drawing(image: ImageData, files: Mapping[str, Path], *, oval_mm2: float) -> Drawing:
    """Lines and ovals of one reader, on the image that they are measured in.

    Parameters
    ----------
    image : ImageData
        Slab, slices along the third axis.
    files : mapping of Path
        Of `files_of_readers`.
    oval_mm2 : float
        Area of ovals that are given as points, in mm2.

    Returns
    -------
    Drawing
        Lengths and signals by the labels of areas.

    Raises
    ------
    DataError
        If a file is no such table or image, an area is unknown, something lies outside the slab or
        on another grid, is no line, or left and right are swapped.
    """
    drawing = Drawing()
    for kind in SHAPES:
        if kind in files:
            _read_labels(drawing, image, files[kind], files.get(f"{kind}_table"), kind)
    if "points" in files:
        _read_points(drawing, image, files["points"], oval_mm2)
    _require_sides(drawing, next(iter(files.values())))
    return drawing


def _areas_by_name() -> dict[str, MotorArea]:
    names = {}
    for area in measured_areas():
        names[area.name.lower()] = area
        names[f"{region_of(area)} {area.side}"] = area
    return names


def _area_named(name: object, path: Path) -> MotorArea:
    names = _areas_by_name()
    area = names.get(str(name).strip().lower().replace("_", " "))
    if area is None:
        known = ", ".join(f"{region_of(a)}_{a.side}" for a in measured_areas())
        raise DataError(f"{path}: there is no area {str(name)!r}; areas are {known}")
    return area


def _read_labels(
    drawing: Drawing, image: ImageData, path: Path, table: Path | None, kind: str
) -> None:
    labels = labels_on_grid(path, image)
    areas = _named_labels(table) if table else {a.label: a for a in measured_areas()}
    for label in np.unique(labels[labels != 0]).tolist():
        if label not in areas:
            where = f"{table.name}" if table else "the table of seg-somatotopy_dseg"
            raise DataError(
                f"{path}: label {label} has no name in {where}; it names "
                f"{', '.join(map(str, sorted(areas)))}; add it to the table of the same name "
                "(columns index and name)"
            )
        mask, area = labels == label, areas[label]
        middle = np.argwhere(mask).mean(axis=0)
        x_mm = float(image.affine[0, :3] @ middle + image.affine[0, 3])
        if kind == "oval":
            drawing.add_oval(area, image, mask, x_mm)
            continue
        try:
            lengths = line_lengths(mask, image.voxel_mm)
            drawing.add_lines(area, lengths, x_mm, np.argwhere(mask))
        except NumericsError as error:
            raise DataError(f"{path}: label {label} ({area.name}): {error}") from error


def _named_labels(path: Path) -> dict[int, MotorArea]:
    table = _read_tsv(path, ("index", "name"))
    try:
        numbers = [int(value) for value in table["index"]]
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: index holds other things than whole numbers ({error})") from error
    return {
        number: _area_named(name, path) for number, name in zip(numbers, table["name"], strict=True)
    }


def _read_tsv(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    try:
        table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as a table with tabs ({error})") from error
    missing = [column for column in columns if column not in table]
    if missing:
        raise DataError(
            f"{path}: lacks the columns {', '.join(missing)}; expected {', '.join(columns)}, and "
            f"found {', '.join(map(str, table.columns))}"
        )
    return table


def _read_points(drawing: Drawing, image: ImageData, path: Path, oval_mm2: float) -> None:
    table = _read_tsv(path, ("region", "side", "shape", *ENDS))
    for number, row in enumerate(table.to_dict("records"), start=2):
        where = f"{path}: line {number}"
        area = _area_named(f"{row['region']} {row['side']}", path)
        if row["shape"] not in SHAPES:
            raise DataError(f"{where}: shape is {row['shape']!r}; expected caliper or oval")
        first = _point([row[name] for name in ENDS[:3]], where)
        second_cells = [row[name] for name in ENDS[3:]]
        has_second = any(cell.strip() not in ("", "n/a") for cell in second_cells)
        is_line = row["shape"] == "caliper"
        second = _point(second_cells, where) if is_line or has_second else first
        _require_inside(image, (first, second), where)
        in_voxels = _to_voxels(image, np.stack([first, second]))
        if is_line:
            length_mm = float(np.linalg.norm(second - first))
            if length_mm == 0.0:
                raise DataError(f"{where}: both ends of the caliper line are the same point")
            x_mm = float(first[0] + second[0]) / 2
            drawing.add_lines(area, [length_mm], x_mm, in_voxels)
            continue
        half_mm = (in_voxels[1] - in_voxels[0])[:2] * image.voxel_mm[:2]
        try:
            mask = oval_mask(
                image.data.shape,
                image.voxel_mm,
                centre=in_voxels[0],
                long_half_mm=half_mm,
                area_mm2=oval_mm2,
            )
        except NumericsError as error:
            raise DataError(f"{where}: {error}") from error
        drawing.add_oval(area, image, mask, float(first[0]))


def _point(cells: Sequence[str], where: str) -> NDArray[np.float64]:
    try:
        point = np.array([float(cell) for cell in cells])
    except ValueError:
        point = np.full(3, np.nan)
    if not np.isfinite(point).all():
        raise DataError(
            f"{where}: {', '.join(cells)} is no point; expected three numbers, in mm of the world "
            "of the slab's header (right, front and top are positive)"
        )
    return point


def _to_voxels(image: ImageData, points: NDArray[np.float64]) -> NDArray[np.float64]:
    inverse = np.linalg.inv(image.affine)
    return np.asarray(points @ inverse[:3, :3].T + inverse[:3, 3])


def _require_inside(image: ImageData, points: Sequence[NDArray[np.float64]], where: str) -> None:
    last = np.array(image.data.shape) - 0.5
    # coordinates are written with few digits
    slack = 1e-3 / np.array(image.voxel_mm)
    for point in points:
        voxel = _to_voxels(image, point[None])[0]
        if np.any(voxel < -0.5 - slack) or np.any(voxel > last + slack):
            raise DataError(
                f"{where}: the point {point.tolist()} mm is voxel {voxel.round(1).tolist()} of a "
                f"slab of {image.data.shape} voxels and lies outside it; give mm of the world of "
                "the slab's header (right, front and top are positive)"
            )


def _require_sides(drawing: Drawing, path: Path) -> None:
    middles = {label: float(np.mean(x_mm)) for label, x_mm in drawing.places_x.items()}
    motor = [a for a in measured_areas() if a.label in middles and region_of(a) != REFERENCE]
    pairs = [
        (middles[left.label], middles[right.label])
        for left in motor
        for right in motor
        if (left.part, left.side, right.side) == (right.part, "left", "right")
    ]
    swapped = sum(left > right for left, right in pairs)
    if swapped > len(pairs) / 2:
        raise DataError(
            f"{path}: {swapped} of {len(pairs)} areas of the left lie to the right of those of the "
            "right by the slab's header; correct the names or the orientation in the header"
        )


def rows_of_drawing(
    drawing: Drawing, voxel_mm: Sequence[float], reader: int
) -> list[dict[str, Any]]:
    """Rows of what a reader drew, in the table of areas.

    Parameters
    ----------
    drawing : Drawing
        Of `read_drawing`.
    voxel_mm : sequence of float
        Edges of a voxel of the slab, slices along the third axis, in mm.
    reader : int
        Number of the reader, from 0; measures of later ones have another name.

    Returns
    -------
    list of dict
        Region, side, measure, value, unit, n, note and source.
    """
    ending = f"_reader{reader + 1}" if reader else ""
    reference = next(a for a in measured_areas() if region_of(a) == REFERENCE)
    nan = float("nan")
    divisor = _mean(drawing.signals.get(reference.label, []))
    divisor = divisor if divisor > 0.0 else nan
    rows = []
    for area in measured_areas():
        lengths = drawing.lengths_mm.get(area.label, [])
        ovals = drawing.signals.get(area.label, [])
        signal, n_voxels = _mean(ovals), sum(map(len, ovals))
        area_mm2 = n_voxels / len(ovals) * voxel_mm[0] * voxel_mm[1] if ovals else nan
        no_line = "n/a" if lengths else "no caliper line was drawn here"
        no_oval = "n/a" if ovals else "no oval was drawn here"
        to_reference = no_oval
        if ovals:
            to_reference = (
                f"oval on the superficial {REFERENCE}, {reference.side}"
                if divisor > 0.0
                else f"no oval was drawn on the {REFERENCE}"
            )
        thickness = float(np.mean(lengths)) if lengths else nan
        found = [
            ("drawn_thickness", thickness, "mm", len(lengths), no_line),
            ("drawn_signal", signal, "arbitrary", n_voxels, no_oval),
            ("drawn_area", area_mm2, "mm2", len(ovals), no_oval),
            ("drawn_normalised", signal / divisor, "1", n_voxels, to_reference),
        ]
        rows += [
            {
                "region": region_of(area),
                "side": area.side,
                "measure": measure + ending,
                "value": value,
                "unit": unit,
                "n": n,
                "note": note,
                "source": SOURCE,
            }
            for measure, value, unit, n, note in found
            if area is not reference or measure in ("drawn_signal", "drawn_area")
        ]
    return rows


def table_of_marks(drawing: Drawing, reader: int) -> pd.DataFrame:
    """Where lines and ovals of a reader lie, for the figure.

    Parameters
    ----------
    drawing : Drawing
        Of `read_drawing`.
    reader : int
        Number of the reader, from 0.

    Returns
    -------
    DataFrame
        Reader (from 1), region, side, mark (number of the line or oval), shape, and i, j, k in
        voxels of the slab.
    """
    areas = {area.label: area for area in measured_areas()}
    tables = [
        pd.DataFrame(voxels, columns=["i", "j", "k"]).assign(
            reader=reader + 1,
            region=region_of(areas[label]),
            side=areas[label].side,
            mark=number,
            shape=shape,
        )
        for number, (label, shape, voxels) in enumerate(drawing.marks)
    ]
    columns = ["reader", "region", "side", "mark", "shape", "i", "j", "k"]
    return pd.concat(tables)[columns] if tables else pd.DataFrame(columns=columns)


def _mean(ovals: Sequence[NDArray[np.float64]]) -> float:
    return float(np.concatenate(ovals).mean()) if ovals else float("nan")
