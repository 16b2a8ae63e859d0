"""Cortical depth against closed forms, another shortest-way solver and LayNii's output."""

import time

import nibabel as nib
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import dijkstra

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics import laminar
from bids_alsmri.numerics.laminar import cortical_depth, layer_labels


def depth_of(
    rim, voxel_mm=(1.0, 1.0, 1.0), *, surface="faces", in_plane=False, smoothing_steps=100
):
    return cortical_depth(
        rim,
        voxel_mm,
        surface=surface,
        in_plane=in_plane,
        smoothing_steps=smoothing_steps,
    )


@pytest.fixture(scope="module", autouse=True)
def _compiled():
    """Compile the kernels once, outside the time of any test."""
    rim = np.array([2, 3, 1]).reshape(3, 1, 1)
    depth_of(rim, smoothing_steps=1)


def round_rim(n_axes, radius, thickness=10.0, *, is_fundus=False):
    """A quarter cylinder or an eighth of a sphere, and both depths of it in closed form."""
    axis = np.arange(radius + thickness + 3) - 0.3
    grid = np.meshgrid(*[axis] * n_axes, indexing="ij")
    r = np.sqrt(sum(g**2 for g in grid)).reshape(len(axis), len(axis), -1)
    outer = radius + thickness
    rim = np.where(r <= radius, 2, np.where(r >= outer, 1, 3))
    distance = (r - radius) / thickness
    volume = (r**n_axes - radius**n_axes) / (outer**n_axes - radius**n_axes)
    if is_fundus:
        rim, distance, volume = np.choose(rim, [0, 2, 1, 3]), 1 - distance, 1 - volume
    return rim, distance, volume


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(("surface", "gap"), [("faces", 0.5), ("centres", 1.0)])
def test_flat_cortex_has_both_depths_of_its_closed_form(axis, surface, gap):
    sides = np.array([0.25, 0.5, 2.0])
    line = np.array([2, 2, *[3] * 8, 1, 1])
    rim = np.moveaxis(np.broadcast_to(line, (5, 4, 12)), -1, axis)
    depth = depth_of(rim, sides, surface=surface)
    expected = (np.arange(8) + gap) / (7 + 2 * gap)
    along = np.moveaxis(depth.equidistant, axis, -1)[..., 2:10]
    assert_allclose(along, np.broadcast_to(expected, along.shape), atol=1e-6)
    # equal areas: half of the volume lies in the inner half
    assert_allclose(depth.equivolume, depth.equidistant, atol=1e-6)
    thickness = depth.thickness_mm[rim == 3]
    assert_allclose(thickness, (7 + 2 * gap) * sides[axis], rtol=1e-6)


@pytest.mark.parametrize("is_fundus", [False, True], ids=["crown", "fundus"])
@pytest.mark.parametrize(("n_axes", "radius"), [(2, 10.0), (2, 20.0), (3, 10.0)])
def test_round_cortex_has_depths_near_their_closed_form(n_axes, radius, is_fundus):
    rim, distance, volume = round_rim(n_axes, radius, is_fundus=is_fundus)
    depth = depth_of(rim, in_plane=n_axes == 2)
    cortex = rim == 3
    # labels place a border to half a voxel, a twentieth of the ten voxels of this cortex
    far = np.abs(depth.equidistant - distance)[cortex]
    assert np.median(far) < 0.02
    assert np.percentile(far, 95) < 0.05
    far = np.abs(depth.equivolume - volume)[cortex]
    assert np.median(far) < 0.025
    assert np.percentile(far, 95) < 0.075
    assert abs(np.median(depth.thickness_mm[cortex]) - 10.0) < 0.2


@pytest.mark.parametrize("is_fundus", [False, True], ids=["crown", "fundus"])
@pytest.mark.parametrize(("n_axes", "radius"), [(2, 10.0), (2, 20.0), (3, 10.0)])
def test_levels_place_borders_to_less_than_a_voxel(n_axes, radius, is_fundus):
    rim, distance, volume = round_rim(n_axes, radius, is_fundus=is_fundus)
    depth = depth_of(rim, surface="levels", in_plane=n_axes == 2, smoothing_steps=400)
    cortex = rim == 3
    for found, expected in ((depth.equidistant, distance), (depth.equivolume, volume)):
        far = np.abs(found - expected)[cortex]
        # a tenth of a voxel, and less than a third, at ten voxels per thickness
        assert np.median(far) < 0.01
        assert np.percentile(far, 95) < 0.03
    assert abs(np.median(depth.thickness_mm[cortex]) - 10.0) < 0.1


@pytest.mark.parametrize("share", [0.2, 0.339, 0.5, 0.661, 0.8])
def test_share_of_volume_is_that_of_a_cone_of_columns(share):
    depth = np.linspace(0.0, 1.0, 21)
    found = laminar._volume_share(depth, np.full(depth.size, share))
    # the column whose edge grows linearly and that holds this share in one half, found on a grid
    growths = np.linspace(-0.95, 10.0, 1_000_000)
    halves = ((1 + growths / 2) ** 3 - 1) / ((1 + growths) ** 3 - 1 + 1e-300)
    growth = growths[np.argmin(np.abs(halves - share))]
    expected = (
        depth if abs(growth) < 1e-4 else ((1 + growth * depth) ** 3 - 1) / ((1 + growth) ** 3 - 1)
    )
    assert_allclose(found, expected, atol=2e-4)


def test_levels_leave_thin_sheets_to_faces():
    # a sulcus of two voxels between banks: smoothing would mix its borders
    line = np.array([*[2] * 12, *[3] * 8, 1, 1, *[3] * 8, *[2] * 12])
    rim = np.broadcast_to(line, (6, 5, line.size)).transpose(2, 0, 1)
    levels, faces = depth_of(rim, surface="levels"), depth_of(rim, surface="faces")
    assert_allclose(levels.equidistant, faces.equidistant, atol=1e-6)


@pytest.mark.parametrize("sides", [(0.25, 0.5, 1.0), (0.3, 0.3, 2.0)])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_levels_of_a_flat_border_lie_between_its_voxels(sides, axis):
    line = np.array([*[2] * 10, *[3] * 8, *[1] * 10])
    rim = np.moveaxis(np.broadcast_to(line, (6, 5, line.size)), -1, axis)
    levels, faces = depth_of(rim, sides, surface="levels"), depth_of(rim, sides)
    # a thousandth of a voxel: sums over voxels for integrals
    assert_allclose(levels.equidistant, faces.equidistant, atol=1e-3 / 8)
    assert_allclose(levels.thickness_mm, faces.thickness_mm, rtol=1e-3)


@pytest.mark.parametrize("is_fundus", [False, True], ids=["crown", "fundus"])
def test_equivolume_is_nearer_to_the_volume_than_equidistant(is_fundus):
    rim, _, volume = round_rim(3, 10.0, is_fundus=is_fundus)
    depth = depth_of(rim)
    cortex = rim == 3
    of_volume = np.median(np.abs(depth.equivolume - volume)[cortex])
    assert of_volume < 0.25 * np.median(np.abs(depth.equidistant - volume)[cortex])


def random_rim(shape=(9, 8, 7)):
    rng = np.random.default_rng(5)
    smooth = ndimage.gaussian_filter(rng.normal(size=shape), 1.5)
    low, high = np.percentile(smooth, [30, 65])
    return np.where(smooth < low, 2, np.where(smooth > high, 1, 3))


def test_ways_are_those_of_a_graph_search():
    rim, sides = random_rim(), np.array([0.3, 0.5, 1.1])
    index = np.arange(rim.size).reshape(rim.shape)
    rows, columns, lengths = [], [], []
    for offset in np.ndindex(3, 3, 3):
        shift = np.array(offset) - 1
        if not shift.any():
            continue
        pairs = list(zip(shift, rim.shape, strict=True))
        here = tuple(slice(max(0, -s), n - max(0, s)) for s, n in pairs)
        there = tuple(slice(max(0, s), n - max(0, -s)) for s, n in pairs)
        passable = np.isin(rim[there], [3, 1])  # a way from white matter enters no white matter
        rows.append(index[here][passable])
        columns.append(index[there][passable])
        lengths.append(np.full(passable.sum(), np.linalg.norm(shift * sides)))
    graph = coo_array(
        (np.concatenate(lengths), (np.concatenate(rows), np.concatenate(columns))),
        shape=(rim.size, rim.size),
    )
    expected = dijkstra(graph.tocsr(), indices=np.flatnonzero(rim == 2), min_only=True)
    padded = np.pad(rim.astype(np.int8), 1)
    found = laminar._ways(padded, 2, 1, sides, False)[0].reshape(padded.shape)[1:-1, 1:-1, 1:-1]
    cortex = rim == 3
    assert_allclose(found[cortex], expected.reshape(rim.shape)[cortex], rtol=1e-12)


@pytest.mark.parametrize("n_steps", [1, 4])
def test_smoothing_is_the_normalised_convolution(n_steps):
    is_cortex = np.pad(random_rim() == 3, 1).astype(float)
    values = np.random.default_rng(0).uniform(size=is_cortex.shape) * is_cortex
    weights = np.array([0.6, 0.5, 0.1])
    cross = np.zeros((3, 3, 3))
    cross[1, 1, 1] = 1.0
    cross[[0, 2], 1, 1], cross[1, [0, 2], 1], cross[1, 1, [0, 2]] = weights
    total = ndimage.convolve(is_cortex, cross, mode="constant")
    expected = values
    for _ in range(n_steps):
        summed = ndimage.convolve(expected, cross, mode="constant")
        expected = is_cortex * summed / np.maximum(total, 1)
    old, new = values.astype(np.float32), np.zeros(values.shape, np.float32)
    inverse = (is_cortex / np.maximum(total, 1)).astype(np.float32)
    laminar._smooth(old, new, inverse, weights.astype(np.float32), n_steps)
    assert_allclose(new if n_steps % 2 else old, expected, atol=1e-6)  # single precision


@pytest.mark.parametrize("scale", [0.1, 25.0])
def test_depth_does_not_depend_on_the_unit_of_length(scale):
    rim, sides = random_rim(), np.array([0.25, 0.25, 2.0])
    one, other = depth_of(rim, sides), depth_of(rim, sides * scale)
    assert_allclose(other.equidistant, one.equidistant, atol=1e-6)
    assert_allclose(other.thickness_mm, scale * one.thickness_mm, rtol=1e-5)
    assert_array_equal(other.is_measured, one.is_measured)


def test_depth_turns_over_with_the_labels():
    rim = random_rim()
    turned = np.choose(rim, [0, 2, 1, 3])
    assert_allclose(depth_of(turned).equidistant, 1 - depth_of(rim).equidistant, atol=1e-6)


def test_slices_in_plane_do_not_see_each_other():
    rim, _, _ = round_rim(2, 6.0, 4.0)
    stack = np.concatenate([rim, np.flip(rim, 0), rim], axis=2)
    depth = depth_of(stack, (0.25, 0.25, 2.0), in_plane=True)
    alone = depth_of(rim, (0.25, 0.25, 2.0), in_plane=True)
    assert_allclose(depth.equivolume[..., 2:], alone.equivolume, atol=1e-6)
    assert_allclose(depth.thickness_mm[..., :1], alone.thickness_mm, atol=1e-6)


def test_cortex_beside_a_contact_of_both_tissues_is_not_measured():
    rim = np.full((30, 9, 1), 3)
    rim[:, :2], rim[:, -2:] = 2, 1
    rim[:5, 2:5] = 2
    rim[:5, 5:7] = 1  # a bank that the segmentation has lost
    depth = depth_of(rim, in_plane=True)
    assert not depth.is_measured[5, 4, 0]
    assert depth.is_measured[15:, 2:7].all()


def test_blob_without_an_outer_border_is_not_measured():
    rim = np.full((30, 12, 1), 3)
    rim[:, :2], rim[:, -2:] = 2, 1
    rim[20:, :] = 2
    rim[23:26, 4:8] = 3
    depth = depth_of(rim, in_plane=True)
    assert not depth.is_measured[23:26, 4:8].any()
    assert depth.is_measured[:10, 2:10].all()


def test_depth_lies_in_the_cortex_alone():
    rim = random_rim()
    depth = depth_of(rim)
    assert_array_equal(np.isfinite(depth.equivolume), rim == 3)
    for values in (depth.equidistant, depth.equivolume):
        assert np.nanmin(values) >= 0
        assert np.nanmax(values) <= 1


def test_layers_split_depth_evenly():
    depth = np.linspace(0, 1, 1001).reshape(-1, 1, 1)
    layers = layer_labels(depth, n_layers=4, is_measured=np.ones(depth.shape, bool))
    assert_array_equal(np.bincount(layers.ravel()), [0, 251, 250, 250, 250])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rim": np.ones((3, 3), int)}, r"rim has shape \(3, 3\)"),
        ({"rim": np.full((3, 3, 3), 4)}, "27 voxels with labels beyond 0 to 3"),
        ({"rim": np.full((3, 3, 3), 3)}, "0 voxels outside the cortex"),
        ({"rim": np.array([2, 0, 3, 0, 1]).reshape(5, 1, 1)}, "labels touch each other"),
        ({"voxel_mm": [1.0, 1.0]}, "voxel_mm has 2 values"),
        ({"voxel_mm": [1.0, 0.0, 1.0]}, "voxel_mm is 0 mm"),
        ({"surface": "edges"}, "surface is 'edges'"),
        ({"smoothing_steps": -1}, "smoothing_steps is -1"),
    ],
)
def test_wrong_input_is_refused(change, words):
    given = {"rim": random_rim(), "voxel_mm": (1.0, 1.0, 1.0), "surface": "faces"}
    with pytest.raises(NumericsError, match=words):
        cortical_depth(**{"in_plane": False, "smoothing_steps": 2, **given, **change})


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("surface", ["centres", "faces"])
def test_depth_of_a_real_cortex_is_that_of_laynii(test_data, surface):
    def load(name):
        path = test_data / "layers" / f"Ding2016_occip_rim{name}.nii.gz"
        return np.asarray(nib.load(path).dataobj)

    rim = load("").astype(np.int8)
    start = time.process_time()
    depth = depth_of(rim, surface=surface)
    # LN2_LAYERS takes 2 s for this rim with both depths; the bound leaves room for slow machines
    assert time.process_time() - start < 6.0
    cortex = rim == 3
    for found, name in ((depth.equidistant, "equidist"), (depth.equivolume, "equivol")):
        expected = load(f"_metric_{name}")[cortex]
        assert np.corrcoef(found[cortex], expected)[0, 1] > 0.99
        assert np.median(np.abs(found[cortex] - expected)) < 0.02
