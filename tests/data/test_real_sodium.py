"""A real head at 7T: its tubes, the noise of array and volume coil, the receive bias."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import ndimage

from bids_alsmri.numerics.noise import denoise, noise_of_air
from bids_alsmri.numerics.pointspread import RadialReadout, radial_point_spread
from bids_alsmri.numerics.receive import bias_from_coils
from bids_alsmri.numerics.relaxation import Relaxation
from bids_alsmri.numerics.tubes import find_tubes

pytestmark = [pytest.mark.data, pytest.mark.slow]

# the source does not state the readout; agar and duration as usual at this resolution
READOUT = RadialReadout(nominal_mm=3.49, echo_ms=0.4, readout_ms=10.0, linear_share=0.2)
SPREAD = radial_point_spread(READOUT, Relaxation(45.0, 5.0, 25.0, 0.6))
NON_LOCAL = {"strength": 1.0, "patch_radius": 1, "block_radius": 3, "n_threads": 1}


@pytest.fixture(scope="module")
def images(test_data):
    names = ("c2p_hr", "c2p_naa_6", "c2p_naa_8", "c2p_nav_7", "gre_2")
    loaded = {name: nib.load(test_data / "sodium" / f"{name}.nii.gz") for name in names}
    return {
        name: (np.asarray(image.dataobj, dtype=np.float64), image.affine)
        for name, image in loaded.items()
    }


@pytest.fixture(scope="module")
def found(images):
    image, affine = images["c2p_hr"]
    noise = noise_of_air(image)
    return find_tubes(
        image,
        affine,
        noise_floor=noise.floor,
        noise_sd=noise.air_sd,
        point_spread=SPREAD,
        diameter_range_mm=(10.0, 40.0),
        most_tubes=6,
    )


def on_grid(image, affine, like, like_affine, order=1):
    moved = np.linalg.inv(affine) @ like_affine
    return ndimage.affine_transform(
        image, moved[:3, :3], moved[:3, 3], output_shape=like.shape, order=order, mode="nearest"
    )


def test_all_tubes_of_the_proton_image_are_found_and_nothing_else(images, found):
    # read off the proton image by eye, in mm: two at the forehead, two beside the neck
    seen = [(-60, 78, 30), (-63, -42, -92), (68, 78, 32), (65, -43, -96)]
    centres = [tube.centre_mm for tube in found.tubes]
    assert len(centres) == len(seen)
    assert_allclose(centres, seen, atol=8.0)  # ends of the tubes are not sharp
    proton, affine = images["gre_2"]
    for centre in centres:
        voxel = np.rint(np.linalg.solve(affine, [*centre, 1])[:3]).astype(int)
        around = tuple(slice(v - 1, v + 2) for v in voxel)
        assert proton[around].mean() > 4 * np.median(proton[:10])


def test_tubes_are_parallel_to_the_body_and_equally_wide(found):
    for tube in found.tubes:
        assert abs(tube.axis[2]) > 0.85
    widths = [tube.diameter_mm for tube in found.tubes]
    # 20 to 25 mm in the proton image, at half maximum in slices
    assert_allclose(widths, 22.5, atol=2.5)


def test_volume_coil_is_one_channel_and_the_array_several(images):
    volume = noise_of_air(images["c2p_nav_7"][0])
    assert_allclose(volume.n_channels, 1.0, atol=0.15)
    counts = [noise_of_air(images[name][0]).n_channels for name in ("c2p_naa_6", "c2p_naa_8")]
    # two scans by the same coil
    assert_allclose(counts[0], counts[1], rtol=0.2)
    assert min(counts) > 4


def test_two_coils_even_out_white_matter(images, found):
    image, affine = images["c2p_hr"]
    low, low_affine = images["c2p_nav_7"]
    array = 0.5 * (images["c2p_naa_6"][0] + images["c2p_naa_8"][0])
    high = affine, low, low_affine
    head = on_grid(found.head_mask.astype(float), *high) > 0.5
    tubes = on_grid((found.labels > 0).astype(float), *high) > 0.5
    noises = noise_of_air(images["c2p_naa_6"][0]), noise_of_air(low)
    signals = [
        denoise(each, noise, **NON_LOCAL) for each, noise in zip((array, low), noises, strict=True)
    ]
    mask = (head | tubes) & (ndimage.gaussian_filter(signals[1], 1.0) > 0.2 * noises[1].floor)
    bias = bias_from_coils(
        *signals,
        mask,
        np.linalg.norm(low_affine[:3, :3], axis=0),
        head_mask=head & mask,
        fwhm_mm=20.0,
    )
    brain = denoise(image, noise_of_air(image), **NON_LOCAL)
    even = brain / on_grid(bias, low_affine, image, affine)
    # above the ventricles, 28 to 38 mm and more than 38 mm under the scalp; white matter is the
    # darker part of the brain there
    depth_mm = ndimage.distance_transform_edt(found.head_mask, sampling=3.45)[:, :, 42:49]
    shells = (depth_mm > 28) & (depth_mm < 38), depth_mm > 38
    before, after = (
        np.divide(*[np.percentile(each[:, :, 42:49][shell], 25) for shell in shells])
        for each in (brain, even)
    )
    assert before > 1.15
    assert_allclose(after, 1.0, atol=0.1)
