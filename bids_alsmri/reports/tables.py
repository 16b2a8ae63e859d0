"""Tables of a page: numbers in words, and the results of many comparisons at one look."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from bids_alsmri.errors import SettingsError

if TYPE_CHECKING:
    import pandas as pd

Side = Literal["higher", "lower", "either"]
SIDES: tuple[Side, ...] = ("higher", "lower", "either")

# Rows of a table that is shown at once; longer ones open at a click.
LONGEST_OPEN = 12
# Letters of a cell that stays on one line.
_LONGEST_LINE = 34
# Endings of column names that are units, and how these are written.
_UNITS = {
    "mm3": "mm³",
    "mm": "mm",
    "ml": "ml",
    "deg": "°",
    "percent": "%",
    "months": "months",
    "years": "years",
    "mmol_l": "mmol/l",
    "s_mm2": "s/mm²",
}
_SMALL_P, _SMALLEST_P = 0.01, 1e-4
_SIGNIFICANT_DIGITS, _MOST_DECIMALS = 3, 4
# Of a column whose largest value is smaller, every number gets its own digits.
_SMALL_COLUMN = 0.01
# Also "54.3 (10.2), n=28", "9 (31)" and "7.1 × 10⁻⁷".
_NUMBERS = re.compile(r"[<−+-]?\d[\d\s.,;:()%<n=×⁻⁰¹²³⁴⁵⁶⁷⁸⁹−+-]*")
NOT_AVAILABLE = "n/a"


@dataclass(frozen=True, eq=False)
class Table:
    """A table of a section.

    Parameters
    ----------
    title, caption : str
        Plain text. The caption says what stands in a row, and in which units.
    frame : DataFrame
        One row per row; its index is not shown. Numbers stand right, with as many decimals as give
        the largest of a column three digits; NaN and None read "n/a".
    note : str
        What weakens the numbers; may be empty.
    headings : mapping of str to str
        Of columns. By default the column's name in words, with the unit that it ends with
        (``peak_x_mm``) in brackets.
    decimals : mapping of str to int
        Of columns of numbers whose digits are not to be chosen.
    p_columns : tuple of str
        Columns of p-values.
    empty : str
        Said in place of a table without rows.
    path : str
        The same as a file, relative to the folder of the page; may be empty.
    links : tuple of str
        Addresses, relative to the folder of the page, that the first cells of all rows lead to;
        empty for none.

    Raises
    ------
    SettingsError
        If a column that is named is not in the frame, a decimal is negative, or there are links
        and not one for each row.

    Examples
    --------
    >>> import pandas as pd
    >>> frame = pd.DataFrame({"volume_mm3": [1204.0, 96.0], "p_fwe": [0.0002, 0.031]})
    >>> table = Table("Clusters", "One per row.", frame, p_columns=("p_fwe",))
    >>> [column.heading for column in table.columns]
    ['volume (mm³)', 'p fwe']
    >>> [[cell.text for cell in row] for row in table.rows]
    [['1,204', '0.0002'], ['96', '0.031']]
    """

    title: str
    caption: str
    frame: pd.DataFrame
    note: str = ""
    headings: Mapping[str, str] = field(default_factory=dict)
    decimals: Mapping[str, int] = field(default_factory=dict)
    p_columns: tuple[str, ...] = ()
    empty: str = "There is nothing to list."
    path: str = ""
    links: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.links and len(self.links) != len(self.frame):
            raise SettingsError(
                f"table {self.title!r} has {len(self.links)} links and {len(self.frame)} rows; "
                "give one for each row, or none"
            )
        columns = [str(column) for column in self.frame]
        for name in (*self.headings, *self.decimals, *self.p_columns):
            if name not in columns:
                raise SettingsError(
                    f"table {self.title!r} has no column {name!r}; give one of {', '.join(columns)}"
                )
        for name, decimals in self.decimals.items():
            if decimals < 0:
                raise SettingsError(
                    f"table {self.title!r}: decimals of {name!r} is {decimals}; give 0 or more"
                )

    @property
    def is_long(self) -> bool:
        """Whether it is folded until the reader opens it."""
        return len(self.frame) > LONGEST_OPEN

    @property
    def columns(self) -> tuple[Column, ...]:
        """Heads of the columns."""
        texts = self._texts()
        return tuple(
            Column(
                self.headings.get(str(name), heading_of(str(name))),
                _is_numeric(texts[str(name)]),
                max((len(text) for text in texts[str(name)]), default=0) > _LONGEST_LINE,
            )
            for name in self.frame
        )

    @property
    def rows(self) -> tuple[tuple[Cell, ...], ...]:
        """Cells, row by row."""
        columns = self.columns
        texts = self._texts()
        return tuple(
            tuple(
                Cell(
                    texts[str(name)][row],
                    column,
                    self.links[row] if self.links and not number else "",
                )
                for number, (name, column) in enumerate(zip(self.frame, columns, strict=True))
            )
            for row in range(len(self.frame))
        )

    def _texts(self) -> dict[str, list[str]]:
        """Text of all cells, by column."""
        found = {}
        for name in self.frame:
            values = [_plain(value) for value in self.frame[name].tolist()]
            if str(name) in self.p_columns:
                found[str(name)] = [p_text(_as_float(value)) for value in values]
            else:
                found[str(name)] = column_texts(values, self.decimals.get(str(name)))
        return found


@dataclass(frozen=True)
class Column:
    """Head of a column.

    Parameters
    ----------
    heading : str
        Text.
    is_number, is_prose : bool
        Whether its cells stand right, and whether they are broken into lines.
    """

    heading: str
    is_number: bool
    is_prose: bool


@dataclass(frozen=True)
class Cell:
    """One cell.

    Parameters
    ----------
    text : str
        What is shown.
    column : Column
        Where it stands.
    link : str
        Address that it leads to; may be empty.
    """

    text: str
    column: Column
    link: str = ""


@dataclass(frozen=True)
class Finding:
    """Result of one map, contrast and direction in short.

    Parameters
    ----------
    measure, contrast : str
        Titles of the map and of the contrast; a section of that scan and pipeline is linked to.
    side : {"higher", "lower", "either"}
        Of the first group of the contrast, against the second.
    n_significant, n_tested : int
        Voxels (or other elements).
    smallest_p : float
        Smallest corrected p-value, 0 to 1.
    largest : float
        Largest size of the statistic in this direction; NaN where there is none.
    effect : float
        Effect at that peak; NaN where there is none.
    reason : str
        Why it was not tested; empty where it was.
    statistic, effect_name, elements : str
        Names of the three.

    Raises
    ------
    SettingsError
        If the side is none of the three, or more is significant than was tested.

    Examples
    --------
    >>> Finding("FA", "als - hc", "lower", 1204, 98321, 0.0002, 6.13, -1.42).numbers
    'p 0.0002, |t| 6.13, d −1.42'
    """

    measure: str
    contrast: str
    side: Side
    n_significant: int = 0
    n_tested: int = 0
    smallest_p: float = math.nan
    largest: float = math.nan
    effect: float = math.nan
    reason: str = ""
    statistic: str = "t"
    effect_name: str = "d"
    elements: str = "voxels"

    def __post_init__(self) -> None:
        where = f"finding of {self.measure!r}, {self.contrast!r}"
        if self.side not in SIDES:
            raise SettingsError(f"{where} has side {self.side!r}; give one of {', '.join(SIDES)}")
        if not 0 <= self.n_significant <= self.n_tested:
            raise SettingsError(
                f"{where} has n_significant {self.n_significant} and n_tested {self.n_tested}; "
                "give counts of which the first is not larger"
            )

    @property
    def is_significant(self) -> bool:
        """Whether anything is."""
        return self.n_significant > 0

    @property
    def numbers(self) -> str:
        """Smallest p-value, largest statistic and the effect there."""
        return (
            f"p {p_text(self.smallest_p)}, |{self.statistic}| {_two_decimals(self.largest)}, "
            f"{self.effect_name} {_two_decimals(self.effect)}"
        )


@dataclass(frozen=True)
class FindingRow:
    """Findings of one map and direction.

    Parameters
    ----------
    measure : str
        Title of the map.
    side : {"higher", "lower", "either"}
        Direction.
    cells : tuple of Finding or None
        One per contrast; None where there is none.
    """

    measure: str
    side: Side
    cells: tuple[Finding | None, ...]


@dataclass(frozen=True)
class FindingMatrix:
    """Findings by map and direction (rows) and contrast (columns).

    Parameters
    ----------
    contrasts : tuple of str
        Heads of the columns.
    rows : tuple of FindingRow
        In the order in which maps first appear, higher before lower.
    """

    contrasts: tuple[str, ...]
    rows: tuple[FindingRow, ...]


def arrange_findings(findings: Sequence[Finding]) -> FindingMatrix:
    """Findings as a matrix of maps and directions by contrasts.

    Parameters
    ----------
    findings : sequence of Finding
        In any order; maps and contrasts stand in that of their first appearance.

    Returns
    -------
    FindingMatrix
        A row for each map and direction that occurs.

    Raises
    ------
    SettingsError
        If two findings are of one map, contrast and direction.

    Examples
    --------
    >>> matrix = arrange_findings([Finding("FA", "als - hc", "lower"),
    ...     Finding("FA", "als - hc", "higher"), Finding("MD", "fast - hc", "higher")])
    >>> [(row.measure, row.side, [cell is not None for cell in row.cells]) for row in matrix.rows]
    [('FA', 'higher', [True, False]), ('FA', 'lower', [True, False]),
     ('MD', 'higher', [False, True])]
    """
    by_place: dict[tuple[str, Side, str], Finding] = {}
    for finding in findings:
        place = (finding.measure, finding.side, finding.contrast)
        if place in by_place:
            raise SettingsError(
                f"two findings of {finding.measure!r}, {finding.contrast!r}, {finding.side}; give "
                "each once"
            )
        by_place[place] = finding
    contrasts = tuple(dict.fromkeys(finding.contrast for finding in findings))
    measures = dict.fromkeys(finding.measure for finding in findings)
    present = {(measure, side) for measure, side, _ in by_place}
    return FindingMatrix(
        contrasts,
        tuple(
            FindingRow(
                measure,
                side,
                tuple(by_place.get((measure, side, contrast)) for contrast in contrasts),
            )
            for measure in measures
            for side in SIDES
            if (measure, side) in present
        ),
    )


def heading_of(column: str) -> str:
    """Name of a column in words, with its unit.

    Parameters
    ----------
    column : str
        Words joined by ``_``, of which the last may be a unit.

    Returns
    -------
    text : str

    Examples
    --------
    >>> [heading_of(name) for name in ("peak_x_mm", "volume_mm3", "participant_id", "mm")]
    ['peak x (mm)', 'volume (mm³)', 'participant id', 'mm']
    """
    for ending, unit in _UNITS.items():
        if column.endswith(f"_{ending}"):
            return f"{column.removesuffix(f'_{ending}').replace('_', ' ')} ({unit})"
    return column.replace("_", " ")


def p_text(p: float) -> str:
    """P-value with the digits that a count of relabellings supports.

    Parameters
    ----------
    p : float
        0 to 1.

    Returns
    -------
    text : str
        Three decimals from 0.01 on, four below; "n/a" where it is not finite.

    Examples
    --------
    >>> [p_text(p) for p in (0.21, 0.0098, 0.0002, 0.00001, float("nan"))]
    ['0.210', '0.0098', '0.0002', '<0.0001', 'n/a']
    """
    if not math.isfinite(p):
        return NOT_AVAILABLE
    if p < _SMALLEST_P:
        return "<0.0001"
    return f"{p:.3f}" if p >= _SMALL_P else f"{p:.4f}"


def column_texts(values: Sequence[object], decimals: int | None) -> list[str]:
    """Cells of one column, with the same number of decimals.

    Parameters
    ----------
    values : sequence
        Numbers, text, truth values or None.
    decimals : int, optional
        Of numbers that are not whole by type; by default as many as give the largest three digits
        (none where all are whole, four at most, and powers of ten where that is not enough).

    Returns
    -------
    texts : list of str
        With true minus signs, and commas between thousands.

    Examples
    --------
    >>> column_texts([12.345, -0.5, None], None)
    ['12.3', '−0.5', 'n/a']
    >>> column_texts([15873, "CST R", True, 7.0], None)
    ['15,873', 'CST R', 'yes', '7']
    """
    floats = [v for v in values if isinstance(v, float) and math.isfinite(v)]
    largest = max((abs(value) for value in floats), default=0.0)
    if decimals is None and 0 < largest < _SMALL_COLUMN:
        return [_cell_text(value, None) for value in values]
    if decimals is None:
        is_whole = all(value == round(value) for value in floats)
        wanted = _SIGNIFICANT_DIGITS - 1 - math.floor(math.log10(largest)) if largest else 0
        decimals = 0 if is_whole else min(max(wanted, 0), _MOST_DECIMALS)
    return [_cell_text(value, decimals) for value in values]


def format_number(value: float) -> str:
    """Three significant digits, without an exponent from 0.001 to a million.

    Parameters
    ----------
    value : float
        Any number.

    Returns
    -------
    text : str
        With a true minus sign; "not available" where the value is not finite.

    Examples
    --------
    >>> [format_number(value) for value in (0.71234, 12.0, 12345.6, -0.5, 7.1e-7, float("nan"))]
    ['0.712', '12', '12346', '−0.5', '7.1 × 10⁻⁷', 'not available']
    """
    if not math.isfinite(value):
        return "not available"
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        digits = 0 if abs(value) >= 1000 else None
        text = f"{value:.0f}" if digits == 0 else f"{value:.3g}"
        return text.replace("-", "−")
    mantissa, exponent = f"{value:.2e}".split("e")
    mantissa = mantissa.rstrip("0").rstrip(".").replace("-", "−")
    power = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{mantissa} × 10{power}"


def _plain(value: Any) -> object:
    """Python's own value of a cell; None where it is missing."""
    import pandas as pd

    if value is None or value is pd.NA or value is pd.NaT:
        return None
    return value.item() if hasattr(value, "item") else value


def _as_float(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan


def _cell_text(value: object, decimals: int | None) -> str:
    if value is None:
        return NOT_AVAILABLE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace("-", "−")
    if not isinstance(value, float):
        return str(value)
    if not math.isfinite(value):
        return NOT_AVAILABLE
    if decimals is None:
        return format_number(value)
    text = f"{value:,.{decimals}f}"
    # No sign before what is zero to these digits.
    has_digit = any(digit in text for digit in "123456789")
    return text.replace("-", "−" if has_digit else "")


def _is_numeric(texts: Sequence[str]) -> bool:
    known = [text for text in texts if text not in ("", NOT_AVAILABLE)]
    return bool(known) and all(_NUMBERS.fullmatch(text) for text in known)


def _two_decimals(value: float) -> str:
    return column_texts([float(value)], 2)[0]
