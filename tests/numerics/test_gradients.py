"""Gradient tables: what is refused, what is mended, and the frame of b-vectors."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.spatial.transform import Rotation

from bids_alsmri.errors import ExitCode, NumericsError
from bids_alsmri.numerics.gradients import (
    GradientTable,
    bvecs_to_world,
    check_gradients,
    find_shells,
    rotate_directions,
    select_tensor_volumes,
    world_table,
    world_to_bvecs,
)


def spread_directions(n):
    """Half a Fibonacci sphere: directions well apart, none opposite."""
    z = (np.arange(n) + 0.5) / n
    angle = np.pi * (1 + 5**0.5) * np.arange(n)
    r = np.sqrt(1 - z**2)
    return np.stack([r * np.cos(angle), r * np.sin(angle), z], axis=1)


def table(n_weighted=12, b=1000.0):
    b_values = np.r_[0.0, np.full(n_weighted, b)]
    vectors = np.vstack([np.zeros(3), spread_directions(n_weighted)])
    return b_values, vectors.T


def check(b_values, b_vectors, n_volumes=None, threshold=50.0):
    n_volumes = len(np.ravel(b_values)) if n_volumes is None else n_volumes
    return check_gradients(b_values, b_vectors, n_volumes=n_volumes, b0_threshold_s_mm2=threshold)


def refused(*args, **keywords):
    with pytest.raises(NumericsError) as caught:
        check(*args, **keywords)
    assert caught.value.exit_code == ExitCode.BAD_DATA
    return str(caught.value)


def test_good_table_passes_without_a_word():
    b_values, b_vectors = table()
    checked = check(b_values, b_vectors)
    assert checked.warnings == ()
    assert checked.kept.all()
    assert_allclose(checked.b_vectors, b_vectors.T, atol=1e-12)


def test_wrong_number_of_b_values_is_refused_with_both_numbers():
    b_values, b_vectors = table()
    message = refused(b_values[:-1], b_vectors, n_volumes=13)
    assert "b_values has shape (12,)" in message
    assert "13 volumes" in message
    assert "one b-value" in message


@pytest.mark.parametrize("shape", [(3, 12), (12, 3), (4, 13), (39,), (3, 3)])
def test_wrong_shape_of_b_vectors_is_refused_with_the_remedy(shape):
    b_values, _ = table()
    message = refused(b_values, np.ones(shape))
    assert f"b_vectors has shape {shape}" in message
    assert "3 rows of 13" in message
    assert "one column per volume" in message


def test_transposed_files_are_read_with_a_warning_each():
    b_values, b_vectors = table()
    checked = check(b_values[:, np.newaxis], b_vectors.T)
    assert_allclose(checked.b_vectors, b_vectors.T, atol=1e-12)
    assert len(checked.warnings) == 2
    assert "one column of 13 rows" in checked.warnings[0]
    assert "transposed, 13 rows of 3" in checked.warnings[1]


def test_b_value_file_of_two_rows_is_refused():
    b_values, b_vectors = table()
    assert "has shape (2, 13)" in refused(np.tile(b_values, (2, 1)), b_vectors, n_volumes=13)


@pytest.mark.parametrize("bad", [np.nan, -5.0, np.inf])
def test_b_value_that_is_no_weighting_is_refused(bad):
    b_values, b_vectors = table()
    b_values[4] = bad
    assert "b_values of volumes 4 are" in refused(b_values, b_vectors)


@pytest.mark.parametrize("vector", [[0, 0, 0], [1, 0, 0], [np.nan] * 3, [0.3, 0.2, 0.1]])
@pytest.mark.parametrize("b", [0.0, 5.0, 50.0])
def test_b_at_or_below_threshold_counts_as_zero_whatever_its_vector(b, vector):
    b_values, b_vectors = table()
    b_values[0], b_vectors[:, 0] = b, vector
    checked = check(b_values, b_vectors)
    assert checked.b_values_s_mm2[0] == 0
    assert_array_equal(checked.b_vectors[0], 0)
    assert checked.warnings == ()


def test_threshold_is_the_callers():
    b_values, b_vectors = table()
    b_values[0] = 80
    assert "no volume has b at or below 50 s/mm2 (lowest is 80)" in refused(b_values, b_vectors)
    assert check(b_values, b_vectors, threshold=100).b_values_s_mm2[0] == 0


def test_zero_vector_with_weighting_is_left_out_as_trace_volume():
    b_values, b_vectors = table()
    b_vectors[:, 5] = 0
    checked = check(b_values, b_vectors)
    assert_array_equal(np.flatnonzero(~checked.kept), [5])
    assert "Volumes 5 have b above 50 s/mm2 and a zero vector" in checked.warnings[0]
    assert world_table(checked, np.eye(4)).n_volumes == 12


def test_nan_vector_with_weighting_is_refused():
    b_values, b_vectors = table()
    b_vectors[1, 5] = np.nan
    message = refused(b_values, b_vectors)
    assert "volumes 5 hold NaN" in message
    assert "volume 5: 1000" in message


@pytest.mark.parametrize(
    ("length", "n_warnings"), [(1.009, 0), (0.991, 0), (1.011, 1), (0.91, 1), (1.09, 1)]
)
def test_small_errors_of_length_are_normalised(length, n_warnings):
    b_values, b_vectors = table()
    b_vectors[:, 3] *= length
    checked = check(b_values, b_vectors)
    assert_allclose(np.linalg.norm(checked.b_vectors[1:], axis=1), 1, atol=1e-12)
    assert_array_equal(checked.b_values_s_mm2, b_values)
    assert len(checked.warnings) == n_warnings
    if n_warnings:
        assert f"volume 3: {length:.3f}" in checked.warnings[0]


@pytest.mark.parametrize("length", [0.89, 1.2, 0.5])
def test_one_length_off_by_more_than_ten_per_cent_is_refused(length):
    b_values, b_vectors = table()
    b_vectors[:, 3] *= length
    message = refused(b_values, b_vectors)
    assert f"volume 3: {length:.3f}" in message
    assert "more than 10 %" in message
    assert "unit vectors" in message


@pytest.mark.parametrize("length", [0.5, 2.0])
def test_one_length_shared_by_all_is_refused_since_b_would_be_a_guess(length):
    b_values, b_vectors = table()
    assert "more than 10 %" in refused(b_values, length * b_vectors)


def test_random_lengths_are_refused():
    b_values, b_vectors = table(30)
    lengths = np.random.default_rng(1).uniform(0.3, 1, 31)
    assert "forms no several shells" in refused(b_values, lengths * b_vectors)


@pytest.mark.parametrize("jitter", [0.0, 0.01])
def test_lengths_that_scale_one_nominal_b_to_shells_rescale_b(jitter):
    rng = np.random.default_rng(2)
    b_values, b_vectors = table(24, b=3000.0)
    true_b = np.r_[0, np.repeat([1000.0, 2000.0, 3000.0], 8)]
    true_b *= 1 + jitter * rng.uniform(-1, 1, 25)
    checked = check(b_values, b_vectors * np.sqrt(true_b / 3000))
    assert_allclose(checked.b_values_s_mm2, true_b, rtol=1e-12)
    assert_allclose(checked.b_vectors, b_vectors.T, atol=1e-12)
    assert "b was multiplied by it" in checked.warnings[0]


def test_fewer_than_six_independent_directions_are_refused():
    b_values, b_vectors = table(5)
    assert "hold 5 independent directions" in refused(b_values, b_vectors)


def test_opposite_and_repeated_directions_count_once():
    five = spread_directions(5)
    vectors = np.vstack([np.zeros(3), five, -five, five]).T
    assert "hold 5 independent directions" in refused(np.r_[0, np.full(15, 700.0)], vectors)


def test_directions_on_one_cone_do_not_make_a_tensor():
    # g = (cos a, sin a, 1)/sqrt 2 obeys x^2 + y^2 = z^2, one linear relation of the dyads
    angle = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    cone = np.stack([np.cos(angle), np.sin(angle), np.ones(20)]) / np.sqrt(2)
    message = refused(np.r_[0, np.full(20, 700.0)], np.hstack([np.zeros((3, 1)), cone]))
    assert "hold 5 independent" in message


def test_trace_volumes_only_are_refused_by_directions():
    assert "hold 0 independent" in refused([0, 1000, 1000], np.zeros((3, 3)))


def test_b_in_other_units_is_refused_with_a_hint():
    b_values, b_vectors = table(b=1.0)
    assert "1 ms/um2 is 1000 s/mm2" in refused(b_values, b_vectors)


def test_all_zero_b_values_are_refused():
    b_values, b_vectors = table(b=0.0)
    assert "no volume has b above 50" in refused(b_values, b_vectors)


@given(st.permutations(range(13)))
def test_order_of_volumes_does_not_matter(order):
    b_values, b_vectors = table()
    b_vectors[:, 3] *= 1.05
    checked = check(b_values, b_vectors)
    shuffled = check(b_values[order], b_vectors[:, order])
    assert_allclose(shuffled.b_vectors, checked.b_vectors[order], atol=1e-12)
    assert_array_equal(shuffled.b_values_s_mm2, checked.b_values_s_mm2[order])


# every way in which the same head may be stored: order of axes, their signs, a tilt
STORAGE = [
    (order, flip, tilt)
    for order in [(0, 1, 2), (2, 0, 1), (1, 0, 2), (2, 1, 0)]
    for flip in [(1, 1, 1), (-1, 1, 1), (1, -1, 1), (-1, -1, -1), (1, 1, -1)]
    for tilt in [0.0, 20.0]
]


def stored_affine(order, flip, tilt_deg, sizes_mm=(2.0, 2.5, 3.0)):
    turn = Rotation.from_rotvec(np.radians(tilt_deg) * np.array([0.6, 0.64, 0.48])).as_matrix()
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.eye(3)[:, list(order)] @ np.diag(np.multiply(flip, sizes_mm))
    affine[:3, 3] = [-90, -126, -72]
    return affine


def bids_vectors_by_definition(directions_world, affine):
    """Components along each image axis, the first negated for a positive determinant."""
    columns = []
    for axis in range(3):
        unit = affine[:3, axis] / np.sqrt(np.sum(affine[:3, axis] ** 2))
        columns.append(directions_world @ unit)
    if np.linalg.det(affine) > 0:
        columns[0] = -columns[0]
    return np.stack(columns, axis=1)


@pytest.mark.parametrize(("order", "flip", "tilt"), STORAGE)
def test_world_directions_do_not_depend_on_how_the_head_is_stored(order, flip, tilt):
    truth = spread_directions(30)
    affine = stored_affine(order, flip, tilt)
    stored = bids_vectors_by_definition(truth, affine)
    assert_allclose(bvecs_to_world(stored, affine), truth, atol=1e-9)
    assert_allclose(world_to_bvecs(truth, affine), stored, atol=1e-9)


def test_header_rounded_to_single_precision_moves_directions_less_than_a_hundredth_degree():
    truth = spread_directions(30)
    affine = stored_affine((0, 1, 2), (-1, 1, 1), 20.0)
    found = bvecs_to_world(bids_vectors_by_definition(truth, affine), affine.astype(np.float32))
    cosine = np.clip(np.sum(found * truth, axis=1), -1, 1)
    assert np.degrees(np.arccos(cosine)).max() < 0.01


@given(
    st.lists(st.floats(-180, 180), min_size=3, max_size=3),
    st.lists(st.floats(0.5, 6.0), min_size=3, max_size=3),
    st.sampled_from([1.0, -1.0]),
)
def test_frames_invert_each_other(angles, sizes_mm, mirror):
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() * sizes_mm
    affine[:3, 0] *= mirror
    truth = spread_directions(8)
    assert_allclose(bvecs_to_world(world_to_bvecs(truth, affine), affine), truth, atol=1e-9)


def test_sheared_affine_is_refused_with_its_angle():
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[0, 1] = 2 * np.tan(np.radians(5))
    with pytest.raises(NumericsError, match=r"sheared: two image axes are 5\.0 degrees"):
        bvecs_to_world([[1, 0, 0]], affine)


def test_flat_affine_is_refused():
    with pytest.raises(NumericsError, match="cannot be inverted"):
        world_to_bvecs([[1, 0, 0]], np.diag([2.0, 2.0, 0.0, 1.0]))


@given(st.lists(st.floats(-60, 60), min_size=3, max_size=3))
def test_rotated_directions_give_the_signal_of_the_turned_head(angles):
    # a head turned by R has the tensor R D R'; seen in its own frame the gradient is R' g
    turn = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    tensor = np.diag([1.7e-3, 0.4e-3, 0.2e-3])
    g = spread_directions(10)
    measured = np.einsum("ni,ij,nj->n", g, turn @ tensor @ turn.T, g)
    maps = np.tile(np.eye(4), (10, 1, 1))
    maps[:, :3, :3] = turn
    own = rotate_directions(g, maps)
    assert_allclose(np.einsum("ni,ij,nj->n", own, tensor, own), measured, rtol=1e-9)


def test_stretch_and_shift_of_eddy_currents_do_not_turn_directions():
    g = spread_directions(4)
    maps = np.tile(np.diag([1.0, 1.05, 0.98, 1.0]), (4, 1, 1))
    maps[:, :3, 3] = [3, -2, 1]
    assert_allclose(rotate_directions(g, maps), g, atol=1e-12)


def test_mirroring_map_is_refused():
    with pytest.raises(NumericsError, match="volumes 0 mirrors"):
        rotate_directions([[1, 0, 0]], [np.diag([-1.0, 1, 1, 1])])


def test_table_without_unit_vectors_cannot_be_made():
    with pytest.raises(NumericsError, match="volumes 1 have directions that are neither unit"):
        GradientTable(np.array([0.0, 1000.0]), np.array([[0, 0, 0], [0.9, 0, 0]]))


def select(b_values, max_b=1500.0):
    return select_tensor_volumes(
        b_values, max_b_s_mm2=max_b, b0_threshold_s_mm2=50, shell_gap_s_mm2=80
    )


def test_shells_are_found_in_jittered_b_values():
    b = [0, 5, 985, 1000, 1010, 2990, 3005, 200]
    shells = find_shells(b, b0_threshold_s_mm2=50, shell_gap_s_mm2=80)
    assert_array_equal(shells.labels, [0, 0, 2, 2, 2, 3, 3, 1])
    assert_allclose(shells.b_values_s_mm2, [0, 200, 995 + 10 / 3, 2997.5])


def test_volumes_up_to_the_limit_are_selected():
    volumes, sentence = select([0, 700, 1000, 1000, 2000, 3000])
    assert_array_equal(volumes, [True, True, True, True, False, False])
    assert "4 of 6 volumes" in sentence
    assert "2000, 3000 s/mm2 were left out, above the limit of 1500" in sentence


def test_jitter_about_the_limit_does_not_split_a_shell():
    volumes, _ = select([0, 1490, 1500, 1515, 3000])
    assert_array_equal(volumes, [True, True, True, True, False])


def test_lowest_shell_is_taken_where_all_lie_above_the_limit():
    volumes, sentence = select([0, 2500, 2500, 4000])
    assert_array_equal(volumes, [True, True, True, False])
    assert "No shell lies at or below 1500 s/mm2, so the lowest was taken" in sentence
    assert "diffusivities" in sentence


def test_selection_without_weighted_volumes_is_refused():
    with pytest.raises(NumericsError, match="at or below 50"):
        select([0, 0])
