"""Tissues on the grid of a sodium image, and its correction for what blur mixes between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage, signal

from bids_alsmri.errors import DataError
from bids_alsmri.interfaces.base import ImageData
from bids_alsmri.numerics.anatomy import erode_mm, head_mask, otsu_threshold
from bids_alsmri.numerics.partialvolume import (
    RegionSignals,
    blurred_regions,
    fitted_spread_scale,
    merge_small_regions,
    region_based_correction,
    region_signals,
)
from bids_alsmri.numerics.pointspread import PointSpread, scaled_point_spread
from bids_alsmri.pipelines.sodium.protocol import Protocol, relaxation_of

Facts = dict[str, Any]
Array = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]

# region: the tissue whose relaxation it has
REGIONS = {
    "wm": "wm",
    "gm": "gm",
    "csf_ventricular": "csf",
    "csf_sulcal": "csf",
    "head_bright": "head",
    "head_middle": "head",
    "head_dark": "head",
    "head_fluid": "csf",
    "tubes": "tube",
}
TISSUES = ("wm", "gm", "csf")
# of the T1w's Otsu threshold, from which a voxel belongs to the head, as for its brain extraction
_HEAD_SHARE, _HEAD_SMOOTHING_VOXELS = 0.5, 1.0
# regions blurred to less than this share of the tissue have nothing to compare an image with
_LEAST_BLURRED_SHARE = 0.05
# range in which the width of the point spread is fitted, as factors of that of the protocol
_SCALE_RANGE = (0.7, 1.6)
# frequencies times edge of a voxel up to which its blur is undone: a third of the signal is left
_MOST_OF_SINC = 0.7
# voxels of a T1w outside its brain that can be parted into bright and dark
_FEWEST_OF_A_HEAD = 1000
# probability of pure tissue, and voxels off its border that tell how bright it is
_PURE, _FEWEST_OF_A_CORE = 0.95, 200
_FWHM_PER_SD = float(np.sqrt(8.0 * np.log(2.0)))


@dataclass(frozen=True)
class Anatomy:
    """Images of one T1w and where they lie.

    Parameters
    ----------
    t1w : (X, Y, Z) array
        The head.
    tissues : dict of (X, Y, Z) array
        Shares of ``wm``, ``gm`` and ``csf``, 0 to 1.
    brain : (X, Y, Z) array of bool
        Brain mask.
    affine : (4, 4) array
        Its voxels to its world, in mm.
    to_sodium : (4, 4) array
        Its world to that of the sodium image, in mm.
    """

    t1w: Array
    tissues: Mapping[str, Array]
    brain: Mask
    affine: NDArray[np.float64]
    to_sodium: NDArray[np.float64]

    @property
    def voxel_mm(self) -> NDArray[np.float64]:
        """Edges of its voxels."""
        return np.asarray(np.linalg.norm(self.affine[:3, :3], axis=0), dtype=np.float64)

    def on(self, values: Array, grid: Grid) -> NDArray[np.float64]:
        """One of its maps of shares at the points of a grid in the sodium image's world.

        By cubic splines, since linear interpolation would blur once more than the voxels do.
        """
        own_voxel = np.linalg.inv(self.to_sodium @ self.affine) @ grid.affine
        found: NDArray[np.float64] = ndimage.affine_transform(
            np.asarray(values, dtype=np.float64),
            own_voxel[:3, :3],
            own_voxel[:3, 3],
            output_shape=grid.shape,
            order=3,
        )
        return np.clip(found, 0.0, 1.0, out=found)


@dataclass(frozen=True)
class Grid:
    """Voxels in the world of a sodium image.

    Parameters
    ----------
    shape : (3,) tuple of int
        Number of voxels.
    affine : (4, 4) array
        Voxels to world, in mm.
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]

    @property
    def voxel_mm(self) -> NDArray[np.float64]:
        """Edges of a voxel."""
        return np.asarray(np.linalg.norm(self.affine[:3, :3], axis=0), dtype=np.float64)


@dataclass(frozen=True)
class FineGrid:
    """Grid that divides the voxels of an image, cut to where the brain is.

    Parameters
    ----------
    grid : Grid
        The grid.
    factors : (3,) tuple of int
        Parts that each edge of a voxel is divided into.
    start : (3,) tuple of int
        First voxel, counted in that of the whole image's grid.
    """

    grid: Grid
    factors: tuple[int, int, int]
    start: tuple[int, int, int]

    def refined(self, image: Array) -> NDArray[np.float64]:
        """Image at the points of the grid, by Fourier interpolation.

        The readout leaves nothing beyond the grid's own frequencies, so that nothing is lost.
        """
        values = np.asarray(image, dtype=np.float64)
        for axis, factor in enumerate(self.factors):
            values = signal.resample(values, factor * values.shape[axis], axis=axis)
        return np.ascontiguousarray(values[self._window])

    def carried(self, labels: NDArray[Any]) -> NDArray[Any]:
        """Labels or a mask on the grid, each voxel with the value of that which it is part of."""
        index = [
            (np.arange(first, first + n) + factor // 2) // factor
            for first, n, factor in zip(self.start, self.grid.shape, self.factors, strict=True)
        ]
        clipped = [np.clip(i, 0, n - 1) for i, n in zip(index, labels.shape, strict=True)]
        found: NDArray[Any] = labels[np.ix_(*clipped)]
        return found

    def coarse(self, fine: NDArray[Any], shape: Sequence[int], outside: float) -> NDArray[Any]:
        """Values of a map on the grid at the voxels of the image, `outside` beyond it."""
        out = np.full(tuple(shape), outside, dtype=np.float64)
        chosen, target = [], []
        for first, n, factor in zip(self.start, self.grid.shape, self.factors, strict=True):
            offset = -first % factor
            count = len(range(offset, n, factor))
            chosen.append(slice(offset, None, factor))
            target.append(slice((first + offset) // factor, (first + offset) // factor + count))
        out[tuple(target)] = fine[tuple(chosen)]
        return out

    def averaged(
        self, fine: NDArray[np.float64], shape: Sequence[int], outside: float
    ) -> NDArray[np.float64]:
        """Means of a map on the grid over the voxels of the image, `outside` beyond it.

        Points on the face of a voxel count half for either side.
        """
        means = np.asarray(fine, dtype=np.float64)
        for axis, factor in enumerate(self.factors):
            weights = np.ones(factor + 1 - factor % 2) / factor
            if factor % 2 == 0:
                weights[[0, -1]] /= 2.0
            means = ndimage.convolve1d(means, weights, axis=axis, mode="nearest")
        return self.coarse(means, shape, outside)

    @property
    def _window(self) -> tuple[slice, ...]:
        return tuple(slice(s, s + n) for s, n in zip(self.start, self.grid.shape, strict=True))


def fine_grid(image: ImageData, anatomy: Anatomy, *, voxel_mm: float, margin_mm: float) -> FineGrid:
    """Grid around the brain whose voxels divide those of an image.

    Parameters
    ----------
    image : ImageData
        Sodium image.
    anatomy : Anatomy
        Whose brain counts.
    voxel_mm : float
        Largest edge of its voxels, in mm.
    margin_mm : float
        What is kept around the brain, in mm.

    Returns
    -------
    FineGrid
        The grid.

    Raises
    ------
    DataError
        If the brain lies outside the image.
    """
    factors = [max(1, int(np.ceil(edge / voxel_mm - 1e-6))) for edge in image.voxel_mm]
    affine = image.affine @ np.diag([*(1.0 / np.array(factors)), 1.0])
    brain = np.argwhere(anatomy.brain)[:: max(1, int(anatomy.brain.sum()) // 20000)]
    to_voxel = np.linalg.inv(affine) @ anatomy.to_sodium @ anatomy.affine
    voxels = brain @ to_voxel[:3, :3].T + to_voxel[:3, 3]
    margin = margin_mm / np.linalg.norm(affine[:3, :3], axis=0)
    size = np.array(image.data.shape) * factors
    low = np.clip(np.floor(voxels.min(axis=0) - margin).astype(int), 0, size)
    high = np.clip(np.ceil(voxels.max(axis=0) + margin).astype(int) + 1, 0, size)
    if np.any(high - low < 8):
        raise DataError(
            f"{image.path}: the brain of the T1w lies outside the image after registration; look "
            "at both images"
        )
    shift = np.eye(4)
    shift[:3, 3] = low
    i, j, k = (high - low).tolist()
    a, b, c = low.tolist()
    return FineGrid(
        Grid((i, j, k), affine @ shift), (factors[0], factors[1], factors[2]), (a, b, c)
    )


def region_fractions(
    anatomy: Anatomy,
    fine: FineGrid,
    image: NDArray[np.float64],
    *,
    sodium_head: Mask,
    tubes: Mask,
    ventricle_depth_mm: float,
    eye_share: float,
) -> dict[str, NDArray[np.float64]]:
    """Share of every region in each voxel of a fine grid.

    Parameters
    ----------
    anatomy : Anatomy
        The T1w.
    fine : FineGrid
        Where.
    image : (X, Y, Z) array
        Sodium signal on the grid.
    sodium_head, tubes : (X, Y, Z) array of bool
        Head and tubes of the sodium image on the grid.
    ventricle_depth_mm : float
        Depth from which fluid counts as that of ventricles.
    eye_share : float
        Share of the fluid's signal from which the head outside the brain is fluid.

    Returns
    -------
    dict of (X, Y, Z) array
        By the names of `REGIONS`; their sum is at most 1.
    """
    shares = {name: anatomy.on(anatomy.tissues[name], fine.grid) for name in TISSUES}
    total = np.maximum(sum(shares.values()), 1.0)
    shares = {name: share / total for name, share in shares.items()}
    deep = anatomy.on(
        erode_mm(anatomy.brain, ventricle_depth_mm, anatomy.voxel_mm).astype(np.float64), fine.grid
    )
    left = np.clip(1.0 - sum(shares.values()), 0.0, 1.0)
    in_tubes = np.where(tubes, left, 0.0)
    outer = _head_regions(anatomy, fine.grid, left, sodium_head & ~tubes)
    rest = np.clip(sum(outer.values()) - in_tubes, 0.0, None)
    fluid = _fluid_outside(image, rest, shares["csf"] * deep, eye_share)
    solid = {name: np.where(fluid | tubes, 0.0, share) for name, share in outer.items()}
    return {
        "wm": shares["wm"],
        "gm": shares["gm"],
        "csf_ventricular": shares["csf"] * deep,
        "csf_sulcal": shares["csf"] * (1.0 - deep),
        **solid,
        "head_fluid": np.where(fluid & ~tubes, rest, 0.0),
        "tubes": in_tubes,
    }


def _head_regions(
    anatomy: Anatomy, grid: Grid, left: NDArray[np.float64], sodium_head: Mask
) -> dict[str, NDArray[np.float64]]:
    """Parts of the head outside the brain, of what the brain leaves of each voxel."""
    head = head_mask(
        np.asarray(anatomy.t1w, dtype=np.float32),
        threshold_share=_HEAD_SHARE,
        smoothing_voxels=_HEAD_SMOOTHING_VOXELS,
    )
    parts = _parts_of_head(anatomy, head & ~anatomy.brain)
    bright, middle = (anatomy.on(part.astype(np.float64), grid) for part in parts)
    whole = anatomy.on(head.astype(np.float64), grid)
    # what the T1w does not show of the head, such as the neck, the sodium image does: it counts
    # as middling
    outside = sodium_head & (whole < 0.5)
    rest = np.where(outside, left, np.minimum(left, whole))
    bright = np.where(outside, 0.0, bright)
    middle = np.where(outside, 1.0, np.minimum(middle, 1.0 - bright))
    return {
        "head_bright": rest * bright,
        "head_middle": rest * middle,
        "head_dark": rest * (1.0 - bright - middle),
    }


def mixed_shares(anatomy: Anatomy) -> dict[str, NDArray[np.float64]]:
    r"""Shares of tissue in the T1w's voxels, by how bright they are between pure tissues.

    Parameters
    ----------
    anatomy : Anatomy
        The T1w, free of bias, and the probabilities of its tissues.

    Returns
    -------
    dict of (X, Y, Z) array
        Shares of ``wm``, ``gm`` and ``csf``; together what the probabilities are.

    Raises
    ------
    DataError
        If a tissue has no pure voxel, or fluid, grey and white matter are not ever brighter.

    Notes
    -----
    A probability says which tissue a voxel is likely to be, not how much of it there is: half of
    what counts as fluid in a segmentation may be grey matter. Between the medians :math:`m` of
    pure voxels (not at a border), :math:`f_{csf} = (m_{gm} - x) / (m_{gm} - m_{csf})` and
    :math:`f_{wm} = (x - m_{gm}) / (m_{wm} - m_{gm})` (the mixel model of Choi 1991,
    doi:10.1109/42.97590). A voxel of white matter and fluid counts as grey matter in part.
    """
    level = {name: _pure_level(anatomy, name) for name in TISSUES}
    fluid, grey, white = level["csf"], level["gm"], level["wm"]
    if not fluid < grey < white:
        raise DataError(
            f"pure fluid, grey and white matter of the T1w have the medians {fluid:.4g}, "
            f"{grey:.4g} and {white:.4g}; expected each brighter than the one before: it is "
            "no T1w or its tissues are wrong; look at them, or take probabilities by "
            "--sodium-tissue-shares probability"
        )
    whole = np.clip(sum(anatomy.tissues.values()), 0.0, 1.0)
    image = np.asarray(anatomy.t1w, dtype=np.float64)
    csf = whole * np.clip((grey - image) / (grey - fluid), 0.0, 1.0)
    wm = whole * np.clip((image - grey) / (white - grey), 0.0, 1.0)
    return {"wm": wm, "gm": np.clip(whole - wm - csf, 0.0, 1.0), "csf": csf}


def _pure_level(anatomy: Anatomy, name: str) -> float:
    pure = anatomy.tissues[name] > _PURE
    core = ndimage.binary_erosion(pure)
    # a thin tissue has no voxel off its border
    chosen = core if np.count_nonzero(core) >= _FEWEST_OF_A_CORE else pure
    if not chosen.any():
        raise DataError(
            f"the T1w has no voxel that is {name} with a probability above {_PURE:g}; look at its "
            "tissues, or take probabilities by --sodium-tissue-shares probability"
        )
    return float(np.median(anatomy.t1w[chosen]))


def _parts_of_head(anatomy: Anatomy, around: Mask) -> tuple[Mask, Mask]:
    """Bright and middling parts of the T1w's head outside the brain: fat, and muscle and skin.

    What is left is dark: bone and air. By Otsu's threshold, and by that of what lies below it.
    """
    if np.count_nonzero(around) < _FEWEST_OF_A_HEAD:
        nothing = np.zeros(around.shape, np.bool_)
        return nothing, nothing  # the T1w holds a brain alone
    high = otsu_threshold(anatomy.t1w[around], n_bins=256)
    below = around & (anatomy.t1w < high)
    low = otsu_threshold(anatomy.t1w[below], n_bins=256)
    return around & (anatomy.t1w >= high), below & (anatomy.t1w >= low)


def _fluid_outside(
    image: NDArray[np.float64],
    rest: NDArray[np.float64],
    ventricles: NDArray[np.float64],
    share: float,
) -> Mask:
    """Compact parts of the head outside the brain that are nearly as bright as fluid: eyes."""
    deep = image[ventricles > 0.5]
    level = float(np.percentile(deep, 90)) if deep.size else np.inf
    # blur from the brain's fluid reaches the innermost part
    inner = ndimage.binary_erosion(rest > 0.9, iterations=3)
    bright = inner & (image > share * level)
    grown: Mask = ndimage.binary_dilation(bright, iterations=2, mask=rest > 0.5)
    return grown


@dataclass(frozen=True)
class Corrected:
    """What the correction for partial volume finds.

    Parameters
    ----------
    voxelwise, tissue : (X, Y, Z) array
        On the grid of the image, in mmol/L: sodium of the voxel's own tissues, and that of its
        grey and white matter alone, without fluid; 0 where nothing tells.
    table : DataFrame
        Region, corrected concentration, its standard error, uncorrected one (mmol/L) and number
        of voxels of the image that it fills, for the regions that were told apart.
    facts : dict
        Measures, warnings and notes.
    """

    voxelwise: NDArray[np.float64]
    tissue: NDArray[np.float64]
    table: pd.DataFrame
    facts: Facts


def correct_partial_volume(
    image: ImageData,
    fine: FineGrid,
    refined: NDArray[np.float64],
    regions: Mapping[str, NDArray[np.float64]],
    protocol: Protocol,
    relaxation_times: Mapping[str, Sequence[float]],
    *,
    anatomy_mm: float,
    slope: float,
    slope_error: float,
    has_relaxation: bool,
    least_region_spreads: float,
    noise_sigma: float,
    is_fitted: bool,
) -> Corrected:
    """Sodium of regions and voxels, freed of blur and relaxation.

    Parameters
    ----------
    image : ImageData
        Signal less the line's intercept, receive bias taken off.
    fine : FineGrid
        Grid of `refined` and `regions`.
    refined : (X, Y, Z) array
        The same signal there.
    regions : mapping of (X, Y, Z) array
        Share of every region.
    protocol : Protocol
        Of the image.
    relaxation_times : mapping
        T1, short and long T2* (ms) and short share of every tissue.
    anatomy_mm : float
        Edge of the voxels of the T1w over which shares are means, in mm.
    slope, slope_error : float
        Signal per mmol/L that neither saturates nor decays, and its standard error.
    has_relaxation : bool
        Whether relaxation is corrected.
    least_region_spreads : float
        Smallest region, in volumes of its point spread.
    noise_sigma : float
        Noise level of the image.
    is_fitted : bool
        Whether the width of the point spread is fitted.

    Returns
    -------
    Corrected
        Maps and values.
    """
    names = list(regions)
    relaxations = [relaxation_of(relaxation_times[REGIONS[name]]) for name in names]
    spreads = [sharpened(protocol.spread_of(r), anatomy_mm) for r in relaxations]
    weights = [protocol.weight_of(r) if has_relaxation else 1.0 for r in relaxations]
    voxel_mm = fine.grid.voxel_mm
    merged = merge_small_regions(
        np.stack(list(regions.values())), spreads, voxel_mm, least_spreads=least_region_spreads
    )
    led = [names[index] for index in merged.leader]
    own = [protocol.spread_of(relaxations[index]) for index in merged.leader]
    weights = [weights[index] for index in merged.leader]
    facts: Facts = {
        "measures": [],
        "warnings": [],
        "notes": _merged_notes(names, merged.group, led),
    }
    scale = 1.0
    if is_fitted:
        scale = _fitted_scale(refined, merged.fractions, own, voxel_mm, anatomy_mm, facts)
    spreads = _spreads_at(scale, own, anatomy_mm)
    found = region_signals(
        refined,
        merged.fractions,
        spreads,
        voxel_mm,
        is_symmetric=True,
        noise_sigma=noise_sigma,
        noise_spread=protocol.still_spread,
    )
    facts["measures"].append({"measure": "transfer_condition", "value": found.condition})
    corrected = region_based_correction(
        refined,
        merged.fractions,
        spreads,
        voxel_mm,
        signals=found.signal,
        weights=weights,
        least_signal=_LEAST_BLURRED_SHARE * float(np.abs(found.signal).max()),
    )
    tissue = _tissue_map(refined, merged.fractions, spreads, voxel_mm, led, found, weights)
    shape = image.data.shape
    sodium = found.signal / np.array(weights) / slope
    n_voxels = np.round(
        merged.fractions.reshape(len(led), -1).sum(axis=1) / np.prod(fine.factors)
    ).astype(int)
    errors = np.hypot(
        found.standard_error / np.array(weights) / slope, sodium * slope_error / slope
    )
    return Corrected(
        # shares of tissue change within a voxel, so that its middle does not tell of all of it
        voxelwise=fine.averaged(np.nan_to_num(corrected) / slope, shape, 0.0),
        tissue=fine.coarse(np.nan_to_num(tissue) / slope, shape, 0.0),
        table=pd.DataFrame(
            {
                "region": led,
                "corrected": sodium,
                "standard_error": errors,
                "uncorrected": found.uncorrected / np.array(weights) / slope,
                "n": n_voxels,
            }
        ),
        facts=facts,
    )


def sharpened(spread: PointSpread, voxel_mm: float) -> PointSpread:
    r"""Point spread less what the voxels blur that shares of tissue are means over.

    Parameters
    ----------
    spread : PointSpread
        Of the sodium image.
    voxel_mm : float
        Edge of the voxels of the shares, in mm.

    Returns
    -------
    PointSpread
        Applied to means over voxels, it gives what `spread` gives of the object itself.

    Notes
    -----
    :math:`T(k) / \mathrm{sinc}(k v)`: to second order in k the transfer function of a cube of
    edge v is alike in all directions.

    Examples
    --------
    >>> from bids_alsmri.numerics.pointspread import gaussian_point_spread
    >>> sharpened(gaussian_point_spread(6.0), 0.0).fwhm_mm
    6.0
    """
    reach = min(voxel_mm, _MOST_OF_SINC / float(spread.frequency_per_mm[-1]))
    left = np.sinc(spread.frequency_per_mm * reach)
    return PointSpread(spread.frequency_per_mm, spread.transfer / left, spread.fwhm_mm)


def _merged_notes(names: Sequence[str], group: NDArray[np.int64], led: Sequence[str]) -> list[str]:
    return [
        f"region {name} is too small to be told from its surroundings and counts as {led[number]}"
        for name, number in zip(names, group, strict=True)
        if number >= 0 and led[number] != name
    ]


def _spreads_at(
    scale: float, spreads: Sequence[PointSpread], anatomy_mm: float
) -> list[PointSpread]:
    # the voxels of the T1w blur what they do, however wide the point spread is
    return [sharpened(scaled_point_spread(spread, scale), anatomy_mm) for spread in spreads]


def _fitted_scale(
    image: NDArray[np.float64],
    fractions: NDArray[np.float64],
    spreads: Sequence[PointSpread],
    voxel_mm: NDArray[np.float64],
    anatomy_mm: float,
    facts: Facts,
) -> float:
    """Width of the point spread over that of the protocol, and what makes it doubtful."""
    scale = fitted_spread_scale(
        image,
        fractions,
        lambda factor: _spreads_at(factor, spreads, anatomy_mm),
        voxel_mm,
        scale_range=_SCALE_RANGE,
    )
    facts["measures"].append({"measure": "spread_scale", "value": scale})
    if not _SCALE_RANGE[0] + 0.02 < scale < _SCALE_RANGE[1] - 0.02:
        facts["warnings"].append(
            f"the width of the point spread could not be fitted: {scale:.2f} times that of the "
            "protocol is an end of the range; look at registration and tissues, or take that of "
            "the protocol"
        )
    return scale


def _tissue_map(
    image: NDArray[np.float64],
    fractions: NDArray[np.float64],
    spreads: Sequence[PointSpread],
    voxel_mm: NDArray[np.float64],
    names: Sequence[str],
    found: RegionSignals,
    weights: Sequence[float],
) -> NDArray[np.float64]:
    """Sodium signal of grey and white matter alone, before relaxation; NaN where there is none.

    The ratio of image to model scales the mean of the tissues as they are seen in the voxel, so
    that a voxel with more fluid does not show more sodium for it.
    """
    blurred = blurred_regions(fractions, spreads, voxel_mm)
    level = np.maximum(found.signal, 0.0)
    model = np.tensordot(level, blurred, axes=1)
    brain = [index for index, name in enumerate(names) if name in ("wm", "gm")]
    share = blurred[brain].sum(axis=0)
    own = sum(level[i] / weights[i] * blurred[i] for i in brain)
    out = np.full(image.shape, np.nan)
    seen = (share >= _LEAST_BLURRED_SHARE) & (model > _LEAST_BLURRED_SHARE * level.max())
    out[seen] = (image[seen] / model[seen]) * (own[seen] / share[seen])
    return out


def seen_tissues(
    anatomy: Anatomy, image: ImageData, *, fwhm_mm: float
) -> dict[str, NDArray[np.float64]]:
    """Share of each tissue in what the voxels of an image show.

    Parameters
    ----------
    anatomy : Anatomy
        The T1w.
    image : ImageData
        Sodium image.
    fwhm_mm : float
        Width of what a voxel shows, in mm: that of the point spread, or of the voxel itself.

    Returns
    -------
    dict of (X, Y, Z) array
        Shares of ``wm``, ``gm`` and ``csf``.
    """
    i, j, k = image.data.shape
    grid = Grid((i, j, k), image.affine)
    sd = fwhm_mm / _FWHM_PER_SD / anatomy.voxel_mm
    return {
        name: anatomy.on(ndimage.gaussian_filter(values.astype(np.float64), sd), grid)
        for name, values in anatomy.tissues.items()
    }
