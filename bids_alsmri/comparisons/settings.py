"""Settings of the group level."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import field_validator

from bids_alsmri.options import SettingsModel, setting
from bids_alsmri.settings import GROUP, RunSettings

DIFFUSION = "chosen; see docs/benchmarks.md"
REFERENCE = "comparison with FSL's skeleton of tests/data"
SCRIPT = "antsRegistrationSyN.sh of ANTs"
CONVENTION = "convention"


class GroupSettings(SettingsModel):
    """Settings of the group level: who is compared, on which maps, and how."""

    # ---- who

    compare: bool = setting(
        True,
        stage="run",
        help="Compare groups. Off, only the participants' tables are collected.",
    )
    group_column: str = setting(
        "group", stage="run", help="Column of participants.tsv that tells patients from controls."
    )
    patient_label: str = setting("als", stage="run", help="Label of patients in that column.")
    control_label: str = setting("hc", stage="run", help="Label of controls in that column.")
    other_labels: tuple[str, ...] = setting(
        (), stage="run", help="Further labels in that column, in no comparison."
    )
    progression_column: str = setting(
        "progression", stage="run", help="Column that labels patients as fast or slow."
    )
    fast_label: str = setting("fast", stage="run", help="Label of fast progressors.")
    slow_label: str = setting("slow", stage="run", help="Label of slow progressors.")
    alsfrs_r_column: str = setting(
        "alsfrs_r",
        stage="run",
        help="Column of the revised ALS functional rating scale, 0 to 48 points.",
    )
    duration_column: str = setting(
        "disease_duration_months",
        stage="run",
        help="Column of the time since the first symptoms, in months.",
    )
    progression_rule: Literal["threshold", "median"] = setting(
        "threshold",
        stage="run",
        source="elmendili2022",
        help="How patients without a label become fast or slow: points of the scale lost per month "
        "against a threshold, or against the median of the patients.",
    )
    progression_threshold_per_month: float = setting(
        0.5,
        stage="run",
        unit="points per month",
        gt=0,
        le=48,
        source="elmendili2022",
        help="Rate above which a patient is fast; 0.47 stands in the same paper's limitations.",
    )
    given_progression_counts: bool = setting(
        True,
        stage="run",
        help="Labels of the progression column win over the rule. Off, all come from the rule.",
    )
    contrasts: tuple[str, ...] = setting(
        (),
        stage="run",
        source="elmendili2022",
        help="Comparisons by label, such as als-hc: first less second; or one label and 0, such as "
        "als-0, for the change of one group. Without it, patients, fast and slow against controls, "
        "and fast against slow.",
    )
    covariates: tuple[str, ...] = setting(
        (),
        stage="run",
        source="elmendili2022",
        help="Columns of the clinical tables that the comparisons are adjusted for, such as age "
        "and sex.",
    )
    quality_covariates: tuple[str, ...] = setting(
        (),
        stage="run",
        help="Measures of the scans' quality that the comparisons of those modalities that have "
        "them are adjusted for, such as mean_framewise_displacement; patients move more.",
    )
    voxelwise_covariates: tuple[str, ...] = setting(
        (),
        stage="run",
        source="oakes2007",
        help="Maps of each participant that comparisons of others are adjusted for voxel by voxel, "
        "beside those without, such as gm, the share of grey matter, for sodium maps: what "
        "atrophy does to them. A model is fitted in every voxel, which takes several times as "
        "long.",
    )
    exclusions: Path | None = setting(
        None,
        stage="run",
        flags=("--exclusions",),
        help="Table of scans to leave out, with the columns participant_id, session_id, modality "
        "and reason; a column qc in scans.tsv is read too.",
    )
    exclude_flagged: bool = setting(
        False,
        stage="run",
        flags=("--exclude-flagged",),
        help="Leave out scans with a measure of quality outside its sensible range, which are only "
        "named otherwise.",
    )
    visit: Literal["first", "mean", "change", "slope"] = setting(
        "first",
        stage="run",
        help="Which map stands for a participant who has several: that of the first visit, their "
        "mean, the change from first to last, or the slope in time.",
    )
    time_column: str = setting(
        "months",
        stage="run",
        help="Column of sessions.tsv with the time of a visit in months, for the slope.",
    )
    describe: tuple[str, ...] = setting(
        (
            *("age:t", "sex:fisher", "onset_site:fisher", "disease_duration_months:t"),
            *("rate_per_month:t", "alsfrs_r:t"),
        ),
        stage="run",
        source="elmendili2022",
        help="Rows of the table of demographics as COLUMN:TEST; tests are t, welch, mann-whitney, "
        "kruskal-wallis, fisher and chi-squared. Those of the default that are not there are "
        "left out.",
    )

    # ---- clinical tables

    tables: bool = setting(
        True,
        stage="run",
        help="Make the clinical tables of the papers of what is there: clinical columns and the "
        "participants' tables of regions.",
    )
    tables_file: Path | None = setting(
        None,
        stage="run",
        help="JSON with further tables, in the form of the package's stats/reference.json.",
    )
    tables_permutations: int = setting(
        1000,
        stage="run",
        unit="1",
        ge=20,
        le=1000000,
        source=CONVENTION,
        help="Permutations of each test of the clinical tables, the observed one among them.",
    )
    harmonise_sites: bool = setting(
        False,
        stage="run",
        source="johnson2007",
        help="Take differences between sites, as controls show them, out of the measures of the "
        "clinical tables (ComBat). Refused, and said, where a site has fewer than 10 controls or "
        "sites cannot be told from visits.",
    )
    site_column: str = setting(
        "site", stage="run", help="Column of participants.tsv that names the site."
    )

    # ---- on which maps

    analyses: tuple[str, ...] = setting(
        ("skeleton", "vba"),
        stage="run",
        paper=("skeleton",),
        paper_source="elmendili2022",
        source="schwarz2014",
        help="How diffusion maps are compared: on the skeleton of tracts, and as smoothed maps "
        "without one (vba).",
    )
    maps: tuple[str, ...] = setting(
        (),
        stage="run",
        help="Maps to compare, such as fa and md; all that the pipelines declare if not given.",
    )
    fa_target: Path | None = setting(
        None,
        stage="run",
        flags=("--diffusion-fa-target",),
        help="FA image to which all are registered. Without it, the cohort's own mean, or in paper "
        "mode FSL's FMRIB58_FA where FSLDIR holds it.",
    )
    refinement_iterations: int = setting(
        2,
        stage="run",
        unit="1",
        ge=0,
        le=10,
        source=DIFFUSION,
        help="Rounds in which FA maps are registered to their mean; 0 leaves them as the T1w "
        "brought them to the template.",
    )
    refinement_resolution_mm: float = setting(
        2.0,
        stage="run",
        unit="mm",
        ge=1,
        le=4,
        source=DIFFUSION,
        help="Voxel size on which they are registered.",
    )
    refinement_syn_iterations: tuple[int, ...] = setting(
        (40, 20, 0), stage="run", unit="1", source=DIFFUSION, help="Iterations per level of SyN."
    )
    refinement_syn_shrink_factors: tuple[int, ...] = setting(
        (4, 2, 1), stage="run", unit="1", source=DIFFUSION, help="Down-sampling per level of SyN."
    )
    refinement_syn_smoothing_mm: tuple[float, ...] = setting(
        (3.4, 1.7, 0.0),
        stage="run",
        unit="mm",
        source=DIFFUSION,
        help="Smoothing per level of SyN.",
    )
    refinement_syn_radius: int = setting(
        2,
        stage="run",
        unit="voxel",
        ge=1,
        le=8,
        source="avants2008",
        help="Radius of SyN's local cross-correlation.",
    )
    refinement_syn_step: float = setting(
        0.2,
        stage="run",
        unit="voxel",
        gt=0,
        le=1,
        source="avants2008",
        help="Gradient step of SyN.",
    )
    refinement_syn_update_smoothing: float = setting(
        3.0,
        stage="run",
        unit="voxel2",
        ge=0,
        le=20,
        source=SCRIPT,
        help="Variance of the Gaussian that smooths each update of SyN.",
    )
    refinement_syn_total_smoothing: float = setting(
        0.0,
        stage="run",
        unit="voxel2",
        ge=0,
        le=20,
        source=SCRIPT,
        help="Variance of the Gaussian that smooths the whole field of SyN.",
    )
    refinement_convergence: float = setting(
        1e-6,
        stage="run",
        unit="1",
        gt=0,
        le=0.01,
        source=SCRIPT,
        help="Slope of the metric below which a level of the registration ends.",
    )
    refinement_convergence_window: int = setting(
        10,
        stage="run",
        unit="1",
        ge=2,
        le=100,
        source=SCRIPT,
        help="Iterations over which that slope is taken.",
    )
    winsor_percentiles: tuple[float, float] = setting(
        (0.5, 99.5),
        stage="run",
        unit="%",
        source=SCRIPT,
        help="Percentiles to which darker and brighter voxels are set in registrations.",
    )
    registration_threads: int = setting(
        1,
        stage="run",
        unit="threads",
        ge=1,
        le=64,
        source=DIFFUSION,
        help="Threads of the registrations; their results depend on them.",
    )
    resolution_mm: float = setting(
        1.0,
        stage="run",
        unit="mm",
        ge=0.5,
        le=4,
        source="smith2006",
        help="Voxel size of the skeleton and of the maps that are compared.",
    )
    least_share: float = setting(
        0.5,
        stage="run",
        unit="1",
        gt=0,
        le=1,
        source=DIFFUSION,
        help="Share of the voxels around a point that must have a value for it to get one.",
    )
    skeleton_threshold_fa: float = setting(
        0.2,
        stage="run",
        unit="1",
        gt=0,
        le=1,
        source="smith2006",
        help="Mean FA from which a voxel belongs to the skeleton.",
    )
    most_removed_share: float = setting(
        0.02,
        stage="run",
        unit="1",
        ge=0,
        le=1,
        source=CONVENTION,
        help="Share of the common voxels above which a participant who alone removes them is "
        "named.",
    )
    projection_weight_sd_voxels: float = setting(
        10.0,
        stage="run",
        unit="voxel",
        gt=0,
        le=100,
        source=REFERENCE,
        help="Standard deviation of the Gaussian by which FA far from the skeleton counts less in "
        "the search across a tract.",
    )
    vba_fwhm_mm: float = setting(
        6.0,
        stage="run",
        unit="mm",
        ge=0,
        le=20,
        source="schwarz2014",
        help="Full width at half maximum of the Gaussian that smooths diffusion maps for vba.",
    )

    # ---- how

    variance: Literal["equal", "unequal"] = setting(
        "equal",
        stage="run",
        source="winkler2014",
        help="Whether groups share a variance (Student's t) or each has its own (Welch's).",
    )
    relabelling: Literal["permutations", "sign_flips"] = setting(
        "permutations",
        stage="run",
        source="winkler2014",
        help="How observations are relabelled: they change places, or signs, which holds the level "
        "better where variances differ but needs noise that is symmetric. The change of one group "
        "is always tested by signs.",
    )
    model: Literal["two_groups", "all_groups"] = setting(
        "two_groups",
        stage="run",
        source="elmendili2022",
        help="Whether each comparison has a model of its own two groups, or all groups are in one "
        "model and only those compared are exchanged.",
    )
    n_permutations: int = setting(
        5000,
        stage="run",
        unit="1",
        ge=20,
        le=1000000,
        source="elmendili2022",
        help="Relabellings of each comparison, the observed one among them; all there are where "
        "these are fewer.",
    )
    permutations_per_job: int = setting(
        1000,
        stage="run",
        unit="1",
        ge=10,
        le=1000000,
        help="Relabellings of one job; results do not depend on it.",
    )
    tail: bool = setting(
        False,
        stage="run",
        source="winkler2016a",
        help="Take small corrected p-values from a tail fitted to the relabellings, so that 500 "
        "will do.",
    )
    alpha: float = setting(
        0.05,
        stage="run",
        unit="1",
        gt=0,
        le=0.5,
        source=CONVENTION,
        help="Corrected p-value below which a voxel is reported.",
    )
    interval_level: float = setting(
        0.95,
        stage="run",
        unit="1",
        gt=0.5,
        le=0.999,
        source=CONVENTION,
        help="Level of the confidence intervals of differences.",
    )
    volume_height_power: float = setting(
        2.0,
        stage="run",
        unit="1",
        gt=0,
        le=10,
        source="smith2009",
        help="H of the threshold-free cluster enhancement of volumes.",
    )
    volume_extent_power: float = setting(
        0.5, stage="run", unit="1", gt=0, le=10, source="smith2009", help="E of that of volumes."
    )
    volume_connectivity: Literal["6", "18", "26"] = setting(
        "6", stage="run", source="smith2009", help="Neighbours of a voxel of a volume."
    )
    skeleton_height_power: float = setting(
        2.0,
        stage="run",
        unit="1",
        gt=0,
        le=10,
        source="winkler2014",
        help="H of that of skeletons.",
    )
    skeleton_extent_power: float = setting(
        1.0,
        stage="run",
        unit="1",
        gt=0,
        le=10,
        source="winkler2014",
        help="E of that of skeletons.",
    )
    skeleton_connectivity: Literal["6", "18", "26"] = setting(
        "26", stage="run", source="winkler2014", help="Neighbours of a voxel of a skeleton."
    )
    correct_across: Literal["none", "maps", "contrasts"] = setting(
        "none",
        stage="run",
        source="winkler2016b",
        help="Correct p-values also for the number of maps (and directions) of a contrast, or of "
        "all contrasts too, beside those of each map. The latter takes the model all_groups and "
        "exchanges members of all groups: each comparison then tests that no group differs.",
    )
    cluster_forming_t: float = setting(
        0.0,
        stage="run",
        unit="1",
        ge=0,
        le=20,
        source="chosen: clusters below 3.1 are not specific",
        help="Threshold of t that forms clusters whose extent is tested too; 0 for none. Below 3.1 "
        "it is refused, and on skeletons, whose smoothness varies, it is not exact.",
    )
    cluster_connectivity: Literal["6", "18", "26"] = setting(
        "26",
        stage="run",
        source=CONVENTION,
        help="Neighbours that join significant voxels to the clusters of the tables.",
    )
    skeleton_sampling: Literal["smoothed", "unsmoothed"] = setting(
        "smoothed",
        stage="run",
        source="elmendili2022",
        help="Which maps of volumes (such as TSC) are taken to the skeleton's voxels, to be looked "
        "at together with diffusion maps.",
    )
    overlaps: tuple[str, ...] = setting(
        ("tsc+fa-", "tsc+md+", "tsc-fa+", "tsc-md-", "fa-md+", "fa+md-"),
        stage="run",
        source="elmendili2022",
        help="Pairs of maps whose changes are looked for in the same voxels, with the direction of "
        "each: + for first group above second. Pairs whose maps are not there are left out.",
    )

    combinations: tuple[str, ...] = setting(
        ("tsc+fa-md+",),
        stage="run",
        paper=(),
        paper_source="elmendili2022",
        source="winkler2016b",
        help="Sets of maps of which at least one is to change, tested together by non-parametric "
        "combination on the skeleton, with the direction of each; the reverse directions are "
        "tested too. Sets whose maps are not all there are left out.",
    )
    combination_method: Literal["fisher", "stouffer", "tippett"] = setting(
        "fisher",
        stage="run",
        source="winkler2016b",
        help="How p-values of the maps are combined.",
    )

    @property
    def refinement_stages(self) -> list[dict[str, Any]]:
        """SyN, by the names of the registration's record."""
        return [
            {
                "transform": "syn",
                "metric": "cc",
                "metric_parameter": self.refinement_syn_radius,
                "sampling": 1.0,  # local correlation is taken at every voxel
                "gradient_step": self.refinement_syn_step,
                "iterations": list(self.refinement_syn_iterations),
                "shrink_factors": list(self.refinement_syn_shrink_factors),
                "smoothing_mm": list(self.refinement_syn_smoothing_mm),
                "convergence": self.refinement_convergence,
                "convergence_window": self.refinement_convergence_window,
                "update_smoothing": self.refinement_syn_update_smoothing,
                "total_smoothing": self.refinement_syn_total_smoothing,
            }
        ]

    @field_validator("cluster_forming_t")
    @classmethod
    def _refuse_low_thresholds(cls, value: float) -> float:
        if 0 < value < 3.1:
            raise ValueError(f"{value:g} forms clusters that are not specific; give 0, or 3.1 up")
        return value

    @field_validator("overlaps")
    @classmethod
    def _require_pairs(cls, value: Any) -> Any:
        bad = [text for text in value if not re.fullmatch(r"[a-z0-9]+[+-][a-z0-9]+[+-]", text)]
        if bad:
            raise ValueError(f"{bad[0]!r} is no pair of maps with directions, such as tsc+fa-")
        return value

    @field_validator("combinations")
    @classmethod
    def _require_sets(cls, value: Any) -> Any:
        bad = [text for text in value if not re.fullmatch(r"([a-z0-9]+[+-]){2,}", text)]
        if bad:
            raise ValueError(f"{bad[0]!r} is no set of maps with directions, such as tsc+fa-md+")
        return value

    @field_validator("analyses")
    @classmethod
    def _require_known_analyses(cls, value: Any) -> Any:
        unknown = sorted(set(value) - {"skeleton", "vba"})
        if unknown:
            raise ValueError(f"{unknown[0]!r} is unknown; give skeleton, vba or both")
        return value


def group_settings(settings: RunSettings) -> GroupSettings:
    """Settings of the group level among those of a run.

    Parameters
    ----------
    settings : RunSettings
        Of the run.

    Returns
    -------
    GroupSettings
        As they were made by `bids_alsmri.settings.make_run_settings`.
    """
    found = settings.pipelines[GROUP]
    assert isinstance(found, GroupSettings)
    return found
