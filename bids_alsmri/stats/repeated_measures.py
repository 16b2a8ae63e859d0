"""Means of visits where values of a participant go together in any way, for small samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.checks import as_float

_Array = NDArray[np.float64]
Structure = Literal["unstructured", "slopes"]

# Participants who are seen at two visits, for the covariance of these to be estimated.
_FEWEST_TOGETHER = 5
_MOST_STEPS = 200
# Gain of the log-likelihood that a further step promises, below which it is at its maximum.
_NO_GAIN = 1e-10


@dataclass(frozen=True)
class RepeatedMeasures:
    """Estimates of a model of visits.

    Parameters
    ----------
    coefficients : (v,) array
        Mean of the first visit, and changes from it to the others, in the unit of the data.
    covariance : (v, v) array
        Of the coefficients, the variances taken as known.
    visit_covariance : (v, v) array
        Of the values of one participant, in squared units of the data.
    log_likelihood : float
        Restricted.
    n_observations, n_participants : int
        Values, and participants with at least one.
    structure : {"unstructured", "slopes"}
        Of the covariance.
    information : (k, k) array
        Expected, of the parameters of the covariance.
    slopes : (k, v, v) array
        Derivatives of `covariance` by these.
    small_sample : (v, v) array
        What Kenward and Roger add to the covariance.
    seen : (n, v) array of bool
        Which visits each participant has a value of.
    """

    coefficients: _Array
    covariance: _Array
    visit_covariance: _Array
    log_likelihood: float
    n_observations: int
    n_participants: int
    structure: Structure
    information: _Array
    slopes: _Array
    small_sample: _Array
    seen: NDArray[np.bool_]

    def error_and_freedom(self, weights: ArrayLike) -> tuple[float, float]:
        r"""Standard error and degrees of freedom of a sum of coefficients, for small samples.

        Parameters
        ----------
        weights : (v,) array
            Of the coefficients.

        Returns
        -------
        error : float
            From the covariance with the addition of Kenward and Roger.
        dof : float
            At least 1; where the covariance is unstructured, at most one less than the participants
            who have all visits that the sum is of, as a paired test of these has.

        Notes
        -----
        As of `bids_alsmri.stats.random_intercept.RandomIntercept.error_and_freedom`. Where many
        have left, Kenward and Roger's degrees of freedom alone are too many: in cohorts of 29 of
        whom 13 stay, intervals of 95 % held 92 to 93 %.

        Examples
        --------
        >>> y = np.array([[1, 2.0], [2, 4], [4, 5], [3, 5], [5, 6], [4, 4]])
        >>> error, dof = fit_visits(y, structure="unstructured").error_and_freedom([0, 1])
        >>> round(error, 6), round(dof, 6)  # as the paired t test
        (0.307318, 5.0)
        """
        c = as_float("weights", weights, ndim=1)
        own = float(c @ self.covariance @ c)
        error = math.sqrt(max(own + float(c @ self.small_sample @ c), own))
        gradient = np.einsum("i,kij,j->k", c, self.slopes, c)
        spread = float(gradient @ linalg.pinvh(self.information) @ gradient)
        largest = float(self.n_observations - len(c))
        if self.structure == "unstructured":
            visits = np.flatnonzero((c != 0) | (np.arange(len(c)) == 0))
            largest = min(largest, float(self.seen[:, visits].all(axis=1).sum() - 1))
        dof = 2 * own**2 / spread if spread > 0 else largest
        return error, min(max(dof, 1.0), largest)


@dataclass(frozen=True)
class _Pattern:
    """Participants who were seen at the same visits."""

    seen: NDArray[np.bool_]
    n: int
    sums: _Array  # of values
    squares: _Array  # sums of products of values


@dataclass(frozen=True)
class _State:
    """Likelihood at one covariance, and what follows from it."""

    value: float
    coefficients: _Array
    covariance: _Array
    score: _Array
    information: _Array
    first: _Array  # (k, v, v): X' V^-1 A V^-1 X
    second: _Array  # (k, k, v, v): X' V^-1 A V^-1 A V^-1 X


def why_not(values: ArrayLike, *, structure: Structure) -> str:
    """Why there are too few values for a structure.

    Parameters
    ----------
    values : (n, v) array
        Participants in rows, visits in columns; NaN where missing.
    structure : {"unstructured", "slopes"}
        Of the covariance of visits.

    Returns
    -------
    str
        Empty where it can be fitted.

    Examples
    --------
    >>> why_not([[1.0, 2.0], [2.0, 3.0]], structure="unstructured")
    '2 participants have two visits in common, 5 are needed'
    """
    y = as_float("values", values, ndim=2)
    seen = np.isfinite(y)
    if structure == "unstructured":
        together = int((seen.T.astype(int) @ seen.astype(int)).min())
        if together < _FEWEST_TOGETHER:
            return (
                f"{together} participants have two visits in common, {_FEWEST_TOGETHER} are needed"
            )
        return ""
    often = int((seen.sum(axis=1) >= 3).sum())
    if often < _FEWEST_TOGETHER:
        return f"{often} participants have three visits, {_FEWEST_TOGETHER} are needed"
    return ""


def fit_visits(
    values: ArrayLike, *, structure: Structure, months: Sequence[float] | None = None
) -> RepeatedMeasures | None:
    r"""Restricted maximum likelihood of the means of visits, values of a participant correlated.

    Parameters
    ----------
    values : (n, v) array
        Participants in rows, visits in columns, in any unit; NaN where missing.
    structure : {"unstructured", "slopes"}
        Any covariance of the visits, or that of levels and rates that differ between participants.
    months : (v,) sequence of float, optional
        Times of the visits, increasing; needed for rates.

    Returns
    -------
    RepeatedMeasures or None
        None where the likelihood has no maximum inside the possible covariances, as where a visit
        does not vary; the caller falls back to a simpler model and says so.

    Raises
    ------
    NumericsError
        If there is no such structure, times are missing or do not fit, or values are too few.

    Notes
    -----
    :math:`y_i \sim N(X_i \beta, V_i)` with :math:`V = \sum_k \theta_k A_k`: all variances and
    covariances (Mallinckrodt 2008, doi:10.1177/009286150804200402), or
    :math:`\tau_0^2 + \tau_{01}(t + t') + \tau_1^2 t t' + \sigma^2 \delta` (Laird and Ware 1982,
    doi:10.2307/2529876), whose variances may be negative as long as V is a covariance, so that
    intervals hold where there is none. Fisher scoring; participants count by their pattern of
    visits. Errors and degrees of freedom after Kenward and Roger (1997, doi:10.2307/2533558), exact
    where nothing is missing: the change is tested as by the paired t test. Of the two equal terms
    that they add to the covariance, that of the uncertain variances is taken as these data have
    it, not as it is on average over missing by chance (Kenward and Molenberghs 1998,
    doi:10.1214/ss/1028905830); where values are missing by what was seen, it is larger.

    Missing values may depend on values that were seen; not on those that were missed.

    Examples
    --------
    >>> y = np.array([[1, 2.0], [2, 4], [4, 5], [3, 5], [5, 6], [4, np.nan]])
    >>> fit_visits(y, structure="unstructured").coefficients.round(3).tolist()
    [3.167, 1.383]
    """
    if structure not in get_args(Structure):
        raise NumericsError(f"structure is '{structure}'; expected unstructured or slopes")
    y = as_float("values", values, ndim=2)
    y = y[np.isfinite(y).any(axis=1)]
    reason = why_not(y, structure=structure)
    if reason:
        raise NumericsError(f"{reason}; fit a random intercept instead")
    scale = float(np.nanstd(y))
    if not scale > 0:
        return None
    parts, start = _parameters(y / scale, structure, months)
    patterns = _patterns(y / scale)
    found = _maximise(patterns, parts, start)
    if found is None:
        return None
    theta, state = found
    c = state.covariance
    w = linalg.pinvh(state.information)
    extra = np.einsum("kl,klij->ij", w, state.second) - np.einsum(
        "kl,kij,jm,lmn->in", w, state.first, c, state.first
    )
    moved = -c @ _pull(patterns, parts, theta, state.coefficients)
    n = int(np.isfinite(y).sum())
    return RepeatedMeasures(
        coefficients=scale * state.coefficients,
        covariance=scale**2 * c,
        visit_covariance=scale**2 * np.einsum("k,kij->ij", theta, parts),
        log_likelihood=state.value - (n - y.shape[1]) * math.log(scale),
        n_observations=n,
        n_participants=len(y),
        structure=structure,
        # of the parameters in units of the scale, in which the slopes stand too
        information=state.information,
        slopes=scale**2 * np.einsum("ij,kjl,lm->kim", c, state.first, c),
        small_sample=scale**2 * (c @ extra @ c + moved @ w @ moved.T),
        seen=np.isfinite(y),
    )


def _parameters(
    y: _Array, structure: Structure, months: Sequence[float] | None
) -> tuple[_Array, _Array]:
    """Matrices whose weighted sum is the covariance, and weights to start with."""
    n_visits = y.shape[1]
    spread = np.sqrt(np.maximum(np.nanvar(y, axis=0), 0.01))
    shared = 0.5
    if structure == "unstructured":
        places = list(zip(*np.tril_indices(n_visits), strict=True))
        parts = np.zeros((len(places), n_visits, n_visits))
        for k, (i, j) in enumerate(places):
            parts[k, i, j] = parts[k, j, i] = 1.0
        start = [spread[i] * spread[j] * (1.0 if i == j else shared) for i, j in places]
        return parts, np.array(start)
    if months is None or len(months) != n_visits or (np.diff(months) <= 0).any():
        raise NumericsError(
            f"months is {months} for {n_visits} visits; give one time each, increasing"
        )
    times = (np.asarray(months, float) - months[0]) / (months[-1] - months[0])
    one = np.ones(n_visits)
    parts = np.array(
        [
            np.outer(one, one),
            np.outer(one, times) + np.outer(times, one),
            np.outer(times, times),
            np.eye(n_visits),
        ]
    )
    variance = float((spread**2).mean())
    return parts, variance * np.array([shared, 0.0, 0.2, 1 - shared])


def _patterns(y: _Array) -> list[_Pattern]:
    seen, place = np.unique(np.isfinite(y), axis=0, return_inverse=True)
    found = []
    for number, mask in enumerate(seen):
        own = y[place.ravel() == number][:, mask]
        found.append(_Pattern(mask, len(own), own.sum(axis=0), own.T @ own))
    return found


def _evaluate(patterns: Sequence[_Pattern], parts: _Array, theta: _Array) -> _State | None:
    """Likelihood, its derivatives and expected information; None where V is no covariance."""
    n_visits = parts.shape[1]
    design = np.eye(n_visits)
    design[:, 0] = 1.0
    whole = np.einsum("k,kij->ij", theta, parts)
    n_parts = len(parts)
    precision, right, inverses = np.zeros_like(whole), np.zeros(n_visits), []
    n_values, log_det = 0, 0.0
    for pattern in patterns:
        v = whole[np.ix_(pattern.seen, pattern.seen)]
        try:
            factor = linalg.cho_factor(v, lower=True)
        except linalg.LinAlgError:
            return None
        diagonal = np.diag(factor[0])
        if diagonal.min() < 1e-6:  # of data whose spread is 1
            return None
        inverse = linalg.cho_solve(factor, np.eye(len(v)))
        x = design[pattern.seen]
        weighted = inverse @ x
        precision += pattern.n * x.T @ weighted
        right += weighted.T @ pattern.sums
        n_values += pattern.n * len(v)
        log_det += pattern.n * 2 * float(np.log(diagonal).sum())
        inverses.append((inverse, x, weighted))
    covariance = np.linalg.inv(precision)
    beta = covariance @ right
    squares = 0.0
    first = np.zeros((n_parts, n_visits, n_visits))
    second = np.zeros((n_parts, n_parts, n_visits, n_visits))
    traces, crossed = np.zeros(n_parts), np.zeros((n_parts, n_parts))
    fits = np.zeros(n_parts)
    for pattern, (inverse, x, weighted) in zip(patterns, inverses, strict=True):
        mean = x @ beta
        own = (
            pattern.squares
            - np.outer(pattern.sums, mean)
            - np.outer(mean, pattern.sums)
            + pattern.n * np.outer(mean, mean)
        )
        a = parts[:, pattern.seen][:, :, pattern.seen]
        b = np.einsum("ij,kjl->kil", inverse, a)
        squares += float(np.sum(inverse * own))
        traces += pattern.n * np.einsum("kii->k", b)
        crossed += pattern.n * np.einsum("kij,lji->kl", b, b)
        fits += np.einsum("kij,jm,mi->k", b, inverse, own)
        first += pattern.n * np.einsum("ip,kij,jq->kpq", weighted, a, weighted)
        second += pattern.n * np.einsum("ip,kij,ljm,mq->klpq", weighted, a, b, weighted)
    own_first = np.einsum("ij,kjl->kil", covariance, first)
    score = -0.5 * (traces - np.einsum("kii->k", own_first) - fits)
    information = 0.5 * (
        crossed
        - 2 * np.einsum("ij,klji->kl", covariance, second)
        + np.einsum("kij,lji->kl", own_first, own_first)
    )
    free = n_values - n_visits
    sign, log_precision = np.linalg.slogdet(precision)
    if sign <= 0:
        return None
    value = -0.5 * (free * math.log(2 * math.pi) + log_det + float(log_precision) + squares)
    return _State(value, beta, covariance, score, information, first, second)


def _pull(
    patterns: Sequence[_Pattern], parts: _Array, theta: _Array, coefficients: _Array
) -> _Array:
    """(v, k) derivatives of the coefficients' score by the parameters of the covariance.

    They are 0 on average where values are missing by chance, and not where they are missing by
    what was seen: then coefficients lean on how visits go together.
    """
    n_visits = parts.shape[1]
    design = np.eye(n_visits)
    design[:, 0] = 1.0
    whole = np.einsum("k,kij->ij", theta, parts)
    found = np.zeros((n_visits, len(parts)))
    for pattern in patterns:
        inverse = np.linalg.inv(whole[np.ix_(pattern.seen, pattern.seen)])
        x = design[pattern.seen]
        left = inverse @ (pattern.sums - pattern.n * x @ coefficients)
        a = parts[:, pattern.seen][:, :, pattern.seen]
        found += np.einsum("jp,kji,i->pk", inverse @ x, a, left)
    return found


def _maximise(
    patterns: Sequence[_Pattern], parts: _Array, start: _Array
) -> tuple[_Array, _State] | None:
    """Fisher scoring with halved steps; None where it does not arrive."""
    theta = start
    state = _evaluate(patterns, parts, theta)
    for _ in range(_MOST_STEPS):
        if state is None:
            return None
        step = linalg.pinvh(state.information) @ state.score
        gain = float(state.score @ step)
        if gain < _NO_GAIN:
            return theta, state
        size = 1.0
        while True:
            new = _evaluate(patterns, parts, theta + size * step)
            if new is not None and new.value > state.value:
                break
            size /= 2
            if size < 1e-8:
                # rounding keeps the last steps of a maximum from rising
                return (theta, state) if gain < 1e-6 else None
        theta, state = theta + size * step, new
    return None
