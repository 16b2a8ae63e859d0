"""Several maps together: all significant, or at least one, with correction for their number.

Three questions, which reports must not confuse; :data:`MEANING` has their answers in words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.checks import require_finite, require_range
from bids_alsmri.numerics.combining import (
    Combined,
    Combiner,
    Method,
    combine_t,
    combined_null_statistics,
    equivalent_t,
)
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
    p_values,
    tail_p_values,
)
from bids_alsmri.numerics.refit import (
    make_variance_groups,
    observed_statistic,
    voxelwise_residuals,
)
from bids_alsmri.numerics.tfce import Neighbourhood, enhance
from bids_alsmri.stats.inference import Direction, Permutation

Sign = Literal["positive", "negative"]
Test = Literal["combination", "conjunction", "correction across maps"]

MEANING: Mapping[Test, str] = MappingProxyType(
    {
        "combination": (
            "The non-parametric combination tests whether at least one modality changes in its "
            "declared direction. A significant voxel does not mean that all of them change there: "
            "one strong change suffices."
        ),
        "conjunction": (
            "The conjunction tests whether all modalities change, each in its declared direction: "
            "its p-value is the largest of the single maps' corrected p-values. Only this test "
            "supports the statement that two modalities change at the same voxel."
        ),
        "correction across maps": (
            "P-values are corrected for all voxels of all maps that were looked at: where none of "
            "the maps has an effect, the chance that any voxel of any of them is significant is "
            "the level. A significant voxel belongs to its own map."
        ),
    }
)

_Array = NDArray[np.float64]


def conjunction(p: Sequence[ArrayLike]) -> _Array:
    """P-value for an effect in all of several maps.

    Parameters
    ----------
    p : sequence of (m,) arrays
        Corrected p-values of each map, in the direction of interest, over the same features and
        participants.

    Returns
    -------
    (m,) array
        The largest of them: an intersection-union test (Berger 1982,
        doi:10.1080/00401706.1982.10487790). It rejects only where each map by itself would, and
        needs no correction for the number of maps.

    Raises
    ------
    NumericsError
        If there are fewer than two maps, shapes differ, or a value is no p-value.

    Examples
    --------
    >>> conjunction([[0.01, 0.20], [0.04, 0.03]])
    array([0.04, 0.2 ])
    """
    return np.asarray(np.max(_maps("p", p), axis=0))


@dataclass(frozen=True)
class Overlap:
    """Where several maps change together.

    Attributes
    ----------
    directions : tuple of (str, int)
        1 or -1 of each map: the change that was asked for.
    p : (m,) array
        Of the conjunction: largest of the maps' corrected p-values in these directions.
    is_significant : (m,) array of bool
        Where p is at most the level.
    n_significant : int
        Number of features where it is.
    n_significant_alone : tuple of int
        Likewise for each map by itself, in the order of `directions`.
    """

    directions: tuple[tuple[str, int], ...]
    p: _Array
    is_significant: NDArray[np.bool_]
    n_significant: int
    n_significant_alone: tuple[int, ...]


def overlap(
    p_maps: Mapping[str, Mapping[Sign, ArrayLike]], directions: Mapping[str, int], *, level: float
) -> Overlap:
    """Conjunction of maps, each in a direction of its own.

    Parameters
    ----------
    p_maps : mapping of str to mapping
        For each map its corrected p-values in the "positive" and the "negative" direction, (m,)
        arrays. All come from the same participants, contrast and features: a volume's map is
        sampled at the skeleton's voxels, and tested there, before it meets a skeleton's.
    directions : mapping of str to int
        Of the maps to look at, two or more: 1 where an increase is expected, -1 for a decrease.
    level : float
        At which a p-value is significant, above 0 and below 1.

    Returns
    -------
    Overlap
        p-values of a change in all maps, and how many features are significant.

    Raises
    ------
    NumericsError
        If a map is missing, there are fewer than two, shapes differ, a value is no p-value, a
        direction is neither 1 nor -1, or the level is out of range.

    Notes
    -----
    The overlap of El Mendili 2022 (doi:10.3174/ajnr.A7559) with its error rate: see
    :func:`conjunction` and :data:`MEANING`.

    Examples
    --------
    >>> tsc = {"positive": [0.01, 0.01], "negative": [1.0, 1.0]}
    >>> fa = {"positive": [1.0, 1.0], "negative": [0.03, 0.20]}
    >>> found = overlap({"tsc": tsc, "fa": fa}, {"tsc": 1, "fa": -1}, level=0.05)
    >>> found.p, found.n_significant, found.n_significant_alone
    (array([0.03, 0.2 ]), 1, (2, 1))
    """
    require_range("level", level, 0.0, 1.0, open_low=True)
    absent = sorted(set(directions) - set(p_maps))
    if absent:
        raise NumericsError(
            f"directions name {', '.join(absent)} but p_maps holds {', '.join(sorted(p_maps))}; "
            "give p-values of each"
        )
    chosen = []
    for name, sign in directions.items():
        if sign not in (1, -1):
            raise NumericsError(
                f"direction of {name} is {sign}; give 1 for an increase and -1 for a decrease"
            )
        chosen.append(p_maps[name]["positive" if sign == 1 else "negative"])
    p = conjunction(chosen)
    is_significant = p <= level
    return Overlap(
        tuple(directions.items()),
        p,
        is_significant,
        int(np.count_nonzero(is_significant)),
        tuple(int(np.count_nonzero(np.asarray(one) <= level)) for one in chosen),
    )


def opposite(directions: Mapping[str, int]) -> dict[str, int]:
    """All directions reversed.

    Parameters
    ----------
    directions : mapping of str to int
        1 or -1 of each map.

    Returns
    -------
    dict
        The reverse, in the same order.

    Examples
    --------
    >>> opposite({"tsc": 1, "fa": -1})
    {'tsc': -1, 'fa': 1}
    """
    return {name: -sign for name, sign in directions.items()}


def joint_p_values(observed: Sequence[ArrayLike], null: Sequence[ArrayLike]) -> list[_Array]:
    r"""P-values corrected for all features of several maps, whose scales may differ.

    Parameters
    ----------
    observed : sequence of (m,) arrays
        Statistic of each map; the maps need not have the same features.
    null : sequence of (n_relabellings,) arrays
        Largest statistic of each map under each relabelling, the observed one first. Relabelling
        k must be the same in all maps: permute once, for all that participants share.

    Returns
    -------
    list of (m,) arrays
        Corrected p-values of each map.

    Raises
    ------
    NumericsError
        If there are fewer maxima than two maps have, or their numbers differ.

    Notes
    -----
    Maxima of maps of other smoothness or extent are no common currency, so each becomes the
    share of relabellings that reach it; the smallest share over the maps is the statistic whose
    distribution the relabellings give (Winkler 2016, doi:10.1002/hbm.23115). The largest raw
    statistic instead would leave nearly all of the level to the smoothest or largest map.

    Examples
    --------
    Two maps in step: nothing is lost by looking at both.

    >>> null = np.array([9.0, 1.0, 2.0, 3.0])
    >>> [p.tolist() for p in joint_p_values([[9.0], [900.0]], [null, 100 * null])]
    [[0.25], [0.25]]
    """
    maxima = _maps("null", null)
    if len(observed) != len(maxima):
        raise NumericsError(
            f"observed holds {len(observed)} maps but null {len(maxima)}; give one of each"
        )
    shares = np.stack([p_values(values, values) for values in maxima])
    smallest = shares.min(axis=0)
    return [
        # small shares count as large statistics
        p_values(-p_values(values, largest), -smallest)
        for values, largest in zip(observed, maxima, strict=True)
    ]


@dataclass(frozen=True)
class CorrectedAcross:
    """P-values of one map, corrected for all features of all maps.

    Attributes
    ----------
    positive, negative : (m,) array
        Of the enhanced statistic, in the direction of the contrast and in the opposite one.
    """

    positive: _Array
    negative: _Array


def correct_across(
    relabellings: Sequence[Relabellings],
    nulls: Sequence[NullStatistics],
    *,
    both_directions: bool,
) -> list[CorrectedAcross]:
    """Family-wise correction over several maps, modalities or contrasts, of the same participants.

    Parameters
    ----------
    relabellings : sequence of Relabellings
        Of at least two maps, which need not have the same features.
    nulls : sequence of NullStatistics
        Of all these relabellings.
    both_directions : bool
        Whether either direction of each map belongs to one family, or positive and negative
        directions are two families.

    Returns
    -------
    list of CorrectedAcross
        In the order of `nulls`; 1 where a map's statistic is not in the direction.

    Raises
    ------
    NumericsError
        If numbers differ, relabellings are missing, or relabelling k of one map is not that of
        another.

    Notes
    -----
    See :func:`joint_p_values`. Relabellings of the same participants are the same if they are
    drawn (same seed, exchange and number) or if the contrast is the same; all possible ones of
    two contrasts come in other orders. Contrasts that keep other groups in place, or have other
    participants, move other rows and cannot be corrected together: exchange all groups of one
    model instead.
    """
    if len(relabellings) != len(nulls) or len(nulls) < 2:
        raise NumericsError(
            f"relabellings holds {len(relabellings)} maps and nulls {len(nulls)}; give two or more "
            "of each"
        )
    _require_synchronised(relabellings, nulls)
    observed = [side * null.enhanced for null in nulls for side in (1.0, -1.0)]
    largest = [null.largest_enhanced[:, side] for null in nulls for side in (0, 1)]
    if both_directions:
        p = joint_p_values(observed, largest)
    else:
        p = list(observed)
        for side in (0, 1):
            p[side::2] = joint_p_values(observed[side::2], largest[side::2])
    own = [np.where(values > 0.0, one, 1.0) for values, one in zip(observed, p, strict=True)]
    return [CorrectedAcross(*pair) for pair in zip(own[::2], own[1::2], strict=True)]


def _require_synchronised(
    relabellings: Sequence[Relabellings], nulls: Sequence[NullStatistics]
) -> None:
    first, numbers = relabellings[0], np.arange(len(relabellings[0]))
    for i, (other, null) in enumerate(zip(relabellings, nulls, strict=True)):
        if len(other) != len(first) or not np.array_equal(null.numbers, numbers):
            raise NumericsError(
                f"map {i} has {len(null.numbers)} of {len(other)} relabellings but the first map "
                f"{len(first)}; compute all, and the same for each map"
            )
        for k in range(len(first)) if other is not first else ():
            one, two = first[k], other[k]
            if not np.array_equal(one.order, two.order) or not np.array_equal(one.signs, two.signs):
                raise NumericsError(
                    f"relabelling {k} of map {i} is not that of the first map, so their maxima do "
                    "not belong together; take the same participants, exchange and seed, and for "
                    "different contrasts fewer relabellings than are possible"
                )


@dataclass(frozen=True, eq=False)
class CombinationProblem:
    """Maps to combine that have been checked, ready for their relabellings.

    Attributes
    ----------
    directions : tuple of (str, int)
        Names of the k maps, and 1 or -1 of each.
    method : {"fisher", "stouffer", "tippett"}
        How t of the maps are combined.
    t : (k, m) array
        Student's t of each map; 0 in all of them where one has no variance. Of a map with
        covariates of each feature, the t of the same p that a map without them would have.
    is_constant : (m,) array of bool
        Features without variance in one of the maps or more.
    unit : (n, k m) array of float32
        Residuals of all maps beside each other, at unit length.
    partition : Partition
        The design, split by the contrast.
    relabellings : Relabellings
        All that are to be computed; each moves all maps alike.
    neighbourhood : Neighbourhood
        Of the m features.
    permutation : Permutation
        How p-values are found.
    apart : mapping of int to Residuals
        Of maps with covariates of each feature, by their place.
    """

    directions: tuple[tuple[str, int], ...]
    method: Method
    t: _Array
    is_constant: NDArray[np.bool_]
    unit: NDArray[np.float32]
    partition: Partition
    relabellings: Relabellings
    neighbourhood: Neighbourhood
    permutation: Permutation
    apart: Mapping[int, Residuals] = field(default_factory=dict)

    def block(self, numbers: range) -> NullStatistics:
        """Statistics of some of the relabellings, as one job of many.

        Parameters
        ----------
        numbers : range
            Numbers of the relabellings, within ``range(len(relabellings))``.

        Returns
        -------
        NullStatistics
            As of :func:`bids_alsmri.numerics.combining.combined_null_statistics`: to be joined by
            :func:`bids_alsmri.numerics.permutation.join_blocks`, the same to the last bit for any
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
        return combined_null_statistics(
            self.unit,
            self.partition,
            self.relabellings,
            numbers,
            self.neighbourhood,
            directions=_signs(self.directions),
            method=self.method,
            height_power=self.permutation.height_power,
            extent_power=self.permutation.extent_power,
            n_threads=self.permutation.n_threads,
            apart=self.apart,
        )


@dataclass(frozen=True)
class CombinedInference:
    """Result of a combination: whether at least one of the maps changes.

    Attributes
    ----------
    declared, reverse : Direction
        With the declared directions, and with all of them reversed. Their statistic is z of the
        combined p-value; 0 where a map has no variance.
    declared_statistic, reverse_statistic : (m,) array
        Fisher's chi-squared, Stouffer's z or Tippett's smallest p.
    directions : tuple of (str, int)
        Names of the maps, and 1 or -1 of each.
    method : {"fisher", "stouffer", "tippett"}
        How t of the maps were combined.
    n_relabellings : int
        Smallest p-value is one over it.
    is_exhaustive : bool
        Whether these are all there are.
    degrees_of_freedom : int
        Of the noise in each map, covariates of each feature left out of account.
    n_constant : int
        Features without variance in one of the maps or more, for which there is no statistic.
    """

    declared: Direction
    reverse: Direction
    declared_statistic: _Array
    reverse_statistic: _Array
    directions: tuple[tuple[str, int], ...]
    method: Method
    n_relabellings: int
    is_exhaustive: bool
    degrees_of_freedom: int
    n_constant: int


def make_combination(
    maps: Mapping[str, NDArray[np.floating]],
    directions: Mapping[str, int],
    design: ArrayLike,
    contrast: ArrayLike,
    neighbourhood: Neighbourhood,
    *,
    method: Method,
    exchange: Exchange,
    permutation: Permutation,
    voxelwise_covariates: Mapping[str, NDArray[np.floating]] | None = None,
) -> CombinationProblem:
    """Check maps that are to be combined, so that blocks of relabellings can be jobs.

    Parameters
    ----------
    maps : mapping of str to (n, m) array
        Observations in rows, the same in each map; features in columns, the same in each map;
        finite.
    directions : mapping of str to int
        Of each map: 1 where the contrast is expected to be positive, -1 where negative.
    design : (n, p) array
        Regressors in columns.
    contrast : (p,) array
        Weights.
    neighbourhood : Neighbourhood
        Of the m features.
    method : {"fisher", "stouffer", "tippett"}
        How t of the maps are combined.
    exchange : Exchange
        What may be exchanged under the null hypothesis.
    permutation : Permutation
        How many relabellings, and the enhancement.
    voxelwise_covariates : mapping of str to (c, n, m) array, optional
        Nuisance regressors that differ by feature, of some of the maps; they take several times as
        long.

    Returns
    -------
    CombinationProblem
        The same for the same arguments, whichever process makes it.

    Raises
    ------
    NumericsError
        If maps and directions differ in their names, a direction is neither 1 nor -1, the design
        does not determine the contrast or the contrast has several rows, a forming threshold of
        clusters is given, covariates are of no map, shapes do not fit, values are not finite, or
        no p-value can fall below 0.05.
    """
    if set(maps) != set(directions) or not maps:
        raise NumericsError(
            f"maps are {', '.join(maps)} but directions those of {', '.join(directions)}; give one "
            "direction for each map"
        )
    own = voxelwise_covariates or {}
    if not set(own) <= set(maps):
        raise NumericsError(
            f"voxelwise_covariates are those of {', '.join(own)} but maps {', '.join(maps)}; give "
            "covariates of maps that are combined"
        )
    partition = partition_design(design, contrast)
    if partition.effect.shape[1] != 1:
        raise NumericsError(
            f"the contrast has {partition.effect.shape[1]} rows; maps are combined by t, which "
            "has a direction: give one row"
        )
    if permutation.cluster_height is not None:
        raise NumericsError(
            f"cluster_height is {permutation.cluster_height:g}; combinations are tested by "
            "enhancement, not by the extent of clusters: give None"
        )
    # refuses methods and directions before any job starts
    Combiner(list(directions.values()), partition.degrees_of_freedom, method)
    shape = (len(partition.effect), neighbourhood.n_elements)
    unit = np.empty((shape[0], len(maps), shape[1]), np.float32)
    t = np.empty(unit.shape[1:])
    is_constant = np.zeros(shape[1], dtype=bool)
    apart: dict[int, Residuals] = {}
    # one map at a time: double precision is needed for a moment only
    for i, name in enumerate(directions):
        data = np.asarray(maps[name])
        if data.shape != shape:
            raise NumericsError(
                f"map {name} has shape {data.shape}; the design has {shape[0]} observations and "
                f"the neighbourhood {shape[1]} elements. All maps need the same participants and "
                "features"
            )
        require_finite(f"map {name}", data)
        if name in own:
            left = voxelwise_residuals(data, partition, own[name])
            apart[i], t[i] = left, _observed_t(left, partition)
        else:
            left = residuals(data, partition)
            t[i] = t_statistic(left, partition)
        unit[:, i] = left.unit
        is_constant |= left.length == 0.0
    # a combination of fewer maps would have another distribution than its neighbours have
    unit[:, :, is_constant], t[:, is_constant] = 0.0, 0.0
    for left in apart.values():
        left.unit[:, is_constant] = 0.0
    return CombinationProblem(
        tuple(directions.items()),
        method,
        t,
        is_constant,
        unit.reshape(shape[0], -1),
        partition,
        Relabellings(partition.effect, exchange, permutation.n_permutations, seed=permutation.seed),
        neighbourhood,
        permutation,
        apart,
    )


def _observed_t(left: Residuals, partition: Partition) -> _Array:
    """Student's t beside covariates of each feature, as a map without them has it."""
    assert left.own is not None
    shared = partition.degrees_of_freedom
    t = observed_statistic(left, partition, make_variance_groups(None, partition))
    return equivalent_t(t, shared - (len(left.own) - 1), shared)


def conclude_combination(problem: CombinationProblem, null: NullStatistics) -> CombinedInference:
    """P-values of a combination from the statistics of all its relabellings.

    Parameters
    ----------
    problem : CombinationProblem
        The maps.
    null : NullStatistics
        Of all relabellings.

    Returns
    -------
    CombinedInference
        Statistics and p-values with the declared directions and their reverse.

    Raises
    ------
    NumericsError
        If relabellings are missing.
    """
    n = len(problem.relabellings)
    if not np.array_equal(null.numbers, np.arange(n)):
        raise NumericsError(
            f"null holds {len(np.unique(null.numbers))} of {n} relabellings; compute those that "
            "are missing and join all"
        )
    freedom = problem.partition.degrees_of_freedom
    signs = _signs(problem.directions)
    declared, reverse = (
        combine_t(problem.t, side * signs, freedom, problem.method) for side in (1.0, -1.0)
    )
    return CombinedInference(
        _direction(problem, null, declared, 0),
        _direction(problem, null, reverse, 1),
        declared.statistic,
        reverse.statistic,
        problem.directions,
        problem.method,
        n,
        problem.relabellings.is_exhaustive,
        freedom,
        int(np.count_nonzero(problem.is_constant)),
    )


def infer_combination(
    maps: Mapping[str, NDArray[np.floating]],
    directions: Mapping[str, int],
    design: ArrayLike,
    contrast: ArrayLike,
    neighbourhood: Neighbourhood,
    *,
    method: Method,
    exchange: Exchange,
    permutation: Permutation,
    voxelwise_covariates: Mapping[str, NDArray[np.floating]] | None = None,
) -> CombinedInference:
    r"""Test whether at least one of several maps changes, with correction for all features.

    Parameters
    ----------
    maps, directions, design, contrast, neighbourhood, method, exchange, permutation
        See :func:`make_combination`.
    voxelwise_covariates : mapping, optional
        Likewise.

    Returns
    -------
    CombinedInference
        Statistics and p-values with the declared directions and their reverse.

    Raises
    ------
    NumericsError
        As :func:`make_combination`.

    Notes
    -----
    Modified non-parametric combination (Winkler 2016, doi:10.1002/hbm.23115): in each relabelling,
    the same for all maps, t of each map becomes a one-sided p by Student's distribution; these
    are combined in each feature (see :func:`bids_alsmri.numerics.combining.combine_t`), brought
    to z, and enhanced. Relabellings of whole participants keep the maps' dependence, so it need
    not be known. What the result means is said in :data:`MEANING`.

    Examples
    --------
    >>> from bids_alsmri.numerics.linear import two_groups
    >>> from bids_alsmri.numerics.tfce import graph_neighbourhood
    >>> design, contrast = two_groups(np.arange(8) < 4)
    >>> noise = np.random.default_rng(0).normal(size=(2, 8, 3))
    >>> shift = 9.0 * (np.arange(8) < 4)[:, None]
    >>> found = infer_combination(
    ...     {"tsc": noise[0] + shift, "fa": noise[1] - shift}, {"tsc": 1, "fa": -1},
    ...     design, contrast, graph_neighbourhood(3, np.array([[0, 1], [1, 2]])),
    ...     method="fisher", exchange=Exchange(), permutation=Permutation(),
    ... )
    >>> found.n_relabellings, found.declared.p_enhanced_fwe.round(4)
    (70, array([0.0143, 0.0143, 0.0143]))
    """
    problem = make_combination(
        maps,
        directions,
        design,
        contrast,
        neighbourhood,
        method=method,
        exchange=exchange,
        permutation=permutation,
        voxelwise_covariates=voxelwise_covariates,
    )
    return conclude_combination(problem, problem.block(range(len(problem.relabellings))))


def _signs(directions: tuple[tuple[str, int], ...]) -> _Array:
    return np.array([sign for _, sign in directions], dtype=np.float64)


def _direction(
    problem: CombinationProblem, null: NullStatistics, combined: Combined, side: int
) -> Direction:
    # p-values belong to the statistics in single precision, as those of the relabellings are
    m, n, permutation = problem.neighbourhood.n_elements, len(null.numbers), problem.permutation
    half = slice(side * m, (side + 1) * m)
    is_own = (null.statistic[half] > 0.0) & ~problem.is_constant
    z = np.where(problem.is_constant, 0.0, combined.z)
    p, is_counted = _corrected(null.statistic[half], null.largest[:, side], permutation.tail)
    p_enhanced, is_counted_enhanced = _corrected(
        null.enhanced[half], null.largest_enhanced[:, side], permutation.tail
    )
    return Direction(
        z,
        enhance(
            np.maximum(z, 0.0),
            problem.neighbourhood,
            height_power=permutation.height_power,
            extent_power=permutation.extent_power,
        ),
        np.where(is_own, null.n_reached[half] / n, 1.0),
        np.where(is_own, null.n_reached_enhanced[half] / n, 1.0),
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


def _maps(name: str, values: Sequence[ArrayLike]) -> _Array:
    arrays = [np.asarray(one, dtype=np.float64) for one in values]
    shapes = {one.shape for one in arrays}
    if len(arrays) < 2 or len(shapes) != 1:
        raise NumericsError(
            f"{name} holds {len(arrays)} arrays of the shapes {sorted(shapes)}; give two or more "
            "of one shape"
        )
    stacked = np.stack(arrays)
    if not np.all(np.isfinite(stacked)):
        raise NumericsError(f"{name} holds NaN or infinite values; leave those features out")
    if name == "p" and (stacked.min() <= 0.0 or stacked.max() > 1.0):
        raise NumericsError(
            f"p runs from {stacked.min():g} to {stacked.max():g}; p-values lie above 0 and reach "
            "at most 1. Are these 1 - p?"
        )
    return stacked
