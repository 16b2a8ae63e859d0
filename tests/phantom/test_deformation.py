from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from bids_alsmri.errors import NumericsError
from bids_alsmri.phantom.deformation import draw_deformation, polar_rotation


def lattice_mm() -> np.ndarray:
    axes = [np.arange(low, high, 9.0) for low, high in ((-100, 100), (-140, 110), (-150, 110))]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1)


@pytest.mark.parametrize("seed", range(5))
def test_jacobian_is_positive_all_over_the_head(seed):
    shape = draw_deformation(np.random.default_rng(seed))
    assert shape.contraction < 1
    assert np.linalg.det(shape.jacobian(lattice_mm())).min() > 0


@pytest.mark.parametrize("seed", range(3))
def test_inverse_undoes_the_deformation(seed):
    shape = draw_deformation(np.random.default_rng(seed))
    points = lattice_mm()
    back = shape.from_template(shape.to_template(points))
    # mm; a hundredth of what registration can be asked for
    assert_allclose(back, points, atol=0.002)


def test_jacobian_is_the_derivative():
    shape = draw_deformation(np.random.default_rng(4))
    points = lattice_mm()[::5, ::5, ::5]
    step = 1.0
    numeric = np.stack(
        [
            (shape.to_template(points + step * e) - shape.to_template(points - step * e)) / 2
            for e in np.eye(3)
        ],
        axis=-1,
    )
    # central differences over 1 mm of waves longer than 55 mm: k^2/6 = 0.2 % of a slope below 1
    assert_allclose(shape.jacobian(points), numeric, atol=0.003)


def test_deformation_moves_points_by_millimetres_beyond_its_affine_part():
    points = lattice_mm().reshape(-1, 3)
    for seed in range(3):
        there = draw_deformation(np.random.default_rng(seed)).to_template(points)
        design = np.column_stack([points, np.ones(len(points))])
        rest = there - design @ np.linalg.lstsq(design, there, rcond=None)[0]
        spread_mm = np.sqrt((rest**2).sum(1).mean())
        assert 1.0 < spread_mm < 8.0  # mm; between persons after affine alignment


def test_strength_of_one_is_refused():
    with pytest.raises(NumericsError, match=r"strength is 1; it must lie from 0 to below 1"):
        draw_deformation(np.random.default_rng(0), strength=1.0)


def test_polar_rotation_agrees_with_singular_values():
    rng = np.random.default_rng(0)
    matrices = np.eye(3) + 0.3 * rng.uniform(-1, 1, (200, 3, 3))
    u, _, vt = np.linalg.svd(matrices)
    assert_allclose(polar_rotation(matrices), u @ vt, atol=1e-6)  # five Newton steps
