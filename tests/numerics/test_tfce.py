"""Enhancement against brute force, closed forms, another package, and FSL's maps."""

from itertools import pairwise

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy import ndimage, sparse
from scipy.sparse.csgraph import connected_components

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.tfce import (
    Enhancer,
    clusters_above,
    enhance,
    graph_neighbourhood,
    image_neighbourhood,
)

STRUCTURE = {6: 1, 18: 2, 26: 3}
LINE = np.array([[0, 1], [1, 2], [2, 3]])


def by_brute_force(values, label, height_power, extent_power):
    """Integral as a sum over the heights where anything changes; `label` finds the clusters."""
    enhanced = np.zeros(values.shape)
    for sign in (1.0, -1.0):
        levels = np.concatenate([[0.0], np.unique(sign * values[sign * values > 0])])
        for low, high in pairwise(levels):
            labels = label(sign * values >= high)
            extent = np.bincount(labels.ravel()).astype(float)
            extent[0] = 0.0
            power = height_power + 1
            slab = (high**power - low**power) / power
            enhanced += sign * (extent**extent_power)[labels] * slab
    return enhanced


def in_image(connectivity):
    near = ndimage.generate_binary_structure(3, STRUCTURE[connectivity])
    return lambda above: ndimage.label(above, near)[0]


def in_graph(n, edges):
    def label(above):
        kept = edges[above[edges].all(axis=1)]
        graph = sparse.coo_matrix((np.ones(len(kept)), kept.T), (n, n))
        return np.where(above, connected_components(graph, directed=False)[1] + 1, 0)

    return label


def smooth_map(mask, seed, fwhm_voxels=3.0):
    noise = np.random.default_rng(seed).standard_normal(mask.shape)
    smooth = ndimage.gaussian_filter(noise, fwhm_voxels / 2.355)
    return (smooth / smooth[mask].std()).astype(np.float32)


@pytest.mark.parametrize("connectivity", [6, 18, 26])
@pytest.mark.parametrize(("height", "extent"), [(2.0, 0.5), (2.0, 1.0), (1.0, 1.0), (1.3, 0.7)])
@pytest.mark.parametrize("rounded", [False, True])
def test_enhanced_image_is_that_of_brute_force(connectivity, height, extent, rounded):
    mask = np.random.default_rng(1).random((9, 8, 7)) < 0.8
    image = np.where(mask, smooth_map(mask, 2, 1.5), 0).astype(np.float32)
    if rounded:  # many equal heights, and zeros
        image = np.round(image)
    expected = by_brute_force(image.astype(float), in_image(connectivity), height, extent)[mask]
    near = image_neighbourhood(mask, connectivity)
    powers = {"height_power": height, "extent_power": extent}
    found = enhance(image[mask], near, **powers)
    assert_allclose(found, expected, rtol=1e-9, atol=0)
    found = Enhancer(near, **powers).map(image[mask])
    assert_allclose(found, expected, rtol=1e-9, atol=0)


@given(
    n=st.integers(1, 12),
    edges=st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=30),
    values=st.lists(st.integers(-4, 4), min_size=12, max_size=12),
)
def test_enhanced_graph_is_that_of_brute_force(n, edges, values):
    pairs = np.array([e for e in edges if e[0] != e[1] and max(e) < n], int).reshape(-1, 2)
    statistic = np.array(values[:n], np.float32)
    expected = by_brute_force(statistic.astype(float), in_graph(n, pairs), 2.0, 0.5)
    near = graph_neighbourhood(n, pairs)
    powers = {"height_power": 2.0, "extent_power": 0.5}
    assert_allclose(enhance(statistic, near, **powers), expected, rtol=1e-9)
    assert_allclose(Enhancer(near, **powers).map(statistic), expected, rtol=1e-9)


def test_image_and_the_graph_of_its_voxels_agree():
    mask = np.random.default_rng(3).random((12, 11, 10)) < 0.7
    number = np.full(mask.shape, -1)
    number[mask] = np.arange(mask.sum())
    edges = np.concatenate(
        [
            np.column_stack(
                [np.delete(number, -1, axis).ravel(), np.delete(number, 0, axis).ravel()]
            )
            for axis in range(3)
        ]
    )
    edges = edges[(edges >= 0).all(axis=1)]
    statistic = smooth_map(mask, 4)[mask]
    powers = {"height_power": 2.0, "extent_power": 0.5}
    image, graph = image_neighbourhood(mask, 6), graph_neighbourhood(mask.sum(), edges)
    assert_allclose(
        enhance(statistic, image, **powers), enhance(statistic, graph, **powers), rtol=1e-12
    )
    assert_allclose(
        Enhancer(image, **powers).map(statistic), Enhancer(graph, **powers).map(statistic)
    )


@pytest.mark.parametrize("connectivity", [6, 18, 26])
def test_thin_mask_gives_what_the_same_voxels_give_in_a_full_box(connectivity):
    x, y, z = np.indices((20, 18, 16))
    sheet = np.abs(z - 8 - 5 * np.sin(x / 4) * np.cos(y / 5)) < 0.8
    assert sheet.mean() < 0.15
    statistic = smooth_map(sheet, 12)
    box = np.where(sheet, statistic, 0).astype(np.float32)
    powers = {"height_power": 2.0, "extent_power": 1.0}
    whole = image_neighbourhood(np.ones(box.shape, bool), connectivity)
    thin = image_neighbourhood(sheet, connectivity)
    expected = enhance(box.ravel(), whole, **powers).reshape(box.shape)[sheet]
    assert_allclose(enhance(box[sheet], thin, **powers), expected, rtol=1e-12)
    found, extents = Enhancer(thin, **powers).map_and_widest(box[sheet], 0.5)
    assert_allclose(found, expected, rtol=1e-9)
    label = in_image(connectivity)
    assert extents == tuple(
        np.bincount(label(sign * box >= 0.5).ravel())[1:].max() for sign in (1, -1)
    )
    labels = clusters_above(box[sheet], thin, 0.5)
    pairs = np.unique(np.column_stack([labels, label(box >= 0.5)[sheet]]), axis=0)
    assert len(pairs) == labels.max() + 1 > 3


@pytest.mark.parametrize(
    ("mask", "name"),
    [
        (np.ones((5, 5, 5), bool), "a full box, whose voxels at its faces have fewer neighbours"),
        (np.indices((6, 6, 6)).sum(0) % 2 == 0, "a chessboard, each voxel alone"),
    ],
)
def test_extent_does_not_leak_over_borders(mask, name):
    statistic = np.full(mask.sum(), 2.0, np.float32)
    extent = mask.sum() if mask.all() else 1
    found = enhance(statistic, image_neighbourhood(mask, 6), height_power=2, extent_power=1)
    assert_allclose(found, extent * 8 / 3, err_msg=name)


def test_small_values_keep_their_accuracy_beside_large_ones():
    # height 1e-6 under a peak of 1e3: a difference of large sums would lose it
    statistic = np.array([1e3, 1e-6])
    near = graph_neighbourhood(2, np.array([[0, 1]]))
    found = enhance(statistic, near, height_power=2, extent_power=0.5)
    assert_allclose(found[1], np.sqrt(2) * 1e-18 / 3, rtol=1e-9)


def test_more_peaks_than_two_bytes_count_are_no_matter():
    mask = np.indices((60, 60, 60)).sum(0) % 2 == 0  # 108,000 voxels, none touching another
    statistic = np.random.default_rng(5).standard_normal(mask.sum()).astype(np.float32)
    statistic = np.abs(statistic)
    enhancer = Enhancer(image_neighbourhood(mask, 6), height_power=2, extent_power=0.5)
    for values in (statistic, -statistic):
        assert_allclose(enhancer.map(values), values.astype(float) ** 3 / 3, rtol=1e-6)


def test_one_enhancer_gives_the_same_for_each_map_whatever_came_before():
    mask = np.ones((14, 13, 12), bool)
    near = image_neighbourhood(mask, 26)
    maps = [smooth_map(mask, seed)[mask] for seed in range(4)]
    powers = {"height_power": 2.0, "extent_power": 1.0}
    one = Enhancer(near, **powers)
    alone = [Enhancer(near, **powers).map(statistic) for statistic in maps]
    for statistic, expected in zip(maps, alone, strict=True):
        assert_array_equal(one.map(statistic), expected)
    before = maps[0].copy()
    one.map(maps[0])
    assert_array_equal(maps[0], before)


@pytest.mark.parametrize("connectivity", [6, 26])
@pytest.mark.parametrize("height", [0.5, 1.5, 9.0])
def test_map_comes_with_the_extents_of_scipys_widest_labels(connectivity, height):
    mask = np.random.default_rng(6).random((14, 13, 12)) < 0.9
    image = np.where(mask, smooth_map(mask, 7), 0).astype(np.float32)
    near = image_neighbourhood(mask, connectivity)
    label = in_image(connectivity)
    expected = tuple(
        np.bincount(label(sign * image >= height).ravel())[1:].max(initial=0) for sign in (1, -1)
    )
    enhancer = Enhancer(near, height_power=2, extent_power=1)
    found, extents = enhancer.map_and_widest(image[mask], height)
    assert extents == expected
    assert_array_equal(found, Enhancer(near, height_power=2, extent_power=1).map(image[mask]))


@pytest.mark.parametrize("connectivity", [6, 18, 26])
def test_clusters_are_scipys_labels(connectivity):
    mask = np.random.default_rng(6).random((14, 13, 12)) < 0.8
    image = np.where(mask, smooth_map(mask, 10), 0)
    labels = clusters_above(image[mask], image_neighbourhood(mask, connectivity), 0.7)
    expected = in_image(connectivity)(image >= 0.7)[mask]
    assert_array_equal(labels > 0, expected > 0)
    pairs = np.unique(np.column_stack([labels, expected]), axis=0)
    assert len(pairs) == expected.max() + 1 == labels.max() + 1 > 3


def test_clusters_of_a_graph_are_its_components():
    rng = np.random.default_rng(11)
    edges = rng.integers(0, 60, (70, 2))
    edges = edges[edges[:, 0] != edges[:, 1]]
    values = rng.normal(0, 1, 60)
    labels = clusters_above(values, graph_neighbourhood(60, edges), -0.3)
    expected = in_graph(60, edges)(values >= -0.3)
    pairs = np.unique(np.column_stack([labels, expected]), axis=0)
    assert len(pairs) == len(np.unique(labels)) == len(np.unique(expected)) > 5
    assert_array_equal(labels > 0, values >= -0.3)


def test_nothing_above_the_threshold_is_no_cluster():
    near = graph_neighbourhood(4, LINE)
    assert_array_equal(clusters_above(np.ones(4), near, 3.1), 0)
    with pytest.raises(NumericsError, match="statistic has shape"):
        clusters_above(np.ones(5), near, 3.1)


def test_map_without_either_sign_gives_zeros():
    near = graph_neighbourhood(4, LINE)
    enhancer = Enhancer(near, height_power=2, extent_power=0.5)
    zeros = np.zeros(4, np.float32)
    for values in (zeros, -zeros):
        found, extents = enhancer.map_and_widest(values, 0.5)
        assert_array_equal(found, 0.0)
        assert extents == (0, 0)
    assert_array_equal(enhance(zeros, near, height_power=2, extent_power=0.5), 0.0)


@pytest.mark.peer
@pytest.mark.parametrize(("connectivity", "extent"), [(6, 0.5), (26, 1.0)])
def test_enhanced_map_is_that_of_the_package_tfce(connectivity, extent):
    core = pytest.importorskip("tfce.core")
    mask = np.ones((30, 28, 26), bool)
    image = smooth_map(mask, 8)
    theirs = core.tfce(image, connectivity=connectivity, E=extent, H=2.0)
    near = image_neighbourhood(mask, connectivity)
    ours = enhance(image[mask], near, height_power=2, extent_power=extent)
    assert_allclose(theirs[mask], ours, rtol=2e-5, atol=1e-5 * np.abs(ours).max())  # float32


def by_steps(image):
    """What randomise does: a hundred steps, the sum not multiplied by their height."""
    step = image.max() / 100
    enhanced = np.zeros(image.shape)
    for height in np.arange(step, image.max(), step):
        labels = in_image(6)(image > height)
        extent = np.bincount(labels.ravel()).astype(float)
        extent[0] = 0.0
        enhanced += np.sqrt(extent)[labels] * height**2
    return enhanced, step


@pytest.mark.data
@pytest.mark.parametrize("contrast", [1, 2])
def test_enhanced_map_is_that_of_randomise_but_for_its_step(test_data, contrast):
    folder = test_data / "perm53_reference"
    t, reference = (
        np.asarray(nib.load(folder / f"randomise_{name}{contrast}.nii.gz").dataobj, float)
        for name in ("tstat", "tfce")
    )
    mask = t != 0
    near = image_neighbourhood(mask, 6)
    ours = np.maximum(enhance(t[mask], near, height_power=2, extent_power=0.5), 0)
    assert np.corrcoef(ours, reference[mask])[0, 1] > 0.9995
    stepped, step = by_steps(np.maximum(t, 0))
    assert np.corrcoef(stepped[mask], reference[mask])[0, 1] > 0.9999
    # without the step's height their values are larger by one over it
    assert_allclose(np.median(reference[mask][ours > 1] / ours[ours > 1]) * step, 1, atol=0.05)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: image_neighbourhood(np.ones((3, 3), bool), 6), "mask has 2 axes"),
        (lambda: image_neighbourhood(np.ones((3, 3, 3)), 6), "of type float64; give 3 of bool"),
        (lambda: image_neighbourhood(np.zeros((3, 3, 3), bool), 6), "holds no voxel"),
        (lambda: image_neighbourhood(np.ones((3, 3, 3), bool), 8), "connectivity is 8"),
        (lambda: graph_neighbourhood(3, np.array([[0, 3]])), "from 0 to 3; there are 3"),
        (lambda: graph_neighbourhood(3, np.array([[1, 1]])), "to itself"),
        (lambda: graph_neighbourhood(3, np.array([[0.0, 1.0]])), "type float64"),
    ],
)
def test_unusable_neighbourhood_is_refused(build, words):
    with pytest.raises(NumericsError, match=words):
        build()


@pytest.mark.parametrize(
    ("statistic", "changed", "words"),
    [
        (np.ones(3), {}, r"statistic has shape \(3,\)"),
        (np.array([1, np.nan, 1, 1]), {}, "statistic holds 1 NaN"),
        (np.ones(4), {"height_power": 0.0}, "height_power is 0"),
        (np.ones(4), {"extent_power": -1.0}, "extent_power is -1"),
    ],
)
def test_unusable_map_is_refused(statistic, changed, words):
    settings = {"height_power": 2.0, "extent_power": 0.5, **changed}
    with pytest.raises(NumericsError, match=words):
        enhance(statistic, graph_neighbourhood(4, LINE), **settings)


def test_enhancer_takes_only_what_it_can_sort():
    enhancer = Enhancer(graph_neighbourhood(4, LINE), height_power=2, extent_power=0.5)
    for wrong in (np.ones(4), np.ones(3, np.float32)):
        with pytest.raises(NumericsError, match="give 4 values of float32"):
            enhancer.map(wrong)
