"""Local PCA against dipy, a plain-NumPy twin, known truth and invariances."""

from __future__ import annotations

import shutil
import subprocess
import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.denoising import (
    DenoisedSeries,
    denoise_local_pca,
    denoise_mppca,
    estimate_noise_sigma,
    smallest_patch_radius,
)

SIGMA = 20.0
# Two ways to sum and to solve the same eigenproblem differ by rounding (2e-16) times the ratio of
# the largest eigenvalue to the gap at the threshold (up to 1e4 here), relative to the signal
ROUNDING = 1e-10


def _truth(shape: tuple[int, ...], n_volumes: int, rank: int, seed: int = 1) -> np.ndarray:
    # smooth in space, `rank` dimensions over volumes, around 500
    rng = np.random.default_rng(seed)
    phase = rng.uniform(0, 2 * np.pi, size=(rank, 3))
    pitch = rng.uniform(0.1, 0.5, size=(rank, 3))
    grid = np.indices(shape)
    fields = np.array(
        [
            np.prod(
                [np.cos(p * g + f) for p, g, f in zip(pitch[k], grid, phase[k], strict=True)], 0
            )
            for k in range(rank)
        ]
    )
    return 500.0 + np.einsum("kxyz,kn->xyzn", fields, rng.normal(0, 60, (rank, n_volumes)))


def _noisy(shape: tuple[int, ...], n_volumes: int, rank: int = 3, seed: int = 1) -> np.ndarray:
    truth = _truth(shape, n_volumes, rank, seed)
    return truth + np.random.default_rng(seed + 1).normal(0, SIGMA, truth.shape)


def _ball(shape: tuple[int, ...], share: float = 0.9) -> np.ndarray:
    centre = (np.array(shape)[:, None, None, None] - 1) / 2
    return np.sum(((np.indices(shape) - centre) / (centre + 0.5)) ** 2, axis=0) < share


def _mppca(dwi: np.ndarray, mask: np.ndarray, **changed: object) -> DenoisedSeries:
    settings = {"patch_radius": 2, "stride": 1, "reconstruct": "average", "n_threads": 1}
    return denoise_mppca(dwi, mask, **{**settings, **changed})


def _local(dwi: np.ndarray, mask: np.ndarray, **changed: object) -> DenoisedSeries:
    settings = {
        "noise_sigma": SIGMA,
        "patch_radius": 2,
        "tau_factor": 2.3,
        "stride": 1,
        "reconstruct": "average",
        "n_threads": 1,
    }
    return denoise_local_pca(dwi, mask, **{**settings, **changed})


@pytest.fixture(scope="module", autouse=True)
def compiled():
    """Compile the kernels outside of the time of a test."""
    dwi = _noisy((5, 5, 5), 6)
    for dtype in (np.float32, np.float64):
        _mppca(dwi.astype(dtype), np.ones((5, 5, 5), bool))


def _dipy_mppca(dwi: np.ndarray, mask: np.ndarray, radius: object = 2) -> tuple[np.ndarray, ...]:
    from dipy.denoise.localpca import mppca

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # 0 / 0 where dipy has no patch
        return mppca(dwi, mask=mask, patch_radius=radius, return_sigma=True)


def _twin_patch(
    voxels: np.ndarray, sigma: float | None, tau_factor: float | None
) -> tuple[np.ndarray, float, int]:
    # the definition, by singular values of the patch itself rather than by its Gram matrix
    n_voxels, n_volumes = voxels.shape
    mean = voxels.mean(axis=0)
    u, s, vt = np.linalg.svd(voxels - mean, full_matrices=False)
    spectrum = s[::-1] ** 2 / n_voxels
    variance = sigma**2 if sigma is not None else spectrum[0]
    if sigma is None:
        for c in range(n_volumes, 1, -1):
            width = 4 * np.sqrt(c / n_voxels) * spectrum[:c].mean()
            if spectrum[c - 1] - spectrum[0] <= width:
                variance = spectrum[:c].mean()
                break
    factor = 1 + np.sqrt(n_volumes / n_voxels) if tau_factor is None else tau_factor
    rank = int(np.sum(spectrum >= factor**2 * variance))
    return (u[:, :rank] * s[:rank]) @ vt[:rank] + mean, variance, rank


def _twin(
    dwi: np.ndarray, mask: np.ndarray, sigma: float | None, tau_factor: float | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    total, over = np.zeros_like(dwi), np.zeros(mask.shape)
    variances, ranks = np.zeros((2, *mask.shape))
    for x, y, z in np.argwhere(mask):
        if min(x, y, z) < 2 or np.any(np.array([x, y, z]) + 2 >= mask.shape):
            continue
        box = (slice(x - 2, x + 3), slice(y - 2, y + 3), slice(z - 2, z + 3))
        voxels = dwi[box].reshape(125, -1)
        estimate, variance, rank = _twin_patch(voxels, sigma, tau_factor)
        weight = 1 / (1 + rank)
        total[box] += weight * estimate.reshape(5, 5, 5, -1)
        over[box] += weight
        variances[box] += weight * variance
        ranks[box] += weight * rank
    with np.errstate(invalid="ignore"):
        return total / over[..., None], np.sqrt(variances / over), ranks / over


@pytest.mark.parametrize("n_volumes", [6, 21])
@pytest.mark.parametrize("known", [False, True])
def test_kernel_is_its_numpy_twin(n_volumes, known):
    dwi = _noisy((9, 8, 7), n_volumes)
    mask = _ball((9, 8, 7))
    own = _local(dwi, mask) if known else _mppca(dwi, mask)
    signal, sigma, rank = _twin(dwi, mask, *((SIGMA, 2.3) if known else (None, None)))
    assert np.isfinite(signal[mask]).all()
    assert_allclose(own.signal[mask], signal[mask], rtol=ROUNDING)
    assert_allclose(own.noise_sigma[mask], sigma[mask], rtol=1e-6)  # maps are float32
    assert_allclose(own.n_components[mask], rank[mask], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", [(10, 9, 8), (12, 11, 1)])
@pytest.mark.parametrize("masked", [False, True])
def test_mppca_equals_dipy_up_to_the_border(shape, masked):
    dwi = _noisy(shape, 13)
    mask = _ball(shape) if masked else np.ones(shape, bool)
    signal, sigma = _dipy_mppca(dwi, mask)
    reached = mask & np.isfinite(signal[..., 0])
    assert np.count_nonzero(reached) > 0.9 * np.count_nonzero(mask)
    own = _mppca(dwi, mask)
    assert_allclose(own.signal[reached], signal[reached], rtol=ROUNDING)
    assert_allclose(own.noise_sigma[reached], sigma[reached], rtol=1e-6)  # maps are float32
    assert_array_equal(own.signal[~mask], 0.0)


def test_mppca_equals_dipy_with_a_radius_for_each_axis():
    dwi = _noisy((9, 9, 9), 10)
    mask = np.ones((9, 9, 9), bool)
    signal, _ = _dipy_mppca(dwi, mask, radius=np.array([1, 2, 3]))
    own = _mppca(dwi, mask, patch_radius=(1, 2, 3))
    assert_allclose(own.signal, signal, rtol=ROUNDING)


@pytest.mark.parametrize("tau_factor", [2.3, 0.5, None])
@pytest.mark.parametrize("n_volumes", [7, 21, 65])
def test_local_pca_equals_dipy(tau_factor, n_volumes):
    from dipy.denoise.localpca import localpca

    dwi = _noisy((8, 8, 8), n_volumes)
    mask = _ball((8, 8, 8))
    sigma = SIGMA * (0.8 + 0.4 * np.random.default_rng(5).random((8, 8, 8)))
    with np.errstate(all="ignore"):
        signal = localpca(dwi, sigma=sigma, mask=mask, tau_factor=tau_factor)
    reached = mask & np.isfinite(signal[..., 0])
    own = _local(dwi, mask, noise_sigma=sigma, tau_factor=tau_factor)
    assert_allclose(own.signal[reached], signal[reached], rtol=ROUNDING)


def test_float32_series_differs_by_its_own_precision_only():
    dwi = _noisy((8, 8, 8), 21).astype(np.float32)
    mask = np.ones((8, 8, 8), bool)
    single, double = _mppca(dwi, mask), _mppca(dwi.astype(np.float64), mask)
    assert single.signal.dtype == np.float32
    assert_allclose(single.signal, double.signal, rtol=2e-7)  # spacing of float32


@pytest.mark.data
@pytest.mark.slow
def test_mppca_equals_dipy_on_a_real_brain_with_zeroed_background(test_data):
    import nibabel as nib

    path = test_data / "bids_brain" / "sub-01" / "dwi" / "sub-01_dir-AP_dwi.nii.gz"
    dwi = nib.load(path).get_fdata()[24:44, 24:44, 14:24]
    mask = dwi[..., 0] > 300.0
    signal, sigma = _dipy_mppca(dwi, mask)
    reached = mask & np.isfinite(signal[..., 0])
    own = _mppca(dwi, mask)
    assert_allclose(own.signal[reached], signal[reached], rtol=0, atol=ROUNDING * dwi.max())
    assert_allclose(own.noise_sigma[reached], sigma[reached], rtol=1e-6)


@pytest.mark.parametrize("reconstruct", ["average", "centre"])
def test_noise_free_low_rank_signal_comes_back(reconstruct):
    truth = _truth((9, 9, 9), 20, rank=3)
    mask = np.ones((9, 9, 9), bool)
    own = _local(truth, mask, noise_sigma=1e-3, reconstruct=reconstruct)
    # what is removed lies below tau * sigma = 2.3e-3 in every direction
    assert_allclose(own.signal, truth, rtol=0, atol=1e-7)
    assert own.n_components.max() <= 3.0


@pytest.mark.parametrize(
    ("settings", "bound"),
    # error left in a patch of rank k: sigma sqrt((k + 1) / N + k / n) = 0.47 for k = 3, N = 20;
    # averaging only lowers it, and a border voxel has fewer patches to average
    [({"stride": 1}, 0.47), ({"stride": 2}, 0.47), ({"reconstruct": "centre"}, 0.52)],
)
def test_denoising_comes_close_to_the_truth(settings, bound):
    truth = _truth((14, 14, 12), 20, rank=3)
    noisy = truth + np.random.default_rng(3).normal(0, SIGMA, truth.shape)
    own = _mppca(noisy, np.ones((14, 14, 12), bool), **settings)
    assert np.sqrt(np.mean((own.signal - truth) ** 2)) < bound * SIGMA


def test_sparser_grid_changes_less_than_the_uncertainty_that_remains():
    truth = _truth((16, 16, 14), 30, rank=4)
    noisy = truth + np.random.default_rng(3).normal(0, SIGMA, truth.shape)
    mask = _ball((16, 16, 14))
    every, second = _mppca(noisy, mask), _mppca(noisy, mask, stride=2)
    change = np.sqrt(np.mean((second.signal - every.signal)[mask] ** 2))
    remaining = np.sqrt(np.mean((every.signal - truth)[mask] ** 2))
    assert remaining < 0.5 * SIGMA
    assert change < 0.5 * remaining


@pytest.mark.parametrize("n_volumes", [10, 40])
def test_noise_of_pure_noise_is_found(n_volumes):
    shape = (16, 16, 16)
    noise = 1000.0 + np.random.default_rng(4).normal(0, SIGMA, (*shape, n_volumes))
    own = _mppca(noise, np.ones(shape, bool), stride=2)
    # the patch mean takes one of 125 degrees of freedom (-0.4 %), the largest eigenvalues
    # sometimes pass for signal (up to -1.5 %); the mean of 40,000 samples adds 0.4 %
    assert_allclose(own.noise_sigma.mean(), SIGMA, rtol=0.02)


def test_noise_map_follows_noise_that_varies_in_space():
    shape = (20, 12, 12)
    ramp = np.linspace(10.0, 30.0, 20)[:, None, None, None]
    noise = 1000.0 + ramp * np.random.default_rng(4).normal(size=(*shape, 30))
    own = _mppca(noise, np.ones(shape, bool), stride=2)
    found = own.noise_sigma.mean(axis=(1, 2))
    # away from the ends a patch sees the ramp evenly; 5 % for the spread of noise within it
    assert_allclose(found[4:-4], ramp[4:-4, 0, 0, 0], rtol=0.05)


@pytest.mark.parametrize("scale", [1e-6, 1e5])
def test_result_scales_with_the_unit_of_the_signal(scale):
    dwi, mask = _noisy((8, 8, 8), 12), np.ones((8, 8, 8), bool)
    own, scaled = _mppca(dwi, mask), _mppca(scale * dwi, mask)
    assert_allclose(scaled.signal, scale * own.signal, rtol=ROUNDING)
    assert_allclose(scaled.noise_sigma, scale * own.noise_sigma, rtol=1e-6)  # float32


@pytest.mark.parametrize("settings", [{"stride": 1}, {"reconstruct": "centre"}])
@pytest.mark.parametrize("order", [(2, 0, 1), (1, 0, 2)])
def test_result_follows_a_permutation_of_axes(settings, order):
    dwi, mask = _noisy((9, 8, 7), 12), _ball((9, 8, 7))
    own = _mppca(dwi, mask, **settings)
    turned = _mppca(dwi.transpose(*order, 3), mask.transpose(order), **settings)
    assert_allclose(turned.signal, own.signal.transpose(*order, 3), rtol=ROUNDING)
    assert_allclose(turned.n_components, own.n_components.transpose(order), rtol=1e-6)


def test_result_follows_a_flip_of_axes():
    dwi, mask = _noisy((9, 8, 7), 12), _ball((9, 8, 7))
    flipped = _mppca(dwi[::-1, :, ::-1], mask[::-1, :, ::-1])
    assert_allclose(flipped.signal[::-1, :, ::-1], _mppca(dwi, mask).signal, rtol=ROUNDING)


def test_result_follows_the_order_of_volumes():
    dwi, mask = _noisy((8, 8, 8), 15), np.ones((8, 8, 8), bool)
    order = np.random.default_rng(0).permutation(15)
    shuffled = _mppca(dwi[..., order], mask)
    assert_allclose(shuffled.signal, _mppca(dwi, mask).signal[..., order], rtol=ROUNDING)


@pytest.mark.parametrize("settings", [{"stride": 1}, {"stride": 2}, {"reconstruct": "centre"}])
def test_result_is_the_same_bits_for_any_number_of_threads(settings):
    dwi, mask = _noisy((23, 8, 8), 12), _ball((23, 8, 8), share=1.5)
    one = _mppca(dwi, mask, **settings)
    for n_threads in (2, 5):
        many = _mppca(dwi, mask, n_threads=n_threads, **settings)
        assert_array_equal(many.signal, one.signal)
        assert_array_equal(many.noise_sigma, one.noise_sigma)


@pytest.mark.parametrize("stride", [1, 2, 3, 5])
def test_every_voxel_of_the_mask_is_denoised(stride):
    dwi = _noisy((11, 13, 9), 12)
    mask = _ball((11, 13, 9))
    mask[0, 0, 0] = mask[10, 12, 8] = mask[5, 12, 0] = True  # no centred patch reaches these
    own = _mppca(dwi, mask, stride=stride)
    assert np.isfinite(own.signal).all()
    assert (own.signal[mask] > 0).all()
    assert (own.noise_sigma[mask] > 0).all()
    assert_array_equal(own.signal[~mask], 0.0)


def test_centre_variant_takes_each_voxel_from_the_patch_around_it():
    dwi, mask = _noisy((8, 8, 8), 12), np.ones((8, 8, 8), bool)
    own = _mppca(dwi, mask, reconstruct="centre")
    inner, _, rank = _twin_patch(dwi[1:6, 2:7, 3:8].reshape(125, 12), None, None)
    assert_allclose(own.signal[3, 4, 5], inner[62], rtol=ROUNDING)
    assert own.n_components[3, 4, 5] == rank
    # at the border the patch is moved inwards
    corner, _, _ = _twin_patch(dwi[:5, 3:8, :5].reshape(125, 12), None, None)
    assert_allclose(
        own.signal[0, 7, 1], corner[np.ravel_multi_index((0, 4, 1), (5, 5, 5))], rtol=ROUNDING
    )


def test_constant_and_zero_patches_are_left_as_they_are():
    dwi = np.zeros((12, 7, 7, 8))
    dwi[6:] = 300.0
    own = _mppca(dwi, np.ones((12, 7, 7), bool))
    assert_allclose(own.signal, dwi, rtol=0, atol=1e-10)


def test_voxels_outside_mask_matter_only_through_patches():
    dwi, mask = _noisy((15, 7, 7), 10), np.zeros((15, 7, 7), bool)
    mask[2:5] = True
    changed = dwi.copy()
    changed[7:] *= 3.0  # beyond 4 + 2
    assert_array_equal(_mppca(changed, mask).signal, _mppca(dwi, mask).signal)


def _rician(snr: float, n_volumes: int, shape: tuple[int, int, int]) -> np.ndarray:
    rng = np.random.default_rng(8)
    volumes = rng.uniform(0.6, 1.0, n_volumes)
    truth = snr * SIGMA * volumes * (1 + 0.2 * np.sin(np.arange(shape[0]) / 4))[:, None, None, None]
    truth = np.broadcast_to(truth, (*shape, n_volumes))
    real, imaginary = rng.normal(0, SIGMA, (2, *truth.shape))
    return np.hypot(truth + real, imaginary)


@pytest.mark.parametrize("snr", [4.0, 10.0, 200.0])
@pytest.mark.parametrize("n_b0", [1, 3])
def test_noise_estimate_is_unbiased_next_to_a_zeroed_background(snr, n_b0):
    dwi = _rician(snr, 20, (36, 36, 18))
    mask = np.zeros((36, 36, 18), bool)
    mask[5:-5, 5:-5, 4:-4] = True
    dwi[~mask] = 0.0
    b0_mask = np.arange(20) < n_b0
    sigma = estimate_noise_sigma(dwi, mask, b0_mask=b0_mask, patch_radius=1, smoothing_voxels=2.0)
    inner = np.zeros_like(mask)
    inner[9:-9, 9:-9, 7:-7] = True
    # the Rician share is taken at the smoothed mean of volumes of different SNR: 4 %
    assert_allclose(sigma[inner].mean(), SIGMA, rtol=0.04)
    assert_allclose(sigma[mask & ~inner].mean(), SIGMA, rtol=0.04)
    assert_array_equal(sigma[~mask], 0.0)


def test_noise_estimate_scales_with_the_unit_of_the_signal():
    dwi, mask = _rician(10.0, 12, (16, 16, 16)), np.ones((16, 16, 16), bool)
    settings = {"b0_mask": np.arange(12) < 1, "patch_radius": 1, "smoothing_voxels": 2.0}
    once = estimate_noise_sigma(dwi, mask, **settings)
    assert_allclose(estimate_noise_sigma(1e3 * dwi, mask, **settings), 1e3 * once, rtol=1e-5)


def _tubes(shape: tuple[int, int, int], moved_voxels: float) -> np.ndarray:
    x, y, z = np.indices(shape)
    waves = np.sin((x - moved_voxels) * 1.3) + np.sin(y * 1.1) + np.sin((z + moved_voxels) * 0.9)
    return 200.0 * (1 + 0.25 * waves)


@pytest.mark.parametrize("n_b0", [2, 3])
def test_noise_estimate_does_not_count_motion_between_the_unweighted_volumes(n_b0):
    rng = np.random.default_rng(3)
    moves = [0.0, 1.0, -0.7][:n_b0]
    b0 = np.stack([_tubes((24, 24, 18), move) for move in moves], axis=-1)
    weighted = rng.uniform(0.3, 0.8, 20) * b0[..., :1]
    truth = np.concatenate([b0, weighted], axis=-1)
    real, imaginary = rng.normal(0, SIGMA, (2, *truth.shape))
    sigma = estimate_noise_sigma(
        np.hypot(truth + real, imaginary),
        np.ones((24, 24, 18), bool),
        b0_mask=np.arange(20 + n_b0) < n_b0,
        patch_radius=1,
        smoothing_voxels=2.0,
    )
    assert_allclose(sigma.mean(), SIGMA, rtol=0.04)


@pytest.mark.parametrize(("n_volumes", "radius"), [(26, 1), (27, 2), (124, 2), (125, 3)])
def test_smallest_patch_has_more_voxels_than_volumes(n_volumes, radius):
    assert smallest_patch_radius(n_volumes) == radius


def _with_nan() -> np.ndarray:
    dwi = _noisy((7, 7, 7), 8)
    dwi[0, 0, 0, 0] = np.nan
    return dwi


@pytest.mark.parametrize(
    ("dwi", "mask", "changed", "text"),
    [
        (np.ones((7, 7, 7, 3)), np.ones((7, 7, 7), bool), {}, "3 volumes.*leave denoising out"),
        (np.ones((7, 7, 7)), np.ones((7, 7, 7), bool), {}, "3 axes"),
        (
            np.ones((7, 7, 7, 30)),
            np.ones((7, 7, 7), bool),
            {"patch_radius": 1},
            "27 voxels but dwi has 30 volumes; take patch_radius 2",
        ),
        (np.ones((7, 7, 3, 8)), np.ones((7, 7, 3), bool), {}, "axis 2 .*radius of at most 1"),
        (np.ones((7, 7, 7, 8)), np.ones((7, 7, 7), bool), {"patch_radius": (2, 2)}, "three axes"),
        (np.ones((7, 7, 7, 8)), np.ones((7, 7, 7), bool), {"patch_radius": 1.5}, "whole number"),
        (_with_nan(), np.ones((7, 7, 7), bool), {}, "dwi holds 1 NaN"),
        (np.ones((7, 7, 7, 8)), np.ones((7, 7, 6), bool), {}, r"mask has shape \(7, 7, 6\)"),
        (np.ones((7, 7, 7, 8)), np.ones((7, 7, 7)), {}, "mask is of type float64"),
        (np.ones((7, 7, 7, 8)), np.zeros((7, 7, 7), bool), {}, "no voxel"),
        (np.ones((7, 7, 7, 8)), np.ones((7, 7, 7), bool), {"stride": 6}, "stride is 6"),
        (np.ones((7, 7, 7, 8)), np.ones((7, 7, 7), bool), {"n_threads": 0}, "n_threads is 0"),
        (
            np.ones((7, 7, 7, 8)),
            np.ones((7, 7, 7), bool),
            {"reconstruct": "centre", "stride": 2},
            "set stride to 1",
        ),
        (np.ones((7, 7, 7, 8)), np.ones((7, 7, 7), bool), {"reconstruct": "mean"}, "'centre'"),
    ],
)
def test_unusable_input_is_refused_with_a_remedy(dwi, mask, changed, text):
    with pytest.raises(NumericsError, match=text):
        _mppca(dwi, mask, **changed)


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"noise_sigma": -1.0}, "negative"),
        ({"noise_sigma": np.nan}, "NaN"),
        ({"noise_sigma": np.ones((7, 7, 6))}, "noise_sigma has shape"),
        ({"tau_factor": 0.0}, "tau_factor is 0"),
    ],
)
def test_unusable_noise_is_refused(changed, text):
    with pytest.raises(NumericsError, match=text):
        _local(np.ones((7, 7, 7, 8)), np.ones((7, 7, 7), bool), **changed)


@pytest.mark.parametrize(
    ("n_volumes", "b0_mask", "side", "text"),
    [
        (8, np.ones(7, bool), 9, "8 booleans"),
        (8, np.ones(8), 9, "booleans"),
        (4, np.arange(4) < 1, 9, "1 volumes without and 3 with"),
        (20, np.zeros(20, bool), 3, "27 voxels"),
    ],
)
def test_noise_estimate_refuses_too_little(n_volumes, b0_mask, side, text):
    dwi = _noisy((side, side, side), n_volumes)
    mask = np.ones((side, side, side), bool)
    with pytest.raises(NumericsError, match=text):
        estimate_noise_sigma(dwi, mask, b0_mask=b0_mask, patch_radius=1, smoothing_voxels=1.0)


@pytest.mark.peer
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("dwidenoise") is None, reason="MRtrix dwidenoise not installed")
def test_centre_variant_agrees_with_dwidenoise_within_the_noise(tmp_path):
    import nibabel as nib

    truth = _truth((14, 14, 12), 30, rank=4)
    noisy = truth + np.random.default_rng(3).normal(0, SIGMA, truth.shape)
    nib.save(nib.Nifti1Image(noisy, np.eye(4)), tmp_path / "dwi.nii")
    command = ["dwidenoise", "-quiet", "-nthreads", "0", "-extent", "5", "-datatype", "float64"]
    files = [str(tmp_path / name) for name in ("noise.nii", "dwi.nii", "out.nii")]
    subprocess.run([*command, "-noise", *files], check=True)
    peer = nib.load(tmp_path / "out.nii").get_fdata()
    peer_sigma = nib.load(tmp_path / "noise.nii").get_fdata()
    own = _mppca(noisy, np.ones((14, 14, 12), bool), reconstruct="centre")
    # the same patches at the border too; their estimator keeps other ranks here and there and
    # leaves the mean in: less than the uncertainty that both leave, 0.4 sigma
    assert np.sqrt(np.mean((own.signal - peer) ** 2)) < 0.2 * SIGMA
    assert_allclose(own.noise_sigma.mean(), peer_sigma.mean(), rtol=0.03)
    error = np.sqrt(np.mean((own.signal - truth) ** 2))
    assert error < 1.05 * np.sqrt(np.mean((peer - truth) ** 2))
