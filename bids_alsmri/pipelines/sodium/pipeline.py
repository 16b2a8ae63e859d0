"""Settings of the sodium pipeline, and its place in the registry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from bids_alsmri.engine.pipeline import Pipeline
from bids_alsmri.options import SettingsModel, setting

SCRIPT = "antsRegistrationSyN.sh of ANTs"
PUBLISHED_T1 = "published values at 3 T scatter by several ms, see the methods text"


class SodiumSettings(SettingsModel):
    """Settings of the sodium pipeline."""

    tube_concentrations_mmol_l: tuple[float, ...] = setting(
        (),
        unit="mmol/L",
        source="the label on the tubes",
        help="Sodium in the reference tubes, in the order of their numbers (from the participant's "
        "left to right), or once for all; without it the sidecar's SodiumReferenceConcentrations, "
        "else the usual concentration with a warning.",
    )
    reference_tubes: tuple[int, ...] = setting(
        (),
        unit="1",
        source="the label on the tubes",
        help="Numbers of the tubes that calibrate, where others in view hold something else; "
        "without it those that the sidecar's SodiumReferenceConcentrations names by number, or "
        "else all.",
    )
    usual_concentration_mmol_l: float = setting(
        50.0,
        unit="mmol/L",
        gt=0,
        le=1000,
        source="elmendili2022",
        help="Sodium in every tube where neither option nor sidecar tells.",
    )
    nominal_resolution_mm: float = setting(
        0.0,
        unit="mm",
        ge=0,
        le=20,
        source="sidecar AcquisitionVoxelSize, else the longest edge of a voxel",
        help="Nominal resolution of the readout; 0 takes it from the sidecar or the voxels.",
    )
    readout_ms: float = setting(
        0.0,
        unit="ms",
        ge=0,
        le=200,
        source="sidecar SodiumReadoutDuration, in s",
        help="Duration of the radial readout; 0 takes it from the sidecar.",
    )
    assumed_readout_ms: float = setting(
        20.0,
        unit="ms",
        ge=0,
        le=200,
        source="nagel2009",
        help="Duration of the readout where neither option nor sidecar tells; a warning says so.",
    )
    readout_linear_share: float = setting(
        0.2,
        unit="1",
        gt=0,
        le=1,
        source="nagel2009",
        help="Share of the radius of k-space that is read at constant gradient before the density "
        "of samples is adapted; 1 for ordinary radial sampling.",
    )
    point_spread: Literal["protocol", "fitted"] = setting(
        "protocol",
        source="riemer2018",
        help="Width of the point spread: as computed from the readout and each tissue's decay, or "
        "scaled to what fits the image best, for the tubes and for the tissues apart.",
    )
    point_spread_scale: float = setting(
        1.0,
        unit="1",
        gt=0.2,
        le=5,
        source="1 is the point spread of the readout itself",
        help="Factor on the width of the point spread, for what the readout does not tell, such as "
        "a filter of the reconstruction.",
    )
    denoising: Literal["nlmeans", "off"] = setting(
        "nlmeans",
        source="coupe2008",
        help="How noise is taken from the image: non-local means, with the noise floor of "
        "magnitude images taken off, or not at all.",
    )
    denoising_strength: float = setting(
        1.0,
        unit="1",
        gt=0,
        le=3,
        source="coupe2008",
        help="Multiple of the noise level that non-local means take for noise.",
    )
    denoising_patch_radius: int = setting(
        1,
        unit="voxel",
        ge=1,
        le=3,
        source="coupe2008",
        help="Radius of the patches that non-local means compare.",
    )
    denoising_block_radius: int = setting(
        4,
        unit="voxel",
        ge=1,
        le=8,
        source="coupe2008",
        help="Radius in which non-local means look for patches that are alike.",
    )
    receive_bias: Literal["auto", "coils", "map", "smooth", "off"] = setting(
        "auto",
        paper="off",
        source="github.com/jianxun-qu/UHF-23Na for arrays; volume coils need none",
        paper_source="elmendili2022",
        help="Correction of the receive sensitivity: from a pair of array and volume coil images "
        "(coils), from an RB1map (map), from the image itself (smooth), or none; auto takes the "
        "first of coils and map that there is, and smooth where the sidecar tells of an array.",
    )
    receive_fwhm_mm: float = setting(
        20.0,
        unit="mm",
        gt=0,
        le=60,
        source="three voxels of the coil images of github.com/jianxun-qu/UHF-23Na",
        help="Smoothing of the images of the two coils before they are divided.",
    )
    receive_order: int = setting(
        3,
        unit="1",
        ge=1,
        le=4,
        source="an order above 3 follows ventricles",
        help="Order of the polynomial that the smooth estimate of the receive bias fits.",
    )
    tube_diameters_mm: tuple[float, float] = setting(
        (10.0, 45.0),
        unit="mm",
        source="laboratory tubes of 15 to 50 ml and bottles",
        help="Smallest and largest inner diameter of the reference tubes that are looked for.",
    )
    most_tubes: int = setting(
        6,
        unit="1",
        ge=1,
        le=20,
        source="more cylinders beside a head are something else",
        help="Most reference tubes that are looked for.",
    )
    tube_erosion_fwhm: float = setting(
        0.5,
        unit="FWHM",
        ge=0.5,
        le=2,
        source="half a point spread spills over a wall",
        help="Distance from wall and ends that tubes are measured at, in widths of their own "
        "point spread; less where a tube is too narrow for it, with a warning.",
    )
    tube_reach_sd: float = setting(
        3.0,
        unit="SD",
        ge=1,
        le=10,
        source="bubbles and artefacts lie beyond",
        help="Voxels of a tube further from its median, in robust standard deviations, do not "
        "count.",
    )
    tube_most_disagreement: float = setting(
        0.15,
        unit="1",
        gt=0,
        le=2,
        source="differences between tubes of one filling stay below 10 %",
        help="Share by which signal per concentration may differ between tubes; more is an error.",
    )
    tube_most_saturated: float = setting(
        0.05,
        unit="1",
        gt=0,
        le=1,
        source="ties at the largest value are rare in noise",
        help="Share of a tube at the largest value of the image from which it counts as saturated.",
    )
    tube_recovery: bool = setting(
        True,
        paper=False,
        source="nagel2009",
        paper_source="elmendili2022",
        help="Correct tubes for what the point spread takes from cylinders of their diameter.",
    )
    relaxation_correction: bool = setting(
        True,
        paper=False,
        source="riemer2018",
        paper_source="elmendili2022",
        help="Correct tissue and tubes for saturation and for decay until the echo.",
    )
    partial_volume_correction: bool = setting(
        True,
        paper=False,
        source="thomas2011",
        paper_source="elmendili2022",
        help="Correct tissues for blur between them, with a T1w.",
    )
    wm_t1_ms: float = setting(
        39.0,
        unit="ms",
        gt=0,
        le=1000,
        source=PUBLISHED_T1,
        help="T1 of white matter.",
    )
    gm_t1_ms: float = setting(
        39.0, unit="ms", gt=0, le=1000, source=PUBLISHED_T1, help="T1 of grey matter."
    )
    csf_t1_ms: float = setting(
        63.0, unit="ms", gt=0, le=1000, source=PUBLISHED_T1, help="T1 of cerebrospinal fluid."
    )
    head_t1_ms: float = setting(
        30.0,
        unit="ms",
        gt=0,
        le=1000,
        source="muscle, doi:10.1186/s12891-022-05879-5",
        help="T1 of the head outside the brain.",
    )
    tube_t1_ms: float = setting(
        45.6,
        unit="ms",
        gt=0,
        le=1000,
        source="52 ms less 3.2 ms per percent of agar, here 2 % (Leroi 2018)",
        help="T1 of the reference tubes.",
    )
    wm_t2_ms: tuple[float, float] = setting(
        (3.4, 23.5), unit="ms", source="riemer2018", help="Short and long T2* of white matter."
    )
    gm_t2_ms: tuple[float, float] = setting(
        (3.9, 26.3), unit="ms", source="riemer2018", help="Short and long T2* of grey matter."
    )
    csf_t2_ms: float = setting(
        56.0,
        unit="ms",
        gt=0,
        le=1000,
        source="Fleysher 2009, doi:10.1002/mrm.22133 (54 ms)",
        help="T2* of cerebrospinal fluid, a single component.",
    )
    head_t2_ms: tuple[float, float] = setting(
        (3.3, 12.9),
        unit="ms",
        source="muscle, doi:10.1186/s12891-022-05879-5",
        help="Short and long T2* of the head outside the brain.",
    )
    tube_t2_ms: tuple[float, float] = setting(
        (4.3, 4.3),
        unit="ms",
        source="agar, a single component (Leroi 2018)",
        help="Short and long T2* of the reference tubes.",
    )
    short_fraction: float = setting(
        0.6,
        unit="1",
        ge=0,
        le=1,
        source="Hubbard 1970, doi:10.1063/1.1674167",
        help="Share of the short component of T2*.",
    )
    usual_tissue_mmol_l: tuple[float, float, float] = setting(
        (40.0, 45.0, 140.0),
        unit="mmol/L",
        source="Fleysher 2013, doi:10.1002/nbm.2813",
        help="Usual sodium of white and grey matter and fluid, by which their relaxation is "
        "weighted in voxels that hold several of them.",
    )
    temperature_correction: bool = setting(
        False,
        source="Curie's law; off since tubes warm up during the scan",
        help="Correct for tubes that are colder than the brain.",
    )
    brain_celsius: float = setting(
        37.0,
        unit="degrees Celsius",
        ge=0,
        le=50,
        source="temperature of the body",
        help="Temperature of the brain.",
    )
    tube_celsius: float = setting(
        21.0,
        unit="degrees Celsius",
        ge=0,
        le=50,
        source="temperature of the room",
        help="Temperature of the tubes.",
    )
    correction_voxel_mm: float = setting(
        2.0,
        unit="mm",
        ge=0.8,
        le=10,
        source="half of a usual sodium voxel: tissue must be finer than the point spread",
        help="Voxels of the partial-volume correction are at most this wide.",
    )
    correction_margin_mm: float = setting(
        25.0,
        unit="mm",
        ge=5,
        le=100,
        source="three widths of a usual point spread",
        help="What is modelled around the brain in the partial-volume correction.",
    )
    tissue_shares: Literal["mixture", "probability"] = setting(
        "mixture",
        source="Choi 1991, doi:10.1109/42.97590",
        help="Shares of tissue in the voxels of the T1w, for the partial-volume correction: by "
        "how bright they are between pure tissues (mixture), or the probabilities of the tissues.",
    )
    ventricle_depth_mm: float = setting(
        20.0,
        unit="mm",
        ge=5,
        le=60,
        source="sulci are shallower",
        help="Fluid deeper than this under the brain's surface counts as that of ventricles.",
    )
    eye_share: float = setting(
        0.5,
        unit="1",
        gt=0,
        le=1,
        source="half of the signal of fluid",
        help="Share of the ventricles' signal from which the head outside the brain counts as "
        "eyes and other fluid.",
    )
    least_region_spreads: float = setting(
        2.0,
        unit="1",
        ge=0,
        le=100,
        source="less cannot be told from its surroundings",
        help="Smallest region of the transfer matrix in volumes of its point spread; smaller ones "
        "are merged with their neighbour.",
    )
    tissue_min_probability: float = setting(
        0.8,
        unit="1",
        gt=0,
        le=1,
        source="keeps mixed voxels out",
        help="A voxel belongs to a tissue in the tables from this share on.",
    )
    register_to: Literal["T1w", "proton"] = setting(
        "T1w",
        source="elmendili2022",
        help="Image that the sodium image is registered to: the T1w that the anatomical pipeline "
        "has processed, where there is one, or else a proton image of the session (acq-proton, or "
        "as chosen with --bids-filter-file); or that one in any case, from which no tissue is "
        "known.",
    )
    anatomy_rim_mm: float = setting(
        20.0,
        unit="mm",
        ge=0,
        le=60,
        source="scalp and skull hold the surface of the brain in place",
        help="Rim around the brain that takes part in the registration.",
    )
    registration_voxel_mm: float = setting(
        2.0,
        unit="mm",
        ge=0.5,
        le=5,
        source="benchmarks/sodium.py",
        help="Voxel size of the T1w that the sodium image is registered to; finer ones take "
        "longer, and the sodium image is no sharper.",
    )
    start_iterations: tuple[int, ...] = setting(
        (100, 50),
        unit="1",
        source="as for diffusion, benchmarks/alignment.py tells",
        help="Iterations per level of the first, coarse registration.",
    )
    start_shrink_factors: tuple[int, ...] = setting(
        (4, 2), unit="1", source=SCRIPT, help="Down-sampling per level of it."
    )
    start_smoothing_mm: tuple[float, ...] = setting(
        (6.0, 4.0), unit="mm", source=SCRIPT, help="Smoothing per level of it."
    )
    rigid_iterations: tuple[int, ...] = setting(
        (100, 50),
        unit="1",
        source="as for diffusion, benchmarks/alignment.py tells",
        help="Iterations per level of the registration.",
    )
    rigid_shrink_factors: tuple[int, ...] = setting(
        (3, 2), unit="1", source=SCRIPT, help="Down-sampling per level."
    )
    rigid_smoothing_mm: tuple[float, ...] = setting(
        (3.0, 2.0), unit="mm", source="the sodium image is no sharper", help="Smoothing per level."
    )
    rigid_bins: int = setting(
        32, unit="1", ge=8, le=256, source="mattes2003", help="Bins of the mutual information."
    )
    rigid_sampling: float = setting(
        1.0,
        unit="1",
        gt=0,
        le=1,
        source="every voxel: nothing is drawn",
        help="Share of voxels that the mutual information is computed from.",
    )
    rigid_step: float = setting(
        0.1, unit="1", gt=0, le=1, source=SCRIPT, help="Gradient step of the registration."
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
    registration_threads: int = setting(
        1,
        unit="threads",
        ge=1,
        le=64,
        source="ARCHITECTURE: mutual information repeats on one thread only",
        help="Threads of a registration; its result depends on them.",
    )
    least_overlap: float = setting(
        0.8,
        unit="1",
        ge=0,
        le=1,
        source="a brain that is well within the head reaches 0.95",
        help="Share of the brain that must lie in the head of the sodium image after registration; "
        "less is an error.",
    )
    least_separation: float = setting(
        0.6,
        unit="1",
        ge=0,
        le=1,
        source="chance is 0.5, good registrations reach 0.9",
        help="Share of pairs of voxels in which fluid must be brighter than white matter after "
        "registration; less is an error.",
    )
    smoothing_fwhm_mm: float = setting(
        8.0,
        unit="mm",
        gt=0,
        le=30,
        stage="apply",
        source="elmendili2022",
        help="Width of the Gaussian that smooths the map which groups are compared on.",
    )
    template_resolution_mm: float = setting(
        2.0,
        unit="mm",
        ge=1,
        le=5,
        stage="apply",
        source="no finer than half a sodium voxel",
        help="Voxel size of the maps in template space.",
    )
    t1w_resolution_mm: float = setting(
        2.0,
        unit="mm",
        ge=1,
        le=5,
        stage="apply",
        source="no finer than half a sodium voxel",
        help="Voxel size of the map in T1w space.",
    )

    @property
    def rigid_stages(self) -> list[dict[str, Any]]:
        """The one stage of the registration."""
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
        """The first, coarse registration."""
        return [
            {
                **self.rigid_stages[0],
                "iterations": list(self.start_iterations),
                "shrink_factors": list(self.start_shrink_factors),
                "smoothing_mm": list(self.start_smoothing_mm),
            }
        ]

    @property
    def relaxation_times(self) -> dict[str, list[float]]:
        """T1, short and long T2* (ms) and share of the short one, by tissue."""
        return {
            "wm": [self.wm_t1_ms, *self.wm_t2_ms, self.short_fraction],
            "gm": [self.gm_t1_ms, *self.gm_t2_ms, self.short_fraction],
            "csf": [self.csf_t1_ms, self.csf_t2_ms, self.csf_t2_ms, self.short_fraction],
            "head": [self.head_t1_ms, *self.head_t2_ms, self.short_fraction],
            "tube": [self.tube_t1_ms, *self.tube_t2_ms, self.short_fraction],
        }

    @property
    def readout(self) -> dict[str, float]:
        """What the protocol is completed by."""
        return {
            "nominal_resolution_mm": self.nominal_resolution_mm,
            "readout_ms": self.readout_ms,
            "assumed_readout_ms": self.assumed_readout_ms,
            "linear_share": self.readout_linear_share,
            "spread_scale": self.point_spread_scale,
        }


# a quadrature coil has two elements; more of them make an array
_MOST_ELEMENTS_OF_A_VOLUME_COIL = 2


def receive_method(
    settings: SodiumSettings, *, has_coils: bool, has_map: bool, metadata: Mapping[str, Any]
) -> str:
    """Where the receive bias of an image comes from.

    Parameters
    ----------
    settings : SodiumSettings
        What was asked for.
    has_coils, has_map : bool
        What the session has.
    metadata : mapping
        Sidecar; ``NumberReceiveCoilActiveElements`` tells an array from a volume coil.

    Returns
    -------
    str
        coils, map, smooth or off.

    Examples
    --------
    >>> receive_method(SodiumSettings(), has_coils=False, has_map=True, metadata={})
    'map'
    """
    if settings.receive_bias != "auto":
        return settings.receive_bias
    if has_coils or has_map:
        return "coils" if has_coils else "map"
    elements = metadata.get("NumberReceiveCoilActiveElements")
    is_array = isinstance(elements, int) and elements > _MOST_ELEMENTS_OF_A_VOLUME_COIL
    return "smooth" if is_array else "off"


def kept_apart(settings: SodiumSettings) -> tuple[str, ...]:
    """Entities that keep sodium images apart.

    Parameters
    ----------
    settings : SodiumSettings
        Not looked at.

    Returns
    -------
    tuple of str
        Protocol, reconstruction and run; echoes belong together.
    """
    return ("acquisition", "reconstruction", "run")


PIPELINE = Pipeline(
    name="sodium",
    title="Sodium",
    settings=SodiumSettings,
    primary="sodium",
    group_by=kept_apart,
    needs=("anatomical",),
    adopts=(("refs",),),
    without_needs="no T1-weighted image: sodium is mapped in its own space only, without "
    "correction for partial volume, tables of tissues and regions, and maps in template space",
    atlas_grid_mm="template_resolution_mm",
)
