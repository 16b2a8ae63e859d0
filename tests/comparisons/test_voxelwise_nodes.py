"""Comparisons run in jobs give what one call on arrays gives."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import statsmodels.api as sm
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

from bids_alsmri.comparisons.voxelwise import Conclude, Model, Permute, memory_gb
from bids_alsmri.interfaces.base import read_image, write_image
from bids_alsmri.numerics.linear import two_groups
from bids_alsmri.numerics.permutation import make_exchange
from bids_alsmri.numerics.tfce import image_neighbourhood
from bids_alsmri.stats.design import change_design, group_design, visit_weights
from bids_alsmri.stats.inference import Permutation, infer

GROUPS = ["als"] * 5 + ["hc"] * 6
CHOICES = {
    "n_permutations": 60,
    "seed": 3,
    "height_power": 2.0,
    "extent_power": 0.5,
    "connectivity": 6,
    "tail": False,
    "cluster_height": 0.0,
    "n_threads": 1,
}


def model_of(groups, weights=None, *, is_unequal=False):
    design = group_design(groups, "als", "hc")
    weights = np.eye(len(groups)) if weights is None else weights
    return Model(
        scans=list(range(weights.shape[1])),
        weights=weights.tolist(),
        matrix=design.matrix.tolist(),
        contrast=design.contrast.tolist(),
        groups=design.groups.tolist(),
        labels=["als", "hc"],
        has_unequal_variances=is_unequal,
    )


class Files:
    """Stack and mask in a folder, and what nodes make of them."""

    def __init__(self, folder, n_scans):
        self.folder = folder
        self.mask = np.zeros((6, 5, 4), dtype=bool)
        self.mask[1:5, 1:4, :3] = True
        rng = np.random.default_rng(1)
        self.stack = rng.normal(5.0, 1.0, (n_scans, np.count_nonzero(self.mask))).astype("f4")
        np.save(folder / "stack.npy", self.stack)
        write_image(self.mask, np.diag([2.0, 2, 2, 1]), folder / "mask.nii.gz", space="mni152")

    def inputs(self, model, **changed):
        paths = {
            n: str(self.folder / f"{n}.{e}") for n, e in (("stack", "npy"), ("mask", "nii.gz"))
        }
        return {**paths, "model": model.text, **CHOICES, **changed}

    def blocks(self, model, cuts, **changed):
        paths = []
        changed.pop("covariate_names", None)
        for start, stop in itertools.pairwise(cuts):
            place = self.folder / f"block_{len(cuts)}_{start}"
            place.mkdir()
            node = Permute(start=start, stop=stop, **self.inputs(model, **changed))
            paths.append(node.run(cwd=place).outputs.null)
        return paths

    def conclude(self, model, cuts, **changed):
        place = self.folder / f"conclude_{len(cuts)}"
        place.mkdir()
        node = Conclude(
            nulls=self.blocks(model, cuts, **changed),
            alpha=0.05,
            level=0.95,
            space="mni152",
            **self.inputs(model, **changed),
        )
        return node.run(cwd=place).outputs

    def values(self, path):
        return read_image(path, ndim=3).data[self.mask]


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path, len(GROUPS))


def test_jobs_give_what_one_call_gives(files):
    found = files.conclude(model_of(GROUPS), (0, 20, 60))
    design, contrast = two_groups(np.array(GROUPS) == "als")
    expected = infer(
        files.stack.astype(float),
        design,
        contrast,
        image_neighbourhood(files.mask, 6),
        exchange=make_exchange(len(GROUPS)),
        permutation=Permutation(n_permutations=60, seed=3),
    )
    for name, one in (("up", expected.positive), ("down", expected.negative)):
        for kind, values in (("p_fwe", one.p_enhanced_fwe), ("p", one.p_enhanced)):
            assert_allclose(files.values(getattr(found, f"{name}_{kind}")), values, rtol=1e-6)
    assert_allclose(files.values(found.t), expected.positive.statistic, rtol=1e-5)  # float32
    assert_allclose(files.values(found.p_two_sided), expected.either.p_enhanced_fwe, rtol=1e-6)


def test_result_does_not_depend_on_the_cut_into_jobs(files):
    first, second = (files.conclude(model_of(GROUPS), cuts) for cuts in ((0, 60), (0, 7, 33, 60)))
    for name in ("t", "up_p_fwe", "down_tfce", "up_p_t_fwe", "d"):
        assert_array_equal(
            nib.load(getattr(first, name)).get_fdata(), nib.load(getattr(second, name)).get_fdata()
        )


def test_missing_job_is_refused(files):
    model = model_of(GROUPS)
    node = Conclude(
        nulls=files.blocks(model, (0, 20)),
        alpha=0.05,
        level=0.95,
        space="mni152",
        **files.inputs(model),
    )
    with pytest.raises(Exception, match="null holds 20 of 60 relabellings; compute those"):
        node.run(cwd=files.folder)


def test_p_values_outside_the_mask_are_one_and_effects_zero(files):
    found = files.conclude(model_of(GROUPS), (0, 60))
    for name, outside in (("up_p_fwe", 1.0), ("p_two_sided", 1.0), ("t", 0.0), ("percent", 0.0)):
        image = nib.load(getattr(found, name)).get_fdata()
        assert set(image[~files.mask]) == {outside}, name


def test_change_between_visits_is_compared_as_one_map_of_each(tmp_path):
    people = [f"sub-{i:02d}" for i in range(len(GROUPS))]
    visits = [who for who in people for _ in range(2)]
    files = Files(tmp_path, len(visits))
    _, weights = visit_weights(visits, np.zeros(len(visits)), "change")
    found = files.conclude(model_of(GROUPS, weights), (0, 60))
    change = files.stack[1::2].astype(float) - files.stack[::2]
    expected = stats.ttest_ind(change[:5], change[5:])
    assert_allclose(files.values(found.t), expected.statistic, rtol=1e-4)  # float32
    difference = change[:5].mean(axis=0) - change[5:].mean(axis=0)
    assert_allclose(files.values(found.difference), difference, rtol=1e-4, atol=1e-6)


def test_change_of_one_group_is_tested_by_all_flips_of_signs(tmp_path):
    files = Files(tmp_path, 7)
    files.stack -= 4.6
    np.save(tmp_path / "stack.npy", files.stack)
    design = change_design(7)
    model = Model(
        scans=list(range(7)),
        weights=np.eye(7).tolist(),
        matrix=design.matrix.tolist(),
        contrast=design.contrast.tolist(),
        groups=design.groups.tolist(),
        labels=["als"],
        has_unequal_variances=False,
        flips_signs=True,
    )
    found = files.conclude(model, (0, 50, 128), n_permutations=5000)
    values = files.stack.astype(float)
    expected = stats.ttest_1samp(values, 0.0)
    assert_allclose(files.values(found.t), expected.statistic, rtol=1e-4)  # float32
    interval = expected.confidence_interval()
    assert_allclose(files.values(found.difference_low), interval.low, rtol=1e-3, atol=1e-4)
    largest = [
        stats.ttest_1samp(values * np.array(signs)[:, np.newaxis], 0.0).statistic.max()
        for signs in itertools.product([1, -1], repeat=7)
    ]
    t = expected.statistic
    p = [np.mean(np.array(largest) >= one * (1 - 1e-5)) if one > 0 else 1.0 for one in t]
    assert_allclose(files.values(found.up_p_t_fwe), p, rtol=1e-6)


def test_signs_flip_where_places_could_change(files):
    model = replace(model_of(GROUPS), flips_signs=True)
    found = files.conclude(model, (0, 60))
    design, contrast = two_groups(np.array(GROUPS) == "als")
    expected = infer(
        files.stack.astype(float),
        design,
        contrast,
        image_neighbourhood(files.mask, 6),
        exchange=make_exchange(len(GROUPS), permutes=False, flips=True),
        permutation=Permutation(n_permutations=60, seed=3),
    )
    assert_allclose(files.values(found.up_p_fwe), expected.positive.p_enhanced_fwe, rtol=1e-6)
    assert_allclose(files.values(found.t), expected.positive.statistic, rtol=1e-5)


def test_unequal_variances_give_welchs_statistic(files):
    found = files.conclude(model_of(GROUPS, is_unequal=True), (0, 60))
    expected = stats.ttest_ind(files.stack[:5], files.stack[5:], equal_var=False)
    assert_allclose(files.values(found.t), expected.statistic, rtol=1e-4)
    interval = expected.confidence_interval()
    assert_allclose(files.values(found.difference_low), interval.low, rtol=1e-3, atol=1e-4)


def test_third_group_stays_in_place_and_lends_its_variance(tmp_path):
    groups = [*GROUPS, *["ftd"] * 4]
    files = Files(tmp_path, len(groups))
    found = files.conclude(model_of(groups), (0, 60))
    residual = [files.stack[:5], files.stack[5:11], files.stack[11:]]
    pooled = sum(((p - p.mean(axis=0)) ** 2).sum(axis=0) for p in residual) / (15 - 3)
    difference = residual[0].mean(axis=0) - residual[1].mean(axis=0)
    expected = difference / np.sqrt(pooled * (1 / 5 + 1 / 6))
    assert_allclose(files.values(found.t), expected, rtol=1e-4, atol=1e-5)


def test_facts_count_what_the_maps_show(files):
    found = files.conclude(model_of(GROUPS), (0, 60), cluster_height=3.1)
    with open(found.facts, encoding="utf-8") as stream:
        facts = json.load(stream)
    p = files.values(found.up_p_fwe)
    t = files.values(found.t)
    assert facts["VoxelsTested"] == len(p)
    assert facts["upSignificantVoxels"] == np.count_nonzero(p < 0.05)
    assert facts["upSmallestP"] == pytest.approx(p.min(), rel=1e-6)
    assert facts["downLargestT"] == pytest.approx(-t.min(), rel=1e-5)
    assert facts["upPeakD"] == pytest.approx(files.values(found.d)[t.argmax()], rel=1e-5)
    # clusters beyond 3.1 have one p-value each, others 1
    assert set(files.values(found.up_p_cluster)[t < 3.0]) <= {1.0}


def test_stack_of_another_mask_is_refused(files):
    np.save(files.folder / "stack.npy", files.stack[:, :-1])
    with pytest.raises(Exception, match=r"voxels, but .*mask\.nii\.gz has 36"):
        files.blocks(model_of(GROUPS), (0, 60))


def grown(files, rng, *, groups=GROUPS, loss=0.1):
    """Stack that follows the share of grey matter, of which patients have lost some."""
    is_patient = np.array(groups)[:, np.newaxis] == "als"
    gm = rng.normal(0.6, 0.03, files.stack.shape) - loss * is_patient
    files.stack = (20.0 + 50.0 * gm + rng.normal(0.0, 1.0, gm.shape)).astype("f4")
    np.save(files.folder / "stack.npy", files.stack)
    return is_patient, add_covariate(files, gm.astype("f4"))


def add_covariate(files, gm):
    np.save(files.folder / "gm.npy", gm)
    return {"covariates": [str(files.folder / "gm.npy")]}


def test_atrophy_that_lowers_a_map_vanishes_beside_it_as_a_covariate(tmp_path):
    groups = ["als"] * 12 + ["hc"] * 12
    files = Files(tmp_path, len(groups))
    is_patient, gm = grown(files, np.random.default_rng(5), groups=groups)
    before = files.conclude(model_of(groups), (0, 200), n_permutations=200)
    after = files.conclude(model_of(groups), (0, 90, 200), n_permutations=200, **gm)
    # 5 mmol/l where the standard deviation within groups is 1.8
    assert (files.values(before.down_p_fwe) < 0.05).all()
    assert (files.values(after.down_p_fwe) > 0.05).all()
    values = np.load(gm["covariates"][0])
    for voxel in (0, 17, 35):
        regressors = np.column_stack([is_patient, values[:, voxel]]).astype(float)
        fit = sm.OLS(files.stack[:, voxel].astype(float), sm.add_constant(regressors)).fit()
        assert files.values(after.t)[voxel] == pytest.approx(fit.tvalues[1], rel=1e-4)  # float32
        low, high = fit.conf_int()[1]
        for name, expected in (
            ("difference", fit.params[1]),
            ("difference_low", low),
            ("difference_high", high),
            ("d", fit.params[1] / np.sqrt(fit.scale)),
        ):
            found = files.values(getattr(after, name))[voxel]
            assert found == pytest.approx(expected, rel=1e-3, abs=1e-4), name


def test_voxels_where_a_covariate_tells_nothing_are_counted_and_not_tested(files):
    is_patient, gm = grown(files, np.random.default_rng(6))
    values = np.load(gm["covariates"][0])
    values[:, :2], values[:, 2:3] = 0.0, 0.1 + 0.2 * is_patient
    found = files.conclude(
        model_of(GROUPS), (0, 60), covariate_names=["gm"], **add_covariate(files, values)
    )
    with open(found.facts, encoding="utf-8") as stream:
        facts = json.load(stream)
    assert facts["VoxelsWithoutVariance"] == 3
    assert facts["VoxelwiseCovariates"] == ["gm"]
    assert facts["DegreesOfFreedom"] == len(GROUPS) - 3
    assert files.values(found.t)[:3].tolist() == [0.0, 0.0, 0.0]
    assert files.values(found.p_two_sided)[:3].tolist() == [1.0, 1.0, 1.0]


def test_covariate_becomes_a_change_where_the_map_does(tmp_path):
    people = [f"sub-{i:02d}" for i in range(9) for _ in range(2)]
    files = Files(tmp_path, len(people))
    rng = np.random.default_rng(8)
    gm = rng.normal(0.6, 0.05, files.stack.shape)
    gm[1::2] = gm[::2] - rng.uniform(0.0, 0.04, gm[::2].shape)
    files.stack = (20.0 + 50.0 * gm + rng.normal(0.0, 0.3, gm.shape)).astype("f4")
    np.save(tmp_path / "stack.npy", files.stack)
    _, weights = visit_weights(people, np.zeros(len(people)), "change")
    design = change_design(9)
    model = Model(
        scans=list(range(len(people))),
        weights=weights.tolist(),
        matrix=design.matrix.tolist(),
        contrast=design.contrast.tolist(),
        groups=design.groups.tolist(),
        labels=["als"],
        has_unequal_variances=False,
        flips_signs=True,
    )
    gm = gm.astype("f4")
    found = files.conclude(model, (0, 60), **add_covariate(files, gm))
    change, lost = (np.diff(x.astype(float).reshape(9, 2, -1), axis=1) for x in (files.stack, gm))
    for voxel in (0, 20):
        fit = sm.OLS(change[:, 0, voxel], sm.add_constant(lost[:, 0, voxel])).fit()
        # what is left where no grey matter was lost
        assert files.values(found.t)[voxel] == pytest.approx(fit.tvalues[0], rel=1e-3)
        assert files.values(found.difference)[voxel] == pytest.approx(fit.params[0], rel=1e-3)


def test_covariate_of_other_scans_is_refused(files):
    gm = add_covariate(files, files.stack[:-1])
    with pytest.raises(Exception, match=r"gm\.npy: 10 scans, but .*stack\.npy has 11"):
        files.blocks(model_of(GROUPS), (0, 60), **gm)


def test_memory_that_is_declared_grows_with_covariates_of_each_voxel():
    alone, one, two = (memory_gb(53, 235375, n) for n in range(3))
    assert alone < one < two
