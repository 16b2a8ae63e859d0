from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

from bids_alsmri.phantom.dataset import simulate_session
from bids_alsmri.phantom.diffusion import (
    S0_FLUID,
    S0_WHITE,
    Course,
    Tissue,
    block_mean,
    carry,
    draw_course,
    half_grid,
    rest_signal,
    rotate_dyads,
    tensor_truth,
)
from bids_alsmri.phantom.geometry import (
    gradient_directions,
    make_grid,
    rigid_matrix,
    rotation_about,
    world_to_bvecs,
)
from bids_alsmri.phantom.head import HeadSample
from bids_alsmri.phantom.records import PhantomSettings, SimulatedImage, Simulation

AXIS = np.array([2.0, -1.0, 2.0]) / 3
ALONG, ACROSS = 1.6e-3, 0.3e-3


def uniform_tissue(shape: tuple[int, int, int], white: float) -> Tissue:
    """White matter with one direction; the rest is fluid."""
    n = int(np.prod(shape))
    none = np.zeros(shape, np.float32)
    a = AXIS
    dyad = [a[0] ** 2, a[1] ** 2, a[2] ** 2, a[0] * a[1], a[0] * a[2], a[1] * a[2]]
    sample = HeadSample(
        white=none + np.float32(white),
        grey=none,
        fluid=none + np.float32(1 - white),
        other_t1=none,
        other_t2=none,
        other_sodium=none,
        brain=none + 1,
    )
    return Tissue(
        sample=sample,
        at=np.arange(n),
        dyads=np.repeat(np.array(dyad, np.float32)[:, None], n, axis=1),
        along=np.full(n, ALONG, np.float32),
        across=np.full(n, ACROSS, np.float32),
    )


@pytest.mark.parametrize("b_value", [0.0, 1000.0, 2500.0])
def test_signal_follows_the_tensor_model(b_value):
    tissue = uniform_tissue((4, 4, 4), white=0.7)
    tensor = ACROSS * np.eye(3) + (ALONG - ACROSS) * np.outer(AXIS, AXIS)
    for g in gradient_directions(6):
        white = S0_WHITE * np.exp(-b_value * g @ tensor @ g)
        expected = 0.7 * white + 0.3 * S0_FLUID * np.exp(-b_value * 3.0e-3)
        assert_allclose(rest_signal(tissue, b_value, g), expected, rtol=1e-5)  # float32


def test_truth_of_a_pure_voxel_is_the_tissue_tensor():
    grid = make_grid((0.0, 0.0, 0.0), (6.0, 6.0, 6.0), 2.0, 0.0)
    truth = tensor_truth(uniform_tissue(half_grid(grid).shape, white=1.0), grid, 1000.0)
    values = np.array([ALONG, ACROSS, ACROSS])
    fa = np.sqrt(1.5) * np.linalg.norm(values - values.mean()) / np.linalg.norm(values)
    assert_allclose(truth["fa"], fa, atol=1e-4)  # float32 logarithms
    assert_allclose(truth["md"], values.mean(), rtol=1e-4)
    assert_allclose(truth["ad"], ALONG, rtol=1e-4)
    assert_allclose(truth["rd"], ACROSS, rtol=1e-3)
    assert_allclose(np.abs(truth["v1"] @ AXIS), 1, atol=1e-6)


def test_dyads_turn_with_their_vector():
    turn = rotation_about(np.array([0.6, 0.0, 0.8]), 33.0)
    new = turn @ AXIS
    pairs = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
    old = np.array([[AXIS[a] * AXIS[b]] for a, b in pairs], np.float32)
    expected = np.array([[new[a] * new[b]] for a, b in pairs])
    assert_allclose(rotate_dyads(old, turn[None]), expected, atol=1e-6)


def still_course(n: int = 2) -> Course:
    return Course(
        b_values=np.zeros(n),
        directions=np.zeros((n, 3)),
        translations_mm=np.zeros((n, 3)),
        rotations_deg=np.zeros((n, 3)),
        poses=np.stack([np.eye(4)] * n),
        eddy=np.zeros((n, 4)),
        dropouts=(),
    )


@pytest.fixture
def blob():
    """A Gaussian off the centre, wide against a voxel: known wherever it is moved to."""
    grid = make_grid((0.0, 0.0, 0.0), (80.0, 80.0, 80.0), 2.0, 20.0)
    fine = half_grid(grid)

    def draw(points_mm, at_mm=(8.0, -6.0, 10.0)):
        return np.exp(-((points_mm - np.array(at_mm)) ** 2).sum(-1) / (2 * 10.0**2))

    return grid, fine, draw


def test_a_still_volume_is_the_mean_of_its_half_voxels(blob):
    grid, fine, draw = blob
    signal = draw(fine.points_mm()).astype(np.float32)
    assert_allclose(carry(signal, fine, grid, still_course(), 0), block_mean(signal), atol=1e-6)


def test_a_moved_volume_shows_the_head_where_it_has_gone(blob):
    grid, fine, draw = blob
    pose = rigid_matrix(np.array([3.0, -2.0, 1.5]), np.array([4.0, -6.0, 5.0]), grid.centre_mm)
    course = replace(still_course(1), poses=pose[None])
    moved = carry(draw(fine.points_mm()).astype(np.float32), fine, grid, course, 0)
    gone_to = (pose @ [8.0, -6.0, 10.0, 1])[:3]
    expected = draw(grid.points_mm(), gone_to)
    inner = (slice(4, -4),) * 3  # the field of view ends sharply
    # averaging over a voxel lowers a 10 mm blob by h^2/12/s^2 = 0.3 % per axis, interpolation less
    assert_allclose(moved[inner], expected[inner], atol=0.015)


def test_eddy_distortion_runs_along_phase_encoding_and_keeps_the_signal(blob):
    grid, fine, draw = blob
    eddy = np.array([[0.02, 0.01, -0.015, 1.2]])
    course = replace(still_course(1), eddy=eddy)
    moved = carry(draw(fine.points_mm()).astype(np.float32), fine, grid, course, 0)
    axes = grid.affine[:3, :3] / 2.0
    local = (grid.points_mm() - grid.centre_mm) @ axes
    shown = local.copy()
    shown[..., 1] = local[..., 1] * 1.02 + 0.01 * local[..., 0] - 0.015 * local[..., 2] + 1.2
    expected = 1.02 * draw(shown @ axes.T + grid.centre_mm)
    inner = (slice(4, -4),) * 3
    assert_allclose(moved[inner], expected[inner], atol=0.015)  # as above
    assert_allclose(moved.sum(), block_mean(draw(fine.points_mm())).sum(), rtol=0.01)


def test_first_volume_is_unweighted_and_at_rest():
    settings = PhantomSettings(n_directions=30, n_b0=3)
    grid = make_grid((0.0, 0.0, 0.0), (40.0, 40.0, 40.0), 4.0, 0.0)
    course = draw_course(settings, grid, np.random.default_rng(0))
    assert course.b_values[0] == 0
    assert np.count_nonzero(course.b_values == 0) == 3
    assert_allclose(course.poses[0], np.eye(4))
    assert np.abs(course.translations_mm).max() <= settings.max_motion_mm + 1e-9
    assert np.abs(course.rotations_deg).max() > 0.5 * settings.max_motion_deg
    assert (course.eddy[course.b_values == 0] == 0).all()
    assert np.abs(course.eddy[:, 0]).max() <= settings.max_eddy


def truth_map(scan: Simulation, name: str) -> np.ndarray:
    return next(image.values for image in scan.truth if f"param-{name}_" in image.tail)


def tissue_map(scan: Simulation, label: str) -> np.ndarray:
    return next(image.values for image in scan.truth if f"label-{label}_" in image.tail)


def fit(image: SimulatedImage, inside: np.ndarray):
    """dipy's weighted fit with the gradients brought to the world by the BIDS rule."""
    from dipy.core.gradients import gradient_table
    from dipy.reconst.dti import TensorModel

    bvals = np.array(image.texts[".bval"].split(), float)
    bvecs = np.array([line.split() for line in image.texts[".bvec"].splitlines()], float).T
    if np.linalg.det(image.affine) > 0:
        bvecs[:, 0] *= -1
    world = bvecs @ (image.affine[:3, :3] / np.linalg.norm(image.affine[:3, :3], axis=0)).T
    return TensorModel(gradient_table(bvals, bvecs=world)).fit(image.values[inside].astype(float))


@pytest.mark.slow
def test_dipy_recovers_the_truth_from_a_clean_scan(clean_scan):
    inside = tissue_map(clean_scan, "WM") > 0.9
    fitted = fit(clean_scan.raw[0], inside)
    # integers of some hundred units, and another mixture of directions than the truth's own
    assert_allclose(fitted.fa, truth_map(clean_scan, "fa")[inside], atol=0.02)
    assert_allclose(fitted.md, truth_map(clean_scan, "md")[inside], rtol=0.02)
    cosine = np.abs((fitted.directions[:, 0] * truth_map(clean_scan, "v1")[inside]).sum(-1))
    assert np.degrees(np.arccos(np.clip(np.percentile(cosine, 5), -1, 1))) < 2.0


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [{"determinant": "positive"}, {"axis_order": "PSR"}, {"axis_order": "ILA"}],
    ids=str,
)
def test_storage_changes_no_value_and_no_direction(clean_scan, clean_settings, fast_person, change):
    other = simulate_session(fast_person, "", replace(clean_settings, **change))["dwi"]
    first, second = clean_scan.raw[0], other.raw[0]
    rng = np.random.default_rng(0)
    for voxel in rng.integers(0, first.values.shape[:3], (200, 3)):
        world = first.affine @ (*voxel, 1)
        there = tuple(np.round(np.linalg.solve(second.affine, world)[:3]).astype(int))
        assert np.array_equal(first.values[tuple(voxel)], second.values[there])
    inside = tissue_map(other, "WM") > 0.9
    v1 = truth_map(other, "v1")[inside]
    cosine = np.abs((fit(second, inside).directions[:, 0] * v1).sum(-1))
    assert np.degrees(np.arccos(np.clip(np.percentile(cosine, 5), -1, 1))) < 2.0


@pytest.mark.slow
def test_an_oblique_grid_shows_the_same_directions(clean_settings, fast_person):
    scan = simulate_session(fast_person, "", replace(clean_settings, oblique_deg=20.0))["dwi"]
    inside = tissue_map(scan, "WM") > 0.9
    cosine = np.abs(
        (fit(scan.raw[0], inside).directions[:, 0] * truth_map(scan, "v1")[inside]).sum(-1)
    )
    assert np.degrees(np.arccos(np.clip(np.percentile(cosine, 5), -1, 1))) < 2.0


@pytest.mark.slow
def test_a_turned_head_needs_turned_gradients(clean_settings, fast_person):
    settings = replace(clean_settings, max_motion_deg=15.0)
    scan = simulate_session(fast_person, "", settings)["dwi"]
    rows = next(t for i in scan.truth for k, t in i.tables.items() if "motion" in k)
    table = np.array(rows.rows)
    names = rows.columns
    poses = [
        rigid_matrix(
            row[names.index("trans_x") : names.index("trans_x") + 3],
            row[names.index("rot_x") : names.index("rot_x") + 3],
            np.zeros(3),
        )
        for row in table
    ]
    directions = table[:, names.index("gradient_x") : names.index("gradient_x") + 3]
    turned = np.stack([p[:3, :3].T @ d for p, d in zip(poses, directions, strict=True)])
    image = scan.raw[0]
    grid_affine = image.affine
    aligned = realign(image, table[:, names.index("pull_00") :].reshape(-1, 3, 4))
    inside = tissue_map(scan, "WM") > 0.95
    v1 = truth_map(scan, "v1")[inside]
    errors = []
    for vectors in (turned, directions):
        texts = dict(image.texts)
        bvecs = world_to_bvecs(vectors, grid_affine)
        texts[".bvec"] = "\n".join(" ".join(map(str, r)) for r in bvecs)
        found = fit(replace(image, values=aligned, texts=texts), inside).directions[:, 0]
        errors.append(np.degrees(np.arccos(np.clip(np.abs((found * v1).sum(-1)), 0, 1))))
    # 5 mm voxels interpolated twice blur directions; the wrong table adds half the mean turn
    assert np.median(errors[0]) < 3.0
    assert np.median(errors[1]) > 1.5 * np.median(errors[0])


def realign(image: SimulatedImage, pulls: np.ndarray) -> np.ndarray:
    from scipy.ndimage import affine_transform

    aligned = np.empty(image.values.shape)
    for volume, pull in enumerate(pulls):
        push = np.linalg.inv(np.vstack([pull, [0, 0, 0, 1]]))
        matrix = np.linalg.inv(image.affine) @ push @ image.affine
        aligned[..., volume] = affine_transform(
            image.values[..., volume].astype(float), matrix[:3, :3], matrix[:3, 3], order=3
        )
    return np.maximum(aligned, 1)
