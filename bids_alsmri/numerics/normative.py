"""How far a person's value lies from what controls like them have."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.checks import as_float, require_same_shape

_Array = NDArray[np.float64]

# degrees of freedom that a spread is told by; with fewer it is mostly chance
_FEWEST_FREE = 3


@dataclass(frozen=True)
class ControlScores:
    """Values against those of controls.

    Parameters
    ----------
    expected : (N,) array
        What a control of the same covariates would have, in the unit of the values; NaN where it
        cannot be told.
    z : (N,) array
        Standard normal deviate of the difference; NaN where it cannot be told.
    n_controls : (N,) array of int
        Controls that it was told by.
    """

    expected: _Array
    z: _Array
    n_controls: NDArray[np.int64]


def control_scores(
    values: ArrayLike,
    covariates: ArrayLike,
    person: ArrayLike,
    is_control: ArrayLike,
) -> ControlScores:
    r"""Deviation of values from those of controls, adjusted for covariates.

    Parameters
    ----------
    values : (N,) array_like
        One measure of each visit, in any unit; NaN where it was not measured.
    covariates : (N, K) array_like
        Such as age and height at each visit; K may be 0. NaN where one is not known.
    person : (N,) array_like of int
        Whose visit it is.
    is_control : (N,) array_like of bool
        Whether that person is a control.

    Returns
    -------
    ControlScores
        NaN for values and covariates that are not known, and where fewer than three degrees of
        freedom are left.

    Raises
    ------
    NumericsError
        If shapes differ.

    Notes
    -----
    The first visit of each control is fitted by least squares; controls are scored by a fit
    without themselves, so that controls and patients have one distribution where they do not
    differ. With residual SD s of :math:`\nu` degrees of freedom,
    :math:`t = (y - \hat y) / (s \sqrt{1 + x^T (X^T X)^{-1} x})` (Crawford and Garthwaite 2006,
    doi:10.1037/0894-4105.20.3.259), and z is the normal deviate of the same probability, so that
    few controls do not make extreme scores.

    Examples
    --------
    >>> found = control_scores([1.0, 2.0, 3.0, 2.0, 1.0, 3.0, 9.0], np.zeros((7, 0)), range(7),
    ...     [True] * 6 + [False])
    >>> int(found.n_controls[6]), bool(found.z[6] > 2)
    (6, True)
    """
    given = as_float("values", values, ndim=1)
    adjusted = as_float("covariates", covariates, ndim=2)
    who, control = np.asarray(person), np.asarray(is_control, dtype=bool)
    require_same_shape(values=given, person=who, is_control=control)
    if len(adjusted) != len(given):
        raise NumericsError(
            f"covariates has {len(adjusted)} rows but values has {len(given)}; give one row for "
            "each value"
        )
    known = np.isfinite(given) & np.isfinite(adjusted).all(axis=1)
    usable = np.flatnonzero(known & control)
    norm = usable[np.sort(np.unique(who[usable], return_index=True)[1])]
    expected, z = np.full(len(given), np.nan), np.full(len(given), np.nan)
    counts = np.zeros(len(given), dtype=np.int64)
    for one in np.unique(who):
        rows = np.flatnonzero(who == one)
        others = norm[who[norm] != one]
        counts[rows] = len(others)
        told = rows[known[rows]]
        if len(others) and len(told):
            expected[told], z[told] = _against(
                given[others], adjusted[others], given[told], adjusted[told]
            )
    return ControlScores(expected, z, counts)


def _against(
    norm: _Array, norm_covariates: _Array, values: _Array, covariates: _Array
) -> tuple[_Array, _Array]:
    """Expected values and normal deviates of values, by controls that are not among them."""
    # covariates that controls do not differ in tell nothing, and cannot be adjusted for
    spread = np.ptp(norm_covariates, axis=0)
    kept = spread > 1e-9 * np.maximum(np.abs(norm_covariates).max(axis=0), 1e-300)
    centre = norm_covariates[:, kept].mean(axis=0)
    design, asked = (
        np.column_stack([np.ones(len(part)), (part[:, kept] - centre) / spread[kept]])
        for part in (norm_covariates, covariates)
    )
    free = len(norm) - int(np.linalg.matrix_rank(design))
    nothing = np.full(len(values), np.nan)
    if free < _FEWEST_FREE:
        return nothing, nothing
    inverse = np.linalg.pinv(design)
    weights = inverse @ norm
    expected = asked @ weights
    residual = norm - design @ weights
    variance = residual @ residual / free
    if not variance > 1e-24 * max(float(np.mean(norm**2)), 1e-300):
        return expected, nothing
    leverage = ((asked @ inverse) ** 2).sum(axis=1)
    t = (values - expected) / np.sqrt(variance * (1.0 + leverage))
    return expected, np.sign(t) * stats.norm.isf(stats.t.sf(np.abs(t), free))
