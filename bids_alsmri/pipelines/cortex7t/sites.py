"""Which files readers drew on a slab."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bids_alsmri.bids.query import Scan, parse_name
from bids_alsmri.bids.stations import drawn_key, list_stations

KINDS = ("caliper", "caliper_table", "oval", "oval_table", "points")
MOST_READERS = 99


def has_phase(scan: Scan) -> bool:
    """Whether phase images of a slab lie beside its magnitudes.

    Parameters
    ----------
    scan : Scan
        The slab.

    Returns
    -------
    bool
        True where a file of the same name but for echo and part is a phase.
    """

    def told(path: Path) -> tuple[str, dict[str, str]] | None:
        name = parse_name(path.name)
        if name is None:
            return None
        return name.suffix, {k: v for k, v in name.entities.items() if k not in ("echo", "part")}

    return any(
        "_part-phase_" in other.name and told(other) == told(path)
        for path in scan.inputs["slab"][:1]
        for other in path.parent.glob("*.nii*")
    )


def drawn_ribbon(adopted: Mapping[str, Path], scan: Scan) -> Path | None:
    """Ribbon that the first reader drew on a slab.

    Parameters
    ----------
    adopted : mapping of Path
        Files of derivative datasets, by `drawn_key`.
    scan : Scan
        The slab.

    Returns
    -------
    Path or None
        Label image, or None where nobody drew one.
    """
    keys = [
        drawn_key("ribbon", station.key, reader)
        for reader in range(MOST_READERS)
        for station in list_stations(scan, "slab")
    ]
    return next((adopted[key] for key in keys if key in adopted), None)


def files_of_readers(adopted: Mapping[str, Path], scan: Scan) -> list[dict[str, Path]]:
    """Files that readers drew on a slab.

    Parameters
    ----------
    adopted : mapping of Path
        Files of derivative datasets, by `drawn_key`.
    scan : Scan
        The slab.

    Returns
    -------
    list of dict
        For each reader, files by output; readers who drew neither lines nor ovals are left out.
    """
    stations = list_stations(scan, "slab")
    found = []
    for reader in range(MOST_READERS):
        files = {
            kind: adopted[drawn_key(kind, station.key, reader)]
            for station in stations
            for kind in KINDS
            if drawn_key(kind, station.key, reader) in adopted
        }
        if files:
            found.append(files)
    return found
