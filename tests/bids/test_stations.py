"""Stations are told apart by their names, and labels are found for the right one."""

from __future__ import annotations

from pathlib import Path

import pytest

from bids_alsmri.bids.query import Scan, open_layout
from bids_alsmri.bids.spec import OutputSpec
from bids_alsmri.bids.stations import drawn_key, find_of_station, list_stations
from bids_alsmri.errors import DataError
from bids_alsmri.pipelines.muscle.sites import Sites, readers_of

LABELS = OutputSpec("labels", "", "dseg", entities={"desc": "muscles"}, many=True)


def scan_of(*names: str, participant: str = "01") -> Scan:
    parts = [name.split(" ") for name in names]
    root = Path(f"sub-{participant}")
    files = tuple(root / folder / f"sub-{participant}_{rest}" for folder, rest in parts)
    return Scan("muscle", participant, None, {}, {"stations": files}, {})


def test_stations_are_listed_by_contrast_and_number_not_by_text():
    scan = scan_of(
        "anat acq-wholebody_chunk-10_T2w.nii.gz",
        "anat acq-wholebody_chunk-2_T2w.nii.gz",
        "dwi acq-wholebody_chunk-2_dwi.nii.gz",
    )
    titles = [station.title for station in list_stations(scan, "stations")]
    assert titles == [
        "acq-wholebody_chunk-2 T2w",
        "acq-wholebody_chunk-10 T2w",
        "acq-wholebody_chunk-2 dwi",
    ]


def test_separate_diffusion_series_of_a_station_belong_together():
    scan = scan_of(
        "dwi acq-wholebody_run-1_chunk-1_dwi.nii.gz", "dwi acq-wholebody_run-2_chunk-1_dwi.nii.gz"
    )
    (station,) = list_stations(scan, "stations")
    assert len(station.files) == 2
    assert station.key == "dwi_acq-wholebody_chunk-1"


def test_two_contrasts_under_one_name_are_refused():
    scan = scan_of("anat acq-legs_chunk-1_T1w.nii.gz", "anat acq-legs_chunk-1_T2w.nii.gz")
    with pytest.raises(DataError, match="two contrasts under one name"):
        list_stations(scan, "stations")


def test_labels_are_those_of_the_station_and_its_folder(tmp_path):
    for name in ("anat/sub-01_acq-wholebody_chunk-1", "dwi/sub-01_acq-wholebody_chunk-1",
                 "anat/sub-01_acq-wholebody_chunk-2"):  # fmt: skip
        path = tmp_path / "sub-01" / f"{name}_desc-muscles_dseg.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("labels")
    layout = open_layout(tmp_path, ["01"], database_dir=None)
    scan = scan_of(
        "anat acq-wholebody_chunk-1_T2w.nii.gz",
        "dwi acq-wholebody_chunk-1_dwi.nii.gz",
        "anat acq-legs_T1w.nii.gz",
    )
    by_title = {s.title: s for s in list_stations(scan, "stations")}
    found = {t: find_of_station(layout, scan, s, LABELS) for t, s in by_title.items()}
    assert found["acq-legs T1w"] is None
    t2w, dwi = found["acq-wholebody_chunk-1 T2w"], found["acq-wholebody_chunk-1 dwi"]
    assert t2w is not None
    assert dwi is not None
    assert (t2w.parent.name, dwi.parent.name) == ("anat", "dwi")


def test_readers_are_kept_apart():
    scan = scan_of("anat acq-legs_T1w.nii.gz")
    (station,) = list_stations(scan, "stations")
    adopted = {
        drawn_key("labels", station.key, 0): Path("a"),
        drawn_key("labels", station.key, 1): Path("b"),
        drawn_key("bone", station.key, 1): Path("c"),
    }
    assert {reader for _, reader in readers_of(adopted, [station])} == {0, 1}
    assert readers_of(adopted, [station], "bone")[station, 1]["bone"] == Path("c")


def test_labelled_stations_of_others_are_found_and_ones_own_are_not(tmp_path):
    raw, drawn, other = (tmp_path / name for name in ("raw", "raw/derivatives", "other"))

    def person(root, label, tail="acq-legs_chunk-1", content=""):
        image = root / f"sub-{label}" / "anat" / f"sub-{label}_{tail}_T1w.nii.gz"
        image.parent.mkdir(parents=True, exist_ok=True)
        image.write_text(content or f"{root.name} {label}")
        drawn.mkdir(exist_ok=True)
        folder = drawn if root == raw else image.parent
        (folder / f"sub-{label}_{tail}_desc-muscles_dseg.nii.gz").touch()
        return image

    own = person(raw, "01")
    person(raw, "02")
    person(raw, "05", "acq-legs_chunk-2")
    (drawn / "sub-04_acq-legs_chunk-1_desc-muscles_dseg.nii.gz").touch()
    # somebody else of the same label, and the participant under another
    person(other, "01")
    person(other, "09", content=own.read_text())
    scan = Scan("muscle", "01", None, {}, {"stations": (own,)}, {})
    (station,) = list_stations(scan, "stations")

    def found(folder):
        return [image for image, _ in Sites(scan, (station,)).atlases_of(station, folder)]

    assert found(raw) == [raw / "sub-02/anat/sub-02_acq-legs_chunk-1_T1w.nii.gz"]
    assert found(other) == [other / "sub-01/anat/sub-01_acq-legs_chunk-1_T1w.nii.gz"]
    assert found(None) == []
