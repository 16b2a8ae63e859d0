"""Real cortex at 7T, its rim drawn by LayNii's authors: profiles and depth tell one thing."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import ndimage

from bids_alsmri.numerics.cortical_profiles import (
    place_profiles,
    sample_profiles,
    surface_normals,
)
from bids_alsmri.numerics.laminar import cortical_depth
from bids_alsmri.numerics.ribbon import signed_distance

pytestmark = pytest.mark.data
FLUID, WHITE, CORTEX = 1, 2, 3


@pytest.fixture(scope="module")
def slab(test_data):
    """Image, rim (1 fluid, 2 white matter, 3 cortex), edges in mm."""
    folder = test_data / "layers"
    image = nib.load(folder / "lo_T1EPI.nii.gz")
    rim = np.rint(np.asarray(nib.load(folder / "lo_rim_LL.nii.gz").dataobj)).astype(np.int32)
    return image.get_fdata(), rim, np.array(image.header.get_zooms(), float)


def profiles_of(slab):
    """Profiles from white matter outwards, and the mean of voxels near each depth."""
    values, rim, edges = slab
    drawn = rim[:, :, 1]
    # beyond the lines that were drawn lies what they border on
    away, nearest = ndimage.distance_transform_edt(drawn == 0, return_indices=True)
    tissue = np.where(away < 6, drawn[tuple(nearest)], 1)
    white = np.repeat((tissue == WHITE)[:, :, None], 3, axis=2)
    distance = signed_distance(white, edges, smoothing_mm=0.4)
    normals = surface_normals(distance, edges, smoothing_mm=0.8)
    mask = np.zeros(rim.shape, bool)
    mask[:, :, 1] = ndimage.binary_dilation(drawn == WHITE) & (drawn >= WHITE)
    places = place_profiles(distance, normals, mask, edges, spacing_mm=0.5)
    return places, sample_profiles(values[None], places, DEPTHS, edges)[0], distance


DEPTHS = np.arange(0.4, 2.05, 0.4)


def test_profiles_of_a_real_slab_fall_from_white_matter_as_its_voxels_do(slab):
    values, rim, _ = slab
    places, profiles, distance = profiles_of(slab)
    assert len(places.start) >= 20
    along = np.nanmean(profiles, axis=0)
    cortex = rim == CORTEX
    voxels = np.array([values[cortex & (np.abs(distance - d) < 0.4)].mean() for d in DEPTHS])
    # T1-weighted: white matter is brighter than cortex
    assert along[0] > along[-1]
    assert voxels[0] > voxels[-1]
    # profiles start at the border of the drawn cortex and voxels fill it: ends of the patch differ
    assert_allclose(along, voxels, rtol=0.1)


def test_depth_of_a_real_rim_is_the_share_of_distances_and_orders_the_signal(slab):
    values, rim, edges = slab
    depth = cortical_depth(rim, edges, surface="centres", in_plane=True, smoothing_steps=100)
    cortex = (rim == CORTEX) & np.isfinite(depth.equivolume)
    assert cortex.sum() > 90
    to_white, to_fluid = (
        ndimage.distance_transform_edt(rim[:, :, 1] != label, sampling=edges[:2])
        for label in (WHITE, FLUID)
    )
    share = (to_white / (to_white + to_fluid))[cortex[:, :, 1]]
    for metric in (depth.equidistant[cortex], depth.equivolume[cortex]):
        assert ((metric >= 0.0) & (metric <= 1.0)).all()
        # 0 at white matter; equivolume bends it where the cortex is curved
        assert np.corrcoef(metric, share)[0, 1] > 0.95
        own = values[cortex]
        assert own[metric < 0.33].mean() > own[metric > 0.67].mean()
