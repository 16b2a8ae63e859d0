"""Maps tested together in jobs give what one call on arrays gives."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import statsmodels.api as sm
from numpy.testing import assert_allclose
from scipy import stats

from bids_alsmri.comparisons.together import ConcludeTogether, CorrectAcross, PermuteTogether
from bids_alsmri.comparisons.voxelwise import Model, Permute
from bids_alsmri.interfaces.base import read_image, write_image
from bids_alsmri.numerics.permutation import make_exchange
from bids_alsmri.numerics.tfce import image_neighbourhood
from bids_alsmri.stats.combination import infer_combination
from bids_alsmri.stats.design import group_design
from bids_alsmri.stats.inference import Permutation

GROUPS = ["als"] * 4 + ["hc"] * 4
N = 70  # 8 choose 4: all there are
AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])
ENHANCED = {"height_power": 2.0, "extent_power": 0.5, "connectivity": 6, "tail": False}
RUN = {"n_permutations": 100, "seed": 3, "n_threads": 1}


def model(groups=GROUPS):
    design = group_design(groups, "als", "hc")
    return Model(
        scans=list(range(len(groups))),
        weights=np.eye(len(groups)).tolist(),
        matrix=design.matrix.tolist(),
        contrast=design.contrast.tolist(),
        groups=design.groups.tolist(),
        labels=["als", "hc"],
        has_unequal_variances=False,
    )


@pytest.fixture
def files(tmp_path):
    """Two maps of the same people, of which the first differs in half of the voxels."""
    mask = np.zeros((6, 5, 4), dtype=bool)
    mask[1:5, 1:4, :3] = True
    rng = np.random.default_rng(4)
    for name in ("fa", "md"):
        values = rng.normal(5.0, 1.0, (8, np.count_nonzero(mask)))
        values[:4, :18] += 3.0 if name == "fa" else 0.0
        np.save(tmp_path / f"{name}.npy", values.astype("f4"))
    write_image(mask, AFFINE, tmp_path / "mask.nii.gz", space="mni152")
    write_image(mask.astype(float), AFFINE, tmp_path / "back.nii.gz", space="mni152")
    return tmp_path


def values(path, files):
    inside = read_image(files / "mask.nii.gz", ndim=3).data > 0
    return read_image(path, ndim=3).data[inside]


def permuted(files, name, cuts):
    paths = []
    for start, stop in itertools.pairwise(cuts):
        place = files / f"{name}_{start}"
        place.mkdir()
        node = Permute(
            **{"stack": str(files / f"{name}.npy"), "mask": str(files / "mask.nii.gz")},
            **{"model": model().text, "cluster_height": 0.0, "start": start, "stop": stop},
            **{**ENHANCED, **RUN},
        )
        paths.append(node.run(cwd=place).outputs.null)
    return paths


def test_correction_across_maps_takes_the_smallest_rank_of_every_relabelling(files):
    blocks = {"fa": permuted(files, "fa", (0, 30, N)), "md": permuted(files, "md", (0, N))}
    node = CorrectAcross(
        nulls=[*blocks["fa"], *blocks["md"]],
        n_blocks=[2, 1],
        models=[model().text] * 2,
        own=0,
        mask=str(files / "mask.nii.gz"),
        alpha=0.05,
        space="mni152",
        **{k: RUN[k] for k in ("n_permutations", "seed")},
    )
    found = node.run(cwd=files).outputs
    # by hand, from the maxima of the four maps and directions
    maxima = []
    for paths in blocks.values():
        arrays = [np.load(path) for path in paths]
        largest = np.concatenate([a["largest_enhanced"] for a in arrays])
        order = np.concatenate([a["numbers"] for a in arrays]).argsort()
        maxima += list(largest[order].T)
    ranks = np.array([[(one >= v * (1 - 1e-5)).mean() for v in one] for one in maxima])
    smallest = ranks.min(axis=0)
    observed = np.load(blocks["fa"][0])["enhanced"]
    own = np.array([(maxima[0] >= v * (1 - 1e-5)).mean() for v in observed])
    expected = [(smallest <= share + 1e-9).mean() for share in own]
    expected = np.where(observed > 0, expected, 1.0)
    assert_allclose(values(found.up_p_across, files), expected, rtol=1e-6)
    facts = json.loads(Path(found.facts).read_text("utf-8"))
    assert facts["MapsTogether"] == 2
    assert facts["upSignificantVoxels"] == np.count_nonzero(expected < 0.05)


def combination_inputs(files, **changed):
    return {
        "stacks": [str(files / "fa.npy"), str(files / "md.npy")],
        "names": ["fa", "md"],
        "signs": [1, -1],
        "models": [model().text] * 2,
        "masks": [str(files / "mask.nii.gz")] * 2,
        "method": "fisher",
        **{**ENHANCED, **RUN},
        **changed,
    }


def test_combined_maps_in_jobs_give_what_one_call_gives(files):
    blocks = []
    for start, stop in ((0, 11), (11, N)):
        place = files / f"together_{start}"
        place.mkdir()
        node = PermuteTogether(start=start, stop=stop, **combination_inputs(files))
        blocks.append(node.run(cwd=place).outputs.null)
    node = ConcludeTogether(
        nulls=blocks,
        alpha=0.05,
        background=str(files / "back.nii.gz"),
        background_label="brain",
        title="FA and MD",
        sides=("declared", "reverse"),
        thickness_mm=0.0,
        space="mni152",
        **combination_inputs(files),
    )
    found = node.run(cwd=files).outputs
    design = group_design(GROUPS, "als", "hc")
    maps = {name: np.load(files / f"{name}.npy").astype(float) for name in ("fa", "md")}
    inside = read_image(files / "mask.nii.gz", ndim=3).data > 0
    expected = infer_combination(
        maps,
        {"fa": 1, "md": -1},
        design.matrix,
        design.contrast,
        image_neighbourhood(inside, 6),
        method="fisher",
        exchange=make_exchange(8),
        permutation=Permutation(n_permutations=100, seed=3),
    )
    for path, one in ((found.declared_p, expected.declared), (found.reverse_p, expected.reverse)):
        assert_allclose(values(path, files), one.p_enhanced_fwe, rtol=1e-6)
    # and Fisher's statistic is that of scipy, voxel by voxel
    t = [stats.ttest_ind(maps[n][:4], maps[n][4:]).statistic for n in ("fa", "md")]
    p = [stats.t.sf(s * one, 6) for s, one in zip((1, -1), t, strict=True)]
    fisher = [
        stats.combine_pvalues(pair, method="fisher").statistic for pair in zip(*p, strict=True)
    ]
    assert_allclose(expected.declared_statistic, fisher, rtol=1e-6)
    facts = json.loads(Path(found.facts).read_text("utf-8"))
    assert facts["declaredSmallestP"] == pytest.approx(expected.declared.p_enhanced_fwe.min())
    assert facts["NumberOfRelabellings"] == N


def test_maps_of_other_people_are_not_combined(files):
    other = model(["als"] * 5 + ["hc"] * 3)
    inputs = combination_inputs(files, models=[model().text, other.text])
    with pytest.raises(Exception, match="fa, md: maps are not of the same participants"):
        PermuteTogether(start=0, stop=20, **inputs).run(cwd=files)


def test_map_that_is_adjusted_in_every_voxel_is_combined_as_one_call_does(files):
    rng = np.random.default_rng(12)
    maps = {name: np.load(files / f"{name}.npy") for name in ("fa", "md")}
    grey = rng.normal(0.5, 0.1, maps["md"].shape).astype("f4")
    np.save(files / "gm.npy", grey)
    beside = {"covariates": [str(files / "gm.npy")], "n_covariates": [0, 1]}
    inputs = combination_inputs(files, **beside)
    block = PermuteTogether(start=0, stop=N, **inputs).run(cwd=files).outputs.null
    design = group_design(GROUPS, "als", "hc")
    expected = infer_combination(
        {name: values.astype(float) for name, values in maps.items()},
        {"fa": 1, "md": -1},
        design.matrix,
        design.contrast,
        image_neighbourhood(read_image(files / "mask.nii.gz", ndim=3).data > 0, 6),
        method="fisher",
        exchange=make_exchange(8),
        permutation=Permutation(n_permutations=100, seed=3),
        voxelwise_covariates={"md": grey[np.newaxis].astype(float)},
    )
    with np.load(block) as found:
        z = found["statistic"].reshape(2, -1)
    assert_allclose(z[0], np.maximum(expected.declared.statistic, 0.0), rtol=1e-5, atol=1e-6)
    # one map is that of the groups alone, the other that of a regression
    t = stats.ttest_ind(maps["fa"][:4, 7].astype(float), maps["fa"][4:, 7].astype(float)).statistic
    regressors = np.column_stack([np.repeat([1.0, 0.0], 4), grey[:, 7]])
    fit = sm.OLS(maps["md"][:, 7].astype(float), sm.add_constant(regressors)).fit()
    p = [stats.t.sf(t, 6), stats.t.sf(-fit.tvalues[1], 5)]
    fisher = stats.combine_pvalues(p, method="fisher").statistic
    assert expected.declared_statistic[7] == pytest.approx(fisher, rel=1e-6)
