"""Settings of a toy pipeline."""

from __future__ import annotations

from bids_alsmri.engine.pipeline import Pipeline
from bids_alsmri.options import SettingsModel, setting


class FirstSettings(SettingsModel):
    """Settings of the first toy."""

    factor: float = setting(
        2.0, paper=3.0, ge=0, le=100, unit="1", source="smith2006", help="What to multiply by."
    )
    decimals: int = setting(
        3, ge=0, le=6, unit="1", stage="apply", source="taste", help="Digits shown."
    )
    has_copy: bool = setting(False, source="taste", help="Save a fit twice.")
    has_second_join: bool = setting(
        False, stage="apply", source="taste", help="Save what is made of the fits twice."
    )


def kept_apart(settings: FirstSettings) -> tuple[str, ...]:
    """Entities that keep scans apart."""
    return ()


PIPELINE = Pipeline("first", "First toy", FirstSettings, "t1w", kept_apart)
