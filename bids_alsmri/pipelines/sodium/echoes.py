"""The one image of a sodium scan that concentrations are computed from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bids_alsmri.errors import DataError
from bids_alsmri.interfaces.base import ImageData, read_image


def first_echo(
    paths: Sequence[Path], metadata: Sequence[Mapping[str, Any]]
) -> tuple[ImageData, Mapping[str, Any], list[str]]:
    """Image of the shortest echo time, which has lost least to decay.

    Parameters
    ----------
    paths : sequence of Path
        Images of one scan.
    metadata : sequence of mapping
        Their sidecars.

    Returns
    -------
    image : ImageData
        The image.
    metadata : mapping
        Its sidecar.
    notes : list of str
        What was left out.

    Raises
    ------
    DataError
        If there are several images without echo times, or the image is no magnitude of a head.
    """
    index, notes = 0, []
    if len(paths) > 1:
        told = [sidecar.get("EchoTime") for sidecar in metadata]
        times = [float(time) for time in told if isinstance(time, int | float)]
        if len(set(times)) != len(paths):
            names = ", ".join(path.name for path in paths)
            raise DataError(
                f"{paths[0]}: {len(paths)} images belong to one scan ({names}) but their EchoTime "
                f"(s) are {told}; expected one each, all different; add them, or tell the images "
                "apart by acq-, rec- or run-"
            )
        index = int(np.argmin(times))
        notes.append(
            f"of {len(paths)} echoes the first, {1e3 * times[index]:g} ms, was used: "
            f"{paths[index].name}"
        )
    image = read_image(paths[index], ndim=3)
    lowest, highest = float(image.data.min()), float(image.data.max())
    if lowest < 0:
        raise DataError(
            f"{image.path}: values go down to {lowest:g}; expected a magnitude image, which is "
            "never negative; convert the magnitude, not real part, imaginary part or phase"
        )
    if lowest == highest:
        raise DataError(
            f"{image.path}: all {image.data.size} voxels are {lowest:g}; expected a head and "
            "reference tubes; convert it again or leave the scan out"
        )
    return image, metadata[index], notes
