"""Images between files and arrays, with every doubt about a file spoken out."""

from __future__ import annotations

import errno
import gzip
import math
import os
import shutil
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import DTypeLike, NDArray

from bids_alsmri.errors import AlsMriError, DataError, ExitCode, NumericsError, RunError
from bids_alsmri.interfaces.node import NO_SERIES, SeriesSize

# NIfTI-1 standard, nifti1.h: NIFTI_UNITS_* and NIFTI_XFORM_*.
_MM_PER_UNIT = {1: ("metres", 1000.0), 2: ("mm", 1.0), 3: ("microns", 0.001)}
_XFORM_CODES = {"scanner": 1, "aligned": 2, "mni152": 4}

# A sheared grid moves a point by this fraction of its distance: 0.1 mm at 100 mm.
_MAX_SHEAR_COSINE = 1e-3
# qform and sform may differ by rounding of float32 and of quaternions, not by more.
_MAX_FORM_GAP_VOXELS = 0.1
_VOXEL_RANGE_MM = (0.01, 50.0)
# The bore of a human scanner is 600 to 700 mm wide: no slice is that wide in both directions,
# but a mosaic of slices is.
_MAX_SLICE_EXTENT_MM = 600.0
_MIN_MOSAIC_VOXELS = 256

# Longest plausible value in seconds; a value in milliseconds lies far above.
_MAX_TIMES_S = {
    "EchoTime": 1.0,
    "EchoTime1": 1.0,
    "EchoTime2": 1.0,
    "RepetitionTime": 30.0,
    "RepetitionTimeExcitation": 5.0,
    "RepetitionTimePreparation": 30.0,
    "InversionTime": 10.0,
    "TotalReadoutTime": 2.0,
    "EffectiveEchoSpacing": 0.1,
    "SliceTiming": 30.0,
}


@dataclass(frozen=True)
class ImageData:
    """Values and geometry of an image.

    Parameters
    ----------
    data : (nx, ny, nz) or (nx, ny, nz, n_volumes) array
        Values, scaled as the header says.
    affine : (4, 4) array of float64
        Voxel indices to world millimetres (RAS+).
    voxel_mm : tuple of float
        Edge lengths of a voxel.
    path : Path
        Where it came from.
    warnings : tuple of str
        Doubts about the file, each naming it.
    """

    data: NDArray[np.floating[Any]]
    affine: NDArray[np.float64]
    voxel_mm: tuple[float, float, float]
    path: Path
    warnings: tuple[str, ...] = ()


def read_image(
    path: Path,
    *,
    ndim: Literal[3, 4] | None,
    nonfinite: Literal["refuse", "zero", "keep"] = "refuse",
    dtype: DTypeLike = np.float32,
) -> ImageData:
    """Values and geometry of a NIfTI image, checked.

    Parameters
    ----------
    path : Path
        A .nii or .nii.gz file.
    ndim : {3, 4} or None
        Number of axes that is due; None accepts both. Singleton axes after the third are
        dropped where one fewer is due.
    nonfinite : {"refuse", "zero", "keep"}
        What to do with NaN and infinite voxels.
    dtype : {float32, float64}
        Type of the values.

    Returns
    -------
    ImageData
        The image; values are scaled once, in float64, and rounded once to `dtype`.

    Raises
    ------
    DataError
        If the file cannot be used as it is; the message says why and what to do.

    Notes
    -----
    Follows the NIfTI-1 standard (nifti1.h, Cox et al. 2004): a slope of 0 means no scaling,
    and NaN is read so too; a set sform wins over the qform. Metres and microns become
    millimetres; unknown units are taken as millimetres.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "fa.nii.gz"
    ...     write_image(np.ones((2, 3, 4)), np.diag([2.0, 2.0, 2.0, 1.0]), path)
    ...     image = read_image(path, ndim=3)
    >>> image.data.shape, image.voxel_mm
    ((2, 3, 4), (2.0, 2.0, 2.0))
    """
    path = Path(path)
    warnings: list[str] = []
    image = _open(path)
    stored, slope, intercept = _stored_values(path, image)
    stored = _with_axes(path, stored, ndim, warnings)
    affine = _affine_mm(path, image.header, stored.shape, warnings)
    voxel_mm = _checked_voxels(path, affine)
    _refuse_mosaic(path, stored.shape, voxel_mm)
    data = _scaled(stored, slope, intercept, np.dtype(dtype))
    data = _checked_values(path, data, nonfinite, warnings)
    return ImageData(data, affine, voxel_mm, path, tuple(warnings))


def largest_series(inputs: Iterable[Sequence[Path]]) -> SeriesSize:
    """Size of the largest series among the inputs of a scan, from headers alone.

    Parameters
    ----------
    inputs : iterable of sequence of Path
        Files of each input; the images of one input are runs that may be joined.

    Returns
    -------
    SeriesSize
        Without images whose header cannot be read: the step that reads them says why.
    """
    sizes = [NO_SERIES]
    for paths in inputs:
        headers = [_header(path) for path in paths if path.name.endswith((".nii", ".nii.gz"))]
        shapes = [h.get_data_shape() for h in headers if h is not None]
        if shapes:
            zooms = next(h.get_zooms() for h in headers if h is not None)
            x, y, z = (abs(float(edge)) or 1.0 for edge in (*zooms, 1.0, 1.0)[:3])
            n_voxels = max(math.prod(shape[:3]) for shape in shapes)
            sizes.append(SeriesSize(n_voxels, sum(math.prod(s[3:]) for s in shapes), (x, y, z)))
    return max(sizes, key=lambda size: size.gb)


def _header(path: Path) -> Any:
    """Header of an image, or None where it cannot be read."""
    try:
        image: Any = nib.load(path)
    except (OSError, EOFError, ValueError, zlib.error, ImageFileError, HeaderDataError):
        return None
    return image.header


def _open(path: Path) -> Any:
    """Image with its header read and its data not yet."""
    if not path.exists():
        raise DataError(
            f"{path}: does not exist; expected a NIfTI image; restore or fetch it",
            exit_code=ExitCode.NO_INPUT,
        )
    if path.is_dir():
        raise DataError(
            f"{path}: is a folder; expected a NIfTI image; give the file that it may hold"
        )
    if path.stat().st_size == 0:
        raise DataError(f"{path}: holds 0 bytes; expected a NIfTI image; copy or convert it again")
    try:
        # Not mapped: the values are the caller's to change, and the file is not.
        image = nib.load(path, mmap=False)
    except (HeaderDataError, ValueError) as error:
        # Read with the header: a scale factor or a quaternion that is out of its range.
        raise DataError(
            f"{path}: the header is broken ({error}); expected a unit quaternion (qform) and a "
            "finite intercept; convert the DICOM files again"
        ) from error
    except (ImageFileError, OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path}: cannot be read as NIfTI ({error}); expected .nii or .nii.gz; "
            "copy or convert it again"
        ) from error
    if not isinstance(image, nib.Nifti1Image):
        raise DataError(
            f"{path}: is a {type(image).__name__}; expected NIfTI in one file (.nii, .nii.gz); "
            "convert it"
        )
    return image


def _stored_values(path: Path, image: Any) -> tuple[NDArray[Any], float, float]:
    """Values as they stand in the file, slope and intercept."""
    if image.get_data_dtype().kind not in "iuf":
        raise DataError(
            f"{path}: voxels are of type {image.get_data_dtype()}; expected real numbers; convert "
            "complex images to magnitude, colour images to one channel"
        )
    try:
        stored = np.asarray(image.dataobj.get_unscaled())
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise DataError(
            f"{path}: the voxels cannot be read ({error}); the header promises {image.shape} of "
            f"{image.get_data_dtype()}; the file is truncated or damaged; copy or convert it again"
        ) from error
    return stored, float(image.dataobj.slope), float(image.dataobj.inter)


def _with_axes(
    path: Path, stored: NDArray[Any], ndim: int | None, warnings: list[str]
) -> NDArray[Any]:
    """Values with the number of axes that is due."""
    shape = stored.shape
    if len(shape) < 3 or 0 in shape:
        raise DataError(
            f"{path}: has shape {shape}; expected at least three axes of at least one voxel; "
            "convert it again"
        )
    # A vector of volumes (NIfTI's fifth axis) is a 4D image with an empty fourth axis.
    kept = list(shape[:3]) + [length for length in shape[3:] if length > 1]
    if ndim == 4 and len(kept) == 3 and len(shape) > 3:
        kept.append(1)
    wanted = ndim or (len(kept) if len(kept) in (3, 4) else 4)
    if len(kept) != wanted:
        found = "one volume" if len(kept) == 3 else f"{int(np.prod(kept[3:]))} volumes"
        due = "a series of volumes (4D)" if wanted == 4 else "one volume (3D)"
        raise DataError(
            f"{path}: has shape {shape}, that is {found}; expected {due}; "
            "check which series was converted"
        )
    if tuple(kept) != shape:
        warnings.append(f"{path}: axes of length 1 dropped, {shape} read as {tuple(kept)}")
    return stored.reshape(kept, order="F")


def _affine_mm(
    path: Path, header: Any, shape: Sequence[int], warnings: list[str]
) -> NDArray[np.float64]:
    """Affine in millimetres, from sform or qform."""
    sform, qform = _forms(path, header, warnings)
    if sform is not None and qform is not None:
        gap_voxels = _largest_gap(sform, qform, shape)
        if gap_voxels > _MAX_FORM_GAP_VOXELS:
            warnings.append(
                f"{path}: qform and sform disagree by up to {gap_voxels:.2g} voxels; the sform is "
                "used; if left and right or the position look wrong, correct the header"
            )
    affine = sform if sform is not None else qform
    if affine is None:
        raise DataError(
            f"{path}: neither qform nor sform is set (both codes are 0), so orientation and left "
            "and right are unknown; expected at least one; convert the DICOM files again or set "
            "the header from a trusted image of the same series"
        )
    if not np.isfinite(affine).all():
        raise DataError(
            f"{path}: the affine holds NaN or infinity; expected numbers; convert again"
        )
    code = int(header["xyzt_units"]) & 0x07
    if code not in _MM_PER_UNIT:
        warnings.append(f"{path}: voxel units are not given (xyzt_units code {code}); mm assumed")
    name, factor = _MM_PER_UNIT.get(code, ("unknown", 1.0))
    if factor != 1.0:
        warnings.append(f"{path}: voxel units are {name}; converted to mm")
        affine = np.diag([factor, factor, factor, 1.0]) @ affine
    return np.asarray(affine, dtype=np.float64)


def _forms(
    path: Path, header: Any, warnings: list[str]
) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None]:
    """Affines of sform and qform; None where their code is 0 or the quaternion is broken."""
    sform = header.get_sform() if int(header["sform_code"]) > 0 else None
    if int(header["qform_code"]) <= 0:
        return sform, None
    try:
        return sform, header.get_qform()
    except (HeaderDataError, ValueError) as error:
        # Only with a set sform: nibabel refuses to open the file otherwise.
        warnings.append(f"{path}: the qform is broken ({error}); the sform is used")
        return sform, None


def _largest_gap(
    first: NDArray[np.float64], second: NDArray[np.float64], shape: Sequence[int]
) -> float:
    """Largest distance between the corners of two grids, in voxels of the first."""
    ends = np.array([[0, length - 1] for length in shape[:3]])
    corners = np.array(np.meshgrid(*ends)).reshape(3, -1)
    homogeneous = np.vstack([corners, np.ones(corners.shape[1])])
    gaps_mm = np.linalg.norm(((first - second) @ homogeneous)[:3], axis=0)
    edges_mm = np.linalg.norm(first[:3, :3], axis=0)
    smallest_mm = edges_mm.min()
    return float(gaps_mm.max() / smallest_mm) if smallest_mm > 0 else float("inf")


def _checked_voxels(path: Path, affine: NDArray[np.float64]) -> tuple[float, float, float]:
    """Edge lengths of a voxel, from an affine that is a rotation times those lengths."""
    edges_mm = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.all(edges_mm > 0) or abs(np.linalg.det(affine[:3, :3] / edges_mm)) < 1e-6:
        raise DataError(
            f"{path}: the affine cannot be inverted (column lengths {_listed(edges_mm)} mm); "
            "expected three independent axes; convert the DICOM files again"
        )
    low_mm, high_mm = _VOXEL_RANGE_MM
    if np.any(edges_mm < low_mm) or np.any(edges_mm > high_mm):
        raise DataError(
            f"{path}: voxels measure {_listed(edges_mm)} mm; expected {low_mm:g} to {high_mm:g}; "
            "the units of the header (xyzt_units) or its affine are wrong; correct them"
        )
    axes = affine[:3, :3] / edges_mm
    cosine = float(np.abs(axes.T @ axes - np.eye(3)).max())
    if cosine > _MAX_SHEAR_COSINE:
        angle_deg = 90.0 - float(np.degrees(np.arccos(min(cosine, 1.0))))
        raise DataError(
            f"{path}: two axes of the affine are {angle_deg:.2f} deg off a right angle (shear); "
            "expected a rotation and voxel sizes only; resample the image to a regular grid"
        )
    return (float(edges_mm[0]), float(edges_mm[1]), float(edges_mm[2]))


def _listed(values: NDArray[np.float64]) -> str:
    """Numbers for a message."""
    return " x ".join(f"{value:.4g}" for value in values)


def _refuse_mosaic(path: Path, shape: Sequence[int], voxel_mm: Sequence[float]) -> None:
    """Raise where slices seem to lie side by side in one plane."""
    extents_mm = (shape[0] * voxel_mm[0], shape[1] * voxel_mm[1])
    is_wide = min(extents_mm) > _MAX_SLICE_EXTENT_MM
    is_flat = shape[2] == 1 and min(shape[:2]) >= _MIN_MOSAIC_VOXELS
    if is_wide or is_flat:
        raise DataError(
            f"{path}: {shape[2]} slice(s) of {shape[0]} x {shape[1]} voxels, {extents_mm[0]:.0f} x "
            f"{extents_mm[1]:.0f} mm; this looks like a Siemens mosaic left as 2D tiles; expected "
            "a volume of slices; convert the DICOM files with dcm2niix, which unpacks mosaics"
        )


def _scaled(
    stored: NDArray[Any], slope: float, intercept: float, dtype: np.dtype[Any]
) -> NDArray[np.floating[Any]]:
    """Scaled values; volume by volume, since float64 of a whole series is large."""
    if slope == 1.0 and intercept == 0.0:
        return np.require(stored, dtype=dtype, requirements="W")
    data = np.empty(stored.shape, dtype=dtype, order="F")
    if stored.ndim == 3:
        data[...] = stored.astype(np.float64) * slope + intercept
        return data
    for index in range(stored.shape[3]):
        data[..., index] = stored[..., index].astype(np.float64) * slope + intercept
    return data


def _checked_values(
    path: Path,
    data: NDArray[np.floating[Any]],
    nonfinite: Literal["refuse", "zero", "keep"],
    warnings: list[str],
) -> NDArray[np.floating[Any]]:
    """Values without NaN, unless they are to be kept, and with something in them."""
    is_finite = np.isfinite(data)
    n_bad = data.size - int(np.count_nonzero(is_finite))
    if n_bad:
        share = f"{n_bad} of {data.size} voxels are NaN or infinite"
        if n_bad == data.size:
            raise DataError(f"{path}: {share}; expected numbers; convert or make it again")
        if nonfinite == "refuse":
            raise DataError(
                f"{path}: {share}; expected numbers; convert the image again or set them to 0"
            )
        warnings.append(f"{path}: {share}" + ("; set to 0" if nonfinite == "zero" else "; kept"))
        if nonfinite == "zero":
            data[~is_finite] = 0.0
    if not np.any(data):
        raise DataError(
            f"{path}: all {data.size} voxels are 0; expected an image; convert it again or leave "
            "the scan out"
        )
    return data


def write_image(
    array: NDArray[Any],
    like_affine: NDArray[np.float64],
    path: Path,
    *,
    space: Literal["scanner", "aligned", "mni152"] = "scanner",
) -> None:
    """Write an array as NIfTI with a full header, byte for byte the same each time.

    Parameters
    ----------
    array : (nx, ny, nz, ...) array
        Floating values become float32, truth values uint8, integers uint8 or int16.
    like_affine : (4, 4) array
        Voxel indices to world millimetres, without shear.
    path : Path
        Ending in .nii or .nii.gz.
    space : {"scanner", "aligned", "mni152"}
        What world coordinates mean: those of the scanner, of another image, of MNI space.

    Raises
    ------
    NumericsError
        If integers do not fit int16, or values overflow float32.
    DataError
        If the affine is sheared or cannot be inverted.
    RunError
        If the disk is full or the folder cannot be written, with exit code 73.

    Notes
    -----
    The gzip header has no time and no name, so that equal voxels give equal bytes.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "mask.nii.gz"
    ...     write_image(np.ones((2, 2, 2), dtype=bool), np.eye(4), path)
    ...     nib.load(path).get_data_dtype()
    dtype('uint8')
    """
    path = Path(path)
    affine = np.asarray(like_affine, dtype=np.float64)
    _checked_voxels(path, affine)
    values = _storable(path, np.asarray(array))
    image_type: Any = nib.Nifti1Image
    # Given the affine, nibabel would set the sform code to 2 (aligned) whatever the space is.
    image = image_type(values, None)
    image.header.set_data_dtype(values.dtype)
    code = _XFORM_CODES[space]
    image.set_qform(affine, code)
    image.set_sform(affine, code)
    image.header.set_xyzt_units("mm", "sec" if values.ndim > 3 else "unknown")
    try:
        with path.open("wb") as stream:
            if path.name.endswith(".gz"):
                with _packed(stream) as packed:
                    image.to_stream(packed)
            else:
                image.to_stream(stream)
    except OSError as error:
        full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        remedy = "free space there" if full else "make the folder writable"
        raise RunError(
            f"{path}: cannot be written ({os.strerror(error.errno or 0)}); {remedy} or choose "
            "another work or output folder",
            exit_code=ExitCode.CANNOT_WRITE,
        ) from error


def _packed(stream: BinaryIO) -> gzip.GzipFile:
    """Stream whose content ends up in another one, compressed."""
    # Level 1: five times as fast as 6 for a few percent of size on noisy images.
    return gzip.GzipFile("", "wb", 1, stream, mtime=0)


def pack(source: Path, destination: Path) -> None:
    """Compress a file, byte for byte the same each time.

    Parameters
    ----------
    source : Path
        File to read, in pieces.
    destination : Path
        File to write, in gzip form without time and name.

    Raises
    ------
    OSError
        If a file cannot be read or written; the caller knows what to say of it.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "dwi.nii"
    ...     write_image(np.ones((2, 3, 4, 5)), np.eye(4), path)
    ...     pack(path, path.with_suffix(".nii.gz"))
    ...     read_image(path.with_suffix(".nii.gz"), ndim=4).data.sum()
    np.float32(120.0)
    """
    with source.open("rb") as plain, destination.open("wb") as stream, _packed(stream) as packed:
        shutil.copyfileobj(plain, packed, 1 << 20)


def _storable(path: Path, array: NDArray[Any]) -> NDArray[Any]:
    """Array in the type in which it is stored."""
    if array.dtype.kind == "b":
        return array.astype(np.uint8)
    if array.dtype.kind in "iu":
        low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
        for kind in (np.uint8, np.int16):
            limits = np.iinfo(kind)
            if limits.min <= low and high <= limits.max:
                return array.astype(kind)
        raise NumericsError(
            f"{path}: labels run from {low} to {high}; int16 holds -32768 to 32767; renumber them"
        )
    if array.dtype.kind != "f":
        raise NumericsError(f"{path}: cannot store {array.dtype}; give real numbers")
    with np.errstate(over="ignore"):
        values = array.astype(np.float32)
    if np.count_nonzero(np.isinf(values)) > np.count_nonzero(np.isinf(array)):
        raise NumericsError(f"{path}: values exceed the range of float32 (3.4e38); rescale them")
    return values


def require_keys(metadata: Mapping[str, Any], keys: Mapping[str, str], path: Path) -> None:
    """Raise where the sidecar of an image lacks a key.

    Parameters
    ----------
    metadata : dict
        Merged sidecar.
    keys : dict
        Unit or meaning of each key that is needed, for the message.
    path : Path
        The image.

    Raises
    ------
    DataError
        If a key is missing or null; the message names all that are.

    Examples
    --------
    >>> require_keys({"EchoTime": 0.08}, {"EchoTime": "s"}, Path("sub-01_dwi.nii.gz"))
    """
    missing = [f"{key} ({unit})" for key, unit in keys.items() if metadata.get(key) is None]
    if missing:
        raise DataError(
            f"{path}: sidecar lacks {', '.join(missing)}; add it to the JSON file beside the image "
            "or above it, or leave the scan out"
        )


def check_times(metadata: Mapping[str, Any], path: Path) -> None:
    """Raise where a time in the sidecar of an image is not in seconds.

    Parameters
    ----------
    metadata : dict
        Merged sidecar; keys that are absent are not required here.
    path : Path
        The image.

    Raises
    ------
    DataError
        If a time is no number, not positive, or so long that it must be in milliseconds.

    Notes
    -----
    BIDS gives all times in seconds; the limits are several times the longest used in humans.

    Examples
    --------
    >>> check_times({"EchoTime": 0.068, "RepetitionTime": 3.5}, Path("sub-01_dwi.nii.gz"))
    """
    for key, longest_s in _MAX_TIMES_S.items():
        if metadata.get(key) is None:
            continue
        value = metadata[key]
        for time in value if isinstance(value, list) else [value]:
            _check_time(path, key, time, longest_s)


def _check_time(path: Path, key: str, time: Any, longest_s: float) -> None:
    """Raise where one time is not in seconds."""
    if isinstance(time, bool) or not isinstance(time, int | float) or not np.isfinite(time):
        raise DataError(f"{path}: {key} is {time!r}; expected a number in s; correct the sidecar")
    # The first slice starts at 0, or by rounding a little before.
    if time <= 0 and key != "SliceTiming":
        raise DataError(f"{path}: {key} is {time:g} s; expected more than 0; correct the sidecar")
    if time > longest_s:
        raise DataError(
            f"{path}: {key} is {time:g}; expected seconds, at most {longest_s:g}; it seems to be "
            f"in milliseconds: write {time / 1000:g} in the sidecar"
        )


@contextmanager
def concerning(*paths: Path) -> Iterator[None]:
    """Add the files to errors raised inside, for functions that know only arrays.

    Parameters
    ----------
    *paths : Path
        The files whose values are being worked on.

    Yields
    ------
    None
        Nothing.

    Examples
    --------
    >>> try:
    ...     with concerning(Path("sub-01_dwi.nii.gz")):
    ...         raise NumericsError("signal has 8 volumes; give 9")
    ... except NumericsError as error:
    ...     error.__notes__
    ['(in sub-01_dwi.nii.gz)']
    """
    try:
        yield
    except AlsMriError as error:
        # between brackets: notes follow the message on one line, which ends with what to do
        error.add_note(f"(in {', '.join(str(path) for path in paths)})")
        raise
