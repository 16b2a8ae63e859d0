"""The Boutiques descriptor, made from the settings."""

from __future__ import annotations

from typing import Any

from bids_alsmri.cli import DESCRIPTION, POSITIONALS, pipeline_options, run_options
from bids_alsmri.errors import ExitCode
from bids_alsmri.options import Option, boutiques_inputs
from bids_alsmri.settings import LEVELS
from bids_alsmri.version import VERSION

EXIT_TEXTS = {
    ExitCode.SCANS_FAILED: "Some scans failed; the others are done.",
    ExitCode.INVALID_BIDS: "The dataset is not valid BIDS.",
    ExitCode.UNKNOWN_LEVEL: "The analysis level is unknown.",
    ExitCode.NOTHING_MATCHED: "Labels or filters match nothing.",
    ExitCode.USAGE: "The call is wrong.",
    ExitCode.BAD_DATA: "The data cannot be used.",
    ExitCode.NO_INPUT: "The input is absent, not fetched, or holds no usable scan.",
    ExitCode.CANNOT_WRITE: "The output cannot be written.",
}


def make_descriptor() -> dict[str, Any]:
    """Boutiques descriptor of the app, schema version 0.5.

    Returns
    -------
    dict
        JSON object with one input per positional argument and per setting.

    Examples
    --------
    >>> make_descriptor()["name"]
    'bids_alsmri'
    """
    flags: list[Option] = run_options()
    for options in pipeline_options().values():
        flags += options
    inputs = [_positional(name) for name in POSITIONALS]
    # Boutiques' rules for BIDS apps want the output folder as a name and as a file
    is_folder = {"id": "output_dir_folder", "name": "output dir folder", "type": "File"}
    inputs.append({**_positional("output_dir"), **is_folder, "optional": True})
    inputs += [entry for option in flags for entry in boutiques_inputs(option)]
    keys = " ".join(dict.fromkeys(str(entry["value-key"]) for entry in inputs))
    return {
        "name": "bids_alsmri",
        "description": DESCRIPTION,
        "tool-version": VERSION,
        "schema-version": "0.5",
        "author": "The bids_alsmri developers",
        "command-line": f"mkdir -p [OUTPUT_DIR]; bids_alsmri {keys}",
        "inputs": inputs,
        "groups": [
            {
                "id": "output_dir_group",
                "name": "Output folder",
                "members": ["output_dir", "output_dir_folder"],
                "mutually-exclusive": True,
                "one-is-required": True,
            }
        ],
        "output-files": [
            {
                "id": "results",
                "name": "Derivatives",
                "description": "Folder with maps, tables, figures and reports.",
                "path-template": "[OUTPUT_DIR]",
                "optional": False,
            }
        ],
        "error-codes": [{"code": int(c), "description": text} for c, text in EXIT_TEXTS.items()],
        "suggested-resources": {"cpu-cores": 2, "ram": 4, "walltime-estimate": 1800},
        "tags": {"domain": ["neuroinformatics", "bids-app"]},
    }


def _positional(name: str) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "id": name,
        "name": name.replace("_", " "),
        "description": POSITIONALS[name],
        "type": "String",
        "optional": name == "output_dir",
        "value-key": f"[{name.upper()}]",
    }
    if name == "bids_dir":
        entry["type"] = "File"
    if name == "analysis_level":
        entry["value-choices"] = list(LEVELS)
    return entry
