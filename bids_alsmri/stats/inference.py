"""One contrast of a linear model over many features: statistics and permutation p-values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bids_alsmri.numerics.linear import partition_design, residuals, t_statistic
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
    t : array
        Student's t; 0 where a feature has no variance.
    enhanced : array
        t after enhancement; 0 where t is not positive.
    p_t, p_enhanced : array
        Uncorrected; 1 where the statistic is not positive.
    p_t_fwe, p_enhanced_fwe : array
        Corrected for all features by the largest value of each relabelling.
    is_counted : array of bool
        Where `p_enhanced_fwe` is a share of relabellings, not of a fitted tail.
    """

    t: _Array
    enhanced: _Array
    p_t: _Array
    p_enhanced: _Array
    p_t_fwe: _Array
    p_enhanced_fwe: _Array
    is_counted: NDArray[np.bool_]


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
    partition = partition_design(design, contrast)
    left = residuals(data, partition)
    relabellings = Relabellings(
        partition.effect, exchange, permutation.n_permutations, seed=permutation.seed
    )
    powers = {
        "height_power": permutation.height_power,
        "extent_power": permutation.extent_power,
    }
    t = t_statistic(left, partition)
    enhanced = enhance(t, neighbourhood, **powers)
    n = len(relabellings)
    null = null_statistics(
        left,
        partition,
        relabellings,
        range(n),
        neighbourhood,
        n_threads=permutation.n_threads,
        **powers,
    )
    positive, negative = (
        _direction(sign * t, sign * enhanced, null, side, tail=permutation.tail)
        for side, sign in enumerate((1.0, -1.0))
    )
    return Inference(
        positive,
        negative,
        n,
        relabellings.is_exhaustive,
        partition.degrees_of_freedom,
        left.n_constant,
    )


def _direction(
    t: _Array, enhanced: _Array, null: NullStatistics, side: int, *, tail: bool
) -> Direction:
    # p-values belong to the statistics in single precision, as those of the relabellings are: the
    # observed labelling must equal itself, also where rounding decides
    sign = 1.0 - 2.0 * side
    n = len(null.largest_t)
    is_own = sign * null.t > 0.0
    p_t, _ = _corrected(sign * null.t, null.largest_t[:, side], tail)
    p_enhanced, is_counted = _corrected(sign * null.enhanced, null.largest_enhanced[:, side], tail)
    return Direction(
        t + 0.0,
        np.maximum(enhanced, 0.0) + 0.0,
        np.where(is_own, null.n_t / n, 1.0),
        np.where(is_own, null.n_enhanced / n, 1.0),
        np.where(is_own, p_t, 1.0),
        np.where(is_own, p_enhanced, 1.0),
        is_counted | ~is_own,
    )


def _corrected(
    observed: NDArray[np.floating], null: _Array, tail: bool
) -> tuple[_Array, NDArray[np.bool_]]:
    if tail:
        return tail_p_values(observed, null)
    return p_values(observed, null), np.ones(observed.shape, dtype=bool)
