"""Unringing against dipy, a truncated k-space of known truth, and invariances."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import ndimage

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.unringing import remove_ringing

# The shifted rows are sums of up to 40 products here, so they differ from dipy's transforms by some
# 1e-15 of the largest value; the interpolation divides by at least 0.02 voxels.
ROUNDING = 1e-12
FINE = 16  # points of the truth per voxel


def _sharp(n_voxels: tuple[int, int], shape: str) -> tuple[np.ndarray, np.ndarray]:
    """Magnitude image of a truncated k-space, and the truth at the voxels."""
    x, y = np.meshgrid(*(np.arange(n * FINE) / FINE for n in n_voxels), indexing="ij")
    a, b = n_voxels[0] * 0.47, n_voxels[1] * 0.52  # off the middle, so that no row is its mirror
    if shape == "disc":
        inside = np.hypot(x - a, y - b) < 0.31 * min(n_voxels)
    else:
        inside = (abs(x - a) < 0.23 * n_voxels[0]) & (abs(y - b) < 0.27 * n_voxels[1])
    truth = np.where(inside, 1000.0, 200.0)
    spectrum = np.fft.fftshift(np.fft.fft2(truth))
    kept = tuple(slice(n * FINE // 2 - n // 2, n * FINE // 2 - n // 2 + n) for n in n_voxels)
    image = np.abs(np.fft.ifft2(np.fft.ifftshift(spectrum[kept]))) / FINE**2
    return image, truth[::FINE, ::FINE]


def _smooth_noise(shape: tuple[int, ...], seed: int = 3) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=shape)
    smoothed = ndimage.gaussian_filter(noise, [0.7] * 3 + [0.0] * (len(shape) - 3))
    return 500.0 + 100.0 * smoothed / smoothed.std()


def _series(shape: tuple[int, ...], slice_axis: int) -> np.ndarray:
    # ringing anatomy, noise and a background at 0
    n_voxels = tuple(n for axis, n in enumerate(shape[:3]) if axis != slice_axis)
    disc, _ = _sharp(n_voxels, "disc")
    disc = np.expand_dims(disc, slice_axis)
    data = _smooth_noise(shape) + (disc[..., np.newaxis] if len(shape) == 4 else disc)
    data[:2] = 0.0
    return data


def _dipy(data: np.ndarray, slice_axis: int, n_points: int) -> np.ndarray:
    from dipy.denoise.gibbs import gibbs_removal

    return gibbs_removal(data, slice_axis=slice_axis, n_points=n_points, inplace=False)


@pytest.fixture(scope="module", autouse=True)
def compiled():
    """Compile the kernels outside of the time of a test."""
    remove_ringing(np.ones((4, 5, 2)), slice_axis=2, n_points=1, threads=1)


@pytest.mark.parametrize("slice_axis", [0, 1, 2])
@pytest.mark.parametrize(
    ("shape", "n_points"), [((22, 25, 17), 3), ((15, 18, 12), 1), ((14, 13, 19), 6)]
)
def test_equals_dipy(shape, n_points, slice_axis):
    data = _series(shape, slice_axis)
    expected = _dipy(data, slice_axis, n_points)
    cleaned = remove_ringing(data, slice_axis=slice_axis, n_points=n_points, threads=1)
    assert_allclose(cleaned, expected, rtol=0, atol=ROUNDING * data.max())


def test_series_of_many_volumes_equals_dipy():
    data = _series((16, 15, 1, 18), 2)
    expected = _dipy(data, 2, 3)
    cleaned = remove_ringing(data, slice_axis=2, n_points=3, threads=1)
    assert_allclose(cleaned, expected, rtol=0, atol=ROUNDING * data.max())


def test_negative_values_are_treated_as_by_dipy():
    data = _smooth_noise((20, 23, 3)) - 500.0
    cleaned = remove_ringing(data, slice_axis=2, n_points=3, threads=1)
    assert_allclose(cleaned, _dipy(data, 2, 3), rtol=0, atol=ROUNDING * data.max())


@pytest.mark.parametrize("n_voxels", [(64, 64), (63, 66)])
@pytest.mark.parametrize(("shape", "factor"), [("box", 10.0), ("disc", 5.0)])
def test_ringing_of_a_truncated_k_space_falls(shape, factor, n_voxels):
    image, truth = _sharp(n_voxels, shape)
    cleaned = remove_ringing(image[..., None], slice_axis=2, n_points=3, threads=1)[..., 0]
    # Straight edges along the axes are what the method is made for; oblique ones ring along both.
    # At the edge itself the truncation blurs, which no unringing undoes.
    edge = ndimage.morphological_gradient(truth, size=3) > 0
    distance = ndimage.distance_transform_edt(~edge)
    ringing = (distance >= 1.5) & (distance < 8)

    def error(values):
        return np.sqrt(np.mean((values - truth)[ringing] ** 2))

    assert error(cleaned) < error(image) / factor


def test_constant_image_stays_as_it_is():
    data = np.full((21, 3, 24, 2), 123.456)
    assert_array_equal(remove_ringing(data, slice_axis=1, n_points=3, threads=1), data)


@pytest.mark.parametrize("gain", [2.0**-20, 2.0**30])
def test_result_scales_with_the_receiver_gain(gain):
    data = _series((22, 25, 4), 2)
    cleaned = remove_ringing(data, slice_axis=2, n_points=3, threads=1)
    # a power of two changes no rounding
    assert_array_equal(
        remove_ringing(gain * data, slice_axis=2, n_points=3, threads=1), gain * cleaned
    )


def test_flipped_image_gives_the_flipped_result():
    # odd sizes: for even ones the weights of the method itself lie half a step beside the middle
    data = _series((21, 25, 3), 2)
    cleaned = remove_ringing(data, slice_axis=2, n_points=3, threads=1)
    flipped = remove_ringing(data[::-1, ::-1], slice_axis=2, n_points=3, threads=1)
    assert_allclose(flipped[::-1, ::-1], cleaned, rtol=0, atol=ROUNDING * data.max())


def test_turned_slice_gives_the_turned_result():
    data = _series((21, 24, 3), 2)
    cleaned = remove_ringing(data, slice_axis=2, n_points=3, threads=1)
    turned = remove_ringing(data.swapaxes(0, 1), slice_axis=2, n_points=3, threads=1)
    assert_allclose(turned.swapaxes(0, 1), cleaned, rtol=0, atol=ROUNDING * data.max())


def test_threads_do_not_change_a_bit():
    data = _series((22, 25, 7, 19), 2).astype(np.float32)
    one, three = (
        remove_ringing(data, slice_axis=2, n_points=3, threads=threads) for threads in (1, 3)
    )
    assert_array_equal(one, three)


def test_single_precision_is_computed_in_double():
    data = _series((22, 25, 4), 2).astype(np.float32)
    single = remove_ringing(data, slice_axis=2, n_points=3, threads=1)
    double = remove_ringing(data.astype(np.float64), slice_axis=2, n_points=3, threads=1)
    assert_array_equal(single, double.astype(np.float32))


def test_input_is_left_alone():
    data = _series((22, 25, 4), 2)
    before = data.copy()
    remove_ringing(data, slice_axis=2, n_points=3, threads=2)
    assert_array_equal(data, before)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"data": np.ones((8, 8))}, r"data has 2 axes \(shape \(8, 8\)\); give 3 or 4"),
        ({"data": np.full((8, 8, 2), np.nan)}, "data holds 128 NaN or infinite values"),
        ({"slice_axis": 3}, "slice_axis is 3; it must lie from 0 to 2"),
        ({"slice_axis": -1}, "slice_axis is -1; it must lie from 0 to 2"),
        ({"n_points": 0}, "n_points is 0 and a slice has 8 x 9 voxels; give at least 1"),
        ({"n_points": 8}, "n_points is 8 and a slice has 8 x 9 voxels; give at least 1"),
        ({"threads": 0}, "threads is 0; it must lie from 1"),
    ],
)
def test_refuses(changed, message):
    arguments = {"data": np.ones((8, 9, 2)), "slice_axis": 2, "n_points": 3, "threads": 1}
    arguments |= changed
    with pytest.raises(NumericsError, match=message):
        remove_ringing(arguments.pop("data"), **arguments)
