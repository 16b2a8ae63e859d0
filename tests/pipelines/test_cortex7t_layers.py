"""Layers of equal volume on slabs of thick and thin slices."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from bids_alsmri.pipelines.cortex7t.layers import equivolume_layers, layer_names

INNER_MM, OUTER_MM = 5.0, 8.6  # cortex of 3.6 mm on a gyrus


def cylinder(n_slices, slice_mm, edge_mm=0.25):
    """Rim of a quarter cylinder along the third axis, and its radius in mm."""
    axis = np.arange(40) * edge_mm - 0.07
    radius = np.hypot(*np.meshgrid(axis, axis, indexing="ij"))
    rim = np.where(radius <= INNER_MM, 2, np.where(radius >= OUTER_MM, 1, 3)).astype(np.int16)
    return np.repeat(rim[..., None], n_slices, axis=2), radius, (edge_mm, edge_mm, slice_mm)


@pytest.mark.parametrize(("n_slices", "slice_mm"), [(2, 2.0), (8, 0.25)])
def test_depth_is_the_closed_form_on_slabs_of_thick_and_thin_slices(n_slices, slice_mm):
    rim, radius, edges = cylinder(n_slices, slice_mm)
    depth, layers = equivolume_layers(rim, edges, n_layers=3, smoothing_steps=400)
    true = (radius**2 - INNER_MM**2) / (OUTER_MM**2 - INNER_MM**2)
    seen = layers[..., 0] > 0
    off = np.abs(depth[..., 0] - true)[seen]
    assert seen.sum() > 0.9 * (rim[..., 0] == 3).sum()
    assert np.median(off) < 0.01  # the aims of the depth itself
    assert np.percentile(off, 95) < 0.03
    expected = np.ceil(3 * true[seen])
    assert np.mean(layers[..., 0][seen] == expected) > 0.95  # 0.01 off at two of 14 voxels


def test_layers_hold_equal_volumes():
    rim, _, edges = cylinder(2, 2.0)
    layers = equivolume_layers(rim, edges, n_layers=4, smoothing_steps=400)[1]
    counts = np.bincount(layers.ravel())[1:]
    # a layer is three to four voxels thick, and its border is right within a tenth of one
    assert_allclose(counts / counts.mean(), 1.0, atol=0.06)


def test_thick_slices_do_not_see_each_other():
    rim, _, edges = cylinder(3, 2.0)
    rim[..., 1] = rim[::-1, :, 1]
    depth, layers = equivolume_layers(rim, edges, n_layers=3, smoothing_steps=10)
    alone = equivolume_layers(rim[..., :1], edges, n_layers=3, smoothing_steps=10)
    assert_allclose(depth[..., 0], alone[0][..., 0], atol=1e-6)
    assert_array_equal(layers[..., 2], alone[1][..., 0])


def test_cortex_that_reaches_no_fluid_has_no_layer():
    rim, _, edges = cylinder(1, 2.0)
    # a lump of cortex within white matter
    rim[3:7, 3:7] = 3
    depth, layers = equivolume_layers(rim, edges, n_layers=3, smoothing_steps=10)
    assert not layers[3:7, 3:7].any()
    assert not depth[3:7, 3:7].any()


def test_every_layer_has_a_name():
    table = layer_names(3)
    assert table["index"].tolist() == [1, 2, 3]
    assert table["name"].iloc[0] == "depth 0 to 0.333 (at white matter)"
    assert table["name"].iloc[-1] == "depth 0.667 to 1 (at the outer surface)"


@pytest.mark.slow
@pytest.mark.parametrize("label", ["01", "02"])
def test_pipeline_divides_the_ribbon_it_saves(finished, label):
    stem = f"{finished.out}/sub-{label}/anat/sub-{label}_acq-M1_"
    ribbon, layers, depth = (
        np.asarray(nib.load(f"{stem}{name}.nii.gz").dataobj)
        for name in ("desc-layers_dseg", "desc-equivolume_dseg", "desc-equivolume_statmap")
    )
    names = pd.read_csv(f"{stem}desc-equivolume_dseg.tsv", sep="\t")
    assert set(np.unique(layers)) == {0, *names["index"]}
    assert (ribbon[layers > 0] == 3).all()
    assert_array_equal(layers[layers > 0], np.ceil(3 * depth[layers > 0]).clip(1, 3))
    assert ((depth >= 0) & (depth <= 1)).all()
