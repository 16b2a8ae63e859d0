"""Steps of the sodium pipeline on images already read: noise, tubes, bias, judgement, tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage, stats

from bids_alsmri.errors import DataError, NumericsError
from bids_alsmri.interfaces.base import ImageData, concerning, read_image, write_image
from bids_alsmri.interfaces.registration import apply_transforms
from bids_alsmri.numerics.anatomy import close_mm, head_mask
from bids_alsmri.numerics.calibration import Calibration
from bids_alsmri.numerics.noise import (
    Noise,
    denoise,
    noise_of_air,
    noise_of_texture,
)
from bids_alsmri.numerics.receive import (
    bias_from_coils,
    bias_from_image,
    extended,
    normalised_bias,
)
from bids_alsmri.numerics.regions import summarise_regions
from bids_alsmri.numerics.relaxation import mixed_weight
from bids_alsmri.numerics.tubes import FoundTubes, Tube
from bids_alsmri.pipelines.sodium.protocol import Protocol, relaxation_of

Facts = dict[str, Any]
Array = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]

_FWHM_PER_SD = float(np.sqrt(8.0 * np.log(2.0)))
# of Otsu's threshold, from which a voxel of a sodium image is no air; only for the noise of texture
_HEAD_SHARE = 0.5
# closes what is dark under the brain, as `find_tubes` does
_HEAD_CLOSING_MM = 25.0
# grey and white matter below this share leave nothing to weigh a smoothed map by
_LEAST_SHARE = 0.1
# sensitivity below this share of the head's median is that of no coil, but of the end of its reach
_LEAST_SENSITIVITY = 0.1
# signal of the volume coil below this share of its noise floor is none
_LEAST_OF_FLOOR = 0.2


@dataclass(frozen=True)
class ImageNoise:
    """Noise of an image and what of it stands in the air.

    Parameters
    ----------
    sigma, n_channels : float
        See :class:`Noise`.
    is_blanked : bool
        Whether the air was set to 0, so that the noise was estimated from texture.
    """

    sigma: float
    n_channels: float
    is_blanked: bool

    @property
    def noise(self) -> Noise:
        """The record of the numerics."""
        return Noise(self.sigma, self.n_channels)

    @property
    def floor(self) -> float:
        """Mean of the image in air."""
        return 0.0 if self.is_blanked else self.noise.floor

    @property
    def air_sd(self) -> float:
        """Standard deviation of the image in air, or where there is none, of the noise."""
        return self.sigma if self.is_blanked else self.noise.air_sd

    def write(self, path: Path) -> Path:
        """Write as JSON, and return the path."""
        path.write_text(json.dumps(asdict(self), sort_keys=True) + "\n", "utf-8")
        return path


def read_noise(path: Path) -> ImageNoise:
    """Noise that :meth:`ImageNoise.write` has written.

    Parameters
    ----------
    path : Path
        JSON file.

    Returns
    -------
    ImageNoise
        The same.
    """
    return ImageNoise(**json.loads(path.read_text("utf-8")))


def estimate_noise(image: ImageData, protocol: Protocol) -> tuple[ImageNoise, Facts]:
    """Noise of an image, from its air or, where that was blanked, from its texture.

    Parameters
    ----------
    image : ImageData
        As reconstructed.
    protocol : Protocol
        Of the image.

    Returns
    -------
    noise : ImageNoise
        Level and channels.
    facts : dict
        Measures, and a note on where it comes from.
    """
    notes = []
    try:
        found, is_blanked = noise_of_air(image.data), False
    except NumericsError as error:
        mask = head_mask(
            np.asarray(image.data, np.float32), threshold_share=_HEAD_SHARE, smoothing_voxels=1.0
        )
        found = noise_of_texture(image.data, mask, image.voxel_mm, protocol.still_spread)
        is_blanked = True
        notes.append(f"noise was estimated from the texture of the head: {error}")
    measures = [
        {"measure": "noise_sd", "value": found.sigma},
        {"measure": "noise_channels", "value": found.n_channels},
    ]
    noise = ImageNoise(found.sigma, found.n_channels, is_blanked)
    return noise, {"measures": measures, "notes": notes}


def quiet(
    image: ImageData,
    noise: ImageNoise,
    *,
    method: str,
    strength: float,
    patch_radius: int,
    block_radius: int,
    n_threads: int,
) -> Array:
    """Image without noise and its floor, or as it is.

    Parameters
    ----------
    image : ImageData
        As reconstructed.
    noise : ImageNoise
        Of it.
    method : {"nlmeans", "off"}
        How.
    strength, patch_radius, block_radius, n_threads
        Of the non-local means.

    Returns
    -------
    (X, Y, Z) array
        Signal.
    """
    if method == "off":
        return image.data
    return denoise(
        image.data,
        noise.noise,
        strength=strength,
        patch_radius=patch_radius,
        block_radius=block_radius,
        n_threads=n_threads,
    )


def write_tubes(found: FoundTubes, path: Path) -> Path:
    """Write tubes, and why other bright parts are none, as JSON, and return the path.

    Parameters
    ----------
    found : FoundTubes
        Of an image.
    path : Path
        File to write.

    Returns
    -------
    Path
        `path`.
    """
    rows = []
    for tube in found.tubes:
        row = asdict(tube)
        row.update(centre_mm=tube.centre_mm.tolist(), axis=tube.axis.tolist())
        rows.append(row)
    text = json.dumps({"tubes": rows, "refused": found.refused}, indent=2, sort_keys=True)
    path.write_text(text + "\n", "utf-8")
    return path


def read_tubes(path: Path, labels: Path, head: Path) -> FoundTubes:
    """Tubes of an image, from the files of the node that found them.

    Parameters
    ----------
    path : Path
        JSON file of :func:`write_tubes`.
    labels, head : Path
        Label image and head mask.

    Returns
    -------
    FoundTubes
        The same.
    """
    parts = json.loads(path.read_text("utf-8"))
    tubes = []
    for row in parts["tubes"]:
        centre, axis = np.array(row.pop("centre_mm")), np.array(row.pop("axis"))
        tubes.append(Tube(centre_mm=centre, axis=axis, **row))
    numbers = read_image(labels, ndim=3).data.astype(np.int16)
    mask = read_image(head, ndim=3).data > 0
    return FoundTubes(numbers, tuple(tubes), mask, tuple(parts["refused"]))


def on_grid(
    path: Path, image: ImageData, *, order: int, nonfinite: str = "refuse"
) -> NDArray[np.float64]:
    """Another image of the same world at the voxels of an image; 0 outside it.

    Parameters
    ----------
    path : Path
        3D image.
    image : ImageData
        Whose voxels.
    order : {0, 1}
        Nearest voxel, for labels, or linear.
    nonfinite : {"refuse", "zero"}
        What to do with NaN.

    Returns
    -------
    (X, Y, Z) array
        Values.
    """
    other = read_image(path, ndim=3, nonfinite="zero" if nonfinite == "zero" else "refuse")
    to_voxel = np.linalg.inv(other.affine) @ image.affine
    found: NDArray[np.float64] = ndimage.affine_transform(
        other.data.astype(np.float64),
        to_voxel[:3, :3],
        to_voxel[:3, 3],
        output_shape=image.data.shape,
        order=order,
    )
    return found


def require_tubes_in_view(labels: NDArray[np.integer], given: Path, image: Path) -> None:
    """Raise where given labels do not lie in an image.

    Parameters
    ----------
    labels : (X, Y, Z) array of int
        Labels at the voxels of the image.
    given, image : Path
        Files, for the message.

    Raises
    ------
    DataError
        If no voxel has a label.
    """
    if not np.any(labels > 0):
        raise DataError(
            f"{given}: no label lies in the field of view of {image}; mark the tubes on that "
            "image, or leave the labels out"
        )


def receive_bias(
    image: ImageData,
    found: FoundTubes,
    *,
    method: str,
    map_path: Path | None,
    array_path: Path | None,
    volume_path: Path | None,
    fwhm_mm: float,
    order: int,
    denoising: Mapping[str, Any],
) -> tuple[NDArray[np.float64], Facts]:
    """Receive bias at the voxels of an image, 1 on average over the head.

    Parameters
    ----------
    image : ImageData
        Signal.
    found : FoundTubes
        Head and tubes.
    method : {"coils", "map", "smooth", "off"}
        Where it comes from.
    map_path, array_path, volume_path : Path or None
        RB1map, image of the array, and of the volume coil.
    fwhm_mm, order
        Smoothing of the coils' images (mm), and order of the polynomial of the smooth estimate.
    denoising : mapping
        Strength and radii of the non-local means of the coils' images.

    Returns
    -------
    bias : (X, Y, Z) array
        Dimensionless.
    facts : dict
        Measure, and a warning where it is a guess.

    Raises
    ------
    DataError
        If the images that the method takes are missing or unusable.
    """
    facts: Facts = {"measures": [], "warnings": [], "notes": []}
    head = found.head_mask
    if method == "off":
        facts["notes"].append("the receive bias was not corrected")
        return np.ones(image.data.shape), facts
    if method == "coils":
        bias = _from_coils(image, found, array_path, volume_path, fwhm_mm, denoising)
    elif method == "map":
        bias = _from_map(image, head, map_path)
    else:
        bias = bias_from_image(image.data, head, image.voxel_mm, order=order)
        facts["warnings"].append(
            "the receive bias was estimated from the image itself, which takes true differences "
            "between front and back or core and rim for bias: acquire an RB1map, or images of "
            "array and volume coil"
        )
    low, high = np.percentile(bias[head], [5, 95])
    facts["measures"].append({"measure": "receive_bias_range", "value": float(high / low)})
    return bias, facts


def _from_map(image: ImageData, head: Mask, path: Path | None) -> NDArray[np.float64]:
    if path is None:
        raise DataError(
            f"{image.path}: the receive bias shall come from an RB1map but the session has none "
            "(fmap/*_acq-sodium_RB1map.nii.gz); add it or choose another --sodium-receive-bias"
        )
    values = on_grid(path, image, order=1, nonfinite="zero")
    # where a coil hardly sees anything its map divides noise
    known = values > _LEAST_SENSITIVITY * float(np.median(values[head]))
    share = float(np.mean(known[head]))
    if share < 0.5:
        raise DataError(
            f"{path}: the map is above 0 in {100 * share:.0f} % of the head of {image.path}; "
            "expected at least half of it; see that both are of one session"
        )
    with concerning(path):
        whole = extended(values, known, image.voxel_mm, max(image.voxel_mm))
        return normalised_bias(whole, head)


def _from_coils(
    image: ImageData,
    found: FoundTubes,
    array_path: Path | None,
    volume_path: Path | None,
    fwhm_mm: float,
    denoising: Mapping[str, Any],
) -> NDArray[np.float64]:
    if array_path is None or volume_path is None:
        raise DataError(
            f"{image.path}: the receive bias shall come from images of two coils but the session "
            "lacks one of them (fmap/*_acq-headSodium_RB1COR.nii.gz of the array, "
            "*_acq-bodySodium_RB1COR.nii.gz of the volume coil); add them or choose another "
            "--sodium-receive-bias"
        )
    first, second = (read_image(path, ndim=3) for path in (array_path, volume_path))
    if first.data.shape != second.data.shape or not np.allclose(
        first.affine, second.affine, atol=1e-2
    ):
        raise DataError(
            f"{second.path}: its grid {second.data.shape} or position differs from that of "
            f"{first.path} {first.data.shape}; expected one grid for both coils; acquire or "
            "convert them alike"
        )
    with concerning(array_path, volume_path):
        noises = [noise_of_air(i.data) for i in (first, second)]
        array, volume = (
            denoise(i.data, noise, **denoising, n_threads=1)
            for i, noise in zip((first, second), noises, strict=True)
        )
        head = _resampled(found.head_mask.astype(np.float64), image.affine, first) > 0.5
        tubes = _resampled((found.labels > 0).astype(np.float64), image.affine, first) > 0.5
        # where the volume coil sees nothing at all the ratio means nothing
        seen = ndimage.gaussian_filter(volume, 1.0) > _LEAST_OF_FLOOR * noises[1].floor
        mask = (head | tubes) & seen
        coarse = bias_from_coils(
            array, volume, mask, first.voxel_mm, head_mask=head & mask, fwhm_mm=fwhm_mm
        )
    fine = _resampled(coarse, first.affine, image, mode="nearest")
    return normalised_bias(fine, found.head_mask)


def _resampled(
    values: NDArray[np.float64],
    affine: NDArray[np.float64],
    target: ImageData,
    mode: str = "constant",
) -> NDArray[np.float64]:
    to_voxel = np.linalg.inv(affine) @ target.affine
    found: NDArray[np.float64] = ndimage.affine_transform(
        values,
        to_voxel[:3, :3],
        to_voxel[:3, 3],
        output_shape=target.data.shape,
        order=1,
        mode=mode,
    )
    return found


def anatomy_facts(
    moved: Array, moved_head: Array, brain: Mask, tissues: Mapping[str, Array]
) -> tuple[float, float, Facts]:
    """How well a sodium image lies on a T1w.

    Parameters
    ----------
    moved, moved_head : (X, Y, Z) array
        Sodium image and its head mask on the T1w's grid.
    brain : (X, Y, Z) array of bool
        Brain of the T1w.
    tissues : mapping of array
        Shares of ``wm`` and ``csf``.

    Returns
    -------
    overlap, separation : float
        Share of the brain in the head, and of pairs of voxels in which fluid is brighter than
        white matter; NaN where a tissue is missing.
    facts : dict
        The same as measures.
    """
    overlap = float(np.mean(moved_head[brain] >= 0.5)) if brain.any() else float("nan")
    fluid, white = (moved[brain & (tissues[name] >= 0.8)] for name in ("csf", "wm"))
    separation = float("nan")
    if fluid.size and white.size:
        ranks = stats.mannwhitneyu(fluid, white, method="asymptotic").statistic
        separation = float(ranks / fluid.size / white.size)
    measures = [
        {"measure": "anatomy_overlap", "value": overlap},
        {"measure": "fluid_separation", "value": separation},
    ]
    return overlap, separation, {"measures": measures}


def require_aligned(
    overlap: float,
    separation: float,
    path: Path,
    *,
    least_overlap: float,
    least_separation: float,
) -> None:
    """Raise where a sodium image does not lie on the T1w.

    Parameters
    ----------
    overlap, separation : float
        See :func:`anatomy_facts`.
    path : Path
        The sodium image.
    least_overlap, least_separation : float
        Below these the registration has failed.

    Raises
    ------
    DataError
        If either is too low.
    """
    if overlap >= least_overlap and separation >= least_separation:
        return
    raise DataError(
        f"{path}: after registration {100 * overlap:.0f} % of the T1w's brain lie in the head of "
        f"the sodium image (expected at least {100 * least_overlap:.0f} %) and fluid is brighter "
        f"than white matter in {100 * separation:.0f} % of pairs of voxels (expected at least "
        f"{100 * least_separation:.0f} %): the two do not fit; see that they are of one "
        "participant and show the whole brain, or leave the T1w out with --bids-filter-file"
    )


def concentration_map(
    image: ImageData,
    line: Calibration,
    protocol: Protocol,
    relaxation_times: Mapping[str, Sequence[float]],
    tissues: Mapping[str, Array] | None,
    *,
    has_relaxation: bool,
    usual_mmol_l: Sequence[float],
    factor: float,
) -> NDArray[np.float64]:
    """Sodium of every voxel, by the line and what relaxation leaves of its tissues.

    Parameters
    ----------
    image : ImageData
        Signal, receive bias taken off.
    line : Calibration
        Of the tubes.
    protocol : Protocol
        Of the image.
    relaxation_times : mapping
        T1, short and long T2* (ms) and short share of every tissue.
    tissues : mapping of (X, Y, Z) array or None
        Shares of ``wm``, ``gm`` and ``csf`` that the voxel shows; without them, all is taken for
        white matter.
    has_relaxation : bool
        Whether relaxation is corrected.
    usual_mmol_l : sequence of float
        Usual sodium of the three tissues.
    factor : float
        Of the temperatures.

    Returns
    -------
    (X, Y, Z) array
        In mmol/L.
    """
    sodium: NDArray[np.float64] = (
        factor * (image.data.astype(np.float64) - line.intercept) / line.slope
    )
    if not has_relaxation:
        return sodium
    weights = [protocol.weight_of(relaxation_of(relaxation_times[n])) for n in ("wm", "gm", "csf")]
    if tissues is None:
        return sodium / weights[0]
    shares = np.stack([np.clip(tissues[name], 0, 1) for name in ("wm", "gm", "csf")])
    elsewhere = protocol.weight_of(relaxation_of(relaxation_times["head"]))
    # the rest of a voxel counts as head, so that weights change smoothly at the brain's surface
    total = shares.sum(axis=0)
    inside = mixed_weight(shares, weights, usual_mmol_l, elsewhere=elsewhere)
    share = np.clip(total, 0, 1)
    weighted: NDArray[np.float64] = sodium / (share * inside + (1 - share) * elsewhere)
    return weighted


def tissue_rows(
    maps: Mapping[str, Array], tissues: Mapping[str, Array], *, min_probability: float
) -> list[Facts]:
    """Maps summarised over tissues, in long form.

    Parameters
    ----------
    maps : mapping of (X, Y, Z) array
        In mmol/L, by the name of the measure.
    tissues : mapping of (X, Y, Z) array
        Share of each region in the voxels.
    min_probability : float
        From which a voxel belongs to a region.

    Returns
    -------
    list of dict
        Rows with region, side, measure, value, unit and number of voxels.
    """
    rows = []
    for region, share in tissues.items():
        labels = (share >= min_probability).astype(np.int16)
        for name, values in maps.items():
            summary = summarise_regions(values, labels, labels=[1])
            for statistic in ("mean", "sd", "median"):
                value = float(getattr(summary, statistic)[0])
                rows.append(region_row(region, f"{name}_{statistic}", value, summary.n_voxels[0]))
    return rows


def region_row(region: str, measure: str, value: float, n: int) -> Facts:
    """One row of a table of regions.

    Parameters
    ----------
    region, measure : str
        Of what, and which quantity.
    value : float
        In mmol/L.
    n : int
        Voxels that count.

    Returns
    -------
    dict
        The row.
    """
    return {
        "region": region,
        "side": "n/a",
        "measure": measure,
        "value": value,
        "unit": "mmol/L",
        "n": int(n),
    }


def smoothed(
    values: Array, share: Array | None, mask: Mask, voxel_mm: float, *, fwhm_mm: float
) -> NDArray[np.float64]:
    """Map smoothed by a Gaussian, weighted by the share of tissue where that is given.

    Parameters
    ----------
    values : (X, Y, Z) array
        Map in any unit.
    share : (X, Y, Z) array or None
        Share of each voxel that the map tells of: without it every voxel counts alike.
    mask : (X, Y, Z) array of bool
        Where the result is wanted; 0 elsewhere.
    voxel_mm : float
        Edge of a voxel, in mm.
    fwhm_mm : float
        Width of the Gaussian, in mm.

    Returns
    -------
    (X, Y, Z) array
        In the unit of the map; 0 where less than a tenth of what is smoothed over is tissue.
    """
    sd = fwhm_mm / _FWHM_PER_SD / voxel_mm
    weight = np.ones(values.shape) if share is None else np.clip(share, 0, 1).astype(np.float64)
    # a map of tissue alone is 0 where it tells nothing
    weight = weight if share is None else np.where(values > 0, weight, 0.0)
    total = ndimage.gaussian_filter(weight, sd, mode="constant" if share is not None else "nearest")
    summed = ndimage.gaussian_filter(np.asarray(values, np.float64) * weight, sd, mode="constant")
    enough = mask & (total >= _LEAST_SHARE)
    out = np.zeros(values.shape)
    out[enough] = summed[enough] / total[enough]
    return out


def corrected_rows(regions: pd.DataFrame) -> list[Facts]:
    """Rows of a table of regions from what the correction for partial volume has found.

    Parameters
    ----------
    regions : DataFrame
        Region, corrected, standard_error, uncorrected (mmol/L) and n.

    Returns
    -------
    list of dict
        Three rows for each region, in long form.
    """
    measures = {
        "tsc_corrected": "corrected",
        "tsc_corrected_error": "standard_error",
        "tsc_weighted": "uncorrected",
    }
    return [
        region_row(str(row["region"]), name, float(row[column]), int(row["n"]))
        for _, row in regions.iterrows()
        for name, column in measures.items()
    ]


def tissue_measures(rows: Sequence[Mapping[str, Any]]) -> list[Facts]:
    """Medians of the uncorrected map in the tissues, as measures of quality.

    Parameters
    ----------
    rows : sequence of mapping
        Of :func:`tissue_rows`.

    Returns
    -------
    list of dict
        One measure for each tissue.
    """
    return [
        {"measure": f"{row['region']}_tsc", "value": row["value"]}
        for row in rows
        if row["measure"] == "tsc_median"
    ]


@dataclass(frozen=True)
class Mover:
    """Resamples images onto one grid through one chain of transforms.

    Parameters
    ----------
    folder : Path
        Where results go.
    reference : Path
        Image that gives the grid.
    transforms : list of Path
        ITK transforms; the last is applied first, as ANTs counts.
    """

    folder: Path
    reference: Path
    transforms: list[Path]

    def move(self, image: Path, name: str) -> Path:
        """Resample an image once, linearly, and return the file."""
        return apply_transforms(
            image,
            self.reference,
            self.transforms,
            self.folder / f"{name}_moved.nii.gz",
            interpolation="Linear",
            n_threads=1,
        )

    def values(self, image: Path, name: str) -> Array:
        """Voxels of the resampled image."""
        return read_image(self.move(image, name), ndim=3).data


def coarser_grid(image: Path, out_file: Path, *, voxel_mm: float) -> Path:
    """Image of ones over the field of view of another one, with other voxels.

    Parameters
    ----------
    image : Path
        Whose field of view.
    out_file : Path
        Where it goes.
    voxel_mm : float
        Edge of its voxels, in mm.

    Returns
    -------
    Path
        `out_file`.
    """
    like = read_image(image, ndim=3)
    edges = np.array(like.voxel_mm)
    shape = np.ceil(np.array(like.data.shape) * edges / voxel_mm - 1e-3).astype(int)
    scale = voxel_mm / edges
    # the corners of the two fields of view are the same, so centres move by half a voxel
    affine = like.affine @ np.diag([*scale, 1.0])
    affine[:3, 3] = like.affine[:3, 3] + like.affine[:3, :3] @ ((scale - 1.0) / 2.0)
    write_image(np.ones(tuple(shape.tolist()), np.uint8), affine, out_file)
    return out_file


def proton_head(image: ImageData) -> Mask:
    """Head in a proton image.

    Parameters
    ----------
    image : ImageData
        Magnitude image of a whole head.

    Returns
    -------
    (X, Y, Z) array of bool
        Its hollows and the dark base of the skull closed, as those of the sodium image are.
    """
    values = np.asarray(image.data, np.float32)
    found = head_mask(values, threshold_share=_HEAD_SHARE, smoothing_voxels=1.0)
    return close_mm(found, _HEAD_CLOSING_MM, np.array(image.voxel_mm))


def proton_facts(moved: Array, head: Mask, path: Path, *, least_overlap: float) -> Facts:
    """Share of the signal of a sodium image's head that lies in that of the proton image.

    Parameters
    ----------
    moved : (X, Y, Z) array
        Signal of the sodium image's head, 0 elsewhere, on the grid of the proton image.
    head : (X, Y, Z) array of bool
        Head of the proton image.
    path : Path
        The sodium image.
    least_overlap : float
        Below it the registration has failed.

    Returns
    -------
    dict
        The measure.

    Raises
    ------
    DataError
        If it is too low.
    """
    total = float(moved.sum(dtype=np.float64))
    overlap = float(moved[head].sum(dtype=np.float64)) / total if total > 0 else 0.0
    if overlap < least_overlap:
        raise DataError(
            f"{path}: after registration {100 * overlap:.0f} % of the signal of its head lie in "
            f"the head of the proton image; expected at least {100 * least_overlap:.0f} %: see "
            "that both are of one participant and show the whole head, or choose another proton "
            "image with --bids-filter-file"
        )
    return {"measures": [{"measure": "proton_overlap", "value": overlap}]}


def require_proton(path: Path, *, is_lacking: bool) -> None:
    """Raise where a proton image is asked for and the session has none.

    Parameters
    ----------
    path : Path
        The sodium image.
    is_lacking : bool
        Whether that is so.

    Raises
    ------
    DataError
        If it is.
    """
    if is_lacking:
        raise DataError(
            f"{path}: --sodium-register-to proton asks for a proton image of the session, but "
            "there is none; expected anat/*_acq-proton_T2starw.nii.gz or such; add it, name "
            'another by --bids-filter-file, for instance {"proton": {"acquisition": "gre"}}, or '
            "leave the option out"
        )
