r"""Individual head shapes: smooth invertible maps between a person and the template.

The map is a sum of a few plane waves after an affine change of size and pose. Neither is of the
form of a registration's own model (integrated velocities, B-splines), and both value and
Jacobian are known in closed form at any point.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bids_alsmri.errors import NumericsError

Floats = NDArray[np.float64]

N_WAVES = 10
SHORTEST_MM, LONGEST_MM = 55.0, 240.0
MAX_SIZE_CHANGE = 0.06
MAX_SHIFT_MM = 6.0
MAX_TURN_DEG = 5.0


@dataclass(frozen=True)
class Deformation:
    r"""Map from a person's space to the template's, both in mm.

    Parameters
    ----------
    linear : (3, 3) array
        Size and pose :math:`L`.
    shift_mm : (3,) array
        Translation :math:`t`.
    wave_numbers : (n, 3) array
        Angular wave vectors :math:`k_i`, in 1/mm.
    amplitudes_mm : (n, 3) array
        Displacements :math:`a_i` at the crest of each wave.
    phases : (n,) array
        Phases in radians.

    Notes
    -----
    :math:`T(x) = w + \sum_i a_i \sin(k_i \cdot w + \phi_i)` with :math:`w = L x + t`. Where
    :math:`\sum_i |a_i||k_i| < 1` and :math:`\det L > 0` the map is one to one with positive
    Jacobian everywhere, because its wave part is a contraction.
    """

    linear: Floats
    shift_mm: Floats
    wave_numbers: Floats
    amplitudes_mm: Floats
    phases: Floats

    @property
    def contraction(self) -> float:
        """Bound on the wave part's Lipschitz constant; below 1 the map is invertible."""
        norms = np.linalg.norm(self.amplitudes_mm, axis=1) * np.linalg.norm(
            self.wave_numbers, axis=1
        )
        return float(norms.sum())

    def _waves(self, w: Floats) -> Floats:
        # Sines in single precision cost 1e-6 mm and a third of the time.
        angle = (w @ self.wave_numbers.T + self.phases).astype(np.float32)
        return np.asarray(np.sin(angle) @ self.amplitudes_mm.astype(np.float32), dtype=np.float64)

    def to_template(self, points_mm: Floats) -> Floats:
        """Where points of the person lie in the template.

        Parameters
        ----------
        points_mm : (..., 3) array
            Positions in the person's T1w space, in mm.

        Returns
        -------
        (..., 3) array
            Positions in template space, in mm.
        """
        w = points_mm @ self.linear.T + self.shift_mm
        return np.asarray(w + self._waves(w))

    def from_template(
        self, points_mm: Floats, *, tolerance_mm: float = 1e-4, max_iterations: int = 200
    ) -> Floats:
        """Where points of the template lie in the person.

        Parameters
        ----------
        points_mm : (..., 3) array
            Positions in template space, in mm.
        tolerance_mm : float
            Largest change in the last iteration, in mm.
        max_iterations : int
            Iterations after which the inverse is given up.

        Returns
        -------
        (..., 3) array
            Positions in the person's T1w space, in mm.

        Raises
        ------
        NumericsError
            If the fixed point is not reached.

        Notes
        -----
        Fixed point of :math:`w = y - u(w)`, a contraction (Banach).
        """
        w = np.array(points_mm, dtype=np.float64)
        for _ in range(max_iterations):
            following = points_mm - self._waves(w)
            change = float(np.abs(following - w).max(initial=0.0))
            w = following
            if change < tolerance_mm:
                return np.asarray((w - self.shift_mm) @ np.linalg.inv(self.linear).T)
        raise NumericsError(
            f"the inverse deformation still moves by {change:g} mm after {max_iterations} "
            f"iterations; {tolerance_mm:g} mm was asked for; take smaller waves"
        )

    def jacobian(self, points_mm: Floats) -> Floats:
        """Derivative of `to_template`.

        Parameters
        ----------
        points_mm : (..., 3) array
            Positions in the person's T1w space, in mm.

        Returns
        -------
        (..., 3, 3) array
            Dimensionless; row: template axis, column: person's axis.
        """
        w = points_mm @ self.linear.T + self.shift_mm
        slope = np.cos((w @ self.wave_numbers.T + self.phases).astype(np.float32))
        outer = self.amplitudes_mm[:, :, None] * self.wave_numbers[:, None, :]
        bend = (slope @ outer.reshape(-1, 9).astype(np.float32)).reshape(*w.shape, 3)
        return np.asarray((np.eye(3) + bend) @ self.linear)


def draw_deformation(rng: np.random.Generator, *, strength: float = 0.75) -> Deformation:
    """Draw a random head shape.

    Parameters
    ----------
    rng : Generator
        Random stream.
    strength : float
        Bound on the Lipschitz constant of the wave part, from 0 (affine) to below 1.

    Returns
    -------
    Deformation
        Invertible with positive Jacobian.

    Raises
    ------
    NumericsError
        If `strength` is not below 1.

    Examples
    --------
    >>> shape = draw_deformation(np.random.default_rng(1))
    >>> there = shape.to_template(np.array([[10.0, -20.0, 30.0]]))
    >>> shape.from_template(there).round(2)
    array([[ 10., -20.,  30.]])
    """
    if not 0 <= strength < 1:
        raise NumericsError(f"strength is {strength:g}; it must lie from 0 to below 1")
    lengths = np.exp(rng.uniform(np.log(SHORTEST_MM), np.log(LONGEST_MM), N_WAVES))
    directions = _unit(rng.normal(size=(N_WAVES, 3)))
    numbers = directions * (2 * np.pi / lengths)[:, None]
    amplitudes = _unit(rng.normal(size=(N_WAVES, 3)))
    # Equal steepness for all: long waves then move more than short ones, as anatomy does.
    steepness = strength / N_WAVES
    amplitudes *= (steepness / np.linalg.norm(numbers, axis=1))[:, None]
    size = 1 + rng.uniform(-MAX_SIZE_CHANGE, MAX_SIZE_CHANGE, 3)
    turn = _euler(np.deg2rad(rng.uniform(-MAX_TURN_DEG, MAX_TURN_DEG, 3)))
    return Deformation(
        linear=np.asarray(np.diag(size) @ turn),
        shift_mm=rng.uniform(-MAX_SHIFT_MM, MAX_SHIFT_MM, 3),
        wave_numbers=numbers,
        amplitudes_mm=amplitudes,
        phases=rng.uniform(0, 2 * np.pi, N_WAVES),
    )


def polar_rotation(jacobian: Floats, *, n_iterations: int = 5) -> Floats:
    r"""Rotation nearest to each matrix.

    Parameters
    ----------
    jacobian : (..., 3, 3) array
        Matrices with positive determinant, not far from a rotation.
    n_iterations : int
        Newton steps; five reach 1e-9 for stretches up to a factor of two.

    Returns
    -------
    (..., 3, 3) array
        Orthogonal factor of the polar decomposition.

    Notes
    -----
    :math:`X \leftarrow (X + X^{-T})/2` (Higham 1986, doi:10.1137/0907079).

    Examples
    --------
    >>> polar_rotation(np.diag([2.0, 1.0, 0.5])).round(6).tolist()
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    rotation = np.array(jacobian, dtype=np.float64)
    for _ in range(n_iterations):
        # Cofactor matrix over determinant is the inverse transpose, without a LAPACK call each.
        cofactors = np.empty_like(rotation)
        for i in range(3):
            a, b = (i + 1) % 3, (i + 2) % 3
            for j in range(3):
                c, d = (j + 1) % 3, (j + 2) % 3
                cofactors[..., i, j] = (
                    rotation[..., a, c] * rotation[..., b, d]
                    - rotation[..., a, d] * rotation[..., b, c]
                )
        determinant = (rotation[..., 0, :] * cofactors[..., 0, :]).sum(-1)
        rotation = (rotation + cofactors / determinant[..., None, None]) / 2
    return rotation


def _unit(vectors: Floats) -> Floats:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def _euler(angles: Floats) -> Floats:
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        turn = np.eye(3)
        a, b = (axis + 1) % 3, (axis + 2) % 3
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[b, a], turn[a, b] = np.sin(angle), -np.sin(angle)
        matrix = turn @ matrix
    return matrix
