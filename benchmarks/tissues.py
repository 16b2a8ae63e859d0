"""Accuracy of the tissue segmentation against the weight of the template's tissues.

Run as ``python benchmarks/tissues.py COHORT SUBJECT [--weights 0,0.25]``: a dataset written by
bids_alsmri_phantom and one of its participants, such as 01. Goes through bias correction and brain
extraction as the anatomical pipeline does. Prints a markdown table of Dice overlaps between the
most probable tissue found and the true one. The phantom is the template deformed, so its tissues
fit better here than in a person.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

# Read by ITK once, when antspyx is first used.
os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = "1"

import nibabel as nib
import numpy as np
from alignment import prepare
from numpy.typing import NDArray

from bids_alsmri.interfaces.anatomy import TISSUES, bring_priors, segment_tissues
from bids_alsmri.interfaces.registration import write_linear
from bids_alsmri.numerics.anatomy import dice
from bids_alsmri.pipelines.anatomical.pipeline import AnatomicalSettings
from bids_alsmri.spaces.templates import EMBEDDED_TEMPLATE, get_template


def winners(paths: dict[str, Path]) -> NDArray[np.int64]:
    """Number of the most probable tissue, -1 outside the brain."""
    maps = np.stack([nib.load(paths[tissue]).get_fdata() for tissue in TISSUES], axis=-1)
    return np.where(maps.sum(axis=-1) > 0.5, maps.argmax(axis=-1), -1)


def main() -> None:
    """Print one row for each weight."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cohort", type=Path, help="dataset of bids_alsmri_phantom")
    parser.add_argument("subject", help="participant without sub-")
    parser.add_argument("--weights", default="0,0.1,0.25,0.5", help="from 0 to 1, with commas")
    chosen = parser.parse_args()
    settings = AnatomicalSettings()
    truth = chosen.cohort / "derivatives" / "phantom" / f"sub-{chosen.subject}" / "anat"
    true = winners({t: truth / f"sub-{chosen.subject}_label-{t}_probseg.nii.gz" for t in TISSUES})
    template = get_template(EMBEDDED_TEMPLATE, settings.template_registration_mm)
    print("| weight | CSF | GM | WM | CPU s |\n" + "|---" * 5 + "|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        case = prepare(chosen.cohort, chosen.subject, folder)
        start = write_linear(case.template_to_t1w, folder / "start.txt")
        priors = bring_priors(template, start, case.t1w, work_dir=folder, n_threads=1)
        for weight in map(float, chosen.weights.split(",")):
            began = time.process_time()
            maps = segment_tissues(
                case.t1w,
                folder / "mask.nii.gz",
                {tissue: folder / f"{tissue}.nii.gz" for tissue in TISSUES},
                priors=priors if weight > 0 else None,
                prior_weight=weight,
                smoothness=settings.tissue_smoothness,
                iterations=settings.tissue_iterations,
                work_dir=folder,
                n_threads=1,
            )
            seconds = time.process_time() - began
            found = winners(maps)
            overlaps = " | ".join(f"{dice(found == k, true == k):.3f}" for k in range(len(TISSUES)))
            print(f"| {weight:g} | {overlaps} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
