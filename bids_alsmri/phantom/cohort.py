"""Who is in a simulated cohort: groups, ages, clinical scores and severity.

Distributions follow El Mendili 2022 (table of the cohort: 13 fast, 16 slow, 24 controls). Its mean
duration, ALSFRS-R and rate of fast progressors do not belong to one joint distribution of bell
shapes, so duration and score are drawn as printed and kept where they give the right rate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bids_alsmri.errors import SettingsError
from bids_alsmri.phantom.records import Participant

ALSFRS_R_MAX = 48
RATE_THRESHOLD_PER_MONTH = 0.5
KINDS = ("hc", "fast", "slow")
# Cycle that fills a cohort of N: half patients, both rates alike.
CYCLE = ("hc", "fast", "hc", "slow")


@dataclass(frozen=True)
class Profile:
    """Distribution of one kind of participant.

    Parameters
    ----------
    age_mean_year, age_sd_year : float
        Age in years.
    female_share : float
        Share of women, 0 to 1.
    duration_mean_months, duration_sd_months : float
        Months since onset.
    alsfrs_r_mean, alsfrs_r_sd : float
        Revised functional rating scale.
    onset_counts : tuple of (str, int)
        Site of onset and how many of the paper's participants had it.
    """

    age_mean_year: float
    age_sd_year: float
    female_share: float
    duration_mean_months: float = 0.0
    duration_sd_months: float = 0.0
    alsfrs_r_mean: float = 0.0
    alsfrs_r_sd: float = 0.0
    onset_counts: tuple[tuple[str, int], ...] = ()


# El Mendili 2022, demographic and clinical table.
PROFILES = {
    "hc": Profile(51.0, 10.7, 11 / 24),
    "fast": Profile(
        56.0, 9.9, 6 / 13, 19.4, 13.9, 37.31, 4.81,
        (("upper limb", 3), ("lower limb", 7), ("bulbar", 3)),
    ),
    "slow": Profile(
        52.9, 10.6, 3 / 16, 18.4, 15.4, 40.46, 6.09,
        (("upper limb", 3), ("lower limb", 9), ("bulbar", 4)),
    ),
}  # fmt: skip


def stream(
    seed: int, participant: Participant | tuple[str, int], *names: str
) -> np.random.Generator:
    """Random stream of one participant and purpose, whatever else is in the cohort.

    Parameters
    ----------
    seed : int
        The cohort's seed.
    participant : Participant or (str, int)
        The participant, or kind and number within the kind.
    *names : str
        Purpose, such as session and modality.

    Returns
    -------
    Generator
        The same for the same arguments.

    Examples
    --------
    >>> a, b = (stream(1, ("fast", 0), "shape").random() for _ in range(2))
    >>> a == b
    True
    """
    kind, index = (
        (participant.kind, participant.index)
        if isinstance(participant, Participant)
        else participant
    )
    key = [KINDS.index(kind), index]
    for name in names:
        text = name.encode()
        key += [len(text), *text]
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=tuple(key)))


def kinds_of(
    n_participants: int | None, n_controls: int, n_fast: int, n_slow: int
) -> tuple[str, ...]:
    """Kinds in the order of the labels.

    Parameters
    ----------
    n_participants : int or None
        Size of a cohort of half patients; None where the counts are given.
    n_controls, n_fast, n_slow : int
        Counts, all 0 where `n_participants` is given.

    Returns
    -------
    tuple of str
        hc, fast or slow.

    Raises
    ------
    SettingsError
        If both or neither are given.

    Examples
    --------
    >>> kinds_of(5, 0, 0, 0)
    ('hc', 'fast', 'hc', 'slow', 'hc')
    >>> kinds_of(None, 1, 1, 0)
    ('hc', 'fast')
    """
    counts = {"hc": n_controls, "fast": n_fast, "slow": n_slow}
    if any(count < 0 for count in counts.values()) or (n_participants or 0) < 0:
        raise SettingsError("a number of participants is negative; give 0 or more")
    total = sum(counts.values())
    if (n_participants is None) == (total == 0):
        raise SettingsError(
            f"{n_participants} participants and {total} by group were asked for; give either "
            "--participants or some of --controls, --fast, --slow"
        )
    if n_participants is not None:
        if n_participants == 0:
            raise SettingsError("0 participants were asked for; give at least 1")
        return tuple(CYCLE[i % len(CYCLE)] for i in range(n_participants))
    return tuple(kind for kind in KINDS for _ in range(counts[kind]))


def draw_cohort(kinds: tuple[str, ...], seed: int) -> tuple[Participant, ...]:
    """Draw the participants.

    Parameters
    ----------
    kinds : tuple of str
        hc, fast or slow, in the order of the labels.
    seed : int
        The cohort's seed.

    Returns
    -------
    tuple of Participant
        Labels 01, 02, ...

    Examples
    --------
    >>> [p.kind for p in draw_cohort(("hc", "fast"), 1)]
    ['hc', 'fast']
    """
    seen = dict.fromkeys(KINDS, 0)
    people = []
    for number, kind in enumerate(kinds, start=1):
        people.append(_draw_participant(f"{number:02d}", kind, seen[kind], seed))
        seen[kind] += 1
    return tuple(people)


def _draw_participant(label: str, kind: str, index: int, seed: int) -> Participant:
    rng = stream(seed, (kind, index), "participant")
    profile = PROFILES[kind]
    age = float(np.clip(rng.normal(profile.age_mean_year, profile.age_sd_year), 20, 85))
    sex = "female" if rng.random() < profile.female_share else "male"
    # One in ten is left-handed (Papadatou-Pastou et al. 2020, doi:10.1037/bul0000229).
    handedness = "left" if rng.random() < 0.106 else "right"
    onset, duration, score, severity = "n/a", None, None, 0.0
    if kind != "hc":
        sites = [site for site, n in profile.onset_counts for _ in range(n)]
        onset = sites[int(rng.integers(len(sites)))]
        duration, score = _draw_course(rng, kind, profile)
        rate = progression_rate(score, duration)
        grade = 0.75 + 0.25 * min(rate, 2.5) if kind == "fast" else 0.7 + 1.0 * rate
        severity = round(float(grade * np.clip(rng.normal(1, 0.1), 0.7, 1.3)), 4)
    return Participant(
        label=label,
        group="hc" if kind == "hc" else "als",
        progression="n/a" if kind == "hc" else kind,
        index=index,
        age_year=round(age, 1),
        sex=sex,
        handedness=handedness,
        onset_site=onset,
        onset_side=_onset_side(seed, kind, index, onset),
        disease_duration_months=duration,
        alsfrs_r=score,
        severity=severity,
    )


def _onset_side(seed: int, kind: str, index: int, onset: str) -> str:
    # a stream of its own: whoever is drawn does not change with it
    if not onset.endswith("limb"):
        return "n/a"
    return ("left", "right")[int(stream(seed, (kind, index), "onset side").integers(2))]


def _draw_course(rng: np.random.Generator, kind: str, profile: Profile) -> tuple[int, int]:
    shape = (profile.duration_mean_months / profile.duration_sd_months) ** 2
    scale = profile.duration_mean_months / shape
    # Every fourth try or so fits; the loop is bounded so that a wrong profile cannot hang it.
    for _ in range(10_000):
        duration = max(3, round(float(rng.gamma(shape, scale))))
        score = round(float(rng.normal(profile.alsfrs_r_mean, profile.alsfrs_r_sd)))
        if not 15 <= score <= ALSFRS_R_MAX - 1:
            continue
        is_fast = progression_rate(score, duration) > RATE_THRESHOLD_PER_MONTH
        if is_fast == (kind == "fast"):
            return duration, score
    raise SettingsError(f"the profile of {kind} progressors yields no {kind} progressor")


def progression_rate(alsfrs_r: int, duration_months: int) -> float:
    """Points of the rating scale lost in a month.

    Parameters
    ----------
    alsfrs_r : int
        Score now, 0 to 48.
    duration_months : int
        Months since onset, positive.

    Returns
    -------
    float
        Points per month.

    Examples
    --------
    >>> progression_rate(36, 12)
    1.0
    """
    return (ALSFRS_R_MAX - alsfrs_r) / duration_months
