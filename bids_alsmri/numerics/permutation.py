"""Relabellings of observations that leave a null hypothesis as it is, and their maxima."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import product
from math import factorial, prod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.checks import require_range
from bids_alsmri.numerics.compile import kernel
from bids_alsmri.numerics.linear import (
    Partition,
    Residuals,
    relabelled_f,
    relabelled_regressors,
    relabelled_t,
)
from bids_alsmri.numerics.refit import VarianceGroups, make_variance_groups, refitted
from bids_alsmri.numerics.tfce import Enhancer, Neighbourhood

# relabellings that give the observed statistic count as at least as large: in single precision
# they differ from it by rounding
_TOLERANCE = 1e-5
_AT_ONCE = 8  # relabellings that share the reading of the data
_FEWEST = 20  # for a p-value of 0.05
_LARGEST_TAIL_P = 0.1  # above it the count is exact enough
_FEWEST_EXCEEDANCES = 10
_ACCEPTED_FIT = 0.05  # p of the Anderson-Darling test from which a fitted tail is believed
_FIT_SAMPLES = 999  # simulations of that test

_Array = NDArray[np.float64]
_Order = NDArray[np.intp]


@dataclass(frozen=True)
class Relabelling:
    """One relabelling.

    Attributes
    ----------
    order : (n,) array of int
        Observation that stands at each place.
    signs : (n,) array
        1 or -1, for each place.
    """

    order: _Order
    signs: _Array


@dataclass(frozen=True)
class Exchange:
    """What may be exchanged under the null hypothesis.

    Attributes
    ----------
    permutes : bool
        Whether observations may change places: their noise is exchangeable.
    flips : bool
        Whether observations may change sign: their noise is symmetric about 0.
    blocks : (n,) array of int or None
        Observations of one block belong together, such as visits of one person; None where
        each stands for itself.
    moves_whole_blocks : bool
        Whether blocks as wholes are exchanged or flipped, or observations within them.
    movable : (n,) array of bool or None
        Observations that take part; the others, such as those of groups outside the contrast, stay
        as they are. None where all take part.
    """

    permutes: bool = True
    flips: bool = False
    blocks: NDArray[np.intp] | None = None
    moves_whole_blocks: bool = False
    movable: NDArray[np.bool_] | None = None


def make_exchange(
    n: int,
    *,
    permutes: bool = True,
    flips: bool = False,
    blocks: ArrayLike | None = None,
    moves_whole_blocks: bool = False,
    movable: ArrayLike | None = None,
    visits: ArrayLike | None = None,
    assumes_compound_symmetry: bool = False,
) -> Exchange:
    """What may be exchanged, after a look whether it can be.

    Parameters
    ----------
    n : int
        Observations.
    permutes, flips : bool
        See :class:`Exchange`; at least one of them.
    blocks : (n,) array, optional
        Labels of any kind.
    moves_whole_blocks : bool
        Exchange blocks as wholes.
    movable : (n,) array of bool, optional
        Observations that take part: those of the groups in the contrast, where the model has more
        groups. All by default.
    visits : (n,) array, optional
        Labels of any kind, such as sessions or months: blocks that change places as wholes must
        have the same ones in the same order.
    assumes_compound_symmetry : bool
        Whether any two observations of a block are taken to be equally correlated. Two always
        are; visits of a participant seldom, since those nearer in time are more alike, so that
        more than two may change places within their block only where this is asked for.

    Returns
    -------
    Exchange
        With blocks numbered from 0.

    Raises
    ------
    NumericsError
        If nothing may be exchanged, labels are not one for each observation, whole blocks are to
        be permuted that differ in size or visits or move in part, or three or more observations
        are to be permuted within a block unasked.

    Examples
    --------
    >>> make_exchange(4, blocks=["a", "a", "b", "b"]).blocks
    array([0, 0, 1, 1])
    """
    if not permutes and not flips:
        raise NumericsError("neither permutations nor sign flips are allowed; allow one of them")
    moving = np.ones(n, bool) if movable is None else np.asarray(movable, dtype=bool)
    if moving.shape != (n,) or not moving.any():
        raise NumericsError(
            f"movable has shape {moving.shape} with {np.count_nonzero(moving)} observations that "
            f"take part; give one value for each of {n}, and let some take part"
        )
    kept = None if moving.all() else moving
    if blocks is None:
        if moves_whole_blocks:
            raise NumericsError("whole blocks are to move but none are given; give blocks")
        return Exchange(permutes, flips, movable=kept)
    names, labels = np.unique(np.asarray(blocks), return_inverse=True)
    if labels.shape != (n,):
        raise NumericsError(f"blocks has shape {labels.shape}; give one label for each of {n}")
    members = {name: np.flatnonzero((labels == k) & moving) for k, name in enumerate(names)}
    if moves_whole_blocks:
        _require_whole_blocks(names, labels, moving)
    if permutes and moves_whole_blocks:
        _require_like_blocks(members, None if visits is None else np.asarray(visits), n)
    elif permutes and not assumes_compound_symmetry:
        name, places = max(members.items(), key=lambda item: len(item[1]))
        if len(places) > 2:
            raise NumericsError(
                f"block {name!s} has {len(places)} observations: to exchange more than two within "
                "a block assumes that any two of them are equally correlated (compound symmetry), "
                "which visits of a participant seldom are. Test one map of each participant (mean, "
                "change, slope), or ask for it by assumes_compound_symmetry"
            )
    return Exchange(permutes, flips, labels.astype(np.intp), moves_whole_blocks, kept)


def _require_whole_blocks(
    names: NDArray[Any], labels: NDArray[np.intp], moving: NDArray[np.bool_]
) -> None:
    torn = np.intersect1d(labels[moving], labels[~moving])
    if torn.size:
        raise NumericsError(
            f"block {names[torn[0]]!s} takes part with some of its observations only; blocks that "
            "move as wholes take part with all or none"
        )


def _require_like_blocks(members: dict[Any, _Order], visits: NDArray[Any] | None, n: int) -> None:
    sizes = {name: len(places) for name, places in members.items() if len(places)}
    fewest = min(sizes, key=lambda name: sizes[name])
    if min(sizes.values()) != max(sizes.values()):
        raise NumericsError(
            f"blocks have from {min(sizes.values())} to {max(sizes.values())} observations (block "
            f"{fewest!s} has fewest); only blocks of one size can change places. "
            "Leave incomplete ones out, or test one map of each (mean, change, slope)"
        )
    if visits is None:
        return
    if visits.shape != (n,):
        raise NumericsError(f"visits has shape {visits.shape}; give one label for each of {n}")
    first, *others = sizes
    pattern = visits[members[first]].tolist()
    for name in others:
        own = visits[members[name]].tolist()
        if own != pattern:
            raise NumericsError(
                f"block {first!s} has the visits {pattern} but block {name!s} {own}; only blocks "
                "of the same visits in the same order can change places. Leave the others out, "
                "or test one map of each (mean, change, slope)"
            )


def count_relabellings(effect: NDArray[np.floating], exchange: Exchange) -> int:
    """Relabellings that differ in the tested regressors.

    Parameters
    ----------
    effect : (n, k) array
        Tested regressors.
    exchange : Exchange
        What may be exchanged.

    Returns
    -------
    int
        With the one that leaves all in place. Observations with equal rows of the effect are
        alike: 3 against 3 give 20. Flips where the effect is 0 are not counted, and neither are
        flips that a permutation does too. Observations that do not take part do not count: 3
        against 3 beside 10 of a third group still give 20.

    Examples
    --------
    >>> count_relabellings(np.array([[1.0]] * 3 + [[-1.0]] * 3), Exchange())
    20
    >>> count_relabellings(np.ones((5, 1)), Exchange(permutes=False, flips=True))
    32
    """
    return prod(_count(rows, exchange) for _, rows in _sets(effect, exchange))


def _sets(effect: NDArray[np.floating], exchange: Exchange) -> Iterator[tuple[_Order, _Array]]:
    # sets of units that are exchanged among each other: the observations of each unit (units,
    # size), and its part of the effect (units, values)
    n = len(effect)
    blocks = np.arange(n) if exchange.blocks is None else exchange.blocks
    moving = np.ones(n, bool) if exchange.movable is None else exchange.movable
    members = [np.flatnonzero((blocks == block) & moving) for block in np.unique(blocks[moving])]
    if exchange.blocks is None or (exchange.moves_whole_blocks and exchange.permutes):
        sets = [np.stack(members)]
    elif exchange.moves_whole_blocks:
        sets = [places[np.newaxis] for places in members]
    else:
        sets = [places[:, np.newaxis] for places in members]
    rows = np.asarray(effect, dtype=np.float64).round(12) + 0.0  # no -0
    for units in sets:
        yield units, rows[units].reshape(len(units), -1)


def _kinds(rows: _Array, exchange: Exchange) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    # which units are alike, and whether a flip changes them
    is_flipped: NDArray[np.bool_] = np.any(rows, axis=1) & np.array(exchange.flips)
    if exchange.flips:
        first = rows[np.arange(len(rows)), (rows != 0).argmax(axis=1)]
        rows = rows * np.where(first < 0, -1.0, 1.0)[:, np.newaxis]
    _, kinds = np.unique(rows + 0.0, axis=0, return_inverse=True)
    return kinds.ravel(), is_flipped


def _count(rows: _Array, exchange: Exchange) -> int:
    kinds, is_flipped = _kinds(rows, exchange)
    n_flips = 1 << int(np.count_nonzero(is_flipped))
    if not exchange.permutes:
        return n_flips
    alike = prod(factorial(int(count)) for count in np.bincount(kinds))
    return n_flips * (factorial(len(rows)) // alike)


def _arrangements(kinds: NDArray[np.intp]) -> Iterator[NDArray[np.intp]]:
    # every distinct order of a list with repeats, by the next one in the order of a dictionary
    # (Narayana, 14th century)
    now = np.sort(kinds)
    while True:
        yield now.copy()
        rises = np.flatnonzero(now[:-1] < now[1:])
        if not rises.size:
            return
        i = rises[-1]
        j = np.flatnonzero(now > now[i])
        j = j[j > i][-1]
        now[[i, j]] = now[[j, i]]
        now[i + 1 :] = now[i + 1 :][::-1]


def _changes(rows: _Array, exchange: Exchange) -> Iterator[tuple[NDArray[np.intp], _Array]]:
    # every distinct change of one set: the unit that comes to each place, and the signs
    n = len(rows)
    kinds, is_flipped = _kinds(rows, exchange)
    places = np.argsort(kinds, kind="stable")
    arrangements = _arrangements(kinds) if exchange.permutes else iter([kinds])
    for arrangement in arrangements:
        order = np.empty(n, np.intp)
        # the effect of place i goes to the unit that is to be of its kind
        order[places] = np.argsort(arrangement, kind="stable")
        for chosen in product((1.0, -1.0), repeat=int(np.count_nonzero(is_flipped))):
            signs = np.ones(n)
            signs[is_flipped] = chosen
            yield order, signs


def _identity(n: int) -> Relabelling:
    return Relabelling(np.arange(n), np.ones(n))


class Relabellings:
    """Relabellings of a test, the observed labelling first.

    Parameters
    ----------
    effect : (n, k) array
        Tested regressors.
    exchange : Exchange
        What may be exchanged.
    n_wanted : int
        How many, with the observed labelling. All are taken, each once, where there are no more.
    seed : int
        From which relabelling k draws stream k, whoever asks for it.

    Raises
    ------
    NumericsError
        If there are so few that no p-value can fall below 0.05.

    Examples
    --------
    >>> all_of_them = Relabellings(np.repeat([[1.0], [-1.0]], 3, axis=0), Exchange(), 5000, seed=1)
    >>> len(all_of_them), all_of_them.is_exhaustive
    (20, True)
    """

    def __init__(
        self, effect: NDArray[np.floating], exchange: Exchange, n_wanted: int, *, seed: int
    ) -> None:
        require_range("n_wanted", n_wanted, 1, np.inf)
        n_possible = count_relabellings(effect, exchange)
        if n_possible < _FEWEST or n_wanted < _FEWEST:
            raise NumericsError(
                f"{min(n_possible, n_wanted)} relabellings, the observed one among them, cannot "
                f"give a p-value below 0.05 ({n_possible} are possible, {n_wanted} were asked "
                "for); take more observations, or ask for more"
            )
        self.is_exhaustive = n_possible <= n_wanted
        self._n = n_possible if self.is_exhaustive else n_wanted
        self._seed = seed
        self._exchange = exchange
        self._sets = list(_sets(effect, exchange))
        self._n_observations = len(effect)
        self._all = self._enumerated() if self.is_exhaustive else []

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, k: int) -> Relabelling:
        """Relabelling k, from 0; 0 is the observed labelling."""
        if not 0 <= k < self._n:
            raise IndexError(f"relabelling {k} of {self._n}")
        if self._all:
            return self._all[k]
        if k == 0:
            return _identity(self._n_observations)
        stream = np.random.default_rng(np.random.SeedSequence(self._seed, spawn_key=(k,)))
        changes = []
        for units, _ in self._sets:
            n = len(units)
            order = stream.permutation(n) if self._exchange.permutes else np.arange(n)
            signs = stream.choice([1.0, -1.0], n) if self._exchange.flips else np.ones(n)
            changes.append((order, signs))
        return self._joined(changes)

    def _joined(self, changes: Sequence[tuple[NDArray[np.intp], _Array]]) -> Relabelling:
        order, signs = np.arange(self._n_observations), np.ones(self._n_observations)
        for (units, _), (unit_order, unit_signs) in zip(self._sets, changes, strict=True):
            order[units] = units[unit_order]
            signs[units] = unit_signs[:, np.newaxis]
        return Relabelling(order, signs)

    def _enumerated(self) -> list[Relabelling]:
        each = (list(_changes(rows, self._exchange)) for _, rows in self._sets)
        found = [self._joined(changes) for changes in product(*each)]
        first = next(i for i, change in enumerate(found) if self._leaves_the_effect(change))
        # as it stands, not merely alike: the observed statistic comes from it
        return [_identity(self._n_observations), *found[:first], *found[first + 1 :]]

    def _leaves_the_effect(self, change: Relabelling) -> bool:
        for units, rows in self._sets:
            inverse = np.empty(self._n_observations, np.intp)
            inverse[change.order] = np.arange(self._n_observations)
            moved = np.empty_like(rows)
            # which unit's effect each unit receives: units move as wholes
            firsts = units[:, 0]
            number = np.full(self._n_observations, -1)
            number[firsts] = np.arange(len(units))
            source = number[inverse[firsts]]
            moved[:] = rows[source] * change.signs[firsts[source], np.newaxis]
            if not np.array_equal(moved + 0.0, rows):
                return False
        return True


def _none() -> Any:
    return np.zeros((0, 2))


@dataclass(frozen=True)
class NullStatistics:
    """What relabellings give: nothing but arrays, so that blocks can be saved and joined.

    Attributes
    ----------
    numbers : (k,) array of int
        Numbers of the relabellings; 0 is the observed labelling.
    largest : (k, 2) array
        Largest statistic, and largest negative one without its sign, of each relabelling; 0 where
        there is none of the sign.
    largest_enhanced : (k, 2) array
        Likewise after enhancement.
    statistic, enhanced : (m,) array
        Of the observed labelling, in the same precision: what p-values are found for.
    n_reached, n_reached_enhanced : (m,) array of int
        For each feature the relabellings whose value lies as far from 0 as the observed one, or
        farther, on its side; all of them where the observed one is 0.
    n_reached_either, n_reached_enhanced_either : (m,) array of int
        Likewise on either side.
    largest_extent : (k, 2) array of int
        Features of the largest cluster at or beyond the forming threshold, and at or beyond its
        negative; empty where no threshold was given.
    """

    numbers: NDArray[np.int64]
    largest: _Array
    largest_enhanced: _Array
    statistic: NDArray[np.float32]
    enhanced: _Array
    n_reached: NDArray[np.int64]
    n_reached_enhanced: NDArray[np.int64]
    n_reached_either: NDArray[np.int64] = field(default_factory=_none)
    n_reached_enhanced_either: NDArray[np.int64] = field(default_factory=_none)
    largest_extent: NDArray[np.int64] = field(default_factory=_none)


def join_blocks(blocks: Sequence[NullStatistics]) -> NullStatistics:
    """Statistics of several blocks of relabellings as if they had been one.

    Parameters
    ----------
    blocks : sequence of NullStatistics
        At least one, in any order, of the same data and model.

    Returns
    -------
    NullStatistics
        In the order of the relabellings' numbers; the same to the last bit for any cut into
        blocks.

    Raises
    ------
    NumericsError
        If there is none, one relabelling stands in two blocks, or blocks differ in their observed
        statistic.

    Examples
    --------
    >>> from dataclasses import replace
    >>> zeros = np.zeros((2, 2))
    >>> one = NullStatistics(
    ...     np.array([2, 3]), zeros, zeros, np.ones(1, "f4"), np.ones(1), np.array([1]),
    ...     np.array([2]),
    ... )
    >>> both = join_blocks([one, replace(one, numbers=np.array([0, 1]))])
    >>> both.numbers, both.n_reached
    (array([0, 1, 2, 3]), array([2]))
    """
    if not blocks:
        raise NumericsError("blocks is empty; give the statistics of at least one")
    first = blocks[0]
    for block in blocks[1:]:
        if not np.array_equal(block.statistic, first.statistic) or not np.array_equal(
            block.enhanced, first.enhanced
        ):
            raise NumericsError(
                "blocks differ in the statistic of the observed labelling; join those of one map, "
                "model and enhancement only"
            )
    numbers = np.concatenate([block.numbers for block in blocks])
    order = np.argsort(numbers, kind="stable")
    twice = np.flatnonzero(np.diff(numbers[order]) == 0)
    if twice.size:
        raise NumericsError(
            f"relabelling {numbers[order][twice[0]]} stands in two blocks; give each once"
        )

    def in_order(name: str) -> Any:
        rows = np.concatenate([getattr(block, name) for block in blocks])
        return rows[order] if len(rows) else rows

    def total(name: str) -> Any:
        return np.sum([getattr(block, name) for block in blocks], axis=0)

    return NullStatistics(
        numbers[order],
        in_order("largest"),
        in_order("largest_enhanced"),
        first.statistic,
        first.enhanced,
        total("n_reached"),
        total("n_reached_enhanced"),
        total("n_reached_either"),
        total("n_reached_enhanced_either"),
        in_order("largest_extent"),
    )


def null_statistics(
    data: Residuals,
    partition: Partition,
    relabellings: Relabellings,
    chosen: Sequence[int],
    neighbourhood: Neighbourhood,
    *,
    height_power: float,
    extent_power: float,
    n_threads: int,
    groups: VarianceGroups | None = None,
    cluster_height: float | None = None,
) -> NullStatistics:
    """Maxima of relabellings over the map, of a statistic and enhanced, and counts per feature.

    Parameters
    ----------
    data : Residuals
        Of the observed data.
    partition : Partition
        Its effect of one column gives t or v, that of several F or G.
    relabellings : Relabellings
        Of its effect.
    chosen : sequence of int
        Numbers of those to compute, each once, such as ``range(100, 200)`` for one job of many.
    neighbourhood : Neighbourhood
        Of the features.
    height_power, extent_power : float
        See :func:`bids_alsmri.numerics.tfce.enhance`.
    n_threads : int
        Threads, at least 1; each holds a few maps.
    groups : VarianceGroups, optional
        Observations of one variance: several give Welch's v, or G.
    cluster_height : float, optional
        Threshold of the statistic, above 0, that forms clusters; without it there are none.

    Returns
    -------
    NullStatistics
        Maxima in the order of `chosen`, counts over all of them: the same to the last bit for any
        `n_threads` and whatever else is chosen.

    Raises
    ------
    NumericsError
        If there are no threads or the threshold is not above 0.

    Notes
    -----
    Single precision: statistics agree with those of double precision to about 1e-6, and
    relabellings that fall short of the observed value by less than 1e-5 count.

    Examples
    --------
    >>> from bids_alsmri.numerics.linear import partition_design, residuals, two_groups
    >>> from bids_alsmri.numerics.tfce import graph_neighbourhood
    >>> split = partition_design(*two_groups(np.arange(6) < 3))
    >>> noise = np.random.default_rng(0).normal(size=(6, 2))
    >>> found = null_statistics(
    ...     residuals(noise, split), split, Relabellings(split.effect, Exchange(), 5000, seed=1),
    ...     range(20), graph_neighbourhood(2, np.array([[0, 1]])), height_power=2.0,
    ...     extent_power=0.5, n_threads=1,
    ... )
    >>> found.largest.shape, bool((found.n_reached >= 1).all())
    ((20, 2), True)
    """
    require_range("n_threads", n_threads, 1, np.inf)
    if cluster_height is not None:
        require_range("cluster_height", cluster_height, 0.0, np.inf, open_low=True)
    n_features = data.unit.shape[1]
    fill = _make_filler(data, partition, groups)
    powers = {"height_power": height_power, "extent_power": extent_power}
    observed = np.empty((1, n_features), np.float32)
    fill([relabellings[0]], observed)
    observed_enhanced = Enhancer(neighbourhood, **powers).map(observed[0]).copy()
    largest, largest_enhanced = np.zeros((2, len(chosen), 2))
    largest_extent = np.zeros((0 if cluster_height is None else len(chosen), 2), np.int64)

    yardsticks = [_yardstick(values) for values in (observed[0], observed_enhanced)]

    def work(parts: Sequence[range]) -> NDArray[np.int64]:
        enhancer = Enhancer(neighbourhood, **powers)
        statistics = np.empty((_AT_ONCE, n_features), np.float32)
        counts = np.zeros((2, 2, n_features), np.int32)
        for part in parts:
            fill([relabellings[chosen[k]] for k in part], statistics)
            for k, statistic in zip(part, statistics, strict=False):
                largest[k] = _largest(statistic)
                _count_reached(statistic, *yardsticks[0], *counts[0])
                if cluster_height is None:
                    enhanced = enhancer.map(statistic)
                else:
                    enhanced, largest_extent[k] = enhancer.map_and_widest(statistic, cluster_height)
                largest_enhanced[k] = _largest(enhanced)
                _count_reached(enhanced, *yardsticks[1], *counts[1])
        return counts.astype(np.int64)

    parts = [
        range(start, min(start + _AT_ONCE, len(chosen)))
        for start in range(0, len(chosen), _AT_ONCE)
    ]
    with ThreadPoolExecutor(n_threads) as pool:
        counts = sum(pool.map(work, [parts[i::n_threads] for i in range(n_threads)]))
    (n_reached, n_either), (n_reached_enhanced, n_enhanced_either) = np.asarray(
        counts, dtype=np.int64
    )
    return NullStatistics(
        np.array(chosen, dtype=np.int64),
        largest,
        largest_enhanced,
        observed[0],
        observed_enhanced,
        n_reached,
        n_reached_enhanced,
        n_either,
        n_enhanced_either,
        largest_extent,
    )


def _make_filler(
    data: Residuals, partition: Partition, groups: VarianceGroups | None
) -> Callable[[Sequence[Relabelling], NDArray[np.float32]], None]:
    # fills the first rows of an array with the statistics of relabellings
    if data.own is not None or (groups is not None and groups.n_groups > 1):
        own_groups = groups or make_variance_groups(None, partition)

        def refit(chosen: Sequence[Relabelling], out: NDArray[np.float32]) -> None:
            orders = np.stack([one.order for one in chosen])
            signs = np.stack([one.signs for one in chosen])
            out[: len(chosen)] = refitted(data, partition, own_groups, orders, signs)

        return refit

    unit = np.ascontiguousarray(data.unit, dtype=np.float32)
    n_effects, freedom = partition.effect.shape[1], partition.degrees_of_freedom

    def multiply(chosen: Sequence[Relabelling], out: NDArray[np.float32]) -> None:
        rows = [relabelled_regressors(partition, one.order, one.signs) for one in chosen]
        # those that a relabelling leaves out weigh nothing
        regressors = np.zeros((len(rows), max(len(r) for r in rows), len(partition.effect)))
        for padded, r in zip(regressors, rows, strict=True):
            padded[: len(r)] = r
        if n_effects == 1:
            relabelled_t(unit, regressors, freedom, out)
        else:
            relabelled_f(unit, regressors, n_effects, freedom, out)

    return multiply


def _largest(values: NDArray[np.floating]) -> tuple[float, float]:
    return max(float(values.max()), 0.0), max(-float(values.min()), 0.0)


def _yardstick(observed: NDArray[np.floating]) -> tuple[NDArray[Any], NDArray[Any]]:
    # what a value, turned to the side of the observed one, must reach to count
    side = np.copysign(np.ones_like(observed), observed)
    reach = np.abs(observed) * observed.dtype.type(1.0 - _TOLERANCE)
    return side, np.where(observed == 0.0, -np.inf, reach).astype(observed.dtype)


@kernel
def _count_reached(
    values: NDArray[np.floating],
    side: NDArray[np.floating],
    reach: NDArray[np.floating],
    counts: NDArray[np.int32],
    either: NDArray[np.int32],
) -> None:
    for i in range(values.shape[0]):
        counts[i] += values[i] * side[i] >= reach[i]
        either[i] += abs(values[i]) >= reach[i]


def p_values(observed: ArrayLike, null: NDArray[np.floating]) -> _Array:
    """Share of relabellings with a statistic at least as large as the observed one.

    Parameters
    ----------
    observed : array
        Statistics, of any shape.
    null : (n_relabellings,) array
        Statistic of each relabelling, or its maximum over a map for p-values corrected for the
        whole of it; the observed labelling among them.

    Returns
    -------
    array
        p, above 0 and at most 1, of the shape of `observed`.

    Notes
    -----
    Values that fall short by less than 1e-5 of the observed one count: relabellings that give the
    same statistic differ by rounding, the more so in single precision.

    Examples
    --------
    >>> p_values([3.0, 2.0, 0.5], np.array([3.0, 1.0, 2.0, 0.0]))
    array([0.25, 0.5 , 0.75])
    """
    values = np.asarray(observed, dtype=np.float64)
    ascending = np.sort(np.asarray(null, dtype=np.float64))
    below = np.searchsorted(ascending, values - _TOLERANCE * np.abs(values), side="left")
    p: _Array = (len(ascending) - below) / len(ascending)
    return p


@dataclass(frozen=True)
class Tail:
    """Generalised Pareto distribution of the largest values under the null hypothesis.

    Attributes
    ----------
    threshold : float
        Above which it holds.
    shape, scale : float
        Of what exceeds the threshold; a negative shape ends at ``-scale / shape``.
    share : float
        Share of values above the threshold.
    """

    threshold: float
    shape: float
    scale: float
    share: float


def fit_tail(null: NDArray[np.floating]) -> Tail | None:
    r"""Fit a distribution to the upper tail of maxima.

    Parameters
    ----------
    null : (n_relabellings,) array
        Largest statistic of each relabelling, the observed one first: it does not take part.

    Returns
    -------
    Tail or None
        None where no threshold gives a fit that passes.

    Notes
    -----
    Winkler 2016 (doi:10.1016/j.neuroimage.2016.05.068), after Knijnenburg 2009
    (doi:10.1093/bioinformatics/btp211): values above the threshold, at first the 75 % quantile,
    are fitted by the method of moments, with mean :math:`m` and variance :math:`v` of the excess
    :math:`\xi = (1 - m^2 / v) / 2` and :math:`\sigma = m (1 + m^2 / v) / 2` (Hosking and Wallis
    1987, doi:10.2307/1269343). The threshold rises by 2 % until the Anderson-Darling test does not
    reject the fit at 5 %: its p-value is the share of 999 samples of the fitted distribution,
    fitted anew, that fit no better.

    Examples
    --------
    >>> 0.0 < fit_tail(np.random.default_rng(0).exponential(2.0, 501)).share <= 0.25
    True
    """
    values = np.sort(np.asarray(null, dtype=np.float64)[1:])
    for quantile in np.arange(0.75, 1.0, 0.02):
        threshold = float(np.quantile(values, quantile))
        excess = values[values > threshold] - threshold
        if len(excess) < _FEWEST_EXCEEDANCES or np.ptp(excess) == 0.0:
            return None
        shape, scale = pareto_moments(excess)
        rng = np.random.default_rng(len(excess))
        drawn = stats.genpareto.rvs(
            shape, scale=scale, size=(_FIT_SAMPLES, len(excess)), random_state=rng
        )
        reached = anderson_darling(drawn, *pareto_moments(drawn)) >= anderson_darling(
            excess, shape, scale
        )
        if (1 + np.count_nonzero(reached)) / (1 + _FIT_SAMPLES) >= _ACCEPTED_FIT:
            return Tail(threshold, float(shape), float(scale), len(excess) / len(values))
    return None


def pareto_moments(excess: _Array) -> tuple[_Array, _Array]:
    """Generalised Pareto distribution with the mean and variance of samples.

    Parameters
    ----------
    excess : (..., n) array
        Values above a threshold, less it; not all equal.

    Returns
    -------
    shape, scale : (...) array
        A negative shape ends at ``-scale / shape``.

    Examples
    --------
    >>> [float(x.round(6)) for x in pareto_moments(np.array([1.0, 2.0, 3.0]))]
    [-1.5, 5.0]
    """
    mean = excess.mean(axis=-1)
    ratio = mean**2 / excess.var(axis=-1, ddof=1)
    return 0.5 * (1.0 - ratio), 0.5 * mean * (1.0 + ratio)


def anderson_darling(excess: _Array, shape: _Array, scale: _Array) -> _Array:
    """Distance of samples from generalised Pareto distributions.

    Parameters
    ----------
    excess : (..., n) array
        Values above a threshold, less it.
    shape, scale : (...) array
        Of each sample's distribution.

    Returns
    -------
    (...) array
        Anderson and Darling's statistic (1952, doi:10.1214/aoms/1177729437); very large where a
        value lies beyond the end of its distribution.

    Examples
    --------
    >>> sample = np.log([4.0, 2.0, 4.0 / 3.0])
    >>> float(anderson_darling(sample, np.array(0.0), np.array(1.0)).round(4))
    0.2694
    """
    n = excess.shape[-1]
    ascending = np.sort(excess, axis=-1)
    upper = stats.genpareto.sf(ascending, shape[..., np.newaxis], scale=scale[..., np.newaxis])
    upper = np.clip(upper, 1e-12, 1.0 - 1e-12)
    logs = np.log1p(-upper) + np.log(upper[..., ::-1])
    return np.asarray(-n - (logs * (2 * np.arange(1, n + 1) - 1)).sum(axis=-1) / n)


def tail_p_values(
    observed: ArrayLike, null: NDArray[np.floating]
) -> tuple[_Array, NDArray[np.bool_]]:
    """P-values from few relabellings, small ones from a fitted tail.

    Parameters
    ----------
    observed : array
        Statistics, of any shape.
    null : (n_relabellings,) array
        Largest statistic of each relabelling, the observed one first.

    Returns
    -------
    p : array
        Counts as of :func:`p_values`; below 0.1 from the tail, where it fits.
    is_counted : array of bool
        True where p is the count: also where the tail is of no use, since no fit passes or the
        statistic lies beyond its end.

    Examples
    --------
    >>> null = np.random.default_rng(0).exponential(2.0, 500)
    >>> p, is_counted = tail_p_values([1.0, 18.0], null)
    >>> bool(1e-5 < p[1] < 1e-3), is_counted
    (True, array([ True, False]))
    """
    values = np.asarray(observed, dtype=np.float64)
    counts = p_values(values, null)
    is_counted = np.ones(values.shape, dtype=bool)
    if not np.any(counts < _LARGEST_TAIL_P):
        return counts, is_counted
    tail = fit_tail(null)
    if tail is None:
        return counts, is_counted
    excess = values - tail.threshold
    end = -tail.scale / tail.shape if tail.shape < 0.0 else np.inf
    is_counted = ~((counts < _LARGEST_TAIL_P) & (excess > 0.0) & (excess < end))
    from_tail = tail.share * stats.genpareto.sf(excess, tail.shape, scale=tail.scale)
    return np.where(is_counted, counts, from_tail), is_counted
