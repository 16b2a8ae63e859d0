"""Borders of the cortex from segmentations of other programs, or as somebody drew them."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from numpy.typing import NDArray

from bids_alsmri.errors import DataError
from bids_alsmri.interfaces.base import ImageData
from bids_alsmri.pipelines.cortex7t.slab import LATTICE_MARGIN_MM, labels_on_grid

# FreeSurferColorLUT: white matter, its hypointensities, corpus callosum, unlabelled white matter
WHITE = (2, 41, 77, 78, 79, 251, 252, 253, 254, 255, 5001, 5002)
CORTEX = (3, 42)
# ctx-lh and ctx-rh of aparc+aseg and of aparc.a2009s+aseg, without the first, which is unknown
PARCELS = ((1001, 1999), (2001, 2999), (11101, 11999), (12101, 12999))
# of desc-layers_dseg
DRAWN_WHITE, DRAWN_CORTEX = 2, 3

Shares = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float64]]


def read_segmentation(path: Path) -> Shares:
    """White matter and cortex of a segmentation with FreeSurfer's numbers.

    Parameters
    ----------
    path : Path
        ``ribbon.mgz``, ``aseg.mgz``, ``aparc+aseg.mgz`` and the like, as NIfTI too.

    Returns
    -------
    wm, gm : (X, Y, Z) array of float32
        1 within and 0 elsewhere.
    affine : (4, 4) array
        Voxel indices to the world of the T1w, in mm.

    Raises
    ------
    DataError
        If it cannot be read or lacks white matter or cortex.
    """
    try:
        image: Any = nib.load(path, mmap=False)
        values = np.rint(np.asarray(image.dataobj)).astype(np.int32)
    except (ImageFileError, OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(
            f"{path}: cannot be read as a segmentation ({error}); expected .mgz or NIfTI; make or "
            "copy it again, or leave the dataset out of --derivatives"
        ) from error
    wm = np.isin(values, WHITE)
    gm = np.isin(values, CORTEX)
    for low, high in PARCELS:
        gm |= (values >= low) & (values <= high)
    return _checked(path, wm, gm, np.asarray(image.affine, np.float64), "2 and 41", "3 and 42")


def read_drawn(path: Path, image: ImageData) -> Shares:
    """White matter and cortex that somebody drew on the slab, carried on beyond its ends.

    Parameters
    ----------
    path : Path
        Fluid 1, white matter 2 and cortex 3, as ``desc-layers_dseg`` has them.
    image : ImageData
        The slab, slices along the third axis.

    Returns
    -------
    wm, gm : (X, Y, Z) array of float32
        1 within and 0 elsewhere, on the grid of the slab with a margin.
    affine : (4, 4) array
        Voxel indices to world, in mm.

    Raises
    ------
    DataError
        If it lies on another grid or lacks white matter or cortex.
    """
    labels = labels_on_grid(path, image)
    margins = np.ceil(LATTICE_MARGIN_MM / np.array(image.voxel_mm)).astype(int) + 1
    # what is not known beyond the slab is taken to go on, or else it would be a border
    padded = np.pad(labels, [(m, m) for m in margins.tolist()], mode="edge")
    affine = image.affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ margins
    return _checked(path, padded == DRAWN_WHITE, padded == DRAWN_CORTEX, affine, "2", "3")


def _checked(
    path: Path,
    wm: NDArray[np.bool_],
    gm: NDArray[np.bool_],
    affine: NDArray[np.float64],
    white: str,
    cortex: str,
) -> Shares:
    if wm.ndim != 3 or not wm.any() or not gm.any():
        raise DataError(
            f"{path}: {wm.shape} voxels, of which {np.count_nonzero(wm)} are white matter (labels "
            f"{white}) and {np.count_nonzero(gm)} cortex ({cortex}); both are needed, in 3D"
        )
    return wm.astype(np.float32), gm.astype(np.float32), affine
