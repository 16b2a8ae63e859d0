from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import nipype.pipeline.engine as pe
import numpy as np
import pytest
from nipype.interfaces.base import traits
from toy_nodes import Draw, Jitter, Join, Scale

from bids_alsmri.bids.query import Scan
from bids_alsmri.bids.spec import FigureSpec, InputSpec, IoSpec, OutputSpec
from bids_alsmri.engine.graph import Graph, Surroundings
from bids_alsmri.errors import RunError
from bids_alsmri.interfaces.base import write_image
from bids_alsmri.interfaces.node import AlsInterface, NodeInputSpec, NodeOutputSpec
from bids_alsmri.interfaces.outputs import SaveDerivative

SPEC = IoSpec(
    inputs={"t1w": InputSpec("t1w", ("T1w",), ("anat",))},
    outputs={
        "fa": OutputSpec("fa", "dwi", "stats", ".tsv", {"desc": "fa"}, units="1"),
        "md": OutputSpec(
            "md", "dwi", "stats", ".tsv", {"desc": "md"}, units="mm2/s", stage="apply"
        ),
        "copy": OutputSpec("copy", "dwi", "stats", ".tsv", {"desc": "fa"}),
        "bval": OutputSpec("bval", "dwi", "dwi", ".bval", {"desc": "fa"}),
    },
    figures={"map": FigureSpec("map", "map", "dwi", kind="flicker")},
)


@pytest.fixture
def build(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir(exist_ok=True)

    def make(label: str = "01", seed: int = 1, upstream=None) -> Graph:
        image = raw / f"sub-{label}_T1w.nii.gz"
        image.write_text("1 2 3")
        scan = Scan(
            "diffusion", label, None, {"dir": "AP"}, {"t1w": (image,), "t1w_bval": ()}, {image: {}}
        )
        place = Surroundings(
            tmp_path / "out",
            {"raw": raw, "": tmp_path / "out"},
            {"template": "MNI152NLin6Asym"},
            seed,
            1,
            "0.1.0",
        )
        workflow = pe.Workflow("steps", base_dir=str(tmp_path / "work"))
        stages = {"fit": {"factor": 2.0}, "apply": {"decimals": 3}}
        return Graph(workflow, scan, SPEC, stages, place, upstream or {})

    return make


def scaled(graph, name="scale", **inputs):
    return graph.step(name, Scale(factor=2.0), **{"in_file": graph.files("t1w")[0], **inputs})


def test_misspelt_input_is_told_when_the_graph_is_built(build):
    graph = build()
    with pytest.raises(RunError, match=r"step scale has no input 'in_flie'; it has .*in_file"):
        graph.step("scale", Scale(factor=2.0), in_flie=graph.files("t1w")[0])


def test_misspelt_output_is_told_when_the_graph_is_built(build):
    step = scaled(build())
    with pytest.raises(RunError, match=r"no output 'out_flie'; it has facts, out_file"):
        _ = step.out_flie


@pytest.mark.parametrize(
    ("interface", "inputs", "missing"),
    [
        (Scale(factor=2.0), {}, "in_file"),
        (Scale(factor=2.0), {"in_file": None}, "in_file"),
        (Scale(), {"in_file": "image"}, "factor"),
        (Join(in_files=[], decimals=1), {}, "in_files"),
    ],
)
def test_mandatory_input_left_open_is_told(build, interface, inputs, missing):
    graph = build()
    given = {k: graph.files("t1w")[0] if v == "image" else v for k, v in inputs.items()}
    with pytest.raises(RunError, match=f"lacks its mandatory input '{missing}'"):
        graph.step("open", interface, **given)


@pytest.mark.parametrize("value", [0, 0.0])
def test_zero_counts_as_given(build, value):
    graph = build()
    graph.step("scale", Scale(factor=value), in_file=graph.files("t1w")[0])


class MixedInputSpec(NodeInputSpec):
    flag = traits.Bool(mandatory=True)
    text = traits.Str(mandatory=True)


class Mixed(AlsInterface):
    input_spec = MixedInputSpec
    output_spec = NodeOutputSpec


def test_false_and_empty_text_count_as_given(build):
    build().step("mixed", Mixed(), flag=False, text="")


@pytest.mark.parametrize("kind", [list, tuple])
def test_references_can_be_handed_over_in_a_list(build, kind):
    graph = build()
    first, second = scaled(graph, "one"), scaled(graph, "two")
    graph.step("join", Join(decimals=1), in_files=kind([first.out_file, second.out_file]))
    graph.workflow.run()
    (path,) = (Path(graph.workflow.base_dir) / "steps").glob("*_join/out.tsv")
    assert path.read_text().split() == ["2.0", "4.0", "6.0"] * 2


def test_list_may_mix_references_and_files(build, tmp_path):
    (tmp_path / "more.tsv").write_text("9")
    graph = build()
    graph.step("join", Join(decimals=1), in_files=[scaled(graph).out_file, tmp_path / "more.tsv"])
    graph.workflow.run()
    (path,) = (Path(graph.workflow.base_dir) / "steps").glob("*_join/out.tsv")
    assert path.read_text().split() == ["2.0", "4.0", "6.0", "9.0"]


def test_two_steps_of_one_name_are_refused(build):
    graph = build()
    scaled(graph)
    with pytest.raises(RunError, match="two steps called 'scale'"):
        scaled(graph)


@pytest.mark.parametrize("name", ["dwi", "t1w_bvec", "T1w"])
def test_file_that_no_spec_declares_is_refused(build, name):
    with pytest.raises(RunError, match=f"no input '{name}'; it has t1w, t1w_bval"):
        build().files(name)


def seeds(graph, names):
    for name in names:
        graph.step(name, Jitter(), in_file=graph.files("t1w")[0])
    return {node.name: node.inputs.seed for node in graph.nodes}


def test_seeds_differ_by_step_scan_and_run_but_not_by_order(build):
    one = seeds(build(), ["a", "b", "c"])
    assert seeds(build(), ["c", "a", "b"]) == one
    other_scan = seeds(build("02"), ["a", "b", "c"])
    other_run = seeds(build(seed=2), ["a", "b", "c"])
    found = [*one.values(), *other_scan.values(), *other_run.values()]
    assert len(set(found)) == 9
    assert all(0 <= seed < 2**31 for seed in found)


def test_seed_that_is_given_stays(build):
    graph = build()
    graph.step("a", Jitter(), in_file=graph.files("t1w")[0], seed=5)
    assert graph.nodes[0].inputs.seed == 5


def test_output_saved_twice_is_refused(build):
    graph = build()
    out = scaled(graph).out_file
    graph.save("fa", out)
    with pytest.raises(RunError, match="saves 'fa' twice for sub-01_dir-AP"):
        graph.save("fa", out)


def test_two_outputs_under_one_file_name_are_refused(build):
    graph = build()
    out = scaled(graph).out_file
    graph.save("fa", out)
    with pytest.raises(RunError, match=r"under one name: .*desc-fa_stats\.tsv"):
        graph.save("copy", out)


def test_output_or_figure_that_is_not_declared_is_refused(build):
    graph = build()
    out = scaled(graph).out_file
    for call in (graph.save, graph.figure):
        with pytest.raises(RunError, match=r"diffusion/io_spec\.json declares no"):
            call("rd", out)
    with pytest.raises(RunError, match=r"diffusion/io_spec\.json declares no"):
        graph.saved("rd")


def test_saved_file_has_a_sidecar_that_tells_what_it_is(build, tmp_path):
    graph = build()
    step = scaled(graph)
    graph.save("fa", step.out_file, facts=step.facts)
    graph.workflow.run()
    path = tmp_path / "out" / "sub-01" / "dwi" / "sub-01_dir-AP_desc-fa_stats.tsv"
    assert path.read_text().split() == ["2.000000", "4.000000", "6.000000"]
    content = json.loads(path.with_suffix(".json").read_text())
    assert content["Units"] == "1"
    assert content["Sources"] == ["bids:raw:sub-01_T1w.nii.gz"]
    assert content["Settings"] == {"factor": 2.0}  # a fit depends on no setting of the apply
    assert content["SoftwareVersion"] == "0.1.0"
    assert content["Mean"] == 4.0  # of 2, 4, 6: found by the step
    assert sorted(p.name for p in path.parent.iterdir()) == [
        path.with_suffix(".json").name,
        path.name,
    ]


@pytest.mark.parametrize(("space", "has_reference"), [("T1w", True), ("", False)])
def test_spatial_reference_stands_only_beside_a_space(build, space, has_reference):
    graph = build()
    entities = {"space": "{anatomical_space}"}
    spec = OutputSpec("fa", "dwi", "dwimap", entities=entities, sidecar={"SpatialReference": "T1w"})
    values = {**graph.surroundings.values, "anatomical_space": space}
    graph.surroundings = replace(graph.surroundings, values=values)
    assert ("SpatialReference" in graph._sidecar(spec)) == has_reference


def test_sidecar_of_the_apply_lists_all_settings(build, tmp_path):
    graph = build()
    graph.save("md", scaled(graph).out_file)
    graph.workflow.run()
    (path,) = (tmp_path / "out").rglob("*desc-md_stats.json")
    assert json.loads(path.read_text())["Settings"] == {"factor": 2.0, "decimals": 3}


def test_sidecar_tells_files_of_settings_without_their_folders(build):
    graph = build()
    settings = {"region_list": "/home/someone/lists/own.tsv", "factor": 2.0, "bones": "a/b"}
    graph.settings = {"fit": settings, "apply": {}}
    told = graph._sidecar(SPEC.outputs["fa"])["Settings"]
    assert told == {"region_list": "own.tsv", "factor": 2.0, "bones": "a/b"}


def test_gradient_tables_and_figures_have_no_sidecar(build, tmp_path):
    graph = build()
    (tmp_path / "table.bval").write_text("0 1000\n")
    graph.save("bval", tmp_path / "table.bval")
    for part in ("before", "after"):
        drawn = graph.step(f"draw_{part}", Draw(), in_file=graph.files("t1w")[0])
        graph.figure("map", drawn.out_file, part=part)
    graph.workflow.run()
    found = {path.name for path in (tmp_path / "out").rglob("*.*")}
    assert found == {
        "sub-01_dir-AP_desc-fa_dwi.bval",
        "sub-01_dir-AP_desc-mapbefore_dwi.svg",
        "sub-01_dir-AP_desc-mapafter_dwi.svg",
    }


def test_file_is_not_saved_under_an_extension_that_belies_its_format(build):
    graph = build()
    graph.save("bval", scaled(graph).out_file)  # a table of another kind
    graph.workflow.config["execution"]["crashdump_dir"] = graph.workflow.base_dir
    with pytest.raises(Exception, match=r"belie its format; .* extension '\.tsv' in io_spec"):
        graph.workflow.run()


def test_plain_image_is_compressed_as_it_is_saved(tmp_path):
    # steps hand series on uncompressed, since packing and unpacking cost more than their work
    values = np.random.default_rng(0).normal(size=(4, 5, 6, 7)).astype(np.float32)
    write_image(values, np.eye(4), tmp_path / "dwi.nii")
    write_image(values, np.eye(4), tmp_path / "direct.nii.gz")
    destination = tmp_path / "sub-01_desc-preproc_dwi.nii.gz"
    node = SaveDerivative(
        in_file=str(tmp_path / "dwi.nii"), destination=str(destination), sidecar="{}"
    )
    node.run(cwd=tmp_path)
    assert gzip.decompress(destination.read_bytes()) == (tmp_path / "dwi.nii").read_bytes()
    assert destination.read_bytes() == (tmp_path / "direct.nii.gz").read_bytes()


def test_sources_do_not_depend_on_whether_upstream_was_made_in_this_run(build, tmp_path):
    first = build()
    step = scaled(first)
    first.save("md", step.out_file)
    first.save("fa", step.out_file)
    first.figure("map", step.out_file, part="before")
    reused = {name: first.destinations[name] for name in ("fa", "md")}
    made = build("01", upstream={"anatomical": first.results})
    again = build("01", upstream={"anatomical": reused})
    assert made.upstream_files() == again.upstream_files() == sorted(reused.values())


def test_result_of_another_pipeline_is_handed_over_or_none(build):
    graph = build(upstream={"anatomical": {"mask": Path("/mask.nii.gz")}})
    assert graph.from_pipeline("anatomical", "mask") == Path("/mask.nii.gz")
    assert graph.from_pipeline("anatomical", "t1w") is None
    assert graph.from_pipeline("sodium", "mask") is None


def test_each_runs_a_step_once_per_item(build, tmp_path):
    files = []
    for index in range(3):
        files.append(tmp_path / f"{index}.tsv")
        files[-1].write_text(str(index))
    graph = build()
    many = graph.step("many", Scale(factor=10.0), each=("in_file",), in_file=files)
    graph.step("join", Join(decimals=0), in_files=many.out_file)
    graph.workflow.run()
    (path,) = (tmp_path / "work" / "steps").glob("*_join/out.tsv")
    assert path.read_text().split() == ["0", "10", "20"]


def test_node_declares_memory_and_threads(build):
    class Heavy(Scale):
        memory_gb = 3.0
        n_threads = 2

    graph = build()
    graph.step("heavy", Heavy(factor=1.0), in_file=graph.files("t1w")[0])
    graph.step("light", Scale(factor=1.0, n_threads=4), in_file=graph.files("t1w")[0])
    assert [(node.mem_gb, node.n_procs) for node in graph.nodes] == [(3.0, 2), (0.5, 4)]
