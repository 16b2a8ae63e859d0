"""Stations that nobody labelled, labelled from those of other people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bids_alsmri.interfaces.anatomy import correct_bias
from bids_alsmri.interfaces.base import ImageData, read_image, write_image
from bids_alsmri.interfaces.label_fusion import (
    FusionSettings,
    LabelledImage,
    LeftOutDice,
    fuse_labels,
    leave_one_out,
)
from bids_alsmri.interfaces.registration import Stage
from bids_alsmri.pipelines.muscle.labels import read_labels
from bids_alsmri.pipelines.muscle.steps import Array, Facts, body_of, field_of
from bids_alsmri.pipelines.muscle.vocabulary import Vocabulary
from bids_alsmri.reports.figures import draw_regions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# of registrations: histogram, steps, end of a level, smoothing of the nonlinear update; as in
# antsRegistrationSyN.sh of ANTs
_BINS, _LINEAR_SAMPLING, _LINEAR_STEP, _SYN_STEP = 32, 0.25, 0.1, 0.2
_CONVERGENCE, _WINDOW = 1e-6, 10
_UPDATE_SMOOTHING, _TOTAL_SMOOTHING = 3.0, 0.0
_WINSOR = (0.5, 99.5)
FEWEST_TO_LEAVE_OUT = 3
LEFT_OUT_COLUMNS = ("station", "region", "side", "atlas", "dice", "n")
# a share of contested voxels above it means that the stations are unlike
_MOST_CONTESTED = 0.5


@dataclass(frozen=True)
class Given:
    """Labelled stations.

    Parameters
    ----------
    images, labels : tuple of Path
        Stations of other people and what was drawn on them.
    vocabulary : Vocabulary
        What labels mean.
    codes : str
        How their numbers are read.
    """

    images: tuple[Path, ...]
    labels: tuple[Path, ...]
    vocabulary: Vocabulary
    codes: str


def fusion_settings(
    parts: Mapping[str, Any], *, seed: int, n_threads: int, n_at_once: int
) -> FusionSettings:
    """Settings of registrations and fusion, from the input of a node.

    Parameters
    ----------
    parts : mapping
        As the pipeline's settings give them.
    seed : int
        Of the metric's sampling.
    n_threads : int
        ITK threads of each registration.
    n_at_once : int
        Registrations side by side.

    Returns
    -------
    FusionSettings
        An affine stage by mutual information and a nonlinear one by cross-correlation.
    """
    shrink = tuple(parts["shrink_factors"])
    smoothing = tuple(parts["smoothing_mm"])
    linear, syn = tuple(parts["linear_iterations"]), tuple(parts["syn_iterations"])
    ends = (_CONVERGENCE, _WINDOW)
    return FusionSettings(
        stages=(
            Stage(
                "affine", "mi", _BINS, _LINEAR_SAMPLING, _LINEAR_STEP, linear, shrink, smoothing,
                *ends,
            ),
            Stage(
                "syn", "cc", parts["metric_radius"], 1.0, _SYN_STEP, syn, shrink, smoothing, *ends,
                _UPDATE_SMOOTHING, _TOTAL_SMOOTHING,
            ),
        ),
        winsor_percentiles=_WINSOR,
        margin_mm=parts["margin_mm"],
        voxel_mm=parts["voxel_mm"],
        patch_radius=(parts["patch_radius"],) * 3,
        search_radius=(parts["search_radius"],) * 3,
        sharpness=parts["sharpness"],
        ridge=parts["ridge"],
        n_threads=n_threads,
        n_at_once=n_at_once,
        seed=seed,
    )  # fmt: skip


def label_station(
    image: Path,
    title: str,
    given: Given,
    folder: Path,
    *,
    settings: FusionSettings,
    bias: Mapping[str, Any],
    leaves_one_out: bool,
) -> tuple[Path, Facts, pd.DataFrame]:
    """Labels of a station by multi-atlas segmentation.

    Parameters
    ----------
    image : Path
        Station that nobody labelled.
    title : str
        Its name, for the report.
    given : Given
        Labelled stations of the same kind.
    folder : Path
        For what is made on the way.
    settings : FusionSettings
        Registration and fusion.
    bias : mapping
        Arguments of the correction of the receive field, its threads among them.
    leaves_one_out : bool
        Whether the labelled stations are labelled from each other, too.

    Returns
    -------
    labels : Path
        On the grid of the station.
    facts : dict
        Warnings and notes.
    left_out : DataFrame
        station, region, side, atlas, dice and n, where labelled stations were labelled from each
        other; empty otherwise.
    """
    target = _even(image, folder / "target.nii.gz", bias)
    mask = folder / "body.nii.gz"
    data = read_image(target, ndim=3)
    write_image(body_of(data), data.affine, mask)
    labelled = [
        _prepared(number, pair, given, folder, bias)
        for number, pair in enumerate(zip(given.images, given.labels, strict=True))
    ]
    fused = fuse_labels(
        target, labelled, folder / "labels.nii.gz", folder / "fusion", mask=mask, settings=settings
    )
    names = ", ".join(atlas.name for atlas in labelled)
    share = 100 * fused.contested_share
    facts: Facts = {
        "warnings": [],
        "notes": [
            f"{title}: labelled from {names}; they differ on {share:.0f} % of what they label"
        ],
    }
    if fused.contested_share > _MOST_CONTESTED:
        facts["warnings"].append(
            f"{title}: the labelled stations differ on {share:.0f} % of what they label; look at "
            "the outlines before you trust its muscles"
        )
    left_out = pd.DataFrame([], columns=list(LEFT_OUT_COLUMNS))
    if leaves_one_out and len(labelled) < FEWEST_TO_LEAVE_OUT:
        facts["notes"].append(
            f"{title}: {len(labelled)} labelled stations; leaving one out takes "
            f"{FEWEST_TO_LEAVE_OUT} or more"
        )
    elif leaves_one_out:
        rows = leave_one_out(labelled, folder / "left_out", settings=settings)
        facts["notes"].append(f"{title}: {_told(rows, given.vocabulary)}")
        left_out = left_out_table(rows, given.vocabulary, title)
    return fused.labels, facts, left_out


def left_out_table(rows: Sequence[LeftOutDice], vocabulary: Vocabulary, title: str) -> pd.DataFrame:
    """Overlap of each labelled station with what the others make of it, as a table.

    Parameters
    ----------
    rows : sequence of LeftOutDice
        One for each atlas and label.
    vocabulary : Vocabulary
        What labels mean.
    title : str
        Name of the station.

    Returns
    -------
    DataFrame
        station, region, side, atlas, dice and n (voxels drawn).
    """
    by_index = vocabulary.by_index
    table = []
    for row in rows:
        region = by_index.get(row.label)
        name = str(row.label) if region is None else region.name
        side = "n/a" if region is None or region.side == "midline" else region.side
        table.append((title, name, side, row.atlas, row.dice, row.n_voxels))
    return pd.DataFrame(table, columns=list(LEFT_OUT_COLUMNS))


def _told(rows: Sequence[LeftOutDice], vocabulary: Vocabulary) -> str:
    """Overlap of labelled stations with what the others make of them, in words."""
    by_index = vocabulary.by_index
    overlaps = {
        label: float(np.mean([row.dice for row in rows if row.label == label]))
        for label in sorted({row.label for row in rows})
    }
    worst = min(overlaps, key=lambda label: overlaps[label])
    name = by_index[worst].title if worst in by_index else str(worst)
    return (
        f"each labelled station labelled from the others overlaps with its own labels by a Dice "
        f"coefficient of {np.median(list(overlaps.values())):.2f} (median of muscles; least for "
        f"{name}, {overlaps[worst]:.2f})"
    )


def _even(
    image: Path, out: Path, bias: Mapping[str, Any], labels: NDArray[np.integer] | None = None
) -> Path:
    """Station without its receive field, clean header."""
    data = read_image(image, ndim=3)
    if bias["method"] != "n4":
        field: Array | float = 1.0
        if bias["method"] == "tissues":
            # a registration by cross-correlation does not need a field as exact as a mean does, and
            # N4 takes as long as the registration
            known = np.zeros(data.data.shape) if labels is None else labels.astype(np.float64)
            field = field_of(data, known, order=bias["order"], cell_mm=bias["cell_mm"])
        write_image(np.asarray(data.data / field, np.float32), data.affine, out)
        return out
    clean, mask = out.with_name("clean_" + out.name), out.with_name("mask_" + out.name)
    write_image(data.data, data.affine, clean)
    write_image(body_of(data), data.affine, mask)
    return correct_bias(
        clean,
        out,
        mask=mask,
        shrink_factor=bias["shrink_factor"],
        iterations=tuple(bias["iterations"]),
        convergence=bias["convergence"],
        spline_mm=bias["spline_mm"],
        n_threads=bias["n_threads"],
    )


def _prepared(
    number: int,
    pair: tuple[Path, Path],
    given: Given,
    folder: Path,
    bias: Mapping[str, Any],
) -> LabelledImage:
    image, labels = pair
    station: ImageData = read_image(image, ndim=3)
    table = labels.with_name(labels.name.replace(".nii.gz", ".tsv"))
    found = read_labels(
        labels,
        table if table.is_file() else None,
        station,
        given.vocabulary,
        codes=given.codes,
    )
    even = _even(image, folder / f"atlas{number}.nii.gz", bias, found.labels)
    path = folder / f"atlas{number}_labels.nii.gz"
    write_image(found.labels, station.affine, path)
    return LabelledImage(image.name.split("_")[0], even, path)


def draw_left_out(table: pd.DataFrame) -> Figure:
    """Overlap of labelled stations with what the others make of them, for each muscle.

    Parameters
    ----------
    table : DataFrame
        As `left_out_table` makes it, of one station or several.

    Returns
    -------
    figure : matplotlib.figure.Figure
        Mean and standard deviation over the labelled stations.
    """
    found = table.groupby(["region", "side"], sort=False)["dice"].agg(["mean", "std", "size"])
    shown = found.reset_index().rename(columns={"std": "sd", "size": "n"}).assign(map="dice")
    return draw_regions(shown, measures={"dice": "Dice coefficient"}, xlabel="Dice coefficient")
