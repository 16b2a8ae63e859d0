"""Anatomy of sMRIPrep takes the place of our own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

OURS = "MNI152NLin2009aSym"
THEIRS = "MNI152NLin2009cAsym"
NATIVE = [
    "desc-preproc_T1w",
    "desc-brain_mask",
    *(f"label-{t}_probseg" for t in ("GM", "WM", "CSF")),
]
OWN_STEPS = {"extract_brain", "correct_bias", "segment_tissues"}


@pytest.fixture
def smriprep(finished, tmp_path):
    """Make a dataset with the names of sMRIPrep 0.16 from results of the run."""

    def make(*, template: str) -> Path:
        root = tmp_path / "smriprep"
        folder = root / "sub-01" / "anat"
        folder.mkdir(parents=True)
        own = finished.folder("01") / "anat"
        for tail in NATIVE:
            shutil.copy(own / f"sub-01_{tail}.nii.gz", folder)
            (folder / f"sub-01_{tail}.json").write_text('{"SkullStripped": false}')
            # the same in template space, which must not be taken for it
            in_space = tail.replace("desc", f"space-{template}_desc").replace(
                "label", f"space-{template}_label"
            )
            shutil.copy(own / f"sub-01_{tail}.nii.gz", folder / f"sub-01_{in_space}.nii.gz")
        for ends in (("T1w", "{}"), ("{}", "T1w")):
            name = "sub-01_from-{}_to-{}_mode-image_xfm.h5".format(*ends)
            shutil.copy(own / name.format(OURS), folder / name.format(template))
        description = {
            "Name": "sMRIPrep - Structural MRI PREProcessing workflow",
            "BIDSVersion": "1.4.0",
            "DatasetType": "derivative",
            "GeneratedBy": [{"Name": "sMRIPrep", "Version": "0.16.1"}],
        }
        (root / "dataset_description.json").write_text(json.dumps(description))
        return root

    return make


def anatomical(graphs):
    return graphs["anatomical", "sub-01"]


def steps(graph) -> set[str]:
    return {node.name.removeprefix("sub_01_anatomical_") for node in graph.nodes}


@pytest.mark.slow
@pytest.mark.parametrize(("template", "is_registered_here"), [(THEIRS, True), (OURS, False)])
def test_adopted_results_replace_our_own_steps(
    smriprep, cohort, tmp_path, run_settings, built, template, is_registered_here
):
    root = smriprep(template=template)
    given = {"derivatives": {"smriprep": root}}
    graph = anatomical(built(run_settings(cohort, tmp_path / "out", given)))
    own = anatomical(built(run_settings(cohort, tmp_path / "other")))
    assert steps(own) >= OWN_STEPS | {"register"}
    assert not steps(graph) & OWN_STEPS
    # a transform to another space is none of ours
    assert ("register" in steps(graph)) == is_registered_here
    adopted = {path.name for path in graph.adopted.values()}
    assert {f"sub-01_{tail}.nii.gz" for tail in NATIVE} <= adopted
    assert len(adopted) == (len(NATIVE) if is_registered_here else len(NATIVE) + 2)


@pytest.mark.slow
def test_incomplete_anatomy_is_not_adopted(smriprep, cohort, tmp_path, run_settings, built):
    root = smriprep(template=OURS)
    (root / "sub-01" / "anat" / "sub-01_label-WM_probseg.nii.gz").unlink()
    given = {"derivatives": {"smriprep": root}}
    graph = anatomical(built(run_settings(cohort, tmp_path / "out", given)))
    assert steps(graph) >= OWN_STEPS | {"register"}
    assert graph.adopted == {}


@pytest.mark.slow
def test_run_with_adopted_anatomy_gives_its_results(smriprep, finished, app, tmp_path, results):
    root = smriprep(template=OURS)
    out = tmp_path / "out"
    words = ("-d", f"smriprep={root}", "--pipelines", "anatomical", "--participant-label", "01")
    done = app.run(finished.raw, out, "-w", tmp_path / "work", *words)
    assert done.returncode == 0, done.stderr
    found, expected = results(out, "01"), results(finished.out, "01")
    same = [name for name in found if name.endswith((".nii.gz", ".h5"))]
    assert len(same) == 8
    assert {name: found[name] for name in same} == {name: expected[name] for name in same}
    sidecar = json.loads((out / "sub-01/anat/sub-01_desc-brain_mask.json").read_text())
    assert "bids:smriprep:sub-01/anat/sub-01_desc-brain_mask.nii.gz" in sidecar["Sources"]
    quality = "sub-01/anat/sub-01_desc-quality_stats.tsv"
    tables = [
        pd.read_csv(folder / quality, sep="\t").set_index("measure")["value"]
        for folder in (out, finished.out)
    ]
    for name in ("brain_volume", "template_wm_overlap"):
        assert tables[0][name] == pytest.approx(tables[1][name], rel=1e-6)
    page = " ".join((out / "sub-01.html").read_text().split())
    assert "brain and tissues were taken from --derivatives" in page
