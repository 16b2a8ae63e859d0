"""Accuracy and cost of motion and eddy-current correction on a simulated cohort.

Usage: python benchmarks/eddy.py COHORT [--ways none,b0-affine,...] [--threads N] [--drop]

COHORT is a folder written by `bids_alsmri_phantom`. One row per participant and way: landmark
error of the transforms (mean and largest over volumes, root mean square over the brain), the same
after the best common rigid map (so the mean position of the diffusion-weighted volumes does not
count), rotation error, bias and spread of FA in white matter, false and missed slices, seconds.
"""

from __future__ import annotations

import argparse
import csv
import json
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
from dipy.core.gradients import gradient_table
from dipy.reconst.dti import TensorModel
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from bids_alsmri.numerics.eddy import EddyResult, EddySettings, correct_series, register_to_b0
from bids_alsmri.numerics.gradients import rotate_directions
from bids_alsmri.numerics.outliers import multiband_groups

Float = NDArray[np.float64]

SETTINGS = EddySettings(
    model="eddy",
    phase_axis=1,
    slice_axis=2,
    smoothing_fwhm_mm=(4.0, 2.0),
    tolerance_mm=0.01,
    mask_margin_mm=6.0,
    contrast_margin_mm=3.0,
    contrast_fwhm_mm=1.5,
    shading_fwhm_mm=40.0,
    outlier_threshold_sd=4.0,
    outlier_min_change=0.1,
    outlier_both_signs=False,
    min_slice_voxels=100,
    b0_threshold_s_mm2=50.0,
    shell_gap_s_mm2=80.0,
    max_b0_registered_s_mm2=1500.0,
    align_shells="all",
    threads=1,
)
WAYS = ("none", "b0-affine", "b0-eddy", "best-affine", "best-eddy")


@dataclass(frozen=True)
class Truth:
    """One simulated series and what was planted in it."""

    name: str
    data: NDArray[np.float32]
    affine: Float
    mask: NDArray[np.bool_]
    b_values: Float
    directions: Float
    reference_to_volume: Float
    rotations: Float
    fa: Float
    white_matter: NDArray[np.bool_]
    groups: NDArray[np.intp]
    lost: set[tuple[int, int]]


def read_cohort(folder: Path) -> Iterator[Truth]:
    """Every series of a cohort with its truth."""
    for image_path in sorted(folder.glob("sub-*/**/dwi/*_dwi.nii.gz")):
        image = nib.load(image_path)
        stem = image_path.name.removesuffix("_dwi.nii.gz")
        truth = folder / "derivatives" / "phantom" / image_path.parent.relative_to(folder)
        with (truth / f"{stem}_desc-motion_timeseries.tsv").open() as lines:
            rows = list(csv.DictReader(lines, delimiter="\t"))
        pull = np.tile(np.eye(4), (len(rows), 1, 1))
        for volume, row in enumerate(rows):
            for i in range(3):
                for j in range(4):
                    pull[volume, i, j] = float(row[f"pull_{i}{j}"])
        angles = np.array([[float(r[f"rot_{a}"]) for a in "xyz"] for r in rows])
        with (truth / f"{stem}_desc-dropouts_stats.tsv").open() as lines:
            lost = {
                (int(r["volume"]), int(r["slice"])) for r in csv.DictReader(lines, delimiter="\t")
            }
        load = lambda suffix, truth=truth, stem=stem: nib.load(  # noqa: E731
            truth / f"{stem}_{suffix}.nii.gz"
        ).get_fdata()
        sidecar = json.loads(image_path.with_name(f"{stem}_dwi.json").read_text())
        yield Truth(
            stem,
            image.get_fdata(dtype=np.float32),
            image.affine,
            load("desc-brain_mask") > 0.5,
            np.array([float(r["b_value"]) for r in rows]),
            np.array([[float(r[f"gradient_{a}"]) for a in "xyz"] for r in rows]),
            np.linalg.inv(pull),
            Rotation.from_euler("xyz", angles, degrees=True).as_matrix(),
            load("model-tensor_param-fa_desc-truth_dwimap"),
            load("label-WM_probseg") > 0.95,
            multiband_groups(
                image.shape[2], slice_times_s=sidecar.get("SliceTiming"), multiband_factor=None
            ),
            lost,
        )


def drop_slices(truth: Truth, rng: np.random.Generator) -> Truth:
    """The series with slices of a tenth of its volumes darkened by 30 to 90 per cent."""
    data, lost = truth.data.copy(), set(truth.lost)
    weighted = np.flatnonzero(truth.b_values > 50)
    per_group = [truth.mask[:, :, truth.groups == g].sum() for g in range(truth.groups.max() + 1)]
    thick = np.flatnonzero(np.array(per_group) > 300)
    for volume in rng.choice(weighted, max(1, weighted.size // 10), replace=False):
        for group in rng.choice(thick, 3, replace=False):
            kept = rng.uniform(0.1, 0.7)
            for index in np.flatnonzero(truth.groups == group):
                data[:, :, index, volume] *= kept
                lost.add((int(volume), int(index)))
    return replace(truth, data=data, lost=lost)


def estimate(truth: Truth, way: str, threads: int) -> EddyResult | None:
    """The correction of one series in one way; None for none."""
    if way == "none":
        return None
    against, model = way.split("-")
    settings = replace(SETTINGS, model=model, threads=threads)
    gradients = {"b_values_s_mm2": truth.b_values, "directions_world": truth.directions}
    if against == "b0":
        return register_to_b0(truth.data, truth.mask, truth.affine, **gradients, settings=settings)
    return correct_series(
        truth.data, truth.mask, truth.affine, **gradients, groups=truth.groups, settings=settings
    )


def fa_errors(truth: Truth, data: Float, maps: Float, dilution: Float, rigid: Float) -> Float:
    """FA less the truth in white matter after one cubic interpolation."""
    corrected = np.empty(data.shape, dtype=np.float32)
    for volume, matrix in enumerate(maps):
        voxel = np.linalg.inv(truth.affine) @ matrix @ truth.affine
        corrected[..., volume] = dilution[volume] * ndimage.affine_transform(
            data[..., volume], voxel[:3, :3], voxel[:3, 3], order=3, mode="nearest"
        )
    directions = rotate_directions(truth.directions, rigid)
    table = gradient_table(truth.b_values, bvecs=directions, b0_threshold=50)
    fit = TensorModel(table, fit_method="WLS").fit(corrected[truth.white_matter])
    return fit.fa - truth.fa[truth.white_matter]


def report(truth: Truth, way: str, threads: int) -> str:
    """One row of the table."""
    cpu, wall = time.process_time(), time.perf_counter()
    found = estimate(truth, way, threads)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    n = len(truth.b_values)
    still = np.tile(np.eye(4), (n, 1, 1))
    maps = still if found is None else found.reference_to_volume
    rigid = still if found is None else found.rigid
    data = truth.data if found is None else found.data
    dilution = np.ones(n) if found is None else found.dilution
    moved = np.flatnonzero(truth.b_values > 50)
    index = np.argwhere(truth.mask)[::53]
    points = index @ truth.affine[:3, :3].T + truth.affine[:3, 3]
    common = np.mean([np.linalg.inv(truth.reference_to_volume[i]) @ maps[i] for i in moved], axis=0)

    def landmark_mm(correction: Float) -> Float:
        error = maps[moved] @ correction - truth.reference_to_volume[moved]
        shift = np.einsum("nij,pj->npi", error[:, :3, :3], points) + error[:, None, :3, 3]
        return np.sqrt(np.square(shift).sum(axis=2).mean(axis=1))

    plain, relative = landmark_mm(np.eye(4)), landmark_mm(np.linalg.inv(common))
    turned = np.einsum("nij,nkj->nik", rigid[moved, :3, :3], truth.rotations[moved])
    angle = np.rad2deg(Rotation.from_matrix(turned).magnitude())
    fa = fa_errors(truth, data, maps, dilution, rigid)
    seen = set() if found is None else {(o.volume, o.slice_index) for o in found.outliers}
    return (
        f"| {truth.name} | {way} | {plain.mean():.3f} | {plain.max():.3f} | {relative.mean():.3f} "
        f"| {angle.mean():.3f} | {angle.max():.3f} | {np.median(fa):+.4f} | {fa.std():.4f} "
        f"| {len(seen - truth.lost)} | {len(truth.lost - seen)} of {len(truth.lost)} "
        f"| {cpu:.0f} | {wall:.0f} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cohort", type=Path)
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--drop", action="store_true", help="darken slices first")
    options = parser.parse_args()
    print(
        "| series | way | landmark mm | worst | relative mm | rotation deg | worst | FA bias "
        "| FA SD | false slices | missed | CPU s | wall s |\n" + "|---" * 13 + "|"
    )
    for truth in read_cohort(options.cohort):
        series = drop_slices(truth, np.random.default_rng(5)) if options.drop else truth
        for way in options.ways.split(","):
            print(report(series, way, options.threads), flush=True)
    print(f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    main()
