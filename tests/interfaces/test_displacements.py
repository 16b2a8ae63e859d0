"""Displacement fields in ITK's files do what their arrays say."""

import nibabel as nib
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import ndimage

from bids_alsmri.errors import DataError
from bids_alsmri.interfaces.displacements import read_displacement, write_displacement
from bids_alsmri.interfaces.registration import apply_transforms, compose_to_field, write_linear

AFFINE = np.array([[-2.0, 0, 0, 9], [0, 2, 0, -8], [0, 0, 3, -5], [0, 0, 0, 1]])
SHIFT_MM = np.array([1.5, -2.5, 4.0])


@pytest.fixture
def grid(tmp_path):
    path = tmp_path / "grid.nii"
    values = ndimage.gaussian_filter(np.random.default_rng(0).random((12, 11, 10)), 1.0)
    nib.save(nib.Nifti1Image(values.astype(np.float32), AFFINE), path)
    return path


def test_field_of_a_translation_is_the_translation(grid, tmp_path):
    matrix = np.eye(4)
    matrix[:3, 3] = SHIFT_MM
    step = write_linear(matrix, tmp_path / "step.txt")
    field = compose_to_field(grid, [step], tmp_path / "field.nii", n_threads=1)
    displacement_mm, affine = read_displacement(field)
    assert_allclose(displacement_mm, np.broadcast_to(SHIFT_MM, (12, 11, 10, 3)), atol=1e-5)
    assert_allclose(affine, AFFINE, atol=1e-6)


def test_written_field_pulls_as_its_array_says(grid, tmp_path):
    values = np.zeros((12, 11, 10, 3)) + SHIFT_MM
    field = write_displacement(values, AFFINE, tmp_path / "field.nii")
    out = apply_transforms(
        grid, grid, [field], tmp_path / "out.nii", interpolation="Linear", n_threads=1
    )
    image = nib.load(grid).get_fdata()
    sources = np.indices(image.shape) + (SHIFT_MM / [-2.0, 2.0, 3.0])[:, None, None, None]
    expected = ndimage.map_coordinates(image, sources, order=1)
    inner = (slice(3, -3),) * 3
    assert_allclose(nib.load(out).get_fdata()[inner], expected[inner], atol=1e-5)


def test_field_survives_its_file(tmp_path):
    values = np.random.default_rng(1).normal(size=(4, 5, 6, 3)).astype(np.float32)
    found, affine = read_displacement(write_displacement(values, AFFINE, tmp_path / "f.nii"))
    assert_array_equal(found, values)
    assert_array_equal(affine, AFFINE)


def test_image_is_not_taken_for_a_field(grid):
    with pytest.raises(DataError, match=r"has shape \(12, 11, 10\); expected \(X, Y, Z, 1, 3\)"):
        read_displacement(grid)
