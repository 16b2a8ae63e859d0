"""Change over visits: mixed models, responsiveness, attrition, sizes of trials."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.checks import as_float, require_range
from bids_alsmri.stats.comparison import Ratio, fieller_ratio
from bids_alsmri.stats.random_intercept import (
    Estimate,
    LinearFit,
    estimate_of,
    fit_random_intercept,
)
from bids_alsmri.stats.repeated_measures import Structure, fit_visits, why_not

_Array = NDArray[np.float64]
Mode = Literal["paper", "best"]
MeanInterval = Literal["noncentral", "bca", "percentile"]

_NO_RATIO = Ratio(math.nan, math.nan, math.nan, "bounded")
_NO_ESTIMATE = Estimate(*[math.nan] * 6)
# Up to so many visits every covariance of them is free: with 4, 10 numbers would be estimated.
_MOST_FREE_VISITS = 3
_STRUCTURES: dict[Structure, str] = {
    "unstructured": "any covariance of visits",
    "slopes": "levels and rates of participants",
}


@dataclass(frozen=True)
class VisitChange:
    """Change from the first visit to another.

    Parameters
    ----------
    visit : hashable
        Label.
    change : Estimate
        In the unit of the data.
    percent : Ratio
        In per cent of the estimated mean of the first visit, with Fieller's interval.
    n : int
        Participants with a value at that visit.
    n_pairs : int
        Those who have one at the first visit too.
    """

    visit: Hashable
    change: Estimate
    percent: Ratio
    n: int
    n_pairs: int


@dataclass(frozen=True)
class Course:
    """Change of one measure over visits.

    Parameters
    ----------
    changes : tuple of VisitChange
        One for each visit but the first.
    baseline : float
        Estimated mean of the first visit.
    variance_ratio : float
        Variance between participants over all of it, of the model with a random intercept alone,
        0 to 1; 0 is a result.
    n_participants, n_observations, n_missing : int
        With a value; values; visits without one.
    method, note : str
        How it was fitted, and what is special.
    fit : LinearFit or None
        The model; None where there is none.
    """

    changes: tuple[VisitChange, ...]
    baseline: float
    variance_ratio: float
    n_participants: int
    n_observations: int
    n_missing: int
    method: str
    note: str
    fit: LinearFit | None


def course_of(
    values: ArrayLike,
    participants: Sequence[Hashable],
    visits: Sequence[Hashable],
    *,
    order: Sequence[Hashable],
    mode: Mode,
    level: float,
    months: Sequence[float] | None = None,
) -> Course:
    r"""Mean change from the first visit, by a mixed model of all values there are.

    Parameters
    ----------
    values : (n,) array
        One for each participant and visit; NaN where missing.
    participants, visits : (n,) sequence
        Labels.
    order : sequence
        Labels of the visits, the first one first; rows of other visits are left out.
    mode : {"paper", "best"}
        A random intercept by maximum likelihood with Wald's z, as Stata's ``xtmixed`` (Jenkins
        2020); or, by restricted likelihood with the error and t of Kenward and Roger, any
        covariance of up to 3 visits, of more that of levels and rates. Where too few participants
        have several visits for that, a random intercept, which the note says.
    level : float
        Of the intervals, such as 0.95.
    months : sequence of float, optional
        Times of the visits of `order`, increasing; needed for rates.

    Returns
    -------
    Course
        NaN with a note for visits without values, or where nothing can be fitted.

    Raises
    ------
    NumericsError
        If a participant has two values at a visit, or lengths differ.

    Notes
    -----
    :math:`y_{ij} = b_0 + b_j + u_i + e_{ij}`, time as a category, in paper mode; in best mode
    :math:`y_{ij} = b_0 + b_j + e_{ij}` with errors of a participant that go together, see
    `bids_alsmri.stats.repeated_measures.fit_visits`: a random intercept alone takes all patients to
    change at one rate, and its intervals are too narrow where they do not. The percentage is
    :math:`100\, b_j / b_0`; its interval takes their covariance.

    Examples
    --------
    >>> who, when = list("aabbcc"), [0, 4] * 3
    >>> found = course_of([10.0, 12, 20, 21, 30, 33], who, when, order=[0, 4], mode="best",
    ...     level=0.95)
    >>> change = found.changes[0]
    >>> round(change.change.value, 6), round(change.change.p, 4), round(change.percent.value, 6)
    (2.0, 0.0742, 10.0)
    """
    y = as_float("values", values, ndim=1)
    if not len(y) == len(participants) == len(visits):
        raise NumericsError(
            f"values, participants and visits have {len(y)}, {len(participants)} and "
            f"{len(visits)} rows; give one row per value"
        )
    place = {visit: number for number, visit in enumerate(order)}
    visit = np.array([place.get(label, -1) for label in visits])
    names = list(dict.fromkeys(participants))
    code = {name: number for number, name in enumerate(names)}
    who = np.array([code[name] for name in participants], int)
    keep = np.isfinite(y) & (visit >= 0)
    n_missing = int((~np.isfinite(y) & (visit >= 0)).sum())
    y, who, visit = y[keep], who[keep], visit[keep]
    _require_one_each(who, visit, names, order)
    present = sorted(set(visit.tolist()))
    columns = [number for number in present if number > 0]
    design = np.column_stack([np.ones(len(y)), *[(visit == k).astype(float) for k in columns]])
    method = {
        "paper": "maximum likelihood, Wald z",
        "best": "restricted maximum likelihood, Kenward-Roger t",
    }[mode]
    fit: LinearFit | None = None
    note, ratio = "", math.nan
    if not len(y) or present[0] != 0:
        note = "no value at the first visit"
    elif len(y) <= design.shape[1]:
        note = f"{len(y)} values for {design.shape[1]} coefficients"
    else:
        criterion: Literal["ml", "reml"] = "ml" if mode == "paper" else "reml"
        simple = fit_random_intercept(y, design, who, criterion=criterion)
        fit, note, ratio = simple, simple.note, simple.variance_ratio
        if mode == "best" and len(columns):
            times = None if months is None else [months[k] for k in present]
            table = np.full((len(names), len(present)), np.nan)
            table[who, np.searchsorted(present, visit)] = y
            better, how = _free_covariance(table, times)
            fit = better or simple
            method = f"{method}, {how if better else 'random intercept'}"
            # with two visits both models are one where nothing is missing
            if better:
                note = ""
            elif len(present) > 2:
                note = "; ".join(filter(None, [note, f"random intercept alone: {how}"]))
    starters = set(who[visit == 0].tolist())
    changes = []
    for number, label in list(enumerate(order))[1:]:
        own = set(who[visit == number].tolist())
        change, percent = _NO_ESTIMATE, _NO_RATIO
        if fit is not None and number in columns:
            change, percent = _change(fit, 1 + columns.index(number), mode, level)
        changes.append(VisitChange(label, change, percent, len(own), len(own & starters)))
    return Course(
        tuple(changes),
        float(fit.coefficients[0]) if fit else math.nan,
        ratio,
        len(set(who.tolist())),
        len(y),
        n_missing,
        method,
        note,
        fit,
    )


def _free_covariance(table: _Array, months: Sequence[float] | None) -> tuple[LinearFit | None, str]:
    """Model of visits whose covariance is free, and its name; or None, and why there is none."""
    structure: Structure = "unstructured" if table.shape[1] <= _MOST_FREE_VISITS else "slopes"
    if structure == "slopes" and months is None:
        return None, "the times of the visits are not given"
    reason = why_not(table, structure=structure)
    if reason:
        return None, reason
    fit = fit_visits(table, structure=structure, months=months)
    if fit is None:
        return None, f"the model with {_STRUCTURES[structure]} did not converge"
    return fit, _STRUCTURES[structure]


def _require_one_each(
    who: NDArray[np.int_],
    visit: NDArray[np.int_],
    names: Sequence[Hashable],
    order: Sequence[Hashable],
) -> None:
    pairs, counts = np.unique(np.column_stack([who, visit]), axis=0, return_counts=True)
    if (counts > 1).any():
        first = pairs[counts.argmax()]
        raise NumericsError(
            f"participant {names[first[0]]} has {counts.max()} values at visit "
            f"{order[first[1]]}; give one each"
        )


def _change(fit: LinearFit, column: int, mode: Mode, level: float) -> tuple[Estimate, Ratio]:
    weights = np.zeros((2, len(fit.coefficients)))
    weights[0, column] = weights[1, 0] = 1.0
    is_best = mode == "best"
    change = estimate_of(fit, weights[0], level=level, has_small_sample=is_best)
    baseline = float(fit.coefficients[0])
    if baseline == 0 or not change.error > 0:
        return change, _NO_RATIO
    covariance = weights @ fit.covariance @ weights.T
    if is_best:
        # of a handful of values the addition may be no covariance; what is below zero is none
        values, vectors = np.linalg.eigh(weights @ fit.small_sample @ weights.T)
        covariance = covariance + (vectors * np.maximum(values, 0.0)) @ vectors.T
    dof = change.dof if is_best else 1e12  # as good as normal
    ratio = fieller_ratio(change.value, baseline, covariance, dof=dof, level=level)
    return change, Ratio(100 * ratio.value, 100 * ratio.low, 100 * ratio.high, ratio.bounds)


@dataclass(frozen=True)
class ResponseMean:
    """Standardised response mean.

    Parameters
    ----------
    value, low, high : float
        Mean change over its standard deviation, sign kept; NaN where there is none.
    mean, sd : float
        Of the change, in the unit of the data.
    n : int
        Completers.
    note : str
        Why there is no result.
    """

    value: float
    low: float
    high: float
    mean: float
    sd: float
    n: int
    note: str = ""


def response_mean(
    changes: ArrayLike,
    *,
    kind: MeanInterval,
    level: float,
    n_draws: int = 2000,
    rng: np.random.Generator | None = None,
) -> ResponseMean:
    r"""Standardised response mean of the changes of completers.

    Parameters
    ----------
    changes : (n,) array
        Follow-up less baseline; NaN where one is missing.
    kind : {"noncentral", "bca", "percentile"}
        Interval by the non-central t distribution, which is exact for normal changes, or by
        bootstrap.
    level : float
        Such as 0.95.
    n_draws : int
        Of the bootstrap.
    rng : Generator, optional
        For the bootstrap.

    Returns
    -------
    ResponseMean
        With the standard deviation of n - 1.

    Raises
    ------
    NumericsError
        If there is no such kind, or a bootstrap lacks its source of chance.

    Notes
    -----
    :math:`\bar d / s_d` (Liang 1990, doi:10.1097/00005650-199007000-00008). The ends of the
    interval are the non-centralities at which :math:`\sqrt n\, \bar d / s_d` is a tail quantile,
    over :math:`\sqrt n` (Cumming and Finch 2001, doi:10.1177/0013164401614002).

    Examples
    --------
    >>> found = response_mean([1.0, 2.0, 3.0, float("nan")], kind="noncentral", level=0.95)
    >>> found.value, found.n
    (2.0, 3)
    """
    if kind not in ("noncentral", "bca", "percentile"):
        raise NumericsError(f"kind is '{kind}'; expected noncentral, bca or percentile")
    require_range("level", level, 0.0, 0.9999, open_low=True)
    d = as_float("changes", changes, ndim=1)
    d = d[np.isfinite(d)]
    n, nan = len(d), math.nan
    if n < 2:
        mean = float(d.mean()) if n else nan
        return ResponseMean(nan, nan, nan, mean, nan, n, f"{n} completers; at least 2 are needed")
    mean, sd = float(d.mean()), float(d.std(ddof=1))
    if sd <= 1e-12 * max(abs(mean), 1e-300):
        return ResponseMean(nan, nan, nan, mean, 0.0, n, "all changes are the same")
    value = mean / sd
    if kind == "noncentral":
        low, high = _noncentral_interval(value, n, level)
        return ResponseMean(value, low, high, mean, sd, n)
    if rng is None:
        raise NumericsError("rng is missing; a bootstrap needs a source of chance")
    if n < 4:
        return ResponseMean(value, nan, nan, mean, sd, n, "too few completers for a bootstrap")
    found = stats.bootstrap(
        (d,),
        lambda x, axis: x.mean(axis=axis) / _spread(x, axis),
        confidence_level=level,
        n_resamples=n_draws,
        method="BCa" if kind == "bca" else "percentile",
        vectorized=True,
        rng=rng,
    )
    low, high = found.confidence_interval
    return ResponseMean(value, float(low), float(high), mean, sd, n)


def _spread(x: _Array, axis: int) -> _Array:
    """Standard deviations; of draws that repeat one value, the smallest number."""
    return np.asarray(np.maximum(x.std(axis=axis, ddof=1), 1e-300))


def _noncentral_interval(value: float, n: int, level: float) -> tuple[float, float]:
    t, dof = math.sqrt(n) * value, n - 1
    if t < 0:
        low, high = _noncentral_interval(-value, n, level)
        return -high, -low

    def below(centre: float) -> float:
        p = float(stats.nct.cdf(t, dof, centre))
        # scipy's is NaN where it is all but 0 or 1
        return p if math.isfinite(p) else float(centre < t)

    def end(share: float) -> float:
        # the non-centrality is near t; steps outwards until it is enclosed
        reach = 3.0 + t * 3 / math.sqrt(2 * dof)
        low, high = t - reach, t + reach
        while below(low) < share:
            low -= reach
        while below(high) > share:
            high += reach
        root = optimize.brentq(lambda centre: below(centre) - share, low, high, xtol=1e-9)
        return float(root) / math.sqrt(n)

    return end((1 + level) / 2), end((1 - level) / 2)


@dataclass(frozen=True)
class Scenario:
    """Mean change if those who left had gone on otherwise than those who stayed.

    Parameters
    ----------
    name : str
        What is assumed of those who left.
    value, low, high, p : float
        Mean change of all who started, in the unit of the data.
    """

    name: str
    value: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Sensitivity:
    """What attrition may do to a mean change.

    Parameters
    ----------
    scenarios : tuple of Scenario
        First that of the mixed model, which holds where leaving depends on what was seen.
    tipping : float
        By how much those who left must have changed less (or more) than the model expects for the
        interval to reach 0, in the unit of the data; NaN where it holds 0 already.
    n_left : int
        Participants who started and have no value at that visit.
    note : str
        What cannot be told.
    """

    scenarios: tuple[Scenario, ...]
    tipping: float
    n_left: int
    note: str = ""


def pattern_mixture(
    course: Course,
    values: ArrayLike,
    participants: Sequence[Hashable],
    visits: Sequence[Hashable],
    *,
    order: Sequence[Hashable],
    months: Sequence[float],
    visit: Hashable,
    level: float,
    shifts: Sequence[float] = (0.5, 1.0),
) -> Sensitivity:
    r"""Change to a visit under assumptions on those who had left by then.

    Parameters
    ----------
    course : Course
        Of the same values, in best mode.
    values, participants, visits, order
        As of `course_of`.
    months : sequence of float
        Times of the visits of `order`, increasing.
    visit : hashable
        Which one.
    level : float
        Of the intervals.
    shifts : sequence of float
        By how many times the model's change those who left changed more than it expects.

    Returns
    -------
    Sensitivity
        The model's estimate; that of a line through each pattern's own visits, drawn out to the
        time for those who left; and one for each shift.

    Raises
    ------
    NumericsError
        If the visit is not in the order, or is the first.

    Notes
    -----
    Pattern-mixture models (Little 1993, doi:10.1080/01621459.1993.10594302). Of a share
    :math:`\pi` who left, :math:`\Delta = \Delta_m + \pi\,\delta` with variance
    :math:`v_m + \delta^2 \pi (1 - \pi) / n`. In the pattern of own rates, the mean change of those
    who left is their mean rate from their own visits times the whole time; those who were seen
    once are given the rate of those who left later, the neighbouring pattern.

    Examples
    --------
    >>> y = [10.0, 11, 13, 20, 22, 24, 30, 33, np.nan, 5, 6, 9, 8, 12, np.nan]
    >>> who, when = np.repeat(list("abcde"), 3).tolist(), [0, 4, 12] * 5
    >>> course = course_of(y, who, when, order=[0, 4, 12], mode="best", level=0.95)
    >>> found = pattern_mixture(course, y, who, when, order=[0, 4, 12], months=[0, 4, 12],
    ...     visit=12, level=0.95)
    >>> found.n_left, found.scenarios[1].name
    (2, 'those who left go on at their own rate')
    """
    places = list(order)
    if visit not in places[1:]:
        raise NumericsError(f"visit is {visit}; expected one of {places[1:]}")
    target = places.index(visit)
    y = as_float("values", values, ndim=1)
    table = _by_participant(y, participants, visits, places)
    table = table[np.isfinite(table[:, 0])]
    left = ~np.isfinite(table[:, target])
    model = course.changes[target - 1].change
    name = "those who left go on as the model expects"
    first = Scenario(name, model.value, model.low, model.high, model.p)
    n, n_left = len(table), int(left.sum())
    if not (math.isfinite(model.value) and model.error > 0) or not n_left:
        return Sensitivity((first,), math.nan, n_left, "" if n_left else "nobody left")
    scenarios, note = [first], ""
    own = _own_rates(table, left, target, np.asarray(months, float), level)
    if own is None:
        note = "nobody who left was seen twice: their own rate is not known"
    else:
        scenarios.append(own)
    share = n_left / n
    dof = model.dof if math.isfinite(model.dof) else 1e12
    quantile = float(stats.t.ppf((1 + level) / 2, dof))

    def shifted(delta: float) -> tuple[float, float]:
        spread = delta**2 * share * (1 - share) / n
        return model.value + share * delta, math.sqrt(model.error**2 + spread)

    for shift in shifts:
        value, error = shifted(shift * model.value)
        p = 2 * float(stats.t.sf(abs(value) / error, dof))
        label = f"those who left changed by {shift:g} times the model's change more"
        scenarios.append(
            Scenario(label, value, value - quantile * error, value + quantile * error, p)
        )
    return Sensitivity(tuple(scenarios), _tipping(shifted, model, quantile, share), n_left, note)


def _tipping(
    shifted: Callable[[float], tuple[float, float]], model: Estimate, quantile: float, share: float
) -> float:
    """Shift towards 0 at which the interval reaches it."""
    if model.low <= 0 <= model.high:
        return math.nan
    sign = math.copysign(1.0, model.value)

    def margin(size: float) -> float:
        value, error = shifted(-sign * size)
        return float(sign * value - quantile * error)

    # there the mean itself is 0
    furthest = abs(model.value) / share
    return -sign * float(optimize.brentq(margin, 0.0, furthest))


def _by_participant(
    y: _Array,
    participants: Sequence[Hashable],
    visits: Sequence[Hashable],
    order: Sequence[Hashable],
) -> _Array:
    """Participants in rows, visits in columns."""
    names = {name: row for row, name in enumerate(dict.fromkeys(participants))}
    table = np.full((len(names), len(order)), np.nan)
    for value, who, when in zip(y, participants, visits, strict=True):
        if when in order:
            table[names[who], list(order).index(when)] = value
    return table


def _own_rates(
    table: _Array, left: NDArray[np.bool_], target: int, months: _Array, level: float
) -> Scenario | None:
    """Mean change where each pattern keeps its own mean, and those who left their own rate."""
    change = table[:, target] - table[:, 0]
    last = np.array([np.flatnonzero(np.isfinite(row[:target])).max() for row in table])
    seen_twice = left & (last > 0)
    if not seen_twice.any() or (~left).sum() < 2 or seen_twice.sum() < 2:
        return None
    rows = np.arange(len(table))
    rate = (table[rows, last] - table[:, 0]) / np.where(last > 0, months[last] - months[0], np.nan)
    drawn = rate[seen_twice] * (months[target] - months[0])
    stayed = change[~left]
    share = float(left.mean())
    value = (1 - share) * float(stayed.mean()) + share * float(drawn.mean())
    parts = (
        (1 - share) ** 2 * float(stayed.var(ddof=1)) / len(stayed),
        share**2 * float(drawn.var(ddof=1)) / len(drawn),
        share * (1 - share) * (float(stayed.mean()) - float(drawn.mean())) ** 2 / len(table),
    )
    error = math.sqrt(sum(parts))
    if error == 0:
        return None
    # Welch and Satterthwaite, of the two patterns
    dofs = (len(stayed) - 1, len(drawn) - 1)
    dof = error**4 / sum(p**2 / d for p, d in zip(parts, dofs, strict=False) if p)
    reach = float(stats.t.ppf((1 + level) / 2, dof)) * error
    p = 2 * float(stats.t.sf(abs(value) / error, dof))
    return Scenario(
        "those who left go on at their own rate", value, value - reach, value + reach, p
    )


# participants from which a t test is a normal one, and what it needs more at most below
_MANY, _MORE = 1e5, 100.0


def participants_per_arm(
    mean_change: float,
    sd_change: float,
    *,
    effect: float,
    power: float,
    alpha: float,
    attrition: float = 0.0,
) -> float:
    r"""Participants in each arm of a trial that compares the change of two arms.

    Parameters
    ----------
    mean_change, sd_change : float
        Of the untreated, in one unit; the standard deviation positive.
    effect : float
        Share of the change that treatment takes away, above 0 to 1.
    power, alpha : float
        Chance to find it, and two-sided level.
    attrition : float
        Share that will have no change, 0 to below 1.

    Returns
    -------
    n : float
        Whole number, at least 2; infinite where there is no change.

    Raises
    ------
    NumericsError
        If a number is out of range.

    Notes
    -----
    Of a two-sample t test with :math:`d = \mathrm{effect} \cdot |\bar d| / s_d`, two-sided, by
    the non-central distribution; over 1 less the attrition.

    Examples
    --------
    >>> participants_per_arm(-1.0, 2.0, effect=1.0, power=0.8, alpha=0.05)  # Cohen's d of 0.5
    64.0
    """
    require_range("effect", effect, 0.0, 1.0, open_low=True)
    require_range("power", power, 0.05, 0.9999)
    require_range("alpha", alpha, 1e-6, 0.5)
    require_range("attrition", attrition, 0.0, 0.99)
    if not sd_change > 0 or not math.isfinite(mean_change):
        raise NumericsError(
            f"sd_change is {sd_change} and mean_change {mean_change}; expected a positive standard "
            "deviation and a finite mean"
        )
    d = effect * abs(mean_change) / sd_change
    if d < 1e-6:
        return math.inf

    def excess(n: float) -> float:
        # the square of a non-central t; scipy's t is NaN where its tail is small
        cut = float(stats.f.isf(alpha, 1, 2 * n - 2))
        return float(stats.ncf.sf(cut, 1, 2 * n - 2, n * d**2 / 2)) - power

    # of a normal test; a t test needs some more
    n = 2 * float((stats.norm.isf(alpha / 2) + stats.norm.ppf(power)) / d) ** 2
    if excess(2.0) >= 0:
        n = 2.0
    elif n < _MANY:
        n = float(optimize.brentq(excess, 2.0, 2 * n + _MORE))
    return float(math.ceil(n / (1 - attrition) - 1e-9))
