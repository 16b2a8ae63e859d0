"""Run each node of the sodium pipeline in a process of its own, and print its peak memory."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import nibabel as nib
import numpy as np

from bids_alsmri.engine.pipeline import registry
from bids_alsmri.interfaces.atlases import PrepareAtlases
from bids_alsmri.interfaces.base import largest_series, write_image
from bids_alsmri.interfaces.images import Coarsen
from bids_alsmri.interfaces.node import AlsInterface, needed_gb
from bids_alsmri.interfaces.registration import write_linear
from bids_alsmri.options import resolve
from bids_alsmri.pipelines.sodium import workflow
from bids_alsmri.pipelines.sodium.interfaces import (
    DrawAreas,
    DrawTubes,
    JudgeAnatomy,
    MeasureAtlases,
    MeasureTissues,
    ToSpaces,
)

T1W_FIELD_MM = (190, 250, 250)
SODIUM_SHAPE, SODIUM_MM = (64, 64, 64), 3.6
# of the partial-volume correction: finer ones take time
FINE_MM = 4.0
TEMPLATE = "MNI152NLin2009aSym"
SIDECAR = {
    "EchoTime": 0.0002,
    "RepetitionTimeExcitation": 0.12,
    "FlipAngle": 90,
    "SodiumReadoutDuration": 0.02,
}


def centred(shape: tuple[int, ...], edge_mm: float) -> np.ndarray:
    affine = np.diag([edge_mm] * 3 + [1.0])
    # the middle of the template's brain lies above and behind its origin
    affine[:3, 3] = -edge_mm * np.array(shape) / 2 + (0, -18, 10)
    return affine


def shells(shape: tuple[int, ...], edge_mm: float) -> dict[str, np.ndarray]:
    """Head of nested ellipsoids: scalp, fluid, grey and white matter, ventricle."""
    axes = (edge_mm * (np.arange(n) - n / 2) for n in shape)
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    depth = np.sqrt((x / 70) ** 2 + (y / 88) ** 2 + (z / 70) ** 2)
    tubes = [
        (np.hypot(x - side, y) < 12.5) & (np.abs(z) < 40) & (depth > 1.2) for side in (-100, 100)
    ]
    return {
        "head": depth < 1.15,
        "brain": depth < 1.0,
        "csf": ((depth >= 0.94) & (depth < 1.0)) | (depth < 0.12),
        "gm": (depth >= 0.8) & (depth < 0.94),
        "wm": (depth >= 0.12) & (depth < 0.8),
        "tubes": tubes[0] | tubes[1],
    }


def write_images(folder: Path, t1w_mm: float) -> None:
    """T1w with its tissues, a sodium image with tubes, and transforms between them."""
    rng = np.random.default_rng(0)
    shape = tuple(round(edge / t1w_mm) for edge in T1W_FIELD_MM)
    affine, parts = centred(shape, t1w_mm), shells(shape, t1w_mm)
    t1w = 60.0 * parts["head"] + 40 * parts["csf"] + 240 * parts["gm"] + 440 * parts["wm"]
    write_image(
        (t1w + rng.normal(0, 5, t1w.shape)).astype(np.float32), affine, folder / "t1w.nii.gz"
    )
    write_image(parts["brain"], affine, folder / "brain.nii.gz")
    for name in ("wm", "gm", "csf"):
        write_image(parts[name].astype(np.float32), affine, folder / f"{name}.nii.gz")
    parts = shells(SODIUM_SHAPE, SODIUM_MM)
    levels = {"csf": 130, "gm": 45, "wm": 38, "tubes": 50}
    clean = 200.0 * parts["head"] + sum(20 * level * parts[n] for n, level in levels.items())
    image = np.hypot(clean + rng.normal(0, 20, SODIUM_SHAPE), rng.normal(0, 20, SODIUM_SHAPE))
    affine = centred(SODIUM_SHAPE, SODIUM_MM)
    write_image(image.astype(np.float32), affine, folder / "sodium.nii.gz")
    write_linear(np.eye(4), folder / "rigid.txt")
    # of the size of a nonlinear registration at the template's 1 mm
    field = nib.Nifti1Image(
        np.zeros((193, 229, 193, 1, 3), np.float32), centred((193, 229, 193), 1)
    )
    field.header.set_intent("vector")
    nib.save(field, folder / "warp.nii.gz")


def all_nodes(folder: Path) -> dict[str, tuple[AlsInterface, dict[str, Path]]]:
    """Nodes in the order in which each takes what the others made, with their inputs."""
    cfg = resolve(
        registry()["sodium"].settings,
        "best",
        {"denoising_block_radius": 1, "correction_voxel_mm": FINE_MM},
    )
    read, quiet, tubes, even, line, tsc, corrected, areas = (
        folder / name
        for name in (
            "Read",
            "Denoise",
            "FindTubes",
            "Receive",
            "Calibrate",
            "Tsc",
            "Pvc",
            "Atlases",
        )
    )
    protocol, source = read / "protocol.json", folder / "sodium.nii.gz"
    found = {name: tubes / f"{name}.nii.gz" for name in ("labels", "head")}
    tissues = {name: folder / f"{name}.nii.gz" for name in ("t1w", "brain", "wm", "gm", "csf")}
    anatomy = {**tissues, "to_anatomy": folder / "rigid.txt"}
    signal = {"image": even / "image.nii.gz", "protocol": protocol, "line": line / "line.json"}
    noise, tube_file = quiet / "noise.json", tubes / "tubes.json"
    maps = {"tsc": tsc / "tsc.nii.gz", "tissue": corrected / "tissue.nii.gz"}
    prepared = PrepareAtlases(template=TEMPLATE, resolution_mm=2.0, threshold_percent=25.0)
    space = {"template": TEMPLATE, "resolution_mm": 2.0, "t1w_resolution_mm": 2.0, "fwhm_mm": 8.0}
    reader = workflow.read_sodium(cfg, [SIDECAR], has_proton=False)
    reader.inputs.images = [str(source)]
    return {
        "Read": (reader, {}),
        "Denoise": (
            workflow.denoise(cfg, 1),
            {"image": read / "sodium.nii.gz", "protocol": protocol, "source": source},
        ),
        "FindTubes": (
            workflow.find_tubes(cfg),
            {
                "image": read / "sodium.nii.gz",
                "protocol": protocol,
                "noise": noise,
                "source": source,
            },
        ),
        "DrawTubes": (DrawTubes(), {"image": read / "sodium.nii.gz", **found}),
        "Receive": (
            workflow.correct_receive_node(cfg, "smooth"),
            {"image": quiet / "signal.nii.gz", "source": source, "tubes": tube_file, **found},
        ),
        "Calibrate": (
            workflow.calibrate(cfg),
            {
                "image": even / "image.nii.gz",
                "source": source,
                "protocol": protocol,
                "noise": noise,
                "tubes": tube_file,
                **found,
            },
        ),
        "Judge": (
            JudgeAnatomy(least_overlap=0.0, least_separation=0.0),
            {
                "image": even / "image.nii.gz",
                "head": found["head"],
                "source": source,
                **{name: anatomy[name] for name in ("to_anatomy", "brain", "wm", "csf")},
            },
        ),
        "Coarsen": (Coarsen(voxel_mm=2.0), {"image": tissues["t1w"]}),
        "Tsc": (workflow.to_concentration(cfg), {**signal, **anatomy}),
        "Pvc": (
            workflow.correct_partial_volume(cfg),
            {**signal, **anatomy, **found, "noise": noise, "source": source},
        ),
        "Tissues": (
            MeasureTissues(min_probability=0.8),
            {
                "tsc": maps["tsc"],
                "voxelwise": corrected / "voxelwise.nii.gz",
                "regions": corrected / "regions.tsv",
                **anatomy,
            },
        ),
        "ToSpaces": (
            ToSpaces(**space),
            {
                **maps,
                "gm": tissues["gm"],
                "wm": tissues["wm"],
                "to_anatomy": folder / "rigid.txt",
                "to_template": folder / "warp.nii.gz",
            },
        ),
        "PrepareAtlases": (
            prepared,
            {"reference": folder / "ToSpaces" / f"tpl-{TEMPLATE}_mask.nii.gz"},
        ),
        "Atlases": (
            MeasureAtlases(),
            {
                **maps,
                "voxelwise": corrected / "voxelwise.nii.gz",
                "atlases": folder / "PrepareAtlases" / "atlases.npz",
                "to_anatomy": folder / "rigid.txt",
                "from_template": folder / "warp.nii.gz",
            },
        ),
        "DrawAreas": (
            DrawAreas(high=100.0),
            {
                "tsc": maps["tsc"],
                "motor_areas": areas / "motor_areas.nii.gz",
                "summary": areas / "summary.tsv",
            },
        ),
    }


def peak_gb() -> float:
    """Largest memory of this process so far; that of its parent at the fork counts."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e9


def measure(name: str, node: AlsInterface, folder: Path, answer: Connection) -> None:
    (folder / name).mkdir()
    os.chdir(folder / name)
    node.run()
    sizes = [largest_series([[folder / f"{image}.nii.gz"]]) for image in ("sodium", "t1w")]
    declared = needed_gb(node, series=sizes[0], anatomy=sizes[1])
    answer.send({"declared_gb": declared, "peak_gb": peak_gb()})


def run_apart(task: Callable[..., None], *arguments: object) -> None:
    """Run a function in a fork, which spares it the imports and this process its memory."""
    process = multiprocessing.get_context("fork").Process(target=task, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        sys.exit(f"{task.__name__} {arguments[0]} failed")


if __name__ == "__main__":
    place, t1w_mm, last = Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
    run_apart(write_images, place, t1w_mm)
    found = {}
    for step, (node, inputs) in all_nodes(place).items():
        for given, path in inputs.items():
            setattr(node.inputs, given, str(path))
        receiver, sender = multiprocessing.Pipe(duplex=False)
        run_apart(measure, step, node, place, sender)
        found[step] = receiver.recv()
        if step == last:
            break
    sys.stdout.write(json.dumps(found) + "\n")
