"""One self-contained HTML page per participant (or per group analysis)."""

from __future__ import annotations

import base64
import functools
import importlib.resources
import math
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from bids_alsmri.errors import ExitCode, RunError, SettingsError

if TYPE_CHECKING:
    from jinja2 import Template
    from markupsafe import Markup

SectionStatus = Literal["done", "reused", "skipped", "failed"]
RunStatus = Literal["done", "partial", "failed"]
FigureKind = Literal["still", "flicker"]

SECTION_STATUSES: tuple[SectionStatus, ...] = ("done", "reused", "skipped", "failed")
RUN_STATUSES: tuple[RunStatus, ...] = ("done", "partial", "failed")
_FILES_OF_KIND = {"still": 1, "flicker": 2}
_MEDIA_TYPES = {".svg": "image/svg+xml", ".png": "image/png"}


@dataclass(frozen=True)
class Figure:
    """A picture, or two of one geometry that the reader flips between.

    Parameters
    ----------
    title, caption : str
        Plain text. The caption says what is shown and what a good one looks like.
    paths : tuple of Path
        SVG or PNG files: one for "still", two (before, after) for "flicker". A file that does
        not exist leaves a notice on the page, since the page is also written after failures.
    kind : {"still", "flicker"}
        How the files are shown.
    labels : tuple of str
        Names of the two files of a flicker, such as ("T1w", "template").
    alt : str
        Text for readers who do not see the picture; the caption where empty.

    Raises
    ------
    SettingsError
        If the number of files does not fit the kind, or a file is neither SVG nor PNG.

    Examples
    --------
    >>> Figure("Colour FA", "Red is left-right.", (Path("fa.svg"),)).kind
    'still'
    """

    title: str
    caption: str
    paths: tuple[Path, ...]
    kind: FigureKind = "still"
    labels: tuple[str, str] = ("before", "after")
    alt: str = ""

    def __post_init__(self) -> None:
        expected = _FILES_OF_KIND.get(self.kind)
        if expected is None:
            raise SettingsError(
                f"figure {self.title!r} is of kind {self.kind!r}; give 'still' or 'flicker'"
            )
        if len(self.paths) != expected:
            raise SettingsError(
                f"figure {self.title!r} of kind {self.kind!r} has {len(self.paths)} files; "
                f"give {expected}"
            )
        for path in self.paths:
            if path.suffix not in _MEDIA_TYPES:
                raise SettingsError(
                    f"figure {self.title!r}: {path.name} is neither .svg nor .png; save it as one"
                )


@dataclass(frozen=True)
class QualityRow:
    """One measure of quality with the range that is sensible for it.

    Parameters
    ----------
    name, description : str
        What was measured, in words; the description says what a bad value means.
    value : float
        The measure; NaN where it could not be computed.
    unit : str
        Unit of value and range, empty for a pure number.
    low, high : float, optional
        Sensible range, both ends inside it; None leaves that side open.

    Examples
    --------
    >>> QualityRow("Framewise displacement", 2.5, "mm", None, 1.0, "Mean over volumes").verdict
    'outside'
    """

    name: str
    value: float
    unit: str
    low: float | None
    high: float | None
    description: str

    @property
    def verdict(self) -> Literal["inside", "outside", "unjudged", "missing"]:
        """Where the value lies; "unjudged" without a range, "missing" where it is not finite."""
        if not math.isfinite(self.value):
            return "missing"
        if self.low is None and self.high is None:
            return "unjudged"
        too_low = self.low is not None and self.value < self.low
        too_high = self.high is not None and self.value > self.high
        return "outside" if too_low or too_high else "inside"


@dataclass(frozen=True)
class StepTime:
    """Wall time of one step.

    Parameters
    ----------
    step : str
        Name of the step.
    seconds : float
        Wall time, in s.
    memory_gb : float, optional
        Peak memory, in GB (10**9 bytes), where it was measured.
    """

    step: str
    seconds: float
    memory_gb: float | None = None


@dataclass(frozen=True)
class Section:
    """What one pipeline made of one scan.

    Parameters
    ----------
    pipeline : str
        Title of the pipeline; sections of one title stand together on the page.
    scan : str
        Label of the scan, such as "sub-01 ses-m00 dir-AP".
    status : {"done", "reused", "skipped", "failed"}
        What happened.
    reason : str
        Why it was reused or skipped, or the error's text; may be empty for "done".
    sources : tuple of str
        Input files, relative to the dataset.
    warnings, notes : tuple of str
        Warnings: the numbers may be worse than the reader thinks. Notes: all else.
    figures : tuple of Figure
        In the order of the processing.
    quality : tuple of QualityRow
        Measures of quality.
    timing : tuple of StepTime
        Wall time of the steps that ran.

    Raises
    ------
    SettingsError
        If the status is none of the four.
    """

    pipeline: str
    scan: str
    status: SectionStatus
    reason: str = ""
    sources: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    figures: tuple[Figure, ...] = ()
    quality: tuple[QualityRow, ...] = ()
    timing: tuple[StepTime, ...] = ()

    def __post_init__(self) -> None:
        _require_status(f"section {self.pipeline!r}, {self.scan!r}", self.status, SECTION_STATUSES)

    @property
    def total_seconds(self) -> float:
        """Sum of the steps' wall times, in s."""
        return math.fsum(step.seconds for step in self.timing)

    @property
    def outside(self) -> tuple[QualityRow, ...]:
        """Measures outside their sensible range, or that could not be computed."""
        return tuple(row for row in self.quality if row.verdict in ("outside", "missing"))


@dataclass(frozen=True)
class Reference:
    """One work cited by the methods text.

    Parameters
    ----------
    key : str
        Key by which the methods text cites it: ``[@key]`` or ``[@key; @other]``.
    text : str
        Authors, year, title, journal: plain text.
    doi : str
        Digital object identifier without address, such as "10.1063/1.1719961"; may be empty.
    """

    key: str
    text: str
    doi: str = ""


@dataclass(frozen=True)
class SettingRow:
    """One setting as it ran.

    Parameters
    ----------
    name, value, unit : str
        As the command line names it; value as text; unit empty for a pure number.
    source : str
        Where the value came from, such as "default", "paper", "command line", "settings file".
    """

    name: str
    value: str
    unit: str = ""
    source: str = "default"


@dataclass(frozen=True)
class ErrorText:
    """One error in full.

    Parameters
    ----------
    where : str
        Pipeline, scan and step.
    message : str
        What the user is told.
    details : str
        Traceback or log; may be empty.
    """

    where: str
    message: str
    details: str = ""


@dataclass(frozen=True)
class OutputFile:
    """One file that the run wrote or kept.

    Parameters
    ----------
    path : str
        Relative to the folder of the page, with forward slashes.
    description : str
        What it holds, with its unit.
    """

    path: str
    description: str = ""


@dataclass(frozen=True)
class Page:
    """All that a report shows. Every string is plain text and is escaped, save `methods`.

    Parameters
    ----------
    title : str
        The participant, such as "sub-01", or the name of a group analysis.
    software, version : str
        Name and version of the program.
    date : datetime
        Of the run; printed to the second, with its offset from UTC if it has one.
    command_line : str
        As the user typed it.
    status : {"done", "partial", "failed"}
        Of the run: all finished, some scans failed, nothing finished.
    sections : tuple of Section
        In the order in which they are to be read.
    methods : str
        Methods text in a small part of markdown: paragraphs, ``#`` headings, ``-`` lists,
        ``*emphasis*``, ``**strong**``, code in backticks, citations ``[@key]`` of `references`.
        It is escaped too: HTML within it is shown, not obeyed.
    references : tuple of Reference
        Numbered in the order of their first citation; uncited ones follow.
    settings, errors, outputs
        Tables of the page's end.

    Raises
    ------
    SettingsError
        If the status is none of the three.
    """

    title: str
    software: str
    version: str
    date: datetime
    command_line: str
    status: RunStatus
    sections: tuple[Section, ...] = ()
    methods: str = ""
    references: tuple[Reference, ...] = ()
    settings: tuple[SettingRow, ...] = ()
    errors: tuple[ErrorText, ...] = ()
    outputs: tuple[OutputFile, ...] = ()

    def __post_init__(self) -> None:
        _require_status(f"page {self.title!r}", self.status, RUN_STATUSES)


def write_page(page: Page, path: Path) -> None:
    """Write one HTML file that needs nothing else: pictures, styles and scripts are inside.

    The file appears under its name only when it is complete; an older one is replaced. Its
    bytes depend on `page` and the pictures alone.

    Parameters
    ----------
    page : Page
        What to show.
    path : Path
        The file to write; its folder must exist.

    Raises
    ------
    RunError
        If the file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> page = Page("sub-01", "bids_alsmri", "0.1", datetime(2024, 5, 1), "bids_alsmri ...", "done")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_page(page, Path(folder) / "sub-01.html")
    ...     Path(folder, "sub-01.html").read_text("utf-8")[:15]
    '<!doctype html>'
    """
    _write_whole(render_page(page).encode("utf-8"), path)


def _require_status(what: str, status: str, allowed: Sequence[str]) -> None:
    if status not in allowed:
        raise SettingsError(f"{what} has status {status!r}; give one of {', '.join(allowed)}")
