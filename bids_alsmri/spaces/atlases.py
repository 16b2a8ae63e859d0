"""Atlases: embedded motor areas, FSL's XML form and TemplateFlow's, with left and right checked."""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import os
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal
from xml.etree.ElementTree import ParseError

import numpy as np
from numpy.typing import NDArray

from bids_alsmri.errors import DataError, ExitCode
from bids_alsmri.spaces.templates import Template

log = logging.getLogger(__name__)

Side = Literal["left", "right", "n/a"]

# fslpy and FSL say "MNI152" of their atlases: the sixth generation that FSL distributes.
FSL_SPACE = "MNI152NLin6Asym"
# Descriptions in FSL's folder of the atlases that El Mendili 2022 names (doi:10.3174/ajnr.A7559).
FSL_ATLASES = ("JHU-tracts", "JHU-labels", "HarvardOxford-Cortical", "HarvardOxford-Subcortical")
TEMPLATEFLOW_ATLASES = ("HOCPAL", "HOSPA")

# as tables print the embedded ones
MOTOR_AREAS = "Motor areas"

_FAMILY = "MNI152"
# An atlas of a whole brain on a slab is well; one in other coordinates mostly misses the grid.
_MIN_SHARE_ON_GRID = 0.5


@dataclass(frozen=True)
class Region:
    """A label of an atlas.

    Parameters
    ----------
    label : int
        Value of its voxels, above 0.
    name : str
        As the atlas writes it.
    side : {"left", "right", "n/a"}
        Which the name states; "n/a" where it states none.
    """

    label: int
    name: str
    side: Side


@dataclass(frozen=True, eq=False)
class Atlas:
    """A label image and the names of its labels.

    Parameters
    ----------
    name : str
        As tables print it.
    space : str
        Name of the space as BIDS writes it after ``space-``.
    regions : tuple of Region
        Labels, in the order of the source.
    labels : (nx, ny, nz) array of int32
        Label of each voxel; 0 for none.
    affine : (4, 4) array
        Voxel indices to world millimetres (RAS+).
    origin : str
        File or definition that it comes from.
    warnings : tuple of str
        Doubts about it, each naming it.
    """

    name: str
    space: str
    regions: tuple[Region, ...]
    labels: NDArray[np.int32]
    affine: NDArray[np.float64]
    origin: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class MotorArea:
    """Where an area lies in MNI152 space, and who says so.

    Parameters
    ----------
    label : int
        Value of its voxels.
    name : str
        As tables print it.
    side : {"left", "right", "n/a"}
        A sided area holds no voxel at or beyond x = 0.
    structure : str
        What it is a part of, such as "motor cortex".
    part : str
        Which part, such as "hand".
    shape : {"ellipsoid", "box"}
        Outline.
    centre_mm, radii_mm : (3,) tuple
        World coordinates, and half lengths along x, y and z, in mm.
    tissue : {"gm", "wm"}
        Tissue of the template to which it is restricted.
    min_probability : float
        That tissue's probability from which on a voxel belongs to it, 0 to 1.
    source : str
        Key in ``data/references.json``.
    derivation : str
        How the coordinates follow from the source.
    """

    label: int
    name: str
    side: Side
    structure: str
    part: str
    shape: Literal["ellipsoid", "box"]
    centre_mm: tuple[float, float, float]
    radii_mm: tuple[float, float, float]
    tissue: Literal["gm", "wm"]
    min_probability: float
    source: str
    derivation: str


def load_atlases(
    template: Template,
    *,
    atlas_dir: Path | None,
    threshold_percent: float,
    environment: Mapping[str, str] | None = None,
) -> tuple[Atlas, ...]:
    """All atlases that this computer holds for a template.

    Parameters
    ----------
    template : Template
        Space of the maps.
    atlas_dir : Path or None
        Folder of atlases in FSL's XML form, all of which are taken; None takes those of
        `FSL_ATLASES` that FSLDIR holds, if it is set.
    threshold_percent : float
        Probability from which on a voxel belongs to a region of a probabilistic atlas, 0 to 100.
    environment : mapping of str to str, optional
        In place of the process's environment variables.

    Returns
    -------
    tuple of Atlas
        Motor areas (in the spaces of the MNI152 family), TemplateFlow's atlases, FSL's; each on
        its own grid.

    Raises
    ------
    DataError
        If an atlas cannot be read, or one of its labels lies on the wrong side.

    Examples
    --------
    >>> from bids_alsmri.spaces.templates import get_template
    >>> template = get_template("MNI152NLin2009aSym", 4.0, environment={})
    >>> atlases = load_atlases(template, atlas_dir=None, threshold_percent=25.0, environment={})
    >>> [atlas.name for atlas in atlases]
    ['Motor areas']
    """
    variables = os.environ if environment is None else environment
    atlases = []
    if template.name.startswith(_FAMILY):
        atlases.append(draw_areas(motor_areas(), template))
    atlases += read_templateflow_atlases(
        template.name,
        TEMPLATEFLOW_ATLASES,
        threshold_percent=threshold_percent,
        environment=variables,
    )
    folder = Path(variables.get("FSLDIR") or ".") / "data" / "atlases"
    if atlas_dir is not None:
        atlases += read_fsl_atlases(atlas_dir, threshold_percent=threshold_percent)
    elif variables.get("FSLDIR") and folder.is_dir():
        present = [name for name in FSL_ATLASES if (folder / f"{name}.xml").is_file()]
        atlases += read_fsl_atlases(folder, threshold_percent=threshold_percent, only=present)
    return tuple(atlases)


def atlas_digest(atlas: Atlas) -> str:
    """Short hash of what an atlas says, wherever its file lies.

    Parameters
    ----------
    atlas : Atlas
        Any.

    Returns
    -------
    str
        Of the names, sides and voxels of its regions, and of its grid and space.

    Examples
    --------
    >>> labels = np.array([[[1]]], np.int32)
    >>> genu = Atlas("A", "MNI152Lin", (Region(1, "Genu", "n/a"),), labels, np.eye(4), "a.nii.gz")
    >>> atlas_digest(genu) == atlas_digest(replace(genu, origin="/elsewhere/a.nii.gz"))
    True
    """
    about = [atlas.name, atlas.space, [asdict(region) for region in atlas.regions]]
    found = hashlib.sha256(json.dumps([*about, atlas.affine.tolist()]).encode())
    found.update(np.ascontiguousarray(atlas.labels).tobytes())
    return found.hexdigest()[:16]


def read_fsl_atlases(
    folder: Path, *, threshold_percent: float, only: Sequence[str] | None = None
) -> tuple[Atlas, ...]:
    """Atlases of a folder in FSL's XML form.

    Parameters
    ----------
    folder : Path
        Holds the descriptions (``*.xml``); they name their images relative to it.
    threshold_percent : float
        Probability from which on a voxel belongs to a region of a probabilistic atlas, 0 to 100.
    only : sequence of str, optional
        Descriptions to read, without ``.xml``; all if not given.

    Returns
    -------
    tuple of Atlas
        In the order of the descriptions' names, or of `only`. Each is made from its finest image:
        the label image, or the most probable region of each voxel (the first, where two are
        equally so).

    Raises
    ------
    DataError
        If the folder holds no description, one or its image cannot be read, it holds statistics
        rather than labels or probabilities, or a label lies on the wrong side.

    Notes
    -----
    The descriptions are read by fslpy's class for one of them; its registry, which remembers
    atlases in the user's folder, is left alone. They do not say of which template they are: of
    MNI152NLin6Asym, by FSL's convention.
    """
    names = [path.stem for path in sorted(folder.glob("*.xml"))] if only is None else list(only)
    if not names and only is None:
        raise DataError(
            f"{folder}: holds no description of an atlas (*.xml); expected a folder like FSL's "
            "data/atlases; correct --atlas-dir",
            exit_code=ExitCode.NO_INPUT,
        )
    return tuple(_read_fsl_atlas(folder / f"{name}.xml", threshold_percent) for name in names)


def read_templateflow_atlases(
    template: str,
    names: Iterable[str],
    *,
    threshold_percent: float,
    environment: Mapping[str, str] | None = None,
) -> tuple[Atlas, ...]:
    """Atlases of a template whose files TEMPLATEFLOW_HOME holds; nothing is fetched.

    Parameters
    ----------
    template : str
        Name of the template.
    names : iterable of str
        Atlases as TemplateFlow writes them after ``atlas-``.
    threshold_percent : float
        Of the variant to take (``desc-th25``) where there are several.
    environment : mapping of str to str, optional
        In place of the process's environment variables.

    Returns
    -------
    tuple of Atlas
        Those that are there, of 1 mm where there is such an image and of 2 mm else. One whose
        table of names is missing is left out, and the log says so.

    Raises
    ------
    DataError
        If an image or table cannot be read, or a label lies on the wrong side.
    """
    variables = os.environ if environment is None else environment
    home = variables.get("TEMPLATEFLOW_HOME")
    if not home:
        return ()
    folder = Path(home) / f"tpl-{template}"
    atlases = []
    for name in names:
        entities = [f"atlas-{name}_desc-th{threshold_percent:g}", f"atlas-{name}"]
        grids = ("res-01_", "res-1_", "res-02_", "res-2_")
        drawn = [grid + one for grid in grids for one in entities]
        image = _first_file(folder, template, drawn, ".nii.gz")
        if image is None:
            continue
        named = [grid + one for grid in ("", *grids) for one in entities]
        table = _first_file(folder, template, named, ".tsv")
        if table is None:
            log.warning(
                "%s: no table of names (%s) beside it, so the atlas is left out; fetch it with "
                "templateflow where there is a network",
                image,
                f"tpl-{template}_{entities[-1]}_dseg.tsv",
            )
            continue
        atlases.append(_label_atlas(name, template, _read_table(table), image))
    return tuple(atlases)


def motor_areas() -> tuple[MotorArea, ...]:
    """Definitions of the embedded motor areas, from ``data/motor_areas.json``.

    Returns
    -------
    tuple of MotorArea
        Areas of the motor cortex from foot to face, way-points of the corticospinal tract, the
        motor segment of the corpus callosum, and the precuneus that serves as reference.

    Examples
    --------
    >>> sorted({area.part for area in motor_areas() if area.structure == "motor cortex"})
    ['face', 'foot', 'hand', 'leg', 'trunk']
    """
    text = resources.files("bids_alsmri.data").joinpath("motor_areas.json").read_text("utf-8")
    areas = []
    for fields in json.loads(text)["areas"]:
        lengths = {key: tuple(fields[key]) for key in ("centre_mm", "radii_mm")}
        areas.append(MotorArea(**{**fields, **lengths}))
    return tuple(areas)


def draw_areas(areas: Sequence[MotorArea], template: Template) -> Atlas:
    r"""Label image of areas on the grid of a template.

    Parameters
    ----------
    areas : sequence of MotorArea
        Definitions, in MNI152 space.
    template : Template
        Of the MNI152 family; its tissues restrict the areas.

    Returns
    -------
    Atlas
        `MOTOR_AREAS`. A voxel inside two areas belongs to the one whose centre is nearer.

    Raises
    ------
    DataError
        If the template is not of the MNI152 family.

    Notes
    -----
    Nearness is in units of the half lengths :math:`r`:
    :math:`\sqrt{\sum_i ((x_i - c_i) / r_i)^2}` for ellipsoids and
    :math:`\max_i |x_i - c_i| / r_i` for boxes; up to 1 is inside.

    Examples
    --------
    >>> from bids_alsmri.spaces.templates import get_template
    >>> template = get_template("MNI152NLin2009aSym", 4.0, environment={})
    >>> atlas = draw_areas(motor_areas(), template)
    >>> atlas.labels.shape == template.gm.shape, atlas.regions[0].name
    (True, 'Motor cortex foot L')
    """
    if not template.name.startswith(_FAMILY):
        raise DataError(
            f"template {template.name}: the motor areas are defined in {_FAMILY} coordinates; "
            f"expected a template whose name begins with {_FAMILY}; give an atlas of this "
            "template with --atlas-dir instead"
        )
    image: Any = template.gm
    affine = np.asarray(image.affine, dtype=np.float64)
    labels = np.zeros(image.shape, dtype=np.int32)
    nearest = np.full(image.shape, np.inf)
    tissues = {kind: np.asarray(getattr(template, kind).dataobj) for kind in ("gm", "wm")}
    for area in areas:
        window, world_mm = _window(area, affine, image.shape)
        distance = _nearness(area, world_mm)
        is_inside = (distance <= 1.0) & (distance < nearest[window])
        is_inside &= tissues[area.tissue][window] >= area.min_probability
        if area.side != "n/a":
            is_inside &= world_mm[..., 0] < 0 if area.side == "left" else world_mm[..., 0] > 0
        labels[window][is_inside] = area.label
        nearest[window][is_inside] = distance[is_inside]
    regions = tuple(Region(area.label, area.name, area.side) for area in areas)
    origin = "data/motor_areas.json"
    return Atlas(MOTOR_AREAS, template.name, regions, labels, affine, origin)


def side_of(name: str) -> Side:
    """Side that the name of a region states.

    Parameters
    ----------
    name : str
        Of a region.

    Returns
    -------
    {"left", "right", "n/a"}
        By the word left or right, else LH or RH, else a capital L or R that stands alone at the
        beginning or end (before an explanation in brackets); "n/a" where there is none, or both.

    Examples
    --------
    >>> [side_of(name) for name in ("Corticospinal tract R", "Left Thalamus", "Forceps major")]
    ['right', 'left', 'n/a']
    >>> [side_of(name) for name in ("7Networks_LH_Vis_1", "R_V1_ROI", "Left-L-Sg", "Genu (L, R)")]
    ['left', 'right', 'left', 'n/a']
    """
    words = {word.lower() for word in re.findall(r"[A-Za-z]+", name)}
    marks = re.findall(r"[A-Za-z0-9]+", re.sub(r"\s*\([^()]*\)\s*$", "", name))
    ends = {marks[0], marks[-1]} if marks else set()
    for left, right, found in (("left", "right", words), ("lh", "rh", words), ("L", "R", ends)):
        if (left in found) != (right in found):
            return "left" if left in found else "right"
        if left in found:
            return "n/a"
    return "n/a"


def require_sides(atlas: Atlas) -> None:
    """Raise where a label that is named left or right lies on the other side.

    Parameters
    ----------
    atlas : Atlas
        Any; labels without a side, or without voxels, are not looked at.

    Raises
    ------
    DataError
        If the mean x of a right label's voxels is not above 0 mm, or of a left one's not below.
        Copies of atlases in circulation are mirrored, and their tables look right.

    Examples
    --------
    >>> labels = np.array([[[1]], [[0]], [[2]]], np.int32)
    >>> sides = (Region(1, "Hand L", "left"), Region(2, "Hand R", "right"))
    >>> affine = np.diag([10.0, 10.0, 10.0, 1.0])
    >>> affine[0, 3] = -10.0
    >>> require_sides(Atlas("hands", "MNI152Lin", sides, labels, affine, "hands.nii.gz"))
    """
    index = np.flatnonzero(atlas.labels)
    found, which = np.unique(atlas.labels.ravel()[index], return_inverse=True)
    ijk = np.stack(np.unravel_index(index, atlas.labels.shape))
    x_mm = atlas.affine[0, :3] @ ijk + atlas.affine[0, 3]
    mean_x_mm = np.bincount(which, weights=x_mm) / np.bincount(which)
    centres = dict(zip(found.tolist(), mean_x_mm.tolist(), strict=True))
    sided = [r for r in atlas.regions if r.side != "n/a" and r.label in centres]
    wrong = [r for r in sided if centres[r.label] * (1 if r.side == "right" else -1) <= 0]
    if wrong:
        first = wrong[0]
        raise DataError(
            f"{atlas.origin}: label {first.label}, '{first.name}', has its centre at "
            f"x = {centres[first.label]:.1f} mm; expected x {'>' if first.side == 'right' else '<'}"
            f" 0 for the {first.side} side; {len(wrong)} of {len(sided)} sided labels are on the "
            "wrong one, so the image is mirrored, or its affine wrong; take the atlas from its "
            "source again, or correct the affine"
        )


def on_grid(
    atlas: Atlas, shape: tuple[int, int, int], affine: NDArray[np.floating], *, space: str
) -> Atlas:
    """Atlas on the grid of a map, by nearest neighbour through the affines.

    Parameters
    ----------
    atlas : Atlas
        To be brought there.
    shape : tuple of int
        Of the map, 3 axes.
    affine : (4, 4) array
        Of the map: voxel indices to world millimetres.
    space : str
        In which the map lies, as BIDS writes it after ``space-``.

    Returns
    -------
    Atlas
        With warnings where space or coverage leave a doubt; small regions may have no voxel.

    Raises
    ------
    DataError
        If the atlas is of another space, or no labelled voxel of it lies on the grid.

    Notes
    -----
    Two templates of the MNI152 family average the same 152 heads; they are taken for one another,
    with a warning, since borders differ by some millimetres. Any other two spaces are refused.

    Examples
    --------
    >>> from bids_alsmri.spaces.templates import get_template
    >>> fine, coarse = (get_template("MNI152NLin2009aSym", mm, environment={}) for mm in (4.0, 8.0))
    >>> atlas = draw_areas(motor_areas(), fine)
    >>> on_grid(atlas, coarse.gm.shape, coarse.gm.affine, space=coarse.name).labels.shape
    (25, 30, 24)
    """
    import nibabel as nib
    from nibabel.processing import resample_from_to

    warnings = [*atlas.warnings, *_require_space(atlas, space)]
    if atlas.labels.shape == tuple(shape) and np.allclose(atlas.affine, affine, atol=1e-4):
        return replace(atlas, space=space, warnings=tuple(warnings))
    warnings += _require_coverage(atlas, shape, np.asarray(affine, dtype=np.float64))
    source: Any = nib.Nifti1Image(atlas.labels, atlas.affine)
    resampled: Any = resample_from_to(source, (shape, affine), order=0)
    labels = np.asarray(resampled.dataobj, dtype=np.int32)
    return replace(
        atlas,
        space=space,
        labels=labels,
        affine=np.asarray(affine, dtype=np.float64),
        warnings=tuple(warnings),
    )


def _require_space(atlas: Atlas, space: str) -> list[str]:
    """Warnings about a difference of spaces; raises where they have nothing in common."""
    if atlas.space == space:
        return []
    if atlas.space.startswith(_FAMILY) and space.startswith(_FAMILY):
        return [
            f"{atlas.name} is an atlas of {atlas.space}, and the maps lie in {space}: two averages "
            "of the same heads, whose borders differ by some mm"
        ]
    raise DataError(
        f"{atlas.origin}: is an atlas of {atlas.space}, but the maps lie in {space}; expected the "
        f"same space, or two of the {_FAMILY} family; leave it out, or take one of {space}"
    )


def _require_coverage(atlas: Atlas, shape: Sequence[int], affine: NDArray[np.float64]) -> list[str]:
    """Warnings about labelled voxels off a grid; raises where all of them are."""
    ijk = np.stack(np.nonzero(atlas.labels))
    to_grid = np.linalg.inv(affine) @ atlas.affine
    place = np.rint(to_grid[:3, :3] @ ijk + to_grid[:3, 3:])
    is_on_grid = np.all((place >= 0) & (place < np.reshape(shape, (3, 1))), axis=0)
    share = float(is_on_grid.mean()) if is_on_grid.size else 0.0
    if share == 0.0:
        raise DataError(
            f"{atlas.origin}: none of its labelled voxels, which lie within "
            f"{_extent(atlas.affine, ijk)}, is on the grid of the maps, "
            f"{_extent(affine, np.array([[0, n - 1] for n in shape]))}; expected an atlas in the "
            "same coordinates; take one of the maps' space, or correct its affine"
        )
    if share < _MIN_SHARE_ON_GRID:
        return [
            f"{atlas.origin}: only {100 * share:.0f} % of its labelled voxels are on the grid of "
            "the maps; look whether its coordinates are those of the maps"
        ]
    return []


def _extent(affine: NDArray[np.float64], ijk: NDArray[np.integer]) -> str:
    """Box around voxels in words, in mm; of each axis the smallest and largest index count."""
    if ijk.size == 0:
        return "no voxel"
    ends = np.stack([ijk.min(axis=1), ijk.max(axis=1)], axis=1)
    corners = np.array(np.meshgrid(*ends)).reshape(3, -1)
    mm = affine[:3, :3] @ corners + affine[:3, 3:]
    parts = zip("xyz", mm.min(axis=1), mm.max(axis=1), strict=True)
    return ", ".join(f"{axis} {low:.0f} to {high:.0f}" for axis, low, high in parts) + " mm"


def _window(
    area: MotorArea, affine: NDArray[np.float64], shape: Sequence[int]
) -> tuple[tuple[slice, ...], NDArray[np.float64]]:
    """Part of a grid around an area, and world coordinates of its voxels, last axis x, y, z."""
    reach = np.array(np.meshgrid(*[(-1, 1)] * 3)).reshape(3, -1)
    corners_mm = np.reshape(area.centre_mm, (3, 1)) + np.reshape(area.radii_mm, (3, 1)) * reach
    inverse = np.linalg.inv(affine)
    corners = inverse[:3, :3] @ corners_mm + inverse[:3, 3:]
    low = np.clip(np.floor(corners.min(axis=1)), 0, shape).astype(int)
    high = np.clip(np.ceil(corners.max(axis=1)) + 1, 0, shape).astype(int)
    ijk = np.stack(np.meshgrid(*map(np.arange, low, high), indexing="ij"), axis=-1)
    return tuple(map(slice, low, high)), ijk @ affine[:3, :3].T + affine[:3, 3]


def _nearness(area: MotorArea, world_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance from the centre of an area in units of its half lengths; 1 on its surface."""
    relative = (world_mm - np.array(area.centre_mm)) / np.array(area.radii_mm)
    if area.shape == "box":
        return np.asarray(np.abs(relative).max(axis=-1))
    return np.asarray(np.sqrt((relative**2).sum(axis=-1)))


def _read_fsl_atlas(description: Path, threshold_percent: float) -> Atlas:
    # 0.9 s of imports
    from fsl.data.atlases import AtlasDescription
    from fsl.data.image import addExt
    from fsl.utils.path import PathError
    from nibabel.filebasedimages import ImageFileError

    try:
        found = AtlasDescription(str(description))
        finest = int(np.argmin([min(edges_mm) for edges_mm in found.pixdims]))
        path = Path(addExt(found.images[finest], mustExist=True))
    except (
        *(ParseError, AttributeError, KeyError, ValueError),
        *(OSError, EOFError, zlib.error, PathError, ImageFileError),
    ) as error:
        raise DataError(
            f"{description}: cannot be read as FSL's description of an atlas "
            f"({type(error).__name__}: {error}); expected its header and labels, and its images "
            "beside it; fetch the atlas again or take it out of the folder"
        ) from error
    regions = [Region(one.value, one.name, side_of(one.name)) for one in found.labels]
    if found.atlasType == "label":
        return _label_atlas(found.name, FSL_SPACE, regions, path)
    if found.atlasType == "probabilistic":
        return _probability_atlas(found.name, FSL_SPACE, regions, path, threshold_percent)
    raise DataError(
        f"{description}: is of the type '{found.atlasType}'; expected 'label' or 'probabilistic', "
        "which name regions; take it out of the folder"
    )


def _label_atlas(name: str, space: str, regions: Iterable[Region], path: Path) -> Atlas:
    """Atlas of a label image."""
    image = _open_image(path, n_axes=3)
    stored = _voxels(path, image)
    labels = np.rint(stored).astype(np.int32)
    is_label = (labels == stored) & (labels >= 0)
    if not is_label.all():
        raise DataError(
            f"{path}: holds the value {stored[~is_label][0]:g}; expected labels, which are whole "
            "numbers from 0; interpolation destroys them: take the image from its source again"
        )
    return _checked_atlas(name, space, regions, labels, path, image.affine)


def _probability_atlas(
    name: str, space: str, regions: Iterable[Region], path: Path, threshold_percent: float
) -> Atlas:
    """Atlas of the most probable region of each voxel; volume k holds label k + 1."""
    image = _open_image(path, n_axes=4)
    regions = list(regions)
    n_volumes = image.shape[3]
    best = np.zeros(image.shape[:3], dtype=np.float32)
    labels = np.zeros(image.shape[:3], dtype=np.int32)
    # one volume at a time: all of them take a third of a GB
    for region in sorted(regions, key=lambda one: one.label):
        if not 1 <= region.label <= n_volumes:
            raise DataError(
                f"{path}: has {n_volumes} volumes, but '{region.name}' is said to be in volume "
                f"{region.label - 1} (from 0); expected one for each label; fetch the atlas again"
            )
        percent = _voxels(path, image, region.label - 1)
        is_better = percent > best
        labels[is_better] = region.label
        best[is_better] = percent[is_better]
    if best.max() <= 1.0:
        raise DataError(
            f"{path}: the largest probability is {best.max():g}; expected percent, 0 to 100; "
            "multiply the image by 100"
        )
    labels[best < threshold_percent] = 0
    return _checked_atlas(name, space, regions, labels, path, image.affine)


def _checked_atlas(
    name: str,
    space: str,
    regions: Iterable[Region],
    labels: NDArray[np.int32],
    path: Path,
    affine: NDArray[np.floating],
) -> Atlas:
    """Atlas without background, whose labels have names and lie on their sides."""
    named = tuple(region for region in regions if region.label > 0)
    given = [region.label for region in named]
    twice = sorted({label for label in given if given.count(label) > 1})
    if twice:
        raise DataError(
            f"{path}: label {twice[0]} has {given.count(twice[0])} names in the atlas's table; "
            "expected one for each; fetch the atlas again"
        )
    is_nameless = (labels > 0) & ~np.isin(labels, given)
    warnings = []
    if is_nameless.any():
        nameless = ", ".join(map(str, np.unique(labels[is_nameless])[:5]))
        warnings.append(
            f"{path}: {np.count_nonzero(is_nameless)} voxels have labels without a name, such as "
            f"{nameless}; they count as no region"
        )
        labels[is_nameless] = 0
    if not labels.any():
        raise DataError(
            f"{path}: no voxel of it has a label that its table names; expected {len(named)} "
            "regions; check that table and image belong together"
        )
    matrix = np.asarray(affine, dtype=np.float64)
    atlas = Atlas(name, space, named, labels, matrix, str(path), tuple(warnings))
    require_sides(atlas)
    return atlas


def _open_image(path: Path, *, n_axes: int) -> Any:
    """Image whose header says where its voxels lie; singleton axes after the third do not count."""
    import nibabel as nib
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError

    try:
        # left open, or each volume of a compressed series is sought from the beginning
        image: Any = nib.load(path, keep_file_open=True)
    except (OSError, EOFError, ValueError, zlib.error, ImageFileError, HeaderDataError) as error:
        raise DataError(
            f"{path}: cannot be read as an image of an atlas ({error}); expected NIfTI; fetch the "
            "atlas again"
        ) from error
    shape = image.shape[:3] + tuple(n for n in image.shape[3:] if n > 1)
    if len(shape) != n_axes:
        raise DataError(
            f"{path}: has shape {image.shape}; expected {n_axes} axes of an atlas of "
            f"{'labels' if n_axes == 3 else 'probabilities'}; check what its description says"
        )
    if not (image.header["sform_code"] > 0 or image.header["qform_code"] > 0):
        raise DataError(
            f"{path}: neither qform nor sform is set (both codes are 0), so its left and right are "
            "unknown; expected at least one; take the atlas from its source again"
        )
    return image


def _voxels(path: Path, image: Any, volume: int | None = None) -> NDArray[np.float32]:
    """Values of an image, or of one of its volumes; refused where one is not finite."""
    try:
        stored = image.dataobj if volume is None else image.dataobj[..., volume]
        values = np.asarray(stored, dtype=np.float32).reshape(image.shape[:3])
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(
            f"{path}: the voxels cannot be read ({error}); the header promises {image.shape}; the "
            "file is truncated or damaged; fetch the atlas again"
        ) from error
    if not np.isfinite(values).all():
        raise DataError(
            f"{path}: holds NaN or infinite values; expected labels or percent; take the atlas "
            "from its source again"
        )
    return values


def _first_file(
    folder: Path, template: str, entities: Iterable[str], extension: str
) -> Path | None:
    """First of some segmentations of a template that is there; TemplateFlow leaves empty files."""
    paths = [folder / f"tpl-{template}_{one}_dseg{extension}" for one in entities]
    return next((p for p in paths if p.is_file() and p.stat().st_size > 0), None)


def _read_table(path: Path) -> list[Region]:
    """Labels of a ``dseg.tsv``."""
    with path.open(encoding="utf-8-sig", newline="") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t"))
    try:
        return [Region(int(row["index"]), row["name"], side_of(row["name"])) for row in rows]
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(
            f"{path}: cannot be read as a table of labels ({type(error).__name__}: {error}); "
            "expected the columns index (whole numbers) and name, separated by tabs; fetch the "
            "atlas again"
        ) from error
