"""Reading the runs of a diffusion series."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bids_alsmri.errors import DataError
from bids_alsmri.interfaces.base import ImageData, check_times, concerning, read_image
from bids_alsmri.numerics.diffusion_quality import scale_runs_by_b0
from bids_alsmri.numerics.gradients import check_gradients, world_table
from bids_alsmri.pipelines.diffusion.series import (
    SeriesTable,
    concatenated,
    protocol_differences,
    protocol_of,
)
from bids_alsmri.pipelines.diffusion.steps import Facts, Float, measure


@dataclass(frozen=True)
class Run:
    """One run of a series.

    Parameters
    ----------
    image : ImageData
        Its volumes.
    table : SeriesTable
        Their weighting; volumes that were left out are gone from both.
    """

    image: ImageData
    table: SeriesTable


def read_run(
    image_path: Path,
    b_value_path: Path,
    b_vector_path: Path,
    metadata: Mapping[str, Any],
    *,
    b0_threshold_s_mm2: float,
) -> Run:
    """One run with its gradient table checked and its directions in world axes.

    Parameters
    ----------
    image_path, b_value_path, b_vector_path : Path
        Files of the run.
    metadata : mapping
        Its sidecar.
    b0_threshold_s_mm2 : float
        At or below it a volume counts as b=0.

    Returns
    -------
    Run
        Without volumes that cannot be used, which the warnings name.

    Raises
    ------
    DataError
        If a file cannot be used.
    NumericsError
        If the gradient table cannot be used; notes name the file.
    """
    image = read_image(image_path, ndim=4)
    check_times(metadata, image_path)
    b_values, b_vectors = read_numbers(b_value_path), read_numbers(b_vector_path)
    with concerning(b_value_path, b_vector_path):
        checked = check_gradients(
            b_values,
            b_vectors,
            n_volumes=image.data.shape[3],
            b0_threshold_s_mm2=b0_threshold_s_mm2,
        )
        gradients = world_table(checked, image.affine)
    table = SeriesTable(
        b_values_s_mm2=gradients.b_values_s_mm2.tolist(),
        directions_world=gradients.directions_world.tolist(),
        notes=[],
        warnings=[*image.warnings, *checked.warnings],
        **protocol_of(metadata, image_path),
    )
    return Run(replace(image, data=image.data[..., checked.kept]), table)


def read_numbers(path: Path) -> NDArray[np.float64]:
    """Numbers of a bval or bvec file.

    Parameters
    ----------
    path : Path
        Text file.

    Returns
    -------
    (rows, columns) array
        As they stand.

    Raises
    ------
    DataError
        If the file is empty, holds words, or its rows differ in length.
    """
    try:
        with warnings.catch_warnings():
            # of an empty file, which is refused below
            warnings.simplefilter("ignore", UserWarning)
            numbers = np.loadtxt(path, ndmin=2)
    except (OSError, ValueError) as error:
        # what follows is advice to programmers
        found = str(error).partition("; use `usecols`")[0]
        raise DataError(
            f"{path}: cannot be read as numbers ({found}); expected rows of numbers between "
            "blanks, one column per volume; correct the file or convert the DICOM files again"
        ) from None
    if numbers.size == 0:
        raise DataError(
            f"{path}: holds no number; expected one column per volume; convert the DICOM files "
            "again or leave the scan out"
        )
    return np.asarray(numbers, dtype=np.float64)


def combine_runs(
    runs: Sequence[Run],
) -> tuple[Float, NDArray[np.float64], SeriesTable, list[Facts]]:
    """One series of all runs, brought to the scale of the first by their b=0.

    Parameters
    ----------
    runs : sequence of Run
        At least one.

    Returns
    -------
    data : (X, Y, Z, N) array
        All volumes.
    affine : (4, 4) array
        Their grid.
    table : SeriesTable
        Their weighting.
    measures : list of dict
        The ratio between the runs, where there are several.

    Raises
    ------
    DataError
        If protocols or grids differ, or a run has no b=0 to be scaled by.
    """
    first = runs[0].image
    table = concatenated([run.table for run in runs])
    if len(runs) == 1:
        return first.data, first.affine, table, []
    _require_one_protocol(runs)
    for run in runs[1:]:
        same = run.image.data.shape[:3] == first.data.shape[:3]
        if not (same and np.allclose(run.image.affine, first.affine, atol=1e-2)):
            raise DataError(
                f"{run.image.path}: its grid {run.image.data.shape[:3]} or position differs from "
                f"that of {first.path} {first.data.shape[:3]}; runs of one series share a grid; "
                "tell them apart by acq-, or set --no-diffusion-combine-runs"
            )
        if not run.table.is_b0.any():
            raise DataError(
                f"{run.image.path}: holds no b=0, so its scale cannot be brought to that of "
                f"{first.path}; set --no-diffusion-combine-runs or leave the run out"
            )
    means = [run.image.data[..., run.table.is_b0].mean(axis=-1) for run in runs]
    # bright in every run: where only the first chose, the head's motion would darken the others
    bright = np.all([mean > np.median(mean[mean > 0]) for mean in means], axis=0)
    ratios = scale_runs_by_b0(np.array([mean[bright] for mean in means]))
    data = np.concatenate(
        [run.image.data * np.float32(ratio) for run, ratio in zip(runs, ratios, strict=True)],
        axis=3,
    )
    text = ", ".join(f"{ratio:.3f}" for ratio in ratios)
    farthest = float(ratios[np.argmax(np.abs(np.log(ratios)))])
    table = replace(
        table,
        notes=[*table.notes, f"runs were scaled by {text} to one b=0 signal"],
        warnings=[*table.warnings, *_unknown_directions(runs, table)],
    )
    return data, first.affine, table, [measure("largest_run_ratio", farthest)]


def _require_one_protocol(runs: Sequence[Run]) -> None:
    # all pairs, since a run whose sidecar lacks a value agrees with every other
    for first, other in combinations(runs, 2):
        differences = protocol_differences(first.table, other.table)
        if differences:
            raise DataError(
                f"{other.image.path} and {first.image.path} are no runs of one protocol: "
                f"{'; '.join(differences)}. Tell them apart by dir- or acq- in their names, take "
                "one of them with --bids-filter-file, or process each run by itself with "
                "--no-diffusion-combine-runs"
            )


def _unknown_directions(runs: Sequence[Run], table: SeriesTable) -> list[str]:
    if not table.has_phase_axis:
        return []
    return [
        f"{run.image.path.name}: its sidecar lacks PhaseEncodingDirection, which was taken to be "
        f"{table.phase_direction}, that of the other runs; if the blips had the opposite polarity, "
        "the runs must not be combined"
        for run in runs
        if not run.table.has_phase_axis
    ]
