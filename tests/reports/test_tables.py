"""Cells say what the frame holds, and no finding is lost or misplaced."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bids_alsmri.errors import SettingsError
from bids_alsmri.reports.tables import (
    LONGEST_OPEN,
    Finding,
    Table,
    arrange_findings,
    column_texts,
    p_text,
)


def number_of(text: str) -> float:
    """A cell read back as a reader would."""
    mantissa, _, power = text.replace("−", "-").replace(",", "").partition(" × 10")
    digits = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
    return float(mantissa) * 10.0 ** int(power.translate(digits) or 0)


def texts_of(table: Table, column: int) -> list[str]:
    return [row[column].text for row in table.rows]


@given(
    st.lists(st.floats(-1e9, 1e9, allow_nan=False, allow_subnormal=False), min_size=1, max_size=6)
)
def test_numbers_of_a_column_keep_three_digits_of_the_largest(values: list[float]) -> None:
    texts = column_texts(values, None)
    largest = max(abs(value) for value in values)
    for value, text in zip(values, texts, strict=True):
        # Half of the third digit of the largest; four decimals are the most.
        assert abs(number_of(text) - value) <= max(0.006 * largest, 5e-5 * (largest >= 0.01))


@given(st.lists(st.floats(0.01, 1e6), min_size=2, max_size=6))
def test_points_of_a_column_stand_below_each_other(values: list[float]) -> None:
    decimals = {len(text.partition(".")[2]) for text in column_texts(values, None)}
    assert len(decimals) == 1


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.int64(15873), "15,873"),
        (np.float32(0.5), "0.500"),
        (-0.00001, "−1 × 10⁻⁵"),
        (np.bool_(False), "no"),
        (None, "n/a"),
        (float("nan"), "n/a"),
        (float("inf"), "n/a"),
        (pd.NA, "n/a"),
        (pd.NaT, "n/a"),
        ("-3 mm", "-3 mm"),
    ],
)
def test_value_of_any_type_becomes_text(value: object, text: str) -> None:
    table = Table("t", "c", pd.DataFrame({"a": pd.Series([value], dtype=object)}))
    assert texts_of(table, 0) == [text]


def test_zero_to_the_digits_shown_has_no_sign() -> None:
    assert column_texts([-0.001, 12.0], 1) == ["0.0", "12.0"]


@given(st.floats(1e-4, 1.0))
def test_p_value_is_rounded_and_not_cut(p: float) -> None:
    # Half of the last decimal: the fourth below 0.01, else the third.
    assert abs(float(p_text(p)) - p) <= (0.5001e-4 if p < 0.01 else 0.5001e-3)


def test_p_value_is_never_said_to_be_zero() -> None:
    assert p_text(0.0) == p_text(1e-9) == "<0.0001"


def test_numbers_and_their_headings_stand_right_and_words_left() -> None:
    frame = pd.DataFrame(
        {
            "region": ["CST R", "1st of two"],
            "als": ["54.3 (10.2), n=28", "9 (31)"],
            "t": [3.1, np.nan],
            "p": [0.01, 0.00001],
            "nothing": [None, None],
        }
    )
    table = Table("t", "c", frame, p_columns=("p",))
    assert [column.is_number for column in table.columns] == [False, True, True, True, False]
    for row in table.rows:
        assert [cell.column for cell in row] == list(table.columns)


def test_rows_and_columns_keep_their_order_whatever_the_index() -> None:
    frame = pd.DataFrame({"b": [1, 2], "a": ["x", "y"]}, index=[7, 7])
    table = Table("t", "c", frame)
    assert [[cell.text for cell in row] for row in table.rows] == [["1", "x"], ["2", "y"]]


def test_only_a_long_table_is_folded() -> None:
    at_most = pd.DataFrame({"a": range(LONGEST_OPEN)})
    assert not Table("t", "c", at_most).is_long
    assert Table("t", "c", pd.DataFrame({"a": range(LONGEST_OPEN + 1)})).is_long


def test_every_finding_stands_once_in_its_row_and_column() -> None:
    contrasts, maps = ("als - hc", "fast - hc"), ("TSC", "FA", "MD")
    findings = [
        Finding(measure, contrast, side)
        for measure, contrast, side in itertools.product(maps, contrasts, ("lower", "higher"))
    ]
    # One is not there: its place must stay empty, and move no other.
    missing = findings.pop(5)
    matrix = arrange_findings(findings)
    assert [(row.measure, row.side) for row in matrix.rows] == list(
        itertools.product(maps, ("higher", "lower"))
    )
    for row in matrix.rows:
        for contrast, cell in zip(matrix.contrasts, row.cells, strict=True):
            place = (row.measure, contrast, row.side)
            if cell is None:
                assert place == (missing.measure, missing.contrast, missing.side)
            else:
                assert place == (cell.measure, cell.contrast, cell.side)


def test_finding_without_numbers_says_so() -> None:
    assert Finding("FA", "als - hc", "lower").numbers == "p n/a, |t| n/a, d n/a"
    assert math.isnan(Finding("FA", "als - hc", "lower").effect)


FRAME = pd.DataFrame({"a": [1.0]})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Table("T", "c", FRAME, headings={"b": "B"}), "table 'T' has no column 'b'.* a$"),
        (lambda: Table("T", "c", FRAME, p_columns=("p",)), "no column 'p'"),
        (lambda: Table("T", "c", FRAME, decimals={"a": -1}), "decimals of 'a' is -1; give 0"),
        (lambda: Finding("FA", "c", "up"), "side 'up'; give one of higher, lower, either"),
        (lambda: Finding("FA", "c", "lower", 5, 4), "n_significant 5 and n_tested 4"),
        (
            lambda: arrange_findings([Finding("FA", "c", "lower")] * 2),
            "two findings of 'FA', 'c', lower",
        ),
    ],
)
def test_impossible_tables_are_refused(make: object, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        make()  # type: ignore[operator]
