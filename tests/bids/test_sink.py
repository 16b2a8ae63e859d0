from __future__ import annotations

import errno
import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bids_alsmri.bids.query import Scan, parse_name
from bids_alsmri.bids.sink import (
    bids_uri,
    figure_path,
    file_name,
    output_path,
    sidecar,
    sidecar_path,
    write_atomically,
    write_json,
    write_text,
)
from bids_alsmri.bids.spec import FigureSpec, OutputSpec, load_patterns
from bids_alsmri.errors import DataError, ExitCode, RunError, SettingsError

LABELS = st.text("abcXYZ0189+", min_size=1, max_size=6)
INDEXES = st.text("0123456789", min_size=1, max_size=3)
SCAN = Scan("diffusion", "01", "m00", {"acq": "brain", "dir": "AP"}, {}, {})


@st.composite
def entities(draw):
    patterns = load_patterns()
    chosen = draw(st.lists(st.sampled_from(list(patterns.entities)), unique=True, min_size=1))
    return {key: draw(INDEXES if key in patterns.indexes else LABELS) for key in chosen}


SUFFIXES = st.sampled_from(["T1w", "dwi", "PDmap", "stats", "dseg", "xfm"])
EXTENSIONS = st.sampled_from([".nii.gz", ".tsv", ".h5", ".surf.gii"])


@given(entities(), SUFFIXES, EXTENSIONS)
def test_no_entity_is_lost_in_a_name(labels, suffix, extension):
    name = parse_name(file_name(labels, suffix, extension))
    assert (name.entities, name.suffix, name.extension) == (labels, suffix, extension)


@given(entities(), st.randoms(use_true_random=False))
def test_name_does_not_depend_on_the_order_given(labels, random):
    items = list(labels.items())
    random.shuffle(items)
    assert file_name(dict(items), "dwi", ".nii.gz") == file_name(labels, "dwi", ".nii.gz")


@given(entities())
@settings(max_examples=50)
def test_pybids_reads_the_same_entities_from_a_name(labels):
    from bids.layout import parse_file_entities

    labels = {"sub": "01", **labels}
    read = parse_file_entities(
        "/" + file_name(labels, "PDmap", ".nii.gz"), config=["bids", "derivatives"]
    )
    aliases = load_patterns().aliases
    found = {aliases[key]: str(label) for key, label in read.items() if key in aliases}
    for key, label in found.items():
        # pybids reads run as a number, with any leading zeros kept aside
        assert found[key] == label if key != "run" else int(label) == int(labels["run"])


@given(entities())
def test_parts_follow_the_order_of_the_table(labels):
    order = list(load_patterns().entities)
    keys = [part.split("-")[0] for part in file_name(labels, "dwi", ".nii").split("_")[:-1]]
    assert keys == sorted(keys, key=order.index)


@pytest.mark.parametrize(
    ("labels", "suffix", "words"),
    [
        ({"acq": "high-res"}, "T1w", "acq has the label 'high-res'"),
        ({"desc": "a_b"}, "T1w", "letters, digits and +"),
        ({"run": "one"}, "T1w", "only digits"),
        ({"acqisition": "a"}, "T1w", "no BIDS entity"),
        ({"acq": "a"}, "T1-w", "suffix"),
    ],
)
def test_name_that_is_not_bids_is_refused(labels, suffix, words):
    with pytest.raises(SettingsError, match=re.escape(words)):
        file_name(labels, suffix, ".nii.gz")


def test_stations_do_not_overwrite_each_other():
    spec = OutputSpec("adc", "dwi", "ADC", entities={"desc": "fit"})
    stations = [Scan("muscle", "01", None, {"chunk": str(n)}, {}, {}) for n in range(1, 9)]
    assert len({output_path(Path("out"), station, spec, {}) for station in stations}) == 8


def test_output_carries_and_drops_entities_of_the_scan():
    spec = OutputSpec(
        "fa",
        "dwi",
        "dwimap",
        entities={"space": "{template}", "res": "{resolution}", "model": "tensor", "param": "fa"},
        dropped=("dir",),
    )
    values = {"template": "MNI152NLin2009aSym", "resolution": "2"}
    assert str(output_path(Path("out"), SCAN, spec, values)) == (
        "out/sub-01/ses-m00/dwi/sub-01_ses-m00_acq-brain_space-MNI152NLin2009aSym_res-2_"
        "model-tensor_param-fa_dwimap.nii.gz"
    )
    assert "res-" not in output_path(Path("out"), SCAN, spec, {**values, "resolution": ""}).name


def test_transform_name_follows_the_nipreps_order():
    spec = OutputSpec(
        "xfm",
        "anat",
        "xfm",
        ".h5",
        entities={"mode": "image", "to": "MNI152NLin2009aSym", "from": "T1w"},
    )
    scan = Scan("anatomical", "01", None, {}, {}, {})
    assert output_path(Path(), scan, spec, {}).name == (
        "sub-01_from-T1w_to-MNI152NLin2009aSym_mode-image_xfm.h5"
    )


def test_figures_of_all_sessions_lie_in_one_folder():
    path = figure_path(Path("out"), SCAN, FigureSpec("colour", "colourfa", "dwi"))
    assert str(path) == "out/sub-01/figures/sub-01_ses-m00_acq-brain_dir-AP_desc-colourfa_dwi.svg"


def test_sidecar_path_replaces_the_whole_extension():
    assert sidecar_path(Path("a/sub-01_dwi.nii.gz")) == Path("a/sub-01_dwi.json")


def test_annexed_file_keeps_the_uri_of_its_name(tmp_path):
    (tmp_path / "sub-01").mkdir()
    link = tmp_path / "sub-01" / "sub-01_T1w.nii.gz"
    link.symlink_to("../.git/annex/objects/key")
    assert bids_uri(link, {"raw": tmp_path}) == "bids:raw:sub-01/sub-01_T1w.nii.gz"


def test_innermost_dataset_owns_a_file():
    roots = {"raw": Path("/d"), "": Path("/d/derivatives/als"), "other": Path("/d/derivatives")}
    assert bids_uri(Path("/d/derivatives/als/a.tsv"), roots) == "bids::a.tsv"


def test_file_outside_all_datasets_is_refused():
    with pytest.raises(DataError, match=r"/e/a.tsv: lies in none.*raw = /d.*--derivatives"):
        bids_uri(Path("/e/a.tsv"), {"raw": Path("/d")})


def test_sidecar_tells_what_it_must():
    spec = OutputSpec(
        "fa",
        "dwi",
        "dwimap",
        units="1",
        description="FA in {template}",
        sidecar={"SkullStripped": True, "Resolution": "{resolution} mm", "Nested": ["{template}"]},
    )
    content = sidecar(
        SCAN,
        spec,
        sources=["bids:raw:a", "bids::b", "bids:raw:a"],
        settings={"b0_threshold": 50},
        version="1.2",
        extra={"SkullStripped": False},
        values={"template": "MNI", "resolution": "2"},
    )
    assert content == {
        "Description": "FA in MNI",
        "Units": "1",
        "SkullStripped": False,
        "Resolution": "2 mm",
        "Nested": ["MNI"],
        "Sources": ["bids:raw:a", "bids::b"],
        "Settings": {"b0_threshold": 50},
        "SoftwareName": "bids_alsmri",
        "SoftwareVersion": "1.2",
    }


@pytest.mark.parametrize("source", ["/data/a.nii.gz", "sub-01/a.nii.gz", "bids:a"])
def test_source_that_is_no_uri_is_refused(source):
    with pytest.raises(SettingsError, match=r"sub-01_ses-m00.*output fa.*no BIDS URI"):
        sidecar(SCAN, OutputSpec("fa", "dwi", "FA"), sources=[source], settings={}, version="1")


def test_scans_survive_pickling_and_hash_by_label():
    again = pickle.loads(pickle.dumps(SCAN))
    assert again == SCAN
    assert len({again, SCAN}) == 1


def fail_with(code: int):
    def writer(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError(code, os.strerror(code), str(temporary))

    return writer


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (errno.ENOSPC, "free space"),
        (errno.EDQUOT, "free space"),
        (errno.EACCES, "make the folder writable"),
        (errno.EROFS, "make the folder writable"),
    ],
)
def test_failed_write_names_file_and_remedy_and_leaves_nothing(tmp_path, code, remedy):
    path = tmp_path / "fa.nii.gz"
    with pytest.raises(RunError) as caught:
        write_atomically(path, fail_with(code))
    assert str(path) in str(caught.value)
    assert remedy in str(caught.value)
    assert caught.value.exit_code == ExitCode.CANNOT_WRITE
    assert list(tmp_path.iterdir()) == []


def test_really_full_device_is_reported(tmp_path):
    with pytest.raises(RunError, match=r"No space left on device.*free space"):
        write_atomically(tmp_path / "a.txt", lambda _: Path("/dev/full").write_text("x"))


def test_folder_that_cannot_be_made_is_reported(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written") as caught:
        write_text(tmp_path / "file" / "a.txt", "x")
    assert caught.value.exit_code == ExitCode.CANNOT_WRITE


def test_unreadable_source_is_not_blamed_on_the_output(tmp_path):
    def writer(_: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/elsewhere/source.nii.gz")

    with pytest.raises(PermissionError, match="source"):
        write_atomically(tmp_path / "a.nii.gz", writer)


def test_other_errors_leave_the_old_file_and_no_temporary(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def writer(temporary: Path) -> None:
        temporary.write_text("half")
        raise ValueError("boom")

    with pytest.raises(ValueError, match="boom"):
        write_atomically(path, writer)
    assert [(item.name, item.read_text()) for item in tmp_path.iterdir()] == [("a.txt", "old")]


def test_temporary_name_is_hidden_and_keeps_the_extension(tmp_path):
    seen = []

    def writer(temporary: Path) -> None:
        seen.append(temporary)
        temporary.write_text("x")

    write_atomically(tmp_path / "a.nii.gz", writer)
    assert seen[0].parent == tmp_path
    assert seen[0].name.startswith(".")
    assert seen[0].name.endswith("a.nii.gz")


def test_reader_of_the_old_file_keeps_it_whole(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with path.open() as reader:
        write_text(path, "new")
        assert reader.read() == "old"
    assert path.read_text() == "new"


def test_killed_writer_leaves_no_file_under_the_final_name(tmp_path):
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from bids_alsmri.bids.sink import write_atomically\n"
        "def writer(path):\n"
        "    path.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_atomically(Path(sys.argv[1]), writer)\n"
    )
    path = tmp_path / "a.txt"
    assert subprocess.run([sys.executable, "-c", code, str(path)]).returncode == -9
    assert not path.exists()
    (leftover,) = tmp_path.iterdir()
    write_text(path, "whole")
    assert leftover.exists()  # young: it may belong to another process
    os.utime(leftover, (0, 0))
    write_text(path, "whole again")
    assert [item.name for item in tmp_path.iterdir()] == ["a.txt"]


def test_unchanged_text_is_not_written_again(tmp_path):
    path = tmp_path / "a.json"
    assert write_json(path, {"b": 1, "ä": [None]})
    os.utime(path, (0, 0))
    assert not write_json(path, {"b": 1, "ä": [None]})
    assert path.stat().st_mtime == 0
    assert write_json(path, {"b": 2})
    assert json.loads(path.read_text()) == {"b": 2}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}])
def test_content_without_json_form_is_refused(tmp_path, value):
    with pytest.raises(SettingsError, match=r"a.json: cannot be written as JSON"):
        write_json(tmp_path / "a.json", {"x": value})
    assert list(tmp_path.iterdir()) == []


def test_written_files_have_the_usual_permissions(tmp_path):
    mask = os.umask(0)
    os.umask(mask)
    write_text(tmp_path / "a.txt", "x")
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o666 & ~mask
