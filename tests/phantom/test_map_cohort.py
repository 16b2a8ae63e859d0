from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from bids_alsmri.engine.pipeline import registry
from bids_alsmri.engine.records import read_record
from bids_alsmri.phantom.__main__ import main
from bids_alsmri.phantom.map_cohort import PIPELINES
from bids_alsmri.phantom.map_settings import MapSettings

pytestmark = pytest.mark.slow

VOXEL_MM = 4.0
# what of these the participant level leaves in another form
TRANSFORM = "t1w_to_template"


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("maps")
    raw, out = root / "raw", root / "out"
    words = ["--participants", "4", "--seed", "5", "--template-mm", str(VOXEL_MM)]
    assert main([str(raw), "--maps-only", str(out), *words]) == 0
    return raw, out


def with_maps() -> list[str]:
    """Pipelines with maps that groups are compared on."""
    return [
        name
        for name, pipeline in registry().items()
        if any(spec.compared for spec in pipeline.io_spec.outputs.values())
    ]


@pytest.fixture(scope="module")
def records(folders):
    paths = sorted((folders[1] / "logs" / "scans").glob("*.json"))
    return {path.stem: read_record(path) for path in paths}


@pytest.fixture(scope="module")
def planned(folders, tmp_path_factory):
    """What the participant level finds in the raw dataset, and where it would save."""
    from bids_alsmri.engine.runner import new_workflow
    from bids_alsmri.participant import build_graphs
    from bids_alsmri.planning import make_plan
    from bids_alsmri.settings import make_run_settings

    models = {name: pipeline.settings for name, pipeline in registry().items()}
    work = tmp_path_factory.mktemp("work")
    settings = make_run_settings(
        {"bids_dir": folders[0], "output_dir": folders[1], "level": "participant"},
        {name: {"template_resolution_mm": VOXEL_MM} for name in with_maps()},
        models,
    )
    plan = make_plan(settings)
    workflow = new_workflow(work, work / "crashes", stop_on_first_crash=False)
    # none of the records fits its settings, so all steps are built
    return plan, build_graphs(settings, plan, workflow)


def test_records_are_whole_and_their_outputs_exist(folders, records):
    assert len(records) == 4 * len(PIPELINES)
    for record in records.values():
        assert record is not None
        assert record.is_whole
        assert all((folders[1] / path).is_file() for path in record.outputs.values())


def test_results_hold_every_map_that_groups_are_compared_on(records):
    labels = {"diffusion": "dir-AP", "sodium": "acq-sodium"}
    for pipeline in with_maps():
        label = labels[pipeline]
        outputs = registry()[pipeline].io_spec.outputs
        compared = {name for name, spec in outputs.items() if spec.compared or spec.covariate}
        compared |= {
            s.compared["unsmoothed"] for s in outputs.values() if "unsmoothed" in s.compared
        }
        assert compared
        for who in ("sub-01", "sub-04"):
            found = set(records[f"{who}_{label}_{pipeline}"].outputs)
            assert compared | {"quality"} <= found


def test_participant_level_finds_the_same_scans(records, planned):
    plan, _ = planned
    assert {f"{job.scan.label}_{job.pipeline.name}" for job in plan.jobs} == set(records)
    # nobody has images of muscle or a slab
    assert {skip.pipeline for skip in plan.skips} <= {"muscle", "cortex7t"}
    assert not any(skip.is_error for skip in plan.skips)
    assert all(job.record is not None for job in plan.jobs)


def test_names_equal_those_of_the_participant_level(folders, records, planned):
    _, graphs = planned
    for (pipeline, label), graph in graphs.items():
        outputs = records[f"{label}_{pipeline}"].outputs
        for name in (n for n in outputs if not n.endswith(" sidecar")):
            real = graph.destinations[name].relative_to(folders[1])
            if name == TRANSFORM:
                real = real.with_suffix(".txt")
            assert outputs[name] == str(real)


def test_identity_of_inputs_equals_that_of_the_participant_level(records, planned):
    plan, _ = planned
    for job in plan.jobs:
        identity = records[f"{job.scan.label}_{job.pipeline.name}"].identity
        assert identity.inputs == job.identity.inputs
        assert identity.version == job.identity.version


def test_diffusion_names_the_anatomical_result_that_it_builds_on(records):
    upstream = records["sub-02_dir-AP_diffusion"].identity.upstream
    assert upstream == {"anatomical": records["sub-02_anatomical"].identity.digest()}


def test_native_maps_come_to_the_template_through_the_transform(folders, records):
    from bids_alsmri.interfaces.registration import move_points

    out = folders[1]
    outputs = records["sub-03_dir-AP_diffusion"].outputs
    there = nib.load(out / outputs["template_md"])
    native = nib.load(out / outputs["md"])
    assert native.shape != there.shape
    voxels = np.argwhere(np.asarray(there.dataobj) > 0)[::997]
    transform = out / records["sub-03_anatomical"].outputs[TRANSFORM]
    points = move_points(nib.affines.apply_affine(there.affine, voxels), [transform])
    found = nib.affines.apply_affine(np.linalg.inv(native.affine), points)
    assert_allclose(found, np.round(found), atol=1e-3)  # voxels; float32 headers
    moved = np.linalg.norm(points - nib.affines.apply_affine(there.affine, voxels), axis=1)
    assert moved.min() > 1  # mm; otherwise the transform is not exercised
    index = tuple(np.round(found).astype(int).T)
    assert_array_equal(
        np.asarray(native.dataobj)[index], np.asarray(there.dataobj)[tuple(voxels.T)]
    )


def test_template_maps_lie_on_the_grid_of_the_template(folders, records):
    from bids_alsmri.spaces.templates import get_template

    mask = get_template("MNI152NLin2009aSym", VOXEL_MM).mask
    image = nib.load(folders[1] / records["sub-01_dir-AP_diffusion"].outputs["template_fa"])
    assert_allclose(image.affine, mask.affine)
    assert_array_equal(np.asarray(image.dataobj) > 0, np.asarray(mask.dataobj) > 0)


def test_written_tensor_maps_belong_to_one_tensor(folders, records):
    outputs = records["sub-02_dir-AP_diffusion"].outputs
    fa, md, ad, rd = (
        np.asarray(nib.load(folders[1] / outputs[name]).dataobj, dtype=np.float64)
        for name in ("fa", "md", "ad", "rd")
    )
    inside = np.asarray(nib.load(folders[1] / outputs["brain_mask"]).dataobj) > 0
    assert_array_equal(fa > 0, inside)
    values = np.stack([ad, rd, rd])[:, inside]
    assert_allclose(values.mean(axis=0), md[inside], rtol=1e-5)  # float32
    spread = ((values - values.mean(axis=0)) ** 2).sum(axis=0)
    assert_allclose(np.sqrt(1.5 * spread / (values**2).sum(axis=0)), fa[inside], rtol=1e-3)


def test_quality_table_has_the_columns_and_ranges_of_the_real_one(folders, records):
    from bids_alsmri.interfaces.images import quality_rows

    path = folders[1] / records["sub-01_dir-AP_diffusion"].outputs["quality"]
    table = pd.read_csv(path, sep="\t")
    text = (Path(registry()["diffusion"].folder) / "quality.json").read_text()
    facts = [{"measures": table[["measure", "value"]].to_dict("records")}]
    real = pd.DataFrame(quality_rows(facts, json.loads(text)))
    # written as text, a whole number is no float
    pd.testing.assert_frame_equal(table, real, check_dtype=False)
    assert not ((table["value"] < table["low"]) | (table["value"] > table["high"])).any()


def test_participants_table_holds_what_the_group_level_reads(folders):
    table = pd.read_csv(folders[0] / "participants.tsv", sep="\t", keep_default_na=False)
    assert table["group"].tolist() == ["hc", "als", "hc", "als"]
    assert table["progression"].tolist() == ["n/a", "fast", "n/a", "slow"]
    columns = {"age", "sex", "onset_site", "alsfrs_r", "disease_duration_months"}
    assert columns <= set(table.columns)


def test_truth_on_disk_is_what_was_planted(folders):
    folder = folders[0] / "derivatives" / "phantom" / "tpl-MNI152NLin2009aSym" / "dwi"
    where, difference = (
        np.asarray(nib.load(next(folder.glob(f"*_desc-{name}_statmap.nii.gz"))).dataobj)
        for name in ("fastPlanted", "mdFastDifference")
    )
    settings = MapSettings()
    expected = 1.2 * np.hypot(settings.between_sd["md"], settings.noise_sd["md"])
    assert_allclose(difference[where > 0], expected, rtol=1e-6)
    assert not difference[where == 0].any()


def test_validator_finds_no_error_in_raw_data_and_results(folders, validator_errors):
    for root in folders:
        assert validator_errors(root, newest_schema=True) == []
