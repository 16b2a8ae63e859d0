"""One contrast of a linear model over many features: statistics and permutation p-values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.linear import (
    Partition,
    Residuals,
    partition_design,
    residuals,
    t_statistic,
)
from bids_alsmri.numerics.permutation import (
    Exchange,
    NullStatistics,
    Relabellings,
    null_statistics,
    p_values,
    tail_p_values,
)
from bids_alsmri.numerics.tfce import Neighbourhood, enhance

_Array = NDArray[np.float64]


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
        Whether small corrected p-values come from a fitted tail: for few relabellings.
    """

    n_permutations: int = 5000
    seed: int = 20221
    height_power: float = 2.0
    extent_power: float = 0.5
    n_threads: int = 1
    tail: bool = False


@dataclass(frozen=True)
class Direction:
    """One direction of a contrast, each an array over the features.

    Attributes
    ----------
    statistic : array
        Student's t; 0 where a feature has no variance.
    enhanced : array
        Statistic after enhancement; 0 where the statistic is not positive.
    p_statistic, p_enhanced : array
        Uncorrected; 1 where the statistic is not positive.
    p_statistic_fwe, p_enhanced_fwe : array
        Corrected for all features by the largest value of each relabelling.
    is_counted_statistic, is_counted_enhanced : array of bool
        Where the corrected p-value is a share of relabellings, not of a fitted tail.
    """

    statistic: _Array
    enhanced: _Array
    p_statistic: _Array
    p_enhanced: _Array
    p_statistic_fwe: _Array
    p_enhanced_fwe: _Array
    is_counted_statistic: NDArray[np.bool_]
    is_counted_enhanced: NDArray[np.bool_]


@dataclass(frozen=True)
class Inference:
    """Result of a contrast.

    Attributes
    ----------
    positive, negative : Direction
        The contrast, and its opposite: each tested by itself, one-sided.
    n_relabellings : int
        Smallest p-value is one over it.
    is_exhaustive : bool
        Whether these are all there are.
    degrees_of_freedom : int
        Of the noise.
    n_constant : int
        Features without variance, for which there is no statistic.
    """

    positive: Direction
    negative: Direction
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
    permutation : Permutation
        How p-values are found.
    """

    residuals: Residuals
    partition: Partition
    relabellings: Relabellings
    neighbourhood: Neighbourhood
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
        )


def make_problem(
    data: NDArray[np.floating],
    design: ArrayLike,
    contrast: ArrayLike,
    neighbourhood: Neighbourhood,
    *,
    exchange: Exchange,
    permutation: Permutation,
) -> Problem:
    """Check a contrast and prepare it, so that blocks of its relabellings can be jobs.

    Parameters
    ----------
    data : (n, m) array
        Observations in rows, features (voxels, vertices, regions) in columns, finite.
    design : (n, p) array
        Regressors in columns.
    contrast : (p,) array
        Weights.
    neighbourhood : Neighbourhood
        Of the m features.
    exchange : Exchange
        What may be exchanged under the null hypothesis.
    permutation : Permutation
        How many relabellings, and the enhancement.

    Returns
    -------
    Problem
        The same for the same arguments, whichever process makes it.

    Raises
    ------
    NumericsError
        If the design does not determine the contrast, shapes do not fit, values are not finite,
        or no p-value can fall below 0.05.

    Examples
    --------
    >>> from bids_alsmri.numerics.linear import two_groups
    >>> from bids_alsmri.numerics.tfce import graph_neighbourhood
    >>> from bids_alsmri.numerics.permutation import join_blocks
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
    left = residuals(data, partition)
    if left.unit.shape[1] != neighbourhood.n_elements:
        raise NumericsError(
            f"data has {left.unit.shape[1]} features but the neighbourhood "
            f"{neighbourhood.n_elements} elements; make it of the same mask"
        )
    relabellings = Relabellings(
        partition.effect, exchange, permutation.n_permutations, seed=permutation.seed
    )
    return Problem(left, partition, relabellings, neighbourhood, permutation)


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
    n = len(problem.relabellings)
    missing = np.setdiff1d(np.arange(n), null.numbers)
    if missing.size or len(null.numbers) != n:
        raise NumericsError(
            f"null holds {len(null.numbers)} of {n} relabellings; compute those that are missing"
            + (f", such as {missing[0]}, and join all" if missing.size else "")
        )
    permutation = problem.permutation
    t = t_statistic(problem.residuals, problem.partition)
    enhanced = enhance(
        t,
        problem.neighbourhood,
        height_power=permutation.height_power,
        extent_power=permutation.extent_power,
    )
    positive, negative = (
        _direction(sign * t, sign * enhanced, null, side, tail=permutation.tail)
        for side, sign in enumerate((1.0, -1.0))
    )
    return Inference(
        positive,
        negative,
        n,
        problem.relabellings.is_exhaustive,
        problem.partition.degrees_of_freedom,
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
) -> Inference:
    """Test a contrast and its opposite at every feature, with correction for all of them.

    Parameters
    ----------
    data : (n, m) array
        Observations in rows, features (voxels, vertices, regions) in columns, finite.
    design : (n, p) array
        Regressors in columns.
    contrast : (p,) array
        Weights.
    neighbourhood : Neighbourhood
        Of the m features.
    exchange : Exchange
        What may be exchanged under the null hypothesis.
    permutation : Permutation
        How many relabellings, and the enhancement.

    Returns
    -------
    Inference
        Statistics and p-values of either direction.

    Raises
    ------
    NumericsError
        If the design does not determine the contrast, shapes do not fit, values are not finite,
        or no p-value can fall below 0.05.

    Notes
    -----
    Freedman and Lane 1983 (doi:10.2307/1391660) as in Winkler 2014
    (doi:10.1016/j.neuroimage.2014.01.060); enhancement of Smith and Nichols 2009
    (doi:10.1016/j.neuroimage.2008.03.061), its integral exact.

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
        data, design, contrast, neighbourhood, exchange=exchange, permutation=permutation
    )
    return conclude(problem, problem.block(range(len(problem.relabellings))))


def _direction(
    statistic: _Array, enhanced: _Array, null: NullStatistics, side: int, *, tail: bool
) -> Direction:
    # p-values belong to the statistics in single precision, as those of the relabellings are: the
    # observed labelling must equal itself, also where rounding decides
    sign = 1.0 - 2.0 * side
    n = len(null.numbers)
    is_own = sign * null.statistic > 0.0
    p, is_counted = _corrected(sign * null.statistic, null.largest[:, side], tail)
    p_enhanced, is_counted_enhanced = _corrected(
        sign * null.enhanced, null.largest_enhanced[:, side], tail
    )
    return Direction(
        statistic + 0.0,
        np.maximum(enhanced, 0.0) + 0.0,
        np.where(is_own, null.n_reached / n, 1.0),
        np.where(is_own, null.n_reached_enhanced / n, 1.0),
        np.where(is_own, p, 1.0),
        np.where(is_own, p_enhanced, 1.0),
        is_counted | ~is_own,
        is_counted_enhanced | ~is_own,
    )


def _corrected(
    observed: NDArray[np.floating], null: _Array, tail: bool
) -> tuple[_Array, NDArray[np.bool_]]:
    if tail:
        return tail_p_values(observed, null)
    return p_values(observed, null), np.ones(observed.shape, dtype=bool)
