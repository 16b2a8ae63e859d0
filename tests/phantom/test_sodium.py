from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import ndimage

from bids_alsmri.errors import SettingsError
from bids_alsmri.phantom.cohort import draw_cohort
from bids_alsmri.phantom.dataset import simulate_session
from bids_alsmri.phantom.geometry import make_grid, transform_points
from bids_alsmri.phantom.records import (
    Participant,
    PhantomSettings,
    SimulatedImage,
    Simulation,
    SodiumSettings,
    Table,
)
from bids_alsmri.phantom.sodium_scene import coil_sensitivity, effect_maps
from bids_alsmri.phantom.tracts import Tracts
from bids_alsmri.phantom.tubes import PLACES, Tube, filled_share, place_tubes

VOXEL_MM = 6.0
CLEAN = SodiumSettings(voxel_mm=VOXEL_MM, resolution_mm=VOXEL_MM, snr=0)
SETTINGS = PhantomSettings(seed=3, modalities=("sodium",), t1w_mm=6.0, sodium=CLEAN)
# share of equilibrium left by TR 120 ms and 90 degrees, and by decay to 0.2 ms
WHITE_WEIGHT = (1 - np.exp(-120 / 39)) * (0.6 * np.exp(-0.2 / 3.4) + 0.4 * np.exp(-0.2 / 23.5))
AGAR_WEIGHT = (1 - np.exp(-120 / 45.6)) * np.exp(-0.2 / 4.3)
PER_MMOL_L = 20.0

PEOPLE = {kind: draw_cohort((kind,), seed=3)[0] for kind in ("hc", "fast", "slow")}


def scan(person: Participant | str, *, session: str = "", **changes: object) -> Simulation:
    """Scan a person; changes are of the sodium settings where these have them, else of all."""
    who = PEOPLE[person] if isinstance(person, str) else person
    of_sodium = {n: v for n, v in changes.items() if n in SodiumSettings.__dataclass_fields__}
    of_all = {n: v for n, v in changes.items() if n not in of_sodium}
    settings = replace(SETTINGS, sodium=replace(CLEAN, **of_sodium), **of_all)
    return simulate_session(who, session, settings)["sodium"]


def truth(simulation: Simulation, tail: str) -> SimulatedImage:
    (image,) = (i for i in simulation.truth if i.tail == f"acq-sodium_{tail}")
    return image


def table(simulation: Simulation, name: str) -> Table:
    (found,) = (t for i in simulation.truth for n, t in i.tables.items() if name in n)
    return found


def tissues(simulation: Simulation) -> dict[str, dict[str, float]]:
    rows = table(simulation, "tissues")
    return {str(r[0]): dict(zip(rows.columns, r, strict=True)) for r in rows.rows}


def image(simulation: Simulation) -> np.ndarray:
    return simulation.raw[0].values.astype(np.float64)


@pytest.fixture(scope="module")
def control() -> Simulation:
    return scan("hc")


@pytest.fixture(scope="module")
def fast() -> Simulation:
    return scan("fast")


@pytest.mark.slow  # as all tests that need the head
def test_noise_is_that_of_the_signal_to_noise_ratio(control):
    noisy = scan("hc", snr=20.0)
    bright = image(control) > 500  # where the magnitude is as good as the signal
    sigma = PER_MMOL_L * 36 * WHITE_WEIGHT / 20
    found = (image(noisy) - image(control))[bright].std()
    # neighbours are correlated by the sphere, and squares of a small noise remain
    assert_allclose(found, sigma, rtol=0.05)


@pytest.mark.slow
def test_deep_white_matter_shows_its_concentration_by_its_weight():
    # without decay along the readout, so that only side lobes of what is around are left
    at_once = scan("hc", readout_ms=0.0, voxel_mm=3.6, resolution_mm=3.6)
    white = truth(at_once, "label-WM_probseg").values
    deep = ndimage.distance_transform_edt(white > 0.98) * 3.6 > 5.0
    assert deep.sum() > 100
    expected = PER_MMOL_L * tissues(at_once)["WM"]["concentration"] * WHITE_WEIGHT
    assert_allclose(image(at_once)[deep].mean(), expected, rtol=0.02)


@pytest.mark.slow
def test_tubes_add_their_volume_times_concentration(control):
    double = scan("hc", tube_concentrations_mmol_l=(100.0, 100.0))
    gain = (image(double) - image(control)).sum() * VOXEL_MM**3 / PER_MMOL_L
    volume = 2 * np.pi / 4 * 25.0**2 * 80.0
    # the magnitude folds what side lobes take away in air
    assert_allclose(gain, 50 * volume * AGAR_WEIGHT, rtol=0.05)


@pytest.mark.slow
def test_tubes_keep_their_gap_from_the_head():
    wide = scan("hc", voxel_mm=3.0, resolution_mm=3.0, tube_gap_mm=12.0, max_tube_tilt_deg=30.0)
    tubes = truth(wide, "label-refs_probseg").values
    head = truth(wide, "desc-tsc_PDmap").values - 50 * tubes > 0.5
    distance = ndimage.distance_transform_edt(~head) * 3.0
    nearest = distance[tubes > 0.5].min()
    # between centres of voxels of 3 mm, half full of tube or of any tissue at all
    assert 12.0 - 2 < nearest < 12.0 + 4


@pytest.mark.slow
def test_tables_of_tubes_tell_where_they_are(control):
    rows = table(control, "refs_dseg")
    labels = truth(control, "desc-refs_dseg").values
    shares = truth(control, "label-refs_probseg")
    for row in (dict(zip(rows.columns, r, strict=True)) for r in rows.rows):
        around = ndimage.binary_dilation(labels == row["index"], iterations=2)
        voxels = np.argwhere(around)
        points = transform_points(shares.affine, voxels.astype(float))
        weights = shares.values[around].astype(float)
        middle = np.average(points, axis=0, weights=weights)
        assert_allclose(middle, [row[f"centre_{a}"] for a in "xyz"], atol=0.1)  # mm
        assert (middle[0] > 0) == (row["name"] == "right")
        assert_allclose(weights.sum() * VOXEL_MM**3, np.pi / 4 * 25**2 * 80, rtol=0.01)


def ball(radius_mm: float, tilt_deg: float = 0.0) -> tuple[np.ndarray, object]:
    grid = make_grid((0.0, 0.0, 0.0), (240.0, 240.0, 240.0), 4.0, tilt_deg)
    return np.linalg.norm(grid.points_mm(), axis=-1) < radius_mm, grid


@pytest.mark.parametrize("n_tubes", [1, 2, 6])
@pytest.mark.parametrize("tilt_deg", [0.0, 25.0])
def test_up_to_six_tubes_stand_a_gap_away_from_a_ball(n_tubes, tilt_deg):
    head, grid = ball(60.0, tilt_deg)
    settings = SodiumSettings(
        tube_concentrations_mmol_l=tuple(10.0 * (i + 1) for i in range(n_tubes)),
        max_tube_tilt_deg=20.0,
        tube_gap_mm=10.0,
    )
    tubes = place_tubes(head, grid, np.zeros(3), settings, np.random.default_rng(n_tubes))
    assert [t.label for t in tubes] == [name for name, _ in PLACES[:n_tubes]]
    assert [t.concentration_mmol_l for t in tubes] == [10.0 * (i + 1) for i in range(n_tubes)]
    for tube in tubes:
        points = transform_points(grid.affine, np.argwhere(head).astype(float))
        assert not tube.contains(points, 10.0).any()
        assert tube.contains(points, 10.0 + 2.0).any()  # it came in steps of 1 mm
        scanner_z = grid.affine[:3, 2] / 4.0
        assert np.degrees(np.arccos(tube.axis @ scanner_z)) <= 20.0 + 1e-6
    shares = sum(filled_share(t, grid) for t in tubes)
    assert shares.max() <= 1 + 1e-6  # no two in one place


def test_a_tube_fills_its_volume():
    grid = make_grid((0.0, 0.0, 0.0), (120.0, 120.0, 120.0), 3.0, 10.0)
    tube = Tube("left", 50.0, np.array([4.0, 5.0, -6.0]), np.array([0.6, 0.0, 0.8]), 20.0, 70.0)
    filled = filled_share(tube, grid).sum() * 3.0**3
    assert_allclose(filled, np.pi * 10.0**2 * 70.0, rtol=2e-3)  # 5 x 5 x 5 points in a voxel


def test_a_tube_that_does_not_fit_is_refused():
    head, grid = ball(110.0)
    with pytest.raises(SettingsError, match=r"tube right of 25 x 80 mm does not fit .* smaller"):
        place_tubes(head, grid, np.zeros(3), SodiumSettings(), np.random.default_rng(0))


def test_tubes_that_meet_are_refused():
    head, grid = ball(15.0)
    six = SodiumSettings(tube_concentrations_mmol_l=(50.0,) * 6, tube_gap_mm=0.0)
    with pytest.raises(SettingsError, match=r"tubes \w+ and \w+ of 25 mm come as near as .* fewer"):
        place_tubes(head, grid, np.zeros(3), six, np.random.default_rng(0))


@pytest.mark.slow
def test_receive_field_multiplies_the_image(control):
    biased = scan("hc", bias=0.3)
    field = truth(biased, "desc-truth_RB1map").values
    flat = truth(control, "desc-truth_RB1map").values
    inside = truth(control, "desc-brain_mask").values > 0
    assert_allclose(flat[inside], 1, atol=1e-6)
    assert np.ptp(field[inside]) > 0.1
    ratio = image(biased)[inside] / image(control)[inside]
    # the field changes within the point spread
    assert_allclose(ratio, field[inside], rtol=0.05)


def test_sensitivity_deviates_by_the_bias_at_most_and_ends_at_the_neck():
    grid = make_grid((0.0, 0.0, 0.0), (240.0, 240.0, 240.0), 8.0, 0.0)
    for seed in range(5):
        field = coil_sensitivity(grid, 0.2, np.random.default_rng(seed))
        assert np.abs(field[:, :, 5:] - 1).max() <= 0.2
        assert field[:, :, 0].max() < 0.02
    assert_allclose(coil_sensitivity(grid, 0.0, np.random.default_rng(0))[:, :, 5:], 1)


@pytest.mark.slow
def test_effect_is_graded_from_fast_to_slow_to_none(tracts: Tracts):
    same = {k: replace(p, severity=1.0) for k, p in PEOPLE.items()}
    gain = {}
    for kind, person in same.items():
        found = tissues(scan(person))
        gain[kind] = [
            found[t]["mean_concentration"] / found[t]["concentration"] - 1 for t in ("WM", "GM")
        ]
    assert gain["hc"] == pytest.approx([0, 0], abs=1e-6)
    assert gain["fast"] > gain["slow"] > gain["hc"]
    assert min(gain["slow"]) > 0
    maps = effect_maps()
    assert maps["fast"][tracts.cst > 0.9].max() > maps["slow"].max() > 0
    assert maps["fast"][np.maximum(tracts.cst, tracts.callosum) < 0.01].max() < 0.005  # smoothed


@pytest.mark.slow
@pytest.mark.parametrize("place", [(36, -24, 56), (-36, -24, 56), (23, -15, 8), (0, -8, 26)])
def test_effect_reaches_motor_cortex_capsule_and_callosum(place, tracts: Tracts):
    voxel = np.linalg.solve(tracts.to_world, (*place, 1))[:3].round().astype(int)
    assert effect_maps()["fast"][tuple(voxel)] > 0.07


@pytest.mark.slow
def test_focal_effect_is_ten_percent_of_white_matter_in_the_tract(tracts: Tracts):
    focal = scan("slow", effect="focal")
    effect = truth(focal, "desc-effect_statmap").values
    assert_allclose(effect.max(), 0.10, atol=1e-3)
    found = tissues(focal)
    assert found["GM"]["mean_concentration"] == pytest.approx(found["GM"]["concentration"])
    assert found["WM"]["mean_concentration"] > 1.001 * found["WM"]["concentration"]
    assert effect_maps()["focal"][tracts.cst < 0.3].max() == 0
    assert truth(scan("hc", effect="focal"), "desc-effect_statmap").values.max() == 0


@pytest.mark.slow
def test_effect_scale_scales_the_effect(fast):
    half = truth(scan("fast", effect_scale=0.5), "desc-effect_statmap").values
    assert_allclose(2 * half, truth(fast, "desc-effect_statmap").values, atol=1e-6)


@pytest.mark.slow
def test_atrophy_takes_grey_matter_and_leaves_concentrations(fast):
    thin = scan("fast", grey_loss=0.1)
    before, after = (truth(s, "label-GM_probseg").values for s in (fast, thin))
    # the share holds in the template; size differs by place in the person
    assert_allclose(after.sum(dtype=float) / before.sum(dtype=float), 0.9, atol=0.01)
    white = [truth(s, "label-WM_probseg").values for s in (fast, thin)]
    assert np.array_equal(*white)
    for name in ("WM", "GM", "CSF"):
        assert tissues(thin)[name]["concentration"] == tissues(fast)[name]["concentration"]
    assert image(thin).sum() > image(fast).sum()  # fluid is brighter than what it replaces


@pytest.mark.slow
def test_atrophy_shows_in_the_t1w_of_patients_alone():
    settings = replace(SETTINGS, modalities=("anat",), t1w_noise_percent=0.0)
    for kind, is_same in (("fast", False), ("hc", True)):
        person = PEOPLE[kind]
        one, other = (
            simulate_session(person, "", replace(settings, grey_loss=loss))["anat"].raw[0].values
            for loss in (0.0, 0.1)
        )
        assert np.array_equal(one, other) is is_same


@pytest.mark.slow
def test_sessions_share_the_person_but_not_the_pose():
    first, second = (scan("fast", session=s) for s in ("m00", "m12"))
    for name in ("WM", "GM"):
        one, two = (tissues(s)[name] for s in (first, second))
        assert one["concentration"] == two["concentration"]
        assert one["mean_concentration"] == pytest.approx(two["mean_concentration"], rel=2e-3)
    assert table(first, "pose").rows != table(second, "pose").rows


@pytest.mark.slow
def test_true_sodium_of_t1w_and_sodium_scan_agree_through_the_pose(fast):
    here, there = truth(fast, "desc-tsc_PDmap"), truth(fast, "space-T1w_desc-tsc_PDmap")
    pose = np.vstack([np.array(table(fast, "pose").rows), [0, 0, 0, 1]])
    matrix = np.linalg.inv(there.affine) @ np.linalg.inv(pose) @ here.affine
    moved = ndimage.affine_transform(
        there.values, matrix[:3, :3], matrix[:3, 3], output_shape=here.values.shape, order=1
    )
    still = np.linalg.inv(there.affine) @ here.affine
    unmoved = ndimage.affine_transform(
        there.values, still[:3, :3], still[:3, 3], output_shape=here.values.shape, order=1
    )
    inside = truth(fast, "desc-brain_mask").values > 0
    agreement = [np.corrcoef(here.values[inside], m[inside])[0, 1] for m in (moved, unmoved)]
    # voxels of 6 mm, one of the maps sampled at points
    assert agreement[0] > 0.8
    assert agreement[0] > agreement[1] + 0.1


@pytest.mark.slow
def test_sidecar_tells_the_protocol_in_seconds_and_mmol_per_l(control):
    sidecar = control.raw[0].sidecar
    assert control.raw[0].tail == "acq-sodium_PDw"
    assert sidecar["ResonantNucleus"] == "23Na"
    assert (sidecar["RepetitionTimeExcitation"], sidecar["EchoTime"]) == (0.12, 0.0002)
    assert (sidecar["FlipAngle"], sidecar["SodiumReadoutDuration"]) == (90.0, 0.02)
    assert sidecar["SodiumReferenceConcentrations"] == [
        {"Label": "right", "Concentration": 50.0},
        {"Label": "left", "Concentration": 50.0},
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"voxel_mm": 4.0}, "voxel_mm is 4; it must lie from 1 to 3.6"),
        ({"tube_concentrations_mmol_l": ()}, "give 1 to 6 concentrations"),
        ({"tube_concentrations_mmol_l": (50.0, 0.0)}, "above 0 and up to 1000 mmol/L"),
        ({"effect": "none"}, "give one of disease, focal"),
        ({"snr": float("nan")}, "snr is nan"),
    ],
)
def test_settings_out_of_range_are_refused(change, message):
    with pytest.raises(SettingsError, match=message):
        SodiumSettings(**change)
