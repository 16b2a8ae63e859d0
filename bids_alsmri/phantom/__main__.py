"""Command line of the phantom: ``bids_alsmri_phantom OUT --participants N --seed S``."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from bids_alsmri.errors import AlsMriError, ExitCode
from bids_alsmri.phantom.map_settings import EFFECTS, MapSettings
from bids_alsmri.phantom.records import (
    DIXON_KINDS,
    MAX_TUBES,
    SODIUM_EFFECTS,
    Cortex7tSettings,
    MuscleSettings,
    PhantomSettings,
    SodiumSettings,
)


def build_parser() -> argparse.ArgumentParser:
    """Make the parser.

    Returns
    -------
    ArgumentParser
        Defaults are those of `PhantomSettings`.
    """
    d = PhantomSettings()
    parser = argparse.ArgumentParser(
        prog="bids_alsmri_phantom",
        description="Write a simulated BIDS cohort of ALS patients and controls with known truth.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("out", type=Path, help="folder of the new dataset (absent or empty)")
    who = parser.add_argument_group("cohort")
    who.add_argument("--participants", type=int, help="how many: half controls, half patients")
    who.add_argument("--controls", type=int, default=0, help="or: number of controls")
    who.add_argument("--fast", type=int, default=0, help="or: number of fast progressors")
    who.add_argument("--slow", type=int, default=0, help="or: number of slow progressors")
    who.add_argument("--seed", type=int, default=d.seed, help="root of all random numbers")
    who.add_argument("--sessions", nargs="+", default=[], help="session labels")
    who.add_argument("--effect-scale", type=float, default=d.effect_scale, help="disease effect")
    who.add_argument(
        "--grey-loss", type=float, default=d.grey_loss, help="share of grey matter patients lack"
    )
    who.add_argument(
        "--clinical",
        action="store_true",
        help="write clinical tables too (phenotype: strength, motor units, scores, readers)",
    )
    who.add_argument(
        "--clinical-only",
        action="store_true",
        help="write clinical tables and no images; later sessions lack some of the patients",
    )
    add("--modalities", default=",".join(d.modalities), help="comma-separated")
    m = MapSettings()
    maps = parser.add_argument_group("maps in place of scans")
    maps.add_argument(
        "--maps-only",
        type=Path,
        metavar="OUTPUT_DIR",
        help="draw maps, not scans, and write them here as the participant level would leave them",
    )
    maps.add_argument(
        "--template-mm", type=float, default=m.voxel_mm, help="voxel edge of the template (mm)"
    )
    maps.add_argument(
        "--registration-sd-mm",
        type=float,
        default=m.registration_sd_mm,
        help="what registration leaves along each axis, standard deviation (mm)",
    )
    scan = parser.add_argument_group("scan")
    for flag, default, text in (
        ("--t1w-mm", d.t1w_mm, "T1w voxel edge (mm)"),
        ("--dwi-mm", d.dwi_mm, "DWI voxel edge (mm)"),
        ("--b-value", d.b_value_s_mm2, "diffusion weighting (s/mm2)"),
        ("--snr", d.snr, "white-matter SNR at b=0; 0: no noise"),
        ("--t1w-noise-percent", d.t1w_noise_percent, "T1w noise, percent of white matter"),
        ("--max-motion-mm", d.max_motion_mm, "largest translation between volumes (mm)"),
        ("--max-motion-deg", d.max_motion_deg, "largest rotation between volumes (degrees)"),
        ("--max-reposition-mm", d.max_reposition_mm, "largest shift between T1w and DWI (mm)"),
        ("--max-reposition-deg", d.max_reposition_deg, "largest turn between T1w and DWI (deg)"),
        ("--max-eddy", d.max_eddy, "largest eddy-current scale and shear at b=1000"),
        ("--oblique-deg", d.oblique_deg, "tilt of the grids against the scanner (degrees)"),
    ):
        scan.add_argument(flag, type=float, default=default, help=text)
    scan.add_argument("--n-directions", type=int, default=d.n_directions, help="weighted volumes")
    scan.add_argument("--n-b0", type=int, default=d.n_b0, help="unweighted volumes")
    scan.add_argument("--dropout-slices", type=int, default=0, help="slices that lose signal")
    scan.add_argument("--no-motion", action="store_true", help="same as both motions 0")
    scan.add_argument("--no-eddy", action="store_true", help="same as --max-eddy 0")
    scan.add_argument(
        "--determinant",
        choices=("negative", "positive"),
        default=d.determinant,
        help="of the stored affine; flips the first stored axis where needed",
    )
    scan.add_argument("--axis-order", default=d.axis_order, help="stored axes, such as RAS or PSR")
    _add_sodium(parser)
    _add_cortex7t(parser)
    _add_muscle(parser)
    return parser


def _add_sodium(parser: argparse.ArgumentParser) -> None:
    d = SodiumSettings()
    group = parser.add_argument_group("sodium scan")
    for flag, default, text in (
        ("--sodium-mm", d.voxel_mm, "voxel edge (mm), the resolution at most"),
        ("--sodium-resolution-mm", d.resolution_mm, "nominal resolution (mm)"),
        ("--sodium-snr", d.snr, "white-matter SNR; 0: no noise"),
        ("--sodium-repetition-ms", d.repetition_ms, "repetition time (ms)"),
        ("--sodium-echo-ms", d.echo_ms, "time from excitation to readout (ms)"),
        ("--sodium-flip-deg", d.flip_deg, "flip angle (degrees)"),
        ("--sodium-readout-ms", d.readout_ms, "readout (ms); 0: no decay along it"),
        ("--sodium-bias", d.bias, "largest deviation of the receive field from one"),
        ("--max-sodium-reposition-mm", d.max_reposition_mm, "largest shift to T1w (mm)"),
        ("--max-sodium-reposition-deg", d.max_reposition_deg, "largest turn to T1w (degrees)"),
        ("--tube-diameter-mm", d.tube_diameter_mm, "diameter of the reference tubes (mm)"),
        ("--tube-length-mm", d.tube_length_mm, "length of the reference tubes (mm)"),
        ("--max-tube-tilt-deg", d.max_tube_tilt_deg, "largest tilt of the tubes (degrees)"),
        ("--tube-gap-mm", d.tube_gap_mm, "gap between tubes and head (mm)"),
    ):
        group.add_argument(flag, type=float, default=default, help=text)
    group.add_argument(
        "--tube-concentrations-mmol-l",
        type=float,
        nargs="+",
        default=list(d.tube_concentrations_mmol_l),
        help=f"of the tubes right, left and further ones, up to {MAX_TUBES} (mmol/L)",
    )
    group.add_argument(
        "--sodium-effect",
        choices=SODIUM_EFFECTS,
        default=d.effect,
        help="graded disease effect, or 10 percent in the corticospinal tract of all patients",
    )


def _add_cortex7t(parser: argparse.ArgumentParser) -> None:
    d = Cortex7tSettings()
    group = parser.add_argument_group("slab at 7T (--modalities anat,cortex7t)")
    for flag, default, text in (
        ("--cortex7t-mm", d.voxel_mm, "voxel edge in the slice (mm)"),
        ("--cortex7t-slice-mm", d.slice_mm, "thickness of slices (mm)"),
        ("--cortex7t-field-of-view-mm", d.field_of_view_mm, "field of view in the slice (mm)"),
        ("--cortex7t-height-mm", d.height_mm, "all slices together (mm)"),
        ("--cortex7t-snr", d.snr, "SNR of the superficial cortex, first echo; 0: no noise"),
        ("--cortex7t-bias", d.bias, "largest deviation of the receive field from one"),
        ("--cortex7t-transmit-drop", d.transmit_drop, "share of signal lost towards the back"),
        ("--cortex7t-cortex-mm", d.cortex_mm, "least thickness of the cortex; 0: the template's"),
        ("--cortex7t-ghost", d.ghost, "share of signal that comes back half a field of view away"),
    ):
        group.add_argument(flag, type=float, default=default, help=text)
    group.add_argument(
        "--cortex7t-echo-times-ms",
        type=float,
        nargs="+",
        default=list(d.echo_times_ms),
        help="echo times (ms)",
    )
    group.add_argument("--cortex7t-acquisition", choices=("2D", "3D"), default=d.acquisition)
    group.add_argument(
        "--cortex7t-hemispheres", choices=("both", "left", "right"), default=d.hemispheres
    )
    group.add_argument("--cortex7t-phase", action="store_true", help="phase images too")


MUSCLE_OPTIONS = (
    ("t2w_mm", "coronal voxel edge of T2w stations (mm)"),
    ("t2w_slice_mm", "distance of their slices (mm)"),
    ("dwi_mm", "axial voxel edge of diffusion stations (mm)"),
    ("dwi_slice_mm", "distance of their slices (mm)"),
    ("n_t2w", "T2w stations"),
    ("n_dwi", "diffusion stations"),
    ("low_mm", "lower end of the stations, from -860 at the ankles (mm)"),
    ("high_mm", "upper end of the stations, up to 820 at the top of the head (mm)"),
    ("overlap_mm", "overlap of neighbouring stations, negative for a gap (mm)"),
    ("gain_spread", "largest deviation of a station's gain from one"),
    ("bias", "largest deviation of the receive field from one"),
    ("t2w_snr", "SNR of fatty marrow in T2w and T1w; 0: no noise"),
    ("dwi_snr", "SNR of muscle at b=0; 0: no noise"),
    ("max_shift_mm", "largest shift of the body between T2w and diffusion (mm)"),
    ("fat_residual", "share of fat that suppression leaves in diffusion"),
    ("fat_shift_mm", "displacement of that fat to the front (mm)"),
    ("legs_mm", "voxel edge of the T1w of legs and hands (mm)"),
    ("legs_slice_mm", "distance of slices of the T1w of the legs (mm)"),
    ("n_echoes", "echoes of a train of the legs, for T2; 0: none"),
    ("size_spread", "spread of the size of limbs between people"),
    ("readers", "readers who outlined the muscles"),
    ("reader_sd_mm", "how far their outlines stray (mm)"),
)


def _add_muscle(parser: argparse.ArgumentParser) -> None:
    d = MuscleSettings()
    group = parser.add_argument_group("muscle scan")
    for name, text in MUSCLE_OPTIONS:
        default = getattr(d, name)
        flag = f"--muscle-{name.replace('_', '-')}"
        group.add_argument(flag, type=type(default), default=default, help=text)
    group.add_argument(
        "--muscle-b-values",
        type=float,
        nargs="+",
        default=list(d.b_values_s_mm2),
        help="weightings of the volumes of a diffusion station (s/mm2)",
    )
    group.add_argument(
        "--muscle-dixon",
        choices=DIXON_KINDS,
        default=d.dixon,
        help="water and fat of the legs: as two phases, or as images of either",
    )
    group.add_argument("--no-muscle-legs", action="store_true", help="no T1w of the legs")
    group.add_argument("--no-muscle-hands", action="store_true", help="no T1w of the hands")


def _muscle_settings_from(a: argparse.Namespace) -> MuscleSettings:
    given = {name: getattr(a, f"muscle_{name}") for name, _ in MUSCLE_OPTIONS}
    return MuscleSettings(
        **given,
        b_values_s_mm2=tuple(a.muscle_b_values),
        dixon=a.muscle_dixon,
        legs=not a.no_muscle_legs,
        hands=not a.no_muscle_hands,
    )


def settings_from(arguments: argparse.Namespace) -> PhantomSettings:
    """Settings from parsed arguments.

    Parameters
    ----------
    arguments : Namespace
        As `build_parser` makes them.

    Returns
    -------
    PhantomSettings
        Checked.
    """
    a = arguments
    return PhantomSettings(
        seed=a.seed,
        modalities=tuple(name for name in a.modalities.split(",") if name),
        sessions=tuple(label.removeprefix("ses-") for label in a.sessions),
        t1w_mm=a.t1w_mm,
        dwi_mm=a.dwi_mm,
        n_directions=a.n_directions,
        n_b0=a.n_b0,
        b_value_s_mm2=a.b_value,
        snr=a.snr,
        max_motion_mm=0.0 if a.no_motion else a.max_motion_mm,
        max_motion_deg=0.0 if a.no_motion else a.max_motion_deg,
        max_reposition_mm=a.max_reposition_mm,
        max_reposition_deg=a.max_reposition_deg,
        max_eddy=0.0 if a.no_eddy else a.max_eddy,
        n_dropout_slices=a.dropout_slices,
        effect_scale=a.effect_scale,
        t1w_noise_percent=a.t1w_noise_percent,
        determinant=a.determinant,
        oblique_deg=a.oblique_deg,
        axis_order=a.axis_order.upper(),
        grey_loss=a.grey_loss,
        sodium=_sodium_settings_from(a),
        cortex7t=Cortex7tSettings(
            voxel_mm=a.cortex7t_mm,
            slice_mm=a.cortex7t_slice_mm,
            field_of_view_mm=a.cortex7t_field_of_view_mm,
            height_mm=a.cortex7t_height_mm,
            echo_times_ms=tuple(a.cortex7t_echo_times_ms),
            snr=a.cortex7t_snr,
            bias=a.cortex7t_bias,
            transmit_drop=a.cortex7t_transmit_drop,
            cortex_mm=a.cortex7t_cortex_mm,
            acquisition=a.cortex7t_acquisition,
            hemispheres=a.cortex7t_hemispheres,
            has_phase=a.cortex7t_phase,
            ghost=a.cortex7t_ghost,
        ),
        muscle=_muscle_settings_from(a),
    )


def _sodium_settings_from(a: argparse.Namespace) -> SodiumSettings:
    return SodiumSettings(
        voxel_mm=a.sodium_mm,
        resolution_mm=a.sodium_resolution_mm,
        snr=a.sodium_snr,
        repetition_ms=a.sodium_repetition_ms,
        echo_ms=a.sodium_echo_ms,
        flip_deg=a.sodium_flip_deg,
        readout_ms=a.sodium_readout_ms,
        bias=a.sodium_bias,
        max_reposition_mm=a.max_sodium_reposition_mm,
        max_reposition_deg=a.max_sodium_reposition_deg,
        effect=a.sodium_effect,
        tube_concentrations_mmol_l=tuple(a.tube_concentrations_mmol_l),
        tube_diameter_mm=a.tube_diameter_mm,
        tube_length_mm=a.tube_length_mm,
        max_tube_tilt_deg=a.max_tube_tilt_deg,
        tube_gap_mm=a.tube_gap_mm,
    )


def map_settings_from(arguments: argparse.Namespace) -> MapSettings:
    """Settings of a cohort of maps from parsed arguments.

    Parameters
    ----------
    arguments : Namespace
        As `build_parser` makes them.

    Returns
    -------
    MapSettings
        Checked.
    """
    a = arguments
    return MapSettings(
        seed=a.seed,
        voxel_mm=a.template_mm,
        sessions=tuple(label.removeprefix("ses-") for label in a.sessions),
        effects={
            kind: {name: a.effect_scale * d for name, d in by_map.items()}
            for kind, by_map in EFFECTS.items()
        },
        registration_sd_mm=a.registration_sd_mm,
        grey_loss=a.grey_loss,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program's name; those of the process by default.

    Returns
    -------
    int
        Exit code.
    """
    parser = build_parser()
    try:
        arguments = parser.parse_args(argv)
    except SystemExit as end:
        # argparse leaves with 2, which BIDS Apps reserve; 0 is --help.
        return int(ExitCode.USAGE) if end.code else int(ExitCode.DONE)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    # Imported late: --help answers without scipy and nibabel.
    from bids_alsmri.phantom.clinical import write_clinical_dataset, write_phenotype
    from bids_alsmri.phantom.cohort import draw_cohort, kinds_of
    from bids_alsmri.phantom.dataset import write_cohort
    from bids_alsmri.phantom.map_cohort import write_map_cohort

    try:
        settings = settings_from(arguments)
        kinds = kinds_of(arguments.participants, arguments.controls, arguments.fast, arguments.slow)
        participants = draw_cohort(kinds, settings.seed)
        sessions, seed = settings.sessions, settings.seed
        if arguments.clinical_only:
            write_clinical_dataset(arguments.out, participants, sessions=sessions, seed=seed)
        elif arguments.maps_only is None:
            write_cohort(arguments.out, participants, settings)
        else:
            write_map_cohort(
                arguments.out, arguments.maps_only, participants, map_settings_from(arguments)
            )
        if arguments.clinical and not arguments.clinical_only:
            write_phenotype(arguments.out, participants, sessions=sessions, seed=seed)
    except AlsMriError as error:
        logging.getLogger(__name__).error("%s", error)
        return int(error.exit_code)
    except OSError as error:
        logging.getLogger(__name__).error("cannot write %s: %s", arguments.out, error)
        return int(ExitCode.CANNOT_WRITE)
    return int(ExitCode.DONE)


if __name__ == "__main__":
    sys.exit(main())
