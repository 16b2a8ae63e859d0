from __future__ import annotations

import gzip
import itertools
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from bids_alsmri.cli import main, make_parser, parse, pipeline_options, run_options
from bids_alsmri.descriptor import make_descriptor
from bids_alsmri.engine.methods import cited_keys, methods_text, references
from bids_alsmri.engine.pipeline import registry
from bids_alsmri.errors import SettingsError
from bids_alsmri.options import resolve

PROJECT = Path(__file__).resolve().parents[1]
# texts and switches have no unit; these numbers are counts of nothing
WITHOUT_UNIT = {"seed"}
OPTIONS = [*run_options(), *itertools.chain(*pipeline_options().values())]


def ids(option):
    return option.flags[0]


@pytest.fixture
def dataset(tmp_path):
    root = tmp_path / "raw"
    (root / "sub-01" / "anat").mkdir(parents=True)
    (root / "sub-01" / "anat" / "sub-01_T1w.nii.gz").write_text("image")
    (root / "dataset_description.json").write_text('{"Name": "toy", "BIDSVersion": "1.10.0"}')
    return root


def code_of(capsys, *words):
    """Exit code of a call, and what it wrote to standard error."""
    code = main([str(word) for word in words])
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return int(code), error


@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_help_and_version_load_nothing_slow(flag):
    script = (
        "import sys\n"
        "from bids_alsmri.cli import main\n"
        "try:\n"
        f"    main(['{flag}'])\n"
        "except SystemExit as end:\n"
        "    assert end.code == 0\n"
        "slow = {'nipype', 'numpy', 'pandas', 'bids', 'nibabel', 'scipy', 'ants', 'dipy'}\n"
        "sys.exit(', '.join(sorted(slow & set(sys.modules))) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "bids_alsmri" in done.stdout


def test_module_and_command_are_one_program():
    done = subprocess.run(
        [sys.executable, "-m", "bids_alsmri", "--version"], capture_output=True, text=True
    )
    command = Path(sys.executable).with_name("bids_alsmri")
    other = subprocess.run([command, "--version"], capture_output=True, text=True)
    assert done.stdout == other.stdout
    assert re.fullmatch(r"bids_alsmri \d+\.\d+\.\d+\S*\n", done.stdout)


def test_help_names_every_flag_and_exit_code():
    text = make_parser().format_help()
    for option in OPTIONS:
        for flag in option.flags:
            assert re.search(rf"(^|\s){re.escape(flag)}[\s,]", text), flag
    for code in (0, 1, 16, 17, 18, 64, 65, 66, 73):
        assert re.search(rf"\b{code} ", text)


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        *[
            ((flag, "3"), "n_procs", 3)
            for flag in ("--n-procs", "--nprocs", "--nthreads", "--n-cpus", "--n_cpus")
        ],
        (("--session-id", "m00"), "session_label", ("m00",)),
        (("--session-label", "ses-m00", "m06"), "session_label", ("ses-m00", "m06")),
        (("--participant-label", "sub-01", "02"), "participant_label", ("sub-01", "02")),
        (("--pipelines", "diffusion"), "pipeline_names", ("diffusion",)),
        (("-w", "/w"), "work_dir", Path("/w")),
        (("--work-dir", "/w"), "work_dir", Path("/w")),
        (("-d", "a=/x", "-d", "b=/y"), "derivatives", {"a": Path("/x"), "b": Path("/y")}),
        (("--derivatives", "a=/x", "b=/y"), "derivatives", {"a": Path("/x"), "b": Path("/y")}),
        (("--mode", "paper"), "mode", "paper"),
        (("--skip-bids-validation",), "skip_bids_validation", True),
    ],
)
def test_flag_and_its_aliases_reach_the_settings(words, name, value):
    assert getattr(parse(["/raw", "/out", "participant", *words]), name) == value


@pytest.mark.parametrize(
    "words",
    [
        ["/raw", "/out", "participant", "--mode", "paper"],
        ["--mode", "paper", "/raw", "/out", "participant"],
        ["/raw", "/out", "--mode", "paper", "participant"],
        ["/raw", "--mode", "paper", "/out", "participant"],
    ],
)
def test_positionals_may_stand_anywhere(words):
    found = parse(words)
    assert (found.bids_dir, found.output_dir) == (Path("/raw"), Path("/out"))
    assert (found.level, found.mode) == ("participant", "paper")


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("/raw",),
        ("/raw", "/out"),
        ("/raw", "/out", "participant", "--colour"),
        ("/raw", "/out", "participant", "--n-procs", "many"),
        ("/raw", "/out", "participant", "--n-procs", "0"),
        ("/raw", "/out", "participant", "--mode", "fast"),
        ("/raw", "/out", "participant", "--mode"),
        ("/raw", "/out", "participant", "surplus"),
        ("/raw", "/out", "participant", "--part", "01"),  # no abbreviations
        ("/raw", "/out", "participant", "--mem-gb", "2", "--mem-mb", "2000"),
        ("/raw", "/out", "participant", "--pipelines", "cardiac"),
        ("/raw", "/out", "participant", "-d", "smriprep"),
        ("/raw", "/out", "participant", "--settings", "/nowhere.json"),
        ("/raw", "/out", "participant", "--diffusion-patch-step", "-3"),
    ],
)
def test_wrong_call_ends_with_64(capsys, words):
    code, error = code_of(capsys, *words)
    assert code == 64
    assert error.startswith("bids_alsmri: ")


@pytest.mark.parametrize("option", OPTIONS, ids=ids)
def test_every_long_flag_may_be_spelled_with_underscores(option):
    values = list(option.default) if option.is_list else [option.default]
    if option.kind is bool:
        values = []
    elif values in ([], [None]):
        values = {"derivatives": ["name=/x"], "pipeline_names": ["diffusion"]}.get(
            option.name, ["1"]
        )
    for flag in (flag for flag in option.flags if flag.startswith("--")):
        found = [
            parse(["/raw", "/out", "participant", spelling, *(str(value) for value in values)])
            for spelling in (flag, "--" + flag[2:].replace("-", "_"))
        ]
        assert found[0] == found[1]


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (("--participant_label=a_b",), "participant_label", ("a_b",)),
        (("--no-skip_bids_validation",), "skip_bids_validation", False),
        (("--work_dir", "/some_where"), "work_dir", Path("/some_where")),
    ],
)
def test_underscores_of_values_are_kept(words, name, value):
    assert getattr(parse(["/raw", "/out", "participant", *words]), name) == value


@pytest.mark.parametrize(
    "words",
    [
        ("--fs-license-file", "lic.txt", "/raw", "/out", "participant"),
        ("--fs-license-file", "lic.txt", "/raw", "/out"),
        ("/raw", "/out", "--fs-license-file", "lic.txt"),
        ("/raw", "/out", "--fs-license-file", "lic.txt", "participant"),
        ("/raw", "/out", "participant", "--fs-license-file", "lic.txt"),
        ("--notrack", "/raw", "/out", "session"),
        ("/raw", "/out", "surplus", "participant"),
    ],
)
def test_flag_of_another_program_is_no_unknown_level(capsys, words):
    code, error = code_of(capsys, *words)
    assert code == 64
    assert "unrecognized arguments" in error


@pytest.mark.parametrize(
    "words",
    [
        ("/raw", "/out", "session"),
        ("/raw", "/out", "session", "--colour", "red"),
        ("/raw", "/out", "session", "--n-procs", "many"),
        ("/raw", "/out", "session", "--mode", "fast"),
        ("/raw", "/out", "session", "--mode"),
        ("--mode", "fast", "/raw", "/out", "session"),
        ("/raw", "/out", "session", "--settings", "/nowhere.json"),
        ("/raw", "/out", "session", "--mem-gb", "1", "--mem-mb", "1"),
    ],
)
def test_unknown_level_wins_over_other_faults(capsys, words):
    code, error = code_of(capsys, *words)
    assert code == 17
    assert "'session' is unknown; give one of participant, group" in error


def test_absent_dataset_ends_with_66_and_writes_nothing(capsys, tmp_path):
    code, error = code_of(capsys, tmp_path / "raw", tmp_path / "out", "participant")
    assert code == 66
    assert str(tmp_path / "raw") in error
    assert list(tmp_path.iterdir()) == []


def test_dataset_without_participants_ends_with_66(capsys, dataset, tmp_path):
    (dataset / "sub-01").rename(dataset / "subject-01")
    assert code_of(capsys, dataset, tmp_path / "out", "participant")[0] == 66


@pytest.mark.parametrize("text", [None, "{", "[]", '{"Name": "x"}'])
def test_broken_description_ends_with_16(capsys, dataset, tmp_path, text):
    path = dataset / "dataset_description.json"
    path.unlink()
    if text is not None:
        path.write_text(text)
    code, error = code_of(capsys, dataset, tmp_path / "out", "participant")
    assert code == 16
    assert str(path) in error


def test_broken_description_can_be_passed_over(capsys, dataset, tmp_path):
    (dataset / "dataset_description.json").unlink()
    words = (dataset, tmp_path / "out", "participant", "--skip-bids-validation", "--plan")
    assert code_of(capsys, *words)[0] == 0


@pytest.mark.parametrize(
    "flags", [("--participant-label", "99"), ("--session-label", "m99"), ("--session-id", "m99")]
)
def test_label_that_does_not_exist_ends_with_18(capsys, dataset, tmp_path, flags):
    code, error = code_of(capsys, dataset, tmp_path / "out", "participant", *flags)
    assert code == 18
    assert flags[1] in error


def test_filters_that_leave_nothing_end_with_18(capsys, dataset, tmp_path):
    path = tmp_path / "filters.json"
    path.write_text('{"t1w": {"acquisition": "none"}}')
    words = (dataset, tmp_path / "out", "participant", "--bids-filter-file", path)
    assert code_of(capsys, *words)[0] == 18


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"t1w": 3}', b'{"nose": {}}', b"\xe9", None])
def test_broken_filter_file_ends_with_64(capsys, dataset, tmp_path, content):
    path = tmp_path / "filters.json"
    if content is not None:
        path.write_bytes(content)
    words = (dataset, tmp_path / "out", "participant", "--bids-filter-file", path)
    code, error = code_of(capsys, *words)
    assert code == 64
    assert "--bids-filter-file" in error


@pytest.mark.parametrize("label", ["01", "sub-01"])
def test_participant_is_found_with_or_without_prefix(capsys, dataset, tmp_path, label):
    words = (dataset, tmp_path / "out", "participant", "--participant-label", label, "--plan")
    assert main([str(word) for word in words]) == 0
    assert "sub-01" in capsys.readouterr().out


def test_dataset_without_usable_scan_ends_with_66(capsys, dataset, tmp_path):
    (dataset / "sub-01" / "anat" / "sub-01_T1w.nii.gz").rename(dataset / "sub-01" / "sub-01_x.txt")
    code, error = code_of(capsys, dataset, tmp_path / "out", "participant")
    assert code == 66
    assert "no usable scan" in error


def test_empty_image_ends_with_65(capsys, dataset, tmp_path):
    (dataset / "sub-01" / "anat" / "sub-01_T1w.nii.gz").write_text("")
    code, error = code_of(capsys, dataset, tmp_path / "out", "participant")
    assert code == 65
    assert "sub-01_T1w.nii.gz: holds 0 bytes" in error


def test_image_that_was_not_fetched_ends_with_66(capsys, dataset, tmp_path):
    path = dataset / "sub-01" / "anat" / "sub-01_T1w.nii.gz"
    path.unlink()
    path.symlink_to("../../.git/annex/objects/xx/yy/key")
    code, error = code_of(capsys, dataset, tmp_path / "out", "participant")
    assert code == 66
    assert "datalad get" in error


@pytest.mark.parametrize("inside", ["", "out", "sub-01", "derivatives"])
def test_output_inside_raw_data_ends_with_64_and_writes_nothing(capsys, dataset, inside):
    before = sorted(dataset.rglob("*"))
    code, _ = code_of(capsys, dataset, dataset / inside, "participant")
    assert code == 64
    assert sorted(dataset.rglob("*")) == before


@pytest.mark.parametrize("work", ["raw/work", "raw", "out", "out/work"])
def test_work_folder_in_data_or_results_ends_with_64(capsys, dataset, tmp_path, work):
    code, error = code_of(capsys, dataset, tmp_path / "out", "participant", "-w", tmp_path / work)
    assert code == 64
    assert "-w" in error
    assert not (tmp_path / "out").exists()


def test_output_below_a_file_ends_with_73(capsys, dataset, tmp_path):
    (tmp_path / "file").write_text("")
    code, error = code_of(capsys, dataset, tmp_path / "file" / "out", "participant")
    assert code == 73
    assert str(tmp_path / "file") in error


def test_work_folder_below_a_file_ends_with_73(capsys, dataset, tmp_path):
    (tmp_path / "file").write_text("")
    words = (dataset, tmp_path / "out", "participant", "-w", tmp_path / "file" / "work")
    code, error = code_of(capsys, *words)
    assert code == 73
    assert "-w" in error
    assert not (tmp_path / "out").exists()


def test_derivative_folder_that_is_absent_ends_with_66(capsys, dataset, tmp_path):
    words = (dataset, tmp_path / "out", "participant", "-d", f"smriprep={tmp_path / 'none'}")
    code, error = code_of(capsys, *words)
    assert code == 66
    assert "smriprep" in error


def test_one_unreadable_file_does_not_stop_other_participants(
    capsys, dataset, tmp_path, monkeypatch
):
    from bids_alsmri import planning
    from bids_alsmri.errors import DataError

    (dataset / "sub-02" / "anat").mkdir(parents=True)
    (dataset / "sub-02" / "anat" / "sub-02_T1w.nii.gz").write_text("image")
    real = planning.fingerprint

    def fail_on_one(files, *others):
        if any("sub-01" in str(path) for path in files):
            raise DataError("sub-01_T1w.nii.gz: cannot be read")
        return real(files, *others)

    monkeypatch.setattr(planning, "fingerprint", fail_on_one)
    assert main([str(dataset), str(tmp_path / "out"), "participant", "--plan"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert any("sub-01" in row and "cannot be read" in row for row in rows)
    assert any("sub-02" in row and "not processed before" in row for row in rows)


@pytest.mark.parametrize(("mem_gb", "code"), [(8, 64), (64, 0)])
def test_memory_that_one_step_lacks_is_told_before_the_run(capsys, dataset, tmp_path, mem_gb, code):
    import nibabel as nib

    # a series of the Human Connectome Project, of which a plan reads the header alone
    header = nib.Nifti1Header()
    header.set_data_shape((145, 174, 145, 288))
    folder = dataset / "sub-01" / "dwi"
    folder.mkdir()
    with gzip.open(folder / "sub-01_dwi.nii.gz", "wb") as stream:
        header.write_to(stream)
    for name in ("bval", "bvec"):
        (folder / f"sub-01_dwi.{name}").write_text("0")
    words = (dataset, tmp_path / "out", "participant", "--plan", "--mem-gb", mem_gb)
    found, error = code_of(capsys, *words)
    assert found == code
    if code:
        # at 2.25 times the series' 4.2 GB, reading it is the first step that lacks memory
        message = (
            r"step sub_01_diffusion_\w+ needs [\d.]+ GB but 8\.0 GB are allowed; raise --mem-gb"
        )
        assert re.search(message, error)


def test_descriptor_in_the_project_is_that_of_the_settings(capsys):
    kept = (PROJECT / "boutiques.json").read_text()
    assert json.loads(kept) == make_descriptor(), (
        "boutiques.json is out of date; write it anew with bids_alsmri --bids-exec-spec"
    )
    assert main(["--bids-exec-spec"]) == 0
    assert capsys.readouterr().out == kept


@pytest.mark.slow
def test_descriptor_passes_the_boutiques_check_for_bids_apps(tmp_path):
    path = tmp_path / "descriptor.json"
    path.write_text(json.dumps(make_descriptor()))
    bosh = Path(sys.executable).with_name("bosh")
    done = subprocess.run([bosh, "validate", "-b", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "BIDS validation OK" in done.stdout + done.stderr


def test_flags_are_unique():
    flags = [flag for option in OPTIONS for flag in option.flags]
    assert len(flags) == len(set(flags))


@pytest.mark.parametrize("option", OPTIONS, ids=ids)
def test_setting_has_a_help_that_is_a_sentence(option):
    assert option.help[:1].isupper() or option.help[:1] in "'0123456789"
    assert option.help.endswith(".")


@pytest.mark.parametrize("option", OPTIONS, ids=ids)
def test_number_has_a_unit_and_text_has_none(option):
    is_number = option.kind in (int, float)
    if option.name in WITHOUT_UNIT:
        return
    assert bool(option.unit) == is_number, option.unit


@pytest.mark.parametrize("option", OPTIONS, ids=ids)
def test_single_number_has_a_lower_bound(option):
    if option.kind in (int, float) and not option.is_list:
        assert option.low is not None


@pytest.mark.parametrize("option", OPTIONS, ids=ids)
def test_setting_that_decides_numbers_has_a_source_that_exists(option):
    if option.stage == "run" or option.name in WITHOUT_UNIT:
        return
    sources = (
        [option.source] if not option.has_paper_value else [option.source, option.paper_source]
    )
    if option.kind is bool and option.has_paper_value:
        # whether the published method has the step is the paper's to say
        sources = [option.paper_source]
    for source in sources:
        assert source
        if re.fullmatch(r"[a-z]+\d{4}", source):
            assert source in references(), source


def variants():
    """Settings of every pipeline in both modes, and with each choice and switch once."""
    for name, pipeline in registry().items():
        for mode in ("best", "paper"):
            yield name, mode, {}
            for field, info in pipeline.settings.model_fields.items():
                values = (True, False) if info.annotation is bool else get_args(info.annotation)
                if all(isinstance(value, str | bool) for value in values):
                    for value in values:
                        yield name, mode, {field: value}


@pytest.mark.parametrize("has_anatomy", [True, False])
@pytest.mark.parametrize(("name", "mode", "given"), list(variants()))
def test_methods_text_resolves_for_every_choice(name, mode, given, has_anatomy):
    pipeline = registry()[name]
    settings = resolve(pipeline.settings, mode, given)
    facts = {
        "template": "MNI152NLin2009aSym",
        "version": "0.1.0",
        "mode": mode,
        "has_anatomy": has_anatomy,
        "atlases": ["Motor areas"],
    }
    text = methods_text(pipeline, settings, facts)
    assert "{" not in text
    assert "}" not in text
    assert "  " not in text
    assert not re.search(r"\s[,.;]", text), "a space before a comma or full stop"
    assert set(cited_keys([text])) <= set(references())
    assert set(re.findall(r"@(\w+)", text)) == set(cited_keys([text]))


def test_level_can_come_from_a_settings_file(tmp_path):
    path = tmp_path / "settings.json"
    run = {"bids_dir": "/raw", "output_dir": "/out", "level": "participant"}
    path.write_text(json.dumps({"run": run}))
    assert parse(["--settings", str(path)]).level == "participant"
    path.write_text(json.dumps({"run": {**run, "level": "session"}}))
    with pytest.raises(SettingsError) as error:
        parse(["--settings", str(path)])
    assert error.value.exit_code == 17
