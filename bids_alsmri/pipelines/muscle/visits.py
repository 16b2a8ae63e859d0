"""Images of the first visit, which are shown beside those of a later one."""

from __future__ import annotations

import re
from pathlib import Path

from bids_alsmri.bids.query import Scan


def images_of_first_visit(scan: Scan) -> list[Path]:
    """Images of a participant's first visit that are shown beside those of a later one.

    Parameters
    ----------
    scan : Scan
        Participant and session.

    Returns
    -------
    list of Path
        Of the same names but for the session; empty at the first visit.
    """
    images = [path for paths in scan.inputs.values() for path in paths if path.suffix == ".gz"]
    found = [at_first_visit(path, scan.session) for path in images]
    return [visit[1] for visit in found if visit is not None]


def at_first_visit(path: Path, own: str | None) -> tuple[str, Path] | None:
    """Session and image of the first visit.

    Parameters
    ----------
    path : Path
        Image of a later visit, in the folders of BIDS.
    own : str or None
        Session of that visit; None where there are no sessions.

    Returns
    -------
    session : str
        The earliest with an image of the same name.
    image : Path
        That image. None in place of both where this is the first visit.
    """
    if own is None:
        return None
    # sub-01/ses-m12/anat/sub-01_ses-m12_T2w.nii.gz
    folders = path.parents[2].glob("ses-*")
    names = sorted((f.name.removeprefix("ses-") for f in folders), key=_by_number)
    for session in names[: names.index(own)] if own in names else []:
        name = path.name.replace(f"_ses-{own}_", f"_ses-{session}_")
        found = path.parents[2] / f"ses-{session}" / path.parent.name / name
        if found.is_file():
            return session, found
    return None


def _by_number(label: str) -> list[tuple[int, str]]:
    """Labels in the order that people expect: m4 before m12."""
    parts = re.findall(r"\d+|\D+", label)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]
