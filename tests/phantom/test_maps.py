from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

from bids_alsmri.errors import SettingsError
from bids_alsmri.phantom.cohort import draw_cohort, kinds_of
from bids_alsmri.phantom.map_cohort import QUALITY, quality_table, write_map_cohort
from bids_alsmri.phantom.map_settings import MapSettings


def test_patients_move_more_on_average():
    people = draw_cohort(kinds_of(None, 200, 100, 100), 3)
    log_motion = {"hc": [], "als": []}
    for person in people:
        table = quality_table("diffusion", person, 3)
        (value,) = (r[1] for r in table.rows if r[0] == "mean_framewise_displacement")
        log_motion[person.group].append(np.log(value))
    spread = QUALITY["diffusion"]["mean_framewise_displacement"]
    difference = np.mean(log_motion["als"]) - np.mean(log_motion["hc"])
    # four standard errors
    tolerance = 4 * spread.relative_sd * np.sqrt(2 / 200)
    assert_allclose(difference, np.log(spread.factor_in_patients), atol=tolerance)
    assert np.log(spread.factor_in_patients) > 0.1


def test_a_folder_with_files_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    for places in ((tmp_path, tmp_path / "out"), (tmp_path / "raw", tmp_path)):
        with pytest.raises(SettingsError, match="is not an empty folder; give a new one"):
            write_map_cohort(*places, (), MapSettings())


def test_one_folder_for_both_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="give two folders"):
        write_map_cohort(tmp_path / "x", tmp_path / "x", (), MapSettings())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"voxel_mm": 0.5}, "voxel_mm is 0.5; it must lie from 1 to 8"),
        ({"noise_sd": {"fa": 0.1}}, "give a standard deviation of 0 or more for each of fa, md"),
        ({"effects": {"rapid": {"fa": 1.0}}}, "effects of 'rapid' are"),
        ({"effects": {"fast": {"rd": 1.0}}}, "give Cohen's d of fa, md, tsc for fast and slow"),
    ],
)
def test_impossible_settings_are_refused(change, message):
    with pytest.raises(SettingsError, match=message):
        replace(MapSettings(), **change)
