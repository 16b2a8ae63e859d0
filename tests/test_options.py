from __future__ import annotations

import argparse
from pathlib import Path
from typing import Literal

import pytest

from bids_alsmri.errors import SettingsError
from bids_alsmri.options import (
    SettingsModel,
    add_to_parser,
    boutiques_inputs,
    options_of,
    resolve,
    setting,
)


class Toy(SettingsModel):
    """One setting of each kind."""

    radius: int = setting(0, help="Radius of a patch.", unit="voxel", ge=0, le=5, paper=2)
    share: float = setting(0.5, help="Share of voxels.", unit="1", gt=0, le=1)
    threshold_s_mm2: float = setting(
        50.0, help="Counts as b=0.", unit="s/mm2", ge=0, flags=("--b0-threshold",)
    )
    fit: Literal["wls", "ols"] = setting("wls", paper="ols", help="Estimator.")
    unring: bool = setting(True, paper=False, help="Take off ringing.")
    keep: bool = setting(False, help="Keep all.")
    smoothing_mm: tuple[float, ...] = setting((8.0, 4.0), help="Per round.", unit="mm")
    labels: tuple[str, ...] = setting((), help="Labels.")
    folders: dict[str, Path] = setting({}, help="Folders.")
    atlas: Path | None = setting(None, help="An atlas at 100 % of cases.")
    limit: int | None = setting(None, help="Most.", ge=1, unit="processes")
    internal: int = 3


def given_by(*words: str) -> dict[str, object]:
    parser = argparse.ArgumentParser(exit_on_error=False)
    for option in options_of(Toy, prefix="toy"):
        add_to_parser(parser, option, dest=option.name)
    return vars(parser.parse_args(words))


def option(name: str):
    return next(o for o in options_of(Toy, prefix="toy") if o.name == name)


def test_without_anything_given_the_default_counts():
    assert given_by() == {}
    assert resolve(Toy, "best", given_by()).radius == 0


def test_paper_value_wins_over_default():
    found = resolve(Toy, "paper", {})
    assert (found.radius, found.fit, found.unring) == (2, "ols", False)
    assert found.share == 0.5  # has no paper value


@pytest.mark.parametrize("mode", ["best", "paper"])
def test_given_value_wins_over_both_modes(mode):
    found = resolve(Toy, mode, given_by("--toy-radius", "1", "--toy-fit", "wls", "--toy-unring"))
    assert (found.radius, found.fit, found.unring) == (1, "wls", True)


def test_settings_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        resolve(Toy, "best", {}).radius = 3


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (("--toy-radius", "3"), "radius", 3),
        (("--b0-threshold", "60"), "threshold_s_mm2", 60.0),
        (("--toy-threshold-s-mm2", "60"), "threshold_s_mm2", 60.0),
        (("--no-toy-unring",), "unring", False),
        (("--toy-keep",), "keep", True),
        (("--toy-smoothing-mm", "3", "2", "1"), "smoothing_mm", (3.0, 2.0, 1.0)),
        (("--toy-smoothing-mm", "3", "--toy-smoothing-mm", "1"), "smoothing_mm", (1.0,)),
        (("--toy-labels", "a", "--toy-labels", "b", "c"), "labels", ("a", "b", "c")),
        (("--toy-atlas", "/x/../y"), "atlas", Path("/y")),
        (("--toy-limit", "4"), "limit", 4),
    ],
)
def test_flag_reaches_the_setting_in_its_type(words, name, value):
    assert getattr(resolve(Toy, "best", given_by(*words)), name) == value


def test_relative_path_is_kept_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolve(Toy, "best", given_by("--toy-atlas", "x.nii")).atlas == tmp_path / "x.nii"


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ({"radius": 6}, ("--toy-radius is 6", "0 to 5 voxel")),
        ({"radius": -1}, ("--toy-radius is -1", "0 to 5 voxel")),
        ({"radius": "many"}, ("--toy-radius is 'many'", "0 to 5 voxel")),
        ({"share": 0}, ("--toy-share is 0", "above 0 to 1")),
        ({"share": float("nan")}, ("--toy-share is nan", "above 0 to 1")),
        ({"threshold_s_mm2": -1.0}, ("--toy-threshold-s-mm2 is -1.0", "at least 0 s/mm2")),
        ({"fit": "best"}, ("--toy-fit is 'best'", "wls, ols")),
        ({"unring": "perhaps"}, ("--toy-unring is 'perhaps'", "true or false")),
        ({"smoothing_mm": ["a"]}, ("--toy-smoothing-mm is 'a'", "a number mm")),
        ({"limit": 0}, ("--toy-limit is 0", "at least 1 processes")),
        ({"raduis": 1}, ("raduis", "radius")),
    ],
)
def test_wrong_value_is_told_with_name_value_and_expectation(given, parts):
    with pytest.raises(SettingsError) as error:
        resolve(Toy, "best", given, prefix="toy")
    for part in parts:
        assert part in str(error.value)


def test_all_wrong_values_are_told_at_once():
    with pytest.raises(SettingsError, match=r"--toy-radius.*--toy-share"):
        resolve(Toy, "best", {"radius": 9, "share": 2}, prefix="toy")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("radius", "Radius of a patch. (in voxel; 0 to 5; default 0; in paper mode 2)"),
        ("share", "Share of voxels. (above 0 to 1; default 0.5)"),
        ("fit", "Estimator. (default wls; in paper mode ols)"),
        ("unring", "Take off ringing. (default on; in paper mode off)"),
        ("keep", "Keep all."),
        ("smoothing_mm", "Per round. (in mm; default 8.0 4.0)"),
        ("limit", "Most. (in processes; at least 1)"),
    ],
)
def test_help_tells_unit_range_default_and_paper_value(name, text):
    assert option(name).long_help == text


def test_percent_sign_in_help_does_not_break_the_parser(capsys):
    parser = argparse.ArgumentParser()
    add_to_parser(parser, option("atlas"), dest="atlas")
    assert "100 % of cases" in " ".join(parser.format_help().split())


def test_field_without_description_is_no_option():
    assert "internal" not in {o.name for o in options_of(Toy)}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("radius", [("toy_radius", "Number", "--toy-radius")]),
        ("fit", [("toy_fit", "String", "--toy-fit")]),
        # a Boutiques flag cannot switch off
        (
            "unring",
            [("toy_unring", "Flag", "--toy-unring"), ("no_toy_unring", "Flag", "--no-toy-unring")],
        ),
        ("keep", [("toy_keep", "Flag", "--toy-keep")]),
        ("atlas", [("toy_atlas", "File", "--toy-atlas")]),
    ],
)
def test_boutiques_entry_has_type_and_flag(name, expected):
    found = [(e["id"], e["type"], e["command-line-flag"]) for e in boutiques_inputs(option(name))]
    assert found == expected


def test_boutiques_entry_has_range_and_choices():
    (share,) = boutiques_inputs(option("share"))
    assert (share["minimum"], share["exclusive-minimum"], share["maximum"]) == (0, True, 1)
    assert boutiques_inputs(option("fit"))[0]["value-choices"] == ["wls", "ols"]
    assert boutiques_inputs(option("radius"))[0]["integer"] is True
    assert boutiques_inputs(option("smoothing_mm"))[0]["list"] is True
