"""What the stations of a session are called, and which files belong to them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bids_alsmri.bids.query import Scan, parse_name
from bids_alsmri.bids.stations import Station, drawn_key

DRAWN, CARRIED = "drawn", "drawn on the T2w, carried to the diffusion series"
FOUND = "compartments found by image processing"
FUSED = "multi-atlas segmentation"
_LABEL_END = "_desc-muscles_dseg"
# more people than this do not read one scan
_MOST_READERS = 8


@dataclass(frozen=True)
class Sites:
    """Stations of a session.

    Parameters
    ----------
    scan : Scan
        Participant and session.
    stations : tuple of Station
        Its stations.
    """

    scan: Scan
    stations: tuple[Station, ...]

    @property
    def metadata(self) -> list[dict[str, Any]]:
        """Sidecar of the first file of each station."""
        return [self.metadata_of(station)[0] for station in self.stations]

    def metadata_of(self, station: Station) -> list[dict[str, Any]]:
        """Sidecars of the files of a station."""
        return [dict(self.scan.metadata.get(path, {})) for path in station.files]

    @property
    def described(self) -> list[dict[str, Any]]:
        """What each station is, for the node that orders them."""
        return [
            {
                "key": station.key,
                "title": station.title,
                "chunk": station.chunk,
                "acquisition": station.acquisition,
                "suffix": station.suffix,
            }
            for station in self.stations
        ]

    def measured(
        self, stations: Iterable[Station], sources: Mapping[Station, str]
    ) -> list[dict[str, Any]]:
        """What stations are, for the node that measures them."""
        return [
            {
                "key": station.key,
                "title": station.title,
                "chunk": station.chunk,
                "suffix": station.suffix,
                "frame": self.frame_of(station),
                "source": sources[station],
            }
            for station in stations
        ]

    def frame_of(self, station: Station) -> str:
        """Frame of reference of a station: as its sidecar tells, else its acquisition."""
        uid = self.metadata_of(station)[0].get("FrameOfReferenceUID")
        return str(uid) if uid else f"acq-{station.acquisition}"

    def b_value_files(self, station: Station) -> list[Path]:
        """Files with the b-values of a diffusion station's series."""
        series = self.scan.inputs["station_series"]
        beside = dict(zip(series, self.scan.inputs["station_series_bval"], strict=True))
        return [beside[path] for path in station.files]

    def shown(self) -> list[Station]:
        """Stations of the overview: T2w of the whole body, or what there is in their place."""
        for suffix in ("T2w", "dwi", "T1w"):
            own = [s for s in self.stations if s.suffix == suffix]
            if own:
                frame = self.frame_of(own[0])
                return [s for s in own if self.frame_of(s) == frame]
        return []

    def shows_legs(self, station: Station) -> bool:
        """Whether compartments of legs can be looked for: a T1w of the legs."""
        return station.suffix == "T1w" and station.acquisition == "legs"

    def atlases_of(self, station: Station, folder: Path | None) -> list[tuple[Path, Path]]:
        """Labelled stations of other people that are of the same kind: images and labels."""
        if folder is None or station.suffix == "dwi":
            return []
        end = f"_{station.suffix}.nii.gz"
        # images may lie beside their labels, or labels in a derivative of the images' dataset
        images = {path.name: path for path in sorted(folder.rglob(f"*{end}"))}
        found = []
        for labels in sorted(folder.rglob(f"*{_LABEL_END}.nii.gz")):
            name = parse_name(labels.name)
            image = images.get(labels.name.replace(f"{_LABEL_END}.nii.gz", end))
            if image is None or name is None or name.entities.get("sub") == self.scan.participant:
                continue
            if all(name.entities.get(k) == station.entities.get(k) for k in ("acq", "chunk")):
                found.append((image, labels))
        return found

    def sources(
        self,
        labelled: Iterable[Station],
        fused: Iterable[Station],
        carried: Iterable[Station],
        found: Iterable[Station],
    ) -> dict[Station, str]:
        """Where the labels of stations come from, in the order of the stations."""
        by_source = {
            DRAWN: set(labelled),
            FUSED: set(fused),
            CARRIED: set(carried),
            FOUND: set(found),
        }
        return {
            station: source
            for station in self.stations
            for source, own in by_source.items()
            if station in own
        }


def readers_of(
    adopted: Mapping[str, Path], stations: Iterable[Station], name: str = "labels"
) -> dict[tuple[Station, int], dict[str, Path]]:
    """Files that were drawn on stations, by reader.

    Parameters
    ----------
    adopted : mapping of Path
        Files of derivative datasets, by `drawn_key`.
    stations : iterable of Station
        Their stations.
    name : str
        Output that a reader must have drawn.

    Returns
    -------
    dict of dict
        By station and number of the reader; files by output: labels, their table and bone.
    """
    found = {}
    for station in stations:
        for reader in range(_MOST_READERS):
            files = {
                kind: adopted[drawn_key(kind, station.key, reader)]
                for kind in ("labels", "labels_table", "bone")
                if drawn_key(kind, station.key, reader) in adopted
            }
            if name in files:
                found[station, reader] = files
    return found
