from __future__ import annotations

import errno
import gc
import io
import json
import os
from pathlib import Path

import nipype.pipeline.engine as pe
import pytest
from nipype.interfaces.base import File
from nipype.pipeline.plugins.multiproc import MultiProcPlugin
from rich.console import Console
from toy_nodes import Jitter, Join, Scale

from bids_alsmri.bids.query import Scan
from bids_alsmri.bids.spec import InputSpec, IoSpec, OutputSpec
from bids_alsmri.engine.graph import Graph, Surroundings
from bids_alsmri.engine.plugins import SteadyMultiProcPlugin
from bids_alsmri.engine.runner import (
    Keeper,
    Outcome,
    Resources,
    choose_plugin,
    new_workflow,
    read_plugin_file,
    require_resources,
    run,
    summary_of,
    write_timing,
)
from bids_alsmri.errors import DataError, ExitCode, RunError, SettingsError
from bids_alsmri.interfaces.node import AlsInterface, NodeInputSpec, NodeOutputSpec
from bids_alsmri.interfaces.outputs import SaveDerivative

SPEC = IoSpec(
    inputs={"t1w": InputSpec("t1w", ("T1w",), ("anat",))},
    outputs={
        name: OutputSpec(name, "anat", "stats", ".tsv", {"desc": name})
        for name in ("one", "two", "three")
    },
    figures={},
)
ONE = Resources(1, 4.0, None, False)
TWO = Resources(2, 4.0, None, False)


class Runs:
    """Builds graphs of scans in one workflow and runs them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.crashes = folder / "crashes"
        self.told: list[tuple[str, str, bool]] = []
        self.keeper = Keeper(
            lambda graph: self._tell("before", graph),
            lambda outcome: self._tell("done", outcome.graph),
        )
        (folder / "raw").mkdir()

    def _tell(self, what: str, graph: Graph) -> None:
        is_saved = any(path.exists() for path in graph.destinations.values())
        self.told.append((what, graph.scan.participant, is_saved))

    def graph(self, workflow: pe.Workflow, label: str, text: str) -> Graph:
        image = self.folder / "raw" / f"sub-{label}_T1w.nii.gz"
        image.write_text(text)
        scan = Scan("toy", label, None, {}, {"t1w": (image,)}, {image: {}})
        roots = {"raw": self.folder / "raw", "": self.folder / "out"}
        place = Surroundings(self.folder / "out", roots, {}, 1, 1, "0.1.0")
        return Graph(workflow, scan, SPEC, {"fit": {}, "apply": {}}, place)

    def chain(self, workflow: pe.Workflow, label: str, text: str) -> Graph:
        graph = self.graph(workflow, label, text)
        scaled = graph.step("scale", Scale(factor=2.0), in_file=graph.files("t1w")[0])
        graph.save("one", scaled.out_file)
        noisy = graph.step("jitter", Jitter(), in_file=scaled.out_file)
        graph.save("two", noisy.out_file)
        return graph

    def workflow(self, *, stop: bool = False) -> pe.Workflow:
        return new_workflow(self.folder / "work", self.crashes, stop_on_first_crash=stop)

    def run(self, *graphs: Graph, resources: Resources = ONE, terminal: bool = False):
        console = Console(file=io.StringIO(), force_terminal=terminal)
        return run(graphs[0].workflow, graphs, resources, console, self.keeper)


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv("TOY_JOURNAL", str(tmp_path / "journal"))
    return Runs(tmp_path)


def test_outcome_of_a_good_scan_has_times_and_no_errors(runs):
    (outcome,) = runs.run(runs.chain(runs.workflow(), "01", "1 2 3"))
    assert (outcome.is_done, outcome.errors, outcome.traces) == (True, (), ())
    names = {name.removeprefix("sub_01_toy_") for name in outcome.seconds}
    assert names == {"scale", "jitter", "save_one", "save_two"}
    assert all(seconds >= 0 for seconds in outcome.seconds.values())


def test_error_is_told_with_its_notes_and_without_its_trace(runs):
    workflow = runs.workflow()
    good, bad = runs.chain(workflow, "01", "1 2 3"), runs.chain(workflow, "02", "bad")
    first, second = runs.run(good, bad)
    assert first.is_done
    assert not second.is_done
    assert second.errors == ("sub-02_T1w.nii.gz: holds bad; give numbers in the toy",)
    assert "Traceback" in second.traces[0]
    assert (first.exit_code, second.exit_code) == (ExitCode.DONE, ExitCode.BAD_DATA)


def test_error_of_a_library_keeps_its_kind(runs):
    (outcome,) = runs.run(runs.chain(runs.workflow(), "01", "zlib"))
    assert outcome.errors == ("zlib.error: invalid header",)


def test_result_of_an_earlier_run_does_not_count(runs):
    assert runs.run(runs.chain(runs.workflow(), "01", "1 2 3"))[0].is_done
    (outcome,) = runs.run(runs.chain(runs.workflow(), "01", "bad"))
    assert not outcome.is_done
    assert len(outcome.errors) == 1


def test_clock_of_the_file_server_does_not_matter(runs, monkeypatch):
    graph = runs.chain(runs.workflow(), "01", "1 2 3")
    real = os.replace

    def replace_in_the_past(source, target):
        os.utime(source, (1, 1))
        real(source, target)

    monkeypatch.setattr("os.replace", replace_in_the_past)
    assert runs.run(graph)[0].is_done


def test_second_run_executes_nothing_but_the_saves(runs):
    runs.run(runs.chain(runs.workflow(), "01", "1 2 3"))
    journal = runs.folder / "journal"
    assert journal.read_text().split() == ["scale", "jitter"]
    saved = runs.folder / "out" / "sub-01" / "anat" / "sub-01_desc-one_stats.tsv"
    saved.unlink()
    (outcome,) = runs.run(runs.chain(runs.workflow(), "01", "1 2 3"))
    assert journal.read_text().split() == ["scale", "jitter"]
    assert outcome.is_done
    assert saved.is_file()


def test_new_version_runs_every_step_again(runs):
    graph = runs.graph(runs.workflow(), "01", "1 2 3")
    graph.step("scale", Scale(factor=2.0), in_file=graph.files("t1w")[0])
    runs.run(graph)
    graph = runs.graph(runs.workflow(), "01", "1 2 3")
    newer = Scale(factor=2.0, package_version="99")
    graph.step("scale", newer, in_file=graph.files("t1w")[0])
    runs.run(graph)
    assert (runs.folder / "journal").read_text().split() == ["scale", "scale"]


def test_input_outside_the_hash_runs_no_step_again(runs):
    for threads in (1, 2):
        graph = runs.graph(runs.workflow(), "01", "1 2 3")
        step = Scale(factor=2.0, n_threads=threads)
        graph.step("scale", step, in_file=graph.files("t1w")[0])
        runs.run(graph)
    assert (runs.folder / "journal").read_text().split() == ["scale"]


def test_upstream_failure_is_told_for_the_scan_that_builds_on_it(runs):
    workflow = runs.workflow()
    bad = runs.chain(workflow, "01", "bad")
    after = runs.graph(workflow, "02", "1")
    step = after.step("scale", Scale(factor=1.0), in_file=bad.results["two"])
    after.save("one", step.out_file)
    _, outcome = runs.run(bad, after)
    assert not outcome.is_done
    (error,) = outcome.errors
    assert error.startswith("not finished, since sub-01 toy, which it builds on, failed: ")
    assert "holds bad; give numbers in the toy" in error


@pytest.mark.parametrize("resources", [ONE, TWO])
def test_nothing_but_figures_is_left_of_a_scan_that_fails_late(runs, resources):
    workflow = runs.workflow()
    graph = runs.graph(workflow, "01", "1 2")
    bad = runs.folder / "bad.tsv"
    bad.write_text("bad")
    scaled = graph.step("scale", Scale(factor=2.0), in_file=graph.files("t1w")[0])
    graph.save("one", scaled.out_file)
    # as a step that waits for the first
    late = graph.step("late", Join(decimals=0), in_files=[scaled.out_file, bad])
    graph.save("two", late.out_file)
    (outcome,) = runs.run(graph, resources=resources)
    assert not outcome.is_done
    assert list((runs.folder / "out").rglob("*_stats.*")) == []


@pytest.mark.slow
@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("resources", [ONE, TWO])
def test_steps_over_items_run_on_either_plugin(runs, resources, terminal):
    """Nipype pickles a MapNode with the plugin's arguments, among them no live display."""
    files = []
    for index in range(3):
        files.append(runs.folder / f"{index}.tsv")
        files[-1].write_text(str(index))
    graph = runs.graph(runs.workflow(), "01", "1")
    many = graph.step("many", Scale(factor=10.0), each=("in_file",), in_file=files)
    joined = graph.step("join", Join(decimals=0), in_files=many.out_file)
    graph.save("one", joined.out_file)
    (outcome,) = runs.run(graph, resources=resources, terminal=terminal)
    assert outcome.is_done, outcome.errors
    saved = runs.folder / "out" / "sub-01" / "anat" / "sub-01_desc-one_stats.tsv"
    assert saved.read_text().split() == ["0", "10", "20"]
    assert "sub_01_toy_many" in outcome.seconds


@pytest.mark.slow
@pytest.mark.parametrize("resources", [ONE, TWO])
def test_each_scan_is_told_before_its_first_save_and_when_it_is_done(runs, resources):
    workflow = runs.workflow()
    runs.run(
        runs.chain(workflow, "01", "1 2 3"), runs.chain(workflow, "02", "bad"), resources=resources
    )
    assert runs.told == [("before", "01", False), ("done", "01", True)]


@pytest.mark.parametrize("resources", [ONE, TWO])
def test_scan_whose_save_failed_is_not_done(runs, resources):
    """The file is there and the sidecar is not."""
    graph = runs.chain(runs.workflow(), "01", "1 2 3")
    runs.run(graph)
    graph = runs.chain(runs.workflow(), "01", "1 2 3")
    sidecar = runs.folder / "out" / "sub-01" / "anat" / "sub-01_desc-two_stats.json"
    sidecar.unlink()
    sidecar.mkdir()
    runs.told.clear()
    (outcome,) = runs.run(graph, resources=resources)
    assert not outcome.is_done
    assert "sub-01_desc-two_stats.json" in outcome.errors[0]
    assert ("done", "01", True) not in runs.told


@pytest.mark.slow
@pytest.mark.parametrize("resources", [ONE, TWO])
def test_failure_of_one_item_is_told(runs, resources):
    files = []
    for index, text in enumerate(["1", "bad"]):
        files.append(runs.folder / f"{index}.tsv")
        files[-1].write_text(text)
    graph = runs.graph(runs.workflow(), "01", "1")
    many = graph.step("many", Scale(factor=10.0), each=("in_file",), in_file=files)
    graph.save("one", graph.step("join", Join(decimals=0), in_files=many.out_file).out_file)
    (outcome,) = runs.run(graph, resources=resources)
    assert not outcome.is_done
    assert any("1.tsv: holds bad" in error for error in outcome.errors), outcome.errors


class WrongOutputSpec(NodeOutputSpec):
    out_file = File(exists=True)


class Wrong(AlsInterface):
    """Gives the name of a file that it never wrote."""

    input_spec = NodeInputSpec
    output_spec = WrongOutputSpec

    def _run_interface(self, runtime):
        return self.give(runtime, {"out_file": self.file(runtime, "none.tsv")})


def test_step_that_writes_nothing_is_told(runs):
    graph = runs.graph(runs.workflow(), "01", "1")
    graph.save("one", graph.step("wrong", Wrong()).out_file)
    (outcome,) = runs.run(graph)
    assert not outcome.is_done
    assert "none.tsv" in outcome.errors[0]


def test_error_of_the_plugin_itself_is_raised_with_its_reason(runs, monkeypatch):
    graph = runs.chain(runs.workflow(), "01", "1 2 3")

    def broken(*args, **kwargs):
        raise KeyError("no scheduler")

    monkeypatch.setattr(graph.workflow, "run", broken)
    with pytest.raises(RunError, match="the steps could not be run: 'no scheduler'"):
        runs.run(graph)


def test_full_disk_has_its_own_exit_code(runs, monkeypatch):
    graph = runs.chain(runs.workflow(), "01", "1 2 3")

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/scratch/steps")

    monkeypatch.setattr(graph.workflow, "run", full)
    with pytest.raises(RunError, match="/scratch/steps: the disk is full") as error:
        runs.run(graph)
    assert error.value.exit_code == ExitCode.CANNOT_WRITE


def test_want_of_memory_is_told_before_anything_runs(runs, monkeypatch):
    class Heavy(Scale):
        memory_gb = 6.5

    graph = runs.graph(runs.workflow(), "01", "1 2 3")
    graph.step("heavy", Heavy(factor=1.0), in_file=graph.files("t1w")[0])
    expected = r"sub_01_toy_heavy needs 6\.5 GB but 4\.0 GB are allowed; raise --mem-gb"
    with pytest.raises(RunError, match=expected):
        runs.run(graph)
    assert not (runs.folder / "journal").exists()
    # with a scheduler the memory is the scheduler's to give
    slurm = runs.folder / "slurm.json"
    slurm.write_text('{"plugin": "SLURM"}')
    for name in ("sbatch", "squeue", "scancel"):
        (runs.folder / name).touch(0o755)
    monkeypatch.setenv("PATH", str(runs.folder))
    require_resources(graph.workflow, Resources(1, 4.0, slurm, False))


@pytest.mark.parametrize("text", ["[--mem=4G, -c2]", "'--comment=\"half'"])
def test_options_of_sbatch_that_are_no_text_are_told(runs, monkeypatch, text):
    path = runs.folder / "plugin.yml"
    path.write_text(f"plugin: SLURM\nplugin_args:\n  sbatch_args: {text}\n")
    for name in ("sbatch", "squeue", "scancel"):
        (runs.folder / name).touch(0o755)
    monkeypatch.setenv("PATH", str(runs.folder))
    graph = runs.chain(runs.workflow(), "01", "1 2 3")
    with pytest.raises(SettingsError, match=r"sbatch_args is .*; give one text"):
        runs.run(graph, resources=Resources(1, 4.0, path, False))


@pytest.mark.parametrize(("plugin", "told"), [("SLURM", "sbatch"), ("PBS", "qsub")])
def test_absent_scheduler_is_told_before_anything_runs(runs, monkeypatch, plugin, told):
    path = runs.folder / "plugin.yml"
    path.write_text(f"plugin: {plugin}\n")
    monkeypatch.setenv("PATH", str(runs.folder))
    graph = runs.chain(runs.workflow(), "01", "1 2 3")
    with pytest.raises(SettingsError, match=rf"{told}.* not there; run it where jobs are submitt"):
        runs.run(graph, resources=Resources(1, 4.0, path, False))
    assert not (runs.folder / "journal").exists()


@pytest.mark.slow
def test_waiting_for_a_step_searches_no_graph(runs, monkeypatch):
    """Each search collects garbage, and took most of a core from the steps."""
    monkeypatch.setenv("TOY_SLEEP_S", "1.5")
    searches = []
    search = MultiProcPlugin._send_procs_to_workers

    def counted(self, *args, **kwargs):
        searches.append(len(self.pending_tasks))
        return search(self, *args, **kwargs)

    monkeypatch.setattr(MultiProcPlugin, "_send_procs_to_workers", counted)
    graph = runs.chain(runs.workflow(), "01", "1 2 3")
    (outcome,) = runs.run(graph, resources=TWO)
    assert outcome.is_done
    # two steps of 1.5 s, some 15 looks each, and two saves: each starts, is waited for, and ends
    assert len(searches) <= 3 * len(graph.nodes)


def test_steps_are_started_without_searching_what_was_there_before(runs, monkeypatch):
    """A full search of a large graph's objects takes longer than most steps."""
    kept = []
    submit = SteadyMultiProcPlugin._submit_job

    def seen(self, *args, **kwargs):
        kept.append(gc.get_freeze_count())
        return submit(self, *args, **kwargs)

    monkeypatch.setattr(SteadyMultiProcPlugin, "_submit_job", seen)
    graph = runs.chain(runs.workflow(), "01", "1 2 3")
    before = len(gc.get_objects())
    (outcome,) = runs.run(graph, resources=TWO)
    assert outcome.is_done
    assert min(kept) > before / 2
    assert gc.get_freeze_count() == 0


def test_plugin_follows_from_the_processes():
    assert choose_plugin(ONE) == ("Linear", {})
    name, arguments = choose_plugin(TWO)
    assert name == "MultiProc"
    assert (arguments["n_procs"], arguments["memory_gb"]) == (2, 4.0)
    assert arguments["mp_context"] == "forkserver"


@pytest.mark.parametrize(
    "text",
    [
        '{"plugin": "SLURM", "plugin_args": {"sbatch_args": "-N1"}}',
        "plugin: SLURM\nplugin_args:\n  sbatch_args: -N1\n",
    ],
)
def test_plugin_file_is_json_or_yaml(tmp_path, text):
    path = tmp_path / "plugin"
    path.write_text(text)
    assert read_plugin_file(path) == ("SLURM", {"sbatch_args": "-N1"})


def test_plugin_file_decides_over_processes(tmp_path):
    path = tmp_path / "plugin.yml"
    path.write_text("plugin: MultiProc\nplugin_args: {n_procs: 7}\n")
    name, arguments = choose_plugin(Resources(1, 4.0, path, False))
    assert (name, arguments["n_procs"], arguments["memory_gb"]) == ("MultiProc", 7, 4.0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"plugin: [", "no valid YAML or JSON"),
        (b"\xff\xfe\xff", "no valid YAML or JSON"),
        (b"- SLURM", "the key 'plugin'"),
        (b"", "the key 'plugin'"),
        (b"plugin_args: {}", "the key 'plugin'"),
        (b"plugin: SLURM\nplugin_args: text", "mapping 'plugin_args'"),
        (b"plugin: Slrum", r"no plugin 'Slrum'; it has .*SLURM"),
        (None, "No such file"),
    ],
)
def test_bad_plugin_file_is_told(tmp_path, content, message):
    path = tmp_path / "plugin.yml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsError, match=message) as error:
        read_plugin_file(path)
    assert f"--nipype-plugin-file {path}" in str(error.value)


def crash_text(error: str, *, tail: str = "") -> str:
    """A crash file as nipype 1.11 writes it."""
    return (
        "Node: steps.sub_01_toy_scale\nWorking directory: /w\n\nNode inputs:\n\n"
        "factor = 2.0\nTraceback (most recent call last):\n"
        '  File "nodes.py", line 1, in run\n    result = self._run_interface(execute=True)\n'
        "nipype.pipeline.engine.nodes.NodeExecutionError: Exception raised while executing Node "
        "sub_01_toy_scale.\n\nTraceback:\n\tTraceback (most recent call last):\n"
        '\t  File "x.py", line 5, in f\n\t    raise ValueError("Error: no")\n'
        + "".join(f"\t{line}\n" for line in error.splitlines())
        + "\n"
        + tail
    )


TAIL = (
    "\n\nWhen creating this crashfile, the results file corresponding\n"
    "to the node could not be found."
)


@pytest.mark.parametrize("tail", ["", TAIL])
@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("bids_alsmri.errors.DataError: a.nii: no b=0; add one", "a.nii: no b=0; add one"),
        ("bids_alsmri.errors.DataError: a\n  b\nin c.nii", "a b in c.nii"),
        ("ValueError: 3", "ValueError: 3"),
        ("zlib.error: invalid", "zlib.error: invalid"),
        ("KeyboardInterrupt", "KeyboardInterrupt"),
        ("ValueError: KeyError: within", "ValueError: KeyError: within"),
    ],
)
def test_summary_is_the_deepest_error(error, message, tail):
    assert summary_of(crash_text(error, tail=tail)) == message


def test_timing_is_written_by_scan(tmp_path, runs):
    graph = runs.chain(runs.workflow(), "01", "1")
    write_timing(tmp_path / "logs" / "seconds.json", [Outcome(graph, True, seconds={"a": 1.5})])
    content = json.loads((tmp_path / "logs" / "seconds.json").read_text())
    assert content == {"sub-01 toy": {"a": 1.5}}


def save(source: Path, destination: Path, sidecar: str = "", **inputs):
    node = SaveDerivative(
        in_file=str(source), destination=str(destination), sidecar=sidecar, **inputs
    )
    return node.run()


def test_save_puts_facts_over_the_sidecar(tmp_path):
    (tmp_path / "a.tsv").write_text("1")
    (tmp_path / "facts.json").write_text('{"Mean": 3}')
    destination = tmp_path / "out" / "sub-01_stats.tsv"
    save(tmp_path / "a.tsv", destination, '{"Units": "1"}', facts=str(tmp_path / "facts.json"))
    assert destination.read_text() == "1"
    content = json.loads((tmp_path / "out" / "sub-01_stats.json").read_text())
    assert content == {"Units": "1", "Mean": 3}


def test_failed_save_leaves_the_old_file_whole(tmp_path, monkeypatch):
    destination = tmp_path / "out" / "a.tsv"
    (tmp_path / "new.tsv").write_text("new")
    destination.parent.mkdir()
    destination.write_text("old")

    def half(source, target):
        Path(target).write_text("ne")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("shutil.copyfile", half)
    with pytest.raises(RunError) as error:
        save(tmp_path / "new.tsv", destination)
    assert error.value.exit_code == ExitCode.CANNOT_WRITE
    assert destination.read_text() == "old"
    assert [path.name for path in destination.parent.iterdir()] == ["a.tsv"]


def test_nan_in_facts_is_refused(tmp_path):
    (tmp_path / "a.tsv").write_text("1")
    (tmp_path / "facts.json").write_text('{"Mean": NaN}')
    with pytest.raises(SettingsError, match="JSON"):
        save(tmp_path / "a.tsv", tmp_path / "o.tsv", "{}", facts=str(tmp_path / "facts.json"))


def test_data_error_of_a_step_is_the_apps_own(tmp_path):
    (tmp_path / "a.txt").write_text("bad")
    with pytest.raises(DataError):
        Scale(in_file=str(tmp_path / "a.txt"), factor=1.0).run(cwd=str(tmp_path))
