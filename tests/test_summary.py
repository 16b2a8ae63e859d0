from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from bids_alsmri import summary
from bids_alsmri.engine.pipeline import registry
from bids_alsmri.errors import RunError
from bids_alsmri.participant import Result
from bids_alsmri.planning import Plan


def test_page_that_cannot_be_made_keeps_no_other_from_being_written(tmp_path, monkeypatch):
    written = []

    def write(settings, result, participant, command_line, path):
        if participant == "01":
            raise ValueError("damaged table")
        written.append(participant)
        return True

    monkeypatch.setattr(summary, "_write_report", write)
    result = Result(Plan(("01", "02"), (), ()), {}, datetime(2026, 1, 1, tzinfo=UTC))
    settings = SimpleNamespace(output_dir=tmp_path)
    with pytest.raises(RunError, match=r"sub-01\.html: cannot be made \(ValueError: damaged table"):
        summary.write_reports(settings, result, tmp_path, "")
    assert written == ["02"]


@pytest.mark.parametrize("sidecar", [None, "{"])
def test_quality_without_its_sidecar_is_shown_with_a_note(tmp_path, sidecar):
    path = tmp_path / "sub-01_desc-quality_stats.tsv"
    path.write_text("measure\tvalue\tunit\tlow\thigh\tdescription\nfd\t0.5\tmm\t\t1\tMotion\n")
    if sidecar is not None:
        path.with_suffix(".json").write_text(sidecar)
    rows, warnings, notes = summary._quality(SimpleNamespace(files={"quality": path}))
    assert [row.value for row in rows] == [0.5]
    assert warnings == []
    assert notes == ["sub-01_desc-quality_stats.json is missing or damaged: warnings are not shown"]


def test_measures_are_shown_in_words():
    names = ["wm_volume", "b0_snr", "noise_sd", "template_mask_overlap"]
    shown = ["white-matter volume", "b=0 SNR", "noise SD", "template mask overlap"]
    assert [summary._in_words(name) for name in names] == shown


def test_two_states_of_a_registration_are_named_in_the_report():
    spec = registry()["diffusion"].io_spec.figures["anatomy"]
    paths = (Path("before.svg"), Path("after.svg"))
    assert summary._figure(spec, paths, {}).labels == ("T1w", "mean DWI")
