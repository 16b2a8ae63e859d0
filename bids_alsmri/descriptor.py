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
# for bosh test, in a folder that holds a dataset called raw
TESTS = [
    {
        "name": "plan of a dataset",
        "invocation": {
            "bids_dir": "raw",
            "output_dir": "planned",
            "analysis_level": "participant",
            "plan": True,
        },
        "assertions": {"exit-code": int(ExitCode.DONE)},
    },
    {
        "name": "participant that is not there",
        "invocation": {
            "bids_dir": "raw",
            "output_dir": "none",
            "analysis_level": "participant",
            "participant_label": ["nobody"],
        },
        "assertions": {"exit-code": int(ExitCode.NOTHING_MATCHED)},
    },
]


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
    # Boutiques' rules for BIDS apps want the output folder as a name and as a file, of which only
    # the name is there before the run
    is_folder = {"id": "output_dir_folder", "name": "output dir folder", "type": "File"}
    unused = {"description": "Not used; give output_dir.", "optional": True}
    inputs.append({**_positional("output_dir"), **is_folder, **unused})
    inputs += [entry for option in flags for entry in boutiques_inputs(option)]
    keys = " ".join(dict.fromkeys(str(entry["value-key"]) for entry in inputs))
    return {
        "name": "bids_alsmri",
        "description": DESCRIPTION,
        "tool-version": VERSION,
        "schema-version": "0.5",
        "author": "The bids_alsmri developers",
        "command-line": f"mkdir -p [OUTPUT_DIR]; bids_alsmri {keys}",
        "container-image": {"type": "docker", "image": f"bids_alsmri:{VERSION}"},
        "inputs": inputs,
        # where two inputs share a key, Boutiques' check fails without any group
        "groups": [{"id": "unused", "name": "Not used", "members": ["output_dir_folder"]}],
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
        "tests": TESTS,
        "tags": {"domain": ["neuroinformatics", "bids-app"]},
    }


def _positional(name: str) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "id": name,
        "name": name.replace("_", " "),
        "description": POSITIONALS[name],
        "type": "String",
        "optional": False,
        "value-key": f"[{name.upper()}]",
    }
    if name == "bids_dir":
        entry["type"] = "File"
    if name == "analysis_level":
        entry["value-choices"] = list(LEVELS)
    return entry
