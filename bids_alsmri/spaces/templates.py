"""Template images: embedded or from TemplateFlow, never from the network."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from bids_alsmri.errors import DataError, SettingsError

if TYPE_CHECKING:
    import nibabel as nib

EMBEDDED_TEMPLATE = "MNI152NLin2009aSym"

# The threshold on the embedded T1 (0 to 1) that nilearn's own brain mask uses by default.
_EMBEDDED_MASK_THRESHOLD = 0.2
_KINDS = ("t1w", "mask", "gm", "wm", "csf")


@dataclass(frozen=True)
class Template:
    """Images of one standard space on one grid.

    Parameters
    ----------
    name : str
        Name of the space as BIDS writes it after ``space-``.
    resolution_mm : float
        Voxel size in mm.
    t1w, mask : nibabel image
        Brain (skull-stripped), float32 and 0 outside the mask; mask, uint8.
    gm, wm, csf : nibabel image
        Probabilities of tissue, 0 to 1.
    origin : str
        Where the files came from.
    licence : str
        Under which they may be used.
    """

    name: str
    resolution_mm: float
    t1w: nib.Nifti1Image
    mask: nib.Nifti1Image
    gm: nib.Nifti1Image
    wm: nib.Nifti1Image
    csf: nib.Nifti1Image
    origin: str
    licence: str

    def save(self, folder: Path) -> dict[str, Path]:
        """Write the images into a folder.

        Parameters
        ----------
        folder : Path
            Existing folder.

        Returns
        -------
        dict of str to Path
            Files by "t1w", "mask", "gm", "wm", "csf".
        """
        paths = {kind: folder / f"tpl-{self.name}_{kind}.nii.gz" for kind in _KINDS}
        for kind, path in paths.items():
            getattr(self, kind).to_filename(path)
        return paths


def get_template(
    name: str, resolution_mm: float, *, environment: Mapping[str, str] | None = None
) -> Template:
    """Template of a name, from what this computer holds.

    Parameters
    ----------
    name : str
        "MNI152NLin2009aSym" (embedded), or a TemplateFlow name, such as FSL's
        "MNI152NLin6Asym", whose files are present in TEMPLATEFLOW_HOME.
    resolution_mm : float
        Isotropic voxel size in mm, 0.5 to 10.
    environment : mapping of str to str, optional
        In place of the process's environment variables.

    Returns
    -------
    Template
        Its images on one grid.

    Raises
    ------
    SettingsError
        If the resolution is out of range.
    DataError
        If no source on this computer holds the template.

    Examples
    --------
    >>> template = get_template("MNI152NLin2009aSym", 4.0)
    >>> template.t1w.shape == template.mask.shape == template.gm.shape
    True
    """
    if not 0.5 <= resolution_mm <= 10:
        raise SettingsError(
            f"resolution of the template is {resolution_mm:g} mm; it must lie from 0.5 to 10"
        )
    variables = os.environ if environment is None else environment
    if name == EMBEDDED_TEMPLATE:
        return _embedded(resolution_mm)
    return _from_files(name, resolution_mm, _found(name, variables))


def require_template(name: str, *, environment: Mapping[str, str] | None = None) -> None:
    """Raise where this computer holds no template of a name; reads no image.

    Parameters
    ----------
    name : str
        Name of the space.
    environment : mapping of str to str, optional
        In place of the process's environment variables.

    Raises
    ------
    DataError
        If no source on this computer holds the template.
    """
    if name != EMBEDDED_TEMPLATE:
        _found(name, os.environ if environment is None else environment)


def _found(name: str, variables: Mapping[str, str]) -> dict[str, Path]:
    """Files of a template in TemplateFlow's folder."""
    home = variables.get("TEMPLATEFLOW_HOME")
    folder = Path(home or ".") / f"tpl-{name}"
    missing = []
    for resolution in ("01", "02") if home and folder.is_dir() else ():
        start = f"tpl-{name}_res-{resolution}"
        paths = {
            "t1w": folder / f"{start}_T1w.nii.gz",
            "mask": folder / f"{start}_desc-brain_mask.nii.gz",
            "gm": folder / f"{start}_label-GM_probseg.nii.gz",
            "wm": folder / f"{start}_label-WM_probseg.nii.gz",
            "csf": folder / f"{start}_label-CSF_probseg.nii.gz",
        }
        # TemplateFlow leaves files of 0 bytes for what it has not fetched.
        absent = [p.name for p in paths.values() if not (p.is_file() and p.stat().st_size > 0)]
        if not absent:
            return paths
        missing.append(", ".join(absent))
    lacks = f": {folder} lacks, or holds empty, {' or '.join(missing)}" if missing else ""
    raise DataError(
        f"template {name}: no files for it on this computer{lacks}; expected "
        f"{EMBEDDED_TEMPLATE}, or a T1w, a brain mask and GM, WM and CSF probsegs under "
        f"TEMPLATEFLOW_HOME ({home or 'not set'}). Fetch them with templateflow where there is a "
        "network, or choose another with --template"
    )


def _embedded(resolution_mm: float) -> Template:
    (brain, affine), (gm, _), (wm, _) = (_embedded_map(kind) for kind in ("t1", "gm", "wm"))
    mask = _filled(brain > _EMBEDDED_MASK_THRESHOLD)
    tissue = [np.clip(image, 0, 1) * mask for image in (gm, wm)]
    # What in the brain is neither grey nor white; the source holds no map of its own.
    csf = np.clip(mask - tissue[0] - tissue[1], 0, 1)
    arrays = {"t1w": brain * mask, "mask": mask, "gm": tissue[0], "wm": tissue[1], "csf": csf}
    return _on_grid(
        EMBEDDED_TEMPLATE,
        resolution_mm,
        {kind: (np.asarray(a, dtype=np.float32), affine) for kind, a in arrays.items()},
        "ICBM 152 nonlinear symmetric 2009a, embedded in nilearn",
        "ICBM 152 licence (free use with its copyright notice)",
    )


def _embedded_map(kind: str) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Map that nilearn's package holds, scaled to a maximum of 1, and its affine."""
    import nibabel as nib
    import nilearn

    # as its function load_mni152_template does; nilearn.datasets takes 2 s to import
    folder = Path(nilearn.__file__).parent / "datasets" / "data"
    path = folder / f"mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz"
    if not path.is_file():
        raise DataError(
            f"{path}: missing, though nilearn {nilearn.__version__} is installed; "
            "install the version that constraints.txt names"
        )
    image: Any = nib.load(path)
    values = np.asarray(image.dataobj).astype(np.float32)
    values /= values.max()
    return values, image.affine


def _filled(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Largest part of a mask with its ventricles, which a threshold leaves out."""
    from scipy import ndimage

    box = _box(mask, 0)
    padded = np.pad(mask[box], 5)
    # closing by four steps and filling, as scipy's functions of those names in a tenth of the time
    wide = ndimage.distance_transform_cdt(~padded, metric="taxicab") <= 4
    closed = ndimage.distance_transform_cdt(wide, metric="taxicab") > 4
    outside, _ = ndimage.label(~closed)
    filled = (outside != outside[0, 0, 0])[5:-5, 5:-5, 5:-5]
    labels, _ = ndimage.label(filled)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    largest = np.zeros(mask.shape, dtype=np.bool_)
    largest[box] = labels == int(np.argmax(sizes))
    return largest


def _box(array: NDArray[Any], margin: int) -> tuple[slice, slice, slice]:
    """Smallest box around what is not 0, with a margin where the array has room for it."""
    ends = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        inside = np.flatnonzero(np.any(array, axis=others))
        low, high = (inside[0], inside[-1]) if len(inside) else (0, 0)
        ends.append(slice(max(int(low) - margin, 0), int(high) + margin + 1))
    return ends[0], ends[1], ends[2]


def _from_files(name: str, resolution_mm: float, paths: Mapping[str, Path]) -> Template:
    import nibabel as nib

    images: dict[str, Any] = {kind: nib.load(path) for kind, path in paths.items()}
    shape = images["t1w"].shape[:3]
    for kind, image in images.items():
        if image.shape[:3] != shape or not np.allclose(image.affine, images["t1w"].affine):
            raise DataError(
                f"{paths[kind]}: its grid {image.shape} differs from that of {paths['t1w']} "
                f"{shape}; fetch the files of the template again"
            )
    mask = np.asarray(images["mask"].dataobj, dtype=np.float32).reshape(shape) > 0.5
    arrays = {
        kind: (np.asarray(image.dataobj, dtype=np.float32).reshape(shape) * mask, image.affine)
        for kind, image in images.items()
    }
    origin = f"TemplateFlow, {paths['t1w'].parent}"
    licence = "see the template's template_description.json"
    return _on_grid(name, resolution_mm, arrays, origin, licence)


def _on_grid(
    name: str,
    resolution_mm: float,
    arrays: Mapping[str, tuple[NDArray[np.float32], NDArray[np.float64]]],
    origin: str,
    licence: str,
) -> Template:
    images = {}
    for kind, (array, affine) in arrays.items():
        values, grid = _resampled(array, affine, resolution_mm)
        images[kind] = _nifti((values > 0.5).astype(np.uint8) if kind == "mask" else values, grid)
    return Template(
        name=name,
        resolution_mm=resolution_mm,
        t1w=images["t1w"],
        mask=images["mask"],
        gm=images["gm"],
        wm=images["wm"],
        csf=images["csf"],
        origin=origin,
        licence=licence,
    )


def _nifti(values: NDArray[Any], grid: NDArray[np.float64]) -> nib.Nifti1Image:
    """Image in standard space, with both affines set and said to be so."""
    import nibabel as nib

    image: Any = nib.Nifti1Image(values, grid)
    image.header.set_xyzt_units("mm")
    image.set_sform(grid, code="mni")
    image.set_qform(grid, code="mni")
    return cast("nib.Nifti1Image", image)


def _resampled(
    array: NDArray[np.float32], affine: NDArray[np.float64], resolution_mm: float
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Array smoothed to and interpolated on voxels of another size; first voxel kept in place."""
    from scipy import ndimage

    voxel_mm = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    factor = resolution_mm / voxel_mm
    if np.allclose(factor, 1):
        return array, affine
    # Voxel sizes as full widths at half maximum of the point spread.
    sigma = np.sqrt(np.maximum(factor**2 - 1, 0)) / 2.355
    shape = tuple(int(n) for n in np.ceil(np.array(array.shape) / factor))
    # the filter reaches 4 sigma, so what lies farther from the brain stays 0
    box = _box(array, int(np.ceil(4 * sigma.max())) + 1)
    smooth = np.zeros_like(array)
    smooth[box] = ndimage.gaussian_filter(array[box], sigma)
    if np.array_equal(factor, np.round(factor)):
        values = smooth[tuple(slice(None, None, int(step)) for step in factor)]
    else:
        values = ndimage.affine_transform(smooth, np.diag(factor), output_shape=shape, order=1)
    grid = affine.copy()
    grid[:3, :3] = affine[:3, :3] * factor
    return np.asarray(values, dtype=np.float32), grid
