from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from bids_alsmri.phantom.diffusion import person_maps
from bids_alsmri.phantom.tracts import axisymmetric

PLAIN = np.ones(2)


def lattice_index(tracts, point_mm):
    return tuple(np.round(np.linalg.solve(tracts.to_world, (*point_mm, 1))[:3]).astype(int))


@pytest.mark.parametrize(
    ("place", "point_mm", "axis"),
    [
        ("callosal body", (0, -8, 26), 0),
        ("genu", (0, 27, 8), 0),
        ("splenium", (0, -38, 12), 0),
        ("internal capsule", (23, -14, 8), 2),
        ("peduncle", (-16, -18, -12), 2),
        ("medulla", (4, -42, -56), 2),
        ("longitudinal fasciculus", (37, -15, 27), 1),
        ("inferior fasciculus", (-36, -30, -2), 1),
    ],
)
def test_fibres_run_as_in_anatomy(tracts, place, point_mm, axis):
    along = tracts.dyads[:3][(slice(None), *lattice_index(tracts, point_mm))]
    assert along[axis] > 0.75, place  # within 30 degrees of the axis
    assert_allclose(along.sum(), 1, atol=1e-5)


def test_motor_fibres_fan_out_to_the_cortex(tracts):
    medial = tracts.dyads[(slice(None), *lattice_index(tracts, (16, -20, 50)))]
    lateral = tracts.dyads[(slice(None), *lattice_index(tracts, (36, -20, 46)))]
    assert medial[4] < 0 < lateral[4]  # xz: towards the middle, and away from it


def test_fields_are_finite_and_anisotropy_is_highest_in_named_tracts(tracts):
    for name in ("dyads", "fa", "fast_fa", "fast_md", "slow_fa"):
        assert np.isfinite(getattr(tracts, name)).all(), name
    assert tracts.fa[lattice_index(tracts, (0, 27, 8))] > 0.7
    assert tracts.fa[lattice_index(tracts, (23, -14, 8))] > 0.6
    assert 0.4 < tracts.fa[lattice_index(tracts, (40, 40, 20))] < 0.55
    assert tracts.fa.max() < 0.9


@pytest.mark.parametrize("fa", [0.0, 0.12, 0.45, 0.8])
def test_axisymmetric_tensor_has_the_anisotropy_asked_for(fa):
    md = 0.75e-3
    along, across = (v[0] for v in axisymmetric(np.full(1, fa), np.full(1, md)))
    eigenvalues = np.array([along, across, across])
    assert_allclose(eigenvalues.mean(), md)
    deviation = np.linalg.norm(eigenvalues - md)
    assert_allclose(np.sqrt(1.5) * deviation / np.linalg.norm(eigenvalues), fa, atol=1e-12)


def test_fast_progressors_lose_anisotropy_and_gain_diffusivity(tracts):
    fa_well, md_well = person_maps(tracts, "hc", 0.0, PLAIN)
    fa_ill, md_ill = person_maps(tracts, "fast", 1.0, PLAIN)
    for point in ((23, -14, 8), (0, -8, 26), (0, 27, 8)):
        at = lattice_index(tracts, point)
        assert fa_ill[at] < 0.93 * fa_well[at]
        assert md_ill[at] > 1.04 * md_well[at]
    assert (fa_ill <= fa_well).all()
    assert (md_ill >= md_well).all()


def test_slow_progressors_lose_anisotropy_alone_and_in_a_smaller_place(tracts):
    fa_well, md_well = person_maps(tracts, "hc", 0.0, PLAIN)
    fa_slow, md_slow = person_maps(tracts, "slow", 1.0, PLAIN)
    fa_fast, _ = person_maps(tracts, "fast", 1.0, PLAIN)
    assert np.array_equal(md_slow, md_well)
    slow, fast = (np.count_nonzero(fa < 0.97 * fa_well) for fa in (fa_slow, fa_fast))
    assert 0 < slow < fast / 2


def test_effect_grows_with_severity(tracts):
    at = lattice_index(tracts, (23, -14, 8))
    values = [person_maps(tracts, "fast", s, PLAIN)[0][at] for s in (0.0, 0.5, 1.0, 1.5)]
    assert (np.diff(values) < 0).all()
    assert_allclose(np.diff(values), np.diff(values)[0], rtol=1e-3)  # linear, single precision
