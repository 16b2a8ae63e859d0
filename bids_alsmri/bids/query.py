"""Scans of a dataset that a pipeline can process, and reasons for those it skips."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bids_alsmri.errors import ExitCode


@dataclass(frozen=True)
class Scan:
    """Files of one participant and session that a pipeline processes together.

    Parameters
    ----------
    pipeline, participant : str
        Names; the participant without ``sub-``.
    session : str or None
        Without ``ses-``; None where the dataset has no sessions.
    entities : dict
        Entities shared by all primary inputs, short keys in the order of file names; carried
        into output names.
    inputs : dict
        Paths by the name of the input, and those of companions under ``<input>_<companion>``
        (such as ``dwi_bval``) in the same order; an optional input not found is an empty tuple.
    metadata : dict
        Sidecar of each image, merged by the inheritance principle.
    notes : tuple of str
        What the report should say about the choice of files.
    """

    pipeline: str
    participant: str
    session: str | None
    entities: Mapping[str, str]
    inputs: Mapping[str, tuple[Path, ...]]
    metadata: Mapping[Path, Mapping[str, Any]] = field(repr=False)
    notes: tuple[str, ...] = ()

    def __hash__(self) -> int:
        """Hash of what tells scans of one dataset apart."""
        return hash((self.pipeline, self.label))

    @property
    def label(self) -> str:
        """Name of the scan, such as ``sub-01_ses-m00_dir-AP``."""
        session = [] if self.session is None else [f"ses-{self.session}"]
        rest = [f"{key}-{label}" for key, label in self.entities.items()]
        return "_".join([f"sub-{self.participant}", *session, *rest])


@dataclass(frozen=True)
class Skip:
    """What a pipeline does not process, and why.

    Parameters
    ----------
    pipeline, participant : str
        Names; the participant without ``sub-``.
    session : str or None
        Without ``ses-``; None where it concerns no single session.
    reason : str
        What was found, expected, where, and what to do.
    is_error : bool
        True where data are at fault; False where the modality was simply not acquired.
    exit_code : ExitCode
        Code if nothing else can be processed.
    """

    pipeline: str
    participant: str
    session: str | None
    reason: str
    is_error: bool
    exit_code: ExitCode
