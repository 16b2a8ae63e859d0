"""Clinical tables of a whole run: what stands in the folder and on the page."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from bids_alsmri.collection import find_finished
from bids_alsmri.group_planning import plan_comparisons
from bids_alsmri.group_tables import clinical_sections, make_clinical, write_clinical

TABLE = {
    "title": "Age of the groups",
    "source": "own",
    "kind": "difference",
    "measures": ["age"],
}


def _made(cohort, *flags):
    settings = cohort.settings("--group-contrasts", "als-hc", *flags)
    finished = find_finished(settings, [])
    plan = plan_comparisons(settings, finished, [])
    return settings, make_clinical(settings, plan, finished)


def test_tables_of_what_is_there_are_written_three_times(cohort):
    settings, made = _made(cohort)
    names = {path.name for path in write_clinical(settings, made)}
    # the cohort of maps has clinical columns and no tables of regions
    assert made.tables[0].spec.name == "elmendili_clinical"
    for ending in (".tsv", ".html", ".tex"):
        assert f"desc-elmendiliClinical_stats{ending}" in names
    table = pd.read_csv(cohort.out / "group" / "desc-elmendiliClinical_stats.tsv", sep="\t")
    assert set(table["measure"]) == {"disease_duration_months", "rate_per_month", "alsfrs_r"}
    sidecar = json.loads(
        (cohort.out / "group" / "desc-elmendiliClinical_stats.json").read_text("utf-8")
    )
    assert set(table) <= set(sidecar)
    sections = list(clinical_sections(settings, made))
    assert all(path.is_file() for one in sections for f in one.figures for path in f.paths)


def test_a_rejected_value_is_named_and_counts_as_missing(cohort):
    path = cohort.raw / "participants.tsv"
    people = pd.read_csv(path, sep="\t", keep_default_na=False, dtype=str)
    patient = people.index[people["group"] == "als"][0]
    people["umn_score"] = "n/a"
    people.loc[patient, "umn_score"] = "35"
    people.to_csv(path, sep="\t", index=False)
    _, made = _made(cohort)
    row = made.checked.rejected.iloc[0]
    assert row["participant_id"] == people.loc[patient, "participant_id"]
    assert row["value"] == "35"
    assert made.cohort.frame["umn_score"].isna().all()


def test_a_user_s_table_takes_part_and_permutations_count(cohort, tmp_path):
    path = tmp_path / "tables.json"
    path.write_text(json.dumps({"tables": {"mine": TABLE}}))
    found = []
    for n in ("20", "50"):
        _, made = _made(cohort, "--group-tables-file", str(path), "--group-tables-permutations", n)
        own = next(one for one in made.tables if one.spec.name == "mine")
        found.append(float(own.frame["p_best"].iloc[0]) * int(n))
    # p is a count over the number of permutations
    assert found == pytest.approx([round(count) for count in found], abs=1e-9)


def test_harmonisation_that_cannot_be_is_said(cohort):
    _, made = _made(cohort, "--group-harmonise-sites", "--group-site-column", "scanner")
    assert any("not harmonised" in text and "scanner" in text for text in made.warnings)
