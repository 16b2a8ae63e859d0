"""Runs a workflow on a nipype plugin and tells what became of each scan."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

import nipype.pipeline.engine as pe
from rich.console import Console

from bids_alsmri.bids.sink import sidecar_path, write_text
from bids_alsmri.engine.graph import Graph
from bids_alsmri.engine.plugins import make_plugin, tells_status
from bids_alsmri.engine.progress import Reporter, step_of
from bids_alsmri.engine.slurm import missing_commands
from bids_alsmri.errors import AlsMriError, ExitCode, RunError, SettingsError, StopRequest
from bids_alsmri.interfaces.outputs import SaveDerivative

log = logging.getLogger(__name__)

POLL_SLEEP_S = 0.1
FIGURES = (".svg", ".png")
STOPPING = (signal.SIGINT, signal.SIGTERM)
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


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
    exit_code : ExitCode
        What its first error of our own stands for.
    """

    graph: Graph
    is_done: bool
    errors: tuple[str, ...] = ()
    traces: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    exit_code: ExitCode = ExitCode.SCANS_FAILED

    @property
    def is_disk_full(self) -> bool:
        """Whether a step failed since there was no room to write."""
        return any(os.strerror(code) in error for code in FULL for error in self.errors)


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
        If the file is missing, no mapping, or names no plugin that nipype has.
    """
    import yaml
    from nipype.pipeline import plugins

    try:
        parts = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"--nipype-plugin-file {path}: {error.strerror}") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(
            f"--nipype-plugin-file {path}: no valid YAML or JSON ({error})"
        ) from None
    arguments = parts.get("plugin_args") or {} if isinstance(parts, dict) else None
    if arguments is None or "plugin" not in parts or not isinstance(arguments, dict):
        raise SettingsError(
            f"--nipype-plugin-file {path}: expected a mapping with the key 'plugin' (such as "
            "SLURM or MultiProc) and, if needed, the mapping 'plugin_args'"
        )
    name = str(parts["plugin"])
    known = sorted(n.removesuffix("Plugin") for n in dir(plugins) if n.endswith("Plugin"))
    if name not in known:
        raise SettingsError(
            f"--nipype-plugin-file {path}: nipype has no plugin {name!r}; it has {', '.join(known)}"
        )
    return name, dict(arguments)


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
        # a step with more threads than n_procs runs alone; memory is checked by require_resources
        arguments.setdefault("raise_insufficient", False)
    return plugin, arguments


def new_workflow(
    work_folder: Path, crash_folder: Path, *, stop_on_first_crash: bool, name: str = "steps"
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
    name : str
        Name of the steps' folder in the work folder.

    Returns
    -------
    nipype Workflow
        Takes the nodes of all scans.
    """
    workflow = pe.Workflow(name=name, base_dir=str(work_folder))
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


def require_resources(workflow: pe.Workflow, resources: Resources) -> None:
    """Raise before anything runs where one step needs more than there is.

    Parameters
    ----------
    workflow : nipype Workflow
        The steps.
    resources : Resources
        What they may take.

    Raises
    ------
    SettingsError
        If the plugin file cannot be used, or a command of its scheduler is absent.
    RunError
        If a step needs more memory than `resources` allow, with exit code 64.
    """
    if resources.plugin_file is not None:
        # memory is the scheduler's to give
        name, _ = read_plugin_file(resources.plugin_file)
        missing = missing_commands(name)
        if missing:
            raise SettingsError(
                f"--nipype-plugin-file {resources.plugin_file}: plugin {name} calls "
                f"{', '.join(missing)}, which is not there; run it where jobs are submitted. An "
                "image has no scheduler inside: submit one job per participant (hpc/submit.sh), or "
                "leave the plugin out"
            )
        return
    for node in workflow._graph.nodes():
        if node.mem_gb > resources.memory_gb:
            raise RunError(
                f"step {node.name} needs {node.mem_gb:.1f} GB but {resources.memory_gb:.1f} GB are "
                "allowed; raise --mem-gb or run where there is more memory",
                exit_code=ExitCode.USAGE,
            )


@dataclass(frozen=True)
class Keeper:
    """What is called while scans are under way; a run may end at any moment.

    Parameters
    ----------
    before_saves : callable
        Takes a graph before the first of its files is saved; nothing is saved if it raises.
    when_done : callable
        Takes the outcome of a scan as soon as all its steps have ended well.
    """

    before_saves: Callable[[Graph], None]
    when_done: Callable[[Outcome], None]


class _Watch:
    """Takes the plugin's status calls, and tells a Keeper what they mean for the scans."""

    def __init__(
        self, graphs: Sequence[Graph], reporter: Reporter, keeper: Keeper, crash_folder: Path
    ) -> None:
        self.failed: set[str] = set()
        self._crash_folder, self._old = crash_folder, _crash_files(crash_folder)
        self._told: set[Path] = set()
        self._messages: set[tuple[str, str]] = set()
        self._stopped_by = 0
        self.is_kept = [False] * len(graphs)
        self._before = [_stamps(graph) for graph in graphs]
        self._graphs, self._reporter, self._keeper = graphs, reporter, keeper
        self._left = [{node.name for node in graph.nodes} for graph in graphs]
        self._owner = {name: i for i, names in enumerate(self._left) for name in names}
        self._begun: set[int] = set()
        self._started: set[str] = set()

    def __call__(self, node: Any, status: str) -> None:
        self._reporter(node, status)
        if self._stopped_by:
            raise StopRequest(self._stopped_by)
        if len(self._told) < len(self.failed):
            self.tell_crashes()
        name = step_of(node.name, self._owner)
        if name is None:
            return
        if status == "exception":
            self.failed.add(name)
            self._started.discard(name)
        elif name != node.name:
            return
        elif status == "start":
            self._started.add(name)
            if isinstance(node.interface, SaveDerivative):
                self.begin(self._owner[name])
        elif name in self._started:
            self._end(name)

    @contextlib.contextmanager
    def interrupts(self) -> Iterator[None]:
        """Keep a signal in mind: nipype takes one inside a step for the step's own failure."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def interrupt(number: int, frame: FrameType | None) -> None:
            if self._stopped_by:
                # while workers are being ended; raising there would leave the process hanging
                os._exit(StopRequest(number).exit_code)
            self._stopped_by = number
            raise StopRequest(number)

        earlier = [signal.signal(number, interrupt) for number in STOPPING]
        try:
            yield
        finally:
            for number, handler in zip(STOPPING, earlier, strict=True):
                signal.signal(number, handler)

    def begin(self, index: int) -> None:
        if index not in self._begun:
            self._keeper.before_saves(self._graphs[index])
            self._begun.add(index)

    def tell_crashes(self) -> None:
        """Log why steps failed; nipype writes the crash file before or after its status call."""
        for path in sorted(self.crashes - self._told):
            trace = path.read_text(encoding="utf-8", errors="replace")
            message = _message_of(trace)[0]
            titles = [scan_title(graph) for graph in self._graphs if _concerns(trace, graph)]
            told = (titles[0] if titles else "a step of no scan", message)
            if told not in self._messages:
                log.error("%s: %s", *told)
            self._messages.add(told)
            self._told.add(path)

    @property
    def crashes(self) -> set[Path]:
        """Crash files of this run."""
        return _crash_files(self._crash_folder) - self._old

    def _end(self, name: str) -> None:
        index = self._owner[name]
        self._left[index].discard(name)
        if not self._left[index]:
            try:
                self.keep(index, self.outcome(index, []))
            except AlsMriError as error:
                # it is tried again at the end of the run
                log.debug("%s: %s", scan_title(self._graphs[index]), error)

    def keep(self, index: int, outcome: Outcome) -> None:
        if outcome.is_done and not self.is_kept[index]:
            self._keeper.when_done(outcome)
            self.is_kept[index] = True

    def take_back(self, index: int) -> None:
        """Remove what this run saved of a scan that failed, but for its figures."""
        for path, stamp in _stamps(self._graphs[index]).items():
            is_new = stamp is not None and stamp != self._before[index][path]
            if is_new and path.suffix not in FIGURES:
                path.unlink()
                sidecar_path(path).unlink(missing_ok=True)

    def outcome(self, index: int, crashes: Sequence[str]) -> Outcome:
        seconds = self._reporter.times.seconds
        return _outcome(self._graphs[index], self._before[index], crashes, self.failed, seconds)


def run(
    workflow: pe.Workflow,
    graphs: Sequence[Graph],
    resources: Resources,
    console: Console,
    keeper: Keeper,
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
    keeper : Keeper
        Is told what happens to the scans while it happens.

    Returns
    -------
    list of Outcome
        One per graph, in their order.

    Raises
    ------
    SettingsError
        If the plugin file cannot be used.
    RunError
        If a step needs more memory than there is, or the plugin itself failed.
    """
    require_resources(workflow, resources)
    name, arguments = choose_plugin(resources)
    crash_folder = Path(workflow.config["execution"]["crashdump_dir"])
    groups = {node.name: scan_title(graph) for graph in graphs for node in graph.nodes}
    with Reporter(groups, console) as reporter:
        watch = _Watch(graphs, reporter, keeper, crash_folder)
        plugin = make_plugin(name, arguments, watch)
        if not tells_status(plugin):
            for index in range(len(graphs)):
                watch.begin(index)
        try:
            with watch.interrupts():
                workflow.run(plugin=plugin)
        except Exception as error:  # noqa: BLE001
            # nipype raises one of the steps' errors at the end, of whatever kind; each is told
            # with its scan below
            _raise_if_untold(error, watch.crashes)
            log.debug("nipype ended with %s", error)
    watch.tell_crashes()
    crashes = [p.read_text(encoding="utf-8", errors="replace") for p in sorted(watch.crashes)]
    outcomes = [watch.outcome(index, crashes) for index in range(len(graphs))]
    outcomes = [_with_cause(outcome, outcomes, workflow) for outcome in outcomes]
    for index, outcome in enumerate(outcomes):
        watch.keep(index, outcome)
        if outcome.is_done:
            continue
        watch.take_back(index)
        if not outcome.traces:
            log.error("%s: %s", scan_title(outcome.graph), "; ".join(outcome.errors))
    return outcomes


def _with_cause(outcome: Outcome, others: Sequence[Outcome], workflow: pe.Workflow) -> Outcome:
    if outcome.is_done or outcome.traces:
        return outcome
    before: set[str] = set()
    todo = list(outcome.graph.nodes)
    while todo:
        new = {node for node in workflow._graph.predecessors(todo.pop()) if node.name not in before}
        before.update(node.name for node in new)
        todo.extend(new)
    told = [
        f"not finished, since {scan_title(other.graph)}, which it builds on, failed: {error}"
        for other in others
        if before & {node.name for node in other.graph.nodes}
        for error in other.errors
        if other.traces
    ]
    return replace(outcome, errors=tuple(dict.fromkeys(told)) or outcome.errors)


def _crash_files(folder: Path) -> set[Path]:
    return set(folder.glob("crash-*.txt"))


def _raise_if_untold(error: Exception, crashes: set[Path]) -> None:
    if isinstance(error, OSError) and error.errno in FULL:
        raise RunError(
            f"{error.filename or 'the work folder'}: the disk is full; free space there, or choose "
            "another work folder with -w",
            exit_code=ExitCode.CANNOT_WRITE,
        ) from error
    if isinstance(error, AlsMriError):
        raise error
    if not crashes:
        raise RunError(f"the steps could not be run: {error}") from error


def _stamp(path: Path) -> tuple[int, int] | None:
    # a saved file is a new one under an old name; clocks of file servers cannot be trusted
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def _stamps(graph: Graph) -> dict[Path, tuple[int, int] | None]:
    return {path: _stamp(path) for path in graph.destinations.values()}


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
    graph: Graph,
    before: Mapping[Path, tuple[int, int] | None],
    crashes: Sequence[str],
    failed: Set[str],
    seconds: Mapping[str, float],
) -> Outcome:
    names = {node.name for node in graph.nodes}
    stamps = _stamps(graph)
    is_saved = all(stamp is not None and stamp != before[path] for path, stamp in stamps.items())
    traces = [trace for trace in crashes if _concerns(trace, graph)]
    is_done = is_saved and not traces and not names & failed
    told = [_message_of(trace) for trace in traces]
    errors = [message for message, _ in told]
    codes = [code for _, code in told if code is not ExitCode.SCANS_FAILED]
    if not is_done and not errors:
        errors = ["not all of its steps were run"]
    own = {name: round(value, 2) for name, value in seconds.items() if name in names}
    code = ExitCode.DONE if is_done else (*codes, ExitCode.SCANS_FAILED)[0]
    return Outcome(graph, is_done, tuple(errors), tuple(traces), own, code)


def _message_of(trace: str) -> tuple[str, ExitCode]:
    message, code = _parted(summary_of(trace))
    return _with_remedy(message), code


def _parted(message: str) -> tuple[str, ExitCode]:
    # the last note of our own errors, see interfaces/node.py
    found = re.search(r" exit code (\d+)$", message)
    if found is None or int(found[1]) not in list(ExitCode):
        return message, ExitCode.SCANS_FAILED
    return message[: found.start()], ExitCode(int(found[1]))


def _concerns(trace: str, graph: Graph) -> bool:
    names = {node.name for node in graph.nodes}
    node = re.search(r"^Node: (?:\S+\.)?(\w+)$", trace, re.MULTILINE)
    return node is not None and step_of(node[1], names) is not None


def _with_remedy(message: str) -> str:
    # errors of our own end with one; those of libraries know neither folder nor remedy
    is_bare = re.match(r"OSError: \[Errno", message) is not None
    if is_bare and any(os.strerror(code) in message for code in FULL):
        return f"{message}; free space in the work folder, or choose another with -w"
    return message


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

    Notes
    -----
    nipype puts the trace of the interface, indented by a tab, into that of the node, and may
    add that it found no file of results. The deepest trace tells what happened.
    """
    text = re.split(r"\n\s*(?:When|During the) creati(?:ng|on of) this crashfile", trace)[0]
    deepest = text.rpartition("Traceback (most recent call last):\n")[2].splitlines()
    margin = min((_indent(line) for line in deepest if line.strip()), default=0)
    # frames are indented below the margin, the error stands at it
    start = next(
        (i for i, line in enumerate(deepest) if line.strip() and _indent(line) == margin), 0
    )
    message = " ".join(line.strip() for line in deepest[start:] if line.strip())
    return re.sub(r"^bids_alsmri\.errors\.\w+: ", "", message)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


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
    write_text(path, json.dumps(parts, indent=1, sort_keys=True) + "\n")
