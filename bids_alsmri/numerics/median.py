"""Median filter over large windows.

Equal to `scipy.ndimage.median_filter`, which takes five times as long at a radius of 4: with it the
first mask of a diffusion series was one of its longest steps.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.checks import require_finite, require_range
from bids_alsmri.numerics.compile import kernel

Counts = NDArray[np.int16]
Ranks = NDArray[np.int32]

_MAX_RADIUS = 15  # 31 voxels cubed are the most that a count of 16 bits holds


@kernel
def _slide(
    ranks: Ranks, size: int, block_size: int, fine: Counts, coarse: Counts, medians: Ranks
) -> None:
    # `fine` counts each rank in the window, `coarse` blocks of ranks; the window slides along the
    # last axis, and `block` stays near the median: `below` values lie in the blocks before it
    half = size**3 // 2
    for i in range(medians.shape[0]):
        for j in range(medians.shape[1]):
            fine[:] = 0
            coarse[:] = 0
            for a in range(i, i + size):
                for b in range(j, j + size):
                    for c in range(size):
                        fine[ranks[a, b, c]] += 1
                        coarse[ranks[a, b, c] // block_size] += 1
            block = 0
            below = 0
            for k in range(medians.shape[2]):
                if k > 0:
                    for a in range(i, i + size):
                        for b in range(j, j + size):
                            old, new = ranks[a, b, k - 1], ranks[a, b, k + size - 1]
                            fine[old] -= 1
                            fine[new] += 1
                            coarse[old // block_size] -= 1
                            coarse[new // block_size] += 1
                            below += (new // block_size < block) - (old // block_size < block)
                while below > half:
                    block -= 1
                    below -= coarse[block]
                while below + coarse[block] <= half:
                    below += coarse[block]
                    block += 1
                left = half - below
                rank = block * block_size
                while left >= fine[rank]:
                    left -= fine[rank]
                    rank += 1
                medians[i, j, k] = rank


def median_filter(image: NDArray[np.floating], *, radius: int) -> NDArray[np.floating]:
    """Median of the cube of voxels around each voxel; the image continues mirrored.

    Parameters
    ----------
    image : (X, Y, Z) array
        Finite values.
    radius : int
        The cube is 2 `radius` + 1 voxels wide; 1 to 15.

    Returns
    -------
    (X, Y, Z) array
        Values of the image, in its type.

    Raises
    ------
    NumericsError
        If the image is not 3D or not finite, or the radius out of range.

    Notes
    -----
    Values are replaced by their ranks, so that a histogram that slides with the window (Huang et
    al. 1979, doi:10.1109/TASSP.1979.1163188) gives the exact median of real numbers.

    Examples
    --------
    >>> image = np.zeros((3, 3, 3))
    >>> image[1, 1, 1] = 9
    >>> float(median_filter(image, radius=1).max())
    0.0
    """
    if image.ndim != 3:
        raise NumericsError(f"image has shape {image.shape}; give (X, Y, Z)")
    require_range("radius", radius, 1, _MAX_RADIUS, unit="voxels")
    require_finite("image", image)
    levels, ranks = np.unique(image, return_inverse=True)
    padded = np.pad(ranks.reshape(image.shape).astype(np.int32), radius, mode="symmetric")
    block_size = int(np.ceil(np.sqrt(len(levels))))
    n_blocks = len(levels) // block_size + 1
    medians = np.empty(image.shape, dtype=np.int32)
    _slide(
        padded,
        2 * radius + 1,
        block_size,
        np.zeros(n_blocks * block_size, dtype=np.int16),
        np.zeros(n_blocks, dtype=np.int16),
        medians,
    )
    filtered: NDArray[np.floating] = levels[medians]
    return filtered
