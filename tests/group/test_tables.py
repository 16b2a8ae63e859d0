"""Clinical tables of a whole run, without maps: what stands in the folder and on the page."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from bids_alsmri.cli import main, parse
from bids_alsmri.collection import find_finished
from bids_alsmri.engine.records import Identity, Record, write_record
from bids_alsmri.errors import DataError, ExitCode
from bids_alsmri.group_planning import plan_comparisons
from bids_alsmri.group_tables import make_clinical, write_clinical
from bids_alsmri.phantom.__main__ import main as phantom

TABLE = {
    "title": "Age of the groups",
    "source": "own",
    "kind": "difference",
    "measures": ["age"],
}
FAST = ("--group-tables-permutations", "20")


class Clinic:
    """Clinical tables of 8 controls and 12 patients, without images."""

    def __init__(self, root: Path, *words: str) -> None:
        self.raw, self.out, self.root = root / "raw", root / "out", root
        people = ["--controls", "8", "--fast", "6", "--slow", "6", "--seed", "3"]
        assert phantom([str(self.raw), "--clinical-only", *people, *words]) == 0

    def words(self, *flags: str) -> list[str]:
        own = [str(self.raw), str(self.out), "group", "-w", str(self.root / "work")]
        return [*own, *FAST, *flags]

    def made(self, *flags: str):
        settings = parse(self.words(*flags))
        finished = find_finished(settings, [])
        return settings, make_clinical(settings, plan_comparisons(settings, finished, []), finished)

    def finish(
        self, participant: str, rows: list[tuple[str, str, float]], snr: float = 60.0
    ) -> None:
        """Table of regions of a finished scan, and its record."""
        name = f"{participant}_acq-sodium"
        table = Path(participant, "anat", f"{name}_desc-tissues_stats.tsv")
        quality = Path(participant, "anat", f"{name}_desc-quality_stats.tsv")
        (self.out / table).parent.mkdir(parents=True, exist_ok=True)
        columns = ["region", "measure", "value"]
        frame = pd.DataFrame(rows, columns=columns).assign(unit="mmol/l")
        frame.to_csv(self.out / table, sep="\t", index=False)
        measures = {"measure": "tube_snr", "value": [snr], "unit": "1", "low": 20, "high": "n/a"}
        pd.DataFrame(measures).to_csv(self.out / quality, sep="\t", index=False)
        record = Record(
            Identity("0", {}, {}, {}, {}), {"tissue_stats": str(table), "quality": str(quality)}
        )
        write_record(self.out / "logs" / "scans" / f"{name}_sodium.json", record)

    def forget(self, participant: str) -> None:
        for record in (self.out / "logs" / "scans").glob(f"{participant}_*.json"):
            record.unlink()


@pytest.fixture
def clinic(tmp_path: Path) -> Clinic:
    return Clinic(tmp_path)


def test_tables_of_a_cohort_without_images_are_written_three_times(clinic):
    settings, made = clinic.made()
    names = {path.name for path in write_clinical(settings, made)}
    found = {one.spec.name for one in made.tables}
    assert {"elmendili_clinical", "cosottini_readers", "jenkins_table2"} <= found
    for ending in (".tsv", ".html", ".tex"):
        assert f"desc-elmendiliClinical_stats{ending}" in names
    table = pd.read_csv(clinic.out / "group" / "desc-elmendiliClinical_stats.tsv", sep="\t")
    assert set(table["measure"]) == {"disease_duration_months", "rate_per_month", "alsfrs_r"}
    sidecar = json.loads(
        (clinic.out / "group" / "desc-elmendiliClinical_stats.json").read_text("utf-8")
    )
    assert set(table) <= set(sidecar)


def test_a_run_without_images_ends_with_its_page(tmp_path):
    clinic = Clinic(tmp_path, "--sessions", "m00", "m04", "m12")
    assert main(clinic.words()) == ExitCode.DONE
    page = (clinic.out / "group.html").read_text("utf-8")
    assert "Change of clinical and electrophysiological measures" in page
    assert "No maps are compared." in page
    # what is told of permutations of maps has no place here
    assert "Each comparison had a linear model" not in page
    table = pd.read_csv(clinic.out / "group" / "desc-jenkinsTable4_stats.tsv", sep="\t")
    rows = table[table["measure"] == "alsfrs_r"].set_index("visit")
    # the simulated attrition: patients leave, and the scale falls
    assert rows.loc["ses-m12", "n"] < rows.loc["ses-m04", "n"] <= 12
    assert rows.loc["ses-m12", "change_best"] < 0
    drawn = {path.name for path in (clinic.out / "group" / "figures").glob("*.svg")}
    kinds = ("visits", "jenkinsTable4Courses", "jenkinsTable2Forest", "elmendiliClinicalClouds")
    assert {f"desc-{kind}_stats.svg" for kind in kinds} <= drawn
    ranked = pd.read_csv(clinic.out / "group" / "desc-responsiveness_stats.tsv", sep="\t")
    assert ranked["srm"].abs().is_monotonic_decreasing
    own = ranked.set_index("measure").loc["alsfrs_r"]
    assert own["srm"] == rows.loc["ses-m12", "srm"]


def test_a_plan_without_images_tells_the_groups_and_writes_nothing(clinic, capsys):
    assert main(clinic.words("--plan")) == ExitCode.DONE
    assert "clinical tables alone" in capsys.readouterr().out
    assert not clinic.out.exists()


def test_tables_of_regions_alone_get_their_tables_and_page(clinic):
    people = pd.read_csv(clinic.raw / "participants.tsv", sep="\t")
    for number, who in enumerate(people["participant_id"]):
        clinic.finish(who, [("wm", "tsc_mean", 40.0 + number)], snr=5.0 if number == 3 else 60.0)
    path = clinic.root / "exclusions.tsv"
    last = people["participant_id"].iloc[-1]
    path.write_text(f"participant_id\treason\n{last}\tmoved\n")
    _, made = clinic.made("--exclusions", str(path))
    own = next(one for one in made.tables if one.spec.name == "elmendili_tsc").frame.iloc[0]
    # an excluded scan counts as missing, and is named
    assert (own["n_first"], own["n_second"], own["n_missing"]) == (11, 8, 1)
    assert any(last in text and "moved" in text for text in made.warnings)
    (flagged,) = [text for text in made.warnings if "takes part with tube_snr 5" in text]
    assert people["participant_id"].iloc[3] in flagged
    # the page of somebody who took part in an earlier run
    earlier = clinic.out / "group" / "profiles" / f"{last}.html"
    earlier.parent.mkdir(parents=True)
    earlier.touch()
    assert main(clinic.words("--exclusions", str(path))) == ExitCode.DONE
    # everybody who takes part has a row and a page, controls too, and the row leads to it
    rows = pd.read_csv(clinic.out / "group" / "desc-participants_stats.tsv", sep="\t")
    taken = rows.loc[rows["n_scores"] > 0, "participant_id"].tolist()
    assert taken == people["participant_id"].tolist()[:-1]
    text = (clinic.out / "group.html").read_text("utf-8")
    pages = {path.stem for path in (clinic.out / "group" / "profiles").iterdir()}
    assert pages == set(taken)
    for who in taken:
        assert f'href="./group/profiles/{who}.html"' in text
        assert "white matter, TSC" in (clinic.out / f"group/profiles/{who}.html").read_text("utf-8")
    # the quality of scans that no comparison of maps has; those out of range are told
    assert "Quality of sodium scans" in (clinic.out / "group.html").read_text("utf-8")


def test_too_few_controls_for_a_norm_are_named(clinic):
    people = pd.read_csv(clinic.raw / "participants.tsv", sep="\t")
    controls = people.loc[people["group"] == "hc", "participant_id"].tolist()
    patients = people.loc[people["group"] == "als", "participant_id"].tolist()
    # intercept, age and sex leave 3 degrees of freedom to 6 controls and 2 to 5
    for n_controls, is_enough in ((6, True), (5, False)):
        for number, who in enumerate([*controls[:n_controls], *patients]):
            clinic.finish(who, [("wm", "tsc_mean", 40.0 + number % 7)])
        for who in controls[n_controls:]:
            clinic.forget(who)
        _, made = clinic.made()
        assert made.profiles["z"].notna().any() == is_enough
        told = [text for text in made.warnings if "not set against the controls" in text]
        assert bool(told) != is_enough
    assert "at most 5 have a measure, and 6 are needed to adjust for age and sex" in told[0]


def test_maps_that_were_asked_for_are_still_missed(clinic):
    settings = parse(clinic.words("--group-maps", "fa"))
    with pytest.raises(DataError, match="no finished scan with maps"):
        plan_comparisons(settings, {}, [])


def test_a_rejected_value_is_named_and_counts_as_missing(clinic):
    path = clinic.raw / "participants.tsv"
    people = pd.read_csv(path, sep="\t", keep_default_na=False, dtype=str)
    patient = people.index[people["group"] == "als"][0]
    people["nfl"] = "n/a"
    people.loc[patient, "nfl"] = "-35"
    people.to_csv(path, sep="\t", index=False)
    _, made = clinic.made()
    row = made.checked.rejected.set_index("column").loc["nfl"]
    assert row["participant_id"] == people.loc[patient, "participant_id"]
    assert row["value"] == "-35"
    assert made.cohort.frame["nfl"].isna().all()


def test_a_user_s_table_takes_part_and_permutations_count(clinic):
    path = clinic.root / "tables.json"
    path.write_text(json.dumps({"tables": {"mine": TABLE}}))
    _, made = clinic.made("--group-tables-file", str(path))
    own = next(one for one in made.tables if one.spec.name == "mine")
    # p is a count over the number of permutations
    count = float(own.frame["p_best"].iloc[0]) * 20
    assert count == pytest.approx(round(count), abs=1e-9)


def test_harmonisation_that_cannot_be_is_said(clinic):
    _, made = clinic.made("--group-harmonise-sites", "--group-site-column", "scanner")
    assert any("not harmonised" in text and "scanner" in text for text in made.warnings)


def test_permutations_stay_within_a_site_of_any_name(clinic):
    path = clinic.raw / "participants.tsv"
    people = pd.read_csv(path, sep="\t", keep_default_na=False, dtype=str)
    # each scanner has one group alone, so that no exchange within it is possible
    people["scanner"] = people["group"]
    people.to_csv(path, sep="\t", index=False)
    tables = clinic.root / "tables.json"
    tables.write_text(json.dumps({"tables": {"mine": TABLE}}))
    words = ("--group-tables-file", str(tables))
    for given, is_known in (((), True), (("--group-site-column", "scanner"), False)):
        _, made = clinic.made(*words, *given)
        own = next(one for one in made.tables if one.spec.name == "mine").frame.iloc[0]
        assert pd.notna(own["p_best"]) == is_known
