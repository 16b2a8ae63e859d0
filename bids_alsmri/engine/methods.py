"""Methods text from a pipeline's methods.md and the settings that ran, with its references."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from bids_alsmri.engine.pipeline import Pipeline
from bids_alsmri.errors import SettingsError
from bids_alsmri.options import SettingsModel

_CITATION = re.compile(r"@([\w-]+)")


@dataclass(frozen=True)
class Work:
    """A work that a text cites.

    Parameters
    ----------
    key : str
        Key in ``data/references.json``.
    text : str
        Authors, year, title, journal.
    doi : str
        Digital object identifier, or empty.
    """

    key: str
    text: str
    doi: str


@cache
def references() -> Mapping[str, Work]:
    """Works that texts and settings may cite, from ``data/references.json`` (CSL-JSON).

    Returns
    -------
    mapping of Work
        By key.

    Examples
    --------
    >>> references()["smith2006"].doi
    '10.1016/j.neuroimage.2006.02.024'
    """
    text = resources.files("bids_alsmri.data").joinpath("references.json").read_text("utf-8")
    return {entry["id"]: _work(entry) for entry in json.loads(text)}


def _work(entry: Mapping[str, Any]) -> Work:
    names = [person["family"] + _initials(person) for person in entry["author"]]
    shown = ", ".join(names[:3]) + (", et al." if len(names) > 3 else "")
    year = entry["issued"]["date-parts"][0][0]
    where = entry.get("container-title") or entry.get("publisher", "")
    volume = " ".join(part for part in (entry.get("volume", ""), entry.get("page", "")) if part)
    text = f"{shown} ({year}). {entry['title']}. {where}{' ' + volume if volume else ''}."
    return Work(entry["id"], text, entry.get("DOI", ""))


def _initials(person: Mapping[str, str]) -> str:
    letters = "".join(part[0] for part in person.get("given", "").replace("-", " ").split())
    return f" {letters}" if letters else ""


def methods_text(pipeline: Pipeline, settings: SettingsModel, facts: Mapping[str, Any]) -> str:
    """Methods text of one pipeline, for the settings that ran.

    Parameters
    ----------
    pipeline : Pipeline
        Its ``methods.md`` is the template.
    settings : SettingsModel
        The settings that ran, as ``cfg`` in the template.
    facts : mapping
        What else the template may ask for, such as ``template`` and ``version``.

    Returns
    -------
    str
        Markdown with citations ``[@key]``.

    Raises
    ------
    SettingsError
        If the template asks for something that is not there, or cites an unknown work.
    """
    return render_methods(pipeline.folder / "methods.md", pipeline.name, settings, facts)


def render_methods(path: Path, name: str, settings: SettingsModel, facts: Mapping[str, Any]) -> str:
    """Methods text of a template, for the settings that ran.

    Parameters
    ----------
    path : Path
        The template.
    name : str
        What it is of, for messages.
    settings : SettingsModel
        The settings that ran, as ``cfg`` in the template.
    facts : mapping
        What else the template may ask for.

    Returns
    -------
    str
        Markdown with citations ``[@key]``.

    Raises
    ------
    SettingsError
        If the template asks for something that is not there, or cites an unknown work.
    """
    from jinja2 import Environment, StrictUndefined, TemplateError

    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False
    )
    try:
        text = environment.from_string(path.read_text("utf-8")).render(cfg=settings, **facts)
    except TemplateError as error:
        raise SettingsError(f"{name}/{path.name}: {error}") from None
    unknown = [key for key in cited_keys([text]) if key not in references()]
    if unknown:
        raise SettingsError(
            f"{name}/{path.name} cites {', '.join(unknown)}, not in references.json"
        )
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def cited_keys(texts: Iterable[str]) -> list[str]:
    """Keys of the works that texts cite, in order of their first citation.

    Parameters
    ----------
    texts : iterable of str
        Markdown with citations ``[@key; @other]``.

    Returns
    -------
    list of str
        Each key once.

    Examples
    --------
    >>> cited_keys(["as before [@smith2006; @manjon2013] [@smith2006]"])
    ['smith2006', 'manjon2013']
    """
    found = [
        key
        for text in texts
        for part in re.findall(r"\[(@[^\]]+)\]", text)
        for key in _CITATION.findall(part)
    ]
    return list(dict.fromkeys(found))
