"""Settings of the muscle pipeline, and its place in the registry."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from bids_alsmri.engine.pipeline import Pipeline
from bids_alsmri.options import SettingsModel, setting
from bids_alsmri.pipelines.muscle.visits import images_of_first_visit


class MuscleSettings(SettingsModel):
    """Settings of the muscle pipeline."""

    region_list: Path | None = setting(
        None,
        source="muscles.tsv of the package: Jenkins 2020 and a list after Diamanti 2018",
        help="Tab-separated list of regions (index, name, side, kind and more) that takes the "
        "place of the one that comes with the program.",
    )
    label_codes: Literal[
        "auto",
        "own",
        "musclemap",
        "totalsegmentator",
        "totalsegmentator_thigh",
        "totalsegmentator_headneck",
    ] = setting(
        "auto",
        source="codes as those programs publish them",
        help="What the numbers of given labels mean: by the names of their table, else numbers of "
        "the list of regions (auto); those numbers (own); or the codes of another program.",
    )
    bias_correction: Literal["tissues", "n4", "off"] = setting(
        "tissues",
        paper="off",
        source="benchmarks/muscle.py",
        paper_source="jenkins2020",
        help="Correction of the receive field of stations: by fat, and by each muscle against "
        "itself where muscles are labelled, else by N4 (tissues); by N4 in all (n4); or off.",
    )
    bias_order: int = setting(
        3,
        unit="1",
        ge=1,
        le=6,
        source="benchmarks/muscle.py",
        help="Order of the polynomial that is the receive field of a labelled station.",
    )
    bias_cell_mm: float = setting(
        60.0,
        unit="mm",
        gt=5,
        le=1000,
        source="benchmarks/muscle.py",
        help="Edge of the cubes into which unlabelled tissue is parted for it; each has a "
        "brightness of its own, as each muscle has.",
    )
    bias_shrink_factor: int = setting(
        2,
        unit="1",
        ge=1,
        le=8,
        source="voxels of stations are large",
        help="Down-sampling for the estimate of the receive field.",
    )
    bias_iterations: tuple[int, ...] = setting(
        (30, 30, 20),
        unit="1",
        source="benchmarks/muscle.py",
        help="Most iterations at each level of the estimate of the receive field.",
    )
    bias_convergence: float = setting(
        1e-4,
        unit="1",
        gt=0,
        le=0.1,
        source="benchmarks/muscle.py",
        help="Change of the receive field at which a level ends.",
    )
    bias_spline_mm: float = setting(
        300.0,
        unit="mm",
        gt=20,
        le=2000,
        source="fields of body coils change over a station, not over a muscle",
        help="Distance of the control points of the receive field at the first level.",
    )
    bones: tuple[str, ...] = setting(
        (),
        source="the paper's supplement, which names the bones, is not available",
        help="Bones that muscles are divided by, by their names in the labels: for all stations, "
        "or as CHUNK:NAME for those of one chunk; without it the bone masks of the stations "
        "(label-bone_desc-ref_mask), or else all bones among the labels, or else the marrow that "
        "is found on T1w of the legs in the same frame of reference.",
    )
    bone_least_snr: float = setting(
        10.0,
        unit="1",
        ge=0,
        le=1000,
        paper=0.0,
        source="below 10 a magnitude is no longer its signal",
        paper_source="jenkins2020",
        help="Signal over noise of the bone reference below which it is refused.",
    )
    bone_most_variation: float = setting(
        0.2,
        unit="1",
        gt=0,
        le=100,
        paper=100.0,
        source="a fifth is what patients and controls differ by",
        paper_source="jenkins2020",
        help="Variation of the bone reference along the station above which it is refused, as a "
        "share of its mean.",
    )
    noise_floor_correction: bool = setting(
        True,
        paper=False,
        source="koay2006",
        paper_source="jenkins2020",
        help="Take the noise floor off before the diffusion coefficient of a region is computed.",
    )
    adc_least_snr: float = setting(
        10.0,
        unit="1",
        ge=0,
        le=1000,
        source="benchmarks/muscle.py",
        help="Signal over noise of a region without weighting below which its diffusion "
        "coefficient is flagged.",
    )
    most_scale_difference: float = setting(
        0.1,
        unit="1",
        gt=0,
        le=1,
        source="a tenth changes the diffusion coefficient of muscle by 6 %",
        help="Difference of intensity scale, as a share, up to which separate diffusion series of "
        "a station are fitted together.",
    )
    most_displaced_fat: float = setting(
        0.1,
        unit="1",
        gt=0,
        le=1,
        source="what is left of suppressed fat adds little over a tenth of a muscle",
        help="Share of a muscle on which displaced fat falls from which it is flagged.",
    )
    fat_least_signal: float = setting(
        0.7,
        unit="1",
        gt=0,
        le=2,
        source="between muscle, even when it is denervated, and fat",
        help="T2-weighted signal over that of the bone reference from which a voxel counts as fat, "
        "to follow it where diffusion displaces it.",
    )
    atlas_dir: Path | None = setting(
        None,
        source="labelled people of the same protocol",
        help="Folder with labelled stations of other people (as NAME_T2w.nii.gz or NAME_T1w.nii.gz "
        "and NAME_desc-muscles_dseg.nii.gz, where NAME is a sub- with the acq- and chunk- of the "
        "station), "
        "from two of which on stations that nobody labelled are labelled.",
    )
    atlas_linear_iterations: tuple[int, ...] = setting(
        (100, 60, 0),
        unit="1",
        source="benchmarks/muscle.py",
        help="Iterations per level of the affine registration of a labelled station.",
    )
    atlas_syn_iterations: tuple[int, ...] = setting(
        (60, 40, 5),
        unit="1",
        source="benchmarks/muscle.py",
        help="Iterations per level of its nonlinear registration.",
    )
    atlas_shrink_factors: tuple[int, ...] = setting(
        (4, 2, 1),
        unit="1",
        source="a coarse level finds the limb, the last the septa",
        help="Down-sampling per level of both.",
    )
    atlas_smoothing_mm: tuple[float, ...] = setting(
        (6.0, 3.0, 0.0),
        unit="mm",
        source="as wide as the voxels of the level",
        help="Smoothing per level of both.",
    )
    atlas_metric_radius: int = setting(
        2,
        unit="voxel",
        ge=1,
        le=8,
        source="avants2008",
        help="Radius of the cross-correlation of the nonlinear registration.",
    )
    atlas_margin_mm: float = setting(
        15.0,
        unit="mm",
        ge=0,
        le=100,
        source="a registration needs the surface of the limb",
        help="What is kept around the limbs.",
    )
    atlas_voxel_mm: float = setting(
        2.5,
        unit="mm",
        gt=0.2,
        le=20,
        source="benchmarks/muscle.py",
        help="Voxel edge up to which finer stations are thinned for the registration; labels are "
        "fused on the station's own grid.",
    )
    atlas_patch_radius: int = setting(
        2,
        unit="voxel",
        ge=1,
        le=5,
        source="Wang 2013, doi:10.1109/TPAMI.2012.143",
        help="Radius of the patches by whose likeness labels are weighted.",
    )
    atlas_search_radius: int = setting(
        2,
        unit="voxel",
        ge=0,
        le=5,
        source="Wang 2013, doi:10.1109/TPAMI.2012.143",
        help="Radius in which the most alike patch is looked for.",
    )
    atlas_sharpness: float = setting(
        2.0,
        unit="1",
        gt=0,
        le=10,
        source="Wang 2013, doi:10.1109/TPAMI.2012.143",
        help="Exponent of the differences of patches in the weights of joint label fusion.",
    )
    atlas_ridge: float = setting(
        0.1,
        unit="1",
        gt=0,
        le=10,
        source="Wang 2013, doi:10.1109/TPAMI.2012.143",
        help="Ridge of these weights.",
    )
    atlas_threads: int = setting(
        1,
        unit="1",
        ge=1,
        le=64,
        source="registrations repeat only at one number of threads",
        help="Threads of each of these registrations; with more processes several run at once.",
    )
    atlas_leave_one_out: bool = setting(
        False,
        source="it takes as long as another person for each labelled station",
        help="Label every labelled station from the others too, and tell the overlap.",
    )
    field_order: int = setting(
        5,
        unit="1",
        ge=1,
        le=8,
        source="an order above 5 follows muscles of thin legs",
        help="Highest order of the polynomials that make the receive field over one leg, where "
        "compartments and fat of legs are found.",
    )
    fat_least_contrast: float = setting(
        1.3,
        unit="1",
        ge=1,
        le=5,
        source="fat is 2 to 4 times as bright as muscle on T1w and T2w, and darker where opposed",
        help="Signal of fat over that of muscle below which an image of legs states no fat "
        "fraction.",
    )
    t2_skipped_echoes: int = setting(
        1,
        unit="1",
        ge=0,
        le=8,
        source="the first echo of a train has no stimulated part; doi:10.1371/journal.pone.0145255",
        help="Echoes at the start of a train that are left out of the fit of T2.",
    )
    fat_threshold: float = setting(
        0.2,
        unit="1",
        gt=0,
        le=1,
        source="tests/numerics/test_mercuri_voxels.py",
        help="Fat fraction of a voxel from which its fat counts for the fatty share of a muscle: "
        "above what noise reaches.",
    )
    mercuri_traces: float = setting(
        0.02,
        unit="1",
        ge=0,
        le=0.4,
        source="tests/numerics/test_mercuri_voxels.py",
        help="Fatty share of a muscle's area above which its grade after Mercuri is 1.",
    )
    mercuri_patches: float = setting(
        0.115,
        unit="1",
        gt=0,
        le=0.45,
        source="tests/numerics/test_mercuri_voxels.py",
        help="Fatty share of a muscle's area from which its grade is 2.",
    )
    mercuri_confluent: float = setting(
        0.5,
        unit="1",
        gt=0,
        le=1,
        source="diamanti2018",
        help="Fatty share of a muscle's area from which its grade is 3.",
    )
    least_overlap_mm: float = setting(
        10.0,
        unit="mm",
        ge=0,
        le=200,
        source="two slices of usual stations",
        help="Overlap of neighbouring stations below which a warning tells of it.",
    )
    comparison_step_mm: float = setting(
        6.0,
        unit="mm",
        gt=1,
        le=40,
        source="a slice of usual stations",
        help="Lattice on which neighbouring stations are compared where they overlap.",
    )
    most_shift_mm: float = setting(
        12.0,
        unit="mm",
        gt=0,
        le=100,
        source="half the width of small muscles",
        help="Displacement of neighbouring stations above which a warning tells of it.",
    )
    most_motion_mm: float = setting(
        8.0,
        unit="mm",
        gt=0,
        le=100,
        source="a third of the width of small muscles",
        help="Displacement within a diffusion series, or between it and the T2w, above which a "
        "warning tells of it.",
    )
    fat_most_adc: float = setting(
        3e-4,
        unit="mm2/s",
        gt=0,
        le=1e-3,
        source="fat hardly diffuses, and tissue with water diffuses twice as fast or more",
        help="Diffusion coefficient up to which a bright voxel is fat that was not suppressed.",
    )
    most_unsuppressed: float = setting(
        0.05,
        unit="1",
        gt=0,
        le=1,
        source="fat that is suppressed is not bright",
        help="Share of such fat in a diffusion station above which a warning tells of it.",
    )
    least_voxels: int = setting(
        10,
        unit="1",
        ge=1,
        le=10000,
        source="means over fewer voxels are mostly noise",
        help="Voxels of a muscle below which a warning tells of it.",
    )

    @property
    def bias(self) -> dict[str, Any]:
        """Arguments of the correction of the receive field."""
        return {
            "method": self.bias_correction,
            "order": self.bias_order,
            "cell_mm": self.bias_cell_mm,
            "shrink_factor": self.bias_shrink_factor,
            "iterations": list(self.bias_iterations),
            "convergence": self.bias_convergence,
            "spline_mm": self.bias_spline_mm,
        }

    @property
    def fusion(self) -> dict[str, Any]:
        """Arguments of the registrations and of the fusion of labels."""
        return {
            "linear_iterations": list(self.atlas_linear_iterations),
            "syn_iterations": list(self.atlas_syn_iterations),
            "shrink_factors": list(self.atlas_shrink_factors),
            "smoothing_mm": list(self.atlas_smoothing_mm),
            "metric_radius": self.atlas_metric_radius,
            "margin_mm": self.atlas_margin_mm,
            "voxel_mm": self.atlas_voxel_mm,
            "patch_radius": self.atlas_patch_radius,
            "search_radius": self.atlas_search_radius,
            "sharpness": self.atlas_sharpness,
            "ridge": self.atlas_ridge,
        }


def bones_of_chunk(bones: Sequence[str], chunk: str) -> list[str]:
    """Names of the bones that a station is divided by.

    Parameters
    ----------
    bones : sequence of str
        As in the settings: NAME for all stations, CHUNK:NAME for those of one chunk.
    chunk : str
        Chunk of the station.

    Returns
    -------
    list of str
        Those of the chunk, or else those for all.

    Examples
    --------
    >>> bones_of_chunk(["femur", "1:skull"], "1"), bones_of_chunk(["femur", "1:skull"], "2")
    (['skull'], ['femur'])
    """
    parted = [bone.rpartition(":") for bone in bones]
    own = [name for place, _, name in parted if place == chunk]
    return own or [name for place, _, name in parted if not place]


def kept_apart(settings: MuscleSettings) -> tuple[str, ...]:
    """Entities that keep scans of a session apart.

    Parameters
    ----------
    settings : MuscleSettings
        Not looked at.

    Returns
    -------
    tuple of str
        None: all stations of a session belong together.
    """
    return ()


PIPELINE = Pipeline(
    name="muscle",
    title="Muscle",
    settings=MuscleSettings,
    primary="stations",
    group_by=kept_apart,
    drawn=("labels", "labels_table", "bone"),
    group_tables="cohort:composite_tables",
    visit_scores="cohort:onset_scores",
    beside=images_of_first_visit,
)
