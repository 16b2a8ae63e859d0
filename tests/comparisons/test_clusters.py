"""Cluster tables say where significant voxels lie, and what they are in each group."""

from __future__ import annotations

from dataclasses import replace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import ndimage, sparse, stats

from bids_alsmri.comparisons.clusters import (
    SELECTION_NOTE,
    Clusters,
    ContrastMaps,
    describe_regions,
    find_clusters,
    overlap_regions,
    region_means,
)
from bids_alsmri.errors import NumericsError
from bids_alsmri.spaces.atlases import Atlas, Region, on_grid, read_fsl_atlases

AFFINE = np.array([[-2.0, 0, 0, 20], [0, 3, 0, -24], [0, 0, 2.5, -10], [0, 0, 0, 1]])
SHAPE = (14, 12, 11)


def smooth_t(seed: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 1.2)
    return 3 * noise / noise.std()


def ball(shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Mask that cuts through clusters and leaves a margin."""
    radius = np.array(shape) / 2
    relative = (np.indices(shape).T - (radius - 0.5)) / (radius - 0.7)
    return (relative**2).sum(axis=-1).T <= 1


def maps_of(
    t: np.ndarray, mask: np.ndarray, *, affine: np.ndarray = AFFINE, p: np.ndarray | None = None
) -> ContrastMaps:
    """One-sided p that falls with t, so that p < 0.05 where t > 1.645."""
    own = t[mask]
    p_fwe = stats.norm.sf(own) if p is None else p[mask]
    return ContrastMaps(mask, affine, p_fwe, own, own / 4, own * 0.01, "mmol/l")


def clusters_of(maps: ContrastMaps, connectivity: int = 26, **groups: np.ndarray) -> Clusters:
    return find_clusters(maps, alpha=0.05, connectivity=connectivity, groups=groups)


def line_of(p: list[float], t: list[float] | None = None) -> ContrastMaps:
    """Voxels in a row along x, 1 mm apart."""
    n = len(p)
    values = np.ones(n) if t is None else np.array(t)
    mask = np.ones((n, 1, 1), bool)
    return ContrastMaps(mask, np.eye(4), np.array(p), values, values, values, "1")


def atlas_of(labels: np.ndarray, *names: str, affine: np.ndarray = AFFINE) -> Atlas:
    regions = tuple(Region(10 * k, name, "n/a") for k, name in enumerate(names, start=1))
    return Atlas("test", "T1w", regions, labels.astype(np.int32), affine, "test.nii.gz")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_sizes_and_peaks_equal_nilearns(seed):
    from nilearn.reporting import get_clusters_table

    mask, t = ball(), smooth_t(seed)
    threshold = stats.norm.isf(0.05)
    # no subpeak is as far away as that
    theirs = get_clusters_table(
        nib.Nifti1Image(np.where(mask, t, 0.0), AFFINE), threshold, min_distance=1000.0
    )
    theirs = theirs[theirs["Cluster Size (mm3)"] != ""]
    # nilearn joins voxels that share a face
    ours = clusters_of(maps_of(t, mask), connectivity=6).table
    assert len(ours) == len(theirs) >= 3
    peaks = ["peak_x_mm", "peak_y_mm", "peak_z_mm", "t"]
    ours = ours.sort_values(peaks)
    theirs = theirs.sort_values(["X", "Y", "Z", "Peak Stat"])
    columns = ["X", "Y", "Z", "Peak Stat"]
    assert_allclose(ours[peaks], theirs[columns].astype(float), rtol=1e-6)
    # nilearn truncates to whole mm3
    sizes = theirs["Cluster Size (mm3)"].astype(float)
    assert_allclose(ours["volume_mm3"], sizes, atol=1)


@pytest.mark.parametrize(("connectivity", "n_shared"), [(6, 1), (18, 2), (26, 3)])
@pytest.mark.parametrize("seed", range(3))
def test_clusters_are_the_components_of_the_graph_of_neighbours(seed, connectivity, n_shared):
    mask, t = ball(), smooth_t(seed)
    found = clusters_of(maps_of(t, mask), connectivity).labels
    ijk = np.argwhere(mask & (stats.norm.sf(t) < 0.05))
    apart = np.abs(ijk[:, np.newaxis] - ijk)
    is_near = (apart.max(axis=-1) == 1) & (apart.sum(axis=-1) <= n_shared)
    n, component = sparse.csgraph.connected_components(sparse.csr_array(is_near))
    labels = found[tuple(ijk.T)]
    assert np.count_nonzero(found) == len(ijk)
    assert len(set(zip(labels, component, strict=True))) == n == labels.max()
    assert_array_equal(np.sort(np.bincount(component))[::-1], np.bincount(labels)[1:])


def test_rows_run_from_the_largest_cluster_to_the_smallest():
    found = clusters_of(maps_of(smooth_t(1), ball()))
    table = found.table
    assert table["cluster"].tolist() == list(range(1, len(table) + 1))
    assert table["n_voxels"].is_monotonic_decreasing
    assert_array_equal(table["n_voxels"], np.bincount(found.labels.ravel())[1:])
    assert_allclose(table["volume_mm3"], table["n_voxels"] * 2 * 3 * 2.5)


def test_p_has_to_lie_below_the_threshold():
    assert clusters_of(line_of([0.05, 0.0499, 0.06])).labels.ravel().tolist() == [0, 1, 0]


def test_peak_is_the_smallest_p_and_then_the_largest_t():
    maps = line_of([0.02, 0.01, 0.01, 0.01, 0.04], [9.0, 3.0, 5.0, 5.0, 8.0])
    row = clusters_of(maps).table.iloc[0]
    # of two alike the first; the largest t of all has a larger p
    assert (row["peak_x_mm"], row["p_fwe"], row["t"]) == (2.0, 0.01, 5.0)


def test_peak_row_holds_the_values_of_its_own_voxel():
    mask, t = ball(), smooth_t(2)
    maps = maps_of(t, mask)
    for _, row in clusters_of(maps).table.iterrows():
        peak_mm = row[["peak_x_mm", "peak_y_mm", "peak_z_mm"]].to_numpy(float)
        ijk = tuple(np.rint(nib.affines.apply_affine(np.linalg.inv(AFFINE), peak_mm)).astype(int))
        assert_allclose([row["t"], row["p_fwe"]], [t[ijk], stats.norm.sf(t[ijk])])
        assert_allclose([row["effect"], row["difference"]], [t[ijk] / 4, t[ijk] * 0.01])
        assert row["unit"] == "mmol/l"


def test_opposite_effects_never_share_a_cluster():
    found = clusters_of(line_of([0.01] * 5, [3.0, 4.0, -5.0, -4.0, 2.0]))
    assert found.table[["n_voxels", "t"]].to_numpy().tolist() == [[2, 4.0], [2, -5.0], [1, 2.0]]


def test_maps_without_t_have_clusters_all_the_same():
    maps = line_of([0.03, 0.01, 0.2, 0.04])
    nothing = np.full(4, np.nan)
    table = clusters_of(replace(maps, t=nothing, effect=nothing, difference=nothing)).table
    assert table[["n_voxels", "peak_x_mm", "p_fwe"]].to_numpy().tolist() == [
        [2, 1, 0.01],
        [1, 3, 0.04],
    ]
    assert table[["t", "effect", "difference"]].isna().all(axis=None)


@pytest.mark.parametrize("axis", range(3))
def test_table_does_not_depend_on_how_the_image_is_stored(axis):
    mask, t = ball(), smooth_t(3)
    mask[3, 4, 5] = False  # no symmetry
    values = np.random.default_rng(0).normal(5, 1, (6, *SHAPE))
    flip = np.eye(4)
    flip[axis, axis], flip[axis, 3] = -1, SHAPE[axis] - 1
    first = clusters_of(maps_of(t, mask), als=values[:, mask])
    turned = np.flip(mask, axis)
    other_maps = maps_of(np.flip(t, axis), turned, affine=AFFINE @ flip)
    second = clusters_of(other_maps, als=np.flip(values, axis + 1)[:, turned])
    order = ["n_voxels", "t"]
    one, other = (
        found.table.sort_values(order).drop(columns="cluster") for found in (first, second)
    )
    pd.testing.assert_frame_equal(one.reset_index(drop=True), other.reset_index(drop=True))


def test_groups_are_summarised_over_participants_means():
    mask, t = ball(), smooth_t(4)
    rng = np.random.default_rng(5)
    als, hc = rng.normal(58, 4, (7, *SHAPE)), rng.normal(53, 3, (5, *SHAPE))
    found = clusters_of(maps_of(t, mask), als=als[:, mask], hc=hc[:, mask])
    for _, row in found.table.iterrows():
        inside = found.labels == row["cluster"]
        for name, values in (("als", als), ("hc", hc)):
            means = [values[k][inside].mean() for k in range(len(values))]
            assert row[f"n_{name}"] == len(values)
            assert_allclose(row[f"mean_{name}"], np.mean(means))
            assert_allclose(row[f"sd_{name}"], stats.tstd(means))


def test_means_of_selected_voxels_are_labelled_and_are_biased_upward():
    # no group differs: the voxels that were picked for the largest difference show one
    rng = np.random.default_rng(6)
    groups = {"als": rng.normal(size=(10, 500)), "hc": rng.normal(size=(10, 500))}
    t, p = stats.ttest_ind(groups["als"], groups["hc"], alternative="greater")
    maps = ContrastMaps(np.ones((500, 1, 1), bool), np.eye(4), p, t, t, t, "1")
    table = find_clusters(maps, alpha=0.05, connectivity=26, groups=groups).table
    assert set(table["note"]) == {SELECTION_NOTE}
    assert (table["mean_als"] > table["mean_hc"]).all()


def test_group_of_one_has_no_spread():
    row = clusters_of(line_of([0.01, 0.02]), als=np.array([[1.0, 3.0]])).table.iloc[0]
    assert (row["n_als"], row["mean_als"]) == (1, 2.0)
    assert np.isnan(row["sd_als"])


def test_nothing_significant_gives_empty_tables_with_all_columns():
    values = np.ones((2, 3))
    maps = line_of([0.2, 0.5, 0.9])
    none, some = clusters_of(maps, als=values), clusters_of(line_of([0.01, 0.5, 0.9]), als=values)
    assert len(none.table) == 0
    assert not none.labels.any()
    assert none.table.dtypes.to_dict() == some.table.dtypes.to_dict()
    atlas = atlas_of(np.full((3, 1, 1), 10), "Genu", affine=np.eye(4))
    empty, full = (overlap_regions(c, maps, [atlas]) for c in (none, some))
    assert len(empty) == 0
    assert empty.dtypes.to_dict() == full.dtypes.to_dict()
    assert len(overlap_regions(some, maps, [])) == 0


@pytest.mark.parametrize("seed", range(3))
def test_overlap_equals_a_count_of_voxel_sets(seed):
    mask, t = ball(), smooth_t(seed)
    labels = np.random.default_rng(seed).integers(0, 5, SHAPE) * 10
    atlas = atlas_of(labels, "one", "two", "three", "four")
    maps = maps_of(t, mask)
    found = clusters_of(maps)
    table = overlap_regions(found, maps, [atlas])
    keys = ["share_of_cluster", "share_of_region", "n_voxels"]
    got = {(r["cluster"], r["region"]): [r[k] for k in keys] for r in table.to_dict("records")}
    tested = set(map(tuple, np.argwhere(mask)))
    expected = {}
    for cluster in range(1, found.labels.max() + 1):
        own = set(map(tuple, np.argwhere(found.labels == cluster)))
        for region in atlas.regions:
            voxels = set(map(tuple, np.argwhere(labels == region.label))) & tested
            n = len(own & voxels)
            if n:
                expected[cluster, region.name] = [n / len(own), n / len(voxels), n]
    assert got == expected


def test_regions_stand_in_order_of_their_share_atlas_by_atlas():
    maps = line_of([0.01] * 6)
    found = clusters_of(maps)
    one = atlas_of(
        np.array([10, 20, 20, 30, 30, 30]).reshape(6, 1, 1), "a", "b", "c", affine=np.eye(4)
    )
    two = atlas_of(
        np.array([10, 20, 30, 0, 0, 0]).reshape(6, 1, 1), "d", "e", "f", affine=np.eye(4)
    )
    table = overlap_regions(found, maps, [replace(one, name="Z"), replace(two, name="A")])
    assert table["region"].tolist() == ["c", "b", "a", "d", "e", "f"]
    assert table["atlas"].tolist() == ["Z"] * 3 + ["A"] * 3
    assert_allclose(table.groupby("atlas", sort=False)["share_of_cluster"].sum(), [1.0, 0.5])


def test_labels_of_an_atlas_may_come_in_any_order():
    maps = line_of([0.01, 0.01, 0.01])
    labels = np.array([7, 3, 900], np.int32).reshape(3, 1, 1)
    regions = (
        Region(900, "c", "n/a"),
        Region(3, "b", "left"),
        Region(5, "x", "n/a"),
        Region(7, "a", "right"),
    )
    atlas = Atlas("test", "T1w", regions, labels, np.eye(4), "t.nii.gz")
    values = region_means(
        np.array([[1.0, 2.0, 3.0]]),
        maps.mask,
        np.eye(4),
        [atlas],
        participants=["sub-1"],
        measure="fa",
        unit="1",
    ).set_index("region")
    assert values.loc[["a", "b", "c"], "value"].tolist() == [1, 2, 3]
    assert values.loc[["a", "b"], "side"].tolist() == ["right", "left"]
    overlap = overlap_regions(clusters_of(maps), maps, [atlas])
    assert sorted(overlap["region"]) == ["a", "b", "c"]


def test_words_for_regions_are_those_of_the_papers_tables():
    overlap = pd.DataFrame(
        {
            "cluster": [1, 1, 1, 2],
            "atlas": ["JHU", "JHU", "Harvard-Oxford", "JHU"],
            "region": [
                "Corticospinal tract R",
                "Body of corpus callosum",
                "Precentral Gyrus",
                "Genu",
            ],
            "share_of_cluster": [0.41, 0.126, 0.055, 0.9],
        }
    )
    assert describe_regions(overlap, 1, least_share=0.1) == (
        "JHU: Corticospinal tract R (41 %), Body of corpus callosum (13 %)"
    )
    assert describe_regions(overlap, 1, least_share=0.0).endswith(
        "; Harvard-Oxford: Precentral Gyrus (6 %)"
    )
    assert describe_regions(overlap, 3, least_share=0.0) == "in no region"


@pytest.mark.data
@pytest.mark.parametrize("name", ["Corticospinal tract R", "Body of corpus callosum"])
def test_cluster_that_is_a_region_is_told_by_its_name(test_data, name):
    folder = test_data / "atlases" / "fsl_style"
    (atlas,) = read_fsl_atlases(folder, threshold_percent=25.0)
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    affine[:3, 3] = [-90, -126, -72]
    atlas = on_grid(atlas, (61, 73, 61), affine, space="MNI152NLin2009aSym")
    (label,) = [region.label for region in atlas.regions if region.name == name]
    p = np.where(atlas.labels == label, 0.01, 1.0)
    maps = maps_of(np.ones(p.shape), np.ones(p.shape, bool), affine=affine, p=p)
    found = clusters_of(maps)
    table = overlap_regions(found, maps, [atlas])
    assert (table["share_of_cluster"] == 1.0).all()
    assert_allclose(table["share_of_region"].sum(), 1.0)
    assert describe_regions(table, 1, least_share=0.0) == f"{atlas.name}: {name} (100 %)"
    x_mm = found.table["peak_x_mm"].iloc[0]
    assert x_mm > 0 or name != "Corticospinal tract R"


def test_region_means_equal_scipys_over_all_tested_voxels():
    mask = ball()
    rng = np.random.default_rng(7)
    labels = rng.integers(0, 4, SHAPE) * 10
    atlas = atlas_of(labels, "one", "two", "three")
    images = rng.gamma(2, 1, (3, *SHAPE))
    table = region_means(
        images[:, mask],
        mask,
        AFFINE,
        [atlas],
        participants=["sub-02", "sub-01", "sub-03"],
        measure="tsc",
        unit="mmol/l",
    )
    expected = [ndimage.mean(image, np.where(mask, labels, 0), [10, 20, 30]) for image in images]
    assert_allclose(table["value"], np.ravel(expected))
    counts = [np.count_nonzero(mask & (labels == label)) for label in (10, 20, 30)]
    assert table["n_voxels"].tolist() == counts * 3
    assert table["participant_id"].tolist() == ["sub-02"] * 3 + ["sub-01"] * 3 + ["sub-03"] * 3
    assert table["region"].tolist() == ["one", "two", "three"] * 3
    assert set(zip(table["measure"], table["unit"], strict=True)) == {("tsc", "mmol/l")}


@pytest.mark.slow
def test_region_means_equal_those_of_nilearns_masker():
    from nilearn.maskers import NiftiLabelsMasker

    mask = np.ones(SHAPE, bool)
    labels = np.random.default_rng(8).integers(0, 6, SHAPE)
    images = np.random.default_rng(9).normal(1, 0.2, (4, *SHAPE)).astype(np.float32)
    masker = NiftiLabelsMasker(
        nib.Nifti1Image(labels.astype(np.int32), AFFINE), keep_masked_labels=False, standardize=None
    )
    theirs = masker.fit_transform(nib.Nifti1Image(np.moveaxis(images, 0, -1), AFFINE))
    regions = tuple(Region(k, f"r{k}", "n/a") for k in range(1, 6))
    atlas = Atlas("test", "T1w", regions, labels.astype(np.int32), AFFINE, "test.nii.gz")
    ours = region_means(
        images[:, mask], mask, AFFINE, [atlas], participants=list("abcd"), measure="fa", unit="1"
    )
    assert_allclose(ours["value"], theirs.ravel(), rtol=1e-5)  # float32 there


def test_region_outside_the_mask_has_a_row_without_a_value():
    mask = np.array([True, True, False]).reshape(3, 1, 1)
    atlas = atlas_of(np.array([10, 10, 20]).reshape(3, 1, 1), "in", "out", affine=np.eye(4))
    table = region_means(
        np.array([[1.0, 2.0], [3.0, 4.0]]),
        mask,
        np.eye(4),
        [atlas, replace(atlas, name="second")],
        participants=["sub-1", "sub-2"],
        measure="fa",
        unit="1",
    )
    assert table["value"].fillna(-1).tolist() == [1.5, -1, 1.5, -1, 3.5, -1, 3.5, -1]
    assert table["n_voxels"].tolist() == [2, 0] * 4
    assert table["atlas"].tolist() == ["test", "test", "second", "second"] * 2


def test_visits_of_one_participant_keep_their_rows_apart():
    atlas = atlas_of(np.array([10, 20]).reshape(2, 1, 1), "one", "two", affine=np.eye(4))
    table = region_means(
        np.array([[1.0, 2.0], [3.0, 4.0]]),
        np.ones((2, 1, 1), bool),
        np.eye(4),
        [atlas],
        participants=["sub-1", "sub-1"],
        measure="fa",
        unit="1",
    )
    assert table["value"].tolist() == [1, 2, 3, 4]


def test_no_atlas_gives_an_empty_table_with_all_columns():
    settings = {"participants": ["sub-1"], "measure": "fa", "unit": "1"}
    mask = np.ones((2, 1, 1), bool)
    none = region_means(np.ones((1, 2)), mask, np.eye(4), [], **settings)
    atlas = atlas_of(np.array([10, 20]).reshape(2, 1, 1), "one", "two", affine=np.eye(4))
    some = region_means(np.ones((1, 2)), mask, np.eye(4), [atlas], **settings)
    assert len(none) == 0
    assert none.dtypes.to_dict() == some.dtypes.to_dict()


def test_single_precision_maps_are_averaged_in_double():
    # sums of float32 of a million voxels are wrong in the third digit
    values = np.full((1, 1_000_000), 1e4 + 0.1, np.float32)
    mask = np.ones((100, 100, 100), bool)
    atlas = atlas_of(np.full(mask.shape, 10), "all", affine=np.eye(4))
    table = region_means(
        values, mask, np.eye(4), [atlas], participants=["a"], measure="x", unit="1"
    )
    assert_allclose(table["value"], np.float64(values[0, 0]), rtol=1e-12)
    maps = ContrastMaps(mask, np.eye(4), *np.zeros((4, mask.size)), "1")
    assert_allclose(
        clusters_of(maps, a=values).table["mean_a"], np.float64(values[0, 0]), rtol=1e-12
    )


MAPS = line_of([0.01, 0.02, 0.5])
WRONG_ATLAS = atlas_of(
    np.full((3, 1, 1), 10), "Genu", affine=np.diag([1.0, 1, 1, 1]) + np.eye(4, k=3)
)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: clusters_of(MAPS, 7), "connectivity is 7; give 6, 18 or 26"),
        (lambda: find_clusters(MAPS, alpha=0, connectivity=6, groups={}), "alpha is 0; it must"),
        (
            lambda: clusters_of(MAPS, als=np.ones((2, 4))),
            r"groups\['als'\] has shape \(2, 4\), but the mask 3",
        ),
        (lambda: clusters_of(MAPS, als=np.full((1, 3), np.nan)), r"groups\['als'\] holds 3 NaN"),
        (
            lambda: replace(MAPS, p_fwe=np.array([0.1, 0.2])),
            r"p_fwe has shape \(2,\), but the mask 3 voxels",
        ),
        (
            lambda: replace(MAPS, p_fwe=np.array([0.1, 0.2, 1.2])),
            "p_fwe is 1.2; it must lie from 0 to 1",
        ),
        (lambda: replace(MAPS, p_fwe=np.array([0.1, 0.2, np.nan])), "p_fwe holds 1 NaN"),
        (lambda: replace(MAPS, mask=np.zeros((3, 1, 1), bool)), "mask has shape .* and 0 voxels"),
        (lambda: replace(MAPS, mask=np.ones((3, 1, 1))), "mask has shape .* float64"),
        (
            lambda: overlap_regions(clusters_of(MAPS), MAPS, [WRONG_ATLAS]),
            "atlas test lies on .*on_grid",
        ),
        (
            lambda: region_means(
                np.ones((2, 3)), MAPS.mask, np.eye(4), [], participants=["a"], measure="", unit=""
            ),
            "values has 2 rows, but participants 1",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_name(call, message):
    with pytest.raises(NumericsError, match=message):
        call()
