"""One contrast of a linear model over many features: statistics and permutation p-values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.linear import Partition, Residuals, partition_design, residuals
from bids_alsmri.numerics.permutation import (
    Exchange,
    NullStatistics,
    Relabellings,
    join_blocks,
    null_statistics,
    p_values,
    tail_p_values,
)
from bids_alsmri.numerics.refit import (
    VarianceGroups,
    make_variance_groups,
    observed_statistic,
    voxelwise_residuals,
)
from bids_alsmri.numerics.tfce import Neighbourhood, clusters_above, enhance

_Array = NDArray[np.float64]
_Side = Literal["positive", "negative", "either"]

_SIDES: tuple[_Side, ...] = get_args(_Side)


@dataclass(frozen=True)
class Permutation:
    """How p-values are found.

    Attributes
    ----------
    n_permutations : int
        Relabellings, the observed one among them; all possible ones where there are no more.
    seed : int
        From which relabelling k draws stream k.
    height_power, extent_power : float
        H and E of the enhancement.
    n_threads : int
        Threads; p-values do not depend on them.
    tail : bool
        Whether small corrected p-values come from a fitted tail: for few relabellings. Extents of
        clusters, which are whole numbers, are always counted.
    cluster_height : float or None
        Threshold of the statistic that forms clusters; None for no inference on their extent.
    """

    n_permutations: int = 5000
    seed: int = 20221
    height_power: float = 2.0
    extent_power: float = 0.5
    n_threads: int = 1
    tail: bool = False
    cluster_height: float | None = None


@dataclass(frozen=True)
class Clusters:
    """Clusters at or beyond a forming threshold, each an array over the features.

    Attributes
    ----------
    label : array of int
        Cluster of each feature, from 1; 0 for none.
    extent : array of int
        Features of that cluster; 0 for none.
    p_fwe : array
        Corrected p-value of that cluster, by the largest extent of each relabelling; 1 for none.
    """

    label: NDArray[np.intp]
    extent: NDArray[np.intp]
    p_fwe: _Array


@dataclass(frozen=True)
class Direction:
    """One direction of a contrast, or either, each an array over the features.

    Attributes
    ----------
    statistic : array
        t of a contrast of one row, F of one of several; with variance groups Welch's v or G. 0
        where a feature has no variance.
    enhanced : array
        Statistic after enhancement; 0 where the statistic lies in the other direction.
    p_statistic, p_enhanced : array
        Uncorrected; 1 where the statistic is 0 or lies in the other direction.
    p_statistic_fwe, p_enhanced_fwe : array
        Corrected for all features by the largest value of each relabelling.
    is_counted_statistic, is_counted_enhanced : array of bool
        Where the corrected p-value is a share of relabellings, not of a fitted tail.
    clusters : Clusters or None
        Beyond the forming threshold; None where none was given.
    """

    statistic: _Array
    enhanced: _Array
    p_statistic: _Array
    p_enhanced: _Array
    p_statistic_fwe: _Array
    p_enhanced_fwe: _Array
    is_counted_statistic: NDArray[np.bool_]
    is_counted_enhanced: NDArray[np.bool_]
    clusters: Clusters | None = None


@dataclass(frozen=True)
class Inference:
    """Result of a contrast.

    Attributes
    ----------
    positive, negative : Direction
        The contrast, and its opposite: each tested by itself, one-sided. F and G are never
        negative.
    either : Direction
        Two-sided: the statistic with its sign, its p-values by its magnitude and the largest
        magnitude of each relabelling. For F and G the same as `positive`.
    n_relabellings : int
        Smallest p-value is one over it.
    is_exhaustive : bool
        Whether these are all there are.
    degrees_of_freedom : int
        Of the noise, variance groups left out of account.
    n_constant : int
        Features without variance, for which there is no statistic.
    """

    positive: Direction
    negative: Direction
    either: Direction
    n_relabellings: int
    is_exhaustive: bool
    degrees_of_freedom: int
    n_constant: int


@dataclass(frozen=True, eq=False)
class Problem:
    """A contrast that has been checked, ready for its relabellings.

    Attributes
    ----------
    residuals : Residuals
        What the nuisance leaves of the data.
    partition : Partition
        The design, split by the contrast.
    relabellings : Relabellings
        All that are to be computed; ``len`` of them.
    neighbourhood : Neighbourhood
        Of the features.
    groups : VarianceGroups
        Observations of one variance.
    permutation : Permutation
        How p-values are found.
    """

    residuals: Residuals
    partition: Partition
    relabellings: Relabellings
    neighbourhood: Neighbourhood
    groups: VarianceGroups
    permutation: Permutation

    def block(self, numbers: range) -> NullStatistics:
        """Statistics of some of the relabellings, as one job of many.

        Parameters
        ----------
        numbers : range
            Numbers of the relabellings, within ``range(len(relabellings))``.

        Returns
        -------
        NullStatistics
            Flat arrays, to be saved and joined by
            :func:`bids_alsmri.numerics.permutation.join_blocks`; the same to the last bit for any
            cut into blocks. Memory does not grow with their number.

        Raises
        ------
        NumericsError
            If there is no number, or there are not so many relabellings.
        """
        n = len(self.relabellings)
        if not numbers or min(numbers) < 0 or max(numbers) >= n:
            raise NumericsError(
                f"numbers is {numbers}; give one or more of the relabellings 0 to {n - 1}"
            )
        return null_statistics(
            self.residuals,
            self.partition,
            self.relabellings,
            numbers,
            self.neighbourhood,
            height_power=self.permutation.height_power,
            extent_power=self.permutation.extent_power,
            n_threads=self.permutation.n_threads,
            groups=self.groups,
            cluster_height=self.permutation.cluster_height,
        )


def make_problem(
    data: NDArray[np.floating],
    design: ArrayLike,
    contrast: ArrayLike,
    neighbourhood: Neighbourhood,
    *,
    exchange: Exchange,
    permutation: Permutation,
    variance_groups: ArrayLike | None = None,
    voxelwise_covariates: NDArray[np.floating] | None = None,
) -> Problem:
    """Check a contrast and prepare it, so that blocks of its relabellings can be jobs.

    Parameters
    ----------
    data : (n, m) array
        Observations in rows, features (voxels, vertices, regions) in columns, finite.
    design : (n, p) array
        Regressors in columns.
    contrast : (p,) or (k, p) array
        Weights: one row for t, k independent ones for F.
    neighbourhood : Neighbourhood
        Of the m features.
    exchange : Exchange
        What may be exchanged under the null hypothesis.
    permutation : Permutation
        How many relabellings, and the enhancement.
    variance_groups : (n,) array, optional
        Labels of observations of one variance each: Welch's v in place of t, G in place of F.
    voxelwise_covariates : (c, n, m) array, optional
        Nuisance regressors that differ by feature; takes several times as long.

    Returns
    -------
    Problem
        The same for the same arguments, whichever process makes it.

    Raises
    ------
    NumericsError
        If the design does not determine the contrast, shapes do not fit, values are not finite,
        the regressors explain all of a variance group, or no p-value can fall below 0.05.

    Examples
    --------
    >>> from bids_alsmri.numerics.linear import two_groups
    >>> from bids_alsmri.numerics.tfce import graph_neighbourhood
    >>> design, contrast = two_groups(np.arange(8) < 4)
    >>> data = np.random.default_rng(0).normal(size=(8, 3))
    >>> problem = make_problem(
    ...     data, design, contrast, graph_neighbourhood(3, np.array([[0, 1], [1, 2]])),
    ...     exchange=Exchange(), permutation=Permutation(),
    ... )
    >>> null = join_blocks([problem.block(range(30)), problem.block(range(30, 70))])
    >>> conclude(problem, null).n_relabellings
    70
    """
    partition = partition_design(design, contrast)
    groups = make_variance_groups(variance_groups, partition)
    if voxelwise_covariates is None:
        left = residuals(data, partition)
    else:
        left = voxelwise_residuals(data, partition, voxelwise_covariates)
    if left.unit.shape[1] != neighbourhood.n_elements:
        raise NumericsError(
            f"data has {left.unit.shape[1]} features but the neighbourhood "
            f"{neighbourhood.n_elements} elements; make it of the same mask"
        )
    relabellings = Relabellings(
        partition.effect, exchange, permutation.n_permutations, seed=permutation.seed
    )
    return Problem(left, partition, relabellings, neighbourhood, groups, permutation)


def conclude(problem: Problem, null: NullStatistics) -> Inference:
    """P-values of a contrast from the statistics of all its relabellings.

    Parameters
    ----------
    problem : Problem
        The contrast.
    null : NullStatistics
        Of all relabellings, see :func:`bids_alsmri.numerics.permutation.join_blocks`.

    Returns
    -------
    Inference
        Statistics and p-values of either direction.

    Raises
    ------
    NumericsError
        If relabellings are missing.
    """
    null = join_blocks([null])  # in order: the tail leaves the observed labelling, the first, out
    n = len(problem.relabellings)
    missing = np.setdiff1d(np.arange(n), null.numbers)
    if missing.size or len(null.numbers) != n:
        raise NumericsError(
            f"null holds {len(null.numbers)} of {n} relabellings; compute those that are missing"
            + (f", such as {missing[0]}, and join all" if missing.size else "")
        )
    permutation = problem.permutation
    statistic = observed_statistic(problem.residuals, problem.partition, problem.groups)
    enhanced = enhance(
        statistic,
        problem.neighbourhood,
        height_power=permutation.height_power,
        extent_power=permutation.extent_power,
    )
    positive, negative, either = (
        _direction(problem, null, statistic, enhanced, side) for side in _SIDES
    )
    n_covariates = 0
    if problem.residuals.own is not None:
        n_covariates = len(problem.residuals.own) - problem.partition.effect.shape[1]
    return Inference(
        positive,
        negative,
        either,
        n,
        problem.relabellings.is_exhaustive,
        problem.partition.degrees_of_freedom - n_covariates,
        problem.residuals.n_constant,
    )


def infer(
    data: NDArray[np.floating],
    design: ArrayLike,
    contrast: ArrayLike,
    neighbourhood: Neighbourhood,
    *,
    exchange: Exchange,
    permutation: Permutation,
    variance_groups: ArrayLike | None = None,
    voxelwise_covariates: NDArray[np.floating] | None = None,
) -> Inference:
    """Test a contrast and its opposite at every feature, with correction for all of them.

    Parameters
    ----------
    data : (n, m) array
        Observations in rows, features (voxels, vertices, regions) in columns, finite.
    design : (n, p) array
        Regressors in columns.
    contrast : (p,) or (k, p) array
        Weights: one row for t, k independent ones for F.
    neighbourhood : Neighbourhood
        Of the m features.
    exchange : Exchange
        What may be exchanged under the null hypothesis.
    permutation : Permutation
        How many relabellings, and the enhancement.
    variance_groups : (n,) array, optional
        Labels of observations of one variance each: Welch's v in place of t, G in place of F.
    voxelwise_covariates : (c, n, m) array, optional
        Nuisance regressors that differ by feature; takes several times as long.

    Returns
    -------
    Inference
        Statistics and p-values of either direction.

    Raises
    ------
    NumericsError
        If the design does not determine the contrast, shapes do not fit, values are not finite,
        the regressors explain all of a variance group, or no p-value can fall below 0.05.

    Notes
    -----
    Freedman and Lane 1983 (doi:10.2307/1391660) as in Winkler 2014
    (doi:10.1016/j.neuroimage.2014.01.060); enhancement of Smith and Nichols 2009
    (doi:10.1016/j.neuroimage.2008.03.061), its integral exact. Under free permutation the test is
    exact where all observations are exchangeable; with covariates, or groups of unequal variance,
    it is so only asymptotically. Welch's v then holds its rate far better than t, and best by sign
    flips, which need noise that is symmetric and leave it in its group. Inference on
    the extent of clusters (Friston 1994, doi:10.1002/hbm.460010306) takes smoothness to be the
    same everywhere, which skeletons are not.

    Examples
    --------
    >>> from bids_alsmri.numerics.linear import two_groups
    >>> from bids_alsmri.numerics.tfce import graph_neighbourhood
    >>> design, contrast = two_groups(np.arange(8) < 4)
    >>> data = np.random.default_rng(0).normal(size=(8, 3)) + 9.0 * (np.arange(8) < 4)[:, None]
    >>> found = infer(
    ...     data, design, contrast, graph_neighbourhood(3, np.array([[0, 1], [1, 2]])),
    ...     exchange=Exchange(), permutation=Permutation(),
    ... )
    >>> found.n_relabellings, found.positive.p_enhanced_fwe.round(4)
    (70, array([0.0143, 0.0143, 0.0143]))
    """
    problem = make_problem(
        data,
        design,
        contrast,
        neighbourhood,
        exchange=exchange,
        permutation=permutation,
        variance_groups=variance_groups,
        voxelwise_covariates=voxelwise_covariates,
    )
    return conclude(problem, problem.block(range(len(problem.relabellings))))


def _direction(
    problem: Problem, null: NullStatistics, statistic: _Array, enhanced: _Array, side: _Side
) -> Direction:
    # p-values belong to the statistics in single precision, as those of the relabellings are: the
    # observed labelling must equal itself, also where rounding decides
    n, tail = len(null.numbers), problem.permutation.tail
    own, own_enhanced = _towards(null.statistic, side), _towards(null.enhanced, side)
    is_own = own > 0.0
    reached, reached_enhanced = null.n_reached, null.n_reached_enhanced
    if side == "either":
        reached, reached_enhanced = null.n_reached_either, null.n_reached_enhanced_either
    p, is_counted = _corrected(own, _largest(null.largest, side), tail)
    p_enhanced, is_counted_enhanced = _corrected(
        own_enhanced, _largest(null.largest_enhanced, side), tail
    )
    return Direction(
        (-statistic if side == "negative" else statistic) + 0.0,  # no -0
        (enhanced if side == "either" else np.maximum(_towards(enhanced, side), 0.0)) + 0.0,
        np.where(is_own, reached / n, 1.0),
        np.where(is_own, reached_enhanced / n, 1.0),
        np.where(is_own, p, 1.0),
        np.where(is_own, p_enhanced, 1.0),
        is_counted | ~is_own,
        is_counted_enhanced | ~is_own,
        _clusters(problem, null, side),
    )


def _towards(values: NDArray[Any], side: _Side) -> NDArray[Any]:
    return values if side == "positive" else -values if side == "negative" else np.abs(values)


def _largest(largest: NDArray[Any], side: _Side) -> NDArray[Any]:
    # of columns for the statistic and its negative
    column: NDArray[Any] = (
        largest.max(axis=1) if side == "either" else largest[:, int(side == "negative")]
    )
    return column


def _clusters(problem: Problem, null: NullStatistics, side: _Side) -> Clusters | None:
    height = problem.permutation.cluster_height
    if height is None:
        return None
    label = np.zeros(len(null.statistic), np.intp)
    for sign in (1.0, -1.0):
        if side in ("either", "positive" if sign > 0.0 else "negative"):
            # neighbours of opposite sign are not of one cluster
            found = clusters_above(sign * null.statistic, problem.neighbourhood, height)
            label += np.where(found > 0, found + label.max(), 0)
    extents = np.bincount(label)
    extents[0] = 0
    extent = extents[label]
    p = p_values(extent, _largest(null.largest_extent, side))
    return Clusters(label, extent, np.where(label > 0, p, 1.0))


def _corrected(
    observed: NDArray[np.floating], null: _Array, tail: bool
) -> tuple[_Array, NDArray[np.bool_]]:
    if tail:
        return tail_p_values(observed, null)
    return p_values(observed, null), np.ones(observed.shape, dtype=bool)
