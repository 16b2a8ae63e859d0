"""Settings of the pipeline of the cortex at 7T, and its place in the registry."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from bids_alsmri.engine.pipeline import Pipeline
from bids_alsmri.options import SettingsModel, setting

MEASURED = "benchmarks/cortex.py"
# below the root of a dataset: of FreeSurfer and FastSurfer, of fMRIPrep and sMRIPrep
FREESURFER_FOLDERS = ("", "sourcedata/freesurfer", "freesurfer")
SEGMENTATIONS = ("ribbon.mgz", "aparc+aseg.mgz", "aparc.DKTatlas+aseg.deep.mgz", "aseg.mgz")
CHOSEN = "chosen on simulated slabs and heads"


class Cortex7tSettings(SettingsModel):
    """Settings of the pipeline of the cortex at 7T."""

    least_snr: float = setting(
        3.0,
        unit="1",
        ge=0,
        le=100,
        source="gudbjartsson1995",
        help="Echoes below so many times the noise lie in its floor and give no rate of decay.",
    )
    ghost_object_share: float = setting(
        0.2,
        unit="1",
        gt=0,
        le=1,
        source=CHOSEN,
        help="What is brighter than so much of the head's signal is the head where ghosts are "
        "sought.",
    )
    ghost_margin_mm: float = setting(
        3.0,
        unit="mm",
        ge=0,
        le=20,
        source="skin and vessels at its edge are no ghosts",
        help="Air nearer to the head does not count there.",
    )
    layer_image: Literal["combined", "first", "last"] = setting(
        "combined",
        source="the paper does not say which echo was measured",
        help="Image that layers are sought in: all echoes combined, the first or the last.",
    )
    receive_fwhm_mm: float = setting(
        12.0,
        unit="mm",
        ge=0,
        le=100,
        paper=0.0,
        source=CHOSEN,
        paper_source="cosottini2016",
        help="Width of the Gaussian by which the field of reception and transmission is taken from "
        "white matter; 0 leaves the signal as it is.",
    )
    receive_inset_mm: float = setting(
        1.5,
        unit="mm",
        ge=0,
        le=10,
        source="beyond the fibres beneath the cortex",
        help="White matter nearer to the cortex does not count for that field.",
    )
    registration_voxel_mm: float = setting(
        1.0,
        unit="mm",
        ge=0.3,
        le=5,
        source="no finer than the T1w",
        help="Least voxel edge of the slab in the registration; all else is measured on its own "
        "voxels.",
    )
    bias_shrink_factor: int = setting(
        2,
        unit="1",
        ge=1,
        le=8,
        source=CHOSEN,
        help="Down-sampling for the bias correction before the registration.",
    )
    bias_iterations: tuple[int, ...] = setting(
        (20, 20),
        unit="1",
        source=CHOSEN,
        help="Most iterations of that correction at each level; it serves the registration alone.",
    )
    bias_convergence: float = setting(
        1e-4,
        unit="1",
        gt=0,
        le=0.1,
        source=CHOSEN,
        help="Change of the field at which a level of that correction ends.",
    )
    bias_spline_mm: float = setting(
        200.0,
        unit="mm",
        ge=20,
        le=400,
        source=CHOSEN,
        help="Distance of the field's control points at the first level.",
    )
    registration_fwhm_mm: tuple[float, ...] = setting(
        (6.0, 3.0, 1.5),
        unit="mm",
        source=CHOSEN,
        help="Smoothing of slab and T1w in the registration, step after step.",
    )
    registration_reach_mm: float = setting(
        16.0,
        unit="mm",
        ge=0,
        le=60,
        source=CHOSEN,
        help="How far from the place that the headers tell the slab is sought, along each axis.",
    )
    registration_reach_deg: float = setting(
        8.0,
        unit="degree",
        ge=0,
        le=45,
        source=CHOSEN,
        help="The same for turns about each axis.",
    )
    registration_tolerance_mm: float = setting(
        0.02,
        unit="mm",
        gt=0,
        le=1,
        source="far below a voxel",
        help="Steps below this end the registration.",
    )
    registration_threads: int = setting(
        1,
        unit="threads",
        ge=1,
        le=64,
        source="ARCHITECTURE: results repeat on one thread only",
        help="Threads of the bias correction before the registration.",
    )
    ribbon_mm: float = setting(
        0.5,
        unit="mm",
        gt=0,
        le=2,
        source="half a voxel of the T1w",
        help="Edge of the lattice on which distances from the borders of the cortex are counted.",
    )
    ribbon_smoothing_mm: float = setting(
        0.5,
        unit="mm",
        ge=0,
        le=5,
        source="a lattice has steps",
        help="Standard deviation of the Gaussian that evens those distances out.",
    )
    normal_smoothing_mm: float = setting(
        1.5,
        unit="mm",
        ge=0,
        le=10,
        source=MEASURED,
        help="Standard deviation of the Gaussian that evens out the normals of the cortex.",
    )
    refine_averaging_mm: float = setting(
        3.0,
        unit="mm",
        ge=0,
        le=10,
        paper=0.0,
        source=MEASURED,
        paper_source="cosottini2016",
        help="Radius over which profiles are averaged to move the borders of the T1w to where the "
        "slab shows them; 0 leaves them. A ribbon drawn on the slab is never moved.",
    )
    refine_reach_mm: float = setting(
        0.7,
        unit="mm",
        gt=0,
        le=3,
        source=MEASURED,
        help="How far the border of white matter is moved at most, beyond the shift of the whole.",
    )
    n_layers: int = setting(
        3,
        unit="1",
        ge=1,
        le=100,
        source="usual in the field, and what 4 voxels to a layer allow in 3 mm of cortex",
        help="Layers of equal volume into which the cortex of the slab is divided, for your own "
        "measures; the deep layer of the table is found on profiles.",
    )
    layer_smoothing_steps: int = setting(
        400,
        unit="1",
        ge=0,
        le=10000,
        source=MEASURED,
        help="How often the volume shares of neighbouring columns are averaged for these layers; n "
        "steps smooth with a Gaussian of about half the root of n voxels.",
    )
    area_reach_mm: float = setting(
        4.0,
        unit="mm",
        ge=0,
        le=20,
        source="about the thickness of the motor cortex",
        help="How far from an area of the template the border of white matter may lie to belong "
        "to it.",
    )
    drawn_area_reach_mm: float = setting(
        0.5,
        unit="mm",
        ge=0,
        le=5,
        source="the border of white matter may lie half a millimetre from where it was drawn",
        help="The same for areas that somebody drew on the slab.",
    )
    profile_spacing_mm: float = setting(
        0.5,
        unit="mm",
        gt=0,
        le=5,
        source="neighbours must not share noise",
        help="Least distance of profiles along the cortex.",
    )
    most_tilt_deg: float = setting(
        25.0,
        unit="degree",
        ge=0,
        le=60,
        source=MEASURED,
        help="Profiles of cortex that is tilted more against the upright on the slice are left "
        "out.",
    )
    cortex_range_mm: tuple[float, float] = setting(
        (1.2, 7.0),
        unit="mm",
        source="the cortex is 1.5 to 5 mm thick, the ribbon may be wrong by 1 mm",
        help="Least and largest distance of white matter and fluid at which there is cortex.",
    )
    outer_margin_mm: float = setting(
        0.8,
        unit="mm",
        ge=0,
        le=3,
        source=MEASURED,
        help="What is left out beneath the outer surface, where voxels hold fluid.",
    )
    inner_reach_mm: float = setting(
        1.8,
        unit="mm",
        gt=0,
        le=10,
        source=MEASURED,
        help="How far profiles go on into white matter.",
    )
    profile_step_mm: float = setting(
        0.1,
        unit="mm",
        gt=0,
        le=1,
        source=MEASURED,
        help="Distance of samples along profiles, and of the borders that are tried.",
    )
    surface_reach_mm: float = setting(
        1.3,
        unit="mm",
        gt=0,
        le=5,
        source=MEASURED,
        help="How far from the ribbon's outer surface that of the slab is sought.",
    )
    surface_blur_mm: float = setting(
        0.25,
        unit="mm",
        gt=0,
        le=2,
        source=MEASURED,
        help="Standard deviation of the blur of that surface.",
    )
    surface_least_step: float = setting(
        0.2,
        unit="1",
        ge=0,
        le=5,
        source="the contrast of layers stays below 0.15",
        help="By what share of the signal fluid must be brighter than cortex.",
    )
    surface_evening_mm: float = setting(
        1.25,
        unit="mm",
        gt=0,
        le=10,
        source=MEASURED,
        help="Radius over which the place of that surface is a median.",
    )
    most_bend_mm: float = setting(
        0.7,
        unit="mm",
        gt=0,
        le=5,
        source=MEASURED,
        help="By how much the distance from white matter may differ from that along a profile.",
    )
    layer_blurs_mm: tuple[float, ...] = setting(
        (0.15, 0.25, 0.4, 0.6),
        unit="mm",
        source=MEASURED,
        help="Blurs of the borders of layers that are tried.",
    )
    line_gaps_mm: tuple[float, ...] = setting(
        (0.5, 0.8, 1.1),
        unit="mm",
        source=MEASURED,
        help="Distances from the cortex at which the dark line of the U-fibres is tried.",
    )
    line_width_mm: float = setting(
        0.5, unit="mm", gt=0, le=3, source=MEASURED, help="Width of that line."
    )
    smallest_layer_mm: float = setting(
        0.5, unit="mm", gt=0, le=3, source=MEASURED, help="Least thickness of a layer."
    )
    most_interval_mm: float = setting(
        0.8,
        unit="mm",
        gt=0,
        le=5,
        source=CHOSEN,
        help="Longest interval with which a thickness of the deep layer is told.",
    )
    most_from_ribbon_mm: float = setting(
        1.0,
        unit="mm",
        gt=0,
        le=5,
        source="the ribbon may be wrong by 1 mm",
        help="Largest distance of the deep layer's end from the white matter of the T1w at which "
        "its thickness is told.",
    )
    significance: float = setting(
        0.05,
        unit="1",
        gt=0,
        le=0.5,
        source="usual in the field",
        help="Level of the test for each border of a layer.",
    )
    confidence: float = setting(
        0.95,
        unit="1",
        ge=0.5,
        le=0.999,
        source="usual in the field",
        help="Confidence of intervals.",
    )
    n_bootstrap: int = setting(
        200,
        unit="1",
        ge=20,
        le=100000,
        source="enough for ends of intervals to a tenth of their width",
        help="Resamplings of profiles from which intervals are taken.",
    )
    least_profiles: int = setting(
        60,
        unit="1",
        ge=8,
        le=100000,
        source=MEASURED,
        help="Profiles that an area needs; with less its values are missing.",
    )
    oval_mm2: float = setting(
        4.0,
        unit="mm2",
        gt=0,
        le=100,
        source="cosottini2016",
        help="Area of ovals that a reader gives as points.",
    )
    reference: Literal["nearest", "precuneus"] = setting(
        "nearest",
        paper="precuneus",
        source="the precuneus is often out of view",
        paper_source="cosottini2016",
        help="What deep signal is divided by: the superficial cortex of the left precuneus, and "
        "where that is out of view of the area itself, or else nothing.",
    )

    most_field_left: float = setting(
        0.05,
        unit="1",
        gt=0,
        le=1,
        source=CHOSEN,
        help="By what share the white matter beneath an area and beneath the precuneus may differ "
        "before normalised deep signal is marked as doubtful.",
    )

    @property
    def refining(self) -> dict[str, float]:
        """How the borders of the cortex are moved."""
        return {
            "spacing_mm": self.profile_spacing_mm,
            "most_tilt_deg": self.most_tilt_deg,
            "longest_mm": self.cortex_range_mm[1],
            "reach_mm": self.surface_reach_mm,
            "blur_mm": self.surface_blur_mm,
            "least_step": self.surface_least_step,
            "inner_reach_mm": self.refine_reach_mm,
            "averaging_mm": self.refine_averaging_mm,
        }

    @property
    def aligning(self) -> dict[str, float]:
        """How profiles are put in step."""
        return {
            "most_tilt_deg": self.most_tilt_deg,
            "least_cortex_mm": self.cortex_range_mm[0],
            "most_cortex_mm": self.cortex_range_mm[1],
            "margin_mm": self.outer_margin_mm,
            "beyond_mm": self.inner_reach_mm,
            "step_mm": self.profile_step_mm,
            "reach_mm": self.surface_reach_mm,
            "blur_mm": self.surface_blur_mm,
            "least_step": self.surface_least_step,
            "evening_mm": self.surface_evening_mm,
            "most_bend_mm": self.most_bend_mm,
        }

    @property
    def layering(self) -> dict[str, Any]:
        """How layers are told apart."""
        return {
            "blurs_mm": list(self.layer_blurs_mm),
            "line_gaps_mm": list(self.line_gaps_mm),
            "line_mm": self.line_width_mm,
            "smallest_layer_mm": self.smallest_layer_mm,
            "step_mm": self.profile_step_mm,
            "significance": self.significance,
            "confidence": self.confidence,
            "n_bootstrap": self.n_bootstrap,
        }

    @property
    def doubting(self) -> dict[str, float]:
        """What speaks against a thickness of the deep layer."""
        return {
            "most_interval_mm": self.most_interval_mm,
            "most_from_ribbon_mm": self.most_from_ribbon_mm,
        }


def kept_apart(settings: Cortex7tSettings) -> tuple[str, ...]:
    """Entities that keep slabs apart.

    Parameters
    ----------
    settings : Cortex7tSettings
        Not looked at.

    Returns
    -------
    tuple of str
        Protocol, reconstruction and run; echoes belong together.
    """
    return ("acquisition", "reconstruction", "run")


def segmentation_of(root: Path, participant: str, session: str | None) -> dict[str, Path]:
    """Segmentation of FreeSurfer, FastSurfer or sMRIPrep that the borders of the cortex come from.

    Parameters
    ----------
    root : Path
        Folder of a derivative dataset: of FreeSurfer's or FastSurfer's subjects, or of sMRIPrep.
    participant, session : str, str or None
        Labels, without ``sub-`` and ``ses-``.

    Returns
    -------
    dict of Path
        ``segmentation``: of the session before that of the participant, ribbons before
        segmentations; empty where there is none.
    """
    subject = f"sub-{participant}"
    subjects = [subject] if session is None else [f"{subject}_ses-{session}", subject]
    paths = []
    for name in subjects:
        for folder in FREESURFER_FOLDERS:
            paths += [root / folder / name / "mri" / image for image in SEGMENTATIONS]
        inner = root / name.replace("_ses-", "/ses-") / "anat"
        paths += sorted(
            path
            for path in inner.glob(f"{name}_*desc-aseg_dseg.nii.gz")
            if "_space-" not in path.name
        )
    return next(({"segmentation": path} for path in paths if path.is_file()), {})


PIPELINE = Pipeline(
    name="cortex7t",
    title="Cortex at 7T",
    settings=Cortex7tSettings,
    primary="slab",
    group_by=kept_apart,
    needs=("anatomical",),
    adopts=(("areas",),),
    foreign=segmentation_of,
    drawn=("ribbon", "caliper", "caliper_table", "oval", "oval_table", "points"),
    without_needs="no T1-weighted image: rates of decay are mapped, but no area is measured unless "
    "both the ribbon and the areas were drawn on the slab",
)
