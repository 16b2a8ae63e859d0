"""One self-contained HTML page per participant (or per group analysis)."""

from __future__ import annotations

import base64
import math
import os
import re
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from bids_alsmri.errors import ExitCode, RunError, SettingsError
from bids_alsmri.reports.tables import (
    Finding,
    Table,
    arrange_findings,
    format_number,
)
from bids_alsmri.reports.templates import load_template

if TYPE_CHECKING:
    from markupsafe import Markup

SectionStatus = Literal["done", "reused", "skipped", "failed"]
RunStatus = Literal["done", "partial", "failed"]
FigureKind = Literal["still", "flicker"]
PageKind = Literal["participant", "group"]

SECTION_STATUSES: tuple[SectionStatus, ...] = ("done", "reused", "skipped", "failed")
RUN_STATUSES: tuple[RunStatus, ...] = ("done", "partial", "failed")
_FILES_OF_KIND = {"still": 1, "flicker": 2}
PAGE_KINDS: tuple[PageKind, ...] = ("participant", "group")
_MEDIA_TYPES = {".svg": "image/svg+xml", ".png": "image/png", ".webp": "image/webp"}
# A data: address ends at # and loses line ends; quotes and brackets would be escaped by the page.
_UNSAFE_IN_DATA = re.compile(rb"[^A-Za-z0-9 !$()*+,\-./:;=?@\[\]^_`{|}~]")
_CITATION = re.compile(r"\[(@[\w:.-]+(?:\s*;\s*@[\w:.-]+)*)\]")


@dataclass(frozen=True)
class Figure:
    """A picture, or two of one geometry that the reader flips between.

    Parameters
    ----------
    title, caption : str
        Plain text. The caption says what is shown and what a good one looks like.
    paths : tuple of Path
        SVG, PNG or WebP files: one for "still", two (before, after) for "flicker". A file that does
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
        If the number of files does not fit the kind, or a file is none of the three.

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
                    f"figure {self.title!r}: {path.name} is neither .svg nor .png nor .webp; "
                    "save it as one"
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
    """What one pipeline made of one scan, or what came of one map in one comparison of groups.

    Parameters
    ----------
    pipeline : str
        Title of the pipeline or comparison; sections of one title stand together on the page.
    scan : str
        Label of the scan, such as "sub-01 ses-m00 dir-AP", or of the map, such as "FA".
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
    tables : tuple of Table
        Below the figures.
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
    tables: tuple[Table, ...] = ()
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
    state : str
        Letters and digits, kept in the head: by it a later run sees whether the page is current.
    kind : {"participant", "group"}
        What the page is about: sections are scans of pipelines, or maps of comparisons.
    findings : tuple of Finding
        Shown as a matrix before all else, each with a link to its section.

    Raises
    ------
    SettingsError
        If the status is none of the three, the kind none of the two, or a finding is there twice.
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
    state: str = ""
    kind: PageKind = "participant"
    findings: tuple[Finding, ...] = ()

    def __post_init__(self) -> None:
        _require_status(f"page {self.title!r}", self.status, RUN_STATUSES)
        if self.kind not in PAGE_KINDS:
            raise SettingsError(
                f"page {self.title!r} is of kind {self.kind!r}; give one of {', '.join(PAGE_KINDS)}"
            )
        arrange_findings(self.findings)


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
    # File names may hold bytes that are no text; they are shown as escapes, not dropped.
    _write_whole(render_page(page).encode("utf-8", errors="backslashreplace"), path)


def render_page(page: Page) -> str:
    """HTML text of a page, with the pictures read and embedded.

    Parameters
    ----------
    page : Page
        What to show.

    Returns
    -------
    html : str
        The whole document.

    Raises
    ------
    RunError
        If a picture exists and cannot be read.

    Examples
    --------
    >>> page = Page("<b>", "bids_alsmri", "0.1", datetime(2024, 5, 1), "bids_alsmri ...", "done")
    >>> "<title>&lt;b&gt;" in render_page(page)
    True
    """
    template = load_template(
        "template.html",
        number=format_number,
        duration=format_duration,
        sensible_range=_range_text,
        gauge=_gauge,
        embed=_data_uri,
        link=_relative_link,
    )
    order = _citation_order(page.methods, page.references)
    return template.render(
        page=page,
        words=_WORDS[page.kind],
        matrix=arrange_findings(page.findings),
        anchors=_anchors(_by_pipeline(page.sections)),
        has_tables=bool(page.findings) or any(section.tables for section in page.sections),
        pipelines=_by_pipeline(page.sections),
        n_by_status={
            status: sum(section.status == status for section in page.sections)
            for status in SECTION_STATUSES
        },
        first_looks=_first_looks(_by_pipeline(page.sections)),
        methods=_markdown_to_html(page.methods, order),
        references=order,
    )


def format_duration(seconds: float) -> str:
    """Wall time in the two largest units that matter.

    Parameters
    ----------
    seconds : float
        Time, in s, not negative.

    Returns
    -------
    text : str
        Such as "3 min 5 s".

    Examples
    --------
    >>> [format_duration(seconds) for seconds in (0.31, 12.4, 185.0, 7260.0)]
    ['0.3 s', '12 s', '3 min 5 s', '2 h 1 min']
    """
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min"


@dataclass(frozen=True)
class _Words:
    """What a page calls its sections."""

    pipeline: str
    scan: str
    scans: str
    methods: str


_WORDS: dict[PageKind, _Words] = {
    "participant": _Words(
        "Pipeline",
        "Scan",
        "scans",
        "Written from the settings that the scans were processed with",
    ),
    "group": _Words(
        "Comparison",
        "Part",
        "parts",
        "Written from the settings that the groups were compared with",
    ),
}


@dataclass(frozen=True)
class _Numbered:
    """A reference and its place in the list."""

    number: int
    reference: Reference


@dataclass(frozen=True)
class _Look:
    """Something that deserves the reader's eye, and where it stands."""

    anchor: str
    where: str
    what: str


@dataclass(frozen=True)
class _Gauge:
    """Where band and value stand on a bar from 0 to 100."""

    band_start: float
    band_stop: float
    value: float


def _require_status(what: str, status: str, allowed: Sequence[str]) -> None:
    if status not in allowed:
        raise SettingsError(f"{what} has status {status!r}; give one of {', '.join(allowed)}")


def _by_pipeline(sections: Sequence[Section]) -> dict[str, list[Section]]:
    grouped: dict[str, list[Section]] = {}
    for section in sections:
        grouped.setdefault(section.pipeline, []).append(section)
    return grouped


def _anchors(pipelines: dict[str, list[Section]]) -> dict[tuple[str, str], str]:
    """Where each section stands; of several alike, the first."""
    found: dict[tuple[str, str], str] = {}
    for p, (pipeline, sections) in enumerate(pipelines.items(), start=1):
        for s, section in enumerate(sections, start=1):
            found.setdefault((pipeline, section.scan), f"p{p}-s{s}")
    return found


def _first_looks(pipelines: dict[str, list[Section]]) -> list[_Look]:
    """Failures, measures outside their range and warnings, with their anchors."""
    looks = []
    for p, (pipeline, sections) in enumerate(pipelines.items(), start=1):
        for s, section in enumerate(sections, start=1):
            anchor, where = f"p{p}-s{s}", f"{pipeline}, {section.scan}"
            if section.status == "failed":
                looks.append(_Look(anchor, where, "failed"))
            if section.outside:
                measures = "; ".join(_in_words(row) for row in section.outside)
                looks.append(_Look(f"{anchor}-quality", where, measures))
            if section.warnings:
                count = len(section.warnings)
                looks.append(_Look(anchor, where, f"{count} warning{'s' if count > 1 else ''}"))
    return looks


def _in_words(row: QualityRow) -> str:
    if row.verdict == "missing":
        return f"{row.name}: could not be computed"
    value = f"{format_number(row.value)} {row.unit}".rstrip()
    return f"{row.name}: {value} (sensible: {_range_text(row)})"


def _range_text(row: QualityRow) -> str:
    if row.low is not None and row.high is not None:
        text = f"{format_number(row.low)} to {format_number(row.high)}"
    elif row.high is not None:
        text = f"at most {format_number(row.high)}"
    elif row.low is not None:
        text = f"at least {format_number(row.low)}"
    else:
        return "none set"
    return f"{text} {row.unit}".rstrip()


def _gauge(row: QualityRow) -> _Gauge | None:
    """Bar for a value with a range; None where no scale suggests itself."""
    if not math.isfinite(row.value):
        return None
    if row.low is not None and row.high is not None and row.high > row.low:
        place = 25.0 + 50.0 * (row.value - row.low) / (row.high - row.low)
        return _Gauge(25.0, 75.0, _onto_bar(place))
    if row.low is None and row.high is not None and row.high > 0:
        return _Gauge(0.0, 60.0, _onto_bar(60.0 * row.value / row.high))
    if row.high is None and row.low is not None and row.low > 0:
        return _Gauge(40.0, 100.0, _onto_bar(40.0 * row.value / row.low))
    return None


def _onto_bar(place: float) -> float:
    return round(min(max(place, 2.0), 98.0), 1)


def _data_uri(path: Path) -> str:
    """Picture as a data: address; empty where the file does not exist."""
    if not path.is_file():
        return ""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RunError(f"{path}: cannot be read for the report ({error.strerror})") from error
    head = f"data:{_MEDIA_TYPES[path.suffix]}"
    forms = [f"{head};base64,{base64.b64encode(content).decode('ascii')}"]
    if path.suffix == ".svg":
        # Pictures inside are base64 already: a second time would add another third.
        # urllib.parse.quote writes the same, and takes a second for the figures of a page.
        escaped = _UNSAFE_IN_DATA.sub(lambda found: b"%%%02X" % found[0][0], content)
        forms.append(f"{head};charset=utf-8,{escaped.decode('ascii')}")
    return min(forms, key=len)


def _relative_link(path: str) -> str:
    """Address of a file beside the page; never one with a scheme, whatever the name."""
    return "./" + urllib.parse.quote(path, errors="surrogateescape")


def _citation_order(methods: str, references: Sequence[Reference]) -> tuple[_Numbered, ...]:
    cited = [key for group in _CITATION.findall(methods) for key in _keys(group)]
    place = {key: index for index, key in reversed(list(enumerate(cited)))}
    ordered = sorted(references, key=lambda reference: place.get(reference.key, len(cited)))
    return tuple(_Numbered(number, reference) for number, reference in enumerate(ordered, start=1))


def _keys(group: str) -> list[str]:
    return [part.strip().removeprefix("@") for part in group.split(";")]


def _markdown_to_html(text: str, references: Sequence[_Numbered]) -> Markup:
    """Small part of markdown as HTML; everything is escaped before marks are read."""
    from markupsafe import Markup

    numbers = {numbered.reference.key: numbered.number for numbered in references}
    blocks = re.split(r"\n\s*\n", text.strip())
    return Markup("\n").join(_block_to_html(block, numbers) for block in blocks if block.strip())


def _block_to_html(block: str, numbers: dict[str, int]) -> Markup:
    from markupsafe import Markup

    heading, _, rest = block.partition("\n")
    level = re.match(r"#{1,4} +", heading)
    if level:
        # The page itself uses h1 and h2.
        html = Markup("<h3>{}</h3>").format(_inline_to_html(heading[level.end() :], numbers))
        return html + _block_to_html(rest, numbers) if rest.strip() else html
    lines = block.splitlines()
    if lines[0].startswith(("- ", "* ")):
        items = re.split(r"^[-*] +", block, flags=re.MULTILINE)[1:]
        return Markup("<ul>{}</ul>").format(
            Markup("").join(
                Markup("<li>{}</li>").format(_inline_to_html(item.strip(), numbers))
                for item in items
            )
        )
    return Markup("<p>{}</p>").format(_inline_to_html(block, numbers))


def _inline_to_html(text: str, numbers: dict[str, int]) -> Markup:
    from markupsafe import Markup, escape

    html = str(escape(text))
    html = re.sub(r"`([^`]+)`", r"<code>\1</code>", html)
    html = re.sub(r"\*\*(\S(?:[^*]*\S)?)\*\*", r"<strong>\1</strong>", html)
    html = re.sub(r"\*(\S(?:[^*]*\S)?)\*", r"<em>\1</em>", html)
    return Markup(_CITATION.sub(lambda match: _citation_to_html(match, numbers), html))


def _citation_to_html(match: re.Match[str], numbers: dict[str, int]) -> str:
    keys = _keys(match.group(1))
    # An unknown key stays as it was written: the page must come out, and the reader sees it.
    if not all(key in numbers for key in keys):
        return match.group(0)
    links = (f'<a href="#ref-{numbers[key]}">{numbers[key]}</a>' for key in keys)
    return f'<span class="cite">[{", ".join(links)}]</span>'


def _write_whole(content: bytes, path: Path) -> None:
    """Write to a temporary name in the same folder, then rename."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with unfinished.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(unfinished, path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise RunError(
            f"{path}: the report cannot be written ({error.strerror}); make room or give "
            "another output folder",
            exit_code=ExitCode.CANNOT_WRITE,
        ) from error
