"""What a sidecar says of the fat of an image: in phase or not, suppressed, or a part of Dixon's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from bids_alsmri.numerics.fatty_replacement import fat_phase_cosine

# words of ImageType (DICOM's and the vendors' own) and of the entity rec, by what they mean
_WORDS: Mapping[str, tuple[str, ...]] = {
    "opposed": (
        *("OPP_PHASE", "OUT_PHASE", "OPPOSED", "OPPOSED_PHASE", "OUTPHASE", "OUTOFPHASE", "OUT"),
        *("OUT_OF_PHASE", "OPP", "OP"),
    ),
    "inphase": ("IN_PHASE", "INPHASE", "IN", "IP"),
    "water": ("WATER", "W", "DIXON_WATER"),
    "fat": ("FAT", "F", "DIXON_FAT"),
}
# an echo in which fat points this far from or along water counts as opposed or in phase
_LEAST_COSINE = 0.7
_SUPPRESSED = ("FS", "FATSAT", "SPIR", "SPAIR", "STIR")


def part_of_dixon(label: str) -> str:
    """Which part of a Dixon acquisition a label means.

    Parameters
    ----------
    label : str
        Entity rec of a file, or one word of ImageType.

    Returns
    -------
    str
        water, fat, inphase or opposed; empty for none.

    Examples
    --------
    >>> part_of_dixon("water"), part_of_dixon("OPP_PHASE"), part_of_dixon("norm")
    ('water', 'opposed', '')
    """
    word = label.upper()
    return next((part for part, words in _WORDS.items() if word in words), "")


def phase_of_echo(metadata: Mapping[str, Any]) -> str:
    """Whether water and fat add in a gradient echo, from its time and the field.

    Parameters
    ----------
    metadata : mapping
        Sidecar with EchoTime (s) and MagneticFieldStrength (T).

    Returns
    -------
    str
        inphase, opposed, or empty where neither is clear or the sidecar does not tell.

    Examples
    --------
    >>> phase_of_echo({"EchoTime": 0.0012, "MagneticFieldStrength": 3})
    'opposed'
    >>> phase_of_echo({"EchoTime": 0.0024, "MagneticFieldStrength": 3})
    'inphase'
    """
    echo, tesla = metadata.get("EchoTime"), metadata.get("MagneticFieldStrength")
    if not isinstance(echo, int | float) or not isinstance(tesla, int | float):
        return ""
    cosine = fat_phase_cosine(1000.0 * echo, float(tesla))
    if abs(cosine) < _LEAST_COSINE:
        return ""
    return "inphase" if cosine > 0 else "opposed"


def doubt_of_fat(metadata: Mapping[str, Any]) -> str:
    """Why the brightness of an image says nothing of its fat, as far as its sidecar tells.

    Parameters
    ----------
    metadata : mapping
        Sidecar: ImageType, ScanOptions, ScanningSequence, EchoTime, MagneticFieldStrength.

    Returns
    -------
    str
        What was found, for a sentence; empty for nothing.

    Examples
    --------
    >>> doubt_of_fat({"ImageType": ["ORIGINAL", "PRIMARY", "M", "OPP_PHASE"]})
    'its ImageType has OPP_PHASE: water and fat are opposed'
    >>> doubt_of_fat({"ScanningSequence": "SE", "EchoTime": 0.012, "MagneticFieldStrength": 3})
    ''
    """
    for word in _words(metadata.get("ImageType")):
        part = part_of_dixon(word)
        if part == "opposed":
            return f"its ImageType has {word}: water and fat are opposed"
        if part in ("water", "fat"):
            return f"its ImageType has {word}: it shows {part} alone"
    for word in _words(metadata.get("ScanOptions")):
        if word.upper() in _SUPPRESSED:
            return f"its ScanOptions have {word}: fat was suppressed"
    sequence = [word.upper() for word in _words(metadata.get("ScanningSequence"))]
    if "GR" in sequence and "SE" not in sequence and phase_of_echo(metadata) == "opposed":
        return (
            f"it is a gradient echo of {1000 * metadata['EchoTime']:g} ms at "
            f"{metadata['MagneticFieldStrength']:g} T: water and fat are opposed"
        )
    return ""


def _words(value: Any) -> list[str]:
    """Words of a list, or of a text that the converter joined by its own mark."""
    if isinstance(value, list | tuple):
        return [str(part) for part in value]
    return [word for word in re.split(r"[\\_\s]+", str(value or "")) if word]
