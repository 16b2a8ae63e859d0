from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from bids_alsmri.cli import parse
from bids_alsmri.errors import ExitCode, SettingsError
from bids_alsmri.options import SettingsModel, setting
from bids_alsmri.settings import (
    cgroup_limits,
    make_run_settings,
    read_settings_file,
    usable_cores,
    usable_memory_gb,
)

BASE = {"bids_dir": "/raw", "output_dir": "/out", "level": "participant"}


class Toy(SettingsModel):
    factor: float = setting(2.0, paper=3.0, help="Factor.", ge=0)
    labels: tuple[str, ...] = setting(("a",), help="Labels.")


def make(run=(), toy=()):
    return make_run_settings({**BASE, **dict(run)}, {"toy": dict(toy)}, {"toy": Toy})


@pytest.mark.parametrize(
    ("run", "toy", "factor"),
    [
        ({}, {}, 2.0),
        ({"mode": "paper"}, {}, 3.0),
        ({"mode": "paper"}, {"factor": 2.0}, 2.0),
        ({}, {"factor": 0}, 0.0),
    ],
)
def test_mode_decides_only_what_is_not_given(run, toy, factor):
    assert make(run, toy).pipelines["toy"].factor == factor


def test_settings_file_gives_the_same_settings(tmp_path):
    first = make(
        {"mode": "paper", "mem_gb": 3.5, "derivatives": ["smriprep=/d"], "seed": 7, "n_procs": 2},
        {"labels": ["x", "y"]},
    )
    path = tmp_path / "settings.json"
    path.write_text(first.as_json("1.0"))
    run, pipelines = read_settings_file(path)
    assert make_run_settings(run, pipelines, {"toy": Toy}) == first
    assert json.loads(path.read_text())["version"] == "1.0"


def test_paper_value_stays_when_the_file_is_read_without_its_mode(tmp_path):
    path = tmp_path / "settings.json"
    path.write_text(make({"mode": "paper"}).as_json("1.0"))
    run, pipelines = read_settings_file(path)
    again = make_run_settings({**run, "mode": "best"}, pipelines, {"toy": Toy})
    assert again.pipelines["toy"].factor == 3.0  # a value given by file wins


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"no valid JSON at line 1, column 2"),
        ("[1]", "expected an object"),
        ('{"runs": {}}', "expected an object"),
        ('{"run": [1]}', "expected an object"),
        ('{"pipelines": {"toy": 3}}', "expected an object"),
        ('{"pipelines": []}', "expected an object"),
    ],
)
def test_broken_settings_file_is_told(tmp_path, text, message):
    path = tmp_path / "settings.json"
    path.write_text(text)
    with pytest.raises(SettingsError, match=message) as error:
        read_settings_file(path)
    assert str(path) in str(error.value)
    assert error.value.exit_code == ExitCode.USAGE


def test_settings_file_that_is_absent_or_no_text_is_told(tmp_path):
    with pytest.raises(SettingsError, match="No such file"):
        read_settings_file(tmp_path / "none.json")
    (tmp_path / "latin.json").write_bytes(b'{"run": "\xe9"}')
    with pytest.raises(SettingsError, match="UTF-8"):
        read_settings_file(tmp_path / "latin.json")


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ({"n_procs": 0}, r"--n-procs is 0; it must be at least 1"),
        ({"mem_gb": 0}, r"--mem-gb is 0; it must be above 0 GB"),
        ({"seed": -1}, r"--seed is -1; it must be at least 0"),
        ({"mode": "fast"}, r"--mode is 'fast'; it must be best, paper"),
        ({"derivatives": ["smriprep"]}, r"'smriprep' is not of the form NAME=PATH"),
        ({"derivatives": ["=/data"]}, "NAME=PATH"),
        ({"derivatives": ["a="]}, "NAME=PATH"),
        ({"derivatives": ["a=/x", "a=/y"]}, "'a' is given twice"),
        ({"colour": "red"}, "colour"),
        ({"pipeline_names": ["cardiac"]}, "cardiac unknown; there are toy"),
    ],
)
def test_wrong_run_setting_is_told(run, message):
    with pytest.raises(SettingsError, match=message) as error:
        make(run)
    assert error.value.exit_code == ExitCode.USAGE


def test_settings_of_an_unknown_pipeline_are_refused():
    with pytest.raises(SettingsError, match="cardiac"):
        make_run_settings(BASE, {"cardiac": {}}, {"toy": Toy})


def test_unknown_level_has_its_own_code():
    with pytest.raises(SettingsError, match="'session' is unknown") as error:
        make({"level": "session"})
    assert error.value.exit_code == ExitCode.UNKNOWN_LEVEL


def test_path_of_a_derivative_may_hold_an_equals_sign():
    assert make({"derivatives": ["a=/x=1"]}).derivatives == {"a": Path("/x=1")}


@pytest.mark.parametrize(
    ("words", "mem_gb"), [(("--mem-gb", "1.5"), 1.5), (("--mem-mb", "1500"), 1.5), ((), None)]
)
def test_memory_is_given_in_gb_or_mb(words, mem_gb):
    assert parse(["/raw", "/out", "participant", *words]).mem_gb == mem_gb


def test_memory_in_both_units_is_a_usage_error():
    with pytest.raises(SettingsError, match="--mem-gb and --mem-mb are both given") as error:
        parse(["/raw", "/out", "participant", "--mem-gb", "2", "--mem-mb", "2000"])
    assert error.value.exit_code == ExitCode.USAGE


def test_flag_wins_over_file_and_file_over_paper(tmp_path):
    path = tmp_path / "settings.json"
    path.write_text(
        json.dumps(
            {
                "run": {**BASE, "mode": "paper", "mem_gb": 2, "n_procs": 3},
                "pipelines": {"diffusion": {"tensor_fit": "wls", "unringing": True}},
            }
        )
    )
    found = parse(["--settings", str(path), "--diffusion-tensor-fit", "robust", "--mem-mb", "500"])
    diffusion = found.pipelines["diffusion"]
    assert diffusion.tensor_fit == "robust"  # flag
    assert diffusion.unringing is True  # file; the paper value is off
    assert diffusion.denoising == "local_pca"  # paper
    assert diffusion.b0_threshold_s_mm2 == 50.0  # default
    assert (found.mem_gb, found.n_procs, found.mode) == (0.5, 3, "paper")


def settings_file(folder: Path, mode: str) -> str:
    path = folder / "settings.json"
    path.write_text(parse(["/raw", "/out", "participant", "--mode", mode]).as_json("0"))
    return str(path)


@pytest.mark.parametrize(("kept", "asked"), [("best", "paper"), ("paper", "best")])
def test_mode_other_than_that_of_a_whole_settings_file_is_refused(tmp_path, kept, asked):
    path = settings_file(tmp_path, kept)
    message = rf"--mode is {asked}, but .*settings.json holds .* in mode {kept}.*leave --mode out"
    with pytest.raises(SettingsError, match=message):
        parse(["--settings", path, "--mode", asked])


@pytest.mark.parametrize("mode", ["best", "paper"])
@pytest.mark.parametrize("is_repeated", [False, True])
def test_mode_of_a_settings_file_is_that_of_its_run(tmp_path, mode, is_repeated):
    path = settings_file(tmp_path, mode)
    found = parse(["--settings", path, *(["--mode", mode] if is_repeated else [])])
    assert found == parse(["/raw", "/out", "participant", "--mode", mode])


@pytest.mark.parametrize("pipelines", [{}, {"diffusion": {"unringing": True}}])
def test_mode_by_flag_wins_over_a_file_with_some_values(tmp_path, pipelines):
    path = tmp_path / "settings.json"
    path.write_text(json.dumps({"run": {**BASE, "mode": "best"}, "pipelines": pipelines}))
    found = parse(["--settings", str(path), "--mode", "paper"])
    usual = parse(["/raw", "/out", "participant", "--mode", "paper"]).pipelines["diffusion"]
    assert found.mode == "paper"
    assert found.pipelines["diffusion"] == usual.model_copy(update=pipelines.get("diffusion", {}))


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def test_tightest_limit_of_nested_groups_counts(tmp_path):
    """As SLURM sets it: on the job's group and not on the root."""
    root = tmp_path / "cgroup"
    write(root, cpu__max="max 100000\n", memory__max="max\n")
    write(root / "slurm" / "job", cpu__max="200000 100000\n", memory__max="8000000000\n")
    write(root / "slurm" / "job" / "step", cpu__max="max 100000\n", memory__max="9000000000\n")
    own = tmp_path / "own"
    own.write_text("0::/slurm/job/step\n")
    assert cgroup_limits(root, own) == {"cores_millis": 2000, "memory_bytes": 8_000_000_000}


def test_container_limit_at_the_root_counts(tmp_path):
    root = tmp_path / "cgroup"
    write(root, cpu__max="150000 100000\n", memory__max="4000000000\n")
    own = tmp_path / "own"
    own.write_text("0::/docker/abc\n")  # a name that the container does not see
    assert cgroup_limits(root, own) == {"cores_millis": 1500, "memory_bytes": 4_000_000_000}


def test_limits_of_version_1_count(tmp_path):
    root = tmp_path / "cgroup"
    write(
        root / "cpu,cpuacct" / "job",
        **{"cpu__cfs_quota_us": "400000", "cpu__cfs_period_us": "100000"},
    )
    write(root / "memory" / "job", memory__limit_in_bytes="2000000000")
    own = tmp_path / "own"
    own.write_text("4:cpu,cpuacct:/job\n9:memory:/job\n0::/\n")
    assert cgroup_limits(root, own) == {"cores_millis": 4000, "memory_bytes": 2_000_000_000}


@pytest.mark.parametrize("quota", ["max 100000", "-1 100000", "", "nonsense"])
def test_no_limit_is_no_limit(tmp_path, quota):
    write(tmp_path, cpu__max=quota, memory__max="max")
    assert cgroup_limits(tmp_path, tmp_path / "none") == {}


def test_limits_reach_what_may_be_used():
    cores = len(os.sched_getaffinity(0))
    assert usable_cores({}) == cores
    assert usable_cores({"cores_millis": 500}) == 1
    assert usable_cores({"cores_millis": 1_000_000}) == cores
    assert usable_memory_gb({"memory_bytes": 10**6}) == pytest.approx(1e-3)
    # version 1 writes a huge number for no limit
    assert usable_memory_gb({"memory_bytes": 2**63}) == usable_memory_gb({})
