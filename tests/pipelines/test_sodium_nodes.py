"""Parts of the sodium pipeline on arrays and small images whose truth is known in closed form."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from scipy import ndimage

from bids_alsmri.errors import DataError, NumericsError
from bids_alsmri.interfaces.base import ImageData, write_image
from bids_alsmri.interfaces.registration import write_linear
from bids_alsmri.numerics.calibration import calibrate
from bids_alsmri.numerics.pointspread import blur, scaled_point_spread
from bids_alsmri.numerics.tubes import FoundTubes, Tube
from bids_alsmri.pipelines.sodium import steps
from bids_alsmri.pipelines.sodium.echoes import first_echo
from bids_alsmri.pipelines.sodium.pipeline import PIPELINE, SodiumSettings, receive_method
from bids_alsmri.pipelines.sodium.places import (
    in_long_form,
    labels_of_parts,
    motor_rows,
    parts_of_voxels,
    structures_of,
    summarise_atlas,
    write_parts,
)
from bids_alsmri.pipelines.sodium.protocol import (
    protocol_of,
    read_protocol_file,
    relaxation_of,
    tube_concentrations,
)
from bids_alsmri.pipelines.sodium.tissues import (
    REGIONS,
    Anatomy,
    FineGrid,
    Grid,
    correct_partial_volume,
    fine_grid,
    mixed_shares,
    sharpened,
)
from bids_alsmri.pipelines.sodium.tubework import TubeChoices, calibrate_tubes
from bids_alsmri.pipelines.sodium.workflow import find_tubes
from bids_alsmri.spaces.atlases import MOTOR_AREAS, Atlas, Region, motor_areas

PATH = Path("sub-01_acq-sodium_PDw.nii.gz")
VOXEL_MM = (3.6, 3.6, 3.6)
SIDECAR = {
    "EchoTime": 0.0002,
    "RepetitionTimeExcitation": 0.12,
    "FlipAngle": 90,
    "AcquisitionVoxelSize": [3.6, 3.6, 3.6],
    "SodiumReadoutDuration": 0.02,
}
READOUT = SodiumSettings().readout


def protocol(needs_times=True, needs_spread=True, **changes):
    sidecar = {key: value for key, value in {**SIDECAR, **changes}.items() if value is not None}
    return protocol_of(
        sidecar, PATH, VOXEL_MM, READOUT, needs_times=needs_times, needs_spread=needs_spread
    )


# ---- sidecar


def test_times_of_the_sidecar_come_out_in_ms():
    found = protocol()
    assert (found.echo_ms, found.repetition_ms, found.flip_deg) == (0.2, 120.0, 90.0)
    assert (found.nominal_mm, found.readout_ms) == (3.6, 20.0)


def test_repetition_time_stands_for_that_of_the_excitation():
    assert protocol(RepetitionTimeExcitation=None, RepetitionTime=0.1).repetition_ms == 100.0


@pytest.mark.parametrize("key", ["EchoTime", "FlipAngle", "RepetitionTimeExcitation"])
def test_missing_key_of_the_relaxation_is_named_with_file_and_unit(key):
    with pytest.raises(DataError, match=f"{PATH.name}: sidecar lacks {key} .*(s|degrees)"):
        protocol(**{key: None})


@pytest.mark.parametrize("key", ["EchoTime", "FlipAngle", "RepetitionTimeExcitation"])
def test_without_correction_of_relaxation_its_keys_are_not_needed(key):
    assert protocol(needs_times=False, **{key: None})


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("EchoTime", 0.2, "write 0.0002"),
        ("EchoTime", 2.0, "milliseconds"),
        ("RepetitionTimeExcitation", 120, "write 0.12"),
        ("SodiumReadoutDuration", 20, "write 0.02"),
        ("FlipAngle", 180, "below 180"),
        ("FlipAngle", "90", "expected a number"),
        ("AcquisitionVoxelSize", [0.0036] * 3, "expected mm"),
        ("SodiumReferenceConcentrations", [50, 50], "expected a list of tubes"),
        ("SodiumReferenceConcentrations", [{"Label": "left"}], "expected a list of tubes"),
        ("SodiumReferenceConcentrations", [{"Concentration": -5}], "expected 0 to 1000"),
    ],
)
def test_value_of_another_unit_or_kind_is_refused_with_its_remedy(key, value, said):
    with pytest.raises(DataError, match=said) as error:
        protocol(**{key: value})
    assert PATH.name in str(error.value)
    assert key in str(error.value)


@pytest.mark.parametrize(("needs_spread", "n_warnings"), [(True, 1), (False, 0)])
def test_assumed_readout_is_warned_of_where_blur_is_corrected(needs_spread, n_warnings):
    found = protocol(needs_spread=needs_spread, SodiumReadoutDuration=None)
    assert found.readout_ms == SodiumSettings().assumed_readout_ms
    assert len(found.warnings) == n_warnings


def test_protocol_survives_its_file(tmp_path):
    found = protocol(SodiumReferenceConcentrations=[{"Label": "left", "Concentration": 50}])
    assert read_protocol_file(found.write(tmp_path / "protocol.json")) == found


def test_weight_of_a_tissue_is_that_of_the_closed_form():
    t1, short, long, share = 39.0, 3.4, 23.5, 0.6
    saturation = 1 - np.exp(-120 / t1)  # 90 degrees
    decay = share * np.exp(-0.2 / short) + (1 - share) * np.exp(-0.2 / long)
    weight = protocol().weight_of(relaxation_of([t1, short, long, share]))
    assert_allclose(weight, saturation * decay, rtol=1e-12)


# ---- concentrations of tubes

LEFT_RIGHT = np.array([[-90.0, 0.0, 0.0], [90.0, 0.0, 0.0]])


def concentrations(option=(), sidecar=(), centres=LEFT_RIGHT):
    numbers = list(range(1, len(centres) + 1))
    return tube_concentrations(
        numbers, centres, np.zeros(3), option=option, sidecar=sidecar, usual_mmol_l=50.0
    )


def test_option_wins_over_the_sidecar():
    assert concentrations([20, 80], [("1", 30.0), ("2", 40.0)])[:2] == ([20.0, 80.0], "option")


def test_one_concentration_of_the_option_holds_for_all_tubes():
    assert concentrations([40])[0] == [40.0, 40.0]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (("left", "right"), [30.0, 80.0]),
        (("Right", "Left"), [80.0, 30.0]),
        (("2", "1"), [80.0, 30.0]),
        (("rightPosterior", "leftAnterior"), [80.0, 30.0]),
    ],
)
def test_sidecar_names_tubes_by_number_or_side(labels, expected):
    sidecar = list(zip(labels, (30.0, 80.0), strict=True))
    assert concentrations(sidecar=sidecar)[:2] == (expected, "sidecar")


def test_four_tubes_are_told_apart_by_two_sides_each():
    centres = np.array([[-90.0, 60, 0], [-90, -60, 0], [90, 60, 0], [90, -60, 0]])
    names = ("rightPosterior", "rightAnterior", "leftPosterior", "leftAnterior")
    sidecar = list(zip(names, (10.0, 20.0, 30.0, 40.0), strict=True))
    assert concentrations(sidecar=sidecar, centres=centres)[0] == [40.0, 30.0, 20.0, 10.0]


def test_unknown_concentration_is_warned_of():
    values, origin, warnings = concentrations()
    assert (values, origin) == ([50.0, 50.0], "assumed")
    assert "50 mmol/L was assumed" in warnings[0]


@pytest.mark.parametrize(
    ("option", "sidecar", "said"),
    [
        ([20, 40, 60], [], "2 tubes were found but tube_concentrations_mmol_l has 3"),
        ([], [("a", 20.0), ("b", 40.0)], "do not tell which tube is which"),
        ([], [("1", 20.0), ("2", 40.0), ("3", 60.0)], "names 3 of different sodium"),
    ],
)
def test_concentrations_that_do_not_fit_the_tubes_are_refused(option, sidecar, said):
    with pytest.raises(DataError, match=said):
        concentrations(option, sidecar)


# ---- tubes


def cylinders(signals=(900.0, 900.0), diameter_mm=40.0):
    """Image of two tubes on a grid of 3.6 mm without blur, and what is known of them."""
    shape, affine = (60, 20, 30), np.diag([*VOXEL_MM, 1.0])
    x, y, z = (3.6 * axis for axis in np.indices(shape))
    data, labels, tubes = np.zeros(shape), np.zeros(shape, np.int16), []
    for number, (signal, x_mm) in enumerate(zip(signals, (36.0, 180.0), strict=True), start=1):
        inside = (np.hypot(x - x_mm, y - 36) < diameter_mm / 2) & (np.abs(z - 54) < 40)
        data[inside], labels[inside] = signal, number
        centre, axis = np.array([x_mm, 36.0, 54.0]), np.array([0.0, 0.0, 1.0])
        tubes.append(Tube(number, centre, axis, diameter_mm, 80.0, signal, 1.0, 1.0, False, False))
    head = np.zeros(shape, bool)
    head[25:35, 5:15, 5:25] = True
    rng = np.random.default_rng(1)
    image = ImageData(data + rng.normal(0, 5, shape), affine, VOXEL_MM, PATH)
    return image, FoundTubes(labels, tuple(tubes), head, ("(0, 0, 0) mm is round",))


CHOICES = TubeChoices(
    erosion_fwhm=0.5,
    reach_sd=3.0,
    most_disagreement=0.15,
    most_saturated=0.05,
    has_recovery=False,
    has_relaxation=True,
    concentrations_mmol_l=(50.0,),
    usual_mmol_l=50.0,
    reference_tubes=(),
    is_fitted=False,
)
AGAR = relaxation_of([45.6, 4.3, 4.3, 0.6])


def calibrated(image, found, sidecar=None, **changes):
    choices = replace(CHOICES, **changes)
    told = protocol(SodiumReferenceConcentrations=sidecar)
    return calibrate_tubes(image, found, told, AGAR, noise_sigma=5.0, choices=choices)


def test_line_of_equal_tubes_goes_through_the_origin():
    done = calibrated(*cylinders())
    weight = (1 - np.exp(-120 / 45.6)) * np.exp(-0.2 / 4.3)
    # noise of 5 over some 300 voxels a tube
    assert_allclose(done.line.slope, 900 / weight / 50, rtol=2e-3)
    assert done.line.through_origin
    assert done.facts["warnings"] == []


def test_without_relaxation_the_line_is_that_of_the_paper():
    done = calibrated(*cylinders(), has_relaxation=False)
    assert_allclose(done.line.slope, 900 / 50, rtol=2e-3)


def test_two_concentrations_give_a_line_with_r2():
    done = calibrated(*cylinders((400.0, 800.0)), concentrations_mmol_l=(40.0, 80.0))
    assert not done.line.through_origin
    assert_allclose(done.line.r_squared, 1.0, atol=1e-6)


def test_tubes_that_disagree_are_refused_with_their_places():
    with pytest.raises(NumericsError, match=r"differ by 50 %.*at most 15 % are allowed") as error:
        calibrated(*cylinders((600.0, 900.0)))
    assert "tubes 1 at (36, 36, 54) mm, 2 at (180, 36, 54) mm" in error.value.__notes__[0]


def test_tube_that_is_no_reference_does_not_count():
    done = calibrated(*cylinders((600.0, 900.0)), reference_tubes=(2,), has_relaxation=False)
    assert_allclose(done.line.slope, 900 / 50, rtol=2e-3)
    assert list(done.table["tube"]) == [2]
    assert "no references and were not used: 1" in done.facts["notes"][-1]


def test_sidecar_that_names_some_tubes_by_number_makes_them_the_references():
    sidecar = [{"Label": "2", "Concentration": 90}]
    images = cylinders((600.0, 900.0))
    done = calibrated(*images, sidecar, concentrations_mmol_l=(), has_relaxation=False)
    assert_allclose(done.line.slope, 900 / 90, rtol=2e-3)


def test_sidecar_of_more_tubes_than_calibrate_is_read_by_number():
    sidecar = [{"Label": "1", "Concentration": 30}, {"Label": "2", "Concentration": 90}]
    asked = {"concentrations_mmol_l": (), "reference_tubes": (2,), "has_relaxation": False}
    done = calibrated(*cylinders((600.0, 900.0)), sidecar, **asked)
    assert_allclose(done.line.slope, 900 / 90, rtol=2e-3)


def test_reference_that_is_no_tube_is_refused_with_those_there_are():
    with pytest.raises(DataError, match=r"names tube 3, but there are 1 at \(36, 36, 54\) mm, 2"):
        calibrated(*cylinders(), reference_tubes=(1, 3))


def wider(found, width_scale):
    tubes = tuple(replace(tube, width_scale=width_scale) for tube in found.tubes)
    return replace(found, tubes=tubes)


def test_fitted_point_spread_of_tubes_is_as_good_as_a_protocol_of_that_width():
    image, found = cylinders(diameter_mm=25.0)
    asked = replace(CHOICES, has_recovery=True)
    fitted = calibrated(image, wider(found, 1.4), has_recovery=True, is_fitted=True)
    wide = replace(protocol(), spread_scale=1.4)
    expected = calibrate_tubes(image, found, wide, AGAR, noise_sigma=5.0, choices=asked)
    assert_allclose(fitted.line.slope, expected.line.slope, rtol=1e-12)
    assert_allclose(fitted.table["recovery"], expected.table["recovery"], rtol=1e-12)
    narrow = calibrated(image, found, has_recovery=True)
    assert abs(fitted.line.slope / narrow.line.slope - 1) > 5e-3


@pytest.mark.parametrize("width_scale", [0.6, 1.79])
def test_point_spread_at_the_end_of_the_fit_is_warned_of(width_scale):
    image, found = cylinders()
    done = calibrated(image, wider(found, width_scale), is_fitted=True)
    assert "could not be fitted to the tubes" in done.facts["warnings"][0]


def test_saturated_tube_is_refused_with_its_file():
    image, found = cylinders()
    clipped = replace(image, data=np.minimum(image.data, 895.0))
    with pytest.raises(DataError, match=f"{PATH.name}.* of tube 1 are at the largest value"):
        calibrated(clipped, found)


def test_empty_tube_is_refused():
    image, found = cylinders()
    data = np.where(found.labels == 2, 0.0, image.data)
    with pytest.raises(NumericsError, match="tube 2 has a signal of 0"):
        calibrated(replace(image, data=data), found)


def test_narrow_tube_is_measured_nearer_to_its_wall_and_warned_of():
    done = calibrated(*cylinders(diameter_mm=9.0))
    assert any("under three widths" in text for text in done.facts["warnings"])


@pytest.mark.parametrize(
    ("doubt", "said"), [("touches_head", "nearer to the head"), ("is_cut", "field of view")]
)
def test_doubtful_tube_is_warned_of(doubt, said):
    image, found = cylinders()
    tubes = (replace(found.tubes[0], **{doubt: True}), found.tubes[1])
    done = calibrated(image, replace(found, tubes=tubes))
    (warning,) = done.facts["warnings"]
    assert said in warning
    assert "tube 1" in warning


def test_image_without_tubes_is_refused_with_its_file(tmp_path):
    rng, shape = np.random.default_rng(3), (40, 40, 40)
    ball = sum((axis - 19.5) ** 2 for axis in np.indices(shape)) < 16**2  # a head of 115 mm
    data = np.hypot(800 * ball + rng.normal(0, 5, shape), rng.normal(0, 5, shape))
    write_image(data.astype(np.float32), np.diag([*VOXEL_MM, 1.0]), tmp_path / PATH.name)
    node = find_tubes(SodiumSettings())
    node.inputs.image = node.inputs.source = str(tmp_path / PATH.name)
    node.inputs.protocol = str(protocol().write(tmp_path / "protocol.json"))
    node.inputs.noise = str(steps.ImageNoise(5.0, 1.0, False).write(tmp_path / "noise.json"))
    with pytest.raises(NumericsError, match="no reference tube of 10 to 45 mm") as error:
        node.run(cwd=tmp_path)
    assert any(PATH.name in note for note in error.value.__notes__)


def test_every_column_of_the_table_of_tubes_is_described():
    done = calibrated(*cylinders())
    assert set(done.table.columns) == set(PIPELINE.io_spec.outputs["tubes"].sidecar)


def test_every_measure_has_its_range():
    definitions = json.loads((PIPELINE.folder / "quality.json").read_text())
    done = calibrated(*cylinders((400.0, 800.0)), concentrations_mmol_l=(40.0, 80.0))
    assert {row["measure"] for row in done.facts["measures"]} <= set(definitions)


def test_tubes_survive_their_files(tmp_path):
    image, found = cylinders()
    write_image(found.labels, image.affine, tmp_path / "labels.nii.gz")
    write_image(found.head_mask, image.affine, tmp_path / "head.nii.gz")
    path = steps.write_tubes(found, tmp_path / "tubes.json")
    back = steps.read_tubes(path, tmp_path / "labels.nii.gz", tmp_path / "head.nii.gz")
    assert_allclose(back.tubes[1].centre_mm, found.tubes[1].centre_mm)
    assert np.array_equal(back.labels, found.labels)
    assert np.array_equal(back.head_mask, found.head_mask)
    assert back.refused == found.refused


# ---- images


def saved(path, data):
    nib.save(nib.Nifti1Image(data, np.diag([*VOXEL_MM, 1.0])), path)
    return path


def test_echo_of_the_shortest_time_is_taken(tmp_path):
    paths = [
        saved(
            tmp_path / f"sub-01_acq-Na_echo-{n}_MEGRE.nii.gz",
            np.random.default_rng(n).random((4, 4, 4)),
        )
        for n in (1, 2)
    ]
    image, sidecar, notes = first_echo(paths, [{"EchoTime": 0.008}, {"EchoTime": 0.0003}])
    assert image.path == paths[1]
    assert sidecar == {"EchoTime": 0.0003}
    assert "2 echoes" in notes[0]


def test_several_images_without_echo_times_are_refused(tmp_path):
    paths = [saved(tmp_path / f"{n}.nii.gz", np.ones((4, 4, 4))) for n in (1, 2)]
    with pytest.raises(DataError, match="2 images belong to one scan"):
        first_echo(paths, [{}, {}])


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (np.ones((4, 4, 4), np.complex64), "expected real numbers"),
        (np.ones((4, 4, 4, 3), np.float32), "expected one volume"),
        (np.linspace(-1, 1, 64, dtype=np.float32).reshape(4, 4, 4), "expected a magnitude image"),
        (np.ones((4, 4, 4), np.float32), "all 64 voxels are 1"),
    ],
)
def test_image_that_is_no_magnitude_of_a_head_is_refused(tmp_path, data, said):
    path = saved(tmp_path / PATH.name, data)
    with pytest.raises(DataError, match=said) as error:
        first_echo([path], [{}])
    assert PATH.name in str(error.value)


# ---- receive bias


@pytest.mark.parametrize(
    ("has_coils", "has_map", "elements", "expected"),
    [
        (True, True, 32, "coils"),
        (False, True, 32, "map"),
        (False, False, 32, "smooth"),
        (False, False, 2, "off"),
        (False, False, None, "off"),
    ],
)
def test_receive_bias_comes_from_the_best_there_is(has_coils, has_map, elements, expected):
    metadata = {"NumberReceiveCoilActiveElements": elements}
    found = receive_method(
        SodiumSettings(), has_coils=has_coils, has_map=has_map, metadata=metadata
    )
    assert found == expected


def sloped_head():
    shape, affine = (24, 24, 24), np.diag([5.0, 5.0, 5.0, 1.0])
    x = np.linspace(0.6, 1.4, 24)[:, None, None] * np.ones(shape)
    head = np.zeros(shape, bool)
    head[4:20, 4:20, 4:20] = True
    image = ImageData(np.where(head, 100 * x, 0.0), affine, (5.0, 5.0, 5.0), PATH)
    return image, FoundTubes(np.zeros(shape, np.int16), (), head, ()), x


def bias_of(image, found, method, **paths):
    given = {"map_path": None, "array_path": None, "volume_path": None, **paths}
    quiet = {"strength": 1.0, "patch_radius": 1, "block_radius": 1}
    return steps.receive_bias(
        image, found, method=method, fwhm_mm=12.0, order=2, denoising=quiet, **given
    )


def test_map_of_the_coil_flattens_what_it_received(tmp_path):
    image, found, x = sloped_head()
    write_image(7 * x, image.affine, tmp_path / "map.nii.gz")
    bias, facts = bias_of(image, found, "map", map_path=tmp_path / "map.nii.gz")
    flat = (image.data / bias)[found.head_mask]
    assert_allclose(flat, flat.mean(), rtol=1e-5)  # float32 of the map
    assert facts["warnings"] == []


def test_images_of_two_coils_flatten_what_the_array_received(tmp_path):
    image, found, x = sloped_head()
    rng = np.random.default_rng(0)
    pair = {}
    for name, gain in (("array_path", x), ("volume_path", np.ones_like(x))):
        noise = rng.normal(0, 1, (2, *x.shape))
        values = np.hypot(np.where(found.head_mask, 200 * gain, 0) + noise[0], noise[1])
        pair[name] = tmp_path / f"{name}.nii.gz"
        write_image(values, image.affine, pair[name])
    bias, _ = bias_of(image, found, "coils", **pair)
    inner = np.zeros_like(found.head_mask)
    inner[8:16, 8:16, 8:16] = True
    flat = (image.data / bias)[inner]
    assert_allclose(flat, flat.mean(), rtol=0.03)  # the ends of the slope are smoothed


def test_estimate_from_the_image_itself_is_warned_of():
    image, found, _ = sloped_head()
    _, facts = bias_of(image, found, "smooth")
    assert "takes true differences" in facts["warnings"][0]


@pytest.mark.parametrize("method", ["map", "coils"])
def test_missing_images_of_the_receive_bias_are_named(method):
    image, found, _ = sloped_head()
    with pytest.raises(DataError, match=r"RB1map|RB1COR") as error:
        bias_of(image, found, method)
    assert PATH.name in str(error.value)


def test_map_that_misses_the_head_is_refused(tmp_path):
    image, found, x = sloped_head()
    far = image.affine.copy()
    far[:3, 3] = 500.0
    write_image(x, far, tmp_path / "map.nii.gz")
    with pytest.raises(DataError, match="in 0 % of the head"):
        bias_of(image, found, "map", map_path=tmp_path / "map.nii.gz")


# ---- registration


def test_registration_that_misses_the_brain_is_refused():
    with pytest.raises(DataError, match="40 % of the T1w's brain") as error:
        steps.require_aligned(0.4, 0.9, PATH, least_overlap=0.8, least_separation=0.6)
    assert PATH.name in str(error.value)


@pytest.mark.parametrize("separation", [0.5, float("nan")])
def test_registration_that_fluid_does_not_show_is_refused(separation):
    with pytest.raises(DataError, match="fluid is brighter"):
        steps.require_aligned(1.0, separation, PATH, least_overlap=0.8, least_separation=0.6)


def test_fluid_that_is_always_brighter_is_fully_separated():
    brain = np.ones((2, 2, 2), bool)
    csf = np.zeros((2, 2, 2))
    csf[0] = 1.0
    overlap, separation, _ = steps.anatomy_facts(
        100 * csf + 40, np.ones_like(csf), brain, {"csf": csf, "wm": 1 - csf}
    )
    assert (overlap, separation) == (1.0, 1.0)


# ---- fine grid


@pytest.fixture
def small():
    """Image on an oblique grid, and a T1w whose brain lies in the middle of it."""
    affine = np.diag([4.0, 4.0, 3.0, 1.0])
    affine[:3, 3] = (-40, -36, -30)
    rng = np.random.default_rng(2)
    image = ImageData(rng.random((20, 18, 21)), affine, (4.0, 4.0, 3.0), PATH)
    t1w_affine = np.diag([2.0, 2.0, 2.0, 1.0])
    t1w_affine[:3, 3] = (-20, -20, -20)
    brain = np.zeros((20, 20, 20), bool)
    brain[6:14, 6:14, 6:14] = True
    tissues = {name: brain.astype(float) / 3 for name in ("wm", "gm", "csf")}
    anatomy = Anatomy(np.ones((20, 20, 20)), tissues, brain, t1w_affine, np.eye(4))
    return image, anatomy, fine_grid(image, anatomy, voxel_mm=2.0, margin_mm=8.0)


def test_fine_grid_has_no_voxel_wider_than_asked(small):
    fine = small[2]
    assert fine.factors == (2, 2, 2)
    assert np.all(fine.grid.voxel_mm <= 2.0)


def test_values_at_the_voxels_of_the_image_survive_refinement(small):
    image, _, fine = small
    back = fine.coarse(fine.refined(image.data), image.data.shape, np.nan)
    inside = np.isfinite(back)
    assert 0 < inside.sum() < inside.size
    assert_allclose(back[inside], image.data[inside], atol=1e-12)


def test_mean_over_voxels_keeps_the_sum_of_a_map(small):
    image, _, fine = small
    values = np.zeros(fine.grid.shape)
    values[4:-4, 4:-4, 4:-4] = np.random.default_rng(3).random(tuple(n - 8 for n in values.shape))
    means = fine.averaged(values, image.data.shape, 0.0)
    # a voxel holds as many points as its edges have parts
    assert_allclose(means.sum() * np.prod(fine.factors), values.sum(), rtol=1e-12)


def test_mean_over_voxels_is_their_middle_where_a_map_is_even_in_slope(small):
    image, _, fine = small
    ramp = np.indices(fine.grid.shape).sum(axis=0).astype(float)
    means, middles = (f(ramp, image.data.shape, np.nan) for f in (fine.averaged, fine.coarse))
    # beyond the rim of the grid nothing is known
    inner = ndimage.binary_erosion(np.isfinite(middles))
    assert_allclose(means[inner], middles[inner], atol=1e-12)


def test_labels_are_carried_to_the_voxels_that_lie_in_theirs(small):
    image, _, fine = small
    labels = np.arange(image.data.size).reshape(image.data.shape)
    back = fine.coarse(fine.carried(labels), image.data.shape, -1)
    assert np.array_equal(back[back >= 0], labels[back >= 0])


def test_map_of_the_t1w_lies_at_the_same_place_on_a_grid(small):
    _, anatomy, fine = small
    found = anatomy.on(anatomy.brain.astype(float), fine.grid)
    centre = np.array(np.nonzero(found > 0.5)).mean(axis=1)
    world = fine.grid.affine[:3, :3] @ centre + fine.grid.affine[:3, 3]
    # brain from voxel 6 to 13 of 2 mm from -20 mm
    assert_allclose(world, -20 + 2 * 9.5, atol=1.0)  # half a voxel of the grid


def test_brain_outside_the_image_is_refused(small):
    image, anatomy, _ = small
    far = np.eye(4)
    far[:3, 3] = 500.0
    with pytest.raises(DataError, match="lies outside the image"):
        fine_grid(image, replace(anatomy, to_sodium=far), voxel_mm=2.0, margin_mm=8.0)


# ---- point spread that is fitted


@pytest.fixture(scope="module")
def blurred():
    """Ball of white matter in grey matter in fluid, blurred 1.3 times as widely as is thought."""
    edge_mm, shape = 2.0, (30, 30, 30)
    radius = np.sqrt(sum((axis - 14.5) ** 2 for axis in np.indices(shape)))
    shells = {
        "wm": radius < 6,
        "gm": (radius >= 6) & (radius < 10),
        "csf_ventricular": radius >= 10,
    }
    regions = {name: mask.astype(float) for name, mask in shells.items()}
    times = SodiumSettings().relaxation_times
    signal = np.zeros(shape)
    for (name, share), sodium in zip(regions.items(), (40, 47, 140), strict=True):
        tissue = relaxation_of(times[REGIONS[name]])
        spread = sharpened(scaled_point_spread(protocol().spread_of(tissue), 1.3), 1.0)
        signal += 20 * sodium * protocol().weight_of(tissue) * blur(share, [edge_mm] * 3, spread)
    image = ImageData(signal, np.diag([edge_mm] * 3 + [1.0]), (edge_mm,) * 3, PATH)
    return image, regions, times


@pytest.mark.parametrize(("is_fitted", "is_right"), [(True, True), (False, False)])
def test_fitted_width_gives_back_what_a_wrong_one_misses(blurred, is_fitted, is_right):
    image, regions, times = blurred
    done = correct_partial_volume(
        image,
        FineGrid(Grid(image.data.shape, image.affine), (1, 1, 1), (0, 0, 0)),
        image.data,
        regions,
        protocol(),
        times,
        anatomy_mm=1.0,
        slope=20.0,
        slope_error=0.0,
        has_relaxation=True,
        least_region_spreads=0.0,
        noise_sigma=1.0,
        is_fitted=is_fitted,
    )
    sodium = done.table.set_index("region").loc[["wm", "gm"], "corrected"]
    # the factor is found to a hundredth
    assert np.allclose(sodium, [40.0, 47.0], rtol=0.01) == is_right
    scales = [row["value"] for row in done.facts["measures"] if row["measure"] == "spread_scale"]
    assert_allclose(scales, [1.3] if is_fitted else [], rtol=0.01)


# ---- maps and tables


def test_map_of_the_paper_is_signal_over_the_slope():
    line = calibrate([900.0, 900.0], [1.0, 1.0], [50.0, 50.0])
    image = ImageData(np.full((2, 2, 2), 720.0), np.eye(4), VOXEL_MM, PATH)
    sodium = steps.concentration_map(
        image, line, protocol(), {}, None, has_relaxation=False, usual_mmol_l=(), factor=1.0
    )
    assert_allclose(sodium, 40.0)


def test_relaxation_of_pure_tissue_is_given_back():
    line = calibrate([1000.0], [1.0], [50.0])
    times = SodiumSettings().relaxation_times
    tissues = {name: np.zeros((3, 1, 1)) for name in ("wm", "gm", "csf")}
    image = ImageData(np.zeros((3, 1, 1)), np.eye(4), VOXEL_MM, PATH)
    for index, (name, sodium) in enumerate({"wm": 36, "gm": 45, "csf": 140}.items()):
        tissues[name][index] = 1.0
        image.data[index] = 20 * sodium * protocol().weight_of(relaxation_of(times[name]))
    found = steps.concentration_map(
        image,
        line,
        protocol(),
        times,
        tissues,
        has_relaxation=True,
        usual_mmol_l=SodiumSettings().usual_tissue_mmol_l,
        factor=1.0,
    )
    assert_allclose(found.ravel(), [36, 45, 140])


def test_table_of_tissues_has_their_means_and_numbers():
    values = np.array([30.0, 34.0, 140.0]).reshape(3, 1, 1)
    tissues = {"wm": np.array([1.0, 0.9, 0.0]).reshape(3, 1, 1)}
    rows = steps.tissue_rows({"tsc": values}, tissues, min_probability=0.8)
    table = pd.DataFrame(rows).set_index("measure")
    assert table.loc["tsc_mean", "value"] == 32.0
    assert list(table["n"]) == [2, 2, 2]
    assert set(table["unit"]) == {"mmol/L"}


def test_smoothing_by_the_share_of_tissue_leaves_fluid_out():
    share = np.ones((21, 21, 21))
    share[:10] = 0.0
    values = np.where(share > 0, 40.0, 140.0)
    found = steps.smoothed(values, share, np.ones_like(share, bool), 2.0, fwhm_mm=8.0)
    assert_allclose(found[10:], 40.0)


def test_smoothing_without_shares_is_a_gaussian():
    values = np.zeros((31, 31, 31))
    values[15, 15, 15] = 1.0
    found = steps.smoothed(values, None, np.ones_like(values, bool), 2.0, fwhm_mm=8.0)
    # half of the height at half of the width, 4 mm or two voxels
    assert_allclose(found[17, 15, 15] / found[15, 15, 15], 0.5, rtol=0.02)


@pytest.mark.parametrize("name", list(PIPELINE.io_spec.outputs))
def test_map_in_a_space_says_its_resolution(name):
    output = PIPELINE.io_spec.outputs[name]
    if "res" in output.entities:
        assert "Resolution" in output.sidecar


def test_grid_of_other_voxels_has_the_field_of_view_of_the_image(tmp_path):
    write_image(np.ones((10, 12, 14)), np.diag([1.0, 1.0, 1.0, 1.0]), tmp_path / "t1w.nii.gz")
    path = steps.coarser_grid(tmp_path / "t1w.nii.gz", tmp_path / "grid.nii.gz", voxel_mm=2.0)
    grid = nib.load(path)
    assert grid.shape == (5, 6, 7)
    # first corner of the first voxel
    assert_allclose(grid.affine @ [-0.5, -0.5, -0.5, 1], [-0.5, -0.5, -0.5, 1])


def test_fine_grid_record_is_made_of_a_grid():
    fine = FineGrid(Grid((2, 2, 2), np.eye(4)), (1, 1, 1), (0, 0, 0))
    assert_allclose(fine.grid.voxel_mm, 1.0)


def test_signal_outside_the_head_of_the_proton_image_is_refused():
    signal = np.zeros((4, 4, 4))
    signal[:2] = 10.0
    head = np.zeros(signal.shape, bool)
    head[:1] = True
    with pytest.raises(DataError, match="50 % of the signal of its head") as error:
        steps.proton_facts(signal, head, PATH, least_overlap=0.8)
    assert PATH.name in str(error.value)
    facts = steps.proton_facts(signal, signal > 0, PATH, least_overlap=0.8)
    assert facts["measures"][0]["value"] == 1.0


def layered(levels):
    """Slabs of fluid, grey and white matter, with a mixed voxel at each border."""
    fluid, grey, white = levels
    profile = np.array([fluid] * 8 + [0.25 * fluid + 0.75 * grey] + [grey] * 8)
    profile = np.append(profile, [0.5 * grey + 0.5 * white] + [white] * 8)
    t1w = np.tile(profile[:, None, None], (1, 12, 12))
    index = np.arange(len(profile))
    # a segmentation puts each mixed voxel wholly on one side
    classes = {"csf": index <= 8, "gm": (index > 8) & (index <= 17), "wm": index > 17}
    tissues = {
        name: np.tile(c.astype(float)[:, None, None], (1, 12, 12)) for name, c in classes.items()
    }
    return Anatomy(t1w, tissues, np.ones(t1w.shape, bool), np.eye(4), np.eye(4))


def test_mixed_voxels_are_shared_out_by_their_brightness():
    shares = mixed_shares(layered((100.0, 400.0, 600.0)))
    line = {name: share[:, 6, 6] for name, share in shares.items()}
    assert_allclose([line["csf"][8], line["gm"][8], line["wm"][8]], [0.25, 0.75, 0.0])
    assert_allclose([line["csf"][17], line["gm"][17], line["wm"][17]], [0.0, 0.5, 0.5])
    assert_allclose(sum(line.values()), 1.0)
    assert_allclose(line["gm"][9:17], 1.0)


def test_image_whose_tissues_do_not_brighten_in_order_is_refused():
    with pytest.raises(DataError, match="expected each brighter than the one before"):
        mixed_shares(layered((600.0, 400.0, 100.0)))


# ---- regions of atlases


def hands(labels, affine):
    sides = (
        Region(3, "Hand L", "left"),
        Region(40_000, "Hand R", "right"),
        Region(7, "Lost", "n/a"),
    )
    return Atlas("Hands", "MNI152Lin", sides, np.asarray(labels, np.int32), affine, "hands.nii.gz")


def test_voxel_counts_by_the_share_that_a_region_has_of_it():
    # two voxels of 4 mm in two parts each; the left hand has one and a half of them
    labels = np.array([3, 3, 3, 40_000]).reshape(4, 1, 1)
    maps = {"tsc": np.array([40.0, 70.0]).reshape(2, 1, 1)}
    found = summarise_atlas(maps, labels, (2, 1, 1), hands(labels, np.eye(4))).set_index("label")
    assert_allclose(found.loc[3, "mean"], (2 * 40 + 70) / 3)
    assert_allclose(found["n"], [1.5, 0.5, 0.0])
    assert np.isnan(found.loc[7, "mean"])


def test_voxel_of_which_a_map_tells_nothing_does_not_count():
    labels = np.full((2, 1, 1), 3)
    maps = {"tsc_tissue": np.array([40.0, np.nan]).reshape(2, 1, 1)}
    found = summarise_atlas(maps, labels, (1, 1, 1), hands(labels, np.eye(4))).set_index("label")
    assert found.loc[3, ["mean", "n"]].to_list() == [40.0, 1.0]


def test_volume_of_a_region_is_that_of_its_share_of_voxels():
    labels = np.full((2, 1, 1), 3)
    maps = {"tsc": np.ones((1, 1, 1))}
    summary = summarise_atlas(maps, labels, (2, 1, 1), hands(labels, np.eye(4)))
    table = in_long_form(summary, (4.0, 2.0, 3.0))
    assert set(table.loc[table["region"] == "Hand L", "volume"]) == {24.0}
    assert set(table.columns) == set(PIPELINE.io_spec.outputs["atlas_stats"].sidecar)


def test_parts_fill_the_voxels_that_they_are_of(tmp_path):
    affine = np.diag([3.6, 3.6, 4.0, 1.0])
    affine[:3, 3] = (-40, -30, -20)
    image = ImageData(np.zeros((6, 5, 4)), affine, (3.6, 3.6, 4.0), PATH)
    parts = parts_of_voxels(image, 2.0)
    assert parts == (2, 2, 2)
    grid = nib.load(write_parts(image, parts, tmp_path / "grid.nii.gz"))
    assert grid.shape == (12, 10, 8)
    for corner in (np.zeros(3), np.array(image.data.shape)):
        fine = grid.affine @ [*(corner * parts - 0.5), 1]
        assert_allclose(fine, affine @ [*(corner - 0.5), 1], atol=1e-5)  # float32 of the header


@pytest.mark.slow
def test_atlas_goes_the_way_of_its_transforms(tmp_path):
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    labels = np.zeros((10, 10, 10), int)
    labels[2, 5, 5], labels[7, 5, 5] = 3, 40_000
    image = ImageData(np.zeros((10, 10, 10)), affine, (4.0, 4.0, 4.0), PATH)
    grid = write_parts(image, (1, 1, 1), tmp_path / "grid.nii.gz")
    shift = np.eye(4)
    shift[:3, 3] = (0, 8, 0)  # from the image's world to the template's
    way = [write_linear(shift, tmp_path / "shift.txt")]
    found = labels_of_parts(hands(labels, affine), grid, way, tmp_path)
    assert np.argwhere(found == 3).tolist() == [[2, 3, 5]]
    assert np.argwhere(found == 40_000).tolist() == [[7, 3, 5]]


def test_motor_areas_of_both_sides_stand_under_one_name():
    labels = np.array([7, 8, 15]).reshape(3, 1, 1)
    sides = tuple(Region(area.label, area.name, area.side) for area in motor_areas())
    atlas = Atlas(MOTOR_AREAS, "MNI152Lin", sides, labels.astype(np.int32), np.eye(4), "")
    summary = summarise_atlas({"tsc": np.ones((3, 1, 1))}, labels, (1, 1, 1), atlas)
    rows = motor_rows(summary)
    assert rows["region"].to_list() == [
        *("motor cortex hand", "motor cortex hand", "corpus callosum motor segment")
    ]
    assert rows["side"].to_list() == ["left", "right", "n/a"]
    masks = structures_of(labels)
    assert {name: int(mask.sum()) for name, mask in masks.items()} == {
        "motor cortex": 2,
        "corpus callosum": 1,
    }
