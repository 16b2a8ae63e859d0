"""Layers of equal volume in the cortex of a slab."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bids_alsmri.numerics.laminar import cortical_depth, layer_labels

# beyond this ratio of edges a slice says little about the course of the cortex to the next one
THICK_SLICE = 2.0


def equivolume_layers(
    labels: NDArray[np.integer[Any]],
    voxel_mm: Sequence[float],
    *,
    n_layers: int,
    smoothing_steps: int,
) -> tuple[NDArray[np.float32], NDArray[np.int16]]:
    """Depth by volume and layers of the cortex of a slab.

    Parameters
    ----------
    labels : (X, Y, Z) array of int
        Fluid 1, white matter 2 and cortex 3, slices along the last axis.
    voxel_mm : sequence of float
        Edges of a voxel, in mm. Slices more than `THICK_SLICE` times thicker than wide are taken
        each by itself.
    n_layers : int
        How many layers, 1 to 100.
    smoothing_steps : int
        Of `cortical_depth`.

    Returns
    -------
    depth : (X, Y, Z) array of float32
        Share of the cortex's volume between the voxel and white matter, 0 to 1; 0 too outside the
        cortex, and in cortex that does not reach from white matter to fluid.
    layers : (X, Y, Z) array of int16
        1 at white matter to `n_layers` at the outer surface, 0 where there is no depth.

    Raises
    ------
    NumericsError
        If a tissue is absent, no cortex touches the others, or a number is out of range.

    Examples
    --------
    >>> flat = np.full((12, 3, 2), 3)
    >>> flat[0], flat[-1] = 2, 1
    >>> depth, layers = equivolume_layers(
    ...     flat, [0.25, 0.25, 2.0], n_layers=2, smoothing_steps=0
    ... )
    >>> depth[:4, 1, 0].astype(float).round(2).tolist()
    [0.0, 0.05, 0.15, 0.25]
    >>> layers[:, 1, 0].tolist()
    [0, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 0]
    """
    found = cortical_depth(
        labels,
        voxel_mm,
        surface="levels",
        in_plane=voxel_mm[2] > THICK_SLICE * max(voxel_mm[:2]),
        smoothing_steps=smoothing_steps,
    )
    layers = layer_labels(found.equivolume, n_layers=n_layers, is_measured=found.is_measured)
    depth = np.where(found.is_measured, np.nan_to_num(found.equivolume), 0.0)
    return depth.astype(np.float32), layers


def layer_names(n_layers: int) -> pd.DataFrame:
    """Numbers and names of layers.

    Parameters
    ----------
    n_layers : int
        How many.

    Returns
    -------
    DataFrame
        index and name, from white matter outwards.

    Examples
    --------
    >>> layer_names(4)["name"].tolist()[:2]
    ['depth 0 to 0.25 (at white matter)', 'depth 0.25 to 0.5']
    """
    ends = [f"{n / n_layers:.3g}" for n in range(n_layers + 1)]
    names = [f"depth {low} to {high}" for low, high in itertools.pairwise(ends)]
    names[0] += " (at white matter)"
    names[-1] += " (at the outer surface)"
    return pd.DataFrame({"index": range(1, n_layers + 1), "name": names})
