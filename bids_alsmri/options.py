"""Settings fields and what is made of them: command line, Boutiques entries, help, JSON.

A setting is a field of a frozen pydantic model, declared once with :func:`setting`. Nothing
else repeats its default, unit, range, help or source.
"""

from __future__ import annotations

import argparse
import os
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from bids_alsmri.errors import SettingsError

Mode = Literal["best", "paper"]
Stage = Literal["fit", "apply", "run"]


class SettingsModel(BaseModel):
    """Base of all settings: frozen, unknown names refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


_KIND_WORDS: Mapping[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    Path: "a path",
    dict: "NAME=PATH",
}


class _Same:
    """Marks a setting whose value is the same in both modes."""


def setting(
    default: Any,
    *,
    help: str,
    unit: str = "",
    source: str = "",
    paper: Any = _Same,
    paper_source: str = "",
    stage: Stage = "fit",
    flags: tuple[str, ...] = (),
    gt: float | None = None,
    ge: float | None = None,
    le: float | None = None,
) -> Any:
    """Field of a settings model that carries all that is known of the setting.

    Parameters
    ----------
    default : object
        Value in the mode ``best``.
    help : str
        One sentence for the user; unit, default and range are added to it.
    unit : str
        Unit of the value, ``1`` for pure numbers, empty for names and switches.
    source, paper_source : str
        Keys in ``references.bib``, or a phrase, that say where the values come from.
    paper : object, optional
        Value in the mode ``paper``, where it differs.
    stage : {'fit', 'apply', 'run'}
        What is done again when the value changes: the estimation, only the resampling and
        tables, or nothing.
    flags : tuple of str
        Command line spellings beside the one that is made from the name.
    gt, ge, le : float, optional
        Allowed range.

    Returns
    -------
    object
        A pydantic field.

    Examples
    --------
    >>> class Example(SettingsModel):
    ...     patch_radius: int = setting(2, help="Radius of the patch.", unit="voxel", ge=1)
    >>> Example().patch_radius
    2
    """
    extra: dict[str, Any] = {
        "unit": unit,
        "source": source,
        "stage": stage,
        "flags": list(flags),
    }
    if paper is not _Same:
        extra["paper"] = paper
        extra["paper_source"] = paper_source
    return Field(default, description=help, json_schema_extra=extra, gt=gt, ge=ge, le=le)


@dataclass(frozen=True)
class Option:
    """One setting as the command line, the descriptor and the documents show it."""

    name: str
    flags: tuple[str, ...]
    kind: type
    is_list: bool
    choices: tuple[str, ...]
    default: Any
    has_paper_value: bool
    paper: Any
    unit: str
    source: str
    paper_source: str
    stage: Stage
    help: str
    low: float | None
    high: float | None
    low_is_open: bool
    group: str

    @property
    def range_text(self) -> str:
        """The allowed range in words, empty where there is none."""
        if self.low is not None and self.high is not None:
            return f"{'above ' if self.low_is_open else ''}{self.low:g} to {self.high:g}"
        if self.low is not None:
            return f"{'above' if self.low_is_open else 'at least'} {self.low:g}"
        return f"at most {self.high:g}" if self.high is not None else ""

    @property
    def long_help(self) -> str:
        """Help with unit, range, default and the paper's value."""
        notes = []
        if self.unit not in ("", "1"):
            notes.append(f"in {self.unit}")
        if self.range_text:
            notes.append(self.range_text)
        is_said = self.default is False and not self.has_paper_value
        if not (is_said or self.default is None or self.default in ((), {})):
            notes.append(f"default {_spell(self.default)}")
        if self.has_paper_value:
            notes.append(f"in paper mode {_spell(self.paper)}")
        return f"{self.help} ({'; '.join(notes)})" if notes else self.help


def _spell(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple | list):
        return " ".join(str(item) for item in value)
    return "none" if value is None else str(value)


def _bounds(field: FieldInfo) -> tuple[float | None, float | None, bool]:
    low: float | None = None
    high: float | None = None
    low_is_open = False
    for rule in field.metadata:
        if getattr(rule, "gt", None) is not None:
            low, low_is_open = rule.gt, True
        if getattr(rule, "ge", None) is not None:
            low = rule.ge
        if getattr(rule, "le", None) is not None:
            high = rule.le
    return low, high, low_is_open


def _kind(annotation: Any) -> tuple[type, bool, tuple[str, ...]]:
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        inner = [a for a in get_args(annotation) if a is not type(None)]
        return _kind(inner[0])
    if origin is Literal:
        return str, False, tuple(get_args(annotation))
    if origin is tuple:
        return _kind(get_args(annotation)[0])[0], True, ()
    if origin in (dict, Mapping) or annotation is dict:
        return dict, True, ()
    return annotation, False, ()


def options_of(model: type[SettingsModel], *, prefix: str = "", group: str = "") -> list[Option]:
    """Options that a settings model declares, in its order.

    Parameters
    ----------
    model : type
        A settings model; fields without :func:`setting`'s description are left out.
    prefix : str
        What stands before each name on the command line, such as ``diffusion``.
    group : str
        Heading under which the help lists them.

    Returns
    -------
    list of Option
        One for each field.
    """
    return [
        _option(name, field, prefix, group)
        for name, field in model.model_fields.items()
        if field.description is not None
    ]


def _option(name: str, field: FieldInfo, prefix: str, group: str) -> Option:
    extra: dict[str, Any] = dict(field.json_schema_extra or {})  # type: ignore[arg-type]
    kind, is_list, choices = _kind(field.annotation)
    low, high, low_is_open = _bounds(field)
    spelled = "-".join(part for part in (prefix, name.replace("_", "-")) if part)
    return Option(
        name=name,
        flags=(f"--{spelled}", *extra["flags"]),
        kind=kind,
        is_list=is_list,
        choices=choices,
        default=field.get_default(call_default_factory=True),
        has_paper_value="paper" in extra,
        paper=extra.get("paper"),
        unit=extra["unit"],
        source=extra["source"],
        paper_source=extra.get("paper_source", ""),
        stage=extra["stage"],
        help=field.description or "",
        low=low,
        high=high,
        low_is_open=low_is_open,
        group=group,
    )


def add_to_parser(parser: argparse._ActionsContainer, option: Option, *, dest: str) -> None:
    """Give a parser the flags of one option; only what the user gives will be in the result.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        Parser or argument group that takes the flags.
    option : Option
        The option.
    dest : str
        Name of the value in the parsed result.
    """
    flags = sorted(option.flags, key=len)
    text = option.long_help.replace("%", "%%")
    if option.kind is bool:
        parser.add_argument(
            *flags,
            dest=dest,
            help=text,
            action=argparse.BooleanOptionalAction,
            default=argparse.SUPPRESS,
        )
        return
    types_: dict[type, Any] = {dict: str, Path: absolute_path}
    parser.add_argument(
        *flags,
        dest=dest,
        help=text,
        default=argparse.SUPPRESS,
        # labels and names add up over several flags; of numbers the last flag counts
        action="extend" if option.is_list and option.kind in (str, dict) else "store",
        type=types_.get(option.kind, option.kind),
        nargs="+" if option.is_list else None,
        choices=list(option.choices) or None,
        metavar=None if option.choices else option.name.upper(),
    )


def absolute_path(text: str) -> Path:
    """Path that means the same from any folder, so that a settings file repeats a run.

    Parameters
    ----------
    text : str
        As the user gave it; ``~`` stands for the home folder.

    Returns
    -------
    Path
        Absolute, links kept.

    Examples
    --------
    >>> absolute_path("/data/../data2")
    PosixPath('/data2')
    """
    return Path(os.path.abspath(os.path.expanduser(text)))


def resolve(
    model: type[SettingsModel], mode: Mode, given: Mapping[str, Any], *, prefix: str = ""
) -> SettingsModel:
    """Frozen settings from what was given, else the mode's values, else the defaults.

    Parameters
    ----------
    model : type
        Settings model.
    mode : {'best', 'paper'}
        In ``paper`` a setting that declares a paper value takes it.
    given : mapping
        Values by flag or file; they win over both.
    prefix : str
        What stands before the names on the command line, for messages.

    Returns
    -------
    SettingsModel
        The checked, frozen settings.

    Raises
    ------
    SettingsError
        If a value has the wrong type, lies outside its range, or its name is unknown.
    """
    values: dict[str, Any] = {}
    if mode == "paper":
        values.update({o.name: o.paper for o in options_of(model) if o.has_paper_value})
    values.update(given)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise SettingsError("; ".join(_explain(error, model, prefix))) from None


def _explain(error: ValidationError, model: type[SettingsModel], prefix: str) -> Iterator[str]:
    known = {option.name: option for option in options_of(model, prefix=prefix)}
    for item in error.errors():
        name = str(item["loc"][0]) if item["loc"] else ""
        option = known.get(name)
        if option is None:
            close = ", ".join(sorted(known)) or "none"
            yield f"{name}: {item['msg']}; the settings here are {close}"
            continue
        must = option.range_text or ", ".join(option.choices) or _KIND_WORDS[option.kind]
        unit = f" {option.unit}" if option.unit not in ("", "1") else ""
        yield f"{option.flags[0]} is {item['input']!r}; it must be {must}{unit} ({item['msg']})"


def boutiques_inputs(option: Option) -> list[dict[str, Any]]:
    """Entries of an option among the inputs of a Boutiques descriptor.

    Parameters
    ----------
    option : Option
        The option.

    Returns
    -------
    list of dict
        Items of ``inputs``, schema version 0.5: one, or two for a switch that is on in one mode
        only, since a Boutiques flag cannot switch off.
    """
    if option.kind is not bool:
        return [_boutiques_input(option)]
    states = {option.default, option.paper} if option.has_paper_value else {option.default}
    entries = [_boutiques_input(option)] if False in states else []
    return entries + ([_boutiques_input(_negated(option))] if True in states else [])


def _negated(option: Option) -> Option:
    flag = "--no-" + option.flags[0].removeprefix("--")
    return replace(option, flags=(flag,), name=f"no {option.name}", help=f"Off: {option.help}")


def _boutiques_input(option: Option) -> dict[str, Any]:
    identifier = option.flags[0].lstrip("-").replace("-", "_")
    kinds = {bool: "Flag", int: "Number", float: "Number", Path: "File"}
    entry: dict[str, Any] = {
        "id": identifier,
        "name": option.name.replace("_", " "),
        "description": option.long_help,
        "type": kinds.get(option.kind, "String"),
        "optional": True,
        "command-line-flag": option.flags[0],
        "value-key": f"[{identifier.upper()}]",
    }
    if option.is_list:
        entry["list"] = True
    if option.choices:
        entry["value-choices"] = list(option.choices)
    if entry["type"] == "Number":
        entry["integer"] = option.kind is int
        entry.update(_boutiques_range(option))
    return entry


def _boutiques_range(option: Option) -> dict[str, Any]:
    limits: dict[str, Any] = {}
    if option.low is not None:
        limits["minimum"] = option.low
        if option.low_is_open:
            limits["exclusive-minimum"] = True
    if option.high is not None:
        limits["maximum"] = option.high
    return limits
