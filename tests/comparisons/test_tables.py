"""One table of all measures, and participants against the controls."""

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from scipy import stats
from statsmodels.api import OLS

from bids_alsmri.comparisons.presentation import presented
from bids_alsmri.comparisons.tables import participant_rows, profile, region_measures, with_derived
from bids_alsmri.errors import DataError
from bids_alsmri.stats.tables import Cohort, TableSpec, make_table


def _cohort():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"participant_id": [f"s{k}" for k in range(24)], "visit": "m0"})
    frame["group"] = ["hc"] * 20 + ["als"] * 4
    frame["age"] = rng.normal(60, 8, 24)
    frame["muscle.adc.tongue"] = 1 + 0.02 * frame["age"] + rng.normal(0, 0.2, 24)
    return Cohort(frame, "als", "hc", ("m0",), (0.0,))


def _normal(t, dof):
    """Normal deviate of the same probability."""
    return np.sign(t) * stats.norm.isf(stats.t.sf(np.abs(t), dof))


def test_controls_have_deleted_residuals():
    own = _cohort()
    base = own.frame[:20]
    design = np.column_stack([np.ones(20), base["age"]])
    expected = OLS(base["muscle.adc.tongue"], design).fit().get_influence()
    found = profile(own, covariates=("age",))
    t = expected.resid_studentized_external
    assert_allclose(found["z"][:20], _normal(t, 17), rtol=1e-7)


def test_patients_are_set_against_the_controls_prediction():
    own = _cohort()
    base = own.frame[:20]
    fit = OLS(base["muscle.adc.tongue"], np.column_stack([np.ones(20), base["age"]])).fit()
    row = own.frame.iloc[22]
    ahead = fit.get_prediction([[1.0, row["age"]]])
    error = np.sqrt(ahead.var_pred_mean[0] + fit.scale)
    expected = _normal((row["muscle.adc.tongue"] - ahead.predicted_mean[0]) / error, 18)
    assert_allclose(profile(own, covariates=("age",))["z"].iloc[22], expected, rtol=1e-7)


def test_few_controls_give_no_z():
    own = _cohort()
    few = Cohort(own.frame[16:].reset_index(drop=True), "als", "hc", ("m0",), (0.0,))
    assert profile(few, covariates=("age",))["z"].isna().all()


def test_stations_of_a_region_are_averaged_and_atlases_told_apart():
    table = pd.DataFrame(
        {
            "region": ["Psoas", "Psoas", "Psoas"],
            "side": ["left", "left", "n/a"],
            "measure": "relative_t2",
            "value": [1.0, 3.0, 5.0],
            "atlas": [None, None, "Mine"],
        }
    )
    found = {name: value for name, (value, _) in region_measures("muscle", table).items()}
    assert found == {"muscle.relative_t2.left_psoas": 2.0, "muscle.relative_t2.mine.psoas": 5.0}


def test_a_table_without_regions_is_refused():
    with pytest.raises(DataError, match="no column region"):
        region_measures("muscle", pd.DataFrame({"measure": [], "value": []}))


def test_summary_is_of_the_muscles_of_the_paper():
    start = "muscle.relative_t2."
    frame = pd.DataFrame({f"{start}tongue": [1.0], f"{start}left_tibialis_anterior": [3.0]})
    # a head of a muscle of the arm or thigh is none of them
    frame[f"{start}left_biceps_femoris_long_head"] = 100.0
    assert with_derived(frame)[f"{start}summary_mean"].tolist() == [2.0]


def test_grades_and_sides_are_derived():
    frame = pd.DataFrame({"handedness": ["L", "R"], "motor_unit_side": ["left", "right"]})
    for side, value in (("left", 1.0), ("right", 3.0)):
        frame[f"muscle.mercuri.{side}_first_dorsal_interosseous"] = [value, value]
        frame[f"muscle.mercuri.{side}_adductor_pollicis"] = [value + 1, np.nan]
        frame[f"muscle.relative_t2.{side}_thenar"] = value
    frame["emg_duration_left_tibialis_anterior"] = [12.0, 16.0]
    frame["mrc_left_ankle_dorsiflexors"] = [4.0, 1.0]
    frame["muscle.adc.summary"] = 1.5
    found = with_derived(frame)
    assert found["muscle.mercuri_region.left_hand"].tolist() == [1.5, 1.0]
    assert found["muscle.mercuri.dominant_hand"].tolist() == [1.5, 3.0]
    assert found["muscle.relative_t2.munix_side_thenar"].tolist() == [1.0, 3.0]
    # Diamanti 2018: 10 to 12.5 ms is mild, above 15 severe; 5 less the score, at most 3
    assert found["emg_grade_left_tibialis_anterior"].tolist() == [1.0, 3.0]
    assert found["weakness_grade_left_tibialis_anterior"].tolist() == [1.0, 3.0]
    assert found["muscle.adc.summary_mean"].tolist() == [1.5, 1.5]


def test_motor_areas_are_averaged_without_the_precuneus():
    start = "cortex7t.deep_thickness."
    frame = pd.DataFrame({f"{start}left_hand": [1.0], f"{start}right_leg": [2.0]})
    frame[f"{start}right_foot"], frame[f"{start}left_precuneus"] = 6.0, 50.0
    found = with_derived(frame).iloc[0]
    assert (found[f"{start}mean"], found[f"{start}right_lower_limb"]) == (3.0, 4.0)


def test_listed_patients_have_their_own_values_and_nothing_else():
    frame = _cohort().frame.assign(onset_site="bulbar", umn_score=[np.nan] * 23 + [13.0])
    own = Cohort(frame, "als", "hc", ("m0",), (0.0,))
    measures = ("onset_site", "umn_score", "el_escorial")
    spec = TableSpec("t", "T", "own", "listing", measures=measures, family="none")
    made = make_table(own, spec, level=0.95, n_draws=9, rng=np.random.default_rng(0))
    cells = presented(made, mode="best")
    assert list(cells) == ["participant", "onset site", "UMN score"]
    assert cells.iloc[-1].tolist() == ["s23", "bulbar", "13"]
    assert cells["UMN score"].tolist()[:3] == ["n/a"] * 3


def test_a_row_has_the_last_visit_and_its_change_since_the_first():
    rng = np.random.default_rng(5)
    people = [f"c{k}" for k in range(9)] + ["p0", "p1"]
    rows = [
        {
            "participant_id": who,
            "visit": visit,
            "group": "hc" if who.startswith("c") else "als",
            "muscle.adc.tongue": rng.normal(),
            # of p1 the second visit has no value of it
            "sodium.tsc_mean.gm": np.nan if (who, visit) == ("p1", 1) else rng.normal(),
        }
        for who in people
        for visit in ((0, 1) if who.startswith("p") else (0,))
    ]
    own = Cohort(pd.DataFrame(rows), "als", "hc", (0, 1), (0.0, 12.0))
    scores = profile(own, covariates=())
    found = participant_rows(scores, own.visits).set_index("participant_id")
    z = scores.set_index(["participant_id", "visit", "measure"])["z"]
    assert found.index.tolist() == people
    # the brain stands above the muscles
    names = ["z.sodium.tsc_mean.gm", "z.muscle.adc.tongue"]
    assert [name for name in found if name.startswith("z.")] == names
    assert found.at["p0", "z.muscle.adc.tongue"] == z["p0", 1, "muscle.adc.tongue"]
    assert found.at["p1", "z.sodium.tsc_mean.gm"] == z["p1", 0, "sodium.tsc_mean.gm"]
    change = z["p0", 1, "muscle.adc.tongue"] - z["p0", 0, "muscle.adc.tongue"]
    assert_allclose(found.at["p0", "z_change.muscle.adc.tongue"], change)
    assert np.isnan(found.at["p1", "z_change.sodium.tsc_mean.gm"])
    assert np.isnan(found.at["c3", "z_change.muscle.adc.tongue"])
    assert found.at["p1", "n_scores"] == 2
    beyond = sum(abs(found.at["p0", name]) > 2 for name in names)
    assert found.at["p0", "n_beyond_2"] == beyond


def test_what_only_judges_a_measure_has_no_score():
    own = _cohort()
    judging = ("tilt", "coverage", "white_to_reference", "profiles_used")
    more = {f"cortex7t.{name}.left_hand": own.frame["age"] for name in judging}
    more["cortex7t.deep_thickness.left_hand"] = own.frame["age"]
    whole = Cohort(own.frame.assign(**more), "als", "hc", ("m0",), (0.0,))
    found = set(profile(whole, covariates=())["measure"])
    assert found == {"muscle.adc.tongue", "cortex7t.deep_thickness.left_hand"}
