"""Light pages of participants: all measures against the controls, from the cortex down."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bids_alsmri.errors import SettingsError
from bids_alsmri.reports.sheets import BLUE, GREEN, ORANGE, PURPLE, VERMILION
from bids_alsmri.reports.tables import NOT_AVAILABLE, format_number
from bids_alsmri.reports.templates import load_template

MOST_Z = 8.0  # half the width of the axis; what lies beyond stands at its rim
BAND_Z = 2.0  # half the width of the band of controls
# Visits are told apart by colour and by shape.
_LOOKS = ((BLUE, "●"), (ORANGE, "■"), (VERMILION, "▲"), (PURPLE, "◆"), (GREEN, "▼"))


class Score(NamedTuple):
    """A measure of one visit against the controls.

    Parameters
    ----------
    value : float
        In the unit of the measure.
    z, z_change : float
        Standard deviations from the controls, and their change since the first visit; NaN where
        unknown.
    """

    value: float
    z: float
    z_change: float


@dataclass(frozen=True)
class ProfileRow:
    """One measure of a participant.

    Parameters
    ----------
    place, name, unit : str
        Part of the neuraxis, the measure in words, and its unit.
    n_controls : int
        Controls that it was set against.
    scores : mapping of int to Score
        By number of the visit, from 0.
    is_main : bool
        Whether it is shown at once, not at a click.
    """

    place: str
    name: str
    unit: str
    n_controls: int
    scores: Mapping[int, Score]
    is_main: bool = True


@dataclass(frozen=True)
class Profile:
    """A participant against the controls of the dataset.

    Parameters
    ----------
    participant : str
        Such as "sub-01".
    facts : sequence of (str, str)
        What is said of the participant above the measures, such as ("group", "als").
    visits : sequence of str
        Labels of all visits of the dataset, in order of time.
    rows : sequence of ProfileRow
        From the cortex down.
    adjusted_for : sequence of str
        What the scores are adjusted for.

    Raises
    ------
    SettingsError
        If there is no row, or a score is of a visit that is not listed.
    """

    participant: str
    facts: Sequence[tuple[str, str]]
    visits: Sequence[str]
    rows: Sequence[ProfileRow]
    adjusted_for: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not self.rows:
            raise SettingsError(
                f"profile of {self.participant} has no row; give one or leave it out"
            )
        for row in self.rows:
            for visit in row.scores:
                if not 0 <= visit < len(self.visits):
                    raise SettingsError(
                        f"profile of {self.participant}, {row.name}: a score of visit {visit}; "
                        f"give 0 to {len(self.visits) - 1}"
                    )


def render_profiles(profiles: Sequence[Profile], *, back: str, software: str) -> Iterator[str]:
    """HTML text of a page for each participant, that needs nothing else.

    Parameters
    ----------
    profiles : sequence of Profile
        One per participant.
    back : str
        Address of the page of the group, relative to the folder of the pages.
    software : str
        Name and version.

    Yields
    ------
    str
        The page of each, in their order.

    Examples
    --------
    >>> rows = [ProfileRow("muscle", "tongue, ADC", "mm²/s", 22, {0: Score(0.0016, 2.4, 0.0)})]
    >>> profile = Profile("sub-01", [("group", "als")], ["m00"], rows)
    >>> (page,) = render_profiles([profile], back="../group.html", software="bids_alsmri 0.1")
    >>> "tongue, ADC" in page, "+2.4" in page
    (True, True)
    """
    template = load_template("profile.html", number=_number_text, z=_z_text, place=_place_percent)
    for profile in profiles:
        looks = [_LOOKS[k % len(_LOOKS)] for k in range(len(profile.visits))]
        yield template.render(
            profile=profile, looks=looks, back=back, software=software, most=MOST_Z, band=BAND_Z
        )


def _number_text(value: float) -> str:
    return format_number(value) if math.isfinite(value) else NOT_AVAILABLE


def _z_text(z: float) -> str:
    # 0 is added, for what is rounded to zero to have one sign
    return f"{round(z, 1) + 0.0:+.1f}".replace("-", "−") if math.isfinite(z) else NOT_AVAILABLE


def _place_percent(z: float) -> str:
    """Place on the axis, in per cent of its width."""
    return f"{50 + 50 * min(max(z / MOST_Z, -1.0), 1.0):.1f}"
