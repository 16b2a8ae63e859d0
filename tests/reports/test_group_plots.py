"""Plots of groups show every member at the true height, and count everyone once."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from numpy.typing import NDArray

from bids_alsmri.errors import NumericsError
from bids_alsmri.reports.group_plots import GroupPanel, draw_groups, draw_participation

RNG = np.random.default_rng(0)
VALUES = {"hc": RNG.normal(50, 4, 24), "slow": RNG.normal(52, 4, 16), "fast": RNG.normal(55, 4, 13)}


def dots(axes: Axes) -> list[NDArray[np.float64]]:
    """(n, 2) places of the dots of each group."""
    return [line.get_xydata() for line in axes.lines if line.get_marker() not in ("None", "")]


@given(
    st.lists(
        st.lists(st.floats(-1e3, 1e3) | st.just(float("nan")), max_size=12), min_size=1, max_size=4
    )
)
@settings(max_examples=10)
def test_every_finite_value_is_a_dot_at_its_height(groups: list[list[float]]) -> None:
    values = {f"g{n}": group for n, group in enumerate(groups)}
    axes = draw_groups([GroupPanel("a", "b", values)], title="t").axes[0]
    low, high = axes.get_ylim()
    for place, (group, drawn) in enumerate(zip(groups, dots(axes), strict=True)):
        finite = sorted(value for value in group if np.isfinite(value))
        assert drawn[:, 1].tolist() == finite
        # Its own half to either side: no dot may look like one of the next group.
        assert (np.abs(drawn[:, 0] - place) < 0.5).all()
        assert ((drawn[:, 1] > low) & (drawn[:, 1] < high)).all()


def test_dots_do_not_hide_each_other() -> None:
    figure = draw_groups([GroupPanel("a", "b", VALUES)], title="t")
    axes = figure.axes[0]
    for line, places in zip(axes.lines, dots(axes), strict=False):
        points = axes.transData.transform(places) * 72 / figure.dpi
        apart = [np.hypot(*(one - two)) for one, two in itertools.combinations(points, 2)]
        assert min(apart) >= line.get_markersize()


def test_mean_and_deviation_are_those_of_the_sample() -> None:
    axes = draw_groups([GroupPanel("a", "b", VALUES)], title="t").axes[0]
    segments = [path for item in axes.collections for path in item.get_segments()]
    level = [s for s in segments if s[0, 1] == s[1, 1]]
    upright = [s for s in segments if s[0, 0] == s[1, 0]]
    for values, mean, whiskers in zip(VALUES.values(), level, upright, strict=True):
        series = pd.Series(values)
        assert mean[0, 1] == pytest.approx(series.mean())
        assert np.ptp(whiskers[:, 1]) == pytest.approx(2 * series.std())


def test_group_looks_the_same_in_all_panels() -> None:
    panels = [
        GroupPanel("a", "b", VALUES),
        GroupPanel("c", "d", dict(reversed(VALUES.items()))),
    ]
    figure = draw_groups(panels, title="t")
    looks = [
        {
            name: (to_hex(line.get_color()), line.get_marker())
            for name, line in zip(panel.values, axes.lines, strict=False)
        }
        for panel, axes in zip(panels, figure.axes, strict=True)
    ]
    assert looks[0] == looks[1]
    assert len({color for color, _ in looks[0].values()}) == 3
    assert len({marker for _, marker in looks[0].values()}) == 3


def test_missing_and_empty_groups_are_counted_and_said() -> None:
    panel = GroupPanel("a", "b", {"als": [1.0, np.nan, 3.0], "hc": [], "other": [2.0]})
    axes = draw_groups([panel], title="t").axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == [
        "als\nn = 2 of 3",
        "hc\nn = 0",
        "other\nn = 1",
    ]
    assert "no value" in [text.get_text() for text in axes.texts]


def test_warning_is_marked_by_more_than_colour() -> None:
    panels = [
        GroupPanel("a", "b", VALUES, note="groups differ", is_flagged=True),
        GroupPanel("a", "b", VALUES, note="p = 0.4"),
    ]
    notes = [text.get_text() for text in draw_groups(panels, title="t").texts]
    assert "▲ groups differ" in notes
    assert "p = 0.4" in notes


def test_limit_is_drawn_within_the_axis_though_all_lie_below_it() -> None:
    panel = GroupPanel("a", "b", {"als": [0.1, 0.2]}, line=0.9, line_label="limit")
    axes = draw_groups([panel], title="t").axes[0]
    assert axes.get_ylim()[1] > 0.9
    assert axes.lines[-1].get_ydata()[0] == 0.9


def test_more_panels_than_fit_a_row_go_below() -> None:
    figure = draw_groups([GroupPanel(str(n), "b", VALUES) for n in range(6)], title="t")
    boxes = [axes.get_position() for axes in figure.axes]
    assert len({round(box.y0, 6) for box in boxes}) == 2
    for one, two in itertools.combinations(boxes, 2):
        assert not one.overlaps(two)
    assert all(0 <= box.x0 < box.x1 <= 1 and 0 <= box.y0 < box.y1 <= 1 for box in boxes)


def counts_of(*rows: tuple[str, str, str, int, int, int, int]) -> pd.DataFrame:
    columns = ["modality", "contrast", "group", "n_participants", "n_included", "no scan", "failed"]
    return pd.DataFrame(list(rows), columns=columns)


COUNTS = counts_of(
    ("sodium", "als-hc", "als", 29, 25, 3, 1),
    ("sodium", "als-hc", "hc", 24, 24, 0, 0),
    ("sodium", "fast-hc", "fast", 13, 0, 13, 0),
)


def test_bars_add_up_to_the_participants() -> None:
    axes = draw_participation(COUNTS).axes[0]
    ends: dict[float, float] = {}
    for patch in axes.patches:
        ends[patch.get_y()] = max(ends.get(patch.get_y(), 0), patch.get_x() + patch.get_width())
    # From above, in the order of the rows.
    assert axes.yaxis_inverted()
    assert [ends[y] for y in sorted(ends)] == COUNTS["n_participants"].tolist()


def test_every_count_stands_in_its_bar_and_none_for_nobody() -> None:
    axes = draw_participation(COUNTS).axes[0]
    numbers = [text.get_text() for text in axes.texts if text.get_text().isdigit()]
    assert numbers == ["25", "3", "1", "24", "13"]


def test_only_reasons_that_occur_are_in_the_key() -> None:
    figure = draw_participation(COUNTS.assign(failed=0, n_participants=[28, 24, 13]))
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["takes part", "no scan"]


def test_comparison_is_named_once_and_every_group() -> None:
    names = [text.get_text() for text in draw_participation(COUNTS).axes[0].texts]
    assert names.count("sodium, als-hc") == names.count("sodium, fast-hc") == 1
    assert {"als", "hc", "fast"} <= set(names)


def test_signs_of_the_dataset_are_no_formula() -> None:
    panel = GroupPanel("$a", "b$", {"$g$": [1.0, 2.0]}, note="$x^$", line=1.0, line_label="$")
    figure = draw_groups([panel], title="$t^$")
    figure.canvas.draw()
    assert figure.axes[0].get_xticklabels()[0].get_text() == "$g$\nn = 2"
    bars = draw_participation(counts_of(("$m", "$c$", "$g^$", 2, 2, 0, 0)))
    bars.canvas.draw()
    assert "$g^$" in [text.get_text() for text in bars.axes[0].texts]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GroupPanel("Motion", "mm", {}), "panel 'Motion' has no group"),
        (lambda: draw_groups([], title="Regions"), "Regions: no panel to draw"),
        (lambda: draw_participation(counts_of()), "counts has no row"),
        (
            lambda: draw_participation(counts_of(("sodium", "als-hc", "als", 29, 25, 3, 0))),
            "sodium, als-hc, als has 29 participants, but 28 are included or left out",
        ),
    ],
)
def test_numbers_that_cannot_be_drawn_are_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(NumericsError, match=message):
        make()
