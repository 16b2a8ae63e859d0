"""Folds of known distance, layers of known contrast, and the slab of a head."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

from bids_alsmri.errors import SettingsError
from bids_alsmri.phantom.cohort import draw_cohort
from bids_alsmri.phantom.cortex7t import cortex_of, distance_from_level, slab_grid
from bids_alsmri.phantom.cortex_layers import CONTRAST_ECHO_MS, Fold, LayeredCortex
from bids_alsmri.phantom.cortex_slab import SlabSettings, contrast_echo, simulate_slab
from bids_alsmri.phantom.dataset import simulate_session
from bids_alsmri.phantom.records import Cortex7tSettings, PhantomSettings

COARSE = Cortex7tSettings(voxel_mm=2.0, slice_mm=4.0, height_mm=16.0, cortex_mm=0.0)


@pytest.fixture(scope="module")
def scans():
    settings = PhantomSettings(seed=2, modalities=("cortex7t",), cortex7t=COARSE)
    people = draw_cohort(("hc", "fast"), seed=3)
    return [simulate_session(p, "", settings)["cortex7t"] for p in people]


def test_distance_of_a_fold_is_that_from_the_points_of_its_border():
    fold = Fold(blade_mm=2.0, furrow_mm=4.0, height_mm=8.0)
    # the border drawn point by point over two folds on each side
    angles = np.linspace(0.0, np.pi, 2000)
    line = np.linspace(0.0, 8.0, 2000)
    pieces = []
    for middle in 12.0 * np.arange(-2, 3):
        pieces += [np.c_[np.full(2000, middle + side), line] for side in (-2.0, 2.0)]
        pieces.append(np.c_[middle + 2.0 * np.cos(angles), 8.0 + 2.0 * np.sin(angles)])
        pieces.append(np.c_[middle + 6.0 + 4.0 * np.cos(angles), -4.0 * np.sin(angles)])
    border = np.concatenate(pieces)
    points = np.random.default_rng(0).uniform([-6, -3], [6, 14], (300, 2))
    found = fold.distance_mm(points[:, 0], points[:, 1])
    outside = found > 0.0
    nearest = np.linalg.norm(points[:, None] - border, axis=-1).min(axis=1)
    assert outside.sum() > 100
    assert_allclose(found[outside], nearest[outside], atol=0.01)
    assert (found[~outside] >= -nearest[~outside].max()).all()


def test_contrasts_are_those_that_were_asked_for():
    cortex = LayeredCortex(deep_contrast=0.12, white_contrast=0.05, line_contrast=0.02)
    superficial, deep, white, line = cortex.signal(
        np.array([3.0, 1.0, -0.3, -1.0]), CONTRAST_ECHO_MS
    ).astype(float)
    assert_allclose([deep / superficial, white / deep, line / white], [0.88, 1.05, 0.98], rtol=1e-5)


def test_distance_from_a_sphere_is_that_from_its_surface():
    place = np.stack(np.meshgrid(*[np.arange(44) * 0.5 - 10.7] * 3, indexing="ij"))
    radius = np.linalg.norm(place, axis=0)
    # a border as partial volume makes it, soft over a millimetre
    found = distance_from_level(np.clip(radius - 7.0, -0.5, 0.5), 0.5)
    near = np.abs(radius - 7.0) < 3.0
    # a tenth of a voxel of the head's maps
    assert_allclose(found[near], (radius - 7.0)[near], atol=0.1)


def test_geometric_mean_of_two_echoes_is_the_signal_between_them():
    settings = SlabSettings(shape=(16, 16, 2), snr=0.0, has_veins=False)
    found = simulate_slab(
        LayeredCortex(), Fold(), settings, np.random.default_rng(0), samples=(1, 1, 1)
    )
    expected = LayeredCortex().signal(found.true_distance_mm, CONTRAST_ECHO_MS)
    between = contrast_echo(found.echoes, settings.echo_times_ms)
    # one sample per voxel lies in its middle
    assert_allclose(between, expected, rtol=1e-5)


def test_ribbon_is_as_wrong_as_was_asked_for():
    settings = SlabSettings(shape=(160, 160, 4), registration_mm=0.0, ribbon_sd_mm=0.3)
    found = simulate_slab(
        LayeredCortex(), Fold(), settings, np.random.default_rng(5), samples=(1, 1, 1)
    )
    error = found.white_distance_mm - found.true_distance_mm
    # 100 patches of 4 mm tell a standard deviation to a tenth
    assert_allclose(error.std(), 0.3, rtol=0.3)


def test_patients_have_a_thinner_deep_layer_and_fast_ones_a_darker():
    kinds = ("hc", "slow", "fast")
    hc, slow, fast = (cortex_of(draw_cohort((kind,), seed=0)[0], 1.0) for kind in kinds)
    assert (hc.deep_mm, slow.deep_mm, fast.deep_mm) == (2.0, 1.5, 1.5)
    assert hc.deep_contrast < slow.deep_contrast < fast.deep_contrast
    assert cortex_of(draw_cohort(("fast",), seed=0)[0], 0.0).deep_mm == hc.deep_mm


def test_slab_has_one_image_per_echo_on_the_grid_that_was_asked_for(scans):
    grid = slab_grid(COARSE)
    assert grid.shape == (56, 56, 4)
    for scan in scans:
        assert [image.tail for image in scan.raw] == [
            "acq-M1_echo-1_MEGRE",
            "acq-M1_echo-2_MEGRE",
        ]
        assert [image.sidecar["EchoTime"] for image in scan.raw] == [0.01, 0.02]
        assert {image.values.shape for image in scan.raw} == {grid.shape}
        assert scan.truth[0].values.shape == grid.shape


def test_white_matter_decays_at_its_rate(scans):
    scan = scans[0]
    first, second = (image.values.astype(float) for image in scan.raw)
    deep = scan.truth[0].values < -3.0
    rate = np.log(first[deep] / second[deep]) / 0.01
    assert deep.sum() > 100
    # SNR 20 at two echoes: 7 per second in a voxel
    expected = cortex_of(draw_cohort(("hc",), seed=3)[0], 1.0).rates_s["white"]
    assert abs(np.median(rate) - expected) < 2.0


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Cortex7tSettings(voxel_mm=9.0), "voxel_mm is 9"),
        (lambda: Cortex7tSettings(echo_times_ms=(20.0, 10.0)), "rising echo times"),
        (lambda: LayeredCortex(deep_mm=9.0), "deep_mm is 9"),
        (lambda: Fold(height_mm=-1.0), "height_mm is -1"),
        (lambda: SlabSettings(snr=-1.0), "snr is -1"),
        (lambda: contrast_echo(np.ones((2, 1), np.float32), (1.0, 2.0)), "their mean must be 15"),
    ],
)
def test_wrong_settings_are_refused(make, words):
    with pytest.raises(SettingsError, match=words):
        make()


def test_slab_of_one_hemisphere_lies_on_its_side():
    for name, sign in (("left", -1.0), ("right", 1.0)):
        grid = slab_grid(replace(COARSE, hemispheres=name))
        x_mm = grid.points_mm()[..., 0]
        assert (sign * x_mm > 0.0).all()
        assert_allclose(np.ptp(x_mm) + COARSE.voxel_mm, COARSE.field_of_view_mm / 2)


def test_phase_of_a_3d_slab_stands_beside_its_magnitude():
    small = replace(
        COARSE, acquisition="3D", has_phase=True, ghost=0.1, snr=0.0, field_of_view_mm=40.0
    )
    clean = replace(small, ghost=0.0)
    person = draw_cohort(("hc",), seed=3)[0]
    found, without = (
        simulate_session(
            person, "", PhantomSettings(seed=2, modalities=("cortex7t",), cortex7t=one)
        )["cortex7t"].raw
        for one in (small, clean)
    )
    assert [image.tail.split("_")[2] for image in found] == ["part-mag", "part-phase"] * 2
    assert {image.sidecar["MRAcquisitionType"] for image in found} == {"3D"}
    # a tenth of the image, half a field of view away along the phase encoding
    axis = "ijk".index(str(found[0].sidecar["PhaseEncodingDirection"])[0])
    own = without[0].values.astype(float)
    ghost = found[0].values.astype(float) - own
    assert_allclose(ghost, 0.1 * np.roll(own, own.shape[axis] // 2, axis=axis), atol=1.0)


def test_unknown_hemisphere_is_refused():
    with pytest.raises(SettingsError, match="expected both or left or right"):
        Cortex7tSettings(hemispheres="middle")
