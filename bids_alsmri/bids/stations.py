"""Stations of a scan: its files part by part of the body, and what others have drawn on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bids_alsmri.bids.query import Scan, find_derivative, parse_name
from bids_alsmri.bids.spec import InputSpec, OutputSpec, load_patterns, of_station
from bids_alsmri.errors import DataError

if TYPE_CHECKING:
    from bids.layout import BIDSLayout

# series of one station: separate ones without and with weighting differ in these
_OF_ONE_SERIES = ("dir", "run")
_ECHOES = ("echo", "part")
# several echoes of one place beside an image of one: labels of their name are those of the image
BESIDE_OTHERS = ("MEGRE", "MESE")


@dataclass(frozen=True)
class Station:
    """Images of one part of the body in one contrast.

    Parameters
    ----------
    suffix, datatype : str
        Contrast, such as T2w, and folder.
    entities : dict
        Of the files, short keys in the order of file names.
    files : tuple of Path
        One image, or the series of one diffusion station.
    """

    suffix: str
    datatype: str
    entities: Mapping[str, str]
    files: tuple[Path, ...]

    def __hash__(self) -> int:
        """Hash of what tells stations of a scan apart."""
        return hash((self.suffix, self.key))

    @property
    def key(self) -> str:
        """What tells it apart within a scan, such as ``anat_acq-legs_chunk-1``."""
        return "_".join([self.datatype, *(f"{k}-{v}" for k, v in self.entities.items())])

    @property
    def chunk(self) -> str:
        """Its index within its acquisition, or n/a."""
        return self.entities.get("chunk", "n/a")

    @property
    def acquisition(self) -> str:
        """Label of the acquisition that it is a part of, such as wholebody; empty for none."""
        return self.entities.get("acq", "")

    @property
    def title(self) -> str:
        """Name for people, such as ``acq-legs_chunk-1 T1w``."""
        return " ".join(["_".join(f"{k}-{v}" for k, v in self.entities.items()), self.suffix])


def list_stations(scan: Scan, input_name: str) -> tuple[Station, ...]:
    """Stations that the files of an input belong to.

    Parameters
    ----------
    scan : Scan
        Participant and session.
    input_name : str
        Input with the images of all stations.

    Returns
    -------
    tuple of Station
        By contrast, acquisition and chunk.

    Raises
    ------
    DataError
        If two contrasts have one name, so that labels and results could not be told apart. Echoes
        may have that of another contrast: labels of the name are those of the other.

    Examples
    --------
    >>> files = tuple(Path(f"anat/sub-01_acq-legs_chunk-{n}_T1w.nii.gz") for n in (2, 1))
    >>> scan = Scan("muscle", "01", None, {}, {"stations": files}, {})
    >>> [station.title for station in list_stations(scan, "stations")]
    ['acq-legs_chunk-1 T1w', 'acq-legs_chunk-2 T1w']
    """
    groups: dict[tuple[str, str, tuple[tuple[str, str], ...]], list[Path]] = {}
    for path in scan.inputs.get(input_name, ()):
        name = parse_name(path.name)
        if name is None:
            continue
        left_out = {"sub", "ses", *(_OF_ONE_SERIES if name.suffix == "dwi" else _ECHOES)}
        entities = tuple(
            (key, name.entities[key])
            for key in load_patterns().entities
            if key in name.entities and key not in left_out
        )
        groups.setdefault((path.parent.name, name.suffix, entities), []).append(path)
    stations = [
        Station(suffix, datatype, dict(entities), tuple(sorted(paths)))
        for (datatype, suffix, entities), paths in groups.items()
    ]
    seen: dict[str, Station] = {}
    for station in stations:
        if station.suffix in BESIDE_OTHERS:
            continue
        other = seen.setdefault(station.key, station)
        if other is not station:
            raise DataError(
                f"{other.files[0].name} and {station.files[0].name}: two contrasts under one name; "
                "labels of muscles could belong to either; give them different acq- labels or "
                "leave one out with --bids-filter-file"
            )
    return tuple(sorted(stations, key=_place))


def _place(station: Station) -> tuple[str, str, int, str]:
    chunk = station.entities.get("chunk", "0")
    return station.suffix, station.acquisition, int(chunk) if chunk.isdigit() else 0, station.key


def drawn_key(name: str, station: str, reader: int) -> str:
    """Name under which a drawn file is kept among those that are adopted.

    Parameters
    ----------
    name : str
        Output.
    station : str
        Key of the station.
    reader : int
        Number of the dataset among those that have any, from 0.

    Returns
    -------
    str
        Of the first reader, as our own output would be kept.

    Examples
    --------
    >>> drawn_key("labels", "dwi_chunk-1", 0), drawn_key("labels", "dwi_chunk-1", 1)
    ('labels@dwi_chunk-1', 'labels@dwi_chunk-1@1')
    """
    return of_station(name, station) if reader == 0 else f"{of_station(name, station)}@{reader}"


def find_of_station(
    layout: BIDSLayout, scan: Scan, station: Station, output: OutputSpec
) -> Path | None:
    """File of a derivative dataset that belongs to a station.

    Parameters
    ----------
    layout : bids.layout.BIDSLayout
        Of the derivative dataset.
    scan : Scan
        Participant and session.
    station : Station
        Its station.
    output : OutputSpec
        What it would be called if it were ours.

    Returns
    -------
    Path or None
        The file, or None where there is none.

    Raises
    ------
    DataError
        If several fit, or the one that fits is empty or not fetched.
    """
    own = {key: (label,) for key, label in {**station.entities, **output.entities}.items()}
    wanted = InputSpec(
        name=output.name,
        suffixes=(output.suffix,),
        datatypes=(station.datatype,),
        extensions=(output.extension,),
        entities=own,
        absent=tuple(key for key in ("space", "res", "chunk", "run") if key not in own),
        description=output.description,
    )
    return find_derivative(layout, scan.participant, scan.session, wanted)
