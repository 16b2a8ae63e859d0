"""Labels from other people: what leaving one out tells."""

from __future__ import annotations

import pandas as pd

from bids_alsmri.interfaces.label_fusion import LeftOutDice
from bids_alsmri.pipelines.muscle.atlases import draw_left_out, left_out_table
from bids_alsmri.pipelines.muscle.pipeline import MuscleSettings
from bids_alsmri.pipelines.muscle.vocabulary import read_vocabulary
from bids_alsmri.pipelines.muscle.workflow import has_left_out

ROWS = [
    LeftOutDice("a", 581, 0.9, 100),
    LeftOutDice("a", 582, 0.8, 110),
    LeftOutDice("b", 581, 0.7, 90),
    LeftOutDice("b", 10, 0.6, 50),
    LeftOutDice("b", 999, 0.1, 5),
]


def table() -> pd.DataFrame:
    return left_out_table(ROWS, read_vocabulary(None), "acq-legs T1w")


def test_table_of_those_left_out_names_muscle_side_and_person():
    own = table().set_index(["region", "side", "atlas"])
    assert own.loc[("tibialis anterior", "left", "a"), "dice"] == 0.9
    assert own.loc[("tibialis anterior", "right", "a"), "n"] == 110
    assert own.loc[("tongue", "n/a", "b"), "dice"] == 0.6
    # a number that the list does not have is kept, and no muscle
    assert own.loc[("999", "n/a", "b"), "dice"] == 0.1
    assert set(own["station"]) == {"acq-legs T1w"}


def test_figure_shows_the_mean_over_those_left_out():
    (axes,) = draw_left_out(table()).axes
    shown = [x for line in axes.lines for x in line.get_xdata()]
    collected = [x for part in axes.collections for x in part.get_offsets()[:, 0]]
    assert any(abs(float(x) - 0.8) < 1e-6 for x in [*shown, *collected])


def test_leaving_one_out_takes_three_labelled_stations():
    cfg = MuscleSettings(atlas_leave_one_out=True)
    assert [has_left_out(cfg, [None] * n) for n in (2, 3)] == [False, True]
    assert not has_left_out(MuscleSettings(), [None] * 5)
