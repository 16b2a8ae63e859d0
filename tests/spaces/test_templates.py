"""Templates come from what the computer holds, on one grid, and never from the network."""

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from bids_alsmri.errors import DataError, SettingsError
from bids_alsmri.spaces import templates
from bids_alsmri.spaces.templates import EMBEDDED_TEMPLATE, get_template, require_template


def write(path, value=1.0, shape=(8, 8, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.full(shape, value, np.float32), np.diag([2.0, 2, 2, 1])), path)


@pytest.fixture(scope="module")
def embedded():
    return get_template(EMBEDDED_TEMPLATE, 4.0, environment={})


def test_embedded_maps_lie_on_one_grid(embedded):
    for image in (embedded.mask, embedded.gm, embedded.wm, embedded.csf):
        assert image.shape == embedded.t1w.shape
        np.testing.assert_array_equal(image.affine, embedded.t1w.affine)


def test_embedded_tissues_add_up_to_one_in_the_brain(embedded):
    total = sum(image.get_fdata() for image in (embedded.gm, embedded.wm, embedded.csf))
    deep = total[embedded.mask.get_fdata() > 0]
    # Grey and white matter of the source add up to slightly more than 1 where they meet.
    assert np.median(deep) == pytest.approx(1.0, abs=0.01)
    assert deep.max() < 1.1


def test_embedded_brain_has_the_size_of_the_standard_brain(embedded):
    litres = embedded.mask.get_fdata().sum() * 4.0**3 / 1e6
    # ICBM 152 brains hold 1.8 to 2.0 litres within their mask (larger than a person's).
    assert 1.8 < litres < 2.0


def test_white_matter_is_brighter_than_grey(embedded):
    t1w = embedded.t1w.get_fdata()
    assert t1w[embedded.wm.get_fdata() > 0.9].mean() > t1w[embedded.gm.get_fdata() > 0.7].mean()


@pytest.mark.slow
@pytest.mark.parametrize("resolution_mm", [1.0, 3.0])
def test_brain_stays_in_place_at_any_resolution(resolution_mm, embedded):
    def centre(template):
        mask = template.mask
        index = np.argwhere(mask.get_fdata() > 0).mean(axis=0)
        return nib.affines.apply_affine(mask.affine, index)

    other = get_template(EMBEDDED_TEMPLATE, resolution_mm, environment={})
    # A quarter of the coarser voxel.
    np.testing.assert_allclose(centre(other), centre(embedded), atol=1.0)


@pytest.mark.slow
def test_embedded_brain_is_that_of_nilearns_own_function(embedded):
    datasets = pytest.importorskip("nilearn.datasets")
    theirs = datasets.load_mni152_template(resolution=1)
    ours = get_template(EMBEDDED_TEMPLATE, 1.0, environment={})
    inside = np.asarray(ours.mask.dataobj) > 0
    np.testing.assert_array_equal(
        np.asarray(ours.t1w.dataobj)[inside], np.asarray(theirs.dataobj)[inside]
    )
    np.testing.assert_array_equal(ours.t1w.affine, theirs.affine)


@pytest.mark.parametrize("seed", range(4))
def test_mask_is_closed_and_filled_as_scipy_does(seed):
    noise = np.random.default_rng(seed).standard_normal((30, 34, 28))
    mask = ndimage.gaussian_filter(noise, 2) > 0.03
    closed = ndimage.binary_closing(np.pad(mask, 5), iterations=4)
    labels, _ = ndimage.label(ndimage.binary_fill_holes(closed)[5:-5, 5:-5, 5:-5])
    largest = labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])
    np.testing.assert_array_equal(templates._filled(mask), largest)


@pytest.mark.parametrize("resolution_mm", [1.5, 2.0, 3.0])
@pytest.mark.parametrize("low", [0, 9])
def test_maps_are_resampled_as_scipy_does(resolution_mm, low):
    array = np.zeros((31, 30, 29), np.float32)
    array[low:20, low:22, low:20] = np.random.default_rng(0).random((20, 22, 20))[low:, low:, low:]
    sigma = np.sqrt(resolution_mm**2 - 1) / 2.355
    shape = tuple(int(np.ceil(n / resolution_mm)) for n in array.shape)
    expected = ndimage.affine_transform(
        ndimage.gaussian_filter(array, sigma),
        np.diag([resolution_mm] * 3),
        output_shape=shape,
        order=1,
    )
    found, _ = templates._resampled(array, np.eye(4), resolution_mm)
    np.testing.assert_array_equal(found, expected)


def put_templateflow(root, name="X", resolution="01", but=(), value=7.0):
    folder = root / f"tpl-{name}"
    start = f"tpl-{name}_res-{resolution}"
    write(folder / f"{start}_T1w.nii.gz", value)
    write(folder / f"{start}_desc-brain_mask.nii.gz")
    for label in ("GM", "WM", "CSF"):
        write(folder / f"{start}_label-{label}_probseg.nii.gz", 0.5)
    for ending in but:
        (folder / f"{start}_{ending}.nii.gz").unlink()
    return folder


def test_templateflow_files_are_used_where_present(tmp_path):
    put_templateflow(tmp_path, "MNI152NLin2009cAsym")
    home = {"TEMPLATEFLOW_HOME": str(tmp_path)}
    require_template("MNI152NLin2009cAsym", environment=home)
    template = get_template("MNI152NLin2009cAsym", 2.0, environment=home)
    assert template.t1w.get_fdata().max() == 7.0
    assert template.gm.get_fdata().max() == 0.5


def test_templateflow_of_2_mm_does_where_that_of_1_mm_is_not_whole(tmp_path):
    put_templateflow(tmp_path, resolution="01", but=["label-WM_probseg"])
    put_templateflow(tmp_path, resolution="02", value=9.0)
    template = get_template("X", 2.0, environment={"TEMPLATEFLOW_HOME": str(tmp_path)})
    assert template.t1w.get_fdata().max() == 9.0


@pytest.mark.parametrize("ending", ["T1w", "desc-brain_mask", "label-CSF_probseg"])
@pytest.mark.parametrize("is_empty", [True, False])
def test_template_that_is_not_whole_is_refused_before_the_run(tmp_path, ending, is_empty):
    folder = put_templateflow(tmp_path, but=[ending])
    if is_empty:
        (folder / f"tpl-X_res-01_{ending}.nii.gz").touch()
    with pytest.raises(DataError, match=rf"X: no files.*res-01_{ending}.*--template"):
        require_template("X", environment={"TEMPLATEFLOW_HOME": str(tmp_path)})


def test_files_on_different_grids_are_refused(tmp_path):
    folder = put_templateflow(tmp_path)
    write(folder / "tpl-X_res-01_desc-brain_mask.nii.gz", shape=(9, 8, 8))
    with pytest.raises(DataError, match="grid"):
        get_template("X", 2.0, environment={"TEMPLATEFLOW_HOME": str(tmp_path)})


def test_resolution_out_of_range_is_refused():
    with pytest.raises(SettingsError, match=r"0\.5 to 10"):
        get_template(EMBEDDED_TEMPLATE, 0.1, environment={})


def test_saved_files_hold_the_same_voxels(embedded, tmp_path):
    paths = embedded.save(tmp_path)
    assert set(paths) == {"t1w", "mask", "gm", "wm", "csf"}
    np.testing.assert_array_equal(nib.load(paths["gm"]).get_fdata(), embedded.gm.get_fdata())
