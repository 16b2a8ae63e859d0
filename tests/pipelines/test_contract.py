"""What every pipeline of the registry must keep, whatever its modality."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bids_alsmri.bids.spec import output_name
from bids_alsmri.engine.graph import Graph
from bids_alsmri.engine.methods import methods_text, references
from bids_alsmri.engine.pipeline import registry
from bids_alsmri.engine.records import Record
from bids_alsmri.errors import DataError
from bids_alsmri.interfaces.outputs import SaveDerivative
from bids_alsmri.options import Option, options_of
from bids_alsmri.planning import make_plan
from bids_alsmri.settings import RunSettings

PROJECT = Path(__file__).resolve().parents[2]
OPTIONS = [
    (name, option)
    for name, pipeline in registry().items()
    for option in options_of(pipeline.settings)
]
IDS = [f"{name}-{option.name}" for name, option in OPTIONS]
FACTS = {
    "template": "MNI152NLin2009aSym",
    "version": "0",
    "mode": "best",
    "has_anatomy": True,
    "atlases": ["Motor areas"],
}

each_option = pytest.mark.parametrize(("pipeline", "option"), OPTIONS, ids=IDS)
each_pipeline = pytest.mark.parametrize("name", list(registry()))


# ---- settings


@each_option
def test_setting_has_help_unit_and_source(pipeline, option):
    assert re.fullmatch(r"[A-Z].{10,}\.", option.help), option.help
    if option.kind in (int, float):
        assert option.unit, "give a unit, '1' for pure numbers"
    assert option.source
    if option.has_paper_value:
        assert option.paper_source


@each_option
def test_source_of_a_setting_can_be_found(pipeline, option):
    for source in filter(None, (option.source, option.paper_source)):
        if re.fullmatch(r"[a-z]+\d{4}[a-z]?", source):
            assert source in references()
        elif source.endswith(".py"):
            assert (PROJECT / source).is_file()
        else:
            assert " " in source  # a reason in words


def other_number(value: float, option: Option) -> float:
    if option.kind is int:
        return value + 1 if option.high is None or value + 1 <= option.high else value - 1
    larger = 1.1 * value + 0.01
    return larger if option.high is None or larger <= option.high else 0.9 * value


def other_value(option: Option) -> object:
    """A value that is allowed and is not the default."""
    if option.kind is bool:
        return not option.default
    if option.choices:
        return next(choice for choice in option.choices if choice != option.default)
    if option.kind is Path:
        return Path("other.tsv")
    if option.kind is str and option.is_list:
        return ("femur",)
    assert option.kind in (int, float), "say here what other value this kind can take"
    if option.is_list and not option.default:
        return (option.kind(1),)
    if option.is_list:
        return tuple(other_number(value, option) for value in option.default)
    return other_number(option.default, option)


def given_inputs(graph: Graph) -> dict[str, object]:
    """What the steps of a graph are given when it is built, but for names and sidecars."""
    return {
        node.name: repr(sorted(node.inputs.get().items()))
        for node in graph.nodes
        if not isinstance(node.interface, SaveDerivative)
    }


def all_inputs(graphs: dict[tuple[str, str], Graph]) -> dict[str, object]:
    return {node: text for graph in graphs.values() for node, text in given_inputs(graph).items()}


class Default:
    """Plan and graphs of the cohort with the default settings."""

    def __init__(self, raw, out, run_settings, built):
        self.raw, self.out = raw, out
        self.settings = run_settings(raw, out)
        self.plan = make_plan(self.settings)
        self.graphs = built(self.settings, self.plan)
        self.inputs = all_inputs(self.graphs)

    def nodes_of_apply(self, built) -> set[str]:
        """Names of the steps that are left where the fits are reused."""
        jobs = []
        for job in self.plan.jobs:
            saved = self.graphs[job.key].destinations
            for path in saved.values():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
            outputs = {name: str(path.relative_to(self.out)) for name, path in saved.items()}
            jobs.append(replace(job, work="apply", record=Record(job.identity, outputs)))
        graphs = built(self.settings, replace(self.plan, jobs=tuple(jobs)))
        return {node.name for graph in graphs.values() for node in graph.nodes}


# made with a setting that is off
ON_REQUEST = {"muscle": {"left_out", "figure_left_out"}}


@pytest.fixture(scope="module")
def default(cohort, tmp_path_factory, run_settings, built) -> Default:
    return Default(cohort, tmp_path_factory.mktemp("default") / "out", run_settings, built)


@pytest.fixture(scope="module")
def nodes_of_apply(default, built) -> set[str]:
    return default.nodes_of_apply(built)


def steps_that_change(default, run_settings, built, given, pipelines) -> set[str]:
    settings = run_settings(default.raw, default.out, given, pipelines)
    groups = [
        {n: p.group_by(s.pipelines[n]) for n, p in registry().items()}
        for s in (settings, default.settings)
    ]
    plan = default.plan if groups[0] == groups[1] else make_plan(settings)
    inputs = all_inputs(built(settings, plan))
    return {
        node
        for node in inputs.keys() | default.inputs.keys()
        if inputs.get(node) != default.inputs.get(node)
    }


def test_same_settings_give_steps_the_same_inputs(default, run_settings, built):
    assert steps_that_change(default, run_settings, built, {}, {}) == set()


@each_option
def test_setting_changes_the_input_of_a_step(
    default, nodes_of_apply, run_settings, built, pipeline, option
):
    given = {pipeline: {option.name: other_value(option)}}
    changed = steps_that_change(default, run_settings, built, {}, given)
    assert changed
    if option.stage == "apply":
        # a run that changes it reuses the fits: they must not depend on it
        assert changed <= nodes_of_apply
    else:
        assert not changed <= nodes_of_apply


def test_seed_changes_the_input_of_a_step(default, run_settings, built):
    assert steps_that_change(default, run_settings, built, {"seed": 5}, {})


def test_template_changes_the_input_of_a_step(default, run_settings, built):
    given = {"template": "MNI152NLin2009cAsym"}
    assert steps_that_change(default, run_settings, built, given, {})


@pytest.mark.data
def test_atlases_are_measured_anew_without_the_fits(
    default, nodes_of_apply, run_settings, built, test_data
):
    given = {"atlas_dir": test_data / "atlases" / "fsl_style"}
    changed = steps_that_change(default, run_settings, built, given, {})
    assert changed
    assert changed <= nodes_of_apply
    plans = [make_plan(run_settings(default.raw, default.out, own)) for own in ({}, given)]
    apply = [dict(job.identity.apply) for plan in plans for job in plan.jobs if job.upstream]
    assert len({str(own.get("atlases")) for own in apply}) > 1


@pytest.mark.data
def test_mirrored_atlas_ends_the_run_before_anything_is_computed(
    default, run_settings, test_data, tmp_path
):
    (tmp_path / "JHU").mkdir()
    source = test_data / "atlases"
    shutil.copyfile(source / "fsl_style" / "JHU-labels.xml", tmp_path / "JHU-labels.xml")
    mirrored = tmp_path / "JHU" / "JHU-ICBM-labels-1mm.nii.gz"
    shutil.copyfile(source / "JHU-WhiteMatter-labels-1mm.nii.gz", mirrored)
    with pytest.raises(DataError, match=r"Corticospinal tract R.*the image is mirrored"):
        make_plan(run_settings(default.raw, tmp_path / "out", {"atlas_dir": tmp_path}))


def test_template_without_an_atlas_is_told_in_the_plan(default, monkeypatch):
    monkeypatch.setattr("bids_alsmri.spaces.atlases.load_atlases", lambda *_, **__: ())
    plan = make_plan(default.settings)
    (notes,) = [j.scan.notes for j in plan.jobs if j.pipeline.name == "sodium" and j.upstream]
    assert "no table of regions was made; give some with --atlas-dir" in notes[-1]


@pytest.mark.parametrize("name", [o.name for o in options_of(RunSettings) if o.stage != "run"])
def test_settings_of_the_run_that_decide_numbers_are_tested_above(name):
    assert name in ("seed", "template")


# ---- texts


@pytest.mark.parametrize("mode", ["best", "paper"])
@each_pipeline
def test_methods_text_resolves_for_every_setting(name, mode, run_settings, tmp_path):
    pipeline = registry()[name]
    usual = run_settings(tmp_path, tmp_path, {"mode": mode}).pipelines[name]
    texts = [methods_text(pipeline, usual, {**FACTS, "has_anatomy": has}) for has in (True, False)]
    for option in options_of(pipeline.settings):
        for value in option.choices or (other_value(option),):
            settings = usual.model_copy(update={option.name: value})
            texts.append(methods_text(pipeline, settings, FACTS))
    for text in texts:
        assert "{" not in text
        assert "None" not in text
        assert not re.search(r"\s[,.]", text), text


# ---- what is read and saved


@each_pipeline
def test_pipeline_builds_from_the_phantom(default, name):
    assert any(pipeline == name for pipeline, _ in default.graphs)


@each_pipeline
def test_what_is_saved_is_what_the_spec_declares(default, name):
    spec = registry()[name].io_spec
    saved = [
        {output_name(kept) for kept in graph.destinations}
        for (pipeline, _), graph in default.graphs.items()
        if pipeline == name
    ]
    parts = {
        f"figure_{figure.name}{part}"
        for figure in spec.figures.values()
        for part in (("before", "after") if figure.kind == "flicker" else ("",))
    }
    sometimes = {f"figure_{figure.name}" for figure in spec.figures.values() if figure.optional}
    required = {output.name for output in spec.outputs.values() if not output.optional}
    for names in saved:
        assert required <= names
        assert names <= set(spec.outputs) | parts
    # the cohort holds a participant with and one without T1w: between them all is made
    sometimes |= ON_REQUEST.get(name, set())
    # what people draw and the program never writes
    sometimes |= {o.name for o in spec.outputs.values() if o.given}
    assert (set(spec.outputs) | parts) - sometimes == set.union(*saved) - sometimes


def test_labelled_people_who_are_left_out_are_saved_on_request(
    default, run_settings, built, tmp_path
):
    folder = default.raw / "derivatives" / "atlases"
    image = sorted(folder.rglob("*_acq-legs_chunk-1_T1w.nii.gz"))[0]
    labels = sorted(folder.rglob("*_acq-legs_chunk-1_desc-muscles_dseg.nii.gz"))[0]
    for number in range(3):
        for source in (image, labels):
            tail = source.name.split("_", 1)[1]
            (tmp_path / f"sub-person{number}_{tail}").symlink_to(source)
    asked = {"muscle": {"atlas_dir": tmp_path, "atlas_leave_one_out": True}}
    settings = run_settings(default.raw, default.out, {}, asked)
    saved = {
        output_name(kept)
        for (pipeline, _), graph in built(settings, default.plan).items()
        if pipeline == "muscle"
        for kept in graph.destinations
    }
    assert ON_REQUEST["muscle"] <= saved


@pytest.mark.slow
def test_every_file_of_the_run_is_declared_and_every_declared_one_is_there(
    finished, cheap, run_settings, built, tmp_path
):
    graphs = built(run_settings(finished.raw, tmp_path / "out", {}, cheap))
    declared = set()
    for graph in graphs.values():
        for path in graph.destinations.values():
            relative = path.relative_to(tmp_path / "out")
            declared.add(relative)
            if path.suffix not in (".svg", ".bval", ".bvec"):
                declared.add(Path(re.sub(r"(\.nii)?\.\w+$", ".json", str(relative))))
    found = {
        path.relative_to(finished.out) for path in finished.out.glob("sub-*/**/*") if path.is_file()
    }
    assert found == declared


@each_pipeline
def test_participant_without_the_required_input_is_skipped_with_a_reason(
    cohort, tmp_path, run_settings, default, name
):
    pipeline = registry()[name]
    raw = Path(shutil.copytree(cohort, tmp_path / "raw", ignore=lambda *_: ["derivatives"]))
    for job in default.plan.jobs:
        if job.pipeline.name == name and job.scan.participant == "01":
            for path in job.scan.inputs[pipeline.primary]:
                (raw / path.relative_to(cohort)).unlink()
    plan = make_plan(run_settings(raw, tmp_path / "out"))
    assert ("01", name) not in {(job.scan.participant, job.pipeline.name) for job in plan.jobs}
    (skip,) = [s for s in plan.skips if (s.participant, s.pipeline) == ("01", name)]
    assert pipeline.io_spec.inputs[pipeline.primary].suffixes[0] in skip.reason
    assert not skip.is_error


def test_no_two_graphs_write_one_file(cohort, built, run_settings, tmp_path):
    graphs = built(run_settings(cohort, tmp_path / "out"))
    assert len({pipeline for pipeline, _ in graphs}) >= 4
    written = [path for graph in graphs.values() for path in graph.destinations.values()]
    assert [path.name for path, n in Counter(written).items() if n > 1] == []


# ---- runs

NO_GRAPH = """
import sys
import nipype.pipeline.engine as pe
from bids_alsmri import participant
from bids_alsmri.cli import main

def refuse(*arguments, **named):
    raise AssertionError("a graph was built")

participant.build_graphs = participant.new_workflow = pe.Workflow.run = refuse
pe.Node.__init__ = pe.Workflow.__init__ = refuse
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_second_run_builds_no_graph_and_ends_well(finished, app):
    words = app.command(finished.raw, finished.out, "-w", finished.work)[3:]
    before = {path: path.stat().st_mtime_ns for path in finished.out.glob("sub-*/**/*")}
    done = subprocess.run([sys.executable, "-c", NO_GRAPH, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "everything was done before" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in finished.out.glob("sub-*/**/*")} == before


@pytest.mark.slow
def test_first_run_would_need_a_graph(finished, app, tmp_path):
    """The test above fails where a graph is needed."""
    words = app.command(finished.raw, tmp_path / "out", "-w", tmp_path / "work")[3:]
    done = subprocess.run([sys.executable, "-c", NO_GRAPH, *words], capture_output=True, text=True)
    assert done.returncode != 0
    assert "a graph was built" in done.stderr


@pytest.mark.slow
def test_run_skips_what_a_participant_lacks_and_ends_well(finished):
    assert finished.code == 0
    page = (finished.out / "sub-02.html").read_text()
    assert re.search(r"sub-02.{0,400}T1w", page, re.DOTALL)


@pytest.mark.slow
def test_changed_setting_of_a_fit_is_named(finished, app):
    words = ("--plan", "--diffusion-tensor-fit", "wls", "--seed", 8)
    done = app.run(finished.raw, finished.out, "-w", finished.work, *words)
    assert done.returncode == 0, done.stderr
    assert "processed before with other seed (20221, now 8); tensor_fit (iwls, now wls)" in (
        done.stdout
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pipeline", "name", "old", "new", "made"),
    [
        ("anatomical", "template_resolution_mm", "4.0", "3.5", "anat/*_res-3p5_*T1w.nii.gz"),
        (
            "diffusion",
            "template_resolution_mm",
            "4.0",
            "5.0",
            "dwi/*_res-5_*param-fa_dwimap.nii.gz",
        ),
        ("sodium", "template_resolution_mm", "4.0", "5.0", "anat/*_res-5_desc-tscSm8_PDmap.nii.gz"),
    ],
)
def test_changed_setting_of_apply_reuses_the_fits(
    finished, app, copied, tmp_path, nodes_of_apply, pipeline, name, old, new, made
):
    outputs = registry()[pipeline].io_spec.outputs
    (record,) = copied.glob(f"logs/scans/sub-01*_{pipeline}.json")
    saved = json.loads(record.read_text())["outputs"]
    fits = [copied / p for n, p in saved.items() if n in outputs and outputs[n].stage == "fit"]
    assert len(fits) > 5
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in fits}
    words = ("--participant-label", "01", "--pipelines", pipeline)
    flag = f"--{pipeline}-{name.replace('_', '-')}"
    # an empty work folder: a fit that was wanted would have to run
    done = app.run(finished.raw, copied, "-w", tmp_path / "work", *words, flag, new)
    assert done.returncode == 0, done.stderr
    assert f"fits are reused; other {name} ({old}, now {new})" in done.stderr
    assert {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in fits} == before
    assert len(list((copied / "sub-01").glob(made))) == 1
    newest = max(copied.glob("logs/*/seconds.json"))
    ran = {step for steps in json.loads(newest.read_text()).values() for step in steps}
    assert ran
    assert ran <= nodes_of_apply


def test_results_are_made_again_where_a_file_of_a_setting_changed(cohort, run_settings, tmp_path):
    own, folder = tmp_path / "own.tsv", tmp_path / "people"
    folder.mkdir()
    (folder / "sub-01_T1w.nii.gz").write_bytes(b"1")
    named = {"muscle": {"region_list": own, "atlas_dir": folder}}
    digests = []
    for path in (own, own, folder / "sub-01_T1w.nii.gz"):
        # of the same length, as a code that is corrected
        path.write_text(f"{len(digests)}")
        plan = make_plan(run_settings(cohort, tmp_path / "out", {}, named))
        digests.append({j.identity.digest() for j in plan.jobs if j.pipeline.name == "muscle"})
    assert not digests[0] & digests[1]
    assert not digests[1] & digests[2]


@pytest.mark.slow
def test_settings_file_repeats_the_run(finished, tmp_path):
    # the run that wrote the times is the one that ran steps
    kept = min(finished.out.glob("logs/*/seconds.json")).with_name("settings.json")
    changed = tmp_path / "changed.json"
    content = json.loads(kept.read_text())
    content["run"]["seed"] += 1
    changed.write_text(json.dumps(content))
    # without the cheap flags: only the file knows of them; results are used again if and only if
    # all settings are those of the run that made them
    words = {"reuse": kept, "run": changed}
    for word, path in words.items():
        call = [str(finished.raw), str(finished.out), "participant", "--settings", str(path)]
        call += ["-w", str(finished.work), "--participant-label", "01", "--plan"]
        done = subprocess.run(
            [sys.executable, "-m", "bids_alsmri", *call], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        rows = [line for line in done.stdout.splitlines() if line.startswith("sub-01")]
        assert len(rows) >= 4
        assert all(f"  {word}" in row for row in rows), done.stdout


# ---- bad input, and the same numbers from another dataset and number of processes


@pytest.fixture(scope="module")
def faulty(cohort, tmp_path_factory) -> Path:
    """Raw dataset of sub-01 and of others that cannot be processed."""
    raw = tmp_path_factory.mktemp("faulty") / "raw"
    shutil.copytree(cohort, raw, ignore=shutil.ignore_patterns("phantom", "sub-02"))
    # of the other people that atlases are of, all stay
    atlases = Path("derivatives") / "atlases"
    shutil.copytree(cohort / atlases, raw / atlases, dirs_exist_ok=True)
    truncated = raw / "sub-03" / "anat" / "sub-03_T1w.nii.gz"
    truncated.parent.mkdir(parents=True)
    truncated.write_bytes((cohort / "sub-01/anat/sub-01_T1w.nii.gz").read_bytes()[:20_000])
    shutil.copytree(cohort / "sub-02" / "dwi", raw / "sub-04" / "dwi")
    for path in sorted((raw / "sub-04" / "dwi").iterdir()):
        path.rename(path.with_name(path.name.replace("sub-02", "sub-04")))
    (raw / "sub-04/dwi/sub-04_dir-AP_dwi.bvec").unlink()
    return raw


@pytest.fixture(scope="module")
def one_process(faulty, app, tmp_path_factory):
    """Output folder and log of a run of the faulty dataset with one process."""
    folder = tmp_path_factory.mktemp("one_process")
    done = app.run(faulty, folder / "out", "-w", folder / "work", "--n-procs", 1)
    return folder / "out", done


@pytest.mark.slow
def test_one_and_two_processes_give_the_same_results(one_process, finished, results):
    out, _ = one_process
    found = results(out, "01")
    assert len(found) > 60
    assert found == results(finished.out, "01")


@pytest.mark.slow
def test_faulty_participants_are_told_while_others_are_done(one_process):
    out, done = one_process
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert not list(out.glob("sub-0[34]/*/*.nii.gz"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("03", ("sub-03_T1w.nii.gz", "truncated")),
        ("04", ("sub-04_dir-AP_dwi.bvec", "missing")),
    ],
)
def test_fault_stands_in_log_and_report(one_process, label, words):
    out, done = one_process
    lines = [line for line in done.stderr.splitlines() if f"sub-{label}" in line]
    page = (out / f"sub-{label}.html").read_text()
    for word in words:
        assert any(word in line for line in lines), done.stderr
        assert word in page


@pytest.mark.slow
@pytest.mark.parametrize(("kept", "code"), [("sub-04", 66), ("sub-05", 66)])
def test_dataset_without_a_usable_scan_has_its_exit_code(faulty, app, tmp_path, kept, code):
    raw = tmp_path / "raw"
    raw.mkdir()
    shutil.copy(faulty / "dataset_description.json", raw)
    (raw / "sub-05").mkdir()
    if kept == "sub-04":
        shutil.copytree(faulty / kept, raw / kept)
    done = app.run(raw, tmp_path / "out", "-w", tmp_path / "work", "--participant-label", kept)
    assert done.returncode == code, done.stderr
    assert kept in done.stderr
    assert "no usable scan" in done.stderr


@pytest.mark.slow
def test_killed_runs_leave_no_half_file_and_the_next_ends_with_the_same_results(
    finished, app, tmp_path, results
):
    out, work = tmp_path / "out", tmp_path / "work"
    words = ("-w", work, "--n-procs", 2, "--participant-label", "01")
    whole = results(finished.out, "01")
    moments = random.Random(3)
    n_killed = 0
    for _ in range(2):
        run = app.start(finished.raw, out, *words)
        # steps of earlier tries are kept, so each try gets further
        time.sleep(finished.seconds * moments.uniform(0.05, 0.2))
        n_killed += run.poll() is None
        with contextlib.suppress(ProcessLookupError):  # a late try may have come to its end
            os.killpg(run.pid, signal.SIGKILL)
        run.wait()
        for name, text in results(out, "01").items():
            assert text == whole[name], name
    assert n_killed == 2
    last = app.run(finished.raw, out, *words)
    assert last.returncode == 0, last.stderr
    assert results(out, "01") == whole


# ---- results that other programs can read


@pytest.mark.slow
@pytest.mark.parametrize("schema", ["bundled", "latest"])
def test_output_folder_is_valid_bids(finished, schema):
    validator = shutil.which("bids-validator-deno", path=str(Path(sys.executable).parent))
    if validator is None:
        pytest.skip("bids-validator-deno is not installed")
    environment = dict(os.environ)
    if schema == "latest":
        tools = pytest.importorskip("bidsschematools")
        path = Path(tools.__file__).parent / "data" / "schema.json"
        environment["BIDS_SCHEMA"] = path.as_uri()
    run = subprocess.run(
        [validator, "--json", str(finished.out)], capture_output=True, text=True, env=environment
    )
    report = json.loads(run.stdout)
    assert report["summary"]["totalFiles"] > 20  # beside what .bidsignore names
    errors = [issue for issue in report["issues"]["issues"] if issue["severity"] == "error"]
    assert errors == []


HEADS = {
    ".gz": b"\x1f\x8b",
    ".h5": b"\x89HDF",
    ".svg": b"<?xml",
    ".json": b"{",
}


@pytest.mark.slow
def test_content_of_every_file_is_what_its_extension_says(finished):
    files = [path for path in finished.out.glob("sub-*/**/*") if path.is_file()]
    assert {path.suffix for path in files} >= {*HEADS, ".tsv", ".bval", ".bvec"}
    for path in files:
        head = path.read_bytes()
        if path.suffix in HEADS:
            assert head.startswith(HEADS[path.suffix]), path
        else:
            assert head.decode("utf-8").isprintable() or b"\n" in head, path


@pytest.mark.slow
def test_every_image_has_a_sidecar_that_explains_it(finished):
    images = list(finished.out.glob("sub-*/**/*.nii.gz"))
    assert len(images) > 30
    for path in images:
        facts = json.loads(Path(str(path).replace(".nii.gz", ".json")).read_text())
        assert facts["Description"], path
        assert facts["Sources"], path
        if path.name.endswith(("_dwimap.nii.gz", "_T1w.nii.gz", "_dwi.nii.gz", "_probseg.nii.gz")):
            assert facts["Units"], path
        assert "seed" in facts["Settings"], path


@pytest.mark.slow
def test_images_are_finite_or_say_where_they_are_not(finished):
    import nibabel as nib

    for path in finished.out.glob("sub-*/**/*.nii.gz"):
        values = np.asarray(nib.load(path).dataobj)
        if "model-tensor" in path.name:
            # voxels without a tensor are NaN, and few
            assert np.isnan(values).mean() < 0.02, path
        else:
            assert np.isfinite(values).all(), path


@each_pipeline
def test_spec_without_any_scan_is_an_error_of_data(name, tmp_path, run_settings):
    (tmp_path / "raw" / "sub-01").mkdir(parents=True)
    description = {"Name": "empty", "BIDSVersion": "1.10.0"}
    (tmp_path / "raw" / "dataset_description.json").write_text(json.dumps(description))
    with pytest.raises(DataError, match="no usable scan"):
        make_plan(run_settings(tmp_path / "raw", tmp_path / "out", {"pipeline_names": (name,)}))


@pytest.mark.slow
def test_no_more_threads_work_than_processes_were_asked_for(finished):
    assert max(finished.n_threads) >= 2
    # threads that a library keeps for itself look after things once in a while
    above = sum(number > 2 for number in finished.n_threads)
    assert above <= 0.01 * len(finished.n_threads), finished.n_threads
