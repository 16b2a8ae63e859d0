"""Slabs at 7T: what is read, where the cortex lies, and layers of a fold of known layers."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

from bids_alsmri.errors import DataError
from bids_alsmri.interfaces.base import ImageData, read_image, write_image
from bids_alsmri.numerics.cortical_profiles import surface_normals
from bids_alsmri.numerics.echo_decay import fit_echo_decay
from bids_alsmri.phantom.cortex_layers import Fold, LayeredCortex
from bids_alsmri.phantom.cortex_slab import SlabSettings, contrast_echo, simulate_slab
from bids_alsmri.pipelines.cortex7t import slab, views
from bids_alsmri.pipelines.cortex7t.pipeline import Cortex7tSettings

CFG = Cortex7tSettings(n_bootstrap=20)
SCAN = SlabSettings(shape=(112, 96, 3))


def echo(folder, number, data, *, affine=None):
    path = folder / f"sub-01_acq-M1_echo-{number}_MEGRE.nii.gz"
    grid = np.diag([1, 1, 2, 1.0]) if affine is None else affine
    write_image(np.asarray(data, np.float32), grid, path)
    return path


# ---- echoes


@pytest.mark.parametrize(
    ("times_s", "words"),
    [
        ([0.01], "1 echo was found"),
        ([0.01, None], "EchoTime .s. in its sidecar is None"),
        ([10.0, 20.0], "BIDS counts in seconds"),
        ([0.01, 0.01], "all different"),
    ],
)
def test_echoes_without_usable_times_are_refused(tmp_path, times_s, words):
    paths = [echo(tmp_path, n, np.ones((4, 4, 3))) for n in range(len(times_s))]
    with pytest.raises(DataError, match=words):
        slab.read_echoes(paths, [{"EchoTime": t} for t in times_s])


def test_echoes_on_different_grids_are_refused(tmp_path):
    paths = [echo(tmp_path, 1, np.ones((4, 4, 3))), echo(tmp_path, 2, np.ones((4, 5, 3)))]
    with pytest.raises(DataError, match="another grid"):
        slab.read_echoes(paths, [{"EchoTime": 0.01}, {"EchoTime": 0.02}])


def test_phase_that_calls_itself_magnitude_is_refused(tmp_path):
    paths = [echo(tmp_path, n, np.full((4, 4, 3), -1.0)) for n in (1, 2)]
    with pytest.raises(DataError, match="mark phase by part-phase"):
        slab.read_echoes(paths, [{"EchoTime": 0.01}, {"EchoTime": 0.02}])


def test_echoes_come_in_the_order_of_their_times_and_slices_last(tmp_path):
    # slices along the first axis, the later echo first
    data = np.random.default_rng(0).uniform(1, 2, (3, 5, 6))
    affine = np.diag([2.0, 0.5, 0.5, 1.0])
    paths = [echo(tmp_path, 1, data, affine=affine), echo(tmp_path, 2, 2 * data, affine=affine)]
    found = slab.read_echoes(paths, [{"EchoTime": 0.02}, {"EchoTime": 0.01}])
    assert found.times_ms == [10.0, 20.0]
    assert found.data.shape == (5, 6, 3, 2)
    assert_allclose(found.data[..., 0], 2 * data.transpose(1, 2, 0), rtol=1e-6)
    # a voxel keeps its place in the world
    assert_allclose(found.affine @ [1, 4, 2, 1], affine @ [2, 1, 4, 1])


# ---- ribbon


def test_ribbon_of_flat_tissues_is_the_distance_from_them():
    # white matter below x = 10 mm, cortex to 13.5 mm, on a grid of 1 mm; the slab is shifted
    x_mm = np.arange(30.0)[:, None, None] * np.ones((30, 30, 30))
    share = {
        "wm": np.clip(10.5 - x_mm, 0, 1),
        "gm": np.clip(14.0 - x_mm, 0, 1) - np.clip(10.5 - x_mm, 0, 1),
    }
    tissues = {n: ImageData(v, np.eye(4), (1, 1, 1), None) for n, v in share.items()}
    affine = np.diag([0.5, 0.5, 2.0, 1.0])
    affine[:3, 3] = 5.0
    shift = np.eye(4)
    shift[0, 3] = 1.0
    found = slab.find_ribbon(
        (30, 20, 6), affine, shift, tissues,
        lattice_mm=0.5, smoothing_mm=0.5, normal_smoothing_mm=1.0,
    )  # fmt: skip
    place_mm = 5.0 + 0.5 * np.arange(30) + 1.0
    near = np.abs(place_mm - 11.5) < 3.0
    assert_allclose(found.white_mm[near, 10, 3], place_mm[near] - 10.0, atol=0.26)
    assert_allclose(found.outer_mm[near, 10, 3], 13.5 - place_mm[near], atol=0.26)
    assert_allclose(found.normals[near, 10, 3], np.tile([1.0, 0, 0], (near.sum(), 1)), atol=0.01)
    assert set(np.unique(found.labels())) == {1, 2, 3}


# ---- areas


@pytest.fixture(scope="module")
def fold():
    """A slab of a control, as the hand area of the left hemisphere would give it."""
    cortex = LayeredCortex(deep_mm=2.0)
    found = simulate_slab(cortex, Fold(), SCAN, np.random.default_rng(4), samples=(2, 2, 6))
    normals = surface_normals(found.white_distance_mm, SCAN.voxel_mm, smoothing_mm=1.5)
    ribbon = slab.Ribbon(found.white_distance_mm, found.outer_distance_mm, normals)
    echoes = np.moveaxis(found.echoes, 0, -1)
    decay = fit_echo_decay(echoes, SCAN.echo_times_ms, noise=None, least_signal=0.0, least_echoes=2)
    rate = np.nan_to_num(1e3 / decay.t2_ms)
    maps = np.stack([contrast_echo(found.echoes, SCAN.echo_times_ms), rate])
    return cortex, maps, ribbon


def table(fold, regions, **changes):
    """Table of areas, the slab's front and back halves labelled as asked for."""
    _, maps, ribbon = fold
    labels = np.zeros(SCAN.shape, np.int32)
    numbers = {slab.region_of(a): a.label for a in slab.measured_areas() if a.side == "left"}
    for part, region in enumerate(regions):
        labels[10 + 46 * part : 56 + 46 * part, 10:-10] = numbers[region]
    settings = CFG.model_copy(update=changes)
    results = slab.measure_areas(
        maps, ribbon, labels, np.diag([*SCAN.voxel_mm, 1.0]),
        spacing_mm=settings.profile_spacing_mm, least_profiles=settings.least_profiles,
        aligning=settings.aligning, layering=settings.layering,
        doubting=settings.doubting, seed=1,
    )  # fmt: skip
    rows = slab.rows_of_areas(
        results,
        least_profiles=settings.least_profiles,
        may_be_own=settings.reference == "nearest",
    )
    found = pd.DataFrame(rows).set_index(["region", "side", "measure"]).sort_index()
    return found, results


def test_table_of_an_area_holds_the_true_layers(fold):
    cortex, _, _ = fold
    found, results = table(fold, ["foot", "precuneus"])
    own = found.loc[("foot", "left")]
    assert abs(own.loc["deep_thickness", "value"] - cortex.deep_mm) < 0.25
    assert abs(own.loc["cortical_thickness", "value"] - cortex.cortex_mm) < 0.3
    # the true ratio at 15 ms; reference and area have the same superficial signal here
    assert_allclose(own.loc["deep_ratio", "value"], 0.9, atol=0.015)
    assert_allclose(own.loc["deep_normalised", "value"], 0.9, rtol=0.05)
    assert own.loc["deep_normalised", "note"] == "superficial precuneus, left"
    rates = cortex.rates_s
    for layer in ("superficial", "deep"):
        assert_allclose(own.loc[f"r2s_{layer}", "value"], rates[layer], atol=1.5)
    measures = {row["measure"]: row["value"] for row in slab.quality_of_areas(results)}
    assert measures["areas_measured"] == 1
    assert 0.0 < measures["ribbon_shift"] < 0.8


@pytest.mark.parametrize(
    ("reference", "note"),
    [
        ("nearest", "superficial cortex of the area itself"),
        ("precuneus", "precuneus is out of view or has too few profiles"),
    ],
)
def test_precuneus_out_of_view_is_replaced_or_missing_and_named(fold, reference, note):
    found, _ = table(fold, ["foot"], reference=reference)
    row = found.loc[("foot", "left", "deep_normalised")]
    assert row["note"] == note
    assert np.isfinite(row["value"]) == (reference == "nearest")


def test_area_out_of_view_is_missing_with_a_reason(fold):
    found, _ = table(fold, ["foot"])
    row = found.loc[("hand", "right", "deep_thickness")]
    assert np.isnan(row["value"])
    assert "out of view" in row["note"]
    few, _ = table(fold, ["foot"], least_profiles=5000)
    assert "5000 are due" in few.loc[("foot", "left", "deep_thickness"), "note"]


def test_of_the_hand_only_the_bank_that_faces_back_counts(fold):
    _, results = table(fold, ["hand"])
    _, all_results = table(fold, ["foot"])
    used = {r.region: r for r in results if r.side == "left"}["hand"]
    both = {r.region: r for r in all_results if r.side == "left"}["foot"]
    # banks face back and ahead by turns
    assert 0.2 * both.n_places < used.n_places < 0.8 * both.n_places


@pytest.mark.parametrize(
    ("doubt", "reason"),
    [
        ({"most_interval_mm": 1e-6}, "mm are allowed"),
        ({"most_from_ribbon_mm": 1e-6}, "they are not the same border"),
        ({"outer_margin_mm": 1.3}, "no layers|one border|left out beneath"),
    ],
)
def test_doubtful_thickness_is_missing_with_its_reason(fold, doubt, reason):
    found, _ = table(fold, ["foot"], **doubt)
    own = found.loc[("foot", "left")]
    for measure in ("deep_thickness", "deep_thickness_low", "hypointensity_to_thickness"):
        assert np.isnan(own.loc[measure, "value"])
        assert re.search(reason, own.loc[measure, "note"])


def test_slice_length_is_not_shorter_than_the_thickness(fold):
    found, _ = table(fold, ["foot"])
    own = found.loc[("foot", "left")]["value"]
    assert own["deep_thickness_in_slice"] >= own["deep_thickness"]


def test_labels_on_another_grid_are_refused(tmp_path):
    write_image(np.ones((4, 4, 3), np.uint8), np.diag([1, 1, 2, 1.0]), tmp_path / "areas.nii.gz")
    write_image(np.ones((5, 4, 3), np.float32), np.diag([1, 1, 2, 1.0]), tmp_path / "slab.nii.gz")
    with pytest.raises(DataError, match="areas must be drawn on the slab"):
        slab.labels_on_grid(tmp_path / "areas.nii.gz", read_image(tmp_path / "slab.nii.gz", ndim=3))


@pytest.mark.parametrize(("drawn", "words"), [(0, "labels none"), (250, r"labels \[250\]")])
def test_drawn_areas_that_name_none_are_refused(drawn, words):
    with pytest.raises(DataError, match=words):
        slab.require_known_areas(np.full((3, 3, 2), drawn), Path("seg-somatotopy_dseg.nii.gz"))


# ---- ghosts of movement


@pytest.mark.parametrize(
    ("direction", "axis"), [("j-", 0), ("k", 1), ("i", None), (None, None), ("none", None)]
)
def test_phase_encoding_follows_the_axes_of_the_slab(tmp_path, direction, axis):
    # slices along the first axis come last: j and k lie in the slice
    affine = np.diag([2.0, 0.5, 0.5, 1.0])
    paths = [echo(tmp_path, n, np.ones((3, 5, 6)), affine=affine) for n in (1, 2)]
    more = {} if direction is None else {"PhaseEncodingDirection": direction}
    found = slab.read_echoes(paths, [{"EchoTime": t, **more} for t in (0.01, 0.02)])
    assert found.encoded_axis == axis


def test_ghosts_of_both_echoes_are_told_or_the_reason():
    image = np.zeros((80, 80, 4), np.float32)
    image[20:60, 20:60] = 100.0
    ghosts = [image + share * np.roll(image, 40, axis=1) for share in (0.02, 0.06)]
    words = {"object_share": 0.2, "margin_mm": 1.0}
    told = slab.Echoes(np.stack(ghosts, -1), np.diag([0.5, 0.5, 2, 1]), [10.0, 20.0], [], [], 1)
    measures, notes = views.quality_of_ghosts(told, **words)
    assert_allclose([row["value"] for row in measures], [0.02, 0.06], atol=0.001)
    assert not notes
    for other, reason in (
        (replace(told, encoded_axis=None), "PhaseEncodingDirection"),
        (replace(told, data=np.ones_like(told.data)), "too little air"),
    ):
        measures, notes = views.quality_of_ghosts(other, **words)
        assert not measures
        assert reason in notes[0]
