"""Who is compared with whom, and what is refused before anything is computed."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest

from bids_alsmri.collection import find_finished
from bids_alsmri.errors import AlsMriError, DataError, ExitCode, SettingsError
from bids_alsmri.group_planning import plan_comparisons
from bids_alsmri.group_summary import write_tables

pytestmark = pytest.mark.slow


def groups_of(plan, contrast):
    own = plan.flow[(plan.flow["contrast"] == contrast) & plan.flow["is_included"]]
    return own.groupby("group")["participant_id"].apply(sorted).to_dict()


def test_the_papers_four_contrasts_are_those_of_the_labels(cohort, planned):
    plan = planned(cohort)
    people = pd.read_csv(cohort.raw / "participants.tsv", sep="\t")
    of = {
        label: sorted(
            people.loc[
                (people["group"] == label) | (people["progression"] == label), "participant_id"
            ]
        )
        for label in ("als", "hc", "fast", "slow")
    }
    assert [c.name for c in plan.contrasts] == ["als-hc", "fast-hc", "slow-hc", "fast-slow"]
    for contrast in plan.contrasts:
        assert groups_of(plan, contrast.name) == {
            g: of[g] for g in (contrast.first, contrast.second)
        }


def test_contrasts_are_those_that_were_asked_for(cohort, planned):
    plan = planned(cohort, "--group-contrasts", "hc-als")
    assert [comparison.name for comparison in plan.comparisons] == ["diffusion hc-als"]


def test_progression_by_the_rule_needs_no_column(cohort, planned):
    cohort.edit(lambda text: re.sub(r"\t(fast|slow)\t", "\tn/a\t", text))
    plan = planned(cohort)
    labels = plan.labels[plan.labels["group"] == "als"]
    assert set(labels["origin"]) == {"derived"}
    rate = (48 - labels["alsfrs_r"]) / labels["duration_months"]
    assert (labels["progression"] == np.where(rate > 0.5, "fast", "slow")).all()


def test_median_split_may_win_over_given_labels(cohort, planned):
    flags = ("--group-progression-rule", "median", "--no-group-given-progression-counts")
    labels = planned(cohort, *flags).labels
    patients = labels[labels["group"] == "als"]
    middle = patients["rate_per_month"].median()
    is_fast = patients["progression"] == "fast"
    assert (is_fast == (patients["rate_per_month"] > middle)).all()


def test_excluded_scan_is_out_with_its_reason(cohort, planned, tmp_path):
    path = tmp_path / "out.tsv"
    path.write_text("participant_id\tsession_id\tmodality\treason\nsub-01\tn/a\tdiffusion\tmoved\n")
    flags = ("--exclusions", str(path), "--group-contrasts", "fast-slow")
    plan = planned(cohort, *flags)
    flow = planned(cohort, "--group-contrasts", "als-hc").flow
    assert flow["is_included"].all()
    assert groups_of(plan, "fast-slow")
    with pytest.raises(
        DataError, match=r"diffusion, als-hc: 2 in 'hc' \(3 of that group: .* 1 exc"
    ):
        planned(cohort, "--exclusions", str(path), "--group-contrasts", "als-hc")


def test_label_of_quality_in_scans_tsv_excludes_a_scan(cohort, planned):
    image = next((cohort.raw / "sub-09").rglob("*_dwi.nii.gz"))
    table = cohort.raw / "sub-09" / "sub-09_scans.tsv"
    name = image.relative_to(table.parent).as_posix()
    table.write_text(f"filename\tqc\n{name}\tfail\n")
    flow = planned(cohort, "--group-contrasts", "als-hc").flow
    row = flow[flow["participant_id"] == "sub-09"].iloc[0]
    assert not row["is_included"]
    assert row["reason"] == "excluded"
    assert row["detail"].startswith("qc: fail (")


def make_restless(cohort, who="sub-09"):
    path = next((cohort.out / who).rglob("*dwi*/*desc-quality_stats.tsv"))
    table = pd.read_csv(path, sep="\t")
    table.loc[table["measure"] == "mean_framewise_displacement", "value"] = 2.5
    table.to_csv(path, sep="\t", index=False, na_rep="n/a")


def test_restless_scan_is_named_and_takes_part_unless_it_is_to_be_left_out(cohort, planned):
    make_restless(cohort)
    flags = ("--group-contrasts", "als-hc")
    plan = planned(cohort, *flags)
    assert plan.flow["is_included"].all()
    text = "mean_framewise_displacement 2.5 mm, above 1"
    assert any("sub-09_dir-AP" in warning and text in warning for warning in plan.warnings)
    flow = planned(cohort, *flags, "--exclude-flagged").flow
    row = flow[flow["participant_id"] == "sub-09"].iloc[0]
    assert (row["reason"], text in row["detail"]) == ("excluded", True)
    assert flow["is_included"].sum() == 8


def test_scan_without_results_is_told_from_one_that_was_never_made(cohort, planned):
    # the first lost its record, the second has no images either
    for who in ("sub-08", "sub-09"):
        for path in (cohort.out / "logs" / "scans").glob(f"{who}_*diffusion.json"):
            path.unlink()
    shutil.rmtree(cohort.raw / "sub-09" / "dwi")
    flow = planned(cohort, "--group-contrasts", "als-hc").flow.set_index("participant_id")
    assert flow.loc["sub-08", "reason"] == "failed"
    assert flow.loc["sub-09", "reason"] == "no scan"


def test_covariates_become_columns_of_the_model(cohort, planned):
    flags = (
        "--group-contrasts",
        "als-hc",
        "--group-covariates",
        "age",
        "--group-quality-covariates",
    )
    plan = planned(cohort, *flags, "b0_snr")
    (comparison,) = plan.comparisons
    assert list(comparison.covariates) == ["age", "b0_snr"]
    people = pd.read_csv(cohort.raw / "participants.tsv", sep="\t").set_index("participant_id")
    who = comparison.included["participant_id"]
    assert list(comparison.covariates["age"]) == list(people.loc[who, "age"])
    quality = plan.quality[plan.quality["measure"] == "b0_snr"].set_index("participant_id")
    assert list(comparison.covariates["b0_snr"]) == list(quality.loc[who, "value"])


WITH_GM = ("--group-contrasts", "als-hc", "--group-maps", "tsc", "--group-voxelwise-covariates")


def test_unknown_covariate_of_voxels_is_a_wrong_call(cohort, capsys):
    assert cohort.run(*WITH_GM, "gmm") == ExitCode.USAGE
    assert "'gmm' is no map that those of diffusion, sodium" in capsys.readouterr().err
    assert not (cohort.out / "group.html").exists()


@pytest.mark.parametrize("lost", ["record", "file"])
def test_scan_without_the_map_that_others_are_adjusted_for_is_out(cohort, planned, lost):
    (path,) = (cohort.out / "logs" / "scans").glob("sub-05_*sodium.json")
    content = json.loads(path.read_text())
    if lost == "record":
        del content["outputs"]["template_gm"]
        path.write_text(json.dumps(content))
    else:
        (cohort.out / content["outputs"]["template_gm"]).unlink()
    flow = planned(cohort, *WITH_GM, "gm").flow.set_index(["modality", "participant_id"])
    row = flow.loc[("sodium", "sub-05")]
    assert (row["is_included"], row["reason"]) == (False, "missing covariate")
    assert row["detail"] == "no map of gm; run the participant level again"
    # sodium of others, and diffusion, go without it
    assert flow["is_included"].sum() == 17
    assert planned(cohort, *WITH_GM[:-1]).flow["is_included"].all()


def test_scan_that_was_mapped_in_its_own_space_alone_is_out_with_the_reason(cohort, planned):
    (path,) = (cohort.out / "logs" / "scans").glob("sub-05_*sodium.json")
    content = json.loads(path.read_text())
    kept = {name: at for name, at in content["outputs"].items() if "template" not in name}
    assert 0 < len(kept) < len(content["outputs"])
    path.write_text(json.dumps({**content, "outputs": kept}))
    flow = planned(cohort, *WITH_GM[:-1]).flow.set_index(["modality", "participant_id"])
    row = flow.loc[("sodium", "sub-05")]
    assert (row["is_included"], row["reason"]) == (False, "failed")
    assert "no map in the template's space, as happens without a T1w" in row["detail"]
    assert flow.loc["sodium", "is_included"].sum() == len(flow.loc["sodium"]) - 1


def test_difference_in_motion_between_groups_is_warned_of(cohort, planned):
    for number in range(4, 10):
        make_restless(cohort, f"sub-0{number}")
    plan = planned(cohort, "--group-contrasts", "als-hc")
    assert any(
        "mean_framewise_displacement differs between the groups" in warning
        and "--group-quality-covariates mean_framewise_displacement" in warning
        for warning in plan.warnings
    )


@pytest.mark.parametrize(
    ("flags", "kind", "words"),
    [
        (("--group-contrasts", "als-healthy"), SettingsError, "'als-healthy' is no contrast"),
        (("--group-covariates", "agee"), DataError, "no column agee .* did you mean age?"),
        (("--group-covariates", "handedness"), DataError, "handedness is 'right' for all"),
        (("--group-quality-covariates", "snr"), SettingsError, "'snr' is no measure of diffusion"),
        (
            ("--group-voxelwise-covariates", "gm"),
            SettingsError,
            "'gm' is no map that those of diffusion .* expected gm for maps of sodium; .* compare",
        ),
        (("--group-describe", "age"), SettingsError, "'age' names no test; expected COLUMN:TEST"),
        (("--group-patient-label", "hc"), SettingsError, "'hc' names more than one group"),
        (("--group-control-label", "control"), DataError, "group is 'hc' for sub-0"),
        (("--exclusions", "/none.tsv"), SettingsError, "/none.tsv: not found"),
    ],
)
def test_wrong_call_is_refused_with_a_remedy(cohort, planned, flags, kind, words):
    if "handedness" in flags:
        cohort.edit(lambda text: text.replace("\tleft\t", "\tright\t"))
    with pytest.raises(kind, match=words):
        planned(cohort, *flags)


def test_further_label_is_allowed_by_name_alone(cohort, planned):
    cohort.edit(
        lambda text: text + text.splitlines()[1].replace("sub-01\thc", "sub-10\tftd") + "\n"
    )
    with pytest.raises(DataError, match="group is 'ftd' for sub-10; expected 'als' or 'hc'"):
        planned(cohort)
    flow = planned(cohort, "--group-other-labels", "ftd").flow
    assert "sub-10" not in set(flow["participant_id"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.replace("\nsub-02\t", "\nsub-01\t"), "sub-01"),
        (
            lambda t: re.sub(r"\n(sub-01\t)hc\t", r"\n\1healthy\t", t),
            "group is 'healthy' for sub-01",
        ),
        (lambda t: re.sub(r"\thc\t", "\tals\t", t), "too few participants|nobody has that label"),
        (lambda t: re.sub(r"\t[\d.]+(\s*)$", r"\t50\1", t, count=1), "expected 0 to 48 points"),
    ],
)
def test_faulty_table_is_refused_by_value(cohort, planned, change, words):
    cohort.edit(change)
    with pytest.raises(DataError, match=words):
        planned(cohort)


def test_dataset_without_participants_tsv_says_what_is_needed(cohort, capsys):
    (cohort.raw / "participants.tsv").unlink()
    assert cohort.run() == ExitCode.NO_INPUT
    assert "participants.tsv: not found; the group level needs" in capsys.readouterr().err


def test_derivatives_alone_do_with_a_participants_tsv_beside_them(cohort, planned):
    shutil.copy(cohort.raw / "participants.tsv", cohort.out / "participants.tsv")
    shutil.rmtree(cohort.raw)
    cohort.raw.mkdir()
    plan = planned(cohort, "--group-contrasts", "als-hc")
    assert plan.flow["is_included"].sum() == 9


def test_plan_names_groups_and_writes_nothing(cohort, capsys):
    before = sorted(cohort.root.rglob("*"))
    assert cohort.run("--plan") == 0
    assert "diffusion, fast-hc: 3 of 3 in 'fast'" in capsys.readouterr().out
    assert sorted(cohort.root.rglob("*")) == before


@pytest.mark.data
def test_mirrored_atlas_is_refused_before_anything_is_computed(cohort, test_data, tmp_path, capsys):
    folder = tmp_path / "atlases"
    (folder / "JHU").mkdir(parents=True)
    good = test_data / "atlases" / "fsl_style"
    shutil.copyfile(good / "JHU-labels.xml", folder / "JHU-labels.xml")
    shutil.copyfile(
        test_data / "atlases" / "JHU-WhiteMatter-labels-1mm.nii.gz",
        folder / "JHU" / "JHU-ICBM-labels-1mm.nii.gz",
    )
    assert cohort.run("--atlas-dir", str(folder)) == ExitCode.BAD_DATA
    assert "right" in capsys.readouterr().err
    assert not (cohort.out / "group.html").exists()


def test_run_without_any_scan_of_maps_says_so(cohort):
    shutil.rmtree(cohort.out / "logs" / "scans")
    settings = cohort.settings("--no-group-tables")
    with pytest.raises(AlsMriError, match="no finished scan with maps"):
        plan_comparisons(settings, {}, [])


def test_sidecar_of_the_labels_tells_the_rule(cohort):
    settings = cohort.settings("--group-progression-threshold-per-month", "0.47")
    write_tables(settings, plan_comparisons(settings, find_finished(settings, []), []))
    table = pd.read_csv(cohort.out / "group" / "desc-labels_stats.tsv", sep="\t")
    assert set(table["threshold_per_month"]) == {0.47}
    sidecar = json.loads((cohort.out / "group" / "desc-labels_stats.json").read_text())
    assert sidecar["Settings"]["progression_threshold_per_month"] == 0.47
    assert set(table) <= set(sidecar)


def test_change_of_one_group_needs_maps_that_are_changes(cohort, planned):
    with pytest.raises(SettingsError, match="give --group-visit change or slope with it"):
        planned(cohort, "--group-contrasts", "als-0")


def test_change_of_a_group_too_small_for_signs_is_refused(cohort, planned):
    # of three participants signs have 8 ways, so that no p falls below 0.05
    with pytest.raises(DataError, match="expected at least 5 in each group"):
        planned(cohort, "--group-visit", "change", "--group-contrasts", "fast-0")


def test_correction_across_contrasts_needs_one_model(cohort, planned):
    with pytest.raises(SettingsError, match="give --group-model all_groups with it"):
        planned(cohort, "--group-correct-across", "contrasts")


def test_welchs_statistic_under_permutations_is_warned_of(cohort, planned):
    words = "holds its level only in large groups"
    flags = ("--group-variance", "unequal")
    assert [w for w in planned(cohort, *flags).warnings if words in w]
    flips = planned(cohort, *flags, "--group-relabelling", "sign_flips").warnings
    assert not [w for w in flips if words in w]
