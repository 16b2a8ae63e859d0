"""Skeleton of tracts and projection onto it."""

from itertools import permutations, product
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import ndimage

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.skeleton import (
    distance_map,
    erode_fa,
    group_mask,
    project,
    sample_positions,
    skeletonise,
)

HALF_OF_26 = [
    step for step in product((-1, 0, 1), repeat=3) if (step[2], step[1], -step[0]) > (0, 0, 0)
]


def bump(distance_voxels, sd_voxels=2.0):
    """FA of a tract by the distance from its centre."""
    return 0.7 * np.exp(-0.5 * (distance_voxels / sd_voxels) ** 2)


def away_from_faces(shape, depth):
    inside = np.zeros(shape, bool)
    inside[(slice(depth, -depth),) * 3] = True
    return inside


def assert_thin_across(skeleton, where):
    assert where.any()
    for voxel in np.argwhere(where):
        step = skeleton.directions[tuple(voxel)].astype(int)
        for n in (-2, -1, 1, 2):
            assert skeleton.fa[tuple(voxel + n * step)] == 0.0


def rough_fa(seed, shape=(22, 20, 18)):
    rng = np.random.default_rng(seed)
    fa = ndimage.gaussian_filter(rng.normal(size=shape), 1.5)
    return np.clip(0.4 + 2.0 * fa, 0.0, None).astype(np.float32).astype(np.float64)


@pytest.mark.parametrize("normal", HALF_OF_26)
def test_sheet_is_thinned_to_the_voxels_nearest_its_plane(normal):
    # off the grid by an uneven amount, so that no two voxels are equally near
    coordinates = np.indices((26, 26, 26))
    offset = np.tensordot(normal, coordinates - 12, axes=1) - 0.3
    skeleton = skeletonise(bump(offset / np.linalg.norm(normal)))
    # along the normal from voxel to voxel the offset grows by |normal|^2
    nearest = np.abs(offset) < 0.5 * np.dot(normal, normal)
    inner = away_from_faces(offset.shape, 4)
    assert_array_equal((skeleton.fa >= 0.2)[inner], nearest[inner])
    across = skeleton.directions[inner & nearest].astype(int)
    assert np.all(np.abs(across @ normal) == np.dot(normal, normal))


@pytest.mark.parametrize("axis", [(0, 0, 1), (0, 1, 0), (0, 1, 1), (1, 1, 1), (3, 1, 2)])
@pytest.mark.parametrize("sd_voxels", [1.0, 2.0])
def test_tube_is_thinned_to_its_axis_and_neighbours_of_it(axis, sd_voxels):
    # a tube has no one direction across; each voxel is thinned along that of its neighbourhood
    along = np.array(axis) / np.linalg.norm(axis)
    points = np.moveaxis(np.indices((21, 21, 21)), 0, -1) - np.array([10.2, 9.9, 10.1])
    radius = np.linalg.norm(np.cross(points, along), axis=-1)
    skeleton = skeletonise(bump(radius, sd_voxels))
    inner = away_from_faces(radius.shape, 4)
    found = (skeleton.fa >= 0.2) & inner
    # 1.5: the axis lies at most 0.5 from its voxel in a slice across, plus one voxel
    assert radius[found].max() <= 1.5
    slices = np.moveaxis(np.stack([radius, skeleton.fa]), 1 + int(np.argmax(axis)), 1)
    for distances, fa in zip(*slices[:, 5:-5], strict=True):
        assert fa.ravel()[distances.argmin()] > 0.0
    assert_thin_across(skeleton, found)


@pytest.mark.parametrize("radius_voxels", [9.0, 14.0])
def test_bent_sheet_is_thinned_to_one_layer_along_the_bend(radius_voxels):
    coordinates = np.indices((24, 24, 12)).astype(float)
    radius = np.hypot(coordinates[0] + 0.3, coordinates[1] + 0.4)
    skeleton = skeletonise(bump(radius - radius_voxels, 1.5))
    middle = np.zeros(radius.shape, bool)
    middle[3:-3, 3:-3, 3:-3] = True
    found = (skeleton.fa >= 0.2) & middle
    # a voxel may lie off the bend by half a diagonal step; nothing else is skeleton
    assert np.abs(radius - radius_voxels)[found].max() <= np.sqrt(0.5)
    # closed: every voxel that the bend passes has skeleton beside it
    passed = (np.abs(radius - radius_voxels) < 0.5) & away_from_faces(radius.shape, 4)
    assert ndimage.binary_dilation(found, np.ones((3, 3, 3)))[passed].all()
    assert_thin_across(skeleton, found & away_from_faces(radius.shape, 5))


def neighbours(values):
    """Each voxel's neighbour at every one of the 27 steps; 0 beyond the faces."""
    framed = np.pad(values, 2)
    shape = values.shape
    return {
        step: framed[tuple(slice(2 + d, 2 + d + n) for d, n in zip(step, shape, strict=True))]
        for step in product((-2, -1, 0, 1, 2), repeat=3)
    }


def numpy_skeleton(fa):
    """Four steps of the method in plain NumPy, and where the vote was not tied."""
    steps = sorted(HALF_OF_26, key=lambda s: (s[2], s[1], -s[0]), reverse=True)
    at = neighbours(fa)
    near = {step: at[step] for step in product((-1, 0, 1), repeat=3)}
    total = sum(near.values())
    moment = sum(np.multiply.outer(np.array(step), value) for step, value in near.items())
    length = np.linalg.norm(moment, axis=0)
    falls = np.array(
        [
            (2 * fa - at[step] - at[tuple(-d for d in step)]) / np.linalg.norm(step) ** 1.4
            for step in steps
        ]
    )
    number = np.where(falls.max(axis=0) > 0, 1 + falls.argmax(axis=0), 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        vector = np.rint(moment / length)
        far = length / total > 0.1
    for index, step in enumerate(steps, start=1):
        along = np.abs(np.tensordot(step, vector, axes=1)) == np.dot(step, step)
        same = along & (np.abs(vector).sum(axis=0) == np.abs(step).sum())
        number[far & same] = index
    valid = away_from_faces(fa.shape, 1) & (fa > 0)
    number[~valid] = 0
    votes = np.array(
        [
            sum(votes_at[step].astype(int) for step in near)
            for votes_at in (neighbours(number == n) for n in range(1, 14))
        ]
    )
    n_none = 27 - votes.sum(axis=0)
    mode = np.where(votes.max(axis=0) >= 2 * n_none, 1 + votes.argmax(axis=0), 0) * valid
    ranked = np.sort(votes, axis=0)
    is_untied = ranked[-1] > ranked[-2]
    kept = np.zeros(fa.shape, bool)
    for index, step in enumerate(steps, start=1):
        ahead = [tuple(n * d for d in step) for n in (1, 2)]
        behind = [tuple(-n * d for d in step) for n in (1, 2)]
        largest = np.all([fa > at[s] for s in ahead] + [fa >= at[s] for s in behind], axis=0)
        kept |= (mode == index) & largest
    step_of_number = np.array([(0, 0, 0), *steps])
    return SimpleNamespace(
        fa=np.where(kept, fa, 0.0), directions=step_of_number[mode], is_untied=is_untied
    )


@pytest.mark.parametrize("seed", range(4))
def test_kernels_agree_with_plain_numpy(seed):
    fa = rough_fa(seed)
    fa[fa < 0.3] = 0.0
    found, expected = skeletonise(fa), numpy_skeleton(fa)
    assert_array_equal(found.directions, expected.directions)
    assert_array_equal(found.fa, expected.fa)
    assert np.count_nonzero(found.fa) > 50


@pytest.mark.parametrize("axes", list(permutations(range(3))))
@pytest.mark.parametrize("flipped", [(), (0,), (1, 2), (0, 1, 2)])
def test_skeleton_turns_with_the_map_where_no_tie_decides(axes, flipped):
    fa = rough_fa(7)
    is_untied = numpy_skeleton(fa).is_untied
    expected = skeletonise(fa).fa
    turned = skeletonise(np.flip(fa.transpose(axes), flipped)).fa
    back = np.flip(turned, flipped).transpose(np.argsort(axes))
    assert is_untied.mean() > 0.5
    assert_array_equal(back[is_untied], expected[is_untied])


@pytest.mark.parametrize("gain", [0.25, 0.5, 4.0])  # powers of two leave no rounding behind
def test_skeleton_does_not_depend_on_the_scale_of_fa(gain):
    fa = rough_fa(3)
    expected, found = skeletonise(fa), skeletonise(gain * fa)
    assert_array_equal(found.directions, expected.directions)
    assert_array_equal(found.fa, gain * expected.fa)


def test_of_two_equal_centres_one_voxel_stays():
    fa = np.broadcast_to(bump(np.arange(14) - 6.5), (10, 10, 14))
    assert_array_equal(np.count_nonzero(skeletonise(fa).fa[3:-3, 3:-3] >= 0.2, axis=2), 1)


@pytest.mark.parametrize("shift", [-1e-10, 1e-10])
def test_skeleton_is_that_of_the_map_written_in_single_precision(shift):
    # what decides between two equal centres must not be lost by the file
    fa = np.broadcast_to(bump(np.arange(14) - 6.5 - shift), (10, 10, 14))
    assert_array_equal(skeletonise(fa).fa > 0, skeletonise(fa.astype(np.float32)).fa > 0)


def sheet_across_x(centre_voxels, peak=0.7, shape=(31, 12, 12)):
    x = np.arange(shape[0])[:, np.newaxis, np.newaxis]
    return np.broadcast_to(peak / 0.7 * bump(x - centre_voxels), shape).copy()


def project_on_sheet(fa, *, centres=(15,), weight_sd_voxels=10.0, mask=None):
    mean = np.max([sheet_across_x(c) for c in centres], axis=0)
    skeleton = skeletonise(mean)
    skeleton_mask = skeleton.fa >= 0.2
    mask = np.ones(mean.shape, bool) if mask is None else mask
    found = project(
        fa,
        skeleton_mask=skeleton_mask,
        directions=skeleton.directions,
        distance=distance_map(skeleton_mask, mask),
        mask=mask,
        weight_sd_voxels=weight_sd_voxels,
    )
    return found, np.argwhere(skeleton_mask)


def skeleton_of(voxels, shape=(31, 12, 12)):
    mask = np.zeros(shape, bool)
    mask[tuple(voxels.T)] = True
    return mask


@pytest.mark.parametrize("shift", [-4, -1, 0, 2, 5])
def test_projection_finds_the_centre_of_a_displaced_tract(shift):
    found, voxels = project_on_sheet(sheet_across_x(15 + shift))
    assert_allclose(found.values, 0.7, rtol=1e-12)
    where = np.array(np.unravel_index(found.positions, (31, 12, 12))).T
    assert_array_equal(where, voxels + np.array([shift, 0, 0]))
    assert np.all(skeleton_of(voxels)[15, 2:-2, 2:-2])


def test_other_maps_are_sampled_where_fa_was_found():
    fa = sheet_across_x(17)
    found, _ = project_on_sheet(fa)
    x = np.broadcast_to(np.arange(31.0)[:, np.newaxis, np.newaxis], fa.shape)
    diffusivity = np.where(x == 17, 0.7e-3, np.nan)
    assert_array_equal(sample_positions(diffusivity, found.positions), 0.7e-3)


def test_search_stops_half_way_to_the_next_tract():
    # two tracts 10 apart; the brightest voxel lies 2 from the second, 8 from the first
    fa = sheet_across_x(18, peak=0.1)
    fa[18] = 0.9
    found, voxels = project_on_sheet(fa, centres=(10, 20))
    is_second = voxels[:, 0] == 20
    assert_allclose(found.values[is_second], 0.9)
    assert found.values[~is_second].max() < 0.1


def test_search_takes_the_voxel_as_near_to_the_next_tract():
    # between tracts at 10 and 15, voxels 12 and 13 both lie 2 from the nearer one
    fa = np.full((31, 12, 12), 0.01)
    fa[13] = 0.9
    found, _ = project_on_sheet(fa, centres=(10, 15))
    assert_allclose(found.values, 0.9)


@pytest.mark.parametrize("first_outside", [16, 18])
def test_search_does_not_leave_the_mask(first_outside):
    # beside the skeleton the distance outside, 0, is not less than that on it
    fa = sheet_across_x(15)
    fa[first_outside] = 0.95
    mask = np.ones(fa.shape, bool)
    mask[first_outside:] = False
    found, _ = project_on_sheet(fa, mask=mask)
    assert_allclose(found.values, 0.7)


@pytest.mark.parametrize(("far_fa", "expected"), [(0.82, 0.5), (0.83, 0.83)])
def test_far_voxel_must_exceed_the_centre_by_the_gaussian(far_fa, expected):
    # 5 voxels off and a standard deviation of 5: 0.5 exp(1/2) = 0.824
    fa = np.full((31, 12, 12), 0.01)
    fa[15], fa[20] = 0.5, far_fa
    found, _ = project_on_sheet(fa, weight_sd_voxels=5.0)
    assert_allclose(found.values, expected)


def test_diagonal_steps_are_weighted_by_their_length():
    # 3 diagonal steps are sqrt(18) voxels: 0.5 exp(18 / 50) = 0.717; 3 straight ones 0.599
    skeleton_mask = np.zeros((15, 15, 15), bool)
    skeleton_mask[7, 7, 7] = True
    mask = np.ones(skeleton_mask.shape, bool)
    fa = np.zeros(mask.shape)
    fa[7, 7, 7], fa[10, 10, 7] = 0.5, 0.71
    settings = {
        "skeleton_mask": skeleton_mask,
        "directions": np.broadcast_to(np.array([1, 1, 0], np.int8), (15, 15, 15, 3)),
        "distance": distance_map(skeleton_mask, mask),
        "mask": mask,
        "weight_sd_voxels": 5.0,
    }
    assert_allclose(project(fa, **settings).values, 0.5)
    fa[10, 10, 7] = 0.72
    assert_allclose(project(fa, **settings).values, 0.72)


def test_voxel_without_direction_keeps_its_own_value():
    skeleton_mask = np.zeros((5, 5, 5), bool)
    skeleton_mask[2, 2, 2] = True
    mask = np.ones(skeleton_mask.shape, bool)
    fa = np.linspace(0.1, 0.9, 125).reshape(mask.shape)
    found = project(
        fa,
        skeleton_mask=skeleton_mask,
        directions=np.zeros((5, 5, 5, 3), np.int8),
        distance=distance_map(skeleton_mask, mask),
        mask=mask,
        weight_sd_voxels=10.0,
    )
    assert_array_equal(found.values, fa[2, 2, 2])


def test_distance_is_to_skeleton_or_outside_the_mask():
    skeleton_mask = np.zeros((9, 9, 9), bool)
    skeleton_mask[4, 4, 4] = True
    mask = np.ones(skeleton_mask.shape, bool)
    mask[:, :, 8] = False
    found = distance_map(skeleton_mask, mask)
    to_centre = np.linalg.norm(np.indices(mask.shape) - 4, axis=0)
    to_outside = 8 - np.arange(9)
    assert_allclose(found, np.minimum(to_centre, to_outside))


def test_erosion_takes_one_voxel_and_the_end_slices():
    mask = np.zeros((9, 9, 9), bool)
    mask[0:8, 2:8, 2:8] = True
    mask[7, 7, 7] = False
    fa = np.full(mask.shape, 0.4)
    fa[3, 4, 4] = np.nan
    expected = np.zeros(mask.shape)
    expected[1:7, 3:7, 3:7] = 0.4
    expected[3, 4, 4] = 0.0
    expected[6, 6, 6] = 0.0  # touches by a corner the voxel that the mask lacks
    assert_array_equal(erode_fa(fa, mask), expected)


def test_group_mask_names_who_alone_removes_much():
    maps = np.full((4, 10, 10, 10), 0.5)
    maps[0, 0, 0, :5] = 0.0  # 5 voxels, 0.5 % of 1000
    maps[2, 1, :3] = 0.0  # 30 voxels
    maps[1:3, 5, 5, 5] = np.nan  # of two: nobody alone
    found = group_mask(iter(maps), most_removed_share=0.02)
    assert_array_equal(found.mask, np.all(maps > 0, axis=0))
    assert_allclose(found.removed_share, [5 / 969, 0, 30 / 994, 0])
    assert found.costly == (2,)
    assert_allclose(found.mean_fa[found.mask], 0.5)
    assert_array_equal(found.mean_fa[~found.mask], 0.0)


def test_group_mean_is_that_of_the_participants():
    maps = np.random.default_rng(0).uniform(0.1, 0.9, (5, 4, 4, 4))
    found = group_mask(list(maps), most_removed_share=0.02)
    assert_allclose(found.mean_fa, maps.mean(axis=0))


ONES = np.ones((4, 4, 4))
INSIDE = ONES > 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: skeletonise(ONES[0]), "mean_fa has 2 axes"),
        (lambda: skeletonise(0 * ONES), "negative somewhere or 0 everywhere"),
        (lambda: skeletonise(-ONES), "negative somewhere or 0 everywhere"),
        (lambda: skeletonise(np.nan * ONES), "mean_fa holds 64 NaN or infinite values"),
        (lambda: erode_fa(ONES, INSIDE[:3]), r"mask has shape \(3, 4, 4\)"),
        (lambda: erode_fa(ONES, ~INSIDE), "mask holds 0 voxels and none after erosion"),
        (lambda: erode_fa(ONES, ONES), "mask has 3 axes of type float64; give 3 of bool"),
        (lambda: group_mask([ONES], most_removed_share=0.02), "give those of at least 2"),
        (lambda: group_mask([], most_removed_share=0.02), "give those of at least 2"),
        (
            lambda: group_mask([ONES, ONES[1:]], most_removed_share=0.02),
            r"fa_maps\[1\] has shape \(3, 4, 4\) but fa_maps\[0\] has \(4, 4, 4\)",
        ),
        (
            lambda: group_mask([ONES, 0 * ONES], most_removed_share=0.02),
            "no voxel has FA above 0 in all 2 participants",
        ),
        (
            lambda: group_mask([ONES, ONES], most_removed_share=2.0),
            "most_removed_share is 2; it must lie from 0 to 1",
        ),
        (lambda: distance_map(~INSIDE, INSIDE), "skeleton_mask holds no voxel"),
        (lambda: distance_map(INSIDE, INSIDE[1:]), r"mask has shape \(3, 4, 4\)"),
        (lambda: sample_positions(ONES, np.array([64])), "from 64 to 64 but values has 64"),
        (lambda: sample_positions(ONES, np.array([-1])), "from -1 to -1"),
        (lambda: sample_positions(ONES, np.array([0.5])), "positions is of type float64"),
    ],
)
def test_unusable_input_is_refused(call, message):
    with pytest.raises(NumericsError, match=message):
        call()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"fa": np.nan * ONES}, "fa holds 64 NaN"),
        ({"distance": ONES[1:]}, r"distance has shape \(3, 4, 4\)"),
        ({"directions": np.zeros((4, 4, 4), np.int8)}, r"give \(4, 4, 4, 3\), a step for each"),
        ({"skeleton_mask": ~INSIDE}, "skeleton_mask holds no voxel"),
        ({"weight_sd_voxels": 0.0}, "weight_sd_voxels is 0 voxels; it must lie above 0"),
    ],
)
def test_projection_refuses_what_does_not_fit(changed, message):
    given = {
        "fa": ONES,
        "skeleton_mask": INSIDE,
        "directions": np.zeros((4, 4, 4, 3), np.int8),
        "distance": ONES,
        "mask": INSIDE,
        "weight_sd_voxels": 10.0,
    }
    with pytest.raises(NumericsError, match=message):
        project(**(given | changed))


@pytest.fixture(scope="module")
def reference(test_data):
    folder = test_data / "skeleton_reference"

    def read(name):
        return np.asarray(nib.load(folder / f"{name}.nii.gz").dataobj)

    fa = read("all_FA")
    group = group_mask(np.moveaxis(fa, 3, 0), most_removed_share=0.02)
    return SimpleNamespace(
        fa=fa,
        mask=group.mask,
        skeleton=skeletonise(group.mean_fa),
        fsl_skeleton=read("mean_FA_skeleton") >= 0.2,
        fsl_mask=read("mean_FA_skeleton_mask") > 0,
        fsl_distance=read("mean_FA_skeleton_mask_dst"),
        fsl_projected=read("all_FA_skeletonised"),
    )


@pytest.mark.data
def test_skeleton_is_fsls_but_for_a_voxel_in_a_thousand(reference):
    own, theirs = reference.skeleton.fa >= 0.2, reference.fsl_skeleton
    dice = 2 * np.count_nonzero(own & theirs) / (np.count_nonzero(own) + np.count_nonzero(theirs))
    assert dice >= 0.999  # the goal is 0.95; the rest is rounding in tied votes


@pytest.mark.data
def test_distance_map_is_fsls(reference):
    found = distance_map(reference.fsl_mask, reference.mask)
    assert_allclose(found, reference.fsl_distance, atol=1e-6)  # single precision


@pytest.mark.data
@pytest.mark.parametrize("participant", range(4))
def test_projected_fa_is_fsls_but_for_a_voxel_in_a_thousand(reference, participant):
    own = reference.skeleton.fa >= 0.2
    found = project(
        reference.fa[..., participant],
        skeleton_mask=own,
        directions=reference.skeleton.directions,
        distance=distance_map(own, reference.mask),
        mask=reference.mask,
        weight_sd_voxels=10.0,
    )
    image = np.zeros(own.shape)
    image[own] = found.values
    both = own & reference.fsl_mask
    theirs = reference.fsl_projected[..., participant]
    assert np.corrcoef(image[both], theirs[both])[0, 1] >= 0.999  # the goal is 0.99
    assert np.mean(np.abs(image - theirs)[both] < 1e-6) >= 0.999
