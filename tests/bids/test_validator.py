from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import bids_alsmri
from bids_alsmri.bids.dataset import write_description, write_descriptions
from bids_alsmri.bids.query import Scan
from bids_alsmri.bids.sink import (
    figure_path,
    file_name,
    output_path,
    sidecar,
    sidecar_path,
    write_json,
)
from bids_alsmri.bids.spec import IoSpec, OutputSpec, load_io_spec

VALIDATOR = shutil.which("bids-validator-deno", path=str(Path(sys.executable).parent))
TEMPLATE = "MNI152NLin2009aSym"
VALUES = {
    "template": TEMPLATE,
    "anatomical_space": "T1w",
    "template_resolution_mm": "2",
    "resolution": "2",
    "t1w_resolution_mm": "2",
    "smoothing_fwhm_mm": "8",
}
IMAGE = {"SkullStripped": False}

# What the design lists beyond the pipelines that have a spec of their own: (scan, output).
PLANNED = [
    *[
        ({"acq": "M1"}, OutputSpec(what, "anat", what, entities={"desc": "fit"}, sidecar=IMAGE))
        for what in ("T2starmap", "R2starmap")
    ],
    ({"acq": "M1"}, OutputSpec("layers", "anat", "dseg", entities={"desc": "layers"})),
    ({"acq": "M1"}, OutputSpec("map", "anat", "dseg", entities={"seg": "somatotopy"})),
    ({"acq": "M1"}, OutputSpec("names", "anat", "dseg", ".tsv", entities={"seg": "somatotopy"})),
    *[
        ({"acq": "wholebody", "chunk": str(station)}, output)
        for station in (1, 2)
        for output in (
            OutputSpec("muscles", "anat", "dseg", entities={"desc": "muscles"}),
            OutputSpec("bone", "anat", "mask", entities={"label": "bone", "desc": "ref"}),
            OutputSpec("adc", "dwi", "ADC", entities={"desc": "fit"}, sidecar=IMAGE),
            OutputSpec("muscle_stats", "anat", "stats", ".tsv", entities={"desc": "muscles"}),
        )
    ],
]

pytestmark = pytest.mark.skipif(VALIDATOR is None, reason="bids-validator-deno is not installed")


def pipeline_specs() -> dict[str, IoSpec]:
    folder = Path(bids_alsmri.__file__).parent / "pipelines"
    return {path.parent.name: load_io_spec(path) for path in folder.glob("*/io_spec.json")}


def fill_file(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.endswith(".nii.gz"):
        # a series has as many volumes as its gradient table has columns
        shape = (3, 3, 3, 3) if path.name.endswith("_dwi.nii.gz") else (3, 3, 3)
        image = nib.Nifti1Image(np.ones(shape, dtype=np.float32), np.eye(4))
        image.header.set_xyzt_units("mm")
        nib.save(image, path)
    elif path.name.endswith("dseg.tsv"):
        path.write_text("index\tname\n1\ttube\n")
    elif path.suffix == ".tsv":
        path.write_text("region\tvalue\nwhole\t1\n")
    elif path.suffix == ".bvec":
        path.write_text("1 0 0\n0 1 0\n0 0 1\n")
    else:
        path.write_text("1000 1000 1000\n")


def save(output_dir: Path, scan: Scan, output: OutputSpec) -> None:
    path = output_path(output_dir, scan, output, VALUES)
    fill_file(path)
    content = sidecar(
        scan,
        output,
        sources=["bids:raw:sub-01/ses-m00/anat/sub-01_ses-m00_T1w.nii.gz"],
        settings={"b0_threshold": 50.0},
        version="0.1.0",
        values=VALUES,
    )
    if path.suffix not in {".bval", ".bvec"}:
        write_json(sidecar_path(path), content)


@pytest.fixture
def derivatives(tmp_path) -> Path:
    """A derivative folder with every file that a complete run leaves."""
    out, raw = tmp_path / "out", tmp_path / "raw"
    raw.mkdir()
    specs = pipeline_specs()
    write_description(out, raw, {}, "0.1.0")
    write_descriptions(out, specs)
    for session in ("m00", None):
        for name, spec in specs.items():
            scan = Scan(name, "01" if session else "02", session, {}, {}, {})
            for output in spec.outputs.values():
                if not output.given:
                    save(out, scan, output)
            for figure in spec.figures.values():
                fill_file(figure_path(out, scan, figure))
    for entities, output in PLANNED:
        save(out, Scan("planned", "01", "m00", entities, {}, {}), output)
    for suffix, desc in (("FA", "mean"), ("mask", "skeleton")):
        name = file_name({"tpl": TEMPLATE, "desc": desc}, suffix, ".nii.gz")
        fill_file(out / f"tpl-{TEMPLATE}" / "dwi" / name)
        write_json(sidecar_path(out / f"tpl-{TEMPLATE}" / "dwi" / name), {"SkullStripped": True})
    for extra in (
        "sub-01.html",
        "group.html",
        f"group/space-{TEMPLATE}_contrast-alsGtHc_stat-t_desc-tsc_statmap.nii.gz",
        "group/cohort.tsv",
        "logs/20260101T000000/settings.json",
        "logs/20260101T000000/crash.txt",
        "sub-01/ses-m00/dwi/.tmp-0123abcd-sub-01_ses-m00_dwi.nii.gz",
    ):
        fill_file(out / extra)
    return out


def errors(folder: Path, schema: str) -> list[str]:
    environment = dict(os.environ)
    if schema == "latest":
        bidsschematools = pytest.importorskip("bidsschematools")
        path = Path(bidsschematools.__file__).parent / "data" / "schema.json"
        environment["BIDS_SCHEMA"] = path.as_uri()
    run = subprocess.run(
        [str(VALIDATOR), "--json", str(folder)], capture_output=True, text=True, env=environment
    )
    issues = json.loads(run.stdout)["issues"]["issues"]
    return [
        f"{issue['code']} {issue.get('subCode', '')} {issue.get('location', '')}"
        for issue in issues
        if issue["severity"] == "error"
    ]


@pytest.mark.slow
@pytest.mark.parametrize("schema", ["bundled", "latest"])
def test_complete_derivatives_have_no_error(derivatives, schema):
    n_images = len(list(derivatives.rglob("*.nii.gz")))
    assert n_images > 40  # the tree is not empty by mistake
    assert errors(derivatives, schema) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("removed", "code"),
    [
        (".bidsignore", "NOT_INCLUDED"),
        (
            "sub-01/ses-m00/anat/sub-01_ses-m00_desc-tsc_PDmap.json",
            "SIDECAR_KEY_REQUIRED",
        ),
        ("dataset_description.json", "MISSING_DATASET_DESCRIPTION"),
    ],
)
def test_validator_sees_what_is_missing(derivatives, removed, code):
    (derivatives / removed).unlink()
    assert any(code in error for error in errors(derivatives, "bundled"))


@pytest.mark.slow
@pytest.mark.parametrize("schema", ["bundled", "latest"])
@pytest.mark.parametrize("key", ["SkullStripped", "SpatialReference", "Resolution"])
def test_keys_that_the_spec_demands_are_demanded_by_the_validator(derivatives, schema, key):
    name = f"sub-01_ses-m00_space-{TEMPLATE}_res-2_desc-tscSm8_PDmap.json"
    if key == "SpatialReference":
        name = "sub-01_ses-m00_space-T1w_res-2_desc-tsc_PDmap.json"
    path = derivatives / "sub-01/ses-m00/anat" / name
    content = json.loads(path.read_text())
    del content[key]
    path.write_text(json.dumps(content))
    assert any(key in error for error in errors(derivatives, schema))
