"""What of the motor areas a slab shows, and ghosts beside the head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bids_alsmri.numerics.ghosting import ghost_share
from bids_alsmri.pipelines.cortex7t.slab import REFERENCE, Echoes, measured_areas, region_of

COARSE_MM = 2.0  # of the lattice on which areas are counted
BEYOND_MM = 50.0  # how far it goes on beyond the slab
NO_GHOSTS = (
    "ghosts of movement were not measured: PhaseEncodingDirection is not in the sidecars, or does "
    "not lie in the slice"
)
NO_AIR = "ghosts of movement were not measured: too little air is in view beside the head"


def lattice_about(
    shape: Sequence[int], affine: NDArray[np.float64]
) -> tuple[tuple[int, int, int], NDArray[np.float64]]:
    """Coarse grid along the axes of a slab that goes on beyond it on all sides.

    Parameters
    ----------
    shape : (3,) sequence of int
        Voxels of the slab.
    affine : (4, 4) array
        Its voxel indices to world, in mm.

    Returns
    -------
    shape : tuple of int
        Voxels of the grid.
    affine : (4, 4) array
        Its voxel indices to world, in mm.

    Examples
    --------
    >>> found, to_world = lattice_about((10, 10, 5), np.diag([2.0, 2.0, 4.0, 1.0]))
    >>> found, to_world[:3, 3].tolist()
    ((60, 60, 60), [-50.0, -50.0, -51.0])
    """
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    n_voxels = np.array(shape[:3])
    wanted = np.ceil((n_voxels * edges + 2 * BEYOND_MM) / COARSE_MM).astype(int).tolist()
    lattice = np.eye(4)
    lattice[:3, :3] = affine[:3, :3] / edges * COARSE_MM
    middle = affine[:3, :3] @ ((n_voxels - 1) / 2) + affine[:3, 3]
    lattice[:3, 3] = middle - lattice[:3, :3] @ ((np.array(wanted) - 1) / 2)
    return (wanted[0], wanted[1], wanted[2]), lattice


def shares_in_view(
    labels: NDArray[np.integer[Any]],
    lattice: NDArray[np.float64],
    shape: Sequence[int],
    affine: NDArray[np.float64],
) -> dict[int, float]:
    """Share of each area that lies within a slab.

    Parameters
    ----------
    labels : (X, Y, Z) array of int
        Areas on a grid that goes on beyond the slab.
    lattice : (4, 4) array
        Voxel indices of that grid to world, in mm.
    shape : (3,) sequence of int
        Voxels of the slab.
    affine : (4, 4) array
        Its voxel indices to world, in mm.

    Returns
    -------
    dict of float
        By label, 0 to 1; 0 for areas that lie beyond that grid too.

    Examples
    --------
    >>> labels = np.zeros((8, 4, 4), int)
    >>> labels[2:6] = measured_areas()[0].label
    >>> found = shares_in_view(labels, np.eye(4), (4, 4, 4), np.eye(4))
    >>> found[measured_areas()[0].label]
    0.5
    """
    to_slab = np.linalg.inv(affine) @ lattice
    shares = {}
    for area in measured_areas():
        places = np.argwhere(labels == area.label) @ to_slab[:3, :3].T + to_slab[:3, 3]
        inside = np.all((places >= -0.5) & (places < np.array(shape[:3]) - 0.5), axis=1)
        shares[area.label] = float(inside.mean()) if len(places) else 0.0
    return shares


def rows_of_coverage(shares: Mapping[int, float]) -> list[dict[str, Any]]:
    """Rows of the table of areas that tell how much of each is in view.

    Parameters
    ----------
    shares : mapping of float
        Of `shares_in_view`.

    Returns
    -------
    list of dict
        Region, side, measure, value, unit, n, note and source.
    """
    return [
        {
            "region": region_of(area),
            "side": area.side,
            "measure": "coverage",
            "value": shares[area.label],
            "unit": "1",
            "n": float("nan"),
            "note": "share of the area of the template that lies in the slab",
            "source": "template",
        }
        for area in measured_areas()
    ]


def quality_of_coverage(shares: Mapping[int, float]) -> list[dict[str, Any]]:
    """Measures of quality: how many motor areas are in view, and the worst cut one.

    Parameters
    ----------
    shares : mapping of float
        Of `shares_in_view`.

    Returns
    -------
    list of dict
        Measure and value.
    """
    motor = [shares[a.label] for a in measured_areas() if region_of(a) != REFERENCE]
    seen = [share for share in motor if share > 0.0]
    return [
        {"measure": "areas_in_view", "value": len(seen)},
        {"measure": "least_coverage", "value": min(seen) if seen else float("nan")},
    ]


def quality_of_ghosts(
    echoes: Echoes, *, object_share: float, margin_mm: float
) -> tuple[list[dict[str, Any]], list[str]]:
    """Measures of quality: ghosts of the first and last echo.

    Parameters
    ----------
    echoes : Echoes
        Of `read_echoes`.
    object_share, margin_mm : float
        Of `ghost_share`.

    Returns
    -------
    measures : list of dict
        Measure and value; none where it cannot be told, which is no fault of the images.
    notes : list of str
        Why it cannot.
    """
    names = {"ghosts_first_echo": 0, "ghosts_last_echo": -1}
    if echoes.encoded_axis is None:
        return [], [NO_GHOSTS]
    edges = np.linalg.norm(echoes.affine[:3, :3], axis=0)
    measures: list[dict[str, Any]] = [
        {
            "measure": name,
            "value": ghost_share(
                echoes.data[..., index],
                edges,
                axis=echoes.encoded_axis,
                object_share=object_share,
                margin_mm=margin_mm,
            ),
        }
        for name, index in names.items()
    ]
    told = [row for row in measures if np.isfinite(row["value"])]
    return told, [] if len(told) == len(measures) else [NO_AIR]
