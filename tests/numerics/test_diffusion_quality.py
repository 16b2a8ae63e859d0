"""Quality figures against hand-computed values, and planted faults of gradient tables."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.spatial.transform import Rotation

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.diffusion import fit_tensor
from bids_alsmri.numerics.diffusion_quality import (
    check_gradient_orientation,
    eddy_current_shift,
    framewise_displacement,
    neighbouring_dwi_correlation,
    scale_runs_by_b0,
    signal_to_noise,
    summarise_tensor_fit,
)
from bids_alsmri.numerics.gradients import GradientTable


@pytest.fixture(scope="module", autouse=True)
def _compiled():
    """Compile the kernels once, outside the time of any test."""
    table = GradientTable(np.full(6, 1000.0), spread_directions(6))
    everywhere = np.ones((2, 2, 2), dtype=bool)
    fit = fit_tensor(
        np.ones((2, 2, 2, 6)),
        table,
        everywhere,
        method="wls",
        outlier_cutoff_sd=3.0,
        noise_sigma=None,
        largest_mm2_s=1.0,
    )
    judge(np.ones(fit.v1.shape), np.ones(fit.fa.shape), np.eye(4))


def motions(angles_deg, shifts_mm, centre_mm):
    maps = np.tile(np.eye(4), (len(angles_deg), 1, 1))
    turns = Rotation.from_euler("xyz", angles_deg, degrees=True).as_matrix()
    maps[:, :3, :3] = turns
    maps[:, :3, 3] = shifts_mm + np.asarray(centre_mm) - turns @ np.asarray(centre_mm)
    return maps


def test_framewise_displacement_by_hand():
    angles = np.array([[0, 0, 0], [1, 0, 0], [1, -2, 0], [1, -2, 0.5]])
    shifts = np.array([[0, 0, 0], [0.5, 0, 0], [0.5, 0, 0], [0.2, -0.1, 0.4]])
    centre = [5.0, -20.0, 30.0]
    found = framewise_displacement(motions(angles, shifts, centre), centre_mm=centre, radius_mm=50)
    # 50 mm x 1 degree = 0.8727 mm
    expected = [np.nan, 0.5 + 0.87266, 2 * 0.87266, 0.3 + 0.1 + 0.4 + 0.5 * 0.87266]
    assert_allclose(found.per_volume_mm, expected, atol=1e-4)
    assert_allclose(found.mean_mm, np.mean(expected[1:]), atol=1e-4)
    assert_allclose(found.max_mm, 2 * 0.87266, atol=1e-4)


def test_displacement_of_a_turn_does_not_depend_on_where_the_scanners_origin_lies():
    angles = np.array([[0.0, 0, 0], [0, 3, 0]])
    centre = np.array([0.0, 0.0, 1500.0])  # a header with the origin far from the head
    found = framewise_displacement(
        motions(angles, np.zeros((2, 3)), centre), centre_mm=centre, radius_mm=50
    )
    assert_allclose(found.max_mm, 50 * np.radians(3), rtol=1e-9)


def test_eddy_stretch_about_the_centre_is_no_head_movement():
    maps = np.tile(np.eye(4), (3, 1, 1))
    maps[1, 1, 1] = 1.05
    found = framewise_displacement(maps, centre_mm=[0, 0, 0], radius_mm=50)
    assert_allclose(found.max_mm, 0, atol=1e-9)


def test_single_volume_has_no_displacement():
    found = framewise_displacement([np.eye(4)], centre_mm=[0, 0, 0], radius_mm=50)
    assert (found.mean_mm, found.max_mm) == (0.0, 0.0)


def test_neighbours_are_found_across_opposite_signs_and_within_the_shell():
    g = np.array([[0, 0, 0], [1, 0, 0], [-0.995, 0.0999, 0], [0, 1, 0], [1, 0, 0], [0, 0, 1.0]])
    g[1:] /= np.linalg.norm(g[1:], axis=1)[:, None]
    table = GradientTable(np.array([0, 1000, 1000, 1000, 3000, 3000.0]), g)
    signal = np.random.default_rng(0).normal(size=(50, 6))
    found = neighbouring_dwi_correlation(signal, table)
    # squared distances of sqrt(b) g: 3 to 1 2000, 3 to 2 1800; 4 to 1 4000 - 2 sqrt(3e6) = 536
    pairs = {1: 2, 2: 1, 3: 2, 4: 1}
    for volume, neighbour in pairs.items():
        expected = np.corrcoef(signal[:, volume], signal[:, neighbour])[0, 1]
        assert_allclose(found[volume], expected, rtol=1e-12)
    assert np.isnan(found[0])


@given(st.floats(0.01, 100), st.floats(-50, 50))
def test_correlation_ignores_gain_and_offset(gain, offset):
    table = GradientTable(np.full(3, 1000.0), np.eye(3))
    signal = np.random.default_rng(1).normal(size=(30, 3))
    changed = signal.copy()
    changed[:, 1] = gain * changed[:, 1] + offset
    assert_allclose(
        neighbouring_dwi_correlation(changed, table),
        neighbouring_dwi_correlation(signal, table),
        atol=1e-9,
    )


def test_constant_volume_has_no_correlation():
    table = GradientTable(np.full(2, 1000.0), np.eye(3)[:2])
    signal = np.stack([np.arange(5.0), np.zeros(5)], axis=1)
    assert np.isnan(neighbouring_dwi_correlation(signal, table)).all()


def spread_directions(n):
    z = (np.arange(n) + 0.5) / n
    angle = np.pi * (1 + 5**0.5) * np.arange(n)
    r = np.sqrt(1 - z**2)
    return np.stack([r * np.cos(angle), r * np.sin(angle), z], axis=1)


def test_snr_from_residuals_is_the_planted_one():
    b = np.r_[np.zeros(4), np.full(30, 1000.0)]
    table = GradientTable(b, np.vstack([np.zeros((4, 3)), spread_directions(30)]))
    rng = np.random.default_rng(2)
    signal = 1000 * np.exp(-b * 0.7e-3) + rng.normal(size=(3000, 34)) * 20
    mask = np.ones(3000, dtype=bool)
    fit = fit_tensor(
        signal,
        table,
        mask,
        method="wls",
        outlier_cutoff_sd=3.0,
        noise_sigma=None,
        largest_mm2_s=1.0,
    )
    # medians of chi with 27 degrees of freedom lie 1 % below the root mean square
    assert_allclose(signal_to_noise(signal[:, :4], fit.residual_sd), 50, rtol=0.03)
    assert_allclose(signal_to_noise(signal[:, 4:], fit.residual_sd), 50 * np.exp(-0.7), rtol=0.03)
    quality = summarise_tensor_fit(fit, mask, n_volumes=34)
    assert_allclose(quality.residual_percent, 2, rtol=0.03)
    assert quality.failed_share == quality.left_out_share == 0


def test_shares_count_planted_failures_and_lost_values():
    table = GradientTable(
        np.r_[0, np.full(9, 1000.0)], np.vstack([np.zeros(3), spread_directions(9)])
    )
    signal = np.tile(100 * np.exp(-table.b_values_s_mm2 * 0.7e-3), (10, 1))
    signal[:2] = 0
    signal[2, 4] = 0
    mask = np.arange(10) < 8
    fit = fit_tensor(
        signal,
        table,
        mask,
        method="ols",
        outlier_cutoff_sd=3.0,
        noise_sigma=None,
        largest_mm2_s=1.0,
    )
    quality = summarise_tensor_fit(fit, mask, n_volumes=10)
    assert quality.n_voxels == 8
    assert quality.failed_share == 2 / 8
    assert_allclose(quality.left_out_share, 1 / 60)
    with pytest.raises(NumericsError, match="mask is empty"):
        summarise_tensor_fit(fit, mask & False, n_volumes=10)


def test_runs_come_to_the_scale_of_the_first_in_spite_of_misaligned_voxels():
    rng = np.random.default_rng(3)
    first = rng.uniform(200, 1000, 2000)
    runs = np.stack([first, first / 1.7, first * 3])
    runs[1, :300] = rng.uniform(0, 3000, 300)  # distortion: one voxel in seven is wrong
    runs[2, :50] = 0
    runs[2, 50:60] = np.nan
    assert_allclose(scale_runs_by_b0(runs), [1, 1.7, 1 / 3], rtol=1e-12)


def test_runs_without_a_shared_voxel_are_refused():
    with pytest.raises(NumericsError, match="run 2 shares no voxel"):
        scale_runs_by_b0(np.array([[1.0, 0.0], [0.0, 1.0]]))


def helix_field(affine, shape):
    """Bundles along a helix and an oblique arch, in world axes, with FA 0.7 inside."""
    points = np.argwhere(np.ones(shape)) @ affine[:3, :3].T + affine[:3, 3]
    fa, v1 = np.full(len(points), 0.05), np.zeros((len(points), 3))
    v1[:, 0] = 1
    for radius, pitch, phase in [(30.0, 50.0, 0.0), (30.0, 50.0, np.pi), (14.0, -40.0, 1.0)]:
        angle = np.linspace(-np.pi, np.pi, 721)
        path = np.stack(
            [
                radius * np.cos(angle + phase),
                0.7 * radius * np.sin(angle + phase),
                pitch * angle / (2 * np.pi),
            ],
            axis=1,
        )
        tangent = np.gradient(path, axis=0)
        tangent /= np.linalg.norm(tangent, axis=1)[:, np.newaxis]
        distance = np.linalg.norm(points[:, np.newaxis] - path[::3], axis=2)
        nearest = np.argmin(distance, axis=1)
        inside = distance[np.arange(len(points)), nearest] < 5
        fa[inside], v1[inside] = 0.7, tangent[::3][nearest[inside]]
    return fa.reshape(shape), v1.reshape(*shape, 3)


def oblique_grid(mirror):
    turn = Rotation.from_rotvec(np.radians(20) * np.array([0.6, 0.64, 0.48])).as_matrix()
    affine = np.eye(4)
    affine[:3, :3] = turn * [-3.0 if mirror else 3.0, 3.0, 3.5]
    affine[:3, 3] = -affine[:3, :3] @ [13, 13, 10]
    return affine, turn * [-1 if mirror else 1, 1, 1]


def bids_frame(affine):
    """Frame of a bvec file: image axes, x negated where the determinant is positive."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return axes * [-np.sign(np.linalg.det(axes)), 1, 1]


def judge(v1, fa, affine, frame=None):
    return check_gradient_orientation(
        v1,
        fa,
        affine,
        bvec_to_world=bids_frame(affine) if frame is None else frame,
        min_fa=0.3,
        max_bend_deg=45,
        min_gain=0.1,
        n_seeds=2000,
    )


@pytest.fixture(scope="module")
def bundles():
    return {
        mirror: (*oblique_grid(mirror), *helix_field(oblique_grid(mirror)[0], (27, 27, 21)))
        for mirror in (False, True)
    }


@pytest.mark.parametrize("mirror", [False, True])
def test_right_table_gives_no_warning(bundles, mirror):
    affine, _, fa, v1 = bundles[mirror]
    signs = np.random.default_rng(4).choice([-1, 1], fa.shape)[..., np.newaxis]
    found = judge(v1 * signs, fa, affine)
    assert found.best == 0
    assert found.warning == ""


FAULTS = {
    "x negated": np.diag([-1.0, 1, 1]),
    "y negated": np.diag([1.0, -1, 1]),
    "z negated": np.diag([1.0, 1, -1]),
    "x and y negated, which is z negated": np.diag([-1.0, -1, 1]),
    "x and y swapped": np.eye(3)[[1, 0, 2]],
    "y and z swapped": np.eye(3)[[0, 2, 1]],
    "x and z swapped": np.eye(3)[[2, 1, 0]],
    "turned round": np.eye(3)[[1, 2, 0]],
    "turned back": np.eye(3)[[2, 0, 1]],
    "swapped and negated": np.diag([1.0, -1, 1]) @ np.eye(3)[[1, 0, 2]],
}


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("fault", FAULTS)
def test_planted_fault_is_found_and_its_cure_named(bundles, mirror, fault):
    affine, _, fa, v1 = bundles[mirror]
    # the fault happens in the file; the tensor follows its b-vectors
    frame = bids_frame(affine)
    faulty = (v1 @ frame) @ FAULTS[fault].T @ frame.T
    found = judge(faulty, fa, affine)
    cured = found.matrices[found.best] @ FAULTS[fault]
    # the cure undoes the fault up to the sign that an axis does not have
    assert_allclose(np.abs(np.trace(cured)), 3, atol=1e-12)
    assert found.names[found.best] in found.warning
    assert "bvec file is probably not in the BIDS frame" in found.warning


@pytest.mark.parametrize("fault", ["x and y swapped", "y negated", "turned round"])
def test_cure_is_that_of_the_file_where_the_maps_lie_on_other_axes(bundles, fault):
    affine, _, fa, v1 = bundles[True]
    # a series stored along other axes than the T1w, and turned a little against it
    turn = Rotation.from_rotvec([0.1, -0.05, 0.2]).as_matrix()
    frame = turn @ np.eye(3)[[2, 0, 1]] * [-1, 1, 1]
    faulty = (v1 @ frame) @ FAULTS[fault].T @ frame.T
    found = judge(faulty, fa, affine, frame)
    cured = found.matrices[found.best] @ FAULTS[fault]
    assert_allclose(np.abs(np.trace(cured)), 3, atol=1e-12)


def test_frame_that_is_no_rotation_is_refused(bundles):
    affine, _, fa, v1 = bundles[False]
    with pytest.raises(NumericsError, match=r"bvec_to_world of shape \(3, 3\) is no rotation"):
        judge(v1, fa, affine, affine[:3, :3])


def test_faulty_table_in_a_refit_gives_the_same_answer_as_turning_the_field(bundles):
    # the claim on which the check rests: no refit is needed
    table = GradientTable(
        np.r_[0, np.full(20, 1000.0)], np.vstack([np.zeros(3), spread_directions(20)])
    )
    fault = FAULTS["swapped and negated"]
    tensor = np.array([[1.2, 0.3, 0.1], [0.3, 0.7, -0.2], [0.1, -0.2, 0.5]]) * 1e-3
    g = table.directions_world
    signal = np.exp(-table.b_values_s_mm2 * np.einsum("ni,ij,nj->n", g, tensor, g))[np.newaxis]
    fits = [
        fit_tensor(
            signal,
            t,
            np.array([True]),
            method="wls",
            outlier_cutoff_sd=3.0,
            noise_sigma=None,
            largest_mm2_s=1.0,
        )
        for t in (table, GradientTable(table.b_values_s_mm2, g @ fault.T))
    ]
    assert_allclose(fits[1].fa, fits[0].fa, atol=1e-6)
    assert_allclose(np.abs(fits[1].v1[0] @ fault @ fits[0].v1[0]), 1, atol=1e-6)


def test_all_candidates_differ_in_more_than_sign(bundles):
    affine, _, fa, v1 = bundles[False]
    matrices = judge(v1, fa, affine).matrices
    dyads = {tuple(np.outer(m @ [1, 2, 4], m @ [1, 2, 4]).ravel()) for m in matrices}
    assert len(dyads) == 24
    assert_array_equal(matrices[0], np.eye(3))


def test_field_without_fibres_is_refused(bundles):
    affine, _, fa, v1 = bundles[False]
    with pytest.raises(NumericsError, match=r"fa reaches 0\.3 nowhere"):
        judge(v1, 0 * fa, affine)


@pytest.mark.data
def test_real_table_fits_best_and_a_flipped_one_is_noticed(test_data):
    nib = pytest.importorskip("nibabel")
    from bids_alsmri.numerics.gradients import check_gradients, world_table

    stem = test_data / "bids_brain/sub-01/dwi/sub-01_dir-AP_dwi"
    image = nib.load(f"{stem}.nii.gz")
    signal = image.get_fdata(dtype=np.float32)
    mask = signal[..., 0] > 0.3 * np.percentile(signal[..., 0], 98)
    for flip, warned in [([1, 1, 1], False), ([1, -1, 1], True)]:
        checked = check_gradients(
            np.loadtxt(f"{stem}.bval"),
            np.loadtxt(f"{stem}.bvec") * np.array(flip)[:, np.newaxis],
            n_volumes=21,
            b0_threshold_s_mm2=50,
        )
        table = world_table(checked, image.affine)
        fit = fit_tensor(
            signal,
            table,
            mask,
            method="wls",
            outlier_cutoff_sd=3.0,
            noise_sigma=None,
            largest_mm2_s=1.0,
        )
        found = judge(fit.v1, fit.fa, image.affine)
        assert ("y negated" in found.warning) == warned
        assert (found.best == 0) != warned


def test_eddy_shift_is_parted_from_motion_and_left_alone_without_it():
    rng = np.random.default_rng(5)
    directions = rng.standard_normal((30, 3))
    directions /= np.linalg.norm(directions, axis=1)[:, np.newaxis]
    table = GradientTable(np.r_[0.0, np.full(30, 2500.0)], np.vstack([np.zeros(3), directions]))
    eddy = np.r_[0.0, directions @ [1.0, -2.0, 0.5]]
    motion = 0.2 * rng.standard_normal(31)
    found = eddy_current_shift(eddy + motion, table, max_p_value=0.01)
    # three slopes fitted to noise of 0.2 mm take sqrt(3 / 30) of it along
    assert np.sqrt(np.mean((found - eddy) ** 2)) < 2 * 0.2 * np.sqrt(3 / 30)
    assert_allclose(eddy_current_shift(motion, table, max_p_value=0.01), 0)


@pytest.mark.parametrize("b_values", [(1000.0, 4000.0), (700.0, 2800.0)])
def test_eddy_shift_grows_with_the_gradient_not_with_its_square(b_values):
    # b = (gamma G delta)^2 (Delta - delta / 3): four times the b-value is twice the gradient
    rng = np.random.default_rng(7)
    directions = rng.standard_normal((40, 3))
    directions /= np.linalg.norm(directions, axis=1)[:, np.newaxis]
    table = GradientTable(np.repeat(b_values, 20), directions)
    eddy = np.repeat([0.5, 1.0], 20) * (directions @ [1.0, -2.0, 0.5])
    found = eddy_current_shift(eddy, table, max_p_value=0.01)
    assert_allclose(found, eddy, atol=1e-9)  # mm; noise-free, so rounding alone


def test_eddy_shift_keeps_its_error_rate_without_eddy_currents():
    rng = np.random.default_rng(6)
    directions = rng.standard_normal((20, 3))
    directions /= np.linalg.norm(directions, axis=1)[:, np.newaxis]
    table = GradientTable(np.full(20, 1000.0), directions)
    hits = sum(
        bool(np.any(eddy_current_shift(rng.standard_normal(20), table, max_p_value=0.05)))
        for _ in range(400)
    )
    # 99.9 % interval of a binomial of 400 draws at 5 %
    assert 7 <= hits <= 36
