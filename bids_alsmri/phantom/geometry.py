"""Grids, rigid poses, storage orders and gradient tables, in world millimetres (RAS+)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bids_alsmri.phantom.records import PhantomSettings

Floats = NDArray[np.float64]

# An axis off all scanner axes, so that a tilted grid mixes all three.
OBLIQUE_AXIS = np.array([2.0, 1.0, 0.5]) / np.sqrt(5.25)
AXIS_NAMES = "ijk"
OPPOSITE = {"R": "L", "L": "R", "A": "P", "P": "A", "S": "I", "I": "S"}


@dataclass(frozen=True)
class Grid:
    """A regular grid whose array axes point nominally right, anterior, superior.

    Parameters
    ----------
    shape : tuple of int
        Voxels along each axis.
    affine : (4, 4) array
        Voxel to world, in mm.
    """

    shape: tuple[int, int, int]
    affine: Floats

    @property
    def centre_mm(self) -> Floats:
        """World position of the middle of the grid, in mm."""
        middle = (np.array(self.shape) - 1) / 2
        return np.asarray(self.affine[:3, :3] @ middle + self.affine[:3, 3])

    def points_mm(self, first: int = 0, last: int | None = None) -> Floats:
        """World positions of the voxels of the slabs `first` to `last` of the first axis.

        Parameters
        ----------
        first : int
            First slab.
        last : int, optional
            One past the last slab; all by default.

        Returns
        -------
        (slabs, j, k, 3) array
            Positions in mm.
        """
        last = self.shape[0] if last is None else last
        i, j, k = (
            np.arange(start, stop, dtype=np.float64)
            for start, stop in ((first, last), (0, self.shape[1]), (0, self.shape[2]))
        )
        a = self.affine
        points = (
            a[:3, 3]
            + i[:, None, None, None] * a[:3, 0]
            + j[None, :, None, None] * a[:3, 1]
            + k[None, None, :, None] * a[:3, 2]
        )
        return np.asarray(points)


def make_grid(
    centre_mm: tuple[float, float, float],
    extent_mm: tuple[float, float, float],
    voxel_mm: float,
    oblique_deg: float,
) -> Grid:
    """Isotropic grid about a centre, tilted by an angle about a fixed oblique axis.

    Parameters
    ----------
    centre_mm, extent_mm : tuple of float
        Middle and edge lengths of the field of view, in mm.
    voxel_mm : float
        Voxel edge in mm.
    oblique_deg : float
        Tilt in degrees.

    Returns
    -------
    Grid
        Rounded up to whole voxels.

    Examples
    --------
    >>> make_grid((0, 0, 0), (8, 8, 8), 2.0, 0.0).shape
    (4, 4, 4)
    """
    shape = tuple(int(np.ceil(extent / voxel_mm - 1e-9)) for extent in extent_mm)
    affine = np.eye(4)
    affine[:3, :3] = rotation_about(OBLIQUE_AXIS, oblique_deg) * voxel_mm
    affine[:3, 3] = np.array(centre_mm) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Grid(shape=(shape[0], shape[1], shape[2]), affine=affine)


def rotation_about(axis: Floats, angle_deg: float) -> Floats:
    r"""Rotation by an angle about a unit axis, right-handed.

    Parameters
    ----------
    axis : (3,) array
        Unit vector.
    angle_deg : float
        Angle in degrees.

    Returns
    -------
    (3, 3) array
        Rotation matrix.

    Notes
    -----
    Rodrigues: :math:`R = I + \sin\phi\,K + (1 - \cos\phi) K^2`, :math:`K v = a \times v`.

    Examples
    --------
    >>> rotation_about(np.array([0.0, 0.0, 1.0]), 90.0).round(3) @ [1, 0, 0]
    array([0., 1., 0.])
    """
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    phi = np.deg2rad(angle_deg)
    return np.asarray(np.eye(3) + np.sin(phi) * cross + (1 - np.cos(phi)) * cross @ cross)


def rigid_matrix(translation_mm: Floats, rotation_deg: Floats, centre_mm: Floats) -> Floats:
    """Rigid motion: rotate about a centre (x first, then y, then z), then translate.

    Parameters
    ----------
    translation_mm, rotation_deg : (3,) array
        Translation (mm) and angles about x, y, z (degrees).
    centre_mm : (3,) array
        Fixed point of the rotation.

    Returns
    -------
    (4, 4) array
        Maps a point of the head at rest to where it has moved.

    Examples
    --------
    >>> moved = rigid_matrix(np.array([1.0, 0, 0]), np.zeros(3), np.zeros(3))
    >>> moved @ [0, 0, 0, 1]
    array([1., 0., 0., 1.])
    """
    x, y, z = (rotation_about(axis, a) for axis, a in zip(np.eye(3), rotation_deg, strict=True))
    matrix = np.eye(4)
    matrix[:3, :3] = z @ y @ x
    matrix[:3, 3] = centre_mm + translation_mm - matrix[:3, :3] @ centre_mm
    return matrix


def transform_points(matrix: Floats, points: Floats) -> Floats:
    """Points under an affine map.

    Parameters
    ----------
    matrix : (4, 4) array
        Affine map.
    points : (..., 3) array
        Positions.

    Returns
    -------
    (..., 3) array
        Mapped positions.

    Examples
    --------
    >>> transform_points(np.diag([2.0, 2.0, 2.0, 1.0]), np.ones((1, 3)))
    array([[2., 2., 2.]])
    """
    return np.asarray(points @ matrix[:3, :3].T + matrix[:3, 3])


def storage_codes(settings: PhantomSettings) -> str:
    """Axis letters of the stored image, with the determinant that was asked for.

    Parameters
    ----------
    settings : PhantomSettings
        Axis order and determinant.

    Returns
    -------
    str
        Three letters.

    Examples
    --------
    >>> storage_codes(PhantomSettings()), storage_codes(PhantomSettings(axis_order="PSR"))
    ('LAS', 'PSR')
    """
    codes = settings.axis_order
    sign = np.linalg.det(_axes(codes))
    if (sign > 0) == (settings.determinant == "positive"):
        return codes
    return OPPOSITE[codes[0]] + codes[1:]


def _axes(codes: str) -> Floats:
    """Signed permutation: entry (nominal RAS axis, stored axis) is 1, or -1 against it."""
    axes = np.zeros((3, 3))
    for stored, letter in enumerate(codes):
        nominal = next(n for n, pair in enumerate(("RL", "AP", "SI")) if letter in pair)
        axes[nominal, stored] = 1.0 if letter in "RAS" else -1.0
    return axes


def store(
    values: NDArray[np.generic], grid: Grid, settings: PhantomSettings
) -> tuple[NDArray[np.generic], Floats]:
    """Voxels and affine in the storage order; no value and no world position changes.

    Parameters
    ----------
    values : (i, j, k, ...) array
        Voxels on `grid`.
    grid : Grid
        The acquired grid.
    settings : PhantomSettings
        Storage order.

    Returns
    -------
    values : array
        Permuted and flipped voxels.
    affine : (4, 4) array
        Voxel to world, in mm.
    """
    axes = _axes(storage_codes(settings))
    order = [int(np.argmax(np.abs(axes[:, stored]))) for stored in range(3)]
    stored_values = np.transpose(values, (*order, *range(3, values.ndim)))
    backwards = [stored for stored in range(3) if axes[:, stored].sum() < 0]
    stored_values = np.flip(stored_values, backwards)
    # Stored voxel 0 of a flipped axis is the last of the acquired one.
    change = np.eye(4)
    change[:3, :3] = axes
    change[:3, 3] = np.where(axes.sum(axis=1) < 0, np.array(grid.shape) - 1, 0)
    return np.ascontiguousarray(stored_values), np.asarray(grid.affine @ change)


def stored_axis(nominal_axis: int, sign: int, settings: PhantomSettings) -> str:
    """BIDS name (``i``, ``j-``, ...) of a direction along a nominal RAS axis.

    Parameters
    ----------
    nominal_axis : int
        0 right, 1 anterior, 2 superior.
    sign : int
        1 along, -1 against the nominal axis.
    settings : PhantomSettings
        Storage order.

    Returns
    -------
    str
        Axis of the stored image with its sign.

    Examples
    --------
    >>> stored_axis(1, -1, PhantomSettings())  # anterior to posterior in an LAS image
    'j-'
    """
    row = _axes(storage_codes(settings))[nominal_axis]
    return AXIS_NAMES[int(np.argmax(np.abs(row)))] + ("" if row.sum() * sign > 0 else "-")


def world_to_bvecs(directions: Floats, affine: Floats) -> Floats:
    """Gradient directions in the BIDS frame of an image.

    Parameters
    ----------
    directions : (n, 3) array
        Unit vectors in the world frame (zero for b = 0).
    affine : (4, 4) array
        Voxel to world of the stored image.

    Returns
    -------
    (3, n) array
        Along the image axes, x negated where the determinant is positive (BIDS 1.10,
        "diffusion imaging data", gradient orientation file).

    Examples
    --------
    >>> world_to_bvecs(np.array([[1.0, 0, 0]]), np.diag([2.0, 2, 2, 1])).ravel().tolist()
    [-1.0, 0.0, 0.0]
    """
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    vectors = directions @ axes
    if np.linalg.det(affine[:3, :3]) > 0:
        vectors = vectors * np.array([-1.0, 1.0, 1.0])
    return np.asarray(vectors.T + 0.0)


def gradient_directions(n_directions: int) -> Floats:
    """Evenly spread unit vectors over the sphere, opposite ones counted as one.

    Parameters
    ----------
    n_directions : int
        How many.

    Returns
    -------
    (n, 3) array
        Unit vectors in the world frame. The same for every participant.

    Notes
    -----
    A spiral with equal areas over the half sphere, relaxed by electrostatic repulsion of
    antipodal pairs (Jones et al. 1999, doi:10.1002/(SICI)1522-2594(199909)42:3<515::AID-
    MRM14>3.0.CO;2-Q), every second one turned round so that eddy currents do not add up.

    Examples
    --------
    >>> gradient_directions(12).shape
    (12, 3)
    """
    k = np.arange(n_directions)
    z = 1 - (k + 0.5) / n_directions
    angle = np.pi * (3 - np.sqrt(5)) * k
    vectors = np.stack([np.sqrt(1 - z**2) * np.cos(angle), np.sqrt(1 - z**2) * np.sin(angle), z], 1)
    step = 0.1
    for _ in range(300):
        both = np.concatenate([vectors, -vectors])
        gap = vectors[:, None] - both[None]
        distance = np.linalg.norm(gap, axis=-1)
        distance[distance < 1e-9] = np.inf
        push = (gap / distance[..., None] ** 3).sum(axis=1)
        push -= (push * vectors).sum(axis=1, keepdims=True) * vectors
        vectors = vectors + step * push / n_directions
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        step *= 0.99
    vectors[1::2] *= -1
    return np.asarray(vectors)
