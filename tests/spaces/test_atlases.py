"""Atlases come from what the computer holds, and left is left in each of them."""

from __future__ import annotations

import json
import re
import shutil
import socket
from dataclasses import replace
from importlib import resources
from itertools import product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import ndimage

from bids_alsmri.errors import DataError, ExitCode
from bids_alsmri.spaces.atlases import (
    Atlas,
    MotorArea,
    Region,
    draw_areas,
    load_atlases,
    motor_areas,
    on_grid,
    read_fsl_atlases,
    read_templateflow_atlases,
    require_sides,
    side_of,
)
from bids_alsmri.spaces.templates import EMBEDDED_TEMPLATE, Template, get_template

AFFINE = np.array([[-2.0, 0, 0, 8], [0, 2, 0, -6], [0, 0, 2, -4], [0, 0, 0, 1]])
SHAPE = (9, 7, 5)  # x from 8 to -8 mm
NAMES = {1: "Hand R", 2: "Hand L", 3: "Genu"}


def labels_of_two_hands() -> np.ndarray:
    """Right hand at x > 0, left hand at x < 0, and a region between them."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:3, 2:4, 2:4] = 1
    labels[6:8, 2:4, 2:4] = 2
    labels[4, 5, 1:4] = 3
    return labels


def save(path: Path, values: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(values, affine)
    image.set_sform(affine, code=4)
    nib.save(image, path)
    return path


def put_fsl_atlas(
    folder: Path,
    values: np.ndarray,
    names: dict[int, str] | None = None,
    *,
    kind: str = "Label",
    stem: str = "hands",
    affine: np.ndarray = AFFINE,
) -> Path:
    """Image and description as FSL lays them out; probabilistic labels count volumes from 0."""
    names = NAMES if names is None else names
    save(folder / "sub" / f"{stem}.nii.gz", values, affine)
    first = 0 if kind == "Label" else 1
    labels = [
        f'<label index="{n - first}" x="0" y="0" z="0">{name}</label>' for n, name in names.items()
    ]
    image = f"<imagefile>/sub/{stem}</imagefile><summaryimagefile>/sub/{stem}</summaryimagefile>"
    (folder / f"{stem}.xml").write_text(
        f"<atlas><header><name>{stem}</name><type>{kind}</type><images>{image}</images></header>"
        f"<data>{''.join(labels)}</data></atlas>"
    )
    return folder


def read_one(folder: Path) -> Atlas:
    (atlas,) = read_fsl_atlases(folder, threshold_percent=25.0)
    return atlas


def centre_mm(atlas: Atlas, label: int) -> np.ndarray:
    centre = ndimage.center_of_mass(atlas.labels == label)
    return nib.affines.apply_affine(atlas.affine, centre)


# --- sides


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("Corticospinal tract R", "right"),
        ("Posterior thalamic radiation (include optic radiation) L", "left"),
        ("Cingulum L (hippocampus)", "left"),
        ("Left Cerebral White Matter", "left"),
        ("right V", "right"),
        ("ctx-rh-precentral", "right"),
        ("7Networks_LH_SomMot_1", "left"),
        ("Precentral_L", "left"),
        ("R_4_ROI", "right"),
        ("Right-L-Sg", "right"),
        ("Pontine crossing tract (a part of MCP)", "n/a"),
        ("Heschl's Gyrus (includes H1 and H2)", "n/a"),
        ("Area L of the model", "n/a"),
        ("Left and right hands", "n/a"),
        ("Brightness", "n/a"),
        ("", "n/a"),
    ],
)
def test_side_is_what_the_name_states(name, side):
    assert side_of(name) == side


@pytest.mark.parametrize("turn", ["as stored", "flipped in memory and in the affine"])
def test_atlas_is_accepted_whichever_way_it_is_stored(tmp_path, turn):
    values, affine = labels_of_two_hands(), AFFINE
    if turn != "as stored":
        flip = np.diag([-1.0, 1, 1, 1])
        flip[0, 3] = SHAPE[0] - 1
        values, affine = values[::-1], AFFINE @ flip
    atlas = read_one(put_fsl_atlas(tmp_path, values, affine=affine))
    assert centre_mm(atlas, 1)[0] > 0 > centre_mm(atlas, 2)[0]


def test_mirrored_atlas_is_refused_with_file_label_position_and_remedy(tmp_path):
    folder = put_fsl_atlas(tmp_path, labels_of_two_hands()[::-1])
    with pytest.raises(DataError) as caught:
        read_one(folder)
    assert caught.value.exit_code == ExitCode.BAD_DATA
    expected = (
        r"hands\.nii\.gz: label 1, 'Hand R', has its centre at x = -5\.0 mm; expected x > 0 for "
        r"the right side; 2 of 2 sided labels .* take the atlas from its source again"
    )
    assert re.search(expected, str(caught.value))


def test_one_label_on_the_wrong_side_is_enough(tmp_path):
    names = {**NAMES, 3: "Foot L"}
    values = labels_of_two_hands()
    values[values == 3] = 0
    values[3, 5, 1:4] = 3  # x = 2 mm
    with pytest.raises(DataError, match=r"label 3, 'Foot L'.*x = 2\.0 mm; expected x < 0.*1 of 3"):
        read_one(put_fsl_atlas(tmp_path, values, names))


@pytest.mark.parametrize("name", ["Foot L", "Foot R"])
def test_sided_label_on_the_midline_is_refused(tmp_path, name):
    with pytest.raises(DataError, match=rf"'{name}', has its centre at x = 0\.0 mm"):
        read_one(put_fsl_atlas(tmp_path, labels_of_two_hands(), {**NAMES, 3: name}))


def test_sided_label_without_a_voxel_is_no_fault(tmp_path):
    atlas = read_one(put_fsl_atlas(tmp_path, labels_of_two_hands(), {**NAMES, 9: "Tongue R"}))
    assert Region(9, "Tongue R", "right") in atlas.regions


# --- real atlases


@pytest.mark.data
def test_copy_of_the_jhu_labels_in_fsls_form_is_read(test_data):
    atlas = read_one(test_data / "atlases" / "fsl_style")
    assert atlas.name == "JHU ICBM-DTI-81 White-Matter Labels"
    assert len(atlas.regions) == 48
    assert Region(7, "Corticospinal tract R", "right") in atlas.regions
    sided = [region for region in atlas.regions if region.side != "n/a"]
    assert len(sided) == 42
    wanted = [region.label for region in sided]
    centres = ndimage.center_of_mass(np.ones(atlas.labels.shape), atlas.labels, wanted)
    x_mm = nib.affines.apply_affine(atlas.affine, centres)[:, 0]
    assert_array_equal(x_mm > 0, [region.side == "right" for region in sided])
    assert_array_equal(x_mm < 0, [region.side == "left" for region in sided])


@pytest.mark.data
def test_jhu_labels_equal_those_of_fslpys_own_atlas(test_data):
    from fsl.data.atlases import AtlasDescription, LabelAtlas

    folder = test_data / "atlases" / "fsl_style"
    theirs = LabelAtlas(AtlasDescription(str(folder / "JHU-labels.xml")))
    ours = read_one(folder)
    assert_array_equal(ours.labels, theirs.data)
    assert_allclose(ours.affine, theirs.voxToWorldMat)
    named = {label.value: label.name for label in theirs.desc.labels if label.value}
    assert {region.label: region.name for region in ours.regions} == named


@pytest.mark.data
def test_mirrored_copy_of_the_jhu_labels_is_refused(test_data, tmp_path):
    atlases = test_data / "atlases"
    (tmp_path / "JHU").mkdir()
    image = tmp_path / "JHU" / "JHU-ICBM-labels-1mm.nii.gz"
    shutil.copy(atlases / "JHU-WhiteMatter-labels-1mm.nii.gz", image)
    shutil.copy(atlases / "fsl_style" / "JHU-labels.xml", tmp_path)
    # x = -8 mm, says the README of the real images
    expected = rf"{image}: label 7, 'Corticospinal tract R', .* x = -8\.\d mm; .* 42 of 42"
    with pytest.raises(DataError, match=expected) as caught:
        read_one(tmp_path)
    assert caught.value.exit_code == 65


@pytest.fixture(scope="module")
def embedded() -> Template:
    return get_template(EMBEDDED_TEMPLATE, 2.0, environment={})


@pytest.fixture(scope="module")
def areas(embedded) -> Atlas:
    return draw_areas(motor_areas(), embedded)


def labels_below(path: Path, areas: Atlas, part: str) -> np.ndarray:
    """Labels of another atlas at the voxels of an area, by nearest neighbour."""
    image = nib.load(path)
    chosen = [area.label for area in motor_areas() if part in f"{area.structure} {area.part}"]
    world = nib.affines.apply_affine(areas.affine, np.argwhere(np.isin(areas.labels, chosen)))
    ijk = np.rint(nib.affines.apply_affine(np.linalg.inv(image.affine), world)).astype(int)
    return np.asarray(image.dataobj)[tuple(ijk.T)]


@pytest.mark.data
@pytest.mark.parametrize("part", ["foot", "leg", "trunk", "hand", "face"])
def test_motor_areas_lie_on_the_banks_of_the_central_sulcus(test_data, areas, part):
    # of Harvard-Oxford: 7 precentral, 17 postcentral gyrus
    path = test_data / "atlases" / "HarvardOxford-cort-maxprob-thr0-1mm.nii.gz"
    found = labels_below(path, areas, f"motor cortex {part}")
    assert np.isin(found, (7, 17)).mean() > 0.95
    # a sphere around a point near the sulcus holds some of either bank
    assert (found == 7).mean() > 0.3


@pytest.mark.data
def test_precuneus_lies_in_the_precuneus(test_data, areas):
    path = test_data / "atlases" / "HarvardOxford-cort-maxprob-thr0-1mm.nii.gz"
    found = labels_below(path, areas, "precuneus")
    assert np.bincount(found).argmax() == 31  # precuneous cortex
    assert (found == 31).mean() > 0.6


@pytest.mark.data
def test_way_points_of_the_tract_lie_in_its_labels(test_data, areas):
    # of ICBM-DTI-81: 15 to 20 cerebral peduncle and both limbs of the internal capsule
    path = test_data / "atlases" / "fsl_style" / "JHU" / "JHU-ICBM-labels-1mm.nii.gz"
    found = labels_below(path, areas, "corticospinal tract internal capsule")
    labelled = found[found > 0]
    assert len(labelled) > 0.5 * len(found)
    assert np.isin(labelled, range(15, 21)).mean() > 0.8


@pytest.mark.data
def test_motor_segment_is_the_third_of_five_of_the_callosum(test_data, areas):
    image = nib.load(test_data / "atlases" / "fsl_style" / "JHU" / "JHU-ICBM-labels-1mm.nii.gz")
    # genu, body and splenium in the plane x = 0
    y_mm = np.nonzero(np.isin(np.asarray(image.dataobj)[90], (3, 4, 5)))[0] + image.affine[1, 3]
    front, length = y_mm.max(), np.ptp(y_mm)
    (segment,) = [a for a in motor_areas() if a.structure == "corpus callosum"]
    found = segment.centre_mm[1] + np.array([1, -1]) * segment.radii_mm[1]
    # 2 mm: the two templates' callosa differ by as much in length
    assert_allclose(found, front - length * np.array([1 / 2, 2 / 3]), atol=2)
    path = Path(image.get_filename())
    assert (labels_below(path, areas, "corpus callosum") == 4).mean() > 0.7  # body


def test_hand_areas_are_where_pressing_buttons_activates(areas):
    # nilearn's sample image: left against right button presses, t of one study
    nilearn = pytest.importorskip("nilearn")
    path = Path(nilearn.__file__).parent / "datasets" / "data" / "image_10426.nii.gz"
    if not path.is_file():
        pytest.skip(f"this nilearn holds no {path.name}")
    image = nib.load(path)
    t = np.nan_to_num(image.get_fdata())
    mean_t = {}
    for area in motor_areas():
        world = nib.affines.apply_affine(areas.affine, np.argwhere(areas.labels == area.label))
        ijk = np.rint(nib.affines.apply_affine(np.linalg.inv(image.affine), world)).astype(int)
        mean_t[area.name] = t[tuple(ijk.T)].mean()
    # the right hemisphere moves the left hand
    assert max(mean_t, key=mean_t.get) == "Motor cortex hand R"
    assert min(mean_t, key=mean_t.get) == "Motor cortex hand L"


# --- motor areas


def uniform_template(voxel_mm: float, *, tissue: float = 1.0) -> Template:
    """All grey and all white, symmetric about x = 0 with a plane of voxels there."""
    n = int(90 / voxel_mm)
    affine = np.diag([voxel_mm] * 3 + [1.0])
    affine[:3, 3] = [-n * voxel_mm, -90.0, -30.0]
    shape = (2 * n + 1, int(110 / voxel_mm), int(130 / voxel_mm))
    image = nib.Nifti1Image(np.full(shape, tissue, np.float32), affine)
    return Template("MNI152Lin", voxel_mm, *[image] * 5, origin="test", licence="none")


@pytest.mark.parametrize("part", ["foot", "hand", "face", "internal capsule"])
def test_mirrored_areas_are_mirror_images(part):
    atlas = draw_areas([a for a in motor_areas() if a.part == part], uniform_template(2.0))
    left, right = (region.label for region in atlas.regions)
    assert_array_equal(atlas.labels == left, (atlas.labels == right)[::-1])
    assert np.any(atlas.labels == left)


def test_no_sided_area_reaches_the_midline(areas):
    x_mm = areas.affine[0, 0] * np.arange(areas.labels.shape[0]) + areas.affine[0, 3]
    for region in areas.regions:
        planes = x_mm[np.any(areas.labels == region.label, axis=(1, 2))]
        if region.side != "n/a":
            assert np.all(planes < 0 if region.side == "left" else planes > 0)
        else:
            assert planes.min() < 0 < planes.max()


def test_body_parts_follow_each_other_from_midline_to_lateral_on_both_sides():
    for side, sign in (("left", -1), ("right", 1)):
        own = {
            a.part: a.centre_mm
            for a in motor_areas()
            if a.structure == "motor cortex" and a.side == side
        }
        lateral = [sign * own[part][0] for part in ("foot", "leg", "trunk", "hand", "face")]
        assert lateral == sorted(lateral)
        assert lateral[0] > 0


def test_single_areas_have_the_volume_of_their_shapes():
    template = uniform_template(1.0)
    chosen = [a for a in motor_areas() if a.part in ("face", "motor segment")]
    atlas = draw_areas(chosen, template)
    volume_mm3 = {r.name: np.count_nonzero(atlas.labels == r.label) for r in atlas.regions}
    # 2 %: grains of 1 mm on a surface of 10 mm radius
    for side in "LR":
        assert_allclose(volume_mm3[f"Motor cortex face {side}"], 4 / 3 * np.pi * 10**3, rtol=0.02)
    # voxel centres from -6 to 6, -17 to -5 and 20 to 31 mm
    assert volume_mm3["Corpus callosum motor segment"] == 13 * 13 * 12


def test_areas_equal_a_search_voxel_by_voxel():
    rng = np.random.default_rng(3)
    template = uniform_template(8.0)
    noisy = nib.Nifti1Image(rng.random(template.gm.shape).astype(np.float32), template.gm.affine)
    template = replace(template, gm=noisy)
    chosen = [replace(a, radii_mm=(14.0, 18.0, 9.0)) for a in motor_areas()]
    atlas = draw_areas(chosen, template)
    values = {kind: np.asarray(getattr(template, kind).dataobj) for kind in ("gm", "wm")}
    for ijk in product(*map(range, template.gm.shape)):
        x = (template.gm.affine @ [*ijk, 1])[:3]
        best, label = 1.0 + 1e-12, 0
        for a in chosen:
            ratio = [(x[i] - a.centre_mm[i]) / a.radii_mm[i] for i in range(3)]
            near = max(map(abs, ratio)) if a.shape == "box" else sum(r * r for r in ratio) ** 0.5
            is_own = {"left": x[0] < 0, "right": x[0] > 0, "n/a": True}[a.side]
            if near < best and is_own and values[a.tissue][ijk] >= a.min_probability:
                best, label = near, a.label
        assert atlas.labels[ijk] == label


def test_areas_are_restricted_to_their_tissue(embedded, areas):
    for area in motor_areas():
        probability = np.asarray(getattr(embedded, area.tissue).dataobj)[areas.labels == area.label]
        assert probability.size > 0
        assert probability.min() >= area.min_probability


def test_every_area_cites_a_work_with_a_doi():
    text = resources.files("bids_alsmri.data").joinpath("references.json").read_text("utf-8")
    dois = {work["id"]: work.get("DOI") for work in json.loads(text)}
    for area in motor_areas():
        assert dois[area.source], area.name
        assert area.derivation


def test_names_labels_and_sides_of_areas_agree():
    found = motor_areas()
    assert [area.label for area in found] == list(range(1, len(found) + 1))
    assert len({area.name for area in found}) == len(found)
    assert all(side_of(area.name) == area.side for area in found)


def test_areas_are_not_drawn_on_other_templates(embedded):
    with pytest.raises(DataError, match=r"template MNIPediatricAsym: .*--atlas-dir"):
        draw_areas(motor_areas(), replace(embedded, name="MNIPediatricAsym"))


# --- grids


@pytest.mark.slow
@pytest.mark.parametrize("voxel_mm", [1.5, 2.0, 3.3])
def test_resampling_equals_nilearns(voxel_mm, areas):
    from nilearn.image import resample_img

    affine = np.diag([-voxel_mm, voxel_mm, voxel_mm, 1.0])
    # no voxel centre halfway between two others, where rounding would decide
    affine[:3, 3] = [62.27, -60.19, 10.13]
    shape = (50, 40, 50)
    source = nib.Nifti1Image(areas.labels, areas.affine)
    theirs = resample_img(
        source, affine, shape, interpolation="nearest", copy_header=True, force_resample=True
    )
    ours = on_grid(areas, shape, affine, space=areas.space)
    assert_array_equal(ours.labels, np.asarray(theirs.dataobj))
    assert np.count_nonzero(ours.labels) > 100


def test_resampling_takes_the_nearest_voxel_on_an_oblique_grid(areas):
    angle = 0.3
    turn = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = 4 * turn, [-50, -60, -10]
    shape = (22, 20, 22)
    ours = on_grid(areas, shape, affine, space=areas.space)
    ijk = np.argwhere(np.ones(shape, bool))
    place = np.linalg.inv(areas.affine) @ affine
    near = np.rint(nib.affines.apply_affine(place, ijk)).astype(int)
    is_inside = np.all((near >= 0) & (near < areas.labels.shape), axis=1)
    expected = np.zeros(len(ijk), int)
    expected[is_inside] = areas.labels[tuple(near[is_inside].T)]
    assert_array_equal(ours.labels[tuple(ijk.T)], expected)
    assert len(np.unique(expected)) > 5


def test_atlas_on_the_maps_own_grid_is_kept(areas):
    assert (
        on_grid(areas, areas.labels.shape, areas.affine, space=areas.space).labels is areas.labels
    )


def test_templates_of_the_mni152_family_pass_with_a_warning(areas):
    other = on_grid(areas, areas.labels.shape, areas.affine, space="MNI152NLin6Asym")
    (warning,) = other.warnings
    assert re.search("atlas of MNI152NLin2009aSym, and the maps lie in MNI152NLin6Asym", warning)
    same = on_grid(areas, areas.labels.shape, areas.affine, space=EMBEDDED_TEMPLATE)
    assert same.warnings == ()


@pytest.mark.parametrize("space", ["MNIPediatricAsym", "MNI305", "T1w"])
def test_atlas_of_another_space_is_refused(areas, space):
    with pytest.raises(DataError, match=rf"atlas of MNI152.*maps lie in {space}; .*leave it out"):
        on_grid(areas, areas.labels.shape, areas.affine, space=space)


def test_atlas_beside_the_maps_is_refused_with_both_extents(areas):
    far = areas.affine.copy()
    far[0, 3] += 500
    expected = r"motor_areas\.json: none of its labelled voxels.* x -\d+ to \d+, .* x 402 to 598"
    with pytest.raises(DataError, match=expected):
        on_grid(areas, areas.labels.shape, far, space=areas.space)


def test_atlas_that_mostly_misses_the_maps_is_warned_of(areas):
    moved = areas.affine.copy()
    moved[2, 3] += 140
    found = on_grid(areas, areas.labels.shape, moved, space=areas.space)
    (warning,) = found.warnings
    share = int(re.search(r"only (\d+) % of its labelled voxels", warning).group(1))
    assert 0 < share < 50


# --- FSL's form


def probabilities() -> np.ndarray:
    percent = np.random.default_rng(1).integers(0, 60, (*SHAPE, 3)).astype(np.uint8)
    percent[5:, ..., 0] = 0  # right
    percent[:4, ..., 1] = 0  # left
    return percent


def test_probabilities_become_the_most_probable_region_above_the_threshold(tmp_path):
    percent = probabilities()
    atlas = read_one(put_fsl_atlas(tmp_path, percent, kind="Probabalistic"))  # FSL's spelling
    for ijk in np.ndindex(*SHAPE):
        row = percent[ijk].tolist()
        expected = row.index(max(row)) + 1 if max(row) >= 25 else 0
        assert atlas.labels[ijk] == expected


@pytest.mark.parametrize(
    ("values", "names", "kind", "message"),
    [
        (
            probabilities() / 100.0,
            NAMES,
            "Probabilistic",
            r"largest probability is 0\.59; expected percent",
        ),
        (
            probabilities()[..., :2],
            NAMES,
            "Probabilistic",
            r"has 2 volumes, but 'Genu' .* volume 2",
        ),
        (labels_of_two_hands(), NAMES, "Probabilistic", r"expected 4 axes of an atlas of prob"),
        (probabilities(), NAMES, "Label", r"shape \(9, 7, 5, 3\); expected 3 axes"),
        (probabilities(), NAMES, "Statistic", r"type 'statistic'; expected 'label' or"),
        (labels_of_two_hands() * 0.5, NAMES, "Label", r"value 0\.5; expected labels"),
        (-labels_of_two_hands().astype(np.int16), NAMES, "Label", r"value -1; expected labels"),
        (np.where(labels_of_two_hands() == 3, np.nan, 0.0), NAMES, "Label", r"NaN or infinite"),
        (labels_of_two_hands(), {7: "Elsewhere"}, "Label", r"no voxel of it has a label"),
    ],
)
def test_images_that_are_no_such_atlas_are_refused(tmp_path, values, names, kind, message):
    put_fsl_atlas(tmp_path, values, names, kind=kind)
    with pytest.raises(DataError, match=message):
        read_one(tmp_path)


def test_label_with_two_names_is_refused(tmp_path):
    put_fsl_atlas(tmp_path, labels_of_two_hands())
    text = (tmp_path / "hands.xml").read_text()
    (tmp_path / "hands.xml").write_text(text.replace('index="3"', 'index="2"'))
    with pytest.raises(DataError, match="label 2 has 2 names"):
        read_one(tmp_path)


def test_labels_without_a_name_are_told_and_left_out(tmp_path):
    atlas = read_one(put_fsl_atlas(tmp_path, labels_of_two_hands(), {1: "Hand R", 2: "Hand L"}))
    assert set(np.unique(atlas.labels)) == {0, 1, 2}
    (warning,) = atlas.warnings
    assert "3 voxels have labels without a name, such as 3" in warning


def test_finest_image_of_a_description_is_taken(tmp_path):
    put_fsl_atlas(tmp_path, labels_of_two_hands())
    fine = labels_of_two_hands().repeat(2, 0).repeat(2, 1).repeat(2, 2)
    affine = AFFINE @ np.diag([0.5, 0.5, 0.5, 1])
    save(tmp_path / "sub" / "fine.nii.gz", fine, affine)
    text = (tmp_path / "hands.xml").read_text()
    images = re.search("<images>.*</images>", text).group()
    both = images + images.replace("hands", "fine")
    (tmp_path / "hands.xml").write_text(text.replace(images, both))
    assert read_one(tmp_path).labels.shape == fine.shape


def spoil(kind: str, folder: Path) -> None:
    image, description = folder / "sub" / "hands.nii.gz", folder / "hands.xml"
    if kind == "image missing":
        image.unlink()
    elif kind == "image empty":
        image.write_bytes(b"")
    elif kind == "image cut":
        save(image, np.random.default_rng(0).integers(0, 4, (20, 20, 20), np.uint8))
        image.write_bytes(image.read_bytes()[:1000])
    elif kind == "image without orientation":
        bare = nib.Nifti1Image(labels_of_two_hands(), None)
        nib.save(bare, image)
    elif kind == "no XML":
        description.write_text("index\tname\n")
    elif kind == "other XML":
        description.write_text("<settings><name>x</name></settings>")
    else:
        text = description.read_text()
        description.write_text(text.replace('index="1"', 'index="one"'))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("image missing", r"hands\.xml: cannot be read .*PathError"),
        ("image empty", r"hands\.xml: cannot be read"),
        ("image cut", r"hands\.nii\.gz: the voxels cannot be read .*truncated"),
        ("image without orientation", r"hands\.nii\.gz: neither qform nor sform is set"),
        ("no XML", r"hands\.xml: cannot be read .*ParseError"),
        ("other XML", r"hands\.xml: cannot be read .*AttributeError"),
        ("index no number", r"hands\.xml: cannot be read .*'one'"),
    ],
)
def test_damaged_atlas_is_refused_by_name(tmp_path, kind, message):
    put_fsl_atlas(tmp_path, labels_of_two_hands())
    spoil(kind, tmp_path)
    with pytest.raises(DataError, match=message):
        read_one(tmp_path)


def test_folder_without_a_description_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"holds no description.*--atlas-dir"):
        read_fsl_atlases(tmp_path, threshold_percent=25.0)


def test_reading_leaves_no_trace_in_the_users_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    read_one(put_fsl_atlas(tmp_path / "atlases", labels_of_two_hands()))
    assert list((tmp_path / "home").rglob("*")) == []


# --- TemplateFlow, and all of them


def put_templateflow(
    home: Path,
    atlas: str = "HOCPAL",
    *,
    image: str = "res-01_atlas-{}_desc-th25_dseg.nii.gz",
    table: str | None = "atlas-{}_dseg.tsv",
    values: np.ndarray | None = None,
) -> Path:
    start = home / f"tpl-{EMBEDDED_TEMPLATE}" / f"tpl-{EMBEDDED_TEMPLATE}_"
    path = Path(f"{start}{image.format(atlas)}")
    save(path, labels_of_two_hands() if values is None else values)
    if table:
        rows = [f"{index}\t{name}" for index, name in NAMES.items()]
        Path(f"{start}{table.format(atlas)}").write_text("\n".join(["index\tname", *rows]) + "\n")
    return path


def from_templateflow(home: Path, names: tuple[str, ...] = ("HOCPAL",)) -> tuple[Atlas, ...]:
    environment = {"TEMPLATEFLOW_HOME": str(home)}
    return read_templateflow_atlases(
        EMBEDDED_TEMPLATE, names, threshold_percent=25.0, environment=environment
    )


@pytest.mark.parametrize(
    ("image", "table"),
    [
        ("res-01_atlas-{}_desc-th25_dseg.nii.gz", "atlas-{}_dseg.tsv"),
        ("res-02_atlas-{}_desc-th25_dseg.nii.gz", "atlas-{}_desc-th25_dseg.tsv"),
        ("res-1_atlas-{}_dseg.nii.gz", "atlas-{}_dseg.tsv"),
        ("res-01_atlas-{}_dseg.nii.gz", "res-01_atlas-{}_dseg.tsv"),
    ],
)
def test_templateflow_names_are_all_known(tmp_path, image, table):
    put_templateflow(tmp_path, image=image, table=table)
    (atlas,) = from_templateflow(tmp_path)
    assert (atlas.name, atlas.space) == ("HOCPAL", EMBEDDED_TEMPLATE)
    assert [region.side for region in atlas.regions] == ["right", "left", "n/a"]
    assert_array_equal(atlas.labels, labels_of_two_hands())


def test_templateflow_files_that_were_not_fetched_are_passed_over(tmp_path):
    put_templateflow(tmp_path).write_bytes(b"")
    assert from_templateflow(tmp_path) == ()
    coarse = put_templateflow(tmp_path, image="res-02_atlas-{}_desc-th25_dseg.nii.gz")
    put_templateflow(tmp_path).write_bytes(b"")
    (atlas,) = from_templateflow(tmp_path)
    assert atlas.origin == str(coarse)


def test_templateflow_atlas_of_another_threshold_is_not_taken(tmp_path):
    put_templateflow(tmp_path, image="res-01_atlas-{}_desc-th50_dseg.nii.gz")
    assert from_templateflow(tmp_path) == ()


def test_templateflow_atlas_without_names_is_left_out_and_told(tmp_path, caplog):
    path = put_templateflow(tmp_path, table=None)
    assert from_templateflow(tmp_path) == ()
    assert (
        f"{path}: no table of names (tpl-{EMBEDDED_TEMPLATE}_atlas-HOCPAL_dseg.tsv)" in caplog.text
    )


def test_templateflow_table_without_the_columns_is_refused(tmp_path):
    path = put_templateflow(tmp_path)
    table = path.with_name(f"tpl-{EMBEDDED_TEMPLATE}_atlas-HOCPAL_dseg.tsv")
    table.write_text("number\tname\n1\tHand R\n")
    with pytest.raises(DataError, match=r"dseg\.tsv: cannot be read .*expected the columns index"):
        from_templateflow(tmp_path)


def test_mirrored_templateflow_atlas_is_refused(tmp_path):
    put_templateflow(tmp_path, values=labels_of_two_hands()[::-1])
    with pytest.raises(DataError, match="mirrored"):
        from_templateflow(tmp_path)


def test_all_sources_are_loaded_without_a_network(tmp_path, embedded, monkeypatch):
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    put_templateflow(tmp_path / "flow", "HOCPAL")
    put_templateflow(tmp_path / "flow", "HOSPA")
    put_fsl_atlas(tmp_path / "fsl" / "data" / "atlases", labels_of_two_hands(), stem="JHU-labels")
    put_fsl_atlas(tmp_path / "fsl" / "data" / "atlases", labels_of_two_hands(), stem="Talairach")
    put_fsl_atlas(tmp_path / "own", labels_of_two_hands(), stem="own")
    environment = {
        "TEMPLATEFLOW_HOME": str(tmp_path / "flow"),
        "FSLDIR": str(tmp_path / "fsl"),
    }
    settings = {"threshold_percent": 25.0, "environment": environment}
    found = load_atlases(embedded, atlas_dir=None, **settings)
    assert [atlas.name for atlas in found] == ["Motor areas", "HOCPAL", "HOSPA", "JHU-labels"]
    found = load_atlases(embedded, atlas_dir=tmp_path / "own", **settings)
    assert [atlas.name for atlas in found] == ["Motor areas", "HOCPAL", "HOSPA", "own"]


def test_other_templates_have_no_motor_areas(embedded):
    other = replace(embedded, name="MNIPediatricAsym")
    assert load_atlases(other, atlas_dir=None, threshold_percent=25.0, environment={}) == ()


def test_embedded_areas_pass_the_check_of_sides(areas):
    require_sides(areas)
    with pytest.raises(DataError, match="mirrored"):
        require_sides(replace(areas, labels=areas.labels[::-1]))


def test_areas_hold_plain_values_that_can_be_replaced():
    first = motor_areas()[0]
    assert isinstance(first, MotorArea)
    assert replace(first, radii_mm=(5.0, 5.0, 5.0)).centre_mm == first.centre_mm
