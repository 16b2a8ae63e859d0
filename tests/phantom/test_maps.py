from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

from bids_alsmri.errors import SettingsError
from bids_alsmri.phantom.cohort import draw_cohort, kinds_of
from bids_alsmri.phantom.map_cohort import QUALITY, quality_table, write_map_cohort
from bids_alsmri.phantom.map_settings import DRAWN, MapSettings
from bids_alsmri.phantom.maps import (
    MapTruth,
    build_truth,
    draw_maps,
    simulate_maps,
    smooth_field,
)
from bids_alsmri.phantom.tracts import FA_GREY, MD_FLUID

SHAPE = (12, 14, 10)
HEALTHY = {"fa": 0.5, "md": 1e-3, "tsc": 60.0, "gm": 0.4}
STILL = {"fa": 0.0, "md": 0.0, "tsc": 0.0}


def plain_truth(settings: MapSettings) -> MapTruth:
    """A box of one tissue, planted in one half of it in fast progressors."""
    where = np.zeros(SHAPE, bool)
    where[:6] = True
    return MapTruth(
        affine=np.diag([settings.voxel_mm] * 3 + [1.0]),
        mask=np.ones(SHAPE, bool),
        healthy={name: np.full(SHAPE, v, np.float32) for name, v in HEALTHY.items()},
        grey_to_fluid=np.full(SHAPE, 35.2, np.float32),
        planted={"fast": where},
        difference={
            "fast": {
                name: (settings.planted_difference("fast", name) * where).astype(np.float32)
                for name in DRAWN
            }
        },
    )


def drawn(kind: str, n: int, settings: MapSettings, truth: MapTruth) -> dict[str, np.ndarray]:
    people = draw_cohort((kind,) * n, settings.seed)
    maps = list(simulate_maps(people, settings, truth))
    return {name: np.array([one[name] for one in maps], dtype=np.float64) for name in maps[0]}


@pytest.fixture(scope="module")
def groups():
    """Controls and fast progressors, in place to a voxel."""
    settings = MapSettings(voxel_mm=4.0, registration_sd_mm=0.0)
    truth = plain_truth(settings)
    return truth, [drawn(kind, 120, settings, truth) for kind in ("hc", "fast")]


@pytest.mark.parametrize(("name", "d"), [("fa", -1.2), ("md", 1.2), ("tsc", 1.2)])
def test_groups_differ_by_the_planted_d_and_only_where_planted(groups, name, d):
    truth, (controls, fast) = groups
    deviation = np.sqrt((controls[name].var(0, ddof=1) + fast[name].var(0, ddof=1)) / 2)
    found = (fast[name].mean(0) - controls[name].mean(0)) / deviation
    # a group difference common to all voxels and one of each voxel, four standard errors of both
    error = np.sqrt(2 / 120)
    assert_allclose(found[truth.planted["fast"]].mean(), d, atol=4 * error)
    assert_allclose(found[~truth.planted["fast"]].mean(), 0, atol=4 * error)
    # what both halves share drops out of the step between them, what is local averages out
    step = found[truth.planted["fast"]].mean() - found[~truth.planted["fast"]].mean()
    assert_allclose(step, d, atol=1.5 * error)


@pytest.mark.parametrize("name", DRAWN)
def test_participants_vary_by_what_the_settings_say(groups, name):
    _, (controls, _) = groups
    settings = MapSettings()
    expected = np.hypot(settings.between_sd[name], settings.noise_sd[name])
    assert_allclose(np.sqrt(controls[name].var(0, ddof=1).mean()), expected, rtol=0.1)


def test_part_of_the_variance_is_common_to_the_whole_brain():
    settings = MapSettings(
        voxel_mm=4.0, registration_sd_mm=0.0, noise_sd=STILL, global_share=0.5, between_fwhm_mm=4.0
    )
    tsc = drawn("hc", 200, settings, plain_truth(settings))["tsc"]
    far = [np.corrcoef(tsc[:, 0, j, 0], tsc[:, 6, (j + 7) % 14, 5])[0, 1] for j in range(14)]
    # standard error of a correlation of 200 is 0.05; the 14 share the common part
    assert_allclose(np.mean(far), 0.5, atol=0.15)


def test_fields_of_maps_do_not_go_together(groups):
    _, (controls, _) = groups
    for one, other in (("fa", "md"), ("fa", "tsc"), ("md", "tsc")):
        r = np.corrcoef(controls[one][:, 3, 3, 3], controls[other][:, 3, 3, 3])[0, 1]
        assert abs(r) < 4 / np.sqrt(120)


@pytest.mark.parametrize("sd_mm", [0.5, 1.5])
def test_misregistration_has_the_stated_standard_deviation(sd_mm):
    settings = MapSettings(voxel_mm=2.0, registration_sd_mm=sd_mm, between_sd=STILL, noise_sd=STILL)
    truth = plain_truth(settings)
    ramp = np.broadcast_to(np.arange(SHAPE[1], dtype=np.float32)[:, None], SHAPE) * 2.0 + 50.0
    truth = replace(truth, healthy={**truth.healthy, "tsc": ramp})
    # 1 mmol/l per mm; away from the ends, where values cannot go on
    moved = (drawn("hc", 100, settings, truth)["tsc"] - ramp)[:, :, 4:10]
    assert_allclose(np.sqrt((moved**2).mean()), sd_mm, rtol=0.15)
    assert_allclose(moved[:, 5].mean(), 0, atol=4 * sd_mm / np.sqrt(100))


def test_planted_differences_move_with_the_anatomy():
    settings = MapSettings(
        voxel_mm=2.0, registration_sd_mm=1.5, between_sd=STILL, noise_sd=STILL, seed=2
    )
    truth = plain_truth(settings)
    (person,) = draw_cohort(("fast",), 2)
    ramp = np.broadcast_to(np.arange(SHAPE[0], dtype=np.float32)[:, None, None], SHAPE) * 2.0 + 50
    step = {"fast": {**truth.difference["fast"], "tsc": 9.0 * truth.planted["fast"]}}
    mapped = replace(truth, healthy={**truth.healthy, "tsc": ramp})
    came_from = (draw_maps(person, settings, mapped)["tsc"] - 50.0) / 2.0
    share = (draw_maps(person, settings, replace(truth, difference=step))["tsc"] - 60.0) / 9.0
    # planted up to voxel 5, interpolated to 0 at voxel 6
    assert_allclose(share, np.clip(6 - came_from, 0, 1), atol=1e-3)


@pytest.mark.parametrize("fwhm_voxels", [2.0, 4.0])
def test_fields_have_unit_variance_and_the_smoothness_asked_for(fwhm_voxels):
    rng = np.random.default_rng(3)
    fields = np.array([smooth_field(rng, (24, 20, 22), fwhm_voxels) for _ in range(40)], float)
    assert_allclose(fields.var(), 1, rtol=0.1)
    # also at the edges
    assert_allclose(fields[:, 0].var(), 1, rtol=0.15)
    sd = fwhm_voxels / np.sqrt(8 * np.log(2))
    for lag in (1, 2):
        r = np.mean(fields[:, lag:] * fields[:, :-lag]) / fields.var()
        # of two Gaussians convolved with each other; sampled kernels differ in the second digit
        assert_allclose(r, np.exp(-(lag**2) / (4 * sd**2)), atol=0.05)


def test_a_participant_does_not_depend_on_the_cohort():
    settings = MapSettings(voxel_mm=4.0)
    truth = plain_truth(settings)
    (alone,) = simulate_maps(draw_cohort(("fast",), 0), settings, truth)
    *_, among = simulate_maps(draw_cohort(("hc", "slow", "fast"), 0), settings, truth)
    for name in alone:
        np.testing.assert_array_equal(alone[name], among[name])


def test_grey_matter_that_is_lost_becomes_fluid():
    settings = MapSettings(voxel_mm=4.0, between_sd=STILL, noise_sd=STILL, grey_loss=0.1)
    truth = plain_truth(settings)
    found = drawn("slow", 60, settings, truth)
    before = drawn("slow", 60, replace(settings, grey_loss=0.0), truth)
    lost = 1 - found["gm"].mean(axis=(1, 2, 3)) / 0.4
    assert_allclose(lost.mean(), 0.1, atol=0.015)  # uniform from 0.05 to 0.15: SD of 0.03
    # from 52 to 140 mmol/l in 0.4 of a voxel; five times the noise of a brain's mean of grey matter
    assert_allclose(found["tsc"].mean(axis=(1, 2, 3)) - 60.0, 35.2 * lost, atol=0.5)
    assert_allclose(before["tsc"], 60.0, rtol=1e-6)
    for name in ("fa", "md"):
        assert_allclose(found[name], before[name])
    controls = drawn("hc", 20, settings, truth)
    assert_allclose(controls["gm"].mean(), 0.4, atol=0.002)


def test_grey_matter_differs_between_people_in_both_maps():
    settings = MapSettings(voxel_mm=4.0, between_sd=STILL, noise_sd=STILL, grey_sd=0.08)
    found = drawn("hc", 80, settings, plain_truth(settings))
    lost = 1 - found["gm"].mean(axis=(1, 2, 3)) / 0.4
    assert_allclose(lost.std(ddof=1), 0.08, rtol=0.35)  # four standard errors
    assert_allclose(found["tsc"].mean(axis=(1, 2, 3)) - 60.0, 35.2 * lost, atol=0.5)


def test_seeds_give_other_people():
    truth = plain_truth(MapSettings(voxel_mm=4.0))
    (person,) = draw_cohort(("hc",), 0)
    one, other = (
        draw_maps(person, MapSettings(voxel_mm=4.0, seed=seed), truth)["md"] for seed in (0, 1)
    )
    assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.5


def test_difference_of_a_mixed_group_is_the_mean_over_its_members():
    truth = plain_truth(MapSettings())
    found = truth.contrast_difference(["fast", "hc", "hc", "hc"], ["hc", "hc"], "md")
    assert_allclose(found, truth.difference["fast"]["md"] / 4)
    with pytest.raises(SettingsError, match="a group of a contrast has no member"):
        truth.contrast_difference(["fast"], [], "md")


@pytest.fixture(scope="module")
def head_truth():
    return build_truth(MapSettings(voxel_mm=4.0))


@pytest.mark.slow
def test_differences_lie_in_white_matter_of_tract_and_callosum(head_truth):
    points = np.argwhere(head_truth.planted["fast"]) @ head_truth.affine[:3, :3].T
    points += head_truth.affine[:3, 3]

    def n_near(*landmark_mm: float) -> int:
        return int((np.linalg.norm(points - landmark_mm, axis=1) < 6).sum())

    # internal capsules and body of the callosum (landmarks of the phantom), both hit
    assert min(n_near(23, -15, 8), n_near(-23, -15, 8), n_near(0, -8, 26)) > 3
    # occipital and temporal white matter, cerebellum
    assert n_near(24, -75, 5) == n_near(40, -20, -22) == n_near(24, -62, -36) == 0
    assert (head_truth.healthy["fa"][head_truth.planted["fast"]] > FA_GREY).all()
    assert not (head_truth.planted["slow"] & ~head_truth.planted["fast"]).any()
    assert 0.2 < head_truth.planted["slow"].sum() / head_truth.planted["fast"].sum() < 0.6


@pytest.mark.slow
def test_sodium_of_controls_is_that_of_the_paper_where_planted(head_truth):
    # El Mendili 2022: 53.41 (3.22) and 53.12 (3.12) mmol/l in controls
    mean = head_truth.healthy["tsc"][head_truth.planted["fast"]].mean()
    assert_allclose(mean, 53.3, atol=1.0)


@pytest.mark.slow
def test_ventricles_hold_fluid_and_no_anisotropy(head_truth):
    world = np.array([-12.0, -20.0, 22.0, 1.0])  # body of a lateral ventricle
    at = tuple(np.round(np.linalg.inv(head_truth.affine) @ world)[:3].astype(int))
    assert head_truth.healthy["md"][at] > 0.6 * MD_FLUID
    assert head_truth.healthy["fa"][at] < 0.2
    outside = ~head_truth.mask
    assert not any(values[outside].any() for values in head_truth.healthy.values())


def test_patients_move_more_on_average():
    people = draw_cohort(kinds_of(None, 200, 100, 100), 3)
    log_motion = {"hc": [], "als": []}
    for person in people:
        table = quality_table("diffusion", person, 3)
        (value,) = (r[1] for r in table.rows if r[0] == "mean_framewise_displacement")
        log_motion[person.group].append(np.log(value))
    spread = QUALITY["diffusion"]["mean_framewise_displacement"]
    difference = np.mean(log_motion["als"]) - np.mean(log_motion["hc"])
    # four standard errors
    tolerance = 4 * spread.relative_sd * np.sqrt(2 / 200)
    assert_allclose(difference, np.log(spread.factor_in_patients), atol=tolerance)
    assert np.log(spread.factor_in_patients) > 0.1


def test_a_folder_with_files_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    for places in ((tmp_path, tmp_path / "out"), (tmp_path / "raw", tmp_path)):
        with pytest.raises(SettingsError, match="is not an empty folder; give a new one"):
            write_map_cohort(*places, (), MapSettings())


def test_one_folder_for_both_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="give two folders"):
        write_map_cohort(tmp_path / "x", tmp_path / "x", (), MapSettings())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"voxel_mm": 0.5}, "voxel_mm is 0.5; it must lie from 1 to 8"),
        ({"grey_loss": 0.4}, "grey_loss is 0.4; it must lie from 0 to 0.3"),
        ({"noise_sd": {"fa": 0.1}}, "give a standard deviation of 0 or more for each of fa, md"),
        ({"effects": {"rapid": {"fa": 1.0}}}, "effects of 'rapid' are"),
        ({"effects": {"fast": {"rd": 1.0}}}, "give Cohen's d of fa, md, tsc for fast and slow"),
    ],
)
def test_impossible_settings_are_refused(change, message):
    with pytest.raises(SettingsError, match=message):
        replace(MapSettings(), **change)
