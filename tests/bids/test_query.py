from __future__ import annotations

import json
import pickle
import re
from dataclasses import replace
from pathlib import Path

import pytest

from bids_alsmri.bids.query import (
    check_filters,
    find_derivative,
    list_files,
    list_participants,
    list_sessions,
    open_layout,
    parse_name,
    resolve_labels,
)
from bids_alsmri.bids.spec import InputSpec, load_io_spec
from bids_alsmri.engine.pipeline import registry
from bids_alsmri.errors import DataError, ExitCode, RunError, SettingsError
from bids_alsmri.options import resolve

ENDS = (".nii.gz", ".bval", ".bvec")


def dwi(stem: str, folder: str = "sub-01/dwi") -> list[str]:
    return [f"{folder}/{stem}_dwi{end}" for end in ENDS]


# The raw tree of a whole study: one participant, everything that was scanned.
STUDY = [
    "sub-01/sub-01_sessions.tsv",
    *[
        f"sub-01/ses-m00/anat/sub-01_ses-m00_{end}.nii.gz"
        for end in (
            "T1w",
            "acq-sodium_PDw",
            "acq-M1_echo-1_MEGRE",
            "acq-M1_echo-2_MEGRE",
            "acq-wholebody_chunk-1_T2w",
            "acq-legs_chunk-1_T1w",
            "acq-hands_T1w",
            "acq-paraspinal_T1w",
        )
    ],
    *dwi("sub-01_ses-m00_dir-AP", "sub-01/ses-m00/dwi"),
    *dwi("sub-01_ses-m00_acq-wholebody_chunk-1", "sub-01/ses-m00/dwi"),
    "sub-01/ses-m00/fmap/sub-01_ses-m00_dir-PA_epi.nii.gz",
]


def test_brain_t1w_is_found_among_all_other_t1w(raw, t1w_only):
    scans, skips = t1w_only(raw(*STUDY))
    assert [scan.label for scan in scans] == ["sub-01_ses-m00"]
    assert [path.name for path in scans[0].inputs["t1w"]] == ["sub-01_ses-m00_T1w.nii.gz"]
    assert skips == []


def test_shared_rule_selects_as_the_pipelines_do(raw, find, tmp_path):
    (tmp_path / "spec.json").write_text('{"inputs": {"t1w": {"like": "brain_t1w"}}}')
    spec = load_io_spec(tmp_path / "spec.json").inputs["t1w"]
    scans, _ = find(raw(*STUDY), primary="t1w", inputs=(spec,), group_by=())
    assert [path.name for path in scans[0].inputs["t1w"]] == ["sub-01_ses-m00_T1w.nii.gz"]


def test_dwi_stations_are_not_brain_dwi(raw, find):
    scans, _ = find(raw(*STUDY))
    assert [scan.label for scan in scans] == ["sub-01_ses-m00_dir-AP"]
    assert scans[0].inputs["t1w"][0].name == "sub-01_ses-m00_T1w.nii.gz"


@pytest.mark.parametrize(("part", "n_found"), [("BRAIN", 1), ("head", 1), ("HAND", 0)])
def test_body_part_of_the_sidecar_decides(raw, add, t1w_only, part, n_found):
    root = raw("sub-01/anat/sub-01_T1w.nii.gz")
    add(root, "sub-01/anat/sub-01_T1w.json", {"BodyPart": part})
    assert len(t1w_only(root)[0]) == n_found


SODIUM = InputSpec(
    "sodium",
    ("PDw", "T2starw", "MEGRE"),
    ("anat",),
    many=True,
    marks_in_name={"acq": ("sodium", "23Na", "Na")},
    marks_in_sidecar={"ResonantNucleus": ("23Na",), "ImagedNucleus": ("23Na",)},
    description="sodium image",
)


@pytest.mark.parametrize(
    ("stem", "sidecar", "is_found"),
    [
        ("sub-01_acq-sodium_PDw", {}, True),
        ("sub-01_acq-Na_T2starw", {}, True),
        ("sub-01_PDw", {"ResonantNucleus": "23Na"}, True),
        ("sub-01_acq-radial_PDw", {"ImagedNucleus": "23NA"}, True),
        ("sub-01_PDw", {"ResonantNucleus": "1H"}, False),
        ("sub-01_PDw", {}, False),
        ("sub-01_acq-sodium_T1w", {}, False),
    ],
)
def test_name_or_sidecar_marks_a_sodium_image(raw, add, find, stem, sidecar, is_found):
    root = raw(f"sub-01/anat/{stem}.nii.gz")
    add(root, f"sub-01/anat/{stem}.json", sidecar)
    scans, skips = find(root, primary="sodium", inputs=(SODIUM,))
    assert [scan.inputs["sodium"][0].name for scan in scans] == [f"{stem}.nii.gz"] * is_found
    if not is_found:
        assert "acq- in {sodium, 23Na, Na} or ResonantNucleus 23Na" in skips[0].reason


def test_body_part_tells_two_t1w_apart(raw, add, t1w_only):
    root = raw("sub-01/anat/sub-01_T1w.nii.gz", "sub-01/anat/sub-01_acq-x_T1w.nii.gz")
    add(root, "sub-01/anat/sub-01_acq-x_T1w.json", {"BodyPart": "FOOT"})
    (scan,), _ = t1w_only(root)
    assert scan.inputs["t1w"][0].name == "sub-01_T1w.nii.gz"


def test_two_t1w_stop_the_scan_and_are_named(raw, t1w_only):
    root = raw("sub-01/anat/sub-01_run-1_T1w.nii.gz", "sub-01/anat/sub-01_run-2_T1w.nii.gz")
    scans, (skip,) = t1w_only(root)
    assert scans == []
    assert (skip.is_error, skip.exit_code) == (True, ExitCode.BAD_DATA)
    for words in ("2 files fit", "run-1_T1w.nii.gz", "run-2_T1w.nii.gz", "--bids-filter-file"):
        assert words in skip.reason


def test_remedy_for_two_t1w_names_the_participant_for_whom_it_is_meant(raw, t1w_only):
    others = ("sub-02/anat/sub-02_T1w.nii.gz",)
    names = ("sub-01/anat/sub-01_run-1_T1w.nii.gz", "sub-01/anat/sub-01_run-2_T1w.nii.gz")
    _, (skip,) = t1w_only(raw(*names, *others))
    assert "holds for all participants of a run: give --participant-label 01" in skip.reason


def test_remedy_for_two_t1w_works(raw, t1w_only):
    root = raw("sub-01/anat/sub-01_run-1_T1w.nii.gz", "sub-01/anat/sub-01_run-02_T1w.nii.gz")
    (scan,), skips = t1w_only(root, filters={"t1w": {"run": 2}})
    assert scan.inputs["t1w"][0].name == "sub-01_run-02_T1w.nii.gz"
    assert skips == []


@pytest.mark.parametrize(
    "others",
    [
        ("sub-01_acq-a", "sub-01_acq-b"),
        ("sub-01", "sub-01_acq-b"),
        ("sub-01_run-01", "sub-01_run-02"),
        ("sub-01_acq-a_run-1", "sub-01_acq-a_run-2", "sub-01_acq-b_run-1"),
        ("sub-01_T1w.nii", "sub-01"),
    ],
)
def test_filter_that_the_error_suggests_leaves_one_file(raw, find, specs, others):
    names = [name if name.endswith(".nii") else f"{name}_T1w.nii.gz" for name in others]
    root = raw(*(f"sub-01/anat/{name}" for name in names))
    spec = replace(specs["t1w"], extensions=(".nii.gz", ".nii"))
    asked = {"primary": "t1w", "inputs": (spec,), "group_by": ()}
    _, (skip,) = find(root, **asked)
    suggested = json.loads(re.search(r"for instance (\{.*\}) \(", skip.reason)[1])
    scans, skips = find(root, **asked, filters=suggested)
    assert (len(scans), skips) == (1, [])


def test_directions_are_two_scans_when_grouped_by_them(raw, find):
    scans, _ = find(raw(*dwi("sub-01_dir-AP"), *dwi("sub-01_dir-PA")))
    assert [scan.label for scan in scans] == ["sub-01_dir-AP", "sub-01_dir-PA"]
    assert [scan.entities for scan in scans] == [{"dir": "AP"}, {"dir": "PA"}]


def test_directions_are_one_scan_when_not_grouped(raw, find):
    scans, _ = find(raw(*dwi("sub-01_dir-AP"), *dwi("sub-01_dir-PA")), group_by=())
    (scan,) = scans
    assert (scan.label, len(scan.inputs["dwi"])) == ("sub-01", 2)
    assert [path.stem for path in scan.inputs["dwi_bvec"]] == [
        "sub-01_dir-AP_dwi",
        "sub-01_dir-PA_dwi",
    ]


@pytest.mark.parametrize("mode", ["best", "paper"])
def test_reconstructions_of_one_series_are_two_scans(raw, find, mode):
    pipeline = registry()["diffusion"]
    group_by = pipeline.group_by(resolve(pipeline.settings, mode, {}))
    scans, _ = find(raw(*dwi("sub-01_rec-norm"), *dwi("sub-01_rec-raw")), group_by=group_by)
    assert [scan.label for scan in scans] == ["sub-01_rec-norm", "sub-01_rec-raw"]


def test_shared_entities_stand_in_schema_order(raw, find):
    root = raw(*dwi("sub-01_acq-b_dir-AP_run-1"), *dwi("sub-01_acq-b_dir-AP_run-2"))
    (scan,), _ = find(root, group_by=("direction", "acquisition"))
    assert list(scan.entities.items()) == [("acq", "b"), ("dir", "AP")]


def test_sidecars_merge_from_the_root_inwards(raw, add, find):
    root = raw(*dwi("sub-01_dir-AP"), *dwi("sub-01_dir-PA"))
    add(root, "dwi.json", {"EchoTime": 0.1, "FlipAngle": 90, "Manufacturer": "A"})
    add(root, "dir-AP_dwi.json", {"FlipAngle": 78})
    add(root, "acq-other_dwi.json", {"Manufacturer": "B"})
    add(root, "sub-01/dwi/sub-01_dir-AP_dwi.json", {"EchoTime": 0.068})
    add(root, "T1w.json", {"Manufacturer": "C"})
    scans, _ = find(root)
    found = [scan.metadata[scan.inputs["dwi"][0]] for scan in scans]
    assert found == [
        {"EchoTime": 0.068, "FlipAngle": 78, "Manufacturer": "A"},
        {"EchoTime": 0.1, "FlipAngle": 90, "Manufacturer": "A"},
    ]


def test_gradient_table_at_the_root_serves_all(raw, find):
    root = raw("dwi.bval", "sub-01/dwi/sub-01_dwi.bvec", "sub-01/dwi/sub-01_dwi.nii.gz")
    (scan,), _ = find(root)
    assert scan.inputs["dwi_bval"] == (root / "dwi.bval",)
    assert scan.inputs["dwi_bvec"] == (root / "sub-01/dwi/sub-01_dwi.bvec",)


@pytest.mark.parametrize("missing", [".bval", ".bvec"])
def test_missing_gradient_table_is_named(raw, find, missing):
    names = [name for name in dwi("sub-01_dir-AP") if not name.endswith(missing)]
    scans, (skip,) = find(raw(*names, *dwi("sub-02", "sub-02/dwi")))
    assert [scan.label for scan in scans] == ["sub-02"]  # other participants go on
    assert (skip.participant, skip.is_error, skip.exit_code) == ("01", True, ExitCode.NO_INPUT)
    for words in ("sub-01/dwi/sub-01_dir-AP_dwi.nii.gz", f"sub-01_dir-AP_dwi{missing}", "dcm2niix"):
        assert words in skip.reason


def test_participant_without_the_modality_is_skipped_without_error(raw, find):
    scans, (skip,) = find(raw("sub-01/anat/sub-01_T1w.nii.gz", *dwi("sub-02", "sub-02/dwi")))
    assert [scan.participant for scan in scans] == ["02"]
    assert (skip.participant, skip.is_error, skip.exit_code) == ("01", False, ExitCode.NO_INPUT)
    assert "no diffusion-weighted images (looked for dwi/*_dwi.nii.gz, no chunk-)" in skip.reason


def test_required_input_that_is_missing_is_an_error(raw, find, specs):
    needing = (specs["dwi"], replace(specs["t1w"], required=True))
    scans, (skip,) = find(raw(*dwi("sub-01")), inputs=needing)
    assert scans == []
    assert (skip.is_error, skip.exit_code) == (True, ExitCode.NO_INPUT)
    assert "no T1-weighted image of the brain" in skip.reason
    assert "diffusion needs" in skip.reason


def test_each_session_is_a_scan_or_a_reason(raw, find):
    root = raw(
        *dwi("sub-01_ses-m00", "sub-01/ses-m00/dwi"),
        *dwi("sub-01_ses-m12", "sub-01/ses-m12/dwi"),
        "sub-01/ses-m06/anat/sub-01_ses-m06_T1w.nii.gz",
    )
    scans, skips = find(root)
    assert [scan.label for scan in scans] == ["sub-01_ses-m00", "sub-01_ses-m12"]
    assert [(skip.session, skip.is_error) for skip in skips] == [("m06", False)]


def test_only_the_sessions_asked_for_are_used(raw, find):
    root = raw(*dwi("sub-01_ses-a", "sub-01/ses-a/dwi"), *dwi("sub-02_ses-b", "sub-02/ses-b/dwi"))
    scans, (skip,) = find(root, sessions=("b",))
    assert [scan.label for scan in scans] == ["sub-02_ses-b"]
    assert (skip.participant, skip.exit_code) == ("01", ExitCode.NOTHING_MATCHED)
    assert "no session b; it has a" in skip.reason


def test_t1w_of_the_only_other_session_may_be_lent(raw, find, specs):
    root = raw(
        *dwi("sub-01_ses-m06", "sub-01/ses-m06/dwi"),
        "sub-01/ses-m00/anat/sub-01_ses-m00_T1w.nii.gz",
    )
    own, _ = find(root, sessions=("m06",))
    assert own[0].inputs["t1w"] == ()
    lending = (specs["dwi"], replace(specs["t1w"], other_session=True))
    (scan,), _ = find(root, sessions=("m06",), inputs=lending)
    assert scan.inputs["t1w"][0].name == "sub-01_ses-m00_T1w.nii.gz"
    assert scan.notes == ("t1w comes from ses-m00",)


def test_t1w_of_several_other_sessions_is_not_guessed(raw, find, specs):
    root = raw(
        *dwi("sub-01_ses-m06", "sub-01/ses-m06/dwi"),
        "sub-01/ses-m00/anat/sub-01_ses-m00_T1w.nii.gz",
        "sub-01/ses-m12/anat/sub-01_ses-m12_T1w.nii.gz",
    )
    lending = (specs["dwi"], replace(specs["t1w"], other_session=True))
    (scan,), _ = find(root, sessions=("m06",), inputs=lending)
    assert scan.inputs["t1w"] == ()
    assert "none was used" in scan.notes[0]


def test_dangling_annex_links_give_the_lines_that_fetch_them(raw, add, find):
    root = raw(*dwi("sub-02", "sub-02/dwi"), "sub-01/dwi/sub-01_dwi.bval")
    add(root, "sub-01/dwi/sub-01_dwi.nii.gz", None)
    add(root, "sub-01/dwi/sub-01_dwi.bvec", None)
    scans, (skip,) = find(root)
    assert [scan.participant for scan in scans] == ["02"]
    assert (skip.is_error, skip.exit_code) == (True, ExitCode.NO_INPUT)
    lines = [line.strip() for line in skip.reason.splitlines()[1:]]
    assert lines == [
        f"datalad get -d {root} {root}/sub-01/dwi/sub-01_dwi.nii.gz",
        f"datalad get -d {root} {root}/sub-01/dwi/sub-01_dwi.bvec",
    ]


def test_dangling_sidecar_counts_as_not_fetched(raw, add, t1w_only):
    root = raw("sub-01/anat/sub-01_T1w.nii.gz")
    add(root, "sub-01/anat/sub-01_T1w.json", None)
    _, (skip,) = t1w_only(root)
    assert "datalad get" in skip.reason
    assert "sub-01_T1w.json" in skip.reason


def test_dangling_link_that_is_not_of_an_annex_is_told_with_its_target(raw, t1w_only):
    path = raw("sub-01/anat/sub-01_T2w.nii.gz") / "sub-01/anat/sub-01_T1w.nii.gz"
    path.symlink_to("../../../elsewhere/head.nii.gz")
    _, (skip,) = t1w_only(path.parents[2])
    assert skip.exit_code == ExitCode.NO_INPUT
    told = "sub-01/anat/sub-01_T1w.nii.gz: is a link to ../../../elsewhere/head.nii.gz, which"
    assert told in skip.reason
    assert "datalad" not in skip.reason


def test_pointer_of_an_unlocked_annex_counts_as_not_fetched(raw, add, t1w_only):
    root = raw()
    add(root, "sub-01/anat/sub-01_T1w.nii.gz", "/annex/objects/MD5E-s100--abc.nii.gz\n")
    _, (skip,) = t1w_only(root)
    assert skip.exit_code == ExitCode.NO_INPUT
    assert "datalad get" in skip.reason


def test_empty_subdataset_is_explained(raw, find):
    root = raw()
    (root / "sub-01").mkdir()
    _, (skip,) = find(root)
    assert (skip.is_error, skip.exit_code) == (True, ExitCode.NO_INPUT)
    assert f"datalad get -d {root} {root}/sub-01" in skip.reason


@pytest.mark.parametrize("name", ["sub-01_dwi.nii.gz", "sub-01_dwi.bval"])
def test_file_of_zero_bytes_is_named(raw, add, find, name):
    root = raw(*dwi("sub-01"))
    (root / "sub-01/dwi" / name).write_text("")
    scans, (skip,) = find(root)
    assert scans == []
    assert (skip.is_error, skip.exit_code) == (True, ExitCode.BAD_DATA)
    assert f"sub-01/dwi/{name}: holds 0 bytes" in skip.reason


@pytest.fixture
def with_folder(raw):
    """Two participants with a series each; a folder stands in place of one file."""

    def make(name: str) -> Path:
        names = [*dwi("sub-01"), *dwi("sub-02", "sub-02/dwi")]
        root = raw(*(other for other in names if other != name))
        (root / name).mkdir(parents=True)
        return root

    return make


@pytest.mark.parametrize("end", [*ENDS, ".json"])
def test_folder_in_place_of_a_file_is_told(with_folder, find, end):
    scans, (skip,) = find(with_folder(f"sub-01/dwi/sub-01_dwi{end}"))
    assert [scan.participant for scan in scans] == ["02"]
    assert (skip.is_error, skip.exit_code) == (True, ExitCode.BAD_DATA)
    assert f"sub-01/dwi/sub-01_dwi{end}: is a folder; expected a file; " in skip.reason


def test_folder_that_holds_the_image_of_its_name_is_told(with_folder, find, add):
    root = with_folder("sub-01/dwi/sub-01_dwi.nii.gz")
    add(root, "sub-01/dwi/sub-01_dwi.nii.gz/sub-01_dwi.nii.gz", "content")
    _, (skip,) = find(root)
    assert "sub-01/dwi/sub-01_dwi.nii.gz: is a folder" in skip.reason


def test_link_to_a_folder_in_place_of_a_file_is_told(with_folder, find):
    root = with_folder("sub-01/dwi/images")
    (root / "sub-01/dwi/sub-01_dwi.nii.gz").unlink()
    (root / "sub-01/dwi/sub-01_dwi.nii.gz").symlink_to("images")
    _, (skip,) = find(root)
    assert "sub-01/dwi/sub-01_dwi.nii.gz: is a folder" in skip.reason


@pytest.mark.parametrize("place", ["sub-01/ses-a/anat", "sub-01/anat"])
def test_folder_is_told_where_the_participant_has_nothing_else(raw, t1w_only, place):
    root = raw()
    labels = "_".join(part for part in place.split("/") if "-" in part)
    (root / place / f"{labels}_T1w.nii.gz").mkdir(parents=True)
    _, (skip,) = t1w_only(root)
    assert f"{place}/{labels}_T1w.nii.gz: is a folder" in skip.reason


def test_folder_in_place_of_a_shared_sidecar_stops_all_who_inherit_it(with_folder, find):
    scans, skips = find(with_folder("dwi.json"))
    assert scans == []
    assert [skip.reason.split(";")[0] for skip in skips] == 2 * ["dwi.json: is a folder"]


@pytest.mark.parametrize("name", ["meg/sub-01_task-rest_meg.ds", "micr/sub-01_SEM.ome.zarr"])
def test_folders_that_are_data_of_another_modality_are_passed_over(with_folder, find, name):
    scans, skips = find(with_folder(f"sub-01/{name}"))
    assert [scan.participant for scan in scans] == ["01", "02"]
    assert skips == []


def test_folders_of_participants_not_asked_for_are_not_looked_into(with_folder, find):
    root = with_folder("sub-01/dwi/sub-01_dwi.nii.gz")
    scans, skips = find(root, participants=("02",))
    assert ([scan.participant for scan in scans], skips) == (["02"], [])


def test_folder_in_place_of_a_derivative_is_told(raw):
    root = raw()
    (root / "sub-01/anat/sub-01_desc-brain_mask.nii.gz").mkdir(parents=True)
    spec = InputSpec("mask", ("mask",), ("anat",))
    layout = open_layout(root, ["01"], database_dir=None)
    with pytest.raises(DataError, match=r"desc-brain_mask\.nii\.gz: is a folder; expected a file"):
        find_derivative(layout, "01", None, spec)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"EchoTime": 0.1,\n "FlipAngle" 90}', "line 2, column 14"),
        ("[1, 2]", "expected a JSON object, keys and values between { and }; correct the file"),
    ],
)
def test_broken_sidecar_stops_one_participant_only(raw, add, find, text, words):
    root = raw(*dwi("sub-01"), *dwi("sub-02", "sub-02/dwi"))
    add(root, "sub-01/dwi/sub-01_dwi.json", text)
    scans, (skip,) = find(root)
    assert [scan.participant for scan in scans] == ["02"]
    assert (skip.is_error, skip.exit_code) == (True, ExitCode.INVALID_BIDS)
    assert words in skip.reason
    assert "sub-01_dwi.json" in skip.reason


def test_name_that_contradicts_its_folder_is_an_error(raw, t1w_only):
    _, (skip,) = t1w_only(raw("sub-01/anat/sub-02_T1w.nii.gz"))
    assert (skip.is_error, skip.exit_code) == (True, ExitCode.INVALID_BIDS)
    assert "does not say sub-01" in skip.reason


@pytest.mark.parametrize(
    ("rule", "found"),
    [
        ({"acquisition": "a"}, "acq-a"),
        ({"acq": ["b", "c"]}, "acq-b"),
        ({"acquisition": None}, "plain"),
        ({"acquisition": "Query.NONE"}, "plain"),
        ({"acquisition": [None, "z"]}, "plain"),
        ({"reconstruction": "*"}, "rec-x"),
        ({"reconstruction": "Query.ANY"}, "rec-x"),
        ({"suffix": "T2w"}, "T2w"),
        ({"acquisition": "hands"}, "acq-hands"),  # a filter replaces the rule of the spec
        ({"extension": ".nii"}, "nii"),
    ],
)
def test_filter_file_chooses(raw, t1w_only, rule, found):
    names = {
        "acq-a": "sub-01_acq-a_T1w.nii.gz",
        "acq-b": "sub-01_acq-b_T1w.nii.gz",
        "acq-hands": "sub-01_acq-hands_T1w.nii.gz",
        "plain": "sub-01_T1w.nii.gz",
        "rec-x": "sub-01_acq-d_rec-x_T1w.nii.gz",
        "T2w": "sub-01_T2w.nii.gz",
        "nii": "sub-01_acq-e_T1w.nii",
    }
    root = raw(*[f"sub-01/anat/{name}" for name in names.values()])
    (scan,), _ = t1w_only(root, filters={"t1w": rule})
    assert [path.name for path in scan.inputs["t1w"]] == [names[found]]


def test_filter_that_leaves_nothing_says_so(raw, t1w_only):
    _, (skip,) = t1w_only(raw("sub-01/anat/sub-01_T1w.nii.gz"), filters={"t1w": {"run": 3}})
    assert skip.exit_code == ExitCode.NOTHING_MATCHED
    assert "leaves none of sub-01_T1w.nii.gz" in skip.reason


@pytest.mark.parametrize(
    ("filters", "words"),
    [
        ({"t1": {}}, "no input is called 't1'; did you mean t1w? There are dwi, t1w"),
        ({"dwis": {}, "bold": {}}, "no input is called 'dwis'; did you mean dwi?"),
        ({"T1w": {}}, "no input is called 'T1w'; did you mean t1w?"),
        ({"nose": {}}, "no input is called 'nose'; use dwi, t1w"),
        ({"t1w": {"acquisitoin": "a"}}, "'acquisitoin' is no BIDS entity"),
        ({"t1w": ["a"]}, "must be an object"),
    ],
)
def test_misspelt_filter_is_refused(filters, words):
    with pytest.raises(SettingsError, match=re.escape(words)):
        check_filters(filters, ["t1w", "dwi"])


def test_filters_of_other_apps_are_passed_over_with_a_warning(caplog):
    # the example of fMRIPrep's documentation, and one of its own names for an entity
    filters = {
        "fmap": {"datatype": "fmap"},
        "bold": {"datatype": "func", "suffix": "bold", "echo_nr": 1},
        "t2w": {"datatype": "anat"},
        "t1w": {"datatype": "anat", "session": "m00"},
    }
    # several pipelines may read one input
    check_filters(filters, ["t1w", "dwi", "t1w"])
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "bold, fmap, t2w: no such input here" in record.getMessage()
    assert "ours are for dwi, t1w" in record.getMessage()


def test_labels_are_taken_with_or_without_prefix():
    assert resolve_labels(["sub-02", "01", "02"], ["01", "02"], "participant") == ("01", "02")
    assert resolve_labels(["ses-m00"], ["m00", "m12"], "session") == ("m00",)
    assert resolve_labels([], ["02", "01"], "participant") == ("01", "02")


@pytest.mark.parametrize(
    ("kind", "words"),
    [("participant", ["no participant 9", "--participant-label"]), ("session", ["no session 9"])],
)
def test_unknown_label_names_those_that_exist(kind, words):
    with pytest.raises(SettingsError) as caught:
        resolve_labels(["9"], ["01", "02"], kind)
    assert caught.value.exit_code == ExitCode.NOTHING_MATCHED
    assert all(word in str(caught.value) for word in [*words, "01, 02"])


def test_long_lists_of_labels_are_cut():
    with pytest.raises(SettingsError, match="and 480 more"):
        resolve_labels(["x"], [f"{n:03d}" for n in range(500)], "participant")


def test_participants_and_sessions_are_folders_only(raw, add):
    root = raw("sub-02/ses-b/anat/x", "sub-01/ses-a/anat/x", "derivatives/sub-03/x")
    add(root, "sub-04", "a file")
    assert list_participants(root) == ("01", "02")
    assert list_sessions(root, ["01", "02"]) == ("a", "b")
    assert list_sessions(root, ["02"]) == ("b",)


def test_only_wanted_participants_are_indexed(raw):
    root = raw(
        "dwi.json",
        "sub-01/anat/sub-01_T1w.nii.gz",
        "sub-011/anat/sub-011_T1w.nii.gz",
        "sub-02/anat/sub-02_T1w.nii.gz",
        "derivatives/x/sub-01/anat/sub-01_desc-a_T1w.nii.gz",
        "sourcedata/sub-01/anat/sub-01_T1w.nii.gz",
        "work/sub-01/anat/sub-01_T1w.nii.gz",
    )
    files = list_files(open_layout(root, ["01"], database_dir=None))
    assert [file.path.relative_to(root).as_posix() for file in files] == [
        "dwi.json",
        "sub-01/anat/sub-01_T1w.nii.gz",
    ]


def test_dataset_may_lie_below_folders_named_like_bids(raw, tmp_path, t1w_only):
    inner = raw("sub-01/anat/sub-01_T1w.nii.gz")
    moved = tmp_path / "sub-99" / "ses-x" / "dwi"
    moved.parent.mkdir(parents=True)
    inner.rename(moved)
    assert [scan.label for scan in t1w_only(moved)[0]] == ["sub-01"]


def test_saved_index_is_used_and_never_stale(raw, add, tmp_path):
    root = raw("sub-01/anat/sub-01_T1w.nii.gz")
    saved = tmp_path / "index"

    def names() -> list[str]:
        return [
            file.path.name for file in list_files(open_layout(root, ["01"], database_dir=saved))
        ]

    assert names() == names() == ["sub-01_T1w.nii.gz"]
    (kept,) = saved.iterdir()
    add(root, "sub-01/anat/sub-01_T2w.nii.gz", "new")
    assert names() == ["sub-01_T1w.nii.gz", "sub-01_T2w.nii.gz"]
    (root / "sub-01/anat/sub-01_T1w.nii.gz").unlink()
    assert names() == ["sub-01_T2w.nii.gz"]
    assert kept in saved.iterdir()


def test_index_that_cannot_be_saved_has_its_exit_code(raw, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="--bids-database-dir") as caught:
        open_layout(raw("sub-01/anat/sub-01_T1w.nii.gz"), ["01"], database_dir=tmp_path / "file/x")
    assert caught.value.exit_code == ExitCode.CANNOT_WRITE


def test_scans_do_not_hold_the_layout(raw, find):
    scans, _ = find(raw(*dwi("sub-01")))
    assert pickle.loads(pickle.dumps(scans)) == scans


# Names that fMRIPrep 24 gives (docs, "Outputs of fMRIPrep").
FMRIPREP = [
    "anat/sub-01_desc-brain_mask.nii.gz",
    "anat/sub-01_space-MNI152NLin2009cAsym_desc-brain_mask.nii.gz",
    "anat/sub-01_label-GM_probseg.nii.gz",
    "anat/sub-01_label-WM_probseg.nii.gz",
    "anat/sub-01_from-T1w_to-MNI152NLin2009cAsym_mode-image_xfm.h5",
    "anat/sub-01_from-MNI152NLin2009cAsym_to-T1w_mode-image_xfm.h5",
]


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        (
            InputSpec(
                "mask", ("mask",), ("anat",), absent=("space",), entities={"desc": ("brain",)}
            ),
            FMRIPREP[0],
        ),
        (InputSpec("wm", ("probseg",), ("anat",), entities={"label": ("WM",)}), FMRIPREP[3]),
        (InputSpec("xfm", ("xfm",), ("anat",), (".h5",), entities={"from": ("T1w",)}), FMRIPREP[4]),
        (InputSpec("csf", ("probseg",), ("anat",), entities={"label": ("CSF",)}), None),
    ],
)
def test_derivatives_of_fmriprep_are_found_above_the_sessions(raw, spec, found):
    root = raw(*[f"sub-01/{name}" for name in FMRIPREP])
    layout = open_layout(root, ["01"], database_dir=None)
    path = find_derivative(layout, "01", "m00", spec)
    assert path == (None if found is None else root / "sub-01" / found)


def test_derivative_of_the_own_session_comes_first(raw):
    root = raw(
        "sub-01/anat/sub-01_desc-brain_mask.nii.gz",
        "sub-01/ses-m00/anat/sub-01_ses-m00_desc-brain_mask.nii.gz",
    )
    layout = open_layout(root, ["01"], database_dir=None)
    mask = InputSpec("mask", ("mask",), ("anat",))
    assert (
        find_derivative(layout, "01", "m00", mask).name == "sub-01_ses-m00_desc-brain_mask.nii.gz"
    )
    assert find_derivative(layout, "01", "m12", mask).name == "sub-01_desc-brain_mask.nii.gz"


@pytest.mark.parametrize(
    ("entities", "found"),
    [
        ({}, "sub-01_desc-brain_mask.nii.gz"),
        ({"acq": "sodium"}, "sub-01_acq-sodium_desc-brain_mask.nii.gz"),
        ({"acq": "other"}, None),
        (None, None),
    ],
)
def test_of_two_derivatives_that_of_the_scan_is_taken(raw, entities, found):
    names = ("sub-01_acq-sodium_desc-brain_mask.nii.gz", "sub-01_desc-brain_mask.nii.gz")
    layout = open_layout(raw(*[f"sub-01/anat/{name}" for name in names]), ["01"], database_dir=None)
    mask = InputSpec("mask", ("mask",), ("anat",))
    if found:
        assert find_derivative(layout, "01", None, mask, entities).name == found
    else:
        with pytest.raises(DataError, match="2 files fit"):
            find_derivative(layout, "01", None, mask, entities)


def test_two_derivatives_that_fit_are_named(raw):
    layout = open_layout(raw(*[f"sub-01/{name}" for name in FMRIPREP]), ["01"], database_dir=None)
    with pytest.raises(DataError, match=r"2 files fit.*label-GM.*label-WM"):
        find_derivative(layout, "01", None, InputSpec("tissue", ("probseg",), ("anat",)))


@pytest.mark.parametrize(
    "name", ["", ".bidsignore", "dataset_description.json", "sub-01_acq_T1w.nii", "sub-_T1w.nii"]
)
def test_other_names_are_not_taken_for_bids(name):
    assert parse_name(name) is None


@pytest.mark.data
def test_real_dataset_is_found_whole(test_data, find, specs):
    root = test_data / "bids_brain"
    scans, skips = find(root)
    assert [scan.label for scan in scans] == ["sub-01_dir-AP", "sub-01_dir-PA"]
    assert skips == []
    for scan in scans:
        assert scan.inputs["t1w"] == (root / "sub-01/anat/sub-01_T1w.nii.gz",)
        (image,) = scan.inputs["dwi"]
        assert scan.inputs["dwi_bval"] == (image.with_name(image.name.replace(".nii.gz", ".bval")),)
        assert scan.metadata[image]["EchoTime"] == 0.068
