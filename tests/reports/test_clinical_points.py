"""Points, boxes, lines, curves and muscles stand where the numbers say."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from bids_alsmri.errors import NumericsError
from bids_alsmri.reports.clinical_points import (
    Cloud,
    Curve,
    Scatter,
    draw_clouds,
    draw_roc,
    draw_scatters,
)
from bids_alsmri.reports.figures import draw_body_chart


def test_clouds_show_every_known_value_and_the_median():
    values = np.array([1.0, 2, np.nan, 9, 4, 5, 6])
    axes = draw_clouds([Cloud("a", "ms", {"als": values})], title="t").axes[0]
    points, *rest = axes.lines
    assert sorted(points.get_ydata()) == [1, 2, 4, 5, 6, 9]
    assert any(np.allclose(line.get_ydata(), 4.5) for line in rest)
    assert "n = 6" in [text.get_text() for text in axes.texts]


def test_scatter_has_the_line_that_it_was_given_and_no_other():
    band = np.array([[0.0, 1], [1, 2], [0, 1], [2, 3]])
    x, y = np.array([0.0, 1, np.nan]), np.array([1.0, 2, 3])
    axes = draw_scatters([Scatter("x", "y", x, y, band)], title="t").axes[0]
    assert_allclose(axes.lines[0].get_ydata(), band[1])
    assert len(axes.lines[1].get_xdata()) == 2
    assert len(draw_scatters([Scatter("x", "y", x, y)], title="t").axes[0].lines) == 1


def test_readers_are_points_beside_curves():
    curve = Curve("a", np.array([0, 0.5, 1.0]), np.array([0, 0.9, 1.0]))
    reader = Curve("r", np.array([0.23]), np.array([0.67]))
    lines = draw_roc([curve], [reader], title="t").axes[0].lines
    assert [len(line.get_xdata()) for line in lines] == [2, 3, 1]


def test_a_body_is_white_at_zero_and_grey_where_nothing_is_known():
    from matplotlib.colors import to_rgb

    values = {("deltoid", "left"): 0.0, ("deltoid", "right"): 10.0, ("tongue", "n/a"): np.nan}
    places = {"deltoid": (0.118, 0.785, 0.04, 0.06), "tongue": (0.0, 0.905, 0.03, 0.02)}
    stars = [{("deltoid", "right")}]
    axes = draw_body_chart([("d", values)], places, marked=stars, is_difference=True).axes[0]
    colors = {
        (round(p.center[0], 3), round(p.center[1], 3)): to_rgb(p.get_facecolor())
        for p in axes.patches
    }
    assert min(colors[-0.118, 0.785]) > 0.95
    red, _, blue = colors[0.118, 0.785]
    assert red > blue + 0.2
    assert_allclose(colors[0.0, 0.905], to_rgb("#d0d7de"), atol=0.01)
    (star,) = [text for text in axes.texts if text.get_text() == "*"]
    assert star.get_position()[0] == 0.118


@pytest.mark.parametrize("draw", [draw_clouds, draw_scatters])
def test_nothing_to_draw_is_an_error(draw):
    with pytest.raises(NumericsError, match="give at least one"):
        draw([], title="t")
