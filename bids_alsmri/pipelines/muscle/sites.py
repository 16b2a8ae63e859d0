"""What the stations of a session are called, and which files belong to them."""

from __future__ import annotations

import filecmp
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bids_alsmri.bids.query import Scan, parse_name
from bids_alsmri.bids.stations import BESIDE_OTHERS, Station, drawn_key
from bids_alsmri.pipelines.muscle.contrast import doubt_of_fat, part_of_dixon
from bids_alsmri.pipelines.muscle.visits import at_first_visit

DRAWN, CARRIED = "drawn", "drawn on the T2w, carried to the diffusion series"
LENT = "carried over from another station of the same frame of reference"
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
    def owners(self) -> tuple[Station, ...]:
        """Stations whose names are those of labels: of echoes, those that no other has."""
        rank = ("", *BESIDE_OTHERS)

        def order(station: Station) -> int:
            return rank.index(station.suffix if station.suffix in BESIDE_OTHERS else "")

        best: dict[str, Station] = {}
        for station in sorted(self.stations, key=order):
            best.setdefault(station.key, station)
        return tuple(s for s in self.stations if best[s.key] == s)

    def key_of(self, station: Station) -> str:
        """What tells a station apart within the session, echoes of one name too."""
        return station.key if station in self.owners else f"{station.key}_{station.suffix}"

    def image_of(self, station: Station) -> Path:
        """Image that stands for a station: of several echoes of a T2w the one of longest time."""
        if station.suffix != "T2w" or len(station.files) == 1:
            return station.files[0]
        times = [sidecar.get("EchoTime", 0) for sidecar in self.metadata_of(station)]
        return station.files[times.index(max(times))]

    def parts_of(self, station: Station) -> list[str]:
        """What the names of a station's files tell of water and fat; empty for nothing."""
        names = [parse_name(path.name) for path in station.files]
        return [part_of_dixon(name.entities.get("rec", "")) if name else "" for name in names]

    def is_dixon(self, station: Station) -> bool:
        """Whether water and fat of a station can be told apart."""
        if len(station.files) == 1:
            return False
        # echoes of a T1w are no pair unless their names say so
        return station.suffix == "MEGRE" or (
            station.suffix == "T1w" and all(self.parts_of(station))
        )

    def has_echoes(self, station: Station) -> bool:
        """Whether a relaxation time is fitted to a station."""
        return station.suffix == "MESE" or (station.suffix == "T2w" and len(station.files) > 1)

    def doubt_of(self, station: Station) -> str:
        """What name and sidecar of a station say against a fat fraction by its brightness."""
        part = self.parts_of(station)[0]
        if part in ("water", "fat", "opposed"):
            return f"it is named as the {part} image of a pair, whose other image is absent"
        return doubt_of_fat(self.metadata_of(station)[0])

    @property
    def described(self) -> list[dict[str, Any]]:
        """What each station is, for the node that orders them."""
        return [
            {
                "key": self.key_of(station),
                "title": station.title,
                "chunk": station.chunk,
                "acquisition": station.acquisition,
                # what is reconstructed of one acquisition lies at one place
                "suffix": f"{station.suffix} {station.entities.get('rec', '')}".strip(),
            }
            for station in self.stations
        ]

    def measured(
        self, stations: Iterable[Station], sources: Mapping[Station, str]
    ) -> list[dict[str, Any]]:
        """What stations are, for the node that measures them."""
        return [
            {
                "key": self.key_of(station),
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

    def first_visit(self, station: Station) -> tuple[str, Path] | None:
        """Session and image of a station at the first visit; None where this is the first."""
        return at_first_visit(self.image_of(station), self.scan.session)

    def shows_legs(self, station: Station) -> bool:
        """Whether compartments of legs can be looked for: a T1w of the legs."""
        return station.acquisition == "legs" and (station.suffix == "T1w" or self.is_dixon(station))

    def lenders(self, station: Station, labelled: Iterable[Station]) -> list[Station]:
        """Labelled stations whose labels a station without any can be given."""
        return [
            other
            for other in labelled
            if other.suffix != "dwi"
            and other != station
            and self.frame_of(other) == self.frame_of(station)
        ]

    def atlases_of(self, station: Station, folder: Path | None) -> list[tuple[Path, Path]]:
        """Labelled stations of other people that are of the same kind: images and labels."""
        if folder is None or station.suffix not in ("T1w", "T2w") or self.is_dixon(station):
            return []
        end = f"_{station.suffix}.nii.gz"
        # images may lie beside their labels, or labels in a derivative of the images' dataset
        images = {path.name: path for path in sorted(folder.rglob(f"*{end}"))}
        found = []
        for labels in sorted(folder.rglob(f"*{_LABEL_END}.nii.gz")):
            name = parse_name(labels.name)
            image = images.get(labels.name.replace(f"{_LABEL_END}.nii.gz", end))
            if image is None or name is None:
                continue
            is_alike = all(
                name.entities.get(k) == station.entities.get(k) for k in ("acq", "chunk")
            )
            if is_alike and not self._is_own(image, station):
                found.append((image, labels))
        return found

    def _is_own(self, image: Path, station: Station) -> bool:
        """Whether an image is the participant's: people of two datasets may share a label."""
        own = self.image_of(station)
        folder = next((f for f in own.parents if f.name == f"sub-{self.scan.participant}"), None)
        if folder is not None and folder.resolve() in image.resolve().parents:
            return True
        return filecmp.cmp(own, image, shallow=False)

    def sources(
        self,
        labelled: Iterable[Station],
        fused: Iterable[Station],
        carried: Iterable[Station],
        lent: Iterable[Station],
        found: Iterable[Station],
    ) -> dict[Station, str]:
        """Where the labels of stations come from, in the order of the stations."""
        by_source = {
            DRAWN: set(labelled),
            FUSED: set(fused),
            CARRIED: set(carried),
            LENT: set(lent),
            FOUND: set(found),
        }
        return {
            station: source
            for station in self.stations
            for source, own in by_source.items()
            if station in own
        }


def with_partners(stations: Sequence[Station]) -> tuple[Station, ...]:
    """Stations of which images of water and fat, or of two phases, are one station.

    Parameters
    ----------
    stations : sequence of Station
        As their names tell.

    Returns
    -------
    tuple of Station
        In their order; the water (or in-phase) image stands for its pair and has both files. An
        in-phase image beside water and fat is a station of its own, an opposed one is none.

    Examples
    --------
    >>> from pathlib import Path
    >>> pair = [Station("T1w", "anat", {"acq": "legs", "rec": rec}, (Path(f"{rec}_T1w.nii.gz"),))
    ...     for rec in ("fat", "water")]
    >>> [path.name for path in with_partners(pair)[0].files]
    ['water_T1w.nii.gz', 'fat_T1w.nii.gz']
    """
    groups: dict[tuple[str, tuple[tuple[str, str], ...]], dict[str, Station]] = {}
    for station in stations:
        part = part_of_dixon(station.entities.get("rec", ""))
        if part and station.suffix == "T1w":
            rest = tuple((k, v) for k, v in station.entities.items() if k != "rec")
            groups.setdefault((station.datatype, rest), {})[part] = station
    taken: dict[Station, Station | None] = {}
    for parts in groups.values():
        has_parts = "water" in parts and "fat" in parts
        names = ("water", "fat") if has_parts else ("inphase", "opposed")
        if names[0] in parts and names[1] in parts:
            first, second = parts[names[0]], parts[names[1]]
            taken[first] = replace(first, files=first.files + second.files)
            taken[second] = None
            if "opposed" in parts:
                taken[parts["opposed"]] = None
    kept = (taken.get(station, station) for station in stations)
    return tuple(station for station in kept if station is not None)


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
