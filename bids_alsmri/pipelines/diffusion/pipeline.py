"""Settings of the diffusion pipeline, and its place in the registry."""

from __future__ import annotations

from typing import Any, Literal

from bids_alsmri.engine.pipeline import Pipeline
from bids_alsmri.options import SettingsModel, setting

SCRIPT = "antsRegistrationSyN.sh of ANTs"


class DiffusionSettings(SettingsModel):
    """Settings of the diffusion pipeline."""

    combine_runs: bool = setting(
        True,
        paper=False,
        source="as QSIPrep does (Cieslak 2021, doi:10.1038/s41592-021-01185-5)",
        paper_source="elmendili2022",
        help="Fit one tensor to all runs of one protocol, brought to one scale by their b=0.",
    )
    b0_threshold_s_mm2: float = setting(
        50.0,
        unit="s/mm2",
        ge=0,
        le=500,
        flags=("--b0-threshold",),
        source="common practice of scanners and of QSIPrep",
        help="A volume whose b-value is at or below this counts as b=0.",
    )
    mask_median_radius: int = setting(
        4,
        unit="voxel",
        ge=1,
        le=10,
        source="garyfallidis2014",
        help="Radius of the median filter before the b=0 is parted into brain and background.",
    )
    mask_passes: int = setting(
        4,
        unit="1",
        ge=1,
        le=10,
        source="garyfallidis2014",
        help="Passes of that median filter.",
    )
    denoising: Literal["mppca", "local_pca", "off"] = setting(
        "mppca",
        paper="local_pca",
        source="veraart2016",
        paper_source="manjon2013",
        help="How thermal noise is taken from the series.",
    )
    patch_radius: int = setting(
        0,
        unit="voxel",
        ge=0,
        le=5,
        paper=2,
        source="veraart2016",
        paper_source="manjon2013",
        help="Radius of the patches of the denoising; 0 takes the smallest that holds more voxels "
        "than there are volumes, and at least 2.",
    )
    patch_step: int = setting(
        2,
        unit="voxel",
        ge=1,
        le=5,
        paper=1,
        source="manjon2013",
        paper_source="manjon2013",
        help="Distance between patches; 1 solves the patch around every voxel.",
    )
    noise_smoothing_voxels: float = setting(
        3.0,
        unit="voxel",
        ge=0,
        le=10,
        source="manjon2013",
        help="For local_pca: standard deviation of the Gaussian that smooths the noise map.",
    )
    noise_threshold_sd: float = setting(
        0.0,
        unit="SD",
        ge=0,
        le=10,
        source="veraart2016",
        help="For local_pca: components with less than this many standard deviations of the noise "
        "are taken off; 0 takes 1 + sqrt(volumes / voxels of a patch), where random-matrix theory "
        "puts the edge of the noise. 2.3, the value of Manjon 2013, takes signal too where volumes "
        "are few.",
    )
    unringing: bool = setting(
        True,
        paper=False,
        source="kellner2016",
        paper_source="elmendili2022",
        help="Take off Gibbs ringing, where k-space was sampled in full and the scanner did not "
        "interpolate the images.",
    )
    unringing_shifts: int = setting(
        3,
        unit="1",
        ge=1,
        le=20,
        source="garyfallidis2014",
        help="Neighbouring points that the unringing looks at.",
    )
    motion_target: Literal["prediction", "b0"] = setting(
        "prediction",
        paper="b0",
        source="andersson2016",
        paper_source="elmendili2022",
        help="What each volume is registered to: the mean of the other volumes of its shell, from "
        "which its slices are predicted too, or the b=0.",
    )
    motion_max_b_for_b0_s_mm2: float = setting(
        1500.0,
        unit="s/mm2",
        gt=0,
        le=10000,
        source="andersson2016",
        help="Volumes above this b-value are not registered to the b=0 one by one, since its "
        "contrast is too different, unless their shell is too small to predict them.",
    )
    motion_model: Literal["eddy", "affine", "rigid"] = setting(
        "eddy",
        paper="affine",
        source="andersson2016",
        paper_source="elmendili2022",
        help="Transform of a diffusion-weighted volume: rigid motion with shear, scale and shift "
        "along the phase axis, a free affine transform, or rigid motion alone.",
    )
    motion_smoothing_fwhm_mm: tuple[float, ...] = setting(
        (4.0, 2.0),
        unit="mm",
        source="benchmarks/eddy.py",
        help="Smoothing of volume and mean in each round of the motion correction.",
    )
    motion_tolerance_mm: float = setting(
        0.01,
        unit="mm",
        gt=0,
        le=1,
        source="a tenth of what motion parameters can be known to",
        help="Steps below this end the search.",
    )
    motion_mask_margin_mm: float = setting(
        6.0,
        unit="mm",
        ge=0,
        le=30,
        source="andersson2016",
        help="How far outside the brain voxels count when contrasts are alike, and for mutual "
        "information.",
    )
    contrast_margin_mm: float = setting(
        3.0,
        unit="mm",
        ge=0,
        le=30,
        source="benchmarks/eddy.py",
        help="How near to the brain's border voxels do not count when contrasts differ; above 0, "
        "the outermost layer never does.",
    )
    contrast_fwhm_mm: float = setting(
        1.5,
        unit="mm",
        ge=0,
        le=30,
        source="benchmarks/eddy.py",
        help="Smoothing where contrasts differ.",
    )
    shading_fwhm_mm: float = setting(
        40.0,
        unit="mm",
        gt=0,
        le=500,
        source="benchmarks/eddy.py",
        help="Width over which the b=0 is averaged to take the coils' shading out where contrasts "
        "differ.",
    )
    align_shells: Literal["all", "low_b", "off"] = setting(
        "all",
        source="andersson2016",
        help="Shells whose mean is aligned to the b=0 at the end, by mutual information: all, "
        "those whose volumes were registered to it (low_b), or none. For the others nothing else "
        "corrects motion between the b=0 and the weighted volumes.",
    )
    replace_outliers: bool = setting(
        True,
        paper=False,
        source="andersson2016",
        paper_source="elmendili2022",
        help="Replace slices that lost their signal to motion by the model's prediction.",
    )
    outlier_threshold_sd: float = setting(
        4.0,
        unit="SD",
        gt=0,
        le=20,
        source="andersson2016",
        help="Slices this many robust standard deviations below their prediction are lost.",
    )
    outlier_min_change: float = setting(
        0.1,
        unit="1",
        ge=0,
        le=1,
        source="benchmarks/eddy.py",
        help="Smallest change of a slice, as a share of its prediction, that is replaced.",
    )
    outlier_min_voxels: int = setting(
        100,
        unit="voxel",
        ge=1,
        le=10000,
        source="andersson2016",
        help="Slices with fewer brain voxels are not judged.",
    )
    shell_gap_s_mm2: float = setting(
        80.0,
        unit="s/mm2",
        gt=0,
        le=1000,
        source="common practice",
        help="Largest step between neighbouring b-values of one shell.",
    )
    start_iterations: tuple[int, ...] = setting(
        (100, 50),
        unit="1",
        source="benchmarks/alignment.py",
        help="Iterations per level of the first, brain to brain registration to the T1w.",
    )
    start_shrink_factors: tuple[int, ...] = setting(
        (4, 2), unit="1", source="benchmarks/alignment.py", help="Down-sampling per level of it."
    )
    start_smoothing_mm: tuple[float, ...] = setting(
        (4.0, 2.0),
        unit="mm",
        source="benchmarks/alignment.py",
        help="Smoothing per level of it.",
    )
    anatomy_rim_mm: float = setting(
        10.0,
        unit="mm",
        ge=0,
        le=50,
        source="benchmarks/alignment.py",
        help="Rim around the T1w's brain that takes part in the registration of the series.",
    )
    rigid_iterations: tuple[int, ...] = setting(
        (50, 25),
        unit="1",
        source="benchmarks/alignment.py",
        help="Iterations per level of the registration of the series to the T1w.",
    )
    rigid_shrink_factors: tuple[int, ...] = setting(
        (4, 2), unit="1", source="benchmarks/alignment.py", help="Down-sampling per level."
    )
    rigid_smoothing_mm: tuple[float, ...] = setting(
        (4.0, 1.0), unit="mm", source="benchmarks/alignment.py", help="Smoothing per level."
    )
    rigid_bins: int = setting(
        32, unit="1", ge=8, le=256, source="mattes2003", help="Bins of the mutual information."
    )
    rigid_sampling: float = setting(
        1.0,
        unit="1",
        gt=0,
        le=1,
        source="benchmarks/alignment.py",
        help="Share of voxels that the mutual information is computed from.",
    )
    rigid_step: float = setting(
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
    fa_resolution_mm: float = setting(
        2.0,
        unit="mm",
        ge=1,
        le=4,
        source="benchmarks/registration.py",
        help="Without a T1w: voxel size at which the FA is registered to the template.",
    )
    fa_rim_mm: float = setting(
        6.0,
        unit="mm",
        ge=0,
        le=50,
        source="benchmarks/registration.py",
        help="Without a T1w: rim around the template's brain that takes part.",
    )
    fa_affine_iterations: tuple[int, ...] = setting(
        (50, 25),
        unit="1",
        source="benchmarks/registration.py",
        help="Without a T1w: iterations per level of the affine registration.",
    )
    fa_affine_shrink_factors: tuple[int, ...] = setting(
        (4, 2),
        unit="1",
        source="benchmarks/registration.py",
        help="Down-sampling per level of it.",
    )
    fa_affine_smoothing_mm: tuple[float, ...] = setting(
        (4.0, 2.0),
        unit="mm",
        source="benchmarks/registration.py",
        help="Smoothing per level of it.",
    )
    fa_iterations: tuple[int, ...] = setting(
        (40, 20, 0),
        unit="1",
        source="benchmarks/registration.py",
        help="Without a T1w: iterations per level of SyN.",
    )
    fa_shrink_factors: tuple[int, ...] = setting(
        (4, 2, 1), unit="1", source="benchmarks/registration.py", help="Down-sampling per level."
    )
    fa_smoothing_mm: tuple[float, ...] = setting(
        (3.4, 1.7, 0.0),
        unit="mm",
        source="benchmarks/registration.py",
        help="Smoothing per level.",
    )
    fa_radius: int = setting(
        2,
        unit="voxel",
        ge=1,
        le=8,
        source="avants2008",
        help="Without a T1w: radius of SyN's local cross-correlation.",
    )
    fa_step: float = setting(
        0.2,
        unit="voxel",
        gt=0,
        le=1,
        source="avants2008",
        help="Without a T1w: gradient step of SyN.",
    )
    fa_update_smoothing: float = setting(
        3.0,
        unit="voxel2",
        ge=0,
        le=20,
        source=SCRIPT,
        help="Without a T1w: variance of the Gaussian that smooths each update of SyN.",
    )
    fa_total_smoothing: float = setting(
        0.0,
        unit="voxel2",
        ge=0,
        le=20,
        source=SCRIPT,
        help="Without a T1w: variance of the Gaussian that smooths the whole field of SyN.",
    )
    least_overlap: float = setting(
        0.6,
        unit="1",
        ge=0,
        le=1,
        source="a brain that is cut by the field of view still reaches 0.7",
        help="Dice overlap of the b=0 brain with the T1w brain below which their registration is "
        "refused.",
    )
    least_template_overlap: float = setting(
        0.3,
        unit="1",
        ge=0,
        le=1,
        source="half of what a good registration reaches",
        help="Without a T1w: Dice overlap of FA with the template's white matter below which "
        "their registration is refused.",
    )
    registration_threads: int = setting(
        1,
        unit="threads",
        ge=1,
        le=64,
        source="ARCHITECTURE: mutual information repeats on one thread only",
        help="Threads of a registration; its result depends on them.",
    )
    voxel_mm: float = setting(
        0.0,
        unit="mm",
        ge=0,
        le=5,
        source="the series' own voxel size",
        help="Voxel size of the maps in T1w space; 0 takes the series' shortest edge.",
    )
    margin_mm: float = setting(
        10.0,
        unit="mm",
        ge=0,
        le=100,
        source="room for the skull's rim",
        help="What is kept around the brain in T1w space.",
    )
    interpolation: Literal["cubic", "linear"] = setting(
        "cubic",
        source="Unser 1999, doi:10.1109/79.799930",
        help="The one interpolation of the series: cubic B-spline or linear.",
    )
    tensor_fit: Literal["iwls", "wls", "ols", "robust"] = setting(
        "iwls",
        paper="ols",
        source="veraart2013",
        paper_source="elmendili2022",
        help="Estimator of the tensor: least squares unweighted (ols, as FSL's dtifit), weighted "
        "by the signal that the ols fit predicts (wls), once more by that of the wls fit (iwls), "
        "or weighted without outliers (robust).",
    )
    tensor_max_b_s_mm2: float = setting(
        1500.0,
        unit="s/mm2",
        gt=0,
        le=10000,
        source="above it diffusion is no longer Gaussian (Jensen 2010, doi:10.1002/nbm.1518)",
        help="Shells up to this b-value are used; the lowest one where there is none.",
    )
    tensor_outlier_cutoff_sd: float = setting(
        3.0,
        unit="SD",
        gt=0,
        le=20,
        source="collier2015",
        help="For robust: residuals beyond it are left out.",
    )
    tensor_largest_mm2_s: float = setting(
        0.01,
        unit="mm2/s",
        gt=0,
        le=1,
        source="three times free water at 37 degrees (0.003: Holz 2000, doi:10.1039/b005319h)",
        help="A voxel whose tensor has a larger eigenvalue counts as one without a tensor.",
    )
    tract_min_fa: float = setting(
        0.3,
        unit="1",
        gt=0,
        le=1,
        source="smith2006 takes 0.2 for a skeleton; cores of tracts lie higher",
        help="Without a T1w: FA from which a voxel counts as white matter in the overlap.",
    )
    gradient_min_fa: float = setting(
        0.4,
        unit="1",
        gt=0,
        le=1,
        source="jeurissen2014",
        help="FA from which fibres are followed to check the b-vectors.",
    )
    gradient_max_bend_deg: float = setting(
        30.0,
        unit="degree",
        gt=0,
        le=90,
        source="jeurissen2014",
        help="Largest bend per step of these fibres.",
    )
    gradient_min_gain: float = setting(
        0.03,
        unit="1",
        gt=0,
        le=10,
        source="jeurissen2014",
        help="Share by which another b-vector table must lengthen fibres to be warned of.",
    )
    gradient_fibres: int = setting(
        5000,
        unit="1",
        ge=100,
        le=100000,
        source="jeurissen2014",
        help="Number of fibres followed for that check.",
    )
    eddy_shift_max_p: float = setting(
        0.01,
        unit="1",
        ge=0,
        le=1,
        source="andersson2016",
        help="Shifts along the phase axis are put down to eddy currents, and not to the head, "
        "where their regression on the gradients is significant at this level.",
    )
    displacement_radius_mm: float = setting(
        50.0,
        unit="mm",
        gt=0,
        le=200,
        source="power2012",
        help="Radius on which rotations become displacements in the framewise displacement.",
    )
    tissue_min_probability: float = setting(
        0.8,
        unit="1",
        gt=0,
        le=1,
        stage="apply",
        source="keeps mixed voxels out",
        help="A voxel belongs to a tissue in the tables from this probability on.",
    )
    template_resolution_mm: float = setting(
        1.0,
        unit="mm",
        ge=0.5,
        le=5,
        stage="apply",
        source="smith2006",
        help="Voxel size of the maps in template space.",
    )

    @property
    def rigid_stages(self) -> list[dict[str, Any]]:
        """The one stage of the registration of the mean weighted image to the T1w."""
        return [
            {
                "transform": "rigid",
                "metric": "mi",
                "metric_parameter": self.rigid_bins,
                "sampling": self.rigid_sampling,
                "gradient_step": self.rigid_step,
                "iterations": list(self.rigid_iterations),
                "shrink_factors": list(self.rigid_shrink_factors),
                "smoothing_mm": list(self.rigid_smoothing_mm),
                "convergence": self.registration_convergence,
                "convergence_window": self.registration_convergence_window,
            }
        ]

    @property
    def start_stages(self) -> list[dict[str, Any]]:
        """The first, coarse registration of the series' brain to the T1w's."""
        return [
            {
                **self.rigid_stages[0],
                "iterations": list(self.start_iterations),
                "shrink_factors": list(self.start_shrink_factors),
                "smoothing_mm": list(self.start_smoothing_mm),
            }
        ]

    @property
    def fa_stages(self) -> list[dict[str, Any]]:
        """Stages of the registration of the FA to the template's white matter."""
        affine = {
            **self.rigid_stages[0],
            "transform": "affine",
            "iterations": list(self.fa_affine_iterations),
            "shrink_factors": list(self.fa_affine_shrink_factors),
            "smoothing_mm": list(self.fa_affine_smoothing_mm),
        }
        syn = {
            "transform": "syn",
            "metric": "cc",
            "metric_parameter": self.fa_radius,
            "sampling": 1.0,  # local correlation is taken at every voxel
            "gradient_step": self.fa_step,
            "iterations": list(self.fa_iterations),
            "shrink_factors": list(self.fa_shrink_factors),
            "smoothing_mm": list(self.fa_smoothing_mm),
            "convergence": self.registration_convergence,
            "convergence_window": self.registration_convergence_window,
            "update_smoothing": self.fa_update_smoothing,
            "total_smoothing": self.fa_total_smoothing,
        }
        return [affine, syn]


def kept_apart(settings: DiffusionSettings) -> tuple[str, ...]:
    """Entities that keep series apart.

    Parameters
    ----------
    settings : DiffusionSettings
        Whether runs are combined.

    Returns
    -------
    tuple of str
        Protocol, reconstruction and phase-encoding direction; the run too where runs are not
        combined.
    """
    # two reconstructions show the same volumes: joined, they would count twice
    apart = ("acquisition", "reconstruction", "direction")
    return apart if settings.combine_runs else (*apart, "run")


PIPELINE = Pipeline(
    name="diffusion",
    title="Diffusion",
    settings=DiffusionSettings,
    primary="dwi",
    group_by=kept_apart,
    needs=("anatomical",),
    without_needs="no T1-weighted image: the FA was registered to the template directly",
)
