"""Settings of the anatomical pipeline, and its place in the registry."""

from __future__ import annotations

from typing import Any

from bids_alsmri.engine.pipeline import Pipeline
from bids_alsmri.options import SettingsModel, setting

MEASURED = "benchmarks/registration.py"
SCRIPT = "antsRegistrationSyN.sh of ANTs"
CHOSEN = "chosen on phantom heads and the real head of tests/data"


class AnatomicalSettings(SettingsModel):
    """Settings of the anatomical pipeline."""

    bias_shrink_factor: int = setting(
        4,
        unit="1",
        ge=1,
        le=8,
        source="tustison2010",
        help="Down-sampling for the estimate of the receive bias.",
    )
    bias_iterations: tuple[int, ...] = setting(
        (50, 50, 50),
        unit="1",
        source="tustison2010",
        help="Most iterations of the bias correction at each level.",
    )
    bias_convergence: float = setting(
        1e-4,
        unit="1",
        gt=0,
        le=0.1,
        source="tustison2010",
        help="Change of the bias field at which a level ends.",
    )
    bias_spline_mm: float = setting(
        100.0,
        unit="mm",
        ge=20,
        le=400,
        source="tustison2010",
        help="Distance of the bias field's control points at the first level.",
    )
    head_grid_mm: float = setting(
        2.0,
        unit="mm",
        ge=1,
        le=5,
        source=CHOSEN,
        help="Voxel size at which the head is told from the background.",
    )
    head_threshold_share: float = setting(
        0.3,
        unit="1",
        gt=0,
        le=1,
        source=CHOSEN,
        help="Share of Otsu's threshold from which a voxel belongs to the head; low, since deep "
        "brain can be half as bright as cortex near the coil.",
    )
    head_smoothing_voxels: float = setting(
        0.5,
        unit="voxel",
        ge=0,
        le=5,
        source=CHOSEN,
        help="Standard deviation of the Gaussian that smooths the head before that threshold.",
    )
    head_depth_mm: float = setting(
        140.0,
        unit="mm",
        ge=80,
        le=250,
        source=CHOSEN,
        help="Height of the box under the vertex in which the brain is sought.",
    )
    brain_reach_mm: float = setting(
        50.0,
        unit="mm",
        ge=5,
        le=150,
        source=CHOSEN,
        help="How far the brain's centre may lie from that of the box.",
    )
    brain_pitches_deg: tuple[float, ...] = setting(
        (-40.0, -30.0, -20.0, -10.0, 0.0, 10.0, 20.0, 30.0, 40.0),
        unit="degree",
        source=CHOSEN,
        help="Nods of the head that are tried.",
    )
    brain_scales: tuple[float, ...] = setting(
        (0.8, 0.9, 1.0), unit="1", source=CHOSEN, help="Sizes of the head that are tried."
    )
    brain_grids_mm: tuple[float, ...] = setting(
        (8.0, 4.0),
        unit="mm",
        source=CHOSEN,
        help="Voxel sizes at which the brain's pose is sought and refined, coarse to fine.",
    )
    brain_starts: int = setting(
        2, unit="1", ge=1, le=20, source=CHOSEN, help="Best poses that are refined."
    )
    brain_refine_iterations: int = setting(
        30,
        unit="1",
        ge=1,
        le=1000,
        source=CHOSEN,
        help="Most iterations of each refinement of the brain's pose.",
    )
    brain_rim_mm: float = setting(
        10.0,
        unit="mm",
        ge=2,
        le=30,
        source=CHOSEN,
        help="Width around the template's brain where the image should be dark.",
    )
    brain_flatten_mm: float = setting(
        20.0,
        unit="mm",
        ge=5,
        le=100,
        source=CHOSEN,
        help="Width of the Gaussian that takes the bias out for the search.",
    )
    brain_flatten_cap: float = setting(
        1.8,
        unit="local mean",
        gt=1,
        le=10,
        source=CHOSEN,
        help="Intensity above which a voxel counts no more in the local mean, so that fat does not "
        "darken its neighbours.",
    )
    brain_search_range: tuple[float, float] = setting(
        (0.35, 1.6),
        unit="local mean",
        source=CHOSEN,
        help="Intensities that may be brain in the search.",
    )
    brain_opening_mm: float = setting(
        4.0,
        unit="mm",
        ge=0,
        le=20,
        source=CHOSEN,
        help="Radius of what the search keeps of the head.",
    )
    brain_depth_mm: float = setting(
        10.0,
        unit="mm",
        ge=0,
        le=40,
        source=CHOSEN,
        help="Least half-thickness of what the search keeps of the head.",
    )
    brain_range: tuple[float, float] = setting(
        (0.45, 1.35),
        unit="white matter",
        source=CHOSEN,
        help="Intensities that may be brain in the mask.",
    )
    brain_white_share: float = setting(
        0.8,
        unit="1",
        gt=0,
        le=1,
        source=CHOSEN,
        help="Share of the template's highest probability of white matter from which a voxel gives "
        "the level of white matter.",
    )
    mask_grid_mm: float = setting(
        1.5,
        unit="mm",
        ge=0.5,
        le=3,
        source=CHOSEN,
        help="Voxel size at which the mask is shaped.",
    )
    mask_reach_mm: float = setting(
        6.0,
        unit="mm",
        ge=0,
        le=30,
        source=CHOSEN,
        help="How far outside the template's brain the mask may reach.",
    )
    mask_core_mm: float = setting(
        10.0,
        unit="mm",
        ge=0,
        le=40,
        source=CHOSEN,
        help="How deep inside the template's brain everything belongs to the mask.",
    )
    mask_opening_mm: float = setting(
        2.0,
        unit="mm",
        ge=0,
        le=10,
        source=CHOSEN,
        help="Radius of the opening that cuts bridges to the skull.",
    )
    mask_closing_mm: float = setting(
        6.0,
        unit="mm",
        ge=0,
        le=20,
        source=CHOSEN,
        help="Radius of the closing that takes sulci into the mask.",
    )
    stripped_ratio: float = setting(
        1.35,
        unit="1",
        gt=1,
        le=2,
        source="a head's upper box holds about twice its brain",
        help="Volume of the head over that of the template's brain below which the image is taken "
        "for a brain without a head.",
    )
    least_overlap: float = setting(
        0.8,
        unit="1",
        gt=0,
        le=1,
        source=CHOSEN,
        help="Dice overlap with the template's mask below which the brain is refused.",
    )
    tissue_iterations: int = setting(
        5, unit="1", ge=1, le=50, source="avants2011", help="Most iterations of the segmentation."
    )
    tissue_smoothness: float = setting(
        0.1,
        unit="1",
        ge=0,
        le=1,
        source="avants2011",
        help="Weight of the Markov random field in the segmentation.",
    )
    tissue_prior_weight: float = setting(
        0.25,
        unit="1",
        ge=0,
        le=1,
        source="benchmarks/tissues.py",
        help="Weight of the template's tissues in the segmentation; 0 takes the T1w alone.",
    )
    affine_iterations: tuple[int, ...] = setting(
        (50, 25), unit="1", source=MEASURED, help="Iterations per level of the affine registration."
    )
    affine_shrink_factors: tuple[int, ...] = setting(
        (4, 2), unit="1", source=MEASURED, help="Down-sampling per level of it."
    )
    affine_smoothing_mm: tuple[float, ...] = setting(
        (4.0, 2.0), unit="mm", source=MEASURED, help="Smoothing per level of it."
    )
    affine_bins: int = setting(
        32, unit="1", ge=8, le=256, source="mattes2003", help="Bins of the mutual information."
    )
    affine_sampling: float = setting(
        1.0,
        unit="1",
        gt=0,
        le=1,
        source=MEASURED,
        help="Share of voxels that the mutual information is computed from.",
    )
    affine_step: float = setting(
        0.1,
        unit="1",
        gt=0,
        le=1,
        source=SCRIPT,
        help="Gradient step of rigid and affine registrations.",
    )
    registration_convergence: float = setting(
        1e-6,
        unit="1",
        gt=0,
        le=0.01,
        source=SCRIPT,
        help="Slope of the metric below which a level of a registration ends.",
    )
    registration_convergence_window: int = setting(
        10,
        unit="1",
        ge=2,
        le=100,
        source=SCRIPT,
        help="Iterations over which that slope is taken.",
    )
    winsor_percentiles: tuple[float, float] = setting(
        (0.5, 99.5),
        unit="%",
        source=SCRIPT,
        help="Percentiles to which darker and brighter voxels are set in registrations.",
    )
    template_registration_mm: float = setting(
        2.0,
        unit="mm",
        ge=1,
        le=4,
        source=MEASURED,
        help="Voxel size of the template to which the T1w is registered.",
    )
    template_rim_mm: float = setting(
        6.0,
        unit="mm",
        ge=0,
        le=50,
        source=MEASURED,
        help="Rim around the template's brain that takes part in the registration to it.",
    )
    syn_iterations: tuple[int, ...] = setting(
        (40, 20, 0), unit="1", source=MEASURED, help="Iterations per level of SyN."
    )
    syn_shrink_factors: tuple[int, ...] = setting(
        (4, 2, 1), unit="1", source=MEASURED, help="Down-sampling per level of SyN."
    )
    syn_smoothing_mm: tuple[float, ...] = setting(
        (3.4, 1.7, 0.0), unit="mm", source=MEASURED, help="Smoothing per level of SyN."
    )
    syn_radius: int = setting(
        2,
        unit="voxel",
        ge=1,
        le=8,
        source="avants2008",
        help="Radius of SyN's local cross-correlation.",
    )
    syn_step: float = setting(
        0.2, unit="voxel", gt=0, le=1, source="avants2008", help="Gradient step of SyN."
    )
    syn_update_smoothing: float = setting(
        3.0,
        unit="voxel2",
        ge=0,
        le=20,
        source=SCRIPT,
        help="Variance of the Gaussian that smooths each update of SyN.",
    )
    syn_total_smoothing: float = setting(
        0.0,
        unit="voxel2",
        ge=0,
        le=20,
        source=SCRIPT,
        help="Variance of the Gaussian that smooths the whole field of SyN.",
    )
    template_resolution_mm: float = setting(
        1.0,
        unit="mm",
        ge=0.5,
        le=4,
        stage="apply",
        source="fonov2011",
        help="Voxel size of the T1w in template space.",
    )
    registration_threads: int = setting(
        1,
        unit="threads",
        ge=1,
        le=64,
        source=MEASURED,
        help="Threads of the registrations; their results depend on them.",
    )

    @property
    def brain_search(self) -> dict[str, Any]:
        """Constants of the brain extraction, by the names of its record."""
        return {
            "head_grid_mm": self.head_grid_mm,
            "head_threshold_share": self.head_threshold_share,
            "head_smoothing_voxels": self.head_smoothing_voxels,
            "head_depth_mm": self.head_depth_mm,
            "reach_mm": self.brain_reach_mm,
            "pitches_deg": list(self.brain_pitches_deg),
            "scales": list(self.brain_scales),
            "grids_mm": list(self.brain_grids_mm),
            "n_starts": self.brain_starts,
            "refine_iterations": self.brain_refine_iterations,
            "refine_bins": self.affine_bins,
            "refine_step": self.affine_step,
            "refine_convergence": self.registration_convergence,
            "refine_convergence_window": self.registration_convergence_window,
            "winsor_percentiles": list(self.winsor_percentiles),
            "rim_mm": self.brain_rim_mm,
            "flatten_mm": self.brain_flatten_mm,
            "flatten_cap": self.brain_flatten_cap,
            "tissue_range": list(self.brain_search_range),
            "opening_mm": self.brain_opening_mm,
            "depth_mm": self.brain_depth_mm,
            "brain_range": list(self.brain_range),
            "white_share": self.brain_white_share,
            "mask_grid_mm": self.mask_grid_mm,
            "mask_reach_mm": self.mask_reach_mm,
            "mask_core_mm": self.mask_core_mm,
            "mask_opening_mm": self.mask_opening_mm,
            "mask_closing_mm": self.mask_closing_mm,
            "stripped_ratio": self.stripped_ratio,
            "least_overlap": self.least_overlap,
        }

    @property
    def template_stages(self) -> list[dict[str, Any]]:
        """Affine, then SyN, by the names of the registration's record."""
        ending = {
            "convergence": self.registration_convergence,
            "convergence_window": self.registration_convergence_window,
        }
        affine = {
            "transform": "affine",
            "metric": "mi",
            "metric_parameter": self.affine_bins,
            "sampling": self.affine_sampling,
            "gradient_step": self.affine_step,
            "iterations": list(self.affine_iterations),
            "shrink_factors": list(self.affine_shrink_factors),
            "smoothing_mm": list(self.affine_smoothing_mm),
            **ending,
        }
        syn = {
            "transform": "syn",
            "metric": "cc",
            "metric_parameter": self.syn_radius,
            "sampling": 1.0,  # local correlation is taken at every voxel
            "gradient_step": self.syn_step,
            "iterations": list(self.syn_iterations),
            "shrink_factors": list(self.syn_shrink_factors),
            "smoothing_mm": list(self.syn_smoothing_mm),
            **ending,
            "update_smoothing": self.syn_update_smoothing,
            "total_smoothing": self.syn_total_smoothing,
        }
        return [affine, syn]


def kept_apart(settings: AnatomicalSettings) -> tuple[str, ...]:
    """Entities that keep T1-weighted images apart: none, one per session is expected.

    Parameters
    ----------
    settings : AnatomicalSettings
        Not looked at.

    Returns
    -------
    tuple of str
        Empty.
    """
    return ()


PIPELINE = Pipeline(
    name="anatomical",
    title="Anatomy (T1-weighted)",
    settings=AnatomicalSettings,
    primary="t1w",
    group_by=kept_apart,
    adopts=(
        ("preproc", "brain_mask", "gm", "wm", "csf"),
        ("t1w_to_template", "template_to_t1w"),
    ),
)
