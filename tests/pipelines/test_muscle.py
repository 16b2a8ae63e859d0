"""What is special to muscle: labels of any source, stations, planes, readers, and bad input."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

from bids_alsmri.bids.query import Scan
from bids_alsmri.bids.stations import Station, list_stations
from bids_alsmri.errors import DataError
from bids_alsmri.interfaces.base import ImageData
from bids_alsmri.numerics.fatty_replacement import GradeBounds
from bids_alsmri.numerics.noise import Noise
from bids_alsmri.pipelines.muscle import doubts, drawing, echoes, measures, sessions, steps
from bids_alsmri.pipelines.muscle.cohort import MUSCLES, REGIONS, composite_tables
from bids_alsmri.pipelines.muscle.compartments import refuse_fat, segment_legs
from bids_alsmri.pipelines.muscle.contrast import doubt_of_fat
from bids_alsmri.pipelines.muscle.labels import read_labels
from bids_alsmri.pipelines.muscle.measures import Measured
from bids_alsmri.pipelines.muscle.sites import Sites, with_partners
from bids_alsmri.pipelines.muscle.vocabulary import PROGRAMS, map_labels, read_vocabulary
from bids_alsmri.planning import make_plan

OURS = read_vocabulary(None)
AFFINE = np.diag([4.0, 4.0, 4.0, 1.0])
AFFINE[:3, 3] = -38.0, -18.0, 0.0


def index_of(title: str) -> int:
    region = OURS.find(title)
    assert region is not None
    return region.index


LEFT, RIGHT = index_of("left tibialis anterior"), index_of("right tibialis anterior")


def saved(folder: Path, values: np.ndarray, affine: np.ndarray = AFFINE, name: str = "a") -> Path:
    path = folder / f"sub-01_{name}.nii.gz"
    nib.save(nib.Nifti1Image(values, affine), path)
    return path


def legs(dtype=np.int16) -> np.ndarray:
    """Left at negative x."""
    labels = np.zeros((20, 10, 12), dtype)
    labels[3:8, 3:7, 2:10], labels[12:17, 3:7, 2:10] = LEFT, RIGHT
    return labels


def image(values: np.ndarray, affine: np.ndarray = AFFINE) -> ImageData:
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    return ImageData(
        np.asarray(values, np.float32), affine, tuple(edges), Path("sub-01_T2w.nii.gz")
    )


# ---- vocabulary


def test_list_after_jenkins_holds_their_34_muscles():
    titles = {r.title for r in OURS.regions if r.in_jenkins2020}
    assert len(titles) == 34
    assert {"tongue", "splenius capitis", "left psoas", "right first dorsal interosseous"} <= titles
    coronal = {r.name for r in OURS.regions if r.in_jenkins2020 and r.plane == "coronal"}
    # read on coronal T2w, Jenkins 2020, materials and methods
    assert coronal == {"triceps", "first dorsal interosseous", "thenar", "hypothenar"}


def test_list_after_diamanti_fits_what_they_print():
    counts = pd.Series([r.diamanti2018 for r in OURS.regions if r.side == "left"]).value_counts()
    assert counts.drop("").sum() == 34
    assert len(counts.drop("")) == 8
    for region, n in (("anterior thigh", 4), ("posterior thigh", 7), ("anterior calf", 4)):
        assert counts[region] == n
    assert counts["posterior calf"] in (3, 6)


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("Right tibialis anterior", "right tibialis anterior"),
        ("gluteus_maximus_left", "left gluteus maximus"),
        ("VL_R", "right vastus lateralis"),
        ("L gastrocnemius/soleus", "left gastrocnemius and soleus"),
        ("psoas major (right)", "right psoas"),
        ("Tongue", "tongue"),
    ],
)
def test_names_are_understood_whatever_their_spelling(text, title):
    region = OURS.find(text)
    assert region is not None
    assert region.title == title


@pytest.mark.parametrize("text", ["tibialis anterior", "left", "liver", "left unicorn"])
def test_name_that_means_no_single_region_is_not_guessed(text):
    assert OURS.find(text) is None


@pytest.mark.parametrize(
    ("program", "code", "title"),
    [
        # docs/anatomy.md of MuscleMap; map_to_binary.py of TotalSegmentator
        ("musclemap", 7131, "left rectus femoris"),
        ("musclemap", 8142, "right gastrocnemius"),
        ("musclemap", 6222, "right gemelli and quadratus femoris"),
        ("totalsegmentator", 81, "right gluteus maximus"),
        ("totalsegmentator", 88, "left iliopsoas"),
        ("totalsegmentator_thigh", 2, "right quadriceps"),
        ("totalsegmentator_headneck", 2, "left sternocleidomastoid"),
    ],
)
def test_codes_of_other_programs_are_known(program, code, title):
    assert program in PROGRAMS
    assert OURS.by_code(program)[code].title == title


def test_all_labels_that_musclemap_documents_are_known():
    # docs/muscle-anatomy.md of MuscleMap: 99 muscles and bones
    assert len(OURS.by_code("musclemap")) == 99


@pytest.mark.parametrize(
    "names",
    # LABELS_DICT of generate_thigh_split_model.py and generate_leg_split_model.py of Dafne
    ["VL VM VI RF SAR GRA AM SM ST BFL BFS AL", "SOL GM GL TA ELD PE"],
)
def test_names_of_dafne_mean_a_muscle_of_each_side(names):
    for name in names.split():
        sides = {OURS.find(f"{name}_{side}") for side in "LR"}
        assert None not in sides
        assert {region.side for region in sides if region} == {"left", "right"}


def test_own_list_takes_the_place_of_ours(tmp_path):
    path = tmp_path / "list.tsv"
    path.write_text("index\tname\tside\tkind\n5\tpoodle muscle\tleft\tmuscle\n")
    assert [r.title for r in read_vocabulary(path).regions] == ["left poodle muscle"]


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ("index\tname\tside\n1\ta\tleft\n", "lacks the column kind"),
        ("index\tname\tside\tkind\n0\ta\tleft\tmuscle\n", "line 2: index is '0'"),
        ("index\tname\tside\tkind\n1\ta\tboth\tmuscle\n", "side is 'both'; give one of left"),
        ("index\tname\tside\tkind\n1\ta\tleft\tmuscle\n1\tb\tleft\tmuscle\n", "1 stands twice"),
    ],
)
def test_faulty_list_is_refused_with_its_line(tmp_path, rows, text):
    path = tmp_path / "list.tsv"
    path.write_text(rows)
    with pytest.raises(DataError, match=text):
        read_vocabulary(path)


# ---- labels


def test_unknown_codes_are_left_out_and_told():
    values = legs(np.float32)
    values[0, 0, 0] = 4321
    mapped = map_labels(values, None, OURS, codes="own", path=Path("a"))
    assert mapped.unknown == ("4321",)
    assert set(np.unique(mapped.labels)) == {0, LEFT, RIGHT}
    with pytest.raises(
        DataError, match=r"none of its labels \(4321\) is known by the codes of mus"
    ):
        map_labels(np.full((2, 2, 2), 4321.0), None, OURS, codes="musclemap", path=Path("a"))


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (np.full((2, 2, 2), 1.5), "holds the value 1.5; labels are whole numbers"),
        (np.zeros((2, 2, 2, 3)), "one volume of labels in which every voxel has one region"),
    ],
)
def test_overlapping_or_interpolated_labels_are_refused(values, text):
    with pytest.raises(DataError, match=text):
        map_labels(values, None, OURS, codes="auto", path=Path("a"))


def test_labels_on_another_grid_come_to_that_of_the_station(tmp_path):
    fine = np.kron(legs(), np.ones((2, 2, 2), np.int16))
    affine = AFFINE.copy()
    affine[:3, :3] /= 2
    affine[:3, 3] -= 1
    station = image(np.ones((20, 10, 12)))
    path = saved(tmp_path, fine, affine)
    found = read_labels(path, None, station, OURS, codes="auto")
    assert np.array_equal(found.labels, legs())
    assert "another grid" in found.notes[-1]
    far = affine.copy()
    far[2, 3] = 900
    with pytest.raises(DataError, match=r"none of its labels lies in sub-01_T2w"):
        read_labels(saved(tmp_path, fine, far), None, station, OURS, codes="auto")


def test_mirrored_station_is_refused_whatever_its_storage(tmp_path):
    station = image(np.ones((20, 10, 12)))
    flipped = AFFINE.copy()
    flipped[0, 0], flipped[0, 3] = -4.0, 38.0
    # the same anatomy, stored right to left with an affine that says so
    path = saved(tmp_path, legs()[::-1].copy(), flipped)
    stored = image(np.ones((20, 10, 12)), flipped)
    assert read_labels(path, None, stored, OURS, codes="auto").labels.any()
    # and with one that does not
    wrong = saved(tmp_path, legs()[::-1].copy(), AFFINE)
    with pytest.raises(DataError, match="1 of 1 muscles of the left lie to the right"):
        read_labels(wrong, None, station, OURS, codes="auto")


# ---- measurement


def station(labels: np.ndarray, *, suffix="T2w", z=0.0, key="a", **maps) -> Measured:
    affine = AFFINE.copy()
    affine[2, 3] = z
    return Measured(
        key=key, title=f"chunk-{key} {suffix}", chunk=key, suffix=suffix, frame="f",
        source="drawn", labels=image(labels, affine), **maps,
    )  # fmt: skip


def value_of(table: pd.DataFrame, measure: str, side: str = "left", region: str = "") -> pd.Series:
    own = table[(table["measure"] == measure) & (table["side"] == side)]
    own = own[own["region"] == (region or "tibialis anterior")]
    assert len(own) == 1, own
    return own.iloc[0]


RULES = {"adc_least_snr": 10.0, "most_displaced_fat": 0.1, "least_voxels": 10}


def test_volume_and_area_are_those_of_the_voxels():
    table, facts = sessions.measure_session([station(legs())], OURS, **RULES)
    assert_allclose(value_of(table, "volume")["value"], 5 * 4 * 8 * 64)
    assert_allclose(value_of(table, "cross_section")["value"], 5 * 4 * 16)
    missing = {m["measure"]: m["value"] for m in facts["measures"]}["n_muscles_missing"]
    # 12 of the 34 of Jenkins 2020 are of the lower limb; two are labelled
    assert missing == 10


def test_muscle_in_the_overlap_of_two_stations_counts_once():
    whole = legs()
    # slices of 4 mm: the second station begins 6 slices above the first and shares 6 with it
    upper, lower = np.zeros_like(whole), np.zeros_like(whole)
    upper[3:8, 3:7, :9], lower[3:8, 3:7, 3:] = LEFT, LEFT
    signal = {"a": np.full(whole.shape, 0.2), "b": np.full(whole.shape, 0.4)}
    pair = [
        station(upper, key="a", z=24.0, relative=signal["a"]),
        station(lower, key="b", z=0.0, relative=signal["b"]),
    ]
    table, _ = sessions.measure_session(pair, OURS, **RULES)
    volume = value_of(table, "volume")
    # from slice 3 of the lower to slice 8 of the upper, 6 + 8 - 3 + 1 = 12 slices in all
    assert_allclose(volume["value"], 5 * 4 * 12 * 64)
    assert volume["chunk"] == "a+b"
    mean = value_of(table, "relative_t2")
    assert_allclose(mean["value"], (0.2 * 6 + 0.4 * 6) / 12)


def test_muscle_that_is_labelled_in_two_contrasts_is_one_muscle():
    twice = [station(legs()), station(legs(), suffix="T1w", key="b")]
    table, _ = sessions.measure_session(twice, OURS, **RULES)
    volume = value_of(table, "volume")
    assert_allclose(volume["value"], 5 * 4 * 8 * 64)
    assert volume["station"].endswith("T2w")


def test_muscle_is_measured_in_the_plane_that_it_is_read_in():
    labels = legs()
    coronal = index_of("left thenar")
    labels[3:8, 3:7, 11] = coronal
    t2w = station(labels, key="a", relative=np.full(labels.shape, 0.5))
    dwi = station(labels, key="a2", suffix="dwi", relative=np.full(labels.shape, 0.7))
    table, _ = sessions.measure_session([t2w, dwi], OURS, **RULES)
    assert_allclose(value_of(table, "relative_t2")["value"], 0.7)
    assert_allclose(value_of(table, "relative_t2", region="thenar")["value"], 0.5)


def test_single_slice_region_tells_its_slice():
    labels = np.zeros((20, 10, 12), np.int16)
    labels[3:8, 3:7, 5] = LEFT
    table, _ = sessions.measure_session([station(labels)], OURS, **RULES)
    assert value_of(table, "n_slices")["value"] == 1
    assert_allclose(value_of(table, "slice")["value"], 20.0)


def test_signal_where_the_reference_was_refused_is_not_measured():
    table, _ = sessions.measure_session(
        [station(legs(), relative=np.zeros(legs().shape))], OURS, **RULES
    )
    assert "relative_t2" not in set(table["measure"])


def test_low_snr_of_a_muscle_is_flagged_by_its_name():
    labels = legs()
    series = np.zeros((*labels.shape, 2))
    series[..., 0], series[..., 1] = 8.0, 3.0
    own = station(
        labels, suffix="dwi", series=series, adc=np.full(labels.shape, 1e-3),
        b_values=np.array([0, 1000.0]), noise=Noise(1.0, 1.0),
    )  # fmt: skip
    _, facts = sessions.measure_session([own], OURS, **RULES)
    (told,) = [w for w in facts["warnings"] if "SNR" in w]
    assert told.startswith("left tibialis anterior, right tibialis anterior have an SNR below 10")


# ---- diffusion series


def series_files(folder: Path, gains=(1.0, 1.0), b=("0", "1000")) -> tuple[list[Path], list[Path]]:
    rng = np.random.default_rng(0)
    signal = np.zeros((12, 12, 8))
    signal[3:9, 3:9] = 400
    images, texts = [], []
    for number, (gain, text) in enumerate(zip(gains, b, strict=True)):
        noisy = np.hypot(signal + rng.normal(0, 10, signal.shape), rng.normal(0, 10, signal.shape))
        images.append(saved(folder, (gain * noisy).astype(np.float32), name=f"run-{number}_dwi"))
        path = images[-1].with_name(images[-1].name.replace(".nii.gz", ".bval"))
        path.write_text(text + "\n")
        texts.append(path)
    return images, texts


def test_separate_series_of_one_scale_are_fitted_together(tmp_path):
    images, texts = series_files(tmp_path)
    slopes = [{"RescaleSlope": 2.0}, {"RescaleSlope": 2.0}]
    joined = steps.join_series(images, texts, slopes, most_scale_difference=0.1)
    assert joined.b_values.tolist() == [0, 1000]
    assert "one intensity scale by RescaleSlope" in joined.notes[0]


def test_separate_series_of_different_scales_are_refused(tmp_path):
    images, texts = series_files(tmp_path)
    slopes = [{"RescaleSlope": 2.0}, {"RescaleSlope": 3.0}]
    with pytest.raises(DataError, match="RescaleSlope differs \\(2, 3\\)"):
        steps.join_series(images, texts, slopes, most_scale_difference=0.1)
    images, texts = series_files(tmp_path, gains=(1.0, 1.4), b=("0", "0"))
    with pytest.raises(DataError, match=r"their b=0 differs by 3\d %"):
        steps.join_series(images, texts, [{}, {}], most_scale_difference=0.1)


@pytest.mark.parametrize(("text", "told"), [("", "0 b-values for 1"), ("0 5", "2 b-values for 1")])
def test_absent_b_values_are_told_with_their_file(tmp_path, text, told):
    images, texts = series_files(tmp_path, b=("0", text))
    with pytest.raises(DataError, match=rf"run-1_dwi.bval: has {told}"):
        steps.join_series(images, texts, [{}, {}], most_scale_difference=0.1)


def test_displacement_of_fat_follows_the_sidecar():
    # 3 T: 3.35 ppm of 127.7 MHz are 428 Hz; over 28 ms of readout 12 voxels
    sidecar = {"MagneticFieldStrength": 3, "TotalReadoutTime": 0.028}
    shifts = [
        steps.fat_shift_voxels({**sidecar, "PhaseEncodingDirection": d}, 80) for d in ("j", "j-")
    ]
    assert [s[0] for s in shifts] == [1, 1]
    assert_allclose([s[1] for s in shifts], [-11.98, 11.98], atol=0.01)
    assert steps.fat_shift_voxels(sidecar, 80) is None


# ---- stations


def ordered(folder: Path, parts, metadata=None):
    described, paths = [], []
    for number, (values, affine) in enumerate(parts, start=1):
        name = {"key": f"k{number}", "title": f"chunk-{number} T2w", "chunk": str(number)}
        described.append({**name, "acquisition": "wholebody", "suffix": "T2w"})
        paths.append(saved(folder, values.astype(np.float32), affine, name=f"chunk-{number}_T2w"))
    return steps.order_stations(
        described, paths, metadata or [{}] * len(parts),
        step_mm=4.0, most_shift_mm=12.0, least_overlap_mm=10.0,
    )  # fmt: skip


def trunk(z: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    values = np.zeros((20, 16, 12))
    values[3:17, 3:13] = 1 + rng.random((14, 10, 12))
    affine = AFFINE.copy()
    affine[2, 3] = z
    return values, affine


def test_gap_between_stations_is_told_in_mm(tmp_path):
    table, facts = ordered(tmp_path, [trunk(0.0), trunk(78.0)])
    assert table["key"].tolist() == ["k2", "k1"]
    assert any("a gap of 30 mm lies between them" in w for w in facts["warnings"])


def test_station_made_twice_is_told(tmp_path):
    facts = ordered(tmp_path, [trunk(0.0), trunk(1.0)])[1]
    assert any("lie at one place" in w for w in facts["warnings"])


def test_stations_of_different_frames_are_not_put_together(tmp_path):
    frames = [{"FrameOfReferenceUID": "1"}, {"FrameOfReferenceUID": "2"}]
    table, facts = ordered(tmp_path, [trunk(0.0), trunk(78.0)], frames)
    assert table["overlap_below"].isna().all()
    assert not facts["warnings"]


def test_body_part_that_the_content_contradicts_is_told(tmp_path):
    facts = ordered(tmp_path, [trunk(0.0)], [{"BodyPart": "LEG"}])[1]
    assert "BodyPart is LEG, but axial slices show one large part" in facts["warnings"][0]


@pytest.mark.parametrize("key", ["BodyPart", "BodyPartExamined"])
def test_part_of_the_body_is_read_by_either_name(tmp_path, key):
    facts = ordered(tmp_path, [trunk(0.0)], [{key: "KNEE"}])[1]
    assert "BodyPart is KNEE, but axial slices show one large part" in facts["warnings"][0]


@pytest.mark.parametrize("way", [1, -1])
def test_table_that_moved_otherwise_than_the_headers_tell_is_told(tmp_path, way):
    tables = [{"TablePosition": [0, 0, way * z]} for z in (0, 300)]
    facts = ordered(tmp_path, [trunk(0.0), trunk(36.0)], tables)[1]
    (told,) = [w for w in facts["warnings"] if "TablePosition" in w]
    assert "are 36 mm apart by their headers but 300 mm by TablePosition" in told
    same = [{"TablePosition": [0, 0, way * z]} for z in (0, 36)]
    facts = ordered(tmp_path, [trunk(0.0), trunk(36.0)], same)[1]
    assert not [w for w in facts["warnings"] if "TablePosition" in w]


def test_stations_at_one_place_whose_tables_differ_are_told(tmp_path):
    tables = [{"TablePosition": [0, 0, z]} for z in (0, 300)]
    facts = ordered(tmp_path, [trunk(0.0), trunk(0.0)], tables)[1]
    assert any("their tables are 300 mm apart" in w for w in facts["warnings"])


def test_station_that_is_mirrored_in_its_file_is_told_by_its_neighbour(tmp_path):
    whole = np.zeros((20, 16, 18))
    rng = np.random.default_rng(3)
    whole[3:17, 3:13] = 1 + rng.random((14, 10, 18))
    whole[3:8] *= 2  # one side is brighter
    upper, lower = AFFINE.copy(), AFFINE.copy()
    upper[2, 3] = 24.0
    parts = [(whole[..., :12], lower), (whole[..., 6:], upper)]
    assert not any("mirrored" in w for w in ordered(tmp_path, parts)[1]["warnings"])
    parts[1] = (whole[::-1, :, 6:], upper)
    (told,) = [w for w in ordered(tmp_path, parts)[1]["warnings"] if "mirrored" in w]
    assert "chunk-2 T2w and chunk-1 T2w: where they overlap they agree better" in told
    assert "check the orientation in their headers" in told


# ---- doubts


def test_muscle_that_reaches_the_side_of_the_image_is_told():
    labels = legs()
    labels[0:8, 3:7, 2:10] = LEFT
    _, facts = sessions.measure_session([station(labels)], OURS, **RULES)
    (told,) = [w for w in facts["warnings"] if "reach the side" in w]
    assert told.startswith("chunk-a T2w: left tibialis anterior reach the side of the image")


def test_muscle_that_goes_on_in_the_next_station_is_not_cut():
    whole = legs()
    upper, lower = np.zeros_like(whole), np.zeros_like(whole)
    upper[3:8, 3:7, :9], lower[3:8, 3:7, 3:] = LEFT, LEFT
    pair = [station(upper, key="a", z=24.0), station(lower, key="b")]
    assert not [n for n in sessions.measure_session(pair, OURS, **RULES)[1]["notes"] if "ends" in n]
    alone = sessions.measure_session(pair[:1], OURS, **RULES)[1]["notes"]
    assert any("chunk-a T2w: left tibialis anterior go on beyond its ends" in n for n in alone)


def test_side_without_a_label_is_told_where_the_other_has_one():
    labels = legs()
    labels[labels == RIGHT] = 0
    _, facts = sessions.measure_session([station(labels)], OURS, **RULES)
    assert any("no label for right tibialis anterior, though" in w for w in facts["warnings"])
    both = sessions.measure_session([station(legs())], OURS, **RULES)[1]
    assert not any("though the other side" in w for w in both["warnings"])


def thighs(shift_mm=(0.0, 0.0, 0.0), *, fat: float = 0.0, b: float = 0.0) -> np.ndarray:
    """Two thighs on a grid of 4 mm, noisy; fat under the skin has what suppression leaves of it."""
    i, j, k = np.meshgrid(np.arange(40), np.arange(24), np.arange(8), indexing="ij")
    x, y, z = (4.0 * v - s for v, s in zip((i, j, k), shift_mm, strict=True))
    signal = np.zeros(x.shape)
    for centre in (40.0, 116.0):
        radius = np.hypot(x - centre, y - 46.0 - 0.1 * z)
        signal[radius < 36] = fat * np.exp(-b * 5e-5)
        signal[radius < 29] = np.exp(-b * 1.6e-3)
        signal[np.hypot(x - centre + 5, y - 46) < 7] = 0.02
    rng = np.random.default_rng(int(b))
    return 400 * np.hypot(
        signal + rng.normal(0, 0.02, x.shape), rng.normal(0, 0.02, x.shape)
    )  # fmt: skip


def series_of(*volumes: np.ndarray, b=(0.0, 1000.0)) -> steps.Series:
    data = np.stack(volumes, axis=-1).astype(np.float32)
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    own = ImageData(data, affine, (4.0, 4.0, 4.0), Path("sub-01_dwi.nii.gz"))
    return steps.Series(own, np.array(b))


@pytest.mark.parametrize(
    ("shift_mm", "is_told"), [((0, 0, 0), False), ((3, -2, 0), False), ((16, 0, 0), True)]
)
def test_motion_within_a_series_is_told_from_8_mm_on(shift_mm, is_told):
    series = series_of(thighs(), thighs(shift_mm, b=1000.0))
    found = doubts.motion_warnings(series, "chunk-1 dwi", most_mm=8.0)
    assert bool(found) == is_told
    if is_told:
        assert "chunk-1 dwi: volume 2 lies 15 mm from volume 1" in found[0] or "16 mm" in found[0]


@pytest.mark.parametrize(("shift_mm", "is_told"), [((2, 0, 0), False), ((0, 14, 0), True)])
def test_motion_between_t2w_and_diffusion_is_told(shift_mm, is_told):
    # fat is the brightest of the T2w and suppressed in the other
    relative = thighs(shift_mm, fat=3.0)
    relative[..., :2] = 0  # where no T2w station lies
    target = series_of(thighs(), thighs()).image
    target = image(thighs(), target.affine)
    found = doubts.position_warnings(relative, target, "chunk-1 dwi", most_mm=8.0)
    assert bool(found) == is_told


@pytest.mark.parametrize(("residual", "is_told"), [(0.05, False), (0.9, True)])
def test_fat_that_was_not_suppressed_is_told(residual, is_told):
    series = series_of(thighs(fat=residual), thighs(fat=residual, b=1000.0))
    found = doubts.fat_warnings(series, "chunk-1 dwi", most_adc_mm2_s=3e-4, most_share=0.05)
    assert bool(found) == is_told


# ---- scores


def muscles_of(session: str = "ses-m00") -> pd.DataFrame:
    rows = []
    for region in (r for r in OURS.regions if r.in_jenkins2020):
        side = "n/a" if region.side == "midline" else region.side
        rows.append((region.name, side, {"left": 1.0, "right": 3.0, "n/a": 5.0}[side]))
    table = pd.DataFrame(rows, columns=["region", "side", "value"])
    summary = pd.DataFrame([("summary", "n/a", 2.0)], columns=table.columns)
    return pd.concat([table, summary]).assign(
        participant_id="sub-01", session_id=session, measure="relative_t2", n=34
    )


@pytest.mark.parametrize(
    ("site", "side", "region", "muscle", "sides"),
    [
        ("lower limb", "right", 3.0, 3.0, "right"),
        ("upper limb", "left", 1.0, 1.0, "left"),
        # tongue, and trapezius and sternocleidomastoid of both sides: (5 + 2 (1 + 3)) / 5
        ("bulbar", None, 13 / 5, 5.0, "both"),
        ("lower limb", None, 2.0, 2.0, "both, the side of onset is not known"),
    ],
)
def test_scores_are_those_of_the_paper(site, side, region, muscle, sides):
    people = pd.DataFrame(
        {"participant_id": ["sub-01"], "onset_site": [site], "onset_side": [side]}
    )
    table = composite_tables({"muscles": muscles_of()}, people)["composites"].set_index("score")
    assert_allclose(table.loc["region_of_onset", "value"], region)
    assert_allclose(table.loc["muscle_of_onset", "value"], muscle)
    assert table.loc["muscle_of_onset", "sides"] == sides
    assert table.loc["summary_mean", "value"] == 2.0


def test_muscles_of_the_scores_are_in_the_list():
    names = {r.name for r in OURS.regions if r.in_jenkins2020}
    assert set(MUSCLES.values()) | {n for own in REGIONS.values() for n in own} <= names


# ---- readers


def test_readers_who_agree_have_a_dice_of_one_and_no_bias():
    own = station(legs(), relative=np.random.default_rng(0).random(legs().shape) + 0.1)
    table = measures.compare_readers([own], [own], OURS)
    assert (table.loc[table["measure"] == "dice", "value"] == 1).all()
    overall = table[table["region"] == "all"].set_index("measure")["value"]
    assert_allclose([overall["bias"], overall["variation"], overall["icc"]], [0, 0, 1], atol=1e-12)


def test_difference_of_readers_is_second_less_first():
    half = legs()
    half[:, :, 6:] = 0
    one, two = station(legs()), station(half)
    table = measures.compare_readers([one], [two], OURS)
    overall = table[table["region"] == "all"].set_index("measure")["value"]
    assert_allclose(overall["bias_volume"], -5 * 4 * 4 * 64)
    dice = table.loc[table["measure"] == "dice", "value"]
    assert_allclose(dice, 2 * 4 / (4 + 8))


# ---- legs without labels


def two_legs(fat: float = 900.0) -> tuple[np.ndarray, np.ndarray]:
    """Legs of fat, muscle, cortex and marrow, the left one with fat in a fifth of its muscle."""
    x, y, _ = np.meshgrid(np.arange(96) * 2.5, np.arange(44) * 2.5, np.arange(6), indexing="ij")
    signal, truth = np.zeros(x.shape), np.zeros(x.shape, np.int16)
    for centre, side in ((60.0, 1), (180.0, 2)):
        radius = np.hypot(x - centre, y - 54.0)
        layers = ((46, fat, 910), (38, 270, 900), (11, 20, 930), (6.5, 0.95 * fat, 940))
        for outer, level, label in layers:
            signal[radius < outer], truth[radius < outer] = level, label + side
        if side == 1:
            fatty = (radius > 15) & (radius < 34) & (np.abs(y - 54.0) < 7)
            signal[fatty] = fat
    rng = np.random.default_rng(0)
    return np.hypot(signal + rng.normal(0, 12, x.shape), rng.normal(0, 12, x.shape)), truth


def test_compartments_are_measured_on_the_side_that_the_header_tells():
    signal, truth = two_legs()
    affine = np.diag([2.5, 2.5, 8.0, 1.0])
    found = segment_legs(image(signal, affine), "legs", field_order=2, least_contrast=1.3)
    assert found.warnings == ()
    for label in (901, 902, 911, 912, 941, 942):
        a, b = found.labels == label, truth == label
        if label < 910:  # fat within the muscle is a compartment of its own
            a |= found.labels == label + 20
        assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.85, label
    # the healthy leg has none, the other as much as was put there
    planted = (signal > 600) & (truth == 901)
    for label, expected in ((902, 0.0), (901, planted.sum() / (truth == 901).sum())):
        inside = truth == label
        assert_allclose(np.nanmean(found.fat[inside]), expected, atol=0.05)


def test_image_without_legs_gives_no_compartments_and_says_why():
    found = segment_legs(
        image(np.zeros((20, 10, 12))), "chunk-1", field_order=2, least_contrast=1.3
    )
    assert not found.labels.any()
    assert found.warnings[0].startswith("chunk-1: no compartments of legs could be found")


def test_legs_whose_fat_is_darker_than_muscle_state_no_fat_fraction():
    # as an opposed-phase echo of real legs shows them
    signal, truth = two_legs(fat=0.77 * 270)
    affine = np.diag([2.5, 2.5, 8.0, 1.0])
    found = segment_legs(image(signal, affine), "legs", field_order=2, least_contrast=1.3)
    assert np.isnan(found.fat).all()
    assert_allclose(found.contrast, 0.77, atol=0.03)
    (told,) = found.warnings
    assert "legs: no fat fraction and no grade of fat, since fat has 0.7" in told
    assert "Give a T1w or T2w in which fat is bright" in told
    # compartments of the leg without planted fat are found all the same
    a, b = np.isin(found.labels, (902, 922)), truth == 902
    assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.85


def pair_files(folder: Path, values, parts=(), sidecars=None):
    """Images of a station, with what their names or sidecars tell."""
    paths = [saved(folder, v.astype(np.float32), name=f"{n}_T1w") for n, v in enumerate(values)]
    return paths, sidecars or [{}] * len(values), list(parts) or [""] * len(values)


ECHOES = [{"EchoTime": e, "MagneticFieldStrength": 3} for e in (0.00117, 0.00234)]
WATER = np.array([100.0, 80, 50, 20, 0]).repeat(40).reshape(20, 10, 1) * np.ones(12)
PLANTED = np.array([0.0, 0.2, 0.5, 0.8, 1.0]).repeat(40).reshape(20, 10, 1) * np.ones(12)


def mapped(pair, **more):
    rules = {"shows_legs": False, "field_order": 2, "least_contrast": 1.3, **more}
    return echoes.map_dixon(pair, "legs", **rules)


def test_fat_fraction_of_water_and_fat_is_that_which_was_planted(tmp_path):
    pair = echoes.read_pair(*pair_files(tmp_path, [100 - WATER, WATER], ["fat", "water"]))
    found = mapped(pair)
    assert_allclose(found.fat, PLANTED, atol=1e-6)
    assert not found.is_ambiguous


def test_phases_alone_tell_the_lesser_of_water_and_fat_and_say_so(tmp_path):
    opposed = np.abs(2 * WATER - 100)
    whole = np.full(WATER.shape, 100.0)
    pair = echoes.read_pair(*pair_files(tmp_path, [opposed, whole], sidecars=ECHOES))
    found = mapped(pair)
    assert_allclose(found.fat, np.minimum(PLANTED, 1 - PLANTED), atol=1e-6)
    assert found.is_ambiguous
    assert "a fat fraction above 0.5 comes out as 1 less the fraction" in found.warnings[0]
    # and no grade is stated
    own = station(legs(), fat=found.fat, is_dixon=True, grading=None)
    measured = set(sessions.measure_session([own], OURS, **RULES)[0]["measure"])
    assert "dixon_fat_fraction" in measured
    assert not {"dixon_mercuri", "mercuri", "fat_fraction"} & measured


def test_brightness_in_phase_tells_where_fat_outweighs_water(tmp_path):
    signal, truth = two_legs()
    fat = np.where(signal > 600, signal, 0)
    affine = np.diag([2.5, 2.5, 8.0, 1.0])
    one, two = image(signal, affine), image(np.abs(signal - 2 * fat), affine)
    found = mapped(echoes.Pair(one, two, True), shows_legs=True)
    assert not found.is_ambiguous
    assert found.legs is not None
    # fat under the skin is fat and muscle of the healthy leg is water, each in all its voxels
    for label, expected in ((912, 1.0), (902, 0.0)):
        assert_allclose(np.nanmedian(found.fat[truth == label]), expected, atol=0.05)
    planted = (truth == 901) & (signal > 600)
    assert_allclose(np.nanmean(found.fat[planted]), 1.0, atol=0.05)


@pytest.mark.parametrize(
    ("parts", "sidecars", "text"),
    [
        (["water", ""], None, r"0_T1w.nii.gz \(water\), .*expected rec-water and rec-fat"),
        ([], [ECHOES[0]] * 2, r"\(opposed\), .*no pair of water and fat"),
        ([], [{"EchoTime": 0.001}] * 2, r"EchoTime 0.001 s, MagneticFieldStrength None T"),
    ],
)
def test_images_that_are_no_pair_are_refused_with_what_they_are(tmp_path, parts, sidecars, text):
    files = pair_files(tmp_path, [WATER, WATER], parts, sidecars)
    with pytest.raises(DataError, match=text):
        echoes.read_pair(*files)


def test_images_of_a_pair_on_two_grids_are_refused(tmp_path):
    paths, sidecars, parts = pair_files(tmp_path, [WATER, WATER[:10]], ["water", "fat"])
    with pytest.raises(DataError, match=r"1_T1w.nii.gz: lies on another grid than .*0_T1w"):
        echoes.read_pair(paths, sidecars, parts)


def train(folder: Path, times=(0.04, 0.01, 0.02, 0.03), t2_ms: float = 32.0):
    """Echoes whose first lacks a tenth of its signal."""
    inside = legs() > 0
    values = [inside * 1000 * np.exp(-1000 * t / t2_ms) * (0.9 if t == 0.01 else 1) for t in times]
    return pair_files(folder, values, sidecars=[{"EchoTime": t} for t in times])[:2]


def test_t2_is_that_of_the_decay_without_the_first_echo(tmp_path):
    files = train(tmp_path)
    t2_s, _, facts = echoes.map_t2(*files, "legs", n_skipped=1)
    assert_allclose(t2_s, 0.032 * (legs() > 0), rtol=1e-3)
    assert "its noise could not be told" in facts["warnings"][0]
    assert "fat in a muscle raises it" in facts["notes"][0]
    assert echoes.map_t2(*files, "legs", n_skipped=0)[0].max() > 0.033
    own = station(legs(), suffix="MESE", t2_s=t2_s)
    table, _ = sessions.measure_session([own], OURS, **RULES)
    row = value_of(table, "t2")
    assert_allclose(row["value"], 32, rtol=1e-3)
    assert row["unit"] == "ms"


@pytest.mark.parametrize(
    ("times", "text"),
    [
        ((0.01, 0.02), "echo times are 10, 20 ms, of which the first 1 are left out; T2 needs 2"),
        ((0.01, 0.01, 0.02), "T2 needs 2 different ones"),
        ((10.0, 20.0, 30.0), "EchoTime 10.0; expected its echo time in s, above 0 and below 1"),
    ],
)
def test_echo_times_that_give_no_t2_are_refused(tmp_path, times, text):
    with pytest.raises(DataError, match=text):
        echoes.map_t2(*train(tmp_path, times), "legs", n_skipped=1)


def stations_named(*names: str) -> tuple[Station, ...]:
    files = tuple(Path(f"anat/sub-01_{name}.nii.gz") for name in names)
    return list_stations(Scan("muscle", "01", None, {}, {"stations": files}, {}), "stations")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("water", "fat"), {"water": 2}),
        (("inphase", "opposed"), {"inphase": 2}),
        (("water", "fat", "inphase", "opposed"), {"water": 2, "inphase": 1}),
        (("water",), {"water": 1}),
    ],
)
def test_reconstructions_of_water_and_fat_are_one_station(names, expected):
    named = stations_named("acq-legs_T1w", *(f"acq-legs_rec-{n}_T1w" for n in names))
    found = {s.entities.get("rec"): len(s.files) for s in with_partners(named)}
    assert found == {None: 1, **expected}


@pytest.mark.parametrize(
    ("sidecar", "told"),
    [
        ({"ImageType": ["DERIVED", "PRIMARY", "OPP_PHASE"]}, "its ImageType has OPP_PHASE"),
        ({"ImageType": ["DERIVED", "PRIMARY", "WATER"]}, "it shows water alone"),
        ({"ScanOptions": "PFP_FS"}, "its ScanOptions have FS: fat was suppressed"),
        # 3 T: 428 Hz; 1.17 ms are half a turn. 1.5 T: 2.34 ms
        (
            {"ScanningSequence": "GR", "EchoTime": 0.00117, "MagneticFieldStrength": 3},
            "a gradient echo of 1.17 ms at 3 T: water and fat are opposed",
        ),
        (
            {"ScanningSequence": "GR", "EchoTime": 0.0023, "MagneticFieldStrength": 1.5},
            "opposed",
        ),
    ],
)
def test_sidecar_against_a_fat_fraction_is_told(sidecar, told):
    # whatever the brightness
    assert told in refuse_fat(3.3, 1.3, doubt_of_fat(sidecar))


@pytest.mark.parametrize(
    "sidecar",
    [
        {},
        {"ImageType": ["ORIGINAL", "PRIMARY", "M", "NORM"], "ScanOptions": "PFP"},
        {"ScanningSequence": "SE", "EchoTime": 0.00117, "MagneticFieldStrength": 3},
        {"ScanningSequence": "GR", "EchoTime": 0.00234, "MagneticFieldStrength": 3},
        {"ScanningSequence": "GR", "EchoTime": 0.00234},
    ],
)
def test_sidecar_of_a_usual_image_raises_no_doubt(sidecar):
    assert doubt_of_fat(sidecar) == ""


@pytest.mark.parametrize(("share", "grade"), [(0.0, 0), (0.05, 1), (0.3, 2), (0.6, 3)])
def test_grade_is_that_of_the_fatty_share(share, grade):
    labels = np.zeros((20, 10, 12), np.int16)
    labels[:10] = LEFT
    fat = np.zeros(labels.shape)
    n = round(share * (labels == LEFT).sum())
    fat.ravel()[np.flatnonzero(labels == LEFT)[:n]] = 1.0
    grading = measures.Grading(0.5, GradeBounds(0.01, 0.1, 0.5))
    table, _ = sessions.measure_session([station(labels, fat=fat, grading=grading)], OURS, **RULES)
    assert value_of(table, "mercuri")["value"] == grade
    assert_allclose(value_of(table, "fatty_share")["value"], share, atol=1e-3)


def test_asymmetry_is_right_less_left_over_their_mean():
    labels = legs()
    labels[3:8, 3:7, 6:10] = 0  # the left is half as large
    table, _ = sessions.measure_session([station(labels)], OURS, **RULES)
    assert_allclose(value_of(table, "asymmetry", side="n/a")["value"], 100 * (2 - 1) / 1.5)


# ---- figures and visits


def test_slices_show_every_muscle_at_half_of_its_area_or_more():
    rng = np.random.default_rng(5)
    labels = np.zeros((30, 30, 20), int)
    for number in range(1, 8):
        x, z = rng.integers(0, 24, 1)[0], rng.integers(0, 15, 1)[0]
        labels[x : x + 6, 4 * number - 4 : 4 * number, z : z + 5] = number
    found = drawing.covering_slices(labels)
    for at, numbers in found:
        for number in numbers:
            areas = (labels == number).sum(axis=(0, 1))
            assert areas[at] >= areas.max() / 2
    assert sorted(n for _, own in found for n in own) == list(range(1, 8))
    assert len(found) < 7
    assert drawing.covering_slices(np.zeros((3, 3, 3), int)) == []


def test_maps_are_drawn_in_their_units_at_their_places(tmp_path):
    # seconds, and no value in the left half
    t2 = np.zeros((8, 3, 6), np.float32)
    t2[4:] = 0.04
    fat = np.zeros((8, 3, 6), np.float32)
    lower = AFFINE.copy()
    lower[2, 3] = -24.0
    paths = [
        str(saved(tmp_path, values, affine, name))
        for values, affine, name in ((t2, AFFINE, "t2"), (t2, lower, "low"), (fat, AFFINE, "fat"))
    ]
    figure = drawing.draw_maps(paths, ["t2", "t2", "fat"])
    columns = {figure.axes[n + 1].get_xlabel(): figure.axes[n] for n in (0, 2)}
    high, low = columns["T2 (ms)"].images
    assert_allclose(high.get_array()[:, 4:], 40.0)
    assert np.ma.getmaskarray(high.get_array())[:, :4].all()
    # edges of the voxels, x and z, in mm
    assert_allclose(high.get_extent(), (-40.0, -8.0, -2.0, 22.0))
    assert_allclose(low.get_extent(), (-40.0, -8.0, -26.0, -2.0))
    (none,) = columns["fat fraction by signal"].images
    assert_allclose(none.get_array(), 0.0)
    assert none.norm.vmax == 1.0


@pytest.mark.parametrize(
    ("session", "first"), [("m04", None), ("m12", "m04"), ("m100", "m04"), (None, None)]
)
def test_first_visit_is_that_of_the_lowest_number_with_the_station(tmp_path, session, first):
    for name in ("m00", "m04", "m12", "m100"):
        folder = tmp_path / "sub-01" / f"ses-{name}" / "anat"
        folder.mkdir(parents=True)
        if name != "m00":
            (folder / f"sub-01_ses-{name}_acq-wholebody_chunk-1_T2w.nii.gz").touch()
    own = tmp_path / "sub-01" / f"ses-{session}" / "anat"
    path = own / f"sub-01_ses-{session}_acq-wholebody_chunk-1_T2w.nii.gz"
    scan = Scan("muscle", "01", session, {}, {"stations": (path,)}, {})
    (station_,) = list_stations(scan, "stations")
    found = Sites(scan, (station_,)).first_visit(station_)
    assert (found[0] if found else None) == first
    if found:
        assert found[1].is_file()


@pytest.mark.parametrize(("changed", "expected"), [("m00", {"m00", "m12"}), ("m12", {"m12"})])
def test_visits_whose_figure_shows_a_changed_first_visit_are_done_again(
    tmp_path, run_settings, changed, expected
):
    raw = tmp_path / "raw"
    for session in ("m00", "m12"):
        folder = raw / "sub-01" / f"ses-{session}" / "anat"
        folder.mkdir(parents=True)
        path = saved(folder, legs(), name=f"ses-{session}_acq-wholebody_chunk-1_T2w")
        path.with_name(path.name.replace(".nii.gz", ".json")).write_text("{}")
    (raw / "dataset_description.json").write_text('{"Name": "two", "BIDSVersion": "1.10.0"}')
    (raw / "participants.tsv").write_text("participant_id\nsub-01\n")

    def digests():
        plan = make_plan(run_settings(raw, tmp_path / "out", {"derivatives": {}}))
        return {j.scan.session: j.identity.digest() for j in plan.jobs}

    before = digests()
    assert set(before) == {"m00", "m12"}
    saved(
        raw / "sub-01" / f"ses-{changed}" / "anat",
        2 * legs(),
        name=f"ses-{changed}_acq-wholebody_chunk-1_T2w",
    )
    after = digests()
    assert {session for session in before if before[session] != after[session]} == expected


def test_echoes_beside_an_image_of_their_name_leave_it_its_labels():
    stations = stations_named(
        "acq-legs_chunk-1_T1w", "acq-legs_echo-1_chunk-1_MESE", "acq-legs_echo-2_chunk-1_MESE",
        "acq-legs_chunk-2_MESE",
    )  # fmt: skip
    sites = Sites(Scan("muscle", "01", None, {}, {}, {}), stations)
    assert {s.title for s in sites.owners} == {"acq-legs_chunk-1 T1w", "acq-legs_chunk-2 MESE"}
    keys = {sites.key_of(s) for s in stations}
    assert len(keys) == 3
    with pytest.raises(DataError, match="two contrasts under one name"):
        stations_named("acq-legs_chunk-1_T1w", "acq-legs_chunk-1_T2w")


@pytest.mark.parametrize(
    ("names", "is_dixon"),
    [
        (("acq-legs_rec-water_T1w", "acq-legs_rec-fat_T1w"), True),
        (("acq-legs_echo-1_MEGRE", "acq-legs_echo-2_MEGRE"), True),
        (("acq-legs_echo-1_T1w", "acq-legs_echo-2_T1w"), False),
        (("acq-legs_T1w",), False),
        (("acq-legs_rec-water_T1w",), False),
    ],
)
def test_pair_of_water_and_fat_is_told_by_its_names(names, is_dixon):
    (own,) = with_partners(stations_named(*names))
    sites = Sites(Scan("muscle", "01", None, {}, {}, {}), (own,))
    assert sites.is_dixon(own) == is_dixon


def test_water_image_by_itself_states_no_fat_fraction():
    (own,) = with_partners(stations_named("acq-legs_rec-water_T1w"))
    sites = Sites(Scan("muscle", "01", None, {}, {}, {}), (own,))
    assert "named as the water image of a pair, whose other image is absent" in sites.doubt_of(own)


def test_longest_echo_of_a_t2w_stands_for_it():
    names = [f"acq-legs_echo-{n}_T2w" for n in (1, 2)]
    (own,) = stations_named(*names)
    times = {path: {"EchoTime": t} for path, t in zip(own.files, (0.08, 0.015), strict=True)}
    sites = Sites(Scan("muscle", "01", None, {}, {}, times), (own,))
    assert sites.image_of(own).name == "sub-01_acq-legs_echo-1_T2w.nii.gz"
    assert sites.has_echoes(own)


def test_station_of_too_few_even_voxels_names_the_other_corrections():
    # alternating voxels: none is as bright as its neighbours
    board = np.where(np.indices((8, 8, 8)).sum(axis=0) % 2 == 0, 100.0, 10.0)
    checked = image(board.astype(np.float32), np.eye(4))
    with pytest.raises(DataError, match=r"0 voxels of one tissue.*n4 or off"):
        steps.field_of(checked, np.ones((8, 8, 8)), order=3, cell_mm=60.0)
