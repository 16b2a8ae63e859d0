"""Settings of a toy pipeline that builds on another."""

from __future__ import annotations

from bids_alsmri.engine.pipeline import Pipeline
from bids_alsmri.options import SettingsModel, setting


class SecondSettings(SettingsModel):
    """Settings of the second toy."""

    factor: float = setting(1.5, gt=0, le=10, unit="1", source="taste", help="What to scale by.")


def kept_apart(settings: SecondSettings) -> tuple[str, ...]:
    """Entities that keep scans apart."""
    return ()


PIPELINE = Pipeline("second", "Second toy", SecondSettings, "t1w", kept_apart, needs=("first",))
