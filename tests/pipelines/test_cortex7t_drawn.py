"""Caliper lines and ovals that readers draw on a slab: lengths and signals by closed forms."""

from __future__ import annotations

import json
from pathlib import Path

import nipype.pipeline.engine as pe
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

from bids_alsmri.adoption import find_drawn
from bids_alsmri.bids.query import Scan, open_layout
from bids_alsmri.bids.stations import drawn_key
from bids_alsmri.engine.graph import Graph, Surroundings
from bids_alsmri.errors import DataError, NumericsError
from bids_alsmri.interfaces.base import read_image, write_image
from bids_alsmri.numerics.calipers import line_lengths, oval_mask
from bids_alsmri.pipelines.cortex7t import drawn
from bids_alsmri.pipelines.cortex7t.interfaces import MeasureDrawn
from bids_alsmri.pipelines.cortex7t.pipeline import PIPELINE, Cortex7tSettings
from bids_alsmri.pipelines.cortex7t.sites import files_of_readers
from bids_alsmri.reports.cortex import draw_marks

EDGES = (0.25, 0.25, 2.0)
SHAPE = (60, 50, 4)
# left is where x is small; the header is turned by 20 degrees about z
TURN = np.deg2rad(20.0)
AFFINE = np.array(
    [
        [0.25 * np.cos(TURN), -0.25 * np.sin(TURN), 0.0, -5.0],
        [0.25 * np.sin(TURN), 0.25 * np.cos(TURN), 0.0, 3.0],
        [0.0, 0.0, 2.0, 40.0],
        [0.0, 0.0, 0.0, 1.0],
    ]
)
HAND_L, FOOT_R, PRECUNEUS = 7, 2, 16


def world(*voxel):
    return AFFINE[:3, :3] @ np.array(voxel, float) + AFFINE[:3, 3]


@pytest.fixture
def slab_path(tmp_path):
    """A slab whose signal is 100 + x + 10 z, in voxels."""
    x, _, z = np.indices(SHAPE)
    path = tmp_path / "slab.nii.gz"
    write_image((100.0 + x + 10.0 * z).astype(np.float32), AFFINE, path)
    return path


def points(folder, rows):
    columns = ["region", "side", "shape", *drawn.ENDS]
    path = folder / "points.tsv"
    pd.DataFrame(rows, columns=columns).to_csv(path, sep="\t", index=False, na_rep="n/a")
    return path


def labels(folder, name, values):
    path = folder / f"{name}.nii.gz"
    write_image(values.astype(np.int16), AFFINE, path)
    return path


def names(folder, name, rows):
    path = folder / f"{name}.tsv"
    pd.DataFrame(rows, columns=["index", "name"]).to_csv(path, sep="\t", index=False)
    return path


def measured(slab_path, reader=0, **files):
    """Table of what was drawn, through the node."""
    node = MeasureDrawn(image=str(slab_path), oval_mm2=4.0, reader=reader)
    node.inputs.trait_set(**{kind: str(path) for kind, path in files.items()})
    found = node.run(cwd=str(slab_path.parent)).outputs.table
    return pd.read_csv(found, sep="\t").set_index(["region", "side", "measure"]).sort_index()


def test_points_give_lengths_and_means_of_the_closed_form(slab_path, tmp_path):
    nan = [np.nan] * 3
    path = points(
        tmp_path,
        [
            # 3 voxels and 4 voxels of 0.25 mm: 1.25 mm; a second line of 1.75 mm
            ["hand", "left", "caliper", *world(10, 10, 1), *world(13, 14, 1)],
            ["hand", "left", "caliper", *world(10, 20, 2), *world(17, 20, 2)],
            # signal is linear: the mean of a symmetric oval is that of its middle
            ["hand", "left", "oval", *world(20, 20, 1), *world(20, 26, 1)],
            ["foot", "right", "oval", *world(40, 25, 2), *nan],
            ["precuneus", "left", "oval", *world(15, 30, 3), *nan],
        ],
    )
    table = measured(slab_path, points=path)
    hand, foot = table.loc[("hand", "left")], table.loc[("foot", "right")]
    assert_allclose(hand.loc["drawn_thickness", "value"], (1.25 + 1.75) / 2, rtol=1e-5)
    assert hand.loc["drawn_thickness", "n"] == 2
    assert_allclose(hand.loc["drawn_signal", "value"], 130.0, rtol=1e-5)
    assert_allclose(foot.loc["drawn_signal", "value"], 160.0, rtol=1e-5)
    assert_allclose(foot.loc["drawn_normalised", "value"], 160.0 / 145.0, rtol=1e-5)
    # 69 points of the unit lattice lie in a circle of radius 4.51 (OEIS A057655)
    assert_allclose(foot.loc["drawn_area", "value"], 69 * 0.25**2, rtol=1e-5)
    assert foot.loc["drawn_thickness", "note"] == "no caliper line was drawn here"
    assert set(table["source"]) == {"drawn"}


def test_label_images_give_what_was_painted(slab_path, tmp_path):
    lines, ovals = np.zeros(SHAPE), np.zeros(SHAPE)
    lines[10:19, 12, 1] = 1  # 9 voxels: 2 mm from end to end
    ovals[20:28, 20:28, 1] = 5
    ovals[30:38, 20:28, 2] = 6
    table = measured(
        slab_path,
        caliper=labels(tmp_path, "lines", lines),
        caliper_table=names(tmp_path, "lines", [(1, "hand_left")]),
        oval=labels(tmp_path, "ovals", ovals),
        oval_table=names(tmp_path, "ovals", [(5, "Motor cortex hand L"), (6, "precuneus left")]),
    )
    hand = table.loc[("hand", "left")]["value"]
    assert_allclose(hand["drawn_thickness"], 2.0, rtol=1e-6)
    assert_allclose(hand["drawn_signal"], 110.0 + 23.5, rtol=1e-6)
    assert_allclose(hand["drawn_area"], 4.0)
    assert_allclose(hand["drawn_normalised"], 133.5 / (120.0 + 33.5), rtol=1e-5)


def test_labels_without_names_are_those_of_the_areas(slab_path, tmp_path):
    ovals = np.zeros(SHAPE)
    ovals[20:28, 20:28, 1] = FOOT_R
    table = measured(slab_path, oval=labels(tmp_path, "ovals", ovals))
    foot = table.loc[("foot", "right")]
    assert_allclose(foot.loc["drawn_signal", "value"], 133.5)
    assert np.isnan(foot.loc["drawn_normalised", "value"])
    assert foot.loc["drawn_normalised", "note"] == "no oval was drawn on the precuneus"


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (["hand", "left", "caliper", *world(10, 10, 1), *world(10, 10, 9)], "lies outside it"),
        (["arm", "left", "caliper", *world(1, 1, 1), *world(4, 1, 1)], "there is no area 'arm le"),
        (["hand", "left", "line", *world(1, 1, 1), *world(4, 1, 1)], "expected caliper or oval"),
        (["hand", "left", "caliper", *world(1, 1, 1), *[np.nan] * 3], "is no point"),
        (["hand", "left", "caliper", *world(1, 1, 1), *world(1, 1, 1)], "are the same point"),
        (["hand", "left", "oval", *world(1, 20, 1), *[np.nan] * 3], "reaches beyond"),
    ],
)
def test_points_that_cannot_be_are_refused(slab_path, tmp_path, row, words):
    image = read_image(slab_path, ndim=3)
    with pytest.raises(DataError, match=words):
        drawn.read_drawing(image, {"points": points(tmp_path, [row])}, oval_mm2=4.0)


def test_labels_that_cannot_be_are_refused(slab_path, tmp_path):
    image = read_image(slab_path, ndim=3)
    lines = np.zeros(SHAPE)
    lines[10:20, 10:20, 1] = HAND_L
    path = labels(tmp_path, "lines", lines)
    with pytest.raises(DataError, match=r"Motor cortex hand L.*beside the straight line"):
        drawn.read_drawing(image, {"caliper": path}, oval_mm2=4.0)
    table = names(tmp_path, "lines", [(1, "hand_left")])
    with pytest.raises(DataError, match=r"label 7 has no name in lines\.tsv"):
        drawn.read_drawing(image, {"caliper": path, "caliper_table": table}, oval_mm2=4.0)
    other = labels(tmp_path, "other", lines[:-1])
    with pytest.raises(DataError, match="another grid"):
        drawn.read_drawing(image, {"oval": other}, oval_mm2=4.0)


def test_swapped_sides_are_refused(slab_path, tmp_path):
    rows = [
        ["hand", "left", "caliper", *world(40, 10, 1), *world(44, 10, 1)],
        ["hand", "right", "caliper", *world(10, 10, 1), *world(14, 10, 1)],
    ]
    image = read_image(slab_path, ndim=3)
    with pytest.raises(DataError, match="1 of 1 areas of the left lie to the right"):
        drawn.read_drawing(image, {"points": points(tmp_path, rows)}, oval_mm2=4.0)


def test_second_reader_stands_beside_the_first(slab_path, tmp_path):
    row = ["hand", "left", "caliper", *world(10, 10, 1), *world(14, 10, 1)]
    first = slab_path.parent / "first.tsv"
    measured(slab_path, points=points(tmp_path, [row])).reset_index().to_csv(
        first, sep="\t", index=False, na_rep="n/a"
    )
    row[-3:] = world(16, 10, 1)
    both = measured(slab_path, reader=1, before=first, points=points(tmp_path, [row]))
    hand = both.loc[("hand", "left")]["value"]
    assert_allclose([hand["drawn_thickness"], hand["drawn_thickness_reader2"]], [1.0, 1.5])


def test_files_of_two_readers_are_found_beside_their_slab(tmp_path):
    slab = tmp_path / "raw" / "sub-01" / "anat" / "sub-01_acq-M1_run-1_echo-1_MEGRE.nii.gz"
    layouts = {}
    wanted = {"anna": "desc-drawn_points.tsv", "bert": "desc-caliper_dseg.nii.gz"}
    for reader, ending in wanted.items():
        for run in (1, 2):
            path = tmp_path / reader / "sub-01" / "anat" / f"sub-01_acq-M1_run-{run}_{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("drawn")
        layouts[reader] = open_layout(tmp_path / reader, ["01"], database_dir=None)
    scan = Scan("cortex7t", "01", None, {"acq": "M1", "run": "1"}, {"slab": (slab,)}, {})
    found = files_of_readers(find_drawn(layouts, PIPELINE, scan), scan)
    assert [set(files) for files in found] == [{"points"}, {"caliper"}]
    assert all("run-1" in path.name for files in found for path in files.values())


@pytest.mark.parametrize("axes", [(0, 1), (1, 0)])
@pytest.mark.parametrize("signs", [(1, 1), (-1, 1), (1, -1), (-1, -1)])
def test_marks_stand_in_the_picture_as_they_do_in_the_head(tmp_path, axes, signs):
    # a line from 1 mm left and behind of the middle to 1 mm right and in front of it, z = 2 mm
    affine = np.zeros((4, 4))
    for stored, (axis, sign) in enumerate(zip(axes, signs, strict=True)):
        affine[axis, stored], affine[axis, 3] = 0.25 * sign, -4.0 * sign
    affine[2, 2], affine[3, 3] = 2.0, 1.0
    slab_file, path = (
        tmp_path / "slab.nii.gz",
        points(tmp_path, [["hand", "left", "caliper", -1, -1, 2, 1, 1, 2]]),
    )
    ramp = np.arange(33.0)[:, None, None] * np.ones((33, 33, 3))
    write_image(ramp.astype(np.float32), affine, slab_file)
    node = MeasureDrawn(image=str(slab_file), oval_mm2=4.0, reader=1, points=str(path))
    marks = pd.read_csv(node.run(cwd=str(tmp_path)).outputs.marks, sep="\t")
    figure = draw_marks(ramp, affine, marks)
    (panel,) = figure.axes
    assert panel.get_title(loc="left") == "hand left, z = 2 mm"
    (line,) = panel.get_lines()
    on_screen = panel.transData.transform(line.get_xydata())
    box = panel.get_window_extent()
    shares = (on_screen - [box.x0, box.y0]) / [box.width, box.height]
    # 12 mm are shown around the middle
    expected = 0.5 + np.array([[-1.0, -1.0], [1.0, 1.0]]) / 12.0
    assert_allclose(shares, expected, atol=1e-6)
    assert [text.get_text() for text in figure.texts] == ["reader 2"]


@pytest.mark.parametrize("width", [1, 2])
def test_length_of_a_line_does_not_depend_on_its_course(width):
    # of 40 voxels, turned in steps; a voxel's middle is within half a diagonal of each end
    for angle in np.deg2rad([0, 17, 45, 73, 90]):
        mask = np.zeros((64, 64, 1), bool)
        for along in np.linspace(0.0, 40.0, 400):
            x, y = 10 + along * np.cos(angle), 10 + along * np.sin(angle)
            mask[round(x) : round(x) + width, round(y), 0] = True
        assert_allclose(line_lengths(mask, [0.25, 0.25, 2.0]), 10.0, atol=0.25 * (width + 0.42))


def test_single_voxel_is_no_line():
    mask = np.zeros((5, 5, 1), bool)
    mask[2, 2, 0] = True
    with pytest.raises(NumericsError, match="has one voxel"):
        line_lengths(mask, [0.25, 0.25, 2.0])


@pytest.mark.parametrize("half_mm", [(0.0, 0.0), (1.6, 0.0), (1.1, 1.1)])
def test_oval_has_its_area_and_its_long_axis(half_mm):
    # fine voxels: the area is that of the ellipse, and its second moments too
    edges = np.array([0.02, 0.02, 2.0])
    mask = oval_mask((200, 200, 1), edges, centre=[100, 100, 0], long_half_mm=half_mm, area_mm2=4.0)
    assert_allclose(mask.sum() * 0.02**2, 4.0, rtol=0.005)
    places = (np.argwhere(mask)[:, :2] - 100) * 0.02
    first = np.hypot(*half_mm) or np.sqrt(4.0 / np.pi)
    along = np.array(half_mm) / first if any(half_mm) else np.array([1.0, 0.0])
    # the variance along an axis of an ellipse is a quarter of its half length squared
    assert_allclose(np.mean((places @ along) ** 2), first**2 / 4, rtol=0.01)


# ---- the workflow


@pytest.fixture
def graph(tmp_path):
    """Graph of a small slab; what is given to it decides on its steps."""
    paths, rng = [], np.random.default_rng(2)
    for number, level in ((1, 100.0), (2, 70.0)):
        name = f"sub-01_acq-M1_echo-{number}_MEGRE.nii.gz"
        path = tmp_path / "raw" / "sub-01" / "anat" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(rng.normal(level, 2.0, SHAPE).astype(np.float32), AFFINE, path)
        paths.append(path)
    sidecars = {path: {"EchoTime": 0.01 * n} for n, path in enumerate(paths, start=1)}
    scan = Scan("cortex7t", "01", None, {"acq": "M1"}, {"slab": tuple(paths)}, sidecars)
    roots = {"raw": tmp_path / "raw", "given": tmp_path, "": tmp_path / "out"}
    values = {"template": "MNI152NLin2009aSym"}
    place = Surroundings(tmp_path / "out", roots, values, 1, 1, "0")
    stages = {"fit": {}, "apply": {}}

    def make(adopted, *, has_anatomy):
        files = {}
        for name in ("preproc", "wm", "gm", "template_to_t1w") if has_anatomy else ():
            files[name] = tmp_path / f"{name}.nii.gz"
            files[name].touch()
        upstream = {"anatomical": files} if has_anatomy else {}
        workflow = pe.Workflow("steps", base_dir=str(tmp_path / "work"))
        made = Graph(workflow, scan, PIPELINE.io_spec, stages, place, upstream)
        made.adopted.update(adopted)
        PIPELINE.workflow.fit(made, scan, Cortex7tSettings())
        return made

    return make


def steps_of(graph):
    return {node.name.partition("_cortex7t_")[2]: node for node in graph.nodes}


def test_readers_are_measured_without_a_t1w(graph, tmp_path):
    row = ["hand", "left", "caliper", *world(10, 10, 1), *world(14, 10, 1)]
    path = points(tmp_path, [row])
    adopted = {drawn_key("points", "anat_acq-M1", reader): path for reader in (0, 1)}
    built = graph(adopted, has_anatomy=False)
    assert {"measure_drawn_1", "measure_drawn_2", "draw_marks"} <= set(steps_of(built))
    built.workflow.run()
    table = pd.read_csv(built.destinations["area_stats"], sep="\t").set_index("measure")
    hand = table[(table["region"] == "hand") & (table["side"] == "left")]["value"]
    assert_allclose([hand["drawn_thickness"], hand["drawn_thickness_reader2"]], [1.0, 1.0])
    assert "area_stats" not in graph({}, has_anatomy=False).destinations


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sub-01_acq-M1_echo-1_part-phase_MEGRE.nii.gz", True),
        ("sub-01_acq-other_echo-1_part-phase_MEGRE.nii.gz", False),
        ("sub-01_acq-M1_part-phase_T2starw.nii.gz", False),
    ],
)
def test_phase_is_left_alone_and_told(graph, tmp_path, name, expected):
    (tmp_path / "raw" / "sub-01" / "anat" / name).touch()
    read = steps_of(graph({}, has_anatomy=False))["read"]
    assert read.inputs.has_phase is expected
    told = json.loads(Path(read.run().outputs.facts).read_text())["notes"]
    assert any("susceptibility is not mapped" in note for note in told) is expected


@pytest.mark.parametrize(
    ("given", "steps"),
    [
        ([], {"borders": False, "stay": False}),
        (["segmentation"], {"borders": True, "stay": False}),
        (["segmentation", "ribbon@anat_acq-M1"], {"borders": True, "stay": True}),
    ],
)
def test_borders_come_from_what_is_given(graph, tmp_path, given, steps):
    adopted = {name: tmp_path / f"{name}.nii.gz" for name in given}
    for path in adopted.values():
        path.touch()
    found = steps_of(graph(adopted, has_anatomy=True))
    assert {name: name in found for name in steps} == steps
    if given:
        # what was drawn on the slab wins
        assert found["borders"].inputs.segmentation == str(adopted[given[-1]])
