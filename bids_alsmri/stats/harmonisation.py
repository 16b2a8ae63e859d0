"""Differences between sites taken out of measures, as controls show them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.checks import as_float

_Array = NDArray[np.float64]

LEAST_CONTROLS = 10  # of a site
LEAST_MEASURES = 20  # from which sites borrow strength from other measures
_STEPS, _CLOSE = 200, 1e-6  # of the iteration of the empirical Bayes estimates


@dataclass(frozen=True)
class Harmonisation:
    """Measures without differences of sites.

    Parameters
    ----------
    values : (n, m) array
        In the unit of the data; NaN where they were missing, or where a measure has too few
        controls.
    sites : tuple of str
        Labels.
    shift : (s, m) array
        What each site adds, in standard deviations within sites.
    scale : (s, m) array
        Standard deviation of each site over that within sites.
    is_shrunk : bool
        Whether sites borrowed strength from other measures.
    """

    values: _Array
    sites: tuple[str, ...]
    shift: _Array
    scale: _Array
    is_shrunk: bool


def harmonise(
    values: ArrayLike,
    sites: ArrayLike,
    *,
    is_control: ArrayLike,
    participants: ArrayLike,
    visits: ArrayLike,
    covariates: ArrayLike,
) -> Harmonisation:
    r"""ComBat, fitted on the controls and applied to all.

    Parameters
    ----------
    values : (n, m) array
        Rows of participants and visits, measures in columns; NaN where missing.
    sites, participants, visits : (n,) array
        Labels.
    is_control : (n,) array of bool
        Who is.
    covariates : (n, c) array
        Such as age and sex; what they explain is kept. A row without one is left out of the fit.

    Returns
    -------
    Harmonisation
        With empirical Bayes estimates from 20 measures on, with plain ones below.

    Raises
    ------
    NumericsError
        If there is one site alone, a site has fewer than 10 controls, or none has visits in common
        with others.

    Notes
    -----
    :math:`y = \alpha + x'\beta + \gamma_s + \delta_s \varepsilon` (Johnson, Li and Rabinovic 2007,
    doi:10.1093/biostatistics/kxj037; for images Fortin 2018,
    doi:10.1016/j.neuroimage.2017.11.024). Patients take no part in the fit, so that their
    difference from controls cannot be taken for one between sites; each control counts once, with
    the first row.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> sites = np.repeat(["a", "b"], 12)
    >>> y = rng.normal(size=(24, 1)) + 5 * (sites == "b")[:, np.newaxis]
    >>> found = harmonise(y, sites, is_control=[True] * 24, participants=np.arange(24),
    ...     visits=[0] * 24, covariates=np.empty((24, 0)))
    >>> means = [found.values[sites == site].mean() for site in "ab"]
    >>> bool(np.isclose(*means)), found.is_shrunk
    (True, False)
    """
    y = as_float("values", values, ndim=2)
    labels, own = np.asarray(sites, str), np.asarray(is_control, bool)
    who, when = np.asarray(participants), np.asarray(visits)
    extra = as_float("covariates", covariates).reshape(len(y), -1)
    if not len(y) == len(labels) == len(own) == len(who) == len(when):
        raise NumericsError("values and labels have other numbers of rows; give one label per row")
    names = np.unique(labels)
    # each control once: the rows of one are no independent witnesses
    _, firsts = np.unique(who, return_index=True)
    is_first = np.zeros(len(y), bool)
    is_first[firsts] = True
    fitted = own & is_first & np.isfinite(extra).all(axis=1)
    _require_usable(names, labels, fitted, when)
    place = np.searchsorted(names, labels)
    extra = np.where(np.isfinite(extra), extra, 0.0)
    varies = np.ptp(extra[fitted], axis=0) > 0
    extra = extra[:, varies] - extra[fitted][:, varies].mean(axis=0)
    shift = np.full((len(names), y.shape[1]), np.nan)
    scale, spread, known = shift.copy(), np.full(y.shape[1], np.nan), np.zeros(y.shape[1], bool)
    grand, kept = np.full(y.shape[1], np.nan), np.zeros(y.shape)
    counts = np.zeros_like(shift)
    for k in range(y.shape[1]):
        rows = fitted & np.isfinite(y[:, k])
        n_each = np.bincount(place[rows], minlength=len(names))
        if n_each.min() < LEAST_CONTROLS:
            continue
        means, slopes, left = _fit(y[rows, k], place[rows], extra[rows], len(names))
        spread[k] = np.sqrt((left**2).mean())
        if not spread[k] > 1e-10 * max(float(np.abs(y[rows, k]).max()), 1e-300):
            continue
        grand[k] = float(n_each @ means) / n_each.sum()
        kept[:, k] = extra @ slopes
        counts[:, k], known[k] = n_each, True
        shift[:, k] = (means - grand[k]) / spread[k]
        for s in range(len(names)):
            scale[s, k] = (left[place[rows] == s] / spread[k]).std(ddof=1)
    is_shrunk = int(known.sum()) >= LEAST_MEASURES
    if is_shrunk:
        for s in range(len(names)):
            shift[s, known], scale[s, known] = _shrunk(
                shift[s, known], scale[s, known], counts[s, known]
            )
    standard = (y - grand - kept) / spread
    changed = (standard - shift[place]) / scale[place] * spread + grand + kept
    return Harmonisation(changed, tuple(names.tolist()), shift, scale, is_shrunk)


def _require_usable(
    names: NDArray[np.str_], labels: NDArray[np.str_], fitted: NDArray[np.bool_], when: NDArray[Any]
) -> None:
    if len(names) < 2:
        raise NumericsError(f"there is one site alone ({names[0]}); nothing is to be harmonised")
    for name in names:
        n = int((fitted & (labels == name)).sum())
        if n < LEAST_CONTROLS:
            raise NumericsError(
                f"site {name} has {n} controls with all covariates; at least {LEAST_CONTROLS} are "
                "needed to tell it from the groups; leave harmonisation off, or the site out"
            )
    by_site = [set(when[labels == name].tolist()) for name in names]
    if not set.intersection(*by_site):
        raise NumericsError(
            "the sites have no visit in common: a change over time cannot be told from one of "
            "site; leave harmonisation off"
        )


def _fit(
    y: _Array, place: NDArray[np.int_], extra: _Array, n_sites: int
) -> tuple[_Array, _Array, _Array]:
    """Mean of each site, slopes, and residuals."""
    x = np.column_stack([place[:, np.newaxis] == np.arange(n_sites), extra]).astype(float)
    beta = np.linalg.lstsq(x, y, rcond=None)[0]
    return beta[:n_sites], beta[n_sites:], y - x @ beta


def _shrunk(shift: _Array, scale: _Array, n: _Array) -> tuple[_Array, _Array]:
    """Empirical Bayes estimates of a site, by the moments of all its measures."""
    mean, variance = shift.mean(), shift.var(ddof=1)
    squares = scale**2
    m, v = squares.mean(), max(float(squares.var(ddof=1)), 1e-12)
    shape, rate = (2 * v + m**2) / v, (m * v + m**3) / v
    gamma, delta2 = shift.copy(), squares.copy()
    for _ in range(_STEPS):
        new = (n * variance * shift + delta2 * mean) / (n * variance + delta2)
        # sum of squares about the new shift: that about the own mean, and its distance
        sums = (n - 1) * squares + n * (shift - new) ** 2
        changed = (rate + sums / 2) / (n / 2 + shape - 1)
        moved = max(float(np.abs(new - gamma).max()), float(np.abs(changed - delta2).max()))
        gamma, delta2 = new, changed
        if moved < _CLOSE:
            break
    return gamma, np.sqrt(delta2)
