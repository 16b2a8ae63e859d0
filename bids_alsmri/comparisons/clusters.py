"""Significant voxels as tables: clusters, the regions they lie in, and all regions' means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.checks import require_finite, require_range
from bids_alsmri.spaces.atlases import Atlas

SELECTION_NOTE = "selected voxels, biased upward"
SIZE_NOTE = (
    "Clusters are connected voxels whose corrected p-value is below the threshold. The inference "
    "is per voxel: the size of a cluster has no p-value."
)

_ORDERS = {6: 1, 18: 2, 26: 3}  # of scipy's structuring elements, by number of neighbours

_CLUSTER_COLUMNS: dict[str, type] = {
    "cluster": int,
    "n_voxels": int,
    "volume_mm3": float,
    "peak_x_mm": float,
    "peak_y_mm": float,
    "peak_z_mm": float,
    "p_fwe": float,
    "t": float,
    "effect": float,
    "difference": float,
    "unit": str,
}
_REGION_COLUMNS: dict[str, type] = {
    "participant_id": str,
    "atlas": str,
    "region": str,
    "side": str,
    "measure": str,
    "value": float,
    "unit": str,
    "n_voxels": int,
}
_OVERLAP_COLUMNS: dict[str, type] = {
    "cluster": int,
    "atlas": str,
    "region": str,
    "side": str,
    "share_of_cluster": float,
    "share_of_region": float,
    "n_voxels": int,
}


@dataclass(frozen=True, eq=False)
class ContrastMaps:
    """Results of a contrast at the voxels of a mask, in the order of ``image[mask]``.

    Parameters
    ----------
    mask : (nx, ny, nz) array of bool
        Voxels that were tested.
    affine : (4, 4) array
        Voxel indices to world millimetres (RAS+).
    p_fwe : (m,) array
        P-values corrected for all voxels, 0 to 1.
    t : (m,) array
        Test statistic; of either sign where the test was two-sided.
    effect : (m,) array
        Standardised effect, such as Cohen's d.
    difference : (m,) array
        Difference in units of the map.
    unit : str
        Of the map.

    Raises
    ------
    NumericsError
        If shapes do not fit, the mask is empty, or p is no p-value.

    Notes
    -----
    t, effect and difference are NaN where there is none, as everywhere in maps that combine
    modalities.
    """

    mask: NDArray[np.bool_]
    affine: NDArray[np.float64]
    p_fwe: NDArray[np.floating]
    t: NDArray[np.floating]
    effect: NDArray[np.floating]
    difference: NDArray[np.floating]
    unit: str

    def __post_init__(self) -> None:
        _require_mask(self.mask)
        for name in ("p_fwe", "t", "effect", "difference"):
            _require_voxels(name, getattr(self, name), self.mask, n_axes=1)
        require_finite("p_fwe", self.p_fwe)
        for extreme in (self.p_fwe.min(), self.p_fwe.max()):
            require_range("p_fwe", float(extreme), 0.0, 1.0)


@dataclass(frozen=True, eq=False)
class Clusters:
    """Connected significant voxels.

    Parameters
    ----------
    table : DataFrame
        One row per cluster, the largest first: ``cluster`` (from 1), ``n_voxels``,
        ``volume_mm3``; of its peak ``peak_x_mm``, ``peak_y_mm``, ``peak_z_mm``, ``p_fwe``, ``t``,
        ``effect`` and ``difference``, in ``unit``; of each group ``n_<group>``, and
        ``mean_<group>`` and ``sd_<group>`` over its participants of their means in the cluster,
        in ``unit``; ``note``, which is `SELECTION_NOTE`.
    labels : (nx, ny, nz) array of int32
        Number of the cluster of each voxel; 0 for none.
    """

    table: pd.DataFrame
    labels: NDArray[np.int32]


def find_clusters(
    maps: ContrastMaps,
    *,
    alpha: float,
    connectivity: int,
    groups: Mapping[str, NDArray[np.floating]],
) -> Clusters:
    """Clusters of voxels whose corrected p-value is below a threshold.

    Parameters
    ----------
    maps : ContrastMaps
        Results of one contrast.
    alpha : float
        Threshold, above 0, at most 1; p has to lie below it.
    connectivity : {6, 18, 26}
        Voxels that share a face, an edge too, a corner too.
    groups : mapping of str to (n, m) array
        Map of each participant (rows) at the voxels of the mask, by name of the group; finite.

    Returns
    -------
    Clusters
        Voxels of opposite sign of t never share a cluster. Without a significant voxel the table
        has no row, and all its columns.

    Raises
    ------
    NumericsError
        If the threshold or the connectivity is none, or shapes do not fit.

    Notes
    -----
    The peak is the voxel of the smallest p; of several, that of the largest absolute t; of
    several, the first of the image. Means of groups describe the voxels that were selected for
    their difference and overstate it; `region_means` describes regions chosen beforehand. Their
    SD is over participants (n - 1), as El Mendili 2022 (doi:10.3174/ajnr.A7559) prints it.

    Examples
    --------
    >>> maps = ContrastMaps(
    ...     np.ones((4, 1, 1), bool), np.eye(4), np.array([0.01, 0.02, 0.5, 0.03]),
    ...     np.array([5.0, 4.0, 1.0, 3.0]), np.ones(4), np.ones(4), "mmol/l")
    >>> groups = {"als": np.array([[3.0, 1.0, 0.0, 9.0], [5.0, 3.0, 0.0, 9.0]])}
    >>> found = find_clusters(maps, alpha=0.05, connectivity=26, groups=groups)
    >>> found.table[["n_voxels", "peak_x_mm", "mean_als"]].to_numpy().tolist()
    [[2.0, 0.0, 3.0], [1.0, 3.0, 9.0]]
    """
    require_range("alpha", alpha, 0.0, 1.0, open_low=True)
    for name, values in groups.items():
        _require_voxels(f"groups['{name}']", values, maps.mask, n_axes=2)
        require_finite(f"groups['{name}']", values)
    cluster_of = _connected(maps, alpha, connectivity)
    voxels = np.argwhere(maps.mask)
    rows = []
    for number in range(1, int(cluster_of.max()) + 1):
        members = np.flatnonzero(cluster_of == number)
        row: dict[str, object] = {"cluster": number, **_size_and_peak(maps, voxels, members)}
        for name, values in groups.items():
            row |= _group_summary(name, values[:, members])
        rows.append({**row, "note": SELECTION_NOTE})
    columns = dict(_CLUSTER_COLUMNS)
    for name in groups:
        columns |= {f"n_{name}": int, f"mean_{name}": float, f"sd_{name}": float}
    labels = np.zeros(maps.mask.shape, dtype=np.int32)
    labels[maps.mask] = cluster_of
    return Clusters(_table(rows, {**columns, "note": str}), labels)


def overlap_regions(
    clusters: Clusters, maps: ContrastMaps, atlases: Sequence[Atlas]
) -> pd.DataFrame:
    """Regions that clusters lie in, the largest share of a cluster first.

    Parameters
    ----------
    clusters : Clusters
        Of `find_clusters`.
    maps : ContrastMaps
        From which they are.
    atlases : sequence of Atlas
        On the grid of the maps (`bids_alsmri.spaces.atlases.on_grid`).

    Returns
    -------
    DataFrame
        One row per cluster, atlas and region that have a voxel in common: ``cluster``,
        ``atlas``, ``region``, ``side``, ``share_of_cluster`` and ``share_of_region`` (0 to 1; of
        the region's voxels that were tested), ``n_voxels`` in common. Equal shares stand in the
        order of the atlas. Shares of a cluster add up to less than 1 where it leaves the regions.

    Raises
    ------
    NumericsError
        If an atlas lies on another grid.

    Examples
    --------
    >>> from bids_alsmri.spaces.atlases import Region
    >>> maps = ContrastMaps(
    ...     np.ones((4, 1, 1), bool), np.eye(4), np.array([0.01, 0.01, 0.01, 0.5]),
    ...     np.ones(4), np.ones(4), np.ones(4), "1")
    >>> labels = np.array([1, 2, 2, 2], np.int32).reshape(4, 1, 1)
    >>> regions = (Region(1, "Genu", "n/a"), Region(2, "Body", "n/a"))
    >>> atlas = Atlas("JHU", "MNI152NLin6Asym", regions, labels, np.eye(4), "jhu.nii.gz")
    >>> found = find_clusters(maps, alpha=0.05, connectivity=26, groups={})
    >>> shares = ["region", "share_of_cluster", "share_of_region"]
    >>> overlap_regions(found, maps, [atlas])[shares].round(2).to_numpy().tolist()
    [['Body', 0.67, 0.67], ['Genu', 0.33, 1.0]]
    """
    cluster_of = clusters.labels[maps.mask]
    size_of = np.bincount(cluster_of)
    rows: list[dict[str, Any]] = []
    for atlas in atlases:
        _require_grid(atlas, maps.mask, maps.affine)
        n_bins = len(atlas.regions) + 1
        pairs = cluster_of * n_bins + _regions_of(atlas, maps.mask)
        # cluster in rows, region in columns; row and column 0 are outside of all
        shared = np.bincount(pairs, minlength=len(size_of) * n_bins).reshape(-1, n_bins)
        n_tested = shared.sum(axis=0)
        own: list[dict[str, Any]] = [
            {
                "cluster": int(cluster),
                "atlas": atlas.name,
                "region": atlas.regions[column - 1].name,
                "side": atlas.regions[column - 1].side,
                "share_of_cluster": shared[cluster, column] / size_of[cluster],
                "share_of_region": shared[cluster, column] / n_tested[column],
                "n_voxels": int(shared[cluster, column]),
            }
            for cluster, column in np.argwhere(shared[1:, 1:]) + 1
        ]
        rows += sorted(own, key=lambda row: -row["n_voxels"])
    rows.sort(key=lambda row: row["cluster"])  # atlases keep their order
    return _table(rows, _OVERLAP_COLUMNS)


def describe_regions(overlap: pd.DataFrame, cluster: int, *, least_share: float) -> str:
    """Where a cluster lies, in the words of the atlases.

    Parameters
    ----------
    overlap : DataFrame
        Of `overlap_regions`.
    cluster : int
        Number of the cluster.
    least_share : float
        Of the cluster, 0 to 1: regions with less are not named.

    Returns
    -------
    str
        Atlas by atlas the regions with their shares of the cluster in percent, the largest
        first; "in no region" where none is named.

    Examples
    --------
    >>> overlap = pd.DataFrame({"cluster": [1, 1, 1], "atlas": ["JHU", "JHU", "HO"],
    ...     "region": ["Corticospinal tract R", "Genu", "Precentral gyrus"],
    ...     "share_of_cluster": [0.41, 0.02, 0.004]})
    >>> describe_regions(overlap, 1, least_share=0.0)
    'JHU: Corticospinal tract R (41 %), Genu (2 %); HO: Precentral gyrus (<1 %)'
    >>> describe_regions(overlap, 1, least_share=0.1)
    'JHU: Corticospinal tract R (41 %)'
    """
    is_named = (overlap["cluster"] == cluster) & (overlap["share_of_cluster"] >= least_share)
    parts: dict[str, list[str]] = {}
    for row in overlap[is_named].to_dict("records"):
        percent = round(100 * row["share_of_cluster"])
        text = f"{row['region']} ({percent if percent else '<1'} %)"
        parts.setdefault(row["atlas"], []).append(text)
    named = "; ".join(f"{atlas}: {', '.join(regions)}" for atlas, regions in parts.items())
    return named or "in no region"


def region_means(
    values: NDArray[np.floating],
    mask: NDArray[np.bool_],
    affine: NDArray[np.floating],
    atlases: Sequence[Atlas],
    *,
    participants: Sequence[str],
    measure: str,
    unit: str,
) -> pd.DataFrame:
    """Mean of a map in every region for every participant, whatever is significant.

    Parameters
    ----------
    values : (n, m) array
        Map of each participant (rows) at the voxels of the mask, finite.
    mask : (nx, ny, nz) array of bool
        The voxels.
    affine : (4, 4) array
        Voxel indices of the mask to world millimetres.
    atlases : sequence of Atlas
        On the grid of the mask (`bids_alsmri.spaces.atlases.on_grid`).
    participants : sequence of str
        Labels of the rows.
    measure, unit : str
        Name and unit of the map.

    Returns
    -------
    DataFrame
        In long form, one row per participant, atlas and region: ``participant_id``, ``atlas``,
        ``region``, ``side``, ``measure``, ``value`` (NaN where the mask holds no voxel of the
        region), ``unit``, ``n_voxels`` of the region within the mask.

    Raises
    ------
    NumericsError
        If shapes do not fit, an atlas lies on another grid, or a value is not finite.

    Examples
    --------
    >>> from bids_alsmri.spaces.atlases import Region
    >>> labels = np.array([1, 1, 0], np.int32).reshape(3, 1, 1)
    >>> atlas = Atlas("A", "T1w", (Region(1, "Genu", "n/a"),), labels, np.eye(4), "a.nii.gz")
    >>> table = region_means(np.array([[0.4, 0.6, 9.0]]), np.ones((3, 1, 1), bool), np.eye(4),
    ...     [atlas], participants=["sub-01"], measure="fa", unit="1")
    >>> table[["region", "value", "n_voxels"]].to_numpy().tolist()
    [['Genu', 0.5, 2]]
    """
    _require_mask(mask)
    _require_voxels("values", values, mask, n_axes=2)
    require_finite("values", values)
    if len(participants) != len(values):
        raise NumericsError(
            f"values has {len(values)} rows, but participants {len(participants)} labels; give one "
            "for each row"
        )
    n = len(values)
    regions = [(atlas.name, region) for atlas in atlases for region in atlas.regions]
    counts, means = [np.zeros(0, np.int64)], [np.zeros((n, 0))]
    for atlas in atlases:
        _require_grid(atlas, mask, affine)
        region_of = _regions_of(atlas, mask)
        n_bins = len(atlas.regions) + 1
        n_voxels = np.bincount(region_of, minlength=n_bins)[1:]
        # row by row in double precision: a float32 sum of a large region loses digits
        sums = np.array([np.bincount(region_of, row, n_bins)[1:] for row in values])
        with np.errstate(invalid="ignore"):
            means.append(sums.reshape(n, -1) / n_voxels)
        counts.append(n_voxels)
    return pd.DataFrame(
        {
            "participant_id": np.repeat(np.asarray(participants, dtype=object), len(regions)),
            "atlas": [name for name, _ in regions] * n,
            "region": [region.name for _, region in regions] * n,
            "side": [region.side for _, region in regions] * n,
            "measure": measure,
            "value": np.hstack(means).ravel(),
            "unit": unit,
            "n_voxels": np.tile(np.concatenate(counts), n),
        }
    ).astype(_REGION_COLUMNS)


def _connected(maps: ContrastMaps, alpha: float, connectivity: int) -> NDArray[np.int64]:
    """Number of the cluster of each voxel of the mask, by size; 0 for none."""
    if connectivity not in _ORDERS:
        raise NumericsError(f"connectivity is {connectivity}; give 6, 18 or 26")
    near = ndimage.generate_binary_structure(3, _ORDERS[connectivity])
    is_negative = maps.t < 0  # not where there is no t
    found = np.zeros(len(maps.t), dtype=np.int64)
    for sign in (~is_negative, is_negative):
        image = np.zeros(maps.mask.shape, dtype=np.bool_)
        image[maps.mask] = sign & (maps.p_fwe < alpha)
        labels, _ = ndimage.label(image, near)
        own = labels[maps.mask]
        found[own > 0] = own[own > 0] + found.max()
    sizes = np.bincount(found)[1:]
    rank = np.zeros(len(sizes) + 1, dtype=np.int64)
    rank[1 + np.argsort(-sizes, kind="stable")] = np.arange(1, len(sizes) + 1)
    return rank[found]


def _size_and_peak(
    maps: ContrastMaps, voxels: NDArray[np.intp], members: NDArray[np.intp]
) -> dict[str, object]:
    """Columns of a cluster, given indices of the mask's voxels, and its own among them."""
    strength = np.where(np.isnan(maps.t), 0.0, np.abs(maps.t))[members]
    peak = members[np.lexsort((-strength, maps.p_fwe[members]))[0]]
    x_mm, y_mm, z_mm = maps.affine[:3, :3] @ voxels[peak] + maps.affine[:3, 3]
    return {
        "n_voxels": len(members),
        "volume_mm3": len(members) * abs(np.linalg.det(maps.affine[:3, :3])),
        "peak_x_mm": x_mm,
        "peak_y_mm": y_mm,
        "peak_z_mm": z_mm,
        "p_fwe": maps.p_fwe[peak],
        "t": maps.t[peak],
        "effect": maps.effect[peak],
        "difference": maps.difference[peak],
        "unit": maps.unit,
    }


def _group_summary(name: str, values: NDArray[np.floating]) -> dict[str, object]:
    """Columns of a group in a cluster, given its participants' values there."""
    means = values.mean(axis=1, dtype=np.float64)
    return {
        f"n_{name}": len(means),
        f"mean_{name}": means.mean() if len(means) else np.nan,
        f"sd_{name}": means.std(ddof=1) if len(means) > 1 else np.nan,
    }


def _regions_of(atlas: Atlas, mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Place in the atlas's table, from 1, of the region of each voxel of a mask; 0 for none."""
    labels = np.array([0, *(region.label for region in atlas.regions)])
    order = np.argsort(labels)
    own = atlas.labels[mask]
    place = np.searchsorted(labels[order], own).clip(max=len(labels) - 1)
    return np.where(labels[order][place] == own, order[place], 0)


def _require_mask(mask: NDArray[np.bool_]) -> None:
    if mask.ndim != 3 or mask.dtype != np.bool_ or not mask.any():
        raise NumericsError(
            f"mask has shape {mask.shape}, type {mask.dtype} and {np.count_nonzero(mask)} voxels; "
            "give 3 axes of bool and at least one voxel"
        )


def _require_voxels(
    name: str, values: NDArray[np.floating], mask: NDArray[np.bool_], *, n_axes: int
) -> None:
    n = np.count_nonzero(mask)
    if values.ndim != n_axes or values.shape[-1] != n:
        due = f"({n},)" if n_axes == 1 else f"(participants, {n})"
        raise NumericsError(
            f"{name} has shape {values.shape}, but the mask {n} voxels; give {due}, in the order "
            "of image[mask]"
        )


def _require_grid(atlas: Atlas, mask: NDArray[np.bool_], affine: NDArray[np.floating]) -> None:
    if atlas.labels.shape != mask.shape or not np.allclose(atlas.affine, affine, atol=1e-3):
        raise NumericsError(
            f"atlas {atlas.name} lies on a grid of {atlas.labels.shape} voxels with the origin "
            f"{atlas.affine[:3, 3].round(1).tolist()} mm, the maps on {mask.shape} with "
            f"{np.asarray(affine)[:3, 3].round(1).tolist()} mm; bring it there with on_grid"
        )


def _table(rows: Sequence[Mapping[str, object]], columns: Mapping[str, type]) -> pd.DataFrame:
    """Rows as a table whose columns have their types also where there is no row."""
    return pd.DataFrame(rows, columns=list(columns)).astype(dict(columns))
