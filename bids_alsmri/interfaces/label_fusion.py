"""Labels of a new image from labelled ones, from file to file."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bids_alsmri.errors import DataError
from bids_alsmri.interfaces.base import read_image, write_image
from bids_alsmri.interfaces.registration import (
    Registration,
    Stage,
    apply_transforms,
    register,
    run_ants,
)
from bids_alsmri.numerics.anatomy import dice


@dataclass(frozen=True)
class LabelledImage:
    """An image and the labels that someone drew on it.

    Parameters
    ----------
    name : str
        What it is called in reports.
    image : Path
        3D image, free of the coil's field.
    labels : Path
        Whole numbers on the grid of the image, 0 for background.
    """

    name: str
    image: Path
    labels: Path


@dataclass(frozen=True)
class FusionSettings:
    """How labels are brought over and joined; each is a setting of the pipeline.

    Parameters
    ----------
    stages : tuple of Stage
        Registration, coarse to fine.
    winsor_percentiles : (float, float)
        See `interfaces.registration.register`.
    margin_mm : float
        How far around what is labelled images are kept, in mm.
    voxel_mm : float
        Voxel edge up to which images are thinned for the registration, in mm; coarser ones are
        left as they are. Labels are fused on the grid of the image.
    patch_radius, search_radius : (int, int, int)
        Of joint label fusion, in voxels.
    sharpness, ridge : float
        Exponent and ridge of its weights.
    n_threads : int
        ITK threads of each registration, which depends on it.
    n_at_once : int
        Atlases that are registered side by side; no result depends on it.
    seed : int
        Of the metric's sampling.
    """

    stages: tuple[Stage, ...]
    winsor_percentiles: tuple[float, float]
    margin_mm: float
    voxel_mm: float
    patch_radius: tuple[int, int, int]
    search_radius: tuple[int, int, int]
    sharpness: float
    ridge: float
    n_threads: int
    n_at_once: int
    seed: int


@dataclass(frozen=True)
class FusedLabels:
    """Labels of a new image.

    Parameters
    ----------
    labels : Path
        On the grid of the image.
    agreement : Path
        Share of the atlases that gave each voxel its label, 0 to 1.
    contested_share : float
        Share of the labelled voxels on which the atlases did not agree.
    """

    labels: Path
    agreement: Path
    contested_share: float


@dataclass(frozen=True)
class LeftOutDice:
    """Overlap of one label, drawn and fused from the other atlases."""

    atlas: str
    label: int
    dice: float
    n_voxels: int


def fuse_labels(
    image: Path,
    atlases: Sequence[LabelledImage],
    out_file: Path,
    work_dir: Path,
    *,
    mask: Path | None,
    settings: FusionSettings,
) -> FusedLabels:
    """Labels of an image by registration of labelled ones and joint label fusion.

    Parameters
    ----------
    image : Path
        3D image to be labelled, free of the coil's field.
    atlases : sequence of LabelledImage
        At least two, of the same contrast and part of the body.
    out_file : Path
        Where the labels go.
    work_dir : Path
        Folder for what is made on the way.
    mask : Path or None
        Body in the image; with it everything else is left out at once.
    settings : FusionSettings
        Registration and fusion.

    Returns
    -------
    FusedLabels
        Labels and how far the atlases agreed.

    Raises
    ------
    DataError
        If there are fewer than two atlases, or labels and image of one have different grids, or
        no label of any atlas falls into the image.
    RunError
        If ANTs fails.

    Notes
    -----
    Joint label fusion: Wang et al. 2013, doi:10.1109/TPAMI.2012.143. Background is a label of
    its own in it: without, every voxel of the mask would become muscle. It decides only where
    the atlases do not agree, which is most of its time saved (memory too).
    """
    if len(atlases) < 2:
        raise DataError(
            f"{len(atlases)} labelled image given for {image.name}; joint label fusion needs two "
            "or more"
        )
    work_dir.mkdir(parents=True, exist_ok=True)
    target = _cropped(image, mask, settings.margin_mm, work_dir / "target.nii.gz")
    for atlas in atlases:
        _require_one_grid(atlas)
    images, labels = _bring_all(target, atlases, work_dir, settings)
    stack = np.stack([read_image(path, ndim=3).data.round().astype(np.int64) for path in labels])
    if not stack.any():
        raise DataError(
            f"{image}: no label of {', '.join(a.name for a in atlases)} falls into it; are they "
            "of the same part of the body?"
        )
    contested = (stack != stack[0]).any(axis=0)
    fused = stack[0].copy()
    if contested.any():
        decided = _joint_fusion(target, images, stack, contested, work_dir, settings)
        fused[contested] = decided[contested]
    whole = read_image(image, ndim=3)
    near = read_image(target, ndim=3)
    agreement = (stack == fused).mean(axis=0)
    agreement_file = out_file.with_name("agreement_" + out_file.name)
    write_image(
        _uncropped(fused, near.affine, whole.data.shape, whole.affine).astype(np.int32),
        whole.affine,
        out_file,
    )
    write_image(
        _uncropped(agreement, near.affine, whole.data.shape, whole.affine).astype(np.float32),
        whole.affine,
        agreement_file,
    )
    labelled = (stack > 0).any(axis=0)
    return FusedLabels(out_file, agreement_file, float(contested[labelled].mean()))


def leave_one_out(
    atlases: Sequence[LabelledImage], work_dir: Path, *, settings: FusionSettings
) -> tuple[LeftOutDice, ...]:
    """Overlap of each atlas's own labels with those that the others give it.

    Parameters
    ----------
    atlases : sequence of LabelledImage
        At least three.
    work_dir : Path
        Folder for what is made on the way.
    settings : FusionSettings
        Registration and fusion.

    Returns
    -------
    tuple of LeftOutDice
        One per atlas and label, in that order.

    Raises
    ------
    DataError
        If there are fewer than three atlases.
    RunError
        If ANTs fails.
    """
    if len(atlases) < 3:
        raise DataError(
            f"{len(atlases)} labelled images given; to leave one out takes three or more"
        )
    rows = []
    for index, atlas in enumerate(atlases):
        others = [other for other in atlases if other is not atlas]
        folder = work_dir / f"without{index}"
        fused = fuse_labels(
            atlas.image, others, folder / "fused.nii.gz", folder, mask=None, settings=settings
        )
        drawn = read_image(atlas.labels, ndim=3).data.round().astype(np.int64)
        found = read_image(fused.labels, ndim=3).data.round().astype(np.int64)
        for label in np.unique(drawn[drawn > 0]):
            overlap = dice(drawn == label, found == label)
            n_voxels = int(np.count_nonzero(drawn == label))
            rows.append(LeftOutDice(atlas.name, int(label), overlap, n_voxels))
    return tuple(rows)


def _cropped(image: Path, mask: Path | None, margin_mm: float, out_file: Path) -> Path:
    """Image cut to a box around the mask, or around what is not dark."""
    whole = read_image(image, ndim=3)
    if mask is None:
        inside = whole.data > 0.1 * np.percentile(whole.data, 99)
    else:
        inside = read_image(mask, ndim=3).data > 0
    # single voxels of noise would keep all of the air
    inside = ndimage.binary_opening(inside, ndimage.generate_binary_structure(3, 1)) | (
        ndimage.uniform_filter(inside.astype(np.float32), 3) > 0.5
    )
    if not inside.any():
        raise DataError(f"{mask or image} is empty; give an image and mask of a body")
    edges_mm = np.linalg.norm(whole.affine[:3, :3], axis=0)
    margin = np.ceil(margin_mm / edges_mm).astype(int)
    found = np.argwhere(inside)
    low = np.maximum(found.min(axis=0) - margin, 0)
    high = np.minimum(found.max(axis=0) + margin + 1, whole.data.shape)
    box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    affine = whole.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ low
    write_image(np.ascontiguousarray(whole.data[box], dtype=np.float32), affine, out_file)
    return out_file


def _uncropped(
    values: NDArray[np.generic],
    affine: NDArray[np.float64],
    shape: tuple[int, ...],
    whole_affine: NDArray[np.float64],
) -> NDArray[np.generic]:
    offset = np.linalg.solve(whole_affine[:3, :3], affine[:3, 3] - whole_affine[:3, 3])
    low = np.rint(offset).astype(int)
    box = tuple(slice(int(a), int(a) + n) for a, n in zip(low, values.shape, strict=True))
    result = np.zeros(shape, dtype=values.dtype)
    result[box] = values
    return result


def _require_one_grid(atlas: LabelledImage) -> None:
    drawn, shown = read_image(atlas.labels, ndim=3), read_image(atlas.image, ndim=3)
    if drawn.data.shape != shown.data.shape or not np.allclose(
        drawn.affine, shown.affine, atol=1e-3
    ):
        raise DataError(
            f"{atlas.labels}: labels of shape {drawn.data.shape} lie on another grid than "
            f"{atlas.image.name} of shape {shown.data.shape}; bring both to one grid"
        )


def _bring_all(
    target: Path, atlases: Sequence[LabelledImage], work_dir: Path, settings: FusionSettings
) -> tuple[list[Path], list[Path]]:
    """Images and labels of atlases on the grid of the target."""
    fixed = _thinned(target, settings.voxel_mm, work_dir / "target_thin.nii.gz")

    def registered(index: int) -> Registration:
        prefix = work_dir / f"atlas{index}"
        cut = _cropped(atlases[index].image, None, settings.margin_mm, Path(f"{prefix}_cut.nii.gz"))
        return register(
            fixed,
            _thinned(cut, settings.voxel_mm, Path(f"{prefix}_thin.nii.gz")),
            stages=settings.stages,
            winsor_percentiles=settings.winsor_percentiles,
            out_prefix=prefix,
            seed=settings.seed,
            n_threads=settings.n_threads,
            is_apart=settings.n_at_once > 1,
        )

    with ThreadPoolExecutor(settings.n_at_once) as pool:
        found = list(pool.map(registered, range(len(atlases))))
    images, labels = [], []
    for index, (atlas, registration) in enumerate(zip(atlases, found, strict=True)):
        prefix = work_dir / f"atlas{index}"
        images.append(
            apply_transforms(
                atlas.image,
                target,
                [registration.forward],
                Path(f"{prefix}_image.nii.gz"),
                interpolation="Linear",
                n_threads=settings.n_threads,
            )
        )
        labels.append(
            apply_transforms(
                atlas.labels,
                target,
                [registration.forward],
                Path(f"{prefix}_labels.nii.gz"),
                interpolation="GenericLabel",
                n_threads=settings.n_threads,
            )
        )
    return images, labels


def _thinned(image: Path, voxel_mm: float, out_file: Path) -> Path:
    """Image of means over blocks of voxels, none of which is longer than a given edge."""
    whole = read_image(image, ndim=3)
    edges_mm = np.linalg.norm(whole.affine[:3, :3], axis=0)
    steps = np.maximum((voxel_mm / edges_mm + 1e-3).astype(int), 1)
    kept = tuple(slice(0, n // s * s) for n, s in zip(whole.data.shape, steps, strict=True))
    data = np.asarray(whole.data[kept], np.float32)
    for axis, step in enumerate(steps):
        shape = (*data.shape[:axis], data.shape[axis] // step, step, *data.shape[axis + 1 :])
        data = data.reshape(shape).mean(axis=axis + 1)
    affine = whole.affine.copy()
    affine[:3, :3] = whole.affine[:3, :3] * steps
    affine[:3, 3] += whole.affine[:3, :3] @ ((steps - 1) / 2.0)
    write_image(np.ascontiguousarray(data), affine, out_file)
    return out_file


def _joint_fusion(
    target: Path,
    images: Sequence[Path],
    stack: NDArray[np.int64],
    contested: NDArray[np.bool_],
    work_dir: Path,
    settings: FusionSettings,
) -> NDArray[np.int64]:
    """Labels that joint label fusion gives the contested voxels."""
    like = read_image(target, ndim=3)
    background = int(stack.max()) + 1
    arguments = ["-d", "3", "-t", str(target), "-v", "0"]
    scale = _level(like.data, contested)
    for index, path in enumerate(images):
        # patches are compared by their squared difference: all need one brightness
        values = read_image(path, ndim=3).data
        even = work_dir / f"even{index}.nii.gz"
        write_image(
            (values * (scale / _level(values, contested))).astype(np.float32), like.affine, even
        )
        numbered = work_dir / f"numbered{index}.nii.gz"
        labels = np.where(stack[index] > 0, stack[index], background)
        write_image(labels.astype(np.int32), like.affine, numbered)
        arguments += ["-g", str(even), "-l", str(numbered)]
    mask = work_dir / "contested.nii.gz"
    write_image(contested.astype(np.uint8), like.affine, mask)
    out_file = work_dir / "joint.nii.gz"
    arguments += [
        *("-a", f"{settings.ridge:g}", "-b", f"{settings.sharpness:g}", "-x", str(mask)),
        *("-p", "x".join(map(str, settings.patch_radius))),
        *("-s", "x".join(map(str, settings.search_radius)), "-o", str(out_file)),
    ]
    run_ants("antsJointFusion", arguments, n_threads=settings.n_threads)
    if not out_file.is_file():
        raise DataError(f"antsJointFusion wrote no {out_file}; see whether the disk has room")
    fused = read_image(out_file, ndim=3).data.round().astype(np.int64)
    return np.where(fused == background, 0, fused)


def _level(values: NDArray[np.floating], where: NDArray[np.bool_]) -> float:
    level = float(np.median(values[where]))
    return level if level > 0.0 else float(np.mean(np.abs(values))) or 1.0
