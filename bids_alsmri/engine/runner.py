"""Runs a workflow on a nipype plugin and tells what became of each scan."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nipype.pipeline.engine as pe
from rich.console import Console

from bids_alsmri.engine.graph import Graph
from bids_alsmri.engine.progress import Reporter
from bids_alsmri.errors import RunError, SettingsError

log = logging.getLogger(__name__)

POLL_SLEEP_S = 0.1


@dataclass(frozen=True)
class Outcome:
    """What became of one scan.

    Parameters
    ----------
    graph : Graph
        Its part of the workflow.
    is_done : bool
        Whether all its outputs were saved in this run.
    errors : tuple of str
        Messages of the steps that failed.
    traces : tuple of str
        Their full traces, for the report.
    seconds : dict
        Duration of each step, in s.
    """

    graph: Graph
    is_done: bool
    errors: tuple[str, ...] = ()
    traces: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Resources:
    """What the steps may take.

    Parameters
    ----------
    n_procs : int
        Processes at a time.
    memory_gb : float
        Memory of all steps together, in GB.
    plugin_file : Path or None
        File with a nipype plugin and its arguments, in place of the own choice.
    stop_on_first_crash : bool
        Whether the first failed step ends the run.
    """

    n_procs: int
    memory_gb: float
    plugin_file: Path | None
    stop_on_first_crash: bool


def read_plugin_file(path: Path) -> tuple[str, dict[str, Any]]:
    """Name and arguments of the plugin that a file asks for.

    Parameters
    ----------
    path : Path
        JSON or YAML with the keys ``plugin`` and ``plugin_args``.

    Returns
    -------
    plugin : str
        Name, such as ``SLURM``.
    arguments : dict
        Its arguments.

    Raises
    ------
    SettingsError
        If the file is missing, no mapping, or names no plugin.
    """
    import yaml

    try:
        parts = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"--nipype-plugin-file {path}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise SettingsError(
            f"--nipype-plugin-file {path}: no valid YAML or JSON ({error})"
        ) from None
    if not isinstance(parts, dict) or "plugin" not in parts:
        raise SettingsError(
            f"--nipype-plugin-file {path}: expected a mapping with the key 'plugin' (such as "
            "SLURM or MultiProc) and, if needed, 'plugin_args'"
        )
    return str(parts["plugin"]), dict(parts.get("plugin_args") or {})


def choose_plugin(resources: Resources) -> tuple[str, dict[str, Any]]:
    """Plugin and arguments for the resources at hand.

    Parameters
    ----------
    resources : Resources
        What the steps may take.

    Returns
    -------
    plugin : str
        ``Linear`` for one process, else ``MultiProc``, else what the file says.
    arguments : dict
        Arguments of the plugin.
    """
    if resources.plugin_file is not None:
        plugin, arguments = read_plugin_file(resources.plugin_file)
    elif resources.n_procs == 1:
        plugin, arguments = "Linear", {}
    else:
        plugin, arguments = "MultiProc", {}
    if plugin == "MultiProc":
        # a fork after numba or ITK have started threads can hang
        arguments.setdefault("mp_context", "forkserver")
        arguments.setdefault("n_procs", resources.n_procs)
        arguments.setdefault("memory_gb", resources.memory_gb)
    return plugin, arguments


def new_workflow(
    work_folder: Path, crash_folder: Path, *, stop_on_first_crash: bool
) -> pe.Workflow:
    """Empty workflow with the app's fixed configuration.

    Parameters
    ----------
    work_folder : Path
        Folder of intermediate results.
    crash_folder : Path
        Folder of crash files.
    stop_on_first_crash : bool
        Whether the first failed step ends the run.

    Returns
    -------
    nipype Workflow
        Takes the nodes of all scans.
    """
    workflow = pe.Workflow(name="steps", base_dir=str(work_folder))
    workflow.config["execution"] = {
        "stop_on_first_crash": str(stop_on_first_crash).lower(),
        "crashdump_dir": str(crash_folder),
        "crashfile_format": "txt",
        "poll_sleep_duration": str(POLL_SLEEP_S),
        "hash_method": "content",
        "create_report": "false",
        "check_version": "false",
        "remove_unnecessary_outputs": "false",
        "use_relative_paths": "false",
    }
    return workflow


def require_memory(workflow: pe.Workflow, resources: Resources) -> None:
    """Raise before anything runs where one step needs more than there is.

    Parameters
    ----------
    workflow : nipype Workflow
        The steps.
    resources : Resources
        What they may take.

    Raises
    ------
    RunError
        If a step needs more memory than `resources` allow.
    """
    if resources.plugin_file is not None:
        return
    for node in workflow._graph.nodes():
        if node.mem_gb > resources.memory_gb:
            raise RunError(
                f"step {node.name} needs {node.mem_gb:.1f} GB but {resources.memory_gb:.1f} GB are "
                "allowed; raise --mem-gb or run where there is more memory"
            )


def run(
    workflow: pe.Workflow, graphs: Sequence[Graph], resources: Resources, console: Console
) -> list[Outcome]:
    """Run all steps and tell what became of each scan.

    Parameters
    ----------
    workflow : nipype Workflow
        The steps of all scans.
    graphs : sequence of Graph
        The scans' parts of it.
    resources : Resources
        What the steps may take.
    console : rich Console
        Where progress is shown.

    Returns
    -------
    list of Outcome
        One per graph, in their order.

    Raises
    ------
    RunError
        If a step needs more memory than there is.
    """
    require_memory(workflow, resources)
    plugin, arguments = choose_plugin(resources)
    groups = {node.name: scan_title(graph) for graph in graphs for node in graph.nodes}
    start_ns = time.time_ns()
    with Reporter(groups, console) as reporter:
        if plugin in ("Linear", "MultiProc"):
            arguments["status_callback"] = reporter
        try:
            workflow.run(plugin=plugin, plugin_args=arguments)
        except RuntimeError as error:
            # nipype raises one of the steps' errors at the end; each is told with its scan below
            log.debug("nipype ended with %s", error)
    crash_folder = Path(workflow.config["execution"]["crashdump_dir"])
    return [_outcome(graph, start_ns, crash_folder, reporter.times.seconds) for graph in graphs]


def scan_title(graph: Graph) -> str:
    """Scan and pipeline in one label.

    Parameters
    ----------
    graph : Graph
        A scan's part of the workflow.

    Returns
    -------
    str
        Such as ``sub-01_dir-AP diffusion``.
    """
    return f"{graph.scan.label} {graph.scan.pipeline}"


def _outcome(
    graph: Graph, start_ns: int, crash_folder: Path, seconds: Mapping[str, float]
) -> Outcome:
    names = {node.name for node in graph.nodes}
    saved = [p for p in graph.destinations.values() if p.is_file()]
    is_done = len(saved) == len(graph.destinations) and all(
        path.stat().st_mtime_ns >= start_ns for path in saved
    )
    traces = [] if is_done else _crashes(crash_folder, names, start_ns)
    errors = [summary_of(trace) for trace in traces]
    if not is_done and not errors:
        errors = ["a step that it builds on failed or was never run; see the other scans"]
    own = {name: round(value, 2) for name, value in seconds.items() if name in names}
    return Outcome(graph, is_done, tuple(errors), tuple(traces), own)


def _crashes(folder: Path, names: set[str], start_ns: int) -> list[str]:
    found = []
    for path in sorted(folder.glob("crash-*.txt")):
        if path.stat().st_mtime_ns >= start_ns:
            text = path.read_text(encoding="utf-8", errors="replace")
            node = re.search(r"^Node: (?:\S+\.)?(\w+)$", text, re.MULTILINE)
            if node and any(node[1].lstrip("_").startswith(name) for name in names):
                found.append(text)
    return found


def summary_of(trace: str) -> str:
    """Message of the error that ended a step, without the trace.

    Parameters
    ----------
    trace : str
        Text of a nipype crash file.

    Returns
    -------
    str
        The last error's text with its notes, on one line.
    """
    lines = [line.strip() for line in trace.strip().splitlines()]
    start = max(
        (i for i, line in enumerate(lines) if re.match(r"[\w.]+(Error|Exception)\b", line)),
        default=len(lines) - 1,
    )
    text = " ".join(line for line in lines[start:] if line)
    return re.sub(r"^bids_alsmri\.errors\.\w+: ", "", text)


def write_timing(path: Path, outcomes: Sequence[Outcome]) -> None:
    """Write the duration of every step.

    Parameters
    ----------
    path : Path
        JSON file to write.
    outcomes : sequence of Outcome
        What the run gave.
    """
    parts = {scan_title(o.graph): dict(o.seconds) for o in outcomes}
    path.write_text(json.dumps(parts, indent=1, sort_keys=True) + "\n", encoding="utf-8")
