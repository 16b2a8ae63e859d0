"""Declared tables: what they ask for, what they count, and that they are fast."""

import json
import time

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

from bids_alsmri.errors import DataError, SettingsError
from bids_alsmri.stats.comparison import compare_adjusted
from bids_alsmri.stats.multiplicity import adjust_family
from bids_alsmri.stats.tables import Cohort, TableSpec, make_table, read_specs

VISITS, MONTHS = ("m0", "m4", "m12"), (0.0, 4.0, 12.0)
MUSCLES = read_specs()["jenkins_table1"].measures[:-1]
ARGS = {"level": 0.95, "n_draws": 200}


def cohort(n_patients=29, n_controls=22, n_measures=4, seed=0, visits=VISITS):
    """Measures of both groups; the first is 0.8 sd higher in patients and rises by 1 a visit."""
    rng = np.random.default_rng(seed)
    n = n_patients + n_controls
    level, rows = rng.normal(size=(n, n_measures)), []
    age, sex = rng.normal(57, 10, n), rng.choice(["F", "M"], n)
    for who in range(n):
        for number, visit in enumerate(visits):
            y = 10 + level[who] + rng.normal(0, 0.5, n_measures)
            y[0] += (0.8 + number) * (who < n_patients)
            row = {"participant_id": f"sub-{who:03d}", "visit": visit}
            row["group"] = "als" if who < n_patients else "hc"
            row.update({"age": age[who], "sex": sex[who]})
            row.update(dict(zip(MUSCLES, y, strict=False)))
            rows.append(row)
    return Cohort(pd.DataFrame(rows), "als", "hc", visits, MONTHS[: len(visits)])


def table(own, spec, seed=0):
    return make_table(own, spec, rng=np.random.default_rng(seed), **ARGS)


def test_rows_are_those_of_the_functions():
    own = cohort()
    found = table(own, read_specs()["jenkins_table1"]).frame
    base = own.baseline
    covariates = np.column_stack([base["age"], base["sex"] == "M"])
    first = base["group"] == "als"
    results = [
        compare_adjusted(base[name], first, covariates, level=0.95) for name in found["measure"]
    ]
    assert_allclose(found["percent"], [one.percent.value for one in results])
    assert_allclose(found["q_paper"], adjust_family([one.p for one in results]))


def test_each_visit_is_a_family_of_its_own():
    found = table(cohort(), read_specs()["jenkins_table5"]).frame
    for visit in ("m4", "m12"):
        own = found[found["visit"] == visit]
        assert_allclose(own["q_paper"], adjust_family(own["p_paper"]))
    rise = found[found["measure"] == MUSCLES[0]]
    # truth 1 and 2; 0.5 sd of 29 differences: standard error 0.13
    assert_allclose(rise["change_best"], [1, 2], atol=0.5)


def test_missing_values_are_counted_and_a_rejected_text_is_named():
    own = cohort(6, 6)
    name = MUSCLES[1]
    own.frame.loc[0, name] = np.nan
    found = table(own, read_specs()["jenkins_table1"]).frame.set_index("measure")
    assert found.loc[name, "n_missing"] == 1
    frame = own.frame.astype({name: object})
    frame.loc[3, name] = "1,7"
    bad = Cohort(frame, "als", "hc", VISITS, MONTHS)
    with pytest.raises(
        DataError, match=r"splenius_capitis holds '1,7'; expected numbers with a decimal point"
    ):
        table(bad, read_specs()["jenkins_table1"])


def test_a_covariate_that_is_absent_is_said():
    own = cohort(6, 6)
    frame = own.frame.drop(columns="age")
    found = table(Cohort(frame, "als", "hc", VISITS, MONTHS), read_specs()["jenkins_table1"])
    assert found.notes == ("Not adjusted for age, which is not in the tables.",)


def test_tables_without_their_measures_are_none():
    own = cohort(4, 4)
    made = {name: table(own, spec) for name, spec in read_specs().items()}
    people = {"diamanti_table1", "diamanti_patients"}  # of age and sex
    found = {name for name, one in made.items() if one}
    assert found == {"jenkins_table1", "jenkins_table5", *people}


def test_two_and_two_participants_run():
    own = cohort(2, 2)
    frame = own.frame.rename(columns={MUSCLES[0]: "muscle.mercuri_region.left_hand"})
    found = table(Cohort(frame, "als", "hc", VISITS, MONTHS), read_specs()["diamanti_table2"])
    assert found.frame["p_best"].iloc[0] >= 1 / 3 - 1e-9
    assert "no p below 0.333" in found.frame["note"].iloc[0]


def test_a_user_s_table_is_added_and_takes_the_place_of_the_paper_s(tmp_path):
    own = {"title": "Mine", "source": "own", "kind": "ranks", "measures": ["muscle.*"]}
    path = tmp_path / "tables.json"
    path.write_text(json.dumps({"tables": {"mine": own, "jenkins_table1": own}}))
    specs = read_specs(path)
    assert specs["mine"].kind == specs["jenkins_table1"].kind == "ranks"
    assert table(cohort(5, 5), specs["mine"]) is not None


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ({"kind": "ranks"}, "lacks 'title'"),
        ({"title": "a", "source": "b", "kind": "anova", "measures": ["x"]}, "kind is 'anova'"),
        ({"title": "a", "source": "b", "kind": "ranks"}, "no measures and no pairs"),
        ({"title": "a", "source": "b", "kind": "ranks", "mesures": ["x"]}, "has 'mesures'"),
    ],
)
def test_faulty_declarations_are_named(tmp_path, entry, text):
    path = tmp_path / "tables.json"
    path.write_text(json.dumps({"tables": {"mine": entry}}))
    with pytest.raises(SettingsError, match=text):
        read_specs(path)


def test_readers_by_hand():
    frame = pd.DataFrame({"participant_id": [f"p{n}" for n in range(31)], "visit": "m0"})
    frame["group"] = ["als"] * 18 + ["hc"] * 13
    frame["reader1"] = [1.0] * 12 + [0.0] * 6 + [1.0] * 3 + [0.0] * 10
    frame["reader2"] = [1.0] * 9 + [0.0] * 22
    frame["umn_score"] = np.arange(31.0)
    own = Cohort(frame, "als", "hc", ("m0",), (0.0,))
    found = table(own, read_specs()["cosottini_readers"]).frame
    assert found.loc[found["of"] == "kappa", "value"].round(3).tolist() == [0.608]
    assert found.loc[found["of"] == "accuracy", "percent"].round().tolist() == [71, 71]
    read = table(own, read_specs()["cosottini_misread"]).frame
    assert read[["n_right", "n_wrong"]].values.tolist() == [[12, 6], [9, 9]]


def test_limbs_are_pooled_and_clustered():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"participant_id": [f"p{n}" for n in range(12)], "visit": "m0"})
    frame["group"] = "als"
    for side in ("left", "right"):
        for area, limb in (("hand", "arm"), ("lower_limb", "leg")):
            frame[f"umn_{side}_{limb}"] = rng.integers(0, 9, 12).astype(float)
            frame[f"cortex7t.deep_thickness.{side}_{area}"] = rng.normal(2, 0.3, 12)
    own = Cohort(frame, "als", "hc", ("m0",), (0.0,))
    one, other = (
        table(own, read_specs()[f"cosottini_limbs_thickness_{name}"]).frame.iloc[0]
        for name in ("ipsilateral", "contralateral")
    )
    assert (one["n"], one["n_participants"]) == (48, 12)
    assert one["rho"] != other["rho"]


def test_shares_count_findings_of_known_muscles():
    frame = pd.DataFrame({"participant_id": list("abcdef"), "visit": "m0"})
    frame["group"] = ["als"] * 3 + ["hc"] * 3
    frame["muscle.atrophy.a"] = [1.0, 1, 0, 0, 0, 0]
    frame["muscle.atrophy.b"] = [1.0, np.nan, 0, 0, 1, 0]
    own = Cohort(frame, "als", "hc", ("m0",), (0.0,))
    row = table(own, read_specs()["diamanti_atrophy"]).frame.iloc[0]
    assert (row["count_first"], row["n_first"], row["count_second"], row["n_second"]) == (
        3,
        5,
        1,
        6,
    )


def test_shares_of_participants_are_of_the_muscles_that_were_seen():
    frame = pd.DataFrame({"participant_id": list("abcdef"), "visit": "m0"})
    frame["group"] = ["als"] * 3 + ["hc"] * 3
    frame["muscle.atrophy.a"] = [1.0, 1, 1, 1, 0, 0]
    frame["muscle.atrophy.b"] = [np.nan, 1, 1, 0, 0, 0]
    own = Cohort(frame, "als", "hc", ("m0",), (0.0,))
    row = table(own, read_specs()["diamanti_atrophy"]).frame.iloc[0]
    # shares 1, 1, 1 and 0.5, 0, 0: of the 20 relabellings this and its reverse are the furthest
    assert_allclose(row["p_best"], 2 / 20)


def test_a_paper_without_families_decides_by_its_p():
    rng = np.random.default_rng(7)
    frame = pd.DataFrame({"participant_id": [f"s{k}" for k in range(40)], "visit": "m0"})
    frame["group"] = ["als"] * 20 + ["hc"] * 20
    for k in range(12):
        frame[f"m{k}"] = rng.normal(size=40)
    frame.loc[:19, "m0"] += 0.55
    own = Cohort(frame, "als", "hc", ("m0",), (0.0,))
    names = tuple(f"m{k}" for k in range(12))
    for family in ("none", "table"):
        spec = TableSpec("t", "T", "own", "ranks", measures=names, family=family)
        row = table(own, spec).frame.set_index("measure").loc["m0"]
        # found by itself, and not among twelve
        assert row["p_paper"] < 0.05 < row["q_best"]
        assert row["differs"] == (family == "none")


def test_order_of_participants_does_not_matter():
    own = cohort(8, 8)
    turned = Cohort(own.frame.iloc[::-1].reset_index(drop=True), "als", "hc", VISITS, MONTHS)
    one, other = (table(c, read_specs()["jenkins_table5"]).frame for c in (own, turned))
    assert_allclose(one["change_best"], other["change_best"], rtol=1e-6)
    assert_allclose(one["p_paper"], other["p_paper"], rtol=1e-4)  # to the optimiser's digits


@pytest.mark.slow
def test_500_participants_are_fast():
    # a sixth of 200 measures, and of a minute
    own = cohort(300, 200, len(MUSCLES), visits=VISITS[:2])
    start = time.process_time()
    for name in ("jenkins_table1", "jenkins_table5"):
        table(own, read_specs()[name])
    assert time.process_time() - start < 10


def test_families_have_the_papers_sizes():
    specs = read_specs()
    # Jenkins 2020: 34 muscles and their mean; with the two composites of onset; 26 axial muscles
    assert len(MUSCLES) == 34
    sizes = {name: len(specs[name].measures) for name in ("jenkins_table1", "jenkins_table5")}
    assert sizes == {"jenkins_table1": 35, "jenkins_table5": 37}
    assert len(specs["jenkins_table3"].pairs) == 14
    assert len(specs["jenkins_adc"].measures) == 26 + 1


def test_areas_are_those_of_delong_and_turn_falling_measures():
    frame = pd.DataFrame({"participant_id": [f"p{n}" for n in range(6)], "visit": "m0"})
    frame["group"] = ["als"] * 3 + ["hc"] * 3
    frame["m1_thickness_mm"] = [3, 4, 5, 1, 2, 4.5]
    frame["m1_signal"] = -frame["m1_thickness_mm"]
    own = Cohort(frame, "als", "hc", ("m0",), (0.0,))
    found = table(own, read_specs()["cosottini_areas"]).frame
    # 7 of 9 pairs in the right order
    assert_allclose(found["area"], [7 / 9, 7 / 9])
    assert found["of"].tolist() == ["rises in patients", "falls in patients"]


def test_areas_of_measures_that_nobody_has_both_of_are_not_compared():
    frame = pd.DataFrame({"participant_id": [f"s{k}" for k in range(8)], "visit": "m0"})
    frame["group"] = ["als", "hc"] * 4
    frame["m1_signal"] = [1.0, 2.0, 3.0, 1.5, np.nan, np.nan, np.nan, np.nan]
    frame["m1_thickness_mm"] = [np.nan, np.nan, np.nan, np.nan, 2.0, 3.0, 2.5, 3.5]
    spec = TableSpec("t", "T", "own", "areas", measures=("m1_*",))
    made = table(Cohort(frame, "als", "hc", ("m0",), (0.0,)), spec).frame
    assert made["area"].notna().all()
    assert "both measures" in made["note"].iloc[1]
