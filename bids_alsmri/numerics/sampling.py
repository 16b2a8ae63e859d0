"""Images and masks on grids that an affine map moves, and cubic B-splines for kernels.

Equal to `scipy.ndimage.affine_transform` of order 3, 1 and 0 at a third of its time or less: the
registration of a series spent more than half of its time there.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.compile import kernel

Float = NDArray[np.float64]

PAD = 2  # knots that the outermost intervals need on either side
MIN_SIZE = 4  # voxels along an axis, so that the mirrored knots exist


def spline_coefficients(image: Float) -> Float:
    """Cubic spline coefficients of an image that continues mirrored, with its outer knots.

    Parameters
    ----------
    image : (X, Y, Z) array
        At least `MIN_SIZE` voxels along each axis.

    Returns
    -------
    (X + 2 PAD, Y + 2 PAD, Z + 2 PAD) array
        Voxel i is knot i + PAD.

    Raises
    ------
    NumericsError
        If an axis is too short.

    Examples
    --------
    >>> spline_coefficients(np.ones((4, 4, 4))).shape
    (8, 8, 8)
    """
    if min(image.shape) < MIN_SIZE:
        raise NumericsError(
            f"image has shape {image.shape}; cubic splines need {MIN_SIZE} voxels along each axis"
        )
    coefficients = ndimage.spline_filter(image, order=3, mode="mirror", output=np.float64)
    return np.ascontiguousarray(np.pad(coefficients, PAD, mode="reflect"))


@kernel
def spline_weights(position: float, weights: Float) -> int:
    """Weights of the four knots around a position, in voxels; returns the first knot's index."""
    whole = np.floor(position)
    t = position - whole
    s = 1.0 - t
    weights[0] = s * s * s / 6.0
    weights[1] = 2.0 / 3.0 - t * t + 0.5 * t * t * t
    weights[3] = t * t * t / 6.0
    weights[2] = 1.0 - weights[0] - weights[1] - weights[3]
    return int(whole) - 1 + 2  # PAD


@kernel
def _sample_grid(coefficients: Float, matrix: Float, sampled: Float) -> None:
    # a point outside the image takes the value of the image's nearest point
    top_x = float(coefficients.shape[0] - 2 * 2 - 1)  # PAD
    top_y = float(coefficients.shape[1] - 2 * 2 - 1)
    top_z = float(coefficients.shape[2] - 2 * 2 - 1)
    wx, wy, wz = np.empty(4), np.empty(4), np.empty(4)
    for i in range(sampled.shape[0]):
        for j in range(sampled.shape[1]):
            x0 = matrix[0, 0] * i + matrix[0, 1] * j + matrix[0, 3]
            y0 = matrix[1, 0] * i + matrix[1, 1] * j + matrix[1, 3]
            z0 = matrix[2, 0] * i + matrix[2, 1] * j + matrix[2, 3]
            for k in range(sampled.shape[2]):
                x = min(max(x0 + matrix[0, 2] * k, 0.0), top_x)
                y = min(max(y0 + matrix[1, 2] * k, 0.0), top_y)
                z = min(max(z0 + matrix[2, 2] * k, 0.0), top_z)
                ix, iy = spline_weights(x, wx), spline_weights(y, wy)
                iz = spline_weights(z, wz)
                value = 0.0
                for a in range(4):
                    plane = 0.0
                    for b in range(4):
                        knots = coefficients[ix + a, iy + b]
                        plane += wy[b] * (
                            wz[0] * knots[iz]
                            + wz[1] * knots[iz + 1]
                            + wz[2] * knots[iz + 2]
                            + wz[3] * knots[iz + 3]
                        )
                    value += wx[a] * plane
                sampled[i, j, k] = value


def sample_moved_grid(image: Float, grid_to_image: Float, shape: tuple[int, int, int]) -> Float:
    """Image on a grid that an affine map lays over it, by cubic splines.

    Parameters
    ----------
    image : (X, Y, Z) array
        Without NaN, at least `MIN_SIZE` voxels along each axis.
    grid_to_image : (4, 4) array
        Voxel indices of the grid to those of the image.
    shape : tuple of int
        Of the grid.

    Returns
    -------
    (*shape) array
        Outside the image its nearest point stands in.

    Raises
    ------
    NumericsError
        If an axis of the image is too short.

    Examples
    --------
    >>> ramp = np.arange(8.0)[:, None, None] * np.ones((8, 8, 8))
    >>> half = np.eye(4)
    >>> half[0, 3] = 0.5
    >>> sample_moved_grid(ramp, half, (8, 8, 8))[3, 4, 4].round(2)
    np.float64(3.5)
    """
    sampled = np.empty(shape)
    _sample_grid(spline_coefficients(image), np.ascontiguousarray(grid_to_image[:3]), sampled)
    return sampled


@kernel
def _add_linear(
    image: NDArray[np.float32], matrix: Float, factor: float, total: NDArray[np.float64]
) -> None:
    # a point outside the image adds nothing
    nx, ny, nz = image.shape
    for i in range(total.shape[0]):
        for j in range(total.shape[1]):
            x0 = matrix[0, 0] * i + matrix[0, 1] * j + matrix[0, 3]
            y0 = matrix[1, 0] * i + matrix[1, 1] * j + matrix[1, 3]
            z0 = matrix[2, 0] * i + matrix[2, 1] * j + matrix[2, 3]
            for k in range(total.shape[2]):
                x = x0 + matrix[0, 2] * k
                y = y0 + matrix[1, 2] * k
                z = z0 + matrix[2, 2] * k
                if not (0.0 <= x <= nx - 1 and 0.0 <= y <= ny - 1 and 0.0 <= z <= nz - 1):
                    continue
                a, b, c = min(int(x), nx - 2), min(int(y), ny - 2), min(int(z), nz - 2)
                u, v, w = x - a, y - b, z - c
                low, high = image[a, b], image[a, b + 1]
                near = (1.0 - v) * ((1.0 - w) * low[c] + w * low[c + 1]) + v * (
                    (1.0 - w) * high[c] + w * high[c + 1]
                )
                low, high = image[a + 1, b], image[a + 1, b + 1]
                far = (1.0 - v) * ((1.0 - w) * low[c] + w * low[c + 1]) + v * (
                    (1.0 - w) * high[c] + w * high[c + 1]
                )
                total[i, j, k] += factor * ((1.0 - u) * near + u * far)


def add_moved_grid(
    image: NDArray[np.floating], grid_to_image: Float, factor: float, total: Float
) -> None:
    """Add an image to a grid that an affine map lays over it, by linear interpolation.

    Parameters
    ----------
    image : (X, Y, Z) array
        Without NaN, at least 2 voxels along each axis; taken in single precision.
    grid_to_image : (4, 4) array
        Voxel indices of the grid to those of the image.
    factor : float
        By which the image is multiplied.
    total : (X', Y', Z') array of float64
        Is added to; stays as it is outside the image.

    Raises
    ------
    NumericsError
        If an axis of the image is too short.

    Examples
    --------
    >>> ramp = np.arange(8.0)[:, None, None] * np.ones((8, 8, 8))
    >>> half, total = np.eye(4), np.zeros((8, 8, 8))
    >>> half[0, 3] = 0.5
    >>> add_moved_grid(ramp, half, 2.0, total)
    >>> total[:, 4, 4]
    array([ 1.,  3.,  5.,  7.,  9., 11., 13.,  0.])
    """
    if min(image.shape) < 2:
        raise NumericsError(
            f"image has shape {image.shape}; linear interpolation needs 2 voxels along each axis"
        )
    single = np.ascontiguousarray(image, dtype=np.float32)
    _add_linear(single, np.ascontiguousarray(grid_to_image[:3]), float(factor), total)


@kernel
def _nearest_on_grid(mask: NDArray[np.bool_], matrix: Float, moved: NDArray[np.bool_]) -> None:
    nx, ny, nz = mask.shape
    for i in range(moved.shape[0]):
        for j in range(moved.shape[1]):
            x0 = matrix[0, 0] * i + matrix[0, 1] * j + matrix[0, 3] + 0.5
            y0 = matrix[1, 0] * i + matrix[1, 1] * j + matrix[1, 3] + 0.5
            z0 = matrix[2, 0] * i + matrix[2, 1] * j + matrix[2, 3] + 0.5
            for k in range(moved.shape[2]):
                x = int(np.floor(x0 + matrix[0, 2] * k))
                y = int(np.floor(y0 + matrix[1, 2] * k))
                z = int(np.floor(z0 + matrix[2, 2] * k))
                inside = 0 <= x < nx and 0 <= y < ny and 0 <= z < nz
                moved[i, j, k] = inside and mask[x, y, z]


def move_mask(
    mask: NDArray[np.bool_], grid_to_mask: Float, shape: tuple[int, int, int]
) -> NDArray[np.bool_]:
    """Mask on a grid that an affine map lays over it, by nearest neighbour.

    Parameters
    ----------
    mask : (X, Y, Z) array of bool
        Mask.
    grid_to_mask : (4, 4) array
        Voxel indices of the grid to those of the mask.
    shape : tuple of int
        Of the grid.

    Returns
    -------
    (*shape) array of bool
        False outside the mask's field of view.

    Examples
    --------
    >>> shift = np.eye(4)
    >>> shift[0, 3] = 1.0
    >>> move_mask(np.array([[[False]], [[True]]]), shift, (2, 1, 1)).ravel()
    array([ True, False])
    """
    moved = np.empty(shape, dtype=np.bool_)
    _nearest_on_grid(np.ascontiguousarray(mask), np.ascontiguousarray(grid_to_mask[:3]), moved)
    return moved
