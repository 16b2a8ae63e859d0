"""Tubes of simulated scans are found, where and as wide as they were put."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.pointspread import (
    RadialReadout,
    blur,
    radial_point_spread,
    scaled_point_spread,
)
from bids_alsmri.numerics.relaxation import Relaxation
from bids_alsmri.numerics.tubes import find_tubes, measure_tubes, tube_cores

NOMINAL_MM = 4.0
STILL = RadialReadout(nominal_mm=NOMINAL_MM, echo_ms=0.2, readout_ms=0.0, linear_share=1.0)
SPHERE = radial_point_spread(STILL, Relaxation(45.0, 5.0, 25.0, 0.6))
FINE_MM, N_FINE, N_COARSE = 2.0, 128, 64
ARGUMENTS = {"point_spread": SPHERE, "diameter_range_mm": (10.0, 40.0), "most_tubes": 6}


def world(n=N_FINE, step_mm=FINE_MM):
    x = (np.arange(n) - (n - 1) / 2) * step_mm
    return np.meshgrid(x, x, x, indexing="ij", sparse=True)


def ellipsoid(centre_mm, radii_mm):
    relative = sum(((g - c) / r) ** 2 for g, c, r in zip(world(), centre_mm, radii_mm, strict=True))
    # voxels at the border belong to it in part
    return np.clip((1 - np.sqrt(relative)) * min(radii_mm) / FINE_MM + 0.5, 0, 1)


def cylinder(centre_mm, axis, diameter_mm, length_mm):
    axis = np.asarray(axis) / np.linalg.norm(axis)
    offset = [g - c for g, c in zip(world(), centre_mm, strict=True)]
    along = sum(a * o for a, o in zip(axis, offset, strict=True))
    across = np.sqrt(np.maximum(sum(o**2 for o in offset) - along**2, 0))
    wall = np.clip((diameter_mm / 2 - across) / FINE_MM + 0.5, 0, 1)
    return wall * np.clip((length_mm / 2 - np.abs(along)) / FINE_MM + 0.5, 0, 1)


def head():
    """Scalp, skull, brain, ventricle and eyes, in mmol/l; 80 mm wide at the temples."""
    skin, bone = ellipsoid((0, 0, 0), (78, 96, 90)), ellipsoid((0, 0, 0), (72, 90, 84))
    brain, fluid = ellipsoid((0, 0, 0), (66, 84, 78)), ellipsoid((0, 0, 5), (16, 30, 12))
    eyes = sum(ellipsoid((x, 86, -25), (12, 12, 12)) for x in (-30, 30))
    neck = cylinder((0, -15, -95), (0, 0, 1), 100, 70)
    skin = np.maximum(skin, neck)
    body = 30 * skin - 20 * np.minimum(bone, skin) + 35 * brain + 95 * fluid
    return body * (1 - np.minimum(eyes, 1)) + 120 * np.minimum(eyes, 1)


HEAD = head()


def scan(fine, *, noise_sd=0.0, rng=None):
    """Magnitude image of what a sphere of k-space holds of a fine object, on a 4 mm grid."""
    spectrum = np.fft.fftshift(np.fft.fftn(fine))
    k = np.fft.fftshift(np.fft.fftfreq(N_FINE, FINE_MM))
    low = (N_FINE - N_COARSE) // 2
    inner = slice(low, low + N_COARSE)
    kx, ky, kz = np.meshgrid(k[inner], k[inner], k[inner], indexing="ij", sparse=True)
    kept = spectrum[inner, inner, inner] * (np.sqrt(kx**2 + ky**2 + kz**2) < 0.5 / NOMINAL_MM)
    image = np.fft.ifftn(np.fft.ifftshift(kept)) * (N_COARSE / N_FINE) ** 3
    if rng is not None:
        image = image + noise_sd * (
            rng.normal(size=image.shape) + 1j * rng.normal(size=image.shape)
        )
    return np.abs(image)


# coarse voxel 0 lies on fine voxel 0
AFFINE = np.diag([2 * FINE_MM, 2 * FINE_MM, 2 * FINE_MM, 1.0])
AFFINE[:3, 3] = -(N_FINE - 1) / 2 * FINE_MM
# places where a tube of up to 65 mm stands clear of head and border
PLACES = [
    (-100, -40, 10),
    (-100, 50, -20),
    (100, -45, -15),
    (100, 45, 15),
    (45, 98, 40),
    (-70, 40, -85),
]


def tube(centre_mm, axis=(0, 0, 1), *, diameter_mm=20.0, length_mm=60.0, signal=100.0):
    return {
        "centre_mm": np.array(centre_mm, dtype=float),
        "axis": np.array(axis) / np.linalg.norm(axis),
        "diameter_mm": diameter_mm,
        "length_mm": length_mm,
        "signal": signal,
    }


def varied_tubes(seed):
    """One to six tubes of any tilt, width, length and brightness, and the noise to add."""
    rng = np.random.default_rng(seed)
    tubes = []
    for place in rng.permutation(len(PLACES))[: 1 + seed % 6]:
        centre = np.array(PLACES[place]) + rng.uniform(-3, 3, size=3)
        outwards = centre * (1, 1, 0) / np.linalg.norm(centre[:2])
        axis = rng.normal(size=3)
        # lying beside the head, not pointing into it
        axis -= 0.9 * (axis @ outwards) * outwards
        size = {"diameter_mm": rng.uniform(14, 26), "length_mm": rng.uniform(45, 65)}
        tubes.append(tube(centre, axis, signal=rng.uniform(30, 150), **size))
    return tubes, rng.uniform(1, 5), rng


def scan_with(tubes, *, noise_sd, rng):
    fine = HEAD.copy()
    for each in tubes:
        shape = cylinder(*(each[k] for k in ("centre_mm", "axis", "diameter_mm", "length_mm")))
        fine = fine * (1 - shape) + each["signal"] * shape
    return scan(fine, noise_sd=noise_sd, rng=rng)


def rayleigh(noise_sd):
    """Mean and standard deviation of the magnitude of complex noise."""
    return {
        "noise_floor": noise_sd * np.sqrt(np.pi / 2),
        "noise_sd": noise_sd * np.sqrt(2 - np.pi / 2),
    }


def found_in(tubes, *, noise_sd=2.0, seed=0, **arguments):
    image = scan_with(tubes, noise_sd=noise_sd, rng=np.random.default_rng(seed))
    return find_tubes(image, AFFINE, **rayleigh(noise_sd), **{**ARGUMENTS, **arguments})


def require_recovered(tubes, noise_sd, rng):
    """Every tube is found once, and no other."""
    image = scan_with(tubes, noise_sd=noise_sd, rng=rng)
    found = find_tubes(image, AFFINE, **rayleigh(noise_sd), **ARGUMENTS).tubes
    assert len(found) == len(tubes)
    for each in tubes:
        distances = [np.linalg.norm(one.centre_mm - each["centre_mm"]) for one in found]
        one = found[int(np.argmin(distances))]
        # a quarter of a voxel; the darkest tube has seven times the noise
        assert min(distances) < 1.0
        assert abs(one.axis @ each["axis"]) > np.cos(np.deg2rad(3))
        assert_allclose(one.diameter_mm, each["diameter_mm"], atol=0.5)
        assert_allclose(one.length_mm, each["length_mm"], atol=3.0)
        assert_allclose(one.signal, each["signal"], rtol=0.08)


@pytest.mark.parametrize("seed", range(6))
def test_tubes_are_found_where_and_as_wide_as_they_are(seed):
    require_recovered(*varied_tubes(seed))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6, 20))
def test_tubes_of_more_scans_are_found(seed):
    require_recovered(*varied_tubes(seed))


def test_noise_that_neighbours_share_is_no_head():
    # twice as many voxels along each axis as k-space holds
    rng, spread = np.random.default_rng(4), 3.0
    places = [(-100, -40, 10), (100, 45, 15)]
    fine = HEAD + sum(100 * cylinder(place, (0, 0, 1), 20, 60) for place in places)
    k = np.fft.fftfreq(N_FINE, FINE_MM)
    inside = k[:, None, None] ** 2 + k[None, :, None] ** 2 + k**2 < (0.5 / NOMINAL_MM) ** 2
    noise = rng.normal(size=fine.shape) + 1j * rng.normal(size=fine.shape)
    noise = spread * np.fft.fftn(noise) / np.sqrt(inside.mean())
    image = np.abs(np.fft.ifftn(inside * (np.fft.fftn(fine) + noise)))
    affine = np.diag([FINE_MM, FINE_MM, FINE_MM, 1.0])
    affine[:3, 3] = AFFINE[:3, 3]
    found = find_tubes(image, affine, **rayleigh(spread), **ARGUMENTS)
    assert_allclose([one.centre_mm for one in found.tubes], places, atol=0.5)
    assert_allclose([one.diameter_mm for one in found.tubes], 20, atol=0.2)
    # the closed outline adds hollows: ears and orbits
    assert found.head_mask.mean() == pytest.approx((HEAD > 5).mean(), rel=0.2)


@pytest.mark.parametrize("seed", range(4))
def test_tube_as_narrow_as_one_and_a_half_widths_is_as_wide_as_it_is(seed):
    wide = scaled_point_spread(SPHERE, 11.0 / SPHERE.fwhm_mm)
    rng, grid = np.random.default_rng(seed), np.indices((40, 40, 40)) * 5.0
    angle = np.deg2rad(rng.uniform(0, 30))
    axis = np.array([np.sin(angle), 0, np.cos(angle)])
    offset = grid - 97.5 - rng.uniform(-2.5, 2.5, size=3)[:, None, None, None]
    along = np.tensordot(axis, offset, 1)
    across = np.sqrt((offset**2).sum(axis=0) - along**2)
    wall = np.clip((8.2 - across) / 5 + 0.5, 0, 1) * np.clip((40 - np.abs(along)) / 5 + 0.5, 0, 1)
    # what the head's rings do to a tube
    ripple = 0.02 * 900 * np.cos(2 * np.pi * across / 11 + rng.uniform(0, 6))
    clean = blur(900 * wall, [5, 5, 5], wide) + ripple * (across < 20) * (np.abs(along) < 50)
    image = np.abs(clean + 28 * (rng.normal(size=clean.shape) + 1j * rng.normal(size=clean.shape)))
    arguments = {**ARGUMENTS, "point_spread": wide}
    (one,) = find_tubes(image, np.diag([5, 5, 5, 1]), **rayleigh(28), **arguments).tubes
    assert_allclose(one.diameter_mm, 16.4, atol=1.0)


def test_eyes_are_no_tubes():
    with pytest.raises(NumericsError, match=r"no reference tube of 10 to 40 mm .* mm wide"):
        found_in([])


def test_noise_alone_has_no_tubes():
    noise = scan(np.zeros_like(HEAD), noise_sd=2.0, rng=np.random.default_rng(0))
    with pytest.raises(NumericsError, match="nothing bright stands in the air"):
        find_tubes(noise, AFFINE, **rayleigh(2.0), **ARGUMENTS)


def test_more_tubes_than_expected_are_an_error():
    tubes = [tube(place) for place in PLACES[:3]]
    with pytest.raises(NumericsError, match=r"3 cylinders stand beside the head .* at most 2"):
        found_in(tubes, most_tubes=2)


def test_tube_of_another_width_is_refused_with_its_width():
    with pytest.raises(NumericsError, match=r"has a diameter of (19|20)\.\d mm"):
        found_in([tube(PLACES[0])], diameter_range_mm=(25.0, 40.0))


def test_tube_against_the_head_is_flagged():
    # the head is 78 mm wide there, so the wall of the tube is 2 mm off
    found = found_in([tube((-90, 0, 0)), tube(PLACES[3])]).tubes
    assert [one.touches_head for one in found] == [True, False]
    assert_allclose(found[0].diameter_mm, 20.0, atol=1.5)  # a shoulder of the head is in the fit


def test_tube_that_leaves_the_field_of_view_is_flagged():
    tubes = [tube((100, 60, 80)), tube(PLACES[0])]
    image = scan_with(tubes, noise_sd=2.0, rng=np.random.default_rng(1))[:, :, :52]
    found = find_tubes(image, AFFINE, **rayleigh(2.0), **ARGUMENTS).tubes
    assert [one.is_cut for one in found] == [False, True]
    # from 50 mm to the outer side of the last voxel, whose middle is at 77 mm
    assert_allclose(found[1].length_mm, 29.0, atol=4.0)
    assert_allclose(found[1].diameter_mm, 20.0, atol=0.5)


def test_stump_at_the_border_is_no_tube_and_is_named():
    tubes = [tube((100, 60, 80)), tube(PLACES[0])]
    image = scan_with(tubes, noise_sd=2.0, rng=np.random.default_rng(1))[:, :, :48]
    found = find_tubes(image, AFFINE, **rayleigh(2.0), **ARGUMENTS)
    assert_allclose([one.centre_mm for one in found.tubes], [PLACES[0]], atol=1.0)
    assert any("cut by the field of view" in reason for reason in found.refused)


def test_slices_of_zeros_are_beyond_the_field_of_view():
    image = scan_with([tube((100, 60, 96))], noise_sd=2.0, rng=np.random.default_rng(1))
    image[:, :, 56:] = 0.0
    found = find_tubes(image, AFFINE, **rayleigh(2.0), **ARGUMENTS).tubes
    assert found[0].is_cut


def test_order_is_from_left_to_right_then_front_to_back():
    places = [(100, 45, 15), (-100, -40, 10), (100, -45, -15), (-102, 50, -20)]
    found = found_in([tube(place) for place in places]).tubes
    expected = [(-102, 50, -20), (-100, -40, 10), (100, 45, 15), (100, -45, -15)]
    assert [one.label for one in found] == [1, 2, 3, 4]
    assert_allclose([one.centre_mm for one in found], expected, atol=1.0)


@pytest.mark.parametrize("gain", [1e-3, 1e4])
def test_tubes_do_not_depend_on_the_gain(gain):
    image = scan_with([tube(PLACES[0])], noise_sd=2.0, rng=np.random.default_rng(2))
    plain = find_tubes(image, AFFINE, **rayleigh(2.0), **ARGUMENTS).tubes[0]
    scaled = find_tubes(gain * image, AFFINE, **rayleigh(2.0 * gain), **ARGUMENTS).tubes[0]
    assert_allclose(scaled.diameter_mm, plain.diameter_mm, rtol=1e-4)
    assert_allclose(scaled.signal, gain * plain.signal, rtol=1e-4)


def test_tubes_stay_where_they_are_when_the_image_is_stored_otherwise():
    image = scan_with([tube(PLACES[0], (1, 2, 5))], noise_sd=2.0, rng=np.random.default_rng(3))
    plain = find_tubes(image, AFFINE, **rayleigh(2.0), **ARGUMENTS).tubes[0]
    # left and right exchanged, then axes turned: the affine undoes both
    stored = image[::-1].transpose(2, 0, 1)
    affine = np.zeros((4, 4))
    affine[:, :3] = (AFFINE * (-1, 1, 1, 1))[:, [2, 0, 1]]
    affine[:3, 3] = AFFINE[:3, 3] + [(len(image) - 1) * AFFINE[0, 0], 0, 0]
    affine[3, 3] = 1
    turned = find_tubes(stored, affine, **rayleigh(2.0), **ARGUMENTS).tubes[0]
    assert_allclose(turned.centre_mm, plain.centre_mm, atol=0.05)
    assert_allclose(turned.axis, plain.axis, atol=0.01)
    assert_allclose(turned.diameter_mm, plain.diameter_mm, atol=0.05)


def test_uneven_receive_field_does_not_narrow_the_tube():
    image = scan_with([tube(PLACES[0], (0, 1, 6))], noise_sd=1.0, rng=np.random.default_rng(4))
    z = np.arange(N_COARSE)[None, None, :]
    x = np.arange(N_COARSE)[:, None, None]
    # by a factor of three along the tube, and of 1.4 across it
    uneven = image * np.exp(-((z - 34) ** 2) / 2 / 6**2) * np.exp(0.07 * (x - 7))
    found = find_tubes(uneven, AFFINE, **rayleigh(1.0), **ARGUMENTS).tubes
    assert_allclose(found[0].diameter_mm, 20.0, atol=0.6)


def test_marked_tubes_are_measured_as_found_ones():
    image = scan_with(
        [tube(PLACES[0]), tube(PLACES[2], (0, 2, 3))], noise_sd=2.0, rng=np.random.default_rng(5)
    )
    found = find_tubes(image, AFFINE, **rayleigh(2.0), **ARGUMENTS)
    labels = np.choose(found.labels, [0, 7, 3])
    marked = measure_tubes(image, AFFINE, labels, **rayleigh(2.0), point_spread=SPHERE)
    assert [one.label for one in marked.tubes] == [3, 7]
    for one, other in zip(marked.tubes, found.tubes[::-1], strict=True):
        assert_allclose(one.diameter_mm, other.diameter_mm, atol=0.2)
        assert_allclose(one.centre_mm, other.centre_mm, atol=0.5)
        assert_allclose(one.signal, other.signal, rtol=0.02)


def test_core_keeps_its_distance_from_wall_and_ends():
    found = found_in([tube(PLACES[0], (0, 1, 3))])
    core = tube_cores(found, AFFINE, erosion_mm=5.0)
    points = np.argwhere(core == 1) @ AFFINE[:3, :3] + AFFINE[:3, 3] - PLACES[0]
    axis = np.array([0, 1, 3]) / np.sqrt(10)
    along = points @ axis
    across = np.linalg.norm(points - along[:, None] * axis, axis=1)
    # errors of place and size are below a millimetre
    assert across.max() < 6.0
    assert np.abs(along).max() < 27.0
    volume = np.count_nonzero(core) * 4.0**3
    assert_allclose(volume, np.pi * 5**2 * 50, rtol=0.25)  # 60 voxels


@pytest.fixture(scope="module")
def one_tube():
    return found_in([tube(PLACES[0])])


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda f: tube_cores(f, AFFINE, erosion_mm=12.0),
            "tube 1 of .* has no voxel more than 12",
        ),
        (
            lambda f: measure_tubes(
                np.ones(f.labels.shape),
                AFFINE,
                f.labels,
                noise_floor=1.0,
                noise_sd=0.5,
                point_spread=SPHERE,
            ),
            "tube 1 has .* it is empty or the label lies beside it",
        ),
        (
            lambda f: measure_tubes(
                np.ones(f.labels.shape), AFFINE, 0 * f.labels, **rayleigh(1.0), point_spread=SPHERE
            ),
            "number the tubes from 1",
        ),
        (
            lambda f: find_tubes(
                np.ones((4, 4, 4)), np.zeros((4, 4)), **rayleigh(1.0), **ARGUMENTS
            ),
            "give an invertible",
        ),
    ],
)
def test_impossible_arguments_are_named(call, text, one_tube):
    with pytest.raises(NumericsError, match=text):
        call(one_tube)
