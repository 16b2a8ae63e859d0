"""Several maps together: both significant, or any of them, with correction for their number."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.permutation import p_values

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
    distribution the relabellings give (Winkler 2016, doi:10.1002/hbm.23115).

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
