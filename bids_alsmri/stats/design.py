"""Groups and covariates as a design matrix, and visits as one map of each participant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.checks import as_float, require_finite, require_range
from bids_alsmri.numerics.linear import two_groups

Visit = Literal["first", "mean", "change", "slope"]

_Array = NDArray[np.float64]


@dataclass(frozen=True)
class GroupDesign:
    """Model of a difference between two groups.

    Attributes
    ----------
    matrix : (n, p) array
        Regressors in columns: one for each group, then covariates.
    contrast : (p,) array
        First less second group.
    is_compared : (n,) array of bool
        Observations of the two groups; those of others only help to estimate the rest.
    groups : (n,) array of int
        0 for the first group, 1 for the second, then others: also the groups of like variance.
    """

    matrix: _Array
    contrast: _Array
    is_compared: NDArray[np.bool_]
    groups: NDArray[np.intp]


def group_design(
    groups: Sequence[str], first: str, second: str, covariates: ArrayLike | None = None
) -> GroupDesign:
    """Design and contrast of a difference between two groups, others beside them or not.

    Parameters
    ----------
    groups : sequence of str
        Group of each of n observations.
    first, second : str
        Groups that are compared.
    covariates : (n, c) array, optional
        Nuisance, finite; its means do not matter.

    Returns
    -------
    GroupDesign
        With as many columns of groups as there are.

    Raises
    ------
    NumericsError
        If one of the two groups has nobody, or a covariate is constant or not finite.

    Examples
    --------
    >>> found = group_design(["als", "hc", "ftd", "als"], "als", "hc")
    >>> found.matrix.astype(int).tolist(), found.contrast.tolist(), found.is_compared.tolist()
    ([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]], [1.0, -1.0, 0.0], [True, True, False, True])
    """
    labels = np.asarray(groups, dtype=object)
    for name in (first, second):
        if not np.any(labels == name):
            raise NumericsError(f"groups hold nobody of '{name}'; give observations of both")
    names = [first, second, *sorted(set(groups) - {first, second})]
    number = np.array([names.index(label) for label in groups], dtype=np.intp)
    if len(names) == 2:
        matrix, contrast = two_groups(number == 0, covariates)
    else:
        # checks of the covariates are those of two groups
        nuisance = two_groups(number == 0, covariates)[0][:, 2:]
        matrix = np.column_stack([*(number == k for k in range(len(names))), nuisance])
        matrix = matrix.astype(np.float64)
        contrast = np.zeros(matrix.shape[1])
        contrast[:2] = 1.0, -1.0
    return GroupDesign(matrix, contrast, number < 2, number)


def change_design(n: int, covariates: ArrayLike | None = None) -> GroupDesign:
    """Design and contrast of the mean of one group against 0.

    Parameters
    ----------
    n : int
        Observations, such as changes of participants.
    covariates : (n, c) array, optional
        Nuisance, finite; the mean is that at their means.

    Returns
    -------
    GroupDesign
        With a column of 1, then covariates.

    Raises
    ------
    NumericsError
        If there are not as many rows, or a covariate is not finite or constant.

    Examples
    --------
    >>> change_design(3, [[1.0], [2.0], [6.0]]).matrix.tolist()
    [[1.0, -2.0], [1.0, -1.0], [1.0, 3.0]]
    """
    nuisance = as_float(
        "covariates", np.zeros((n, 0)) if covariates is None else covariates, ndim=2
    )
    require_finite("covariates", nuisance)
    if len(nuisance) != n:
        raise NumericsError(f"covariates has {len(nuisance)} rows; give one for each of {n}")
    require_range("n", n, 1, np.inf)
    constant = np.flatnonzero(np.ptp(nuisance, axis=0) == 0.0)
    if constant.size:
        raise NumericsError(f"covariate {constant[0]} is the same for all; leave it out")
    matrix = np.column_stack([np.ones(n), nuisance - nuisance.mean(axis=0)])
    contrast = np.zeros(matrix.shape[1])
    contrast[0] = 1.0
    return GroupDesign(matrix, contrast, np.ones(n, bool), np.zeros(n, np.intp))


def visit_weights(
    participants: Sequence[str], months: ArrayLike, visit: Visit
) -> tuple[list[str], _Array]:
    r"""Weights by which the visits of each participant become one map.

    Parameters
    ----------
    participants : sequence of str
        Participant of each of n visits, those of one in the order of time.
    months : (n,) array
        Time of each visit, in months; used for the slope alone.
    visit : {"first", "mean", "change", "slope"}
        First map, mean of all, last less first, or the slope of a straight line, per month.

    Returns
    -------
    names : list of str
        Participants in the order in which they first appear.
    weights : (len(names), n) array
        One row each; its product with the maps in rows is one map per participant. Dimensionless,
        or one over months for the slope.

    Raises
    ------
    NumericsError
        If numbers differ, a change is wanted of a single visit, or a slope of visits without, or
        all at one, time.

    Notes
    -----
    Of the slope, :math:`w_i = (t_i - \bar t) / \sum_j (t_j - \bar t)^2` (least squares). A
    summary of each participant is exchangeable between participants, which visits are not.

    Examples
    --------
    >>> visit_weights(["a", "a", "b", "b"], [0.0, 4.0, 0.0, 12.0], "change")[1].tolist()
    [[-1.0, 1.0, 0.0, 0.0], [0.0, 0.0, -1.0, 1.0]]
    """
    times = as_float("months", months, ndim=1)
    if len(times) != len(participants):
        raise NumericsError(
            f"participants has {len(participants)} visits but months {len(times)}; give one time "
            "for each"
        )
    names = list(dict.fromkeys(participants))
    weights = np.zeros((len(names), len(participants)))
    for row, name in enumerate(names):
        own = np.array([i for i, label in enumerate(participants) if label == name])
        weights[row, own] = _weights(name, times[own], visit)
    return names, weights


def _weights(name: str, times: _Array, visit: Visit) -> _Array:
    unit: _Array = np.eye(len(times))
    weights: _Array = unit[0]
    if visit == "first":
        return weights
    if visit == "mean":
        weights = unit.mean(axis=0)
        return weights
    if len(times) < 2:
        raise NumericsError(f"{name} has one visit; a {visit} takes two; leave {name} out")
    if visit == "change":
        weights = unit[-1] - unit[0]
        return weights
    require_finite(f"months of {name}", times)
    centred = times - times.mean()
    if not centred.any():
        raise NumericsError(
            f"all visits of {name} are at {times[0]:g} months; a slope takes two; correct them"
        )
    weights = centred / (centred @ centred)
    return weights
