"""Results of other programs (sMRIPrep, fMRIPrep) that are taken over from ``--derivatives``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bids_alsmri.bids.query import Scan, find_derivative, open_layout
from bids_alsmri.bids.spec import InputSpec, OutputSpec, fill
from bids_alsmri.bids.stations import drawn_key, find_of_station, list_stations
from bids_alsmri.engine.pipeline import Pipeline

if TYPE_CHECKING:
    from bids import BIDSLayout


def open_derivatives(
    derivatives: Mapping[str, Path], participants: tuple[str, ...]
) -> dict[str, BIDSLayout]:
    """Index of each derivative dataset, for the chosen participants.

    Parameters
    ----------
    derivatives : mapping of Path
        Folder by the name that the user gave it.
    participants : tuple of str
        Labels, without ``sub-``.

    Returns
    -------
    dict of BIDSLayout
        By the same names.
    """
    return {
        name: open_layout(path, participants, database_dir=None)
        for name, path in derivatives.items()
    }


def find_adopted(
    layouts: Mapping[str, BIDSLayout],
    pipeline: Pipeline,
    scan: Scan,
    values: Mapping[str, str],
) -> dict[str, Path]:
    """Files that take the place of a pipeline's own fits.

    Parameters
    ----------
    layouts : mapping of BIDSLayout
        Derivative datasets; the first that holds a whole group gives it.
    pipeline : Pipeline
        Its ``adopts`` are groups of outputs that only make sense together. A later group is
        taken from the dataset of the first, or not at all: transforms belong to their image.
    scan : Scan
        Whose results are sought.
    values : mapping of str
        What fills the placeholders of the outputs' names.

    Returns
    -------
    dict of Path
        File by the name of the output; empty where nothing is adopted.

    Raises
    ------
    DataError
        If several files of one dataset fit, or one is not fetched.
    """
    for layout in layouts.values():
        found: dict[str, Path] = {}
        for group in pipeline.adopts:
            files = {
                name: find_derivative(
                    layout,
                    scan.participant,
                    scan.session,
                    wanted(pipeline.io_spec.outputs[name], values),
                    scan.entities,
                )
                for name in group
            }
            if any(path is None for path in files.values()):
                break
            found.update({name: path for name, path in files.items() if path is not None})
        if found:
            return found
    return {}


def find_drawn(
    layouts: Mapping[str, BIDSLayout], pipeline: Pipeline, scan: Scan
) -> dict[str, Path]:
    """Files that people, or other programs, drew on the stations of a scan.

    Parameters
    ----------
    layouts : mapping of BIDSLayout
        Derivative datasets; each that has such files is a reader.
    pipeline : Pipeline
        Its ``drawn`` are the outputs that may be drawn.
    scan : Scan
        Whose stations.

    Returns
    -------
    dict of Path
        By :func:`drawn_key`.

    Raises
    ------
    DataError
        If several files of one dataset fit, or one is not fetched.
    """
    found: dict[str, Path] = {}
    if not pipeline.drawn:
        return found
    stations = list_stations(scan, pipeline.primary)
    reader = 0
    for layout in layouts.values():
        own: dict[str, Path] = {}
        for station in stations:
            for name in pipeline.drawn:
                output = pipeline.io_spec.outputs[name]
                path = find_of_station(layout, scan, station, output)
                if path is not None:
                    own[drawn_key(name, station.key, reader)] = path
        if own:
            found.update(own)
            reader += 1
    return found


def find_foreign(
    layouts: Mapping[str, BIDSLayout], pipeline: Pipeline, scan: Scan
) -> dict[str, Path]:
    """Files of other programs that stand for none of a pipeline's outputs.

    Parameters
    ----------
    layouts : mapping of BIDSLayout
        Derivative datasets; the first that has any gives them.
    pipeline : Pipeline
        Its ``foreign`` knows their names.
    scan : Scan
        Whose.

    Returns
    -------
    dict of Path
        By the name that the pipeline gives them; empty where there are none.
    """
    for layout in layouts.values():
        found = pipeline.foreign(Path(layout.root), scan.participant, scan.session)
        if found:
            return found
    return {}


def wanted(output: OutputSpec, values: Mapping[str, str]) -> InputSpec:
    """What a file of another program must look like to stand for an output of ours.

    Parameters
    ----------
    output : OutputSpec
        Our output.
    values : mapping of str
        What fills the placeholders of its name.

    Returns
    -------
    InputSpec
        The same suffix, folder and entities; no space and no resolution beyond those.

    Examples
    --------
    >>> mask = OutputSpec("brain_mask", "anat", "mask", entities={"desc": "brain"})
    >>> wanted(mask, {}).absent
    ('space', 'res')
    """
    entities = {key: (fill(label, values),) for key, label in output.entities.items()}
    return InputSpec(
        name=output.name,
        suffixes=(output.suffix,),
        datatypes=(output.datatype,),
        extensions=(output.extension,),
        entities=entities,
        absent=tuple(key for key in ("space", "res") if key not in entities),
        description=output.description,
    )
