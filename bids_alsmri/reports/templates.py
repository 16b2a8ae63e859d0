"""Templates of the pages."""

from __future__ import annotations

import importlib.resources
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import jinja2


def load_template(name: str, **filters: Callable[..., Any]) -> jinja2.Template:
    """Template of a page, which escapes what it is given and refuses what it is not.

    Parameters
    ----------
    name : str
        File beside this module; it may import others there.
    filters : callable
        By the names that the template has for them.

    Returns
    -------
    jinja2.Template
        To be rendered.

    Raises
    ------
    FileNotFoundError
        If there is no such file.

    Examples
    --------
    >>> load_template("tables.html").module.meanings["higher"]
    'higher in the first group'
    """
    import jinja2

    folder = importlib.resources.files(__package__)
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: folder.joinpath(name).read_text("utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(filters)
    return environment.get_template(name)
