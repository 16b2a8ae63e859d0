from __future__ import annotations

import io
import logging
from types import SimpleNamespace

import pytest
from rich.console import Console

from bids_alsmri.engine.progress import Reporter, step_of

GROUPS = {
    "sub_01_diffusion_fit": "sub-01 diffusion",
    "sub_01_diffusion_save_fa": "sub-01 diffusion",
    "sub_02_diffusion_fit": "sub-02 diffusion",
}


def report(calls, *, terminal=False):
    stream = io.StringIO()
    reporter = Reporter(GROUPS, Console(file=stream, force_terminal=terminal, width=120))
    with reporter:
        for name, status in calls:
            reporter(SimpleNamespace(name=name), status)
    return reporter, stream.getvalue()


def test_log_line_names_scan_step_and_time(caplog):
    caplog.set_level(logging.INFO)
    calls = [("sub_01_diffusion_fit", "start"), ("sub_01_diffusion_fit", "end")]
    reporter, drawn = report(calls)
    assert [r.message for r in caplog.records] == ["sub-01 diffusion: fit done in 0.0 s"]
    assert drawn == ""
    assert list(reporter.times.seconds) == ["sub_01_diffusion_fit"]


def test_saves_are_not_told(caplog):
    caplog.set_level(logging.INFO)
    report([("sub_01_diffusion_save_fa", "start"), ("sub_01_diffusion_save_fa", "end")])
    assert caplog.records == []


def test_failure_is_told_as_an_error(caplog):
    calls = [("sub_02_diffusion_fit", "start"), ("sub_02_diffusion_fit", "exception")]
    reporter, _ = report(calls)
    (record,) = caplog.records
    assert (record.levelname, record.message) == ("ERROR", "sub-02 diffusion: fit failed")
    assert reporter.times.failed == {"sub_02_diffusion_fit"}


def test_step_that_never_started_is_not_called_done(caplog):
    caplog.set_level(logging.DEBUG)
    reporter, _ = report([("sub_01_diffusion_fit", "end")])
    assert "not run" in caplog.records[0].message
    assert reporter.times.seconds == {}


def test_times_of_items_add_up(monkeypatch):
    clock = iter([0.0, 1.0, 1.0, 3.0, 3.0, 3.5])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    calls = []
    for name in ("_sub_01_diffusion_fit0", "_sub_01_diffusion_fit1", "sub_01_diffusion_fit"):
        calls += [(name, "start"), (name, "end")]
    reporter, _ = report(calls)
    assert reporter.times.seconds == {"sub_01_diffusion_fit": pytest.approx(3.5)}


def test_display_on_a_terminal_counts_steps():
    calls = [("sub_01_diffusion_fit", "start"), ("sub_01_diffusion_fit", "end")]
    _, drawn = report(calls, terminal=True)
    assert "sub-01 diffusion" in drawn
    assert "1/2" in drawn
    assert "0/1" in drawn


def test_item_does_not_advance_the_display():
    calls = [("_sub_01_diffusion_fit0", "start"), ("_sub_01_diffusion_fit0", "end")]
    _, drawn = report(calls, terminal=True)
    assert "1/2" not in drawn


@pytest.mark.parametrize(
    ("node", "step"),
    [("fit2", "fit2"), ("_fit20", "fit2"), ("_fit2", None), ("_fit", None), ("fit20", None)],
)
def test_item_is_told_from_a_step_that_ends_in_a_digit(node, step):
    assert step_of(node, {"fit2"}) == step


def test_strange_node_is_passed_over():
    reporter, _ = report([("something_else", "start"), ("something_else", "end")])
    assert reporter.times.seconds == {}
