"""Registration and resampling of image files by ANTs, repeatable bit for bit.

Every registration runs ``antsRegistration`` (through antspyx) with its whole command line
written out, the seed among it, so nothing depends on the package's global state. The number of
threads enters the result; ITK reads it once per process, so a call that asks for another number
than this process has runs in a child process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bids_alsmri.errors import DataError, RunError, SettingsError

_THREADS_VARIABLE = "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"
# ITK's world is left-posterior-superior, NIfTI's right-anterior-superior.
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])

Interpolation = Literal[
    "Linear", "NearestNeighbor", "BSpline", "LanczosWindowedSinc", "GenericLabel"
]


@dataclass(frozen=True)
class Stage:
    """One stage of a registration.

    Parameters
    ----------
    transform : {"rigid", "similarity", "affine", "syn"}
        Family of transforms that is searched.
    metric : {"mi", "cc"}
        Mattes mutual information or local cross-correlation.
    metric_parameter : int
        Bins of the histogram for "mi", radius in voxels for "cc".
    sampling : float
        Share of voxels on a regular grid at which the metric is taken, above 0; 1 takes every one.
    gradient_step : float
        Step, in voxels of the level for "syn".
    iterations : tuple of int
        Most iterations at each level, coarse to fine.
    shrink_factors : tuple of int
        Down-sampling at each level.
    smoothing_mm : tuple of float
        Standard deviation of the Gaussian at each level, in mm.
    convergence : float
        Slope of the metric below which a level ends.
    convergence_window : int
        Iterations over which that slope is taken.
    update_smoothing, total_smoothing : float, optional
        Variances by which "syn" smooths the update and the total field, in voxels squared; given
        for "syn" and for nothing else.
    """

    transform: Literal["rigid", "similarity", "affine", "syn"]
    metric: Literal["mi", "cc"]
    metric_parameter: int
    sampling: float
    gradient_step: float
    iterations: tuple[int, ...]
    shrink_factors: tuple[int, ...]
    smoothing_mm: tuple[float, ...]
    convergence: float
    convergence_window: int
    update_smoothing: float | None = None
    total_smoothing: float | None = None

    def __post_init__(self) -> None:
        lengths = {len(self.iterations), len(self.shrink_factors), len(self.smoothing_mm)}
        if len(lengths) != 1 or 0 in lengths:
            raise SettingsError(
                f"stage {self.transform}: {len(self.iterations)} iterations, "
                f"{len(self.shrink_factors)} shrink_factors and {len(self.smoothing_mm)} "
                "smoothing_mm; give one of each per level"
            )
        if not 0 < self.sampling <= 1:
            raise SettingsError(
                f"stage {self.transform}: sampling is {self.sampling:g}; it must lie above 0 "
                "and at most 1"
            )
        smoothings = (self.update_smoothing, self.total_smoothing)
        if any((value is None) == (self.transform == "syn") for value in smoothings):
            raise SettingsError(
                f"stage {self.transform}: update_smoothing and total_smoothing are {smoothings}; "
                'give both for "syn" and neither for other transforms'
            )


@dataclass(frozen=True)
class Registration:
    """Transforms found, each one ITK composite file.

    Parameters
    ----------
    forward : Path
        Brings the moving image onto the fixed grid (`apply_transforms` of it resamples the
        moving image like the fixed one).
    inverse : Path
        Brings the fixed image onto the moving grid.
    """

    forward: Path
    inverse: Path


def run_ants(
    program: str, arguments: Sequence[str], *, n_threads: int, is_apart: bool = False
) -> None:
    """Run one program of ANTs at a fixed number of threads.

    Parameters
    ----------
    program : str
        Name of the function in antspyx's library, such as "antsRegistration".
    arguments : sequence of str
        Its command line.
    n_threads : int
        ITK threads. Where this process was started with another number in
        ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS, the program runs in a child process that has it.
    is_apart : bool
        Whether it runs in a child process in any case, as it must where several run at once.

    Raises
    ------
    RunError
        If the program fails.
    """
    if os.environ.get(_THREADS_VARIABLE) == str(n_threads) and not is_apart:
        code = _call_ants(program, list(arguments))
        output = ""
    else:
        environment = {**os.environ, _THREADS_VARIABLE: str(n_threads)}
        command = [sys.executable, "-m", __name__, program, json.dumps(list(arguments))]
        finished = subprocess.run(command, env=environment, capture_output=True, text=True)
        code, output = finished.returncode, finished.stderr[-2000:]
    if code != 0:
        raise RunError(
            f"{program} ended with code {code}; expected 0. Its arguments: "
            f"{' '.join(arguments)}. {output}".rstrip()
        )


def _call_ants(program: str, arguments: list[str]) -> int:
    from ants import lib

    return int(getattr(lib, program)(arguments))


def register(
    fixed: Path,
    moving: Path,
    *,
    stages: Sequence[Stage],
    winsor_percentiles: tuple[float, float],
    out_prefix: Path,
    seed: int,
    n_threads: int,
    initial: Path | None = None,
    fixed_mask: Path | None = None,
    moving_mask: Path | None = None,
    is_apart: bool = False,
) -> Registration:
    """Transforms that bring a moving image onto a fixed one.

    Parameters
    ----------
    fixed, moving : Path
        3D NIfTI images.
    stages : sequence of Stage
        Stages in order, such as rigid, affine, syn.
    winsor_percentiles : (float, float)
        Percentiles of the intensities to which darker and brighter voxels are set, 0 to 100.
    out_prefix : Path
        Start of the names of the files written.
    seed : int
        Seed of the metric's sampling.
    n_threads : int
        ITK threads; the result depends on it.
    initial : Path, optional
        Transform to start from (fixed to moving coordinates, as ITK has it); by default the
        images' centres of mass are aligned.
    fixed_mask, moving_mask : Path, optional
        Where the metric is taken.
    is_apart : bool
        See `run_ants`.

    Returns
    -------
    Registration
        Composite transforms in both directions.

    Raises
    ------
    SettingsError
        If no stage is given, or the percentiles do not rise within 0 to 100.
    RunError
        If ANTs fails.

    Notes
    -----
    antsRegistration: Avants et al. 2011, doi:10.1016/j.neuroimage.2010.09.025; symmetric
    normalisation: Avants et al. 2008, doi:10.1016/j.media.2007.06.004.
    """
    if not stages:
        raise SettingsError("stages is empty; give at least one stage of registration")
    low, high = winsor_percentiles
    if not 0 <= low < high <= 100:
        raise SettingsError(
            f"winsor_percentiles are {low:g} and {high:g}; they must rise and lie from 0 to 100"
        )
    start = f"[{fixed},{moving},1]" if initial is None else str(initial)
    arguments = [
        *("--dimensionality", "3", "--float", "1", "--verbose", "0"),
        *("--random-seed", str(seed), "--write-composite-transform", "1"),
        *("--output", str(out_prefix), "--initial-moving-transform", start),
        *("--winsorize-image-intensities", f"[{low / 100:g},{high / 100:g}]"),
    ]
    if fixed_mask is not None or moving_mask is not None:
        arguments += ["--masks", _mask_pair(fixed_mask, moving_mask)]
    for stage in stages:
        arguments += _stage_arguments(stage, fixed, moving)
    out_prefix.parent.mkdir(parents=True, exist_ok=True)
    run_ants("antsRegistration", arguments, n_threads=n_threads, is_apart=is_apart)
    found = Registration(
        Path(f"{out_prefix}Composite.h5"), Path(f"{out_prefix}InverseComposite.h5")
    )
    missing = [str(path) for path in (found.forward, found.inverse) if not path.is_file()]
    if missing:
        raise RunError(
            f"antsRegistration of {moving} to {fixed} wrote no {', '.join(missing)}; "
            "see whether the images overlap and the disk has room"
        )
    return found


def _mask_pair(fixed_mask: Path | None, moving_mask: Path | None) -> str:
    if moving_mask is None:
        return f"[{fixed_mask}]"
    return f"[{fixed_mask or ''},{moving_mask}]"


def _stage_arguments(stage: Stage, fixed: Path, moving: Path) -> list[str]:
    name = {"rigid": "Rigid", "similarity": "Similarity", "affine": "Affine", "syn": "SyN"}
    step = f"{stage.gradient_step:g}"
    if stage.transform == "syn":
        step += f",{stage.update_smoothing:g},{stage.total_smoothing:g}"
    metric = f"{stage.metric.upper()}[{fixed},{moving},1,{stage.metric_parameter}"
    # With every voxel taken nothing is drawn, so nothing depends on the seed.
    metric += "]" if stage.sampling == 1 else f",Regular,{stage.sampling:g}]"
    iterations = "x".join(map(str, stage.iterations))
    return [
        *("--transform", f"{name[stage.transform]}[{step}]", "--metric", metric),
        "--convergence",
        f"[{iterations},{stage.convergence:g},{stage.convergence_window}]",
        *("--shrink-factors", "x".join(map(str, stage.shrink_factors))),
        *("--smoothing-sigmas", "x".join(f"{mm:g}" for mm in stage.smoothing_mm) + "mm"),
    ]


def apply_transforms(
    image: Path,
    reference: Path,
    transforms: Sequence[Path],
    out_file: Path,
    *,
    interpolation: Interpolation,
    n_threads: int,
    outside: float = 0.0,
    invert: Sequence[bool] | None = None,
) -> Path:
    """Image resampled once through a chain of transforms.

    Parameters
    ----------
    image : Path
        3D or 4D image (every volume of a 4D one goes through the same chain).
    reference : Path
        Image whose grid the output gets.
    transforms : sequence of Path
        ITK transforms; the last one is applied to the image first, as ANTs counts.
    out_file : Path
        Where the image goes.
    interpolation : str
        "Linear", "NearestNeighbor", "BSpline", "LanczosWindowedSinc" or "GenericLabel".
    n_threads : int
        ITK threads; the result does not depend on it.
    outside : float
        Value where the image does not reach, in its own unit.
    invert : sequence of bool, optional
        One per transform: whether a linear one is inverted first.

    Returns
    -------
    Path
        `out_file`, in float32.

    Raises
    ------
    SettingsError
        If `invert` and `transforms` differ in number.
    RunError
        If ANTs fails.
    """
    import nibabel as nib

    header: Any = nib.load(image)
    n_axes = len(header.shape)
    arguments = [
        *("--dimensionality", "3", "--float", "1", "--verbose", "0"),
        *("--input-image-type", "3" if n_axes == 4 else "0"),
        *("--input", str(image), "--reference-image", str(reference)),
        *("--output", str(out_file), "--interpolation", interpolation),
        *("--default-value", f"{outside:g}", *_transform_arguments(transforms, invert)),
    ]
    run_ants("antsApplyTransforms", arguments, n_threads=n_threads)
    return _written(out_file, "antsApplyTransforms")


def compose_to_field(
    reference: Path,
    transforms: Sequence[Path],
    out_file: Path,
    *,
    n_threads: int,
    invert: Sequence[bool] | None = None,
) -> Path:
    """Displacement field that a chain of transforms amounts to.

    Parameters
    ----------
    reference : Path
        Image whose grid the field gets.
    transforms : sequence of Path
        ITK transforms, the last one applied to the image first.
    out_file : Path
        NIfTI file of ITK's form: (n, m, k, 1, 3), mm, left-posterior-superior.
    n_threads : int
        ITK threads.
    invert : sequence of bool, optional
        One per transform: whether a linear one is inverted first.

    Returns
    -------
    Path
        `out_file`.

    Raises
    ------
    RunError
        If ANTs fails.
    """
    arguments = [
        *("--dimensionality", "3", "--float", "1", "--verbose", "0"),
        *("--reference-image", str(reference), "--output", f"[{out_file},1]"),
        *_transform_arguments(transforms, invert),
    ]
    run_ants("antsApplyTransforms", arguments, n_threads=n_threads)
    return _written(out_file, "antsApplyTransforms")


def _transform_arguments(transforms: Sequence[Path], invert: Sequence[bool] | None) -> list[str]:
    flags = [False] * len(transforms) if invert is None else list(invert)
    if len(flags) != len(transforms):
        raise SettingsError(
            f"invert has {len(flags)} values for {len(transforms)} transforms; give one for each"
        )
    arguments: list[str] = []
    for path, flag in zip(transforms, flags, strict=True):
        arguments += ["--transform", f"[{path},1]" if flag else str(path)]
    return arguments or ["--transform", "identity"]


def _written(path: Path, program: str) -> Path:
    if not path.is_file():
        raise RunError(f"{program} wrote no {path}; see whether its folder exists and has room")
    return path


def move_points(
    points_mm: NDArray[np.floating],
    transforms: Sequence[Path],
    *,
    invert: Sequence[bool] | None = None,
) -> NDArray[np.float64]:
    """Points of the fixed image's world taken into the moving image's.

    Parameters
    ----------
    points_mm : (n, 3) array
        NIfTI world coordinates in mm. With the `forward` file of a registration, points of the
        fixed image go to the moving one (transforms of images pull, so points go the other way).
    transforms : sequence of Path
        ITK transforms, in the order of `apply_transforms`.
    invert : sequence of bool, optional
        One per transform: whether a linear one is inverted first.

    Returns
    -------
    (n, 3) array
        NIfTI world coordinates in mm.

    Raises
    ------
    SettingsError
        If `invert` and `transforms` differ in number.
    """
    import ants

    flags = [False] * len(transforms) if invert is None else list(invert)
    _transform_arguments(transforms, flags)
    moved = np.asarray(points_mm, dtype=np.float64) * [-1.0, -1.0, 1.0]
    for path, flag in zip(transforms, flags, strict=True):
        transform = ants.read_transform(str(path))
        transform = transform.invert() if flag else transform
        moved = np.array([transform.apply_to_point(tuple(point)) for point in moved])
    return np.asarray(moved * [-1.0, -1.0, 1.0], dtype=np.float64)


def write_linear(fixed_to_moving: NDArray[np.floating], out_file: Path) -> Path:
    """Linear transform written as an ITK file.

    Parameters
    ----------
    fixed_to_moving : (4, 4) array
        NIfTI world coordinates of the fixed image to those of the moving one, in mm.
    out_file : Path
        Name ending in ``.txt``, readable by ANTs, ITK-SNAP and 3D Slicer, or in ``.h5``.

    Returns
    -------
    Path
        `out_file`.
    """
    matrix = _RAS_TO_LPS @ np.asarray(fixed_to_moving, dtype=np.float64) @ _RAS_TO_LPS
    numbers = " ".join(f"{value:.17g}" for value in [*matrix[:3, :3].ravel(), *matrix[:3, 3]])
    text_file = out_file.with_suffix(".txt")
    text_file.write_text(
        "#Insight Transform File V1.0\n#Transform 0\nTransform: AffineTransform_double_3_3\n"
        f"Parameters: {numbers}\nFixedParameters: 0 0 0\n"
    )
    if out_file.suffix == ".h5":
        import ants

        ants.write_transform(ants.read_transform(str(text_file)), str(out_file))
    return out_file


def read_linear(transform: Path) -> NDArray[np.float64]:
    """Matrix of a linear transform file, composite or not.

    Parameters
    ----------
    transform : Path
        ITK file (.h5, .mat or .txt) that holds linear transforms only.

    Returns
    -------
    (4, 4) array
        NIfTI world coordinates of the fixed image to those of the moving one, in mm.

    Raises
    ------
    DataError
        If the transform is not linear.
    """
    # Far corners: float32 files keep the matrix to about 1e-6 over 100 mm.
    corners = np.array([[0, 0, 0], [100, 0, 0], [0, 100, 0], [0, 0, 100], [100, 100, 100]], float)
    moved = move_points(corners, [transform])
    matrix = np.eye(4)
    matrix[:3, :3] = (moved[1:4] - moved[0]).T / 100.0
    matrix[:3, 3] = moved[0]
    if not np.allclose(matrix[:3, :3] @ corners[4] + matrix[:3, 3], moved[4], atol=1e-2):
        raise DataError(
            f"{transform} is not a linear transform; give a rigid or affine one, or use move_points"
        )
    return matrix


if __name__ == "__main__":
    sys.exit(_call_ants(sys.argv[1], json.loads(sys.argv[2])))
