"""What is asked of a cohort that is simulated at the level of maps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from bids_alsmri.errors import SettingsError

DRAWN = ("fa", "md", "tsc")

# Cohen's d of El Mendili 2022's clusters, rounded down for their selection bias in fast
# progressors; in slow ones FA exceeds the others, so that it alone tends to be found.
EFFECTS: Mapping[str, Mapping[str, float]] = {
    "fast": {"fa": -1.2, "md": 1.2, "tsc": 1.2},
    "slow": {"fa": -0.9, "md": 0.6, "tsc": 0.6},
}


@dataclass(frozen=True)
class MapSettings:
    """Everything that decides the maps of a cohort; who is in it stands elsewhere.

    Parameters
    ----------
    seed : int
        Root of all random streams.
    voxel_mm : float
        Edge of the template's voxels, in mm.
    effects : mapping of mapping
        Planted Cohen's d, with its sign, by kind (fast, slow) and map (fa, md, tsc): the
        difference to controls over the standard deviation between participants, in maps that are
        neither smoothed nor misregistered.
    between_sd : mapping of float
        Standard deviation of the participants' own smooth fields, by map, in its unit.
    noise_sd : mapping of float
        Standard deviation of the noise of a voxel, by map, in its unit.
    between_fwhm_mm : float
        Smoothness of the participants' own fields: width of the Gaussian that makes them, in mm.
    global_share : float
        Share of their variance that is the same in the whole brain, 0 to 1.
    registration_sd_mm : float
        Standard deviation of what registration leaves, along each axis, in mm.
    registration_fwhm_mm : float
        Smoothness of that warp, in mm.
    sessions : tuple of str
        Labels of visits without ``ses-``; empty for a dataset without sessions.
    grey_loss : float
        Share of grey matter that patients have lost to fluid on average, in maps of grey matter and
        of sodium, up to 0.3: each patient between half and one and a half of it.
    grey_sd : float
        Standard deviation of the share that anybody has more or less, likewise, up to 0.3.
    growth_per_visit : float
        By how much the planted differences, and the loss of grey matter, grow from one visit to the
        next, as a share of those of the first.
    months_per_visit : float
        Time between visits, in months.

    Raises
    ------
    SettingsError
        If a value is out of its range, or a kind or map is unknown.
    """

    seed: int = 0
    voxel_mm: float = 2.0
    effects: Mapping[str, Mapping[str, float]] = field(default_factory=lambda: EFFECTS)
    between_sd: Mapping[str, float] = field(
        default_factory=lambda: {"fa": 0.036, "md": 3.6e-5, "tsc": 3.6}
    )
    noise_sd: Mapping[str, float] = field(
        default_factory=lambda: {"fa": 0.016, "md": 1.6e-5, "tsc": 1.6}
    )
    between_fwhm_mm: float = 12.0
    global_share: float = 0.2
    registration_sd_mm: float = 0.6
    registration_fwhm_mm: float = 25.0
    sessions: tuple[str, ...] = ()
    grey_loss: float = 0.0
    grey_sd: float = 0.0
    growth_per_visit: float = 0.5
    months_per_visit: float = 6.0

    def __post_init__(self) -> None:
        for name, low, high in (
            ("seed", 0, 2**63),
            ("voxel_mm", 1, 8),
            ("between_fwhm_mm", 0, 100),
            ("global_share", 0, 1),
            ("registration_sd_mm", 0, 5),
            ("registration_fwhm_mm", 5, 100),
            ("grey_loss", 0, 0.3),
            ("grey_sd", 0, 0.3),
            ("growth_per_visit", -10, 10),
            ("months_per_visit", 0.1, 120),
        ):
            value = getattr(self, name)
            if not (np.isfinite(value) and low <= value <= high):
                raise SettingsError(f"{name} is {value:g}; it must lie from {low:g} to {high:g}")
        for name in ("between_sd", "noise_sd"):
            given = getattr(self, name)
            if set(given) != set(DRAWN) or not all(0 <= sd < np.inf for sd in given.values()):
                raise SettingsError(
                    f"{name} is {dict(given)}; give a standard deviation of 0 or more for each of "
                    f"{', '.join(DRAWN)}"
                )
        for kind, by_map in self.effects.items():
            if kind not in EFFECTS or not set(by_map) <= set(DRAWN):
                raise SettingsError(
                    f"effects of {kind!r} are {dict(by_map)}; give Cohen's d of "
                    f"{', '.join(DRAWN)} for {' and '.join(EFFECTS)}"
                )

    def person_sd(self, name: str) -> float:
        """Standard deviation between participants at a voxel, in the unit of the map.

        Parameters
        ----------
        name : {"fa", "md", "tsc"}
            Map.

        Returns
        -------
        float
            Of own field and noise together.

        Examples
        --------
        >>> round(MapSettings().person_sd("tsc"), 2)
        3.94
        """
        return float(np.hypot(self.between_sd[name], self.noise_sd[name]))

    def planted_difference(self, kind: str, name: str) -> float:
        """Difference of a group to controls where it is planted, in the unit of the map.

        Parameters
        ----------
        kind : {"hc", "fast", "slow"}
            Group.
        name : {"fa", "md", "tsc"}
            Map.

        Returns
        -------
        float
            With its sign; 0 for controls.

        Examples
        --------
        >>> round(MapSettings().planted_difference("fast", "tsc"), 2)
        4.73
        """
        return self.effects.get(kind, {}).get(name, 0.0) * self.person_sd(name)
