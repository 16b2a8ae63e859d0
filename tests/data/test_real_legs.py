"""Real thighs and calves through the command line: compartments, volumes, sides, and no fat."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from scipy import ndimage

pytestmark = [pytest.mark.data, pytest.mark.slow]

NAMES = {"1": "thighs", "2": "calves"}
# numbers of the list of regions: left, right
MUSCLE, SKIN_FAT, CORTEX, MARROW = (901, 902), (911, 912), (931, 932), (941, 942)


@pytest.fixture(scope="module")
def run(test_data, tmp_path_factory):
    """Output folder of a run; calves are stored right to left, with a header that says so."""
    folder = tmp_path_factory.mktemp("legs")
    anat = folder / "raw" / "sub-01" / "anat"
    anat.mkdir(parents=True)
    description = {"Name": "legs", "BIDSVersion": "1.10.0"}
    (folder / "raw" / "dataset_description.json").write_text(json.dumps(description))
    for chunk, name in NAMES.items():
        target = anat / f"sub-01_acq-legs_chunk-{chunk}_T1w.nii.gz"
        shutil.copyfile(test_data / "legs" / f"{name}.nii.gz", target)
        # nothing tells where the two lie to each other: their headers have one place
        sidecar = {"FrameOfReferenceUID": f"2.25.{chunk}", "BodyPart": "LEG"}
        target.with_name(target.name.replace(".nii.gz", ".json")).write_text(json.dumps(sidecar))
    image = nib.load(anat / "sub-01_acq-legs_chunk-2_T1w.nii.gz")
    turn = nib.orientations.axcodes2ornt(("L", "A", "S"))
    turned = image.as_reoriented(
        nib.orientations.ornt_transform(nib.io_orientation(image.affine), turn)
    )
    nib.save(turned, anat / "sub-01_acq-legs_chunk-2_T1w.nii.gz")
    words = [str(folder / "raw"), str(folder / "out"), "participant", "-w", str(folder / "work")]
    done = subprocess.run(
        [sys.executable, "-m", "bids_alsmri", *words, "--n-procs", "2", "--pipelines", "muscle"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder / "out"


@pytest.fixture(scope="module", params=list(NAMES))
def station(request, run, test_data):
    """Image as the source has it, labels on its grid, voxel volume in mm3, rows of the table."""
    source = nib.as_closest_canonical(
        nib.load(test_data / "legs" / f"{NAMES[request.param]}.nii.gz")
    )
    stem = f"sub-01_acq-legs_chunk-{request.param}_desc-muscles_dseg.nii.gz"
    labels = nib.as_closest_canonical(nib.load(run / "sub-01" / "anat" / stem))
    assert_allclose(labels.affine, source.affine, atol=1e-3)
    table = pd.read_csv(run / "sub-01/anat/sub-01_desc-muscles_stats.tsv", sep="\t")
    values = np.asarray(source.dataobj, np.float64)
    return values, np.asarray(labels.dataobj), float(np.prod(source.header.get_zooms())), table


def body_of(values):
    """Legs by a threshold between air and tissue: the largest parts, filled slice by slice."""
    tissue = np.stack([ndimage.binary_fill_holes(v > 40) for v in np.moveaxis(values, 2, 0)], 2)
    tissue = ndimage.binary_opening(tissue, iterations=2)
    parts, _ = ndimage.label(tissue)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return [parts == number for number in np.argsort(sizes)[-2:]]


def test_sides_follow_the_midline_between_the_legs_whatever_the_storage(station):
    values, labels, _, _ = station
    middles = sorted(np.argwhere(leg)[:, 0].mean() for leg in body_of(values))
    # canonical: x grows to the right
    for number, middle in zip(range(2), middles, strict=True):
        own = np.isin(labels, [pair[number] for pair in (MUSCLE, SKIN_FAT, CORTEX, MARROW)])
        assert_allclose(np.argwhere(own)[:, 0].mean(), middle, atol=4)


def test_compartments_fill_the_legs(station):
    values, labels, voxel_mm3, _ = station
    whole = sum(leg.sum() for leg in body_of(values)) * voxel_mm3
    assert_allclose((labels > 0).sum() * voxel_mm3, whole, rtol=0.04)


def test_compartments_have_the_brightness_and_the_place_of_their_tissue(station):
    values, labels, _, _ = station
    depth = ndimage.distance_transform_edt(labels > 0, sampling=(1.5, 1.5, 6))
    for number in range(2):
        own = [labels == pair[number] for pair in (MUSCLE, SKIN_FAT, CORTEX, MARROW)]
        muscle, fat, cortex, marrow = own
        signal = [float(np.median(values[mask])) for mask in own]
        # water and fat are opposed: muscle is the brightest, cortex is nearly black
        assert signal[0] > max(signal[1], signal[3])
        assert signal[2] < 0.2 * signal[0]
        assert np.median(depth[fat]) < np.median(depth[muscle])
        # marrow lies within cortex
        around = ndimage.binary_dilation(marrow, np.ones((3, 3, 1))) & ~marrow
        assert (cortex | own[0])[around].mean() > 0.5
        assert cortex[around].mean() > 0.4


def test_both_legs_of_one_person_are_alike(station):
    _, labels, voxel_mm3, _ = station
    for pair, tolerance in ((MUSCLE, 0.05), (SKIN_FAT, 0.05), (MARROW, 0.15)):
        left, right = ((labels == number).sum() * voxel_mm3 for number in pair)
        assert_allclose(left, right, rtol=tolerance)


def test_volumes_of_the_table_are_those_of_the_labels(run):
    table = pd.read_csv(run / "sub-01/anat/sub-01_desc-muscles_stats.tsv", sep="\t")
    own = table[(table["measure"] == "volume") & (table["region"] == "leg muscle")]
    apart = table[(table["measure"] == "volume_of_station") & (table["region"] == "leg muscle")]
    files = [run / f"sub-01/anat/sub-01_acq-legs_chunk-{c}_desc-muscles_dseg.nii.gz" for c in NAMES]
    images = [nib.load(path) for path in files]
    for side, number in zip(("left", "right"), MUSCLE, strict=True):
        each = [(np.asarray(i.dataobj) == number).sum() * 1.5 * 1.5 * 6 for i in images]
        assert_allclose(own.loc[own["side"] == side, "value"], sum(each), rtol=1e-4)
        assert_allclose(apart.loc[apart["side"] == side, "value"], each, rtol=1e-4)


def test_no_fat_fraction_is_stated_and_the_page_says_why(run):
    table = pd.read_csv(run / "sub-01/anat/sub-01_desc-muscles_stats.tsv", sep="\t")
    assert not table["measure"].str.contains("fat_fraction|fatty|mercuri").any()
    page = (run / "sub-01.html").read_text()
    for chunk in NAMES:
        told = f"acq-legs_chunk-{chunk} T1w: no fat fraction and no grade of fat, since fat has 0.7"
        assert told in page
        stem = run / f"sub-01/anat/sub-01_acq-legs_chunk-{chunk}_desc-fatFraction_T1w"
        assert np.isnan(np.asarray(nib.load(f"{stem}.nii.gz").dataobj)).all()
        reference = json.loads((stem.parent / f"{stem.name}.json").read_text())["FatReference"]
        assert "less than 1.3" in reference["Refusal"]
