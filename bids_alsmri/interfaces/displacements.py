"""Displacement fields between arrays and ITK's files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bids_alsmri.errors import DataError

# ITK's world is left-posterior-superior, NIfTI's right-anterior-superior.
_LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])


def read_displacement(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Displacements of an ITK field along world axes, and the affine of its grid.

    Parameters
    ----------
    path : Path
        NIfTI of shape (X, Y, Z, 1, 3), left-posterior-superior, in mm, as `compose_to_field`
        writes it.

    Returns
    -------
    displacement_mm : (X, Y, Z, 3) array
        Right, anterior and superior displacement, in mm.
    affine : (4, 4) array
        Voxel indices to world, in mm.

    Raises
    ------
    DataError
        If the file has another shape.
    """
    import nibabel as nib

    image: Any = nib.load(path)
    shape = image.shape
    if len(shape) != 5 or shape[3:] != (1, 3):
        raise DataError(
            f"{path}: has shape {shape}; expected (X, Y, Z, 1, 3), a displacement field; give one "
            "that ANTs wrote"
        )
    values = np.asarray(image.dataobj, dtype=np.float64).reshape(*shape[:3], 3)
    return values * _LPS_TO_RAS, np.asarray(image.affine, dtype=np.float64)


def write_displacement(
    displacement_mm: NDArray[np.floating], affine: NDArray[np.float64], path: Path
) -> Path:
    """Displacement field written as a transform that ITK reads.

    Parameters
    ----------
    displacement_mm : (X, Y, Z, 3) array
        Right, anterior and superior displacement, in mm: a transform of images pulls, so it leads
        from a place in the output to the place whose value it gets.
    affine : (4, 4) array
        Voxel indices to world, in mm.
    path : Path
        Ending in .nii.

    Returns
    -------
    Path
        `path`.
    """
    import nibabel as nib

    field = np.asarray(displacement_mm, dtype=np.float64) * _LPS_TO_RAS
    image: Any = nib.Nifti1Image(field[:, :, :, np.newaxis].astype(np.float32), affine)
    # ITK takes five axes for a vector image only with this intent
    image.header.set_intent("vector")
    image.header.set_xyzt_units("mm")
    image.to_filename(path)
    return path
