"""Bias, brain and tissues of a T1-weighted head, from file to file."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bids_alsmri.errors import DataError
from bids_alsmri.interfaces.base import write_image
from bids_alsmri.interfaces.registration import (
    Stage,
    apply_transforms,
    read_linear,
    register,
    run_ants,
    write_linear,
)
from bids_alsmri.numerics import anatomy
from bids_alsmri.numerics.receive import continued_field
from bids_alsmri.spaces.templates import Template

# From dark to bright in a T1-weighted image, the order in which Atropos numbers clusters.
TISSUES = ("CSF", "GM", "WM")


@dataclass(frozen=True)
class BrainSearch:
    """Constants of the brain extraction; each is a setting of the anatomical pipeline.

    Parameters
    ----------
    head_grid_mm : float
        Voxel size at which head and thick tissue are told from the rest, in mm.
    head_threshold_share, head_smoothing_voxels : float
        See `numerics.anatomy.head_mask`.
    head_depth_mm : float
        Height of the box under the vertex that holds the brain, in mm.
    reach_mm : float
        How far the brain's centre may lie from the box's, in mm.
    pitches_deg, scales : tuple of float
        Nods (degrees) and sizes relative to the template that are tried.
    grids_mm : tuple of float
        Voxel sizes, coarse to fine: poses are searched at the first and refined at each, in mm.
    n_starts : int
        Best poses that are refined.
    refine_iterations, refine_bins : int
        Most iterations of each refinement and bins of its mutual information.
    refine_step, refine_convergence, refine_convergence_window : float, float, int
        See `interfaces.registration.Stage`.
    winsor_percentiles : (float, float)
        See `interfaces.registration.register`.
    rim_mm : float
        Width around the template's brain where the image should be dark, in mm.
    flatten_mm : float
        Width of the Gaussian that takes out the coil's bias, in mm.
    flatten_cap : float
        Multiple of the local mean above which a voxel counts no more in that mean.
    tissue_range : (float, float)
        Intensities that may be brain in the search, in multiples of the local mean.
    opening_mm, depth_mm : float
        Radius and least half-thickness of what is kept in the search, in mm.
    brain_range : (float, float)
        Intensities that may be brain in the mask, in multiples of white matter.
    white_share : float
        Share of the largest value of the template's white matter from which a voxel is white.
    mask_grid_mm : float
        Voxel size at which the mask is made, in mm.
    mask_reach_mm, mask_core_mm, mask_opening_mm, mask_closing_mm : float
        See `numerics.anatomy.brain_from_prior`, in mm.
    stripped_ratio : float
        Multiple of the brain's volume below which the image holds a brain and no head.
    least_overlap : float
        Dice coefficient with the template's mask below which the result is refused.
    """

    head_grid_mm: float
    head_threshold_share: float
    head_smoothing_voxels: float
    head_depth_mm: float
    reach_mm: float
    pitches_deg: tuple[float, ...]
    scales: tuple[float, ...]
    grids_mm: tuple[float, ...]
    n_starts: int
    refine_iterations: int
    refine_bins: int
    refine_step: float
    refine_convergence: float
    refine_convergence_window: int
    winsor_percentiles: tuple[float, float]
    rim_mm: float
    flatten_mm: float
    flatten_cap: float
    tissue_range: tuple[float, float]
    opening_mm: float
    depth_mm: float
    brain_range: tuple[float, float]
    white_share: float
    mask_grid_mm: float
    mask_reach_mm: float
    mask_core_mm: float
    mask_opening_mm: float
    mask_closing_mm: float
    stripped_ratio: float
    least_overlap: float


@dataclass(frozen=True)
class Brain:
    """A brain found in a head.

    Parameters
    ----------
    mask : Path
        Brain mask on the grid of the T1w image.
    template_to_t1w : (4, 4) array
        Affine from template to T1w world coordinates, in mm: a start for the registration.
    overlap : float
        Dice coefficient of the mask and the template's, brought there by the affine.
    correlation : float
        Correlation of template and image at that pose.
    was_stripped : bool
        Whether the image held a brain without a head from the start.
    """

    mask: Path
    template_to_t1w: NDArray[np.float64]
    overlap: float
    correlation: float
    was_stripped: bool


@dataclass(frozen=True)
class _Volume:
    values: NDArray[np.float32]
    affine: NDArray[np.float64]

    @property
    def voxel_mm(self) -> NDArray[np.float64]:
        size: NDArray[np.float64] = np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0))
        return size

    def at(self, spacing_mm: float) -> _Volume:
        return _Volume(*anatomy.resample_world(self.values, self.affine, spacing_mm))


def _load(image: Any) -> _Volume:
    values = np.asarray(image.dataobj, dtype=np.float32)
    return _Volume(values.reshape(values.shape[:3]), np.asarray(image.affine, dtype=np.float64))


def _save(values: NDArray[Any], like: _Volume, path: Path) -> Path:
    write_image(values, like.affine, path)
    return path


def correct_bias(
    image: Path,
    out_file: Path,
    *,
    mask: Path | None,
    shrink_factor: int,
    iterations: tuple[int, ...],
    convergence: float,
    spline_mm: float,
    n_threads: int,
    bias_field: Path | None = None,
) -> Path:
    """Image without the slow change of brightness that receive coils leave.

    Parameters
    ----------
    image : Path
        3D magnitude image.
    out_file : Path
        Where the corrected image goes, float32.
    mask : Path or None
        Where the field is estimated; a brain mask is both better and faster than none. Beyond it
        the field goes on as it is at the rim.
    shrink_factor : int
        Down-sampling for the estimate.
    iterations : tuple of int
        Most iterations at each level.
    convergence : float
        Change of the field at which a level ends.
    spline_mm : float
        Distance of the control points at the first level, in mm.
    n_threads : int
        ITK threads.
    bias_field : Path, optional
        Where the field goes, 1 on (geometric) average over the mask.

    Returns
    -------
    Path
        `out_file`.

    Raises
    ------
    RunError
        If ANTs fails.

    Notes
    -----
    N4: Tustison et al. 2010, doi:10.1109/TMI.2010.2046908.
    """
    import ants

    # N4 may run in another process, so that it is given files and no address in this one's memory
    with tempfile.TemporaryDirectory(dir=out_file.parent, prefix="n4_") as folder:
        raw, raw_field = Path(folder) / "corrected.nii", Path(folder) / "field.nii"
        arguments = [
            *("-d", "3", "-i", str(image), "-s", str(shrink_factor), "-r", "0", "-v", "0"),
            *(
                "-c",
                f"[{'x'.join(map(str, iterations))},{convergence:g}]",
                "-b",
                f"[{spline_mm:g}]",
            ),
            *("-o", f"[{raw},{raw_field}]"),
        ]
        if mask is not None:
            arguments += ["-x", str(mask)]
        run_ants("N4BiasFieldCorrection", arguments, n_threads=n_threads)
        corrected, field = (ants.image_read(str(p), pixeltype="float") for p in (raw, raw_field))
    if mask is not None:
        # N4 gives its field any scale and leaves the rest of the head as it is: the brain would
        # stand out of it by a factor of 2 or 3
        source = ants.image_read(str(image), pixeltype="float")
        inside = ants.image_read(str(mask), pixeltype="float").numpy() > 0
        even = continued_field(field.numpy(), inside, np.array(source.spacing), step=shrink_factor)
        field = source.new_image_like(even)
        corrected = source.new_image_like(source.numpy() / even)
    ants.image_write(corrected, str(out_file))
    if bias_field is not None:
        ants.image_write(field, str(bias_field))
    return out_file


def extract_brain(
    t1w: Path,
    template: Template,
    out_mask: Path,
    *,
    search: BrainSearch,
    work_dir: Path,
    seed: int,
    n_threads: int,
) -> Brain:
    """Brain mask of a head with neck and face, or of a brain alone.

    Parameters
    ----------
    t1w : Path
        T1-weighted image, in any storage order, with or without bias.
    template : Template
        Skull-stripped template at about 2 mm or finer.
    out_mask : Path
        Where the mask goes, uint8.
    search : BrainSearch
        Constants of the method.
    work_dir : Path
        Existing folder for intermediate files.
    seed, n_threads : int
        Of the registrations.

    Returns
    -------
    Brain
        Mask, affine from the template and how well they agree.

    Raises
    ------
    DataError
        If the mask overlaps less with the template's than `search.least_overlap`.

    Notes
    -----
    Scalp and fat are taken out by thickness and brightness, the template's pose is searched
    exhaustively over shifts, nods and sizes, refined by an affine registration under mutual
    information with the template's mask and a dark rim, and the mask follows from intensity and
    morphology around the template's.
    """
    import nibabel as nib

    head = _load(nib.load(t1w))
    head = _Volume(np.nan_to_num(np.maximum(head.values, 0)), head.affine)
    thick, head_mm3, centre_mm = _thick_head(head, search)
    pose, correlation = _find_pose(thick, template, centre_mm, search, work_dir, seed, n_threads)
    expected = _bring(template.mask, pose, head) > 0.5
    voxel_mm3 = float(np.prod(head.voxel_mm))
    # A head's box holds about twice its brain; a stripped brain fills its own.
    was_stripped = head_mm3 < search.stripped_ratio * expected.sum() * voxel_mm3
    if was_stripped:
        filled = anatomy.close_mm(head.values > 0, search.mask_closing_mm, head.voxel_mm)
        mask = anatomy.largest_component(filled)
    else:
        mask = _mask_near(head, template, pose, search)
    overlap = anatomy.dice(mask, expected)
    if not overlap >= search.least_overlap:
        raise DataError(
            f"{t1w}: the brain mask overlaps with that of {template.name} by {overlap:.2f} (Dice); "
            f"expected at least {search.least_overlap:g}. See whether the image shows a whole "
            "head, T1-weighted and upright in its header; or give a brain mask as a derivative"
        )
    _save(mask.astype(np.uint8), head, out_mask)
    return Brain(out_mask, pose, overlap, correlation, bool(was_stripped))


def _thick_head(head: _Volume, search: BrainSearch) -> tuple[_Volume, float, NDArray[np.float64]]:
    """Coarse head without thin and bright parts; volume and centre of its upper box."""
    coarse = head.at(search.head_grid_mm)
    inside = anatomy.head_mask(
        coarse.values,
        threshold_share=search.head_threshold_share,
        smoothing_voxels=search.head_smoothing_voxels,
    )
    centre_mm = anatomy.head_centre_mm(inside, coarse.affine, depth_mm=search.head_depth_mm)
    floor_mm = centre_mm[2] - search.head_depth_mm / 2
    heights_mm = coarse.affine[2, 2] * np.arange(inside.shape[2]) + coarse.affine[2, 3]
    volume_mm3 = float(inside[:, :, heights_mm > floor_mm].sum()) * search.head_grid_mm**3
    flat = anatomy.flatten(
        coarse.values,
        inside,
        coarse.voxel_mm,
        width_mm=search.flatten_mm,
        cap=search.flatten_cap,
    )
    thick = anatomy.thick_tissue(
        np.where(inside, flat, np.float32(0)),
        coarse.voxel_mm,
        low=search.tissue_range[0],
        high=search.tissue_range[1],
        opening_mm=search.opening_mm,
        depth_mm=search.depth_mm,
    )
    return _Volume(thick, coarse.affine), volume_mm3, centre_mm


def _find_pose(
    thick: _Volume,
    template: Template,
    centre_mm: NDArray[np.float64],
    search: BrainSearch,
    work_dir: Path,
    seed: int,
    n_threads: int,
) -> tuple[NDArray[np.float64], float]:
    """Affine from template to head, and the correlation it reaches."""
    brain = _load(template.t1w)
    mask = _load(template.mask)
    rim = anatomy.dilate_mm(mask.values > 0, search.rim_mm, mask.voxel_mm)
    weight = _Volume(rim.astype(np.float32), mask.affine)
    image, pattern, where = (v.at(search.grids_mm[0]) for v in (thick, brain, weight))
    poses = anatomy.search_pose(
        image.values,
        pattern.values,
        where.values,
        image_affine=image.affine,
        template_affine=pattern.affine,
        pitches_deg=search.pitches_deg,
        scales=search.scales,
        centre_mm=centre_mm,
        reach_mm=search.reach_mm,
    )
    starts = [p.template_to_image for p in poses[: search.n_starts]]
    transforms: tuple[Literal["rigid", "affine"], ...] = ("rigid", "affine")
    correlation = 0.0
    for spacing_mm in search.grids_mm:
        image, pattern, where = (v.at(spacing_mm) for v in (thick, brain, weight))
        stages = [_refining(transform, search) for transform in transforms]
        found = [
            _refine(
                image,
                pattern,
                where,
                start,
                stages,
                search.winsor_percentiles,
                work_dir,
                seed,
                n_threads,
            )
            for start in starts
        ]
        correlation, pose = max(found, key=lambda pair: pair[0])
        starts, transforms = [pose], ("affine",)
    return starts[0], correlation


def _refining(transform: Literal["rigid", "affine"], search: BrainSearch) -> Stage:
    """Stage of a refinement, on the one grid it is given."""
    return Stage(
        transform,
        metric="mi",
        metric_parameter=search.refine_bins,
        sampling=1.0,
        gradient_step=search.refine_step,
        iterations=(search.refine_iterations,),
        shrink_factors=(1,),
        smoothing_mm=(0.0,),
        convergence=search.refine_convergence,
        convergence_window=search.refine_convergence_window,
    )


def _refine(
    image: _Volume,
    pattern: _Volume,
    where: _Volume,
    start: NDArray[np.float64],
    stages: list[Stage],
    winsor_percentiles: tuple[float, float],
    work_dir: Path,
    seed: int,
    n_threads: int,
) -> tuple[float, NDArray[np.float64]]:
    """Correlation and affine after a registration from one start."""
    found = register(
        _save(pattern.values, pattern, work_dir / "brain_fixed.nii.gz"),
        _save(image.values, image, work_dir / "brain_moving.nii.gz"),
        stages=stages,
        winsor_percentiles=winsor_percentiles,
        out_prefix=work_dir / "brain_",
        seed=seed,
        n_threads=n_threads,
        initial=write_linear(start, work_dir / "brain_start.txt"),
        fixed_mask=_save(
            (where.values > 0.5).astype(np.uint8), where, work_dir / "brain_where.nii.gz"
        ),
    )
    matrix = read_linear(found.forward)
    seen = anatomy.sample_through(
        image.values, image.affine, matrix, pattern.values.shape, pattern.affine
    )
    inside = where.values > 0.5
    return float(np.corrcoef(seen[inside], pattern.values[inside])[0, 1]), matrix


def _bring(image: Any, template_to_head: NDArray[np.float64], head: _Volume) -> NDArray[Any]:
    """Template image on the head's grid."""
    source = _load(image)
    back = np.asarray(np.linalg.inv(template_to_head), dtype=np.float64)
    return anatomy.sample_through(
        source.values, source.affine, back, head.values.shape, head.affine
    )


def _mask_near(
    head: _Volume, template: Template, pose: NDArray[np.float64], search: BrainSearch
) -> NDArray[np.bool_]:
    """Mask from intensity and morphology around the template's, on a grid of its own.

    The radii are a few millimetres, so a coarse image is interpolated first: on voxels of 3 mm an
    opening of 2 mm would do nothing.
    """
    fine = head.at(search.mask_grid_mm)
    expected = _bring(template.mask, pose, fine) > 0.5
    flat = anatomy.flatten(
        fine.values,
        expected,
        fine.voxel_mm,
        width_mm=search.flatten_mm,
        cap=search.flatten_cap,
    )
    white = _bring(template.wm if template.wm is not None else template.t1w, pose, fine)
    mask = anatomy.brain_from_prior(
        flat,
        expected,
        fine.voxel_mm,
        white_level=float(np.median(flat[white > search.white_share * white.max()])),
        low=search.brain_range[0],
        high=search.brain_range[1],
        reach_mm=search.mask_reach_mm,
        core_mm=search.mask_core_mm,
        opening_mm=search.mask_opening_mm,
        closing_mm=search.mask_closing_mm,
    )
    back = anatomy.sample_through(
        mask.astype(np.float32), fine.affine, np.eye(4), head.values.shape, head.affine
    )
    return anatomy.largest_component(back > 0.5)


def bring_priors(
    template: Template,
    template_to_t1w: Path,
    t1w: Path,
    *,
    work_dir: Path,
    n_threads: int,
) -> dict[str, Path]:
    """Tissue maps of a template on the grid of a T1w image.

    Parameters
    ----------
    template : Template
        Of any resolution.
    template_to_t1w : Path
        Linear transform file from template to T1w coordinates, such as that of a brain
        extraction.
    t1w : Path
        Image that gives the grid.
    work_dir : Path
        Existing folder for the files.
    n_threads : int
        ITK threads.

    Returns
    -------
    dict of str to Path
        Probabilities of "CSF", "GM" and "WM", 0 to 1.

    Raises
    ------
    RunError
        If ANTs fails.
    """
    held = template.save(work_dir)
    return {
        tissue: apply_transforms(
            held[tissue.lower()],
            t1w,
            [template_to_t1w],
            work_dir / f"brought_{tissue}.nii.gz",
            interpolation="Linear",
            n_threads=n_threads,
            invert=[True],
        )
        for tissue in TISSUES
    }


def segment_tissues(
    t1w: Path,
    mask: Path,
    out_files: dict[str, Path],
    *,
    priors: dict[str, Path] | None,
    prior_weight: float,
    smoothness: float,
    iterations: int,
    work_dir: Path,
    n_threads: int,
) -> dict[str, Path]:
    """Probability of cerebrospinal fluid, grey and white matter in each voxel of a brain.

    Parameters
    ----------
    t1w : Path
        Bias-corrected T1-weighted image.
    mask : Path
        Brain mask on its grid.
    out_files : dict of str to Path
        Where the maps of "CSF", "GM" and "WM" go, float32.
    priors : dict of str to Path or None
        Expected probabilities of the three on the same grid, such as the template's brought
        here; None starts from three clusters of intensity.
    prior_weight : float
        Weight of the priors, 0 to 1; used only with them.
    smoothness : float
        Weight of the Markov random field.
    iterations : int
        Most iterations.
    work_dir : Path
        Existing folder for intermediate files.
    n_threads : int
        ITK threads.

    Returns
    -------
    dict of str to Path
        `out_files`; in the mask the three add up to 1, outside they are 0.

    Raises
    ------
    DataError
        If the mask is empty, or white matter is not the brightest tissue.
    RunError
        If ANTs fails.

    Notes
    -----
    Atropos: Avants et al. 2011, doi:10.1007/s12021-011-9109-y.
    """
    import nibabel as nib

    inside = _load(nib.load(mask)).values > 0
    if not inside.any():
        raise DataError(f"{mask} is empty; expected a brain mask with the grid of {t1w}")
    start = "KMeans[3]"
    if priors is not None:
        for number, tissue in enumerate(TISSUES, start=1):
            nib.save(nib.load(priors[tissue]), work_dir / f"prior{number}.nii.gz")
        start = f"PriorProbabilityImages[3,{work_dir}/prior%d.nii.gz,{prior_weight:g}]"
    arguments = [
        *("-d", "3", "-a", str(t1w), "-x", str(mask), "-i", start, "-v", "0", "-r", "0"),
        *("-m", f"[{smoothness:g},1x1x1]", "-c", f"[{iterations},0]", "-p", "Socrates[1]"),
        *("-o", f"[{work_dir}/tissues.nii.gz,{work_dir}/tissue%d.nii.gz]"),
    ]
    run_ants("Atropos", arguments, n_threads=n_threads)
    image = _load(nib.load(t1w))
    maps = [_load(nib.load(work_dir / f"tissue{number}.nii.gz")).values for number in (1, 2, 3)]
    shares = anatomy.share_out(np.stack(maps, axis=-1), inside)
    levels = [float(np.average(image.values, weights=shares[..., k])) for k in range(3)]
    if not levels[0] < levels[1] < levels[2]:
        raise DataError(
            f"{t1w}: mean intensities of CSF, GM and WM are {np.round(levels, 1).tolist()}; "
            "expected them to rise as in a T1-weighted image. See whether the image is one"
        )
    for number, tissue in enumerate(TISSUES):
        _save(shares[..., number], image, out_files[tissue])
    return out_files
