"""Group level: every participant against the controls, as one figure and a page for each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from bids_alsmri.bids.sink import write_text
from bids_alsmri.comparisons.presentation import readable
from bids_alsmri.comparisons.tables import place_of
from bids_alsmri.group_pictures import one_figure
from bids_alsmri.reports.clinical_plots import draw_scores
from bids_alsmri.reports.page import Section
from bids_alsmri.reports.profiles import Profile, ProfileRow, Score, render_profiles
from bids_alsmri.reports.tables import Table
from bids_alsmri.settings import RunSettings
from bids_alsmri.stats.tables import Cohort
from bids_alsmri.version import VERSION

PAGES = "group/profiles"
# What is shown of a participant at once; regions of atlases by the hundred would hide it.
_MAIN = re.compile(
    r"cortex7t\..+|sodium\.(tsc_mean|tsc_corrected)\.(motor_areas\.)?[^.]+|diffusion\.\w+_mean\.[^.]+"
    r"|muscle\.(relative_t2|adc|fat_fraction|dixon_fat_fraction|volume)\.[^.]+"
)
_FACTS = ("group", "progression", "age", "sex", "site")


def profile_section(
    settings: RunSettings,
    cohort: Cohort,
    profiles: pd.DataFrame,
    participants: pd.DataFrame,
    covariates: list[str],
) -> Section:
    """Write a page for each participant, and what the page of the group tells of all.

    Parameters
    ----------
    settings : RunSettings
        Give the output folder.
    cohort : Cohort
        Of which the profiles were made.
    profiles, participants : DataFrame
        As of `bids_alsmri.comparisons.tables.profile` and `participant_rows`.
    covariates : list of str
        What the scores are adjusted for.

    Returns
    -------
    Section
        A figure of all participants, and a table whose rows lead to the pages.
    """
    write_profiles(_pages(cohort, profiles, covariates), settings.output_dir)
    title = "Participants against controls"
    ordered = _ordered(cohort, participants)
    names = [name for name in ordered if str(name).startswith("z.")]
    main = [name for name in names if is_main(str(name).removeprefix("z."))] or names
    scores = ordered.set_index("participant_id")[main]
    measures = [str(name).removeprefix("z.") for name in main]
    caption = (
        "One row per participant and one column per measure, from the cortex down: standard "
        f"deviations from the controls{_adjusted(covariates)}. A page for each participant, with "
        "numbers and visits, is linked to below; all measures stand in the tables."
    )
    figure = draw_scores(
        scores.set_axis([readable(measure) for measure in measures], axis=1),
        [place_of(measure) for measure in measures],
        _group_names(ordered),
        title=title,
    )
    shown = _summary(ordered)
    return Section(
        pipeline=title,
        scan="All participants",
        status="done",
        figures=one_figure(settings, "participants", title, caption, figure),
        tables=(
            Table(
                "One row per participant",
                "At the last visit: how many measures of how many are more than 2 standard "
                "deviations from the controls, of which 5 in 100 are by chance, and which is the "
                "furthest. A name leads to the participant's page.",
                shown,
                path="group/desc-participants_stats.tsv",
                links=tuple(f"{PAGES}/{who}.html" for who in ordered["participant_id"]),
            ),
        ),
    )


def write_profiles(profiles: Sequence[Profile], output_dir: Path) -> list[Path]:
    """Write a page for each participant, and remove those of participants who are no more.

    Parameters
    ----------
    profiles : sequence of Profile
        One per participant.
    output_dir : Path
        Folder of the derivatives.

    Returns
    -------
    list of Path
        The pages, in the order of `profiles`.

    Raises
    ------
    RunError
        If a page cannot be written.
    """
    folder = output_dir / PAGES
    paths = [folder / f"{profile.participant}.html" for profile in profiles]
    texts = render_profiles(profiles, back="../../group.html", software=f"bids_alsmri {VERSION}")
    for path, text in zip(paths, texts, strict=True):
        write_text(path, text)
    for path in set(folder.glob("sub-*.html")) - set(paths):
        path.unlink()
    return paths


def is_main(measure: str) -> bool:
    """Whether a measure is one of those that are shown at once.

    Parameters
    ----------
    measure : str
        Column such as ``muscle.adc.tongue``.

    Returns
    -------
    bool
        False for regions of atlases and for what serves other measures.

    Examples
    --------
    >>> is_main("muscle.adc.tongue"), is_main("sodium.tsc_mean.atlas.region_17")
    (True, False)
    """
    return _MAIN.fullmatch(measure) is not None


def _pages(cohort: Cohort, profiles: pd.DataFrame, covariates: list[str]) -> list[Profile]:
    """One page for each participant with any value that could be set against the controls."""
    visits = [_visit_name(visit, cohort) for visit in cohort.visits]
    numbers = {visit: number for number, visit in enumerate(cohort.visits)}
    known = profiles[profiles["z"].notna()]
    facts = [name for name in _FACTS if name in cohort.frame]
    first = cohort.frame.groupby("participant_id")[facts].first()
    looks = {m: (place_of(m), readable(m), is_main(m)) for m in map(str, known["measure"].unique())}
    pages = []
    for who, own in known.groupby("participant_id", sort=False):
        scores: dict[str, dict[int, Score]] = {}
        controls: dict[str, int] = {}
        cells = own[["measure", "visit", "value", "z", "z_change", "n_controls"]]
        for measure, visit, value, z, change, n_controls in cells.itertuples(index=False):
            scores.setdefault(measure, {})[numbers[visit]] = Score(value, z, change)
            controls[measure] = max(n_controls, controls.get(measure, 0))
        rows = [
            ProfileRow(
                place=looks[measure][0],
                name=looks[measure][1],
                unit="" if cohort.units.get(measure) == "1" else cohort.units.get(measure, ""),
                n_controls=controls[measure],
                scores=dict(sorted(by_visit.items())),
                is_main=looks[measure][2],
            )
            for measure, by_visit in scores.items()
        ]
        told = [(name, _fact(first.at[who, name])) for name in facts]
        pages.append(
            Profile(str(who), [fact for fact in told if fact[1]], visits, rows, covariates)
        )
    return pages


def _visit_name(visit: object, cohort: Cohort) -> str:
    return "the visit" if len(cohort.visits) == 1 else str(visit).removeprefix("ses-")


def _fact(value: object) -> str:
    if value is None or value != value:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _adjusted(covariates: list[str]) -> str:
    return f", adjusted for {' and '.join(covariates)}" if covariates else ""


def _ordered(cohort: Cohort, participants: pd.DataFrame) -> pd.DataFrame:
    """Controls first, then patients by their progression."""
    first = cohort.frame.drop_duplicates("participant_id").set_index("participant_id")
    found = participants[participants["n_scores"] > 0].copy()
    if "progression" in first:
        found.insert(2, "progression", found["participant_id"].map(first["progression"]))
    found["_patient"] = found["group"] == cohort.patient
    keys = ["_patient", *(["progression"] if "progression" in found else [])]
    return found.sort_values(keys, kind="stable").drop(columns="_patient").reset_index(drop=True)


def _group_names(ordered: pd.DataFrame) -> list[str]:
    if "progression" not in ordered:
        return [str(group) for group in ordered["group"]]
    return [
        f"{group} {speed}" if isinstance(speed, str) else str(group)
        for group, speed in zip(ordered["group"], ordered["progression"], strict=True)
    ]


def _summary(ordered: pd.DataFrame) -> pd.DataFrame:
    """Counts of each part of the neuraxis, and the furthest measure."""
    names = [str(name) for name in ordered if str(name).startswith("z.")]
    places = [place_of(name.removeprefix("z.")) for name in names]
    z = ordered[names]
    keys = [name for name in ("participant_id", "group", "progression") if name in ordered]
    shown = ordered[keys].rename(columns={"participant_id": "participant"})
    for place in dict.fromkeys(places):
        own = z[[name for name, where in zip(names, places, strict=True) if where == place]]
        beyond, n = (own.abs() > 2).sum(axis=1), own.notna().sum(axis=1)
        shown[place] = [f"{b} of {k}" if k else None for b, k in zip(beyond, n, strict=True)]
    values = z.to_numpy(float)
    furthest = np.nanargmax(np.abs(values), axis=1)
    shown["furthest"] = [
        f"{readable(names[column].removeprefix('z.'))} ({own[column]:+.1f})".replace("-", "−")
        for own, column in zip(values, furthest, strict=True)
    ]
    return shown
