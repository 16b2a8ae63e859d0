"""Single nodes of the diffusion pipeline on images whose truth is known in closed form."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from scipy import ndimage, stats
from scipy.spatial.transform import Rotation

from bids_alsmri.errors import DataError
from bids_alsmri.interfaces.base import ImageData, write_image
from bids_alsmri.interfaces.images import quality_rows
from bids_alsmri.interfaces.registration import write_linear
from bids_alsmri.numerics.eddy import EddyResult, EddySettings
from bids_alsmri.numerics.gradients import bvecs_to_world
from bids_alsmri.numerics.resampling import grid_points, resample_series
from bids_alsmri.pipelines.diffusion.interfaces import Denoise, MeasureTissues, Resample
from bids_alsmri.pipelines.diffusion.motion import (
    Corrected,
    MotionChoices,
    average_volumes,
    correct_motion,
    motion_table,
    outlier_table,
    slice_groups,
)
from bids_alsmri.pipelines.diffusion.places import (
    Motion,
    Place,
    bvec_frame,
    motion_columns,
    turned_table,
)
from bids_alsmri.pipelines.diffusion.runs import combine_runs, read_numbers, read_run
from bids_alsmri.pipelines.diffusion.series import SeriesTable, protocol_of
from bids_alsmri.pipelines.diffusion.steps import (
    Grid,
    coverage_facts,
    denoise_series,
    draft_brain_mask,
    measure,
    measure_tissues,
    separation_facts,
    tissue_separation,
    unring_series,
)
from bids_alsmri.pipelines.diffusion.workflow import PIPELINE
from bids_alsmri.spaces.templates import get_template

TISSUES = ("gm", "wm", "csf")


@pytest.fixture
def half_covered(tmp_path, monkeypatch):
    """White matter of FA 0.6 of which the series covers the upper half; maps are 0 below."""
    monkeypatch.chdir(tmp_path)
    affine = np.diag([2.0, 2, 2, 1])
    covered = np.zeros((4, 4, 8), dtype=bool)
    covered[..., 4:] = True
    inputs = {"mask": covered.astype(np.uint8)}
    inputs |= {name: np.where(covered, 0.6, 0.0) for name in ("fa", "md", "ad", "rd")}
    # one voxel of the covered brain has no tensor
    inputs["fa"][0, 0, 7] = np.nan
    inputs |= {name: np.full(covered.shape, 0.9 if name == "wm" else 0.05) for name in TISSUES}
    for name, values in inputs.items():
        nib.Nifti1Image(values.astype(np.float32), affine).to_filename(f"{name}.nii.gz")
    return {name: str(tmp_path / f"{name}.nii.gz") for name in inputs}


def test_brain_that_the_series_does_not_cover_does_not_count_in_tissues(half_covered):
    MeasureTissues(**half_covered, min_probability=0.8).run()
    table = pd.read_csv("tissues.tsv", sep="\t").set_index(["region", "measure"])
    assert_allclose(table.loc[("wm", "fa_mean"), "value"], 0.6, rtol=1e-6)  # float32
    assert_allclose(table.loc[("wm", "md_median"), "value"], 0.6, rtol=1e-6)


def test_table_of_tissues_tells_how_many_voxels_count(half_covered):
    MeasureTissues(**half_covered, min_probability=0.8).run()
    table = pd.read_csv("tissues.tsv", sep="\t").set_index(["region", "measure"])
    assert table.loc[("wm", "fa_mean"), "n"] == 4 * 4 * 4 - 1
    assert table.loc[("wm", "md_mean"), "n"] == 4 * 4 * 4


def test_histogram_shows_only_voxels_that_count(half_covered, monkeypatch):
    from bids_alsmri.reports import figures

    shown = {}
    draw = figures.draw_histograms

    def spy(values_by_tissue, **words):
        shown.update(values_by_tissue)
        return draw(values_by_tissue, **words)

    monkeypatch.setattr(figures, "draw_histograms", spy)
    MeasureTissues(**half_covered, min_probability=0.8).run()
    assert_allclose(
        shown["white matter"][np.isfinite(shown["white matter"])], 0.6, rtol=1e-6
    )  # float32


def test_mean_of_moved_volumes_is_that_of_one_interpolation_each():
    rng = np.random.default_rng(0)
    data = ndimage.gaussian_filter(rng.normal(10, 3, (12, 13, 14, 3)), (2, 2, 2, 0))
    affine = np.diag([2.0, 2.5, 3.0, 1.0])
    maps = np.tile(np.eye(4), (3, 1, 1))
    maps[1, :3, :3] += rng.normal(0, 0.01, (3, 3))  # turned and stretched
    maps[1:, :3, 3] = rng.normal(0, 0.5, (2, 3))
    image = ImageData(data, affine, (2.0, 2.5, 3.0), Path("dwi.nii"))
    chosen = np.array([False, True, True])
    found = average_volumes(image, Motion(maps, maps), chosen)
    inner = np.zeros(data.shape[:3], dtype=bool)
    inner[3:-3, 3:-3, 3:-3] = True
    each = resample_series(
        data[..., chosen],
        affine,
        grid_points(inner.shape, affine, inner),
        maps[chosen],
        displacement_mm=None,
        spline_order=1,
        keep_nonnegative=True,
        modulate=True,
    )
    assert_allclose(found[inner], each.values.mean(axis=1), rtol=1e-5)  # float32


def test_share_of_the_brain_outside_the_field_of_view_is_measured_and_warned_of(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    affine = np.diag([2.0, 2, 2, 1])
    brain = np.zeros((12, 12, 12), dtype=np.uint8)
    brain[2:10, 2:10, 2:10] = 1
    write_image(brain, affine, tmp_path / "brain.nii.gz")
    # the series starts two slices above the lower end of a brain of eight
    lifted = affine.copy()
    lifted[2, 3] = 2 * 4
    write_image(np.ones((12, 12, 8, 2), np.float32), lifted, tmp_path / "dwi.nii.gz")
    write_image(brain[..., 4:], lifted, tmp_path / "b0_brain.nii.gz")
    write_linear(np.eye(4), tmp_path / "rigid.txt")
    still = np.tile(np.eye(4), (2, 1, 1))
    pd.DataFrame(motion_columns(Motion(still, still))).to_csv("motion.tsv", sep="\t", index=False)
    table = SeriesTable(
        [0.0, 1000.0], [[0, 0, 0], [1, 0, 0]], 1, 2, True, None, None, None, [], []
    ).write(tmp_path / "table.json")
    Resample(
        dwi=str(tmp_path / "dwi.nii.gz"),
        table=str(table),
        motion=str(tmp_path / "motion.tsv"),
        reference_to_anatomy=str(tmp_path / "rigid.txt"),
        anatomical_mask=str(tmp_path / "brain.nii.gz"),
        reference_mask=str(tmp_path / "b0_brain.nii.gz"),
        voxel_mm=0,
        margin_mm=2,
        interpolation="linear",
        definitions=str(PIPELINE.folder / "quality.json"),
    ).run()
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert facts["measures"] == [{"measure": "brain_coverage", "value": 0.75}]
    assert "covers 75.0% of the brain; expected at least 95%" in facts["warnings"][0]


def test_series_that_covers_nearly_all_of_the_brain_is_not_warned_of():
    brain = np.ones(100, dtype=bool)
    assert coverage_facts(np.arange(100) >= 4, brain, least=0.95)["warnings"] == []


@pytest.mark.parametrize("x_mm", [-2.0, 2.0])
def test_frame_of_the_bvec_file_gives_the_directions_that_the_fit_takes(tmp_path, x_mm):
    affine = np.diag([x_mm, 2, 2, 1])
    write_image(np.ones((2, 2, 2, 2), np.float32), affine, tmp_path / "dwi.nii.gz")
    rigid = np.eye(4)
    rigid[:3, :3] = Rotation.from_rotvec([1.2, -0.4, 0.3]).as_matrix()
    write_linear(rigid, tmp_path / "rigid.txt")
    b_vectors = np.eye(3)
    table = SeriesTable(
        [1000.0] * 3,
        bvecs_to_world(b_vectors, affine).tolist(),
        1,
        2,
        True,
        None,
        None,
        None,
        [],
        [],
    )
    still = np.tile(np.eye(4), (3, 1, 1))
    one = np.ones((1, 1, 1), dtype=bool)
    place = Place(Grid(one.shape, np.eye(4)), one, one, np.zeros((1, 3)), rigid)
    expected = turned_table(table, Motion(still, still), place).directions_world
    frame = bvec_frame(tmp_path / "dwi.nii.gz", tmp_path / "rigid.txt")
    # the transform is read in single precision
    assert_allclose(b_vectors @ frame.T, expected, atol=1e-7)


def test_figure_of_denoising_shows_a_weighted_volume_where_the_series_ends_with_b0(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    signal = np.random.default_rng(0).normal(100, 5, (6, 6, 6, 8)).astype(np.float32)
    write_image(signal, np.diag([2.0, 2, 2, 1]), tmp_path / "dwi.nii.gz")
    write_image(np.ones((6, 6, 6), np.uint8), np.diag([2.0, 2, 2, 1]), tmp_path / "mask.nii.gz")
    is_weighted = [0, 1, 1, 1, 1, 1, 0, 0]
    table = SeriesTable(
        [1000.0 * w for w in is_weighted],
        [[float(w), 0, 0] for w in is_weighted],
        *(1, 2, True, None, None, None, [], []),
    ).write(tmp_path / "table.json")
    found = Denoise(
        dwi=str(tmp_path / "dwi.nii.gz"),
        table=str(table),
        mask=str(tmp_path / "mask.nii.gz"),
        method="off",
        patch_radius=0,
        patch_step=1,
        noise_smoothing_voxels=0.0,
        noise_threshold_sd=0.0,
        n_threads=1,
    ).run()
    assert found.outputs.shown_volume == 5


@pytest.mark.parametrize("passes", [1, 4])
def test_rough_brain_mask_is_that_of_dipy(passes):
    mask_module = pytest.importorskip("dipy.segment.mask")
    rng = np.random.default_rng(3)
    distance = np.linalg.norm(np.indices((20, 22, 18)).T - [10, 11, 9], axis=-1).T
    b0 = (np.where(distance < 7, 900, 40) + rng.normal(0, 30, distance.shape)).astype(np.float32)
    _, expected = mask_module.median_otsu(b0, median_radius=2, numpass=passes, dilate=1)
    found = draft_brain_mask(b0, median_radius=2, passes=passes)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("PartialFourier", "6/8", "a number above 0, at most 1"),
        ("PartialFourier", 75, "a number above 0, at most 1"),
        ("PartialFourier", True, "a number above 0, at most 1"),
        ("MultibandAccelerationFactor", "x2", "a whole number from 1"),
        ("MultibandAccelerationFactor", 2.5, "a whole number from 1"),
        ("MultibandAccelerationFactor", 0, "a whole number from 1"),
        ("EchoTime", [0.08, 0.09], "one number in s"),
        ("SliceTiming", "interleaved", "a list of one time per slice"),
    ],
)
def test_value_of_another_kind_in_a_sidecar_is_named(key, value, expected):
    with pytest.raises(DataError) as found:
        protocol_of({key: value}, Path("sub-01_dwi.nii.gz"))
    assert f"sub-01_dwi.nii.gz: {key} is {value!r}" in str(found.value)
    assert f"expected {expected}" in str(found.value)


@pytest.mark.parametrize(
    ("text", "found", "remedy"),
    [
        ("\n", "holds no number", "leave the scan out"),
        ("0 1000 x\n", "'x'", "correct the file"),
        ("0,1000,1000\n", "'0,1000,1000'", "correct the file"),
        ("0 1 1\n0 1\n", "columns changed from 3 to 2", "correct the file"),
    ],
)
# numpy's own warning of an empty file would stand on the console beside the message
@pytest.mark.filterwarnings("error")
def test_table_that_holds_no_rows_of_numbers_is_refused_with_a_remedy(
    tmp_path, text, found, remedy
):
    path = tmp_path / "sub-01_dwi.bval"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        read_numbers(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert all(words in message for words in (found, "expected", remedy))
    assert "usecols" not in message


def test_whole_number_with_a_point_is_a_multiband_factor():
    assert protocol_of({"MultibandAccelerationFactor": 2.0}, Path("x"))["multiband_factor"] == 2


PROTOCOL = {
    "PhaseEncodingDirection": "j",
    "SliceEncodingDirection": "k",
    "EchoTime": 0.080,
    "PartialFourier": 0.75,
    "MultibandAccelerationFactor": 2,
    "SliceTiming": [0.0, 1.0, 0.0, 1.0],
}


@pytest.fixture
def runs_of(tmp_path):
    """Function that writes and reads runs whose sidecars are given."""
    # 1 b=0 and the six directions that a tensor needs
    pairs = [[1, 1, 0], [1, -1, 0], [1, 0, 1], [1, 0, -1], [0, 1, 1], [0, 1, -1]]
    weighting = np.r_[np.zeros((1, 3)), np.array(pairs) / np.sqrt(2)]
    np.savetxt(tmp_path / "dwi.bval", [np.where(weighting.any(axis=1), 1000, 0)])
    np.savetxt(tmp_path / "dwi.bvec", weighting.T)

    def read(*sidecars):
        runs = []
        for number, metadata in enumerate(sidecars, start=1):
            path = tmp_path / f"run-{number}_dwi.nii.gz"
            signal = np.random.default_rng(1).uniform(50, 100, (4, 4, 4, len(weighting)))
            write_image(signal.astype(np.float32), np.diag([2.0, 2, 2, 1]), path)
            runs.append(
                read_run(
                    path,
                    tmp_path / "dwi.bval",
                    tmp_path / "dwi.bvec",
                    metadata,
                    b0_threshold_s_mm2=50.0,
                )
            )
        return runs

    return read


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("PhaseEncodingDirection", "j-", "PhaseEncodingDirection is 'j-' and 'j'"),
        ("PhaseEncodingDirection", "i", "PhaseEncodingDirection is 'i' and 'j'"),
        ("SliceEncodingDirection", "i", "SliceEncodingDirection is 'i' and 'k'"),
        ("EchoTime", 0.082, "EchoTime is 0.082 and 0.08 s"),
        ("PartialFourier", 1.0, "PartialFourier is 1 and 0.75"),
        ("MultibandAccelerationFactor", 4, "MultibandAccelerationFactor is 4 and 2"),
        ("SliceTiming", [0.0, 0.0, 1.0, 1.0], "SliceTiming differs by up to 1 s"),
    ],
)
def test_runs_of_other_protocols_are_not_combined(runs_of, key, value, said):
    with pytest.raises(DataError) as found:
        combine_runs(runs_of(PROTOCOL, PROTOCOL | {key: value}))
    text = str(found.value)
    assert said in text
    assert "run-2_dwi.nii.gz and " in text
    assert "run-1_dwi.nii.gz are no runs of one protocol" in text
    assert all(way in text for way in ("dir-", "--bids-filter-file", "-diffusion-combine-runs"))


@pytest.mark.parametrize(
    "rounding",
    [{}, {"EchoTime": 0.0805}, {"SliceTiming": [0.0, 1.0025, 0.0, 1.0]}],
)
def test_runs_whose_protocols_differ_by_rounding_are_combined(runs_of, rounding):
    data, _, _, _ = combine_runs(runs_of(PROTOCOL, PROTOCOL | rounding))
    assert data.shape[3] == 14


def test_runs_are_compared_also_where_the_first_sidecar_tells_nothing(runs_of):
    other = PROTOCOL | {"PhaseEncodingDirection": "j-"}
    with pytest.raises(DataError, match="PhaseEncodingDirection is 'j-' and 'j'"):
        combine_runs(runs_of({}, PROTOCOL, other))


def test_what_the_first_sidecar_lacks_is_taken_from_the_others(runs_of):
    _, _, table, _ = combine_runs(runs_of({}, PROTOCOL | {"PhaseEncodingDirection": "i"}))
    assert (table.phase_axis, table.has_phase_axis, table.partial_fourier) == (0, True, 0.75)
    assert table.slice_times_s == [0.0, 1.0, 0.0, 1.0]
    assert "run-1_dwi.nii.gz: its sidecar lacks PhaseEncodingDirection" in table.warnings[0]


def table_of(**values):
    """Table of a b=0 and one weighted volume."""
    fields = {
        "b_values_s_mm2": [0.0, 1000.0],
        "directions_world": [[0, 0, 0], [1, 0, 0]],
        "phase_axis": 1,
        "slice_axis": 2,
        "has_phase_axis": True,
        "slice_times_s": None,
        "multiband_factor": None,
        "partial_fourier": None,
        "notes": [],
        "warnings": [],
    }
    return SeriesTable(**{**fields, **values})


def test_slices_are_judged_singly_where_the_multiband_factor_does_not_divide_them():
    groups, warnings = slice_groups(table_of(multiband_factor=3), 5)
    assert groups.tolist() == [0, 1, 2, 3, 4]
    assert "is 3, which does not divide the 5 slices" in warnings[0]


def test_slice_times_of_another_number_of_slices_are_not_used():
    groups, warnings = slice_groups(table_of(slice_times_s=[0.0, 1.0, 0.0]), 4)
    assert groups.tolist() == [0, 1, 2, 3]
    assert "SliceTiming holds 3 times but a volume has 4 slices" in warnings[0]


def test_multiband_factor_that_divides_the_slices_is_not_warned_of():
    groups, warnings = slice_groups(table_of(multiband_factor=2), 4)
    assert groups.tolist() == [0, 1, 0, 1]
    assert warnings == []


def test_slice_times_of_a_reversed_slice_axis_belong_to_the_last_slice_first():
    # BIDS 1.11, SliceEncodingDirection: with a minus the first time is that of the last slice
    sidecar = {"SliceTiming": [0.0, 0.1, 0.2], "SliceEncodingDirection": "k-"}
    assert protocol_of(sidecar, Path("x"))["slice_times_s"] == [0.2, 0.1, 0.0]


@pytest.fixture(scope="module")
def series_with_a_lost_slice():
    """Series of 3 b=0 and 12 directions without motion; one slice of one volume lost half."""
    rng = np.random.default_rng(3)
    axes = np.moveaxis(np.indices((16, 16, 10)), 0, -1)
    radius = np.linalg.norm((axes - [7.5, 7.5, 4.5]) / [6.5, 6.5, 4.5], axis=-1)
    mask = radius < 1
    b0 = np.where(mask, 1000 + 200 * np.cos(axes[..., 0]) + 200 * np.sin(axes[..., 1]), 0)
    directions = rng.normal(size=(12, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    volumes = [b0] * 3 + [b0 * np.exp(-0.7 - 0.3 * d[0] ** 2) for d in directions]
    data = np.stack(volumes, axis=-1) * rng.normal(1, 0.01, (*b0.shape, 15))
    data[:, :, 5, 7] *= 0.5
    affine, path = np.diag([3.0, 3, 3, 1]), Path("dwi.nii.gz")
    image = ImageData(data.astype(np.float32), affine, (3.0, 3.0, 3.0), path)
    table = table_of(
        b_values_s_mm2=[0.0] * 3 + [1000.0] * 12,
        directions_world=np.r_[np.zeros((3, 3)), directions].tolist(),
    )
    return image, mask, table


def motion_choices(*, target, replace_outliers, model="rigid"):
    eddy = EddySettings(
        model=model,
        phase_axis=1,
        slice_axis=2,
        smoothing_fwhm_mm=(4.0,),
        tolerance_mm=0.05,
        mask_margin_mm=3.0,
        contrast_margin_mm=0.0,
        contrast_fwhm_mm=3.0,
        shading_fwhm_mm=40.0,
        outlier_threshold_sd=4.0,
        outlier_min_change=0.1,
        outlier_both_signs=False,
        min_slice_voxels=10,
        b0_threshold_s_mm2=50.0,
        shell_gap_s_mm2=80.0,
        max_b0_registered_s_mm2=1500.0,
        align_shells="off",
        threads=1,
    )
    return MotionChoices(target, replace_outliers, eddy, 50.0, 0.01)


def share_of(found):
    shares = [m["value"] for m in found.facts["measures"] if m["measure"] == "outlier_slice_share"]
    return shares[0] if shares else None


@pytest.mark.parametrize("is_replaced", [True, False])
def test_lost_slices_are_counted_whether_replaced_or_not(series_with_a_lost_slice, is_replaced):
    image, mask, table = series_with_a_lost_slice
    choices = motion_choices(target="prediction", replace_outliers=is_replaced)
    found = correct_motion(image, mask, table, choices)
    # one of 10 slices of 12 weighted volumes
    assert_allclose(share_of(found), 1 / 120)
    assert outlier_table(found)[["volume", "slice"]].to_numpy().tolist() == [[7, 5]]
    assert (found.data[:, :, 5, 7].sum() > 1.5 * image.data[:, :, 5, 7].sum()) == is_replaced


def test_without_replacement_the_series_stays_as_it_was_and_a_note_says_so(
    series_with_a_lost_slice,
):
    image, mask, table = series_with_a_lost_slice
    choices = motion_choices(target="prediction", replace_outliers=False)
    found = correct_motion(image, mask, table, choices)
    assert found.data is image.data
    assert "not replaced (setting)" in " ".join(found.facts["notes"])


@pytest.mark.parametrize(
    ("is_replaced", "said"), [(True, "neither sought nor replaced"), (False, "not sought")]
)
def test_slices_that_were_not_judged_have_no_share(series_with_a_lost_slice, is_replaced, said):
    image, mask, table = series_with_a_lost_slice
    choices = motion_choices(target="b0", replace_outliers=is_replaced)
    found = correct_motion(image, mask, table, choices)
    assert share_of(found) is None
    assert f"slices that lost signal were {said}" in found.facts["notes"][0]
    assert motion_table(found)["lost_slices"].isna().all()


@pytest.mark.parametrize(("model", "n_warnings"), [("eddy", 1), ("affine", 0), ("rigid", 0)])
def test_unknown_phase_axis_is_warned_of_where_distortion_is_sought_along_it(
    series_with_a_lost_slice, model, n_warnings
):
    image, mask, table = series_with_a_lost_slice
    choices = motion_choices(target="b0", replace_outliers=False, model=model)
    found = correct_motion(image, mask, replace(table, has_phase_axis=False), choices)
    said = [w for w in found.facts["warnings"] if "lacks PhaseEncodingDirection" in w]
    assert len(said) == n_warnings


@pytest.mark.parametrize("threshold_sd", [2.3, None])
def test_threshold_of_local_pca_is_the_one_given(threshold_sd):
    from dipy.denoise.localpca import localpca

    rng = np.random.default_rng(5)
    data = 100 + 5 * rng.normal(size=(8, 8, 6, 10))
    mask = np.ones(data.shape[:3], dtype=bool)
    table = table_of(
        b_values_s_mm2=[0.0] * 3 + [1000.0] * 7,
        directions_world=[[0.0, 0, 0]] * 3 + [[1.0, 0, 0]] * 7,
    )
    words = {"patch_radius": 1, "patch_step": 1, "noise_smoothing_voxels": 3.0, "n_threads": 1}
    _, sigma, _ = denoise_series(data, mask, table, method="off", noise_threshold_sd=None, **words)
    found, _, _ = denoise_series(
        data, mask, table, method="local_pca", noise_threshold_sd=threshold_sd, **words
    )
    with np.errstate(all="ignore"):
        expected = localpca(data, sigma=sigma, mask=mask, patch_radius=1, tau_factor=threshold_sd)
    reached = np.isfinite(expected)
    assert reached.mean() > 0.9
    assert_allclose(found[reached], expected[reached], rtol=1e-4)  # float32


INTERPOLATED = [
    (
        {"AcquisitionMatrixPE": 128, "ReconMatrixPE": 256},
        "AcquisitionMatrixPE 128, ReconMatrixPE 256",
    ),
    ({"InterpolatedAcquisition": True}, "InterpolatedAcquisition True"),
    ({"AcquisitionMatrixPE": 96, "ReconMatrixPE": 96, "Interpolation2D": False}, None),
    ({"AcquisitionMatrixPE": 112, "ReconMatrixPE": 96}, None),
    ({}, None),
]


@pytest.mark.parametrize(("sidecar", "said"), INTERPOLATED)
def test_interpolation_by_the_scanner_is_read_from_the_sidecar(sidecar, said):
    assert protocol_of(sidecar, Path("x"))["interpolation"] == said


def test_interpolated_images_keep_their_ringing_and_a_note_says_why():
    data = np.random.default_rng(2).uniform(1, 2, (8, 8, 4, 2)).astype(np.float32)
    table = table_of(interpolation="AcquisitionMatrixPE 128, ReconMatrixPE 256")
    kept, facts = unring_series(data, table, n_points=1, is_wanted=True, n_threads=1)
    assert kept is data
    assert "interpolated the images (AcquisitionMatrixPE 128, Re" in facts["notes"][0]


def test_unknown_partial_fourier_is_a_note_and_no_warning():
    data = np.random.default_rng(2).uniform(1, 2, (8, 8, 4, 2)).astype(np.float32)
    _, facts = unring_series(data, table_of(), n_points=1, is_wanted=True, n_threads=1)
    assert "lacks PartialFourier" in facts["notes"][0]
    assert "warnings" not in facts


@pytest.mark.parametrize("method", ["mppca", "local_pca", "off"])
@pytest.mark.parametrize(("interpolation", "n_warnings"), [("ZeroFilled True", 1), (None, 0)])
def test_noise_level_of_interpolated_images_is_warned_of(method, interpolation, n_warnings):
    data = 100 + np.random.default_rng(2).normal(size=(6, 6, 6, 10))
    table = table_of(
        b_values_s_mm2=[0.0] * 3 + [1000.0] * 7,
        directions_world=[[0.0, 0, 0]] * 3 + [[1.0, 0, 0]] * 7,
        interpolation=interpolation,
    )
    _, _, facts = denoise_series(
        data,
        np.ones(data.shape[:3], dtype=bool),
        table,
        method=method,
        patch_radius=1,
        patch_step=1,
        noise_smoothing_voxels=3.0,
        noise_threshold_sd=None,
        n_threads=1,
    )
    assert len(facts["warnings"]) == n_warnings
    assert all("b0_snr and dwi_snr are not valid" in text for text in facts["warnings"])


def columns_of(name):
    """Columns of a table as the code makes them."""
    still = np.tile(np.eye(4), (2, 1, 1))
    result = EddyResult(
        still, still, np.zeros((2, 6)), np.ones(2), np.zeros(2), [], np.zeros((2, 3)), None, []
    )
    found = Corrected(None, result, np.zeros((2, 6)), *np.zeros((2, 2)), np.zeros((3, 2)), {})
    definitions = json.loads((PIPELINE.folder / "quality.json").read_text())
    ones = np.ones((2, 2, 2))
    rows = {
        "motion": motion_table(found),
        "outliers": outlier_table(found),
        "quality": pd.DataFrame(
            quality_rows([{"measures": [measure("tensor_residual", 1.0)]}], definitions)
        ),
        "tissue_stats": pd.DataFrame(
            measure_tissues({"fa": (ones, "1")}, {"wm": ones}, ones > 0, min_probability=0.5)
        ),
    }
    return set(rows[name].columns)


@pytest.mark.parametrize("name", ["motion", "outliers", "quality", "tissue_stats"])
def test_every_column_of_a_table_is_described_in_its_sidecar(name):
    described = PIPELINE.io_spec.outputs[name].sidecar
    assert set(described) == columns_of(name)
    assert all(column["Description"] for column in described.values())


@pytest.mark.parametrize(
    ("column", "unit"),
    [("trans_x", "mm"), ("rot_z", "degree"), ("transform_00", "1"), ("rigid_23", "mm")],
)
def test_columns_of_the_motion_table_have_units(column, unit):
    assert PIPELINE.io_spec.outputs["motion"].sidecar[column]["Units"] == unit


def test_no_sidecar_names_the_voxel_size_of_the_series_as_that_of_the_maps():
    # the maps' voxels are isotropic, and of the size that the user sets
    texts = [str(spec.sidecar) + spec.description for spec in PIPELINE.io_spec.outputs.values()]
    assert not any("at the voxel size of the diffusion series" in text for text in texts)


@pytest.fixture(scope="module")
def brain_maps():
    """FA that follows the template's white matter, at 2 mm, with noise; white and grey matter."""
    template = get_template("MNI152NLin2009aSym", 2.0)
    wm, gm = template.wm.get_fdata(), template.gm.get_fdata()
    noise = np.random.default_rng(2).normal(0.0, 0.08, wm.shape)
    return 0.1 + 0.35 * wm + noise, wm, gm


@pytest.mark.parametrize("gap_sd", [0.0, 1.0, 2.5])
def test_separation_of_two_normal_tissues_is_that_of_the_closed_form(gap_sd):
    rng = np.random.default_rng(4)
    wm = np.zeros((40, 40, 40))
    wm[:20] = 1.0
    fa = 0.5 + 0.05 * (rng.standard_normal(wm.shape) + gap_sd * wm)
    found = tissue_separation(fa, wm, 1.0 - wm, np.ones(wm.shape, bool))
    # the area under the curve of two normals of equal spread (Green and Swets 1966)
    assert_allclose(found, stats.norm.cdf(gap_sd / np.sqrt(2)), atol=0.01)


def test_separation_falls_when_the_series_is_shifted_and_a_warning_says_so(brain_maps):
    fa, wm, gm = brain_maps
    mask = wm + gm > 0.5
    values = [tissue_separation(np.roll(fa, shift, axis=1), wm, gm, mask) for shift in (0, 2, 4, 8)]
    assert (np.diff(values) < 0).all()
    assert separation_facts(values[0], least=0.75)["warnings"] == []
    (warning,) = separation_facts(values[-1], least=0.75)["warnings"]
    assert "not aligned" in warning


def test_separation_is_unknown_without_a_tissue():
    ones = np.ones((3, 3, 3))
    facts = separation_facts(tissue_separation(ones, ones, 0 * ones, ones > 0), least=0.75)
    assert facts["measures"] == [{"measure": "tissue_separation", "value": None}]
    assert "could not be judged" in facts["warnings"][0]
