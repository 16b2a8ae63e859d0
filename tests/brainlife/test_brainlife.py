"""brainlife/main as the platform calls it: config.json and links in, datatypes and messages out."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from bids_alsmri.phantom.__main__ import main as simulate

PROJECT = Path(__file__).resolve().parents[2]
APP = PROJECT / "brainlife"
# of the platform's list of datatypes
T1W, DWI = "58c33bcee13a50849b25879a", "58c33c5fe13a50849b25879b"


@pytest.fixture(scope="module")
def convert() -> ModuleType:
    spec = importlib.util.spec_from_file_location("brainlife_convert", APP / "convert.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Folder of a task beside that of its inputs, with config.json."""
    folder = tmp_path / "task"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name in ("anat/t1", "dwi/dwi", "dwi2/dwi"):
        path = tmp_path / "input" / f"{name}.nii.gz"
        path.parent.mkdir(parents=True)
        nib.Nifti1Image(np.ones((2, 2, 2), np.float32), np.eye(4)).to_filename(path)
    for name in ("dwi", "dwi2"):
        for end in ("bvals", "bvecs"):
            (tmp_path / "input" / name / f"dwi.{end}").write_text("0\n" * (3 if "c" in end else 1))

    def write(*inputs: tuple[str, list[str], dict[str, Any]], **config: Any) -> Path:
        listed = [{"datatype": d, "keys": keys, "meta": meta} for d, keys, meta in inputs]
        text = {**config, **({"_inputs": listed} if listed else {})}
        (folder / "config.json").write_text(json.dumps(text))
        return folder

    return write


DWI_KEYS = ["dwi", "bvals", "bvecs"]
DWI_PATHS = {
    "dwi": "../input/dwi/dwi.nii.gz",
    "bvals": "../input/dwi/dwi.bvals",
    "bvecs": "../input/dwi/dwi.bvecs",
}


def test_inputs_stand_under_names_of_bids(convert, task):
    folder = task(
        (T1W, ["t1"], {"subject": "sub-A_1", "session": "m00", "FlipAngle": 9}),
        (DWI, DWI_KEYS, {"subject": "A1", "session": "m00", "PhaseEncodingDirection": "y-"}),
        t1="../input/anat/t1.nii.gz",
        **DWI_PATHS,
    )
    assert convert.main(["inputs"]) == 0
    found = {str(p.relative_to(folder / "bids")) for p in (folder / "bids").rglob("*.*")}
    stem = "sub-A1/ses-m00"
    assert found == {
        "dataset_description.json",
        *(f"{stem}/anat/sub-A1_ses-m00_T1w.{end}" for end in ("nii.gz", "json")),
        *(f"{stem}/dwi/sub-A1_ses-m00_dwi.{end}" for end in ("nii.gz", "json", "bval", "bvec")),
    }
    sidecar = json.loads((folder / f"bids/{stem}/anat/sub-A1_ses-m00_T1w.json").read_text())
    assert sidecar == {"FlipAngle": 9}
    # an axis of the scanner, whose sense in the image is not known
    sidecar = json.loads((folder / f"bids/{stem}/dwi/sub-A1_ses-m00_dwi.json").read_text())
    assert sidecar == {}


def test_images_are_linked_and_not_copied(convert, task):
    folder = task((T1W, ["t1"], {"subject": "01"}), t1="../input/anat/t1.nii.gz")
    assert convert.main(["inputs"]) == 0
    image = folder / "bids/sub-01/anat/sub-01_T1w.nii.gz"
    assert image.samefile(folder / "../input/anat/t1.nii.gz")


def test_null_session_is_no_session(convert, task):
    folder = task((T1W, ["t1"], {"subject": "01", "session": None}), t1="../input/anat/t1.nii.gz")
    assert convert.main(["inputs"]) == 0
    assert (folder / "bids/sub-01/anat/sub-01_T1w.nii.gz").exists()


def test_inputs_of_one_kind_become_runs(convert, task):
    both = {key: [path, path.replace("/dwi/", "/dwi2/")] for key, path in DWI_PATHS.items()}
    folder = task((DWI, DWI_KEYS, {"subject": "01"}), (DWI, DWI_KEYS, {"subject": "01"}), **both)
    assert convert.main(["inputs"]) == 0
    for run, source in ((1, "dwi"), (2, "dwi2")):
        image = folder / f"bids/sub-01/dwi/sub-01_run-{run}_dwi.nii.gz"
        assert image.samefile(folder / f"../input/{source}/dwi.nii.gz")


def test_config_without_list_of_inputs_will_do(convert, task, capsys):
    folder = task(t1="../input/anat/t1.nii.gz", mode="paper", options="--seed 5")
    assert convert.main(["inputs"]) == 0
    words = (folder / "options.txt").read_text().split()
    assert words == ["bids", "output", "participant", "--mode", "paper", "--seed", "5"]
    assert "called sub-01" in capsys.readouterr().err


def test_dataset_that_is_given_is_taken_and_seen(convert, task, tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "dataset_description.json").write_text("{}")
    (raw / "sub-01").symlink_to(tmp_path / "input" / "anat")
    folder = task(bids="../raw")
    assert convert.main(["inputs"]) == 0
    assert (folder / "options.txt").read_text().split()[0] == "../raw"
    mounts = set((folder / "mounts.txt").read_text().splitlines())
    assert mounts == {str(raw), str(tmp_path / "input" / "anat")}


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({}, "names no image; give t1, dwi with bvals and bvecs, or bids"),
        ({"t1": "../input/none.nii.gz"}, "none.nii.gz: is not there"),
        ({"dwi": "../input/dwi/dwi.nii.gz"}, "has dwi but not bvals"),
        ({"bids": "../none"}, "../none: is no folder"),
        ({"bids": "../input"}, "lacks dataset_description.json"),
    ],
)
def test_what_is_wrong_with_the_input_is_told(convert, task, capsys, config, told):
    task(**config)
    assert convert.main(["inputs"]) == 66
    assert told in capsys.readouterr().err


def test_text_that_is_no_json_is_told_with_its_line(convert, task, capsys):
    folder = task()
    (folder / "config.json").write_text('{\n"t1": }')
    assert convert.main(["inputs"]) == 66
    assert "no valid JSON at line 2" in capsys.readouterr().err


def test_results_become_datatypes(convert, task):
    folder = task()
    results = {
        "anat/sub-01_space-MNI152NLin2009aSym_res-2_desc-preproc_T1w.nii.gz": "template",
        "anat/sub-01_desc-preproc_T1w.nii.gz": "t1",
        "anat/sub-01_desc-brain_mask.nii.gz": "mask",
        "dwi/sub-01_space-T1w_desc-preproc_dwi.nii.gz": "dwi",
        "dwi/sub-01_space-T1w_desc-preproc_dwi.bval": "bval",
        "dwi/sub-01_space-T1w_desc-preproc_dwi.bvec": "bvec",
        "dwi/sub-01_space-T1w_model-tensor_param-fa_dwimap.nii.gz": "fa",
    }
    for name, text in results.items():
        path = folder / "output" / "sub-01" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "output" / "sub-01.html").write_text("page")
    assert convert.main(["outputs", "0"]) == 0
    product = json.loads((folder / "product.json").read_text())
    # a tensor without md, ad and rd is none
    assert product["outputs"] == ["output_t1", "output_mask", "output_dwi"]
    read = {p.name: p.read_text() for p in folder.glob("output_*/*") if p.is_file()}
    assert read == {
        "t1.nii.gz": "t1",
        "mask.nii.gz": "mask",
        "dwi.nii.gz": "dwi",
        "dwi.bvals": "bval",
        "dwi.bvecs": "bvec",
    }
    assert (folder / "output_report" / "html" / "index.html").read_text() == "page"


def test_muscles_and_cortex_become_tables_and_parcellations_with_names(convert, task):
    folder = task()
    results = {
        "anat/sub-01_desc-muscles_stats.tsv": "region\tvalue\n",
        "anat/sub-01_acq-M1_desc-layers_stats.tsv": "area\tvalue\n",
        "anat/sub-01_acq-legs_chunk-1_desc-muscles_dseg.nii.gz": "nameless",
        "anat/sub-01_acq-legs_chunk-2_desc-muscles_dseg.nii.gz": "empty",
        "anat/sub-01_acq-legs_chunk-2_desc-muscles_dseg.tsv": "index\tname\n",
        "anat/sub-01_acq-wholebody_chunk-1_desc-muscles_dseg.nii.gz": "named",
        "anat/sub-01_acq-wholebody_chunk-1_desc-muscles_dseg.tsv": (
            "index\tname\n412\tright quadriceps\n"
        ),
        "anat/sub-01_acq-M1_seg-somatotopy_dseg.nii.gz": "areas",
        "anat/sub-01_acq-M1_seg-somatotopy_dseg.tsv": "index\tname\n3\thand_left\n",
    }
    for name, text in results.items():
        path = folder / "output" / "sub-01" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert convert.main(["outputs", "0"]) == 0
    product = json.loads((folder / "product.json").read_text())
    tables, labels = ["output_muscles", "output_cortex"], ["output_parcellation", "output_areas"]
    assert product["outputs"] == tables + labels
    assert (folder / "output_cortex" / "layers.tsv").read_text() == "area\tvalue\n"
    assert (folder / "output_muscles" / "muscles.tsv").read_text() == "region\tvalue\n"
    assert (folder / "output_parcellation" / "parc.nii.gz").read_text() == "named"
    names = json.loads((folder / "output_parcellation" / "label.json").read_text())
    assert names == [{"name": "right quadriceps", "label": "412", "voxel_value": 412}]
    assert (folder / "output_areas" / "parc.nii.gz").read_text() == "areas"
    names = json.loads((folder / "output_areas" / "label.json").read_text())
    assert names == [{"name": "hand_left", "label": "3", "voxel_value": 3}]


def test_failure_is_told_in_the_product(convert, task):
    folder = task()
    (folder / "messages.txt").write_text(
        "10:45:32 INFO sub-01 anatomical: not processed before\n"
        "10:46:00 WARNING sub-01: the head moves\n"
        "bids_alsmri: no scan\n"
    )
    assert convert.main(["outputs", "66"]) == 0
    told = json.loads((folder / "product.json").read_text())["brainlife"]
    assert [(each["type"], each["msg"]) for each in told] == [
        ("error", "The input is absent, or holds no usable scan."),
        ("warning", "sub-01: the head moves"),
        ("error", "no scan"),
    ]


def test_measures_are_drawn_within_their_ranges(convert, task):
    folder = task()
    path = folder / "output" / "sub-01" / "anat" / "sub-01_desc-quality_stats.tsv"
    path.parent.mkdir(parents=True)
    path.write_text(
        "measure\tvalue\tunit\tlow\thigh\tdescription\n"
        "wm_volume\t700\tml\t200\t1200\tVolume\n"
        "overlap\t0.9\t1\t0.85\tn/a\tDice\n"
    )
    convert.main(["outputs", "0"])
    product = json.loads((folder / "product.json").read_text())
    (plot,) = (each for each in product["brainlife"] if each["type"] == "plotly")
    (bars,) = plot["data"]
    assert (bars["y"], bars["x"], bars["text"]) == (["wm_volume"], [0.5], ["700 ml"])


def test_sample_of_the_configuration_is_understood(convert, task, tmp_path):
    folder = task()
    (folder / "config.json").write_text((APP / "config.json.sample").read_text())
    assert convert.main(["inputs"]) == 0
    assert len(list((folder / "bids").rglob("*.nii.gz"))) == 2


@dataclass(frozen=True)
class Ran:
    """A task that main was called for."""

    folder: Path
    done: subprocess.CompletedProcess[str]

    @property
    def product(self) -> dict[str, Any]:
        product: dict[str, Any] = json.loads((self.folder / "product.json").read_text())
        return product


def platform_dataset(folder: Path, raw: Path) -> None:
    """The folder bids as the platform makes it, from its datatype neuro/anat/t1w."""
    target = folder / "bids" / "sub-01" / "anat" / "sub-01_T1w.nii.gz"
    target.parent.mkdir(parents=True)
    (image,) = raw.rglob("*_T1w.nii.gz")
    os.link(image, target)
    meta = {"subject": "01", "session": None, "nifti_headers": {"dim": [3, 2, 2, 2]}}
    target.with_name("sub-01_T1w.json").write_text(json.dumps(meta))
    description = {"Name": "brainlife task:5faa", "BIDSVersion": "1.4.0", "Authors": ["Brainlife"]}
    (folder / "bids" / "dataset_description.json").write_text(json.dumps(description))


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """A task that plans only; tests/containers has one that runs, with the image."""
    root = tmp_path_factory.mktemp("brainlife")
    words = ["--fast", "1", "--seed", "5", "--modalities", "anat", "--t1w-mm", "8"]
    assert simulate([str(root / "raw"), *words]) == 0
    folder = root / "task"
    folder.mkdir()
    platform_dataset(folder, root / "raw")
    config = {"t1": "../input/t1.nii.gz", "options": "--plan --pipelines anatomical"}
    (folder / "config.json").write_text(json.dumps(config))
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    own = {"PATH": path, "PYTHONPATH": str(PROJECT), "ALSMRI_IMAGE": ""}
    done = subprocess.run(
        [APP / "main"], cwd=folder, env={**os.environ, **own}, capture_output=True, text=True
    )
    return Ran(folder, done)


@pytest.mark.slow
def test_dataset_of_the_platform_is_accepted(ran):
    assert ran.done.returncode == 0, ran.done.stderr
    assert "sub-01" in ran.done.stdout + ran.done.stderr
    assert ran.product["brainlife"] == [{"type": "success", "msg": "Done: no image."}]


def test_absent_image_is_told_before_anything_is_done(tmp_path):
    own = {**os.environ, "ALSMRI_IMAGE": str(tmp_path / "none.sif")}
    done = subprocess.run([APP / "main"], cwd=tmp_path, env=own, capture_output=True, text=True)
    assert done.returncode == 66
    assert "apptainer is not there" in done.stderr or "none.sif is absent" in done.stderr
    assert not (tmp_path / "output").exists()
