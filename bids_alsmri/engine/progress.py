"""What the user sees while steps run: a live display on a terminal, log lines otherwise."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

log = logging.getLogger(__name__)

# how the names of steps begin that only store or gather what others made
PLUMBING = ("save_", "list_")


class Named(Protocol):
    """Anything with a name, such as a nipype node."""

    name: str


def step_of(node: str, steps: Container[str]) -> str | None:
    """Step that a nipype node belongs to.

    Parameters
    ----------
    node : str
        Name of a node.
    steps : container of str
        Names of all steps.

    Returns
    -------
    str or None
        The step itself, or that whose items the node is one of; None where it is no step's.

    Examples
    --------
    >>> step_of("_fit12", {"fit"}), step_of("fit", {"fit"}), step_of("draw", {"fit"})
    ('fit', 'fit', None)
    """
    if node in steps:
        return node
    # nipype names the parts of a MapNode _name0, _name1 and so on
    for end in range(len(node) - 1, 1, -1):
        if not node[end:].isdigit():
            break
        if node.startswith("_") and node[1:end] in steps:
            return node[1:end]
    return None


@dataclass
class StepTimes:
    """Start and duration of steps, as the plugin tells them.

    Parameters
    ----------
    started : dict
        Clock at the start of each step, in s.
    seconds : dict
        Duration of each finished step, in s; the sum over its items where it has some.
    failed : set of str
        Steps that raised.
    """

    started: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)


class Reporter:
    """Takes the plugin's status calls and shows them.

    Parameters
    ----------
    groups : mapping
        Step name to the scan it belongs to.
    console : rich Console
        Where to draw; log lines are written instead if it is no terminal.
    """

    def __init__(self, groups: Mapping[str, str], console: Console) -> None:
        self.times = StepTimes()
        self._groups = groups
        self._progress: Progress | None = None
        self._tasks: dict[str, Any] = {}
        if console.is_terminal:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[step]}"),
                console=console,
            )
            for scan in dict.fromkeys(groups.values()):
                total = sum(1 for value in groups.values() if value == scan)
                self._tasks[scan] = self._progress.add_task(scan, total=total, step="waiting")

    def __enter__(self) -> Self:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def __call__(self, node: Named, status: str) -> None:
        """Take one status call of a nipype plugin.

        Parameters
        ----------
        node : nipype node
            The step.
        status : str
            ``start``, ``end`` or ``exception``; an ``end`` without a ``start`` is a step that was
            not run, since one before it failed.
        """
        name = step_of(node.name, self._groups)
        if name is None:
            return
        now = time.monotonic()
        started = self.times.started.pop(node.name, None)
        if status == "start":
            self.times.started[node.name] = now
        elif status == "exception":
            self.times.failed.add(name)
        elif started is not None:
            self.times.seconds[name] = self.times.seconds.get(name, 0.0) + now - started
        is_part = name != node.name
        if status == "exception" or not is_part:
            self._show(name, status, was_run=started is not None, is_part=is_part)

    def _show(self, name: str, status: str, *, was_run: bool, is_part: bool) -> None:
        scan = self._groups[name]
        step = name.removeprefix(re.sub(r"\W", "_", scan) + "_")
        if self._progress is not None:
            advance = 0 if status == "start" or is_part else 1
            self._progress.update(self._tasks[scan], advance=advance, step=step)
        elif status == "exception":
            log.error("%s: %s failed", scan, step)
        elif status == "end" and not was_run:
            log.debug("%s: %s not run, since a step before it failed", scan, step)
        elif status == "end" and not step.startswith(PLUMBING):
            log.info("%s: %s done in %.1f s", scan, step, self.times.seconds[name])
