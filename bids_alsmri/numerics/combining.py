"""Student's t of several maps as one map: Fisher, Stouffer or Tippett, brought to z."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.checks import as_float, require_finite, require_range
from bids_alsmri.numerics.compile import kernel
from bids_alsmri.numerics.linear import (
    Partition,
    Residuals,
    relabelled_regressors,
    relabelled_t,
)
from bids_alsmri.numerics.permutation import NullStatistics, Relabellings
from bids_alsmri.numerics.refit import make_variance_groups, refitted
from bids_alsmri.numerics.tfce import Enhancer, Neighbourhood

Method = Literal["fisher", "stouffer", "tippett"]

METHODS: tuple[Method, ...] = get_args(Method)

_SMALLEST_P = 1e-300  # double precision ends a little below
_LARGEST_T = 2.0**23  # relabelled t end at 1e6 times the root of their degrees of freedom
# A table's points lie at 1 + t = 2^e (1 + j / 1024): evenly below t = 1, by their share above. The
# place of a value is then a part of its bits, and the error of a straight line between two points
# a share of about 1e-7 throughout.
_STEP_BITS = 10
_SHIFT = 52 - _STEP_BITS  # of the 52 bits of a float's fraction
_ZERO = 1023 << _STEP_BITS  # of the point t = 0
_REST = (1 << _SHIFT) - 1
_COLUMNS_AT_ONCE = 1024
_AT_ONCE = 8  # relabellings that share the reading of the data
_TOLERANCE = 1e-5  # rounding by which a relabelling may fall short, as in `p_values`

_Array = NDArray[np.float64]
_Single = NDArray[np.float32]


class Combined(NamedTuple):
    """Several statistics as one.

    Attributes
    ----------
    statistic : (m,) array
        Fisher's chi-squared, Stouffer's z, or Tippett's smallest p.
    z : (m,) array
        Normal deviate of the same p-value: what is comparable between methods and enhanced.
    """

    statistic: _Array
    z: _Array


def combine_t(
    t: ArrayLike, directions: ArrayLike, degrees_of_freedom: int, method: Method
) -> Combined:
    r"""Student's t of several maps combined in each feature.

    Parameters
    ----------
    t : (k, m) array
        Student's t of k maps, finite.
    directions : (k,) array
        1 where an increase of the map is expected, -1 where a decrease is.
    degrees_of_freedom : int
        Of each t, at least 1.
    method : {"fisher", "stouffer", "tippett"}
        How to combine.

    Returns
    -------
    Combined
        The statistic and its z, positive where p is below 0.5.

    Raises
    ------
    NumericsError
        If shapes do not fit, values are not finite, a direction is neither 1 nor -1, or the
        method has another name.

    Notes
    -----
    With the one-sided :math:`p_i` of :math:`\pm t_i` by Student's distribution, Fisher's
    statistic is :math:`-2 \sum \ln p_i` with :math:`\chi^2_{2k}` (1932), Stouffer's
    :math:`\sum z(p_i) / \sqrt{k}` (1949) and Tippett's :math:`\min p_i` with
    :math:`1 - (1 - \min p_i)^k` (1931): the distributions of independent maps. Maps of the same
    participants depend on each other, so this p is no result but a scale; permutation gives the
    result (Winkler 2016, doi:10.1002/hbm.23115). p-values below 1e-300 count as that.

    Examples
    --------
    >>> combine_t([[2.0], [-2.0]], [1, -1], 30, "stouffer").z.round(3)
    array([2.718])
    """
    values, signs = _checked(t, directions, degrees_of_freedom, method)
    values = values * signs[:, np.newaxis]
    if method == "fisher":
        total = -_log_upper_p(values, degrees_of_freedom).sum(axis=0)
        return Combined(2.0 * total, _z_of_fisher(total, len(signs)))
    if method == "stouffer":
        z = np.copysign(_z_of_t(np.abs(values), degrees_of_freedom), values)
        stouffer = z.sum(axis=0) / np.sqrt(len(signs))
        return Combined(stouffer, stouffer.copy())
    largest = values.max(axis=0)
    smallest_p = np.exp(_log_upper_p(largest, degrees_of_freedom))
    return Combined(smallest_p, _z_of_tippett(largest, degrees_of_freedom, len(signs)))


def equivalent_t(t: ArrayLike, degrees_of_freedom: int, other: int) -> _Array:
    """Student's t of other degrees of freedom that has the same p-value.

    Parameters
    ----------
    t : array
        Student's t, finite, of any shape.
    degrees_of_freedom : int
        Of it, at least 1.
    other : int
        Of the result, at least 1.

    Returns
    -------
    array
        With the same sign. p-values below 1e-300 count as that.

    Notes
    -----
    Covariates of its own take degrees of freedom from one map of several that are combined: p is
    what the maps have in common, and the combination is that of p.

    Examples
    --------
    >>> equivalent_t([1.697, -1.697], 30, 29).round(3)
    array([ 1.699, -1.699])
    """
    values = as_float("t", t)
    require_finite("t", values)
    for name, freedom in (("degrees_of_freedom", degrees_of_freedom), ("other", other)):
        require_range(name, freedom, 1, np.inf)
    p = np.maximum(stats.t.sf(np.abs(values), degrees_of_freedom), _SMALLEST_P)
    found: _Array = np.copysign(-special.stdtrit(other, p), values)
    return found


class Combiner:
    """Combines many relabellings of the same maps, fast, by tables of the distributions.

    Parameters
    ----------
    directions : (k,) array
        1 or -1 of each map.
    degrees_of_freedom : int
        Of each t.
    method : {"fisher", "stouffer", "tippett"}
        How to combine.

    Raises
    ------
    NumericsError
        If a direction is neither 1 nor -1, or the method has another name.

    Notes
    -----
    z differs from that of :func:`combine_t` by less than 1e-6 of 1 + the largest z of the single
    maps: single precision. Where the p of maps ends at 1e-300, each adds up to 1e-4; t beyond
    2**23 count as that.

    Examples
    --------
    >>> out = np.empty((2, 1), np.float32)
    >>> Combiner([1, -1], 30, "stouffer").fill(np.array([[2.0], [-2.0]], np.float32), out)
    >>> out.ravel().round(3)
    array([2.718, 0.   ], dtype=float32)
    """

    def __init__(self, directions: ArrayLike, degrees_of_freedom: int, method: Method) -> None:
        nothing = np.empty((np.size(directions), 0))
        _, self._signs = _checked(nothing, directions, degrees_of_freedom, method)
        self._method = method
        self._tables = _make_tables(len(self._signs), degrees_of_freedom, method)

    @property
    def n_maps(self) -> int:
        """Number of maps."""
        return len(self._signs)

    def fill(self, t: _Single, out: _Single) -> None:
        """Combine the maps of one relabelling.

        Parameters
        ----------
        t : (k, m) array of float32
            Student's t of each map, without NaN.
        out : (2, m) array of float32
            Takes z in the declared directions, and with all of them reversed; 0 where p is not
            below 0.5.

        Raises
        ------
        NumericsError
            If the shapes do not fit.
        """
        if t.shape[:1] != self._signs.shape or out.shape != (2, *t.shape[1:]):
            raise NumericsError(
                f"t has shape {t.shape} and out {out.shape}; give ({len(self._signs)}, m) and "
                "(2, m)"
            )
        work = np.empty((3, _COLUMNS_AT_ONCE))
        if self._method == "fisher":
            _fill_fisher(t, self._signs, self._tables.surprise, self._tables.z, work, out)
        elif self._method == "stouffer":
            _fill_stouffer(t, self._signs, self._tables.z, work, out)
        else:
            _fill_tippett(t, self._signs, self._tables.z, work, out)


def _checked(
    t: ArrayLike, directions: ArrayLike, degrees_of_freedom: int, method: Method
) -> tuple[_Array, _Array]:
    values = as_float("t", t, ndim=2)
    signs = as_float("directions", directions, ndim=1)
    require_finite("t", values)
    require_range("degrees_of_freedom", degrees_of_freedom, 1, np.inf)
    if method not in METHODS:
        raise NumericsError(f"method is {method!r}; give one of {', '.join(METHODS)}")
    if len(signs) != len(values) or not len(signs):
        raise NumericsError(
            f"t holds {len(values)} maps but directions {len(signs)}; give one direction for each"
        )
    if not np.all(np.abs(signs) == 1.0):
        raise NumericsError(
            f"directions are {signs.tolist()}; give 1 for an increase and -1 for a decrease"
        )
    return values, signs


def _log_upper_p(t: _Array, degrees_of_freedom: int) -> _Array:
    tail = np.maximum(stats.t.sf(np.abs(t), degrees_of_freedom), _SMALLEST_P)
    log_p: _Array = np.where(t > 0.0, np.log(tail), np.log1p(-tail))
    return log_p


def _z_of_t(t: _Array, degrees_of_freedom: int) -> _Array:
    # of t that are not negative
    z: _Array = -special.ndtri(np.maximum(stats.t.sf(t, degrees_of_freedom), _SMALLEST_P))
    return z


def _z_of_fisher(total: _Array, n_maps: int) -> _Array:
    # `total` is half of chi-squared. The lower tail where that is the small one; p of large sums
    # is below all floats, its logarithm is not: the distribution is that of Erlang
    lower = np.maximum(special.gammainc(n_maps, total), _SMALLEST_P)
    powers = np.arange(n_maps)[:, np.newaxis]
    terms = special.xlogy(powers, np.maximum(total, 1.0)) - special.gammaln(powers + 1.0)
    log_upper = np.minimum(special.logsumexp(terms, axis=0) - total, -_SMALLEST_P)
    z: _Array = np.where(total < n_maps, special.ndtri(lower), -special.ndtri_exp(log_upper))
    return z


def _z_of_tippett(largest: _Array, degrees_of_freedom: int, n_maps: int) -> _Array:
    # no map exceeds the largest: the product of the lower p
    z: _Array = special.ndtri_exp(n_maps * _log_upper_p(-largest, degrees_of_freedom))
    return z


class _Tables(NamedTuple):
    # by place: z, and the even and odd part of -ln p, which only Fisher's method needs
    z: _Array
    surprise: _Array


# few, and each takes longer than the relabellings of a small map
@lru_cache(maxsize=16)
def _make_tables(n_maps: int, degrees_of_freedom: int, method: Method) -> _Tables:
    points = _points(min(-special.stdtrit(degrees_of_freedom, _SMALLEST_P), _LARGEST_T))
    surprise = np.empty((0, 2))
    if method == "fisher":
        upper, lower = (-_log_upper_p(side * points, degrees_of_freedom) for side in (1.0, -1.0))
        surprise = np.column_stack([(upper + lower) / 2.0, (upper - lower) / 2.0])
        z = _z_of_fisher(_points(-n_maps * np.log(_SMALLEST_P)), n_maps)
    elif method == "stouffer":
        z = _z_of_t(points, degrees_of_freedom) / np.sqrt(n_maps)
    else:
        z = _z_of_tippett(points, degrees_of_freedom, n_maps)
    return _Tables(z, surprise)


def _points(last: float) -> _Array:
    n_doublings = int(np.ceil(np.log2(1.0 + last)))
    fractions = 1.0 + np.arange(1 << _STEP_BITS) / (1 << _STEP_BITS)
    points = 2.0 ** np.arange(n_doublings)[:, np.newaxis] * fractions - 1.0
    return np.append(points.ravel(), 2.0**n_doublings - 1.0)


@kernel
def _place(bits: np.uint64, n: int) -> tuple[np.int64, np.float64]:
    # the point below, and how far on the way to the next
    place = np.int64(bits >> np.uint64(_SHIFT)) - _ZERO
    if place >= n - 1:
        return np.int64(n - 2), np.float64(1.0)
    return place, np.float64(np.int64(bits & np.uint64(_REST))) / (_REST + 1)


@kernel
def _fill_fisher(
    t: _Single, signs: _Array, surprise: _Array, z: _Array, work: _Array, out: _Single
) -> None:
    # -ln p of either tail is an even part and an odd part: no branch on the sign of t, which is
    # as good as random
    n, width = z.shape[0], work.shape[1]
    x, even, odd = work[0], work[1], work[2]
    bits = x.view(np.uint64)
    for start in range(0, t.shape[1], width):
        stop = min(width, t.shape[1] - start)
        even[:stop] = 1.0
        odd[:stop] = 0.0
        for k in range(t.shape[0]):
            for i in range(stop):
                x[i] = 1.0 + abs(np.float64(t[k, start + i]))
            for i in range(stop):
                place, part = _place(bits[i], surprise.shape[0])
                low, high = surprise[place], surprise[place + 1]
                even[i] += low[0] + part * (high[0] - low[0])
                found = low[1] + part * (high[1] - low[1])
                odd[i] += signs[k] * np.copysign(found, np.float64(t[k, start + i]))
        for side in range(2):
            for i in range(stop):
                # rounding may bring it below the first point where t is large
                x[i] = max(even[i] + (odd[i] if side == 0 else -odd[i]), 1.0)
            for i in range(stop):
                place, part = _place(bits[i], n)
                out[side, start + i] = max(z[place] + part * (z[place + 1] - z[place]), 0.0)


@kernel
def _fill_stouffer(t: _Single, signs: _Array, z: _Array, work: _Array, out: _Single) -> None:
    n, width = z.shape[0], work.shape[1]
    x, total = work[0], work[1]
    bits = x.view(np.uint64)
    for start in range(0, t.shape[1], width):
        stop = min(width, t.shape[1] - start)
        total[:stop] = 0.0
        for k in range(t.shape[0]):
            for i in range(stop):
                x[i] = 1.0 + abs(np.float64(t[k, start + i]))
            for i in range(stop):
                place, part = _place(bits[i], n)
                found = z[place] + part * (z[place + 1] - z[place])
                total[i] += signs[k] * np.copysign(found, np.float64(t[k, start + i]))
        for i in range(stop):
            out[0, start + i] = max(total[i], 0.0)
            out[1, start + i] = max(-total[i], 0.0)


@kernel
def _fill_tippett(t: _Single, signs: _Array, z: _Array, work: _Array, out: _Single) -> None:
    n, width = z.shape[0], work.shape[1]
    for start in range(0, t.shape[1], width):
        stop = min(width, t.shape[1] - start)
        work[:2, :stop] = 1.0
        for k in range(t.shape[0]):
            for i in range(stop):
                value = np.float64(t[k, start + i]) * signs[k]
                work[0, i] = max(work[0, i], 1.0 + value)
                work[1, i] = max(work[1, i], 1.0 - value)
        for side in range(2):
            bits = work[side].view(np.uint64)
            for i in range(stop):
                # where no map is above 0, p is 0.5 or more: the table's first value
                place, part = _place(bits[i], n)
                found = z[place] + part * (z[place + 1] - z[place])
                out[side, start + i] = max(found, 0.0)


def combined_null_statistics(
    unit: _Single,
    partition: Partition,
    relabellings: Relabellings,
    chosen: Sequence[int],
    neighbourhood: Neighbourhood,
    *,
    directions: ArrayLike,
    method: Method,
    height_power: float,
    extent_power: float,
    n_threads: int,
    apart: Mapping[int, Residuals] | None = None,
) -> NullStatistics:
    """Maxima of synchronised relabellings of several maps: combined z, and enhanced z.

    Parameters
    ----------
    unit : (n, k m) array of float32
        Residuals at unit length of k maps beside each other, each with the same m features and
        n observations. A feature that is 0 in all maps has no statistic.
    partition : Partition
        With an effect of one column.
    relabellings : Relabellings
        Of its effect: each moves all maps alike.
    chosen : sequence of int
        Numbers of those to compute, each once.
    neighbourhood : Neighbourhood
        Of the m features.
    directions : (k,) array
        1 or -1 of each map.
    method : {"fisher", "stouffer", "tippett"}
        How to combine.
    height_power, extent_power : float
        See :func:`bids_alsmri.numerics.tfce.enhance`.
    n_threads : int
        Threads, at least 1; each holds a few maps.
    apart : mapping of int to Residuals, optional
        Of maps with covariates of each feature, by their place among the k: they are fitted by
        these, and what `unit` holds of them does not matter. 0 where a feature has no statistic.

    Returns
    -------
    NullStatistics
        The first column of maxima for the declared directions, the second for all of them
        reversed; statistics and counts of 2 m features likewise, each from 0 up.

    Notes
    -----
    Modified non-parametric combination (Winkler 2016, doi:10.1002/hbm.23115): t becomes p by its
    distribution rather than by all other relabellings, so that none need be kept.

    Examples
    --------
    >>> from bids_alsmri.numerics.linear import partition_design, residuals, two_groups
    >>> from bids_alsmri.numerics.permutation import Exchange
    >>> from bids_alsmri.numerics.tfce import graph_neighbourhood
    >>> split = partition_design(*two_groups(np.arange(6) < 3))
    >>> noise = np.random.default_rng(0).normal(size=(6, 2 * 3))
    >>> found = combined_null_statistics(
    ...     residuals(noise, split).unit.astype("f4"), split,
    ...     Relabellings(split.effect, Exchange(), 5000, seed=1), range(20),
    ...     graph_neighbourhood(3, np.array([[0, 1], [1, 2]])), directions=[1, -1],
    ...     method="fisher", height_power=2.0, extent_power=0.5, n_threads=1,
    ... )
    >>> found.largest.shape, found.statistic.shape
    ((20, 2), (6,))
    """
    require_range("n_threads", n_threads, 1, np.inf)
    combiner = Combiner(directions, partition.degrees_of_freedom, method)
    maps_apart = [_MapApart(place, data, partition) for place, data in (apart or {}).items()]

    def make_workspace() -> _Workspace:
        enhancer = Enhancer(neighbourhood, height_power=height_power, extent_power=extent_power)
        return _Workspace(unit, partition, relabellings, combiner, enhancer, maps_apart)

    z, enhanced = next(make_workspace().maps([0]))
    observed, observed_enhanced = z.copy(), enhanced.copy()
    largest, largest_enhanced = np.zeros((2, len(chosen), 2))

    def work(parts: Sequence[range]) -> NDArray[np.int64]:
        workspace = make_workspace()
        counts = np.zeros((2, *observed.shape), np.int64)
        for part in parts:
            maps = workspace.maps([chosen[k] for k in part])
            for k, (z, enhanced) in zip(part, maps, strict=True):
                for side in range(2):
                    largest[k, side] = _compare(z[side], observed[side], counts[0, side])
                    largest_enhanced[k, side] = _compare(
                        enhanced[side], observed_enhanced[side], counts[1, side]
                    )
        return counts

    parts = [
        range(start, min(start + _AT_ONCE, len(chosen)))
        for start in range(0, len(chosen), _AT_ONCE)
    ]
    with ThreadPoolExecutor(n_threads) as pool:
        counts = sum(pool.map(work, [parts[i::n_threads] for i in range(n_threads)]))
    n_reached, n_reached_enhanced = np.asarray(counts, dtype=np.int64)
    return NullStatistics(
        np.array(chosen, dtype=np.int64),
        largest,
        largest_enhanced,
        observed.ravel(),
        observed_enhanced.ravel(),
        n_reached.ravel(),
        n_reached_enhanced.ravel(),
    )


class _MapApart:
    # a map whose covariates differ by feature, on the scale of the others

    def __init__(self, place: int, data: Residuals, partition: Partition) -> None:
        self.place, self._data, self._partition = place, data, partition
        self._groups = make_variance_groups(None, partition)
        shared = partition.degrees_of_freedom
        own = shared - (0 if data.own is None else len(data.own) - partition.effect.shape[1])
        self._points = _points(min(-special.stdtrit(own, _SMALLEST_P), _LARGEST_T))
        self._equivalents = equivalent_t(self._points, own, shared)

    def t(self, orders: NDArray[np.intp], signs: _Array) -> _Array:
        t = refitted(self._data, self._partition, self._groups, orders, signs)
        equivalents: _Array = np.interp(np.abs(t), self._points, self._equivalents)
        return np.copysign(equivalents, t)


class _Workspace:
    # memory of one thread, taken once

    def __init__(
        self,
        unit: _Single,
        partition: Partition,
        relabellings: Relabellings,
        combiner: Combiner,
        enhancer: Enhancer,
        apart: Sequence[_MapApart],
    ) -> None:
        self._unit, self._partition, self._relabellings = unit, partition, relabellings
        self._combiner, self._enhancer, self._apart = combiner, enhancer, apart
        shape = (combiner.n_maps, unit.shape[1] // combiner.n_maps)
        self._t = np.empty((_AT_ONCE, *shape), np.float32)
        self._z = np.empty((2, shape[1]), np.float32)
        self._enhanced = np.empty((2, shape[1]))

    def maps(self, numbers: Sequence[int]) -> Iterator[tuple[_Single, _Array]]:
        # z and enhanced z of either side, overwritten by the next; at most _AT_ONCE of them
        partition = self._partition
        chosen = [self._relabellings[number] for number in numbers]
        rows = [relabelled_regressors(partition, one.order, one.signs) for one in chosen]
        # those that a relabelling leaves out weigh nothing
        regressors = np.zeros((len(rows), max(map(len, rows)), len(partition.effect)))
        for padded, own in zip(regressors, rows, strict=True):
            padded[: len(own)] = own
        flat = self._t.reshape(_AT_ONCE, -1)
        relabelled_t(self._unit, regressors, partition.degrees_of_freedom, flat)
        orders, signs = (np.stack([getattr(one, n) for one in chosen]) for n in ("order", "signs"))
        for one in self._apart:
            self._t[: len(rows), one.place] = one.t(orders, signs)
        for t in self._t[: len(rows)]:
            self._combiner.fill(t, self._z)
            for z, enhanced in zip(self._z, self._enhanced, strict=True):
                enhanced[:] = self._enhancer.map(z)
            yield self._z, self._enhanced


@kernel
def _compare(
    values: NDArray[np.floating], observed: NDArray[np.floating], counts: NDArray[np.int64]
) -> float:
    # the largest value; counts where the observed one, not below 0, is reached
    largest = 0.0
    for i in range(values.shape[0]):
        value = np.float64(values[i])
        largest = max(largest, value)
        counts[i] += value >= np.float64(observed[i]) * (1.0 - _TOLERANCE)
    return largest
