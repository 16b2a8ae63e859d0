"""The command for people without BIDS, on files, against scipy and statsmodels."""

import subprocess
import sys
from itertools import product

import nibabel as nib
import numpy as np
import pytest
import statsmodels.api as sm
from numpy.testing import assert_allclose, assert_array_equal
from scipy import ndimage, stats

from bids_alsmri.stats.__main__ import main

SHAPE = (6, 5, 4)
FIRST = np.arange(9) < 5
VEST = "/NumWaves {1}\n/Num{2} {0}\n/PPheights 1 1\n\n/Matrix\n{3}\n"


def write_vest(path, rows, kind):
    rows = np.atleast_2d(rows)
    text = "\n".join(" ".join(f"{value:g}" for value in row) for row in rows)
    path.write_text(VEST.format(*rows.shape, kind, text))
    return path


@pytest.fixture
def study(tmp_path):
    """Nine volumes of two groups with an effect in one corner; a mask without the last slice."""
    rng = np.random.default_rng(4)
    data = rng.normal(10.0, 1.0, (*SHAPE, 9)).astype(np.float32)
    data[:3, :3, :, FIRST] += 2.0
    mask = np.ones(SHAPE, np.uint8)
    mask[:, :, -1] = 0
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    for name, values in (("data", data), ("mask", mask)):
        image = nib.Nifti1Image(values, affine)
        image.set_sform(affine, 4)
        image.to_filename(tmp_path / f"{name}.nii.gz")
    write_vest(tmp_path / "design.mat", np.column_stack([FIRST, ~FIRST]), "Points")
    write_vest(tmp_path / "design.con", [[1, -1], [-1, 1]], "Contrasts")
    return tmp_path


def run(folder, *words, **changed):
    flags = {"-i": "data.nii.gz", "-m": "mask.nii.gz", "-d": "design.mat", "-t": "design.con"}
    flags.update({f"-{name}": value for name, value in changed.items()})
    files = [
        word
        for flag, name in flags.items()
        if name is not None
        for word in (flag, str(folder / name))
    ]
    return main([*files, "-o", str(folder / "out"), *map(str, words)])


def image(folder, name):
    return np.asarray(nib.load(folder / f"out_{name}.nii.gz").dataobj)


def inside(folder):
    mask = np.asarray(nib.load(folder / "mask.nii.gz").dataobj) > 0
    data = np.asarray(nib.load(folder / "data.nii.gz").dataobj)
    return mask, data[mask].T.astype(float)


def test_images_have_the_names_of_randomise_and_hold_t_and_one_less_p(study):
    assert run(study, "-T", "-x") == 0
    names = {path.name for path in study.glob("out_*")}
    kinds = ("tstat", "tfce_tstat", "tfce_p_tstat", "tfce_corrp_tstat")
    kinds += ("vox_p_tstat", "vox_corrp_tstat")
    assert names == {f"out_{kind}{number}.nii.gz" for kind in kinds for number in (1, 2)}
    mask, data = inside(study)
    t = stats.ttest_ind(data[FIRST], data[~FIRST]).statistic
    assert_allclose(image(study, "tstat1")[mask], t, rtol=1e-5)
    assert_allclose(image(study, "tstat2")[mask], -t, rtol=1e-5)
    corrected = image(study, "tfce_corrp_tstat1")
    assert corrected[1, 1, 1] > 0.95
    # shares of the 126 choices of 5 among 9, the observed one always among them
    assert_allclose(corrected * 126, np.round(corrected * 126), atol=1e-3)
    assert corrected.max() < 1.0
    assert_array_equal(corrected[~mask], 0.0)
    assert (image(study, "tfce_corrp_tstat2")[:3, :3] < 0.95).all()


def test_uncorrected_p_of_t_is_that_of_scipy(study):
    assert run(study, "-x") == 0
    mask, data = inside(study)
    some = data[:, ::7]
    expected = stats.permutation_test(
        (some[FIRST], some[~FIRST]),
        lambda a, b, axis: a.mean(axis=axis) - b.mean(axis=axis),
        n_resamples=np.inf,
        alternative="greater",
    ).pvalue
    own = image(study, "tstat1")[mask][::7] > 0
    assert_allclose(1 - image(study, "vox_p_tstat1")[mask][::7][own], expected[own], atol=1e-6)


def test_one_sample_is_tested_by_sign_flips_as_scipy_does(study):
    path = study / "data.nii.gz"
    series = nib.load(path)
    nib.Nifti1Image(series.get_fdata() - 9.5, series.affine, series.header).to_filename(path)
    assert run(study, "-1", d=None, t=None) == 0
    mask, data = inside(study)
    expected = stats.permutation_test(
        (data[:, 3],),
        np.mean,
        permutation_type="samples",
        n_resamples=np.inf,
        alternative="greater",
    ).pvalue
    assert_allclose(image(study, "tstat1")[mask], stats.ttest_1samp(data, 0).statistic, rtol=1e-5)
    assert_allclose(1 - image(study, "vox_p_tstat1")[mask][3], expected, atol=1e-6)


def test_demeaned_design_has_a_mean_of_its_own(study):
    months = np.array([3.0, 14, 15, 9, 26, 5, 35, 8, 9])
    write_vest(study / "design.mat", months[:, None], "Points")
    write_vest(study / "design.con", [[1]], "Contrasts")
    assert run(study, "-D", "-n", 50) == 0
    mask, data = inside(study)
    fits = [sm.OLS(y, sm.add_constant(months)).fit() for y in data[:, :20].T]
    assert_allclose(image(study, "tstat1")[mask][:20], [fit.tvalues[1] for fit in fits], rtol=1e-5)


def test_blocks_are_exchanged_as_asked_for(study):
    write_vest(study / "design.grp", np.repeat([1, 2, 3], 3)[:, None], "Points")
    effect = np.array([0, 1, 2] * 3)
    write_vest(study / "design.mat", np.column_stack([effect, np.ones(9)]), "Points")
    write_vest(study / "design.con", [[1, 0]], "Contrasts")
    assert run(study, "-x", e="design.grp") == 0
    p = 1 - image(study, "vox_p_tstat1").astype(float)
    mask, _ = inside(study)
    # within three blocks of three: 6 ** 3 relabellings, so p is a multiple of 1 / 216
    assert_allclose(p[mask] * 216, np.round(p[mask] * 216), atol=1e-3)
    assert run(study, "--permute-blocks", e="design.grp") == 65  # all blocks are alike


def test_warns_that_exchange_within_blocks_assumes_equal_correlations(study, caplog):
    write_vest(study / "design.grp", np.repeat([1, 2, 3], 3)[:, None], "Points")
    write_vest(study / "design.mat", np.column_stack([[0, 1, 2] * 3, np.ones(9)]), "Points")
    write_vest(study / "design.con", [[1, 0]], "Contrasts")
    assert run(study, "-x", e="design.grp") == 0
    assert "3 volumes change places within a block" in caplog.text
    assert "compound symmetry" in caplog.text


THREE = np.repeat([0, 1, 2], [3, 4, 2])


@pytest.fixture
def three_groups(study):
    write_vest(study / "design.mat", np.eye(3)[THREE], "Points")
    write_vest(study / "design.con", [[1, -1, 0], [0, 1, -1]], "Contrasts")
    write_vest(study / "design.fts", [[1, 1]], "Contrasts")
    return study


def test_f_contrast_joins_t_contrasts_under_the_names_of_randomise(three_groups):
    assert run(three_groups, "-T", "-x", "-n", 40, f="design.fts") == 0
    mask, data = inside(three_groups)
    expected = stats.f_oneway(*(data[g == THREE] for g in range(3))).statistic
    assert_allclose(image(three_groups, "fstat1")[mask], expected, rtol=1e-5)
    kinds = ("fstat", "tfce_fstat", "tfce_p_fstat", "tfce_corrp_fstat", "vox_p_fstat")
    names = {path.name for path in three_groups.glob("out_*")}
    assert {f"out_{kind}1.nii.gz" for kind in (*kinds, "vox_corrp_fstat", "tstat")} <= names


def test_fonly_leaves_the_t_contrasts_out(three_groups):
    assert run(three_groups, "--fonly", "-n", 40, f="design.fts") == 0
    names = {path.name for path in three_groups.glob("out_*")}
    assert names == {f"out_{kind}fstat1.nii.gz" for kind in ("", "vox_p_", "vox_corrp_")}


def test_cluster_images_hold_extents_and_their_p(study):
    assert run(study, "-c", 2.5) == 0
    names = {path.name for path in study.glob("out_*")}
    kinds = ("tstat", "clustere_tstat", "clustere_corrp_tstat")
    assert names == {f"out_{kind}{k}.nii.gz" for kind in kinds for k in (1, 2)}
    mask, _ = inside(study)
    labels = ndimage.label((image(study, "tstat1") >= 2.5) & mask)[0]
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    assert_array_equal(image(study, "clustere_tstat1"), sizes[labels])
    corrected = image(study, "clustere_corrp_tstat1")
    assert corrected[1, 1, 1] > 0.95
    assert_array_equal(corrected[labels == 0], 0.0)
    assert_allclose(corrected * 126, np.round(corrected * 126), atol=1e-3)


def test_variance_groups_give_welchs_t(study):
    write_vest(study / "groups.txt", FIRST[:, None], "Points")
    assert run(study, "--variance-groups", study / "groups.txt") == 0
    mask, data = inside(study)
    expected = stats.ttest_ind(data[FIRST], data[~FIRST], equal_var=False).statistic
    assert_allclose(image(study, "tstat1")[mask], expected, rtol=1e-5)


def test_sign_flips_take_the_place_of_permutations(study):
    assert run(study, "-x", "--sign-flips") == 0
    mask, data = inside(study)
    p = 1 - image(study, "vox_p_tstat1").astype(float)[mask]
    # nine signs: 512 relabellings; those of one voxel by brute force
    assert_allclose(p * 512, np.round(p * 512), atol=1e-3)
    values = data[:, 0] - data[:, 0].mean()
    signs = np.array(list(product((1, -1), repeat=9)))
    flipped = (signs * values).T
    t = stats.ttest_ind(flipped[FIRST], flipped[~FIRST]).statistic
    assert t[0] > 0
    assert_allclose(p[0], np.mean(t >= t[0] - 1e-9))


def test_voxelwise_covariate_is_fitted_voxel_by_voxel(study):
    rng = np.random.default_rng(6)
    grey = rng.uniform(0, 1, (*SHAPE, 9)).astype(np.float32)
    nib.Nifti1Image(grey, np.diag([2.0, 2, 2, 1])).to_filename(study / "grey.nii.gz")
    assert run(study, "-n", 40, "--voxelwise-covariate", study / "grey.nii.gz") == 0
    mask, data = inside(study)
    for v in (0, 17, 80):
        design = np.column_stack([FIRST, ~FIRST, grey[mask][v]])
        expected = sm.OLS(data[:, v], design).fit().t_test([1, -1, 0]).tvalue.item()
        assert_allclose(image(study, "tstat1")[mask][v], expected, rtol=1e-5)


def test_two_sided_p_is_that_of_scipy_and_t_keeps_its_sign(study):
    assert run(study, "-x", "--two-sided") == 0
    mask, data = inside(study)
    some = data[:, ::9]
    difference = lambda a, b, axis: np.abs(a.mean(axis=axis) - b.mean(axis=axis))  # noqa: E731
    expected = stats.permutation_test(
        (some[FIRST], some[~FIRST]), difference, n_resamples=np.inf, alternative="greater"
    ).pvalue
    found = 1 - image(study, "vox_p_tstat1")[mask][::9]
    assert_allclose(found, expected, atol=1e-6)
    assert_array_equal(image(study, "tstat2"), -image(study, "tstat1"))
    for name in ("vox_p_tstat", "vox_corrp_tstat"):
        assert_array_equal(image(study, f"{name}1"), image(study, f"{name}2"))


def test_results_are_the_same_for_any_number_of_threads(study):
    images = {}
    for n in (1, 3):
        assert run(study, "--T2", "-n", 60, "--n-procs", n) == 0
        images[n] = {path.name: path.read_bytes() for path in study.glob("out_*")}
    assert images[1] == images[3]


def with_nan(study):
    path = study / "data.nii.gz"
    values = nib.load(path).get_fdata()
    values[0, 0, 0, 2] = np.nan
    nib.Nifti1Image(values, np.diag([2.0, 2, 2, 1])).to_filename(path)


@pytest.mark.parametrize("rows", [[[1, 0]], [[1, 1, 0]], [[0, 0]]])
def test_f_contrast_that_does_not_join_contrasts_is_refused(three_groups, caplog, rows):
    write_vest(three_groups / "design.fts", rows, "Contrasts")
    assert run(three_groups, f="design.fts") == 65
    assert "two or more 1 in each row" in caplog.text


def test_covariate_of_another_length_or_grid_is_refused(study, caplog):
    for shape, words in (((*SHAPE, 8), "8 volumes, but"), ((6, 5, 3, 9), "differs from that of")):
        ones = nib.Nifti1Image(np.ones(shape, np.float32), np.diag([2.0, 2, 2, 1]))
        ones.to_filename(study / "grey.nii.gz")
        assert run(study, "--voxelwise-covariate", study / "grey.nii.gz") == 65
        assert words in caplog.text


@pytest.mark.parametrize(
    ("spoil", "words", "code", "texts"),
    [
        (lambda s: (s / "data.nii.gz").unlink(), (), 66, ["data.nii.gz: no such file"]),
        (with_nan, (), 65, ["data.nii.gz: 1 voxels of the mask are NaN", "out of the mask"]),
        (
            lambda s: write_vest(s / "design.mat", np.eye(8)[:, :2], "Points"),
            (),
            65,
            ["design.mat: 8 rows", "9 volumes"],
        ),
        (
            lambda s: (s / "design.mat").write_text("/NumWaves 2\n/Matrix\none two\n"),
            (),
            65,
            ["design.mat: no VEST file", "text2vest"],
        ),
        (
            lambda s: nib.Nifti1Image(
                np.ones((6, 5, 5), np.uint8), np.diag([2.0, 2, 2, 1])
            ).to_filename(s / "mask.nii.gz"),
            (),
            65,
            ["mask.nii.gz: grid (6, 5, 5) differs"],
        ),
        (
            lambda s: nib.Nifti1Image(
                np.zeros(SHAPE, np.uint8), np.diag([2.0, 2, 2, 1])
            ).to_filename(s / "mask.nii.gz"),
            (),
            65,
            ["mask.nii.gz", "0"],
        ),
        (
            lambda s: write_vest(s / "design.con", [[1, -1, 0]], "Contrasts"),
            (),
            65,
            ["contrast has shape (1, 3)", "2 columns"],
        ),
        (lambda s: None, ("-1",), 64, ["either -d and -t, or -1"]),
        (lambda s: None, ("--fonly",), 64, ["need F contrasts; give -f"]),
        (lambda s: None, ("-F", 4), 64, ["need F contrasts; give -f"]),
        (lambda s: None, ("-f", "no.fts"), 66, ["no.fts: no such file"]),
        (lambda s: None, ("-c", "0"), 65, ["cluster_height is 0"]),
        (lambda s: None, ("--voxelwise-covariate", "no.nii.gz"), 66, ["no.nii.gz: no such file"]),
        (lambda s: None, ("--variance-groups", "no.txt"), 66, ["no.txt: no such file"]),
        (lambda s: None, ("-n", 10), 65, ["below 0.05", "10 were asked for"]),
        (lambda s: None, ("-T", "--T2"), 64, []),
    ],
)
def test_bad_input_ends_with_a_clear_message_and_no_image(study, caplog, spoil, words, code, texts):
    spoil(study)
    assert run(study, *words) == code
    for text in texts:
        assert text in caplog.text
    assert list(study.glob("out_*")) == []


def test_output_folder_that_is_not_there_is_told_before_any_work(study, caplog):
    words = ["-i", study / "data.nii.gz", "-m", study / "mask.nii.gz", "-1", "-o", study / "no/out"]
    assert main([str(word) for word in words]) == 73
    assert "is no folder; make it" in caplog.text


@pytest.mark.slow
def test_command_answers_for_help_as_a_program():
    done = subprocess.run(
        [sys.executable, "-m", "bids_alsmri.stats", "--help"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert "height step" in done.stdout
