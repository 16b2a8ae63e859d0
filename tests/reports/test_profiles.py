"""Marks stand where the scores say, on a page and in the figure of a cohort."""

from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal

from bids_alsmri.errors import NumericsError, SettingsError
from bids_alsmri.reports.clinical_plots import draw_scores
from bids_alsmri.reports.profiles import Profile, ProfileRow, Score, render_profiles

NAN = float("nan")
TONGUE = ProfileRow(
    "muscle", "tongue <T2>", "ms", 22, {0: Score(41.5, -2.0, 0.0), 1: Score(60.0, 12.0, 14.0)}
)
FA = ProfileRow("brain", "left CST, FA", "", 20, {1: Score(0.5, 0.0, NAN)})
ATLAS = ProfileRow("brain", "region 17", "", 20, {0: Score(0.4, 1.0, 0.0)}, is_main=False)


class Marks(HTMLParser):
    """Styles and texts of the marks, and texts of all cells, by row."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.marks: list[list[str]] = []
        self.is_inside = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        own = dict(attrs)
        if tag == "tr":
            self.is_inside = True
            self.rows.append([])
            self.marks.append([])
        if tag == "span" and "dot" in own.get("class", ""):
            self.marks[-1].append(own["style"])

    def handle_endtag(self, tag):
        self.is_inside = self.is_inside and tag != "tr"

    def handle_data(self, data):
        if self.is_inside and data.strip():
            self.rows[-1].append(data.strip())


def page_of(*rows, visits=("m00", "m12")):
    profile = Profile("sub-01", [("group", "als & co")], visits, rows, ["age", "sex"])
    (text,) = render_profiles([profile], back="../group.html", software="b 1")
    return text


def test_marks_stand_in_proportion_and_at_the_rim_beyond_the_axis():
    text = page_of(FA, TONGUE, ATLAS)
    found = Marks(text)
    marks = [own for own in found.marks if own]
    # 16 standard deviations are the width: 0 is its middle, -2 an eighth left of it
    assert marks == [["left:50.0%"], ["left:37.5%", "left:100.0%"], ["left:56.2%"]]
    (row,) = [own for own in found.rows if own and own[0] == "tongue <T2>"]
    assert row == ["tongue <T2>", "●", "■", "41.5", "−2.0", "60", "+12.0", "+14.0", "ms", "22"]
    (row,) = [own for own in found.rows if own and own[0] == "left CST, FA"]
    assert row[1:] == ["■", "n/a", "n/a", "0.5", "+0.0", "n/a", "20"]
    assert "als &amp; co" in text
    assert "for the same age and sex" in text
    assert text.index("1 further measures") > text.index("tongue")


def test_a_page_of_one_visit_tells_of_no_change():
    text = page_of(ATLAS, visits=("m00",))
    assert "hange" not in text


def test_profiles_without_rows_or_with_unknown_visits_are_refused():
    with pytest.raises(SettingsError, match="sub-01 has no row"):
        Profile("sub-01", [], ["m00"], [])
    with pytest.raises(SettingsError, match=r"tongue <T2>: a score of visit 1; give 0 to 0"):
        Profile("sub-01", [], ["m00"], [TONGUE])


def test_all_participants_stand_in_one_figure_with_borders_of_groups_and_places():
    z = np.array([[0.5, np.nan, -7.0], [1.0, 2.0, 3.0], [4.0, -4.0, 0.0]])
    scores = pd.DataFrame(z, index=["sub-01", "sub-02", "sub-03"], columns=["a", "b", "c"])
    axes = draw_scores(scores, ["brain", "muscle", "muscle"], ["hc", "als", "als"], title="t").axes[
        0
    ]
    (image,) = axes.images
    assert_array_equal(np.asarray(image.get_array().filled(np.nan)), z)
    assert image.get_clim() == (-5, 5)
    across, down = axes.lines
    assert_array_equal(across.get_ydata(), [0.5, 0.5])
    assert_array_equal(down.get_xdata(), [0.5, 0.5])
    assert [text.get_text() for text in axes.texts] == ["hc", "als", "brain", "muscle"]
    with pytest.raises(NumericsError, match="one group per row"):
        draw_scores(scores, ["brain"] * 3, ["hc"], title="t")


def test_five_hundred_participants_leave_no_room_for_names():
    scores = pd.DataFrame(np.zeros((500, 2)), index=[f"sub-{k}" for k in range(500)])
    figure = draw_scores(scores, ["muscle"] * 2, ["hc"] * 500, title="t")
    assert not len(figure.axes[0].get_yticks())
    assert figure.get_size_inches()[1] < 16
