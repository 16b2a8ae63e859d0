"""One person's head: the template's tissue seen through that person's deformation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bids_alsmri.phantom.deformation import Deformation
from bids_alsmri.phantom.geometry import Grid, transform_points
from bids_alsmri.phantom.head import Head, HeadSample, sample_head

Floats = NDArray[np.float64]

# Points are taken in slabs of about this many, which bounds memory whatever the image size.
SLAB_POINTS = 400_000


@dataclass(frozen=True)
class Anatomy:
    """A head with its shape.

    Parameters
    ----------
    head : Head
        Tissue in template space.
    deformation : Deformation
        From the person's T1w space to the template.
    """

    head: Head
    deformation: Deformation

    def sample(self, points_mm: Floats) -> HeadSample:
        """Tissue at points of the person's T1w space.

        Parameters
        ----------
        points_mm : (..., 3) array
            Positions in mm.

        Returns
        -------
        HeadSample
            Tissue there.
        """
        return sample_head(self.head, self.deformation.to_template(points_mm))

    def sample_grid(self, grid: Grid, grid_to_t1w: Floats) -> HeadSample:
        """Tissue at every voxel of a grid.

        Parameters
        ----------
        grid : Grid
            The grid, in the world of its own scan.
        grid_to_t1w : (4, 4) array
            From that world to the person's T1w space, in mm.

        Returns
        -------
        HeadSample
            Arrays of the grid's shape.
        """
        names = HeadSample.__dataclass_fields__
        full = {name: np.empty(grid.shape, dtype=np.float32) for name in names}
        for first, last in slabs(grid):
            points = transform_points(grid_to_t1w, grid.points_mm(first, last))
            part = self.sample(points)
            for name in names:
                full[name][first:last] = getattr(part, name)
        return HeadSample(**full)


def slabs(grid: Grid) -> list[tuple[int, int]]:
    """Ranges of the first axis that hold about `SLAB_POINTS` points each.

    Parameters
    ----------
    grid : Grid
        The grid.

    Returns
    -------
    list of (int, int)
        First slab and one past the last.

    Examples
    --------
    >>> slabs(Grid((5, 1000, 200), np.eye(4)))
    [(0, 2), (2, 4), (4, 5)]
    """
    step = max(1, SLAB_POINTS // (grid.shape[1] * grid.shape[2]))
    return [(first, min(first + step, grid.shape[0])) for first in range(0, grid.shape[0], step)]
