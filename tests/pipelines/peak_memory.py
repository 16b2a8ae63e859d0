"""Run one node of the diffusion pipeline in a process of its own, and print its peak memory."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import nibabel as nib
import numpy as np

from bids_alsmri.engine.pipeline import registry
from bids_alsmri.interfaces.base import largest_series, write_image
from bids_alsmri.interfaces.node import AlsInterface, needed_gb
from bids_alsmri.interfaces.registration import write_linear
from bids_alsmri.options import resolve
from bids_alsmri.pipelines.diffusion import workflow
from bids_alsmri.pipelines.diffusion.interfaces import ReadSeries

VOXEL_MM = 2.0
# what costs time and no memory
QUICK = {
    "patch_step": 5,
    "unringing_shifts": 1,
    "motion_tolerance_mm": 2.0,
    "motion_smoothing_fwhm_mm": (8.0,),
    "align_shells": "off",
    "gradient_fibres": 10,
    "template_resolution_mm": 2.0,
}


def write_series(folder: Path, shape: tuple[int, ...]) -> None:
    """Series of an ellipsoid with noise, two b=0 and one shell, as int16."""
    rng = np.random.default_rng(0)
    *extent, n_volumes = shape
    b_values = np.r_[0.0, 0.0, np.full(n_volumes - 2, 1000.0)]
    vectors = rng.normal(size=(3, n_volumes))
    vectors = np.where(b_values > 0, vectors / np.linalg.norm(vectors, axis=0), 0)
    np.savetxt(folder / "dwi.bval", b_values[np.newaxis], fmt="%d")
    np.savetxt(folder / "dwi.bvec", vectors, fmt="%.6f")
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in extent), indexing="ij", sparse=True)
    # about the share of the field of view that a brain fills
    brain = x**2 / 0.5 + y**2 / 0.65 + z**2 / 0.65 < 1
    values = np.empty(shape, np.int16)
    texture = 1 + 0.2 * np.sin(12 * x) * np.sin(9 * y) * np.sin(10 * z)
    for i, b in enumerate(b_values):
        # diffusivities of 0.2, 0.2 and 1.7e-3 mm2/s
        decay = np.exp(-1e-3 * b * (0.2 + 1.5 * vectors[2, i] ** 2))
        clean = 900 * brain * texture * decay + 20
        values[..., i] = clean + rng.normal(0, 12, extent)
    affine = np.diag([VOXEL_MM] * 3 + [1.0])
    affine[:3, 3] = -VOXEL_MM * np.array(extent) / 2
    # the middle of the template's brain lies above and behind its origin
    affine[:3, 3] += (0, -18, 10)
    image = nib.Nifti1Image(values, affine)
    image.set_qform(affine, 1)
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, folder / "raw.nii.gz")
    write_image(brain, affine, folder / "mask.nii.gz")
    write_linear(np.eye(4), folder / "identity.txt")


def make_node(step: str, folder: Path) -> AlsInterface:
    """Node of a step with its inputs set; those that earlier steps made lie in their folders."""
    best = resolve(registry()["diffusion"].settings, "best", {})
    cfg = best.model_copy(update=QUICK)
    series = {
        "dwi": folder / "ReadSeries" / "dwi.nii",
        "table": folder / "ReadSeries" / "table.json",
    }
    masked = {**series, "mask": folder / "mask.nii.gz"}
    moved = {
        "dwi": folder / "CorrectMotion" / "dwi.nii",
        "table": series["table"],
        "motion": folder / "CorrectMotion" / "motion.tsv",
    }
    final = folder / "Resample"
    read = ReadSeries(
        images=[str(folder / "raw.nii.gz")],
        b_value_files=[str(folder / "dwi.bval")],
        b_vector_files=[str(folder / "dwi.bvec")],
        metadata=[{"PhaseEncodingDirection": "j"}],
        b0_threshold_s_mm2=50.0,
    )
    nodes: dict[str, tuple[AlsInterface, dict[str, Path]]] = {
        "ReadSeries": (read, {}),
        "Denoise": (workflow.denoise(cfg, 1), masked),
        "Unring": (workflow.unring(cfg, 1), series),
        "CorrectMotion": (workflow.correct_motion(cfg, 1), masked),
        "Resample": (workflow.resample(cfg), {**moved, "reference_mask": masked["mask"]}),
        "FitTensor": (
            workflow.fit_tensor(cfg),
            {
                "dwi": final / "dwi.nii",
                "table": final / "table.json",
                "mask": final / "mask.nii.gz",
                "acquired": series["dwi"],
            },
        ),
        "TemplateMaps": (
            workflow.template_maps(cfg, "MNI152NLin2009aSym"),
            {**moved, "to_template": folder / "identity.txt"},
        ),
    }
    node, inputs = nodes[step]
    for name, path in inputs.items():
        setattr(node.inputs, name, str(path))
    return node


def peak_gb() -> float:
    """Largest memory of this process so far; unlike ru_maxrss without that of the parent."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e9


if __name__ == "__main__":
    asked, place = sys.argv[1], Path(sys.argv[2])
    if asked == "make":
        write_series(place, tuple(int(n) for n in sys.argv[3:]))
    else:
        node = make_node(asked, place)
        (place / asked).mkdir()
        os.chdir(place / asked)
        node.run()
        declared = needed_gb(node, series=largest_series([[place / "raw.nii.gz"]]))
        sys.stdout.write(json.dumps({"declared_gb": declared, "peak_gb": peak_gb()}) + "\n")
