from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_allclose, assert_array_equal

from bids_alsmri.errors import DataError, ExitCode, NumericsError, RunError
from bids_alsmri.interfaces.base import (
    check_times,
    concerning,
    largest_series,
    read_image,
    require_keys,
    write_image,
)
from bids_alsmri.interfaces.node import AlsInterface, SeriesSize, needed_gb

AFFINE_MM = np.array([[-2.0, 0, 0, 90.0], [0, 2.0, 0, -126.0], [0, 0, 3.0, -72.0], [0, 0, 0, 1.0]])


def ramp(shape: tuple[int, ...], dtype: str = "int16") -> np.ndarray:
    return np.arange(1, 1 + int(np.prod(shape)), dtype=dtype).reshape(shape)


def stored(path: Path, values: np.ndarray, **header: object) -> Path:
    """Image written by nibabel, with header fields overwritten byte by byte afterwards."""
    image = nib.Nifti1Image(values, AFFINE_MM)
    image.set_qform(AFFINE_MM, 1)
    image.set_sform(AFFINE_MM, 1)
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, path)
    if header:
        fields = nib.Nifti1Header.from_fileobj(path.open("rb"), check=False)
        for name, value in header.items():
            fields[name] = value
        content = bytearray(path.read_bytes())
        content[:348] = fields.binaryblock
        path.write_bytes(bytes(content))
    return path


def refusal(path: Path, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        read_image(path, **{"ndim": 3, **options})
    message = str(caught.value)
    assert str(path) in message
    return message


def test_voxels_and_affine_are_those_of_nibabel(tmp_path):
    path = stored(tmp_path / "a.nii", ramp((4, 5, 6)))
    image = read_image(path, ndim=3)
    assert_array_equal(image.data, nib.load(path).get_fdata())
    assert_array_equal(image.affine, AFFINE_MM)
    assert image.voxel_mm == (2.0, 2.0, 3.0)
    assert image.warnings == ()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_values_have_the_type_asked_for(tmp_path, dtype):
    assert (
        read_image(stored(tmp_path / "a.nii", ramp((2, 2, 2))), ndim=3, dtype=dtype).data.dtype
        == dtype
    )


@pytest.mark.parametrize("shape", [(3, 4, 5), (3, 4, 5, 6)])
def test_slope_and_intercept_apply_once(tmp_path, shape):
    path = stored(tmp_path / "a.nii", ramp(shape), scl_slope=0.25, scl_inter=-7.5)
    data = read_image(path, ndim=len(shape), dtype=np.float64).data
    assert_array_equal(data, ramp(shape) * 0.25 - 7.5)  # exact in binary


@pytest.mark.parametrize("slope", [0.0, np.nan, np.inf])
def test_slope_of_zero_or_nan_means_unscaled(tmp_path, slope):
    path = stored(tmp_path / "a.nii", ramp((3, 4, 5)), scl_slope=slope, scl_inter=3.0)
    assert_array_equal(read_image(path, ndim=3).data, ramp((3, 4, 5)))


def test_unsigned_16_bit_stays_positive(tmp_path):
    values = np.full((3, 3, 3), 65535, dtype=np.uint16)
    assert_array_equal(read_image(stored(tmp_path / "a.nii", values), ndim=3).data, 65535)


@pytest.mark.parametrize(
    ("shape", "ndim", "expected"),
    [
        ((3, 4, 5, 1), 3, (3, 4, 5)),
        ((3, 4, 5, 1, 1), 3, (3, 4, 5)),
        ((3, 4, 5, 1, 6), 4, (3, 4, 5, 6)),
        ((3, 4, 5, 1), None, (3, 4, 5)),
        ((1, 4, 5, 1), 3, (1, 4, 5)),
    ],
)
def test_singleton_axes_are_dropped_with_a_warning(tmp_path, shape, ndim, expected):
    image = read_image(stored(tmp_path / "a.nii", ramp(shape)), ndim=ndim)
    assert image.data.shape == expected
    assert_array_equal(image.data.ravel(), ramp(shape).ravel())
    assert len(image.warnings) == 1
    assert "length 1" in image.warnings[0]


def test_a_series_of_one_volume_is_a_series(tmp_path):
    image = read_image(stored(tmp_path / "a.nii", ramp((3, 4, 5, 1))), ndim=4)
    assert (image.data.shape, image.warnings) == ((3, 4, 5, 1), ())


@pytest.mark.parametrize(
    ("shape", "ndim", "words"),
    [
        ((3, 4, 5), 4, ["one volume", "series of volumes (4D)"]),
        ((3, 4, 5, 6), 3, ["6 volumes", "one volume (3D)"]),
        ((3, 4), 3, ["(3, 4)", "three axes"]),
        ((3, 4, 5, 2, 6), 4, ["12 volumes"]),
    ],
)
def test_wrong_number_of_axes_is_refused(tmp_path, shape, ndim, words):
    message = refusal(stored(tmp_path / "a.nii", ramp(shape)), ndim=ndim)
    assert all(word in message for word in words)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_empty_file_is_refused(tmp_path, name):
    (tmp_path / name).touch()
    message = refusal(tmp_path / name)
    assert "0 bytes" in message
    assert "convert it again" in message


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("kept", [0.02, 0.3, 0.95])
def test_truncated_file_is_refused(tmp_path, name, kept):
    noise = np.random.default_rng(1).integers(1, 3000, (20, 20, 20)).astype(np.int16)
    path = stored(tmp_path / "whole.nii", noise)
    content = path.read_bytes() if name == "a.nii" else gzip.compress(path.read_bytes())
    (tmp_path / name).write_bytes(content[: int(kept * len(content))])
    message = refusal(tmp_path / name)
    assert "cannot be read" in message
    assert "again" in message


def test_file_that_is_no_image_is_refused(tmp_path):
    (tmp_path / "a.nii.gz").write_text("this is a text")
    assert "expected .nii or .nii.gz" in refusal(tmp_path / "a.nii.gz")


def test_folder_named_as_an_image_is_refused(tmp_path):
    (tmp_path / "a.nii.gz").mkdir()
    assert "is a folder; expected a NIfTI image" in refusal(tmp_path / "a.nii.gz")


def test_absent_file_is_missing_input(tmp_path):
    with pytest.raises(DataError, match="does not exist") as caught:
        read_image(tmp_path / "a.nii", ndim=3)
    assert caught.value.exit_code == ExitCode.NO_INPUT


@pytest.mark.parametrize("dtype", [np.complex64, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])])
def test_complex_and_colour_images_are_refused(tmp_path, dtype):
    nib.save(nib.Nifti1Image(np.zeros((3, 3, 3), dtype=dtype), AFFINE_MM), tmp_path / "a.nii")
    assert "expected real numbers" in refusal(tmp_path / "a.nii")


def test_qform_and_sform_that_disagree_warn_and_the_sform_wins(tmp_path):
    image = nib.Nifti1Image(ramp((4, 5, 6)), None)
    flipped = AFFINE_MM @ np.diag([-1.0, 1, 1, 1])
    image.set_qform(flipped, 1)
    image.set_sform(AFFINE_MM, 1)
    image.header.set_xyzt_units("mm")
    nib.save(image, tmp_path / "a.nii")
    read = read_image(tmp_path / "a.nii", ndim=3)
    assert_array_equal(read.affine, AFFINE_MM)
    # The farthest corner, 3 voxels of 2 mm from the origin, moves by twice that: 6 voxels.
    assert any("disagree by up to 6 voxels" in warning for warning in read.warnings)


@pytest.mark.parametrize("angle_deg", [0.0, 7.0, 90.0, 179.0])
def test_rounding_of_quaternions_does_not_warn(tmp_path, angle_deg):
    turn = np.eye(4)
    cosine, sine = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    turn[:2, :2] = [[cosine, -sine], [sine, cosine]]
    image = nib.Nifti1Image(np.ones((200, 200, 100), dtype=np.uint8), None)
    image.set_qform(turn @ AFFINE_MM, 1)
    image.set_sform(turn @ AFFINE_MM, 1)
    image.header.set_xyzt_units("mm")
    nib.save(image, tmp_path / "a.nii")
    assert read_image(tmp_path / "a.nii", ndim=3).warnings == ()


def test_qform_alone_is_used(tmp_path):
    path = stored(tmp_path / "a.nii", ramp((3, 4, 5)), sform_code=0, srow_x=[0, 0, 0, 0])
    # float32 quaternions: 1e-7 relative on 126 mm
    assert_allclose(read_image(path, ndim=3).affine, AFFINE_MM, atol=1e-4)


def test_orientation_that_is_not_set_is_refused(tmp_path):
    message = refusal(stored(tmp_path / "a.nii", ramp((3, 4, 5)), sform_code=0, qform_code=0))
    assert "neither qform nor sform" in message
    assert "left and right" in message


def test_broken_qform_without_sform_is_refused(tmp_path):
    path = stored(tmp_path / "a.nii", ramp((3, 4, 5)), sform_code=0, quatern_b=2.0)
    message = refusal(path)
    assert "the header is broken" in message
    assert "quaternion" in message


def test_broken_qform_beside_a_sform_warns(tmp_path):
    path = stored(tmp_path / "a.nii", ramp((3, 4, 5)), quatern_b=2.0)
    read = read_image(path, ndim=3)
    assert_array_equal(read.affine, AFFINE_MM)
    assert any("the qform is broken" in warning for warning in read.warnings)


def test_broken_intercept_is_refused(tmp_path):
    path = stored(tmp_path / "a.nii", ramp((3, 4, 5)), scl_slope=1.0, scl_inter=np.nan)
    assert "finite intercept" in refusal(path)


@pytest.mark.parametrize(("code", "name", "factor"), [(1, "metres", 1e3), (3, "microns", 1e-3)])
def test_other_units_are_converted_with_a_warning(tmp_path, code, name, factor):
    image = nib.Nifti1Image(ramp((3, 4, 5)), None)
    in_unit = np.diag([1 / factor] * 3 + [1.0]) @ AFFINE_MM
    image.set_qform(in_unit, 1)
    image.set_sform(in_unit, 1)
    image.header["xyzt_units"] = code
    nib.save(image, tmp_path / "a.nii")
    read = read_image(tmp_path / "a.nii", ndim=3)
    assert_allclose(read.affine, AFFINE_MM, rtol=1e-6)  # float32 header
    assert any(name in warning for warning in read.warnings)


@pytest.mark.parametrize(("code", "words"), [(1, "2000 x 2000 x 3000"), (3, "0.002 x 0.002")])
def test_units_that_make_absurd_voxels_are_refused(tmp_path, code, words):
    message = refusal(stored(tmp_path / "a.nii", ramp((3, 4, 5)), xyzt_units=code))
    assert words in message
    assert "xyzt_units" in message


def test_unknown_units_are_taken_as_mm_with_a_warning(tmp_path):
    read = read_image(stored(tmp_path / "a.nii", ramp((3, 4, 5)), xyzt_units=0), ndim=3)
    assert read.voxel_mm == (2.0, 2.0, 3.0)
    assert any("mm assumed" in warning for warning in read.warnings)


@pytest.mark.parametrize("shape", [(384, 384, 1), (384, 384, 1, 2), (768, 768, 3)])
def test_mosaic_left_as_tiles_is_refused(tmp_path, shape):
    path = stored(tmp_path / "a.nii", np.ones(shape, dtype=np.uint8))
    message = refusal(path, ndim=None)
    assert "Siemens mosaic" in message
    assert "dcm2niix" in message


def test_whole_body_image_is_no_mosaic(tmp_path):
    # coronal slices of 500 x 1800 mm
    path = stored(tmp_path / "a.nii", np.ones((250, 900, 3), dtype=np.uint8))
    assert read_image(path, ndim=3).data.shape == (250, 900, 3)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("policy", "left"), [("zero", 0.0), ("keep", None)])
def test_non_finite_voxels_are_counted(tmp_path, bad, policy, left):
    values = np.ones((3, 4, 5), dtype=np.float32)
    values[1, 1, :2] = bad
    path = stored(tmp_path / "a.nii", values)
    assert "2 of 60 voxels are NaN or infinite" in refusal(path)
    read = read_image(path, ndim=3, nonfinite=policy)
    assert any("2 of 60" in warning for warning in read.warnings)
    assert_array_equal(read.data[1, 1, 0], bad if left is None else left)
    assert_array_equal(read.data[0], 1.0)


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_image_without_any_value_is_refused(tmp_path, value):
    path = stored(tmp_path / "a.nii", np.full((3, 4, 5), value, dtype=np.float32))
    assert "60 voxels are" in refusal(path, nonfinite="zero")


def test_reading_does_not_alter_the_file(tmp_path):
    values = np.ones((3, 4, 5), dtype=np.float32)
    values[0] = np.nan
    path = stored(tmp_path / "a.nii", values)
    before = path.read_bytes()
    read_image(path, ndim=3, nonfinite="zero").data[...] = 5.0
    assert path.read_bytes() == before


def affine_case(tmp_path: Path, affine: np.ndarray) -> Path:
    return stored(
        tmp_path / "a.nii",
        ramp((3, 4, 5)),
        qform_code=0,
        srow_x=affine[0],
        srow_y=affine[1],
        srow_z=affine[2],
    )


def test_sheared_affine_is_refused(tmp_path):
    shear = np.eye(4)
    shear[0, 1] = 0.02  # 1.15 degrees
    message = refusal(affine_case(tmp_path, shear))
    assert "1.15 deg off a right angle" in message
    assert "resample" in message


@pytest.mark.parametrize("column", [[0, 0, 0], [1, 0, 0]])
def test_affine_that_cannot_be_inverted_is_refused(tmp_path, column):
    affine = np.eye(4)
    affine[:3, 1] = column
    assert "cannot be inverted" in refusal(affine_case(tmp_path, affine))


def test_affine_with_nan_is_refused(tmp_path):
    affine = np.eye(4)
    affine[0, 3] = np.nan
    assert "NaN" in refusal(affine_case(tmp_path, affine))


@given(
    values=hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=3, max_dims=4, min_side=2, max_side=4),
        elements=st.floats(-1e6, 1e6, width=32),
    ),
    name=st.sampled_from(["a.nii", "a.nii.gz"]),
)
@settings(max_examples=30)
def test_written_values_come_back_bit_for_bit(tmp_path_factory, values, name):
    values.flat[0] = 1.0  # an image of zeros is refused
    path = tmp_path_factory.mktemp("round") / name
    write_image(values, AFFINE_MM, path)
    read = read_image(path, ndim=values.ndim)
    assert_array_equal(read.data, values)
    assert_array_equal(read.affine, AFFINE_MM)
    assert read.warnings == ()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([True, False]), np.uint8),
        (np.array([0, 255]), np.uint8),
        (np.array([0, 256]), np.int16),
        (np.array([-1, 3]), np.int16),
        (np.array([0.5, 1.5]), np.float32),
    ],
)
def test_stored_type_is_the_smallest_due(tmp_path, values, expected):
    write_image(values.reshape(2, 1, 1), AFFINE_MM, tmp_path / "a.nii")
    image = nib.load(tmp_path / "a.nii")
    assert image.get_data_dtype() == expected
    assert_array_equal(image.get_fdata().ravel(), values)


@pytest.mark.parametrize(("space", "code"), [("scanner", 1), ("aligned", 2), ("mni152", 4)])
def test_written_header_is_complete(tmp_path, space, code):
    write_image(np.ones((3, 4, 5, 2)), AFFINE_MM, tmp_path / "a.nii.gz", space=space)
    header = nib.load(tmp_path / "a.nii.gz").header
    assert (int(header["qform_code"]), int(header["sform_code"])) == (code, code)
    assert header.get_xyzt_units() == ("mm", "sec")
    assert_allclose(header.get_qform(), header.get_sform(), atol=1e-4)  # float32 quaternions


def test_equal_voxels_give_equal_bytes_at_any_time_and_name(tmp_path, monkeypatch):
    write_image(ramp((3, 4, 5), "f8"), AFFINE_MM, tmp_path / "a.nii.gz")
    monkeypatch.setattr("time.time", lambda: 2e9)
    write_image(ramp((3, 4, 5), "f8"), AFFINE_MM, tmp_path / "b.nii.gz")
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.array([0, 40000]), "0 to 40000"),
        (np.array([0, 1e300]), "float32"),
        (np.array([1j, 1]), "real numbers"),
    ],
)
def test_values_that_cannot_be_stored_are_refused(tmp_path, values, words):
    with pytest.raises(NumericsError, match=words):
        write_image(values.reshape(2, 1, 1), AFFINE_MM, tmp_path / "a.nii")


def test_sheared_affine_is_not_written(tmp_path):
    shear = np.eye(4)
    shear[0, 1] = 0.02
    with pytest.raises(DataError, match="right angle"):
        write_image(np.ones((2, 2, 2)), shear, tmp_path / "a.nii")


def test_full_disk_says_so_with_its_exit_code():
    with pytest.raises(RunError, match=r"No space left.*free space") as caught:
        write_image(np.ones((60, 60, 60)), AFFINE_MM, Path("/dev/full"))
    assert caught.value.exit_code == ExitCode.CANNOT_WRITE


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("EchoTime", 68, "write 0.068"),
        ("EchoTime", [0.002, 4.9], "write 0.0049"),
        ("EchoTime", "68 ms", "expected a number in s"),
        ("EchoTime", 0, "more than 0"),
        ("EchoTime", True, "expected a number"),
        ("RepetitionTime", 3516, "write 3.516"),
        ("RepetitionTimeExcitation", 120.0, "write 0.12"),
        ("TotalReadoutTime", 49.5, "milliseconds"),
        ("SliceTiming", [0.0, 1757.5], "write 1.7575"),
    ],
)
def test_time_that_is_not_in_seconds_is_refused(key, value, words):
    path = Path("sub-01_dwi.nii.gz")
    with pytest.raises(DataError, match=words) as caught:
        check_times({key: value}, path)
    assert f"sub-01_dwi.nii.gz: {key} is" in str(caught.value)


@pytest.mark.parametrize(
    "metadata",
    [
        {"EchoTime": 0.0003, "RepetitionTime": 15.0},
        {"RepetitionTimeExcitation": 0.12, "SliceTiming": [0, 1.7]},
        {"SliceTiming": [-0.0005, 0.0, 1.7]},  # dcm2niix rounds so on some scanners
        {"EchoTime": None},
        {},
    ],
)
def test_times_of_real_protocols_pass(metadata):
    check_times(metadata, Path("a.nii.gz"))


def test_missing_sidecar_keys_are_all_named():
    with pytest.raises(DataError, match=r"lacks FlipAngle \(deg\), EchoTime \(s\); add it"):
        require_keys({"EchoTime": None}, {"FlipAngle": "deg", "EchoTime": "s"}, Path("a.nii"))


def test_error_of_an_array_function_gets_the_file():
    with pytest.raises(NumericsError) as caught, concerning(Path("sub-01_dwi.nii.gz")):
        raise NumericsError("signal is negative")
    assert caught.value.__notes__ == ["(in sub-01_dwi.nii.gz)"]


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "ndim", "shape"),
    [
        ("bids_brain/sub-01/anat/sub-01_T1w.nii.gz", 3, (96, 128, 128)),
        ("bids_brain/sub-01/dwi/sub-01_dir-AP_dwi.nii.gz", 4, (72, 72, 39, 21)),
        ("legs/calves.nii.gz", 3, (320, 320, 31)),
    ],
)
def test_real_images_are_read_without_doubt(test_data, name, ndim, shape):
    read = read_image(test_data / name, ndim=ndim)
    assert read.data.shape == shape
    assert_array_equal(read.data, nib.load(test_data / name).get_fdata(dtype=np.float32))


def test_largest_series_counts_the_runs_of_an_input_together(tmp_path):
    for name, shape in {"a": (4, 5, 6, 7), "b": (4, 5, 6, 3), "t1w": (10, 10, 10)}.items():
        affine = np.diag([2.0, 2.0, 3.0, 1.0])
        nib.save(nib.Nifti1Image(np.zeros(shape, np.int16), affine), tmp_path / f"{name}.nii.gz")
    (tmp_path / "a.bval").write_text("0")
    runs = [tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"]
    found = largest_series([[tmp_path / "t1w.nii.gz"], runs, [tmp_path / "a.bval"]])
    assert found == SeriesSize(n_voxels=120, n_volumes=10, voxel_mm=(2.0, 2.0, 3.0))
    assert found.gb == pytest.approx(4 * 1200 / 1e9)  # four bytes each
    assert found.n_voxels_at(1.0) == pytest.approx(120 * 12)
    assert found.n_voxels_at(0.0) == pytest.approx(120 * 1.5)


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_series_that_cannot_be_read_has_no_size(tmp_path, content):
    path = tmp_path / "dwi.nii.gz"
    if content is not None:
        path.write_bytes(content)
    assert largest_series([[path]]).gb == 0


def test_memory_of_a_node_grows_with_the_series():
    class Heavy(AlsInterface):
        memory_gb = 0.25
        memory_per_series = 3.0

    size = SeriesSize(n_voxels=10**6, n_volumes=100, voxel_mm=(2.0, 2.0, 2.0))
    assert needed_gb(Heavy(), series=size) == pytest.approx(0.25 + 3.0 * 0.4)


def test_memory_of_a_node_grows_with_the_image_that_it_builds_on():
    class Heavy(AlsInterface):
        memory_gb = 0.25
        memory_per_anatomy = 3.0

    size = SeriesSize(n_voxels=10**7, n_volumes=1, voxel_mm=(1.0, 1.0, 1.0))
    assert needed_gb(Heavy(), series=size) == pytest.approx(0.25)
    assert needed_gb(Heavy(), series=size, anatomy=size) == pytest.approx(0.25 + 3.0 * 0.04)
