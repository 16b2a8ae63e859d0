from __future__ import annotations

import json
from pathlib import Path

import pytest

from bids_alsmri.bids.spec import fill, load_io_spec, load_patterns, short_key
from bids_alsmri.errors import SettingsError

IMAGE = {"datatype": "dwi", "suffix": "ADC", "sidecar": {"SkullStripped": True}}


@pytest.fixture
def spec_file(tmp_path):
    def write(content: object) -> Path:
        path = tmp_path / "io_spec.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


def test_entities_are_read_under_short_or_long_names(spec_file):
    t1w = {"suffixes": ["T1w"], "datatypes": ["anat"], "excluded": {"acquisition": ["legs"]}}
    spec = load_io_spec(spec_file({"inputs": {"t1w": {**t1w, "absent": ["chunk", "echo"]}}}))
    assert spec.inputs["t1w"].excluded == {"acq": ("legs",)}
    assert spec.inputs["t1w"].absent == ("chunk", "echo")
    assert spec.inputs["t1w"].name == "t1w"


def test_shared_rule_can_be_narrowed(spec_file):
    spec = load_io_spec(
        spec_file(
            {"inputs": {"t1w": {"like": "brain_t1w", "required": False, "other_session": True}}}
        )
    ).inputs["t1w"]
    assert (spec.suffixes, spec.absent, spec.required) == (("T1w",), ("chunk",), False)
    assert spec.excluded == {"acq": ("legs", "hands", "paraspinal", "wholebody")}
    assert spec.metadata_allowed == {"BodyPart": ("BRAIN", "HEAD")}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"inputs": {\n  "t1w": }', "line 2, column 10"),
        ({"input": {}}, "unknown key 'input'"),
        ({"inputs": {"t1w": {"like": "brain_t1w", "sufixes": []}}}, "unknown key 'sufixes'"),
        ({"inputs": {"t1w": {"like": "brain"}}}, "known are brain_t1w"),
        ({"inputs": {"t1w": {"suffixes": ["T1w"]}}}, "lacks 'datatypes'"),
        ({"inputs": {"t1w": {"like": "brain_t1w", "many": "no"}}}, "must be true or false"),
        ({"inputs": {"t1w": {"like": "brain_t1w", "suffixes": "T1w"}}}, "list of texts"),
        ({"inputs": {"t1w": {"like": "brain_t1w", "absent": ["chunks"]}}}, "no BIDS entity"),
        ({"outputs": {"adc": {**IMAGE, "units": 1}}}, "outputs.adc.units is 1"),
        ({"outputs": {"adc": {**IMAGE, "stage": "both"}}}, "one of fit, apply"),
        ({"outputs": {"adc": {**IMAGE, "extension": "nii"}}}, "start with a dot"),
        ({"outputs": {"adc": {**IMAGE, "sidecar": {}}}}, "lacks SkullStripped"),
        ({"outputs": {"adc": {**IMAGE, "entities": {"space": "T1w"}}}}, "lacks SpatialReference"),
        ({"outputs": {"adc": {**IMAGE, "entities": {"res": "2"}}}}, "lacks Resolution"),
        ({"outputs": {"adc": {**IMAGE, "compared": {"map": "adc"}}}}, "one of tracts, volume"),
        (
            {"outputs": {"adc": {**IMAGE, "covariate": {"map": "gm", "analysis": "tracts"}}}},
            "covariate is {'map': 'gm', 'analysis': 'tracts'}; give a map and as its analysis one "
            "of volume",
        ),
        (
            {"outputs": {"adc": {**IMAGE, "covariate": {"name": "gm"}}}},
            "outputs.adc.covariate has the unknown key 'name'",
        ),
        ({"figures": {"fa": {"desc": "fa", "suffix": "dwi", "kind": "film"}}}, "still, flicker"),
        ({"figures": {"fa": {"desc": "fa", "suffix": "dwi", "labels": ["T1w"]}}}, "1 labels"),
        ({"figures": []}, "figures must be an object"),
    ],
)
def test_faulty_spec_is_refused_by_name(spec_file, content, words):
    path = spec_file(content)
    with pytest.raises(SettingsError) as caught:
        load_io_spec(path)
    assert words in str(caught.value)


def test_segmentations_need_no_skull_stripping(spec_file):
    mask = {"datatype": "anat", "suffix": "mask", "entities": {"space": "MNI152NLin2009aSym"}}
    assert load_io_spec(spec_file({"outputs": {"mask": mask}})).outputs["mask"].suffix == "mask"


@pytest.mark.parametrize("text", ["{1 0}", "a {} b", "{Upper}"])
def test_braces_that_are_no_placeholder_are_left_alone(text):
    assert fill(text, {}) == text


def test_placeholder_without_value_names_those_that_have_one():
    with pytest.raises(SettingsError, match=r"{resolution}.*gives template"):
        fill("{resolution}", {"template": "MNI152NLin6Asym"})


def test_entity_order_is_that_of_the_bids_schema():
    bidsschematools = pytest.importorskip("bidsschematools.schema")
    schema = bidsschematools.load_schema()
    due = [schema.objects.entities[long].name for long in schema.rules.entities]
    ours = [key for key in load_patterns().entities if key in due]
    assert ours == due


def test_names_indexes_and_spaces_are_those_of_the_bids_schema():
    bidsschematools = pytest.importorskip("bidsschematools.schema")
    schema = bidsschematools.load_schema()
    patterns = load_patterns()
    for long, entity in schema.objects.entities.items():
        assert short_key(long) == entity.name
        assert (entity.format == "index") == (entity.name in patterns.indexes)
    assert patterns.standard_spaces == set(schema.objects.enums._StandardTemplateCoordSys.enum)


def test_every_entity_name_of_pybids_is_known():
    from bids.layout import Config

    # the names that filter files written for fMRIPrep use
    for name in set(Config.load("bids").entities) - {"suffix", "datatype", "extension"}:
        if name not in {"scans", "fmap"}:  # kinds of file, not entities
            assert short_key(name) in load_patterns().entities
