"""Nodes from the participants' maps to values on the skeleton, on brains of known truth."""

import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import nipype.pipeline.engine as pe
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import ndimage

from bids_alsmri.comparisons.skeleton import (
    MAPS,
    BringMaps,
    CentreWarps,
    GroupSkeleton,
    MeanFa,
    ParticipantMaps,
    PrepareFa,
    PrepareTarget,
    ProjectParticipant,
    RefineFa,
    SkeletonChoices,
    SmoothMap,
    StackMaps,
    build_skeleton,
    build_smoothed,
    find_fa_target,
    skeletonise_oriented,
)
from bids_alsmri.errors import DataError, SettingsError
from bids_alsmri.interfaces.displacements import read_displacement, write_displacement
from bids_alsmri.interfaces.registration import compose_to_field, write_linear
from bids_alsmri.numerics.skeleton import skeletonise
from bids_alsmri.phantom.deformation import draw_deformation
from bids_alsmri.phantom.head import sample_map
from bids_alsmri.spaces.templates import EMBEDDED_TEMPLATE, get_template

CUBE = (12, 12, 12)
AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])
SYN = {
    "transform": "syn",
    "metric": "cc",
    "metric_parameter": 2,
    "sampling": 1.0,
    "gradient_step": 0.2,
    "iterations": [20, 10],
    "shrink_factors": [2, 1],
    "smoothing_mm": [1.7, 0.0],
    "convergence": 1e-6,
    "convergence_window": 10,
    "update_smoothing": 3.0,
    "total_smoothing": 0.0,
}
WHOLE = (0.0, 100.0)


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    # nodes write where they run
    monkeypatch.chdir(tmp_path)
    # antspyx in this process, not in a child for each call
    monkeypatch.setenv("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "1")


def save(values, name, affine=AFFINE):
    path = Path(name).absolute()
    if values.dtype == bool:
        values = values.astype(np.uint8)
    nib.save(nib.Nifti1Image(values.astype(values.dtype.type), affine), path)
    return str(path)


def load(path):
    return np.asarray(nib.load(path).dataobj)


def shifted(shift_mm, name):
    """Transform that reads the image that far from each place."""
    matrix = np.eye(4)
    matrix[:3, 3] = shift_mm
    return str(write_linear(matrix, Path(name).absolute()))


def inner(depth, shape=CUBE):
    mask = np.zeros(shape, bool)
    mask[(slice(depth, -depth),) * 3] = True
    return mask


def rough(seed, shape=CUBE):
    return np.random.default_rng(seed).uniform(0.2, 0.8, shape).astype(np.float32)


# ---- PrepareFa


def test_prepared_fa_lacks_rim_and_voxels_that_any_map_lacks():
    fa, md = rough(0), rough(1)
    md[6, 6, 6] = np.nan
    result = PrepareFa(
        fa=save(fa, "fa.nii"), md=save(md, "md.nii"), mask=save(inner(2), "mask.nii")
    ).run()
    expected = inner(3)
    expected[6, 6, 6] = False
    assert_array_equal(load(result.outputs.mask) > 0, expected)
    assert_array_equal(load(result.outputs.fa), np.where(expected, fa, 0))


def test_maps_of_different_grids_are_refused_by_name():
    node = PrepareFa(
        fa=save(rough(0), "fa.nii"),
        mask=save(inner(2)[1:], "mask.nii"),
        md=save(rough(0), "md.nii"),
    )
    with pytest.raises(
        DataError, match=r"mask.nii: has \(11, 12, 12\) voxels but .*fa.nii has \(12, 12, 12\)"
    ):
        node.run()


def test_maps_in_different_places_are_refused_by_name():
    moved = AFFINE.copy()
    moved[1, 3] = 0.5
    node = PrepareFa(fa=save(rough(0), "fa.nii"), mask=save(inner(2), "mask.nii", affine=moved))
    with pytest.raises(DataError, match=r"mask.nii: its voxels lie up to 0.5 mm off those of"):
        node.run()


# ---- BringMaps


def bring(transforms, *, mask, least_share=0.5, reference=None, **maps):
    return BringMaps(
        mask=save(mask, "inside.nii"),
        reference=reference or save(np.ones(CUBE, bool), "reference.nii"),
        transforms=transforms,
        least_share=least_share,
        **{name: save(values, f"{name}.nii") for name, values in maps.items()},
    ).run()


def test_identity_brings_the_values_within_the_mask():
    fa, md, mask = rough(0), rough(1), inner(2)
    result = bring([shifted((0, 0, 0), "step.txt")], mask=mask, fa=fa, md=md).outputs
    assert_allclose(load(result.fa), np.where(mask, fa, 0), rtol=1e-5)
    assert_allclose(load(result.md), np.where(mask, md, 0), rtol=1e-5)


def test_voxels_outside_the_reference_mask_are_zero():
    reference = save(inner(4), "smaller.nii")
    result = bring(
        [shifted((0, 0, 0), "step.txt")], mask=inner(2), fa=rough(0), reference=reference
    )
    assert_array_equal(load(result.outputs.fa) > 0, inner(4))


def test_edge_of_the_mask_takes_no_partial_values():
    # half a voxel: interpolation of zeros outside the mask would halve the rim
    fa = np.where(inner(3), 0.6, 0.0).astype(np.float32)
    result = bring([shifted((1.0, 0, 0), "step.txt")], mask=inner(3), fa=fa)
    brought = load(result.outputs.fa)
    assert_allclose(np.unique(brought), [0.0, 0.6], atol=1e-6)


@pytest.mark.parametrize(("least_share", "n_planes"), [(0.3, 7), (0.5, 7), (0.6, 5)])
def test_share_decides_how_far_the_edge_reaches(least_share, n_planes):
    result = bring(
        [shifted((1.0, 0, 0), "step.txt")],
        mask=inner(3),
        fa=rough(0),
        least_share=least_share,
    )
    # between six planes of voxels there are five places with both neighbours, and two with one
    assert np.any(load(result.outputs.fa) > 0, axis=(1, 2)).sum() == n_planes


def test_chain_of_transforms_interpolates_once():
    # a second interpolation would blur: each of these shifts lies between voxels
    fa, mask = rough(2), np.ones(CUBE, bool)
    there, back = shifted((0.9, -1.1, 0.7), "there.txt"), shifted((-0.9, 1.1, -0.7), "back.txt")
    result = bring([there, back], mask=mask, fa=fa)
    assert_allclose(load(result.outputs.fa), fa, rtol=1e-4)  # positions in float32


def test_first_transform_of_the_list_is_the_nearest_to_the_grid(tmp_path):
    fa, mask = rough(3), np.ones(CUBE, bool)
    double = np.diag([2.0, 2.0, 2.0, 1.0])
    scale = str(write_linear(double, tmp_path / "scale.txt"))
    # from the grid first 2 mm on, then doubled: voxel (x + 1) * 2
    result = bring([shifted((2.0, 0, 0), "step.txt"), scale], mask=mask, fa=fa)
    brought = load(result.outputs.fa)
    assert_allclose(brought[1:4, 2, 3], fa[[4, 6, 8], 4, 6], rtol=1e-5)


def test_transforms_that_miss_the_participant_are_told():
    with pytest.raises(DataError, match=r"inside.nii: none of the 1728 voxels of .*reference.nii"):
        bring([shifted((100.0, 0, 0), "step.txt")], mask=inner(2), fa=rough(0))


# ---- registration to the mean


def ball(centre_mm, radius_mm=14.0, shape=(24, 24, 24)):
    points = np.moveaxis(np.indices(shape), 0, -1) * 2.0
    distance = np.linalg.norm(points - centre_mm, axis=-1)
    return (0.7 / (1 + np.exp((distance - radius_mm) / 1.5))).astype(np.float32)


def refine(target, fa, stages=(SYN,)):
    shape = target.shape
    return (
        RefineFa(
            target=save(target, "target.nii"),
            fa=save(fa, "moving.nii"),
            region=save(np.ones(shape, bool), "region.nii"),
            stages=[dict(stage) for stage in stages],
            winsor_percentiles=WHOLE,
            seed=1,
            n_threads=1,
        )
        .run()
        .outputs.warp
    )


def test_refinement_finds_a_displaced_tract():
    target, moved = ball((24, 24, 24)), ball((27, 23, 24))
    displacement_mm, affine = read_displacement(Path(refine(target, moved)))
    assert_allclose(affine, AFFINE)
    rim = (target > 0.3) & (target < 0.4)
    outwards = np.argwhere(rim) * 2.0 - 24.0
    outwards /= np.linalg.norm(outwards, axis=1, keepdims=True)
    # across the border the shift of (3, -1, 0) mm shows; along it nothing tells
    error = ((displacement_mm[rim] - [3, -1, 0]) * outwards).sum(axis=1)
    assert np.abs(error).mean() < 0.4  # mm, a fifth of a voxel; 1.6 without refinement


def test_equal_images_are_left_in_place():
    image = ball((24, 24, 24))
    displacement_mm, _ = read_displacement(Path(refine(image, image)))
    assert np.abs(displacement_mm).max() < 0.02


def test_centred_warps_are_the_identity_on_average(tmp_path):
    shape = (16, 16, 16)
    points = np.moveaxis(np.indices(shape), 0, -1) * 2.0
    rng = np.random.default_rng(0)
    paths = []
    for number in range(3):
        waves = 1.5 * np.sin(points / 9.0 + rng.uniform(0, 6, 3))
        common = [2.0, -1.0, 0.5] + 0.03 * (points - 15.0)
        paths.append(str(tmp_path / f"warp{number}.nii"))
        write_displacement(waves[..., [1, 2, 0]] + common, AFFINE, Path(paths[-1]))
    grid = save(np.ones(shape, bool), "grid.nii")
    result = CentreWarps(warps=paths).run().outputs
    chains = []
    for number, path in enumerate(paths):
        chain = [Path(result.correction), Path(path)]
        field = compose_to_field(Path(grid), chain, tmp_path / f"{number}.nii", n_threads=1)
        chains.append(read_displacement(field)[0])
    middle = (slice(4, -4),) * 3
    assert np.abs(chains[0][middle]).max() > 1.0
    # one hundredth of a mm of the inverse, and linear interpolation of a field that bends
    assert np.abs(np.mean(chains, axis=0)[middle]).max() < 0.05
    assert json.loads(Path(result.facts).read_text())["n_warps"] == 3


def test_mean_fa_is_over_those_who_have_it_where_half_do():
    maps = np.array([[0.2, 0.4, 0.0], [0.4, 0.0, 0.0], [0.6, 0.8, 0.0], [0.8, 0.0, 0.4]])
    paths = [
        save(np.broadcast_to(row, (2, 2, 3)).astype(np.float32), f"{n}.nii")
        for n, row in enumerate(maps)
    ]
    result = MeanFa(maps=paths).run()
    assert_allclose(load(result.outputs.mean_fa)[0, 0], [0.5, 0.6, 0.0], rtol=1e-6)


def test_target_keeps_its_place_on_another_grid():
    fine = np.diag([-1.0, 1.0, 1.0, 1.0])
    fine[:3, 3] = (46, 0, 0)
    points = np.moveaxis(np.indices((47, 47, 47)), 0, -1) @ fine[:3, :3].T + fine[:3, 3]
    image = np.exp(-0.5 * ((points - [20, 24, 28]) ** 2).sum(-1) / 7.0**2) * 1e4
    node = PrepareTarget(
        image=save(image.astype(np.float32), "fine.nii", affine=fine),
        reference=save(np.ones((24, 24, 24), bool), "grid.nii"),
    )
    found = load(node.run().outputs.image)
    centre = ndimage.center_of_mass(np.where(found > found.max() / 10, found, 0))
    assert_allclose(np.array(centre) * 2.0, [20, 24, 28], atol=0.05)


def test_target_elsewhere_is_refused():
    far = AFFINE.copy()
    far[0, 3] = 500.0
    node = PrepareTarget(
        image=save(rough(0), "far.nii", affine=far), reference=save(inner(2), "grid.nii")
    )
    with pytest.raises(DataError, match=r"far.nii: is 0 all over the template's brain"):
        node.run()


def test_fa_target_of_fsl_is_taken_only_where_it_is(tmp_path):
    assert find_fa_target({}) is None
    assert find_fa_target({"FSLDIR": str(tmp_path)}) is None
    path = tmp_path / "data" / "standard" / "FMRIB58_FA_1mm.nii.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    assert find_fa_target({"FSLDIR": str(tmp_path)}) == path


# ---- skeleton


def tract(offset_voxels, shape=(22, 20, 18)):
    """FA of a sheet across the first axis, about its tenth plane, at another place for each row."""
    x = np.indices(shape)[0]
    fa = 0.7 * np.exp(-0.5 * ((x - 10.0 - offset_voxels) / 2.0) ** 2)
    return np.where(inner(1, shape), np.maximum(fa, 0.02), 0.0).astype(np.float32)


def make_skeleton(maps, labels=None, affine=AFFINE, **changes):
    paths = [save(values, f"fa{n}.nii", affine=affine) for n, values in enumerate(maps)]
    labels = labels or [f"sub-{n}" for n in range(len(paths))]
    node = GroupSkeleton(
        maps=paths, labels=labels, **{"most_removed_share": 0.02, "threshold_fa": 0.2, **changes}
    )
    return node.run().outputs


def test_skeleton_of_the_group_is_the_middle_of_its_tracts():
    group = make_skeleton([tract(-1), tract(0), tract(1)])
    skeleton = load(group.skeleton_mask) > 0
    assert_array_equal(np.flatnonzero(skeleton[:, 10, 9]), [10])
    assert_allclose(load(group.mean_fa)[10, 10, 9], load(group.skeleton)[10, 10, 9])
    assert_allclose(load(group.distance)[10:14, 10, 9], [0, 1, 2, 3])
    assert_array_equal(np.abs(load(group.directions)[10, 10, 9]), [1, 0, 0])


@pytest.mark.parametrize("threshold_fa", [0.2, 0.45])
def test_skeleton_ends_at_its_threshold(threshold_fa):
    maps = [tract(0) * np.linspace(0.3, 1.0, 20)[:, None].astype(np.float32)] * 2
    group = make_skeleton(maps, threshold_fa=threshold_fa)
    skeleton = load(group.skeleton)
    assert_array_equal(load(group.skeleton_mask) > 0, skeleton >= np.float32(threshold_fa))
    assert np.any((skeleton > 0) & (skeleton < 0.45))


@pytest.mark.parametrize(
    ("axes", "flips"), [((0, 1, 2), (-1, 1, 1)), ((2, 0, 1), (1, -1, -1)), ((1, 0, 2), (-1, -1, 1))]
)
def test_skeleton_does_not_depend_on_how_axes_are_stored(axes, flips):
    shape = (14, 15, 16)
    noise = ndimage.gaussian_filter(np.random.default_rng(1).normal(size=shape), 1.2)
    fa = np.clip(0.4 + 1.5 * noise, 0, None).astype(np.float32)
    expected = skeletonise(fa)
    stored = nib.Nifti1Image(fa, np.eye(4)).as_reoriented(
        np.array([[axes.index(a), flips[axes.index(a)]] for a in range(3)])
    )
    found = skeletonise_oriented(np.asarray(stored.dataobj), stored.affine)
    back = nib.as_closest_canonical(nib.Nifti1Image(found.fa, stored.affine))
    assert_array_equal(back.get_fdata(), expected.fa)
    # steps turned to the world are those along axes that run to the right, forwards and upwards
    steps = found.directions.astype(float) @ stored.affine[:3, :3].T
    for axis in range(3):
        image = nib.Nifti1Image(np.ascontiguousarray(steps[..., axis]), stored.affine)
        assert_array_equal(
            nib.as_closest_canonical(image).get_fdata(), expected.directions[..., axis]
        )


def test_who_alone_removes_much_is_named():
    cut = tract(0)
    cut[:, :, -6:] = 0.0
    group = make_skeleton([tract(0), tract(0), cut], labels=["sub-a", "sub-b", "sub-c"])
    facts = json.loads(Path(group.facts).read_text())
    # five of sixteen inner slices
    assert_allclose(facts["removed_share"]["sub-c"], 5 / 16)
    assert facts["warnings"] == [
        "sub-c: alone removes 31.2% of the voxels that all others have; expected at most 2.0%; "
        "look at the field of view and the registration, and exclude the scan if they are at fault"
    ]
    assert facts["n_mask_voxels"] == 20 * 18 * 11


def test_longish_voxels_have_no_skeleton():
    long = np.diag([2.0, 2.0, 3.0, 1.0])
    with pytest.raises(DataError, match=r"measure \[2.0, 2.0, 3.0\] mm; expected cubes"):
        make_skeleton([tract(0)] * 2, affine=long)


def test_skeleton_needs_one_map_of_each():
    with pytest.raises(DataError, match=r"2 maps were given for 3 participants \(a, b, c\)"):
        make_skeleton([tract(0)] * 2, labels=["a", "b", "c"])


def test_projection_finds_the_centre_of_a_displaced_tract():
    # another displacement for each row of the sheet: nothing to three voxels
    offset = np.repeat([0, 1, 2, 3], 5)[:, None]
    person = tract(offset)
    # tells in which plane a value was taken, and fits no other map
    plane = np.broadcast_to(np.arange(22.0)[:, None, None], person.shape).astype(np.float32)
    group = make_skeleton([tract(0), tract(0)])
    result = ProjectParticipant(
        fa=save(person, "person.nii"),
        md=save(plane, "plane.nii"),
        mask=group.mask,
        skeleton_mask=group.skeleton_mask,
        directions=group.directions,
        distance=group.distance,
        weight_sd_voxels=10.0,
    ).run()
    rows = np.argwhere(load(group.skeleton_mask))[:, 1]
    deep = (rows > 1) & (rows < 18)
    assert_array_equal(np.load(result.outputs.md)[deep], 10 + offset[rows[deep], 0])
    assert_allclose(np.load(result.outputs.fa)[deep], 0.7, rtol=1e-6)
    assert np.load(result.outputs.fa).dtype == np.float32


def test_smoothed_map_keeps_a_constant_and_ends_at_the_mask():
    values = np.where(inner(3), 0.4, 7.0).astype(np.float32)
    node = SmoothMap(image=save(values, "map.nii"), mask=save(inner(3), "mask.nii"), fwhm_mm=6.0)
    assert_allclose(load(node.run().outputs.image), np.where(inner(3), 0.4, 0.0), rtol=1e-6)


# ---- StackMaps


def stack(maps, labels, mask):
    return StackMaps(maps=maps, labels=labels, mask=save(mask, "mask.nii")).run().outputs


def test_stack_holds_the_voxels_of_the_mask_in_the_order_of_participants():
    maps, mask = [rough(n) for n in range(3)], rough(9) > 0.5
    paths = [save(values, f"{n}.nii") for n, values in enumerate(maps)]
    result = stack(paths, ["c", "a", "b"], mask)
    found = np.load(result.stack)
    assert found.dtype == np.float32
    assert_array_equal(found, [values[mask] for values in maps])
    assert_array_equal(load(result.mask) > 0, mask)


def test_stack_takes_vectors_too():
    mask = inner(5)
    paths = [str(Path(f"{n}.npy").absolute()) for n in range(2)]
    for n, path in enumerate(paths):
        np.save(path, np.arange(8.0) + n)
    result = stack(paths, ["a", "b"], mask)
    assert_array_equal(np.load(result.stack), [np.arange(8), np.arange(8) + 1])


def test_vector_of_another_skeleton_is_refused():
    np.save("a.npy", np.ones(7))
    with pytest.raises(DataError, match=r"a.npy: holds \(7,\) values of sub-a but .* has 8 voxels"):
        stack([str(Path("a.npy").absolute())], ["sub-a"], inner(5))


def test_missing_values_are_told_by_participant_and_count():
    maps = [rough(n) for n in range(3)]
    maps[0][0, 0, 0] = np.nan  # outside the mask
    maps[1][5, 5, 5:7] = np.nan
    maps[2][6, 6, 6] = np.inf
    paths = [save(values, f"{n}.nii") for n, values in enumerate(maps)]
    with pytest.raises(
        DataError, match=r"at some of the 8 voxels of .*: sub-b \(2\), sub-c \(1\);"
    ):
        stack(paths, ["sub-a", "sub-b", "sub-c"], inner(5))


def test_participant_without_a_map_is_named():
    path = save(rough(0), "0.nii")
    with pytest.raises(DataError, match=r"sub-b: has no map, .*gone.nii does not exist") as caught:
        stack([path, str(Path("gone.nii").absolute())], ["sub-a", "sub-b"], inner(5))
    assert caught.value.exit_code == 66


def test_map_on_another_grid_is_refused():
    path = save(rough(0)[:-1], "0.nii")
    with pytest.raises(DataError, match=r"0.nii: has \(11, 12, 12\) voxels but .*mask.nii has"):
        stack([path], ["sub-a"], inner(5))


def test_empty_mask_is_refused():
    with pytest.raises(DataError, match=r"mask.nii: all 1728 voxels are 0"):
        stack([save(rough(0), "0.nii")], ["sub-a"], np.zeros(CUBE, bool))


# ---- workflow

CHOICES = SkeletonChoices(
    template=EMBEDDED_TEMPLATE,
    resolution_mm=8.0,
    least_share=0.5,
    refinement_iterations=2,
    refinement_resolution_mm=8.0,
    refinement_stages=({**SYN, "iterations": [10], "shrink_factors": [1], "smoothing_mm": [0.0]},),
    winsor_percentiles=WHOLE,
    registration_threads=1,
    threshold_fa=0.2,
    most_removed_share=0.5,
    weight_sd_voxels=10.0,
    seed=7,
)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Three brains of 8 mm with white matter bent in a known way, which the transforms leave."""
    folder = tmp_path_factory.mktemp("cohort")
    template = get_template(EMBEDDED_TEMPLATE, 4.0, environment={})
    white, mask = (np.asarray(i.dataobj, np.float32) for i in (template.wm, template.mask))
    affine = np.diag([8.0, 8.0, 8.0, 1.0])
    affine[:3, 3] = (-84, -120, -80)
    shape = (22, 26, 22)
    points = np.moveaxis(np.indices(shape), 0, -1) @ affine[:3, :3].T + affine[:3, 3]
    people = []
    for number in range(3):
        rng = np.random.default_rng(number)
        bend = replace(draw_deformation(rng, strength=0.3), linear=np.eye(3), shift_mm=np.zeros(3))
        there = bend.to_template(points)
        wm, brain = (sample_map(m, template.wm.affine, there) for m in (white, mask))
        fa = 0.1 + 0.6 * wm + 0.02 * rng.random(shape).astype(np.float32)
        maps = {"fa": fa, "md": 1.2e-3 - 6e-4 * fa, "ad": 1e-3 + fa * 1e-3, "rd": 1e-3 - 5e-4 * fa}
        paths = {}
        for name, values in (*maps.items(), ("mask", (brain > 0.5).astype(np.uint8))):
            paths[name] = folder / f"{number}_{name}.nii.gz"
            nib.save(nib.Nifti1Image(values.astype(np.float32), affine), paths[name])
        step = write_linear(np.eye(4), folder / f"{number}.txt")
        people.append(ParticipantMaps(label=f"sub-{number}", transforms=(step,), **paths))
    return people


def run(people, folder, choices=CHOICES, fa_target=None):
    """Run the workflow; give the nodes' results by output of `build_skeleton`."""
    workflow = pe.Workflow("group", base_dir=str(folder))
    workflow.config["execution"] = {
        "crashdump_dir": str(folder),
        "remove_unnecessary_outputs": "false",
    }
    nodes = build_skeleton(workflow, people, choices, fa_target=fa_target)
    vba = build_smoothed(
        workflow, nodes.maps, (nodes.group, "mask"), fwhm_mm=12.0, resolution_mm=8.0, prefix="vba"
    )
    done = {node.fullname: node for node in workflow.run().nodes()}

    def output(source):
        return Path(getattr(done[source[0].fullname].result.outputs, source[1]))

    results = {f"stack_{name}": output(nodes.stacks[name]) for name in MAPS}
    results |= {f"vba_{name}": output(vba[name]) for name in MAPS}
    for name in ("mean_fa", "mask", "skeleton_mask", "distance", "directions", "facts"):
        results[name] = output((nodes.group, name))
    for label, warps in nodes.warps.items():
        results |= {f"{label}_{n}": output(warp) for n, warp in enumerate(warps)}
    return results


@pytest.fixture(scope="module")
def refined(cohort, tmp_path_factory):
    """Results of one run with two rounds."""
    return run(cohort, tmp_path_factory.mktemp("refined"))


@pytest.mark.slow
def test_workflow_gives_the_same_bytes_each_time(cohort, refined, tmp_path):
    first, again = refined, run(cohort, tmp_path)
    assert len(first) == 8 + 6 + 2 * 3
    assert {k: p.read_bytes() for k, p in first.items()} == {
        k: p.read_bytes() for k, p in again.items()
    }
    assert not first["stack_fa"].samefile(again["stack_fa"])


@pytest.mark.slow
def test_workflow_reads_all_maps_at_the_same_places(refined):
    n_skeleton = np.count_nonzero(load(refined["skeleton_mask"]))
    stacks = {name: np.load(refined[f"stack_{name}"]) for name in MAPS}
    assert {values.shape for values in stacks.values()} == {(3, n_skeleton)}
    # the maps are functions of FA, so what was read at the same places still is one (to the
    # interpolation in float32)
    assert_allclose(stacks["md"], 1.2e-3 - 6e-4 * stacks["fa"], rtol=1e-4)
    assert_allclose(stacks["ad"], 1e-3 + 1e-3 * stacks["fa"], rtol=1e-4)
    # projection takes no less than what stands on the skeleton
    on_skeleton = load(refined["mean_fa"])[load(refined["skeleton_mask"]) > 0]
    assert np.all(stacks["fa"].mean(axis=0) >= on_skeleton - 1e-5)
    assert np.load(refined["vba_fa"]).shape == (3, np.count_nonzero(load(refined["mask"])))


@pytest.mark.slow
def test_refinement_brings_participants_nearer_to_each_other(cohort, refined, tmp_path):
    none = run(cohort, tmp_path, replace(CHOICES, refinement_iterations=0))
    spread = [np.load(result["vba_fa"]).std(axis=0).mean() for result in (none, refined)]
    # a tenth: voxels of 8 mm leave the registration little to work on
    assert spread[1] < 0.9 * spread[0]


@pytest.mark.slow
def test_given_target_takes_one_registration(cohort, tmp_path):
    template = get_template(EMBEDDED_TEMPLATE, 4.0, environment={})
    target = tmp_path / "target.nii.gz"
    nib.save(template.wm, target)
    found = run(cohort, tmp_path / "work", fa_target=target)
    assert [name for name in found if name.startswith("sub-")] == ["sub-0_0", "sub-1_0", "sub-2_0"]


def test_names_of_steps_are_valid_and_unique(cohort):
    people = [replace(cohort[0], label=label) for label in ("sub-01_ses-a", "sub-01_ses-b")]
    workflow = pe.Workflow("group")
    build_skeleton(workflow, people, CHOICES, fa_target=None)
    names = workflow.list_node_names()
    assert len(set(names)) == len(names)
    assert "skeleton_project_sub_01_ses_b" in names


@pytest.mark.parametrize(
    ("labels", "message"), [(("a",), r"of 1 participant\(s\)"), (("a", "b", "a"), "of a twice")]
)
def test_cohort_without_a_skeleton_is_refused(cohort, labels, message):
    people = [replace(cohort[0], label=label) for label in labels]
    with pytest.raises(SettingsError, match=message):
        build_skeleton(pe.Workflow("group"), people, CHOICES, fa_target=None)


def test_registrations_have_seeds_of_their_own(cohort):
    workflow = pe.Workflow("group")
    build_skeleton(workflow, cohort, CHOICES, fa_target=None)
    nodes = [workflow.get_node(name) for name in workflow.list_node_names() if "round" in name]
    seeds = {node.name: node.inputs.seed for node in nodes}
    assert len(set(seeds.values())) == len(seeds) == 6
    # nor do they depend on who else takes part
    smaller = pe.Workflow("group")
    build_skeleton(smaller, cohort[1:], CHOICES, fa_target=None)
    name = "skeleton_round_1_sub_2"
    assert smaller.get_node(name).inputs.seed == seeds[name]


def test_smoothing_needs_the_same_maps_of_each(tmp_path):
    maps = {"a": {"tsc": tmp_path / "x.nii", "fa": tmp_path / "y.nii"}, "b": {"fa": tmp_path / "z"}}
    with pytest.raises(DataError, match="b: has no map of tsc, which others have"):
        build_smoothed(
            pe.Workflow("w"), maps, tmp_path / "m", fwhm_mm=6.0, resolution_mm=2.0, prefix="vba"
        )
