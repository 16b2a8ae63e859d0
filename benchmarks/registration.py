"""Accuracy of the T1w registration against its time, on a phantom with known deformation.

Run as ``python benchmarks/registration.py T1W MASK FIELD [--initial START] [--candidates A,B]``: a
phantom's T1w image, its true brain mask and its true field
``from-MNI152NLin2009aSym_to-T1w_mode-points_xfm``. Prints a markdown table, one row for each
schedule.
The error is the distance, over template voxels of grey or white matter, between where the
registration and where the truth put a template point in the person.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

# Read by ITK once, when antspyx is first used.
os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = "1"

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bids_alsmri.interfaces.registration import Stage, move_points, register
from bids_alsmri.numerics.anatomy import dilate_mm
from bids_alsmri.spaces.templates import EMBEDDED_TEMPLATE, get_template

N_POINTS = 3000


@dataclass(frozen=True)
class Candidate:
    """One schedule: template grid, then shrink factors, iterations, metric of the SyN stage."""

    grid_mm: float
    metric: str
    parameter: int
    iterations: tuple[int, ...]
    step: float = 0.2
    update: float = 3.0
    rim_mm: float | None = None

    @property
    def name(self) -> str:
        """Label of the row."""
        its = "x".join(map(str, self.iterations))
        region = "" if self.rim_mm is None else f", brain and {self.rim_mm:g} mm"
        return f"{self.metric.upper()}{self.parameter} {its}, step {self.step:g}{region}"

    def stages(self, has_start: bool) -> list[Stage]:
        """Rigid without a start, affine, then SyN over halved grids down to the template's."""
        n = len(self.iterations)
        shrink = tuple(2 ** (n - 1 - k) for k in range(n))
        smooth = tuple(0.0 if s == 1 else s * self.grid_mm / 2.355 for s in shrink)
        linear_shrink = tuple(max(1, round(mm / self.grid_mm)) for mm in (8, 4))
        linear = [
            Stage(t, "mi", 32, 1.0, 0.1, (50, 25), linear_shrink, (4.0, 2.0), 1e-6, 10)
            for t in (("affine",) if has_start else ("rigid", "affine"))
        ]
        syn = Stage(
            "syn",
            self.metric,
            self.parameter,
            1.0,
            self.step,
            self.iterations,
            shrink,
            smooth,
            1e-6,
            10,
            update_smoothing=self.update,
            total_smoothing=0.0,
        )
        return [*linear, syn] if any(self.iterations) else linear


CANDIDATES = {
    "affine": Candidate(4.0, "mi", 32, (0,)),
    "4mm-mi": Candidate(4.0, "mi", 32, (40, 20)),
    "4mm-cc": Candidate(4.0, "cc", 2, (40, 20)),
    "4mm-cc-long": Candidate(4.0, "cc", 2, (100, 70)),
    "2mm-mi": Candidate(2.0, "mi", 32, (40, 20, 0)),
    "2mm-mi-fine": Candidate(2.0, "mi", 32, (100, 70, 20)),
    "2mm-cc-brief-rim": Candidate(2.0, "cc", 2, (40, 20, 0), rim_mm=6.0),
    "2mm-cc-short-rim": Candidate(2.0, "cc", 2, (60, 30, 0), rim_mm=6.0),
    "2mm-cc-coarse-rim": Candidate(2.0, "cc", 2, (100, 50, 0), rim_mm=6.0),
    "2mm-cc-rim": Candidate(2.0, "cc", 2, (40, 20, 10), rim_mm=6.0),
    "4mm-cc-long-rim": Candidate(4.0, "cc", 2, (100, 50), rim_mm=6.0),
    "2mm-cc-coarse": Candidate(2.0, "cc", 2, (100, 50, 0)),
    "2mm-cc": Candidate(2.0, "cc", 2, (40, 20, 10)),
    "2mm-cc-fine": Candidate(2.0, "cc", 2, (100, 50, 20)),
    "2mm-cc4": Candidate(2.0, "cc", 4, (40, 20, 10)),
    "2mm-quick": Candidate(2.0, "cc", 2, (100, 70, 50, 0), step=0.1),
    "2mm-repro": Candidate(2.0, "cc", 4, (100, 70, 50, 20), step=0.1),
    "1mm-quick": Candidate(1.0, "cc", 2, (100, 70, 50, 0), step=0.1),
    "1mm-cc": Candidate(1.0, "cc", 2, (100, 50, 20, 5)),
}


def true_points(field: Path, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where the phantom's displacement field (RAS, mm) takes points."""
    image = nib.load(field)
    values = np.squeeze(image.get_fdata())
    index = (points - image.affine[:3, 3]) @ np.linalg.inv(image.affine[:3, :3]).T
    # Cubic: the field is smooth and stored at 4 mm, so the error is far below 0.01 mm.
    moved = [ndimage.map_coordinates(values[..., a], index.T, order=3) for a in range(3)]
    return points + np.stack(moved, axis=1)


def measure(
    candidate: Candidate, t1w: Path, mask: Path, field: Path, initial: Path | None, folder: Path
) -> tuple[float, float, float, float]:
    """Processor time in s; mean, 95th percentile and maximum of the error in mm."""
    template = get_template(EMBEDDED_TEMPLATE, candidate.grid_mm)
    fixed = template.save(folder)["t1w"]
    image = nib.load(t1w)
    brain = np.asarray(image.dataobj, np.float32) * (np.asarray(nib.load(mask).dataobj) > 0)
    moving = folder / "brain.nii.gz"
    nib.save(nib.Nifti1Image(brain, image.affine), moving)
    region = None
    if candidate.rim_mm is not None:
        rim = dilate_mm(template.mask.get_fdata() > 0, candidate.rim_mm, [candidate.grid_mm] * 3)
        region = folder / "rim.nii.gz"
        nib.save(nib.Nifti1Image(rim.astype(np.uint8), template.mask.affine), region)
    start = time.process_time()
    found = register(
        fixed,
        moving,
        stages=candidate.stages(initial is not None),
        winsor_percentiles=(0.5, 99.5),
        out_prefix=folder / "b_",
        seed=1,
        n_threads=1,
        initial=initial,
        fixed_mask=region,
    )
    seconds = time.process_time() - start
    tissue = np.argwhere(template.gm.get_fdata() + template.wm.get_fdata() > 0.5)
    chosen = np.random.default_rng(0).choice(len(tissue), N_POINTS, replace=False)
    points = nib.affines.apply_affine(template.t1w.affine, tissue[chosen])
    error = np.linalg.norm(
        move_points(points, [found.forward]) - true_points(field, points), axis=1
    )
    return seconds, float(error.mean()), float(np.percentile(error, 95)), float(error.max())


def main() -> None:
    """Print one row for each schedule."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("t1w", type=Path, help="bias-corrected or raw T1w image of the phantom")
    parser.add_argument("mask", type=Path, help="its brain mask")
    parser.add_argument("field", type=Path, help="true displacement field, template to T1w")
    parser.add_argument("--initial", type=Path, help="linear transform, template to T1w, to start")
    parser.add_argument("--candidates", default=",".join(CANDIDATES), help="names, with commas")
    chosen = parser.parse_args()
    print("| grid | SyN | CPU s | mean mm | 95 % mm | max mm | peak GB |\n" + "|---" * 7 + "|")
    for name in chosen.candidates.split(","):
        candidate = CANDIDATES[name]
        with tempfile.TemporaryDirectory() as folder:
            row = measure(
                candidate, chosen.t1w, chosen.mask, chosen.field, chosen.initial, Path(folder)
            )
        peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        numbers = " | ".join(f"{value:.2f}" for value in row[1:])
        print(
            f"| {candidate.grid_mm:g} mm | {candidate.name} | {row[0]:.0f} | {numbers} "
            f"| {peak_gb:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
