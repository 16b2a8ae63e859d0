"""What is asked of a simulated cohort, and what a modality hands back."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bids_alsmri.errors import SettingsError

AXIS_LETTERS = ("RL", "AP", "SI")
SODIUM_EFFECTS = ("disease", "focal")
MAX_TUBES = 6


def check_ranges(settings: object, ranges: tuple[tuple[str, float, float], ...]) -> None:
    """Check that settings are finite and within their ranges.

    Parameters
    ----------
    settings : object
        What holds them.
    ranges : tuple of (str, float, float)
        Name, least and largest value.

    Raises
    ------
    SettingsError
        If a value is out of its range.
    """
    for name, low, high in ranges:
        value = getattr(settings, name)
        if not (np.isfinite(value) and low <= value <= high):
            raise SettingsError(f"{name} is {value:g}; it must lie from {low:g} to {high:g}")


@dataclass(frozen=True)
class SodiumSettings:
    """How sodium images are acquired; by default as in El Mendili 2022, where it says so.

    Parameters
    ----------
    voxel_mm : float
        Voxel edge of the image, in mm; `resolution_mm` at most.
    resolution_mm : float
        Nominal resolution: k-space is sampled up to 1 / (2 resolution), in mm.
    snr : float
        Signal of pure white matter over the noise of one receiver channel; 0: no noise.
    repetition_ms, echo_ms, flip_deg : float
        Repetition time and time from excitation to readout (ms), and flip angle (degrees).
    readout_ms : float
        Duration of the readout, during which the signal decays, in ms; 0: no decay in it.
    bias : float
        Largest deviation of the smooth receive field from one; 0: a perfect volume coil.
    max_reposition_mm, max_reposition_deg : float
        Largest difference of head pose, along and about each axis, to the T1-weighted scan, which
        is made in another coil.
    effect : {"disease", "focal"}
        What patients have: the graded effect of the disease, or 10 % more in the corticospinal
        tract alone, the same in all patients.
    tube_concentrations_mmol_l : tuple of float
        Sodium of each reference tube of agar, in mmol/L: right, left, then right and left behind
        them, then right and left in front.
    tube_diameter_mm, tube_length_mm : float
        Inner size of the tubes, in mm.
    max_tube_tilt_deg : float
        Largest angle between a tube and the scanner's long axis, in degrees.
    tube_gap_mm : float
        Least distance between a tube and the head, in mm.

    Raises
    ------
    SettingsError
        If a value is out of its range.
    """

    voxel_mm: float = 3.6
    resolution_mm: float = 3.6
    snr: float = 25.0
    repetition_ms: float = 120.0
    echo_ms: float = 0.2
    flip_deg: float = 90.0
    readout_ms: float = 20.0
    bias: float = 0.0
    max_reposition_mm: float = 8.0
    max_reposition_deg: float = 6.0
    effect: str = "disease"
    tube_concentrations_mmol_l: tuple[float, ...] = (50.0, 50.0)
    tube_diameter_mm: float = 25.0
    tube_length_mm: float = 80.0
    max_tube_tilt_deg: float = 10.0
    tube_gap_mm: float = 8.0

    def __post_init__(self) -> None:
        check_ranges(
            self,
            (
                ("resolution_mm", 1, 10),
                ("voxel_mm", 1, self.resolution_mm),
                ("snr", 0, 1e6),
                ("repetition_ms", 1, 1000),
                ("echo_ms", 0, 20),
                ("flip_deg", 1, 90),
                ("readout_ms", 0, 100),
                ("bias", 0, 0.9),
                ("max_reposition_mm", 0, 20),
                ("max_reposition_deg", 0, 20),
                ("tube_diameter_mm", 8, 40),
                ("tube_length_mm", 20, 120),
                ("max_tube_tilt_deg", 0, 45),
                ("tube_gap_mm", 0, 30),
            ),
        )
        if self.effect not in SODIUM_EFFECTS:
            raise SettingsError(
                f"effect is {self.effect!r}; give one of {', '.join(SODIUM_EFFECTS)}"
            )
        given = self.tube_concentrations_mmol_l
        if not 1 <= len(given) <= MAX_TUBES or not all(0 < c <= 1000 for c in given):
            raise SettingsError(
                f"tube_concentrations_mmol_l is {given}; give 1 to {MAX_TUBES} concentrations "
                "above 0 and up to 1000 mmol/L"
            )


DIXON_KINDS = ("none", "phases", "parts")


@dataclass(frozen=True)
class MuscleSettings:
    """How whole-body muscle images are acquired; stations and contrasts as in Jenkins 2020.

    Parameters
    ----------
    t2w_mm, t2w_slice_mm : float
        Voxel edge in the coronal plane and distance of coronal slices of T2w stations, in mm.
    dwi_mm, dwi_slice_mm : float
        Voxel edge in the axial plane and distance of axial slices of diffusion stations, in mm.
    n_t2w, n_dwi : int
        Stations of each; 0 leaves them out.
    low_mm, high_mm : float
        Part of the body that the stations cover, from -860 (ankles) to 820 (top of the head).
    overlap_mm : float
        What neighbouring stations share, in mm; negative for a gap.
    gain_spread : float
        Largest deviation of a station's gain from one, by coil loading.
    bias : float
        Largest deviation of the smooth receive field over a station from one.
    t2w_snr, dwi_snr : float
        Signal over the noise of one receiver channel: of fatty marrow in the T2w, of muscle at
        b=0 in the diffusion series; 0 leaves the noise out.
    b_values_s_mm2 : tuple of float
        Diffusion weightings of the volumes of each station, in s/mm2.
    max_shift_mm : float
        Largest displacement of the body between T2w and diffusion, along each axis, in mm.
    fat_residual : float
        Share of the signal of fat that its suppression leaves in the diffusion series.
    fat_shift_mm : float
        Displacement of that fat to the front, along phase encoding, in mm.
    legs : bool
        Whether T1w of thighs and calves are acquired too.
    hands : bool
        Whether a coronal T1w of the hands is acquired, in another frame of reference.
    legs_mm, legs_slice_mm : float
        Voxel edge in the plane and distance of slices of those T1w, in mm.
    dixon : str
        Whether legs are acquired as water and fat too: none, phases (two gradient echoes, opposed
        and in phase) or parts (images of water and of fat).
    n_echoes : int
        Echoes of a train, 10 ms apart, that is acquired of the legs; 0 for none.
    month : float
        Time since the first visit, which decides how far the change of the disease has come.
    size_spread : float
        Standard deviation of the size of limbs and muscles between people.
    readers : int
        Readers who outlined the muscles of T2w stations, beside the truth.
    reader_sd_mm : float
        How far their outlines stray, in mm.

    Raises
    ------
    SettingsError
        If a value is out of its range.
    """

    t2w_mm: float = 2.0
    t2w_slice_mm: float = 5.0
    dwi_mm: float = 3.0
    dwi_slice_mm: float = 6.0
    n_t2w: int = 6
    n_dwi: int = 8
    low_mm: float = -860.0
    high_mm: float = 820.0
    overlap_mm: float = 30.0
    gain_spread: float = 0.3
    bias: float = 0.1
    t2w_snr: float = 60.0
    dwi_snr: float = 30.0
    b_values_s_mm2: tuple[float, ...] = (0.0, 1000.0)
    max_shift_mm: float = 3.0
    fat_residual: float = 0.05
    fat_shift_mm: float = 12.0
    legs: bool = True
    hands: bool = True
    legs_mm: float = 2.0
    legs_slice_mm: float = 10.0
    dixon: str = "none"
    n_echoes: int = 0
    month: float = 0.0
    size_spread: float = 0.05
    readers: int = 0
    reader_sd_mm: float = 1.0

    def __post_init__(self) -> None:
        check_ranges(
            self,
            (
                ("t2w_mm", 0.7, 10),
                ("t2w_slice_mm", 1, 20),
                ("dwi_mm", 1, 12),
                ("dwi_slice_mm", 1, 30),
                ("n_t2w", 0, 20),
                ("n_dwi", 0, 20),
                ("low_mm", -860, 700),
                ("high_mm", self.low_mm + 60, 820),
                ("overlap_mm", -100, 100),
                ("gain_spread", 0, 0.8),
                ("bias", 0, 0.8),
                ("t2w_snr", 0, 1e6),
                ("dwi_snr", 0, 1e6),
                ("max_shift_mm", 0, 30),
                ("fat_residual", 0, 1),
                ("fat_shift_mm", -60, 60),
                ("legs_mm", 0.5, 10),
                ("legs_slice_mm", 1, 30),
                ("n_echoes", 0, 32),
                ("month", 0, 240),
                ("size_spread", 0, 0.2),
                ("readers", 0, 4),
                ("reader_sd_mm", 0, 10),
            ),
        )
        if self.dixon not in DIXON_KINDS:
            raise SettingsError(
                f"dixon is {self.dixon!r}; it must be one of {', '.join(DIXON_KINDS)}"
            )
        if self.n_dwi and not (
            len(self.b_values_s_mm2) > 1 and all(0 <= b <= 10000 for b in self.b_values_s_mm2)
        ):
            raise SettingsError(
                f"b_values_s_mm2 is {self.b_values_s_mm2}; give two or more from 0 to 10000"
            )


@dataclass(frozen=True)
class Cortex7tSettings:
    """How slabs through the motor cortex are acquired; by default as in Cosottini 2016.

    Parameters
    ----------
    voxel_mm, slice_mm : float
        Edge of a voxel in the slice and thickness of slices, in mm.
    field_of_view_mm, height_mm : float
        Field of view in the slice and of all slices, in mm.
    echo_times_ms : tuple of float
        Echo times, rising, in ms.
    snr : float
        Signal of the superficial cortex at the first echo over the noise of one channel; 0: none.
    bias : float
        Largest deviation of the smooth receive field from one.
    transmit_drop : float
        Share of signal that is lost from the front to the back of the slab.
    cortex_mm : float
        Least thickness of the upper cortex of the whole head, in mm; 0 leaves it as thin as that
        of the template.
    acquisition : {"2D", "3D"}
        What the sidecar says; a 3D slab is encoded twice, and its noise and voxels are the same.
    hemispheres : {"both", "left", "right"}
        What is in view; of one, the field of view is half as wide.
    has_phase : bool
        Whether there are phase images, in the scanner's units, beside the magnitudes.
    ghost : float
        Share of the signal that comes back half a field of view away, from front to back.

    Raises
    ------
    SettingsError
        If a value is out of its range.
    """

    voxel_mm: float = 0.25
    slice_mm: float = 2.0
    field_of_view_mm: float = 112.0
    height_mm: float = 44.0
    echo_times_ms: tuple[float, ...] = (10.0, 20.0)
    snr: float = 20.0
    bias: float = 0.3
    transmit_drop: float = 0.4
    cortex_mm: float = 3.6
    acquisition: str = "2D"
    hemispheres: str = "both"
    has_phase: bool = False
    ghost: float = 0.0

    def __post_init__(self) -> None:
        check_ranges(
            self,
            (
                ("voxel_mm", 0.1, 4),
                ("slice_mm", 0.2, 8),
                ("field_of_view_mm", 20, 200),
                ("height_mm", 4, 120),
                ("snr", 0, 1e6),
                ("bias", 0, 0.9),
                ("transmit_drop", 0, 0.9),
                ("cortex_mm", 0, 6),
                ("ghost", 0, 0.9),
            ),
        )
        for name, known in (
            ("acquisition", ("2D", "3D")),
            ("hemispheres", ("both", "left", "right")),
        ):
            if getattr(self, name) not in known:
                raise SettingsError(
                    f"{name} is {getattr(self, name)!r}; expected {' or '.join(known)}"
                )
        times = self.echo_times_ms
        if not times or any(not 0 < t <= 200 for t in times) or list(times) != sorted(set(times)):
            raise SettingsError(
                f"echo_times_ms is {times}; give rising echo times above 0 and up to 200 ms"
            )


@dataclass(frozen=True)
class PhantomSettings:
    """Everything that decides how a cohort is scanned; who is in it stands elsewhere.

    Parameters
    ----------
    seed : int
        Root of all random streams.
    modalities : tuple of str
        Names of the simulated modalities.
    sessions : tuple of str
        Session labels without ``ses-``; empty for a dataset without sessions.
    t1w_mm, dwi_mm : float
        Voxel edge of the T1-weighted and diffusion images, in mm.
    n_directions, n_b0 : int
        Diffusion-weighted and unweighted volumes.
    b_value_s_mm2 : float
        Diffusion weighting of the weighted volumes, in s/mm2.
    snr : float
        White-matter signal of the b=0 image over the noise of one receiver channel;
        0 leaves the noise out.
    max_motion_mm, max_motion_deg : float
        Largest head translation (mm) and rotation (degrees) about each axis.
    max_reposition_mm, max_reposition_deg : float
        Largest difference of head pose between the T1-weighted and the diffusion scan.
    max_eddy : float
        Largest eddy-current scaling and shear, dimensionless, at b = 1000 s/mm2 (the
        translation is 100 mm times it); 0 leaves the distortion out.
    n_dropout_slices : int
        Slices per participant that lose signal.
    effect_scale : float
        Factor on the disease effect, and on nothing else.
    t1w_noise_percent : float
        Noise of the T1-weighted image in percent of white matter.
    determinant : {"negative", "positive"}
        Sign of the determinant of the stored affine.
    oblique_deg : float
        Tilt of the acquired grid against the scanner, in degrees.
    axis_order : str
        Three letters that say where the stored axes point, such as ``RAS`` or ``PSR``; the first
        is flipped where `determinant` demands it.
    grey_loss : float
        Share of grey matter that patients have lost to fluid, in all modalities; the
        concentrations and diffusivities of what is left do not change.
    sodium : SodiumSettings
        How sodium images are acquired.
    cortex7t : Cortex7tSettings
        How slabs through the motor cortex are acquired.
    muscle : MuscleSettings
        How muscle images are acquired.

    Raises
    ------
    SettingsError
        If a value is out of its range.
    """

    seed: int = 0
    modalities: tuple[str, ...] = ("anat", "dwi", "sodium")
    sessions: tuple[str, ...] = ()
    t1w_mm: float = 1.0
    dwi_mm: float = 2.0
    n_directions: int = 64
    n_b0: int = 1
    b_value_s_mm2: float = 1000.0
    snr: float = 25.0
    max_motion_mm: float = 1.5
    max_motion_deg: float = 1.5
    max_reposition_mm: float = 3.0
    max_reposition_deg: float = 3.0
    max_eddy: float = 0.01
    n_dropout_slices: int = 0
    effect_scale: float = 1.0
    t1w_noise_percent: float = 2.0
    determinant: str = "negative"
    oblique_deg: float = 0.0
    axis_order: str = "RAS"
    grey_loss: float = 0.0
    sodium: SodiumSettings = field(default_factory=SodiumSettings)
    cortex7t: Cortex7tSettings = field(default_factory=Cortex7tSettings)
    muscle: MuscleSettings = field(default_factory=MuscleSettings)

    def __post_init__(self) -> None:
        ranges = (
            ("seed", 0, 2**63),
            ("t1w_mm", 0.5, 8),
            ("dwi_mm", 1, 8),
            ("n_directions", 6, 512),
            ("n_b0", 1, 64),
            ("b_value_s_mm2", 100, 10000),
            ("snr", 0, 1e6),
            ("max_motion_mm", 0, 20),
            ("max_motion_deg", 0, 20),
            ("max_reposition_mm", 0, 20),
            ("max_reposition_deg", 0, 20),
            ("max_eddy", 0, 0.1),
            ("n_dropout_slices", 0, 10000),
            ("effect_scale", 0, 4),
            ("t1w_noise_percent", 0, 50),
            ("oblique_deg", -60, 60),
            ("grey_loss", 0, 0.5),
        )
        check_ranges(self, ranges)
        if self.determinant not in ("negative", "positive"):
            raise SettingsError(f"determinant is {self.determinant!r}; give negative or positive")
        groups = sorted(
            "".join(g for g in AXIS_LETTERS if letter in g) for letter in self.axis_order
        )
        if groups != sorted(AXIS_LETTERS):
            raise SettingsError(
                f"axis_order is {self.axis_order!r}; give one of R or L, A or P, S or I each, "
                "such as RAS"
            )
        for label in self.sessions:
            if not label.isalnum():
                raise SettingsError(f"session label {label!r} is not alphanumeric; drop the rest")


@dataclass(frozen=True)
class Participant:
    """One simulated person.

    Parameters
    ----------
    label : str
        Participant label without ``sub-``.
    group : {"hc", "als"}
        Healthy control, or patient with ALS.
    progression : {"fast", "slow", "n/a"}
        Rate of decline; ``n/a`` for controls.
    index : int
        Number within the same group and progression, from 0; with these it keys the
        random streams, so that a person does not depend on the size of the cohort.
    age_year : float
        Age in years.
    sex, handedness : str
        As BIDS writes them.
    onset_site : str
        bulbar, upper limb, lower limb, or ``n/a``.
    onset_side : str
        left or right; ``n/a`` where the onset was bulbar, and for controls.
    disease_duration_months, alsfrs_r : int or None
        Months since onset; revised functional rating scale (0 to 48); None for controls.
    severity : float
        Factor on the effect maps of the participant's progression, 0 for controls.
    """

    label: str
    group: str
    progression: str
    index: int
    age_year: float
    sex: str
    handedness: str
    onset_site: str
    disease_duration_months: int | None
    alsfrs_r: int | None
    severity: float
    onset_side: str = "n/a"

    @property
    def kind(self) -> str:
        """Progression for patients, ``hc`` for controls."""
        return self.progression if self.group == "als" else "hc"


@dataclass(frozen=True)
class Table:
    """A tab-separated table and the words that describe its columns.

    Parameters
    ----------
    columns : tuple of str
        Column names.
    rows : tuple of tuple
        Numbers or strings, one tuple for each row.
    sidecar : dict
        Column name to a dictionary with Description and Units.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[object, ...], ...]
    sidecar: dict[str, object]


@dataclass(frozen=True)
class SimulatedImage:
    """One image as a modality hands it to the writer.

    Parameters
    ----------
    folder : str
        BIDS data type, such as ``anat``.
    tail : str
        The file name after participant and session, without extension: ``dir-AP_dwi``.
    values : (i, j, k) or (i, j, k, n) array
        Voxels in storage order; the data type is kept.
    affine : (4, 4) array
        Voxel to world, in mm.
    sidecar : dict
        Contents of the JSON file.
    texts : dict
        Further files with the same stem: extension (``.bval``) to contents.
    tables : dict
        Further tables: file-name tail without extension to table.
    repetition_s : float
        Repetition time for the header of four-dimensional images, in s.
    """

    folder: str
    tail: str
    values: NDArray[np.generic]
    affine: NDArray[np.float64]
    sidecar: dict[str, object]
    texts: dict[str, str] = field(default_factory=dict)
    tables: dict[str, Table] = field(default_factory=dict)
    repetition_s: float = 0.0


@dataclass(frozen=True)
class Simulation:
    """What a modality hands back for one session.

    Parameters
    ----------
    raw : tuple of SimulatedImage
        Goes to the raw dataset.
    truth : tuple of SimulatedImage
        Goes to the derivative that holds the truth.
    readers : tuple of tuple of SimulatedImage
        What each of several readers drew; goes to a derivative of their own.
    """

    raw: tuple[SimulatedImage, ...]
    truth: tuple[SimulatedImage, ...]
    readers: tuple[tuple[SimulatedImage, ...], ...] = ()
