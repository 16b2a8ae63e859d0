"""The simulated body: what is planted is what the images show."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

from bids_alsmri.phantom.cohort import draw_cohort
from bids_alsmri.phantom.muscle import person, perturbed, relative_change, simulate, stations
from bids_alsmri.phantom.muscle_scene import FAT, MUSCLE, make_body, render
from bids_alsmri.phantom.records import MuscleSettings, PhantomSettings

CLEAN = MuscleSettings(
    t2w_mm=5.0, t2w_slice_mm=6.0, dwi_mm=5.0, dwi_slice_mm=10.0, n_t2w=1, n_dwi=1,
    low_mm=-430.0, high_mm=-170.0, gain_spread=0.0, bias=0.0, t2w_snr=0.0, dwi_snr=0.0,
    max_shift_mm=0.0, fat_residual=0.0, legs=False, hands=False,
)  # fmt: skip
SETTINGS = PhantomSettings(seed=4, modalities=("muscle",), muscle=CLEAN)


def scanned(settings: PhantomSettings = SETTINGS, kind: str = "hc"):
    (who,) = draw_cohort((kind,), settings.seed)
    return person(who, settings), simulate(who, settings, np.random.default_rng(0))


def test_t2w_signal_over_marrow_is_that_of_the_muscle():
    body, done = scanned()
    image, labels, marrow = done.raw[0].values, done.truth[0].values, done.truth[1].values > 0
    reference = image[marrow].mean()
    for muscle in body.muscles:
        inside = labels == muscle.index
        if inside.sum() > 200:
            # voxels that hold bone or skin too are left out by the median
            found = np.median(image[inside]) / reference
            assert_allclose(found, muscle.relative_t2, rtol=0.01)


def test_decay_of_the_diffusion_series_is_that_of_the_muscle():
    body, done = scanned()
    image, labels = done.raw[1].values.astype(float), done.truth[2].values
    thigh = {m.index: m for m in body.muscles if m.name == "quadriceps"}
    for index, muscle in thigh.items():
        inside = labels == index
        ratio = np.median(image[inside, 0]) / np.median(image[inside, 1])
        assert_allclose(np.log(ratio) / 1000, muscle.adc_mm2_s, rtol=0.01)


@pytest.mark.parametrize(("pattern", "share"), [("streaks", 0.08), ("patches", 0.35)])
def test_fat_takes_the_share_that_is_asked_for(pattern, share):
    body = make_body()
    muscles = tuple(replace(m, pattern=pattern, fat_share=share, seed=3) for m in body.muscles)
    x, y, z = np.arange(20.0, 170.0, 2), np.arange(-80.0, 80.0, 2), np.arange(-440.0, -140.0, 4)
    seen = render(replace(body, muscles=muscles), x, y, z)
    inside = seen.label == 412
    assert set(np.unique(seen.tissue[inside])) <= {FAT, MUSCLE}
    # a field of 16 waves is not quite normal
    assert_allclose((seen.tissue[inside] == FAT).mean(), share, atol=0.04)


def test_right_muscles_lie_at_positive_x():
    done = scanned()[1]
    labels, affine = done.truth[0].values, done.truth[0].affine
    for index, sign in ((411, -1), (412, 1)):
        centre = affine[:3, :3] @ np.argwhere(labels == index).mean(axis=0) + affine[:3, 3]
        assert np.sign(centre[0]) == sign


def test_stations_cover_the_body_and_share_their_overlap():
    found = stations(MuscleSettings(overlap_mm=20.0), 6)
    assert found[0][1] == 820
    assert_allclose(found[-1][0], -860)
    assert_allclose([a[0] - b[1] for a, b in itertools.pairwise(found)], -20)


def test_printed_change_of_a_year_is_simulated():
    # Jenkins 2020, table 1 (right quadriceps, 37.9 %) and 5 (18.8 % after 12 months)
    assert_allclose(relative_change("quadriceps", "right", 0), 0.379, rtol=1e-9)
    assert_allclose(relative_change("quadriceps", "right", 12), 1.379 * 1.188 - 1, rtol=1e-9)


def test_outlines_of_a_reader_stray_by_what_is_asked_for():
    labels = np.zeros((40, 40, 20), np.int16)
    labels[10:30, 10:30, 5:15] = 7
    rng = np.random.default_rng(1)
    same = perturbed(labels, np.ones(3), 0.0, rng)
    assert np.array_equal(same, labels)
    moved = perturbed(labels, np.ones(3), 1.5, rng) == 7
    dice = 2 * (moved & (labels == 7)).sum() / (moved.sum() + (labels == 7).sum())
    assert 0.7 < dice < 0.99


LEGS = replace(CLEAN, n_t2w=0, n_dwi=0, legs=True, legs_mm=5.0, legs_slice_mm=30.0)


def legs_of(**more):
    settings = replace(SETTINGS, muscle=replace(LEGS, **more))
    body, done = scanned(settings)
    labels = next(i for i in done.truth if "chunk-1_desc-muscles" in i.tail).values
    return body, {image.tail: image.values.astype(float) for image in done.raw}, labels


@pytest.mark.parametrize("kind", ["phases", "parts"])
def test_muscle_and_fat_under_the_skin_differ_in_phase_as_water_and_fat_do(kind):
    _, images, labels = legs_of(dixon=kind)
    if kind == "phases":
        opposed, in_phase = (images[f"acq-legs_echo-{n}_chunk-1_MEGRE"] for n in (1, 2))
        inside = labels > 0
        # water alone: both phases are alike
        assert_allclose(np.median(opposed[inside] / in_phase[inside]), 1.0, atol=0.01)
        assert (opposed <= in_phase + 1).all()
    else:
        water, fat = (images[f"acq-legs_rec-{n}_chunk-1_T1w"] for n in ("water", "fat"))
        assert np.median(fat[labels > 0]) == 0
        assert np.median(water[labels > 0]) > 0


def test_echoes_decay_with_the_time_of_the_muscle():
    body, images, labels = legs_of(n_echoes=3)
    second, third = (images[f"acq-legs_echo-{n}_chunk-1_MESE"] for n in (2, 3))
    thigh = [m for m in body.muscles if m.name == "quadriceps"]
    assert len(thigh) == 2
    for muscle in thigh:
        inside = labels == muscle.index
        ratio = np.median(second[inside] / np.maximum(third[inside], 1))
        assert_allclose(10.0 / np.log(ratio), muscle.t2_ms, rtol=0.03)  # whole numbers
