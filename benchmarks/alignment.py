"""Accuracy of the registration of the b=0 to the T1w against its time, on a simulated cohort.

Run as ``python benchmarks/alignment.py COHORT SUBJECT [--schedules A,B]``: a dataset written by
bids_alsmri_phantom and one of its participants, such as 01. Goes through bias correction, brain
extraction and rough mask of the b=0 as the pipelines do; takes the first volume of the series,
whose pose is known. Prints a markdown table, one row for each schedule of the second registration
(head to head; the first is brain to brain).
The error is the distance, at the corners of a brain's box, between where the registration and
where the truth put a point of the T1w in the series.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

# Read by ITK once, when antspyx is first used.
os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = "1"

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bids_alsmri.interfaces.anatomy import BrainSearch, correct_bias, extract_brain
from bids_alsmri.interfaces.images import as_stages, with_tuples
from bids_alsmri.interfaces.registration import move_points, register
from bids_alsmri.numerics.anatomy import dilate_mm
from bids_alsmri.pipelines.anatomical.pipeline import AnatomicalSettings
from bids_alsmri.pipelines.diffusion.pipeline import DiffusionSettings
from bids_alsmri.pipelines.diffusion.steps import draft_brain_mask
from bids_alsmri.spaces.templates import EMBEDDED_TEMPLATE, get_template

CORNERS_MM = np.array(
    [(x, y, z) for x in (-60, 60) for y in (-90, 60) for z in (-40, 70)], dtype=np.float64
)


@dataclass(frozen=True)
class Schedule:
    """Second registration: share of voxels, then one value per level; None leaves it out."""

    sampling: float
    iterations: tuple[int, ...] | None
    shrink_factors: tuple[int, ...] = ()
    smoothing_mm: tuple[float, ...] = ()


SCHEDULES = {
    "start only": Schedule(1.0, None),
    "coarse": Schedule(1.0, (50, 25), (4, 2), (4.0, 1.0)),
    "middle": Schedule(1.0, (50,), (2,), (1.0,)),
    "fine quarter": Schedule(0.25, (50, 25), (2, 1), (2.0, 0.0)),
    "fine": Schedule(1.0, (50, 25), (2, 1), (2.0, 0.0)),
}


@dataclass(frozen=True)
class Case:
    """Images of one participant, as the pipelines have them, the true pose and the affine found."""

    t1w: Path
    t1w_brain: Path
    rim: Path
    b0: Path
    b0_brain: Path
    t1w_to_b0: NDArray[np.float64]
    template_to_t1w: NDArray[np.float64]


def save(values: NDArray[np.generic], affine: NDArray[np.float64], path: Path) -> Path:
    """Write a new image."""
    nib.save(nib.Nifti1Image(values, affine), path)
    return path


def prepare(cohort: Path, subject: str, folder: Path) -> Case:
    """Correct, mask and cut as the pipelines do."""
    anatomical, diffusion = AnatomicalSettings(), DiffusionSettings()
    raw = cohort / f"sub-{subject}" / "anat" / f"sub-{subject}_T1w.nii.gz"
    brain = extract_brain(
        raw,
        get_template(EMBEDDED_TEMPLATE, anatomical.template_registration_mm),
        folder / "mask.nii.gz",
        search=BrainSearch(**with_tuples(anatomical.brain_search)),
        work_dir=folder,
        seed=1,
        n_threads=1,
    )
    t1w = correct_bias(
        raw,
        folder / "t1w.nii.gz",
        mask=brain.mask,
        shrink_factor=anatomical.bias_shrink_factor,
        iterations=anatomical.bias_iterations,
        convergence=anatomical.bias_convergence,
        spline_mm=anatomical.bias_spline_mm,
        n_threads=1,
    )
    image = nib.load(t1w)
    mask = np.asarray(nib.load(brain.mask).dataobj) > 0
    rim = dilate_mm(mask, diffusion.anatomy_rim_mm, np.array(image.header.get_zooms()[:3]))
    series = nib.load(
        next((cohort / f"sub-{subject}" / "dwi").glob(f"sub-{subject}_*dir-AP*_dwi.nii.gz"))
    )
    b0 = np.asarray(series.dataobj[..., 0], dtype=np.float32)
    b0_mask = draft_brain_mask(
        b0, median_radius=diffusion.mask_median_radius, passes=diffusion.mask_passes
    )
    truth = cohort / "derivatives" / "phantom" / f"sub-{subject}" / "dwi"
    pose = np.eye(4)
    pose[:3] = pd.read_csv(next(truth.glob("*dir-AP*_desc-pose_stats.tsv")), sep="\t").to_numpy()
    return Case(
        t1w,
        save(np.where(mask, image.get_fdata(dtype=np.float32), 0), image.affine, folder / "a.nii"),
        save(rim.astype(np.uint8), image.affine, folder / "rim.nii.gz"),
        save(b0, series.affine, folder / "b0.nii"),
        save(np.where(b0_mask, b0, 0), series.affine, folder / "b.nii"),
        pose,
        brain.template_to_t1w,
    )


def measure(schedule: Schedule, case: Case, folder: Path) -> tuple[float, float, float]:
    """Processor time of both registrations in s; mean and maximum of the error in mm."""
    settings = DiffusionSettings()
    start = time.process_time()
    found = register(
        case.t1w_brain,
        case.b0_brain,
        stages=as_stages(settings.start_stages),
        winsor_percentiles=settings.winsor_percentiles,
        out_prefix=folder / "start_",
        seed=1,
        n_threads=1,
    )
    if schedule.iterations is not None:
        stage = {
            **settings.rigid_stages[0],
            "sampling": schedule.sampling,
            "iterations": schedule.iterations,
            "shrink_factors": schedule.shrink_factors,
            "smoothing_mm": schedule.smoothing_mm,
        }
        found = register(
            case.t1w,
            case.b0,
            stages=as_stages([stage]),
            winsor_percentiles=settings.winsor_percentiles,
            out_prefix=folder / "found_",
            seed=1,
            n_threads=1,
            initial=found.forward,
            fixed_mask=case.rim,
        )
    seconds = time.process_time() - start
    true = nib.affines.apply_affine(case.t1w_to_b0, CORNERS_MM)
    error = np.linalg.norm(move_points(CORNERS_MM, [found.forward]) - true, axis=1)
    return seconds, float(error.mean()), float(error.max())


def main() -> None:
    """Print one row for each schedule."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cohort", type=Path, help="dataset of bids_alsmri_phantom")
    parser.add_argument("subject", help="participant without sub-")
    parser.add_argument("--schedules", default=",".join(SCHEDULES), help="names, with commas")
    chosen = parser.parse_args()
    print(
        "| schedule | iterations | shrink | share | CPU s | mean mm | max mm |\n" + "|---" * 7 + "|"
    )
    with tempfile.TemporaryDirectory() as folder:
        case = prepare(chosen.cohort, chosen.subject, Path(folder))
        for name in chosen.schedules.split(","):
            schedule = SCHEDULES[name]
            seconds, mean_mm, max_mm = measure(schedule, case, Path(folder))
            levels = "x".join(map(str, schedule.iterations or ()))
            shrink = "x".join(map(str, schedule.shrink_factors))
            print(
                f"| {name} | {levels} | {shrink} | {schedule.sampling:g} | {seconds:.0f} "
                f"| {mean_mm:.2f} | {max_mm:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
