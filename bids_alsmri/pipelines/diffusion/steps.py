"""What the nodes of the diffusion pipeline compute: arrays and tables, composed of numerics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from bids_alsmri.errors import DataError
from bids_alsmri.numerics.denoising import (
    denoise_local_pca,
    denoise_mppca,
    estimate_noise_sigma,
    smallest_patch_radius,
)
from bids_alsmri.numerics.diffusion import TensorFit, fit_tensor
from bids_alsmri.numerics.diffusion_quality import (
    check_gradient_orientation,
    neighbouring_dwi_correlation,
    signal_to_noise,
    summarise_tensor_fit,
)
from bids_alsmri.numerics.gradients import (
    select_tensor_volumes,
)
from bids_alsmri.numerics.median import median_filter
from bids_alsmri.numerics.regions import summarise_regions
from bids_alsmri.numerics.resampling import resolution_grid
from bids_alsmri.numerics.unringing import remove_ringing
from bids_alsmri.pipelines.diffusion.series import SeriesTable

Float = NDArray[np.floating[Any]]

# with 27 voxels in a patch the spectrum of the noise is too coarse for its edge to be found
SMALLEST_AUTOMATIC_RADIUS = 2
Facts = dict[str, Any]


def measure(name: str, value: float) -> Facts:
    """One measure of quality, as the nodes hand it on.

    Parameters
    ----------
    name : str
        Name in ``quality.json``.
    value : float
        Value in the unit stated there.

    Returns
    -------
    dict
        Item of the list ``measures``.
    """
    return {"measure": name, "value": None if not np.isfinite(value) else float(value)}


def draft_brain_mask(b0: Float, *, median_radius: int, passes: int) -> NDArray[np.bool_]:
    """Rough brain mask of a b=0 image, for denoising and motion correction.

    Parameters
    ----------
    b0 : (X, Y, Z) array
        Mean signal without diffusion weighting.
    median_radius : int
        Radius of the median filter, in voxels.
    passes : int
        How often it is applied.

    Returns
    -------
    (X, Y, Z) array of bool
        Brain with a margin of one voxel.

    Raises
    ------
    DataError
        If it holds less than 1 % or more than 90 % of the image.

    Notes
    -----
    dipy's ``median_otsu`` (Garyfallidis 2014, doi:10.3389/fninf.2014.00008) with its Otsu's
    threshold and a faster median filter.
    """
    from dipy.segment.threshold import otsu
    from scipy.ndimage import binary_dilation

    smooth = b0
    for _ in range(passes):
        smooth = median_filter(smooth, radius=median_radius)
    mask = binary_dilation(smooth > otsu(smooth))
    share = float(np.mean(mask))
    if not 0.01 < share < 0.9:
        raise DataError(
            f"the brain mask of the mean b=0 covers {share:.1%} of the image; expected 1 % to "
            "90 %; look at the b=0 volumes: is there a brain, and is b=0 what the bval file says?"
        )
    return np.asarray(mask, dtype=np.bool_)


def denoise_series(
    data: Float,
    mask: NDArray[np.bool_],
    table: SeriesTable,
    *,
    method: Literal["mppca", "local_pca", "off"],
    patch_radius: int | None,
    patch_step: int,
    noise_smoothing_voxels: float,
    noise_threshold_sd: float | None,
    n_threads: int,
) -> tuple[Float, Float, Facts]:
    """Series without thermal noise inside a mask, unchanged outside.

    Parameters
    ----------
    data : (X, Y, Z, N) array
        Signal.
    mask : (X, Y, Z) array of bool
        Where to denoise.
    table : SeriesTable
        Weighting of the volumes.
    method : {'mppca', 'local_pca', 'off'}
        Threshold from random-matrix theory, or from a noise estimate.
    patch_radius : int or None
        Radius of the patch in voxels; None takes the smallest that holds more voxels than there
        are volumes.
    patch_step : int
        Distance between the centres of patches, in voxels.
    noise_smoothing_voxels : float
        For ``local_pca``: standard deviation of the Gaussian that smooths the noise map, in
        voxels; its window is 3 voxels wide.
    noise_threshold_sd : float or None
        For ``local_pca``: components with a smaller standard deviation, over that of the noise, are
        taken off; None takes the edge that random-matrix theory gives.
    n_threads : int
        Threads.

    Returns
    -------
    denoised : (X, Y, Z, N) array
        Signal.
    noise : (X, Y, Z) array
        Standard deviation of the noise that was found; for ``off``, the estimate that ``local_pca``
        would take.
    facts : dict
        Measures and warnings for the report.

    Raises
    ------
    NumericsError
        If there are too few volumes for the method.
    """
    radius = patch_radius or max(SMALLEST_AUTOMATIC_RADIUS, smallest_patch_radius(data.shape[3]))
    estimate = estimate_noise_sigma(
        data, mask, b0_mask=table.is_b0, patch_radius=1, smoothing_voxels=noise_smoothing_voxels
    )
    warnings = doubts_of_noise(table)
    if method == "off":
        facts = {"measures": noise_measures(data, estimate, mask, table), "warnings": warnings}
        return data, estimate, {**facts, "notes": ["not denoised (setting)"]}
    if method == "mppca":
        result = denoise_mppca(
            data,
            mask,
            patch_radius=radius,
            stride=patch_step,
            reconstruct="average",
            n_threads=n_threads,
        )
    else:
        result = denoise_local_pca(
            data,
            mask,
            noise_sigma=estimate,
            patch_radius=radius,
            tau_factor=noise_threshold_sd,
            stride=patch_step,
            reconstruct="average",
            n_threads=n_threads,
        )
    denoised = np.where(mask[..., np.newaxis], result.signal, data)
    facts = {
        "measures": [
            *noise_measures(data, result.noise_sigma, mask, table),
            measure("denoising_components", float(np.median(result.n_components[mask]))),
        ],
        "warnings": warnings,
    }
    return denoised, result.noise_sigma, facts


def doubts_of_noise(table: SeriesTable) -> list[str]:
    """Warning where the noise of neighbouring voxels is not independent.

    Parameters
    ----------
    table : SeriesTable
        Tells whether the scanner interpolated the images.

    Returns
    -------
    list of str
        Empty, or one warning.
    """
    if table.interpolation is None:
        return []
    return [
        f"the scanner interpolated the images ({table.interpolation}), so that the noise of "
        "neighbouring voxels is correlated, which denoising and noise estimate do not allow for: "
        "noise_sd, b0_snr and dwi_snr are not valid, and noise stays in the series. Export "
        "the series at its acquired matrix if you can"
    ]


def noise_measures(
    data: Float, noise: Float, mask: NDArray[np.bool_], table: SeriesTable
) -> list[Facts]:
    """Level of the noise, and signal over noise of the series as acquired.

    Parameters
    ----------
    data : (X, Y, Z, N) array
        Signal before denoising.
    noise : (X, Y, Z) array
        Its standard deviation, found from residuals and never from the background.
    mask : (X, Y, Z) array of bool
        Brain.
    table : SeriesTable
        Weighting of the volumes.

    Returns
    -------
    list of dict
        Measures for the report.
    """
    inside, sigma = data[mask], noise[mask]
    return [
        measure("noise_sd", float(np.median(sigma))),
        measure("b0_snr", signal_to_noise(inside[:, table.is_b0], sigma)),
        measure("dwi_snr", signal_to_noise(inside[:, ~table.is_b0], sigma)),
    ]


def unring_series(
    data: Float, table: SeriesTable, *, n_points: int, is_wanted: bool, n_threads: int
) -> tuple[Float, Facts]:
    """Series without Gibbs ringing, where the acquisition allows to take it off.

    Parameters
    ----------
    data : (X, Y, Z, N) array
        Signal.
    table : SeriesTable
        Tells the slice axis, the partial Fourier factor and interpolation by the scanner.
    n_points : int
        Neighbours on either side over which the variation of a voxel is summed.
    is_wanted : bool
        Whether it was asked for.
    n_threads : int
        Slices worked on at once.

    Returns
    -------
    data : (X, Y, Z, N) array
        Signal; the same array where nothing was done.
    facts : dict
        What was done, for the report.

    Notes
    -----
    Local subvoxel shifts (Kellner 2016, doi:10.1002/mrm.26054). The method presumes a symmetric
    k-space: with partial Fourier the ringing has another period along the phase axis
    (Lee 2021, doi:10.1002/mrm.28830), and on images that the scanner interpolated along both
    in-plane axes, so the step is left out there.
    """
    if not is_wanted:
        return data, {"notes": ["Gibbs ringing was left in (setting)"]}
    if table.interpolation is not None:
        return data, {
            "notes": [
                "Gibbs ringing was left in: the scanner interpolated the images "
                f"({table.interpolation}), so that it has another period than the method knows"
            ]
        }
    if table.partial_fourier is not None and table.partial_fourier < 1:
        return data, {
            "notes": [
                f"Gibbs ringing was left in: partial Fourier {table.partial_fourier:g} changes its "
                "period, which the method does not know"
            ]
        }
    notes = ["Gibbs ringing was taken off"]
    if table.partial_fourier is None:
        notes = [
            "Gibbs ringing was taken off on the assumption of a full k-space: the sidecar "
            "lacks PartialFourier"
        ]
    cleaned = remove_ringing(
        data, slice_axis=table.slice_axis, n_points=n_points, threads=n_threads
    )
    return cleaned.astype(np.float32, copy=False), {"notes": notes}


@dataclass(frozen=True)
class Grid:
    """Where an output image lies.

    Parameters
    ----------
    shape : (3,) tuple of int
        Voxels.
    affine : (4, 4) array
        Voxel to world, in mm.
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]


def brain_grid(
    mask: NDArray[np.bool_], affine: Float, *, voxel_mm: float, margin_mm: float
) -> Grid:
    """Grid of another voxel size over the box of a mask.

    Parameters
    ----------
    mask : (X, Y, Z) array of bool
        Brain.
    affine : (4, 4) array
        Of the mask.
    voxel_mm : float
        Edge of the new voxels, in mm.
    margin_mm : float
        Kept around the box, in mm.

    Returns
    -------
    Grid
        Along the axes of the mask's image.
    """
    edges_mm = np.linalg.norm(affine[:3, :3], axis=0)
    inside = np.argwhere(mask)
    margin = np.ceil(margin_mm / edges_mm).astype(int)
    low = np.maximum(inside.min(axis=0) - margin, 0)
    high = np.minimum(inside.max(axis=0) + margin + 1, mask.shape)
    moved = affine.copy()
    moved[:3, 3] = affine[:3, :3] @ low + affine[:3, 3]
    a, b, c = (int(n) for n in high - low)
    shape, grid = resolution_grid((a, b, c), moved, resolution_mm=voxel_mm)
    return Grid(shape, grid)


@dataclass(frozen=True)
class TensorChoices:
    """How the tensor is fitted.

    Parameters
    ----------
    max_b_s_mm2 : float
        Shells up to here are used, or the lowest one where there is none.
    b0_threshold_s_mm2, shell_gap_s_mm2 : float
        At or below it b counts as 0; largest step between neighbours of one shell.
    method : {'ols', 'wls', 'robust'}
        Estimator.
    outlier_cutoff_sd : float
        For ``robust``: residuals beyond it are left out, in standard deviations.
    largest_mm2_s : float
        Largest eigenvalue that may be.
    """

    max_b_s_mm2: float
    b0_threshold_s_mm2: float
    shell_gap_s_mm2: float
    method: str
    outlier_cutoff_sd: float
    largest_mm2_s: float

    def fit(self, signal: Float, mask: NDArray[np.bool_], table: SeriesTable) -> TensorFit:
        """Tensor in every voxel of a mask, from the shells that are chosen."""
        chosen, _ = self.volumes(table)
        return self.fit_chosen(signal[..., chosen], mask, table)

    def fit_chosen(self, signal: Float, mask: NDArray[np.bool_], table: SeriesTable) -> TensorFit:
        """Tensor from a series that holds only the volumes of the chosen shells."""
        chosen, _ = self.volumes(table)
        return fit_tensor(
            signal,
            table.gradients.subset(chosen),
            mask,
            method=self.method,
            outlier_cutoff_sd=self.outlier_cutoff_sd,
            noise_sigma=None,
            largest_mm2_s=self.largest_mm2_s,
        )

    def volumes(self, table: SeriesTable) -> tuple[NDArray[np.bool_], str]:
        """Volumes that the tensor is fitted to, and the sentence that says so."""
        return select_tensor_volumes(
            table.b_values_s_mm2,
            max_b_s_mm2=self.max_b_s_mm2,
            b0_threshold_s_mm2=self.b0_threshold_s_mm2,
            shell_gap_s_mm2=self.shell_gap_s_mm2,
        )


@dataclass(frozen=True)
class OrientationLimits:
    """When another gradient table is said to fit better.

    Parameters
    ----------
    min_fa : float
        Fibres are followed where FA is at least this.
    max_bend_deg : float
        Largest bend per step, in degrees.
    min_gain : float
        Share by which fibres must get longer.
    n_seeds : int
        Voxels that start a fibre.
    """

    min_fa: float
    max_bend_deg: float
    min_gain: float
    n_seeds: int


def tensor_facts(
    fit: TensorFit,
    signal: Float,
    mask: NDArray[np.bool_],
    affine: Float,
    table: SeriesTable,
    *,
    bvec_to_world: Float,
    choices: TensorChoices,
    limits: OrientationLimits,
) -> Facts:
    """Measures of a fit's quality, and warnings about its gradient table.

    Parameters
    ----------
    fit : TensorFit
        On the grid of `mask`.
    signal : (X, Y, Z, N) array
        The series that was fitted.
    mask : (X, Y, Z) array of bool
        Brain.
    affine : (4, 4) array
        Of the grid.
    table : SeriesTable
        Weighting of the series.
    bvec_to_world : (3, 3) array
        From the frame of the acquired series' bvec file to the world of the grid.
    choices : TensorChoices
        How it was fitted.
    limits : OrientationLimits
        When another gradient table is said to fit better.

    Returns
    -------
    dict
        Measures, warnings and notes.
    """
    chosen, sentence = choices.volumes(table)
    summary = summarise_tensor_fit(fit, mask, n_volumes=int(chosen.sum()))
    inside = signal[mask]
    coherence = neighbouring_dwi_correlation(inside, table.gradients)
    orientation = check_gradient_orientation(
        fit.v1,
        np.where(mask, fit.fa, 0),
        affine,
        bvec_to_world=bvec_to_world,
        min_fa=limits.min_fa,
        max_bend_deg=limits.max_bend_deg,
        min_gain=limits.min_gain,
        n_seeds=limits.n_seeds,
    )
    return {
        "measures": [
            measure("neighbouring_dwi_correlation", float(np.nanmean(coherence))),
            measure("tensor_residual", summary.residual_percent),
            measure("failed_voxel_share", summary.failed_share),
            measure("clipped_voxel_share", summary.clipped_share),
            measure("gradient_gain", orientation.gain),
        ],
        "warnings": [orientation.warning] if orientation.warning else [],
        "notes": [sentence],
    }


def require_overlap(overlap: float, least: float, name: str) -> None:
    """Raise where a registration has failed.

    Parameters
    ----------
    overlap : float
        Dice coefficient of the two regions after registration.
    least : float
        From which it counts as good.
    name : str
        Name of the measure.

    Raises
    ------
    DataError
        If it is lower.
    """
    if overlap < least:
        raise DataError(
            f"{name.replace('_', ' ')} is {overlap:.2f} after registration; expected at least "
            f"{least:g}. Look at the images: do both show the same head, upright, with the brain "
            "in view? If the overlap is low for a known reason, lower --diffusion-least-overlap"
        )


def tissue_separation(fa: Float, wm: Float, gm: Float, mask: NDArray[np.bool_]) -> float:
    """How well the T1w's tissues separate FA, which falls where the two images are not aligned.

    Parameters
    ----------
    fa : (X, Y, Z) array
        Fractional anisotropy, 0 to 1.
    wm, gm : (X, Y, Z) array
        Probability of white and grey matter on the same grid; a voxel belongs to one from 0.5.
    mask : (X, Y, Z) array of bool
        Brain that the series covers.

    Returns
    -------
    float
        Probability that FA is higher in a voxel of white than in one of grey matter: the area
        under the receiver operating characteristic, 0.5 by chance; NaN where a tissue is missing.

    Examples
    --------
    >>> fa, wm = np.array([[[0.5, 0.1, 0.3, 0.2]]]), np.array([[[1.0, 0.0, 1.0, 0.0]]])
    >>> tissue_separation(fa, wm, 1.0 - wm, wm >= 0.0)
    1.0
    """
    inside = mask & np.isfinite(fa)
    white, grey = fa[inside & (wm >= 0.5)], fa[inside & (gm >= 0.5)]
    if not white.size or not grey.size:
        return float("nan")
    ranks = stats.mannwhitneyu(white, grey, method="asymptotic").statistic
    return float(ranks / white.size / grey.size)


def separation_facts(separation: float, *, least: float) -> Facts:
    """Measure of the separation of FA by tissue, and a warning where it is low.

    Parameters
    ----------
    separation : float
        See :func:`tissue_separation`.
    least : float
        From which the alignment counts as good.

    Returns
    -------
    dict
        Measures and warnings.
    """
    warnings = []
    if not np.isfinite(separation):
        warnings.append(
            "the alignment of series and T1w could not be judged: the T1w's grey or white matter, "
            "or the tensor in it, is missing where the two overlap. Look at both registrations"
        )
    elif separation < least:
        warnings.append(
            f"FA is higher in white than in grey matter in {100 * separation:.0f} % of pairs of "
            f"voxels; expected at least {100 * least:.0f} %. The diffusion series and the T1w are "
            "not aligned, or their tissues are wrong: look at both registrations, and do not use "
            "maps in template space or tables before they are right"
        )
    return {"measures": [measure("tissue_separation", separation)], "warnings": warnings}


def coverage_facts(covered: NDArray[np.bool_], brain: NDArray[np.bool_], *, least: float) -> Facts:
    """How much of the brain the series covers, and a warning where much is missing.

    Parameters
    ----------
    covered : (X, Y, Z) array of bool
        Brain that all volumes cover.
    brain : (X, Y, Z) array of bool
        The whole brain.
    least : float
        Share of the brain below which to warn, 0 to 1.

    Returns
    -------
    dict
        Measures and warnings.
    """
    n_brain = int(np.count_nonzero(brain))
    share = float(np.count_nonzero(covered & brain) / n_brain) if n_brain else float("nan")
    warnings = []
    if share < least:
        warnings.append(
            f"The diffusion series covers {share:.1%} of the brain; expected at least {least:.0%}. "
            "The rest does not enter the maps and tables, so values of tissues describe another "
            "part of the brain than those of other participants: look where the series ends"
        )
    return {"measures": [measure("brain_coverage", share)], "warnings": warnings}


def measure_tissues(
    maps: Mapping[str, tuple[Float, str]],
    tissues: Mapping[str, Float],
    mask: NDArray[np.bool_],
    *,
    min_probability: float,
) -> list[Facts]:
    """Maps summarised over tissues, in long form.

    Parameters
    ----------
    maps : mapping
        Map and unit by the name of the measure.
    tissues : mapping of array
        Probability of each tissue on the grid of the maps.
    mask : (X, Y, Z) array of bool
        Brain that the series covers; voxels outside it, or without a tensor, do not count.
    min_probability : float
        A voxel belongs to a tissue where its probability is at least this.

    Returns
    -------
    list of dict
        Rows with region, measure, value, unit and number of voxels that count.
    """
    labels = np.zeros(next(iter(tissues.values())).shape, dtype=np.int16)
    for index, probability in enumerate(tissues.values(), start=1):
        labels[mask & (probability >= min_probability)] = index
    rows = []
    for name, (values, unit) in maps.items():
        summary = summarise_regions(values, labels, labels=list(range(1, len(tissues) + 1)))
        for index, tissue in enumerate(tissues):
            for statistic in ("mean", "sd", "median"):
                rows.append(
                    {
                        "region": tissue,
                        "side": "n/a",
                        "measure": f"{name}_{statistic}",
                        "value": float(getattr(summary, statistic)[index]),
                        "unit": unit,
                        "n": int(summary.n_voxels[index]),
                    }
                )
    return rows
