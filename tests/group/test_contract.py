"""Every setting of the group level has an effect; what is saved is what is declared."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from bids_alsmri.cli import models
from bids_alsmri.collection import find_finished
from bids_alsmri.comparisons.settings import GroupSettings
from bids_alsmri.comparisons.voxelwise import memory_gb
from bids_alsmri.engine.methods import cited_keys, references, render_methods
from bids_alsmri.engine.runner import new_workflow
from bids_alsmri.errors import AlsMriError, DataError, SettingsError
from bids_alsmri.group_graphs import (
    BRAIN_MM3,
    SKELETON_SHARE,
    build_graphs,
    fa_target,
    io_spec,
)
from bids_alsmri.group_planning import plan_comparisons
from bids_alsmri.group_summary import comparisons_path
from bids_alsmri.options import options_of
from bids_alsmri.settings import GROUP, RunSettings, make_run_settings

pytestmark = pytest.mark.slow

OPTIONS = options_of(GroupSettings)
# the others are tested in what a run does with them; other labels are merely allowed
ELSEWHERE = (
    *("compare", "exclude_flagged", "other_labels"),
    # tests/group/test_tables.py
    *("tables", "tables_file", "tables_permutations", "harmonise_sites", "site_column"),
)
NUMERIC = [option for option in OPTIONS if option.name not in ELSEWHERE]
# where another value is more than the next number or the other choice
OTHER = {
    "group_column": "diagnosis",
    "progression_column": "speed",
    "alsfrs_r_column": "score",
    "duration_column": "months",
    "patient_label": "mnd",
    "control_label": "control",
    "fast_label": "quick",
    "slow_label": "lasting",
    "other_labels": ("ftd",),
    "contrasts": ("fast-hc",),
    "covariates": ("age",),
    "quality_covariates": ("b0_snr",),
    "voxelwise_covariates": ("gm",),
    "describe": ("age:welch",),
    "analyses": ("vba",),
    "maps": ("rd",),
    "overlaps": ("fa+md+",),
    "combinations": ("fa-md+",),
    "visit": "change",
    "fa_target": Path("target.nii.gz"),
    "refinement_iterations": 1,
    "winsor_percentiles": (1.0, 99.0),
    "refinement_syn_iterations": (10, 10, 10),
    "refinement_syn_shrink_factors": (6, 4, 2),
    "refinement_syn_smoothing_mm": (6.0, 4.0, 2.0),
    "refinement_syn_total_smoothing": 1.0,
    "cluster_forming_t": 3.5,
    "permutations_per_job": 25,
    "time_column": "weeks",
    "tables_file": Path("own.json"),
    "site_column": "scanner",
}
# settings that only count beside another one
BESIDE = {
    "time_column": {"visit": "slope"},
    "progression_threshold_per_month": {"given_progression_counts": False},
    "alsfrs_r_column": {"given_progression_counts": False},
    "duration_column": {"given_progression_counts": False},
    "given_progression_counts": {"progression_threshold_per_month": 40.0},
    "progression_rule": {"given_progression_counts": False},
    "vba_fwhm_mm": {"analyses": ("vba",)},
    "volume_height_power": {"analyses": ("vba",)},
    "volume_extent_power": {"analyses": ("vba",)},
    "volume_connectivity": {"analyses": ("vba",)},
    "skeleton_sampling": {"maps": ("fa", "tsc")},
    "voxelwise_covariates": {"maps": ("fa", "tsc"), "analyses": ("vba",)},
    "combination_method": {"combinations": ("fa-md+",)},
    "model": {"contrasts": ("fast-hc", "slow-hc")},
}
# settings of the run that the participant level shares
OF_THE_RUN = {"atlas_dir": Path("atlases"), "atlas_threshold_percent": 50.0}
REFINED = {"refinement_iterations": 1, "refinement_resolution_mm": 4.0}


def other_value(option, tmp_path):
    if option.name == "exclusions":
        path = tmp_path / "out.tsv"
        path.write_text("participant_id\treason\nsub-09\tmoved\n")
        return path
    if option.name in OTHER:
        return OTHER[option.name]
    if option.kind is bool:
        return not option.default
    if option.choices:
        return next(choice for choice in option.choices if choice != option.default)
    moved = option.default + 1 if option.kind is int else option.default * 0.75
    high = option.high if option.high is not None else moved
    return option.kind(min(moved, high)) if moved >= (option.low or 0) else option.default * 1.5


class Built:
    """What a run with some settings would compute, as text."""

    def __init__(self, cohort, folder):
        self.cohort, self.folder = cohort, folder
        self.known = {}

    def settings(self, given):
        usual = {
            "resolution_mm": 4.0,
            "refinement_iterations": 0,
            "analyses": ("skeleton",),
            "maps": ("fa", "md"),
            "contrasts": ("als-hc",),
            "n_permutations": 60,
        }
        run = {"bids_dir": self.cohort.raw, "output_dir": self.cohort.out, "level": "group"}
        run["work_dir"] = self.folder
        run |= {name: value for name, value in given.items() if name in OF_THE_RUN}
        own = {name: value for name, value in given.items() if name not in OF_THE_RUN}
        values = {GROUP: {**usual, **own}}
        return make_run_settings(run, values, models())

    def __call__(self, given) -> str:
        key = str(sorted(given.items()))
        self.known[key] = self.known.get(key) or self.build(given)
        return self.known[key]

    def build(self, given) -> str:
        settings: RunSettings = self.settings(given)
        try:
            plan = plan_comparisons(settings, find_finished(settings, []), [])
            workflow = new_workflow(self.folder, self.folder, stop_on_first_crash=False)
            graphs = build_graphs(settings, plan, workflow)
        except AlsMriError as error:
            return str(error)
        tables = [plan.labels, plan.flow, plan.demographics.summary, plan.demographics.tests]
        parts = [pd.DataFrame(table).to_csv() for table in tables]
        for graph in graphs.all:
            for node in graph.nodes:
                inputs = node.inputs.trait_get()
                # sidecars list all settings, whatever their effect
                inputs = {k: v for k, v in inputs.items() if k not in ("sidecar", "sidecars")}
                parts.append(f"{node.name} {sorted(inputs.items(), key=str)}")
        return "\n".join(parts)


@pytest.fixture(scope="module")
def built(template_cohort, tmp_path_factory):
    return Built(template_cohort, tmp_path_factory.mktemp("built"))


def test_same_settings_give_the_same_steps(built):
    assert built.build({}) == built.build({})


@pytest.mark.parametrize("option", NUMERIC, ids=lambda option: option.name)
def test_setting_changes_what_is_computed(built, option, tmp_path):
    beside = dict(BESIDE.get(option.name, {}))
    if option.name.startswith(("refinement_", "winsor", "registration")):
        beside |= {k: v for k, v in REFINED.items() if k != option.name}
    if option.name == "fa_target":
        beside |= REFINED
    changed = {**beside, option.name: other_value(option, tmp_path)}
    assert built(changed) != built(beside)


@pytest.mark.parametrize("name", list(OF_THE_RUN))
def test_shared_setting_of_atlases_changes_what_is_computed(built, name):
    assert built({name: OF_THE_RUN[name]}) != built({})


def test_methods_text_resolves_for_every_setting(built, tmp_path):
    path = Path(str(comparisons_path[0])) / "methods.md"
    usual = built.settings({}).pipelines[GROUP]
    facts = {
        "version": "1",
        "template": "MNI152NLin2009aSym",
        "rule": "fast above 0.5",
        "covariates": "age",
        "has_tracts": True,
        "fa_target": False,
        "has_volumes": True,
        "volumes": "TSC",
        "has_sampled": True,
        "voxelwise": "TSC for GM",
        "has_combinations": True,
        "has_changes": True,
        "has_groups": True,
        "has_maps": True,
        "has_clinical": True,
    }
    texts = [
        render_methods(path, "comparisons", usual, {**facts, "fa_target": True, "covariates": ""})
    ]
    for option in OPTIONS:
        for value in option.choices or (other_value(option, tmp_path),):
            own = usual.model_copy(update={option.name: value})
            texts.append(render_methods(path, "comparisons", own, facts))
    for text in texts:
        assert "{" not in text
        assert "None" not in text
        assert " ," not in text
        assert " ." not in text
        assert set(cited_keys([text])) <= set(references())


def test_what_is_saved_is_what_the_spec_declares(built, tmp_path):
    wanted = {"correct_across": "maps", "combinations": ("fa-md+",), "maps": ("fa", "md", "tsc")}
    wanted["voxelwise_covariates"] = ("gm",)
    settings = built.settings({"cluster_forming_t": 3.5, **wanted})
    plan = plan_comparisons(settings, find_finished(settings, []), [])
    graphs = build_graphs(
        settings, plan, new_workflow(tmp_path, tmp_path, stop_on_first_crash=False)
    )
    saved = {name for graph in graphs.all for name in graph.destinations}
    spec = io_spec()
    assert saved == set(spec.outputs) | {f"figure_{name}" for name in spec.figures}
    paths = [path for graph in graphs.all for path in graph.destinations.values()]
    assert len(paths) == len(set(paths))


def graphs_of(built, folder, **given):
    settings = built.settings(given)
    plan = plan_comparisons(settings, find_finished(settings, []), [])
    return build_graphs(settings, plan, new_workflow(folder, folder, stop_on_first_crash=False))


def test_files_of_shared_and_adjusted_tests_have_names_of_their_own(
    built, template_cohort, tmp_path
):
    # one participant has no sodium, so that FA is compared twice
    other = Built(template_cohort.copied_to(tmp_path / "cohort"), tmp_path)
    next((other.cohort.out / "logs" / "scans").glob("sub-04_*sodium.json")).unlink()
    given = {"correct_across": "maps", "maps": ("fa", "md", "tsc"), "combinations": ("tsc+fa-",)}
    found = graphs_of(other, tmp_path, **given, voxelwise_covariates=("gm",))
    paths = [path for graph in found.all for path in graph.destinations.values()]
    assert len(paths) == len(set(paths))
    assert [test.variant.desc for test in found.tests] == [
        *("faSkeleton", "mdSkeleton", "tscVolume", "tscVolumeAdjustedGm"),
        *("tscSkeleton", "tscSkeletonAdjustedGm", "faSkeletonShared", "mdSkeletonShared"),
    ]
    titles = [one.title for one in (*found.overlaps, *found.combined)]
    assert "TSC ↑ and FA ↓, skeleton" in titles
    assert "TSC adjusted for GM ↑ and FA ↓, skeleton" in titles
    assert titles[-2:] == ["TSC ↑, FA ↓", "TSC adjusted for GM ↑, FA ↓"]


def test_adjusted_test_says_what_went_into_it(built, tmp_path):
    found = graphs_of(built, tmp_path, maps=("tsc",), voxelwise_covariates=("gm",))
    plain, adjusted = found.tests
    assert [len(test.graph.scan.inputs["maps"]) for test in found.tests] == [9, 18]
    (last,) = (node for node in adjusted.graph.nodes if node.name.endswith("conclude"))
    assert last.inputs.covariate_names == ["gm"]
    assert last._mem_gb > max(node._mem_gb for node in plain.graph.nodes if "permute" in node.name)


def test_covariate_as_smooth_as_its_map_is_needed(built, tmp_path):
    given = {"maps": ("fa", "tsc"), "skeleton_sampling": "unsmoothed"}
    with pytest.raises(
        SettingsError, match=r"gm is only saved smoothed, but .*; give smoothed, or"
    ):
        graphs_of(built, tmp_path, **given, voxelwise_covariates=("gm",))


def test_covariates_that_leave_no_freedom_are_refused_before_anything_runs(built, tmp_path):
    given = {"maps": ("tsc",), "contrasts": ("fast-slow",), "voxelwise_covariates": ("gm",)}
    given |= {"covariates": ("age", "alsfrs_r", "disease_duration_months")}
    with pytest.raises(DataError, match="6 participants leave 1 degrees of freedom, of which 1 go"):
        graphs_of(built, tmp_path, **given)


def test_cohort_of_53_at_1_mm_fits_into_a_small_computer():
    # 29 patients and 24 controls: the paper's
    assert memory_gb(53, int(SKELETON_SHARE * BRAIN_MM3)) < 1.0
    assert memory_gb(53, int(BRAIN_MM3)) < 8.0


def test_agreement_is_told_where_a_map_is_compared_in_both_ways(built, tmp_path):
    settings = built.settings({"analyses": ("skeleton", "vba"), "overlaps": ()})
    plan = plan_comparisons(settings, find_finished(settings, []), [])
    workflow = new_workflow(tmp_path, tmp_path, stop_on_first_crash=False)
    found = build_graphs(settings, plan, workflow).overlaps
    pairs = [(one.first.stack.name, one.second.stack.name) for one in found]
    assert pairs == [("fa skeleton", "fa vba"), ("md skeleton", "md vba")]


@pytest.mark.parametrize(("mode", "is_taken"), [("paper", True), ("best", False)])
def test_fsls_target_is_taken_in_paper_mode_where_there_is_one(built, tmp_path, mode, is_taken):
    path = tmp_path / "data" / "standard" / "FMRIB58_FA_1mm.nii.gz"
    settings = built.settings({}).model_copy(update={"mode": mode})
    environment = {"FSLDIR": str(tmp_path)}
    assert fa_target(settings, environment) is None
    path.parent.mkdir(parents=True)
    path.touch()
    assert fa_target(settings, environment) == (path if is_taken else None)
    assert fa_target(settings, {}) is None
