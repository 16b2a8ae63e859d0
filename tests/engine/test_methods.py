from __future__ import annotations

import re

import pytest

from bids_alsmri.engine import methods
from bids_alsmri.engine.methods import cited_keys, methods_text, references
from bids_alsmri.engine.pipeline import Pipeline, registry, with_needs
from bids_alsmri.errors import SettingsError
from bids_alsmri.options import SettingsModel, setting


class Toy(SettingsModel):
    factor: float = setting(2.0, help="Factor.")


@pytest.fixture
def pipeline(tmp_path, monkeypatch):
    from bids_alsmri import pipelines

    monkeypatch.setattr(pipelines, "__path__", [str(tmp_path)])

    def make(text: str) -> Pipeline:
        (tmp_path / "toy").mkdir(exist_ok=True)
        (tmp_path / "toy" / "methods.md").write_text(text)
        return Pipeline("toy", "Toy", Toy, "t1w", lambda settings: ())

    return make


def test_text_is_filled_with_settings_and_facts(pipeline):
    text = "Times {{ cfg.factor }} in {{ template }} [@smith2006]."
    found = methods_text(pipeline(text), Toy(), {"template": "MNI"})
    assert found == "Times 2.0 in MNI [@smith2006]."


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{ cfg.fctor }}", "toy/methods.md: .*fctor"),
        ("{{ nothing }}", "toy/methods.md: 'nothing' is undefined"),
        ("{% if %}", "toy/methods.md"),
        ("As before [@nobody1900].", "cites nobody1900, not in references.json"),
        ("As before [@smith2006; @nobody1900].", "cites nobody1900"),
    ],
)
def test_text_that_does_not_resolve_is_refused(pipeline, text, message):
    with pytest.raises(SettingsError, match=message):
        methods_text(pipeline(text), Toy(), {})


@pytest.mark.parametrize("has_anatomy", [True, False])
def test_series_is_registered_to_the_t1w_only_where_there_is_one(has_anatomy):
    diffusion = registry()["diffusion"]
    facts = {"template": "T", "version": "0", "mode": "best", "has_anatomy": has_anatomy}
    text = methods_text(diffusion, diffusion.settings(), facts)
    assert ("volumes was registered to the T1-weighted image" in text) == has_anatomy
    assert ("For want of a T1-weighted image" in text) != has_anatomy


def test_address_is_no_citation():
    assert cited_keys(["write to me@example.org [@smith2006]"]) == ["smith2006"]


def test_keys_come_once_in_order_of_citation():
    assert cited_keys(["[@b2; @a1]", "[@a1] [@c3]"]) == ["b2", "a1", "c3"]


@pytest.mark.parametrize("key", sorted(references()))
def test_reference_is_complete(key):
    work = references()[key]
    assert re.search(r"\((19|20)\d\d\)\. ", work.text)
    assert work.text.endswith(".")
    assert ".." not in work.text
    assert not work.doi or re.fullmatch(r"10\.\d{4,}/\S+", work.doi)
    year = re.search(r"\d{4}$", key)
    assert year is None or f"({year[0]})" in work.text


def test_long_lists_of_authors_are_cut():
    entry = {
        "id": "x2000",
        "author": [{"family": f"F{i}", "given": "Ada-Jo B."} for i in range(5)],
        "issued": {"date-parts": [[2000]]},
        "title": "T",
        "container-title": "J",
    }
    assert methods._work(entry).text == "F0 AJB, F1 AJB, F2 AJB, et al. (2000). T. J."


def test_registry_puts_a_pipeline_after_those_it_needs():
    names = list(registry())
    for name, pipeline in registry().items():
        assert all(names.index(need) < names.index(name) for need in pipeline.needs)


def test_pipeline_asked_for_brings_those_it_needs():
    for name, pipeline in registry().items():
        assert set(pipeline.needs) <= set(with_needs((name,)))
    assert with_needs(()) == tuple(registry())
