"""Regions of digital phantoms, sampled in k-space, get back the signal that was put in."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.partialvolume import (
    blurred_regions,
    fitted_spread_scale,
    merge_small_regions,
    region_based_correction,
    region_signals,
)
from bids_alsmri.numerics.pointspread import (
    RadialReadout,
    gaussian_point_spread,
    radial_point_spread,
    scaled_point_spread,
)
from bids_alsmri.numerics.relaxation import Relaxation

READOUT = RadialReadout(nominal_mm=3.6, echo_ms=0.2, readout_ms=20.0, linear_share=0.2)
STILL = RadialReadout(nominal_mm=3.6, echo_ms=0.2, readout_ms=0.0, linear_share=1.0)
TISSUES = [  # white matter, grey matter, fluid
    Relaxation(37.0, 3.4, 23.5, 0.6),
    Relaxation(37.0, 3.9, 26.3, 0.6),
    Relaxation(60.0, 55.0, 55.0, 0.0),
]
SPREADS = [radial_point_spread(READOUT, tissue) for tissue in TISSUES]
TRUTH = np.array([35.0, 45.0, 140.0])
VOXEL_MM = np.full(3, 3.0)
N = 40


def brain():
    """Fractions of a folded ribbon around white matter, with fluid in and outside it."""
    x = (np.arange(3 * N) - (3 * N - 1) / 2) * VOXEL_MM[0] / 3
    gx, gy, gz = np.meshgrid(x, x, x, indexing="ij", sparse=True)
    radius = np.sqrt(gx**2 + gy**2 + gz**2)
    folds = 4 * np.sin(6 * np.arctan2(gy, gx)) * np.cos(gz / 8)
    white = radius + folds < 34
    grey = (radius + folds < 38) & ~white
    ventricle = np.sqrt(gx**2 + (gy / 2) ** 2 + gz**2) < 7
    fluid = ventricle | ((radius < 46) & ~white & ~grey)
    white &= ~ventricle
    fine = np.stack([white, grey, fluid]).astype(float)
    return fine.reshape(3, N, 3, N, 3, N, 3).mean((2, 4, 6))


FRACTIONS = brain()


def scan(fractions, truth, *, extra=None):
    """Each tissue sampled in a sphere of k-space with its own decay along the readout."""
    k = np.fft.fftfreq(N, VOXEL_MM[0])
    share = np.sqrt(k[:, None, None] ** 2 + k[None, :, None] ** 2 + k**2) * 2 * 3.6
    k0 = 0.2
    linear_ms = 3 * 20.0 / (k0**-3 + 2)
    relative = share / k0
    time = linear_ms * np.where(relative < 1, relative, 1 + (relative**3 - 1) / 3)
    image = np.zeros((N, N, N))
    for fraction, signal, tissue in zip(fractions, truth, TISSUES, strict=True):
        short, long, f = tissue.short_ms, tissue.long_ms, tissue.short_fraction
        decay = f * np.exp(-(0.2 + time) / short) + (1 - f) * np.exp(-(0.2 + time) / long)
        decay /= f * np.exp(-0.2 / short) + (1 - f) * np.exp(-0.2 / long)
        object_ = signal * fraction * (1 if extra is None else extra)
        image += np.fft.ifftn(np.fft.fftn(object_) * decay * (share < 1)).real
    return image


IMAGE = scan(FRACTIONS, TRUTH)


def solved(image, fractions=FRACTIONS, spreads=SPREADS, noise_spread=None, is_symmetric=True):
    return region_signals(
        image,
        fractions,
        spreads,
        VOXEL_MM,
        is_symmetric=is_symmetric,
        noise_sigma=1.0,
        noise_spread=noise_spread,
    )


@pytest.mark.parametrize("is_symmetric", [False, True])
def test_uniform_tissues_get_back_their_signal(is_symmetric):
    found = solved(IMAGE, is_symmetric=is_symmetric)
    # the phantom's transform has no padding, and frequencies at the edge of the sphere differ
    assert_allclose(found.signal, TRUTH, rtol=0.01)
    # without correction fluid spills into the ribbon by far more
    assert found.uncorrected[1] > 1.2 * TRUTH[1]


@pytest.mark.parametrize("scale", [0.8, 1.2])
def test_a_fifth_of_width_too_much_costs_less_than_a_twentieth(scale):
    spreads = [scaled_point_spread(spread, scale) for spread in SPREADS]
    assert_allclose(solved(IMAGE, spreads=spreads).signal, TRUTH, rtol=0.05)


def test_symmetric_matrix_is_least_squares_over_voxels():
    columns = blurred_regions(FRACTIONS, SPREADS, VOXEL_MM).reshape(3, -1)
    expected = np.linalg.lstsq(columns.T, IMAGE.ravel())[0]
    assert_allclose(solved(IMAGE).signal, expected)


@pytest.mark.parametrize("scale", [0.85, 1.0, 1.25])
def test_width_of_the_point_spread_is_read_off_the_image(scale):
    # the scan is as it is; what is given is too narrow or too wide by this factor
    def spreads_at(factor):
        return [scaled_point_spread(spread, factor / scale) for spread in SPREADS]

    found = fitted_spread_scale(IMAGE, FRACTIONS, spreads_at, VOXEL_MM, scale_range=(0.6, 1.6))
    assert_allclose(found, scale, rtol=0.02)  # twice the step, and the phantom's own grid


def test_correction_does_not_depend_on_gain_order_or_flips():
    found = solved(IMAGE)
    assert_allclose(solved(1e3 * IMAGE).signal, 1e3 * found.signal)
    order = [2, 0, 1]
    other = solved(IMAGE, FRACTIONS[order], [SPREADS[i] for i in order])
    assert_allclose(other.signal, found.signal[order])
    flipped = solved(IMAGE[::-1, :, ::-1], FRACTIONS[:, ::-1, :, ::-1])
    assert_allclose(flipped.signal, found.signal)


def test_unblurred_regions_need_no_correction():
    sharp = [gaussian_point_spread(1e-4)] * 2
    fractions = np.zeros((2, 8, 8, 8))
    fractions[0, :4], fractions[1, 4:] = 1, 1
    image = 3.0 * fractions[0] + 5.0 * fractions[1]
    found = region_signals(
        image, fractions, sharp, VOXEL_MM, is_symmetric=False, noise_sigma=1.0, noise_spread=None
    )
    assert_allclose(found.transfer, np.eye(2), atol=1e-6)
    assert_allclose(found.condition, 1.0, rtol=1e-6)
    assert_allclose(found.standard_error, 1 / np.sqrt(256), rtol=1e-5)
    assert_allclose(found.residual_sd, 0.0, atol=1e-5)


@pytest.mark.parametrize("is_radial", [False, True])
def test_standard_error_is_the_spread_over_repeated_scans(is_radial):
    rng = np.random.default_rng(0)
    k = np.fft.fftfreq(N, VOXEL_MM[0])
    inside = np.sqrt(k[:, None, None] ** 2 + k[None, :, None] ** 2 + k**2) < 0.5 / 3.6
    spread = radial_point_spread(STILL, TISSUES[0]) if is_radial else None
    found = solved(IMAGE, noise_spread=spread)
    columns = blurred_regions(FRACTIONS, SPREADS, VOXEL_MM).reshape(3, -1)
    scans = []
    for _ in range(100):
        noise = rng.normal(size=IMAGE.shape)
        if is_radial:
            noise = np.fft.ifftn(np.fft.fftn(noise) * inside).real / np.sqrt(inside.mean())
        scans.append(np.linalg.solve(columns @ columns.T, columns @ noise.ravel()))
    # a standard deviation from 100 scans is right to a fourteenth
    assert_allclose(found.standard_error, np.std(scans, axis=0), rtol=0.22)


def test_image_of_uniform_tissues_becomes_their_sharp_map():
    found = solved(IMAGE)
    sharp = region_based_correction(
        IMAGE,
        FRACTIONS,
        SPREADS,
        VOXEL_MM,
        signals=found.signal,
        weights=[1, 1, 1],
        least_signal=5.0,
    )
    for region, truth in enumerate(TRUTH):
        pure = FRACTIONS[region] > 0.99
        assert_allclose(np.median(sharp[pure]), truth, rtol=0.02)
        blurred_error = np.abs(IMAGE[pure] - truth).mean()
        assert np.abs(sharp[pure] - truth).mean() < 0.2 * blurred_error


def test_relaxation_weights_divide_each_tissue():
    weights = np.array([0.9, 0.85, 0.7])
    image = scan(FRACTIONS, TRUTH * weights)
    found = solved(image)
    sharp = region_based_correction(
        image,
        FRACTIONS,
        SPREADS,
        VOXEL_MM,
        signals=found.signal,
        weights=weights,
        least_signal=5.0,
    )
    for region, truth in enumerate(TRUTH):
        assert_allclose(np.median(sharp[FRACTIONS[region] > 0.99]), truth, rtol=0.03)


def test_thinner_grey_matter_of_equal_concentration_shows_no_effect():
    thin = FRACTIONS.copy()
    thin[1] *= 0.9
    thin[2] += FRACTIONS[1] - thin[1]
    before, after = solved(IMAGE), solved(scan(thin, TRUTH), thin)
    assert after.uncorrected[1] > 1.02 * before.uncorrected[1]
    assert_allclose(after.signal[1], before.signal[1], rtol=0.01)


def test_focal_rise_in_white_matter_is_kept_by_the_map():
    x = np.arange(N) - N / 2
    spot = ((x[:, None, None] - 7) ** 2 + x[None, :, None] ** 2 + (x - 2) ** 2) < 4**2
    image = scan(FRACTIONS, TRUTH, extra=1 + 0.1 * spot)
    arguments = {"weights": [1, 1, 1], "least_signal": 5.0}
    maps = [
        region_based_correction(
            each, FRACTIONS, SPREADS, VOXEL_MM, signals=solved(each).signal, **arguments
        )
        for each in (image, IMAGE)
    ]
    core = spot & (FRACTIONS[0] > 0.99)
    core &= (x[:, None, None] - 7) ** 2 + x[None, :, None] ** 2 + (x - 2) ** 2 < 2**2
    # blur takes a little off the height of a ball of 24 mm
    assert_allclose(maps[0][core].mean() / maps[1][core].mean(), 1.1, atol=0.02)


def test_darkness_around_the_head_has_no_corrected_signal():
    sharp = region_based_correction(
        IMAGE, FRACTIONS, SPREADS, VOXEL_MM, signals=TRUTH, weights=[1, 1, 1], least_signal=5.0
    )
    assert np.isnan(sharp[0, 0, 0])
    assert np.isfinite(sharp[FRACTIONS.sum(axis=0) > 0.9]).all()


def test_small_region_goes_into_the_one_it_spills_into():
    fractions = np.zeros((4, 16, 16, 16))
    fractions[0, :8], fractions[1, 8:] = 1, 1
    fractions[1, 11:13, 8, 8] = 0
    fractions[2, 11:13, 8, 8] = 1  # 54 mm3, in the midst of region 1
    spreads = [gaussian_point_spread(5.0)] * 4
    merged = merge_small_regions(fractions, spreads, VOXEL_MM, least_spreads=2.0)
    assert merged.group.tolist() == [0, 1, 1, -1]
    assert merged.leader.tolist() == [0, 1]
    assert_allclose(merged.volume_mm3, [2048 * 27, 2046 * 27, 54, 0])
    assert_allclose(merged.fractions.sum(axis=0), 1.0)


def test_large_regions_stay_apart():
    merged = merge_small_regions(FRACTIONS, SPREADS, VOXEL_MM, least_spreads=2.0)
    assert merged.group.tolist() == [0, 1, 2]
    assert_allclose(merged.fractions, FRACTIONS)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"fractions": FRACTIONS[:2]}, "2 regions and 3 point spreads"),
        ({"fractions": 1.5 * FRACTIONS}, "add up to as much as 1.5"),
        ({"fractions": FRACTIONS * [[[[1]]], [[[1]]], [[[0]]]]}, r"regions \[2\] .* no volume"),
        (
            {"fractions": np.stack([FRACTIONS[0] / 2] * 2 + [FRACTIONS[2]])},
            "cannot be told apart",
        ),
        ({"image": IMAGE[1:]}, "bring both to one grid"),
        ({"image": np.full(IMAGE.shape, np.nan)}, "NaN or infinite"),
    ],
)
def test_impossible_arguments_are_named(change, text):
    arguments = {"image": IMAGE, "fractions": FRACTIONS, **change}
    # equal point spreads, so that equal regions are equal
    with pytest.raises(NumericsError, match=text):
        region_signals(
            arguments["image"],
            arguments["fractions"],
            [SPREADS[0]] * 3,
            VOXEL_MM,
            is_symmetric=False,
            noise_sigma=1.0,
            noise_spread=None,
        )
