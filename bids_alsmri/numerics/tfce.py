"""Threshold-free cluster enhancement, exact, on images and on any other graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.checks import require_finite, require_range
from bids_alsmri.numerics.compile import kernel

_BITS_HIGH = 10  # of the 32 of a height; the sort takes them in three goes
_BITS_LOW = 11
_FEW_CELLS = 8  # for each element: so many are cleared faster as a whole
_FEWEST_LABELS = 65535  # what two bytes hold: as long as they do, labels stay in the cache

_Image = NDArray[np.float32]
_Cells = NDArray[np.uint32]
_Pairs = NDArray[np.uint64]
_Labels = NDArray[Any]  # uint16 or uint32
_Table = NDArray[np.float64]


@dataclass(frozen=True)
class Neighbourhood:
    """Which elements of a map are neighbours.

    Elements lie in cells, numbered from 0; an empty cell, whose label stays 0, stands where an
    element has no neighbour.

    Attributes
    ----------
    cells : (n,) array of uint32
        Cell of each element.
    steps : (1 or n_cells, degree) array of int64
        From a cell to its neighbours: one row for all cells of an image, one for each of a graph.
    n_cells : int
        Number of cells.
    """

    cells: _Cells
    steps: NDArray[np.int64]
    n_cells: int

    @property
    def n_elements(self) -> int:
        """Number of elements."""
        return len(self.cells)


def image_neighbourhood(mask: NDArray[np.bool_], connectivity: int) -> Neighbourhood:
    """Neighbours among the voxels of a mask.

    Parameters
    ----------
    mask : (X, Y, Z) array of bool
        The voxels; elements are numbered as by ``values[mask]``.
    connectivity : {6, 18, 26}
        Voxels that share a face, an edge too, a corner too.

    Returns
    -------
    Neighbourhood
        Of the voxels.

    Raises
    ------
    NumericsError
        If the mask is no 3D mask, is empty, or the connectivity is none of the three.

    Examples
    --------
    >>> image_neighbourhood(np.ones((2, 2, 2), bool), 6).steps.shape
    (1, 6)
    """
    mask = np.asarray(mask)
    if mask.ndim != 3 or mask.dtype != np.bool_:
        raise NumericsError(f"mask has {mask.ndim} axes of type {mask.dtype}; give 3 of bool")
    if not mask.any():
        raise NumericsError("mask holds no voxel; look whether all maps cover the same region")
    orders = {6: 1, 18: 2, 26: 3}
    if connectivity not in orders:
        raise NumericsError(f"connectivity is {connectivity}; give 6, 18 or 26")
    # within its bounding box, and a rim so that every voxel has all neighbours
    found = np.pad(mask[ndimage.find_objects(mask.astype(np.uint8))[0]], 1)
    near = ndimage.generate_binary_structure(3, orders[connectivity])
    near[1, 1, 1] = False
    strides = np.array([found.shape[1] * found.shape[2], found.shape[2], 1])
    steps = (np.argwhere(near) - 1) @ strides
    cells = np.flatnonzero(found).astype(np.uint32)
    return Neighbourhood(cells, np.ascontiguousarray(steps[np.newaxis], np.int64), found.size)


def graph_neighbourhood(n_elements: int, edges: NDArray[np.integer]) -> Neighbourhood:
    """Neighbours in a graph, such as the vertices of a surface.

    Parameters
    ----------
    n_elements : int
        Number of elements.
    edges : (m, 2) array of int
        Pairs of neighbours, from 0, in any order; each may be given more than once.

    Returns
    -------
    Neighbourhood
        Of the elements.

    Raises
    ------
    NumericsError
        If an edge leads to an element that is not there, or from one to itself.

    Examples
    --------
    >>> graph_neighbourhood(3, np.array([[0, 1], [1, 2]])).steps.shape
    (4, 2)
    """
    edges = np.asarray(edges)
    if edges.ndim != 2 or edges.shape[1] != 2 or edges.dtype.kind not in "iu":
        raise NumericsError(
            f"edges has shape {edges.shape} and type {edges.dtype}; give (m, 2) of int"
        )
    if edges.size and (edges.min() < 0 or edges.max() >= n_elements):
        raise NumericsError(
            f"edges name elements from {edges.min()} to {edges.max()}; there are {n_elements}, "
            "numbered from 0"
        )
    if np.any(edges[:, 0] == edges[:, 1]):
        raise NumericsError("edges join an element to itself; leave such pairs out")
    both = np.unique(np.concatenate([edges, edges[:, ::-1]]).astype(np.int64), axis=0)
    counts = np.bincount(both[:, 0], minlength=n_elements)
    column = np.arange(len(both)) - np.repeat(np.cumsum(counts) - counts, counts)
    # cell 0 is the empty one
    neighbours = np.zeros((n_elements + 1, max(int(counts.max(initial=0)), 1)), np.int64)
    neighbours[both[:, 0] + 1, column] = both[:, 1] + 1
    cells = np.arange(1, n_elements + 1, dtype=np.uint32)
    steps = neighbours - np.arange(n_elements + 1)[:, np.newaxis]
    return Neighbourhood(cells, np.ascontiguousarray(steps), n_elements + 1)


class _Clusters(NamedTuple):
    """Clusters during a sweep, by label from 1; a label that was merged points to its root."""

    of_cell: _Labels
    root: _Labels
    following: _Labels  # the labels of one root, as a linked list
    last: _Labels
    size: _Cells


class _Powers(NamedTuple):
    """The two exponents, one of them as a table over the extent."""

    of_height: float
    of_extent: _Table  # extent ** E


class _Trace(NamedTuple):
    """What a map needs beside the clusters, by place in the order of heights."""

    newest: NDArray[np.int32]  # place of each cluster's last element, by label
    following: NDArray[np.int32]  # place of the next element of the cluster; -1 for none
    extent: NDArray[np.int32]
    value: _Table


@kernel
def _fill(statistic: _Image, cells: _Cells, pairs: _Pairs, counts: NDArray[np.int64]) -> int:
    # a float's bits, the sign turned over, or all bits of a negative one, sort as unsigned integers
    bits = statistic.view(np.uint32)
    counts[:] = 0
    n_negative = 0
    for i in range(statistic.shape[0]):
        b = bits[i]
        if b >> np.uint32(31):
            key = np.uint32(~b)
            n_negative += 1
        else:
            key = np.uint32(b | np.uint32(0x80000000))
        pairs[i] = (np.uint64(key) << np.uint64(32)) | np.uint64(cells[i])
        counts[0, key & np.uint32(0x7FF)] += 1
        counts[1, (key >> np.uint32(_BITS_LOW)) & np.uint32(0x7FF)] += 1
        counts[2, key >> np.uint32(2 * _BITS_LOW)] += 1
    return n_negative


@kernel
def _scatter(source: _Pairs, counts: NDArray[np.int64], shift: int, target: _Pairs) -> None:
    total = 0
    for i in range(counts.shape[0]):
        count = counts[i]
        counts[i] = total
        total += count
    for k in range(source.shape[0]):
        pair = source[k]
        digit = (pair >> np.uint64(shift)) & np.uint64(0x7FF)
        place = counts[digit]
        target[np.uint64(place)] = pair
        counts[digit] = place + 1


@kernel
def _sort(
    statistic: _Image, cells: _Cells, spare: _Pairs, pairs: _Pairs, counts: NDArray[np.int64]
) -> int:
    # cells (low half of each pair) by ascending statistic, with its magnitude (high half); returns
    # how many are negative
    n_negative = _fill(statistic, cells, spare, counts)
    _scatter(spare, counts[0], 32, pairs)
    _scatter(pairs, counts[1], 32 + _BITS_LOW, spare)
    _scatter(spare, counts[2, : 1 << _BITS_HIGH], 32 + 2 * _BITS_LOW, pairs)
    halves = pairs.view(np.uint32)
    for k in range(pairs.shape[0]):
        key = halves[np.uint64(2 * k + 1)]
        bits = np.uint32(~key) if k < n_negative else key
        halves[np.uint64(2 * k + 1)] = bits & np.uint32(0x7FFFFFFF)
    return n_negative


@kernel
def _power(height: float, exponent: float) -> float:
    # a general power takes ten times as long
    if exponent == 3.0:
        return height * height * height
    if exponent == 2.0:
        return height * height
    power: float = height**exponent
    return power


@kernel
def _merge(root: np.uint64, other: np.uint64, c: _Clusters) -> np.uint64:
    n, m = c.size[root], c.size[other]
    if m > n:
        root, other = other, root
    label = other
    while label != np.uint64(0):
        c.root[label] = root
        label = np.uint64(c.following[label])
    c.following[c.last[root]] = other
    c.last[root] = c.last[other]
    c.size[root] = n + m
    return root


class Enhancer:
    """Enhanced values of many maps on one neighbourhood, with memory taken once.

    Parameters
    ----------
    neighbourhood : Neighbourhood
        Of the maps' elements.
    height_power, extent_power : float
        H and E, each above 0 and at most 10.

    Notes
    -----
    One sort serves both signs. Elements then enter from the highest down; the only thing that is
    looked up far away is the label of a neighbour, two bytes. Not for two threads at a time.

    Examples
    --------
    >>> line = graph_neighbourhood(3, np.array([[0, 1], [1, 2]]))
    >>> Enhancer(line, height_power=2.0, extent_power=0.5).map(np.array([0, 3, -3], "f4"))
    array([ 0.,  9., -9.])
    """

    def __init__(
        self, neighbourhood: Neighbourhood, *, height_power: float, extent_power: float
    ) -> None:
        self._neighbourhood = neighbourhood
        self._powers = _make_powers(neighbourhood.n_elements, height_power, extent_power)
        n = neighbourhood.n_elements
        self._pairs, self._spare = np.empty((2, n), np.uint64)
        self._counts = np.empty((3, 1 << _BITS_LOW), np.int64)
        self._clusters = _make_clusters(neighbourhood, min(n, _FEWEST_LABELS))
        self._trace = _make_trace(neighbourhood, self._clusters)
        self._by_cell, self._map = np.zeros(neighbourhood.n_cells), np.zeros(n)

    def map(self, statistic: _Image) -> _Table:
        """Enhanced value of every element, with the sign of the statistic.

        Parameters
        ----------
        statistic : (n,) array of float32
            Without NaN.

        Returns
        -------
        (n,) array of float64
            As :func:`enhance` of the same values; overwritten by the next call.
        """
        return self.map_and_widest(statistic, np.inf)[0]

    def map_and_widest(self, statistic: _Image, height: float) -> tuple[_Table, tuple[int, int]]:
        """What :meth:`map` gives, and the largest clusters above a height.

        Parameters
        ----------
        statistic : (n,) array of float32
            Without NaN.
        height : float
            Forming threshold of clusters, above 0.

        Returns
        -------
        enhanced : (n,) array of float64
            As of :meth:`map`; overwritten by the next call.
        extents : (int, int)
            Elements of the largest cluster at or above the height, and at or beyond its negative;
            0 where there are none.
        """
        n_negative = self._sort(statistic)
        cells, heights = self._pairs.view(np.uint32)[::2], self._pairs.view(np.float32)[1::2]
        self._clear()
        positive = self._fill_map(cells[n_negative:][::-1], heights[n_negative:][::-1], height)
        negative = self._fill_map(cells[:n_negative], heights[:n_negative], height)
        _gather(self._by_cell, self._neighbourhood.cells, statistic, self._map)
        return self._map, (positive, negative)

    def _clear(self) -> None:
        near = self._neighbourhood
        if near.n_cells > _FEW_CELLS * near.n_elements:
            self._by_cell[near.cells] = 0.0  # all that a map ever writes
        else:
            self._by_cell.fill(0.0)

    def _fill_map(self, cells: _Cells, heights: _Image, height: float) -> int:
        near, powers = self._neighbourhood, self._powers
        while not _fill_map(
            cells,
            heights,
            near.steps,
            powers,
            self._clusters,
            self._trace,
            self._by_cell,
        ):
            # only maps as rough as noise have so many peaks
            self._clusters = _make_clusters(near, near.n_elements)
            self._trace = _make_trace(near, self._clusters)
        if not np.isfinite(height):
            return 0
        # clusters only grow: the largest at a height is the largest that any element above joined
        n_above = np.count_nonzero(heights >= np.float64(height))
        return int(self._trace.extent[:n_above].max(initial=0))

    def _sort(self, statistic: _Image) -> int:
        if statistic.dtype != np.float32 or statistic.shape != (self._neighbourhood.n_elements,):
            raise NumericsError(
                f"statistic has shape {statistic.shape} and type {statistic.dtype}; give "
                f"{self._neighbourhood.n_elements} values of float32"
            )
        cells = self._neighbourhood.cells
        return int(_sort(statistic, cells, self._spare, self._pairs, self._counts))


def _make_powers(n: int, height_power: float, extent_power: float) -> _Powers:
    require_range("height_power", height_power, 0.0, 10.0, open_low=True)
    require_range("extent_power", extent_power, 0.0, 10.0, open_low=True)
    extent = np.arange(n + 2, dtype=np.float64) ** extent_power
    return _Powers(height_power + 1.0, extent)


def _make_clusters(neighbourhood: Neighbourhood, most: int) -> _Clusters:
    small: Any = np.uint16 if most <= _FEWEST_LABELS else np.uint32
    of_cell = np.zeros(neighbourhood.n_cells, small)
    root, following, last = (np.zeros(most + 1, small) for _ in range(3))
    size = np.zeros(most + 1, np.uint32)
    return _Clusters(of_cell, root, following, last, size)


@kernel
def _fill_map(
    cells: _Cells,
    heights: NDArray[np.floating],
    steps: NDArray[np.int64],
    powers: _Powers,
    c: _Clusters,
    t: _Trace,
    values: _Table,
) -> bool:
    # From the largest height down each element joins the clusters next to it, and remembers the
    # next one that changes its cluster, and the extent until then: while a cluster of n elements
    # falls from h1 to h2, its elements gain n^E (g(h1) - g(h2)) with g(h) = h^(H+1). From the
    # lowest up, the value of each is that of the next plus what lies between: no difference of
    # large sums, so that small values are exact too. `values` is by cell. False where labels do
    # not suffice.
    one, none = np.uint64(1), np.uint64(0)
    degree = np.uint64(steps.shape[1])
    row_of = np.uint64(0 if steps.shape[0] == 1 else 1)
    n_labels = none
    most = np.uint64(c.root.shape[0] - 1)
    c.of_cell[:] = 0
    c.root[none] = 0
    n = 0
    while n < heights.shape[0] and heights[n] > 0.0:
        cell = np.uint64(cells[n])
        row = steps[cell * row_of]
        high, low = none, np.uint64(0xFFFFFFFFFFFFFFFF)
        for j in range(degree):
            root = np.uint64(c.root[np.uint64(c.of_cell[cell + np.uint64(row[np.uint64(j)])])])
            high = max(high, root)
            low = min(low, root - one)  # 0, no cluster, becomes the largest number
        own = high
        if high == none:
            if n_labels == most:
                return False
            n_labels += one
            own = n_labels
            c.root[own] = own
            c.following[own] = 0
            c.last[own] = own
            c.size[own] = 0
        else:
            t.following[t.newest[own]] = n
            if low + one != high:
                for j in range(degree):
                    root = np.uint64(
                        c.root[np.uint64(c.of_cell[cell + np.uint64(row[np.uint64(j)])])]
                    )
                    if root not in (none, own):
                        t.following[t.newest[root]] = n
                        own = _merge(own, root, c)
        c.size[own] += one
        t.extent[n] = c.size[own]
        t.newest[own] = n
        t.following[n] = -1
        c.of_cell[cell] = own
        n += 1
    for k in range(n - 1, -1, -1):
        following = t.following[k]
        below, level = 0.0, 0.0
        if following >= 0:
            below = t.value[following]
            level = _power(np.float64(heights[following]), powers.of_height)
        gain = _power(np.float64(heights[k]), powers.of_height) - level
        t.value[k] = below + powers.of_extent[t.extent[k]] * gain
        values[np.uint64(cells[k])] = t.value[k] / powers.of_height
    return True


@kernel
def _gather(by_cell: _Table, cells: _Cells, statistic: _Image, out: _Table) -> None:
    for i in range(cells.shape[0]):
        out[i] = np.copysign(by_cell[np.uint64(cells[i])], np.float64(statistic[i]))


def _make_trace(neighbourhood: Neighbourhood, clusters: _Clusters) -> _Trace:
    n = neighbourhood.n_elements
    newest = np.zeros(len(clusters.root), np.int32)
    return _Trace(newest, np.zeros(n, np.int32), np.zeros(n, np.int32), np.zeros(n))


def enhance(
    statistic: NDArray[np.floating],
    neighbourhood: Neighbourhood,
    *,
    height_power: float,
    extent_power: float,
) -> NDArray[np.float64]:
    r"""Map of a statistic after threshold-free cluster enhancement.

    Parameters
    ----------
    statistic : (n,) array
        Finite; 0 where there is none.
    neighbourhood : Neighbourhood
        Of its elements.
    height_power, extent_power : float
        H and E, each above 0 and at most 10; 2 and 0.5 for volumes, 2 and 1 for skeletons.

    Returns
    -------
    (n,) array of float64
        Enhanced values with the sign of the statistic: negative parts are enhanced as their
        mirror image.

    Raises
    ------
    NumericsError
        If the shapes do not fit, a value is not finite or a power is out of range.

    Notes
    -----
    At element :math:`p` with height :math:`h_p`, :math:`\int_0^{h_p} e(h)^E h^H dh`, where
    :math:`e(h)` is the number of elements in the cluster of :math:`p` above :math:`h` (Smith and
    Nichols 2009, doi:10.1016/j.neuroimage.2008.03.061). The integral is exact: the extent changes
    only where an element enters. Programs that sum over steps without multiplying by their height
    (FSL randomise) give values larger by one over the step; p-values do not depend on it.

    Examples
    --------
    A plateau of two at height 3 that stands on one of four at height 1, with E = 1 and H = 2: the
    upper two get 4 / 3 from below and 2 (27 - 1) / 3 from above.

    >>> line = graph_neighbourhood(4, np.array([[0, 1], [1, 2], [2, 3]]))
    >>> enhance(np.array([1.0, 3.0, 3.0, 1.0]), line, height_power=2, extent_power=1).round(3)
    array([ 1.333, 18.667, 18.667,  1.333])
    """
    values = np.asarray(statistic, dtype=np.float64)
    if values.shape != (neighbourhood.n_elements,):
        raise NumericsError(
            f"statistic has shape {values.shape}; the neighbourhood has "
            f"{neighbourhood.n_elements} elements"
        )
    require_finite("statistic", values)
    powers = _make_powers(len(values), height_power, extent_power)
    clusters = _make_clusters(neighbourhood, neighbourhood.n_elements)
    trace = _make_trace(neighbourhood, clusters)
    enhanced = np.zeros(len(values))
    for sign in (1.0, -1.0):
        inside = np.flatnonzero(sign * values > 0.0)
        order = inside[np.argsort(-sign * values[inside], kind="stable")]
        part = np.zeros(neighbourhood.n_cells)
        heights, cells = np.abs(values[order]), neighbourhood.cells[order]
        _fill_map(cells, heights, neighbourhood.steps, powers, clusters, trace, part)
        enhanced += sign * part[neighbourhood.cells]
    return enhanced


def clusters_above(
    statistic: NDArray[np.floating], neighbourhood: Neighbourhood, height: float
) -> NDArray[np.intp]:
    """Clusters of neighbours whose statistic reaches a threshold.

    Parameters
    ----------
    statistic : (n,) array
        Of its elements.
    neighbourhood : Neighbourhood
        Which elements are neighbours.
    height : float
        Forming threshold: elements at or above it belong to clusters.

    Returns
    -------
    (n,) array of int
        Number of each element's cluster, from 1; 0 below the threshold.

    Raises
    ------
    NumericsError
        If the shapes do not fit.

    Examples
    --------
    >>> line = graph_neighbourhood(5, np.array([[0, 1], [1, 2], [2, 3], [3, 4]]))
    >>> clusters_above(np.array([4.0, 3.1, 1.0, 3.0, 5.0]), line, 3.1)
    array([1, 1, 0, 0, 2])
    """
    values = np.asarray(statistic)
    if values.shape != (neighbourhood.n_elements,):
        raise NumericsError(
            f"statistic has shape {values.shape}; the neighbourhood has "
            f"{neighbourhood.n_elements} elements"
        )
    above = np.flatnonzero(values >= np.float64(height))
    cells = neighbourhood.cells[above].astype(np.int64)
    number = np.full(neighbourhood.n_cells, -1)
    number[cells] = np.arange(len(above))
    steps = neighbourhood.steps
    near = number[cells[:, np.newaxis] + (steps if len(steps) == 1 else steps[cells])]
    first, column = np.nonzero(near >= 0)
    joined = sparse.coo_array(
        (np.ones(len(first), bool), (first, near[first, column])), shape=(len(above), len(above))
    )
    labels = np.zeros(len(values), np.intp)
    labels[above] = 1 + sparse.csgraph.connected_components(joined, directed=False)[1]
    return labels
