"""What a run gives back of the truth of a simulated cohort.

Run as ``python benchmarks/recovery.py RAW OUTPUT``: RAW was written by `bids_alsmri_phantom`,
OUTPUT by the participant level. Prints a markdown table, one row per participant:

brain: Dice overlap of the brain masks; T1w: mean and largest error of the landmarks brought from
the template to the T1w, in mm; chain: the same on to the first b=0; b=0: error of the landmarks
from T1w to the first b=0, in mm; motion: mean and largest over the volumes of the mean displacement
of the brain that is left, in mm; b-vectors: mean and largest error of the directions, in degrees;
FA and MD: mean and standard deviation of the error in white matter (probability above 0.95) in T1w
space.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from nibabel.affines import apply_affine
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from bids_alsmri.interfaces.registration import move_points

Float = NDArray[np.float64]
TEMPLATE = "MNI152NLin2009aSym"
COLUMNS = (
    *("brain Dice", "T1w mm", "worst", "b=0 mm", "worst", "chain mm", "worst"),
    *("motion mm", "worst", "b-vectors deg", "worst", "FA bias", "FA SD"),
    *("MD bias 1e-3 mm2/s", "MD SD"),
)


def values(image: nib.Nifti1Image) -> Float:
    """Voxels of an image."""
    return np.asarray(image.dataobj, dtype=np.float64)


def sampled(image: nib.Nifti1Image, points_mm: Float) -> Float:
    """Values of an image at world points, linearly interpolated."""
    voxels = apply_affine(np.linalg.inv(image.affine), points_mm)
    return ndimage.map_coordinates(values(image), voxels.T, order=1)


def matrices(table: pd.DataFrame, name: str) -> Float:
    """Affine matrices of a table, one row each."""
    columns = [f"{name}_{row}{column}" for row in range(3) for column in range(4)]
    found = np.tile(np.eye(4), (len(table), 1, 1))
    found[:, :3] = table[columns].to_numpy(float).reshape(-1, 3, 4)
    return found


def read(path: Path) -> pd.DataFrame:
    """Table of a file."""
    return pd.read_csv(path, sep="\t")


def landmarks(path: Path, space: str) -> Float:
    """Landmarks of a table, in mm."""
    return read(path)[[f"{space}_{axis}" for axis in "xyz"]].to_numpy(float)


def of_points(found: Float, expected: Float) -> tuple[float, float]:
    """Mean and largest distance."""
    distance = np.linalg.norm(found - expected, axis=-1)
    return float(distance.mean()), float(distance.max())


def of_anatomy(truth: Path, done: Path, label: str) -> Iterator[float]:
    """Dice of the brain; mean and largest landmark error."""
    tail = f"anat/{label}_desc-brain_mask.nii.gz"
    found, expected = (values(nib.load(folder / tail)) > 0 for folder in (done, truth))
    yield 2 * (found & expected).sum() / (found.sum() + expected.sum())
    marks = truth / f"anat/{label}_desc-landmarks_stats.tsv"
    warp = done / f"anat/{label}_from-T1w_to-{TEMPLATE}_mode-image_xfm.h5"
    moved = move_points(landmarks(marks, "template"), [warp])
    yield from of_points(moved, landmarks(marks, "t1w"))


def of_series(truth: Path, done: Path, label: str) -> Iterator[float]:
    """Errors of the diffusion series."""
    stem = f"dwi/{label}_dir-AP"
    marks = landmarks(truth / f"anat/{label}_desc-landmarks_stats.tsv", "t1w")
    in_dwi = landmarks(truth / f"{stem}_desc-landmarks_stats.tsv", "dwi")
    to_b0 = done / f"{stem}_from-dwi_to-T1w_mode-image_xfm.h5"
    yield from of_points(move_points(marks, [to_b0]), in_dwi)
    in_template = landmarks(truth / f"anat/{label}_desc-landmarks_stats.tsv", "template")
    warp = done / f"anat/{label}_from-T1w_to-{TEMPLATE}_mode-image_xfm.h5"
    yield from of_points(move_points(move_points(in_template, [warp]), [to_b0]), in_dwi)
    known = read(truth / f"{stem}_desc-motion_timeseries.tsv")
    found = read(done / f"{stem}_desc-motion_timeseries.tsv")
    mask = nib.load(truth / f"{stem}_desc-brain_mask.nii.gz")
    brain = apply_affine(mask.affine, np.argwhere(values(mask) > 0)[::50])
    left = matrices(known, "pull") @ matrices(found, "transform")
    displaced = [
        np.linalg.norm(apply_affine(m, brain) - brain, axis=1).mean() for m in left if len(brain)
    ]
    yield from (float(np.mean(displaced)), float(np.max(displaced)))
    pose = np.eye(4)
    pose[:3] = read(truth / f"{stem}_desc-pose_stats.tsv").to_numpy(float)
    yield from of_directions(known, pose, done / f"{stem}_space-T1w_desc-preproc_dwi")
    for name, unit in (("fa", 1.0), ("md", 1e3)):
        error = unit * of_map(truth, done, label, name, pose)
        yield from (float(np.nanmean(error)), float(np.nanstd(error)))


def of_directions(known: pd.DataFrame, pose: Float, stem: Path) -> tuple[float, float]:
    """Mean and largest angle between directions found and those that the head saw, in degrees."""
    affine = nib.load(f"{stem}.nii.gz").affine
    vectors = np.loadtxt(f"{stem}.bvec").T
    if np.linalg.det(affine) > 0:
        vectors = vectors * [-1, 1, 1]
    found = vectors @ (affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)).T
    turned = Rotation.from_euler("xyz", known[["rot_x", "rot_y", "rot_z"]], degrees=True).inv()
    gradients = known[["gradient_x", "gradient_y", "gradient_z"]].to_numpy(float)
    expected = turned.apply(gradients) @ pose[:3, :3]
    weighted = known["b_value"].to_numpy() > 0
    cosine = np.abs((found * expected).sum(axis=1))[weighted]
    angle = np.degrees(np.arccos(np.clip(cosine, 0, 1)))
    return float(angle.mean()), float(angle.max())


def of_map(truth: Path, done: Path, label: str, name: str, pose: Float) -> Float:
    """Errors of a map in white matter."""
    stem = f"dwi/{label}_dir-AP"
    found = nib.load(done / f"{stem}_space-T1w_model-tensor_param-{name}_dwimap.nii.gz")
    points = apply_affine(found.affine, np.argwhere(np.ones(found.shape[:3], dtype=bool)))
    share = sampled(nib.load(truth / f"anat/{label}_label-WM_probseg.nii.gz"), points)
    white = share > 0.95
    true_map = nib.load(truth / f"{stem}_model-tensor_param-{name}_desc-truth_dwimap.nii.gz")
    return values(found).ravel()[white] - sampled(true_map, apply_affine(pose, points[white]))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("raw", type=Path)
    parser.add_argument("output", type=Path)
    chosen = parser.parse_args()
    print(f"| participant | {' | '.join(COLUMNS)} |\n|---|{'---:|' * len(COLUMNS)}")
    for done in sorted(path for path in chosen.output.glob("sub-*") if path.is_dir()):
        truth = chosen.raw / "derivatives" / "phantom" / done.name
        row = [*of_anatomy(truth, done, done.name), *of_series(truth, done, done.name)]
        print(f"| {done.name} | {' | '.join(f'{value:.3f}' for value in row)} |")


if __name__ == "__main__":
    main()
