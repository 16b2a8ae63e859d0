"""Settings of the anatomical pipeline, and its place in the registry."""

from __future__ import annotations

from bids_alsmri.engine.pipeline import Pipeline
from bids_alsmri.options import SettingsModel, setting


class AnatomicalSettings(SettingsModel):
    """Settings of the anatomical pipeline."""

    registration_threads: int = setting(
        1,
        unit="threads",
        ge=1,
        le=64,
        source="benchmarks/registration.py",
        help="Threads of the registrations; their results depend on them.",
    )


def kept_apart(settings: AnatomicalSettings) -> tuple[str, ...]:
    """Entities that keep T1-weighted images apart: none, one per session is expected.

    Parameters
    ----------
    settings : AnatomicalSettings
        Not looked at.

    Returns
    -------
    tuple of str
        Empty.
    """
    return ()


PIPELINE = Pipeline(
    name="anatomical",
    title="Anatomy (T1-weighted)",
    settings=AnatomicalSettings,
    primary="t1w",
    group_by=kept_apart,
)
